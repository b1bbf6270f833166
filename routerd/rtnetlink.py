"""Netlink messages as bytes: requests built, answers and notifications decoded.

Formats from linux/netlink.h, linux/rtnetlink.h, linux/if.h, linux/if_link.h, linux/if_addr.h,
linux/neighbour.h, linux/nexthop.h, linux/netconf.h, linux/fib_rules.h, linux/netfilter.h,
linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h and linux/xfrm.h.  Numbers are in host byte
order, but for addresses and all of netfilter's, which are in network byte order.

A decoder raises NetlinkError for a body that has not its form, and nothing else.  Nothing here
opens a socket or keeps state.  What the messages mean for forwarding, `kernel_view.py` and what it
uses decide, and `beyond_routing.py`.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xenflow.routes.family import V6, length_of

# linux/netlink.h
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x2, 0x4, 0x10
NLM_F_DUMP, NLM_F_DUMP_FILTERED = 0x300, 0x20
NLM_F_REPLACE, NLM_F_CREATE = 0x100, 0x400
NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 2, 3, 4
NETLINK_ROUTE, NETLINK_XFRM, NETLINK_NETFILTER = 0, 6, 12
_NLA_TYPE_MASK = 0x3FFF

# linux/rtnetlink.h
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWNEIGHTBL, RTM_GETNEIGHTBL = 64, 66
RTM_NEWNETCONF, RTM_DELNETCONF, RTM_GETNETCONF = 80, 81, 82
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106
GROUPS = (1, 3, 4, 5, 7, 8, 9, 11, 19, 24, 25, 32)
"""RTNLGRP_LINK, _NEIGH, _TC, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE,
_IPV6_RULE, _IPV4_NETCONF, _IPV6_NETCONF, _NEXTHOP."""
NFNLGRP_NFTABLES, XFRMNLGRP_POLICY = 7, 4

AF_UNSPEC, AF_INET, AF_INET6, AF_BRIDGE = 0, 2, 10, 7
TABLE_DEFAULT, TABLE_MAIN, TABLE_LOCAL = 253, 254, 255
RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST = 1, 2, 3, 4, 5
RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT, RTN_THROW = 6, 7, 8, 9
RTNH_F_DEAD, RTNH_F_ONLINK, RTNH_F_LINKDOWN = 1, 4, 16
RTM_F_CLONED = 0x200
(RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_METRICS, RTA_MULTIPATH) = (1, 4, 5, 6, 8, 9)
RTA_CACHEINFO = 12
(RTA_TABLE, RTA_VIA, RTA_ENCAP_TYPE, RTA_ENCAP, RTA_NH_ID) = (15, 18, 21, 22, 30)
RTAX_MTU = 2

# linux/if.h, linux/if_link.h
IFF_UP, IFF_LOOPBACK, IFF_POINTOPOINT, IFF_NOARP, IFF_LOWER_UP = 0x1, 0x8, 0x10, 0x80, 0x10000
ARPHRD_ETHER = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO, IFLA_XDP = 1, 3, 4, 10, 18, 43
IFLA_INFO_KIND, IFLA_XDP_ATTACHED = 1, 2
IFLA_LINK, IFLA_AF_SPEC, IFLA_LINK_NETNSID = 5, 26, 37

# linux/if_link.h, linux/ipv6.h
_IFLA_INET6_CONF, _DEVCONF_MTU6, _DEVCONF_DISABLE_IPV6 = 2, 2, 26

# linux/neighbour.h
NUD_INCOMPLETE, NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE = 1, 2, 4, 8, 16
NUD_FAILED, NUD_NOARP, NUD_PERMANENT = 32, 64, 128
NUD_RESOLVED = NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT
NTF_USE, NTF_PROXY, NTF_EXT_MANAGED = 0x1, 0x8, 0x1
NDA_DST, NDA_LLADDR, NDA_PROTOCOL, NDA_FLAGS_EXT = 1, 2, 12, 15

_HEADER = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")
_RTMSG = struct.Struct("=BBBBBBBBI")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_NHMSG = struct.Struct("=BBBxI")
_FAMILY = struct.Struct("=Bxxx")
_RTNEXTHOP = struct.Struct("=HBBI")
_RTVIA = struct.Struct("=H")
_RTA_CACHEINFO = struct.Struct("=8xi")
_NEXTHOP_GRP = struct.Struct("=IBBxx")
_TCMSG = struct.Struct("=BxxxiIII")
_NFGENMSG = struct.Struct("!BBH")
_U32 = struct.Struct("=I")


class NetlinkError(OSError):
    """The kernel refused a request, or an answer does not have the form it should have."""


@dataclass(frozen=True, slots=True)
class NetlinkMessage:
    """One message: `body` is what follows the netlink header."""

    type: int
    flags: int
    seq: int
    body: bytes


def messages(data: bytes) -> Iterator[NetlinkMessage]:
    """The messages in one datagram.

    Raises NetlinkError when lengths do not fit.
    """
    offset, end = 0, len(data)
    while offset + 16 <= end:
        length, type_, flags, seq, _ = _HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > end:
            raise NetlinkError(0, f"netlink message of {length} octets in {end - offset}")
        yield NetlinkMessage(type_, flags, seq, data[offset + 16 : offset + length])
        offset += (length + 3) & ~3


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from `offset` on, by type; of several of one type the last.

    Raises NetlinkError when lengths do not fit.
    """
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        length, type_ = _ATTR.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            raise NetlinkError(0, f"attribute {type_} of {length} octets in {end - offset}")
        found[type_ & _NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def attribute(type_: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTR.pack(len(value) + 4, type_) + value + bytes(-len(value) % 4)


def request(type_: int, flags: int, seq: int, body: bytes) -> bytes:
    """One request as a message."""
    return _HEADER.pack(16 + len(body), type_, flags | NLM_F_REQUEST, seq, 0) + body


def error_number(body: bytes) -> int:
    """The errno that an NLMSG_ERROR or NLMSG_DONE carries, 0 for success."""
    return -int(struct.unpack_from("=i", body)[0]) if len(body) >= 4 else 0


def u32(raw: bytes | None) -> int:
    """A u32 attribute, 0 when it is absent or too short."""
    return int(_U32.unpack_from(raw)[0]) if raw is not None and len(raw) >= 4 else 0


def text(raw: bytes) -> str:
    """A NUL-terminated string."""
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def _head(layout: struct.Struct, body: bytes) -> tuple[int, ...]:
    """The struct that a body begins with.

    Raises NetlinkError when the body is shorter.
    """
    if len(body) < layout.size:
        raise NetlinkError(0, f"body of {len(body)} octets, expected {layout.size} or more")
    return layout.unpack_from(body)


# ------------------------------------------------------------------------------ requests

Request = tuple[int, bytes]
"""A request's type and body."""
_HEADS = {
    RTM_GETLINK: _IFINFO,
    RTM_GETADDR: _IFADDR,
    RTM_GETNEIGH: _NDMSG,
    RTM_GETRULE: _RTMSG,
    RTM_GETNEXTHOP: _NHMSG,
    RTM_GETQDISC: _TCMSG,
    RTM_GETNETCONF: _FAMILY,
    RTM_GETNEIGHTBL: _FAMILY,
}
"""What a dump request's body is.  Each begins with the family, and asks for all of it where the
rest is zero."""


def get_all(type_: int, family: int = AF_UNSPEC) -> Request:
    """A dump of everything of a type, of one family where there are several."""
    return type_, bytes((family,)).ljust(_HEADS[type_].size, b"\0")


def get_routes(family: int, table: int) -> Request:
    """A strict dump of one routing table."""
    short = table if table < 256 else 0
    body = _RTMSG.pack(family, 0, 0, 0, short, 0, 0, 0, 0)
    return RTM_GETROUTE, body + attribute(RTA_TABLE, _U32.pack(table))


def get_link(ifindex: int) -> Request:
    """One link."""
    return RTM_GETLINK, _IFINFO.pack(AF_UNSPEC, 0, ifindex, 0, 0)


# ------------------------------------------------------------------------------ decoded values


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """A link as RTM_NEWLINK tells; what changes without meaning (counters) is left out.

    kind    of a device that is made by software, as `ip link add type` names it; "" of a card
    parent  the index of the device in this network namespace that it stands on; 0 for none, or
            one elsewhere: as in a container, whose card may be a device on the host's
    mtu6    that of IPv6, which may be smaller than the link's; 0 where IPv6 is off on the link
    """

    ifindex: int
    name: str
    flags: int
    mtu: int
    mac: int
    hardware: int
    master: int
    kind: str
    xdp: bool
    parent: int = 0
    parent_elsewhere: bool = False
    mtu6: int = 0


def link(body: bytes) -> LinkInfo | None:
    """An RTM_NEWLINK or RTM_DELLINK, None for a bridge's port state (AF_BRIDGE)."""
    family, hardware, ifindex, flags, _ = _head(_IFINFO, body)
    if family == AF_BRIDGE:
        return None
    found = attributes(body, _IFINFO.size)
    mac = found.get(IFLA_ADDRESS, b"")
    info = attributes(found[IFLA_LINKINFO]) if IFLA_LINKINFO in found else {}
    xdp = attributes(found[IFLA_XDP]) if IFLA_XDP in found else {}
    kept = IFF_UP | IFF_LOOPBACK | IFF_POINTOPOINT | IFF_NOARP | IFF_LOWER_UP
    return LinkInfo(
        ifindex,
        text(found.get(IFLA_IFNAME, b"")),
        flags & kept,
        u32(found.get(IFLA_MTU)),
        int.from_bytes(mac, "big") if len(mac) == 6 else 0,
        hardware,
        u32(found.get(IFLA_MASTER)),
        text(info.get(IFLA_INFO_KIND, b"")),
        xdp.get(IFLA_XDP_ATTACHED, b"\0") != b"\0",
        0 if IFLA_LINK_NETNSID in found else u32(found.get(IFLA_LINK)),
        IFLA_LINK_NETNSID in found,
        _mtu6(attributes(found.get(IFLA_AF_SPEC, b"")).get(AF_INET6, b"")),
    )


def _mtu6(of_link: bytes) -> int:
    """See LinkInfo.  A link whose own MTU is smaller than 1280 has no IPv6."""
    conf = attributes(of_link).get(_IFLA_INET6_CONF, b"")
    off = u32(conf[4 * _DEVCONF_DISABLE_IPV6 :])
    return 0 if off else u32(conf[4 * _DEVCONF_MTU6 :])


@dataclass(frozen=True, slots=True)
class AddressInfo:
    """An address of an interface, as an integer; `scope` is RT_SCOPE_LINK for link-local;
    `duplicate`: another station has it, so that the kernel does not use it (IPv6)."""

    ifindex: int
    length: int
    address: int
    scope: int
    duplicate: bool = False


IFA_ADDRESS, IFA_LOCAL, IFA_F_NODAD, IFA_F_DADFAILED = 1, 2, 0x02, 0x08
RT_SCOPE_LINK = 253


def address(body: bytes) -> AddressInfo:
    """An RTM_NEWADDR or RTM_DELADDR."""
    _, length, flags, scope, ifindex = _head(_IFADDR, body)
    found = attributes(body, _IFADDR.size)
    raw = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, b"")
    duplicate = bool(flags & IFA_F_DADFAILED)
    return AddressInfo(ifindex, length, int.from_bytes(raw, "big"), scope, duplicate)


def add_address6(of: AddressInfo) -> Request:
    """An IPv6 link-local address, in use at once (no duplicate address detection)."""
    body = _IFADDR.pack(AF_INET6, of.length, IFA_F_NODAD, RT_SCOPE_LINK, of.ifindex)
    return RTM_NEWADDR, body + attribute(IFA_LOCAL, of.address.to_bytes(16, "big"))


@dataclass(frozen=True, slots=True)
class NeighbourInfo:
    """A neighbour entry.  `family` is 4 or 6; `mac` is 0 where the kernel has none."""

    ifindex: int
    family: int
    address: int
    mac: int
    state: int
    managed: bool
    protocol: int


_FAMILIES = {AF_INET: 4, AF_INET6: 6}
_OCTETS = {AF_INET: 4, AF_INET6: 16}
"""Of an address."""


def neighbour(body: bytes) -> NeighbourInfo | None:
    """An RTM_NEWNEIGH or RTM_DELNEIGH, None for what is no IP neighbour (bridge, proxy)."""
    raw_family, ifindex, state, flags, _ = _head(_NDMSG, body)
    family = _FAMILIES.get(raw_family)
    found = attributes(body, _NDMSG.size)
    address_ = found.get(NDA_DST, b"")
    if family is None or flags & NTF_PROXY or len(address_) != _OCTETS[raw_family]:
        return None
    mac = found.get(NDA_LLADDR, b"")
    protocol = found.get(NDA_PROTOCOL, b"\0")
    return NeighbourInfo(
        ifindex,
        family,
        int.from_bytes(address_, "big"),
        int.from_bytes(mac, "big") if len(mac) == 6 else 0,
        state,
        bool(u32(found.get(NDA_FLAGS_EXT)) & NTF_EXT_MANAGED),
        protocol[0] if protocol else 0,
    )


OUR_PROTOCOL = 0x58
"""Marks (NDA_PROTOCOL) the neighbour entries that routerd keeps resolved as its own."""


def keep_neighbour(ifindex: int, family: int, address: int, managed: bool) -> Request:
    """Have the kernel resolve an address: for good when `managed` (NTF_EXT_MANAGED, kernel 5.16),
    else this once (NTF_USE), which also takes the managed flag off again.  Both leave the entry's
    MAC as it is, and its state, unless it was permanent."""
    raw, size = (AF_INET, 4) if family == 4 else (AF_INET6, 16)
    body = _NDMSG.pack(raw, ifindex, 0, 0 if managed else NTF_USE, 0)
    body += attribute(NDA_DST, address.to_bytes(size, "big"))
    body += attribute(NDA_PROTOCOL, bytes((OUR_PROTOCOL if managed else 0,)))
    if managed:
        body += attribute(NDA_FLAGS_EXT, _U32.pack(NTF_EXT_MANAGED))
    return RTM_NEWNEIGH, body


@dataclass(frozen=True, slots=True)
class RouteHop:
    """One leg of a route.  `gateway` 0: the destination is on the link.  `family` is that of the
    gateway, 4 or 6: a route of IPv4 may have one of IPv6 (RFC 8950); 0 for none.  `plain` is false
    where the packet would not simply be sent there: encapsulated, or to no gateway of IP."""

    ifindex: int
    gateway: int
    flags: int
    weight: int
    family: int
    plain: bool = True
    encapsulated: bool = False


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """One route; `nexthop` is the id of a next hop object, `mtu` is RTAX_MTU; 0 for none.

    source   the length of the prefix that the packet's source must have (IPv6)
    expires  in how many hundredths of a second the kernel will not use it any more (IPv6): less
             than 0 where that is past already, 0 for never
    """

    family: int
    table: int
    prefix: int
    length: int
    tos: int
    metric: int
    type: int
    flags: int
    hops: tuple[RouteHop, ...]
    nexthop: int
    mtu: int
    source: int = 0
    expires: int = 0


def _hop(found: dict[int, bytes], size: int, ifindex: int, flags: int, weight: int) -> RouteHop:
    """`size`: octets of an address of the route's family."""
    encapsulated = bool(found.keys() & {RTA_ENCAP, RTA_ENCAP_TYPE})
    gateway = found.get(RTA_GATEWAY, b"")
    if RTA_VIA in found:  # struct rtvia: the family, then the address
        (raw,), gateway = _RTVIA.unpack(found[RTA_VIA][:2].ljust(2, b"\0")), found[RTA_VIA][2:]
        size = _OCTETS.get(raw, -1)
    return _way(ifindex, gateway, size, flags, weight, encapsulated)


def _way(
    ifindex: int, gateway: bytes, size: int, flags: int, weight: int, encapsulated: bool
) -> RouteHop:
    """A hop by way of a gateway of `size` octets, or of none."""
    number, family = int.from_bytes(gateway, "big"), 4 if size == 4 else 6
    plain = not encapsulated and len(gateway) in (0, size)
    return RouteHop(ifindex, number, flags, weight, family if number else 0, plain, encapsulated)


def _multipath(raw: bytes, size: int) -> Iterator[RouteHop]:
    offset = 0
    while offset + 8 <= len(raw):
        length, flags, hops, ifindex = _RTNEXTHOP.unpack_from(raw, offset)
        if length < 8 or offset + length > len(raw):
            raise NetlinkError(0, f"leg of {length} octets in {len(raw) - offset}")
        yield _hop(attributes(raw[offset + 8 : offset + length]), size, ifindex, flags, hops + 1)
        offset += (length + 3) & ~3


def route(body: bytes) -> RouteInfo | None:
    """An RTM_NEWROUTE or RTM_DELROUTE, None for what is no IP route of a table (cached entries,
    multicast forwarding)."""
    raw, length, source, tos, table, _, _, type_, flags = _head(_RTMSG, body)
    family = _FAMILIES.get(raw)
    if family is None or flags & RTM_F_CLONED:
        return None
    found, size = attributes(body, _RTMSG.size), _OCTETS[raw]
    prefix = found.get(RTA_DST, b"")
    if len(prefix) not in (0, size):
        raise NetlinkError(0, f"prefix of {len(prefix)} octets, expected {size}")
    hops: tuple[RouteHop, ...] = ()
    if RTA_MULTIPATH in found:
        hops = tuple(_multipath(found[RTA_MULTIPATH], size))
    elif RTA_OIF in found or RTA_GATEWAY in found:
        hops = (_hop(found, size, u32(found.get(RTA_OIF)), flags & 0xFF, 1),)
    metrics = attributes(found[RTA_METRICS]) if RTA_METRICS in found else {}
    cache = found.get(RTA_CACHEINFO, b"")
    expires = _RTA_CACHEINFO.unpack_from(cache)[0] if len(cache) >= _RTA_CACHEINFO.size else 0
    return RouteInfo(
        family,
        u32(found.get(RTA_TABLE)) or table,
        int.from_bytes(prefix, "big"),
        length,
        tos,
        u32(found.get(RTA_PRIORITY)),
        type_,
        flags,
        hops,
        u32(found.get(RTA_NH_ID)),
        u32(metrics.get(RTAX_MTU)),
        source,
        expires,
    )


@dataclass(frozen=True, slots=True)
class NextHopObject:
    """A next hop object of the kernel: one hop, or a group of (id, weight), or a blackhole."""

    id: int
    family: int
    hop: RouteHop | None
    group: tuple[tuple[int, int], ...]
    blackhole: bool


NHA_ID, NHA_GROUP, NHA_BLACKHOLE, NHA_OIF = 1, 2, 4, 5
NHA_GATEWAY, NHA_ENCAP_TYPE, NHA_ENCAP, NHA_FDB = 6, 7, 8, 11


def nexthop(body: bytes) -> NextHopObject:
    """An RTM_NEWNEXTHOP or RTM_DELNEXTHOP."""
    raw, _, _, flags = _head(_NHMSG, body)
    found = attributes(body, _NHMSG.size)
    members = found.get(NHA_GROUP, b"")
    if len(members) % _NEXTHOP_GRP.size:
        raise NetlinkError(0, f"group of {len(members)} octets")
    group = tuple(
        (member, (high << 8 | low) + 1) for member, low, high in _NEXTHOP_GRP.iter_unpack(members)
    )
    hop = None
    if NHA_OIF in found:
        odd = bool(found.keys() & {NHA_ENCAP_TYPE, NHA_ENCAP, NHA_FDB})
        gateway, size = found.get(NHA_GATEWAY, b""), _OCTETS.get(raw, -1)
        hop = _way(u32(found[NHA_OIF]), gateway, size, flags, 1, odd)
    return NextHopObject(
        u32(found.get(NHA_ID)), _FAMILIES.get(raw, 0), hop, group, NHA_BLACKHOLE in found
    )


@dataclass(frozen=True, slots=True)
class NetconfInfo:
    """A device's settings for one family; ifindex -1 is "all", -2 "default"; None: not told."""

    ifindex: int
    forwarding: int | None
    rp_filter: int | None
    ignore_linkdown: int | None


def netconf(body: bytes) -> NetconfInfo:
    """An RTM_NEWNETCONF or RTM_DELNETCONF."""
    found = {
        type_: struct.unpack_from("=i", value)[0]
        for type_, value in attributes(body, 4).items()
        if len(value) >= 4
    }
    return NetconfInfo(found.get(1, 0), found.get(2), found.get(3), found.get(6))


@dataclass(frozen=True, slots=True)
class RuleInfo:
    """A routing policy rule; `plain` if it selects every packet and looks up `table`."""

    priority: int
    table: int
    plain: bool


_FRA_PRIORITY, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_PROTOCOL = 6, 14, 15, 21
_FR_ACT_TO_TBL = 1
_FIB_RULE_INVERT = 2


def rule(body: bytes) -> RuleInfo:
    """An RTM_NEWRULE; its header is struct fib_rule_hdr."""
    _, dst_len, src_len, tos, table, _, _, action, flags = _head(_RTMSG, body)
    found = attributes(body, _RTMSG.size)
    known = {_FRA_PRIORITY, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_PROTOCOL}
    plain = (
        action == _FR_ACT_TO_TBL
        and not (dst_len or src_len or tos or flags & _FIB_RULE_INVERT)
        and not found.keys() - known
        and found.get(_FRA_SUPPRESS_PREFIXLEN, b"\xff\xff\xff\xff") == b"\xff\xff\xff\xff"
    )
    return RuleInfo(u32(found.get(_FRA_PRIORITY)), u32(found.get(_FRA_TABLE)) or table, plain)


@dataclass(frozen=True, slots=True)
class Qdisc:
    """A queueing discipline; `handle` is 0 of one that the kernel chose itself."""

    ifindex: int
    kind: str
    handle: int


def qdisc(body: bytes) -> Qdisc:
    """An RTM_NEWQDISC."""
    _, ifindex, handle, _, _ = _head(_TCMSG, body)
    return Qdisc(ifindex, text(attributes(body, _TCMSG.size).get(1, b"")), handle)


@dataclass(frozen=True, slots=True)
class NeighbourTable:
    """One of the kernel's tables of neighbours, which all network namespaces share.

    most   entries that it takes (gc_thresh3)
    full   how many times an entry found no room since the kernel started
    """

    name: str
    most: int
    full: int


_NDTA_NAME, _NDTA_THRESH3, _NDTA_STATS = 1, 4, 7
_NDT_STATS = struct.Struct("=11Q")
"""struct ndt_stats (linux/neighbour.h); ndts_table_fulls comes last."""


def neighbour_table(body: bytes) -> NeighbourTable | None:
    """An RTM_NEWNEIGHTBL, None for one of a device's parameters."""
    found = attributes(body, 4)
    raw = found.get(_NDTA_STATS, b"")
    if len(raw) < _NDT_STATS.size:
        return None
    full = int(_NDT_STATS.unpack_from(raw)[-1])
    return NeighbourTable(text(found.get(_NDTA_NAME, b"")), u32(found.get(_NDTA_THRESH3)), full)


# ------------------------------------------------------------------------------ netfilter, xfrm

_NFT_GETCHAIN = 10 << 8 | 4
_NFTA_TABLE, _NFTA_NAME, _NFTA_HOOK, _NFTA_POLICY, _NFTA_USE = 1, 3, 4, 5, 6
_NFPROTOS = {1: ("inet", 0), 2: ("ip", 4), 5: ("netdev", 0), 10: ("ip6", 6)}
"""Their names, and the family of the packets that they see; 0 for both."""
_HOOKS = {0: "prerouting", 2: "forward", 4: "postrouting", 5: "ingress"}


def get_chains() -> Request:
    """A dump of the chains of all families."""
    return _NFT_GETCHAIN, _NFGENMSG.pack(AF_UNSPEC, 0, 0)


def chain(body: bytes) -> tuple[str, int] | None:
    """What a chain (NFT_MSG_NEWCHAIN) is called if it sees forwarded packets and may do something
    with them, and of which family they are, 0 for both: it hooks where they pass, and has rules or
    does not accept.  Else None."""
    family, _, _ = _head(_NFGENMSG, body)
    found = attributes(body, _NFGENMSG.size)
    if family not in _NFPROTOS or _NFTA_HOOK not in found:
        return None
    hook = int.from_bytes(attributes(found[_NFTA_HOOK]).get(1, b""), "big")
    if family == 5:
        hook = 5
    if hook not in _HOOKS:
        return None
    accepts = int.from_bytes(found.get(_NFTA_POLICY, b"\0\0\0\1"), "big") == 1
    if accepts and not int.from_bytes(found.get(_NFTA_USE, b""), "big"):
        return None
    names = f"{text(found.get(_NFTA_TABLE, b''))} {text(found.get(_NFTA_NAME, b''))}"
    name, of = _NFPROTOS[family]
    return f"{name} {names} ({_HOOKS[hook]})", of


_XFRM_GETSPDINFO = 0x25


def get_spdinfo() -> Request:
    """What there is of IPsec policies; no dump."""
    return _XFRM_GETSPDINFO, _U32.pack(0xFFFFFFFF)


def spdinfo(body: bytes) -> int:
    """How many IPsec policies there are (struct xfrmu_spdinfo: in, out, forward)."""
    raw = attributes(body, 4).get(1, b"")
    return sum(struct.unpack_from("=3I", raw)) if len(raw) >= 12 else 0


# ------------------------------------------------------------------------------ bulk

_BULK = {
    AF_INET: struct.Struct(">4s4s8xBB22sI"),
    AF_INET6: struct.Struct(">4s4s8xBB22s16s"),
}
"""nlmsghdr; struct rtmsg, whose second octet is the prefix length; RTA_TABLE (8 octets) and
RTA_DST's header; then the prefix, the only thing here that is in network byte order."""
_NEWROUTE_MULTI = frozenset(
    struct.pack("=HH", RTM_NEWROUTE, NLM_F_MULTI | filtered)
    for filtered in (0, NLM_F_DUMP_FILTERED)
)
_HEAD_TABLE = _ATTR.pack(8, RTA_TABLE)
_HEAD_DST = {raw: _ATTR.pack(4 + size, RTA_DST) for raw, size in _OCTETS.items()}
_SIZES = {n.to_bytes(4, sys.byteorder): n for n in range(44, 4096)}


def bulk_routes(raw: int, data: bytes) -> Iterator[tuple[int, bytes, bytes] | NetlinkMessage]:
    """The messages of a datagram of a family's route dump (`raw`: AF_INET or AF_INET6).

    A usual route comes as (key, head, tail), undecoded but for its key, net << 8 | span: two routes
    with the same head and tail (all of the message beside prefix and length) go to the same
    place, so that decoding one is enough.  `rebuild` makes a whole body of such a pair.  All else
    (the end, errors, the default route, which has no prefix) comes as NetlinkMessage.
    """
    offset, end, short = 0, len(data), raw == AF_INET
    unpack, least, sizes = _BULK[raw].unpack_from, _BULK[raw].size, _SIZES
    expected, table, dst = _NEWROUTE_MULTI, _HEAD_TABLE, _HEAD_DST[raw]
    good: dict[bytes, bool] = {}
    while offset + 16 <= end:
        if end - offset >= least:
            size, kind, family, plen, head, prefix = unpack(data, offset)
            length = sizes.get(size)
            if kind in expected and length is not None and length >= least and family == raw:
                if head not in good:
                    good[head] = head[10:14] == table and head[18:22] == dst
                if good[head]:
                    key = prefix << 8 | plen if short else key6(prefix, plen)
                    yield key, head, data[offset + least : offset + length]
                    offset += (length + 3) & ~3
                    continue
        (length,) = _U32.unpack_from(data, offset)
        yield from messages(data[offset : offset + max(16, length)])
        offset += (max(16, length) + 3) & ~3


def key6(prefix: bytes, length: int) -> int:
    """The key of an IPv6 prefix (`xenflow.routes.family`)."""
    return int.from_bytes(prefix, "big") << 8 | V6.shortest + length


_ALIKE = {
    AF_INET: {size: struct.Struct(f">16xxB22sI{size - 44}s") for size in range(44, 512, 4)},
    AF_INET6: {size: struct.Struct(f">16xxB22s16s{size - 56}s") for size in range(56, 512, 4)},
}
"""By a message's size: as _BULK, for messages whose first 17 octets are known."""


def alike_routes(raw: int, data: bytes) -> Iterator[tuple[int, bytes, Any, bytes]] | None:
    """The routes of a datagram whose messages are all usual routes of one size, as nearly all are
    in a large table: (length, head, prefix, tail), as `bulk_routes` has them, for a fraction of
    its time; the prefix is an integer in IPv4, octets in IPv6.  None for any other datagram.  The
    caller must know the heads from `bulk_routes`.
    """
    size, end = u32(data), len(data)
    rows = _ALIKE[raw].get(size)
    if rows is None or end % size or data[4:8] not in _NEWROUTE_MULTI or data[16] != raw:
        return None
    count = end // size
    if any(data[octet::size] != data[octet : octet + 1] * count for octet in range(17)):
        return None
    found: Iterator[tuple[int, bytes, Any, bytes]] = rows.iter_unpack(data)
    return found


def rebuild(raw: int, key: int, head: bytes, tail: bytes) -> bytes:
    """The RTM_NEWROUTE body that `bulk_routes` took apart."""
    length = length_of(key & 0xFF)
    return bytes((raw, length)) + head + (key >> 8).to_bytes(_OCTETS[raw], "big") + tail


# ------------------------------------------------------------------------------ ends of dumps


def first(data: bytes) -> tuple[int, int, int]:
    """(type, flags, sequence number) of a datagram's first message.

    Raises NetlinkError where there is none.
    """
    if len(data) < 16:
        raise NetlinkError(0, f"datagram of {len(data)} octets")
    _, type_, flags, seq, _ = _HEADER.unpack_from(data)
    return type_, flags, seq


def done(data: bytes) -> tuple[int, int] | None:
    """(flags, errno) of the NLMSG_DONE (20 octets with its header) that ends a datagram, if one
    does.

    A message's own last octets may look like it; so it must also answer the same request as the
    first message.  NLMSG_DONE may carry attributes of an extended acknowledgement only when those
    were asked for, which routerd does not.
    """
    if len(data) < 20 or data[-12:-4] != data[8:16]:
        return None
    length, type_, flags, _, _ = _HEADER.unpack_from(data, len(data) - 20)
    return (flags, error_number(data[-4:])) if (length, type_) == (20, NLMSG_DONE) else None
