"""ZeroMQ's wire protocol, one side of one connection, without I/O: ZMTP 3.1, mechanism NULL.

The Rule Table speaks it to virtual routers itself, because of what libzmq cannot do: read no more
from a connection for a while (zeromq/libzmq issues 4364 and 4841), and bound a message of many
frames.  What a router says stays in its own kernel until there is room here, and a `ZmtpConnection`
keeps no more than one message and one piece of input.

Source: rfc.zeromq.org/spec/37 (ZMTP 3.1).  Called by `router_sockets`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

GREETING_BYTES = 64
SIGNATURE_BYTES = 10
GREETING = struct.pack("!B7xBBBB20sB31x", 0xFF, 1, 0x7F, 3, 1, b"NULL", 0)
"""Signature, version 3.1, mechanism, as-server; section "Grammar"."""
MORE, LONG, COMMAND = 1, 2, 4
"""Bits of a frame's first octet; the others are 0."""
MAX_COMMAND = 1024
"""Octets in a command: READY has a handful of properties, PING at most 16 octets of context."""

MAX_COMMANDS = 64
"""In one piece of input: a peer has a handful to say in all, and a PING every few seconds."""


class ZmtpError(ValueError):
    """The peer does not speak ZMTP 3, or says more at once than it may."""


def frame(body: bytes, more: bool = False, command: bool = False) -> bytes:
    """One frame with its header."""
    flags = (MORE if more else 0) | (COMMAND if command else 0)
    if len(body) > 255:
        return struct.pack("!BQ", flags | LONG, len(body)) + body
    return bytes((flags, len(body))) + body


def message(frames: Sequence[bytes]) -> bytes:
    """One message of one or more frames."""
    last = len(frames) - 1
    return b"".join(frame(body, more=i < last) for i, body in enumerate(frames))


def ready(socket_type: bytes) -> bytes:
    """The NULL mechanism's only command."""
    name = b"Socket-Type"
    properties = bytes((len(name),)) + name + struct.pack("!I", len(socket_type)) + socket_type
    return frame(b"\5READY" + properties, command=True)


PONG = frame(b"\4PONG", command=True)
"""Without a PING before it: libzmq takes whatever comes as a sign of life (4.3.5, tried)."""


class ZmtpConnection:
    """What one peer sends; `opening` is what it must be told first.

    max_bytes    octets in one message, all frames together
    max_frames   frames in one message
    """

    def __init__(self, socket_type: bytes, max_bytes: int, max_frames: int) -> None:
        self.opening = GREETING + ready(socket_type)
        self.established = False
        """Whether the peer has said READY."""
        self._max_bytes = max_bytes
        self._max_frames = max_frames
        self._input = bytearray()
        self._greeted = False
        self._frames: list[bytes] = []
        self._octets = 0
        self._answers: list[bytes] = []
        self._commands = 0

    def feed(self, data: bytes) -> None:
        """Take a piece of what came."""
        self._input += data
        self._commands = 0

    def answers(self) -> bytes:
        """What must be sent now: PONGs.  Asked for after `messages`."""
        answers, self._answers = b"".join(self._answers), []
        return answers

    @property
    def buffered(self) -> int:
        """Octets that are kept: input not yet looked at, and a message that is not complete."""
        return len(self._input) + self._octets

    def messages(self) -> Iterator[list[bytes]]:
        """The messages that are complete, one after the other; each is taken out of the input
        only when it is asked for.

        Raises ZmtpError where the connection must be closed.
        """
        if not self._greeted and not self._take_greeting():
            return
        while (found := self._next_frame()) is not None:
            flags, body = found
            if flags & COMMAND:
                self._command(body)
                continue
            if not self.established:
                raise ZmtpError("a message before READY")
            self._frames.append(body)
            self._octets += len(body)
            if not flags & MORE:
                whole, self._frames, self._octets = self._frames, [], 0
                yield whole

    def _take_greeting(self) -> bool:
        got = self._input
        if (got and got[0] != 0xFF) or (len(got) >= SIGNATURE_BYTES and got[9] != 0x7F):
            raise ZmtpError("no ZeroMQ")
        if len(got) > SIGNATURE_BYTES and got[10] < 3:
            raise ZmtpError(f"ZMTP {got[10]}, not 3")
        if len(got) < GREETING_BYTES:
            return False
        if bytes(got[12:32]).rstrip(b"\0") != b"NULL":
            raise ZmtpError(f"mechanism {bytes(got[12:32])!r}, not NULL")
        del got[:GREETING_BYTES]
        self._greeted = True
        return True

    def _next_frame(self) -> tuple[int, bytes] | None:
        got = self._input
        if len(got) < 2:
            return None
        flags = got[0]
        if flags & ~(MORE | LONG | COMMAND) or (flags & COMMAND and flags & MORE):
            raise ZmtpError(f"flags {flags:#04x}")
        if flags & LONG:
            if len(got) < 9:
                return None
            start, size = 9, int.from_bytes(got[1:9], "big")
        else:
            start, size = 2, got[1]
        # Before it is awaited: what is too large is never kept.
        if flags & COMMAND:
            if size > MAX_COMMAND:
                raise ZmtpError(f"a command of {size} octets")
        elif self._octets + size > self._max_bytes or len(self._frames) >= self._max_frames:
            raise ZmtpError(
                f"a message of more than {self._max_bytes} octets or {self._max_frames} frames"
            )
        if len(got) < start + size:
            return None
        body = bytes(got[start : start + size])
        del got[: start + size]
        return flags, body

    def _command(self, body: bytes) -> None:
        self._commands += 1
        if self._commands > MAX_COMMANDS:
            raise ZmtpError(f"more than {MAX_COMMANDS} commands at once")
        name = body[1 : 1 + body[0]] if body else b""
        if name == b"READY":
            self.established = True
        elif name == b"PING":
            self._answers.append(frame(b"\4PONG" + body[7:], command=True))
        elif name == b"ERROR":
            raise ZmtpError("the peer refuses the connection")
