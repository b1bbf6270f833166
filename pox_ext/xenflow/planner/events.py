"""What has happened in the network, for people: the table `Event`, kept bounded.

The planner notes what came of every change that it was asked for, and what it sees: moves of
routers that begin and end.  Events are written apart from what they tell of, which never waits for
them; where a planner dies in between one may be missing.  No socket and no clock here; called by
`service`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xenflow.model.placement import Placement
from xenflow.store.transaction import Delete, Insert, StoreRow, Transaction, Wait, row_id

TABLE = "Event"
COLUMNS = ("number", "when", "by", "from", "what", "words", "outcome")
KEPT = 1000
"""So many are kept; the oldest are forgotten first."""
WAITING = 100
"""So many wait for the store at most."""
LONGEST = 500
"""Characters of its words."""


@dataclass(frozen=True, slots=True)
class _Move:
    """A router's migration, as the store has it."""

    owner: str
    words: str
    unfinished: bool


class EventLog:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: deque[StoreRow] = deque(maxlen=WAITING)
        self._moves: Mapping[str, _Move] | None = None
        self._last = 0
        """The highest number that was given."""
        self.writing = False

    def note(self, when: int, by: str, what: str, words: str, outcome: str) -> None:
        """Something has happened.

        when  in seconds since 1970
        by    who it was, "NAME" or "NAME from ADDRESS"
        """
        who, _, source = by.partition(" from ")
        cells = {"by": who, "from": source, "what": what, "words": words, "outcome": outcome}
        self._waiting.append({"when": max(0, when), **{k: _printable(v) for k, v in cells.items()}})

    def see(
        self,
        migrations: Mapping[str, Iterable[StoreRow]],
        placements: Mapping[str, Placement],
        when: int,
        notes: bool,
    ) -> None:
        """The store has these moves, and routers are there; `notes`: what is another than before is
        noted, but at the first time."""
        before, self._moves = self._moves, {n: _move(rows) for n, rows in migrations.items()}
        if before is None or not notes:
            return
        for name, move in self._moves.items():
            if name not in before or before[name].owner != move.owner:
                self.note(when, move.owner, "migration", move.words or name, "begun")
            if move.unfinished and not (name in before and before[name].unfinished):
                words = f"{move.words or name} (`xenflow recover {name}`)"
                self.note(when, move.owner, "migration", words, "left unfinished")
        for name in before.keys() - self._moves.keys():
            where = f"{name} is at {placements[name].vm}" if name in placements else name
            self.note(when, before[name].owner, "migration", where, "ended")

    def turn(self, rows: Mapping[str, StoreRow], fence: Wait) -> Transaction:
        """What is to be written, beside the `rows` that the store has; () where nothing waits.  It
        counts as written: what is not, is lost."""
        if not self._waiting or self.writing:
            return ()
        known = {uuid: _whole(row) for uuid, row in rows.items()}
        number = max(self._last, *known.values(), 0)
        made: list[Insert | Delete] = []
        while self._waiting:
            number += 1
            made.append(Insert(TABLE, {"number": number, **self._waiting.popleft()}))
        self._last = number
        made += [Delete(TABLE, row_id(u)) for u, one in known.items() if one <= number - KEPT]
        return (fence, *made)


def told(rows: Iterable[StoreRow], since: int) -> list[dict[str, Any]]:
    """The events after one, in their order: docs/messages.md, verb `events`."""
    found = [{name: row[name] for name in COLUMNS} for row in rows if _whole(row) > since]
    return sorted(found, key=_whole)


def _move(rows: Iterable[StoreRow]) -> _Move:
    newest = max(rows, key=lambda row: int(str(row["term"])))
    return _Move(str(newest["owner"]), str(newest["words"]), not newest["under_way"])


def _printable(text: str) -> str:
    """On one line of a terminal, and not too long."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 3] + "..."


def _whole(row: Mapping[str, Any]) -> int:
    return int(row["number"])
