"""What a controller must still know after a restart: placements, and rules put in by hand.

A `line_file`: first what there is at all, then what has been said, in its order.  When it is
replaced, of placements those are kept of routers that have ever left their homes.  So a change
costs the same in a network of any size.

Routes are not kept; routers tell them again, and until they have, nothing of theirs is deleted.
Where the file is missing or damaged the other controllers are asked (`search`).  Called by
`rule_table`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenflow.model.management import rule_fault
from xenflow.model.network import Network, NetworkError, Router
from xenflow.model.placement import Placement, at_home, from_json, to_json
from xenflow.store import private_file
from xenflow.store.line_file import LineFile

log = logging.getLogger("xenflow.state")

NAME = "state.json"
DAMAGED = "state.json.damaged"
"""What could not be read is kept under this name, for people."""
Placements = Mapping[str, Mapping[str, Placement]]
"""Datapath -> router -> placement."""
Rules = Mapping[str, list[dict[str, Any]]]
"""Datapath -> its rules, as they were given."""


@dataclass(slots=True)
class StoredState:
    """What was read from the file; `trouble` says in words what was not there or not readable,
    "" for nothing.  `trees`: how the links' trees lay (`Network.trees_digest`), "" where it does
    not say.  A datapath without placements was not there."""

    placements: dict[str, dict[str, Placement]] = field(default_factory=dict)
    rules: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    trouble: str = ""
    trees: str = ""


class StateFile:
    """The file in a controller's state directory; without a directory nothing is kept."""

    def __init__(self, directory: Path | None) -> None:
        self._file = LineFile(directory / NAME if directory else None)

    @property
    def doubt(self) -> str:
        """Why what was kept last may not be on the disk, though it is in the file; "": it is."""
        return self._file.doubt

    def load(self, network: Network) -> StoredState:
        """What was saved, as far as it can be read and still fits the network.  A damaged file is
        kept beside the new one."""
        path = self._file.path
        if path is None:
            return StoredState(trouble="no state folder was named (--state=DIR)")
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            log.info("%s is missing", path)
            return StoredState(trouble=f"{path} is missing")
        except OSError as error:
            kept = StoredState(trouble=f"{path} cannot be read ({error.strerror})")
        else:
            kept, complete = read(text, network)
            if kept.trouble:
                kept.trouble = f"{path} is damaged ({kept.trouble})"
                with suppress(OSError):
                    private_file.write(path.with_name(DAMAGED), text)
            elif not complete:
                kept.trouble = f"{path} was written before it was known where the routers are"
        if kept.trouble:
            log.error("%s", kept.trouble)
        return kept

    def save(
        self,
        network: Network,
        placements: Placements,
        rules: Rules,
        complete: bool = True,
        trees: str = "",
    ) -> None:
        """Replace the file; it is on the disk when this returns, or `doubt` says why it may not be.
        `complete` is False where it is still asked where routers are, for that was lost: then a
        later start asks again.

        Raises StateError, the old file being left as it was, where that cannot be done.
        """
        homes = {router.name: router.home for router in network.routers.values()}
        head = {"datapaths": [*placements], "homes": homes, "complete": complete, "trees": trees}
        self._file.replace((head, *_said(placements, rules, network.routers)))

    def add_placement(self, placement: Placement, datapaths: list[str]) -> bool:
        """Add that datapaths were given a placement; it is on the disk when this returns.  False
        where nothing can be added, and the file is to be replaced.

        Raises StateError, nothing being added.
        """
        return self._file.add(_placed(placement, datapaths))

    def add_rules(self, datapath: str, rows: list[dict[str, Any]]) -> bool:
        """The same of a datapath's rules, all of them."""
        return self._file.add(_ruled(datapath, rows))

    def add_homes(self, homes: Mapping[str, str | None]) -> bool:
        """The same of routers that have come, at these homes, or gone (None)."""
        return self._file.add({"homes": homes})


def _placed(placement: Placement, datapaths: list[str]) -> dict[str, Any]:
    return {"at": datapaths, "placement": to_json(placement)}


def _ruled(datapath: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"at": [datapath], "rules": rows}


def _said(placements: Placements, rules: Rules, routers: Mapping[str, Router]) -> Iterator[Any]:
    """What all the changes so far come to."""
    given: dict[Placement, list[str]] = {}
    for datapath, known in placements.items():
        for placement in [p for r, p in known.items() if p.has_left(routers[r])]:
            given.setdefault(placement, []).append(datapath)
    yield from (_placed(placement, datapaths) for placement, datapaths in given.items())
    yield from (_ruled(datapath, rows) for datapath, rows in rules.items() if rows)


def read(text: bytes, network: Network) -> tuple[StoredState, bool]:
    """What a file's text says, line by line (`trouble` names the first that is wrong), and whether
    it was complete.

    What does not fit the network any more (a router or host that is gone) is left out silently.
    """
    *lines, torn = text.split(b"\n")
    try:
        head: Any = json.loads(lines.pop(0)) if lines else None
        homes = head["homes"].items()
        kept = StoredState({name: {} for name in head["datapaths"]}, trees=str(head["trees"]))
    except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
        return StoredState(trouble=f"no state: {_short(text)}"), False
    _homes(kept, network, homes)
    if torn:
        log.warning("%s: its last line is not whole, and was not acknowledged", NAME)
    faults = [fault for line in lines if line and (fault := _take(kept, network, line))]
    kept.trouble = faults[0] if faults else ""
    return kept, head.get("complete") is True


def _homes(kept: StoredState, network: Network, homes: Iterable[tuple[str, Any]]) -> None:
    """Routers were at home there, and nobody had said anything else of them; None: they had gone.
    Where they are at home now they do not move to by that."""
    for router, home in homes:
        described = network.routers.get(router)
        for known in kept.placements.values():
            known.pop(router, None)
            if described is None or described.home == home or described.started:
                continue
            if isinstance(home, str) and home in network.hosts:
                known[router] = at_home(router, home)


def _take(kept: StoredState, network: Network, line: bytes) -> str:
    """One change; returns what is wrong with it."""
    try:
        change = json.loads(line)
        if "homes" in change:
            _homes(kept, network, dict(change["homes"]).items())
            return ""
        for name in map(str, change["at"]):
            if "rules" in change:
                kept.rules[name] = []
                fault = "".join([_rule(kept, name, row) for row in change["rules"]])
            else:
                fault = _placement(kept, network, name, change["placement"])
            if fault:
                return f"of {name}: {fault}"
        return ""
    except (ValueError, RecursionError, TypeError, LookupError):
        return f"no change: {_short(line)}"


def _placement(kept: StoredState, network: Network, datapath: str, row: Any) -> str:
    try:
        placement = from_json(row)
    except NetworkError as error:
        return str(error)
    known = kept.placements.setdefault(datapath, {})
    known.pop(placement.router, None)
    router = network.routers.get(placement.router)
    if router is None or not set(placement.hosts) <= set(network.hosts):
        return ""
    if placement.version >= router.first_version:  # else it is of one that had its name before
        known[placement.router] = placement
    return ""


def _rule(kept: StoredState, datapath: str, row: Any) -> str:
    if fault := rule_fault(row):
        return fault
    kept.rules.setdefault(datapath, []).append(row)
    return ""


def _short(value: Any) -> str:
    return repr(value)[:40]
