"""A controller beside a store in memory: what it takes, keeps, and says of its switches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.store.memory_store import MemoryDatabase, MemoryStore
from tests.store.store_rig import Loop
from xenflow.control.leases import Leases
from xenflow.control.store_follower import AGAIN_S, StoreFollower
from xenflow.model.difference import NetworkDifference, compare
from xenflow.model.network import EMPTY, Network, NetworkError
from xenflow.model.placement import Placement, at_home
from xenflow.model.release import RELEASE
from xenflow.plan.search import STORE
from xenflow.store import network_file, placement_rows
from xenflow.store.laid_file import LaidFile, LaidRows, from_json
from xenflow.store.network_rows import LAID, laid, laid_entries, operations
from xenflow.store.schema import PLANNER, Role, StoreWriter
from xenflow.store.transaction import (
    Committed,
    Delete,
    Insert,
    RefusalReason,
    Update,
    WriteRefused,
    equal,
)
from xenflow.switch.problems import Problems

PAPER = Path(__file__).parents[2] / "conf" / "paper.toml"
TEXT = PAPER.read_text()
MORE = TEXT + '\n[links.more]\nid = 77\nvlan = 177\nroot = "host-a"\n'
SMALL, LARGE = (network_file.parse(text, "a.toml")[0] for text in (TEXT, MORE))
CONTROLLER = StoreWriter(Role.CONTROLLER, "edge")


class PromisedSwitch:
    """A switch that proves when it is told to."""

    def __init__(self) -> None:
        self.live = True
        self.left_out: frozenset[str] = frozenset()
        self.placements: dict[str, Placement] = {}
        self.promises: Any = self
        self.waiting: list[Callable[[str | None], Any]] = []

    def in_force(self, then: Callable[[str | None], Any], but_left_out: bool) -> None:
        assert but_left_out
        self.waiting.append(then)

    def prove(self, error: str | None = None) -> None:
        waiting, self.waiting = self.waiting, []
        for then in waiting:
            then(error)


class Rig:
    """Who follows, and the store as the planner writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = MemoryDatabase()
        self.loop = Loop()
        self.now = 0.0
        self.network = SMALL
        self.taken: list[Network] = []
        self.refuses = ""
        self.breaks = False
        self.problems = Problems("edge")
        self.on_disk: list[int] = []
        self.gen, self.recv = PromisedSwitch(), PromisedSwitch()
        self.leases = Leases(lambda: self.now)
        self.lost = ""
        self.told: dict[str, list[Placement]] = {}
        self.believed: list[tuple[str, Placement]] = []
        self.follower = self.start()

    def start(self) -> StoreFollower:
        self.store = MemoryStore(self.database, self.loop.post, CONTROLLER)
        file = LaidFile(self.folder)
        table: Any = self
        made = StoreFollower(self.store, "edge", file, file.load(), table, self.take, self.leases)
        made.start()
        self.drain()
        return made

    def take(self, network: Network) -> NetworkDifference:
        if self.refuses:
            raise NetworkError(self.refuses)
        found = LaidFile(self.folder).load()
        self.on_disk.append(found.change if found else 0)
        found_other = compare(self.network, network)
        self.network = network
        if self.breaks:
            raise LookupError("half way")
        self.taken.append(network)
        return found_other

    @property
    def switches(self) -> dict[str, PromisedSwitch]:
        return {"gen": self.gen, "recv": self.recv}

    def searching(self) -> str:
        return self.lost

    def told_where(self, source: str, placements: Iterable[Placement], knows: bool) -> None:
        assert knows
        self.told[source] = list(placements)

    def believe(self, source: str, placements: Iterable[Placement]) -> None:
        self.believed += [(source, placement) for placement in placements]

    def rows(self, table: str) -> list[dict[str, Any]]:
        return [dict(row) for row in self.database.tables[table].values()]

    def drain(self) -> None:
        done: list[int] = []
        for _ in range(3):  # what is posted may post
            self.loop.post(lambda _: done.append(1), None)
        self.loop.run(lambda: len(done) == 3)

    def write(self, network: Network, change: int, but: tuple[str, ...] = ()) -> None:
        """The planner makes a change; there are no rows of the switches `but`."""
        store = MemoryStore(self.database, self.loop.post, PLANNER)
        rows = {table: self.database.tables[table] for table in LAID}
        wanted = {table: dict(of_it) for table, of_it in laid(network).items()}
        for name in but:
            del wanted["Laid_Switch"][name,]
        found = operations(rows, wanted, bury=change)
        whole: Insert | Update = Insert("Global", {"name": "paper", "change": change})
        if self.database.tables["Global"]:
            whole = Update("Global", (), {"change": change})
        assert isinstance(self.loop.ask(store, *found, whole), Committed)
        self.drain()

    def prove(self) -> None:
        """Both switches have in force what was taken."""
        self.gen.prove()
        self.recv.prove()
        self.drain()

    def tick(self) -> None:
        self.now += AGAIN_S
        self.follower.tick(self.now)
        self.drain()

    def said(self) -> dict[str, int]:
        """What the store has of the switches."""
        rows = self.database.tables["Switch_State"].values()
        assert all(
            (r["host"], r["cluster"], r["release"]) == ("edge", "memory", RELEASE) for r in rows
        )
        return {str(row["switch"]): int(row["in_force"]) for row in rows}  # type: ignore[arg-type]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_an_empty_store_changes_nothing(rig: Rig) -> None:
    rig.tick()
    assert (rig.taken, rig.said(), rig.follower.status()["change"]) == ([], {}, 0)


def test_a_change_is_on_the_disk_then_taken_then_in_force_then_said(rig: Rig) -> None:
    rig.write(SMALL, 1)
    rig.write(LARGE, 2)
    assert rig.network == LARGE and rig.on_disk == [1, 2]
    assert rig.said() == {}  # no switch has proven it
    rig.gen.prove()
    rig.drain()
    assert rig.said() == {"gen": 2}
    rig.recv.prove("the switch has gone")
    rig.tick()
    assert rig.said() == {"gen": 2}
    rig.recv.prove()
    rig.drain()
    assert rig.said() == {"gen": 2, "recv": 2}
    assert rig.follower.status()["in_force"] == {"gen": 2, "recv": 2}


def test_whom_a_switch_could_not_be_given_is_said_and_holds_up_nobody(rig: Rig) -> None:
    def left_out() -> dict[str, object]:
        return {str(row["switch"]): row["left_out"] for row in rig.rows("Switch_State")}

    rig.write(SMALL, 1)
    rig.gen.left_out = frozenset(("router vr1",))
    rig.gen.prove()
    rig.recv.prove()
    rig.drain()
    assert rig.said() == {"gen": 1, "recv": 1}
    assert left_out() == {"gen": {"router vr1"}, "recv": frozenset()}
    rig.gen.left_out = frozenset()
    rig.tick()
    assert left_out() == {"gen": frozenset(), "recv": frozenset()}


def test_one_that_was_away_is_asked_when_it_is_back(rig: Rig) -> None:
    rig.recv.live = False
    rig.write(LARGE, 1)
    rig.tick()
    assert rig.recv.waiting == []
    rig.recv.live = True
    rig.tick()
    rig.recv.prove()
    rig.drain()
    assert rig.said() == {"recv": 1}


def test_what_cannot_be_taken_now_is_taken_later(rig: Rig) -> None:
    rig.refuses = "routers.vr1: it is being migrated"
    rig.write(LARGE, 1)
    words = "change 1 of the store is not taken: routers.vr1: it is being migrated"
    assert rig.problems.of() == [words]
    assert rig.follower.status()["taken"] == 0 and rig.gen.waiting == []
    rig.tick()
    rig.refuses = ""
    rig.tick()
    assert rig.network == LARGE and rig.problems.of() == []
    rig.gen.prove()
    rig.drain()
    assert rig.said() == {"gen": 1}


def test_what_fails_half_way_is_never_said_to_be_done(rig: Rig) -> None:
    """The table is the new network by then, so that a second try would find nothing to do."""
    rig.write(SMALL, 1)
    rig.breaks = True
    rig.write(LARGE, 2)
    rig.breaks = False
    rig.tick()
    rig.write(SMALL, 3)
    assert rig.follower.status()["taken"] == 1
    assert rig.problems.of() == [
        "change 2 of the store is half taken: LookupError: half way: restart this controller"
    ]
    kept = LaidFile(rig.folder).load()
    assert kept is not None and kept.change == 3  # what it starts from


def test_what_cannot_be_kept_is_not_taken(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr("xenflow.store.line_file.os.fsync", full)
        rig.write(LARGE, 1)
        assert rig.taken == [] and "No space left on device" in rig.problems.of()[0]
    rig.tick()
    assert rig.network == LARGE and rig.problems.of() == []


def test_rows_that_make_no_network_are_neither_kept_nor_taken(rig: Rig) -> None:
    """Written by hand, say; put right they are followed, under the same number too."""
    rig.write(SMALL, 1)
    planner = MemoryStore(rig.database, rig.loop.post, PLANNER)
    wrong = Update("Laid_Element", (), {"home": "nowhere", "change": 2})
    assert isinstance(rig.loop.ask(planner, wrong), Committed)
    rig.drain()
    (words,) = rig.problems.of()
    assert "change 2 of the store is not taken" in words and "no host nowhere" in words
    kept = LaidFile(rig.folder).load()
    assert kept is not None and kept.change == 1 and rig.network == SMALL
    assert rig.follower.network(rows=True)["change"] == 1 and rig.follower.status()["change"] == 2
    right = Update("Laid_Element", (), {"home": SMALL.routers["vr1"].home})
    assert isinstance(rig.loop.ask(planner, right), Committed)
    rig.drain()
    assert rig.problems.of() == [] and rig.follower.network(rows=True)["change"] == 2
    rig.write(LARGE, 3)
    assert rig.network == LARGE


def test_after_a_restart_it_goes_on_from_its_disk(rig: Rig) -> None:
    rig.write(LARGE, 5)
    rig.gen.prove()
    rig.drain()
    kept = LaidFile(rig.folder).load()
    assert kept is not None
    rig.network, rig.taken = laid_entries(kept.rows, SMALL, alone=True), []
    assert rig.network == LARGE
    rig.gen, rig.recv = PromisedSwitch(), PromisedSwitch()
    rig.follower = rig.start()
    assert rig.follower.status()["taken"] == 5
    rig.tick()
    rig.recv.prove()
    rig.drain()
    assert rig.said() == {"gen": 5, "recv": 5}
    assert rig.taken == []
    rig.write(SMALL, 6)
    assert rig.network == SMALL  # by a tombstone


def test_what_the_file_says_beside_the_store_counts_no_more(rig: Rig) -> None:
    rig.network = LARGE
    rig.write(SMALL, 1)
    assert rig.network == SMALL


def test_a_forgotten_tombstone_takes_nothing_back(rig: Rig) -> None:
    rig.write(LARGE, 1)
    rig.write(SMALL, 2)
    planner = MemoryStore(rig.database, rig.loop.post, PLANNER)
    assert isinstance(rig.loop.ask(planner, Delete("Laid_Link", equal(gone=True))), Committed)
    rig.drain()
    assert rig.follower.status()["taken"] == rig.follower.status()["change"] == 2
    rig.gen.prove()
    rig.drain()
    assert rig.said() == {"gen": 2}


def test_a_missing_row_removes_nothing_later(rig: Rig) -> None:
    rig.write(LARGE, 1)
    rig.gen.prove()
    rig.drain()
    rows = rig.database.tables["Laid_Link"]
    for uuid in [uuid for uuid, row in rows.items() if row["name"] == "more"]:
        del rows[uuid]
    rig.write(SMALL, 2)
    assert "more" in rig.network.links


def test_a_switch_that_is_no_more_is_not_spoken_of(rig: Rig) -> None:
    rig.write(LARGE, 1)
    store = MemoryStore(rig.database, rig.loop.post, CONTROLLER)
    cells = {"host": "edge", "switch": "old", "cluster": "memory", "release": RELEASE}
    assert isinstance(rig.loop.ask(store, Insert("Switch_State", cells)), Committed)
    rig.tick()
    rig.gen.prove()
    rig.recv.prove()
    rig.drain()
    rig.tick()
    assert rig.said() == {"gen": 1, "recv": 1}


def test_a_host_that_comes_again_keeps_nothing_of_before(rig: Rig) -> None:
    """What went while it was not in the network left no tombstone for it."""
    rig.write(LARGE, 1)
    rig.gen.prove()
    rig.recv.prove()
    rig.drain()
    rig.refuses = "controllers.edge: it runs: stop it, and it may go"
    rig.write(LARGE, 2, but=("gen", "recv"))
    rig.tick()
    assert rig.said() == {}  # it says nothing of switches that are none of the network's
    rig.write(SMALL, 3, but=("gen", "recv"))
    planner = MemoryStore(rig.database, rig.loop.post, PLANNER)
    for table in LAID:
        assert isinstance(rig.loop.ask(planner, Delete(table, equal(gone=True))), Committed)
    rig.refuses = ""
    rig.write(SMALL, 4)
    assert rig.network == SMALL
    rig.gen.prove()
    rig.drain()
    assert rig.said()["gen"] == 4


def removed(network: Network, host: str) -> Network:
    """Without a controller and all its datapaths, which links would not reach any more."""
    left = {n: d for n, d in network.datapaths.items() if d.controller != host}
    controllers = {n: c for n, c in network.controllers.items() if n != host}
    return replace(
        network, controllers=controllers, datapaths=left, cables={}, links={}, routers={}
    )


def test_a_host_that_was_lost_is_fenced_until_it_is_taken_in_again(rig: Rig) -> None:
    rig.write(LARGE, 1)
    rig.gen.prove()
    rig.recv.prove()
    rig.drain()
    rig.write(removed(LARGE, "edge"), 2)
    assert rig.network == LARGE.only("edge") and rig.network.datapaths.keys() == {"gen", "recv"}
    (words,) = rig.problems.of()
    assert words.startswith("this host is not in the network (change 2): its switches forward not")
    rig.tick()
    assert rig.said() == {}
    # Its tombstones have gone; it is started again, and comes back when it is told to.
    planner = MemoryStore(rig.database, rig.loop.post, PLANNER)
    for table in LAID:
        assert isinstance(rig.loop.ask(planner, Delete(table, equal(gone=True))), Committed)
    kept = LaidFile(rig.folder).load()
    assert kept is not None
    assert LaidFile(rig.folder).network(kept, LARGE, "edge") == LARGE.only("edge")
    rig.problems = Problems("edge")
    rig.follower = rig.start()
    assert len(rig.problems.of()) == 1
    rig.write(SMALL, 3)
    assert rig.network == SMALL and rig.problems.of() == []
    rig.gen.prove()
    rig.drain()
    assert rig.said()["gen"] == 3


def test_another_machine_in_its_place_has_another_datapath_id(rig: Rig) -> None:
    """And knows where a router is that has left its home."""
    rig.write(LARGE, 1)
    rig.write(removed(LARGE, "edge"), 2)
    assert rig.follower.status()["fenced"]
    other = replace(SMALL.datapaths["gen"], dpid=0xC9)
    rig.write(replace(SMALL, datapaths={**SMALL.datapaths, "gen": other}), 3)
    assert not rig.follower.status()["fenced"]
    assert [network.datapaths.get("gen") for network in rig.taken[-2:]] == [None, other]
    rig.write(removed(SMALL, "edge"), 4)
    planner = MemoryStore(rig.database, rig.loop.post, PLANNER)
    cell = placement_rows.to_cell(AWAY, SMALL.routers["vr1"])
    rig.believed.clear()
    rows = operations({t: rig.database.tables[t] for t in LAID}, laid(SMALL), bury=5)
    placed = Update("Laid_Element", (), {"placement": cell})
    assert isinstance(rig.loop.ask(planner, *rows, placed), Committed)
    rig.drain()
    assert rig.believed == [(STORE, AWAY)]


def test_one_that_was_away_meanwhile_is_fenced_too(rig: Rig) -> None:
    """For a week, say: no row speaks of it any more."""
    rig.write(LARGE, 1)
    before = (rig.folder / "laid.json").read_bytes()
    rig.write(removed(LARGE, "edge"), 2)
    planner = MemoryStore(rig.database, rig.loop.post, PLANNER)
    for table in LAID:
        assert isinstance(rig.loop.ask(planner, Delete(table, equal(gone=True))), Committed)
    (rig.folder / "laid.json").write_bytes(before)
    rig.network = LARGE
    rig.follower = rig.start()
    assert rig.network == LARGE.only("edge") and len(rig.problems.of()) == 1


def test_an_older_copy_of_the_store_is_not_followed(rig: Rig) -> None:
    """What its numbers say is not what the same numbers said before."""
    rig.write(SMALL, 1)
    rig.prove()
    copy = {table: dict(rows) for table, rows in rig.database.tables.items()}
    rig.write(LARGE, 2)
    rig.prove()
    rig.database.tables = copy
    rig.follower = rig.start()
    words = "the store has change 1 as the last one in force at gen, and had change 2"
    assert words in rig.problems.of()[0]
    assert rig.follower.status()["change"] == 2
    assert rig.network == LARGE
    rig.tick()
    rig.prove()
    rig.tick()
    assert set(rig.said().values()) == {1}, "what gives it away stays"
    (rig.folder / "laid.json").unlink()  # as it says
    rig.follower = rig.start()
    assert rig.problems.of() == [] and rig.network == SMALL


def test_nor_is_one_of_before_anything_was_in_force_here(rig: Rig) -> None:
    rig.write(SMALL, 1)
    copy = {table: dict(rows) for table, rows in rig.database.tables.items()}
    rig.prove()
    rig.database.tables = copy
    rig.follower = rig.start()
    (words,) = rig.problems.of()
    assert words.startswith("the store has change 0 as the last one in force at gen, and had")


def test_what_concerns_others_alone_is_not_heard_of(rig: Rig) -> None:
    """Two links of which one lies at host-a alone; a switch more, whose rows come as well."""
    apart = 'id = 77\nvlan = 177\naccess = [{ at = "%s:desk" }]\nspan = []\n'
    far = TEXT + "\n[links.far]\n" + apart % "host-a"
    near = far + "\n[links.near]\n" + (apart % "gen").replace("77", "78")
    rig.write(network_file.parse(TEXT, "a.toml")[0], 1)
    rig.prove()
    heard = len(rig.taken)
    rig.write(network_file.parse(far, "a.toml")[0], 2)
    rig.tick()
    assert len(rig.taken) == heard and rig.said() == {"gen": 1, "recv": 1}
    rig.write(network_file.parse(near, "a.toml")[0], 3)
    rig.prove()
    assert rig.said() == {"gen": 3, "recv": 3}
    assert rig.network.links.keys() == {"left", "right", "near"}
    # The link leads to host-a no more, and to a switch of this controller's that is new.
    spare = '[datapaths.spare]\nkind = "plain"\ncontroller = "edge"\nother = "drop"\n'
    cable = '[cables]\nspare-gen = ["gen:to-spare", "spare:to-gen"]'
    more = near.replace("[cables]", f"{spare}\n{cable}").replace("host-a:desk", "spare:desk")
    rig.write(network_file.parse(more, "a.toml")[0], 4)
    assert rig.network.links.keys() == {"left", "right", "near", "far"}
    assert rig.network.links["far"].tree.up.keys() == {"spare"}


@pytest.mark.parametrize("last", [2, 3])
def test_nor_is_an_older_copy_that_was_changed_since(rig: Rig, last: int) -> None:
    """Its number is as high again, or higher."""
    rig.write(LARGE, 1)
    copy = {table: dict(rows) for table, rows in rig.database.tables.items()}
    rig.write(SMALL, 2)
    rig.database.tables = copy
    rig.follower = rig.start()
    other = network_file.parse(MORE.replace("links.more", "links.new").replace("77", "78"), "a")[0]
    rig.write(replace(other, links=LARGE.links | {"new": other.links["new"]}), last)
    (words,) = rig.problems.of()
    assert words.startswith("the store has Laid_Link more as of change 1, and a later change of it")
    assert rig.network == SMALL
    (rig.folder / "laid.json").unlink()  # as it says
    rig.follower = rig.start()
    assert rig.problems.of() == [] and rig.network.links.keys() >= {"new", "more"}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "laid.json").write_text('{"rows": 5}')
    with pytest.raises(NetworkError, match="laid.json: .*: move it away"):
        LaidFile(tmp_path).load()


def test_a_file_that_makes_no_network_for_this_controller_is_named(tmp_path: Path) -> None:
    """One that was written by hand, and one of another network, or of a host that has gone."""
    file = LaidFile(tmp_path)
    rows = {
        table: {key: {**row, "change": 1, "gone": False} for key, row in found.items()}
        for table, found in laid(SMALL).items()
    }
    file.keep(LaidRows("one", 1, rows))
    kept = file.load()
    assert kept is not None and file.network(kept, LARGE, "edge") == SMALL
    with pytest.raises(NetworkError, match="laid.json: there is no controller x in it: .* away"):
        file.network(kept, LARGE, "x")
    new = {**LARGE.controllers, "x": replace(LARGE.controllers["edge"], name="x")}
    alone = file.network(kept, replace(LARGE, controllers=new), "x")
    assert alone.controllers.keys() == {"x"} and not alone.links
    del rows["Laid_Host"]["edge",]
    with pytest.raises(NetworkError, match=r"(?s)laid.json: .* no controller edge.*: move it away"):
        file.network(LaidRows("one", 1, rows), LARGE, "edge")


def test_a_file_of_another_network_is_named(tmp_path: Path) -> None:
    """Its controllers and switches may well have the same names."""
    LaidFile(tmp_path, "paper").keep(LaidRows("one", 1, {}))
    assert LaidFile(tmp_path, "paper").load() == LaidRows("one", 1, {})
    with pytest.raises(NetworkError, match="laid.json: it is of the network paper, not path: move"):
        LaidFile(tmp_path, "path").load()


HOME = at_home("vr1", "host-a")
AWAY = HOME.step(forwarders=("host-b",), vm="host-b", leads_to="host-b")


def test_where_routers_are_is_said_of_those_that_have_left(rig: Rig) -> None:
    rig.gen.placements["vr1"] = rig.recv.placements["vr1"] = HOME
    rig.write(SMALL, 1)
    rig.tick()
    assert rig.rows("Placement") == []
    rig.recv.placements["vr1"] = AWAY.step()
    rig.gen.placements["vr1"] = AWAY
    rig.tick()
    (row,) = rig.rows("Placement")
    assert (row["host"], row["element"], row["version"]) == ("edge", "vr1", 2)
    assert list(placement_rows.read([row["placement"]], SMALL)) == [AWAY.step()]
    rig.gen.placements["vr1"] = AWAY.step().step()
    rig.tick()
    assert [row["version"] for row in rig.rows("Placement")] == [3]
    # With its state lost it takes nothing back, and asks the store.
    rig.gen, rig.recv = PromisedSwitch(), PromisedSwitch()
    rig.gen.placements["vr1"] = rig.recv.placements["vr1"] = HOME
    rig.lost = "state.json is missing"
    rig.follower = rig.start()
    rig.tick()
    assert [row["version"] for row in rig.rows("Placement")] == [3]
    assert rig.told == {STORE: [AWAY.step().step()]}


def test_what_the_planner_has_laid_is_heard_of_routers_that_there_are(rig: Rig) -> None:
    rig.lost = "state.json is missing"
    rig.write(SMALL, 1)
    assert rig.told == {STORE: []}
    planner = MemoryStore(rig.database, rig.loop.post, PLANNER)
    former = replace(SMALL.routers["vr1"], id=99)
    for router, told in ((former, []), (SMALL.routers["vr1"], [AWAY])):
        cell = placement_rows.to_cell(AWAY, router)
        laid_so = Update("Laid_Element", (), {"placement": cell})
        assert isinstance(rig.loop.ask(planner, laid_so), Committed)
        rig.drain()
        assert rig.told == {STORE: told}


def test_who_migrates_is_said_until_it_has_ended(rig: Rig) -> None:
    rig.write(SMALL, 1)
    rig.leases.take("vr1", "ada:1", 10.0, {"words": "a migration"})
    rig.tick()
    (row,) = rig.rows("Migration")
    assert (row["owner"], row["under_way"], row["words"]) == ("ada:1", True, "a migration")
    rig.now += 10.0
    rig.tick()
    assert [row["under_way"] for row in rig.rows("Migration")] == [False]
    rig.leases.give_back("vr1", "ada:1")
    rig.tick()
    assert rig.rows("Migration") == []


def test_what_is_written_into_a_store_that_was_put_back_is_looked_at_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for before waits until there is a store again, which has other rows then."""
    rig.write(SMALL, 1)
    rig.leases.take("vr1", "ada:1", 10.0, {"words": "a migration"})
    rig.tick()
    copy = {table: dict(rows) for table, rows in rig.database.tables.items()}
    rig.leases.give_back("vr1", "ada:1")
    rig.tick()
    assert rig.rows("Migration") == []
    waiting: list[tuple[Any, ...]] = []
    with monkeypatch.context() as away:
        away.setattr(rig.store, "transact", lambda *asked: waiting.append(asked))
        rig.prove()
        rig.gen.placements["vr1"] = AWAY
        rig.tick()
    ((written, within_s, done),) = waiting
    rig.database.tables = copy
    for watch in rig.database.watches:
        watch.begin(copy)
    rig.store.transact(written, within_s, done)
    rig.drain()
    rig.tick()
    assert rig.said() == {"gen": 1, "recv": 1}
    assert (len(rig.rows("Placement")), rig.rows("Migration")) == (1, [])


def test_where_the_planner_is_the_lease_says(rig: Rig) -> None:
    assert rig.follower.planner == ""
    store = MemoryStore(rig.database, rig.loop.post, PLANNER)
    lease = {"name": "planner", "owner": "tcp://10.0.0.1:6651 1234", "term": 1}
    assert isinstance(rig.loop.ask(store, Insert("Lease", lease)), Committed)
    rig.drain()
    assert rig.follower.planner == "tcp://10.0.0.1:6651"


def test_a_certificate_of_another_name_is_said(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server goes by it, and lets a controller write the rows of that host alone."""
    words = 'RBAC rules for client "other" role "controller" prohibit row insertion'
    refused = WriteRefused(RefusalReason.RIGHTS, 0, words)
    with monkeypatch.context() as patch:
        patch.setattr(rig.store, "transact", lambda _, __, done: rig.loop.post(done, refused))
        rig.write(SMALL, 1)
        rig.gen.prove()
        rig.drain()
        (problem,) = rig.problems.of()
        assert (
            "common name of this controller's certificate must be edge" in problem
            and words in problem
        )
    rig.tick()
    assert rig.said() == {"gen": 1}
    assert not rig.problems.of()


def test_a_planner_that_beats_no_more_is_said_to_be_silent(rig: Rig) -> None:
    def silent_s() -> Any:
        rig.tick()
        return rig.follower.status()["planner_silent_s"]

    assert silent_s() is None
    planner = MemoryStore(rig.database, rig.loop.post, PLANNER)
    lease = Insert("Lease", {"name": "planner", "owner": "tcp://p:1 x", "term": 1, "beat": 1})
    assert isinstance(rig.loop.ask(planner, lease), Committed)
    assert [silent_s(), silent_s(), silent_s()] == [0, AGAIN_S, 2 * AGAIN_S]
    beat = Update("Lease", equal(name="planner"), {"beat": 2})
    assert isinstance(rig.loop.ask(planner, beat), Committed)
    assert [silent_s(), silent_s()] == [0, AGAIN_S]


# --- a router that is being moved ----------------------------------------------------------------


def moved_by(rig: Rig, router: str = "vr1") -> None:
    rig.leases.take(router, "ada:1", 10.0, {"words": "a migration"})


def ended(rig: Rig, router: str = "vr1") -> None:
    rig.leases.give_back(router, "ada:1")
    rig.tick()


def without_left(network: Network) -> Network:
    """Its link `left` is destroyed, with the interface of vr1 there."""
    links = {n: k for n, k in network.links.items() if n != "left"}
    rest = tuple(i for i in network.routers["vr1"].interfaces if i.link != "left")
    return replace(
        network, links=links, routers={"vr1": replace(network.routers["vr1"], interfaces=rest)}
    )


def acknowledged(rig: Rig) -> tuple[int, int, dict[str, int]]:
    """What the table is at, wholly and but for what is held, and what the store knows of."""
    rig.tick()
    rig.prove()
    rig.tick()
    status = rig.follower.status()
    assert set(status["but_held"].values()) == {status["reached"]}
    return status["taken"], status["reached"], rig.said()


def test_what_a_moved_router_needs_waits_and_nothing_else(rig: Rig) -> None:
    rig.write(SMALL, 1)
    rig.prove()
    moved_by(rig)
    rig.write(without_left(LARGE), 2)
    assert rig.network == LARGE
    assert acknowledged(rig) == (1, 2, {"gen": 1, "recv": 1})
    held = {"names": {"links": ["left"], "routers": ["vr1"]}, "by": ["vr1"]}
    assert rig.follower.status()["held"] == held
    assert rig.follower.digest == without_left(LARGE).digest
    assert rig.problems.of() == []
    taken = len(rig.taken)
    rig.tick()
    rig.write(SMALL, 3)  # a change behind it; what it takes back is held no more
    assert len(rig.taken) == taken + 1 and rig.network == SMALL
    assert acknowledged(rig) == (3, 3, {"gen": 3, "recv": 3})
    assert (rig.follower.status()["held"], rig.follower.digest) == ({}, "")
    rig.write(without_left(LARGE), 4)
    ended(rig)
    assert rig.network == without_left(LARGE)
    assert acknowledged(rig) == (4, 4, {"gen": 4, "recv": 4})
    assert (rig.follower.status()["held"], rig.follower.digest) == ({}, "")


def test_who_asks_for_the_rows_gets_all_of_what_is_reached(rig: Rig) -> None:
    """As for `xenflow recover`, which goes by the network that the digest is of."""
    rig.write(SMALL, 1)
    moved_by(rig)
    rig.write(without_left(LARGE), 2)
    told = from_json(rig.follower.network(rows=True))
    assert (
        told.change == 2
        and laid_entries(told.rows, EMPTY).digest == replace(without_left(LARGE), name="").digest
    )


@pytest.mark.parametrize("store", [True, False])
def test_one_that_is_restarted_meanwhile_holds_it_still(rig: Rig, store: bool) -> None:
    """From its disk alone, too: it starts from what is not held, and has the rest beside."""
    rig.write(SMALL, 1)
    rig.prove()
    rig.tick()
    moved_by(rig)
    rig.write(without_left(LARGE), 2)
    rig.prove()
    kept = LaidFile(rig.folder).load()
    assert kept is not None and kept.change == 1
    rig.network = LaidFile(rig.folder).network(kept, SMALL, "edge")
    assert rig.network == LARGE
    rig.gen, rig.recv = PromisedSwitch(), PromisedSwitch()
    if store:
        rig.follower = rig.start()
        assert rig.network == LARGE
        assert acknowledged(rig) == (1, 2, {"gen": 1, "recv": 1})
    else:
        rows, rig.database.tables = rig.database.tables, MemoryDatabase().tables
        rig.follower = rig.start()
        rig.tick()
        rig.prove()
        status = rig.follower.status()
        assert (rig.network, status["taken"], status["reached"]) == (LARGE, 1, 2)
        assert (status["held"]["by"], rig.follower.digest) == (["vr1"], without_left(LARGE).digest)
        assert from_json(rig.follower.network(rows=True)).change == 2
        ended(rig)
        assert rig.network == without_left(LARGE), "what is held needs no store either"
        rig.database.tables = rows
        rig.follower = rig.start()
    if store:
        ended(rig)
    assert rig.network == without_left(LARGE)
    assert acknowledged(rig) == (2, 2, {"gen": 2, "recv": 2})
    kept = LaidFile(rig.folder).load()
    assert (
        kept is not None and kept.change == 2 and "left" not in laid_entries(kept.own, EMPTY).links
    )


def test_a_move_that_was_left_holds_it_until_it_is_recovered(rig: Rig) -> None:
    rig.write(SMALL, 1)
    moved_by(rig)
    rig.write(without_left(LARGE), 2)
    rig.now += 100.0
    rig.tick()
    assert rig.network == LARGE
    rig.leases.take("vr1", "planner:2", 10.0, {"words": "a recovery"})
    rig.tick()
    assert rig.network == LARGE
    rig.leases.give_back("vr1", "planner:2")
    rig.tick()
    assert rig.network == without_left(LARGE)


def test_a_router_that_goes_waits_while_its_move_is_under_way_and_no_longer(rig: Rig) -> None:
    """Who left it unfinished left nothing that anybody could recover."""
    rig.write(SMALL, 1)
    moved_by(rig)
    none = replace(SMALL, routers={})
    rig.write(none, 2)
    assert rig.network == SMALL
    rig.now += 100.0
    rig.tick()
    assert rig.network == none and rig.leases.rows() == []


def test_another_of_its_name_waits_for_the_move_of_the_one_before(rig: Rig) -> None:
    rig.write(SMALL, 1)
    moved_by(rig)
    vr1 = SMALL.routers["vr1"]
    again = replace(SMALL, routers={"vr1": replace(vr1, started=2)})
    rig.write(again, 2)
    assert rig.network.routers["vr1"].started == 0
    ended(rig)
    assert rig.network.routers["vr1"].started == 2


def test_where_nothing_fits_without_it_all_of_it_waits(rig: Rig) -> None:
    """As where a link gets the VLAN ids of one of a router that is moved, which no planner gives
    it."""
    rig.write(SMALL, 1)
    rig.prove()
    rig.tick()
    moved_by(rig)
    left = SMALL.links["left"]
    vlans = {"vlan": left.vlan, "detour_vlan": left.detour_vlan}
    links = {
        **LARGE.links,
        "left": replace(LARGE.links["left"], vlan=301, detour_vlan=2349),
        "more": replace(LARGE.links["more"], **vlans),
    }
    after = replace(LARGE, links=links)
    rig.write(after, 2)
    assert rig.network == SMALL
    (words,) = rig.problems.of()
    assert words.startswith("change 2 of the store is not taken: links.left: held by the move of")
    assert f"links more and left have VLAN id {left.vlan}" in words
    kept = LaidFile(rig.folder).load()
    assert kept is not None and kept.change == 1
    status = rig.follower.status()
    assert (status["change"], status["reached"]) == (2, 1)
    assert (status["held"]["by"], rig.follower.digest) == (["vr1"], after.digest)
    assert from_json(rig.follower.network(rows=True)).change == 2, "as who recovers the move asks"
    size = (rig.folder / "laid.json").stat().st_size
    rig.tick()
    assert (rig.folder / "laid.json").stat().st_size == size, "nothing is written meanwhile"
    ended(rig)
    assert rig.network == after and rig.problems.of() == []
    assert acknowledged(rig) == (2, 2, {"gen": 2, "recv": 2})
