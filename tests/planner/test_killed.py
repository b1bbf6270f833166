"""`kill -9` of whom it may be, in the middle of `apply`: nothing that was acknowledged is lost or
done twice, and what is not known is found by looking.

XENFLOW_ROUNDS rounds (two), each with a seed of its own; `scripts/soak --store N` runs more.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from mgmt.client import AskError
from tests.planner.living import ANSWER_S, LivingNetwork, leader_of, living, more, start_again
from tests.store.store_rig import kill, needs_server
from xenflow.store.server import StoreServer

pytestmark = [needs_server, pytest.mark.lab]

ROUNDS = int(os.environ.get("XENFLOW_ROUNDS", "2"))
VICTIMS = (
    "leader",
    "follower",
    "all servers",
    "planner",
    "controller",
    "command",
    "silent leader",
)
FIRST_ID = 301


def strike(network: LivingNetwork, victim: str, draw: random.Random) -> None:
    """Kill, or halt, one of them, and have it started again a little later."""
    site = network.site
    down: list[StoreServer] = []
    if victim == "command":
        return  # it goes by itself
    if victim == "planner":
        url = network.planner
        network.kill_planner(url)
        network.rest(draw.uniform(0.0, 0.5))
        network.start_planner(url)
        return
    if victim == "controller":
        network.controllers[draw.choice(sorted(network.controllers))].start()
        return
    leader = leader_of(site)
    if victim == "silent leader":  # as if it was cut off
        pid = leader.pid()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        network.rest(draw.uniform(1.0, 3.0))
        os.kill(pid, signal.SIGCONT)
        return
    if victim == "leader":
        down = [leader]
    elif victim == "follower":
        down = [draw.choice([server for server in site.servers if server != leader])]
    else:
        down = list(site.servers)
    for server in down:
        kill(server)
    network.rest(draw.uniform(0.0, 1.0))
    start_again(site)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_nothing_acknowledged_is_lost_or_done_twice(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    victims = draw.sample(VICTIMS, len(VICTIMS))
    with living(tmp_path, members=3, planners=2) as network:
        acknowledged: dict[int, int] = {}
        ids: list[int] = []
        for place, victim in enumerate(victims):
            ids.append(FIRST_ID + place)
            for_s = draw.uniform(0.0, 0.08) if victim == "command" else ANSWER_S
            asked = network.applying(more(*ids), for_s)
            time.sleep(draw.uniform(0.0, 0.08))
            strike(network, victim, draw)
            network.run(lambda asked=asked: asked.done)
            try:
                acknowledged[ids[-1]] = asked.result()["change"]
            except AskError as error:
                assert error.code in ("refused", "unknown", "unreachable"), (victim, error)
            if number := network.resolve(more(*ids)):
                assert ids[-1] not in acknowledged, f"{victim}: what was done was done again"
                acknowledged[ids[-1]] = number
            changes = network.ask("history")["changes"]
            added = [
                (name, one["number"])
                for one in changes
                for name in one["changed"].get("links", {}).get("added", ())
            ]
            assert sorted(name for name, _ in added) == [f"l{id}" for id in ids], victim
            assert {(f"l{id}", number) for id, number in acknowledged.items()} <= set(added), victim
            last = changes[0]["number"]
            assert [one["number"] for one in changes] == list(range(last, 0, -1))
            network.run(lambda last=last: network.is_everywhere(last))
            for controller in network.controllers.values():
                assert controller.network.links.keys() >= {f"l{id}" for id in ids}, victim
