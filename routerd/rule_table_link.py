"""The ZeroMQ connection to the Rule Table: a DEALER that comes back fast.

ZeroMQ reconnects by itself, to the same address, which after a move is another machine's.  What
this module adds is knowing when: the socket's monitor tells of every new connection, so that HELLO
is the first message on each.  A connection attempt is given up after a quarter of a second, since
TCP would repeat a SYN lost while the link was unplugged only after one; ZeroMQ's own heartbeats
find a dead connection on an idle link.  Nothing is queued while there is no connection
(ZMQ_IMMEDIATE): HELLO's number says what was missed.
"""

from __future__ import annotations

import contextlib
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import zmq

from xenflow.routes.messages import Frames

HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 200, 600
RECONNECT_MS, RECONNECT_MAX_MS = 50, 200
CONNECT_TIMEOUT_MS = 250
HANDSHAKE_MS = 1000
_MAX_WAITING = 100_000
_EVENT = struct.Struct("=HI")
"""The first frame of a monitor's message: event, value (zmq_socket_monitor(3)).  pyzmq's own parser
for it takes asyncio along, and with it a quarter of the time routerd needs to start."""


def endpoint(peer: str, control: str, port: int) -> str:
    """The ZeroMQ address: a link-local peer is looked for behind the control interface."""
    if ":" not in peer:
        return f"tcp://{peer}:{port}"
    zone = f"%{control}" if peer.lower().startswith("fe80:") and "%" not in peer else ""
    return f"tcp://[{peer}{zone}]:{port}"


def hasten_discovery(control: str) -> None:
    """Let the kernel, where it can, repeat a neighbour solicitation on the control interface after
    a tenth of a second: one that was lost while the link was unplugged would otherwise hold up the
    first connection after a move for a whole one (RFC 4861, RETRANS_TIMER)."""
    with contextlib.suppress(OSError):
        Path(f"/proc/sys/net/ipv6/neigh/{control}/retrans_time_ms").write_text("100")


class RuleTableLink:
    """A connection to one endpoint; see the module."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._context = zmq.Context(io_threads=1)
        self._waiting: deque[Frames] = deque()
        self._open()

    def _open(self) -> None:
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.IPV6, 1),
            (zmq.LINGER, 0),
            (zmq.IMMEDIATE, 1),
            (zmq.SNDHWM, 100_000),
            (zmq.RCVHWM, 10_000),
            (zmq.MAXMSGSIZE, 1 << 20),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS),
            (zmq.HEARTBEAT_TTL, 3000),
            (zmq.RECONNECT_IVL, RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS),
            (zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
            (zmq.TCP_MAXRT, 2000),
        ):
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._socket.connect(self.address)

    def filenos(self) -> tuple[int, int]:
        """To poll for reading; edge-triggered, so `events` and `received` drain."""
        return self._socket.fileno(), self._monitor.fileno()

    def reopen(self) -> None:
        """Begin with a new socket."""
        self._shut()
        self._open()

    def close(self) -> None:
        """Close for good."""
        self._shut()
        self._context.term()

    def _shut(self) -> None:
        self._waiting.clear()
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)

    def events(self) -> Iterator[bool]:
        """What happened since the last call: True for a new connection, False for its end."""
        while self._monitor.poll(0):
            event, _ = _EVENT.unpack(self._monitor.recv_multipart(zmq.NOBLOCK)[0])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                yield True
            elif event == zmq.EVENT_DISCONNECTED:
                self._waiting.clear()
                yield False

    def received(self) -> Iterator[Frames]:
        """The messages that have arrived."""
        while True:
            try:
                yield self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return

    def send(self, messages: Iterable[Frames]) -> bool:
        """Send in order; what cannot leave yet waits for `flush`.  False if too much waits and
        something was dropped."""
        for frames in messages:
            if self._waiting or not self._try(frames):
                if len(self._waiting) >= _MAX_WAITING:
                    return False
                self._waiting.append(frames)
        return True

    def flush(self) -> bool:
        """Send what waits; True if nothing waits any more."""
        while self._waiting:
            if not self._try(self._waiting[0]):
                return False
            self._waiting.popleft()
        return True

    def _try(self, frames: Frames) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True
