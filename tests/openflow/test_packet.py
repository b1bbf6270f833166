"""Frames: built and taken apart; garbage never raises."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.flow_samples as samples
from tests import built_packets as built
from xenflow.openflow import packet as pk

A, B = 0x0A000001, 0x0A000102


def test_udp() -> None:
    packet = pk.ipv4(A, B, 17, pk.udp(A, B, 1000, 53, b"x" * 30), ttl=9, tos=0xB9)
    frame = pk.ethernet(2, 1, pk.ETH_IPV4, packet)
    assert pk.parse(frame + bytes(9)) == pk.Packet(
        dl_dst=2,
        dl_src=1,
        dl_type=0x0800,
        nw_src=A,
        nw_dst=B,
        nw_proto=17,
        nw_tos=0xB8,
        nw_ttl=9,
        tp_src=1000,
        tp_dst=53,
        l3=14,
        l4=34,
        end=72,
    )
    tagged = pk.parse(pk.vlan(frame, 5, 3))
    assert tagged._replace(vlan_tci=0, l3=14, l4=34, end=72) == pk.parse(frame)
    assert (tagged.vlan_tci, tagged.l3, tagged.l4) == (0x7005, 18, 38)
    assert pk.parse(pk.vlan(pk.vlan(frame, 5), 6)).dl_type == pk.ETH_VLAN


def test_checksums_are_right() -> None:
    packet = pk.ipv4(A, B, 17, pk.udp(A, B, 1000, 53, b"odd"), options=b"\x94\x04\0\0")
    assert pk.checksum(packet[:24]) == 0
    assert pk.checksum(pk.icmp(8, 0, 5, b"odd")) == 0
    for proto, segment in ((17, pk.udp(A, B, 1, 2, b"abc")), (6, pk.tcp(A, B, 1, 2, b"abc"))):
        pseudo = A.to_bytes(4, "big") + B.to_bytes(4, "big") + bytes((0, proto, 0, len(segment)))
        assert pk.checksum(pseudo + segment) == 0
    hello = built.ospf_hello(A, 10)
    assert pk.checksum(hello[:16] + hello[24:]) == 0


def test_fragments() -> None:
    data = pk.udp(A, B, 1000, 53, b"x" * 30)
    first = pk.parse(pk.ethernet(2, 1, 0x800, pk.ipv4(A, B, 17, data, flags=pk.MORE_FRAGMENTS)))
    later = pk.parse(pk.ethernet(2, 1, 0x800, pk.ipv4(A, B, 17, data, frag_offset=64)))
    assert (first.nw_frag, first.tp_dst, first.l4) == (1, 53, 34)
    assert (later.nw_frag, later.tp_dst, later.l4) == (3, 0, 0)


def test_icmp_arp_and_ipv6() -> None:
    ping = pk.parse(pk.ethernet(2, 1, 0x800, pk.ipv4(A, B, 1, pk.icmp(3, 1))))
    assert (ping.tp_src, ping.tp_dst) == (3, 1)
    asks = pk.parse(pk.ethernet(pk.BROADCAST, 1, 0x806, pk.arp(1, 1, A, 0, B)))
    assert (asks.arp_op, asks.arp_sha, asks.arp_spa, asks.arp_tpa) == (1, 1, A, B)
    six = pk.parse(pk.ethernet(2, 1, 0x86DD, pk.ipv6(5, 6, 17, pk.udp(A, B, 1, 2), hops=3)))
    assert (six.ipv6_src, six.ipv6_dst, six.nw_ttl, six.tp_dst) == (5, 6, 3, 2)
    later = bytes((17, 0, 1, 0, 0, 0, 0, 1)) + bytes(8)
    six = pk.parse(pk.ethernet(2, 1, 0x86DD, pk.ipv6(5, 6, 44, later)))
    assert (six.nw_proto, six.nw_frag) == (44, 3)


def test_neighbour_discovery() -> None:
    frame = built.solicitation(7, 5, 6, options=b"\x0e\1nonce!" + built.source_address(7))
    asks = pk.parse(frame)
    assert (asks.tp_src, asks.nd_target, asks.nd_sll, asks.nd_tll) == (135, 6, 7, 0)
    assert (asks.nd_reserved, asks.nd_options_type) == (0, 1)
    answer = pk.icmpv6(5, 6, 136, 0, b"\xe0" + bytes(18) + b"\6\2\1" + bytes(5) + b"\x08")
    told = pk.parse(pk.ethernet(2, 1, 0x86DD, pk.ipv6(5, 6, 58, answer)))
    assert (told.tp_src, told.nd_target, told.nd_sll, told.nd_tll) == (136, 6, 0, 8)
    assert (told.nd_reserved, told.nd_options_type) == (0xE0000000, 2)
    twice = pk.parse(built.solicitation(7, 5, 6, options=built.source_address(7) * 2))
    assert (twice.nd_target, twice.nd_sll) == (0, 0)
    none = pk.parse(built.solicitation(7, 5, 6, options=b"\1\0" + bytes(6)))
    assert (none.nd_target, none.nd_sll) == (6, 0)


def test_hello() -> None:
    hello = pk.ethernet(
        0x01005E000005, 1, 0x800, pk.ipv4(A, 0xE0000005, 89, built.ospf_hello(A, 10))
    )
    assert pk.hello(hello) == (10, 0, 0x200)
    assert pk.hello(pk.vlan(hello, 5)) == (10, 0, 0x200)
    assert pk.hello(hello[:60]) is None
    assert pk.hello(hello[:35] + b"\x02" + hello[36:]) is None
    many = built.ospf_hello(A, 1, neighbours=range(20))
    for octets, found in ((many, (1, 20, 0x200)), (many[:-1], None)):
        ip = pk.ipv4(A, 0xE0000005, 89, octets)
        assert pk.hello(pk.ethernet(0x01005E000005, 1, 0x800, ip)) == found
    v3 = pk.ethernet(0x333300000005, 1, 0x86DD, built.ospf6_hello(1, 5, (A,)))
    assert pk.hello(v3) == (5, 1, 0x300)
    v3 = pk.ethernet(0x333300000005, 1, 0x86DD, built.ospf6_hello(1, 5, instance=64))
    assert pk.hello(v3) == (5, 0, 0x340)
    others = [pk.hello(frame) for frame in samples.frames()]
    assert [found for found in others if found is not None] == [(10, 0, 0x200)]


def test_fields() -> None:
    found = pk.fields(samples.frames()[0], 3)
    assert found["in_port"] == 3 and found["reg7"] == 0 and found["tp_dst"] == 53
    assert "l3" not in found


@given(st.binary(max_size=100))
def test_nothing_raises(noise: bytes) -> None:
    pk.parse(noise)
    pk.hello(noise)


@given(st.sampled_from(samples.frames()), st.integers(0, 80), st.binary(max_size=30))
def test_nothing_raises_on_damaged_frames(frame: bytes, at: int, noise: bytes) -> None:
    damaged = frame[:at] + noise + frame[at + len(noise) :]
    found = pk.parse(damaged)
    assert 0 <= found.l4 <= len(damaged) and found.l3 <= found.end <= len(damaged)
    pk.hello(damaged)
    pk.hello(damaged[:at])
    pk.fields(damaged[:at], 1)


def test_the_quick_way_sees_what_the_long_way_sees() -> None:
    for frame in samples.frames():
        assert pk.parse(frame) == pk._parse(frame, len(frame))


@pytest.mark.parametrize(
    "arguments",
    [
        {"ttl": 256},
        {"frag_offset": 5},
        {"options": bytes(41)},
        {"flags": 1},
        {"payload": bytes(65536)},
        {"proto": -1},
    ],
)
def test_builders_refuse(arguments: dict[str, object]) -> None:
    with pytest.raises(pk.PacketError, match="|".join((*arguments, "length"))):
        pk.ipv4(**{"src": A, "dst": B, "proto": 17, **arguments})  # type: ignore[arg-type]
    with pytest.raises(pk.PacketError, match="vid"):
        pk.vlan(bytes(14), 4096)
    with pytest.raises(pk.PacketError, match="13 bytes"):
        pk.vlan(bytes(13), 1)


def isis(kind: int, hold_s: int, tlvs: bytes, dst: int = pk.ISIS_GROUPS[0]) -> bytes:
    fixed = bytes(7) if kind in (15, 16) else bytes(1)
    fixed_size = 27 if kind in (15, 16) else 20
    body = (
        struct.pack(
            "!BBBBBBBBB6sHH",
            0x83,
            fixed_size,
            1,
            0,
            kind,
            1,
            0,
            0,
            3,
            b"source",
            hold_s,
            fixed_size + len(tlvs),
        )
        + (b"\x40" + fixed)[: fixed_size - 19]
    )
    body = b"\xfe\xfe\x03" + (body + b"\0" * 8)[:fixed_size] + tlvs + bytes(10)
    return pk.ethernet(dst, 1, len(body), body)


@pytest.mark.parametrize(
    ("kind", "tlvs", "neighbours"),
    [
        (15, b"", 0),
        (15, b"\x01\x02ab" + b"\x06\x06sixmac", 1),
        (16, b"\x06\x0ctwelve octets", 2),
        (16, b"\x06\x06cut", 0),
        (17, b"", 1),
        (17, b"\xf0\x01\x00", 1),
        (17, b"\xf0\x01\x01", 0),
    ],
)
def test_isis_hello(kind: int, tlvs: bytes, neighbours: int) -> None:
    assert pk.isis_hello(isis(kind, 30, tlvs)) == (kind, 30, neighbours)


def test_other_frames_are_no_isis_hello() -> None:
    assert pk.isis_hello(isis(18, 30, b"")) is None  # a link state PDU
    assert pk.isis_hello(isis(15, 30, b"")[:30]) is None
    assert [pk.isis_hello(frame) for frame in samples.frames()] == [None] * len(samples.frames())
    good = isis(15, 30, b"\x06\x06sixmac")
    for cut in range(len(good)):
        pk.isis_hello(good[:cut])


def test_ipv6_has_checksums_over_its_addresses() -> None:
    """RFC 8200, section 8.1: over the pseudo-header and the segment the sum is zero."""
    src, dst = 0x20010DB8 << 96 | 1, 0x20010DB8 << 96 | 2
    for proto, segment in (
        (17, pk.udp(src, dst, 1000, 2000, b"odd")),
        (6, pk.tcp(src, dst, 1000, 2000, b"even")),
        (58, pk.icmpv6(src, dst, 128, body=b"\0\1\0\2payload")),
    ):
        pseudo = src.to_bytes(16, "big") + dst.to_bytes(16, "big")
        pseudo += len(segment).to_bytes(4, "big") + bytes((0, 0, 0, proto))
        assert pk.checksum(pseudo + segment) == 0
        frame = pk.ethernet(1, 2, pk.ETH_IPV6, pk.ipv6(src, dst, proto, segment, hops=7, tclass=8))
        seen = pk.parse(frame)
        assert (seen.ipv6_src, seen.ipv6_dst, seen.nw_proto) == (src, dst, proto)
        assert (seen.nw_ttl, seen.nw_tos, frame[seen.l4 : seen.end]) == (7, 8, segment)
