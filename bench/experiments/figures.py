"""The figures: each a .png and a .csv, drawn from the rows and nothing else.

5.2 to 5.4 have two parts as in the report, (a) packets of 64 bytes and (b) of 1500; what iperf sent
and tcpdump counted stands beside the probe's, hollow.  Curves are drawn a little aside of the rate.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import matplotlib

from bench.experiments.confidence import Estimate, estimate
from bench.experiments.points import BACKENDS, DESIGNS, LIMIT, MODES, TRAFFICS
from bench.experiments.store import MeasuredRun

matplotlib.use("Agg")
from matplotlib import pyplot

NAMES = {
    "native": "native: the VM forwards",
    "domain0": "plane separation: Domain 0's kernel forwards",
    "xenflow": "XenFlow: the switch forwards",
}
DESIGN_NAMES = {
    "host": "(a)\nhost's\nkernel",
    "vm": "(b)\nVM\nforwards",
    "domain0": "(c)\nDomain 0's\nkernel",
    "xenflow": "(d)\nXenFlow\n(user space)",
    LIMIT: "no\nrouter",
}
_COLOURS = {"native": "#cc0000", "domain0": "#e69138", "xenflow": "#0b5394"}
_MARKS = {"native": "o", "domain0": "^", "xenflow": "s"}
_BESIDE = 0.012
"""Of the axis: points of one rate stand side by side, so that none hides another's interval."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the report's figures: which value of a run, as what."""

    name: str
    value: str
    title: str
    axis: str


MIGRATION_FIGURES = (
    Figure(
        "fig5_2",
        "silent_s",
        "Control plane suspended during a migration",
        "router's own address silent, s",
    ),
    Figure("fig5_3", "total_s", "Total time of a migration", "total time, s"),
    Figure(
        "fig5_4", "lost_there", "Packets lost in a migration", "packets lost, generator to receiver"
    ),
)
DESIGN_VALUES = {
    "forwarded_pps": "forwarding rate, packets/s",
    "latency_p50_us": "latency, median, µs",
    "latency_p99_us": "latency, 99th percentile, µs",
}

Point = tuple[str, str, str, int, int]
"""Backend, what, traffic, size, rate."""


def points(rows: Iterable[MeasuredRun], experiment: str, value: str) -> dict[Point, Estimate]:
    """Each point's estimate of a value, as far as it was measured."""
    found: dict[Point, list[float]] = {}
    for row in rows:
        key = row.key
        if key.experiment == experiment and value in row.values:
            point = (key.backend, key.what, key.traffic, key.size, key.rate_pps)
            found.setdefault(point, []).append(row.values[value])
    return {point: estimate(values) for point, values in found.items()}


def draw(rows: Sequence[MeasuredRun], folder: Path) -> list[Path]:
    """Every figure that there are rows for; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    with pyplot.rc_context({"font.size": 9}):
        for figure in MIGRATION_FIGURES:
            if found := points(rows, "migration", figure.value):
                files.append(_write_csv(folder / f"{figure.name}.csv", {figure.value: found}))
                files.append(_save(migration(figure, found), folder / f"{figure.name}.png"))
        measured = {v: points(rows, "design", v) for v in DESIGN_VALUES}
        if any(measured.values()):
            files.append(_write_csv(folder / "fig1_5.csv", measured))
            files.append(_save(_designs(measured), folder / "fig1_5.png"))
    return files


def _save(figure: Any, file: Path) -> Path:
    figure.savefig(file, dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return file


def _write_csv(path: Path, measured: dict[str, dict[Point, Estimate]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [
                "backend",
                "what",
                "traffic",
                "size_bytes",
                "rate_pps",
                "value",
                "runs",
                "mean",
                "half_width_95",
                "least",
                "most",
            ]
        )
        for value, found in measured.items():
            for point, e in sorted(found.items()):
                half = "" if e.half is None else f"{e.half:.6g}"
                writer.writerow(
                    [
                        *point,
                        value,
                        e.runs,
                        f"{e.mean:.6g}",
                        half,
                        f"{e.least:.6g}",
                        f"{e.most:.6g}",
                    ]
                )
    return path


def migration(figure: Figure, found: dict[Point, Estimate]) -> Any:
    """A row of axes for each backend, a column for each size."""
    backends = [name for name in BACKENDS if any(point[0] == name for point in found)]
    sizes = sorted({size for *_, size, _ in found})
    drawn, axes = pyplot.subplots(
        len(backends),
        len(sizes),
        figsize=(5.2 * len(sizes), 3.8 * len(backends)),
        sharex="row",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    labels: dict[str, Any] = {}
    letters = iter(ascii_lowercase)
    for row, backend in zip(axes, backends, strict=True):
        here = {point[1:]: e for point, e in found.items() if point[0] == backend}
        rates = sorted({rate for *_, rate in here})
        for axis, size, letter in zip(row, sizes, letters, strict=False):
            _curves(axis, here, size, rates)
            axis.set_xticks(rates, [f"{rate:,}" for rate in rates])
            axis.set_title(f"({letter}) packets of {size} bytes, {BACKENDS[backend].title}")
            axis.set_xlabel("packets/s")
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            handles, names = axis.get_legend_handles_labels()
            labels |= dict(zip(names, handles, strict=True))
        row[0].set_ylabel(figure.axis)
        _from_zero(row[0])
    drawn.suptitle(f"{figure.title} (mean and 95 % confidence interval)")
    drawn.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=2)
    return drawn


def _from_zero(axis: Any) -> None:
    """Zero is on the axis, and no interval leaves it.  To be called when all is drawn: a limit ends
    the fitting to the curves."""
    axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))


def _curves(
    axis: Any, found: dict[tuple[str, str, int, int], Estimate], size: int, rates: list[int]
) -> None:
    curves = {
        which: line
        for which in product(MODES, TRAFFICS)
        if (
            line := sorted(
                (rate, e)
                for (what, by, at, rate), e in found.items()
                if (what, by, at) == (*which, size)
            )
        )
    }
    span = (rates[-1] - rates[0]) or 1
    for number, ((mode, traffic), line) in enumerate(curves.items()):
        aside = (number - (len(curves) - 1) / 2) * _BESIDE * span
        beside = [(rate + aside, e) for rate, e in line]
        _curve(axis, beside, mode, hollow=traffic == "iperf")


def _curve(axis: Any, line: list[tuple[float, Estimate]], mode: str, *, hollow: bool) -> None:
    colour = _COLOURS[mode]
    axis.errorbar(
        [rate for rate, _ in line],
        [e.mean for _, e in line],
        [e.half or 0.0 for _, e in line],
        color=colour,
        marker=_MARKS[mode],
        markersize=5,
        capsize=3,
        linewidth=1.2,
        linestyle=":" if hollow else "-",
        markerfacecolor="white" if hollow else colour,
        label=f"{NAMES[mode]} ({'iperf, tcpdump' if hollow else 'probe'})",
    )


def _designs(measured: dict[str, dict[Point, Estimate]]) -> Any:
    order = [d for d in (*DESIGNS, LIMIT) if any(p[1] == d for v in measured.values() for p in v)]
    drawn, axes = pyplot.subplots(1, 3, figsize=(14, 3.8), layout="constrained")
    for axis, (value, title) in zip(axes, DESIGN_VALUES.items(), strict=True):
        sizes = sorted({point[3] for point in measured[value]})
        width = 0.8 / max(1, len(sizes))
        for number, size in enumerate(sizes):
            bars = [
                (order.index(p[1]) + (number - (len(sizes) - 1) / 2) * width, e)
                for p, e in measured[value].items()
                if p[3] == size
            ]
            axis.bar(
                [at for at, _ in bars],
                [e.mean for _, e in bars],
                width,
                yerr=[e.half or 0.0 for _, e in bars],
                capsize=3,
                label=f"{size} bytes",
                color=("#0b5394", "#9fc5e8", "#cccccc")[number % 3],
            )
        axis.set_xticks(range(len(order)), [DESIGN_NAMES[d] for d in order], fontsize=8)
        axis.set_ylabel(title)
        _from_zero(axis)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    drawn.suptitle("Four designs of a router (lab; mean and 95 % confidence interval)")
    return drawn
