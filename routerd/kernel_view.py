"""What the VM's kernel would do with a packet, put together from what netlink said.

`KernelView` holds links, settings, rules, next hop objects, neighbours and routes as dumped and
as changed by notifications since, and derives the router's state from them: which route wins a
prefix, what its next hop is, whether a neighbour is resolved, and whether the main table decides
at all (if not, the policy says why, and everything goes through the VM).

Netlink is silent about more than it seems: when an interface goes down or an address is deleted,
routes vanish without a message each; with the carrier go next hop objects and their routes; a
group loses a member silently.  So only changes of single routes and neighbours are followed here
one by one; anything else makes the methods answer "dump again", which is done by `daemon.py`.

Routes by way of a next hop object have a next hop that stands for the object.  So what an object
says, and whether a link works, is told in proportion to the number of next hops, before the routes
are dumped again: `object_sections`.  Nothing here does I/O.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from routerd import rtnetlink as rt
from xenflow.routes.messages import (
    MAX_REMARKS,
    InterfaceFlag,
    InterfaceKind,
    Leg,
    Local,
    Neighbour,
    NextHop,
    NextHopType,
    Op,
    Policy,
    Remark,
    Route,
    Section,
    SectionKind,
    VmInterface,
    VmReason,
)
from xenflow.routes.router_state import Capacity, LocalKey, NeighbourKey, RouterState

Spec = tuple[int, int, int, int] | tuple[int, tuple[tuple[int, int], ...]]
"""What a next hop is: (type, family, ifindex, gateway), or (GROUP, ((leg id, weight), ...)), or
(OBJECT, family, the kernel's id, type): what a next hop object says, which may change under the
routes that use it, as long as its type (VIA or GROUP) stays."""
OBJECT = 0x100
_KINDS = {
    "": InterfaceKind.CARD,
    "veth": InterfaceKind.CARD,
    "netkit": InterfaceKind.CARD,
    "vlan": InterfaceKind.VLAN,
    "macvlan": InterfaceKind.MACVLAN,
    "macvtap": InterfaceKind.MACVLAN,
}
_CHANGEABLE = (NextHopType.VIA, NextHopType.GROUP)

Candidate = tuple[int, int]
"""(metric, next hop id) of one route; id 0 for a route that the kernel skips (all legs dead)."""

_DEFAULT_RULES = {(0, rt.TABLE_LOCAL), (32766, rt.TABLE_MAIN), (32767, rt.TABLE_DEFAULT)}
_LOOPBACK = 127 << 24


class NextHopIds:
    """Ids of next hops: a hash of what they are, so that a restarted routerd draws the same."""

    def __init__(self) -> None:
        self._ids: dict[Spec, int] = {}
        self._specs: dict[int, Spec] = {}

    def id(self, spec: Spec) -> int:
        """The id of a next hop, drawn now if it is new."""
        found = self._ids.get(spec)
        if found is None:
            found = zlib.crc32(repr((int(spec[0]), *spec[1:])).encode()) or 1
            while found in self._specs:
                found = found % 0xFFFFFFFF + 1
            self._ids[spec] = found
            self._specs[found] = spec
        return found

    def known(self, spec: Spec) -> int | None:
        """The id of a next hop that has one."""
        return self._ids.get(spec)

    def spec(self, id_: int) -> Spec:
        """What an id stands for."""
        return self._specs[id_]

    def of_types(self, types: Collection[int]) -> set[int]:
        """The ids of all next hops of some types."""
        return {id_ for id_, spec in self._specs.items() if spec[0] in types}

    def objects(self) -> set[int]:
        """The ids that stand for next hop objects."""
        return self.of_types((OBJECT,))

    def keep(self, used: set[int]) -> None:
        """Forget all ids but these."""
        for id_ in self._specs.keys() - used:
            del self._ids[self._specs.pop(id_)]

    def __len__(self) -> int:
        return len(self._ids)


@dataclass(slots=True)
class KernelView:
    """See the module.  `control` is the name of the interface to the Rule Table, all of whose
    routes, addresses and neighbours are left out.

    When an interface that stays switched on loses its carrier the kernel forgets its neighbours.
    That happens in every live migration, while the data plane, which is not the VM's, goes on; so
    for `carrier_grace_s` such an interface counts as one with carrier still, and its neighbours as
    resolved, unless the kernel has learnt better by then.
    """

    control: str
    carrier_grace_s: float = 0.0
    ids: NextHopIds = field(default_factory=NextHopIds)
    links: dict[int, rt.LinkInfo] = field(default_factory=dict)
    netconf: dict[int, rt.NetconfInfo] = field(default_factory=dict)
    forwards6: set[int] = field(default_factory=set)
    """The links that forward IPv6."""
    hash_policy: int = 0
    """fib_multipath_hash_policy: what beside the addresses chooses a leg."""
    nexthops: dict[int, rt.NextHopObject] = field(default_factory=dict)
    rules: set[rt.RuleInfo] = field(default_factory=set)
    neighbours: dict[NeighbourKey, rt.NeighbourInfo] = field(default_factory=dict)
    locals: dict[LocalKey, Local] = field(default_factory=dict)
    routes4: dict[int, Candidate] = field(default_factory=dict)
    """prefix << 8 | length -> the candidate that wins."""
    rivals4: dict[int, list[Candidate]] = field(default_factory=dict)
    """All candidates of those prefixes that have more than one, the winner first."""
    routes6: dict[int, Candidate] = field(default_factory=dict)
    tos_routes: int = 0
    default_table: bool = False
    capacity: Capacity = field(default_factory=Capacity)
    """What the Rule Table takes of one router.  A group that is too large is left to the VM's
    kernel, and so is what leads through an interface, or to a neighbour, that is not told."""
    outside: tuple[str, ...] = ()
    """Reasons for the slow path from beyond routing: packet filters, IPsec, traffic control."""
    faults: tuple[str, ...] = ()
    """What is amiss in the kernel, in words."""
    dirty4: set[int] = field(default_factory=set)
    dirty_neighbours: set[NeighbourKey] = field(default_factory=set)
    dirty_policy: bool = False
    _tails: dict[tuple[bytes, bytes], Candidate | None] = field(default_factory=dict)
    _quick: dict[tuple[bytes, bytes], Candidate] = field(default_factory=dict)
    """`_tails`, without those that must be looked at one by one."""
    _bound: bool = False
    """Some route's way was derived from what a next hop object said when it was looked up."""
    _control_index: int = 0
    _carrier_lost: dict[int, float] = field(default_factory=dict)
    _running_until: dict[int, float] = field(default_factory=dict)
    """Links without carrier that count as having it."""
    dirty_links: bool = False
    """Some of these have not any more."""
    _vanished: dict[NeighbourKey, tuple[int, float]] = field(default_factory=dict)
    _held: dict[NeighbourKey, tuple[int, float]] = field(default_factory=dict)
    _too_many: set[str] = field(default_factory=set)
    """Of what there is more than the capacity, so that some of it passes through the VM."""

    # ------------------------------------------------------------------ dumps

    def dumped_links(self, bodies: Iterable[bytes], now: float) -> None:
        """All RTM_NEWLINK bodies of a dump."""
        found = [link for link in map(rt.link, bodies) if link is not None]
        for link in found:
            self._note_carrier(link, now)
        self.links = {link.ifindex: link for link in found}
        named = (i for i, link in self.links.items() if link.name == self.control)
        self._control_index = next(named, 0)

    def _note_carrier(self, link: rt.LinkInfo, now: float) -> None:
        """What becomes of the grace of a link, which is known as it was before."""
        before = self.links.get(link.ifindex)
        if link.flags & rt.IFF_LOWER_UP or not link.flags & rt.IFF_UP:
            self._running_until.pop(link.ifindex, None)
        elif self.carrier_grace_s and before is not None and before.flags & rt.IFF_LOWER_UP:
            self._running_until.setdefault(link.ifindex, now + self.carrier_grace_s)

    def dumped_netconf(self, bodies: Iterable[bytes]) -> None:
        """All RTM_NEWNETCONF bodies of an IPv4 dump."""
        self.netconf = {conf.ifindex: conf for conf in map(rt.netconf, bodies)}

    def dumped_netconf6(self, bodies: Iterable[bytes]) -> None:
        """All RTM_NEWNETCONF bodies of an IPv6 dump."""
        confs = map(rt.netconf, bodies)
        self.forwards6 = {conf.ifindex for conf in confs if conf.forwarding}

    def netconf6_changed(self, conf: rt.NetconfInfo, gone: bool) -> None:
        """RTM_NEWNETCONF or RTM_DELNETCONF of IPv6."""
        if conf.forwarding is None and not gone:
            return
        before = conf.ifindex in self.forwards6
        if gone or not conf.forwarding:
            self.forwards6.discard(conf.ifindex)
        else:
            self.forwards6.add(conf.ifindex)
        self.dirty_policy |= before is not (conf.ifindex in self.forwards6)

    def dumped_nexthops(self, bodies: Iterable[bytes]) -> None:
        """All RTM_NEWNEXTHOP bodies of a dump."""
        self.nexthops = {hop.id: hop for hop in map(rt.nexthop, bodies)}

    def nexthop_changed(self, object_: rt.NextHopObject, gone: bool) -> bool:
        """RTM_NEWNEXTHOP or RTM_DELNEXTHOP; True if routes must be dumped again, since some may
        have gone with it silently, or lead elsewhere.  Which groups have lost a member only a
        dump of all objects tells."""
        if not gone:
            self.nexthops[object_.id] = object_
            return self._bound
        self.nexthops.pop(object_.id, None)
        return self._bound or any(
            self.ids.known((OBJECT, family, object_.id, int(type_))) is not None
            for family in (4, 6)
            for type_ in _CHANGEABLE
        )

    def dumped_rules(self, bodies: Iterable[bytes]) -> None:
        """All RTM_NEWRULE bodies of an IPv4 dump."""
        self.rules = set(map(rt.rule, bodies))

    def dumped_neighbours(self, bodies: Iterable[bytes], now: float) -> None:
        """All RTM_NEWNEIGH bodies of a dump."""
        before = {key: mac for key, (mac, at) in self._vanished.items() if now - at < 1}
        before |= {key: self.mac(key) for key in self.neighbours}
        self._vanished.clear()
        self.neighbours = {}
        for body in bodies:
            entry = rt.neighbour(body)
            if entry is not None and entry.ifindex != self._control_index:
                key = (entry.ifindex, entry.family, entry.address)
                self.neighbours[key] = entry
                self._learn(key, entry)
        for key, mac in before.items():
            until = self._carrier_lost.get(key[0], now) + self.carrier_grace_s
            if mac and now < until and key[0] in self._carrier_lost and not self.mac(key):
                self._held.setdefault(key, (mac, until))

    def _learn(self, key: NeighbourKey, entry: rt.NeighbourInfo) -> None:
        """End the grace of a neighbour that the kernel knows about again; that it does not answer
        says something only while there is a carrier."""
        failed = entry.state & rt.NUD_FAILED and self._usable(entry.ifindex)
        if failed or entry.state & rt.NUD_RESOLVED:
            self._held.pop(key, None)

    def expire(self, now: float) -> float | None:
        """End the grace of those whose time is over; returns when the next one's is."""
        for ifindex in [i for i, until in self._running_until.items() if until <= now]:
            del self._running_until[ifindex]
            self.dirty_links = True
        for key in [key for key, (_, until) in self._held.items() if until <= now]:
            del self._held[key]
            self.dirty_neighbours.add(key)
        times = [until for _, until in self._held.values()]
        return min([*times, *self._running_until.values()], default=None)

    def begin_main(self) -> None:
        """A dump of the IPv4 main table begins; links, settings and next hop objects are up to
        date."""
        self.routes4, self.rivals4, self.tos_routes, self._tails = {}, {}, 0, {}
        self._too_many.clear()
        self._bound, self._quick = False, {}

    def begin_others(self) -> None:
        """A dump of all other tables begins."""
        self.locals, self.routes6, self.default_table = {}, {}, False

    def dumped_routes4(self, datagram: bytes) -> list[rt.NetlinkMessage]:
        """One datagram of a dump of the IPv4 main table; returns its messages that are no
        routes.  This is what a full table goes through: half a microsecond a route, mostly."""
        if self._dumped_alike(datagram):
            return []
        other = []
        routes, tails = self.routes4, self._tails
        for item in rt.bulk_routes4(datagram):
            if type(item) is not tuple:
                assert isinstance(item, rt.NetlinkMessage)
                if item.type == rt.RTM_NEWROUTE:
                    self._dumped_route(item.body)
                else:
                    other.append(item)
                continue
            prefix, length, head, tail = item
            try:
                candidate = tails[head, tail]
            except KeyError:
                candidate = tails[head, tail] = self._first_of_its_kind(item)
                if candidate is not None:
                    self._quick[head, tail] = candidate
            key = prefix << 8 | length
            if candidate is None:
                self._dumped_route(rt.rebuild(*item))
            elif key in routes:
                self._add_rival(key, candidate)
            else:
                routes[key] = candidate
        return other

    def _dumped_alike(self, datagram: bytes) -> bool:
        """The same for a datagram of routes of kinds that are known, none of which has a rival;
        False, with nothing changed, for any other."""
        rows = rt.alike_routes4(datagram)
        if rows is None:
            return False
        routes, quick = self.routes4, self._quick
        count = len(datagram) // rt.u32(datagram)
        try:
            new = {prefix << 8 | plen: quick[head, tail] for plen, head, prefix, tail in rows}
        except KeyError:
            return False
        if len(new) != count or not routes.keys().isdisjoint(new):
            return False
        routes.update(new)
        return True

    def _first_of_its_kind(self, item: tuple[int, int, bytes, bytes]) -> Candidate | None:
        info = rt.route(rt.rebuild(*item))
        if info is not None:
            self._bind(info)
        if info is None or info.tos or info.table != rt.TABLE_MAIN or self._ignored(info):
            return None
        return info.metric, self.target(info) or 0

    def dumped_routes(self, bodies: Iterable[bytes]) -> None:
        """RTM_NEWROUTE bodies of a dump of any other table."""
        for body in bodies:
            self._dumped_route(body)

    def _dumped_route(self, body: bytes) -> None:
        info = rt.route(body)
        if info is None:
            return
        self._bind(info)
        if self._ignored(info):
            return
        if info.table == rt.TABLE_LOCAL:
            self._add_local(info)
        elif info.table == rt.TABLE_DEFAULT and info.family == 4:
            self.default_table = True
        elif info.table == rt.TABLE_MAIN and info.family == 4:
            if info.tos:
                self.tos_routes += 1
            else:
                self._add4(info.prefix << 8 | info.length, info.metric, self.target(info) or 0)
        elif info.table == rt.TABLE_MAIN:
            self._add6(info)

    def _ignored(self, info: rt.RouteInfo) -> bool:
        """Whether a route leads nowhere but over the control interface."""
        if info.nexthop:
            object_ = self.nexthops.get(info.nexthop)
            hops = [object_.hop] if object_ and object_.hop else []
        else:
            hops = list(info.hops)
        return bool(hops) and all(hop.ifindex == self._control_index for hop in hops)

    def _add_local(self, info: rt.RouteInfo) -> None:
        if info.family == 4 and info.prefix & 0xFF000000 == _LOOPBACK:
            return
        if info.family == 6 and (
            info.type not in (rt.RTN_LOCAL, rt.RTN_ANYCAST) or info.prefix == 1
        ):
            return
        key = (info.family, info.length, info.prefix)
        ifindex = info.hops[0].ifindex if info.hops else 0
        broadcast = info.type == rt.RTN_BROADCAST
        local = Local(info.family, info.length, ifindex, info.prefix, broadcast)
        self.locals.setdefault(key, local)

    def _add4(self, key: int, metric: int, target: int) -> None:
        if key in self.routes4:
            self._add_rival(key, (metric, target))
        else:
            self.routes4[key] = (metric, target)

    def _add6(self, info: rt.RouteInfo) -> None:
        if info.prefix >> 118 == 0xFE80 >> 6 or info.prefix >> 120 == 0xFF:
            return
        key = info.prefix << 8 | info.length
        target = self.target(info)
        known = self.routes6.get(key)
        if target and (known is None or info.metric < known[0]):
            self.routes6[key] = (info.metric, target)

    def _add_rival(self, key: int, candidate: Candidate) -> None:
        """One more route for a prefix.  Among equal metrics the order of the kernel counts, which
        is that of the dump; `sort` keeps it."""
        rivals = self.rivals4.setdefault(key, [self.routes4[key]])
        rivals.append(candidate)
        rivals.sort(key=_metric)
        self.routes4[key] = _winner(rivals)

    # ------------------------------------------------------------------ notifications

    def link_changed(self, link: rt.LinkInfo, gone: bool, now: float) -> bool:
        """RTM_NEWLINK or RTM_DELLINK; True if everything must be dumped again."""
        self._note_carrier(link, now)
        if gone or not link.flags & rt.IFF_UP:
            self._carrier_lost.pop(link.ifindex, None)
            self._running_until.pop(link.ifindex, None)
            for key in [key for key in self._held if key[0] == link.ifindex]:
                del self._held[key]
        elif not link.flags & rt.IFF_LOWER_UP and self.carrier_grace_s:
            self._carrier_lost[link.ifindex] = now
            for key, (mac, at) in list(self._vanished.items()):
                if key[0] == link.ifindex and now - at < 1:
                    self._held.setdefault(key, (mac, now + self.carrier_grace_s))
                    del self._vanished[key]
        if gone:
            return link.ifindex in self.links
        return self.links.get(link.ifindex) != link

    def netconf_changed(self, conf: rt.NetconfInfo, gone: bool) -> bool:
        """RTM_NEWNETCONF or RTM_DELNETCONF, which tell only what changed; True if everything
        must be dumped again."""
        if gone:
            self.netconf.pop(conf.ifindex, None)
            return False
        old = self.netconf.get(conf.ifindex, rt.NetconfInfo(conf.ifindex, None, None, None))
        new = rt.NetconfInfo(
            conf.ifindex,
            old.forwarding if conf.forwarding is None else conf.forwarding,
            old.rp_filter if conf.rp_filter is None else conf.rp_filter,
            old.ignore_linkdown if conf.ignore_linkdown is None else conf.ignore_linkdown,
        )
        self.netconf[conf.ifindex] = new
        if new == old:
            return False
        self.dirty_policy = True
        return new.ignore_linkdown != old.ignore_linkdown

    def neighbour_changed(self, entry: rt.NeighbourInfo, gone: bool, now: float) -> bool:
        """RTM_NEWNEIGH or RTM_DELNEIGH; True if it matters to the router's state."""
        if entry.ifindex == self._control_index:
            return False
        key = (entry.ifindex, entry.family, entry.address)
        before = self.mac(key)
        if gone:
            self.neighbours.pop(key, None)
            if before and self.carrier_grace_s:  # perhaps because the carrier went
                self._vanished[key] = (before, now)
        else:
            self.neighbours[key] = entry
            self._learn(key, entry)
        if self.mac(key) == before:
            return False
        self.dirty_neighbours.add(key)
        return True

    def route_changed(self, info: rt.RouteInfo, flags: int, gone: bool) -> bool:
        """RTM_NEWROUTE (with its netlink flags) or RTM_DELROUTE; True if routes must be dumped
        again, which is so wherever the notification does not tell what the kernel will do."""
        if info.table not in (rt.TABLE_MAIN, rt.TABLE_LOCAL, rt.TABLE_DEFAULT):
            return False
        self._bind(info)
        key = info.prefix << 8 | info.length
        if self._ignored(info):  # but it may have taken the place of one that was not
            replaced = bool(flags & rt.NLM_F_REPLACE) and not gone
            return replaced and (
                info.table != rt.TABLE_MAIN
                or info.family != 4
                or bool(info.tos)
                or key in self.routes4
            )
        if info.table != rt.TABLE_MAIN or info.family != 4 or info.tos:
            return True
        if key in self.rivals4:
            return True
        known = self.routes4.get(key)
        if gone:
            if known is None or known[0] != info.metric:
                return known is not None
            del self.routes4[key]
        else:
            target = self.target(info) or 0
            if known == (info.metric, target):  # repeated, as for a replaced next hop object
                return False
            if known is None:
                self.routes4[key] = (info.metric, target)
            elif known[0] != info.metric:
                self._add_rival(key, (info.metric, target))
            elif flags & rt.NLM_F_REPLACE:
                self.routes4[key] = (info.metric, target)
            else:
                return True
        self.dirty4.add(key)
        self.dirty_policy = self.dirty_policy or self._is_loose()
        return False

    # ------------------------------------------------------------------ next hops

    def target(self, info: rt.RouteInfo) -> int | None:
        """The id of a route's next hop, None if the kernel would skip the route."""
        family = info.family
        stand_in = self._stand_in(info)
        if stand_in is not None:
            return self.ids.id(stand_in)
        if info.type in _WITHOUT_HOP:  # also by way of an object that is a blackhole
            return self.ids.id((_WITHOUT_HOP[info.type], family, 0, 0))
        if info.type != rt.RTN_UNICAST:
            return self.ids.id(_vm(family, VmReason.TYPE))
        object_ = info.nexthop
        spec = self._object(family, object_) if object_ else self._way(family, info.hops)
        if spec is None:
            return None
        if self._shrinks(info.mtu, spec):
            spec = _vm(family, VmReason.MTU)
        return self.ids.id(spec)

    def _stand_in(self, info: rt.RouteInfo) -> Spec | None:
        """What stands for a route's next hop object, whatever that says from now on; None for a
        route that has none, or has to be looked at again when the object changes."""
        if not info.nexthop or info.type != rt.RTN_UNICAST:
            return None
        spec = self._object(info.family, info.nexthop)
        if spec is None or spec[0] not in _CHANGEABLE or self._shrinks(info.mtu, spec):
            return None
        return (OBJECT, info.family, info.nexthop, int(spec[0]))

    def _bind(self, info: rt.RouteInfo) -> None:
        """Note that what is made of a route follows from what its next hop object says now: with
        a later word of the object the routes are dumped again.  Called for each route before
        anything is made of it."""
        if info.nexthop and not self._bound:
            followed = info.table == rt.TABLE_MAIN and not (info.tos or info.mtu)
            followed = followed and not self._ignored(info) and self._stand_in(info) is not None
            self._bound = not followed

    def _object(self, family: int, number: int) -> Spec | None:
        """What a next hop object says for routes of a family; None if the kernel skips them."""
        object_ = self.nexthops.get(number)
        if object_ is None:
            return None
        hops = self._hops(object_, family)
        if hops is None:
            return (NextHopType.BLACKHOLE, family, 0, 0)
        return self._way(family, hops, grouped=bool(object_.group))

    def _way(self, family: int, hops: Iterable[rt.RouteHop], grouped: bool = False) -> Spec | None:
        """Where hops lead; None where all are dead.  One of several is told as what it is, unless
        `grouped`: the group may get more."""
        shares: Counter[Spec] = Counter()
        for hop in hops:
            if not self._dead(hop) and hop.ifindex != self._control_index:
                shares[self._spec(family, hop)] += hop.weight
        if not shares:
            return None
        odd = [spec for spec in shares if spec[0] == NextHopType.VM]
        if odd:
            return min(odd)
        if len(shares) == 1 and not grouped:
            return next(iter(shares))
        if len(shares) > self.capacity.legs:
            return _vm(family, VmReason.SIZE)
        if len(shares) > 1 and self.hash_policy and family == 4:
            return _vm(family, VmReason.SPREAD)
        legs = sorted((self.ids.id(spec), min(n, 0xFFFF)) for spec, n in shares.items())
        return (NextHopType.GROUP, tuple(legs))

    def _note(self, words: str) -> None:
        """Of something there is too much to be told."""
        if words not in self._too_many:
            self._too_many.add(words)
            self.dirty_policy = True

    def _meaning(self, id_: int) -> Spec:
        """What an id stands for now, looked up where it stands for a next hop object."""
        spec = self.ids.spec(id_)
        if spec[0] != OBJECT:
            return spec
        assert len(spec) == 4
        now = self._object(spec[1], spec[2])
        return now if now is not None and now[0] == spec[3] else _vm(spec[1], VmReason.UNSAID)

    def _hops(self, object_: rt.NextHopObject, family: int) -> list[rt.RouteHop] | None:
        """The hops of a next hop object, or of a group's members; None for a blackhole."""
        if object_.blackhole:
            return None
        hops = []
        for id_, weight in object_.group or ((object_.id, 1),):
            member = self.nexthops.get(id_)
            if member is None:
                continue
            if member.blackhole:
                return None
            if member.hop is not None:
                hop = member.hop
                plain = hop.plain and (not hop.gateway or member.family == family)
                hops.append(
                    rt.RouteHop(
                        hop.ifindex, hop.gateway, hop.flags, weight, plain, hop.encapsulated
                    )
                )
        return hops

    def _dead(self, hop: rt.RouteHop) -> bool:
        if hop.flags & rt.RTNH_F_DEAD:
            return True
        return bool(hop.flags & rt.RTNH_F_LINKDOWN) and bool(
            self._setting(hop.ifindex, "ignore_linkdown")
        )

    def _spec(self, family: int, hop: rt.RouteHop) -> Spec:
        link = self.links.get(hop.ifindex)
        odd = rt.IFF_LOOPBACK | rt.IFF_NOARP | rt.IFF_POINTOPOINT
        if not hop.plain:
            reason = VmReason.ENCAPSULATION if hop.encapsulated else VmReason.GATEWAY6
            return _vm(family, reason)
        if link is None or link.hardware != rt.ARPHRD_ETHER or link.flags & odd:
            return _vm(family, VmReason.DEVICE)
        type_ = NextHopType.VIA if hop.gateway else NextHopType.CONNECTED
        return (type_, family, hop.ifindex, hop.gateway)

    def _shrinks(self, mtu: int, spec: Spec) -> bool:
        """Whether a route's own MTU makes the kernel fragment or refuse what the link would
        carry (ip_dst_mtu_maybe_forward, net/ip.h)."""
        if not mtu:
            return False
        ways = [spec] if len(spec) == 4 else [self.ids.spec(leg) for leg, _ in spec[1]]
        return any(
            len(way) == 4 and way[2] in self.links and mtu < self.links[way[2]].mtu for way in ways
        )

    def _setting(self, ifindex: int, name: str) -> int:
        """The larger of a device's own setting and that of "all" (linux/inetdevice.h)."""
        confs = (self.netconf.get(-1), self.netconf.get(ifindex))
        return max((getattr(conf, name) or 0 for conf in confs if conf is not None), default=0)

    def mac(self, key: NeighbourKey) -> int:
        """The MAC of a neighbour, 0 while it is not resolved."""
        entry = self.neighbours.get(key)
        if entry is not None and entry.state & rt.NUD_RESOLVED:
            return entry.mac
        return self._held[key][0] if key in self._held else 0

    # ------------------------------------------------------------------ the router's state

    def state(self) -> RouterState:
        """The router's state, from everything that is known."""
        routes4 = {key: cand[1] for key, cand in self.routes4.items() if cand[1]}
        routes6 = {key: cand[1] for key, cand in self.routes6.items()}
        interfaces = {i.ifindex: i for i in self._interfaces()}
        used = set(routes4.values()) | set(routes6.values())
        legs = {id_: self._legs(id_) for id_ in used if self._is_group(id_)}
        used.update(leg.leg for kept in legs.values() for leg in kept.values())
        nexthops = {id_: self._nexthop(id_) for id_ in used}
        self.dirty4.clear()
        self.dirty_neighbours.clear()
        self.dirty_policy = False
        kept_ids = used | {cand[1] for rivals in self.rivals4.values() for cand in rivals}
        for id_ in list(kept_ids):
            if id_ and self._is_group(id_):
                kept_ids.update(leg.leg for leg in self._legs(id_).values())
        self.ids.keep(kept_ids)
        neighbours = self._neighbours_on(_connected(nexthops.values()))
        state = RouterState.of(
            interfaces,
            dict(self.locals),
            nexthops,
            legs,
            neighbours,
            routes4,
            routes6,
            self.policy(),
        )
        state.capacity = self.capacity
        # Without all local prefixes, or all routes, a switch would not decide as the kernel does.
        excess = state.excess()
        return self._little(interfaces, excess) if excess else state

    @staticmethod
    def _little(interfaces: dict[int, VmInterface], reason: str) -> RouterState:
        """A state in which everything passes through the VM."""
        return RouterState.of(interfaces, {}, {}, {}, {}, {}, {}, Policy(True, reason))

    def sections(self, told: RouterState) -> list[Section]:
        """What to tell to one who knows `told`, after changes of single routes, neighbours and
        of the policy only; the same as `told.sections_to(self.state())`, but in proportion to
        the change."""
        sections = self.link_sections(told) if self.dirty_policy else []
        routes, gone, balance = self._route_changes(told)
        fresh, dead = self._nexthop_changes(told, balance)
        types = {self._type(id_) for id_ in fresh} | {told.nexthops[id_].type for id_ in dead}
        if NextHopType.CONNECTED in types or self._grows(told, fresh, len(routes)):
            return told.sections_to(self.state())
        moved, neighbours, lost = self._neighbour_changes(told, dead)
        self.dirty4.clear()
        self.dirty_neighbours.clear()
        groups = [id_ for id_ in fresh if self._is_group(id_)]
        sections += [
            Section(SectionKind.NEXTHOP, Op.SET, [self._nexthop(id_) for id_ in fresh + moved]),
            Section(
                SectionKind.LEG, Op.SET, [leg for g in groups for leg in self._legs(g).values()]
            ),
            Section(SectionKind.NEIGHBOUR, Op.SET, neighbours),
            Section(SectionKind.ROUTE4, Op.SET, routes),
            Section(SectionKind.ROUTE4, Op.DELETE, gone),
            Section(SectionKind.NEXTHOP, Op.DELETE, [told.nexthops[id_] for id_ in dead]),
            Section(SectionKind.NEIGHBOUR, Op.DELETE, lost),
        ]
        return [section for section in sections if section.records]

    def _grows(self, told: RouterState, fresh: list[int], routes: int) -> bool:
        """Whether there may be more than the capacity after a change, or was before it."""
        told_routes = len(told.routes4) + len(told.routes6)
        fuller = len(told.nexthops) + len(fresh) > self.capacity.nexthops
        legs = sum(len(self._legs(id_)) for id_ in fresh if self._is_group(id_))
        if legs:
            fuller = fuller or told.leg_uses.total() + legs > self.capacity.all_legs
        fuller = fuller or told_routes + routes > self.capacity.routes
        return fuller or bool(self.routes4 and not told.routes4)

    def _route_changes(self, told: RouterState) -> tuple[list[Route], list[Route], Counter[int]]:
        routes, gone = [], []
        balance: Counter[int] = Counter()
        for key in self.dirty4:
            now = self.routes4.get(key, (0, 0))[1]
            was = told.routes4.get(key, 0)
            if now == was:
                continue
            balance[was] -= 1
            balance[now] += 1
            if now:
                routes.append((key >> 8, key & 255, now))
            else:
                gone.append((key >> 8, key & 255, was))
        del balance[0]
        return routes, gone, balance

    def _nexthop_changes(
        self, told: RouterState, balance: Counter[int]
    ) -> tuple[list[int], list[int]]:
        """(ids not told yet, ids not used any more), each in an order that keeps references."""
        fresh = [id_ for id_, n in balance.items() if n > 0 and id_ not in told.nexthops]
        dead = [
            id_
            for id_, n in balance.items()
            if n < 0 and told.uses[id_] + n == 0 and not told.leg_uses[id_]
        ]
        legs: Counter[int] = Counter()
        for id_ in fresh:
            if self._is_group(id_):
                legs.update(leg.leg for leg in self._legs(id_).values())
        fresh = [id_ for id_ in legs if id_ not in told.nexthops and id_ not in fresh] + fresh
        fresh.sort(key=self._is_group)
        for id_ in list(dead):
            for leg in told.legs.get(id_, {}).values():
                legs[leg.leg] -= 1
        dead = [id_ for id_ in dead if legs[id_] <= 0]
        for id_, n in legs.items():
            if n < 0 and told.leg_uses[id_] + n == 0 and told.uses[id_] + balance[id_] == 0:
                dead.append(id_)
        return fresh, sorted(set(dead), key=lambda id_: (id_ not in told.legs, id_))

    def _neighbour_changes(
        self, told: RouterState, dead: list[int]
    ) -> tuple[list[int], list[Neighbour], list[Neighbour]]:
        """(next hops whose MAC changed, neighbours to set, neighbours to delete)."""
        moved: list[int] = []
        neighbours: list[Neighbour] = []
        lost: list[Neighbour] = []
        most = self.capacity.neighbours
        connected = _connected(told.nexthops.values()) if self.dirty_neighbours else set()
        if self.dirty_neighbours:
            for hop in told.nexthops.values():
                key = (hop.ifindex, hop.family, hop.gateway)
                gateway = hop.type is NextHopType.VIA and key in self.dirty_neighbours
                if gateway and hop.id not in dead and hop.mac != self.mac(key):
                    moved.append(hop.id)
        for key in self.dirty_neighbours:
            ifindex, family, address = key
            mac = self.mac(key)
            if (ifindex, family) in connected:
                known = told.neighbours.get(key)
                if mac and known is None and len(told.neighbours) + len(neighbours) >= most:
                    self._note(f"neighbours over {most}")
                elif mac and (known is None or known.mac != mac):
                    neighbours.append(Neighbour(ifindex, family, True, address, mac))
                elif not mac and known is not None:
                    lost.append(known)
        return moved, neighbours, lost

    def link_sections(self, told: RouterState) -> list[Section]:
        """What to tell of interfaces that are new or changed, and of the policy."""
        self.dirty_policy = False
        sections: list[Section] = []
        policy = self.policy()
        interfaces = {i.ifindex: i for i in self._interfaces()}
        changed = [i for n, i in interfaces.items() if told.interfaces.get(n) != i]
        if policy != told.policy:
            sections.append(Section(SectionKind.POLICY, Op.SET, [policy]))
        if changed:
            sections.append(Section(SectionKind.INTERFACE, Op.SET, changed))
        return sections

    def object_sections(self, told: RouterState) -> tuple[list[Section], bool]:
        """What to tell first when next hop objects or links have changed, in proportion to the
        number of next hops; and whether there are objects that are gone or have become something
        of another type: they are left as told, and the routes must be dumped."""
        unclear = False
        hops: list[NextHop] = []
        legs: list[Leg] = []
        dropped: list[Leg] = []
        uses: Counter[int] = Counter()
        for id_ in told.nexthops.keys() & self.ids.objects():
            kind = self.ids.spec(id_)[-1]
            if self._meaning(id_)[0] != kind:
                unclear = True
                continue
            if kind != NextHopType.GROUP:
                hops.append(self._nexthop(id_))
                continue
            old, new = told.legs.get(id_, {}), self._legs(id_)
            uses.update(leg.leg for leg in new.values())
            uses.subtract(leg.leg for leg in old.values())
            legs += [leg for index, leg in new.items() if old.get(index) != leg]
            dropped += [leg for index, leg in old.items() if index not in new]
        hops += [self._nexthop(leg.leg) for leg in legs]
        known = told.nexthops
        hops = list({hop.id: hop for hop in hops if known.get(hop.id) != hop}.values())
        dead = [
            known[id_]
            for id_, n in uses.items()
            if n < 0 and told.leg_uses[id_] + n == 0 and not told.uses[id_]
        ]
        sections = [
            Section(SectionKind.NEXTHOP, Op.SET, hops),
            Section(SectionKind.LEG, Op.SET, legs),
            Section(SectionKind.LEG, Op.DELETE, dropped),
            Section(SectionKind.NEXTHOP, Op.DELETE, dead),
        ]
        return [section for section in sections if section.records], unclear

    def _type(self, id_: int) -> int:
        return self._meaning(id_)[0]

    def _is_group(self, id_: int) -> bool:
        return self._meaning(id_)[0] == NextHopType.GROUP

    def _legs(self, group: int) -> dict[int, Leg]:
        spec = self._meaning(group)
        assert len(spec) == 2
        return {n: Leg(group, id_, weight, n) for n, (id_, weight) in enumerate(spec[1])}

    def _nexthop(self, id_: int) -> NextHop:
        spec = self._meaning(id_)
        if len(spec) == 2:
            family = self.ids.spec(spec[1][0][0])[1]
            assert isinstance(family, int)
            return NextHop(id_, NextHopType.GROUP, family, 0, 0, 0)
        type_, family, ifindex, gateway = spec
        mac = self.mac((ifindex, family, gateway)) if type_ == NextHopType.VIA else 0
        return NextHop(id_, NextHopType(type_), family, ifindex, gateway, mac)

    def control_link(self) -> rt.LinkInfo | None:
        """The interface to the Rule Table, where there is one."""
        return self.links.get(self._control_index)

    def data_links(self) -> Iterator[rt.LinkInfo]:
        """The links that carry the router's traffic: all but loopback and control."""
        for link in self.links.values():
            if link.ifindex != self._control_index and not link.flags & rt.IFF_LOOPBACK:
                yield link

    def _interfaces(self) -> Iterator[VmInterface]:
        """As many as may be told: what the network describes is there before what a VM adds."""
        links = sorted(self.data_links(), key=lambda link: link.ifindex)
        if len(links) > self.capacity.interfaces:
            self._note(f"interfaces over {self.capacity.interfaces}")
        for link in links[: self.capacity.interfaces]:
            conf = self.netconf.get(link.ifindex)
            flags = InterfaceFlag(0)
            if link.flags & rt.IFF_UP:
                flags |= InterfaceFlag.UP
            if link.flags & rt.IFF_LOWER_UP or link.ifindex in self._running_until:
                flags |= InterfaceFlag.RUNNING
            if conf is not None and conf.forwarding:
                flags |= InterfaceFlag.FORWARDING4
            if link.ifindex in self.forwards6:
                flags |= InterfaceFlag.FORWARDING6
            mtu = min(link.mtu, 0xFFFF)
            yield VmInterface(
                link.ifindex, int(flags), mtu, link.mac, link.name, int(self._kind(link))
            )

    def _kind(self, link: rt.LinkInfo) -> InterfaceKind:
        """What a link is.  One that stands on a device in another network namespace is a card as
        far as this one can tell."""
        kind = _KINDS.get(link.kind, InterfaceKind.OTHER)
        if kind is InterfaceKind.CARD or link.parent_elsewhere:
            return InterfaceKind.CARD
        parent = self.links.get(link.parent)
        on_card = parent is not None and self._kind(parent) is InterfaceKind.CARD
        return kind if on_card else InterfaceKind.OTHER

    def _neighbours_on(self, links: set[tuple[int, int]]) -> dict[NeighbourKey, Neighbour]:
        found = {
            key: Neighbour(key[0], key[1], True, key[2], mac)
            for key in self.neighbours.keys() | self._held.keys()
            if key[:2] in links and (mac := self.mac(key))
        }
        most = self.capacity.neighbours
        if len(found) > most:
            self._note(f"neighbours over {most}")
            return dict(islice(found.items(), most))
        return found

    # ------------------------------------------------------------------ policy

    def policy(self) -> Policy:
        """Whether something beside the main table decides, and what; and what is amiss."""
        reasons = list(dict.fromkeys(self._reasons()))
        remarks = [Remark(True, words) for words in self.faults]
        remarks += [Remark(False, words) for words in (*reasons[1:], *sorted(self._too_many))]
        return Policy(bool(reasons), reasons[0] if reasons else "", tuple(remarks[:MAX_REMARKS]))

    def _reasons(self) -> Iterator[str]:
        plain = {(rule.priority, rule.table) for rule in self.rules if rule.plain}
        for rule in sorted(self.rules, key=lambda rule: rule.priority):
            if not rule.plain or (rule.priority, rule.table) not in _DEFAULT_RULES:
                yield f"ip rule {rule.priority} is not a default one"
        for priority, table in sorted(_DEFAULT_RULES - plain):
            if table != rt.TABLE_DEFAULT:
                yield f"ip rule {priority} (lookup table {table}) is missing"
        if self.default_table:
            yield "table default has routes"
        if self.tos_routes:
            yield "a route depends on the TOS"
        for link in self.data_links():
            yield from self._link_reasons(link)
        yield from self.outside

    def _link_reasons(self, link: rt.LinkInfo) -> Iterator[str]:
        if not link.flags & rt.IFF_UP or not link.mac:
            return
        conf = self.netconf.get(link.ifindex)
        if link.master:
            master = self.links.get(link.master)
            yield f"{link.name} is enslaved to {master.name if master else link.master}"
        if link.xdp:
            yield f"{link.name} has an XDP program"
        if conf is None:
            return
        if not conf.forwarding:
            yield f"IPv4 forwarding is off on {link.name}"
        check = self._setting(link.ifindex, "rp_filter")
        if check == 1:
            yield f"rp_filter is strict on {link.name}"
        elif check == 2 and not self._reaches_every_source():
            yield f"rp_filter is loose on {link.name}, and not every source has a route"

    def _reaches_every_source(self) -> bool:
        """Whether a loose filter passes every source: a default route, and no route under it that
        is none (net/ipv4/fib_frontend.c, __fib_validate_source)."""
        if not self.routes4.get(0, (0, 0))[1]:
            return False
        without = self.ids.of_types((*_WITHOUT_HOP.values(), NextHopType.VM))
        if not without:
            return True
        return not any(candidate[1] in without for candidate in self.routes4.values())

    def _is_loose(self) -> bool:
        return any(self._setting(link.ifindex, "rp_filter") == 2 for link in self.data_links())

    # ------------------------------------------------------------------ neighbours to keep

    def gateways(self, told: RouterState) -> set[NeighbourKey]:
        """The neighbours that next hops go through, on links that are up."""
        return {
            (hop.ifindex, hop.family, hop.gateway)
            for hop in told.nexthops.values()
            if hop.type is NextHopType.VIA and self._usable(hop.ifindex)
        }

    def _usable(self, ifindex: int) -> bool:
        link = self.links.get(ifindex)
        needed = rt.IFF_UP | rt.IFF_LOWER_UP
        return link is not None and link.flags & needed == needed


_WITHOUT_HOP = {
    rt.RTN_BLACKHOLE: NextHopType.BLACKHOLE,
    rt.RTN_UNREACHABLE: NextHopType.UNREACHABLE,
    rt.RTN_PROHIBIT: NextHopType.PROHIBIT,
}


def _vm(family: int, reason: VmReason) -> Spec:
    """What leads to the VM, and why."""
    return (NextHopType.VM, family, 0, int(reason))


def _metric(candidate: Candidate) -> int:
    return candidate[0]


def _winner(rivals: list[Candidate]) -> Candidate:
    """The first that the kernel does not skip."""
    return next((candidate for candidate in rivals if candidate[1]), rivals[0])


def _connected(nexthops: Iterable[NextHop]) -> set[tuple[int, int]]:
    """The (ifindex, family) where destinations themselves are neighbours."""
    return {(hop.ifindex, hop.family) for hop in nexthops if hop.type is NextHopType.CONNECTED}
