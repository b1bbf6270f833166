"""What a column of the store may hold: its type as a value, from which its JSON schema follows.

Used by `schema.py`, which declares the tables, by `transaction.py`, which checks what is written,
and by whoever reads or writes OVSDB's JSON.  A cell is an immutable Python value: `str`, `int`,
`bool`, a row's UUID as `str`, None for an optional reference that is not there, or a `frozenset`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

Cell = str | int | frozenset[str] | frozenset[int] | None
"""The value of one column in one row (a `bool` is an `int` to the type checker)."""

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
HIGHEST = (1 << 63) - 1
"""OVSDB's integers have 64 bits and a sign (RFC 7047, 3.1)."""


class Atom(Enum):
    """The type of one value, by its name in RFC 7047, 3.1 (`<base-type>`)."""

    TEXT = "string"
    WHOLE = "integer"
    FLAG = "boolean"
    ROW = "uuid"


def _can_be_sent(value: str) -> bool:
    """Whether a text has UTF-8, and no NUL, which a server does not take."""
    return "\0" not in value and not any("\ud800" <= each <= "\udfff" for each in value)


_IS: dict[Atom, Callable[[Any], bool]] = {
    Atom.TEXT: lambda value: isinstance(value, str) and _can_be_sent(value),
    Atom.WHOLE: lambda value: type(value) is int and -HIGHEST - 1 <= value <= HIGHEST,
    Atom.FLAG: lambda value: isinstance(value, bool),
    Atom.ROW: lambda value: isinstance(value, str) and bool(UUID.fullmatch(value)),
}
_DEFAULT: dict[Atom, Cell] = {Atom.TEXT: "", Atom.WHOLE: 0, Atom.FLAG: False}


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    atom      the type of a value
    says      what it holds, for people
    many      a set of such values; else one
    optional  of a reference: None where there is none
    choices   of a text: the words it may be
    lowest    of a whole number: the least it may be
    refers    of a reference: the table of the row that must exist
    """

    atom: Atom
    says: str
    many: bool = False
    optional: bool = False
    choices: tuple[str, ...] = ()
    lowest: int | None = None
    refers: str = ""

    @property
    def needed(self) -> bool:
        """Whether a new row must name it: there is no default."""
        return not self.many and (bool(self.choices) or (bool(self.refers) and not self.optional))

    @property
    def default(self) -> Cell:
        """What a new row holds where it names nothing (RFC 7047, 5.2.1)."""
        return frozenset() if self.many else _DEFAULT.get(self.atom)

    def fits(self, cell: Any) -> bool:
        """Whether a value may stand in it, as far as the column alone decides."""
        if self.many:
            return isinstance(cell, frozenset) and all(map(self.fits_one, cell))
        if cell is None:
            return self.optional
        return self.fits_one(cell)

    def fits_one(self, value: Any) -> bool:
        """Whether it may be the value, or an element of the set."""
        if not _IS[self.atom](value):
            return False
        if self.choices:
            return value in self.choices
        return self.lowest is None or value >= self.lowest

    def to_schema(self) -> dict[str, Any]:
        """Its `<column-schema>` (RFC 7047, 3.2)."""
        base: dict[str, Any] = {"type": self.atom.value}
        if self.choices:
            base["enum"] = ["set", list(self.choices)]
        if self.lowest is not None:
            base["minInteger"] = self.lowest
        if self.refers:
            base |= {"refTable": self.refers, "refType": "strong"}
        least = 0 if self.many or self.optional else 1
        return {"type": {"key": base, "min": least, "max": "unlimited" if self.many else 1}}


def text(says: str, *choices: str) -> Column:
    """One text; one of some words, where words are given."""
    return Column(Atom.TEXT, says, choices=choices)


def texts(says: str) -> Column:
    """A set of texts."""
    return Column(Atom.TEXT, says, many=True)


def whole(says: str, lowest: int = 0) -> Column:
    """A whole number of 64 bits, `lowest` at least."""
    return Column(Atom.WHOLE, says, lowest=lowest)


def flag(says: str) -> Column:
    """True or false."""
    return Column(Atom.FLAG, says)


def row_of(table: str, says: str, optional: bool = False) -> Column:
    """A reference: the row cannot be deleted while this one refers to it."""
    return Column(Atom.ROW, says, optional=optional, refers=table)


def rows_of(table: str, says: str) -> Column:
    """A set of references."""
    return Column(Atom.ROW, says, many=True, refers=table)
