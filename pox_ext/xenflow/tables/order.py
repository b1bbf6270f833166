"""The order in which a switch's flows are changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xenflow.openflow import flow as f
from xenflow.openflow.flow import Flow, Flows, Key
from xenflow.tables import cookies
from xenflow.tables.layout import ADMISSION, ARP_REPLY, CLASSES, LINKS, NETWORK_WIDE


def plan(
    installed: Mapping[Key, Flow],
    wanted: Flows,
    fresh: Flows | None = None,
    keep: Callable[[int], bool] = lambda router: False,
) -> list[list[tuple[bool, Flow]]]:
    """The batches, a barrier between them, that turn `installed` into `wanted`.

    Each batch is a list of (add, flow): add False deletes.  First everything is added or
    overwritten, downstream tables before upstream ones, so that no packet is led to a table
    that does not know it yet; then what is left over is deleted, upstream first.
    Where only the `fresh` ones of those that are wanted may not be there, only these are looked at.
    View-dependent flows of the routers for whose ids `keep` says so are not deleted.
    """
    looked_at = wanted if fresh is None else fresh
    adds = [flow for key, flow in looked_at.items() if installed.get(key) != flow]
    drops = [
        flow
        for key, flow in installed.items()
        if key not in wanted and not (view_dependent(flow) and keep(cookies.router_of(flow.cookie)))
    ]
    adds.sort(key=_downstream_first, reverse=True)
    drops.sort(key=_downstream_first)
    return [
        batch
        for batch in ([(True, flow) for flow in adds], [(False, flow) for flow in drops])
        if batch
    ]


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
        or (flow.table in (ADMISSION, LINKS) and flow.priority >= ARP_REPLY)
        or flow.table in NETWORK_WIDE
    )
