"""Dumps and answers as `Requests` takes them, from datagrams that a test has made."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable

import pytest

from routerd import rtnetlink as rt
from routerd.netlink_socket import DumpInterrupted, NetlinkListener, Requests

SEQ, PORT = 7, 4242


def message(type_: int, body: bytes, flags: int = rt.NLM_F_MULTI) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), type_, flags, SEQ, PORT) + body


def done(number: int = 0, flags: int = rt.NLM_F_MULTI) -> bytes:
    return message(rt.NLMSG_DONE, struct.pack("=i", -number), flags)


class Answers(Requests):
    """Requests that are answered with these datagrams, one after the other."""

    def __init__(self, *datagrams: bytes) -> None:
        super().__init__()
        self._left = list(datagrams)

    def _send(self, request: rt.Request, flags: int) -> None:
        self._dumping = False

    def _receive(self) -> bytes:
        return self._left.pop(0)


def dumped(*datagrams: bytes) -> list[bytes]:
    answers = Answers(*datagrams)
    try:
        return list(answers.datagrams((rt.RTM_GETLINK, b"")))
    finally:
        answers.close()


def test_a_dump_ends_with_done_alone_or_behind_messages() -> None:
    first = message(rt.RTM_NEWLINK, bytes(16))
    assert dumped(first, done(), b"unread") == [first, done()]
    assert dumped(first + done(), b"unread") == [first + done()]


def test_the_last_octets_of_a_message_are_no_end() -> None:
    """A group of next hops that ends as an NLMSG_DONE would: a weight is where its length would
    be, a member's id where its type."""
    members = ((8, 21), (3, 1), (9, 1))
    group = b"".join(struct.pack("=IBBxx", id_, weight - 1, 0) for id_, weight in members)
    body = bytes(8) + rt.attribute(rt.NHA_ID, b"\x0a\0\0\0") + rt.attribute(rt.NHA_GROUP, group)
    looks_alike = message(rt.RTM_NEWNEXTHOP, body)
    assert struct.unpack_from("=IH", looks_alike, len(looks_alike) - 20) == (20, rt.NLMSG_DONE)
    last = message(rt.RTM_NEWNEXTHOP, body[:16])
    assert dumped(looks_alike, last + done()) == [looks_alike, last + done()]


@pytest.mark.parametrize(
    "datagrams",
    [
        [message(rt.RTM_NEWLINK, bytes(16), rt.NLM_F_MULTI | rt.NLM_F_DUMP_INTR)],
        [message(rt.RTM_NEWLINK, bytes(16)), done(flags=rt.NLM_F_MULTI | rt.NLM_F_DUMP_INTR)],
        [message(rt.RTM_NEWLINK, bytes(16)) + done(flags=rt.NLM_F_MULTI | rt.NLM_F_DUMP_INTR)],
    ],
    ids=["a message", "the end", "the end behind a message"],
)
def test_an_interrupted_dump_is_made_again(datagrams: list[bytes]) -> None:
    with pytest.raises(DumpInterrupted):
        dumped(*datagrams)
    good = message(rt.RTM_NEWLINK, bytes(range(16))) + done()
    answers = Answers(*datagrams, good)
    assert answers.bodies((rt.RTM_GETLINK, b"")) == [bytes(range(16))]
    answers.close()


def test_what_the_kernel_has_not_is_no_refusal() -> None:
    for number in (errno.EOPNOTSUPP, errno.EBUSY):
        refusal = message(rt.NLMSG_ERROR, struct.pack("=i", -number) + bytes(16), 0)
        answers = Answers(refusal, done(number))
        if number == errno.EBUSY:
            with pytest.raises(rt.NetlinkError, match="busy"):
                answers.optional((rt.RTM_GETNEXTHOP, b""))
        else:
            assert answers.optional((rt.RTM_GETNEXTHOP, b"")) == []
            assert answers.optional((rt.RTM_GETNEXTHOP, b"")) == []  # told in NLMSG_DONE
        answers.close()


class Broken:
    """A socket that fails."""

    def __init__(self, number: int) -> None:
        self._number = number

    def send(self, data: bytes) -> int:
        raise OSError(self._number, "failed")

    def recv_into(self, room: memoryview) -> int:
        raise OSError(self._number, "failed")

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "ask",
    [
        lambda requests: requests.bodies(rt.get_all(rt.RTM_GETLINK)),
        lambda requests: requests.ask(rt.get_link(1)),
        lambda requests: requests.change((rt.RTM_NEWNEIGH, b"")),
    ],
    ids=["dump", "ask", "change"],
)
@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_what_a_socket_raises_is_a_netlink_error(
    ask: Callable[[Requests], object], number: int
) -> None:
    requests = Requests()
    requests.close()
    requests._sock = Broken(number)  # type: ignore[assignment]
    with pytest.raises(rt.NetlinkError):
        ask(requests)


class Told:
    """A listener's socket: datagrams, or errors."""

    def __init__(self, *what: bytes | OSError) -> None:
        self._what = list(what)

    def recv_into(self, room: memoryview) -> int:
        if not self._what:
            raise BlockingIOError
        one = self._what.pop(0)
        if isinstance(one, OSError):
            raise one
        room[: len(one)] = one
        return len(one)


@pytest.mark.parametrize(
    "bad",
    [OSError(errno.ENOBUFS, "overrun"), b"\x99\0\0\0" + bytes(16)],
    ids=["overrun", "rubbish"],
)
def test_after_a_loss_all_that_waits_is_read(bad: bytes | OSError) -> None:
    one = message(rt.RTM_NEWLINK, bytes(16))
    listener = NetlinkListener(rt.NETLINK_ROUTE, (), 1 << 16)
    listener.close()
    listener._sock = Told(one, bad, one, one)  # type: ignore[assignment]
    assert [len(part) if isinstance(part, list) else part for part in listener.drain(2)] == [
        3,
        True,
    ]


def test_a_real_dump_tells_the_loopback_interface() -> None:
    requests = Requests()
    links = map(rt.link, requests.bodies(rt.get_all(rt.RTM_GETLINK)))
    assert socket.if_nametoindex("lo") in {link.ifindex for link in links if link is not None}
    requests.close()
