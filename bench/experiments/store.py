"""The rows: one for each run, appended to a file as soon as it is known, read at every start.

One JSON object a line.  A line that was cut off when the machine went down is left out; where the
same run stands twice the later one counts.  What was invalid or failed is kept as well, and
is no run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which run.

    experiment  "migration" or "design"
    backend     where routers run (points.BACKENDS)
    what        the mode of forwarding, or the router's design
    traffic     who sends and who counts
    size        bytes of a packet
    rate_pps    packets/s; 0: as many as can be sent
    run         from 1
    """

    experiment: str
    backend: str
    what: str
    traffic: str
    size: int
    rate_pps: int
    run: int


@dataclass(frozen=True, slots=True)
class Row:
    """One run: what was measured, by name; or why it is none (`invalid`)."""

    key: Key
    values: dict[str, float] = field(default_factory=dict)
    invalid: str = ""
    at: str = ""
    """When it ended, ISO 8601, UTC."""

    def line(self) -> str:
        """As the file has it."""
        rest = {"at": self.at} | ({"invalid": self.invalid} if self.invalid else {})
        return json.dumps(asdict(self.key) | rest | {"values": self.values})


def measured(key: Key, **values: float) -> Row:
    """A run that has just ended, with how busy the machine was then (`load`, of one minute)."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Row(key, {**values, "load": round(os.getloadavg()[0], 2)}, at=at)


def refused(key: Key, why: str) -> Row:
    """A run that could not be made, just now."""
    return Row(key, invalid=why, at=datetime.now(UTC).isoformat(timespec="seconds"))


_KEY = tuple(Key.__dataclass_fields__)


def parse(line: str) -> Row | None:
    """One line, or None where it is not whole."""
    try:
        found = json.loads(line)
        key = Key(**{name: found[name] for name in _KEY})
        return Row(key, dict(found["values"]), found.get("invalid", ""), found["at"])
    except (ValueError, KeyError, TypeError):
        return None


class Store:
    """The file, and what it said when it was opened, and what was added since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[Key, Row] = {}
        self._refused: list[Row] = []
        self._whole = True
        if path.exists():
            text = path.read_text()
            self._whole = not text or text.endswith("\n")
            for row in filter(None, map(parse, text.splitlines())):
                self._note(row)

    def _note(self, row: Row) -> None:
        if row.invalid:
            self._refused.append(row)
        else:
            self._rows[row.key] = row

    def add(self, rows: Iterable[Row]) -> None:
        """Keep runs; they are on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            for row in rows:
                file.write(("" if self._whole else "\n") + row.line() + "\n")
                self._whole = True
                self._note(row)
            file.flush()
            os.fsync(file.fileno())

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def rows(self) -> Iterator[Row]:
        """The runs that were made and are valid, in order."""
        return iter(sorted(self._rows.values(), key=lambda row: row.key))

    def refused(self) -> Iterator[Row]:
        """What was tried and became no run, also where a later try did, in the order of trying."""
        return iter(self._refused)

    def forget(self, keys: Iterable[Key]) -> None:
        """These are to be made again: what replaces them counts, until then nothing."""
        for key in keys:
            self._rows.pop(key, None)
