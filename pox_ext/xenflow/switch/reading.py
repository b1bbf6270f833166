"""Reading what a switch holds: all of it, a table's part, or what its counters count.

Much is read in parts, with pauses, so that neither the switch nor the controller stands still
meanwhile (`tables.route_reading`).  How a switch can be asked at all depends on its kind, which
says which reader it has.

Called by `switch`, `writer` and `audit`, and for what is shown or moved by `control.shown`,
`control.moves` and `refused`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xenflow.model.network import Router
from xenflow.openflow import statistics
from xenflow.openflow.flow import Flow
from xenflow.openflow.statistics import FlowStats
from xenflow.openflow.wire import ALL_TABLES
from xenflow.switch.channel import Answer, Channel, NotAnsweredError, SwitchRequest, advance
from xenflow.tables import cookies, layout
from xenflow.tables.route_reading import (
    READ_WHOLE,
    Chunks,
    Count,
    Question,
    chunk_questions,
    reading,
)
from xenflow.tables.route_reading import Reading as Questions

if TYPE_CHECKING:
    from xenflow.switch.installed import Installed
    from xenflow.switch.kind import SwitchKind

PACE_S = 0.002
"""Pause between two parts of a large table."""
COUNT_PACE_S = 0.02
"""Pause after a question for which the switch looked at every flow of a table."""
EXACT_COOKIE = 0xFFFFFFFFFFFFFFFF

Steps = Generator[SwitchRequest | float, Any, None]
Take = Callable[[list[Flow]], None]


@dataclass(eq=False, repr=False)
class FlowReader:
    """Of a switch with Nicira's extensions."""

    _channel: Channel
    _kind: SwitchKind
    _installed: Installed

    def flows_request(self, table: int, cookie: int, mask: int) -> SwitchRequest:
        """Which flows are there with this cookie under this mask?"""
        xid = self._channel.xid()
        return SwitchRequest(xid, statistics.flow_request(table, cookie, mask, xid=xid))

    def table_request(self, table: int, large: Container[int]) -> SwitchRequest:
        """All flows of a table, or ours alone where it is one of the large ones."""
        if table in large:
            return self.flows_request(table, cookies.MAGIC, cookies.MAGIC_MASK)
        return self.flows_request(table, 0, 0)

    def count_request(self) -> SwitchRequest:
        """How many flows are there?"""
        xid = self._channel.xid()
        return SwitchRequest(xid, statistics.table_request(xid))

    # --- for jobs -----------------------------------------------------------------------------

    def everything(self, take: Take, take_routes: Take) -> Steps:
        """All flows of the small tables, and ours of table ROUTES."""
        counts = self._kind.counts((yield self.count_request()))
        large = {table for table, flows in counts.items() if flows > READ_WHOLE}
        for table in self._kind.small_tables:
            take([stats.flow for stats in (yield self.table_request(table, large))])
        routes = counts.get(layout.ROUTES, 0)
        yield from self._routes(reading(routes, self._installed.with_next_hops()), take_routes)

    def routes_of(self, router: int, take_routes: Take) -> Steps:
        """The routes of one router, by its id."""
        yield from self._routes(chunk_questions(router), take_routes)

    def count_routes(self, router: int) -> Generator[SwitchRequest, Any, int]:
        """How many routes the switch holds of a router, by its id.  Where it holds few in all,
        their number: then it need not look at each."""
        routes = self._kind.counts((yield self.count_request())).get(layout.ROUTES, 0)
        if routes <= READ_WHOLE:
            return routes
        own = cookies.of(layout.ROUTES, router)
        return (yield from self._count(own, cookies.TABLE_MASK | cookies.ROUTER_MASK))

    def _routes(self, questions: Questions, take_routes: Take) -> Steps:
        def take(stats: list[FlowStats]) -> None:
            take_routes([each.flow for each in stats])

        yield from self._read(questions, take)

    def _read(self, questions: Questions, take: Callable[[list[FlowStats]], bool | None]) -> Steps:
        """Ask the questions one after the other, with pauses, until `take` says that it has
        enough."""
        try:
            question = next(questions)
            while True:
                count, flows = yield from self._read_part(question)
                if take(flows):
                    return
                yield COUNT_PACE_S if isinstance(question, Count) else PACE_S
                question = questions.send(count)
        except StopIteration:
            return

    def _read_part(
        self, question: Question
    ) -> Generator[SwitchRequest, Any, tuple[int, list[FlowStats]]]:
        if isinstance(question, Count):
            return (yield from self._count(question.cookie, question.mask)), []
        if not isinstance(question, Chunks):
            flows = yield self.flows_request(layout.ROUTES, question.cookie, question.mask)
            return len(flows), flows
        *others, last = (
            self.flows_request(layout.ROUTES, cookie, EXACT_COOKIE) for cookie in question.cookies
        )
        answers: list[Answer] = []
        for request in others:
            self._channel.ask(request, answers.append)
        answers.append((yield last))
        flows = []
        for answer in answers:
            if isinstance(answer, NotAnsweredError):
                raise answer
            flows += answer
        return len(flows), flows

    def _count(self, cookie: int, mask: int) -> Generator[SwitchRequest, Any, int]:
        xid = self._channel.xid()
        request = statistics.aggregate_request(layout.ROUTES, cookie, mask, xid=xid)
        counted = yield SwitchRequest(xid, request)
        return counted[0].flows if counted else 0

    # --- beside the jobs ----------------------------------------------------------------------

    def stats(
        self,
        then: Callable[[list[FlowStats] | NotAnsweredError], None],
        table: int = ALL_TABLES,
        cookie: int = 0,
        mask: int = 0,
    ) -> None:
        """Read flows with their counters."""
        self._channel.ask(self.flows_request(table, cookie, mask), then)

    def show(
        self,
        table: int,
        cookie: int,
        mask: int,
        limit: int,
        then: Callable[[list[FlowStats] | NotAnsweredError, int], None],
    ) -> None:
        """Read flows with their counters: `then(some, how many there are)`.  All of them, where
        they are few; of many routes no more than `limit`, chunk by chunk."""
        steps = self._some(table, cookie, mask, limit)

        def go_on(value: Any = None) -> None:
            try:
                awaited = advance(steps, value)
            except StopIteration as end:
                then(*end.value)
                return
            except NotAnsweredError as error:
                then(error, 0)
                return
            if isinstance(awaited, SwitchRequest):
                self._channel.ask(awaited, go_on)
            else:
                self._channel.clock.later(awaited, go_on)

        go_on()

    def _some(
        self, table: int, cookie: int, mask: int, limit: int
    ) -> Generator[SwitchRequest | float, Any, tuple[list[FlowStats], int]]:
        routes = 0
        if table in (ALL_TABLES, layout.ROUTES):
            routes = yield from self._count(cookie, mask)
        if routes <= READ_WHOLE:
            flows = yield self.flows_request(table, cookie, mask)
            return flows, len(flows)
        some: list[FlowStats] = []
        if table == ALL_TABLES:
            for other in self._kind.small_tables:
                some += yield self.flows_request(other, cookie, mask)
        total = len(some) + routes
        one = cookies.router_of(cookie & mask)
        likely = self._installed.with_next_hops()
        questions = chunk_questions(one) if one else reading(routes, likely)

        def take(flows: list[FlowStats]) -> bool:
            some.extend(flows)
            return len(some) >= limit

        yield from self._read(questions, take)
        return some, total

    def arrivals(self, router: Router, then: Callable[[int | NotAnsweredError], None]) -> None:
        """Count the packets that have arrived for a router, as far as the counters know."""

        def admitted(stats: Answer) -> None:
            if isinstance(stats, NotAnsweredError) or not self._kind.asks:
                then(_counted(stats))
                return
            total = _packets(stats)
            own = cookies.of(layout.REACTIVE_KIND, router.id)
            self.stats(
                lambda exact: then(_counted(exact, router, total)), layout.INGRESS, own, mask
            )

        own = cookies.of(layout.ADMISSION, router.id)
        mask = cookies.TABLE_MASK | cookies.ROUTER_MASK
        self.stats(admitted, layout.ADMISSION, own, mask)


class PlainFlowReader(FlowReader):
    """Of a switch that can only be asked for all its flows."""

    def flows_request(self, table: int, cookie: int, mask: int) -> SwitchRequest:
        xid = self._channel.xid()
        return SwitchRequest(xid, statistics.flow_request_of10(xid=xid))

    def count_request(self) -> SwitchRequest:
        xid = self._channel.xid()
        return SwitchRequest(xid, statistics.aggregate_request_of10(xid=xid))

    def everything(self, take: Take, take_routes: Take) -> Steps:
        """See `FlowReader`: there is one table."""
        take([stats.flow for stats in (yield self.flows_request(0, 0, 0))])

    def _some(
        self, table: int, cookie: int, mask: int, limit: int
    ) -> Generator[SwitchRequest | float, Any, tuple[list[FlowStats], int]]:
        flows = yield self.flows_request(0, 0, 0)
        return flows, len(flows)

    def arrivals(self, router: Router, then: Callable[[int | NotAnsweredError], None]) -> None:
        self.stats(lambda stats: then(_counted(stats, router)))


def _counted(answer: Answer, router: Router | None = None, more: int = 0) -> int | NotAnsweredError:
    """The packets that flows have counted (`router`: as far as that says that they have arrived
    for it), and more."""
    if isinstance(answer, NotAnsweredError):
        return answer
    if router is None:
        return more + _packets(answer)
    return more + _packets(s for s in answer if cookies.taken_in(s.flow.cookie) == router.id)


def _packets(stats: Iterable[FlowStats]) -> int:
    return sum(s.packets for s in stats)
