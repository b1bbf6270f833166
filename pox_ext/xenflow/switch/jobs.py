"""The jobs of one switch: its changes, in the order in which they were made.

A job is a generator; jobs run one after the other, so that the order in which changes were made is
the order in which the switch sees them.  A job yields what it waits for:

    ROOM             until few enough bytes are on their way to the switch
    a SwitchRequest  until its reply (statistics or barrier) has come
    a number         for so many seconds

A question that is not answered is raised in the job (`NotAnsweredError`).  A job that fails is one
router's affair, where it is that router's job (`router_failed` goes on in its place), or the
switch's, which is read again: ever more rarely where that fails again and again.  Jobs that wait
for nothing are interrupted after TURN_S.

Part of a `switch.Switch`, which decides what the jobs are.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Set
from dataclasses import dataclass
from typing import Any

from xenflow.switch.channel import Channel, NotAnsweredError, SwitchRequest, advance
from xenflow.switch.proof import Done

log = logging.getLogger("xenflow.jobs")

TURN_S, BETWEEN_TURNS_S = 0.02, 0.001
"""Jobs that need not wait go on for so long; then whatever else the controller does has its turn.
A pause of 0 would not do: the core may resume at once what sleeps for no time."""
LONGEST_PAUSE_S = 60.0
"""Between two tries of what fails again and again."""
FAILED = "job"
"""Cause of a `Problems` entry."""


@dataclass(frozen=True, slots=True)
class Room:
    """Wait until less than IN_FLIGHT_BYTES are on their way."""


ROOM = Room()
Awaited = SwitchRequest | Room | float
Job = Generator[Awaited, Any, None]
EVERYBODY: Set[str] = frozenset(("",))


@dataclass(slots=True, eq=False)
class QueuedJob:
    """A job in the queue.

    owner     the router whose failure it is where it fails; "": the switch's
    concerns  the routers for which it writes alone; EVERYBODY, or any set with ""
    size      what it costs, in routes
    """

    steps: Job
    owner: str = ""
    concerns: Set[str] = EVERYBODY
    size: int = 0


def router_task(router: str, steps: Job) -> QueuedJob:
    """A job that is one router's affair."""
    return QueuedJob(steps, router, {router})


def fence(channel: Channel, then: Done) -> Job:
    """Call `then(None)` once all jobs before this one are carried out, else with why that cannot be
    said."""
    try:
        yield channel.barrier()
    except NotAnsweredError as error:
        then(str(error))
        raise
    then(None)


@dataclass(eq=False, repr=False)
class Jobs:
    """See the module.

    read_again     the job that finds out what the switch holds, after some seconds
    router_failed  the job that goes on in place of a router's that has failed
    given_up       called with the reason where what was asked for cannot be said any more
    """

    _channel: Channel
    _read_again: Callable[[float], Job]
    _router_failed: Callable[[str, Exception], Job]
    _given_up: Callable[[str], None]

    def __post_init__(self) -> None:
        self._queue: deque[QueuedJob] = deque()
        self._task: QueuedJob | None = None
        self._put_first: set[QueuedJob] = set()
        self._sizes: dict[str, int] = {}
        """What each router's tasks cost that have not ended."""
        self._running = False
        self._awaiting: Awaited | None = None
        self._failures = 0
        self._failed_at = float("-inf")

    @property
    def busy(self) -> int:
        """How many have not ended."""
        return len(self._queue) + (self._task is not None)

    @property
    def concerns(self) -> list[str]:
        """The routers whose jobs are all that there are; empty where others are."""
        tasks = [*self._queue, *([self._task] if self._task is not None else [])]
        found = set().union(*(task.concerns for task in tasks))
        return [] if "" in found else sorted(found)

    def waiting(self, router: str) -> int:
        """What a router's jobs cost that have not ended."""
        return self._sizes.get(router, 0)

    def submit(self, steps: Job, concerns: Set[str] = EVERYBODY) -> None:
        """Append a job; it starts at once where nothing else is under way."""
        self._append(QueuedJob(steps, concerns=concerns))

    def submit_of(self, router: str, steps: Job, size: int = 0) -> None:
        """The same with a job that is one router's affair."""
        self.submit_task(router_task(router, steps), size)

    def submit_task(self, task: QueuedJob, size: int) -> None:
        """The same with a job that may get more to do before it begins (`enlarge`)."""
        self.enlarge(task, size)
        self._append(task)

    def enlarge(self, task: QueuedJob, size: int) -> None:
        """A router's job has more to do."""
        task.size += size
        self._sizes[task.owner] = self._sizes.get(task.owner, 0) + size

    def _append(self, task: QueuedJob) -> None:
        self._queue.append(task)
        if not self._running and self._awaiting is None:
            self._run()

    def drop(self, router: str) -> None:
        """A router is gone: nothing is to be done for it that has not begun."""
        self._queue = deque(task for task in self._queue if task.owner != router)
        self._sizes.pop(router, None)

    def are_next(self, tasks: list[QueuedJob]) -> None:
        """These come before whatever waits, and in place of what such a call has left to be done
        before."""
        left = [task for task in self._queue if task not in self._put_first]
        self._queue.clear()
        self._queue.extend([*tasks, *left])
        self._put_first = set(tasks)

    def close(self) -> None:
        """The switch went away: there is nothing to be done.  A job in which that was found out
        goes on until it waits for something, and is not resumed."""
        tasks = list(self._queue)
        if self._task is not None and not self._running:
            tasks.append(self._task)
        self._task, self._awaiting = None, None
        self._queue.clear()
        self._sizes.clear()
        self._failures = 0
        for task in tasks:
            task.steps.close()

    def _run(self, value: Any = None) -> None:
        channel, clock = self._channel, self._channel.clock
        self._running, self._awaiting = True, None
        generation = channel.generation
        until, steps = clock.now() + TURN_S, 0
        try:
            while generation == channel.generation:
                if self._task is None and not self._queue:
                    self._channel.problems.end(FAILED)
                    break
                steps += 1
                if steps > 1 and clock.now() >= until:
                    channel.flush()
                    self._awaiting = BETWEEN_TURNS_S
                    clock.later(BETWEEN_TURNS_S, self._resume_if, generation)
                    return
                if self._task is None:
                    self._task = self._queue.popleft()
                    value = None
                task = self._task
                try:
                    awaited = advance(task.steps, value)
                except StopIteration:
                    if generation == channel.generation:
                        self._end(task)
                    continue
                except Exception as error:
                    if generation == channel.generation:
                        self._go_on_after(task, error)
                    value = None
                    continue
                if generation != channel.generation:
                    return
                value = None
                if isinstance(awaited, Room):
                    channel.fence()
                    if channel.has_room:
                        continue
                    self._awaiting = awaited
                    channel.when_room(self._resume)
                    return
                channel.flush()
                self._awaiting = awaited
                if isinstance(awaited, SwitchRequest):
                    channel.ask(awaited, self._resume)
                else:
                    clock.later(awaited, self._resume_if, generation)
                return
            if generation == channel.generation:
                channel.flush()
        finally:
            self._running = False

    def _end(self, task: QueuedJob) -> None:
        self._task = None
        if task.size and task.owner in self._sizes:
            self._sizes[task.owner] = max(0, self._sizes[task.owner] - task.size)

    def _go_on_after(self, task: QueuedJob, error: Exception) -> None:
        self._end(task)
        if task.owner and not isinstance(error, NotAnsweredError):
            self._task = QueuedJob(self._router_failed(task.owner, error), concerns=task.concerns)
        else:
            self._task = QueuedJob(self._read_again(self._failed(error)))

    def _failed(self, error: Exception) -> float:
        """A job has failed, which is said once; returns how long to wait before the switch is read
        again."""
        reason = f"{type(error).__name__}: {error}"
        words = f"what it shall hold could not be written ({reason}); it is read again"
        if isinstance(error, NotAnsweredError):
            words = f"what it holds is not known ({error}); it is asked again"
            self._channel.problems.begin(FAILED, words)
            self._given_up(str(error))
        elif self._channel.problems.begin(FAILED, words):
            log.error("%s: a job failed", self._channel.name, exc_info=error)
        return self.pause_s()

    def pause_s(self) -> float:
        """How long to wait before the next try: what fails again and again does so ever more
        rarely."""
        now = self._channel.clock.now()
        if now - self._failed_at > 2 * LONGEST_PAUSE_S:
            self._failures = 0
        self._failed_at = now
        pause_s = min(LONGEST_PAUSE_S, 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        return pause_s

    def _resume(self, value: Any = None) -> None:
        if self._running or self._awaiting is None:
            return
        self._run(value)

    def _resume_if(self, generation: int) -> None:
        if generation == self._channel.generation:
            self._resume()
