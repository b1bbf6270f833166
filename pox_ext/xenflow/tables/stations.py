"""Who is on a virtual link, and by which port a switch reaches them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from xenflow.model.network import Link
from xenflow.model.placement import Mode
from xenflow.tables.frames import UNTAGGED, Tag, tagged
from xenflow.tables.site import Site


def ways_in(site: Site, link: Link, *untagged: int) -> Iterator[tuple[int, Tag]]:
    """Where frames of a link come in, as flows match it: the ports of its cables with its VLAN, and
    without one its access ports and those that are `untagged` besides."""
    for port in site.tree_ports(link):
        yield port, tagged(link.vlan)
    yield from product((*site.access_ports(link), *untagged), UNTAGGED)


def stations(site: Site, link: Link) -> Iterator[tuple[int, int | None]]:
    """The end machines of a link: MAC address and the port that leads to it."""
    for access in link.access:
        here = access.end.datapath == site.name
        for mac in access.macs:
            if here:
                yield mac, site.ports.get(access.end.port)
            else:
                yield mac, site.toward(link, access.end.datapath)


def port_of(site: Site, link: Link, mac: int) -> int | None:
    """The port by which a station or a router elsewhere is reached on a link; None where it is a
    router whose frames this switch takes in itself, or nobody known."""
    for router, interface in site.network.members(link.name):
        if interface.mac == mac and router.name in site.placements:
            if site.takes_in(router.name, link):
                return None
            return port_to(site, link, site.placements[router.name].leads(link.name))
    return dict(stations(site, link)).get(mac)


def bridge_ports(site: Site, link: Link, mac: int) -> list[int]:
    """The ports by which a bridged link's learning bridge sends a frame to a MAC address, once it
    has learned where that is: one, or, of a group or nobody known, all of the link's here."""
    known = dict(stations(site, link))
    for router, interface in site.network.members(link.name):
        placement = site.placements.get(router.name)
        if placement is None:
            continue
        native = placement.mode is Mode.NATIVE
        at = placement.vm if native else placement.leads(link.name)
        here = at == site.name
        known[interface.mac] = site.vif(interface) if here else site.toward(link, at)
    if mac in known:
        port = known[mac]
        return [] if port is None else [port]
    return [*site.tree_ports(link), *site.access_ports(link), *site.vif_ports(link)]


def port_to(site: Site, link: Link, datapath: str) -> int | None:
    """The port that leads to another datapath on a link; None where that is this one."""
    return None if datapath == site.name else site.toward(link, datapath)
