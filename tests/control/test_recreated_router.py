"""A router that was destroyed, or stopped, and is there anew under its name, beside a controller
that was away all the time: what it had of the one before goes first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.control.test_store_follower import SMALL, Rig, removed
from xenflow.model.network import Network


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def with_vr1(**other: object) -> Network:
    return replace(SMALL, routers={"vr1": replace(SMALL.routers["vr1"], **other)})  # type: ignore[arg-type]


def routers(taken: list[Network]) -> list[list[tuple[str, int, int]]]:
    return [[(r.name, r.id, r.started) for r in network.routers.values()] for network in taken]


@pytest.mark.parametrize("other", [{"id": 9, "started": 4}, {"started": 4}], ids=["id", "start"])
def test_the_one_before_goes_first(rig: Rig, other: dict[str, int]) -> None:
    rig.write(SMALL, 1)
    rig.taken.clear()
    rig.write(with_vr1(**other), 4)
    assert routers(rig.taken) == [[], [("vr1", other.get("id", 1), 4)]]


def test_one_that_runs_on_stays(rig: Rig) -> None:
    rig.write(with_vr1(started=4), 4)
    rig.taken.clear()
    rig.write(with_vr1(started=4, image="other"), 5)
    assert routers(rig.taken) == [[("vr1", 1, 4)]]


def test_one_that_is_stopped_is_not_the_one_before(rig: Rig) -> None:
    """Nothing goes twice: who does not run is not there."""
    rig.write(SMALL, 1)
    rig.taken.clear()
    rig.write(with_vr1(running=False, id=9), 2)
    assert len(rig.taken) == 1


@pytest.mark.parametrize("how", ["destroyed", "anew", "lost"])
def test_what_was_left_of_its_move_holds_up_nothing(rig: Rig, how: str) -> None:
    """It, or the host, is no more: nobody could recover it, and nothing would be taken here."""
    after = {
        "destroyed": replace(SMALL, routers={}),
        "anew": with_vr1(started=4),
        "lost": removed(SMALL, "edge"),
    }[how]
    rig.write(SMALL, 1)
    rig.gen.prove()
    rig.recv.prove()
    rig.drain()
    rig.leases.take("vr1", "ada:1", 10.0, {"words": "a migration"})
    rig.write(with_vr1(image="other"), 2)
    assert rig.leases.under_way("vr1")
    rig.leases.give_back("vr1", "ada:1", unfinished=True)
    rig.write(with_vr1(image="another"), 3)
    assert rig.leases.unfinished("vr1")
    rig.write(after, 4)
    assert not rig.leases.unfinished("vr1") and rig.network.routers == rig.taken[-1].routers
    rig.tick()
    assert rig.rows("Migration") == []
    assert rig.leases.take("vr1", "eve:1", 10.0, None)["term"] == 2
