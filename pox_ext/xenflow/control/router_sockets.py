"""The Rule Table's sockets for virtual routers: one for each, on that router's own link.

A router's control vif is a link between its VM and this Domain 0, and nothing else.  The Rule
Table listens there at the same link-local address in every Domain 0, so a router that has been
moved finds the local one again.  Whoever speaks on that socket is the router whose vif it is;
what a message says of its sender is only checked against that (`routes.feed`).  No management verb
is understood here.

A router that says more than it may, or than its switches take, is not read for as long: what it
says stays in its own kernel, and TCP slows it down.  libzmq cannot do that (`zmtp` says why),
so ZeroMQ's protocol is spoken here without it.  Of one router this process keeps at most
MAX_CONNECTIONS messages of 1 MiB.

A vif comes when the VM is created or arrives and goes when it leaves: the interfaces that the
network names are looked for whenever the kernel says that links have changed.
"""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

from pox.lib.recoco import Select, Sleep, Task

from xenflow.control import zmtp
from xenflow.model.network import Network
from xenflow.routes.messages import MAX_BYTES, MAX_SECTIONS
from xenflow.switch.problems import Lines

log = logging.getLogger("xenflow.routers")

ADDRESS = "tcp://[fe80::1%{vif}]:6641"
RTMGRP_LINK, RTMGRP_IPV6_IFADDR = 0x1, 0x100
"""Source: linux/rtnetlink.h."""
LOOK_S = 1.0
"""How often vifs are looked for, should a change have gone unnoticed."""
AGAIN_S = 0.05
"""How soon a vif is tried again that is there and cannot be listened on yet."""

MAX_CONNECTIONS = 4
"""Of one router; the one that was heard longest ago makes room for a new one."""
MAX_LIVING = 2 * MAX_CONNECTIONS
"""With those that are closed and not gone yet: one that is not read for a while has its descriptor
for as long."""
MAX_FRAMES = 4 * MAX_SECTIONS
"""In one message: what has more sections than it may is refused in words, up to this."""
PIECE_BYTES = 64 * 1024
"""So much is read at once; what is read and not yet looked at is at most that."""
_room = memoryview(bytearray(PIECE_BYTES))
"""All links read into it: many large buffers, cut to what has come, would leave the heap in pieces.
"""
RECEIVE_BUFFER = 512 * 1024
"""The kernel's, for each connection: what waits longer waits in the router's."""
MAX_UNSENT = 64 * 1024
"""A peer that does not read its answers is closed: they are never more than a few hundred octets
a second."""
AT_ONCE = 64
"""Messages taken of one router before the others have their turn."""
AT_ONCE_S = 0.002
"""For how long; a switch must not wait for its next piece while a router's snapshot is read."""
LONG_S = 0.02
"""A message that takes longer is followed by as long a pause: the others have half of the time."""
PAUSE_S = 0.002
"""Between two looks whether there is room for more again."""
ALIVE_S = 0.2
"""How often a router that is not read is given a sign of life: its PINGs wait unread, and libzmq
there gives the connection up 0.6 s after one that nothing followed
(`routerd.rule_table_link`)."""
MAX_PAUSE_S = 1.0
"""How long a router that floods its link is not read, at most, before it is looked at again."""
GREETING_S = 5.0
"""How long a new connection may take to say that it is one."""
COMPLAIN_S = 60.0
"""How often it is said that a router floods its link, or that its message could not be dealt
with."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Whom what routers say is given to.

    receive     (router, peer, frames) -> for how many seconds this router should not be read
    patience_s  (router) -> for how long its next message should wait, should nothing change; 0:
                there is room
    unread      (router, peer): it is there, and is not read for now; called each ALIVE_S for as
                long
    now         a monotonic clock
    """

    receive: Callable[[str, bytes, list[bytes]], float]
    patience_s: Callable[[str], float]
    unread: Callable[[str, bytes], None]
    now: Callable[[], float]


class _Peer:
    """One connection of a router.  Reads as a task, until `close`."""

    def __init__(self, listener: _Listener, sock: socket.socket, ident: bytes) -> None:
        self.ident = ident
        self._now = listener.now
        self.heard_at = self._now()
        self.empty_at = float("-inf")
        self._listener = listener
        self._sock = sock
        self._since = self._said_at = self.heard_at
        self._zmtp = zmtp.ZmtpConnection(b"ROUTER", MAX_BYTES, MAX_FRAMES)
        self._unsent = bytearray(self._zmtp.opening)
        self.closed = False
        listener.living += 1
        Task(target=self._run).start()

    def send(self, frames: list[bytes]) -> None:
        """Send one message; lost where the connection does not stand yet, or not any more."""
        if self._zmtp.established and not self.closed:
            self._put(zmtp.message(frames))

    def close(self) -> None:
        """Take no more; the socket is closed by the task, which may be waiting for its descriptor:
        a descriptor that is closed under it may be somebody else's the next moment."""
        if not self.closed:
            self.closed = True
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def _put(self, data: bytes) -> None:
        self._unsent += data
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            if len(self._unsent) > MAX_UNSENT:
                if self._listener.lines.take("answers"):
                    log.warning("%s: does not read its answers", self._listener.router)
                self.close()
        except OSError:
            self.close()

    def _run(self) -> Generator[Any, Any, None]:
        try:
            self._put(b"")
            while not self.closed:
                yield from self._take()
        except zmtp.ZmtpError as error:
            if self._listener.lines.take("closed"):
                log.info("%s: a connection is closed: %s", self._listener.router, error)
        except OSError as error:
            log.debug("%s: a connection is gone: %s", self._listener.router, error)
        finally:
            self.closed = True
            self._listener.peers.pop(self.ident, None)
            self._listener.living -= 1
            self._sock.close()

    def _take(self) -> Generator[Any, Any, None]:
        """Read one piece, and give what is complete in it to whoever receives."""
        sends = [self._sock] if self._unsent else []
        yield Select([self._sock], sends, [], LOOK_S)
        if sends:
            self._put(b"")
        try:
            data = bytes(_room[: self._sock.recv_into(_room)])
        except BlockingIOError:
            self.empty_at = self._now()
            if not self._zmtp.established and self.empty_at - self._since > GREETING_S:
                raise zmtp.ZmtpError("it says nothing") from None
            return
        if not data:
            self.close()
            return
        self._zmtp.feed(data)
        taken, until = 0, self._now() + AT_ONCE_S
        for frames in self._zmtp.messages():
            self.heard_at = begun = self._now()
            pause_s = self._listener.give(self.ident, frames)
            now = self._now()
            if now - begun > LONG_S:
                pause_s += now - begun
            taken += 1
            if self.closed:
                return
            self._show_life()
            if pause_s:
                yield from self._pause(min(pause_s, MAX_PAUSE_S))
            elif taken == AT_ONCE or now >= until or self._listener.patience_s():
                yield 0
            else:
                continue
            yield from self._wait_for_room()
            taken, until = 0, self._now() + AT_ONCE_S
        if answers := self._zmtp.answers():
            self._put(answers)
        if len(data) < PIECE_BYTES and not self._zmtp.buffered:
            self.empty_at = self._now()

    def _pause(self, left_s: float) -> Generator[Any, Any, None]:
        while left_s > 0 and not self.closed:
            yield Sleep(min(left_s, ALIVE_S))
            left_s -= ALIVE_S
            self._show_life()

    def _wait_for_room(self) -> Generator[Any, Any, None]:
        since = self._now()
        while not self.closed and self._now() - since < self._listener.patience_s():
            yield Sleep(PAUSE_S)
            self._show_life()

    def _show_life(self) -> None:
        """The router cannot tell that it is not read for now from a Rule Table that is gone."""
        now = self._now()
        if now - self._said_at < ALIVE_S or self.closed or not self._zmtp.established:
            return
        self._said_at = now
        self._put(zmtp.PONG)
        self._listener.unread(self.ident)


class _Listener:
    """What listens on one router's link, and its connections."""

    def __init__(self, router: str, sock: socket.socket, reader: Reader) -> None:
        self.router = router
        self.now = reader.now
        self.peers: dict[bytes, _Peer] = {}
        self.living = 0
        self.lines = Lines(self.now)
        self._sock = sock
        self._reader = reader
        self._closed = False
        self._complained = float("-inf")
        self._idents = count(1)
        Task(target=self._run).start()

    def patience_s(self) -> float:
        """How long the next message of this router should wait, should nothing change."""
        return self._reader.patience_s(self.router)

    def unread(self, peer: bytes) -> None:
        """What this router says on a connection waits here, or in its kernel."""
        self._reader.unread(self.router, peer)

    def give(self, peer: bytes, frames: list[bytes]) -> float:
        """Deal with a message; returns how long this router should not be read."""
        try:
            pause_s = self._reader.receive(self.router, peer, frames)
        except Exception:
            # It begins again, with a snapshot: `RuleTable.heard` no longer trusts what it has.
            if self._may_complain():
                log.exception("%s: a message could not be dealt with", self.router)
            if (one := self.peers.get(peer)) is not None:
                one.close()
            return MAX_PAUSE_S
        if pause_s and self._may_complain():
            log.warning("%s: floods its link: it is read more slowly", self.router)
        return pause_s

    def _may_complain(self) -> bool:
        now = self.now()
        if now - self._complained < COMPLAIN_S:
            return False
        self._complained = now
        return True

    def close(self) -> None:
        """Close it and its connections; see `_Peer.close`."""
        self._closed = True
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        for peer in list(self.peers.values()):
            peer.close()

    def _run(self) -> Generator[Any, Any, None]:
        try:
            while not self._closed:
                yield Select([self._sock], [], [], LOOK_S)
                if not self._closed:
                    self._accept()
                    yield Sleep(PAUSE_S)  # a flood of connections is one of these at a time
        finally:
            self._sock.close()

    def _accept(self) -> None:
        if self.living >= MAX_LIVING:
            return  # it waits in the kernel
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        while len(self.peers) >= MAX_CONNECTIONS:
            oldest = min(self.peers.values(), key=lambda peer: peer.heard_at)
            oldest.close()
            del self.peers[oldest.ident]
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            for option, value in (
                (socket.TCP_NODELAY, 1),
                (socket.TCP_KEEPIDLE, 3),
                (socket.TCP_KEEPINTVL, 1),
                (socket.TCP_KEEPCNT, 3),
            ):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        ident = next(self._idents).to_bytes(5, "big")
        self.peers[ident] = _Peer(self, sock, ident)


class RouterSockets:
    """Opens, watches and closes the sockets, from `start` on.  `address`: where they listen, with
    {vif} and {router} for the names."""

    def __init__(self, network: Network, address: str, reader: Reader) -> None:
        self._reader = reader
        self._address = address
        self._open: dict[str, tuple[int, _Listener]] = {}
        self._stopped = False
        self._routers: dict[str, str] = {}
        """The host's end of each router's own link."""
        self.network_is(network)

    def start(self) -> None:
        """Begin to listen."""
        Task(target=self._watch).start()

    def network_is(self, network: Network) -> None:
        """The network, or what has become of it: who is gone is heard no more, who is new is looked
        for within LOOK_S."""
        self._routers = {r.name: r.control_vif for r in network.routers.values()}
        for router in self._open.keys() - self._routers.keys():
            self._look(router, "", 0)

    def empty_at(self, router: str, peer: bytes) -> float:
        """When nothing that a router had said on a connection waited here any more (by
        the reader's clock): what is given to `receive` now it has said after that."""
        one = self._peer(router, peer)
        return one.empty_at if one is not None else float("-inf")

    def send(self, router: str, peer: bytes, frames: list[bytes]) -> None:
        """Answer one peer on a router's link; lost where it is gone."""
        if (one := self._peer(router, peer)) is not None:
            one.send(frames)

    def _peer(self, router: str, peer: bytes) -> _Peer | None:
        found = self._open.get(router)
        return found[1].peers.get(peer) if found is not None else None

    def close(self) -> None:
        """Close all sockets."""
        self._stopped = True
        for _, listener in self._open.values():
            listener.close()
        self._open.clear()

    def _watch(self) -> Generator[Any, Any, None]:
        with _link_changes() as changes:
            while not self._stopped:
                awaited = self._look_for_all()
                yield Select([changes], [], [], AGAIN_S if awaited else LOOK_S)
                _swallow(changes)

    def _look_for_all(self) -> bool:
        """Whether a vif is there and not listened on."""
        # All of them: to ask for one that is not there starts a modprobe each time.
        indices = {name: index for index, name in socket.if_nameindex()}
        awaited = False
        for router, vif in self._routers.items():
            index = indices.get(vif, 0) if "%" in self._address else 1
            self._look(router, vif, index)
            awaited |= index > 0 and router not in self._open
        return awaited

    def _look(self, router: str, vif: str, index: int) -> None:
        found = self._open.get(router)
        if found is not None and found[0] != index:
            log.info("%s: its link is gone", router)
            found[1].close()
            del self._open[router]
            found = None
        if index and found is None:
            self._bind(router, vif, index)

    def _bind(self, router: str, vif: str, index: int) -> None:
        try:
            sock = listening_socket(self._address.format(vif=vif, router=router))
        except OSError as error:
            # The address is not there yet, or another process listens: look again.
            log.debug("%s: %s: %s", router, vif, error)
            return
        log.info("%s: listening on %s", router, vif)
        self._open[router] = index, _Listener(router, sock, self._reader)


_TCP = re.compile(r"tcp://(?:\[([^\]]+)\]|([^:]+)):(\d+)")


def listening_socket(address: str) -> socket.socket:
    """A socket that listens at tcp://HOST:PORT, tcp://[IPv6%INTERFACE]:PORT or ipc://PATH.

    Raises OSError where that is not possible.
    """
    if address.startswith("ipc://"):
        path = address.removeprefix("ipc://")
        with suppress(FileNotFoundError):
            os.unlink(path)
        return _listen(socket.socket(socket.AF_UNIX), path)
    found = _TCP.fullmatch(address)
    if found is None:
        raise OSError(f"{address}: expected tcp://HOST:PORT or ipc://PATH")
    host = found[1] or found[2]
    family, kind, _, _, target = socket.getaddrinfo(
        host, int(found[3]), type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )[0]
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return _listen(sock, target)


def _listen(sock: socket.socket, where: Any) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)  # inherited
        sock.bind(where)
        sock.listen(MAX_CONNECTIONS)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _link_changes() -> socket.socket:
    """Readable whenever a link or an IPv6 address has come, changed or gone (rtnetlink(7))."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    sock.bind((0, RTMGRP_LINK | RTMGRP_IPV6_IFADDR))
    sock.setblocking(False)
    return sock


def _swallow(sock: socket.socket) -> None:
    """What has changed does not matter, nor does that some of it was lost (ENOBUFS)."""
    with suppress(OSError):
        while True:
            sock.recv(65536)
