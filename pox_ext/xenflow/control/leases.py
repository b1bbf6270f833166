"""One migration of a router at a time, and what it noted down.

A lease is taken before a migration begins and kept alive while it lasts; it ends by itself when
its owner dies, so nothing stays locked.  Whatever changes something for a router names its owner,
and is refused when the lease is not that owner's any more: one that was stopped, and goes on after
somebody else has taken over, does no harm.  The journal is kept with the lease, and stays when that
ends without the work having been finished: it is what `xenflow status` shows.

Every owner has a term, higher than any that a controller concerned knew before.  Owner and term are
on the disk before the lease is given (`store.lease_file`), so a controller that was restarted knows
them, and refuses a lower term.  Called by `management_service`; `vm.packets` asks whether a
migration is under way.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from xenflow.plan.migration import purpose, under_way
from xenflow.store.lease_file import Lease, LeaseFile
from xenflow.store.line_file import StateError

log = logging.getLogger("xenflow.leases")

FORMER = 1000
"""So many owners that have a lease no more are remembered; each has a name of its own."""


class LockedError(RuntimeError):
    """Another migration of this router is under way, or the lease is not the owner's."""


class Leases:
    """The leases of this controller, by router.

    `instance` tells one run of the controller from the next, which has forgotten them.
    `now`: a monotonic clock.  `folder`: the controller's state folder.
    """

    def __init__(
        self, now: Callable[[], float] = time.monotonic, folder: Path | None = None
    ) -> None:
        self._now = now
        self._file = LeaseFile(folder)
        self._leases = self._file.load()
        for lease in self._leases.values():  # its owner may have lived on meanwhile
            lease.since = now()
            lease.until = now() + (0.0 if lease.ended else lease.lease_s)
        self._former: deque[tuple[str, str]] = deque(maxlen=FORMER)
        """Routers and owners whose lease is over: given back, or somebody else's.  What of theirs
        comes later was on its way meanwhile."""
        self.instance = os.urandom(8).hex()

    def under_way(self, router: str) -> bool:
        """Whether a migration of this router is under way."""
        lease = self._of(router)
        return lease is not None and lease.until > self._now()

    def check(self, router: str, owner: str | None) -> None:
        """Raise LockedError where an owner may not change anything for a router: its lease is
        somebody else's, or nobody's.  Without an owner: where anybody migrates it.

        What an owner does is a sign of life, too.
        """
        lease = self._of(router)
        if owner is None:
            if lease is not None and self.under_way(router):
                raise self._busy(router, lease)
            return
        if lease is None or lease.owner != owner or (router, owner) in self._former:
            raise LockedError(f"{owner} does not hold the lease of {router} (any more)")
        lease.until = max(lease.until, self._now() + lease.lease_s)

    def unfinished(self, router: str) -> bool:
        """Whether a migration of this router is under way, or was left without having been
        finished or undone."""
        return self._of(router) is not None

    def moves(self) -> dict[str, bool]:
        """The routers whose lease somebody has, or has left; True where that is under way."""
        return {name: self.under_way(name) for name in self._leases if self._of(name)}

    def _of(self, router: str) -> Lease | None:
        """Its lease, where somebody has it, or has left it."""
        lease = self._leases.get(router)
        if lease is None or not lease.owner or (lease.brief and lease.until <= self._now()):
            return None
        return lease

    def take(
        self,
        router: str,
        owner: str,
        lease_s: float,
        entry: dict[str, Any] | None,
        term: int | None = None,
    ) -> dict[str, Any]:
        """Take or prolong a lease, or raise its term; without a term it gets the next one here.

        Raises LockedError where somebody else has it, this owner had it and has it no more, or the
        term of a lease that is not its own is not higher than any before; StateError where it
        cannot be kept.
        Returns the journal of a migration that ended without giving its lease back, as `left`;
        `term`; and `instance`.
        """
        if (router, owner) in self._former:
            raise LockedError(f"{owner} does not hold the lease of {router} any more")
        lease, known = self._of(router), self._leases.get(router, Lease(0)).term
        others = lease is not None and lease.owner != owner
        if lease is not None and others and self.under_way(router):
            raise self._busy(router, lease)
        left = lease.journal if lease is not None and others else []
        now = self._now()
        if lease is None or others:
            if term is not None and term <= known:
                late = f"its term is {term}, and {known} was given already"
                raise LockedError(f"{owner} comes too late for {router}: {late}")
            taken = Lease(term or known + 1, owner, lease_s, since=now, before=lease)
            self._file.begin(router, taken, self._leases)
            if lease is not None:
                log.info("%s: what %s left unfinished is taken over", router, lease.owner)
                self._former.append((router, lease.owner))
                lease.before = None
            log.info("%s: %s begins %s", router, owner, purpose(router, entry))
            lease = self._leases[router] = taken
        elif lease.ended or (term or 0) > lease.term:
            higher = replace(lease, term=max(term or 0, lease.term), ended=False)
            self._file.begin(router, higher, self._leases)
            lease = self._leases[router] = higher
        lease.lease_s, lease.until = lease_s, now + lease_s
        self._append(router, lease, entry)
        return {"left": left, "term": lease.term, "instance": self.instance}

    def _append(self, router: str, lease: Lease, entry: dict[str, Any] | None) -> None:
        if entry is None:
            return
        lease.journal.append(entry)
        try:
            self._file.note(router, entry, self._leases)
        except StateError:
            lease.journal.pop()
            raise

    def note(
        self, router: str, owner: str | None, lease_s: float | None, entry: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Add to the journal and prolong the lease; without an owner, only read the journal.

        Raises LockedError where the lease is not this owner's any more, StateError where the entry
        cannot be kept.
        """
        lease = self._of(router)
        if owner is None:
            journal = lease.journal if lease else []
            under_way = self.under_way(router)
            return {"journal": journal, "under_way": under_way, "instance": self.instance}
        self.check(router, owner)
        assert lease is not None
        lease.lease_s = lease_s or lease.lease_s
        lease.until = self._now() + lease.lease_s
        self._append(router, lease, entry)
        return {}

    def give_back(
        self, router: str, owner: str, unfinished: bool = False, untouched: bool = False
    ) -> None:
        """End a lease; LockedError where somebody else has it.  What is unfinished stays noted;
        `untouched`: nothing was begun, so what is noted is what was before."""
        lease = self._of(router)
        if lease is not None and lease.owner != owner:
            raise LockedError(f"the lease of {router} belongs to {lease.owner}")
        self._former.append((router, owner))
        if lease is None:
            return
        lasted = f"after {self._now() - lease.since:.3f} s"
        if untouched and lease.before is not None:
            log.info("%s: %s ends %s, having begun nothing", router, owner, lasted)
            over = replace(lease.before, term=lease.term, ended=True)
        elif unfinished:
            log.info("%s: %s ends %s, with more to be done", router, owner, lasted)
            over = replace(lease, lease_s=0.0, until=self._now(), ended=True)
        else:
            log.info("%s: %s ends %s", router, owner, lasted)
            over = Lease(lease.term)
        self._leases[router] = over
        try:
            self._file.end(router, over, self._leases)
        except StateError as error:  # after a restart it is found, and there is nothing to be done
            log.error("%s: that its lease has ended is not kept: %s", router, error)

    def keep_only(self, routers: Collection[str]) -> None:
        """Of other routers nothing is left to be done: they are no more, or others that have their
        names.  What is under way stays."""
        for name in list(self._leases):
            lease = self._of(name)
            if lease is not None and name not in routers and not self.under_way(name):
                self.give_back(name, lease.owner)

    def rows(self) -> list[dict[str, Any]]:
        """For `status`."""
        return [self._row(name, lease) for name, lease in self._leases.items() if self._of(name)]

    def _row(self, router: str, lease: Lease) -> dict[str, Any]:
        now = self._now()
        return {
            "router": router,
            "owner": lease.owner,
            "term": lease.term,
            "under_way": self.under_way(router),
            "since_s": round(now - lease.since, 3),
            "heard_s": round(max(0.0, now - lease.until + lease.lease_s), 3),
            "ends_s": round(max(0.0, lease.until - now), 3),
            "journal": lease.journal,
        }

    def _busy(self, router: str, lease: Lease) -> LockedError:
        return LockedError(under_way(self._row(router, lease)))
