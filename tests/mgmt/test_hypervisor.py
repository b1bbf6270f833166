"""The hypervisor drivers: which there are, and the lab's against a daemon on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from mgmt.hypervisor import Domain, Drivers, Hypervisor, HypervisorError, JobState, lab, of
from xenflow.model.network import Network, NetworkError
from xenflow.store.network_file import load

PAPER = Path(__file__).parents[2] / "conf" / "paper.toml"

JOB = {
    "id": "1",
    "router": "vr1",
    "from": "host-a",
    "to": "host-b",
    "state": "suspended",
    "detail": "",
    "suspended_s": 0.2,
    "events": [
        {"state": "precopy", "monotonic_s": 5.0},
        {"state": "suspended", "monotonic_s": 5.5},
    ],
}


class Daemon:
    """Answers as the lab's does."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {
            "domains": {"domains": [{"router": "vr1", "host": "host-a", "state": "running"}]},
            "migrate": {"job": {**JOB, "state": "precopy", "suspended_s": None}},
            "job": {"job": JOB},
            "unpause": {"job": JOB},
        }
        socket = zmq.Context.instance().socket(zmq.REP)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        self.url = f"tcp://127.0.0.1:{port}"
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._serve, args=(socket,), daemon=True)
        self.thread.start()

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        while not self.stop.is_set():
            if socket.poll(20):
                asked = json.loads(socket.recv())
                self.asked.append(asked)
                answer = self.answers.get(asked["verb"])
                if isinstance(answer, bytes):
                    socket.send(answer)
                elif answer is None:
                    error = {"code": "busy", "message": "vr1 is being migrated already"}
                    socket.send(json.dumps({"ok": False, "error": error}).encode())
                else:
                    socket.send(json.dumps({"ok": True, "emulated": True, **answer}).encode())
        socket.close(0)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    yield made
    made.stop.set()
    made.thread.join()


def network(spec: str) -> Network:
    """`paper`, its hosts under another hypervisor."""
    made = load(PAPER)
    hosts = {name: replace(made.datapaths[name], hypervisor=spec) for name in made.hosts}
    return replace(made, datapaths={**made.datapaths, **hosts})


def test_which_there_are() -> None:
    assert of(load(PAPER), "host-a").name == "lab"
    assert of(network("xl:ssh://host-a"), "host-a").name == "xl"
    with pytest.raises(NetworkError, match='is named for host-a; set hypervisor to "lab:tcp:'):
        of(network(""), "host-a")


def test_drivers_are_opened_when_needed_and_closed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    closed: list[str] = []

    class Driver:
        def __init__(self, network: Network, host: str) -> None:
            opened.append(host)
            self.close = lambda: closed.append(host)

    monkeypatch.setattr("mgmt.hypervisor.of", Driver)
    with Drivers(load(PAPER)) as drivers:
        assert opened == []
        assert drivers.of("host-a") is drivers.of("host-a")
        assert drivers.of("host-b") is not drivers.of("host-a")
        assert (opened, closed) == (["host-a", "host-b"], [])
    assert closed == ["host-b", "host-a"]


def test_lab(daemon: Daemon) -> None:
    driver: Hypervisor = of(network(f"lab:{daemon.url}"), "host-a")
    assert driver.emulated
    assert driver.domain("vr1") == Domain("vr1", "host-a", "running")
    job = driver.migrate("vr1", "host-b")
    assert (job.id, job.router, job.to, job.state) == ("1", "vr1", "host-b", JobState.PRECOPY)
    job = driver.job("1")
    assert (job.state, job.suspended_s) == (JobState.SUSPENDED, 0.2)
    assert job.events == (("precopy", 5.0), ("suspended", 5.5))
    driver.unpause("vr1")
    with pytest.raises(HypervisorError, match="refused abort: vr1 is being migrated") as raised:
        driver.abort("vr1")
    assert raised.value.code == "busy"
    assert daemon.asked[1:] == [
        {"verb": "migrate", "router": "vr1", "to": "host-b"},
        {"verb": "job", "id": "1"},
        {"verb": "unpause", "router": "vr1"},
        {"verb": "abort", "router": "vr1"},
    ]
    assert driver.copies("host-a", ["vr1"]) == ["vr1"]
    assert driver.copies("host-a", ["vr2"]) == driver.copies("host-b", ["vr1"]) == []
    driver.close()


@pytest.mark.parametrize("answer", [b"no JSON", b"[]", b'{"ok": true}', b'{"ok": true, "job": 1}'])
def test_lab_answers_that_mean_nothing(daemon: Daemon, answer: bytes) -> None:
    driver = lab.LabDriver(daemon.url)
    daemon.answers |= {"domains": answer, "job": answer}
    for ask in (lambda: driver.domain("vr1"), lambda: driver.job("1")):
        with pytest.raises(HypervisorError):
            ask()
    driver.close()


def test_lab_is_not_up() -> None:
    driver = lab.LabDriver("tcp://127.0.0.1:9", timeout_s=0.1)
    for _ in range(2):  # and can be asked again
        with pytest.raises(HypervisorError, match="did not answer domains within .*is the lab up"):
            driver.domain("vr1")
    driver.close()
