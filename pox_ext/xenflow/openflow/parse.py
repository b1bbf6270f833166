"""Messages from a switch, parsed into values.

The component hands each message to `message`, or to `packet_in_port` and `packet_in` where speed
counts.

Sources: OpenFlow Switch Specification 1.0.0, section 5 (by number below); Open vSwitch,
include/openflow/nicira-ext.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from xenflow.openflow.errors import NX_ERROR, name_of
from xenflow.openflow.flow import Flow, match
from xenflow.openflow.monitor import FlowUpdates
from xenflow.openflow.nxm import (
    MATCH10_LEN,
    pack_match,
    pad8,
    parse_actions,
    parse_match,
    parse_match10,
)
from xenflow.openflow.statistics import StatsReply, read_stats
from xenflow.openflow.wire import (
    HEADER,
    HEADER_LEN,
    NX_FLOW_MOD,
    NX_HEADER,
    NX_VENDOR,
    NXT_FLOW_MOD,
    NXT_FLOW_REMOVED,
    NXT_PACKET_IN,
    VERSION,
    FlowModCommand,
    MessageType,
    Other,
    WireError,
    flow_of,
    string,
)


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
    """A frame that a switch has sent up.

    total_len  the frame's length, of which `data` may be the beginning only
    in_port    where the frame came in; 0 where an action has cleared it
    registers  those that were not 0, by name: an NXT_PACKET_IN tells them
    """

    xid: int
    buffer_id: int
    total_len: int
    in_port: int
    reason: int
    data: bytes
    registers: Mapping[str, int] = MappingProxyType({})


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


Message = (
    Hello
    | EchoRequest
    | EchoReply
    | BarrierReply
    | ErrorMessage
    | FeaturesReply
    | PacketIn
    | PortStatus
    | FlowRemoved
    | StatsReply
    | FlowUpdates
    | Other
)
_PACKET_IN = struct.Struct("!BBHIIHHBx")
_NX_PACKET_IN = struct.Struct("!4xI8xIHB9xH6x")
_NX_MATCH_AT = _NX_PACKET_IN.size
_NX_PACKET_IN_IS = struct.pack("!II", NX_VENDOR, NXT_PACKET_IN)
_IN_PORT_IS = pack_match(match(in_port=1))[:4]
_OFPT_PACKET_IN, _OFPT_VENDOR = MessageType.PACKET_IN.value, MessageType.VENDOR.value
_FLOW_REMOVED10_TAIL = struct.Struct("!QHBxIIH2xQQ")
_NX_FLOW_REMOVED = struct.Struct("!QHBBIIHHQQ")
_PORT = struct.Struct("!H6s16sIIIIII")
_FEATURES = struct.Struct("!QIB3xII")


def message(data: bytes) -> Message:
    """Parse one whole message (as split() cuts them).

    Raises WireError on a version other than 1.0 (but for a hello), or on truncated or
    contradictory contents.  What a controller has no use for comes back as Other.
    """
    if len(data) < HEADER_LEN:
        raise WireError(f"message: {len(data)} bytes, a header has {HEADER_LEN}")
    version, kind, length, xid = HEADER.unpack_from(data)
    if length != len(data):
        raise WireError(f"message: header says {length} bytes, {len(data)} given")
    if kind == MessageType.HELLO:
        return Hello(xid, version)
    if version != VERSION:
        raise WireError(f"message: version {version}, not {VERSION} (OpenFlow 1.0)")
    reader = _READERS.get(kind)
    if reader is None:
        return Other(xid, kind, data[HEADER_LEN:])
    least, read = reader
    if length < least:
        raise WireError(f"{MessageType(kind).name}: {length} bytes, at least {least} needed")
    return read(data, xid)


def is_nx_packet_in(data: bytes) -> bool:
    """Whether a message of a vendor's is an NXT_PACKET_IN."""
    return data[8:16] == _NX_PACKET_IN_IS


def packet_in_port(data: bytes) -> int:
    """The in_port of an OFPT_PACKET_IN (5.4.1) or NXT_PACKET_IN, of which nothing else is read; 0,
    which is no port, where it is too short.

    Raises WireError for an NXT_PACKET_IN that does not begin with it and cannot be read.
    """
    if data[1] == _OFPT_PACKET_IN:
        return int.from_bytes(data[14:16], "big") if len(data) >= 16 else 0
    if data[_NX_MATCH_AT : _NX_MATCH_AT + 4] == _IN_PORT_IS:  # so Open vSwitch has it
        return int.from_bytes(data[_NX_MATCH_AT + 4 : _NX_MATCH_AT + 6], "big")
    return _nx_packet_in(data).in_port


def packet_in(data: bytes) -> PacketIn:
    """Parse an OFPT_PACKET_IN (5.4.1) or an NXT_PACKET_IN, known to be one by its type byte or by
    `is_nx_packet_in`; WireError where it is short."""
    if data[1] == _OFPT_VENDOR:
        return _nx_packet_in(data)
    try:
        _, _, _, xid, buffer_id, total_len, in_port, reason = _PACKET_IN.unpack_from(data)
    except struct.error:
        raise WireError(f"PACKET_IN: {len(data)} bytes, at least 18 needed") from None
    return PacketIn(xid, buffer_id, total_len, in_port, reason, data[18:])


def _nx_packet_in(data: bytes) -> PacketIn:
    try:
        xid, buffer_id, total_len, reason, match_len = _NX_PACKET_IN.unpack_from(data)
    except struct.error:
        raise WireError(f"NXT_PACKET_IN: {len(data)} bytes, at least 42 needed") from None
    frame_at = _NX_MATCH_AT + pad8(match_len) + 2
    if frame_at > len(data):
        raise WireError(f"NXT_PACKET_IN: {len(data)} bytes, {frame_at} needed before the frame")
    in_port, registers = _metadata(data[_NX_MATCH_AT : _NX_MATCH_AT + match_len])
    return PacketIn(xid, buffer_id, total_len, in_port, reason, data[frame_at:], registers)


@lru_cache(maxsize=4096)
def _metadata(entries: bytes) -> tuple[int, Mapping[str, int]]:
    """in_port and registers; they are the same for many frames."""
    told = {name: value for name, value, _ in parse_match(entries, 0, len(entries))}
    in_port = told.get("in_port", 0)
    registers = {name: value for name, value in told.items() if name.startswith("reg")}
    return in_port, MappingProxyType(registers)


def flow_mod(data: bytes) -> Flow:
    """The flow of one NXT_FLOW_MOD, as flow_mod() packs it, whatever its command is.

    This is how flows travel between controllers.  Raises WireError where it is anything else.
    """
    if len(data) < 48:
        raise WireError(f"NXT_FLOW_MOD: {len(data)} bytes, at least 48 needed")
    version, kind, length, _, vendor, subtype = NX_HEADER.unpack_from(data)
    cookie, command, *times, priority, _, _, flags, match_len = NX_FLOW_MOD.unpack_from(data, 16)
    if (version, kind, vendor, subtype) != (VERSION, MessageType.VENDOR, NX_VENDOR, NXT_FLOW_MOD):
        raise WireError(f"NXT_FLOW_MOD: version {version}, type {kind}, {vendor:#x}, {subtype}")
    if length != len(data):
        raise WireError(f"NXT_FLOW_MOD: header says {length} bytes, {len(data)} given")
    what = parse_match(data, 48, match_len)
    actions_at = 48 + pad8(match_len)
    if actions_at > length:
        raise WireError(f"NXT_FLOW_MOD: match of {match_len} bytes without its padding")
    actions = parse_actions(data, actions_at, length - actions_at)
    flow = flow_of(command >> 8, priority, what, actions, cookie, *times)
    return replace(flow, flags=flags)


_COOKIE_AT: dict[tuple[int, int], int] = {
    (MessageType.VENDOR, NXT_FLOW_MOD): 16,
    (MessageType.FLOW_MOD, 0): 48,
}
"""Where the cookie is in an NXT_FLOW_MOD (nicira-ext.h) and in an OFPT_FLOW_MOD (5.3.3)."""


def cookie_of(data: bytes) -> int:
    """The cookie of a flow modification of which this is the beginning (as in an error's `data`);
    0 where it is something else, or too little of it."""
    at = _cookie_at(data)
    return int.from_bytes(data[at : at + 8], "big") if at else 0


def adds_flow(data: bytes) -> bool:
    """Whether this is the beginning of a flow modification that adds one."""
    at = _cookie_at(data)
    return at > 0 and data[at + 9] == FlowModCommand.ADD


def _cookie_at(data: bytes) -> int:
    """Where the cookie is, which the command follows; 0 where there is none."""
    if len(data) < 16:
        return 0
    vendor = data[1] == MessageType.VENDOR
    (subtype,) = struct.unpack_from("!I", data, 12) if vendor else (0,)
    at = _COOKIE_AT.get((data[1], subtype), 0)
    return at if len(data) >= at + 10 else 0


def _read_error(data: bytes, xid: int) -> Message:
    kind, code = struct.unpack_from("!HH", data, 8)
    rest = data[12:]
    if kind != NX_ERROR or len(rest) < 8:
        return ErrorMessage(xid, kind, code, name_of(kind, code, nicira=False), rest)
    vendor, kind, code = struct.unpack_from("!IHH", rest)
    if vendor != NX_VENDOR:
        return ErrorMessage(xid, kind, code, f"vendor {vendor:#x} error {kind}, {code}", rest[8:])
    return ErrorMessage(xid, kind, code, name_of(kind, code, nicira=True), rest[8:])


def _read_port(data: bytes, at: int) -> Port:
    number, mac, name, *bitmaps = _PORT.unpack_from(data, at)
    return Port(number, int.from_bytes(mac, "big"), string(name), *bitmaps)


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
    flow = flow_of(0, priority, what, (), cookie, idle, 0)
    return FlowRemoved(xid, flow, reason, seconds + nanos / 1e9, packets, octets)


def _read_vendor(data: bytes, xid: int) -> Message:
    if is_nx_packet_in(data):
        return _nx_packet_in(data)
    vendor, subtype = struct.unpack_from("!II", data, 8)
    if vendor != NX_VENDOR or subtype != NXT_FLOW_REMOVED:
        return Other(xid, MessageType.VENDOR, data[8:])
    if len(data) < 16 + _NX_FLOW_REMOVED.size:
        raise WireError(f"NXT_FLOW_REMOVED: {len(data)} bytes, at least 56 needed")
    fields = _NX_FLOW_REMOVED.unpack_from(data, 16)
    cookie, priority, reason, table, seconds, nanos, idle, match_len, packets, octets = fields
    what = parse_match(data, 16 + _NX_FLOW_REMOVED.size, match_len)
    flow = flow_of(max(table - 1, 0), priority, what, (), cookie, idle, 0)
    return FlowRemoved(xid, flow, reason, seconds + nanos / 1e9, packets, octets)


_READERS: dict[int, tuple[int, Callable[[bytes, int], Message]]] = {
    MessageType.ERROR: (12, _read_error),
    MessageType.ECHO_REQUEST: (8, lambda data, xid: EchoRequest(xid, data[8:])),
    MessageType.ECHO_REPLY: (8, lambda data, xid: EchoReply(xid, data[8:])),
    MessageType.VENDOR: (16, _read_vendor),
    MessageType.FEATURES_REPLY: (32, _read_features),
    MessageType.PACKET_IN: (18, lambda data, xid: packet_in(data)),
    MessageType.FLOW_REMOVED: (88, _read_flow_removed),
    MessageType.PORT_STATUS: (64, _read_port_status),
    MessageType.STATS_REPLY: (12, read_stats),
    MessageType.BARRIER_REPLY: (8, lambda data, xid: BarrierReply(xid)),
}
