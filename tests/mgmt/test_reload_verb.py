"""`xenflow reload`: looked at everywhere first, done everywhere or nowhere, and waited for."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mgmt import waiting
from mgmt.client import Refused, Unreachable
from mgmt.session import ManagementSession
from mgmt.verbs import Exit, reload
from tests.conftest import ROOT
from xenflow.store.network_file import load

NETWORK = load(ROOT / "conf" / "paper.toml")
CHANGED = {"routers": {"added": ["vr9"], "removed": ["vr1"]}, "links": {"changed": ["left"]}}


class Controllers:
    """What each controller of the paper's network answers; in place of a `ManagementSession`."""

    def __init__(self) -> None:
        self.network = NETWORK
        self.changed: dict[str, Any] = CHANGED
        self.digests = dict.fromkeys(NETWORK.controllers, NETWORK.digest)
        self.instead: dict[str, Exception] = {}
        self.late: set[str] = set()
        self.asked: list[tuple[str, bool]] = []
        self.looks: list[list[str]] = []
        """The controllers that each look asks."""
        self.now = 0.0
        self.look_s = 0.0
        self.looked_at: list[float] = []

    def sleep(self, pause_s: float) -> None:
        self.now += pause_s

    def ask_all(
        self, verb: str, of: Iterable[str] = (), /, dry_run: bool = False
    ) -> dict[str, Any]:
        if verb == "status":
            self.looks.append(list(of))
            self.looked_at.append(self.now)
            self.now += self.look_s
            return {name: self._status(name) for name in of}
        self.asked.append((verb, dry_run))
        return {
            name: self.instead.get(name, {"digest": self.digests[name], "changed": self.changed})
            for name in NETWORK.controllers
        }

    def _status(self, controller: str) -> dict[str, Any]:
        return {
            "datapaths": [
                {"name": d.name, "connected": True, "in_sync": d.name not in self.late}
                for d in NETWORK.datapaths_of(controller)
            ]
        }


@pytest.fixture
def controllers() -> Controllers:
    return Controllers()


def run(controllers: Controllers, dry_run: bool = False, as_json: bool = False) -> int:
    args = Namespace(dry_run=dry_run, json=as_json)
    return reload.run(args, cast(ManagementSession, controllers))


def test_all_look_then_all_read(
    controllers: Controllers, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(controllers) == Exit.OK
    assert controllers.asked == [("reload", True), ("reload", False)]
    assert controllers.looks == [list(NETWORK.controllers)]
    assert capsys.readouterr().out == "routers: + vr9, - vr1\nlinks: ~ left\n"


def test_only_looked_at(controllers: Controllers, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(controllers, dry_run=True, as_json=True) == Exit.OK
    assert controllers.asked == [("reload", True)]
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] and said["controllers"]["edge"] == CHANGED


def test_nothing_new_is_said(controllers: Controllers, capsys: pytest.CaptureFixture[str]) -> None:
    controllers.changed = {}
    assert run(controllers) == Exit.OK
    assert controllers.asked == [("reload", True)]
    assert capsys.readouterr().out == "the network file says nothing new\n"


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (
            Refused("refused", "routers.vr1: id 1 cannot become 7\nlinks.left: no", "edge"),
            Exit.FAILED,
            ["edge: routers.vr1: id 1 cannot become 7", "edge: links.left: no"],
        ),
        (Unreachable("edge", "tcp://edge", "no answer"), Exit.UNREACHABLE, ["tcp://edge"]),
        (None, Exit.FAILED, ["controller edge: it has another network file than this command"]),
    ],
)
def test_where_one_cannot_nobody_does(
    controllers: Controllers,
    answer: Exception | None,
    status: Exit,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if answer is None:
        controllers.digests["edge"] = "0123456789abcdef"
    else:
        controllers.instead["edge"] = answer
    assert run(controllers) == status
    assert controllers.asked == [("reload", True)]
    said = capsys.readouterr()
    assert said.out == "" and all(line in said.err for line in words)


@pytest.mark.parametrize(("look_s", "looks"), [(0.01, range(80, 99)), (1.0, range(2, 4))])
def test_a_switch_that_stays_behind_is_named(
    controllers: Controllers,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    look_s: float,
    looks: range,
) -> None:
    """Only its controller is looked at again, and less often where a look costs more."""
    clock = SimpleNamespace(monotonic=lambda: controllers.now, sleep=controllers.sleep)
    monkeypatch.setattr(waiting, "time", clock)
    controllers.look_s = look_s
    controllers.late.add("gen")
    assert run(controllers) == Exit.FAILED
    assert len(controllers.looks) in looks
    assert all(asked == ["edge"] for asked in controllers.looks[1:])
    assert controllers.looked_at[1] - look_s == pytest.approx(max(0.1, 4 * look_s))
    assert reload.IN_FORCE_S < controllers.now <= reload.IN_FORCE_S + 2 * look_s
    assert "gen: the switch is still catching up" in capsys.readouterr().err
