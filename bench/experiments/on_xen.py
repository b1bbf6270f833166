"""Moves a router between genuine Xen hosts: the test bed (`tests.xen.bed`) in the place of the lab.

The guest is what wears out: each move costs it memory for good (docs/xen.md), so between sessions
one that has little left is replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lab.moves import Mover
from lab.state import NETWORK_FILE
from mgmt.client import TIMEOUT_S
from mgmt.session import ManagementSession
from tests.xen.bed import bed as beds
from tests.xen.bed import router as guests
from tests.xen.bed.bed import Bed
from tests.xen.bed.dom0 import ENVIRONMENT
from xenflow.store import network_file

TOPOLOGY = "xen"
"""The report's figure 5.1, as the lab's `paper`."""
WATCH_S = 0.2
"""Between two echo requests: more would keep the emulated processors from moving the router."""
SESSION_MOVES = 5
"""At most; a guest too worn for so many is replaced."""


class XenMover(Mover):
    """Moves the bed's first router, with `xl migrate`."""

    def __init__(self, bed: Bed, session: ManagementSession) -> None:
        lab = bed.lab
        super().__init__(
            lab, session, next(iter(lab.network.routers)), next(iter(lab.machines)), WATCH_S
        )
        self._bed = bed

    @property
    def host(self) -> str:
        """Where the router is, by the hosts' own lists."""
        return guests.host_of(self._bed.hosts, self.router)

    def forward_by(self, mode: str) -> None:
        """As the lab's; before it a guest too worn for a session is replaced."""
        if guests.is_worn(self.lab, self.router, SESSION_MOVES):
            beds.renew(self._bed, self.router)
        super().forward_by(mode)


@contextmanager
def standing(topology: str, say: Callable[[str], None]) -> Iterator[Bed]:
    """Both hosts up, and the router; taken down at the end."""
    os.environ.update(ENVIRONMENT)
    try:
        yield beds.up(topology, say)
    finally:
        beds.down(lambda _: None)


@contextmanager
def switches(say: Callable[[str], None]) -> Iterator[XenMover]:
    """Both hosts with XenFlow's switches."""
    with standing(TOPOLOGY, say) as up:
        session = ManagementSession(network_file.load(NETWORK_FILE), TIMEOUT_S)
        try:
            yield XenMover(up, session)
        finally:
            session.close()
