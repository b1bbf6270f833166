"""Only the switches that a router's links lie on are told of its moves: whatever the others believe
meanwhile, it leads to where the router is once they are concerned."""

from __future__ import annotations

from random import Random

import pytest

from tests.plan.test_drain import Sent, by_chance
from tests.plan.test_migration_order import after, pace
from tests.whole_network import WholeNetwork, load
from xenflow.model.network import NetworkError
from xenflow.model.placement import Placement, at_home
from xenflow.plan import effects as fx
from xenflow.plan.migration import Order, astray, needed, reachable, stages

NETWORKS = {"path": load("path"), "campus": load("campus")}
NETWORKS |= {f"chance-{seed}": by_chance(seed) for seed in range(6)}


class World:
    """A network in which routers move; who is not told keeps its belief."""

    def __init__(self, name: str) -> None:
        self.now = WholeNetwork(NETWORKS[name])
        self.network = self.now.network
        self.truth: dict[str, Placement] = {}
        for router in self.network.routers.values():
            self.truth[router.name] = at_home(router.name, router.home)
            self.now.place(self.truth[router.name], *self.network.datapaths)
        self.told: list[tuple[int, int]] = []
        """Of each move: how many switches were told, and how many its links can lie on."""

    def move(self, router: str, to: str, order: Order) -> None:
        made = stages(self.network, self.truth[router], to, order, self.truth)
        told = set()
        for effect in (e for stage in made for e in stage.effects):
            if pace(effect) is fx.Pace.LATE:
                continue
            if isinstance(effect, fx.Drain):
                self.check(router, effect.host)
            if isinstance(effect, fx.Apply):
                told.update(effect.datapaths)
                self.truth[router] = effect.placement
            self.now = after(self.now, router, effect)
        could = reachable(self.network, self.network.routers[router])
        self.told.append((len(told), len(could)))

    def check(self, router: str, left: str | None = None) -> None:
        """Whatever neighbours send a router arrives once, and not where it has left."""
        label = f"{router}, after {len(self.told)} moves"
        given = {name: placed[router] for name, placed in self.now.placed.items()}
        described = self.network.routers[router]
        if left is None:  # nobody is just being told
            assert astray(self.network, described, self.truth[router], given) == set(), label
            hosts = needed(self.network, described, self.truth[router], given)
            assert hosts == {*self.truth[router].hosts}, label
        sent = Sent(self.now, label, self.network.routers[router])
        for what, journey in sent.journeys():
            if journey.looped or len(journey.ends) != 1:
                sent.fail(f"{what} must arrive once", journey)
            if left is not None and (left, router) in journey.taken_in:
                sent.fail(f"{what} arrives at {left} still", journey)


@pytest.mark.parametrize("name", NETWORKS)
def test_moves_that_only_those_concerned_hear_of(name: str) -> None:
    dice = Random(name)
    world = World(name)
    hosts = list(world.network.hosts)
    for _ in range(24):
        router = dice.choice(list(world.network.routers))
        to = dice.choice([h for h in hosts if h != world.truth[router].vm])
        try:
            world.move(router, to, dice.choice((Order.OVERLAPPED, Order.REPORT)))
        except NetworkError:
            continue
        for each in world.network.routers:
            world.check(each)
    assert any(told < could for told, could in world.told) or name == "path"
