"""A routing table that looks like the Internet's, the same for the same seed.

Shares of prefix lengths as in today's global IPv4 table: three of five prefixes are a /24.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address

SHARES = (
    (24, 0.60),
    (22, 0.12),
    (23, 0.10),
    (21, 0.05),
    (20, 0.05),
    (19, 0.03),
    (18, 0.02),
    (17, 0.015),
    (16, 0.015),
)
_FIRST, _LAST = 0x0B000000, 0xDE000000
"""Unicast addresses outside 10/8, where the benchmark's own links are."""


def internet_routes(count: int, seed: int = 1) -> list[tuple[int, int]]:
    """`count` different prefixes (net, length), none of them 127/8 or 10/8, in address order."""
    draw = random.Random(seed)
    found: set[tuple[int, int]] = set()
    wanted = [(plen, round(count * share)) for plen, share in SHARES[1:]]
    wanted.append((24, count - sum(number for _, number in wanted)))
    for plen, number in wanted:
        target = len(found) + number
        while len(found) < target:
            net = draw.randrange(_FIRST, _LAST) >> 32 - plen << 32 - plen
            if net >> 24 != 127:
                found.add((net, plen))
    return sorted(found)


def text(net: int, plen: int) -> str:
    """A prefix as `ip route` writes it."""
    return f"{IPv4Address(net)}/{plen}"
