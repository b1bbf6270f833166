"""What a switch shall hold in its small tables, as far as what is known makes flows.

What a router says that makes none is that router's affair: it gets the flows of one all of whose
packets pass through its VM, and `problems` says why.

Called by `switch` and `writer`; the flows themselves are made by `tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Protocol

from xenflow.model.difference import NetworkDifference
from xenflow.model.network import Datapath, Network, Router
from xenflow.model.placement import Placement
from xenflow.openflow.flow import Flow, Flows
from xenflow.routes.router_state import RouterState
from xenflow.switch.aside import THROUGH_VM, Aside
from xenflow.switch.jobs import Awaited
from xenflow.switch.local_flows import LocalFlows, whose_port
from xenflow.switch.ports import Ports
from xenflow.switch.problems import Problems
from xenflow.switch.rules import Rules
from xenflow.tables.next_hops import next_hop_flows
from xenflow.tables.pipeline import Owner, flows_of, of_link, of_router, owner_of, owners_of
from xenflow.tables.site import RouterView, Site, Spans
from xenflow.tables.stations import port_of
from xenflow.tables.views import Cards, next_hop_view

VIEW = "view"
"""Cause of a `Problems` entry: what a router says about itself makes no flows."""
EQUAL_RULES = "equal rules"
"""Cause of a `Problems` entry: rules that another one keeps from being in force."""


class Known(Protocol):
    """What the Rule Table knows of the routers."""

    def state(self, router: str) -> RouterState | None:
        """What is known of a router, or None before its snapshot has been complete once."""

    def view(self, router: str) -> RouterView | None:
        """The same as its classes need it."""


@dataclass(eq=False, repr=False)
class WantedFlows:
    """See the module."""

    network: Network
    _datapath: Datapath
    _known: Known
    _placements: Mapping[str, Placement]
    _ports: Ports
    _rules: Rules
    _aside: Aside
    _problems: Problems

    def __post_init__(self) -> None:
        self.local = LocalFlows()
        self._odd_views: dict[str, tuple[RouterView, RouterView]] = {}
        """By router: the view that made no flows, and what stands for it."""
        self._sound_views: dict[str, RouterView] = {}

    # --- what has changed ---------------------------------------------------------------------

    def network_is(self, network: Network, found: NetworkDifference, spans: Spans) -> bool:
        """The network has become another one, and who is where with it.  A router that has changed
        has made its links dirty, and of one that has not only they are others.  True where a flow
        may be another one here."""
        before, self._datapath = self._datapath, network.datapaths[self._datapath.name]
        self.network = network
        if before != self._datapath:
            self.local.outdated()
            return True
        site, has = self.site(), self.local.has
        whose = [
            of_router(name)
            for name in found.dirty_routers
            if has(of_router(name)) or self.forwards(name)
        ]
        for name in found.dirty_links:
            link = network.links.get(name)
            if has(of_link(name)) or (link is not None and site.may_have(link, spans)):
                whose.append(of_link(name))
        self.local.outdated(whose)
        return bool(whose)

    def changed(self, whose: Iterable[Owner]) -> None:
        """Something that some owners' flows follow from."""
        self.local.outdated(whose)

    def router_changed(self, router: str) -> None:
        """What a router is, says, or where it is."""
        self.local.outdated(owners_of(self.network, router))

    def port_changed(self, port: str) -> None:
        """A port is no more, or has another number."""
        self.local.outdated(whose_port(self.network, self._datapath.name, port))

    def read_anew(self) -> None:
        """What is installed is being read: all flows may not be there."""
        self.local.outdated()

    def clear(self) -> None:
        """The switch went away: views that made no flows are tried again."""
        self._odd_views.clear()

    def forwards(self, router: str) -> bool:
        """Whether this switch forwards for a router."""
        placement = self._placements.get(router)
        return placement is not None and placement.forwards(self._datapath.name)

    # --- what is wanted -----------------------------------------------------------------------

    def site(self) -> Site:
        """This switch as the planner sees it."""
        views = _Views(self.network.routers, self._view)
        ports = self._ports
        return Site(
            self.network, self._datapath, ports.numbers, self._placements, views, ports.suspended
        )

    def owner_of(self, cookie: int) -> Owner:
        """Whom a flow with one of our cookies belongs to."""
        return owner_of(self.network, cookie, self._rules)

    def _view(self, router: str) -> RouterView | None:
        """What a router's VM says as far as it makes flows."""
        view = self._known.view(router)
        if view is None:
            return None
        if router in self._odd_views:
            odd, instead = self._odd_views[router]
            if odd == view:
                return instead
            del self._odd_views[router]
            self._problems.end(VIEW, router)
        words = self._aside.words(router)
        return view.through_vm(words) if words else view

    @property
    def odd(self) -> Set[str]:
        """Routers whose words make no flows."""
        return self._odd_views.keys()

    def find_odd_views(self) -> bool:
        """A router whose words make no flows gets those of one whose packets all pass through its
        VM.  True where one was found."""
        found, site = False, self.site()
        self.local.outdated()
        for name in site.views:
            view = self._known.view(name)
            if view is None or self._sound_views.get(name) is view:
                continue
            alone = replace(site, views={name: view})
            try:
                for owner in owners_of(self.network, name):
                    flows_of(alone, owner)
                self._sound_views[name] = view
            except Exception as error:
                words = f"{THROUGH_VM}: {reason(error)}"
                self._odd_views[name] = view, RouterView(off=view.off).through_vm(words)
                self._problems.begin(VIEW, words, name)
                found = True
        return found

    def compile_in_pieces(self) -> Generator[Awaited, Any, list[Flow]]:
        """The flows of routers themselves, next hops aside, that may not be there yet: as they are
        now.  All of them are in `local.of_routers` then."""
        site = self.site()
        return self.local.compile_in_pieces(replace(site, placements=dict(site.placements)))

    def flows(self) -> tuple[Flows, Flows]:
        """All other flows of the small tables but those of next hops, and those of them that may
        not be there yet.  What raises leaves everything as it was (`find_odd_views`)."""
        site = self.site()
        fresh = self.local.compile(site)
        rules, beaten = self._rules.flows(site)
        if beaten:
            named = "; ".join(f"{name} as {first}" for name, first in beaten.items())
            words = (
                "rules match as an earlier one does with the same priority, now that its ports "
                f"exist, and are not in force ({named}): a switch holds one of them only: remove "
                "one, or give it another priority (`rule replace`)"
            )
            self._problems.begin(EQUAL_RULES, words)
        else:
            self._problems.end(EQUAL_RULES)
        return {**self.local.wanted, **rules}, {**fresh, **rules}

    def hop_flows(
        self, router: Router, state: RouterState, hop: int, cards: Cards
    ) -> Iterator[Flow]:
        """The flows of a router's next hop; none where there is no such one."""
        record = state.nexthops.get(hop)
        if record is None:
            return
        view = next_hop_view(router, state, record, cards)
        if view.action == "group":
            view = replace(view, legs=self.legs_out(state, view.legs, cards))
        yield from next_hop_flows(self.network, router, view)

    def legs_out(
        self, state: RouterState, legs: tuple[tuple[int, int], ...], cards: Cards
    ) -> tuple[tuple[int, int], ...]:
        """The legs of a group that leave by a port with carrier; all of them where none does."""
        dark = self._ports.dark
        if not dark:
            return legs
        site = self.site()
        dead = set()
        for leg, _ in legs:
            hop = state.nexthops.get(leg)
            interface = cards.interfaces.get(hop.ifindex) if hop is not None else None
            if hop is not None and interface is not None:
                link = self.network.links[interface.link]
                if port_of(site, link, hop.mac) in dark:
                    dead.add(leg)
        return tuple((leg, weight) for leg, weight in legs if leg not in dead) or legs


class _Views(Mapping[str, RouterView]):
    """What the VMs say, by router, looked at when it is asked for: few of many are."""

    def __init__(self, routers: Iterable[str], view: Callable[[str], RouterView | None]) -> None:
        self._routers = routers
        self._view = view

    def __getitem__(self, router: str) -> RouterView:
        view = self._view(router)
        if view is None:
            raise KeyError(router)
        return view

    def __iter__(self) -> Iterator[str]:
        return (router for router in self._routers if self._view(router) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def reason(error: Exception) -> str:
    """Why a router makes no flows."""
    return f"what it says makes no flows ({type(error).__name__}: {error})"
