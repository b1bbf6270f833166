"""How much of a switch's packet-ins each VM may cause: a token bucket for each vif.

What a VM sends may come up to the controller, frame by frame: its hellos, sessions, what is for a
VM that takes nothing now, the reactive pipeline's questions.  Beyond its budget what comes is
dropped unread, so that a VM takes no more of Domain 0 than that, whatever it sends.  Other ports
have none: their packets are many machines', and a reactive switch lives on them.  What was routed
in the switch before it came up has no port any more: it has the budget of what it comes up for, and
is parsed first.

Called by `xenflow.switch.packet_ins`; time is an argument.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

RATE_PER_S = 1000.0
BURST = 2000.0
"""As many as are held for a VM that is suspended (`hold.MAX_FRAMES`)."""


@dataclass(slots=True)
class _Bucket:
    tokens: float = BURST
    at: float = 0.0
    dropped: int = 0

    def spend(self, now: float) -> bool:
        self.tokens = min(BURST, self.tokens + max(0.0, now - self.at) * RATE_PER_S)
        self.at = now
        if self.tokens < 1:
            self.dropped += 1
            return False
        self.tokens -= 1
        return True


class PortBudgets:
    """The budgets of one switch: by name of the port, or of what comes up without one."""

    def __init__(self) -> None:
        self._of: dict[str, _Bucket] = {}
        self._by_number: dict[int, _Bucket] = {}

    def set_ports(self, numbers: Mapping[str, int], limited: Container[str]) -> None:
        """The switch's ports, by name, and which of them have a budget.  A port that comes back has
        the one that it had."""
        names = [name for name in numbers if name in limited]
        self._by_number = {numbers[name]: self._of.setdefault(name, _Bucket()) for name in names}

    def spend(self, number: int, now: float) -> bool:
        """Whether a packet-in of this port is within its budget; counted where it is not.  `now`:
        seconds of a monotonic clock."""
        bucket = self._by_number.get(number)
        return bucket is None or bucket.spend(now)

    def spend_of(self, name: str, now: float) -> bool:
        """The same of a packet-in without a port, by the name of its budget."""
        return self._of.setdefault(name, _Bucket()).spend(now)

    def dropped(self) -> dict[str, int]:
        """How many were dropped, by port or budget, where any were."""
        return {name: bucket.dropped for name, bucket in self._of.items() if bucket.dropped}
