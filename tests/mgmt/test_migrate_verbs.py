"""`plan`, `migrate` and `recover` on the command line, with the orchestration replaced.

What a migration does is tested with it; here it is what the operator types and sees.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mgmt import cli, growing, hypervisor, planning
from mgmt.client import Refused, Unreachable
from mgmt.hypervisor import Drivers
from mgmt.session import ManagementSession
from mgmt.verbs import migrate, recover
from mgmt.verbs.migrate import Progress, ask_before
from xenflow.model.network import NetworkError
from xenflow.model.placement import at_home
from xenflow.plan import effects as fx
from xenflow.plan import migration as mig
from xenflow.store.network_file import load

PAPER = Path(__file__).parents[2] / "conf" / "paper.toml"


@dataclass(frozen=True)
class Stage:
    name: str
    title: str
    effects: tuple[fx.Effect, ...] = ()


@dataclass(frozen=True)
class Event:
    time_s: float
    step: str
    state: str
    detail: str = ""


@dataclass
class Plan:
    asked: tuple[Any, ...]
    stages: list[Stage] = field(
        default_factory=lambda: [
            Stage("prepare", "prepare the data plane on host-b"),
            Stage("control", "move the VM to host-b"),
        ]
    )
    new_mode: str = ""
    falls: str = ""
    notes: tuple[str, ...] = ()

    @property
    def network(self) -> Any:
        return self.asked[0]

    @property
    def router(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.asked[1])

    def text(self) -> str:
        return "1. prepare\n2. control"

    def json(self) -> dict[str, Any]:
        return {"steps": [stage.name for stage in self.stages]}

    def refuse_falling(self) -> None:
        if self.falls:
            raise NetworkError(self.falls)


@dataclass
class Result:
    ok: bool = True
    interrupted: bool = False

    def text(self) -> str:
        return "vr1 is on host-b" if self.ok else "vr1 is on host-a, as before"

    def json(self) -> dict[str, Any]:
        return {"ok": self.ok}


class Driver:
    """A hypervisor's."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Orchestration:
    """Stands in for `mgmt.planning` and `mgmt.migrate`."""

    def __init__(self) -> None:
        self.result = Result()
        self.refuse = ""
        self.new_mode = ""
        self.falls = ""
        self.left = True
        self.confirm: Callable[[Stage, bool], bool] | None = None
        self.ran: list[Plan] = []
        self.planned: list[Plan] = []
        self.drivers: list[Driver] = []

    def driver(self, network: Any, host: str) -> Driver:
        self.drivers.append(Driver())
        return self.drivers[-1]

    def plan(self, *asked: Any, known: Any) -> Plan:
        assert known is asked[0], "nothing has to grow"
        *_, drivers, _ = asked
        drivers.of("host-a")
        if self.refuse:
            raise NetworkError(self.refuse)
        self.planned.append(Plan(asked, new_mode=self.new_mode, falls=self.falls))
        return self.planned[-1]

    def plan_recovery(self, *asked: Any) -> Plan | None:
        if self.refuse:
            raise NetworkError(self.refuse)
        if not self.left:
            return None
        self.planned.append(Plan(asked))
        return self.planned[-1]

    @contextmanager
    def recovering(self, *asked: Any) -> Iterator[tuple[Plan, str] | None]:
        made = self.plan_recovery(*asked)
        yield (made, "its lease") if made else None

    def run(
        self,
        plan: Plan,
        ask: Any,
        drivers: Drivers,
        report: Callable[[Event], None],
        confirm: Callable[[Stage, bool], bool] | None = None,
        lease: str | None = None,
    ) -> Result:
        assert callable(ask)
        assert lease == ("its lease" if len(plan.asked) == 4 else None)
        opened: Any = drivers.of("host-a")
        assert opened is self.drivers[-1] and not opened.closed
        self.ran.append(plan)
        self.confirm = confirm
        report(Event(0.0, "prepare", "started"))
        report(Event(0.25, "prepare", "done"))
        report(Event(0.25, "control", "started"))
        report(Event(1.0, "control", "done" if self.result.ok else "failed", "3 packets held"))
        return self.result


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Orchestration]:
    module = Orchestration()
    for verb in (growing, recover):
        monkeypatch.setattr(verb, "planning", module)
    monkeypatch.setattr(migrate, "migrate", module)
    monkeypatch.setattr(hypervisor, "of", module.driver)
    yield module
    assert all(driver.closed for driver in module.drivers), "a hypervisor was left open"


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    exit = cli.main(["--network", str(PAPER), *argv])
    out, err = capsys.readouterr()
    return exit, out, err


def test_a_move_in_which_a_session_falls_is_refused_without_force(
    made: Orchestration, capsys: pytest.CaptureFixture[str]
) -> None:
    made.falls = "BFD would fall"
    exit, _, err = run(capsys, "migrate", "vr1", "host-b", "--pause", "0.4")
    assert (exit, made.ran) == (1, [])
    assert "BFD would fall" in err
    assert made.planned[0].asked[-1] == 0.4
    assert run(capsys, "plan", "vr1", "host-b")[0] == 0
    assert run(capsys, "migrate", "vr1", "host-b", "--force")[0] == 0
    assert len(made.ran) == 1


def test_plan(made: Orchestration, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "plan", "vr1", "host-b") == (0, "1. prepare\n2. control\n", "")
    exit, out, _ = run(capsys, "plan", "vr1", "host-b", "--json")
    assert (exit, json.loads(out)) == (0, {"steps": ["prepare", "control"]})
    made.refuse = "vr1 is on host-b already"
    assert run(capsys, "plan", "vr1", "host-b") == (1, "", f"xenflow: {made.refuse}\n")


def test_migrate(made: Orchestration, capsys: pytest.CaptureFixture[str]) -> None:
    exit, out, err = run(capsys, "migrate", "vr1", "host-b", "--mode", "report")
    assert (exit, out) == (0, "")
    assert err.splitlines() == [
        "    0.000  prepare the data plane on host-b ... done (0.250 s)",
        "    0.250  move the VM to host-b ... done (0.750 s): 3 packets held",
        "xenflow: vr1 is on host-b",
    ]
    network, router, to, mode, ask, _, _ = made.ran[0].asked
    assert (network.name, router, to, mode) == ("paper", "vr1", "host-b", "report")
    assert callable(ask)
    assert made.confirm is None


def test_migrate_as_json_and_dry(made: Orchestration, capsys: pytest.CaptureFixture[str]) -> None:
    exit, out, err = run(capsys, "migrate", "vr1", "host-b", "--json")
    assert (exit, json.loads(out)) == (0, {"ok": True})
    assert err.endswith("xenflow: vr1 is on host-b\n")
    assert run(capsys, "migrate", "vr1", "host-b", "-n") == (0, "1. prepare\n2. control\n", "")
    assert len(made.ran) == 1


def test_a_refusal_is_json_too(made: Orchestration, capsys: pytest.CaptureFixture[str]) -> None:
    made.refuse = "vr1 is on host-b already"
    for verb in ("migrate", "plan"):
        exit, out, err = run(capsys, verb, "vr1", "host-b", "--json")
        assert (exit, err) == (1, f"xenflow: {made.refuse}\n")
        assert json.loads(out) == {
            "router": "vr1",
            "to": "host-b",
            "mode": "overlapped",
            "ok": False,
            "refused": True,
            "error": made.refuse,
            "status": 1,
        }


def test_a_new_mode_is_said_first(made: Orchestration, capsys: pytest.CaptureFixture[str]) -> None:
    made.new_mode = "its mode becomes xenflow, it was native"
    err = run(capsys, "migrate", "vr1", "host-b")[2]
    assert err.startswith(f"xenflow: vr1: {made.new_mode}\n")


def test_migrate_that_fails(made: Orchestration, capsys: pytest.CaptureFixture[str]) -> None:
    made.result = Result(ok=False)
    exit, _, err = run(capsys, "migrate", "vr1", "host-b")
    assert exit == 1
    assert "move the VM to host-b ... failed (0.750 s)" in err
    made.result = Result(ok=False, interrupted=True)
    exit, _, err = run(capsys, "migrate", "vr1", "host-b")
    assert (exit, err.splitlines()[-1]) == (130, "xenflow: vr1 is on host-a, as before")


def test_migrate_without_a_controller(
    made: Orchestration, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: Any, **__: Any) -> Plan:
        raise Unreachable("host-b", "tcp://x", "no controller answers there")

    monkeypatch.setattr(made, "plan", silent)
    exit, _, err = run(capsys, "migrate", "vr1", "host-b")
    assert (exit, err) == (3, "xenflow: host-b (tcp://x): no controller answers there\n")


def test_step(
    made: Orchestration, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, "migrate", "vr1", "host-b", "--step")
    assert made.confirm is ask_before
    stage = Stage("control", "move the VM to host-b", (fx.Drain("host-a"), fx.Drain("host-b")))
    for typed, goes_on in (("y\n", True), ("maybe\nyes\n", True), ("no\n", False), ("", False)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert ask_before(stage, False) is goes_on  # type: ignore[arg-type]
    for typed, goes_on in (("\n", True), ("yes\n", True), ("no\n", False), ("", False)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert ask_before(stage, True) is goes_on  # type: ignore[arg-type]
        assert "no way back: press Enter" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO("no\n"))
    ask_before(stage, False)  # type: ignore[arg-type]
    first, second = (
        f"      nothing arrives at {host} for the router any more\n"
        for host in ("host-a", "host-b")
    )
    assert f"next: move the VM to host-b\n{first}{second}" in capsys.readouterr().err


def test_progress_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    progress = Progress(out, {"a": "do a", "b": "do b"})
    progress(Event(0.0, "a", "started"))  # type: ignore[arg-type]
    assert out.getvalue() == "    0.000  do a ... "
    progress(Event(0.5, "a", "done"))  # type: ignore[arg-type]
    progress(Event(0.5, "b", "started"))  # type: ignore[arg-type]
    progress(Event(0.7, "a", "undone", "as it was"))  # type: ignore[arg-type]
    progress.close()
    assert out.getvalue().splitlines() == [
        "    0.000  do a ... done (0.500 s)",
        "    0.500  do b ... ",
        "    0.000  do a ... undone (0.700 s): as it was",
    ]


def test_the_manual_shows_the_plan_that_is_printed() -> None:
    network, start = load(PAPER), at_home("vr1", "host-a")
    stages = tuple(mig.stages(network, start, "host-b", mig.Order.OVERLAPPED, {"vr1": start}))
    made = planning.Plan(
        network, network.routers["vr1"], start, "host-b", mig.Order.OVERLAPPED, stages, (), {}
    )
    manual = (PAPER.parents[1] / "docs" / "cli.md").read_text()
    assert f"$ xenflow plan vr1 host-b\n{made.text()}\n\n" in manual.replace("\n    ", "\n")


def test_recover(made: Orchestration, capsys: pytest.CaptureFixture[str]) -> None:
    exit, out, err = run(capsys, "recover")
    assert (exit, out) == (0, "") and "vr1 is on host-b" in err
    assert run(capsys, "recover", "vr1", "--dry-run")[1] == "1. prepare\n2. control\n"
    exit, out, _ = run(capsys, "recover", "--json")
    assert json.loads(out) == {"recovered": [{"ok": True}], "hypervisor": []}
    made.result = Result(ok=False)
    assert run(capsys, "recover")[0] == 1
    made.left = False
    assert run(capsys, "recover") == (0, "nothing to recover\n", "")
    made.refuse = "a migration of vr1 is under way"
    assert run(capsys, "recover") == (1, "", f"xenflow: {made.refuse}\n")


def test_recover_goes_on_with_the_next_router(
    made: Orchestration, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = PAPER.with_name("path.toml")
    first, *others = load(network).routers
    whole = made.plan_recovery

    def plan_recovery(network: Any, router: str, *asked: Any) -> Plan | None:
        if router == first:
            raise Refused("failed", "something went wrong there", "host-a")
        return whole(network, router, *asked)

    monkeypatch.setattr(made, "plan_recovery", plan_recovery)
    exit = cli.main(["--network", str(network), "recover", "--json"])
    out, err = capsys.readouterr()
    assert (exit, json.loads(out)["recovered"]) == (1, [{"ok": True}] * len(others))
    assert others and "something went wrong there" in err


def test_recover_asks_for_no_router_that_is_stopped(
    made: Orchestration, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    network = tmp_path / "path.toml"
    text = PAPER.with_name("path.toml").read_text()
    network.write_text(text.replace("[routers.vr1]", "[routers.vr1]\nrunning = false"))
    assert cli.main(["--network", str(network), "recover", "--json"]) == 0
    running = [r for r in load(network).routers.values() if r.running]
    assert len(running) == len(load(network).routers) - 1
    assert json.loads(capsys.readouterr().out)["recovered"] == [{"ok": True}] * len(running)


def test_recover_while_no_controller_answers(
    made: Orchestration, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object, **arguments: object) -> None:
        raise Unreachable("host-a", "tcp://x", "no controller answers there")

    monkeypatch.setattr(made, "plan_recovery", planning.plan_recovery)
    monkeypatch.setattr(ManagementSession, "ask", silent)
    exit, out, err = run(capsys, "recover", "-n")
    assert (exit, out) == (3, "") and "no controller answers there" in err


def test_recover_waits_for_a_silent_controller_once(
    made: Orchestration, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def ask(_: Any, controller: str, verb: str, /, timeout_s: Any = None, **__: Any) -> None:
        asked.append((controller, verb))
        raise Unreachable(controller, "tcp://x", "silent")

    network = PAPER.with_name("path.toml")
    monkeypatch.setattr(made, "plan_recovery", planning.plan_recovery)
    monkeypatch.setattr(ManagementSession, "ask", ask)
    assert cli.main(["--network", str(network), "recover", "-n"]) == 3
    assert sorted(asked) == sorted((name, "status") for name in load(network).controllers)
    assert capsys.readouterr().err.count("silent") == len(load(network).routers) > 1


def test_an_interrupted_recover_ends_after_the_router_that_it_was_at(
    made: Orchestration, capsys: pytest.CaptureFixture[str]
) -> None:
    made.result = Result(interrupted=True)
    exit = cli.main(["--network", str(PAPER.with_name("path.toml")), "recover"])
    assert (exit, len(made.ran)) == (130, 1)


def test_progress_that_nobody_reads_is_passed_over() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    progress = Progress(Closed(), {})
    for state in ("started", "note", "done"):
        progress(Event(0.0, "prepare", state))  # type: ignore[arg-type]
