"""How flows tell IPv4 and IPv6 apart: the Ethernet type and the address fields of each."""

from __future__ import annotations

from dataclasses import dataclass

from xenflow.openflow import flow as f
from xenflow.openflow.packet import Packet
from xenflow.routes.family import V4, V6, Family, family_of, netmask


@dataclass(frozen=True, slots=True)
class Matched:
    """What a flow matches of a family's packets.

    dl_type   the Ethernet type
    src, dst  the fields of their addresses
    """

    dl_type: int
    src: str
    dst: str


MATCHED = {V4: Matched(f.IPV4, "nw_src", "nw_dst"), V6: Matched(f.IPV6, "ipv6_src", "ipv6_dst")}
_BY_TYPE = {matched.dl_type: family for family, matched in MATCHED.items()}
SOURCES = tuple(matched.src for matched in MATCHED.values())
DESTINATIONS = tuple(matched.dst for matched in MATCHED.values())


def family_in(packet: Packet) -> Family | None:
    """The family of a packet, None of what is neither."""
    return _BY_TYPE.get(packet.dl_type)


def destination(packet: Packet) -> int:
    """The address that a packet of either family is for."""
    return packet.ipv6_dst if packet.dl_type == f.IPV6 else packet.nw_dst


Value = int | tuple[int, int]


def to_prefix(net: int, span: int) -> dict[str, Value]:
    """What matches the packets to a prefix."""
    of = MATCHED[family_of(span)]
    return {"dl_type": of.dl_type, of.dst: (net, netmask(span))}


def from_prefix(net: int, span: int) -> dict[str, Value]:
    """What matches the packets from a prefix."""
    of = MATCHED[family_of(span)]
    return {"dl_type": of.dl_type, of.src: (net, netmask(span))}
