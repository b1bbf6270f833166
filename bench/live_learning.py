"""`routes_1m_live_ip`, `routes_1m_live_bird`: a table that the kernel learns while all is running.

Two learners put the same routes into the kernel: `ip -batch`, and BIRD with static routes.
Measured: from the learner's start until the switch has confirmed the last route; the baseline is
the learner alone, into the kernel's own table, until the kernel holds the last.  In turns.  What
the learner does by itself is most of it, so this is apart from `routes_1m_kernel_to_switch`.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import open_vswitch
from bench.controller import CONTROL, DPID, RAW_PORT, ROUTER, ControllerProcess
from bench.internet_routes import internet_routes
from bench.open_vswitch import BenchError, OpenVSwitch
from bench.raw_controller import RawController
from bench.results import Found, Row
from bench.virtual_router import VirtualRouter, gateway
from lab.namespace import inside
from xenflow.routes.family import prefix_text

LIMIT_S = 600.0
POLL_S = 0.1
Table = Sequence[tuple[int, int]]


def live(directory: Path, core: Sequence[str], runs: int, routes: int) -> Found:
    """See the module."""
    table = internet_routes(routes)
    directory.mkdir(parents=True, exist_ok=True)
    rows, sweep = [], {}
    raw = RawController(RAW_PORT)
    with open_vswitch.running(directory / "ovs", DPID) as switch:
        for name, words in (("ip", _ip(directory, table)), ("bird", _bird(directory, table))):
            alone, whole, kernel = [], [], []
            for _ in range(runs):
                alone.append(_alone(words, routes))
                in_kernel, in_switch = _followed(directory, core, switch, words, routes)
                raw.accept(switch)
                raw.wipe(switch)
                raw.hang_up()
                kernel.append(in_kernel)
                whole.append(in_switch)
            title = f"s, {words[0]} alone, into the kernel"
            rows.append(Row.against(f"routes_1m_live_{name}", whole, "s", title, alone))
            sweep[f"routes_1m_live_{name}"] = {
                "routes": routes,
                "alone_s": alone,
                "kernel_s": kernel,
                "switch_s": whole,
            }
    raw.close()
    return Found(rows, sweep)


def _ip(directory: Path, table: Table) -> list[str]:
    lines = directory / "routes.batch"
    lines.write_text(
        "".join(
            f"route add {prefix_text(*prefix)} via {gateway(n)}\n" for n, prefix in enumerate(table)
        )
    )
    return ["ip", "-batch", str(lines)]


def _bird(directory: Path, table: Table) -> list[str]:
    config = directory / "bird.conf"
    routes = "".join(
        f"  route {prefix_text(*prefix)} via {gateway(n)};\n" for n, prefix in enumerate(table)
    )
    config.write_text(
        "router id 10.0.1.1;\n"
        "protocol device {}\n"
        "protocol kernel { scan time 600; ipv4 { import none; export all; }; }\n"
        f"protocol static {{ ipv4;\n{routes}}}\n"
    )
    return [
        "bird",
        "-f",
        "-c",
        str(config),
        "-s",
        str(directory / "bird.ctl"),
        "-P",
        str(directory / "bird.pid"),
    ]


def _router() -> VirtualRouter:
    return VirtualRouter("bench-vr1", CONTROL, ("vr1.0", "vr1.1"))


def _alone(words: Sequence[str], routes: int) -> float:
    """Seconds until a new router's kernel holds all, nothing else being there."""
    with _router() as router:
        return _timed(router, words, routes, lambda: True)[0]


def _followed(
    directory: Path, core: Sequence[str], switch: OpenVSwitch, words: Sequence[str], routes: int
) -> tuple[float, float]:
    """With routerd and a controller: seconds until the kernel holds all, until the switch does."""
    with ControllerProcess(directory, core, witness=False) as controller, _router() as router:
        for vif in router.vifs:
            switch.add_port(vif)
        controller.wait_connected(switch)
        with router.routerd(directory):
            deadline = time.monotonic() + LIMIT_S
            while _known(controller)[0] < len(router.vifs):  # its connected networks
                if time.monotonic() > deadline:
                    raise BenchError("routerd has told nothing")
                time.sleep(POLL_S)
            switch.rest()
            before = _known(controller)[0]

            def settled() -> bool:
                known, in_sync = _known(controller)
                return known >= before + routes and in_sync

            found = _timed(router, words, routes, settled)
        for vif in router.vifs:
            switch.vsctl("del-port", vif)
    return found


def _known(controller: ControllerProcess) -> tuple[int, bool]:
    """How many routes a controller knows, and whether its switch is up to date."""
    answer = controller.client.request("status")
    known = next(r for r in answer["routers"] if r["name"] == ROUTER)
    return int(known["routes"]), all(d["in_sync"] for d in answer["datapaths"])


def _timed(
    router: VirtualRouter, words: Sequence[str], routes: int, settled: Callable[[], bool]
) -> tuple[float, float]:
    wanted = _prefixes(router.name) + routes
    started = time.perf_counter()
    learner = subprocess.Popen(
        ["ip", "netns", "exec", router.name, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _until(lambda: _prefixes(router.name) >= wanted, learner)
        in_kernel = time.perf_counter() - started
        _until(settled, learner)
        return round(in_kernel, 3), round(time.perf_counter() - started, 3)
    finally:
        learner.kill()
        learner.communicate()


def _until(done: Callable[[], bool], learner: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not done():
        if learner.poll():
            said = learner.communicate()[1].strip()[-300:]
            raise BenchError(f"{learner.args} ended with {learner.returncode}: {said}")
        if time.monotonic() > deadline:
            raise BenchError(f"a learner's routes did not all arrive in {LIMIT_S:g} s")
        time.sleep(POLL_S)


def _prefixes(namespace: str) -> int:
    """How many prefixes the kernel of a namespace has in its main table."""
    with inside(namespace):
        lines = Path("/proc/thread-self/net/fib_triestat").read_text().splitlines()
    main = lines.index("Main:")
    found = next(line for line in lines[main:] if line.strip().startswith("Prefixes:"))
    return int(found.split()[1])
