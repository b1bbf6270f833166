"""Raw OpenFlow messages of one connection, the same way under POX and under the stand-in.

POX parses each message into objects (a packet-in for 12 us, a flow statistics reply for
milliseconds), ends the connection where it cannot, and shows a component neither vendor messages
nor vendor statistics. `tap` goes in front of that: it uses the lists `connection.unpackers` and
`connection.handlers`, which both cores look into for every message. What the receiver does not
take goes the usual way, so that other components see it. docs/pox.md has the whole story.

Called by the component at ConnectionUp, from the core's thread. Imports neither POX nor the
component.
"""

from __future__ import annotations

import logging
import struct
import sys
from collections.abc import Callable
from typing import Any

log = logging.getLogger("openflow_tap")

OFPT_ERROR = 1
OFPT_VENDOR = 4
OFPT_FEATURES_REPLY = 6
OFPT_PACKET_IN = 10
OFPT_FLOW_REMOVED = 11
OFPT_PORT_STATUS = 12
OFPT_STATS_REPLY = 17
OFPT_BARRIER_REPLY = 19

HEADER = 8
"""Octets of an OpenFlow header, the shortest message."""

# POX counts its own transaction ids from 1 to 0x7fffffff, and so does the stand-in.
FIRST_XID = 0x8000_0000
LAST_XID = 0xFFFF_FFFF

Receiver = Callable[[Any, bytes], object]

_length_at = struct.Struct("!H").unpack_from


def tap(connection: Any, message_type: int, receive: Receiver) -> None:
    """Let `receive(connection, raw)` see each message of a type before all others do.

    `raw` is the whole message, its 8-byte header included, as bytes. A true answer takes the
    message; any other lets the core and the other components have it. What `receive` raises is
    logged, and counts as taken. The latest tap of a type is asked first.

    Holds for this connection only: call it at each ConnectionUp.  What came before that, a port's
    change during the handshake, the core shows afterwards as an object of its own: that goes the
    usual way, and whoever needs it asks the switch again.
    """
    unpackers = connection.unpackers = list(connection.unpackers)
    handlers = connection.handlers = list(connection.handlers)
    usual_unpack = unpackers[message_type]
    usual_handle = handlers[message_type]

    def unpack(buffer: bytes, offset: int) -> tuple[int, bytes]:
        length = _length_at(buffer, offset + 2)[0]
        if length < HEADER:  # POX would never get past it
            raise ValueError(f"no OpenFlow: a message of length {length}")
        return offset + length, buffer[offset : offset + length]

    def handle(con: Any, raw: Any) -> None:
        if not isinstance(raw, bytes):
            usual_handle(con, raw)
            return
        try:
            if receive(con, raw):
                return
        except Exception:
            log.exception("%s Exception in the receiver of messages of type %d", con, message_type)
            return
        try:
            message = usual_unpack(raw, 0)[1]
        except Exception as error:
            log.warning("%s message of type %d not understood: %r", con, message_type, error)
            return
        usual_handle(con, message)

    unpackers[message_type] = unpack
    handlers[message_type] = handle


def instead(connection: Any, raw: bytes) -> None:
    """Let the core and the other components have a message in place of one that was taken."""
    message = connection.unpackers[raw[1]](raw, 0)[1]
    connection.handlers[raw[1]](connection, message)


def unsent_bytes(connection: Any) -> int:
    """Roughly how many bytes sent to a connection are still in this process.

    What the kernel's socket buffer holds does not count. Under POX the count is in pieces of
    4,096 bytes.
    """
    try:
        return int(connection.unsent_bytes)
    except AttributeError:
        pass
    of_01 = sys.modules.get("pox.openflow.of_01")
    sender = getattr(of_01, "deferredSender", None)
    if sender is None:
        return 0
    with sender._lock:
        return 4096 * len(sender._dataForConnection.get(connection, ()))
