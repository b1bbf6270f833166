"""The route messages between `routerd` and the Rule Table: packed, parsed and checked.

The formats are described in `docs/messages.md`.  Called by `routerd` and by the Rule Table's
side of the same conversation (`feed.py`), and by whatever keeps routes in a file or hands them
to another controller.  Nothing here does I/O or knows what the records mean to a switch.

What comes in was written by a virtual router, which need not be honest: everything malformed is
a `MessageError`, and there is no other exception.  What goes out is our own: what the formats
cannot hold is a `PackError`.  Few records are values with names; routes, which come by the million,
stay plain tuples straight out of `Struct.iter_unpack`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from xenflow.routes.family import V6, Family

MAGIC = b"XFRT"
VERSION = 1

MAX_BYTES = 1 << 20
"""Octets in one message, all frames together."""
MAX_SECTIONS = 256
"""Section frames in one message."""
SNAPSHOT_RECORDS = 2000
"""Records in one part of a snapshot, at most."""
MAX_REMARKS = 32
"""Records before the last one of a policy, at most: remarks, and what is said of IPv6."""

E = TypeVar("E", bound=IntEnum)

HEADER_FORMAT = struct.Struct("!4sBBHQQ16s")
SECTION_FORMAT = struct.Struct("!BBHI")
_BROADCAST = 1


class MessageError(ValueError):
    """A message that does not say what it should: `what` is wrong, and `where`.

    The peer's mistake, never ours.  Whoever catches it has changed nothing yet.
    """

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{where}: {what}")
        self.what = what
        self.where = where


class PackError(ValueError):
    """Something that no message can hold was to be packed: our own mistake, never the peer's."""


class RouteMessageType(IntEnum):
    """What a message is; below 16 from routerd, from 16 on from the Rule Table."""

    HELLO = 1
    SNAPSHOT = 2
    SNAPSHOT_END = 3
    DELTA = 4
    HEARTBEAT = 5
    WELCOME = 16
    RESYNC = 17
    ACK = 18
    ALIVE = 19
    REFUSED = 20


class SectionKind(IntEnum):
    """What the records of a section are."""

    INTERFACE = 1
    LOCAL = 2
    NEXTHOP = 3
    LEG = 4
    NEIGHBOUR = 5
    ROUTE4 = 6
    ROUTE6 = 7
    POLICY = 8


class Op(IntEnum):
    """What is done with the records of a section."""

    SET = 1
    """Added, or put in the place of the record with the same key."""
    DELETE = 2


class NextHopType(IntEnum):
    """Where packets of a route go."""

    VIA = 1
    """To a gateway on a link."""
    CONNECTED = 2
    """To the destination itself, which is on the link."""
    BLACKHOLE = 3
    UNREACHABLE = 4
    PROHIBIT = 5
    VM = 6
    """To the router's VM, whose kernel decides."""
    GROUP = 7
    """To one of several next hops, its legs."""


class InterfaceFlag(IntFlag):
    """State of an interface."""

    UP = 1
    """Switched on (IFF_UP)."""
    RUNNING = 2
    """Has carrier (IFF_LOWER_UP)."""
    FORWARDING4 = 4
    """Forwards IPv4 packets that arrive on it."""
    FORWARDING6 = 8
    """Forwards IPv6 packets that arrive on it."""


class InterfaceKind(IntEnum):
    """What an interface is; a number that is not listed here stands for OTHER."""

    CARD = 0
    """A network card, as the router has one for each of its links."""
    VLAN = 1
    """An 802.1Q device on a card: its frames are tagged."""
    MACVLAN = 2
    """A device on a card with a MAC address of its own, as VRRP has one."""
    OTHER = 3
    """Anything else that stands on other devices, or on none."""


class VmReason(IntEnum):
    """Why a route goes through the VM: the gateway of a next hop of type VM."""

    UNSAID = 0
    GATEWAY6 = 1
    """An IPv4 route whose gateway is an IPv6 address (RFC 8950): as routerd said it before such a
    next hop was of type VIA."""
    ENCAPSULATION = 2
    DEVICE = 3
    """The device is not Ethernet, or does without ARP."""
    MTU = 4
    """The route's own MTU, or that of IPv6 on the link, is smaller than the link's."""
    TYPE = 5
    """A type that leads to no neighbour: throw, or local in table main."""
    SPREAD = 6
    """Several legs, chosen by more than the addresses (fib_multipath_hash_policy)."""
    SIZE = 7
    """More legs than a group may have."""
    CHOICE = 8
    """Several IPv6 routes of one prefix and metric that are not legs of one: the kernel chooses by
    their preference and by the interface that a packet came in by."""


@dataclass(frozen=True, slots=True)
class VmInterface:
    """An interface of the router, by the kernel's index; `mac` is 48 bits, 0 for none; `kind` is
    an InterfaceKind or another number."""

    ifindex: int
    flags: int
    mtu: int
    mac: int
    name: str
    kind: int = InterfaceKind.CARD


@dataclass(frozen=True, slots=True)
class Local:
    """A prefix that the kernel delivers to the VM itself (its local table).  `broadcast`: it is no
    address of the router's own, but a broadcast or an anycast one, which nobody answers for in its
    place."""

    family: int
    length: int
    ifindex: int
    address: int
    broadcast: bool = False


@dataclass(frozen=True, slots=True)
class NextHop:
    """A next hop.  `mac` is what the gateway is known by, 0 while it is unresolved.  Of one of type
    VM `gateway` is a VmReason or another number.

    family  of VIA that of the gateway, which routes of both families may have (RFC 8950); of
            CONNECTED that of the destinations; of any other type it says nothing
    """

    id: int
    type: NextHopType
    family: int
    ifindex: int
    gateway: int
    mac: int


@dataclass(frozen=True, slots=True)
class Leg:
    """One next hop `leg` of a group; a share of `weight` in the sum of the group's weights."""

    group: int
    leg: int
    weight: int
    index: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A station on the link of a CONNECTED next hop; `mac` is 0 while it is not `resolved`."""

    ifindex: int
    family: int
    resolved: bool
    address: int
    mac: int


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that decides beside the first reason, or a `fault`: something that loses packets.
    Cut to 64 octets on the way."""

    fault: bool
    words: str


@dataclass(frozen=True, slots=True)
class Policy:
    """Whether the kernel decides by more than its main tables, and why in words; and what else is
    to be said of the router.

    slow, reason    for IPv4
    slow6, reason6  for IPv6; slow6 is None where nothing is said of it
    """

    slow: bool
    reason: str
    remarks: tuple[Remark, ...] = ()
    slow6: bool | None = None
    reason6: str = ""

    def slow_of(self, family: Family) -> str:
        """Why all packets of a family go through the VM, in words; "" where a switch may route."""
        slow, reason = (
            (self.slow, self.reason) if family.number == 4 else (self.slow6, self.reason6)
        )
        if slow is None:
            return f"its routerd says nothing of {family.name}"
        return (reason or "its routerd gives no reason") if slow else ""


Route = tuple[int, int, int]
"""(net, span, next hop id) of either family; see `family` on net and span."""


@dataclass(frozen=True, slots=True)
class Header:
    """A message's first frame.

    `part` numbers the parts of a snapshot from 0; in SNAPSHOT_END it is how many there were.
    """

    type: RouteMessageType
    epoch: int
    seq: int
    router: str
    part: int = 0


@dataclass(frozen=True, slots=True)
class Section:
    """Records of one kind, to be set or deleted.

    `records` are values of the class named like the kind, except for ROUTE4 and ROUTE6, where
    they are `Route` tuples.
    """

    kind: SectionKind
    op: Op
    records: Sequence[Any]


@dataclass(frozen=True, slots=True)
class RouteMessage:
    """A whole message as parsed."""

    header: Header
    sections: list[Section]


Frames = list[bytes]
"""A message as ZeroMQ carries it."""
Rows = Iterator[tuple[Any, ...]]
"""Records as their format has them."""

# ------------------------------------------------------------------------------ packing


def pack(header: Header, sections: Iterable[Section] = ()) -> Frames:
    """A message's frames.

    Raises PackError for what the formats cannot hold (a name of more than 16 octets, an
    integer out of range) or when the message would be larger than the limits.
    """
    try:
        told = header.type, header.part, header.epoch, header.seq, _text(header.router, 16)
        frames = [HEADER_FORMAT.pack(MAGIC, VERSION, *told)]
        frames += [
            SECTION_FORMAT.pack(section.kind, section.op, 0, _count(section)) + _body(section)
            for section in sections
        ]
    except (struct.error, OverflowError, TypeError, AttributeError, UnicodeError) as error:
        raise PackError(f"a message cannot be packed: {error}") from error
    if excess := _excess(frames):
        raise PackError(f"a message would have {excess}")
    return frames


def packed_size(sections: Iterable[Section]) -> int:
    """Octets that a message with these sections takes."""
    body = sum(SECTION_FORMAT.size + RECORDS[s.kind].form.size * _count(s) for s in sections)
    return HEADER_FORMAT.size + body


def _body(section: Section) -> bytes:
    records = section.records
    if section.kind is SectionKind.ROUTE4 and len(records) == SNAPSHOT_RECORDS:
        return _FULL_ROUTES4.pack(*chain.from_iterable(records))
    form, rows, _ = RECORDS[section.kind]
    return b"".join([form.pack(*row) for row in rows(records)])


def _count(section: Section) -> int:
    """How many records a section has on its way: a policy is several."""
    if section.kind is SectionKind.POLICY:
        return sum(1 for _ in _policy_rows(section.records))
    return len(section.records)


def _text(value: str, size: int) -> bytes:
    raw = value.encode()
    if len(raw) > size or b"\0" in raw:
        raise PackError(f"the name {value!r} does not fit {size} octets")
    return raw


def _words(value: str, size: int) -> bytes:
    """A text cut to `size` octets, at a character's end."""
    return value.replace("\0", " ").encode()[:size].decode(errors="ignore").encode()


def _address(family: int, value: int) -> bytes:
    return value.to_bytes(4, "big").ljust(16, b"\0") if family == 4 else value.to_bytes(16, "big")


# Records of a kind as the rows of its format


def _interface_rows(records: Sequence[VmInterface]) -> Rows:
    for r in records:
        yield r.ifindex, r.flags, r.kind, r.mtu, r.mac.to_bytes(6, "big"), _text(r.name, 16)


def _local_rows(records: Sequence[Local]) -> Rows:
    for r in records:
        flags = _BROADCAST * r.broadcast
        yield r.family, r.length, flags, r.ifindex, _address(r.family, r.address)


def _nexthop_rows(records: Sequence[NextHop]) -> Rows:
    for r in records:
        gateway = _address(r.family, r.gateway)
        yield r.id, r.type, r.family, r.ifindex, gateway, r.mac.to_bytes(6, "big")


def _leg_rows(records: Sequence[Leg]) -> Rows:
    for r in records:
        yield r.group, r.leg, r.weight, r.index


def _neighbour_rows(records: Sequence[Neighbour]) -> Rows:
    for r in records:
        address = _address(r.family, r.address)
        yield r.ifindex, r.family, r.resolved, address, r.mac.to_bytes(6, "big")


def _route6_rows(records: Sequence[Route]) -> Rows:
    for net, span, nh in records:
        yield net.to_bytes(16, "big"), span - V6.shortest, nh


def _policy_rows(records: Sequence[Policy]) -> Rows:
    """A receiver that knows no remarks takes the last record it finds: what is said of IPv4.  One
    that knows nothing of families takes what is said of IPv6 for a remark."""
    for r in records:
        for remark in r.remarks:
            yield False, remark.fault, 0, _words(remark.words, 64)
        if r.slow6 is not None:
            yield r.slow6, False, V6.number, _words(r.reason6, 64)
        yield r.slow, False, 0, _words(r.reason, 64)


# ------------------------------------------------------------------------------ parsing


def parse(frames: Sequence[bytes]) -> RouteMessage:
    """The message in these frames.

    Raises MessageError.
    """
    header = parse_header(frames)
    return RouteMessage(header, parse_sections(frames))


def parse_header(frames: Sequence[bytes]) -> Header:
    """The header alone, for whoever must know the sender before reading on.

    Raises MessageError.
    """
    if not frames:
        raise MessageError("no frame at all", "header")
    raw = frames[0]
    if len(raw) != HEADER_FORMAT.size:
        raise MessageError(f"{len(raw)} octets, expected {HEADER_FORMAT.size}", "header")
    magic, version, code, part, epoch, seq, name = HEADER_FORMAT.unpack(raw)
    if magic != MAGIC:
        raise MessageError(f"magic {magic!r}, expected {MAGIC!r}", "header")
    if version != VERSION:
        raise MessageError(f"version {version}, this side speaks {VERSION}", "header")
    return Header(
        _enum(RouteMessageType, code, "type", "header"), epoch, seq, _name(name, "header"), part
    )


def parse_sections(frames: Sequence[bytes]) -> list[Section]:
    """The sections alone, of a message whose header has been read.

    Raises MessageError.
    """
    if excess := _excess(frames):
        raise MessageError(excess, "message")
    return [_section(frame, n) for n, frame in enumerate(frames[1:], 1)]


def _excess(frames: Sequence[bytes]) -> str:
    """Which limit a message exceeds, in words; "" where none."""
    if len(frames) > MAX_SECTIONS + 1:
        return f"{len(frames) - 1} sections, at most {MAX_SECTIONS}"
    size = sum(map(len, frames))
    return f"{size} octets, at most {MAX_BYTES}" if size > MAX_BYTES else ""


def _section(frame: bytes, number: int) -> Section:
    where = f"section {number}"
    if len(frame) < SECTION_FORMAT.size:
        raise MessageError(f"{len(frame)} octets, expected {SECTION_FORMAT.size} or more", where)
    code, op_code, reserved, count = SECTION_FORMAT.unpack_from(frame)
    kind = _enum(SectionKind, code, "kind", where)
    op = _enum(Op, op_code, "op", where)
    if reserved:
        raise MessageError(f"reserved field is {reserved}, expected 0", where)
    body = memoryview(frame)[SECTION_FORMAT.size :]
    form, _, read = RECORDS[kind]
    if len(body) != count * form.size:
        raise MessageError(
            f"{count} records of {form.size} octets announced, {len(body)} octets found", where
        )
    return Section(kind, op, list(read(form.iter_unpack(body), f"{where} ({kind.name})")))


def _enum(kind: type[E], code: int, what: str, where: str) -> E:
    try:
        return kind(code)
    except ValueError:
        raise MessageError(f"{what} {code} is unknown", where) from None


def _name(raw: bytes, where: str) -> str:
    try:
        name = raw.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise MessageError(f"name {raw!r} is not UTF-8", where) from None
    if not name or not name.isprintable():
        raise MessageError(f"name {name!r} is empty or not printable", where)
    return name


def _number(family: int, raw: bytes, where: str) -> int:
    """An address as an integer."""
    if family == 4:
        if any(raw[4:]):
            raise MessageError("an IPv4 address has more than four octets", where)
        return int.from_bytes(raw[:4], "big")
    if family == 6:
        return int.from_bytes(raw, "big")
    raise MessageError(f"family {family}, expected 4 or 6", where)


def _flag(value: int, where: str) -> bool:
    if value > 1:
        raise MessageError(f"a flag is {value}, expected 0 or 1", where)
    return bool(value)


# Rows of a format as records of its kind


def _interfaces(rows: Rows, where: str) -> Iterator[VmInterface]:
    for ifindex, flags, kind, mtu, mac, name in rows:
        if not ifindex:
            raise MessageError("ifindex 0", where)
        yield VmInterface(ifindex, flags, mtu, int.from_bytes(mac, "big"), _name(name, where), kind)


def _locals(rows: Rows, where: str) -> Iterator[Local]:
    for family, length, flags, ifindex, raw in rows:
        address = _number(family, raw, where)
        hosts, span = (_HOSTS4, length) if family == 4 else (_HOSTS6, V6.span(length))
        if span >= len(hosts) or address & hosts[span]:
            raise MessageError(f"not a prefix: {address:#x} of length {length}", where)
        yield Local(family, length, ifindex, address, bool(flags & _BROADCAST))


def _nexthops(rows: Rows, where: str) -> Iterator[NextHop]:
    for id_, code, family, ifindex, raw, mac in rows:
        if not id_:
            raise MessageError("next hop id 0", where)
        type_ = _enum(NextHopType, code, "type", where)
        gateway = _number(family, raw, where)
        if type_ <= NextHopType.CONNECTED and not ifindex:
            raise MessageError(f"next hop {id_} is {type_.name} without an interface", where)
        yield NextHop(id_, type_, family, ifindex, gateway, int.from_bytes(mac, "big"))


def _legs(rows: Rows, where: str) -> Iterator[Leg]:
    for leg in (Leg(*row) for row in rows):
        if leg.group == leg.leg:
            raise MessageError(f"group {leg.group} is a leg of itself", where)
        yield leg


def _neighbours(rows: Rows, where: str) -> Iterator[Neighbour]:
    for ifindex, family, flag, raw, mac in rows:
        resolved, address = _flag(flag, where), _number(family, raw, where)
        yield Neighbour(ifindex, family, resolved, address, int.from_bytes(mac, "big"))


_HOSTS4 = tuple((1 << 32 - plen) - 1 for plen in range(33))
_HOSTS6 = (-1,) * V6.shortest + tuple((1 << 128 - plen) - 1 for plen in range(129))
"""By span: the bits of an address that a prefix leaves to hosts."""


def _routes4(rows: Rows, where: str) -> list[Route]:
    return _prefixes(list(rows), _HOSTS4, where)


def _routes6(rows: Rows, where: str) -> list[Route]:
    number, zero = int.from_bytes, V6.shortest
    found = [(number(raw, "big"), zero + plen, nh) for raw, plen, nh in rows]
    return _prefixes(found, _HOSTS6, where)


def _prefixes(found: list[Route], hosts: tuple[int, ...], where: str) -> list[Route]:
    """Host bits are zero and lengths are possible; the happy case in one pass."""
    try:
        bad = any(net & hosts[span] for net, span, _ in found)
    except IndexError:
        bad = True
    if bad:
        net, span, _ = next(r for r in found if r[1] >= len(hosts) or r[0] & hosts[r[1]])
        length = span if hosts is _HOSTS4 else span - V6.shortest
        raise MessageError(f"not a prefix: {net:#x} of length {length}", where)
    return found


def _policies(rows: Rows, where: str) -> list[Policy]:
    """One policy: the last record; of those before, one may be of IPv6, and the others are its
    remarks."""
    found = [
        # as the sender should have written it: packed again it must be the same
        (
            _flag(slow, where),
            bool(fault),
            family,
            _words(raw.rstrip(b"\0").decode(errors="replace"), 64).decode(),
        )
        for slow, fault, family, raw in rows
    ]
    if not found:
        return []
    if len(found) > MAX_REMARKS + 1:
        raise MessageError(f"{len(found) - 1} remarks, at most {MAX_REMARKS}", where)
    slow, _, last, reason = found.pop()
    six = [(slow6, reason6) for slow6, _, family, reason6 in found if family]
    if last or len(six) > 1 or any(family not in (0, V6.number) for _, _, family, _ in found):
        raise MessageError("of a family only 6 may be said, once, before the last record", where)
    remarks = tuple(Remark(fault, words) for _, fault, family, words in found if not family)
    return [Policy(slow, reason, remarks, *(six[0] if six else ()))]


class _Records(NamedTuple):
    """How the records of a kind are packed: their format, and from records to rows and back."""

    form: struct.Struct
    rows: Callable[[Any], Rows]
    read: Callable[[Rows, str], Iterable[Any]]


RECORDS = {
    SectionKind.INTERFACE: _Records(struct.Struct("!IBBH6s2x16s"), _interface_rows, _interfaces),
    SectionKind.LOCAL: _Records(struct.Struct("!BBBxI16s"), _local_rows, _locals),
    SectionKind.NEXTHOP: _Records(struct.Struct("!IBB2xI16s6s2x"), _nexthop_rows, _nexthops),
    SectionKind.LEG: _Records(struct.Struct("!IIHH"), _leg_rows, _legs),
    SectionKind.NEIGHBOUR: _Records(struct.Struct("!IBB2x16s6s2x"), _neighbour_rows, _neighbours),
    SectionKind.ROUTE4: _Records(struct.Struct("!IBI"), iter, _routes4),
    SectionKind.ROUTE6: _Records(struct.Struct("!16sBI"), _route6_rows, _routes6),
    SectionKind.POLICY: _Records(struct.Struct("!BBBx64s"), _policy_rows, _policies),
}
_FULL_ROUTES4 = struct.Struct("!" + "IBI" * SNAPSHOT_RECORDS)
