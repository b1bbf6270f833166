"""What a router's VM is, and since when it runs: kept by files, rows, and the planner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.store.memory_store import MemoryDatabase
from xenflow.model.network import Network, NetworkError
from xenflow.model.placement import at_home, first_place, to_json
from xenflow.planner.book import Book
from xenflow.store import network_file
from xenflow.store.network_rows import DESIRED, LAID, by_name, desired, laid, laid_entries
from xenflow.store.network_store import WholeView
from xenflow.store.network_text import to_text
from xenflow.store.state_file import StateFile
from xenflow.store.transaction import Committed, wait_for_none

PAPER = Path(__file__).parents[2] / "conf" / "paper.toml"
TEXT = PAPER.read_text()
VM = 'image = "small"\nmemory = 256\nrunning = false\n'
GIVEN = TEXT.replace("[routers.vr1]\n", "[routers.vr1]\n" + VM)


class Planned:
    """A book, and the store that it writes."""

    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.book = Book()
        self.hear()

    def hear(self) -> None:
        self.book.hear(WholeView(self.database.tables))

    def become(self, text: str) -> Network:
        proposal = self.book.propose(text, "FILE", "ada", 0, wait_for_none("Lease", ()))
        outcome = self.database.transact(proposal.transaction)
        assert isinstance(outcome, Committed), outcome
        self.hear()
        return self.book.network


def rows_of(network: Network) -> dict[str, dict[Any, Any]]:
    """As a store has them."""
    return {
        table: {key: {**row, "gone": False} for key, row in rows.items()}
        for table, rows in laid(network).items()
    }


def test_a_file_says_what_the_vm_is_and_it_is_written_back() -> None:
    network, _ = network_file.parse(GIVEN, "FILE")
    router = network.routers["vr1"]
    assert (router.image, router.memory, router.running) == ("small", 256, False)
    assert network_file.parse(to_text(network), "FILE")[0] == network
    assert "running" not in to_text(network_file.parse(TEXT, "FILE")[0])


def test_what_fits_no_vm_is_refused() -> None:
    with pytest.raises(NetworkError, match="routers.vr1.memory: found 3, expected .*64"):
        network_file.parse(GIVEN.replace("256", "3"), "FILE")


def test_rows_say_it_and_those_of_the_release_before_need_not() -> None:
    network, _ = network_file.parse(GIVEN, "FILE")
    rows = rows_of(network)
    assert laid_entries(rows, Network("paper", {}, {}, {}, {}, {})) == network
    before = {k: v for k, v in rows["Laid_Element"]["vr1",].items() if k != "vm"}
    old = {**rows, "Laid_Element": {("vr1",): before}}
    found = laid_entries(old, Network("paper", {}, {}, {}, {}, {})).routers["vr1"]
    assert (found.image, found.memory, found.running, found.started) == ("", 0, True, 0)
    element = desired(network, 1)["Element"]["vr1",]
    assert (element["image"], element["memory_mb"], element["running"]) == ("small", 256, False)


def test_who_is_stopped_is_no_business_of_the_switches() -> None:
    network, _ = network_file.parse(GIVEN, "FILE")
    assert "vr1" not in network.active.routers
    assert network.active.active is network.active
    there, _ = network_file.parse(TEXT, "FILE")
    assert there.active is there


def test_the_planner_says_by_which_change_a_router_runs() -> None:
    planned = Planned()
    without = TEXT[: TEXT.index("[routers.vr1]")] + TEXT[TEXT.index("[lab]") :]
    assert planned.become(TEXT).routers["vr1"].started == 0  # there from the beginning
    stopped = TEXT.replace("[routers.vr1]\n", "[routers.vr1]\nrunning = false\n")
    assert planned.become(stopped).routers["vr1"].started == 0
    assert planned.become(TEXT).routers["vr1"].started == 3
    other_image = TEXT.replace("[routers.vr1]\n", '[routers.vr1]\nimage = "x"\n')
    assert planned.become(other_image).routers["vr1"].started == 3  # it runs on
    assert "vr1" not in planned.become(without).routers
    rows = {table: planned.database.tables[table] for table in (*DESIRED, *LAID)}
    assert by_name(rows)["Laid_Element"]["vr1",]["gone"] is True
    anew = planned.become(TEXT).routers["vr1"]
    assert anew.started == 6
    kept = first_place(replace(anew, started=3)).version + 1000  # after a thousand moves
    assert first_place(anew).version > kept


def test_an_equal_router_that_was_started_anew_is_another() -> None:
    before, _ = network_file.parse(TEXT, "FILE")
    router = replace(before.routers["vr1"], started=9)
    after = replace(before, routers={"vr1": router})
    assert after == before and after.digest == before.digest
    assert laid_entries(rows_of(after), before).routers["vr1"].started == 9


def test_a_place_of_one_that_had_the_name_is_not_believed(tmp_path: Path) -> None:
    before, _ = network_file.parse(TEXT, "FILE")
    router = before.routers["vr1"]
    moved = replace(at_home("vr1", "host-b"), version=7)
    StateFile(tmp_path).save(before, {"host-a": {"vr1": moved}}, {}, trees="t")
    assert StateFile(tmp_path).load(before).placements["host-a"]["vr1"] == moved
    anew = replace(before, routers={"vr1": replace(router, started=2)})
    assert StateFile(tmp_path).load(anew).placements["host-a"] == {}
    again = replace(moved, version=first_place(anew.routers["vr1"]).version + 1)
    StateFile(tmp_path).save(anew, {"host-a": {"vr1": again}}, {}, trees="t")
    found = StateFile(tmp_path).load(anew).placements["host-a"]["vr1"]
    assert to_json(found) == to_json(again)
