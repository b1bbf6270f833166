"""One link changed in a large network that lives in a store: `change_to_in_force_p99`.

Measured: from just before the transaction that changes one laid link until every host concerned has
the row on its disk and its switches have answered a barrier.  Baseline, in turns with it: a bare
transaction of one row, and after it a barrier of as many switches.  Both by the same client, in a
cluster of one.  The hosts are emulated by `light_hosts`, one process.

Beside it is counted who sends or receives anything but keep-alives meanwhile; and reported how long
the whole takes to be laid from an empty store, until one controller, and until a planner that takes
over, has what is its own, and what planner, controller and server take in memory.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from bench import light_hosts
from bench.memory import status_octets
from bench.open_vswitch import BenchError
from bench.results import Found, Row, percentile
from bench.store_network import ring
from mgmt.client import AskError, Client
from xenflow.model.network import Network
from xenflow.store.network_rows import LAID, desired, laid, operations
from xenflow.store.ovsdb_store import OvsdbStore
from xenflow.store.schema import PLANNER
from xenflow.store.server import StoreServer
from xenflow.store.transaction import (
    Committed,
    Insert,
    Operation,
    Update,
    WriteOutcome,
    row_id,
)

SMALL = (8, 4, 40, 200)
LARGE = (200, 100, 1000, 10_000)
"""Hosts, plain switches, routers, virtual links."""
WAIT_S = 120.0
QUIET_S = 1.0
"""After a change, until those concerned have written how far they are."""


def change_to_in_force(
    directory: Path, changes: int, sizes: tuple[int, int, int, int] = LARGE
) -> Found:
    """See the module; `changes`: how many are measured."""
    network = ring(*sizes)
    server = StoreServer(directory / "store", "tcp:127.0.0.1:16644")
    server.create()
    server.start()
    try:
        with closing(_Client(server)) as client:
            return _measure(directory, server, client, network, changes)
    finally:
        server.stop()


def _measure(
    directory: Path, server: StoreServer, client: _Client, network: Network, changes: int
) -> Found:
    begun = time.monotonic()
    rows = operations({table: {} for table in LAID}, laid(network), bury=1)
    client.write(*operations({}, desired(network, 1)), *rows)
    laid_s = time.monotonic() - begun
    links = {
        str(one.row["name"]): one
        for one in rows
        if isinstance(one, Insert) and one.table == "Laid_Link" and len(_at(one)) > 1
    }
    planner_s, planner_octets = _planner(directory, server)
    controller_s, controller_octets = _controller(directory, server, network)
    switches: dict[str, list[str]] = {name: [] for name in network.controllers}
    for datapath in network.datapaths.values():
        switches[datapath.controller].append(datapath.name)
    with _Hosts(directory, server, switches) as hosts:
        ours, limits, others = _changes(client, hosts, network, links, changes)
    row = Row(
        "change_to_in_force_p99",
        round(percentile(ours, 0.99), 6),
        "s",
        "s, a bare transaction and barriers of as many switches; shall be at most 3",
        round(percentile(limits, 0.99), 6),
        round(percentile(ours, 0.99) / percentile(limits, 0.99), 3),
    )
    seen = {
        "hosts": len(network.controllers),
        "switches": len(network.datapaths),
        "routers": len(network.routers),
        "links": len(network.links),
        "changes": changes,
        "ours_p50_s": round(percentile(ours, 0.5), 6),
        "bare_p50_s": round(percentile(limits, 0.5), 6),
        "others_that_heard": others,
        "laid_from_empty_s": round(laid_s, 2),
        "all_hosts_at_once_s": round(hosts.ready_s, 2),
        "planner_takes_over_s": round(planner_s, 2),
        "planner_octets": planner_octets,
        "controller_has_its_part_s": round(controller_s, 2),
        "controller_octets": controller_octets,
        "server_octets": status_octets(server.pid() or 0, "VmRSS"),
    }
    figures = [
        Row("laid_from_empty_store", round(laid_s, 2), "s; shall be at most 30"),
        Row("controller_has_its_part", round(controller_s, 2), "s; shall be at most 2"),
    ]
    return Found([row, *figures], {"change_to_in_force": seen})


def _changes(
    client: _Client, hosts: _Hosts, network: Network, links: dict[str, Insert], changes: int
) -> tuple[list[float], list[float], int]:
    """The times of each change, those of the bare one, and how many hosts that no change concerned
    have sent or received something meanwhile."""
    draw = random.Random(3)
    names = sorted(links)
    wire = light_hosts.switches_wire()
    ours, limits = [], []
    for number in range(2, changes + 2):
        row = links[draw.choice(names)]
        begun = time.monotonic()
        client.write(*_bare(number))
        for _ in _at(row):
            light_hosts.barrier(wire)
        limits.append(time.monotonic() - begun)
        begun = time.monotonic()
        client.write(*_changed(row, number))
        ours.append(hosts.in_force(number, _controllers(network, row)) - begun)
        time.sleep(draw.uniform(0.02, 0.05))  # they write how far they are
    time.sleep(QUIET_S)
    hosts.traffic()
    row = links[names[0]]
    for number in range(changes + 2, changes + 12):
        client.write(*_changed(row, number))
        hosts.in_force(number, _controllers(network, row))
    time.sleep(QUIET_S)
    return ours, limits, len(hosts.traffic().keys() - _controllers(network, row))


def _controllers(network: Network, row: Insert) -> set[str]:
    return {network.datapaths[name].controller for name in _at(row)}


def _bare(number: int) -> tuple[Operation, ...]:
    """One row."""
    return (Insert("Change", {"number": 1_000_000 + number, "state": "wanted"}),)


def _changed(row: Insert, number: int) -> tuple[Operation, ...]:
    """As the planner's change: the laid row, the number of the last change, and its account."""
    at = sorted(_at(row))[0]
    access = json.dumps([[at, "desk", [f"02:00:00:00:{number >> 8 & 255:02x}:{number & 255:02x}"]]])
    return (
        Update("Global", (), {"change": number}),
        Update("Laid_Link", row_id(row.uuid), {"access": access, "change": number}),
        Insert("Change", {"number": number, "by": "bench", "state": "laid"}),
    )


def _at(row: Insert) -> frozenset[Any]:
    at = row.row["at"]
    assert isinstance(at, frozenset)
    return at


class _Client:
    """Who writes: the planner's part of it."""

    def __init__(self, server: StoreServer) -> None:
        self._told: SimpleQueue[WriteOutcome] = SimpleQueue()
        self._store = OvsdbStore((server.remote,), lambda call, value: call(value), PLANNER)

    def write(self, *operations: Operation) -> None:
        """Returns when it is on the disk."""
        self._store.transact(operations, WAIT_S, self._told.put)
        outcome = self._told.get()
        if not isinstance(outcome, Committed):
            raise BenchError(f"the store does not take it: {outcome.words}")

    def close(self) -> None:
        """Leave the server."""
        self._store.close()


class _Hosts:
    """The process of light clients, as a context."""

    def __init__(self, directory: Path, server: StoreServer, switches: dict[str, Any]) -> None:
        file = directory / "hosts.json"
        file.write_text(json.dumps(switches))
        self._command = [sys.executable, "-m", "bench.light_hosts", server.remote, str(file)]
        self._log = directory / "hosts.log"
        self.ready_s = 0.0

    def __enter__(self) -> _Hosts:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._lines = _lines_of(self._process)
        self.ready_s = self._next("ready")["ready"]
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(WAIT_S)

    def in_force(self, change: int, hosts: set[str]) -> float:
        """When the last of these hosts had a change in force, by the monotonic clock."""
        last = 0.0
        while hosts:
            said = self._next("in_force")
            if said["in_force"] == change:
                hosts = hosts - {said["host"]}
                last = max(last, said["at"])
        return last

    def traffic(self) -> dict[str, int]:
        """Messages of each host, of those that had any, since this was asked last."""
        assert self._process.stdin is not None
        self._process.stdin.write("traffic\n")
        self._process.stdin.flush()
        found: dict[str, int] = self._next("traffic")["traffic"]
        return found

    def _next(self, word: str) -> dict[str, Any]:
        try:
            while True:
                said = json.loads(self._lines.get(timeout=WAIT_S))
                if word in said:
                    return dict(said)
        except (Empty, ValueError):
            raise BenchError(f"the light hosts do not say {word}: see {self._log}") from None


def _lines_of(process: subprocess.Popen[str]) -> SimpleQueue[str]:
    """What a process says, as it comes; an empty line once it has ended."""
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    return lines


def _planner(directory: Path, server: StoreServer) -> tuple[float, int]:
    """Seconds from its start until a planner can answer, and its memory."""
    listen = "tcp://127.0.0.1:16651"
    command = [sys.executable, "-m", "xenflow.planner", f"--store={server.remote}"]
    with (directory / "planner.log").open("w") as log:
        begun = time.monotonic()
        process = subprocess.Popen([*command, f"--listen={listen}"], stderr=log)
    try:
        while time.monotonic() < begun + WAIT_S:
            try:
                with Client(listen, "planner", 2.0) as client:
                    client.request("history")
                return time.monotonic() - begun, status_octets(process.pid, "VmRSS")
            except AskError:
                time.sleep(0.05)
        raise BenchError(f"the planner does not answer: see {directory / 'planner.log'}")
    finally:
        process.terminate()
        process.wait(WAIT_S)


def _controller(directory: Path, server: StoreServer, network: Network) -> tuple[float, int]:
    """Seconds from its start until a controller's follower has what is its own, and its memory."""
    host, state = next(iter(network.controllers)), str(directory / "state")
    command = [sys.executable, "-m", "bench.one_follower", server.remote, host, state]
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if not _lines_of(process).get(timeout=WAIT_S):
            raise BenchError("the follower has ended")
        return time.monotonic() - begun, status_octets(process.pid, "VmRSS")
    except Empty:
        raise BenchError("the follower does not take what the store has") from None
    finally:
        process.terminate()
        process.wait(WAIT_S)
