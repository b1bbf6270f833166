"""What a switch's flow tables do with a frame, without the switch.

Who asks: tests (*where does this packet leave?*), the reactive mode, the `trace` verb.  The
semantics are Open vSwitch's (ofproto/ofproto-dpif-xlate.c), its surprises included; each was
compared with a real one:

- an output to the port the frame came from is dropped, unless NXM_OF_IN_PORT was overwritten;
- after a resubmit the remaining actions go on, with the registers as the resubmit left them;
- more than 64 resubmits deep (only those to the same or a lower table count), or more than 4,096
  in all, the frame is dropped entirely: what was output before is not sent either;
- dec_ttl at TTL 0 or 1 ends this flow's actions only: the flow that resubmitted to it goes on;
- an IPv4 header with protocol 0 is never rewritten, though the tables see the new values, and
  so are ports that are both 0;
- a fragment, the first one too, is looked up with ports 0, though its actions see its ports;
- load and move do nothing where the frame lacks the field (the ports of a later fragment);
- what runs after check_pkt_larger is undone when its flow's actions end: the flow that
  resubmitted to it sees the registers and headers from before;
- checksums are adjusted by the difference, so that a wrong one stays wrong.

A table without a matching flow drops.  (For table 0 Open vSwitch would instead ask a controller
that speaks OpenFlow 1.0, unless a lowest flow says drop.)  `multipath` hashes here in a way of
its own: which link a real switch takes cannot be foretold, only that it is one of the n.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2s
from typing import Any, NamedTuple

from xenflow.openflow import flow as fl
from xenflow.openflow import packet as pk
from xenflow.openflow.build import BY_ACTION
from xenflow.openflow.flow import Actions, Flow, FlowError
from xenflow.openflow.parse import PacketIn
from xenflow.openflow.wire import NO_BUFFER

MAX_DEPTH = 64
MAX_RESUBMITS = MAX_DEPTH * MAX_DEPTH

Fields = dict[str, int]


# --------------------------------------------------------------------------------------------
# Tables


class _Group:
    """The flows of one table with one priority that look at the same bits of the same fields."""

    __slots__ = ("flows", "key_of", "priority")

    def __init__(self, priority: int, shape: tuple[tuple[str, int | None], ...]) -> None:
        self.priority = priority
        self.flows: dict[tuple[int, ...], Flow] = {}
        exact = all(mask is None for _, mask in shape)
        names = tuple(name for name, _ in shape)
        masks = tuple(-1 if mask is None else mask for _, mask in shape)

        def masked(fields: Fields) -> tuple[int, ...]:
            return tuple([fields[n] & m for n, m in zip(names, masks, strict=True)])

        def plain(fields: Fields) -> tuple[int, ...]:
            return tuple([fields[n] for n in names])

        self.key_of: Callable[[Fields], tuple[int, ...]] = plain if exact else masked


class Tables:
    """A switch's flow tables: at most one flow of each (table, priority, match)."""

    def __init__(self, flows: Iterable[Flow] = ()) -> None:
        self._groups: dict[tuple[int, int, tuple[tuple[str, int | None], ...]], _Group] = {}
        self._ordered: dict[int, list[_Group]] = {}
        for flow in flows:
            self.add(flow)

    def add(self, flow: Flow) -> None:
        """Add the flow, or put it in the place of the one with its key.

        Raises FlowError for a field this project has no name for.
        """
        shape = tuple((name, mask) for name, _, mask in flow.match)
        group = self._groups.get((flow.table, flow.priority, shape))
        if group is None:
            for name, _ in shape:
                if name not in fl.FIELD:
                    raise FlowError(f"{name}: cannot be simulated")
            group = _Group(flow.priority, shape)
            self._groups[flow.table, flow.priority, shape] = group
            ordered = self._ordered.setdefault(flow.table, [])
            ordered.append(group)
            ordered.sort(key=lambda g: -g.priority)
        group.flows[tuple(value for _, value, _ in flow.match)] = flow

    def lookup(self, table: int, fields: Fields) -> Flow | None:
        """The flow of highest priority that matches; undefined among overlapping equals."""
        for group in self._ordered.get(table, ()):
            flow = group.flows.get(group.key_of(fields))
            if flow is not None:
                return flow
        return None


# --------------------------------------------------------------------------------------------
# Running


class Lookup(NamedTuple):
    """One lookup: the table, what it found (None: nothing), and the registers at that moment."""

    table: int
    flow: Flow | None
    registers: tuple[int, ...]


@dataclass(slots=True)
class Fate:
    """What became of a frame.

    `outputs` in order: (port, frame), ("controller", frame) or ("normal", frame).  `packet_ins`:
    what the controller gets of those that are for it, in their order.  `error` says why everything
    was dropped in spite of outputs; `ttl_expired` that a dec_ttl met TTL 0 or 1.
    """

    outputs: list[tuple[int | str, bytes]] = field(default_factory=list)
    packet_ins: list[PacketIn] = field(default_factory=list)
    trace: list[Lookup] = field(default_factory=list)
    error: str = ""
    ttl_expired: bool = False

    @property
    def ports(self) -> list[int | str]:
        """Where the frame went, in order."""
        return [port for port, _ in self.outputs]


class _TooDeepError(Exception):
    """The frame is dropped: resubmits without end."""


def run(tables: Tables, frame: bytes, in_port: int, start: int = 0) -> Fate:
    """Let `frame` arrive at `in_port` and be looked up in table `start`.

    Raises FlowError where a flow that matches has an action this project has no name for.
    """
    simulation = _Simulation(tables, frame, in_port)
    return simulation.bounded(simulation.lookup, start)


def run_actions(tables: Tables, frame: bytes, in_port: int, actions: Actions) -> Fate:
    """Let `frame` go through `actions` as a packet_out with this in_port does."""
    simulation = _Simulation(tables, frame, in_port)
    return simulation.bounded(simulation.do, actions)


class _Simulation:
    def __init__(self, tables: Tables, frame: bytes, in_port: int) -> None:
        self.tables = tables
        self.verdict = Fate()
        self.frame = frame
        self.packet = pk.parse(frame)
        self.fields = pk.fields(frame, in_port)
        self.depth = 0
        self.table = 0
        self.resubmits = 0

    def bounded(self, do: Callable[..., None], what: int | Actions) -> Fate:
        try:
            do(what)
        except _TooDeepError as error:
            self.verdict.error = str(error)
            self.verdict.outputs.clear()
            self.verdict.packet_ins.clear()
        return self.verdict

    def lookup(self, table: int) -> None:
        self.table, fields = table, self.fields
        if fields["nw_frag"]:
            fields = {**fields, "tp_src": 0, "tp_dst": 0}
        flow = self.tables.lookup(table, fields)
        self.resubmits += flow is not None
        registers = tuple([self.fields[name] for name in _REGISTERS])
        self.verdict.trace.append(Lookup(table, flow, registers))
        self.do(flow.actions if flow else ())

    def do(self, actions: Actions) -> None:
        """One action list; a list ends early where dec_ttl meets its limit."""
        for at, action in enumerate(actions):
            kind = action[0]
            if kind == "check_pkt_larger":
                self.check_pkt_larger(action, actions[at + 1 :])
                return
            if kind == "dec_ttl":
                if not self.dec_ttl():
                    return
            else:
                getattr(self, f"do_{kind}", self.unknown)(*action[1:])

    def unknown(self, *arguments: Any) -> None:
        raise FlowError(f"an action that cannot be simulated: {arguments!r}")

    # Actions, by their names in flow.Action

    def do_output(self, port: int) -> None:
        fields = self.fields
        if port == fl.IN_PORT:
            if fields["in_port"]:
                self.send(fields["in_port"])
        elif port == fl.NORMAL:
            self.send("normal")
        elif port == fl.CONTROLLER:
            self.do_controller()
        elif port != fields["in_port"]:
            self.send(port)

    def do_output_reg(self, reg: str) -> None:
        port = self.read(reg, 0, fl.ACTION_FIELD[reg].bits)
        if port <= 0xFFFF and (0 < port < fl.PORT_MAX or port in _RESERVED):
            self.do_output(port)

    def do_enqueue(self, port: int, queue: int) -> None:
        self.do_output(port)

    def do_set_queue(self, queue: int) -> None:
        pass

    def do_controller(self, max_len: int = 0xFFFF) -> None:
        self.send("controller")
        frame, fields = self.verdict.outputs[-1][1], self.fields
        registers = {name: fields[name] for name in _REGISTERS if fields[name]}
        self.verdict.packet_ins.append(
            PacketIn(0, NO_BUFFER, len(frame), fields["in_port"], BY_ACTION, frame, registers)
        )

    def do_normal(self) -> None:
        self.send("normal")

    def do_resubmit(self, table: int) -> None:
        if self.depth >= MAX_DEPTH:
            raise _TooDeepError(f"more than {MAX_DEPTH} resubmits deep")
        if self.resubmits >= MAX_RESUBMITS:
            raise _TooDeepError(f"more than {MAX_RESUBMITS} resubmits")
        table_before = self.table
        deeper = table <= table_before
        self.depth += deeper
        self.lookup(table)
        self.table = table_before
        self.depth -= deeper

    def do_load(self, name: str, ofs: int, nbits: int, value: int) -> None:
        self.write(name, ofs, nbits, value)

    def do_move(self, src: str, src_ofs: int, dst: str, dst_ofs: int, nbits: int) -> None:
        if self.has(src):
            self.write(dst, dst_ofs, nbits, self.read(src, src_ofs, nbits))

    def do_set_vlan(self, vid: int) -> None:
        tci = self.fields["vlan_tci"]
        self.fields["vlan_tci"] = tci & 0xE000 | fl.VLAN_PRESENT | vid

    def do_strip_vlan(self) -> None:
        self.fields["vlan_tci"] = 0

    def do_set_dl_src(self, mac: int) -> None:
        self.fields["dl_src"] = mac

    def do_set_dl_dst(self, mac: int) -> None:
        self.fields["dl_dst"] = mac

    def do_multipath(self, hash_fields: str, n_links: int, reg: str, basis: int) -> None:
        """A hash of the fields (for the symmetric ones in sorted order), modulo the links.  Not
        CRC-32: over that a basis would turn all flows of a leg to one other leg alike."""
        fields = self.fields
        names = _HASHED[hash_fields]
        values = [[fields[name] for name in pair] for pair in names]
        if hash_fields.startswith("symmetric"):
            values = [sorted(pair) for pair in values]
        digest = blake2s(repr((basis, values)).encode(), digest_size=4).digest()
        link = int.from_bytes(digest, "big") % n_links
        self.write(reg, 0, fl.ACTION_FIELD[reg].bits, link)

    def dec_ttl(self) -> bool:
        """False where this list of actions ends here."""
        fields = self.fields
        if fields["dl_type"] not in (fl.IPV4, fl.IPV6):
            return True
        if fields["nw_ttl"] <= 1:
            self.verdict.ttl_expired = True
            return False
        fields["nw_ttl"] -= 1
        return True

    def check_pkt_larger(self, action: tuple[Any, ...], rest: Actions) -> None:
        _, length, reg, bit = action
        before = dict(self.fields)
        self.write(reg, bit, 1, int(len(self.rewritten()) > length))
        self.do(rest)
        self.fields = before

    # Fields

    def has(self, name: str) -> bool:
        """Whether the frame has the field (lib/meta-flow.c, mf_are_prereqs_ok)."""
        fields = self.fields
        if name in _TRANSPORT:
            proto, types, _ = _TRANSPORT[name]
            later = fields["nw_frag"] & pk.FRAG_LATER
            return fields["dl_type"] in types and fields["nw_proto"] == proto and not later
        if name in fl.ND_TYPES:
            return self.has("icmpv6_type") and (
                fields["tp_src"] in fl.ND_TYPES[name] and fields["tp_dst"] == 0
            )
        return name not in fl.NEEDS or fields["dl_type"] in fl.NEEDS[name][0]

    def read(self, name: str, ofs: int, nbits: int) -> int:
        name = _TRANSPORT[name][2] if name in _TRANSPORT else name
        return self.fields[name] >> ofs & (1 << nbits) - 1

    def write(self, name: str, ofs: int, nbits: int, value: int) -> None:
        if not self.has(name):
            return
        name = _TRANSPORT[name][2] if name in _TRANSPORT else name
        mask = (1 << nbits) - 1 << ofs
        self.fields[name] = self.fields[name] & ~mask | value << ofs

    # The frame

    def send(self, where: int | str) -> None:
        self.verdict.outputs.append((where, self.rewritten()))

    def rewritten(self) -> bytes:
        return rewrite(self.frame, self.packet, self.fields)


_REGISTERS = tuple(f"reg{i}" for i in range(8))
_RESERVED = (fl.IN_PORT, fl.NORMAL, fl.CONTROLLER, fl.LOCAL)
_BOTH = (fl.IPV4, fl.IPV6)
_TRANSPORT = {
    "tcp_src": (fl.TCP, _BOTH, "tp_src"),
    "tcp_dst": (fl.TCP, _BOTH, "tp_dst"),
    "udp_src": (fl.UDP, _BOTH, "tp_src"),
    "udp_dst": (fl.UDP, _BOTH, "tp_dst"),
    "icmp_type": (fl.ICMP, (fl.IPV4,), "tp_src"),
    "icmp_code": (fl.ICMP, (fl.IPV4,), "tp_dst"),
    "icmpv6_type": (fl.ICMPV6, (fl.IPV6,), "tp_src"),
    "icmpv6_code": (fl.ICMPV6, (fl.IPV6,), "tp_dst"),
}
_L3_PAIRS = (("nw_src", "nw_dst"), ("ipv6_src", "ipv6_dst"))
_HASHED: dict[str, tuple[tuple[str, ...], ...]] = {
    "eth_src": (("dl_src",),),
    "nw_src": (("nw_src", "ipv6_src"),),
    "nw_dst": (("nw_dst", "ipv6_dst"),),
    "symmetric_l3": _L3_PAIRS,
    "symmetric_l4": (("dl_src", "dl_dst"), *_L3_PAIRS, ("nw_proto",), ("tp_src", "tp_dst")),
    "symmetric_l3l4": (*_L3_PAIRS, ("nw_proto",), ("tp_src", "tp_dst")),
    "symmetric_l3l4+udp": (*_L3_PAIRS, ("nw_proto",), ("tp_src", "tp_dst")),
}


def rewrite(frame: bytes, packet: pk.Packet, fields: Fields) -> bytes:
    """The frame with `fields` in place of what `packet` (its parse) says; checksums adjusted."""
    if len(frame) < 14:
        return frame
    body = bytearray(frame)
    if fields["dl_type"] == fl.IPV4 and packet.nw_proto:
        _rewrite_ipv4(body, packet, fields)
    elif fields["dl_type"] in (fl.ARP, fl.RARP):
        _rewrite_arp(body, packet, fields)
    elif fields["dl_type"] == fl.IPV6 and packet.nw_proto:
        _rewrite_ipv6(body, packet, fields)
    body[0:6] = fields["dl_dst"].to_bytes(6, "big")
    body[6:12] = fields["dl_src"].to_bytes(6, "big")
    if fields["vlan_tci"] != packet.vlan_tci:
        if packet.vlan_tci:
            del body[12:16]
        if fields["vlan_tci"] & fl.VLAN_PRESENT:
            tci = fields["vlan_tci"] & 0xEFFF
            body[12:12] = struct.pack("!HH", pk.ETH_VLAN, tci)
    return bytes(body)


def _adjust(body: bytearray, at: int, old: bytes, new: bytes) -> None:
    """Adjust the checksum at `at` for `old` having become `new` (RFC 1624, equation 3)."""
    total = ~int.from_bytes(body[at : at + 2], "big") & 0xFFFF
    for i in range(0, len(old), 2):
        total += ~int.from_bytes(old[i : i + 2], "big") & 0xFFFF
        total += int.from_bytes(new[i : i + 2], "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body[at : at + 2] = (~total & 0xFFFF).to_bytes(2, "big")


def _transport_checksum(body: bytearray, packet: pk.Packet) -> int | None:
    """Where the transport checksum is that covers the addresses, if there is one.

    Open vSwitch looks for it in later fragments of IPv4 too, where it is really payload.
    """
    at = packet.l4
    if packet.nw_frag & pk.FRAG_LATER and packet.dl_type == fl.IPV4:
        at = packet.l3 + (body[packet.l3] & 15) * 4
    if not at:
        return None
    if packet.nw_proto == fl.TCP and packet.end - at >= 20:
        return at + 16
    if packet.nw_proto == fl.UDP and packet.end - at >= 8 and body[at + 6 : at + 8] != b"\0\0":
        return at + 6
    if packet.nw_proto == fl.ICMPV6:
        return at + 2
    return None


def _replace(body: bytearray, at: int, new: bytes, sums: tuple[int | None, ...], udp: bool) -> None:
    old = bytes(body[at : at + len(new)])
    if old == new:
        return
    body[at : at + len(new)] = new
    for where in sums:
        if where is not None:
            _adjust(body, where, old, new)
    if udp and sums[-1] is not None and body[sums[-1] : sums[-1] + 2] == b"\0\0":
        body[sums[-1] : sums[-1] + 2] = b"\xff\xff"


def _rewrite_ipv4(body: bytearray, packet: pk.Packet, fields: Fields) -> None:
    at = packet.l3
    header = at + 10
    inner = _transport_checksum(body, packet)
    udp = packet.nw_proto == fl.UDP
    for name, where in (("nw_src", at + 12), ("nw_dst", at + 16)):
        _replace(body, where, fields[name].to_bytes(4, "big"), (header, inner), udp)
    tos = bytes((body[at], fields["nw_tos"] & 0xFC | body[at + 1] & 3))
    _replace(body, at, tos, (header,), False)
    ttl = bytes((fields["nw_ttl"], body[at + 9]))
    _replace(body, at + 8, ttl, (header,), False)
    _rewrite_ports(body, packet, fields, inner)


def _rewrite_ipv6(body: bytearray, packet: pk.Packet, fields: Fields) -> None:
    at = packet.l3
    inner = _transport_checksum(body, packet)
    udp = packet.nw_proto == fl.UDP
    for name, where in (("ipv6_src", at + 8), ("ipv6_dst", at + 24)):
        _replace(body, where, fields[name].to_bytes(16, "big"), (inner,), udp)
    first = int.from_bytes(body[at : at + 4], "big")
    first = first & ~0x0FC00000 | (fields["nw_tos"] & 0xFC) << 20
    body[at : at + 4] = first.to_bytes(4, "big")
    body[at + 7] = fields["nw_ttl"]
    _rewrite_nd(body, packet, fields)
    _rewrite_ports(body, packet, fields, inner)


def _rewrite_nd(body: bytearray, packet: pk.Packet, fields: Fields) -> None:
    """A solicitation's or an advertisement's fields.  Open vSwitch writes the type of the first
    option whatever is there, and the checksum anew; then addresses, up to the first option that
    has one."""
    at = packet.l4
    if packet.nw_proto != fl.ICMPV6 or not at or packet.end - at < pk.ND_HEADER:
        return
    checksum = at + 2
    changed = {name for name in fl.ND_TYPES if fields[name] != getattr(packet, name)}
    if changed & {"nd_reserved", "nd_options_type"}:
        body[at + 4 : at + 8] = fields["nd_reserved"].to_bytes(4, "big")
        if at + pk.ND_HEADER < len(body):
            body[at + pk.ND_HEADER] = fields["nd_options_type"]
        body[checksum : checksum + 2] = bytes(2)
        message = bytes(body[at : packet.end])
        whole = pk.icmpv6_checksum(fields["ipv6_src"], fields["ipv6_dst"], message)
        body[checksum : checksum + 2] = whole.to_bytes(2, "big")
    if changed & {"nd_target", "nd_sll", "nd_tll"}:
        _replace(body, at + 8, fields["nd_target"].to_bytes(16, "big"), (checksum,), False)
        for name, where in pk.link_layer_options(body, packet):
            _replace(body, where, fields[name].to_bytes(6, "big"), (checksum,), False)
            break


def _rewrite_ports(body: bytearray, packet: pk.Packet, fields: Fields, inner: int | None) -> None:
    at = packet.l4
    old, new = (packet.tp_src, packet.tp_dst), (fields["tp_src"], fields["tp_dst"])
    if not at or old == new:
        return
    if packet.nw_proto in (fl.TCP, fl.UDP):
        udp = packet.nw_proto == fl.UDP
        _replace(body, at, struct.pack("!HH", *new), (inner,), udp)
    elif packet.nw_proto == fl.ICMP:
        _replace(body, at, bytes(new), (at + 2,), False)
    elif packet.nw_proto == fl.ICMPV6:
        _replace(body, at, bytes(new), (inner,), False)


def _rewrite_arp(body: bytearray, packet: pk.Packet, fields: Fields) -> None:
    at = packet.l3
    if at + 28 > len(body):
        return
    if fields["arp_op"] != packet.arp_op:
        body[at + 6 : at + 8] = fields["arp_op"].to_bytes(2, "big")
    for name, where, size in (
        ("arp_sha", at + 8, 6),
        ("arp_spa", at + 14, 4),
        ("arp_tha", at + 18, 6),
        ("arp_tpa", at + 24, 4),
    ):
        if fields[name] != getattr(packet, name):
            body[where : where + size] = fields[name].to_bytes(size, "big")
