"""How long one changed route takes: `route_change_latency`, `route_change_latency_1m`,
and `route6_change_latency_1m` of IPv6 routes.

Measured: from just before the system call that replaces one route in the kernel of a virtual
router with 100,000 routes (the netlink event is sent within it) until the one who measures hears
from the controller that the switch's barrier reply has come.

Baseline: `bare_echo`, in turns with it: the same netlink event in a second namespace, a ZeroMQ
message over an equal control link, an OpenFlow echo through the same switch, the same datagram at
the end; Python in each process as here, but nothing is done with what comes.
"""

from __future__ import annotations

import random
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import open_vswitch
from bench.controller import CONTROL, DPID, OPENFLOW_PORT, ControllerProcess
from bench.internet_routes import internet_routes
from bench.open_vswitch import BenchError
from bench.results import Found, Row, percentile
from bench.virtual_router import Running, VirtualRouter
from xenflow.routes import messages as m
from xenflow.routes.family import V4, Family

FLOOR_PORT = 6635
FLOOR_ROUTES = 100_000
"""The bare echo looks at no route, so its kernel need not hold them all."""
WAIT_S = 5.0


def route_change_latency(
    directory: Path,
    core: Sequence[str],
    samples: int,
    routes: int,
    profile: str = "",
    name: str = "route_change_latency",
    family: Family = V4,
) -> Found:
    """See the module."""
    table = internet_routes(routes, family=family)
    draw = random.Random(2)
    report = directory / "echo"
    report.unlink(missing_ok=True)
    echo = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    echo.bind(str(report))
    echo.settimeout(WAIT_S)
    log = directory / "bare_echo.log"
    bare_table = [sys.executable, "-m", "bench.bare_echo", "table"]
    bare_table += ["tcp://[fe80::1%floor.ctl]:6641", str(FLOOR_PORT), str(report)]
    bare_router = ["-m", "bench.bare_echo", "router", "tcp://[fe80::1%ctl0]:6641"]
    with (
        open_vswitch.running(directory / "ovs", DPID) as switch,
        VirtualRouter("bench-vr1", CONTROL, ("vr1.0", "vr1.1"), family) as router,
        VirtualRouter("bench-floor", "floor.ctl", ("floor.0", "floor.1"), family) as floor,
        Running(bare_table, log),
    ):
        for vif in router.vifs:
            switch.add_port(vif)
        router.learn(table)
        floor.learn(table[: min(routes, FLOOR_ROUTES)])
        with ControllerProcess(directory, core, profile=profile) as controller:
            controller.wait_connected(switch, (OPENFLOW_PORT, FLOOR_PORT))
            ours: list[float] = []
            limits: list[float] = []
            with router.routerd(directory), floor.run(bare_router, log):
                controller.confirmed(m.RouteMessageType.SNAPSHOT_END)
                floor.change(0)
                echo.recv(64)
                switch.rest()
                for _ in range(samples + 10):
                    time.sleep(draw.uniform(0.01, 0.03))
                    controller.drop_reports()
                    started = router.change(draw.randrange(routes))
                    controller.confirmed(m.RouteMessageType.DELTA, wait_s=WAIT_S)
                    ours.append(time.perf_counter() - started)
                    time.sleep(draw.uniform(0.01, 0.03))
                    started = floor.change(draw.randrange(min(routes, FLOOR_ROUTES)))
                    try:
                        echo.recv(64)
                    except TimeoutError:
                        raise BenchError(f"no bare echo came back: see {log}") from None
                    limits.append(time.perf_counter() - started)
    del ours[:10], limits[:10]  # sockets and caches warm up
    row = Row.against(name, ours, "s", "s, bare echo of as many hops", limits)
    sweep = {
        "routes": routes,
        "samples": samples,
        **{
            f"{side}_{label}_s": round(percentile(values, share), 6)
            for side, values in (("xenflow", ours), ("bare_echo", limits))
            for label, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
        },
    }
    return Found([row], {name: sweep})
