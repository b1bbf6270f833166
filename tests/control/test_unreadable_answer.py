"""A statistics reply that cannot be read is no answer, and whoever asked is told so at once."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

from tests.written_switch import PlayedHost
from xenflow.control.component import Component
from xenflow.openflow import wire
from xenflow.openflow.statistics import FlowStats
from xenflow.switch.channel import NotAnsweredError

_OFPST_FLOW = 1


def broken(xid: int) -> bytes:
    """A reply whose flow is longer than the message."""
    body = struct.pack("!HHHBB", _OFPST_FLOW, 0, 500, 0, 0)
    return struct.pack("!BBHI", 1, wire.MessageType.STATS_REPLY, 8 + len(body), xid) + body


def test_who_asked_is_told_at_once() -> None:
    host = PlayedHost()
    connection = object()
    component: Any = SimpleNamespace(_connections={connection: host.switch}, table=host.table)
    host.wire.deaf = {wire.MessageType.STATS_REQUEST}
    answers: list[list[FlowStats] | NotAnsweredError] = []
    host.switch.reader.stats(answers.append)
    (asked,) = host.wire.unanswered
    xid = int.from_bytes(asked[4:8], "big")
    assert Component._message(component, connection, broken(xid)) is True
    (answer,) = answers
    assert isinstance(answer, NotAnsweredError) and "cannot be read" in str(answer)
    assert any("cannot be read" in words for words in host.switch.problems.of())
    host.now += 60.0
    host.wire.look()
    assert host.switch.channel.silence.why == "", "it owes nothing"
    assert Component._message(component, connection, broken(xid)) is False, "nobody has asked"


def test_a_switch_whose_table_cannot_be_read_is_read_again() -> None:
    host = PlayedHost()
    connection = object()
    component: Any = SimpleNamespace(_connections={connection: host.switch}, table=host.table)
    host.wire.deaf = {wire.MessageType.STATS_REQUEST}
    said: list[str | None] = []
    host.switch.read_again()
    host.switch.promises.confirmed(said.append)
    asked = host.wire.unanswered.pop()
    Component._message(component, connection, broken(int.from_bytes(asked[4:8], "big")))
    (reason,) = said
    assert reason is not None and "cannot be read" in reason
    host.wire.deaf = set()
    for _ in range(2):  # until nothing is said of it any more, and until it is read again
        host.wire.pass_time()
    assert host.switch.live and not host.switch.jobs.busy
