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

import errno
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

__all__ = ["BaseTask", "BlockingOperation", "Scheduler", "Select", "Sleep", "Task", "Timer"]

_READ = select.EPOLLIN | select.EPOLLPRI
_ENDED = select.EPOLLERR | select.EPOLLHUP
_LONGEST_WAIT_S = 10.0

_task_ids = count(1)
defaultScheduler: Scheduler | None = None


class Watched(Protocol):
    """What the loop serves directly: an OpenFlow connection or listener."""

    def on_ready(self, events: int) -> None:
        """The socket is ready; `events` is epoll's mask."""

    def flush(self) -> None:
        """Send what is queued."""

    def work_on(self) -> None:
        """Go on with input that was read but not dealt with."""


class BlockingOperation:
    """What a task yields in order to wait."""

    def execute(self, task: BaseTask, scheduler: Scheduler) -> Any:
        """Start to wait. True lets the task go on at once."""


class Sleep(BlockingOperation):
    """Wait for some seconds, or until a time (`time.time()`); None waits to be scheduled."""

    def __init__(self, timeToWake: float | None = None, absoluteTime: bool = False) -> None:
        self._wait_s = timeToWake
        self._absolute = absoluteTime

    def execute(self, task: BaseTask, scheduler: Scheduler) -> None:
        if self._wait_s is None:
            return
        wait_s = self._wait_s - time.time() if self._absolute else self._wait_s
        if wait_s <= 0:
            scheduler.fast_schedule(task)
        else:
            scheduler._wait(task, (), (), (), wait_s)


class Select(BlockingOperation):
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
        self._lists = tuple(rlist or ()), tuple(wlist or ()), tuple(xlist or ())
        self._timeout_s = timeout

    def execute(self, task: BaseTask, scheduler: Scheduler) -> None:
        scheduler._wait(task, *self._lists, self._timeout_s)


class BaseTask:
    """A generator that the scheduler runs a step at a time."""

    priority = 1
    name: str | None = None

    @classmethod
    def new(cls, *args: Any, **kw: Any) -> Any:
        """Make the task and start it on the default scheduler."""
        task = cls(*args, **kw)
        task.start(fast=True)
        return task

    def __init__(self, *args: Any, **kw: Any) -> None:
        self.id = next(_task_ids)
        self.gen: Generator[Any, Any, Any] = self.run(*args, **kw)
        self.rv: Any = None
        self.re: BaseException | None = None

    def start(
        self,
        scheduler: Scheduler | None = None,
        priority: float | None = None,
        fast: bool = False,
    ) -> None:
        """Schedule the task; `priority` and `fast` are accepted for POX's sake."""
        chosen = scheduler or defaultScheduler
        if chosen is None:
            raise RuntimeError("there is no scheduler yet")
        chosen.schedule(self)

    def run(self, *args: Any, **kw: Any) -> Generator[Any, Any, Any]:
        """The task's body."""
        yield False

    def __str__(self) -> str:
        return f"<{type(self).__name__} {self.name or self.id}>"


class Task(BaseTask):
    """A task from a subclass's `run`, or from a generator function `target`."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., Generator[Any, Any, Any]] | None = None,
        name: str | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.target = target
        self.args = args
        self.kwargs = kwargs or {}
        self.name = name
        super().__init__(*(() if target else args), **({} if target else self.kwargs))

    def run(self, *args: Any, **kw: Any) -> Generator[Any, Any, Any]:
        if self.target is not None:
            yield from self.target(*self.args, **self.kwargs)


class Timer(Task):
    """Calls `callback` after `timeToWake` seconds, or every so many (`recurring`).

    With `absoluteTime`, at that `time.time()`. A callback that returns False ends a recurring
    timer unless `selfStoppable` is False. `cancel()` ends it from outside.
    """

    def __init__(
        self,
        timeToWake: float,
        callback: Callable[..., Any],
        absoluteTime: bool = False,
        recurring: bool = False,
        args: tuple[Any, ...] = (),
        kw: dict[str, Any] | None = None,
        scheduler: Scheduler | None = None,
        started: bool = True,
        selfStoppable: bool = True,
    ) -> None:
        if absoluteTime and recurring:
            raise RuntimeError("a timer for one moment cannot recur")
        super().__init__()
        self._when = timeToWake
        self._absolute = absoluteTime
        self._recurring = recurring
        self._callback = callback
        self._callback_args = args
        self._callback_kw = kw or {}
        self._self_stoppable = selfStoppable
        self._cancelled = False
        if started:
            self.start(scheduler)

    def cancel(self) -> None:
        """Never call back again."""
        self._cancelled = True

    def run(self, *args: Any, **kw: Any) -> Generator[Any, Any, Any]:
        due = self._when if self._absolute else time.monotonic() + self._when
        while not self._cancelled:
            now = time.time() if self._absolute else time.monotonic()
            yield Sleep(max(0.0, due - now))
            if self._cancelled:
                break
            due = time.monotonic() + self._when
            answer = self._callback(*self._callback_args, **self._callback_kw)
            if not self._recurring or (self._self_stoppable and answer is False):
                break


class _Wait:
    """One task that waits for descriptors and a timeout; whichever comes first ends it."""

    __slots__ = ("done", "fds", "result", "task")

    def __init__(self, task: BaseTask) -> None:
        self.task = task
        self.done = False
        self.fds: dict[int, list[tuple[int, int, Any]]] = {}  # fd -> (list index, mask, object)
        self.result: tuple[list[Any], list[Any], list[Any]] = ([], [], [])


class Scheduler:
    """The loop itself. `run()` returns after `quit()`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._ready: deque[BaseTask] = deque()
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = deque()
        self._timers: list[tuple[float, int, _Wait]] = []
        self._timer_ids = count()
        self._waits: dict[int, _Wait] = {}
        self._watched: dict[int, Watched] = {}
        self._always_ready: list[tuple[_Wait, int]] = []
        self.backlog: dict[Watched, None] = {}  # connections with input left, in order
        self.unflushed: list[Watched] = []  # connections with output queued in this turn
        self._quit = False
        global defaultScheduler
        defaultScheduler = self

    # ---- for tasks -------------------------------------------------------------------------

    def schedule(self, task: BaseTask, first: bool = False) -> bool:
        """Let a task run in the next turn, unless it already is to. From the loop's thread."""
        if task in self._ready:
            log.info("Task %s scheduled multiple times", task)
            return False
        self.fast_schedule(task, first)
        return True

    def fast_schedule(self, task: BaseTask, first: bool = False) -> None:
        """As `schedule`, without the check."""
        if first:
            self._ready.appendleft(task)
        else:
            self._ready.append(task)

    def callLater(self, func: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """Call a function from the loop soon. Safe from any thread and from signal handlers."""
        self._calls.append((func, args, kw))
        os.eventfd_write(self._wake_fd, 1)

    def quit(self) -> None:
        """End `run()` after the present turn. Safe from any thread."""
        self._quit = True
        os.eventfd_write(self._wake_fd, 1)

    def _wait(
        self,
        task: BaseTask,
        rlist: Iterable[Any],
        wlist: Iterable[Any],
        xlist: Iterable[Any],
        timeout_s: float | None,
    ) -> None:
        wait = _Wait(task)
        masks = (_READ | _ENDED, select.EPOLLOUT | _ENDED, select.EPOLLPRI | select.EPOLLERR)
        for index, entries in enumerate((rlist, wlist, xlist)):
            for entry in entries:
                fd = entry if isinstance(entry, int) else entry.fileno()
                wait.fds.setdefault(fd, []).append((index, masks[index], entry))
        for fd, interests in wait.fds.items():
            self._arm(fd, wait, interests)
        if timeout_s is not None:
            heapq.heappush(
                self._timers, (time.monotonic() + timeout_s, next(self._timer_ids), wait)
            )

    def _arm(self, fd: int, wait: _Wait, interests: list[tuple[int, int, Any]]) -> None:
        mask = select.EPOLLONESHOT
        for index, wanted, _ in interests:
            mask |= (wanted & ~_ENDED) if index < 2 else select.EPOLLPRI
        if fd in self._watched:
            raise ValueError(f"descriptor {fd} belongs to an OpenFlow connection")
        previous = self._waits.get(fd)
        if previous is not None and not previous.done and previous.task is not wait.task:
            log.error("%s and %s wait for the same descriptor", previous.task, wait.task)
        self._waits[fd] = wait
        try:
            try:
                self._epoll.modify(fd, mask)
            except FileNotFoundError:
                self._epoll.register(fd, mask)
        except PermissionError:  # a plain file: always ready, as for select
            self._always_ready.append((wait, fd))

    # ---- for connections -------------------------------------------------------------------

    def watch(self, fd: int, watched: Watched, mask: int = select.EPOLLIN) -> None:
        """Call `watched.on_ready` whenever the socket is ready; again with another mask."""
        if fd in self._watched:
            self._epoll.modify(fd, mask)
        else:
            self._waits.pop(fd, None)
            try:
                self._epoll.register(fd, mask)
            except FileExistsError:
                self._epoll.modify(fd, mask)
        self._watched[fd] = watched

    def unwatch(self, fd: int) -> None:
        """Forget a socket; call before it is closed."""
        if self._watched.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except OSError as error:
                if error.errno not in (errno.EBADF, errno.ENOENT):
                    raise

    # ---- the loop --------------------------------------------------------------------------

    def run(self) -> None:
        """Run until `quit()`."""
        while not self._quit:
            self.turn()

    def turn(self, longest_wait_s: float = _LONGEST_WAIT_S) -> None:
        """One turn of the loop, at most `longest_wait_s` of it waiting."""
        if self._ready or self._calls or self.backlog or self._always_ready or self.unflushed:
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
        if self._always_ready:
            for wait, fd in self._always_ready:
                self._resume(wait, fd, _READ | select.EPOLLOUT)
            self._always_ready.clear()
        if self._timers:
            self._expire(time.monotonic())

        for _ in range(len(self._calls)):
            func, args, kw = self._calls.popleft()
            try:
                func(*args, **kw)
            except Exception:
                log.exception("Exception calling %s", func)
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
        if self.unflushed:
            dirty = self.unflushed
            self.unflushed = []
            for each in dirty:
                self._serve(each.flush)

    def _serve(self, serve: Callable[..., None], *args: Any) -> None:
        try:
            serve(*args)
        except Exception:
            log.exception("Exception serving %s", getattr(serve, "__self__", serve))

    def _resume(self, wait: _Wait, fd: int, mask: int) -> None:
        if not wait.done:
            wait.done = True
            wait.task.rv = wait.result
            self._ready.append(wait.task)
        elif wait.task.rv is not wait.result:
            return  # the task has gone on meanwhile; else another of its sockets is ready too
        for index, wanted, entry in wait.fds[fd]:
            if mask & wanted:
                wait.result[index].append(entry)

    def _expire(self, now: float) -> None:
        timers = self._timers
        while timers and (timers[0][0] <= now or timers[0][2].done):
            _, _, wait = heapq.heappop(timers)
            if not wait.done:
                wait.done = True
                wait.task.rv = wait.result
                self._ready.append(wait.task)

    def _step(self, task: BaseTask) -> None:
        while True:
            value, task.rv = task.rv, None
            failure, task.re = task.re, None
            try:
                answer = task.gen.throw(failure) if failure else task.gen.send(value)
            except StopIteration:
                return
            except Exception:
                log.exception("Task %s caused an exception and was de-scheduled", task)
                return
            if isinstance(answer, BlockingOperation):
                try:
                    if answer.execute(task, self) is True:
                        continue
                except Exception as error:  # such as a closed descriptor: the task's own affair
                    task.re = error
                    continue
            elif answer is False:
                pass
            elif isinstance(answer, (int, float)):
                Sleep(answer).execute(task, self)
            else:
                log.error("Task %s yielded %r and was de-scheduled", task, answer)
            return
