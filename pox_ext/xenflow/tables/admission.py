"""Table ADMISSION: whose frame is it? a router's here, or in transit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from xenflow.model.network import Interface, Link, Router
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Action, Flow, match
from xenflow.routes.family import V4, V6
from xenflow.tables import cookies
from xenflow.tables.frames import MULTICAST
from xenflow.tables.layout import ADMISSION, CLAIM, CLASSES, LINKS, ND, REPLY, Admission, Nd, Reg
from xenflow.tables.site import RouterView, Site

MAX_ARP_REPLIES = 2000
"""A router with more IPv4 addresses, times its interfaces, is answered for by each interface for
that one's own addresses and those of no link (a loopback's) only; with more of these, times its
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
        yield from replies(site, router, interface, ADMISSION, Reg.LINK_IN, onward)


def transit() -> Flow:
    """All others are in transit."""
    return Flow(ADMISSION, Admission.TRANSIT, match(), _TRANSIT, cookies.of(ADMISSION))


def replies(
    site: Site,
    router: Router,
    interface: Interface,
    table: int,
    link_in: str,
    onward: Mapping[str, tuple[Action, ...]],
) -> Iterator[Flow]:
    """ARP and neighbour solicitations for the router's own addresses while its VM is suspended, or
    being moved.

    Who claims an address of the router for itself goes `onward` like everybody.  While the VM is
    elsewhere only what is asked of the router alone is answered: what is asked of all reaches the
    VM's host too, which answers.  `link_in`: the register that has the link there; `onward`: by
    whom it is addressed to, all or the router.
    """
    view, holds = site.views.get(router.name), site.holds(router, interface)
    if view is None or not (holds or site.stands_in(router)):
        return
    link = site.network.links[interface.link].id
    own = cookies.of_link(table, link, router.id)
    for to, goes_on in onward.items():
        if to == "group" and not holds:
            continue
        asked_of = {link_in: link, "dl_dst": MULTICAST if to == "group" else interface.mac}
        back = (
            f.move("dl_src", "dl_dst"),
            f.set_dl_src(interface.mac),
            f.load("in_port", 0),
            f.load(Reg.LINK_OUT, link),
        )
        for claim, asked, reply in (
            *_arp(router, interface, view),
            *_nd(interface, view, override=to == "group"),
        ):
            if claim:
                yield Flow(table, CLAIM, match(**asked_of, **claim), goes_on, own)
            if asked:
                yield Flow(table, REPLY, match(**asked_of, **asked), (*back, *reply), own)


_Asked = dict[str, int | tuple[int, int]]
_Answer = tuple[_Asked, _Asked, tuple[Action, ...]]
"""What is not answered, what is, and how the rest of the answer is made; {} for none."""


def _arp(router: Router, interface: Interface, view: RouterView) -> Iterator[_Answer]:
    """As the kernel answers ARP (RFC 826; net/ipv4/arp.c, arp_process; arp_ignore 0): on every link
    for every address, but for broadcast ones."""
    asked: _Asked = {"dl_type": f.ARP, "arp_op": 1}
    for address in _answered_for(router, interface, view):
        reply = (
            f.load("arp_op", 2),
            f.move("arp_sha", "arp_tha"),
            f.load("arp_sha", interface.mac),
            f.move("arp_spa", "arp_tpa"),
            f.load("arp_spa", address),
            f.resubmit(LINKS),
        )
        yield {**asked, "arp_spa": address}, {**asked, "arp_tpa": address}, reply


_SOLICITED: _Asked = {
    "dl_type": f.IPV6,
    "nw_proto": f.ICMPV6,
    "tp_src": f.SOLICITATION,
    "tp_dst": 0,
}
_NOT_ANSWERED: tuple[_Asked, ...] = (
    {"nd_sll": 0},
    {"ipv6_src": 0},
    {"ipv6_src": (0xFF << 120,) * 2},
)
"""Who tells no MAC address: his packet has no place for one in the answer.  Who has no address yet,
and asks whether anybody else has it; only the VM knows what that one is told.  And no group."""
_ROUTER, _SOLICITED_BY, _OVERRIDE = 1 << 31, 1 << 30, 1 << 29


def _nd(interface: Interface, view: RouterView, override: bool) -> Iterator[_Answer]:
    """As the kernel answers neighbour solicitations (RFC 4861, sections 7.1.1 and 7.2.4;
    net/ipv6/ndisc.c, ndisc_recv_ns): on a link for the addresses of its own interface.  Not for
    anycast ones, whose answer waits, and none by an interface that forwards nothing: whether it is
    a router's is a flag of the answer."""
    if interface.name in view.v6.down:
        return
    of_it = [net for net, span, name in view.locals if (span, name) == (V6.host, interface.name)]
    if of_it:
        yield from (({**_SOLICITED, **claim}, {}, ()) for claim in _NOT_ANSWERED)
    flags = _ROUTER | _SOLICITED_BY | (_OVERRIDE if override else 0)
    for address in of_it:
        reply = (
            f.move("ipv6_src", "ipv6_dst"),
            *f.load_address6("ipv6_src", address),
            f.load("nd_options_type", 2),
            f.load("nd_reserved", flags),
            f.load("icmpv6_type", f.ADVERTISEMENT),
            f.resubmit(ND),
        )
        asked: _Asked = {**_SOLICITED, "nw_ttl": 255, "nd_target": address}
        yield {**_SOLICITED, "ipv6_src": address}, asked, reply


def nd_answers() -> Flow:
    """The rest of an answer to a neighbour solicitation."""
    advertised = match(dl_type=f.IPV6, nw_proto=f.ICMPV6, tp_src=f.ADVERTISEMENT, tp_dst=0)
    told = (f.move("dl_src", "nd_tll"), f.resubmit(LINKS))
    return Flow(ND, Nd.REPLY, advertised, told, cookies.of(ND))


def _answered_for(router: Router, interface: Interface, view: RouterView) -> list[int]:
    addresses = [(net, name) for net, span, name in view.locals if span == V4.host and name]
    names, links = {i.name for i in router.interfaces}, len(router.interfaces)
    of_no_link = [net for net, name in addresses if name not in names]
    own = [net for net, name in addresses if name == interface.name]
    if len(addresses) * links <= MAX_ARP_REPLIES:
        return [net for net, _ in addresses]
    return [*own, *of_no_link] if len(of_no_link) * links <= MAX_ARP_REPLIES else own
