"""Who answers neighbour solicitations in a router's place, for which addresses, and when."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest

from tests import built_packets as built
from tests.conftest import ROOT
from tests.flow_samples import NONCE
from tests.tables.test_arp_replies import (
    GEN_MAC,
    LEFT_MAC,
    MOVING,
    PORTS,
    VIFS,
    site_of,
)
from xenflow.model.network import Network
from xenflow.model.placement import Placement, at_home
from xenflow.openflow import packet as pk
from xenflow.routes.family import V6
from xenflow.store.network_file import load
from xenflow.tables.pipeline import local_flows
from xenflow.tables.simulate import Tables, run
from xenflow.tables.site import FamilyView, RouterView, Site


def a(text: str) -> int:
    return int(IPv6Address(text))


LEFT, LOCAL, RIGHT = a("2001:db8:1::1"), a("fe80::1"), a("2001:db8:2::1")
LOOPBACK, ANYCAST = a("2001:db8:100::1"), a("2001:db8:1::")
GEN = a("2001:db8:1::2")
VIEW = RouterView(
    locals=(
        (LEFT, V6.host, "eth0"),
        (LOCAL, V6.host, "eth0"),
        (ANYCAST, V6.host, ""),
        (RIGHT, V6.host, "eth1"),
        (LOOPBACK, V6.host, "lo"),
    )
)
TOLD = built.source_address(GEN_MAC)
ROUTER, SOLICITED, OVERRIDE = 1 << 31, 1 << 30, 1 << 29


@pytest.fixture(scope="module")
def network() -> Network:
    return load(ROOT / "conf" / "paper.toml")


def solicitation(
    target: int, to: int = 0, sender: int = GEN, options: bytes = TOLD, hops: int = 255
) -> bytes:
    """One from gen."""
    return built.solicitation(GEN_MAC, sender, target, to, options, hops)


def fate(site: Site, frame: bytes) -> list[tuple[object, bytes]]:
    tables = Tables(local_flows(site).values())
    return [*run(tables, pk.vlan(frame, 101), PORTS["to-gen"]).outputs]


def ends(site: Site, frame: bytes) -> list[object]:
    """Where a solicitation goes; "answer": back to gen, answered."""
    return ["answer" if pk.parse(sent).tp_src == 136 else port for port, sent in fate(site, frame)]


def answered(
    network: Network,
    host: str,
    placement: Placement,
    suspended: frozenset[str] = frozenset(),
    to: int = 0,
    view: RouterView = VIEW,
) -> set[int]:
    """The addresses that a host answers for."""
    site = site_of(network, host, placement, suspended, view)
    targets = {LEFT, LOCAL, RIGHT, LOOPBACK, ANYCAST}
    return {target for target in targets if ends(site, solicitation(target, to)) == ["answer"]}


HOME = at_home("vr1", "host-a")


@pytest.mark.parametrize(("to", "flags"), [(0, OVERRIDE), (LEFT_MAC, 0)])
@pytest.mark.parametrize("sender", [GEN, a("fe80::2")])
@pytest.mark.parametrize("options", [TOLD, NONCE + TOLD])
def test_the_answer(network: Network, to: int, flags: int, sender: int, options: bytes) -> None:
    """As RFC 4861, section 7.2.4, has it; it overrides what is known where all were asked."""
    site = site_of(network, "host-a", HOME, VIFS, VIEW)
    asked = solicitation(LEFT, to, sender, options)
    ((port, frame),) = fate(site, asked)
    answer = pk.parse(frame)
    assert (port, answer.vlan_tci & 0xFFF) == (PORTS["to-gen"], 101)
    assert (answer.dl_src, answer.dl_dst) == (LEFT_MAC, GEN_MAC)
    assert (answer.ipv6_src, answer.ipv6_dst, answer.nw_ttl) == (LEFT, sender, 255)
    assert (answer.tp_src, answer.nd_target, answer.nd_tll) == (136, LEFT, LEFT_MAC)
    assert answer.nd_reserved == ROUTER | SOLICITED | flags
    assert pk.icmpv6_checksum(LEFT, sender, frame[answer.l4 : answer.end]) == 0


def test_while_the_vm_runs_it_answers_itself(network: Network) -> None:
    assert answered(network, "host-a", HOME) == set()


@pytest.mark.parametrize("to", [0, LEFT_MAC])
def test_while_it_is_suspended_for_the_addresses_of_that_interface(
    network: Network, to: int
) -> None:
    """Not for those of others, as the kernel, and for no anycast address."""
    assert answered(network, "host-a", HOME, VIFS, to) == {LEFT, LOCAL}
    host = replace(VIEW, v6=FamilyView(down=("eth0",)))
    assert answered(network, "host-a", HOME, VIFS, to, host) == set()


def test_in_a_move_what_is_asked_of_all_is_answered_once(network: Network) -> None:
    """Where the VM is; the host that the links lead to answers what is asked of the router."""
    assert answered(network, "host-a", MOVING) == set()
    assert answered(network, "host-a", MOVING, to=LEFT_MAC) == {LEFT, LOCAL}
    assert answered(network, "host-b", MOVING) == set()
    assert answered(network, "host-b", MOVING, VIFS) == {LEFT, LOCAL}
    turned = MOVING.step(leads_to="host-b")
    for to in (0, LEFT_MAC):
        assert answered(network, "host-a", turned, to=to) == set()
        assert answered(network, "host-b", turned, to=to) == set()


@pytest.mark.parametrize("to", [0, LEFT_MAC])
@pytest.mark.parametrize(
    "others",
    {
        "who has no address yet": {"sender": 0, "options": b""},
        "who has none, and a nonce": {"sender": 0, "options": NONCE},
        "who has none, against the rules": {"sender": 0},
        "who claims the address": {"sender": LEFT},
        "who claims another of them": {"sender": LOCAL},
        "who says no MAC address": {"options": b""},
        "who is beyond the link": {"hops": 254},
    }.items(),
    ids=lambda case: case[0],
)
def test_who_is_not_answered(network: Network, to: int, others: tuple[str, dict[str, Any]]) -> None:
    """It is held for the VM as it came."""
    frame = solicitation(LEFT, to, **others[1])
    home = site_of(network, "host-a", HOME, VIFS, VIEW)
    assert fate(home, frame) == [("controller", frame)]
    assert "answer" not in ends(site_of(network, "host-a", MOVING, view=VIEW), frame)


def test_no_group_is_answered(network: Network) -> None:
    site = site_of(network, "host-a", HOME, VIFS, VIEW)
    for to in (0, LEFT_MAC):
        assert "answer" not in ends(site, solicitation(LEFT, to, sender=a("ff02::1")))


def test_a_neighbour_on_the_same_host_is_answered_too() -> None:
    """What a VM asks does not come in by a port of the link; both may be suspended in turn."""
    network = load(ROOT / "conf" / "path.toml")
    ports = {"to-s1": 1, "to-s2": 2, "vr1.0": 3, "vr1.1": 4, "vr2.0": 5, "vr2.1": 6}
    names = {"vr1": "eth1", "vr2": "eth0"}  # on link middle
    own = {"vr1": a("fe80::a"), "vr2": a("fe80::b")}
    macs = {
        router: next(i.mac for i in network.routers[router].interfaces if i.name == name)
        for router, name in names.items()
    }
    views = {
        router: RouterView(locals=((own[router], V6.host, name),)) for router, name in names.items()
    }
    placements = {router: at_home(router, "host-c") for router in names}
    for asks, asked, vif in (("vr1", "vr2", "vr1.1"), ("vr2", "vr1", "vr2.0")):
        suspended = frozenset(port for port in ports if port.startswith(asked))
        host = Site(network, network.datapaths["host-c"], ports, placements, views, suspended)
        tables = Tables(local_flows(host).values())
        for to in (0, macs[asked]):
            request = built.solicitation(macs[asks], own[asks], own[asked], to)
            ((port, frame),) = run(tables, request, ports[vif]).outputs
            answer = pk.parse(frame)
            assert (port, answer.tp_src, answer.nd_tll) == (ports[vif], 136, macs[asked])
        nobody = built.solicitation(macs[asks], 0, own[asked], options=b"")
        assert "controller" in run(tables, nobody, ports[vif]).ports
