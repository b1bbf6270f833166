"""Migrations where switches take their time: a late revalidator, a controller's link with delay.

Whoever waits for a fixed time instead of a proof loses packets here.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from lab import switch
from lab.description import PREFIX, Lab
from lab.namespace import inside
from tests.lab.live import LiveTraffic, bring_home, datapaths, in_sync, settle, xenflow
from tests.lab.needed import needs

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "bird", "nft", "tc", "ip")
pytestmark = needs(PROGRAMS)

LATE_S = 2.0


@dataclass
class LateProxy:
    """Passes a switch's connection to its controller on; what the controller sends arrives late.

    What the switch sends is passed on at once: so it answers `delay_s` after it was asked.
    """

    namespace: str
    controller: tuple[str, int]
    delay_s: float
    ended: threading.Event = field(default_factory=threading.Event)
    passed: threading.Event = field(default_factory=threading.Event)
    """The controller has been heard through it."""

    def __post_init__(self) -> None:
        with inside(self.namespace):
            self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while not self.ended.is_set():
                ours, _ = self.listener.accept()
                with inside(self.namespace):
                    theirs = socket.create_connection(self.controller)
                for end in (ours, theirs):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pass, args=(ours, theirs, 0.0), daemon=True).start()
                threading.Thread(
                    target=self._pass, args=(theirs, ours, self.delay_s), daemon=True
                ).start()

    def _pass(self, source: socket.socket, to: socket.socket, delay_s: float) -> None:
        waiting: deque[tuple[float, bytes]] = deque()
        source.settimeout(0.01)
        with suppress(OSError):
            while not self.ended.is_set():
                with suppress(TimeoutError):
                    data = source.recv(65536)
                    if not data:
                        break
                    waiting.append((time.monotonic() + delay_s, data))
                while waiting and waiting[0][0] <= time.monotonic():
                    to.sendall(waiting.popleft()[1])
                    if delay_s:
                        self.passed.set()
        for end in (source, to):
            end.close()

    def close(self) -> None:
        """End every connection."""
        self.ended.set()
        self.listener.close()


@contextmanager
def answers_late(lab: Lab, datapath: str, delay_s: float) -> Iterator[None]:
    """A plain switch hears its controller only after a while."""
    node = lab.switch_node(datapath)
    controller = lab.network.controllers[lab.network.datapaths[datapath].controller].openflow
    proxy = LateProxy(PREFIX + node, controller, delay_s)

    def connect(host: str, port: int, patience_ms: int) -> None:
        words = ["set", "Controller", switch.BRIDGE, f'target="tcp:{host}:{port}"']
        # Also so long a connection may take to come about, at most (docs/openflow.md).
        words.append(f"max_backoff={patience_ms}")
        # By the bridge's record: to take all controllers away would flush its flows.
        found = switch.vsctl(node, ["--columns=_uuid", "find", "Controller"])
        out, _ = found.communicate()
        words[2] = out.split(":", 1)[1].strip()
        switch.finish([switch.vsctl(node, words)])

    connect("127.0.0.1", proxy.port, 4 * int(1000 * LATE_S))
    try:
        settle(proxy.passed.is_set, f"{datapath} connects anew")
        settle(lambda: in_sync(lab), f"{datapath} is in sync")
        yield
    finally:
        connect(*controller, switch.MAX_BACKOFF_MS)
        proxy.close()
        settle(lambda: datapaths()[datapath]["connected"], f"{datapath} is back")


@pytest.fixture
def slow(lab_up: Callable[..., Lab]) -> Iterator[Lab]:
    """The paper's network with the default of five seconds between revalidations, and cached flows
    that live for ten."""
    lab = lab_up("paper", pause_s=0.1, precopy_s=0.1, max_revalidator_ms=5000, max_idle_ms=10000)
    settle(lambda: in_sync(lab), "every switch in sync")
    yield lab
    bring_home(lab)


def test_a_late_destination_holds_no_vm_up(slow: Lab) -> None:
    """Its switch is waited for before and after the suspension, and not for long within; meanwhile
    the VM hears its neighbours, who wait for 4 s."""
    usual = moved("host-b")
    bring_home(slow)
    with answers_late(slow, "host-b", LATE_S), LiveTraffic() as traffic:
        result = moved("host-b")
    print(f"suspended for {result['suspended_s']:.3f} of {result['total_s']:.1f} s")
    traffic.assert_nothing_lost()
    apply = [e for e in result["effects"] if "VM host-b, links to host-a" in e["words"]]
    took = [e["to_s"] - e["from_s"] for e in apply]
    assert max(took) > 2 * LATE_S, "more than one answer is waited for, after the suspension"
    assert result["suspended_s"] < usual["suspended_s"] + 0.75 * LATE_S, "not even for one"


def moved(to: str) -> dict[str, Any]:
    """What came of a migration."""
    done = xenflow("migrate", "vr1", to, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("moves", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_moves_with_late_switches_lose_nothing(slow: Lab, moves: int) -> None:
    took = []
    with answers_late(slow, "gen", LATE_S), LiveTraffic() as traffic:
        for number in range(moves):
            begun = time.monotonic()
            done = xenflow("migrate", "vr1", ("host-b", "host-a")[number % 2])
            assert done.returncode == 0, done.stderr
            took.append(time.monotonic() - begun)
    print("seconds a move:", " ".join(f"{s:.1f}" for s in took))
    traffic.assert_nothing_lost()
    assert min(took) > LATE_S
