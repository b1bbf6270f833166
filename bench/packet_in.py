"""How many packet-ins a second are answered: `packet_in_rate`, `packet_in_rate_pox`.

Measured: a fake switch sends unbuffered packet-ins, as table CLASSES of the reactive pipeline
would (`pure.pipeline`), 64 of them unanswered at any time, to a `./pox.py xenflow` whose router has
10,000 routes.  No two have the same addresses and ports, hardly any two the same destination.
Each is answered by a flow and the packet.

Baseline: the same packet-ins to a learning switch, in turns: ours on os-ken, or l3_learning where
XenFlow runs under genuine POX.  Both route or switch by what they know already, and answer with a
flow and the packet as well.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.controller import DPID, OPENFLOW_PORT, ROUTER, Controller, Router
from bench.fake_switch import FakeSwitch, packet_in
from bench.internet_routes import internet_routes
from bench.open_vswitch import BenchError
from bench.results import Found, Row, percentile
from bench.route_speed import SOCKET, router_state
from bench.virtual_router import Running
from xenflow.pure import messages as m
from xenflow.pure.feed import snapshot_messages

PEER_PORT = 6653
ROUTES = 10_000
WINDOW = 64
PORTS = ("p1", "p2")
_ROUTER_MAC = bytes.fromhex("020000010101")
_STATION_MAC = bytes.fromhex("020000aa0000")
_LEFT_VLAN = 101


def frames(routes: Sequence[tuple[int, int]], count: int, seed: int) -> list[bytes]:
    """UDP packets of 64 octets (with their tag and checksum) to addresses that routes lead to."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        net, plen = draw.choice(routes)
        target = net | draw.getrandbits(32 - plen)
        source = 0x0A000102 + draw.randrange(200)
        ip = struct.pack("!BBHHHBBHII", 0x45, 0, 42, number & 0xFFFF, 0, 64, 17, 0, source, target)
        ports = struct.pack("!HHHH", draw.randrange(1024, 65536), 1024 + number % 60000, 22, 0)
        tag = struct.pack("!HHH", 0x8100, _LEFT_VLAN, 0x0800)
        made.append(_ROUTER_MAC + _STATION_MAC + tag + ip + ports + bytes(14))
    return made


@contextmanager
def _xenflow(directory: Path, core: Sequence[str], profile: str) -> Iterator[FakeSwitch]:
    state = router_state(internet_routes(ROUTES))
    with Controller(
        directory, core, pipeline="reactive", routers=SOCKET, profile=profile
    ) as controller:
        switch = FakeSwitch(OPENFLOW_PORT, DPID, PORTS)
        switch.settle(1.0)
        router = Router(SOCKET)
        if router.hello(state.epoch, state.seq) is not m.Type.RESYNC:
            raise BenchError("the Rule Table asked for no snapshot")
        for frames_ in snapshot_messages(state, ROUTER):
            router.send(frames_)
        switch.settle(1.0)
        controller.confirmed(m.Type.SNAPSHOT_END, wait_s=5)
        yield switch
        switch.close()
        router.close()


@contextmanager
def _os_ken(directory: Path) -> Iterator[FakeSwitch]:
    words = [sys.executable, "-m", "bench.learning_switch", str(PEER_PORT)]
    with Running(words, directory / "os-ken.log"):
        switch = FakeSwitch(PEER_PORT, DPID, PORTS)
        switch.settle(1.0)
        learned = _STATION_MAC + _ROUTER_MAC + b"\x08\x06" + bytes(46)
        switch.tell(packet_in(2, learned))
        yield switch
        switch.close()


def packet_in_rate(
    directory: Path, core: Sequence[str], runs: int, count: int, profile: str = ""
) -> Found:
    """See the module."""
    routes = internet_routes(ROUTES)
    rates: dict[str, list[float]] = {"xenflow": [], "os_ken": []}
    latencies: dict[str, list[float]] = {"xenflow": [], "os_ken": []}
    with _xenflow(directory, core, profile) as ours, _os_ken(directory) as peer:
        for run in range(runs + 1):
            packets = [packet_in(1, frame) for frame in frames(routes, count, run)]
            for name, switch, share in (("xenflow", ours, 1), ("os_ken", peer, 5)):
                switch.settle(0.05)
                part = packets[: len(packets) // share]
                rates[name].append(len(part) / switch.burst(part, WINDOW))
        for name, switch in (("xenflow", ours), ("os_ken", peer)):
            switch.settle(0.05)
            packets = [packet_in(1, frame) for frame in frames(routes, 1000, 99)]
            latencies[name] = [switch.burst([packet], 1) for packet in packets]
    for values in rates.values():
        del values[0]  # caches warm up
    row = Row.against(
        "packet_in_rate", rates["xenflow"], "1/s", "1/s, learning switch on os-ken",
        rates["os_ken"],
    )  # fmt: skip
    sweep = {
        "routes": ROUTES,
        "window": WINDOW,
        "packets_a_run": count,
        **{f"{name}_runs": [round(rate) for rate in values] for name, values in rates.items()},
        **{
            f"{name}_one_by_one_{label}_s": round(percentile(values, share), 6)
            for name, values in latencies.items()
            for label, share in (("p50", 0.5), ("p99", 0.99))
        },
    }
    return Found([row], {"packet_in_rate": sweep})
