"""A switch's flow tables with what a real one does beside: it deletes flows, and tells them."""

from __future__ import annotations

from collections.abc import Iterator

from xenflow.openflow.flow import Flow, Match
from xenflow.tables.simulate import Tables


class SwitchTables(Tables):
    """See the module."""

    def __len__(self) -> int:
        return sum(len(group.flows) for group in self._groups.values())

    def __iter__(self) -> Iterator[Flow]:
        for group in self._groups.values():
            yield from group.flows.values()

    def delete_strict(self, table: int, priority: int, match: Match) -> Flow | None:
        """Delete the flow with exactly this key; returns it, or None where there is none."""
        shape = tuple((name, mask) for name, _, mask in match)
        group = self._groups.get((table, priority, shape))
        if group is None:
            return None
        flow = group.flows.pop(tuple(value for _, value, _ in match), None)
        if not group.flows:
            del self._groups[table, priority, shape]
            self._ordered[table].remove(group)
        return flow

    def delete_by_cookie(
        self, table: int | None, cookie: int, mask: int = 0xFFFFFFFFFFFFFFFF
    ) -> list[Flow]:
        """Delete every flow of `table` (None: of all) whose cookie agrees under `mask`."""
        gone = [
            flow
            for flow in self
            if (table is None or flow.table == table) and not (flow.cookie ^ cookie) & mask
        ]
        for flow in gone:
            self.delete_strict(*flow.key)
        return gone
