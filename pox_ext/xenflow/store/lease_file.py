"""Who moves which router, and what was noted of it, as a controller must know it after a restart.

A `line_file` in the controller's state folder.  Terms stay for good: who was given a lower one than
is known here comes too late, whenever that is.  Called by `control.leases`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenflow.store.line_file import LineFile

log = logging.getLogger("xenflow.leases")

NAME = "leases.json"


@dataclass(slots=True)
class Lease:
    """A router's lease.

    term     grows with every owner
    owner    "" where it was given back: then the term alone counts
    ended    the owner has said that it does no more, and left something to be done
    journal  what was noted, the purpose first
    before   what somebody else had left unfinished when this was taken
    since, until  when it was taken and when it ends, by a clock of this process; not kept
    """

    term: int
    owner: str = ""
    lease_s: float = 0.0
    ended: bool = False
    journal: list[dict[str, Any]] = field(default_factory=list)
    before: Lease | None = None
    since: float = 0.0
    until: float = 0.0

    @property
    def brief(self) -> bool:
        """Whether it leaves nothing to be finished, however it ends: what it was taken for looks
        for itself what is done when it is begun again."""
        return bool(self.journal) and self.journal[0].get("brief") is True


class LeaseFile:
    """The file in a controller's state folder; None: nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._file = LineFile(folder / NAME if folder else None)

    def load(self) -> dict[str, Lease]:
        """What was kept, by router; of a damaged line the log says so, and it is passed over."""
        path = self._file.path
        try:
            lines = path.read_bytes().split(b"\n")[:-1] if path is not None else []
        except FileNotFoundError:
            return {}
        except OSError as error:
            log.error("%s cannot be read: %s", path, error.strerror)
            return {}
        found: dict[str, Lease] = {}
        for number, line in enumerate(lines, 1):
            try:
                _take(found, json.loads(line))
            except (ValueError, ArithmeticError, LookupError, TypeError, RecursionError) as error:
                log.error("%s:%d: no lease: %r", path, number, error)
        return found

    def begin(self, router: str, lease: Lease, leases: Mapping[str, Lease]) -> None:
        """A lease is taken, or its term is another.  `leases`: all that there are with it.

        Raises StateError, nothing being kept.
        """
        self._add(_begun(router, lease), {**leases, router: lease})

    def note(self, router: str, entry: Any, leases: Mapping[str, Lease]) -> None:
        """The journal grows, which a crash of the machine may take back.  Raises StateError."""
        if not self._file.add({"router": router, "entry": entry}, synced=False):
            self._file.replace(_said(leases))

    def end(self, router: str, lease: Lease, leases: Mapping[str, Lease]) -> None:
        """It is given back, or left unfinished: that is all of it now.  Raises StateError."""
        whole = {**leases, router: lease}
        if lease.owner or not self._file.add({"router": router, "term": lease.term}):
            self._file.replace(_said(whole))

    def _add(self, value: Any, leases: Mapping[str, Lease]) -> None:
        if not self._file.add(value):
            self._file.replace(_said(leases))


def _begun(router: str, lease: Lease) -> dict[str, Any]:
    about = {"router": router, "term": lease.term, "owner": lease.owner}
    return {**about, "lease_s": lease.lease_s, "ended": lease.ended}


def _said(leases: Mapping[str, Lease]) -> Iterator[Any]:
    """What all the lines so far come to."""
    for router, lease in leases.items():
        for each in (lease.before, lease):
            if each is not None:
                owned = each.owner != ""
                yield _begun(router, each) if owned else {"router": router, "term": each.term}
                yield from ({"router": router, "entry": entry} for entry in each.journal)


def _take(found: dict[str, Lease], value: dict[str, Any]) -> None:
    """One line."""
    router, known = str(value["router"]), found.get(str(value["router"]))
    if "entry" in value:
        if known is not None:
            known.journal.append(dict(value["entry"]))
    elif "owner" not in value:
        found[router] = Lease(int(value["term"]))
    else:
        owner, term = str(value["owner"]), int(value["term"])
        if known is not None and known.owner == owner:
            known.term, known.ended = term, bool(value["ended"])
            return
        before = known if known is not None and known.owner else None
        if before is not None:
            before.before = None
        lease_s, ended = float(value["lease_s"]), bool(value["ended"])
        found[router] = Lease(term, owner, lease_s, ended, before=before)
