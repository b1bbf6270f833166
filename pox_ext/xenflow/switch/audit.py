"""The audit of one switch: what it holds is watched while it runs, and put right.

A switch with the Nicira extensions *tells*: flow monitors on our tables report what others change
(docs/openflow.md says what that was seen to cost).  What this connection itself changes comes as
transaction ids only; ours are 0, so that any other is another component's on the same connection,
and the small tables are read.  Of table ROUTES additions are told only while nothing is written in
bulk: each would be told, too.  And every second the switch is asked how many flows each table
has.

A plain switch is *read*: how many flows it has every second, which ones as often as costs little.

What differs is written back at once, the small tables beside all jobs, routes in a job; what is
changed again and again, once a second.  Called by `switch` and `component`; what
differs `tables.compare` decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xenflow.openflow import monitor, wire
from xenflow.openflow.flow import Flow, Key, text
from xenflow.openflow.monitor import UpdateEvent
from xenflow.switch.aside import Aside
from xenflow.switch.channel import Channel, NotAnsweredError, SwitchRequest, advance
from xenflow.switch.foreign import Foreign
from xenflow.switch.forms import Forms
from xenflow.switch.installed import Installed
from xenflow.switch.jobs import Jobs
from xenflow.switch.kind import SwitchKind
from xenflow.switch.reading import FlowReader
from xenflow.switch.routes import Route, RouteWriter
from xenflow.tables import cookies, layout
from xenflow.tables.compare import against, difference, ours, reactive
from xenflow.tables.pipeline import Owner
from xenflow.tables.route_reading import READ_WHOLE
from xenflow.tables.routes import ODD, RouteUpdate, route_flow

log = logging.getLogger("xenflow.audit")

COUNT_S = 1.0
"""How often the switch is asked how many flows there are, and what is changed again and again is
put right."""
READ_S, READ_SHARE = 30e-6, 0.02
"""What reading one flow costs; the part of the time that reading may take."""
MONITOR_XID = 0xFFFF0003
OTHERS_XIDS = range(1, 0x80000000)
"""What the flow-mods of other components on this connection carry; ours carry 0, or more."""
ADDED_ROUTES = 100
"""The flow monitor of additions to table ROUTES; the others have their table's number."""
REFUSED_S = 10.0
"""How long a switch that refuses a question is not asked it again."""
ACCEPTED_S = 30.0
"""How often the small tables are read while a form of a flow is accepted."""
ANEW_S = 60.0
"""How often a switch whose count stays wrong is read again altogether."""
MANY, SETTLE_S = 5000, 0.2
"""More routes than that wait until nothing has been told of any for a moment."""
QUICK = 20
"""So many mends may follow each other at once: the news of a large table take seconds."""
AGAIN = 15
"""From so many seconds of mends in a row on `problems` says it."""
CHANGED = "changed"
"""Cause of a `Problems` entry."""


@dataclass(eq=False, repr=False)
class Audit:
    """See the module.

    live              whether what the switch holds is known
    owner_of          whom one of our flows belongs to, by its cookie
    put_routes_right  write these routes of a router, and delete those
    read_again        read back all that the switch holds
    """

    _kind: SwitchKind
    _channel: Channel
    _installed: Installed
    _routes: RouteWriter
    _reader: FlowReader
    _aside: Aside
    _jobs: Jobs
    _live: Callable[[], bool]
    _owner_of: Callable[[int], Owner]
    _put_routes_right: Callable[[str, Sequence[Route], Sequence[Route]], None]
    _read_again: Callable[[], None]

    def __post_init__(self) -> None:
        self.mended = 0
        """How many flows were put right."""
        self.mended_at: float | None = None
        self.looked_at: float | None = None
        """When the switch was last known to hold what it should, or what was put right then."""
        self.tells = False
        """Whether the switch tells what others change."""
        self._tells_additions = False
        self._hushed_until = 0.0
        self.foreign = Foreign(self._channel.problems)
        self.forms = Forms(self._channel.problems)
        self._clear()

    def _clear(self) -> None:
        self.foreign.clear()
        self.forms.accepted.clear()
        self._seen: dict[Key, Flow | None] = {}
        self._told: dict[int, dict[int, int | None]] = {}
        self._large: set[int] = set()
        """Small tables with so many flows that only ours are asked for."""
        self._doubt = False
        self._reading = self._counting = False
        self._count_at = self._read_at = self._name_at = self._credit_at = 0.0
        self._credit: float = QUICK
        self._heard_at = 0.0
        self._streak, self._streak_at = 0, 0.0
        self._unsaid = 0
        self._miscounted = 0
        self._missing = False
        self._anew_at = 0.0

    # --- what the switch does --------------------------------------------------------------------

    def connected(self) -> None:
        """A connection stands, and nothing has been read yet: ask to be told."""
        self._clear()
        self.tells = self._kind.nicira
        self.looked_at = None
        if not self.tells:
            return
        told = dict.fromkeys(
            range(len(layout.TABLES)), monitor.ADD | monitor.DELETE | monitor.MODIFY
        )
        told[layout.ROUTES] &= ~monitor.ADD
        asked = [monitor.request(table, table, what, MONITOR_XID) for table, what in told.items()]
        self._channel.tell(b"".join(asked))
        self._tells_additions = False

    def refused(self) -> None:
        """The switch has no flow monitors."""
        if self.tells:
            log.warning("%s does not tell what others change: it is read", self._channel.name)
        self.tells = False

    def bulk(self) -> None:
        """Many routes are about to be added."""
        if self._tells_additions:
            self._tells_additions = False
            self._channel.tell(monitor.cancel(ADDED_ROUTES))

    def hushed(self, until: float) -> None:
        """Until then there may be flows in INGRESS that end by themselves."""
        self._hushed_until = max(self._hushed_until, until)

    def found(self, flows: Iterable[Flow]) -> None:
        """Flows were read when the switch connected: who has written those that are not ours?"""
        for flow in flows:
            if not ours(flow):
                self.foreign.add(flow)

    def take(self, raw: bytes) -> None:
        """The switch tells what others have changed (`monitor.is_updates`)."""
        try:
            routes, message = self._routes.packer.read_updates(raw)
        except wire.WireError as error:
            log.warning("%s: flow monitor: %s", self._channel.name, error)
            self._doubt = True
            return
        if any(xid is None or xid in OTHERS_XIDS for xid in message.own):
            self._doubt = True
        if (routes or message.updates) and not self._live():
            self._doubt = True
        for route in routes:
            self._route(route)
        for event, flow in message.updates:
            if not reactive(flow):
                self._small(event, flow)

    def _route(self, update: RouteUpdate) -> None:
        event, router, net, span, hop, cookie = update
        key = net << 8 | span
        own = cookie == cookies.of(layout.ROUTES, router, cookies.route_chunk(net))
        if event != UpdateEvent.DELETED and not own:
            hop = ODD
            if self._routes.expected(router, key) is None:
                flow = route_flow(router, net, span, 0, cookie)
                self._small(UpdateEvent(event), replace(flow, actions=()))
                return
        self._heard_at = self._channel.clock.now()
        told = self._told.setdefault(router, {})
        told[key] = None if event == UpdateEvent.DELETED else hop

    def _small(self, event: UpdateEvent, flow: Flow) -> None:
        if flow.key in self._installed.flows or ours(flow):
            self._seen[flow.key] = None if event is UpdateEvent.DELETED else flow
        elif event is UpdateEvent.DELETED:
            self.foreign.gone(flow.key)
        else:
            self.foreign.add(flow)

    @property
    def pending(self) -> bool:
        """Whether it is known that the switch does not hold what it should."""
        return bool(self._seen or self._told)

    # --- time ------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due."""
        if not self._live():
            return
        self._credit = min(QUICK, self._credit + (now - self._credit_at) / COUNT_S)
        self._credit_at = now
        if (self._seen or self._told) and self._credit >= 1:
            self._credit -= 1
            self._mend(now)
        if self.forms.accepted:
            self.forms.keep(self._installed.flows, {})
            self._doubt |= now >= self._read_at + ACCEPTED_S
        if not self._reading and now >= self._read_at and (self._doubt or not self.tells):
            self._doubt = False
            self._reading = True
            self._begin(self._look(now))
        if not self._counting and now >= self._count_at:
            self._count_at = now + COUNT_S
            self._counting = True
            self._begin(self._count(now))
            if self._unsaid and now - (self.mended_at or 0) > 3 * COUNT_S:
                log.warning(
                    "%s: %d flows that somebody else had changed were written back",
                    self._channel.name,
                    self._unsaid,
                )
                self._unsaid = 0
                self._channel.problems.end(CHANGED)
        if now >= self._name_at:
            begun = self._channel.clock.now()
            self.foreign.name(self._installed.flows, self._routes.count > 0)
            self._name_at = now + max(COUNT_S, (self._channel.clock.now() - begun) / READ_SHARE)

    def _begin(self, steps: Generator[SwitchRequest, Any, None]) -> None:
        """Ask beside the jobs, until the switch goes away."""
        generation = self._channel.generation

        def go_on(value: Any = None) -> None:
            if generation != self._channel.generation:
                steps.close()
                return
            try:
                awaited = advance(steps, value)
            except StopIteration:
                return
            self._channel.ask(awaited, go_on)

        go_on()

    # --- counting --------------------------------------------------------------------------------

    def _count(self, now: float) -> Generator[SwitchRequest, Any, None]:
        """How many flows are there, and is it as many as there should be?"""
        try:
            quiet, edits = self._quiet, self._installed.edits
            written = self._channel.written
            reply = yield self._reader.count_request()
            if not reply or not self._live() or edits != self._installed.edits:
                return
            quiet = quiet and self._quiet and written == self._channel.written
            # Open vSwitch carries out in order, and so counts the small tables as they are believed
            # to be, while routes are written; another switch may do so at the next barrier.
            if not quiet and not self._kind.nicira:
                return
            if quiet and self.tells and not self._tells_additions:
                self._tells_additions = True
                more = ADDED_ROUTES, layout.ROUTES, monitor.ADD, MONITOR_XID
                self._channel.tell(monitor.request(*more))
            if not self._seen and not self._told and self._as_many(reply, quiet):
                self._miscounted = 0
                if self.tells:
                    self.looked_at = now
                return
            self._miscounted += 1
            if self._miscounted % 2 == 0 or not self._kind.nicira:
                self._doubt = True
                self._read_at = now
            elif self._missing and self._miscounted > 4 and now >= self._anew_at:
                self._anew_at = now + ANEW_S
                self._read_again()
        except NotAnsweredError:
            self._count_at = now + REFUSED_S
        finally:
            self._counting = False

    @property
    def _quiet(self) -> bool:
        """Whether the switch holds what is believed: nothing is on its way."""
        return self._live() and not self._jobs.busy and not self._channel.in_flight_bytes

    def _as_many(self, reply: list[Any], quiet: bool) -> bool:
        """Whether so many are there as should be: routes where the switch is `quiet`."""
        expected: dict[int, int] = {}
        for table, _, _ in [*self._installed.flows, *self.foreign.flows]:
            expected[table] = expected.get(table, 0) + 1
        small = self._kind.counts(reply)
        if self._kind.nicira:  # otherwise none can be asked for ours alone
            self._large = {table for table, flows in small.items() if flows > READ_WHOLE}
        routes = small.pop(layout.ROUTES, 0)
        wanted = self._routes.count + expected.pop(layout.ROUTES, 0)
        # There before, or added while that was not told; of a router that is set aside it is not
        # known how many are there.
        if quiet:
            self.foreign.beside = 0 if self._aside else max(0, routes - wanted)
        self._missing = quiet and routes < wanted
        if self._missing:
            return False
        unknown = self.foreign.overfull | self._large
        if self._kind.asks or self._channel.clock.now() < self._hushed_until:
            unknown.add(layout.INGRESS)
        return all(
            small.get(table, 0) == expected.get(table, 0)
            for table in (small.keys() | expected.keys()) - unknown
        )

    # --- reading ---------------------------------------------------------------------------------

    def _look(self, now: float) -> Generator[SwitchRequest, Any, None]:
        """Read the small tables, put right what differs, and read that again: what then reads as
        before is in force and reads otherwise in this switch, whose form of it is accepted."""
        count, pause_s, whole = 0, COUNT_S, True
        try:
            for table in self._kind.small_tables:
                seen = yield from self._read(table)
                if seen is None:
                    self._doubt, whole = True, False
                    continue
                count += len(seen)
                mended = self._put_right(seen, now)
                if mended:
                    again = yield from self._read(table)
                    for key in mended:
                        form = (again or {}).get(key)
                        # What is none of ours, or was told of since, somebody else has put back.
                        if key not in self._installed.flows or key in self._seen:
                            continue
                        if form is not None and form == seen.get(key):
                            self.forms.accept(self._installed.flows[key], form)
            if whole:
                self.looked_at = now
        except NotAnsweredError:
            self._doubt, pause_s = True, REFUSED_S
        finally:
            self._reading = False
            self._read_at = now + max(pause_s, count * READ_S / READ_SHARE)

    def _read(self, table: int) -> Generator[SwitchRequest, Any, dict[Key, Flow | None] | None]:
        """What a small table holds; None where it does not stand still meanwhile."""
        for _ in range(3):
            edits = self._installed.edits
            reply = yield self._reader.table_request(table, self._large)
            flows = [stats.flow for stats in reply]
            if not self._live():
                return None
            if edits == self._installed.edits:
                installed = self._installed.flows
                kept: list[Flow] = []
                others: list[Flow] = []
                for flow in flows:
                    (kept if ours(flow) or flow.key in installed else others).append(flow)
                self.foreign.are(table, others)
                found = against(table, kept, installed)
                self.forms.keep(installed, found)
                return found
        return None

    # --- mending ---------------------------------------------------------------------------------

    def _mend(self, now: float) -> None:
        seen, self._seen = self._seen, {}
        self._put_right(seen, now)
        if sum(map(len, self._told.values())) > MANY and now - self._heard_at < SETTLE_S:
            return  # the rest of the small tables may still be behind these news
        routes, self._told = self._told, {}
        for router, found in routes.items():
            self.foreign.routes_gone(router, found)
            own = cookies.of(layout.ROUTES, router)
            self._has_mended(self._mend_routes(router, found), now, own)

    def _mend_routes(self, router: int, found: Mapping[int, int | None]) -> int:
        name, adds, gone = self._routes.differing(router, found)
        if adds or gone:
            self._put_routes_right(name, adds, gone)
        return len(adds) + len(gone)

    def _put_right(self, seen: dict[Key, Flow | None], now: float) -> list[Key]:
        differs = difference(seen, self._installed.flows, self.forms.accepted)
        self._installed.write_at_once(differs.batches)
        flows = [flow for batch in differs.batches for _, flow in batch]
        if flows:
            self._has_mended(differs.mended, now, flows[0].cookie)
        return [flow.key for flow in flows]

    def _has_mended(self, count: int, now: float, first: int) -> None:
        """So many flows, the first of which has this cookie, were put right."""
        if not count:
            return
        if self.mended_at is None or now - self.mended_at > 3 * COUNT_S:
            self._streak, self._streak_at = 1, now
        elif now - self._streak_at >= COUNT_S:
            self._streak, self._streak_at = self._streak + 1, now
        self.mended += count
        self.mended_at = now
        if not self._unsaid:
            log.warning(
                "%s: somebody else changes its flows, those of %s first: they are written back",
                self._channel.name,
                self._owner_of(first),
            )
        self._unsaid += count
        if self._streak >= AGAIN:
            words = "somebody else changes its flows again and again"
            self._channel.problems.begin(CHANGED, words)

    def row(self, now: float) -> dict[str, Any]:
        """For verb status."""
        return {
            "by": "telling" if self.tells else "reading",
            "looked_s": None if self.looked_at is None else round(now - self.looked_at, 3),
            "mended": self.mended,
            "mended_s": None if self.mended_at is None else round(now - self.mended_at, 3),
            "foreign": self.foreign.count,
            "covering": [text(flow) for flow in self.foreign.covering],
        }
