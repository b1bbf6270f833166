"""`xenflow confirm`: a change that was applied with `--confirm` stays.

Without CHANGE the one that waits for it.  A further change confirms it, too.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mgmt.session import ManagementSession
from mgmt.verbs import Exit, add_json, emit
from mgmt.verbs.apply import ask_planner

NAME = "confirm"
SUMMARY = "a change that waits to be confirmed stays"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("change", metavar="CHANGE", type=int, nargs="?", help="its number")
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    change = ask_planner(session, "confirm", change=args.change)["change"]
    emit(args, {"ok": True, "change": change}, f"change {change} stays")
    return Exit.OK
