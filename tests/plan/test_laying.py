"""Where links lie: by the network alone, or where they have lain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from tests import random_sites
from xenflow.model.difference import refusals, rejoined
from xenflow.model.network import (
    Cable,
    Controller,
    Datapath,
    DatapathKind,
    End,
    Link,
    Network,
)
from xenflow.plan.laying import lay, lay_on
from xenflow.store import network_file

CAMPUS = network_file.load(Path(__file__).parents[2] / "conf" / "campus.toml")


def shuffled(network: Network, dice: Random) -> Network:
    def other(part: dict[str, object]) -> dict[str, object]:
        return dict(dice.sample([*part.items()], len(part)))

    parts = ("controllers", "datapaths", "cables", "links", "routers")
    return replace(network, **{part: other(getattr(network, part)) for part in parts})


@pytest.mark.parametrize("seed", range(20))
def test_in_another_order_links_stay_where_they_lie(seed: int) -> None:
    dice = Random(seed)
    network = CAMPUS if seed % 2 else random_sites.network(dice)
    again = lay_on(shuffled(network, dice), network)
    for name, link in network.links.items():
        assert again.links[name].tree is link.tree
    assert again.digest == network.digest


def with_a_leaf(network: Network) -> Network:
    """One switch more, at the first one."""
    first = next(iter(network.datapaths.values()))
    leaf = Datapath("leaf", DatapathKind.PLAIN, 0xFFFF, first.controller)
    cable = Cable("leaf", End(first.name, "to-leaf"), End("leaf", "up"))
    return replace(
        network,
        datapaths={"leaf": leaf, **network.datapaths},
        cables={"leaf": cable, **network.cables},
    )


def test_a_tree_grows_by_a_leaf_and_loses_it() -> None:
    grown = lay_on(with_a_leaf(CAMPUS), CAMPUS)
    for name, link in CAMPUS.links.items():
        more = {**link.tree.up, "leaf": grown.cables["leaf"]}
        assert grown.links[name].tree.up == (link.tree.up if link.cables else more)
    assert refusals(CAMPUS, grown) == []
    back = lay_on(CAMPUS, grown)
    assert back.digest == CAMPUS.digest and refusals(grown, back) == []


def test_what_a_lost_cable_reached_is_reached_another_way() -> None:
    used = {c.name for link in CAMPUS.links.values() for c in link.tree.up.values() if c}
    for name in used:
        fewer = {n: c for n, c in CAMPUS.cables.items() if n != name}
        without = replace(CAMPUS, cables=fewer)
        found, anew = lay_on(without, CAMPUS), lay(without)
        for link in CAMPUS.links.values():
            tree = found.links[link.name].tree
            assert name not in {c.name for c in tree.up.values() if c}
            cut = {n for n, c in link.tree.up.items() if c and c.name == name}
            # Who lay behind it is reached anew or not at all; all others lie as they did.
            behind = {n for n in link.tree.up if cut & set(link.tree.path(n, root(link.tree)))}
            for datapath in link.tree.up.keys() - behind:
                assert tree.up[datapath] == link.tree.up[datapath]
            assert tree.up.keys() == anew.links[link.name].tree.up.keys()


def root(tree: object) -> str:
    return next(name for name, cable in tree.up.items() if cable is None)  # type: ignore[attr-defined]


def test_who_wishes_something_else_is_laid_anew() -> None:
    link = replace(CAMPUS.links["left"], root="host-d")
    other = replace(CAMPUS, links={**CAMPUS.links, "left": link})
    assert lay_on(other, CAMPUS).links["left"].tree == lay(other).links["left"].tree


def without(network: Network, gone: str) -> Network:
    """A host that is dead, its controller, and what links have there."""
    cables = {c.name for c in network.cables_of[gone]}
    links = {
        name: replace(
            link,
            access=tuple(a for a in link.access if a.end.datapath != gone),
            root="" if link.root == gone else link.root,
            cables=tuple(c for c in link.cables if c not in cables),
        )
        for name, link in network.links.items()
    }
    return replace(
        network,
        controllers={n: c for n, c in network.controllers.items() if n != gone},
        datapaths={n: d for n, d in network.datapaths.items() if n != gone},
        cables={n: c for n, c in network.cables.items() if n not in cables},
        links=links,
        routers={},
    )


def test_where_the_root_has_gone_it_grows_from_what_is_left() -> None:
    """A ring of three, two links: what does not lie over the lost host stays; who had led over it
    finds another way, and nothing of that is refused."""
    hosts = [Datapath(n, DatapathKind.HOST, i, n) for i, n in enumerate("abc", 1)]
    cables = [Cable(x + y, End(x, f"to-{y}"), End(y, f"to-{x}")) for x, y in ("ab", "bc", "ca")]
    ring = Network(
        "ring",
        {n: Controller(n, ("127.0.0.1", 6633), f"tcp://10.0.0.{i}:1") for i, n in enumerate("abc")},
        {d.name: d for d in hosts},
        {c.name: c for c in cables},
        {n: Link(n, i, i, i + 2048, root=n) for i, n in enumerate("ab", 1)},
        {},
    )
    ring = lay(ring)
    fewer = lay_on(without(ring, "a"), ring)
    assert fewer.links["a"].tree.up == {"b": None, "c": ring.cables["bc"]}
    assert fewer.links["b"].tree.up == {"b": None, "c": ring.cables["bc"]}
    assert refusals(ring, fewer) == [] and rejoined(ring, fewer) == ["a"]
    stays = replace(fewer, controllers=ring.controllers)  # its host has gone alone: it may be alive
    assert "at b its tree would lie at its root" in refusals(ring, stays)[0]


def test_a_lost_root_moves_nobody_who_did_not_hang_on_it() -> None:
    gone = root(CAMPUS.links["one-two"].tree)
    fewer = without(CAMPUS, gone)
    found = lay_on(fewer, CAMPUS)
    for name, link in CAMPUS.links.items():
        tree = found.links[name].tree
        beside = [n for n, c in link.tree.up.items() if c and c.far(n).datapath != gone]
        if root(link.tree) == gone:
            kept = [n for n in beside if n in tree.up and tree.up[n] == link.tree.up[n]]
            assert not beside or kept
        assert tree.up.keys() <= fewer.datapaths.keys()


def test_a_link_that_lies_nowhere_keeps_its_labels_and_takes_no_tree_of_anothers() -> None:
    link = next(iter(CAMPUS.links.values()))
    about = {"access": (), "root": "", "vlan": 0, "detour_vlan": 0}
    nobody = replace(link, name="nobody", id=900, **about)
    one = lay_on(replace(CAMPUS, links={**CAMPUS.links, "nobody": nobody}), CAMPUS)
    assert one.links["nobody"].tree.up == {} and all(one.links["nobody"].labels)

    left = replace(link, name="left", id=901, **about)  # whom all have left, where it lay
    there = {"left": replace(left, tree=link.tree, vlan=9, detour_vlan=2057)}
    given = {"nobody": replace(one.links["nobody"], vlan=7, detour_vlan=2055)}
    before = replace(one, links={**one.links, **there, **given})
    wished = {"left": left, "nobody": nobody}
    again = lay_on(replace(before, links={**before.links, **wished}), before)
    assert again == before
