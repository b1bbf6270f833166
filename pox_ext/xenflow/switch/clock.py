"""The time, as a switch's parts are given it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Clock:
    """`later(seconds, call, *arguments)` calls it after some seconds; `now()` says the seconds of a
    monotonic clock."""

    later: Callable[..., Any]
    now: Callable[[], float] = time.monotonic
