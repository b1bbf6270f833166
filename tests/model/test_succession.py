"""A network that was made of another one is as one made at once, with all it has computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any

import pytest

from tests import random_sites
from tests.control.test_change import CAMPUS, by_chance
from xenflow.model.difference import compare, refusals
from xenflow.model.network import INDICES, PARTS, Interface, Network, Router
from xenflow.model.succession import changed_with, in_terms_of
from xenflow.plan.laying import lay

COMPUTED = (*INDICES, "hosts", "cables_of", "members_of", "trees_digest", "digest")


FREE = count(10_000)
"""Numbers that nobody has."""


def some(names: Iterable[str], dice: Random, at_most: int) -> list[str]:
    names = sorted(names)
    return dice.sample(names, min(at_most, len(names)))


def at_once(network: Network) -> Network:
    """The same, nothing being taken over."""
    return replace(network)


def warm(network: Network) -> Network:
    """The same, all being computed."""
    assert all(getattr(network, name) is not None for name in COMPUTED)
    return network


def same_as_at_once(network: Network) -> bool:
    new = at_once(network)
    return all(getattr(network, name) == getattr(new, name) for name in COMPUTED)


def other(network: Network, dice: Random) -> dict[str, dict[str, Any]]:
    """Some entries of a network that have gone, are otherwise or are new."""
    change: dict[str, dict[str, Any]] = {"links": {}, "routers": {}, "datapaths": {}}
    for name in some(network.links, dice, dice.randint(0, 2)):
        link = network.links[name]
        access = () if dice.random() < 0.5 else link.access
        change["links"][name] = replace(link, vlan=1_000 + next(FREE) % 3_000, access=access)
    for name in some(network.routers, dice, dice.randint(0, 2)):
        router = network.routers[name]
        interfaces = list(router.interfaces)
        dice.shuffle(interfaces)
        kept = tuple(interfaces[: dice.randint(0, len(interfaces))])
        made = replace(router, id=next(FREE), interfaces=kept)
        change["routers"][name] = dice.choice((None, made))
    if dice.random() < 0.5:
        on = tuple(
            Interface(f"eth{n}", link, 0x020000FF0000 + n, f"new.{n}")
            for n, link in enumerate(some(network.links, dice, 2))
        )
        change["routers"]["new"] = Router("new", next(FREE), min(network.hosts), "new.ctl", on)
    if dice.random() < 0.5:
        name = dice.choice(sorted(network.datapaths))
        change["datapaths"][name] = replace(network.datapaths[name], dpid=next(FREE))
    return change


@pytest.mark.parametrize("seed", range(60))
def test_changed_step_by_step_it_is_as_made_at_once(seed: int) -> None:
    dice = Random(seed)
    network = random_sites.network(dice)
    for _ in range(4):
        if dice.random() < 0.8:
            warm(network)
        change = other(network, dice)
        made = changed_with(network, **change)
        parts: dict[str, dict[str, Any]] = {}
        for part in PARTS:
            whole = {**getattr(network, part), **change.get(part, {})}
            parts[part] = {name: entry for name, entry in whole.items() if entry is not None}
        assert made == Network(network.name, **parts)
        assert same_as_at_once(made)
        for part in PARTS:
            same = not change.get(part)
            assert (getattr(made, part) is getattr(network, part)) == same
        network = made


def shuffled(network: Network, dice: Random) -> Network:
    """The same routers and links in another order."""
    names = {part: list(getattr(network, part)) for part in ("links", "routers")}
    for each in names.values():
        dice.shuffle(each)
    order = {part: {n: getattr(network, part)[n] for n in each} for part, each in names.items()}
    return replace(network, **order)


@pytest.mark.parametrize("seed", range(30))
def test_read_anew_it_keeps_what_is_the_same(seed: int) -> None:
    dice = Random(seed)
    before = warm(CAMPUS.network)
    for _ in range(4):
        read = by_chance(dice)
        if dice.random() < 0.3:
            read = shuffled(read, dice)
        made = in_terms_of(before, read)
        assert made == read
        for part in PARTS:
            entries = getattr(made, part)
            assert list(entries) == list(getattr(read, part))
            for name, entry in getattr(before, part).items():
                assert name not in entries or entries[name] is entry or entries[name] != entry
        assert same_as_at_once(made)
        before = warm(made)


@pytest.mark.parametrize("seed", range(30))
def test_the_difference_is_that_of_networks_made_at_once(seed: int) -> None:
    """Also where nothing of the one is an object of the other, and where the order alone is
    another: what floods on a bridged link follows it."""
    dice = Random(seed)
    before = CAMPUS.network
    for _ in range(4):
        read = by_chance(dice)
        if dice.random() < 0.3:
            read = shuffled(read, dice)
        made = in_terms_of(before, read)
        found = compare(before, made)
        assert found == compare(at_once(before), read)
        assert refusals(before, made) == refusals(at_once(before), read)
        common = before.links.keys() & read.links.keys()
        assert found.dirty_links == {
            *found.links.names,
            *(name for name in common if at_once(before).members(name) != read.members(name)),
        }
        before = made


def test_of_what_is_the_same_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    network = warm(CAMPUS.network)
    name = next(iter(network.links))
    made = changed_with(network, links={name: replace(network.links[name], access=())})
    looked: list[object] = []

    def seen(self: object, other: object) -> bool:
        looked.append(self)
        return True

    for kind in (Interface, Router):
        monkeypatch.setattr(kind, "__eq__", seen)
    found = compare(network, made)
    assert (found.links.changed, looked) == ((name,), [])
    assert made.trees_digest is network.trees_digest and made.members_of is network.members_of


def test_links_that_lie_the_same_have_one_tree() -> None:
    network = CAMPUS.network
    links = {n: replace(link, root="s1", cables=()) for n, link in network.links.items()}
    laid = lay(replace(network, links=links))
    assert len({id(link.tree) for link in laid.links.values()}) == 1
    again = lay(replace(network, links=links), laid)
    assert all(again.links[n].tree is link.tree for n, link in laid.links.items())
    cables = dict(list(network.cables.items())[1:])
    fewer = replace(network, links=links, cables=cables)
    assert lay(fewer, laid) == lay(fewer) != laid
