"""Leases: who may change something for a router, and what the controller's log says of it."""

from __future__ import annotations

import errno
import logging
import os
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from xenflow.control.leases import Leases, LockedError
from xenflow.control.observed import migrations
from xenflow.store.line_file import StateError

MOVE = {"migration": {"from": "host-a", "to": "host-b", "mode": "report"}}


def expire(leases: Leases) -> None:
    for lease in leases._leases.values():
        lease.until = 0.0


def test_only_the_owner_changes_something() -> None:
    leases = Leases()
    leases.check("vr1", None)
    with pytest.raises(LockedError, match=r"me does not hold the lease of vr1 \(any more\)"):
        leases.check("vr1", "me")
    leases.take("vr1", "me", 10.0, MOVE)
    leases.check("vr1", "me")
    leases.check("vr2", None)
    for other in ("you", None):
        with pytest.raises(LockedError):
            leases.check("vr1", other)
    with pytest.raises(LockedError, match=r"vr1 from host-a to host-b \(report\) is .* by me"):
        leases.take("vr1", "you", 10.0, None)


def test_one_whose_owner_was_killed_is_not_only_called_under_way() -> None:
    now = 100.0
    leases = Leases(lambda: now)
    leases.take("vr1", "me", 10.0, MOVE)
    now = 105.0
    leases.check("vr1", "me")
    now = 112.5
    assert [(row["heard_s"], row["ends_s"]) for row in leases.rows()] == [(7.5, 2.5)]
    with pytest.raises(LockedError) as refused:
        leases.take("vr1", "you", 10.0, None)
    assert str(refused.value) == (
        "a migration of vr1 from host-a to host-b (report) is under way, for 12 s now, by me, "
        "heard of 8 s ago: wait for it, or end it there; if it was killed, ask again in 3 s"
    )
    leases.note("vr1", "me", 60.0, None)
    now = 120.0
    assert [(row["heard_s"], row["ends_s"]) for row in leases.rows()] == [(7.5, 52.5)]
    leases.give_back("vr1", "me", unfinished=True)
    now = 121.0
    assert [(row["heard_s"], row["ends_s"]) for row in leases.rows()] == [(1.0, 0.0)]


def test_one_that_nobody_took_over_is_its_owners_still() -> None:
    """It may go on after it has not been heard of for a while; that is a sign of life."""
    leases = Leases()
    leases.take("vr1", "me", 10.0, MOVE)
    expire(leases)
    leases.check("vr1", None)
    assert not leases.under_way("vr1")
    leases.check("vr1", "me")
    assert leases.under_way("vr1")


def test_one_that_was_taken_over_is_not_its_owners_ever_again() -> None:
    leases = Leases()
    leases.take("vr1", "me", 10.0, MOVE)
    expire(leases)
    assert leases.take("vr1", "you", 10.0, None)["left"] == [MOVE]
    for _ in range(2):
        for refused in (
            lambda: leases.check("vr1", "me"),
            lambda: leases.note("vr1", "me", None, {}),
        ):
            with pytest.raises(LockedError):
                refused()
        leases._leases and leases.give_back("vr1", "you")
    assert leases.rows() == []


@pytest.mark.parametrize("unfinished", [True, False])
def test_what_comes_after_its_end_revives_no_lease(unfinished: bool) -> None:
    """An effect, a sign of life or a lock that was on its way when its owner gave it back."""
    leases = Leases()
    leases.take("vr1", "me", 10.0, MOVE)
    leases.give_back("vr1", "me", unfinished)
    for late in (
        lambda: leases.check("vr1", "me"),
        lambda: leases.note("vr1", "me", 10.0, {}),
        lambda: leases.take("vr1", "me", 10.0, None),
    ):
        with pytest.raises(LockedError, match="me does not hold the lease of vr1"):
            late()
        assert not leases.under_way("vr1")
    assert leases.unfinished("vr1") == unfinished
    leases.give_back("vr1", "me", unfinished)  # may be said twice
    leases.take("vr1", "you", 10.0, None)
    leases.give_back("vr1", "you")
    with pytest.raises(LockedError):
        leases.take("vr1", "me", 10.0, None)


def test_nobody_gives_back_anothers() -> None:
    leases = Leases()
    leases.take("vr1", "me", 10.0, MOVE)
    expire(leases)
    with pytest.raises(LockedError):
        leases.give_back("vr1", "you")
    assert [row["owner"] for row in leases.rows()] == ["me"]


def test_what_is_unfinished_stays_noted() -> None:
    leases = Leases()
    leases.take("vr1", "me", 10.0, MOVE)
    leases.give_back("vr1", "me", unfinished=True)
    (row,) = leases.rows()
    assert (row["under_way"], row["journal"]) == (False, [MOVE])
    leases.take("vr1", "you", 10.0, None)
    leases.give_back("vr1", "you")
    assert leases.rows() == []


def test_one_for_a_vm_leaves_nothing(tmp_path: Path) -> None:
    """What it was taken for looks for itself what is done: nobody has to recover it."""
    now = 100.0
    leases = Leases(lambda: now, tmp_path)
    leases.take("vr1", "me", 10.0, {"words": "a start of vr1", "brief": True})
    assert leases.unfinished("vr1") and [row["owner"] for row in leases.rows()] == ["me"]
    with pytest.raises(LockedError, match="a start of vr1 is under way"):
        leases.take("vr1", "you", 10.0, None)
    assert [*migrations(leases)] == [], "the planner is not told"
    leases = Leases(lambda: now, tmp_path)
    assert leases.under_way("vr1"), "started again, it knows"
    now = 111.0
    assert not leases.unfinished("vr1") and leases.rows() == []
    leases.keep_only([])
    taken = leases.take("vr1", "you", 10.0, MOVE)
    assert (taken["left"], taken["term"]) == ([], 2)


def test_a_restart_is_told_from_a_loss() -> None:
    one, next_one = Leases(), Leases()
    assert one.take("vr1", "me", 10.0, None)["instance"] == one.instance != next_one.instance
    assert next_one.note("vr1", None, None, None)["instance"] == next_one.instance


def test_the_log_says_who_moves_what_from_where(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    leases = Leases()
    leases.take("vr1", "root@node-7:77", 10.0, MOVE)
    leases.take("vr1", "root@node-7:77", 10.0, {"effect": "Apply"})
    leases.give_back("vr1", "root@node-7:77", unfinished=True)
    leases.take("vr1", "root@node-8:5", 10.0, {"words": "a recovery of vr1"})
    leases.give_back("vr1", "root@node-8:5")
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(" after ")[0] for line in said] == [
        "vr1: root@node-7:77 begins a migration of vr1 from host-a to host-b (report)",
        "vr1: root@node-7:77 ends",
        "vr1: what root@node-7:77 left unfinished is taken over",
        "vr1: root@node-8:5 begins a recovery of vr1",
        "vr1: root@node-8:5 ends",
    ]
    assert "with more to be done" in said[1]


def test_a_lease_outlives_its_controller(tmp_path: Path) -> None:
    now = 100.0
    leases = Leases(lambda: now, tmp_path)
    leases.take("vr1", "me", 10.0, MOVE)
    leases.note("vr1", "me", None, {"effect": "one"})
    now = 5.0  # another process counts from elsewhere
    leases = Leases(lambda: now, tmp_path)
    leases.check("vr1", "me")
    with pytest.raises(LockedError, match=r"\(report\) is under way, for 0 s now, by me"):
        leases.take("vr1", "you", 10.0, None)
    (row,) = leases.rows()
    assert (row["term"], row["journal"]) == (1, [MOVE, {"effect": "one"}])
    now = 16.0
    assert leases.take("vr1", "you", 10.0, None)["left"] == [MOVE, {"effect": "one"}]
    with pytest.raises(LockedError, match="me does not hold"):
        leases.check("vr1", "me")
    leases.give_back("vr1", "you", untouched=True)
    leases = Leases(lambda: now, tmp_path)
    (row,) = leases.rows()
    assert (row["owner"], row["term"], row["journal"][0]) == ("me", 2, MOVE)
    leases.take("vr1", "you", 10.0, None)
    leases.give_back("vr1", "you")
    leases = Leases(lambda: now, tmp_path)
    assert leases.rows() == [] and not leases.unfinished("vr1")
    assert leases.take("vr1", "they", 10.0, None)["term"] == 4


def test_what_was_left_unfinished_is_nobodys_after_a_restart(tmp_path: Path) -> None:
    leases = Leases(folder=tmp_path)
    leases.take("vr1", "me", 60.0, MOVE)
    leases.give_back("vr1", "me", unfinished=True)
    leases = Leases(folder=tmp_path)
    assert leases.unfinished("vr1") and not leases.under_way("vr1")


def test_a_long_journal_is_kept_whole(tmp_path: Path) -> None:
    """The file is replaced now and then by what still counts."""
    leases = Leases(folder=tmp_path)
    leases.take("vr2", "other", 60.0, MOVE)
    leases.take("vr1", "me", 60.0, MOVE)
    for number in range(300):
        leases.note("vr1", "me", None, {"effect": "x" * 500, "number": number})
    kept = {row["router"]: row["journal"] for row in Leases(folder=tmp_path).rows()}
    assert kept == {row["router"]: row["journal"] for row in leases.rows()}
    assert len(kept["vr1"]) == 301 and kept["vr2"] == [MOVE]
    leases.give_back("vr1", "me")
    leases.take("vr1", "you", 9.0, MOVE)
    assert (tmp_path / "leases.json").stat().st_size < 250_000


def test_what_cannot_be_kept_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    leases = Leases(folder=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StateError, match="No space left on device: nothing was changed"):
            leases.take("vr1", "me", 10.0, MOVE)
    assert leases.rows() == []
    assert leases.take("vr1", "me", 10.0, MOVE)["term"] == 1


def test_a_damaged_line_is_named_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leases = Leases(folder=tmp_path)
    leases.take("vr1", "me", 60.0, MOVE)
    with (tmp_path / "leases.json").open("ab") as file:
        file.write(b'{"router": 5}\n[]\n{"router": "vr1", "term": 1e999}\n')
        file.write(b'{"router": "vr1", "entry": {"torn"')
    assert [row["owner"] for row in Leases(folder=tmp_path).rows()] == ["me"]
    assert [record.getMessage().split(": ")[0][-1] for record in caplog.records] == ["3", "4", "5"]


def test_wherever_the_file_ends_terms_do_not_become_lower(tmp_path: Path) -> None:
    leases = Leases(folder=tmp_path)
    ends = {}
    for owner, term in (("me", 4), ("you", 9)):
        leases.take("vr1", owner, 60.0, MOVE, term)
        ends[(tmp_path / "leases.json").stat().st_size] = term
        leases.give_back("vr1", owner, unfinished=owner == "me")
        ends[(tmp_path / "leases.json").stat().st_size] = term
    text = (tmp_path / "leases.json").read_bytes()
    known = 0
    for size in range(len(text) + 1):
        (tmp_path / "leases.json").write_bytes(text[:size])
        found = (
            Leases(partial(next, count(0.0, 100.0)), tmp_path).take("vr1", "next", 60.0, None)[
                "term"
            ]
            - 1
        )
        assert found >= known and found >= ends.get(size, 0)
        known = found
    assert known == 9
