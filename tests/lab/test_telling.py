"""How controllers are told that the lab's network file has changed."""

from __future__ import annotations

from typing import Any, cast

import pytest

from lab.description import parse_lab
from lab.namespace import LabError
from lab.telling import tell_controllers
from mgmt.client import AskError, Refused, Unreachable
from mgmt.session import ManagementSession
from tests.lab.grown import CAMPUS, GROWN
from xenflow.model.network import Network

BEFORE, AFTER = parse_lab(CAMPUS, "campus.toml").network, parse_lab(GROWN, "grown.toml").network


class Controllers:
    """A session whose controllers have the file `read`, but for those that answer otherwise."""

    def __init__(self, read: Network, **others: AskError) -> None:
        self._read = read
        self._others = others
        self.asked: list[tuple[str, bool]] = []

    def ask_all(self, verb: str, *, dry_run: bool) -> dict[str, dict[str, Any] | AskError]:
        self.asked.append((verb, dry_run))
        answer = {"digest": self._read.digest, "changed": {}}
        return {name: self._others.get(name, answer) for name in ("edge", "other")}


def tell(controllers: Controllers, network: Network, *, dry_run: bool = False) -> None:
    tell_controllers(network, cast(ManagementSession, controllers), dry_run=dry_run)


@pytest.mark.parametrize("dry_run", [True, False])
def test_all_are_told_at_once(dry_run: bool) -> None:
    controllers = Controllers(AFTER)
    tell(controllers, AFTER, dry_run=dry_run)
    assert controllers.asked == [("reload", dry_run)]


def test_each_reason_is_said() -> None:
    controllers = Controllers(
        AFTER,
        edge=Refused("refused", "links.left: no\nrouters.r1: no", "edge"),
        other=Unreachable("other", "tcp://10.0.0.1:1", "no answer"),
    )
    with pytest.raises(LabError) as raised:
        tell(controllers, AFTER)
    assert str(raised.value).splitlines() == [
        "controller edge: links.left: no",
        "controller edge: routers.r1: no",
        "controller other (tcp://10.0.0.1:1): no answer",
    ]


def test_what_they_say_they_have_read_is_looked_at() -> None:
    with pytest.raises(LabError, match="controller edge has another network file"):
        tell(Controllers(BEFORE), AFTER)
