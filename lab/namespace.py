"""Network namespaces from inside one process: enter one, make links, set what the kernel offers.

Everything that can be done with a system call is done with one, because a `fork` for each of a few
hundred settings would make the lab slow to come up; links and addresses go to `ip -batch`, one
process for many.  `inside` moves the *calling thread* only, and processes started meanwhile.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from xenflow.model.network import NetworkError
from xenflow.openflow import packet as pk

NETNS_DIR = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(NetworkError):
    """The lab could not do what was asked; the message says what, where and what to look at."""


def enter(namespace: str) -> None:
    """Move the calling thread into a namespace for good.

    Raises LabError where there is no such namespace.
    """
    try:
        fd = os.open(NETNS_DIR / namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise LabError(f"namespace {namespace} does not exist: `xenflow lab up` makes it") from None
    try:
        _setns(fd)
    finally:
        os.close(fd)


@contextmanager
def inside(namespace: str | None) -> Iterator[None]:
    """The calling thread is in a namespace (None: where it is already) for a while."""
    if namespace is None:
        yield
        return
    back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(namespace)
        try:
            yield
        finally:
            _setns(back)
    finally:
        os.close(back)


def need_root() -> None:
    """Raises LabError where this is not root: who makes, enters or ends namespaces has to be."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root: its nodes are network namespaces")


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise LabError(f"setns: {os.strerror(number)}: the lab needs root")


def exists(namespace: str) -> bool:
    """Whether a namespace of that name exists."""
    return (NETNS_DIR / namespace).exists()


def ip(commands: Iterable[str], namespace: str | None = None, *, force: bool = False) -> None:
    """Run `ip` commands in one process; with `force` go on after those that fail.

    Raises LabError with what the tool said.
    """
    batch("ip", commands, namespace, force=force)


def tc(commands: Iterable[str], namespace: str | None = None, *, force: bool = False) -> None:
    """The same with `tc`."""
    batch("tc", commands, namespace, force=force)


def batch(
    tool: str, commands: Iterable[str], namespace: str | None, *, force: bool = False
) -> None:
    """Feed commands to `ip`, `ip -6` or `tc`."""
    text = "\n".join(commands)
    if not text:
        return
    argv = [*tool.split(), *(["-force"] if force else []), "-batch", "-"]
    # not `ip -n`: that mounts /sys anew, which cannot be done in a chroot
    with inside(namespace):
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode and not force:
        where = f" in {namespace}" if namespace else ""
        raise LabError(f"{' '.join(argv)}{where}: {done.stderr.strip()}\n{text}")


def sysctl(settings: dict[str, str | int], namespace: str | None = None) -> dict[str, str]:
    """Set kernel parameters (names with slashes, below /proc/sys); returns what they were.

    A parameter that this kernel does not have is left out.
    """
    before = {}
    with inside(namespace):
        for name, value in settings.items():
            path = Path("/proc/sys", name)
            with suppress(FileNotFoundError, PermissionError):
                before[name] = path.read_text().strip()
                path.write_text(str(value))
    return before


def at_least(settings: Mapping[str, int]) -> dict[str, str]:
    """Raise kernel parameters of this namespace (named as for `sysctl`) to values that they are
    below of; returns what those that were raised have been."""
    before = {}
    for name, value in settings.items():
        path = Path("/proc/sys", name)
        with suppress(OSError, ValueError):
            was = path.read_text().strip()
            if int(was) < value:
                path.write_text(str(value))
                before[name] = was
    return before


def veth(one: tuple[str, str], other: tuple[str, str], mtu: int, mac: str = "") -> str:
    """The `ip` command that makes a pair of interfaces, each (namespace, name); `mac` is the
    first one's address."""
    address = f"address {mac} " if mac else ""
    return (
        f"link add name {one[1]} {address}mtu {mtu} netns {one[0]} "
        f"type veth peer name {other[1]} mtu {mtu} netns {other[0]}"
    )


def by_namespace(interfaces: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The names of interfaces, each (namespace, name), by namespace."""
    found: dict[str, list[str]] = {}
    for namespace, name in interfaces:
        found.setdefault(namespace, []).append(name)
    return found


_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17


def raise_interfaces(interfaces: Iterable[str], namespace: str) -> None:
    """Switch interfaces on."""
    with inside(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name in interfaces:
            request = struct.pack("16sH14x", name.encode(), 0)
            try:
                (flags,) = struct.unpack_from("H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)
                request = struct.pack("16sH14x", name.encode(), flags | _IFF_UP)
                fcntl.ioctl(sock, _SIOCSIFFLAGS, request)
            except OSError as error:
                raise LabError(f"{namespace}: {name}: switched on: {error}") from None


def checksums_in_software(interfaces: Iterable[str], namespace: str | None) -> None:
    """Turn transmit checksum offload off: with it on, UDP that a userspace switch forwards
    arrives with checksums that nobody has computed, and is dropped."""
    with inside(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name in interfaces:
            value = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_STXCSUM, 0))
            request = struct.pack("16sP8x", name.encode(), ctypes.addressof(value))
            try:
                fcntl.ioctl(sock, _SIOCETHTOOL, request)
            except OSError as error:
                raise LabError(f"{namespace}: {name}: checksum offload: {error}") from None


def processes_in(namespace: str) -> list[int]:
    """The processes whose network namespace this is, whoever started them."""
    try:
        wanted = (NETNS_DIR / namespace).stat()
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                here = (entry / "ns/net").stat()
                if (here.st_ino, here.st_dev) == (wanted.st_ino, wanted.st_dev):
                    found.append(int(entry.name))
    return found


_ECHO, _ECHO6 = (8, 0), (128, 129)
"""The types of a request and its reply (RFC 792, RFC 4443)."""


class IcmpEcho:
    """ICMP echo from inside a namespace, without a process for each; with an IPv6 source ICMPv6's.

    The socket stays in the namespace it was made in.
    """

    def __init__(self, namespace: str | None, source: str = "") -> None:
        self._ipv6 = ":" in source
        self._request, self._reply = _ECHO6 if self._ipv6 else _ECHO
        family = socket.AF_INET6 if self._ipv6 else socket.AF_INET
        protocol = socket.IPPROTO_ICMPV6 if self._ipv6 else socket.IPPROTO_ICMP
        with inside(namespace):
            self._socket = socket.socket(family, socket.SOCK_RAW, protocol)
            if source:
                self._socket.bind((source, 0))
        self._socket.setblocking(False)
        self._id = (os.getpid() ^ id(self)) & 0xFFFF
        self._sequence = 0

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def send(self, address: str) -> int:
        """Send one request; returns its sequence number, or -1 where there is no route."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        try:
            # of ICMPv6 the kernel puts the checksum in
            request = pk.icmp(self._request, rest=self._id << 16 | self._sequence)
            self._socket.sendto(request, (address, 0))
        except OSError:
            return -1
        return self._sequence

    def receive(self) -> list[tuple[str, int]]:
        """The (address, sequence) of the replies that have come."""
        found: list[tuple[str, int]] = []
        while True:
            try:
                packet, (address, *_) = self._socket.recvfrom(2048)
            except OSError:
                return found
            header = 0 if self._ipv6 else (packet[0] & 15) * 4
            kind, _, _, echo_id, sequence = struct.unpack_from("!BBHHH", packet, header)
            if kind == self._reply and echo_id == self._id:
                found.append((address, sequence))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
