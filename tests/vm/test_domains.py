"""Which vifs take frames, as xenstore says: a domain suspended, moved here, resumed, destroyed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pox.lib import recoco

from tests.xenstored import Xenstored
from xenflow.vm import domains
from xenflow.vm.domains import BACKENDS, Domains

VIFS = ("vr1.0", "vr1.1")
MARK = "mark"
"""A vif whose coming and going says that what was written before it has been seen."""
LIMIT_S = 120.0


class World:
    """A xenstored, and the watcher in a loop of its own."""

    def __init__(self, folder: Path, loop: recoco.Scheduler, now: list[float]) -> None:
        self.path = folder / "socket"
        self.store = Xenstored(self.path)
        self.loop = loop
        self.told: list[frozenset[str]] = []
        self.now = now
        self.domains = Domains(str(self.path), {*VIFS, MARK}, self.told.append, lambda: self.now[0])
        self.domains.start()

    @property
    def suspended(self) -> frozenset[str]:
        return self.told[-1] - {MARK} if self.told else frozenset()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.time() + LIMIT_S
        while not condition():
            assert time.time() < deadline, f"not so after {LIMIT_S} s: {self.told}"
            self.loop.turn(0.02)

    def settle(self) -> None:
        """Until all that was written before has been seen, and all that was asked then answered.

        The mark is one event: of two, the second's question may be answered when the mark is gone
        again, and end the wait before its turn.
        """
        folder = f"{BACKENDS}/999/0"
        with self.store.lock:
            self.store.nodes[f"{folder}/vifname"] = MARK
            self.store.put(f"{folder}/state", "2")
        self.until(lambda: bool(self.told) and MARK in self.told[-1])
        self.store.remove(f"{BACKENDS}/999")
        self.until(lambda: MARK not in self.told[-1])

    def vif(self, domain: int, number: int, name: str, state: int) -> None:
        folder = f"{BACKENDS}/{domain}/{number}"
        self.store.put(f"{folder}/state", str(state))
        self.store.put(f"{folder}/vifname", name)

    def connect(self, domain: int, number: int, state: int) -> None:
        """A vif's connection goes to another state, and that has been read."""
        self.store.put(f"{BACKENDS}/{domain}/{number}/state", str(state))
        self.settle()

    def order(self, written: str) -> None:
        """Domain 1's order is written, and that has been read."""
        self.store.put(_order(1), written)
        self.settle()

    def release(self) -> None:
        """Some domain stops, and that has been told."""
        self.store.release()
        self.settle()

    def hear(self, vifs: set[str]) -> None:
        """The router with these vifs says something."""
        self.domains.heard(vifs, self.now[0])

    def router(self, domain: int, state: int) -> None:
        self.store.put(_order(domain), "")
        for number, name in enumerate(VIFS):
            self.vif(domain, number, name, state)


def _order(domain: int) -> str:
    return f"/local/domain/{domain}/control/shutdown"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: list[float]) -> Iterator[World]:
    monkeypatch.setattr(recoco, "defaultScheduler", None)  # put back afterwards
    loop = recoco.Scheduler()
    made = World(tmp_path, loop, now)
    yield made
    made.domains.close()
    made.store.close()


@pytest.fixture
def now() -> list[float]:
    """The clock, which a test turns on."""
    return [1000.0]


def test_vifs_take_frames_once_all_are_connected_and_the_guest_has_said_so(world: World) -> None:
    world.settle()
    world.router(3, 1)
    world.until(lambda: world.suspended == set(VIFS))
    for number, state in ((0, 2), (1, 2), (0, 4)):
        world.connect(3, number, state)
        assert world.suspended == set(VIFS)
    world.domains.sent(VIFS[0])
    assert world.suspended == set(VIFS), "what it is given there may have to leave by the other"
    world.connect(3, 1, 4)
    assert world.suspended == set(VIFS), "connected, but the guest has not said so yet"
    world.domains.sent(VIFS[1])
    assert not world.suspended


def test_an_announcement_may_be_seen_before_the_state(world: World) -> None:
    """It comes by the switch's connection, the state by xenstore's."""
    world.router(3, 2)
    world.until(lambda: world.suspended == set(VIFS))
    world.domains.sent(VIFS[0])
    world.connect(3, 0, 4)
    world.connect(3, 1, 4)
    assert world.suspended == set(VIFS), "the other has not announced itself"
    world.domains.sent(VIFS[1])
    assert not world.suspended


def test_what_a_vif_said_before_it_lost_its_domain_is_no_announcement(world: World) -> None:
    world.router(3, 4)
    world.settle()
    for state in (5, 2, 4):
        world.connect(3, 0, state)
        if state == 5:
            world.domains.sent(VIFS[0])
    assert world.suspended == set(VIFS)


def test_a_guest_that_does_not_announce_itself_is_served_after_a_moment(
    world: World, now: list[float]
) -> None:
    world.router(3, 2)
    world.settle()
    world.router(3, 4)
    world.settle()
    world.domains.tick(now[0] + domains.ANNOUNCED_S / 2)
    assert world.suspended == set(VIFS)
    world.domains.tick(now[0] + domains.ANNOUNCED_S)
    assert not world.suspended


def test_what_was_there_before_is_found(world: World) -> None:
    world.router(1, 4)
    world.router(2, 2)
    world.vif(7, 0, "another", 2)
    world.settle()
    assert world.suspended == set(VIFS)
    world.store.remove(f"{BACKENDS}/2")
    world.until(lambda: not world.suspended)


def test_a_suspended_domain_takes_nothing_until_it_is_gone(world: World) -> None:
    world.router(1, 4)
    world.settle()
    assert not world.suspended
    world.store.put(_order(1), "suspend")
    world.until(lambda: world.suspended == set(VIFS))
    world.store.put(_order(1), "")  # the guest has heard it
    world.release()
    assert world.suspended == set(VIFS)
    world.store.remove("/local/domain/1")
    world.store.remove(f"{BACKENDS}/1")
    world.until(lambda: not world.suspended)
    # Back again one day, under another number: nothing is left of it.
    world.router(5, 4)
    world.settle()
    assert not world.suspended


@pytest.mark.parametrize("order", ["poweroff", "reboot"])
def test_other_orders_are_none_of_its_business(world: World, order: str) -> None:
    world.router(1, 4)
    world.settle()
    for written in (order, ""):  # the guest empties it when it has read it
        world.order(written)
        assert not world.suspended


def test_a_guest_may_obey_before_the_order_can_be_read(world: World) -> None:
    world.router(1, 4)
    world.settle()
    with world.store.lock:
        world.store.put(_order(1), "suspend")
        world.store.put(_order(1), "")
    world.settle()
    assert world.suspended == set(VIFS)


def test_an_order_that_is_read_twice_is_one(world: World, now: list[float]) -> None:
    """Both changes of the node are told, and the first may be read late: it is suspended once."""
    world.router(1, 4)
    world.settle()
    world.order("suspend")
    world.release()
    world.order("")
    now[0] += domains.RESUMED_S
    world.hear(set(VIFS))
    assert not world.suspended, "the order was taken for a second one"


def test_a_domain_is_suspended_again(world: World, now: list[float]) -> None:
    """It was resumed, but not heard yet, when it is asked once more."""
    world.router(1, 4)
    world.settle()
    for written in ("suspend", "", "suspend"):
        world.order(written)
        now[0] += domains.NOT_SUSPENDED_S - 1
    world.hear(set(VIFS))
    assert world.suspended == set(VIFS), "it had said that before it was suspended"


def test_a_domain_that_was_resumed_is_heard(world: World, now: list[float]) -> None:
    world.router(1, 4)
    world.settle()
    world.order("suspend")
    world.hear({VIFS[0]})
    assert world.suspended == set(VIFS), "it had said that before it was suspended"
    now[0] += domains.RESUMED_S
    world.hear({VIFS[0]})
    assert world.suspended == set(VIFS), "it has not even been suspended"
    world.release()
    world.hear({VIFS[0]})
    assert world.suspended == set(VIFS), "it had said that before it was suspended"
    now[0] += domains.RESUMED_S
    world.hear({"another"})
    assert world.suspended == set(VIFS)
    world.hear({VIFS[0]})
    assert not world.suspended


def test_what_was_said_before_and_is_read_late_ends_no_suspension(
    world: World, now: list[float]
) -> None:
    """Messages wait while a switch has no room for more routes."""
    world.router(1, 4)
    world.settle()
    world.order("suspend")
    world.release()
    now[0] += domains.RESUMED_S
    world.domains.heard(VIFS, 1000.0)
    assert world.suspended == set(VIFS)
    world.domains.heard(VIFS, now[0])
    assert not world.suspended


def test_another_domain_that_stops_is_not_this_one(world: World, now: list[float]) -> None:
    """Both are moved at once, and this one takes its time."""
    world.router(1, 4)
    world.settle()
    world.order("suspend")
    world.release()
    now[0] += domains.RESUMED_S
    world.domains.sent(VIFS[0])
    assert not world.suspended, "it seems to have been resumed"
    world.release()
    assert world.suspended == set(VIFS)
    now[0] += domains.RESUMED_S
    world.domains.sent(VIFS[0])
    now[0] += domains.NOT_SUSPENDED_S
    world.release()
    assert not world.suspended, "that was another, long after"


def test_a_domain_that_does_not_suspend_is_served_on(world: World, now: list[float]) -> None:
    world.router(1, 4)
    world.store.put(_order(1), "suspend")
    world.until(lambda: world.suspended == set(VIFS))
    now[0] += domains.NOT_SUSPENDED_S
    world.hear({VIFS[1]})
    assert not world.suspended


def test_a_domain_that_connects_anew_runs(world: World) -> None:
    world.router(1, 4)
    world.store.put(_order(1), "suspend")
    world.until(lambda: world.suspended == set(VIFS))
    for state in (5, 2, 4):
        for number in range(len(VIFS)):
            world.store.put(f"{BACKENDS}/1/{number}/state", str(state))
        world.settle()
    for vif in VIFS:
        world.domains.sent(vif)
    assert not world.suspended


def test_without_xenstored_nothing_is_known_and_all_of_it_again_afterwards(world: World) -> None:
    world.router(1, 2)
    world.until(lambda: world.suspended == set(VIFS))
    world.store.drop()
    world.until(lambda: not world.suspended)
    world.until(lambda: world.suspended == set(VIFS))


def test_garbage_ends_the_connection_and_nothing_else(world: World) -> None:
    world.router(1, 2)
    world.until(lambda: world.suspended == set(VIFS))
    with world.store.lock:
        world.store.clients[0].sock.sendall(b"\xff" * 64)
    world.until(lambda: not world.suspended)
    world.until(lambda: world.suspended == set(VIFS))


def test_routers_come_and_go(world: World) -> None:
    """A router's vifs may be there before it is known that they are its."""
    late = {"vr2.0", "vr2.1"}
    for number, name in enumerate(sorted(late)):
        world.vif(2, number, name, 2)
    world.router(1, 4)
    world.settle()
    assert world.suspended == set()
    world.domains.known_are({*VIFS, *late, MARK})
    # It looks through all folders, question by question: the mark may be read before their turn.
    world.until(lambda: world.suspended == late)
    world.domains.known_are({*VIFS, MARK})
    world.until(lambda: world.suspended == set())
    world.settle()
    with world.store.lock:
        watched = {path for path, _ in world.store.clients[0].watches}
    assert _order(2) not in watched and _order(1) in watched


def test_watches_of_domains_that_are_gone_are_given_up(world: World) -> None:
    for domain in range(10, 20):
        world.router(domain, 4)
        world.settle()
        world.store.remove(f"{BACKENDS}/{domain}")
        world.settle()
    with world.store.lock:
        watched = {path for path, _ in world.store.clients[0].watches}
    assert watched - {_order(999)} == {BACKENDS, domains.RELEASED}
