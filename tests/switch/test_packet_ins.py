"""What a VM sends beyond its budget is dropped unread; `status` says whose and how much."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import openflow_tap
import pytest

from tests import built_packets as built
from tests.written_switch import PlayedHost
from xenflow.control.component import Component
from xenflow.openflow import build
from xenflow.openflow import packet as pk
from xenflow.openflow.flow import match
from xenflow.openflow.parse import PacketIn
from xenflow.switch.packet_ins import QUIET_S
from xenflow.switch.port_budget import BURST, RATE_PER_S
from xenflow.tables.layout import Up

OWN = 0x020000010101
HELLO = pk.ethernet(
    0x01005E000005,
    OWN,
    pk.ETH_IPV4,
    pk.ipv4(0x0A000101, 0xE0000005, pk.OSPF, built.ospf_hello(1, 1), ttl=1),
)
VIF, CABLE = PlayedHost.PORTS["vr1.0"], PlayedHost.PORTS["to-gen"]
FLOOD = 20_000


class Connection(SimpleNamespace):
    """What `openflow_tap` uses of one."""

    __hash__ = object.__hash__


def sent_up(in_port: int, why: int) -> bytes:
    """A hello of the router's VM, as its switch sends it to the controller."""
    return build.nx_packet_in(HELLO, match(in_port=in_port, reg1=1, reg3=1, reg7=why))


def test_a_flood_of_one_vm_is_dropped_before_it_is_read() -> None:
    host = PlayedHost()
    connection = object()
    component: Any = SimpleNamespace(
        _connections={connection: host.switch}, table=host.table, _now=time.monotonic
    )
    looked: list[int] = []
    usual = host.table.packet_in

    def packet_in_(switch: Any, packet: PacketIn) -> bool:
        looked.append(packet.in_port)
        return usual(switch, packet)

    host.table.packet_in = packet_in_  # type: ignore[method-assign]
    host.table.tick(1.0)
    assert host.table.problems_of("vr1") == []
    for _ in range(FLOOD):
        assert Component._packet_in(component, connection, sent_up(VIF, Up.FROM_VM)) is True
    for _ in range(10):
        assert Component._packet_in(component, connection, sent_up(CABLE, Up.HELD)) is True
    assert looked.count(CABLE) == 10
    through, dropped = looked.count(VIF), host.switch.packet_ins.dropped["vr1.0"]
    assert through + dropped == FLOOD and BURST <= through < FLOOD
    host.table.tick(2.0)
    (words,) = host.table.problems_of("vr1")
    assert f"more than {RATE_PER_S:.0f} frames a second" in words
    host.table.tick(2.0 + QUIET_S)
    assert host.table.problems_of("vr1") == []


@pytest.mark.parametrize("why", Up)
def test_what_was_routed_here_before_has_a_budget(why: Up) -> None:
    """Its port is cleared: a VM's flood that another VM is to get, which is suspended."""
    host = PlayedHost()
    connection = object()
    component: Any = SimpleNamespace(
        _connections={connection: host.switch}, table=host.table, _now=time.monotonic
    )
    looked: list[Mapping[str, int]] = []
    host.table.packet_in = lambda _, packet: bool(looked.append(packet.registers)) or True  # type: ignore[method-assign]
    host.table.tick(1.0)
    for _ in range(FLOOD):
        assert Component._packet_in(component, connection, sent_up(0, why)) is True
    assert BURST <= len(looked) < FLOOD
    assert host.switch.packet_ins.dropped == {f"vr1: {why.name.lower()}": FLOOD - len(looked)}
    host.table.tick(2.0)
    (words,) = host.table.problems_of("vr1")
    assert f"more than {RATE_PER_S:.0f} frames a second that " in words
    assert ("others on this host" in words) == (why is not Up.COPIED), "copies are our own doing"
    other = Up.HELD if why is Up.COPIED else Up.COPIED
    for message in (sent_up(0, other), sent_up(CABLE, why)):
        looked.clear()
        Component._packet_in(component, connection, message)
        assert looked, "copies take nothing from what is held, nor do both from a cable"


def test_what_is_nobody_s_is_for_the_other_components() -> None:
    """In the format that they know; other messages of a vendor's are not touched."""
    host = PlayedHost()
    others: list[bytes] = []
    usual = openflow_tap.OFPT_PACKET_IN + 1
    connection: Any = Connection(
        unpackers=[lambda data, offset: (offset + len(data), data)] * usual,
        handlers=[lambda con, message: others.append(message)] * usual,
    )
    component: Any = SimpleNamespace(
        _connections={connection: host.switch}, table=host.table, _now=time.monotonic
    )
    assert Component._packet_in(component, connection, sent_up(CABLE, 0)) is True
    assert others == [build.packet_in(HELLO, CABLE)]
    assert Component._packet_in(component, connection, sent_up(CABLE, Up.FROM_VM)) is True
    assert Component._packet_in(component, connection, build.enable_table_id()) is False
    assert len(others) == 1


def test_a_port_that_appears_is_known() -> None:
    host = PlayedHost()
    host.switch.port_changed("vr1.0", 0, False, True)
    host.switch.port_changed("vr1.0", 77, True, False)
    assert sum(host.switch.packet_ins.admits(77, 5.0) for _ in range(FLOOD)) == BURST
    assert host.switch.packet_ins.admits(VIF, 5.0)
