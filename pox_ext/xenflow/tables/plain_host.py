"""A router's host whose switch knows OpenFlow 1.0 alone: one table, no registers, no TTL.

What `pipeline` does in eight tables is multiplied out here: a flow for each port a frame may come
from and each address it may be for.  Data for a router goes to the controller (`reactive`), which
answers with exact flows; everything the VM must see goes to its vif.  OpenFlow 1.0 has no action
for the TTL and no match on it, so a router behind such a switch does not decrement TTLs, and
traceroute does not show it: the component says so when it starts.
"""

from __future__ import annotations

from collections.abc import Iterator

from xenflow.model.network import Interface, Link, Router
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Actions, Flow, match
from xenflow.routes.family import V4
from xenflow.tables import classes, cookies
from xenflow.tables.families import from_prefix, to_prefix
from xenflow.tables.frames import HELLOS, UNTAGGED, Tag
from xenflow.tables.ingress import bridged, detours
from xenflow.tables.layout import ADMISSION, INGRESS, OneTable
from xenflow.tables.plain_sent_up import asked, to_be_held
from xenflow.tables.plain_switch import flood, plain_send
from xenflow.tables.site import RouterView, Site
from xenflow.tables.stations import port_of, stations, ways_in


def plain_host_of(site: Site, link: Link) -> Iterator[Flow]:
    """All flows of a link but the exact ones."""
    if site.native(link):
        yield from bridged(site, link)
        return
    for port, tag, sender in _ports(site, link):
        yield from _arrivals(site, link, port, tag, sender)
    for router, interface in site.network.members(link.name):
        yield from _detours(site, link, router, interface)


def to_vm(site: Site, router: Router, link: Link) -> Actions:
    """Actions that bring a frame of a link to a router's VM: its vif, its host, or held."""
    placement = site.placements[router.name]
    interface = router.on(link.name)
    vif = site.vif(interface) if interface else None
    if placement.vm == site.name:
        if vif:
            return f.strip_vlan(), f.output(vif)
        if interface and site.holds(router, interface):
            return to_be_held(link)
        return ()
    port = site.toward(link, placement.vm)
    return (f.set_vlan(link.detour_vlan), f.output(port)) if port else ()


def _ports(site: Site, link: Link) -> Iterator[tuple[int, Tag, tuple[Router, Interface] | None]]:
    """Where frames of a link come from: port, tag, and the router whose vif it is."""
    for port, tag in ways_in(site, link):
        yield port, tag, None
    for router, interface in site.network.members(link.name):
        vif = site.ports.get(interface.vif)
        for tag in UNTAGGED if vif else ():
            yield vif or 0, tag, (router, interface)


def _arrivals(
    site: Site, link: Link, port: int, tag: Tag, sender: tuple[Router, Interface] | None
) -> Iterator[Flow]:
    came: dict[str, Tag] = {"in_port": port, "vlan_tci": tag}
    own = cookies.of_link(INGRESS, link.id, sender[0].id if sender else 0)
    everybody = flood(site, link, port)
    if sender is not None:
        strange = cookies.refusing(link.id, sender[0].id, cookies.REFUSED_SOURCE)
        yield Flow(INGRESS, OneTable.FOREIGN_SOURCE, match(in_port=port), (), strange)
        came["dl_src"] = sender[1].mac
        for kind in HELLOS:
            hello = match(**came, **kind)
            yield Flow(INGRESS, OneTable.HELLO, hello, (f.controller(), *everybody), own)
    yield Flow(INGRESS, OneTable.FLOOD, match(**came), everybody, own)
    for mac, out in stations(site, link):
        send = plain_send(site, link, out, port)
        yield Flow(INGRESS, OneTable.FRAME, match(**came, dl_dst=mac), send, own)
    for router, interface in site.network.members(link.name):
        if router.name not in site.placements or (sender and sender[0] is router):
            continue
        frame = {**came, "dl_dst": interface.mac}
        if not site.admits(router.name, link, port):
            send = plain_send(site, link, port_of(site, link, interface.mac), port)
            mine = cookies.of_link(INGRESS, link.id, router.id)
            yield Flow(INGRESS, OneTable.FRAME, match(**frame), send, mine)
            continue
        yield from _for_router(site, link, router, frame)


def _for_router(site: Site, link: Link, router: Router, frame: dict[str, Tag]) -> Iterator[Flow]:
    vm, own = to_vm(site, router, link), cookies.of_link(ADMISSION, link.id, router.id)
    view: RouterView | None = site.views.get(router.name)
    yield Flow(INGRESS, OneTable.FRAME, match(**frame), vm, own)
    interface = router.on(link.name)
    if view is None or view.v4.slow or interface is None or interface.name in view.v4.down:
        return
    yield Flow(INGRESS, OneTable.DATA, match(**frame, dl_type=f.IPV4), asked(link), own)
    local = [(net, span) for net, span, _ in view.locals]
    sources = (*classes.MULTICAST_SOURCES, *classes.MARTIAN_SOURCES, *classes.VM_SOURCES, *local)
    targets = (*classes.VM_DESTINATIONS, *classes.MARTIAN_DESTINATIONS, *local)
    for matching, prefixes in ((from_prefix, sources), (to_prefix, targets)):
        for net, span in prefixes:
            if span <= V4.host:  # OpenFlow 1.0 matches no other addresses
                what = match(**frame, **matching(net, span))
                yield Flow(INGRESS, OneTable.OWN, what, vm, own)


def _detours(site: Site, link: Link, router: Router, interface: Interface) -> Iterator[Flow]:
    """As `pipeline` lays them; what arrives by one is the VM's, whatever it is."""
    for flow in detours(site, link, router, interface):
        here = any(action[0] == "resubmit" for action in flow.actions)
        placement = site.placements[router.name]
        arrive = to_vm(site, router, link) if placement.vm == site.name else ()
        yield Flow(INGRESS, OneTable.OWN, flow.match, arrive if here else flow.actions, flow.cookie)
