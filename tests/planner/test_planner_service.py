"""The planner beside a store in memory: what it writes, what it refuses, and what it answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.store.memory_store import MemoryDatabase, MemoryStore
from tests.store.store_rig import Loop
from xenflow.model import management as mg
from xenflow.model.network import Network, Router
from xenflow.model.placement import Placement, at_home
from xenflow.planner.__main__ import main
from xenflow.planner.service import ANSWER_S, FILL_S, LEASE_S, PlannerService
from xenflow.store import laid_file, network_file, placement_rows
from xenflow.store.network_rows import LAID, by_name, laid_entries
from xenflow.store.network_store import WatchedTable
from xenflow.store.network_text import to_text
from xenflow.store.schema import PLANNER, Role, StoreWriter
from xenflow.store.transaction import (
    Committed,
    Delete,
    Insert,
    RefusalReason,
    Transaction,
    Update,
    WriteOutcome,
    WriteRefused,
    WriteUnknown,
    equal,
)

PAPER = Path(__file__).parents[2] / "conf" / "paper.toml"
TEXT = PAPER.read_text()
MORE = TEXT + '\n[links.more]\nid = 77\nvlan = 177\nroot = "host-a"\n'
NOTHING = Network("paper", {}, {}, {}, {}, {})


class FaultyStore(MemoryStore):
    """One whose answers may be lost: `lose` of them, after the transaction was `written` or not."""

    lose = 0
    written = True
    tried = 0
    away = False
    full = False

    def transact(
        self, transaction: Transaction, deadline_s: float, done: Callable[[WriteOutcome], Any]
    ) -> None:
        changes = any(isinstance(one, Insert) and one.table == "Change" for one in transaction)
        self.tried += changes
        if self.full and changes:
            words = "I/O error: no space left on the device"
            self._post(done, WriteRefused(RefusalReason.OTHER, None, words))
            return
        if self.away:
            words = "no leader was reached"
            self._post(done, WriteRefused(RefusalReason.UNREACHABLE, None, words))
            return
        if not changes or not self.lose:
            super().transact(transaction, deadline_s, done)
            return
        self.lose -= 1
        unknown = WriteUnknown("the connection was lost")
        if self.written:
            super().transact(transaction, deadline_s, lambda _: done(unknown))
        else:
            self._post(done, unknown)


class Rig:
    """One store, its clock, and planners."""

    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.loop = Loop()
        self.now = 100.0
        self.today = 1e9
        self.answers: list[dict[str, Any]] = []

    def planner(self, name: str = "a", first: str = "") -> tuple[PlannerService, FaultyStore]:
        store = FaultyStore(self.database, self.loop.post, PLANNER)
        made = PlannerService(
            store, f"tcp://{name}:1", lambda: self.now, lambda: self.today + self.now, first
        )
        self.settle(made)
        return made, store

    def settle(self, *planners: PlannerService, for_s: float = 0.5) -> None:
        """Let time pass, and everything happen that it asks for."""
        end = self.now + for_s
        while self.now < end:
            self.now += 0.1
            for planner in planners:
                planner.tick()
            self.drain()

    def drain(self) -> None:
        self.loop.post(lambda _: done.append(1), None)
        done: list[int] = []
        self.loop.run(lambda: done)

    def ask(self, planner: PlannerService, text: str, **arguments: Any) -> dict[str, Any]:
        before = len(self.answers)
        self.send(planner, text, **arguments)
        for _ in range(200):
            if len(self.answers) > before:
                break
            self.settle(planner, for_s=0.1)
        assert len(self.answers) == before + 1
        return self.answers[-1]

    def look(self, planner: PlannerService, verb: str, **arguments: Any) -> dict[str, Any]:
        """What changes nothing is answered at once."""
        request = mg.request(verb, "1", **arguments)
        planner.take(request, lambda answer: self.answers.append(json.loads(answer)))
        return self.answers[-1] if self.answers else {}

    def confirm(self, planner: PlannerService, **arguments: Any) -> dict[str, Any]:
        self.look(planner, "confirm", **arguments)
        self.drain()
        return self.answers[-1]

    def send(self, planner: PlannerService, text: str, **arguments: Any) -> None:
        frame = mg.request("apply", "1", by="ada", text=text, file="a.toml", **arguments)
        planner.take(frame, lambda answer: self.answers.append(json.loads(answer)))

    def laid(self) -> Network:
        rows = {table: self.database.tables[table] for table in LAID}
        return laid_entries(by_name(rows), NOTHING)

    def changes(self) -> dict[int, dict[str, Any]]:
        rows = self.database.tables["Change"].values()
        return {row["number"]: dict(row) for row in rows}  # type: ignore[misc]

    def host(self, name: str) -> MemoryStore:
        """The store, as the controller of a host has it."""
        return MemoryStore(self.database, self.loop.post, StoreWriter(Role.CONTROLLER, name))

    def placed(self, host: str, router: Router, placement: Placement) -> None:
        """A host tells where a router is."""
        cells: dict[str, Any] = {
            "host": host,
            "element": router.name,
            "version": placement.version,
            "placement": placement_rows.to_cell(placement, router),
        }
        row = Insert("Placement", cells)
        assert isinstance(self.loop.ask(self.host(host), row), Committed)

    def migrating(self, host: str, router: str, under_way: bool = True) -> None:
        """A host tells that a router is being moved; "": that none is."""
        own = Delete("Migration", equal(host=host))
        cells: dict[str, Any] = {"host": host, "element": router, "owner": "ada:1", "term": 3}
        row = Insert("Migration", {**cells, "under_way": under_way, "words": "a move"})
        rows = (own, row) if router else (own,)
        assert isinstance(self.loop.ask(self.host(host), *rows), Committed)

    def in_force(self, change: int, but: str = "") -> None:
        """All switches have come so far, `but` one."""
        store = MemoryStore(self.database, self.loop.post, StoreWriter(Role.CONTROLLER, "h"))
        there = {row["switch"] for row in self.database.tables["Switch_State"].values()}
        for row in list(self.database.tables["Laid_Switch"].values()):
            name = row["name"]
            if name == but:
                continue
            cells = {"host": "h", "switch": name, "cluster": store.state().cluster}
            if name in there:
                where = equal(host="h", switch=name)
                one: Any = Update("Switch_State", where, {"in_force": change})
            else:
                one = Insert("Switch_State", {**cells, "in_force": change})
            assert isinstance(self.loop.ask(store, one), Committed)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_an_empty_store_becomes_the_file(rig: Rig) -> None:
    rig.planner(first=str(PAPER))
    network = network_file.load(PAPER)
    assert rig.laid() == network
    assert rig.changes()[1]["by"] == "planner"


def test_what_could_not_fill_the_store_is_tried_again(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """There was no file, then it was wrong, then the store was away."""
    first = tmp_path / "first.toml"
    planner, store = rig.planner(first=str(first))
    rig.settle(planner, for_s=2 * FILL_S)
    said = [r.message for r in caplog.records if "is not filled" in r.message]
    assert len(said) == 1 and "No such file" in said[0]
    first.write_text("[network]")
    rig.settle(planner, for_s=FILL_S)
    first.write_text(TEXT)
    store.lose, store.written = 10**6, False
    rig.settle(planner, for_s=2 * FILL_S)
    assert not rig.changes()
    store.lose = 0
    rig.settle(planner, for_s=FILL_S + ANSWER_S)
    assert list(rig.changes()) == [1] and rig.laid() == network_file.load(PAPER)


@pytest.mark.parametrize(
    "listen", ["tcp://0.0.0.0:1", "tcp://*:1", "tcp://[::]:1", "ipc:///x", "x"]
)
def test_where_no_controller_could_ask_it_is_refused(
    listen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--store=tcp:127.0.0.1:1", f"--listen={listen}"])
    assert ended.value.code == 2 and "as controllers are to reach it" in capsys.readouterr().err


def test_a_store_that_has_a_network_keeps_it(rig: Rig, tmp_path: Path) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    planner.end()
    rig.settle(planner)
    other = tmp_path / "other.toml"
    other.write_text(MORE)
    rig.planner("b", first=str(other))
    assert rig.laid() == network_file.load(PAPER) and list(rig.changes()) == [1]


def test_one_link_more(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    dry = rig.ask(planner, MORE, dry_run=True)
    assert dry["ok"] and (dry["change"], dry["changed"]) == (0, {"links": {"added": ["more"]}})
    assert list(rig.changes()) == [1]
    answer = rig.ask(planner, MORE)
    assert (answer["change"], answer["changed"]) == (2, {"links": {"added": ["more"]}})
    grown = network_file.parse(MORE, "a.toml")[0]
    assert rig.laid() == grown and answer["digest"] == grown.digest
    change = rig.changes()[2]
    assert (change["by"], change["when"] - 10**9) == ("ada", int(rig.now))
    assert json.loads(change["after"])["Laid_Link"].keys() == {"more"}
    assert json.loads(change["before"]) == {"Laid_Link": {"more": None}}
    again = rig.ask(planner, MORE)
    assert again["ok"] and (again["change"], again["changed"]) == (0, {})
    assert list(rig.changes()) == [1, 2]


def test_what_cannot_change_is_refused_and_nothing_is_written(rig: Rig) -> None:
    planner, store = rig.planner(first=str(PAPER))
    tried = store.tried
    answer = rig.ask(planner, TEXT.replace("vlan = 101", "vlan = 111"))
    assert answer["error"]["code"] == "refused"
    assert "links.left: vlan 101 cannot become 111" in answer["error"]["message"]
    answer = rig.ask(planner, TEXT.replace("vlan = 101", "vlan = true"))
    assert answer["error"]["message"].startswith("a.toml:")
    assert store.tried == tried


def test_what_cannot_be_written_or_read_ends_no_planner(rig: Rig) -> None:
    """A file whose text no store takes, and a row that somebody wrote by hand."""
    planner, _ = rig.planner(first=str(PAPER))
    rooted = 'proof = "revalidator"\novs_rundir = "/run/\\u0000"'
    spare = (
        f'[datapaths.spare]\nkind = "host"\ndpid = "0000000000000009"\n{rooted}\n'
        'controller = "host-a"\nhypervisor = "xl:ssh://10.0.0.9"\n'
    )
    answer = rig.ask(planner, TEXT.replace("[cables]", f"{spare}\n[cables]"))
    assert not answer["ok"] and "ovs_rundir" in answer["error"]["message"]
    assert rig.ask(planner, MORE)["change"] == 2
    assert rig.ask(planner, TEXT)["change"] == 3
    for row in rig.database.tables["Laid_Link"].values():
        if row["gone"]:
            row["labels"] = "by hand"
    planner, _ = rig.planner("b")
    rig.settle(planner, for_s=LEASE_S + 1)
    answer = rig.ask(planner, MORE.replace("links.more", "links.other"))
    assert answer["error"]["code"] == "internal"
    assert "JSONDecodeError" in answer["error"]["message"]
    assert rig.ask(planner, TEXT)["ok"]


def test_rows_that_make_no_network_end_no_planner(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.planner(first=str(PAPER))
    rig.migrating("host-a", "vr1")
    (row,) = (r for r in rig.database.tables["Laid_Link"].values() if r["name"] == "left")
    row["access"] = "by hand"
    planner, _ = rig.planner("b")
    rig.settle(planner, for_s=LEASE_S + 3)
    said = [r.message for r in caplog.records if "the store's rows cannot be read" in r.message]
    assert said and len(said) == len(set(said))  # once each
    answer = rig.ask(planner, MORE)
    assert not answer["ok"] and "Laid_Link 'left'" in answer["error"]["message"]
    assert rig.look(planner, "history")["ok"]


@pytest.mark.parametrize(
    ("cluster", "since", "words"),
    [
        ("memory", 1, "somebody else has changed the network: change 2 by ada, links +more: look"),
        ("memory", 9, "controllers are at change 9, and the store is at 2"),
        ("other", 2, "controllers follow cluster other, and this planner's store is memory"),
        ("", 0, "network: change 2 by ada, links +more; change 1 by planner: look"),
    ],
)
def test_what_was_not_looked_at_is_not_changed(
    rig: Rig, cluster: str, since: int, words: str
) -> None:
    """Somebody else was first; the store was put back from a copy, or made anew; or the request
    comes late."""
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE, cluster="memory", since=1)["change"] == 2
    answer = rig.ask(planner, TEXT, cluster=cluster, since=since)
    assert answer["error"]["code"] == "refused" and words in answer["error"]["message"]
    assert list(rig.changes()) == [1, 2]
    assert rig.ask(planner, TEXT, cluster="memory", since=2)["change"] == 3


def test_a_planner_that_starts_again_is_not_told_to_ask_itself(rig: Rig) -> None:
    rig.planner(first=str(PAPER))  # its end is sudden: it holds the lease still
    planner, _ = rig.planner()
    begun = rig.now
    assert rig.ask(planner, MORE)["change"] == 2
    assert rig.now - begun < LEASE_S + 1


def test_another_verb_is_no_planners(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    planner.take(mg.request("status", "7"), lambda a: rig.answers.append(json.loads(a)))
    assert rig.answers[-1]["error"]["code"] == "unknown-verb"


def test_of_two_planners_one_is_at_work(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "xenflow.planner")
    first, _ = rig.planner("a", first=str(PAPER))
    assert not any(line.startswith("waits") for line in caplog.messages)
    second, _ = rig.planner("b")
    assert caplog.messages[-1] == "waits: the planner is at tcp://a:1: ask there"
    answer = rig.ask(second, MORE)
    assert answer["error"]["message"] == "the planner is at tcp://a:1: ask there"
    rig.settle(second, for_s=LEASE_S + 1)  # the first one has stopped
    assert rig.ask(second, MORE)["change"] == 2
    stopped = rig.ask(first, TEXT)  # and goes on: it has not the lease any more
    assert not stopped["ok"]
    assert list(rig.changes()) == [1, 2]


def test_two_changes_at_once_are_made_one_after_the_other(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    rig.send(planner, MORE)
    rig.send(planner, MORE.replace("177", "178").replace("77", "78").replace("more", "less"))
    rig.settle(planner, for_s=2.0)
    assert [answer.get("change") for answer in rig.answers] == [2, 3]
    assert rig.answers[1]["changed"] == {"links": {"added": ["less"], "removed": ["more"]}}


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("lost", [1, 3])
def test_an_unknown_outcome_is_looked_at(rig: Rig, written: bool, lost: int) -> None:
    """Whether it was written or not: it is made once, and said to be."""
    planner, store = rig.planner(first=str(PAPER))
    store.lose, store.written = lost, written
    answer = rig.ask(planner, MORE)
    assert answer["ok"] and answer["change"] == 2
    assert list(rig.changes()) == [1, 2]
    assert rig.laid().links.keys() == {"left", "right", "more"}


def test_what_stays_unknown_is_said_to_be(rig: Rig) -> None:
    planner, store = rig.planner(first=str(PAPER))
    store.lose, store.written = 10**6, False
    begun = rig.now
    answer = rig.ask(planner, MORE)
    assert answer["error"]["code"] == "unknown"
    assert "whether change 2 was written is not known" in answer["error"]["message"]
    assert ANSWER_S <= rig.now - begun < ANSWER_S + 1
    store.lose = 0
    assert rig.ask(planner, MORE)["change"] == 2


def test_what_the_store_does_not_take_is_said_to_be_that(rig: Rig) -> None:
    """And not that somebody else was first."""
    planner, store = rig.planner(first=str(PAPER))
    store.full = True
    answer = rig.ask(planner, MORE)
    assert answer["error"]["message"].startswith("the store does not take it: I/O error: no space")
    store.full = False
    assert rig.ask(planner, MORE)["change"] == 2


def test_what_has_waited_too_long_is_not_done_any_more(rig: Rig) -> None:
    planner, store = rig.planner(first=str(PAPER))
    store.lose, store.written = 10**6, False
    rig.send(planner, MORE)
    rig.send(planner, MORE.replace("links.more", "links.other"))
    while not rig.answers:
        rig.settle(planner, for_s=0.1)
    store.lose = 0
    rig.settle(planner, for_s=1.0)
    assert [answer["error"]["code"] for answer in rig.answers] == ["unknown", "refused"]
    assert "took too long: nothing was changed" in rig.answers[1]["error"]["message"]
    assert list(rig.changes()) == [1]


def test_where_the_store_is_away_nothing_is_changed_and_that_is_said(rig: Rig) -> None:
    planner, store = rig.planner(first=str(PAPER))
    store.away = True
    for _ in range(2):  # while it still has the lease, and when it has not any more
        answer = rig.ask(planner, MORE)
        assert answer["error"]["code"] == "refused"
        assert answer["error"]["message"].startswith("the store cannot be written to")
    store.away = False
    rig.settle(planner, for_s=LEASE_S + 1)
    assert rig.ask(planner, MORE)["change"] == 2


def test_an_id_is_given_again_when_all_have_forgotten_it(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE)["change"] == 2
    rig.in_force(2)
    assert rig.ask(planner, TEXT)["change"] == 3
    other = MORE.replace("links.more", "links.other")
    refused = rig.ask(planner, other)
    words = "links.other: id 77 was more's, and not all switches have forgotten it yet"
    assert refused["error"]["message"].startswith(words)
    same_label = rig.ask(planner, other.replace("id = 77", "id = 78"))
    assert "links.other: vlan 177 was more's" in same_label["error"]["message"]
    rig.settle(planner, for_s=2.0)
    assert [row["gone"] for row in rig.database.tables["Laid_Link"].values()].count(True) == 1
    rig.in_force(3)
    rig.settle(planner)
    assert len(rig.database.tables["Laid_Link"]) == 2
    assert rig.ask(planner, other)["change"] == 4


def test_what_came_back_with_other_numbers_keeps_those_it_had_until_all_forget_them(
    rig: Rig,
) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE)["change"] == 2
    rig.in_force(2)
    assert rig.ask(planner, TEXT)["change"] == 3
    back = MORE.replace("= 77", "= 78").replace("= 177", "= 178")
    assert rig.ask(planner, back)["change"] == 4, "its tombstone is no more"
    other = '\n[links.other]\nroot = "host-a"\n'
    for numbers, words in (("id = 77", "id 77 was more's"), ("vlan = 177", "vlan 177 was more's")):
        refused = rig.ask(planner, back + other + numbers + "\n")
        assert refused["error"]["message"].startswith(f"links.other: {words}, and not all")
    assert rig.ask(planner, TEXT)["change"] == 5
    refused = rig.ask(planner, TEXT + other + "id = 77\n")
    assert refused["error"]["message"].startswith("links.other: id 77 was more's, and not all")
    rig.in_force(5)
    rig.settle(planner)
    assert rig.ask(planner, TEXT + other + "id = 77\nvlan = 177\n")["change"] == 6


def test_a_tombstone_waits_for_those_that_the_link_reached(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    (cable, ends) = next(iter(network_file.load(PAPER).cables.items()))
    short = MORE + f'cables = ["{cable}"]\n'
    short = short.replace('root = "host-a"', f'root = "{ends.a.datapath}"')
    answer = rig.ask(planner, short)
    assert answer["change"] == 2
    reached = {ends.a.datapath, ends.b.datapath}
    assert answer["concerns"] == dict.fromkeys(reached, 2)
    (row,) = (r for r in rig.database.tables["Laid_Link"].values() if r["name"] == "more")
    assert row["at"] == reached
    rig.in_force(2)
    assert rig.ask(planner, TEXT)["concerns"] == dict.fromkeys(reached, 3)
    rig.in_force(3, but=ends.a.datapath)
    rig.settle(planner)
    assert len(rig.database.tables["Laid_Link"]) == 3
    (other,) = network_file.load(PAPER).hosts.keys() - reached
    assert rig.ask(planner, TEXT)["concerns"] == {
        name: 3 if name in reached else 1 for name in rig.laid().datapaths
    }
    for row in rig.database.tables["Switch_State"].values():
        if row["switch"] == other:
            row["in_force"] = 1
    rig.in_force(3, but=other)
    rig.settle(planner)
    assert len(rig.database.tables["Laid_Link"]) == 2


def test_whom_a_row_concerns_no_more_hears_that_first(rig: Rig) -> None:
    """It is told of a link that does not lead to it any more; then the row is none of its."""
    planner, _ = rig.planner(first=str(PAPER))
    cable = '[cables]\nspare-a = ["host-a:to-spare", "spare:to-a"]'
    spare = '[datapaths.spare]\nkind = "plain"\ncontroller = "edge"\nother = "drop"\n'
    more = TEXT.replace("[cables]", f"{spare}\n{cable}")
    assert rig.ask(planner, more)["change"] == 2
    rig.in_force(2)
    without = rig.ask(planner, more.replace('spare-a = ["host-a:to-spare", "spare:to-a"]', ""))
    assert without["concerns"]["spare"] == 3

    def at(table: str) -> set[bool]:
        return {"spare" in row["at"] for row in rig.database.tables[table].values()}

    assert at("Laid_Link") == {True}
    rig.in_force(3, but="spare")
    rig.settle(planner)
    assert at("Laid_Link") == {True}
    changes = {row["change"] for row in rig.database.tables["Laid_Link"].values()}
    rig.in_force(3)
    rig.settle(planner)
    assert at("Laid_Link") == {False} and at("Laid_Element") == {False}
    assert changes == {row["change"] for row in rig.database.tables["Laid_Link"].values()}
    assert rig.ask(planner, rig.look(planner, "undone", change=3)["text"])["ok"]


def test_what_has_gone_may_come_again_at_once(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE)["change"] == 2
    assert rig.ask(planner, TEXT)["change"] == 3
    assert rig.ask(planner, MORE)["change"] == 4
    assert rig.laid().links.keys() == {"left", "right", "more"}


def test_old_changes_are_not_kept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenflow.planner.book.KEPT_CHANGES", 3)
    planner, _ = rig.planner(first=str(PAPER))
    for number in range(2, 8):
        assert rig.ask(planner, MORE if number % 2 == 0 else TEXT)["change"] == number
    assert list(rig.changes()) == [5, 6, 7]


def test_of_a_switch_that_is_no_more_nothing_is_left(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    cable = '[cables]\nspare-a = ["host-a:to-spare", "spare:to-a"]'
    spare = '[datapaths.spare]\nkind = "plain"\ndpid = "0000000000000009"\ncontroller = "edge"\n'
    assert rig.ask(planner, TEXT.replace("[cables]", f"{spare}\n{cable}"))["change"] == 2
    rig.in_force(2)
    assert len(rig.database.tables["Switch_State"]) == 5
    assert rig.ask(planner, TEXT)["change"] == 3
    rig.in_force(3)
    told: list[Any] = []  # the one goes with the other: who starts in between would believe it
    watched = (WatchedTable("Laid_Switch", ("name",)), WatchedTable("Switch_State", ("switch",)))
    rig.host("spare").watch(watched, 5.0, told.append)
    rig.settle(planner, for_s=1.0)
    forgotten = [{c.table for c in event.changes if c.after is None} for event in told[1:]]
    assert {"Laid_Switch", "Switch_State"} in forgotten
    for table, column in (("Laid_Switch", "name"), ("Switch_State", "switch")):
        there = {row[column] for row in rig.database.tables[table].values()}
        assert there == {"host-a", "host-b", "gen", "recv"}
    assert len(rig.database.tables["Laid_Cable"]) == 4


SPARE = """
[controllers.spare]
openflow = "127.0.0.1:6633"
manage = "tcp://10.254.1.99:6640"
[datapaths.spare]
kind = "host"
dpid = "00000000000000ff"
controller = "spare"
proof = "revalidator"
"""
HOME = at_home("vr1", "host-a")


def test_where_a_router_is_is_laid_and_what_it_is_on_stays(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    cable = '[cables]\nspare-a = ["host-a:to-spare", "spare:to-a"]'
    assert rig.ask(planner, TEXT.replace("[cables]", f"{SPARE}\n{cable}"))["change"] == 2
    router = rig.laid().routers["vr1"]
    away = HOME.step(forwarders=("spare",), vm="spare", leads_to="spare")
    rig.placed("spare", router, away)
    rig.placed("edge", router, HOME)
    rig.placed("spare", replace(router, name="vr9"), replace(away, router="vr9"))
    rig.settle(planner)
    (row,) = rig.database.tables["Laid_Element"].values()
    assert list(placement_rows.read([row["placement"]], rig.laid())) == [away]
    assert row["change"] == 1  # no switch has anything to do for it
    # What it is on is in use, whatever its home is.
    (words,) = rig.ask(planner, TEXT)["error"]["message"].splitlines()
    assert words == "datapaths.spare: vr1 is there: `xenflow empty-host spare` first"
    # While it moves each step of it is its controllers' affair.
    rig.migrating("spare", "vr1")
    back = away.step(forwarders=("host-a",), vm="host-a", leads_to="host-a")
    rig.placed("host-a", router, back)
    rig.settle(planner)
    (row,) = rig.database.tables["Laid_Element"].values()
    assert list(placement_rows.read([row["placement"]], rig.laid())) == [away]
    rig.migrating("spare", "")
    rig.settle(planner)
    (row,) = rig.database.tables["Laid_Element"].values()
    assert list(placement_rows.read([row["placement"]], rig.laid())) == [back]
    # Of a host that has gone nothing is left.
    assert rig.ask(planner, TEXT)["change"] == 3
    rig.in_force(3)
    rig.settle(planner, for_s=1.0)
    assert {row["host"] for row in rig.database.tables["Placement"].values()} == {"edge", "host-a"}


RENAMED = TEXT.replace('mac = "02:00:00:01:01:01"', 'mac = "02:00:00:01:01:99"', 1)


def test_what_was_changed_can_be_looked_at(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE)["change"] == 2
    assert rig.ask(planner, TEXT)["change"] == 3
    found = rig.look(planner, "history")["changes"]
    assert [(one["number"], one["by"]) for one in found] == [(3, "ada"), (2, "ada"), (1, "planner")]
    assert [one["changed"] for one in found] == [
        {"links": {"removed": ["more"]}},
        {"links": {"added": ["more"]}},
        {},
    ]


@pytest.mark.parametrize("text", [MORE, RENAMED])
def test_a_change_is_undone_by_a_file(rig: Rig, text: str) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, text)["change"] == 2
    undone = rig.look(planner, "undone", change=2)
    assert undone["last"] == 2
    assert network_file.parse(undone["text"], "a.toml")[0] == network_file.load(PAPER)
    assert rig.ask(planner, undone["text"], cluster="memory", since=2)["change"] == 3
    assert rig.laid() == network_file.load(PAPER)
    redone = rig.look(planner, "undone", change=3)
    assert rig.ask(planner, redone["text"])["change"] == 4
    assert rig.laid() == network_file.parse(text, "a.toml")[0]


def test_of_two_changes_the_first_is_undone_alone(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    both = RENAMED + MORE.removeprefix(TEXT)
    assert rig.ask(planner, RENAMED)["change"] == 2
    assert rig.ask(planner, both)["change"] == 3
    undone = rig.look(planner, "undone", change=2)
    assert network_file.parse(undone["text"], "a.toml")[0] == network_file.parse(MORE, "a.toml")[0]


def test_what_has_been_changed_since_is_not_undone(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE)["change"] == 2
    assert rig.ask(planner, MORE.replace("id = 77", "id = 77\ncables = []"))["change"] == 0
    other = MORE + 'access = [{ at = "gen:new" }]\n'
    assert rig.ask(planner, other)["change"] == 3
    refused = rig.look(planner, "undone", change=2)["error"]
    assert refused["code"] == "refused"
    assert "links.more has been changed since: undo that first" in refused["message"]
    words = rig.look(planner, "undone", change=1)["error"]["message"]
    assert words == "change 1 was the first: before it there was nothing"
    words = rig.look(planner, "undone", change=9)["error"]["message"]
    assert words == "no change 9: those from 1 to 3 are kept"


def test_a_change_of_what_is_no_longer_the_last_is_refused(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE)["change"] == 2
    refused = rig.ask(planner, TEXT, cluster="memory", since=1)["error"]
    assert refused["message"].startswith(
        "somebody else has changed the network: change 2 by ada, links +more: look at"
    )
    assert rig.laid().links.keys() == {"left", "right", "more"}


def test_who_has_looked_before_others_changed_is_told_what_they_did(rig: Rig) -> None:
    """The last of it by name."""
    planner, _ = rig.planner(first=str(PAPER))
    for text in (MORE, TEXT, MORE, TEXT):
        assert rig.ask(planner, text)["ok"]
    refused = rig.ask(planner, MORE, cluster="memory", since=1)["error"]
    assert refused["message"] == (
        "somebody else has changed the network: change 5 by ada, links -more; change 4 by ada, "
        "links +more; change 3 by ada, links -more; and 1 before: look at what it is now, and "
        "apply again"
    )


@pytest.mark.parametrize("today", [0.0, -1e9, 4e9])
def test_a_clock_that_jumps_changes_nothing_but_the_date(rig: Rig, today: float) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE, confirm_s=5)["change"] == 2
    rig.today = today - rig.now
    rig.settle(planner, for_s=3.0)
    assert rig.changes()[2]["state"] == "laid"
    assert rig.confirm(planner)["ok"]
    assert rig.ask(planner, TEXT)["change"] == 3
    first = rig.look(planner, "history")["changes"][0]
    assert first["number"] == 3 and abs(first["when"] - max(0, today)) < 60


def test_what_is_written_as_a_file_is_no_change(rig: Rig) -> None:
    """In whatever order the store gives its rows: links stay where they lie."""
    planner, _ = rig.planner(first=str(PAPER.with_name("campus.toml")))
    for _ in range(3):
        for table in LAID:
            rows = rig.database.tables[table]
            rig.database.tables[table] = dict(reversed(rows.items()))
        again, _ = rig.planner("again")
        text = to_text(replace(rig.laid(), name="campus"))
        assert rig.ask(again, text)["error"]["message"].startswith("the planner is at")
        assert rig.ask(planner, text)["change"] == 0
    more = text + '[links.more]\nid = 77\nvlan = 177\nroot = "host-a"\n'
    assert rig.ask(planner, more)["change"] == 2
    assert rig.ask(planner, rig.look(planner, "undone", change=2)["text"])["change"] == 3


def test_who_is_only_concerned_is_not_what_has_changed(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    cable = '[cables]\nspare-a = ["host-a:to-spare", "spare:to-a"]'
    spare = '[datapaths.spare]\nkind = "plain"\ndpid = "0000000000000009"\ncontroller = "edge"\n'
    assert rig.ask(planner, TEXT.replace("[cables]", f"{spare}\n{cable}"))["change"] == 2
    changed = rig.look(planner, "history")["changes"][0]["changed"]
    assert changed == {
        "datapaths": {"added": ["spare"]},
        "cables": {"added": ["spare-a"]},
        "links": {"changed": ["left", "right"]},
    }


def test_a_change_that_cannot_be_read_ends_no_planner(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE)["change"] == 2
    store = MemoryStore(rig.database, rig.loop.post, PLANNER)
    spoilt = Update("Change", equal(number=2), {"after": "by hand"})
    assert isinstance(rig.loop.ask(store, spoilt), Committed)
    rig.drain()
    for verb, arguments in (("history", {}), ("undone", {"change": 2})):
        assert rig.look(planner, verb, **arguments)["error"]["code"] == "internal"
    assert rig.ask(planner, TEXT)["change"] == 3


def test_what_is_not_confirmed_is_put_back(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE, confirm_s=5)["change"] == 2
    rig.settle(planner, for_s=4.0)
    assert list(rig.changes()) == [1, 2] and rig.changes()[2]["state"] == "laid"
    rig.settle(planner, for_s=3.0)
    assert rig.laid() == network_file.load(PAPER)
    assert (rig.changes()[2]["state"], rig.changes()[3]["state"]) == ("put back", "laid")
    assert rig.changes()[3]["by"] == "planner: change 2 was not confirmed"
    rig.settle(planner, for_s=20.0)
    assert list(rig.changes()) == [1, 2, 3]


def test_the_first_network_cannot_be_put_back(rig: Rig) -> None:
    planner, _ = rig.planner()
    answer = rig.ask(planner, TEXT, confirm_s=5)
    assert "a.toml: the first network cannot be put back" in answer["error"]["message"]
    assert rig.ask(planner, TEXT)["change"] == 1


@pytest.mark.parametrize("named", [True, False])
def test_what_is_confirmed_stays(rig: Rig, named: bool) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE, confirm_s=5)["change"] == 2
    assert "change 7 does not wait" in rig.confirm(planner, change=7)["error"]["message"]
    assert rig.confirm(planner, **({"change": 2} if named else {}))["change"] == 2
    rig.settle(planner, for_s=10.0)
    assert list(rig.changes()) == [1, 2] and rig.changes()[2]["state"] == "in force"
    refused = rig.confirm(planner)["error"]
    assert refused["message"] == "no change waits to be confirmed"


def test_a_further_change_confirms_the_one_before(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE, confirm_s=5)["change"] == 2
    both = MORE + '[links.less]\nid = 78\nvlan = 178\nroot = "host-a"\n'
    assert rig.ask(planner, both)["change"] == 3
    rig.settle(planner, for_s=10.0)
    assert rig.changes()[2]["state"] == "in force" and list(rig.changes()) == [1, 2, 3]


def test_who_follows_a_planner_counts_anew(rig: Rig) -> None:
    first, _ = rig.planner("a", first=str(PAPER))
    assert rig.ask(first, MORE, confirm_s=20)["change"] == 2
    second, _ = rig.planner("b")
    rig.settle(second, for_s=15.0)  # the first one has stopped; the second has the lease after 6 s
    assert list(rig.changes()) == [1, 2]
    rig.settle(second, for_s=15.0)
    assert rig.laid() == network_file.load(PAPER)


def test_what_the_planner_is_at_is_said(rig: Rig) -> None:
    planner, store = rig.planner(first=str(PAPER))
    at = {"cluster": "memory", "change": 1, "concerns": dict.fromkeys(rig.laid().datapaths, 1)}
    rest = {"v": 1, "id": "1", "ok": True, **at}
    nothing = {
        "waiting": [],
        "unconfirmed": None,
        "remembering": [],
        "in_force": {},
        "placed": {},
        **rest,
    }
    assert rig.look(planner, "planner") == nothing
    rig.in_force(1)
    heard = dict.fromkeys(rig.laid().datapaths, 1)
    assert rig.look(planner, "planner") == {**nothing, "in_force": heard}
    assert rig.ask(planner, MORE, confirm_s=60)["change"] == 2
    store.lose, store.written = 10**6, False
    rig.send(planner, TEXT)
    found = rig.look(planner, "planner")
    assert found["waiting"] == [{"by": "ada", "file": "a.toml"}]
    assert found["unconfirmed"]["change"] == 2 and 50 < found["unconfirmed"]["left_s"] <= 60


def test_who_holds_ids_up_is_said_and_since_when(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE)["change"] == 2
    rig.in_force(2)
    assert rig.ask(planner, TEXT)["change"] == 3
    assert rig.ask(planner, MORE.replace("77", "78").replace("177", "178"))["change"] == 4
    assert rig.ask(planner, TEXT)["change"] == 5
    rig.in_force(4, but="recv")
    rig.settle(planner)

    def remembering() -> dict[str, tuple[int, list[str]]]:
        found = rig.look(planner, "planner")["remembering"]
        return {one["switch"]: (one["since"], one["names"]) for one in found}

    others = dict.fromkeys(("gen", "host-a", "host-b"), (5, ["more"]))
    late = {"recv": (3, ["more", "more before change 3"])}
    assert remembering() == {**late, **others}
    rig.in_force(5, but="recv")
    rig.settle(planner)
    assert remembering() == late
    rig.in_force(5)
    rig.settle(planner)
    assert remembering() == {}


def test_the_whole_network_is_said(rig: Rig) -> None:
    """Which no controller knows."""
    planner, _ = rig.planner(first=str(PAPER))
    assert rig.ask(planner, MORE)["change"] == 2
    said = laid_file.from_json(rig.look(planner, "laid"))
    assert (said.cluster, said.change, said.host) == ("memory", 2, "")
    assert laid_entries(said.own, NOTHING) == rig.laid()


def test_in_a_restored_store_nothing_is_made_before_all_have_reported(rig: Rig) -> None:
    planner, _ = rig.planner(first=str(PAPER))
    rig.in_force(1)
    for row in rig.database.tables["Switch_State"].values():
        row["cluster"] = "the one before"
    planner, _ = rig.planner("a")
    rig.settle(planner, for_s=LEASE_S + 1)
    for switch in ("gen", "host-a"):
        store = MemoryStore(rig.database, rig.loop.post, StoreWriter(Role.CONTROLLER, "h"))
        now = Update("Switch_State", equal(host="h", switch=switch), {"cluster": "memory"})
        assert isinstance(rig.loop.ask(store, now), Committed)
    refused = rig.ask(planner, MORE)["error"]["message"]
    assert refused.startswith("the store was restored, and not heard since is host-b, recv: no")
    assert rig.ask(planner, RENAMED)["change"] == 2
    for switch in ("host-b", "recv"):
        now = Update("Switch_State", equal(host="h", switch=switch), {"cluster": "memory"})
        assert isinstance(rig.loop.ask(store, now), Committed)
    rig.drain()
    assert rig.ask(planner, RENAMED + MORE.removeprefix(TEXT))["change"] == 3
