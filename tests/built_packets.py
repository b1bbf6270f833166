"""Packets that only tests build, beside those of `xenflow.openflow.packet`."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from xenflow.openflow.packet import ETH_IPV6, checksum, ethernet, icmpv6, ipv6


def ospf_hello(router_id: int, interval_s: int, neighbours: Sequence[int] = ()) -> bytes:
    """An OSPFv2 hello of a /24 in area 0 (RFC 2328, A.3.2); dead after four times `interval_s`."""
    times = (interval_s, 2, 1, interval_s * 4)
    body = struct.pack("!IHBBIII", 0xFFFFFF00, *times, 0, 0)
    body += b"".join(each.to_bytes(4, "big") for each in neighbours)
    head = (2, 1, 24 + len(body), router_id, 0)
    total = checksum(struct.pack("!BBHIIHH", *head, 0, 0) + body)
    return struct.pack("!BBHIIHH8x", *head, total, 0) + body


def ospf6_hello(
    src: int, interval_s: int, neighbours: Sequence[int] = (), instance: int = 0
) -> bytes:
    """An OSPFv3 hello in its packet (RFC 5340, A.3.2) from `src` to all OSPF routers of a link."""
    dst = 0xFF02 << 112 | 5
    body = struct.pack("!IIHHII", 5, 1 << 24, interval_s, interval_s * 4, 0, 0)
    body += b"".join(each.to_bytes(4, "big") for each in neighbours)
    head = struct.pack("!BBHIIHBB", 3, 1, 16 + len(body), 1, 0, 0, instance, 0)
    return ipv6(src, dst, 89, head + body, hops=1)


def source_address(mac: int) -> bytes:
    """The option by which an asker says its MAC address (RFC 4861, section 4.6.1)."""
    return b"\1\1" + mac.to_bytes(6, "big")


def solicitation(
    mac: int, sender: int, target: int, to: int = 0, options: bytes | None = None, hops: int = 255
) -> bytes:
    """A neighbour solicitation (RFC 4861, section 4.3) from `mac`, in a frame: for the MAC address
    `to`, or for those who may have the address.  `options`: those it has, the asker's MAC address
    where not given."""
    group = 0xFF02 << 112 | 0x1FF << 24 | target & 0xFFFFFF
    dst = target if to else group
    told = source_address(mac) if options is None else options
    message = icmpv6(sender, dst, 135, 0, bytes(4) + target.to_bytes(16, "big") + told)
    packet = ipv6(sender, dst, 58, message, hops=hops)
    return ethernet(to or 0x3333FF000000 | target & 0xFFFFFF, mac, ETH_IPV6, packet)
