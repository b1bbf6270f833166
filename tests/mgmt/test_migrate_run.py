"""A whole migration by the real orchestration and the `xl` driver, on pretended hosts; only the
controllers' answers are made up.  Whatever happens, the switches follow the VM.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pretended_xen import PretendedXen

from mgmt import planning
from mgmt.hypervisor import Domain, JobState, xl
from mgmt.hypervisor.dom0 import Dom0
from mgmt.migrate import Event, Result, run
from xenflow.network_file import load
from xenflow.pure.network import Network, NetworkError
from xenflow.pure.placement import Placement, at_home, from_json, to_json

PAPER = Path(__file__).parents[2] / "conf" / "paper.toml"
HOME = {"host-a": ["vr1 -b----"], "host-b": []}
AWAY = {"host-a": [], "host-b": ["vr1 -b----"]}


class Controllers:
    """Every controller of `paper`, as far as a migration asks: each switch has the placement that
    it was given last.  An `Ask`."""

    def __init__(self, network: Network) -> None:
        self.network = network
        start = at_home("vr1", "host-a")
        self.placements = dict.fromkeys(network.datapaths, start)
        self.held: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(
        self, controller: str, verb: str, /, timeout_s: float | None = None, **arguments: Any
    ) -> dict[str, Any]:
        with self._lock:
            return getattr(self, f"on_{verb}", self._other)(controller, **arguments) or {}

    def on_status(self, controller: str) -> dict[str, Any]:
        mine = [d for d in self.network.datapaths.values() if d.controller == controller]
        ports = {
            end.port: {"up": True, "number": n}
            for n, cable in enumerate(self.network.cables.values(), 1)
            for end in (cable.a, cable.b)
        }
        return {
            "routers": [{"name": "vr1", "phase": "current"}],
            "datapaths": [{"name": d.name, "connected": True, "ports": ports} for d in mine],
            "placements": [
                {**to_json(self.placements[d.name]), "datapath": d.name}
                for d in mine if d.name in self.placements
            ],
            "migrations": [
                {"router": r, "owner": owner, "held": True} for r, owner in self.held.items()
            ],
        }

    def on_place(self, _: str, placement: Any, datapaths: list[str], in_force: bool) -> None:
        for name in datapaths:
            assert from_json(placement).version >= self.placements[name].version
            self.placements[name] = from_json(placement)

    def on_routers(self, _: str) -> dict[str, Any]:
        held = dict.fromkeys(("held", "delivered", "repeated", "dropped"), 0)
        return {"routers": [{"name": "vr1", "held": held}]}

    def _other(self, controller: str, **arguments: Any) -> dict[str, Any]:
        return {
            "ready": True, "attached": True, "quiet": True, "delivered": 0, "dropped": 0,
            "flows": [],
        }  # fmt: skip

    @property
    def where(self) -> set[tuple[str, tuple[str, ...]]]:
        """Every switch's (VM's host, hosts that take part)."""
        return {(p.vm, p.hosts) for p in self.placements.values()}


@pytest.fixture
def xen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedXen]:
    made = PretendedXen(tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def controllers() -> Controllers:
    paper = load(PAPER)
    hosts = {
        name: replace(paper.datapaths[name], hypervisor=f"xl:ssh://root@{name}")
        for name in paper.hosts
    }
    return Controllers(replace(paper, datapaths={**paper.datapaths, **hosts}))


def migrate(controllers: Controllers, to: str = "host-b", mode: str = "overlapped") -> Result:
    with planning.plan(controllers.network, "vr1", to, mode, controllers) as plan:
        return run(plan, lambda event: None)


def until(seen: Callable[[], bool], limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def recover(controllers: Controllers) -> tuple[Result | None, list[str]]:
    said: list[str] = []
    plan = planning.plan_recovery(controllers.network, "vr1", controllers, said.append)
    return (run(plan, lambda event: None) if plan else None), said


@pytest.mark.parametrize("mode", ["overlapped", "report", "native"])
def test_there_and_back(xen: PretendedXen, controllers: Controllers, mode: str) -> None:
    notes: list[Event] = []
    with planning.plan(controllers.network, "vr1", "host-b", mode, controllers) as plan:
        result = run(plan, notes.append)
    assert result.ok, result.text()
    assert "VM suspended for" in result.text() and "emulated" not in result.text()
    assert any(e.state == "note" and "memory is copied" in e.detail for e in notes)
    assert (xen.names(), controllers.where) == (AWAY, {("host-b", ("host-b",))})
    assert migrate(controllers, "host-a", mode).ok
    assert (xen.names(), controllers.where) == (HOME, {("host-a", ("host-a",))})


@pytest.mark.parametrize(
    ("source", "destination", "says"),
    [
        ({}, {"receive": "xc: error: No space left on device"}, "a disk of the destination"),
        ({}, {"receiver_dies": "before ready"}, "the connection to the destination ended"),
        ({}, {"start_fails": True}, "the VM could not be started on host-b"),
        ({"sender_dies": "suspended"}, {}, "xl was ended by signal 9"),
        ({"sender_dies": "handed over"}, {}, "started on host-b: xl was ended by signal 9"),
        ({"stuck": True}, {}, "nothing got to host-b for 10 s"),
    ],
)
def test_it_fails(
    xen: PretendedXen,
    controllers: Controllers,
    monkeypatch: pytest.MonkeyPatch,
    source: dict[str, Any],
    destination: dict[str, Any],
    says: str,
) -> None:
    monkeypatch.setattr(xl, "STALL_S", 10.0)
    xen.set("host-a", **source)
    xen.set("host-b", **destination)
    result = migrate(controllers)
    assert (result.ok, result.undone, result.problems) == (False, True, [])
    assert says in result.error
    assert result.text().endswith("everything was put back")
    assert (xen.names(), controllers.where) == (HOME, {("host-a", ("host-a",))})
    xen.set("host-a")
    xen.set("host-b")
    assert migrate(controllers).ok


def test_the_report_of_the_start_is_lost(xen: PretendedXen, controllers: Controllers) -> None:
    """It runs at the destination: the migration is completed."""
    xen.set("host-b", receiver_dies="before report")
    result = migrate(controllers)
    assert result.ok, result.text()
    assert controllers.where == {("host-b", ("host-b",))}
    result_of, said = recover(controllers)
    assert result_of is None
    assert said == ["vr1: destroyed vr1--migratedaway on host-a"]
    assert xen.names() == AWAY


def test_the_connection_is_lost_when_the_destination_has_it(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`go` was heard, its answer was not: the switches follow the VM."""
    real = Dom0.ask

    def ask(dom0: Dom0, do: str, *words: Any, **arguments: Any) -> dict[str, Any]:
        if do != "go":
            return real(dom0, do, *words, **arguments)
        heard = dom0._on_event
        dom0._on_event = lambda event: heard(event) if event["event"] == "lost" else None
        dom0._send({"id": 0, "do": "go"})
        until(lambda: xen.names()["host-b"] == AWAY["host-b"])
        dom0._process.kill()
        return real(dom0, "run", argv=["true"], timeout_s=1.0)

    monkeypatch.setattr(Dom0, "ask", ask)
    result = migrate(controllers)
    assert result.ok, result.text()
    assert controllers.where == {("host-b", ("host-b",))}
    recover(controllers)
    assert xen.names() == AWAY


@pytest.mark.parametrize(
    ("a", "b", "host", "said"),
    [
        ("vr1 ---ss-", "vr1--incoming --p---", "host-a",
         ["destroyed vr1--incoming on host-b", "domain 1 on host-a was suspended and runs on"]),
        ("vr1--migratedaway ---ss-", "vr1--incoming --p---", "host-a",
         ["destroyed vr1--incoming on host-b",
          "renamed vr1--migratedaway on host-a back to vr1",
          "domain 1 on host-a was suspended and runs on"]),
        ("vr1--migratedaway ---ss-", "vr1 -b----", "host-b",
         ["destroyed vr1--migratedaway on host-a"]),
        ("", "vr1 --p---", "host-b", ["domain 1 on host-b was paused and runs on"]),
        ("vr1 -b----", "", "host-a", []),
    ],
)  # fmt: skip
def test_recover(
    xen: PretendedXen, controllers: Controllers, a: str, b: str, host: str, said: list[str]
) -> None:
    """The switches are in the middle of a migration, the VM is where it is."""
    for name, text in (("host-a", a), ("host-b", b)):
        xen.write(name, {"1": xen.domain(*text.split())} if text else {})
    both = ("host-a", "host-b")
    middle = Placement("vr1", both, vm="host-a", to="host-a", also=both, version=5)
    controllers.placements = dict.fromkeys(controllers.placements, middle)
    dry = planning.plan_recovery(controllers.network, "vr1", controllers, None)
    assert dry is not None and dry.to == host
    assert xen.names()["host-a"] == ([a] if a else [])
    result, words = recover(controllers)
    assert result is not None and result.ok
    assert words == [f"vr1: {line}" for line in said]
    assert (xen.names(), controllers.where) == (
        HOME if host == "host-a" else AWAY, {(host, (host,))}
    )  # fmt: skip
    assert recover(controllers) == (None, [])


def test_recover_leaves_alone_what_began_while_it_looked(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = xen.driver()
    real = xl.Xl.domain

    def domain(driver: xl.Xl, router: str) -> Domain | None:
        if not controllers.held:
            controllers.held["vr1"] = "somebody"
            other.migrate("vr1", "host-b")
            until(lambda: other.job("vr1").state is JobState.MOVED_PAUSED)
        return real(driver, router)

    monkeypatch.setattr(xl.Xl, "domain", domain)
    with pytest.raises(NetworkError, match="a migration of vr1 is under way .by somebody"):
        recover(controllers)
    other.unpause("vr1")
    until(lambda: other.job("vr1").state is JobState.RUNNING)
    other.close()
    assert xen.names() == AWAY


def test_a_router_that_no_controller_knows(xen: PretendedXen, controllers: Controllers) -> None:
    controllers.placements = {}
    for ask in (migrate, recover):
        with pytest.raises(NetworkError, match="no controller knows vr1: do all have this network"):
            ask(controllers)


def test_refused(xen: PretendedXen, controllers: Controllers) -> None:
    xen.set("host-b", version=[4, 16])
    with pytest.raises(NetworkError, match="hypervisor of host-a: host-b runs Xen 4.16.5, older"):
        migrate(controllers)
    xen.write("host-a", {})
    with pytest.raises(NetworkError, match="the hypervisor of host-a has no VM of the name vr1"):
        migrate(controllers)
    assert controllers.where == {("host-a", ("host-a",))}
