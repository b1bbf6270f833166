"""Traffic that counts its losses: UDP packets with sequence numbers, sent and received.

A sender and a receiver are processes in two nodes; `ProbePair` runs one of each in both directions
at once.  Every packet carries its sequence number and the time it was sent, the receiver notes the
kernel's time of arrival, so a run yields not only counts but a record of each packet.  All times
are CLOCK_MONOTONIC in nanoseconds, one clock for everything on the machine, hypervisor included.

Sizes are sizes of Ethernet frames, 64 (with checksum; 18 octets of UDP payload over IPv4) to 1518,
but for 1500, which as everywhere means an IP packet of 1500 octets.  Over IPv6 the smallest frame
that holds what a packet carries has 82: that is what one of 64 is there.

Neither side waits busily.  From 500 packets/s the sender wakes every 2 ms and sends what is due
(10 at 5,000 packets/s), all senders at the same moments: to a switch in user space it is the waking
that costs, several times the packet, and a path of seven such switches shares the machine with
all that is measured.  The receiver collects what has come every 4 ms, up to 256 packets with one
system call.  Every measurement of loss begins with a `baseline`: the same traffic while
nothing happens.  Where that loses, the machine is too busy and the run is worth nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from lab.description import ROOT, Node
from lab.judge import Counts, by_move, records, write_records
from lab.namespace import IcmpEcho, LabError, inside
from lab.operate import find_node
from lab.programs import python_path

HEADER = struct.Struct("!IIQ")
"""In each packet: run, sequence number, time sent."""
_ARRIVAL = struct.Struct("=IQQ")
MIN_FRAME, MAX_FRAME = 64, 1518
FULL_PACKET = 1500
"""A size that means the IP packet's."""
OVERHEAD = {4: 46, 6: 66}
"""Ethernet 14 and 4, IPv4 20 or IPv6 40, UDP 8."""
_PORT = 7777
_TICK_S = 0.002
_COLLECT_S = 0.004
_BEHIND_S = 0.01
"""A sender that falls further behind leaves the rest out: bursts would measure something else."""


class TooBusyError(LabError):
    """The same traffic lost packets while nothing happened: what is measured now means nothing."""


def payload_size(size: int, version: int = 4) -> int:
    """The UDP payload of a packet called `size`, of IPv4 or IPv6.

    Raises LabError outside 64 to 1518.
    """
    if not MIN_FRAME <= size <= MAX_FRAME:
        raise LabError(f"size {size}: expected {MIN_FRAME} to {MAX_FRAME}")
    payload = (MAX_FRAME if size == FULL_PACKET else size) - OVERHEAD[version]
    return max(payload, HEADER.size)


def _version(address: str) -> int:
    return 6 if ":" in address else 4


_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


# --- the result ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProbeResult(Counts):
    """What became of one direction's packets.

    longest_loss   the longest row of lost packets
    overflowed     packets that reached the receiver's socket and found its buffer full
    late_s         how far the sender was ever behind its schedule
    first_ns, last_ns   when the first and the last packet were sent
    """

    longest_loss: int = 0
    overflowed: int = 0
    late_s: float = 0.0
    first_ns: int = 0
    last_ns: int = 0

    @property
    def rate_pps(self) -> float:
        """The rate at which packets were really sent."""
        return (self.sent - 1) * 1e9 / max(1, self.last_ns - self.first_ns)


def judge(
    sent: Sequence[int],
    arrivals: Sequence[tuple[int, int]],
    *,
    overflowed: int = 0,
    late_s: float = 0.0,
) -> ProbeResult:
    """Counts from the times sent, by sequence number, and (sequence, time) of each arrival in
    order."""
    (counts,) = by_move(records(sent, arrivals), ())
    seen = bytearray(len(sent))
    for sequence, _ in arrivals:
        if sequence < len(sent):
            seen[sequence] = 1
    longest_loss = max(map(len, bytes(seen).split(b"\x01")))
    first_ns, last_ns = (sent[0], sent[-1]) if sent else (0, 0)
    return ProbeResult(
        **asdict(counts),
        longest_loss=longest_loss,
        overflowed=overflowed,
        late_s=late_s,
        first_ns=first_ns,
        last_ns=last_ns,
    )


# --- the sender ----------------------------------------------------------------------------------


def send(
    to: str,
    port: int,
    *,
    rate_pps: float,
    size: int,
    count: int,
    run: int,
    ready: IO[str],
    source: str,
) -> tuple[array[int], float]:
    """Send `count` packets at an even rate, or fewer, but one, when ended by SIGTERM or SIGINT;
    prints `ready` right before the first.

    Returns the times sent, by sequence number, and how far behind the schedule it ever was, in
    seconds.
    """
    stopping = _stop_on_signal()
    sock = socket.socket(_FAMILIES[_version(to)], socket.SOCK_DGRAM)
    sock.bind((source, 0))
    try:
        sock.connect((to, port))
        transmit: Callable[[bytearray], int] = sock.send
    except OSError:  # no route at this moment; what is sent until there is one is lost

        def transmit(data: bytearray) -> int:
            return sock.sendto(data, (to, port))

    packet = bytearray(payload_size(size, _version(to)))
    times = array("Q")
    late = 0.0
    clock, clock_ns, pack = time.monotonic, time.monotonic_ns, HEADER.pack_into
    print("ready", file=ready, flush=True)
    begun = clock()
    number = 0
    while number < count and not (stopping and number):
        now = clock()
        behind = now - begun - number / rate_pps
        late = max(late, behind)
        if behind > _BEHIND_S:
            begun += behind
        due = min(count, int((now - begun) * rate_pps) + 1)
        while number < due:
            at = clock_ns()
            pack(packet, 0, run, number, at)
            # lost on the way out (no route, no buffer) is lost like any other
            with suppress(OSError):
                transmit(packet)
            times.append(at)
            number += 1
        wait = begun + number / rate_pps - clock()
        if rate_pps * _TICK_S >= 1:
            wait = _TICK_S - clock() % _TICK_S
        if wait > 0:
            time.sleep(wait)
    sock.close()
    return times, late


# --- the receiver --------------------------------------------------------------------------------


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Mmsghdr(ctypes.Structure):
    """struct mmsghdr, a struct msghdr and a length."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("_hole", ctypes.c_int),
        ("length", ctypes.c_uint32),
        ("_end", ctypes.c_int),
    )


class _Collector:
    """Takes many packets from a socket with one `recvmmsg`."""

    BATCH = 256
    _DATA = HEADER.size
    _CONTROL = 64
    _STAMP = struct.Struct("=Qii qq")  # struct cmsghdr with a struct timespec
    _SO_RXQ_OVFL, _SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 40, 35, 33

    def __init__(self, address: str, port: int, run: int) -> None:
        self.socket = socket.socket(_FAMILIES[_version(address)], socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, self._SO_RCVBUFFORCE, 32 << 20)
        self.socket.setsockopt(socket.SOL_SOCKET, self._SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, self._SO_RXQ_OVFL, 1)
        self.socket.bind((address, port))
        self.overflowed = 0
        self.arrivals = bytearray()
        self._run = run
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._data = ctypes.create_string_buffer(self._DATA * self.BATCH)
        self._control = ctypes.create_string_buffer(self._CONTROL * self.BATCH)
        self._vectors = (Iovec * self.BATCH)()
        self._messages = (Mmsghdr * self.BATCH)()
        for i, (vector, message) in enumerate(zip(self._vectors, self._messages, strict=True)):
            vector.base = ctypes.addressof(self._data) + i * self._DATA
            vector.length = self._DATA
            message.iov = ctypes.pointer(vector)
            message.iov_length = 1
            message.control = ctypes.addressof(self._control) + i * self._CONTROL

    def collect(self) -> None:
        """Note everything that has come."""
        offset = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.monotonic_ns()
        while True:
            for message in self._messages:
                message.control_length = self._CONTROL
            count = self._libc.recvmmsg(
                self.socket.fileno(), self._messages, self.BATCH, socket.MSG_DONTWAIT, None
            )
            for i in range(max(count, 0)):
                run, sequence, sent = HEADER.unpack_from(self._data, i * self._DATA)
                if run != self._run:
                    continue
                place = i * self._CONTROL
                _, _, _, seconds, nanoseconds = self._STAMP.unpack_from(self._control, place)
                at = seconds * 1_000_000_000 + nanoseconds - offset
                self.arrivals += _ARRIVAL.pack(sequence, sent, at)
                if self._messages[i].control_length > self._STAMP.size:
                    (self.overflowed,) = struct.unpack_from(
                        "=I", self._control, place + self._STAMP.size + 16
                    )
            if count < self.BATCH:
                return


def receive(address: str, port: int, *, run: int, seconds: float, ready: IO[str]) -> _Collector:
    """Receive until SIGTERM, SIGINT or the time is over; prints `ready` once it listens."""
    stopping = _stop_on_signal()
    collector = _Collector(address, port, run)
    print("ready", file=ready, flush=True)
    end = time.monotonic() + seconds
    while not stopping and time.monotonic() < end:
        select.select([collector.socket], [], [], 0.1)
        time.sleep(_COLLECT_S)
        collector.collect()
    collector.collect()
    collector.socket.close()
    return collector


def _stop_on_signal() -> list[int]:
    """A list that is no longer empty once this process was asked to end."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    return asked


# --- both directions -----------------------------------------------------------------------------


class ProbePair:
    """Packets from one node to another and back, at once, until `stop`.

        with ProbePair("gen", "recv", rate_pps=5000) as pair:
            pair.baseline(3)          # LabError where the machine is too busy
            pair.start()
            ...
            there, back = pair.stop()

    `rate_pps` is that of each direction; without `realtime` (SCHED_RR, where allowed) a busy
    machine does not keep it.  `directory` keeps the records of the last run, there.bin
    and back.bin (`read_records`).  `version`: 4 or 6, of the addresses that are not named.
    """

    def __init__(
        self,
        one: str,
        other: str,
        *,
        rate_pps: float = 5000,
        size: int = 64,
        directory: str | Path | None = None,
        realtime: bool = True,
        addresses: tuple[str, str] | None = None,
        port: int = _PORT,
        version: int = 4,
    ) -> None:
        payload_size(size)
        nodes = find_node(one), find_node(other)
        self.version = version if addresses is None else _version(addresses[0])
        self.nodes = (one, other)
        self._namespaces = [n.namespace for n in nodes]
        self._addresses = addresses or tuple(_address(node, version) for node in nodes)
        self.rate_pps, self._size, self._port, self._realtime = rate_pps, size, port, realtime
        self._temporary = None if directory else tempfile.TemporaryDirectory(prefix="xf-probe-")
        self.directory = Path(directory or self._temporary.name)  # type: ignore[union-attr]
        self.directory.mkdir(parents=True, exist_ok=True)
        self._receivers: list[subprocess.Popen[str]] = []
        self._senders: list[subprocess.Popen[str]] = []

    def start(self, seconds: float = 600.0) -> None:
        """Begin; returns when packets are being sent.  Ends by itself after a time."""
        run = int.from_bytes(os.urandom(4), "big")
        self._receivers = [
            self._begin(
                i,
                f"recv --bind {self._addresses[i]} --seconds {seconds + 60} --run {run}",
                self.directory / f"arrivals-{i}.bin",
            )
            for i in (0, 1)
        ]
        self._await_ready(self._receivers)
        self._senders = [
            self._begin(
                i,
                f"send --to {self._addresses[1 - i]} --source {self._addresses[i]} "
                f"--rate {self.rate_pps} --size {self._size} --seconds {seconds} --run {run}",
                self.directory / f"sent-{i}.bin",
            )
            for i in (0, 1)
        ]
        self._await_ready(self._senders)

    def _await_ready(self, processes: list[subprocess.Popen[str]]) -> None:
        for one in processes:
            if one.stdout is None or one.stdout.readline() != "ready\n":
                self._kill()
                raise LabError(f"a probe did not start: {one.args!r}")

    def _begin(self, i: int, what: str, records: Path) -> subprocess.Popen[str]:
        words = [*what.split(), "--port", str(self._port), "--records", str(records)]
        words += ["--realtime"] if self._realtime else []
        with inside(self._namespaces[i]):
            return subprocess.Popen(
                [sys.executable, "-m", "lab.probe", *words],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **python_path()},
                cwd=ROOT,
                # Ctrl-C is the caller's: a receiver that it ended, too, would miss what is under
                # way.
                process_group=0,
            )

    def stop(self, linger_s: float = 0.5) -> tuple[ProbeResult, ProbeResult]:
        """End the senders, wait for what is under way, end the receivers; (there, back)."""
        for sender in self._senders:
            sender.terminate()
        return self.finish(linger_s)

    def finish(self, linger_s: float = 0.5) -> tuple[ProbeResult, ProbeResult]:
        """As `stop`, once the senders have ended by themselves."""
        sent = [json.loads(_output(p)) for p in self._senders]
        time.sleep(linger_s)
        for receiver in self._receivers:
            receiver.terminate()
        received = [json.loads(_output(p)) for p in self._receivers]
        self._senders, self._receivers = [], []
        return self._judge(0, sent, received), self._judge(1, sent, received)

    def _judge(
        self, i: int, sent: list[dict[str, Any]], received: list[dict[str, Any]]
    ) -> ProbeResult:
        times = array("Q")
        times.frombytes((self.directory / f"sent-{i}.bin").read_bytes())
        data = (self.directory / f"arrivals-{1 - i}.bin").read_bytes()
        arrivals = [(number, at) for number, _, at in _ARRIVAL.iter_unpack(data)]
        write_records(self.directory / ("there.bin", "back.bin")[i], times, arrivals)
        return judge(
            times,
            arrivals,
            overflowed=received[1 - i]["overflowed"],
            late_s=sent[i]["late_s"],
        )

    def run(self, seconds: float) -> tuple[ProbeResult, ProbeResult]:
        """A run of a given length, with nothing in between."""
        self.start(seconds)
        return self.finish()

    def baseline(self, seconds: float = 3.0) -> tuple[ProbeResult, ProbeResult]:
        """`baseline` of this pair alone."""
        there, back = baseline([self], seconds)
        return there, back

    def _kill(self) -> None:
        for one in self._senders + self._receivers:
            one.kill()
            one.wait()
            if one.stdout:
                one.stdout.close()
        self._senders, self._receivers = [], []

    def close(self) -> None:
        """End whatever runs; temporary records are gone."""
        self._kill()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> ProbePair:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _address(node: Node, version: int) -> str:
    found = next((each for each in node.addresses if _version(each) == version), None)
    if found is None:
        raise LabError(f"{node.name} has no IPv{version} address")
    return found


def of_both_families(
    one: str, other: str, *, rate_pps: float, directory: Path | None = None, **more: Any
) -> list[ProbePair]:
    """A pair for each family that two nodes have an address of, which share the rate; what more
    is said is said of each.  `directory`: records are in ipv4 and ipv6 there."""
    nodes = find_node(one), find_node(other)
    versions = [v for v in (4, 6) if all(v in map(_version, n.addresses) for n in nodes)]
    return [
        ProbePair(
            one,
            other,
            rate_pps=rate_pps / len(versions),
            directory=directory and directory / f"ipv{version}",
            version=version,
            **more,
        )
        for version in versions
    ]


def baseline(pairs: Sequence[ProbePair], seconds: float = 3.0) -> list[ProbeResult]:
    """The same traffic while nothing happens: of each pair, there and back.

    Raises TooBusyError where a packet was lost or doubled, or could not be sent in time: a
    measurement now would be worth nothing.
    """
    for pair in pairs:
        pair.start(seconds)
    results = [result for pair in pairs for result in pair.finish()]
    slowest = min(r.rate_pps for r in results)
    if slowest < 0.95 * pairs[0].rate_pps:
        raise TooBusyError(
            f"invalid: the machine is too busy, it sends {slowest:.0f} "
            f"packets/s instead of {pairs[0].rate_pps:g}"
        )
    if any(r.lost or r.duplicated or not r.sent for r in results):
        counts = " and ".join(
            f"{r.lost} of {r.sent} lost, {r.duplicated} duplicated" for r in results
        )
        raise TooBusyError(
            f"invalid: the machine is too busy; while nothing happened, there and back: {counts}"
        )
    return results


def _output(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate()
    if process.returncode:
        raise LabError(f"probe ended with status {process.returncode}")
    return out.splitlines()[-1]


# --- the control plane ---------------------------------------------------------------------------


class OutageWatch:
    """How long an address did not answer: one echo request every 20 ms from a node.

    What counts is the longest time without a reply *arriving*, so that requests which were held
    and answered late do not hide the outage.
    """

    def __init__(self, node: str, address: str, interval_s: float = 0.02) -> None:
        self._echo = IcmpEcho(find_node(node).namespace)
        self._address, self._interval_s = address, interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.replies: list[float] = []
        """When replies arrived, CLOCK_MONOTONIC in seconds."""
        self._begun = time.monotonic()

    def _run(self) -> None:
        sent = 0.0
        while not self._ended.is_set():
            now = time.monotonic()
            if now - sent >= self._interval_s:
                self._echo.send(self._address)
                sent = now
            select.select([self._echo], [], [], max(0.0, sent + self._interval_s - now))
            if self._echo.receive():
                self.replies.append(time.monotonic())

    def __enter__(self) -> OutageWatch:
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._echo.close()
        self._end = time.monotonic()

    @property
    def outage_s(self) -> float:
        """The longest time without a reply, from the beginning of the watch to its end."""
        times = [self._begun, *self.replies, getattr(self, "_end", time.monotonic())]
        return max(b - a for a, b in pairwise(times))


# --- the command ---------------------------------------------------------------------------------


def main() -> int:
    """`python -m lab.probe pair ...`, and `send` and `recv`, which a pair starts in its nodes; the
    last line printed is JSON."""
    parser = argparse.ArgumentParser(prog="python -m lab.probe", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("send", "recv", "pair"):
        one = verbs.add_parser(verb)
        one.add_argument("--port", type=int, default=_PORT)
        one.add_argument("--seconds", type=float, default=10.0)
        one.add_argument(
            "--realtime",
            action=argparse.BooleanOptionalAction,
            default=verb == "pair",
            help="SCHED_RR, where allowed",
        )
        in_node = verb != "pair"
        one.add_argument(
            "--records", type=Path, required=in_node, help="where each packet's record goes"
        )
        if in_node:
            one.add_argument("--run", type=int, help="packets of other runs do not count")
        if verb == "recv":
            one.add_argument("--bind", required=True)
            continue
        one.add_argument("--rate", type=float, default=5000, help="packets/s, in each direction")
        one.add_argument("--size", type=int, default=64, help="frame size; 1500 is an IP size")
        if verb == "send":
            one.add_argument("--to", required=True)
            one.add_argument("--source", required=True)
        else:
            one.add_argument("nodes", nargs=2, metavar="NODE")
            one.add_argument("-6", dest="ipv6", action="store_true", help="IPv6 (default: IPv4)")
            one.add_argument(
                "--baseline",
                type=float,
                metavar="S",
                default=0.0,
                help="so long without anything first; the run is refused if it loses",
            )
    args = parser.parse_args()
    gc.disable()
    if args.realtime and args.verb != "pair":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    return {"send": _send, "recv": _recv, "pair": _pair}[args.verb](args)


def _send(args: argparse.Namespace) -> int:
    times, late_s = send(
        args.to,
        args.port,
        rate_pps=args.rate,
        size=args.size,
        count=max(1, round(args.seconds * args.rate)),
        run=args.run,
        ready=sys.stdout,
        source=args.source,
    )
    args.records.write_bytes(times.tobytes())
    print(json.dumps({"late_s": late_s}))
    return 0


def _recv(args: argparse.Namespace) -> int:
    found = receive(args.bind, args.port, run=args.run, seconds=args.seconds, ready=sys.stdout)
    args.records.write_bytes(found.arrivals)
    print(json.dumps({"overflowed": found.overflowed}))
    return 0


def _pair(args: argparse.Namespace) -> int:
    with ProbePair(
        *args.nodes,
        rate_pps=args.rate,
        size=args.size,
        port=args.port,
        realtime=args.realtime,
        directory=args.records,
        version=6 if args.ipv6 else 4,
    ) as pair:
        if args.baseline:
            pair.baseline(args.baseline)
        there, back = pair.run(args.seconds)
    found = {"there": there, "back": back}
    print(
        json.dumps(
            {name: {**asdict(r), "rate_pps": round(r.rate_pps, 1)} for name, r in found.items()},
            indent=1,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
