"""An OpenFlow 1.0 switch for tests: one blocking socket, and messages packed by hand."""

from __future__ import annotations

import socket
import struct
import time

PHY_PORT = struct.Struct("!H6s16sIIIIII")


def message(kind: int, xid: int = 0, body: bytes = b"", version: int = 1) -> bytes:
    """An OpenFlow message."""
    return struct.pack("!BBHI", version, kind, 8 + len(body), xid) + body


def port(number: int) -> bytes:
    """A port named after its number, with a MAC address made from it."""
    mac = b"\x02\0\0\0" + number.to_bytes(2, "big")
    return PHY_PORT.pack(number, mac, f"p{number}".encode(), 0, 0, 0, 0, 0, 0)


def packet_in(data: bytes, in_port: int = 1) -> bytes:
    """A packet-in that the switch has not buffered."""
    head = struct.pack("!IHHBB", 0xFFFF_FFFF, len(data), in_port, 0, 0)
    return message(10, 0, head + data)


class LoopbackSwitch:
    """Connects to a controller on 127.0.0.1; `handshake()` makes it a connected switch."""

    def __init__(self, tcp_port: int, dpid: int = 1, hello: bytes | None = None) -> None:
        deadline = time.monotonic() + 120
        while True:
            try:
                self.sock = socket.create_connection(("127.0.0.1", tcp_port))
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.sock.settimeout(120)
        self.dpid = dpid
        self.seen: list[bytes] = []
        self._input = b""
        self.send(message(0) if hello is None else hello)

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data)

    def receive(self) -> bytes | None:
        """The next message, None at the connection's end."""
        while True:
            if len(self._input) >= 8:
                length = struct.unpack_from("!H", self._input, 2)[0]
                if len(self._input) >= length:
                    first, self._input = self._input[:length], self._input[length:]
                    self.seen.append(first)
                    return first
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._input += data

    def receive_type(self, kind: int) -> bytes:
        """The next message of a type; others are passed over."""
        while (got := self.receive()) is not None:
            if got[1] == kind:
                return got
        raise AssertionError(f"the connection ended before a message of type {kind}")

    def handshake(self, before_barrier: bytes = b"") -> LoopbackSwitch:
        """Answer until the controller's barrier; `before_barrier` is sent just before that."""
        while True:
            got = self.receive()
            assert got is not None, "the controller closed the connection in the handshake"
            xid = struct.unpack_from("!I", got, 4)[0]
            if got[1] == 5:
                head = struct.pack("!QIB3xII", self.dpid, 0, 254, 0, 0)
                self.send(message(6, xid, head + port(1) + port(2)))
            elif got[1] == 16:
                self.send(message(17, xid, struct.pack("!HH", 0, 0) + bytes(1056)))
            elif got[1] == 18:
                self.send(before_barrier + message(19, xid))
                return self

    def ended(self) -> bool:
        """Whether the controller closes the connection, within the socket's timeout."""
        try:
            while self.receive() is not None:
                pass
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()
