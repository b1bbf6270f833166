"""What must go on whatever a part of it raises: the parts of a tick.

A timer ends with the first exception of what it calls (docs/pox.md), and with it would end the
heartbeats of all routers and the audits of all switches.  Called by `component` and `rule_table`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("xenflow.guarded")

COMPLAIN_S = 60.0
"""How often it is said that a part fails."""


class Guarded:
    """See the module.  `now`: a monotonic clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._said: dict[str, float] = {}

    def call(self, what: str, do: Callable[..., object], *arguments: object) -> None:
        """Do it; what it raises is logged under the name `what`, now and then."""
        try:
            do(*arguments)
        except Exception:
            now = self._now()
            if now - self._said.get(what, float("-inf")) >= COMPLAIN_S:
                self._said[what] = now
                log.exception("%s failed; the rest goes on", what)
