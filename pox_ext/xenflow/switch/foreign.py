"""The flows of others that are in a switch: never touched; named where they cover ours.

Called by `audit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest

from xenflow.openflow.flow import Flow, Flows, Key, text
from xenflow.switch.problems import Problems
from xenflow.tables import layout
from xenflow.tables.compare import covering
from xenflow.tables.routes import route_of

NAMED, LOOKED_AT, KEPT = 3, 100, 1000
"""So many are named in words; so many of the highest priorities are compared with ours; so many are
known."""
COVERED = "covered"
"""Cause of a `Problems` entry."""


class Foreign:
    """See the module."""

    def __init__(self, problems: Problems) -> None:
        self.flows: Flows = {}
        self.covering: list[Flow] = []
        """Those that take packets from ours."""
        self.overfull: set[int] = set()
        """Tables not all of whose flows of others are known."""
        self.beside = 0
        """How many are in table ROUTES that were there before."""
        self._problems = problems

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.flows) + self.beside

    def clear(self) -> None:
        """Nothing is known."""
        self.flows, self.covering, self.beside = {}, [], 0
        self.overfull.clear()

    def add(self, flow: Flow) -> None:
        """There is one."""
        if len(self.flows) < KEPT:
            self.flows[flow.key] = flow
        else:
            self.overfull.add(flow.table)

    def gone(self, key: Key) -> None:
        """It is no more."""
        self.flows.pop(key, None)

    def are(self, table: int, flows: list[Flow]) -> None:
        """A table has these."""
        self.overfull.discard(table)
        for key in [key for key in self.flows if key[0] == table]:
            del self.flows[key]
        for flow in flows:
            self.add(flow)

    def routes_gone(self, router: int, found: Mapping[int, int | None]) -> None:
        """Routes of a router are no more (None), where others had put them."""
        for key in [key for key in self.flows if key[0] == layout.ROUTES]:
            route = route_of(self.flows[key])
            if route is not None and route[0] == router and found.get(route[1], 0) is None:
                del self.flows[key]

    def name(self, installed: Flows, routes: bool) -> None:
        """Say which cover ours.  `routes`: whether there are any of ours."""
        if not self.flows:
            self.covering = []
            self._problems.end(COVERED)
            return
        highest = nlargest(LOOKED_AT, self.flows.values(), key=lambda flow: flow.priority)
        self.covering = covering(highest, installed, routes)
        if self.covering:
            named = "; ".join(text(flow) for flow in self.covering[:NAMED])
            more = ", and others" if len(self.covering) > NAMED else ""
            self._problems.begin(COVERED, f"flows of somebody else cover ours: {named}{more}")
        else:
            self._problems.end(COVERED)
