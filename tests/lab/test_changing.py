"""How a step of a changing lab is carried out; no lab is up."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from lab import changing
from lab.changing import Change
from lab.description import parse_lab
from lab.state import LabOptions
from lab.steps import Do, Step
from tests.lab.grown import CAMPUS


@pytest.mark.parametrize("stays", [set(), {"m1", "r2"}])
def test_ways_that_do_not_turn_in_time_are_named(
    stays: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be no other way: then what goes on by the old one is lost, and is said to be."""
    monkeypatch.setattr(changing, "_DRAIN_S", 0.0)
    asked: list[str] = []

    def leads_by(node: str, gateways: Collection[str], targets: Collection[str]) -> bool:
        asked.append(node)
        assert gateways == {"10.0.1.1", "10.0.2.1"} and targets
        return node in stays

    monkeypatch.setattr(changing.routing, "leads_by", leads_by)
    lab = parse_lab(CAMPUS, str(Path("campus.toml")))
    way = [Step(Do.DRAIN, ("10.0.2.1",)), Step(Do.DRAIN, ("10.0.1.1",))]
    done: list[tuple[list[Step], str]] = []
    Change(lab, lab, CAMPUS, LabOptions()).carry_out(way, lambda *each: done.append(each))
    assert {"m1", "r2"} <= set(asked)
    ((steps, left),) = done
    assert steps == way
    assert left == (
        "not so after 0 s: ways of m1, r2 lead by 10.0.1.1, 10.0.2.1 still; "
        "what takes them is lost until they do not"
        if stays
        else ""
    )
