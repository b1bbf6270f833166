"""xenstore's wire format: requests packed, answers and watch events read.

The same on xenstored's Unix socket and on /dev/xen/xenbus.  Used by the controller
(`xenstore`) and by `mgmt.hypervisor.dom0_agent`, which is sent as text to a Domain 0 where
no XenFlow needs to be: nothing is imported that is not in the standard library.  Does no input or
output.

Source: xen/include/public/io/xs_wire.h and docs/misc/xenstore.txt of Xen 4.17.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

DIRECTORY = 1
READ = 2
WATCH = 4
UNWATCH = 5
WATCH_EVENT = 15
ERROR = 16
MAX_PAYLOAD = 4096

_HEADER = Struct("=IIII")  # type, request id, transaction id, length of the payload


class XenstoreError(Exception):
    """The other side does not speak xenstore's protocol."""


class XenstoreMessage(NamedTuple):
    """An answer, or a watch event.  `payload` is without the NUL at its end."""

    type: int
    request: int
    payload: str

    @property
    def parts(self) -> tuple[str, ...]:
        """The NUL-separated words: of a watch event the path and the watch's token."""
        return tuple(self.payload.split("\0"))


def request(type: int, id: int, *words: str) -> bytes:
    """A request outside any transaction.  Raises ValueError where it is too long."""
    payload = b"".join(word.encode() + b"\0" for word in words)
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a xenstore request of {len(payload)} bytes: at most {MAX_PAYLOAD}")
    return _HEADER.pack(type, id, 0, len(payload)) + payload


class XenstoreReader:
    """Puts messages together from what a socket gives."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> list[XenstoreMessage]:
        """The messages that are whole now.  Raises XenstoreError on what cannot be one."""
        self._bytes += data
        found: list[XenstoreMessage] = []
        while len(self._bytes) >= _HEADER.size:
            type, id, _, length = _HEADER.unpack_from(self._bytes)
            if length > MAX_PAYLOAD:
                raise XenstoreError(f"a message of {length} bytes: at most {MAX_PAYLOAD}")
            end = _HEADER.size + length
            if len(self._bytes) < end:
                break
            payload = self._bytes[_HEADER.size : end].decode(errors="replace")
            found.append(XenstoreMessage(type, id, payload.removesuffix("\0")))
            self._bytes = self._bytes[end:]
        return found
