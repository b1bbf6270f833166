"""Addresses on virtual links: which of them nobody may have, in a network file's lab or by a verb.

A link is one broadcast domain, so those on it have addresses of one subnet, each its own.  A subnet
of 31 bits is that of two ends, which both are somebody's (RFC 3021); addresses of 32 bits are those
of the two ends of an unnumbered link.  Called by `lab.description`, and by `mgmt.verbs.router` with
what hypervisors know: no switch needs an address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network


@dataclass(frozen=True, slots=True)
class OnLink:
    """Who has which address on a link: a router's interface, or a machine's."""

    node: str
    interface: str
    link: str
    address: IPv4Interface


@dataclass(frozen=True, slots=True)
class UnfitAddress:
    """One that cannot be: `found`, in place of what is `expected`, in words."""

    who: OnLink
    found: str
    expected: str


def unfit(
    everybody: Sequence[OnLink], reserved: Mapping[str, IPv4Network] | None = None
) -> Iterator[UnfitAddress]:
    """What does not fit what those before have.

    reserved  subnets that are no link's, by what they are called
    """
    yield from _of_themselves(everybody)
    yield from _of_subnets(everybody, reserved or {})


def _of_themselves(everybody: Sequence[OnLink]) -> Iterator[UnfitAddress]:
    subnets: dict[str, IPv4Network] = {}
    taken: dict[IPv4Address, OnLink] = {}
    for who in everybody:
        address, shown = who.address, str(who.address)
        subnet = subnets.setdefault(who.link, address.network)
        unnumbered = address.network.prefixlen == 32
        if address.network != subnet and not (unnumbered and subnet.prefixlen == 32):
            yield UnfitAddress(who, shown, f"an address in {subnet}, as others on link {who.link}")
        if address.ip in _nobodys(address.network):
            yield UnfitAddress(who, shown, f"an address in {address.network} that is not its own")
        # A router may have one address on all of its unnumbered links.
        if (other := taken.get(address.ip)) is not None and not (
            unnumbered and other.node == who.node and other.address.network.prefixlen == 32
        ):
            whose = f"{other.node} has it on link {other.link}"
            yield UnfitAddress(who, shown, f"an address of its own: {whose}")
        taken[address.ip] = who
        others = [m.node for m in everybody if m.link == who.link and m is not who]
        if unnumbered and (len(others) != 1 or who.node in others):
            yield UnfitAddress(who, shown, f"a subnet: link {who.link} has not two ends")


def _of_subnets(
    everybody: Sequence[OnLink], reserved: Mapping[str, IPv4Network]
) -> Iterator[UnfitAddress]:
    """The first on a link, where its subnet meets that of a link before."""
    known = {name: net for name, net in reserved.items() if net.prefixlen < 32}
    seen = set()
    for who in everybody:
        subnet = who.address.network
        if who.link in seen or subnet.prefixlen == 32:
            continue
        seen.add(who.link)
        for name, net in known.items():
            if net.overlaps(subnet):
                words = f"a subnet that {name} ({net}) has no part of"
                yield UnfitAddress(who, str(subnet), words)
        known[f"link {who.link}"] = subnet


def _nobodys(subnet: IPv4Network) -> tuple[IPv4Address, ...]:
    """The addresses of a subnet that are nobody's: its own, and that of all in it."""
    if subnet.prefixlen >= 31:
        return ()
    return subnet.network_address, subnet.broadcast_address
