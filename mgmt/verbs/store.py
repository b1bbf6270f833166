"""`xenflow store`: the store itself, by its member on this machine.

FOLDER is the member's: it holds the database, the log and the sockets.  A server runs on when this
ends, and not after a reboot: `xenflow-store.service` starts it then.  docs/store.md has the whole
way.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mgmt.session import ManagementSession
from mgmt.verbs import Exit, refuse
from xenflow.store.__main__ import add_verbs, carry_out
from xenflow.store.server import StoreServerError

NAME = "store"
SUMMARY = "makes, starts, shows, backs up and stops this machine's member of the store"


def add_arguments(parser: ArgumentParser) -> None:
    add_verbs(parser)


def run(args: Namespace, _: ManagementSession) -> int:
    try:
        carry_out(args)
    except StoreServerError as error:
        return refuse(args, f"store: {error}", Exit.FAILED)
    return Exit.OK
