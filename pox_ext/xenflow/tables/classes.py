"""Table CLASSES: data, or something only the VM can decide?"""

from __future__ import annotations

from collections.abc import Iterator

from xenflow.model.network import Pipeline, Router
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Flow, match
from xenflow.routes.family import LINK_LOCAL6, V4, V6, family_of, is_link_local
from xenflow.tables import cookies
from xenflow.tables.families import MATCHED, from_prefix, to_prefix
from xenflow.tables.layout import CLASSES, NEXT_HOPS, ROUTES, VM, Classes, NextHops, Reg, Routes
from xenflow.tables.sent_up import ASKED
from xenflow.tables.site import FamilyView, Site

_ALL4 = (0xFFFFFFFF, V4.host)
"""The limited broadcast address."""

# What a router must not forward whatever its table says, dropped as the kernel drops it, unheard:
# RFC 1812, sections 5.3.7 and 4.2.2.11, and net/ipv4/route.c (ip_route_input_slow); RFC 4291,
# sections 2.5.3 and 2.7, and net/ipv6/ip6_input.c (ip6_rcv_core).  Here and below: (net, span).
MULTICAST_SOURCES = ((0xE0000000, V4.span(4)), _ALL4, (0xFF << 120, V6.span(8)))
MARTIAN_SOURCES = ((0x7F000000, V4.span(8)), (0x00000000, V4.host))
MARTIAN_DESTINATIONS = ((0x7F000000, V4.span(8)), (1, V6.host))

# What the VM must decide: multicast, broadcast, also by its old address 0.0.0.0; and 0/8, unicast
# since Linux 5.3 (include/linux/in.h, ipv4_is_zeronet).  Of IPv6 also what is link-local or
# unspecified, which depends on the interface (net/ipv6/ip6_output.c, ip6_forward).
VM_DESTINATIONS = (
    *((0xE0000000, V4.span(4)), _ALL4, (0x00000000, V4.span(8))),
    *((0xFF << 120, V6.span(8)), LINK_LOCAL6, (0, V6.host)),
)
# As a source all of ::/16, in which nothing is given to anybody: `::`, ::1, which the kernel drops,
# and IPv4-mapped addresses, which some kernels drop (5.4) and others do not (6.18).  No longer
# prefix of sources is matched here: with all their bits each source would be a cached flow.
VM_SOURCES = ((0x00000000, V4.span(8)), LINK_LOCAL6, (0, V6.span(16)))

# Neighbour discovery, to whatever address: a kernel that answers for others (proxy_ndp) takes what
# is for them (net/ipv6/ip6_output.c, ip6_forward_proxy_check; RFC 4861, section 4).
DISCOVERY = range(133, 138)

_TO_VM = (f.resubmit(VM),)


def classes_of_all() -> Iterator[Flow]:
    """What is so for every router, and where nothing is known."""
    own = cookies.of(CLASSES)
    for priority, matching, prefixes, actions in (
        (Classes.MULTICAST_SOURCE, from_prefix, MULTICAST_SOURCES, ()),
        (Classes.VM_DESTINATION, to_prefix, VM_DESTINATIONS, _TO_VM),
        (Classes.MARTIAN_SOURCE, from_prefix, MARTIAN_SOURCES, ()),
        (Classes.MARTIAN_DESTINATION, to_prefix, MARTIAN_DESTINATIONS, ()),
        (Classes.VM_SOURCE, from_prefix, VM_SOURCES, _TO_VM),
    ):
        for prefix in prefixes:
            yield Flow(CLASSES, priority, match(**matching(*prefix)), actions, own)
    for of in MATCHED.values():
        for ttl in (0, 1):
            expiring = match(dl_type=of.dl_type, nw_ttl=ttl)
            yield Flow(CLASSES, Classes.EXPIRING, expiring, _TO_VM, own)
    protocol_0 = match(dl_type=f.IPV4, nw_proto=0)
    yield Flow(CLASSES, Classes.PROTOCOL_0, protocol_0, _TO_VM, own)
    for kind in DISCOVERY:
        message = match(dl_type=f.IPV6, nw_proto=f.ICMPV6, tp_src=kind)
        yield Flow(CLASSES, Classes.DISCOVERY, message, _TO_VM, own)
    yield Flow(CLASSES, Classes.REST, match(), _TO_VM, own)
    yield Flow(ROUTES, Routes.MISS, match(), _TO_VM, cookies.of(CLASSES))
    yield Flow(NEXT_HOPS, NextHops.MISS, match(), _TO_VM, cookies.of(CLASSES))


def classes_of(site: Site, router: Router) -> Iterator[Flow]:
    """What is data for a router here, and what its VM must decide."""
    view = site.views.get(router.name)
    if view is None or not site.forwards(router.name):
        return
    own, of_router = cookies.of(CLASSES, router.id), {Reg.ROUTER: router.id}
    for net, span, _ in view.locals:
        if view.of(family_of(span)).slow or is_link_local(net, span):  # VM_DESTINATIONS has those
            continue
        mine = match(**of_router, **to_prefix(net, span))
        yield Flow(CLASSES, Classes.OWN_DESTINATION, mine, _TO_VM, own)
        if span <= V4.host:  # net/ipv6 looks at no source so
            spoofed = match(**of_router, **from_prefix(net, span))
            yield Flow(CLASSES, Classes.OWN_SOURCE, spoofed, _TO_VM, own)
    for family, of in MATCHED.items():
        decides = view.of(family)
        if not decides.slow:
            yield from _data(site, router, decides, of.dl_type, own)


def _data(
    site: Site, router: Router, decides: FamilyView, dl_type: int, own: int
) -> Iterator[Flow]:
    """What is data of one family, and what is not by where it arrived."""
    of_family = {Reg.ROUTER: router.id, "dl_type": dl_type}
    proactive = site.datapath.pipeline is Pipeline.PROACTIVE
    arrivals = {
        interface.name: {**of_family, Reg.LINK_IN: site.network.links[interface.link].id}
        for interface in router.interfaces
    }
    for name, arrived in arrivals.items():
        if name in decides.down:
            yield Flow(CLASSES, Classes.DOWN, match(**arrived), _TO_VM, own)
    if proactive:
        yield Flow(CLASSES, Classes.DATA, match(**of_family), (f.resubmit(ROUTES),), own)
    else:
        for arrived in arrivals.values():
            yield Flow(CLASSES, Classes.DATA, match(**arrived), ASKED, own)
