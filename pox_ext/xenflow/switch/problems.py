"""What is not as it should be, in words: the one place that `status` reads.

A problem is a state, not an event.  Whoever sees it names its cause (a short word of its own:
"table", "job", "audit") and, where it concerns one router alone, that router.  The words must not
count or measure anything, because the log gets a line whenever they change: when a problem begins,
when it becomes another one, and when it ends.

Every `Switch` has one, and the `RuleTable` has one for what concerns no switch.  Their rows are in
docs/messages.md, verb status.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("xenflow.problems")

LINES, LINES_PER_S = 10, 0.2
"""Of one cause: so many lines at once, then one now and then.  What others say may make a problem
come and go, or read otherwise, a thousand times a second."""


class Lines:
    """Which lines the log gets of what a VM may bring about at will: more would displace those
    about all others (journald drops a unit's beyond 10,000 in 30 s), or fill the disk on which the
    state is kept."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._left: dict[tuple[str, ...], tuple[float, float]] = {}
        """How many are left of each kind, and since when (monotonic clock)."""

    def take(self, *kind: str) -> bool:
        """Whether there is one more of a kind."""
        now = self._now()
        left, at = self._left.get(kind, (LINES, now))
        left = min(LINES, left + (now - at) * LINES_PER_S)
        self._left[kind] = max(0.0, left - 1) if left >= 1 else left, now
        return left >= 1


class Problems:
    """The problems of one place.  `where`: its name, for the log; `now`: a monotonic clock."""

    def __init__(self, where: str, now: Callable[[], float] = time.monotonic) -> None:
        self.where = where
        self.lines = Lines(now)
        self._words: dict[tuple[str, str], str] = {}

    def begin(self, cause: str, words: str, router: str = "") -> bool:
        """There is a problem, which lasts until `end`.  True where it is new."""
        if self._words.get((router, cause)) == words:
            return False
        self._words[router, cause] = words
        if self.lines.take(router, cause):
            log.error("%s: %s%s", self.where, f"{router}: " if router else "", words)
        return True

    def end(self, cause: str, router: str = "") -> None:
        """It is over, or never was."""
        words = self._words.pop((router, cause), None)
        if words is not None and self.lines.take(router, cause):
            log.info("%s: %sover: %s", self.where, f"{router}: " if router else "", words)

    def forget(self, router: str) -> None:
        """A router is gone, and with it whatever was wrong with it."""
        for key in [key for key in self._words if key[0] == router]:
            del self._words[key]

    def clear(self) -> None:
        """Nothing is known any more, neither good nor bad."""
        self._words.clear()

    def of(self, router: str = "") -> list[str]:
        """What concerns one router, or, without one, what concerns none in particular."""
        return [words for (name, _), words in self._words.items() if name == router]
