"""What a migration refuses before anything happens, and in which order it turns switches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.whole_network import load
from xenflow.model.network import Cable, End, NetworkError
from xenflow.model.placement import Mode, at_home
from xenflow.plan import migration as mig
from xenflow.plan.effects import Apply, AwaitReady
from xenflow.plan.migration import Order, Round
from xenflow.store.laying import lay

PATH = load("path").network


@pytest.mark.parametrize("order", Order)
def test_versions_never_go_back_on_any_switch(order: Order) -> None:
    stages = mig.stages(PATH, at_home("vr1", "host-a"), "host-b", order)
    seen = dict.fromkeys(PATH.datapaths, 0)
    for effect in (effect for stage in stages for effect in stage.effects):
        if isinstance(effect, Apply):
            for name in effect.datapaths:
                assert effect.placement.version >= seen[name]
                seen[name] = effect.placement.version
    assert sum(stage.commits for stage in stages) == 1
    settled = replace(at_home("vr1", "host-b"), version=max(seen.values()))
    last = [e.placement for e in stages[-1].effects if isinstance(e, Apply)][-1]
    assert replace(last, mode=settled.mode) == settled


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("host-a", "already"),
        ("s1", "plain switch"),
        ("host-x", "unknown host host-x"),
    ],
)
def test_impossible_destinations_are_refused_with_the_reason(to: str, why: str) -> None:
    with pytest.raises(NetworkError, match=why):
        mig.stages(PATH, at_home("vr1", "host-a"), to, Order.OVERLAPPED)


def test_a_destination_that_would_lose_a_neighbour_is_refused() -> None:
    left = replace(PATH.links["left"], cables=("gen-s1", "a-s1"))
    narrow = lay(replace(PATH, links={**PATH.links, "left": left}))
    with pytest.raises(NetworkError, match="no path from host-b to .* for virtual link left"):
        mig.stages(narrow, at_home("vr1", "host-a"), "host-b", Order.OVERLAPPED)


@pytest.mark.parametrize("mode", Mode)
def test_a_recovery_awaits_flows_only_where_switches_forward(mode: Mode) -> None:
    left = replace(at_home("vr1", "host-a"), mode=mode, reaches=("host-a", "host-b"))
    stages = mig.recovery_stages(PATH, left, "host-a", ["host-b"])
    awaited = [e for stage in stages for e in stage.effects if isinstance(e, AwaitReady)]
    assert awaited == ([] if mode is Mode.NATIVE else [AwaitReady("host-a")])


def test_switches_are_turned_from_the_destination_backwards() -> None:
    router = PATH.routers["vr1"]
    there = [Round((name,)) for name in ("s2", "host-c", "s1")]
    assert mig.turn_rounds(PATH, router, ["host-a"], "host-b") == there
    assert mig.turn_rounds(PATH, router, ["host-b"], "host-a") == there[::-1]


def test_links_that_cross_two_switches_in_opposite_orders_are_turned_one_by_one() -> None:
    """One link goes host-a, s1, s2, host-b, the other host-a, s2, s1, host-b."""
    more = {
        name: Cable(name, End(*one.split(":")), End(*other.split(":")))
        for name, one, other in (
            ("a-s2", "host-a:to-s2", "s2:to-a"),
            ("b-s1", "host-b:to-s1", "s1:to-b"),
            ("s1-s2", "s1:to-s2", "s2:to-s1"),
        )
    }
    left = replace(PATH.links["left"], cables=("gen-s1", "a-s1", "s1-s2", "b-s2", "recv-s2"))
    middle = replace(PATH.links["middle"], root="s1", cables=("b-s1", "s1-s2", "a-s2", "s1-c"))
    links = {**PATH.links, "left": left, "middle": middle}
    crossed = lay(replace(PATH, cables={**PATH.cables, **more}, links=links))
    vr1 = crossed.routers["vr1"]
    rounds = mig.turn_rounds(crossed, vr1, ["host-a"], "host-b")
    assert rounds == [Round(("s1",), ("left",)), Round(("s2",)), Round(("s1",))]
    turned = at_home("vr1", "host-b")
    (first, last) = (each.placement(turned, at_home("vr1", "host-a")) for each in rounds[::2])
    assert first == replace(turned, unturned=(("left", "host-a"),))
    assert last == turned
