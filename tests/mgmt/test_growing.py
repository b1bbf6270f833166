"""Before a move: a router's links grow to the host where it shall go."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mgmt import growing
from mgmt.planning import Plan
from mgmt.session import ManagementSession
from mgmt.verbs import migrate
from tests.planner.test_grow import LIMITED, TEXT
from xenflow.model.network import Network, NetworkError
from xenflow.model.placement import at_home
from xenflow.plan.migration import Order
from xenflow.store import network_file

STORED = ("unix:/run/db.sock",)


def session(text: str, store: tuple[str, ...] = STORED) -> ManagementSession:
    network = replace(network_file.parse(text, "a.toml")[0], store=store)
    return ManagementSession(network, 1.0, 7)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the planner was asked; the network that is learned afterwards has grown."""
    found: list[tuple[Any, ...]] = []

    def ask_planner(_: ManagementSession, verb: str, **arguments: Any) -> dict[str, Any]:
        found.append((verb, arguments))
        return {"change": 8, "concerns": {"recv": 8}, "changed": {}}

    def learn(network: Network, _: float) -> tuple[Network, int]:
        wanted = growing.to_text(growing.grown(network, "vr1", "host-b"))
        return network_file.parse(wanted, "a", network, in_store=True)[0], 8

    def in_force(_: ManagementSession, made: dict[str, Any], limit_s: float) -> list[str]:
        found.append(("await", made["concerns"]))
        return []

    monkeypatch.setattr(growing, "ask_planner", ask_planner)
    monkeypatch.setattr(growing, "learn", learn)
    monkeypatch.setattr(growing, "await_in_force", in_force)
    return found


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, asked: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The same, beside the moves that were planned: whether their links lead there."""

    def plan(network: Network, router: str, to: str, mode: str, *_: Any, known: Any = None) -> Plan:
        reached = all(k.tree.reaches(to) for k in network.links.values())
        asked.append(("plan", reached, known is not None))
        made = at_home(router, network.routers[router].home)
        about: Any = (network, network.routers[router], made, to, Order(mode), (), (), {})
        return Plan(*about)

    monkeypatch.setattr(growing.planning, "plan", plan)
    return asked


NONE: Any = None


def test_it_is_planned_first_then_grown_then_planned_from_what_there_is(
    planned: list[tuple[Any, ...]],
) -> None:
    before = session(LIMITED)
    made = growing.plan(before, "vr1", "host-b", "overlapped", NONE)
    assert planned == [("plan", True, True)] and "they grow first" in made.notes[-1]
    with growing.reaching(before, made, NONE) as (near, at_last):
        assert near.change == 8
        assert at_last.network is near.network and not at_last.notes
    grow = ("grow", {"router": "vr1", "to": "host-b"})
    assert planned[1:] == [grow, ("await", {"recv": 8}), ("plan", True, False)]


def test_a_move_that_is_refused_has_nothing_grow(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing.planning, "plan", refusing)
    monkeypatch.setattr(ManagementSession, "note", lambda *_: None)
    arguments = ("vr1", "host-b", "overlapped", 1.0, False, False, False, False)
    names = ("router", "host", "mode", "pause", "dry_run", "json", "force", "step")
    with pytest.raises(NetworkError, match="no way"):
        migrate.run(Namespace(**dict(zip(names, arguments, strict=True))), session(LIMITED))
    assert asked == []


def refusing(*_: Any, **__: Any) -> Plan:
    raise NetworkError("no way")


def test_what_others_had_grow_just_before_is_waited_for_too(
    planned: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        growing, "ask_planner", lambda *_, **__: {"change": 0, "concerns": {"gen": 8}}
    )
    before = session(LIMITED)
    made = growing.plan(before, "vr1", "host-b", "overlapped", NONE)
    with growing.reaching(before, made, NONE) as (near, _):
        assert near.change == 8
    assert planned[1:] == [("await", {"gen": 8}), ("plan", True, False)]


@pytest.mark.parametrize(
    "made",
    [lambda: session(TEXT), lambda: session(LIMITED, store=())],
    ids=["reached already", "no store"],
)
def test_where_nothing_can_or_must_grow_it_is_the_same(
    planned: list[tuple[Any, ...]], made: Callable[[], ManagementSession]
) -> None:
    before = made()
    plan = growing.plan(before, "vr1", "host-b", "overlapped", NONE)
    with growing.reaching(before, plan, NONE) as near:
        assert near == (before, plan) and plan.notes == ()
    assert [what for what, *_ in planned] == ["plan"]


def test_what_is_not_in_force_is_not_moved_over(
    planned: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = "recv: change 8 is not in force there"
    monkeypatch.setattr(growing, "await_in_force", lambda *_: [late])
    before = session(LIMITED)
    made = growing.plan(before, "vr1", "host-b", "overlapped", NONE)
    with (
        pytest.raises(NetworkError, match="recv: change 8 is not in force there"),
        growing.reaching(before, made, NONE),
    ):
        pass
