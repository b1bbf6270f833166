"""Who wants to know when what was written so far is confirmed by the switch, or in force.

Each gets an answer exactly once, whatever happens to the switch: a fence among the jobs, and for
what shall be in force a proof behind it.  Part of a `switch.Switch`; called by `rule_table`,
`management_service`, `moves` and `vm.packets`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xenflow.switch.channel import Channel
from xenflow.switch.jobs import Jobs, fence
from xenflow.switch.proof import Done, Promise, Proof


@dataclass(eq=False, repr=False)
class Promises:
    """See the module.

    nudge         a change that touches no packet, as messages
    known         whether what the switch holds is known
    but_left_out  the same, but for what it refuses of links and rules, which is named
    look_again    has what was refused of these tried again at once, and what was not written
                  because of it is written then
    """

    _channel: Channel
    _jobs: Jobs
    _proof: Proof
    _nudge: bytes
    _known: Callable[[], bool]
    _but_left_out: Callable[[], bool]
    _look_again: Callable[[], None]

    def __post_init__(self) -> None:
        self._open: list[Promise] = []
        self._many = 64
        """From so many on those that were kept are sorted out."""
        self._proven = -1
        """How many messages had been written when they were last proven in force."""

    def confirmed(self, then: Done) -> None:
        """Call `then(None)` once the switch has confirmed everything submitted so far, or with the
        reason where it does not, or has refused some of it."""
        promise = self._promise(then)
        self._after_jobs(promise, lambda error: promise.settle(error or self._refused(self._known)))

    def in_force(self, then: Done, but_left_out: bool = False) -> None:
        """Call `then(None)` once everything submitted so far is in force on the switch, or with
        the reason why that cannot be said (see `proof`).  What was proven already is not proven
        again: where nothing has been written since, the switch's barrier is enough.

        but_left_out  what the switch refuses of a link, or of a rule, counts not: `left_out` of the
                      switch names it
        """
        if but_left_out:
            self._look_again()
        known = self._but_left_out if but_left_out else self._known
        self._prove(then, lambda: self._proven == self._channel.written, known)

    def counted(self, then: Done) -> None:
        """Call `then(None)` once the counters count every packet that had arrived by now (they
        are pushed when the cached flows are checked), and everything is in force."""
        self._prove(then, lambda: False, self._known)

    def break_all(self, reason: str) -> None:
        """Nobody waits any more, because nothing can be confirmed."""
        promises, self._open = self._open, []
        for promise in promises:
            promise.settle(reason)

    def close(self, reason: str) -> None:
        """The switch went away."""
        self._proven = -1
        self.break_all(reason)

    def _promise(self, then: Done) -> Promise:
        if len(self._open) >= self._many:
            self._open = [promise for promise in self._open if not promise.settled]
            self._many = max(64, 2 * len(self._open))
        promise = Promise(then)
        self._open.append(promise)
        return promise

    def _after_jobs(self, promise: Promise, then: Done) -> None:
        if self._channel.connection is None:
            promise.settle(f"{self._channel.name}: the switch is not connected")
        elif self._channel.silence.why:
            promise.settle(self._channel.silence.why)
        else:
            self._jobs.submit(fence(self._channel, then))

    def _prove(self, then: Done, needless: Callable[[], bool], known: Callable[[], bool]) -> None:
        promise = self._promise(then)

        def prove(error: str | None) -> None:
            written = self._channel.written

            def finish() -> None:
                if not promise.settled:
                    self._proven = max(self._proven, written)
                promise.settle(self._refused(known))

            if error or promise.settled:
                promise.settle(error)
            elif needless():
                finish()
            else:
                self._proof.begin(self, promise, finish, self._proven != written)

        self._after_jobs(promise, prove)

    def _refused(self, known: Callable[[], bool]) -> str | None:
        """Why what the switch has confirmed is not all that it was sent; None where it is."""
        return None if known() else f"{self._channel.name}: the switch refused a flow"

    # --- what the proof asks of the switch ----------------------------------------------------

    def nudge(self) -> None:
        self._channel.send(self._nudge)

    def confirm(self, promise: Promise, then: Callable[[], None]) -> None:
        self._channel.confirm(lambda error: promise.settle(error) if error else then())

    def later(self, seconds: float, call: Callable[..., Any], *arguments: Any) -> None:
        self._channel.clock.later(seconds, call, *arguments)
