"""The first thing to run: `scripts/demo`.

Brings `paper` up, shows what its router knows and what the switch makes of it, then moves the
router there and back under traffic, first behind bridges (`native`, the baseline), then with its
data plane overlapped, and ends with a table.  Leaves result.json, a picture and every packet's
record in out/demo.  Needs root; takes the lab down in any case.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lab import bring_up, judge
from lab.description import ROOT, Lab
from lab.judge import Counts, Verdict
from lab.measuring import INTERRUPTED, begin, take_output
from lab.moves import Move, Mover, ends, mover
from lab.probe import ProbePair, TooBusyError, baseline, of_both_families
from lab.state import LabOptions
from mgmt import cli
from mgmt.text import run_program, table
from mgmt.verbs.migrate import Progress
from xenflow.model.network import NetworkError

SIZES = (64, 1500)
RATE_PPS = 5000.0
LOWEST_PPS = 600.0
LEAST_IDLE = 0.1
"""Below this the controllers would be late, and the migration would show the machine's limits."""
BASELINE_S = 3.0
AROUND_S = 1.0
"""How long traffic runs before and after each migration."""
EMULATED = "the hypervisor is emulated, and so is the pause of its stop-and-copy"
_MARK = ".xenflow-demo"
_MADE = ("result.json", "migration.png", "native-*", "overlapped-*")
"""What a run leaves in its folder, and the next one there replaces."""
_FORWARDERS = {"native": "native", "overlapped": "xenflow"}


@dataclass(frozen=True, slots=True)
class Run:
    """One migration under traffic.

    rate_pps  each way, of both families together
    records   each family's are in a folder of its name
    counts    by family (4, 6) and direction
    """

    move: Move
    size: int
    rate_pps: float
    records: Path
    counts: dict[tuple[int, str], Counts]

    def rows(self) -> list[dict[str, Any]]:
        """As result.json has it: an object for each family and direction."""
        move = self.move
        return [
            {
                "mode": move.mode,
                "size": self.size,
                "family": f"IPv{version}",
                "direction": direction,
                **asdict(judge.rounded(counts)),
                "outage_s": round(move.outage_s, 6),
                "total_s": round(move.total_s, 6),
                "move": f"{move.source} to {move.to}",
                "rate_pps": self.rate_pps / len({version for version, _ in self.counts}),
                "suspended_s": round(move.suspended_s, 6),
                "emulated": EMULATED,
                "began_ns": move.began_ns,
                "records": f"{self.records.name}/ipv{version}",
            }
            for (version, direction), counts in self.counts.items()
        ]


class Demo:
    """One run of it; everything is said on standard output."""

    def __init__(self, lab: Lab, router: Mover, out: Path) -> None:
        self.lab = lab
        self.router = router
        self.out = out
        self.nodes = ends(lab)
        self.runs: list[Run] = []

    def show(self) -> None:
        """What the router knows, and what its host's switch makes of it."""
        router, host = self.router.router, self.router.host
        heading(f"The network: {router} runs on {host}")
        command("lab", "nodes")
        heading("What the routing daemon in the router has learnt, as the Rule Table has it")
        command("routes", router)
        heading(f"The same as flows of {host}'s switch, before any packet asks for them")
        command("flows", host, "--router", router, "--table", "routes")
        say(
            "A route chooses a next hop (reg0); in the next table that decrements the TTL, writes\n"
            "the two MAC addresses and chooses the link (reg2).  What is not resolved goes to the\n"
            "router's own kernel.  `xenflow trace` says what would be done with a packet; here\n"
            f"one from {self.nodes[0]} to {self.nodes[1]}:\n"
        )
        link = self.lab.machines[self.nodes[0]].link
        one, other = (self.lab.machines[name].address.ip for name in self.nodes)
        command("trace", router, f"src={one},dst={other},ttl=64,proto=udp,dport=7777,link={link}")

    def migrate_all(self, mode: str) -> None:
        """There and back with each size.

        Raises TooBusyError where even the lowest rate loses without a move.
        """
        words = {
            "native": "the VM itself forwards, behind bridges: the baseline",
            "overlapped": "both hosts' switches forward while the VM moves",
        }
        heading(f"Mode {mode}: {words[mode]}")
        say(f"$ xenflow mode {self.router.router} {_FORWARDERS[mode]}")
        self.router.forward_by(_FORWARDERS[mode])
        rate_pps = self.clean_rate()
        for size in SIZES:
            for _ in ("there", "and back"):
                self.runs.append(self.migrate(mode, size, rate_pps))

    def clean_rate(self) -> float:
        """The rate at which nothing is lost while nothing happens, halved until it is so and the
        machine has time left for the migration itself."""
        rate_pps = RATE_PPS
        while True:
            try:
                before = os.times(), idle_s()
                for size in SIZES:
                    with self.traffic(rate_pps, size) as pairs:
                        baseline(pairs, BASELINE_S)
                    say(
                        f"without a move: {rate_pps:g} packets/s each way of {size} bytes for "
                        f"{BASELINE_S:g} s, nothing lost"
                    )
                took_s = os.times().elapsed - before[0].elapsed
                idle = (idle_s() - before[1]) / took_s / (os.cpu_count() or 1)
                if idle >= LEAST_IDLE or rate_pps / 2 < LOWEST_PPS:
                    return rate_pps
                say(f"but the processors are idle for only {idle:.0%} of the time")
            except TooBusyError as error:
                say(f"without a move: {rate_pps:g} packets/s each way: {error}")
                if rate_pps / 2 < LOWEST_PPS:
                    raise
            rate_pps /= 2
            say(f"the rate is halved: {rate_pps:g} packets/s each way")

    @contextmanager
    def traffic(
        self, rate_pps: float, size: int, folder: Path | None = None
    ) -> Iterator[list[ProbePair]]:
        """Both families at once, each with half of the rate."""
        made = of_both_families(*self.nodes, rate_pps=rate_pps, size=size, directory=folder)
        with ExitStack() as stack:
            yield [stack.enter_context(pair) for pair in made]

    def migrate(self, mode: str, size: int, rate_pps: float) -> Run:
        """One migration under traffic."""
        to = self.router.other_host()
        ends = " and ".join(self.nodes)
        say(f"\n{rate_pps:g} packets/s each way of {size} bytes between {ends}")
        say(f"$ xenflow migrate {self.router.router} {to} --mode {mode}")
        folder = self.out / f"{mode}-{size}-{self.router.host}-{to}"
        stages = self.router.plan(to, mode).stages
        progress = Progress(sys.stdout, {stage.name: stage.title for stage in stages})
        with self.traffic(rate_pps, size, folder) as pairs:
            for pair in pairs:
                pair.start()
            time.sleep(AROUND_S)
            move = self.router.move(to, mode, progress)
            progress.close()
            time.sleep(AROUND_S)
            for pair in pairs:
                pair.stop()
        for name in ("sent", "arrivals"):
            for path in folder.glob(f"*/{name}-*.bin"):
                path.unlink()  # the records have both
        one, other = self.nodes
        counts = {
            (pair.version, direction): judge.total(found)
            for pair in pairs
            for direction, found in zip(
                (f"{one} to {other}", f"{other} to {one}"),
                judge.read(pair.directory, []),
                strict=True,
            )
        }
        run = Run(move, size, rate_pps, folder, counts)
        say(
            f"          {move.to} after {move.total_s:.3f} s, VM paused for "
            f"{move.suspended_s:.3f} s (emulated); lost "
            + ", ".join(
                f"{c.lost} of {c.sent} {name} (IPv{version})"
                for (version, name), c in run.counts.items()
            )
        )
        return run

    def verdict(self) -> Verdict:
        """`overlapped` must lose nothing and double nothing; of `native` that is not expected."""
        runs = [r for r in self.runs if r.move.mode == "overlapped"]
        return judge.verdict(c for r in runs for c in r.counts.values())

    def table(self) -> str:
        """All runs."""
        headings = (
            "MODE|SIZE|RATE/S|MOVE|FAMILY|DIRECTION|SENT|LOST|DUPL.|REORD.|LONGEST GAP|OUTAGE|TOTAL"
        )
        rows = [
            (
                row["mode"],
                str(row["size"]),
                f"{row['rate_pps']:g}",
                row["move"],
                row["family"],
                row["direction"],
                *(str(row[n]) for n in ("sent", "lost", "duplicated", "reordered")),
                f"{row['longest_gap_s']:.3f} s",
                f"{row['outage_s']:.3f} s",
                f"{row['total_s']:.3f} s",
            )
            for run in self.runs
            for row in run.rows()
        ]
        return table(headings.split("|"), rows)

    def write(self) -> None:
        """result.json: what there is, whole or not."""
        rows = [row for run in self.runs for row in run.rows()]
        (self.out / "result.json").write_text(json.dumps(rows, indent=1) + "\n")


def idle_s() -> float:
    """How long processors have been idle since the machine started, all added up."""
    ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[4:6]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def heading(text: str) -> None:
    """A new part."""
    say(f"\n=== {text}\n")


def command(*words: str) -> None:
    """Run one `xenflow` command, shown as it is typed."""
    say(f"$ xenflow {' '.join(words)}")
    cli.main(words)
    sys.stdout.flush()
    if words[0] == "flows":
        say("")


def say(text: str) -> None:
    """A line of the demo."""
    print(text, flush=True)


def demo(out: Path, options: LabOptions) -> Verdict:
    """All of it.

    Raises TooBusyError where the traffic alone loses, NetworkError where anything fails.
    """
    from lab import picture  # matplotlib takes a second; nobody waits for it to see a usage text

    heading(
        "XenFlow on one machine: each host a namespace with a switch of its own; real switches,"
        f"\n    routing daemons and traffic; {EMULATED}"
    )
    lab = bring_up.up("paper", options, say=say)
    try:
        with mover(lab) as router, redirect_stdout(sys.stdout):
            one = Demo(lab, router, out)
            one.show()
            try:
                for mode in ("native", "overlapped"):
                    one.migrate_all(mode)
            finally:
                one.write()
    finally:
        bring_up.down(say=say)
    heading("Result")
    say(one.table())
    say(
        f"\nRATE/S: packets/s each way of each family, in each mode {RATE_PPS:g} of both families\n"
        "together, halved until nothing is lost without a move.\n"
        "OUTAGE: the longest time in which the router's own address did not answer.\n"
        f"{EMULATED[0].upper()}{EMULATED[1:]}: {options.pause_s:g} s, and the time\n"
        "that its interfaces take from one switch to the other."
    )
    path = picture.draw([r for r in one.runs if r.size == SIZES[0]], out / "migration.png")
    say(
        f"\n{_relative(out / 'result.json')}: these figures; {_relative(path)}: a picture;\n"
        f"{_relative(out)}/MODE-SIZE-FROM-TO/ipv4, ipv6: every packet's record"
    )
    return one.verdict()


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description=__doc__,
        epilog="exit status: 0 overlapped lost and doubled nothing; 1 it did, or something failed; "
        "3 invalid, the traffic without a move already loses; 130 interrupted",
    )
    parser.add_argument(
        "--pause",
        type=float,
        metavar="S",
        default=LabOptions().pause_s,
        help="the emulated pause, in seconds (default %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=ROOT / "out" / "demo",
        help="where results go: a new or empty folder, or an earlier demo's, whose "
        "results are replaced (default out/demo)",
    )
    args = parser.parse_args(argv)
    take_output(parser, args.out, _MARK, _MADE, ROOT / "out" / "demo")
    begin()
    begun = time.monotonic()
    try:
        verdict = demo(args.out, replace(LabOptions(), pause_s=args.pause))
    except KeyboardInterrupt:
        say("\ndemo: interrupted; everything was taken down")
        return INTERRUPTED
    except TooBusyError as error:
        say(f"\ndemo: {error}")
        return Verdict.INVALID
    except NetworkError as error:
        say(f"\ndemo: failed: {error}")
        return Verdict.FAILED
    words = {
        Verdict.PASSED: "overlapped lost nothing and doubled nothing",
        Verdict.FAILED: "FAILED: overlapped lost or doubled packets",
    }
    say(f"\n{words[verdict]} ({time.monotonic() - begun:.0f} s)")
    return verdict


if __name__ == "__main__":
    sys.exit(run_program("demo", main))
