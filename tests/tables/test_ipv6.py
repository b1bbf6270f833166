"""What the tables do with IPv6 packets: routed as the kernel does, or left to the VM."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from xenflow.model.network import Network
from xenflow.model.placement import at_home
from xenflow.openflow import packet as pk
from xenflow.openflow.flow import Flow
from xenflow.routes.family import V4, V6
from xenflow.store.network_file import load
from xenflow.tables import cookies, layout
from xenflow.tables.next_hops import NextHopView, next_hop_flows
from xenflow.tables.pipeline import local_flows
from xenflow.tables.routes import route_flow
from xenflow.tables.simulate import Tables, run
from xenflow.tables.site import FamilyView, RouterView, Site

ROOT = Path(__file__).resolve().parents[2]
PORTS = {"to-gen": 1, "to-recv": 2, "vr1.0": 3, "vr1.1": 4}
VM = [PORTS["vr1.0"]]
MAC, GEN_MAC, RECV_MAC = 0x020000010101, 0x020000000102, 0x020000000202
GATEWAY_MAC = 0x0200000002FE


def a(text: str) -> int:
    return int(IPv6Address(text))


GEN, RECV, FAR, OWN = a("2001:db8:1::2"), a("2001:db8:2::2"), a("2001:db8:9::9"), a("2001:db8:1::1")
VIEW = RouterView(
    ((0x0A000101, V4.host, "eth0"), (OWN, V6.host, "eth0"), (a("fe80::1"), V6.host, "eth0"))
)


@pytest.fixture(scope="module")
def network() -> Network:
    return load(ROOT / "conf" / "paper.toml")


def host_flows(network: Network, view: RouterView = VIEW, mtu: int = 0) -> list[Flow]:
    """What host-a holds."""
    router = network.routers["vr1"]
    site = Site(
        network,
        network.datapaths["host-a"],
        PORTS,
        {"vr1": at_home("vr1", "host-a")},
        {"vr1": view},
    )
    right = router.interfaces[1]
    stations = ((RECV, RECV_MAC),)
    hops = (
        NextHopView(21, "via", right, 0, stations, mtu=mtu, family=V6),
        NextHopView(22, "via", right, GATEWAY_MAC, mtu=mtu),
        NextHopView(23, "drop"),
    )
    flows = [*local_flows(site).values()]
    for hop in hops:
        flows += next_hop_flows(network, router, hop)
    for prefix, length, hop_id in (
        ("2001:db8:2::", 64, 21),
        ("2001:db8::", 32, 22),
        ("2001:db8:9:9::", 64, 23),
    ):
        net = a(prefix)
        own = cookies.of(layout.ROUTES, router.id, cookies.route_chunk(net))
        flows.append(route_flow(router.id, net, V6.span(length), hop_id, own))
    return flows


def sent(
    network: Network, frame: bytes, view: RouterView = VIEW, mtu: int = 0
) -> list[tuple[int | str, pk.Packet]]:
    """What leaves, by which port, of a frame that comes from gen's side."""
    found = run(
        Tables(host_flows(network, view, mtu)), pk.vlan(frame, 101), PORTS["to-gen"]
    ).outputs
    return [(port, pk.parse(out)) for port, out in found]


def ip(dst: int, src: int = GEN, hops: int = 64, to: int = MAC, size: int = 8) -> bytes:
    packet = pk.ipv6(src, dst, 17, pk.udp(src, dst, 1000, 2000, bytes(size)), hops=hops)
    return pk.ethernet(to, GEN_MAC, pk.ETH_IPV6, packet)


def discovery(target: int) -> bytes:
    asked = pk.icmpv6(GEN, target, 135, 0, bytes(4) + target.to_bytes(16, "big"))
    return pk.ethernet(MAC, GEN_MAC, pk.ETH_IPV6, pk.ipv6(GEN, target, 58, asked, hops=255))


@pytest.mark.parametrize(("to", "mac"), [(RECV, RECV_MAC), (FAR, GATEWAY_MAC)])
def test_data_is_routed(network: Network, to: int, mac: int) -> None:
    ((port, packet),) = sent(network, ip(to))
    assert (port, packet.dl_dst, packet.nw_ttl) == (PORTS["to-recv"], mac, 63)
    assert packet.dl_src == network.routers["vr1"].interfaces[1].mac
    assert (packet.ipv6_src, packet.ipv6_dst) == (GEN, to)


@pytest.mark.parametrize(
    "frame",
    {
        "its own address": ip(OWN),
        "its link-local one": ip(a("fe80::1")),
        "another link-local one": ip(a("fe80::77")),
        "from a link-local one": ip(RECV, src=a("fe80::2")),
        "from nobody": ip(RECV, src=0),
        "from the loopback": ip(RECV, src=1),
        "from an IPv4-compatible address": ip(RECV, src=a("::10.0.0.1")),
        "from an IPv4-mapped address": ip(RECV, src=a("::ffff:10.0.0.1")),
        "to nobody": ip(0),
        "hop limit 1": ip(RECV, hops=1),
        "hop limit 0": ip(RECV, hops=0),
        "to a group": ip(a("ff02::5"), to=0x333300000005),
        "to a group beyond the link": ip(a("ff0e::5"), to=MAC),
        "neighbour discovery for one that the router may answer for": discovery(FAR),
        "no route": ip(a("2001:4860::1")),
        "a neighbour that is not known": ip(a("2001:db8:2::3")),
    }.items(),
    ids=lambda case: case[0],
)
def test_what_the_kernel_decides_goes_to_the_vm_as_it_came(
    network: Network, frame: tuple[str, bytes]
) -> None:
    found = [port for port, packet in sent(network, frame[1]) if packet == pk.parse(frame[1])]
    assert found[-1:] == VM


@pytest.mark.parametrize(
    "frame",
    {
        "from a group": ip(RECV, src=a("ff02::1")),
        "to the loopback": ip(1),
        "to a blackhole": ip(a("2001:db8:9:9::1")),
    }.items(),
    ids=lambda case: case[0],
)
def test_what_the_kernel_drops_unheard_is_dropped(
    network: Network, frame: tuple[str, bytes]
) -> None:
    assert sent(network, frame[1]) == []


def test_a_translated_source_is_data(network: Network) -> None:
    """RFC 6052, section 2.1: 64:ff9b::/96 is not of ::/16."""
    ((port, _),) = sent(network, ip(RECV, src=a("64:ff9b::10.0.0.1")))
    assert port == PORTS["to-recv"]


def test_no_long_prefix_of_sources_is_matched(network: Network) -> None:
    """With all bits of its source looked at, each would be a cached flow of its own."""
    here, home = network.datapaths["host-a"], at_home("vr1", "host-a")
    site = Site(network, here, PORTS, {"vr1": home}, {"vr1": VIEW})
    masks = [
        (1 << 128) - 1 if mask is None else mask
        for flow in local_flows(site).values()
        if flow.table == layout.CLASSES
        for name, _, mask in flow.match
        if name == "ipv6_src"
    ]
    assert masks and all(mask & (1 << 112) - 1 == 0 for mask in masks)


def test_its_own_source_is_data_as_for_the_kernel(network: Network) -> None:
    ((port, _),) = sent(network, ip(RECV, src=OWN))
    assert port == PORTS["to-recv"]


def test_what_is_too_large_goes_to_the_vm_which_answers(network: Network) -> None:
    assert [port for port, _ in sent(network, ip(RECV, size=1232), mtu=1280)] == [2]
    assert [port for port, _ in sent(network, ip(RECV, size=1233), mtu=1280)] == VM
    assert [port for port, _ in sent(network, ip(FAR, size=1233), mtu=1280)] == VM


def test_each_family_may_be_the_vm_s_alone(network: Network) -> None:
    four = pk.ethernet(MAC, GEN_MAC, pk.ETH_IPV4, pk.ipv4(0x0A000102, 0x0A0A0A0A, 17, b"x" * 8))
    slow6 = replace(VIEW, v6=FamilyView(slow="ip -6 rule 5"))
    assert [port for port, _ in sent(network, ip(RECV), slow6)] == VM
    down6 = replace(VIEW, v6=FamilyView(down=("eth0",)))
    assert [port for port, _ in sent(network, ip(RECV), down6)] == VM
    slow4 = replace(VIEW, v4=FamilyView(slow="ip rule 5"))
    assert [port for port, _ in sent(network, ip(RECV), slow4)] == [PORTS["to-recv"]]
    assert [port for port, _ in sent(network, four, slow4)] == VM
