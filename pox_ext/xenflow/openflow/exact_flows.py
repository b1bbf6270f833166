"""Exact flows of the reactive pipeline, which come in great numbers, from precompiled structs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from xenflow.openflow import flow as fl
from xenflow.openflow import packet as pk
from xenflow.openflow.build import PACKET_OUT, flow_mod, flow_mod10, packet_out
from xenflow.openflow.flow import Flow, FlowError, Match
from xenflow.openflow.wire import NO_BUFFER, FlowModCommand


def exact_match(frame: bytes, in_port: int, ipv6: bool = True) -> Match:
    """The twelve OpenFlow 1.0 fields of a frame (3.4) as a match; of an IPv6 packet those that
    stand for them, or with `ipv6` False none of it.

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
    icmp = {fl.IPV4: fl.ICMP, fl.IPV6: fl.ICMPV6}.get(seen.dl_type)
    if seen.dl_type == fl.IPV4:
        entries.update(nw_src=seen.nw_src, nw_dst=seen.nw_dst)
    elif seen.dl_type == fl.IPV6 and ipv6:
        entries.update(ipv6_src=seen.ipv6_src, ipv6_dst=seen.ipv6_dst)
    if seen.dl_type == fl.IPV4 or (seen.dl_type == fl.IPV6 and ipv6):
        entries.update(nw_proto=seen.nw_proto, nw_tos=seen.nw_tos)
        if seen.nw_proto in (fl.TCP, fl.UDP, icmp):
            whole = not seen.nw_frag
            entries.update(tp_src=seen.tp_src * whole, tp_dst=seen.tp_dst * whole)
    elif seen.dl_type in (fl.ARP, fl.RARP):
        entries.update(arp_spa=seen.arp_spa, arp_tpa=seen.arp_tpa, arp_op=seen.arp_op & 0xFF)
    return fl.match(**entries)


_IPV4_PORTS = struct.Struct("!BBHHHBBH4s4s2s2s")
_IPV6_PORTS = struct.Struct("!HxxHBx16s16s2s2s")
_TRANSPORT_LEN = {fl.TCP: 20, fl.UDP: 8, fl.ICMP: 8, fl.ICMPV6: 4}


class _ExactForm(NamedTuple):
    """Exact flows of one IP protocol.

    How to pack, the size before the actions, the least IP length (IPv6's without its header), the
    bytes of a port, and the constants between the fields.
    """

    pack: Callable[..., bytes]
    size: int
    least: int
    port_size: int
    constants: tuple[bytes, ...]


class PlainExactFlowPacker:
    """The reactive answer to a packet: a flow for its twelve fields, and the packet itself.

    `pack` returns an OFPT_FLOW_MOD of exact_match(), followed by an OFPT_PACKET_OUT of the frame
    with the same actions.
    """

    _ipv6 = False
    """Whether a switch can tell IPv6 packets apart."""

    def __init__(self, table: int, priority: int, idle_timeout: int) -> None:
        self._blank = Flow(table, priority, (), (), 0, idle_timeout)

    def pack(self, frame: bytes, in_port: int, actions: bytes, cookie: int = 0) -> bytes:
        """flow_mod and packet_out for `frame`, ready to send; `actions` from pack_actions().

        Raises FlowError where a message would exceed 65,535 bytes.
        """
        what = exact_match(frame, in_port, self._ipv6)
        flow = replace(self._blank, match=what, cookie=cookie)
        return self._flow_mod(flow, actions) + packet_out(frame, actions, in_port)

    def _flow_mod(self, flow: Flow, actions: bytes) -> bytes:
        return flow_mod10(flow, FlowModCommand.ADD, actions, 0)


class ExactFlowPacker(PlainExactFlowPacker):
    """The same with an NXT_FLOW_MOD.

    TCP, UDP and ICMP without options or fragments, tagged or not, go through one struct; all else
    takes the general way, to the same bytes.
    """

    _ipv6 = True

    def __init__(self, table: int, priority: int, idle_timeout: int) -> None:
        super().__init__(table, priority, idle_timeout)
        self._forms = {proto: self._form(proto) for proto in (fl.TCP, fl.UDP, fl.ICMP)}
        self._forms6 = {proto: self._form6(proto) for proto in (fl.TCP, fl.UDP, fl.ICMPV6)}

    def _form(self, proto: int) -> _ExactForm:
        """The whole NXT_FLOW_MOD but for its actions; entries in the order of flow.FIELDS."""
        size = 1 if proto == fl.ICMP else 2
        header = _headers(proto)
        used = 64 + 2 * (4 + size)
        form = struct.Struct(f"!2sH12sQ28sH4s6s4s6s10sH4s4s4s4s9sB4s{size}s4s{size}s{-used % 8}x")
        constants = (
            *self._begin(header, used, fl.IPV4),
            header["nw_src"],
            header["nw_dst"],
            header["nw_proto"] + bytes((proto,)) + header["nw_tos"],
            header["tp_src"],
            header["tp_dst"],
        )
        return _ExactForm(form.pack, form.size, 20 + _TRANSPORT_LEN[proto], size, constants)

    def _form6(self, proto: int) -> _ExactForm:
        """The same of IPv6, whose addresses come last."""
        size = 1 if proto == fl.ICMPV6 else 2
        header = _headers(proto)
        used = 88 + 2 * (4 + size)
        form = struct.Struct(f"!2sH12sQ28sH4s6s4s6s10sH9sB4s{size}s4s{size}s4s16s4s16s{-used % 8}x")
        return _ExactForm(
            form.pack,
            form.size,
            _TRANSPORT_LEN[proto],
            size,
            (
                *self._begin(header, used, fl.IPV6),
                header["nw_proto"] + bytes((proto,)) + header["nw_tos"],
                header["tp_src"],
                header["tp_dst"],
                header["ipv6_src"],
                header["ipv6_dst"],
            ),
        )

    def _begin(self, header: Mapping[str, bytes], used: int, dl_type: int) -> tuple[bytes, ...]:
        """The constants up to the first field of the IP header."""
        head = flow_mod(self._blank)
        return (
            head[:2],
            head[4:16],
            head[24:40] + struct.pack("!H6x", used) + header["in_port"],
            header["dl_dst"],
            header["dl_src"],
            header["dl_type"] + struct.pack("!H", dl_type) + header["vlan_tci"],
        )

    def _flow_mod(self, flow: Flow, actions: bytes) -> bytes:
        return flow_mod(replace(flow, actions=(fl.raw(actions),)))

    def pack(self, frame: bytes, in_port: int, actions: bytes, cookie: int = 0) -> bytes:
        """See `PlainExactFlowPacker`."""
        kind = frame[12:14]
        tci = 0
        at = 14
        if kind == b"\x81\0" and len(frame) >= 18:
            kind = frame[16:18]
            tci = frame[14] << 8 | frame[15] | 0x1000
            at = 18
        if kind == b"\x86\xdd" and len(frame) >= at + 44:
            return self._pack6(frame, at, tci, in_port, actions, cookie)
        if kind != b"\x08\0" or len(frame) < at + 24:
            return super().pack(frame, in_port, actions, cookie)
        (ihl, tos, length, _, frag, _, proto, _, src, dst, tp_src, tp_dst) = (
            _IPV4_PORTS.unpack_from(frame, at)
        )
        form = self._forms.get(proto)
        if (
            form is None
            or ihl & 15 != 5
            or frag & 0x3FFF
            or not form.least <= length <= len(frame) - at
        ):
            return super().pack(frame, in_port, actions, cookie)
        if form.port_size == 1:
            tp_src, tp_dst = tp_src[:1], tp_src[1:]
        ip = src, dst, tos & 0xFC, tp_src, tp_dst
        return _messages(form, frame, tci, in_port, ip, actions, cookie)

    def _pack6(
        self, frame: bytes, at: int, tci: int, in_port: int, actions: bytes, cookie: int
    ) -> bytes:
        first, length, proto, src, dst, tp_src, tp_dst = _IPV6_PORTS.unpack_from(frame, at)
        form = self._forms6.get(proto)
        if form is None or not form.least <= length <= len(frame) - at - 40:
            return super().pack(frame, in_port, actions, cookie)
        if form.port_size == 1:
            tp_src, tp_dst = tp_src[:1], tp_src[1:]
        ip = first >> 4 & 0xFC, tp_src, tp_dst, src, dst
        return _messages(form, frame, tci, in_port, ip, actions, cookie)


def _headers(proto: int) -> dict[str, bytes]:
    """The header of each field, those of the ports as this protocol has them."""
    transport = zip(fl.TP, fl.TRANSPORT[proto], strict=True)
    fields = (*fl.FIELD.items(), *transport)
    return {name: struct.pack("!I", spec.nxm | spec.size) for name, spec in fields}


def _messages(
    form: _ExactForm,
    frame: bytes,
    tci: int,
    in_port: int,
    ip: tuple[bytes | int, bytes | int, bytes | int, bytes | int, bytes | int],
    actions: bytes,
    cookie: int,
) -> bytes:
    """The flow_mod, with the values of the IP header in the form's order, and the packet_out.
    Raises FlowError where one of both is too long."""
    pack, size, _, _, (c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10) = form
    used = len(actions)
    length = 16 + used + len(frame)
    if length > 0xFFFF or size + used > 0xFFFF:
        raise FlowError(f"packet_out: a frame of {len(frame)} bytes does not fit in a message")
    out = PACKET_OUT.pack(1, 13, length, 0, NO_BUFFER, in_port, used)
    head = (c0, size + used, c1, cookie, c2, in_port, c3, frame[:6], c4, frame[6:12], c5, tci)
    v0, v1, v2, v3, v4 = ip
    values = (c6, v0, c7, v1, c8, v2, c9, v3, c10, v4)
    return b"".join((pack(*head, *values), actions, out, actions, frame))
