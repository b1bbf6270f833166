"""A full table never has to be in two places at once: mirrors send it piece by piece."""

from __future__ import annotations

from typing import Any

import pytest
import zmq

from xenflow.control import mirror
from xenflow.model import management as mg
from xenflow.routes import messages as m
from xenflow.routes.feed import Feed, Phase
from xenflow.routes.messages import Kind, NextHopType, Op, Section
from xenflow.routes.router_state import RouterState


def known(routes: int) -> RouterState:
    state = RouterState()
    hop = m.NextHop(1, NextHopType.VIA, 4, 2, 1, 0)
    table = [(n << 8, 24, 1) for n in range(routes)]
    state.apply([Section(Kind.NEXTHOP, Op.SET, [hop]), Section(Kind.ROUTE4, Op.SET, table)])
    state.epoch, state.seq = 7, 1
    return state


class Other:
    """The other controller: answers one request at a time, when told to."""

    def __init__(self) -> None:
        self.feed = Feed("vr1")
        self.asked: list[Any] = []
        self.closed = False

    def start(self) -> None:
        """As a pump has it."""

    def send(self, frames: list[bytes]) -> None:
        self.asked.append(mg.parse_request(frames[-1]))

    def answer(self) -> list[bytes]:
        request = self.asked.pop()
        assert not self.asked
        self.feed.receive(request.arguments["frames"], 0.0, "mirror")
        return [b"", mg.reply(request.id, {"phase": self.feed.phase.value})]


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Other:
    found = Other()
    monkeypatch.setattr(mirror, "Pump", lambda sock, receive: found)
    return found


def test_a_mirror_sends_the_state_of_its_beginning_and_then_what_changed(other: Other) -> None:
    state = known(9000)
    later: list[Any] = []
    with zmq.Context() as context:
        begun = mirror.Mirror(
            context, "vr1", "tcp://127.0.0.1:1", lambda _: state, lambda *a: later.append(a)
        )
        parts = 0
        while other.asked:
            if parts == 1:  # half-way a route goes, and another comes
                change = [
                    Section(Kind.ROUTE4, Op.DELETE, [(8999 << 8, 24, 1)]),
                    Section(Kind.ROUTE4, Op.SET, [(9001 << 8, 24, 1)]),
                ]
                state.apply(change)
                state.seq += 1
                begun.send(m.pack(m.Header(m.Type.DELTA, 7, 2, "vr1"), change))
            begun._answered(other.answer())
            parts += 1
        assert parts > 4 and not later
        assert other.feed.phase is Phase.CURRENT
        assert other.feed.state.same(state) and other.feed.state.seq == 2
        begun._socket.close() if hasattr(begun, "_socket") else None
        context.destroy(linger=0)


def test_what_waits_for_a_slow_controller_is_bounded_and_a_snapshot_takes_its_place(
    other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "MAX_QUEUED", 10)
    state = known(9000)
    later: list[Any] = []
    with zmq.Context() as context:
        begun = mirror.Mirror(
            context, "vr1", "tcp://127.0.0.1:1", lambda _: state, lambda *a: later.append(a)
        )
        for n in range(100):
            change = [Section(Kind.ROUTE4, Op.SET, [((10_000 + n) << 8, 24, 1)])]
            state.apply(change)
            state.seq += 1
            begun.send(m.pack(m.Header(m.Type.DELTA, 7, state.seq, "vr1"), change))
            assert len(begun._queue) <= 10
            if n % 20 == 19:
                begun._answered(other.answer())
        while other.asked:
            begun._answered(other.answer())
        assert other.feed.phase is Phase.CURRENT and not later
        assert other.feed.state.same(state) and other.feed.state.seq == 101
        context.destroy(linger=0)


def test_an_answer_that_is_still_to_come_is_waited_for(other: Other) -> None:
    state = known(10)
    with zmq.Context() as context:
        begun = mirror.Mirror(context, "vr1", "tcp://127.0.0.1:1", lambda _: state, lambda *a: None)
        request = other.asked[0]
        begun._waiting = request.id, 0.0
        begun._answered([b"", mg.part(request.id, [])])
        assert len(other.asked) == 1
        assert begun._waiting is not None and begun._waiting[1] > 0.0
        begun._answered(other.answer())
        assert len(other.asked) == 1 and other.asked[0].id != request.id
        context.destroy(linger=0)
