"""One datapath: what it holds, what it shall hold, and its only writer.

The Rule Table says what has changed; a `Switch` turns that into jobs, which write it in an order in
which no packet that was deliverable, and will be, is lost in between.  Here it is said which jobs
what happens asks for; the parts do the work:

    channel      the connection: bytes on their way, questions and answers (`silence`)
    jobs         the queue of jobs
    promises     who waits for a confirmation, or a proof (`proof`) that it is in force
    kind         what differs between kinds of switches
    ports        numbers, carrier, vifs that take nothing
    wanted       what the small tables shall hold
    installed    what they are believed to hold
    routes       the same of table ROUTES
    writer       the jobs that turn the one into the other
    aside        routers all of whose packets pass through their VMs
    decisions    answers to the first packets of flows
    reader       reading what is there
    audit        putting right what others change
    resync       reading the switch back, and whether what it holds is known
    rules        an operator's
    packet_ins   what comes up, within bounds

After a connection the first job is always `resync`: read what the switch holds, compare, and write
the difference.  Nothing is ever wiped, and nothing of a router is deleted before its state
is known.

What a router says is compiled, and written, for that router alone.  Where that fails, or where the
switch refuses its routes, the router is *set aside*: its packets pass through its VM, whose kernel
decides, `problems` says so and why, and it is tried again when it has changed or when there may be
room.  The other routers never notice.

Called by `rule_table` and `vm.packets` and, for the switch's messages, by `component`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Any, Protocol

from xenflow.model.difference import NetworkDifference
from xenflow.model.network import Datapath, Network
from xenflow.model.placement import Placement, first_place
from xenflow.openflow import parse
from xenflow.openflow.flow import Flow
from xenflow.openflow.wire import FlowModCommand
from xenflow.routes.router_state import Changes
from xenflow.switch.aside import PROBE_XID, TABLE, Aside
from xenflow.switch.audit import MONITOR_XID, Audit
from xenflow.switch.channel import PACKET_OUT_XID, Channel, NotAnsweredError
from xenflow.switch.clock import Clock
from xenflow.switch.decisions import Decisions
from xenflow.switch.installed import Installed
from xenflow.switch.jobs import EVERYBODY, Job, Jobs, router_task
from xenflow.switch.kind import kind_of
from xenflow.switch.packet_ins import PacketIns
from xenflow.switch.ports import Ports
from xenflow.switch.problems import Problems
from xenflow.switch.promises import Promises
from xenflow.switch.proof import Done, Proof
from xenflow.switch.resync import Placed, Resync
from xenflow.switch.routes import Route, RouteWriter
from xenflow.switch.rules import Rules
from xenflow.switch.wanted import WantedFlows
from xenflow.switch.writer import Waiting, Writer
from xenflow.tables import cookies, layout
from xenflow.tables.pipeline import ALL, Owner, of_link, of_router, owners_of
from xenflow.tables.sent_up import FromVm
from xenflow.tables.site import Spans
from xenflow.tables.translated import translated
from xenflow.tables.views import affected_hops

log = logging.getLogger("xenflow.switch")

HOP_COST = 10
"""So many routes cost as much as a next hop does: it is compiled, and is several flows."""
EXACT_REFUSED_S = 10.0
"""For so long it is said that the switch refuses flows of the reactive pipeline."""


class Routers(Placed, Protocol):
    """What a switch asks of the Rule Table about the routers, and tells it."""

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
        self.name = name = datapath.name
        self.datapath = datapath
        self.routers = routers
        self.clock = clock
        self.placements = placements
        self.errors = 0
        self._refreshes: set[str] | None = None
        """For whom a `refresh` is submitted that has not begun."""
        self.kind = kind = kind_of(datapath)
        self.problems = problems = Problems(name, clock.now)
        self.ports = Ports()
        self.rules = Rules()
        self.packet_ins = PacketIns(network, self.ports, problems)
        self.channel = channel = Channel(name, problems, clock, self._give_up)
        self.installed = installed = Installed(channel, kind)
        self.reader = reader = kind.reader(channel, kind, installed)
        self.aside = aside = Aside(channel, self._retry)
        self.wanted = wanted = WantedFlows(
            network, datapath, routers, placements, self.ports, self.rules, aside, problems
        )
        self.site = wanted.site
        """This switch as the planner sees it."""
        self.owner_of = wanted.owner_of
        """`owner_of(cookie)`: whom one of our flows belongs to."""
        self.forwards = wanted.forwards
        """`forwards(router)`: whether this switch forwards for a router."""
        self.routes = routes = RouteWriter(
            network, routers, channel, kind, installed, aside, self._bulk
        )
        self.decisions = Decisions(kind, channel, routers, wanted, routes)
        self.writer = Writer(
            channel, kind, routers, wanted, installed, routes, aside, self.decisions, reader
        )
        self.jobs = jobs = Jobs(channel, self._read_back, self.writer.failed, self._give_up)
        self.audit = Audit(
            kind,
            channel,
            installed,
            routes,
            reader,
            aside,
            jobs,
            lambda: self.live,
            self.owner_of,
            self.put_right,
            self.read_again,
        )
        self.resync = Resync(
            routers,
            channel,
            reader,
            self.rules,
            aside,
            wanted,
            installed,
            routes,
            self.writer,
            jobs,
            self.audit,
            lambda: routers.read_anew(self),
            lambda: routers.caught_up(self),
        )
        self.promises = Promises(
            channel,
            jobs,
            proof,
            kind.nudge,
            lambda: self.live,
            lambda: self.resync.but_left_out,
            self.resync.read_now,
        )

    @property
    def live(self) -> bool:
        """Whether what the switch holds is known."""
        return self.resync.live

    @property
    def left_out(self) -> frozenset[str]:
        """Owners that this switch could not be given: routers, whose packets pass through their VMs
        therefore, and links and rules of which it refuses a flow."""
        routers = map(of_router, (*self.aside, *self.wanted.odd))
        return frozenset(map(str, (*routers, *self.resync.left_out)))

    @property
    def network(self) -> Network:
        """The network, as it is now."""
        return self.wanted.network

    def network_is(self, network: Network, found: NetworkDifference, spans: Spans) -> None:
        """The network has become another one.  Routers that are new are at home, and so are those
        believed at a host that is gone, which nobody told this switch that they had left.  Of those
        that are gone nothing stays; those that have changed are compiled anew, where they have
        flows here or may have any now."""
        gone = [self.network.routers[name] for name in found.routers.removed]
        leaving = [router for router in gone if self.routes.left(router)]
        self.datapath = network.datapaths[self.name]
        for router in gone:
            self.placements.pop(router.name, None)
        strayed = tuple(self.believed_at(found.datapaths.removed))
        for name in (*found.routers.added, *strayed):
            self.placements[name] = first_place(network.routers[name])
        concerned = self.wanted.network_is(network, found, spans)
        for name in strayed:
            self.wanted.router_changed(name)
            concerned = True
        self.routes.network = network
        if found.routers:
            self.packet_ins.network_is(network)
        for router in gone:
            self.writer.forget_router(router.name)
            self.aside.forget(router.name)
            self.problems.forget(router.name)
            self.jobs.drop(router.name)
        self.decisions.outdated()
        if self.live:
            for name in found.dirty_routers & self.routes.synced:
                self.jobs.submit_of(name, self.writer.remake_hops(name))
                concerned = True
            if concerned or gone:
                self.refresh()
        for router in leaving:  # also where they are being read, who is here no more by then
            self.jobs.submit(self.writer.forget(router))

    def believed_at(self, hosts: Collection[str]) -> dict[str, Placement]:
        """The placements, as this switch was told them, of the routers that need any of some hosts,
        by router."""
        if not hosts:
            return {}
        need = set(hosts)
        return {n: at for n, at in self.placements.items() if not need.isdisjoint(at.hosts)}

    # --- the connection -----------------------------------------------------------------------

    def connect(self, connection: Any, ports: Iterable[tuple[str, int, bool]]) -> None:
        """The switch has connected: read it back, then write the difference."""
        self.disconnect()
        self.channel.open(connection, self.kind.greeting)
        self.ports.are(ports)
        self.packet_ins.ports_changed()
        self.audit.connected()
        self.jobs.submit(self._read_back())

    def disconnect(self) -> None:
        """The connection is gone, and with it everything that was on its way."""
        self._refreshes = None
        for part in (
            self.resync,
            self.installed,
            self.routes,
            self.writer,
            self.aside,
            self.wanted,
        ):
            part.clear()
        waiting = self.channel.close()
        self.problems.clear()
        gone = f"{self.name}: the switch went away"
        self.promises.close(gone)
        self.jobs.close()
        for then in waiting:
            then(NotAnsweredError(gone))

    def _bulk(self) -> None:
        """Many routes are about to be added."""
        self.audit.bulk()

    def _give_up(self, reason: str) -> None:
        self.promises.break_all(reason)

    def on_error(self, xid: int, text: str, data: bytes = b"") -> None:
        """The switch refused something.  A router's own flow is that router's affair: it is set
        aside.  Whatever else it is, the switch is read again."""
        if xid == MONITOR_XID:
            self.audit.refused()
            return
        if xid == PROBE_XID:
            self.aside.probe_refused()
            return
        if xid == PACKET_OUT_XID:
            log.error("%s: %s (a packet-out)", self.name, text)
            return
        self.errors += 1
        if self.channel.on_error(xid, text):
            return
        cookie = parse.cookie_of(data)
        kind, name = cookies.kind_of(cookie), self.routes.name_of(cookies.router_of(cookie))
        words = f"the switch refuses its flows ({text})"
        if (
            name is None
            or not cookies.ours(cookie)
            or kind not in (*layout.NETWORK_WIDE, layout.REACTIVE_KIND)
        ):
            owner = self.owner_of(cookie) if cookies.ours(cookie) else ALL
            self.resync.refused(owner, text, parse.adds_flow(data))
        elif kind == layout.REACTIVE_KIND:  # the packet that asked was sent all the same
            if self.problems.begin(TABLE, words, name):
                self.clock.later(EXACT_REFUSED_S, self.problems.end, TABLE, name)
        elif self.writer.refused(name, words):
            self.refresh({name})

    def read_again(self) -> None:
        """What the switch holds is not what is thought, and nobody knows where."""
        log.warning("%s: it holds other flows than it should; it is read again", self.name)
        self.jobs.submit(self._read_back())

    def _read_back(self, pause_s: float = 0.0) -> Job:
        return self.resync.read_back(pause_s)

    # --- ports --------------------------------------------------------------------------------

    def port_changed(self, name: str, number: int, up: bool, deleted: bool) -> None:
        """A port came, went, or changed its state."""
        before = self.ports.get(name, (0, False))
        if deleted:
            self.ports.pop(name, None)
        else:
            self.ports[name] = (number, up)
        self.packet_ins.ports_changed()
        if deleted or before[0] != number:
            self.wanted.port_changed(name)
        self._vifs_changed({name})

    def vifs_are_suspended(self, vifs: frozenset[str]) -> tuple[set[str], set[str]]:
        """The hypervisor says which vifs take nothing, though they may have carrier.  Returns the
        ports that take frames now and did not, and those that did and do not now."""
        take_now, suspended = self.ports.suspended_are(vifs)
        if take_now or suspended:
            self._vifs_changed(take_now | suspended)
        return take_now, suspended

    def _vifs_changed(self, names: set[str]) -> None:
        """Table VM follows at once, before jobs that are under way or wait: while a full table
        is written for one router, another's packets must not be lost.  It leads to no other table,
        so that its flows can be replaced at any time."""
        vifs = [vif for name in names if (vif := self.network.vif(name)) is not None]
        links = {interface.link for _, interface in vifs}
        if self.live and links:
            self.writer.write_vm(links)
        concerned = {router.name for router, _ in vifs}
        if len(vifs) < len(names):
            concerned |= EVERYBODY
        self.refresh(concerned, map(of_link, links))

    def hush(self, what: FromVm, session: Mapping[str, int], seconds: int) -> None:
        """Nothing more of a VM's session is sent up for some seconds."""
        if not self.live or what.interface.vif not in self.ports:
            return
        flow = self.kind.quiet(self.site(), what, session, seconds)
        if flow is not None:
            self.audit.hushed(self.clock.now() + seconds + 2.0)
            self.channel.write(self.kind.pack(flow, FlowModCommand.ADD))
            self.channel.fence()

    def once_told(self, then: Done) -> None:
        """Call `then(None)` once the switch has all that was written, whatever jobs wait; or with
        the reason why that cannot be said."""
        if not self.live:
            then(f"{self.name}: what the switch holds is not known")
            return
        self.channel.confirm(then)

    # --- routers ------------------------------------------------------------------------------

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
            self.aside.try_later(router)
        elif router in self.routes.synced:
            self._submit_update(router, changes)
            if changes.locals or changes.interfaces or changes.policy:
                self.refresh({router}, owners_of(self.network, router))
        elif complete:
            if changes.routes or changes.gone:
                self.routes.broke_off(self.network.routers[router])
            self.wanted.router_changed(router)
            self.jobs.submit_of(router, self.writer.sync(router))
            return True
        elif self.routes.streams(router, changes, total):
            job = self.writer.stream(router, changes)
            self.jobs.submit_of(router, job, self._size(router, changes))
        return False

    def put_right(self, router: str, adds: Sequence[Route], gone: Sequence[Route]) -> None:
        """Somebody else has changed a router's routes: write these, and delete those."""
        if router in self.routes.synced:
            self._submit_update(router, Changes(routes=adds, gone=gone))
        else:
            described = self.network.routers[router]
            self.jobs.submit_of(router, self.routes.write(described, adds, gone))

    def _submit_update(self, router: str, changes: Changes) -> None:
        """One job that has not begun is enough: written one after the other, changes would meet
        what the later ones have taken away already."""
        size = self._size(router, changes)
        waiting = self.writer.waiting.get(router)
        if waiting is not None:
            waiting.changes.append(changes)
            self.jobs.enlarge(waiting.task, size)
            return
        task = router_task(router, self.writer.update(router))
        self.writer.waiting[router] = Waiting([changes], task)
        self.jobs.submit_task(task, size)

    def _size(self, router: str, changes: Changes) -> int:
        """What a change costs: 1, 1 for each route, HOP_COST for each next hop that it touches."""
        state = self.routers.state(router)
        hops = len(affected_hops(state, changes)) if state is not None else 0
        return 1 + len(changes.routes) + len(changes.gone) + HOP_COST * hops

    @property
    def changing(self) -> list[str]:
        """The routers whose changes are all that is still to be written: for any other router the
        switch is in sync.  Empty where more is to be written, or nothing, or where the switch takes
        nothing."""
        takes_changes = self.live and not self.channel.silence.why
        return self.jobs.concerns if takes_changes and not self.audit.pending else []

    def doubt(self, router: str, error: Exception) -> None:
        """Whether this switch was told all of a router's changes is not known: its packets pass
        through its VM until what the switch holds of its routes has been read and put right."""
        if self.live and router in self.routes.synced:
            self.jobs.submit(self.writer.failed(router, error), {router})

    def _retry(self, router: str) -> bool:
        if not self.forwards(router):
            self.aside.restored(router)
            return True
        if not self.live:
            return False
        self.jobs.submit_of(router, self.writer.renew(router))
        return True

    def placed(self, router: str) -> None:
        """The placement of a router on this switch has changed."""
        self.decisions.outdated()
        self.wanted.router_changed(router)
        forwards = self.forwards(router)
        if not forwards:
            self.aside.restored(router)
        if not self.live:
            return
        if not forwards:
            described = self.network.routers[router]
            leaving = self.routes.left(described)
            self.refresh({router})
            if leaving:
                self.jobs.submit(self.writer.forget(described))
        elif router not in self.routes.synced and self.routers.state(router) is not None:
            self.jobs.submit_of(router, self.writer.sync(router))
        else:
            self.refresh({router})

    def refresh(self, concerned: Set[str] = EVERYBODY, whose: Iterable[Owner] = ()) -> None:
        """Something has changed about the routers concerned, or for everybody: some owners' flows
        follow from it, or it is a rule, or a port that a group may avoid.  One refresh that has not
        begun is enough: it computes from what is known when it begins, and whoever asks for a proof
        from now on waits behind it."""
        self.decisions.outdated()
        self.wanted.changed(whose)
        if self._refreshes is not None:
            self._refreshes |= concerned
        elif self.live:
            self._refreshes = set(concerned)
            self.jobs.submit(self._refresh(), self._refreshes)

    def _refresh(self) -> Job:
        self._refreshes = None
        yield from self.writer.small()

    def concerned_by(self, router: str) -> bool:
        """Whether what a router's VM says may change the small tables: it is here, or comes or
        goes, or they have something that follows from what it once said."""
        placement = self.placements.get(router)
        if placement is not None and self.name in placement.hosts:
            return True
        return self.installed.follows_from(self.network.routers[router].id)

    def vm_of(self, router: str) -> str:
        """Where a router's VM is, as this switch was told last; "" where it was told nothing."""
        placement = self.placements.get(router)
        return placement.vm if placement is not None else ""

    def adopt(self, flows: Iterable[Flow], ports: Mapping[int, int]) -> int:
        """Write flows that were read from another switch, their ports translated; returns how
        many (those through a port without a counterpart are left out)."""
        taken = translated(flows, ports)
        self.jobs.submit(self.writer.adopt(taken))
        return len(taken)
