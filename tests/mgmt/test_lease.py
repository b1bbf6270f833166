"""A lease over several controllers, their own code without sockets, when one of them or its answer
is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mgmt import lease as lease_of
from mgmt.client import AskError, Refused, Unreachable
from mgmt.lease import LostError, MovedError, RouterLease
from xenflow.control.leases import Leases, LockedError
from xenflow.model.placement import at_home

WHAT = {"words": "the move"}


class Controllers:
    """Two of them."""

    def __init__(self) -> None:
        self.leases = {"a": Leases(), "b": Leases()}
        self.before: dict[tuple[str, str], Callable[[], Any]] = {}
        """What happens once right before a verb at a controller."""
        self.answer_lost: set[tuple[str, str]] = set()
        self.old: set[str] = set()
        """Those of the release before."""
        self.versions: dict[str, dict[str, int]] = {}
        """Of the placements that the switches of each have."""
        self.digests: dict[str, dict[str, str]] = {}

    def __call__(
        self, controller: str, verb: str, /, timeout_s: float | None = None, **asked: Any
    ) -> dict[str, Any]:
        self.before.pop((controller, verb), lambda: None)()
        leases, router = self.leases[controller], asked.pop("router")
        done: dict[str, Any] = {}
        try:
            match verb:
                case "lock" if controller in self.old and "term" in asked:
                    raise Refused("unknown-argument", "term", controller)
                case "lock":
                    done = leases.take(router, **{"entry": None, **asked})
                    if controller in self.old:
                        del done["term"]
                    done["versions"] = self.versions.get(controller, {})
                    done |= self.digests.get(controller, {})
                case "unlock":
                    leases.give_back(router, **asked)
                case "journal":
                    note = {"owner": None, "lease_s": None, "entry": None, **asked}
                    done = leases.note(router, **note)
                case "place":
                    leases.check(router, asked["owner"])
        except LockedError as error:
            raise Refused("locked", str(error), controller) from None
        if (controller, verb) in self.answer_lost:
            raise Unreachable(controller, "tcp://x", "no answer", sent=True)
        return done

    def rows(self) -> list[str]:
        return [row["owner"] for leases in self.leases.values() for row in leases.rows()]

    def lease(self) -> RouterLease:
        return RouterLease(self, ["a", "b"], "vr1", WHAT)


def test_who_does_not_get_it_takes_it_from_nobody() -> None:
    """One controller is restarted in mid-move, and somebody else gets the lease there, for as long
    as he has not been refused at the other one."""
    controllers = Controllers()
    done: list[bool] = []
    with controllers.lease() as one:
        controllers.leases["a"] = Leases()

        def unlocks_in_the_meantime() -> None:
            controllers.leases["a"].give_back("vr1", "contender", untouched=True)

        controllers.leases["a"].take("vr1", "contender", 10.0, WHAT)
        controllers.before["b", "journal"] = unlocks_in_the_meantime
        one.ask("a", "place", router="vr1")
        done.append(True)
        assert controllers.rows() == [one.owner] * 2
    assert done and controllers.rows() == []


def test_who_has_got_it_everywhere_has_it() -> None:
    controllers = Controllers()
    with controllers.lease() as one:
        for name in controllers.leases:
            controllers.leases[name] = Leases()
            controllers.leases[name].take("vr1", "contender", 10.0, WHAT)
        with pytest.raises(LostError, match="by contender"):
            one.ask("a", "place", router="vr1")


@pytest.mark.parametrize("unfinished", [False, True])
@pytest.mark.parametrize("lost", ["a", "b"])
def test_a_lock_whose_answer_is_lost_leaves_nothing(lost: str, unfinished: bool) -> None:
    """What somebody else had left unfinished before stays noted, and nothing else."""
    controllers = Controllers()
    for leases in controllers.leases.values() if unfinished else ():
        leases.take("vr1", "before", 10.0, WHAT)
        leases.give_back("vr1", "before", unfinished=True)
    controllers.answer_lost = {(lost, "lock")}
    with pytest.raises(AskError), controllers.lease():
        pass
    assert controllers.rows() == (["before"] * 2 if unfinished else [])
    controllers.answer_lost = set()
    with controllers.lease():
        pass
    assert controllers.rows() == []


def test_all_controllers_keep_the_highest_term_any_of_them_gave(tmp_path: Path) -> None:
    controllers = Controllers()
    controllers.leases["b"] = Leases(folder=tmp_path)
    for _ in range(3):
        controllers.leases["b"].take("vr1", "before", 10.0, WHAT)
        controllers.leases["b"].give_back("vr1", "before")
        controllers.leases["b"] = Leases(folder=tmp_path)
    with controllers.lease() as one:
        assert one.term == 4
        assert [leases.rows()[0]["term"] for leases in controllers.leases.values()] == [4, 4]
        # One that was restarted knows it still; so does it who comes too late.
        controllers.leases["b"] = Leases(folder=tmp_path)
        one.ask("b", "place", router="vr1")
        controllers.leases["c"] = Leases()
        controllers.leases["c"].take("vr1", "another", 10.0, WHAT, 7)
        controllers.leases["c"].give_back("vr1", "another")
        one.extend(["c"])
        assert {leases.rows()[0]["term"] for leases in controllers.leases.values()} == {8}
    with pytest.raises(LockedError, match="late comes too late for vr1: its term is 8, and 8 was"):
        Leases(folder=tmp_path).take("vr1", "late", 10.0, WHAT, 8)


def test_a_controller_of_the_release_before_knows_no_terms() -> None:
    controllers = Controllers()
    controllers.old.add("a")
    with controllers.lease() as one:
        one.ask("a", "place", router="vr1")
        assert controllers.leases["b"].rows()[0]["term"] == one.term == 1
    assert controllers.rows() == []


def test_an_interrupt_while_it_is_taken_leaves_nothing() -> None:
    """Ctrl-C when one of the controllers does not answer."""
    controllers = Controllers()

    def ctrl_c() -> None:
        raise KeyboardInterrupt

    controllers.before["b", "lock"] = ctrl_c
    with pytest.raises(KeyboardInterrupt), controllers.lease():
        pass
    assert controllers.rows() == []


def test_what_was_planned_from_another_place_begins_nothing() -> None:
    """Who has the lease is told where the router is; what was unfinished before stays noted."""
    controllers = Controllers()
    for leases in controllers.leases.values():
        leases.take("vr1", "before", 10.0, WHAT)
        leases.give_back("vr1", "before", unfinished=True)
    given = {"host-a": at_home("vr1", "host-a"), "host-b": at_home("vr1", "host-a")}
    controllers.versions = {"a": {"host-a": 0, "new": 7}, "b": {"host-b": 2}}
    moved = RouterLease(controllers, ["a", "b"], "vr1", WHAT, given=given)
    with pytest.raises(MovedError, match="planned at version 0 .* host-b is at 2: ask"), moved:
        pass
    assert controllers.rows() == ["before"] * 2
    lease = RouterLease(controllers, ["a"], "vr1", WHAT, given=given)
    with pytest.raises(MovedError), lease:  # nobody has moved it there
        lease.extend(["a", "b"])
    assert controllers.rows() == [lease.owner] * 2, "there is something unfinished still"


def test_what_was_planned_in_another_network_begins_nothing() -> None:
    """What comes once all have the lease waits for the move; what came before was not planned."""
    controllers = Controllers()
    controllers.digests = {"a": {"digest": "one"}, "b": {"digest": "two"}}

    def lease(**digests: str) -> RouterLease:
        return RouterLease(controllers, ["a", "b"], "vr1", WHAT, digests=digests)

    words = "the network was changed meanwhile: b has two, .* planned with one: ask again"
    with pytest.raises(MovedError, match=words), lease(a="one", b="one"):
        pass
    assert controllers.rows() == []
    with lease(a="one", b="two", c="three"):
        assert len(controllers.rows()) == 2


def test_it_is_kept_at_all_that_answer_while_one_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long that one may take to answer (--timeout)."""
    monkeypatch.setattr(lease_of, "KEEP_S", 0.05)
    controllers = Controllers()
    answers = threading.Event()

    def silent(controller: str, verb: str, /, **asked: Any) -> dict[str, Any]:
        if (controller, verb) == ("b", "journal"):
            assert answers.wait(600.0)
        return controllers(controller, verb, **asked)

    with RouterLease(silent, ["a", "b"], "vr1", WHAT):
        for _ in range(3):
            (held,) = controllers.leases["a"]._leases.values()
            until = held.until = time.monotonic()
            while held.until == until:
                assert time.monotonic() < until + 120.0
                time.sleep(0.01)
        answers.set()


@pytest.mark.parametrize("stopped_s", [4.0, 12.0])
def test_a_lease_is_counted_from_the_question(
    stopped_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner is stopped after it has asked, and reads the answer when it goes on."""
    stopped = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(stopped), sleep=time.sleep)
    monkeypatch.setattr(lease_of, "time", clock)
    controllers = Controllers()
    with controllers.lease() as held:
        held.keep_journal_at(["a"])
        controllers.before["a", "journal"] = lambda: stopped.append(stopped_s)
        if stopped_s < lease_of.LEASE_S:
            held.check()
            return
        with pytest.raises(LostError, match="no controller has said for 10 s"):
            held.check()
        # Nor is it taken again where a controller was restarted meanwhile.
        controllers.leases["a"] = Leases()
        with pytest.raises(LostError, match="does not hold"):
            held.ask("a", "place", router="vr1")
