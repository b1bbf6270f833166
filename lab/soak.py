"""Many migrations under traffic: `scripts/soak TOPOLOGY MOVES RATE`.

First the same traffic while nothing happens: where that already loses a packet the run is invalid,
not passed.  Then the router moves MOVES times back and forth under the traffic.  What is lost or
doubled is counted for each move and in sum.  Half of the packets are IPv6's where the machines have
addresses of both families.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lab import judge, measuring, operate
from lab.description import ROOT, Lab, find_file
from lab.judge import Counts, Verdict
from lab.measuring import Outcome, begin, say
from lab.moves import Move, ends, mover
from lab.probe import ProbeResult, baseline, of_both_families
from lab.state import LabOptions
from lab.store_faults import without_leader
from mgmt.text import run_program
from xenflow.plan.migration import Order
from xenflow.store.network_file import read_text

_LONGEST_S = 4 * 3600.0
_OUT = ROOT / "out" / "soak"
_MARK = ".xenflow-soak"
_KILLS = (
    "`scripts/soak --store [ROUNDS]` (20) measures nothing: it kills the store's servers, planner, "
    "controllers and who asks, in the middle of changes and of moves."
)
"""What the script itself does."""
_MADE = ("result.json", "ipv[46]", "there.bin", "back.bin", "sent-[01].bin", "arrivals-[01].bin")
"""What a run leaves in its folder, and the next one there replaces."""


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """What is asked for.

    rate_pps   packets/s, each way, of both families together
    pause_s    how long the emulated hypervisor pauses the VM
    pipeline   of all hosts; None: as the network file says
    between_s  from the end of a move to the beginning of the next
    router     which one moves; None: the first
    machines   between which traffic runs; None: the first and the last
    store_members  the network lives in a store of so many servers, whose leader is killed during
               each move; 0: it lives in no store
    """

    topology: str
    moves: int
    rate_pps: float
    mode: str = Order.OVERLAPPED.value
    size: int = 64
    pause_s: float = LabOptions().pause_s
    pipeline: str | None = None
    max_revalidator_ms: int = LabOptions().max_revalidator_ms
    between_s: float = 1.0
    baseline_s: float = 30.0
    router: str | None = None
    machines: tuple[str, str] | None = None
    store_members: int = 0


@dataclass(frozen=True, slots=True)
class SoakOutcome(Outcome):
    """What was measured.  `ways` are the counts of each family and direction, which `counts` are
    the sums of."""

    baseline: list[ProbeResult]
    ways: dict[str, list[Counts]]
    neighbour_changes: dict[str, int]

    def directions(self) -> dict[str, Counts]:
        """Everything that was sent, by family and direction."""
        return {name: judge.total(counts) for name, counts in self.ways.items()}

    def verdict(self) -> Verdict:
        """Passed, or failed."""
        return self.moved.verdict(self.directions().values())

    def _move_s(self) -> dict[str, float]:
        times = [move.total_s for move in self.moved.moves] or [0.0]
        return {"min": min(times), "median": statistics.median(times), "max": max(times)}

    def json(self) -> dict[str, Any]:
        """For programs."""
        return Outcome.json(self) | {
            "baseline": [asdict(result) for result in self.baseline],
            "directions": {n: asdict(judge.rounded(c)) for n, c in self.directions().items()},
            "move_s": self._move_s(),
            "neighbour_changes": self.neighbour_changes,
        }

    def findings(self) -> list[str]:
        """See `Outcome`."""
        took = self._move_s()
        return [
            *(
                f"{name}: {c.sent} sent, {c.lost} lost, {c.duplicated} doubled, {c.reordered} "
                f"reordered, longest gap {c.longest_gap_s * 1000:.1f} ms"
                for name, c in self.directions().items()
            ),
            f"a move takes {took['min']:.3f} s to {took['max']:.3f} s, median "
            f"{took['median']:.3f} s",
            "neighbour state changes in the routing daemons' logs: "
            f"{sum(self.neighbour_changes.values())}",
            f"the hypervisor is emulated, and so is its pause of {self.wanted.pause_s:g} s; SILENT "
            "is how long the router's own address did not answer",
        ]

    def how(self) -> str:
        """See `Outcome`."""
        wanted = self.wanted
        return f", {wanted.mode}, {wanted.rate_pps:g} packets/s each way of {wanted.size} bytes"


def soak(wanted: SoakOptions, records: Path) -> SoakOutcome:
    """Bring the network up, measure, take it down.

    Raises TooBusyError where the traffic alone loses, NetworkError where anything fails.
    """
    options = LabOptions(
        pause_s=wanted.pause_s,
        max_revalidator_ms=wanted.max_revalidator_ms,
        store=wanted.store_members > 0,
        members=max(1, wanted.store_members),
    )
    with tempfile.TemporaryDirectory(prefix="xf-soak-") as folder:
        file = _network_file(wanted, Path(folder))
        return measuring.in_lab(file, options, lambda lab: measure(lab, wanted, records))


def _network_file(wanted: SoakOptions, folder: Path) -> Path:
    """The network file, its hosts with the pipeline that is asked for."""
    path = find_file(wanted.topology)
    if wanted.pipeline is None:
        return path
    text = re.sub(r"^pipeline\s*=.*\n", "", read_text(path), flags=re.M)
    host = re.compile(r'^(kind\s*=\s*"host".*)$', re.M)
    new = folder / path.name
    new.write_text(host.sub(rf'\1\npipeline = "{wanted.pipeline}"', text))
    return new


def measure(lab: Lab, wanted: SoakOptions, records: Path) -> SoakOutcome:
    """The same in a lab that is up."""
    nodes = ends(lab, wanted.machines)
    made = of_both_families(*nodes, rate_pps=wanted.rate_pps, size=wanted.size, directory=records)
    with mover(lab, wanted.router, nodes[0]) as router, ExitStack() as stack:
        pairs = [stack.enter_context(pair) for pair in made]
        if wanted.mode == Order.NATIVE.value:
            router.forward_by("native")
        say(f"{wanted.baseline_s:g} s of the same traffic without a move")
        before = baseline(pairs, wanted.baseline_s)
        for pair in pairs:
            pair.start(_LONGEST_S)
        time.sleep(1.0)
        hosts = [router.other_host(), router.host]

        def move(number: int) -> Move:
            def act() -> Move:
                return router.move(hosts[number % 2], wanted.mode)

            members = wanted.store_members
            return without_leader(lab, members, act) if members else act()

        moved = measuring.make_moves(
            wanted.moves,
            wanted.between_s,
            move,
            records,
        )
        for pair in pairs:
            pair.stop()
    one, other = nodes
    ways = {}
    for pair in pairs:
        there, back = judge.read(pair.directory, moved.begins_ns())
        ways[f"{one} to {other}, IPv{pair.version}"] = there
        ways[f"{other} to {one}, IPv{pair.version}"] = back
    changes = operate.status()["neighbour_changes"]
    counts = [judge.total(of_move) for of_move in zip(*ways.values(), strict=True)]
    return SoakOutcome(wanted, moved, counts, before, ways, changes)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    args = _arguments(argv)
    begin()
    wanted = SoakOptions(**{f.name: getattr(args, f.name) for f in fields(SoakOptions)})
    return measuring.run("soak", args, wanted, lambda: soak(wanted, args.out))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    default = SoakOptions("", 0, 0)
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description=f"{__doc__}  {_KILLS}",
        epilog=measuring.EXIT_STATUS,
    )
    parser.add_argument("topology", metavar="TOPOLOGY", help="paper, path, or a network file")
    parser.add_argument("moves", type=_count, metavar="MOVES")
    parser.add_argument("rate_pps", type=float, metavar="RATE", help="packets/s, each way")
    parser.add_argument("--router", metavar="NAME", help="which one moves (default: the first)")
    parser.add_argument(
        "--machines",
        type=_two,
        metavar="A,B",
        help="between which traffic runs (default: the first and the last)",
    )
    parser.add_argument(
        "--store-members",
        type=int,
        default=default.store_members,
        metavar="N",
        help="the network lives in a store of N servers, whose leader is killed during each move",
    )
    parser.add_argument("--mode", choices=[order.value for order in Order], default=default.mode)
    parser.add_argument(
        "--size",
        type=int,
        default=default.size,
        metavar="BYTES",
        help="of a frame; 1500 is an IP packet's (default %(default)s)",
    )
    parser.add_argument(
        "--pipeline",
        choices=("proactive", "reactive"),
        help="of all hosts (default: as the network file says)",
    )
    for name, text in (
        ("pause", "how long the emulated hypervisor pauses the VM"),
        ("between", "between two moves"),
        ("baseline", "how long the same traffic runs without a move first"),
    ):
        parser.add_argument(
            f"--{name}",
            dest=f"{name}_s",
            type=float,
            default=getattr(default, f"{name}_s"),
            metavar="S",
            help=f"{text}, seconds (default %(default)s)",
        )
    parser.add_argument(
        "--max-revalidator",
        dest="max_revalidator_ms",
        type=int,
        default=default.max_revalidator_ms,
        metavar="MS",
        help="Open vSwitch's setting (default %(default)s)",
    )
    measuring.add_output(parser, _OUT)
    args = parser.parse_args(argv)
    measuring.take_output(parser, args.out, _MARK, _MADE, _OUT)
    return args


def _two(text: str) -> tuple[str, str]:
    one, other = text.split(",")
    if not one or not other or one == other:
        raise ValueError
    return one, other


_two.__name__ = "pair of machines"


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


_count.__name__ = "number of moves"

if __name__ == "__main__":
    sys.exit(run_program("soak", main))
