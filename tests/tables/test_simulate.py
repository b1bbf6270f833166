"""The tables run on frames; tests/lab/test_openflow_ovs.py compares with a real switch."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.flow_samples as samples
from tests.switch_tables import SwitchTables
from xenflow.openflow import flow as fl
from xenflow.openflow import packet as pk
from xenflow.openflow.flow import Flow, FlowError, match
from xenflow.tables import simulate
from xenflow.tables.simulate import Tables, run

FRAME = samples.frames()[0]


def plain_lookup(flows: list[Flow], table: int, fields: dict[str, int]) -> Flow | None:
    fit = [
        flow
        for flow in flows
        if flow.table == table
        and all(
            fields[name] & (-1 if mask is None else mask) == value
            for name, value, mask in flow.match
        )
    ]
    return max(fit, key=lambda flow: flow.priority, default=None)


@pytest.mark.parametrize("seed", range(5))
def test_lookup_is_that_of_the_definition(seed: int) -> None:
    flows = samples.some_flows(Random(seed), 200)
    tables = SwitchTables(flows)
    assert len(tables) == 200 and set(tables) == set(flows)
    for frame in samples.frames():
        fields = pk.fields(frame, 2)
        for table in range(5):
            assert tables.lookup(table, fields) == plain_lookup(flows, table, fields)


def test_add_and_delete_as_the_switch_does() -> None:
    flow = Flow(1, 5, match(in_port=1), (fl.output(2),), 6)
    over = Flow(1, 5, match(in_port=1), (fl.output(3),), 7)
    other = Flow(2, 5, match(in_port=(1)), (), 6)
    tables = SwitchTables([flow, other])
    tables.add(over)
    assert len(tables) == 2 and set(tables) == {over, other}
    assert tables.delete_by_cookie(1, 6) == []
    assert tables.delete_by_cookie(None, 6) == [other]
    assert tables.delete_strict(1, 6, match(in_port=1)) is None
    assert tables.delete_strict(*over.key) == over
    assert len(tables) == 0 and tables.delete_strict(*over.key) is None
    assert run(tables, FRAME, 1, start=1).outputs == []
    tables.add(flow)
    assert run(tables, FRAME, 1, start=1).ports == [2]
    with pytest.raises(FlowError):
        tables.add(Flow(0, 0, (("nxm:00012008", 5, None),), ()))


def test_ten_thousand_routes() -> None:
    routes = [
        Flow(
            1,
            100 + plen,
            match(reg1=1, dl_type=0x800, nw_dst=(i << 12, 0xFFFFFFFF << 32 - plen & 0xFFFFFFFF)),
            (fl.load("reg0", i), fl.resubmit(2)),
        )
        for i in range(10_000)
        for plen in [20 + i % 5]
    ]
    tables = Tables([Flow(0, 1, (), (fl.load("reg1", 1), fl.resubmit(1))), *routes])
    for i in range(0, 10_000, 97):
        frame = pk.ethernet(1, 2, 0x800, pk.ipv4(1, i << 12, 17, pk.udp(1, i << 12, 3, 4)))
        trace = run(tables, frame, 1).trace
        assert [step.table for step in trace] == [0, 1, 2]
        assert trace[1].flow == routes[i] and trace[2].flow is None
        assert trace[2].registers[:2] == (i, 1)


def test_registers_persist_and_the_rest_goes_on() -> None:
    tables = Tables(
        [
            Flow(0, 1, (), (fl.resubmit(1), fl.output_reg("reg0"), fl.output(7))),
            Flow(1, 1, (), (fl.load("reg0", 5), fl.set_dl_src(9))),
        ]
    )
    verdict = run(tables, FRAME, 1)
    assert verdict.ports == [5, 7]
    assert pk.parse(verdict.outputs[1][1]).dl_src == 9
    assert [(s.table, s.registers[0]) for s in verdict.trace] == [(0, 0), (1, 0)]


def test_the_ingress_port() -> None:
    actions = (fl.output(1), fl.load("in_port", 0), fl.output(1))
    assert run(Tables([Flow(0, 1, (), actions)]), FRAME, 1).ports == [1]
    assert run(Tables([Flow(0, 1, (), actions)]), FRAME, 2).ports == [1, 1]
    assert run(Tables([Flow(0, 1, (), (fl.output(fl.IN_PORT),))]), FRAME, 4).ports == [4]


def test_a_loop_drops_everything() -> None:
    verdict = run(Tables([Flow(0, 1, (), (fl.output(2), fl.resubmit(0)))]), FRAME, 1)
    assert verdict.outputs == [] and "64" in verdict.error
    assert len(verdict.trace) == 65


def test_ttl() -> None:
    tables = Tables(
        [
            Flow(0, 1, (), (fl.resubmit(1), fl.output(3))),
            Flow(1, 1, (), (fl.dec_ttl(), fl.output(2))),
        ]
    )
    verdict = run(tables, FRAME, 1)
    assert verdict.ports == [2, 3] and not verdict.ttl_expired
    sent = verdict.outputs[0][1]
    assert pk.parse(sent).nw_ttl == 63 and pk.checksum(sent[14:34]) == 0
    expiring = pk.ethernet(2, 1, 0x800, pk.ipv4(1, 2, 17, ttl=1))
    verdict = run(tables, expiring, 1)
    assert verdict.ttl_expired and verdict.outputs == [(3, expiring)]


def test_to_the_controller_and_the_bridge() -> None:
    verdict = run(Tables([Flow(0, 1, (), (fl.controller(), fl.normal()))]), FRAME, 1)
    assert verdict.outputs == [("controller", FRAME), ("normal", FRAME)]


def test_a_packet_out() -> None:
    tables = Tables([Flow(3, 1, match(in_port=9), (fl.output(2),))])
    assert simulate.run_actions(tables, FRAME, 9, (fl.resubmit(3), fl.output(1))).ports == [2, 1]


def test_multipath_is_steady_symmetric_and_spreads() -> None:
    tables = Tables([Flow(0, 1, (), (fl.multipath("symmetric_l3", 4, "reg0"), fl.resubmit(1)))])

    def link(src: int, dst: int) -> int:
        frame = pk.ethernet(1, 2, 0x800, pk.ipv4(src, dst, 17, pk.udp(src, dst, 3, 4)))
        return run(tables, frame, 1).trace[1].registers[0]

    assert {link(1, dst) for dst in range(50)} == {0, 1, 2, 3}
    assert all(link(1, dst) == link(dst, 1) for dst in range(50))


def test_multipath_with_another_basis_spreads_each_leg_again() -> None:
    first = Flow(0, 1, (), (fl.multipath("symmetric_l3", 2, "reg0", 1), fl.resubmit(1)))
    second = Flow(1, 1, (), (fl.multipath("symmetric_l3", 2, "reg1", 2), fl.resubmit(2)))
    legs = set()
    for dst in range(50):
        frame = pk.ethernet(1, 2, 0x800, pk.ipv4(1, dst, 17, pk.udp(1, dst, 3, 4)))
        legs.add(run(Tables([first, second]), frame, 1).trace[2].registers[:2])
    assert legs == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_a_frame_too_large() -> None:
    tables = Tables(
        [
            Flow(0, 1, (), (fl.check_pkt_larger(len(FRAME), "reg0", 3), fl.output_reg("reg0"))),
        ]
    )
    assert run(tables, FRAME + b"\0", 1).ports == [8]
    assert run(tables, FRAME, 1).ports == []


def test_what_cannot_be_simulated_is_said() -> None:
    with pytest.raises(FlowError, match="cannot be simulated"):
        run(Tables([Flow(0, 1, (), (fl.raw(bytes(8)),))]), FRAME, 1)


@given(st.integers(0, 2**32), st.sampled_from(samples.frames()), st.binary(max_size=40))
def test_any_frame_gets_a_verdict(seed: int, frame: bytes, noise: bytes) -> None:
    tables = Tables(samples.some_flows(Random(seed), 20))
    for damaged in (frame, frame[: len(noise)], frame[:20] + noise):
        verdict = run(tables, damaged, 1)
        if not verdict.error:
            assert verdict.trace[0].table == 0
