"""Exact flows of the reactive pipeline, which come in great numbers, from precompiled structs."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from xenflow.openflow import flow as fl
from xenflow.openflow import packet as pk
from xenflow.openflow.build import PACKET_OUT, flow_mod, flow_mod10, packet_out
from xenflow.openflow.flow import Flow, FlowError, Match
from xenflow.openflow.wire import NO_BUFFER, FlowModCommand


def exact_match(frame: bytes, in_port: int) -> Match:
    """The twelve OpenFlow 1.0 fields of a frame (3.4) as a match.

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
        if seen.nw_proto in (fl.TCP, fl.UDP, fl.ICMP):
            whole = not seen.nw_frag
            entries.update(tp_src=seen.tp_src * whole, tp_dst=seen.tp_dst * whole)
    elif seen.dl_type in (fl.ARP, fl.RARP):
        entries.update(arp_spa=seen.arp_spa, arp_tpa=seen.arp_tpa, arp_op=seen.arp_op & 0xFF)
    return fl.match(**entries)


_IPV4_PORTS = struct.Struct("!BBHHHBBH4s4s2s2s")
_TRANSPORT_LEN = {fl.TCP: 20, fl.UDP: 8, fl.ICMP: 8}


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


class PlainExactFlowPacker:
    """The reactive answer to a packet: a flow for its twelve fields, and the packet itself.

    `pack` returns an OFPT_FLOW_MOD of exact_match(), followed by an OFPT_PACKET_OUT of the frame
    with the same actions.
    """

    def __init__(self, table: int, priority: int, idle_timeout: int) -> None:
        self._blank = Flow(table, priority, (), (), 0, idle_timeout)

    def pack(self, frame: bytes, in_port: int, actions: bytes, cookie: int = 0) -> bytes:
        """flow_mod and packet_out for `frame`, ready to send; `actions` from pack_actions().

        Raises FlowError where a message would exceed 65,535 bytes.
        """
        flow = replace(self._blank, match=exact_match(frame, in_port), cookie=cookie)
        return self._flow_mod(flow, actions) + packet_out(frame, actions, in_port)

    def _flow_mod(self, flow: Flow, actions: bytes) -> bytes:
        return flow_mod10(flow, FlowModCommand.ADD, actions, 0)


class ExactFlowPacker(PlainExactFlowPacker):
    """The same with an NXT_FLOW_MOD.

    TCP, UDP and ICMP in IPv4 without options or fragments, tagged or not, go through one struct;
    all else takes the general way, to the same bytes.
    """

    def __init__(self, table: int, priority: int, idle_timeout: int) -> None:
        super().__init__(table, priority, idle_timeout)
        self._forms = {proto: self._form(proto) for proto in (fl.TCP, fl.UDP, fl.ICMP)}

    def _form(self, proto: int) -> _ExactForm:
        """The whole NXT_FLOW_MOD but for its actions; entries in the order of flow.FIELDS."""
        size = 1 if proto == fl.ICMP else 2
        header = {
            name: struct.pack("!I", spec.nxm | spec.size)
            for name, spec in (*fl.FIELD.items(), *zip(fl.TP, fl.TRANSPORT[proto], strict=True))
        }
        used = 64 + 2 * (4 + size)
        form = struct.Struct(f"!2sH12sQ28sH4s6s4s6s10sH4s4s4s4s9sB4s{size}s4s{size}s{-used % 8}x")
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
            header["tp_src"],
            header["tp_dst"],
        )
        return _ExactForm(form.pack, form.size, 20 + _TRANSPORT_LEN[proto], size, constants)

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
        pack, size, _, port_size, constants = form
        if port_size == 1:
            tp_src, tp_dst = tp_src[:1], tp_src[1:]
        used = len(actions)
        out_len = 16 + used + len(frame)
        if out_len > 0xFFFF or size + used > 0xFFFF:
            raise FlowError(f"packet_out: a frame of {len(frame)} bytes does not fit in a message")
        out = PACKET_OUT.pack(1, 13, out_len, 0, NO_BUFFER, in_port, used)
        c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10 = constants
        head = (c0, size + used, c1, cookie, c2, in_port, c3, frame[:6], c4, frame[6:12], c5, tci)
        ip = (c6, src, c7, dst, c8, tos & 0xFC, c9, tp_src, c10, tp_dst)
        return b"".join((pack(*head, *ip), actions, out, actions, frame))
