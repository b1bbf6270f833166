"""The order in which a switch's flows are changed."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping

from xenflow.openflow import flow as f
from xenflow.openflow.flow import Flow, Flows, Key
from xenflow.tables import cookies
from xenflow.tables.layout import ADMISSION, CLASSES, LINKS, NETWORK_WIDE, REPLY

Keeps = Callable[[int], bool]
"""Whether the view-dependent flows of a router, by its id, are not deleted."""


def plan(installed: Mapping[Key, Flow], wanted: Flows) -> list[list[tuple[bool, Flow]]]:
    """The batches that turn `installed` into `wanted`: see `FlowChanges`."""
    changes = FlowChanges()
    changes.add_missing(installed, wanted)
    changes.delete_left(installed.values(), wanted, lambda router: False)
    return changes.batches()


class FlowChanges:
    """What is to be written, gathered in parts: batches, with a barrier between them.

    Each batch is a list of (add, flow): add False deletes.  First everything is added or
    overwritten, downstream tables before upstream ones, so that no packet is led to a table
    that does not know it yet; then what is left over is deleted, upstream first.
    """

    def __init__(self) -> None:
        self._adds: dict[tuple[float, int], list[Flow]] = {}
        self._drops: dict[tuple[float, int], list[Flow]] = {}

    def add_missing(self, installed: Mapping[Key, Flow], wanted: Flows) -> None:
        """Add those of these that are not installed, or otherwise."""
        for key, flow in wanted.items():
            if installed.get(key) != flow:
                self._adds.setdefault(_downstream_first(flow), []).append(flow)

    def delete_left(self, flows: Iterable[Flow], wanted: Container[Key], keep: Keeps) -> None:
        """Delete those of these that are not wanted, nor kept."""
        for flow in flows:
            if flow.key not in wanted and not (
                view_dependent(flow) and keep(cookies.router_of(flow.cookie))
            ):
                self._drops.setdefault(_downstream_first(flow), []).append(flow)

    def batches(self) -> list[list[tuple[bool, Flow]]]:
        """All of it, in order."""
        adds = [(True, flow) for n in sorted(self._adds, reverse=True) for flow in self._adds[n]]
        drops = [(False, flow) for n in sorted(self._drops) for flow in self._drops[n]]
        return [batch for batch in (adds, drops) if batch]


def _downstream_first(flow: Flow) -> tuple[float, int]:
    """Tables in the order a packet meets them; a flow of LINKS that leads back to ADMISSION stands
    before that one: followed too early it would lead a packet round and round."""
    back = flow.table == LINKS and f.resubmit(ADMISSION) in flow.actions
    return ADMISSION - 0.5 if back else flow.table, flow.priority


def view_dependent(flow: Flow) -> bool:
    """Whether a flow follows from what a router's VM said, so that a controller that has not
    heard of that router yet must leave it alone."""
    return cookies.router_of(flow.cookie) != 0 and (
        flow.table == CLASSES
        or (flow.table in (ADMISSION, LINKS) and flow.priority >= REPLY)
        or flow.table in NETWORK_WIDE
    )


def in_pieces(flow: Flow) -> bool:
    """Whether it is a flow of a router's next hops, or of its own addresses: there may be very many
    of them, and jobs alone change them."""
    return flow.table in (CLASSES, *NETWORK_WIDE) and cookies.router_of(flow.cookie) != 0
