"""A packet whose TTL runs out takes the tables, though there is an exact flow for its kind; and
from whom nothing is taken that is not taken either."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.whole_network import load
from xenflow.model.network import Pipeline
from xenflow.model.placement import Mode, Placement, at_home
from xenflow.openflow import flow as f
from xenflow.openflow import packet as pk
from xenflow.openflow.exact_flows import exact_match
from xenflow.openflow.flow import Flow
from xenflow.tables.layout import INGRESS, Ingress
from xenflow.tables.pipeline import local_flows
from xenflow.tables.simulate import Tables, run
from xenflow.tables.site import Site
from xenflow.tables.views import router_view

PATH = load("path")
PORTS = {"to-s1": 1, "to-s2": 2, "vr1.0": 3, "vr1.1": 4, "vr2.0": 5, "vr2.1": 6}
BY_EXACT_FLOW = 77
"""Where an exact flow sends its packets."""
MIDDLE = PATH.network.links["middle"]
SENDER, TARGET = (PATH.network.routers[name].interfaces[n] for name, n in (("vr1", 1), ("vr2", 0)))
"""On this link; vr2 is on host-c."""
VIRTUAL, FOREIGN = 0x00005E000105, 0x020000009999


A6, B6 = 0x20010DB8 << 96 | 1, 0x20010DB8 << 96 | 2


def ends(
    vr1: Placement, port: str, source: int, ttl: int, *, exact: bool = True, six: bool = False
) -> list[object]:
    """Where data goes that enters host-c by a port, to be routed by vr2; `exact`: there is an exact
    flow for its kind; `six`: of IPv6."""
    network = PATH.network
    here = replace(network.datapaths["host-c"], pipeline=Pipeline.REACTIVE)
    placements = {"vr1": vr1, "vr2": at_home("vr2", "host-c")}
    views = {name: router_view(r, PATH.states[name]) for name, r in network.routers.items()}
    flows = list(local_flows(Site(network, here, PORTS, placements, views)).values())
    packet = pk.ipv4(0x0A000201, 0x0A000302, 17, pk.udp(0x0A000201, 0x0A000302, 1, 2), ttl=ttl)
    if six:
        packet = pk.ipv6(A6, B6, 17, pk.udp(A6, B6, 1, 2), hops=ttl)
    frame = pk.ethernet(TARGET.mac, source, pk.ETH_IPV6 if six else pk.ETH_IPV4, packet)
    frame = frame if port == SENDER.vif else pk.vlan(frame, MIDDLE.vlan)
    if exact:
        what = exact_match(frame, PORTS[port])
        flows.append(Flow(INGRESS, Ingress.EXACT, what, (f.output(BY_EXACT_FLOW),)))
    return list(run(Tables(flows), frame, PORTS[port]).ports)


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(
    ("vr1_at", "port", "source"),
    [
        ("host-a", "to-s1", SENDER.mac),
        ("host-c", SENDER.vif, SENDER.mac),
        ("host-c", SENDER.vif, VIRTUAL),
    ],
)
def test_only_the_vm_can_answer_the_last_ttl(
    mode: Mode, vr1_at: str, port: str, source: int, six: bool
) -> None:
    """Also on a link that is bridged for the other router's sake."""
    vr1 = replace(at_home("vr1", vr1_at), mode=mode)
    assert ends(vr1, port, source, 64, six=six) == [BY_EXACT_FLOW]
    for ttl in (1, 0):
        assert ends(vr1, port, source, ttl, six=six) == [PORTS[TARGET.vif]]


@pytest.mark.parametrize("ttl", [64, 1, 0])
def test_nothing_is_taken_from_a_vm_under_a_foreign_mac_address(ttl: int) -> None:
    assert ends(at_home("vr1", "host-c"), SENDER.vif, FOREIGN, ttl, exact=False) == []
