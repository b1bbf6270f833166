"""What the local tables of a switch shall hold, by owner: a change costs what it concerns.

Called by `wanted`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any

from xenflow.model.network import End, Network
from xenflow.openflow.flow import Flow, Flows
from xenflow.switch.installed import PIECE
from xenflow.switch.jobs import ROOM, Awaited
from xenflow.tables.pipeline import Owner, each_flow_of, flows_of, of_link, owners
from xenflow.tables.site import Site


class LocalFlows:
    """See the module."""

    def __init__(self) -> None:
        self.wanted: Flows = {}
        """Those of links, and of what is for all, as of the last `compile`."""
        self.of_routers: Flows = {}
        """Those of routers, as of the last `compile_in_pieces`."""
        self._parts: dict[Owner, Flows] = {}
        self._outdated: dict[Owner, int] | None = None
        """Whose flows may be others now, each with the number of the call that said so last; None:
        everybody's."""
        self._calls = 0
        self._ready: dict[Owner, tuple[int, Flows]] = {}
        """What was compiled in pieces, each for such a number."""

    def outdated(self, whose: Iterable[Owner] | None = None) -> None:
        """The flows of some owners may be others now; None: everybody's."""
        self._calls += 1
        if whose is None:
            self._outdated = None
        elif self._outdated is not None:
            self._outdated |= dict.fromkeys(whose, self._calls)

    def has(self, owner: Owner) -> bool:
        """Whether an owner has flows, as of the last `compile`, or may have them for all that is
        known."""
        return self._outdated is None or owner in self._outdated or owner in self._parts

    def _due(self, network: Network) -> dict[Owner, int]:
        if self._outdated is None:
            self._outdated = dict.fromkeys((*owners(network), *self._parts), self._calls)
        return self._outdated

    def compile_in_pieces(self, site: Site) -> Generator[Awaited, Any, list[Flow]]:
        """Compile the flows of those that are outdated, in pieces: of a router's addresses there
        may be very many.  Those of routers are put into `of_routers`, and returned; all others
        `compile` has ready, unless they are outdated by then.  Who becomes outdated meanwhile stays
        so."""
        fresh: list[Flow] = []
        count = 0
        for owner, call in list(self._due(site.network).items()):
            made: Flows = {}
            for flow in each_flow_of(site, owner):
                made[flow.key] = flow
                count += 1
                if count % PIECE == 0:
                    yield ROOM
            if owner.kind != "router":
                self._ready[owner] = call, made
                continue
            if self._outdated is not None and owner not in self._outdated:
                continue  # the network has become another one meanwhile, without it
            fresh += self._put({owner: made}, self.of_routers).values()
            if self._outdated is not None and self._outdated.get(owner) == call:
                del self._outdated[owner]
        return fresh

    def compile(self, site: Site) -> Flows:
        """Compile the flows of all others that are outdated, into `wanted`, and return them.

        What raises leaves everything as it was.
        """
        due, new = self._due(site.network), {}
        for owner, call in due.items():
            if owner.kind != "router":
                made_at, made = self._ready.get(owner, (None, {}))
                new[owner] = made if made_at == call else flows_of(site, owner)
        for owner in new:
            del due[owner]
        self._ready = {}
        return self._put(new, self.wanted)

    def _put(self, new: Mapping[Owner, Flows], among: Flows) -> Flows:
        """Have these in place of what these owners had; returns them together."""
        for owner in new:
            for key in self._parts.pop(owner, ()):
                among.pop(key, None)
        fresh: Flows = {}
        for flows in new.values():
            fresh |= flows
        among |= fresh
        self._parts |= {owner: flows for owner, flows in new.items() if flows}
        return fresh


def whose_port(network: Network, datapath: str, port: str) -> list[Owner] | None:
    """Whose flows may follow from a port of a datapath; None: everybody's, for it is a cable's."""
    if (vif := network.vif(port)) is not None:
        return [of_link(vif[1].link)]
    if any(cable.near(datapath).port == port for cable in network.cables_of[datapath]):
        return None
    link = network.access_links.get(End(datapath, port))
    return [of_link(link)] if link is not None else []
