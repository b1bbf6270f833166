"""A network as rows: what is written is read again, whatever it was before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.model.test_succession import other
from tests.store.memory_store import MemoryDatabase
from xenflow.model.network import Network, NetworkError
from xenflow.model.succession import changed_with
from xenflow.store import network_file
from xenflow.store.network_rows import (
    DESIRED,
    LAID,
    NamedRows,
    by_name,
    desired,
    laid,
    laid_entries,
    operations,
)
from xenflow.store.transaction import Committed, Insert, Update

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(CONF.glob("*.toml"))
NOTHING = Network("", {}, {}, {}, {}, {})


def renamed(network: Network, name: str) -> Network:
    parts = (network.controllers, network.datapaths, network.cables, network.links, network.routers)
    return Network(name, *parts)


def write(database: MemoryDatabase, network: Network, change: int) -> None:
    """As the planner does."""
    found = [
        *operations(tables(database, DESIRED), desired(network, change)),
        *operations(tables(database, LAID), laid(network), bury=change),
    ]
    outcome = database.transact(tuple(found))
    assert isinstance(outcome, Committed), outcome


def tables(database: MemoryDatabase, names: tuple[str, ...]) -> Any:
    return {name: database.tables[name] for name in names}


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_what_is_laid_is_the_network_of_the_file(file: Path) -> None:
    database = MemoryDatabase()
    network = network_file.load(file)
    write(database, network, 1)
    rows = by_name(tables(database, LAID))
    found = renamed(laid_entries(rows, NOTHING), network.name)
    assert found.digest == network.digest
    assert found == network
    assert all(row["change"] == 1 for table in rows.values() for row in table.values())
    for link in network.links.values():
        assert rows["Laid_Link"][link.name,]["at"] == frozenset(link.tree.up)


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_changes_ends_as_written_at_once(seed: int) -> None:
    dice, database = Random(seed), MemoryDatabase()
    network = network_file.load(CONF / "campus.toml")
    view = quick = NOTHING
    read: NamedRows = {}
    for change in range(1, 8):
        write(database, network, change)
        rows = by_name(tables(database, LAID))
        view = laid_entries(rows, view)
        assert renamed(view, network.name).digest == network.digest
        quick, read = laid_entries(rows, quick, read=read), rows  # only what is another row
        assert quick == view
        there = by_name(tables(database, DESIRED))
        wanted = desired(network, change)
        assert there.keys() == wanted.keys()
        for table, expected in wanted.items():
            assert there[table].keys() == expected.keys()
            for key, row in expected.items():
                assert {name: there[table][key][name] for name in row} == row
        network = changed_with(network, **other(network, dice))


def test_rows_that_were_read_are_not_read_again() -> None:
    network = network_file.load(CONF / "paper.toml")
    stamps: dict[str, Any] = {"change": 1, "gone": False}
    rows = {t: {key: {**row, **stamps} for key, row in r.items()} for t, r in laid(network).items()}
    view = laid_entries(rows, NOTHING)
    for row in rows["Laid_Link"].values():
        row["access"] = "what cannot be read"
    assert laid_entries(rows, view, read=rows) == view
    rows["Laid_Link"]["left",] = dict(rows["Laid_Link"]["left",])
    with pytest.raises(NetworkError, match="Laid_Link 'left'"):
        laid_entries(rows, view, read=rows | {"Laid_Link": {}})
    assert laid_entries(rows, replace(view, routers={}), read=rows).routers == view.routers


def test_one_link_more_is_one_row_more_of_each_kind() -> None:
    network = network_file.load(CONF / "paper.toml")
    database = MemoryDatabase()
    write(database, network, 1)
    text = (CONF / "paper.toml").read_text()
    more = f'{text}\n[links.more]\nid = 77\nvlan = 177\nroot = "host-a"\n'
    grown = network_file.parse(more, "more.toml", network)[0]
    found = operations(tables(database, LAID), laid(grown), bury=2)
    assert [(type(one), one.table) for one in found] == [(Insert, "Laid_Link")]
    inserted = found[0]
    assert isinstance(inserted, Insert)
    assert (inserted.row["change"], inserted.row["gone"]) == (2, False)
    wanted = operations(tables(database, DESIRED), desired(grown, 2))
    kinds = {(type(one), one.table) for one in wanted}
    assert kinds == {(Update, "Global"), (Insert, "Virtual_Link")}


def test_what_has_gone_leaves_a_tombstone_and_may_come_again() -> None:
    network = network_file.load(CONF / "paper.toml")
    database = MemoryDatabase()
    write(database, network, 1)
    gone = changed_with(network, routers={"vr1": None})
    write(database, gone, 2)
    row = by_name(tables(database, LAID))["Laid_Element"]["vr1",]
    assert (row["gone"], row["change"]) == (True, 2)
    assert laid_entries({"Laid_Element": {("vr1",): row}}, network).routers == gone.routers
    write(database, network, 3)
    row = by_name(tables(database, LAID))["Laid_Element"]["vr1",]
    assert (row["gone"], row["change"]) == (False, 3)
    assert laid_entries({"Laid_Element": {("vr1",): row}}, gone) == network


def test_of_what_no_row_speaks_it_stays() -> None:
    network = network_file.load(CONF / "paper.toml")
    assert laid_entries({}, network) == network


@pytest.mark.parametrize(
    "cells",
    [{"tree": "no JSON"}, {"tree": '{"host-a": "no-such-cable"}'}, {"labels": "[1]"}],
    ids=["no JSON", "unknown cable", "one label"],
)
def test_a_row_that_cannot_be_read_is_named(cells: dict[str, str]) -> None:
    network = network_file.load(CONF / "paper.toml")
    database = MemoryDatabase()
    write(database, network, 1)
    key, row = next(iter(by_name(tables(database, LAID))["Laid_Link"].items()))
    with pytest.raises(NetworkError, match=f"Laid_Link '{key[0]}'"):
        laid_entries({"Laid_Link": {key: {**row, **cells}}}, network)


WISHES = """
[links.promised]
mbps = 60
mtu = 1500
disjoint_from = ["left"]
span = ["host-b", "gen"]
[links.small]
span = []
"""


def test_what_is_asked_of_cables_is_laid_and_may_be_another() -> None:
    database, text = MemoryDatabase(), (CONF / "paper.toml").read_text()
    cable = 'gen-b = ["gen:to-b", "host-b:to-gen"]'
    terms = "mbps = 100, cost = 7, mtu = 9000"
    told = f'gen-b = {{ ends = ["gen:to-b", "host-b:to-gen"], {terms}, labels = [5, "90-4000"] }}'
    left = 'access = [{ at = "gen:access"'
    for number, shown in enumerate((told, cable, told.replace("cost = 7", "cost = 8")), 1):
        wished = WISHES if shown is not cable else WISHES.replace("mbps = 60\nmtu = 1500\n", "")
        whole = text.replace(cable, shown).replace(left, 'cables = ["gen-a"]\n' + left)
        network = network_file.parse(whole + wished, "paper.toml")[0]
        write(database, network, number)
        rows = by_name(tables(database, LAID))
        assert renamed(laid_entries(rows, NOTHING), network.name) == network
        wanted = desired(network, number)
        there = by_name(tables(database, DESIRED))
        for table, expected in wanted.items():
            for key, row in expected.items():
                assert {column: there[table][key][column] for column in row} == row
    assert network.cables["gen-b"].labels == ((5, 5), (90, 4000))
    del rows["Laid_Cable"]["gen-b",]["about"]  # as the release before kept it
    assert laid_entries(rows, NOTHING).cables["gen-b"].mbps == 0
