"""Routers that move anywhere, under traffic between all machines: `scripts/random-moves`.

Each move takes a router and another host by chance; every two machines send to each other all the
time, so that in `conf/campus.toml` every router is passed between every two of its neighbours.
First the same traffic while nothing happens: where that already loses a packet the run is invalid,
not passed.  Then every move must end, and nothing may be lost or arrive twice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from lab import bring_up, judge, measuring, operate, process
from lab.description import ROOT, Lab, find_file
from lab.judge import Counts, Verdict
from lab.measuring import Moved, begin, say
from lab.moves import Move, mover
from lab.namespace import LabError
from lab.probe import ProbePair, ProbeResult, TooBusyError
from lab.state import LabOptions
from xenflow.plan.migration import Order

_MARK, _MADE = ".xenflow-random-moves", ("result.json", "[0-9]", "[0-9][0-9]")
_OUT = ROOT / "out" / "random-moves"
_PORT = 7800
_QUIET_WITHIN_S = 60.0
_LONGEST_S = 4 * 3600.0
RULE = ("from", "192.0.2.254", "lookup", "100")
"""A policy rule, which decides nothing here, but makes a router's VM forward."""


@dataclass(frozen=True, slots=True)
class RandomMovesOptions:
    """What is asked for.

    rate_pps    packets/s, each way, between every two machines
    through_vm  routers whose packets pass through their VM
    """

    topology: str = "campus"
    moves: int = 20
    rate_pps: float = 200.0
    seed: int = 1
    through_vm: tuple[str, ...] = ("r2",)
    between_s: float = 0.5
    baseline_s: float = 10.0


@dataclass(frozen=True, slots=True)
class RandomMovesOutcome:
    """What was measured.

    counts         of all pairs: the packets sent before the first move, then of each move, of one
                   that was not finished, too
    resident_mib   of each controller: before the first move, and after each
    """

    wanted: RandomMovesOptions
    moved: Moved
    counts: list[Counts]
    resident_mib: dict[str, list[float]]

    def verdict(self) -> Verdict:
        """Passed, or failed."""
        return self.moved.verdict([judge.total(self.counts)])

    def json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "verdict": self.verdict().name.lower(),
            "ended": self.moved.ended and self.moved.ended.text(),
            **asdict(self.wanted),
            "moves": [
                {
                    "router": move.router,
                    "from": move.source,
                    "to": move.to,
                    "total_s": round(move.total_s, 6),
                    **asdict(judge.rounded(counts)),
                }
                for move, counts in self._rows()
            ],
            "sum": asdict(judge.rounded(judge.total(self.counts))),
            "resident_mib": self.resident_mib,
        }

    def _rows(self) -> Iterator[tuple[Move, Counts]]:
        return zip(self.moved.moves, self.counts[1:], strict=False)

    def text(self) -> str:
        """For people."""
        lines = ["", "MOVE  ROUTER  FROM      TO          TOTAL     SENT  LOST  DOUBLED  REORDERED"]
        for number, (move, c) in enumerate(self._rows(), 1):
            lines.append(
                f"{number:4}  {move.router:6}  {move.source:8}  {move.to:8}  {move.total_s:5.3f} s"
                f"  {c.sent:7}  {c.lost:4}  {c.duplicated:7}  {c.reordered:9}"
            )
        lines.append("")
        for controller, sizes in self.resident_mib.items():
            quarters = [sizes[(len(sizes) - 1) * n // 4] for n in range(5)]
            lines.append(
                f"controller {controller}: {' -> '.join(f'{size:.1f}' for size in quarters)} MiB "
                "resident, at each quarter of the moves"
            )
        if self.moved.ended is not None:
            lines.append(self.moved.ended.text())
        total = judge.total(self.counts)
        lines.append(
            f"{self.verdict().name.lower()}: {len(self.moved.moves)} moves in "
            f"{self.wanted.topology} (seed {self.wanted.seed}, through its VM: "
            f"{', '.join(self.wanted.through_vm) or '-'}), {self.wanted.rate_pps:g} packets/s "
            f"each way between every two machines: {total.lost} lost, {total.duplicated} "
            f"duplicated, {total.reordered} reordered of {total.sent}"
        )
        return "\n".join(lines)


def random_moves(wanted: RandomMovesOptions, records: Path) -> RandomMovesOutcome:
    """Bring the network up, measure, take it down.

    Raises TooBusyError where the traffic alone loses, NetworkError where nothing can be measured.
    """
    lab = bring_up.up(find_file(wanted.topology), LabOptions(), say=say)
    try:
        return measure(lab, wanted, records)
    finally:
        bring_up.down(say=say)


def measure(lab: Lab, wanted: RandomMovesOptions, records: Path) -> RandomMovesOutcome:
    """Move routers of a lab that is up.

    Raises TooBusyError where the traffic alone loses.
    """
    dice = Random(wanted.seed)
    with ExitStack() as stack:
        stack.enter_context(_through_vm(lab, wanted.through_vm))
        pairs = [
            stack.enter_context(
                ProbePair(
                    *nodes, rate_pps=wanted.rate_pps, port=_PORT + n, directory=records / str(n)
                )
            )
            for n, nodes in enumerate(combinations(lab.machines, 2))
        ]
        say(f"{wanted.baseline_s:g} s of the same traffic without a move")
        _baseline(pairs, wanted)
        for pair in pairs:
            pair.start(_LONGEST_S)
        time.sleep(1.0)
        sizes = _resident_mib()
        resident_mib = {node: [size] for node, size in sizes.items()}

        def move(_: int) -> Move:
            one = _move(lab, dice)
            for node, size in _resident_mib().items():
                resident_mib[node].append(size)
            return one

        moved = measuring.make_moves(wanted.moves, wanted.between_s, move, records)
        for pair in pairs:
            pair.stop()
    begins_ns = moved.begins_ns()
    counts = [Counts()] * (len(begins_ns) + 1)
    for pair in pairs:
        for direction in judge.read(pair.directory, begins_ns):
            counts = [a + b for a, b in zip(counts, direction, strict=True)]
    return RandomMovesOutcome(wanted, moved, counts, resident_mib)


def _resident_mib() -> dict[str, float]:
    """By the controller's node."""
    return {
        one.node: round(one.resident_kib() / 1024, 2)
        for one in process.recorded()
        if one.name == "controller" and one.alive
    }


def _move(lab: Lab, dice: Random) -> Move:
    router = dice.choice(list(lab.network.routers))
    with mover(lab, router) as one:
        to = dice.choice([host for host in lab.hosts if host != one.host])
        return one.move(to, Order.OVERLAPPED.value)


def _baseline(pairs: Sequence[ProbePair], wanted: RandomMovesOptions) -> None:
    """The traffic alone, tried again for a while: what else the machine does may end."""
    end = time.monotonic() + _QUIET_WITHIN_S
    while (busy := _too_busy(pairs, wanted)) and time.monotonic() < end:
        say(f"{busy}: tried again")
    if busy:
        raise TooBusyError(f"invalid: the machine is too busy; while nothing happened {busy}")


def _too_busy(pairs: Sequence[ProbePair], wanted: RandomMovesOptions) -> str:
    for pair in pairs:
        pair.start(_LONGEST_S)
    time.sleep(wanted.baseline_s)
    results: list[ProbeResult] = [result for pair in pairs for result in pair.stop()]
    slowest = min(result.rate_pps for result in results)
    lost = sum(r.lost + r.duplicated for r in results)
    if not lost and slowest >= 0.95 * wanted.rate_pps:
        return ""
    return (
        f"{lost} packets were lost or doubled, and {slowest:.0f} were sent each second instead of "
        f"{wanted.rate_pps:g}"
    )


@contextmanager
def _through_vm(lab: Lab, routers: Sequence[str]) -> Iterator[None]:
    """Some routers forward by their VMs meanwhile; their controllers know."""
    for router in routers:
        operate.run(router, ["ip", "rule", "add", *RULE])
    try:
        for router in routers:
            _await_slow(lab, router)
        yield
    finally:
        for router in routers:
            operate.run(router, ["ip", "rule", "del", *RULE])


def _await_slow(lab: Lab, router: str, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    with mover(lab, router) as one:
        controller = lab.network.datapaths[one.host].controller
        while True:
            rows = one.session.ask(controller, "routers")["routers"]
            if next(row for row in rows if row["name"] == router)["slow"]:
                return
            if time.monotonic() > end:
                raise LabError(f"{router}: its packets do not pass through its VM")
            time.sleep(0.1)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = _arguments(argv)
    begin()
    names = tuple(name for name in args.through_vm.split(",") if name)
    wanted = RandomMovesOptions(args.topology, args.moves, args.rate, args.seed, names)
    return measuring.run("random-moves", args, wanted, lambda: random_moves(wanted, args.out))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    default = RandomMovesOptions()
    parser = argparse.ArgumentParser(
        prog="scripts/random-moves",
        description=__doc__,
        epilog=measuring.EXIT_STATUS,
    )
    parser.add_argument(
        "topology",
        nargs="?",
        default=default.topology,
        metavar="TOPOLOGY",
        help="a network in conf/, or a network file (default %(default)s)",
    )
    parser.add_argument("--moves", type=int, default=default.moves, metavar="N")
    parser.add_argument(
        "--rate",
        type=float,
        default=default.rate_pps,
        metavar="PPS",
        help="each way, between every two machines (default %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=default.seed,
        metavar="N",
        help="the same moves again (default %(default)s)",
    )
    parser.add_argument(
        "--through-vm",
        default=",".join(default.through_vm),
        metavar="ROUTER,...",
        help="routers that their VM forwards for (default %(default)s)",
    )
    measuring.add_output(parser, _OUT)
    args = parser.parse_args(argv)
    measuring.take_output(parser, args.out, _MARK, _MADE, _OUT)
    return args


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
