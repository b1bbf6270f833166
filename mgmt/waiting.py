"""Waiting until the controllers say that something is so.

Asked again are those alone that were late.  In a large network a look costs the controllers work,
and they have switches to write: the longer it takes, the longer the pause after it.  Called by the
verbs that change the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from mgmt.client import AskError
from mgmt.session import ManagementSession

LOOK_S = 0.1
"""The pause between two looks, at least."""
PAUSES = 4.0
"""The pause is so many times as long as the look, where that is longer."""


def await_status(
    session: ManagementSession,
    missing: Callable[[str, dict[str, Any]], Iterable[str]],
    limit_s: float,
    of: Iterable[str] | None = None,
) -> list[str]:
    """What is still missing when nothing is any more, or `limit_s` seconds have passed.

    of       the controllers that are asked; None: all
    missing  (controller, its answer to `status`): what is not so there, in words
    """
    names = list(session.network.controllers if of is None else of)
    until = time.monotonic() + limit_s
    while True:
        began = time.monotonic()
        late: dict[str, list[str]] = {}
        for name, answer in session.ask_all("status", names).items():
            if isinstance(answer, AskError):
                late[name] = [str(answer)]
            else:
                late[name] = list(missing(name, answer))
        names = [name for name, words in late.items() if words]
        now = time.monotonic()
        if not names or now > until:
            return [line for words in late.values() for line in words]
        time.sleep(min(max(LOOK_S, (now - began) * PAUSES), until - now))
