"""`routes_socket_to_switch`, `routes_kernel_to_switch`: how long 100,000 routes take; and
`routes_1m_socket_to_switch`, `routes_1m_kernel_to_switch` for a million; `routes6_...` for IPv6.

Measured: from the first message sent to the Rule Table's socket (or from the start of the routerd
process, in a namespace whose kernel holds the routes already) until the controller has the
switch's barrier reply behind the last flow, as `bench_witness` reports it.

Baseline: the same flow messages, byte for byte, packed beforehand and written to the same switch
by `RawController`, which does nothing else; in the same run, in turns, at the fastest of three
chunk sizes.  That the messages are the same is checked by comparing dumps of the switch's flows.
Where a table is large that is done in the first round, which also tries the three sizes; the
rounds that follow take the fastest of them.

`kernel_to_switch` also weighs: what a route adds to the resident memory of routerd, of the
controller and of the kernel, against the same processes with an empty table.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench import open_vswitch
from bench.controller import (
    CONTROL,
    DPID,
    GATEWAYS,
    RAW_PORT,
    ROUTER,
    ControllerProcess,
    RouterConnection,
    gateway_mac,
    interface_mac,
)
from bench.internet_routes import internet_routes
from bench.memory import kernel_route_octets, status_octets
from bench.open_vswitch import BenchError, OpenVSwitch, cpu_s
from bench.raw_controller import RawController, in_chunks
from bench.results import Found, Row
from bench.virtual_router import VirtualRouter, gateway
from xenflow.routes import messages as m
from xenflow.routes.family import V4, V6, Family
from xenflow.routes.router_state import NO_POLICY, RouterState
from xenflow.routes.sender import snapshot_messages
from xenflow.tables import cookies, layout
from xenflow.tables.routes import RoutePacker

CHUNKS = (4 << 10, 32 << 10, 1 << 20)
SOCKET = "tcp://127.0.0.1:6641"
ROUTER_ID = 1
LARGE = 500_000
"""From so many routes on a round costs minutes."""
_WORKING = 7


def router_state(
    routes: Sequence[tuple[int, int]], number: int = 0, family: Family = V4
) -> RouterState:
    """The router with this number, from 0, on two links, its routes, all of one family, spread over
    resolved gateways."""
    interfaces = {
        2: m.VmInterface(2, _WORKING, 1500, interface_mac(number, 0), "eth0"),
        3: m.VmInterface(3, _WORKING, 1500, interface_mac(number, 1), "eth1"),
    }
    local = {(4, 32, a): m.Local(4, 32, i, a) for i, a in ((2, 0x0A000101), (3, 0x0A000201))}
    via = m.NextHopType.VIA
    hops = [
        m.NextHop(
            10 + n, via, family.number, 2 + n % 2, int(gateway(n, family)), gateway_mac(number, n)
        )
        for n in range(GATEWAYS)
    ]
    table = {net << 8 | span: 10 + n * 7 % GATEWAYS for n, (net, span) in enumerate(routes)}
    state = RouterState.of(
        interfaces, local, {hop.id: hop for hop in hops}, {}, {}, table, NO_POLICY
    )
    state.epoch, state.seq = 0x5846, 1
    return state


def prepacked(told: Sequence[list[bytes]]) -> bytes:
    """The flow messages for the routes in these route messages, in their order."""
    packer = RoutePacker()
    sections = [section for frames in told for section in m.parse_sections(frames)]
    kinds = (m.SectionKind.ROUTE4, m.SectionKind.ROUTE6)
    routes = [s.records for s in sections if s.kind in kinds]
    return b"".join(
        chunk
        for part in routes
        for chunk in packer.pack_adds(ROUTER_ID, part, cookies.of_routes(ROUTER_ID, part))
    )


class Contest:
    """One switch that the controller and the raw one fill in turns."""

    def __init__(self, switch: OpenVSwitch, raw: RawController, quick: bool, routes: int) -> None:
        self.switch = switch
        self.raw = raw
        self.large = routes >= LARGE
        self.chunks = CHUNKS[1:2] if quick else CHUNKS
        self.ours: list[float] = []
        self.cpu: list[tuple[float, float]] = []
        self.limits: dict[int, list[float]] = {size: [] for size in self.chunks}
        self.warm = False

    def wipe(self) -> None:
        """Remove all routes from the switch and let it come to rest."""
        self.raw.wipe(self.switch)

    def warm_up(self, flows: bytes) -> None:
        """Before the first round of a large table: the switch has held as much once, and need not
        get the memory for it within a round."""
        self.raw.accept(self.switch)
        self.raw.write(in_chunks(flows, CHUNKS[1]))
        self.wipe()
        self.raw.hang_up()

    def take(self, seconds: float, controller_s: float, switch_s: float) -> None:
        """One run of the controller's: wall clock, CPU of the controller and of the switch."""
        self.ours.append(seconds)
        self.cpu.append((controller_s, switch_s))

    def limit(self, flows: bytes) -> None:
        """The raw controller's turn, once for each chunk size; the switch holds what the
        controller wrote."""
        compared = not (self.large and self.warm)
        expected = self.switch.dump(layout.ROUTES) if compared else []
        self.raw.accept(self.switch)
        if not (self.warm or self.large):
            self.wipe()
            self.raw.write(in_chunks(flows, CHUNKS[1]))
        self.warm = True
        for size in self.chunks:
            self.wipe()
            self.limits[size].append(self.raw.write(in_chunks(flows, size)))
        if self.large:
            self.chunks = (self.fastest(),)
        if compared and self.switch.dump(layout.ROUTES) != expected:
            raise BenchError("the raw controller's flows are not those of XenFlow")
        self.wipe()
        self.raw.hang_up()

    def fastest(self) -> int:
        """The size of a write with which the raw controller was fastest."""
        return min(self.chunks, key=lambda size: median(self.limits[size]))

    def result(self, name: str, routes: int) -> Found:
        """The row, and what else was seen."""
        size = self.fastest()
        row = Row.against(
            name,
            self.ours,
            "s",
            f"s, prepacked bytes, {size >> 10} KiB a write",
            self.limits[size],
        )
        sweep = {
            "routes": routes,
            "runs_s": [round(each, 4) for each in self.ours],
            "limit_runs_s": {
                str(size): [round(each, 4) for each in runs] for size, runs in self.limits.items()
            },
            "controller_cpu_us_a_route": round(median(c for c, _ in self.cpu) / routes * 1e6, 2),
            "switch_cpu_us_a_route": round(median(s for _, s in self.cpu) / routes * 1e6, 2),
        }
        return Found([row], {name: sweep})


def socket_to_switch(
    directory: Path,
    core: Sequence[str],
    runs: int,
    routes: int,
    quick: bool,
    profile: str = "",
    name: str = "routes_socket_to_switch",
    family: Family = V4,
) -> Found:
    """See the module.  `core` are options of `pox.py` that choose POX or the stand-in."""
    state = router_state(internet_routes(routes, family=family), family=family)
    told = list(snapshot_messages(state, ROUTER))
    flows = prepacked(told)
    raw = RawController(RAW_PORT)
    with open_vswitch.running(directory / "ovs", DPID) as switch:
        contest = Contest(switch, raw, quick, routes)
        if contest.large:
            contest.warm_up(flows)
        for _ in range(runs):
            with ControllerProcess(directory, core, routers=SOCKET, profile=profile) as controller:
                controller.wait_connected(switch)
                router = RouterConnection(SOCKET)
                if router.hello(state.epoch, state.seq) is not m.RouteMessageType.RESYNC:
                    raise BenchError("the Rule Table asked for no snapshot")
                switch.rest()
                before = cpu_s(controller.pid), cpu_s(switch.pid)
                started = time.perf_counter()
                for frames in told:
                    router.send(frames)
                controller.confirmed(m.RouteMessageType.SNAPSHOT_END)
                took = time.perf_counter() - started
                contest.take(took, cpu_s(controller.pid) - before[0], cpu_s(switch.pid) - before[1])
                router.close()
            contest.limit(flows)
        raw.close()
        return contest.result(name, routes)


def kernel_to_switch(
    directory: Path,
    core: Sequence[str],
    runs: int,
    routes: int,
    quick: bool,
    profile: str = "",
    name: str = "routes_kernel_to_switch",
    family: Family = V4,
) -> Found:
    """See the module."""
    table = internet_routes(routes, family=family)
    raw = RawController(RAW_PORT)
    memory: list[dict[str, int]] = []
    with (
        open_vswitch.running(directory / "ovs", DPID) as switch,
        VirtualRouter("bench-vr1", CONTROL, ("vr1.0", "vr1.1"), family) as router,
    ):
        for vif in router.vifs:
            switch.add_port(vif)
        with ControllerProcess(directory, core) as controller:
            controller.wait_connected(switch)
            with router.routerd(directory) as daemon:
                controller.confirmed(m.RouteMessageType.SNAPSHOT_END)
                empty = _resident(controller.pid, daemon.pid)
        learned_s = router.learn(table)
        contest = Contest(switch, raw, quick, routes)
        if contest.large:
            told = snapshot_messages(router_state(table, family=family), ROUTER)
            contest.warm_up(prepacked(list(told)))
        for _ in range(runs):
            with ControllerProcess(directory, core) as controller:
                controller.wait_connected(switch)
                switch.rest()
                before = cpu_s(controller.pid), cpu_s(switch.pid)
                started = time.perf_counter()
                with router.routerd(directory, profile) as daemon:
                    controller.confirmed(m.RouteMessageType.SNAPSHOT_END)
                    took = time.perf_counter() - started
                    used = cpu_s(controller.pid) - before[0], cpu_s(switch.pid) - before[1]
                    memory.append(_resident(controller.pid, daemon.pid))
                contest.take(took, *used)
                flows = prepacked(controller.exported())
            contest.limit(flows)
        raw.close()
        found = contest.result(name, routes)
        weights = {
            part: round((median(each[part] for each in memory) - empty[part]) / routes, 1)
            for part in empty
        }
        suffix = ("6" if family is V6 else "") + ("_1m" if routes >= LARGE else "")
        for part in ("controller", "routerd", "kernel"):
            found.rows.append(Row(f"memory{suffix}_{part}", weights[part], "octets a route"))
        found.sweep[name] |= {
            "ip_batch_s": round(learned_s, 3),
            "empty_octets": empty,
            "octets_a_route": weights,
        }
        return found


def _resident(controller: int, routerd: int) -> dict[str, int]:
    """Octets resident, now and at the most, and what the kernel's routes take."""
    return {
        "controller": status_octets(controller, "VmRSS"),
        "controller_peak": status_octets(controller, "VmHWM"),
        "routerd": status_octets(routerd, "VmRSS"),
        "routerd_peak": status_octets(routerd, "VmHWM"),
        "kernel": kernel_route_octets(),
    }
