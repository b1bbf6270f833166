"""`xenflow export`: prints the network, as it is now, as a network file.

Where the network lives in a store that is what was applied last; else it is what the network file
says.  Comments and the lab's part of a file are not in it.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mgmt.session import ManagementSession
from mgmt.verbs import Exit
from xenflow.store.network_text import to_text

NAME = "export"
SUMMARY = "print the network as a network file"


def add_arguments(parser: ArgumentParser) -> None:
    """It has none of its own."""


def run(_: Namespace, session: ManagementSession) -> int:
    print(to_text(session.network), end="")
    return Exit.OK
