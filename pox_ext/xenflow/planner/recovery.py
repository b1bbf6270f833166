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
"""How soon it is tried again, where it did not succeed."""

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
    ended  is told each one that has ended, and why it did not succeed, "" where it did; the same
           reason once only
    """

    def __init__(
        self, start: Callable[[str, Network], Recovering], ended: Callable[[str, str], None]
    ) -> None:
        self._start = start
        self._ended = ended
        self._left: dict[str, tuple[tuple[StoreRow, ...], float]] = {}
        """Of moves whose owners no host has heard of the rows, and when it is time."""
        self._running: tuple[str, Recovering] | None = None
        self._failed: dict[str, tuple[str, float]] = {}
        """Of those that did not succeed why, and when they may be tried again.  A recovery takes
        the lease itself, so the rows are others afterwards."""

    def tick(self, now: float, moves: Moves, network: Network) -> None:
        """Look what is left; `moves`: as hosts have told."""
        if self._running is not None:
            self._look(now, *self._running)
            return
        left = {name: rows for name, rows in moves.items() if _is_left(rows)}
        for name in self._left.keys() - left.keys():
            del self._left[name]
        for name in self._failed.keys() - moves.keys():
            del self._failed[name]
        for name, rows in left.items():
            if self._left.get(name, ((), 0.0))[0] != rows:
                _, again = self._failed.get(name, ("", 0.0))
                self._left[name] = rows, again if again > now else now + PATIENCE_S
        due = (n for n, (_, at) in self._left.items() if at <= now and n in network.routers)
        if name := next(due, ""):
            log.info("%s: %s was left: it is recovered", name, left[name][0]["words"])
            try:
                self._running = name, self._start(name, network)
            except OSError as error:  # no room for a process, or for its file
                self._has_ended(now, name, str(error))

    def _look(self, now: float, name: str, running: Recovering) -> None:
        why = running.ended()
        if why is None:
            return
        self._running = None
        self._has_ended(now, name, why)

    def _has_ended(self, now: float, name: str, why: str) -> None:
        self._left.pop(name, None)
        before, _ = self._failed.pop(name, ("", 0.0))
        if why:
            log.error("%s is not recovered, which is tried again: %s", name, why)
            self._failed[name] = why, now + AGAIN_S
        else:
            log.info("%s is recovered", name)
        if not why or why != before:
            self._ended(name, why)

    def end(self) -> None:
        """The planner ends, or another holds the lease."""
        self._left.clear()
        if self._running is not None:
            self._running[1].stop()
            self._running = None


def _is_left(rows: tuple[StoreRow, ...]) -> bool:
    return not any(row["under_way"] for row in rows)
