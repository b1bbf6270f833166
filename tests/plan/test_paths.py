"""Trees over cables: what they reach, and at what cost, beside every tree that there could be."""

from __future__ import annotations

from itertools import combinations, pairwise
from random import Random

import pytest

from xenflow.model.network import Cable, Datapath, DatapathKind, End, Network, Tree
from xenflow.plan.paths import COST_1, CableMap, Up, cost


def network(dice: Random, switches: int, cables: int, **terms: tuple[int, ...]) -> Network:
    """Cables anywhere, several between two as well; terms: of what each is given one."""
    names = [f"s{n}" for n in range(switches)]
    made = {}
    for n in range(cables):
        one, other = dice.sample(names, 2)
        given = {key: dice.choice(values) for key, values in terms.items()}
        made[f"c{n}"] = Cable(f"c{n}", End(one, f"p{n}"), End(other, f"p{n}"), **given)
    datapaths = {
        name: Datapath(name, DatapathKind.PLAIN, n + 1, "c", other="drop")
        for n, name in enumerate(names)
    }
    return Network("random", {}, datapaths, made, {}, {})


def total(up: Up) -> int:
    return sum(cost(cable) for cable in up.values() if cable is not None)


def joined(names: set[str], cables: tuple[Cable, ...]) -> bool:
    """Whether cables join names, and whatever else they lead to is joined with them."""
    parts = [{name} for name in names | {e.datapath for c in cables for e in (c.a, c.b)}]
    for cable in cables:
        one = next(part for part in parts if cable.a.datapath in part)
        other = next(part for part in parts if cable.b.datapath in part)
        if one is not other:
            parts.remove(other)
            one |= other
    return any(names <= part for part in parts)


def cheapest(of: Network, names: set[str]) -> int | None:
    """The cost of the best tree, by trying all; None where there is none."""
    cables = [*of.cables.values()]
    every = (some for n in range(len(cables) + 1) for some in combinations(cables, n))
    return min((sum(map(cost, some)) for some in every if joined(names, some)), default=None)


@pytest.mark.parametrize("seed", range(40))
def test_beside_the_best_tree_that_there_is(seed: int) -> None:
    dice = Random(seed)
    of = network(dice, 5, 7, cost=(1, 2, 3, 10))
    wanted = set(dice.sample([*of.datapaths], dice.randint(1, 4)))
    root = min(wanted)
    up: Up = {root: None}
    left = CableMap(of).extend(up, None, sorted(wanted))
    best = cheapest(of, wanted)
    assert (best is None) == bool(left)
    if best is not None:
        assert best <= total(up) <= 2 * best
        if len(wanted) <= 2:
            assert total(up) == best
    tree = Tree(up)
    for name in up:  # one tree, with its root where it shall be
        assert tree.path(name, root)[-1] == root
    inner = {c.far(n).datapath for n, c in up.items() if c is not None}
    assert up.keys() - inner <= wanted | {root}  # it reaches for nothing that nobody wants


@pytest.mark.parametrize("seed", range(20))
def test_over_all_of_it_every_way_to_the_root_is_the_cheapest(seed: int) -> None:
    dice = Random(seed)
    of = network(dice, 6, 9, mbps=(0, 100, 1000, 10_000))
    up: Up = {"s0": None}
    CableMap(of).extend(up)
    tree = Tree(up)
    for name in of.datapaths:
        best = cheapest(of, {"s0", name})
        assert (best is None) == (name not in up)
        if best is not None:
            way = tree.path(name, "s0")
            assert sum(cost(tree.cable_between(*two)) for two in pairwise(way)) == best


def test_what_may_not_be_used_is_not() -> None:
    of = network(Random(3), 6, 12)
    up: Up = {"s0": None}
    CableMap(of).extend(up, lambda cable: cable.name in ("c1", "c5", "c7", "c9"))
    assert {c.name for c in up.values() if c} <= {"c1", "c5", "c7", "c9"}


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({}, COST_1),
        ({"mbps": 1000}, COST_1),
        ({"mbps": 10_000}, COST_1 // 10),
        ({"mbps": 100}, 10 * COST_1),
        ({"mbps": 100, "cost": 3}, 3 * COST_1),
    ],
)
def test_cost(terms: dict[str, int], expected: int) -> None:
    assert cost(Cable("c", End("a", "p"), End("b", "p"), **terms)) == expected
