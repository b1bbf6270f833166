"""Messages to a switch, built as bytes.

Sources: OpenFlow Switch Specification 1.0.0, section 5 (by number below); Open vSwitch,
include/openflow/nicira-ext.h.
"""

from __future__ import annotations

import struct

from xenflow.openflow import flow as fl
from xenflow.openflow.flow import Actions, Flow, FlowError, Match
from xenflow.openflow.nxm import (
    MATCH10_LEN,
    OPENFLOW10_ACTIONS,
    pack_actions,
    pack_match,
    pack_match10,
    padded,
)
from xenflow.openflow.wire import (
    NO_BUFFER,
    NX_FLOW_MOD,
    NXT_FLOW_MOD,
    NXT_FLOW_MOD_TABLE_ID,
    NXT_PACKET_IN,
    NXT_SET_FLOW_FORMAT,
    NXT_SET_PACKET_IN_FORMAT,
    VERSION,
    FlowModCommand,
    MessageType,
    message,
    vendor,
)

MATCH10 = slice(8, 48)
"""Where the ofp_match of an OFPT_FLOW_MOD stands (5.3.3)."""

_KEEP_COOKIE = 0xFFFFFFFFFFFFFFFF
_FLOW_MOD = struct.Struct("!QHHHHIHH")
PACKET_OUT = struct.Struct("!BBHIIHH")
BY_ACTION = 1
"""Why a packet-in comes: a flow's action says so (5.4.1)."""


def hello(xid: int = 0) -> bytes:
    """OFPT_HELLO (5.5.1), offering version 1.0."""
    return message(MessageType.HELLO, xid=xid)


def echo_request(data: bytes = b"", xid: int = 0) -> bytes:
    """OFPT_ECHO_REQUEST (5.5.2)."""
    return message(MessageType.ECHO_REQUEST, data, xid)


def echo_reply(data: bytes = b"", xid: int = 0) -> bytes:
    """OFPT_ECHO_REPLY (5.5.3): `data` and `xid` are the request's."""
    return message(MessageType.ECHO_REPLY, data, xid)


def features_request(xid: int = 0) -> bytes:
    """OFPT_FEATURES_REQUEST (5.3.1)."""
    return message(MessageType.FEATURES_REQUEST, xid=xid)


def set_config(miss_send_len: int = 0xFFFF, flags: int = 0, xid: int = 0) -> bytes:
    """OFPT_SET_CONFIG (5.3.2): bytes of a missed packet to send; flags 0 leaves fragments be."""
    return message(MessageType.SET_CONFIG, struct.pack("!HH", flags, miss_send_len), xid)


def barrier_request(xid: int) -> bytes:
    """OFPT_BARRIER_REQUEST (5.3.7)."""
    return message(MessageType.BARRIER_REQUEST, xid=xid)


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
    head = PACKET_OUT.pack(
        VERSION, MessageType.PACKET_OUT, length, xid, NO_BUFFER, in_port, len(packed)
    )
    return head + packed + data


def packet_in(
    data: bytes,
    in_port: int,
    reason: int = BY_ACTION,
    total_len: int | None = None,
    buffer_id: int = NO_BUFFER,
    xid: int = 0,
) -> bytes:
    """OFPT_PACKET_IN (5.4.1), as a switch sends it: a frame of `total_len` bytes (None: all of
    it), or its beginning."""
    total = len(data) if total_len is None else total_len
    head = struct.pack("!IHHBx", buffer_id, total, in_port, reason)
    return message(MessageType.PACKET_IN, head + data, xid)


def nx_packet_in(
    data: bytes,
    metadata: Match,
    reason: int = BY_ACTION,
    table: int = 0,
    cookie: int = 0,
    xid: int = 0,
) -> bytes:
    """NXT_PACKET_IN of a whole frame, as a switch sends it: `metadata` is its in_port, and the
    registers that are not 0 when it is sent up."""
    packed = pack_match(metadata)
    head = struct.pack("!IHBBQH6x", NO_BUFFER, len(data), reason, table, cookie, len(packed))
    return vendor(NXT_PACKET_IN, head + padded(packed) + bytes(2) + data, xid)


def enable_table_id(xid: int = 0) -> bytes:
    """NXT_FLOW_MOD_TABLE_ID: from now on `command` carries the table (what flow_mod() needs)."""
    return vendor(NXT_FLOW_MOD_TABLE_ID, struct.pack("!B7x", 1), xid)


def set_flow_format_nxm(xid: int = 0) -> bytes:
    """NXT_SET_FLOW_FORMAT: flows removed are reported as NXT_FLOW_REMOVED."""
    return vendor(NXT_SET_FLOW_FORMAT, struct.pack("!I", 2), xid)


def set_packet_in_format_nxm(xid: int = 0) -> bytes:
    """NXT_SET_PACKET_IN_FORMAT: every packet-in of this connection is an NXT_PACKET_IN."""
    return vendor(NXT_SET_PACKET_IN_FORMAT, struct.pack("!I", 1), xid)


def flow_mod(flow: Flow, command: FlowModCommand = FlowModCommand.ADD, xid: int = 0) -> bytes:
    """NXT_FLOW_MOD; the switch must have seen enable_table_id().

    A deletion carries no actions.  Raises FlowError where the message would exceed 65,535 bytes;
    for a modification to cookie 2**64 - 1, which a switch reads as "leave the cookie"; and for a
    flow that writes ARP fields without matching arp_op: Open vSwitch's userspace datapath would
    write beyond the end of a truncated frame, and a guest could end the switch.
    """
    if flow.cookie == _KEEP_COOKIE and command in (
        FlowModCommand.MODIFY,
        FlowModCommand.MODIFY_STRICT,
    ):
        raise FlowError(f"cookie: {flow.cookie:#x} in a modification leaves the cookie as it is")
    what, actions = pack_match(flow.match), b""
    if command < FlowModCommand.DELETE:
        _refuse_arp_overflow(flow)
        actions = pack_actions(flow.actions)
    head = _settings(flow, flow.table << 8 | command) + struct.pack("!H6x", len(what))
    body = head + padded(what) + actions
    if 16 + len(body) > 0xFFFF:
        raise FlowError(f"flow_mod: {len(flow.actions)} actions do not fit in a message")
    return vendor(NXT_FLOW_MOD, body, xid)


def _settings(flow: Flow, command: int) -> bytes:
    """What stands after the match of an OFPT_FLOW_MOD, and before that of an NXT_FLOW_MOD."""
    cookie, times = flow.cookie, (flow.idle_timeout, flow.hard_timeout)
    where = NO_BUFFER, fl.PORT_NONE
    return _FLOW_MOD.pack(cookie, command, *times, flow.priority, *where, flow.flags)


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
    packed, command = pack_match(what, cookie, mask), table << 8 | FlowModCommand.DELETE
    head = NX_FLOW_MOD.pack(0, command, 0, 0, 0, NO_BUFFER, fl.PORT_NONE, 0, len(packed))
    return vendor(NXT_FLOW_MOD, head + padded(packed), xid)


def flow_mod_of10(flow: Flow, command: FlowModCommand = FlowModCommand.ADD, xid: int = 0) -> bytes:
    """OFPT_FLOW_MOD (5.3.3), for a switch that knows OpenFlow 1.0 alone.

    Raises FlowError for another table than 0, a match beyond the twelve fields, or an action
    that is Nicira's.
    """
    if flow.table:
        raise FlowError(f"table: OpenFlow 1.0 flows go into table 0, not {flow.table}")
    packed = b""
    if command < FlowModCommand.DELETE:
        for action in flow.actions:
            if action[0] not in OPENFLOW10_ACTIONS:
                raise FlowError(f"{fl.action_text(action)}: OpenFlow 1.0 has no such action")
        packed = pack_actions(flow.actions)
    return flow_mod10(flow, command, packed, xid)


def flow_mod10(flow: Flow, command: FlowModCommand, actions: bytes, xid: int) -> bytes:
    if MATCH10_LEN + 32 + len(actions) > 0xFFFF:
        raise FlowError(f"flow_mod: {len(flow.actions)} actions do not fit in a message")
    body = pack_match10(flow.match) + _settings(flow, command) + actions
    return message(MessageType.FLOW_MOD, body, xid)
