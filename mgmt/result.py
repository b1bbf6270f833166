"""What a migration says while it goes on, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mgmt.lease import Problem
from mgmt.planning import Plan


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """Progress: `time_s` since the beginning; state is started, done, failed or undone, or note
    for the hypervisor's words on how far it is."""

    time_s: float
    step: str
    state: str
    detail: str = ""


class Reporter:
    """Tells a listener how far a migration is, in seconds since its beginning."""

    def __init__(self, listener: Callable[[ProgressEvent], None]) -> None:
        self._listener = listener
        self.began = time.monotonic()

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def __call__(self, step: str, state: str, detail: str = "") -> float:
        """Tell of a step; returns when.  The listener may have gone, which is no reason to stop
        half way."""
        now = self.now()
        with suppress(OSError, ValueError):
            self._listener(ProgressEvent(now, step, state, detail))
        return now


def in_words(problems: Iterable[Problem]) -> str:
    """What could not be done, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for what, reason in problems:
        by_reason.setdefault(reason, []).append(what)
    return "; ".join(f"{'; '.join(whats)}: {reason}" for reason, whats in by_reason.items())


class Commit(Enum):
    """Whether the VM belongs to the destination yet, which is all that a failure asks.

    A migration is PENDING; letting the VM run at the destination makes it IN_DOUBT, and what is
    seen then DONE or FAILED.  Where the VM is found at the destination after all it is DONE, which
    is for good.
    """

    PENDING = "pending"
    """The VM was not let run at the destination: all can be put back."""
    IN_DOUBT = "in doubt"
    """It was, and nothing says yet whether it does: there is only forward."""
    DONE = "done"
    """The VM belongs to the destination: there is only forward."""
    FAILED = "failed"
    """It does not run at the destination, and will not: all can be put back."""


@dataclass(slots=True)
class Result:
    """What came of it."""

    plan: Plan
    ok: bool = False
    commit: Commit = Commit.PENDING
    interrupted: bool = False
    signalled: bool = False
    """A signal has come, also where it was too late to change anything."""
    undone: bool = False
    refused: bool = False
    """Nothing was begun: somebody else holds the lease, or it could not be taken."""
    lost: bool = False
    """Somebody else has taken over: nothing more was done."""
    unknown: str = ""
    """Why it is not known where the VM is; "" where it is known."""
    error: str = ""
    total_s: float = 0.0
    steps: list[dict[str, Any]] = field(default_factory=list)
    effects: list[dict[str, Any]] = field(default_factory=list)
    suspended_s: float | None = None
    states: list[dict[str, Any]] = field(default_factory=list)
    """The hypervisor's, each {state, at_s}: seconds since the migration began."""
    held: int = 0
    repeated: int = 0
    dropped: int = 0
    emulated: bool = False
    problems: list[Problem] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Copies of the VM that are, or may be, on other hosts still."""

    @property
    def committed(self) -> bool:
        """The commit point is behind it: there is only forward."""
        return self.commit in (Commit.IN_DOUBT, Commit.DONE)

    def text(self) -> str:
        """One line for people."""
        name = self.plan.router.name
        left = f"; {', '.join(self.left)}: run `xenflow recover {name}`" if self.left else ""
        if self.refused:
            return f"{name}: {self.error}; nothing was changed"
        if self.ok:
            pause = f", VM suspended for {self.suspended_s:.3f} s" if self.suspended_s else ""
            pause += " (emulated)" if self.emulated and pause else ""
            mode = f"; {self.plan.new_mode}" if self.plan.new_mode else ""
            return f"{name} is on {self.plan.to}: {self.total_s:.3f} s{pause}{mode}{left}"
        if self.lost:
            return (
                f"{name}: {self.error}: somebody else has taken over, so nothing more was done here"
            )
        if self.unknown:
            return (
                f"{name}: {self.error}; where its VM is, is not known ({self.unknown}): the "
                f"switches were left as they are; run `xenflow recover {name}`"
            )
        if self.undone:
            back = "everything was put back" if self.effects else "nothing was changed"
            return f"{name} stays on {self.plan.source}: {self.error}; {back}{left}"
        where = f"its VM belongs to {self.plan.to}" if self.committed else "its VM did not move"
        if self.problems:
            where += f", but switches could not all be told ({in_words(self.problems)})"
        return f"{name}: {self.error}; {where}: run `xenflow recover {name}`"

    def json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "router": self.plan.router.name,
            "from": self.plan.source,
            "to": self.plan.to,
            "mode": self.plan.order.value,
            "ok": self.ok,
            "committed": self.committed,
            "interrupted": self.interrupted,
            "undone": self.undone,
            "refused": self.refused,
            "lost": self.lost,
            "unknown": self.unknown,
            "new_mode": self.plan.new_mode,
            "error": self.error,
            "problems": [f"{what}: {reason}" for what, reason in self.problems],
            "left": self.left,
            "total_s": round(self.total_s, 6),
            "suspended_s": self.suspended_s,
            "suspension_emulated": self.emulated,
            "hypervisor_states": self.states,
            "held": self.held,
            "repeated": self.repeated,
            "dropped": self.dropped,
            "steps": self.steps,
            "effects": self.effects,
        }
