"""When a change is in force: what must pass on a switch after its barrier reply.

A barrier reply says that the tables have changed; Open vSwitch may go on forwarding by flows it
cached before.  They are checked by its revalidator threads, and `ovs-appctl revalidator/wait`
returns at the end of one of their rounds.  A round may have begun before the change, so the proof
is: two rounds, each provoked by a harmless change (a *nudge*), since without one the next round
may be `max-revalidator` away.  Where the switch cannot be asked, a bound measured for it.

Open vSwitch's userspace datapath changes, before 3.1.3, the actions of the wrong one of two cached
flows that overlap (`MENDED`): then packets go on as before until the tables change again, and no
round finds it.  There all cached flows are thrown away between the two rounds where something has
been written.

A `Proof` is a value that a switch is given when it is made (`control.unixctl.proof_of`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

NUDGE_S = 0.05
"""How often a round of the revalidators is provoked while one is waited for."""

MENDED = {(2, 17): 8, (3, 0): 5, (3, 1): 3}
"""The first release of each series in which the userspace datapath finds the flow to be changed by
its id ("dpif-netdev: Fix dpif_netdev_flow_put"); later series are right, earlier ones are not."""

Done = Callable[[str | None], None]
"""Called with None, or with the reason why it is not so, or cannot be said."""


Ask = Callable[[str, Callable[[str | None, str], None]], None]
"""`ask(command, then)` runs a command of ovs-appctl(8): `then(None, what it says)`, or then(why it
could not be asked, "")."""


def overlaps_go_wrong(version: str, datapaths: str) -> bool:
    """Whether cached flows that overlap may go wrong, by what `version` and `dpif/show` say."""
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None or not re.search(r"^(netdev|dummy)@", datapaths, re.MULTILINE):
        return False
    major, minor, patch = map(int, found.groups())
    series = (major, minor)
    return patch < MENDED[series] if series in MENDED else series < max(MENDED)


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

    def begin(
        self, prover: Prover, promise: Promise, proven: Callable[[], None], written: bool
    ) -> None:
        """Call `proven` once it is so; where that cannot be said, settle the promise.  `written`:
        whether something was since the last proof."""


@dataclass(frozen=True, slots=True)
class Bound:
    """In force so many seconds after the switch has confirmed: measured for the switch."""

    bound_s: float

    def begin(
        self, prover: Prover, promise: Promise, proven: Callable[[], None], written: bool
    ) -> None:
        prover.nudge()
        prover.confirm(promise, lambda: prover.later(self.bound_s, proven))


@dataclass(frozen=True, slots=True)
class Revalidator:
    """In force after two rounds of the revalidators."""

    ask: Ask

    def begin(
        self, prover: Prover, promise: Promise, proven: Callable[[], None], written: bool
    ) -> None:

        def again() -> None:
            self._round(prover, promise, proven)

        def between() -> None:
            self._throw_away(promise, again)

        self._round(prover, promise, between if written else again)

    def _throw_away(self, promise: Promise, then: Callable[[], None]) -> None:
        """All cached flows, where some may have gone wrong."""
        said: list[str] = []

        def ask(command: str, go_on: Callable[[], None]) -> None:
            def answered(error: str | None, text: str) -> None:
                said.append(text)
                if error or promise.settled:
                    promise.settle(error)
                else:
                    go_on()

            self.ask(command, answered)

        def decide() -> None:
            if overlaps_go_wrong(*said):
                ask("revalidator/purge", then)
            else:
                then()

        ask("version", lambda: ask("dpif/show", decide))

    def _round(self, prover: Prover, promise: Promise, then: Callable[[], None]) -> None:
        """One whole round that began after now."""
        answered = False

        def ask() -> None:
            self.ask("revalidator/wait", asked)
            prover.later(NUDGE_S, again)

        def asked(error: str | None, _: str) -> None:
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
