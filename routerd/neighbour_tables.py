"""Decides when it is said that the kernel's table of neighbours overflows.

The kernel has one table for each family, for all its network namespaces, and takes at most
gc_thresh3 entries into it.  Beyond, new neighbours are not found (`ndts_table_fulls` counts how
often) and those that nobody asked for lately are forgotten: adjacencies fall, packets are lost.
Called by `daemon.py` with what the kernel counts.  No I/O here; `now` is in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from routerd.rtnetlink import NeighbourTable

SAID_S = 60.0
"""It is said for so long after the last time that it was full."""
_FAMILIES = {"arp_cache": "IPv4", "ndisc_cache": "IPv6"}


@dataclass(slots=True)
class NeighbourTables:
    """What was counted before."""

    _counted: dict[str, int] = field(default_factory=dict)
    _until: dict[str, float] = field(default_factory=dict)

    def faults(self, tables: Iterable[NeighbourTable], now: float) -> tuple[str, ...]:
        """What is to be said of the tables as they are now, in words."""
        said = []
        for table in tables:
            before = self._counted.get(table.name, table.full)
            self._counted[table.name] = table.full
            if table.full > before:
                self._until[table.name] = now + SAID_S
            family = _FAMILIES.get(table.name)
            if family and now < self._until.get(table.name, now):
                said.append(f"{family} neighbours overflow: gc_thresh3 is {table.most}")
        return tuple(said)
