"""What a controller has seen, kept true in the store: rows that only this host writes.

What rows there shall be is asked for whenever something may have changed; what differs in the store
is written in one transaction, and what was not written is tried again at the next look.  Nothing
waits for it.  Called by `store_follower`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from xenflow.control.leases import Leases
from xenflow.model.network import Network
from xenflow.model.placement import Placement, newest_each
from xenflow.plan.migration import purpose
from xenflow.store import placement_rows
from xenflow.store.columns import Cell
from xenflow.store.network_rows import key_of
from xenflow.store.network_store import NetworkStore, Rows, WatchedTable
from xenflow.store.schema import TABLES
from xenflow.store.transaction import (
    Committed,
    Delete,
    Insert,
    Operation,
    RefusalReason,
    StoreRow,
    Update,
    WriteOutcome,
    WriteRefused,
    equal,
    row_id,
)

log = logging.getLogger("xenflow.store")

WRITE_S = 10.0
"""How long the store may take to write."""
OWN = ("Switch_State", "Placement", "Migration")
"""The tables, in `ObservedRows` each with the rows that it shall have."""

Wanted = Iterable[tuple[str, StoreRow]]
"""Rows that there shall be, each with its table."""


def watched(host: str) -> tuple[WatchedTable, ...]:
    """What is to be watched of the rows of a host."""
    return tuple(WatchedTable(name, tuple(TABLES[name].columns), equal(host=host)) for name in OWN)


class ObservedRows:
    """See the module.

    wanted    which rows there shall be
    there     what the watch has told by then: a store that was away may have others afterwards
    no_right  is told why the store does not let this host write its rows, or ""
    """

    def __init__(
        self,
        store: NetworkStore,
        host: str,
        wanted: Callable[[], Wanted],
        there: Callable[[], Rows],
        no_right: Callable[[str], Any],
    ) -> None:
        self._no_right = no_right
        self._store = store
        self._host = host
        self._wanted = wanted
        self._there = there
        self._writing = self._again = False

    def write(self) -> None:
        """Write what differs, once the last is written."""
        self._again = self._writing
        if self._writing:
            return
        found = tuple(self._differences())
        if found:
            self._writing = True
            self._store.transact(found, WRITE_S, self._written)

    def _differences(self) -> Iterator[Operation]:
        there = self._there()
        whole = [(table, {"host": self._host, **row}) for table, row in self._wanted()]
        wanted = {(table, key_of(table, row)): row for table, row in whole}
        own = equal(host=self._host)
        for table in OWN:
            for uuid, row in there.get(table, {}).items():
                shall = wanted.pop((table, key_of(table, row)), None)
                if shall is None:
                    yield Delete(table, (*row_id(uuid), *own))
                elif other := {name: cell for name, cell in shall.items() if row[name] != cell}:
                    yield Update(table, (*row_id(uuid), *own), other)
        for (table, _), row in wanted.items():
            yield Insert(table, row)

    def _written(self, outcome: WriteOutcome) -> None:
        self._writing = False
        if isinstance(outcome, Committed):
            self._no_right("")
            if self._again:
                self.write()
        else:
            log.info("what was seen here is not written: %s", outcome.words)
            if isinstance(outcome, WriteRefused) and outcome.reason is RefusalReason.RIGHTS:
                self._no_right(outcome.words)


def placements(network: Network, known: Iterable[Placement], there: Iterable[Cell]) -> Wanted:
    """Where routers are, of those that have ever left their homes.  What the store has of this
    host, and is newer, stays: this host has lost what it knew then."""
    away = [p for p in known if p.has_left(network.routers[p.router])]
    told = placement_rows.read(there, network)
    for placement in newest_each((*told, *away)).values():
        cells: dict[str, Cell] = {
            "element": placement.router,
            "version": placement.version,
            "placement": placement_rows.to_cell(placement, network.routers[placement.router]),
        }
        yield "Placement", cells


def migrations(leases: Leases) -> Wanted:
    """Who migrates routers, or has left that unfinished."""
    for row in leases.rows():
        about: Any = next(iter(row["journal"]), None)
        if about and about.get("brief"):  # its VM is made, or ended: nothing is left of that
            continue
        cells: dict[str, Cell] = {
            "element": row["router"],
            "owner": row["owner"],
            "term": row["term"],
            "under_way": row["under_way"],
            "words": purpose(row["router"], about),
        }
        yield "Migration", cells
