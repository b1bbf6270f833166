"""What effects say of themselves: words, place, pace and undo."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from xenflow.model.placement import at_home
from xenflow.plan.effects import Apply, Effect, EndMove, MoveVM, Pace, Release, Unmirror, Unpause
from xenflow.plan.migration import Order, stages, undo_of
from xenflow.store.network_file import load

PAPER = load(Path(__file__).parents[2] / "conf" / "paper.toml")
START = at_home("vr1", "host-a")


def effects_of(order: Order) -> list[Effect]:
    """Of a move of vr1 from host-a to host-b."""
    return [e for stage in stages(PAPER, START, "host-b", order) for e in stage.effects]


def undo_before_the_commit_point(order: Order) -> list[Effect]:
    """Of all that is done before the VM is let run."""
    effects = effects_of(order)
    commit = next(n for n, effect in enumerate(effects) if isinstance(effect, Unpause))
    return undo_of(effects[:commit], START)


def test_the_words_of_a_migration() -> None:
    words = [effect.words() for effect in effects_of(Order.REPORT)]
    both = "forwarders host-a+host-b, VM host-b, links to host-a, xenflow; in force"
    assert words[3:12] == [
        "the hypervisor moves the VM from host-a to host-b, paused there",
        "the VM's interfaces exist on host-b",
        "host-b: forwarders host-a, VM host-b, links to host-a, xenflow; in force, "
        "unless a switch is late",
        "host-a sends packets held for the VM to host-b, unless a switch is late",
        "host-a: forwarders host-a, VM host-b, links to host-a, xenflow; in force, "
        "unless a switch is late",
        "host-a sends packets held for the VM to host-b, unless a switch is late",
        "the VM runs on host-b",
        "host-b: forwarders host-a, VM host-b, links to host-a, xenflow; in force, "
        "where a switch was late",
        "host-a sends packets held for the VM to host-b, where a switch was late",
    ]
    assert words[14:19] == [
        "host-a tells host-b its routes, and every change from now on",
        "flows read from host-a, ports translated, written to host-b",
        f"host-b: {both}",
        "host-b holds all flows, in force",
        f"host-a: {both}",
    ]
    assert words[-4:] == [
        "nothing arrives at host-a for the router any more",
        "host-a: forwarders host-b, VM host-b, links to host-b, xenflow; in force",
        "gen, recv, host-b: forwarders host-b, VM host-b, links to host-b, xenflow; confirmed",
        "host-a and host-b tell each other no more",
    ]


def test_every_kind_of_effect_has_its_use_and_names_its_place() -> None:
    seen: set[type] = set()
    for order in Order:
        for effect in [*effects_of(order), *undo_before_the_commit_point(order)]:
            seen.add(type(effect))
            assert effect.at, effect
            assert set(effect.at) <= set(PAPER.datapaths)
            assert all(name in effect.words() for name in effect.at)
    assert seen == set(get_args(Effect))


def test_a_stage_is_where_its_effects_are() -> None:
    prepare, *_ = stages(PAPER, START, "host-b", Order.OVERLAPPED)
    assert prepare.at == ("host-a", "host-b", "gen", "recv")


@pytest.mark.parametrize("order", [Order.OVERLAPPED, Order.REPORT])
def test_what_a_suspended_vm_waits_for_has_a_pace(order: Order) -> None:
    paces = [type(e) for e in effects_of(order) if e.pace is Pace.PROMPT]
    assert paces == [type(e) for e in effects_of(order) if e.pace is Pace.LATE]
    assert set(paces) == {Apply, Release}


@pytest.mark.parametrize("order", Order)
def test_the_vm_is_put_back_before_the_switches(order: Order) -> None:
    effects = effects_of(order)
    moved = next(n for n, effect in enumerate(effects) if isinstance(effect, MoveVM))
    assert EndMove not in map(type, undo_of(effects[:moved], START))
    assert undo_of(effects[: moved + 1], START)[0] == EndMove("host-a", "host-b")
    first, *rest = undo_before_the_commit_point(order)
    assert first == EndMove("host-a", "host-b") and EndMove not in map(type, rest)


def test_the_way_back_is_the_way_there_backwards() -> None:
    """Each switch gets what it had, under a newer version than all that was."""
    both = START.step(forwarders=("host-a", "host-b"), reaches=("host-a", "host-b"))
    gone = both.step(vm="host-b")
    there: list[Effect] = [Apply(("host-a",), both), Apply(("host-b",), both), Apply((), gone)]
    there += [Apply(("host-b",), gone), Apply(("host-a",), gone)]
    back = undo_of(there, START)
    assert [effect.at for effect in back] == [
        ("host-a",),
        ("host-b",),
        ("host-b",),  # what it has held for the VM is sent back
        ("host-b",),
        ("host-a",),
    ]
    assert back[2] == Release("host-b", "host-a")
    given = [effect.placement for effect in back if isinstance(effect, Apply)]
    assert [(p.forwarders, p.vm) for p in given] == [
        (both.forwarders, "host-a"),
        (both.forwarders, "host-a"),
        (START.forwarders, "host-a"),
        (START.forwarders, "host-a"),
    ]
    assert [p.version for p in given] == [gone.version + n for n in range(1, 5)]


def test_controllers_that_told_each_other_stop_last() -> None:
    assert undo_before_the_commit_point(Order.OVERLAPPED)[-1] == Unmirror("host-a", "host-b")
