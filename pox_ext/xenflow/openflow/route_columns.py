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
from functools import cache, cached_property


@cache
def _netmasks(octets: int, shortest: int) -> tuple[bytes, ...]:
    """For each octet of a netmask: span -> its value, for `bytes.translate`.  `shortest`: the span
    of a prefix of length 0."""
    bits = 8 * octets
    masks = [(1 << bits) - (1 << bits - plen) for plen in range(min(bits, 255 - shortest) + 1)]
    return tuple(
        (bytes(shortest) + bytes(mask >> shift & 0xFF for mask in masks)).ljust(256, b"\0")
        for shift in range(bits - 8, -1, -8)
    )


@dataclass(frozen=True)
class RouteColumns:
    """Writes the messages that differ from `message` in these places only.

    Each place is an offset into the message: of the cookie (8 octets), the priority (2;
    `base_priority` and the span), the network's address and its netmask (`octets` each), the router
    and the next hop (4 each).  `net_at` and `mask_at` are None where the message has no such field.
    `shortest` is the span of a prefix of length 0.
    """

    message: bytes
    octets: int
    shortest: int
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
            bytes(self.base_priority + span >> shift & 0xFF for span in range(256))
            for shift in (8, 0)
        )

    def pack(
        self,
        router: int,
        nets: Sequence[int],
        spans: bytes,
        nexthops: Sequence[int],
        cookies: Sequence[int],
    ) -> bytearray:
        """The messages of routes to nets[i] of spans[i], one behind the other.

        Raises struct.error or OverflowError for values out of range.
        """
        count, size = len(spans), self.size
        one = bytearray(self.message)
        struct.pack_into("!I", one, self.router_at, router)
        whole = one * count

        def write(at: int, values: bytes, octets: int) -> None:
            for octet in range(octets):
                whole[at + octet :: size] = values[octet::octets]

        write(self.cookie_at, struct.pack(f"!{count}Q", *cookies), 8)
        write(self.nexthop_at, struct.pack(f"!{count}I", *nexthops), 4)
        for octet, priority in enumerate(self._priorities):
            whole[self.priority_at + octet :: size] = spans.translate(priority)
        if self.net_at is not None:
            octets = self.octets
            if octets == 4:
                addresses = struct.pack(f"!{count}I", *nets)
            else:
                addresses = b"".join([net.to_bytes(octets, "big") for net in nets])
            for octet, netmask in enumerate(_netmasks(octets, self.shortest)):
                mask = spans.translate(netmask)
                whole[self.net_at + octet :: size] = _and(addresses[octet::octets], mask)
                if self.mask_at is not None:
                    whole[self.mask_at + octet :: size] = mask
        return whole


def _and(left: bytes, right: bytes) -> bytes:
    """Octet by octet."""
    both = int.from_bytes(left, "big") & int.from_bytes(right, "big")
    return both.to_bytes(len(left), "big")
