"""The verbs of the `xenflow` command, one file each.

A verb's module has `NAME`, `SUMMARY` (one line), `add_arguments(parser)` and `run(args, session)`,
which prints, and returns an `Exit`.  `mgmt.cli` holds the table of them all.  What several verbs
share on the command line is here.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import Any, Protocol

from mgmt.client import AskError
from mgmt.session import ManagementSession
from mgmt.text import to_json


class Exit(IntEnum):
    """What the command's exit status says."""

    OK = 0
    FAILED = 1
    """Refused, or failed, or only a part of the answer; the reason is on standard error."""
    USAGE = 2
    """The command line or the network file is wrong; nothing was changed."""
    UNREACHABLE = 3
    """A controller that was needed did not answer."""
    UNHEALTHY = 4
    """Of `status`: everybody answered, and something in the network is not as it should be."""
    LATE = 5
    """By way of the store: the change is made, and not in force everywhere yet."""
    INTERRUPTED = 130


class Command(Protocol):
    """What each module of this package looks like."""

    NAME: str
    SUMMARY: str

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The verb's part of the command line."""

    def run(self, args: Namespace, session: ManagementSession) -> int:
        """Do it.  Raises NetworkError and AskError, which `mgmt.cli` reports."""


def add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON (shape: docs/cli.md)")


def add_dry_run(parser: ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="say what would be done, and do nothing"
    )


def seconds(text: str) -> float:
    """A time on the command line: more than 0, at most a day.  Raises ValueError."""
    value = float(text)
    if not 0 < value <= 86400:
        raise ValueError
    return value


seconds.__name__ = "time in seconds"


def emit(args: Namespace, value: Any, text: str) -> None:
    """Print `value` with --json, else `text`."""
    print(to_json(value) if args.json else text)


@contextmanager
def asked_for(args: Namespace, **asked: Any) -> Iterator[None]:
    """What is refused meanwhile says what was asked for, too, where it is printed as JSON."""
    args.asked_for = {**asked, "refused": True}
    yield
    args.asked_for = {}


def refuse(args: Namespace, error: object, status: Exit) -> Exit:
    """Say why nothing was done, with --json as an object, too; every refusal of every verb comes
    here.  Returns the exit status."""
    complain(error)
    print_refusal(args, error, status)
    return status


def print_refusal(args: Namespace, error: object, status: int) -> None:
    """The object, with --json."""
    if getattr(args, "json", False):
        with suppress(OSError):
            print(to_json(getattr(args, "asked_for", {}) | refusal(error, status)), flush=True)


def refusal(error: object, status: int) -> dict[str, Any]:
    """What every object of a refusal has, also of verbs that say more in theirs."""
    return {"ok": False, "error": str(error), "status": int(status)}


def complain(message: object) -> None:
    """A line on standard error, if anybody reads it."""
    with suppress(OSError):
        print(f"xenflow: {message}", file=sys.stderr, flush=True)


def agreed(words: object) -> bool:
    """Ask on the terminal; no answer (end of input) is a no."""
    complain(words)
    return answered("go on? [yes/no] ", ("y", "yes"))


def answered(question: str, yes: Collection[str]) -> bool:
    """Ask until the line typed is one of `yes` (small letters), or n or no; no answer (end of
    input) is a no."""
    while True:
        print(question, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        answer = line.strip().lower()
        if line and answer in yes:
            return True
        if not line or answer in ("n", "no"):
            return False


def complain_of(silent: dict[str, AskError]) -> Exit:
    """Say which controllers gave no answer; the exit status that this means."""
    for error in silent.values():
        complain(error)
    return Exit.FAILED if silent else Exit.OK
