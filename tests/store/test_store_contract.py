"""What every store promises, held against the one in memory and against a real `ovsdb-server`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from functools import partial
from typing import Any

import pytest

from tests.store.store_rig import (
    CHANGES,
    CONTROLLER,
    LONG_S,
    MemorySite,
    OvsdbSite,
    Viewer,
    change,
    host,
    laid,
    needs_server,
    numbered,
    served,
    switch,
    wipe,
)
from xenflow.store.columns import Cell
from xenflow.store.network_store import RowChange, RowChanges, WatchedTable, WholeView
from xenflow.store.schema import PLANNER, Role, StoreWriter
from xenflow.store.server import StoreServer
from xenflow.store.transaction import (
    Committed,
    Comparison,
    Condition,
    Delete,
    Insert,
    Operation,
    RefusalReason,
    StoreMistakeError,
    StoreRow,
    Update,
    WriteRefused,
    equal,
    row_id,
    wait_for,
    wait_for_none,
)

Site = MemorySite | OvsdbSite


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StoreServer, ...]]:
    with served(tmp_path_factory.mktemp("ovsdb")) as site:
        yield site.servers


@pytest.fixture(params=["memory", pytest.param("ovsdb", marks=needs_server)])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    if request.param == "memory":
        yield MemorySite()
        return
    site = OvsdbSite(*request.getfixturevalue("one_server"))
    for writer in (PLANNER, CONTROLLER):
        assert isinstance(site.loop.ask(site.store(writer), *wipe(writer)), Committed)
    yield site
    site.close()


def refused(outcome: Any, reason: RefusalReason, operation: int | None = None) -> bool:
    return (
        isinstance(outcome, WriteRefused)
        and outcome.words != ""
        and (outcome.reason, outcome.operation) == (reason, operation)
    )


# --- transactions --------------------------------------------------------------------------------


def test_all_of_it_or_nothing(site: Site) -> None:
    store, ask = site.store(), site.loop.ask
    view = Viewer(store, CHANGES)
    outcome = ask(store, change(1), change(2), Update("Change", numbered(3), {"by": "x"}))
    assert outcome == Committed((1, 1, 0))
    held = wait_for_none("Change", numbered(1))
    outcome = ask(store, change(3), Delete("Change", numbered(1)), change(4), held, change(1))
    assert outcome == Committed((1, 1, 1, 0, 1)), "a wait sees what was done before it"
    outcome = ask(store, change(5), Delete("Change", ()), wait_for("Change", numbered(2), by=""))
    assert refused(outcome, RefusalReason.WAIT, 2)
    assert ask(store, change(6)) == Committed((1,))
    site.loop.run(lambda: 6 in view.of("Change", "number"))
    assert view.of("Change", "number") == [1, 2, 3, 4, 6]


def test_a_wait_refuses_unless_the_rows_hold_it(site: Site) -> None:
    store, ask = site.store(), site.loop.ask
    ask(store, change(1, by="a"), change(2, by="b"))
    wanted = Update("Change", numbered(1), {"state": "laid"})
    assert ask(store, wait_for("Change", numbered(1), by="a", state="wanted"), wanted) == Committed(
        (0, 1)
    )
    for wait in (
        wait_for("Change", numbered(1), by="a", state="wanted"),
        wait_for("Change", numbered(3), by="a"),
        wait_for("Change", (), by="a"),
        wait_for_none("Change", numbered(1)),
    ):
        assert refused(ask(store, wait, wanted), RefusalReason.WAIT, 0)
    assert ask(store, wait_for_none("Change", numbered(3))) == Committed((0,))


def test_an_index_refuses_a_double_and_allows_an_exchange(site: Site) -> None:
    store, ask = site.store(), site.loop.ask
    one, two = change(1), change(2)
    assert ask(store, one, two) == Committed((1, 1))
    assert refused(ask(store, change(2)), RefusalReason.CONSTRAINT)
    assert refused(
        ask(store, Update("Change", numbered(1), {"number": 2})), RefusalReason.CONSTRAINT
    )
    exchange = (
        Update("Change", row_id(one.uuid), {"number": 2}),
        Update("Change", row_id(two.uuid), {"number": 1}),
    )
    assert ask(store, *exchange) == Committed((1, 1))


def test_there_is_one_global_row(site: Site) -> None:
    store, ask = site.store(), site.loop.ask
    assert ask(store, Insert("Global", {"name": "n"})) == Committed((1,))
    assert refused(ask(store, Insert("Global", {"name": "m"})), RefusalReason.CONSTRAINT)


def test_an_insert_that_is_sent_twice_is_refused(site: Site) -> None:
    store, ask = site.store(), site.loop.ask
    row = Insert("Placement", {"host": "a", "element": "vr1"})
    controller = site.store(CONTROLLER)
    assert ask(controller, row) == Committed((1,))
    assert refused(ask(controller, row), RefusalReason.UUID, 0)
    one = change(1)
    assert refused(ask(store, one, one), RefusalReason.UUID, 1)


def test_a_row_that_is_referred_to_stays(site: Site) -> None:
    store, ask = site.store(), site.loop.ask
    machine = host("a")
    at_it = switch("a", machine.uuid)
    assert ask(store, at_it, machine) == Committed((1, 1)), "the order does not matter"
    gone = Delete("Host", equal(name="a"))
    assert refused(ask(store, gone), RefusalReason.REFERENCE)
    assert refused(ask(store, switch("b", host("b").uuid)), RefusalReason.REFERENCE)
    link = Insert("Virtual_Link", {"name": "l", "id": 1, "root": at_it.uuid})
    other = Insert("Virtual_Link", {"name": "m", "id": 2, "disjoint_from": frozenset({link.uuid})})
    assert ask(store, link, other) == Committed((1, 1))
    for table in ("Virtual_Link", "Switch"):
        assert refused(ask(store, Delete(table, equal(name="l")), gone), RefusalReason.REFERENCE)
    both = Delete("Virtual_Link", ())
    assert ask(store, both, Delete("Switch", ()), gone) == Committed((2, 1, 1))


def test_what_does_not_fit_the_schema_is_our_own_mistake(site: Site) -> None:
    store = site.store()
    for operation in (
        Insert("Nothing", {}),
        Insert("Change", {"number": 0, "state": "wanted"}),
        Insert("Change", {"number": 1 << 63, "state": "wanted"}),
        Insert("Change", {"number": True, "state": "wanted"}),
        Insert("Change", {"number": 1, "state": "done"}),
        Insert("Change", {"number": 1}),
        Insert("Change", {"number": 1, "state": "wanted", "what": ""}),
        Insert("Change", {"number": 1, "state": "wanted"}, uuid="one"),
        Insert("Change", {"number": 1, "state": "wanted", "by": "no UTF-8: \ud800"}),
        Insert("Laid_Link", {"name": "l", "id": 1, "at": "a"}),
        Insert("Switch", {"name": "s", **{"host": None}}),
        Insert("Switch_State", {"switch": "s"}),
        Update("Change", (), {}),
        Update("Change", (), {"_uuid": change(1).uuid}),
        Update("Change", equal(state="done"), {"by": ""}),
        Delete("Change", (Condition("by", Comparison.INCLUDES, "a"),)),
        wait_for("Change", (), what=1),
    ):
        with pytest.raises(StoreMistakeError):
            store.transact((change(7), operation), LONG_S, print)
    for watched in (
        WatchedTable("Nothing", ()),
        WatchedTable("Change", ("what",)),
        WatchedTable("Change", ("by",), equal(number="1")),
    ):
        with pytest.raises(StoreMistakeError):
            store.watch((watched,), LONG_S, print)
    with pytest.raises(StoreMistakeError, match="Change is written by a planner, not a controller"):
        site.store(CONTROLLER).transact((change(7),), LONG_S, print)
    view = Viewer(store, CHANGES)
    site.loop.run(lambda: view.events)
    assert view.rows == {"Change": {}}


def test_a_controller_writes_what_its_host_has_observed(site: Site) -> None:
    ask, own, other = site.loop.ask, site.store(CONTROLLER), StoreWriter(Role.CONTROLLER, "b")
    row: dict[str, Cell] = {"host": "a", "element": "vr1"}
    mine = equal(host="a")
    assert ask(own, Insert("Placement", row)) == Committed((1,))
    assert ask(own, Update("Placement", mine, {"version": 1})) == Committed((1,))
    for operation in (
        Insert("Placement", {"element": "vr2"}),
        Insert("Placement", {**row, "host": "b"}),
        Update("Placement", (), {"version": 1}),
        Update("Placement", equal(host="b"), {"version": 1}),
        Update("Placement", mine, {"host": "b"}),
        Delete("Placement", equal(element="vr1")),
    ):
        with pytest.raises(StoreMistakeError):
            own.transact((operation,), LONG_S, print)
    with pytest.raises(StoreMistakeError, match="only rows whose host is b can be meant"):
        site.store(other).transact((Delete("Placement", mine),), LONG_S, print)
    assert ask(own, Delete("Placement", (*mine, *equal(element="vr1")))) == Committed((1,))


# --- watches -------------------------------------------------------------------------------------


def test_the_whole_comes_first_and_then_every_change_in_order(site: Site) -> None:
    writer, reader = site.store(), site.store()
    first = change(1, by="a")
    site.loop.ask(writer, first)
    view = Viewer(reader, CHANGES, WatchedTable("Host", ("name",)))
    site.loop.run(lambda: view.events)
    row: StoreRow = {"number": 1, "by": "a", "state": "wanted"}
    assert view.events == [WholeView({"Change": {first.uuid: row}, "Host": {}})]
    for number in range(2, 40):
        writer.transact((change(number), Delete("Change", numbered(number - 1))), LONG_S, id)
    site.loop.run(lambda: view.of("Change", "number") == [39])
    seen: list[Any] = [
        c.after["number"]
        for event in view.events[1:]
        if isinstance(event, RowChanges)
        for c in event.changes
        if c.after
    ]
    assert seen == sorted(seen)
    assert seen[-1] == 39
    for event in view.events[1:]:
        assert isinstance(event, RowChanges)
        assert any(c.before for c in event.changes), "half a transaction was told"
        assert any(c.after for c in event.changes), "half a transaction was told"


def test_rows_come_change_and_leave_a_condition(site: Site) -> None:
    store, ask = site.store(), site.loop.ask
    at_b = Condition("at", Comparison.INCLUDES, frozenset({"b"}))
    view = Viewer(store, WatchedTable("Laid_Link", ("name", "at", "change"), (at_b,)))
    one, two = laid("one", 1, "a"), laid("two", 2, "a", "b")

    def row(name: str, at: str, change: int) -> StoreRow:
        return {"name": name, "at": frozenset(at), "change": change}

    def one_is(**cells: Any) -> Update:
        return Update("Laid_Link", row_id(one.uuid), cells)

    def of_one(before: StoreRow | None, after: StoreRow | None) -> RowChange:
        return RowChange("Laid_Link", one.uuid, before, after)

    site.loop.run(lambda: view.events)
    assert view.events == [WholeView({"Laid_Link": {}})]
    came, changed, other = row("one", "abc", 0), row("one", "abc", 1), row("one", "bd", 1)
    steps: list[tuple[Operation, RowChange | None]] = [
        (one, None),
        (two, RowChange("Laid_Link", two.uuid, None, row("two", "ab", 0))),
        (one_is(at=frozenset("abc")), of_one(None, came)),
        (one_is(change=1), of_one(came, changed)),
        (one_is(at=frozenset("bd")), of_one(changed, other)),
        (one_is(tree="not watched"), None),
        (one_is(at=frozenset("ad"), change=2), of_one(other, None)),
        (one_is(change=3), None),
        (Delete("Laid_Link", row_id(one.uuid)), None),
        (
            Delete("Laid_Link", row_id(two.uuid)),
            RowChange("Laid_Link", two.uuid, row("two", "ab", 0), None),
        ),
    ]
    for operation, expected in steps:
        told = len(view.events)
        assert ask(store, operation) == Committed((1,))
        if expected is not None:
            site.loop.run(partial(view.has_more, told))
            assert view.events[told:] == [RowChanges((expected,))]
    assert len(view.events) == 1 + sum(expected is not None for _, expected in steps)


def test_one_of_several_conditions_is_enough(site: Site) -> None:
    store, ask = site.store(), site.loop.ask
    any_of = (*numbered(1), Condition("by", Comparison.UNLIKE, ""), *equal(state="laid"))
    view = Viewer(store, WatchedTable("Change", ("number",), any_of))
    no_b = Condition("at", Comparison.EXCLUDES, frozenset("b"))
    others = Viewer(store, WatchedTable("Laid_Link", ("name",), (no_b,)))
    ask(store, change(1), change(2), change(3, by="x"), change(4), laid("l", 1, "a", "b"))
    ask(store, Update("Change", numbered(4), {"state": "laid"}), laid("m", 2, "a"))
    site.loop.run(lambda: view.of("Change", "number") == [1, 3, 4])
    site.loop.run(lambda: others.of("Laid_Link", "name") == ["m"])


def test_every_value_comes_back_as_it_was(site: Site) -> None:
    store, ask = site.store(), site.loop.ask
    machine = host('"ä\n\\u0041}{[]✓\U0001f600')
    at_it = switch("s", machine.uuid)
    link: dict[str, Cell] = {
        "name": "",
        "id": (1 << 63) - 1,
        "root": at_it.uuid,
        "pinned": frozenset(),
    }
    ask(store, machine, at_it, Insert("Virtual_Link", link), change(1), laid("l", 1, "", "ü"))
    hosts = WatchedTable("Host", ("name",))
    links = WatchedTable("Virtual_Link", ("name", "id", "root", "pinned"))
    laid_ones = WatchedTable("Laid_Link", ("at", "gone", "tree"))
    view = Viewer(store, hosts, links, laid_ones, WatchedTable("Switch", ("host", "nicira")))
    site.loop.run(lambda: view.events)
    assert [list(rows.values()) for rows in view.rows.values()] == [
        [machine.row],
        [link],
        [{"at": frozenset({"", "ü"}), "gone": False, "tree": ""}],
        [{"host": machine.uuid, "nicira": False}],
    ]
    site.loop.ask(store, Update("Virtual_Link", (), {"root": None}))
    site.loop.run(lambda: view.of("Virtual_Link", "root") == [None])


def test_nothing_that_is_handed_over_can_be_changed(site: Site) -> None:
    store = site.store()
    cells: dict[str, Cell] = {"number": 1, "state": "wanted"}
    insert = Insert("Change", cells)
    cells["number"] = 5
    site.loop.ask(store, insert)
    view = Viewer(store, CHANGES)
    site.loop.run(lambda: view.events)
    (event,) = view.events
    assert isinstance(event, WholeView)
    row: Any = event.rows["Change"][insert.uuid]
    assert row["number"] == 1
    for held in (row, event.rows["Change"], event.rows):
        with pytest.raises(TypeError):
            held["number"] = 2  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        event.rows = {}  # type: ignore[misc]


def test_a_watch_may_depend_on_what_it_is_not_told(site: Site) -> None:
    """As that of a host, which is not told of whom a row concerns beside it."""
    store, ask = site.store(), site.loop.ask
    any_of = (Condition("at", Comparison.INCLUDES, frozenset({"b"})), *equal(name="own"))
    view = Viewer(store, WatchedTable("Laid_Link", ("name", "change"), any_of))
    site.loop.run(lambda: view.events)
    one, own = laid("one", 1, "a"), laid("own", 2)

    def at(*names: str) -> Update:
        return Update("Laid_Link", row_id(one.uuid), {"at": frozenset(names)})

    for operation in (one, own, at("a", "b"), at("b", "c"), at("b"), at("a")):
        ask(store, operation)
    site.loop.run(lambda: len(view.events) >= 4)
    ask(store, Update("Laid_Link", row_id(own.uuid), {"change": 1}))
    site.loop.run(lambda: len(view.events) >= 5)
    row = {"name": "one", "change": 0}
    said = [(c.before, c.after) for event in view.events[1:] for c in changes_of(event)]
    assert said[1:3] == [(None, row), (row, None)]
    assert len(said) == 4, "where only others are concerned it is told nothing"


def changes_of(event: object) -> tuple[RowChange, ...]:
    assert isinstance(event, RowChanges)
    return event.changes


def test_a_watch_that_has_ended_is_told_nothing_more(site: Site) -> None:
    store, ask = site.store(), site.loop.ask
    view, other = Viewer(store, CHANGES), Viewer(store, CHANGES)
    site.loop.run(lambda: view.events and other.events)
    store.transact((change(1),), LONG_S, id)
    view.end()
    ask(store, change(2))
    site.loop.run(lambda: other.of("Change", "number") == [1, 2])
    assert len(view.events) == 1


def test_the_state_is_said(site: Site) -> None:
    store = site.store()
    site.loop.run(lambda: store.state().connected)
    state = store.state()
    assert (bool(state.leader), bool(state.cluster), state.words) == (True, True, "")
