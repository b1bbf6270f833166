"""The network is changed while a router is moved: what the router needs stays as it is until then,
and the rest is in force at once.  Packets of others pass meanwhile, whoever is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import operate
from lab.description import Lab
from lab.state import placed
from tests.lab.grown import CAMPUS, changed
from tests.lab.live import (
    LiveTraffic,
    RunningCommand,
    assert_machine_quiet_enough,
    bring_home,
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
from tests.lab.test_store_lab import PROGRAMS, all_connected, changes
from xenflow.tables import layout

pytestmark = needs(PROGRAMS)
MOVED, HOME, AWAY = "r3", "host-c", "host-b"
M2 = 'access = [{ at = "host-b:m2", macs = ["02:00:00:00:04:02"] }]\n'
OTHER = changed(
    CAMPUS,
    (f"[links.middle]\nid = 4\nvlan = 104\n{M2}", ""),
    ('    { name = "eth1", link = "middle", mac = "02:00:00:03:04:01", vif = "r3.1" },\n', ""),
    ('vlan = 105\nroot = "host-c"\n', f'vlan = 105\nroot = "host-c"\n{M2}'),
)
"""One of its links is destroyed, and the station that was there comes to another one of its."""
NOT_YET = "links.middle, links.three-four, routers.r3: held by the move of r3"


@contextmanager
def half_moved(to: str) -> Iterator[RunningCommand]:
    """A move whose VM is there; the switches between are not turned, until it is told to go on."""
    with RunningCommand("migrate", MOVED, to, "--step") as move:
        for _ in ("prepare", "control"):
            move.await_text("go on? [yes/no] ")
            move.text = move.text.partition("go on? [yes/no] ")[2]
            move.answer("yes")
        move.await_text("press Enter to go on")
        yield move


def go_on(move: RunningCommand) -> None:
    for _ in ("links", "drain", "clean"):
        move.answer("")
    assert move.end() == 0, move.text


def test_what_is_applied_amid_a_move(lab_up: Callable[..., Lab], tmp_path: Path) -> None:
    file = tmp_path / "campus.toml"
    file.write_text(CAMPUS)
    lab = lab_up(str(file), store=True, pause_s=0.1, precopy_s=0.1)
    settle(lambda: in_sync(lab) and all_connected(), "every switch in sync, with the store")
    reaches("m1", "10.3.0.1")
    assert_machine_quiet_enough(ends=("m1", "m3"))
    before, first = lasting(lab), changes(lab)[-1]
    with LiveTraffic(ends=("m1", "m3")) as traffic:
        with half_moved(AWAY) as move:
            reaches("m2", "10.0.4.13")
            made = xenflow("link", "create", "spare", "--access", "s1:spare")
            assert made.returncode == 0 and f"change {first + 1}" in made.stdout, made.stderr
            file.write_text(OTHER)
            held = xenflow("apply", str(file), "--prune")
            assert held.returncode == 5 and NOT_YET in held.stderr, held.stderr
            assert f"change {first + 2}" in held.stdout, "it goes on by itself"
            made = xenflow("link", "create", "spare", "--access", "s1:spare")
            assert made.returncode == 0, made.stderr  # a change behind it
            reaches("m2", "10.0.4.13")
            kill(AWAY, "controller")
            restart_controller(lab, AWAY)
            assert NOT_YET in xenflow("status").stdout
            reaches("m2", "10.0.4.13")
            go_on(move)
        settle(is_in_force, "what was held is in force")
        assert placed()[MOVED] == AWAY
        operate.run("m2", ["ip", "address", "add", "10.0.5.2/24", "dev", "eth0"])
        reaches("m2", "10.0.5.13")
        operate.run("m2", ["ip", "address", "del", "10.0.5.2/24", "dev", "eth0"])
        with half_moved(HOME) as move:
            file.write_text(CAMPUS)
            held = xenflow("apply", str(file), "--prune")
            assert held.returncode == 5 and "held by the move of r3" in held.stderr, held.stderr
            move.process.kill()  # the planner recovers the move
            settle(is_in_force, "what was held is in force")
        settle(lambda: placed()[MOVED] == HOME, "it is recovered")
        reaches("m2", "10.0.4.13")  # over the link that was away
    traffic.assert_nothing_lost()
    settle(lambda: status()["healthy"] and lasting(lab) == before, "all is as before")
    bring_home(lab, MOVED)


def lasting(lab: Lab) -> dict[str, list[str]]:
    """The flows of every switch, but those of single neighbours: a station that was on another link
    for a moment is remembered there for a minute."""
    stations = f"table={layout.NEXT_HOPS}, priority={layout.NextHops.STATION},"
    found = flows(lab).items()
    return {name: [line for line in lines if stations not in line] for name, lines in found}


def is_in_force() -> bool:
    return "in force where it concerns" in xenflow("status").stdout
