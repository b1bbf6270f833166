"""Addresses on virtual links: which of them nobody may have, in a network file's lab or by a verb.

A link is one broadcast domain.  Of each family, the first addresses of those on it are of one
subnet; further ones may be of further subnets.  Each is its own.  A subnet of 31 bits, or of 127,
is that of two ends, which both are somebody's (RFC 3021, RFC 6164); IPv4 addresses of 32 bits are
those of the two ends of an unnumbered link.  Called by `lab.description`, and by
`mgmt.verbs.router` with what hypervisors know: no switch needs an address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

Address = IPv4Interface | IPv6Interface
"""With its prefix length."""
Subnet = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class OnLink:
    """Who has which address on a link: a router's interface, or a machine's."""

    node: str
    interface: str
    link: str
    address: Address


@dataclass(frozen=True, slots=True)
class UnfitAddress:
    """One that cannot be: `found`, in place of what is `expected`, in words."""

    who: OnLink
    found: str
    expected: str


def unfit(
    everybody: Sequence[OnLink], reserved: Mapping[str, Subnet] | None = None
) -> Iterator[UnfitAddress]:
    """What does not fit what those before have.

    reserved  subnets that are no link's, by what they are called
    """
    yield from _of_themselves(everybody)
    yield from _of_subnets(everybody, reserved or {})


def _with_place(everybody: Sequence[OnLink]) -> Iterator[tuple[OnLink, bool]]:
    """Each, and whether it is its interface's first of its family."""
    seen = set()
    for who in everybody:
        place = who.node, who.interface, who.address.version
        yield who, place not in seen
        seen.add(place)


def _of_themselves(everybody: Sequence[OnLink]) -> Iterator[UnfitAddress]:
    subnets: dict[tuple[str, int], Subnet] = {}
    taken: dict[IPv4Address | IPv6Address, OnLink] = {}
    for who, is_first in _with_place(everybody):
        address, shown = who.address, str(who.address)
        subnet = subnets.setdefault((who.link, address.version), address.network)
        unnumbered = _is_unnumbered(address)
        if is_first and address.network != subnet and not (unnumbered and subnet.prefixlen == 32):
            yield UnfitAddress(who, shown, f"an address in {subnet}, as others on link {who.link}")
        if isinstance(address, IPv6Interface) and (words := _no_ipv6_on_a_link(address)):
            yield UnfitAddress(who, shown, words)
        elif address.ip in _nobodys(address.network):
            yield UnfitAddress(who, shown, f"an address in {address.network} that is not its own")
        # A router may have one address on all of its unnumbered links.
        if (other := taken.get(address.ip)) is not None and not (
            unnumbered and other.node == who.node and _is_unnumbered(other.address)
        ):
            whose = f"{other.node} has it on link {other.link}"
            yield UnfitAddress(who, shown, f"an address of its own: {whose}")
        taken[address.ip] = who
        there = [m for m in everybody if m.link == who.link and m.address.version == 4]
        others = [m.node for m in there if m is not who]
        if unnumbered and (len(others) != 1 or who.node in others):
            yield UnfitAddress(who, shown, f"a subnet: link {who.link} has not two ends")


def _of_subnets(
    everybody: Sequence[OnLink], reserved: Mapping[str, Subnet]
) -> Iterator[UnfitAddress]:
    """The first of each subnet of a link, where that meets one before."""
    known = [(name, net) for name, net in reserved.items() if not _is_single(net)]
    seen: set[tuple[str, int] | tuple[str, Subnet]] = set()
    for who, is_first in _with_place(everybody):
        subnet, link = who.address.network, f"link {who.link}"
        told = (link, subnet.version) in seen if is_first else (link, subnet) in seen
        seen |= {(link, subnet.version), (link, subnet)}
        if told or _is_single(subnet):
            continue
        for name, net in known:
            if net.version == subnet.version and net.overlaps(subnet):
                words = f"a subnet that {name} ({net}) has no part of"
                yield UnfitAddress(who, str(subnet), words)
        known.append((link, subnet))


def _is_single(subnet: Subnet) -> bool:
    return subnet.prefixlen == subnet.max_prefixlen


def _is_unnumbered(address: Address) -> bool:
    return address.version == 4 and _is_single(address.network)


def _no_ipv6_on_a_link(address: IPv6Interface) -> str:
    """What is expected in its place; "": it can be."""
    ip = address.ip
    if ip.is_link_local or ip.is_multicast or ip.is_loopback or ip.ipv4_mapped is not None:
        return "a global address, or a unique local one; link-local ones are the kernel's"
    return "a prefix of at most 127 bits" if _is_single(address.network) else ""


def _nobodys(subnet: Subnet) -> tuple[IPv4Address | IPv6Address, ...]:
    """The addresses of a subnet that are nobody's: its own, which in IPv6 is that of all routers on
    it (RFC 4291, section 2.6.1), and in IPv4 that of all in it."""
    if subnet.prefixlen >= subnet.max_prefixlen - 1:
        return ()
    if isinstance(subnet, IPv6Network):
        return (subnet.network_address,)
    return subnet.network_address, subnet.broadcast_address
