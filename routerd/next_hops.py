"""Which next hop a route has, and what that is now: `KernelNextHops`.

A route that goes by way of a next hop object has one that stands for the object.  So what an object
says, and whether a link works, is told in proportion to the number of next hops.  What the Rule
Table cannot do as the kernel does leads to the VM, with the reason.

Called by `kernel_view` for each kind of route, and by `telling`.  Nothing here does I/O.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace

from routerd import rtnetlink as rt
from routerd.kernel_tables import KernelTables
from xenflow.routes.messages import Leg, NextHop, NextHopType, VmReason

Spec = tuple[int, int, int, int] | tuple[int, tuple[tuple[int, int], ...]]
"""What a next hop is: (type, family, ifindex, gateway), where the family of VIA is the gateway's;
or (GROUP, ((leg id, weight), ...)); or (OBJECT, family, the kernel's id, type): what a next hop
object says, which may change under the routes that use it, as long as its type (VIA or GROUP)
stays."""
OBJECT = 0x100
_CHANGEABLE = (NextHopType.VIA, NextHopType.GROUP)
WITHOUT_HOP = {
    rt.RTN_BLACKHOLE: NextHopType.BLACKHOLE,
    rt.RTN_UNREACHABLE: NextHopType.UNREACHABLE,
    rt.RTN_PROHIBIT: NextHopType.PROHIBIT,
}


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


class KernelNextHops:
    """See the module."""

    def __init__(self, tables: KernelTables) -> None:
        self._tables = tables
        self.ids = NextHopIds()

    def target(self, info: rt.RouteInfo) -> int | None:
        """The id of a route's next hop, None if the kernel would skip the route."""
        family = info.family
        if info.expires < 0:
            return None
        stand_in = self.stand_in(info)
        if stand_in is not None:
            return self.ids.id(stand_in)
        if info.type in WITHOUT_HOP:  # also by way of an object that is a blackhole
            return self.ids.id((WITHOUT_HOP[info.type], family, 0, 0))
        if info.type != rt.RTN_UNICAST:
            return self.ids.id(_vm(family, VmReason.TYPE))
        object_ = info.nexthop
        spec = self._object(family, object_) if object_ else self._way(family, info.hops)
        if spec is None:
            return None
        if self._shrinks(info.mtu, spec):
            spec = _vm(family, VmReason.MTU)
        return self.ids.id(spec)

    def stand_in(self, info: rt.RouteInfo) -> Spec | None:
        """What stands for a route's next hop object, whatever that says from now on; None for a
        route that has none, or has to be looked at again when the object changes."""
        if not info.nexthop or info.type != rt.RTN_UNICAST:
            return None
        spec = self._object(info.family, info.nexthop)
        if spec is None or spec[0] not in _CHANGEABLE or self._shrinks(info.mtu, spec):
            return None
        return (OBJECT, info.family, info.nexthop, int(spec[0]))

    def stands_for(self, number: int) -> bool:
        """Whether some next hop stands for this next hop object."""
        specs = ((OBJECT, family, number, int(type_)) for family in (4, 6) for type_ in _CHANGEABLE)
        return any(self.ids.known(spec) is not None for spec in specs)

    def contested(self) -> int:
        """The id for IPv6 routes of one prefix and metric that are not legs of one: the kernel
        chooses from them by the interface a packet came in by, too (rt6_score_route,
        net/ipv6/route.c)."""
        return self.ids.id(_vm(6, VmReason.CHOICE))

    def extends(self, known: int, new: int) -> bool:
        """Whether a next hop has all the legs of another one that a route had so far."""
        legs, more = self._leg_ids(known), self._leg_ids(new)
        return len(more) > 1 and legs <= more

    def left(self, known: int, lost: rt.RouteInfo) -> int | None:
        """The id of what is left of an IPv6 route's next hop where the kernel has told that the
        route is gone, or one leg of it; 0 where nothing is left, None where it is not clear."""
        if not known:
            return None
        spec, gone = self.ids.spec(known), self.target(lost)
        if gone == known or spec[:3] == (OBJECT, 6, lost.nexthop):
            return 0
        if len(spec) != 2 or len(lost.hops) != 1 or gone not in self._leg_ids(known):
            return None
        legs = tuple(leg for leg in spec[1] if leg[0] != gone)
        return self.ids.id((NextHopType.GROUP, legs)) if len(legs) > 1 else legs[0][0]

    def _leg_ids(self, id_: int) -> set[int]:
        if not id_:
            return set()
        spec = self.ids.spec(id_)
        return {leg for leg, _ in spec[1]} if len(spec) == 2 else {id_}

    def ignored(self, info: rt.RouteInfo) -> bool:
        """Whether a route leads nowhere but over the control interface."""
        if info.nexthop:
            object_ = self._tables.nexthops.get(info.nexthop)
            hops = [object_.hop] if object_ and object_.hop else []
        else:
            hops = list(info.hops)
        return bool(hops) and all(self._tables.is_control(hop.ifindex) for hop in hops)

    def _object(self, family: int, number: int) -> Spec | None:
        """What a next hop object says for routes of a family; None if the kernel skips them."""
        object_ = self._tables.nexthops.get(number)
        if object_ is None:
            return None
        hops = self._hops(object_)
        if hops is None:
            return (NextHopType.BLACKHOLE, family, 0, 0)
        return self._way(family, hops, grouped=bool(object_.group))

    def _way(self, family: int, hops: Iterable[rt.RouteHop], grouped: bool = False) -> Spec | None:
        """Where hops lead; None where all are dead.  One of several is told as what it is, unless
        `grouped`: the group may get more."""
        shares: Counter[Spec] = Counter()
        for hop in hops:
            if not self._dead(family, hop) and not self._tables.is_control(hop.ifindex):
                shares[self._spec(family, hop)] += hop.weight
        if not shares:
            return None
        odd = [spec for spec in shares if spec[0] == NextHopType.VM]
        if odd:
            return min(odd)
        if len(shares) == 1 and not grouped:
            return next(iter(shares))
        if len(shares) > self._tables.capacity.legs:
            return _vm(family, VmReason.SIZE)
        if len(shares) > 1 and self._tables.hash_policy[family]:
            return _vm(family, VmReason.SPREAD)
        legs = sorted((self.ids.id(spec), min(n, 0xFFFF)) for spec, n in shares.items())
        return (NextHopType.GROUP, tuple(legs))

    def _hops(self, object_: rt.NextHopObject) -> list[rt.RouteHop] | None:
        """The hops of a next hop object, or of a group's members; None for a blackhole."""
        if object_.blackhole:
            return None
        hops = []
        for id_, weight in object_.group or ((object_.id, 1),):
            member = self._tables.nexthops.get(id_)
            if member is None:
                continue
            if member.blackhole:
                return None
            if (hop := member.hop) is not None:
                hops.append(replace(hop, weight=weight))
        return hops

    def _dead(self, family: int, hop: rt.RouteHop) -> bool:
        down = bool(hop.flags & rt.RTNH_F_LINKDOWN)
        down = down and self._tables.ignores_linkdown(family, hop.ifindex)
        return down or bool(hop.flags & rt.RTNH_F_DEAD)

    def _spec(self, family: int, hop: rt.RouteHop) -> Spec:
        link = self._tables.links.get(hop.ifindex)
        odd = rt.IFF_LOOPBACK | rt.IFF_NOARP | rt.IFF_POINTOPOINT
        if not hop.plain:
            reason = VmReason.ENCAPSULATION if hop.encapsulated else VmReason.UNSAID
            return _vm(family, reason)
        if link is None or link.hardware != rt.ARPHRD_ETHER or link.flags & odd:
            return _vm(family, VmReason.DEVICE)
        if family == 6 and link.mtu6 < link.mtu:
            return _vm(family, VmReason.MTU)
        if hop.gateway:
            return (NextHopType.VIA, hop.family, hop.ifindex, hop.gateway)
        return (NextHopType.CONNECTED, family, hop.ifindex, 0)

    def _shrinks(self, mtu: int, spec: Spec) -> bool:
        """Whether a route's own MTU makes the kernel fragment or refuse what the link would
        carry (ip_dst_mtu_maybe_forward, net/ip.h)."""
        if not mtu:
            return False
        links = self._tables.links
        ways = [spec] if len(spec) == 4 else [self.ids.spec(leg) for leg, _ in spec[1]]
        return any(len(way) == 4 and way[2] in links and mtu < links[way[2]].mtu for way in ways)

    def meaning(self, id_: int) -> Spec:
        """What an id stands for now, looked up where it stands for a next hop object."""
        spec = self.ids.spec(id_)
        if spec[0] != OBJECT:
            return spec
        assert len(spec) == 4
        now = self._object(spec[1], spec[2])
        return now if now is not None and now[0] == spec[3] else _vm(spec[1], VmReason.UNSAID)

    def type(self, id_: int) -> int:
        """The `NextHopType` of what an id stands for now."""
        return self.meaning(id_)[0]

    def legs(self, id_: int) -> dict[int, Leg]:
        """The legs of a group, by their index; none of anything else."""
        spec = self.meaning(id_)
        legs = spec[1] if len(spec) == 2 else ()
        return {n: Leg(id_, leg, weight, n) for n, (leg, weight) in enumerate(legs)}

    def nexthop(self, id_: int) -> NextHop:
        """What is told of a next hop."""
        spec = self.meaning(id_)
        if len(spec) == 2:
            family = self.ids.spec(spec[1][0][0])[1]
            assert isinstance(family, int)
            return NextHop(id_, NextHopType.GROUP, family, 0, 0, 0)
        type_, family, ifindex, gateway = spec
        mac = self._tables.mac((ifindex, family, gateway)) if type_ == NextHopType.VIA else 0
        return NextHop(id_, NextHopType(type_), family, ifindex, gateway, mac)


def _vm(family: int, reason: VmReason) -> Spec:
    """What leads to the VM, and why."""
    return (NextHopType.VM, family, 0, int(reason))
