"""Flow values: one canonical form, refusals that name the field, the text of ovs-ofctl."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

import tests.flow_samples as samples
from xenflow.openflow import flow as fl
from xenflow.openflow.flow import Flow, FlowError, match


def test_one_form_however_it_is_written() -> None:
    a = match(nw_dst=(0x0A010203, 0xFF000000), reg1=5, dl_type=0x0800, dl_src=(7, 0))
    b = match(reg1=(5, 0xFFFFFFFF), dl_type=0x0800, nw_dst=(0x0A000000, 0xFF000000))
    assert a == b
    assert a == (
        ("dl_type", 0x0800, None),
        ("nw_dst", 0x0A000000, 0xFF000000),
        ("reg1", 5, None),
    )
    assert [name for name, _, _ in a] == sorted((n for n, _, _ in a), key=fl.FIELDS.index)


def test_arp_addresses_have_one_name() -> None:
    assert match(dl_type=0x0806, nw_src=1, nw_dst=2, nw_proto=1) == match(
        dl_type=0x0806, arp_spa=1, arp_tpa=2, arp_op=1
    )


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"nw_dts": 1}, "unknown field nw_dts"),
        ({"nw_dst": 1}, "nw_dst: needs dl_type 0x0800"),
        ({"nw_dst": 1, "dl_type": 0x86DD}, "nw_dst: needs dl_type 0x0800"),
        ({"arp_op": 1, "dl_type": 0x0800}, "arp_op: needs dl_type 0x0806"),
        ({"nw_ttl": 1, "dl_type": 0x0806}, "nw_ttl: needs"),
        ({"ipv6_dst": 1, "dl_type": 0x0800}, "ipv6_dst: needs dl_type 0x86dd"),
        (
            {"dl_type": 0x86DD, "nw_proto": 58, "tp_src": 136, "tp_dst": 0, "nd_sll": 1},
            "nd_sll: needs nw_proto 58, tp_src 135 and tp_dst 0",
        ),
        ({"tp_dst": 1, "dl_type": 0x0800}, "tp_dst: needs nw_proto"),
        ({"tp_dst": 1, "dl_type": 0x0800, "nw_proto": 89}, "tp_dst: needs nw_proto"),
        ({"tp_dst": 1, "dl_type": 0x0800, "nw_proto": 58}, "tp_dst: needs nw_proto"),
        ({"tp_src": 256, "dl_type": 0x0800, "nw_proto": 1}, "tp_src: 0x100 does not fit icmp"),
        ({"tp_src": 1, "dl_type": 0x0800, "nw_proto": 6, "nw_frag": 3}, "tp_src: a later"),
        ({"reg0": 1 << 32}, "reg0: 0x100000000 does not fit in 32 bits"),
        ({"reg0": -1}, "reg0"),
        ({"in_port": (1, 3)}, "in_port: takes no mask"),
        ({"dl_type": 0x0800, "nw_tos": 1}, "nw_tos: 0x1 has bits outside 0xfc"),
        ({"dl_type": 0x0806, "arp_op": 256}, "arp_op"),
        ({"dl_type": 0x0806, "arp_tpa": 1, "nw_dst": 1}, "nw_dst: is arp_tpa, given twice"),
    ],
)
def test_refusals_name_the_field(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(FlowError, match=name):
        match(**fields)


@pytest.mark.parametrize(
    "make",
    [
        lambda: fl.output(0),
        lambda: fl.output(0xFFFB),
        lambda: fl.load("nw_proto", 1),
        lambda: fl.load("reg0", 1 << 32),
        lambda: fl.load("tp_dst", 1),
        lambda: fl.load("ipv6_dst", 1),
        lambda: fl.load_bits("reg0", 30, 3, 1),
        lambda: fl.move("reg0", "in_port"),
        lambda: fl.resubmit(255),
        lambda: fl.set_vlan(4096),
        lambda: fl.multipath("symmetric_l5", 2, "reg0"),
        lambda: fl.multipath("nw_src", 0, "reg0"),
        lambda: fl.check_pkt_larger(1500, "reg0", 32),
        lambda: Flow(255, 0, (), ()),
        lambda: Flow(0, 65536, (), ()),
        lambda: Flow(0, 0, (), (), 1 << 64),
        lambda: Flow(0, 0, (), (), 0, 65536),
    ],
)
def test_what_no_switch_could_do(make: Any) -> None:
    with pytest.raises(FlowError):
        make()


def test_equality_is_what_the_switch_can_tell() -> None:
    told = Flow(1, 2, match(reg0=1), (), flags=fl.SEND_FLOW_REM)
    untold = Flow(1, 2, match(reg0=1), ())
    assert told == untold and hash(told) == hash(untold)
    assert told.key == (1, 2, match(reg0=1))
    assert told != Flow(1, 2, match(reg0=1), (), cookie=1)


def test_text() -> None:
    flow = Flow(
        1,
        100,
        match(
            in_port=fl.LOCAL,
            reg3=5,
            dl_dst=0x00163E000001,
            vlan_tci=(0x1007, 0x1FFF),
            dl_type=0x0800,
            nw_proto=17,
            nw_dst=(0x0A000000, 0xFF000000),
            tp_dst=53,
        ),
        (fl.dec_ttl(), fl.load("reg0", 7), fl.load_bits("reg4", 3, 1, 0), fl.resubmit(2)),
        0x12,
        30,
        flags=fl.SEND_FLOW_REM,
    )
    assert fl.text(flow) == (
        "cookie=0x12,table=1,idle_timeout=30,send_flow_rem,priority=100,udp,reg3=0x5,"
        "in_port=LOCAL,dl_vlan=7,dl_dst=00:16:3e:00:00:01,nw_dst=10.0.0.0/8,tp_dst=53,"
        "actions=dec_ttl,load:0x7->NXM_NX_REG0[],load:0->NXM_NX_REG4[3],resubmit(,2)"
    )
    assert fl.text(Flow(0, 0, (), ())) == "table=0,priority=0,actions=drop"


def test_every_sample_has_a_text() -> None:
    for flow in samples.some_flows(Random(1), 300):
        assert fl.text(flow).startswith(("cookie=", "table="))


def test_flood_is_absent() -> None:
    assert not hasattr(fl, "flood")
