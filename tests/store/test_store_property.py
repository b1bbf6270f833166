"""Whatever is asked of it, the store in memory does what `ovsdb-server` does: random sequences."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest

from tests.store.store_rig import SWITCH, Loop, MemorySite, Viewer, needs_server, served
from xenflow.store.columns import Cell
from xenflow.store.network_store import NetworkStore, WatchedTable
from xenflow.store.transaction import (
    Committed,
    Comparison,
    Condition,
    Delete,
    Insert,
    Operation,
    Transaction,
    Update,
    Wait,
    WriteOutcome,
    WriteRefused,
    row_id,
)

NAMES = ("Global", "Host", "Switch", "Laid_Link", "Virtual_Link")
UUIDS = {
    table: [f"{i:08x}-{place:04x}-4000-8000-000000000000" for i in range(8)]
    for place, table in enumerate(NAMES)
}
"""Few, so that rows meet; but none in two tables: a server takes a reference to the referring row's
own UUID for one to itself, whatever the table."""
WATCHED = (
    WatchedTable("Host", ("name",)),
    WatchedTable(
        "Switch",
        ("name", "host"),
        (Condition("name", Comparison.UNLIKE, "b"), *row_id(UUIDS["Switch"][0])),
    ),
    WatchedTable(
        "Laid_Link",
        ("name", "at", "gone"),
        (Condition("at", Comparison.INCLUDES, frozenset("ab")),),
    ),
    WatchedTable(
        "Virtual_Link",
        ("id", "root", "disjoint_from"),
        (
            Condition("mbps", Comparison.EQUAL, 1),
            Condition("disjoint_from", Comparison.EXCLUDES, frozenset(UUIDS["Virtual_Link"][:2])),
        ),
    ),
    WatchedTable("Global", ("name", "change")),
)


class Random:
    """Random operations on a few tables, with few values."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def cells(self, table: str) -> dict[str, Cell]:
        """A whole row's."""
        rng = self.rng
        name = rng.choice("abc")
        at = frozenset(rng.sample("abcd", rng.randrange(4)))
        links = frozenset(rng.sample(UUIDS["Virtual_Link"], rng.choice((0, 0, 0, 1, 2))))
        rows: dict[str, dict[str, Cell]] = {
            "Global": {"name": name, "change": rng.randrange(3)},
            "Host": {"name": name},
            "Switch": {**SWITCH, "name": name, "dpid": name, "host": rng.choice(UUIDS["Host"])},
            "Laid_Link": {
                "name": name,
                "id": rng.randint(1, 3),
                "at": at,
                "gone": rng.random() < 0.3,
            },
            "Virtual_Link": {
                "name": name,
                "id": rng.randint(1, 3),
                "mbps": rng.randrange(2),
                "root": rng.choice([None, None, *UUIDS["Switch"]]),
                "disjoint_from": links,
            },
        }
        return rows[table]

    def where(self, table: str) -> tuple[Condition, ...]:
        rng = self.rng
        if rng.random() < 0.2:
            return ()
        if rng.random() < 0.3:
            return row_id(rng.choice(UUIDS[table]))
        column, cell = rng.choice(list(self.cells(table).items()))
        equal = [Comparison.EQUAL, Comparison.UNLIKE]
        sets = [*equal, Comparison.INCLUDES, Comparison.EXCLUDES]
        return (
            Condition(column, rng.choice(sets if isinstance(cell, frozenset) else equal), cell),
        )

    def operation(self) -> Operation:
        rng = self.rng
        table = rng.choice((*NAMES, "Host"))
        kind = rng.random()
        if kind < 0.5:
            return Insert(table, self.cells(table), rng.choice(UUIDS[table]))
        if kind < 0.75:
            cells = self.cells(table)
            chosen = rng.sample(sorted(cells), rng.randint(1, len(cells)))
            return Update(table, self.where(table), {name: cells[name] for name in chosen})
        if kind < 0.9:
            return Delete(table, self.where(table))
        cells = self.cells(table)
        columns = tuple(rng.sample(sorted(cells), rng.randint(1, 2) if len(cells) > 1 else 1))
        rows = tuple(
            tuple(self.cells(table)[name] for name in columns) for _ in range(rng.randrange(3))
        )
        return Wait(table, self.where(table), columns, rows)

    def transaction(self) -> Transaction:
        return tuple(self.operation() for _ in range(self.rng.choice((1, 1, 2, 3, 5))))


def alike(model: WriteOutcome, found: WriteOutcome) -> bool:
    """Whether a server's outcome is what the model's is; the model's words name every reason."""
    if isinstance(model, WriteRefused) and isinstance(found, WriteRefused):
        return model.operation == found.operation and found.reason.name in model.words.split()
    return model == found


@needs_server
def test_random_transactions_come_out_alike(tmp_path: Path) -> None:
    with served(tmp_path) as site:
        memory = MemorySite()
        model, store = memory.store(), site.store()
        in_memory, viewed = Viewer(model, *WATCHED), Viewer(store, *WATCHED)
        chance = Random(20)
        outcomes = []
        for _ in range(40):
            transactions = [chance.transaction() for _ in range(25)]
            expected = _all(memory.loop, model, transactions)
            found = _all(site.loop, store, transactions)
            for transaction, one, other in zip(transactions, expected, found, strict=True):
                assert alike(one, other), (transaction, one, other)
            memory.loop.run(lambda: in_memory.events)
            site.loop.run(lambda: viewed.rows == in_memory.rows)
            fresh = Viewer(store, *WATCHED)
            site.loop.run(partial(bool, fresh.events))
            assert fresh.rows == viewed.rows
            fresh.end()
            outcomes += expected
        reasons = {o.reason.name for o in outcomes if isinstance(o, WriteRefused)}
        assert reasons == {"WAIT", "CONSTRAINT", "REFERENCE", "UUID"}
        assert sum(isinstance(o, Committed) and sum(o.touched) > 0 for o in outcomes) > 100


def _all(loop: Loop, store: NetworkStore, transactions: list[Transaction]) -> list[WriteOutcome]:
    outcomes: list[WriteOutcome] = []
    for transaction in transactions:
        store.transact(transaction, 30.0, outcomes.append)
    loop.run(lambda: len(outcomes) == len(transactions))
    return outcomes


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_asks_the_same(seed: int) -> None:
    assert Random(seed).transaction() == Random(seed).transaction()
