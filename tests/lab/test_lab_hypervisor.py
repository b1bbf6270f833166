"""The lab's hypervisor lets a router run on whatever stood in the way for a while.

`RouterNamespaces` stands for the namespaces here: what a lack of descriptors does to them can be
made to happen at one moment only in this way.
"""

from __future__ import annotations

import errno
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from lab import hypervisor
from lab.description import parse_lab
from lab.state import LabOptions
from tests.conftest import ROOT
from tests.lab.grown import CAMPUS, GROWN
from xenflow.store.network_file import load


class Namespaces:
    """One router that cannot be plugged in at the destination, nor, `failures` times, at home."""

    def __init__(self, failures: int) -> None:
        network = load(str(ROOT / "conf/paper.toml"))
        hosts = ["host-a", "host-b"]
        self.lab = SimpleNamespace(network=network, hosts=hosts, routers=network.routers)
        self.domains = {"vr1": {"host": "host-a", "state": hypervisor.RUNNING}}
        self.failures = failures

    def read_anew(self) -> None:
        self.domains["vr2"] = {"host": "host-b", "state": hypervisor.RUNNING}

    def router(self, name: str) -> Any:
        return self.lab.network.routers[name]

    def note(self, router: Any, host: str, state: str) -> None:
        self.domains[router.name] = {"host": host, "state": state}

    def suspend(self, router: Any, host: str) -> None:
        pass

    def move_ports(self, router: Any, source: str, to: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    def bring_back(self, router: Any, host: str, *, moved: bool) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        self.note(router, host, hypervisor.RUNNING)


def test_a_router_runs_on_once_it_can_be_brought_back(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    routers = Namespaces(failures=3)
    machine = hypervisor.EmulatedHypervisor(routers, hypervisor.Settings(precopy_s=0.0))

    def ask(**request: Any) -> dict[str, Any]:
        return machine.answer(json.dumps(request).encode())

    real = time.sleep

    def sleep(_: float) -> None:
        said.append(ask(verb="job", id="1")["job"]["detail"])
        real(0)

    monkeypatch.setattr(hypervisor, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    assert ask(verb="migrate", router="vr1", to="host-b", pause_s=0)["ok"]
    end = time.monotonic() + 120
    while (job := ask(verb="job", id="1")["job"])["state"] != hypervisor.FAILED:
        assert time.monotonic() < end
        real(0.01)
    assert (
        said
        == ["vr1 is suspended, not brought back to host-a yet: [Errno 24] Too many open files"] * 3
    )
    assert "Too many open files" in job["detail"]
    assert routers.domains["vr1"] == {"host": "host-a", "state": hypervisor.RUNNING}


def test_the_file_is_read_anew_while_every_router_runs_and_nothing_moves() -> None:
    routers = Namespaces(failures=0)
    machine = hypervisor.EmulatedHypervisor(routers, hypervisor.Settings(precopy_s=600.0))

    def ask(**request: Any) -> dict[str, Any]:
        return machine.answer(json.dumps(request).encode())

    assert ask(verb="reload", dry_run=True)["ok"] and list(routers.domains) == ["vr1"]
    routers.domains["vr1"]["state"] = hypervisor.PAUSED
    assert ask(verb="reload")["error"] == {"code": "busy", "message": "vr1 is paused"}
    routers.domains["vr1"]["state"] = hypervisor.RUNNING
    assert ask(verb="migrate", router="vr1", to="host-b")["ok"]
    assert ask(verb="reload")["error"] == {"code": "busy", "message": "vr1 is being migrated"}
    assert list(routers.domains) == ["vr1"]
    assert ask(verb="abort", router="vr1")["ok"]
    assert ask(verb="reload")["ok"] and list(routers.domains) == ["vr1", "vr2"]


def test_what_is_set_holds_for_a_move_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a stage lasts until somebody has done something in it, and no longer."""
    routers = Namespaces(failures=0)
    monkeypatch.setattr(routers, "move_ports", lambda *_: None)
    machine = hypervisor.EmulatedHypervisor(routers, hypervisor.Settings(600.0, 600.0, 600.0))

    def ask(**request: Any) -> dict[str, Any]:
        return machine.answer(json.dumps(request).encode())

    def until(state: str) -> None:
        end = time.monotonic() + 120
        while ask(verb="job", id="1")["job"]["state"] != state:
            assert time.monotonic() < end
            time.sleep(0.001)

    monkeypatch.setattr(routers, "resume", lambda *_, announce: None, raising=False)
    assert ask(verb="migrate", router="vr1", to="host-b")["ok"]
    for setting, state in (
        ("precopy_s", hypervisor.SUSPENDED),
        ("pause_s", hypervisor.MOVED_PAUSED),
        ("resume_after_s", hypervisor.RUNNING),
    ):
        assert ask(verb="set", **{setting: 0})["ok"]
        until(state)


def test_no_router_moves_while_the_lab_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = hypervisor.EmulatedHypervisor(Namespaces(failures=0), hypervisor.Settings())
    monkeypatch.setattr(hypervisor, "read_state", lambda: SimpleNamespace(phase="changing"))
    answer = machine.answer(b'{"verb": "migrate", "router": "vr1", "to": "host-b"}')
    assert answer["error"]["code"] == "busy"


def test_new_routers_run_at_home_and_those_that_are_gone_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, after = parse_lab(CAMPUS, "campus.toml"), parse_lab(GROWN, "grown.toml")
    written: list[dict[str, dict[str, str]]] = []
    domains = {name: {"host": "host-d", "state": "running"} for name in before.routers}
    monkeypatch.setattr(hypervisor, "read_domains", lambda: domains)
    monkeypatch.setattr(hypervisor, "write_domains", written.append)
    routers = hypervisor.RouterNamespaces(before, LabOptions())
    new = {name: {"host": after.routers[name].home, "state": "running"} for name in ("r6", "r7")}
    for lab, expected in ((after, {**domains, **new}), (before, domains)):
        monkeypatch.setattr(hypervisor, "load_lab", lambda _, lab=lab: lab)
        routers.read_anew()
        assert routers.lab is lab and routers.domains == written[-1] == expected
