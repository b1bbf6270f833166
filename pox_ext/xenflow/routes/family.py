"""IPv4 and IPv6 as values, and the prefixes of both: what differs between them is said here.

A prefix is two integers: `net`, its address with host bits zero, and `span`, which says family and
prefix length in one octet: 0 to 32 for IPv4, 127 + length for IPv6.  So `net << 8 | span`, a
prefix's *key*, is one integer for both families, and one table holds the routes of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address


@dataclass(frozen=True, slots=True)
class Family:
    """An address family.

    number    4 or 6
    bits      of an address
    shortest  the span of a prefix of length 0
    """

    number: int
    bits: int
    shortest: int

    @property
    def host(self) -> int:
        """The span of a single address."""
        return self.shortest + self.bits

    @property
    def name(self) -> str:
        """IPv4 or IPv6."""
        return f"IPv{self.number}"

    def span(self, length: int) -> int:
        """The span of a prefix of this length."""
        return self.shortest + length

    def text(self, address: int) -> str:
        """An address as people write it."""
        return str(IPv4Address(address) if self.number == 4 else IPv6Address(address))


V4, V6 = Family(4, 32, 0), Family(6, 128, 127)
FAMILIES = {4: V4, 6: V6}
"""By number."""


LINK_LOCAL6 = (0xFE80 << 112, V6.span(10))
"""Addresses that mean something on their link alone (RFC 4291, section 2.5.6)."""


def is_link_local(net: int, span: int) -> bool:
    """Whether a prefix lies in LINK_LOCAL6."""
    return span >= LINK_LOCAL6[1] and net & netmask(LINK_LOCAL6[1]) == LINK_LOCAL6[0]


def family_of(span: int) -> Family:
    """The family of a prefix.  Raises ValueError for what is no span."""
    if V6.shortest <= span <= V6.host:
        return V6
    if 0 <= span <= V4.host:
        return V4
    raise ValueError(f"{span} is no span: IPv4 has 0 to {V4.host}, IPv6 {V6.shortest} to {V6.host}")


def length_of(span: int) -> int:
    """The prefix length that a span says."""
    return span - V6.shortest if span >= V6.shortest else span


def netmask(span: int) -> int:
    """The mask of a prefix, over the whole address of its family."""
    bits = 128 if span >= V6.shortest else 32
    return (1 << bits) - (1 << bits - length_of(span))


def prefix_text(net: int, span: int) -> str:
    """A prefix as people write it: 10.0.0.0/8, 2001:db8::/32."""
    return f"{family_of(span).text(net)}/{length_of(span)}"
