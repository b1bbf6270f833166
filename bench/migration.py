"""`migration_lost`: packets lost in one overlapped migration in `paper`, under traffic both ways.

The same traffic without a move comes first; where that loses already, the rate is halved, and where
even 1,250 packets/s are too many nothing is measured.  The hypervisor of the lab is emulated.
"""

from __future__ import annotations

from pathlib import Path

from bench.open_vswitch import BenchError
from bench.results import Found, Row
from lab import judge
from lab.probe import TooBusyError
from lab.soak import SoakOptions, soak
from xenflow.model.network import NetworkError

RATES_PPS = (5000.0, 2500.0, 1250.0)


def migration_lost(directory: Path, quick: bool) -> Found:
    """See the module."""
    busy = ""
    for rate_pps in RATES_PPS:
        try:
            outcome = soak(
                SoakOptions("paper", 1, rate_pps, baseline_s=3.0 if quick else 10.0), directory
            )
        except TooBusyError as error:
            busy = f"{rate_pps:g} packets/s: {error}"
            continue
        except NetworkError as error:
            raise BenchError(str(error)) from None
        total = judge.total(list(outcome.directions().values()))
        return Found(
            [Row("migration_lost", total.lost, "packets")],
            {
                "migration_lost": outcome.json(),
            },
        )
    raise BenchError(f"the machine is too busy, without any migration: {busy}")
