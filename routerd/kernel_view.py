"""What the VM's kernel would do with a packet, put together from what netlink said.

`KernelView` takes in dumps and notifications: what is known afterwards stands in its tables, which
route wins a prefix among them.

Netlink is silent about more than it seems: when an interface goes down or an address is deleted,
routes vanish without a message each; with the carrier go next hop objects and their routes; a
group loses a member silently.  So only changes of single routes and neighbours are followed here
one by one; anything else makes the methods answer "dump again", which is done by `daemon.py`.

What a route's next hop is, `next_hops` decides; what is told of it all, `telling`.  Nothing here
does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from operator import itemgetter

from routerd import rtnetlink as rt
from routerd.kernel_tables import Candidate, CarrierGrace, KernelTables
from routerd.next_hops import KernelNextHops
from routerd.telling import Telling
from xenflow.routes.family import FAMILIES, LINK_LOCAL6, V6
from xenflow.routes.messages import Local


class KernelView:
    """What changes the `tables`; `hops` and `telling` are what follows from them."""

    def __init__(self, control: str, carrier_grace_s: float = 0.0) -> None:
        self.tables = KernelTables(control, carrier_grace_s)
        self.hops = KernelNextHops(self.tables)
        self.telling = Telling(self.tables, self.hops)
        self.grace = CarrierGrace(self.tables)
        self._tails: dict[tuple[bytes, bytes], Candidate | None] = {}
        self._quick: dict[tuple[bytes, bytes], Candidate] = {}
        """`_tails`, without those that must be looked at one by one."""
        self._bound = False
        """Some route's way was derived from what a next hop object said when it was looked up."""

    # ------------------------------------------------------------------ dumps

    def dumped_links(self, bodies: Iterable[bytes], now: float) -> None:
        """All RTM_NEWLINK bodies of a dump."""
        found = [link for link in map(rt.link, bodies) if link is not None]
        for link in found:
            self.grace.carrier(link, now)
        self.tables.links = {link.ifindex: link for link in found}
        named = (i for i, link in self.tables.links.items() if link.name == self.tables.control)
        self.tables.control_index = next(named, 0)

    def dumped_netconf(self, family: int, bodies: Iterable[bytes]) -> None:
        """All RTM_NEWNETCONF bodies of a family's dump."""
        self.tables.netconf[family] = {conf.ifindex: conf for conf in map(rt.netconf, bodies)}

    def dumped_nexthops(self, bodies: Iterable[bytes]) -> None:
        """All RTM_NEWNEXTHOP bodies of a dump."""
        self.tables.nexthops = {hop.id: hop for hop in map(rt.nexthop, bodies)}

    def dumped_rules(self, family: int, bodies: Iterable[bytes]) -> None:
        """All RTM_NEWRULE bodies of a family's dump."""
        self.tables.rules[family] = set(map(rt.rule, bodies))

    def dumped_neighbours(self, bodies: Iterable[bytes], now: float) -> None:
        """All RTM_NEWNEIGH bodies of a dump."""
        before = self.grace.resolved(now)
        self.tables.neighbours = {}
        for body in bodies:
            entry = rt.neighbour(body)
            if entry is not None and not self.tables.is_control(entry.ifindex):
                key = (entry.ifindex, entry.family, entry.address)
                self.tables.neighbours[key] = entry
                self.grace.learnt(key, entry)
        self.grace.keep(before, now)

    def begin_main(self) -> None:
        """A dump of both main tables begins; links, settings and next hop objects are up to
        date."""
        tables = self.tables
        tables.routes, tables.rivals, tables.expiry = {}, {}, None
        tables.tos_routes = tables.source_routes = 0
        tables.too_many.clear()
        self._tails, self._quick, self._bound = {}, {}, False

    def begin_others(self) -> None:
        """A dump of all other tables begins."""
        tables = self.tables
        tables.locals, tables.default_table = {}, False

    def dumped_main(self, raw: int, datagram: bytes, now: float) -> None:
        """One datagram of a dump of the main table of a family (AF_INET, AF_INET6).  This is what a
        full table goes through: half a microsecond a route of IPv4, mostly."""
        if self._dumped_alike(raw, datagram):
            return
        routes, tails = self.tables.routes, self._tails
        for item in rt.bulk_routes(raw, datagram):
            if type(item) is not tuple:
                assert isinstance(item, rt.NetlinkMessage)
                if item.type == rt.RTM_NEWROUTE:
                    self._dumped_route(item.body, now)
                continue
            key, head, tail = item
            try:
                candidate = tails[head, tail]
            except KeyError:
                candidate = tails[head, tail] = self._first_of_its_kind(rt.rebuild(raw, *item))
                if candidate is not None:
                    self._quick[head, tail] = candidate
            if candidate is None or key >= _NEAR:
                self._dumped_route(rt.rebuild(raw, *item), now)
            elif key in routes:
                self._add_rival(key, candidate)
            else:
                routes[key] = candidate

    def _dumped_alike(self, raw: int, datagram: bytes) -> bool:
        """The same for a datagram of routes of kinds that are known, none of which has a rival;
        False, with nothing changed, for any other."""
        rows = rt.alike_routes(raw, datagram)
        if rows is None:
            return False
        routes, quick, key6 = self.tables.routes, self._quick, rt.key6
        count = len(datagram) // rt.u32(datagram)
        try:
            if raw == rt.AF_INET:
                new = {prefix << 8 | plen: quick[head, tail] for plen, head, prefix, tail in rows}
            else:
                new = {key6(prefix, plen): quick[head, tail] for plen, head, prefix, tail in rows}
        except KeyError:
            return False
        if len(new) != count or not routes.keys().isdisjoint(new):
            return False
        if raw == rt.AF_INET6 and max(new) >= _NEAR:
            return False
        routes.update(new)
        return True

    def _first_of_its_kind(self, body: bytes) -> Candidate | None:
        """None for one of those that must be looked at one by one."""
        info = rt.route(body)
        if info is not None:
            self._bind(info)
        if info is None or info.tos or info.source or info.expires or info.table != rt.TABLE_MAIN:
            return None
        return None if self.hops.ignored(info) else (info.metric, self.hops.target(info) or 0)

    def dumped_routes(self, bodies: Iterable[bytes], now: float) -> None:
        """RTM_NEWROUTE bodies of a dump of any other table."""
        for body in bodies:
            self._dumped_route(body, now)

    def _dumped_route(self, body: bytes, now: float) -> None:
        info = rt.route(body)
        if info is None or _left_out(info):
            return
        self._bind(info)
        if self.hops.ignored(info):
            return
        if info.table == rt.TABLE_LOCAL:
            self._add_local(info)
        elif info.table == rt.TABLE_DEFAULT:
            self.tables.default_table = True
        elif info.table == rt.TABLE_MAIN:
            if info.tos:
                self.tables.tos_routes += 1
            elif info.source:
                self.tables.source_routes += 1
            else:
                self._add(_key(info), self._candidate(info, now))

    def _candidate(self, info: rt.RouteInfo, now: float) -> Candidate:
        if info.expires > 0:
            over = now + info.expires / 100
            self.tables.expiry = min(over, self.tables.expiry or over)
        return info.metric, self.hops.target(info) or 0

    def _add_local(self, info: rt.RouteInfo) -> None:
        key = (info.family, info.length, info.prefix)
        ifindex = info.hops[0].ifindex if info.hops else 0
        broadcast = info.type in (rt.RTN_BROADCAST, rt.RTN_ANYCAST)
        local = Local(info.family, info.length, ifindex, info.prefix, broadcast)
        self.tables.locals.setdefault(key, local)

    def _add(self, key: int, candidate: Candidate) -> None:
        if key in self.tables.routes:
            self._add_rival(key, candidate)
        else:
            self.tables.routes[key] = candidate

    def _add_rival(self, key: int, candidate: Candidate) -> None:
        """One more route for a prefix.  The first wins that the kernel does not skip.  Among equal
        metrics that of the dump comes first in IPv4, and `sort` keeps its order; in IPv6 more
        counts than that."""
        rivals = self.tables.rivals.setdefault(key, [self.tables.routes[key]])
        rivals.append(candidate)
        rivals.sort(key=itemgetter(0))
        best = next((one for one in rivals if one[1]), rivals[0])
        if key & 0xFF >= V6.shortest:
            equal = {one[1] for one in rivals if one[0] == best[0]}
            if len(equal - {0}) > 1:
                best = best[0], self.hops.contested()
        self.tables.routes[key] = best

    # ------------------------------------------------------------------ notifications

    def link_changed(self, link: rt.LinkInfo, gone: bool, now: float) -> bool:
        """RTM_NEWLINK or RTM_DELLINK; True if everything must be dumped again.  What is gone is
        forgotten at once: another device may get its index before the dump."""
        self.grace.link_changed(link, gone, now)
        if gone:
            return self.tables.links.pop(link.ifindex, None) is not None
        return self.tables.links.get(link.ifindex) != link

    def netconf_changed(self, family: int, conf: rt.NetconfInfo, gone: bool) -> bool:
        """RTM_NEWNETCONF or RTM_DELNETCONF, which tell only what changed; True if everything
        must be dumped again."""
        known = self.tables.netconf[family]
        if gone:
            known.pop(conf.ifindex, None)
            return False
        old = known.get(conf.ifindex, rt.NetconfInfo(conf.ifindex, None, None, None))
        new = replace(old, **{k: v for k, v in asdict(conf).items() if v is not None})
        known[conf.ifindex] = new
        if new == old:
            return False
        self.tables.dirty_policy = True
        return new.ignore_linkdown != old.ignore_linkdown

    def nexthop_changed(self, object_: rt.NextHopObject, gone: bool) -> bool:
        """RTM_NEWNEXTHOP or RTM_DELNEXTHOP; True if routes must be dumped again, since some may
        have gone with it silently, or lead elsewhere.  Which groups have lost a member only a
        dump of all objects tells."""
        if not gone:
            self.tables.nexthops[object_.id] = object_
            return self._bound
        self.tables.nexthops.pop(object_.id, None)
        return self._bound or self.hops.stands_for(object_.id)

    def neighbour_changed(self, entry: rt.NeighbourInfo, gone: bool, now: float) -> bool:
        """RTM_NEWNEIGH or RTM_DELNEIGH; True if it matters to the router's state."""
        tables = self.tables
        if tables.is_control(entry.ifindex):
            return False
        key = (entry.ifindex, entry.family, entry.address)
        before = tables.mac(key)
        if gone:
            tables.neighbours.pop(key, None)
            self.grace.vanished(key, before, now)
        else:
            tables.neighbours[key] = entry
            self.grace.learnt(key, entry)
        if tables.mac(key) == before:
            return False
        tables.dirty_neighbours.add(key)
        return True

    def route_changed(self, info: rt.RouteInfo, flags: int, gone: bool, now: float) -> bool:
        """RTM_NEWROUTE (with its netlink flags) or RTM_DELROUTE; True if routes must be dumped
        again, which is so wherever the notification does not tell what the kernel will do.

        The legs of an IPv6 route come and go one by one.  With one more the kernel tells all of
        them, in any order; with one less it tells that one.
        """
        if info.table not in (rt.TABLE_MAIN, rt.TABLE_LOCAL, rt.TABLE_DEFAULT) or _left_out(info):
            return False
        self._bind(info)
        tables = self.tables
        key = _key(info)
        single = info.table == rt.TABLE_MAIN and not (info.tos or info.source)
        if self.hops.ignored(info):  # but it may have taken the place of one that was not
            replaced = bool(flags & rt.NLM_F_REPLACE) and not gone
            return replaced and (not single or key in tables.routes)
        if not single or key in tables.rivals:
            return True
        if not gone and not info.nexthop and any(map(self._contradicts, info.hops)):
            return True
        known = tables.routes.get(key)
        if gone:
            if known is None or known[0] != info.metric:
                return known is not None
            left = 0 if info.family == 4 else self.hops.left(known[1], info)
            if left is None:
                return True
            if left:
                tables.routes[key] = info.metric, left
            else:
                del tables.routes[key]
        else:
            candidate = self._candidate(info, now)
            if known == candidate:  # repeated, as for a replaced next hop object
                return False
            if known is None or known[0] != info.metric:
                self._add(key, candidate)
            elif flags & rt.NLM_F_REPLACE or (
                info.family == V6.number and self.hops.extends(known[1], candidate[1])
            ):
                tables.routes[key] = candidate
            else:
                return True
        tables.dirty.add(key)
        tables.dirty_policy |= info.family == 4 and tables.is_loose()
        return False

    def _contradicts(self, hop: rt.RouteHop) -> bool:
        """Whether a leg counts as alive on a link that counts as down.  The kernel takes no route
        over such a link, and with the link it removes them without a word (fib_check_nh and
        fib_sync_down_dev, net/ipv4/fib_semantics.c): one of the two is old."""
        alive = not hop.flags & (rt.RTNH_F_DEAD | rt.RTNH_F_LINKDOWN)
        return alive and not self.tables.usable(hop.ifindex)

    def _bind(self, info: rt.RouteInfo) -> None:
        """Note that what is made of a route follows from what its next hop object says now: with
        a later word of the object the routes are dumped again.  Called for each route before
        anything is made of it."""
        if info.nexthop and not self._bound:
            followed = info.table == rt.TABLE_MAIN and not (info.tos or info.mtu)
            followed = followed and not self.hops.ignored(info)
            self._bound = not followed or self.hops.stand_in(info) is None


_NEAR = LINK_LOCAL6[0] << 8
"""The least key of a prefix that is link-local or multicast (IPv6)."""


def _key(info: rt.RouteInfo) -> int:
    return info.prefix << 8 | FAMILIES[info.family].span(info.length)


def _left_out(info: rt.RouteInfo) -> bool:
    """Whether a route says nothing of packets that could be forwarded: what is loopback's; of IPv6
    also what is link-local or multicast, which each link has routes for, and table default, which
    no rule looks up."""
    if info.family == 4:
        return info.table == rt.TABLE_LOCAL and info.prefix >> 24 == 127
    if info.table == rt.TABLE_LOCAL:
        return info.prefix == 1 or info.prefix >> 120 == 0xFF
    near = info.prefix >> 118 == LINK_LOCAL6[0] >> 118 or info.prefix >> 120 == 0xFF
    return near or info.table == rt.TABLE_DEFAULT
