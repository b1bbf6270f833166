"""OpenFlow 1.0 connections: the listener, the handshake, reading, sending, keeping alive.

Component `openflow.of_01 [--address=A] [--port=N]`. All of it runs in the loop; nothing blocks.

`connection.unpackers[type]` and `connection.handlers[type]` work as under POX: lists that a
component may copy and replace on one connection in order to see messages raw (docs/pox.md). Here
an unpacker cuts the message out, and it is the handler that parses it.

What a switch sends can end its own connection, never the process.
"""
# ruff: noqa: N803, N815 - the names are POX's

from __future__ import annotations

import errno
import logging
import select
import socket
import struct
import time
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

from pox import openflow
from pox.core import core
from pox.lib.recoco import Timer
from pox.lib.revent import EventMixin
from xenflow.openflow import build, wire
from xenflow.openflow.flow import Flow
from xenflow.openflow.wire import MessageType, WireError

log = logging.getLogger("openflow.of_01")

READ_BYTES = 131_072
FLUSH_BYTES = 65_536  # so much queued is sent at once
MESSAGES_PER_TURN = 64
PROBE_AFTER_S = 5
DROP_AFTER_S = 15
MALFORMED_ALLOWED = 16
TYPES = 22
"""How many types of messages there are (OpenFlow 1.0.0, section 5.1)."""

_room = memoryview(bytearray(READ_BYTES))
"""All connections read into it.  A `recv` of so much, most of which is then given back, leaves the
heap in pieces: it grew with every read."""
_header_at = struct.Struct("!BBH").unpack_from
_xids = count(1)

Handler = Callable[["Connection", bytes], None]


class PortCollection(dict[int, SimpleNamespace]):
    """A switch's ports by number; `ports[name]` finds them too.

    A port that is not there raises IndexError, as under POX.
    """

    def __missing__(self, key: object) -> SimpleNamespace:
        for port in self.values():
            if key == port.name:
                return port
        raise IndexError(f"no port {key}")


class Connection(EventMixin):
    """One TCP connection of a switch. `send` takes bytes; output is queued and never blocks."""

    _eventMixin_events = openflow.OpenFlowNexus._eventMixin_events
    ID = 0

    def __init__(self, sock: socket.socket, address: tuple[Any, ...]) -> None:
        Connection.ID += 1
        self.ID = Connection.ID
        self.sock = sock
        self.dpid: Any = None
        self.features: Any = None
        self.ports = PortCollection()
        self.disconnected = False
        self.idle_time = time.time()
        self.unpackers = [_whole] * TYPES
        self.handlers = HANDSHAKE
        self._name = "switch at {}:{}".format(*address[:2])
        self._nexus: openflow.OpenFlowNexus = core.openflow
        self._scheduler = core.scheduler
        self._buffer = b""
        self._offset = 0
        self._output = bytearray()
        self._dirty = False
        self._blocked = False
        self._silent_s = 0
        self._malformed = 0
        self._early_port_status: list[bytes] = []
        self._scheduler.watch(sock.fileno(), self)
        self._every_second = Timer(1, self._look, recurring=True)
        self.send(build.hello(next(_xids)))

    def __str__(self) -> str:
        return self._name

    # ---- output ----------------------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        """How much is queued."""
        return len(self._output)

    def send(self, data: bytes) -> None:
        """Queue bytes; they leave in this turn of the loop.

        From the loop's thread only; after the connection's end nothing happens.
        """
        if self.disconnected:
            return
        self._output += data
        if not self._dirty:
            self._dirty = True
            self._scheduler.unflushed.append(self)
        if len(self._output) >= FLUSH_BYTES:
            self._write()

    def flush(self) -> None:
        """For the loop: send what was queued in this turn."""
        self._dirty = False
        self._write()

    def _write(self) -> None:
        if self._blocked or not self._output:
            return
        try:
            sent = self.sock.send(self._output)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._output.clear()
            # not from within a sender's call: the loop sees the broken socket as well
            self._scheduler.callLater(self.disconnect, f"sending: {error.strerror}")
            return
        del self._output[:sent]
        if self._output:
            self._blocked = True
            self._scheduler.watch(self.sock.fileno(), self, select.EPOLLIN | select.EPOLLOUT)

    # ---- input -----------------------------------------------------------------------------

    def on_ready(self, events: int) -> None:
        """For the loop: the socket can be read or written."""
        if self.disconnected:
            return
        if events & select.EPOLLOUT:
            self._blocked = False
            self._scheduler.watch(self.sock.fileno(), self)
            self._write()
        if events & ~select.EPOLLOUT and self not in self._scheduler.backlog:
            self._receive()

    def _receive(self) -> None:
        try:
            data = bytes(_room[: self.sock.recv_into(_room)])
        except BlockingIOError:
            return
        except OSError as error:
            self.disconnect(f"receiving: {error.strerror}")
            return
        if not data:
            self.disconnect("closed by the switch")
            return
        self.idle_time = time.time()
        self._silent_s = 0
        if self._offset < len(self._buffer):
            data = self._buffer[self._offset :] + data
        self._buffer = data
        self._offset = 0
        self.work_on()

    def work_on(self) -> None:
        """Deal with the messages read, a bounded number at a time; the loop comes back."""
        buffer = self._buffer
        offset = self._offset
        end = len(buffer)
        budget = MESSAGES_PER_TURN
        while end - offset >= wire.HEADER_LEN and not self.disconnected:
            version, kind, length = _header_at(buffer, offset)
            if length < wire.HEADER_LEN or kind >= TYPES:
                self.disconnect(f"no OpenFlow 1.0: a message of type {kind}, {length} bytes")
                return
            # of a hello it is the highest version; ours, the lower one, holds
            if version != wire.VERSION and not (
                kind == MessageType.HELLO and version > wire.VERSION
            ):
                self._refuse(f"it speaks version 0x{version:02x}")
                return
            if end - offset < length:
                break
            if not budget:
                self._scheduler.backlog[self] = None
                break
            budget -= 1
            start, offset = offset, offset + length
            try:
                self.handlers[kind](self, self.unpackers[kind](buffer, start)[1])
            except (WireError, struct.error) as error:
                self._bad_message(kind, error)
            except Exception:
                log.exception("%s: Exception while handling OpenFlow message %d", self, kind)
        self._offset = offset

    def _refuse(self, why: str) -> None:
        """Tell the log and the switch that only OpenFlow 1.0 is spoken here, and end."""
        log.error(
            "%s: no OpenFlow 1.0, which XenFlow needs: %s. Allow it on the bridge, such as "
            "`ovs-vsctl set bridge BRIDGE protocols=OpenFlow10`",
            self,
            why,
        )
        reason = bytes(4) + b"only OpenFlow 1.0 is supported"
        self.send(wire.message(MessageType.ERROR, reason, next(_xids)))
        self.disconnect("no OpenFlow 1.0")

    def _bad_message(self, kind: int, error: Exception) -> None:
        self._malformed += 1
        log.warning("%s: malformed OpenFlow message of type %d dropped: %s", self, kind, error)
        if self._malformed > MALFORMED_ALLOWED:
            self.disconnect("too many malformed messages")

    # ---- life ------------------------------------------------------------------------------

    @property
    def _up(self) -> bool:
        return self.handlers is not HANDSHAKE

    def _look(self) -> None:
        """Probe a silent switch, and end a connection that stays silent or half open.

        Counts the loop's own seconds, so that a process that was stopped drops nobody.
        """
        self._silent_s += 1
        if self._silent_s >= DROP_AFTER_S:
            self.disconnect(f"silent for {DROP_AFTER_S} s")
        elif self._silent_s == PROBE_AFTER_S and self._up:
            self.send(build.echo_request(xid=next(_xids)))

    def disconnect(self, msg: str = "disconnected") -> None:
        """End the connection; ConnectionDown is raised where it was up."""
        if self.disconnected:
            return
        self._write()
        self.disconnected = True
        self._output.clear()
        self._every_second.cancel()
        self._scheduler.backlog.pop(self, None)
        self._scheduler.unwatch(self.sock.fileno())
        log.log(logging.INFO if self._up else logging.DEBUG, "%s: %s", self, msg)
        if self._nexus.connections.get(self.dpid) is self:
            del self._nexus.connections[self.dpid]
        self.sock.close()
        if self._up:
            self.tell(openflow.ConnectionDown, self)

    def tell(self, event: Any, *args: Any) -> None:
        """Raise an event on the nexus and, unless halted, on the connection."""
        told = self._nexus.raiseEventNoErrors(event, *args)
        if self._eventMixin_handlers and (told is None or not told.halt):
            self.raiseEventNoErrors(event, *args)


def _whole(buffer: bytes, offset: int) -> tuple[int, bytes]:
    end = offset + (buffer[offset + 2] << 8 | buffer[offset + 3])
    return end, buffer[offset:end]


# ---- handlers of messages: the handshake ---------------------------------------------------


def _ignore(con: Connection, raw: bytes) -> None:
    pass


def _echo(con: Connection, raw: bytes) -> None:
    con.send(build.echo_reply(raw[wire.HEADER_LEN :], int.from_bytes(raw[4:8], "big")))


def _hello(con: Connection, raw: bytes) -> None:
    con.send(build.features_request(next(_xids)))


def _take_features(con: Connection, raw: bytes) -> None:
    con.features = openflow.read(raw)
    con.dpid = con.features.datapath_id
    con.ports = PortCollection({port.port_no: port for port in con.features.ports})
    con._name = f"switch {con.dpid:016x}"


def _handshake_features(con: Connection, raw: bytes) -> None:
    _take_features(con, raw)
    if con._nexus.miss_send_len is not None:
        con.send(build.set_config(con._nexus.miss_send_len, xid=next(_xids)))
    if con._nexus.clear_flows_on_connect:
        con.send(build.flow_mod_of10(Flow(0, 0, (), ()), wire.FlowModCommand.DELETE, next(_xids)))
    con.send(build.barrier_request(next(_xids)))


def _handshake_barrier(con: Connection, raw: bytes) -> None:
    if con.features is None:
        return
    if con.dpid in con._nexus.connections:
        # The switch came back before its old connection was seen to end, or two switches share
        # a datapath id. As in POX both stay; which of them it is, components find out.
        log.warning("%s: a second connection of the same datapath", con)
    con._nexus.connections[con.dpid] = con
    log.info("%s: connected", con)
    con.handlers = HANDLERS
    con.tell(openflow.ConnectionUp, con, con.features)
    con.tell(openflow.FeaturesReceived, con, con.features)
    for early in con._early_port_status:
        _port_status(con, early)


def _handshake_error(con: Connection, raw: bytes) -> None:
    error = openflow.read(raw)
    if error.type == 0:  # the hello has failed; Open vSwitch 3.1 says so in version 1.0
        con._refuse(error.data.decode("ascii", "replace").rstrip("."))
    else:
        log.warning("%s: error while connecting: %s", con, error.name)


def _handshake_port_status(con: Connection, raw: bytes) -> None:
    if con.features is not None:
        con._early_port_status.append(raw)


# ---- handlers of messages: connected -------------------------------------------------------


def _raises(event: type) -> Handler:
    return lambda con, raw: con.tell(event, con, openflow.read(raw))


def _packet_in(con: Connection, raw: bytes) -> None:
    if len(raw) < openflow.PACKET_AT:
        raise WireError(f"PACKET_IN: {len(raw)} bytes")
    con.tell(openflow.PacketIn, con, raw)


def _stats(con: Connection, raw: bytes) -> None:
    if len(raw) < openflow.STATS_AT:
        raise WireError(f"STATS_REPLY: {len(raw)} bytes")
    con.tell(openflow.RawStatsReply, con, raw)


def _features(con: Connection, raw: bytes) -> None:
    _take_features(con, raw)
    con.tell(openflow.FeaturesReceived, con, con.features)


def _port_status(con: Connection, raw: bytes) -> None:
    status = openflow.read(raw)
    if status.reason == openflow.OFPPR_DELETE:
        con.ports.pop(status.desc.port_no, None)
    else:
        con.ports[status.desc.port_no] = status.desc
    con.tell(openflow.PortStatus, con, status)


def _error(con: Connection, raw: bytes) -> None:
    event = openflow.ErrorIn(con, openflow.read(raw))
    con.tell(event)
    if event.should_log:
        log.error("%s: OpenFlow error: %s, xid %#x", con, event.ofp.name, event.xid)


def _table(chosen: dict[int, Handler]) -> list[Handler]:
    return [chosen.get(kind, _ignore) for kind in range(TYPES)]


HANDSHAKE = _table(
    {
        MessageType.HELLO: _hello,
        MessageType.ECHO_REQUEST: _echo,
        MessageType.FEATURES_REPLY: _handshake_features,
        MessageType.BARRIER_REPLY: _handshake_barrier,
        MessageType.ERROR: _handshake_error,
        MessageType.PORT_STATUS: _handshake_port_status,
    }
)
HANDLERS = _table(
    {
        MessageType.ECHO_REQUEST: _echo,
        MessageType.FEATURES_REPLY: _features,
        MessageType.PORT_STATUS: _port_status,
        MessageType.ERROR: _error,
        MessageType.PACKET_IN: _packet_in,
        MessageType.FLOW_REMOVED: _raises(openflow.FlowRemoved),
        MessageType.STATS_REPLY: _stats,
        MessageType.BARRIER_REPLY: _raises(openflow.BarrierIn),
    }
)


# ---- the listener --------------------------------------------------------------------------

_WHAT_TO_DO = {
    errno.EADDRINUSE: "; does another controller run? Choose a port: openflow.of_01 --port=PORT",
    errno.EADDRNOTAVAIL: "; no interface of this host has that address: "
    "openflow.of_01 --address=ADDRESS",
}


class Listener:
    """Accepts switches at one address and port."""

    def __init__(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            self.sock = socket.create_server((address, port), family=family, backlog=64)
        except OSError as error:
            why = _WHAT_TO_DO.get(error.errno or 0, "")
            log.critical("cannot listen for switches at %s:%d: %s%s", address, port, error, why)
            core.quit(1)
            return
        self.sock.setblocking(False)
        self._listen()
        log.info("listening for switches at %s:%d", address, port)

    def _listen(self) -> None:
        core.scheduler.watch(self.sock.fileno(), self)

    def on_ready(self, events: int) -> None:
        """For the loop: switches are waiting."""
        try:
            sock, address = self.sock.accept()
        except BlockingIOError:
            return
        except OSError as error:  # such as too many open files
            log.error("cannot accept a switch: %s; again in 1 s", error.strerror)
            core.scheduler.unwatch(self.sock.fileno())
            core.call_delayed(1, self._listen)
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Connection(sock, address)


def launch(port: str = "6633", address: str = "127.0.0.1", __INSTANCE__: object = None) -> None:
    """Listen for switches, from GoingUpEvent on.

    Options: --address=ADDRESS (127.0.0.1), --port=PORT (6633).
    """
    core.addListenerByName("GoingUpEvent", lambda _: Listener(address, int(port)))
