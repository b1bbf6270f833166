"""What the local tables of a switch shall hold, by owner: a change costs what it concerns.

Called by `wanted`.
"""

from __future__ import annotations

from collections.abc import Iterable

from xenflow.model.network import End, Network
from xenflow.openflow.flow import Flows
from xenflow.tables.pipeline import Owner, flows_of, of_link, owners
from xenflow.tables.site import Site


class LocalFlows:
    """See the module."""

    def __init__(self) -> None:
        self.wanted: Flows = {}
        """As of the last `compile`."""
        self._parts: dict[Owner, Flows] = {}
        self._outdated: set[Owner] | None = None

    def outdated(self, whose: Iterable[Owner] | None = None) -> None:
        """The flows of some owners may be others now; None: everybody's."""
        if whose is None:
            self._outdated = None
        elif self._outdated is not None:
            self._outdated.update(whose)

    def has(self, owner: Owner) -> bool:
        """Whether an owner has flows, as of the last `compile`, or may have them for all that is
        known."""
        return self._outdated is None or owner in self._outdated or owner in self._parts

    def compile(self, site: Site) -> Flows:
        """Compile the flows of those that are outdated, into `wanted`, and return them.

        What raises leaves everything as it was.
        """
        whose = self._outdated
        if whose is None:
            new = {owner: flows_of(site, owner) for owner in owners(site.network)}
            self._parts, self.wanted = {owner: flows for owner, flows in new.items() if flows}, {}
        else:
            new = {owner: flows_of(site, owner) for owner in whose}
            for owner in new:
                for key in self._parts.pop(owner, {}):
                    self.wanted.pop(key, None)
            self._parts |= {owner: flows for owner, flows in new.items() if flows}
        fresh: Flows = {}
        for flows in new.values():
            fresh |= flows
        self.wanted |= fresh
        self._outdated = set()
        return fresh


def whose_port(network: Network, datapath: str, port: str) -> list[Owner] | None:
    """Whose flows may follow from a port of a datapath; None: everybody's, for it is a cable's."""
    if (vif := network.vif(port)) is not None:
        return [of_link(vif[1].link)]
    if any(cable.near(datapath).port == port for cable in network.cables_of[datapath]):
        return None
    link = network.access_links.get(End(datapath, port))
    return [of_link(link)] if link is not None else []
