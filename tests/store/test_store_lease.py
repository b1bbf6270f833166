"""A lease: one owner at a time, taken over where its beat stands still, and fenced."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.store.store_rig import (
    LONG_S,
    MemorySite,
    OvsdbSite,
    Viewer,
    change,
    needs_server,
    served,
)
from xenflow.store.lease import (
    LEASE_COLUMNS,
    LEASE_TABLE,
    RESTS_PER_LIFE,
    LeaseContender,
    LeaseNotHeldError,
)
from xenflow.store.network_store import NetworkStore, WatchedTable
from xenflow.store.transaction import (
    Committed,
    Insert,
    RefusalReason,
    Transaction,
    Wait,
    WriteOutcome,
    WriteRefused,
    WriteUnknown,
    equal,
)

Site = MemorySite | OvsdbSite
TTL_S = 3.0


@pytest.fixture(params=["memory", pytest.param("ovsdb", marks=needs_server)])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    if request.param == "memory":
        yield MemorySite()
        return
    with served(tmp_path) as site:
        yield site


class Process:
    """A contender with its store and its watch, and no clock: tests say what time it is."""

    def __init__(self, site: Site, owner: str) -> None:
        self.site = site
        self.store: NetworkStore = site.store()
        self.contender = LeaseContender("planner", owner, TTL_S)
        watched = WatchedTable(LEASE_TABLE, LEASE_COLUMNS, equal(name="planner"))
        self.view = Viewer(self.store, watched)
        site.loop.run(lambda: self.view.events)

    def sees(self, now: float) -> None:
        rows = list(self.view.rows[LEASE_TABLE].values())
        self.contender.row_is(rows[0] if rows else None, now)

    def acts(self, now: float) -> WriteOutcome | None:
        """Look, and write what is to be written."""
        self.sees(now)
        return self.writes(self.contender.turn(now), now)

    def writes(self, transaction: Transaction, now: float) -> WriteOutcome | None:
        if not transaction:
            return None
        outcome = self.site.loop.ask(self.store, *transaction)
        self.contender.answered(outcome, now)
        return outcome

    def has_seen(self, owner: Process) -> bool:
        return self.view.of(LEASE_TABLE, "owner") == [owner.contender.owner]


def refused(outcome: WriteOutcome | None) -> bool:
    return isinstance(outcome, WriteRefused)


def test_it_is_taken_kept_given_back_and_taken_over(site: Site) -> None:
    one, two = Process(site, "one"), Process(site, "two")
    assert one.acts(0) == Committed((1,))
    site.loop.run(lambda: one.view.rows == two.view.rows != {LEASE_TABLE: {}})
    assert one.contender.holds(0)
    assert one.acts(0.9) is None, "it has just beaten"
    assert two.acts(0) is None
    assert two.acts(2.9) is None
    assert one.acts(1.1) == Committed((0, 1))
    site.loop.run(lambda: two.view.of(LEASE_TABLE, "beat") == [2])
    assert two.acts(3.1) is None, "its beat has gone on"
    assert two.acts(6.0) is None
    assert not one.contender.holds(4.1), "it cannot know whether it still does"
    assert two.acts(6.1) == Committed((0, 1))
    assert two.contender.holds(6.1)
    assert refused(one.acts(6.2)) or not one.contender.holds(6.2)
    site.loop.run(lambda: one.view.of(LEASE_TABLE, "owner") == ["two"])
    assert one.acts(6.3) is None
    with pytest.raises(LeaseNotHeldError, match="one does not hold the lease planner"):
        one.contender.give_back()
    assert site.loop.ask(two.store, *two.contender.give_back()) == Committed((0, 1))
    site.loop.run(lambda: one.view.of(LEASE_TABLE, "owner") == [""])
    assert one.acts(6.4) == Committed((0, 1))
    site.loop.run(lambda: one.view.of(LEASE_TABLE, "term") == [3])


def test_a_stopped_owners_late_write_is_refused(site: Site) -> None:
    one, two = Process(site, "one"), Process(site, "two")
    one.acts(0)
    site.loop.run(lambda: two.view.rows[LEASE_TABLE])
    fence = one.contender.fence()
    assert site.loop.ask(one.store, fence, change(1)) == Committed((0, 1))
    two.acts(0)
    assert isinstance(two.acts(TTL_S), Committed)
    outcome = site.loop.ask(one.store, one.contender.fence(), change(2))
    assert isinstance(outcome, WriteRefused)
    assert (outcome.reason, outcome.operation) == (RefusalReason.WAIT, 0)
    assert site.loop.ask(two.store, two.contender.fence(), change(2)) == Committed((0, 1))


def test_every_race_is_won_once(site: Site) -> None:
    """Three clients, each over a connection of its own, send their takeovers of a stopped owner's
    lease before any of them has an answer."""
    processes = contenders = [Process(site, f"p{i}") for i in range(4)]
    now = 0.0
    for term in range(1, 301):
        for process in processes:
            process.sees(now)
        now += TTL_S
        winner = race(contenders, now)
        assert [one for one in processes if one.contender.holds(now)] == [winner]
        for process in processes:
            site.loop.run(partial(process.has_seen, winner))
            assert process.view.of(LEASE_TABLE, "term") == [term]
        contenders = [one for one in processes if one is not winner]


def race(contenders: list[Process], now: float) -> Process:
    """All of them at once; the one that won."""
    outcomes: dict[Process, WriteOutcome] = {}
    for process in contenders:
        done = partial(outcomes.__setitem__, process)
        process.store.transact(process.contender.turn(now), LONG_S, done)
    contenders[0].site.loop.run(lambda: len(outcomes) == len(contenders))
    for process, outcome in outcomes.items():
        process.contender.answered(outcome, now)
    (winner,) = [one for one, outcome in outcomes.items() if isinstance(outcome, Committed)]
    return winner


# --- without a store -----------------------------------------------------------------------------


def row(owner: str, term: int, beat: int) -> dict[str, str | int]:
    return {"name": "planner", "owner": owner, "term": term, "beat": beat}


def test_an_unknown_outcome_is_looked_at_and_not_repeated() -> None:
    contender = LeaseContender("planner", "me", TTL_S)
    assert contender.turn(0) == (), "nothing is known yet"
    contender.row_is(row("other", 4, 9), 0)
    assert contender.turn(TTL_S - 0.1) == ()
    assert contender.turn(TTL_S)
    assert contender.turn(TTL_S + 9) == (), "an outcome is awaited"
    contender.answered(WriteUnknown(""), TTL_S + 9)
    assert not contender.holds(TTL_S + 9)
    assert contender.turn(TTL_S + 9.1) == ()
    contender.row_is(row("me", 5, 10), TTL_S + 9.2)  # it was written
    assert not contender.holds(TTL_S + 9.2), "when it was written is not known"
    assert contender.turn(TTL_S + 9.3)
    contender.answered(Committed((0, 1)), TTL_S + 9.4)
    assert contender.holds(TTL_S + 9.4)


def test_it_is_held_from_when_the_beat_was_sent() -> None:
    contender = LeaseContender("planner", "me", TTL_S)
    contender.row_is(None, 0)
    contender.turn(0)
    contender.answered(Committed((1,)), TTL_S - 0.2)
    assert contender.holds(TTL_S - 0.1)
    assert not contender.holds(TTL_S), "a contender may have seen it as soon as it was sent"


def test_a_watch_that_is_behind_takes_nothing_back() -> None:
    contender = LeaseContender("planner", "me", TTL_S)
    contender.row_is(None, 0)
    contender.turn(0)
    contender.answered(Committed((1,)), 0.1)
    contender.row_is(None, 0.2)
    assert contender.holds(0.2)
    contender.row_is(row("me", 1, 1), 0.3)
    contender.row_is(None, 0.4)  # it was deleted since
    assert not contender.holds(0.4)


@pytest.mark.parametrize("known", [None, row("", 3, 7), row("me", 3, 7)])
@pytest.mark.parametrize(
    "outcome", [WriteRefused(RefusalReason.CONSTRAINT, None, ""), WriteUnknown("")]
)
def test_who_was_not_written_rests(
    known: dict[str, str | int] | None, outcome: WriteOutcome
) -> None:
    contender = LeaseContender("planner", "me", TTL_S)
    contender.row_is(known, 10)
    tries, now = 0, 10.0
    while now < 10 + TTL_S:
        if contender.turn(now):
            tries += 1
            contender.answered(outcome, now)
        contender.row_is(known, now)
        now += 0.001
    assert 2 <= tries <= RESTS_PER_LIFE + 1
    contender.row_is(row("", 4, 8), now)
    assert contender.turn(now), "what the watch says ends the rest"


def test_a_row_that_is_deleted_is_contended_for_anew() -> None:
    """A server says what a transaction has changed before it answers it."""
    contender = LeaseContender("planner", "me", TTL_S)
    contender.row_is(row("", 3, 7), 0)
    contender.turn(0)
    contender.row_is(row("me", 4, 8), 0.1)
    contender.answered(Committed((0, 1)), 0.1)
    contender.row_is(None, 0.2)
    assert not contender.holds(0.2)
    assert isinstance(contender.turn(0.2)[0], Insert)


def test_who_was_wrong_about_the_row_believes_the_watch() -> None:
    """It was deleted before the watch had said what was written here, and says nothing more."""
    contender = LeaseContender("planner", "me", TTL_S)
    contender.row_is(None, 0)
    contender.turn(0)
    contender.answered(Committed((1,)), 0.1)
    contender.row_is(None, 0.2)
    assert isinstance(contender.turn(1.1)[0], Wait)
    contender.answered(WriteRefused(RefusalReason.WAIT, 0, ""), 1.2)
    assert not contender.holds(1.2)
    assert isinstance(contender.turn(1.2 + TTL_S)[0], Insert)


def test_an_answer_that_is_behind_the_watch_takes_nothing_back() -> None:
    contender = LeaseContender("planner", "me", TTL_S)
    contender.row_is(None, 0)
    contender.turn(0)
    contender.row_is(row("me", 1, 1), 0.1)
    contender.row_is(row("other", 2, 2), 0.2)
    contender.answered(Committed((1,)), 0.3)
    assert not contender.holds(0.3)
    assert contender.turn(0.2 + TTL_S - 0.1) == ()


def test_a_refused_takeover_waits_for_another_life() -> None:
    contender = LeaseContender("planner", "me", TTL_S)
    contender.row_is(row("other", 1, 1), 0)
    assert contender.turn(TTL_S)
    contender.answered(WriteRefused(RefusalReason.WAIT, 0, ""), TTL_S)
    assert contender.turn(2 * TTL_S - 0.1) == ()
    assert contender.turn(2 * TTL_S)
