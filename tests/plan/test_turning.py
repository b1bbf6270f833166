"""Links lie on trees of their own, which cross the same switches in any order: whatever is turned
when, on whichever link, every packet arrives once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.plan.test_drain import Sent, by_chance, each_move, with_hosts
from tests.plan.test_migration_order import after, effects_of, moments
from tests.whole_network import WholeNetwork
from xenflow.model.placement import Placement, at_home
from xenflow.plan import effects as fx
from xenflow.plan import migration as mig
from xenflow.plan.migration import Order

SUBSETS = 4
KINDS = (("proactive",), ("reactive", "proactive"))
NETWORKS = {
    seed: with_hosts(by_chance(seed, more=5, own_trees=True), KINDS[seed % len(KINDS)])
    for seed in range(32)
}


def crossing() -> Iterator[tuple[int, str, str, str]]:
    """The moves in which some switch cannot be turned for all links at once."""
    for seed, made in NETWORKS.items():
        for router, source, to in each_move(made):
            described = made.network.routers[router]
            rounds = mig.turn_rounds(made.network, described, [source], to)
            if any(each.later for each in rounds):
                yield seed, router, source, to


CROSSING = list(crossing())
each_crossing = pytest.mark.parametrize(("seed", "router", "source", "to"), CROSSING)


def test_there_are_such_moves() -> None:
    assert len({seed for seed, *_ in CROSSING}) > 3


def at(seed: int, router: str, host: str) -> WholeNetwork:
    now = WholeNetwork(NETWORKS[seed])
    now.place(at_home(router, host), *now.network.datapaths)
    now.vifs[router], now.known[router] = host, {host}
    return now


def everything_arrives(now: WholeNetwork, router: str, label: str) -> None:
    sent = Sent(now, label, now.network.routers[router])
    for what, journey in sent.journeys():
        if journey.looped or len(journey.ends) != 1:
            sent.fail(f"{what} must arrive once", journey)


def one_placement_a_version(effects: list[fx.Effect]) -> None:
    """What a controller accepts: no switch is given another placement of the same version."""
    given: dict[int, Placement] = {}
    newest: dict[str, int] = {}
    for effect in effects:
        if isinstance(effect, fx.Apply):
            version = effect.placement.version
            assert given.setdefault(version, effect.placement) == effect.placement
            assert all(newest.get(name, version) <= version for name in effect.datapaths)
            newest |= dict.fromkeys(effect.datapaths, version)


@pytest.mark.parametrize("order", [Order.OVERLAPPED, Order.REPORT])
@each_crossing
def test_every_packet_arrives_once(
    seed: int, router: str, source: str, to: str, order: Order
) -> None:
    now = at(seed, router, source)
    one_placement_a_version(effects_of(now, router, to, order))
    for label, then in moments(now, router, effects_of(now, router, to, order), SUBSETS):
        everything_arrives(then, router, label)


@each_crossing
def test_every_packet_arrives_once_where_it_was_interrupted(
    seed: int, router: str, source: str, to: str
) -> None:
    """The links are turned on some switches already, on others link by link, on others not."""
    left = at(seed, router, source)
    newest = left.placed[source][router]
    for effect in effects_of(left, router, to, Order.OVERLAPPED):
        if not isinstance(effect, fx.Apply) or effect.placement.leads_to != to:
            left = after(left, router, effect)
            continue
        newest = effect.placement
        for some in {effect.datapaths, effect.datapaths[:1]}:
            then = left.copy()
            then.place(effect.placement, *some)
            recovered(then, router, replace(newest, version=0), to, f"{effect}, on {some}")
        left = after(left, router, effect)


def recovered(left: WholeNetwork, router: str, newest: object, to: str, label: str) -> None:
    given = {name: placements[router] for name, placements in left.placed.items()}
    hosts = tuple(sorted({host for placement in given.values() for host in placement.hosts}))
    now = replace(newest, reaches=hosts)  # type: ignore[type-var]
    others = [host for host in hosts if host != to]
    stages = mig.recovery_stages(left.network, now, to, others, given=given)
    effects = [effect for stage in stages for effect in stage.effects]
    one_placement_a_version(effects)
    for moment, then in moments(left, router, effects, SUBSETS):
        everything_arrives(then, router, f"recovering after {label}: {moment}")
    assert {then.placed[host][router] for host in hosts} == {at_home(router, to)}
