"""One datapath: what it holds, what it shall hold, and its only writer.

The Rule Table says what has changed; a `Switch` turns that into flow messages and writes them in
an order in which no packet that was deliverable, and will be, is lost in between.  Each change is a
job (`jobs`); jobs run one after the other.

After a connection the first job is always `_resync`: read what the switch holds, compare, and
write the difference.  Nothing is ever wiped, and nothing of a router is deleted before its state
is known.

What a router says is compiled, and written, for that router alone.  Where that fails, or where the
switch refuses its routes, the router is *set aside*: its packets pass through its VM, whose kernel
decides, `problems` says so and why, and it is tried again when it has changed or when there may be
room.  The other routers never notice.

Called by `rule_table` and `vm.packets` and, for the switch's messages, by `component`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

from xenflow.model.difference import Difference
from xenflow.model.network import Datapath, Network, Router
from xenflow.model.placement import Mode, Placement, at_home
from xenflow.openflow import build, parse, statistics, wire
from xenflow.openflow.flow import PORT_MAX, Flow, Flows, match, output, resubmit
from xenflow.openflow.statistics import FlowStats
from xenflow.routes.router_state import Changes, RouterState
from xenflow.switch.audit import MONITOR_XID, Audit
from xenflow.switch.channel import (
    IN_FLIGHT_BYTES,
    PACKET_OUT_XID,
    Answer,
    Channel,
    NotAnsweredError,
    Request,
    advance,
)
from xenflow.switch.clock import Clock
from xenflow.switch.decisions import Decisions
from xenflow.switch.jobs import ROOM, Job, Jobs, Task, fence, router_task
from xenflow.switch.kind import kind_of
from xenflow.switch.local_flows import LocalFlows, whose_port
from xenflow.switch.packet_ins import PacketIns
from xenflow.switch.ports import Ports
from xenflow.switch.problems import Problems
from xenflow.switch.promises import Promises
from xenflow.switch.proof import Done, Proof
from xenflow.switch.rules import Rules
from xenflow.tables import cookies, layout
from xenflow.tables.next_hops import next_hop_flows
from xenflow.tables.order import plan, view_dependent
from xenflow.tables.pipeline import Owner, flows_of, of_link, owners_of
from xenflow.tables.route_reading import (
    READ_WHOLE,
    Chunks,
    Count,
    Question,
    Reading,
    chunk_questions,
    reading,
)
from xenflow.tables.routes import ODD, RoutePacker
from xenflow.tables.sent_up import FromVm
from xenflow.tables.site import RouterView, Site
from xenflow.tables.stations import port_of
from xenflow.tables.views import affected_hops, interface_of, next_hop_view

log = logging.getLogger("xenflow.switch")

PACE_S = 0.002
"""Pause between two parts of a large table that is read or deleted."""
COUNT_PACE_S = 0.02
"""Pause after a question for which the switch looked at every flow of a table."""
LOOK_AGAIN_S = 0.05
"""Pause between two looks whether where the routers are is known."""
EXACT_COOKIE = 0xFFFFFFFFFFFFFFFF
BULK = 4 * 1024
_TO_NEXT_HOPS = resubmit(layout.NEXT_HOPS)
HOP_COST = 10
"""So many routes cost as much as a next hop does: it is compiled, and is several flows."""
MANY_ROUTES = 256
"""Packets are led to more routes than that once the switch has confirmed that it holds them."""


TRY_AGAIN_S, TRY_AGAIN_MAX_S = 1.0, 30.0
"""How long a router that was set aside waits for its next try; twice as long each time."""
PROBE_XID = 0xFFFF0002
"""Of the flow that asks whether there is room in table ROUTES."""
COMPILE, VIEW, TABLE, REFUSED = "compile", "view", "table", "refused"
"""Causes of `Problems` entries: what a router says makes no flows, be it about next hops and routes
or about itself; the switch refuses a router's flows, or others."""
LONGEST_REFUSED_S = 10.0
"""Between two tries where the switch refuses flows: it may have room at any time."""
EXACT_REFUSED_S = 10.0
"""For so long it is said that the switch refuses flows of the reactive pipeline."""


THROUGH_VM = "everything passes through its VM"


class RefusedError(RuntimeError):
    """The switch does not take a router's flows; the words say why."""


@dataclass(slots=True)
class Aside:
    """A router that is set aside.  `refused`: the switch does not take all its flows."""

    words: str
    refused: bool
    pause_s: float = TRY_AGAIN_S
    waits: bool = False


class Routers(Protocol):
    """What a switch asks of the Rule Table about the routers."""

    def state(self, router: str) -> RouterState | None:
        """What is known of a router, or None before its snapshot has been complete once."""

    def view(self, router: str) -> RouterView | None:
        """The same as its classes need it."""

    def must_wait(self, holds_flows: bool) -> bool:
        """Whether a switch that holds flows, or none, must not be written to yet, because where
        the routers are is not known."""

    def read_anew(self, switch: Switch) -> None:
        """A switch is being read back: what it holds is not known."""

    def caught_up(self, switch: Switch) -> None:
        """A switch that was read back gives the VMs their packets again."""


class Switch:
    """See the module."""

    def __init__(
        self,
        network: Network,
        datapath: Datapath,
        routers: Routers,
        clock: Clock,
        placements: dict[str, Placement],
        proof: Proof,
    ) -> None:
        self.network = network
        self.datapath = datapath
        self.routers = routers
        self.clock = clock
        self.placements = placements
        self.live = False
        """Whether what the switch holds is known."""
        self.errors = 0
        self.kind = kind_of(datapath)
        self.problems = problems = Problems(datapath.name)
        self.channel = channel = Channel(datapath.name, problems, clock, self._give_up)
        self.jobs = Jobs(
            datapath.name,
            channel,
            problems,
            clock,
            self._resync,
            self._router_failed,
            self._give_up,
        )
        self.promises = Promises(
            datapath.name, channel, self.jobs, clock, proof, self.kind.nudge, lambda: self.live
        )
        self.ports = Ports()
        self.installed: Flows = {}
        self.hops: dict[str, dict[int, tuple[Flow, ...]]] = {}
        self.synced: set[str] = set()
        self.rules = Rules()
        self.audit = Audit(self)
        self.packet_ins = PacketIns(network, self.problems)
        self.edits = 0
        """How often what is believed of the small tables has changed."""
        self.decisions = Decisions(self.kind, channel, self._first_packets)
        self.aside: dict[str, Aside] = {}
        self._odd_views: dict[str, tuple[RouterView, RouterView]] = {}
        """By router: the view that made no flows, and what stands for it."""
        self._sound_views: dict[str, RouterView] = {}
        self._trying: set[str] = set()
        """Routers all of whose routes are being written."""
        self._refusals: dict[str, str] = {}
        """Why the switch has refused flows of one of these."""
        self._no_room = False
        self._found: dict[str, dict[int, int]] = {}
        self._streamed: dict[str, int] = {}
        self._names = {router.id: router.name for router in network.routers.values()}
        self.hushed_until = 0.0
        """Until then (monotonic clock) there may be flows in INGRESS that end by themselves."""
        self._refresh_waits = False
        """Whether a `refresh` is submitted and has not begun."""
        self.local = LocalFlows()
        self.packer = RoutePacker()

    @property
    def name(self) -> str:
        """The datapath's name."""
        return self.datapath.name

    def network_is(self, network: Network, found: Difference) -> None:
        """The network has become another one.  Routers that are new are at home; of those that are
        gone nothing stays; those that have changed are compiled anew."""
        for known in (self.network, network):
            for name in found.dirty_routers:
                self.local.outdated(owners_of(known, name))
        self.local.outdated(map(of_link, found.dirty_links))
        if self.datapath != network.datapaths[self.name]:
            self.local.outdated()
        gone = [self.network.routers[name] for name in found.routers.removed]
        leaving = [r for r in gone if r.name in self.synced or self._found.get(r.name)]
        self.network, self.datapath = network, network.datapaths[self.name]
        self._names = {router.id: router.name for router in network.routers.values()}
        self.packet_ins.network_is(network)
        for router in gone:
            self.placements.pop(router.name, None)
            self.synced.discard(router.name)
            self.hops.pop(router.name, None)
            self.aside.pop(router.name, None)
            self.problems.forget(router.name)
            self.jobs.drop(router.name)
        for name in found.routers.added:
            self.placements[name] = at_home(name, network.routers[name].home)
        self.decisions.outdated()
        if not self.live:
            return
        for name in found.dirty_routers & self.synced:
            self.jobs.submit_of(name, self._remake_hops(name))
        self.refresh()
        for router in leaving:
            self.jobs.submit(self._forget(router))

    def _remake_hops(self, name: str) -> Job:
        if self.routers.state(name) is not None and name not in self.aside:
            self._make_hops(self.network.routers[name])
        yield from self._write_small()

    # --- what happens to it -------------------------------------------------------------------

    def connect(self, connection: Any, ports: Iterable[tuple[str, int, bool]]) -> None:
        """The switch has connected: read it back, then write the difference."""
        self.disconnect()
        self.channel.open(connection, self.kind.greeting)
        self.ports.are(ports)
        self.packet_ins.ports_are(self.ports)
        self.audit.connected()
        self.jobs.submit(self._resync())

    def disconnect(self) -> None:
        """The connection is gone, and with it everything that was on its way."""
        self.installed, self.hops, self._streamed = {}, {}, {}
        self._refresh_waits = False
        self.synced.clear()
        self.aside.clear()
        self._odd_views.clear()
        self._refusals.clear()
        self.live = False
        waiting = self.channel.close()
        self.problems.clear()
        self.jobs.close()
        gone = f"{self.name}: the switch went away"
        self.promises.close(gone)
        for then in waiting:
            then(NotAnsweredError(gone))

    def _give_up(self, reason: str) -> None:
        self.promises.break_all(reason)

    def port_changed(self, name: str, number: int, up: bool, deleted: bool) -> None:
        """A port came, went, or changed its state."""
        before = self.ports.get(name, (0, False))
        if deleted:
            self.ports.pop(name, None)
        else:
            self.ports[name] = (number, up)
        self.packet_ins.ports_are(self.ports)
        if deleted or before[0] != number:
            self.local.outdated(whose_port(self.network, self.name, name))
        self._vifs_changed({name})

    def vifs_are_still(self, vifs: frozenset[str]) -> tuple[set[str], set[str]]:
        """The hypervisor says which vifs take nothing, though they may have carrier.  Returns the
        ports that take frames now and did not, and those that did and do not now."""
        take_now, stopped = self.ports.still_are(vifs)
        if take_now or stopped:
            self._vifs_changed(take_now | stopped)
        return take_now, stopped

    def _vifs_changed(self, names: set[str]) -> None:
        """Table VM follows at once, before jobs that are under way or wait: while a full table
        is written for one router, another's packets must not be lost.  It leads to no other table,
        so that its flows can be replaced at any time."""
        links = {self.network.vif_links[name] for name in names if name in self.network.vif_links}
        if self.live and links:
            self._write_vm(links)
        self.refresh(map(of_link, links))

    def _write_vm(self, links: Iterable[str]) -> bool:
        """True where there is a table VM."""
        described = [self.network.links[name] for name in links]

        def compiled() -> list[Flow]:
            site = self.site()
            return [flow for link in described for flow in self.kind.vm_flows(site, link)]

        try:
            flows = compiled()
        except Exception:  # a router's words that no job has compiled yet
            self._find_odd_views()
            flows = compiled()
        for flow in flows:
            if self.installed.get(flow.key) != flow:
                self._write_flow(True, flow)
        self.channel.fence()
        return bool(flows)

    def hush(self, what: FromVm, session: Mapping[str, int], seconds: int) -> None:
        """Nothing more of a VM's session is sent up for some seconds."""
        if not self.live or what.interface.vif not in self.ports:
            return
        flow = self.kind.quiet(self.site(), what, session, seconds)
        if flow is not None:
            self.hushed_until = max(self.hushed_until, self.clock.now() + seconds + 2.0)
            self.channel.write(self.kind.pack(flow, wire.Command.ADD))
            self.channel.fence()

    def once_told(self, then: Done) -> None:
        """Call `then(None)` once the switch has all that was written, whatever jobs wait; or with
        the reason why that cannot be said."""
        if not self.live:
            then(f"{self.name}: what the switch holds is not known")
            return
        self.channel.confirm(then)

    def changed(self, router: str, changes: Changes, complete: bool, total: int) -> bool:
        """A router's state has changed; it has `total` routes now.  True where everything that
        depends on it is written, so that no `refresh` is needed.

        `complete` is False while its first snapshot streams in, whose routes are written as they
        come where the switch holds none yet.
        """
        self.decisions.outdated()
        if not self.live or not self.forwards(router):
            return False
        if router in self.aside:
            self._try_later(router)
        elif router in self.synced:
            self._submit_change(router, changes, self._update(router, changes))
            if changes.locals or changes.interfaces or changes.policy:
                self.refresh(owners_of(self.network, router))
        elif complete:
            self.local.outdated(owners_of(self.network, router))
            self.synced.add(router)
            self.jobs.submit_of(router, self._sync_router(router))
            return True
        elif not self._found.get(router) and self.kind.routes and changes.routes4:
            streamed = self._streamed.get(router, 0) + len(changes.routes4)
            if streamed == total:  # otherwise some came before this switch did
                self._streamed[router] = streamed
                self._submit_change(router, changes, self._stream(router, changes))
        return False

    @property
    def changing(self) -> list[str]:
        """The routers whose changes are all that is still to be written: for any other router the
        switch is in sync.  Empty where more is to be written, or nothing, or where the switch takes
        nothing."""
        takes_changes = self.live and not self.channel.silence.why
        return self.jobs.concerns if takes_changes and not self.audit.pending else []

    def _submit_change(self, router: str, changes: Changes, job: Job) -> None:
        """What it costs: 1, 1 for each route, HOP_COST for each next hop that it touches."""
        state = self.routers.state(router)
        hops = len(list(affected_hops(state, changes))) if state is not None else 0
        size = 1 + len(changes.routes4) + len(changes.gone4) + HOP_COST * hops
        self.jobs.submit_of(router, job, size)

    def doubt(self, router: str, error: Exception) -> None:
        """Whether this switch was told all of a router's changes is not known: its packets pass
        through its VM until what the switch holds of its routes has been read and put right."""
        if self.live and router in self.synced:
            self.jobs.submit_of(router, _failing(error))

    def placed(self, router: str) -> None:
        """The placement of a router on this switch has changed."""
        self.decisions.outdated()
        self.local.outdated(owners_of(self.network, router))
        if not self.live:
            return
        if not self.forwards(router):
            leaving = router in self.synced or bool(self._found.get(router))
            self.synced.discard(router)
            self._restored(router)
            self.refresh()
            if leaving:
                self.jobs.submit(self._forget(self.network.routers[router]))
        elif router not in self.synced and self.routers.state(router) is not None:
            self.synced.add(router)
            self.jobs.submit_of(router, self._sync_router(router))
        else:
            self.refresh()

    def refresh(self, whose: Iterable[Owner] = ()) -> None:
        """Something has changed that some owners' flows follow from, or a rule, or a port that a
        group may avoid.  One refresh that has not begun is enough: it computes from what is known
        when it begins, and whoever asks for a proof from now on waits behind it."""
        self.decisions.outdated()
        self.local.outdated(whose)
        if self.live and not self._refresh_waits:
            self._refresh_waits = True
            self.jobs.submit(self._refresh())

    def _refresh(self) -> Job:
        self._refresh_waits = False
        yield from self._write_small()

    # --- questions ----------------------------------------------------------------------------

    def concerned_by(self, router: str) -> bool:
        """Whether what a router's VM says may change the small tables: it is here, or comes or
        goes, or they have something that follows from what it once said."""
        placement = self.placements.get(router)
        if placement is not None and self.name in placement.hosts:
            return True
        number = self.network.routers[router].id
        return any(
            cookies.router_of(flow.cookie) == number and view_dependent(flow)
            for flow in self.installed.values()
        )

    def forwards(self, router: str) -> bool:
        """Whether this switch forwards for a router."""
        placement = self.placements.get(router)
        return (
            placement is not None
            and self.name in placement.forwarders
            and placement.mode is Mode.XENFLOW
        )

    def refuses(self, router: str) -> bool:
        """Whether the switch refuses flows of a router, all of whose packets pass through its VM
        therefore."""
        return router in self.aside and self.aside[router].refused

    def vm_of(self, router: str) -> str:
        """Where a router's VM is, as this switch was told last; "" where it was told nothing."""
        placement = self.placements.get(router)
        return placement.vm if placement is not None else ""

    def site(self) -> Site:
        """This switch as the planner sees it."""
        views = _Views(self.network.routers, self._view)
        ports = self.ports
        return Site(
            self.network, self.datapath, ports.numbers, self.placements, views, ports.silent
        )

    def _view(self, router: str) -> RouterView | None:
        """What a router's VM says as far as it makes flows."""
        view = self.routers.view(router)
        if view is None:
            return None
        if router in self._odd_views:
            odd, instead = self._odd_views[router]
            if odd == view:
                return instead
            del self._odd_views[router]
            self.problems.end(VIEW, router)
        aside = self.aside.get(router)
        return replace(view, slow=view.slow or aside.words) if aside is not None else view

    def stats(
        self,
        then: Callable[[list[FlowStats] | NotAnsweredError], None],
        table: int = wire.ALL_TABLES,
        cookie: int = 0,
        mask: int = 0,
        what: Mapping[str, Any] | None = None,
    ) -> None:
        """Read flows with their counters, beside the jobs."""
        self.channel.ask(self._stats_request(table, cookie, mask, match(**(what or {}))), then)

    def show(
        self,
        table: int,
        cookie: int,
        mask: int,
        limit: int,
        then: Callable[[list[FlowStats] | NotAnsweredError, int], None],
    ) -> None:
        """Read flows with their counters, beside the jobs: `then(some, how many there are)`.  All
        of them, where they are few; of many routes no more than `limit`, chunk by chunk, so that
        neither the switch nor the controller stands still meanwhile."""
        reader = self._read_some(table, cookie, mask, limit)

        def go_on(value: Any = None) -> None:
            try:
                awaited = advance(reader, value)
            except StopIteration as end:
                then(*end.value)
                return
            except NotAnsweredError as error:
                then(error, 0)
                return
            if isinstance(awaited, Request):
                self.channel.ask(awaited, go_on)
            else:
                self.clock.later(awaited, go_on)

        go_on()

    def _read_some(
        self, table: int, cookie: int, mask: int, limit: int
    ) -> Generator[Request | float, Any, tuple[list[FlowStats], int]]:
        routes = 0
        if self.kind.nicira and table in (wire.ALL_TABLES, layout.ROUTES):
            xid = self.channel.xid()
            found = yield Request(
                xid, statistics.aggregate_request(layout.ROUTES, cookie, mask, xid=xid)
            )
            routes = found[0].flows if found else 0
        if routes <= READ_WHOLE:
            flows = yield self._stats_request(table, cookie, mask)
            return flows, len(flows)
        some: list[FlowStats] = []
        if table == wire.ALL_TABLES:
            for other in (t for t in range(layout.VM + 1) if t != layout.ROUTES):
                some += yield self._stats_request(other, cookie, mask)
        total = len(some) + routes
        one = cookies.router_of(cookie & mask)
        questions = chunk_questions(one) if one else reading(routes, self._likely())

        def take(flows: list[FlowStats]) -> bool:
            some.extend(flows)
            return len(some) < limit

        yield from self._read(questions, take)
        return some, total

    def arrivals(self, router: Router, then: Callable[[int | NotAnsweredError], None]) -> None:
        """Count the packets that have arrived for a router, as far as the counters know."""

        def arrived(stats: Iterable[FlowStats]) -> int:
            return _packets(s for s in stats if cookies.taken_in(s.flow.cookie) == router.id)

        def give(answer: Answer, count: Callable[[Iterable[FlowStats]], int]) -> None:
            then(answer if isinstance(answer, NotAnsweredError) else count(answer))

        if not self.kind.nicira:
            self.stats(lambda stats: give(stats, arrived))
            return

        def add(admitted: Answer) -> None:
            if isinstance(admitted, NotAnsweredError) or not self.kind.asks:
                give(admitted, _packets)
                return
            total = _packets(admitted)
            own = cookies.of(layout.REACTIVE_KIND, router.id)
            mask = cookies.REACTIVE_MASK | cookies.ROUTER_MASK
            self.stats(
                lambda exact: give(exact, lambda stats: total + arrived(stats)),
                layout.INGRESS,
                own,
                mask,
            )

        own = cookies.of(layout.ADMISSION, router.id)
        self.stats(add, layout.ADMISSION, own, EXACT_COOKIE)

    def _first_packets(self) -> tuple[Site, dict[str, RouterState]]:
        """This switch as first packets of flows meet it, and what is known of the routers that it
        forwards for: nothing is decided for a router whose routes are not known yet."""
        states = {
            name: state for name in self.synced if (state := self.routers.state(name)) is not None
        }
        site = self.site()
        placements = {
            name: placement
            for name, placement in site.placements.items()
            if name in states or name not in self.network.routers or not self.forwards(name)
        }
        return replace(site, placements=placements), states

    # --- for the audit ------------------------------------------------------------------------

    @property
    def quiet(self) -> bool:
        """Whether the switch holds what is believed: nothing is on its way."""
        return self.live and not self.jobs.busy and not self.channel.in_flight_bytes

    def count_request(self) -> Request:
        """How many flows are there?"""
        xid = self.channel.xid()
        return Request(xid, self.kind.count_request(xid))

    def table_request(self, table: int, large: Container[int]) -> Request:
        """All flows of a table, or ours alone where it is one of the large ones."""
        if table in large:
            magic = cookies.MAGIC, cookies.MAGIC_MASK
            return self._stats_request(table, *magic)
        return self._stats_request(table, 0, 0)

    def route_count(self) -> int:
        """How many routes there should be."""
        if not self.kind.routes:
            return 0
        known = sum(
            len(state.routes4)
            for name in self.synced - self.aside.keys()
            if (state := self.routers.state(name)) is not None
        )
        return known + sum(map(len, self._found.values()))

    def expected_route(self, router: int, key: int) -> int | None:
        """The next hop that a router's route (net << 8 | prefix length) leads to, once everything
        is written; None where there is no such route."""
        name = self._names.get(router)
        hop = self._expected(name).get(key, ODD) if name is not None else ODD
        return None if hop == ODD else hop

    def _expected(self, name: str) -> Mapping[int, int]:
        """The routes that the switch shall have of a router: those it was found with, until what
        the router says is known."""
        if not self.kind.routes or name in self.aside:
            return {}
        if name not in self.synced:
            return self._found.get(name, {})
        state = self.routers.state(name)
        return state.routes4 if state is not None else {}

    def mend_routes(self, router: int, seen: Mapping[int, int | None]) -> int:
        """Somebody else has changed routes to these next hops (None: deleted them).  Write what
        differs; returns how many that are."""
        name = self._names.get(router)
        if name is None or name in self.aside:
            return 0
        adds, gone = [], []
        expected = self._expected(name)
        for key, hop in seen.items():
            wanted = expected.get(key)
            if wanted == ODD:
                continue
            if wanted is None and hop is not None and name in self.synced:
                gone.append((key >> 8, key & 255, 0))
            elif wanted is not None and wanted != hop:
                adds.append((key >> 8, key & 255, wanted))
        if name not in self.synced:
            self._streamed.pop(name, None)  # those that are there already are written again
        if adds or gone:
            described = self.network.routers[name]
            self.jobs.submit_of(name, self._write_routes(described, adds, gone))
        return len(adds) + len(gone)

    def write_beside(self, batches: Iterable[Iterable[tuple[bool, Flow]]]) -> None:
        """Write changes of the small tables at once, whatever jobs wait."""
        for batch in batches:
            for add, flow in batch:
                self._write_flow(add, flow)
            self.channel.fence()

    def read_again(self) -> None:
        """What the switch holds is not what is thought, and nobody knows where."""
        log.warning("%s: it holds other flows than it should; it is read again", self.name)
        self.jobs.submit(self._resync())

    def _stats_request(
        self, table: int, cookie: int, mask: int, what: tuple[Any, ...] = ()
    ) -> Request:
        xid = self.channel.xid()
        return Request(xid, self.kind.flows_request(xid, table, cookie, mask, what))

    def _write_flow(self, add: bool, flow: Flow) -> None:
        command = wire.Command.ADD if add else wire.Command.DELETE_STRICT
        self.edits += 1
        self.channel.write(self.kind.pack(flow, command), 1)
        if cookies.kind_of(flow.cookie) == layout.REACTIVE_KIND:
            return
        if add:
            self.installed[flow.key] = flow
        else:
            self.installed.pop(flow.key, None)

    # --- jobs ---------------------------------------------------------------------------------

    def adopt(self, flows: Sequence[bytes], ports: Mapping[int, int]) -> int:
        """Write flows that were read from another switch, their ports translated; returns how
        many (those through a port without a counterpart are left out).

        Raises WireError where they are no flows.
        """
        found = [translated(parse.flow_mod(data), ports) for data in flows]
        taken = [flow for flow in found if flow is not None]
        self.jobs.submit(self._adopt(taken))
        return len(taken)

    def _adopt(self, flows: Sequence[Flow]) -> Job:
        for flow in flows:
            self._write_flow(True, flow)
        if any(flow.table == layout.ROUTES for flow in flows):
            routes = [flow for flow in flows if flow.table == layout.ROUTES]
            for flow in routes:
                del self.installed[flow.key]
            self._take_route_flows(routes)
        self.channel.fence()
        yield ROOM

    def _resync(self, pause_s: float = 0.0) -> Job:
        """Read what the switch holds of ours; then write what differs."""
        self.live = False
        if pause_s:
            yield pause_s
        self.routers.read_anew(self)
        started = self.clock.now()
        self.installed, self.hops, self._found = {}, {}, {}
        self.local.outdated()
        self.edits += 1
        self.synced.clear()
        self._refusals.clear()
        if any(aside.refused for aside in self.aside.values()):
            self.channel.narrow()
        if not self.kind.nicira:
            flows = yield self._stats_request(0, 0, 0)
            self._take([s.flow for s in flows])
        else:
            xid = self.channel.xid()
            tables = yield Request(xid, statistics.table_request(xid))
            large = {entry.table for entry in tables if entry.flows > READ_WHOLE}
            for table in range(layout.VM + 1):
                if table != layout.ROUTES:
                    flows = yield self.table_request(table, large)
                    self._take([s.flow for s in flows])
            yield from self._read_routes(
                sum(entry.flows for entry in tables if entry.table == layout.ROUTES)
            )
        while self.routers.must_wait(bool(self.installed or self._found)):
            yield LOOK_AGAIN_S
        self.live = True
        known = sum(map(len, self._found.values()))
        log.info(
            "%s: holds %d local flows and %d routes, read in %.3f s",
            self.name,
            len(self.installed),
            known,
            self.clock.now() - started,
        )
        tasks: list[Task] = []
        for router in self.network.routers.values():
            if not self.forwards(router.name):
                if self._found.get(router.name):
                    tasks.append(Task(self._forget(router)))
            elif self.routers.state(router.name) is not None:
                self.synced.add(router.name)
                tasks.append(router_task(router.name, self._sync_router(router.name)))
        tasks.append(Task(self._write_small()))
        gives_to_vms = Task(fence(self.channel, self._gives_to_vms))
        if self._write_vm(self.network.links):  # it need not wait for the routes
            tasks.insert(0, gives_to_vms)
        else:
            tasks.append(gives_to_vms)
        tasks.append(Task(fence(self.channel, self._took_all)))
        # Before whatever waits to be told that the switch is up to date, and in place of what an
        # earlier reading has left to be done.
        self.jobs.are_next(tasks)

    def _gives_to_vms(self, error: str | None) -> None:
        if not error:
            self.routers.caught_up(self)

    def _took_all(self, error: str | None) -> None:
        if self.live and not error:
            self.problems.end(REFUSED)

    def _take(self, flows: Sequence[Flow]) -> None:
        self.audit.found(flows)
        for flow in flows:
            if not cookies.ours(flow.cookie):
                continue
            if cookies.kind_of(flow.cookie) != layout.REACTIVE_KIND:
                self.installed[flow.key] = flow

    def _read_routes(self, total: int) -> Job:
        """The routes it holds, in parts where there are many."""
        yield from self._read(reading(total, self._likely()), self._take_all_routes)

    def _take_all_routes(self, flows: list[FlowStats]) -> bool:
        self._take_route_flows([stats.flow for stats in flows])
        return True

    def _likely(self) -> set[int]:
        """The ids of the routers that probably have routes here: they have next hops."""
        return {
            cookies.router_of(flow.cookie)
            for flow in self.installed.values()
            if flow.table == layout.NEXT_HOPS
        }

    def _read(
        self, questions: Reading, take: Callable[[list[FlowStats]], bool]
    ) -> Generator[Request | float, Any, None]:
        """Ask the questions one after the other, with pauses; `take` says whether to go on."""
        try:
            question = next(questions)
            while True:
                count, flows = yield from self._read_part(question)
                if not take(flows):
                    return
                yield COUNT_PACE_S if isinstance(question, Count) else PACE_S
                question = questions.send(count)
        except StopIteration:
            return

    def _read_part(
        self, question: Question
    ) -> Generator[Request, Any, tuple[int, list[FlowStats]]]:
        if isinstance(question, Count):
            xid = self.channel.xid()
            where = layout.ROUTES, question.cookie, question.mask
            counted = yield Request(xid, statistics.aggregate_request(*where, xid=xid))
            return (counted[0].flows if counted else 0), []
        if not isinstance(question, Chunks):
            flows = yield self._stats_request(layout.ROUTES, question.cookie, question.mask)
            return len(flows), flows
        *others, last = (
            self._stats_request(layout.ROUTES, cookie, EXACT_COOKIE) for cookie in question.cookies
        )
        answers: list[Answer] = []
        for request in others:
            self.channel.ask(request, answers.append)
        answers.append((yield last))
        flows = []
        for answer in answers:
            if isinstance(answer, NotAnsweredError):
                raise answer
            flows += answer
        return len(flows), flows

    def _take_route_flows(self, flows: Iterable[Flow]) -> None:
        for flow in flows:
            name = self._names.get(cookies.router_of(flow.cookie))
            if name is None:
                self.installed[flow.key] = flow
                continue
            net = next((value for field, value, _ in flow.match if field == "nw_dst"), 0)
            plen = flow.priority - layout.Routes.PREFIX
            leads_on = len(flow.actions) == 2 and flow.actions[1] == _TO_NEXT_HOPS
            hop = flow.actions[0][4] if leads_on and flow.actions[0][0] == "load" else ODD
            self._found.setdefault(name, {})[net << 8 | plen] = hop

    # Small tables: everything but ROUTES

    def _plan_small(self) -> list[list[tuple[bool, Flow]]]:
        """What is to be written: of the flows that may not be there yet, and those that are there
        and not wanted any more."""
        try:
            site = self.site()
            fresh = self.local.compile(site)
        except Exception:
            self._find_odd_views()
            site = self.site()
            fresh = self.local.compile(site)
        beside = self.rules.flows(site)
        for kept in self.hops.values():
            for flows in kept.values():
                beside.update((flow.key, flow) for flow in flows)
        return plan(
            self.installed, {**self.local.wanted, **beside}, {**fresh, **beside}, self._keeps
        )

    def _keeps(self, router: int) -> bool:
        """Whether what follows from a router's words is left alone: they are not heard yet."""
        name = self._names.get(router, "")
        return self.forwards(name) and self.routers.state(name) is None

    def _find_odd_views(self) -> None:
        """A router whose words make no flows gets those of one whose packets all pass through its
        VM."""
        site = self.site()
        self.local.outdated()
        for name in site.views:
            view = self.routers.view(name)
            if view is None or self._sound_views.get(name) is view:
                continue
            alone = replace(site, views={name: view})
            try:
                for owner in owners_of(self.network, name):
                    flows_of(alone, owner)
                self._sound_views[name] = view
            except Exception as error:
                words = f"{THROUGH_VM}: {_reason(error)}"
                self._odd_views[name] = view, RouterView(slow=words, off=view.off)
                self.problems.begin(VIEW, words, name)

    def _make_hops(self, router: Router) -> None:
        state = self.routers.state(router.name)
        assert state is not None
        if not self.kind.routes:
            self.hops[router.name] = {}
            return
        self.hops[router.name] = {
            hop.id: self._hop_flows(router, state, hop.id) for hop in state.nexthops.values()
        }

    def _hop_flows(self, router: Router, state: RouterState, hop: int) -> tuple[Flow, ...]:
        record = state.nexthops.get(hop)
        if record is None:
            return ()
        view = next_hop_view(router, state, record)
        if view.action == "group":
            view = replace(view, legs=self._legs_out(router, state, view.legs))
        return tuple(next_hop_flows(self.network, router, view))

    def _legs_out(
        self, router: Router, state: RouterState, legs: tuple[tuple[int, int], ...]
    ) -> tuple[tuple[int, int], ...]:
        """The legs of a group that leave by a port with carrier; all of them where none does."""
        dark = self.ports.dark
        if not dark:
            return legs
        site = self.site()
        dead = set()
        for leg, _ in legs:
            hop = state.nexthops.get(leg)
            interface = interface_of(router, state, hop.ifindex) if hop is not None else None
            if hop is not None and interface is not None:
                link = self.network.links[interface.link]
                if port_of(site, link, hop.mac) in dark:
                    dead.add(leg)
        return tuple((leg, weight) for leg, weight in legs if leg not in dead) or legs

    def _remake_groups(self) -> None:
        """Groups avoid ports without carrier."""
        for name, kept in list(self.hops.items()):
            router, state = self.network.routers[name], self.routers.state(name)
            if state is None:
                continue
            try:
                for group in state.legs.keys() & kept.keys():
                    kept[group] = self._hop_flows(router, state, group)
            except Exception as error:
                self._set_aside(name, _reason(error), False)

    def _write_small(self) -> Job:
        self._remake_groups()
        batches = self._plan_small()
        if batches:
            self.decisions.forget()
        for batch in batches:
            for add, flow in batch:
                self._write_flow(add, flow)
            self.channel.fence()
            yield ROOM

    # Routers that are set aside

    def _router_failed(self, name: str, error: Exception) -> Job:
        """A job of one router has failed: that router is set aside, and no more."""
        if name not in self.network.routers:
            return
        refused = isinstance(error, RefusedError)
        new = self._set_aside(name, str(error) if refused else _reason(error), refused)
        if new and not refused:
            log.error("%s: %s: a job failed", self.name, name, exc_info=error)
        yield from self._write_small()

    def _set_aside(self, name: str, words: str, refused: bool) -> bool:
        """From the next write of the small tables on its packets pass through its VM.  True where
        that is new."""
        before = self.aside.get(name)
        pause_s = min(TRY_AGAIN_MAX_S, 2 * before.pause_s) if before else TRY_AGAIN_S
        words = f"{THROUGH_VM}: {words}"
        self.aside[name] = Aside(words, refused, pause_s)
        self.local.outdated(owners_of(self.network, name))
        self.hops[name] = {}
        self.decisions.outdated()
        self.problems.end(COMPILE if refused else TABLE, name)
        if refused:
            self._try_later(name)
        return self.problems.begin(TABLE if refused else COMPILE, words, name)

    def _restored(self, name: str) -> None:
        """A router is no longer set aside."""
        if self.aside.pop(name, None) is not None:
            self.local.outdated(owners_of(self.network, name))
            self.problems.end(TABLE, name)
            self.problems.end(COMPILE, name)

    def _try_later(self, name: str) -> None:
        aside = self.aside[name]
        if not aside.waits:
            aside.waits = True
            self.clock.later(aside.pause_s, self._try_again, name, self.channel.generation)

    def _try_again(self, name: str, generation: int) -> None:
        aside = self.aside.get(name)
        if generation != self.channel.generation or aside is None:
            return
        aside.waits = False
        if self.live and self.forwards(name):
            self.jobs.submit_of(name, self._renew(name))
        else:
            self._try_later(name)

    def _renew(self, name: str) -> Job:
        """Try with a router that is set aside.  What the switch holds of its routes is read first:
        some were refused, or some are no more."""
        aside = self.aside.get(name)
        if aside is None:
            return
        if aside.refused and not (yield from self._has_room()):
            self._try_later(name)
            return
        if self.kind.routes:
            self._found.pop(name, None)
            router = self.network.routers[name]
            yield from self._read(chunk_questions(router.id), self._take_all_routes)
        self.channel.narrow()
        yield from self._sync_router(name)

    def _has_room(self) -> Generator[Any, Any, bool]:
        """Whether table ROUTES takes one flow more, which no packet matches."""
        nothing = match(**{layout.Reg.ROUTER: 0xFFFFFFFF})
        probe = Flow(layout.ROUTES, layout.Routes.PROBE, nothing, (), cookies.MAGIC)
        self._no_room = False
        self.channel.write(build.flow_mod(probe, wire.Command.ADD, PROBE_XID))
        yield self.channel.barrier()
        self.channel.write(build.flow_mod(probe, wire.Command.DELETE_STRICT))
        return not self._no_room

    def _check_refused(self, name: str) -> None:
        if name in self._refusals:
            raise RefusedError(self._refusals.pop(name))

    def on_error(self, xid: int, text: str, data: bytes = b"") -> None:
        """The switch refused something.  A router's own flow is that router's affair: it is set
        aside.  Whatever else it is, the switch is read again."""
        if xid == MONITOR_XID:
            self.audit.refused()
            return
        if xid == PROBE_XID:
            self._no_room = True
            return
        if xid == PACKET_OUT_XID:
            log.error("%s: %s (a packet-out)", self.name, text)
            return
        self.errors += 1
        if self.channel.on_error(xid, text):
            return
        cookie = parse.cookie_of(data)
        kind = cookies.kind_of(cookie)
        names = {router.id: name for name, router in self.network.routers.items()}
        name = names.get(cookies.router_of(cookie))
        if not cookies.ours(cookie):
            name = None
        if name is None or kind not in (*layout.NETWORK_WIDE, layout.REACTIVE_KIND):
            self._refused(text)
            return
        words = f"the switch refuses its flows ({text})"
        if kind == layout.REACTIVE_KIND:  # the packet that asked was sent all the same
            if self.problems.begin(TABLE, words, name):
                self.clock.later(EXACT_REFUSED_S, self.problems.end, TABLE, name)
        elif name in self._trying or name in self._streamed:
            self._refusals[name] = words
        elif name in self.synced and name not in self.aside:
            self._set_aside(name, words, True)
            self.refresh()

    def _refused(self, text: str) -> None:
        """What the switch holds is not what is thought any more."""
        if self.live:
            self.live = False
            words = f"the switch refuses what it shall hold ({text}); it is read again"
            self.problems.begin(REFUSED, words)
            pause_s = min(self.jobs.pause_s(), LONGEST_REFUSED_S)
            self.clock.later(pause_s, self._read_again, self.channel.generation)

    def _read_again(self, generation: int) -> None:
        if generation == self.channel.generation and not self.live:
            self.jobs.submit(self._resync())

    # Routes

    def _sync_router(self, name: str) -> Job:
        """Make the switch hold exactly the router's routes and next hops, from whatever it has."""
        self._trying.add(name)
        try:
            yield from self._sync(name)
        finally:
            self._trying.discard(name)

    def _sync(self, name: str) -> Job:
        router = self.network.routers[name]
        state = self.routers.state(name)
        if state is None or not self.forwards(name):
            return
        found = self._found.pop(name, {})
        streamed = self._streamed.pop(name, None)
        if streamed is not None:
            self._check_refused(name)
        self._refusals.pop(name, None)
        before = self.channel.written
        self._make_hops(router)
        # What leads packets to the routes comes last: on a host that lies on the way of others
        # they would meet an empty table.
        for flows in self.hops[name].values():
            for flow in flows:
                if self.installed.get(flow.key) != flow:
                    self._write_flow(True, flow)
        self.channel.fence()
        routes = state.routes4
        if self.kind.routes and not (streamed == len(routes) and not found):
            if found:
                adds = [(k >> 8, k & 255, hop) for k, hop in routes.items() if found.get(k) != hop]
                gone = [(k >> 8, k & 255, 0) for k in found.keys() - routes.keys()]
                yield from self._write_routes(router, adds, gone)
            else:
                items = iter(dict(routes).items())  # as of now; what changes meanwhile comes after
                while part := [(k >> 8, k & 255, hop) for k, hop in islice(items, BULK)]:
                    yield from self._write_routes(router, part, (), ordered=False)
        # Of few routes a refusal is heard soon enough: a late switch is not waited for then.
        if name in self.aside or (len(routes) > MANY_ROUTES and self.channel.written > before):
            yield self.channel.barrier()
            self._check_refused(name)
        self._restored(name)
        self.decisions.forget(router.id)
        for batch in self._plan_small():
            for add, flow in batch:
                self._write_flow(add, flow)
        self.channel.fence()
        yield ROOM

    def _stream(self, name: str, changes: Changes) -> Job:
        """Routes of a first snapshot, written as they come: nothing is there to be preserved."""
        router = self.network.routers[name]
        yield from self._write_routes(router, changes.routes4, (), ordered=False)

    def _update(self, name: str, changes: Changes) -> Job:
        """One change of a router: what it needs first, then routes, then what is left over."""
        router = self.network.routers[name]
        state = self.routers.state(name)
        if state is None or name not in self.hops or name in self.aside:
            return
        stale: list[Flow] = []
        self.decisions.follow(router.id, state, changes)
        if self.kind.routes:
            if self.channel.in_flight_bytes >= IN_FLIGHT_BYTES:
                yield ROOM
            for hop in affected_hops(state, changes):
                old = self.hops[name].get(hop, ())
                new = self._hop_flows(router, state, hop)
                if new:
                    self.hops[name][hop] = new
                else:
                    self.hops[name].pop(hop, None)
                keys = {flow.key for flow in new}
                for flow in new:
                    if self.installed.get(flow.key) != flow:
                        self._write_flow(True, flow)
                stale += [flow for flow in old if flow.key not in keys]
            yield from self._write_routes(router, changes.routes4, changes.gone4)
        for flow in stale:
            self._write_flow(False, flow)

    def _write_routes(
        self,
        described: Router,
        adds: Sequence[tuple[int, int, int]],
        gone: Sequence[tuple[int, int, int]],
        ordered: bool = True,
    ) -> Job:
        """Add or overwrite the longest prefixes first, then delete the shortest first.

        So every packet is decided at every moment either as before or as after: its longest
        new match is there before any shorter one changes, and its longest old match stays until
        all that could take over from it is in place.  Raises RefusedError where the switch has said
        that it does not take them.
        """
        router, name = described.id, described.name
        if adds:
            routes = sorted(adds, key=_prefix_length, reverse=True) if ordered else adds
            if len(routes) < 8:
                for route, own in zip(routes, cookies.of_routes(router, routes), strict=True):
                    self.channel.write(self.packer.add(router, *route, own), 1)
            else:
                self.audit.bulk()
                for start in range(0, len(routes), BULK):
                    part = routes[start : start + BULK]
                    owns = cookies.of_routes(router, part)
                    size, flow_mods = self.channel.piece_bytes, len(part)
                    for piece in self.packer.pack_adds(router, part, owns, size):
                        self.channel.write(piece, flow_mods)
                        flow_mods = 0
                        yield ROOM
                        self._check_refused(name)
        if gone:
            self.channel.fence()
            for i, (net, plen, _) in enumerate(sorted(gone, key=_prefix_length)):
                self.channel.write(self.packer.delete(router, net, plen), 1)
                if i % 256 == 255:
                    yield ROOM

    def _forget(self, router: Router) -> Job:
        """Remove a router's routes and next hops, chunk by chunk where they are many."""
        name = router.name
        if self.forwards(name):
            return
        self._found.pop(name, None)
        self.hops.pop(name, None)
        if not self.kind.nicira:
            return
        for batch in self._plan_small():
            for add, flow in batch:
                self._write_flow(add, flow)
        state = self.routers.state(name)
        small = state is not None and len(state.routes4) <= READ_WHOLE
        own = cookies.of(layout.ROUTES, router.id)
        if small:
            mask = 0xFFFFFFFFFF000000
            self.channel.write(build.delete_by_cookie(layout.ROUTES, own, mask), 1)
            yield ROOM
            return
        for chunk in range(cookies.CHUNKS):
            self.channel.write(build.delete_by_cookie(layout.ROUTES, own | chunk), 1)
            yield ROOM
            yield PACE_S


class _Views(Mapping[str, RouterView]):
    """What the VMs say, by router, looked at when it is asked for: few of many are."""

    def __init__(self, routers: Iterable[str], view: Callable[[str], RouterView | None]) -> None:
        self._routers = routers
        self._view = view

    def __getitem__(self, router: str) -> RouterView:
        view = self._view(router)
        if view is None:
            raise KeyError(router)
        return view

    def __iter__(self) -> Iterator[str]:
        return (router for router in self._routers if self._view(router) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _reason(error: Exception) -> str:
    """Why a router cannot be compiled."""
    return f"what it says makes no flows ({type(error).__name__}: {error})"


def _packets(stats: Iterable[FlowStats]) -> int:
    return sum(s.packets for s in stats)


def _prefix_length(route: tuple[int, int, int]) -> int:
    return route[1]


def translated(flow: Flow, ports: Mapping[int, int]) -> Flow | None:
    """The flow with its ports replaced; None where it uses one that has no counterpart."""
    used = {value for name, value, _ in flow.match if name == "in_port"}
    used |= {a[1] for a in flow.actions if a[0] == "output" and a[1] < PORT_MAX}
    if not used <= ports.keys():
        return None
    what = tuple(
        (name, ports[value] if name == "in_port" else value, mask)
        for name, value, mask in flow.match
    )
    actions = tuple(
        output(ports[a[1]]) if a[0] == "output" and a[1] < PORT_MAX else a for a in flow.actions
    )
    return replace(flow, match=what, actions=actions)


def _failing(error: Exception) -> Job:
    """A job that has failed before it began."""
    raise error
    yield ROOM
