"""What is known of one virtual router: its interfaces, next hops, neighbours and routes.

`routerd` keeps one as what it has told, the Rule Table one as what it was told; an export and a
mirror are one more.  A `RouterState` changes by `apply`, which takes the sections of a message
as one change: either all of them are applied, or `MessageError` is raised and nothing is.
References always hold: a route or a leg has its next hop, an id in use is never deleted.

Routes are plain integers in one dictionary, `net << 8 | span -> next hop id` (`family` says what a
span is), because there may be a million of them.  Nothing here knows of flows, sockets or time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import Any, TypeVar

from xenflow.routes.family import V6, Family
from xenflow.routes.messages import (
    SNAPSHOT_RECORDS,
    Leg,
    Local,
    MessageError,
    Neighbour,
    NextHop,
    NextHopType,
    Op,
    Policy,
    Route,
    Section,
    SectionKind,
    VmInterface,
)

LocalKey = tuple[int, int, int]
"""(family, prefix length, address)."""
NeighbourKey = tuple[int, int, int]
"""(ifindex, family, address)."""

NO_POLICY = Policy(False, "")


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much one router may have; more is refused.

    What flows are made of counts: a leg becomes up to seven, any next hop three, a neighbour
    one (`tables.next_hops`).
    """

    interfaces: int = 256
    locals: int = 20_000
    nexthops: int = 65_536
    legs: int = 256
    """Of a group."""
    all_legs: int = 32_768
    """Of all groups together."""
    neighbours: int = 65_536
    routes: int = 2_000_000


@dataclass(slots=True)
class Changes:
    """What an update changed; the values themselves are in the `RouterState`.

    `nexthops` holds the groups whose legs changed as well.  `routes` are the routes that are new
    or have another next hop now, `gone` those that are no more, with the next hop they had; a
    prefix is never in both.  For routes that come in bulk the list is the one that was parsed.
    """

    interfaces: set[int] = field(default_factory=set)
    locals: set[LocalKey] = field(default_factory=set)
    nexthops: set[int] = field(default_factory=set)
    neighbours: set[NeighbourKey] = field(default_factory=set)
    routes: Sequence[Route] = ()
    gone: Sequence[Route] = ()
    policy: bool = False

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)


def together(changes: Sequence[Changes]) -> Changes:
    """Changes that followed one another as one."""
    if len(changes) == 1:
        return changes[0]
    both = Changes(policy=any(one.policy for one in changes))
    for name in ("interfaces", "locals", "nexthops", "neighbours"):
        getattr(both, name).update(*(getattr(one, name) for one in changes))
    both.routes, both.gone = _last([(one.routes, one.gone) for one in changes])
    return both


def _last(
    changes: Sequence[tuple[Sequence[Route], Sequence[Route]]],
) -> tuple[list[Route], list[Route]]:
    """The routes that changes, each (added, gone), have left, and those that are gone after all."""
    added: dict[tuple[int, int], Route] = {}
    gone: dict[tuple[int, int], Route] = {}
    for new, old in changes:
        for there, routes, elsewhere in ((added, new, gone), (gone, old, added)):
            for route in routes:
                there[route[:2]] = route
                elsewhere.pop(route[:2], None)
    return list(added.values()), list(gone.values())


class RouterState:
    """The state of one router as of delta `seq` of `epoch`.

    The attributes are for reading; only `apply` and `become` write them.
    """

    def __init__(self, capacity: Capacity | None = None) -> None:
        self.capacity = capacity or Capacity()
        self.epoch = 0
        self.seq = 0
        self.interfaces: dict[int, VmInterface] = {}
        self.locals: dict[LocalKey, Local] = {}
        self.nexthops: dict[int, NextHop] = {}
        self.legs: dict[int, dict[int, Leg]] = {}
        """The legs of each group, by index."""
        self.connected: dict[tuple[int, int], int] = {}
        """The CONNECTED next hop of each (ifindex, family): there is one, or each would lead to
        all neighbours on it.  Replaced, never changed."""
        self.neighbours: dict[NeighbourKey, Neighbour] = {}
        self.routes: dict[int, int] = {}
        self.policy = NO_POLICY
        self.uses: Counter[int] = Counter()
        """How many routes have each next hop; a next hop without routes may be missing."""
        self.leg_uses: Counter[int] = Counter()
        """How many legs of groups each next hop is."""

    @classmethod
    def of(
        cls,
        interfaces: dict[int, VmInterface],
        local: dict[LocalKey, Local],
        nexthops: dict[int, NextHop],
        legs: dict[int, dict[int, Leg]],
        neighbours: dict[NeighbourKey, Neighbour],
        routes: dict[int, int],
        policy: Policy,
    ) -> RouterState:
        """A state made of tables that are known to fit together."""
        state = cls()
        state.interfaces, state.locals, state.policy = interfaces, local, policy
        state.nexthops, state.legs, state.neighbours = nexthops, legs, neighbours
        state.connected = _connected(nexthops)
        state.routes = routes
        state.uses = Counter(routes.values())
        state.leg_uses = Counter(leg.leg for kept in legs.values() for leg in kept.values())
        return state

    def __repr__(self) -> str:
        return (
            f"<RouterState epoch {self.epoch:#x} seq {self.seq}: {len(self.interfaces)} interfaces,"
            f" {len(self.nexthops)} next hops, {len(self.neighbours)} neighbours,"
            f" {len(self.routes)} routes>"
        )

    def apply(self, sections: Iterable[Section]) -> Changes:
        """Apply the sections of one message, in order, as one change.

        Raises MessageError (a reference to what does not exist, deletion of what is in use,
        more than the capacity); the state is then what it was.
        """
        update = _Update(self)
        number = 0
        try:
            for number, section in enumerate(sections, 1):  # noqa: B007
                update.section(section)
            number = 0
            update.check()
        except MessageError as error:
            update.undo()
            where = f"section {number} ({error.where})" if number else error.where
            raise MessageError(error.what, where) from None
        return update.changes()

    def snapshot(self, max_records: int = SNAPSHOT_RECORDS) -> Iterator[list[Section]]:
        """Sections of messages that build this state from nothing, no more than `max_records`
        records a message.  The state must not change while the iterator is in use."""
        room = max_records
        part: list[Section] = []
        for section in self._sections(max_records):
            if len(section.records) > room and part:
                yield part
                room, part = max_records, []
            part.append(section)
            room -= len(section.records)
        if part:
            yield part

    def _sections(self, size: int) -> Iterator[Section]:
        flat = [n for n in self.nexthops.values() if n.type is not NextHopType.GROUP]
        groups = [n for n in self.nexthops.values() if n.type is NextHopType.GROUP]
        legs = [leg for group in self.legs.values() for leg in group.values()]
        for kind, records in (
            (SectionKind.POLICY, [self.policy]),
            (SectionKind.INTERFACE, list(self.interfaces.values())),
            (SectionKind.LOCAL, list(self.locals.values())),
            (SectionKind.NEXTHOP, flat),
            (SectionKind.NEXTHOP, groups),
            (SectionKind.LEG, legs),
            (SectionKind.NEIGHBOUR, list(self.neighbours.values())),
        ):
            for start in range(0, len(records), size):
                yield Section(kind, Op.SET, records[start : start + size])
        items = iter(self.routes.items())
        while part := [(key >> 8, key & 255, nh) for key, nh in islice(items, size)]:
            yield from route_sections(Op.SET, part)

    def diff(self, new: RouterState) -> Changes:
        """What changes on the way from this state to `new`."""
        groups = _differing(self.legs, new.legs)
        return Changes(
            interfaces=_differing(self.interfaces, new.interfaces),
            locals=_differing(self.locals, new.locals),
            nexthops=_differing(self.nexthops, new.nexthops) | groups,
            neighbours=_differing(self.neighbours, new.neighbours),
            routes=_added(self.routes, new.routes),
            gone=_gone(self.routes, new.routes),
            policy=self.policy != new.policy,
        )

    def excess(self, groups: Iterable[int] | None = None) -> str:
        """Which limit of its capacity the state exceeds, in words; "" where none.  `groups`: of all
        groups these alone may have too many legs."""
        limits = self.capacity
        looked_at = self.legs if groups is None else groups
        most_legs = max((len(self.legs.get(group, ())) for group in looked_at), default=0)
        all_legs = self.leg_uses.total() if most_legs else 0
        for what, count, limit in (
            ("interfaces", len(self.interfaces), limits.interfaces),
            ("local prefixes", len(self.locals), limits.locals),
            ("next hops", len(self.nexthops), limits.nexthops),
            ("legs of a group", most_legs, limits.legs),
            ("legs of all groups", all_legs, limits.all_legs),
            ("neighbours", len(self.neighbours), limits.neighbours),
            ("routes", len(self.routes), limits.routes),
        ):
            if count > limit:
                return f"more than {limit} {what}"
        return ""

    def same(self, other: RouterState) -> bool:
        """Whether both hold the same records, whatever their epoch and number."""
        return not self.diff(other)

    def sections_to(self, new: RouterState) -> list[Section]:
        """The sections of one message that turns this state into `new`: what routes need comes
        first, then the routes, and what is not needed any more goes last."""
        changes = self.diff(new)
        sections = [
            Section(SectionKind.POLICY, Op.SET, [new.policy] if changes.policy else []),
            _present(SectionKind.INTERFACE, changes.interfaces, new.interfaces),
            _present(SectionKind.LOCAL, changes.locals, new.locals),
        ]
        nexthops = [new.nexthops[i] for i in sorted(changes.nexthops) if i in new.nexthops]
        nexthops.sort(key=lambda n: n.type is NextHopType.GROUP)
        old_legs = _legs_of(self, changes.nexthops)
        new_legs = _legs_of(new, changes.nexthops)
        legs = [leg for key, leg in new_legs.items() if old_legs.get(key) != leg]
        dead_legs = [
            leg for key, leg in old_legs.items() if key not in new_legs and key[0] in new.nexthops
        ]
        dead = [self.nexthops[i] for i in sorted(changes.nexthops) if i not in new.nexthops]
        dead.sort(key=lambda n: n.type is not NextHopType.GROUP)
        sections += [
            Section(
                SectionKind.NEXTHOP, Op.SET, [n for n in nexthops if self.nexthops.get(n.id) != n]
            ),
            Section(SectionKind.LEG, Op.SET, legs),
            _present(SectionKind.NEIGHBOUR, changes.neighbours, new.neighbours),
            *route_sections(Op.SET, changes.routes),
            *route_sections(Op.DELETE, changes.gone),
            Section(SectionKind.LEG, Op.DELETE, dead_legs),
            Section(SectionKind.NEXTHOP, Op.DELETE, dead),
            _absent(SectionKind.NEIGHBOUR, changes.neighbours, self.neighbours, new.neighbours),
            _absent(SectionKind.LOCAL, changes.locals, self.locals, new.locals),
            _absent(SectionKind.INTERFACE, changes.interfaces, self.interfaces, new.interfaces),
        ]
        return [section for section in sections if section.records]

    def become(self, new: RouterState) -> Changes:
        """Take over everything from `new`, which must not be used afterwards; returns what that
        changed.  The object stays the same, for those who hold on to it."""
        changes = self.diff(new)
        self.take(new)
        return changes

    def take(self, new: RouterState) -> None:
        """The same where nobody asks what changed."""
        vars(self).update({**vars(new), "capacity": self.capacity})

    def longest(self, family: Family, address: int) -> tuple[int, int] | None:
        """Span and next hop of the route that decides for an address, if any."""
        for length in range(family.bits, -1, -1):
            span, rest = family.span(length), family.bits - length
            hop = self.routes.get((address >> rest << rest) << 8 | span)
            if hop is not None:
                return span, hop
        return None

    def copy(self) -> RouterState:
        """The same as of now; the records themselves are shared, since they never change."""
        other = self.without_routes()
        other.routes = dict(self.routes)
        other.uses = self.uses.copy()
        return other

    def without_routes(self) -> RouterState:
        """The same without routes, and without how many have each next hop."""
        other = RouterState(self.capacity)
        other.epoch, other.seq, other.policy = self.epoch, self.seq, self.policy
        other.connected = self.connected
        for name in ("interfaces", "locals", "nexthops", "neighbours"):
            setattr(other, name, dict(getattr(self, name)))
        other.legs = {group: dict(kept) for group, kept in self.legs.items()}
        other.leg_uses = self.leg_uses.copy()
        return other


# ------------------------------------------------------------------------------ differences

K = TypeVar("K")
V = TypeVar("V")


def route_sections(op: Op, routes: Sequence[Route]) -> list[Section]:
    """Routes as the sections of a message, one for each family that there is."""
    kinds = {4: SectionKind.ROUTE4, 6: SectionKind.ROUTE6}
    apart = {4: routes, 6: [route for route in routes if route[1] >= V6.shortest]}
    if apart[6]:
        apart[4] = [route for route in routes if route[1] < V6.shortest]
    return [Section(kinds[number], op, found) for number, found in apart.items() if found]


def _differing(old: dict[K, V], new: dict[K, V]) -> set[K]:
    if old == new:
        return set()
    return {k for k, v in new.items() if old.get(k) != v} | (old.keys() - new.keys())


def _added(old: dict[int, int], new: dict[int, int]) -> list[Route]:
    if not old:
        return [(key >> 8, key & 255, nh) for key, nh in new.items()]
    get = old.get
    return [(key >> 8, key & 255, nh) for key, nh in new.items() if get(key) != nh]


def _gone(old: dict[int, int], new: dict[int, int]) -> list[Route]:
    return [(key >> 8, key & 255, old[key]) for key in old.keys() - new.keys()]


def _present(kind: SectionKind, keys: set[K], new: dict[K, V]) -> Section:
    return Section(kind, Op.SET, [new[key] for key in keys if key in new])


def _absent(kind: SectionKind, keys: set[K], old: dict[K, V], new: dict[K, V]) -> Section:
    return Section(kind, Op.DELETE, [old[key] for key in keys if key in old and key not in new])


def _connected(nexthops: dict[int, NextHop]) -> dict[tuple[int, int], int]:
    """Raises MessageError where one link has two of a family."""
    found: dict[tuple[int, int], int] = {}
    for hop in nexthops.values():
        if hop.type is NextHopType.CONNECTED:
            one = found.setdefault((hop.ifindex, hop.family), hop.id)
            if one != hop.id:
                words = f"next hops {one} and {hop.id} are both all of interface {hop.ifindex}"
                raise MessageError(words, "NEXTHOP")
    return found


def _legs_of(state: RouterState, groups: set[int]) -> dict[tuple[int, int], Leg]:
    return {(g, i): leg for g in groups for i, leg in state.legs.get(g, {}).items()}


# ------------------------------------------------------------------------------ updates

_Undo = tuple[dict[Any, Any], Any, Any]


class _Update:
    """One message on its way into the state, with what it takes to undo it."""

    def __init__(self, state: RouterState) -> None:
        self.state = state
        self._done = Changes()
        self._undo: list[_Undo] = []
        self._counts: list[tuple[Counter[int], int, int]] = []
        self._policy = state.policy
        self._connected = state.connected
        self._relinked = False
        """CONNECTED next hops have come, gone or changed."""
        self._grown: set[int] = set()
        """Groups that have got legs."""
        self._fresh: tuple[Sequence[Route], dict[int, int]] | None = None
        """Routes that are all new, as they came."""
        self._old: dict[int, int | None] = {}
        """What was, by the keys of routes."""

    # What was done

    def changes(self) -> Changes:
        done = self._done
        done.policy = self.state.policy != self._policy
        done.routes, done.gone = self._routes()
        return done

    def _routes(self) -> tuple[Sequence[Route], Sequence[Route]]:
        table, old = self.state.routes, self._old
        if not old:
            return ((), ()) if self._fresh is None else (self._fresh[0], ())
        added, gone = [], []
        for key, was in old.items():
            now = table.get(key)
            if now == was:
                continue
            if now is None:
                gone.append((key >> 8, key & 255, was or 0))
            else:
                added.append((key >> 8, key & 255, now))
        return added, gone

    def undo(self) -> None:
        state = self.state
        self._join_fresh()
        for key, was in self._old.items():
            now = state.routes.pop(key, None)
            if now is not None:
                state.uses[now] -= 1
            if was is not None:
                state.routes[key] = was
                state.uses[was] += 1
        for kept, key, value in reversed(self._undo):
            if value is None:
                kept.pop(key, None)
            else:
                kept[key] = value
        for counter, key, step in self._counts:
            counter[key] -= step
        state.policy, state.connected = self._policy, self._connected

    def check(self) -> None:
        """What holds of the state as a whole.  Raises MessageError."""
        state = self.state
        if self._relinked:
            state.connected = _connected(state.nexthops)
        if excess := state.excess(self._grown):
            raise MessageError(excess, "all sections")

    # Sections

    def section(self, section: Section) -> None:
        put, records = section.op is Op.SET, section.records
        match section.kind:
            case SectionKind.ROUTE4 | SectionKind.ROUTE6 as kind:
                if put:
                    self._set_routes(kind, records)
                else:
                    self._forget_routes(records)
            case SectionKind.NEXTHOP:
                self._nexthops(put, records)
            case SectionKind.LEG:
                self._legs(put, records)
            case SectionKind.POLICY:
                for record in records:
                    self.state.policy = record if put else NO_POLICY
            case kind:
                self._others(*_OTHERS[kind], put, records)

    def _put(self, kept: dict[Any, Any], key: Any, value: Any) -> bool:
        old = kept.get(key)
        if old == value:
            return False
        self._undo.append((kept, key, old))
        kept[key] = value
        return True

    def _drop(self, kept: dict[Any, Any], key: Any) -> bool:
        old = kept.pop(key, None)
        if old is None:
            return False
        self._undo.append((kept, key, old))
        return True

    def _count(self, counter: Counter[int], key: int, step: int) -> None:
        counter[key] += step
        self._counts.append((counter, key, step))

    def _others(
        self, name: str, key_of: Callable[[Any], Any], put: bool, records: Sequence[Any]
    ) -> None:
        kept, done = getattr(self.state, name), getattr(self._done, name)
        for record in records:
            key = key_of(record)
            if self._put(kept, key, record) if put else self._drop(kept, key):
                done.add(key)

    def _nexthops(self, put: bool, records: Sequence[NextHop]) -> None:
        state = self.state
        for record in records:
            key = record.id
            if not put:
                self._forget_nexthop(key)
                continue
            old = state.nexthops.get(key)
            group = NextHopType.GROUP
            if old is not None and (old.type is group) is not (record.type is group):
                raise MessageError(f"next hop {key} cannot turn into or from a group", "NEXTHOP")
            if self._put(state.nexthops, key, record):
                self._done.nexthops.add(key)
                kinds = record.type, record.type if old is None else old.type
                self._relinked |= NextHopType.CONNECTED in kinds

    def _forget_nexthop(self, key: int) -> None:
        state = self.state
        if state.uses[key] or state.leg_uses[key]:
            raise MessageError(f"next hop {key} is in use and cannot be deleted", "NEXTHOP")
        old = state.nexthops.get(key)
        if old is not None and self._drop(state.nexthops, key):
            self._relinked |= old.type is NextHopType.CONNECTED
            state.uses.pop(key, None)
            state.leg_uses.pop(key, None)
            self._done.nexthops.add(key)
            for index in list(state.legs.get(key, ())):
                self._drop_leg(key, index)

    def _legs(self, put: bool, records: Sequence[Leg]) -> None:
        state = self.state
        for record in records:
            group = state.nexthops.get(record.group)
            if group is None or group.type is not NextHopType.GROUP:
                raise MessageError(f"next hop {record.group} is no group", "LEG")
            if not put:
                self._drop_leg(record.group, record.index)
                continue
            leg = state.nexthops.get(record.leg)
            if leg is None or leg.type is NextHopType.GROUP:
                raise MessageError(f"no next hop {record.leg} for group {record.group}", "LEG")
            kept = state.legs.get(record.group)
            if kept is None:
                kept = {}
                self._undo.append((state.legs, record.group, None))
                state.legs[record.group] = kept
            old = kept.get(record.index)
            if self._put(kept, record.index, record):
                self._count(state.leg_uses, record.leg, 1)
                if old is not None:
                    self._count(state.leg_uses, old.leg, -1)
                if old is None:
                    self._grown.add(record.group)
                self._done.nexthops.add(record.group)

    def _drop_leg(self, group: int, index: int) -> None:
        kept = self.state.legs.get(group, {})
        old = kept.get(index)
        if old is not None and self._drop(kept, index):
            self._count(self.state.leg_uses, old.leg, -1)
            self._done.nexthops.add(group)
            if not kept:
                self._drop(self.state.legs, group)

    # Routes: the bulk first

    def _set_routes(self, kind: SectionKind, records: Sequence[Route]) -> None:
        state, table = self.state, self.state.routes
        new = {net << 8 | span: nh for net, span, nh in records}
        unknown = set(new.values()) - state.nexthops.keys()
        if len(new) == len(records) and not self._old and self._fresh is None:
            fresh = new.keys().isdisjoint(table.keys())
        else:
            unknown |= {nh for _, _, nh in records} - state.nexthops.keys()
            fresh = False
        if unknown:
            raise MessageError(f"no next hop {min(unknown)}", kind.name)
        if fresh:
            table.update(new)
            state.uses.update(new.values())
            self._fresh = records, new
            return
        self._join_fresh()
        old, uses = self._old, state.uses
        for key, nh in new.items():
            was = table.get(key)
            old.setdefault(key, was)
            if was is not None:
                uses[was] -= 1
            table[key] = nh
        uses.update(new.values())

    def _forget_routes(self, records: Sequence[Route]) -> None:
        self._join_fresh()
        table, old, uses = self.state.routes, self._old, self.state.uses
        for net, span, _ in records:
            key = net << 8 | span
            was = table.pop(key, None)
            if was is not None:
                uses[was] -= 1
                old.setdefault(key, was)

    def _join_fresh(self) -> None:
        """From the quick record of what was done (all of it new) to the general one."""
        if self._fresh is not None:
            _, new = self._fresh
            self._fresh = None
            self._old.update(dict.fromkeys(new))


_OTHERS: dict[SectionKind, tuple[str, Callable[[Any], Any]]] = {
    SectionKind.INTERFACE: ("interfaces", attrgetter("ifindex")),
    SectionKind.LOCAL: ("locals", attrgetter("family", "length", "address")),
    SectionKind.NEIGHBOUR: ("neighbours", attrgetter("ifindex", "family", "address")),
}
"""What no other record refers to: where it is kept, and by which key."""
