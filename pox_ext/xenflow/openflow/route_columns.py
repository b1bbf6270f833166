"""Flow messages for many routes at once, made field by field instead of route by route.

The message of one route is repeated; then each octet that differs from route to route is written
for all of them together, as a slice of the whole with the message's size as its step.  That takes
two thirds of the time of one `struct.Struct.pack` for each.  `tables.routes` knows where the fields
are and calls this; nothing here knows what they mean.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

_NETMASKS = tuple(
    bytes(0xFFFFFFFF << 32 - plen >> shift & 0xFF for plen in range(33)).ljust(256, b"\0")
    for shift in (24, 16, 8, 0)
)
"""For each octet of an IPv4 netmask: prefix length -> its value, for `bytes.translate`."""


class RouteColumns:
    """Writes the messages that differ from `message` in these places only.

    Each place is an offset into the message: of the cookie (8 octets), the priority (2), the
    network's address, its netmask, the router (4 each) and the next hop (4).  `net_at` and
    `mask_at` are None where the message has no such field.
    """

    def __init__(
        self,
        message: bytes,
        base_priority: int,
        cookie_at: int,
        priority_at: int,
        net_at: int | None,
        mask_at: int | None,
        router_at: int,
        nexthop_at: int,
    ) -> None:
        self.size = len(message)
        self._message = message
        self._priorities = tuple(
            bytes(base_priority + plen >> shift & 0xFF for plen in range(33)).ljust(256, b"\0")
            for shift in (8, 0)
        )
        self._cookie_at = cookie_at
        self._priority_at = priority_at
        self._net_at = net_at
        self._mask_at = mask_at
        self._router_at = router_at
        self._nexthop_at = nexthop_at

    def pack(
        self,
        router: int,
        nets: Sequence[int],
        plens: bytes,
        nexthops: Sequence[int],
        cookies: Sequence[int],
    ) -> bytearray:
        """The messages of routes nets[i]/plens[i], one behind the other.

        Raises struct.error for values out of range.
        """
        count, size = len(plens), self.size
        one = bytearray(self._message)
        struct.pack_into("!I", one, self._router_at, router)
        whole = one * count

        def write(at: int, values: bytes, octets: int) -> None:
            for octet in range(octets):
                whole[at + octet :: size] = values[octet::octets]

        write(self._cookie_at, struct.pack(f"!{count}Q", *cookies), 8)
        write(self._nexthop_at, struct.pack(f"!{count}I", *nexthops), 4)
        for octet, priority in enumerate(self._priorities):
            whole[self._priority_at + octet :: size] = plens.translate(priority)
        if self._net_at is not None:
            addresses = struct.pack(f"!{count}I", *nets)
            for octet, netmask in enumerate(_NETMASKS):
                mask = plens.translate(netmask)
                whole[self._net_at + octet :: size] = _and(addresses[octet::4], mask)
                if self._mask_at is not None:
                    whole[self._mask_at + octet :: size] = mask
        return whole


def _and(left: bytes, right: bytes) -> bytes:
    """Octet by octet."""
    both = int.from_bytes(left, "big") & int.from_bytes(right, "big")
    return both.to_bytes(len(left), "big")
