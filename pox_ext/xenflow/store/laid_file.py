"""The laid rows that a controller has, on its disk: from them it starts where the store is away.

One file, replaced as a whole and synced before anything it says is done.  Called by
`store_follower`, and by `launch`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenflow.model.network import Network, NetworkError
from xenflow.store.network_rows import NamedRows, key_of, laid_entries
from xenflow.store.transaction import StoreRow

NAME = "laid.json"
MISREAD = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What `from_json` may raise."""


@dataclass(frozen=True, slots=True)
class LaidRows:
    """What a store said last: its cluster's id, the number of the change, the rows by table."""

    cluster: str = ""
    change: int = 0
    rows: NamedRows = field(default_factory=dict)


class LaidFile:
    """The file in a controller's state folder; `network` is the name of the network."""

    def __init__(self, folder: Path, network: str = "") -> None:
        self.path = folder / NAME
        self._network = network

    def load(self) -> LaidRows | None:
        """What was kept; None where nothing was.

        Raises NetworkError where the file cannot be read, or is another network's.
        """
        try:
            value = json.loads(self.path.read_bytes())
            laid, whose = from_json(value), value.get("network", self._network)
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
            network = laid_entries(laid.rows, described, alone=True)
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

    def keep(self, laid: LaidRows) -> None:
        """Replace the file.  Raises OSError, the old one being left, where that cannot be done."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".new")
        with draft.open("w") as file:
            json.dump({"network": self._network, **to_json(laid)}, file, separators=(",", ":"))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def to_json(laid: LaidRows) -> dict[str, Any]:
    """Laid rows as JSON, in the file and in a controller's answer to `network`."""
    return {
        "cluster": laid.cluster,
        "change": laid.change,
        "rows": {
            table: [{**row, "at": sorted(_names(row))} for row in rows.values()]
            for table, rows in laid.rows.items()
        },
    }


def from_json(value: Any) -> LaidRows:
    """The same, read.  Raises one of `MISREAD`."""
    rows = {
        table: {key_of(table, row): row for row in map(_row, found)}
        for table, found in value["rows"].items()
    }
    return LaidRows(str(value["cluster"]), int(value["change"]), rows)


def _row(value: dict[str, Any]) -> StoreRow:
    return {**value, "at": frozenset(value["at"])}


def _names(row: StoreRow) -> frozenset[Any]:
    at = row["at"]
    assert isinstance(at, frozenset)
    return at
