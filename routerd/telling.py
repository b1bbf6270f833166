"""What is told of the kernel: the router's state, and in proportion to a change what is another.

`Telling` derives it from the `KernelTables` and the `KernelNextHops`, and clears what is noted
there as changed.  The policy says whether the main table decides at all: if not, it says why, and
everything goes through the VM.

Called by `kernel_view`.  Nothing here does I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from routerd import rtnetlink as rt
from routerd.kernel_tables import KernelTables
from routerd.next_hops import WITHOUT_HOP, KernelNextHops
from xenflow.routes.family import V4, V6
from xenflow.routes.messages import (
    MAX_REMARKS,
    Leg,
    Neighbour,
    NextHop,
    NextHopType,
    Op,
    Policy,
    Remark,
    Route,
    Section,
    SectionKind,
)
from xenflow.routes.router_state import NeighbourKey, RouterState, route_sections

DEFAULT_RULES = {
    4: {(0, rt.TABLE_LOCAL), (32766, rt.TABLE_MAIN), (32767, rt.TABLE_DEFAULT)},
    6: {(0, rt.TABLE_LOCAL), (32766, rt.TABLE_MAIN)},
}
"""(priority, table) of each family's rules, as long as nobody changes them."""
_IP_RULE = {4: "ip rule", 6: "ip -6 rule"}


class Telling:
    """See the module."""

    def __init__(self, tables: KernelTables, hops: KernelNextHops) -> None:
        self._tables = tables
        self._hops = hops

    def state(self) -> RouterState:
        """The router's state, from everything that is known."""
        routes = {key: cand[1] for key, cand in self._tables.routes.items() if cand[1]}
        interfaces = {i.ifindex: i for i in self._tables.interfaces()}
        used = set(routes.values())
        legs = {id_: kept for id_ in used if (kept := self._hops.legs(id_))}
        used.update(leg.leg for kept in legs.values() for leg in kept.values())
        nexthops = {id_: self._hops.nexthop(id_) for id_ in used}
        self._tables.dirty.clear()
        self._tables.dirty_neighbours.clear()
        self._tables.dirty_policy = False
        kept_ids = used | {cand[1] for rivals in self._tables.rivals.values() for cand in rivals}
        for id_ in kept_ids - {0}:
            kept_ids.update(leg.leg for leg in self._hops.legs(id_).values())
        self._hops.ids.keep(kept_ids)
        near, own = self._neighbours_on(nexthops.values()), dict(self._tables.locals)
        policy = self.policy()
        state = RouterState.of(interfaces, own, nexthops, legs, near, routes, policy)
        state.capacity = self._tables.capacity
        # Without all local prefixes, or all routes, a switch would not decide as the kernel does.
        excess = state.excess()
        return self.through_vm(excess) if excess else state

    def through_vm(self, reason: str) -> RouterState:
        """What is told where nothing else can be: everything passes through the VM."""
        interfaces = {i.ifindex: i for i in self._tables.interfaces()}
        policy = Policy(True, reason, (), True, reason)
        return RouterState.of(interfaces, {}, {}, {}, {}, {}, policy)

    def sections(self, told: RouterState) -> list[Section]:
        """What to tell to one who knows `told`, after changes of single routes, neighbours and
        of the policy only; the same as `told.sections_to(self.state())`, but in proportion to
        the change."""
        sections = self.link_sections(told) if self._tables.dirty_policy else []
        routes, gone, balance = self._route_changes(told)
        fresh, dead = self._nexthop_changes(told, balance)
        types = {self._hops.type(id_) for id_ in fresh} | {told.nexthops[id_].type for id_ in dead}
        if NextHopType.CONNECTED in types or self._grows(told, fresh, len(routes)):
            return told.sections_to(self.state())
        moved, neighbours, lost = self._neighbour_changes(told, dead)
        self._tables.dirty.clear()
        self._tables.dirty_neighbours.clear()
        hops = [self._hops.nexthop(id_) for id_ in fresh + moved]
        legs = [leg for id_ in fresh for leg in self._hops.legs(id_).values()]
        sections += [
            Section(SectionKind.NEXTHOP, Op.SET, hops),
            Section(SectionKind.LEG, Op.SET, legs),
            Section(SectionKind.NEIGHBOUR, Op.SET, neighbours),
            *route_sections(Op.SET, routes),
            *route_sections(Op.DELETE, gone),
            Section(SectionKind.NEXTHOP, Op.DELETE, [told.nexthops[id_] for id_ in dead]),
            Section(SectionKind.NEIGHBOUR, Op.DELETE, lost),
        ]
        return [section for section in sections if section.records]

    def _grows(self, told: RouterState, fresh: list[int], routes: int) -> bool:
        """Whether there may be more than the capacity after a change, or was before it."""
        capacity = self._tables.capacity
        legs = sum(len(self._hops.legs(id_)) for id_ in fresh)
        return (
            len(told.nexthops) + len(fresh) > capacity.nexthops
            or (legs > 0 and told.leg_uses.total() + legs > capacity.all_legs)
            or len(told.routes) + routes > capacity.routes
            or bool(self._tables.routes and not told.routes)
        )

    def _route_changes(self, told: RouterState) -> tuple[list[Route], list[Route], Counter[int]]:
        routes, gone = [], []
        balance: Counter[int] = Counter()
        for key in self._tables.dirty:
            now = self._tables.routes.get(key, (0, 0))[1]
            was = told.routes.get(key, 0)
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
        legs = Counter(leg.leg for id_ in fresh for leg in self._hops.legs(id_).values())
        fresh = [id_ for id_ in legs if id_ not in told.nexthops and id_ not in fresh] + fresh
        fresh.sort(key=lambda id_: self._hops.type(id_) == NextHopType.GROUP)
        legs.subtract(leg.leg for id_ in dead for leg in told.legs.get(id_, {}).values())
        dead = [id_ for id_ in dead if legs[id_] <= 0] + [
            id_
            for id_, n in legs.items()
            if n < 0 and told.leg_uses[id_] + n == 0 and told.uses[id_] + balance[id_] == 0
        ]
        return fresh, sorted(set(dead), key=lambda id_: (id_ not in told.legs, id_))

    def _neighbour_changes(
        self, told: RouterState, dead: list[int]
    ) -> tuple[list[int], list[Neighbour], list[Neighbour]]:
        """(next hops whose MAC changed, neighbours to set, neighbours to delete)."""
        dirty, most = self._tables.dirty_neighbours, self._tables.capacity.neighbours
        if not dirty:
            return [], [], []
        moved = [
            hop.id
            for hop in told.nexthops.values()
            if (hop.type is NextHopType.VIA and hop.id not in dead)
            and (key := (hop.ifindex, hop.family, hop.gateway)) in dirty
            and hop.mac != self._tables.mac(key)
        ]
        neighbours: list[Neighbour] = []
        lost: list[Neighbour] = []
        connected = connected_links(told.nexthops.values())
        for key in dirty:
            ifindex, family, address = key
            mac = self._tables.mac(key)
            if (ifindex, family) in connected:
                known = told.neighbours.get(key)
                if mac and known is None and len(told.neighbours) + len(neighbours) >= most:
                    self._tables.note(f"neighbours over {most}")
                elif mac and (known is None or known.mac != mac):
                    neighbours.append(Neighbour(ifindex, family, True, address, mac))
                elif not mac and known is not None:
                    lost.append(known)
        return moved, neighbours, lost

    def link_sections(self, told: RouterState) -> list[Section]:
        """What to tell of interfaces that are new or changed, and of the policy."""
        self._tables.dirty_policy = False
        policy = self.policy()
        changed = [i for i in self._tables.interfaces() if told.interfaces.get(i.ifindex) != i]
        sections = [
            Section(SectionKind.POLICY, Op.SET, [policy] if policy != told.policy else []),
            Section(SectionKind.INTERFACE, Op.SET, changed),
        ]
        return [section for section in sections if section.records]

    def object_sections(self, told: RouterState) -> tuple[list[Section], bool]:
        """What to tell first when next hop objects or links have changed, in proportion to the
        number of next hops; and whether there are objects that are gone or have become something
        of another type: they are left as told, and the routes must be dumped."""
        unclear = False
        hops: list[NextHop] = []
        legs: list[Leg] = []
        dropped: list[Leg] = []
        uses: Counter[int] = Counter()
        for id_ in told.nexthops.keys() & self._hops.ids.objects():
            kind = self._hops.ids.spec(id_)[-1]
            if self._hops.meaning(id_)[0] != kind:
                unclear = True
                continue
            if kind != NextHopType.GROUP:
                hops.append(self._hops.nexthop(id_))
                continue
            old, new = told.legs.get(id_, {}), self._hops.legs(id_)
            uses.update(leg.leg for leg in new.values())
            uses.subtract(leg.leg for leg in old.values())
            legs += [leg for index, leg in new.items() if old.get(index) != leg]
            dropped += [leg for index, leg in old.items() if index not in new]
        hops += [self._hops.nexthop(leg.leg) for leg in legs]
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

    def _neighbours_on(self, hops: Iterable[NextHop]) -> dict[NeighbourKey, Neighbour]:
        links = connected_links(hops)
        found = {
            key: Neighbour(key[0], key[1], True, key[2], mac)
            for key in self._tables.neighbours.keys() | self._tables.kept.keys()
            if key[:2] in links and (mac := self._tables.mac(key))
        }
        most = self._tables.capacity.neighbours
        if len(found) > most:
            self._tables.note(f"neighbours over {most}")
            return dict(islice(found.items(), most))
        return found

    def policy(self) -> Policy:
        """Whether something beside a family's main table decides, and what; and what is amiss."""
        four, six = (list(dict.fromkeys(self._reasons(family))) for family in (4, 6))
        remarks = [Remark(True, words) for words in self._tables.faults]
        more = dict.fromkeys([*four[1:], *(words for words in six[1:] if words not in four)])
        remarks += [Remark(False, words) for words in (*more, *sorted(self._tables.too_many))]
        said = tuple(remarks[: MAX_REMARKS - 1])  # what is said of IPv6 counts as one
        return Policy(bool(four), (four or [""])[0], said, bool(six), (six or [""])[0])

    def _reasons(self, family: int) -> Iterator[str]:
        tables = self._tables
        if family == V6.number and not tables.forwards6():
            yield "IPv6 forwarding is off"
            return
        rules, default = tables.rules[family], DEFAULT_RULES[family]
        plain = {(rule.priority, rule.table) for rule in rules if rule.plain}
        for rule in sorted(rules, key=lambda rule: rule.priority):
            if not rule.plain or (rule.priority, rule.table) not in default:
                yield f"{_IP_RULE[family]} {rule.priority} is not a default one"
        for priority, table in sorted(default - plain):
            if table != rt.TABLE_DEFAULT:
                yield f"{_IP_RULE[family]} {priority} (lookup table {table}) is missing"
        if family == 4 and tables.default_table:
            yield "table default has routes"
        if family == 4 and tables.tos_routes:
            yield "a route depends on the TOS"
        if family == V6.number and tables.source_routes:
            yield "an IPv6 route depends on the source"
        for link in tables.data_links():
            if link.flags & rt.IFF_UP and link.mac:
                yield from self._link_reasons(link)
                yield from self._link_reasons4(link) if family == 4 else self._link_reasons6(link)
        for reason in tables.outside:
            if reason.family in (0, family):
                yield reason.words

    def _link_reasons(self, link: rt.LinkInfo) -> Iterator[str]:
        if link.master:
            master = self._tables.links.get(link.master)
            yield f"{link.name} is enslaved to {master.name if master else link.master}"
        if link.xdp:
            yield f"{link.name} has an XDP program"

    def _link_reasons6(self, link: rt.LinkInfo) -> Iterator[str]:
        """A host's interface forwards packets as any other, but it may follow redirects, which no
        dump shows (rt6_do_redirect, net/ipv6/route.c)."""
        conf = self._tables.netconf[6].get(link.ifindex)
        if conf is not None and not conf.forwarding:
            yield f"{link.name} may follow redirects (its IPv6 forwarding is off)"

    def _link_reasons4(self, link: rt.LinkInfo) -> Iterator[str]:
        conf = self._tables.netconf[4].get(link.ifindex)
        if conf is None:
            return
        if not conf.forwarding:
            yield f"IPv4 forwarding is off on {link.name}"
        check = self._tables.setting(link.ifindex, "rp_filter")
        if check == 1:
            yield f"rp_filter is strict on {link.name}"
        elif check == 2 and not self._reaches_every_source():
            yield f"rp_filter is loose on {link.name}, and not every source has a route"

    def _reaches_every_source(self) -> bool:
        """Whether a loose filter passes every source: a default route, and no route under it that
        is none (net/ipv4/fib_frontend.c, __fib_validate_source)."""
        routes = self._tables.routes
        if not routes.get(0, (0, 0))[1]:
            return False
        without = self._hops.ids.of_types((*WITHOUT_HOP.values(), NextHopType.VM))
        return not without or not any(
            c[1] in without and key & 0xFF <= V4.host for key, c in routes.items()
        )


def connected_links(nexthops: Iterable[NextHop]) -> set[tuple[int, int]]:
    """The (ifindex, family) where destinations themselves are neighbours."""
    return {(hop.ifindex, hop.family) for hop in nexthops if hop.type is NextHopType.CONNECTED}
