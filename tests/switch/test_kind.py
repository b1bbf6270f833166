"""What a switch of each kind is told, and what the controller's answers leave in it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.whole_network import load
from xenflow.model.network import Datapath, DatapathKind, Pipeline
from xenflow.openflow import build, parse, wire
from xenflow.openflow.flow import Flow, match, output
from xenflow.routes.router_state import Changes, RouterState
from xenflow.switch.channel import Channel
from xenflow.switch.clock import Clock
from xenflow.switch.exact_flows import MANY, MAX_KEPT, CookieExactFlows, KeptExactFlows
from xenflow.switch.kind import (
    PlainHost,
    PlainSwitch,
    ReactiveHost,
    SwitchKind,
    kind_of,
)
from xenflow.switch.problems import Problems
from xenflow.tables import cookies

HOST = load("paper").network.datapaths["host-a"]


@pytest.mark.parametrize(
    ("datapath", "kind"),
    [
        (HOST, SwitchKind),
        (replace(HOST, pipeline=Pipeline.REACTIVE), ReactiveHost),
        (replace(HOST, pipeline=Pipeline.REACTIVE, nicira=False), PlainHost),
        (replace(HOST, kind=DatapathKind.PLAIN), PlainSwitch),
    ],
)
def test_a_nudge_adds_a_flow_that_no_packet_meets_and_deletes_it(
    datapath: Datapath, kind: type[SwitchKind]
) -> None:
    found = kind_of(datapath)
    assert type(found) is kind
    messages, rest = wire.split(found.greeting + found.nudge)
    assert rest == b""
    vendor = [message[1] == wire.MessageType.VENDOR for message in messages]
    told = [True, True, False, True, True]
    assert vendor == (told if found.nicira else [False, False, False])
    assert (build.set_packet_in_format_nxm() in messages) is found.nicira
    add, delete = messages[-2:]
    assert add != delete and parse.cookie_of(add) == parse.cookie_of(delete) == cookies.MAGIC
    assert parse.adds_flow(add) and not parse.adds_flow(delete)


class Sent:
    """A channel, and what went through it."""

    def __init__(self) -> None:
        self.data = b""
        clock = Clock(lambda *_: None)
        self.channel = Channel("host-a", Problems("host-a"), clock, lambda reason: None)
        self.channel.open(self, b"")

    def send(self, data: bytes) -> None:
        self.data += data

    def messages(self) -> list[bytes]:
        """What was sent since the last look."""
        self.channel.flush()
        found, self.data = wire.split(self.data)[0], b""
        return found


def changed(routes: int) -> Changes:
    return Changes(routes=[(0x0A000000 + (n << 8), 24, 1) for n in range(routes)])


def test_what_was_remembered_is_deleted_once() -> None:
    sent = Sent()
    flows = KeptExactFlows(sent.channel)
    made = [Flow(0, 20000, match(in_port=n, dl_type=0x800), (output(2),)) for n in (1, 3)]
    for flow in made:
        flows.made(build.flow_mod_of10(flow))
    flows.made(build.packet_out(b"to the VM", (output(3),)))
    flows.follow(1, RouterState(), changed(1))
    deleted = sent.messages()
    wanted = {
        build.flow_mod_of10(flow, wire.FlowModCommand.DELETE_STRICT)[build.MATCH10] for flow in made
    }
    assert {message[build.MATCH10] for message in deleted} == wanted
    assert sent.channel.flow_mods == 2
    flows.forget()
    assert sent.messages() == []


def test_no_more_is_remembered_than_can_be() -> None:
    sent = Sent()
    flows = KeptExactFlows(sent.channel)
    for n in range(MAX_KEPT + 1):
        flows.made(build.flow_mod_of10(Flow(0, 20000, match(in_port=1, dl_src=n), (output(2),))))
    sent.messages()
    assert sent.channel.flow_mods == MAX_KEPT + 1


def test_by_cookie_few_changes_delete_what_follows_from_them_and_many_all_of_the_router() -> None:
    sent = Sent()
    flows = CookieExactFlows(sent.channel)
    state = RouterState()
    flows.follow(7, state, changed(MANY))
    assert len(sent.messages()) == MANY
    flows.follow(7, state, changed(MANY + 1))
    (one,) = sent.messages()
    flows.forget(7)
    assert sent.messages() == [one]
    flows.forget()
    (whole,) = sent.messages()
    assert whole != one
