"""The event loop: co-operative tasks, timers, and the sockets of the OpenFlow connections.

Tasks are generators, as in POX's `recoco`: a task yields `Select`, `Sleep`, a number of seconds,
0 (later, others first) or False (stop until scheduled). Unlike POX's, this loop runs in the main
thread and serves the OpenFlow sockets itself: they are watched all the time, not selected anew.

One turn of the loop: wait for sockets, calls and timers; one step for each task that is ready;
one bounded batch for each connection with input; then everything is sent that was queued. So a
flood of packets cannot starve a management task, nor one switch another.

Only `Scheduler.callLater` and `Scheduler.quit` may be called from other threads.
"""
# ruff: noqa: N802, N803, N816 - the names are POX's

from __future__ import annotations

import heapq
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from itertools import count
from typing import Any, Protocol

log = logging.getLogger("recoco")

__all__ = ["Scheduler", "Select", "Sleep", "Task", "Timer"]

_ENDED = select.EPOLLERR | select.EPOLLHUP
_MASKS = (
    select.EPOLLIN | select.EPOLLPRI | _ENDED,
    select.EPOLLOUT | _ENDED,
    select.EPOLLPRI | select.EPOLLERR,
)
"""What makes an entry of each of Select's lists ready."""
_LONGEST_WAIT_S = 10.0

defaultScheduler: Any = None


class Select:
    """Wait as `select.select` does; the task receives the three lists, all empty at the timeout.

    The entries are descriptors or have `fileno()`. ZeroMQ sockets have one, which is
    edge-triggered: drain the socket before waiting again.
    """

    def __init__(
        self,
        rlist: Iterable[Any] | None = None,
        wlist: Iterable[Any] | None = None,
        xlist: Iterable[Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.lists = tuple(rlist or ()), tuple(wlist or ()), tuple(xlist or ())
        self.timeout_s = timeout


class Sleep(Select):
    """Wait for some seconds."""

    def __init__(self, timeToWake: float) -> None:
        super().__init__(timeout=timeToWake)


class Task:
    """A generator that the scheduler runs a step at a time: a subclass's `run`, or of `target`."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., Generator[Any, Any, Any]] | None = None,
        name: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        body = target or self.run
        self.name = name or getattr(body, "__qualname__", "")
        self.gen = body(*args, **(kwargs or {}))
        self.rv: Any = None

    def start(self) -> None:
        """Schedule the task."""
        defaultScheduler.schedule(self)

    def run(self, *args: Any, **kw: Any) -> Generator[Any, Any, Any]:
        """The task's body."""
        yield False


class Timer(Task):
    """Calls `callback` after `timeToWake` seconds, or every so many (`recurring`).

    A callback that returns False ends a recurring timer, `cancel()` ends it from outside.
    """

    def __init__(
        self,
        timeToWake: float,
        callback: Callable[..., Any],
        *,
        recurring: bool = False,
        args: tuple[Any, ...] = (),
        kw: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._wait_s = timeToWake
        self._recurring = recurring
        self._call = callback, args, kw or {}
        self._cancelled = False
        self.start()

    def cancel(self) -> None:
        """Never call back again."""
        self._cancelled = True

    def run(self, *args: Any, **kw: Any) -> Generator[Any, Any, Any]:
        callback, arguments, named = self._call
        due = time.monotonic() + self._wait_s
        while True:
            yield Sleep(due - time.monotonic())
            if self._cancelled:
                return
            due = time.monotonic() + self._wait_s
            if callback(*arguments, **named) is False or not self._recurring:
                return


class Watched(Protocol):
    """What the loop serves directly: an OpenFlow connection or listener."""

    def on_ready(self, events: int) -> None:
        """The socket is ready; `events` is epoll's mask."""


class _Wait:
    """One task that waits for descriptors and a timeout; whichever comes first ends it."""

    __slots__ = ("done", "fds", "result", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.done = False
        self.fds: dict[int, list[tuple[int, Any]]] = {}  # fd -> (which list, entry)
        self.result: tuple[list[Any], list[Any], list[Any]] = ([], [], [])


class Scheduler:
    """The loop itself. `run()` returns after `quit()`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._ready: deque[Task] = deque()
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = deque()
        self._timers: list[tuple[float, int, _Wait]] = []
        self._timer_ids = count()
        self._waits: dict[int, _Wait] = {}
        self._watched: dict[int, Watched] = {}
        self.backlog: dict[Any, None] = {}
        """What has input left, in order; `work_on` goes on with it."""
        self.unflushed: list[Any] = []
        """What has queued output in this turn; `flush` sends it."""
        self._quit = False
        global defaultScheduler
        defaultScheduler = self

    # ---- for tasks -------------------------------------------------------------------------

    def schedule(self, task: Task) -> None:
        """Let a task run in the next turn, unless it already is to. From the loop's thread."""
        if task not in self._ready:
            self._ready.append(task)

    def callLater(self, func: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """Call a function from the loop soon. Safe from any thread and from signal handlers."""
        self._calls.append((func, args, kw))
        os.eventfd_write(self._wake_fd, 1)

    def quit(self) -> None:
        """End `run()` after the present turn. Safe from any thread."""
        self._quit = True
        os.eventfd_write(self._wake_fd, 1)

    def _wait(self, task: Task, what: Select) -> None:
        wait = _Wait(task)
        for index, entries in enumerate(what.lists):
            for entry in entries:
                fd = entry if isinstance(entry, int) else entry.fileno()
                wait.fds.setdefault(fd, []).append((index, entry))
        for fd, interests in wait.fds.items():
            if fd in self._watched:
                raise ValueError(f"descriptor {fd} belongs to an OpenFlow connection")
            mask = select.EPOLLONESHOT
            for index, _ in interests:
                mask |= _MASKS[index]
            self._waits[fd] = wait
            try:
                self._epoll.modify(fd, mask)
            except FileNotFoundError:
                self._epoll.register(fd, mask)
        if what.timeout_s is not None:
            due = time.monotonic() + what.timeout_s
            heapq.heappush(self._timers, (due, next(self._timer_ids), wait))

    # ---- for connections -------------------------------------------------------------------

    def watch(self, fd: int, watched: Watched, mask: int = select.EPOLLIN) -> None:
        """Call `watched.on_ready` whenever the socket is ready; again with another mask."""
        change = self._epoll.modify if fd in self._watched else self._epoll.register
        change(fd, mask)
        self._waits.pop(fd, None)
        self._watched[fd] = watched

    def unwatch(self, fd: int) -> None:
        """Forget a socket that is watched; call before it is closed."""
        del self._watched[fd]
        self._epoll.unregister(fd)

    # ---- the loop --------------------------------------------------------------------------

    def run(self) -> None:
        """Run until `quit()`."""
        while not self._quit:
            self.turn()

    def turn(self, longest_wait_s: float = _LONGEST_WAIT_S) -> None:
        """One turn of the loop, at most `longest_wait_s` of it waiting."""
        if self._ready or self._calls or self.backlog or self.unflushed:
            wait_s = 0.0
        elif self._timers:
            wait_s = min(longest_wait_s, max(0.0, self._timers[0][0] - time.monotonic()))
        else:
            wait_s = longest_wait_s
        # epoll counts whole milliseconds and rounds up: a timer is never early
        events = self._epoll.poll(wait_s)

        sockets: list[tuple[Watched, int]] = []
        for fd, mask in events:
            watched = self._watched.get(fd)
            if watched is not None:
                sockets.append((watched, mask))
            elif fd == self._wake_fd:
                os.eventfd_read(fd)
            else:
                wait = self._waits.pop(fd, None)
                if wait is not None:
                    self._resume(wait, fd, mask)
        if self._timers:
            self._expire(time.monotonic())

        for _ in range(len(self._calls)):
            func, args, kw = self._calls.popleft()
            self._serve(func, *args, **kw)
        for _ in range(len(self._ready)):
            self._step(self._ready.popleft())

        # Who floods is served last, and what the others have to say leaves before.
        self._flush()
        todo = list(self.backlog)
        for watched, mask in sockets:
            self._serve(watched.on_ready, mask)
        if todo:
            self._flush()
        for each in todo:
            if each in self.backlog:
                del self.backlog[each]
                self._serve(each.work_on)
        self._flush()

    def _flush(self) -> None:
        dirty, self.unflushed = self.unflushed, []
        for each in dirty:
            self._serve(each.flush)

    def _serve(self, serve: Callable[..., Any], *args: Any, **kw: Any) -> None:
        try:
            serve(*args, **kw)
        except Exception:
            log.exception("Exception calling %s", serve)

    def _resume(self, wait: _Wait, fd: int, mask: int) -> None:
        if not wait.done:
            self._end(wait)
        elif wait.task.rv is not wait.result:
            return  # the task has gone on meanwhile; else another of its sockets is ready too
        for index, entry in wait.fds[fd]:
            if mask & _MASKS[index]:
                wait.result[index].append(entry)

    def _expire(self, now: float) -> None:
        timers = self._timers
        while timers and (timers[0][0] <= now or timers[0][2].done):
            _, _, wait = heapq.heappop(timers)
            if not wait.done:
                self._end(wait)

    def _end(self, wait: _Wait) -> None:
        wait.done = True
        wait.task.rv = wait.result
        self._ready.append(wait.task)

    def _step(self, task: Task) -> None:
        value, task.rv = task.rv, None
        try:
            answer = task.gen.send(value)
            while answer is not False:
                wanted = Sleep(answer) if isinstance(answer, (int, float)) else answer
                try:
                    return self._wait(task, wanted)
                except Exception as error:  # such as a closed descriptor: the task's own affair
                    answer = task.gen.throw(error)
        except StopIteration:
            pass
        except Exception:
            log.exception("Task %s caused an exception and was de-scheduled", task.name)
