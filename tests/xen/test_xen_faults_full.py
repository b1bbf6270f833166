"""What goes wrong in the middle of a move on genuine Xen, and `xenflow recover` after it.

Whatever is killed or cut, and whenever: the router ends on exactly one host, the same guest,
running and forwarding, with nothing left over on the other.  Run with `scripts/test-xen --full`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from lab import operate
from lab.description import PREFIX
from lab.namespace import ip
from tests.lab.live import RunningCommand, settle, xenflow
from tests.xen.bed.bed import Bed
from tests.xen.bed.dom0 import BedDom0
from tests.xen.bed_live import (
    MOVE_LIMIT_S,
    bring_home,
    data_vifs,
    in_sync,
    other,
    ports,
    token,
    where,
)

TOPOLOGY = "xen"
Figure = Callable[[str, object], None]

MOVING = "move the VM to host-b ... "
TITLES = {
    "prepare": "prepare the data plane on host-b ... ",
    "copying": MOVING,
    "suspended": MOVING,
    "links": "turn the virtual links to host-b ... ",
    "drain": "wait until host-a is quiet ... ",
    "clean": "remove the router from host-a ... ",
}
"""What `xenflow migrate` prints when it begins a stage."""
BEFORE_COMMIT = ("prepare", "copying", "suspended")
"""Whatever breaks in one of these stages, the router stays; from `links` on, it has moved."""


@pytest.fixture
def home(bed: Bed) -> Iterator[str]:
    """The router at home, everything in sync, before and after; yields the guest's token."""
    bring_home(bed)
    in_sync(bed)
    yield token(bed)
    bring_home(bed)


# --- looking on ----------------------------------------------------------------------------------


def state(dom0: BedDom0, domain: str) -> str:
    """A domain's state as `xl list` shows it, "" where it is not there."""
    for line in dom0.ask("xl list").splitlines()[1:]:
        if line.split()[0] == domain:
            return line.split()[4]
    return ""


def receives(dom0: BedDom0) -> bool:
    """Whether a domain's memory is coming in."""
    return dom0.run("pgrep -f 'libxl-save-helpe[r]'", check=False).returncode == 0


def await_stage(bed: Bed, move: RunningCommand, stage: str) -> None:
    """Until a migration from host-a to host-b is in a stage."""
    move.await_text(TITLES[stage], MOVE_LIMIT_S)
    if stage == "copying":
        settle(lambda: receives(bed.hosts["host-b"]), "memory is being copied", 120)
    if stage == "suspended":
        settle(lambda: "s" in state(bed.hosts["host-a"], "vr1"), "vr1 is suspended", 300)


def ends_on(stage: str) -> str:
    """Where the router ends when a move from host-a to host-b is broken in a stage."""
    return "host-a" if stage in BEFORE_COMMIT else "host-b"


def kill(dom0: BedDom0, pattern: str) -> None:
    """End processes of an emulated host without warning; there must be one."""
    killed = dom0.ask(
        f"for p in $(pgrep -f '{pattern}'); do"
        "  if [ $p != $$ ] && kill -9 $p; then echo $p; fi; "
        "done"
    )
    assert killed.split(), f"{dom0.host}: no process {pattern} was there to be killed"


def kill_controller(bed: Bed, host: str) -> None:
    """It is started again after a second, as its unit says."""
    kill(bed.hosts[host], "^[^ ]*python3 [^ ]*pox.py")


def assert_settled(bed: Bed, guest: str) -> str:
    """The host on which the router is, and the only one."""
    in_sync(bed)
    places = where(bed)
    assert len(places) == 1, places
    here = places[0]
    assert not ports(bed.hosts[other(bed, here)]) & set(data_vifs(bed))
    assert "p" not in state(bed.hosts[here], "vr1")
    settle(
        lambda: operate.run("gen", ["ping", "-c1", "-W2", "10.2.0.1"]).returncode == 0,
        "gen reaches recv through the router",
        120,
    )
    assert token(bed) == guest
    assert "nothing to recover" in xenflow("recover", limit_s=120).stdout
    return here


def recover(bed: Bed) -> None:
    """As an operator would, once the interrupted migration's lease is over."""
    deadline = time.monotonic() + 120
    while True:
        done = xenflow("recover", "vr1", limit_s=MOVE_LIMIT_S)
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, done.stderr
        time.sleep(2.0)


# --- the receiver --------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["copying", "suspended"])
def test_receiver_killed(bed: Bed, home: str, stage: str, figure: Figure) -> None:
    with RunningCommand("migrate", "vr1", "host-b") as move:
        await_stage(bed, move, stage)
        kill(bed.hosts["host-b"], "^([^ ]*/)?(xl migrate-receive|libxl-save-helper)")
        status = move.end(MOVE_LIMIT_S)
    figure(f"receiver killed, {stage}", move.text.strip().splitlines()[-1])
    assert status == 1, move.text
    assert "everything was put back" in move.text, move.text
    assert assert_settled(bed, home) == "host-a"


# --- the management entity -----------------------------------------------------------------------


@pytest.mark.parametrize("stage", list(TITLES))
def test_migrate_killed_then_recovered(bed: Bed, home: str, stage: str, figure: Figure) -> None:
    with RunningCommand("migrate", "vr1", "host-b") as move:
        await_stage(bed, move, stage)
        move.send(signal.SIGKILL)
        move.end(60)
    recover(bed)
    here = assert_settled(bed, home)
    figure(f"xenflow migrate killed, {stage}", f"ended on {here}")
    assert here == ends_on(stage)


# --- the controllers -----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["host-a", "host-b"])
@pytest.mark.parametrize("stage", list(TITLES))
def test_controller_killed(bed: Bed, home: str, host: str, stage: str, figure: Figure) -> None:
    with RunningCommand("migrate", "vr1", "host-b") as move:
        await_stage(bed, move, stage)
        kill_controller(bed, host)
        status = move.end(MOVE_LIMIT_S)
    in_sync(bed)
    recover(bed)
    here = assert_settled(bed, home)
    figure(f"controller of {host} killed, {stage}", f"exit status {status}, ended on {here}")
    assert (here, status) == (ends_on(stage), 1 if here == "host-a" else 0), move.text


# --- the network between the hosts ---------------------------------------------------------------


@pytest.mark.parametrize("stage", ["copying", "suspended"])
def test_network_cut(bed: Bed, home: str, stage: str, figure: Figure) -> None:
    namespace = PREFIX + "host-b"
    with RunningCommand("migrate", "vr1", "host-b") as move:
        await_stage(bed, move, stage)
        ip(["link set mgmt0 down"], namespace)
        try:
            status = move.end(MOVE_LIMIT_S)
        finally:
            ip(["link set mgmt0 up"], namespace)
    assert status != 0, move.text
    recover(bed)
    here = assert_settled(bed, home)
    said = move.text.strip().splitlines()[-1]
    figure(f"network cut, {stage}", f"exit status {status}, ended on {here}; {said}")
    assert here == ends_on(stage)
