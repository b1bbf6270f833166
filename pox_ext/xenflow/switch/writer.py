"""The jobs that write a switch: what a change of a router, or of all, makes of its tables.

Each job computes when it begins, from what is known then.  What leads packets to something is
written after it, and what nothing leads to any more is deleted last.

Called by `switch`, which submits them.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import filterfalse, islice
from typing import Any

from xenflow.model.network import Router
from xenflow.openflow.flow import Flow
from xenflow.routes.router_state import Changes, RouterState, together
from xenflow.switch.aside import Aside, FlowsRefusedError
from xenflow.switch.channel import IN_FLIGHT_BYTES, Channel
from xenflow.switch.decisions import Decisions
from xenflow.switch.installed import PIECE, Batches, Installed
from xenflow.switch.jobs import ROOM, Awaited, Job, QueuedJob
from xenflow.switch.kind import SwitchKind
from xenflow.switch.reading import FlowReader
from xenflow.switch.routes import BULK, RouteWriter
from xenflow.switch.wanted import Known, WantedFlows, reason
from xenflow.tables import layout
from xenflow.tables.order import FlowChanges, in_pieces
from xenflow.tables.views import Cards, affected_hops

log = logging.getLogger("xenflow.writer")

LOOKED_AT = 2048
"""Of many flows so many are compared before others have their turn."""
MANY_ROUTES = 256
"""Packets are led to more routes than that once the switch has confirmed that it holds them."""


@dataclass(slots=True)
class Waiting:
    """What a router has changed that is not being written yet, and the job that will."""

    changes: list[Changes]
    task: QueuedJob


@dataclass(eq=False, repr=False)
class Writer:
    """See the module."""

    _channel: Channel
    _kind: SwitchKind
    _known: Known
    _wanted: WantedFlows
    _installed: Installed
    _routes: RouteWriter
    _aside: Aside
    _decisions: Decisions
    _reader: FlowReader

    def __post_init__(self) -> None:
        self._hops: dict[str, dict[int, tuple[Flow, ...]]] = {}
        """The flows of each router's next hops: what its routes in the switch may lead to."""
        self.waiting: dict[str, Waiting] = {}
        """By router: an update that has not begun."""
        self._trying: set[str] = set()
        """Routers all of whose routes are being written."""

    def clear(self) -> None:
        """What the switch holds is not known."""
        self._hops = {}
        self.waiting.clear()

    def forget_router(self, router: str) -> None:
        """A router is gone."""
        self._hops.pop(router, None)
        self.waiting.pop(router, None)

    # --- the small tables ---------------------------------------------------------------------

    def small(self) -> Job:
        """Let the small tables be as they shall be."""
        yield from self._remake_groups()
        batches = yield from self.plan()
        if batches:
            self._decisions.exact.forget()
        yield from self._installed.write_with_room(batches)

    def plan(self) -> Generator[Awaited, Any, Batches]:
        """What is to be written for that: of the flows that may not be there yet, and those that
        are there and not wanted any more."""
        try:
            return (yield from self._plan())
        except Exception:
            if not self._wanted.find_odd_views():
                raise
            return (yield from self._plan())

    def _plan(self) -> Generator[Awaited, Any, Batches]:
        """The same where all routers' words make flows.

        Those `in_pieces` are looked at first, in pieces.  All others are looked at once, as they
        are in the end: some are written beside all jobs.
        """
        many = yield from self._wanted.compile_in_pieces()
        many += [flow for hops in self._hops.values() for flow in _flows(hops)]
        changes, installed = FlowChanges(), dict(self._installed.flows)
        wanted_there: set[int] = set()
        """By identity: the garbage collector would walk all of so many keys."""
        others: list[Flow] = []
        of_routers = self._wanted.local.of_routers
        for piece in _pieces(many):
            wanted = {flow.key: flow for flow in piece}
            changes.add_missing(installed, wanted)
            wanted_there.update(map(id, map(installed.get, wanted)))
            if len(piece) == LOOKED_AT:
                yield ROOM
        for piece in _pieces(list(installed.values())):
            left = (flow for flow in piece if id(flow) not in wanted_there)
            changes.delete_left(filter(in_pieces, left), of_routers, self._keeps)
            others += filterfalse(in_pieces, piece)
            if len(piece) == LOOKED_AT:
                yield ROOM
        wanted, fresh = self._wanted.flows()
        changes.add_missing(self._installed.flows, fresh)
        changes.delete_left(others, wanted, self._keeps)
        return changes.batches()

    def _keeps(self, router: int) -> bool:
        """Whether what follows from a router's words is left alone: they are not heard yet, or what
        follows from them now has not been made yet since the switch was read."""
        name = self._routes.name_of(router)
        if name is None or not self._wanted.forwards(name):
            return False
        return self._known.state(name) is None or name not in self._hops

    def _remake_groups(self) -> Job:
        """Groups avoid ports without carrier.  Where a change waits they are made with it: their
        legs may not be there yet."""
        for name, kept in list(self._hops.items()):
            router, state = self._wanted.network.routers.get(name), self._known.state(name)
            if router is None or state is None:
                continue
            try:
                made = {}
                if name not in self.waiting:
                    made = yield from self._compile(router, state, state.legs.keys() & kept.keys())
                if name in self.waiting:
                    self.waiting[name].changes.append(Changes(nexthops=set(state.legs)))
                elif self._hops.get(name) is kept:
                    kept.update(made)
            except Exception as error:
                self._put_aside(name, reason(error), False)

    def write_vm(self, links: Iterable[str]) -> bool:
        """Let table VM be as it shall be for some links at once, whatever jobs wait.  True where
        there is one."""
        described = [self._wanted.network.links[name] for name in links]

        def compiled() -> list[Flow]:
            site = self._wanted.site()
            return [flow for link in described for flow in self._kind.vm_flows(site, link)]

        try:
            flows = compiled()
        except Exception:  # a router's words that no job has compiled yet
            self._wanted.find_odd_views()
            flows = compiled()
        self._installed.add_missing(flows)
        self._channel.fence()
        return bool(flows)

    def adopt(self, flows: Sequence[Flow]) -> Job:
        """Write flows that were read from another switch."""
        for flow in flows:
            self._installed.write(True, flow)
        routes = [flow for flow in flows if flow.table == layout.ROUTES]
        for flow in routes:
            self._installed.flows.pop(flow.key, None)  # it may be given twice
        self._routes.take(routes)
        self._channel.fence()
        yield ROOM

    # --- one router ---------------------------------------------------------------------------

    def sync(self, name: str) -> Job:
        """The job after which the switch follows what a router says."""
        self._routes.synced.add(name)
        return self._sync(name)

    def _sync(self, name: str) -> Job:
        """Make the switch hold exactly the router's routes and next hops, from whatever it has."""
        self._trying.add(name)
        try:
            router = self._wanted.network.routers[name]
            yield from self._read_unsure(router)
            state = self._known.state(name)
            if state is not None and self._wanted.forwards(name):
                yield from self._write_all(router, state)
        finally:
            self._trying.discard(name)

    def _read_unsure(self, router: Router) -> Job:
        """Read which of its routes the switch holds, where that is not known."""
        wanted = self._kind.routes and self._wanted.forwards(router.name)
        if wanted and router.id in self._routes.unsure:
            self._routes.streamed(router.name)
            self._routes.found.pop(router.name, None)
            yield from self._reader.routes_of(router.id, self._routes.take)
            self._routes.unsure.discard(router.id)

    def _write_all(self, router: Router, state: RouterState) -> Job:
        """Write next hops, then routes, then what leads packets to them: on a host that lies on the
        way of others they would meet an empty table."""
        name = router.name
        found, streamed = self._routes.found.pop(name, {}), self._routes.streamed(name)
        if streamed is not None:
            self._aside.check(name)
        self._aside.begin(name)
        before, many = self._channel.written, len(state.routes) > MANY_ROUTES
        differs = self._kind.routes and (bool(found) or streamed != len(state.routes))
        # As of now: what changes while next hops are compiled comes after.
        routes = dict(state.routes) if differs else {}
        hops = state.nexthops if self._kind.routes else ()
        self._hops[name] = yield from self._compile(router, state, hops)
        yield from self._installed.add(_flows(self._hops[name]))
        self._channel.fence()
        if differs:
            yield from self._write_routes(router, routes, found)
        # Of few routes a refusal is heard soon enough: a late switch is not waited for then.
        if name in self._aside or (many and self._channel.written > before):
            yield self._channel.barrier()
            self._aside.check(name)
        if self._aside.restored(name):
            self._wanted.router_changed(name)
        self._decisions.exact.forget(router.id)
        yield from self._installed.write_with_room((yield from self.plan()))
        self._channel.fence()
        yield ROOM

    def _write_routes(
        self, router: Router, routes: Mapping[int, int], found: Mapping[int, int]
    ) -> Job:
        """Let table ROUTES have these of a router, where it was found with those."""
        if found:
            adds = [(k >> 8, k & 255, hop) for k, hop in routes.items() if found.get(k) != hop]
            gone = [(k >> 8, k & 255, 0) for k in found.keys() - routes.keys()]
            yield from self._routes.write(router, adds, gone)
            return
        items = iter(routes.items())
        while part := [(k >> 8, k & 255, hop) for k, hop in islice(items, BULK)]:
            yield from self._routes.write(router, part, (), ordered=False)

    def stream(self, name: str, changes: Changes) -> Job:
        """Routes of a first snapshot, written as they come: nothing is there to be preserved."""
        router = self._wanted.network.routers[name]
        yield from self._routes.write(router, changes.routes, (), ordered=False)

    def update(self, name: str) -> Job:
        """All that a router has changed until now, as one change: what it needs first, then routes,
        then what nothing leads to any more."""
        if self._kind.routes and self._channel.in_flight_bytes >= IN_FLIGHT_BYTES:
            yield ROOM
        waiting = self.waiting.pop(name, None)
        if waiting is None:
            return
        changes = together(waiting.changes)
        router = self._wanted.network.routers[name]
        state = self._known.state(name)
        if state is None or name not in self._hops or name in self._aside:
            return
        if self._kind.asks:
            self._decisions.exact.follow(router.id, state, changes)
        if not self._kind.routes:
            return
        # Groups after what may become their legs.
        hops = sorted(affected_hops(state, changes), key=state.legs.__contains__)
        new, kept = (yield from self._compile(router, state, hops)), self._hops[name]
        if name in self._aside:
            return
        old = {hop: kept.get(hop, ()) for hop in new}
        kept.update(new)
        for hop, flows in new.items():
            if not flows:
                del kept[hop]
        yield from self._installed.add(_flows(new))
        yield from self._routes.write(router, changes.routes, changes.gone)
        yield from self._delete_left(old, new)

    def _delete_left(
        self, old: Mapping[int, tuple[Flow, ...]], new: Mapping[int, tuple[Flow, ...]]
    ) -> Job:
        """Delete those flows of next hops that these have not any more."""
        looked_at = 0
        for hop, flows in old.items():
            keys = {flow.key for flow in new.get(hop, ())}
            for flow in flows:
                if flow.key not in keys:
                    self._installed.write(False, flow)
                looked_at += 1
                if looked_at % PIECE == 0:
                    yield ROOM

    def remake_hops(self, name: str) -> Job:
        """The network has changed for a router.  What is there stays until a change that waits has
        led packets elsewhere; groups `small` makes."""
        router, state = self._wanted.network.routers[name], self._known.state(name)
        if name in self._aside:  # maybe because it changed while this was made of the one before
            yield from self.renew(name)
        elif state is not None:
            kept = self._hops.get(name, {})
            flat = kept.keys() & state.nexthops.keys() - state.legs.keys()
            kept.update((yield from self._compile(router, state, flat)))
        yield from self.small()

    def _compile(
        self, router: Router, state: RouterState, hops: Iterable[int]
    ) -> Generator[Awaited, Any, dict[int, tuple[Flow, ...]]]:
        """The flows of next hops, none of those that are no more.  All are of the state as it is
        now, whatever the router says while others have their turn."""
        made: dict[int, tuple[Flow, ...]] = {}
        hops = list(hops)
        if not hops:
            return made
        cards, count = Cards(router, state), 0
        for hop in hops:
            flows: list[Flow] = []
            for flow in self._wanted.hop_flows(router, state, hop, cards):
                flows.append(flow)
                count += 1
                if count % PIECE == 0:
                    if count == PIECE:
                        state = state.without_routes()
                        cards = Cards(router, state)
                    yield ROOM
            made[hop] = tuple(flows)
        return made

    def forget(self, router: Router) -> Job:
        """Remove a router's routes and next hops.  Where it is here again, under its id, `sync`
        reads what is there; under another one what the old one has goes."""
        here_again = self._wanted.forwards(router.name)
        if here_again and self._wanted.network.routers[router.name].id == router.id:
            return
        if not here_again:
            self._routes.found.pop(router.name, None)
            yield from self._delete_left(self._hops.pop(router.name, {}), {})
        if self._kind.nicira:
            yield from self._installed.write_with_room((yield from self.plan()))
            count = yield from self._reader.count_routes(router.id)
            yield from self._routes.delete_all(router, count)
        self._routes.unsure.discard(router.id)

    # --- a router that is set aside -----------------------------------------------------------

    def failed(self, name: str, error: Exception) -> Job:
        """A job of a router has failed: that router is set aside, and no more."""
        if name not in self._wanted.network.routers or not self._wanted.forwards(name):
            return
        refused = isinstance(error, FlowsRefusedError)
        new = self._put_aside(name, str(error) if refused else reason(error), refused)
        if new and not refused:
            log.error("%s: %s: a job failed", self._channel.name, name, exc_info=error)
        yield from self.small()

    def refused(self, name: str, words: str) -> bool:
        """The switch has refused a flow of a router.  True where the router is set aside for it,
        and the small tables have to follow."""
        if name in self._trying or self._routes.streaming(name):
            self._aside.refuse(name, words)
            return False
        if name not in self._routes.synced or name in self._aside:
            return False
        self._put_aside(name, words, True)
        return True

    def _put_aside(self, name: str, words: str, refused: bool) -> bool:
        self._hops[name] = {}
        self._wanted.router_changed(name)
        self._decisions.outdated()
        return self._aside.put(name, words, refused)

    def renew(self, name: str) -> Job:
        """Try with a router that is set aside.  What the switch holds of its routes is read first:
        some were refused, or some are no more."""
        if name not in self._aside:
            return
        if self._aside.refused(name) and not (yield from self._aside.has_room()):
            if name in self._aside:
                self._aside.try_later(name)
            return
        if name not in self._aside:  # it has left meanwhile
            return
        self._routes.unsure.add(self._wanted.network.routers[name].id)
        self._channel.narrow()
        yield from self._sync(name)


def _flows(hops: Mapping[int, tuple[Flow, ...]]) -> Iterator[Flow]:
    return (flow for flows in hops.values() for flow in flows)


def _pieces(flows: list[Flow]) -> Iterator[list[Flow]]:
    return (flows[start : start + LOOKED_AT] for start in range(0, len(flows), LOOKED_AT))
