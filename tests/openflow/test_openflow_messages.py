"""Messages: built and parsed as `cases` says, in whatever pieces they come; garbage refused."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable
from operator import attrgetter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.flow_samples as samples
from tests.octets import octets
from tests.openflow.cases import CASES, FLOW_MODS, PORT, MessageCase
from xenflow.openflow import build, nxm, parse, statistics, wire
from xenflow.openflow import flow as fl
from xenflow.openflow.flow import Flow, FlowError, match
from xenflow.openflow.statistics import FlowStats, StatsReply

FLOWS = samples.some_flows(Random(7), 300)
NAME = attrgetter("name")


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


@pytest.mark.parametrize("case", [c for c in CASES if c.built is not None], ids=NAME)
def test_what_is_built(case: MessageCase) -> None:
    assert case.built == case.octets


@pytest.mark.parametrize("case", [c for c in CASES if c.parsed is not None], ids=NAME)
def test_what_is_parsed(case: MessageCase) -> None:
    read = parse.flow_mod if case in FLOW_MODS else parse.message
    assert read(case.octets) == case.parsed


def test_a_port_is_up_where_nothing_says_that_it_is_down() -> None:
    assert not PORT.up
    assert PORT._replace(state=0).up
    assert not PORT._replace(state=0, config=1).up


def arrived(pieces: Iterable[bytes]) -> tuple[list[bytes], bytes]:
    """The messages of a stream that comes in pieces, as whoever reads a connection cuts them."""
    found, rest = [], b""
    for piece in pieces:
        messages, rest = wire.split(rest + piece)
        found += messages
    return found, rest


def test_a_stream_comes_octet_by_octet() -> None:
    stream = b"".join(case.octets for case in CASES) + b"\x01"
    messages, rest = arrived(bytes((octet,)) for octet in stream)
    assert messages == [case.octets for case in CASES] and rest == b"\x01"


@given(st.lists(st.sampled_from(CASES), max_size=8), st.data())
def test_a_stream_comes_in_any_pieces(cases: list[MessageCase], data: st.DataObject) -> None:
    stream = b"".join(case.octets for case in cases)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert arrived(pieces) == ([case.octets for case in cases], b"")


def test_flow_stats_come_back_in_parts() -> None:
    parts = [
        parse.message(reply(b"".join(map(nx_flow_stats, FLOWS[i : i + 50])), flags=i < 250))
        for i in range(0, 300, 50)
    ]
    assert all(isinstance(part, StatsReply) for part in parts)
    stats = statistics.flows(part for part in parts if isinstance(part, StatsReply))
    assert stats == [FlowStats(flow, 10, 1000, 3.5, 1) for flow in FLOWS]
    assert [part.more for part in parts if isinstance(part, StatsReply)] == [True] * 5 + [False]


def test_flow_mods_come_back() -> None:
    for flow in FLOWS:
        back = parse.flow_mod(build.flow_mod(flow))
        assert back == flow and back.flags == flow.flags
    deleted = parse.flow_mod(build.flow_mod(FLOWS[0], wire.FlowModCommand.DELETE_STRICT))
    assert (deleted.key, deleted.actions) == (FLOWS[0].key, ())
    for bad in (
        b"",
        build.hello(),
        build.flow_mod(FLOWS[0])[:-8],
        build.enable_table_id() + bytes(40),
    ):
        with pytest.raises(wire.WireError, match="NXT_FLOW_MOD"):
            parse.flow_mod(bad)


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
        build.flow_mod(Flow(0, 0, what, rewrite), wire.FlowModCommand.DELETE_STRICT)
    build.flow_mod(Flow(0, 0, match(dl_type=0x806, arp_op=1), rewrite))


def test_a_modification_cannot_set_every_bit_of_a_cookie() -> None:
    flow = Flow(0, 0, (), (), 0xFFFFFFFFFFFFFFFF)
    assert parse.flow_mod(build.flow_mod(flow)) == flow
    with pytest.raises(FlowError, match="cookie"):
        build.flow_mod(flow, wire.FlowModCommand.MODIFY_STRICT)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 bytes"),
        (b"\x01\x13\x00\x09\0\0\0\0", "9 bytes, 8 given"),
        (b"\x04\x13\x00\x08\0\0\0\0", "version 4"),
        (b"\x01\x06\x00\x08\0\0\0\0", "FEATURES_REPLY: 8 bytes, at least 32"),
        (b"\x01\x0a\x00\x08\0\0\0\0", "PACKET_IN"),
        (octets("01 04 0010 00000005 00002320 00000011"), "NXT_PACKET_IN: 16 bytes"),
        (
            octets("01 04 0030 00000005 00002320 00000011 ffffffff 12* 0006 6* 00000002 0003 2*"),
            "NXT_PACKET_IN: 48 bytes, 50 needed before the frame",
        ),
        (reply(nx_flow_stats(FLOWS[0])[:-8]), "flow at byte 24"),
        (reply(bytes(50)), "flow at byte 24 of 0 bytes"),
    ],
)
def test_what_is_no_message(data: bytes, why: str) -> None:
    with pytest.raises(wire.WireError, match=why):
        parse.message(data)
    with pytest.raises(wire.WireError):
        wire.split(b"\x01\x00\x00\x07\0\0\0\0")


NX_PACKET_IN = build.nx_packet_in(b"frame", match(in_port=259, reg1=7))


@pytest.mark.parametrize("reordered", [False, True])
def test_the_port_of_a_packet_in_is_there_before_it_is_read(reordered: bool) -> None:
    """Wherever the match has it; the rest may be as bad as it likes where it comes first."""
    assert parse.packet_in_port(build.packet_in(b"frame", 259)) == 259
    start, end, more = 40, 46, 54
    moved = NX_PACKET_IN[end:more] + NX_PACKET_IN[start:end]
    packet = NX_PACKET_IN[:start] + moved + NX_PACKET_IN[more:] if reordered else NX_PACKET_IN
    assert parse.packet_in_port(packet) == parse.packet_in(packet).in_port == 259
    assert parse.packet_in(packet).registers == {"reg1": 7}
    if reordered:
        with pytest.raises(wire.WireError):
            parse.packet_in_port(packet[:45])
    else:
        assert parse.packet_in_port(packet[:46]) == 259


def test_whose_message_is_a_packet_in() -> None:
    assert parse.is_nx_packet_in(NX_PACKET_IN)
    assert not parse.is_nx_packet_in(build.set_packet_in_format_nxm())


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_read(data: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        parse.message(data)


@settings(max_examples=600)
@given(
    st.sampled_from([case.octets for case in CASES]),
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
    for read in (parse.packet_in_port, parse.packet_in):
        if damaged[1] == wire.MessageType.PACKET_IN or parse.is_nx_packet_in(bytes(damaged)):
            with contextlib.suppress(wire.WireError):
                read(bytes(damaged))
