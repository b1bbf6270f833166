"""Questions for flows and their number, and the answers.

Sources: OpenFlow Switch Specification 1.0.0, section 5 (by number below); Open vSwitch,
include/openflow/nicira-ext.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

from xenflow.openflow import flow as fl
from xenflow.openflow import monitor
from xenflow.openflow.flow import Flow, Match
from xenflow.openflow.nxm import (
    MATCH10_LEN,
    pack_match,
    pack_match10,
    pad8,
    padded,
    parse_actions,
    parse_match,
    parse_match10,
)
from xenflow.openflow.wire import (
    ALL_TABLES,
    NX_VENDOR,
    STATS_VENDOR,
    MessageType,
    Other,
    WireError,
    flow_of,
    stats_request,
)

_STATS_FLOW, _STATS_AGGREGATE, _STATS_TABLE = 1, 2, 3
_NXST_FLOW, _NXST_AGGREGATE = 0, 1
_REPLY_MORE = 1
_NX_STATS_REQUEST = struct.Struct("!II4xHHB3x")
_NX_FLOW_STATS = struct.Struct("!HBxIIHHHHHHQQQ")
_FLOW_STATS10_TAIL = struct.Struct("!IIHHH6xQQQ")
_AGGREGATE = struct.Struct("!QQI4x")
_TABLE_STATS = struct.Struct("!B3x32xIIIQQ")


class FlowStats(NamedTuple):
    """One flow as the switch holds it; `idle_age_s` None where the switch does not say."""

    flow: Flow
    packets: int
    octets: int
    duration_s: float
    idle_age_s: int | None


class Aggregate(NamedTuple):
    """Packets and bytes of all the flows asked about, and their number."""

    packets: int
    octets: int
    flows: int


class TableStats(NamedTuple):
    """The number of flows in one table (5.3.5, ofp_table_stats)."""

    table: int
    flows: int


StatsEntry = FlowStats | Aggregate | TableStats


class StatsReply(NamedTuple):
    """One part of a reply; `more` says that another follows under the same xid."""

    xid: int
    more: bool
    entries: tuple[StatsEntry, ...]


def _nx_request(
    subtype: int,
    table: int = ALL_TABLES,
    cookie: int = 0,
    cookie_mask: int = 0,
    match: Match = (),
    xid: int = 0,
) -> bytes:
    packed = pack_match(match, cookie, cookie_mask)
    head = _NX_STATS_REQUEST.pack(NX_VENDOR, subtype, fl.PORT_NONE, len(packed), table)
    return stats_request(STATS_VENDOR, head + padded(packed), xid)


flow_request = partial(_nx_request, _NXST_FLOW)
"""NXST_FLOW request: flows of `table` with this cookie under `cookie_mask` and this match.  A flow
answers whose match is `match` or narrower."""
aggregate_request = partial(_nx_request, _NXST_AGGREGATE)
"""NXST_AGGREGATE request: packets, bytes and number of the flows flow_request() asks."""


def _request_of10(kind: int, match: Match = (), xid: int = 0) -> bytes:
    anywhere = struct.pack("!BxH", ALL_TABLES, fl.PORT_NONE)
    return stats_request(kind, pack_match10(match) + anywhere, xid)


flow_request_of10 = partial(_request_of10, _STATS_FLOW)
"""OFPST_FLOW request (5.3.5)."""
aggregate_request_of10 = partial(_request_of10, _STATS_AGGREGATE)
"""OFPST_AGGREGATE request (5.3.5)."""


def table_request(xid: int = 0) -> bytes:
    """OFPST_TABLE request (5.3.5): how many flows each table has.  Open vSwitch keeps count, and
    looks at no flow for it."""
    return stats_request(_STATS_TABLE, b"", xid)


def flows(parts: Iterable[StatsReply]) -> list[FlowStats]:
    """All the flows of a reply's parts; WireError where it is about something else."""
    found = []
    for part in parts:
        for entry in part.entries:
            if not isinstance(entry, FlowStats):
                raise WireError(f"STATS_REPLY {part.xid:#x}: {type(entry).__name__}, no flow")
            found.append(entry)
    return found


def read_stats(data: bytes, xid: int) -> StatsReply | monitor.FlowUpdates | Other:
    kind, flags = struct.unpack_from("!HH", data, 8)
    more = bool(flags & _REPLY_MORE)
    at = 12
    entries: list[StatsEntry] = []
    if kind == STATS_VENDOR:
        if len(data) < 24:
            raise WireError(f"STATS_REPLY: {len(data)} bytes, a vendor's has at least 24")
        vendor, subtype = struct.unpack_from("!II", data, 12)
        if vendor == NX_VENDOR and subtype == monitor.NXST_FLOW_MONITOR:
            return monitor.updates(data, xid)
        if vendor != NX_VENDOR or subtype not in (_NXST_FLOW, _NXST_AGGREGATE):
            return Other(xid, MessageType.STATS_REPLY, data[8:])
        if subtype == _NXST_FLOW:
            return StatsReply(xid, more, tuple(_nx_flows(data)))
        entries.append(Aggregate(*_whole(data, 24, _AGGREGATE, "aggregate")))
    elif kind == _STATS_FLOW:
        while at < len(data):
            entry, at = _read_flow_stats10(data, at)
            entries.append(entry)
    elif kind == _STATS_AGGREGATE:
        entries.append(Aggregate(*_whole(data, at, _AGGREGATE, "aggregate")))
    elif kind == _STATS_TABLE:
        while at < len(data):
            table, _, _, flows, _, _ = _whole(data, at, _TABLE_STATS, "table")
            entries.append(TableStats(table, flows))
            at += _TABLE_STATS.size
    else:
        return Other(xid, MessageType.STATS_REPLY, data[8:])
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
        fields = _NX_FLOW_STATS.unpack_from(data, at)
        length, table, seconds, nanos, priority, idle, hard, match_len, idle_age, _, *rest = fields
        cookie, packets, octets = rest
        actions_at = 48 + pad8(match_len)
        if length < actions_at or at + length > end:
            raise WireError(f"NXST_FLOW: flow at byte {at} of {length} bytes, {end - at} left")
        what = parse_match(data, at + 48, match_len)
        actions = parse_actions(data, at + actions_at, length - actions_at)
        flow = flow_of(table, priority, what, actions, cookie, idle, hard)
        idle_age_s = idle_age - 1 if idle_age else None
        found.append(FlowStats(flow, packets, octets, seconds + nanos / 1e9, idle_age_s))
        at += length
    return found


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
    flow = flow_of(table, priority, what, actions, cookie, idle, hard)
    return FlowStats(flow, packets, octets, seconds + nanos / 1e9, None), at + length
