"""The way to one switch: what is on its way there, and questions with their answers.

Many messages leave as one piece, with a barrier (a *fence*) behind it, and no more than
IN_FLIGHT_BYTES before its reply: nothing blocks, and nothing is queued without a bound.

Where the switch refuses a question, or answers what cannot be read, whoever asked gets a
`NotAnsweredError`.

What is written, and when, is decided by jobs (`jobs.Jobs`) and by what is written beside them; here
nothing is known of flows.  Part of a `switch.Switch`, which passes the switch's messages on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from xenflow.openflow import build
from xenflow.openflow.statistics import StatsReply
from xenflow.switch.clock import Clock
from xenflow.switch.problems import Problems
from xenflow.switch.silence import Silence

log = logging.getLogger("xenflow.channel")

PIECE_BYTES = 32 * 1024
IN_FLIGHT_BYTES = 8 * PIECE_BYTES
"""More than that is not sent before the switch's barrier reply: a queue in the controller or in
the socket would delay everything behind it."""
UNANSWERED_S = 30.0
"""For so long after a question was not answered it is said that some are not."""
UNANSWERED = "unanswered"
"""Cause of a `Problems` entry."""
FIRST_XID = 0x80000000
"""The cores count their own transaction ids below that.  After the last one, with a VM that changes
its routes all the time in days, comes the first again."""
PACKET_OUT_XID = 0xFFFF0000
"""Of packets sent through the switch; a refused one changes nothing that the switch holds.  From
here on an id says what was sent (`aside`, `audit`), not which question it was."""


class NotAnsweredError(RuntimeError):
    """The switch has refused a question, or is not there, or its answer cannot be read: nothing is
    known.  A barrier that is refused confirms nothing (OpenFlow 1.0, 5.3.7: the reply alone says
    that all was done)."""


@dataclass(slots=True)
class SwitchRequest:
    """A message with its transaction id; the job that yields it gets the reply."""

    xid: int
    message: bytes
    entries: list[Any] = field(default_factory=list)


Answer = list[Any] | NotAnsweredError
Steps = Generator[Any, Any, Any]


def advance(steps: Steps, answer: Any) -> Any:
    """Go on with what asks questions; what is no `Answer` but an error is raised in it."""
    return steps.throw(answer) if isinstance(answer, NotAnsweredError) else steps.send(answer)


class Channel:
    """See the module.  `given_up` is called with the reason when the switch does not answer."""

    def __init__(
        self, name: str, problems: Problems, clock: Clock, given_up: Callable[[str], None]
    ) -> None:
        self.name = name
        self.problems = problems
        self.clock = clock
        self.connection: Any = None
        self.generation = 0
        """Another number for each connection."""
        self.written = 0
        """How many messages have been written."""
        self.flow_mods = 0
        """How many changes of flows were in them."""
        self.in_flight_bytes = 0
        self.silence = Silence(name, problems, clock, given_up)
        self._replies: dict[int, tuple[SwitchRequest, Callable[[Answer], None]]] = {}
        self._in_flight: deque[tuple[int, int]] = deque()
        self._window = IN_FLIGHT_BYTES
        """So many bytes may be on their way; few at first where many may be refused."""
        self._wants_room: Callable[[], None] | None = None
        self._unfenced = 0
        self._xid = FIRST_XID
        """The next one."""
        self._fragments: list[bytes] = []
        self._fragment_bytes = 0
        self._unanswered_at = float("-inf")
        """When the switch has refused a question last, or answered what cannot be read."""

    # --- the connection -----------------------------------------------------------------------

    def open(self, connection: Any, greeting: bytes) -> None:
        """There is a connection."""
        self.connection = connection
        self.send(greeting)

    def close(self) -> list[Callable[[Answer], None]]:
        """The connection is gone, and with it everything that was on its way.  Returns who waits
        for an answer."""
        self.generation += 1
        self.connection = None
        self.silence.clear()
        waiting, self._replies = self._replies, {}
        self._in_flight.clear()
        self.in_flight_bytes = self._unfenced = 0
        self._window = IN_FLIGHT_BYTES
        self._wants_room = None
        self._fragments, self._fragment_bytes = [], 0
        return [then for _, then in waiting.values()]

    # --- writing ------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send something at once, before what is queued."""
        if self.connection is not None:
            self.connection.send(data)

    def tell(self, data: bytes) -> None:
        """Send something that changes no flow, behind what has been written."""
        self.flush()
        self.send(data)

    def write(self, data: bytes, flow_mods: int = 0) -> None:
        """Queue messages with so many changes of flows; many leave as one piece, with a barrier
        behind it."""
        self.written += 1
        self.flow_mods += flow_mods
        self._fragments.append(data)
        self._fragment_bytes += len(data)
        if self._fragment_bytes >= PIECE_BYTES:
            self.fence()

    def flush(self) -> None:
        """Send what is queued."""
        if self._fragments:
            self._unfenced += self._fragment_bytes
            self.send(b"".join(self._fragments))
            self._fragments, self._fragment_bytes = [], 0
            if self._unfenced >= PIECE_BYTES:
                self.fence()

    def fence(self) -> None:
        """Send what is queued, with a barrier behind it."""
        self.flush()
        if self._unfenced:
            xid = self.xid()
            self._in_flight.append((xid, self._unfenced))
            self.in_flight_bytes += self._unfenced
            self._unfenced = 0
            self.silence.owes(xid)
            self.send(build.barrier_request(xid))

    # --- room ---------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether more may be sent."""
        return self.in_flight_bytes < self._window

    @property
    def piece_bytes(self) -> int:
        """How large a piece should be."""
        return min(PIECE_BYTES, self._window)

    def when_room(self, then: Callable[[], None]) -> None:
        """Call `then` once there is room again, unless the connection goes before."""
        self._wants_room = then

    def narrow(self) -> None:
        """Little is sent at first, because much of it may be refused."""
        self._window = PIECE_BYTES // 8

    # --- questions ----------------------------------------------------------------------------

    def xid(self) -> int:
        """A transaction id that is not in use."""
        while self._xid in self._replies:
            self._xid = _after(self._xid)
        xid, self._xid = self._xid, _after(self._xid)
        return xid

    def barrier(self) -> SwitchRequest:
        """A question that the switch answers when it has carried out all it was sent before."""
        xid = self.xid()
        return SwitchRequest(xid, build.barrier_request(xid))

    def ask(self, request: SwitchRequest, then: Callable[[Answer], None]) -> None:
        """Ask beside the jobs; `then` gets a NotAnsweredError where nothing is known."""
        if self.connection is None:
            then(NotAnsweredError(f"{self.name}: the switch is not connected"))
            return
        self.flush()
        self._replies[request.xid] = (request, then)
        self.silence.owes(request.xid)
        self.send(request.message)

    def confirm(self, then: Callable[[str | None], None]) -> None:
        """Call `then(None)` once the switch has carried out all it was sent, else with why that
        cannot be said."""
        self.ask(
            self.barrier(),
            lambda answer: then(str(answer) if isinstance(answer, NotAnsweredError) else None),
        )

    def alive(self, then: Callable[[bool], None], limit_s: float) -> None:
        """Call `then` with whether the switch has answered a barrier within a time."""
        open_answers = [then]

        def answer(yes: bool) -> None:
            if open_answers:
                open_answers.pop()(yes)

        generation = self.generation
        self.ask(self.barrier(), lambda _: answer(generation == self.generation))
        self.clock.later(limit_s, answer, False)

    # --- answers ------------------------------------------------------------------------------

    def on_barrier(self, xid: int) -> None:
        """A barrier reply."""
        self._window = min(IN_FLIGHT_BYTES, 2 * self._window)
        waiting = self._replies.pop(xid, None)
        self._arrived(xid)
        if waiting is not None:
            waiting[1](waiting[0].entries)

    def _arrived(self, xid: int) -> None:
        """What was sent before a barrier is not on its way any more."""
        answered = [xid]
        while self._in_flight and not _older(xid, self._in_flight[0][0]):
            fence, size = self._in_flight.popleft()
            self.in_flight_bytes -= size
            answered.append(fence)
        self.silence.answered(*answered)
        if self._wants_room is not None and self.in_flight_bytes < self._window // 2:
            then, self._wants_room = self._wants_room, None
            then()

    def on_stats(self, reply: StatsReply) -> bool:
        """One part of a statistics reply; False where it was not asked for here."""
        waiting = self._replies.get(reply.xid)
        if waiting is None:
            return False
        request, then = waiting
        request.entries.extend(reply.entries)
        if not reply.more:
            del self._replies[reply.xid]
        self.silence.answered(reply.xid, whole=not reply.more)
        if not reply.more:
            then(request.entries)
        return True

    def on_error(self, xid: int, text: str) -> bool:
        """The switch refused something; False where that was no question: what the switch holds is
        not what is thought any more."""
        if self._not_answered(xid, f"the switch refuses to answer what it is asked ({text})"):
            return True
        if any(fence == xid for fence, _ in self._in_flight):
            self._arrived(xid)  # or what waits for room would wait for ever
        return False

    def on_unreadable(self, xid: int, why: str) -> bool:
        """A part of a statistics reply that says nothing; False where it was not asked for here."""
        return self._not_answered(xid, f"what the switch answers cannot be read ({why})")

    def _not_answered(self, xid: int, words: str) -> bool:
        """Tell who has asked; False where nobody has."""
        waiting = self._replies.pop(xid, None)
        if waiting is None:
            return False
        self.silence.answered(xid)
        self._say(words)
        waiting[1](NotAnsweredError(f"{self.name}: {words}"))
        return True

    def _say(self, words: str) -> None:
        self._unanswered_at = self.clock.now()
        if self.problems.begin(UNANSWERED, words):
            self.clock.later(UNANSWERED_S, self._answers_again, self.generation)

    def _answers_again(self, generation: int) -> None:
        """Everything may have been answered for a while."""
        left_s = UNANSWERED_S - (self.clock.now() - self._unanswered_at)
        if generation != self.generation:
            return
        if left_s > 0:
            self.clock.later(left_s, self._answers_again, generation)
        else:
            self.problems.end(UNANSWERED)


_XIDS = PACKET_OUT_XID - FIRST_XID


def _after(xid: int) -> int:
    return FIRST_XID + (xid + 1 - FIRST_XID) % _XIDS


def _older(one: int, other: int) -> bool:
    """Whether an id was given out before another; they are never half of all apart (RFC 1982)."""
    return (one - other) % _XIDS > _XIDS // 2
