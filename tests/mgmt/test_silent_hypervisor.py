"""A migration whose hypervisor does not answer for a while: the lab's own, but for what it does to
namespaces, behind the driver's own protocol.  Nothing is said of the VM that is not known.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import zmq
from test_migrate_run import Controllers, migrate, plan_of, recover, run, until

from lab.hypervisor import FAILED, RUNNING, EmulatedHypervisor, RouterNamespaces, Settings
from mgmt import executor, planning
from mgmt.hypervisor import HypervisorError, lab
from mgmt.lease import MovedError
from mgmt.result import Commit, ProgressEvent
from xenflow.model.network import Network, NetworkError, Router
from xenflow.model.placement import Placement
from xenflow.store.network_file import load

PAPER = Path(__file__).parents[2] / "conf" / "paper.toml"
HOME = {"vr1": {"host": "host-a", "state": "running"}}
AWAY = {"vr1": {"host": "host-b", "state": "running"}}
SILENT_S = 2.0
"""Within this the daemon answers if it does at all, on a busy machine, too."""


class NoNamespaces:
    """`RouterNamespaces` that are only written down."""

    def __init__(self, network: Network) -> None:
        self.lab = self
        self.network = network
        self.hosts = list(network.hosts)
        self.domains = {name: dict(domain) for name, domain in HOME.items()}

    def router(self, name: str) -> Router:
        return self.network.routers[name]

    def note(self, router: Router, host: str, state: str) -> None:
        self.domains[router.name] = {"host": host, "state": state}

    def suspend(self, router: Router, host: str) -> None:
        pass

    def bring_back(self, router: Router, host: str, *, moved: bool) -> None:
        self.note(router, host, "running")

    def resume(self, router: Router, host: str, *, announce: bool) -> None:
        pass

    def move_ports(self, router: Router, source: str, to: str) -> None:
        pass


class Daemon:
    """Serves as `lab.hypervisor.main` does; while it does not `answer`, requests wait for it."""

    def __init__(self, network: Network) -> None:
        self.routers = NoNamespaces(network)
        settings = Settings(pause_s=0.05, precopy_s=0.05, resume_after_s=60.0)
        self.hypervisor = EmulatedHypervisor(cast(RouterNamespaces, self.routers), settings)
        self.asked: list[str] = []
        self.answers = threading.Event()
        self.answers.set()
        self.deaf_to = ""
        self.idle = 0
        """How often it has looked, and nobody has asked."""
        self._over = threading.Event()
        socket = zmq.Context.instance().socket(zmq.REP)
        self.port = socket.bind_to_random_port("tcp://127.0.0.1")
        # From here on the socket is the thread's: ZeroMQ ends a program where two use one.
        self._thread = threading.Thread(target=self._serve, args=(socket,), daemon=True)
        self._thread.start()

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        while not self._over.is_set():
            if not socket.poll(20):
                self.idle += 1
                continue
            request = socket.recv()
            verb = json.loads(request)["verb"]
            self.asked.append(verb)
            if verb == self.deaf_to:
                self.deaf_to = ""
                self.answers.clear()
            while not self.answers.wait(0.02):
                if self._over.is_set():
                    break
            socket.send(json.dumps(self.hypervisor.answer(request)).encode())
        socket.close(0)

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def has_done_all(self) -> None:
        """Wait until nobody's request waits."""
        before = self.idle
        until(lambda: self.idle > before + 1)

    @property
    def jobs(self) -> list[str]:
        return [job.state for job in self.hypervisor._jobs.values()]


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    made = Daemon(load(PAPER))
    monkeypatch.setattr(lab, "TIMEOUT_S", SILENT_S)
    monkeypatch.setattr(lab.LabDriver.__init__, "__defaults__", (SILENT_S,))
    yield made
    made.close()


@pytest.fixture
def controllers(daemon: Daemon) -> Controllers:
    paper = load(PAPER)
    spec = f"lab:tcp://127.0.0.1:{daemon.port}"
    hosts = {name: replace(paper.datapaths[name], hypervisor=spec) for name in paper.hosts}
    return Controllers(replace(paper, datapaths={**paper.datapaths, **hosts}))


def is_unknown(event: ProgressEvent) -> bool:
    return event.step == "hypervisor" and "is not known: asked again until it is" in event.detail


@pytest.mark.parametrize("verb", ["migrate", "job"])
def test_what_is_not_known_is_looked_at_until_it_is(
    daemon: Daemon, controllers: Controllers, verb: str
) -> None:
    """It does not answer whether it has begun, or how far it is.  When it does again, what it was
    asked before is not done any more: "everything was put back" is true, and stays true."""
    daemon.deaf_to = verb
    unknown: list[ProgressEvent] = []

    def seen(event: ProgressEvent) -> None:
        if is_unknown(event):
            unknown.append(event)
            # The VM may be anywhere: nothing was put back yet.
            assert controllers.where == {("host-a", ("host-a", "host-b"))}
            daemon.answers.set()

    result = migrate(controllers, report=seen)
    assert unknown and (result.undone, result.unknown) == (True, "")
    assert result.text().endswith("everything was put back")
    assert controllers.where == {("host-a", ("host-a",))} and not controllers.left_unfinished
    daemon.has_done_all()
    assert daemon.jobs in ([], [FAILED]) and daemon.routers.domains == HOME


def test_what_stays_unknown_is_not_called_put_back(
    daemon: Daemon, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "KNOWN_S", 0.5)
    daemon.deaf_to = "migrate"
    result = migrate(controllers)
    assert (result.ok, result.undone) == (False, False)
    assert "did not answer abort" in result.unknown and "did not answer migrate" in result.error
    assert "where its VM is, is not known" in result.text() and "put back" not in result.text()
    assert result.text().endswith("the switches were left as they are; run `xenflow recover vr1`")
    assert result.json()["unknown"] == result.unknown
    assert controllers.left_unfinished
    assert controllers.where == {("host-a", ("host-a", "host-b"))}
    with pytest.raises(NetworkError, match="did not answer domains"):
        recover(controllers)
    assert controllers.left_unfinished
    daemon.answers.set()
    until(lambda: daemon.asked.count("domains") >= 2)
    recovered = recover(controllers)[0]
    assert recovered is not None and recovered.ok
    # Wherever the VM is now: the switches are there.
    where = daemon.routers.domains["vr1"]["host"]
    assert controllers.where == {(where, (where,))} and not controllers.left_unfinished


def test_it_lets_the_vm_run_and_does_not_say_so(daemon: Daemon, controllers: Controllers) -> None:
    daemon.deaf_to = "unpause"
    unknown: list[ProgressEvent] = []

    def seen(event: ProgressEvent) -> None:
        if is_unknown(event):
            unknown.append(event)
            daemon.answers.set()

    result = migrate(controllers, report=seen)
    assert unknown and result.ok, result.text()
    assert daemon.jobs == [RUNNING] and daemon.routers.domains == AWAY
    assert controllers.where == {("host-b", ("host-b",))}


def test_it_never_says_whether_the_vm_runs(
    daemon: Daemon, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "KNOWN_S", 0.5)
    daemon.deaf_to = "unpause"
    result = migrate(controllers)
    assert not result.ok and "did not answer unpause" in result.unknown
    assert result.commit is Commit.IN_DOUBT and result.committed
    assert "where its VM is, is not known" in result.text()
    assert controllers.left_unfinished


def test_a_job_is_its_owners(daemon: Daemon, controllers: Controllers) -> None:
    """One that has lost its lease cannot even be told from the name of the router alone."""

    class Owner:
        def __init__(self, owner: str) -> None:
            self.owner = owner

        def check(self) -> None:
            """Stopped right after this."""

    mine, yours = (lab.LabDriver(f"tcp://127.0.0.1:{daemon.port}", 60.0) for _ in range(2))
    mine.claim, yours.claim = Owner("me"), Owner("you")
    daemon.hypervisor._settings.precopy_s = daemon.hypervisor._settings.resume_after_s = 60.0
    yours.migrate("vr1", "host-b")
    for refused in (lambda: mine.abort("vr1", own=True), lambda: mine.unpause("vr1")):
        with pytest.raises(HypervisorError, match="vr1 is being migrated by you"):
            refused()
    assert mine.abort("vr1").words == ["the migration of vr1 was ended"]  # as `recover` does
    assert daemon.jobs == [FAILED]
    with pytest.raises(HypervisorError, match="me has given this up"):
        mine.migrate("vr1", "host-b")  # on its way when it was given up
    yours.migrate("vr1", "host-b")
    assert yours.abort("vr1", own=True).did
    for driver in (mine, yours):
        driver.close()


def test_a_vm_that_is_found_at_the_destination_is_followed(
    daemon: Daemon, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its move was given up, too late: there is only forward, and no `recover` is needed.  Its
    packets follow it first, by the destination's switch before the source's."""
    monkeypatch.setenv("XENFLOW_FAULT", "9")  # the VM is at the destination, paused
    given: list[tuple[str, ...]] = []
    place = controllers.on_place

    def on_place(_: str, placement: Placement, datapaths: list[str], in_force: bool) -> None:
        if placement.vm == "host-b":
            given.append(tuple(datapaths))
        place(_, placement, datapaths, in_force)

    monkeypatch.setattr(controllers, "on_place", on_place)
    said: list[ProgressEvent] = []

    def somebody_lets_it_run(event: ProgressEvent) -> None:
        said.append(event)
        if (event.step, event.state) == ("control", "failed"):
            assert daemon.hypervisor.answer(b'{"verb": "unpause", "router": "vr1"}')["ok"]

    result = migrate(controllers, report=somebody_lets_it_run)
    assert (result.ok, result.committed, result.error) == (True, True, ""), result.text()
    assert result.commit is Commit.DONE
    assert any("its VM runs on host-b: the migration is completed" in e.detail for e in said)
    assert (daemon.jobs, daemon.routers.domains) == ([RUNNING], AWAY)
    assert given[:3] == [("host-b",), ("host-a",), ("gen", "recv")]
    assert controllers.released == [("host-a", "host-b")] * 2
    assert (result.held, result.repeated, result.dropped) == (5, 2, 1)
    assert controllers.where == {("host-b", ("host-b",))} and not controllers.left_unfinished


def test_what_was_planned_from_another_place_is_refused(
    daemon: Daemon, controllers: Controllers
) -> None:
    """Somebody else has moved the router, all of it, between the plan and its lease."""
    made = plan_of(controllers)
    assert migrate(controllers, mode="native").ok
    before = dict(controllers.placements)
    result = run(controllers, made)
    assert (result.ok, result.refused, controllers.placements) == (False, True, before)
    assert "planned at version 0 of its placement, " in result.text()
    assert result.text().endswith("is at 2: ask again; nothing was changed")
    assert not controllers.held and not controllers.left_unfinished


def test_a_recovery_has_one_lease(daemon: Daemon, controllers: Controllers) -> None:
    """Nobody moves the router between its plan and its effects, nor before it has the lease."""
    daemon.routers.domains = dict(AWAY)
    with planning.recovering(controllers.network, "vr1", controllers, [].append) as begun:
        assert begun is not None and len(controllers.held) == 1
        # Also where nothing but the VM says that it is concerned.
        assert all(leases.under_way("vr1") for leases in controllers.leases.values())
        assert run(controllers, *begun[:1], lease=begun[1]).ok
    assert controllers.where == {("host-b", ("host-b",))} and not controllers.held
    first = controllers.on_lock

    def after_another_move(controller: str, **asked: Any) -> dict[str, Any]:
        for name, placement in controllers.placements.items():
            controllers.placements[name] = placement.step()
        return first(controller, **asked)

    controllers.on_lock = after_another_move  # type: ignore[method-assign]
    with pytest.raises(MovedError, match="moved or changed meanwhile"):
        recover(controllers)
    assert not controllers.held


def test_who_was_not_given_a_placement_gets_none_back(
    daemon: Daemon, controllers: Controllers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its controller has refused it for certain: it is neither told nor waited for."""
    controllers.not_connected = {"host-b": 1000}
    result = migrate(controllers)
    assert (result.undone, result.problems) == (True, []), result.text()
    assert controllers.not_connected == {"host-b": 999}
    assert controllers.where == {("host-a", ("host-a",))}
