"""Three servers of a store, its planner, and what becomes of moves, routes, and controllers
that are started, whatever happens to them: all goes on, under traffic, and only changes wait.

One lab for all of it; each test leaves it whole.  `--full` and `scripts/soak --store` kill more.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lab import operate, process
from lab.description import Lab
from lab.programs import MEMBER_PORT, start_controller, start_planner, store_server
from lab.state import NETWORK_FILE, placed, store_nodes
from lab.store_faults import leader
from tests.lab.conftest import OneLab
from tests.lab.live import (
    LiveTraffic,
    RunningCommand,
    assert_machine_quiet_enough,
    bring_home,
    difference,
    flows,
    in_sync,
    kill,
    reaches,
    restart_controller,
    settle,
    status,
    xenflow,
)
from tests.lab.needed import needs
from tests.lab.test_faults import has_flow, route
from tests.lab.test_store_lab import (
    LINK,
    PROGRAMS,
    all_connected,
    applied_when_planned,
    changes,
    in_store,
    laid_at,
    told,
)
from tests.store.store_rig import joined
from xenflow.store.schema import DATABASE

pytestmark = needs(PROGRAMS)
MEMBERS = 3
DISK = 8 << 20
"""Octets of a server's disk that can be filled."""
ELECTION_MS = 1000
"""A leader is missed after so long, sooner than by default."""
ROUNDS = int(os.environ.get("XENFLOW_ROUNDS", "2"))


@pytest.fixture(scope="module")
def lab(one_lab: OneLab) -> Lab:
    made = one_lab.up("paper", store=True, members=MEMBERS, pause_s=0.1, precopy_s=0.1)
    settle(lambda: in_sync(made) and all_connected(), "every switch in sync")
    control = folder(made, the_leader(made)) / "server.ctl"
    timer = ["cluster/change-election-timer", DATABASE, str(ELECTION_MS)]
    subprocess.run(["ovs-appctl", "-t", control, *timer], check=True, stdout=subprocess.DEVNULL)
    return made


# --- what may become of the store ----------------------------------------------------------------


def servers(lab: Lab) -> list[str]:
    return list(store_nodes(lab, MEMBERS))


def folder(lab: Lab, node: str) -> Path:
    return store_server(lab, node).folder


def start(lab: Lab, *nodes: str) -> None:
    """Servers that do not run."""
    for node in nodes:
        process.start(node, "store", store_server(lab, node).command, f"xf-{node}")


def the_leader(lab: Lab) -> str:
    settle(lambda: bool(leader(lab, MEMBERS)), "a server leads")
    return leader(lab, MEMBERS)


@contextmanager
def killed(lab: Lab, *nodes: str) -> Iterator[None]:
    for node in nodes:
        kill(node, "store")
    yield
    start(lab, *nodes)


@contextmanager
def cut_off(node: str, *ports: int) -> Iterator[None]:
    """From everybody who asks at these ports, and whom it asks there."""
    each = ", ".join(map(str, ports))
    rules = "".join(
        f"chain {hook} {{ type filter hook {hook} priority 0; tcp dport {{ {each} }} drop; "
        f"tcp sport {{ {each} }} drop; }}\n"
        for hook in ("input", "output")
    )
    done = operate.run(node, ["nft", f"table inet xf-cut {{\n{rules}}}"])
    assert done.returncode == 0, done.stderr
    yield
    assert operate.run(node, ["nft", "delete table inet xf-cut"]).returncode == 0


@contextmanager
def small_disks(lab: Lab, copies: Path, *nodes: str) -> Iterator[None]:
    """These servers have each a disk of its own, which can be filled.  Afterwards all have what was
    there before: Open vSwitch 3.1 leaves gaps in the log of a follower whose disk is full, and does
    not start from it any more (docs/store.md)."""
    for node in servers(lab):
        kill(node, "store")
    copy_of(lab, copies)
    for node in nodes:
        here = folder(lab, node)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", here], check=True)
    put_back(lab, copies)
    settle(all_connected, "the store is found again")
    yield
    for node in servers(lab):
        kill(node, "store")
    for node in nodes:
        subprocess.run(["umount", "--lazy", folder(lab, node)], check=True)
    put_back(lab, copies)


def fill(lab: Lab, *nodes: str) -> None:
    for node in nodes:
        with (folder(lab, node) / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))


@contextmanager
def older(lab: Lab, copies: Path) -> Iterator[None]:
    """Its data is that of some time ago; afterwards today's again."""
    today = copies.with_name("today")
    for node in servers(lab):
        kill(node, "store")
    copy_of(lab, today)
    put_back(lab, copies)
    yield
    for node in servers(lab):
        kill(node, "store")
    put_back(lab, today)


def copy_of(lab: Lab, copies: Path) -> None:
    """Copy what the servers have, which do not run."""
    copies.mkdir()
    for node in servers(lab):
        shutil.copy(store_server(lab, node).database, copies / node)


def put_back(lab: Lab, copies: Path) -> None:
    for node in servers(lab):
        shutil.copy(copies / node, store_server(lab, node).database)
    start(lab, *servers(lab))


# --- what goes on --------------------------------------------------------------------------------


def other_host() -> str:
    return "host-b" if placed()["vr1"] == "host-a" else "host-a"


def test_all_goes_on_whatever_becomes_of_the_store(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "paper.toml"
    text, before = NETWORK_FILE.read_text(), flows(lab)
    yesterday = tmp_path / "yesterday"

    @contextmanager
    def all_goes_on() -> Iterator[Callable[[], None]]:
        """In the middle of a move, when something becomes of the store: the rest of it, and a route
        that changes.  (That controllers start is seen in tests/planner/test_bad_conditions.py.)"""
        settle(all_connected, "the store is found again")
        to = other_host()
        with RunningCommand("migrate", "vr1", to, halt=("links", 1)) as move:
            move.await_halt()

            def goes_on() -> None:
                move.send(signal.SIGCONT)
                assert move.end() == 0, move.text
                route("add")
                settle(lambda: has_flow(lab, to), "the route is a flow")
                route("del")
                settle(lambda: not has_flow(lab, to), "the route is no flow any more")

            yield goes_on

    assert_machine_quiet_enough()
    with LiveTraffic() as traffic:
        alone = the_leader(lab)
        with all_goes_on() as goes_on, cut_off(alone, MEMBER_PORT):
            goes_on()
            # Two of three are enough, whoever believes to lead them still.
            assert applied_when_planned(file, text + LINK) == 2
            settle(lambda: leader(lab, MEMBERS) not in ("", alone), "it leads no more")
        two = [the_leader(lab), next(node for node in servers(lab) if node != the_leader(lab))]
        with all_goes_on() as goes_on:  # a link goes, one that is in use does not
            assert applied_when_planned(file, text) == 3
            in_use = xenflow("link", "destroy", "left")
            assert in_use.returncode == 2 and "vr1 has an interface on it" in in_use.stderr
            with killed(lab, *two):
                goes_on()
        with all_goes_on() as goes_on, killed(lab, *servers(lab)):
            copy_of(lab, yesterday)
            goes_on()
            here = placed()["vr1"]
            kill(here, "controller")
            restart_controller(lab, here)
            assert in_store(here)["taken"] == 3
            file.write_text(text + LINK)
            asked = xenflow("apply", str(file))
            assert asked.returncode == 1 and "the store cannot be written to" in asked.stderr
        assert applied_when_planned(file, text + LINK) == 4
        with all_goes_on() as goes_on, older(lab, yesterday):
            goes_on()
            settle(lambda: "an older copy" in str(status()["causes"]), "it is said")
        full = tmp_path / "before it was full"
        with small_disks(lab, full, *two), all_goes_on() as goes_on:
            fill(lab, *two)
            goes_on()
        assert applied_when_planned(file, text) == 5
        bring_home(lab)
    traffic.assert_nothing_lost()
    assert all(joined(store_server(lab, node)) for node in servers(lab))
    assert changes(lab) == [1, 2, 3, 4, 5]
    settle(lambda: laid_at(lab) == "host-a" and not told(lab), "its place is laid")
    assert difference(before, flows(lab)) == []


# --- who may be killed in the middle of a move ---------------------------------------------------

VICTIMS = ("leader", "follower", "all servers", "planner", "mover", "controller")


def strike(lab: Lab, victim: str, move: RunningCommand, draw: random.Random) -> list[str]:
    """`kill -9`; who follows the store goes on at once, the servers are returned."""
    lives = [node for node in servers(lab) if store_server(lab, node).pid() is not None]
    if victim == "mover":
        move.send(signal.SIGKILL)
    elif victim == "planner":
        kill("lab", "planner")
        start_planner(lab, MEMBERS)
    elif victim == "controller":
        name = draw.choice(sorted(lab.network.controllers))
        kill(lab.controller_node(name), "controller")
        start_controller(lab, name)
    else:
        leads = leader(lab, MEMBERS)
        gone = lives
        if victim == "leader":
            gone = [leads] if leads else []
        elif victim == "follower":
            others = [node for node in lives if node != leads]
            gone = [draw.choice(others)] if others else []
        for node in gone:
            kill(node, "store")
        return gone
    return []


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, ROUNDS))]
)
def test_a_move_ends_whoever_is_killed_in_the_middle(lab: Lab, seed: int) -> None:
    """Two at a time, at a stage by chance: the router runs on one host, all know which, and there
    is nothing left to do for people.  Without a controller's end nothing is lost, either."""
    before, made = flows(lab), changes(lab)
    home = lab.network.routers["vr1"].home
    draw = random.Random(seed)
    victims = draw.sample(VICTIMS, len(VICTIMS))
    for pair in zip(victims[::2], victims[1::2], strict=True):
        stage = draw.choice(("prepare", "control", "links", "clean"))
        said = f"seed {seed}, {stage}, {pair}"
        with (
            LiveTraffic() as traffic,
            RunningCommand("migrate", "vr1", other_host(), halt=(stage, 1)) as move,
        ):
            move.await_halt()
            gone = [node for victim in pair for node in strike(lab, victim, move, draw)]
            move.send(signal.SIGCONT)
            ended = move.end()
            start(lab, *gone)
            assert all(joined(store_server(lab, node)) for node in servers(lab)), said
            settle(all_connected, f"the store is found again ({said})")
            settle(lambda: not told(lab), f"it is ended, or recovered ({said})")
            settle(lambda: in_sync(lab), f"every switch in sync ({said})")
        if "controller" not in pair:
            traffic.assert_nothing_lost()
            assert ended == 0 or "mover" in pair, move.text
        found = status()
        place = found["placements"]["vr1"]
        assert place["vm"] == placed()["vr1"] and place["forwarders"] == [place["vm"]], said
        assert "nothing to recover" in xenflow("recover", "--dry-run").stdout, said
        at = place["vm"]
        settle(lambda at=at: (laid_at(lab) or home) == at, f"where it is is laid ({said})")
        reaches("gen", "10.2.0.1")
    bring_home(lab)
    assert (difference(before, flows(lab)), changes(lab)) == ([], made)
