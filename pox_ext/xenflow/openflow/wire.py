"""OpenFlow 1.0 messages with the Nicira extensions: built as bytes, parsed into values.

The component calls the builders, sends what they return, cuts what it receives with `split` and
hands each message to `parse` (or to `parse_packet_in` where speed counts).  `RoutePacker` and
`ExactFlowPacker` build the two flows that come in great numbers from precompiled structs.

Nothing here keeps state between messages, and no parser raises anything but WireError.

Sources: OpenFlow Switch Specification 1.0.0, section 5 (by number below); Open vSwitch,
include/openflow/nicira-ext.h and include/openvswitch/ofp-errors.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from enum import IntEnum
from itertools import groupby
from typing import Any, NamedTuple

from xenflow.openflow import flow as fl
from xenflow.openflow import packet as pk
from xenflow.openflow.flow import Actions, Flow, FlowError, Match
from xenflow.openflow.nxm import (
    MATCH10_LEN,
    NX_VENDOR,
    OPENFLOW10_ACTIONS,
    WireError,
    pack_action,
    pack_actions,
    pack_match,
    pack_match10,
    pad8,
    parse_actions,
    parse_match,
    parse_match10,
)
from xenflow.openflow.route_columns import RouteColumns

__all__ = [
    "ALL_TABLES",
    "MONITOR_ADD",
    "MONITOR_DELETE",
    "MONITOR_MODIFY",
    "Aggregate",
    "BarrierReply",
    "Command",
    "ConfigReply",
    "Desc",
    "EchoReply",
    "EchoRequest",
    "ErrorMessage",
    "ExactFlowPacker",
    "FeaturesReply",
    "FlowRemoved",
    "FlowStats",
    "FlowUpdate",
    "FlowUpdates",
    "Hello",
    "Message",
    "Other",
    "PacketIn",
    "Port",
    "PortStats",
    "PortStatus",
    "RoutePacker",
    "RouteUpdate",
    "StatsReply",
    "TableStats",
    "UpdateEvent",
    "WireError",
    "aggregate_request",
    "aggregate_request_of10",
    "barrier_request",
    "delete_by_cookie",
    "delete_matching",
    "desc_request",
    "echo_reply",
    "echo_request",
    "enable_table_id",
    "features_request",
    "flow_mod",
    "flow_mod_of10",
    "flow_monitor_cancel",
    "flow_monitor_request",
    "flow_stats",
    "flow_stats_request",
    "flow_stats_request_of10",
    "get_config_request",
    "hello",
    "is_flow_updates",
    "pack_actions",
    "packet_out",
    "parse",
    "parse_flow_mod",
    "parse_packet_in",
    "port_stats_request",
    "set_config",
    "set_flow_format_nxm",
    "split",
    "table_stats_request",
]

VERSION = 1
HEADER_LEN = 8
MATCH10 = slice(8, 48)
"""Where the ofp_match of an OFPT_FLOW_MOD stands (5.3.3)."""
ALL_TABLES = 0xFF
NO_BUFFER = 0xFFFFFFFF
_KEEP_COOKIE = 0xFFFFFFFFFFFFFFFF


class Type(IntEnum):
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


class UpdateEvent(IntEnum):
    """enum nx_flow_update_event (nicira-ext.h)."""

    ADDED = 0
    DELETED = 1
    MODIFIED = 2


class Command(IntEnum):
    """ofp_flow_mod_command (5.3.3)."""

    ADD = 0
    MODIFY = 1
    MODIFY_STRICT = 2
    DELETE = 3
    DELETE_STRICT = 4


_NXT_SET_FLOW_FORMAT, _NXT_FLOW_MOD, _NXT_FLOW_REMOVED, _NXT_FLOW_MOD_TABLE_ID = 12, 13, 14, 15
_STATS_DESC, _STATS_FLOW, _STATS_AGGREGATE, _STATS_TABLE = 0, 1, 2, 3
_STATS_PORT, _STATS_VENDOR = 4, 0xFFFF
_NXT_FLOW_MONITOR_CANCEL = 21
_NXST_FLOW, _NXST_AGGREGATE, _NXST_FLOW_MONITOR = 0, 1, 2
_NXFME_ABBREV = 3
_REPLY_MORE = 1

_HEADER = struct.Struct("!BBHI")
_NX_HEADER = struct.Struct("!BBHIII")
_NX_FLOW_MOD = struct.Struct("!BBHIIIQHHHHIHHH6x")
_FLOW_MOD_TAIL = struct.Struct("!QHHHHIHH")
_PACKET_OUT = struct.Struct("!BBHIIHH")
_NX_STATS_REQUEST = struct.Struct("!BBHIHHII4xHHB3x")
_UPDATES_HEAD = struct.pack("!II", NX_VENDOR, _NXST_FLOW_MONITOR)
_NX_FLOW_UPDATE = struct.Struct("!HHHHHHHBxQ")
_UPDATES_AT = 24
_UPDATED = {
    14: struct.Struct("!IHII"),
    22: struct.Struct("!IHIIII"),
    26: struct.Struct("!IHIIIII"),
}
"""The matches of routes as Open vSwitch puts them: Ethernet type, prefix, register 1."""
_NX_FLOW_STATS = struct.Struct("!HBxIIHHHHHHQQQ")
_FLOW_STATS10_TAIL = struct.Struct("!IIHHH6xQQQ")
_PACKET_IN = struct.Struct("!BBHIIHHBx")
_FLOW_REMOVED10_TAIL = struct.Struct("!QHBxIIH2xQQ")
_NX_FLOW_REMOVED = struct.Struct("!QHBBIIHHQQ")
_PORT = struct.Struct("!H6s16sIIIIII")
_FEATURES = struct.Struct("!QIB3xII")
_PORT_STATS = struct.Struct("!H6x12Q")
_AGGREGATE = struct.Struct("!QQI4x")
_TABLE_STATS = struct.Struct("!B3x32xIIIQQ")
_DESC = struct.Struct("!256s256s256s32s256s")


# --------------------------------------------------------------------------------------------
# To the switch


def _message(kind: Type, body: bytes = b"", xid: int = 0) -> bytes:
    return _HEADER.pack(VERSION, kind, HEADER_LEN + len(body), xid) + body


def hello(xid: int = 0) -> bytes:
    """OFPT_HELLO (5.5.1), offering version 1.0."""
    return _message(Type.HELLO, xid=xid)


def echo_request(data: bytes = b"", xid: int = 0) -> bytes:
    """OFPT_ECHO_REQUEST (5.5.2)."""
    return _message(Type.ECHO_REQUEST, data, xid)


def echo_reply(data: bytes = b"", xid: int = 0) -> bytes:
    """OFPT_ECHO_REPLY (5.5.3): `data` and `xid` are the request's."""
    return _message(Type.ECHO_REPLY, data, xid)


def features_request(xid: int = 0) -> bytes:
    """OFPT_FEATURES_REQUEST (5.3.1)."""
    return _message(Type.FEATURES_REQUEST, xid=xid)


def get_config_request(xid: int = 0) -> bytes:
    """OFPT_GET_CONFIG_REQUEST (5.3.2)."""
    return _message(Type.GET_CONFIG_REQUEST, xid=xid)


def set_config(miss_send_len: int = 0xFFFF, flags: int = 0, xid: int = 0) -> bytes:
    """OFPT_SET_CONFIG (5.3.2): bytes of a missed packet to send; flags 0 leaves fragments be."""
    return _message(Type.SET_CONFIG, struct.pack("!HH", flags, miss_send_len), xid)


def barrier_request(xid: int) -> bytes:
    """OFPT_BARRIER_REQUEST (5.3.7)."""
    return _message(Type.BARRIER_REQUEST, xid=xid)


def packet_out(
    data: bytes, actions: Actions | bytes, in_port: int = fl.PORT_NONE, xid: int = 0
) -> bytes:
    """OFPT_PACKET_OUT (5.3.6): the frame `data`, not a buffer, through `actions`.

    `actions` may be bytes from pack_actions().  Raises FlowError where the message would exceed
    65,535 bytes.
    """
    packed = actions if isinstance(actions, bytes) else pack_actions(actions)
    length = 16 + len(packed) + len(data)
    if length > 0xFFFF:
        raise FlowError(f"packet_out: a frame of {len(data)} bytes does not fit in a message")
    head = _PACKET_OUT.pack(VERSION, Type.PACKET_OUT, length, xid, NO_BUFFER, in_port, len(packed))
    return head + packed + data


def _vendor(subtype: int, body: bytes, xid: int) -> bytes:
    head = _NX_HEADER.pack(VERSION, Type.VENDOR, 16 + len(body), xid, NX_VENDOR, subtype)
    return head + body


def enable_table_id(xid: int = 0) -> bytes:
    """NXT_FLOW_MOD_TABLE_ID: from now on `command` carries the table (what flow_mod() needs)."""
    return _vendor(_NXT_FLOW_MOD_TABLE_ID, struct.pack("!B7x", 1), xid)


def set_flow_format_nxm(xid: int = 0) -> bytes:
    """NXT_SET_FLOW_FORMAT: flows removed are reported as NXT_FLOW_REMOVED."""
    return _vendor(_NXT_SET_FLOW_FORMAT, struct.pack("!I", 2), xid)


def flow_mod(flow: Flow, command: Command = Command.ADD, xid: int = 0) -> bytes:
    """NXT_FLOW_MOD; the switch must have seen enable_table_id().

    A deletion carries no actions.  Raises FlowError where the message would exceed 65,535 bytes;
    for a modification to cookie 2**64 - 1, which a switch reads as "leave the cookie"; and for a
    flow that writes ARP fields without matching arp_op: Open vSwitch's userspace datapath would
    write beyond the end of a truncated frame, and a guest could end the switch.
    """
    if flow.cookie == _KEEP_COOKIE and command in (Command.MODIFY, Command.MODIFY_STRICT):
        raise FlowError(f"cookie: {flow.cookie:#x} in a modification leaves the cookie as it is")
    packed = pack_match(flow.match)
    match_len = len(packed)
    packed += bytes(-match_len % 8)
    if command < Command.DELETE:
        _refuse_arp_overflow(flow)
        packed += pack_actions(flow.actions)
    length = 48 + len(packed)
    if length > 0xFFFF:
        raise FlowError(f"flow_mod: {len(flow.actions)} actions do not fit in a message")
    head = _NX_FLOW_MOD.pack(
        VERSION,
        Type.VENDOR,
        length,
        xid,
        NX_VENDOR,
        _NXT_FLOW_MOD,
        flow.cookie,
        flow.table << 8 | command,
        flow.idle_timeout,
        flow.hard_timeout,
        flow.priority,
        NO_BUFFER,
        fl.PORT_NONE,
        flow.flags,
        match_len,
    )
    return head + packed


def _refuse_arp_overflow(flow: Flow) -> None:
    for action in flow.actions:
        kind = action[0]
        target = action[1] if kind == "load" else action[3] if kind == "move" else ""
        if target[:4] == "arp_" and not any(
            name == "arp_op" and value and mask is None for name, value, mask in flow.match
        ):
            raise FlowError(f"{target}: written by a flow that does not match arp_op (not 0)")


def delete_by_cookie(
    table: int, cookie: int, mask: int = 0xFFFFFFFFFFFFFFFF, xid: int = 0
) -> bytes:
    """NXT_FLOW_MOD that deletes every flow of `table` (ALL_TABLES: of all) with this cookie."""
    return delete_matching(table, (), cookie, mask, xid)


def delete_matching(table: int, what: Match, cookie: int, mask: int, xid: int = 0) -> bytes:
    """NXT_FLOW_MOD that deletes the flows of `table` with this cookie and a match under `what`.

    Those go whose cookie agrees under `mask` and whose match is `what` or narrower.
    """
    packed = pack_match(what, cookie, mask)
    match_len = len(packed)
    packed += bytes(-match_len % 8)
    head = _NX_FLOW_MOD.pack(
        VERSION,
        Type.VENDOR,
        48 + len(packed),
        xid,
        NX_VENDOR,
        _NXT_FLOW_MOD,
        0,
        table << 8 | Command.DELETE,
        0,
        0,
        0,
        NO_BUFFER,
        fl.PORT_NONE,
        0,
        match_len,
    )
    return head + packed


def flow_mod_of10(flow: Flow, command: Command = Command.ADD, xid: int = 0) -> bytes:
    """OFPT_FLOW_MOD (5.3.3), for a switch that knows OpenFlow 1.0 alone.

    Raises FlowError for another table than 0, a match beyond the twelve fields, or an action
    that is Nicira's.
    """
    if flow.table:
        raise FlowError(f"table: OpenFlow 1.0 flows go into table 0, not {flow.table}")
    packed = b""
    if command < Command.DELETE:
        for action in flow.actions:
            if action[0] not in OPENFLOW10_ACTIONS:
                raise FlowError(f"{fl.action_text(action)}: OpenFlow 1.0 has no such action")
        packed = pack_actions(flow.actions)
    return _flow_mod10(flow, command, packed, xid)


def _flow_mod10(flow: Flow, command: Command, actions: bytes, xid: int) -> bytes:
    tail = _FLOW_MOD_TAIL.pack(
        flow.cookie,
        command,
        flow.idle_timeout,
        flow.hard_timeout,
        flow.priority,
        NO_BUFFER,
        fl.PORT_NONE,
        flow.flags,
    )
    if MATCH10_LEN + 32 + len(actions) > 0xFFFF:
        raise FlowError(f"flow_mod: {len(flow.actions)} actions do not fit in a message")
    return _message(Type.FLOW_MOD, pack_match10(flow.match) + tail + actions, xid)


def _nx_stats_request(
    subtype: int, table: int, cookie: int, cookie_mask: int, what: Match, xid: int
) -> bytes:
    packed = pack_match(what, cookie, cookie_mask)
    match_len = len(packed)
    packed += bytes(-match_len % 8)
    head = _NX_STATS_REQUEST.pack(
        VERSION,
        Type.STATS_REQUEST,
        32 + len(packed),
        xid,
        _STATS_VENDOR,
        0,
        NX_VENDOR,
        subtype,
        fl.PORT_NONE,
        match_len,
        table,
    )
    return head + packed


def flow_stats_request(
    table: int = ALL_TABLES,
    cookie: int = 0,
    cookie_mask: int = 0,
    match: Match = (),
    xid: int = 0,
) -> bytes:
    """NXST_FLOW request: flows of `table` with this cookie under `cookie_mask` and this match.

    A flow answers whose match is `match` or narrower.
    """
    return _nx_stats_request(_NXST_FLOW, table, cookie, cookie_mask, match, xid)


def aggregate_request(
    table: int = ALL_TABLES,
    cookie: int = 0,
    cookie_mask: int = 0,
    match: Match = (),
    xid: int = 0,
) -> bytes:
    """NXST_AGGREGATE request: packets, bytes and number of the flows flow_stats_request() asks."""
    return _nx_stats_request(_NXST_AGGREGATE, table, cookie, cookie_mask, match, xid)


def _stats_request(kind: int, body: bytes, xid: int) -> bytes:
    return _message(Type.STATS_REQUEST, struct.pack("!HH", kind, 0) + body, xid)


def flow_stats_request_of10(match: Match = (), table: int = ALL_TABLES, xid: int = 0) -> bytes:
    """OFPST_FLOW request (5.3.5)."""
    body = pack_match10(match) + struct.pack("!BxH", table, fl.PORT_NONE)
    return _stats_request(_STATS_FLOW, body, xid)


def aggregate_request_of10(match: Match = (), table: int = ALL_TABLES, xid: int = 0) -> bytes:
    """OFPST_AGGREGATE request (5.3.5)."""
    body = pack_match10(match) + struct.pack("!BxH", table, fl.PORT_NONE)
    return _stats_request(_STATS_AGGREGATE, body, xid)


MONITOR_ADD, MONITOR_DELETE, MONITOR_MODIFY = 2, 4, 8
_MONITOR_ACTIONS = 16
"""enum nx_flow_monitor_flags (nicira-ext.h), without INITIAL and OWN."""


def flow_monitor_request(monitor: int, table: int, flags: int, xid: int = 0) -> bytes:
    """NXST_FLOW_MONITOR request: tell what happens to the flows of `table` from now on.

    `flags` are MONITOR_ bits.  What this connection itself does comes as its transaction id only.
    """
    body = struct.pack("!IHHHB5x", monitor, flags | _MONITOR_ACTIONS, fl.PORT_NONE, 0, table)
    head = struct.pack("!II4x", NX_VENDOR, _NXST_FLOW_MONITOR)
    return _stats_request(_STATS_VENDOR, head + body, xid)


def flow_monitor_cancel(monitor: int, xid: int = 0) -> bytes:
    """NXT_FLOW_MONITOR_CANCEL: tell no more."""
    return _vendor(_NXT_FLOW_MONITOR_CANCEL, struct.pack("!I", monitor), xid)


def table_stats_request(xid: int = 0) -> bytes:
    """OFPST_TABLE request (5.3.5): how many flows each table has.  Open vSwitch keeps count, and
    looks at no flow for it."""
    return _stats_request(_STATS_TABLE, b"", xid)


def port_stats_request(port: int = fl.PORT_NONE, xid: int = 0) -> bytes:
    """OFPST_PORT request (5.3.5); PORT_NONE asks for all ports."""
    return _stats_request(_STATS_PORT, struct.pack("!H6x", port), xid)


def desc_request(xid: int = 0) -> bytes:
    """OFPST_DESC request (5.3.5)."""
    return _stats_request(_STATS_DESC, b"", xid)


# --------------------------------------------------------------------------------------------
# From the switch


class Hello(NamedTuple):
    """The highest version the peer speaks (1 is OpenFlow 1.0)."""

    xid: int
    version: int


class EchoRequest(NamedTuple):
    """To be answered with echo_reply(data, xid)."""

    xid: int
    data: bytes


class EchoReply(NamedTuple):
    """Carries what the request carried."""

    xid: int
    data: bytes


class BarrierReply(NamedTuple):
    """All messages before the request are processed; which does not mean: in force."""

    xid: int


class ConfigReply(NamedTuple):
    """`flags` says how fragments fare (0: as other packets), `miss_send_len` is in bytes."""

    xid: int
    flags: int
    miss_send_len: int


class ErrorMessage(NamedTuple):
    """`data` is at least the first 64 bytes of the message refused; `name` for people."""

    xid: int
    type: int
    code: int
    name: str
    data: bytes


class Port(NamedTuple):
    """ofp_phy_port (5.2.1); `mac` is a 48-bit int, the rest bitmaps as in the specification."""

    number: int
    mac: int
    name: str
    config: int
    state: int
    current: int
    advertised: int
    supported: int
    peer: int

    @property
    def up(self) -> bool:
        """Neither administratively down (OFPPC_PORT_DOWN) nor without link (OFPPS_LINK_DOWN)."""
        return not (self.config | self.state) & 1


class FeaturesReply(NamedTuple):
    """The switch: `dpid` 64 bits, bitmaps as in the specification (5.3.1), its ports."""

    xid: int
    dpid: int
    n_buffers: int
    n_tables: int
    capabilities: int
    actions: int
    ports: tuple[Port, ...]


class PacketIn(NamedTuple):
    """`total_len` is the frame's length, of which `data` may be the beginning only."""

    xid: int
    buffer_id: int
    total_len: int
    in_port: int
    reason: int
    data: bytes


class PortStatus(NamedTuple):
    """`reason`: 0 added, 1 deleted, 2 modified."""

    xid: int
    reason: int
    port: Port


class FlowRemoved(NamedTuple):
    """A flow that is gone; `flow` has no actions (the message carries none).

    `reason`: 0 idle timeout, 1 hard timeout, 2 deleted.
    """

    xid: int
    flow: Flow
    reason: int
    duration_s: float
    packets: int
    octets: int


class FlowStats(NamedTuple):
    """One flow as the switch holds it; `idle_age_s` None where the switch does not say."""

    flow: Flow
    packets: int
    octets: int
    duration_s: float
    idle_age_s: int | None


class FlowUpdate(NamedTuple):
    """What somebody else did to a flow, as a flow monitor says.  `event` is one of UpdateEvent;
    `flow` is the flow as it is now, or was, with its actions."""

    event: UpdateEvent
    flow: Flow


class RouteUpdate(NamedTuple):
    """What somebody else did to a route.  `event` as in FlowUpdate; `nexthop` -1: its actions are
    no route's."""

    event: int
    router: int
    net: int
    plen: int
    nexthop: int
    cookie: int


class FlowUpdates(NamedTuple):
    """NXST_FLOW_MONITOR reply (nicira-ext.h).  `own` are the transaction ids of messages of this
    very connection that changed flows; None stands for an update that could not be read."""

    xid: int
    updates: tuple[FlowUpdate, ...]
    own: tuple[int | None, ...]


class PortStats(NamedTuple):
    """Counters of one port (5.3.5); 2**64 - 1 where the switch does not count."""

    port: int
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_dropped: int
    tx_dropped: int
    rx_errors: int
    tx_errors: int
    rx_frame_errors: int
    rx_overrun_errors: int
    rx_crc_errors: int
    collisions: int


class Aggregate(NamedTuple):
    """Packets and bytes of all the flows asked about, and their number."""

    packets: int
    octets: int
    flows: int


class TableStats(NamedTuple):
    """The number of flows in one table (5.3.5, ofp_table_stats)."""

    table: int
    flows: int


class Desc(NamedTuple):
    """The switch in words (5.3.5, ofp_desc_stats)."""

    manufacturer: str
    hardware: str
    software: str
    serial: str
    datapath: str


StatsEntry = FlowStats | PortStats | Aggregate | TableStats | Desc


class StatsReply(NamedTuple):
    """One part of a reply; `more` says that another follows under the same xid."""

    xid: int
    more: bool
    entries: tuple[StatsEntry, ...]


class Other(NamedTuple):
    """A message this project has no use for: its type and what follows the header."""

    xid: int
    type: int
    data: bytes


Message = (
    Hello
    | EchoRequest
    | EchoReply
    | BarrierReply
    | ConfigReply
    | ErrorMessage
    | FeaturesReply
    | PacketIn
    | PortStatus
    | FlowRemoved
    | StatsReply
    | FlowUpdates
    | Other
)

# OpenFlow 1.0.0, 5.4.4, and Open vSwitch's ofp-errors.h for the codes from 256 on.
_ERROR_TYPES = (
    "hello failed",
    "bad request",
    "bad action",
    "flow_mod failed",
    "port_mod failed",
    "queue operation failed",
)
_ERROR_CODES = {
    (0, 0): "incompatible version",
    (0, 1): "not permitted",
    (1, 0): "version not supported",
    (1, 1): "type not supported",
    (1, 2): "statistics type not supported",
    (1, 3): "vendor not supported",
    (1, 4): "vendor subtype not supported",
    (1, 5): "not permitted",
    (1, 6): "wrong length",
    (1, 7): "buffer already used",
    (1, 8): "no such buffer",
    (2, 0): "unknown action",
    (2, 1): "wrong length",
    (2, 2): "unknown vendor",
    (2, 3): "unknown vendor action",
    (2, 4): "bad output port",
    (2, 5): "bad argument",
    (2, 6): "not permitted",
    (2, 7): "too many actions",
    (2, 8): "bad queue",
    (3, 0): "tables full",
    (3, 1): "overlapping flow",
    (3, 2): "not permitted",
    (3, 3): "bad emergency timeout",
    (3, 4): "unknown command",
    (3, 5): "action list not supported",
    (4, 0): "no such port",
    (4, 1): "wrong hardware address",
    (5, 0): "no such port",
    (5, 1): "no such queue",
    (5, 2): "not permitted",
}
_NX_ERROR_TYPE = 0xB0C2
_NX_ERROR_CODES = {
    (0, 263): "unsupported match field",
    (1, 256): "invalid match",
    (1, 257): "unknown match field",
    (1, 258): "unsupported match value",
    (1, 259): "unsupported match mask",
    (1, 260): "match prerequisite not met",
    (1, 261): "match field given twice",
    (1, 262): "unsupported wildcard",
    (1, 512): "no such table",
    (1, 513): "invalid role",
    (1, 514): "no such port",
    (1, 515): "must-be-zero field is not zero",
    (1, 522): "action does not fit the match",
    (1, 523): "action uses an unsupported field",
    (1, 524): "action reaches past its field's end",
    (1, 525): "action sets an invalid value or a read-only field",
    (2, 256): "must-be-zero action argument is not zero",
    (3, 258): "unknown flags",
    (5, 256): "hardware error",
    (5, 257): "no such table",
}


def is_flow_updates(data: bytes) -> bool:
    """Whether a whole message is an NXST_FLOW_MONITOR reply."""
    return data[8:10] == b"\xff\xff" and data[12:20] == _UPDATES_HEAD and data[1] == 17


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


def parse(data: bytes) -> Message:
    """Parse one whole message (as split() cuts them).

    Raises WireError on a version other than 1.0 (but for a hello), or on truncated or
    contradictory contents.  What a controller has no use for comes back as Other.
    """
    if len(data) < HEADER_LEN:
        raise WireError(f"message: {len(data)} bytes, a header has {HEADER_LEN}")
    version, kind, length, xid = _HEADER.unpack_from(data)
    if length != len(data):
        raise WireError(f"message: header says {length} bytes, {len(data)} given")
    if kind == Type.HELLO:
        return Hello(xid, version)
    if version != VERSION:
        raise WireError(f"message: version {version}, not {VERSION} (OpenFlow 1.0)")
    reader = _READERS.get(kind)
    if reader is None:
        return Other(xid, kind, data[HEADER_LEN:])
    least, read = reader
    if length < least:
        raise WireError(f"{Type(kind).name}: {length} bytes, at least {least} needed")
    return read(data, xid)


def packet_in_port(data: bytes) -> int:
    """The in_port of an OFPT_PACKET_IN (5.4.1), whose rest is not looked at; 0, which is no port,
    where it is too short."""
    return int.from_bytes(data[14:16], "big") if len(data) >= 16 else 0


def parse_packet_in(data: bytes) -> PacketIn:
    """Parse an OFPT_PACKET_IN (5.4.1) known to be one by its type byte; WireError if short."""
    try:
        _, _, _, xid, buffer_id, total_len, in_port, reason = _PACKET_IN.unpack_from(data)
    except struct.error:
        raise WireError(f"PACKET_IN: {len(data)} bytes, at least 18 needed") from None
    return PacketIn(xid, buffer_id, total_len, in_port, reason, data[18:])


def parse_flow_mod(data: bytes) -> Flow:
    """The flow of one NXT_FLOW_MOD, as flow_mod() packs it, whatever its command is.

    This is how flows travel between controllers.  Raises WireError where it is anything else.
    """
    if len(data) < 48:
        raise WireError(f"NXT_FLOW_MOD: {len(data)} bytes, at least 48 needed")
    (
        version,
        kind,
        length,
        _,
        vendor,
        subtype,
        cookie,
        command,
        idle,
        hard,
        priority,
        _,
        _,
        flags,
        match_len,
    ) = _NX_FLOW_MOD.unpack_from(data)
    if (version, kind, vendor, subtype) != (VERSION, Type.VENDOR, NX_VENDOR, _NXT_FLOW_MOD):
        raise WireError(f"NXT_FLOW_MOD: version {version}, type {kind}, {vendor:#x}, {subtype}")
    if length != len(data):
        raise WireError(f"NXT_FLOW_MOD: header says {length} bytes, {len(data)} given")
    what = parse_match(data, 48, match_len)
    actions_at = 48 + pad8(match_len)
    if actions_at > length:
        raise WireError(f"NXT_FLOW_MOD: match of {match_len} bytes without its padding")
    actions = parse_actions(data, actions_at, length - actions_at)
    flow = _flow(command >> 8, priority, what, actions, cookie, idle, hard)
    return replace(flow, flags=flags)


def flow_stats(parts: Iterable[StatsReply]) -> list[FlowStats]:
    """All the flows of a reply's parts; WireError where it is about something else."""
    found = []
    for part in parts:
        for entry in part.entries:
            if not isinstance(entry, FlowStats):
                raise WireError(f"STATS_REPLY {part.xid:#x}: {type(entry).__name__}, no flow")
            found.append(entry)
    return found


def _string(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")


def _flow(
    table: int, priority: int, what: Match, actions: Actions, cookie: int, idle: int, hard: int
) -> Flow:
    try:
        return Flow(table, priority, what, actions, cookie, idle, hard)
    except FlowError as error:
        raise WireError(f"flow: {error}") from None


def _read_packet_in(data: bytes, xid: int) -> Message:
    return parse_packet_in(data)


def _read_echo_request(data: bytes, xid: int) -> Message:
    return EchoRequest(xid, data[8:])


def _read_echo_reply(data: bytes, xid: int) -> Message:
    return EchoReply(xid, data[8:])


def _read_barrier_reply(data: bytes, xid: int) -> Message:
    return BarrierReply(xid)


def _read_config(data: bytes, xid: int) -> Message:
    return ConfigReply(xid, *struct.unpack_from("!HH", data, 8))


def _read_error(data: bytes, xid: int) -> Message:
    kind, code = struct.unpack_from("!HH", data, 8)
    rest = data[12:]
    if kind == _NX_ERROR_TYPE and len(rest) >= 8:
        vendor, kind, code = struct.unpack_from("!IHH", rest)
        rest = rest[8:]
        if vendor != NX_VENDOR:
            return ErrorMessage(xid, kind, code, f"vendor {vendor:#x} error {kind}, {code}", rest)
        what = _NX_ERROR_CODES.get((kind, code), f"Nicira code {code}")
    else:
        what = _ERROR_CODES.get((kind, code), f"code {code}")
    group = _ERROR_TYPES[kind] if kind < len(_ERROR_TYPES) else f"error type {kind}"
    return ErrorMessage(xid, kind, code, f"{group}: {what}", rest)


_COOKIE_AT: dict[tuple[int, int], int] = {(Type.VENDOR, 13): 16, (Type.FLOW_MOD, 0): 48}
"""Where the cookie is in an NXT_FLOW_MOD (nicira-ext.h) and in an OFPT_FLOW_MOD (5.3.3)."""


def cookie_of(data: bytes) -> int:
    """The cookie of a flow modification of which this is the beginning (as in an error's `data`);
    0 where it is something else, or too little of it."""
    if len(data) < 16:
        return 0
    vendor = data[1] == Type.VENDOR
    (subtype,) = struct.unpack_from("!I", data, 12) if vendor else (0,)
    at = _COOKIE_AT.get((data[1], subtype))
    if at is None or len(data) < at + 8:
        return 0
    return int.from_bytes(data[at : at + 8], "big")


def _read_port(data: bytes, at: int) -> Port:
    number, mac, name, *bitmaps = _PORT.unpack_from(data, at)
    return Port(number, int.from_bytes(mac, "big"), _string(name), *bitmaps)


def _read_features(data: bytes, xid: int) -> Message:
    dpid, n_buffers, n_tables, capabilities, actions = _FEATURES.unpack_from(data, 8)
    if (len(data) - 32) % _PORT.size:
        raise WireError(f"FEATURES_REPLY: port {(len(data) - 32) // _PORT.size + 1} truncated")
    ports = tuple(_read_port(data, at) for at in range(32, len(data), _PORT.size))
    return FeaturesReply(xid, dpid, n_buffers, n_tables, capabilities, actions, ports)


def _read_port_status(data: bytes, xid: int) -> Message:
    return PortStatus(xid, data[8], _read_port(data, 16))


def _read_flow_removed(data: bytes, xid: int) -> Message:
    what = parse_match10(data, 8)
    tail = _FLOW_REMOVED10_TAIL.unpack_from(data, 8 + MATCH10_LEN)
    cookie, priority, reason, seconds, nanos, idle, packets, octets = tail
    flow = _flow(0, priority, what, (), cookie, idle, 0)
    return FlowRemoved(xid, flow, reason, seconds + nanos / 1e9, packets, octets)


def _read_vendor(data: bytes, xid: int) -> Message:
    vendor, subtype = struct.unpack_from("!II", data, 8)
    if vendor != NX_VENDOR or subtype != _NXT_FLOW_REMOVED:
        return Other(xid, Type.VENDOR, data[8:])
    if len(data) < 16 + _NX_FLOW_REMOVED.size:
        raise WireError(f"NXT_FLOW_REMOVED: {len(data)} bytes, at least 56 needed")
    fields = _NX_FLOW_REMOVED.unpack_from(data, 16)
    cookie, priority, reason, table, seconds, nanos, idle, match_len, packets, octets = fields
    what = parse_match(data, 16 + _NX_FLOW_REMOVED.size, match_len)
    flow = _flow(max(table - 1, 0), priority, what, (), cookie, idle, 0)
    return FlowRemoved(xid, flow, reason, seconds + nanos / 1e9, packets, octets)


def _read_stats(data: bytes, xid: int) -> Message:
    kind, flags = struct.unpack_from("!HH", data, 8)
    more = bool(flags & _REPLY_MORE)
    at = 12
    entries: list[StatsEntry] = []
    if kind == _STATS_VENDOR:
        if len(data) < 24:
            raise WireError(f"STATS_REPLY: {len(data)} bytes, a vendor's has at least 24")
        vendor, subtype = struct.unpack_from("!II", data, 12)
        if vendor == NX_VENDOR and subtype == _NXST_FLOW_MONITOR:
            return _read_flow_updates(data, xid)
        if vendor != NX_VENDOR or subtype not in (_NXST_FLOW, _NXST_AGGREGATE):
            return Other(xid, Type.STATS_REPLY, data[8:])
        if subtype == _NXST_FLOW:
            return StatsReply(xid, more, tuple(_nx_flows(data)))
        entries.append(Aggregate(*_whole(data, 24, _AGGREGATE, "aggregate")))
    elif kind == _STATS_FLOW:
        while at < len(data):
            entry, at = _read_flow_stats10(data, at)
            entries.append(entry)
    elif kind == _STATS_PORT:
        while at < len(data):
            entries.append(PortStats(*_whole(data, at, _PORT_STATS, "port")))
            at += _PORT_STATS.size
    elif kind == _STATS_AGGREGATE:
        entries.append(Aggregate(*_whole(data, at, _AGGREGATE, "aggregate")))
    elif kind == _STATS_TABLE:
        while at < len(data):
            table, _, _, flows, _, _ = _whole(data, at, _TABLE_STATS, "table")
            entries.append(TableStats(table, flows))
            at += _TABLE_STATS.size
    elif kind == _STATS_DESC:
        entries.append(Desc(*map(_string, _whole(data, at, _DESC, "description"))))
    else:
        return Other(xid, Type.STATS_REPLY, data[8:])
    return StatsReply(xid, more, tuple(entries))


def _whole(data: bytes, at: int, form: struct.Struct, what: str) -> tuple[Any, ...]:
    if at + form.size > len(data):
        raise WireError(f"STATS_REPLY: {what} at byte {at} truncated")
    return form.unpack_from(data, at)


def _nx_flows(data: bytes) -> list[FlowStats]:
    found = []
    at = 24
    end = len(data)
    while at < end:
        if at + 48 > end:
            raise WireError(f"NXST_FLOW: flow at byte {at} truncated")
        (
            length,
            table,
            seconds,
            nanos,
            priority,
            idle,
            hard,
            match_len,
            idle_age,
            _,
            cookie,
            packets,
            octets,
        ) = _NX_FLOW_STATS.unpack_from(data, at)
        actions_at = 48 + pad8(match_len)
        if length < actions_at or at + length > end:
            raise WireError(f"NXST_FLOW: flow at byte {at} of {length} bytes, {end - at} left")
        what = parse_match(data, at + 48, match_len)
        actions = parse_actions(data, at + actions_at, length - actions_at)
        found.append(
            FlowStats(
                _flow(table, priority, what, actions, cookie, idle, hard),
                packets,
                octets,
                seconds + nanos / 1e9,
                idle_age - 1 if idle_age else None,
            )
        )
        at += length
    return found


def _read_flow_updates(data: bytes, xid: int) -> FlowUpdates:
    updates: list[FlowUpdate] = []
    own: list[int | None] = []
    at, end = 24, len(data)
    while at < end:
        if at + 8 > end:
            raise WireError(f"NXST_FLOW_MONITOR: update at byte {at} truncated")
        length, event = struct.unpack_from("!HH", data, at)
        if length < 8 or at + length > end:
            raise WireError(f"NXST_FLOW_MONITOR: update at byte {at} of {length} bytes")
        if event == _NXFME_ABBREV:
            own.append(struct.unpack_from("!I", data, at + 4)[0])
        else:
            try:
                updates.append(_read_flow_update(data[at : at + length]))
            except (WireError, ValueError, struct.error):
                own.append(None)
        at += length
    return FlowUpdates(xid, tuple(updates), tuple(own))


def _read_flow_update(data: bytes) -> FlowUpdate:
    _, event, _, priority, idle, hard, match_len, table, cookie = _NX_FLOW_UPDATE.unpack_from(data)
    actions_at = 24 + pad8(match_len)
    what = parse_match(data, 24, match_len)
    actions = parse_actions(data, actions_at, len(data) - actions_at)
    flow = _flow(table, priority, what, actions, cookie, idle, hard)
    return FlowUpdate(UpdateEvent(event), flow)


def _read_flow_stats10(data: bytes, at: int) -> tuple[FlowStats, int]:
    if at + 88 > len(data):
        raise WireError(f"STATS_REPLY: flow at byte {at} truncated")
    length, table = struct.unpack_from("!HB", data, at)
    if length < 88 or at + length > len(data):
        raise WireError(f"STATS_REPLY: flow at byte {at} of {length} bytes")
    what = parse_match10(data, at + 4)
    tail = _FLOW_STATS10_TAIL.unpack_from(data, at + 4 + MATCH10_LEN)
    seconds, nanos, priority, idle, hard, cookie, packets, octets = tail
    actions = parse_actions(data, at + 88, length - 88)
    flow = _flow(table, priority, what, actions, cookie, idle, hard)
    return FlowStats(flow, packets, octets, seconds + nanos / 1e9, None), at + length


_READERS: dict[int, tuple[int, Callable[[bytes, int], Message]]] = {
    Type.ERROR: (12, _read_error),
    Type.ECHO_REQUEST: (8, _read_echo_request),
    Type.ECHO_REPLY: (8, _read_echo_reply),
    Type.VENDOR: (16, _read_vendor),
    Type.FEATURES_REPLY: (32, _read_features),
    Type.GET_CONFIG_REPLY: (12, _read_config),
    Type.PACKET_IN: (18, _read_packet_in),
    Type.FLOW_REMOVED: (88, _read_flow_removed),
    Type.PORT_STATUS: (64, _read_port_status),
    Type.STATS_REPLY: (12, _read_stats),
    Type.BARRIER_REPLY: (8, _read_barrier_reply),
}


# --------------------------------------------------------------------------------------------
# Flows that come in great numbers


class _RouteForm(NamedTuple):
    """Routes of one prefix length: constants between the fields that differ from route to route."""

    mask: int
    pack_add: Callable[..., bytes]
    pack_delete: Callable[..., bytes]
    add_head: bytes
    add_command: bytes
    delete_head: bytes
    delete_command: bytes
    before_router: bytes
    after_router: bytes


class RoutePacker:
    """IPv4 routes as NXT_FLOW_MODs, byte for byte what flow_mod() makes of route_flow().

    match reg1=router, dl_type=0x0800, nw_dst=net/plen; priority base_priority + plen; actions
    load nexthop -> reg0, resubmit(,next_table).
    """

    def __init__(self, table: int, next_table: int, base_priority: int) -> None:
        self.table = table
        self.next_table = next_table
        self.base_priority = base_priority
        self._tail = pack_action(fl.resubmit(next_table))
        self._head = pack_action(fl.load("reg0", 0))[:20]
        self._forms = [self._form(plen) for plen in range(33)]
        self._columns = tuple(self._columns_for(plen) for plen in (0, 24, 32))

    def route_flow(self, router: int, net: int, plen: int, nexthop: int, cookie: int) -> Flow:
        """The same route as a Flow."""
        mask = 0xFFFFFFFF << 32 - plen & 0xFFFFFFFF
        return Flow(
            self.table,
            self.base_priority + plen,
            fl.match(reg1=router, dl_type=fl.IPV4, nw_dst=(net & mask, mask)),
            (fl.load("reg0", nexthop), fl.resubmit(self.next_table)),
            cookie,
        )

    def _form(self, plen: int) -> _RouteForm:
        """Cut a message made by flow_mod() where net, router, next hop and cookie stand."""
        flow = self.route_flow(0, 0, plen, 0, 0)
        add, delete = flow_mod(flow), flow_mod(flow, Command.DELETE_STRICT)
        match_len = len(pack_match(flow.match))
        net_at = 48 + 6 + 4  # dl_type's entry, nw_dst's header
        router_at = 48 + match_len - 4
        after = 48 + pad8(match_len)
        nexthop_at = after + 16
        if not plen:
            net_at = router_at  # no nw_dst: an empty field
        net = "I" if plen else "0s"
        before = add[net_at + 4 : router_at] if plen else b""
        shared = f"!16sQ{net_at - 24}s{net}{len(before)}sI"
        pad = after - router_at - 4
        add_form = struct.Struct(f"{shared}{pad + 16}sQ{len(add) - nexthop_at - 8}s")
        delete_form = struct.Struct(f"{shared}{pad}x")
        return _RouteForm(
            0xFFFFFFFF << 32 - plen & 0xFFFFFFFF,
            add_form.pack,
            delete_form.pack,
            add[:16],
            add[24:net_at],
            delete[:16],
            delete[24:net_at],
            before,
            add[router_at + 4 : nexthop_at],
        )

    def _columns_for(self, plen: int) -> RouteColumns:
        """For all prefix lengths whose messages have the same fields as this one's."""
        # Places are found by what stands there when all octets of a field are 0xff.
        message = self.add(0, 0, plen, 0, 0)

        def place(**ones: int) -> int:
            fields = {"router": 0, "net": 0, "plen": plen, "nexthop": 0, "cookie": 0, **ones}
            other = self.add(**fields)
            return next(i for i, (a, b) in enumerate(zip(message, other, strict=True)) if a != b)

        net_at = place(net=0xFFFFFFFF) if plen else None
        return RouteColumns(
            message,
            self.base_priority,
            cookie_at=16,
            priority_at=30,
            net_at=net_at,
            mask_at=net_at + 4 if net_at is not None and plen < 32 else None,
            router_at=place(router=0xFFFFFFFF),
            nexthop_at=place(nexthop=0xFFFFFFFF),
        )

    def add(self, router: int, net: int, plen: int, nexthop: int, cookie: int) -> bytes:
        """One route added or overwritten; struct.error or IndexError for values out of range."""
        form = self._forms[plen]
        return form.pack_add(
            form.add_head,
            cookie,
            form.add_command,
            net & form.mask if plen else b"",
            form.before_router,
            router,
            form.after_router,
            nexthop,
            self._tail,
        )

    def delete(self, router: int, net: int, plen: int, cookie: int = 0) -> bytes:
        """One route deleted, strictly: whatever its next hop is."""
        form = self._forms[plen]
        return form.pack_delete(
            form.delete_head,
            cookie,
            form.delete_command,
            net & form.mask if plen else b"",
            form.before_router,
            router,
        )

    def read_updates(self, data: bytes) -> tuple[list[RouteUpdate], FlowUpdates]:
        """What a flow monitor's message (`is_flow_updates`) says about routes, and the rest.

        There may be a million of them.  What is in the table and no route is in the rest.
        Raises WireError.
        """
        routes: list[RouteUpdate] = []
        rest = [data[:_UPDATES_AT]]
        at, end = _UPDATES_AT, len(data)
        while at + _NX_FLOW_UPDATE.size <= end:
            fields = _NX_FLOW_UPDATE.unpack_from(data, at)
            length, event, _, priority, _, _, match_len, table, cookie = fields
            if length < 8 or at + length > end:
                break
            route = None
            if event != _NXFME_ABBREV and table == self.table:
                route = self._updated(data, at, match_len, priority - self.base_priority)
            if route is None:
                rest.append(data[at : at + length])
            else:
                hop = 0
                if event != UpdateEvent.DELETED:
                    actions = data[at + 24 + pad8(match_len) : at + length]
                    hop = self._leads_to(actions)
                routes.append(RouteUpdate(event, *route, hop, cookie))
            at += length
        rest.append(data[at:])
        return routes, _read_flow_updates(b"".join(rest), int.from_bytes(data[4:8], "big"))

    def _updated(
        self, data: bytes, at: int, match_len: int, plen: int
    ) -> tuple[int, int, int] | None:
        """(router, prefix, its length) of an update whose match reads as a route's."""
        if not 0 <= plen <= 32 or at + 24 + match_len > len(data):
            return None
        form = _UPDATED.get(match_len)
        if form is None:
            return None
        found = form.unpack_from(data, at + 24)
        if match_len == 26:
            *heads, net, mask, reg1, router = found
            right = heads == [0x602, fl.IPV4, 0x1108] and mask == 0xFFFFFFFF << 32 - plen & (
                0xFFFFFFFF
            )
        elif match_len == 22:
            *heads, net, reg1, router = found
            right = heads == [0x602, fl.IPV4, 0x1004] and plen == 32
        else:
            *heads, reg1, router = found
            net = 0
            right = heads == [0x602, fl.IPV4] and plen == 0
        return (router, net, plen) if right and reg1 == 0x10204 else None

    def _leads_to(self, actions: bytes) -> int:
        """The next hop that a route's actions lead to; -1 where they are no route's."""
        if actions[:20] != self._head or actions[24:] != self._tail:
            return -1
        return int.from_bytes(actions[20:24], "big")

    def pack_adds(
        self,
        router: int,
        routes: Sequence[tuple[int, int, int]],
        cookies: Sequence[int],
        chunk_bytes: int = 32768,
    ) -> list[bytes]:
        """Many routes (net, plen, nexthop), each with its cookie, in this order, as chunks of
        about `chunk_bytes`, whole messages each; struct.error for values out of range.
        """
        if not routes:
            return []
        nets, lengths, nexthops = zip(*routes, strict=True)
        plens = bytes(lengths)
        chunks = []
        chunk = bytearray()
        start = 0
        for form, length in _runs(plens.translate(_FORM)):
            columns = self._columns[form]
            end = start + length
            messages = columns.pack(
                router, nets[start:end], plens[start:end], nexthops[start:end], cookies[start:end]
            )
            start = end
            at = 0
            while at < len(messages):
                room = max(1, (chunk_bytes - len(chunk)) // columns.size) * columns.size
                chunk += messages[at : at + room]
                at += room
                if len(chunk) + columns.size > chunk_bytes:
                    chunks.append(bytes(chunk))
                    chunk.clear()
        if chunk:
            chunks.append(bytes(chunk))
        return chunks


def _runs(values: bytes) -> Iterable[tuple[int, int]]:
    """(value, how many) of each run of equal octets."""
    if values.count(values[:1]) == len(values):
        return [(values[0], len(values))]
    return ((value, sum(1 for _ in run)) for value, run in groupby(values))


_FORM = bytes(0 if not plen else 1 if plen < 32 else 2 for plen in range(33)).ljust(256, b"\xff")
"""Prefix length -> index of RoutePacker._columns: no prefix, a prefix with netmask, one address."""


def exact_match(frame: bytes, in_port: int, ttl: bool = False) -> Match:
    """The twelve OpenFlow 1.0 fields of a frame (3.4) as a match; with `ttl` its TTL as well.

    Fields the frame does not have are left out.  A fragment has ports 0 (as the switch sees it).
    """
    seen = pk.parse(frame)
    entries: dict[str, int | tuple[int, int]] = {
        "in_port": in_port,
        "dl_dst": seen.dl_dst,
        "dl_src": seen.dl_src,
        "dl_type": seen.dl_type,
        "vlan_tci": seen.vlan_tci,
    }
    if seen.dl_type == fl.IPV4:
        entries.update(
            nw_src=seen.nw_src, nw_dst=seen.nw_dst, nw_proto=seen.nw_proto, nw_tos=seen.nw_tos
        )
        if ttl:
            entries["nw_ttl"] = seen.nw_ttl
        if seen.nw_proto in (fl.TCP, fl.UDP, fl.ICMP):
            whole = not seen.nw_frag
            entries.update(tp_src=seen.tp_src * whole, tp_dst=seen.tp_dst * whole)
    elif seen.dl_type in (fl.ARP, fl.RARP):
        entries.update(arp_spa=seen.arp_spa, arp_tpa=seen.arp_tpa, arp_op=seen.arp_op & 0xFF)
    return fl.match(**entries)


_IPV4_PORTS = struct.Struct("!BBHHHBBH4s4s2s2s")
_TRANSPORT_LEN = {fl.TCP: 20, fl.UDP: 8, fl.ICMP: 8}
_TP = ("tp_src", "tp_dst")


class _ExactForm(NamedTuple):
    """Exact flows of one IP protocol.

    How to pack, the size before the actions, the least IP length, the bytes of a port, and the
    constants between the fields.
    """

    pack: Callable[..., bytes]
    size: int
    least: int
    port_size: int
    constants: tuple[bytes, ...]


class ExactFlowPacker:
    """The reactive answer to a packet: a flow for its twelve fields, and the packet itself.

    `pack` returns an NXT_FLOW_MOD (or, with `nicira` false, a plain OFPT_FLOW_MOD) of
    exact_match(), followed by an OFPT_PACKET_OUT of the frame with the same actions.  TCP, UDP
    and ICMP in IPv4 without options or fragments, tagged or not, go through one struct; all else
    takes the general way, to the same bytes.  `ttl` matches the TTL too (Nicira only), which is
    what makes dec_ttl safe: a flow that decrements must not catch the packet whose TTL runs out.
    """

    def __init__(
        self,
        table: int,
        priority: int,
        idle_timeout: int,
        hard_timeout: int = 0,
        flags: int = 0,
        ttl: bool = False,
        nicira: bool = True,
    ) -> None:
        if ttl and not nicira:
            raise FlowError("ttl: OpenFlow 1.0 cannot match it")
        if table and not nicira:
            raise FlowError(f"table: OpenFlow 1.0 flows go into table 0, not {table}")
        self._blank = Flow(table, priority, (), (), 0, idle_timeout, hard_timeout, flags)
        self.ttl = ttl
        self.nicira = nicira
        make = self._nicira_form if nicira else self._plain_form
        self._forms = {proto: make(proto) for proto in (fl.TCP, fl.UDP, fl.ICMP)}
        self._tail10 = flow_mod_of10(self._blank)[56:] if not nicira else b""

    def _nicira_form(self, proto: int) -> _ExactForm:
        """The whole NXT_FLOW_MOD but for its actions; entries in the order of flow.FIELDS."""
        size = 1 if proto == fl.ICMP else 2
        header = {
            name: struct.pack("!I", spec.nxm | spec.size)
            for name, spec in (*fl.FIELD.items(), *zip(_TP, fl.TRANSPORT[proto], strict=True))
        }
        used = 64 + (5 if self.ttl else 0) + 2 * (4 + size)
        form = struct.Struct(
            "!2sH12sQ28sH4s6s4s6s10sH4s4s4s4s9sB"
            + ("4sB" if self.ttl else "")
            + f"4s{size}s4s{size}s{-used % 8}x"
        )
        head = flow_mod(self._blank)
        constants = (
            head[:2],
            head[4:16],
            head[24:40] + struct.pack("!H6x", used) + header["in_port"],
            header["dl_dst"],
            header["dl_src"],
            header["dl_type"] + struct.pack("!H", fl.IPV4) + header["vlan_tci"],
            header["nw_src"],
            header["nw_dst"],
            header["nw_proto"] + bytes((proto,)) + header["nw_tos"],
            header["nw_ttl"],
            header["tp_src"],
            header["tp_dst"],
        )
        return _ExactForm(form.pack, form.size, 20 + _TRANSPORT_LEN[proto], size, constants)

    def _plain_form(self, proto: int) -> _ExactForm:
        """Header, ofp_match and cookie of the OFPT_FLOW_MOD; what follows is constant."""
        port = "x1s" if proto == fl.ICMP else "2s"
        form = struct.Struct(f"!2sH4xIH6s6sHBxHBB2x4s4s{port}{port}Q")
        head = flow_mod_of10(self._blank)
        size = 1 if proto == fl.ICMP else 2
        return _ExactForm(form.pack, 72, 20 + _TRANSPORT_LEN[proto], size, (head[:2],))

    def pack(self, frame: bytes, in_port: int, actions: bytes, cookie: int = 0) -> bytes:
        """flow_mod and packet_out for `frame`, ready to send; `actions` from pack_actions().

        Raises FlowError where a message would exceed 65,535 bytes.
        """
        kind = frame[12:14]
        tci = 0
        at = 14
        if kind == b"\x81\0" and len(frame) >= 18:
            kind = frame[16:18]
            tci = frame[14] << 8 | frame[15] | 0x1000
            at = 18
        if kind != b"\x08\0" or len(frame) < at + 24:
            return self._pack_any(frame, in_port, actions, cookie)
        (ihl, tos, length, _, frag, ttl, proto, _, src, dst, tp_src, tp_dst) = (
            _IPV4_PORTS.unpack_from(frame, at)
        )
        form = self._forms.get(proto)
        if (
            form is None
            or ihl & 15 != 5
            or frag & 0x3FFF
            or not form.least <= length <= len(frame) - at
        ):
            return self._pack_any(frame, in_port, actions, cookie)
        pack, size, _, port_size, constants = form
        if port_size == 1:
            tp_src, tp_dst = tp_src[:1], tp_src[1:]
        used = len(actions)
        out_len = 16 + used + len(frame)
        if out_len > 0xFFFF or size + used > 0xFFFF:
            raise FlowError(f"packet_out: a frame of {len(frame)} bytes does not fit in a message")
        out = _PACKET_OUT.pack(1, 13, out_len, 0, NO_BUFFER, in_port, used)
        if not self.nicira:
            mod = pack(
                constants[0],
                72 + used,
                0 if tci else 1 << 20,
                in_port,
                frame[6:12],
                frame[:6],
                tci & 0xFFF if tci else 0xFFFF,
                tci >> 13,
                fl.IPV4,
                tos & 0xFC,
                proto,
                src,
                dst,
                tp_src,
                tp_dst,
                cookie,
            )
            return b"".join((mod, self._tail10, actions, out, actions, frame))
        c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 = constants
        total = size + used
        macs = frame[:6], frame[6:12]

        if self.ttl:
            mod = pack(
                c0,
                total,
                c1,
                cookie,
                c2,
                in_port,
                c3,
                macs[0],
                c4,
                macs[1],
                c5,
                tci,
                c6,
                src,
                c7,
                dst,
                c8,
                tos & 0xFC,
                c9,
                ttl,
                c10,
                tp_src,
                c11,
                tp_dst,
            )
        else:
            mod = pack(
                c0,
                total,
                c1,
                cookie,
                c2,
                in_port,
                c3,
                macs[0],
                c4,
                macs[1],
                c5,
                tci,
                c6,
                src,
                c7,
                dst,
                c8,
                tos & 0xFC,
                c10,
                tp_src,
                c11,
                tp_dst,
            )

        return b"".join((mod, actions, out, actions, frame))

    def _pack_any(self, frame: bytes, in_port: int, actions: bytes, cookie: int) -> bytes:
        what = exact_match(frame, in_port, self.ttl)
        flow = replace(self._blank, match=what, actions=(fl.raw(actions),), cookie=cookie)
        mod = flow_mod(flow) if self.nicira else _flow_mod10(flow, Command.ADD, actions, 0)
        return mod + packet_out(frame, actions, in_port)
