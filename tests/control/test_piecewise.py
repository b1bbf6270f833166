"""A full table never has to be in two places at once: mirrors send it piece by piece."""

from __future__ import annotations

from typing import Any

import pytest
import zmq

from xenflow.control import mirror
from xenflow.model import management as mg
from xenflow.routes import messages as m
from xenflow.routes.feed import Feed, Phase
from xenflow.routes.messages import NextHopType, Op, Section, SectionKind
from xenflow.routes.router_state import RouterState


class Copied(RouterState):
    """A state that counts how often all of it is copied."""

    copies = 0

    def copy(self) -> RouterState:
        Copied.copies += 1
        return super().copy()


def known(routes: int) -> RouterState:
    state = RouterState()
    hop = m.NextHop(1, NextHopType.VIA, 4, 2, 1, 0)
    table = [(n << 8, 24, 1) for n in range(routes)]
    state.apply(
        [Section(SectionKind.NEXTHOP, Op.SET, [hop]), Section(SectionKind.ROUTE4, Op.SET, table)]
    )
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

    def close(self) -> None:
        self.closed = True

    def send(self, frames: list[bytes]) -> None:
        self.asked.append(mg.parse_request(frames[-1]))

    def refuse(self) -> list[bytes]:
        return [b"", mg.error_reply(self.asked.pop().id, mg.ManagementError("refused", "no"))]

    def behind(self) -> list[bytes]:
        return [b"", mg.reply(self.asked.pop().id, {"phase": Phase.BEHIND.value})]

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
    with zmq.Context() as context:
        begun = mirror.RouteMirror(
            context, "vr1", "tcp://127.0.0.1:1", lambda _: state, lambda: 1000.0
        )
        parts = 0
        while other.asked:
            if parts == 1:  # half-way a route goes, and another comes
                change = [
                    Section(SectionKind.ROUTE4, Op.DELETE, [(8999 << 8, 24, 1)]),
                    Section(SectionKind.ROUTE4, Op.SET, [(9001 << 8, 24, 1)]),
                ]
                state.apply(change)
                state.seq += 1
                begun.send(m.pack(m.Header(m.RouteMessageType.DELTA, 7, 2, "vr1"), change))
            begun._answered(other.answer())
            parts += 1
        assert parts > 4 and begun._again_at is None
        assert other.feed.phase is Phase.CURRENT
        assert other.feed.state.same(state) and other.feed.state.seq == 2
        context.destroy(linger=0)


def test_what_waits_for_a_slow_controller_is_bounded_and_a_snapshot_takes_its_place(
    other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "MAX_QUEUED", 10)
    state = known(9000)
    with zmq.Context() as context:
        begun = mirror.RouteMirror(
            context, "vr1", "tcp://127.0.0.1:1", lambda _: state, lambda: 1000.0
        )
        for n in range(100):
            change = [Section(SectionKind.ROUTE4, Op.SET, [((10_000 + n) << 8, 24, 1)])]
            state.apply(change)
            state.seq += 1
            begun.send(m.pack(m.Header(m.RouteMessageType.DELTA, 7, state.seq, "vr1"), change))
            assert len(begun._queue) <= 10
            if n % 20 == 19:
                begun._answered(other.answer())
        while other.asked:
            begun._answered(other.answer())
        assert other.feed.phase is Phase.CURRENT and begun._again_at is None
        assert other.feed.state.same(state) and other.feed.state.seq == 101
        context.destroy(linger=0)


def test_an_answer_that_is_still_to_come_is_waited_for(other: Other) -> None:
    state = known(10)
    with zmq.Context() as context:
        begun = mirror.RouteMirror(
            context, "vr1", "tcp://127.0.0.1:1", lambda _: state, lambda: 1000.0
        )
        request = other.asked[0]
        begun._waiting = request.id, 0.0
        begun._answered([b"", mg.part(request.id)])
        assert len(other.asked) == 1
        assert begun._waiting is not None and begun._waiting[1] > 0.0
        begun._answered(other.answer())
        assert len(other.asked) == 1 and other.asked[0].id != request.id
        context.destroy(linger=0)


@pytest.mark.parametrize("refused", [True, False])
def test_what_is_refused_or_not_understood_begins_again_once(
    other: Other, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """However much the router goes on saying: all of that is in the next snapshot."""
    now = 1000.0
    monkeypatch.setattr(Copied, "copies", 0)
    state = Copied()
    mirrors = mirror.RouteMirrors(zmq.Context.instance(), lambda: now)
    mirrors.start("vr1", "tcp://127.0.0.1:1", lambda _: state)
    for _ in range(500):  # for 5 s
        now += 0.01
        mirrors.pass_on("vr1", [b"x"])
        while other.asked:
            (begun,) = mirrors._mirrors.values()
            begun._answered(other.refuse() if refused else other.behind())
        mirrors.tick(now)
    assert 3 <= Copied.copies <= 1 + 5 / (mirror.REFUSED_S if refused else mirror.BEHIND_S)
    mirrors.stop("vr1", "tcp://127.0.0.1:1")
    copies = Copied.copies
    mirrors.tick(now + 10.0)
    assert Copied.copies == copies
