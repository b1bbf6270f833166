"""What all OpenFlow 1.0 messages have in common: header, types, the Nicira extensions' envelope.

Nothing in the modules of messages (`build`, `parse`, `statistics`, `monitor`) keeps state between
messages, and what parses raises WireError and nothing else.

Sources: OpenFlow Switch Specification 1.0.0, section 5 (by number below); Open vSwitch,
include/openflow/nicira-ext.h.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from xenflow.openflow.flow import Actions, Flow, FlowError, Match

VERSION = 1
HEADER_LEN = 8
ALL_TABLES = 0xFF
NO_BUFFER = 0xFFFFFFFF
NX_VENDOR = 0x00002320


class WireError(ValueError):
    """Bytes from a switch that are no valid OpenFlow; the message says what and where."""


class MessageType(IntEnum):
    """ofp_type (5.1)."""

    HELLO = 0
    ERROR = 1
    ECHO_REQUEST = 2
    ECHO_REPLY = 3
    VENDOR = 4
    FEATURES_REQUEST = 5
    FEATURES_REPLY = 6
    GET_CONFIG_REQUEST = 7
    GET_CONFIG_REPLY = 8
    SET_CONFIG = 9
    PACKET_IN = 10
    FLOW_REMOVED = 11
    PORT_STATUS = 12
    PACKET_OUT = 13
    FLOW_MOD = 14
    PORT_MOD = 15
    STATS_REQUEST = 16
    STATS_REPLY = 17
    BARRIER_REQUEST = 18
    BARRIER_REPLY = 19


class FlowModCommand(IntEnum):
    """ofp_flow_mod_command (5.3.3)."""

    ADD = 0
    MODIFY = 1
    MODIFY_STRICT = 2
    DELETE = 3
    DELETE_STRICT = 4


NXT_SET_FLOW_FORMAT, NXT_FLOW_MOD, NXT_FLOW_REMOVED, NXT_FLOW_MOD_TABLE_ID = 12, 13, 14, 15
NXT_SET_PACKET_IN_FORMAT, NXT_PACKET_IN = 16, 17

STATS_VENDOR = 0xFFFF
"""ofp_stats_types: a vendor's own."""

HEADER = struct.Struct("!BBHI")
NX_HEADER = struct.Struct("!BBHIII")
NX_FLOW_MOD = struct.Struct("!QHHHHIHHH6x")
"""An NXT_FLOW_MOD after its header, before its match."""


class Other(NamedTuple):
    """A message this project has no use for: its type and what follows the header."""

    xid: int
    type: int
    data: bytes


def message(kind: MessageType, body: bytes = b"", xid: int = 0) -> bytes:
    """A message: header and body (5.1)."""
    return HEADER.pack(VERSION, kind, HEADER_LEN + len(body), xid) + body


def vendor(subtype: int, body: bytes, xid: int) -> bytes:
    """A message of Nicira's (nicira-ext.h, nicira_header)."""
    head = NX_HEADER.pack(VERSION, MessageType.VENDOR, 16 + len(body), xid, NX_VENDOR, subtype)
    return head + body


def stats_request(kind: int, body: bytes, xid: int) -> bytes:
    """OFPT_STATS_REQUEST (5.3.5), without flags."""
    return message(MessageType.STATS_REQUEST, struct.pack("!HH", kind, 0) + body, xid)


def split(buffer: bytes) -> tuple[list[bytes], bytes]:
    """Cut a stream into whole messages and the rest.

    Raises WireError where a header's length is below 8: such a stream cannot be followed.
    """
    messages = []
    at = 0
    end = len(buffer)
    while at + HEADER_LEN <= end:
        length = buffer[at + 2] << 8 | buffer[at + 3]
        if length < HEADER_LEN:
            raise WireError(f"stream at byte {at}: a message of {length} bytes")
        if at + length > end:
            break
        messages.append(buffer[at : at + length])
        at += length
    return messages, buffer[at:]


def string(data: bytes) -> str:
    """What a field of fixed size says, up to its first 0."""
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")


def flow_of(
    table: int, priority: int, what: Match, actions: Actions, cookie: int, idle: int, hard: int
) -> Flow:
    """A flow as a switch has told it; WireError where it is none."""
    try:
        return Flow(table, priority, what, actions, cookie, idle, hard)
    except FlowError as error:
        raise WireError(f"flow: {error}") from None
