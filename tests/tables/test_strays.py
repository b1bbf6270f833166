"""What comes with a virtual link's VLAN id where the link is not, beside other people's bridge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.whole_network import load
from xenflow.model.network import Pipeline
from xenflow.model.placement import at_home
from xenflow.openflow import packet as pk
from xenflow.tables.pipeline import local_flows
from xenflow.tables.simulate import Tables, run
from xenflow.tables.site import Site

NETWORK = load("paper").network
LEFT = NETWORK.links["left"]
ELSEWHERE = 9
"""A port of the switch that the network does not know."""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("host-a", {}),
        ("host-a", {"pipeline": Pipeline.REACTIVE}),
        ("host-a", {"pipeline": Pipeline.REACTIVE, "nicira": False}),
        ("gen", {}),
    ],
)
def test_it_is_dropped_by_every_kind_of_switch(name: str, kind: dict[str, Any]) -> None:
    here = replace(NETWORK.datapaths[name], other="normal", **kind)
    ports = {"to-gen": 1, "to-recv": 2, "to-a": 1, "to-b": 2, "access": 3, "uplink": ELSEWHERE}
    site = Site(NETWORK, here, ports, {"vr1": at_home("vr1", "host-a")}, {})
    tables = Tables(local_flows(site).values())
    frame = pk.ethernet(pk.BROADCAST, 1, pk.ETH_ARP, pk.arp(1, 1, 2, 0, 3))
    assert run(tables, frame, ELSEWHERE).ports == ["normal"]
    assert run(tables, pk.vlan(frame, 7), ELSEWHERE).ports == ["normal"]
    for vlan in (LEFT.vlan, LEFT.detour_vlan):
        assert run(tables, pk.vlan(frame, vlan), ELSEWHERE).ports == []
