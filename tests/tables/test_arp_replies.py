"""Who answers ARP in a router's place, for which addresses, and when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from xenflow.model.network import Network
from xenflow.model.placement import Placement, at_home
from xenflow.openflow import packet as pk
from xenflow.store.network_file import load
from xenflow.tables.admission import MAX_ARP_REPLIES
from xenflow.tables.pipeline import local_flows
from xenflow.tables.simulate import Tables, run
from xenflow.tables.site import RouterView, Site

ROOT = Path(__file__).resolve().parents[2]
LEFT, RIGHT = 0x0A000101, 0x0A000201
LEFT_BROADCAST = 0x0A0001FF
LOOPBACK = 0x0A640001
GEN, GEN_MAC, LEFT_MAC = 0x0A000102, 0x020000000102, 0x020000010101
VIEW = RouterView(
    locals=(
        (LEFT, 32, "eth0"),
        (LEFT_BROADCAST, 32, ""),
        (RIGHT, 32, "eth1"),
        (LOOPBACK, 32, "lo"),
    )
)
PORTS = {"to-gen": 1, "to-recv": 2, "vr1.0": 3, "vr1.1": 4}
VIFS = frozenset(("vr1.0", "vr1.1"))


@pytest.fixture(scope="module")
def network() -> Network:
    return load(ROOT / "conf" / "paper.toml")


def site_of(
    network: Network,
    host: str,
    placement: Placement,
    suspended: frozenset[str] = frozenset(),
    view: RouterView = VIEW,
) -> Site:
    ports = PORTS if placement.vm == host else {k: v for k, v in PORTS.items() if k not in VIFS}
    here = network.datapaths[host]
    return Site(network, here, ports, {"vr1": placement}, {"vr1": view}, suspended)


def asked(site: Site, target: int, to: int = pk.BROADCAST, sender: int = GEN) -> list[object]:
    """Where a request from gen's side goes; "answer": back to gen, answered."""
    tables = Tables(local_flows(site).values())
    request = pk.arp(1, GEN_MAC, sender, 0, target)
    frame = pk.vlan(pk.ethernet(to, GEN_MAC, pk.ETH_ARP, request), 101)
    ends: list[object] = []
    for port, sent in run(tables, frame, PORTS["to-gen"]).outputs:
        seen = pk.parse(sent)
        if seen.arp_op == 2:
            assert port == PORTS["to-gen"]
            assert (seen.arp_spa, seen.arp_sha, seen.dl_src) == (target, LEFT_MAC, LEFT_MAC)
            assert (seen.arp_tpa, seen.arp_tha, seen.dl_dst) == (sender, GEN_MAC, GEN_MAC)
        ends.append("answer" if seen.arp_op == 2 else port)
    return ends


def answered(
    network: Network,
    host: str,
    placement: Placement,
    suspended: frozenset[str] = frozenset(),
    to: int = pk.BROADCAST,
    view: RouterView = VIEW,
) -> set[int]:
    """The addresses that a host answers for."""
    site = site_of(network, host, placement, suspended, view)
    targets = {LEFT, RIGHT, LOOPBACK, LEFT_BROADCAST}
    return {target for target in targets if asked(site, target, to) == ["answer"]}


BOTH = ("host-a", "host-b")
MOVING = at_home("vr1", "host-a").step(forwarders=BOTH, reaches=BOTH, vm="host-b")


def test_while_the_vm_runs_it_answers_itself(network: Network) -> None:
    assert answered(network, "host-a", at_home("vr1", "host-a")) == set()


def test_while_it_is_suspended_for_its_own_addresses_only(network: Network) -> None:
    """For each of them on every link, as the kernel does; also for a loopback's."""
    home = at_home("vr1", "host-a")
    assert answered(network, "host-a", home, VIFS) == {LEFT, RIGHT, LOOPBACK}
    assert answered(network, "host-a", home, VIFS, LEFT_MAC) == {LEFT, RIGHT, LOOPBACK}


def test_a_router_with_many_addresses_is_answered_for_where_they_are(network: Network) -> None:
    many = tuple((0x0B000000 + n, 32, "eth1") for n in range(MAX_ARP_REPLIES))
    view = replace(VIEW, locals=VIEW.locals + many)
    home = at_home("vr1", "host-a")
    assert answered(network, "host-a", home, VIFS, view=view) == {LEFT, LOOPBACK}
    of_no_link = tuple((net, 32, "lo") for net, _, _ in many)
    view = replace(VIEW, locals=VIEW.locals + of_no_link)
    assert answered(network, "host-a", home, VIFS, view=view) == {LEFT}


def test_in_a_move_what_is_asked_of_all_is_answered_once(network: Network) -> None:
    """Where the VM is; the host that the links lead to answers what is asked of the router."""
    assert answered(network, "host-a", MOVING) == set()
    assert answered(network, "host-a", MOVING, to=LEFT_MAC) == {LEFT, RIGHT, LOOPBACK}
    assert answered(network, "host-b", MOVING) == set()
    assert answered(network, "host-b", MOVING, VIFS) == {LEFT, RIGHT, LOOPBACK}
    turned = MOVING.step(leads_to="host-b")
    for to in (pk.BROADCAST, LEFT_MAC):
        assert answered(network, "host-a", turned, to=to) == set()
        assert answered(network, "host-b", turned, to=to) == set()


def test_who_claims_an_address_of_the_router_is_not_answered(network: Network) -> None:
    """It goes to the VM like everything else (net/ipv4/arp.c: such a source is a martian); who
    probes for it from 0.0.0.0 is answered (RFC 5227)."""
    site = site_of(network, "host-a", at_home("vr1", "host-a"), VIFS)
    for to in (pk.BROADCAST, LEFT_MAC):
        for claimed in (LEFT, RIGHT, LOOPBACK):
            assert asked(site, LEFT, to, claimed) == ["controller"]
            assert asked(site, claimed, to, claimed) == ["controller"]
        assert asked(site, LEFT, to, 0) == ["answer"]
    moving = site_of(network, "host-a", MOVING)
    assert "answer" not in asked(moving, LEFT, LEFT_MAC, LEFT)
