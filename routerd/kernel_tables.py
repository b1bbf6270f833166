"""What the VM's kernel has said, and what counts as so for a while though it says otherwise.

`KernelTables` is a record: links, settings, rules, next hop objects, neighbours and routes as
dumped and as changed by notifications since, and what of it has changed since it was told.
`kernel_view` writes it; `next_hops` and `telling` read it.  `CarrierGrace` says what a carrier's
loss means.  Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from routerd import rtnetlink as rt
from xenflow.routes.messages import InterfaceFlag, InterfaceKind, Local, NextHopType, VmInterface
from xenflow.routes.router_state import Capacity, LocalKey, NeighbourKey, RouterState

_KINDS = {
    "": InterfaceKind.CARD,
    "veth": InterfaceKind.CARD,
    "netkit": InterfaceKind.CARD,
    "vlan": InterfaceKind.VLAN,
    "macvlan": InterfaceKind.MACVLAN,
    "macvtap": InterfaceKind.MACVLAN,
}

_JUST_S = 1.0
"""The kernel forgets neighbours before it says that the carrier went, by less than this."""

Candidate = tuple[int, int]
"""(metric, next hop id) of one route; id 0 for a route that the kernel skips (all legs dead)."""


class Reason(NamedTuple):
    """Why the kernel decides by more than its main table, in words; `family` 0: of both."""

    words: str
    family: int = 0


@dataclass(slots=True)
class KernelTables:
    """See the module.  `control` is the name of the interface to the Rule Table, all of whose
    routes, addresses and neighbours are left out; `carrier_grace_s` is explained below."""

    control: str
    carrier_grace_s: float = 0.0
    links: dict[int, rt.LinkInfo] = field(default_factory=dict)
    netconf: dict[int, dict[int, rt.NetconfInfo]] = field(default_factory=lambda: {4: {}, 6: {}})
    """By family and device; device -1 is "all"."""
    hash_policy: dict[int, int] = field(default_factory=lambda: {4: 0, 6: 0})
    """fib_multipath_hash_policy of each family: what beside the addresses chooses a leg."""
    nexthops: dict[int, rt.NextHopObject] = field(default_factory=dict)
    rules: dict[int, set[rt.RuleInfo]] = field(default_factory=lambda: {4: set(), 6: set()})
    """By family."""
    neighbours: dict[NeighbourKey, rt.NeighbourInfo] = field(default_factory=dict)
    locals: dict[LocalKey, Local] = field(default_factory=dict)
    routes: dict[int, Candidate] = field(default_factory=dict)
    """net << 8 | span (`xenflow.routes.family`) -> the candidate that wins, of both main tables."""
    rivals: dict[int, list[Candidate]] = field(default_factory=dict)
    """All candidates of those prefixes that have more than one, by metric."""
    tos_routes: int = 0
    """IPv4 routes that are for one type of service."""
    source_routes: int = 0
    """IPv6 routes that are for some sources."""
    default_table: bool = False
    """Whether the IPv4 table default has routes."""
    expiry: float | None = None
    """When the kernel stops using a route, which is told late or never (IPv6)."""
    capacity: Capacity = field(default_factory=Capacity)
    """What the Rule Table takes of one router.  A group that is too large is left to the VM's
    kernel, and so is what leads through an interface, or to a neighbour, that is not told."""
    outside: tuple[Reason, ...] = ()
    """Reasons for the slow path from beyond routing: packet filters, IPsec, traffic control."""
    faults: tuple[str, ...] = ()
    """What is amiss in the kernel, in words."""
    dirty: set[int] = field(default_factory=set)
    """Keys of routes that have changed."""
    dirty_neighbours: set[NeighbourKey] = field(default_factory=set)
    dirty_policy: bool = False
    dirty_links: bool = False
    """Some links that counted as having their carrier do not any more."""
    running: dict[int, float] = field(default_factory=dict)
    """Links without carrier that count as having it, and until when."""
    kept: dict[NeighbourKey, tuple[int, float]] = field(default_factory=dict)
    """Neighbours that count as resolved, though forgotten: their MAC, and until when."""
    too_many: set[str] = field(default_factory=set)
    """Of what there is more than the capacity, so that some of it passes through the VM."""
    control_index: int = 0

    def is_control(self, ifindex: int) -> bool:
        """Whether this is the interface to the Rule Table."""
        return ifindex == self.control_index

    def control_link(self) -> rt.LinkInfo | None:
        """The interface to the Rule Table, where there is one."""
        return self.links.get(self.control_index)

    def data_links(self) -> Iterator[rt.LinkInfo]:
        """The links that carry the router's traffic: all but loopback and control."""
        for link in self.links.values():
            if link.ifindex != self.control_index and not link.flags & rt.IFF_LOOPBACK:
                yield link

    def usable(self, ifindex: int) -> bool:
        """Whether an interface is switched on and has its carrier."""
        link = self.links.get(ifindex)
        needed = rt.IFF_UP | rt.IFF_LOWER_UP
        return link is not None and link.flags & needed == needed

    def setting(self, ifindex: int, name: str) -> int:
        """IPv4's: the larger of a device's own setting and that of "all" (linux/inetdevice.h)."""
        confs = (self.netconf[4].get(-1), self.netconf[4].get(ifindex))
        return max((getattr(conf, name) or 0 for conf in confs if conf is not None), default=0)

    def ignores_linkdown(self, family: int, ifindex: int) -> bool:
        """Whether routes over a link without carrier are skipped.  In IPv6 the device's own setting
        alone counts (ip6_ignore_linkdown, net/addrconf.h)."""
        if family == 4:
            return self.setting(ifindex, "ignore_linkdown") != 0
        conf = self.netconf[6].get(ifindex)
        return conf is not None and bool(conf.ignore_linkdown)

    def forwards6(self) -> bool:
        """Whether IPv6 is forwarded: "all" decides, devices do not (ip6_forward,
        net/ipv6/ip6_output.c)."""
        conf = self.netconf[6].get(-1)
        return conf is not None and bool(conf.forwarding)

    def is_loose(self) -> bool:
        """Whether some reverse path filter asks for any route to the source."""
        return any(self.setting(link.ifindex, "rp_filter") == 2 for link in self.data_links())

    def mac(self, key: NeighbourKey) -> int:
        """The MAC of a neighbour, 0 while it is not resolved."""
        entry = self.neighbours.get(key)
        if entry is not None and entry.state & rt.NUD_RESOLVED:
            return entry.mac
        return self.kept[key][0] if key in self.kept else 0

    def gateways(self, told: RouterState) -> set[NeighbourKey]:
        """The neighbours that next hops go through, on links that are up."""
        return {
            (hop.ifindex, hop.family, hop.gateway)
            for hop in told.nexthops.values()
            if hop.type is NextHopType.VIA and self.usable(hop.ifindex)
        }

    def note(self, words: str) -> None:
        """Of something there is too much to be told."""
        if words not in self.too_many:
            self.too_many.add(words)
            self.dirty_policy = True

    def interfaces(self) -> Iterator[VmInterface]:
        """As many as may be told: what the network describes is there before what a VM adds."""
        links = sorted(self.data_links(), key=lambda link: link.ifindex)
        if len(links) > self.capacity.interfaces:
            self.note(f"interfaces over {self.capacity.interfaces}")
        for link in links[: self.capacity.interfaces]:
            conf = self.netconf[4].get(link.ifindex)
            flags = InterfaceFlag(0)
            if link.flags & rt.IFF_UP:
                flags |= InterfaceFlag.UP
            if link.flags & rt.IFF_LOWER_UP or link.ifindex in self.running:
                flags |= InterfaceFlag.RUNNING
            if conf is not None and conf.forwarding:
                flags |= InterfaceFlag.FORWARDING4
            if link.mtu6 and self.forwards6():
                flags |= InterfaceFlag.FORWARDING6
            mtu, name = min(link.mtu, 0xFFFF), _sayable(link.name)
            kind = int(self._kind(link))
            yield VmInterface(link.ifindex, int(flags), mtu, link.mac, name, kind)

    def _kind(self, link: rt.LinkInfo) -> InterfaceKind:
        """What a link is.  One that stands on a device in another network namespace is a card as
        far as this one can tell."""
        kind = _KINDS.get(link.kind, InterfaceKind.OTHER)
        if kind is InterfaceKind.CARD or link.parent_elsewhere:
            return InterfaceKind.CARD
        parent = self.links.get(link.parent)
        on_card = parent is not None and self._kind(parent) is InterfaceKind.CARD
        return kind if on_card else InterfaceKind.OTHER


def _sayable(name: str) -> str:
    """An interface's name as a message holds it, printable and at most 16 octets: the kernel takes
    nearly any octets for one."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown.encode()[:16].decode(errors="ignore") or "?"


class CarrierGrace:
    """When an interface that stays switched on loses its carrier the kernel forgets its neighbours.
    That happens in every live migration, while the data plane, which is not the VM's, goes on; so
    for `carrier_grace_s` such an interface counts as one with carrier still, and its neighbours as
    resolved, unless the kernel has learnt better by then.
    """

    def __init__(self, tables: KernelTables) -> None:
        self._tables = tables
        self._lost: dict[int, float] = {}
        """When interfaces lost their carrier."""
        self._vanished: dict[NeighbourKey, tuple[int, float]] = {}
        """Neighbours with their MAC, and when the kernel forgot them."""

    def carrier(self, link: rt.LinkInfo, now: float) -> None:
        """What becomes of the grace of a link; the tables say how it was before."""
        tables = self._tables
        before = tables.links.get(link.ifindex)
        another = before is not None and before.mac != link.mac  # an index may be given again
        if another or link.flags & rt.IFF_LOWER_UP or not link.flags & rt.IFF_UP:
            tables.running.pop(link.ifindex, None)
        elif tables.carrier_grace_s and before is not None and before.flags & rt.IFF_LOWER_UP:
            tables.running.setdefault(link.ifindex, now + tables.carrier_grace_s)

    def link_changed(self, link: rt.LinkInfo, gone: bool, now: float) -> None:
        """The same, and what becomes of that of its neighbours."""
        tables = self._tables
        self.carrier(link, now)
        if gone or not link.flags & rt.IFF_UP:
            self._lost.pop(link.ifindex, None)
            tables.running.pop(link.ifindex, None)
            for kept in (tables.kept, self._vanished):
                for key in [key for key in kept if key[0] == link.ifindex]:
                    del kept[key]
        elif not link.flags & rt.IFF_LOWER_UP and tables.carrier_grace_s:
            self._lost[link.ifindex] = now
            for key, (mac, at) in list(self._vanished.items()):
                if key[0] == link.ifindex and now - at < _JUST_S:
                    tables.kept.setdefault(key, (mac, now + tables.carrier_grace_s))
                    del self._vanished[key]

    def vanished(self, key: NeighbourKey, mac: int, now: float) -> None:
        """The kernel has forgotten a neighbour, perhaps because the carrier went."""
        if mac and self._tables.carrier_grace_s:
            self._vanished.pop(key, None)  # the oldest stays first
            self._vanished[key] = (mac, now)
            while now - self._vanished[oldest := next(iter(self._vanished))][1] >= _JUST_S:
                del self._vanished[oldest]

    def learnt(self, key: NeighbourKey, entry: rt.NeighbourInfo) -> None:
        """End the grace of a neighbour that the kernel knows about again; that it does not answer
        says something only while there is a carrier."""
        failed = entry.state & rt.NUD_FAILED and self._tables.usable(entry.ifindex)
        if failed or entry.state & rt.NUD_RESOLVED:
            self._tables.kept.pop(key, None)

    def resolved(self, now: float) -> dict[NeighbourKey, int]:
        """The MACs of neighbours before a dump, also of those that vanished just now."""
        before = {key: mac for key, (mac, at) in self._vanished.items() if now - at < _JUST_S}
        self._vanished.clear()
        return before | {key: self._tables.mac(key) for key in self._tables.neighbours}

    def keep(self, before: dict[NeighbourKey, int], now: float) -> None:
        """Keep those that a dump has no more, where the carrier was lost."""
        tables = self._tables
        for key, mac in before.items():
            until = self._lost.get(key[0], now) + tables.carrier_grace_s
            if mac and now < until and key[0] in self._lost and not tables.mac(key):
                tables.kept.setdefault(key, (mac, until))

    def expire(self, now: float) -> float | None:
        """End the grace of those whose time is over; returns when the next one's is."""
        tables = self._tables
        for ifindex in [i for i, until in tables.running.items() if until <= now]:
            del tables.running[ifindex]
            tables.dirty_links = True
        for key in [key for key, (_, until) in tables.kept.items() if until <= now]:
            del tables.kept[key]
            tables.dirty_neighbours.add(key)
        times = [until for _, until in tables.kept.values()]
        return min([*times, *tables.running.values()], default=None)
