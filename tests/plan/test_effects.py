"""What holds of every plan's effects; what they are `scenarios/*.txt` shows."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from tests.conftest import ROOT
from xenflow.model.placement import at_home
from xenflow.plan.effects import Apply, Effect, Unpause
from xenflow.plan.migration import Order, stages, undo_of
from xenflow.store.network_file import load

PATH = load(ROOT / "conf" / "path.toml")
START = at_home("vr1", "host-a")


def effects_of(order: Order) -> list[Effect]:
    """Of a move of vr1 from host-a to host-b."""
    return [e for stage in stages(PATH, START, "host-b", order) for e in stage.effects]


def test_every_kind_of_effect_has_its_use_and_names_its_place() -> None:
    seen: set[type] = set()
    for order in Order:
        effects = effects_of(order)
        commit = next(n for n, effect in enumerate(effects) if isinstance(effect, Unpause))
        for effect in [*effects, *undo_of(effects[:commit], START)]:
            seen.add(type(effect))
            assert effect.at, effect
            assert set(effect.at) <= set(PATH.datapaths)
            assert all(name in effect.words() for name in effect.at)
    assert seen == set(get_args(Effect))


@pytest.mark.parametrize("order", Order)
def test_versions_never_go_back_on_any_switch(order: Order) -> None:
    made = stages(PATH, START, "host-b", order)
    seen = dict.fromkeys(PATH.datapaths, 0)
    for effect in (effect for stage in made for effect in stage.effects):
        if isinstance(effect, Apply):
            for name in effect.datapaths:
                assert effect.placement.version >= seen[name]
                seen[name] = effect.placement.version
    assert sum(stage.commits for stage in made) == 1
    settled = replace(at_home("vr1", "host-b"), version=max(seen.values()))
    last = [e.placement for e in made[-1].effects if isinstance(e, Apply)][-1]
    assert replace(last, mode=settled.mode) == settled
