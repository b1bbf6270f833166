"""Moves that were left: when they are recovered, and when that is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from xenflow.model.network import Network
from xenflow.planner.recovery import AGAIN_S, PATIENCE_S, Recovery
from xenflow.store import network_file

PAPER = network_file.load(Path(__file__).parents[2] / "conf" / "paper.toml")


class Recoveries:
    """Those that were begun, and what becomes of them."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.said: str | None = None
        self.stopped = 0
        self.told: list[tuple[str, str]] = []
        self.recovery = Recovery(self.begin, lambda *each: self.told.append(each))

    def begin(self, router: str, network: Network) -> Recoveries:
        assert network is PAPER
        self.begun.append(router)
        return self

    def ended(self) -> str | None:
        return self.said

    def stop(self) -> None:
        self.stopped += 1

    def tick(self, now: float, term: int = 1, **under_way: tuple[bool, ...]) -> list[str]:
        rows: Mapping[str, Any] = {
            router: tuple({"under_way": each, "words": "a move", "term": term} for each in told)
            for router, told in under_way.items()
        }
        self.recovery.tick(now, rows, PAPER)
        return self.begun


def test_it_is_recovered_once_nobody_has_heard_the_owner_for_a_while() -> None:
    found = Recoveries()
    assert found.tick(0.0, vr1=(True, True)) == []
    assert found.tick(50.0, vr1=(False, True)) == []
    assert found.tick(60.0, vr1=(False, False)) == []
    assert found.tick(60.0 + PATIENCE_S / 2, vr1=(False, True)) == []  # it was heard after all
    assert found.tick(70.0, vr1=(False, False)) == []
    assert found.tick(70.0 + PATIENCE_S, vr1=(False, False), other=(False,)) == ["vr1"]
    for now in (71.0, 200.0):  # it takes its time, and one is enough
        assert found.tick(now + PATIENCE_S, vr1=(True,)) == ["vr1"]
    found.said = ""
    found.tick(300.0)
    assert found.tick(900.0) == ["vr1"] and found.stopped == 0
    assert found.told == [("vr1", "")]


def test_what_does_not_succeed_is_tried_again_and_said(caplog: pytest.LogCaptureFixture) -> None:
    found = Recoveries()
    left = (False,)
    found.tick(0.0, vr1=left)
    found.tick(PATIENCE_S, vr1=left)
    found.said = "host-b is silent"
    found.tick(10.0, vr1=left)
    assert "vr1 is not recovered, which is tried again: host-b is silent" in caplog.text
    assert found.told == [("vr1", "host-b is silent")]
    assert found.tick(9.0 + AGAIN_S, vr1=left) == ["vr1"]
    assert found.tick(10.0 + AGAIN_S, vr1=left) == ["vr1", "vr1"]


def test_one_that_fails_is_tried_as_seldom_though_it_takes_the_lease() -> None:
    """Each try leaves the rows with another term, and its reason is told once."""
    found = Recoveries()
    found.tick(0.0, vr1=(False,))
    found.tick(PATIENCE_S, vr1=(False,))
    found.said = "host-b is silent"
    for now in range(10, 100):
        found.tick(float(now), term=len(found.begun) + 1, vr1=(False,))
    assert len(found.begun) == 3  # the third time at 11 + 2 * AGAIN_S
    assert found.told == [("vr1", "host-b is silent")]


def test_what_cannot_be_begun_is_tried_again() -> None:
    told: list[tuple[str, str]] = []

    def start(router: str, _: Network) -> Recoveries:
        raise OSError(28, "No space left on device")

    recovery = Recovery(start, lambda *each: told.append(each))
    for now in (0.0, PATIENCE_S, PATIENCE_S + 1.0):
        rows: Any = {"vr1": ({"under_way": False, "words": "a move"},)}
        recovery.tick(now, rows, PAPER)
    assert told == [("vr1", "[Errno 28] No space left on device")]


def test_one_that_is_under_way_is_stopped_where_another_plans() -> None:
    found = Recoveries()
    found.tick(0.0, vr1=(False,))
    found.tick(PATIENCE_S, vr1=(False,))
    found.recovery.end()
    found.recovery.end()
    assert found.stopped == 1


def test_a_router_that_has_gone_is_not_recovered() -> None:
    found = Recoveries()
    found.tick(0.0, vr9=(False,), vr1=(False,))
    begun = found.tick(PATIENCE_S, vr9=(False,), vr1=(False,))
    assert begun == ["vr1"]  # and holds up none that is there
