"""docs/messages.md names every key of what `status` answers, and no other."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from bench.large_network import make_network
from tests.conftest import ROOT
from tests.store.memory_store import MemoryDatabase, MemoryStore
from tests.written_switch import WrittenSwitch, bound
from xenflow.control.leases import Leases
from xenflow.control.management_service import ManagementService
from xenflow.control.rule_table import RuleTable
from xenflow.control.store_follower import StoreFollower
from xenflow.model import management as mg
from xenflow.model.placement import to_json
from xenflow.store.schema import Role, StoreWriter


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    """A controller's answer, with a row of each kind."""
    network = make_network(4, 3, 20, 20)
    table = RuleTable(network, "edge", None, WrittenSwitch().clock, bound)
    leases = Leases()
    leases.take("r3", "somebody", 10.0, None)
    nothing = cast(Any, None)
    answers: list[bytes] = []
    store = MemoryStore(MemoryDatabase(), nothing, StoreWriter(Role.CONTROLLER, "edge"))
    follower = StoreFollower(store, "edge", nothing, None, table, nothing, leases)
    ManagementService(table, leases, "test", nothing, nothing, follower).take(
        mg.request("status", "1"), answers.append
    )
    found: dict[str, Any] = json.loads(answers[0])
    placement = found["placements"][0]
    switch = table.switches[placement["datapath"]]
    for key in to_json(switch.placements[placement["router"]]):
        del placement[key]  # described where a placement is
    return found


def documented() -> dict[str, list[str]]:
    """The keys of each part of the answer, in the document's order."""
    text = (ROOT / "docs" / "messages.md").read_text()
    _, table = text.split("\n| of | key | what |\n| --- | --- | --- |\n")
    keys: dict[str, list[str]] = {}
    of = ""
    for row in table.split("\n\n")[0].splitlines():
        part, named, _ = row.removeprefix("|").split("|", 2)
        of = part.strip() or of
        keys.setdefault(of, []).extend(named.strip().split(", "))
    return keys


KEYS = documented()


def test_the_parts_of_the_answer_are_described() -> None:
    assert [*KEYS] == [
        "the controller",
        "a datapath",
        "audit",
        "the store",
        "a router",
        "a placement",
        "a migration",
    ]


@pytest.mark.parametrize("of", KEYS)
def test_the_keys_of_status_are_those_of_the_document(of: str, answer: dict[str, Any]) -> None:
    parts = {
        "the controller": answer,
        "a datapath": answer["datapaths"][0],
        "audit": answer["datapaths"][0]["audit"],
        "the store": answer["store"],
        "a router": answer["routers"][0],
        "a placement": answer["placements"][0],
        "a migration": answer["migrations"][0],
    }
    assert sorted(KEYS[of]) == sorted(parts[of].keys() - {"v", "id", "ok"})


def test_what_is_held_for_a_vm_is_described(answer: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "messages.md").read_text()
    assert f"{{{', '.join(answer['routers'][0]['held'])}}}" in text
