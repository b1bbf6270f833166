"""Table LINKS: where a virtual link leaves this switch."""

from __future__ import annotations

from collections.abc import Iterator

from xenflow.model.network import Link
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Action, Flow, match
from xenflow.tables import cookies
from xenflow.tables.admission import replies
from xenflow.tables.frames import MULTICAST, VIRTUAL_ROUTERS
from xenflow.tables.layout import ADMISSION, LINKS, VM, Links, Reg
from xenflow.tables.site import Site
from xenflow.tables.stations import port_to, stations


def links_of(site: Site, link: Link) -> Iterator[Flow]:
    """Where frames of a link go."""
    own = cookies.of_link(LINKS, link.id)
    flood: list[Action]
    send: tuple[Action, ...]
    onto = {Reg.LINK_OUT: link.id}
    cables, access = site.tree_ports(link), site.access_ports(link)
    if site.native(link):
        # What a router of this switch sends there: the bridges of the others know the way.
        flood = [f.set_vlan(link.vlan), *(f.output(port) for port in cables), f.strip_vlan()]
        flood += [f.output(port) for port in (*access, *site.vif_ports(link))]
        yield Flow(LINKS, Links.FLOOD, match(**onto), tuple(flood), own)
        return
    if not (cables or access) and not any(
        site.ports.get(i.vif) for _, i in site.network.members(link.name)
    ):
        return
    for mac, port in stations(site, link):
        send = out_by(link, port, access)
        yield Flow(LINKS, Links.STATION, match(**onto, dl_dst=mac), send, own)
    for router, interface in site.network.members(link.name):
        placement = site.placements.get(router.name)
        if placement is None:
            continue
        frame = match(**onto, dl_dst=interface.mac)
        if site.takes_in(router.name, link):
            send = (f.load(Reg.LINK_IN, link.id), f.resubmit(ADMISSION))
        else:
            send = out_by(link, port_to(site, link, placement.leads(link.name)), access)
        mine = cookies.of_link(LINKS, link.id, router.id)
        yield Flow(LINKS, Links.STATION, frame, send, mine)
    flood = []
    if cables:
        flood += [f.set_vlan(link.vlan), *(f.output(port) for port in cables), f.strip_vlan()]
    flood += [f.output(port) for port in access]
    yield Flow(LINKS, Links.FLOOD, match(**onto), tuple(flood), own)
    for router, _ in site.network.members(link.name):
        placement = site.placements.get(router.name)
        if placement is not None and placement.vm == site.name:
            flood += [f.load(Reg.LINK_IN, link.id), f.load(Reg.ROUTER, router.id), f.resubmit(VM)]
    for group in (MULTICAST, *VIRTUAL_ROUTERS):
        yield Flow(LINKS, Links.GROUP, match(**onto, dl_dst=group), tuple(flood), own)
    for router, interface in site.network.members(link.name):
        if site.forwards(router.name):  # asked by a neighbour on this same host
            onward = {"group": tuple(flood)}
            yield from replies(site, router, interface, LINKS, Reg.LINK_OUT, onward)


def out_by(link: Link, port: int | None, access: list[int]) -> tuple[Action, ...]:
    """Actions that send an untagged frame out by a port of a link, tagged on a cable."""
    if port is None:
        return ()
    return (f.output(port),) if port in access else (f.set_vlan(link.vlan), f.output(port))
