"""Looks for what decides about forwarded packets beside the routing tables.

Packet filters (nftables base chains that hook where packets pass, and have rules or drop; tables
of the older iptables), IPsec policies, traffic control, BPF programs.  The switch knows nothing of
them, so where one is found the whole router goes through its VM.  Called by `daemon.py` when the
kernel notifies of a change, and every few seconds for what it does not notify of.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from routerd import bpf_programs
from routerd import rtnetlink as rt
from routerd.kernel_tables import Reason
from routerd.netlink_socket import ABSENT, Requests

# linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h, linux/netfilter/x_tables.h
_IPT_SO_GET_INFO, _IPT_SO_GET_ENTRIES = 64, 65
_GETINFO = struct.Struct("=32sI5I5III")
_GET_ENTRIES_HEAD = 40
_TARGET_HEAD = 32
_ACCEPT = -2  # -NF_ACCEPT - 1: the verdict of a standard target
_ACTING_HOOKS = (0, 2, 4)
"""NF_INET_PRE_ROUTING, NF_INET_FORWARD, NF_INET_POST_ROUTING."""


class _Legacy(NamedTuple):
    """What iptables is of a family: `target` is where an entry says where its target is."""

    command: str
    names: Path
    socket: int
    level: int
    target: int


_LEGACY = {
    4: _Legacy(
        "iptables", Path("/proc/net/ip_tables_names"), socket.AF_INET, socket.IPPROTO_IP, 88
    ),
    6: _Legacy(
        "ip6tables", Path("/proc/net/ip6_tables_names"), socket.AF_INET6, socket.IPPROTO_IPV6, 140
    ),
}

_PLAIN_QDISCS = frozenset(("noqueue", "noop", "mq", "pfifo", "bfifo", "pfifo_fast", "fq_codel"))
"""Those that send whatever there is, in its order within a flow: like a switch's port."""


def reasons(data_links: Mapping[int, str]) -> tuple[Reason, ...]:
    """What else decides.  `data_links`: the interfaces' names, by index.

    Raises NetlinkError where the kernel does not say: that there is nothing is not known then.
    """
    found = [*_nftables(), *_legacy(4), *_legacy(6), *_ipsec(), *_traffic_control(data_links)]
    found += [
        Reason(f"{hook} program on {name}")
        for ifindex, name in data_links.items()
        if (hook := bpf_programs.at_tcx(ifindex))
    ]
    if bpf_programs.in_netfilter():
        found.append(Reason("netfilter BPF program"))
    return tuple(found)


def _answers(protocol: int, request: rt.Request, *, dump: bool = True) -> list[bytes]:
    """What the kernel answers; nothing where it has not what it is asked for."""
    try:
        with closing(Requests(protocol)) as requests:
            return requests.bodies(request) if dump else [requests.ask(request)]
    except OSError as error:
        if error.errno in ABSENT:
            return []
        raise rt.NetlinkError(error.errno, error.strerror) from None


def _nftables() -> Iterator[Reason]:
    """The first chain of each kind of family: one of both stands for the others."""
    chains = filter(None, map(rt.chain, _answers(rt.NETLINK_NETFILTER, rt.get_chains())))
    first: dict[int, str] = {}
    for name, family in chains:
        first.setdefault(family, name)
    for family, name in first.items():
        yield Reason(f"nftables {name}", family)


def _legacy(family: int) -> Iterator[Reason]:
    legacy = _LEGACY[family]
    try:
        names = legacy.names.read_text().split()
    except OSError:
        return
    acting = [name for name in names if _acts(legacy, name)]
    if acting:
        yield Reason(f"{legacy.command} table {acting[0]}", family)


def _acts(legacy: _Legacy, table: str) -> bool:
    """Whether an iptables table has rules of its own or a policy other than accept; True where
    that cannot be found out."""
    try:
        with socket.socket(legacy.socket, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            empty = table.encode().ljust(32, b"\0") + bytes(_GETINFO.size - 32)
            raw = _getsockopt(sock, legacy.level, _IPT_SO_GET_INFO, empty)
            _, valid, *rest = _GETINFO.unpack(raw)
            underflows, entries, size = rest[5:10], rest[10], rest[11]
            if entries > valid.bit_count() + 1:
                return True
            head = table.encode().ljust(32, b"\0") + struct.pack("=Ixxxx", size)
            blob = _getsockopt(sock, legacy.level, _IPT_SO_GET_ENTRIES, head + bytes(size))
            blob = blob[_GET_ENTRIES_HEAD:]
    except (OSError, ValueError, struct.error):
        return True
    return any(
        valid >> hook & 1 and _verdict(blob, underflows[hook], legacy.target) != _ACCEPT
        for hook in _ACTING_HOOKS
    )


def _verdict(blob: bytes, offset: int, says_target: int) -> int:
    (target,) = struct.unpack_from("=H", blob, offset + says_target)
    return int(struct.unpack_from("=i", blob, offset + target + _TARGET_HEAD)[0])


def _getsockopt(sock: socket.socket, level: int, option: int, value: bytes) -> bytes:
    """getsockopt whose buffer carries a question: Python's own passes an empty one."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(value, len(value))
    length = ctypes.c_uint32(len(value))
    if libc.getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(length)):
        raise OSError(ctypes.get_errno(), f"getsockopt {option}")
    return buffer.raw


def _ipsec() -> Iterator[Reason]:
    """The kernel counts those of both families together."""
    policies = sum(map(rt.spdinfo, _answers(rt.NETLINK_XFRM, rt.get_spdinfo(), dump=False)))
    if policies:
        yield Reason(f"{policies} IPsec policies")


def _traffic_control(data_links: Mapping[int, str]) -> Iterator[Reason]:
    for each in map(rt.qdisc, _answers(rt.NETLINK_ROUTE, rt.get_all(rt.RTM_GETQDISC))):
        name = data_links.get(each.ifindex)
        if name is None:
            continue
        if each.kind in ("ingress", "clsact"):
            yield Reason(f"ingress traffic control on {name}")
        elif each.handle and each.kind not in _PLAIN_QDISCS:
            yield Reason(f"queueing discipline {each.kind} on {name}")
