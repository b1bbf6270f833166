"""What the planner notes for people: of changes, of moves, and how much it keeps."""

from __future__ import annotations

from typing import Any

import pytest

from tests.planner.test_planner_service import MORE, PAPER, TEXT, Rig
from tests.store.memory_store import MemoryStore
from xenflow.model.placement import at_home
from xenflow.planner import events
from xenflow.planner.service import PlannerService
from xenflow.store import network_file, placement_rows
from xenflow.store.schema import Role, StoreWriter
from xenflow.store.transaction import Committed, Delete, Insert, Update, equal


@pytest.fixture
def rig() -> Rig:
    return Rig()


def noted(rig: Rig, planner: PlannerService, since: int = 0) -> list[tuple[str, str, str]]:
    rig.settle(planner)
    found = rig.look(planner, "events", since=since)["events"]
    return [(event["what"], event["words"], event["outcome"]) for event in found]


def test_what_came_of_changes_is_noted(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert noted(rig, planner) == [("planner", "", "begun")]
    assert rig.ask(planner, MORE, dry_run=True)["ok"]
    assert rig.ask(planner, MORE)["change"] == 2
    assert rig.ask(planner, MORE)["change"] == 0  # nothing
    assert not rig.ask(planner, TEXT.replace("vlan = 101", "vlan = 111"))["ok"]
    assert rig.ask(planner, TEXT, confirm_s=5)["change"] == 3
    rig.settle(planner, for_s=7.0)
    assert rig.ask(planner, TEXT, confirm_s=5)["change"] == 5
    assert rig.confirm(planner)["ok"]
    found = noted(rig, planner, since=1)
    assert [(what, outcome) for what, _, outcome in found] == [
        ("change 2", "made"),
        ("change", "refused"),
        ("change 3", "made"),
        ("change 4", "made"),
        ("change 5", "made"),
        ("change 5", "confirmed"),
    ]
    assert found[0][1] == "a.toml: links +more"
    assert found[1][1].startswith("a.toml: links.left: vlan 101 cannot become 111")
    assert found[3][1] == "change 3 put back: links +more"
    event = rig.look(planner, "events", since=1)["events"][0]
    assert (event["number"], event["by"], event["from"]) == (2, "ada", "")


def test_what_cannot_be_put_back_is_noted_once(rig: Rig) -> None:
    """It is tried again and again, and would push out all other events."""
    planner, store = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE, confirm_s=5)["change"] == 2
    store.full = True
    rig.settle(planner, for_s=60.0)
    store.full = False
    rig.settle(planner, for_s=15.0)
    found = [(what, outcome) for what, _, outcome in noted(rig, planner, since=2)]
    assert found == [("change", "refused"), ("change 3", "made")]


def test_what_others_tell_is_noted_and_harms_no_terminal(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    words = "vr1 to \x1b[31mhost-b\n" + "x" * 600
    rig.look(planner, "event", what="migration", words=words, outcome="refused", by="eve from tcp")
    ((what, said, outcome),) = noted(rig, planner, since=1)
    assert (what, outcome) == ("migration", "refused")
    assert said.startswith(r"vr1 to \x1b[31mhost-b\nxxx") and len(said) == events.LONGEST
    event = rig.look(planner, "events", since=1)["events"][0]
    assert (event["by"], event["from"]) == ("eve", "tcp")


def test_the_oldest_are_forgotten(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT", 5)
    planner, _ = rig.planner(first=str(PAPER))
    for number in range(8):
        rig.look(planner, "event", what="test", words=str(number), outcome="done")
        rig.settle(planner)
    rows: Any = rig.database.tables["Event"].values()
    assert sorted(row["number"] for row in rows) == [5, 6, 7, 8, 9]
    assert [words for _, words, _ in noted(rig, planner)] == ["3", "4", "5", "6", "7"]
    again, _ = rig.planner("a")  # it goes on from there
    rig.settle(again, for_s=10.0)
    assert noted(rig, again, since=9) == [("planner", "", "begun")]


def test_too_many_at_once_harm_nobody(rig: Rig) -> None:
    planner, store = rig.planner(first=str(PAPER))
    store.away = True
    for number in range(3 * events.WAITING):
        rig.look(planner, "event", what="test", words=str(number), outcome="done")
    store.away = False
    rig.settle(planner, for_s=10.0)
    found = [words for what, words, _ in noted(rig, planner) if what == "test"]
    assert len(found) <= events.WAITING and found[-1:] == [str(3 * events.WAITING - 1)]


def test_moves_are_seen_to_begin_and_to_end(rig: Rig) -> None:
    """By what the hosts tell the store; nobody waits for it."""
    planner, _ = rig.planner(first=str(PAPER))
    rig.settle(planner)
    host = MemoryStore(rig.database, rig.loop.post, StoreWriter(Role.CONTROLLER, "host-a"))
    cells = {"host": "host-a", "element": "vr1", "owner": "ada@op:1", "term": 1}
    begun = Insert("Migration", {**cells, "under_way": True, "words": "vr1 to host-b"})
    assert isinstance(rig.loop.ask(host, begun), Committed)
    assert noted(rig, planner, since=1) == [("migration", "vr1 to host-b", "begun")]
    left = Update("Migration", equal(host="host-a"), {"under_way": False})
    assert isinstance(rig.loop.ask(host, left), Committed)
    words = "vr1 to host-b (`xenflow recover vr1`)"
    assert noted(rig, planner, since=2) == [("migration", words, "left unfinished")]
    router = network_file.load(PAPER).routers["vr1"]
    at = at_home("vr1", "host-a").step(forwarders=("host-b",), vm="host-b", leads_to="host-b")
    row = {"host": "host-a", "element": "vr1", "version": at.version}
    cell = placement_rows.to_cell(at, router)
    ended = (
        Insert("Placement", {**row, "placement": cell}),
        Delete("Migration", equal(host="host-a")),
    )
    assert isinstance(rig.loop.ask(host, *ended), Committed)
    assert noted(rig, planner, since=3) == [("migration", "vr1 is at host-b", "ended")]
