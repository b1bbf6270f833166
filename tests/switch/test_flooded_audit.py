"""A switch that is written to all the time is looked at all the same."""

from __future__ import annotations

from typing import Any

import pytest

from tests.switch.test_refresh import Told
from xenflow.openflow.flow import Flow
from xenflow.routes.messages import NextHop, NextHopType, Op, Section, SectionKind
from xenflow.tables import layout

SECONDS = 30


class Flooded(Told):
    """A host whose router changes routes without end, and whose switch is never done."""

    def __init__(self) -> None:
        super().__init__()
        hops = [NextHop(n, NextHopType.VIA, 4, 2, n, n) for n in (1, 2)]
        self.change(Section(SectionKind.NEXTHOP, Op.SET, hops))
        self.host.wire.run()
        self.audit = self.switch.audit
        self.audit.tick(self.host.now)
        self.host.wire.run()
        self.late()

    def second(self, number: int) -> float:
        """Let one pass; returns how long ago the switch was looked at."""
        self.host.now += 1.0
        routes = [((10 << 24) + (n << 8), 24, 1 + number % 2) for n in range(100)]
        self.change(Section(SectionKind.ROUTE4, Op.SET, routes))
        self.audit.tick(self.host.now)
        self.change(Section(SectionKind.ROUTE4, Op.SET, routes[:1]))
        self.host.wire.run()
        if self._held:
            self.answer()
        assert self.switch.jobs.busy or self.switch.channel.in_flight_bytes
        looked_s = self.audit.row(self.host.now)["looked_s"]
        assert looked_s is not None
        return float(looked_s)


def test_it_is_said_truly_when_it_was_looked_at() -> None:
    told = Flooded()
    assert max(told.second(number) for number in range(SECONDS)) <= 1.0


def test_what_somebody_else_changes_meanwhile_is_put_right(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = Flooded()
    tables = told.host.wire.tables
    gone: Flow = next(flow for flow in tables if flow.table == layout.LINKS)
    told.second(0)
    tables.delete_strict(*gone.key)  # and the switch does not tell
    for number in range(1, 6):
        told.second(number)
    assert gone in set(tables) and told.audit.mended == 1
    (said,) = [r.getMessage() for r in caplog.records if "somebody else changes" in r.getMessage()]
    assert f"those of {told.switch.owner_of(gone.cookie)} first" in said and " link " in said


def test_small_tables_that_change_meanwhile_are_not_taken_for_looked_at() -> None:
    told = Flooded()
    for number in range(3):
        told.second(number)
    ask = told.switch.reader.count_request

    def changed_meanwhile() -> object:
        request = ask()
        told.switch.installed.edits += 1
        return request

    told.switch.reader.count_request = changed_meanwhile  # type: ignore[assignment, method-assign]
    looked = [told.second(number) for number in range(3, 8)]
    assert looked == sorted(looked) and looked[-1] >= 5.0


def test_who_reads_says_that_he_has_looked_where_each_table_stood_still() -> None:
    told = Flooded()
    told.audit.tells = False  # the switch tells nothing
    told.audit.looked_at = None
    reader, installed = told.switch.reader, told.switch.installed
    ask = reader.table_request

    def request(table: int, large: Any) -> Any:
        installed.edits += moves and table == layout.LINKS
        return ask(table, large)

    reader.table_request = request  # type: ignore[method-assign]
    for moves in (True, False):
        told.host.now += 60.0
        told.audit.tick(told.host.now)
        told.host.wire.run()
        assert (told.audit.looked_at is None) is moves
