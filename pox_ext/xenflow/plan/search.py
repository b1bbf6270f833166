"""Where the routers are, for a controller that has lost what it had kept: the others are asked.

So are they where the links' trees lie otherwise than when it was last told: a switch that did not
need to know where a router is may be on its way now.

A placement is told to every controller that a router's links concern, so any of them that has kept
its own knows it.  Until one has answered, a switch that holds flows is left as it is: these
were right.  A switch that holds none has nothing to lose, and waits only for a moment; what is
heard later is still taken.  Called by `rule_table`, which is told what the others say by `asking`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from xenflow.model.network import Network, NetworkError
from xenflow.model.placement import Placement, from_json

PATIENCE_S = 3.0
"""So long the others have to answer, once one that knows has, or where nothing can be lost."""


@dataclass(slots=True)
class Search:
    """Which controllers are still to answer.

    reason  why they are asked, in words
    awaits  the controllers that have not answered
    since   when the asking began (seconds of any clock that only grows)
    whole   whether what was kept is whole, and only may not be all that counts now
    known   whether one that knows where routers are has answered
    """

    reason: str
    awaits: set[str]
    since: float
    whole: bool = False
    known: bool = field(default=False)

    def answered(self, controller: str, knows: bool) -> None:
        """A controller has said where routers are; `knows` is whether it does not search itself."""
        self.awaits.discard(controller)
        self.known |= knows

    def settled(self, now: float) -> bool:
        """Whether what is known may be acted upon everywhere."""
        known = self.known or self.whole
        return not self.awaits or (known and now - self.since >= PATIENCE_S)

    def must_wait(self, holds_flows: bool, now: float) -> bool:
        """Whether a switch that holds flows, or none, must not be written to yet."""
        if self.settled(now):
            return False
        return holds_flows or now - self.since < PATIENCE_S

    def words(self, now: float) -> str:
        """For `status`; "" where nobody waits."""
        if self.settled(now):
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
