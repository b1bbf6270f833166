"""Who answers ARP in a router's place, for which addresses, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenflow.network_file import load
from xenflow.pure import pipeline
from xenflow.pure.network import Network
from xenflow.pure.pipeline import RouterView, Site
from xenflow.pure.placement import Placement, at_home

ROOT = Path(__file__).resolve().parents[2]
LEFT, RIGHT = 0x0A000101, 0x0A000201
LEFT_BROADCAST = 0x0A0001FF
VIEW = RouterView(locals=((LEFT, 32, "eth0"), (LEFT_BROADCAST, 32, ""), (RIGHT, 32, "eth1")))
PORTS = {"to-gen": 1, "to-recv": 2, "vr1.0": 3, "vr1.1": 4}
VIFS = frozenset(("vr1.0", "vr1.1"))


@pytest.fixture(scope="module")
def network() -> Network:
    return load(ROOT / "conf" / "paper.toml")


def answered(
    network: Network, host: str, placement: Placement, silent: frozenset[str] = frozenset()
) -> set[int]:
    """The addresses that a host answers for."""
    ports = PORTS if placement.vm == host else {k: v for k, v in PORTS.items() if k not in VIFS}
    here = network.datapaths[host]
    site = Site(network, here, ports, {"vr1": placement}, {"vr1": VIEW}, silent)
    flows = pipeline.local_flows(site).values()
    return {
        value
        for flow in flows
        if flow.table == pipeline.ADMISSION
        for name, value, _ in flow.match
        if name == "arp_tpa"
    }


def test_while_the_vm_runs_it_answers_itself(network: Network) -> None:
    assert answered(network, "host-a", at_home("vr1", "host-a")) == set()


def test_while_it_is_suspended_for_its_own_addresses_only(network: Network) -> None:
    assert answered(network, "host-a", at_home("vr1", "host-a"), VIFS) == {LEFT, RIGHT}


def test_in_a_move_the_host_that_its_links_lead_to(network: Network) -> None:
    both = ("host-a", "host-b")
    moving = at_home("vr1", "host-a").step(forwarders=both, also=both, vm="host-b")
    assert answered(network, "host-a", moving) == {LEFT, RIGHT}
    assert answered(network, "host-b", moving) == set()
    assert answered(network, "host-b", moving, VIFS) == {LEFT, RIGHT}
    turned = moving.step(to="host-b")
    assert answered(network, "host-a", turned) == set()
    assert answered(network, "host-b", turned) == set()
