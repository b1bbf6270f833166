"""Before a move: a router's links grow to the host where it shall go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mgmt import growing
from mgmt.session import ManagementSession
from tests.planner.test_grow import LIMITED, TEXT
from xenflow.model.network import Network, NetworkError
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
        return {"change": 8, "concerns": {"recv": 8}}

    def learn(network: Network, _: float) -> tuple[Network, int]:
        wanted = growing.to_text(growing.grown(network, "vr1", "host-b"))
        return network_file.parse(wanted, "a", network, in_store=True)[0], 8

    def in_force(_: ManagementSession, concerns: dict[str, int], limit_s: float) -> list[str]:
        found.append(("await", concerns))
        return []

    monkeypatch.setattr(growing, "ask_planner", ask_planner)
    monkeypatch.setattr(growing, "learn", learn)
    monkeypatch.setattr(growing, "await_in_force", in_force)
    return found


def test_it_is_waited_for_and_planned_from(asked: list[tuple[Any, ...]]) -> None:
    before = session(LIMITED)
    with growing.reaching(before, "vr1", "host-b") as near:
        assert near.change == 8
        assert all(k.tree.reaches("host-b") for k in near.network.links.values())
    assert asked == [("grow", {"router": "vr1", "to": "host-b"}), ("await", {"recv": 8})]


def test_what_others_had_grow_just_before_is_waited_for_too(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        growing, "ask_planner", lambda *_, **__: {"change": 0, "concerns": {"gen": 8}}
    )
    with growing.reaching(session(LIMITED), "vr1", "host-b") as near:
        assert near.change == 8
    assert asked == [("await", {"gen": 8})]


def test_to_look_changes_nothing(
    asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    with growing.reaching(session(LIMITED), "vr1", "host-b", only_look=True) as near:
        assert all(k.tree.reaches("host-b") for k in near.network.links.values())
    assert asked == [] and "they would grow first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "made",
    [lambda: session(TEXT), lambda: session(LIMITED, store=())],
    ids=["reached already", "no store"],
)
def test_where_nothing_can_or_must_grow_it_is_the_same(
    asked: list[tuple[Any, ...]], made: Callable[[], ManagementSession]
) -> None:
    before = made()
    with growing.reaching(before, "vr1", "host-b") as near:
        assert near is before
    assert asked == []


def test_what_is_not_in_force_is_not_moved_over(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = "recv: change 8 is not in force there"
    monkeypatch.setattr(growing, "await_in_force", lambda *_: [late])
    with (
        pytest.raises(NetworkError, match="recv: change 8 is not in force there"),
        growing.reaching(session(LIMITED), "vr1", "host-b"),
    ):
        pass
