"""What is held for a suspended VM, and what is held once more because it may not have got it."""

from __future__ import annotations

from xenflow import hold
from xenflow.hold import Held


def test_what_was_just_put_into_the_vif_is_held_too() -> None:
    held = Held()
    for second, frame in ((0.0, b"old"), (10.0, b"one"), (10.2, b"two")):
        held.copied(7, frame, second)
    held.stopped(10.4)
    held.keep(7, b"three")
    assert held.take() == [(7, b"one"), (7, b"two"), (7, b"three")]
    assert (held.held, held.repeated, held.delivered, held.dropped) == (3, 2, 3, 0)


def test_it_is_held_once() -> None:
    held = Held()
    held.copied(7, b"one", 1.0)
    held.stopped(1.1)
    held.stopped(1.2)
    assert held.take() == [(7, b"one")]


def test_copies_are_bounded() -> None:
    held = Held()
    for n in range(hold.MAX_FRAMES + 10):
        held.copied(7, b"%d" % n, 1.0)
    held.stopped(1.0)
    frames = held.take()
    assert len(frames) == hold.MAX_FRAMES
    assert frames[0] == (7, b"10")


def test_room_is_bounded() -> None:
    held = Held()
    held.copied(7, bytes(hold.MAX_BYTES), 1.0)
    held.copied(7, b"too much", 1.0)
    held.stopped(1.0)
    assert (held.repeated, held.dropped) == (1, 1)
