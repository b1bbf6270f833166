"""`packet_in_rate_vs_raw` and `packet_in_latency`: packet-ins beside the limit and all peers.

`packet_in_rate_vs_raw`: as `packet_in_rate` (`packet_in.py`), in turns with `raw_responder`, a
Python loop that reads in_port and answers with messages of the same sizes, made beforehand, in one
write for each packet-in, and does nothing else.  In sweeps.json stands also what it does when the
answers to everything that one read brought leave in one write.

`packet_in_latency`: the time of one answer where no other is waited for, packet by packet in turns
with a learning switch on os-ken, with Open vSwitch's own ovs-testcontroller (written in C), and,
where POX is, with its l3_learning and with XenFlow under it.  The row compares with os-ken; the
others are in sweeps.json, as are the rates of ovs-testcontroller.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.controller import DPID
from bench.fake_switch import FakeSwitch
from bench.internet_routes import internet_routes
from bench.open_vswitch import BenchError, end
from bench.packet_in import (
    LIMIT_S,
    PORTS,
    ROUTER_MAC,
    ROUTES,
    STATION_MAC,
    WINDOW,
    asked,
    frames,
    l3_learning,
    os_ken,
    seen,
    targets,
    xenflow,
)
from bench.results import Found, Row, percentile
from bench.virtual_router import Running
from xenflow.openflow import build

RAW_PORT, BATCHING_PORT, C_PORT = 6654, 6656, 6655
NO_MATCH = 0
"""Why a packet-in comes: no flow was there (OpenFlow 1.0, 5.4.1)."""
HOSTS = 64


@contextmanager
def _raw(directory: Path, port: int, sizes: tuple[int, int]) -> Iterator[FakeSwitch]:
    writes = "joined" if port == BATCHING_PORT else "each"
    words = ["-m", "bench.raw_responder", writes, str(port), *map(str, sizes)]
    with Running.python(words, directory / "raw_responder.log"):
        switch = FakeSwitch(port, DPID, PORTS)
        switch.settle(0.3)
        yield switch
        switch.close()


@contextmanager
def _testcontroller(directory: Path, program: str) -> Iterator[FakeSwitch]:
    words = [
        program,
        f"ptcp:{C_PORT}:127.0.0.1",
        f"--unixctl={directory}/testcontroller.ctl",
        "--max-idle=10",
        "-vconsole:warn",
    ]
    with (directory / "testcontroller.log").open("ab") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        switch = FakeSwitch(C_PORT, DPID, PORTS)
        switch.settle(1.0)
        learned = STATION_MAC + ROUTER_MAC + b"\x08\x06" + bytes(46)
        switch.tell(build.packet_in(learned, 2, NO_MATCH))
        yield switch
        switch.close()
    finally:
        end(process)


def _frames(seed: int, number: int) -> list[bytes]:
    return frames(targets(internet_routes(ROUTES), number, seed), seed)


def _to_few(hosts: Sequence[int], number: int) -> list[bytes]:
    draw = random.Random(7)
    return frames([draw.choice(hosts) for _ in range(number)], 7)


def packet_in_rate_vs_raw(
    directory: Path, core: Sequence[str], runs: int, count: int, profile: str = ""
) -> Found:
    """See the module."""
    rates: dict[str, list[float]] = {"xenflow": [], "raw": [], "raw_joined": []}
    with xenflow(directory, core, profile) as ours:
        flow, packet = ours.sample(asked(_frames(98, 1))[0])
        sizes = len(flow), len(packet)
        with (
            _raw(directory, RAW_PORT, sizes) as limit,
            _raw(directory, BATCHING_PORT, sizes) as joined,
        ):
            for run in range(runs + 1):
                found = _frames(run, count)
                for name, switch in (("xenflow", ours), ("raw", limit), ("raw_joined", joined)):
                    packets = asked(found) if switch is ours else seen(found)
                    switch.settle(0.05)
                    rates[name].append(1 / switch.burst(packets, WINDOW, LIMIT_S))
    row = Row.against(
        "packet_in_rate_vs_raw",
        rates["xenflow"][1:],
        "1/s",
        "1/s, raw-socket responder",
        rates["raw"][1:],
    )
    sweep = {
        "window": WINDOW,
        "answer_octets": [len(flow), len(packet)],
        **{f"{name}_runs": [round(rate) for rate in each[1:]] for name, each in rates.items()},
    }
    return Found([row], {"packet_in_rate_vs_raw": sweep})


def packet_in_latency(
    directory: Path, core: Sequence[str], pox: str, count: int, runs: int = 5
) -> Found:
    """See the module; `pox` is the checkout's folder, "" for none."""
    hosts = targets(internet_routes(ROUTES), HOSTS, 1)
    many = _frames(97, count)
    questions, usual = asked(many), seen(many)
    with ExitStack() as stack:
        peers: dict[str, tuple[FakeSwitch, list[bytes]]] = {}
        peers["xenflow"] = stack.enter_context(xenflow(directory, core)), questions
        peers["os_ken"] = stack.enter_context(os_ken(directory)), usual
        program = shutil.which("ovs-testcontroller")
        if program:
            # It passes over packets that were sent to it by an action.
            learning = stack.enter_context(_testcontroller(directory, program))
            peers["testcontroller"] = learning, seen(many, NO_MATCH)
        if pox:
            learning = stack.enter_context(l3_learning(directory, pox, hosts))
            peers["l3_learning_pox"] = learning, seen(_to_few(hosts, count))
        found = _one_by_one(peers)
        rates = {name: _rate(*peers[name], runs) for name in ("testcontroller",) if name in peers}
    if pox:
        with xenflow(directory, ("--pox", pox)) as ours:
            found |= _one_by_one({"xenflow_pox": (ours, questions)})
    rows = [
        Row(
            f"packet_in_latency{suffix}",
            round(_at(found, "xenflow", share), 6),
            "s",
            "s, learning switch on os-ken",
            round(_at(found, "os_ken", share), 6),
            round(_at(found, "xenflow", share) / _at(found, "os_ken", share), 3),
        )
        for suffix, share in (("", 0.5), ("_p99", 0.99))
    ]
    sweep = {
        "packets": count,
        **{
            f"{name}_{label}_s": round(percentile(values, share), 6)
            for name, values in found.items()
            for label, share in (("p50", 0.5), ("p99", 0.99))
        },
        **{f"{name}_rate": round(rate) for name, rate in rates.items()},
    }
    return Found(rows, {"packet_in_latency": sweep})


def _one_by_one(peers: dict[str, tuple[FakeSwitch, list[bytes]]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in peers}
    for switch, packets in peers.values():
        switch.settle(0.05)
        for packet in packets[:20]:
            switch.burst([packet], 1)
    for number in range(20, min(len(packets) for _, packets in peers.values())):
        for name, (switch, packets) in peers.items():
            switch.settle(0.0)
            found[name].append(switch.burst([packets[number]], 1))
    return found


def _rate(switch: FakeSwitch, packets: list[bytes], runs: int) -> float:
    switch.settle(0.05)
    rates = [1 / switch.burst(packets, WINDOW, LIMIT_S) for _ in range(runs)]
    if not rates:
        raise BenchError("no run was asked for")
    return median(rates)


def _at(found: dict[str, list[float]], name: str, share: float) -> float:
    return percentile(found[name], share)
