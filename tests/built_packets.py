"""Packets that only tests build, beside those of `xenflow.openflow.packet`."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from xenflow.openflow.packet import checksum


def ipv6(src: int, dst: int, proto: int, payload: bytes = b"", *, hops: int = 64) -> bytes:
    """An IPv6 packet (RFC 8200) without extension headers of its own."""
    head = struct.pack("!IHBB", 6 << 28, len(payload), proto, hops)
    return head + src.to_bytes(16, "big") + dst.to_bytes(16, "big") + payload


def ospf_hello(router_id: int, interval_s: int, neighbours: Sequence[int] = ()) -> bytes:
    """An OSPFv2 hello of a /24 in area 0 (RFC 2328, A.3.2); dead after four times `interval_s`."""
    times = (interval_s, 2, 1, interval_s * 4)
    body = struct.pack("!IHBBIII", 0xFFFFFF00, *times, 0, 0)
    body += b"".join(each.to_bytes(4, "big") for each in neighbours)
    head = (2, 1, 24 + len(body), router_id, 0)
    total = checksum(struct.pack("!BBHIIHH", *head, 0, 0) + body)
    return struct.pack("!BBHIIHH8x", *head, total, 0) + body
