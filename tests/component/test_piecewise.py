"""A full table never has to be in two places at once: back-pressure, and mirrors piece by piece."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import zmq

from tests.pure.written_switch import Switch  # noqa: F401 the core's stand-in is importable then
from xenflow import mirror, zmq_pump
from xenflow.pure import management as mg
from xenflow.pure import messages as m
from xenflow.pure.feed import Feed, Phase
from xenflow.pure.messages import Kind, NextHopType, Op, Section
from xenflow.pure.router_state import RouterState


class Socket:
    """As much of a ZeroMQ socket as a pump looks at."""

    def __init__(self, count: int) -> None:
        self.waiting = deque([b"%d" % n] for n in range(count))

    def getsockopt(self, option: int) -> int:
        return (zmq.POLLIN if self.waiting else 0) if option == zmq.EVENTS else 0

    def recv_multipart(self, _: int) -> list[bytes]:
        return self.waiting.popleft()


class Turns:
    """A pump whose turns a test takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        self.taken: list[list[bytes]] = []
        self.full = False
        self.socket = Socket(count)
        monkeypatch.setattr(zmq_pump, "Task", lambda target: self)
        self.pump = zmq_pump.Pump(self.socket, self.taken.append, lambda: self.full)  # type: ignore[arg-type]
        self.steps = self.pump._take()

    def start(self) -> None:
        """As a task has it."""

    def turn(self) -> Any:
        """What the pump waits for next."""
        return next(self.steps)


def test_messages_stay_in_their_queue_while_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = Turns(monkeypatch, 3)
    turns.full = True
    assert isinstance(turns.turn(), zmq_pump.Sleep)
    assert isinstance(turns.turn(), zmq_pump.Sleep)
    assert len(turns.socket.waiting) == 3
    turns.full = False
    turns.turn()
    assert turns.taken == [[b"0"], [b"1"], [b"2"]]


def test_one_more_is_taken_when_there_is_no_room_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zmq_pump, "PATIENCE_S", 0.0)
    turns = Turns(monkeypatch, 3)
    turns.full = True
    turns.turn()
    assert turns.taken == [[b"0"]]
    turns.turn()
    assert len(turns.taken) == 2


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
