"""The laid rows that a controller has, on its disk: from them it starts where the store is away.

One file of lines: the first says all, and each after it what a change made of that.  A line is
synced before anything it says is done, so a change costs what it changes.  Called by
`store_follower`, and by `launch`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xenflow.model.network import Network, NetworkError
from xenflow.store.line_file import LineFile
from xenflow.store.network_rows import Key, NamedRows, key_of, laid_entries
from xenflow.store.own_rows import OwnRows
from xenflow.store.transaction import StoreRow

NAME = "laid.json"
MISREAD = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What `from_json` may raise."""


@dataclass(frozen=True, slots=True)
class LaidRows:
    """What a store said last.

    cluster  its id
    change   the number of the last change that concerned the host
    rows     by table, what it has for the host
    host     whose they are; "": all rows of the network
    """

    cluster: str = ""
    change: int = 0
    rows: NamedRows = field(default_factory=dict)
    host: str = ""

    @property
    def own(self) -> NamedRows:
        """Those that make the host's network.  Raises NetworkError where one cannot be read."""
        return OwnRows(self.rows).of(*filter(None, [self.host]))


class LaidFile:
    """The file in a controller's state folder; `network` is the name of the network."""

    def __init__(self, folder: Path, network: str = "") -> None:
        self.path = folder / NAME
        self._file = LineFile(self.path)
        self._network = network
        self._kept = LaidRows()
        """What the file says, as far as it was written here."""
        self.seen: Mapping[str, int] = {}
        """By switch the change that the store was last seen to have as in force there."""
        self.ahead: LaidRows | None = None
        """What the store said, where not all of it is to be started from: the rest is held."""

    @property
    def doubt(self) -> str:
        """Why what was kept last may not be on the disk; "": it is."""
        return self._file.doubt

    def load(self) -> LaidRows | None:
        """What was kept; None where nothing was.

        Raises NetworkError where the file cannot be read, or is another network's.
        """
        try:
            first, *lines = self.path.read_bytes().split(b"\n")
            value = json.loads(first)
            # What ends in no line's end was not acknowledged.
            changes = [json.loads(line) for line in lines[:-1]]
            said = [c for c in changes if "seen" not in c]
            laid = _changed(from_json(value), said)
            rest = [value, *said][-1].get("ahead")
            self.ahead = None if rest is None else _changed(laid, [rest])
            self.seen = [{}, *(v["seen"] for v in (value, *changes) if "seen" in v)][-1]
            whose = value.get("network", self._network)
        except FileNotFoundError:
            return None
        except OSError as error:
            words = error.strerror or str(error)
        except MISREAD as error:
            words = f"{type(error).__name__}: {error}"
        else:
            if whose == self._network:
                return laid
            words = f"it is of the network {whose}, not {self._network}"
        raise self._unusable(words)

    def network(self, laid: LaidRows, described: Network, controller: str) -> Network:
        """The network of rows that were kept here, for a controller of the one that is `described`
        by a file.  Where its host has gone from it, the controller alone, which forwards nothing.

        Raises NetworkError where they make none, or neither has that controller.
        """
        try:
            network = laid_entries(laid.own, described, alone=True)
        except NetworkError as error:
            raise self._unusable(str(error)) from None
        if controller not in network.controllers and controller in described.controllers:
            return described.only(controller)
        if controller not in network.controllers:
            raise self._unusable(
                f"there is no controller {controller} in it: its host has gone from the network, "
                "or this is another network's; where it is to come again"
            )
        return network

    def _unusable(self, words: str) -> NetworkError:
        return NetworkError(
            f"{self.path}: {words}: move it away, and the controller starts from the network file "
            "until the store tells it what is laid"
        )

    def keep(self, laid: LaidRows, ahead: LaidRows | None = None) -> None:
        """Have the file say these rows, and what the store has said where that is `ahead` of them.
        Raises StateError, its old ones being left, where that cannot be done."""
        rest = {} if ahead is None else {"ahead": _difference(laid, ahead)}
        if not self._file.add(_difference(self._kept, laid) | rest):
            whole = {"network": self._network, **to_json(laid), "seen": dict(self.seen)}
            self._file.replace([whole | rest])
        self._kept, self.ahead = laid, ahead

    def see(self, seen: Mapping[str, int]) -> None:
        """Have the file say what was seen; a crash of the machine may take that back.  Raises
        StateError where it cannot be written."""
        self.seen = seen
        self._file.add({"seen": dict(seen)}, synced=False)


def _difference(old: LaidRows, new: LaidRows) -> dict[str, Any]:
    """A line that makes the new rows of the old ones: whole rows, and the names of those gone."""
    other: dict[str, Mapping[Key, StoreRow]] = {}
    left: dict[str, list[str]] = {}
    for table in old.rows.keys() | new.rows.keys():
        was, shall = old.rows.get(table, {}), new.rows.get(table, {})
        if found := {key: row for key, row in shall.items() if was.get(key) is not row}:
            other[table] = found
        if gone := [str(row["name"]) for key, row in was.items() if key not in shall]:
            left[table] = gone
    return {**to_json(replace(new, rows=other)), "left": left}


def _changed(laid: LaidRows, lines: Iterable[dict[str, Any]]) -> LaidRows:
    """The rows after these lines.  Raises one of `MISREAD`."""
    rows = {table: dict(found) for table, found in laid.rows.items()}
    for line in lines:
        laid = from_json(line)
        for table, gone in line["left"].items():
            for name in gone:
                rows[table].pop((name,), None)
        for table, found in laid.rows.items():
            rows.setdefault(table, {}).update(found)
    return replace(laid, rows=rows)


def joined(parts: Iterable[LaidRows]) -> LaidRows:
    """What several hosts know, as far as it makes a network: of each row the newest."""
    rows: dict[str, dict[Key, StoreRow]] = {}
    cluster, change, hosts = "", 0, []
    for part in parts:
        cluster, change = part.cluster, max(change, part.change)
        hosts.append(part.host)
        for table, found in part.rows.items():
            known = rows.setdefault(table, {})
            for key, row in found.items():
                if key not in known or _change(known[key]) < _change(row):
                    known[key] = row
    own = OwnRows(rows).of(*hosts) if all(hosts) else rows
    return LaidRows(cluster, change, own)


def to_json(laid: LaidRows) -> dict[str, Any]:
    """Laid rows as JSON, in the file and in a controller's answer to `network`."""
    return {
        "cluster": laid.cluster,
        "change": laid.change,
        "host": laid.host,
        "rows": {t: [_without_at(row) for row in rows.values()] for t, rows in laid.rows.items()},
    }


def from_json(value: Any) -> LaidRows:
    """The same, read.  Raises one of `MISREAD`."""
    rows = {
        table: {key_of(table, row): row for row in map(_without_at, found)}
        for table, found in value["rows"].items()
    }
    return LaidRows(str(value["cluster"]), int(value["change"]), rows, value.get("host", ""))


def _change(row: StoreRow) -> int:
    change = row["change"]
    assert isinstance(change, int)
    return change


def _without_at(row: StoreRow) -> dict[str, Any]:
    """Whom it concerns is the planner's affair, and changes where nothing is said anew."""
    return {column: cell for column, cell in row.items() if column != "at"}
