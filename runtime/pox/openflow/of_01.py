"""OpenFlow 1.0 connections: the listener, the handshake, reading, sending, keeping alive.

Component `openflow.of_01 [--address=A] [--port=N]`; launched by itself where the command line
does not name it. All of it runs in the loop; nothing blocks.

`connection.unpackers[type]` and `connection.handlers[type]` work as under POX: lists that a
component may copy and replace on one connection in order to see messages raw (docs/pox.md).

What a switch sends can end its own connection, never the process.
"""
# ruff: noqa: N802, N803, N815 - the names are POX's

from __future__ import annotations

import errno
import logging
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from pox import openflow
from pox.core import core
from pox.lib.recoco import Scheduler, Timer
from pox.lib.revent import EventMixin
from pox.lib.util import dpid_to_str
from pox.openflow import messages as of

log = logging.getLogger("openflow.of_01")

READ_BYTES = 131_072
SEND_BYTES = 1_048_576  # at most so much leaves one connection in one turn
FLUSH_BYTES = 65_536  # so much queued is sent at once
MESSAGES_PER_TURN = 64
PROBE_AFTER_S = 5
DROP_AFTER_S = 15
MALFORMED_ALLOWED = 16

_room = memoryview(bytearray(READ_BYTES))
"""All connections read into it.  A `recv` of so much, most of which is then given back, leaves the
heap in pieces: it grew with every read."""
_header_at = struct.Struct("!BBH").unpack_from
_xids = count(1)

Handler = Callable[["Connection", Any], None]


class PortCollection(dict[int, of.PhyPort]):
    """A switch's ports by number; `ports[name]` and `ports[MAC address]` find them too.

    A port that is not there raises IndexError, as under POX.
    """

    def __missing__(self, key: object) -> of.PhyPort:
        for port in self.values():
            if key in (port.name, port.hw_addr):
                return port
        raise IndexError(f"no port {key}")

    def __contains__(self, key: object) -> bool:
        try:
            self[key]  # type: ignore[index]
        except IndexError:
            return False
        return True


class Connection(EventMixin):
    """One TCP connection of a switch. `send` takes bytes; output is queued and never blocks."""

    _eventMixin_events = openflow.OpenFlowNexus._eventMixin_events
    ID = 0

    def __init__(
        self, sock: socket.socket, nexus: openflow.OpenFlowNexus, scheduler: Scheduler
    ) -> None:
        Connection.ID += 1
        self.ID = Connection.ID
        self.sock = sock
        self.ofnexus = nexus
        self.dpid: int | None = None
        self.features: of.FeaturesReply | None = None
        self.description: of.Description | None = None
        self.original_ports = PortCollection()
        self.ports = PortCollection()
        self.disconnected = False
        self.connect_time: float | None = None
        self.idle_time = time.time()
        self.unsent_bytes = 0
        self.unpackers = of.PARSERS
        self.handlers = HANDSHAKE_HANDLERS
        self._scheduler = scheduler
        self._buffer = b""
        self._offset = 0
        self._output: deque[bytes | memoryview] = deque()
        self._dirty = False
        self._blocked = False
        self._silent_s = 0
        self._malformed = 0
        self._asked = False
        self._barrier_xid: int | None = None
        self._early_port_status: list[of.PortStatusMessage] = []
        scheduler.watch(sock.fileno(), self)
        self.send(of.request(of.OFPT_HELLO, next(_xids)))

    def __str__(self) -> str:
        return f"[{dpid_to_str(self.dpid)} {self.ID}]"

    def fileno(self) -> int:
        """The socket's descriptor, -1 once closed."""
        return self.sock.fileno()

    # ---- output ----------------------------------------------------------------------------

    def send(self, data: Any) -> None:
        """Queue bytes (or an object with `pack()`); they leave in this turn of the loop.

        From the loop's thread only; after the connection's end nothing happens.
        """
        if self.disconnected:
            return
        if type(data) is not bytes:
            data = data.pack()
        self._output.append(data)
        self.unsent_bytes += len(data)
        if not self._dirty:
            self._dirty = True
            self._scheduler.unflushed.append(self)
        if self.unsent_bytes >= FLUSH_BYTES and not self._blocked:
            self._write()

    def flush(self) -> None:
        """For the loop: send what was queued in this turn."""
        self._dirty = False
        if not self._blocked:
            self._write()

    def _write(self) -> None:
        output = self._output
        allowance = SEND_BYTES
        while output and allowance > 0:
            chunk = output.popleft()
            if output and len(chunk) < FLUSH_BYTES:
                pieces = [chunk]
                size = len(chunk)
                while output and size < FLUSH_BYTES:
                    pieces.append(output.popleft())
                    size += len(pieces[-1])
                chunk = b"".join(pieces)
            try:
                sent = self.sock.send(chunk)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._output.clear()
                self.unsent_bytes = 0
                # not from within a sender's call: the loop sees the broken socket as well
                self._scheduler.callLater(self.disconnect, f"sending: {error.strerror}")
                return
            self.unsent_bytes -= sent
            allowance -= sent
            if sent < len(chunk):
                output.appendleft(memoryview(chunk)[sent:])
                self._wait_for_room(True)
                return
        if output:
            self._wait_for_room(True)
        elif self._blocked:
            self._wait_for_room(False)

    def _wait_for_room(self, wait: bool) -> None:
        if wait != self._blocked:
            self._blocked = wait
            mask = select.EPOLLIN | (select.EPOLLOUT if wait else 0)
            self._scheduler.watch(self.sock.fileno(), self, mask)

    # ---- input -----------------------------------------------------------------------------

    def on_ready(self, events: int) -> None:
        """For the loop: the socket can be read or written."""
        if self.disconnected:
            return
        if events & select.EPOLLOUT:
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
        while end - offset >= 8 and not self.disconnected:
            version, kind, length = _header_at(buffer, offset)
            ordinary = version == of.OFP_VERSION and length >= 8 and kind < len(self.unpackers)
            if not ordinary and not self._tolerates(version, kind, length, buffer, offset):
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
            except of.MalformedMessageError as error:
                self._bad_message(kind, error)
            except Exception:
                log.exception("%s Exception while handling OpenFlow message %d", self, kind)
        self._offset = offset

    def _tolerates(self, version: int, kind: int, length: int, buffer: bytes, offset: int) -> bool:
        """A header out of the ordinary: True to go on with it, else the connection is ended."""
        if length < 8:
            self.disconnect(f"no OpenFlow: a message of length {length}")
            return False
        if version == of.OFP_VERSION:
            self.disconnect(f"no OpenFlow 1.0: a message of unknown type {kind}")
            return False
        if kind == of.OFPT_HELLO and version > of.OFP_VERSION and not self._asked:
            return True  # the switch's highest version; ours, the lower one, holds
        if kind == of.OFPT_ERROR and version > of.OFP_VERSION:
            words = buffer[offset + 12 : offset + min(length, 200)].decode("ascii", "replace")
            log.error(
                "%s speaks OpenFlow version 0x%02x only and refused 1.0: %s",
                self.peer(),
                version,
                words or "no reason given",
            )
            self.disconnect("OpenFlow 1.0 refused")
            return False
        self.refuse_version(f"0x{version:02x}")
        return False

    def refuse_version(self, spoken: str) -> None:
        """Tell the switch and the log that only OpenFlow 1.0 is spoken here, and end."""
        log.error(
            "%s speaks OpenFlow version %s; XenFlow needs 1.0 (0x01): allow OpenFlow10 on the "
            "bridge, such as `ovs-vsctl set bridge BRIDGE protocols=OpenFlow10`",
            self.peer(),
            spoken,
        )
        reason = struct.pack("!HH", 0, 0) + b"only OpenFlow 1.0 is supported"
        self.send(of.request(of.OFPT_ERROR, next(_xids), reason))
        self.disconnect("OpenFlow version not supported")

    def _bad_message(self, kind: int, error: Exception) -> None:
        self._malformed += 1
        log.warning("%s malformed OpenFlow message of type %d dropped: %s", self, kind, error)
        if self._malformed > MALFORMED_ALLOWED:
            self.disconnect("too many malformed messages")

    def peer(self) -> str:
        """The switch, as far as it is known: datapath id or address."""
        if self.dpid is not None:
            return f"switch {dpid_to_str(self.dpid)}"
        try:
            return "switch at {}:{}".format(*self.sock.getpeername()[:2])
        except OSError:
            return "switch"

    # ---- life ------------------------------------------------------------------------------

    def every_second(self) -> None:
        """Probe a silent switch, and end a connection that stays silent or half open.

        Counts the loop's own seconds, so that a process that was stopped drops nobody.
        """
        self._silent_s += 1
        if self._silent_s >= DROP_AFTER_S:
            self.disconnect(f"silent for {DROP_AFTER_S} s")
        elif self._silent_s == PROBE_AFTER_S and self.connect_time is not None:
            self.send(of.request(of.OFPT_ECHO_REQUEST, next(_xids)))

    def disconnect(self, msg: str = "disconnected", defer_event: bool = False) -> None:
        """End the connection; ConnectionDown is raised where it was up."""
        if self.disconnected:
            return
        if self._output and not self._blocked:
            self._write()
        self.disconnected = True
        self._output.clear()
        self.unsent_bytes = 0
        self._scheduler.backlog.pop(self, None)
        self._scheduler.unwatch(self.sock.fileno())
        was_up = self.connect_time is not None
        log.log(logging.INFO if was_up else logging.DEBUG, "%s %s", self, msg)
        self.ofnexus._disconnect(self)
        connections.discard(self)
        self.sock.close()
        if was_up:
            _raise(self, openflow.ConnectionDown, self)

    def close(self) -> None:
        """End the connection."""
        self.disconnect("closed")


connections: set[Connection] = set()


def _raise(connection: Connection, kind: Any, *args: Any) -> Any:
    """Raise an event on the nexus and, unless halted, on the connection."""
    event = connection.ofnexus.raiseEventNoErrors(kind, *args)
    if (event is None or not event.halt) and "_eventMixin_handlers" in connection.__dict__:
        return connection.raiseEventNoErrors(kind, *args) or event
    return event


# ---- handlers of messages: the handshake ---------------------------------------------------


def _ignore(con: Connection, msg: Any) -> None:
    pass


def _echo(con: Connection, msg: of.Echo) -> None:
    con.send(of.request(of.OFPT_ECHO_REPLY, msg.xid, msg.body))


def _hello(con: Connection, msg: of.Message) -> None:
    if con._asked:
        return
    versions = _hello_versions(msg.raw)
    if versions is not None and not versions & (1 << of.OFP_VERSION):
        spoken = ", ".join(f"0x{bit:02x}" for bit in range(32) if versions >> bit & 1)
        con.refuse_version(spoken or "none")
        return
    con._asked = True
    con.send(
        of.request(of.OFPT_FEATURES_REQUEST, next(_xids))
        + of.request(of.OFPT_STATS_REQUEST, next(_xids), struct.pack("!HH", of.OFPST_DESC, 0))
    )


def _hello_versions(hello: bytes) -> int | None:
    """The version bitmap of a hello (OpenFlow 1.3.1 and later), None where it has none."""
    offset = 8
    while offset + 4 <= len(hello):
        kind, length = struct.unpack_from("!HH", hello, offset)
        if length < 4:
            return None
        if kind == 1 and length >= 8 and offset + 8 <= len(hello):
            return int(struct.unpack_from("!I", hello, offset + 4)[0])
        offset += (length + 7) // 8 * 8
    return None


def _handshake_stats(con: Connection, msg: of.StatsReply) -> None:
    if msg.type == of.OFPST_DESC and len(msg.body) >= 1056:
        con.description = of.Description(msg.body)


def _take_features(con: Connection, msg: of.FeaturesReply) -> None:
    con.features = msg
    con.dpid = msg.datapath_id
    con.original_ports = PortCollection({port.port_no: port for port in msg.ports})
    con.ports = PortCollection(con.original_ports)


def _handshake_features(con: Connection, msg: of.FeaturesReply) -> None:
    _take_features(con, msg)
    if con.ofnexus.miss_send_len is not None:
        body = struct.pack("!HH", 0, con.ofnexus.miss_send_len)
        con.send(of.request(of.OFPT_SET_CONFIG, next(_xids), body))
    if con.ofnexus.clear_flows_on_connect:
        everything = struct.pack(
            "!I36xQHHHHIHH", 0x003F_FFFF, 0, 3, 0, 0, 0, 0xFFFF_FFFF, 0xFFFF, 0
        )
        con.send(of.request(of.OFPT_FLOW_MOD, next(_xids), everything))
    con._barrier_xid = next(_xids)
    con.send(of.request(of.OFPT_BARRIER_REQUEST, con._barrier_xid))


def _handshake_barrier(con: Connection, msg: of.Message) -> None:
    if msg.xid == con._barrier_xid:
        _finish(con)


def _handshake_error(con: Connection, msg: of.Error) -> None:
    if con._barrier_xid is not None and msg.xid == con._barrier_xid:
        _finish(con)  # a switch without barriers
    elif msg.type == 0:
        log.error("%s refused OpenFlow 1.0: %s", con.peer(), msg.data.decode("ascii", "replace"))
        con.disconnect("OpenFlow 1.0 refused")
    else:
        log.warning("%s error while connecting: %s", con, msg)


def _handshake_port_status(con: Connection, msg: of.PortStatusMessage) -> None:
    if con.features is not None:
        con._early_port_status.append(msg)


def _finish(con: Connection) -> None:
    assert con.dpid is not None
    previous = con.ofnexus.connections.get(con.dpid)
    if previous is not None:
        # The switch came back before its old connection was seen to end, or two switches share
        # a datapath id. As in POX both stay; which of them it is, components find out.
        log.warning("%s is a second connection of the same datapath as %s", con, previous)
    con.ofnexus._connect(con)
    log.info("%s connected", con)
    con.connect_time = time.time()
    con.handlers = HANDLERS
    _raise(con, openflow.ConnectionHandshakeComplete, con)
    _raise(con, openflow.ConnectionUp, con, con.features)
    _raise(con, openflow.FeaturesReceived, con, con.features)
    early, con._early_port_status = con._early_port_status, []
    for msg in early:
        con.handlers[of.OFPT_PORT_STATUS](con, msg)


# ---- handlers of messages: connected -------------------------------------------------------


def _raises(kind: Any) -> Handler:
    def handle(con: Connection, msg: Any) -> None:
        event = con.ofnexus.raiseEventNoErrors(kind, con, msg)
        if (event is None or not event.halt) and "_eventMixin_handlers" in con.__dict__:
            con.raiseEventNoErrors(kind, con, msg)

    return handle


def _features(con: Connection, msg: of.FeaturesReply) -> None:
    _take_features(con, msg)
    _raise(con, openflow.FeaturesReceived, con, msg)


def _port_status(con: Connection, msg: of.PortStatusMessage) -> None:
    port = msg.desc
    if msg.reason == openflow.OFPPR_DELETE:
        con.ports.pop(port.port_no, None)
    else:
        con.ports[port.port_no] = port
    _raise(con, openflow.PortStatus, con, msg)


def _error(con: Connection, msg: of.Error) -> None:
    event = openflow.ErrorIn(con, msg)
    _raise(con, event)
    if event.should_log:
        log.error("%s OpenFlow error: %s", con, msg)


def _table(chosen: dict[int, Handler]) -> list[Handler]:
    return [chosen.get(kind, _ignore) for kind in range(len(of.PARSERS))]


HANDSHAKE_HANDLERS = _table(
    {
        of.OFPT_HELLO: _hello,
        of.OFPT_ECHO_REQUEST: _echo,
        of.OFPT_STATS_REPLY: _handshake_stats,
        of.OFPT_FEATURES_REPLY: _handshake_features,
        of.OFPT_BARRIER_REPLY: _handshake_barrier,
        of.OFPT_ERROR: _handshake_error,
        of.OFPT_PORT_STATUS: _handshake_port_status,
    }
)
HANDLERS = _table(
    {
        of.OFPT_ECHO_REQUEST: _echo,
        of.OFPT_FEATURES_REPLY: _features,
        of.OFPT_PORT_STATUS: _port_status,
        of.OFPT_ERROR: _error,
        of.OFPT_PACKET_IN: _raises(openflow.PacketIn),
        of.OFPT_FLOW_REMOVED: _raises(openflow.FlowRemoved),
        of.OFPT_STATS_REPLY: _raises(openflow.RawStatsReply),
        of.OFPT_BARRIER_REPLY: _raises(openflow.BarrierIn),
        of.OFPT_GET_CONFIG_REPLY: _raises(openflow.ConfigurationReceived),
    }
)


# ---- the listener --------------------------------------------------------------------------


class Listener:
    """Accepts switches at one address and port from GoingUpEvent on."""

    def __init__(self, address: str, port: int) -> None:
        self.address = address
        self.port = port
        self.sock: socket.socket | None = None
        core.addListenerByName("GoingUpEvent", self._handle_GoingUpEvent)
        core.addListenerByName("DownEvent", self._handle_DownEvent)

    def _handle_GoingUpEvent(self, event: Any) -> None:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.address, self.port))
            sock.listen(64)
        except OSError as error:
            sock.close()
            log.critical(
                "cannot listen for switches at %s:%d: %s%s",
                self.address,
                self.port,
                error.strerror or error,
                _what_to_do(error),
            )
            core.quit(1)
            return
        sock.setblocking(False)
        self.sock = sock
        self.port = sock.getsockname()[1]
        core.scheduler.watch(sock.fileno(), self)
        log.info("listening for switches at %s:%d", self.address, self.port)

    def _handle_DownEvent(self, event: Any) -> None:
        if self.sock is not None:
            core.scheduler.unwatch(self.sock.fileno())
            self.sock.close()
            self.sock = None
        for connection in list(connections):
            connection.disconnect("controller ends")

    def on_ready(self, events: int) -> None:
        """For the loop: switches are waiting."""
        if self.sock is None:
            return
        for _ in range(16):
            try:
                sock, _ = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    log.error("cannot accept a switch: %s; again in 1 s", error.strerror)
                    core.scheduler.unwatch(self.sock.fileno())
                    core.call_delayed(1, self._resume)
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections.add(Connection(sock, core.openflow, core.scheduler))

    def _resume(self) -> None:
        if self.sock is not None:
            core.scheduler.watch(self.sock.fileno(), self)

    def flush(self) -> None:
        """For the loop: a listener sends nothing."""

    def work_on(self) -> None:
        """For the loop: a listener leaves nothing undone."""


def _what_to_do(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "; does another controller run? Choose a port: openflow.of_01 --port=PORT"
    if error.errno == errno.EADDRNOTAVAIL:
        return "; no interface of this host has that address: openflow.of_01 --address=ADDRESS"
    return ""


def _keep_alive() -> None:
    for connection in list(connections):
        connection.every_second()


def launch(
    port: str | int = 6633,
    address: str = "127.0.0.1",
    __INSTANCE__: tuple[int, int, bool] = (0, 1, True),
) -> None:
    """Listen for switches.

    Options: --address=ADDRESS (127.0.0.1), --port=PORT (6633).
    """
    name = "of_01" if __INSTANCE__[0] == 0 else f"of_01-{__INSTANCE__[0] + 1}"
    if __INSTANCE__[0] == 0:
        Timer(1, _keep_alive, recurring=True)
    core.register(name, Listener(address, int(port)))
