"""The OpenFlow events, and `core.openflow`, which raises them for all switches.

An event is raised on `core.openflow` first and then, unless halted, on its connection. Messages
are parsed by `xenflow.openflow`, the only package of the component's that the stand-in knows.
"""
# ruff: noqa: N802, N815 - the names are POX's

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pox.lib.revent import Event, EventMixin
from xenflow.openflow import parse, wire

if TYPE_CHECKING:
    from pox.openflow.of_01 import Connection

OFPPR_ADD, OFPPR_DELETE, OFPPR_MODIFY = range(3)
OFPRR_IDLE_TIMEOUT, OFPRR_HARD_TIMEOUT, OFPRR_DELETE = range(3)
PACKET_AT = 18
"""Where the frame begins in an OFPT_PACKET_IN (OpenFlow 1.0.0, section 5.4.1)."""
STATS_AT = 12
"""Where the body begins in an OFPT_STATS_REPLY (5.3.5)."""


class EthAddr(bytes):
    """A port's MAC address: six bytes, which print as `02:00:00:00:00:01`."""

    def __str__(self) -> str:
        return self.hex(":")


def _port(port: parse.Port) -> SimpleNamespace:
    address = EthAddr(port.mac.to_bytes(6, "big"))
    return SimpleNamespace(**port._asdict(), port_no=port.number, hw_addr=address)


def read(raw: bytes) -> SimpleNamespace:
    """A whole message, its fields under POX's names too. Raises WireError."""
    message: Any = parse.message(raw)
    named = message._asdict()
    match message:
        case parse.FeaturesReply():
            named["datapath_id"] = message.dpid
            named["ports"] = [_port(each) for each in message.ports]
        case parse.PortStatus():
            named["desc"] = _port(message.port)
        case parse.FlowRemoved(flow=flow):
            named |= {"cookie": flow.cookie, "priority": flow.priority, "match": flow.match}
            named |= {"packet_count": message.packets, "byte_count": message.octets}
            named["duration_sec"] = int(message.duration_s)
        case parse.PacketIn(buffer_id=wire.NO_BUFFER):
            named["buffer_id"] = None
    return SimpleNamespace(**named)


class ConnectionDown(Event):
    """A connection that was up has ended."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.dpid = connection.dpid


class _MessageEvent(ConnectionDown):
    """An event with the connection, the datapath id and the message that caused it."""

    def __init__(self, connection: Connection, ofp: Any) -> None:
        super().__init__(connection)
        self.ofp = ofp


class ConnectionUp(_MessageEvent):
    """A switch has connected and answered; `ofp` is its features reply."""


class FeaturesReceived(_MessageEvent):
    """A features reply has come; raised after each ConnectionUp too."""


class PortStatus(_MessageEvent):
    """A port was added, deleted or modified; `connection.ports` has followed already."""

    def __init__(self, connection: Connection, ofp: Any) -> None:
        super().__init__(connection, ofp)
        self.added = ofp.reason == OFPPR_ADD
        self.deleted = ofp.reason == OFPPR_DELETE
        self.modified = ofp.reason == OFPPR_MODIFY
        self.port = ofp.desc.port_no


class FlowRemoved(_MessageEvent):
    """A flow has ended, by a timeout or deleted."""

    def __init__(self, connection: Connection, ofp: Any) -> None:
        super().__init__(connection, ofp)
        self.idleTimeout = ofp.reason == OFPRR_IDLE_TIMEOUT
        self.hardTimeout = ofp.reason == OFPRR_HARD_TIMEOUT
        self.timeout = self.idleTimeout or self.hardTimeout
        self.deleted = ofp.reason == OFPRR_DELETE


class PacketIn(Event):
    """A packet has come from a switch: `port`, and its bytes in `data`.

    Of the message nothing is looked at before it is asked for.
    """

    def __init__(self, connection: Connection, raw: bytes) -> None:
        self.connection = connection
        self.dpid = connection.dpid
        self._raw = raw

    @property
    def port(self) -> int:
        """The OpenFlow port that the packet came in on."""
        return parse.packet_in_port(self._raw)

    @property
    def data(self) -> bytes:
        """The frame, from its destination MAC address on."""
        return self._raw[PACKET_AT:]

    @cached_property
    def ofp(self) -> SimpleNamespace:
        """The whole message."""
        return read(self._raw)


class BarrierIn(_MessageEvent):
    """All before the barrier `xid` has been dealt with."""

    def __init__(self, connection: Connection, ofp: Any) -> None:
        super().__init__(connection, ofp)
        self.xid = ofp.xid


class ErrorIn(BarrierIn):
    """The switch refused a request, `xid`. It is logged unless a handler clears `should_log`."""

    should_log = True


class RawStatsReply(Event):
    """One part of a statistics reply, of any type."""

    def __init__(self, connection: Connection, raw: bytes) -> None:
        self.connection = connection
        self.dpid = connection.dpid
        kind, flags = struct.unpack_from("!HH", raw, wire.HEADER_LEN)
        self.ofp = SimpleNamespace(
            xid=int.from_bytes(raw[4:8], "big"),
            type=kind,
            flags=flags,
            is_last_reply=not flags & 1,
            body=raw[STATS_AT:],
        )


class ConnectionDict(dict[int, Any]):
    """The connections by datapath id. As under POX, iterating gives the connections."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())

    def __contains__(self, item: object) -> bool:
        return dict.__contains__(self, item) or any(item is each for each in self.values())


class OpenFlowNexus(EventMixin):
    """`core.openflow`: all switches' events and connections in one place."""

    _eventMixin_events = frozenset(
        {
            ConnectionUp,
            ConnectionDown,
            FeaturesReceived,
            PortStatus,
            PacketIn,
            BarrierIn,
            ErrorIn,
            RawStatsReply,
            FlowRemoved,
        }
    )
    miss_send_len: int | None = 128
    # POX's default is True. A restarted controller must not empty a switch that forwards.
    clear_flows_on_connect = False

    def __init__(self, core: EventMixin) -> None:
        self.connections = ConnectionDict()
        core.addListenerByName("DownEvent", self._handle_DownEvent)

    def getConnection(self, dpid: int) -> Any:
        """The connection of a datapath, or None."""
        return self.connections.get(dpid)

    def _handle_DownEvent(self, event: Event) -> None:
        for connection in list(self.connections.values()):
            connection.disconnect("controller ends")
