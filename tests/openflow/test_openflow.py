"""Messages: packed and parsed back, fast packers against the general ones, garbage refused."""

from __future__ import annotations

import contextlib
import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.flow_samples as samples
from xenflow.openflow import build, nxm, parse, statistics, wire
from xenflow.openflow import flow as fl
from xenflow.openflow import packet as pk
from xenflow.openflow.exact_flows import ExactFlowPacker, exact_match
from xenflow.openflow.flow import Flow, FlowError, match
from xenflow.openflow.statistics import Aggregate, Desc, FlowStats, PortStats, StatsReply

FLOWS = samples.some_flows(Random(7), 300)


def nx_flow_stats(flow: Flow) -> bytes:
    """An entry of an NXST_FLOW reply, as a switch that holds `flow` would send it."""
    what = nxm.pack_match(flow.match)
    actions = nxm.pack_actions(flow.actions)
    padded = what + bytes(-len(what) % 8)
    head = struct.pack(
        "!HBxIIHHHHHHQQQ",
        48 + len(padded) + len(actions),
        flow.table,
        3,
        500_000_000,
        flow.priority,
        flow.idle_timeout,
        flow.hard_timeout,
        len(what),
        2,
        0,
        flow.cookie,
        10,
        1000,
    )
    return head + padded + actions


def reply(body: bytes, kind: int = 0xFFFF, flags: int = 0, xid: int = 9) -> bytes:
    if kind == 0xFFFF:
        body = struct.pack("!II4x", wire.NX_VENDOR, 0) + body
    return struct.pack("!BBHIHH", 1, 17, 12 + len(body), xid, kind, flags) + body


def test_flow_stats_come_back_in_parts() -> None:
    parts = [
        parse.message(reply(b"".join(map(nx_flow_stats, FLOWS[i : i + 50])), flags=i < 250))
        for i in range(0, 300, 50)
    ]
    assert all(isinstance(part, StatsReply) for part in parts)
    stats = statistics.flows(part for part in parts if isinstance(part, StatsReply))
    assert stats == [FlowStats(flow, 10, 1000, 3.5, 1) for flow in FLOWS]
    assert [part.more for part in parts if isinstance(part, StatsReply)] == [True] * 5 + [False]


def test_match_and_actions_come_back() -> None:
    for flow in FLOWS:
        packed = nxm.pack_match(flow.match)
        assert nxm.parse_match(packed, 0, len(packed)) == flow.match
        actions = nxm.pack_actions(flow.actions)
        assert len(actions) % 8 == 0
        assert nxm.parse_actions(actions, 0, len(actions)) == flow.actions


def test_flow_mods_come_back() -> None:
    for flow in FLOWS:
        back = parse.flow_mod(build.flow_mod(flow))
        assert back == flow and back.flags == flow.flags
    deleted = parse.flow_mod(build.flow_mod(FLOWS[0], wire.Command.DELETE_STRICT))
    assert (deleted.key, deleted.actions) == (FLOWS[0].key, ())
    for bad in (
        b"",
        build.hello(),
        build.flow_mod(FLOWS[0])[:-8],
        build.enable_table_id() + bytes(40),
    ):
        with pytest.raises(wire.WireError, match="NXT_FLOW_MOD"):
            parse.flow_mod(bad)


def test_plain_match_comes_back_or_is_refused() -> None:
    kept = 0
    for flow in FLOWS:
        try:
            packed = nxm.pack_match10(flow.match)
        except FlowError:
            continue
        kept += 1
        assert nxm.parse_match10(packed, 0) == flow.match, flow.match
    assert kept > 30


@pytest.mark.parametrize(
    ("flow", "why"),
    [
        (Flow(1, 0, (), ()), "table"),
        (Flow(0, 0, match(reg0=1), ()), "reg0"),
        (Flow(0, 0, match(vlan_tci=(0, 0x1000)), ()), "vlan_tci"),
        (Flow(0, 0, match(dl_src=(1, 1)), ()), "dl_src"),
        (Flow(0, 0, match(dl_type=0x800, nw_dst=(1, 0xFF)), ()), "nw_dst"),
        (Flow(0, 0, match(dl_type=0x800, nw_ttl=1), ()), "nw_ttl"),
        (Flow(0, 0, match(dl_type=0x86DD, nw_proto=6), ()), "nw_proto"),
        (Flow(0, 0, (), (fl.dec_ttl(),)), "dec_ttl"),
        (Flow(0, 0, (), (fl.resubmit(0),)), "resubmit"),
    ],
)
def test_what_plain_openflow_cannot_say(flow: Flow, why: str) -> None:
    with pytest.raises(FlowError, match=why):
        build.flow_mod_of10(flow)


def test_a_guests_truncated_arp_must_not_meet_a_rewrite() -> None:
    """Open vSwitch's userspace datapath writes past such a frame's end and dies of it."""
    rewrite = (fl.load("arp_op", 2), fl.move("arp_sha", "arp_tha"))
    for what in (match(dl_type=0x806), match(dl_type=0x806, arp_op=0)):
        with pytest.raises(FlowError, match="arp_op"):
            build.flow_mod(Flow(0, 0, what, rewrite))
        build.flow_mod(Flow(0, 0, what, rewrite), wire.Command.DELETE_STRICT)
    build.flow_mod(Flow(0, 0, match(dl_type=0x806, arp_op=1), rewrite))


def test_a_modification_cannot_set_every_bit_of_a_cookie() -> None:
    flow = Flow(0, 0, (), (), 0xFFFFFFFFFFFFFFFF)
    assert parse.flow_mod(build.flow_mod(flow)) == flow
    with pytest.raises(FlowError, match="cookie"):
        build.flow_mod(flow, wire.Command.MODIFY_STRICT)


@pytest.mark.parametrize("form", [{}, {"ttl": True}, {"nicira": False}])
def test_the_answer_to_a_packet(form: dict[str, bool]) -> None:
    packer = ExactFlowPacker(0, 100, 10, 60, fl.SEND_FLOW_REM, **form)
    actions = (fl.set_dl_src(1), fl.output(2))
    for frame in samples.frames():
        what = exact_match(frame, 3, form.get("ttl", False))
        flow = Flow(0, 100, what, actions, 77, 10, 60, fl.SEND_FLOW_REM)
        out = build.packet_out(frame, actions, 3)
        packed = nxm.pack_actions(actions)
        if form.get("nicira", True):
            assert packer.pack(frame, 3, packed, 77) == build.flow_mod(flow) + out
        elif pk.parse(frame).dl_type != pk.ETH_IPV6:
            assert packer.pack(frame, 3, packed, 77) == build.flow_mod_of10(flow) + out


@given(st.binary(max_size=80), st.sampled_from(samples.frames()), st.integers(0, 60))
def test_an_answer_to_any_packet(noise: bytes, frame: bytes, at: int) -> None:
    packer = ExactFlowPacker(0, 100, 10)
    garbled = frame[:at] + noise
    first, rest = wire.split(packer.pack(garbled, 3, b"", 7))
    assert len(first) == 2 and not rest
    assert first[0] == build.flow_mod(Flow(0, 100, exact_match(garbled, 3), (), 7, 10))


def test_no_answer_without_openflow() -> None:
    with pytest.raises(FlowError):
        ExactFlowPacker(1, 1, 1, nicira=False)
    with pytest.raises(FlowError):
        ExactFlowPacker(0, 1, 1, ttl=True, nicira=False)
    with pytest.raises(FlowError):
        build.packet_out(bytes(65535), ())
    with pytest.raises(FlowError):
        ExactFlowPacker(0, 1, 1).pack(bytes(65535), 1, b"")


def test_foreign_fields_and_actions_are_kept() -> None:
    foreign = ("nxm:00012008", 5, None)
    masked = ("nxm:80000408", 7, 0xFF)
    what = fl.canonical([masked, ("reg0", 1, None), foreign])
    packed = nxm.pack_match(what)
    assert nxm.parse_match(packed, 0, len(packed)) == what
    odd = bytes.fromhex("0000000800020000 0000000800060005 ffff00100000232000010000fff80000")
    # output to port 2; to port 6 with a length it has no use for; resubmit of the old kind
    odd += bytes.fromhex("0000000800fffb00")[:0] + bytes.fromhex("00000008fffb0000")
    actions = nxm.parse_actions(odd, 0, len(odd))
    assert [action[0] for action in actions] == ["output", "raw", "raw", "raw"]
    assert nxm.pack_actions(actions) == odd
    assert "raw(" in fl.actions_text(actions)
    for bad in ("nxm:1", "nxm:zz", "nxm:00012100", "tun_id"):
        with pytest.raises(FlowError, match="unknown field"):
            fl.canonical([(bad, 1, None)])


def test_messages_to_the_switch_have_their_length() -> None:
    messages = [
        build.hello(),
        build.echo_request(b"a", 2),
        build.echo_reply(b"a", 2),
        build.features_request(),
        build.get_config_request(),
        build.set_config(128),
        build.barrier_request(7),
        build.enable_table_id(),
        build.set_flow_format_nxm(),
        build.packet_out(b"x" * 60, (fl.output(1),), 5),
        build.delete_by_cookie(wire.ALL_TABLES, 5),
        statistics.flow_request(1, 5, 7, match(reg0=1)),
        statistics.aggregate_request(),
        statistics.flow_request_of10(match(in_port=1)),
        statistics.aggregate_request_of10(),
        statistics.table_request(),
        statistics.port_request(),
        statistics.description_request(),
        *map(build.flow_mod, FLOWS),
    ]
    assert wire.split(b"".join(messages) + b"\x01") == (messages, b"\x01")


def test_messages_from_the_switch() -> None:
    port = struct.pack("!H6s16sIIIIII", 3, bytes(5) + b"\x09", b"vif3.0", 0, 1, 2, 3, 4, 5)
    parsed = parse.Port(3, 9, "vif3.0", 0, 1, 2, 3, 4, 5)
    assert not parsed.up

    def message(kind: int, body: bytes) -> bytes:
        return struct.pack("!BBHI", 1, kind, 8 + len(body), 5) + body

    features = struct.pack("!QIB3xII", 0xABC, 0, 254, 1, 2) + port
    assert parse.message(message(6, features)) == parse.FeaturesReply(
        5, 0xABC, 0, 254, 1, 2, (parsed,)
    )
    assert parse.message(message(12, b"\x02" + bytes(7) + port)) == parse.PortStatus(5, 2, parsed)
    assert parse.message(message(2, b"hi")) == parse.EchoRequest(5, b"hi")
    assert parse.message(message(3, b"hi")) == parse.EchoReply(5, b"hi")
    assert parse.message(message(19, b"")) == parse.BarrierReply(5)
    assert parse.message(message(8, b"\0\0\0\x80")) == parse.ConfigReply(5, 0, 128)
    assert parse.message(b"\x04\0\0\x08\0\0\0\x05") == parse.Hello(5, 4)
    packet_in = message(10, struct.pack("!IHHBx", 0xFFFFFFFF, 60, 3, 1) + b"frame")
    assert parse.message(packet_in) == parse.packet_in(packet_in)
    assert parse.packet_in(packet_in) == parse.PacketIn(5, 0xFFFFFFFF, 60, 3, 1, b"frame")
    error = parse.message(message(1, struct.pack("!HH", 3, 0) + b"refused"))
    assert error == parse.ErrorMessage(5, 3, 0, "flow_mod failed: tables full", b"refused")
    nicira = struct.pack("!HHIHH", 0xB0C2, 0, wire.NX_VENDOR, 1, 260) + b"refused"
    error = parse.message(message(1, nicira))
    assert isinstance(error, parse.ErrorMessage)
    assert (error.name, error.data) == ("bad request: match prerequisite not met", b"refused")
    error = parse.message(message(1, struct.pack("!HH", 77, 66)))
    assert isinstance(error, parse.ErrorMessage) and error.name == "error type 77: code 66"
    what = match(in_port=1, dl_type=0x800, nw_proto=6, tp_dst=179)
    removed = nxm.pack_match10(what) + struct.pack("!QHBxIIH2xQQ", 7, 9, 1, 2, 0, 30, 4, 5)
    assert parse.message(message(11, removed)) == parse.FlowRemoved(
        5, Flow(0, 9, what, (), 7, 30), 1, 2.0, 4, 5
    )
    what = match(reg0=(1, 3))
    packed = nxm.pack_match(what)
    removed = struct.pack("!IIQHBBIIHHQQ", wire.NX_VENDOR, 14, 7, 9, 2, 4, 2, 0, 30, 12, 4, 5)
    assert parse.message(message(4, removed + packed + bytes(4))) == parse.FlowRemoved(
        5, Flow(3, 9, what, (), 7, 30), 2, 2.0, 4, 5
    )
    assert parse.message(message(4, struct.pack("!II", 1, 2))) == wire.Other(
        5, 4, b"\0\0\0\1\0\0\0\2"
    )
    counters = struct.pack("!H6x12Q", 3, *range(12))
    assert parse.message(reply(counters * 2, 4)) == StatsReply(
        9, False, (PortStats(3, *range(12)),) * 2
    )
    desc = struct.pack("!256s256s256s32s256s", b"m", b"h", b"s", b"n", b"d")
    assert parse.message(reply(desc, 0)) == StatsReply(9, False, (Desc("m", "h", "s", "n", "d"),))
    total = struct.pack("!QQI4x", 1, 2, 3)
    assert parse.message(reply(total, 2)) == StatsReply(9, False, (Aggregate(1, 2, 3),))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 bytes"),
        (b"\x01\x13\x00\x09\0\0\0\0", "9 bytes, 8 given"),
        (b"\x04\x13\x00\x08\0\0\0\0", "version 4"),
        (b"\x01\x06\x00\x08\0\0\0\0", "FEATURES_REPLY: 8 bytes, at least 32"),
        (b"\x01\x0a\x00\x08\0\0\0\0", "PACKET_IN"),
        (reply(nx_flow_stats(FLOWS[0])[:-8]), "flow at byte 24"),
        (reply(bytes(50)), "flow at byte 24 of 0 bytes"),
    ],
)
def test_what_is_no_message(data: bytes, why: str) -> None:
    with pytest.raises(wire.WireError, match=why):
        parse.message(data)
    with pytest.raises(wire.WireError):
        wire.split(b"\x01\x00\x00\x07\0\0\0\0")


VALID = [
    reply(nx_flow_stats(FLOWS[0]) + nx_flow_stats(FLOWS[1])),
    reply(b"".join(map(nx_flow_stats, FLOWS[2:9]))),
    reply(
        struct.pack("!HBx", 96, 0)
        + nxm.pack_match10(match(in_port=1, dl_type=0x800, nw_proto=17, tp_dst=5))
        + struct.pack("!IIHHH6xQQQ", 1, 2, 3, 4, 5, 6, 7, 8)
        + nxm.pack_actions((fl.output(1),)),
        1,
    ),
    reply(bytes(208), 4),
    *(build.flow_mod(flow) for flow in FLOWS[:4]),
    build.packet_out(bytes(60), (fl.output(1),)),
]


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_read(data: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        parse.message(data)


@settings(max_examples=600)
@given(
    st.sampled_from(VALID),
    st.integers(0, 19),
    st.lists(st.tuples(st.integers(8, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
)
def test_damaged_messages_are_refused_or_read(
    data: bytes, kind: int, changes: list[tuple[int, int]], cut: int
) -> None:
    """Any exception but WireError would take the component's connection handler down."""
    damaged = bytearray(data)
    if cut % 3 == 0:
        damaged[1] = kind
    for at, value in changes:
        damaged[at % len(damaged)] = value
    if cut % 2:
        del damaged[max(8, cut) :]
    damaged[0] = 1
    damaged[2:4] = len(damaged).to_bytes(2, "big")
    with contextlib.suppress(wire.WireError):
        parse.message(bytes(damaged))
    with contextlib.suppress(wire.WireError):
        parse.flow_mod(bytes(damaged))


@given(st.binary(max_size=120))
def test_any_match_and_actions_are_refused_or_come_back(data: bytes) -> None:
    try:
        what = nxm.parse_match(data, 0, len(data))
    except wire.WireError:
        pass
    else:
        again = nxm.pack_match(what)
        assert nxm.parse_match(again, 0, len(again)) == what
    try:
        actions = nxm.parse_actions(data, 0, len(data))
    except wire.WireError:
        pass
    else:
        assert nxm.pack_actions(actions) == data
        assert fl.actions_text(actions)
