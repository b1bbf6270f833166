"""A router that changes its routes as fast as it can say so harms itself only.

A real controller and real ZeroMQ peers; without a switch, so that what is measured is what the
controller itself keeps and how long others wait in it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.runtime.launched import ROOT, core_options, environment, free_port
from xenflow.routes import messages as m
from xenflow.routes.messages import Header, Kind, NextHop, NextHopType, Op, Section, Type

ROUTES = 100_000
EPOCH = 7
FLOOD_S = 6.0
SLACK_MIB = 64
BOUND_S = 2.0
"""docs/faults.md: a router floods its link."""

FLOOD = """
import sys, time, zmq
from tests.runtime.test_router_flood import delta, EPOCH
sock = zmq.Context().socket(zmq.DEALER)
sock.linger = 0
sock.sndhwm = 4
sock.connect(sys.argv[1])
pieces = [delta("vr1", 0, hop)[1:] for hop in (1, 2)]
seq, until = 1, time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    sock.send_multipart([delta("vr1", seq + 1, 1, 0)[0], *pieces[seq % 2]])
    seq += 1
print(seq, flush=True)
"""


def delta(router: str, seq: int, hop: int, routes: int = ROUTES) -> list[bytes]:
    """A change of all routes to a next hop."""
    rows = [((10 << 24) + (n << 8), 24, hop) for n in range(routes)]
    header = Header(Type.DELTA, EPOCH, seq, router)
    return list(m.pack(header, [Section(Kind.ROUTE4, Op.SET, rows)]))


class Peer:
    """routerd's end of a router's link."""

    def __init__(self, router: str, url: str) -> None:
        self.router = router
        self.sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.sock.linger = 0
        self.sock.connect(url)

    def send(self, kind: Type, seq: int, sections: list[Section], part: int = 0) -> None:
        header = Header(kind, EPOCH, seq, self.router, part)
        self.sock.send_multipart(list(m.pack(header, sections)))

    def begin(self) -> None:
        """A snapshot with two next hops and no route."""
        hops = [NextHop(n, NextHopType.VIA, 4, 2, n, 0) for n in (1, 2)]
        self.send(Type.HELLO, 1, [])
        self.answered(Type.RESYNC)
        self.send(Type.SNAPSHOT, 1, [Section(Kind.NEXTHOP, Op.SET, hops)])
        self.send(Type.SNAPSHOT_END, 1, [], part=1)
        self.answered(Type.ACK, 1)

    def answered(self, kind: Type, seq: int | None = None, within_s: float = 60.0) -> None:
        """Wait for an answer."""
        limit = time.monotonic() + within_s
        while (left := limit - time.monotonic()) > 0:
            if self.sock.poll(max(1, round(left * 1000))):
                header = m.parse_header(self.sock.recv_multipart())
                assert header.type is not Type.REFUSED
                if header.type is kind and seq in (None, header.seq):
                    return
        raise AssertionError(f"{self.router}: no {kind.name} {seq} within {within_s:g} s")


@pytest.fixture(params=["stand-in", "POX"])
def controller(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A controller of a network with two routers; its process id."""
    from bench.controller import describe

    options = core_options(request.param)
    text = describe(["proactive"], routers=2)
    (tmp_path / "network.toml").write_text(text)
    port = free_port()
    words = [
        sys.executable,
        str(ROOT / "pox.py"),
        *options,
        "openflow.of_01",
        f"--port={port}",
        "xenflow",
        f"--network={tmp_path}/network.toml",
        f"--manage=ipc://{tmp_path}/manage",
        f"--routers=ipc://{tmp_path}/{{router}}",
    ]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment())
    yield process.pid
    process.terminate()
    process.wait(60)
    print((tmp_path / "log").read_text())


def mib(pid: int, key: str) -> float:
    """Memory of a process: VmRSS, or VmHWM, its highest."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def test_a_flood_of_changes_is_slowed_and_bounded(controller: int, tmp_path: Path) -> None:
    one, other = Peer("vr1", f"ipc://{tmp_path}/vr1"), Peer("vr2", f"ipc://{tmp_path}/vr2")
    one.begin()
    other.begin()
    for seq in (2, 3):
        one.sock.send_multipart(delta("vr1", seq, seq - 1))
        one.answered(Type.ACK, seq)
    one.sock.close()
    Path(f"/proc/{controller}/clear_refs").write_text("5")  # VmHWM begins anew (proc(5))
    table = mib(controller, "VmRSS")

    words = [
        sys.executable,
        "-c",
        FLOOD.replace("seq, until = 1,", "seq, until = 3,"),
        f"ipc://{tmp_path}/vr1",
        str(FLOOD_S),
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as flood:
        waits, seq = [], 1
        while flood.poll() is None:
            seq += 1
            began = time.monotonic()
            other.sock.send_multipart(delta("vr2", seq, 1, routes=1))
            other.answered(Type.ACK, seq)
            waits.append(time.monotonic() - began)
            time.sleep(0.1)
        assert flood.stdout is not None
        said = int(flood.stdout.read())
    again = Peer("vr1", f"ipc://{tmp_path}/vr1")
    again.send(Type.HELLO, 10**6, [])
    again.answered(Type.RESYNC)
    highest, after = mib(controller, "VmHWM"), mib(controller, "VmRSS")
    print(
        f"{said} changes of {ROUTES} routes; {table:.0f} MiB before, at most {highest:.0f}, "
        f"{after:.0f} after; another router's change: at most {max(waits):.2f} s"
    )
    assert said > 3
    assert highest < table + SLACK_MIB
    assert after < table + SLACK_MIB
    assert sorted(waits)[len(waits) // 2] < BOUND_S
