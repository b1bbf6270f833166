"""Flows as values: what a switch is asked to match and to do.

A flow is a table, a priority, a match and a list of actions, all of them plain tuples and ints,
so that two flows are equal exactly when a switch would hold them as the same.  For that every
constructor here yields one canonical form: fields in the order of `FIELDS`, a full mask written
as None, a zero mask left out, values masked, ARP's addresses under their ARP names.

The planners build flows, `openflow` packs and parses them, `simulate` runs them, and the verbs
show them in the syntax of ovs-ofctl.  Nothing here knows a wire format beyond the numbers of
the Nicira match fields (Open vSwitch, include/openflow/nicira-ext.h and lib/meta-flow.h), which
flows share with actions that read or write a field.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any, NamedTuple

from xenflow.model.values import mac_text

Match = tuple[tuple[str, int, int | None], ...]
"""(field, value, mask or None for exact), in the order of FIELDS."""

Key = tuple[int, int, Match]
"""(table, priority, match), of which a switch holds at most one flow."""

Action = tuple[Any, ...]
"""The action's name, then its arguments: ints, field names, or bytes."""

Actions = tuple[Action, ...]
"""In the order of execution; the empty tuple drops."""

# OpenFlow 1.0.0, section 5.2.1 (ofp_port).
PORT_MAX = 0xFF00
IN_PORT = 0xFFF8
NORMAL = 0xFFFA
CONTROLLER = 0xFFFD
LOCAL = 0xFFFE
PORT_NONE = 0xFFFF

IPV4 = 0x0800
ARP = 0x0806
RARP = 0x8035
IPV6 = 0x86DD
ICMP = 1
TCP = 6
UDP = 17
ICMPV6 = 58
VLAN_PRESENT = 0x1000

SEND_FLOW_REM = 1
MAX_TABLE = 254


class FlowError(ValueError):
    """A flow that no switch could hold; the message names the field or the argument."""


class Field(NamedTuple):
    """One match field.

    `bits` is its width as the actions see it, `size` its width on the wire in bytes, `nxm` its
    Nicira header without length and mask bit (class << 16 | field << 9; 0 where it depends on
    nw_proto), `nxm_name` what ovs-ofctl calls it, `valid` the bits a match may set.
    """

    name: str
    bits: int
    size: int
    nxm: int
    nxm_name: str
    maskable: bool
    writable: bool
    valid: int


def _field(
    name: str,
    bits: int,
    nxm_class: int,
    nxm_field: int,
    nxm_name: str,
    maskable: bool = False,
    writable: bool = True,
    valid: int | None = None,
) -> Field:
    size = (bits + 7) // 8
    valid = (1 << bits) - 1 if valid is None else valid
    return Field(
        name, bits, size, nxm_class << 16 | nxm_field << 9, nxm_name, maskable, writable, valid
    )


_SPECS = (
    _field("in_port", 16, 0, 0, "NXM_OF_IN_PORT"),
    _field("dl_dst", 48, 0, 1, "NXM_OF_ETH_DST", True),
    _field("dl_src", 48, 0, 2, "NXM_OF_ETH_SRC", True),
    _field("dl_type", 16, 0, 3, "NXM_OF_ETH_TYPE", writable=False),
    _field("vlan_tci", 16, 0, 4, "NXM_OF_VLAN_TCI", True),
    _field("nw_src", 32, 0, 7, "NXM_OF_IP_SRC", True),
    _field("nw_dst", 32, 0, 8, "NXM_OF_IP_DST", True),
    _field("nw_proto", 8, 0, 6, "NXM_OF_IP_PROTO", writable=False),
    _field("nw_tos", 8, 0, 5, "NXM_OF_IP_TOS", valid=0xFC),
    _field("nw_ttl", 8, 1, 29, "NXM_NX_IP_TTL"),
    _field("nw_frag", 8, 1, 26, "NXM_NX_IP_FRAG", True, False, valid=3),
    _field("tp_src", 16, 0, 0, "", True, False),
    _field("tp_dst", 16, 0, 0, "", True, False),
    _field("arp_op", 16, 0, 15, "NXM_OF_ARP_OP", valid=0xFF),
    _field("arp_spa", 32, 0, 16, "NXM_OF_ARP_SPA", True),
    _field("arp_tpa", 32, 0, 17, "NXM_OF_ARP_TPA", True),
    _field("arp_sha", 48, 1, 17, "NXM_NX_ARP_SHA", True),
    _field("arp_tha", 48, 1, 18, "NXM_NX_ARP_THA", True),
    *(_field(f"reg{i}", 32, 1, i, f"NXM_NX_REG{i}", True) for i in range(8)),
    _field("ipv6_src", 128, 1, 19, "NXM_NX_IPV6_SRC", True),
    _field("ipv6_dst", 128, 1, 20, "NXM_NX_IPV6_DST", True),
    _field("nd_target", 128, 1, 23, "NXM_NX_ND_TARGET", True),
    _field("nd_sll", 48, 1, 24, "NXM_NX_ND_SLL", True),
    _field("nd_tll", 48, 1, 25, "NXM_NX_ND_TLL", True),
)
FIELDS: tuple[str, ...] = tuple(spec.name for spec in _SPECS)
FIELD: dict[str, Field] = {spec.name: spec for spec in _SPECS}

_TRANSPORT = (
    _field("tcp_src", 16, 0, 9, "NXM_OF_TCP_SRC", True),
    _field("tcp_dst", 16, 0, 10, "NXM_OF_TCP_DST", True),
    _field("udp_src", 16, 0, 11, "NXM_OF_UDP_SRC", True),
    _field("udp_dst", 16, 0, 12, "NXM_OF_UDP_DST", True),
    _field("icmp_type", 8, 0, 13, "NXM_OF_ICMP_TYPE"),
    _field("icmp_code", 8, 0, 14, "NXM_OF_ICMP_CODE"),
    _field("icmpv6_type", 8, 1, 21, "NXM_NX_ICMPV6_TYPE"),
    _field("icmpv6_code", 8, 1, 22, "NXM_NX_ICMPV6_CODE"),
)
_ND_EXTENSIONS = (
    _field("nd_reserved", 32, 0x1000, 1, "ERICOXM_OF_ICMPV6_ND_RESERVED"),
    _field("nd_options_type", 8, 0x1000, 2, "ERICOXM_OF_ICMPV6_ND_OPTIONS_TYPE"),
)
"""Of neighbour discovery, to be written only: a switch that forwards in the kernel cannot match
them.  The options' type is that of the first one."""
ACTION_FIELD: dict[str, Field] = {
    spec.name: spec for spec in _SPECS + _TRANSPORT + _ND_EXTENSIONS if spec.nxm_name
}
"""What load, move and output_reg may name: tp_src and tp_dst only by their protocol's name."""

TP = ("tp_src", "tp_dst")
TRANSPORT: dict[int, tuple[Field, Field]] = {
    TCP: (_TRANSPORT[0], _TRANSPORT[1]),
    UDP: (_TRANSPORT[2], _TRANSPORT[3]),
    ICMP: (_TRANSPORT[4], _TRANSPORT[5]),
    ICMPV6: (_TRANSPORT[6], _TRANSPORT[7]),
}
"""nw_proto -> what tp_src and tp_dst are then."""

_ORDER = {name: i for i, name in enumerate(FIELDS)}
_ARP_NAMES = {"nw_src": "arp_spa", "nw_dst": "arp_tpa", "nw_proto": "arp_op"}
_ARP_TYPES, _IP_TYPES = (ARP, RARP), (IPV4, IPV6)
_LAYERS: tuple[tuple[tuple[str, ...], tuple[int, ...], str], ...] = (
    (("nw_src", "nw_dst"), (IPV4,), "dl_type 0x0800 (or 0x0806)"),
    (("ipv6_src", "ipv6_dst"), (IPV6,), "dl_type 0x86dd"),
    (("arp_op", "arp_spa", "arp_tpa", "arp_sha", "arp_tha"), _ARP_TYPES, "dl_type 0x0806"),
    (("nw_proto", "nw_tos", "nw_ttl", "nw_frag"), _IP_TYPES, "dl_type 0x0800 or 0x86dd"),
    (TP, _IP_TYPES, "nw_proto 1, 6, 17 or 58 and its dl_type"),
)
SOLICITATION, ADVERTISEMENT = 135, 136
ND_TYPES = {
    "nd_target": (SOLICITATION, ADVERTISEMENT),
    "nd_sll": (SOLICITATION,),
    "nd_tll": (ADVERTISEMENT,),
    **dict.fromkeys(("nd_reserved", "nd_options_type"), (SOLICITATION, ADVERTISEMENT)),
}
"""Fields of neighbour discovery, and the ICMPv6 types (their code is 0) that have them (RFC 4861,
sections 4.3 and 4.4)."""
NEEDS = {name: (types, words) for names, types, words in _LAYERS for name in names}
"""The dl_type that a frame has which has this field, and what a match needs for it, in words."""

EXPERIMENTER = 0xFFFF
"""The class of fields whose value begins with the number of who defined them (OpenFlow 1.3,
ofp_oxm_experimenter_header), such as Open vSwitch's of NSH."""
OPAQUE = "nxm:"
"""A field this project has no name for, met in a foreign flow: `nxm:` and its header in hex."""


def opaque_field(name: str) -> Field:
    """Describe a field called `nxm:HHHHHHHH`: header with length, without mask bit but for one of
    class EXPERIMENTER, whose mask is in its value.

    Raises FlowError where the name is not of that form.
    """
    try:
        header = int(name[len(OPAQUE) :], 16)
    except ValueError:
        raise FlowError(f"unknown field {name}") from None
    size, masked = header & 0xFF, header & 0x100 and header >> 16 != EXPERIMENTER
    if not name.startswith(OPAQUE) or name != f"{OPAQUE}{header:08x}" or masked or not size:
        raise FlowError(f"unknown field {name}")
    return Field(name, size * 8, size, header & ~0xFF, name, True, False, (1 << size * 8) - 1)


def match(**fields: int | tuple[int, int]) -> Match:
    """Build a match: each field an int (exact) or a (value, mask) pair.

    MAC addresses are 48-bit ints, IPv4 addresses 32-bit, IPv6 128-bit.  With dl_type ARP the
    names nw_src, nw_dst and nw_proto (OpenFlow 1.0.0, section 3.4) become arp_spa, arp_tpa and
    arp_op.  Raises FlowError for an unknown field, a value out of range, a mask where the switch
    takes none, or a field without what it presupposes (nw_dst without dl_type).
    """
    return canonical(
        (name, value[0], value[1]) if isinstance(value, tuple) else (name, value, None)
        for name, value in fields.items()
    )


def canonical(entries: Iterable[tuple[str, int, int | None]]) -> Match:
    """Put (field, value, mask) entries, in any order, into canonical form; FlowError as match()."""
    got: dict[str, tuple[str, int, int | None]] = {}
    opaque = False
    for name, value, mask in entries:
        spec = FIELD.get(name)
        if spec is None:
            if not name.startswith(OPAQUE):
                raise FlowError(f"unknown field {name}")
            spec = opaque_field(name)
            opaque = True
        full = spec.valid
        if not 0 <= value <= (1 << spec.bits) - 1:
            raise FlowError(f"{name}: {value:#x} does not fit in {spec.bits} bits")
        if mask is not None:
            if not 0 <= mask <= (1 << spec.bits) - 1:
                raise FlowError(f"{name}: mask {mask:#x} does not fit in {spec.bits} bits")
            mask &= full
            value &= mask
            if not mask:
                continue
            if mask == full:
                mask = None
            elif not spec.maskable:
                raise FlowError(f"{name}: takes no mask")
        if value & ~full:
            raise FlowError(f"{name}: {value:#x} has bits outside {full:#x}")
        if name in got:
            raise FlowError(f"{name}: given twice")
        got[name] = (name, value, mask)
    _check_layers(got)
    if opaque:
        return tuple(sorted(got.values(), key=lambda e: (_ORDER.get(e[0], len(FIELDS)), e[0])))
    return tuple(sorted(got.values(), key=_order_of))


def _order_of(entry: tuple[str, int, int | None]) -> int:
    return _ORDER[entry[0]]


def _check_layers(got: dict[str, tuple[str, int, int | None]]) -> None:
    """Rename ARP's fields and refuse what the dl_type or the nw_proto rules out."""
    dl_type = got["dl_type"][1] if "dl_type" in got else None
    if dl_type in _ARP_TYPES:
        for name, arp_name in _ARP_NAMES.items():
            if name in got:
                _, value, mask = got.pop(name)
                if arp_name in got:
                    raise FlowError(f"{name}: is {arp_name}, given twice")
                got[arp_name] = (arp_name, value, mask)
    for name in got:
        if name in NEEDS and dl_type not in NEEDS[name][0]:
            but = "" if dl_type is None else f", not dl_type {dl_type:#06x}"
            raise FlowError(f"{name}: needs {NEEDS[name][1]}{but}")
    proto = got["nw_proto"][1] if "nw_proto" in got else -1
    for i, name in enumerate(TP):
        if name not in got:
            continue
        pair = TRANSPORT.get(proto)
        if pair is None or dl_type != {ICMP: IPV4, ICMPV6: IPV6}.get(proto, dl_type):
            raise FlowError(f"{name}: needs {NEEDS[name][1]}")
        if "nw_frag" in got and got["nw_frag"][1] & 2:
            raise FlowError(f"{name}: a later fragment has none")
        _, value, mask = got[name]
        if value & ~pair[i].valid:
            raise FlowError(f"{name}: {value:#x} does not fit {pair[i].name}")
        if mask is not None and not pair[i].maskable:
            if mask & 0xFF != 0xFF:
                raise FlowError(f"{name}: {pair[i].name} takes no mask")
            got[name] = (name, value, None)
    for name, types in ND_TYPES.items():
        kind, code = (got.get(tp, (tp, -1, None)) for tp in TP)
        if name in got and (proto != ICMPV6 or kind[1] not in types or code[1] != 0):
            needed = " or ".join(map(str, types))
            raise FlowError(f"{name}: needs nw_proto 58, tp_src {needed} and tp_dst 0")


# --------------------------------------------------------------------------------------------
# Actions


def _fits(what: str, value: int, bits: int) -> int:
    if not 0 <= value < 1 << bits:
        raise FlowError(f"{what}: {value:#x} does not fit in {bits} bits")
    return value


def _action_field(what: str, name: str) -> Field:
    spec = ACTION_FIELD.get(name)
    if spec is None:
        raise FlowError(f"{what}: no field {name} for actions")
    return spec


def _bits_of(what: str, name: str, ofs: int, nbits: int, write: bool) -> None:
    spec = _action_field(what, name)
    if ofs < 0 or nbits < 1 or ofs + nbits > spec.bits:
        raise FlowError(f"{what}: {name} has {spec.bits} bits, not [{ofs}..{ofs + nbits - 1}]")
    if write and not spec.writable:
        raise FlowError(f"{what}: {name} cannot be written")


def _real_port(what: str, port: int) -> int:
    if not (0 < port < PORT_MAX or port in (IN_PORT, LOCAL)):
        raise FlowError(f"{what}: {port:#x} is no port to send to")
    return port


def output(port: int) -> Action:
    """Send to `port` (1..0xfeff, IN_PORT or LOCAL); the switch drops what came from it."""
    return ("output", _real_port("output", port))


def output_reg(reg: str) -> Action:
    """Send to the port whose number is in `reg` (all of its bits)."""
    spec = _action_field("output_reg", reg)
    if spec.bits > 32:
        raise FlowError(f"output_reg: {reg} has {spec.bits} bits, more than a port number")
    return ("output_reg", reg)


def controller(max_len: int = 65535) -> Action:
    """Send the first `max_len` bytes to the controller (65535: all, unbuffered)."""
    return ("controller", _fits("controller", max_len, 16))


def resubmit(table: int) -> Action:
    """Look up `table`, do what it says, then go on with the actions that follow."""
    if not 0 <= table <= MAX_TABLE:
        raise FlowError(f"resubmit: no table {table}")
    return ("resubmit", table)


def load_address6(name: str, address: int) -> tuple[Action, Action]:
    """Write an IPv6 address into the field `name`, which takes two actions."""
    return load_bits(name, 64, 64, address >> 64), load_bits(name, 0, 64, address & (1 << 64) - 1)


def load(name: str, value: int) -> Action:
    """Write `value` into the whole field `name` (at most 64 bits wide)."""
    return load_bits(name, 0, _action_field("load", name).bits, value)


def load_bits(name: str, ofs: int, nbits: int, value: int) -> Action:
    """Write `value` into bits ofs..ofs+nbits-1 of the field `name`; at most 64 bits."""
    _bits_of("load", name, ofs, nbits, write=True)
    if nbits > 64:
        raise FlowError(f"load: {nbits} bits at once, 64 at most")
    return ("load", name, ofs, nbits, _fits(f"load {name}", value, nbits))


def move(src: str, dst: str) -> Action:
    """Copy the whole field `src` into the equally wide field `dst`."""
    bits = _action_field("move", src).bits
    if bits != _action_field("move", dst).bits:
        raise FlowError(f"move: {src} and {dst} differ in width: use move_bits")
    return move_bits(src, 0, dst, 0, bits)


def move_bits(src: str, src_ofs: int, dst: str, dst_ofs: int, nbits: int) -> Action:
    """Copy `nbits` bits of `src` from bit `src_ofs` on into `dst` from bit `dst_ofs` on."""
    _bits_of("move", src, src_ofs, nbits, write=False)
    _bits_of("move", dst, dst_ofs, nbits, write=True)
    return ("move", src, src_ofs, dst, dst_ofs, nbits)


def set_vlan(vid: int) -> Action:
    """Set the VLAN id, adding a tag (priority 0) where there is none."""
    return ("set_vlan", _fits("set_vlan", vid, 12))


def strip_vlan() -> Action:
    """Remove the VLAN tag, if any."""
    return ("strip_vlan",)


def set_dl_src(mac: int) -> Action:
    """Set the source MAC address (48-bit int)."""
    return ("set_dl_src", _fits("set_dl_src", mac, 48))


def set_dl_dst(mac: int) -> Action:
    """Set the destination MAC address (48-bit int)."""
    return ("set_dl_dst", _fits("set_dl_dst", mac, 48))


def dec_ttl() -> Action:
    """Decrement the TTL; at TTL 0 or 1 the rest of this flow's actions is not done."""
    return ("dec_ttl",)


# Open vSwitch, include/openvswitch/ofp-actions / nicira-ext.h: enum nx_hash_fields.
HASH_FIELDS = {
    "eth_src": 0,
    "symmetric_l4": 1,
    "symmetric_l3l4": 2,
    "symmetric_l3l4+udp": 3,
    "nw_src": 4,
    "nw_dst": 5,
    "symmetric_l3": 6,
}


def multipath(hash_fields: str, n_links: int, reg: str, basis: int = 0) -> Action:
    """Put a link number 0..n_links-1, chosen by hash, into `reg`.

    `hash_fields` is one of HASH_FIELDS; the algorithm is highest random weight, so that a flow
    keeps its link as long as that link stays among the first n_links.  `basis` (16 bits) begins
    the hash: with another one the same packets are spread in another way.
    """
    if hash_fields not in HASH_FIELDS:
        raise FlowError(f"multipath: no hash fields {hash_fields}")
    if not 1 <= n_links <= 0x10000:
        raise FlowError(f"multipath: {n_links} links")
    _bits_of("multipath", reg, 0, 1, write=True)
    bits = ACTION_FIELD[reg].bits
    if n_links > 1 << bits:
        raise FlowError(f"multipath: {n_links} links do not fit in {reg}")
    if not 0 <= basis <= 0xFFFF:
        raise FlowError(f"multipath: basis {basis}")
    return ("multipath", hash_fields, n_links, reg, basis)


def check_pkt_larger(length: int, reg: str, bit: int) -> Action:
    """Set bit `bit` of `reg` to whether the frame has more than `length` bytes.

    Counted are all bytes from the Ethernet header on, without the frame check sequence.
    """
    _bits_of("check_pkt_larger", reg, bit, 1, write=True)
    return ("check_pkt_larger", _fits("check_pkt_larger", length, 16), reg, bit)


def normal() -> Action:
    """Hand the frame to the switch's own learning bridge."""
    return ("normal",)


def enqueue(port: int, queue: int) -> Action:
    """Send to `port` through its queue `queue`."""
    return ("enqueue", _real_port("enqueue", port), _fits("enqueue", queue, 32))


def set_queue(queue: int) -> Action:
    """Use queue `queue` for every output that follows."""
    return ("set_queue", _fits("set_queue", queue, 32))


def raw(data: bytes) -> Action:
    """An action this project has no name for, met in a foreign flow: its bytes, header included."""
    return ("raw", data)


# --------------------------------------------------------------------------------------------
# Flows


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow of one table.

    `idle_timeout` and `hard_timeout` are in seconds (0: never).  `flags` (SEND_FLOW_REM) does
    not count when flows are compared: Open vSwitch takes it, but its Nicira flow statistics do
    not give it back.  Raises FlowError for numbers out of range.
    """

    table: int
    priority: int
    match: Match
    actions: Actions
    cookie: int = 0
    idle_timeout: int = 0
    hard_timeout: int = 0
    flags: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.table <= MAX_TABLE:
            raise FlowError(f"table: no table {self.table}")
        if not 0 <= self.priority <= 0xFFFF:
            raise FlowError(f"priority: {self.priority} does not fit in 16 bits")
        if not 0 <= self.cookie < 1 << 64:
            raise FlowError(f"cookie: {self.cookie:#x} does not fit in 64 bits")
        if not (0 <= self.idle_timeout <= 0xFFFF and 0 <= self.hard_timeout <= 0xFFFF):
            raise FlowError("timeout: does not fit in 16 bits")
        if not 0 <= self.flags <= 0xFFFF:
            raise FlowError(f"flags: {self.flags} does not fit in 16 bits")

    @property
    def key(self) -> Key:
        """(table, priority, match): a switch holds at most one flow of each key."""
        return (self.table, self.priority, self.match)


Flows = dict[Key, Flow]


# --------------------------------------------------------------------------------------------
# The text of ovs-ofctl (Open vSwitch, lib/match.c match_format and lib/ofp-actions.c)


def ip_text(address: int) -> str:
    """Dotted, as in 10.0.0.1."""
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"


def prefix_mask(plen: int) -> int:
    """The 32-bit netmask of a prefix length."""
    return 0xFFFFFFFF << 32 - plen & 0xFFFFFFFF


def prefix_len(mask: int, bits: int) -> int | None:
    """The prefix length that `mask`, `bits` bits wide, stands for; None where it is no prefix."""
    inverse = mask ^ (1 << bits) - 1
    return None if inverse & (inverse + 1) else bits - inverse.bit_length()


def _mac(value: int, mask: int | None) -> str:
    return mac_text(value) if mask is None else f"{mac_text(value)}/{mac_text(mask)}"


def _ip(value: int, mask: int | None) -> str:
    if mask is None:
        return ip_text(value)
    plen = prefix_len(mask, 32)
    return f"{ip_text(value)}/{ip_text(mask) if plen is None else plen}"


def _ip6(value: int, mask: int | None) -> str:
    if mask is None:
        return str(IPv6Address(value))
    plen = prefix_len(mask, 128)
    return f"{IPv6Address(value)}/{IPv6Address(mask) if plen is None else plen}"


def _hex(value: int, mask: int | None) -> str:
    shown = hex(value) if value else "0"
    return shown if mask is None else f"{shown}/{mask:#x}"


def _decimal(value: int, mask: int | None) -> str:
    return str(value) if mask is None else f"{value:#x}/{mask:#x}"


def _port(value: int, mask: int | None = None) -> str:
    return {IN_PORT: "IN_PORT", LOCAL: "LOCAL", NORMAL: "NORMAL", CONTROLLER: "CONTROLLER"}.get(
        value, str(value)
    )


def _vlan(value: int, mask: int | None) -> str:
    mask = 0xFFFF if mask is None else mask
    vid, pcp = mask & 0xFFF, mask & 0xE000
    if value & mask & VLAN_PRESENT and vid in (0, 0xFFF) and pcp in (0, 0xE000) and (vid or pcp):
        parts = [f"dl_vlan={value & 0xFFF}"] if vid else []
        return ",".join(parts + ([f"dl_vlan_pcp={value >> 13}"] if pcp else []))
    return f"vlan_tci=0x{value:04x}" if mask == 0xFFFF else f"vlan_tci=0x{value:04x}/0x{mask:04x}"


_FRAG = {
    (0, None): "no",
    (0, 1): "no",
    (1, None): "first",
    (3, None): "later",
    (1, 1): "yes",
    (0, 2): "not_later",
    (2, 2): "later",
}
_PROTO_TEXT = {
    (IPV4, ICMP): "icmp",
    (IPV4, 2): "igmp",
    (IPV4, TCP): "tcp",
    (IPV4, UDP): "udp",
    (IPV4, 132): "sctp",
    (IPV6, ICMPV6): "icmp6",
    (IPV6, TCP): "tcp6",
    (IPV6, UDP): "udp6",
    (IPV6, 132): "sctp6",
}
_TYPE_TEXT = {IPV4: "ip", IPV6: "ipv6", ARP: "arp", RARP: "rarp"}
_TEXT = (
    *((f"reg{i}", _hex) for i in range(8)),
    ("in_port", _port),
    ("vlan_tci", _vlan),
    ("dl_src", _mac),
    ("dl_dst", _mac),
    ("dl_type", _hex),
    ("ipv6_src", _ip6),
    ("ipv6_dst", _ip6),
    ("arp_spa", _ip),
    ("arp_tpa", _ip),
    ("nw_src", _ip),
    ("nw_dst", _ip),
    ("arp_op", _decimal),
    ("nw_proto", _decimal),
    ("arp_sha", _mac),
    ("arp_tha", _mac),
    ("nw_tos", _decimal),
    ("nw_ttl", _decimal),
    ("nw_frag", _hex),
    ("tp_src", _decimal),
    ("tp_dst", _decimal),
    ("nd_target", _ip6),
    ("nd_sll", _mac),
    ("nd_tll", _mac),
)


def match_text(what: Match) -> str:
    """The match as ovs-ofctl prints it: `ip,reg1=0x5,nw_dst=10.0.0.0/8`; empty for all."""
    got = {name: (value, mask) for name, value, mask in what}
    parts = []
    if "dl_type" in got:
        dl_type = got["dl_type"][0]
        proto = got["nw_proto"][0] if "nw_proto" in got else -1
        if (dl_type, proto) in _PROTO_TEXT:
            parts.append(_PROTO_TEXT[dl_type, proto])
            del got["dl_type"], got["nw_proto"]
        elif dl_type in _TYPE_TEXT:
            parts.append(_TYPE_TEXT[dl_type])
            del got["dl_type"]
    icmp = parts and parts[0] in ("icmp", "icmp6")
    for name, render in _TEXT:
        if name not in got:
            continue
        value, mask = got[name]
        if name == "vlan_tci":
            parts.append(_vlan(value, mask))
        elif name == "nw_frag" and (value, mask) in _FRAG:
            parts.append(f"nw_frag={_FRAG[value, mask]}")
        elif name == "dl_type":
            parts.append(f"dl_type=0x{value:04x}")
        elif icmp and name in ("tp_src", "tp_dst"):
            parts.append(f"icmp_{'type' if name == 'tp_src' else 'code'}={value}")
        else:
            parts.append(f"{name}={render(value, mask)}")
    parts += [
        f"{name}={_hex(value, mask)}" for name, value, mask in what if name.startswith(OPAQUE)
    ]
    return ",".join(parts)


def _subfield(name: str, ofs: int, nbits: int) -> str:
    spec = ACTION_FIELD[name]
    if ofs == 0 and nbits == spec.bits:
        return f"{spec.nxm_name}[]"
    return f"{spec.nxm_name}[{ofs}]" if nbits == 1 else f"{spec.nxm_name}[{ofs}..{ofs + nbits - 1}]"


def action_text(action: Action) -> str:
    """One action as ovs-ofctl prints it; `raw(HEX)` for one this project has no name for."""
    match action:
        case ("output", port):
            return _port(port) if port >= PORT_MAX else f"output:{port}"
        case ("output_reg", reg):
            return f"output:{_subfield(reg, 0, ACTION_FIELD[reg].bits)}"
        case ("controller", max_len):
            return f"CONTROLLER:{max_len}"
        case ("resubmit", table):
            return f"resubmit(,{table})"
        case ("load", name, ofs, nbits, value):
            return f"load:{value and hex(value)}->{_subfield(name, ofs, nbits)}"
        case ("move", src, src_ofs, dst, dst_ofs, nbits):
            return f"move:{_subfield(src, src_ofs, nbits)}->{_subfield(dst, dst_ofs, nbits)}"
        case ("set_vlan", vid):
            return f"mod_vlan_vid:{vid}"
        case ("set_dl_src", mac):
            return f"mod_dl_src:{mac_text(mac)}"
        case ("set_dl_dst", mac):
            return f"mod_dl_dst:{mac_text(mac)}"
        case ("multipath", hash_fields, n_links, reg, basis):
            into = _subfield(reg, 0, ACTION_FIELD[reg].bits)
            return f"multipath({hash_fields},{basis},hrw,{n_links},0,{into})"
        case ("check_pkt_larger", length, reg, bit):
            return f"check_pkt_larger({length})->{_subfield(reg, bit, 1)}"
        case ("normal",):
            return "NORMAL"
        case ("enqueue", port, queue):
            return f"enqueue:{_port(port)}:{queue}"
        case ("set_queue", queue):
            return f"set_queue:{queue}"
        case ("raw", data):
            return f"raw({data.hex()})"
        case (name,):
            return str(name)
    raise FlowError(f"no action {action!r}")


def actions_text(actions: Actions) -> str:
    """The actions as ovs-ofctl prints them; `drop` for none."""
    return ",".join(map(action_text, actions)) or "drop"


def text(flow: Flow) -> str:
    """The flow in the syntax of `ovs-ofctl add-flow`: cookie, timeouts and flags if set."""
    parts = [f"cookie={flow.cookie:#x}"] if flow.cookie else []
    parts.append(f"table={flow.table}")
    if flow.idle_timeout:
        parts.append(f"idle_timeout={flow.idle_timeout}")
    if flow.hard_timeout:
        parts.append(f"hard_timeout={flow.hard_timeout}")
    if flow.flags & SEND_FLOW_REM:
        parts.append("send_flow_rem")
    parts.append(f"priority={flow.priority}")
    if flow.match:
        parts.append(match_text(flow.match))
    return ",".join(parts) + f",actions={actions_text(flow.actions)}"
