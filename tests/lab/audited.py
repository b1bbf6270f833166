"""host-a's Rule Table and one running Open vSwitch, without POX and without a lab.

The connection's messages are handed on as `control.component` does it; time is real, and passes
only while a test waits.
"""

from __future__ import annotations

import heapq
import itertools
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab import ovs_private as ovs
from tests.written_switch import bound
from xenflow.control.rule_table import RuleTable
from xenflow.openflow import build, monitor, parse, wire
from xenflow.openflow.statistics import StatsReply
from xenflow.routes import messages as m
from xenflow.routes.messages import NextHopType, Op, Section, SectionKind
from xenflow.routes.router_state import RouterState
from xenflow.routes.sender import snapshot_messages
from xenflow.store.network_file import load
from xenflow.switch.clock import Clock

ROOT = Path(__file__).resolve().parents[2]
PORTS = {"to-gen": 1, "to-recv": 2, "vr1.0": 3, "vr1.1": 4}
TICK_S = 0.1
HOPS = (3, 4)
"""Next hops of the router: by way of eth0 and of eth1."""


class Audited:
    """See the module.  `name`: the datapath of conf/paper.toml that the switch plays."""

    def __init__(self, running: ovs.PrivateSwitch, name: str = "host-a") -> None:
        self.running = running
        network = load(ROOT / "conf" / "paper.toml")
        controller = network.datapaths[name].controller
        self.timers: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self.numbers = itertools.count()
        self.table = RuleTable(network, controller, None, Clock(self.later), bound)
        self.switch = self.table.switches[name]
        self.received = 0
        self.sent = 0
        self.connect()

    # --- the connection ---------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect, or connect again."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.running.bridge))
        self.rest = b""
        self.queue = bytearray(build.hello())
        ports = PORTS if self.switch.name == "host-a" else {"access": 5, "to-a": 1, "to-b": 2}
        self.switch.connect(self, [(name, number, True) for name, number in ports.items()])
        self.until(lambda: self.switch.live)

    def later(self, delay_s: float, call: Callable[..., Any], *arguments: Any) -> None:
        """In place of the core's `call_delayed`."""
        entry = time.monotonic() + delay_s, next(self.numbers), call, arguments
        heapq.heappush(self.timers, entry)

    def send(self, data: bytes) -> None:
        """What the switch is sent."""
        self.queue += data
        self.sent += len(data)

    def turn(self) -> None:
        """Send, receive, and do what is due."""
        now = time.monotonic()
        while self.timers and self.timers[0][0] <= now:
            _, _, call, arguments = heapq.heappop(self.timers)
            call(*arguments)
        if self.queue:
            self.sock.settimeout(0)
            try:
                del self.queue[: self.sock.send(self.queue)]
            except BlockingIOError:
                pass
        self.sock.settimeout(0.002)
        try:
            data = self.sock.recv(1 << 18)
        except (TimeoutError, BlockingIOError):
            data = b""
        self.received += len(data)
        messages, self.rest = wire.split(self.rest + data)
        for raw in messages:
            if monitor.is_updates(raw):
                self.switch.audit.take(raw)
            else:
                self.take(parse.message(raw))
        if now >= self._tick_at:
            self._tick_at = now + TICK_S
            self.table.tick(now)

    _tick_at = 0.0

    def take(self, message: parse.Message) -> None:
        """As `Component._message`."""
        if isinstance(message, parse.BarrierReply):
            self.switch.channel.on_barrier(message.xid)
        elif isinstance(message, StatsReply):
            self.switch.channel.on_stats(message)
        elif isinstance(message, parse.ErrorMessage):
            self.switch.on_error(message.xid, str(message))
        elif isinstance(message, parse.EchoRequest):
            self.send(build.echo_reply(message.data, message.xid))

    def until(self, condition: Callable[[], bool], limit_s: float = 300.0) -> float:
        """Take turns until it is so; returns how long that took."""
        begun = time.monotonic()
        while not condition():
            assert time.monotonic() < begun + limit_s, "it never was so"
            self.turn()
        return time.monotonic() - begun

    def for_s(self, seconds: float) -> None:
        """Take turns for some time."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)

    def confirmed(self) -> None:
        """Take turns until the switch has confirmed all that was written."""
        done: list[str | None] = []
        self.switch.promises.confirmed(done.append)
        self.until(lambda: bool(done))
        assert done == [None]

    def looked(self) -> None:
        """Take turns until the switch has been looked at twice: what was asked for at the first
        look is in force."""
        for _ in range(2):
            last = self.switch.audit.looked_at
            self.until(lambda last=last: self.switch.audit.looked_at != last)  # type: ignore[misc]

    # --- what there is ----------------------------------------------------------------------------

    def told(self, routes: int) -> None:
        """vr1 says that it has so many routes; returns once they are written."""
        state = state_of(routes)
        for frames in snapshot_messages(state, "vr1"):
            self.table.heard("vr1", b"peer", frames, local=True)
            self.until(lambda: self.switch.jobs.busy < 8)
        self.until(lambda: not self.switch.jobs.busy and not self.switch.channel.in_flight_bytes)

    def flows(self) -> set[str]:
        """What the switch holds, in words without counters."""
        text = self.running.ofctl("dump-flows", "--no-stats")
        return {" ".join(line.split()) for line in text.splitlines() if "NXST" not in line}

    def count(self) -> int:
        """How many flows there are."""
        text = self.running.ofctl("dump-aggregate")
        return int(text.split("flow_count=")[1].split()[0])


def state_of(routes: int) -> RouterState:
    """A router with two interfaces, two gateways and so many routes."""
    state = RouterState()
    kinds = NextHopType
    state.apply(
        [
            Section(
                SectionKind.INTERFACE,
                Op.SET,
                [
                    m.VmInterface(2, 7, 1500, 0x020000010101, "eth0"),
                    m.VmInterface(3, 7, 1500, 0x020000010201, "eth1"),
                ],
            ),
            Section(
                SectionKind.LOCAL,
                Op.SET,
                [
                    m.Local(4, 32, 2, 0x0A000101),
                    m.Local(4, 32, 3, 0x0A000201),
                ],
            ),
            Section(
                SectionKind.NEXTHOP,
                Op.SET,
                [
                    m.NextHop(1, kinds.CONNECTED, 4, 2, 0, 0),
                    m.NextHop(2, kinds.CONNECTED, 4, 3, 0, 0),
                    m.NextHop(3, kinds.VIA, 4, 2, 0x0A000102, 0x020000000102),
                    m.NextHop(4, kinds.VIA, 4, 3, 0x0A000202, 0x020000000202),
                ],
            ),
            Section(
                SectionKind.ROUTE4,
                Op.SET,
                [
                    (0x0A000100, 24, 1),
                    (0x0A000200, 24, 2),
                    *((0x14000000 + (n << 8), 24, HOPS[n % 2]) for n in range(routes)),
                ],
            ),
        ]
    )
    state.epoch, state.seq = 7, 1
    return state
