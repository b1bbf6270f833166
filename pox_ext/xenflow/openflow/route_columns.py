"""Flow messages for many routes at once, made field by field instead of route by route.

The message of one route is repeated; then each octet that differs from route to route is written
for all of them together, as a slice of the whole with the message's size as its step.  That takes
two thirds of the time of one `struct.Struct.pack` for each.  `tables.routes` knows where the fields
are and calls this; nothing here knows what they mean.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

_NETMASKS = tuple(
    bytes(0xFFFFFFFF << 32 - plen >> shift & 0xFF for plen in range(33)).ljust(256, b"\0")
    for shift in (24, 16, 8, 0)
)
"""For each octet of an IPv4 netmask: prefix length -> its value, for `bytes.translate`."""


@dataclass(frozen=True)
class RouteColumns:
    """Writes the messages that differ from `message` in these places only.

    Each place is an offset into the message: of the cookie (8 octets), the priority (2; that of a
    /0 is `base_priority`), the network's address, its netmask, the router (4 each) and the next
    hop (4).  `net_at` and `mask_at` are None where the message has no such field.
    """

    message: bytes
    base_priority: int
    cookie_at: int
    priority_at: int
    net_at: int | None
    mask_at: int | None
    router_at: int
    nexthop_at: int

    @property
    def size(self) -> int:
        """A message's, in octets."""
        return len(self.message)

    @cached_property
    def _priorities(self) -> tuple[bytes, ...]:
        return tuple(
            bytes(self.base_priority + plen >> shift & 0xFF for plen in range(33)).ljust(256, b"\0")
            for shift in (8, 0)
        )

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
        one = bytearray(self.message)
        struct.pack_into("!I", one, self.router_at, router)
        whole = one * count

        def write(at: int, values: bytes, octets: int) -> None:
            for octet in range(octets):
                whole[at + octet :: size] = values[octet::octets]

        write(self.cookie_at, struct.pack(f"!{count}Q", *cookies), 8)
        write(self.nexthop_at, struct.pack(f"!{count}I", *nexthops), 4)
        for octet, priority in enumerate(self._priorities):
            whole[self.priority_at + octet :: size] = plens.translate(priority)
        if self.net_at is not None:
            addresses = struct.pack(f"!{count}I", *nets)
            for octet, netmask in enumerate(_NETMASKS):
                mask = plens.translate(netmask)
                whole[self.net_at + octet :: size] = _and(addresses[octet::4], mask)
                if self.mask_at is not None:
                    whole[self.mask_at + octet :: size] = mask
        return whole


def _and(left: bytes, right: bytes) -> bytes:
    """Octet by octet."""
    both = int.from_bytes(left, "big") & int.from_bytes(right, "big")
    return both.to_bytes(len(left), "big")
