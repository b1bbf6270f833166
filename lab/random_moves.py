"""Routers that move anywhere, under traffic between all machines: `scripts/random-moves`.

Each move takes a router and another host by chance; every two machines send to each other all the
time, so that in `conf/campus.toml` every router is passed between every two of its neighbours.
Half of the packets are IPv6's where the machines have addresses of both families.
First the same traffic while nothing happens: where that already loses a packet the run is invalid,
not passed.  Then every move must end, and nothing may be lost or arrive twice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from lab import judge, measuring, operate, process
from lab.description import ROOT, Lab, find_file
from lab.judge import Counts
from lab.measuring import Outcome, begin, say
from lab.moves import Move, mover
from lab.namespace import LabError
from lab.probe import ProbePair, TooBusyError, baseline, of_both_families
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

    rate_pps    packets/s, each way, between every two machines, of both families together
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
class RandomMovesOutcome(Outcome):
    """What was measured; `counts` of all pairs.

    resident_mib   of each controller: before the first move, and after each
    """

    resident_mib: dict[str, list[float]]

    def json(self) -> dict[str, Any]:
        """For programs."""
        return Outcome.json(self) | {"resident_mib": self.resident_mib}

    def findings(self) -> list[str]:
        """See `Outcome`."""
        lines = []
        for controller, sizes in self.resident_mib.items():
            quarters = [sizes[(len(sizes) - 1) * n // 4] for n in range(5)]
            lines.append(
                f"controller {controller}: {' -> '.join(f'{size:.1f}' for size in quarters)} MiB "
                "resident, at each quarter of the moves"
            )
        return lines

    def how(self) -> str:
        """See `Outcome`."""
        wanted = self.wanted
        return (
            f" (seed {wanted.seed}, through its VM: {', '.join(wanted.through_vm) or '-'}), "
            f"{wanted.rate_pps:g} packets/s each way between every two machines"
        )


def random_moves(wanted: RandomMovesOptions, records: Path) -> RandomMovesOutcome:
    """Bring the network up, measure, take it down.

    Raises TooBusyError where the traffic alone loses, NetworkError where nothing can be measured.
    """
    file = find_file(wanted.topology)
    return measuring.in_lab(file, LabOptions(), lambda lab: measure(lab, wanted, records))


def measure(lab: Lab, wanted: RandomMovesOptions, records: Path) -> RandomMovesOutcome:
    """Move routers of a lab that is up.

    Raises TooBusyError where the traffic alone loses.
    """
    dice = Random(wanted.seed)
    with ExitStack() as stack:
        stack.enter_context(_through_vm(lab, wanted.through_vm))
        pairs = [
            stack.enter_context(pair)
            for n, nodes in enumerate(combinations(lab.machines, 2))
            for pair in of_both_families(
                *nodes, rate_pps=wanted.rate_pps, port=_PORT + n, directory=records / str(n)
            )
        ]
        say(f"{wanted.baseline_s:g} s of the same traffic without a move")
        _baseline(pairs, wanted.baseline_s)
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


def _baseline(pairs: Sequence[ProbePair], seconds: float) -> None:
    """The traffic alone, tried again for a while: what else the machine does may end."""
    end = time.monotonic() + _QUIET_WITHIN_S
    while True:
        try:
            baseline(pairs, seconds)
            return
        except TooBusyError as error:
            if time.monotonic() > end:
                raise
            say(f"{error}: tried again")


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
