"""A ZeroMQ socket in the controller's loop.

ZeroMQ's file descriptor is edge-triggered: it says that something may have happened, once.  So
whoever waits for it must go on until the socket's EVENTS say that nothing is left, also after a
send, which may swallow the edge.  `Pump` does that, and takes a bounded number of messages a
turn, so that one socket cannot starve the others.

Called by `component`, `asking` and `mirror`, in the controller's own thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from typing import Any

import zmq
from pox.lib.recoco import Select, Task

log = logging.getLogger("xenflow.zmq")

AT_ONCE = 64
"""Messages taken from one socket before the others have their turn."""
AT_ONCE_S = 0.002
"""For how long; a switch must not wait for its next piece while a router's snapshot is read."""
COMPLAIN_S = 10.0
"""How often it is said that a message could not be dealt with."""
LOOK_AGAIN_S = 0.2
"""Should an edge be missed after all, so long it stays unnoticed."""


class Pump:
    """Gives every message of a socket to `receive(frames)`, from `start` on; `send` never blocks.

    With `names_peers`, `peer` is the address that the message which is received came from.
    Its peers are trusted not to flood it: ZeroMQ's queue takes more than is read.
    """

    def __init__(
        self,
        sock: zmq.Socket[bytes],
        receive: Callable[[list[bytes]], None],
        names_peers: bool = False,
    ) -> None:
        self.sock = sock
        self.peer = ""
        self._names_peers = names_peers
        self.closed = False
        self._receive = receive
        self._complained = float("-inf")

    def start(self) -> None:
        """Begin to take what comes."""
        Task(target=self._run).start()

    def send(self, frames: list[bytes]) -> bool:
        """Send one message; False where the peer's queue is full or the peer is gone."""
        if self.closed:
            return False
        try:
            self.sock.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.debug("message not sent: %s", error)
            return False
        return True

    def close(self) -> None:
        """Take no more; the socket is closed by the task, which may be waiting for its descriptor:
        a descriptor that is closed under it may be somebody else's the next moment."""
        self.closed = True

    def _readable(self) -> bool:
        return bool(int(self.sock.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def _read(self) -> list[bytes]:
        if not self._names_peers:
            return self.sock.recv_multipart(zmq.NOBLOCK)
        parts = self.sock.recv_multipart(zmq.NOBLOCK, copy=False)
        try:
            # An IPv4 peer of an IPv6 socket (RFC 4291, section 2.5.5.2).
            self.peer = str(parts[-1].get("Peer-Address")).removeprefix("::ffff:")
        except zmq.ZMQError:  # of a socket in the file system, say
            self.peer = ""
        return [part.bytes for part in parts]

    def _run(self) -> Generator[Any, Any, None]:
        try:
            yield from self._take()
        finally:
            self.sock.close(linger=0)

    def _complain(self) -> None:
        """Once for many: what fails for one message may fail for all that follow."""
        now = time.monotonic()
        if now - self._complained >= COMPLAIN_S:
            self._complained = now
            log.exception("a message could not be dealt with")

    def _take(self) -> Generator[Any, Any, None]:
        fd = self.sock.getsockopt(zmq.FD)
        while not self.closed:
            taken = 0
            until = time.monotonic() + AT_ONCE_S
            while taken < AT_ONCE and not self.closed and self._readable():
                try:
                    frames = self._read()
                except zmq.Again:
                    break
                taken += 1
                try:
                    self._receive(frames)
                except Exception:
                    self._complain()
                if time.monotonic() >= until:
                    break
            if self.closed:
                return
            if taken == AT_ONCE or self._readable():
                yield 0
            else:
                yield Select([fd], [], [], LOOK_AGAIN_S)
