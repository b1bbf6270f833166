"""What the store is to those who use it: three operations, and values that nobody can change.

`transact` and `watch` return at once; what comes of them is handed over by the `post` that the
store was made with (under POX: `core.call_later`), so that a program's own loop calls it.  Every
call has a deadline, in seconds.  `OvsdbStore` is the store; tests have one in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from xenflow.store.transaction import (
    ROW_ID,
    Condition,
    StoreMistakeError,
    StoreRow,
    Transaction,
    WriteOutcome,
    check_conditions,
    column_of,
    columns_of,
)

Post = Callable[..., Any]
"""`post(call, value)`: have the program's own loop call it, after what was posted before."""


@dataclass(frozen=True, slots=True)
class WatchedTable:
    """What is watched of a table: these columns of the rows that satisfy at least one of the
    conditions; of all rows where there is none (ovsdb-server(7), 4.1.12)."""

    table: str
    columns: tuple[str, ...]
    any_of: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class WholeView:
    """All that is watched: table, UUID, row.  It comes first, and again after a reconnect where the
    server does not know any more what has changed since."""

    rows: Mapping[str, Mapping[str, StoreRow]]


@dataclass(frozen=True, slots=True)
class RowChange:
    """One row before and after; None: it was not, or is not, among what is watched."""

    table: str
    uuid: str
    before: StoreRow | None
    after: StoreRow | None


@dataclass(frozen=True, slots=True)
class RowChanges:
    """What one transaction changed; several, where they came so fast that the server joined them.
    In order, and never a part of a transaction."""

    changes: tuple[RowChange, ...]


Rows = dict[str, dict[str, StoreRow]]
"""Table, UUID, row: what a watch has told so far."""


def told(rows: Rows, event: WholeView | RowChanges) -> Rows:
    """The rows after an event; of changes the same object, changed."""
    if isinstance(event, WholeView):
        return {table: dict(of_it) for table, of_it in event.rows.items()}
    for change in event.changes:
        of_table = rows.setdefault(change.table, {})
        if change.after is None:
            of_table.pop(change.uuid, None)
        else:
            of_table[change.uuid] = change.after
    return rows


def touches(event: WholeView | RowChanges, tables: Iterable[str]) -> bool:
    """Whether it says something of one of these tables; a whole view does."""
    if isinstance(event, WholeView):
        return True
    return not {change.table for change in event.changes}.isdisjoint(tables)


@dataclass(frozen=True, slots=True)
class ViewOverdue:
    """The whole has not come; `words` say why.  Its deadline has passed, or the server refuses the
    watch, or says rows that do not fit the schema.  It is still awaited; after a refusal, which is
    told once, from the next connection on."""

    words: str


WatchEvent = WholeView | RowChanges | ViewOverdue


@dataclass(frozen=True, slots=True)
class StoreState:
    """Whether the store can be written to.

    connected  a server is connected that leads the cluster
    leader     which, as it was named to us; empty while not connected
    cluster    the cluster's id; empty until it is known
    words      why not connected; empty where it is
    """

    connected: bool
    leader: str
    cluster: str
    words: str


class NetworkStore(Protocol):
    """The store, as its users know it."""

    def transact(
        self, transaction: Transaction, deadline_s: float, done: Callable[[WriteOutcome], Any]
    ) -> None:
        """Do all of it or nothing; `done` is given the outcome, once, when the deadline passes at
        the latest.  `Committed` is durable.

        Raises StoreMistakeError, nothing being sent, where it does not fit the schema.
        """

    def watch(
        self,
        tables: tuple[WatchedTable, ...],
        deadline_s: float,
        listener: Callable[[WatchEvent], Any],
    ) -> Callable[[], None]:
        """Have a listener told the whole and then every change, until what is returned is called.
        Over a lost connection the watch goes on with what has changed since.

        Raises StoreMistakeError where it does not fit the schema.
        """

    def state(self) -> StoreState:
        """How the store is now; from any thread, at once."""


def check_watch(tables: tuple[WatchedTable, ...]) -> None:
    """Raises StoreMistakeError where what is to be watched does not fit the schema."""
    for one in tables:
        columns_of(one.table)
        check_conditions(one.table, one.any_of)
        for name in one.columns:
            if name == ROW_ID:
                raise StoreMistakeError(f"{one.table}: a row's UUID is told with every row")
            column_of(one.table, name)
    if len({one.table for one in tables}) < len(tables):
        raise StoreMistakeError("a table is watched twice: give it more conditions")
