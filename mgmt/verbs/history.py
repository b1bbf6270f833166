"""`xenflow history`: the changes of a network that lives in a store, the last one first.

Of each its number, when it was made, by whom, and what it changed.  The last 100 are kept.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from mgmt.session import ManagementSession
from mgmt.text import table
from mgmt.verbs import Exit, add_json, emit
from mgmt.verbs.apply import ask_planner, lines

NAME = "history"
SUMMARY = "the changes of the network, by way of the store"


def add_arguments(parser: ArgumentParser) -> None:
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    changes = ask_planner(session, "history")["changes"]
    rows = [
        [
            str(one["number"]),
            datetime.fromtimestamp(one["when"]).isoformat(" "),
            one["by"],
            "; ".join((*lines(one["changed"]), *_state(one))) or "the first",
        ]
        for one in changes
    ]
    emit(args, {"changes": changes}, table(["CHANGE", "WHEN", "BY", "CHANGED"], rows))
    return Exit.OK


def _state(change: dict[str, Any]) -> Iterator[str]:
    """What became of one that was to be confirmed."""
    if change["confirm_s"]:
        waits = f"waits to be confirmed ({change['confirm_s']} s)"
        yield {"laid": waits, "put back": "not confirmed"}.get(change["state"], "confirmed")
