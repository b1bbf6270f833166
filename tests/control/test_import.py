"""What a controller is told of a router by a mirror, and what happens when it cannot be taken."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from tests.written_switch import PlayedHost
from xenflow.control.leases import Leases
from xenflow.control.management_service import ManagementService
from xenflow.control.rule_table import TOO_MANY_WAITING
from xenflow.model import management as mg
from xenflow.openflow import wire
from xenflow.routes import messages as m
from xenflow.routes.feed import Phase
from xenflow.routes.messages import (
    Header,
    NextHop,
    NextHopType,
    Op,
    RouteMessageType,
    Section,
    SectionKind,
)
from xenflow.switch.clock import Clock
from xenflow.tables import cookies, layout

ROUTES = 20_000


def hops() -> list[bytes]:
    records = [NextHop(n, NextHopType.VIA, 4, 2, n, n) for n in (1, 2)]
    return list(
        m.pack(
            Header(RouteMessageType.SNAPSHOT, 7, 1, "vr1"),
            [Section(SectionKind.NEXTHOP, Op.SET, records)],
        )
    )


def end(seq: int, part: int) -> list[bytes]:
    return list(m.pack(Header(RouteMessageType.SNAPSHOT_END, 7, seq, "vr1", part), []))


def delta(seq: int, routes: int, op: Op = Op.SET) -> list[bytes]:
    rows = [((10 << 24) + (n << 8), 24, 1 + seq % 2) for n in range(routes)]
    return list(
        m.pack(
            Header(RouteMessageType.DELTA, 7, seq, "vr1"), [Section(SectionKind.ROUTE4, op, rows)]
        )
    )


class Importing:
    """The management interface of a host's controller; its time is a test's."""

    def __init__(self) -> None:
        self.host = PlayedHost()
        self.now = 100.0
        self.waiting: list[Any] = []
        self.answers: list[dict[str, Any]] = []
        self.host.table.clock = Clock(self._later, lambda: self.now)
        self._service = ManagementService(
            self.host.table, Leases(), "test", cast(Any, None), cast(Any, None)
        )

    def _later(self, _: float, call: Any, *given: Any) -> None:
        self.waiting.append((call, given))

    def take(self, frames: list[bytes]) -> None:
        request = mg.request("import", "1", router="vr1", frames=frames)
        self._service.take(request, lambda answer: self.answers.append(json.loads(answer)))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        waiting, self.waiting = self.waiting, []
        for call, given in waiting:
            call(*given)

    def begin(self) -> None:
        self.take(hops())
        self.take(end(1, 1))
        self.host.wire.run()
        assert self.answers.pop()["phase"] == Phase.CURRENT.value
        self.answers.clear()


def test_an_import_is_answered_when_there_is_room_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imports = Importing()
    imports.begin()
    written = imports.host.wire
    late, take = [], written._take

    def keep(message: bytes) -> None:
        late.append(message) if message[1] == wire.MessageType.BARRIER_REQUEST else take(message)

    monkeypatch.setattr(written, "_take", keep)
    seq, patience_s = 1, imports.host.table.patience_s
    while not patience_s("vr1"):
        imports.answers.clear()
        imports.take(delta(seq := seq + 1, ROUTES))
        assert seq < 10, "there is always room"
    for _ in range(20):
        if patience_s("vr1") == float("inf"):
            break
        imports.pass_time(1.0)  # little room: one more may be what makes some
        imports.answers.clear()
        imports.take(delta(seq := seq + 1, ROUTES))
    imports.answers.clear()
    for _ in range(30):
        imports.pass_time(0.6)
    assert imports.answers and all(answer["more"] for answer in imports.answers)
    assert imports.host.switch.jobs.waiting("vr1") <= TOO_MANY_WAITING + ROUTES + 1
    monkeypatch.setattr(written, "_take", take)
    for message in late:
        take(message)
    written.run()
    imports.pass_time(0.1)
    assert imports.answers[-1]["phase"] == Phase.CURRENT.value and not imports.waiting
    assert imports.answers[-1]["seq"] == seq


def test_what_only_asks_is_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    imports = Importing()
    imports.begin()
    monkeypatch.setattr(imports.host.table, "patience_s", lambda router: float("inf"))
    imports.take([])
    assert [answer["seq"] for answer in imports.answers] == [1]


def test_a_change_that_a_switch_was_not_told_reaches_it_after_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imports = Importing()
    imports.begin()
    host = imports.host
    table, wire, switch = host.table, host.wire, host.switch
    table.heard("vr1", "peer", delta(2, 5), local=True)
    wire.run()
    assert routes(host) == 5
    with monkeypatch.context() as failing:
        failing.setattr(switch, "changed", fails)
        with pytest.raises(MemoryError):
            table.heard("vr1", "peer", delta(3, 3, Op.DELETE), local=True)
    wire.run()
    feed = table.feeds["vr1"]
    known = len(feed.state.routes)
    assert (feed.phase, known) == (Phase.DOUBTED, 2)
    hello = m.pack(Header(RouteMessageType.HELLO, 7, 3, "vr1"), [])
    ((_, reply),) = table.heard("vr1", "again", hello, local=True).replies
    assert m.parse_header(reply).type is RouteMessageType.RESYNC
    rows = [((10 << 24) + (n << 8), 24, 1) for n in (3, 4)]
    records = [NextHop(n, NextHopType.VIA, 4, 2, n, n) for n in (1, 2)]
    whole = [
        Section(SectionKind.NEXTHOP, Op.SET, records),
        Section(SectionKind.ROUTE4, Op.SET, rows),
    ]
    table.heard(
        "vr1", "again", m.pack(Header(RouteMessageType.SNAPSHOT, 7, 3, "vr1", 0), whole), local=True
    )
    table.heard("vr1", "again", end(3, 1), local=True)
    wire.run()
    while "vr1" in switch.aside and wire.waiting:
        wire.pass_time()
    assert not switch.aside
    assert routes(host) == 2


def fails(*_: Any) -> None:
    raise MemoryError


def routes(host: PlayedHost) -> int:
    """How many routes the switch holds."""
    number = host.table.network.routers["vr1"].id
    return sum(
        flow.table == layout.ROUTES and cookies.router_of(flow.cookie) == number
        for flow in host.wire.tables
    )
