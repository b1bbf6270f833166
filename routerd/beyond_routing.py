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

from routerd import bpf_programs
from routerd import rtnetlink as rt
from routerd.netlink_socket import ABSENT, Requests

_LEGACY = Path("/proc/net/ip_tables_names")

# linux/netfilter_ipv4/ip_tables.h, linux/netfilter/x_tables.h
_IPT_SO_GET_INFO, _IPT_SO_GET_ENTRIES = 64, 65
_GETINFO = struct.Struct("=32sI5I5III")
_GET_ENTRIES_HEAD = 40
_ENTRY_TARGET_OFFSET, _TARGET_HEAD = 88, 32
_ACCEPT = -2  # -NF_ACCEPT - 1: the verdict of a standard target
_ACTING_HOOKS = (0, 2, 4)
"""NF_INET_PRE_ROUTING, NF_INET_FORWARD, NF_INET_POST_ROUTING."""


_PLAIN_QDISCS = frozenset(("noqueue", "noop", "mq", "pfifo", "bfifo", "pfifo_fast", "fq_codel"))
"""Those that send whatever there is, in its order within a flow: like a switch's port."""


def reasons(data_links: Mapping[int, str]) -> tuple[str, ...]:
    """What else decides, in words.  `data_links`: the interfaces' names, by index.

    Raises NetlinkError where the kernel does not say: that there is nothing is not known then.
    """
    found = [_nftables(), _legacy(), _ipsec(), *_traffic_control(data_links)]
    found += [
        f"{hook} program on {name}"
        for ifindex, name in data_links.items()
        if (hook := bpf_programs.at_tcx(ifindex))
    ]
    if bpf_programs.in_netfilter():
        found.append("netfilter BPF program")
    return tuple(filter(None, found))


def _answers(protocol: int, request: rt.Request, *, dump: bool = True) -> list[bytes]:
    """What the kernel answers; nothing where it has not what it is asked for."""
    try:
        with closing(Requests(protocol)) as requests:
            return requests.bodies(request) if dump else [requests.ask(request)]
    except OSError as error:
        if error.errno in ABSENT:
            return []
        raise rt.NetlinkError(error.errno, error.strerror) from None


def _nftables() -> str:
    bodies = _answers(rt.NETLINK_NETFILTER, rt.get_chains())
    return next((f"nftables {name}" for name in map(rt.chain, bodies) if name), "")


def _legacy() -> str:
    try:
        names = _LEGACY.read_text().split()
    except OSError:
        return ""
    return next((f"iptables table {name}" for name in names if _acts(name)), "")


def _acts(table: str) -> bool:
    """Whether an iptables table has rules of its own or a policy other than accept; True where
    that cannot be found out."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            empty = table.encode().ljust(32, b"\0") + bytes(_GETINFO.size - 32)
            raw = _getsockopt(sock, _IPT_SO_GET_INFO, empty)
            _, valid, *rest = _GETINFO.unpack(raw)
            underflows, entries, size = rest[5:10], rest[10], rest[11]
            if entries > valid.bit_count() + 1:
                return True
            head = table.encode().ljust(32, b"\0") + struct.pack("=Ixxxx", size)
            blob = _getsockopt(sock, _IPT_SO_GET_ENTRIES, head + bytes(size))[_GET_ENTRIES_HEAD:]
    except (OSError, ValueError, struct.error):
        return True
    return any(
        valid >> hook & 1 and _verdict(blob, underflows[hook]) != _ACCEPT for hook in _ACTING_HOOKS
    )


def _verdict(blob: bytes, offset: int) -> int:
    (target,) = struct.unpack_from("=H", blob, offset + _ENTRY_TARGET_OFFSET)
    return int(struct.unpack_from("=i", blob, offset + target + _TARGET_HEAD)[0])


def _getsockopt(sock: socket.socket, option: int, value: bytes) -> bytes:
    """getsockopt whose buffer carries a question: Python's own passes an empty one."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(value, len(value))
    length = ctypes.c_uint32(len(value))
    if libc.getsockopt(sock.fileno(), socket.IPPROTO_IP, option, buffer, ctypes.byref(length)):
        raise OSError(ctypes.get_errno(), f"getsockopt {option}")
    return buffer.raw


def _ipsec() -> str:
    policies = sum(map(rt.spdinfo, _answers(rt.NETLINK_XFRM, rt.get_spdinfo(), dump=False)))
    return f"{policies} IPsec policies" if policies else ""


def _traffic_control(data_links: Mapping[int, str]) -> Iterator[str]:
    for each in map(rt.qdisc, _answers(rt.NETLINK_ROUTE, rt.get_all(rt.RTM_GETQDISC))):
        name = data_links.get(each.ifindex)
        if name is None:
            continue
        if each.kind in ("ingress", "clsact"):
            yield f"ingress traffic control on {name}"
        elif each.handle and each.kind not in _PLAIN_QDISCS:
            yield f"queueing discipline {each.kind} on {name}"
