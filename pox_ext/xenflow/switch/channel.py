"""The way to one switch: changes in order, requests with their answers, and proof.

Work is done by *jobs*: generators that run one after the other, so that the order in which
changes were made is the order in which the switch sees them.  A job yields what it waits for:

    ROOM             until few enough bytes are on their way to the switch
    a Request        until its reply (statistics or barrier) has come
    a number         for so many seconds

A question that the switch refuses is no answer: whoever asked gets a `NotAnsweredError`, a job has
it raised.  A job that does not know what to do about it ends, and the switch is read again.

What the jobs are is decided by `switch.Switch`, which is a `Channel`; here nothing is known of
routers.  Many messages leave as one piece, with a barrier behind it, and no more than
IN_FLIGHT_BYTES before its reply: nothing blocks, and nothing is queued without a bound.  Jobs that
wait for nothing are interrupted after TURN_S.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from xenflow.model.network import Datapath, Kind
from xenflow.openflow import wire as of
from xenflow.openflow.flow import Flow, match
from xenflow.switch.problems import Problems
from xenflow.switch.proof import Done, Promise, Proof
from xenflow.tables import cookies

log = logging.getLogger("xenflow.channel")

PIECE_BYTES = 32 * 1024
IN_FLIGHT_BYTES = 8 * PIECE_BYTES
"""More than that is not sent before the switch's barrier reply: a queue in the controller or in
the socket would delay everything behind it."""
TURN_S, BETWEEN_TURNS_S = 0.02, 0.001
"""Jobs that need not wait go on for so long; then whatever else the controller does has its turn.
A pause of 0 would not do: the core may resume at once what sleeps for no time."""
LONGEST_PAUSE_S = 60.0
"""Between two tries of what fails again and again."""
LONGEST_REFUSED_S = 10.0
"""The same where the switch refuses flows: it may have room at any time."""
SILENT_S = 20.0
"""A switch that does not answer its oldest question for so long is waited for by nobody any more.
It answers in order, so that this time begins anew with each answer that was due, and with each part
of a long one; an answer to a later question says nothing of the oldest."""
UNANSWERED_S = 30.0
"""For so long after it has refused a question it is said that a switch does."""
FAILED, REFUSED, SILENT, UNANSWERED = "job", "refused", "silent", "unanswered"
"""Causes of `Problems` entries: jobs fail, the switch refuses what it is told, or what it is asked,
or is silent."""
NUDGE_TABLE = 63
FIRST_XID = 0x80000000
"""The cores count their own transaction ids below that."""
PACKET_OUT_XID = 0xFFFF0000
"""Of packets sent through the switch; a refused one changes nothing that the switch holds."""


class NotAnsweredError(RuntimeError):
    """The switch has refused a question, or is not there: nothing is known.  A barrier that is
    refused confirms nothing (OpenFlow 1.0, 5.3.7: the reply alone says that all was done)."""


@dataclass(slots=True)
class Request:
    """A message with its transaction id; the job that yields it gets the reply."""

    xid: int
    message: bytes
    entries: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Room:
    """Wait until less than IN_FLIGHT_BYTES are on their way."""


ROOM = Room()
Awaited = Request | Room | float
Job = Generator[Awaited, Any, None]
Answer = list[Any] | NotAnsweredError
Steps = Generator[Any, Any, Any]


def advance(steps: Steps, answer: Any) -> Any:
    """Go on with what asks questions; what is no `Answer` but an error is raised in it."""
    return steps.throw(answer) if isinstance(answer, NotAnsweredError) else steps.send(answer)


class Channel(ABC):
    """See the module."""

    def __init__(self, datapath: Datapath, later: Callable[..., Any], proof: Proof) -> None:
        self.datapath = datapath
        self.later = later
        self.proof = proof
        self.connection: Any = None
        self.live = False
        """Whether what the switch holds is known."""
        self.errors = 0
        self.problems = Problems(datapath.name)
        self.plain = datapath.kind is Kind.PLAIN or not datapath.nicira
        """Whether the switch knows OpenFlow 1.0 alone."""
        self._promises: list[Promise] = []
        self._many_promises = 64
        """From so many on those that were kept are sorted out."""
        self._jobs: deque[Job] = deque()
        self._job: Job | None = None
        self._running = False
        self._awaiting: Awaited | None = None
        self._replies: dict[int, tuple[Request, Callable[[Answer], None]]] = {}
        self._in_flight: deque[tuple[int, int]] = deque()
        self._in_flight_bytes = 0
        self._window = IN_FLIGHT_BYTES
        """So many bytes may be on their way; few at first where many may be refused."""
        self._unfenced = 0
        self._written = 0
        self._proven = -1
        """How many messages had been written when they were last proven in force."""
        self._xids = count(FIRST_XID)
        self._generation = 0
        self._fragments: list[bytes] = []
        self._fragment_bytes = 0
        self._failures = 0
        self._failed_at = float("-inf")
        self._silent = ""
        """Why nobody waits for the switch; "" while it answers."""
        self._owed: dict[int, None] = {}
        """The transaction ids of questions and barriers that are not answered, oldest first."""
        self._owes_since: float | None = None
        """Since when the switch could have answered the oldest of them."""
        self._watched = False
        self._refused_at = float("-inf")
        """When the switch has refused a question last."""

    @property
    def name(self) -> str:
        """The datapath's name."""
        return self.datapath.name

    @property
    def busy(self) -> int:
        """Jobs that are not finished."""
        return len(self._jobs) + (self._job is not None)

    @property
    def takes_changes(self) -> bool:
        """Whether what the switch holds is known, and it answers."""
        return self.live and not self._silent

    # --- the connection -----------------------------------------------------------------------

    def _open(self, connection: Any) -> None:
        self.connection = connection
        if not self.plain:
            self._send(of.enable_table_id())
        self._send(of.set_config(0xFFFF))

    def _close(self) -> None:
        """The connection is gone, and with it everything that was on its way."""
        self._generation += 1
        self.connection = None
        self.live = False
        self._failures = 0
        self._silent, self._owes_since = "", None
        self._owed.clear()
        self.problems.clear()
        waiting, self._replies = self._replies, {}
        jobs = [job for job in (self._job, *self._jobs) if job is not None]
        self._job, self._awaiting = None, None
        self._jobs.clear()
        self._in_flight.clear()
        self._in_flight_bytes = self._unfenced = 0
        self._window = IN_FLIGHT_BYTES
        self._proven = -1
        self._fragments, self._fragment_bytes = [], 0
        for job in jobs:
            job.close()
        gone = f"{self.name}: the switch went away"
        self._settle_all(gone)
        for _, then in waiting.values():
            then(NotAnsweredError(gone))

    @abstractmethod
    def _resync(self, pause_s: float = 0.0) -> Job:
        """The job that finds out what the switch holds and writes what differs."""

    # --- in force -----------------------------------------------------------------------------

    def in_force(self, then: Done) -> None:
        """Call `then(None)` once everything submitted so far is in force on the switch, or with
        the reason why that cannot be said (see `proof`).  What was proven already is not proven
        again: where nothing has been written since, the switch's barrier is enough."""
        self._prove(then, lambda: self._proven == self._written)

    def counted(self, then: Done) -> None:
        """Call `then(None)` once the counters count every packet that had arrived by now (they
        are pushed when the cached flows are checked), and everything is in force."""
        self._prove(then, lambda: False)

    def _prove(self, then: Done, needless: Callable[[], bool]) -> None:
        promise = self._promise(then)

        def prove(error: str | None) -> None:
            written = self._written

            def finish() -> None:
                if not promise.settled:
                    self._proven = max(self._proven, written)
                refused = f"{self.name}: the switch refused a flow"
                promise.settle(None if self.live else refused)

            if error or promise.settled:
                promise.settle(error)
            elif needless():
                finish()
            else:
                self.proof.begin(self, promise, finish)

        self._after_jobs(promise, prove)

    def alive(self, then: Callable[[bool], None], limit_s: float) -> None:
        """Call `then` with whether the switch has answered a barrier within a time."""
        open_answers = [then]

        def answer(yes: bool) -> None:
            if open_answers:
                open_answers.pop()(yes)

        generation = self._generation
        self._ask(self._barrier(), lambda _: answer(generation == self._generation))
        self.later(limit_s, answer, False)

    def confirmed(self, then: Done) -> None:
        """Call `then(None)` once the switch has confirmed everything submitted so far."""
        promise = self._promise(then)
        self._after_jobs(promise, promise.settle)

    def _promise(self, then: Done) -> Promise:
        if len(self._promises) >= self._many_promises:
            self._promises = [p for p in self._promises if not p.settled]
            self._many_promises = max(64, 2 * len(self._promises))
        promise = Promise(then)
        self._promises.append(promise)
        return promise

    def _settle_all(self, reason: str) -> None:
        """Nobody waits any more, because nothing can be confirmed."""
        promises, self._promises = self._promises, []
        for promise in promises:
            promise.settle(reason)

    def _after_jobs(self, promise: Promise, then: Done) -> None:
        if self.connection is None:
            promise.settle(f"{self.name}: the switch is not connected")
        elif self._silent:
            promise.settle(self._silent)
        else:
            self.submit(self._fence(then))

    def confirm(self, promise: Promise, then: Callable[[], None]) -> None:
        """Call `then` once the switch has confirmed what it was sent."""

        def answered(answer: Answer) -> None:
            if isinstance(answer, NotAnsweredError):
                promise.settle(str(answer))
            else:
                then()

        self._ask(self._barrier(), answered)

    def nudge(self) -> None:
        """A change that touches no packet, so that cached flows are checked again soon."""
        if self.plain:
            nudge = Flow(0, 1, match(dl_type=0x88B5), (), cookies.MAGIC)
            pack = of.flow_mod_of10
        else:
            nudge = Flow(NUDGE_TABLE, 1, match(), (), cookies.MAGIC)
            pack = of.flow_mod
        self._send(pack(nudge, of.Command.ADD) + pack(nudge, of.Command.DELETE_STRICT))

    # --- jobs: the machinery ------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Append a job; it starts at once where nothing else is under way."""
        self._jobs.append(job)
        if not self._running and self._awaiting is None:
            self._run()

    def _run(self, value: Any = None) -> None:
        self._running, self._awaiting = True, None
        generation = self._generation
        until, steps = time.monotonic() + TURN_S, 0
        try:
            while generation == self._generation:
                if self._job is None and not self._jobs:
                    self.problems.end(FAILED)
                    break
                steps += 1
                if steps > 1 and time.monotonic() >= until:
                    self._flush_fragments()
                    self._awaiting = BETWEEN_TURNS_S
                    self.later(BETWEEN_TURNS_S, self._resume_if, generation)
                    return
                if self._job is None:
                    self._job = self._jobs.popleft()
                    value = None
                try:
                    awaited = advance(self._job, value)
                except StopIteration:
                    self._job = None
                    continue
                except Exception as error:
                    self._job, value = self._resync(self._failed(error)), None
                    continue
                if generation != self._generation:
                    return
                value = None
                if isinstance(awaited, Room):
                    self._fence_fragments()
                    if self._in_flight_bytes < self._window:
                        continue
                    self._awaiting = awaited
                    return
                self._flush_fragments()
                self._awaiting = awaited
                if isinstance(awaited, Request):
                    self._ask(awaited, self._resume)
                else:
                    self.later(awaited, self._resume_if, generation)
                return
            if generation == self._generation:
                self._flush_fragments()
        finally:
            self._running = False

    def _failed(self, error: Exception) -> float:
        """A job has failed, which is said once; returns how long to wait before the switch is read
        again."""
        reason = f"{type(error).__name__}: {error}"
        words = f"what it shall hold could not be written ({reason}); it is read again"
        if isinstance(error, NotAnsweredError):
            self.problems.begin(FAILED, f"what it holds is not known ({error}); it is asked again")
            self._settle_all(str(error))
        elif self.problems.begin(FAILED, words):
            log.error("%s: a job failed", self.name, exc_info=error)
        return self._pause_s()

    def _pause_s(self) -> float:
        """How long to wait before the next try: what fails again and again does so ever more
        rarely."""
        now = time.monotonic()
        if now - self._failed_at > 2 * LONGEST_PAUSE_S:
            self._failures = 0
        self._failed_at = now
        pause_s = min(LONGEST_PAUSE_S, 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        return pause_s

    def _resume(self, value: Any) -> None:
        if self._running or self._awaiting is None:
            return
        self._run(value)

    def _resume_if(self, generation: int) -> None:
        if generation == self._generation:
            self._resume(None)

    def _ask(self, request: Request, then: Callable[[Answer], None]) -> None:
        if self.connection is None:
            then(NotAnsweredError(f"{self.name}: the switch is not connected"))
            return
        self._flush_fragments()
        self._replies[request.xid] = (request, then)
        self._owed[request.xid] = None
        self._owes()
        self._send(request.message)

    def _owes(self) -> None:
        """The switch owes an answer."""
        if self._owes_since is None:
            self._owes_since = time.monotonic()
        if not self._watched:
            self._watched = True
            self.later(SILENT_S, self._watch, self._generation)

    def _answered(self, *xids: int, whole: bool = True) -> None:
        """The switch has answered these questions, or given a part of an answer; perhaps it owes
        others."""
        was_due = next(iter(self._owed), None) in xids
        if whole:
            for xid in xids:
                self._owed.pop(xid, None)
        if not was_due:
            return
        self._owes_since = None
        if self._silent:
            self._silent = ""
            self.problems.end(SILENT)
        if self._owed:
            self._owes()

    def _watch(self, generation: int) -> None:
        self._watched = False
        if self._owes_since is None:
            return
        left_s = SILENT_S - (time.monotonic() - self._owes_since)
        if left_s > 0:
            self._watched = True
            self.later(left_s, self._watch, generation)
        elif not self._silent:
            words = f"the switch has not answered for {SILENT_S:.0f} s what it was asked"
            self._silent = f"{self.name}: {words}"
            self.problems.begin(SILENT, words)
            self._settle_all(self._silent)

    @property
    def generation(self) -> int:
        """Another number for each connection."""
        return self._generation

    @property
    def written(self) -> int:
        """How many messages have been written."""
        return self._written

    def ask(self, request: Request, then: Callable[[Answer], None]) -> None:
        """Ask beside the jobs; `then` gets a NotAnsweredError where the switch refuses the question
        or goes away."""
        self._ask(request, then)

    def tell(self, data: bytes) -> None:
        """Send something that changes no flow, behind what has been written."""
        self._flush_fragments()
        self._send(data)

    def _barrier(self) -> Request:
        xid = next(self._xids)
        return Request(xid, of.barrier_request(xid))

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
        while self._in_flight and self._in_flight[0][0] <= xid:
            fence, size = self._in_flight.popleft()
            self._in_flight_bytes -= size
            answered.append(fence)
        self._answered(*answered)
        if isinstance(self._awaiting, Room) and self._in_flight_bytes < self._window // 2:
            self._resume(None)

    def on_stats(self, reply: of.StatsReply) -> bool:
        """One part of a statistics reply; False where it was not asked for here."""
        waiting = self._replies.get(reply.xid)
        if waiting is None:
            return False
        request, then = waiting
        request.entries.extend(reply.entries)
        if not reply.more:
            del self._replies[reply.xid]
        self._answered(reply.xid, whole=not reply.more)
        if not reply.more:
            then(request.entries)
        return True

    def on_error(self, xid: int, text: str, data: bytes = b"") -> None:
        """The switch refused something, of which `data` is the beginning: what it holds is not what
        is thought any more."""
        if xid == PACKET_OUT_XID:
            log.error("%s: %s (a packet-out)", self.name, text)
            return
        self.errors += 1
        waiting = self._replies.pop(xid, None)
        if waiting is not None:
            self._answered(xid)
            self._refuses_answer(text)
            waiting[1](NotAnsweredError(f"{self.name}: the switch refuses to answer ({text})"))
            return
        if any(fence == xid for fence, _ in self._in_flight):
            self._arrived(xid)  # or what waits for room would wait for ever
        if self.live:
            self.live = False
            words = f"the switch refuses what it shall hold ({text}); it is read again"
            self.problems.begin(REFUSED, words)
            pause_s = min(self._pause_s(), LONGEST_REFUSED_S)
            self.later(pause_s, self._read_again, self._generation)

    def _refuses_answer(self, text: str) -> None:
        self._refused_at = time.monotonic()
        words = f"the switch refuses to answer what it is asked ({text})"
        if self.problems.begin(UNANSWERED, words):
            self.later(UNANSWERED_S, self._answers_again, self._generation)

    def _answers_again(self, generation: int) -> None:
        """Nothing may have been refused for a while."""
        left_s = UNANSWERED_S - (time.monotonic() - self._refused_at)
        if generation != self._generation:
            return
        if left_s > 0:
            self.later(left_s, self._answers_again, generation)
        else:
            self.problems.end(UNANSWERED)

    def _narrow(self) -> None:
        """Little is sent at first, because much of it may be refused."""
        self._window = PIECE_BYTES // 8

    def _read_again(self, generation: int) -> None:
        if generation == self._generation and not self.live:
            self.submit(self._resync())

    def _fence(self, then: Done) -> Job:
        try:
            yield self._barrier()
        except NotAnsweredError as error:
            then(str(error))
            raise
        then(None)

    # --- sending ------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        if self.connection is not None:
            self.connection.send(data)

    def _write(self, data: bytes) -> None:
        """Queue one message; many leave as one piece, with a barrier behind it."""
        self._written += 1
        self._fragments.append(data)
        self._fragment_bytes += len(data)
        if self._fragment_bytes >= PIECE_BYTES:
            self._fence_fragments()

    def _flush_fragments(self) -> None:
        if self._fragments:
            self._unfenced += self._fragment_bytes
            self._send(b"".join(self._fragments))
            self._fragments, self._fragment_bytes = [], 0
            if self._unfenced >= PIECE_BYTES:
                self._fence_fragments()

    def _fence_fragments(self) -> None:
        self._flush_fragments()
        if self._unfenced:
            xid = next(self._xids)
            self._in_flight.append((xid, self._unfenced))
            self._in_flight_bytes += self._unfenced
            self._unfenced = 0
            self._owed[xid] = None
            self._owes()
            self._send(of.barrier_request(xid))
