"""What is held for a suspended VM, and what is held once more because it may not have got it."""

from __future__ import annotations

import pytest

from xenflow.vm import hold
from xenflow.vm.hold import Held


def taken(held: Held, now: float, link: int | None = None) -> list[tuple[int, bytes]]:
    """What is sent on."""
    frames = held.of(link, now)
    held.sent(frames)
    return [(kept.link, kept.frame) for kept in frames]


def test_what_was_just_put_into_the_vif_is_held_too() -> None:
    held = Held()
    for second, frame in ((0.0, b"old"), (10.0, b"one"), (10.05, b"two")):
        held.copied(7, frame, second)
    held.suspended(10.09)
    held.keep(7, b"three", 10.1)
    assert taken(held, 10.2) == [(7, b"one"), (7, b"two"), (7, b"three")]
    assert (held.held, held.repeated, held.delivered, held.dropped) == (3, 2, 3, 0)


def test_it_is_held_once() -> None:
    held = Held()
    held.copied(7, b"one", 1.0)
    held.suspended(1.05)
    held.suspended(1.1)
    assert taken(held, 1.2) == [(7, b"one")]


def test_copies_are_bounded() -> None:
    held = Held()
    for n in range(hold.MAX_FRAMES + 10):
        held.copied(7, b"%d" % n, 1.0)
    held.suspended(1.0)
    frames = taken(held, 1.0)
    assert len(frames) == hold.MAX_FRAMES
    assert frames[0] == (7, b"10")


def test_room_is_bounded() -> None:
    held = Held()
    held.copied(7, bytes(hold.MAX_BYTES), 1.0)
    held.copied(7, b"too much", 1.0)
    held.suspended(1.0)
    assert (held.repeated, held.dropped) == (1, 0)


def test_copies_make_room_for_what_nobody_has_had() -> None:
    """The oldest first; they are not counted as dropped."""
    held = Held()
    for n in range(hold.MAX_FRAMES):
        held.copied(7, b"copy %d" % n, 1.0)
    held.suspended(1.0)
    for n in range(hold.MAX_FRAMES):
        assert held.keep(7, b"%d" % n, 1.01)
    assert (held.repeated, held.dropped) == (0, 0)
    assert not held.keep(7, b"one too many", 1.02)
    assert held.dropped == 1
    assert [frame for _, frame in taken(held, 1.03)] == [b"%d" % n for n in range(hold.MAX_FRAMES)]


def test_who_announces_a_suspension_leaves_nothing_unread() -> None:
    held = Held()
    held.copied(7, b"one", 1.0)
    held.announced()
    held.suspended(1.01)
    assert taken(held, 1.02) == []


def test_what_is_old_makes_room_and_is_not_sent() -> None:
    held = Held()
    for n in range(hold.MAX_FRAMES):
        assert held.keep(7, b"%d" % n, n / 100)
    assert not held.keep(7, b"no room", hold.MAX_AGE_S)
    assert held.keep(7, b"room", hold.MAX_AGE_S + 5.001)
    assert held.dropped == 1 + 501
    assert [frame for _, frame in taken(held, hold.MAX_AGE_S + 19.501)] == [
        *(b"%d" % n for n in range(1951, 2000)),
        b"room",
    ]
    assert held.dropped == 1 + 1951
    assert held.octets == 0


def test_one_link_s_are_sent_alone_and_in_order() -> None:
    held = Held()
    for link, frame in ((7, b"one"), (8, b"two"), (7, b"one")):
        held.keep(link, frame, 1.0)
    assert taken(held, 1.0, 7) == [(7, b"one"), (7, b"one")]
    assert held.octets == 3
    held.keep(8, b"three", 1.0)
    assert taken(held, 1.0) == [(8, b"two"), (8, b"three")]
    assert (held.delivered, held.octets) == (4, 0)


def test_what_another_controller_has_passed_on_is_forgotten_on_that_link_alone() -> None:
    held = Held()
    for link, frame in ((7, b"a"), (8, b"b"), (7, b"c"), (7, b"d")):
        held.keep(link, frame, 1.0)
    numbers = [kept.number for kept in held.of(7, 1.0)]
    assert numbers == sorted(set(numbers))
    held.passed_on(7, numbers[1])
    held.passed_on(7, numbers[1])
    assert taken(held, 1.0) == [(8, b"b"), (7, b"d")]
    assert held.delivered == 4


def test_what_could_not_be_sent_is_held_still() -> None:
    held = Held()
    held.keep(7, b"one", 1.0)
    assert held.of(None, 1.0) == held.frames
    assert (held.delivered, len(held.frames)) == (0, 1)


def test_a_full_store_is_not_gone_through_for_every_frame_that_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a VM that forwards is suspended, thousands a second find no room."""
    held = Held()
    for number in range(hold.MAX_FRAMES):
        held.keep(7, b"x", 1.0, copy=number < 2)
    gone_through: list[int] = []
    remain = Held._remain

    def counted(self: Held, frames: list[hold.HeldFrame]) -> None:
        gone_through.append(len(frames))
        remain(self, frames)

    monkeypatch.setattr(Held, "_remain", counted)
    assert [held.keep(7, b"y", 1.0) for _ in range(1000)] == [True] * 2 + [False] * 998
    assert len(gone_through) == 1
    assert held.dropped == 998
