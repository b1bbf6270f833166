"""A network's digest is the same in two releases, and another for whatever is not the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from typing import Any

import pytest

from xenflow.model.network import (
    Access,
    Cable,
    Controller,
    Datapath,
    DatapathKind,
    End,
    Interface,
    Link,
    Network,
    Pipeline,
    Router,
    Tree,
)

CABLE = Cable("c1", End("h", "to-s"), End("s", "to-h"))
NETWORK = Network(
    "small",
    {"c": Controller("c", ("127.0.0.1", 6633), "tcp://127.0.0.1:6640")},
    {
        "h": Datapath("h", DatapathKind.HOST, 1, "c", Pipeline.REACTIVE, proof="revalidator"),
        "s": Datapath("s", DatapathKind.PLAIN, 2, "c"),
    },
    {"c1": CABLE},
    {
        "left": Link(
            "left",
            1,
            101,
            2149,
            (Access(End("s", "p1"), (7,)),),
            tree=Tree({"s": None, "h": CABLE}),
        )
    },
    {"r1": Router("r1", 1, "h", "r1.ctl", (Interface("eth1", "left", 5, "r1.0"),))},
)


def test_the_next_release_has_the_same() -> None:
    """Where this must be changed, hosts of two releases say that their network files differ."""
    assert NETWORK.digest == "a41a236b7e4666d7"


@dataclass(frozen=True, slots=True)
class OtherwiseCalled(Router):
    """What a release might call a router."""

    asked_for: bool = False
    """What it might know of it."""


def test_what_a_class_is_called_and_what_nobody_gives_changes_nothing() -> None:
    router = NETWORK.routers["r1"]
    given = {each.name: getattr(router, each.name) for each in fields(Router)}
    called = replace(NETWORK, routers={"r1": OtherwiseCalled(**given)})
    assert called.digest == NETWORK.digest
    stored = replace(NETWORK, store=("unix:/run/ovsdb.sock",))
    assert stored == NETWORK and stored.digest == NETWORK.digest
    asked = replace(NETWORK, routers={"r1": OtherwiseCalled(**given, asked_for=True)})
    assert asked.digest != NETWORK.digest


def otherwise(value: Any) -> Iterator[tuple[str, Any]]:
    """The same with one thing in it changed, and what that is, for every thing in it."""
    match value:
        case bool():
            yield "", not value
        case Enum():
            yield "", next(one for one in type(value) if one is not value)
        case None:
            yield "", ()
        case int() | float():
            yield "", value + 1
        case str():
            yield "", f"{value}x"
        case Tree():
            yield "", Tree({**value.up, "h": None})
        case dict():
            for key, found in value.items():
                yield from ((f".{key}{at}", {**value, key: new}) for at, new in otherwise(found))
        case tuple():
            yield "[]", (*value, "more")
            for i, found in enumerate(value):
                changed = ((at, (*value[:i], new, *value[i + 1 :])) for at, new in otherwise(found))
                yield from ((f"[{i}]{at}", new) for at, new in changed)
        case _:
            assert is_dataclass(value) and not isinstance(value, type)
            for each in (each for each in fields(value) if each.compare):
                for at, new in otherwise(getattr(value, each.name)):
                    yield f".{each.name}{at}", replace(value, **{each.name: new})


@pytest.mark.parametrize(("what", "network"), list(otherwise(NETWORK)))
def test_whatever_differs_makes_another(what: str, network: Network) -> None:
    assert network != NETWORK
    assert network.digest != NETWORK.digest, what
