"""Table VM: packets for the VM go to its vif, to the host where it is, or are held while it is
suspended."""

from __future__ import annotations

from collections.abc import Iterator

from xenflow.model.network import Link, Router
from xenflow.model.placement import Mode
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Action, Flow, match
from xenflow.routes.family import LINK_LOCAL6, family_of, is_link_local
from xenflow.tables import cookies
from xenflow.tables.families import MATCHED, to_prefix
from xenflow.tables.frames import MULTICAST, VIRTUAL_ROUTERS
from xenflow.tables.layout import VM, Reg, ToVm
from xenflow.tables.sent_up import COPIED_UP, TO_BE_HELD
from xenflow.tables.site import Site


def vm_of(site: Site, link: Link) -> Iterator[Flow]:
    """What the VMs of a link get, what is held for them, what crosses to them."""
    for router, interface in site.network.members(link.name):
        placement = site.placements.get(router.name)
        if placement is None or placement.mode is Mode.NATIVE:
            continue
        own = cookies.of_link(VM, link.id, router.id)
        arrived = {Reg.ROUTER: router.id, Reg.LINK_IN: link.id}
        if placement.vm == site.name:
            port = site.vif(interface)
            send: tuple[Action, ...] = (f.output(port),) if port else ()
            copied = (*send, *COPIED_UP) if port else ()
            if site.holds(router, interface):
                send = copied = TO_BE_HELD
            yield Flow(VM, ToVm.VM, match(**arrived), send, own)
            if site.copies(router):
                for what in _its_own(site, router):
                    yield Flow(VM, ToVm.COPIED, match(**arrived, **what), copied, own)
        elif site.name in placement.hosts:
            for group in (MULTICAST, *VIRTUAL_ROUTERS):
                yield Flow(VM, ToVm.GROUP, match(**arrived, dl_dst=group), (), own)
            port = site.toward(link, placement.vm)
            cross = (
                (f.load("in_port", 0), f.set_vlan(link.detour_vlan), f.output(port)) if port else ()
            )
            # DETOURED: it came by a detour already, the VM has just moved on; never send it round.
            yield Flow(VM, ToVm.VM, match(**arrived, **{Reg.DETOURED: 0}), cross, own)


MAX_COPIED = 2000
"""Of a router with more addresses of a family, times its interfaces, only what is for all is
copied of that family."""


def _its_own(site: Site, router: Router) -> Iterator[dict[str, int | tuple[int, int]]]:
    """What is for the VM itself, not to be forwarded by it, as flows match it.  A forwarded packet
    that was copied would arrive twice where it goes."""
    yield {"dl_type": f.ARP}
    for group in (MULTICAST, *VIRTUAL_ROUTERS):
        yield {"dl_dst": group}
    yield to_prefix(*LINK_LOCAL6)
    view = site.views.get(router.name)
    if view is None:
        return
    for family in MATCHED:
        own = [
            (net, span)
            for net, span, _ in view.locals
            if family_of(span) is family and not is_link_local(net, span)
        ]
        if len(own) * len(router.interfaces) <= MAX_COPIED:
            yield from (to_prefix(net, span) for net, span in own)
