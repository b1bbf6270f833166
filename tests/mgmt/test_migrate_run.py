"""A whole migration by the real orchestration and the `xl` driver, on pretended hosts; only the
controllers' answers are made up.  Whatever happens, the switches follow the VM.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
from pretended_xen import PretendedXen

from mgmt import executor, lease, planning
from mgmt import migrate as migrate_of
from mgmt.client import Refused, Unreachable
from mgmt.executor import Executor
from mgmt.hypervisor import Domain, Drivers, GivenUp, JobState, xl
from mgmt.hypervisor.dom0 import Dom0
from mgmt.lease import LostError
from mgmt.migrate import run as carry_out
from mgmt.result import Commit, ProgressEvent, Result
from xenflow.control.leases import Leases, LockedError
from xenflow.model import management as mg
from xenflow.model.network import Network, NetworkError
from xenflow.model.placement import Mode, Placement, at_home, to_json
from xenflow.plan.effects import Pace
from xenflow.plan.migration import Stage
from xenflow.store.network_file import load

PAPER = Path(__file__).parents[2] / "conf" / "paper.toml"
HOME = {"host-a": ["vr1 -b----"], "host-b": []}
AWAY = {"host-a": [], "host-b": ["vr1 -b----"]}


class Controllers:
    """Every controller of `paper`, as far as a migration asks: each switch has the placement that
    it was given last; requests and leases are the real ones.  An `Ask`."""

    def __init__(self, network: Network) -> None:
        self.network = network
        start = at_home("vr1", "host-a")
        self.placements = dict.fromkeys(network.datapaths, start)
        self.leases = {name: Leases() for name in network.controllers}
        self.digests = dict.fromkeys(network.controllers, network.digest)
        self.silent: set[str] = set()
        self.late: dict[str, str] = {}
        """Verbs that a host's switch does not answer within a second, until the VM has moved."""
        self.vm_waits: Callable[[], bool] = lambda: False
        """Whether the VM is suspended."""
        self.not_connected: dict[str, int] = {}
        """How often more a host's switch is not connected when it is to be told something."""
        self.mirrors: set[tuple[str, str]] = set()
        self.quiet = True
        self.sessions: list[dict[str, Any]] = []
        self.behind: dict[str, list[str]] = {}
        self.changing: list[str] = []
        """Switches that are not in sync, with their problems."""
        self.store: dict[str, Any] | None = None
        self.released: list[tuple[str, str]] = []
        self.counters = {
            host: dict.fromkeys(("held", "delivered", "repeated", "dropped"), 100)
            for host in network.hosts
        }
        self.answers: Callable[[], bool] = lambda: True
        """When host-b's switch answers."""
        self.kept: dict[str, list[int]] = {}
        """What the source holds for a VM: numbers by link."""
        self.passed_on: list[str] = []
        self._lock = threading.Lock()

    def __call__(
        self, controller: str, verb: str, /, timeout_s: float | None = None, **arguments: Any
    ) -> dict[str, Any]:
        if controller in self.silent:
            raise Unreachable(controller, f"tcp://{controller}", "no answer")
        asked = mg.parse_request(mg.request(verb, "id", **arguments)).arguments
        host = asked["datapaths"][-1] if verb == "place" else asked.get("datapath")
        if verb == "place" and host == "host-b" and not self.vm_waits():
            until(self.answers)
        if host is not None and self.late.get(verb) == host and self.vm_waits():
            assert timeout_s is not None and timeout_s <= executor.PATIENCE_S
            time.sleep(timeout_s)
            raise Unreachable(controller, f"tcp://{controller}", "no answer", sent=True)
        with self._lock:
            try:
                if verb in mg.OWNED:
                    router = asked["placement"].router if verb == "place" else asked["router"]
                    self.leases[controller].check(router, asked.pop("owner"))
                do = getattr(self, f"on_{verb.replace('-', '_')}", self._other)
                return do(controller, **asked) or {}
            except LockedError as error:
                raise Refused("locked", str(error), controller) from None

    @property
    def held(self) -> set[str]:
        """Who holds a lease somewhere."""
        rows = [row for leases in self.leases.values() for row in leases.rows()]
        return {row["owner"] for row in rows if row["under_way"]}

    @property
    def left_unfinished(self) -> bool:
        """Whether `status` says so of a migration."""
        rows = [row for leases in self.leases.values() for row in leases.rows()]
        return any(not row["under_way"] for row in rows)

    def take(self, owner: str = "somebody") -> None:
        """Somebody begins to migrate vr1."""
        entry = {"migration": {"from": "host-a", "to": "host-b", "mode": "overlapped"}}
        for leases in self.leases.values():
            leases.take("vr1", owner, 600.0, entry)

    def give_back(self, owner: str = "somebody") -> None:
        """And has done so."""
        for leases in self.leases.values():
            leases.give_back("vr1", owner)

    def expire(self) -> None:
        """Whoever holds a lease has not been heard of for its time."""
        for leases in self.leases.values():
            for held in leases._leases.values():
                held.until = time.monotonic()

    def on_status(self, controller: str, router: str | None = None) -> dict[str, Any]:
        mine = [d for d in self.network.datapaths.values() if d.controller == controller]
        ports = {
            end.port: {"up": True, "number": n}
            for n, cable in enumerate(self.network.cables.values(), 1)
            for end in (cable.a, cable.b)
        }
        return {
            "digest": self.digests[controller],
            "routers": [{"name": "vr1", "phase": "current", "sessions": self.sessions}],
            "datapaths": [
                {
                    "name": d.name,
                    "connected": True,
                    "ports": ports,
                    "in_sync": d.name not in self.behind,
                    "changing": self.changing if d.name in self.behind else [],
                    "problems": self.behind.get(d.name, []),
                }
                for d in mine
            ],
            "placements": [
                {**to_json(self.placements[d.name]), "datapath": d.name}
                for d in mine
                if d.name in self.placements
            ],
            "migrations": self.leases[controller].rows(),
            "store": self.store,
        }

    def on_place(self, _: str, placement: Placement, datapaths: list[str], in_force: bool) -> None:
        for name in datapaths:
            if self.not_connected.get(name):
                self.not_connected[name] -= 1
                raise Refused("not-connected", f"{name}: the switch is not connected")
        for name in datapaths:
            known = self.placements[name]
            assert known.version < placement.version or known == placement
            self.placements[name] = placement

    def on_routers(self, controller: str) -> dict[str, Any]:
        return {"routers": [{"name": "vr1", "held": dict(self.counters[controller])}]}

    def on_release(self, _: str, router: str, datapath: str, to: str) -> dict[str, Any]:
        """What was held at the source is held once more at the destination."""
        self.released.append((datapath, to))
        counts = self.counters
        if len(self.released) == 1:
            counts[datapath]["held"] += 5
            counts[to]["held"] += 3
            counts[to]["repeated"] += 2
            counts[to]["dropped"] += 1
        return {"delivered": 0, "dropped": counts[datapath]["dropped"]}

    def on_read_held(self, _: str, router: str, link: str, passed: int) -> dict[str, Any]:
        if self.kept.get(link) and self.kept[link][-1] <= passed:
            del self.kept[link]
        frames = [b64encode(bytes(14)).decode() for _ in self.kept.get(link, ())]
        return {"frames": frames, "upto": max(self.kept.get(link, (passed,)))}

    def on_write_held(
        self, controller: str, router: str, datapath: str, link: str, frames: list[bytes]
    ) -> dict[str, Any]:
        assert (controller, datapath, len(frames)) == ("host-b", "host-b", len(self.kept[link]))
        self.passed_on.append(link)
        return {"taken": True}

    def on_mirror(self, controller: str, router: str, to: str, on: bool) -> None:
        (self.mirrors.add if on else self.mirrors.discard)((controller, to))

    def on_lock(self, controller: str, **asked: Any) -> dict[str, Any]:
        mine = [d.name for d in self.network.datapaths.values() if d.controller == controller]
        versions = {name: self.placements[name].version for name in mine if name in self.placements}
        return {**self.leases[controller].take(**asked), "versions": versions}

    def on_journal(self, controller: str, **asked: Any) -> dict[str, Any]:
        return self.leases[controller].note(**asked)

    def on_unlock(self, controller: str, **asked: Any) -> None:
        self.leases[controller].give_back(**asked)

    def _other(self, controller: str, **arguments: Any) -> dict[str, Any]:
        return {
            "ready": True,
            "attached": True,
            "quiet": self.quiet,
            "packets": 100,
            "last": 7,
            "looks": 9,
            "waited_s": 30.2,
            "flows": [],
        }

    @property
    def where(self) -> set[tuple[str, tuple[str, ...]]]:
        """Every switch's (VM's host, hosts that take part)."""
        return {(p.vm, p.hosts) for p in self.placements.values()}


@pytest.fixture
def xen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedXen]:
    made = PretendedXen(tmp_path, monkeypatch)
    yield made
    made.close()


def controllers_of(file: Path) -> Controllers:
    network = load(file)
    hosts = {
        name: replace(
            network.datapaths[name], hypervisor=f"xl:ssh://root@{name}" if name in HOME else ""
        )
        for name in network.hosts
    }
    return Controllers(replace(network, datapaths={**network.datapaths, **hosts}))


@pytest.fixture
def controllers() -> Controllers:
    return controllers_of(PAPER)


def plan_of(
    controllers: Controllers,
    to: str = "host-b",
    mode: str = "overlapped",
    pause_s: float = planning.PAUSE_S,
) -> planning.Plan:
    with Drivers(controllers.network) as drivers:
        return planning.plan(controllers.network, "vr1", to, mode, controllers, drivers, pause_s)


def run(
    controllers: Controllers,
    plan: planning.Plan,
    report: Callable[[ProgressEvent], None] = lambda event: None,
    lease: lease.RouterLease | None = None,
) -> Result:
    with Drivers(controllers.network) as drivers:
        return carry_out(plan, controllers, drivers, report, lease=lease)


def migrate(
    controllers: Controllers,
    to: str = "host-b",
    mode: str = "overlapped",
    report: Callable[[ProgressEvent], None] = lambda event: None,
    confirm: Callable[[Stage, bool], bool] | None = None,
) -> Result:
    with Drivers(controllers.network) as drivers:
        plan = planning.plan(controllers.network, "vr1", to, mode, controllers, drivers)
        return carry_out(plan, controllers, drivers, report, confirm)


def until(seen: Callable[[], bool], limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def recover(controllers: Controllers) -> tuple[Result | None, list[str]]:
    said: list[str] = []
    with planning.recovering(controllers.network, "vr1", controllers, said.append) as begun:
        return (run(controllers, begun[0], lease=begun[1]) if begun else None), said


def test_a_plan_says_which_sessions_are_kept_and_which_fall(
    xen: PretendedXen, controllers: Controllers
) -> None:
    ends = {"local": "10.0.1.1", "remote": "10.0.1.2"}
    controllers.sessions = [
        {"protocol": "BFD", **ends, "wait_s": 0.3, "interval_s": 0.1},
        {"protocol": "BGP", **ends, "wait_s": 180.0, "interval_s": 60.0},
        {"protocol": "BGP", **ends, "wait_s": None, "interval_s": None},
    ]

    short, long = (plan_of(controllers, pause_s=pause_s) for pause_s in (0.15, 0.41))
    assert not short.falling
    short.refuse_falling()
    assert "fall:" not in short.text()
    assert long.falling == ["BFD 10.0.1.1 - 10.0.1.2 (its neighbour waits 0.3 s)"]
    assert "kept over a suspension of 0.41 s (--pause): OSPF and IS-IS" in long.text()
    assert "BGP 10.0.1.1 - 10.0.1.2 (hold time not seen)" in long.text()
    assert [row["falls"] for row in long.json()["sessions"]] == [True, False, False]
    with pytest.raises(NetworkError, match=r"suspended for 0.41 s, in which would fall: BFD"):
        long.refuse_falling()


@pytest.mark.parametrize("mode", ["overlapped", "report", "native"])
def test_there_and_back(xen: PretendedXen, controllers: Controllers, mode: str) -> None:
    notes: list[ProgressEvent] = []
    xen.set("host-a", precopy_s=600)

    def note(event: ProgressEvent) -> None:
        notes.append(event)
        if "copied" in event.detail:  # it is seen to copy, however busy the machine is
            xen.set("host-a")

    result = migrate(controllers, "host-b", mode, report=note)
    assert result.ok, result.text()
    assert "VM suspended for" in result.text() and "emulated" not in result.text()
    assert any(e.state == "note" and "copied" in e.detail for e in notes)
    if mode != "native":
        assert controllers.released == [("host-a", "host-b")] * 2
        assert (result.held, result.repeated, result.dropped) == (5, 2, 1)
    assert (xen.names(), controllers.where) == (AWAY, {("host-b", ("host-b",))})
    assert migrate(controllers, "host-a", mode).ok
    assert (xen.names(), controllers.where) == (HOME, {("host-a", ("host-a",))})


def test_a_switch_that_was_never_told_and_leads_astray_is_recovered(
    xen: PretendedXen, controllers: Controllers
) -> None:
    """As where the trees have come to lie otherwise, and it has become one on the way."""
    assert migrate(controllers).ok
    assert recover(controllers) == (None, [])
    controllers.placements["gen"] = at_home("vr1", "host-a")
    recovered, _ = recover(controllers)
    assert recovered is not None and recovered.ok
    assert controllers.where == {("host-b", ("host-b",))}


def test_up_to_which_rate_nothing_is_lost_is_said_where_the_vm_forwards(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def notes() -> tuple[str, ...]:
        plan = plan_of(controllers)
        assert plan.json()["notes"] == list(plan.notes)
        assert all(note in plan.text() for note in plan.notes)
        return plan.notes

    assert notes() == ()
    status = controllers.on_status
    room = {"room_frames": 2000, "room_bytes": 2_000_000}
    row = {"name": "vr1", "phase": "current", "slow": "a packet filter", "held": room}
    monkeypatch.setattr(
        controllers, "on_status", lambda name, **_: {**status(name), "routers": [row]}
    )
    (note,) = notes()
    assert "over 1 s nothing is lost up to 2,000 packets/s and 2 MB/s" in note
    assert "a packet filter" in note


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
    xen.set("host-a", **source)
    xen.set("host-b", **destination)
    with monkeypatch.context() as patience:
        if source.get("stuck"):
            patience.setattr(xl, "STALL_S", 10.0)
        result = migrate(controllers)
    assert (result.ok, result.undone, result.problems) == (False, True, [])
    assert says in result.error
    assert result.text().endswith("everything was put back")
    assert result.commit is Commit.FAILED
    if "started" in says:  # the destination had been told that the VM is there
        assert controllers.released[-1] == ("host-b", "host-a")
    assert (xen.names(), controllers.where) == (HOME, {("host-a", ("host-a",))})
    xen.set("host-a")
    xen.set("host-b")
    again = migrate(controllers)
    assert again.ok, again.text()


@pytest.mark.parametrize(
    ("verb", "host", "released"),
    [("place", "host-b", 2), ("release", "host-a", 2), ("place", "host-a", 3)],
)
def test_a_suspended_vm_waits_for_no_late_switch(
    xen: PretendedXen,
    controllers: Controllers,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    host: str,
    released: int,
) -> None:
    """What it had no time for follows once the VM runs."""
    wait_s(2.0, monkeypatch)
    controllers.late = {verb: host}
    controllers.vm_waits = lambda: xen.names()["host-b"] not in ([], AWAY["host-b"])
    notes: list[ProgressEvent] = []
    result = migrate(controllers, report=notes.append)
    assert result.ok, result.text()
    late = [e for e in notes if e.detail.endswith("the VM does not wait for it")]
    assert len(late) == 1
    assert len(controllers.released) == released
    assert (xen.names(), controllers.where) == (AWAY, {("host-b", ("host-b",))})


def wait_s(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """So long the suspended VM waits for switches."""
    for module in (executor, migrate_of):
        monkeypatch.setattr(module, "PATIENCE_S", seconds)


def test_while_the_destination_is_late_the_controllers_pass_on_what_is_held(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until its switch has answered, and each packet once."""
    wait_s(2.0, monkeypatch)
    controllers.late = {"place": "host-b"}
    controllers.vm_waits = lambda: xen.names()["host-b"] not in ([], AWAY["host-b"])
    controllers.answers = lambda: (
        xen.names()["host-b"] != AWAY["host-b"] or not any(controllers.kept.values())
    )
    controllers.kept = {"left": [1, 2], "right": [3]}
    assert migrate(controllers).ok
    assert controllers.passed_on == ["left", "right"]


def test_what_could_not_be_put_back_is_said_with_its_reason_once(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The destination is cut off in the middle: several things cannot be said to it."""
    monkeypatch.setattr("mgmt.migrate.UNDO_S", 0.0)
    xen.set("host-a", sender_dies="suspended")

    def cut(event: ProgressEvent) -> None:
        if event.step == "hypervisor":
            controllers.silent.add("host-b")

    result = migrate(controllers, report=cut)
    assert not result.undone and len(result.problems) >= 3
    said = result.text().replace(result.error, "the error", 1)
    assert said.count("host-b (tcp://host-b): no answer") == 1
    for what, _ in result.problems:
        assert said.count(what) == 1
    assert result.text().endswith("run `xenflow recover vr1`")
    controllers.silent.clear()
    controllers.expire()  # host-b was not told that it is over
    assert recover(controllers)[0] is not None
    assert (xen.names(), controllers.where) == (HOME, {("host-a", ("host-a",))})


def test_the_report_of_the_start_is_lost(xen: PretendedXen, controllers: Controllers) -> None:
    """It runs at the destination: the migration is completed."""
    xen.set("host-b", receiver_dies="before report")
    result = migrate(controllers)
    assert result.ok, result.text()
    assert result.left == ["host-a still has vr1--migratedaway"]
    assert result.text().endswith("--migratedaway: run `xenflow recover vr1`")
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
        (
            "vr1 ---ss-",
            "vr1--incoming --p---",
            "host-a",
            ["destroyed vr1--incoming on host-b", "domain 1 on host-a was suspended and runs on"],
        ),
        (
            "vr1--migratedaway ---ss-",
            "vr1--incoming --p---",
            "host-a",
            [
                "destroyed vr1--incoming on host-b",
                "renamed vr1--migratedaway on host-a back to vr1",
                "domain 1 on host-a was suspended and runs on",
            ],
        ),
        (
            "vr1--migratedaway ---ss-",
            "vr1 -b----",
            "host-b",
            ["destroyed vr1--migratedaway on host-a"],
        ),
        ("", "vr1 --p---", "host-b", ["domain 1 on host-b was paused and runs on"]),
        ("vr1 -b----", "", "host-a", []),
    ],
)
def test_recover(
    xen: PretendedXen, controllers: Controllers, a: str, b: str, host: str, said: list[str]
) -> None:
    """The switches are in the middle of a migration, the VM is where it is."""
    for name, text in (("host-a", a), ("host-b", b)):
        xen.write(name, {"1": xen.domain(*text.split())} if text else {})
    both = ("host-a", "host-b")
    middle = Placement("vr1", both, vm="host-a", leads_to="host-a", reaches=both, version=5)
    controllers.placements = dict.fromkeys(controllers.placements, middle)
    dry = planning.plan_recovery(controllers.network, "vr1", controllers)
    assert dry is not None and dry.to == host
    assert dry.text().startswith(f"vr1: recovery on {host}, where its VM is\n1. ")
    assert "--pause" not in dry.text()
    assert xen.names()["host-a"] == ([a] if a else [])
    result, words = recover(controllers)
    assert result is not None and result.ok
    assert words == [f"vr1: {line}" for line in said]
    assert (xen.names(), controllers.where) == (
        HOME if host == "host-a" else AWAY,
        {(host, (host,))},
    )
    assert recover(controllers) == (None, [])


def test_recover_leaves_alone_what_began_while_it_looked(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped just before, and somebody has taken over."""
    other = xen.driver()
    beginning: list[bool] = []
    real = xl.Xl.domain

    def domain(driver: xl.Xl, router: str) -> Domain | None:
        if not beginning:
            beginning.append(True)
            controllers.expire()
            controllers.take()
            other.migrate("vr1", "host-b")
            until(lambda: other.job("vr1").state is JobState.MOVED_PAUSED)
        return real(driver, router)

    monkeypatch.setattr(xl.Xl, "domain", domain)
    with pytest.raises(LostError, match="does not hold the lease of vr1 .any more"):
        recover(controllers)
    other.unpause("vr1")
    until(lambda: other.job("vr1").state is JobState.RUNNING)
    other.close()
    assert xen.names() == AWAY


def test_recover_keeps_others_out_while_it_clears_up(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    xen.write("host-a", {"1": xen.domain("vr1", "---ss-")})
    real = xl.Xl.abort
    refused: list[Result] = []

    def abort(driver: xl.Xl, router: str) -> GivenUp:
        with pytest.raises(NetworkError, match="a recovery of vr1 is under way, for .+ s now, by"):
            migrate(controllers)
        refused.append(Result(None))  # type: ignore[arg-type]
        return real(driver, router)

    monkeypatch.setattr(xl.Xl, "abort", abort)
    assert recover(controllers)[1] == ["vr1: domain 1 on host-a was suspended and runs on"]
    assert refused and not controllers.held


def test_a_copy_that_has_become_the_router_is_not_destroyed(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the deed, somebody's migration of it went on."""
    xen.write("host-a", {"1": xen.domain("vr1", "---ss-")})
    xen.write("host-b", {"9": xen.domain("vr1--incoming", "--p---")})
    real = xl.Xl._look

    def look(driver: xl.Xl, anew: bool = False) -> Any:
        seen = real(driver, anew)
        if anew:
            xen.write("host-a", {})
            xen.write("host-b", {"9": xen.domain("vr1", "-b----")})
        return seen

    monkeypatch.setattr(xl.Xl, "_look", look)
    with pytest.raises(NetworkError, match="host-b: vr1--incoming has become vr1"):
        recover(controllers)
    assert xen.names() == AWAY


def test_what_cannot_begin_changes_nothing_and_says_so(
    xen: PretendedXen, controllers: Controllers
) -> None:
    made = plan_of(controllers)
    controllers.take("one")
    before = dict(controllers.placements)
    result = run(controllers, made)
    assert (result.ok, result.refused, controllers.placements) == (False, True, before)
    assert re.fullmatch(
        r"vr1: a migration of vr1 from host-a to host-b \(overlapped\) is under way, for \d+ s "
        r"now, by one, heard of \d+ s ago: wait for it, or end it there; if it was killed, "
        r"ask again in \d+ s; nothing was changed",
        result.text(),
    )


def test_nobody_listening_is_no_reason_to_stop(xen: PretendedXen, controllers: Controllers) -> None:
    def closed(_: ProgressEvent) -> None:
        raise BrokenPipeError

    for to, fails in (("host-b", {}), ("host-a", {"start_fails": True})):
        xen.set(to, **fails)
        result = migrate(controllers, to, report=closed)
        assert result.ok or result.undone, result.text()
        assert (xen.names(), controllers.where) == (AWAY, {("host-b", ("host-b",))})
        assert not controllers.held


def test_a_terminal_that_goes_is_an_interrupt(
    xen: PretendedXen, controllers: Controllers, heeds_hangups: None
) -> None:
    def hang_up(event: ProgressEvent) -> None:
        if event.step == "control" and event.state == "started":
            os.kill(os.getpid(), signal.SIGHUP)

    result = migrate(controllers, report=hang_up)
    assert (result.interrupted, result.undone) == (True, True)
    assert (xen.names(), controllers.where) == (HOME, {("host-a", ("host-a",))})


@pytest.fixture
def heeds_hangups() -> Iterator[None]:
    """Also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_an_interrupted_recovery_is_completed_and_says_so(
    xen: PretendedXen, controllers: Controllers
) -> None:
    xen.write("host-a", {})
    xen.write("host-b", {"1": xen.domain("vr1", "-b----")})
    with planning.recovering(controllers.network, "vr1", controllers, [].append) as begun:
        assert begun is not None
        hit = lambda _: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
        result = run(controllers, begun[0], hit, begun[1])
    assert (result.ok, result.interrupted) == (True, True)
    assert controllers.where == {("host-b", ("host-b",))}


def test_what_a_switch_believes_that_was_not_told_is_no_unfinished_move(xen: PretendedXen) -> None:
    """It was not concerned when the router came here, and is now: both hosts lie the same way."""
    controllers = controllers_of(PAPER.with_name("path.toml"))
    here = replace(at_home("vr1", "host-a"), version=4)
    controllers.placements = dict.fromkeys(controllers.placements, here)
    controllers.placements["gen"] = at_home("vr1", "host-b")
    assert recover(controllers) == (None, [])
    assert migrate(controllers).ok
    assert controllers.placements["gen"].hosts == ("host-b",)
    assert controllers.placements["gen"].version > here.version


def test_a_router_that_no_controller_knows(xen: PretendedXen, controllers: Controllers) -> None:
    controllers.placements = {}
    for ask in (migrate, recover):
        with pytest.raises(NetworkError, match="no controller knows vr1: do all have this network"):
            ask(controllers)


def test_a_router_that_is_stopped(xen: PretendedXen, controllers: Controllers) -> None:
    controllers.placements = {}
    routers = controllers.network.routers
    stopped = {"vr1": replace(routers["vr1"], running=False)}
    controllers.network = replace(controllers.network, routers=stopped)
    for ask in (migrate, recover):
        with pytest.raises(NetworkError, match=r"vr1 is stopped: `xenflow router start vr1` first"):
            ask(controllers)


def test_a_controller_with_another_network_file(
    xen: PretendedXen, controllers: Controllers
) -> None:
    """Nothing is moved where the switches' controllers do not mean the same network."""
    controllers.digests["edge"] = "0123456789abcdef"
    with pytest.raises(NetworkError, match="controller edge: it has another network file"):
        migrate(controllers)
    assert controllers.where == {("host-a", ("host-a",))}
    controllers.digests["edge"] = controllers.network.digest
    link = replace(controllers.network.links["left"], span=("host-b",))
    grown = replace(controllers.network, links={**controllers.network.links, "left": link})
    with Drivers(grown) as drivers:  # a network that they have not, and shall have first
        asked = (grown, "vr1", "host-b", "overlapped", controllers, drivers)
        with pytest.raises(NetworkError, match="it has another network file"):
            planning.plan(*asked)
        assert planning.plan(*asked, known=controllers.network).network is grown
    assert migrate(controllers).ok


def test_refused(xen: PretendedXen, controllers: Controllers) -> None:
    xen.set("host-b", version=[4, 16])
    with pytest.raises(NetworkError, match="hypervisor of host-a: host-b runs Xen 4.16.5, older"):
        migrate(controllers)
    xen.write("host-a", {})
    with pytest.raises(NetworkError, match="no host .* has a VM of the name vr1: start it on one"):
        migrate(controllers)
    assert controllers.where == {("host-a", ("host-a",))}


# --- somebody else has taken over ----------------------------------------------------------------


def stopped_at(
    controllers: Controllers, step: str, state: str, meanwhile: Callable[[], None]
) -> tuple[Result, list[ProgressEvent]]:
    """A migration to host-b that is stopped at a moment, until `meanwhile` has happened."""
    events: list[ProgressEvent] = []

    def report(event: ProgressEvent) -> None:
        first = (step, state) not in {(e.step, e.state) for e in events}
        events.append(event)
        if first and (event.step, event.state) == (step, state):
            controllers.expire()
            meanwhile()

    result = migrate(controllers, report=report)
    return result, events


def test_one_that_was_stopped_does_not_abort_the_move_of_who_took_over(
    xen: PretendedXen, controllers: Controllers
) -> None:
    """Stopped while memory was copied; then somebody recovered, and moves the router again."""
    other = xen.driver()
    mirrors = controllers.mirrors
    xen.set("host-a", precopy_s=600)  # it is seen to copy, however busy the machine is

    def meanwhile() -> None:
        assert recover(controllers)[0] is not None
        xen.set("host-a")
        assert (xen.names(), controllers.where) == (HOME, {("host-a", ("host-a",))})
        assert not mirrors
        controllers.take()
        controllers("host-a", "mirror", router="vr1", to="tcp://b:1", on=True, owner="somebody")
        other.migrate("vr1", "host-b")
        until(lambda: other.job("vr1").state is JobState.MOVED_PAUSED)

    result, _ = stopped_at(controllers, "hypervisor", "note", meanwhile)
    assert (result.ok, result.lost, result.undone) == (False, True, False)
    assert "somebody else has taken over, so nothing more was done here" in result.text()
    assert other.job("vr1").state is JobState.MOVED_PAUSED
    assert mirrors == {("host-a", "tcp://b:1")} and controllers.held == {"somebody"}
    assert controllers.where == {("host-a", ("host-a",))}
    other.unpause("vr1")
    until(lambda: other.job("vr1").state is JobState.RUNNING)
    other.close()
    assert xen.names() == AWAY


@pytest.mark.parametrize("step", ["prepare", "control", "links", "drain", "clean"])
def test_one_that_was_stopped_changes_nothing_once_another_has_the_lease(
    xen: PretendedXen, controllers: Controllers, step: str
) -> None:
    before: list[Any] = []

    def meanwhile() -> None:
        if step in ("links", "drain", "clean"):
            until(lambda: xen.names() == AWAY)
        controllers.take()
        before.extend([dict(controllers.placements), xen.names(), set(controllers.mirrors)])

    result, _ = stopped_at(controllers, step, "started", meanwhile)
    assert (result.ok, result.lost, result.undone) == (False, True, False)
    assert [dict(controllers.placements), xen.names(), controllers.mirrors] == before
    assert controllers.held == {"somebody"}


def test_one_that_was_stopped_goes_on_where_nobody_has_taken_over(
    xen: PretendedXen, controllers: Controllers
) -> None:
    assert stopped_at(controllers, "links", "started", lambda: None)[0].ok
    assert not controllers.held and not controllers.left_unfinished


def test_a_controller_that_was_restarted_is_told_of_the_lease_again(
    xen: PretendedXen, controllers: Controllers
) -> None:
    for step in ("prepare", "links"):

        def restart(event: ProgressEvent, step: str = step) -> None:
            if (event.step, event.state) == (step, "started"):
                controllers.leases["host-b"] = Leases()

        to = "host-b" if controllers.where == {("host-a", ("host-a",))} else "host-a"
        result = migrate(controllers, to, report=restart)
        assert result.ok, result.text()
    assert controllers.where == {("host-a", ("host-a",))} and not controllers.held


def test_a_restarted_controller_takes_no_lease_that_may_have_been_anothers(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that knew better was restarted; too long ago for anybody to say what was."""

    def meanwhile() -> None:
        monkeypatch.setattr(lease, "LEASE_S", -1.0)
        controllers.leases = {name: Leases() for name in controllers.leases}

    result, _ = stopped_at(controllers, "links", "started", meanwhile)
    assert (result.ok, result.lost) == (False, True)


# --- what is said of one that is under way, or left ----------------------------------------------


def test_one_under_way_is_not_called_interrupted(
    xen: PretendedXen, controllers: Controllers
) -> None:
    """It says that it runs, since when and by whom."""
    both = ("host-a", "host-b")
    middle = Placement("vr1", both, vm="host-a", leads_to="host-a", reaches=both, version=5)
    controllers.placements = dict.fromkeys(controllers.placements, middle)
    controllers.take("root@node-7:77-abcd")
    for ask in (migrate, recover):
        with pytest.raises(NetworkError) as refused:
            ask(controllers)
        assert re.fullmatch(
            r"a migration of vr1 from host-a to host-b \(overlapped\) is under way, for \d+ s now, "
            r"by root@node-7:77-abcd, heard of \d+ s ago: wait for it, or end it there; "
            r"if it was killed, ask again in \d+ s",
            str(refused.value),
        )
    controllers.behind["gen"] = []  # it is not waited for, nor called the reason
    with pytest.raises(NetworkError, match="is under way"):
        migrate(controllers)
    controllers.behind.clear()
    controllers.expire()
    with pytest.raises(NetworkError, match="was interrupted; run `xenflow recover vr1` first"):
        migrate(controllers)


def test_after_a_recovery_nothing_is_left_unfinished(
    xen: PretendedXen, controllers: Controllers
) -> None:
    """Killed before it had changed anything, or after all of it."""
    controllers.take()
    controllers.expire()
    assert controllers.left_unfinished
    assert planning.plan_recovery(controllers.network, "vr1", controllers) is None
    assert controllers.left_unfinished, "a dry run changes nothing"
    assert recover(controllers) == (None, [])
    assert not controllers.left_unfinished


def test_a_lease_is_kept_after_this_process_lacked_something(
    controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "KEEP_S", 0.01)
    failed = 0

    def ask(controller: str, verb: str, /, **arguments: Any) -> dict[str, Any]:
        nonlocal failed
        if verb == "journal" and failed < 3:
            failed += 1
            raise OSError(24, "Too many open files")
        return controllers(controller, verb, **arguments)

    with lease.RouterLease(ask, ["host-a"], "vr1", {"words": "a test"}) as held:
        until(lambda: failed == 3)
        controllers.expire()
        until(lambda: controllers.leases["host-a"].under_way("vr1"))
        held.check()


def test_nothing_is_done_with_a_lease_that_was_given_back(controllers: Controllers) -> None:
    """Also where its controller is another by then, which knows of no end."""
    with lease.RouterLease(controllers, ["host-a"], "vr1", {"words": "a test"}) as held:
        held.give_back(unfinished=True)
        controllers.leases["host-a"] = Leases()
        with pytest.raises(LostError, match="given the lease of vr1 back"):
            held.ask("host-a", "journal", router="vr1")
        with pytest.raises(LostError):
            held.check()
        assert not controllers.held


def test_what_was_left_unfinished_is_so_after_another_could_not_begin(
    xen: PretendedXen, controllers: Controllers
) -> None:
    """It took some leases before one controller did not answer."""
    controllers.take()
    controllers.expire()
    made = plan_of(controllers)
    controllers.silent.add(list(controllers.leases)[-1])
    result = run(controllers, made)
    assert result.refused
    controllers.silent.clear()
    assert all(leases.rows() for leases in controllers.leases.values())
    assert recover(controllers) == (None, [])
    assert not controllers.left_unfinished


def test_what_could_not_be_finished_is_left_unfinished(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controllers, "quiet", False)
    result = migrate(controllers)
    assert (result.ok, result.committed, controllers.left_unfinished) == (False, True, True)
    monkeypatch.setattr(controllers, "quiet", True)
    assert recover(controllers)[0] is not None
    assert not controllers.left_unfinished


def test_a_no_before_the_first_stage_has_nothing_to_put_back(
    xen: PretendedXen, controllers: Controllers
) -> None:
    result = migrate(controllers, confirm=lambda stage, committed: False)
    assert (result.interrupted, result.undone) == (True, True)
    assert result.text() == "vr1 stays on host-a: interrupted; nothing was changed"


def test_a_no_after_the_commit_point_is_answered(
    xen: PretendedXen, controllers: Controllers
) -> None:
    asked: list[tuple[str, bool]] = []

    def confirm(step: Stage, committed: bool) -> bool:
        asked.append((step.name, committed))
        return not committed

    events: list[ProgressEvent] = []
    assert migrate(controllers, report=events.append, confirm=confirm).ok
    assert asked == [
        ("prepare", False),
        ("control", False),
        ("links", True),
        ("drain", True),
        ("clean", True),
    ]
    said = [event.detail for event in events if event.step == "migration"]
    assert said == ["the VM belongs to host-b: there is no way back, it is completed"] * 3


def test_ctrl_c_after_the_commit_point_is_answered(
    xen: PretendedXen, controllers: Controllers
) -> None:
    events: list[ProgressEvent] = []

    def report(event: ProgressEvent) -> None:
        events.append(event)
        if (event.step, event.state) == ("links", "started"):
            os.kill(os.getpid(), signal.SIGINT)

    result = migrate(controllers, report=report)
    assert (result.ok, result.interrupted, result.signalled) == (True, False, True)
    said = [event.detail for event in events if event.step == "migration"]
    assert said == ["the VM belongs to host-b: there is no way back, it is completed"]


def test_a_router_in_native_mode_is_said_to_change_it(
    xen: PretendedXen, controllers: Controllers
) -> None:
    native = replace(at_home("vr1", "host-a"), mode=Mode.NATIVE)
    controllers.placements = dict.fromkeys(controllers.placements, native)
    said = {}
    for order in ("overlapped", "report", "native"):
        plan = plan_of(controllers, mode=order)
        said[order] = plan.new_mode
        assert plan.json()["new_mode"] == plan.new_mode
        assert not plan.new_mode or plan.new_mode in plan.text()
        assert not plan.new_mode or plan.new_mode in Result(plan, ok=True).text()
    becomes = "its mode becomes xenflow, it was native"
    assert said == {"overlapped": becomes, "report": becomes, "native": ""}


# --- putting back --------------------------------------------------------------------------------


def test_a_switch_that_comes_back_is_waited_for(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went away in the middle, and is read back when it is to be told what it was before."""
    monkeypatch.setenv("XENFLOW_FAULT", "7")

    def away(event: ProgressEvent) -> None:
        if (event.step, event.state) == ("control", "failed"):
            controllers.not_connected = {"host-a": 3, "host-b": 2}

    result = migrate(controllers, report=away)
    assert controllers.not_connected == {"host-a": 0, "host-b": 0}
    assert (result.undone, result.problems) == (True, []), result.text()
    assert controllers.where == {("host-a", ("host-a",))} and not controllers.left_unfinished


def test_a_switch_that_is_not_in_sync_is_refused_and_named(
    controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SYNC_S", 0.0)
    controllers.behind["host-b"] = ["what it shall hold could not be written (FlowError)"]
    with pytest.raises(NetworkError) as refused:
        plan_of(controllers, mode="native")
    words = str(refused.value)
    assert words.startswith("host-b: the switch is not in sync: ")
    assert "FlowError" in words


@pytest.mark.parametrize("problems", [[], ["flows of somebody else cover ours"]])
def test_a_switch_that_is_busy_for_a_moment_is_waited_for(
    controllers: Controllers,
    xen: PretendedXen,
    monkeypatch: pytest.MonkeyPatch,
    problems: list[str],
) -> None:
    """Also one with a problem that lasts: it says nothing of how long the switch is busy."""
    controllers.behind["host-b"] = problems
    monkeypatch.setattr(planning, "SYNC_POLL_S", 0.0)
    ask = controllers.on_status
    asked: list[str] = []

    def status(controller: str, router: str | None = None) -> dict[str, Any]:
        asked.append(controller)
        if len(asked) > 20:
            controllers.behind.clear()
        return ask(controller)

    monkeypatch.setattr(controllers, "on_status", status)
    plan_of(controllers)
    assert len(asked) > 20


def test_a_switch_that_stays_busy_is_refused(
    controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    controllers.behind["gen"] = []
    monkeypatch.setattr(planning, "SYNC_S", 0.0)
    with pytest.raises(NetworkError, match="gen: the switch is not in sync: it is still catching"):
        plan_of(controllers, mode="native")


def test_a_switch_that_another_router_keeps_busy_is_not_waited_for(
    controllers: Controllers, xen: PretendedXen, monkeypatch: pytest.MonkeyPatch
) -> None:
    controllers.behind["gen"] = []
    controllers.changing = ["vr2"]
    monkeypatch.setattr(planning, "SYNC_S", 0.0)
    plan_of(controllers)
    controllers.changing = ["vr1", "vr2"]
    with pytest.raises(NetworkError, match="gen: the switch is not in sync: it is still catching"):
        plan_of(controllers, mode="native")


@pytest.mark.parametrize(
    ("reached", "names", "words"),
    [
        (8, {"links": ["left", "other"], "routers": ["vr2"]}, "links.left"),
        (8, {"links": ["other"], "routers": ["vr2"]}, ""),
        (7, {"links": ["other"]}, "links.other"),
    ],
)
def test_a_router_of_which_something_waits_for_another_move_waits_too(
    controllers: Controllers,
    xen: PretendedXen,
    monkeypatch: pytest.MonkeyPatch,
    reached: int,
    names: dict[str, list[str]],
    words: str,
) -> None:
    """There its links are not as whoever asks knows them; where all waits, nothing is."""
    monkeypatch.setattr(planning, "SYNC_S", 0.0)
    held = {"names": names, "by": ["vr2"]}
    controllers.store = {"change": 8, "reached": reached, "held": held}
    if not words:
        plan_of(controllers)
        return
    words = f"{words}: held by the move of vr2: move vr1 when that has ended"
    with pytest.raises(NetworkError, match=words):
        plan_of(controllers)
    made = planning.plan_recovery(controllers.network, "vr1", controllers)
    assert made is None, "a recovery waits for nothing"


@pytest.mark.parametrize("verb", ["place", "ready"])
def test_an_interrupt_ends_the_waiting_for_an_answer(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """A controller that does not answer (its switch does not) holds nobody for a minute."""
    answers = threading.Event()
    asked = threading.Event()
    real = getattr(controllers, f"on_{verb}", controllers._other)
    first = threading.Lock()

    def late(controller: str, **arguments: Any) -> Any:
        if not asked.is_set() and first.acquire(blocking=False):
            asked.set()
            os.kill(os.getpid(), signal.SIGINT)
            controllers._lock.release()
            assert answers.wait(60.0)
            controllers._lock.acquire()
        return real(controller, **arguments)

    monkeypatch.setattr(controllers, f"on_{verb}", late, raising=False)
    result = migrate(controllers)
    assert not answers.is_set(), "it was not waited for"
    answers.set()
    assert (result.interrupted, result.undone, result.problems) == (True, True, [])
    assert (xen.names(), controllers.where) == (HOME, {("host-a", ("host-a",))})


def test_a_second_interrupt_ends_the_putting_back(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not put back then is said."""
    answers = threading.Event()
    real = controllers.on_place
    asked: list[str] = []

    def late(controller: str, **arguments: Any) -> None:
        asked.append(controller)
        if len(asked) >= 2:
            os.kill(os.getpid(), signal.SIGINT)
            controllers._lock.release()
            assert answers.wait(60.0)
            controllers._lock.acquire()
        real(controller, **arguments)

    monkeypatch.setattr(controllers, "on_place", late)
    result = migrate(controllers)
    answers.set()
    assert result.interrupted and not result.undone
    assert any(reason == "interrupted" for _, reason in result.problems)
    assert "run `xenflow recover vr1`" in result.text()


def test_what_is_said_of_switches_is_so(xen: PretendedXen, controllers: Controllers) -> None:
    """Packets still arrive at the source; every switch was told."""
    controllers.quiet = False
    result = migrate(controllers)
    assert (result.ok, result.committed, result.problems) == (False, True, [])
    assert "still arrive there (7 more at the last of 9 looks in 30 s)" in result.text()
    assert "could not all be told" not in result.text()
    assert result.text().endswith("its VM belongs to host-b: run `xenflow recover vr1`")


def test_a_vm_that_may_not_be_let_run_is_not_called_moved(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease goes to somebody else right before the VM would run at the destination."""
    begun = "mgmt.hypervisor.xl.Xl.unpause"

    def lost(self: xl.Xl, router: str) -> None:
        raise LostError("somebody else")

    monkeypatch.setattr(begun, lost)
    result = migrate(controllers)
    assert (result.ok, result.lost, result.committed) == (False, True, False)


# --- a new effect ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Announce:
    """An effect that there is not."""

    host: str
    pace = Pace.USUAL

    @property
    def at(self) -> tuple[str, ...]:
        return (self.host,)

    def words(self) -> str:
        return f"{self.host} announces the router"

    def undo(self, before: Placement) -> tuple[Announce, ...]:
        return (Announce(before.vm),)


def test_a_new_effect_is_a_class_and_a_case(
    xen: PretendedXen, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else follows from what it says of itself."""
    made = plan_of(controllers)
    announce: Any = Stage("announce", "announce it", (Announce("host-b"),))  # type: ignore[arg-type]
    made = replace(made, stages=(announce, *made.stages))
    assert "1. announce it\n     host-b announces the router\n2. prepare" in made.text()
    assert made.json()["steps"][0]["where"] == ["host-b"]
    with pytest.raises(AssertionError, match="Announce"):
        run(controllers, made)  # without the case it is not passed over

    announced: list[str] = []
    real = Executor.carry_out

    def carry_out(executor: Executor, effect: Any, within_s: float = inf) -> None:
        match effect:
            case Announce(host):
                announced.append(host)
            case _:
                real(executor, effect, within_s)

    monkeypatch.setattr(Executor, "carry_out", carry_out)
    monkeypatch.setenv("XENFLOW_FAULT", "3")
    result = run(controllers, made)
    assert result.undone and announced == ["host-b", "host-a"]
    assert result.effects[0]["effect"] == "Announce"
    assert result.effects[0]["words"] == "host-b announces the router"
