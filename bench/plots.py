"""Draws docs/figures/sweep.csv: `sweep_routes`, `sweep_routers`, `sweep_switches`, as PNG.

    python -m bench.plots

Called by `scripts/bench --sweep`; drawing again from the file needs no measurement.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.sweep import FIGURES

WIDTH, HEIGHT = 9.0, 3.4
Line = tuple[str, str, float]
"""(column, label, factor)."""

_TITLES = {
    "routes": "routes",
    "routers": "routers (64,000 routes in all)",
    "switches": "switches (64,000 routes in all)",
}
_PANELS: tuple[tuple[str, Sequence[Line]], ...] = (
    ("until confirmed, s", (("seconds", "XenFlow", 1), ("raw_s", "raw, prepacked", 1))),
    ("one changed route, ms", (("change_p50_s", "median", 1e3), ("change_p99_s", "p99", 1e3))),
    (
        "CPU, µs a route",
        (
            ("controller_cpu_us_a_route", "controller", 1),
            ("switch_cpu_us_a_route", "switch", 1),
        ),
    ),
)


def draw(folder: Path = FIGURES) -> list[Path]:
    """Draw all figures from the file in the folder; which files were written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    written = []
    for name, title in _TITLES.items():
        points = [row for row in rows if row["sweep"] == name]
        if not points:
            continue
        figure, axes = pyplot.subplots(1, len(_PANELS), figsize=(WIDTH, HEIGHT))
        for axis, (label, lines) in zip(axes, _PANELS, strict=True):
            _panel(axis, points, name, label, lines)
            axis.set_xlabel(title)
        figure.tight_layout()
        written.append(folder / f"sweep_{name}.png")
        figure.savefig(written[-1], dpi=120)
        pyplot.close(figure)
    return written


def _panel(
    axis: Any, points: Sequence[dict[str, str]], by: str, label: str, lines: Sequence[Line]
) -> None:
    places = [int(point[by]) for point in points]
    for column, name, factor in lines:
        values = [float(point[column]) * factor for point in points]
        if not all(value != value for value in values):  # not a number: not measured here
            axis.plot(places, values, marker="o", label=name)
    axis.set_xscale("log", base=10 if by == "routes" else 2)
    if by == "routes" and label.startswith("until"):
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.set_title(label, fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


if __name__ == "__main__":
    for path in draw():
        print(path, file=sys.stderr)
