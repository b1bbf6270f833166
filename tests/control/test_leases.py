"""Leases: who may change something for a router, and what the controller's log says of it."""

from __future__ import annotations

import logging

import pytest

from xenflow.control.leases import Leases, LockedError

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
