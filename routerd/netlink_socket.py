"""Netlink sockets: notifications without loss unnoticed, dumps that are consistent.

The only place where routerd speaks to the kernel.  Called by `daemon.py`.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

from routerd import rtnetlink as rt

# linux/netlink.h, asm-generic/socket.h
_SOL_NETLINK, _ADD_MEMBERSHIP, _GET_STRICT_CHK = 270, 1, 12
_SO_RCVBUFFORCE = 33
_DATAGRAM = 1 << 18
_ANSWER_S = 5.0
_TRIES = 10
ABSENT = {errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
ABSENT |= {errno.ECONNREFUSED, errno.EINVAL, errno.EPERM}
"""The answers of a kernel that has not what it is asked for, or does not show it to us."""


class DumpInterrupted(rt.NetlinkError):
    """A table kept changing while it was dumped, or a dump overran its socket."""


def _make_room() -> memoryview:
    """For one datagram after the other: many buffers, cut to what has come, would leave the heap in
    pieces."""
    return memoryview(bytearray(_DATAGRAM))


def _open(protocol: int, buffer: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.bind((0, 0))
    return sock


class NetlinkListener:
    """Notifications of some multicast groups.

    Raises OSError from the constructor where the kernel has no such protocol or group.
    """

    def __init__(self, protocol: int, groups: tuple[int, ...], buffer: int) -> None:
        self._sock = _open(protocol, buffer)
        self._room = _make_room()
        self._sock.setblocking(False)
        try:
            for group in groups:
                self._sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError:
            self._sock.close()
            raise

    def fileno(self) -> int:
        """For poll."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def drain(self, datagrams: int) -> tuple[list[rt.NetlinkMessage], bool]:
        """What has arrived, up to so many datagrams, and whether something was lost.

        Once something was lost everything that waits is read: until then the kernel drops what
        comes and does not say so again (NETLINK_S_CONGESTED; net/netlink/af_netlink.c).  What
        cannot be read is lost.
        """
        found: list[rt.NetlinkMessage] = []
        lost = False
        while lost or datagrams > 0:
            datagrams -= 1
            try:
                data = bytes(self._room[: self._sock.recv_into(self._room)])
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            try:
                found.extend(rt.messages(data))
            except rt.NetlinkError:
                lost = True
        return found, lost


class Requests:
    """Requests and their answers, one at a time."""

    def __init__(self, protocol: int = rt.NETLINK_ROUTE) -> None:
        self._protocol = protocol
        self._seq = int.from_bytes(os.urandom(2), "big")
        self._room = _make_room()
        self._open()

    def _open(self) -> None:
        self._sock = _open(self._protocol, 4 << 20)
        self._sock.settimeout(_ANSWER_S)
        self._dumping = False
        if self._protocol == rt.NETLINK_ROUTE:
            self._sock.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def datagrams(self, request: rt.Request) -> Iterator[bytes]:
        """The datagrams of one dump as they come, up to and including the one with NLMSG_DONE.

        Raises NetlinkError (the kernel refused), DumpInterrupted (what came is not consistent and
        must be dumped again).
        """
        self._send(request, rt.NLM_F_DUMP)
        self._dumping, last = True, False
        while not last:
            data = self._receive()
            last = self._last(data)
            self._dumping = not last
            yield data

    def _last(self, data: bytes) -> bool:
        """Whether a datagram ends the dump.  Only its first and last message need a look: the
        kernel marks an interrupted dump in a datagram's first message or in NLMSG_DONE
        (nl_dump_check_consistent, include/net/netlink.h, and who calls it), and NLMSG_DONE comes
        in a datagram of its own or at the end of one."""
        type_, flags, _ = rt.first(data)
        last = (0, rt.error_number(data[16:])) if type_ == rt.NLMSG_ERROR else rt.done(data)
        if (flags | (last[0] if last else 0)) & rt.NLM_F_DUMP_INTR:
            raise DumpInterrupted(errno.EINTR, "the table changed during the dump")
        if last and last[1]:
            raise rt.NetlinkError(last[1], os.strerror(last[1]))
        return last is not None

    def bodies(self, request: rt.Request) -> list[bytes]:
        """The messages of one dump, consistent: repeated when the table changed meanwhile.

        Raises NetlinkError.
        """
        for _ in range(_TRIES):
            try:
                return [
                    message.body
                    for data in self.datagrams(request)
                    for message in rt.messages(data)
                    if message.type > rt.NLMSG_OVERRUN
                ]
            except DumpInterrupted:
                continue
        raise DumpInterrupted(errno.EINTR, "the table never held still")

    def optional(self, request: rt.Request) -> list[bytes]:
        """The same of what this kernel may not have (IPv6, next hop objects, a table).

        Raises NetlinkError.
        """
        try:
            return self.bodies(request)
        except rt.NetlinkError as error:
            if error.errno in ABSENT:
                return []
            raise

    def ask(self, request: rt.Request) -> bytes:
        """The one answer to a request that is no dump.

        Raises NetlinkError.
        """
        self._send(request, 0)
        for message in rt.messages(self._receive()):
            if message.type != rt.NLMSG_ERROR:
                return message.body
            number = rt.error_number(message.body)
            raise rt.NetlinkError(number, os.strerror(number))
        raise rt.NetlinkError(errno.EPROTO, "empty answer")

    def change(self, request: rt.Request) -> int:
        """Ask for something to be made, or put in the place of what is there.  Returns the errno,
        0 for done.

        Raises NetlinkError where the kernel does not answer.
        """
        self._send(request, rt.NLM_F_CREATE | rt.NLM_F_REPLACE | rt.NLM_F_ACK)
        for message in rt.messages(self._receive()):
            if message.type == rt.NLMSG_ERROR:
                return rt.error_number(message.body)
        return errno.EPROTO

    def _send(self, request: rt.Request, flags: int) -> None:
        self._seq = (self._seq + 1) & 0xFFFFFFFF
        try:
            if self._dumping:  # broken off: the kernel would answer EBUSY
                self.close()
                self._open()
            self._sock.send(rt.request(request[0], flags, self._seq, request[1]))
        except OSError as error:
            raise rt.NetlinkError(error.errno, f"asking the kernel: {error.strerror}") from None

    def _receive(self) -> bytes:
        """The next datagram that answers the last request."""
        while True:
            try:
                data = bytes(self._room[: self._sock.recv_into(self._room)])
            except TimeoutError:
                raise rt.NetlinkError(errno.ETIMEDOUT, "the kernel does not answer") from None
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise DumpInterrupted(errno.ENOBUFS, "the dump overran its socket") from None
                raise rt.NetlinkError(error.errno, f"no answer: {error.strerror}") from None
            if rt.first(data)[2] == self._seq:
                return data
