"""`python -m xenflow.planner`: the planner as a process.

It ends at SIGTERM and SIGINT, and gives the lease back.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import zmq

from xenflow.model.management import MAX_IMPORT
from xenflow.planner.recover_command import RecoverCommand
from xenflow.planner.service import PlannerService
from xenflow.store.ovsdb_store import OvsdbStore
from xenflow.store.schema import PLANNER
from xenflow.store.transaction import StoreMistakeError

log = logging.getLogger("xenflow.planner")

TURN_MS = 200
_LISTEN = re.compile(r"tcp://(?!\*:|0\.0\.0\.0:|\[::\]:)\S+:[0-9]{1,5}")


class _Posted:
    """What the store's thread hands over; `fd` is readable when there is something."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Callable[[Any], Any], Any]] = SimpleQueue()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def post(self, call: Callable[[Any], Any], value: Any) -> None:
        self._queue.put((call, value))
        os.eventfd_write(self.fd, 1)

    def run(self) -> None:
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass
        while True:
            try:
                call, value = self._queue.get_nowait()
            except Empty:
                return
            call(value)


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 for a wrong argument, 1 where it cannot listen."""
    parser = argparse.ArgumentParser(
        prog="python -m xenflow.planner",
        description="Turns what people want into what switches shall do: holds the store's lease "
        "`planner`, and answers `xenflow apply`.  Several may run; one of them is at work.",
    )
    parser.add_argument(
        "--store",
        metavar="REMOTE",
        action="append",
        required=True,
        help="a server of the store, unix:PATH or tcp:ADDRESS:PORT; may be repeated.  By TLS a "
        "server lets nobody write what a planner writes: it runs beside a member",
    )
    parser.add_argument(
        "--listen", metavar="URL", required=True, help="tcp://ADDRESS:PORT, where it is asked"
    )
    parser.add_argument(
        "--network", metavar="FILE", default="", help="what an empty store becomes, a network file"
    )
    parser.add_argument(
        "--no-recovery",
        action="store_true",
        help="leave moves whose command was killed to people (`xenflow recover`)",
    )
    asked = parser.parse_args(words)
    if not _LISTEN.fullmatch(asked.listen):
        words = "expected tcp://ADDRESS:PORT, as controllers are to reach it: the store tells them"
        parser.error(f"--listen {asked.listen}: {words}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s:%(name)s:%(message)s")
    posted = _Posted()
    try:
        store = OvsdbStore(tuple(asked.store), posted.post, PLANNER)
    except StoreMistakeError as error:
        parser.error(f"--store {error}")
    context = zmq.Context()
    sock = context.socket(zmq.ROUTER)
    sock.linger = 0
    sock.ipv6 = True
    sock.maxmsgsize = MAX_IMPORT
    try:
        sock.bind(asked.listen)
    except zmq.ZMQError as error:
        print(f"xenflow: planner: cannot listen on {asked.listen}: {error}", file=sys.stderr)
        store.close()
        return 1
    recover = None if asked.no_recovery else RecoverCommand
    service = PlannerService(store, asked.listen, time.monotonic, time.time, asked.network, recover)
    ending: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: ending.append(number))
    poller = zmq.Poller()
    poller.register(sock, zmq.POLLIN)
    poller.register(posted.fd, zmq.POLLIN)
    log.info("listens on %s", asked.listen)
    while not ending:
        ready = dict(poller.poll(TURN_MS))
        if posted.fd in ready:
            posted.run()
        if sock in ready:
            *envelope, frame = sock.recv_multipart()
            service.take(frame, partial(_send, sock, envelope))
        service.tick()
    service.end()
    deadline = time.monotonic() + 1.0
    while not service.ended and time.monotonic() < deadline:
        if poller.poll(TURN_MS):
            posted.run()
    store.close()
    context.destroy(linger=0)
    return 0


def _send(sock: zmq.Socket[bytes], envelope: list[bytes], answer: bytes) -> None:
    sock.send_multipart([*envelope, answer])


if __name__ == "__main__":
    sys.exit(main())
