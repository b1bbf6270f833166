"""Labs with a name: rooms beside one another, of which none sees the others' or the machine's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import rooms
from lab.cli import enter
from lab.rooms import LabRoom, RoomNameError

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
]


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[LabRoom]]:
    monkeypatch.setattr(rooms, "ROOMS", tmp_path)
    made = [rooms.make("a"), rooms.make("b")]
    yield made
    for room in made:
        room.close()


def told(room: LabRoom, script: str) -> str:
    done = subprocess.run(
        room.command(["sh", "-c", script]), capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_labs_beside_one_another(two: list[LabRoom]) -> None:
    a, b = two
    names = ("/run/xenflow/network.toml", "/run/netns/xf-lab", "/run/xenflow/lab/state.json")
    make = "mkdir -p /run/xenflow/lab; ip link add xf-op type veth peer name xf-p; touch "
    make += " ".join(names)
    before = [Path(name).exists() for name in names]
    told(a, make)
    told(b, make)  # the same names, and nobody minds
    told(a, "rm /run/xenflow/network.toml; ip link del xf-op")
    assert told(b, "ls /run/xenflow/network.toml; ip -br link").count("xf-op@") == 1
    assert [Path(name).exists() for name in names] == before
    assert told(a, 'echo "$XENFLOW_ISOLATED"; pwd').split() == ["lab:a", os.getcwd()]
    assert a.state() is None
    told(a, """echo '{"network": "n"}' > /run/xenflow/lab/state.json""")
    assert a.state() == {"network": "n"}
    assert [room.name for room in rooms.rooms()] == ["a", "b"]
    sleeps = subprocess.Popen(a.command(["sleep", "600"]))
    a.close()
    assert sleeps.wait(60) != 0  # what runs in it ends with it
    assert [room.name for room in rooms.rooms()] == ["b"]


def test_a_room_is_named_as_it_is(two: list[LabRoom], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RoomNameError, match="nosuch: no lab of that name is up; named labs: a, b;"):
        rooms.carry_out("nosuch", "status")
    assert rooms.carry_out("nosuch", "down") == 0
    with pytest.raises(RoomNameError, match="expected a name of letters"):
        rooms.make("../a")
    assert rooms.carry_out("", "up") is None  # the lab without a name is where the caller is
    monkeypatch.setenv("XENFLOW_ISOLATED", "lab:a")
    assert rooms.carry_out("a", "up") is None
    enter("a", ["false"])
    with pytest.raises(RoomNameError, match="this is the room of lab a: b is said outside of it"):
        rooms.carry_out("b", "status")
