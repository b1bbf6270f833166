"""Table CLASSES: data, or something only the VM can decide?"""

from __future__ import annotations

from collections.abc import Iterator

from xenflow.model.network import Pipeline, Router
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Flow, match, prefix_mask
from xenflow.tables import cookies
from xenflow.tables.layout import CLASSES, NEXT_HOPS, ROUTES, VM, Classes, NextHops, Reg, Routes
from xenflow.tables.sent_up import ASKED
from xenflow.tables.site import Site

# What an IPv4 router must not forward whatever its table says (RFC 1812, sections 5.3.7 and
# 4.2.2.11; net/ipv4/route.c, ip_route_input_slow): dropped as the kernel drops it, unheard.
MARTIAN_SOURCES = ((0x7F000000, 8), (0x00000000, 32))
MULTICAST_SOURCES = ((0xE0000000, 4), (0xFFFFFFFF, 32))
MARTIAN_DESTINATIONS = ((0x7F000000, 8),)

# What the VM must decide: multicast, broadcast, also by its old address 0.0.0.0; and 0/8, unicast
# since Linux 5.3 (include/linux/in.h, ipv4_is_zeronet).
VM_SOURCES = ((0x00000000, 8),)
VM_DESTINATIONS = ((0xE0000000, 4), (0xFFFFFFFF, 32), (0x00000000, 8))


_TO_VM = (f.resubmit(VM),)


def classes_of_all() -> Iterator[Flow]:
    """What is so for every router, and where nothing is known."""
    own = cookies.of(CLASSES)
    for priority, field, prefixes, actions in (
        (Classes.MULTICAST_SOURCE, "nw_src", MULTICAST_SOURCES, ()),
        (Classes.VM_DESTINATION, "nw_dst", VM_DESTINATIONS, _TO_VM),
        (Classes.MARTIAN_SOURCE, "nw_src", MARTIAN_SOURCES, ()),
        (Classes.MARTIAN_DESTINATION, "nw_dst", MARTIAN_DESTINATIONS, ()),
        (Classes.VM_SOURCE, "nw_src", VM_SOURCES, _TO_VM),
    ):
        for net, plen in prefixes:
            what = match(dl_type=f.IPV4, **{field: (net, prefix_mask(plen))})
            yield Flow(CLASSES, priority, what, actions, own)
    for ttl in (0, 1):
        expiring = match(dl_type=f.IPV4, nw_ttl=ttl)
        yield Flow(CLASSES, Classes.EXPIRING, expiring, _TO_VM, own)
    protocol_0 = match(dl_type=f.IPV4, nw_proto=0)
    yield Flow(CLASSES, Classes.PROTOCOL_0, protocol_0, _TO_VM, own)
    yield Flow(CLASSES, Classes.REST, match(), _TO_VM, own)
    yield Flow(ROUTES, Routes.MISS, match(), _TO_VM, cookies.of(CLASSES))
    yield Flow(NEXT_HOPS, NextHops.MISS, match(), _TO_VM, cookies.of(CLASSES))


def classes_of(site: Site, router: Router) -> Iterator[Flow]:
    """What is data for a router here, and what its VM must decide."""
    view = site.views.get(router.name)
    if view is None or view.slow or not site.forwards(router.name):
        return
    own, of_router = cookies.of(CLASSES, router.id), {Reg.ROUTER: router.id}
    for net, plen, _ in view.locals:
        prefix = (net, prefix_mask(plen))
        mine = match(**of_router, dl_type=f.IPV4, nw_dst=prefix)
        yield Flow(CLASSES, Classes.OWN_DESTINATION, mine, _TO_VM, own)
        spoofed = match(**of_router, dl_type=f.IPV4, nw_src=prefix)
        yield Flow(CLASSES, Classes.OWN_SOURCE, spoofed, _TO_VM, own)
    for interface in router.interfaces:
        link = site.network.links[interface.link]
        if interface.name in view.down:
            arrived = match(**of_router, **{Reg.LINK_IN: link.id})
            yield Flow(CLASSES, Classes.DOWN, arrived, _TO_VM, own)
    data = match(**of_router, dl_type=f.IPV4)
    if site.datapath.pipeline is Pipeline.PROACTIVE:
        yield Flow(CLASSES, Classes.DATA, data, (f.resubmit(ROUTES),), own)
    else:
        for interface in router.interfaces:
            link = site.network.links[interface.link]
            arrived = match(**of_router, **{Reg.LINK_IN: link.id}, dl_type=f.IPV4)
            yield Flow(CLASSES, Classes.DATA, arrived, ASKED, own)
