"""The report's claims beside what was measured, as Markdown; and the page where it stands.  Pure,
but for `rewrite`.

Only what was measured is said: a claim for which there are no runs has "not measured".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench.experiments.confidence import Estimate, estimate
from bench.experiments.points import BACKENDS, DESIGNS, LIMIT, MODES, RUNS, SIZES
from bench.experiments.store import MeasuredRun

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NOT = "not measured"
PAGE = f"""# The report's experiments, as measured here

Written by `scripts/experiments`; docs/experiments.md says how it is measured and what it shows.

{BEGIN}
{END}
"""
"""A page of one's own measurements, before the first."""
_MODE = {"native": "native", "domain0": "Domain 0's kernel", "xenflow": "XenFlow"}
_DESIGN = {
    "host": "(a) the host's kernel",
    "vm": "(b) the VM forwards",
    "domain0": "(c) Domain 0's kernel forwards",
    "xenflow": "(d) XenFlow",
    LIMIT: "no router: one cable",
}


def measured(rows: Sequence[MeasuredRun], refused: Sequence[MeasuredRun]) -> str:
    """The generated part of experiments.md."""
    moves = [row for row in rows if row.key.experiment == "migration"]
    routers = [row for row in rows if row.key.experiment == "design"]
    parts = [
        "## The report's claims and what was measured",
        "",
        *_claims(moves, routers),
        "",
        "## Which runs these are",
        "",
        *_runs(rows, refused),
    ]
    if moves:
        pictures = map(_picture, ("5.2", "5.3", "5.4"))
        parts += ["", "## Migrations", "", *pictures, *_migrations(moves)]
    if routers:
        parts += ["", "## Designs", "", _picture("1.5"), *_designs(routers)]
    return "\n".join(parts)


_CAPTIONS = {
    "5.2": "The longest time in which the router's own address did not answer during a migration",
    "5.3": "The time from a migration's first step until its command returns",
    "5.4": "Packets lost on the way from the generator to the receiver, in one migration",
    "1.5": "Forwarding rate and latency of the four designs, and of a cable alone",
}


def _picture(number: str) -> str:
    file = f"figures/fig{number.replace('.', '_')}.png"
    return f"![Figure {number}]({file})\n\n*Figure {number}: {_CAPTIONS[number]}.*\n"


def _of(
    rows: Iterable[MeasuredRun],
    value: str,
    *,
    what: str,
    size: int | None = None,
    traffic: str | None = None,
    rate: int | None = None,
) -> list[float]:
    return [
        row.values[value]
        for row in rows
        if row.key.what == what
        and value in row.values
        and (size is None or row.key.size == size)
        and (traffic is None or row.key.traffic == traffic)
        and (rate is None or row.key.rate_pps == rate)
    ]


def _said(values: Sequence[float], text: Callable[[Estimate], str]) -> str:
    return text(estimate(values)) if values else NOT


def _seconds(e: Estimate) -> str:
    return f"{e.text()} s ({e.least:.2f} to {e.most:.2f}, {e.runs} runs)"


def _lost(rows: Sequence[MeasuredRun], mode: str) -> str:
    lost, sent = _of(rows, "lost", what=mode), _of(rows, "sent", what=mode)
    doubled = _of(rows, "duplicated", what=mode)
    reordered = _of(rows, "reordered", what=mode)
    gaps = _of(rows, "longest_gap_s", what=mode)
    if not sent:
        return NOT
    clean = sum(not one for one in lost)
    return (
        f"{sum(lost):,.0f} of {sum(sent):,.0f} in {len(lost)} runs, "
        f"{clean} of these without any loss; {sum(doubled):,.0f} doubled, "
        f"{sum(reordered):,.0f} out of order; no packet for {median(gaps):.3f} s at most in "
        f"half of the runs, for {max(gaps):.2f} s in all"
    )


def _ways(rows: Sequence[MeasuredRun]) -> str:
    """Of which packets a number of losses is, by who counted them."""
    by = {row.key.traffic for row in rows}
    return {frozenset({"probe"}): "both ways", frozenset({"iperf"}): "generator to receiver"}.get(
        frozenset(by), "both ways, iperf's generator to receiver"
    )


def _by_rate(rows: Sequence[MeasuredRun], mode: str, traffic: str) -> str:
    parts = []
    for rate in sorted({r.key.rate_pps for r in rows}):
        values = _of(rows, "lost_there", what=mode, traffic=traffic, rate=rate)
        if values:
            parts.append(f"{estimate(values).text(0)} at {rate:,}/s")
    return "; ".join(parts) or NOT


def ratio(rows: Sequence[MeasuredRun], mode: str, beside: str, size: int) -> str:
    """A mode's total time over that of another, at the points (traffic, rate) that both have."""
    found = []
    for traffic, rate in sorted({(r.key.traffic, r.key.rate_pps) for r in rows}):
        one, base = (
            _of(rows, "total_s", what=what, size=size, traffic=traffic, rate=rate)
            for what in (mode, beside)
        )
        if one and base:
            found.append(estimate(one).mean / estimate(base).mean)
    if not found:
        return NOT
    return f"{min(found):.1f} to {max(found):.1f} ({len(found)} points)"


def _claims(moves: Sequence[MeasuredRun], routers: Sequence[MeasuredRun]) -> list[str]:
    lines = [
        "| figure | the report | here | measured |",
        "| --- | --- | --- | --- |",
        *_claims_of_moves([row for row in moves if row.key.backend == "lab"], ""),
    ]
    for name, backend in BACKENDS.items():
        if name != "lab" and (found := [row for row in moves if row.key.backend == name]):
            lines += _claims_of_moves(found, f"{backend.title}: ")
    return [*lines, *_claims_of_designs(routers)]


def _line(figure: str, claim: str, here: str, value: str) -> str:
    return f"| {figure} | {claim} | {here} | {value} |"


def _claims_of_moves(moves: Sequence[MeasuredRun], where: str) -> Iterator[str]:
    for mode, claim in (
        ("xenflow", "control plane suspended for nearly no time, whatever the packet's size"),
        ("native", "suspended for up to about 40 s"),
        ("domain0", "no figure"),
    ):
        for size in SIZES:
            yield _line(
                "5.2",
                claim,
                f"{where}{_MODE[mode]}, {size} bytes",
                _said(_of(moves, "silent_s", what=mode, size=size), _seconds),
            )
    for mode, beside, claim in (
        ("xenflow", "native", "up to 4 times native's total time"),
        ("xenflow", "domain0", "no figure"),
        ("domain0", "native", "no figure"),
    ):
        for size in SIZES:
            yield _line(
                "5.3",
                claim,
                f"{where}{_MODE[mode]} / {_MODE[beside]}, {size} bytes",
                ratio(moves, mode, beside, size),
            )
    for mode, claim in (
        ("xenflow", "no packet lost, at any rate; some may be doubled or out of order"),
        ("domain0", "no packet lost, on one LAN"),
        ("native", "about 100 packets lost in each migration"),
    ):
        yield _line(
            "5.4",
            claim,
            f"{where}{_MODE[mode]}, both sizes, all rates, {_ways(moves)}",
            _lost(moves, mode),
        )
    for traffic in ("probe", "iperf"):
        yield _line(
            "5.4",
            "native loses more at higher rates",
            f"{where}native, {traffic}, there",
            _by_rate(moves, "native", traffic),
        )


def _claims_of_designs(routers: Sequence[MeasuredRun]) -> Iterator[str]:
    for size in SIZES:
        for design in ("domain0", "xenflow"):
            values = []
            for name, what in (
                ("forwarded_pps", "forwarding rate"),
                ("latency_p50_us", "median latency"),
            ):
                one, base = (_of(routers, name, what=d, size=size) for d in (design, "vm"))
                if one and base:
                    many = estimate(one).mean / estimate(base).mean
                    values.append(f"{many:.2f} times the VM's {what}")
            yield _line(
                "1.5",
                "forwarding outside the VM saves its detour",
                f"{_DESIGN[design]}, {size} bytes",
                ", ".join(values) or NOT,
            )


def _runs(rows: Sequence[MeasuredRun], refused: Sequence[MeasuredRun]) -> list[str]:
    if not rows:
        return ["None yet."]
    lines = [
        f"{len(rows)} runs, made from {min(r.at for r in rows)} to {max(r.at for r in rows)} "
        f"(UTC){_load(rows)}. Every run, and what was tried in vain, is in "
        "[runs.csv](figures/runs.csv).",
        "",
        "| backend | experiment | what | traffic | points | runs | runs a point |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    groups: dict[tuple[str, str, str, str], list[MeasuredRun]] = {}
    for row in rows:
        key = row.key
        groups.setdefault((key.backend, key.experiment, key.what, key.traffic), []).append(row)
    for names, group in sorted(groups.items()):
        per_point = Counter((r.key.size, r.key.rate_pps) for r in group)
        least, most = min(per_point.values()), max(per_point.values())
        count = str(least) if least == most else f"{least} to {most}"
        lines.append(f"| {' | '.join(names)} | {len(per_point)} | {len(group)} | {count} |")
    fewest = min(Counter(replace(row.key, run=0) for row in rows).values())
    if fewest < RUNS:
        lines += [
            "",
            f"The report made {RUNS} runs of each point; some points here have only "
            f"{fewest}, and intervals of so few are wide.",
        ]
    whys = Counter((replace(r.key, run=0), r.invalid) for r in refused)
    if whys:
        lines += [
            "",
            "Tried without becoming a run (these count nowhere; most were made at the next try):",
            "",
        ]
        lines += [
            f"- {k.backend}, {k.what}, {k.traffic}, {k.size} bytes, {k.rate_pps:,} "
            f"packets/s, {count} {'runs' if count > 1 else 'run'}: {why}"
            for (k, why), count in sorted(whys.items())
        ]
    return lines


def _load(rows: Sequence[MeasuredRun]) -> str:
    found = [row.values["load"] for row in rows if "load" in row.values]
    if not found:
        return ""
    known = "" if len(found) == len(rows) else f" (known of {len(found)} of them)"
    return f", at a load of {min(found):.1f} to {max(found):.1f}{known}"


def _migrations(rows: Sequence[MeasuredRun]) -> list[str]:
    lines = [
        "Means of the runs of a point, ± half of the 95 % confidence interval. Lost: there "
        "(generator to receiver); doubled: in all runs of the point, the probe's both ways.",
        "",
        "| where | mode | traffic | bytes | packets/s | runs | silent, s | total, s | lost | "
        "doubled |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    points: dict[tuple[str, int, str, int, int], list[MeasuredRun]] = {}
    for row in rows:
        key = row.key
        place = (key.backend, MODES.index(key.what), key.traffic, key.size, key.rate_pps)
        points.setdefault(place, []).append(row)
    for (backend, mode, traffic, size, rate), group in sorted(points.items()):
        cells = [
            estimate([r.values[v] for r in group]).text(d)
            for v, d in (("silent_s", 3), ("total_s", 3), ("lost_there", 1))
        ]
        doubled = sum(r.values["duplicated"] for r in group)
        lines.append(
            f"| {BACKENDS[backend].title} | {MODES[mode]} | {traffic} | {size} | "
            f"{rate:,} | {len(group)} | {' | '.join(cells)} | {doubled:.0f} |"
        )
    return lines


def _designs(rows: Sequence[MeasuredRun]) -> list[str]:
    lines = [
        "| design | bytes | runs | forwarded, packets/s | latency, median, µs | 99 %, µs |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for design in (*DESIGNS, LIMIT):
        for size in sorted({r.key.size for r in rows}):
            group = [r for r in rows if (r.key.what, r.key.size) == (design, size)]
            if group:
                cells = [
                    estimate([r.values[v] for r in group]).text(d)
                    for v, d in (("forwarded_pps", 0), ("latency_p50_us", 0), ("latency_p99_us", 0))
                ]
                lines.append(f"| {_DESIGN[design]} | {size} | {len(group)} | {' | '.join(cells)} |")
    return lines


def replaced(text: str, part: str) -> str:
    """A document with the generated part in its place.

    Raises ValueError where the two marks are not in it, once each and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected one {BEGIN} and behind it one {END}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{after}"


def rewrite(path: Path, part: str) -> None:
    """The same in a file, whole or not at all; where there is none a new page.

    Raises ValueError as `replaced`.
    """
    new = path.with_suffix(".new")
    new.write_text(replaced(path.read_text() if path.exists() else PAGE, part))
    new.rename(path)
