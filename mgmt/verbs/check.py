"""`xenflow check`: whether a network file is right by itself; asks nobody.

All mistakes are printed, those of its lab's part, too, each with its line, what was found and what
was expected (status 2).
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mgmt.session import ManagementSession, UsageError
from mgmt.text import count
from mgmt.verbs import Exit, add_json, complain, emit
from xenflow.model.network import PARTS, Network, NetworkError
from xenflow.store import network_file

NAME = "check"
SUMMARY = "whether a network file is right"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a network file")
    add_json(parser)


def run(args: Namespace, _: ManagementSession) -> int:
    try:
        network, machines = _look(network_file.read_text(args.file), args.file)
    except NetworkError as error:
        raise UsageError(str(error)) from None
    has = {part: len(getattr(network, part)) for part in PARTS}
    has |= {} if machines is None else {"machines": machines}
    words = ", ".join(count(number, part.removesuffix("s")) for part, number in has.items())
    emit(args, {"ok": True, "network": network.name, **has}, f"{network.name}: {words}")
    return Exit.OK


def _look(text: str, file: str) -> tuple[Network, int | None]:
    """The network, and how many machines its lab has; None where there is no lab."""
    try:
        from lab.description import check  # an installation may leave the lab out
    except ImportError:
        network, table = network_file.parse(text, file)
        if table:
            complain("[lab] was not looked at: the lab is not installed here")
        return network, None
    network, lab = check(text, file)
    return network, len(lab.machines) if lab else None
