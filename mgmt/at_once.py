"""The same done for many at once, each in a thread, where most of the time is waiting.

An interrupt (Ctrl-C) ends the waiting at once.  `concurrent.futures` would wait for whoever does
not answer, and again at the interpreter's end; nobody waits for these threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue
from typing import TypeVar

Value = TypeVar("Value")

CHECK_S = 0.1
"""How soon a signal is noticed that came right before something was waited for."""


def at_once(
    do: Callable[[str], Value], names: Iterable[str], most: int = 32, within_s: float = inf
) -> dict[str, Value]:
    """What `do` returns for each name; no more than `most` are under way together.  Those that have
    not ended after `within_s` (seconds) are left to themselves.

    Raises, once all have ended or the time is over, what the first name in order has raised.
    """
    order = list(names)
    if len(order) < 2:
        return {name: do(name) for name in order}
    waiting = deque(order)
    ended: SimpleQueue[str] = SimpleQueue()
    values: dict[str, Value] = {}
    errors: dict[str, BaseException] = {}

    def work() -> None:
        while True:
            try:
                name = waiting.popleft()
            except IndexError:
                return
            try:
                values[name] = do(name)
            except BaseException as error:
                errors[name] = error
            ended.put(name)

    try:
        for _ in range(min(most, len(order))):
            threading.Thread(target=work, daemon=True).start()
        left, until = set(order), time.monotonic() + within_s
        while left and time.monotonic() < until:
            with suppress(Empty):
                left.discard(ended.get(timeout=CHECK_S))
    finally:
        waiting.clear()  # nothing more begins after an interrupt
    for name in order:
        if name in errors:
            raise errors[name]
    return {name: values[name] for name in order if name in values}
