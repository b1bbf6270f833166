"""Whatever is applied one after another: what must hold of the planner's book each time.

Random networks of a few switches, each the one before with some changes, with numbers that the file
names or does not; switches are in force or late.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from tests.store.memory_store import MemoryDatabase
from xenflow.model.network import PARTS, Network, NetworkError
from xenflow.planner.book import WATCHED, Book, Proposal
from xenflow.store.network_rows import concerned
from xenflow.store.network_store import WholeView
from xenflow.store.network_text import to_text
from xenflow.store.transaction import Committed, Insert, Update, equal, row_id, wait_for_none

FENCE = wait_for_none("Event", equal(number=0))
CLUSTER = "memory"
HOSTS, SWITCHES = ("h1", "h2", "h3"), ("s1", "s2")
LABELS = (["10-20", "2058-2068"], ["1-4000"])
STEPS = 12


class Living:
    """The book, its store, and who is how far."""

    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.book = Book()
        self.reached: dict[str, int] = {}
        self.hear()

    def hear(self) -> None:
        tables = self.database.tables
        rows = {w.table: {u: dict(row) for u, row in tables[w.table].items()} for w in WATCHED}
        self.book.hear(WholeView(rows))

    def write(self, operations: Any) -> None:
        if operations:
            outcome = self.database.transact(tuple(operations))
            assert isinstance(outcome, Committed), outcome
            self.hear()

    def propose(self, text: str) -> Proposal:
        return self.book.propose(text, "FILE", "ada", 0, FENCE, cluster=CLUSTER)

    def in_force(self, switches: list[str]) -> None:
        change, network = self.book.change, self.book.network
        for name in switches:
            row = {"switch": name, "cluster": CLUSTER, "in_force": change, "release": "1"}
            there = self.database.tables["Switch_State"].items()
            uuid = next((u for u, known in there if known["switch"] == name), "")
            own = {"host": network.datapaths[name].controller}
            new = Insert("Switch_State", {**row, **own})
            self.write([Update("Switch_State", row_id(uuid), row) if uuid else new])
            self.reached[name] = change
        self.write(self.book.forget(FENCE, CLUSTER))


class Wished:
    """A network file that changes."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.other = dice.choice((["drop"], ["normal"], ["drop", "normal"]))
        self.parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        self.number = 0
        for name in (*HOSTS[:2], SWITCHES[0]):
            self.switch(name)
        self.cable("h1", "h2")
        self.link("l1")
        self.router("r1")

    def text(self) -> str:
        lines = ['[network]\nname = "random"']
        for part, entries in self.parts.items():
            lines += [f"[{part}]", *(f"{name} = {_toml(one)}" for name, one in entries.items())]
        return "\n".join((*lines, ""))

    def proposed(self, living: Living) -> Proposal | None:
        """What the planner makes of some changes; None where it refuses them, and they are none."""
        former = json.dumps(self.parts)
        for _ in range(self.dice.choice((1, 1, 3))):
            self.change()
        try:
            return living.propose(self.text())
        except NetworkError:
            self.parts = json.loads(former)
            return None

    def switch(self, name: str) -> None:
        n = (*HOSTS, *SWITCHES).index(name) + 1
        at = {"openflow": f"10.0.0.{n}:6633", "manage": f"tcp://10.0.0.{n}:6640"}
        self.parts["controllers"][name] = at
        kind = "host" if name in HOSTS else "plain"
        about = {"kind": kind, "controller": name, "other": self.dice.choice(self.other)}
        others = [*self.parts["datapaths"]]
        self.parts["datapaths"][name] = about
        if others:
            self.cable(name, self.dice.choice(others))

    def cable(self, a: str, b: str) -> None:
        self.number += 1
        name = f"c{self.number}"
        about: dict[str, Any] = {"ends": [f"{a}:{name}", f"{b}:{name}"]}
        about |= self.some(mbps=(100, 1000), mtu=(1500, 9000), cost=(1, 5), labels=LABELS)
        self.parts["cables"][name] = about

    def link(self, name: str) -> None:
        self.number += 1
        about = self.some(id=(1, 2, 3), vlan=(10, 11, 12, 100), mbps=(10, 100), mtu=(1500,))
        about |= self.some(span=([], ["h1"]), root=("h1", "h2"), disjoint_from=(["l1"],))
        about |= self.some(access=([{"at": f"h1:a{self.number}"}],))
        self.parts["links"][name] = about

    def router(self, name: str) -> None:
        links = self.dice.sample([*self.parts["links"]], 1)
        about = {"home": self.dice.choice(HOSTS[:2]), "interfaces": links}
        self.parts["routers"][name] = about | self.some(id=(1, 2, 3), running=(False,))

    def some(self, **values: Any) -> dict[str, Any]:
        return {k: self.dice.choice(v) for k, v in values.items() if self.dice.random() < 0.2}

    def change(self) -> None:
        dice = self.dice
        kind = dice.choice(("switch", "cable", "link", "link", "router", "less", "less"))
        if kind == "cable":
            self.cable(*dice.sample([*self.parts["datapaths"]], 2))
        elif kind == "link":
            self.link(f"l{dice.randint(1, 5)}")
        elif kind == "router" and self.parts["links"]:
            self.router(f"r{dice.randint(1, 3)}")
        elif kind == "switch":
            self.switch(dice.choice((HOSTS[2], *SWITCHES)))
        elif kind == "less":
            part = self.parts[dice.choice(("links", "routers", "cables"))]
            part.pop(dice.choice([*part] or [""]), None)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(one)}' for key, one in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def numbers(network: Network) -> Mapping[str, Mapping[Any, Any]]:
    """What nobody else is given."""
    return {
        "dpid": {name: d.dpid for name, d in network.datapaths.items()},
        "link": {name: (link.id, *link.labels) for name, link in network.links.items()},
        "router": {name: router.id for name, router in network.routers.items()},
        "mac": {
            (r.name, i.name, i.link): i.mac for r in network.routers.values() for i in r.interfaces
        },
    }


class Owners:
    """Who had which numbers, where, until all have forgotten it."""

    def __init__(self) -> None:
        self.gone: list[tuple[str, Any, frozenset[str], int]] = []

    def check(self, before: Network, living: Living) -> None:
        now = living.book.network
        change = living.book.change
        for kind, part in (("links", now.links), ("routers", now.routers)):
            for name, old in getattr(before, kind).items():
                new: Any = part.get(name)
                same = new is not None and new.id == old.id
                if not same or (kind == "links" and new.labels != old.labels):
                    at = concerned(before)["Laid_Link" if kind == "links" else "Laid_Element"]
                    self.gone.append((kind, old, at[name], change))
        self.gone = [
            one
            for one in self.gone
            if any(living.reached.get(name, 0) < one[3] for name in one[2] & now.datapaths.keys())
        ]
        for kind, old, where, _ in self.gone:
            for new in (one for one in getattr(now, kind).values() if one.name != old.name):
                assert new.id != old.id, f"{new.name} has the id of {old.name}"
                if kind == "links" and {*new.labels} & {*old.labels}:
                    assert where.isdisjoint(new.tree.up), f"{new.name} has labels of {old.name}"


def kept(before: Network, after: Network) -> None:
    """Numbers stay when others come and go."""
    olds, news = numbers(before), numbers(after)
    for kind, old in olds.items():
        both = old.keys() & news[kind].keys()
        assert {k: old[k] for k in both} == {k: news[kind][k] for k in both}, kind


def apart(network: Network) -> None:
    """No two at one switch have a label in common."""
    links = [*network.links.values()]
    for n, link in enumerate(links):
        for other in links[:n]:
            both = {*link.labels} & {*other.labels}
            assert not both or network.labels_by_switch, (link, other)
            assert not both or link.tree.up.keys().isdisjoint(other.tree.up), (link, other)


@pytest.mark.parametrize("seed", range(24))
def test_what_holds_after_each_change(seed: int) -> None:
    dice = Random(seed)
    living, owners, wished = Living(), Owners(), Wished(dice)
    made = 0
    for _ in range(STEPS):
        before = living.book.network
        if (proposal := wished.proposed(living)) is None:
            continue
        living.write(proposal.transaction)
        made += bool(proposal.number)
        network = living.book.network
        assert network == proposal.network
        assert all({*getattr(network, part)} == {*wished.parts[part]} for part in PARTS)
        kept(before, network)
        apart(network)
        owners.check(before, living)
        assert living.propose(to_text(network)).number == 0, "what is exported says nothing new"
        assert living.propose(wished.text()).number == 0, "nor does the same file"
        if proposal.number > 1 and dice.random() < 0.3:
            with suppress(NetworkError):  # a tree that has grown may not fit what there was
                undo = living.propose(living.book.undone(proposal.number))
                assert {part: getattr(undo.network, part).keys() for part in PARTS} == {
                    part: getattr(before, part).keys() for part in PARTS
                }
                kept(before, undo.network)
        if dice.random() < 0.5:
            names = [*network.datapaths]
            living.in_force(dice.choice((names, dice.sample(names, 1))))
    assert made > 1
