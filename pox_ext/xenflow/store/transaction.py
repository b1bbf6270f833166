"""What is asked of the store in one go, and what came of it.

A transaction is a tuple of operations: all of them happen, in their order, or none does.  Its
outcome is one of three values.  *Unknown* is an outcome of its own: the transaction may have been
written.  Nobody repeats it blindly: whoever asked looks, or asks again under a `Wait` or with the
same `Insert` values, whose UUIDs are refused a second time.

`check` finds what is our own mistake before anything is sent.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, NoReturn

from xenflow.store.columns import Atom, Cell, Column
from xenflow.store.schema import TABLES, Role, StoreWriter

StoreRow = Mapping[str, Cell]
"""Cells by the names of their columns; it cannot be written to."""

ROW_ID = "_uuid"
"""The column with a row's UUID, for conditions (RFC 7047, 3.2)."""


class StoreMistakeError(ValueError):
    """A transaction or a watch that does not fit the schema: a mistake of the program; nothing was
    sent."""


class Comparison(Enum):
    """How a cell is compared (RFC 7047, 5.1, `<function>`)."""

    EQUAL = "=="
    UNLIKE = "!="
    INCLUDES = "includes"
    """Of a set: it has all elements of the value."""
    EXCLUDES = "excludes"
    """Of a set: it has none of them."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a row must satisfy."""

    column: str
    comparison: Comparison
    value: Cell


def equal(**cells: Cell) -> tuple[Condition, ...]:
    """The conditions that these columns are equal to these values."""
    return tuple(Condition(name, Comparison.EQUAL, cell) for name, cell in cells.items())


def row_id(uuid: str) -> tuple[Condition, ...]:
    """The condition that it is this row."""
    return (Condition(ROW_ID, Comparison.EQUAL, uuid),)


def new_uuid() -> str:
    """A UUID for a new row."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Insert:
    """A new row, under a UUID chosen here (an extension of Open vSwitch, ovsdb-server(7), 5.2.1), a
    new one in the whole database: other rows of the transaction refer to it by that, and inserted
    twice it is refused."""

    table: str
    row: StoreRow
    uuid: str = field(default_factory=new_uuid)

    def __post_init__(self) -> None:
        object.__setattr__(self, "row", MappingProxyType(dict(self.row)))


@dataclass(frozen=True, slots=True)
class Update:
    """Cells of every row that satisfies all conditions."""

    table: str
    where: tuple[Condition, ...]
    row: StoreRow

    def __post_init__(self) -> None:
        object.__setattr__(self, "row", MappingProxyType(dict(self.row)))


@dataclass(frozen=True, slots=True)
class Delete:
    """Every row that satisfies all conditions goes."""

    table: str
    where: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """The transaction is refused unless, of the rows that satisfy all conditions, these columns
    hold these rows and no others; it does not wait for it (RFC 7047, 5.2.6, `timeout` 0)."""

    table: str
    where: tuple[Condition, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def wait_for(table: str, where: tuple[Condition, ...], **cells: Cell) -> Wait:
    """Refused unless rows satisfy the conditions and all of them hold these cells."""
    return Wait(table, where, tuple(cells), (tuple(cells.values()),))


def wait_for_none(table: str, where: tuple[Condition, ...]) -> Wait:
    """Refused where a row satisfies the conditions."""
    return Wait(table, where, (ROW_ID,), ())


Operation = Insert | Update | Delete | Wait
Transaction = tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    """Written, and on the disks of a majority; `touched`: how many rows each operation inserted,
    updated or deleted (0 for a `Wait`)."""

    touched: tuple[int, ...]


class RefusalReason(Enum):
    """Why nothing was written."""

    WAIT = "a wait does not hold"
    CONSTRAINT = "an index, a bound or the number of rows does not allow it"
    REFERENCE = "a row refers to one that would not be there"
    UUID = "a row with the UUID of an insert exists, or existed before in the transaction"
    RIGHTS = "the server does not let this client write it"
    UNREACHABLE = "it was not sent: no leader was reached in time"
    OTHER = "the server's words say it"


@dataclass(frozen=True, slots=True)
class WriteRefused:
    """Certainly not written.  `operation`: which one, by its place in the transaction; None where
    it was all of them together, or nothing was sent.  `words`: for people."""

    reason: RefusalReason
    operation: int | None
    words: str


@dataclass(frozen=True, slots=True)
class WriteUnknown:
    """It may have been written, or may be yet; `words` say why that is not known."""

    words: str


WriteOutcome = Committed | WriteRefused | WriteUnknown


def check(transaction: Iterable[Operation], writer: StoreWriter) -> None:
    """Raises StoreMistakeError where a transaction does not fit the schema, or writes what is not
    the writer's: a table of another role, or rows that another host has observed."""
    for operation in transaction:
        columns = columns_of(operation.table)
        if not isinstance(operation, Wait):
            _check_writer(operation, writer)
        if isinstance(operation, Insert):
            _check_row(operation.table, operation.row)
            _check_cell(operation.table, ROW_ID, operation.uuid)
            if missing := [c for c in columns if columns[c].needed and c not in operation.row]:
                _mistake(f"{operation.table}: a new row must have {', '.join(missing)}")
            continue
        check_conditions(operation.table, operation.where)
        if isinstance(operation, Update):
            if not operation.row:
                _mistake(f"{operation.table}: an update of no column")
            _check_row(operation.table, operation.row)
        elif isinstance(operation, Wait):
            for name in operation.columns:
                column_of(operation.table, name)
            for row in operation.rows:
                if len(row) != len(operation.columns):
                    _mistake(f"{operation.table}: a wait for {len(row)} cells of another number")
                for name, cell in zip(operation.columns, row, strict=True):
                    _check_cell(operation.table, name, cell)


def columns_of(table: str) -> Mapping[str, Column]:
    """The columns of a table.

    Raises StoreMistakeError where there is no such table.
    """
    if table not in TABLES:
        _mistake(f"there is no table {table}")
    return TABLES[table].columns


def check_conditions(table: str, where: Iterable[Condition]) -> None:
    """Raises StoreMistakeError where conditions do not fit a table."""
    for condition in where:
        _check_cell(table, condition.column, condition.value)
        sets = condition.comparison in (Comparison.INCLUDES, Comparison.EXCLUDES)
        if sets and not isinstance(condition.value, frozenset):
            _mistake(f"{table}: {condition.column} is no set")


def column_of(table: str, name: str) -> Column:
    """One column of a table, or the one with its rows' UUIDs.

    Raises StoreMistakeError where there is none.
    """
    column = _ROW_IDS if name == ROW_ID else columns_of(table).get(name)
    if column is None:
        _mistake(f"{table} has no column {name}")
    return column


_ROW_IDS = Column(Atom.ROW, "the row's UUID")


def _check_writer(operation: Insert | Update | Delete, writer: StoreWriter) -> None:
    table = TABLES[operation.table]
    role = table.kind.writer
    if isinstance(operation, Delete) and writer.role is Role.PLANNER:
        return  # also what a host has observed that is no more
    if writer.role is not role:
        _mistake(f"{operation.table} is written by a {role.value}, not a {writer.role.value}")
    if not table.own:
        return
    (own,) = equal(**{table.own: writer.host})
    if not isinstance(operation, Insert) and own not in operation.where:
        _mistake(f"{operation.table}: only rows whose {table.own} is {writer.host} can be meant")
    if isinstance(operation, Insert):
        written = operation.row.get(table.own, "")
        if written != writer.host:
            _mistake(f"{operation.table}: {table.own} cannot be {written!r}: {writer.host} writes")
    elif isinstance(operation, Update) and table.own in operation.row:
        _mistake(f"{operation.table}: {table.own} is written with a new row, and stays")


def _check_row(table: str, row: StoreRow) -> None:
    for name, cell in row.items():
        if name == ROW_ID:
            _mistake(f"{table}: a row's UUID cannot be written")
        _check_cell(table, name, cell)


def _check_cell(table: str, name: str, cell: Any) -> None:
    if not column_of(table, name).fits(cell):
        _mistake(f"{table}: {name} cannot be {cell!r}")


def _mistake(words: str) -> NoReturn:
    raise StoreMistakeError(words)
