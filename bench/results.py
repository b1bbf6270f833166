"""What a measurement yields: rows for the table and results.json, sweeps apart.

Read by whoever compares two runs, so names and units are never changed in passing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

OUT = Path(__file__).resolve().parent / "out"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure; `ratio` is value / baseline_value, None where nothing is compared."""

    name: str
    value: float
    unit: str
    baseline: str | None = None
    baseline_value: float | None = None
    ratio: float | None = None

    @classmethod
    def against(
        cls, name: str, values: Sequence[float], unit: str, baseline: str, limits: Sequence[float]
    ) -> Row:
        """The medians of two interleaved series, and their ratio."""
        value, limit = median(values), median(limits)
        return cls(name, round(value, 6), unit, baseline, round(limit, 6), round(value / limit, 3))


@dataclass(slots=True)
class Found:
    """All that one measurement yields: rows, and what else it saw, under its own name."""

    rows: list[Row]
    sweep: dict[str, Any]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def forget() -> None:
    """Remove what an earlier run has left: a whole run begins."""
    for name in ("results", "sweeps"):
        (OUT / f"{name}.json").unlink(missing_ok=True)


def write(rows: Sequence[Row], sweeps: dict[str, Any]) -> None:
    """Write `bench/out/results.json` and `bench/out/sweeps.json`; what they hold of other names
    stays.  Called after each measurement, so that a run that is ended early has said something."""
    OUT.mkdir(exist_ok=True)
    kept = {row["name"]: row for row in _read("results", [])}
    kept |= {row.name: asdict(row) for row in rows}
    seen = _read("sweeps", {}) | sweeps
    for name, value in (("results", list(kept.values())), ("sweeps", seen)):
        (OUT / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")


def _read(name: str, otherwise: Any) -> Any:
    try:
        return json.loads((OUT / f"{name}.json").read_text())
    except (OSError, ValueError):
        return otherwise


def table(rows: Sequence[Row]) -> str:
    """The rows for a person."""
    cells = [("name", "value", "unit", "ratio", "baseline")]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        beside = ""
        if row.baseline_value is not None:
            beside = f"{_number(row.baseline_value)} {row.baseline}"
        cells.append((row.name, _number(row.value), row.unit, ratio, beside))
    widths = [max(len(line[i]) for line in cells) for i in range(5)]
    return "\n".join(
        f"{name:<{widths[0]}}  {value:>{widths[1]}} {unit:<{widths[2]}}  {ratio:>{widths[3]}}"
        f"  {beside}".rstrip()
        for name, value, unit, ratio, beside in cells
    )


def _number(value: float) -> str:
    if value >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3f}" if value >= 0.1 else f"{value:.6f}"
