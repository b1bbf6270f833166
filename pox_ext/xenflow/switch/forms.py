"""The forms in which a switch reads back what it was told, where they are others than ours.

Such a form is accepted, or the flow would be written again and again; and it is said, because a
change to it is not noticed.  Called by `audit`.
"""

from __future__ import annotations

from collections.abc import Mapping

from xenflow.openflow.flow import Flow, Flows, Key, text
from xenflow.switch.problems import Problems

READS = "reads"
"""Cause of a `Problems` entry."""


class Forms:
    """See the module."""

    def __init__(self, problems: Problems) -> None:
        self.accepted: dict[Key, tuple[Flow, Flow]] = {}
        """The flow that is wanted, and how the switch reads it back."""
        self._problems = problems

    def accept(self, wanted: Flow, form: Flow) -> None:
        """The switch reads a flow back as another one, and did so after it was written again."""
        self.accepted[wanted.key] = wanted, form
        self._say()

    def keep(self, installed: Flows, seen: Mapping[Key, Flow | None]) -> None:
        """A form is accepted until another flow is wanted, or the switch reads it otherwise."""
        for key, (wanted, form) in list(self.accepted.items()):
            now = seen.get(key)
            if installed.get(key) != wanted or (now is not None and now != form):
                del self.accepted[key]
        self._say()

    def _say(self) -> None:
        for wanted, form in self.accepted.values():
            others = ", and others otherwise" if len(self.accepted) > 1 else ""
            words = f"the switch reads {text(wanted)} back as {text(form)}{others}"
            self._problems.begin(READS, f"{words}: a change to that is not noticed")
            return
        self._problems.end(READS)
