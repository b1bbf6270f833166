"""The same for many at once: all are waited for, but by somebody who is interrupted."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from mgmt.at_once import at_once

NAMES = [f"host-{n}" for n in range(9)]


def test_all_are_done_side_by_side_and_answers_are_in_order() -> None:
    together = threading.Barrier(len(NAMES), timeout=20.0)

    def do(name: str) -> str:
        together.wait()
        return name.upper()

    assert list(at_once(do, NAMES).items()) == [(name, name.upper()) for name in NAMES]
    assert at_once(str.upper, []) == {} and at_once(str.upper, ["a"]) == {"a": "A"}


def test_no_more_than_asked_for_are_under_way() -> None:
    under_way: list[str] = []
    seen: list[int] = []
    lock = threading.Lock()

    def do(name: str) -> None:
        with lock:
            under_way.append(name)
            seen.append(len(under_way))
        time.sleep(0.01)
        with lock:
            under_way.remove(name)

    at_once(do, NAMES, most=2)
    assert len(seen) == len(NAMES) and max(seen) == 2


def test_the_first_in_order_that_failed_is_said_once_all_have_ended() -> None:
    ended: list[str] = []

    def do(name: str) -> None:
        if name == "host-3":
            time.sleep(0.1)
        ended.append(name)
        if name in ("host-3", "host-5"):
            raise ValueError(name)

    with pytest.raises(ValueError, match="host-3"):
        at_once(do, NAMES)
    assert sorted(ended) == NAMES


def test_who_takes_too_long_is_left_out() -> None:
    answers = threading.Event()

    def do(name: str) -> str:
        assert name != "host-3" or answers.wait(60.0)
        return name

    found = at_once(do, NAMES, within_s=0.3)
    assert list(found) == [name for name in NAMES if name != "host-3"]
    answers.set()


def test_who_is_interrupted_waits_for_nobody_and_begins_nothing_more() -> None:
    answers = threading.Event()
    begun: list[str] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def do(name: str) -> None:
        begun.append(name)
        if len(begun) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        assert answers.wait(60.0)

    try:
        with pytest.raises(KeyboardInterrupt):
            at_once(do, NAMES, most=2)
    finally:
        signal.signal(signal.SIGINT, before)
        answers.set()
    time.sleep(0.1)
    assert sorted(begun) == NAMES[:2]
