"""Routers move anywhere in a network of many, one of them forwarded by its VM; the short form of
`scripts/random-moves`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lab import random_moves
from lab.description import Lab
from lab.judge import Verdict
from tests.lab.live import in_sync, settle
from tests.lab.needed import needs

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "bird", "nft", "tc", "ip")
pytestmark = needs(PROGRAMS)


def test_moves_by_chance_end_and_lose_nothing(lab_up: Callable[..., Lab], tmp_path: Path) -> None:
    lab = lab_up("campus", pause_s=0.1, precopy_s=0.1)
    settle(lambda: in_sync(lab), "every switch in sync")
    wanted = random_moves.RandomMovesOptions(moves=3, rate_pps=100.0, seed=3, baseline_s=2.0)
    outcome = random_moves.measure(lab, wanted, tmp_path)
    assert any(move.router in wanted.through_vm for move in outcome.moved.moves)
    assert outcome.verdict() is Verdict.PASSED, outcome.text()
