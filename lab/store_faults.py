"""The leader of a lab's store is killed, and started again.  Called by `soak`."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from lab import process
from lab.description import PREFIX, Lab
from lab.measuring import say
from lab.programs import store_server
from lab.state import store_nodes
from xenflow.store.server import StoreServerError

Result = TypeVar("Result")
WITHIN_S = 1.5
"""The leader is killed within so long after the beginning."""
ELECTED_S = 20.0
"""So long the members may take to elect another one."""


def without_leader(lab: Lab, members: int, act: Callable[[], Result]) -> Result:
    """What `act` returns, while the leader is killed at some moment of it; whoever was killed is
    started again afterwards."""
    killed: list[str] = []

    def kill() -> None:
        node = leader(lab, members)
        pid = store_server(lab, node).pid() if node else None
        if pid is None:
            say("store: nobody leads it, nobody is killed")
            return
        os.kill(pid, signal.SIGKILL)
        killed.append(node)
        say(f"store: the leader, in {node}, is killed")

    end = time.monotonic() + ELECTED_S
    while not leader(lab, members) and time.monotonic() < end:  # who was killed last led it
        time.sleep(0.2)
    timer = threading.Timer(random.uniform(0.0, WITHIN_S), kill)
    timer.start()
    try:
        return act()
    finally:
        timer.join()
        for node in killed:
            process.start(node, "store", store_server(lab, node).command, PREFIX + node)


def leader(lab: Lab, members: int) -> str:
    """The node of the member that leads; "" while none does."""
    for node in store_nodes(lab, members):
        with suppress(StoreServerError):  # it does not run
            if "Role: leader" in store_server(lab, node).shown():
                return node
    return ""
