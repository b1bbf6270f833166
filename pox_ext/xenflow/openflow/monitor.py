"""The Nicira flow monitor: a switch tells what others do to its flows.

Sources: OpenFlow Switch Specification 1.0.0, section 5 (by number below); Open vSwitch,
include/openflow/nicira-ext.h.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from xenflow.openflow import flow as fl
from xenflow.openflow.flow import Flow
from xenflow.openflow.nxm import pad8, parse_actions, parse_match
from xenflow.openflow.wire import NX_VENDOR, STATS_VENDOR, WireError, flow_of, stats_request, vendor

ADD, DELETE, MODIFY = 2, 4, 8

_MONITOR_ACTIONS = 16
"""enum nx_flow_monitor_flags (nicira-ext.h), without INITIAL and OWN."""


class UpdateEvent(IntEnum):
    """enum nx_flow_update_event (nicira-ext.h)."""

    ADDED = 0
    DELETED = 1
    MODIFIED = 2


_NXT_FLOW_MONITOR_CANCEL = 21
NXST_FLOW_MONITOR = 2
ABBREVIATED = 3
_UPDATES_HEAD = struct.pack("!II", NX_VENDOR, NXST_FLOW_MONITOR)
UPDATE = struct.Struct("!HHHHHHHBxQ")
UPDATES_AT = 24


class FlowUpdate(NamedTuple):
    """What somebody else did to a flow, as a flow monitor says.  `event` is one of UpdateEvent;
    `flow` is the flow as it is now, or was, with its actions."""

    event: UpdateEvent
    flow: Flow


class FlowUpdates(NamedTuple):
    """NXST_FLOW_MONITOR reply (nicira-ext.h).  `own` are the transaction ids of messages of this
    very connection that changed flows; None stands for an update that could not be read."""

    xid: int
    updates: tuple[FlowUpdate, ...]
    own: tuple[int | None, ...]


def request(monitor: int, table: int, flags: int, xid: int = 0) -> bytes:
    """NXST_FLOW_MONITOR request: tell what happens to the flows of `table` from now on.

    `flags` are ADD, DELETE and MODIFY, or-ed.  What this connection itself does comes as its
    transaction id only.
    """
    body = struct.pack("!IHHHB5x", monitor, flags | _MONITOR_ACTIONS, fl.PORT_NONE, 0, table)
    head = struct.pack("!II4x", NX_VENDOR, NXST_FLOW_MONITOR)
    return stats_request(STATS_VENDOR, head + body, xid)


def cancel(monitor: int, xid: int = 0) -> bytes:
    """NXT_FLOW_MONITOR_CANCEL: tell no more."""
    return vendor(_NXT_FLOW_MONITOR_CANCEL, struct.pack("!I", monitor), xid)


def is_updates(data: bytes) -> bool:
    """Whether a whole message is an NXST_FLOW_MONITOR reply."""
    return data[8:10] == b"\xff\xff" and data[12:20] == _UPDATES_HEAD and data[1] == 17


def updates(data: bytes, xid: int) -> FlowUpdates:
    """Parse an NXST_FLOW_MONITOR reply, known to be one (`is_updates`).  Raises WireError."""
    found: list[FlowUpdate] = []
    own: list[int | None] = []
    at, end = 24, len(data)
    while at < end:
        if at + 8 > end:
            raise WireError(f"NXST_FLOW_MONITOR: update at byte {at} truncated")
        length, event = struct.unpack_from("!HH", data, at)
        if length < 8 or at + length > end:
            raise WireError(f"NXST_FLOW_MONITOR: update at byte {at} of {length} bytes")
        if event == ABBREVIATED:
            own.append(struct.unpack_from("!I", data, at + 4)[0])
        else:
            try:
                found.append(_read_flow_update(data[at : at + length]))
            except (WireError, ValueError, struct.error):
                own.append(None)
        at += length
    return FlowUpdates(xid, tuple(found), tuple(own))


def _read_flow_update(data: bytes) -> FlowUpdate:
    _, event, _, priority, idle, hard, match_len, table, cookie = UPDATE.unpack_from(data)
    actions_at = 24 + pad8(match_len)
    what = parse_match(data, 24, match_len)
    actions = parse_actions(data, actions_at, len(data) - actions_at)
    flow = flow_of(table, priority, what, actions, cookie, idle, hard)
    return FlowUpdate(UpdateEvent(event), flow)
