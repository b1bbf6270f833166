"""When a change is in force: what must pass on a switch after its barrier reply.

A barrier reply says that the tables have changed; Open vSwitch may go on forwarding by flows it
cached before.  They are checked by its revalidator threads, and `ovs-appctl revalidator/wait`
returns at the end of one of their rounds.  A round may have begun before the change, so the proof
is: two rounds, each provoked by a harmless change (a *nudge*), since without one the next round
may be `max-revalidator` away.  Where the switch cannot be asked, a bound measured for it.

A `Proof` is a value that a switch is given when it is made (`control.unixctl.proof_of`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

NUDGE_S = 0.05
"""How often a round of the revalidators is provoked while one is waited for."""

Done = Callable[[str | None], None]
"""Called with None, or with the reason why it is not so, or cannot be said."""


class Promise:
    """An answer that is given exactly once, whatever happens to the switch."""

    __slots__ = ("_then",)

    def __init__(self, then: Done) -> None:
        self._then: Done | None = then

    def settle(self, error: str | None = None) -> None:
        """Give it, unless it was given."""
        then, self._then = self._then, None
        if then is not None:
            then(error)

    @property
    def settled(self) -> bool:
        """Whether it was given."""
        return self._then is None


class Prover(Protocol):
    """What a proof asks of the switch."""

    def nudge(self) -> None:
        """A change that touches no packet, so that cached flows are checked again soon."""

    def confirm(self, promise: Promise, then: Callable[[], None]) -> None:
        """Call `then` once the switch has confirmed what it was sent; else settle the promise."""

    def later(self, seconds: float, call: Callable[..., Any], *arguments: Any) -> None:
        """Call it after some seconds."""


class Proof(Protocol):
    """A way to know that all that a switch was sent is in force."""

    def begin(self, prover: Prover, promise: Promise, proven: Callable[[], None]) -> None:
        """Call `proven` once it is so; where that cannot be said, settle the promise."""


@dataclass(frozen=True, slots=True)
class Bound:
    """In force so many seconds after the switch has confirmed: measured for the switch."""

    bound_s: float

    def begin(self, prover: Prover, promise: Promise, proven: Callable[[], None]) -> None:
        """See `Proof`."""
        prover.nudge()
        prover.confirm(promise, lambda: prover.later(self.bound_s, proven))


@dataclass(frozen=True, slots=True)
class Revalidator:
    """In force after two rounds of the revalidators.  `ask(command, then)` runs a command of
    ovs-appctl(8)."""

    ask: Callable[[str, Done], None]

    def begin(self, prover: Prover, promise: Promise, proven: Callable[[], None]) -> None:
        """See `Proof`."""
        self._round(prover, promise, lambda: self._round(prover, promise, proven))

    def _round(self, prover: Prover, promise: Promise, then: Callable[[], None]) -> None:
        """One whole round that began after now."""
        answered = False

        def ask() -> None:
            self.ask("revalidator/wait", asked)
            prover.later(NUDGE_S, again)

        def asked(error: str | None) -> None:
            nonlocal answered
            answered = True
            if error or promise.settled:
                promise.settle(error)
            else:
                then()

        def again() -> None:
            # The round that the first nudge started may have been over before the question was
            # there: without another, the answer would come after `max-revalidator`.
            if not answered and not promise.settled:
                prover.nudge()
                prover.later(NUDGE_S, again)

        prover.nudge()
        prover.confirm(promise, ask)
