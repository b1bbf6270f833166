"""One migration of a router at a time, and what it noted down.

A lease is taken before a migration begins and kept alive while it lasts; it ends by itself when
its owner dies, so nothing stays locked.  The journal is kept with it, and stays when the lease
ends without having been given back: it is what `xenflow recover` reads.
Called by `management_service`; `vm_packets` asks whether a migration is under way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


class LockedError(RuntimeError):
    """Another migration of this router is under way."""


@dataclass(slots=True)
class Lease:
    """Who migrates a router, until when (monotonic clock), and its journal."""

    owner: str
    until: float
    lease_s: float
    journal: list[dict[str, Any]] = field(default_factory=list)


class Leases:
    """The leases of this controller, by router."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}

    def under_way(self, router: str) -> bool:
        """Whether a migration of this router is under way."""
        lease = self._leases.get(router)
        return lease is not None and lease.until > time.monotonic()

    def take(
        self, router: str, owner: str, lease_s: float, entry: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Take or prolong a lease.

        Raises LockedError where somebody else has it.  Returns the journal of a migration that
        ended without giving its lease back, as `left`.
        """
        lease = self._leases.get(router)
        if lease is not None and lease.owner != owner and self.under_way(router):
            raise LockedError(f"a migration of {router} is under way (by {lease.owner})")
        left = lease.journal if lease is not None and lease.owner != owner else []
        until = time.monotonic() + lease_s
        if lease is None or lease.owner != owner:
            lease = self._leases[router] = Lease(owner, until, lease_s)
        lease.until = until
        if entry is not None:
            lease.journal.append(entry)
        return {"left": left}

    def note(
        self, router: str, owner: str | None, lease_s: float | None, entry: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Add to the journal and prolong the lease; without an owner, only read the journal.

        Raises LockedError where the lease is not this owner's any more.
        """
        lease = self._leases.get(router)
        if owner is None:
            return {"journal": lease.journal if lease else [], "under_way": self.under_way(router)}
        if lease is None or lease.owner != owner:
            raise LockedError(f"{owner} does not hold the lease of {router} (any more)")
        lease.until = time.monotonic() + (lease_s or lease.lease_s)
        if entry is not None:
            lease.journal.append(entry)
        return {}

    def give_back(self, router: str, owner: str) -> None:
        """End a lease; LockedError where somebody else has it."""
        lease = self._leases.get(router)
        if lease is None:
            return
        if lease.owner != owner and self.under_way(router):
            raise LockedError(f"the lease of {router} belongs to {lease.owner}")
        del self._leases[router]

    def rows(self) -> list[dict[str, Any]]:
        """For `status`."""
        return [
            {
                "router": name, "owner": lease.owner, "under_way": self.under_way(name),
                "journal": lease.journal,
            }
            for name, lease in self._leases.items()
        ]
