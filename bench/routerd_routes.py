"""Measures the way of routes from the kernel to the Rule Table's state, stage by stage.

    python bench/routerd_routes.py [ROUTES]        needs root for a network namespace of its own

What it prints is the table in docs/routerd.md.  Each figure is the median of five.
"""

from __future__ import annotations

import gc
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "pox_ext")]

from routerd import rtnetlink as rt  # noqa: E402
from routerd.daemon import Kernel  # noqa: E402
from xenflow.routes.feed import Feed  # noqa: E402
from xenflow.routes.messages import parse  # noqa: E402
from xenflow.routes.router_state import RouterState  # noqa: E402
from xenflow.routes.sender import Sender, snapshot_messages  # noqa: E402

REPEAT = 5


def timed(action: Callable[[], object]) -> float:
    """Seconds, the median."""
    found = []
    for _ in range(REPEAT):
        gc.collect()
        began = time.perf_counter()
        action()
        found.append(time.perf_counter() - began)
    return median(found)


def resident() -> int:
    """Octets resident now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def enter_namespace() -> None:
    """A fresh network namespace, with two links whose far ends are in another."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
        raise OSError(ctypes.get_errno(), "unshare")
    for command in (
        "link set lo up",
        "link add name eth0 type veth peer name p0",
        "link add name eth1 type veth peer name p1",
        "addr add 10.0.0.1/24 dev eth0",
        "addr add 10.0.1.1/24 dev eth1",
        "link set eth0 up",
        "link set eth1 up",
        "link set p0 up",
        "link set p1 up",
    ):
        ip(command)


def ip(command: str, batch: str | None = None) -> None:
    """Run ip."""
    subprocess.run(["ip", *command.split()], input=batch, text=True, check=True)


def prefixes(count: int) -> Iterator[tuple[str, int]]:
    """Distinct prefixes of lengths as in a full table: mostly 24, some shorter."""
    rnd = random.Random(1)
    seen = set()
    while len(seen) < count:
        length = rnd.choice((16, 20, 22, 23, 24, 24, 24, 24, 24, 24))
        net = (rnd.randint(11 << 24, 220 << 24) >> (32 - length)) << (32 - length)
        if (net, length) in seen or net >> 24 == 127:
            continue
        seen.add((net, length))
        yield socket.inet_ntoa(net.to_bytes(4, "big")), length


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    enter_namespace()
    gateways = [f"10.0.{n % 2}.{2 + n // 2}" for n in range(64)]
    ip(
        "-force -batch -",
        "\n".join(
            f"route add {net}/{length} via {gateways[n % 64]} proto bird metric 32"
            for n, (net, length) in enumerate(prefixes(count))
        ),
    )
    rows: list[tuple[str, float]] = []

    def row(name: str, seconds: float) -> None:
        rows.append((name, seconds / count * 1e6))

    def raw_dump() -> None:
        for _ in kernel._requests.datagrams(rt.get_routes(rt.AF_INET, rt.TABLE_MAIN)):
            pass

    before = resident()
    kernel = Kernel("ctl0")
    kernel.dump()
    state = kernel.telling.state()
    memory_view = resident() - before
    row("kernel: dump, bytes only", timed(raw_dump))
    row("routerd: dump and decode", timed(kernel._dump_main))
    row("routerd: state from the view", timed(kernel.telling.state))
    row(
        "routerd: nothing changed: state and difference",
        timed(lambda: state.sections_to(kernel.telling.state())),
    )
    row("routerd: pack a snapshot", timed(lambda: list(snapshot_messages(state, "vr1"))))
    messages = list(snapshot_messages(state, "vr1"))
    octets = sum(len(frame) for frames in messages for frame in frames)
    row("Rule Table: parse", timed(lambda: [parse(frames) for frames in messages]))
    sections = [parse(frames).sections for frames in messages]

    def apply() -> RouterState:
        fresh = RouterState()
        for part in sections:
            fresh.apply(part)
        return fresh

    def feed() -> Feed:
        fresh = Feed("vr1")
        for frames in messages:
            fresh.receive(frames, 0.0)
        return fresh

    row("Rule Table: apply", timed(apply))
    row("Rule Table: Feed, streamed (parse, apply, all)", timed(feed))
    fed = feed()

    def again() -> None:
        for frames in messages:
            fed.receive(frames, 0.0)

    row("Rule Table: Feed, staged, nothing changed", timed(again))
    gc.collect()
    before = resident()
    kept = feed()
    memory_feed = resident() - before

    print(f"{count} routes, {len(messages)} messages, {octets / count:.1f} octets a route")
    for name, value in rows:
        print(f"| {name} | {value:.2f} us |")
    print(f"| routerd: memory (view and told state) | {memory_view / count:.0f} octets a route |")
    print(f"| Rule Table: memory of a Feed | {memory_feed / count:.0f} octets a route |")
    del kept

    sender = Sender("vr1", 1)
    sender.change(RouterState().sections_to(state), 0.0)
    waits = []
    for n in range(200):
        ip(f"route replace 198.51.{n}.0/24 via 10.0.0.2")
        began = time.perf_counter()
        kernel.read()
        if kernel.needs_dump():
            kernel.dump()
            sender.change(sender.state.sections_to(kernel.telling.state()), 0.0)
            continue
        sender.change(kernel.telling.sections(sender.state), 0.0)
        waits.append(time.perf_counter() - began)
    print(f"| one change: read, decode, difference, pack | {median(waits) * 1e6:.0f} us |")


if __name__ == "__main__":
    main()
