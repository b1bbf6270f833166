"""What a host's tables send up is what the controller takes it for, by registers or without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests import built_packets as built
from tests.switch_tables import SwitchTables
from tests.whole_network import PlannedNetwork, load
from xenflow.model.network import Interface, Pipeline, Router
from xenflow.model.placement import Placement, at_home
from xenflow.openflow import packet as pk
from xenflow.openflow.parse import PacketIn
from xenflow.openflow.wire import NO_BUFFER
from xenflow.switch.kind import kind_of
from xenflow.tables.layout import Reg, Up
from xenflow.tables.pipeline import local_flows
from xenflow.tables.sent_up import ForVm, FromVm, Question, SentUp, sent_up
from xenflow.tables.simulate import run
from xenflow.tables.site import Site
from xenflow.tables.views import router_view

HERE, ELSEWHERE = "host-c", "host-a"
PORTS = {"to-s1": 1, "to-s2": 2, "vr1.0": 3, "vr1.1": 4, "vr2.0": 5, "vr2.1": 6}
VIFS = frozenset(PORTS) - {"to-s1", "to-s2"}
GEN_MAC, HELLOS = 0x020000000102, 0x01005E000005
NICIRA, REACTIVE = {"pipeline": Pipeline.PROACTIVE}, {"pipeline": Pipeline.REACTIVE}
PLAIN = {"pipeline": Pipeline.REACTIVE, "nicira": False}
EVERY_KIND = pytest.mark.parametrize("kind", [NICIRA, REACTIVE, PLAIN])


@pytest.fixture(scope="module")
def path() -> PlannedNetwork:
    """Both of its routers are put on one host, so that they share link `middle` there."""
    return load("path")


class Host:
    """host-c, whose VMs may be suspended."""

    def __init__(
        self,
        path: PlannedNetwork,
        kind: dict[str, Any],
        *,
        still: bool = True,
        placed: Placement | None = None,
    ) -> None:
        self.network = network = path.network
        self.kind = replace(network.datapaths[HERE], **kind)
        routers = network.routers.values()
        placements = {router.name: at_home(router.name, HERE) for router in routers}
        if placed is not None:
            placements[placed.router] = placed
        views = {router.name: router_view(router, path.states[router.name]) for router in routers}
        silent = VIFS if still else frozenset()
        self.site = Site(network, self.kind, PORTS, placements, views, silent)
        self.tables = SwitchTables(local_flows(self.site).values())

    def end(self, router: str, link: str) -> tuple[Router, Interface]:
        found = self.network.routers[router]
        interface = found.on(link)
        assert interface is not None
        return found, interface

    def sends_up(self, port: str, frame: bytes) -> list[SentUp | None]:
        """What the controller takes that for which comes up when a frame comes in."""
        ports = {name: (number, True) for name, number in PORTS.items()}
        packet_ins = run(self.tables, frame, PORTS[port]).packet_ins
        return [kind_of(self.kind).sent_up(self.network, HERE, ports, each) for each in packet_ins]


def ip(to: int, target: int, source: int = GEN_MAC, proto: int = 17, ttl: int = 64) -> bytes:
    body = built.ospf_hello(1, 10) if proto == pk.OSPF else b"x" * 8
    return pk.ethernet(to, source, pk.ETH_IPV4, pk.ipv4(0x0A000102, target, proto, body, ttl=ttl))


@EVERY_KIND
def test_a_suspended_vm_s_frame_is_to_be_held(path: PlannedNetwork, kind: dict[str, Any]) -> None:
    host = Host(path, kind)
    router, interface = host.end("vr1", "left")
    frame, left = ip(interface.mac, 0x0A000101), path.network.links["left"]
    held = ForVm(left, ((router, interface),), frame, False)
    assert host.sends_up("to-s1", pk.vlan(frame, left.vlan)) == [held]


@EVERY_KIND
def test_so_is_what_comes_by_a_detour(path: PlannedNetwork, kind: dict[str, Any]) -> None:
    both = (ELSEWHERE, HERE)
    placed = Placement("vr1", both, HERE, ELSEWHERE, version=5, reaches=both)
    host = Host(path, kind, placed=placed)
    router, interface = host.end("vr1", "left")
    frame, left = ip(interface.mac, 0x0A000101), path.network.links["left"]
    held = ForVm(left, ((router, interface),), frame, False)
    assert host.sends_up("to-s1", pk.vlan(frame, left.detour_vlan)) == [held]


@pytest.mark.parametrize("kind", [NICIRA, REACTIVE])
def test_a_group_s_frame_comes_up_for_each_router_by_itself(
    path: PlannedNetwork, kind: dict[str, Any]
) -> None:
    host = Host(path, kind)
    one, other = host.end("vr1", "middle"), host.end("vr2", "middle")
    frame, middle = ip(HELLOS, 0xE0000005, one[1].mac, pk.OSPF, 1), path.network.links["middle"]
    assert host.sends_up("vr1.1", frame) == [
        FromVm(*one, frame),
        ForVm(middle, (one,), frame, False),
        ForVm(middle, (other,), frame, False),
    ]


def test_without_registers_it_comes_up_for_all_of_them(path: PlannedNetwork) -> None:
    host = Host(path, PLAIN)
    one, other = host.end("vr1", "middle"), host.end("vr2", "middle")
    frame, middle = ip(HELLOS, 0xE0000005, one[1].mac, pk.OSPF, 1), path.network.links["middle"]
    assert host.sends_up("vr1.1", frame) == [
        FromVm(*one, frame),
        ForVm(middle, (one, other), frame, False),
    ]


@pytest.mark.parametrize("kind", [NICIRA, REACTIVE])
def test_a_copy_says_that_it_is_one(path: PlannedNetwork, kind: dict[str, Any]) -> None:
    both = (ELSEWHERE, HERE)
    placed = at_home("vr1", HERE).step(forwarders=both, reaches=both)
    host = Host(path, kind, still=False, placed=placed)
    router, interface = host.end("vr1", "left")
    left = path.network.links["left"]
    frame = ip(interface.mac, int(path.addresses["vr1"]["eth0"].ip))
    copied = ForVm(left, ((router, interface),), frame, True)
    assert host.sends_up("to-s1", pk.vlan(frame, left.vlan)) == [copied]


@pytest.mark.parametrize("kind", [REACTIVE, PLAIN])
def test_data_is_asked_about(path: PlannedNetwork, kind: dict[str, Any]) -> None:
    host = Host(path, kind, still=False)
    router, interface = host.end("vr1", "left")
    frame, left = ip(interface.mac, 0x0A020001), path.network.links["left"]
    asked = Question(router, left, PORTS["to-s1"], frame)
    assert host.sends_up("to-s1", pk.vlan(frame, left.vlan)) == [asked]


@pytest.mark.parametrize("kind", [NICIRA, REACTIVE])
def test_what_a_vm_sends_first_is_known_as_its(path: PlannedNetwork, kind: dict[str, Any]) -> None:
    host = Host(path, kind)
    router, interface = host.end("vr2", "right")
    frame = ip(GEN_MAC, 0x0A020001, interface.mac)
    assert host.sends_up("vr2.1", frame) == [FromVm(router, interface, frame)]


def test_what_the_tables_send_nothing_like_is_nothing(path: PlannedNetwork) -> None:
    """Another component's flow has sent it up, or who it was for has gone."""
    good = {Reg.ROUTER: 1, Reg.LINK_IN: 1, Reg.SENT_UP: Up.HELD.value}
    for told, known in (
        (good, True),
        ({**good, Reg.SENT_UP: 0}, False),
        ({**good, Reg.SENT_UP: len(Up) + 1}, False),
        ({**good, Reg.ROUTER: 9}, False),
        ({**good, Reg.LINK_IN: 9}, False),
        ({**good, Reg.LINK_IN: 3}, False),  # where the router has no interface
        ({}, False),
    ):
        packet = PacketIn(0, NO_BUFFER, 14, 1, 1, bytes(14), told)
        assert (sent_up(path.network, packet) is not None) is known, told


def test_what_a_plain_host_sends_nothing_like_is_nothing(path: PlannedNetwork) -> None:
    plain = kind_of(Host(path, PLAIN).kind)
    for frame in (
        pk.vlan(ip(0x020000010101, 1), 999),
        pk.vlan(ip(0x02FFFFFFFFFF, 1), path.network.links["left"].vlan),
        pk.vlan(ip(pk.BROADCAST, 1), path.network.links["left"].vlan),
        ip(0x020000010101, 1),
        b"",
    ):
        packet = PacketIn(0, NO_BUFFER, len(frame), PORTS["to-s1"], 1, frame)
        ports = {name: (number, True) for name, number in PORTS.items()}
        assert plain.sent_up(path.network, HERE, ports, packet) is None
