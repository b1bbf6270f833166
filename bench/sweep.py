"""`scripts/bench --sweep`: how cost grows with routes, with routers and with switches.

Each point is one controller and one Open vSwitch (with as many bridges as switches): routers send
their prepacked snapshots at once, and the time until the last switch has confirmed the last of
them is taken; then single routes are changed, and what each process takes is read.  Beside it the
same flow messages, written by the raw controller, are timed on the same switch (of one bridge).

Writes docs/figures/sweep.csv; `plots.py` draws it.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

from bench import open_vswitch
from bench.controller import DPID, RAW_PORT, ROOT, ControllerProcess, RouterConnection, describe
from bench.internet_routes import internet_routes
from bench.memory import status_octets
from bench.open_vswitch import BenchError, OpenVSwitch, cpu_s
from bench.raw_controller import RawController, in_chunks
from bench.results import percentile
from bench.route_speed import prepacked, router_state
from xenflow.routes import messages as m
from xenflow.routes.messages import Op, Section, SectionKind
from xenflow.routes.router_state import RouterState
from xenflow.routes.sender import snapshot_messages

FIGURES = ROOT / "docs" / "figures"
TABLES = (1_000, 10_000, 100_000, 1_000_000)
ROUTERS = (1, 4, 16, 64)
SWITCHES = (1, 4, 16, 32)
SPREAD = 64_000
"""Routes in all, where routers or switches are many."""
CHANGES = 100
PIECE = 32 << 10


@dataclass(frozen=True, slots=True)
class Point:
    """One line of the file; medians over the runs, times in seconds."""

    sweep: str
    routes: int
    routers: int
    switches: int
    runs: int
    seconds: float
    raw_s: float
    change_p50_s: float
    change_p99_s: float
    controller_cpu_us_a_route: float
    switch_cpu_us_a_route: float
    controller_octets_a_route: float


def sweep(directory: Path, core: Sequence[str], runs: int, quick: bool) -> list[Point]:
    """All points, written as well."""
    tables, spread = (TABLES[:2], SPREAD // 10) if quick else (TABLES, SPREAD)
    plan = [("routes", n, 1, 1) for n in tables]
    plan += [("routers", spread, n, 1) for n in ROUTERS]
    plan += [("switches", spread, n, n) for n in SWITCHES]
    found = []
    for name, routes, routers, switches in plan:
        repeats = 1 if routes >= TABLES[-1] else runs
        folder = directory / f"{name}-{routes}-{routers}-{switches}"
        found.append(_point(folder, core, repeats, name, routes, routers, switches))
        print(f"sweep: {found[-1]}", file=sys.stderr, flush=True)
    write(found)
    return found


def write(points: Sequence[Point]) -> None:
    """The table, for whoever draws or compares."""
    FIGURES.mkdir(exist_ok=True)
    with (FIGURES / "sweep.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Point)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(point) for point in points)


def _point(
    directory: Path,
    core: Sequence[str],
    runs: int,
    name: str,
    routes: int,
    routers: int,
    switches: int,
) -> Point:
    directory.mkdir(parents=True, exist_ok=True)
    table = internet_routes(routes)
    states = [router_state(table[n::routers], n) for n in range(routers)]
    told = [list(snapshot_messages(s, f"vr{n}")) for n, s in enumerate(states, 1)]
    runs_found = []
    raw_s = float("nan")
    for run in range(runs):
        with open_vswitch.running(directory / f"ovs{run}", DPID) as switch:
            for number in range(1, switches):
                switch.add_bridge(DPID + number)
            if switches == 1 and not run:
                raw_s = _raw(switch, told)
            runs_found.append(_run(directory, core, switch, states, told, switches))
    middle = [median(values) for values in zip(*runs_found, strict=True)]
    return Point(name, routes, routers, switches, runs, middle[0], round(raw_s, 6), *middle[1:])


def _raw(switch: OpenVSwitch, told: Sequence[Sequence[list[bytes]]]) -> float:
    raw = RawController(RAW_PORT)
    raw.accept(switch)
    pieces = in_chunks(b"".join(prepacked(each) for each in told), PIECE)
    took = raw.write(pieces)
    raw.wipe(switch)
    raw.hang_up()
    raw.close()
    return took


def _run(
    directory: Path,
    core: Sequence[str],
    switch: OpenVSwitch,
    states: Sequence[RouterState],
    told: Sequence[Sequence[list[bytes]]],
    switches: int,
) -> list[float]:
    routes = sum(len(state.routes) for state in states)
    description = describe(["proactive"] * switches, len(states))
    address = f"ipc://{directory}/{{router}}"
    with ControllerProcess(directory, core, description=description, routers=address) as controller:
        controller.wait_connected(switch)
        names = [f"vr{n}" for n in range(1, len(told) + 1)]
        routers = [RouterConnection(address.format(router=name), name) for name in names]
        for router, state in zip(routers, states, strict=True):
            if router.hello(state.epoch, state.seq) is not m.RouteMessageType.RESYNC:
                raise BenchError("the Rule Table asked for no snapshot")
        switch.rest()
        before = cpu_s(controller.pid), cpu_s(switch.pid)
        empty = status_octets(controller.pid, "VmRSS")
        started = time.perf_counter()
        for part in range(max(map(len, told))):  # a message of each router in turn
            for router, messages in zip(routers, told, strict=True):
                if part < len(messages):
                    router.send(messages[part])
        for _ in routers:
            controller.confirmed(m.RouteMessageType.SNAPSHOT_END, wait_s=120)
        took = time.perf_counter() - started
        used = cpu_s(controller.pid) - before[0], cpu_s(switch.pid) - before[1]
        held = status_octets(controller.pid, "VmRSS") - empty
        switch.rest()
        changes = [_change(controller, routers[0], states[0], n) for n in range(CHANGES)]
        for router in routers:
            router.close()
    states[0].seq = 1
    return [
        round(took, 6),
        round(percentile(changes, 0.5), 6),
        round(percentile(changes, 0.99), 6),
        round(used[0] / routes * 1e6, 3),
        round(used[1] / routes * 1e6, 3),
        round(held / routes, 1),
    ]


def _change(
    controller: ControllerProcess, router: RouterConnection, state: RouterState, number: int
) -> float:
    key, hop = next(iter(state.routes.items()))
    hops = sorted(state.nexthops)
    other = hops[(hops.index(hop) + 1 + number) % len(hops)]
    state.seq += 1
    change = Section(SectionKind.ROUTE4, Op.SET, [(key >> 8, key & 255, other)])
    delta = m.pack(m.Header(m.RouteMessageType.DELTA, state.epoch, state.seq, "vr1"), [change])
    time.sleep(0.005)
    started = time.perf_counter()
    router.send(delta)
    at_ns = controller.confirmed(m.RouteMessageType.DELTA, state.seq, wait_s=10)
    return at_ns / 1e9 - started  # on Linux both are CLOCK_MONOTONIC
