"""A switch that answers some of what it is asked is given up for what it does not answer."""

from __future__ import annotations

import pytest

from tests.written_switch import PlayedHost
from xenflow.openflow import wire
from xenflow.openflow.statistics import StatsReply
from xenflow.switch.refused import READ_S
from xenflow.switch.silence import SILENT_S


class AskedHost(PlayedHost):
    """Whose audit asks every second."""

    def pass_time(self, seconds: float) -> None:
        """Second by second."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.5
            self.switch.audit.tick(self.now)
            self.wire.run()
            self.wire.look()


@pytest.mark.parametrize("deaf", [wire.MessageType.BARRIER_REQUEST, wire.MessageType.STATS_REQUEST])
def test_a_switch_that_answers_only_some_questions_is_given_up(
    deaf: wire.MessageType,
) -> None:
    host = AskedHost()
    host.wire.deaf = {deaf}
    said: list[str | None] = []
    if deaf is wire.MessageType.BARRIER_REQUEST:
        host.switch.promises.confirmed(said.append)
    else:
        host.switch.read_again()
        host.switch.promises.confirmed(said.append)
    host.pass_time(SILENT_S - 1)
    assert said == []
    host.pass_time(2)
    (reason,) = said
    assert reason is not None and "the switch has not answered for 20 s" in reason
    host.pass_time(2 * SILENT_S)
    host.switch.promises.in_force(said.append)
    assert said[1] == reason, "nobody waits for it again"
    assert reason.endswith(host.switch.problems.of()[0])
    host.wire.hear()
    assert host.switch.problems.of() == []
    host.switch.promises.confirmed(said.append)
    host.wire.run()
    assert said[2:] == [None]


def test_what_a_switch_refuses_it_is_asked_once_until_it_answers() -> None:
    """Or, where it never does, questions would pile up for days."""
    host = AskedHost()
    host.wire.deaf = {wire.MessageType.STATS_REQUEST}

    def look() -> int:
        host.now += READ_S
        host.table._refused.tick(host.now)
        return len(host.wire.unanswered)

    assert [look() for _ in range(3)] == [1, 1, 1]
    host.wire.hear()
    host.wire.deaf = {wire.MessageType.STATS_REQUEST}
    assert look() == 1
    host.wire.attach(host.switch, PlayedHost.PORTS)
    host.wire.hear()
    host.wire.deaf = {wire.MessageType.STATS_REQUEST}
    assert host.switch.live and look() == 1, "the connection went, and with it the question"


def test_a_slow_switch_that_answers_in_order_is_waited_for() -> None:
    """Each question waits for minutes until those before it are answered."""
    host = AskedHost()
    switch, written = host.switch, host.wire
    said: list[str | None] = []
    parts: list[object] = []
    written.deaf = {wire.MessageType.BARRIER_REQUEST, wire.MessageType.STATS_REQUEST}
    switch.reader.stats(parts.append)
    for _ in range(6):
        switch.once_told(said.append)
    for _ in range(10):  # of many flows, in parts
        host.pass_time(SILENT_S - 2)
        (first, *_) = written.unanswered
        switch.channel.on_stats(StatsReply(int.from_bytes(first[4:8], "big"), True, []))
    assert parts == [] and said == []
    while len(said) < 6:
        host.pass_time(SILENT_S - 2)
        first = written.unanswered.pop(0)
        written.deaf, heard = set(), written.deaf
        written.send(first)
        written.run()
        written.deaf = heard
        assert switch.problems.of() == []
    assert len(parts) == 1 and said == [None] * 6
