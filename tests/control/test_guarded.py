"""What others say or do ends no tick, floods no log, and is not taken for the switch's manners."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from tests.written_switch import PlayedHost
from xenflow.openflow.flow import Flow, match, output, text
from xenflow.openflow.monitor import UpdateEvent
from xenflow.openflow.statistics import FlowStats
from xenflow.switch.audit import ACCEPTED_S
from xenflow.switch.problems import LINES, Problems
from xenflow.tables import cookies, layout


class AuditedHost(PlayedHost):
    """Whose tables somebody else changes, too."""

    def look(self, *again: Flow, tells: bool = False) -> None:
        """The audit reads every small table and finds these flows in it each time, whatever was
        written; `tells`: the switch says that somebody else puts them there."""
        audit = self.switch.audit
        steps = audit._look(100.0)
        keys = {flow.key for flow in again}
        tables = [table for table in range(len(layout.TABLES)) if table != layout.ROUTES]
        asked: list[int] = []
        real = self.switch.reader.table_request

        def request(table: int, large: Any) -> Any:
            asked.append(table)
            return real(table, large)

        self.switch.reader.table_request = request  # type: ignore[method-assign]
        answer: Any = None
        try:
            while True:
                steps.send(answer)
                flows = [
                    *(f for f in self.wire.tables if f.table == asked[-1] and f.key not in keys),
                    *(f for f in again if f.table == asked[-1]),
                ]
                if tells:
                    for flow in again:
                        audit._small(UpdateEvent.ADDED, flow)
                answer = [FlowStats(flow, 0, 0, 0, 0) for flow in flows]
        except StopIteration:
            pass
        assert set(asked) == set(tables)


def test_a_stray_flow_that_comes_back_at_once_ends_no_look() -> None:
    host = AuditedHost()
    host.look(Flow(7, 77, match(in_port=9), (), cookies.of(7)))
    assert host.switch.audit.forms.accepted == {}


def test_what_somebody_else_puts_back_is_not_how_the_switch_reads() -> None:
    host = AuditedHost()
    mine = next(flow for flow in host.wire.tables if flow.table == layout.LINKS)
    other = Flow(mine.table, mine.priority, mine.match, (output(9),), 0)
    host.look(other, tells=True)
    assert host.switch.audit.forms.accepted == {}
    host.switch.audit._seen.clear()
    host.look(other)
    assert host.switch.audit.forms.accepted == {mine.key: (mine, other)}


def test_that_a_flow_reads_otherwise_is_said_while_it_is_so() -> None:
    host = AuditedHost()
    audit, problems = host.switch.audit, host.switch.problems
    one, two = [flow for flow in host.wire.tables if flow.table == layout.LINKS][:2]
    odd = {flow: replace(flow, actions=()) for flow in (one, two)}
    host.look(*odd.values())
    (words,) = problems.of()
    assert "and others otherwise" in words
    host.look(odd[one])  # the other one is as it should be
    assert list(audit.forms.accepted) == [one.key]
    (words,) = problems.of()
    assert words.startswith(f"the switch reads {text(one)} back as {text(odd[one])}: ")
    audit.tells, audit._read_at, audit._reading = True, 100.0, False
    audit.tick(100.0 + ACCEPTED_S)
    assert audit._reading, "it is looked at now and then, or its end would not be seen"

    wanted = replace(one, actions=(output(7),))
    host.switch.installed.write(True, wanted)
    audit.tick(200.0)
    assert audit.forms.accepted == {} and problems.of() == []
    mended = audit.mended
    host.look(odd[one])
    assert audit.mended > mended, "what is wanted now was never seen to read so"


def test_a_part_that_fails_does_not_end_the_tick(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the timer would end every router's heartbeats."""
    host = PlayedHost()
    ticked: list[float] = []

    def fail(now: float) -> None:
        raise KeyError(now)

    monkeypatch.setattr(host.table._refused, "tick", fail)
    monkeypatch.setattr(host.switch.audit, "tick", ticked.append)
    for now in (1.0, 2.0, 3.0):
        host.table.tick(now)
    assert ticked == [1.0, 2.0, 3.0]
    assert len([r for r in caplog.records if r.name == "xenflow.guarded"]) == 1


def test_a_problem_that_comes_and_goes_does_not_flood_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    problems = Problems("here")
    with caplog.at_level(logging.INFO):
        for number in range(1000):
            problems.begin("message", f"refused: {number}", "vr1")
            if number % 3 == 0:
                problems.end("message", "vr1")
        problems.begin("table", "full", "vr2")
    assert len(caplog.records) <= LINES + 2
    assert problems.of("vr1") == [] and problems.of("vr2") == ["full"]


def test_a_router_that_talks_nonsense_does_not_flood_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = PlayedHost()
    for number in range(1000):
        outcome = host.table.heard("vr1", b"peer", [b"nonsense", b"%d" % number], local=True)
        assert outcome.error is not None
    assert 1 <= len(caplog.records) <= LINES
    assert "refused" in host.table.problems_of("vr1")[0]
