"""The Rule Table's sockets for virtual routers: one for each, on that router's own link.

A router's control vif is a link between its VM and this Domain 0, and nothing else.  The Rule
Table listens there at the same link-local address in every Domain 0, so a router that has been
moved finds the local one again.  Whoever speaks on that socket is the router whose vif it is;
what a message says of its sender is only checked against that (`pure.feed`).  No management verb
is understood here.

A router that says more than it may is cut off for a moment: its socket is closed, with all that
waits in it.  To stop reading instead is no choice.  libzmq (4.3) ends the process by an assertion
where the peer of a connection that it has stopped reading goes away and something is to be written
there, be it the answer to the peer's own ping (zeromq/libzmq issues 4364 and 4841); so its queue
has no bound, and it sends no heartbeats here.

A vif comes when the VM is created or arrives and goes when it leaves: the interfaces that the
network names are looked for whenever the kernel says that links have changed.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

import zmq
from pox.lib.recoco import Select, Task

from xenflow.pure.messages import MAX_BYTES
from xenflow.pure.network import Network
from xenflow.zmq_pump import Pump

log = logging.getLogger("xenflow.routers")

ADDRESS = "tcp://[fe80::1%{vif}]:6641"
RTMGRP_LINK, RTMGRP_IPV6_IFADDR = 0x1, 0x100
"""Source: linux/rtnetlink.h."""
LOOK_S = 1.0
"""How often vifs are looked for, should a change have gone unnoticed."""
AGAIN_S = 0.05
"""How soon a vif is tried again that is there and cannot be listened on yet."""
CUT_OFF_S = 1.0
"""How long a router that floods its socket is not listened to."""

Receive = Callable[[str, bytes, list[bytes]], float]
"""(router, peer, frames) -> more than 0 where this router has said more than it may."""


class RouterSockets:
    """Opens, watches and closes the sockets, from `start` on; gives what arrives to `receive`, and
    waits with that while `full(router)` says that no more of this router should come."""

    def __init__(
        self,
        network: Network,
        context: zmq.Context[Any],
        receive: Receive,
        full: Callable[[str], bool],
        address: str = ADDRESS,
    ) -> None:
        self._network = network
        self._context = context
        self._receive = receive
        self._full = full
        self._address = address
        self._open: dict[str, tuple[int, Pump]] = {}
        self._cut_off: dict[str, float] = {}
        self._stopped = False

    def start(self) -> None:
        """Begin to listen."""
        if self._network.routers:
            Task(target=self._watch).start()

    def empty_at(self, router: str) -> float:
        """When nothing that a router had said waited here any more (monotonic clock): what is given
        to `receive` now it has said after that."""
        found = self._open.get(router)
        return found[1].empty_at if found is not None else float("-inf")

    def send(self, router: str, peer: bytes, frames: list[bytes]) -> None:
        """Answer one peer on a router's link; lost where it is gone."""
        found = self._open.get(router)
        if found is not None:
            found[1].send([peer, *frames])

    def close(self) -> None:
        """Close all sockets."""
        self._stopped = True
        for _, pump in self._open.values():
            pump.close()
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
        for router in self._network.routers.values():
            vif = router.control_vif
            index = indices.get(vif, 0) if "%" in self._address else 1
            self._look(router.name, vif, index)
            awaited |= index > 0 and router.name not in self._open
        return awaited

    def _look(self, router: str, vif: str, index: int) -> None:
        found = self._open.get(router)
        if found is not None and found[0] != index:
            log.info("%s: its link %s is gone", router, vif)
            found[1].close()
            del self._open[router]
            found = None
        if index and found is None and self._cut_off.get(router, 0.0) <= time.monotonic():
            self._bind(router, vif, index)

    def _bind(self, router: str, vif: str, index: int) -> None:
        sock = self._context.socket(zmq.ROUTER)
        sock.ipv6 = True
        sock.linger = 0
        sock.maxmsgsize = MAX_BYTES
        sock.rcvhwm = 0
        sock.tcp_keepalive = 1
        sock.tcp_keepalive_idle = 3
        sock.tcp_keepalive_intvl = 1
        sock.tcp_keepalive_cnt = 3
        try:
            sock.bind(self._address.format(vif=vif, router=router))
        except zmq.ZMQError as error:
            # The address is not there yet, or another process listens: look again.
            log.debug("%s: %s: %s", router, vif, error)
            sock.close(linger=0)
            return
        log.info("%s: listening on %s", router, vif)

        def receive(frames: list[bytes]) -> None:
            if self._receive(router, frames[0], frames[1:]) > 0 and not pump.closed:
                log.warning("%s: floods its link: not listened to for %g s", router, CUT_OFF_S)
                self._cut_off[router] = time.monotonic() + CUT_OFF_S
                pump.close()
                self._open.pop(router, None)

        pump = Pump(sock, receive, lambda: self._full(router))
        self._open[router] = index, pump
        pump.start()


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
