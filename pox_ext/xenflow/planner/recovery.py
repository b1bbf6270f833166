"""Moves whose owner has gone are finished, or undone, without people.

Every host concerned tells who moves a router and whether it has heard of the owner lately (table
`Migration`).  Where none has for a while, `xenflow recover` is run, as a person would: it takes the
lease under a higher term, looks where the VM is, and goes on from there.  One at a time; what does
not succeed is tried again.  A host that is silent holds it up: it may have heard the owner.

Knows neither processes nor clocks; called by `service`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from xenflow.model.network import Network
from xenflow.store.transaction import StoreRow

log = logging.getLogger("xenflow.planner")

PATIENCE_S = 2.0
"""So long the owner must have been unheard of by all: whoever tells it may be told late."""
AGAIN_S = 30.0
"""How soon it is tried again."""

Moves = Mapping[str, tuple[StoreRow, ...]]
"""Of each router that is being moved, or whose move was left, what hosts tell of it."""


class Recovering(Protocol):
    """`xenflow recover` of one router, while it runs."""

    def ended(self) -> str | None:
        """None while it runs; "" where it has succeeded, else why it has not."""

    def stop(self) -> None:
        """Have it put back, or end, what it does; to be called where it is not needed any more."""


class Recovery:
    """See the module.

    start  begins the recovery of a router of a network
    ended  is told each one that has ended, and why it did not succeed, "" where it did
    """

    def __init__(
        self, start: Callable[[str, Network], Recovering], ended: Callable[[str, str], None]
    ) -> None:
        self._start = start
        self._ended = ended
        self._left: dict[str, tuple[tuple[StoreRow, ...], float]] = {}
        """Of moves whose owners no host has heard of the rows, and when it is time."""
        self._running: tuple[str, Recovering] | None = None

    def tick(self, now: float, moves: Moves, network: Network) -> None:
        """Look what is left; `moves`: as hosts have told."""
        if self._running is not None:
            self._look(now, *self._running)
            return
        left = {name: rows for name, rows in moves.items() if _is_left(rows)}
        for name in self._left.keys() - left.keys():
            del self._left[name]
        for name, rows in left.items():
            if self._left.get(name, ((), 0.0))[0] != rows:
                self._left[name] = rows, now + PATIENCE_S
        due = [name for name, (_, at) in self._left.items() if at <= now]
        if due and due[0] in network.routers:
            log.info("%s: %s was left: it is recovered", due[0], left[due[0]][0]["words"])
            self._running = due[0], self._start(due[0], network)

    def _look(self, now: float, name: str, running: Recovering) -> None:
        why = running.ended()
        if why is None:
            return
        self._running = None
        self._ended(name, why)
        if why:
            log.error("%s is not recovered, which is tried again: %s", name, why)
            rows, _ = self._left.get(name, ((), 0.0))
            self._left[name] = rows, now + AGAIN_S
        else:
            log.info("%s is recovered", name)
            self._left.pop(name, None)

    def end(self) -> None:
        """The planner ends, or another holds the lease."""
        if self._running is not None:
            self._running[1].stop()
            self._running = None


def _is_left(rows: tuple[StoreRow, ...]) -> bool:
    return not any(row["under_way"] for row in rows)
