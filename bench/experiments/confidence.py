"""Mean and 95 % confidence interval of a few runs, by Student's t distribution.

Ten runs are few: the normal distribution would make the interval a sixth too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

_T_975 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
    2.080,
    2.074,
    2.069,
    2.064,
    2.060,
    2.056,
    2.052,
    2.048,
    2.045,
    2.042,
)
"""The distribution's 0.975 quantile for 1 to 30 degrees of freedom (any table of it)."""
_T_975_BEYOND = ((40, 2.021), (60, 2.000), (120, 1.980))


def t_975(freedom: int) -> float:
    """The 0.975 quantile; between two lines of the table that of fewer degrees of freedom, which
    makes an interval rather too wide.

    Raises ValueError below 1.
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom")
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    return min((t for least, t in _T_975_BEYOND if least <= freedom), default=_T_975[-1])


@dataclass(frozen=True, slots=True)
class Estimate:
    """What some runs say of a quantity.

    half  half of the 95 % confidence interval's width; None of a single run
    """

    runs: int
    mean: float
    half: float | None
    least: float
    most: float

    def text(self, digits: int = 2) -> str:
        """For a table: `1.23 ± 0.04`."""
        if self.half is None:
            return f"{self.mean:,.{digits}f} (one run)"
        return f"{self.mean:,.{digits}f} ± {self.half:,.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of at least one value."""
    count = len(values)
    half = t_975(count - 1) * stdev(values) / math.sqrt(count) if count > 1 else None
    return Estimate(count, fmean(values), half, min(values), max(values))
