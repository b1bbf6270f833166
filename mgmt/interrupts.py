"""What a signal means to a migration under way: to end, as long as that can be.

Before the commit point a signal ends it and all is put back, which one more signal ends, too.
After the commit point a signal changes nothing, which is said.  Signals are only counted when they
come; whoever may end calls `check`, often.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Queue
from typing import Any

from mgmt.at_once import CHECK_S
from mgmt.session import Ask

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a kill, a terminal that has gone."""


class Interrupted(Exception):
    """The operator wants it to end."""


class Interrupts:
    """One migration's.  `committed`: whether the commit point is behind it; `too_late` is called
    for a signal that has come after it."""

    def __init__(self, committed: Callable[[], bool], too_late: Callable[[], None]) -> None:
        self._committed = committed
        self._too_late = too_late
        self.seen = 0
        """How many signals have come."""
        self._said = 0
        self._undoing_since: int | None = None
        """How many had come when the putting back began."""
        self._asking = False

    def check(self) -> None:
        """Raise Interrupted where a signal asks for the end."""
        if self._undoing_since is not None:
            if self.seen > self._undoing_since:
                raise Interrupted  # for whoever asks: several answers may be waited for
        elif self.seen and not self._committed():
            raise Interrupted
        elif self.seen > self._said:
            self._said = self.seen
            self._too_late()

    @contextmanager
    def putting_back(self) -> Iterator[None]:
        """Meanwhile only a signal that comes anew asks for the end."""
        self._undoing_since = self.seen
        try:
            yield
        finally:
            self._undoing_since, self._said = None, self.seen

    def given_up(self) -> None:
        """What was being put back is left: the next thing is ended by a signal that comes anew."""
        self._undoing_since = self.seen

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Meanwhile a signal raises KeyboardInterrupt: the operator is asked something."""
        self._asking = True
        try:
            yield
        finally:
            self._asking = False

    def watched(self, ask: Ask) -> Ask:
        """The same; where an answer may take long (it has a `timeout_s`), an interrupt ends the
        waiting for it."""

        def watched_ask(
            controller: str, verb: str, /, timeout_s: float | None = None, **arguments: Any
        ) -> dict[str, Any]:
            if timeout_s is None:
                return ask(controller, verb, **arguments)
            answers: Queue[dict[str, Any] | Exception] = Queue()

            def wait() -> None:
                try:
                    answers.put(ask(controller, verb, timeout_s=timeout_s, **arguments))
                except Exception as error:
                    answers.put(error)

            threading.Thread(target=wait, daemon=True).start()
            while True:
                try:
                    answer = answers.get(timeout=CHECK_S)
                except Empty:
                    self.check()
                    continue
                if isinstance(answer, Exception):
                    raise answer
                return answer

        return watched_ask

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """Meanwhile signals are counted here, where this is the main thread."""

        def note(number: int, frame: object) -> None:
            self.seen += 1
            if self._asking:
                self._asking = False  # once: there is something to be put back then
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heeded = set(_SIGNALS)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            heeded.remove(signal.SIGHUP)  # as nohup(1) has it: it goes on without a terminal
        before = {n: signal.signal(n, note) for n in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
