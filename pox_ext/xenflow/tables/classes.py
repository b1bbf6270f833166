"""Table CLASSES: data, or something only the VM can decide?"""

from __future__ import annotations

from collections.abc import Iterator

from xenflow.model.network import Pipeline
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Flow, match, prefix_mask
from xenflow.tables import cookies
from xenflow.tables.layout import CLASSES, NEXT_HOPS, ROUTES, VM
from xenflow.tables.sent_up import asked
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


def class_flows(site: Site) -> Iterator[Flow]:
    own = cookies.of(CLASSES)
    to_vm = (f.resubmit(VM),)
    # In the kernel's order: a broadcast may come from 0.0.0.0, nothing from a multicast address.
    for priority, field, prefixes, actions in (
        (300, "nw_src", MULTICAST_SOURCES, ()),
        (295, "nw_dst", VM_DESTINATIONS, to_vm),
        (290, "nw_src", MARTIAN_SOURCES, ()),
        (280, "nw_dst", MARTIAN_DESTINATIONS, ()),
        (275, "nw_src", VM_SOURCES, to_vm),
    ):
        for net, plen in prefixes:
            what = match(dl_type=f.IPV4, **{field: (net, prefix_mask(plen))})
            yield Flow(CLASSES, priority, what, actions, own)
    for ttl in (0, 1):
        yield Flow(CLASSES, 270, match(dl_type=f.IPV4, nw_ttl=ttl), to_vm, own)
    yield Flow(CLASSES, 270, match(dl_type=f.IPV4, nw_proto=0), to_vm, own)
    yield Flow(CLASSES, 0, match(), to_vm, own)
    for router in site.network.routers.values():
        view = site.views.get(router.name)
        if view is None or view.slow or not site.forwards(router.name):
            continue
        own = cookies.of(CLASSES, router.id)
        for net, plen, _ in view.locals:
            prefix = (net, prefix_mask(plen))
            mine = match(reg1=router.id, dl_type=f.IPV4, nw_dst=prefix)
            yield Flow(CLASSES, 285, mine, to_vm, own)
            spoofed = match(reg1=router.id, dl_type=f.IPV4, nw_src=prefix)
            yield Flow(CLASSES, 286, spoofed, to_vm, own)
        for interface in router.interfaces:
            link = site.network.links[interface.link]
            if interface.name in view.down:
                arrived = match(reg1=router.id, reg3=link.id)
                yield Flow(CLASSES, 275, arrived, to_vm, own)
        data = match(reg1=router.id, dl_type=f.IPV4)
        if site.datapath.pipeline is Pipeline.PROACTIVE:
            yield Flow(CLASSES, 100, data, (f.resubmit(ROUTES),), own)
        else:
            for interface in router.interfaces:
                link = site.network.links[interface.link]
                arrived = match(reg1=router.id, reg3=link.id, dl_type=f.IPV4)
                yield Flow(CLASSES, 100, arrived, asked(link), own)
    yield Flow(ROUTES, 0, match(), to_vm, cookies.of(CLASSES))
    yield Flow(NEXT_HOPS, 0, match(), to_vm, cookies.of(CLASSES))
