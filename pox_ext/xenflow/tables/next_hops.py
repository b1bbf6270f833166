"""Tables NEXT_HOPS, LEGS and SIZES: a packet that has its next hop is rewritten and sent on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xenflow.model.network import Interface, Link, Network, Router
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Action, Flow, match
from xenflow.routes.family import V4, Family
from xenflow.tables import cookies
from xenflow.tables.families import to_prefix
from xenflow.tables.layout import LEGS, LINKS, NEXT_HOPS, SIZES, VM, Legs, NextHops, Reg, Sizes
from xenflow.tables.shares import Shares


@dataclass(frozen=True, slots=True)
class NextHopView:
    """A next hop as a switch needs it.

    id         network-wide within its router
    action     "vm", "drop", "via" or "group"
    interface  the router's interface it leaves through (None: none that the network knows)
    mac        of the gateway, 0 while unresolved
    neighbours (address, MAC) of a connected next hop's resolved neighbours
    family     of these addresses
    legs       ids of a group's legs, each with its weight (1 or more)
    mtu        of the outgoing interface where packets may be larger than that, else 0
    """

    id: int
    action: str
    interface: Interface | None = None
    mac: int = 0
    neighbours: tuple[tuple[int, int], ...] = ()
    legs: tuple[tuple[int, int], ...] = ()
    mtu: int = 0
    family: Family = V4


def next_hop_flows(network: Network, router: Router, hop: NextHopView) -> Iterator[Flow]:
    """The flows of one next hop: in NEXT_HOPS, of a group in LEGS, of a narrow interface in
    SIZES; those that others lead to come first.

    An unresolved next hop, and a connected one's unknown neighbours, go unchanged to the VM,
    whose kernel resolves them.
    """
    own = cookies.of(NEXT_HOPS, router.id)
    chosen = {Reg.ROUTER: router.id, Reg.NEXT_HOP: hop.id}
    to_vm = (f.resubmit(VM),)
    if hop.action == "drop":
        yield Flow(NEXT_HOPS, NextHops.HOP, match(**chosen), (), own)
    elif hop.action == "group" and hop.legs:
        shares = Shares.of(hop.legs)
        for start, size, leg in shares.blocks:
            number = (start, ~(size - 1) & 0xFFFFFFFF) if size > 1 else start
            one = match(**chosen, **{Reg.LEG: number})
            onward = (f.load(Reg.NEXT_HOP, leg), f.resubmit(NEXT_HOPS))
            yield Flow(LEGS, Legs.SHARE, one, onward, cookies.of(LEGS, router.id))
        # The kernel's default hash is over the addresses too; which leg it picks may differ.  Each
        # router has its own: of two in a row the second would else use one leg only.
        spread = (f.multipath("symmetric_l3", shares.count, Reg.LEG, router.id), f.resubmit(LEGS))
        yield Flow(NEXT_HOPS, NextHops.HOP, match(**chosen), spread, own)
    elif hop.action == "via" and hop.interface is not None:
        table = SIZES if hop.mtu else NEXT_HOPS
        yield from _stations_and_gateway(network, router, hop, hop.interface, table)
        if hop.mtu:
            # Fragmented or refused by the VM's kernel (net/ipv4/ip_forward.c, ip_exceeds_mtu;
            # net/ipv6/ip6_output.c, ip6_pkt_too_big).
            larger = match(**chosen, **{Reg.LARGER: (1, 1)})
            yield Flow(SIZES, Sizes.TOO_LARGE, larger, to_vm, cookies.of(SIZES, router.id))
            # No frame that is larger than the action can measure is known to fit: the VM's, too.
            largest = min(ETHERNET_HEADER + hop.mtu, 0xFFFF)
            measure = f.check_pkt_larger(largest, Reg.LARGER, 0)
            yield Flow(NEXT_HOPS, NextHops.HOP, match(**chosen), (measure, f.resubmit(SIZES)), own)
    else:
        yield Flow(NEXT_HOPS, NextHops.HOP, match(**chosen), to_vm, own)


ETHERNET_HEADER = 14


def _stations_and_gateway(
    network: Network, router: Router, hop: NextHopView, out: Interface, table: int
) -> Iterator[Flow]:
    link = network.links[out.link]
    own, chosen = cookies.of(table, router.id), {Reg.ROUTER: router.id, Reg.NEXT_HOP: hop.id}
    for address, mac in hop.neighbours:
        station = match(**chosen, **to_prefix(address, hop.family.host))
        yield Flow(table, NextHops.STATION, station, _rewrite(link, out, mac), own)
    onward = _rewrite(link, out, hop.mac) if hop.mac else (f.resubmit(VM),)
    yield Flow(table, NextHops.HOP, match(**chosen), onward, own)


def _rewrite(link: Link, interface: Interface, mac: int) -> tuple[Action, ...]:
    """Route a packet: TTL, addresses, and out, also by the port that it came from."""
    return (
        f.dec_ttl(),
        f.set_dl_src(interface.mac),
        f.set_dl_dst(mac),
        f.load("in_port", 0),
        f.load(Reg.LINK_OUT, link.id),
        f.resubmit(LINKS),
    )
