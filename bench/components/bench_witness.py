"""A component beside `xenflow` that says when a switch has confirmed what a router told.

`./pox.py xenflow --network=FILE bench_witness --to=PATH`: after every snapshot and every delta of
a local router it asks its switches for a barrier behind all that came before, and sends one
datagram to the socket PATH when the last reply is there: message type, sequence number and the
controller's CLOCK_MONOTONIC in nanoseconds.  Nothing else is added to what runs.
"""

from __future__ import annotations

import socket
import struct
import time
from functools import partial
from typing import Any

REPORT = struct.Struct("!BQQ")
SNAPSHOT_END, DELTA = 3, 4


def launch(to: str) -> None:
    """Watch the Rule Table once it is there."""
    from pox.core import core

    core.call_when_ready(partial(_watch, to), ["xenflow"])


def _watch(to: str) -> None:
    from pox.core import core

    from xenflow.routes.messages import parse_header

    table = core.components["xenflow"].table
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.connect(to)
    pass_on = table.on_local_message

    def told(router: str, frames: list[bytes]) -> None:
        pass_on(router, frames)
        header = parse_header(frames)
        if header.type in (SNAPSHOT_END, DELTA):
            kind, seq = int(header.type), header.seq
            waiting = [
                s for s in table.switches.values() if s.channel.connection and s.forwards(router)
            ]

            def confirmed(error: str | None) -> Any:
                waiting.pop()
                if error is None and not waiting:
                    sock.send(REPORT.pack(kind, seq, time.monotonic_ns()))

            for switch in list(waiting):
                switch.promises.confirmed(confirmed)

    table.on_local_message = told
