"""Random IPv6 frames for a configuration, each with an id inside: a mark, and its flow label."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tests.differential.cases import ETHERNET, TAG, FrameCase, mark, short, tagged
from tests.differential.configurations import DEAD, PORTS, KernelConfiguration
from tests.differential.configurations6 import LEAST_MTU, LINK_LOCAL, link_local
from tests.differential.rig import neighbour_message, router_mac, solicited_node
from xenflow.openflow import packet as pk

LABEL = 0xFFFFF
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, NOTHING, DESTINATION = 0, 43, 44, 51, 59, 60
ALL_NODES, ALL_ROUTERS = 0xFF02 << 112 | 1, 0xFF02 << 112 | 2
ADDED = 40
"""Octets of an IPv6 header."""


@dataclass(slots=True)
class Ip6:
    """An IPv6 packet to be.

    headers  (type, all but the first octet) of extension headers, whose first octet is the type of
             what follows
    length   None: the true one
    """

    src: int
    dst: int
    proto: int
    payload: bytes
    hops: int = 64
    tclass: int = 0
    label: int = 0
    headers: list[tuple[int, bytes]] = field(default_factory=list)
    version: int = 6
    length: int | None = None

    def pack(self) -> bytes:
        """Its bytes."""
        following, body = self.proto, self.payload
        for kind, rest in reversed(self.headers):
            following, body = kind, bytes((following,)) + rest + body
        length = len(body) if self.length is None else self.length
        first = self.version << 28 | self.tclass << 20 | self.label
        head = struct.pack("!IHBB", first, length & 0xFFFF, following, self.hops)
        return head + self.src.to_bytes(16, "big") + self.dst.to_bytes(16, "big") + body


def make(number: int, config: KernelConfiguration, random: Random) -> FrameCase:
    """One random case."""
    draw = _Draw(number, config, random)
    kind = random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    frame = _KINDS[kind](draw)
    tag = TAG if kind == "tagged" else 0
    frame = frame[: config.mtus[draw.port] + ETHERNET + tag].ljust(ETHERNET, b"\0")
    return FrameCase(number, f"IPv6, {kind}", draw.port, frame, draw.early, 6)


class _Draw:
    """One case being made."""

    def __init__(self, number: int, config: KernelConfiguration, random: Random) -> None:
        self.number = number
        self.config = config
        self.random = random
        self.port = random.randrange(PORTS)
        self.early = False

    # addresses

    def chance(self, of_one: float) -> bool:
        """Whether something is so this time."""
        return self.random.random() < of_one

    def host(self) -> int:
        """An address of one of the router's networks, often a low one."""
        net = self.random.choice(self.config.own)[1].network
        count = net.num_addresses if self.chance(0.3) else min(net.num_addresses, 32)
        return int(net.network_address) + self.random.randrange(count)

    def station(self) -> int:
        """A station that answers, by a global address on the arrival port if it has one."""
        nets = [a.network for a in self.config.on(self.port) if a.network != LINK_LOCAL]
        for _ in range(20 if nets else 0):
            net = self.random.choice(nets)
            found = int(net.network_address) + self.random.randrange(min(net.num_addresses, 64))
            if found & 15 != DEAD and not self.config.is_own(found):
                return found
        return 0x20010DB8FFFF << 80 | self.random.getrandbits(8) << 4

    def near(self) -> int:
        """A station on the arrival port, often by its link-local address."""
        return link_local(self.config, self.port) if self.chance(0.5) else self.station()

    def mac(self, address: int) -> int:
        """The MAC address of a station there, of another one where none answers."""
        return self.config.station(self.port, address) or 0x0E00000A0A0A

    def source(self) -> int:
        """A source to which the router may find a way back, or not."""
        if self.chance(0.8):
            return self.station()
        return self.random.choice((*self.config.hot, 2 << 124 | self.random.getrandbits(125)))

    def own(self) -> int:
        """One of the router's addresses."""
        return int(self.random.choice(self.config.own)[1].ip)

    def anycast(self) -> int:
        """The subnet-router anycast address of one of its networks (RFC 4291, section 2.6.1)."""
        return int(self.random.choice(self.config.own)[1].network.network_address)

    def destination(self) -> int:
        """Somewhere beyond, often near the edge of a prefix."""
        random, config = self.random, self.config
        pick = random.random()
        if pick < 0.5:
            return random.choice(config.hot)
        if pick < 0.75:
            return random.choice(config.hot) ^ 1 << random.randrange(128)
        if pick < 0.9:
            return self.host()
        return 2 << 124 | random.getrandbits(125)

    def own_sometimes(self, of_one: float) -> int | None:
        """A destination for `packet`."""
        return self.own() if self.chance(of_one) else None

    # packets

    def transport(self, src: int, dst: int, size: int = 0) -> tuple[int, bytes]:
        """(protocol, payload) of some datagram that carries the id."""
        random = self.random
        body = mark(self.number) + bytes(size)
        kind = random.randrange(9)
        if kind == 8:
            return random.choice((4, 41, 47, 50, NOTHING, 89, 103, 132, 135, 139, 253)), body
        if kind < 3:
            proto = 17
            payload = pk.udp(src, dst, random.randrange(1024, 65536), 33000 + kind, body)
        elif kind < 5:
            proto, flags = 6, random.choice((2, 2, 16, 18, 1, 4, 0))
            ports = random.randrange(1024, 65536), random.choice((22, 80, 179, 4000))
            payload = pk.tcp(src, dst, *ports, body, seq=self.number, flags=flags)
        else:
            proto = 58
            rest = struct.pack("!I", self.number)
            payload = pk.icmpv6(src, dst, 128, 0, rest + body)
        if random.random() < 0.05:  # a wrong checksum, which is no router's affair
            payload = payload[:2] + bytes((payload[2] ^ 0x55,)) + payload[3:]
        return proto, payload

    def packet(self, dst: int | None = None, size: int = 0, src: int | None = None) -> Ip6:
        """A whole datagram, to somewhere beyond unless a destination is given."""
        src = self.source() if src is None else src
        dst = self.destination() if dst is None else dst
        proto, payload = self.transport(src, dst, size)
        return Ip6(
            src,
            dst,
            proto,
            payload,
            hops=self.random.choice((0, 1, 1, 2, 2, 3, *[64] * 8, 128, 255)),
            tclass=self.random.choice((0, 0, 0, 1, 2, 3, 0x10, 0xB8, 0xFF)),
            label=self.number & LABEL,
        )

    def frame(self, packet: Ip6 | bytes, dst: int | None = None, dl_type: int = 0x86DD) -> bytes:
        """The frame from a station, to the router unless a MAC address is given."""
        body = packet.pack() if isinstance(packet, Ip6) else packet
        mac = router_mac(self.port) if dst is None else dst
        return pk.ethernet(mac, self.mac(self.station()), dl_type, body)


# --------------------------------------------------------------------------------------------
# Extension headers (RFC 8200, section 4)


def _options(*options: bytes) -> bytes:
    """A header of options after its first octet, padded to whole words of eight."""
    body = b"".join(options)
    short = -(2 + len(body)) % 8
    pad = b"" if not short else b"\0" if short == 1 else bytes((1, short - 2)) + bytes(short - 2)
    body += pad
    return bytes(((2 + len(body)) // 8 - 1,)) + body


_PADDING = (b"\0", b"\x01\x00", b"\x01\x04" + bytes(4), b"\x01\x02\x00\x07", b"\0" * 9)
_ROUTER_ALERT = tuple(b"\x05\x02" + value for value in (b"\0\0", b"\0\x01", b"\0\x03", b"\x12\x34"))
_UNKNOWN = tuple(
    bytes((action << 6 | changes << 5 | 0x1E, 4)) + bytes(4)
    for action in range(4)
    for changes in (0, 1)
)
_JUMBO = (b"\xc2\x04\x00\x01\x00\x00", b"\xc2\x04\x00\x00\x00\x64", b"\xc2\x02\x00\x00")
_TUNNEL_LIMIT = (b"\x04\x01\x00", b"\x04\x01\x05")
_HOME_ADDRESS = (b"\xc9\x10" + (0x20010DB8 << 96 | 0x77).to_bytes(16, "big"),)
_BROKEN = (b"\x1e\xff", b"\x05\x03\0\0\0", b"\x01\xf0", b"\x1e")
_ANY_OPTION = (*_PADDING, *_ROUTER_ALERT, *_UNKNOWN, *_JUMBO, *_TUNNEL_LIMIT, *_BROKEN)


def _hop_by_hop(draw: _Draw) -> bytes:
    return _options(*draw.random.choices(_ANY_OPTION, k=draw.random.choice((0, 1, 1, 2, 3))))


def _destination_options(draw: _Draw) -> bytes:
    some = (*_ANY_OPTION, *_HOME_ADDRESS)
    return _options(*draw.random.choices(some, k=draw.random.choice((0, 1, 1, 2))))


def _routing(draw: _Draw) -> bytes:
    """Of the source route types 0 (RFC 5095: never), 2 (RFC 6275), 3 (RFC 6554), 4 (RFC 8754)."""
    kind, left = draw.random.choice((0, 0, 2, 3, 4, 4, 99)), draw.random.choice((0, 1, 1, 2))
    rest = bytes((0, 0, 0, 0)) + draw.destination().to_bytes(16, "big")
    return bytes((len(rest) // 8, kind, left)) + rest


def _fragment_header(part: str, draw: _Draw) -> bytes:
    offset = 8 * draw.random.choice((1, 10, 185, 8000)) if part in ("middle", "last") else 0
    word = offset | (part in ("first", "middle"))
    return struct.pack("!BHI", draw.random.choice((0, 0, 0xFF)), word, draw.number)


def _authentication(draw: _Draw) -> bytes:
    return struct.pack("!BHII", draw.random.choice((1, 2)), 0, 256, draw.number) + bytes(4)


_HEADERS: dict[int, Callable[[_Draw], bytes]] = {
    HOP_BY_HOP: _hop_by_hop,
    ROUTING: _routing,
    FRAGMENT: lambda draw: _fragment_header("atomic", draw),
    AUTHENTICATION: _authentication,
    DESTINATION: _destination_options,
}


# --------------------------------------------------------------------------------------------
# Kinds of frames


def _plain(draw: _Draw) -> bytes:
    packet = draw.packet(size=draw.random.choice((0, 0, 10, 200, 1000)))
    if draw.chance(0.2):
        packet.label = 0
    return draw.frame(packet)


def _fragment(draw: _Draw) -> bytes:
    """First, middle or last, or all of it; of a datagram that passes or is for the router."""
    packet = draw.packet(dst=draw.own_sometimes(0.2), size=24)
    part = draw.random.choice(("first", "middle", "last", "atomic"))
    if part == "first":
        packet.payload = packet.payload[: len(packet.payload) // 8 * 8]
    elif part != "atomic":
        packet.payload = mark(draw.number) + bytes(draw.random.choice((16, 16, 13)))
    packet.headers = [(FRAGMENT, _fragment_header(part, draw))]
    draw.early = draw.config.is_own(packet.dst)
    return draw.frame(packet)


def _hop_by_hop_only(draw: _Draw) -> bytes:
    packet = draw.packet(dst=draw.own_sometimes(0.25))
    packet.headers = [(HOP_BY_HOP, _hop_by_hop(draw))]
    if draw.chance(0.1):
        packet.length = 0
    return draw.frame(packet)


def _one_header(draw: _Draw) -> bytes:
    packet = draw.packet(dst=draw.own_sometimes(0.25))
    kind = draw.random.choice((ROUTING, ROUTING, DESTINATION, DESTINATION, AUTHENTICATION))
    packet.headers = [(kind, _HEADERS[kind](draw))]
    return draw.frame(packet)


def _chain(draw: _Draw) -> bytes:
    """Several headers in any order, whole or cut off somewhere, or with a length that is wrong."""
    random = draw.random
    packet = draw.packet(dst=draw.own_sometimes(0.25))
    kinds = random.choices(list(_HEADERS), k=random.choice((2, 2, 3, 5)))
    if random.random() < 0.7:  # hop-by-hop first or not at all
        kinds.sort(key=lambda kind: kind != HOP_BY_HOP)
    packet.headers = [(kind, _HEADERS[kind](draw)) for kind in kinds]
    draw.early = draw.config.is_own(packet.dst)
    body = packet.pack()
    cut = random.random()
    if cut < 0.1:
        packet.length = random.randrange(len(body) - ADDED)
    elif cut < 0.2:
        at = random.randrange(len(kinds))
        kind, rest = packet.headers[at]
        packet.headers[at] = (kind, bytes((random.choice((0, 5, 30, 255)),)) + rest[1:])
    elif cut < 0.3:
        packet.proto = random.choice((NOTHING, HOP_BY_HOP, DESTINATION, 255))
    return draw.frame(packet)


def _large(draw: _Draw) -> bytes:
    """Around the MTUs that interfaces have."""
    mtu = max(LEAST_MTU, draw.random.choice((*draw.config.mtus, 1300)))
    packet = draw.packet(size=500)
    headers = ADDED + len(packet.payload) - 500
    room = mtu - headers + draw.random.choice((-8, -1, 0, 1, 2, 8, 100, 700))
    return draw.frame(draw.packet(size=max(0, min(room, 1500 - headers))))


def _multicast(draw: _Draw) -> bytes:
    """Multicast of all scopes as a frame, as a packet, or as both."""
    random = draw.random
    scope = random.choice((0, 1, 2, 2, 2, 3, 4, 5, 8, 0xE, 0xF))
    group = random.choice((1, 2, 5, 0x16, 0x101, 0x1FF000001, random.getrandbits(32)))
    flags = random.choice((0, 0, 1, 3))
    address = 0xFF << 120 | flags << 116 | scope << 112 | group
    if random.random() < 0.2:
        address = solicited_node(draw.own())[0]
    mac = 0x333300000000 | address & 0xFFFFFFFF
    choice = random.randrange(4)
    if choice == 0:
        return draw.frame(draw.packet(dst=address, src=draw.near()), mac)
    if choice == 1:
        return draw.frame(draw.packet(dst=address))
    macs = (mac, pk.BROADCAST, 0x0180C2000000, 0x333300000001)
    return draw.frame(draw.packet(dst=draw.own_sometimes(0.5)), random.choice(macs))


def _anycast(draw: _Draw) -> bytes:
    """To a subnet's routers, to the last address of a subnet (of reserved ones, RFC 2526)."""
    net = draw.random.choice(draw.config.own)[1].network
    target = draw.random.choice((draw.anycast(), draw.anycast(), int(net.broadcast_address)))
    mac = draw.random.choice((None, None, None, pk.BROADCAST))
    return draw.frame(draw.packet(dst=target), mac)


def _odd_addresses(draw: _Draw) -> list[int]:
    """Those that are no station's."""
    return [
        0,
        1,
        2,
        0x0A000102,
        0xFFFF << 32 | 0x0A000102,
        0xFFFF << 32 | 0x7F000001,
        0xFFFF << 32 | 0xE0000001,
        0x64FF9B << 96 | 0x0A000102,
        0x2002 << 112 | 0x7F000001 << 80 | 1,
        0x2002 << 112 | 0x0A000102 << 80 | 1,
        0x2001 << 112 | 5,
        0x100 << 112 | 7,
        0xFEC0 << 112 | 1,
        0xFE80 << 112 | 1 << 64 | 1,
        0xFEBF << 112 | 1,
        0x5F00 << 112 | 1,
        (1 << 128) - 1,
        draw.near(),
        draw.own(),
        draw.anycast(),
        draw.random.choice(draw.config.hot),
    ]


def _odd_source(draw: _Draw) -> bytes:
    others = (ALL_NODES, 0xFF05 << 112 | 2, 0xFF0E << 112 | 0x101)
    src = draw.random.choice((*_odd_addresses(draw), *others))
    return draw.frame(draw.packet(dst=draw.own_sometimes(0.25), src=src))


def _odd_destination(draw: _Draw) -> bytes:
    packet = draw.packet(dst=draw.random.choice(_odd_addresses(draw)))
    if draw.chance(0.3):
        packet.src = draw.random.choice(_odd_addresses(draw))
    return draw.frame(packet)


def _wrong_lengths(draw: _Draw) -> bytes:
    random = draw.random
    packet = draw.packet(dst=draw.own_sometimes(0.1))
    true = len(packet.payload)
    choice = random.randrange(4)
    if choice == 0:
        packet.length = random.choice((true + 1, true + 100, 65535))
    elif choice == 1:
        packet.length = random.choice((0, 0, 1, 7, true - 1))
    elif choice == 2:
        packet.version = random.choice((0, 4, 5, 7, 15))
    else:
        return draw.frame(packet) + bytes(random.choice((1, 20, 255, 256, 300)))
    return draw.frame(packet)


def _wrong_mac(draw: _Draw) -> bytes:
    macs = router_mac((draw.port + 1) % PORTS), draw.mac(draw.station()), 0x020000000001, 0
    return draw.frame(draw.packet(dst=draw.own_sometimes(0.3)), draw.random.choice(macs))


def _odd_source_mac(draw: _Draw) -> bytes:
    macs = 0, pk.BROADCAST, 0x333300000001, router_mac(draw.port)
    body = draw.packet().pack()
    return pk.ethernet(router_mac(draw.port), draw.random.choice(macs), pk.ETH_IPV6, body)


def _neighbour(draw: _Draw) -> bytes:
    """Solicitations and advertisements, whole or not, for the router or for others.  What the
    router may believe is true."""
    random = draw.random
    kind = random.choice((135, 135, 135, 136))
    src = random.choice((draw.near(), draw.near(), draw.near(), 0, random.choice(draw.config.hot)))
    targets = [draw.own(), draw.own(), draw.station(), draw.anycast(), draw.destination(), src]
    here = draw.config.on(draw.port)
    targets += [int(a.ip) for a in here] * 2 + draw.config.proxied * 2
    target = random.choice(targets)
    if kind == 136:
        target = src or target
    group, group_mac = solicited_node(target)
    dst, to = random.choice(
        (
            (group, group_mac),
            (group, group_mac),
            (target, router_mac(draw.port)),
            (ALL_NODES, 0x333300000001),
            (draw.own(), router_mac(draw.port)),
        )
    )
    mac = draw.mac(target if kind == 136 else src)
    flags = random.choice((0, 1, 2, 3, 7)) << 29 if kind == 136 else 0
    packet = neighbour_message(kind, src, dst, target, mac, flags)
    oddity = random.randrange(12)
    if oddity == 0:
        packet = neighbour_message(kind, src, dst, target, mac, flags, random.choice((1, 64, 254)))
    elif oddity == 1:
        body = bytes(4) + target.to_bytes(16, "big") + bytes((1, 0)) + bytes(6)
        packet = pk.ipv6(src, dst, 58, pk.icmpv6(src, dst, kind, 0, body), hops=255)
    elif oddity == 2:
        body = bytes(4) + target.to_bytes(16, "big")[: random.choice((0, 8, 16))]
        packet = pk.ipv6(src, dst, 58, pk.icmpv6(src, dst, kind, 0, body), hops=255)
    elif oddity == 3:
        body = bytes(4) + target.to_bytes(16, "big")
        packet = pk.ipv6(src, dst, 58, pk.icmpv6(src, dst, kind, 1, body), hops=255)
    elif oddity == 4:
        packet = packet[:-1] + bytes((packet[-1] ^ 1,))
    return pk.ethernet(to, mac, pk.ETH_IPV6, packet) + mark(draw.number)


def _routers(draw: _Draw) -> bytes:
    """Solicitations and advertisements of routers, redirects, queries for listeners."""
    random = draw.random
    kind = random.choice((133, 133, 134, 134, 137, 130, 131, 132, 143))
    src = random.choice((draw.near(), draw.near(), 0 if kind == 133 else draw.near()))
    if kind == 137:
        body = bytes(4) + draw.near().to_bytes(16, "big") + draw.destination().to_bytes(16, "big")
    elif kind == 134:
        body = struct.pack("!BBHII", 64, 0, random.choice((0, 1800)), 0, 0)
    else:
        body = bytes(20)
    dst, to = random.choice(
        (
            (ALL_NODES, 0x333300000001),
            (ALL_ROUTERS, 0x333300000002),
            (draw.own(), router_mac(draw.port)),
            (draw.destination(), router_mac(draw.port)),
        )
    )
    message = pk.icmpv6(src, dst, kind, 0, body + mark(draw.number))
    hops = random.choice((255, 255, 1, 64))
    packet = Ip6(src, dst, 58, message, hops=hops, label=draw.number & LABEL)
    if kind in (130, 131, 132, 143) and random.random() < 0.7:
        packet.headers, packet.hops = [(HOP_BY_HOP, _options(_ROUTER_ALERT[0]))], 1
    return draw.frame(packet, to)


def _icmp(draw: _Draw) -> bytes:
    """An ICMPv6 error about a packet of somebody's, or any other message."""
    random = draw.random
    packet = draw.packet(dst=draw.own_sometimes(0.4))
    about = draw.packet(dst=packet.src, src=packet.dst).pack()[:48] + mark(draw.number)
    kind = random.choice((1, 1, 2, 2, 3, 4, 0, 100, 127, 129, 138, 139, 140, 144, 151, 160, 200))
    rest = struct.pack("!I", random.choice((0, 1280, 1400, draw.number)))
    packet.proto = 58
    packet.payload = pk.icmpv6(packet.src, packet.dst, kind, random.randrange(8), rest + about)
    return draw.frame(packet)


def _for_the_router(draw: _Draw) -> bytes:
    dst = draw.own()
    src = draw.near() if dst >> 64 == 0xFE80 << 48 else None
    return draw.frame(draw.packet(dst=dst, size=draw.random.choice((0, 0, 100, 1400)), src=src))


def _proxied(draw: _Draw) -> bytes:
    """To one that the router answers for, if it does: of messages between neighbours, too."""
    dst = draw.random.choice(draw.config.proxied or draw.config.hot)
    packet = draw.packet(dst=dst)
    if draw.chance(0.5):
        kind = draw.random.choice((133, 134, 135, 136, 137))
        body = bytes(4) + dst.to_bytes(16, "big") + bytes(16) + mark(draw.number)
        packet.hops, packet.proto = 255, 58
        packet.payload = pk.icmpv6(packet.src, dst, kind, 0, body)
    return draw.frame(packet)


def _other_type(draw: _Draw) -> bytes:
    body = draw.packet().pack()
    if draw.chance(0.6):
        return draw.frame(body, dl_type=draw.random.choice((0x0800, 0x88DD, 0x8847, 0x1234)))
    head = draw.random.choice(
        (b"\xaa\xaa\x03\x00\x00\x00\x86\xdd", b"\xaa\xaa\x03\x00\x00\x0c\x86\xdd", b"\x42\x42\x03")
    )
    return draw.frame(head + body, dl_type=len(head) + len(body))


_KINDS: dict[str, Callable[[_Draw], bytes]] = {
    "plain": _plain,
    "fragment": _fragment,
    "hop-by-hop": _hop_by_hop_only,
    "one header": _one_header,
    "chain": _chain,
    "large": _large,
    "tagged": tagged,
    "multicast": _multicast,
    "anycast": _anycast,
    "odd source": _odd_source,
    "odd destination": _odd_destination,
    "wrong lengths": _wrong_lengths,
    "short": short,
    "wrong MAC": _wrong_mac,
    "odd source MAC": _odd_source_mac,
    "neighbour": _neighbour,
    "routers": _routers,
    "ICMPv6": _icmp,
    "for the router": _for_the_router,
    "proxied": _proxied,
    "other type": _other_type,
}
_WEIGHTS = {
    "plain": 50,
    "fragment": 8,
    "hop-by-hop": 5,
    "one header": 5,
    "chain": 6,
    "large": 12,
    "tagged": 4,
    "multicast": 7,
    "anycast": 4,
    "odd source": 9,
    "odd destination": 6,
    "wrong lengths": 6,
    "short": 3,
    "wrong MAC": 3,
    "odd source MAC": 2,
    "neighbour": 11,
    "routers": 4,
    "ICMPv6": 6,
    "for the router": 12,
    "proxied": 3,
    "other type": 2,
}
