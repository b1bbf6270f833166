"""What a controller must still know after a restart: placements, and rules put in by hand.

One small JSON file, replaced as a whole and synced to the disk before anything else is changed:
what was acknowledged is there after a crash, and what could not be kept is not done.  Routes are
not kept; routers tell them again, and until they have, nothing of theirs is deleted.  Where the
file is missing or damaged the other controllers are asked (`search`).  Called by `rule_table`.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenflow.model.management import rule_fault
from xenflow.model.network import Network, NetworkError
from xenflow.model.placement import Placement, from_json, to_json

log = logging.getLogger("xenflow.state")

NAME = "state.json"
DAMAGED = "state.json.damaged"
"""What could not be read is kept under this name, for people."""
Placements = dict[str, dict[str, Placement]]
"""Datapath -> router -> placement."""
Rules = dict[str, list[dict[str, Any]]]
"""Datapath -> its rules, as they were given."""


class StateError(RuntimeError):
    """What was to be kept could not be written; nothing has changed."""


@dataclass(slots=True)
class Kept:
    """What was read from the file; `trouble` says in words what was not there or not readable,
    "" for nothing.  `trees`: how the links' trees lay (`Network.trees_digest`), "" where it does
    not say.  A datapath without placements was not there."""

    placements: Placements = field(default_factory=dict)
    rules: Rules = field(default_factory=dict)
    trouble: str = ""
    trees: str = ""


class StateFile:
    """The file in a controller's state directory; without a directory nothing is kept."""

    def __init__(self, directory: Path | None) -> None:
        self.path = directory / NAME if directory else None

    def load(self, network: Network) -> Kept:
        """What was saved, as far as it can be read and still fits the network.  A damaged file is
        kept beside the new one."""
        if self.path is None:
            return Kept(trouble="no state folder was named (--state=DIR)")
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            log.info("%s is missing", self.path)
            return Kept(trouble=f"{self.path} is missing")
        except OSError as error:
            kept = Kept(trouble=f"{self.path} cannot be read ({error.strerror})")
        else:
            kept, complete = read(text, network)
            if kept.trouble:
                kept.trouble = f"{self.path} is damaged ({kept.trouble})"
                with suppress(OSError):
                    self.path.with_name(DAMAGED).write_bytes(text)
            elif not complete:
                kept.trouble = f"{self.path} was written before it was known where the routers are"
        if kept.trouble:
            log.error("%s", kept.trouble)
        return kept

    def save(
        self, placements: Placements, rules: Rules, complete: bool = True, trees: str = ""
    ) -> None:
        """Replace the file; it is on the disk when this returns.  `complete` is False where it is
        still asked where routers are, for that was lost: then a later start asks again.

        Raises StateError, the old file being left as it was, where that cannot be done.
        """
        if self.path is None:
            return
        value = {
            "placements": {
                name: [to_json(p) for p in rows.values()] for name, rows in placements.items()
            },
            "rules": rules,
            "complete": complete,
            "trees": trees,
        }
        draft = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("w") as file:
                json.dump(value, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            with suppress(OSError):  # a part of it would take the room that is missing
                draft.unlink()
            raise StateError(
                f"state folder {self.path.parent}: {error.strerror or error}: nothing was changed; "
                "mend that and try again"
            ) from None


def read(text: bytes, network: Network) -> tuple[Kept, bool]:
    """What a file's text says, part by part (`trouble` names the first that is wrong), and whether
    it was complete.

    What does not fit the network any more (a router or host that is gone) is left out silently.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        return Kept(trouble=f"no JSON: {error}"), False
    except RecursionError:
        return Kept(trouble="no JSON: nested too deep"), False
    parts = value if isinstance(value, dict) else {}
    kept = Kept(trees=str(parts.get("trees", "")))
    faults = []
    for part, take in (("placements", _placement), ("rules", _rule)):
        rows_of = parts.get(part)
        if not isinstance(rows_of, dict):
            faults.append(f"{part}: expected an object, found {_short(rows_of)}")
            continue
        for name, rows in rows_of.items():
            if not isinstance(rows, list):
                faults.append(f"{part} of {name}: expected a list, found {_short(rows)}")
                continue
            for row in rows:
                if fault := take(kept, network, name, row):
                    faults.append(f"{part} of {name}: {fault}")
    kept.trouble = faults[0] if faults else ""
    return kept, parts.get("complete", True) is True


def _placement(kept: Kept, network: Network, datapath: str, row: Any) -> str:
    try:
        placement = from_json(row)
    except NetworkError as error:
        return str(error)
    if placement.router in network.routers and set(placement.hosts) <= set(network.hosts):
        kept.placements.setdefault(datapath, {})[placement.router] = placement
    return ""


def _rule(kept: Kept, _: Network, datapath: str, row: Any) -> str:
    if fault := rule_fault(row):
        return fault
    kept.rules.setdefault(datapath, []).append(row)
    return ""


def _short(value: Any) -> str:
    return repr(value)[:40]


def _sync_folder(folder: Path) -> None:
    """The new name is on the disk as well (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
