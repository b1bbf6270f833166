"""Table ADMISSION: whose frame is it? a router's here, or in transit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from xenflow.model.network import Interface, Link, Router
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Action, Flow, match
from xenflow.routes.family import V4
from xenflow.tables import cookies
from xenflow.tables.frames import MULTICAST
from xenflow.tables.layout import ADMISSION, ARP_CLAIM, ARP_REPLY, CLASSES, LINKS, Admission, Reg
from xenflow.tables.site import RouterView, Site

MAX_ARP_REPLIES = 2000
"""A router with more addresses, times its interfaces, is answered for by each interface for that
one's own addresses and those of no link (a loopback's) only; with more of these, times its
interfaces, for its own alone."""


_TRANSIT = (f.move(Reg.LINK_IN, Reg.LINK_OUT), f.resubmit(LINKS))


def admission_of(site: Site, link: Link) -> Iterator[Flow]:
    """Which frames of a link are for a router here."""
    for router, interface in site.network.members(link.name):
        if not site.forwards(router.name):
            continue
        own = cookies.of_link(ADMISSION, link.id, router.id)
        mine = (f.load(Reg.ROUTER, router.id), f.resubmit(CLASSES))
        inlet = site.inlet(router.name, link)
        if inlet is not None:
            frame = match(**inlet, **{Reg.LINK_IN: link.id}, dl_dst=interface.mac)
            yield Flow(ADMISSION, Admission.OWN, frame, mine, own)
        onward = {"group": _TRANSIT, "own": mine}
        yield from arp_replies(site, router, interface, ADMISSION, Reg.LINK_IN, onward)


def transit() -> Flow:
    """All others are in transit."""
    return Flow(ADMISSION, Admission.TRANSIT, match(), _TRANSIT, cookies.of(ADMISSION))


def arp_replies(
    site: Site,
    router: Router,
    interface: Interface,
    table: int,
    link_in: str,
    onward: Mapping[str, tuple[Action, ...]],
) -> Iterator[Flow]:
    """ARP for the router's own addresses while its VM is suspended, or being moved (RFC 826).

    As the kernel answers (net/ipv4/arp.c, arp_process; arp_ignore 0): on every link for every
    address, but for broadcast ones; not who claims an address of the router for itself, who goes
    `onward` like everybody.  While the VM is elsewhere only what is asked of the router alone is
    answered: what is asked of all reaches the VM's host too, which answers.  `link_in`: the
    register that has the link there; `onward`: by whom it is addressed to, all or the router.
    """
    view, holds = site.views.get(router.name), site.holds(router, interface)
    if view is None or not (holds or site.stands_in(router)):
        return
    link = site.network.links[interface.link].id
    own = cookies.of_link(table, link, router.id)
    for to, goes_on in onward.items():
        if to == "group" and not holds:
            continue
        target = MULTICAST if to == "group" else interface.mac
        asked_of = {link_in: link, "dl_dst": target, "dl_type": f.ARP, "arp_op": 1}
        for address in _answered_for(router, interface, view):
            reply: tuple[Action, ...] = (
                f.move("dl_src", "dl_dst"),
                f.set_dl_src(interface.mac),
                f.load("arp_op", 2),
                f.move("arp_sha", "arp_tha"),
                f.load("arp_sha", interface.mac),
                f.move("arp_spa", "arp_tpa"),
                f.load("arp_spa", address),
                f.load("in_port", 0),
                f.load(Reg.LINK_OUT, link),
                f.resubmit(LINKS),
            )
            yield Flow(table, ARP_REPLY, match(**asked_of, arp_tpa=address), reply, own)
            claim = match(**asked_of, arp_spa=address)
            yield Flow(table, ARP_CLAIM, claim, goes_on, own)


def _answered_for(router: Router, interface: Interface, view: RouterView) -> list[int]:
    addresses = [(net, name) for net, span, name in view.locals if span == V4.host and name]
    names, links = {i.name for i in router.interfaces}, len(router.interfaces)
    of_no_link = [net for net, name in addresses if name not in names]
    own = [net for net, name in addresses if name == interface.name]
    if len(addresses) * links <= MAX_ARP_REPLIES:
        return [net for net, _ in addresses]
    return [*own, *of_no_link] if len(of_no_link) * links <= MAX_ARP_REPLIES else own
