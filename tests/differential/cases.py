"""Random frames for a configuration, each with an id inside, by which what becomes of it is known.
Here are those of IPv4; `cases6` has the others.

Nothing is left out because a switch would treat it differently: what a switch cannot tell apart
(`untellable`) is sent as well, and counted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Protocol

from tests.differential.configurations import DEAD, PORTS, KernelConfiguration
from tests.differential.rig import router_mac
from xenflow.openflow import packet as pk

MARK = b"XfD"
ETHERNET, TAG = 14, 4
"""No frame is larger than the MTU of the interface it arrives on: what a network card does with
such is its own affair (docs/equivalence.md)."""


@dataclass(frozen=True, slots=True)
class FrameCase:
    """One frame for one port.  `early`: to be sent first, since its answer takes a second.
    `family`: whose generator made it, 4 or 6."""

    id: int
    kind: str
    port: int
    frame: bytes
    early: bool = False
    family: int = 4


@dataclass(slots=True)
class Ip:
    """An IPv4 packet to be; `length` None is the true one, `checksum` is added to the true one."""

    src: int
    dst: int
    proto: int
    payload: bytes
    ttl: int = 64
    tos: int = 0
    ident: int = 0
    flags: int = 0
    offset: int = 0
    options: bytes = b""
    version: int = 4
    header_words: int | None = None
    length: int | None = None
    checksum_error: int = 0

    def pack(self) -> bytes:
        """Its bytes."""
        options = self.options + bytes(-len(self.options) % 4)
        words = 5 + len(options) // 4 if self.header_words is None else self.header_words
        length = 20 + len(options) + len(self.payload) if self.length is None else self.length
        head = (
            struct.pack(
                "!BBHHHBBHII",
                self.version << 4 | words,
                self.tos,
                length & 0xFFFF,
                self.ident,
                self.flags | self.offset // 8,
                self.ttl,
                self.proto,
                0,
                self.src,
                self.dst,
            )
            + options
        )
        total = pk.checksum(head) ^ self.checksum_error
        return head[:10] + struct.pack("!H", total) + head[12:] + self.payload


def mark(number: int) -> bytes:
    """The payload that carries an id."""
    return MARK + struct.pack("!I", number) + b"."


def make(number: int, config: KernelConfiguration, random: Random) -> FrameCase:
    """One random case."""
    draw = _Draw(number, config, random)
    kind = random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    frame = _KINDS[kind](draw)
    tag = TAG if kind == "tagged" else 0
    frame = frame[: config.mtus[draw.port] + ETHERNET + tag].ljust(ETHERNET, b"\0")
    return FrameCase(number, kind, draw.port, frame, draw.early)


class Draws(Protocol):
    """One case being made, of either family."""

    random: Random

    def packet(self) -> Any:
        """Any packet."""

    def frame(self, packet: Any) -> bytes:
        """It as it is sent."""


class _Draw:
    """One case being made."""

    def __init__(self, number: int, config: KernelConfiguration, random: Random) -> None:
        self.number = number
        self.config = config
        self.random = random
        self.port = random.randrange(PORTS)
        self.early = False

    # addresses

    def station(self) -> tuple[int, int]:
        """(address, MAC) of a station that answers, on the arrival port."""
        net = self.random.choice(self.config.on(self.port)).network
        for _ in range(50):
            found = int(net.network_address) + self.random.randrange(net.num_addresses)
            taken = found in (int(net.network_address), int(net.broadcast_address))
            if found & 15 != DEAD and not taken and not self.config.is_own(found):
                mac = self.config.station(self.port, found)
                assert mac is not None
                return found, mac
        return 0x0A0A0A0A, 0x0A000A0A0A0A

    def source(self) -> int:
        """A source to which the router may find a way back, or not."""
        if self.random.random() < 0.8:
            return self.station()[0]
        return self.random.choice((*self.config.hot, self.random.randrange(1 << 24, 224 << 24)))

    def own(self) -> int:
        """One of the router's addresses."""
        return int(self.random.choice(self.config.own)[1].ip)

    def destination(self) -> int:
        """Somewhere beyond, often near the edge of a prefix."""
        random, config = self.random, self.config
        pick = random.random()
        if pick < 0.55:
            return random.choice(config.hot)
        if pick < 0.75:
            return random.choice(config.hot) ^ 1 << random.randrange(32)
        if pick < 0.9:
            net = random.choice(config.own)[1].network
            return int(net.network_address) + random.randrange(net.num_addresses)
        return random.randrange(1 << 24, 224 << 24)

    def ttl(self) -> int:
        """Mostly enough of it."""
        return self.random.choice((0, 1, 1, 2, 2, 3, *[64] * 8, 128, 255))

    # packets

    def transport(self, src: int, dst: int, size: int = 0) -> tuple[int, bytes]:
        """(protocol, payload) of some datagram that carries the id."""
        random = self.random
        body = mark(self.number) + bytes(size)
        kind = random.randrange(8)
        if kind < 3:
            return 17, pk.udp(src, dst, random.randrange(1024, 65536), 33000 + kind, body)
        if kind < 5:
            flags = random.choice((2, 2, 16, 18, 1, 4, 0))
            ports = random.randrange(1024, 65536), random.choice((22, 80, 179, 4000))
            return 6, pk.tcp(src, dst, *ports, body, seq=self.number, flags=flags)
        if kind < 7:
            return 1, pk.icmp(8, 0, self.number, body)
        return random.choice((2, 4, 41, 47, 50, 89, 132, 253)), body

    def packet(self, dst: int | None = None, size: int = 0) -> Ip:
        """A whole datagram, to somewhere beyond unless a destination is given."""
        src = self.source()
        dst = self.destination() if dst is None else dst
        proto, payload = self.transport(src, dst, size)
        return Ip(
            src,
            dst,
            proto,
            payload,
            ttl=self.ttl(),
            ident=self.number & 0xFFFF,
            tos=self.random.choice((0, 0, 0, 1, 0x10, 0xB8, 0xFF)),
            flags=self.random.choice((0, pk.DONT_FRAGMENT)),
        )

    def frame(self, packet: Ip | bytes, dst: int | None = None, dl_type: int = 0x800) -> bytes:
        """The frame from a station, to the router unless a MAC address is given."""
        body = packet.pack() if isinstance(packet, Ip) else packet
        mac = router_mac(self.port) if dst is None else dst
        return pk.ethernet(mac, self.station()[1], dl_type, body)


# --------------------------------------------------------------------------------------------
# Kinds of frames


def _plain(draw: _Draw) -> bytes:
    return draw.frame(draw.packet(size=draw.random.choice((0, 0, 10, 200, 1000))))


def _fragment(draw: _Draw) -> bytes:
    """First, middle or last, of a datagram that passes or is for the router."""
    packet = draw.packet(dst=draw.own() if draw.random.random() < 0.2 else None, size=24)
    part = draw.random.choice(("first", "middle", "last"))
    body = packet.payload[: len(packet.payload) // 8 * 8]
    packet.payload = body if part == "first" else mark(draw.number) + bytes(16)
    packet.flags = pk.DONT_FRAGMENT if draw.random.random() < 0.1 else 0
    packet.flags |= pk.MORE_FRAGMENTS if part != "last" else 0
    packet.offset = 0 if part == "first" else 8 * draw.random.choice((1, 10, 185, 8000))
    draw.early = draw.config.is_own(packet.dst)
    return draw.frame(packet)


def _options(draw: _Draw) -> bytes:
    packet = draw.packet()
    hop = struct.pack("!I", draw.own())
    packet.options = draw.random.choice(
        (
            b"\x01\x01\x01\x01",
            b"\x00",
            b"\x94\x04\x00\x00",
            b"\x07\x07\x04" + bytes(4),
            b"\x44\x0c\x05\x00" + bytes(8),
            b"\x83\x07\x04" + hop,
            b"\x89\x07\x04" + hop,
            b"\x88\x04\x00\x01",
            b"\x07\xff\x04",
            b"\x20\x03\x00",
            b"\x82\x0b" + bytes(9),
        )
    )
    return draw.frame(packet)


def _large(draw: _Draw) -> bytes:
    """Around the MTUs that interfaces have, with and without DF."""
    mtu = draw.random.choice(draw.config.mtus)
    packet = draw.packet()
    room = mtu - 20 - len(packet.payload) + draw.random.choice((-8, -1, 0, 1, 2, 8, 100, 700))
    room = min(room, 1480 - len(packet.payload))
    return draw.frame(draw.packet(size=max(0, room)))


def tagged(draw: Draws) -> bytes:
    """Under a tag, or two."""
    random = draw.random
    inner = draw.frame(draw.packet())
    if random.random() < 0.3:
        inner = pk.vlan(inner, random.choice((0, 7)), 0)
    vid = random.choice((0, 0, 1, 101, 102, 2149, 4095))
    return pk.vlan(inner, vid, random.choice((0, 5)), random.choice((0x8100, 0x8100, 0x88A8)))


def _multicast(draw: _Draw) -> bytes:
    """Multicast and broadcast, as a frame, as a packet, or as both."""
    random = draw.random
    group = random.choice((0xE0000001, 0xE0000005, 0xE0000102, 0xEF010203, 0xFFFFFFFF))
    mac = 0x01005E000000 | group & 0x7FFFFF if group < 0xFFFFFFFF else pk.BROADCAST
    choice = random.randrange(4)
    if choice == 0:
        return draw.frame(draw.packet(dst=group), mac)
    if choice == 1:
        return draw.frame(draw.packet(dst=group))
    target = draw.own() if random.random() < 0.5 else None
    return draw.frame(draw.packet(dst=target), random.choice((mac, pk.BROADCAST, 0x0180C2000000)))


def _subnet_broadcast(draw: _Draw) -> bytes:
    net = draw.random.choice(draw.config.own)[1].network
    target = int(draw.random.choice((net.broadcast_address, net.network_address)))
    mac = draw.random.choice((None, None, pk.BROADCAST))
    return draw.frame(draw.packet(dst=target), mac)


def _martian_source(draw: _Draw) -> bytes:
    random = draw.random
    net = random.choice(draw.config.own)[1].network
    packet = draw.packet(dst=draw.own() if random.random() < 0.2 else None)
    packet.src = random.choice(
        (
            0,
            0x00010203,
            0x7F000001,
            0x7F010203,
            0xE0000001,
            0xEF010101,
            0xFFFFFFFF,
            0xF0000001,
            draw.own(),
            int(net.broadcast_address),
            int(net.network_address),
            random.choice(draw.config.hot),
        )
    )
    return draw.frame(packet)


def _martian_destination(draw: _Draw) -> bytes:
    packet = draw.packet(
        dst=draw.random.choice(
            (
                0,
                0x00010203,
                0x7F000001,
                0x7F010203,
                0xF0000001,
                0xFFFFFFFE,
                0xFFFFFFFF,
                0xA9FE0102,
            )
        )
    )
    if draw.random.random() < 0.3:
        packet.src = 0
    return draw.frame(packet)


def _bad_checksum(draw: _Draw) -> bytes:
    packet = draw.packet()
    packet.checksum_error = draw.random.choice((1, 0x100, 0xFFFF))
    return draw.frame(packet)


def _wrong_lengths(draw: _Draw) -> bytes:
    random = draw.random
    packet = draw.packet()
    true = 20 + len(packet.payload)
    choice = random.randrange(5)
    if choice == 0:
        packet.length = random.choice((0, 10, 19, true + 1, true + 100, 65535))
    elif choice == 1:
        packet.length = random.choice((20, 21, 24, true - 1))
    elif choice == 2:
        packet.header_words = random.choice((0, 1, 4, 15))
    elif choice == 3:
        packet.version = random.choice((0, 5, 6, 15))
    else:
        return draw.frame(packet) + bytes(random.choice((1, 20, 300)))
    return draw.frame(packet)


def short(draw: Draws) -> bytes:
    """Cut off somewhere."""
    frame = draw.frame(draw.packet())
    return frame[: draw.random.randrange(14, len(frame))]


def _odd_protocol(draw: _Draw) -> bytes:
    packet = draw.packet(dst=draw.own() if draw.random.random() < 0.2 else None)
    packet.proto = draw.random.choice((0, 0, 0, 3, 255))
    return draw.frame(packet)


def _wrong_mac(draw: _Draw) -> bytes:
    mac = draw.random.choice(
        (
            router_mac((draw.port + 1) % PORTS),
            draw.station()[1],
            0x020000000001,
            0,
        )
    )
    return draw.frame(draw.packet(dst=draw.own() if draw.random.random() < 0.3 else None), mac)


def _arp(draw: _Draw) -> bytes:
    """Requests and replies, for the router or for others; askers that are not stations of ours."""
    random = draw.random
    address, mac = draw.station()
    if random.random() < 0.2:
        address = random.choice((0, random.randrange(1 << 24, 224 << 24), draw.own()))
    target = random.choice(
        (
            draw.own(),
            int(random.choice(draw.config.on(draw.port)).ip),
            draw.station()[0],
            draw.destination(),
            address,
        )
    )
    op = random.choice((1, 1, 1, 1, 2, 3, 9))
    if op == 2:
        mac = draw.config.station(draw.port, address) or mac
    body = pk.arp(op, mac, address, random.choice((0, router_mac(draw.port))), target)
    if random.random() < 0.1:
        body = body[: random.randrange(8, 28)]
    dst = random.choice((pk.BROADCAST, pk.BROADCAST, router_mac(draw.port)))
    return pk.ethernet(dst, mac, pk.ETH_ARP, body) + mark(draw.number)


def _other_type(draw: _Draw) -> bytes:
    random = draw.random
    body = draw.packet().pack()
    if random.random() < 0.5:
        kind = random.choice((0x86DD, 0x88CC, 0x8847, 0x8863, 0x1234, 0x8035, 0x9000, 0xFFFF))
        return draw.frame(body, dl_type=kind)
    head = random.choice(
        (
            b"\x42\x42\x03",
            b"\xaa\xaa\x03\x00\x00\x00\x08\x00",
            b"\xaa\xaa\x03\x00\x00\x0c\x20\x00",
            b"\xff\xff",
            b"\xfe\xfe\x03",
            b"\xaa\xaa\x03\x00\x00\x00\x08\x06",
        )
    )
    return draw.frame(head + body, dl_type=len(head) + len(body))


def _for_the_router(draw: _Draw) -> bytes:
    return draw.frame(draw.packet(dst=draw.own(), size=draw.random.choice((0, 0, 100, 1400))))


def _odd_source_mac(draw: _Draw) -> bytes:
    mac = draw.random.choice((0, pk.BROADCAST, 0x01005E000001, router_mac(draw.port)))
    return pk.ethernet(router_mac(draw.port), mac, 0x800, draw.packet().pack())


def _icmp_error(draw: _Draw) -> bytes:
    """An ICMP error about a packet of somebody's, or any other ICMP message."""
    random = draw.random
    packet = draw.packet(dst=draw.own() if random.random() < 0.4 else None)
    about = replace(draw.packet(), src=packet.dst, dst=packet.src).pack()[:28] + mark(draw.number)
    kind = random.choice((3, 3, 4, 5, 11, 12, 0, 9, 10, 13, 15, 17, 30))
    packet.proto, packet.payload = 1, pk.icmp(kind, random.randrange(5), draw.number, about)
    return draw.frame(packet)


_KINDS: dict[str, Callable[[_Draw], bytes]] = {
    "plain": _plain,
    "fragment": _fragment,
    "options": _options,
    "large": _large,
    "tagged": tagged,
    "multicast": _multicast,
    "subnet broadcast": _subnet_broadcast,
    "martian source": _martian_source,
    "martian destination": _martian_destination,
    "bad checksum": _bad_checksum,
    "wrong lengths": _wrong_lengths,
    "short": short,
    "odd protocol": _odd_protocol,
    "wrong MAC": _wrong_mac,
    "ARP": _arp,
    "other type": _other_type,
    "for the router": _for_the_router,
    "odd source MAC": _odd_source_mac,
    "ICMP": _icmp_error,
}
_WEIGHTS = {
    "plain": 50,
    "fragment": 8,
    "options": 4,
    "large": 12,
    "tagged": 5,
    "multicast": 6,
    "subnet broadcast": 4,
    "martian source": 7,
    "martian destination": 3,
    "bad checksum": 3,
    "wrong lengths": 5,
    "short": 2,
    "odd protocol": 3,
    "wrong MAC": 3,
    "ARP": 9,
    "other type": 4,
    "for the router": 12,
    "odd source MAC": 2,
    "ICMP": 5,
}


# --------------------------------------------------------------------------------------------
# What a switch cannot tell apart (docs/equivalence.md)


def untellable(frame: bytes) -> str:
    """What about a frame no match of the switch's can see, though a kernel does; "" for nothing."""
    seen = pk.parse(frame)
    if seen.dl_type == pk.ETH_IPV6 and len(frame) >= seen.l3 + 40:
        return _untellable6(frame, seen.l3)
    if seen.dl_type != pk.ETH_IPV4 or len(frame) < seen.l3 + 20:
        return ""
    at = seen.l3
    if at not in (14, 18):
        return "IPv4 in an 802.2 frame"
    if frame[at] >> 4 != 4:
        return "IP version"
    size = (frame[at] & 15) * 4
    if size < 20 or at + size > len(frame):
        return ""
    if pk.checksum(frame[at : at + size]):
        return "header checksum"
    return "IP options" if size > 20 else ""


def _untellable6(frame: bytes, at: int) -> str:
    if at not in (14, 18):
        return "IPv6 in an 802.2 frame"
    if frame[at] >> 4 != 6:
        return "IPv6 version"
    return "hop-by-hop options" if frame[at + 6] == 0 else ""
