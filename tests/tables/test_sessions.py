"""Which of a router's sessions fall in a suspension is read from its own packets."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from xenflow.openflow import packet as pk
from xenflow.tables import frames, sessions
from xenflow.tables.sessions import QUIET_S, SETTLING_S, Sessions, falls, words

ME, HER = 0x0A000101, 0x0A000102
MARKER = b"\xff" * 16


def ip(proto: int, payload: bytes) -> bytes:
    return pk.ethernet(2, 1, pk.ETH_IPV4, pk.ipv4(ME, HER, proto, payload))


def bfd(interval_us: int = 100_000, times: int = 3, state: int = 3) -> bytes:
    said = struct.pack("!BBBBIIIII", 1 << 5, state << 6, times, 24, 1, 2, interval_us, 300_000, 0)
    return ip(17, pk.udp(ME, HER, 49152, 3784, said))


def tcp(payload: bytes = b"", flags: int = 0x18, port: int = 40000) -> bytes:
    header = struct.pack("!HHIIBBHHH", port, 179, 1, 1, 5 << 4, flags, 1000, 0, 0)
    return ip(6, header + payload)


def open_message(hold_s: int) -> bytes:
    return MARKER + struct.pack("!HBBHHIB", 29, 1, 4, 65000, hold_s, ME, 0)


def one(known: Sessions, now: float = 0.0) -> dict[str, Any]:
    (row,) = known.rows(now)
    return row


def test_a_bfd_session_is_read_and_then_no_more_is_sent_up() -> None:
    known = Sessions()
    matched = {"dl_type": 0x800, "nw_proto": 17, "nw_src": ME, "nw_dst": HER, "tp_dst": 3784}
    assert known.heard(bfd(), 0.0) == (matched, SETTLING_S)
    assert known.heard(bfd(), 1.0) == (matched, QUIET_S)
    row = one(known)
    assert (
        row
        == {
            "protocol": "BFD",
            "local": "10.0.1.1",
            "remote": "10.0.1.2",
            "wait_s": 0.3,
            "interval_s": 0.1,
        }
        or abs(row["wait_s"] - 0.3) < 1e-9
    )
    assert falls(row, 0.41)
    assert not falls(row, 0.1)
    assert known.rows(sessions.FORGET_S + 1) == []
    known.heard(bfd(state=1), 1.0)
    assert known.rows(1.0) == []


def test_a_bfd_session_that_begins_is_known_within_two_seconds() -> None:
    """As FRR begins one: down, then up at a packet a second, then at ten."""
    known, hushed, sent_up = Sessions(), 0.0, 0
    said = [(0.0, bfd(1_000_000, state=1)), (0.4, bfd(1_000_000, state=2)), (0.5, bfd(1_000_000))]
    said += [(0.6 + n / 10, bfd()) for n in range(100)]
    for at, frame in said:
        if at >= hushed and (quiet := known.heard(frame, at)) is not None:
            hushed, sent_up = at + quiet.seconds, sent_up + 1
        if at > 2.0:
            assert abs(one(known, at)["wait_s"] - 0.3) < 1e-9
    assert sent_up == 3
    known.heard(bfd(1_000_000), 20.0)
    quiet = known.heard(bfd(), 21.0)
    assert quiet is not None
    assert quiet.seconds == SETTLING_S, "another time than before is read again"


def test_bgp_has_its_hold_time_from_the_open() -> None:
    known = Sessions()
    assert known.heard(tcp(flags=2), 0.0) is None
    assert known.heard(tcp(flags=0x10), 0.0) is None
    found = known.heard(tcp(open_message(3)), 0.0)
    assert found is not None
    assert (found.match["tp_src"], found.match["tp_dst"]) == (40000, 179)
    assert found.seconds == QUIET_S
    assert words(one(known)) == "BGP 10.0.1.1 - 10.0.1.2 (its neighbour waits 3 s)"
    known.heard(tcp(b"later"), QUIET_S + 1.0)
    row = one(known, 30.0)
    assert falls(row, 2.5)
    assert not falls(row, 1.5)
    known.heard(tcp(flags=1), 31.0)
    assert known.rows(31.0) == []


def test_of_an_older_bgp_session_the_hold_time_is_not_known() -> None:
    known = Sessions()
    assert known.heard(tcp(b"x" * 100), 0.0) is not None
    row = one(known)
    assert words(row) == "BGP 10.0.1.1 - 10.0.1.2 (hold time not seen)"
    assert not falls(row, 100.0)


A6, B6 = 0x20010DB8 << 96 | 1, 0x20010DB8 << 96 | 2


def ip6(src: int, dst: int, proto: int, payload: bytes) -> bytes:
    return pk.ethernet(2, 1, pk.ETH_IPV6, pk.ipv6(src, dst, proto, payload))


def test_sessions_of_ipv6_are_read_as_those_of_ipv4() -> None:
    known = Sessions()
    said = bfd()[42:]
    for src, dst, interface in (
        (A6, B6, "eth0"),
        (0xFE80 << 112 | 1, 0xFE80 << 112 | 2, "eth0"),
        (0xFE80 << 112 | 1, 0xFE80 << 112 | 2, "eth1"),
    ):
        frame = ip6(src, dst, 17, pk.udp(src, dst, 49152, 3784, said))
        ends = {"dl_type": 0x86DD, "nw_proto": 17, "ipv6_src": src, "ipv6_dst": dst}
        assert known.heard(frame, 0.0, interface) == ({**ends, "tp_dst": 3784}, SETTLING_S)
        assert known.heard(frame, 1.0, interface) == ({**ends, "tp_dst": 3784}, QUIET_S)
    opened = ip6(A6, B6, 6, tcp(open_message(3))[34:])
    assert known.heard(opened, 2.0) is not None
    shown = [words(row) for row in known.rows(2.0)]
    assert shown == [
        "BFD 2001:db8::1 - 2001:db8::2 (its neighbour waits 0.3 s)",
        "BFD fe80::1%eth0 - fe80::2%eth0 (its neighbour waits 0.3 s)",
        "BFD fe80::1%eth1 - fe80::2%eth1 (its neighbour waits 0.3 s)",
        "BGP 2001:db8::1 - 2001:db8::2 (its neighbour waits 3 s)",
    ]
    assert [falls(row, 0.5) for row in known.rows(2.0)] == [True, True, True, False]


def test_a_hold_time_of_zero_never_ends() -> None:
    known = Sessions()
    known.heard(tcp(open_message(0)), 0.0)
    assert not falls(one(known), 1000.0)


def test_what_never_opens_is_given_up() -> None:
    known = Sessions()
    known.heard(tcp(flags=2), 0.0)
    assert any(known.heard(tcp(b"x"), 0.0) for _ in range(sessions.OPEN_WITHIN))


def test_a_vm_cannot_fill_the_table() -> None:
    known = Sessions()
    quiet = 0
    for n in range(5000):
        quiet += known.heard(tcp(b"x", port=1000 + n), n / 1000) is not None
    assert quiet == sessions.MAX_SESSIONS
    assert len(known.rows(5.0)) <= sessions.MAX_SESSIONS


@given(st.binary(max_size=80))
def test_nothing_that_is_said_raises(noise: bytes) -> None:
    for frame in (noise, bfd()[:42] + noise, tcp()[:34] + noise, tcp(MARKER + noise)):
        Sessions().heard(frame, 0.0)


def test_what_is_watched_is_sent_up() -> None:
    """What `Sessions` understands is what `pipeline` sends up, and no more."""
    ports = {kind.get("tp_dst", kind.get("tp_src")) for kind in frames.SESSIONS}
    assert ports == {3784, 4784, 179}
    assert {kind["dl_type"] for kind in frames.SESSIONS} == {pk.ETH_IPV4, pk.ETH_IPV6}
