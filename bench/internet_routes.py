"""Routing tables that look like the Internet's, the same for the same seed.

Shares of prefix lengths as in today's global tables: three of five IPv4 prefixes are a /24, nearly
half of the IPv6 prefixes a /48.
"""

from __future__ import annotations

import random

from xenflow.routes.family import V4, V6, Family

SHARES = {
    V4: (
        (24, 0.60),
        (22, 0.12),
        (23, 0.10),
        (21, 0.05),
        (20, 0.05),
        (19, 0.03),
        (18, 0.02),
        (17, 0.015),
        (16, 0.015),
    ),
    V6: (
        (48, 0.47),
        (32, 0.11),
        (44, 0.10),
        (40, 0.09),
        (36, 0.06),
        (46, 0.05),
        (47, 0.04),
        (42, 0.03),
        (45, 0.02),
        (29, 0.03),
    ),
}
"""By family: prefix lengths with their shares, the most frequent first."""
_BOUNDS = {V4: (0x0B000000, 0xDE000000), V6: (0x2400 << 112, 0x3000 << 112)}
"""Unicast addresses outside 10/8 and 2001:db8::/32, where the benchmark's own links are."""


def internet_routes(count: int, seed: int = 1, family: Family = V4) -> list[tuple[int, int]]:
    """`count` different prefixes (net, span), none of them 127/8 or 10/8, in address order."""
    draw = random.Random(seed)
    found: set[tuple[int, int]] = set()
    (most, _), *others = SHARES[family]
    first, last = _BOUNDS[family]
    wanted = [(length, round(count * share)) for length, share in others]
    wanted.append((most, count - sum(number for _, number in wanted)))
    for length, number in wanted:
        target, rest = len(found) + number, family.bits - length
        while len(found) < target:
            net = draw.randrange(first, last) >> rest << rest
            if family is V6 or net >> 24 != 127:
                found.add((net, family.span(length)))
    return sorted(found)
