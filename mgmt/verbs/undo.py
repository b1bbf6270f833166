"""`xenflow undo`: what a change has changed becomes again what it was, by way of the store.

Refused where any of it has been changed since.  It is a change of its own, made and waited for as
`xenflow apply` does, and can be undone too; it makes and ends no VM.  `xenflow history` shows the
numbers.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mgmt.session import ManagementSession
from mgmt.verbs import add_dry_run, add_json
from mgmt.verbs.apply import ask_planner, carry_out
from xenflow.store import network_file

NAME = "undo"
SUMMARY = "a change of the network is undone, by way of the store"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("change", metavar="CHANGE", type=int, help="its number")
    add_dry_run(parser)
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    undone = ask_planner(session, "undone", change=args.change)
    file = f"change {args.change} undone"
    after, _ = network_file.parse(undone["text"], file, session.network, in_store=True, unseen=True)
    return carry_out(args, session, undone["text"], file, after, undone["last"])
