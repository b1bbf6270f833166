"""Where the routers are, for a controller that has lost what it had kept: the others are asked.

So are they where the links' trees lie otherwise than when it was last told: a switch that did not
need to know where a router is may be on its way now.

A placement is told to every controller that a router's links concern, so any of them that has kept
its own knows it.  Until one has answered, for each router, a switch that holds flows is left as it
is: these were right.  A switch that holds none has nothing to lose, and waits only for a moment.
All are asked until all have answered, and what is heard later is still taken.  Called by
`rule_table`, which is told what the others say by `asking`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from xenflow.model.network import Network, NetworkError
from xenflow.model.placement import Placement, from_json

STORE = "the store"
"""Answers too, where there is one: its planner knows what every host has told, or was about to."""
PATIENCE_S = 3.0
"""So long the others have to answer, once those that know have, or where nothing can be lost."""


@dataclass(slots=True)
class Search:
    """Which controllers are still to answer.

    reason     why they are asked, in words
    awaits     the controllers that have not answered
    since      when the asking began (seconds of any clock that only grows)
    concerned  says for each router which controllers its newest placement was told to that is known
    whole      whether what was kept is whole, and only may not be all that counts now
    knows      those that have answered, and do not search themselves
    """

    reason: str
    awaits: set[str]
    since: float
    concerned: Callable[[], Iterable[set[str]]]
    whole: bool = False
    knows: set[str] = field(default_factory=set)
    _known: bool | None = None

    def answered(self, controller: str, knows: bool) -> None:
        """A controller has said where routers are; `knows` is whether it does not search itself."""
        self.awaits.discard(controller)
        if knows:
            self.knows.add(controller)
        self._known = None

    def settled(self, now: float) -> bool:
        """Whether what is known may be acted upon everywhere."""
        if not self.awaits:
            return True
        return now - self.since >= PATIENCE_S and (self.whole or self._is_known())

    def _is_known(self) -> bool:
        """Of each router, by one that would have been told had it gone elsewhere."""
        if self._known is None:
            told = all(self.knows & c for c in self.concerned())
            self._known = STORE in self.knows or (bool(self.knows) and told)
        return self._known

    def must_wait(self, holds_flows: bool, now: float) -> bool:
        """Whether a switch that holds flows, or none, must not be written to yet."""
        if self.settled(now):
            return False
        return holds_flows or now - self.since < PATIENCE_S

    def words(self) -> str:
        """For `status`; "" where all have answered."""
        if not self.awaits:
            return ""
        return f"{self.reason}: asks {', '.join(sorted(self.awaits))} where the routers are"


def newest(network: Network, rows: Any) -> dict[str, Placement]:
    """The newest placement of each router among those of an answer to `status`; what does not fit
    the network is left out."""
    found: dict[str, Placement] = {}
    for row in rows if isinstance(rows, list | tuple) else ():
        try:
            placement = from_json(row)
        except NetworkError:
            continue
        if placement.router in network.routers and set(placement.hosts) <= set(network.hosts):
            known = found.get(placement.router)
            if known is None or placement.version > known.version:
                found[placement.router] = placement
    return found
