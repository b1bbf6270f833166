"""The OpenFlow events, and `core.openflow`, which raises them for all switches.

An event is raised on `core.openflow` first and then, unless halted, on its connection.
"""
# ruff: noqa: N802, N815 - the names are POX's

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pox.lib.revent import Event, EventMixin
from pox.lib.util import dpid_to_str

if TYPE_CHECKING:
    from pox.openflow.of_01 import Connection

log = logging.getLogger("openflow")

OFPPR_ADD, OFPPR_DELETE, OFPPR_MODIFY = range(3)
OFPRR_IDLE_TIMEOUT, OFPRR_HARD_TIMEOUT, OFPRR_DELETE = range(3)
OFP_DEFAULT_MISS_SEND_LEN = 128


class _MessageEvent(Event):
    """An event with the connection, the datapath id and the message that caused it."""

    def __init__(self, connection: Connection, ofp: Any) -> None:
        self.connection = connection
        self.dpid = connection.dpid
        self.ofp = ofp


class ConnectionUp(_MessageEvent):
    """A switch has connected and answered; `ofp` is its features reply."""


class FeaturesReceived(_MessageEvent):
    """A features reply has come; raised after each ConnectionUp too."""


class ConnectionDown(Event):
    """A connection that was up has ended."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.dpid = connection.dpid


class ConnectionHandshakeComplete(ConnectionDown):
    """Raised right before ConnectionUp."""


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


class PacketIn(_MessageEvent):
    """A packet has come from a switch: `port`, and its bytes in `data`."""

    @property
    def port(self) -> int:
        """The OpenFlow port that the packet came in on."""
        return self.ofp.in_port  # type: ignore[no-any-return]

    @property
    def data(self) -> bytes:
        """The frame, from its destination MAC address on."""
        return self.ofp.data  # type: ignore[no-any-return]


class ErrorIn(_MessageEvent):
    """The switch refused a request, `xid`. It is logged unless a handler clears `should_log`."""

    def __init__(self, connection: Connection, ofp: Any) -> None:
        super().__init__(connection, ofp)
        self.xid = ofp.xid
        self.should_log = True

    def asString(self) -> str:
        """The error in words."""
        return str(self.ofp)


class BarrierIn(_MessageEvent):
    """All before the barrier `xid` has been dealt with."""

    def __init__(self, connection: Connection, ofp: Any) -> None:
        super().__init__(connection, ofp)
        self.xid = ofp.xid


class RawStatsReply(_MessageEvent):
    """One part of a statistics reply, of any type."""


class ConfigurationReceived(BarrierIn):
    """The answer to a configuration request."""


class ConnectionDict(dict[int, Any]):
    """The connections by datapath id. As under POX, iterating gives the connections."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())

    def __contains__(self, item: object) -> bool:
        return dict.__contains__(self, item) or any(item is each for each in self.values())

    @property
    def dpids(self) -> list[int]:
        """The datapath ids."""
        return list(self.keys())


class OpenFlowNexus(EventMixin):
    """`core.openflow`: all switches' events and connections in one place."""

    _eventMixin_events = frozenset(
        {
            ConnectionHandshakeComplete,
            ConnectionUp,
            ConnectionDown,
            FeaturesReceived,
            PortStatus,
            PacketIn,
            BarrierIn,
            ErrorIn,
            RawStatsReply,
            FlowRemoved,
            ConfigurationReceived,
        }
    )
    miss_send_len: int | None = OFP_DEFAULT_MISS_SEND_LEN
    # POX's default is True. A restarted controller must not empty a switch that forwards.
    clear_flows_on_connect = False

    def __init__(self, core: EventMixin) -> None:
        self.connections = ConnectionDict()
        core.addListenerByName("DownEvent", self._handle_DownEvent)

    def getConnection(self, dpid: int) -> Any:
        """The connection of a datapath, or None."""
        return self.connections.get(dpid)

    def sendToDPID(self, dpid: int, data: Any) -> bool:
        """Send to a datapath; False where it is not connected."""
        connection = self.connections.get(dpid)
        if connection is None:
            log.warning("Couldn't send to %s: it is not connected", dpid_to_str(dpid))
            return False
        connection.send(data)
        return True

    def _connect(self, connection: Connection) -> None:
        if connection.dpid is not None:
            self.connections[connection.dpid] = connection

    def _disconnect(self, connection: Connection) -> None:
        if connection.dpid is not None and self.connections.get(connection.dpid) is connection:
            del self.connections[connection.dpid]

    def _handle_DownEvent(self, event: Event) -> None:
        for connection in list(self.connections.values()):
            connection.disconnect("controller ends")
