"""A switch that is nothing but packet-ins: made beforehand, sent with a window, answers counted.

It says what an OpenFlow 1.0 switch without flows says to a controller that has just connected,
and takes every flow.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Sequence

from bench.open_vswitch import BenchError
from xenflow.openflow import build, wire

_PORT = struct.Struct("!H6s16s6I")
_FLOW_MODS = (wire.MessageType.FLOW_MOD, wire.MessageType.VENDOR)
_DESC, _AGGREGATE, _VENDOR_STATS, _NXST_AGGREGATE = 0, 2, 0xFFFF, 1
NX_VENDOR = 0x2320
WAIT_S = 30.0


class FakeSwitch:
    """Connects to the controller on loopback port `port`; `ports` are names, numbered from 1.

    A packet-in counts as answered when its packet-out has come, or, where the controller is one
    that sends none (`sends_packets` false), its flow.
    """

    def __init__(
        self, port: int, dpid: int, ports: Sequence[str], *, sends_packets: bool = True
    ) -> None:
        self._sends_packets = sends_packets
        self._dpid = dpid
        self._ports = ports
        self._rest = b""
        self.flow_mods = 0
        self.packet_outs = 0
        limit = time.monotonic() + 15
        while True:
            try:
                self._sock = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:
                if time.monotonic() > limit:
                    raise BenchError(f"nobody listens on port {port}") from None
                time.sleep(0.05)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.sendall(build.hello())

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def settle(self, quiet_s: float = 0.3) -> None:
        """Answer what the controller asks until it has asked nothing for a while."""
        while select.select([self._sock], [], [], quiet_s)[0]:
            self._take()

    @property
    def answered(self) -> int:
        """Packet-ins of the present burst that have been answered."""
        return self.packet_outs if self._sends_packets else self.flow_mods

    def tell(self, messages: bytes) -> None:
        """Send messages whose answers are not counted."""
        self._sock.sendall(messages)
        self.settle()

    def sample(self, packet: bytes) -> list[bytes]:
        """The messages, flow and packet, with which a packet-in is answered."""
        self._sock.sendall(packet)
        found: list[bytes] = []
        data = b""
        while [message[1] for message in found].count(wire.MessageType.PACKET_OUT) == 0:
            if not select.select([self._sock], [], [], WAIT_S)[0]:
                raise BenchError(f"a packet-in was not answered in {WAIT_S:g} s")
            messages, data = wire.split(data + self._sock.recv(65536))
            found += [m for m in messages if m[1] in (*_FLOW_MODS, wire.MessageType.PACKET_OUT)]
        return found

    def burst(self, packets: Sequence[bytes], window: int, limit_s: float = WAIT_S) -> float:
        """Send packet-ins, at most `window` of them unanswered, until all are sent or `limit_s` has
        passed; seconds an answered packet, until the last answer.

        Raises BenchError where not each was answered by a flow and the packet.
        """
        self.flow_mods = self.packet_outs = 0
        total = len(packets)
        sent = 0
        started = time.perf_counter()
        while self.answered < total:
            until = min(total, self.answered + window)
            if until > sent:
                self._sock.sendall(b"".join(packets[sent:until]))
                sent = until
            self._take()
            if time.perf_counter() - started > limit_s:
                total = sent
        took = time.perf_counter() - started
        if self.flow_mods != total or (self._sends_packets and self.packet_outs != total):
            raise BenchError(
                f"{total} packet-ins brought {self.flow_mods} flows, {self.packet_outs} packets"
            )
        return took / total

    def flood(self, packets: Sequence[bytes], stop: Callable[[], bool]) -> float:
        """Send packet-ins over and over, as fast as the controller takes them, until `stop()`;
        answers a second."""
        self.flow_mods = self.packet_outs = 0
        chunks = [b"".join(packets[n : n + 64]) for n in range(0, len(packets), 64)]
        pending, number = b"", 0
        started = time.perf_counter()
        while not stop():
            readable, writable, _ = select.select([self._sock], [self._sock], [], 0.05)
            if readable:
                self._take()
            if writable:
                if not pending:
                    pending, number = chunks[number % len(chunks)], number + 1
                pending = pending[self._sock.send(pending, socket.MSG_DONTWAIT) :]
        rate = self.answered / (time.perf_counter() - started)
        self._sock.sendall(pending)  # the rest of a message that was begun
        return rate

    def _take(self) -> None:
        self._sock.settimeout(WAIT_S)
        try:
            data = self._rest + self._sock.recv(262144)
        except TimeoutError:
            raise BenchError(f"a packet-in was not answered in {WAIT_S:g} s") from None
        at, end = 0, len(data)
        if end == len(self._rest):
            raise BenchError("the controller has hung up")
        mods = outs = 0
        while at + 8 <= end:
            kind = data[at + 1]
            after = at + (data[at + 2] << 8 | data[at + 3])
            if after > end:
                break
            if kind == wire.MessageType.PACKET_OUT:
                outs += 1
            elif kind in _FLOW_MODS:
                mods += 1
            else:
                self._answer(kind, data[at:after])
            at = after
        self._rest = data[at:]
        self.flow_mods += mods
        self.packet_outs += outs

    def _answer(self, kind: int, message: bytes) -> None:
        xid = message[4:8]

        def reply(type_: wire.MessageType, body: bytes = b"") -> None:
            head = struct.pack("!BBH", 1, type_, 8 + len(body))
            self._sock.sendall(head + xid + body)

        if kind == wire.MessageType.ECHO_REQUEST:
            reply(wire.MessageType.ECHO_REPLY, message[8:])
        elif kind == wire.MessageType.FEATURES_REQUEST:
            ports = b"".join(
                _PORT.pack(n, bytes((2, 0, 0, 0, 9, n)), name.encode(), 0, 0, 0, 0, 0, 0)
                for n, name in enumerate(self._ports, 1)
            )
            head = struct.pack("!QIB3xII", self._dpid, 0, 8, 0xC7, 0xFFF)
            reply(wire.MessageType.FEATURES_REPLY, head + ports)
        elif kind == wire.MessageType.BARRIER_REQUEST:
            reply(wire.MessageType.BARRIER_REPLY)
        elif kind == wire.MessageType.GET_CONFIG_REQUEST:
            reply(wire.MessageType.GET_CONFIG_REPLY, struct.pack("!HH", 0, 0xFFFF))
        elif kind == wire.MessageType.STATS_REQUEST:
            what = struct.unpack_from("!H", message, 8)[0]
            body = message[8:10] + bytes(2)
            if what == _DESC:
                body += bytes(1056)
            elif what == _AGGREGATE:
                body += bytes(24)
            elif what == _VENDOR_STATS:
                body += message[12:20] + bytes(4)
                if struct.unpack_from("!I", message, 16)[0] == _NXST_AGGREGATE:
                    body += bytes(24)
            reply(wire.MessageType.STATS_REPLY, body)
