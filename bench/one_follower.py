"""One controller's follower of the store, beside a table that takes what it is told and no switch.

    python -m bench.one_follower REMOTE HOST FOLDER

It says on stdout, in one line, how many links it has, once it has its part of the network; then it
goes on until it is ended.  Run by `change_to_in_force`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from xenflow.control.leases import Leases
from xenflow.control.store_follower import StoreFollower
from xenflow.model.difference import NetworkDifference, compare
from xenflow.model.network import EMPTY, Network
from xenflow.model.placement import Placement
from xenflow.store.laid_file import LaidFile
from xenflow.store.ovsdb_store import OvsdbStore
from xenflow.store.schema import Role, StoreWriter
from xenflow.switch.problems import Problems


class _Table:
    """In the Rule Table's place."""

    def __init__(self, host: str) -> None:
        self.network = EMPTY
        self.problems = Problems(host)
        self.switches: dict[str, Any] = {}

    def searching(self) -> str:
        """It has lost nothing."""
        return ""

    def become(self, network: Network) -> NetworkDifference:
        """Be another network."""
        found, self.network = compare(self.network, network), network
        return found

    def believe(self, source: str, placements: Iterable[Placement]) -> None:
        """It has no switch that could be told where routers are."""


def main() -> None:
    """Runs until it is ended."""
    remote, host, folder = sys.argv[1:]
    posted: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
    store = OvsdbStore(
        (remote,), lambda *call: posted.put(call), StoreWriter(Role.CONTROLLER, host)
    )
    table: Any = _Table(host)
    file, leases = LaidFile(Path(folder)), Leases(time.monotonic)
    follower = StoreFollower(store, host, file, None, table, table.become, leases)
    follower.start()
    said = False
    while True:
        try:
            call, value = posted.get(timeout=0.2)
            call(value)
        except Empty:
            follower.tick(time.monotonic())
        if not said and follower.status()["taken"]:
            said = True
            print(len(table.network.links), flush=True)


if __name__ == "__main__":
    main()
