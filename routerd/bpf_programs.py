"""Asks the kernel for BPF programs that see forwarded packets and are in no other list.

Programs at tcx (from Linux 6.6 on) hang on an interface without a queueing discipline, and
netfilter programs (from Linux 6.4 on) in a hook without a chain; the kernel notifies of neither.
XDP programs are in every list of links, and are looked at there.  Called by `beyond_routing.py`.

Structs and numbers from linux/bpf.h.  Where bpf(2) does not exist, or is not allowed, there is
nothing to be found.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "i686": 357, "armv7l": 386}
_PROG_QUERY, _LINK_GET_FD_BY_ID, _LINK_GET_NEXT_ID, _OBJ_GET_INFO_BY_FD = 16, 30, 31, 15
_TCX = {"tcx ingress": 46, "tcx egress": 47}
_LINK_TYPE_NETFILTER = 10
_QUERY = struct.Struct("=IIIIQI4xQQQQ")
"""target_ifindex, attach_type, query_flags, attach_flags, prog_ids, count, ..., revision."""
_FORWARDING_HOOKS = (0, 2, 4)
"""NF_INET_PRE_ROUTING, NF_INET_FORWARD, NF_INET_POST_ROUTING."""
_NFPROTO_IPV4 = 2
_libc = ctypes.CDLL(None, use_errno=True)


def at_tcx(ifindex: int) -> str:
    """Where programs hang at tcx on an interface, "" for nowhere."""
    for name, attach_type in _TCX.items():
        made = _bpf(_PROG_QUERY, _QUERY.pack(ifindex, attach_type, 0, 0, 0, 0, 0, 0, 0, 0))
        if made is not None and _QUERY.unpack(made)[5]:
            return name
    return ""


def in_netfilter() -> bool:
    """Whether a netfilter program sees forwarded IPv4 packets, in any network namespace: the kernel
    does not say in which."""
    for link in _links():
        info = ctypes.create_string_buffer(64)
        asked = struct.pack("=IIQ", link, len(info), ctypes.addressof(info))
        answer = _bpf(_OBJ_GET_INFO_BY_FD, asked)
        os.close(link)
        if answer is None:
            continue
        kind, _, _, family, hook = struct.unpack_from("=III4xII", info.raw)
        if kind == _LINK_TYPE_NETFILTER and family == _NFPROTO_IPV4 and hook in _FORWARDING_HOOKS:
            return True
    return False


def _links() -> Iterator[int]:
    """A file descriptor of each BPF link, to be closed by the caller."""
    number = 0
    while (found := _bpf(_LINK_GET_NEXT_ID, struct.pack("=III", number, 0, 0))) is not None:
        (number,) = struct.unpack_from("=4xI", found)
        file = _call(_LINK_GET_FD_BY_ID, bytearray(struct.pack("=III", number, 0, 0)))
        if file >= 0:
            yield file


def _bpf(command: int, attributes: bytes) -> bytes | None:
    """The attributes as the kernel filled them in, None where it refused."""
    buffer = bytearray(attributes)
    return bytes(buffer) if _call(command, buffer) >= 0 else None


def _call(command: int, buffer: bytearray) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        return -1
    raw = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    return int(_libc.syscall(number, command, raw, len(buffer)))
