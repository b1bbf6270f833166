"""Matches and actions on the wire: Nicira's extensible match, and OpenFlow 1.0's own.

`build`, `parse`, `statistics` and `monitor` put these into messages and read them there.  Packing
takes the canonical values of `flow` and refuses what the form cannot express with FlowError (our
mistake); parsing raises WireError on bytes that are truncated or make no sense (the peer's
mistake) and nothing else.
What it merely does not know, it keeps: unknown fields as `nxm:HHHHHHHH`, unknown actions as raw
bytes, so that another program's flow in the same switch does not spoil a dump.

Sources: Open vSwitch, include/openflow/nicira-ext.h (nx_match, nx_action_*) and
lib/ofp-actions.c; OpenFlow 1.0.0, sections 5.2.3 (ofp_match) and 5.2.4 (actions).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from xenflow.openflow import flow as fl
from xenflow.openflow.flow import Action, Actions, Field, FlowError, Match
from xenflow.openflow.wire import NX_VENDOR, WireError

# --------------------------------------------------------------------------------------------
# Nicira extensible match

_HASMASK = 0x100
_COOKIE = 1 << 16 | 30 << 9 | 8
_COOKIE_MASKED = 1 << 16 | 30 << 9 | _HASMASK | 16


class _Coded(NamedTuple):
    """A field with its two headers packed."""

    size: int
    exact: bytes
    masked: bytes


def _coded(spec: Field) -> _Coded:
    exact = struct.pack("!I", spec.nxm | spec.size)
    return _Coded(spec.size, exact, struct.pack("!I", spec.nxm | _HASMASK | spec.size * 2))


_CODED = {name: _coded(spec) for name, spec in fl.FIELD.items() if spec.nxm_name}
_CODED_TP = {
    proto: dict(zip(fl.TP, map(_coded, pair), strict=True)) for proto, pair in fl.TRANSPORT.items()
}


def pack_match(what: Match, cookie: int = 0, cookie_mask: int = 0) -> bytes:
    """Pack a match as nx_match entries, without the padding to 8 bytes.

    With `cookie_mask` (64 bits) the flow's cookie is matched too, as requests about flows may.
    """
    parts = []
    proto = -1
    for name, value, mask in what:
        coded = _CODED.get(name)
        if coded is None:
            coded = _CODED_TP[proto][name] if name in fl.TP else _coded(fl.opaque_field(name))
        elif name == "nw_proto":
            proto = value
        size = coded.size
        if mask is None:
            parts.append(coded.exact + value.to_bytes(size, "big"))
        else:
            parts.append(coded.masked + value.to_bytes(size, "big") + mask.to_bytes(size, "big"))
    if cookie_mask:
        parts.append(struct.pack("!IQQ", _COOKIE_MASKED, cookie & cookie_mask, cookie_mask))
    return b"".join(parts)


def padded(packed: bytes) -> bytes:
    """A packed match with the padding that follows it."""
    return packed + bytes(-len(packed) % 8)


def pad8(length: int) -> int:
    """`length` rounded up to a multiple of 8."""
    return (length + 7) & ~7


_DECODED: dict[int, tuple[str, int, bool]] = {}
for _name, _spec in (
    *((spec.name, spec) for spec in fl.FIELD.values() if spec.nxm_name),
    *(named for pair in fl.TRANSPORT.values() for named in zip(fl.TP, pair, strict=True)),
):
    _DECODED[_spec.nxm | _spec.size] = (_name, _spec.size, False)
    if _spec.maskable:
        _DECODED[_spec.nxm | _HASMASK | _spec.size * 2] = (_name, _spec.size, True)

_ROUTE = struct.Struct("!10sII4sI")
_HOST_ROUTE = struct.Struct("!10sI4sI")
_DL_TYPE_IPV4: tuple[str, int, int | None] = ("dl_type", fl.IPV4, None)
_ROUTE_HEAD = _CODED["dl_type"].exact + b"\x08\0" + _CODED["nw_dst"].masked
_HOST_ROUTE_HEAD = _CODED["dl_type"].exact + b"\x08\0" + _CODED["nw_dst"].exact
_REG1 = _CODED["reg1"].exact


def parse_match(data: bytes, start: int, length: int) -> Match:
    """Parse `length` bytes of nx_match entries at `start`; a cookie entry is skipped.

    Raises WireError on a truncated entry, a value outside its mask, or a match that breaks
    the rules of flow.match().
    """
    end = start + length
    if end > len(data):
        raise WireError(f"match at byte {start}: {length} bytes, {len(data) - start} left")
    if length == 26:  # a route's match, of which a dump may hold a million
        head, net, mask, reg1, router = _ROUTE.unpack_from(data, start)
        if head == _ROUTE_HEAD and reg1 == _REG1 and 0 < mask < 0xFFFFFFFF and not net & ~mask:
            return (_DL_TYPE_IPV4, ("nw_dst", net, mask), ("reg1", router, None))
    elif length == 22:  # a host route's
        head, net, reg1, router = _HOST_ROUTE.unpack_from(data, start)
        if head == _HOST_ROUTE_HEAD and reg1 == _REG1:
            return (_DL_TYPE_IPV4, ("nw_dst", net, None), ("reg1", router, None))
    entries: list[tuple[str, int, int | None]] = []
    at = start
    while at < end:
        if at + 4 > end:
            raise WireError(f"match at byte {at}: truncated field header")
        header = int.from_bytes(data[at : at + 4], "big")
        known = _DECODED.get(header)
        if known is not None:
            name, size, masked = known
        elif header in (_COOKIE, _COOKIE_MASKED):
            at += 4 + (header & 0xFF)
            if at > end:
                raise WireError(f"match at byte {at}: truncated cookie")
            continue
        else:
            name, size, masked = _opaque(header, at)
        at += 4
        after = at + (size * 2 if masked else size)
        if after > end:
            raise WireError(f"match at byte {at}: {name} truncated")
        value = int.from_bytes(data[at : at + size], "big")
        bits = int.from_bytes(data[at + size : after], "big") if masked else None
        if bits is not None and value & ~bits:
            raise WireError(f"match at byte {at}: {name} {value:#x} outside its mask {bits:#x}")
        entries.append((name, value, bits))
        at = after
    try:
        return fl.canonical(entries)
    except FlowError as error:
        raise WireError(f"match at byte {start}: {error}") from None


def _opaque(header: int, at: int) -> tuple[str, int, bool]:
    size = header & 0xFF
    masked = bool(header & _HASMASK) and header >> 16 != fl.EXPERIMENTER
    if size == 0 or (masked and size % 2):
        raise WireError(f"match at byte {at}: no field {header:#010x}")
    if header >> 16 == fl.EXPERIMENTER:
        return f"{fl.OPAQUE}{header:08x}", size, False
    if masked:
        size //= 2
    base = header & ~0x1FF | size
    if base in _DECODED:
        raise WireError(f"match at byte {at}: no field {header:#010x}")
    return f"{fl.OPAQUE}{base:08x}", size, masked


# --------------------------------------------------------------------------------------------
# OpenFlow 1.0's match (5.2.3)

_MATCH10 = struct.Struct("!IH6s6sHBxHBB2xIIHH")
_ADDRESSES10 = ("dl_src", "dl_dst")
_FIELDS10 = (
    *("in_port", *_ADDRESSES10, "dl_vlan", "dl_vlan_pcp", "dl_type"),
    *("nw_tos", "nw_proto", "nw_src", "nw_dst", "tp_src", "tp_dst"),
)
"""Those of ofp_match, after its wildcards."""
MATCH10_LEN = 40
_FW_ALL = (1 << 22) - 1
_FW = {
    "in_port": 1 << 0,
    "dl_vlan": 1 << 1,
    "dl_src": 1 << 2,
    "dl_dst": 1 << 3,
    "dl_type": 1 << 4,
    "nw_proto": 1 << 5,
    "tp_src": 1 << 6,
    "tp_dst": 1 << 7,
    "dl_vlan_pcp": 1 << 20,
    "nw_tos": 1 << 21,
}
_FW_NW = {"nw_src": 8, "nw_dst": 14}
_VLAN_NONE = 0xFFFF
_ARP_TO_10 = {"arp_spa": "nw_src", "arp_tpa": "nw_dst", "arp_op": "nw_proto"}


def pack_match10(what: Match) -> bytes:
    """Pack a match as the 40 bytes of ofp_match; FlowError for what it cannot express.

    vlan_tci becomes dl_vlan and dl_vlan_pcp: 0 is untagged, mask 0x1fff the id alone, no mask
    id and priority, mask 0xf000 the priority alone.
    """
    wild = _FW_ALL
    got = dict.fromkeys(_FIELDS10, 0)
    ipv6 = ("dl_type", fl.IPV6, None) in what
    for name, value, mask in what:
        name = _ARP_TO_10.get(name, name)
        if name == "vlan_tci":
            if (value, mask) == (0, None):
                got["dl_vlan"] = _VLAN_NONE
                wild &= ~_FW["dl_vlan"]
                continue
            if not value & fl.VLAN_PRESENT or mask not in (None, 0x1FFF, 0xF000):
                raise FlowError(f"vlan_tci: OpenFlow 1.0 has no {fl.match_text(what)}")
            if mask != 0xF000:
                got["dl_vlan"] = value & 0xFFF
                wild &= ~_FW["dl_vlan"]
            if mask != 0x1FFF:
                got["dl_vlan_pcp"] = value >> 13
                wild &= ~_FW["dl_vlan_pcp"]
            continue
        if name not in got or (ipv6 and name in ("nw_proto", "nw_tos", *fl.TP)):
            raise FlowError(f"{name}: OpenFlow 1.0 cannot match it")
        if name in _FW_NW:
            plen = fl.prefix_len(0xFFFFFFFF if mask is None else mask, 32)
            if plen is None:
                raise FlowError(f"{name}: OpenFlow 1.0 takes prefixes only, not {mask:#x}")
            wild = wild & ~(0x3F << _FW_NW[name]) | 32 - plen << _FW_NW[name]
        elif mask is not None:
            raise FlowError(f"{name}: OpenFlow 1.0 takes no mask")
        else:
            wild &= ~_FW[name]
        got[name] = value
    macs = {name: got[name].to_bytes(6, "big") for name in _ADDRESSES10}
    return _MATCH10.pack(wild, *(got | macs).values())


def parse_match10(data: bytes, start: int) -> Match:
    """Parse the ofp_match at `start`.

    Fields whose prerequisites the match lacks are ignored, as a switch ignores them (3.4).
    """
    if start + MATCH10_LEN > len(data):
        raise WireError(f"match at byte {start}: truncated")
    try:
        return _parse_match10(bytes(data[start : start + MATCH10_LEN]))
    except FlowError as error:
        raise WireError(f"match at byte {start}: {error}") from None


@lru_cache(maxsize=4096)
def _parse_match10(data: bytes) -> Match:
    """Kept, because it is dear: the audit of a switch that does not tell reads the same ones again
    and again."""
    wild, *values = _MATCH10.unpack(data)
    told = dict(zip(_FIELDS10, values, strict=True))
    told |= {name: int.from_bytes(told[name], "big") for name in _ADDRESSES10}
    entries: list[tuple[str, int, int | None]] = []

    def exact(name: str, valid: int = -1) -> bool:
        if wild & _FW[name]:
            return False
        entries.append((name, told[name] & valid, None))
        return True

    for name in ("in_port", *_ADDRESSES10):
        exact(name)
    tci = mask = 0
    if not wild & _FW["dl_vlan"]:
        vlan = told["dl_vlan"]
        tci, mask = (0, 0xFFFF) if vlan == _VLAN_NONE else (0x1000 | vlan & 0xFFF, 0x1FFF)
    if not wild & _FW["dl_vlan_pcp"] and (tci or not mask):
        tci, mask = tci | 0x1000 | (told["dl_vlan_pcp"] & 7) << 13, mask | 0xF000
    entries.append(("vlan_tci", tci, mask))
    dl_type, proto = told["dl_type"], told["nw_proto"]
    if exact("dl_type") and dl_type in (fl.IPV4, fl.ARP, fl.RARP):
        for name, shift in _FW_NW.items():
            bits = wild >> shift & 0x3F
            if bits < 32:
                mask = 0xFFFFFFFF << bits & 0xFFFFFFFF
                entries.append((name, told[name] & mask, mask))
        has_proto = exact("nw_proto")
        if dl_type == fl.IPV4:
            exact("nw_tos", 0xFC)
            if has_proto and proto in (fl.TCP, fl.UDP, fl.ICMP):
                for name in fl.TP:
                    exact(name, 0xFF if proto == fl.ICMP else 0xFFFF)
    return fl.canonical(entries)


# --------------------------------------------------------------------------------------------
# Actions

_OUTPUT, _SET_VLAN, _STRIP_VLAN, _SET_DL_SRC, _SET_DL_DST, _ENQUEUE = 0, 1, 3, 4, 5, 11
_VENDOR = 0xFFFF
_NX_SET_QUEUE, _NX_MOVE, _NX_LOAD, _NX_MULTIPATH, _NX_RESUBMIT_TABLE = 4, 6, 7, 10, 14
_NX_OUTPUT_REG, _NX_DEC_TTL, _NX_CHECK_PKT_LARGER = 15, 18, 49
_HRW = 2
_HASH_NAMES = {number: name for name, number in fl.HASH_FIELDS.items()}

_HEAD = struct.Struct("!HHIH")
_S_OUTPUT = struct.Struct("!HHHH")
_S_VLAN = struct.Struct("!HHHxx")
_S_DL = struct.Struct("!HH6s6x")
_S_ENQUEUE = struct.Struct("!HHH6xI")
_S_SET_QUEUE = struct.Struct("!HHIH2xI")
_S_MOVE = struct.Struct("!HHIHHHHII")
_S_LOAD = struct.Struct("!HHIHHIQ")
_S_MULTIPATH = struct.Struct("!HHIHHH2xHHI2xHI")
_S_RESUBMIT = struct.Struct("!HHIHHB3x")
_S_OUTPUT_REG = struct.Struct("!HHIHHIH6x")
_S_DEC_TTL = struct.Struct("!HHIH6x")
_S_CHECK = struct.Struct("!HHIHHHI6x")

_FIELD_HEADER = {name: spec.nxm | spec.size for name, spec in fl.ACTION_FIELD.items()}
_HEADER_FIELD = {header: name for name, header in _FIELD_HEADER.items()}

OPENFLOW10_ACTIONS = frozenset(
    {"output", "controller", "normal", "set_vlan", "strip_vlan"}
    | {"set_dl_src", "set_dl_dst", "enqueue"}
)
"""The actions a switch without Nicira's extensions knows."""


@lru_cache(maxsize=16384)
def pack_action(action: Action) -> bytes:
    """Pack one action; FlowError where it is none."""
    match action:
        case ("output", port):
            return _S_OUTPUT.pack(_OUTPUT, 8, port, 0)
        case ("resubmit", table):
            return _S_RESUBMIT.pack(_VENDOR, 16, NX_VENDOR, _NX_RESUBMIT_TABLE, fl.IN_PORT, table)
        case ("load", name, ofs, nbits, value):
            header = _FIELD_HEADER[name]
            return _S_LOAD.pack(
                _VENDOR, 24, NX_VENDOR, _NX_LOAD, ofs << 6 | nbits - 1, header, value
            )
        case ("set_dl_src", mac):
            return _S_DL.pack(_SET_DL_SRC, 16, mac.to_bytes(6, "big"))
        case ("set_dl_dst", mac):
            return _S_DL.pack(_SET_DL_DST, 16, mac.to_bytes(6, "big"))
        case ("dec_ttl",):
            return _S_DEC_TTL.pack(_VENDOR, 16, NX_VENDOR, _NX_DEC_TTL)
        case ("set_vlan", vid):
            return _S_VLAN.pack(_SET_VLAN, 8, vid)
        case ("strip_vlan",):
            return _S_VLAN.pack(_STRIP_VLAN, 8, 0)
        case ("output_reg", reg):
            nbits = fl.ACTION_FIELD[reg].bits
            return _S_OUTPUT_REG.pack(
                _VENDOR, 24, NX_VENDOR, _NX_OUTPUT_REG, nbits - 1, _FIELD_HEADER[reg], 0xFFFF
            )
        case ("controller", max_len):
            return _S_OUTPUT.pack(_OUTPUT, 8, fl.CONTROLLER, max_len)
        case ("normal",):
            return _S_OUTPUT.pack(_OUTPUT, 8, fl.NORMAL, 0)
        case ("move", src, src_ofs, dst, dst_ofs, nbits):
            headers = _FIELD_HEADER[src], _FIELD_HEADER[dst]
            return _S_MOVE.pack(_VENDOR, 24, NX_VENDOR, _NX_MOVE, nbits, src_ofs, dst_ofs, *headers)
        case ("multipath", hash_fields, n_links, reg, basis):
            fields = fl.HASH_FIELDS[hash_fields]
            into = (fl.ACTION_FIELD[reg].bits - 1, _FIELD_HEADER[reg])
            return _S_MULTIPATH.pack(
                _VENDOR, 32, NX_VENDOR, _NX_MULTIPATH, fields, basis, _HRW, n_links - 1, 0, *into
            )
        case ("check_pkt_larger", length, reg, bit):
            header = _FIELD_HEADER[reg]
            return _S_CHECK.pack(_VENDOR, 24, NX_VENDOR, _NX_CHECK_PKT_LARGER, length, bit, header)
        case ("enqueue", port, queue):
            return _S_ENQUEUE.pack(_ENQUEUE, 16, port, queue)
        case ("set_queue", queue):
            return _S_SET_QUEUE.pack(_VENDOR, 16, NX_VENDOR, _NX_SET_QUEUE, queue)
        case ("raw", bytes() as data):
            return data
    raise FlowError(f"no action {action!r}")


def pack_actions(actions: Actions) -> bytes:
    """Pack an action list; its length is a multiple of 8."""
    return b"".join(map(pack_action, actions))


def parse_actions(data: bytes, start: int, length: int) -> Actions:
    """Parse `length` bytes of actions at `start`; WireError on lengths that make no sense."""
    if start + length > len(data):
        raise WireError(f"actions at byte {start}: {length} bytes, {len(data) - start} left")
    return _parse_actions(bytes(data[start : start + length]))


@lru_cache(maxsize=16384)
def _parse_actions(data: bytes) -> Actions:
    actions: list[Action] = []
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise WireError(f"action {len(actions) + 1}: truncated header")
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 8 or length % 8 or at + length > len(data):
            left = len(data) - at
            raise WireError(f"action {len(actions) + 1}: length {length}, {left} bytes left")
        one = data[at : at + length]
        actions.append(_parse_action(one))
        at += length
    return tuple(actions)


def _parse_action(data: bytes) -> Action:
    """One action of proper length; raw unless packing what was understood gives it back."""
    try:
        action = _read_action(data)
        if action is not None and pack_action(action) == data:
            return action
    except (FlowError, KeyError, struct.error):
        pass
    return fl.raw(data)


def _read_action(data: bytes) -> Action | None:
    kind = int.from_bytes(data[:2], "big")
    if kind == _OUTPUT:
        _, _, port, max_len = _S_OUTPUT.unpack(data)
        if port == fl.CONTROLLER:
            return fl.controller(max_len)
        return fl.normal() if port == fl.NORMAL else fl.output(port)
    if kind == _SET_VLAN:
        return fl.set_vlan(_S_VLAN.unpack(data)[2])
    if kind == _STRIP_VLAN:
        return fl.strip_vlan()
    if kind == _SET_DL_SRC:
        return fl.set_dl_src(int.from_bytes(_S_DL.unpack(data)[2], "big"))
    if kind == _SET_DL_DST:
        return fl.set_dl_dst(int.from_bytes(_S_DL.unpack(data)[2], "big"))
    if kind == _ENQUEUE:
        return fl.enqueue(*_S_ENQUEUE.unpack(data)[2:])
    if kind != _VENDOR or len(data) < 16 or _HEAD.unpack_from(data)[2] != NX_VENDOR:
        return None
    subtype = _HEAD.unpack_from(data)[3]
    if subtype == _NX_LOAD:
        ofs_nbits, header, value = _S_LOAD.unpack(data)[4:]
        return fl.load_bits(_HEADER_FIELD[header], ofs_nbits >> 6, (ofs_nbits & 63) + 1, value)
    if subtype == _NX_RESUBMIT_TABLE:
        return fl.resubmit(_S_RESUBMIT.unpack(data)[5])
    if subtype == _NX_DEC_TTL:
        return fl.dec_ttl()
    if subtype == _NX_MOVE:
        nbits, src_ofs, dst_ofs, src, dst = _S_MOVE.unpack(data)[4:]
        return fl.move_bits(_HEADER_FIELD[src], src_ofs, _HEADER_FIELD[dst], dst_ofs, nbits)
    if subtype == _NX_OUTPUT_REG:
        return fl.output_reg(_HEADER_FIELD[_S_OUTPUT_REG.unpack(data)[5]])
    if subtype == _NX_MULTIPATH:
        fields, basis, _, max_link, _, _, header = _S_MULTIPATH.unpack(data)[4:]
        return fl.multipath(_HASH_NAMES[fields], max_link + 1, _HEADER_FIELD[header], basis)
    if subtype == _NX_CHECK_PKT_LARGER:
        length, bit, header = _S_CHECK.unpack(data)[4:]
        return fl.check_pkt_larger(length, _HEADER_FIELD[header], bit)
    if subtype == _NX_SET_QUEUE:
        return fl.set_queue(_S_SET_QUEUE.unpack(data)[4])
    return None
