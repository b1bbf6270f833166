"""The lease on a router: who holds it may move the router, everybody else must not.

It is kept by the controllers of the hosts concerned, each for `LEASE_S` after it was last heard of,
so that a management entity that was killed holds nothing for long.  With it they keep the journal:
what was begun, for `xenflow recover` to have something to look at.

Called by `migrate`, by `planning` while it clears up what an interrupted migration left, and by the
verb `mode`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from mgmt.client import AskError
from mgmt.session import Ask

Problem = tuple[str, str]
"""What could not be done, and why."""

LEASE_S = 10.0
KEEP_S = 2.5


class Lease:
    """One router's, at some controllers.  `with` takes it and gives it back.

    Raises AskError, holding nothing, where somebody else has it or a controller does not answer.
    """

    def __init__(
        self, ask: Ask, controllers: Iterable[str], router: str, entry: dict[str, Any] | None
    ) -> None:
        self._ask = ask
        self._controllers = list(dict.fromkeys(controllers))
        owner = f"{socket.gethostname()}-{os.getpid()}"[-63:]
        self._about: dict[str, Any] = {"router": router, "owner": owner}
        self._entry = entry
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        taken: list[str] = []
        try:
            for name in self._controllers:
                self._ask(name, "lock", lease_s=LEASE_S, entry=self._entry, **self._about)
                taken.append(name)
        except AskError:
            for name in taken:
                with suppress(AskError):
                    self._unlock(name)
            raise
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.give_back()

    def give_back(self) -> list[Problem]:
        """Nobody holds it any more, which may be said twice; returns what could not be done."""
        if self._over.is_set():
            return []
        self._over.set()
        self._keeper.join()
        problems: list[Problem] = []
        for name in self._controllers:
            try:
                self._unlock(name)
            except AskError as error:
                problems.append((f"unlock at {name}", str(error)))
        return problems

    def note(self, entry: dict[str, Any], *, needed: bool) -> None:
        """Add to the journal.  Where it is `needed`, raises AskError if a controller does not
        keep it."""
        for name in self._controllers:
            try:
                self._ask(name, "journal", entry=entry, **self._about)
            except AskError:
                if needed:
                    raise

    def _unlock(self, controller: str) -> None:
        self._ask(controller, "unlock", **self._about)

    def _keep(self) -> None:
        while not self._over.wait(KEEP_S):
            for name in self._controllers:
                with suppress(AskError):  # the next thing that is asked says so
                    self._ask(name, "journal", **self._about)
