"""`next_hop_lost`: a next hop that all routes use is lost, with another one known.

A million routes go by way of one group of two next hop objects, as FRR installs them; the baseline
is ten thousand.  Three things are done to it, in turns, and undone:

    member  `ip nexthop del` of one: the kernel takes it out of the group, and tells that it is gone
    carrier its link loses its carrier in the router: the kernel takes it out, and tells nobody
    port    the port that leads to its gateway loses its carrier: the router hears nothing, the
            Rule Table sees it

Measured: from before the system call to the switch's confirmation, and how many
flow-mods that took, which must be the same for both tables.  That the group has one leg then is
read from the switch.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import open_vswitch
from bench.controller import CONTROL, DPID, ControllerProcess
from bench.internet_routes import internet_routes
from bench.open_vswitch import BenchError, OpenVSwitch, cpu_s
from bench.results import Found, Row
from bench.virtual_router import VirtualRouter
from xenflow.routes import messages as m
from xenflow.tables import layout

STATIONS = ("p1", "p2")
"""The ports of the network file behind which the gateways are."""
WAIT_S = 10.0
RESTORED_S = 60.0
LOST = ("member", "carrier", "port")
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


@dataclass(slots=True)
class _Series:
    """What one size of a table brought, by what was done."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in LOST})
    flow_mods: dict[str, set[int]] = field(default_factory=lambda: {name: set() for name in LOST})


def next_hop_lost(directory: Path, core: Sequence[str], runs: int, sizes: tuple[int, int]) -> Found:
    """See the module; `sizes` are the routes of the small and of the large table."""
    small, large = (_measure(directory / str(size), core, runs, size) for size in sizes)
    for name in LOST:
        if small.flow_mods[name] != large.flow_mods[name] or len(small.flow_mods[name]) != 1:
            raise BenchError(
                f"{name}: {sorted(small.flow_mods[name])} flow-mods for {sizes[0]} routes, "
                f"{sorted(large.flow_mods[name])} for {sizes[1]}"
            )
    rows = [
        Row.against(
            "next_hop_lost" if name == "member" else f"next_hop_lost_{name}",
            large.seconds[name],
            "s",
            f"s, {sizes[0]} routes",
            small.seconds[name],
        )
        for name in LOST
    ]
    sweep = {
        "routes": list(sizes),
        **{f"{name}_flow_mods": next(iter(large.flow_mods[name])) for name in LOST},
        **{
            f"{name}_runs_s": [[round(s, 6) for s in each.seconds[name]] for each in (small, large)]
            for name in LOST
        },
    }
    return Found(rows, {"next_hop_lost": sweep})


def _measure(directory: Path, core: Sequence[str], runs: int, routes: int) -> _Series:
    directory.mkdir(parents=True, exist_ok=True)
    found = _Series()
    with (
        open_vswitch.running(directory / "ovs", DPID) as switch,
        VirtualRouter("bench-vr1", CONTROL, ("vr1.0", "vr1.1")) as router,
    ):
        for station in STATIONS:
            _ip(f"link add {station} type veth peer name {station}.far")
            _ip(f"link set {station} up")
            _ip(f"link set {station}.far up")
        for port in (*router.vifs, *STATIONS):
            switch.add_port(port)
        router.learn_by_group(internet_routes(routes))
        with ControllerProcess(directory, core) as controller:
            controller.wait_connected(switch)
            with router.routerd(directory) as daemon:
                controller.confirmed(m.RouteMessageType.SNAPSHOT_END, wait_s=120)
                trial = _LossTrial(controller, switch, router, (daemon.pid, controller.pid))
                for run in range(runs + 1):  # the first round only warms up
                    for name, lose, restore in (
                        ("member", trial.lose_member, router.regain),
                        ("carrier", trial.lose_carrier, trial.restore_carrier),
                        ("port", trial.lose_port, trial.restore_port),
                    ):
                        seconds, flow_mods = trial.measure(lose, restore)
                        if run:
                            found.seconds[name].append(seconds)
                            found.flow_mods[name].add(flow_mods)
        for station in STATIONS:
            _ip(f"link del {station}")
    return found


class _LossTrial:
    """One way of losing a next hop after the other, on a controller that is up."""

    def __init__(
        self,
        controller: ControllerProcess,
        switch: OpenVSwitch,
        router: VirtualRouter,
        busy: tuple[int, ...],
    ) -> None:
        self._controller = controller
        self._switch = switch
        self._router = router
        self._busy = busy

    def measure(self, lose: Callable[[], float], restore: Callable[[], None]) -> tuple[float, int]:
        """(seconds, flow-mods) of one loss; everything is as before, and quiet, afterwards."""
        self._both_legs()
        self._quiet()
        self._controller.drop_reports()
        before = self._flow_mods()
        took = lose()
        legs = self._legs()
        flow_mods = self._flow_mods() - before
        if legs != 1:
            raise BenchError(f"the group has {legs} legs after the loss")
        self._quiet()
        if self._flow_mods() - before != flow_mods:
            raise BenchError("more flow-mods followed those that the loss took")
        restore()
        return took, flow_mods

    def lose_member(self) -> float:
        """Seconds until the switch has confirmed."""
        return self._confirmed(self._router.lose())

    def lose_carrier(self) -> float:
        """The same, for the link's carrier."""
        started = time.perf_counter()
        _take_down(self._router.vifs[1])
        return self._confirmed(started)

    def restore_carrier(self) -> None:
        """Undo it."""
        _ip(f"link set {self._router.vifs[1]} up")
        time.sleep(0.2)
        self._router.regain()

    def lose_port(self) -> float:
        """The same, for the port towards the gateway; seen by asking for the count of flow-mods,
        once a millisecond."""
        before = self._flow_mods()
        started = time.perf_counter()
        _take_down(f"{STATIONS[1]}.far")
        while self._flow_mods() == before:
            if time.perf_counter() - started > WAIT_S:
                raise BenchError("the Rule Table did not see that a port had lost its carrier")
            time.sleep(0.001)
        return time.perf_counter() - started

    def restore_port(self) -> None:
        """Undo it."""
        _ip(f"link set {STATIONS[1]}.far up")

    def _confirmed(self, started: float) -> float:
        while True:
            at_ns = self._controller.confirmed(m.RouteMessageType.DELTA, wait_s=WAIT_S)
            if self._legs() == 1:
                return at_ns / 1e9 - started  # on Linux both are CLOCK_MONOTONIC

    def _legs(self) -> int:
        return len(self._switch.dump(layout.LEGS))

    def _flow_mods(self) -> int:
        row = self._controller.client.request("status")["datapaths"][0]
        return int(row["flow_mods"])

    def _both_legs(self) -> None:
        """Wait until the loss before is undone, which a busy machine takes its time for."""
        until = time.monotonic() + RESTORED_S
        while self._legs() != 2:
            if time.monotonic() > until:
                raise BenchError(f"the group has {self._legs()} legs before the loss")
            time.sleep(0.1)

    def _quiet(self) -> None:
        """Wait until routerd and the controller have nothing to do any more."""
        before = [cpu_s(pid) for pid in self._busy]
        for _ in range(200):
            time.sleep(0.3)
            now = [cpu_s(pid) for pid in self._busy]
            if sum(now) - sum(before) < 0.05:
                return
            before = now
        raise BenchError("routerd or the controller never came to rest")


def _take_down(link: str) -> None:
    """Without the start of a program, which takes as long as what is measured (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", link.encode(), 0)
        (flags,) = struct.unpack_from("16xH", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))
        fcntl.ioctl(
            any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", link.encode(), flags & ~_IFF_UP)
        )


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)
