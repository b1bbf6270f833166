"""What a signal means at each moment of a migration."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

from mgmt.at_once import at_once
from mgmt.interrupts import Interrupted, Interrupts


class Migration:
    committed = False

    def __init__(self) -> None:
        self.said = 0
        self.interrupts = Interrupts(lambda: self.committed, self.too_late)

    def too_late(self) -> None:
        self.said += 1

    def ends(self) -> bool:
        """Whether it is told to end."""
        try:
            self.interrupts.check()
        except Interrupted:
            return True
        return False


@pytest.fixture
def made() -> Migration:
    return Migration()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_before_the_commit_point_it_ends_whoever_asks(made: Migration) -> None:
    with made.interrupts.noticed():
        assert not made.ends()
        interrupt()
        assert made.ends() and made.ends()
    assert made.said == 0


def test_after_the_commit_point_it_is_answered_once(made: Migration) -> None:
    made.committed = True
    with made.interrupts.noticed():
        for said in (1, 2):
            interrupt()
            assert not made.ends() and not made.ends()
            assert made.said == said


def test_a_putting_back_ends_by_one_more_and_what_came_before_is_answered(made: Migration) -> None:
    with made.interrupts.noticed():
        interrupt()
        with made.interrupts.putting_back():
            assert not made.ends()
            interrupt()
            assert made.ends() and made.ends(), "several answers may be waited for"
            made.interrupts.given_up()
            assert not made.ends()
        made.committed = True  # the VM was found at the destination
        assert not made.ends() and made.said == 0


def test_a_question_is_left_at_once(made: Migration) -> None:
    with made.interrupts.noticed():
        with pytest.raises(KeyboardInterrupt), made.interrupts.asking():
            interrupt()
        interrupt()
        assert made.interrupts.seen == 2


def test_a_question_is_left_once(made: Migration) -> None:
    """A second signal may come before the first has been dealt with."""
    with made.interrupts.noticed(), made.interrupts.asking():
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        interrupt()


def test_nohup_is_heeded(made: Migration) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with made.interrupts.noticed():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not made.ends()
            interrupt()
            assert made.ends()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_are_as_they_were_afterwards(made: Migration) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with made.interrupts.noticed():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_only_an_answer_that_may_take_long_is_not_waited_for(made: Migration) -> None:
    answers = threading.Event()

    def ask(controller: str, verb: str, /, **arguments: Any) -> dict[str, Any]:
        if verb == "refused":
            raise ValueError(verb)
        assert arguments.get("timeout_s") is None or answers.wait(60.0)
        return {"controller": controller, **arguments}

    watched = made.interrupts.watched(ask)
    assert watched("host-a", "status", router="vr1") == {"controller": "host-a", "router": "vr1"}
    with pytest.raises(ValueError, match="refused"):
        watched("host-a", "refused", timeout_s=1.0)
    answers.set()
    assert watched("host-a", "place", timeout_s=60.0)["timeout_s"] == 60.0
    answers.clear()
    with made.interrupts.noticed():
        interrupt()
        with pytest.raises(Interrupted):
            watched("host-a", "place", timeout_s=60.0)
    answers.set()


def test_one_signal_ends_all_that_is_waited_for_while_it_is_put_back(made: Migration) -> None:
    """Several controllers are told at once, and none of them answers."""
    answers = threading.Event()
    asked = threading.Semaphore(0)

    def ask(controller: str, verb: str, /, **arguments: Any) -> dict[str, Any]:
        asked.release()
        assert answers.wait(60.0)
        return {}

    def signal_once_all_are_asked() -> None:
        for _ in names:
            asked.acquire(timeout=20.0)
        interrupt()

    names, watched = ["a", "b", "c"], made.interrupts.watched(ask)
    with made.interrupts.noticed(), made.interrupts.putting_back():
        threading.Thread(target=signal_once_all_are_asked).start()
        begun = time.monotonic()
        with pytest.raises(Interrupted):
            at_once(lambda name: watched(name, "place", timeout_s=60.0), names)
        assert time.monotonic() - begun < 20.0
    answers.set()
