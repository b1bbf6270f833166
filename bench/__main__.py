"""`python -m bench`: chooses measurements, runs them one after the other, prints and writes.

Called by `scripts/bench`, which has made the set-up and the namespaces.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import results
from bench.open_vswitch import BenchError
from bench.results import Found, Row
from lab import own_folder
from xenflow.routes.family import V4, V6, Family

STAND_IN = ("--stand-in",)
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How much is measured.  `pox` is the folder of a POX checkout, or ""; `many` are the routes
    of a full table."""

    directory: Path
    pox: str
    runs: int
    routes: int
    many: int
    quick: bool
    profile: str


def _socket(plan: BenchOptions) -> Found:
    from bench import route_speed

    return route_speed.socket_to_switch(
        plan.directory, STAND_IN, plan.runs, plan.routes, plan.quick, plan.profile
    )


def _socket_pox(plan: BenchOptions) -> Found:
    from bench import route_speed

    return route_speed.socket_to_switch(
        plan.directory,
        ("--pox", plan.pox),
        plan.runs,
        plan.routes,
        plan.quick,
        plan.profile,
        "routes_socket_to_switch_pox",
    )


def _kernel(plan: BenchOptions) -> Found:
    from bench import route_speed

    return route_speed.kernel_to_switch(
        plan.directory, STAND_IN, plan.runs, plan.routes, plan.quick, plan.profile
    )


def _socket_1m(
    plan: BenchOptions, name: str = "routes_1m_socket_to_switch", family: Family = V4
) -> Found:
    from bench import route_speed

    return route_speed.socket_to_switch(
        plan.directory, STAND_IN, plan.runs, plan.many, plan.quick, plan.profile, name, family
    )


def _kernel_1m(
    plan: BenchOptions, name: str = "routes_1m_kernel_to_switch", family: Family = V4
) -> Found:
    from bench import route_speed

    return route_speed.kernel_to_switch(
        plan.directory, STAND_IN, plan.runs, plan.many, plan.quick, plan.profile, name, family
    )


def _change(plan: BenchOptions) -> Found:
    from bench import change_latency

    samples = 50 if plan.quick else 300
    return change_latency.route_change_latency(
        plan.directory, STAND_IN, samples, plan.routes, plan.profile
    )


def _change_1m(
    plan: BenchOptions, name: str = "route_change_latency_1m", family: Family = V4
) -> Found:
    from bench import change_latency

    samples = 50 if plan.quick else 300
    return change_latency.route_change_latency(
        plan.directory, STAND_IN, samples, plan.many, plan.profile, name, family
    )


def _live(plan: BenchOptions) -> Found:
    from bench import live_learning

    return live_learning.live(plan.directory, STAND_IN, min(plan.runs, 3), plan.many)


def _next_hop(plan: BenchOptions) -> Found:
    from bench import next_hop_loss

    sizes = (plan.many // 100, plan.many)
    return next_hop_loss.next_hop_lost(plan.directory, STAND_IN, plan.runs, sizes)


def _packets(plan: BenchOptions) -> Found:
    from bench import packet_in

    return packet_in.packet_in_rate(
        plan.directory, STAND_IN, plan.runs, 5_000 if plan.quick else 40_000, plan.profile
    )


def _packets_pox(plan: BenchOptions) -> Found:
    from bench import packet_in

    return packet_in.packet_in_rate_pox(
        plan.directory, plan.pox, plan.runs, 5_000 if plan.quick else 40_000, plan.profile
    )


def _packets_raw(plan: BenchOptions) -> Found:
    from bench import packet_in_limits

    return packet_in_limits.packet_in_rate_vs_raw(
        plan.directory, STAND_IN, plan.runs, 10_000 if plan.quick else 100_000, plan.profile
    )


def _latency(plan: BenchOptions) -> Found:
    from bench import packet_in_limits

    return packet_in_limits.packet_in_latency(
        plan.directory, STAND_IN, plan.pox, 220 if plan.quick else 2_020
    )


def _flood(plan: BenchOptions) -> Found:
    from bench import flood

    return flood.under_flood(plan.directory, STAND_IN, 100 if plan.quick else 1000)


def _migration(plan: BenchOptions) -> Found:
    from bench import migration

    return migration.migration_lost(plan.directory, plan.quick)


def _migration_1m(plan: BenchOptions) -> Found:
    from bench import migration_scale

    return migration_scale.migration_link_turn(plan.directory, plan.many)


def _large_change(plan: BenchOptions) -> Found:
    from bench import large_network

    return large_network.change_in_large_network(plan.runs)


def _large_plan(plan: BenchOptions) -> Found:
    from bench import large_network

    return large_network.plan_move_in_large_network(plan.runs)


def _lay(plan: BenchOptions) -> Found:
    from bench import trees

    return trees.lay_large_network(plan.runs)


def _in_force(plan: BenchOptions) -> Found:
    from bench import change_to_in_force as bench

    sizes = bench.SMALL if plan.quick else bench.LARGE
    return bench.change_to_in_force(plan.directory, 100 if plan.quick else 500, sizes)


MEASUREMENTS: dict[str, Callable[[BenchOptions], Found]] = {
    "routes_socket_to_switch": _socket,
    "routes_kernel_to_switch": _kernel,
    "route_change_latency": _change,
    "routes_1m_socket_to_switch": _socket_1m,
    "routes_1m_kernel_to_switch": _kernel_1m,
    "routes_1m_live": _live,
    "route_change_latency_1m": _change_1m,
    "routes6_1m_socket_to_switch": partial(
        _socket_1m, name="routes6_1m_socket_to_switch", family=V6
    ),
    "routes6_1m_kernel_to_switch": partial(
        _kernel_1m, name="routes6_1m_kernel_to_switch", family=V6
    ),
    "route6_change_latency_1m": partial(_change_1m, name="route6_change_latency_1m", family=V6),
    "next_hop_lost": _next_hop,
    "packet_in_rate": _packets,
    "packet_in_rate_vs_raw": _packets_raw,
    "packet_in_latency": _latency,
    "route_change_under_flood": _flood,
    "packet_in_rate_pox": _packets_pox,
    "routes_socket_to_switch_pox": _socket_pox,
    "migration_lost": _migration,
    "migration_1m_link_turn": _migration_1m,
    "change_in_large_network": _large_change,
    "plan_move_in_large_network": _large_plan,
    "lay_large_network": _lay,
    "change_to_in_force_p99": _in_force,
}
UNDER_POX = ("packet_in_rate_pox", "routes_socket_to_switch_pox")


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures XenFlow against limits and peers in the same run. Root; needs Open "
        "vSwitch. Writes bench/out/results.json and bench/out/sweeps.json.",
        epilog="measurements: " + ", ".join(MEASUREMENTS),
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer runs and routes, for a first look"
    )
    parser.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="only this (may be repeated)"
    )
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="instead: how cost grows with routes, routers and switches; draws docs/figures",
    )
    parser.add_argument("--pox", metavar="DIR", default="", help="also under this POX checkout")
    parser.add_argument("--runs", metavar="N", type=int, default=0, help="interleaved runs (5)")
    parser.add_argument("--routes", metavar="N", type=int, default=0, help="routes (100000)")
    parser.add_argument("--keep", metavar="DIR", default="", help="keep logs in this folder")
    parser.add_argument("--profile", metavar="FILE", default="", help=argparse.SUPPRESS)
    found = parser.parse_args(words)
    for name in found.only:
        if name not in MEASUREMENTS:
            parser.error(f"--only {name}: known are {', '.join(MEASUREMENTS)}")
    if found.keep:
        try:
            own_folder.take(Path(found.keep), ".xenflow-bench")
        except own_folder.NotOurFolderError as error:
            parser.error(f"--keep {error}")
    return found


def _find_pox(asked: str) -> str:
    """The checkout that `./pox.py` would use, "" where there is none."""
    options = ["--pox", asked] if asked else []
    command = [sys.executable, str(ROOT / "pox.py"), *options, "--version"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: {done.stderr.strip()}")
    return done.stdout.strip().partition("core: POX at ")[2]


def _sweep(asked: argparse.Namespace) -> int:
    from bench import plots, sweep

    with tempfile.TemporaryDirectory(prefix="xf-sweep-", dir="/tmp") as scratch:
        directory = Path(asked.keep or scratch)
        directory.mkdir(parents=True, exist_ok=True)
        try:
            sweep.sweep(directory, STAND_IN, asked.runs or (1 if asked.quick else 3), asked.quick)
        except (BenchError, OSError, subprocess.CalledProcessError) as error:
            print(f"bench: sweep: {error}", file=sys.stderr)
            return 1
    for path in plots.draw():
        print(path.relative_to(ROOT), file=sys.stderr)
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where a measurement could not be made."""
    asked = _arguments(words)
    if os.geteuid() != 0:
        print("bench: needs root: it makes network namespaces", file=sys.stderr)
        return 1
    if asked.sweep:
        return _sweep(asked)
    if not asked.only:
        results.forget()
    rows: list[Row] = []
    sweeps: dict[str, Any] = {"load_before": os.getloadavg()[0], "cores": os.cpu_count()}
    failed = False
    pox = _find_pox(asked.pox)
    with tempfile.TemporaryDirectory(prefix="xf-bench-", dir="/tmp") as scratch:
        for name in asked.only or MEASUREMENTS:
            if name in UNDER_POX and not pox:
                print(f"{name}: left out: no POX here (scripts/get-pox)", file=sys.stderr)
                continue
            directory = Path(asked.keep or scratch) / name
            directory.mkdir(parents=True, exist_ok=True)
            plan = BenchOptions(
                directory,
                pox,
                asked.runs or (3 if asked.quick else 5),
                asked.routes or (20_000 if asked.quick else 100_000),
                asked.routes or (100_000 if asked.quick else 1_000_000),
                asked.quick,
                asked.profile,
            )
            begun = time.monotonic()
            try:
                found = MEASUREMENTS[name](plan)
            except (BenchError, OSError, subprocess.CalledProcessError) as error:
                print(f"bench: {name}: {error}", file=sys.stderr)
                failed = True
                continue
            rows += found.rows
            sweeps |= found.sweep
            results.write(rows, sweeps)
            print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    print(results.table(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
