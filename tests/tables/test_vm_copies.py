"""While a VM is about to be suspended, what is for itself is copied up, not what it forwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import built_packets as built
from xenflow.model.network import Network
from xenflow.model.placement import at_home
from xenflow.openflow import packet as pk
from xenflow.routes.family import V6
from xenflow.store.network_file import load
from xenflow.tables.pipeline import local_flows
from xenflow.tables.simulate import Tables, run
from xenflow.tables.site import FamilyView, RouterView, Site

ROOT = Path(__file__).resolve().parents[2]
LEFT, LEFT_BROADCAST, FAR, GEN = 0x0A000101, 0x0A0001FF, 0x0A020001, 0x0A000102
MAC, GEN_MAC = 0x020000010101, 0x020000000102
SLOW = FamilyView(slow="a packet filter")
LEFT6, GEN6, FAR6 = (0x20010DB8 << 96 | net << 64 | 1 for net in (1, 2, 9))
VIEW = RouterView(
    ((LEFT, 32, "eth0"), (LEFT_BROADCAST, 32, ""), (LEFT6, V6.host, "eth0")), SLOW, SLOW
)
PORTS = {"to-gen": 1, "to-recv": 2, "vr1.0": 3, "vr1.1": 4}
BOTH = ("host-a", "host-b")
PREPARED = at_home("vr1", "host-a").step(forwarders=BOTH, reaches=BOTH)


@pytest.fixture(scope="module")
def network() -> Network:
    return load(ROOT / "conf" / "paper.toml")


def ends(network: Network, frame: bytes, suspended: frozenset[str] = frozenset()) -> list[object]:
    """Where a frame from gen's side goes."""
    here = network.datapaths["host-a"]
    site = Site(network, here, PORTS, {"vr1": PREPARED}, {"vr1": VIEW}, suspended)
    tables = Tables(local_flows(site).values())
    return list(run(tables, pk.vlan(frame, 101), PORTS["to-gen"]).ports)


def ip(target: int, mac: int = MAC, ttl: int = 64) -> bytes:
    return pk.ethernet(mac, GEN_MAC, pk.ETH_IPV4, pk.ipv4(GEN, target, 17, b"x" * 8, ttl=ttl))


def ip6(target: int, mac: int = MAC, source: int = GEN6, proto: int = 17, hops: int = 64) -> bytes:
    packet = pk.ipv6(source, target, proto, b"x" * 8, hops=hops)
    return pk.ethernet(mac, GEN_MAC, pk.ETH_IPV6, packet)


LINK_LOCAL = 0xFE80 << 112
MLD = b"\x3a\0\5\2\0\0\1\0" + pk.icmpv6(LINK_LOCAL | 2, 0xFF02 << 112 | 1, 130, 0, bytes(20))
"""A query, behind its router alert (RFC 2710, section 3)."""
ITS_OWN = {
    "its IPv6 address": ip6(LEFT6),
    "its link-local address": ip6(LINK_LOCAL | 1, source=LINK_LOCAL | 2),
    "another link-local address": ip6(LINK_LOCAL | 5),
    "an OSPFv3 hello": ip6(0xFF02 << 112 | 5, 0x333300000005, LINK_LOCAL | 2, 89, 1),
    "a query for members": pk.ethernet(
        0x333300000001,
        GEN_MAC,
        pk.ETH_IPV6,
        pk.ipv6(LINK_LOCAL | 2, 0xFF02 << 112 | 1, 0, MLD, hops=1),
    ),
    "a neighbour solicitation": built.solicitation(GEN_MAC, LINK_LOCAL | 2, LEFT6),
    "one from who has no address": built.solicitation(GEN_MAC, 0, LEFT6, options=b""),
    "its address": ip(LEFT),
    "a hello": ip(0xE0000005, 0x01005E000005),
    "an ARP request": pk.ethernet(MAC, GEN_MAC, pk.ETH_ARP, pk.arp(1, GEN_MAC, GEN, 0, LEFT)),
    "a broadcast": pk.ethernet(pk.BROADCAST, GEN_MAC, pk.ETH_ARP, pk.arp(1, GEN_MAC, GEN, 0, LEFT)),
}


@pytest.mark.parametrize("what", ITS_OWN)
def test_what_is_for_the_vm_itself_is_copied(network: Network, what: str) -> None:
    found = ends(network, ITS_OWN[what])
    assert PORTS["vr1.0"] in found
    assert "controller" in found


def test_what_the_vm_forwards_is_not(network: Network) -> None:
    assert ends(network, ip(FAR)) == [PORTS["vr1.0"]]
    assert ends(network, ip(FAR, ttl=1)) == [PORTS["vr1.0"]]
    assert ends(network, ip6(FAR6)) == [PORTS["vr1.0"]]


def test_a_suspended_vm_has_everything_held(network: Network) -> None:
    suspended = frozenset(("vr1.0", "vr1.1"))
    answered = ("an ARP request", "a broadcast", "a neighbour solicitation")
    for name, frame in {**ITS_OWN, "data": ip(FAR), "IPv6 data": ip6(FAR6)}.items():
        to = PORTS["to-gen"] if name in answered else "controller"
        assert ends(network, frame, suspended) == [to], name
