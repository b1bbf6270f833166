"""`xenflow check`: whether a network file is right by itself; asks nobody.

All mistakes are printed, each with its line, what was found and what was expected (status 2).
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mgmt.session import ManagementSession
from mgmt.text import count
from mgmt.verbs import Exit, add_json, emit
from mgmt.verbs.apply import read
from xenflow.model.network import PARTS

NAME = "check"
SUMMARY = "whether a network file is right"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a network file")
    add_json(parser)


def run(args: Namespace, _: ManagementSession) -> int:
    network = read(args.file)[1]
    has = {part: len(getattr(network, part)) for part in PARTS}
    words = ", ".join(count(number, part.removesuffix("s")) for part, number in has.items())
    emit(args, {"ok": True, "network": network.name, **has}, f"{network.name}: {words}")
    return Exit.OK
