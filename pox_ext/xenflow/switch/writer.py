"""The jobs that write a switch: what a change of a router, or of all, makes of its tables.

Each job computes when it begins, from what is known then.  What leads packets to something is
written after it, and what nothing leads to any more is deleted last.

Called by `switch`, which submits them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from xenflow.model.network import Router
from xenflow.openflow.flow import Flow
from xenflow.routes.router_state import Changes, RouterState, together
from xenflow.switch.aside import Aside, RefusedError
from xenflow.switch.channel import IN_FLIGHT_BYTES, Channel
from xenflow.switch.decisions import Decisions
from xenflow.switch.installed import Batches, Installed
from xenflow.switch.jobs import ROOM, Job, Task
from xenflow.switch.kind import SwitchKind
from xenflow.switch.reading import Reader
from xenflow.switch.routes import BULK, Routes
from xenflow.switch.wanted import Known, Wanted, reason
from xenflow.tables import layout
from xenflow.tables.order import plan
from xenflow.tables.views import affected_hops

log = logging.getLogger("xenflow.writer")

MANY_ROUTES = 256
"""Packets are led to more routes than that once the switch has confirmed that it holds them."""


@dataclass(slots=True)
class Waiting:
    """What a router has changed that is not being written yet, and the job that will."""

    changes: list[Changes]
    task: Task


class Writer:
    """See the module."""

    def __init__(
        self,
        channel: Channel,
        kind: SwitchKind,
        known: Known,
        wanted: Wanted,
        installed: Installed,
        routes: Routes,
        aside: Aside,
        decisions: Decisions,
        reader: Reader,
    ) -> None:
        self._channel = channel
        self._kind = kind
        self._known = known
        self._wanted = wanted
        self._installed = installed
        self._routes = routes
        self._aside = aside
        self._decisions = decisions
        self._reader = reader
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
        self._remake_groups()
        batches = self.plan()
        if batches:
            self._decisions.forget()
        yield from self._installed.write_with_room(batches)

    def plan(self) -> Batches:
        """What is to be written for that: of the flows that may not be there yet, and those that
        are there and not wanted any more."""
        wanted, fresh = self._wanted.flows()
        for kept in self._hops.values():
            for flows in kept.values():
                hop = {flow.key: flow for flow in flows}
                wanted |= hop
                fresh |= hop
        return plan(self._installed.flows, wanted, fresh, self._keeps)

    def _keeps(self, router: int) -> bool:
        """Whether what follows from a router's words is left alone: they are not heard yet, or what
        follows from them now has not been made yet since the switch was read."""
        name = self._routes.name_of(router)
        if name is None or not self._wanted.forwards(name):
            return False
        return self._known.state(name) is None or name not in self._hops

    def _remake_groups(self) -> None:
        """Groups avoid ports without carrier.  Where a change waits they are made with it: their
        legs may not be there yet."""
        for name, kept in list(self._hops.items()):
            router, state = self._wanted.network.routers[name], self._known.state(name)
            if state is None:
                continue
            if name in self.waiting:
                self.waiting[name].changes.append(Changes(nexthops=set(state.legs)))
                continue
            try:
                for group in state.legs.keys() & kept.keys():
                    kept[group] = self._wanted.hop_flows(router, state, group)
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
            del self._installed.flows[flow.key]
        self._routes.take(routes)
        self._channel.fence()
        yield ROOM

    # --- one router ---------------------------------------------------------------------------

    def sync(self, name: str) -> Job:
        """Make the switch hold exactly the router's routes and next hops, from whatever it has."""
        self._trying.add(name)
        try:
            yield from self._sync(name)
        finally:
            self._trying.discard(name)

    def _sync(self, name: str) -> Job:
        router = self._wanted.network.routers[name]
        state = self._known.state(name)
        if state is None or not self._wanted.forwards(name):
            return
        found = self._routes.found.pop(name, {})
        streamed = self._routes.streamed(name)
        if streamed is not None:
            self._aside.check(name)
        self._aside.begin(name)
        before = self._channel.written
        self._make_hops(router, state)
        # What leads packets to the routes comes last: on a host that lies on the way of others
        # they would meet an empty table.
        for flows in self._hops[name].values():
            self._installed.add_missing(flows)
        self._channel.fence()
        routes = state.routes4
        if self._kind.routes and not (streamed == len(routes) and not found):
            if found:
                adds = [(k >> 8, k & 255, hop) for k, hop in routes.items() if found.get(k) != hop]
                gone = [(k >> 8, k & 255, 0) for k in found.keys() - routes.keys()]
                yield from self._routes.write(router, adds, gone)
            else:
                items = iter(dict(routes).items())  # as of now; what changes meanwhile comes after
                while part := [(k >> 8, k & 255, hop) for k, hop in islice(items, BULK)]:
                    yield from self._routes.write(router, part, (), ordered=False)
        # Of few routes a refusal is heard soon enough: a late switch is not waited for then.
        if name in self._aside or (len(routes) > MANY_ROUTES and self._channel.written > before):
            yield self._channel.barrier()
            self._aside.check(name)
        if self._aside.restored(name):
            self._wanted.router_changed(name)
        self._decisions.forget(router.id)
        self._write_plan()
        self._channel.fence()
        yield ROOM

    def _write_plan(self) -> None:
        for batch in self.plan():
            for add, flow in batch:
                self._installed.write(add, flow)

    def stream(self, name: str, changes: Changes) -> Job:
        """Routes of a first snapshot, written as they come: nothing is there to be preserved."""
        router = self._wanted.network.routers[name]
        yield from self._routes.write(router, changes.routes4, (), ordered=False)

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
        stale: list[Flow] = []
        if self._kind.asks:
            self._decisions.follow(router.id, state, changes)
        if self._kind.routes:
            # Groups after what may become their legs.
            for hop in sorted(affected_hops(state, changes), key=state.legs.__contains__):
                old = self._hops[name].get(hop, ())
                new = self._wanted.hop_flows(router, state, hop)
                if new:
                    self._hops[name][hop] = new
                else:
                    self._hops[name].pop(hop, None)
                keys = {flow.key for flow in new}
                self._installed.add_missing(new)
                stale += [flow for flow in old if flow.key not in keys]
            yield from self._routes.write(router, changes.routes4, changes.gone4)
        for flow in stale:
            self._installed.write(False, flow)

    def remake_hops(self, name: str) -> Job:
        """The network has changed for a router.  What is there stays until a change that waits has
        led packets elsewhere; groups `small` makes."""
        router, state = self._wanted.network.routers[name], self._known.state(name)
        if state is not None and name not in self._aside:
            kept = self._hops.get(name, {})
            for hop in kept.keys() & state.nexthops.keys() - state.legs.keys():
                kept[hop] = self._wanted.hop_flows(router, state, hop)
        yield from self.small()

    def _make_hops(self, router: Router, state: RouterState) -> None:
        self._hops[router.name] = (
            {hop: self._wanted.hop_flows(router, state, hop) for hop in state.nexthops}
            if self._kind.routes
            else {}
        )

    def forget(self, router: Router) -> Job:
        """Remove a router's routes and next hops."""
        if self._wanted.forwards(router.name):
            return
        self._routes.found.pop(router.name, None)
        self._hops.pop(router.name, None)
        if self._kind.nicira:
            self._write_plan()
            yield from self._routes.delete_all(router)

    # --- a router that is set aside -----------------------------------------------------------

    def failed(self, name: str, error: Exception) -> Job:
        """A job of a router has failed: that router is set aside, and no more."""
        if name not in self._wanted.network.routers:
            return
        refused = isinstance(error, RefusedError)
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
            self._aside.try_later(name)
            return
        if self._kind.routes:
            self._routes.found.pop(name, None)
            number = self._wanted.network.routers[name].id
            yield from self._reader.routes_of(number, self._routes.take)
        self._channel.narrow()
        yield from self.sync(name)
