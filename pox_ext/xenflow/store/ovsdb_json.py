"""Values, transactions, outcomes and changes as OVSDB's JSON says them (RFC 7047, 5.1; changes as
ovsdb-server(7), 4.1.14, says them).

Pure; used by the session with a server.  What a server says that cannot be read raises ValueError,
LookupError or TypeError: the session hangs up then.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from xenflow.store.columns import Atom, Cell, Column
from xenflow.store.network_store import RowChange, WatchedTable
from xenflow.store.schema import DATABASE
from xenflow.store.transaction import (
    Committed,
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
    WriteUnknown,
    column_of,
)

Rows = dict[str, dict[str, StoreRow]]
"""Table, UUID, row."""
Item = TypeVar("Item")


# --- cells and conditions ------------------------------------------------------------------------


def cell_to_json(column: Column, cell: Cell) -> Any:
    """A `<value>`."""
    if column.many:
        assert isinstance(cell, frozenset)
        return ["set", [_atom_to_json(column, one) for one in sorted(cell, key=str)]]
    return ["set", []] if cell is None else _atom_to_json(column, cell)


def _atom_to_json(column: Column, value: Any) -> Any:
    return ["uuid", value] if column.atom is Atom.ROW else value


def cell_from_json(column: Column, value: Any) -> Cell:
    """The cell that a `<value>` says.

    Raises ValueError where it does not fit the column.
    """
    tagged = isinstance(value, list) and value[0] == "set"
    atoms = [_atom_from_json(column, one) for one in (value[1] if tagged else [value])]
    cell: Any = frozenset(atoms) if column.many else atoms[0] if atoms else None
    if not column.fits(cell):
        raise ValueError(f"a column of the store holds {value!r}")
    return cell  # type: ignore[no-any-return]


def _atom_from_json(column: Column, value: Any) -> Any:
    if column.atom is not Atom.ROW:
        return value
    tag, uuid = value
    if tag != "uuid":
        raise ValueError(f"expected a UUID, found {value!r}")
    return uuid


def conditions_to_json(table: str, conditions: tuple[Condition, ...]) -> list[Any]:
    """A list of `<condition>`."""
    return [
        [c.column, c.comparison.value, cell_to_json(column_of(table, c.column), c.value)]
        for c in conditions
    ]


def _row_to_json(table: str, row: StoreRow) -> dict[str, Any]:
    return {name: cell_to_json(column_of(table, name), cell) for name, cell in row.items()}


# --- transactions and their outcomes -------------------------------------------------------------


def transaction_to_json(transaction: Transaction) -> list[Any]:
    """The params of a `transact` request (RFC 7047, 4.1.3).  `commit` with `durable` is a word more
    that a cluster does not need: it always writes to its disks before it answers."""
    durable = {"op": "commit", "durable": True}
    return [DATABASE, *map(_operation_to_json, transaction), durable]


def _operation_to_json(operation: Operation) -> dict[str, Any]:
    table = operation.table
    if isinstance(operation, Insert):
        row = _row_to_json(table, operation.row)
        return {"op": "insert", "table": table, "uuid": operation.uuid, "row": row}
    where = conditions_to_json(table, operation.where)
    match operation:
        case Update():
            row = _row_to_json(table, operation.row)
            return {"op": "update", "table": table, "where": where, "row": row}
        case Delete():
            return {"op": "delete", "table": table, "where": where}
        case Wait(columns=columns, rows=rows):
            return {
                "op": "wait",
                "table": table,
                "where": where,
                "columns": list(columns),
                "until": "==",
                "rows": [_row_to_json(table, dict(zip(columns, r, strict=True))) for r in rows],
                "timeout": 0,
            }


_REFUSALS = {
    "timed out": RefusalReason.WAIT,
    "constraint violation": RefusalReason.CONSTRAINT,
    "referential integrity violation": RefusalReason.REFERENCE,
    "duplicate uuid": RefusalReason.UUID,
    "duplicate uuid-name": RefusalReason.UUID,
    "permission error": RefusalReason.RIGHTS,
}
_MAY_BE_WRITTEN = ("cluster error", "I/O error", "canceled")
"""Errors after which a transaction may be written: the leader had begun to, and does not know."""


def outcome_from_json(transaction: Transaction, result: Any, error: Any) -> WriteOutcome:
    """What the answer to a `transact` request says (RFC 7047, 4.1.3)."""
    if error is not None:
        return _refusal(error, None)
    for place, one in enumerate(result):
        if one and one.get("error"):
            return _refusal(one, place if place < len(transaction) else None)
    *results, _ = result
    return Committed(tuple(_touched(*pair) for pair in zip(transaction, results, strict=True)))


def _refusal(error: Any, operation: int | None) -> WriteOutcome:
    tag, words = tag_and_words(error)
    if tag in _MAY_BE_WRITTEN:
        return WriteUnknown(words)
    return WriteRefused(_REFUSALS.get(tag, RefusalReason.OTHER), operation, words)


def tag_and_words(error: Any) -> tuple[str, str]:
    """An `<error>` (RFC 7047, 3.1), and what people are told of it."""
    tag = error if isinstance(error, str) else str(error["error"])
    details = "" if isinstance(error, str) else str(error.get("details", ""))
    return tag, f"{tag}: {details}" if details else tag


def _touched(operation: Operation, result: Mapping[str, Any]) -> int:
    if isinstance(operation, Insert):
        return 1
    return 0 if isinstance(operation, Wait) else int(result["count"])


# --- what is watched -----------------------------------------------------------------------------


def watch_to_json(tables: tuple[WatchedTable, ...]) -> dict[str, Any]:
    """The `<monitor-cond-requests>` (ovsdb-server(7), 4.1.12)."""
    wanted: dict[str, Any] = {}
    for one in tables:
        request: dict[str, Any] = {"columns": list(one.columns)}
        if one.any_of:
            request["where"] = conditions_to_json(one.table, one.any_of)
        wanted[one.table] = [request]
    return wanted


def frozen(mapping: Mapping[str, Item]) -> Mapping[str, Item]:
    """A copy that nobody can write to."""
    return MappingProxyType(dict(mapping))


def apply_updates(
    rows: Rows, tables: tuple[WatchedTable, ...], updates: Mapping[str, Any]
) -> tuple[RowChange, ...]:
    """Change `rows` as `<table-updates2>` says (ovsdb-server(7), 4.1.14); what has changed."""
    watched = {one.table: one for one in tables}
    changes = []
    for table, by_uuid in updates.items():
        held = rows.setdefault(table, {})
        for uuid, update in by_uuid.items():
            ((kind, value),) = update.items()
            before = held.pop(uuid, None)
            after = None
            if kind in ("initial", "insert"):
                after = _row(watched[table], value)
            elif kind == "modify":
                if before is None:
                    raise ValueError(f"{table}: a row was changed that is not there")
                after = _modified(table, before, value)
            elif kind != "delete":
                raise ValueError(f"{table}: {kind!r} is no change of a row")
            if after is not None:
                held[uuid] = after
            if before != after:
                changes.append(RowChange(table, uuid, before, after))
    return tuple(changes)


def _row(watched: WatchedTable, value: Mapping[str, Any]) -> StoreRow:
    """A new row; a column that is not named has its default."""
    row: dict[str, Cell] = {}
    for name in watched.columns:
        column = column_of(watched.table, name)
        row[name] = cell_from_json(column, value[name]) if name in value else column.default
    return frozen(row)


def _modified(table: str, before: StoreRow, value: Mapping[str, Any]) -> StoreRow:
    """A row after a change: a single value is the new one, a set what is in one of both only."""
    row = dict(before)
    for name, said in value.items():
        column = column_of(table, name)
        cell = cell_from_json(column, said)
        held = row[name]
        if column.many and isinstance(held, frozenset) and isinstance(cell, frozenset):
            cell = held ^ cell  # type: ignore[operator]
        row[name] = cell
    return frozen(row)
