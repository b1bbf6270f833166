"""The rows: one for each run, appended to a file as soon as it is known, read at every start.

One JSON object a line.  A line that was cut off when the machine went down is left out; where the
same run stands twice the later one counts.  What was invalid or failed is kept as well, and
is no run.

What is published is a table, `runs.csv`, of the same rows; it is read again before it is written,
so that a series goes on where its file is not.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


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
class MeasuredRun:
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


def measured(key: Key, **values: float) -> MeasuredRun:
    """A run that has just ended, with how busy the machine was then (`load`, of one minute)."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return MeasuredRun(key, {**values, "load": round(os.getloadavg()[0], 2)}, at=at)


def refused(key: Key, why: str) -> MeasuredRun:
    """A run that could not be made, just now."""
    return MeasuredRun(key, invalid=why, at=datetime.now(UTC).isoformat(timespec="seconds"))


_KEY = tuple(Key.__dataclass_fields__)


def parse(line: str) -> MeasuredRun | None:
    """One line, or None where it is not whole."""
    try:
        found = json.loads(line)
        key = Key(**{name: found[name] for name in _KEY})
        return MeasuredRun(key, dict(found["values"]), found.get("invalid", ""), found["at"])
    except (ValueError, KeyError, TypeError):
        return None


class TableError(Exception):
    """A published table that cannot be read."""


def write_csv(rows: Iterable[MeasuredRun], path: Path) -> Path:
    """Every row a line, those that are no run with the reason; whole or not at all."""
    rows = list(rows)
    values = list(dict.fromkeys(name for row in rows for name in row.values))
    new = path.with_suffix(".new")
    with new.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_KEY, "at", "invalid", *values])
        for row in rows:
            key = [getattr(row.key, name) for name in _KEY]
            numbers = [row.values.get(name, "") for name in values]
            writer.writerow([*key, row.at, row.invalid, *numbers])
    new.rename(path)
    return path


def read_csv(path: Path) -> list[MeasuredRun]:
    """What `write_csv` wrote, none where there is no such file; older tables have no `invalid`.

    Raises TableError where a line is none of its.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        return [_row(words, f"{path}, line {reader.line_num}") for words in reader]


def _row(words: dict[str, Any], where: str) -> MeasuredRun:
    try:
        if None in words.values():
            raise ValueError("cut off")
        for name in ("size", "rate_pps", "run"):
            words[name] = int(words[name])
        key = Key(**{name: words.pop(name) for name in _KEY})
        at, invalid = words.pop("at"), words.pop("invalid", "")
        return MeasuredRun(
            key, {n: json.loads(text) for n, text in words.items() if text}, invalid, at
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(f"{where}: not a run ({error!r}); restore the file") from error


class Store:
    """The file, and what it said when it was opened, and what was added since.

    published  rows that stand elsewhere and count like the file's; where both have a run the later
               counts.  They are not written to the file.
    """

    def __init__(self, path: Path, published: Iterable[MeasuredRun] = ()) -> None:
        self.path = path
        self._rows: dict[Key, MeasuredRun] = {}
        self._refused: list[MeasuredRun] = []
        self._whole = True
        if path.exists():
            text = path.read_text()
            self._whole = not text or text.endswith("\n")
            for row in filter(None, map(parse, text.splitlines())):
                self._note(row)
        for row in published:
            mine = self._rows.get(row.key)
            if row not in self._refused if row.invalid else mine is None or mine.at < row.at:
                self._note(row)

    def _note(self, row: MeasuredRun) -> None:
        if row.invalid:
            self._refused.append(row)
        else:
            self._rows[row.key] = row

    def add(self, rows: Iterable[MeasuredRun]) -> None:
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

    def rows(self) -> Iterator[MeasuredRun]:
        """The runs that were made and are valid, in order."""
        return iter(sorted(self._rows.values(), key=lambda row: row.key))

    def refused(self) -> Iterator[MeasuredRun]:
        """What was tried and became no run, also where a later try did, in the order of trying."""
        return iter(sorted(self._refused, key=lambda row: row.at))
