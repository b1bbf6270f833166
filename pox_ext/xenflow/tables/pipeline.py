"""The tables of a XenFlow switch: from the network, the placements and the routes to flows.

A packet on a host passes, from table to table:

    INGRESS    which virtual link did it arrive on?                   reg3 = arrival link
    ADMISSION  whose frame is it? a router's here, or in transit      reg1 = router
    CLASSES    data, or something only the VM can decide?
    ROUTES     longest-prefix match, and nothing else                 reg0 = next hop
    NEXT_HOPS  resolved: TTL, MAC addresses                           reg2 = link it leaves on
    LEGS       which leg of an equal-cost group
    SIZES      too large for a narrow interface?
    LINKS      where a virtual link leaves this host
    VM         packets for the VM: its vif, the host where it is, or held while it is suspended

ROUTES to SIZES are the same on every host, because routers, links and next hops have
network-wide ids; only the others, of size O(links), are local.  A plain OpenFlow 1.0 switch has
one table, which does what INGRESS and LINKS do.

Every function here is pure: a `Switch` asks it for its flows after each change and writes the
difference; `vm.packets` asks what a frame means that these flows sent up.
docs/pipeline.md tells the reasons; DESIGN names in the text are those of the report's section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import gcd

from xenflow.model.network import (
    DETOUR_VLAN_OFFSET,
    Datapath,
    Interface,
    Kind,
    Link,
    Network,
    Pipeline,
    Router,
)
from xenflow.model.placement import Mode, Placement
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Action, Flow, match
from xenflow.openflow.packet import ISIS_GROUPS
from xenflow.tables.sessions import BFD_PORTS, BGP_PORT

INGRESS, ADMISSION, CLASSES, ROUTES, NEXT_HOPS, LEGS, SIZES, LINKS, VM = range(9)
TABLE_NAMES = (
    "ingress",
    "admission",
    "classes",
    "routes",
    "next-hops",
    "legs",
    "sizes",
    "links",
    "vm",
)

NETWORK_WIDE = (ROUTES, NEXT_HOPS, LEGS, SIZES)
"""The tables that are the same on every host that forwards for a router."""

ROUTE_PRIORITY = 1000
"""Priority of a /0 route; a /n has ROUTE_PRIORITY + n."""

REACTIVE_PRIORITY = 20000
"""Exact flows of the reactive pipeline, in INGRESS; its TTL guards stand above them."""

REACTIVE_KIND = 0x80
"""In place of the table in the cookies of these flows: they are no part of what is planned."""
REACTIVE_COOKIE_MASK = 0xFFFF << 48 | 0xFF << 24
QUIET_CHUNK = 0xFFFFFF
"""With that kind, too: flows that end by themselves (`quiet`)."""

COOKIE_MAGIC = 0x5846 << 48
COOKIE_MAGIC_MASK = 0xFFFF << 48
CHUNKS = 1021
"""A router's routes are spread over so many cookies, for requests of bounded size.  A prime, so
that prefixes of any length are spread evenly."""

MULTICAST = (0x010000000000, 0x010000000000)
VIRTUAL_ROUTERS = ((0x00005E000100, 0xFFFFFFFFFF00), (0x00005E000200, 0xFFFFFFFFFF00))
"""VRRP's MAC addresses (RFC 9568, section 7.3).  Which VM of a link has one now only the VMs know:
what is for one goes to all of them, and through them."""
TAGGED = f.VLAN_PRESENT
VLAN_MASK = 0x1FFF
UNTAGGED: tuple[int | tuple[int, int], ...] = (0, (TAGGED, VLAN_MASK))
"""How a frame without a VLAN looks: no tag, or one with VLAN id 0, which gives a priority only
(IEEE 802.1Q, 9.6; net/core/dev.c, __netif_receive_skb_core takes it off)."""
HELLOS: tuple[dict[str, int], ...] = (
    {"dl_type": f.IPV4, "nw_proto": 89, "nw_dst": 0xE0000005},
    *({"dl_dst": group} for group in ISIS_GROUPS),
)
"""What hellos come in: OSPF's to AllSPFRouters (RFC 2328, appendix A.1), and all of IS-IS, whose
kinds of message a switch cannot tell apart."""

SESSIONS: tuple[dict[str, int], ...] = (
    *({"dl_type": f.IPV4, "nw_proto": 17, "tp_dst": port} for port in BFD_PORTS),
    {"dl_type": f.IPV4, "nw_proto": 6, "tp_dst": BGP_PORT},
    {"dl_type": f.IPV4, "nw_proto": 6, "tp_src": BGP_PORT},
)
"""What shows how long a router's neighbours wait for it (`sessions`)."""

Flows = dict[tuple[int, int, f.Match], Flow]


def cookie(table: int, router: int = 0, chunk: int = 0) -> int:
    """The cookie of a flow: magic, router (16 bits), table (8), chunk (24)."""
    return COOKIE_MAGIC | router << 32 | table << 24 | chunk


def reactive_cookie(router: int, hop: int) -> int:
    """The cookie of an exact flow of the reactive pipeline, by the next hop it follows from."""
    return cookie(REACTIVE_KIND, router, (hop & 0xFFFFFF) or 1)


def cookie_router(value: int) -> int:
    """The router id in a cookie (0: no router's own)."""
    return value >> 32 & 0xFFFF


_REFUSED = 0x010000
REFUSED_TAG, REFUSED_SOURCE = 1, 2
"""What is not taken from a vif: 802.1Q tags, which belong to the links; and a MAC address of
somebody else."""
REFUSED_MASK = COOKIE_MAGIC_MASK | 0xFF << 24 | 0xFF0000


def refused_cookie(router: int = 0, why: int = 0) -> int:
    """The cookie of a flow that refuses what a VM sends; under REFUSED_MASK, of all of them."""
    return cookie(INGRESS, router, _REFUSED | why)


def refused(value: int) -> tuple[int, int] | None:
    """(router id, why) of what a flow with this cookie refuses; None where it refuses nothing."""
    if value & REFUSED_MASK != refused_cookie():
        return None
    return cookie_router(value), value & 0xFFFF


def taken_in(value: int) -> int:
    """The id of the router whose arrivals a flow with this cookie counts; 0 where it counts none's:
    what is only passed on to where the links lead is no arrival."""
    counts = value >> 24 & 0xFF in (ADMISSION, REACTIVE_KIND) and value & 0xFFFFFF != QUIET_CHUNK
    return cookie_router(value) if counts else 0


ROUTER_COOKIE_MASK = COOKIE_MAGIC_MASK | 0xFFFF << 32
"""Selects every flow of one router: cookie(0, router) under this mask."""


def route_chunk(net: int) -> int:
    """The chunk (0..CHUNKS-1) of the route to a prefix."""
    return net % CHUNKS


def route_cookies(router: int, routes: Sequence[tuple[int, int, int]]) -> list[int]:
    """The cookie of each route (net, prefix length, next hop) in table ROUTES; `route_chunk`
    written out, for there may be a million."""
    base, chunks = cookie(ROUTES, router), CHUNKS
    return [base + net % chunks for net, _, _ in routes]


@dataclass(frozen=True, slots=True)
class RouterView:
    """What the VM's kernel said that decides which packets the switch may route for it.

    locals   (net, prefix length, name) of what the kernel delivers locally; the name is that of the
             interface whose own address it is ("lo" where it is none of the network's), "" of
             broadcast addresses
    down     interfaces through which nothing is forwarded (down, no carrier, forwarding off)
    slow     why everything must pass through the VM, or ""
    off      those of `down` that the VM has switched off itself
    """

    locals: tuple[tuple[int, int, str], ...] = ()
    down: tuple[str, ...] = ()
    slow: str = ""
    off: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Site:
    """One switch as the planner sees it: its ports by name, and who is where.

    `silent` are ports without carrier: a vif that has none belongs to a VM that is suspended, or
    has not connected to it yet, and what is sent there is lost.
    """

    network: Network
    datapath: Datapath
    ports: Mapping[str, int]
    placements: Mapping[str, Placement]
    views: Mapping[str, RouterView]
    silent: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The datapath's name."""
        return self.datapath.name

    def tree_ports(self, link: Link) -> list[int]:
        """Port numbers of the cables that carry a link here, in the order of their names."""
        terminals = {a.end.datapath for a in link.access}
        for router, _ in self.network.members(link.name):
            placement = self.placements.get(router.name)
            if placement is not None:
                terminals.update(placement.hosts)
        ends = link.tree.spanning(terminals).get(self.name, [])
        return [self.ports[end.port] for end in ends if end.port in self.ports]

    def access_ports(self, link: Link) -> list[int]:
        """Port numbers of the link's access ports here."""
        return [
            self.ports[a.end.port]
            for a in link.access
            if a.end.datapath == self.name and a.end.port in self.ports
        ]

    def vif(self, interface: Interface) -> int | None:
        """The port number of a router's interface whose VM takes frames here, else None."""
        return None if interface.vif in self.silent else self.ports.get(interface.vif)

    def holds(self, router: Router, interface: Interface) -> bool:
        """Whether the VM belongs here but takes nothing from its vif, being suspended: packets
        for it are held.  For an interface that the VM has switched off they are not."""
        placement, view = self.placements.get(router.name), self.views.get(router.name)
        away = placement is not None and placement.vm == self.name and not self.vif(interface)
        return away and not (view is not None and interface.name in view.off)

    def copies(self, router: Router) -> bool:
        """Whether the controller gets a copy of what is for the VM itself here, which is about to
        be suspended: what has just been put into its vif then would be lost.  Not in the reactive
        pipeline, where such a packet is a question."""
        placement = self.placements.get(router.name)
        return (
            placement is not None
            and placement.vm == self.name == placement.to
            and len(placement.forwarders) > 1
            and self.datapath.pipeline is Pipeline.PROACTIVE
        )

    def stands_in(self, router: Router) -> bool:
        """Whether frames for a router come here though its VM is elsewhere: in the middle of a
        move, when it may not have been connected there yet."""
        placement = self.placements.get(router.name)
        return placement is not None and placement.to == self.name != placement.vm

    def toward(self, link: Link, datapath: str) -> int | None:
        """The port number that leads to another datapath along the link's tree."""
        return self.ports.get(link.tree.toward(self.name, datapath).port)

    def forwards(self, router: str) -> bool:
        """Whether this switch forwards for a router."""
        placement = self.placements.get(router)
        return (
            placement is not None
            and placement.mode is Mode.XENFLOW
            and self.name in placement.forwarders
        )

    def takes_in(self, router: str) -> bool:
        """Whether frames for a router that begin here, from its neighbours on this host, are its
        own affair.  Once the VM is elsewhere and the links are turned they go there, as from all
        other switches, though this one still forwards what is on its way to it: it would never
        fall quiet.  The host where the VM is takes them in before it is turned: the switches around
        it, which are turned first, would send them back."""
        return self.forwards(router) and self.name in (
            self.placements[router].to,
            self.placements[router].vm,
        )

    def inlet(self, router: str, link: Link) -> dict[str, int | tuple[int, int]] | None:
        """By which ports frames for a router that come here on a link are its own affair, as what
        a flow must match besides: {} by all, one `in_port`, None by none.

        Where they are not taken in, the links lead elsewhere: this switch forwards what was sent
        to it before, and that comes from there.  The rest is in transit, from a neighbour beyond
        this switch, or on it: taken in it would never end, and this switch never fall quiet.
        """
        if self.takes_in(router):
            return {}
        port = self.toward(link, self.placements[router].to) if self.forwards(router) else None
        return None if port is None else {"in_port": port}

    def admits(self, router: str, link: Link, port: int) -> bool:
        """Whether what comes by a port for a router is its own affair here."""
        inlet = self.inlet(router, link)
        return inlet is not None and inlet.get("in_port", port) == port

    def native(self, link: Link) -> bool:
        """Whether a link is bridged, as it is when a router on it runs in native mode."""
        return any(
            self.placements[r.name].mode is Mode.NATIVE
            for r, _ in self.network.members(link.name)
            if r.name in self.placements
        )


def local_flows(site: Site) -> Flows:
    """All flows of a switch that are local to it: every table but ROUTES, NEXT_HOPS,
    LEGS and SIZES."""
    if site.datapath.kind is Kind.PLAIN:
        flows = _plain(site)
    else:
        flows = (
            flow
            for part in (_ingress, _admission, _classes, _links, vm_flows)
            for flow in part(site)
        )
    return {flow.key: flow for flow in flows}


def view_dependent(flow: Flow) -> bool:
    """Whether a flow follows from what a router's VM said, so that a controller that has not
    heard of that router yet must leave it alone."""
    return cookie_router(flow.cookie) != 0 and (
        flow.table == CLASSES
        or (flow.table in (ADMISSION, LINKS) and flow.priority >= _PRIORITY_ARP_REPLY)
        or flow.table in NETWORK_WIDE
    )


# --------------------------------------------------------------------------------------------
# The local tables of a host


def _ingress(site: Site) -> Iterator[Flow]:
    own = cookie(INGRESS)
    for link in site.network.links.values():
        tagged: tuple[int, int] = (TAGGED | link.vlan, VLAN_MASK)
        if site.native(link):
            yield from bridged(site, link)
            yield from _beside_the_bridge(site, link)
            continue
        for port in site.tree_ports(link):
            yield Flow(
                INGRESS,
                300,
                match(in_port=port, vlan_tci=tagged),
                (f.strip_vlan(), f.load("reg3", link.id), f.resubmit(ADMISSION)),
                own,
            )
        for port, tag in product(site.access_ports(link), UNTAGGED):
            yield Flow(
                INGRESS,
                300,
                match(in_port=port, vlan_tci=tag),
                (f.strip_vlan(), f.load("reg3", link.id), f.resubmit(ADMISSION)),
                own,
            )
        for router, interface in site.network.members(link.name):
            yield from detours(site, link, router, interface)
            if interface.vif in site.ports:
                yield from _from_vif(site, link, router, interface)
    if site.datapath.pipeline is Pipeline.REACTIVE:
        yield from _ttl_guards(site)
    if site.datapath.other == "normal":
        for link in site.network.links.values():
            for vlan in (link.vlan, link.detour_vlan):
                stray = match(vlan_tci=(TAGGED | vlan, VLAN_MASK))
                yield Flow(INGRESS, 200, stray, (), own)
    yield other(site)


def _ttl_guards(site: Site) -> Iterator[Flow]:
    """An exact flow must not catch the packet whose TTL runs out: that one takes the tables."""
    for router, interface, link in _interfaces(site):
        if not site.forwards(router.name) or site.native(link):
            continue
        tables = (f.strip_vlan(), f.load("reg3", link.id), f.resubmit(ADMISSION))
        arrivals: list[tuple[int, int | tuple[int, int]]] = [
            *((port, (TAGGED | link.vlan, VLAN_MASK)) for port in site.tree_ports(link)),
            *((port, 0) for port in site.access_ports(link)),
            *(
                (site.ports[i.vif], 0)
                for r, i in site.network.members(link.name)
                if r is not router and i.vif in site.ports
            ),
        ]
        for port, tag in arrivals:
            for ttl in (0, 1):
                expiring = match(
                    in_port=port, vlan_tci=tag, dl_dst=interface.mac, dl_type=f.IPV4, nw_ttl=ttl
                )
                yield Flow(
                    INGRESS, REACTIVE_PRIORITY + 1, expiring, tables, cookie(INGRESS, router.id)
                )


def _from_vif(site: Site, link: Link, router: Router, interface: Interface) -> Iterator[Flow]:
    """What a VM sends.  The controller gets its hellos, whole, to repeat them; and of a vif that
    takes nothing yet all, because the first frame says that the VM is there."""
    own, port = cookie(INGRESS, router.id), site.ports[interface.vif]
    onward = (f.load("reg3", link.id), f.load("reg2", link.id), f.resubmit(LINKS))
    told = (f.controller(128),) if interface.vif in site.silent else ()
    for tag in UNTAGGED:
        bare = (f.strip_vlan(),) if tag else ()
        for source in (interface.mac, *VIRTUAL_ROUTERS):
            sender: dict[str, int | tuple[int, int]] = {
                "in_port": port,
                "vlan_tci": tag,
                "dl_src": source,
            }
            yield Flow(INGRESS, 300, match(**sender), (*bare, *told, *onward), own)
        for hello in HELLOS:
            heard = match(in_port=port, vlan_tci=tag, dl_src=interface.mac, **hello)
            yield Flow(INGRESS, 310, heard, (*bare, f.controller(), *onward), own)
    for kind in SESSIONS:
        session = match(in_port=port, vlan_tci=0, dl_src=interface.mac, **kind)
        yield Flow(INGRESS, 305, session, (f.controller(), *onward), own)
    tagged = match(in_port=port, vlan_tci=(TAGGED, TAGGED))
    yield Flow(INGRESS, 295, tagged, (), refused_cookie(router.id, REFUSED_TAG))
    yield Flow(INGRESS, 290, match(in_port=port), (), refused_cookie(router.id, REFUSED_SOURCE))


def quiet(site: Site, what: FromVm, session: Mapping[str, int], seconds: int) -> Flow:
    """A flow by which nothing more of a session is sent up for some seconds."""
    link = site.network.links[what.interface.link]
    sender = match(
        in_port=site.ports[what.interface.vif], vlan_tci=0, dl_src=what.interface.mac, **session
    )
    onward = (f.load("reg3", link.id), f.load("reg2", link.id), f.resubmit(LINKS))
    own = cookie(REACTIVE_KIND, what.router.id, QUIET_CHUNK)
    return Flow(INGRESS, 308, sender, onward, own, hard_timeout=seconds)


def detours(site: Site, link: Link, router: Router, interface: Interface) -> Iterator[Flow]:
    """What is meant for the VM and reached a forwarder without it crosses to the VM's host.

    Both directions between every two of its hosts are laid, so that they need no change at the
    moment the VM moves; which end sends into the detour is decided in table VM.
    """
    placement = site.placements.get(router.name)
    if placement is None or placement.mode is Mode.NATIVE:
        return
    tree = link.tree
    tagged: tuple[int, int] = (TAGGED | link.detour_vlan, VLAN_MASK)
    own = cookie(INGRESS, router.id)
    for start, end in permutations(placement.hosts, 2):
        path = tree.path(start, end)
        if site.name not in path[1:]:
            continue
        came = site.toward(link, path[path.index(site.name) - 1])
        leave = None if site.name == end else site.toward(link, end)
        if came is None:
            continue
        frame = match(in_port=came, vlan_tci=tagged, dl_dst=interface.mac)
        if site.name in placement.hosts:
            arrive = (
                f.strip_vlan(),
                f.load("reg1", router.id),
                f.load("reg3", link.id),
                f.load("reg4", 1),
                f.resubmit(VM),
            )
            yield Flow(INGRESS, 320, frame, arrive, own)
        elif leave is not None:
            yield Flow(INGRESS, 320, frame, (f.output(leave),), own)


def bridged(site: Site, link: Link) -> Iterator[Flow]:
    """Native mode: one learning bridge for the link, on the ports of its tree only."""
    own = cookie(INGRESS)
    tagged: tuple[int, int] = (TAGGED | link.vlan, VLAN_MASK)
    for port in site.tree_ports(link):
        yield Flow(INGRESS, 300, match(in_port=port, vlan_tci=tagged), (f.normal(),), own)
    for port, tag in product((*site.access_ports(link), *_vif_ports(site, link)), UNTAGGED):
        yield Flow(INGRESS, 300, match(in_port=port, vlan_tci=tag), (f.normal(),), own)


def _beside_the_bridge(site: Site, link: Link) -> Iterator[Flow]:
    """On a bridged link, what is for another router that this switch forwards for is its, as
    ever; or, where the links lead elsewhere, in transit."""
    own = cookie(INGRESS)
    arrive = (f.load("reg3", link.id), f.resubmit(ADMISSION))
    tagged: tuple[int, int] = (TAGGED | link.vlan, VLAN_MASK)
    ports: list[tuple[int, int | tuple[int, int]]] = [
        *((port, tagged) for port in site.tree_ports(link)),
        *product((*site.access_ports(link), *_vif_ports(site, link)), UNTAGGED),
    ]
    for router, interface in site.network.members(link.name):
        if not site.forwards(router.name):
            continue
        pass_on = _send(link, port_of(site, link, interface.mac), site.access_ports(link))
        for port, tag in ports:
            frame = match(in_port=port, vlan_tci=tag, dl_dst=interface.mac)
            admitted = site.admits(router.name, link, port)
            actions = (f.strip_vlan(), *arrive) if admitted else pass_on
            yield Flow(INGRESS, 310, frame, actions, own)


def _vif_ports(site: Site, link: Link) -> list[int]:
    members = site.network.members(link.name)
    return [site.ports[i.vif] for _, i in members if i.vif in site.ports]


def other(site: Site) -> Flow:
    actions = (f.normal(),) if site.datapath.other == "normal" else ()
    return Flow(INGRESS, 0, match(), actions, cookie(INGRESS))


_PRIORITY_ARP_REPLY, _PRIORITY_ARP_CLAIM = 300, 301
MAX_ARP_REPLIES = 2000
"""A router with more addresses, times its interfaces, is answered for by each interface for that
one's own addresses and those of no link (a loopback's) only."""


def _admission(site: Site) -> Iterator[Flow]:
    transit = (f.move("reg3", "reg2"), f.resubmit(LINKS))
    for router, interface, link in _interfaces(site):
        if not site.forwards(router.name):
            continue
        own = cookie(ADMISSION, router.id)
        inlet = site.inlet(router.name, link)
        if inlet is not None:
            frame = match(**inlet, reg3=link.id, dl_dst=interface.mac)
            yield Flow(ADMISSION, 200, frame, (f.load("reg1", router.id), f.resubmit(CLASSES)), own)
        onward = {"group": transit, "own": (f.load("reg1", router.id), f.resubmit(CLASSES))}
        yield from _arp_replies(site, router, interface, ADMISSION, "reg3", onward)
    yield Flow(ADMISSION, 1, match(), transit, cookie(ADMISSION))


def _arp_replies(
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
    own = cookie(table, router.id)
    targets: dict[str, int | tuple[int, int]] = {"group": MULTICAST, "own": interface.mac}
    for to, target in targets.items():
        if to not in onward or (to == "group" and not holds):
            continue
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
                f.load("reg2", link),
                f.resubmit(LINKS),
            )
            yield Flow(table, _PRIORITY_ARP_REPLY, match(**asked_of, arp_tpa=address), reply, own)
            claim = match(**asked_of, arp_spa=address)
            yield Flow(table, _PRIORITY_ARP_CLAIM, claim, onward[to], own)


def _answered_for(router: Router, interface: Interface, view: RouterView) -> list[int]:
    addresses = [(net, name) for net, plen, name in view.locals if plen == 32 and name]
    if len(addresses) * len(router.interfaces) > MAX_ARP_REPLIES:
        others = {i.name for i in router.interfaces if i is not interface}
        addresses = [(net, name) for net, name in addresses if name not in others]
    return [net for net, _ in addresses]


# What an IPv4 router must not forward whatever its table says (RFC 1812, sections 5.3.7 and
# 4.2.2.11; net/ipv4/route.c, ip_route_input_slow): dropped as the kernel drops it, unheard.
MARTIAN_SOURCES = ((0x7F000000, 8), (0x00000000, 32))
MULTICAST_SOURCES = ((0xE0000000, 4), (0xFFFFFFFF, 32))
MARTIAN_DESTINATIONS = ((0x7F000000, 8),)
# What the VM must decide: multicast, broadcast, also by its old address 0.0.0.0; and 0/8, unicast
# since Linux 5.3 (include/linux/in.h, ipv4_is_zeronet).
VM_SOURCES = ((0x00000000, 8),)
VM_DESTINATIONS = ((0xE0000000, 4), (0xFFFFFFFF, 32), (0x00000000, 8))


def prefix_mask(plen: int) -> int:
    """The 32-bit netmask of a prefix length."""
    return 0xFFFFFFFF << 32 - plen & 0xFFFFFFFF


def _classes(site: Site) -> Iterator[Flow]:
    own = cookie(CLASSES)
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
        own = cookie(CLASSES, router.id)
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
    yield Flow(ROUTES, 0, match(), to_vm, cookie(CLASSES))
    yield Flow(NEXT_HOPS, 0, match(), to_vm, cookie(CLASSES))


def _links(site: Site) -> Iterator[Flow]:
    own = cookie(LINKS)
    flood: list[Action]
    for link in site.network.links.values():
        cables, access = site.tree_ports(link), site.access_ports(link)
        if site.native(link):
            # What a router of this switch sends there: the bridges of the others know the way.
            flood = [f.set_vlan(link.vlan), *(f.output(port) for port in cables), f.strip_vlan()]
            flood += [f.output(port) for port in (*access, *_vif_ports(site, link))]
            yield Flow(LINKS, 50, match(reg2=link.id), tuple(flood), own)
            continue
        if not (cables or access) and not any(
            site.ports.get(i.vif) for _, i in site.network.members(link.name)
        ):
            continue
        for mac, port in stations(site, link):
            yield Flow(LINKS, 200, match(reg2=link.id, dl_dst=mac), _send(link, port, access), own)
        for router, interface in site.network.members(link.name):
            placement = site.placements.get(router.name)
            if placement is None:
                continue
            frame = match(reg2=link.id, dl_dst=interface.mac)
            if site.takes_in(router.name):
                send: tuple[Action, ...] = (f.load("reg3", link.id), f.resubmit(ADMISSION))
            else:
                send = _send(link, _port_to(site, link, placement.to), access)
            yield Flow(LINKS, 200, frame, send, cookie(LINKS, router.id))
        flood = []
        if cables:
            flood += [f.set_vlan(link.vlan), *(f.output(port) for port in cables)]
            flood += [f.strip_vlan()]
        flood += [f.output(port) for port in access]
        yield Flow(LINKS, 50, match(reg2=link.id), tuple(flood), own)
        for router, _ in site.network.members(link.name):
            placement = site.placements.get(router.name)
            if placement is not None and placement.vm == site.name:
                flood += [f.load("reg3", link.id), f.load("reg1", router.id), f.resubmit(VM)]
        for group in (MULTICAST, *VIRTUAL_ROUTERS):
            yield Flow(LINKS, 100, match(reg2=link.id, dl_dst=group), tuple(flood), own)
        for router, interface in site.network.members(link.name):
            if site.forwards(router.name):  # asked by a neighbour on this same host
                onward = {"group": tuple(flood)}
                yield from _arp_replies(site, router, interface, LINKS, "reg2", onward)


def _send(link: Link, port: int | None, access: list[int]) -> tuple[Action, ...]:
    if port is None:
        return ()
    return (f.output(port),) if port in access else (f.set_vlan(link.vlan), f.output(port))


def _port_to(site: Site, link: Link, datapath: str) -> int | None:
    return None if datapath == site.name else site.toward(link, datapath)


def stations(site: Site, link: Link) -> Iterator[tuple[int, int | None]]:
    """The end machines of a link: MAC address and the port that leads to it."""
    for access in link.access:
        here = access.end.datapath == site.name
        for mac in access.macs:
            if here:
                yield mac, site.ports.get(access.end.port)
            else:
                yield mac, site.toward(link, access.end.datapath)


def bridge_ports(site: Site, link: Link, mac: int) -> list[int]:
    """The ports by which a bridged link's learning bridge sends a frame to a MAC address, once it
    has learned where that is: one, or, of a group or nobody known, all of the link's here."""
    known = dict(stations(site, link))
    for router, interface in site.network.members(link.name):
        placement = site.placements.get(router.name)
        if placement is None:
            continue
        at = placement.vm if placement.mode is Mode.NATIVE else placement.to
        here = at == site.name
        known[interface.mac] = site.vif(interface) if here else site.toward(link, at)
    if mac in known:
        port = known[mac]
        return [] if port is None else [port]
    return [*site.tree_ports(link), *site.access_ports(link), *_vif_ports(site, link)]


def port_of(site: Site, link: Link, mac: int) -> int | None:
    """The port by which a station or a router elsewhere is reached on a link; None where it is a
    router whose frames this switch takes in itself, or nobody known."""
    for router, interface in site.network.members(link.name):
        if interface.mac == mac and router.name in site.placements:
            if site.takes_in(router.name):
                return None
            return _port_to(site, link, site.placements[router.name].to)
    return dict(stations(site, link)).get(mac)


def _interfaces(site: Site) -> Iterator[tuple[Router, Interface, Link]]:
    for router in site.network.routers.values():
        for interface in router.interfaces:
            yield router, interface, site.network.links[interface.link]


def vm_flows(site: Site) -> Iterator[Flow]:
    """Table VM: what a router's VM gets, what is held for it, what crosses to it.  It leads to no
    other table."""
    for router, interface, link in _interfaces(site):
        placement = site.placements.get(router.name)
        if placement is None or placement.mode is Mode.NATIVE:
            continue
        own = cookie(VM, router.id)
        arrived = {"reg1": router.id, "reg3": link.id}
        if placement.vm == site.name:
            port = site.vif(interface)
            send: tuple[Action, ...] = (f.output(port),) if port else ()
            # Untagged again: in a flood other vifs of the link follow.
            copied = (*send, *copied_up(link), f.strip_vlan()) if port else ()
            if site.holds(router, interface):
                send = copied = (*to_be_held(link), f.strip_vlan())
            yield Flow(VM, 100, match(**arrived), send, own)
            if site.copies(router):
                for what in _its_own(site, router):
                    yield Flow(VM, 110, match(**arrived, **what), copied, own)
        elif site.name in placement.hosts:
            for group in (MULTICAST, *VIRTUAL_ROUTERS):
                yield Flow(VM, 200, match(**arrived, dl_dst=group), (), own)
            port = site.toward(link, placement.vm)
            cross = (
                (f.load("in_port", 0), f.set_vlan(link.detour_vlan), f.output(port)) if port else ()
            )
            # reg4: it came by a detour already, the VM has just moved on; never send it round.
            yield Flow(VM, 100, match(**arrived, reg4=0), cross, own)


MAX_COPIED = 2000
"""Of a router with more addresses, times its interfaces, only what is for all is copied."""
LINK_LOCAL6 = (0xFE80 << 112, 0xFFC0 << 112)


def _its_own(site: Site, router: Router) -> Iterator[dict[str, int | tuple[int, int]]]:
    """What is for the VM itself, not to be forwarded by it, as flows match it.  A forwarded packet
    that was copied would arrive twice where it goes."""
    yield {"dl_type": f.ARP}
    for group in (MULTICAST, *VIRTUAL_ROUTERS):
        yield {"dl_dst": group}
    yield {"dl_type": f.IPV6, "ipv6_dst": LINK_LOCAL6}
    view = site.views.get(router.name)
    if view is not None and len(view.locals) * len(router.interfaces) <= MAX_COPIED:
        for net, plen, _ in view.locals:
            yield {"dl_type": f.IPV4, "nw_dst": (net, prefix_mask(plen))}


# --------------------------------------------------------------------------------------------
# What a host sends up to its controller, and how the controller knows what it is


def to_be_held(link: Link) -> tuple[Action, ...]:
    """Up goes a frame for a VM that takes nothing now."""
    return (f.set_vlan(link.detour_vlan), f.controller())


def copied_up(link: Link) -> tuple[Action, ...]:
    """Up goes the copy of a frame that a VM gets, in the proactive pipeline."""
    return (f.set_vlan(link.vlan), f.controller())


def asked(link: Link) -> tuple[Action, ...]:
    """Up goes a packet that the controller is to say the way of, in the reactive pipeline."""
    return (f.set_vlan(link.vlan), f.controller())


@dataclass(frozen=True, slots=True)
class ForVm:
    """A frame, untagged, for the VMs of a link that it is addressed to; `copied` where their vifs
    have got it as well."""

    link: Link
    frame: bytes
    copied: bool


@dataclass(frozen=True, slots=True)
class FromVm:
    """A frame, or its beginning, that came out of a VM's vif."""

    router: Router
    interface: Interface
    frame: bytes


def to_a_group(frame: bytes) -> bool:
    """Whether a frame is for whoever of a link wants it: multicast, or for a virtual router."""
    target = int.from_bytes(frame[:6], "big")
    return any(target & mask == value for value, mask in (MULTICAST, *VIRTUAL_ROUTERS))


def is_question(frame: bytes) -> bool:
    """Whether a frame that a host with the reactive pipeline sent up was `asked`."""
    return 0 < _vlan(frame) < DETOUR_VLAN_OFFSET


def sent_up(
    network: Network, ports: Mapping[str, tuple[int, bool]], in_port: int, frame: bytes
) -> ForVm | FromVm | None:
    """What a frame that came into a host by `in_port` and was sent up is, where it is no question;
    None where the tables send nothing like it.  `ports`: number and carrier, by name."""
    vlan = _vlan(frame)
    if vlan:
        for link in network.links.values():
            if vlan in (link.vlan, link.detour_vlan):
                return ForVm(link, frame[:12] + frame[16:], vlan == link.vlan)
        return None
    for router in network.routers.values():
        for interface in router.interfaces:
            if interface.vif in ports and ports[interface.vif][0] == in_port:
                return FromVm(router, interface, frame)
    return None


def _vlan(frame: bytes) -> int:
    """A frame's VLAN id; 0 where it has no tag."""
    tagged = frame[12:14] == b"\x81\x00"
    return int.from_bytes(frame[14:16], "big") & 0xFFF if tagged else 0


# --------------------------------------------------------------------------------------------
# The one table of a plain switch


def _plain(site: Site) -> Iterator[Flow]:
    own = cookie(INGRESS)
    for link in site.network.links.values():
        if site.native(link):
            yield from bridged(site, link)
            continue
        cables, access = site.tree_ports(link), site.access_ports(link)
        known = dict(stations(site, link))
        owner: dict[int, int] = {}
        for router, interface in site.network.members(link.name):
            placement = site.placements.get(router.name)
            if placement is not None:
                known[interface.mac] = _port_to(site, link, placement.to)
                owner[interface.mac] = router.id
                yield from detours(site, link, router, interface)
        tagged: tuple[int, int] = (TAGGED | link.vlan, VLAN_MASK)
        for port, tag in (*((port, tagged) for port in cables), *product(access, UNTAGGED)):
            for mac, out in known.items():
                actions = () if out in (None, port) else plain_send(site, link, out)
                arrived = match(in_port=port, vlan_tci=tag, dl_dst=mac)
                yield Flow(0, 310, arrived, actions, cookie(INGRESS, owner.get(mac, 0)))
            flood: list[Action] = []
            if port in access:
                flood += [f.set_vlan(link.vlan)]
            flood += [f.output(out) for out in cables if out != port]
            flood += [f.strip_vlan(), *(f.output(out) for out in access if out != port)]
            yield Flow(0, 300, match(in_port=port, vlan_tci=tag), tuple(flood), own)
    if site.datapath.other == "normal":
        for link in site.network.links.values():
            for vlan in (link.vlan, link.detour_vlan):
                yield Flow(0, 200, match(vlan_tci=(TAGGED | vlan, VLAN_MASK)), (), own)
    yield other(site)


def plain_send(site: Site, link: Link, port: int | None) -> tuple[Action, ...]:
    """Actions of OpenFlow 1.0 that send a frame out by a port of a link, tagged on a cable."""
    if port is None:
        return ()
    if port in site.access_ports(link):
        return (f.strip_vlan(), f.output(port))
    return (f.set_vlan(link.vlan), f.output(port))


# --------------------------------------------------------------------------------------------
# Next hops


@dataclass(frozen=True, slots=True)
class NextHopView:
    """A next hop as a switch needs it.

    id         network-wide within its router
    action     "vm", "drop", "via" or "group"
    interface  the router's interface it leaves through (None: none that the network knows)
    mac        of the gateway, 0 while unresolved
    neighbours (address, MAC) of a connected next hop's resolved neighbours
    legs       ids of a group's legs, each with its weight (1 or more)
    mtu        of the outgoing interface where packets may be larger than that, else 0
    """

    id: int
    action: str
    interface: Interface | None = None
    mac: int = 0
    neighbours: tuple[tuple[int, int], ...] = ()
    legs: tuple[tuple[int, int], ...] = ()
    mtu: int = 0


EXACT_SHARES = 64
"""Legs whose weights add up to no more are numbered one by one."""
SHARES = 1024
"""So many numbers are dealt out among legs of any other weights; a power of two.  The switch hashes
once for each number, with the first packet of a connection: some 3 us."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How the numbers 0 .. count-1, one of which is drawn by hash, are dealt out among legs.

    `blocks` are (first number, how many: a power of two that divides the first number, leg), which
    is what one flow can match.  They are few whatever the weights.
    """

    count: int
    blocks: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, legs: Sequence[tuple[int, int]]) -> Shares:
        """The shares of (leg, weight), in proportion to the weights: exactly, where they are small
        numbers or multiples of such; otherwise to 1/1024, and a leg has that at least.

        A flow stays with its leg as long as that leg's numbers do not move.
        """
        common = gcd(*(weight for _, weight in legs))
        weights = [weight // common for _, weight in legs]
        if sum(weights) <= max(EXACT_SHARES, len(legs)):
            owners = [leg for (leg, _), n in zip(legs, weights, strict=True) for _ in range(n)]
            return cls(len(owners), tuple((n, 1, leg) for n, leg in enumerate(owners)))
        return cls(SHARES, tuple(_blocks(legs, _apportioned(weights, SHARES))))

    def leg(self, number: int) -> int:
        """The leg that a number (0 .. count-1) belongs to."""
        return next(leg for start, size, leg in self.blocks if start <= number < start + size)


def _apportioned(weights: Sequence[int], seats: int) -> list[int]:
    """`seats` dealt out in proportion to the weights, at least one each (largest remainders)."""
    total, free = sum(weights), seats - len(weights)
    given = [1 + free * weight // total for weight in weights]
    order = sorted(range(len(weights)), key=lambda n: (-(free * weights[n] % total), n))
    for n in order[: seats - sum(given)]:
        given[n] += 1
    return given


def _blocks(
    legs: Sequence[tuple[int, int]], given: Sequence[int]
) -> Iterator[tuple[int, int, int]]:
    """Each leg's numbers as powers of two, the largest first, so that each begins at a multiple of
    itself."""
    parts = [
        (1 << bit, n)
        for n, numbers in enumerate(given)
        for bit in range(numbers.bit_length())
        if numbers >> bit & 1
    ]
    start = 0
    for size, n in sorted(parts, key=lambda part: (-part[0], part[1])):
        yield start, size, legs[n][0]
        start += size


def next_hop_flows(network: Network, router: Router, hop: NextHopView) -> Iterator[Flow]:
    """The flows of one next hop: in NEXT_HOPS, of a group in LEGS, of a narrow interface in
    SIZES; those that others lead to come first.

    An unresolved next hop, and a connected one's unknown neighbours, go unchanged to the VM,
    whose kernel resolves them.
    """
    own = cookie(NEXT_HOPS, router.id)
    chosen = match(reg1=router.id, reg0=hop.id)
    to_vm = (f.resubmit(VM),)
    if hop.action == "drop":
        yield Flow(NEXT_HOPS, 100, chosen, (), own)
    elif hop.action == "group" and hop.legs:
        shares = Shares.of(hop.legs)
        for start, size, leg in shares.blocks:
            number = (start, ~(size - 1) & 0xFFFFFFFF) if size > 1 else start
            one = match(reg1=router.id, reg0=hop.id, reg5=number)
            onward = (f.load("reg0", leg), f.resubmit(NEXT_HOPS))
            yield Flow(LEGS, 100, one, onward, cookie(LEGS, router.id))
        # The kernel's default hash is over the addresses too; which leg it picks may differ.  Each
        # router has its own: of two in a row the second would else use one leg only.
        spread = (f.multipath("symmetric_l3", shares.count, "reg5", router.id), f.resubmit(LEGS))
        yield Flow(NEXT_HOPS, 100, chosen, spread, own)
    elif hop.action == "via" and hop.interface is not None:
        table = SIZES if hop.mtu else NEXT_HOPS
        yield from _stations_and_gateway(network, router, hop, hop.interface, table)
        if hop.mtu:
            # Fragmented or refused by the VM's kernel (net/ipv4/ip_forward.c, ip_exceeds_mtu).
            larger = match(reg1=router.id, reg0=hop.id, reg6=(1, 1))
            yield Flow(SIZES, 300, larger, to_vm, cookie(SIZES, router.id))
            # No frame that is larger than the action can measure is known to fit: the VM's, too.
            largest = min(ETHERNET_HEADER + hop.mtu, 0xFFFF)
            measure = f.check_pkt_larger(largest, "reg6", 0)
            yield Flow(NEXT_HOPS, 100, chosen, (measure, f.resubmit(SIZES)), own)
    else:
        yield Flow(NEXT_HOPS, 100, chosen, to_vm, own)


ETHERNET_HEADER = 14


def _stations_and_gateway(
    network: Network, router: Router, hop: NextHopView, out: Interface, table: int
) -> Iterator[Flow]:
    link = network.links[out.link]
    own = cookie(table, router.id)
    for address, mac in hop.neighbours:
        station = match(reg1=router.id, reg0=hop.id, dl_type=f.IPV4, nw_dst=address)
        yield Flow(table, 200, station, _rewrite(link, out, mac), own)
    onward = _rewrite(link, out, hop.mac) if hop.mac else (f.resubmit(VM),)
    yield Flow(table, 100, match(reg1=router.id, reg0=hop.id), onward, own)


def _rewrite(link: Link, interface: Interface, mac: int) -> tuple[Action, ...]:
    """Route a packet: TTL, addresses, and out, also by the port that it came from."""
    routed: tuple[Action, ...] = (
        f.dec_ttl(),
        f.set_dl_src(interface.mac),
        f.set_dl_dst(mac),
        f.load("in_port", 0),
        f.load("reg2", link.id),
        f.resubmit(LINKS),
    )
    return routed


def plan(
    installed: Mapping[tuple[int, int, f.Match], Flow], wanted: Flows, keep: Iterable[int] = ()
) -> list[list[tuple[bool, Flow]]]:
    """The batches, a barrier between them, that turn `installed` into `wanted`.

    Each batch is a list of (add, flow): add False deletes.  First everything is added or
    overwritten, downstream tables before upstream ones, so that no packet is led to a table
    that does not know it yet; then what is left over is deleted, upstream first.
    View-dependent flows of the routers whose ids are in `keep` are not deleted.
    """
    kept = set(keep)
    adds = [flow for key, flow in wanted.items() if installed.get(key) != flow]
    drops = [
        flow
        for key, flow in installed.items()
        if key not in wanted
        and not (kept and cookie_router(flow.cookie) in kept and view_dependent(flow))
    ]
    adds.sort(key=_downstream_first, reverse=True)
    drops.sort(key=_downstream_first)
    return [
        batch
        for batch in ([(True, flow) for flow in adds], [(False, flow) for flow in drops])
        if batch
    ]


def _downstream_first(flow: Flow) -> tuple[float, int]:
    """Tables in the order a packet meets them; a flow of LINKS that leads back to ADMISSION stands
    before that one: followed too early it would lead a packet round and round."""
    back = flow.table == LINKS and f.resubmit(ADMISSION) in flow.actions
    return ADMISSION - 0.5 if back else flow.table, flow.priority
