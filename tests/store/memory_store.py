"""The store in memory, for tests: what `OvsdbStore` promises, said again in the plainest way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from xenflow.store.columns import Cell
from xenflow.store.network_store import (
    Post,
    RowChange,
    RowChanges,
    StoreState,
    WatchedTable,
    WatchEvent,
    WholeView,
    check_watch,
)
from xenflow.store.schema import TABLES, StoreWriter
from xenflow.store.transaction import (
    ROW_ID,
    Committed,
    Comparison,
    Condition,
    Delete,
    Insert,
    Operation,
    RefusalReason,
    StoreRow,
    Transaction,
    Update,
    Wait,
    WriteOutcome,
    WriteRefused,
    check,
)

Tables = dict[str, dict[str, dict[str, Cell]]]
View = dict[tuple[str, str], StoreRow]


class MemoryDatabase:
    """What several `MemoryStore`s have in common."""

    def __init__(self) -> None:
        self.tables: Tables = {name: {} for name in TABLES}
        self.watches: list[_MemoryWatch] = []

    def transact(self, transaction: Transaction) -> WriteOutcome:
        """All of it or nothing."""
        draft: Tables = {
            t: {u: dict(r) for u, r in rows.items()} for t, rows in self.tables.items()
        }
        touched = []
        used = {uuid for rows in self.tables.values() for uuid in rows}
        for place, operation in enumerate(transaction):
            count = _apply(draft, operation, used)
            if isinstance(count, RefusalReason):
                return WriteRefused(count, place, count.name)
            touched.append(count)
        if reasons := sorted(set(_faults(draft)), key=lambda reason: reason.name):
            # a server names one of several, which one is not promised; the words name all
            return WriteRefused(reasons[0], None, " ".join(reason.name for reason in reasons))
        self.tables = draft
        for watch in list(self.watches):
            watch.look(draft)
        return Committed(tuple(touched))


class MemoryStore:
    """A `NetworkStore` on a `MemoryDatabase`."""

    def __init__(self, database: MemoryDatabase, post: Post, writer: StoreWriter) -> None:
        self._database, self._post, self._writer = database, post, writer

    def transact(
        self, transaction: Transaction, deadline_s: float, done: Callable[[WriteOutcome], Any]
    ) -> None:
        """As `NetworkStore.transact`."""
        check(transaction, self._writer)
        self._post(done, self._database.transact(transaction))

    def watch(
        self,
        tables: tuple[WatchedTable, ...],
        deadline_s: float,
        listener: Callable[[WatchEvent], Any],
    ) -> Callable[[], None]:
        """As `NetworkStore.watch`."""
        check_watch(tables)
        watches = self._database.watches
        watch = _MemoryWatch(tables, lambda event: watch in watches and listener(event), self._post)
        watches.append(watch)
        watch.begin(self._database.tables)
        return lambda: watches.remove(watch)

    def state(self) -> StoreState:
        """As `NetworkStore.state`."""
        return StoreState(True, "memory", "memory", "")


@dataclass(eq=False)
class _MemoryWatch:
    tables: tuple[WatchedTable, ...]
    listener: Callable[[WatchEvent], Any]
    post: Post

    def begin(self, tables: Tables) -> None:
        self.view = self._view(tables)
        rows: dict[str, dict[str, StoreRow]] = {one.table: {} for one in self.tables}
        for (table, uuid), row in self.view.items():
            rows[table][uuid] = row
        frozen = {table: MappingProxyType(of_it) for table, of_it in rows.items()}
        self.post(self.listener, WholeView(MappingProxyType(frozen)))

    def look(self, tables: Tables) -> None:
        before, self.view = self.view, self._view(tables)
        changes = tuple(
            RowChange(*key, before.get(key), self.view.get(key))
            for key in {**before, **self.view}
            if before.get(key) != self.view.get(key)
        )
        if changes:
            self.post(self.listener, RowChanges(changes))

    def _view(self, tables: Tables) -> View:
        return {
            (one.table, uuid): MappingProxyType({name: row[name] for name in one.columns})
            for one in self.tables
            for uuid, row in tables[one.table].items()
            if not one.any_of or any(_satisfies(uuid, row, c) for c in one.any_of)
        }


def _satisfies(uuid: str, row: StoreRow, condition: Condition) -> bool:
    cell: Any = uuid if condition.column == ROW_ID else row[condition.column]
    value: Any = condition.value
    match condition.comparison:
        case Comparison.EQUAL:
            return bool(cell == value)
        case Comparison.UNLIKE:
            return bool(cell != value)
        case Comparison.INCLUDES:
            return bool(cell >= value)
        case Comparison.EXCLUDES:
            return not cell & value


def _apply(tables: Tables, operation: Operation, used: set[str]) -> int | RefusalReason:
    """Do one operation; how many rows it touched, or why it is refused.  `used`: UUIDs of rows that
    are or were there in the transaction."""
    rows = tables[operation.table]
    if isinstance(operation, Insert):
        if operation.uuid in used:
            return RefusalReason.UUID
        used.add(operation.uuid)
        columns = TABLES[operation.table].columns
        defaults = {name: column.default for name, column in columns.items()}
        rows[operation.uuid] = {**defaults, **operation.row}
        return 1
    matching = [u for u, row in rows.items() if all(_satisfies(u, row, c) for c in operation.where)]
    match operation:
        case Wait(columns=columns, rows=wanted):
            found = {tuple({**rows[u], ROW_ID: u}[c] for c in columns) for u in matching}
            return 0 if found == set(wanted) else RefusalReason.WAIT
        case Update():
            for uuid in matching:
                rows[uuid].update(operation.row)
        case Delete():
            for uuid in matching:
                del rows[uuid]
    return len(matching)


def _faults(tables: Tables) -> Iterator[RefusalReason]:
    if any(uuid not in tables[table] for table, uuid in _references(tables)):
        yield RefusalReason.REFERENCE
    for name, table in TABLES.items():
        rows = tables[name].values()
        if table.only and len(rows) > 1:
            yield RefusalReason.CONSTRAINT
        for index in table.indexes:
            keys = Counter(tuple(row[column] for column in index) for row in rows)
            if max(keys.values(), default=1) > 1:
                yield RefusalReason.CONSTRAINT


def _references(tables: Tables) -> Iterator[tuple[str, str]]:
    for name, table in TABLES.items():
        for column, declared in table.columns.items():
            if declared.refers:
                for row in tables[name].values():
                    cell: Any = row[column]
                    uuids = cell if declared.many else [cell] if cell is not None else []
                    yield from ((declared.refers, uuid) for uuid in uuids)
