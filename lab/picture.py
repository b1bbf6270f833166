"""A picture of migrations: packets lost and the gaps between arrivals over time, with the steps.

One column for each mode.  Called by the demo; reads the probe's records, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

from lab import judge
from lab.judge import read_records

if TYPE_CHECKING:
    from lab.demo import Run

matplotlib.use("Agg")
from matplotlib import pyplot

_COLOURS = ("#0b5394", "#e69138")
_STEPS = ("#f3f3f3", "#dfe7ee")
_LOST = "#cc0000"
_WORDS: dict[str, Any] = {"va": "top", "ha": "center", "fontsize": 8, "color": "#444444"}
_MARGIN_S = 0.6


def draw(runs: Sequence[Run], path: Path) -> Path:
    """The first run of each mode, side by side; returns the path."""
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(run.move.mode, run)
    figure, axes = pyplot.subplots(
        2,
        len(first),
        sharex="col",
        sharey="row",
        figsize=(6.4 * len(first), 6.2),
        squeeze=False,
        gridspec_kw={"height_ratios": (1, 1.3), "hspace": 0.12, "wspace": 0.06},
    )
    for column, run in enumerate(first.values()):
        _draw_run(run, axes[0][column], axes[1][column])
    axes[0][0].set_ylabel("packets lost in 20 ms")
    axes[1][0].set_ylabel("longest time between arrivals, ms")
    axes[1][0].legend(loc="upper right", fontsize=8, framealpha=1)
    axes[0][0].set_ylim(bottom=0, top=max(10, 1.3 * axes[0][0].get_ylim()[1]))
    end = max(run.move.total_s for run in first.values()) + _MARGIN_S
    for axis in axes.flat:
        axis.set_xlim(-_MARGIN_S, end)
    sample = next(iter(first.values()))
    figure.suptitle(
        f"Router {sample.move.router} moves from {sample.move.source} to {sample.move.to} under "
        f"{sample.size}-byte UDP packets both ways\n"
        "(the hypervisor, and with it the pause of stop-and-copy, is emulated)",
        fontsize=11,
    )
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return path


def _draw_run(run: Run, above: Any, below: Any) -> None:
    move = run.move
    lost: dict[float, int] = {}
    for number, (version, direction) in enumerate(run.counts):
        file = run.records / f"ipv{version}" / ("there.bin", "back.bin")[number % 2]
        found = [
            b
            for b in judge.bins(read_records(file), move.began_ns)
            if -_MARGIN_S <= b.at_s <= move.total_s + _MARGIN_S
        ]
        for one in found:
            lost[one.at_s] = lost.get(one.at_s, 0) + one.lost
        below.step(
            [b.at_s for b in found],
            [max(b.longest_gap_s * 1000, 0.05) for b in found],
            where="post",
            color=_COLOURS[number % 2],
            linewidth=1.2,
            linestyle="-" if version == 4 else ":",
            label=f"IPv{version}, {direction}",
        )
    above.bar(list(lost), list(lost.values()), width=0.02, align="edge", color=_LOST)
    total = sum(c.lost for c in run.counts.values())
    sent = sum(c.sent for c in run.counts.values())
    above.set_title(
        f"{move.mode}: {total} of {sent} packets lost ({run.rate_pps:g}/s each way)",
        fontsize=10,
        color=_LOST if total else "black",
    )
    for axis in (above, below):
        for number, step in enumerate(move.steps):
            axis.axvspan(step.from_s, step.to_s, color=_STEPS[number % 2], zorder=0, linewidth=0)
        for at in move.paused_s:
            axis.axvline(at, color="#666666", linewidth=0.8, linestyle=":")
        axis.spines[["top", "right"]].set_visible(False)
    for step in move.steps:
        below.annotate(
            step.name,
            ((step.from_s + step.to_s) / 2, 0.985),
            xycoords=below.get_xaxis_transform(),
            rotation=90,
            **_WORDS,
        )
    middle = sum(move.paused_s) / 2
    above.annotate(
        "VM paused\n(emulated)",
        (middle, 0.97),
        xycoords=above.get_xaxis_transform(),
        **_WORDS,
    )
    below.set_yscale("log")
    below.set_ylim(0.3, 5000)
    below.set_xlabel("seconds since the migration began; its steps shaded")
