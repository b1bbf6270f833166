"""What is said on xenstored's socket: requests, replies and watch events as bytes.

The format is Xen's (xen/include/public/io/xs_wire.h; docs/misc/xenstore.txt): a header of four
32-bit words in the machine's own order, then at most 4096 octets, texts ended by NUL.  Pure; used
by `xenflow.xenstore`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

HEADER = struct.Struct("=IIII")
"""Type, request, transaction (0: none), length of what follows."""
MAX_PAYLOAD = 4096


class Type(IntEnum):
    """Those of the message types that are used here."""

    DIRECTORY = 1
    READ = 2
    WATCH = 4
    UNWATCH = 5
    WATCH_EVENT = 15
    ERROR = 16


class WireError(ValueError):
    """What came is not xenstored's format."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `texts` are its payload's parts."""

    type: int
    request: int
    payload: bytes

    @property
    def texts(self) -> list[str]:
        """The payload's parts, without the NUL that may stand at the end."""
        shown = self.payload.removesuffix(b"\0")
        return [part.decode(errors="replace") for part in shown.split(b"\0")] if shown else []

    @property
    def text(self) -> str:
        """The payload as one text, as a value is."""
        return self.payload.rstrip(b"\0").decode(errors="replace")


def pack(type_: Type, request: int, *texts: str) -> bytes:
    """A request.  Raises WireError where it is too long."""
    payload = b"".join(text.encode() + b"\0" for text in texts)
    if len(payload) > MAX_PAYLOAD:
        raise WireError(f"{len(payload)} octets: {MAX_PAYLOAD} at most")
    return HEADER.pack(type_, request, 0, len(payload)) + payload


def split(data: bytes | bytearray) -> tuple[list[Message], int]:
    """The whole messages at the beginning of what was read, and how many octets they take.

    Raises WireError.
    """
    found: list[Message] = []
    at = 0
    while len(data) - at >= HEADER.size:
        type_, request, _, length = HEADER.unpack_from(data, at)
        if length > MAX_PAYLOAD:
            raise WireError(f"a message of {length} octets: {MAX_PAYLOAD} at most")
        end = at + HEADER.size + length
        if end > len(data):
            break
        found.append(Message(type_, request, bytes(data[at + HEADER.size : end])))
        at = end
    return found, at
