"""The one table of a plain OpenFlow 1.0 switch, which does what INGRESS and LINKS do."""

from __future__ import annotations

from collections.abc import Iterator

from xenflow.model.network import Link
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Action, Flow, match
from xenflow.tables import cookies
from xenflow.tables.frames import Tag
from xenflow.tables.ingress import bridged, detours, strays
from xenflow.tables.layout import INGRESS, OneTable
from xenflow.tables.site import Site
from xenflow.tables.stations import port_to, stations, ways_in


def plain_switch_of(site: Site, link: Link) -> Iterator[Flow]:
    """All flows of a link."""
    own = cookies.of_link(INGRESS, link.id)
    yield from strays(site, link)
    if site.native(link):
        yield from bridged(site, link)
        return
    cables, access = site.tree_ports(link), site.access_ports(link)
    known = dict(stations(site, link))
    router_of: dict[int, int] = {}
    for router, interface in site.network.members(link.name):
        placement = site.placements.get(router.name)
        if placement is not None:
            known[interface.mac] = port_to(site, link, placement.leads(link.name))
            router_of[interface.mac] = router.id
            yield from detours(site, link, router, interface)
    for port, tag in ways_in(site, link):
        came: dict[str, Tag] = {"in_port": port, "vlan_tci": tag}
        for mac, out in known.items():
            actions = () if out in (None, port) else plain_send(site, link, out)
            frame = match(**came, dl_dst=mac)
            mine = cookies.of_link(INGRESS, link.id, router_of.get(mac, 0))
            yield Flow(INGRESS, OneTable.FRAME, frame, actions, mine)
        flood: list[Action] = []
        if port in access:
            flood += [f.set_vlan(link.vlan)]
        flood += [f.output(out) for out in cables if out != port]
        flood += [f.strip_vlan(), *(f.output(out) for out in access if out != port)]
        yield Flow(INGRESS, OneTable.FLOOD, match(**came), tuple(flood), own)


def plain_send(site: Site, link: Link, port: int | None) -> tuple[Action, ...]:
    """Actions of OpenFlow 1.0 that send a frame out by a port of a link, tagged on a cable."""
    if port is None:
        return ()
    if port in site.access_ports(link):
        return (f.strip_vlan(), f.output(port))
    return (f.set_vlan(link.vlan), f.output(port))
