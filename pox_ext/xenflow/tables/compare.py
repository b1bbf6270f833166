"""What a switch holds beside what it should: the decisions of the audit, without a switch.

A flow is known by its table, priority and match: somebody who overwrites or modifies one of ours
changes its cookie too.  What has our cookie and is not ours, or is ours and reads otherwise, is
put right.  What somebody else added beside is left, and named where it takes packets from ours.

Called by `xenflow.switch.audit`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from xenflow.openflow import flow as f
from xenflow.openflow.flow import Flow, Flows, Key
from xenflow.tables import cookies, layout
from xenflow.tables.order import plan

Accepted = Mapping[Key, tuple[Flow, Flow]]
"""(what was wanted, the form in which the switch reads it back, though it is in force)."""


def ours(flow: Flow) -> bool:
    """Whether a flow says that a controller of ours wrote it."""
    return cookies.ours(flow.cookie)


def reactive(flow: Flow) -> bool:
    """Whether it is an exact flow of the reactive pipeline, which comes and goes."""
    return ours(flow) and cookies.kind_of(flow.cookie) == layout.REACTIVE_KIND


class FlowDifference(NamedTuple):
    """What was seen of some flows, and what shall be done about it.

    batches   as `plan` gives them
    mended    how many flows they put right
    """

    batches: list[list[tuple[bool, Flow]]]
    mended: int


def difference(
    seen: Mapping[Key, Flow | None], believed: Flows, accepted: Accepted
) -> FlowDifference:
    """What makes the flows that were seen (None: gone) those that are believed to be there.

    What was accepted holds for the flow that was wanted then, and for no other of its key.
    """
    wanted = {key: believed[key] for key in seen if key in believed}
    there = {
        key: wanted[key] if accepted.get(key) == (wanted.get(key), now) else now
        for key, now in seen.items()
        if now is not None and (key in believed or (ours(now) and not reactive(now)))
    }
    batches = plan(there, wanted)
    return FlowDifference(batches, sum(map(len, batches)))


def against(table: int, flows: Iterable[Flow], believed: Flows) -> dict[Key, Flow | None]:
    """A table that was read whole, as `difference` takes it: what is there, and what is not."""
    seen: dict[Key, Flow | None] = {key: None for key in believed if key[0] == table}
    seen.update((flow.key, flow) for flow in flows)
    return seen


def covers(foreign: Flow, own: Flow) -> bool:
    """Whether a flow takes packets from one of ours: it stands in the same table, not lower, and
    some packet matches both."""
    return (
        foreign.table == own.table
        and foreign.priority >= own.priority
        and _overlap(foreign.match, own.match)
    )


def _overlap(one: f.Match, other: f.Match) -> bool:
    fields = {name: (value, mask) for name, value, mask in one}
    for name, value, mask in other:
        if name in fields:
            there, there_mask = fields[name]
            common = (-1 if mask is None else mask) & (-1 if there_mask is None else there_mask)
            if (value ^ there) & common:
                return False
    return True


def covering(foreign: Iterable[Flow], believed: Flows, routes: bool) -> list[Flow]:
    """Those foreign flows that cover one of ours.  `routes`: the table of routes has some, which
    `believed` does not have."""
    by_table: dict[int, list[Flow]] = {}
    for flow in believed.values():
        by_table.setdefault(flow.table, []).append(flow)
    return [
        flow
        for flow in foreign
        if any(covers(flow, own) for own in by_table.get(flow.table, ()))
        or (routes and flow.table == layout.ROUTES and flow.priority >= layout.Routes.PREFIX)
    ]
