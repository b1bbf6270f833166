"""Frames: taken apart into the fields a flow can match, and put together for tests and probes.

`parse` sees a frame as Open vSwitch's flow extraction does (lib/flow.c, miniflow_extract): a
header that is truncated or contradicts itself leaves its fields 0, nothing is ever raised.
Addresses are ints (MAC 48 bits, IPv4 32, IPv6 128).  Frames are bytes from the destination MAC
on, without the frame check sequence.

The builders raise PacketError on arguments that do not fit their headers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

ETH_VLAN = 0x8100
ETH_QINQ = 0x88A8
ETH_IPV4 = 0x0800
ETH_ARP = 0x0806
ETH_RARP = 0x8035
ETH_IPV6 = 0x86DD
NO_TYPE = 0x05FF
"""dl_type of an 802.2 frame without SNAP (OpenFlow 1.0.0, table 3: OFP_DL_TYPE_NOT_ETH_TYPE)."""

BROADCAST = 0xFFFFFFFFFFFF
VLAN_PRESENT = 0x1000
FRAG_ANY = 1
FRAG_LATER = 2
OSPF = 89
_HELLO_BYTES = 20
"""Of an OSPF hello after its header, without the neighbours (RFC 2328, A.3.2; RFC 5340, A.3.2)."""
DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000


class PacketError(ValueError):
    """Arguments from which no frame can be built; the message names the one at fault."""


class Packet(NamedTuple):
    """The fields of a frame, 0 where the frame has none.

    `vlan_tci` is 0 for an untagged frame, else 0x1000 with id and priority of the outer tag.
    `nw_tos` is without the two ECN bits.  `nw_frag`: 0 none, 1 first fragment, 3 later one.
    `tp_src` and `tp_dst` are ports, or of ICMP type and code.  A first fragment has them, but a
    switch matches every fragment as if they were 0 (its actions do see them).  `l3`, `l4`, `end`
    are offsets into the frame: network header, transport header (0 where there is none, as in a
    later fragment), and the end of the IP packet (padding follows).  Of a neighbour solicitation
    or advertisement (RFC 4861, 4.3 and 4.4) `nd_sll` and `nd_tll` are its link-layer options,
    `nd_options_type` the type of the first of them, `nd_reserved` its second word.
    """

    dl_dst: int = 0
    dl_src: int = 0
    dl_type: int = 0
    vlan_tci: int = 0
    nw_src: int = 0
    nw_dst: int = 0
    nw_proto: int = 0
    nw_tos: int = 0
    nw_ttl: int = 0
    nw_frag: int = 0
    tp_src: int = 0
    tp_dst: int = 0
    arp_op: int = 0
    arp_spa: int = 0
    arp_tpa: int = 0
    arp_sha: int = 0
    arp_tha: int = 0
    ipv6_src: int = 0
    ipv6_dst: int = 0
    nd_target: int = 0
    nd_sll: int = 0
    nd_tll: int = 0
    nd_reserved: int = 0
    nd_options_type: int = 0
    l3: int = 0
    l4: int = 0
    end: int = 0


_new = tuple.__new__
_ETHERNET = struct.Struct("!HIHIH")
_IPV4 = struct.Struct("!BBHHHBBHII")
_ETH_IPV4_PORTS = struct.Struct("!QIHBBHHHBBHIIHH")
_NO_ARP_NO_IPV6 = (0,) * 12
_ARP = struct.Struct("!HHBBHHIIHII")
_IPV6 = struct.Struct("!IHBB16s16s")
_PORTS = struct.Struct("!HH")
_L4_MIN = {6: 20, 17: 8, 1: 8, 58: 4}


def parse(frame: bytes) -> Packet:
    """The fields of `frame`; of one shorter than 14 bytes all are 0.  Raises nothing."""
    size = len(frame)
    if size >= 42:
        # The common case in one step: untagged IPv4, no options, no fragment, TCP or UDP.
        macs, src_low, dl_type, ihl, tos, length, _, frag, ttl, proto, _, src, dst, sport, dport = (
            _ETH_IPV4_PORTS.unpack_from(frame)
        )
        if (
            dl_type == 0x0800
            and ihl & 15 == 5
            and not frag & 0x3FFF
            and 20 + _L4_MIN.get(proto, 0) <= length <= size - 14
            and proto in (17, 6)
        ):
            link = (macs >> 16, (macs & 0xFFFF) << 32 | src_low, 0x0800, 0)
            ip = (src, dst, proto, tos & 0xFC, ttl, 0, sport, dport)
            return _new(Packet, (*link, *ip, *_NO_ARP_NO_IPV6, 14, 34, 14 + length))
    elif size < 14:
        return Packet(l3=size, end=size)
    return _parse(frame, size)


def _parse(frame: bytes, size: int) -> Packet:
    dst_high, dst_low, src_high, src_low, dl_type = _ETHERNET.unpack_from(frame)
    tci = 0
    at = 14
    if dl_type in (ETH_VLAN, ETH_QINQ) and size >= 18:
        tci = frame[14] << 8 | frame[15] | VLAN_PRESENT
        dl_type = frame[16] << 8 | frame[17]
        at = 18
    if dl_type < 0x0600:
        dl_type, at = _llc(frame, at, size)
    link = Packet(dst_high << 32 | dst_low, src_high << 32 | src_low, dl_type, tci, l3=at, end=size)
    if dl_type == ETH_IPV4:
        return _parse_ipv4(frame, link)
    if dl_type in (ETH_ARP, ETH_RARP):
        return _parse_arp(frame, link)
    return _parse_ipv6(frame, link) if dl_type == ETH_IPV6 else link


def _llc(frame: bytes, at: int, size: int) -> tuple[int, int]:
    """An 802.3 frame: the type in its SNAP header, if it has one."""
    if size >= at + 8 and frame[at : at + 6] == b"\xaa\xaa\x03\0\0\0":
        snap = frame[at + 6] << 8 | frame[at + 7]
        if snap >= 0x0600:
            return snap, at + 8
    return NO_TYPE, at


def _parse_ipv4(frame: bytes, link: Packet) -> Packet:
    at, size = link.l3, link.end
    if at + 20 > size:
        return link
    version_ihl, tos, length, _, frag, ttl, proto, _, src, dst = _IPV4.unpack_from(frame, at)
    header = (version_ihl & 15) * 4
    if not 20 <= header <= length <= size - at:
        return link
    nw_frag = 0
    if frag & 0x3FFF:
        nw_frag = FRAG_ANY | (FRAG_LATER if frag & 0x1FFF else 0)
    addressed = (*link[:4], src, dst, proto, tos & 0xFC, ttl, nw_frag)
    return _parse_transport(frame, Packet(*addressed, l3=at, end=at + length), at + header)


def _parse_transport(frame: bytes, packet: Packet, at: int) -> Packet:
    proto = packet.nw_proto
    if packet.nw_frag & FRAG_LATER:
        return packet
    if proto not in _L4_MIN or at + _L4_MIN[proto] > packet.end:
        return packet
    if (proto == 1) != (packet.dl_type == ETH_IPV4) and proto in (1, 58):
        return packet
    if proto in (1, 58):
        packet = packet._replace(tp_src=frame[at], tp_dst=frame[at + 1], l4=at)
        return _parse_nd(frame, packet) if (proto, frame[at + 1]) == (58, 0) else packet
    src, dst = _PORTS.unpack_from(frame, at)
    return packet._replace(tp_src=src, tp_dst=dst, l4=at)


ND_HEADER = 24
"""From an ICMPv6 header to the options of a solicitation or advertisement."""
_LINK_LAYER = {1: "nd_sll", 2: "nd_tll"}


def link_layer_options(frame: bytes | bytearray, packet: Packet) -> Iterator[tuple[str, int]]:
    """(field, where the address is) of each link-layer option in a message of neighbour discovery
    (RFC 4861, section 4.6.1)."""
    at = packet.l4 + ND_HEADER
    while at + 8 <= packet.end:
        size = frame[at + 1] * 8
        if not 0 < size <= packet.end - at:
            return
        if size == 8 and frame[at] in _LINK_LAYER:
            yield _LINK_LAYER[frame[at]], at + 2
        at += size


def _parse_nd(frame: bytes, packet: Packet) -> Packet:
    at = packet.l4
    if packet.tp_src not in (135, 136) or at + 8 > packet.end:
        return packet
    packet = packet._replace(nd_reserved=int.from_bytes(frame[at + 4 : at + 8], "big"))
    if at + ND_HEADER > packet.end:
        return packet
    found = {"nd_target": int.from_bytes(frame[at + 8 : at + ND_HEADER], "big")}
    for name, where in link_layer_options(frame, packet):
        if found.get(name):
            return packet._replace(nd_options_type=found["nd_options_type"])  # given twice
        found[name] = int.from_bytes(frame[where : where + 6], "big")
        found.setdefault("nd_options_type", frame[where - 2])
    return packet._replace(**found)


def _parse_arp(frame: bytes, link: Packet) -> Packet:
    at = link.l3
    if at + 28 > link.end:
        return link
    (kind, proto, hlen, plen, op, sha_high, sha_low, spa, tha_high, tha_low, tpa) = (
        _ARP.unpack_from(frame, at)
    )
    if (kind, proto, hlen, plen) != (1, ETH_IPV4, 6, 4):
        return link
    return link._replace(
        arp_op=op if op <= 0xFF else 0,
        arp_spa=spa,
        arp_tpa=tpa,
        arp_sha=sha_high << 32 | sha_low,
        arp_tha=tha_high << 32 | tha_low,
    )


def _parse_ipv6(frame: bytes, link: Packet) -> Packet:
    at, size = link.l3, link.end
    if at + 40 > size:
        return link
    first, length, proto, hops, src, dst = _IPV6.unpack_from(frame, at)
    end = at + 40 + length
    if end > size:
        return link
    at += 40
    nw_frag = 0
    while proto in (0, 43, 44, 51, 60):  # extension headers (RFC 8200, section 4)
        if at + 8 > end:
            return link
        following = frame[at]
        if proto == 44:
            frag = frame[at + 2] << 8 | frame[at + 3]
            if frag & 0xFFF9:
                nw_frag = FRAG_ANY | (FRAG_LATER if frag & 0xFFF8 else 0)
            at += 8
            if nw_frag & FRAG_LATER:
                break
        else:
            at += (frame[at + 1] + 2) * 4 if proto == 51 else (frame[at + 1] + 1) * 8
            if at > end:
                return link
        proto = following
    link = link._replace(
        ipv6_src=int.from_bytes(src, "big"),
        ipv6_dst=int.from_bytes(dst, "big"),
        nw_proto=proto,
        nw_tos=first >> 20 & 0xFC,
        nw_ttl=hops,
        nw_frag=nw_frag,
        end=end,
    )
    return _parse_transport(frame, link, at)


def fields(frame: bytes, in_port: int) -> dict[str, int]:
    """Every match field of `frame` arriving at `in_port` by name, the registers 0."""
    packet = parse(frame)
    found = {"in_port": in_port, **packet._asdict()}
    del found["l3"], found["l4"], found["end"]
    found.update((f"reg{i}", 0) for i in range(8))
    return found


class OspfHello(NamedTuple):
    """What an OSPF hello announces."""

    interval_s: int
    neighbours: int
    """How many routers it says its sender has heard of."""
    kind: int
    """Version and instance (of several on a link, RFC 5340, section 2.4, and RFC 6549): 0x200 of
    the usual OSPFv2, 0x300 of OSPFv3."""


def hello(frame: bytes) -> OspfHello | None:
    """An OSPF hello, whole; None for any other frame.

    OSPFv2 in IPv4 (RFC 2328, A.3.2) or OSPFv3 in IPv6 (RFC 5340, A.3.2).
    """
    packet = parse(frame)
    if packet.nw_proto != OSPF or packet.nw_frag & FRAG_LATER:
        return None
    if packet.dl_type == ETH_IPV4:
        at, version, header, where = packet.l3 + (frame[packet.l3] & 15) * 4, 2, 24, 28
    else:
        at, version, header, where = packet.l3 + 40, 3, 16, 24
    if at + header > packet.end or frame[at] != version or frame[at + 1] != 1:
        return None
    length = frame[at + 2] << 8 | frame[at + 3]
    if length < header + _HELLO_BYTES or at + length > packet.end:
        return None
    interval_s = frame[at + where] << 8 | frame[at + where + 1]
    kind = version << 8 | frame[at + 14]
    return OspfHello(interval_s, (length - header - _HELLO_BYTES) // 4, kind)


ISIS_GROUPS = (0x0180C2000014, 0x0180C2000015, 0x09002B000005)
"""AllL1ISs, AllL2ISs, AllISs (ISO/IEC 10589, 8.4.8; RFC 5309, 4.1)."""
_ISIS = b"\xfe\xfe\x03\x83"
"""LLC (DSAP, SSAP, UI) and the intradomain routeing protocol discriminator."""
_ISIS_LAN, _ISIS_POINT_TO_POINT = (15, 16), 17
_ISIS_NEIGHBOURS, _ISIS_THREE_WAY = 6, 240
"""TLVs: the neighbours' MACs on a LAN; the state of a point-to-point adjacency (RFC 5303)."""


class IsisHello(NamedTuple):
    """What an IS-IS hello announces."""

    kind: int
    """15: level 1, 16: level 2, on a LAN; 17: point-to-point."""
    hold_s: int
    """So long its neighbours wait for the next one."""
    neighbours: int
    """How many systems it says its sender hears; 1 of a point-to-point adjacency that is up."""


def isis_hello(frame: bytes) -> IsisHello | None:
    """An IS-IS hello, whole (ISO/IEC 10589, 9.5 to 9.7); None for any other frame."""
    length = frame[12] << 8 | frame[13] if len(frame) >= 14 else 0
    end = 14 + length
    if not (4 <= length < 0x600 and end <= len(frame) and frame[14:18] == _ISIS):
        return None
    pdu = 17
    if end < pdu + 20:
        return None
    kind, hold_s = frame[pdu + 4] & 31, frame[pdu + 15] << 8 | frame[pdu + 16]
    if kind in _ISIS_LAN:
        at = pdu + 27
    elif kind == _ISIS_POINT_TO_POINT:
        at = pdu + 20
    else:
        return None
    if at > end:
        return None
    end = min(end, pdu + (frame[pdu + 17] << 8 | frame[pdu + 18]))
    neighbours, three_way = 0, False
    while at + 2 <= end and at + 2 + frame[at + 1] <= end:
        code, size = frame[at], frame[at + 1]
        if code == _ISIS_NEIGHBOURS and kind in _ISIS_LAN:
            neighbours += size // 6
        elif code == _ISIS_THREE_WAY and kind == _ISIS_POINT_TO_POINT and size:
            three_way, neighbours = True, int(frame[at + 2] == 0)
        at += 2 + size
    if kind == _ISIS_POINT_TO_POINT and not three_way:
        neighbours = 1  # it is up by being heard (ISO/IEC 10589, 8.2.4)
    return IsisHello(kind, hold_s, neighbours)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`: 0 over a header that carries a right one."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


# --------------------------------------------------------------------------------------------
# Builders


def _fits(what: str, value: int, bits: int) -> int:
    if not 0 <= value < 1 << bits:
        raise PacketError(f"{what}: {value} does not fit in {bits} bits")
    return value


def ethernet(dst: int, src: int, dl_type: int, payload: bytes) -> bytes:
    """An Ethernet II frame, not padded."""
    head = _fits("dst", dst, 48).to_bytes(6, "big") + _fits("src", src, 48).to_bytes(6, "big")
    return head + struct.pack("!H", _fits("dl_type", dl_type, 16)) + payload


def vlan(frame: bytes, vid: int, pcp: int = 0, tpid: int = ETH_VLAN) -> bytes:
    """The frame with one more tag, outermost."""
    if len(frame) < 14:
        raise PacketError(f"vlan: a frame of {len(frame)} bytes has no place for a tag")
    tci = _fits("vid", vid, 12) | _fits("pcp", pcp, 3) << 13
    return frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]


def arp(op: int, sha: int, spa: int, tha: int, tpa: int) -> bytes:
    """An ARP packet for IPv4 over Ethernet (RFC 826): op 1 asks, op 2 answers."""
    sender = _fits("sha", sha, 48).to_bytes(6, "big"), _fits("spa", spa, 32)
    target = _fits("tha", tha, 48).to_bytes(6, "big"), _fits("tpa", tpa, 32)
    kind = (1, ETH_IPV4, 6, 4, _fits("op", op, 16))
    return struct.pack("!HHBBH6sI6sI", *kind, *sender, *target)


def ipv4(
    src: int,
    dst: int,
    proto: int,
    payload: bytes = b"",
    *,
    ttl: int = 64,
    tos: int = 0,
    ident: int = 0,
    flags: int = 0,
    frag_offset: int = 0,
    options: bytes = b"",
) -> bytes:
    """An IPv4 packet (RFC 791); `frag_offset` in bytes (a multiple of 8), `flags` as on the wire.

    `options` is padded with zeros to whole words; 40 bytes at most.
    """
    options += bytes(-len(options) % 4)
    if len(options) > 40:
        raise PacketError(f"options: {len(options)} bytes, 40 at most")
    if frag_offset % 8:
        raise PacketError(f"frag_offset: {frag_offset} is no multiple of 8")
    if flags & ~0xE000:
        raise PacketError(f"flags: {flags:#x} has bits outside 0xe000")
    length = _fits("length", 20 + len(options) + len(payload), 16)
    words = (
        0x45 + len(options) // 4,
        _fits("tos", tos, 8),
        length,
        _fits("ident", ident, 16),
        flags | _fits("frag_offset", frag_offset // 8, 13),
        _fits("ttl", ttl, 8),
        _fits("proto", proto, 8),
    )
    ends = (_fits("src", src, 32), _fits("dst", dst, 32))
    total = checksum(_IPV4.pack(*words, 0, *ends) + options)
    return _IPV4.pack(*words, total, *ends) + options + payload


def ipv6(
    src: int,
    dst: int,
    proto: int,
    payload: bytes = b"",
    *,
    hops: int = 64,
    tclass: int = 0,
    label: int = 0,
) -> bytes:
    """An IPv6 packet (RFC 8200, section 3); `proto` is the next header, `hops` the hop limit,
    `tclass` the traffic class, `label` the flow label."""
    first = 6 << 28 | _fits("tclass", tclass, 8) << 20 | _fits("label", label, 20)
    words = (
        first,
        _fits("length", len(payload), 16),
        _fits("proto", proto, 8),
        _fits("hops", hops, 8),
        _fits("src", src, 128).to_bytes(16, "big"),
        _fits("dst", dst, 128).to_bytes(16, "big"),
    )
    return _IPV6.pack(*words) + payload


def _pseudo(src: int, dst: int, proto: int, segment: bytes) -> int:
    """The checksum over a segment and its addresses: IPv4's, or IPv6's where one is longer
    (RFC 8200, section 8.1)."""
    if (src | dst) >> 32:
        ends = src.to_bytes(16, "big") + dst.to_bytes(16, "big")
        return checksum(ends + struct.pack("!IHBB", len(segment), 0, 0, proto) + segment)
    return checksum(struct.pack("!IIBBH", src, dst, 0, proto, len(segment)) + segment)


def udp(src: int, dst: int, sport: int, dport: int, payload: bytes = b"") -> bytes:
    """A UDP datagram (RFC 768) with its checksum for the addresses `src` and `dst`."""
    ports = (_fits("sport", sport, 16), _fits("dport", dport, 16))
    head = (*ports, _fits("size", 8 + len(payload), 16))
    total = _pseudo(src, dst, 17, struct.pack("!HHHH", *head, 0) + payload)
    return struct.pack("!HHHH", *head, total or 0xFFFF) + payload


def tcp(
    src: int,
    dst: int,
    sport: int,
    dport: int,
    payload: bytes = b"",
    *,
    seq: int = 0,
    flags: int = 2,
) -> bytes:
    """A TCP segment (RFC 9293) without options, with its checksum; `flags` 2 is SYN."""
    ports = (_fits("sport", sport, 16), _fits("dport", dport, 16))
    words = (*ports, _fits("seq", seq, 32), 0, 0x5000 | _fits("flags", flags, 9), 0xFFFF)
    total = _pseudo(src, dst, 6, struct.pack("!HHIIHHHH", *words, 0, 0) + payload)
    return struct.pack("!HHIIHHHH", *words, total, 0) + payload


def icmp(kind: int, code: int = 0, rest: int = 0, payload: bytes = b"") -> bytes:
    """An ICMP message (RFC 792); `rest` is the header's second word (id << 16 | seq of an echo)."""
    words = (_fits("kind", kind, 8), _fits("code", code, 8))
    total = checksum(struct.pack("!BBHI", *words, 0, _fits("rest", rest, 32)) + payload)
    return struct.pack("!BBHI", *words, total, rest) + payload


def icmpv6_checksum(src: int, dst: int, message: bytes) -> int:
    """The checksum of an ICMPv6 message whose own is 0, between these addresses."""
    return _pseudo(src, dst, 58, message)


def icmpv6(src: int, dst: int, kind: int, code: int = 0, body: bytes = bytes(4)) -> bytes:
    """An ICMPv6 message (RFC 4443, section 2.1) with its checksum; `body` follows the header's
    first word."""
    head = struct.pack("!BB", _fits("kind", kind, 8), _fits("code", code, 8))
    total = icmpv6_checksum(src, dst, head + b"\0\0" + body)
    return head + total.to_bytes(2, "big") + body
