"""The reactive answer to a packet: the same octets as the general functions make."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.flow_samples as samples
from xenflow.openflow import build, nxm, wire
from xenflow.openflow import flow as fl
from xenflow.openflow.exact_flows import ExactFlowPacker, PlainExactFlowPacker, exact_match
from xenflow.openflow.flow import Flow, FlowError


def test_the_answer_to_a_packet() -> None:
    actions = (fl.set_dl_src(1), fl.output(2))
    packed = nxm.pack_actions(actions)
    for frame in samples.frames():
        flow = Flow(0, 100, exact_match(frame, 3), actions, 77, 10)
        out = build.packet_out(frame, actions, 3)
        assert ExactFlowPacker(0, 100, 10).pack(frame, 3, packed, 77) == build.flow_mod(flow) + out
        plain = PlainExactFlowPacker(0, 100, 10).pack(frame, 3, packed, 77)
        flow = replace(flow, match=exact_match(frame, 3, ipv6=False))
        assert plain == build.flow_mod_of10(flow) + out


@given(st.binary(max_size=80), st.sampled_from(samples.frames()), st.integers(0, 60))
def test_an_answer_to_any_packet(noise: bytes, frame: bytes, at: int) -> None:
    packer = ExactFlowPacker(0, 100, 10)
    garbled = frame[:at] + noise
    first, rest = wire.split(packer.pack(garbled, 3, b"", 7))
    assert len(first) == 2 and not rest
    assert first[0] == build.flow_mod(Flow(0, 100, exact_match(garbled, 3), (), 7, 10))


def test_no_answer_is_larger_than_a_message() -> None:
    with pytest.raises(FlowError):
        build.packet_out(bytes(65535), ())
    with pytest.raises(FlowError):
        ExactFlowPacker(0, 1, 1).pack(bytes(65535), 1, b"")
    with pytest.raises(FlowError):
        PlainExactFlowPacker(0, 1, 1).pack(bytes(65535), 1, b"")
