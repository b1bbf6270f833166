"""`route_change_under_flood` and `packet_in_beside_flood`: what a flood of packet-ins delays.

One controller has three hosts: Open vSwitch, proactive, with a router of 10,000 routes; a switch
that sends packet-ins as fast as the controller takes them (`flooder`, a process of its own); and a
switch that sends one packet-in at a time.  In blocks, in turns with and without the flood, are
measured

    one changed route    from the message to the Rule Table's socket until its switch's confirmation
    one packet-in        of the calm switch, until it is answered
    one request          `status`, at the management socket

The rows give the 99th percentile under the flood, and the same without it as the baseline.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import open_vswitch
from bench.controller import (
    DPID,
    OPENFLOW_PORT,
    ROOT,
    ControllerProcess,
    RouterConnection,
    describe,
)
from bench.fake_switch import FakeSwitch
from bench.internet_routes import internet_routes
from bench.open_vswitch import BenchError, end
from bench.packet_in import PORTS, ROUTES, asked, frames, routed_targets
from bench.results import Found, Row, percentile
from bench.route_speed import router_state
from xenflow.routes import messages as m
from xenflow.routes.messages import Op, Section, SectionKind
from xenflow.routes.router_state import RouterState
from xenflow.routes.sender import snapshot_messages

FLOODED, CALM = 1, 2
BLOCKS = 5
MEASURED = ("route_change", "packet_in", "request")


class _Flooder:
    """The process that floods."""

    def __init__(self, log: Path) -> None:
        words = [
            sys.executable,
            "-m",
            "bench.flooder",
            str(OPENFLOW_PORT),
            str(DPID + FLOODED),
            str(FLOODED),
        ]
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, cwd=ROOT
            )

    def say(self, word: str) -> None:
        """One line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()

    def heard(self) -> str:
        """One line from it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()


@contextmanager
def _routers(directory: Path) -> Iterator[tuple[list[RouterConnection], list[RouterState]]]:
    found = [RouterConnection(f"ipc://{directory}/vr{n}", f"vr{n}") for n in (1, 2, 3)]
    yield found, [router_state(internet_routes(ROUTES), n) for n in range(3)]
    for router in found:
        router.close()


def under_flood(directory: Path, core: Sequence[str], samples: int) -> Found:
    """See the module; so many samples in all, of each kind, with and without."""
    description = describe(["proactive", "reactive", "reactive"], routers=3)
    with (
        open_vswitch.running(directory / "ovs", DPID) as switch,
        ControllerProcess(
            directory, core, description=description, routers=f"ipc://{directory}/{{router}}"
        ) as controller,
        _routers(directory) as (routers, states),
    ):
        controller.wait_connected(switch)
        flooder = _Flooder(directory / "flooder.log")
        try:
            calm = FakeSwitch(OPENFLOW_PORT, DPID + CALM, PORTS)
            calm.settle(1.0)
            if flooder.heard() != "ready":
                raise BenchError(f"the flooding switch did not start: see {directory}")
            for number, (router, state) in enumerate(zip(routers, states, strict=True), 1):
                if router.hello(state.epoch, state.seq) is not m.RouteMessageType.RESYNC:
                    raise BenchError("the Rule Table asked for no snapshot")
                for part in snapshot_messages(state, f"vr{number}"):
                    router.send(part)
                calm.settle(0.5)
                controller.confirmed(m.RouteMessageType.SNAPSHOT_END, wait_s=10)
            return _measure(controller, calm, flooder, routers[0], states[0], samples)
        finally:
            end(flooder.process)


def _measure(
    controller: ControllerProcess,
    calm: FakeSwitch,
    flooder: _Flooder,
    router: RouterConnection,
    state: RouterState,
    samples: int,
) -> Found:
    idle: dict[str, list[float]] = {name: [] for name in MEASURED}
    flooded: dict[str, list[float]] = {name: [] for name in MEASURED}
    keys = list(state.routes.items())
    packets = asked(frames(routed_targets(2000, 6), 6, CALM), CALM)
    rates = []
    number = 0
    for _ in range(BLOCKS):
        for series in (idle, flooded):
            if series is flooded:
                flooder.say("begin")
                time.sleep(0.3)
            for _ in range(samples // BLOCKS):
                number += 1
                calm.settle(0.003)
                series["route_change"].append(_change(controller, router, state, keys, number))
                series["packet_in"].append(calm.burst([packets[number % len(packets)]], 1))
                series["request"].append(_request(controller))
            if series is flooded:
                flooder.say("end")
                rates.append(float(flooder.heard()))
    rows = []
    for name, row in zip(
        MEASURED,
        ("route_change_under_flood", "packet_in_beside_flood", "request_under_flood"),
        strict=True,
    ):
        worst, usual = percentile(flooded[name], 0.99), percentile(idle[name], 0.99)
        rows.append(
            Row(
                row,
                round(worst, 6),
                "s",
                "s, without the flood (both p99)",
                round(usual, 6),
                round(worst / usual, 3),
            )
        )
    sweep = {
        "flood_answers_a_second": [round(rate) for rate in rates],
        **{
            f"{name}_{state_}_{label}_s": round(percentile(values[name], share), 6)
            for name in MEASURED
            for state_, values in (("idle", idle), ("flooded", flooded))
            for label, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
        },
    }
    return Found(rows, {"route_change_under_flood": sweep})


def _change(
    controller: ControllerProcess,
    router: RouterConnection,
    state: RouterState,
    keys: list[tuple[int, int]],
    number: int,
) -> float:
    key, hop = keys[number % len(keys)]
    hops = sorted(state.nexthops)
    other = hops[(hops.index(hop) + 1 + number // len(keys)) % len(hops)]
    state.seq += 1
    change = Section(SectionKind.ROUTE4, Op.SET, [(key >> 8, key & 255, other)])
    delta = m.pack(m.Header(m.RouteMessageType.DELTA, state.epoch, state.seq, "vr1"), [change])
    controller.drop_reports()
    started = time.perf_counter()
    router.send(delta)
    at_ns = controller.confirmed(m.RouteMessageType.DELTA, state.seq, wait_s=10)
    return at_ns / 1e9 - started  # on Linux both are CLOCK_MONOTONIC


def _request(controller: ControllerProcess) -> float:
    started = time.perf_counter()
    controller.client.request("status")
    return time.perf_counter() - started
