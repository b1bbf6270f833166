"""`python -m bench.experiments`: measures what is missing, keeps it, draws the figures.

Called by `scripts/experiments`, which has made the set-up and the namespaces.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NoReturn

from bench.experiments import claims, points
from bench.experiments.points import ExperimentOptions, RunBatch
from bench.experiments.store import (
    Key,
    MeasuredRun,
    Store,
    TableError,
    read_csv,
    refused,
    write_csv,
)
from lab import own_folder, process
from xenflow.model.network import NetworkError

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTED = 130
_OUT = ROOT / "out" / "experiments"
PARTS = ("migrations", "designs", "figures")
PAGE, RUNS_CSV = "experiments.md", "runs.csv"

Make = Callable[[RunBatch, Callable[[str], None]], Iterator[MeasuredRun]]


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


class Series:
    """One call: rounds of sessions, their rows, how much is left."""

    def __init__(self, store: Store, rounds: list[list[RunBatch]], until: float) -> None:
        self._store, self._rounds, self._until = store, rounds, until
        self._left = [session for one in rounds for session in one]
        self.failed = 0
        self.out_of_time = False

    def took_s(self) -> dict[tuple[str, str], float]:
        """The mean time of a migration, by backend and mode."""
        found: dict[tuple[str, str], list[float]] = {}
        for row in self._store.rows():
            if "total_s" in row.values:
                found.setdefault((row.key.backend, row.key.what), []).append(row.values["total_s"])
        return {which: fmean(values) for which, values in found.items()}

    def left_s(self) -> float:
        """How long the rest will take."""
        took = self.took_s()
        return sum(points.expected_s(session, took) for session in self._left)

    def run(self, make: Make) -> None:
        """Make all of them, as far as the time allows."""
        total = sum(len(one) for one in self._rounds)
        for session in list(self._left):
            expected = points.expected_s(session, self.took_s())
            if time.monotonic() + expected > self._until:
                self.out_of_time = True
                return
            number = total - len(self._left) + 1
            say(f"[{number}/{total}] {describe(session)}; {duration(self.left_s())} left")
            made: set[Key] = set()
            try:
                for row in make(session, say):
                    self._store.add([row])
                    made.add(row.key)
                    say(f"    {outcome(row)}")
            except NetworkError as error:
                self.failed += 1
                say(f"    failed: {error}")
                self._store.add(
                    refused(key, f"failed: {error}") for key in session.keys if key not in made
                )
            self._left.remove(session)


def describe(session: RunBatch) -> str:
    """A session, for people."""
    key = session.key
    runs = ", ".join(str(k.run) for k in session.keys)
    rate = f", {key.traffic} at {key.rate_pps} packets/s" if key.rate_pps else ""
    return f"{key.backend}: {key.experiment} {key.what}, {key.size} bytes{rate}: run {runs}"


def outcome(row: MeasuredRun) -> str:
    """A run's result in one line."""
    if row.invalid:
        return f"run {row.key.run}: invalid"
    return f"run {row.key.run}: " + ", ".join(f"{n} {v:g}" for n, v in row.values.items())


def duration(seconds: float) -> str:
    """Roughly."""
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"


def planned(args: argparse.Namespace, store: Store) -> dict[str, list[list[RunBatch]]]:
    """What is to be made of each part: what is missing, or all of it again."""
    wanted = ExperimentOptions(
        args.runs, args.rates, args.sizes, args.modes, args.traffic, args.designs, args.on
    )
    series = {
        "migrations": list(points.migrations(wanted)),
        "designs": list(points.designs(wanted)),
    }
    chosen = {part: series[part] for part in series if part in args.only}
    made = () if args.again else store
    return {part: points.sessions(keys, made) for part, keys in chosen.items()}


def dry_run(rounds: dict[str, list[list[RunBatch]]], store: Store) -> None:
    """What would be made."""
    series = Series(store, [r for one in rounds.values() for r in one], 0.0)
    for part, found in rounds.items():
        for number, one in enumerate(found, 1):
            for session in one:
                print(f"{part}, round {number}: {describe(session)}")
    runs = sum(len(s.keys) for one in rounds.values() for r in one for s in r)
    print(f"{runs} runs, {duration(series.left_s())}; {len(list(store.rows()))} are there already")


def measure(args: argparse.Namespace, store: Store, rounds: dict[str, list[list[RunBatch]]]) -> int:
    """Make what is missing; returns the exit status."""
    from bench.experiments.designs import Designs
    from bench.experiments.migrations import Migrations

    until = time.monotonic() + args.seconds if args.seconds else float("inf")
    status = 0
    for part, missing in rounds.items():
        series = Series(store, missing, until)
        if part == "migrations":
            with Migrations(args.on, args.out / "traffic", say) as moves:
                series.run(moves.make)
        else:
            with Designs() as routers:
                series.run(routers.make)
        status |= series.failed > 0
        if series.out_of_time:
            say(f"{part}: {duration(series.left_s())} are left; the next call goes on")
    return status


def publish(store: Store, folder: Path) -> None:
    """Figures, their data and the tables, of all runs that are kept."""
    from bench.experiments import figures  # matplotlib takes a second

    rows, tried = list(store.rows()), list(store.refused())
    drawn = folder / "figures"
    drawn.mkdir(parents=True, exist_ok=True)
    files = [write_csv([*rows, *tried], drawn / RUNS_CSV), *figures.draw(rows, drawn)]
    claims.rewrite(folder / PAGE, claims.measured(rows, tried))
    print(f"{len(rows)} runs: {folder / PAGE}, {len(files)} files in {drawn}")


def begin() -> None:
    """SIGTERM is like Ctrl-C from now on, so that everything is taken down; and the migrations go
    before what else runs on the machine."""
    process.go_first(os.getpid())

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    args = _arguments(words)
    try:
        return _series(args)
    except TableError as error:
        say(f"experiments: {error}")
        return 1


def _kept(args: argparse.Namespace) -> Store:
    """The runs of `--out`, and those that are published where `--docs` says."""
    published = read_csv(args.docs / "figures" / RUNS_CSV) if args.docs else ()
    return Store(args.out / "runs.jsonl", published)


def _series(args: argparse.Namespace) -> int:
    store = _kept(args)
    rounds = planned(args, store)
    if args.dry_run:
        dry_run(rounds, store)
        return 0
    if rounds and os.geteuid() != 0:
        say("experiments: needs root: it makes network namespaces")
        return 1
    if rounds:
        begin()
    status = 0
    try:
        status = measure(args, store, rounds)
    except KeyboardInterrupt:
        say("experiments: interrupted; what was measured is kept, the next call goes on")
        status = INTERRUPTED
    if "figures" in args.only:
        publish(_kept(args), args.docs or args.out)  # what was published meanwhile stays, too
    return status


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/experiments",
        description="The report's experiments: figures 5.2, 5.3, 5.4 "
        "and 1.5. What was measured is kept in out/experiments and not measured again.",
        epilog="scripts/setup runs first, which needs root and installs what is missing, also for "
        "--only figures (matplotlib); not for --dry-run, which changes nothing. Exit status: 0 all "
        "that was tried was measured or invalid; 1 a run failed, or what is published cannot be "
        "read; 2 wrong command line; 130 interrupted",
        allow_abbrev=False,
    )
    default = ExperimentOptions()
    parser.add_argument(
        "--on",
        choices=tuple(points.BACKENDS),
        default=default.backend,
        help="where routers run (default %(default)s); xen: two hosts under QEMU, "
        "which scripts/test-xen --build has built",
    )
    parser.add_argument(
        "--runs",
        type=_positive,
        default=default.runs,
        metavar="N",
        help="of each point (default %(default)s)",
    )
    for name, kind, choices, known in (
        ("sizes", _size, None, default.sizes),
        ("modes", str, points.MODES, default.modes),
        ("designs", str, default.designs, default.designs),
        ("only", str, PARTS, PARTS),
    ):
        words_ = ",".join(map(str, known))
        parser.add_argument(
            f"--{name}",
            type=_list(kind, choices),
            default=known,
            metavar="A,B",
            help=f"{_HELP[name]} (default {words_})",
        )
    for name, known_, kind, choices in (
        ("rates", "500,1000,2000,4000; on xen 10,50", _positive, None),
        ("traffic", "probe,iperf; on xen iperf", str, points.TRAFFICS),
    ):
        parser.add_argument(
            f"--{name}",
            type=_list(kind, choices),
            default=(),
            metavar="A,B",
            help=f"{_HELP[name]} (default {known_})",
        )
    parser.add_argument(
        "--again",
        action="store_true",
        help="measure also what is kept already; until a run is replaced the old one counts",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="begin nothing that would end later than after so long",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be measured")
    parser.add_argument(
        "--out",
        type=Path,
        default=_OUT,
        metavar="DIR",
        help="where runs are kept, and figures and experiments.md written (default "
        "out/experiments)",
    )
    parser.add_argument(
        "--docs",
        type=_documents,
        metavar="DIR",
        help="write figures and experiments.md there instead; the runs of its "
        "figures/runs.csv count as kept, of two of the same the later",
    )
    args = parser.parse_args(words)
    if not args.dry_run:
        try:
            own_folder.take(args.out, "runs.jsonl", own=_OUT)
        except own_folder.NotOurFolderError as error:
            parser.error(f"--out {error}")
    return args


_HELP = {
    "rates": "packets/s",
    "sizes": "bytes of a packet; 1500 is an IP packet's",
    "modes": "who forwards while a router moves",
    "traffic": "who sends and counts",
    "designs": "of figure 1.5",
    "only": "migrations: figures 5.2 to 5.4; designs: figure 1.5; figures: draw them and write "
    "the tables",
}


def _list(kind: Callable[[str], object], known: Sequence[object] | None) -> Callable[[str], object]:
    def read(text: str) -> tuple[object, ...]:
        found = tuple(kind(word) for word in text.split(","))
        if known and (wrong := [word for word in found if word not in known]):
            raise argparse.ArgumentTypeError(f"{wrong[0]}: known are {', '.join(map(str, known))}")
        return found

    return read


def _documents(text: str) -> Path:
    folder, page = Path(text), Path(text) / PAGE
    try:
        claims.replaced(page.read_text(), "")
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{page}: {error}") from error
    return folder


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def _size(text: str) -> int:
    size = _positive(text)
    if not 64 <= size <= 1518:
        raise argparse.ArgumentTypeError(f"{size}: expected 64 to 1518")
    return size


if __name__ == "__main__":
    sys.exit(main())
