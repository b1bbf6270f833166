"""What the programs that measure migrations have in common: `scripts/demo`, `soak`, `random-moves`.

A run that ends before its time has measured something, too: what was counted until then is written
and printed, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from lab import bring_up, evidence, judge, own_folder, process
from lab.description import ROOT, Lab
from lab.judge import Counts, Verdict
from lab.moves import Move
from lab.probe import TooBusyError
from lab.state import LabOptions
from mgmt.text import table
from xenflow.model.network import NetworkError

Measured = TypeVar("Measured")
INTERRUPTED = 130
"""The exit status after Ctrl-C or SIGTERM."""
EXIT_STATUS = (
    "exit status: 0 nothing lost or doubled; 1 something was, or a move failed; 2 wrong command "
    "line; 3 invalid, the traffic alone already loses; 130 interrupted.  What was counted until a "
    "move failed, or until Ctrl-C, is written and printed, too; where a move failed, the folder of "
    "the results also has the logs of the lab, what its switches held, and the controllers' status"
)


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a run ended before its last move.

    at_ns        CLOCK_MONOTONIC, when the move began that was not finished
    interrupted  by a signal; else that move failed
    """

    reason: str
    at_ns: int
    interrupted: bool

    def text(self) -> str:
        """For people."""
        return self.reason if self.interrupted else f"the next move failed: {self.reason}"


@dataclass(frozen=True, slots=True)
class Moved:
    """The moves that were finished, in order, and why there are no more, where there should be."""

    moves: list[Move]
    ended: Ended | None

    def begins_ns(self) -> list[int]:
        """When each move began, and the one that was not finished, too."""
        begun = [move.began_ns for move in self.moves]
        return begun if self.ended is None else [*begun, self.ended.at_ns]

    def verdict(self, counts: Iterable[Counts]) -> Verdict:
        """Of all that was counted: a run that a move's failure has ended is failed, too."""
        if self.ended is not None and not self.ended.interrupted:
            return Verdict.FAILED
        return judge.verdict(counts)


def make_moves(number: int, between_s: float, move: Callable[[int], Move], folder: Path) -> Moved:
    """Moves one after another, each given its index, until one fails or somebody interrupts.  Where
    one fails, the folder gets what may say why (`evidence`)."""
    moves: list[Move] = []
    at_ns = time.monotonic_ns()
    try:
        for index in range(number):
            at_ns = time.monotonic_ns()
            last = move(index)
            moves.append(last)
            at_ns = time.monotonic_ns()
            say(
                f"move {index + 1} of {number}: {last.router} from {last.source} to {last.to}, "
                f"{last.total_s:.3f} s"
            )
            if last.signalled:
                raise KeyboardInterrupt
            time.sleep(between_s)
    except (NetworkError, KeyboardInterrupt) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        if not interrupted:
            evidence.save(folder)
        return Moved(moves, Ended("interrupted" if interrupted else str(error), at_ns, interrupted))
    return Moved(moves, None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has measured.

    wanted  a dataclass: what was asked for
    counts  of all packets: those sent before the first move, then of each move, of one that was
            not finished, too
    """

    wanted: Any
    moved: Moved
    counts: list[Counts]

    def verdict(self) -> Verdict:
        """Passed, or failed."""
        return self.moved.verdict([judge.total(self.counts)])

    def json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "verdict": self.verdict().name.lower(),
            "ended": self.moved.ended and self.moved.ended.text(),
            "emulated": ["hypervisor", "pause of stop-and-copy"],
            **asdict(self.wanted),
            "moves": [
                {
                    "router": move.router,
                    "from": move.source,
                    "to": move.to,
                    "total_s": round(move.total_s, 6),
                    "suspended_s": round(move.suspended_s, 6),
                    "outage_s": round(move.outage_s, 6),
                    **asdict(judge.rounded(counts)),
                }
                for move, counts in self._rows()
            ],
            "sum": asdict(judge.rounded(judge.total(self.counts))),
        }

    def _rows(self) -> Iterator[tuple[Move, Counts]]:
        return zip(self.moved.moves, self.counts[1:], strict=False)

    def text(self) -> str:
        """For people."""
        headings = "MOVE|ROUTER|FROM|TO|TOTAL|SILENT|SENT|LOST|DOUBLED|REORDERED|LONGEST GAP"
        rows = [
            (
                number,
                move.router,
                move.source,
                move.to,
                f"{move.total_s:.3f} s",
                f"{move.outage_s:.3f} s",
                *(c.sent, c.lost, c.duplicated, c.reordered),
                f"{c.longest_gap_s * 1000:.1f} ms",
            )
            for number, (move, c) in enumerate(self._rows(), 1)
        ]
        lines = ["", table(headings.split("|"), rows), "", *self.findings()]
        if self.moved.ended is not None:
            lines.append(self.moved.ended.text())
        total = judge.total(self.counts)
        lines.append(
            f"{self.verdict().name.lower()}: {len(self.moved.moves)} moves in "
            f"{self.wanted.topology}{self.how()}: {total.lost} lost, {total.duplicated} "
            f"duplicated, {total.reordered} reordered of {total.sent}"
        )
        return "\n".join(lines)

    def findings(self) -> list[str]:
        """What else was found, a line each."""
        return []

    def how(self) -> str:
        """How the routers moved, and under which traffic."""
        return ""


def in_lab(file: Path, options: LabOptions, measure: Callable[[Lab], Measured]) -> Measured:
    """Bring a network up, measure, take it down."""
    lab = bring_up.up(file, options, say=say)
    try:
        return measure(lab)
    finally:
        bring_up.down(say=say)


def run(name: str, args: argparse.Namespace, wanted: Any, work: Callable[[], Outcome]) -> int:
    """Do the work, write result.json, print; returns the exit status.

    wanted  a dataclass: what was asked for, which result.json repeats
    """
    value: dict[str, Any]
    try:
        outcome = work()
    except TooBusyError as error:
        value, text, status = _nothing("invalid", error, wanted), str(error), int(Verdict.INVALID)
    except NetworkError as error:
        value, text = _nothing("failed", error, wanted), f"failed: {error}"
        status = int(Verdict.FAILED)
    except KeyboardInterrupt:
        say(f"{name}: interrupted before anything was measured")
        return INTERRUPTED
    else:
        value, text, status = outcome.json(), outcome.text(), int(outcome.verdict())
        if (ended := outcome.moved.ended) is not None and ended.interrupted:
            status = INTERRUPTED
    (args.out / "result.json").write_text(json.dumps(value, indent=1) + "\n")
    print(json.dumps(value, indent=1) if args.json else text)
    return status


def _nothing(verdict: str, error: Exception, wanted: Any) -> dict[str, Any]:
    return {"verdict": verdict, "reason": str(error), **asdict(wanted)}


def add_output(parser: argparse.ArgumentParser, out: Path) -> None:
    """The options that say where results go."""
    parser.add_argument(
        "--out",
        type=Path,
        default=out,
        metavar="DIR",
        help="where result.json and the probe's records go: a new or empty folder, "
        f"or an earlier run's, whose results are replaced (default {out.relative_to(ROOT)})",
    )
    parser.add_argument("--json", action="store_true", help="the result as JSON")


def take_output(
    parser: argparse.ArgumentParser, out: Path, mark: str, made: Sequence[str], own: Path
) -> None:
    """`own_folder.take`; a folder that is somebody else's is an error of the command line."""
    try:
        own_folder.take(out, mark, (*made, *evidence.MADE), own=own)
    except own_folder.NotOurFolderError as error:
        parser.error(f"--out {error}")


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def begin() -> None:
    """SIGTERM is like Ctrl-C from now on: what was brought up is taken down.  And the migration,
    which runs in this process, goes before what else runs on the machine, as the lab does."""
    process.go_first(os.getpid())

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
