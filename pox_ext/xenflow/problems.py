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

log = logging.getLogger("xenflow.problems")


class Problems:
    """The problems of one place.  `where`: its name, for the log."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._words: dict[tuple[str, str], str] = {}

    def begin(self, cause: str, words: str, router: str = "") -> bool:
        """There is a problem, which lasts until `end`.  True where it is new."""
        if self._words.get((router, cause)) == words:
            return False
        self._words[router, cause] = words
        log.error("%s: %s%s", self.where, f"{router}: " if router else "", words)
        return True

    def end(self, cause: str, router: str = "") -> None:
        """It is over, or never was."""
        words = self._words.pop((router, cause), None)
        if words is not None:
            log.info("%s: %sover: %s", self.where, f"{router}: " if router else "", words)

    def clear(self) -> None:
        """Nothing is known any more, neither good nor bad."""
        self._words.clear()

    def of(self, router: str = "") -> list[str]:
        """What concerns one router, or, without one, what concerns none in particular."""
        return [words for (name, _), words in self._words.items() if name == router]
