"""Whether a switch answers: how long it has owed its oldest answer.

A switch that does not answer for SILENT_S is waited for by nobody any more.  It answers in order,
so that this time begins anew with each answer that was due, and with each part of a long one; an
answer to a later question says nothing of the oldest.

Called by `channel`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xenflow.switch.clock import Clock
from xenflow.switch.problems import Problems

SILENT_S = 20.0
SILENT = "silent"
"""Cause of a `Problems` entry."""


@dataclass(eq=False, repr=False)
class Silence:
    """See the module.  `given_up` is called with the reason when a switch is silent."""

    _name: str
    _problems: Problems
    _clock: Clock
    _given_up: Callable[[str], None]

    def __post_init__(self) -> None:
        self.why = ""
        """Why nobody waits for the switch; "" while it answers."""
        self._owed: dict[int, None] = {}
        """The transaction ids of questions and barriers that are not answered, oldest first."""
        self._owes_since: float | None = None
        """Since when the switch could have answered the oldest of them."""
        self._watched = False

    def owes(self, xid: int) -> None:
        """The switch owes an answer."""
        self._owed[xid] = None
        self._owes()

    def _owes(self) -> None:
        if self._owes_since is None:
            self._owes_since = self._clock.now()
        if not self._watched:
            self._watched = True
            self._clock.later(SILENT_S, self._watch)

    def answered(self, *xids: int, whole: bool = True) -> None:
        """The switch has answered these questions, or given a part of an answer; perhaps it owes
        others."""
        was_due = next(iter(self._owed), None) in xids
        if whole:
            for xid in xids:
                self._owed.pop(xid, None)
        if not was_due:
            return
        self._owes_since = None
        if self.why:
            self.why = ""
            self._problems.end(SILENT)
        if self._owed:
            self._owes()

    def clear(self) -> None:
        """The switch went away, and owes nothing."""
        self.why, self._owes_since = "", None
        self._owed.clear()

    def _watch(self) -> None:
        self._watched = False
        if self._owes_since is None:
            return
        left_s = SILENT_S - (self._clock.now() - self._owes_since)
        if left_s > 0:
            self._watched = True
            self._clock.later(left_s, self._watch)
        elif not self.why:
            words = f"the switch has not answered for {SILENT_S:.0f} s what it was asked"
            self.why = f"{self._name}: {words}"
            self._problems.begin(SILENT, words)
            self._given_up(self.why)
