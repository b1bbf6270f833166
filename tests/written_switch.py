"""A switch that is only written to: it stands where a connection does and applies what is sent.

What `switch.switch.Switch` writes is taken apart into single messages, in the order in which a
real switch would carry them out, and applied to simulated tables one by one; after each of them
`watch` is called, so that a test sees every state that packets could meet.  Barriers and questions
are answered when the writer has nothing more to say.  A table may have a limit, beyond which flows
are refused as Open vSwitch refuses them (ovs-vswitchd.conf.db(5), Flow_Table, overflow_policy).
What the writer puts off for a second or more waits until the test lets that time pass.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, ClassVar

from tests.conftest import ROOT
from tests.obeyed import obeyed
from tests.switch_tables import SwitchTables
from xenflow.control.rule_table import RuleTable
from xenflow.model.network import Datapath
from xenflow.openflow import parse, wire
from xenflow.openflow.flow import Flow
from xenflow.openflow.statistics import Aggregate, FlowStats, StatsReply, TableStats
from xenflow.store.network_file import load
from xenflow.switch.clock import Clock
from xenflow.switch.proof import Bound
from xenflow.switch.switch import Switch

# Where things are in an NXT_FLOW_MOD and in a Nicira statistics request (nicira-ext.h).
_COMMAND_AT, _MATCH_LENGTH_AT, _MATCH_AT = 24, 40, 48
_COOKIE_ENTRY = struct.Struct("!IQQ")
_STATS_TYPE_AT, _SUBTYPE_AT = 8, 16
_OFPST_TABLE = 3
_NXT_FLOW_MOD, _NXST_AGGREGATE = 13, 1
_REQUEST_TABLE_AT, _REQUEST_MATCH_AT = 28, 32
_ERROR_BYTES = 64
"""So much of a refused message comes back (lib/ofp-errors.c, ofperr_encode_msg__)."""
LONG_S = 1.0


def bound(datapath: Datapath) -> Bound:
    """A proof that asks no process, whatever the network file says."""
    return Bound(datapath.proof_bound_s)


class WrittenSwitch:
    """The connection that a `Switch` is given."""

    def __init__(self, now: Callable[[], float] = lambda: 1000.0) -> None:
        self.clock = Clock(self.later, now)
        self.tables = SwitchTables()
        self.messages: list[str] = []
        """What was sent, in words."""
        self.watch: Callable[[], None] = lambda: None
        self.limits: dict[int, int] = {}
        """How many flows a table takes."""
        self.refused = 0
        self.refuses: set[int] = set()
        """Types of the questions that are refused: `wire.MessageType.STATS_REQUEST`,
        `BARRIER_REQUEST`."""
        self.deaf: set[int] = set()
        """Types of the questions that are not answered."""
        self.unanswered: list[bytes] = []
        """Those that were not."""
        self.waiting: deque[tuple[float, Callable[[], None]]] = deque()
        """What was put off, and for how many seconds."""
        self.looks: list[tuple[float, Callable[[], None]]] = []
        """When (by its clock) the writer looks whether the switch answers."""
        self._later: deque[Callable[[], None]] = deque()
        self.switch: Switch

    def attach(self, switch: Switch, ports: dict[str, int]) -> None:
        """Connect the writer, and let it write all it knows."""
        self.switch = switch
        switch.connect(self, [(name, number, True) for name, number in ports.items()])
        self.run()

    def later(self, delay_s: float, call: Callable[..., Any], *arguments: Any) -> None:
        """In place of the core's `call_delayed`: at once, but not now."""
        if getattr(call, "__name__", "") == "_watch":
            self.looks.append((self.clock.now() + delay_s, lambda: call(*arguments)))
            return
        if delay_s >= LONG_S:
            self.waiting.append((delay_s, lambda: call(*arguments)))
        else:
            self._later.append(lambda: call(*arguments))

    def pass_time(self) -> float:
        """Let the time pass until the first of what was put off; returns how long that took."""
        delay_s, call = self.waiting.popleft()
        call()
        self.run()
        return delay_s

    def look(self) -> None:
        """Let the writer look, where it is time, whether the switch answers."""
        due = [look for look in self.looks if look[0] <= self.clock.now()]
        self.looks = [look for look in self.looks if look not in due]
        for _, call in due:
            call()

    def hear(self) -> None:
        """From now on every question is answered; those that were not are so first."""
        self.deaf, unanswered, self.unanswered = set(), self.unanswered, []
        self.send(b"".join(unanswered))
        self.run()

    def run(self) -> None:
        """Until nothing more is to be done."""
        while self._later:
            self._later.popleft()()

    def send(self, data: bytes) -> None:
        """What the writer sends."""
        messages, rest = wire.split(data)
        assert not rest, "half a message"
        for message in messages:
            self._take(message)

    def _take(self, message: bytes) -> None:
        kind, xid = message[1], int.from_bytes(message[4:8], "big")
        if kind in self.deaf:
            self.unanswered.append(message)
        elif kind in self.refuses:
            text, data = "BAD_REQUEST: BAD_TYPE", message[:_ERROR_BYTES]
            self._later.append(lambda: self.switch.on_error(xid, text, data))
        elif kind == wire.MessageType.BARRIER_REQUEST:
            self._later.append(lambda: self.switch.channel.on_barrier(xid))
        elif kind == wire.MessageType.STATS_REQUEST:
            reply = StatsReply(xid, False, self._stats(message))
            self._later.append(lambda: self.switch.channel.on_stats(reply))
        elif kind == wire.MessageType.VENDOR and message[15] == _NXT_FLOW_MOD:
            if self._too_many(message):
                self.refused += 1
                text, data = "FLOW_MOD_FAILED: ALL_TABLES_FULL", message[:_ERROR_BYTES]
                self._later.append(lambda: self.switch.on_error(xid, text, data))
                return
            self._apply(message)
            self.watch()

    def _stats(self, message: bytes) -> list[Any]:
        if message[_STATS_TYPE_AT] << 8 | message[_STATS_TYPE_AT + 1] == _OFPST_TABLE:
            held = Counter(flow.table for flow in self.tables)
            return [TableStats(n, held[n]) for n in sorted(held)]
        (subtype,) = struct.unpack_from("!I", message, _SUBTYPE_AT)
        table = message[_REQUEST_TABLE_AT]
        cookie = mask = 0
        if len(message) >= _REQUEST_MATCH_AT + _COOKIE_ENTRY.size:
            _, cookie, mask = _COOKIE_ENTRY.unpack_from(message, _REQUEST_MATCH_AT)
        found = [
            flow
            for flow in self.tables
            if table in (flow.table, wire.ALL_TABLES) and flow.cookie & mask == cookie & mask
        ]
        if subtype == _NXST_AGGREGATE:
            return [Aggregate(0, 0, len(found))]
        return [FlowStats(flow, 0, 0, 0.0, None) for flow in found]

    def _too_many(self, message: bytes) -> bool:
        (command,) = struct.unpack_from("!H", message, _COMMAND_AT)
        limit = self.limits.get(command >> 8)
        if limit is None or command & 0xFF != wire.FlowModCommand.ADD:
            return False
        flow = parse.flow_mod(message)
        held = [each for each in self.tables if each.table == flow.table]
        return len(held) >= limit and all(each.key != flow.key for each in held)

    def _apply(self, message: bytes) -> None:
        (command,) = struct.unpack_from("!H", message, _COMMAND_AT)
        if command & 0xFF == wire.FlowModCommand.DELETE:
            self._delete_many(message)
            return
        flow: Flow = parse.flow_mod(message)
        self.messages.append(f"{wire.FlowModCommand(command & 0xFF).name} {flow}")
        if command & 0xFF == wire.FlowModCommand.ADD:
            obeyed(flow)
            self.tables.add(flow)
        else:
            assert command & 0xFF == wire.FlowModCommand.DELETE_STRICT
            self.tables.delete_strict(*flow.key)

    def _delete_many(self, message: bytes) -> None:
        """By cookie and nothing else, as the writer does it."""
        (length,) = struct.unpack_from("!H", message, _MATCH_LENGTH_AT)
        assert length == _COOKIE_ENTRY.size, "a delete that matches more than a cookie"
        _, cookie, mask = _COOKIE_ENTRY.unpack_from(message, _MATCH_AT)
        table = message[_COMMAND_AT]
        self.messages.append(f"DELETE table {table}, cookie {cookie:#x}/{mask:#x}")
        self.tables.delete_by_cookie(None if table == wire.ALL_TABLES else table, cookie, mask)


class PlayedHost:
    """host-a of conf/paper.toml, its Rule Table and its switch, which has these ports; the time
    passes where a test lets it."""

    PORTS: ClassVar = {"to-gen": 1, "to-recv": 2, "vr1.0": 3, "vr1.1": 4}

    def __init__(self) -> None:
        self.now = 1000.0
        self.wire = WrittenSwitch(lambda: self.now)
        network = load(ROOT / "conf" / "paper.toml")
        self.table = RuleTable(network, "host-a", None, self.wire.clock, bound)
        self.switch = self.table.switches["host-a"]
        self.wire.attach(self.switch, self.PORTS)
