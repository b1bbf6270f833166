"""The flows of a switch that are its own, by owner, all tables of it together.

A packet on a host passes the tables of `layout.TABLES`, which say what each asks; the module of a
table's name makes its flows.  ROUTES to SIZES are the same on every host, because routers, links
and next hops have network-wide ids; only the others are local.  A switch that knows OpenFlow 1.0
alone has one table, which does what INGRESS and LINKS do.

Each local flow belongs to one *owner*, and follows from that one alone: a link with all who are on
it, a router as far as it is itself, or all.  So a change costs what it concerns.  Its cookie says
to which.

Every function in these modules is pure: a `Switch` asks for the flows of those that a change
concerns and writes the difference; `vm.packets` asks what a frame means that these flows sent up.
docs/pipeline.md tells the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from xenflow.model.network import DatapathKind, Link, Network
from xenflow.openflow.flow import Flow, Flows
from xenflow.tables import cookies
from xenflow.tables.admission import admission_of, nd_answers, transit
from xenflow.tables.classes import classes_of, classes_of_all
from xenflow.tables.ingress import ingress_of, other, strays
from xenflow.tables.links import links_of
from xenflow.tables.plain_host import plain_host_of
from xenflow.tables.plain_switch import plain_switch_of
from xenflow.tables.site import Site
from xenflow.tables.vm import vm_of


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom flows belong to: kind is "link", "router", "rule" (an operator's) or, of what is for
    all, "all"."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return "the switch" if self.kind == "all" else f"{self.kind} {self.name}"


ALL = Owner("all")


def of_link(name: str) -> Owner:
    """A virtual link, and what routers are on it as far as that goes."""
    return Owner("link", name)


def of_router(name: str) -> Owner:
    """A router as far as it is itself, whatever link it is on."""
    return Owner("router", name)


def of_rule(name: str) -> Owner:
    """An operator's rule, which `switch.rules` makes a flow."""
    return Owner("rule", name)


def owner_of(network: Network, cookie: int, rules: Iterable[str] = ()) -> Owner:
    """Whom a flow with one of our cookies belongs to; "with id N" is the name of one that is not
    there.  `rules`: the names of the operator's rules."""
    kind, number = cookies.owner_of(cookie)
    unknown = f"with id {number}"
    if kind == cookies.LINK:
        return of_link(network.link_names.get(number, unknown))
    if kind == cookies.RULE:
        of_id = [name for name in rules if cookies.rule_id(name) == number]
        return of_rule(" or ".join(of_id) or unknown)
    return of_router(network.router_names.get(number, unknown)) if number else ALL


def owners(network: Network) -> Iterator[Owner]:
    """All of a network."""
    yield ALL
    yield from map(of_link, network.links)
    yield from map(of_router, network.routers)


def owners_of(network: Network, router: str) -> Iterator[Owner]:
    """Those whose flows may follow from what a router is, says, and where it is."""
    yield of_router(router)
    if router in network.routers:
        yield from (of_link(interface.link) for interface in network.routers[router].interfaces)


def flows_of(site: Site, owner: Owner) -> Flows:
    """The flows of one owner; none of one that is not there (any more)."""
    return {flow.key: flow for flow in each_flow_of(site, owner)}


def each_flow_of(site: Site, owner: Owner) -> Iterable[Flow]:
    """The same one by one: of a router as all that it follows from was when the first was made."""
    network = site.network
    whole = site.datapath.kind is DatapathKind.HOST and site.datapath.nicira
    if owner.kind == "link" and owner.name in network.links:
        return _of_link(site, network.links[owner.name])
    if owner.kind == "router" and whole and owner.name in network.routers:
        return classes_of(site, network.routers[owner.name])
    if owner == ALL:
        return (
            (other(site), transit(), nd_answers(), *classes_of_all()) if whole else (other(site),)
        )
    return ()


def _of_link(site: Site, link: Link) -> Iterator[Flow]:
    yield from strays(site, link)
    if site.datapath.kind is DatapathKind.PLAIN:
        yield from plain_switch_of(site, link)
    elif not site.datapath.nicira:
        yield from plain_host_of(site, link)
    else:
        for part in (ingress_of, admission_of, links_of, vm_of):
            yield from part(site, link)


def local_flows(site: Site) -> Flows:
    """All flows of a switch that are local to it: every table but ROUTES, NEXT_HOPS, LEGS and
    SIZES, or the one table of a switch that knows OpenFlow 1.0 alone."""
    return {flow.key: flow for owner in owners(site.network) for flow in each_flow_of(site, owner)}
