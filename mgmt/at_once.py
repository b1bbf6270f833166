"""The same done for many at once, each in a thread, where most of the time is waiting.

An interrupt (Ctrl-C) ends the waiting at once.  `concurrent.futures` would wait for whoever does
not answer, and again at the interpreter's end; nobody waits for these threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

Value = TypeVar("Value")

CHECK_S = 0.1
"""How soon a signal is noticed that came right before something was waited for."""


def at_once(do: Callable[[str], Value], names: Iterable[str], most: int = 32) -> dict[str, Value]:
    """What `do` returns for each name; no more than `most` are under way together.

    Raises, once all have ended, what the first name in order has raised.
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
        left = set(order)
        while left:
            with suppress(Empty):
                left.discard(ended.get(timeout=CHECK_S))
    finally:
        waiting.clear()  # after an interrupt nothing more begins
    for name in order:
        if name in errors:
            raise errors[name]
    return {name: values[name] for name in order}
