"""One datapath: what it holds, what it shall hold, and its only writer.

The Rule Table says what has changed; a `Switch` turns that into flow messages and writes them in
an order in which no packet that was deliverable, and will be, is lost in between.  Work is done
by *jobs*: generators that run one after the other, so that the order in which changes were made
is the order in which the switch sees them.  A job yields what it waits for:

    ROOM             until few enough bytes are on their way to the switch
    a Request        until its reply (statistics or barrier) has come
    a number         for so many seconds

After a connection the first job is always `_resync`: read what the switch holds, compare, and
write the difference.  Nothing is ever wiped, and nothing of a router is deleted before its state
is known.

Called by `rule_table.RuleTable` and, for the switch's messages, by `component.Component`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

from xenflow import proof
from xenflow.pure import openflow as of
from xenflow.pure import pipeline, plain_host
from xenflow.pure.flow import IPV4, PORT_MAX, Flow, match, output
from xenflow.pure.network import Datapath, Kind, Network, Pipeline, Router
from xenflow.pure.pipeline import Flows, RouterView
from xenflow.pure.placement import Mode, Placement
from xenflow.pure.router_state import Changes, RouterState
from xenflow.pure.views import affected_hops, next_hop_view
from xenflow.reactive import Reactive
from xenflow.rules import Rules

log = logging.getLogger("xenflow.switch")

PIECE_BYTES = 32 * 1024
IN_FLIGHT_BYTES = 8 * PIECE_BYTES
"""More than that is not sent before the switch's barrier reply: a queue in the controller or in
the socket would delay everything behind it."""
READ_WHOLE = 4000
"""A table of more flows is read and deleted chunk by chunk: a big request stops the userspace
datapath, whose main thread also forwards."""
PACE_S = 0.002
"""Pause between two chunks."""
NUDGE_TABLE = 63
EXACT_COOKIE = 0xFFFFFFFFFFFFFFFF
FIRST_XID = 0x80000000
"""The cores count their own transaction ids below that."""
PACKET_OUT_XID = 0xFFFF0000
"""Of packets sent through the switch; a refused one changes nothing that the switch holds."""
BULK = 4 * 1024
MAX_EXACT = 10_000
MANY_DECISIONS = 64
"""When more routes change at once, all exact flows of the router are asked for again."""


class Routers(Protocol):
    """What a switch asks of the Rule Table about the routers."""

    def state(self, router: str) -> RouterState | None:
        """What is known of a router, or None before its snapshot has been complete once."""

    def view(self, router: str) -> RouterView | None:
        """The same as its classes need it."""


@dataclass(slots=True)
class Request:
    """A message with its transaction id; the job that yields it gets the reply."""

    xid: int
    message: bytes
    entries: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Room:
    """Wait until less than IN_FLIGHT_BYTES are on their way."""


ROOM = Room()
Awaited = Request | Room | float
Job = Generator[Awaited, Any, None]
Done = Callable[[str | None], None]


class _Promise:
    """An answer that is given exactly once, whatever happens to the switch."""

    __slots__ = ("_then",)

    def __init__(self, then: Done) -> None:
        self._then: Done | None = then

    def settle(self, error: str | None = None) -> None:
        then, self._then = self._then, None
        if then is not None:
            then(error)

    @property
    def settled(self) -> bool:
        return self._then is None


class Switch:
    """See the module."""

    def __init__(
        self,
        network: Network,
        datapath: Datapath,
        routers: Routers,
        later: Callable[..., Any],
        placements: dict[str, Placement],
    ) -> None:
        self.network = network
        self.datapath = datapath
        self.routers = routers
        self.later = later
        self.placements = placements
        self.connection: Any = None
        self.connected_since = 0.0
        self.ports: dict[str, tuple[int, bool]] = {}
        self.installed: Flows = {}
        self.hops: dict[str, dict[int, tuple[Flow, ...]]] = {}
        self.synced: set[str] = set()
        self.rules = Rules()
        self.live = False
        self.flow_mods = 0
        self.errors = 0
        self._answers: Reactive | None = None
        self._found: dict[str, dict[int, int]] = {}
        self._streamed: dict[str, int] = {}
        self._promises: list[_Promise] = []
        self._jobs: deque[Job] = deque()
        self._job: Job | None = None
        self._running = False
        self._awaiting: Awaited | None = None
        self._replies: dict[int, tuple[Request, Callable[[list[Any]], None]]] = {}
        self._in_flight: deque[tuple[int, int]] = deque()
        self._in_flight_bytes = 0
        self._unfenced = 0
        self._written = 0
        self._proven = -1
        """How many messages had been written when they were last proven in force."""
        self._xids = count(FIRST_XID)
        self._generation = 0
        self._fragments: list[bytes] = []
        self._fragment_bytes = 0
        self._packer = pipeline_packer()
        self._plain = datapath.kind is Kind.PLAIN or not datapath.nicira
        self._plain_host = self._plain and datapath.kind is Kind.HOST
        self._exact: set[bytes] = set()
        """On a plain host: the matches of the exact flows it was given."""

    # --- what happens to it -------------------------------------------------------------------

    def connect(self, connection: Any, ports: Iterable[tuple[str, int, bool]]) -> None:
        """The switch has connected: read it back, then write the difference."""
        self.disconnect()
        self.connection = connection
        self.connected_since = time.monotonic()
        self.ports = {name: (number, up) for name, number, up in ports}
        if not self._plain:
            self._send(of.enable_table_id())
        self._send(of.set_config(0xFFFF))
        self.submit(self._resync())

    def disconnect(self) -> None:
        """The connection is gone, and with it everything that was on its way."""
        self._generation += 1
        self.connection = None
        self.live = False
        waiting, self._replies = self._replies, {}
        jobs = [job for job in (self._job, *self._jobs) if job is not None]
        self._job, self._awaiting = None, None
        self._jobs.clear()
        self._in_flight.clear()
        self._in_flight_bytes = self._unfenced = 0
        self._proven = -1
        self._fragments, self._fragment_bytes = [], 0
        self.installed, self.hops, self._streamed = {}, {}, {}
        self.synced.clear()
        for job in jobs:
            job.close()
        for _, then in waiting.values():
            then([])
        promises, self._promises = self._promises, []
        for promise in promises:
            promise.settle(f"{self.name}: the switch went away")

    def port_changed(self, name: str, number: int, up: bool, deleted: bool) -> None:
        """A port came, went, or changed its state."""
        if deleted:
            self.ports.pop(name, None)
        else:
            self.ports[name] = (number, up)
        self.refresh()

    def changed(self, router: str, changes: Changes, complete: bool, total: int) -> None:
        """A router's state has changed; it has `total` routes now.

        `complete` is False while its first snapshot streams in, whose routes are written as they
        come where the switch holds none yet.
        """
        self._answers = None
        if not self.live or not self.forwards(router):
            return
        if router in self.synced:
            self.submit(self._update(router, changes))
        elif complete:
            self.synced.add(router)
            self.submit(self._sync_router(router))
        elif not self._found.get(router) and not self.reactive and changes.routes4:
            streamed = self._streamed.get(router, 0) + len(changes.routes4)
            if streamed == total:  # otherwise some came before this switch did
                self._streamed[router] = streamed
                self.submit(self._stream(router, changes))

    def placed(self, router: str) -> None:
        """The placement of a router on this switch has changed."""
        self._answers = None
        if not self.live:
            return
        if not self.forwards(router):
            leaving = router in self.synced or bool(self._found.get(router))
            self.synced.discard(router)
            self.refresh()
            if leaving:
                self.submit(self._forget(router))
        elif router not in self.synced and self.routers.state(router) is not None:
            self.synced.add(router)
            self.submit(self._sync_router(router))
        else:
            self.refresh()

    def refresh(self) -> None:
        """Something that local flows depend on has changed."""
        self._answers = None
        if self.live:
            self.submit(self._write_small())

    # --- questions ----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The datapath's name."""
        return self.datapath.name

    @property
    def reactive(self) -> bool:
        """Whether routes are looked up by the controller, packet by packet."""
        return self.datapath.pipeline is Pipeline.REACTIVE or self._plain_host

    @property
    def busy(self) -> int:
        """Jobs that are not finished."""
        return len(self._jobs) + (self._job is not None)

    def forwards(self, router: str) -> bool:
        """Whether this switch forwards for a router."""
        placement = self.placements.get(router)
        return (
            placement is not None
            and self.name in placement.forwarders
            and placement.mode is Mode.XENFLOW
        )

    def site(self) -> pipeline.Site:
        """This switch as the planner sees it."""
        views = {
            name: view
            for name in self.network.routers
            if (view := self.routers.view(name)) is not None
        }
        ports = {name: number for name, (number, _) in self.ports.items()}
        silent = frozenset(name for name, (_, up) in self.ports.items() if not up)
        return pipeline.Site(self.network, self.datapath, ports, self.placements, views, silent)

    def takes(self, port: str) -> bool:
        """Whether a port exists and has carrier: what is sent there arrives somewhere."""
        return self.ports.get(port, (0, False))[1]

    def stats(
        self,
        then: Callable[[list[of.FlowStats]], None],
        table: int = of.ALL_TABLES,
        cookie: int = 0,
        mask: int = 0,
        what: Mapping[str, Any] | None = None,
    ) -> None:
        """Read flows with their counters, beside the jobs; [] where the switch goes away."""
        self._ask(self._stats_request(table, cookie, mask, match(**(what or {}))), then)

    def arrivals(self, router: Router, then: Callable[[int], None]) -> None:
        """Count the packets that have arrived for a router, as far as the counters know."""
        if self._plain:
            macs = {interface.mac for interface in router.interfaces}
            self.stats(lambda stats: then(_packets(
                s for s in stats
                if any(name == "dl_dst" and value in macs for name, value, _ in s.flow.match)
            )))  # fmt: skip
            return

        def add(admitted: list[of.FlowStats]) -> None:
            if not self.reactive:
                then(_packets(admitted))
                return
            total = _packets(admitted)
            own = pipeline.cookie(pipeline.REACTIVE_KIND, router.id)
            mask = pipeline.REACTIVE_COOKIE_MASK | pipeline.ROUTER_COOKIE_MASK
            self.stats(lambda exact: then(total + _packets(exact)), pipeline.INGRESS, own, mask)

        own = pipeline.cookie(pipeline.ADMISSION, router.id)
        self.stats(add, pipeline.ADMISSION, own, EXACT_COOKIE)

    def answer(self, in_port: int, frame: bytes) -> bool:
        """Answer a packet-in of the reactive pipeline; False where it is for no router here."""
        if self._answers is None:
            states = {
                name: state
                for name in self.synced
                if (state := self.routers.state(name)) is not None
            }
            site = self.site()
            known = {n: p for n, p in site.placements.items() if n in states or n not in
                     self.network.routers or not self.forwards(n)}  # fmt: skip
            self._answers = Reactive(
                replace(site, placements=known), states, self.datapath.nicira
            )
        messages = self._answers.answer(in_port, frame)
        if messages is not None:
            self._send(messages)
            if self._plain_host and messages[1] == of.Type.FLOW_MOD:
                self._exact.add(messages[of.MATCH10])
                if len(self._exact) > MAX_EXACT:
                    self._forget_decisions()
        return messages is not None

    def _stats_request(
        self, table: int, cookie: int, mask: int, what: tuple[Any, ...] = ()
    ) -> Request:
        xid = next(self._xids)
        if self._plain:
            return Request(xid, of.flow_stats_request_of10(xid=xid))
        return Request(xid, of.flow_stats_request(table, cookie, mask, what, xid))

    # --- in force -----------------------------------------------------------------------------

    def in_force(self, then: Done) -> None:
        """Call `then(None)` once everything submitted so far is in force on the switch, or with
        the reason why that cannot be said (see `proof`).  What was proven already is not proven
        again: where nothing has been written since, the switch's barrier is enough."""
        self._prove(then, lambda: self._proven == self._written)

    def counted(self, then: Done) -> None:
        """Call `then(None)` once the counters count every packet that had arrived by now (they
        are pushed when the cached flows are checked), and everything is in force."""
        self._prove(then, lambda: False)

    def _prove(self, then: Done, needless: Callable[[], bool]) -> None:
        promise = self._promise(then)

        def prove(error: str | None) -> None:
            written = self._written

            def finish() -> None:
                if not promise.settled:
                    self._proven = max(self._proven, written)
                refused = f"{self.name}: the switch refused a flow"
                promise.settle(None if self.live else refused)

            if error or promise.settled:
                promise.settle(error)
            elif needless():
                finish()
            elif self.datapath.proof == "revalidator":
                self._round(promise, lambda: self._round(promise, finish))
            else:
                self._nudge()
                bound_s = self.datapath.proof_bound_s
                self._ask(self._barrier(), lambda _: self.later(bound_s, finish))

        self._after_jobs(promise, prove)

    def confirmed(self, then: Done) -> None:
        """Call `then(None)` once the switch has confirmed everything submitted so far."""
        promise = self._promise(then)
        self._after_jobs(promise, promise.settle)

    def _promise(self, then: Done) -> _Promise:
        self._promises = [p for p in self._promises if not p.settled]
        promise = _Promise(then)
        self._promises.append(promise)
        return promise

    def _after_jobs(self, promise: _Promise, then: Done) -> None:
        if self.connection is None:
            promise.settle(f"{self.name}: the switch is not connected")
        else:
            self.submit(self._fence(then))

    def _round(self, promise: _Promise, then: Callable[[], None]) -> None:
        """One whole round of the revalidators that began after now."""
        rundir = self.datapath.ovs_rundir or proof.default_rundir()

        def asked(error: str | None) -> None:
            if error or promise.settled:
                promise.settle(error)
            else:
                then()

        self._nudge()
        self._ask(self._barrier(), lambda _: proof.ask(rundir, "revalidator/wait", asked))

    def _nudge(self) -> None:
        """A change that touches no packet, so that cached flows are checked again soon."""
        if self._plain:
            nudge = Flow(0, 1, match(dl_type=0x88B5), (), pipeline.COOKIE_MAGIC)
            pack = of.flow_mod_of10
        else:
            nudge = Flow(NUDGE_TABLE, 1, match(), (), pipeline.COOKIE_MAGIC)
            pack = of.flow_mod
        self._send(pack(nudge, of.Command.ADD) + pack(nudge, of.Command.DELETE_STRICT))

    # --- jobs: the machinery ------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Append a job; it starts at once where nothing else is under way."""
        self._jobs.append(job)
        if not self._running and self._awaiting is None:
            self._run()

    def _run(self, value: Any = None) -> None:
        self._running, self._awaiting = True, None
        generation = self._generation
        try:
            while generation == self._generation:
                if self._job is None:
                    if not self._jobs:
                        break
                    self._job = self._jobs.popleft()
                    value = None
                try:
                    awaited = self._job.send(value)
                except StopIteration:
                    self._job = None
                    continue
                except Exception:
                    log.exception("%s: a job failed; the switch is read again", self.name)
                    self._job = self._resync(pause_s=1.0)
                    continue
                if generation != self._generation:
                    return
                value = None
                if isinstance(awaited, Room):
                    self._fence_fragments()
                    if self._in_flight_bytes < IN_FLIGHT_BYTES:
                        continue
                    self._awaiting = awaited
                    return
                self._flush_fragments()
                self._awaiting = awaited
                if isinstance(awaited, Request):
                    self._ask(awaited, self._resume)
                else:
                    self.later(awaited, self._resume_if, generation)
                return
            if generation == self._generation:
                self._flush_fragments()
        finally:
            self._running = False

    def _resume(self, value: Any) -> None:
        if self._running or self._awaiting is None:
            return
        self._run(value)

    def _resume_if(self, generation: int) -> None:
        if generation == self._generation:
            self._resume(None)

    def _ask(self, request: Request, then: Callable[[list[Any]], None]) -> None:
        if self.connection is None:
            then([])
            return
        self._flush_fragments()
        self._replies[request.xid] = (request, then)
        self._send(request.message)

    def _barrier(self) -> Request:
        xid = next(self._xids)
        return Request(xid, of.barrier_request(xid))

    def on_barrier(self, xid: int) -> None:
        """A barrier reply."""
        while self._in_flight and self._in_flight[0][0] <= xid:
            self._in_flight_bytes -= self._in_flight.popleft()[1]
        if isinstance(self._awaiting, Room) and self._in_flight_bytes < IN_FLIGHT_BYTES // 2:
            self._resume(None)
        waiting = self._replies.pop(xid, None)
        if waiting is not None:
            waiting[1](waiting[0].entries)

    def on_stats(self, reply: of.StatsReply) -> bool:
        """One part of a statistics reply; False where it was not asked for here."""
        waiting = self._replies.get(reply.xid)
        if waiting is None:
            return False
        request, then = waiting
        request.entries.extend(reply.entries)
        if not reply.more:
            del self._replies[reply.xid]
            then(request.entries)
        return True

    def on_error(self, xid: int, text: str) -> None:
        """The switch refused something: what it holds is not what is thought any more."""
        log.error("%s: %s (xid %#x)", self.name, text, xid)
        if xid == PACKET_OUT_XID:
            return
        self.errors += 1
        waiting = self._replies.pop(xid, None)
        if waiting is not None:
            waiting[1]([])
        elif self.live:
            self.live = False
            self.later(1.0, self._read_again, self._generation)

    def _read_again(self, generation: int) -> None:
        if generation == self._generation and not self.live:
            self.submit(self._resync())

    # --- sending ------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        if self.connection is not None:
            self.connection.send(data)

    def _write(self, data: bytes) -> None:
        """Queue one message; many leave as one piece, with a barrier behind it."""
        self._written += 1
        self._fragments.append(data)
        self._fragment_bytes += len(data)
        if self._fragment_bytes >= PIECE_BYTES:
            self._fence_fragments()

    def _flush_fragments(self) -> None:
        if self._fragments:
            self._unfenced += self._fragment_bytes
            self._send(b"".join(self._fragments))
            self._fragments, self._fragment_bytes = [], 0
            if self._unfenced >= PIECE_BYTES:
                self._fence_fragments()

    def _fence_fragments(self) -> None:
        self._flush_fragments()
        if self._unfenced:
            xid = next(self._xids)
            self._in_flight.append((xid, self._unfenced))
            self._in_flight_bytes += self._unfenced
            self._unfenced = 0
            self._send(of.barrier_request(xid))

    def _write_flow(self, add: bool, flow: Flow) -> None:
        command = of.Command.ADD if add else of.Command.DELETE_STRICT
        pack = of.flow_mod_of10 if self._plain else of.flow_mod
        self.flow_mods += 1
        self._write(pack(flow, command))
        if flow.cookie >> 24 & 0xFF == pipeline.REACTIVE_KIND:
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
        found = [translated(of.parse_flow_mod(data), ports) for data in flows]
        taken = [flow for flow in found if flow is not None]
        self.submit(self._adopt(taken))
        return len(taken)

    def _adopt(self, flows: Sequence[Flow]) -> Job:
        for flow in flows:
            self._write_flow(True, flow)
        if any(flow.table == pipeline.ROUTES for flow in flows):
            routes = [flow for flow in flows if flow.table == pipeline.ROUTES]
            for flow in routes:
                del self.installed[flow.key]
            self._take_route_flows(routes)
        self._fence_fragments()
        yield ROOM

    def _fence(self, then: Done) -> Job:
        yield self._barrier()
        then(None)

    def _resync(self, pause_s: float = 0.0) -> Job:
        """Read what the switch holds of ours; then write what differs."""
        self.live = False
        if pause_s:
            yield pause_s
        started = time.monotonic()
        self.installed, self.hops, self._found = {}, {}, {}
        self.synced.clear()
        if self._plain:
            flows = yield self._stats_request(0, 0, 0)
            self._take([s.flow for s in flows])
        else:
            for table in range(pipeline.VM + 1):
                if table != pipeline.ROUTES:
                    magic = pipeline.COOKIE_MAGIC, pipeline.COOKIE_MAGIC_MASK
                    flows = yield self._stats_request(table, *magic)
                    self._take([s.flow for s in flows])
            yield from self._read_routes()
        self.live = True
        known = sum(map(len, self._found.values()))
        log.info(
            "%s: holds %d local flows and %d routes, read in %.3f s",
            self.name, len(self.installed), known, time.monotonic() - started,
        )  # fmt: skip
        jobs: list[Job] = []
        for router in self.network.routers.values():
            if not self.forwards(router.name):
                if self._found.get(router.name):
                    jobs.append(self._forget(router.name))
            elif self.routers.state(router.name) is not None:
                self.synced.add(router.name)
                jobs.append(self._sync_router(router.name))
        jobs.append(self._write_small())
        # Before whatever waits to be told that the switch is up to date.
        self._jobs.extendleft(reversed(jobs))

    def _take(self, flows: Sequence[Flow]) -> None:
        for flow in flows:
            if flow.cookie & pipeline.COOKIE_MAGIC_MASK != pipeline.COOKIE_MAGIC:
                continue
            if flow.cookie >> 24 & 0xFF != pipeline.REACTIVE_KIND:
                self.installed[flow.key] = flow

    def _read_routes(self) -> Job:
        """The routes it holds, one exact-cookie request after the other where there are many."""
        magic, mask = pipeline.COOKIE_MAGIC, pipeline.COOKIE_MAGIC_MASK
        request = Request(next(self._xids), b"")
        request.message = of.aggregate_request(pipeline.ROUTES, xid=request.xid)
        total = yield request
        if total and total[0].flows <= READ_WHOLE:
            flows = yield self._stats_request(pipeline.ROUTES, magic, mask)
            self._take_routes(flows)
            return
        full = EXACT_COOKIE
        yield from self._read_chunk(pipeline.cookie(pipeline.CLASSES), full)
        for router in self.network.routers.values():
            for chunk in range(pipeline.CHUNKS):
                own = pipeline.cookie(pipeline.ROUTES, router.id, chunk)
                yield from self._read_chunk(own, full)
                yield PACE_S

    def _read_chunk(self, cookie: int, mask: int) -> Job:
        flows = yield self._stats_request(pipeline.ROUTES, cookie, mask)
        self._take_routes(flows)

    def _take_routes(self, flows: Iterable[of.FlowStats]) -> None:
        self._take_route_flows([stats.flow for stats in flows])

    def _take_route_flows(self, flows: Iterable[Flow]) -> None:
        names = {router.id: router.name for router in self.network.routers.values()}
        for flow in flows:
            name = names.get(pipeline.cookie_router(flow.cookie))
            if name is None:
                self.installed[flow.key] = flow
                continue
            net = next((value for field, value, _ in flow.match if field == "nw_dst"), 0)
            plen = flow.priority - pipeline.ROUTE_PRIORITY
            hop = next((a[4] for a in flow.actions if a[0] == "load"), 0)
            self._found.setdefault(name, {})[net << 8 | plen] = hop

    # Small tables: everything but ROUTES

    def _plan_small(self) -> list[list[tuple[bool, Flow]]]:
        site = self.site()
        wanted = (plain_host if self._plain_host else pipeline).local_flows(site)
        wanted.update(self.rules.flows(site))
        keep = []
        for router in self.network.routers.values():
            known = self.routers.state(router.name) is not None
            if not known:
                keep.append(router.id)
                continue
            for flows in self.hops.get(router.name, {}).values():
                wanted.update((flow.key, flow) for flow in flows)
        return pipeline.plan(self.installed, wanted, keep)

    def _make_hops(self, router: Router) -> None:
        state = self.routers.state(router.name)
        assert state is not None
        if self.reactive or self._plain:
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
        return tuple(pipeline.next_hop_flows(self.network, router, view))

    def _write_small(self) -> Job:
        batches = self._plan_small()
        if batches and self.reactive:
            self._forget_decisions()
        for batch in batches:
            for add, flow in batch:
                self._write_flow(add, flow)
            self._fence_fragments()
            yield ROOM

    # The reactive pipeline's exact flows: deleted where they may have become wrong, asked for again

    def _forget_decisions(self, router: int | None = None, hop: int | None = None) -> None:
        if self._plain:
            nothing = Flow(0, pipeline.REACTIVE_PRIORITY, (), ())
            form = of.flow_mod_of10(nothing, of.Command.DELETE_STRICT)
            for what in self._exact:
                self._write(form[: of.MATCH10.start] + what + form[of.MATCH10.stop :])
            self._exact.clear()
            return
        kind, mask = pipeline.cookie(pipeline.REACTIVE_KIND), pipeline.REACTIVE_COOKIE_MASK
        if router is not None:
            kind, mask = kind | router << 32, mask | 0xFFFF << 32
        if router is not None and hop is not None:
            kind, mask = pipeline.reactive_cookie(router, hop), 0xFFFFFFFFFFFFFFFF
        self._write(of.delete_by_cookie(pipeline.INGRESS, kind, mask))
        self.flow_mods += 1

    def _change_decisions(self, router: Router, state: RouterState, changes: Changes) -> None:
        routes = [*changes.routes4, *changes.gone4]
        hops = list(affected_hops(state, changes))
        if self._plain or len(routes) + len(hops) > MANY_DECISIONS:
            self._forget_decisions(router.id)
            return
        for hop in hops:
            self._forget_decisions(router.id, hop)
        for net, plen, _ in routes:
            prefix = match(dl_type=IPV4, nw_dst=(net, pipeline.prefix_mask(plen)))
            own = pipeline.cookie(pipeline.REACTIVE_KIND, router.id)
            mask = pipeline.REACTIVE_COOKIE_MASK | 0xFFFF << 32
            self._write(of.delete_matching(pipeline.INGRESS, prefix, own, mask))
            self.flow_mods += 1

    # Routes

    def _sync_router(self, name: str) -> Job:
        """Make the switch hold exactly the router's routes and next hops, from whatever it has."""
        router = self.network.routers[name]
        state = self.routers.state(name)
        if state is None or not self.forwards(name):
            return
        found = self._found.pop(name, {})
        streamed = self._streamed.pop(name, None)
        self._make_hops(router)
        # What leads packets to the routes comes last: on a host that lies on the way of others
        # they would meet an empty table.
        for flows in self.hops[name].values():
            for flow in flows:
                if self.installed.get(flow.key) != flow:
                    self._write_flow(True, flow)
        self._fence_fragments()
        routes = state.routes4
        if not (self.reactive or self._plain or (streamed == len(routes) and not found)):
            adds = [(k >> 8, k & 255, hop) for k, hop in routes.items() if found.get(k) != hop]
            gone = [(k >> 8, k & 255, 0) for k in found.keys() - routes.keys()]
            yield from self._write_routes(router.id, adds, gone, ordered=bool(found))
        if self.reactive:
            self._forget_decisions(router.id)
        for batch in self._plan_small():
            for add, flow in batch:
                self._write_flow(add, flow)
        self._fence_fragments()
        yield ROOM

    def _stream(self, name: str, changes: Changes) -> Job:
        """Routes of a first snapshot, written as they come: nothing is there to be preserved."""
        router = self.network.routers[name]
        yield from self._write_routes(router.id, changes.routes4, (), ordered=False)

    def _update(self, name: str, changes: Changes) -> Job:
        """One change of a router: what it needs first, then routes, then what is left over."""
        router = self.network.routers[name]
        state = self.routers.state(name)
        if state is None or name not in self.hops:
            return
        stale: list[Flow] = []
        if self.reactive:
            self._change_decisions(router, state, changes)
        if not (self.reactive or self._plain):
            if self._in_flight_bytes >= IN_FLIGHT_BYTES:
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
            yield from self._write_routes(router.id, changes.routes4, changes.gone4)
        for flow in stale:
            self._write_flow(False, flow)
        if changes.locals or changes.interfaces or changes.policy:
            yield from self._write_small()

    def _write_routes(
        self,
        router: int,
        adds: Sequence[tuple[int, int, int]],
        gone: Sequence[tuple[int, int, int]],
        ordered: bool = True,
    ) -> Job:
        """Add or overwrite the longest prefixes first, then delete the shortest first.

        So every packet is decided at every moment either as before or as after: its longest
        new match is there before any shorter one changes, and its longest old match stays until
        all that could take over from it is in place.
        """
        if adds:
            self.flow_mods += len(adds)
            routes = sorted(adds, key=_prefix_length, reverse=True) if ordered else adds
            if len(routes) < 8:
                for route, own in zip(routes, pipeline.route_cookies(router, routes), strict=True):
                    self._write(self._packer.add(router, *route, own))
            else:
                for start in range(0, len(routes), BULK):
                    part = routes[start : start + BULK]
                    cookies = pipeline.route_cookies(router, part)
                    for piece in self._packer.pack_adds(router, part, cookies, PIECE_BYTES):
                        self._write(piece)
                        yield ROOM
        if gone:
            self._fence_fragments()
            self.flow_mods += len(gone)
            for i, (net, plen, _) in enumerate(sorted(gone, key=_prefix_length)):
                self._write(self._packer.delete(router, net, plen))
                if i % 256 == 255:
                    yield ROOM

    def _forget(self, name: str) -> Job:
        """Remove a router's routes and next hops, chunk by chunk where they are many."""
        router = self.network.routers[name]
        if self.forwards(name):
            return
        self._found.pop(name, None)
        self.hops.pop(name, None)
        if self._plain:
            return
        for batch in self._plan_small():
            for add, flow in batch:
                self._write_flow(add, flow)
        state = self.routers.state(name)
        small = state is not None and len(state.routes4) <= READ_WHOLE
        own = pipeline.cookie(pipeline.ROUTES, router.id)
        if small:
            mask = 0xFFFFFFFFFF000000
            self._write(of.delete_by_cookie(pipeline.ROUTES, own, mask))
            self.flow_mods += 1
            yield ROOM
            return
        for chunk in range(pipeline.CHUNKS):
            self._write(of.delete_by_cookie(pipeline.ROUTES, own | chunk))
            self.flow_mods += 1
            yield ROOM
            yield PACE_S


def _packets(stats: Iterable[of.FlowStats]) -> int:
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


def pipeline_packer() -> of.RoutePacker:
    """Packs routes for table ROUTES."""
    return of.RoutePacker(pipeline.ROUTES, pipeline.NEXT_HOPS, pipeline.ROUTE_PRIORITY)
