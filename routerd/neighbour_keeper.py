"""Decides which neighbour entries of the kernel routerd keeps resolved, and how.

The VM's kernel sees no forwarded traffic, so its neighbour entries go stale, and an idle entry
whose station changed its MAC fails and does not recover.  What the next hops go through is
therefore *managed* (NTF_EXT_MANAGED, kernel 5.16): the kernel resolves it for good.  Older kernels
are asked to probe from time to time (NTF_USE: as if a packet had been sent there).  Stations on a
CONNECTED link are probed when they go stale, as traffic would do; who has gone is not asked for.

An entry that routerd had managed and that no next hop needs any more is released: marked by
NDA_PROTOCOL, so that a later routerd finds those of an earlier one.  What an operator made
permanent or managed is left alone.  No I/O here; `now` is in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from routerd import rtnetlink as rt
from xenflow.routes.router_state import NeighbourKey

PROBE_STALE_S = 5.0
"""A stale station on a connected link is probed this often, until it answers or fails."""
RETRY_S = 1.0
"""A gateway that could not be managed, or has no entry, is asked for this often."""


@dataclass(slots=True)
class NeighbourKeeper:
    """`managed` is set to False when the kernel turns out not to know NTF_EXT_MANAGED."""

    managed: bool = True
    _asked: dict[NeighbourKey, float] = field(default_factory=dict)

    def requests(
        self,
        gateways: set[NeighbourKey],
        connected: set[tuple[int, int]],
        entries: Mapping[NeighbourKey, rt.NeighbourInfo],
        now: float,
    ) -> Iterator[tuple[NeighbourKey, bool]]:
        """(neighbour, managed) for each RTM_NEWNEIGH to send now."""
        for key in gateways:
            if self._wants(entries.get(key)) and self._due(key, RETRY_S, now):
                yield key, self.managed
        for key, entry in entries.items():
            if key in gateways:
                continue
            if entry.managed and entry.protocol == rt.OUR_PROTOCOL:
                if self._due(key, RETRY_S, now):
                    yield key, False
            elif (
                entry.state == rt.NUD_STALE
                and key[:2] in connected
                and self._due(key, PROBE_STALE_S, now)
            ):
                yield key, False
        if len(self._asked) > 2 * (len(entries) + len(gateways)) + 1000:
            self._asked = {k: t for k, t in self._asked.items() if now - t < PROBE_STALE_S}

    def _wants(self, entry: rt.NeighbourInfo | None) -> bool:
        if entry is None:
            return True
        if entry.state & (rt.NUD_PERMANENT | rt.NUD_NOARP):
            return False
        if self.managed:
            return not entry.managed
        return not entry.state & (rt.NUD_REACHABLE | rt.NUD_DELAY | rt.NUD_PROBE)

    def _due(self, key: NeighbourKey, interval_s: float, now: float) -> bool:
        if now - self._asked.get(key, float("-inf")) < interval_s:
            return False
        self._asked[key] = now
        return True

    def ours(self, entries: Mapping[NeighbourKey, rt.NeighbourInfo]) -> list[NeighbourKey]:
        """The entries to release at the end."""
        return [k for k, e in entries.items() if e.managed and e.protocol == rt.OUR_PROTOCOL]
