"""The order in which a switch's flows are changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from xenflow.openflow import flow as f
from xenflow.openflow.flow import Flow, Flows
from xenflow.tables import cookies
from xenflow.tables.layout import ADMISSION, ARP_REPLY, CLASSES, LINKS, NETWORK_WIDE


def plan(
    installed: Mapping[tuple[int, int, f.Match], Flow], wanted: Flows, keep: Iterable[int] = ()
) -> list[list[tuple[bool, Flow]]]:
    """The batches, a barrier between them, that turn `installed` into `wanted`.

    Each batch is a list of (add, flow): add False deletes.  First everything is added or
    overwritten, downstream tables before upstream ones, so that no packet is led to a table
    that does not know it yet; then what is left over is deleted, upstream first.
    View-dependent flows of the routers whose ids are in `keep` are not deleted.
    """
    kept = set(keep)
    adds = [flow for key, flow in wanted.items() if installed.get(key) != flow]
    drops = [
        flow
        for key, flow in installed.items()
        if key not in wanted
        and not (kept and cookies.router_of(flow.cookie) in kept and view_dependent(flow))
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
