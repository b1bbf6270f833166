"""What a router's connection says is understood as libzmq means it, and is bounded."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from xenflow.control import zmtp
from xenflow.control.zmtp import ZmtpConnection, ZmtpError

READY = zmtp.GREETING + zmtp.ready(b"DEALER")


def connection(max_bytes: int = 1 << 20, max_frames: int = 257) -> ZmtpConnection:
    return ZmtpConnection(b"ROUTER", max_bytes, max_frames)


def heard(peer: ZmtpConnection, data: bytes) -> list[list[bytes]]:
    peer.feed(data)
    return list(peer.messages())


@given(
    st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=4), max_size=4),
    st.integers(1, 97),
)
def test_what_was_said_is_heard_in_whatever_pieces_it_comes(
    said: list[list[bytes]], piece: int
) -> None:
    data = READY + b"".join(map(zmtp.message, said))
    peer = connection()
    got = []
    for start in range(0, len(data), piece):
        got += heard(peer, data[start : start + piece])
    assert got == said
    assert peer.established
    assert not peer.buffered


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        zmtp.GREETING.replace(b"NULL", b"CURV"),
        b"\xff" + b"\0" * 8 + b"\x7f\1" + b"\0" * 53,
        zmtp.GREETING + zmtp.message([b"before READY"]),
        READY + b"\x80\0",
        READY + zmtp.frame(b"\5ERROR", command=True),
        READY + b"\x06" + (5000).to_bytes(8, "big"),
        READY + b"\x02" + (1001).to_bytes(8, "big"),
        READY + b"\x02" + b"\xff" * 8,
        READY + zmtp.frame(b"x" * 600, more=True) + zmtp.frame(b"x" * 600),
        READY + zmtp.frame(b"", more=True) * 5,
    ],
)
def test_what_is_wrong_or_too_much_ends_the_connection(data: bytes) -> None:
    with pytest.raises(ZmtpError):
        heard(connection(max_bytes=1000, max_frames=4), data)


@given(st.binary(max_size=400))
def test_garbage_raises_nothing_else(data: bytes) -> None:
    for begin in (b"", READY):
        peer = connection()
        with suppress(ZmtpError):
            heard(peer, begin + data)
        assert peer.buffered <= len(begin + data)


def test_a_ping_is_answered_with_its_context() -> None:
    peer = connection()
    heard(peer, READY + zmtp.frame(b"\4PING" + b"\0\x1e" + b"context", command=True))
    assert peer.answers() == zmtp.frame(b"\4PONG" + b"context", command=True)
    assert peer.answers() == b""


def test_an_endless_message_is_kept_no_longer_than_it_may_be() -> None:
    peer = connection(max_bytes=100_000)
    heard(peer, READY)
    part = zmtp.frame(b"x" * 1000, more=True)
    for _ in range(100):
        heard(peer, part)
    assert peer.buffered == 100_000
    with pytest.raises(ZmtpError, match="more than 100000 octets"):
        heard(peer, part)


@pytest.fixture
def dealer() -> Iterator[tuple[zmq.Socket[bytes], socket.socket]]:
    """A DEALER of libzmq, with its pings, and the connection that it makes."""
    listener = socket.create_server(("127.0.0.1", 0))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    one = context.socket(zmq.DEALER)
    one.linger = 0
    one.heartbeat_ivl, one.heartbeat_timeout = 50, 60_000
    one.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
    accepted, _ = listener.accept()
    accepted.settimeout(60)
    yield one, accepted
    accepted.close()
    context.destroy(linger=0)
    listener.close()


def test_libzmq_understands_it(dealer: tuple[zmq.Socket[bytes], socket.socket]) -> None:
    one, accepted = dealer
    peer = connection()
    accepted.sendall(peer.opening)
    said = [b"header", b"", b"x" * 255, b"y" * 256, b"z" * 300_000]
    one.send_multipart(said)
    got: list[list[bytes]] = []
    pongs = 0
    while not (got and pongs):
        got += heard(peer, accepted.recv(4096))
        answers = peer.answers()
        pongs += answers.count(b"PONG")
        accepted.sendall(answers)
    assert got == [said]
    accepted.sendall(zmtp.message(said))
    assert one.poll(60_000)
    assert one.recv_multipart() == said


def test_commands_are_no_way_to_keep_the_reader_busy() -> None:
    """The smallest have two octets, and each takes a microsecond from the other routers."""
    peer = connection()
    heard(peer, peer.opening + zmtp.frame(b"\4PING\0\0", command=True) * 8)
    with pytest.raises(zmtp.ZmtpError, match="commands"):
        heard(peer, zmtp.frame(b"", command=True) * 10_000)
    assert peer.buffered > 19_000
