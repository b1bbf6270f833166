"""The baseline of everything that is written to a switch: a socket and bytes made beforehand.

It accepts the switch's connection, says hello, and from then on does nothing but write what it is
given and wait for the barrier's reply.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

from bench.open_vswitch import BenchError, OpenVSwitch
from xenflow.openflow import build, parse, wire
from xenflow.tables import cookies, layout

WAIT_S = 60.0


class RawController:
    """One switch's connection to loopback port `port`, from `accept` to `hang_up`."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._port = port
        self._xid = 0x70000000

    def accept(self, switch: OpenVSwitch) -> None:
        """Have the switch connect here."""
        self._listener.setblocking(False)
        try:
            while True:  # what it tried while it was to connect elsewhere
                self._listener.accept()[0].close()
        except BlockingIOError:
            self._listener.settimeout(15)
        switch.use_controller(self._port)
        self._rest = b""
        self._sock, _ = self._listener.accept()
        self._sock.settimeout(WAIT_S)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.sendall(build.hello() + build.set_flow_format_nxm() + build.enable_table_id())
        self.barrier()
        switch.be_patient()  # it gets no answer while flows are dumped, or while it comes to rest

    def hang_up(self) -> None:
        """End this connection, ready for the next."""
        self._sock.close()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()

    def write(self, pieces: Sequence[bytes]) -> float:
        """Write pieces and a barrier; seconds until its reply."""
        send = self._sock.sendall
        started = time.perf_counter()
        for piece in pieces:
            send(piece)
        self.barrier()
        return time.perf_counter() - started

    def wipe(self, switch: OpenVSwitch) -> None:
        """Remove all routes of all routers, and nothing else of that table, and let the switch come
        to rest."""
        routes = cookies.of(layout.ROUTES), cookies.TABLE_MASK
        self.write([build.delete_by_cookie(layout.ROUTES, *routes)])
        switch.rest()

    def barrier(self) -> None:
        """Raises BenchError where the switch refuses anything before its reply."""
        self._xid += 1
        self._sock.sendall(build.barrier_request(self._xid))
        while True:
            data = self._sock.recv(65536)
            if not data:
                raise BenchError("the switch has hung up")
            messages, self._rest = wire.split(self._rest + data)
            for message in map(parse.message, messages):
                if isinstance(message, parse.BarrierReply) and message.xid == self._xid:
                    return
                self._other(message)

    def _other(self, message: parse.Message) -> None:
        if isinstance(message, parse.EchoRequest):
            self._sock.sendall(build.echo_reply(message.data, message.xid))
        elif isinstance(message, parse.ErrorMessage):
            raise BenchError(f"the switch refused a prepacked message: {message}")


def in_chunks(data: bytes, size: int) -> list[bytes]:
    """Bytes cut into pieces of `size` (a TCP stream does not mind where)."""
    return [data[start : start + size] for start in range(0, len(data), size)]
