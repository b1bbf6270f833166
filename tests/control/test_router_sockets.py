"""What a router says is read as it may be; the rest stays in the kernel, where it is bounded."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from xenflow.control import router_sockets, zmtp
from xenflow.switch.problems import LINES


class Link:
    """A router's connection, whose turns a test takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patience_s = 0.0
        self.pause_s = 0.0
        self.taken: list[list[bytes]] = []
        self.unread: list[bytes] = []
        self.failing = False
        self.now = 100.0
        self.router, ours = socket.socketpair()
        ours.setblocking(False)
        monkeypatch.setattr(router_sockets, "Task", lambda target: self)
        reader = router_sockets.Reader(
            self.receive, lambda router: self.patience_s, self.note_unread, lambda: self.now
        )
        self.listener = router_sockets._Listener("vr1", ours, reader)
        self.peer = router_sockets._Peer(self.listener, ours, b"peer")
        self.listener.peers[b"peer"] = self.peer
        self.steps = self.peer._run()
        self.router.sendall(zmtp.GREETING + zmtp.ready(b"DEALER"))
        self.turns(2)

    def start(self) -> None:
        """As a task has it."""

    def receive(self, router: str, peer: bytes, frames: list[bytes]) -> float:
        if self.failing:
            raise MemoryError
        self.taken.append(frames)
        return self.pause_s

    def note_unread(self, router: str, peer: bytes) -> None:
        self.unread.append(peer)

    def heard(self) -> bytes:
        """What the router was sent."""
        return self.router.recv(65536, socket.MSG_DONTWAIT)

    def say(self, *messages: bytes) -> None:
        self.router.sendall(b"".join(zmtp.message([m]) for m in messages))

    def turns(self, count: int) -> list[Any]:
        return [next(self.steps) for _ in range(count)]


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    made = Link(monkeypatch)
    yield made
    made.peer.close()
    made.router.close()


def test_while_there_is_no_room_nothing_more_is_taken(link: Link) -> None:
    link.patience_s = float("inf")
    link.say(b"0", b"1", b"2")
    waits = link.turns(50)
    assert link.taken == [[b"0"]]
    assert all(isinstance(one, router_sockets.Sleep) for one in waits[2:])
    link.patience_s = 0.0
    link.turns(3)
    assert link.taken == [[b"0"], [b"1"], [b"2"]]


def test_who_is_not_read_is_given_signs_of_life_and_no_more_of_them_than_are_needed(
    link: Link,
) -> None:
    """libzmq gives a connection up 0.6 s after a PING that nothing followed."""
    link.heard()
    link.patience_s = float("inf")
    link.say(b"0", b"1")
    link.turns(2)
    for _ in range(20):  # 6 s
        link.now += 0.3
        link.turns(5)
        assert link.heard() == zmtp.PONG
    assert link.taken == [[b"0"]]
    assert link.unread == [b"peer"] * 20


def test_who_says_more_than_it_may_is_given_signs_of_life_too(link: Link) -> None:
    link.heard()
    link.pause_s = router_sockets.MAX_PAUSE_S
    link.say(b"0", b"1")
    heard = b""
    while len(link.taken) < 2:
        (pause,) = link.turns(1)
        if isinstance(pause, router_sockets.Sleep):
            link.now += router_sockets.ALIVE_S
        with suppress(BlockingIOError):
            heard += link.heard()
    assert heard.count(zmtp.PONG) >= 5


def test_one_more_is_taken_when_there_is_little_room_for_long(link: Link) -> None:
    link.patience_s = 0.5
    link.say(b"0", b"1", b"2")
    link.turns(10)
    assert link.taken == [[b"0"]]
    link.now += 0.6
    link.turns(10)
    assert link.taken == [[b"0"], [b"1"]]


def test_who_says_more_than_it_may_is_not_read_for_as_long(link: Link) -> None:
    link.pause_s = router_sockets.ALIVE_S
    link.say(b"0", b"1")
    for said in ([b"0"], [b"1"]):
        (pause,) = link.turns(1)
        assert isinstance(pause, router_sockets.Sleep)
        assert link.taken[-1] == said


def test_what_cannot_be_dealt_with_ends_the_connection_and_is_said_once(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    link.failing = True
    for _ in range(100):
        link.listener.give(b"peer", [b"x"])
    assert link.peer.closed
    assert caplog.text.count("Traceback") == 1


def test_bad_connections_are_few_lines(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for _ in range(100):
        router, ours = socket.socketpair()
        ours.setblocking(False)
        router.sendall(b"no ZeroMQ" * 20)
        assert list(router_sockets._Peer(link.listener, ours, b"other")._run())[1:] == []
        router.close()
    assert 1 <= len(caplog.records) <= LINES


def test_connections_that_are_closed_and_not_gone_yet_are_bounded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that is not read for a second keeps its descriptor so long, and a router may connect
    hundreds of times in that."""
    tasks: list[Any] = []

    class Task:
        def __init__(self, target: Any) -> None:
            tasks.append(target)

        def start(self) -> None:
            """Whoever waits does not go on."""

    monkeypatch.setattr(router_sockets, "Task", Task)
    path = tmp_path / "vr1"
    accepting = router_sockets.listening_socket(f"ipc://{path}")
    reader = router_sockets.Reader(lambda *_: 0.0, lambda _: 0.0, lambda *_: None, lambda: 100.0)
    listener = router_sockets._Listener("vr1", accepting, reader)
    clients = []
    for _ in range(40):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        with suppress(BlockingIOError):
            client.connect(str(path))
        clients.append(client)
        listener._accept()
    running = tasks[1:]
    assert len(running) == router_sockets.MAX_LIVING
    assert len(listener.peers) == router_sockets.MAX_CONNECTIONS
    for run in running[: router_sockets.MAX_CONNECTIONS]:  # they are closed: they end at once
        assert list(run()) == []
    listener._accept()
    assert len(tasks[1:]) == router_sockets.MAX_LIVING + 1
    for run in tasks[1 + router_sockets.MAX_CONNECTIONS :]:
        run.__self__.close()
        list(run())
    assert listener.living == 0
    accepting.close()
    for client in clients:
        client.close()
