"""How many packet-ins a second are answered: `packet_in_rate`, `packet_in_rate_pox`.

Measured: a fake switch sends unbuffered packet-ins, as table CLASSES of the reactive pipeline
would (`tables.pipeline`), 64 of them unanswered at any time, to a `./pox.py xenflow` whose router
has 10,000 routes.  No two have the same addresses and ports, hardly any two the same destination.
Each is answered by a flow and the packet.  Peers get the same packets in OpenFlow 1.0's packet-ins.

Baseline of `packet_in_rate`: a learning switch on os-ken, ours, in turns.

Baseline of `packet_in_rate_pox`, with both under genuine POX: l3_learning, in turns.  It must have
heard of every destination, so they lead to few hosts, from many ports; and it answers an unbuffered
packet-in with the flow alone, which is counted as an answer.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.controller import (
    DPID,
    OPENFLOW_PORT,
    ROUTER,
    ControllerProcess,
    RouterConnection,
    describe,
    gateway_mac,
    interface_mac,
)
from bench.fake_switch import FakeSwitch
from bench.internet_routes import internet_routes
from bench.open_vswitch import BenchError
from bench.results import Found, Row, percentile
from bench.route_speed import SOCKET, router_state
from bench.virtual_router import Running
from xenflow.openflow import build
from xenflow.openflow.flow import match
from xenflow.routes import messages as m
from xenflow.routes.sender import snapshot_messages
from xenflow.tables.layout import Reg, Up

PEER_PORT = 6653
ROUTES = 10_000
WINDOW = 64
LIMIT_S = 1.5
"""How long one turn may take: a controller drops a switch that does not speak for a while."""
PORTS = ("p1", "p2")
ROUTER_MAC = interface_mac(0, 0).to_bytes(6, "big")
STATION_MAC = gateway_mac(0, 0).to_bytes(6, "big")


def targets(routes: Sequence[tuple[int, int]], count: int, seed: int) -> list[int]:
    """Addresses that routes lead to."""
    draw = random.Random(seed)
    chosen = (draw.choice(routes) for _ in range(count))
    return [net | draw.getrandbits(32 - plen) for net, plen in chosen]


def routed_targets(count: int, seed: int) -> list[int]:
    """Addresses that the routes of the benchmark's routers lead to."""
    return targets(internet_routes(ROUTES), count, seed)


def frames(addresses: Sequence[int], seed: int, router: int = 0) -> list[bytes]:
    """For each address a UDP packet of 64 octets with its checksum, from a neighbour on the first
    link of the router with this number."""
    draw = random.Random(seed)
    head = interface_mac(router, 0).to_bytes(6, "big") + gateway_mac(router, 0).to_bytes(6, "big")
    head += b"\x08\0"
    made = []
    for number, target in enumerate(addresses):
        source = 0x0A000102 + draw.randrange(200)
        ip = struct.pack("!BBHHHBBHII", 0x45, 0, 46, number & 0xFFFF, 0, 64, 17, 0, source, target)
        ports = struct.pack("!HHHH", draw.randrange(1024, 65536), 1024 + number % 60000, 26, 0)
        made.append(head + ip + ports + bytes(18))
    return made


def asked(found: Sequence[bytes], router: int = 0) -> list[bytes]:
    """Packet-ins of such frames from a host of ours: questions for that router."""
    left = 2 * router + 1
    told = {Reg.ROUTER: router + 1, Reg.LINK_IN: left, Reg.SENT_UP: Up.ASKED.value}
    return [build.nx_packet_in(frame, match(in_port=1, **told)) for frame in found]


def seen(found: Sequence[bytes], reason: int = build.BY_ACTION) -> list[bytes]:
    """Packet-ins of frames from any switch."""
    return [build.packet_in(frame, 1, reason) for frame in found]


@contextmanager
def xenflow(directory: Path, core: Sequence[str], profile: str = "") -> Iterator[FakeSwitch]:
    """XenFlow, reactive, with a router of 10,000 routes, and a switch connected to it."""
    state = router_state(internet_routes(ROUTES))
    with ControllerProcess(
        directory, core, description=describe(["reactive"]), routers=SOCKET, profile=profile
    ) as controller:
        switch = FakeSwitch(OPENFLOW_PORT, DPID, PORTS)
        switch.settle(1.0)
        router = RouterConnection(SOCKET)
        if router.hello(state.epoch, state.seq) is not m.RouteMessageType.RESYNC:
            raise BenchError("the Rule Table asked for no snapshot")
        for frames_ in snapshot_messages(state, ROUTER):
            router.send(frames_)
        switch.settle(1.0)
        controller.confirmed(m.RouteMessageType.SNAPSHOT_END, wait_s=5)
        yield switch
        switch.close()
        router.close()


@contextmanager
def os_ken(directory: Path) -> Iterator[FakeSwitch]:
    """A learning switch on os-ken that knows the destination, and a switch connected to it."""
    words = [sys.executable, "-m", "bench.learning_switch", str(PEER_PORT)]
    with Running(words, directory / "os-ken.log"):
        switch = FakeSwitch(PEER_PORT, DPID, PORTS)
        switch.settle(1.0)
        learned = STATION_MAC + ROUTER_MAC + b"\x08\x06" + bytes(46)
        switch.tell(build.packet_in(learned, 2))
        yield switch
        switch.close()


@contextmanager
def l3_learning(directory: Path, pox: str, hosts: Sequence[int]) -> Iterator[FakeSwitch]:
    """l3_learning of POX that knows the hosts, and a switch connected to it."""
    words = [sys.executable, str(Path(pox) / "pox.py"), "log.level", "--CRITICAL"]
    words += ["openflow.of_01", "--address=127.0.0.1", f"--port={PEER_PORT}"]
    with Running([*words, "forwarding.l3_learning"], directory / "pox.log"):
        switch = FakeSwitch(PEER_PORT, DPID, PORTS, sends_packets=False)
        switch.settle(1.0)
        learned = b""
        for host in hosts:
            told = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + ROUTER_MAC + host.to_bytes(4, "big")
            arp = b"\xff" * 6 + ROUTER_MAC + b"\x08\x06" + told + bytes(28)
            learned += build.packet_in(arp, 2)
        switch.tell(learned)
        yield switch
        switch.close()


def packet_in_rate(
    directory: Path, core: Sequence[str], runs: int, count: int, profile: str = ""
) -> Found:
    """See the module."""
    routes = internet_routes(ROUTES)

    def packets(seed: int, number: int) -> list[bytes]:
        return frames(targets(routes, number, seed), seed)

    with xenflow(directory, core, profile) as ours, os_ken(directory) as peer:
        contest = _Contest(ours, peer)
        for run in range(runs + 1):
            found = packets(run, count)
            contest.round(asked(found), seen(found[: count // 5]))
        found = packets(99, 1000)
        contest.one_by_one(asked(found), seen(found))
    return contest.found("packet_in_rate", "1/s, learning switch on os-ken", count)


def packet_in_rate_pox(
    directory: Path, pox: str, runs: int, count: int, profile: str = ""
) -> Found:
    """See the module; `pox` is the checkout's folder."""
    hosts = targets(internet_routes(ROUTES), 64, 1)

    def packets(seed: int, number: int) -> list[bytes]:
        draw = random.Random(seed)
        return frames([draw.choice(hosts) for _ in range(number)], seed)

    with (
        xenflow(directory, ("--pox", pox), profile) as ours,
        l3_learning(directory, pox, hosts) as peer,
    ):
        contest = _Contest(ours, peer)
        for run in range(runs + 1):
            found = packets(run, count)
            contest.round(asked(found), seen(found[: count // 5]))
        found = packets(99, 1000)
        contest.one_by_one(asked(found), seen(found))
    return contest.found("packet_in_rate_pox", "1/s, l3_learning of POX", count)


class _Contest:
    """Two controllers that answer packet-ins in turns."""

    def __init__(self, ours: FakeSwitch, peer: FakeSwitch) -> None:
        self._switches = {"xenflow": ours, "peer": peer}
        self._rates: dict[str, list[float]] = {"xenflow": [], "peer": []}
        self._latencies: dict[str, list[float]] = {}

    def round(self, ours: Sequence[bytes], peer: Sequence[bytes]) -> None:
        """One turn of each; the first round only warms caches up."""
        for name, packets in (("xenflow", ours), ("peer", peer)):
            switch = self._switches[name]
            switch.settle(0.05)
            self._rates[name].append(1 / switch.burst(packets, WINDOW, LIMIT_S))

    def one_by_one(self, ours: Sequence[bytes], peer: Sequence[bytes]) -> None:
        """The time of each answer where none is waited for but this."""
        for name, packets in (("xenflow", ours), ("peer", peer)):
            switch = self._switches[name]
            switch.settle(0.05)
            self._latencies[name] = [switch.burst([packet], 1) for packet in packets]

    def found(self, name: str, baseline: str, count: int) -> Found:
        """The row, and what else was seen."""
        rates = {side: values[1:] for side, values in self._rates.items()}
        row = Row.against(name, rates["xenflow"], "1/s", baseline, rates["peer"])
        sweep = {
            "routes": ROUTES,
            "window": WINDOW,
            "packets_a_run": count,
            **{f"{side}_runs": [round(rate) for rate in each] for side, each in rates.items()},
            **{
                f"{side}_one_by_one_{label}_s": round(percentile(values, share), 6)
                for side, values in self._latencies.items()
                for label, share in (("p50", 0.5), ("p99", 0.99))
            },
        }
        return Found([row], {name: sweep})
