"""`xenflow diff`: what `xenflow apply` of a file would change, as far as this command knows.

Asks nobody but, where the network lives in a store, what the network is.  Status 0 where nothing
differs, 1 where something does.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mgmt.session import ManagementSession
from mgmt.verbs import Exit, add_json, emit
from mgmt.verbs.apply import lines, read
from xenflow.model.difference import compare, refusals

NAME = "diff"
SUMMARY = "what a network file would change"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a network file")
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    _, after = read(args.file, session.network)
    found = compare(session.network, after)
    refused = refusals(session.network, after, found)
    text = [*lines(found.json()), *(f"refused: {words}" for words in refused)]
    value = {"differs": bool(found), "changed": found.json(), "refused": refused}
    emit(args, value, "\n".join(text) or "the file says nothing new")
    return Exit.FAILED if found else Exit.OK
