"""The one table of a plain OpenFlow 1.0 switch, which does what INGRESS and LINKS do."""

from __future__ import annotations

from collections.abc import Iterator

from xenflow.model.network import Link
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Action, Actions, Flow, match
from xenflow.tables import cookies
from xenflow.tables.frames import Tag
from xenflow.tables.ingress import bridged, detours
from xenflow.tables.layout import INGRESS, OneTable
from xenflow.tables.plain_sent_up import to_be_held
from xenflow.tables.site import Site
from xenflow.tables.stations import port_to, stations, ways_in


def plain_switch_of(site: Site, link: Link) -> Iterator[Flow]:
    """All flows of a link."""
    own = cookies.of_link(INGRESS, link.id)
    if site.native(link):
        yield from bridged(site, link)
        return
    ways = [*ways_in(site, link)]
    if not ways:  # the link may not reach this switch at all
        return
    known = dict(stations(site, link))
    router_of: dict[int, int] = {}
    for router, interface in site.network.members(link.name):
        placement = site.placements.get(router.name)
        if placement is not None:
            known[interface.mac] = port_to(site, link, placement.leads(link.name))
            router_of[interface.mac] = router.id
            yield from detours(site, link, router, interface)
    for port, tag in ways:
        came: dict[str, Tag] = {"in_port": port, "vlan_tci": tag}
        for mac, out in known.items():
            frame = match(**came, dl_dst=mac)
            mine = cookies.of_link(INGRESS, link.id, router_of.get(mac, 0))
            yield Flow(INGRESS, OneTable.FRAME, frame, plain_send(site, link, out, port), mine)
        yield Flow(INGRESS, OneTable.FLOOD, match(**came), flood(site, link, port), own)


def flood(site: Site, link: Link, came: int | None = None) -> Actions:
    """Actions of OpenFlow 1.0 that send a frame to every port of a link, and every VM on it that is
    here, but to the port it came from."""
    cables = [port for port in site.tree_ports(link) if port != came]
    untagged = [port for port in site.access_ports(link) if port != came]
    held = False
    for router, interface in site.network.members(link.name):
        placement = site.placements.get(router.name)
        vif = site.vif(interface)
        if placement is None or placement.vm != site.name:
            continue
        held = held or site.holds(router, interface)
        if vif and vif != came:
            untagged.append(vif)
    actions: list[Action] = []
    if cables:
        actions += [f.set_vlan(link.vlan), *(f.output(port) for port in cables)]
    if held:
        actions += to_be_held(link)
    if untagged:
        actions += [f.strip_vlan(), *(f.output(port) for port in untagged)]
    return tuple(actions)


def plain_send(site: Site, link: Link, port: int | None, came: int | None = None) -> Actions:
    """Actions of OpenFlow 1.0 that send a frame out by a port of a link, tagged on a cable; not
    back to where it came from."""
    if port in (None, came):
        return ()
    if port in site.access_ports(link):
        return (f.strip_vlan(), f.output(port))
    return (f.set_vlan(link.vlan), f.output(port))
