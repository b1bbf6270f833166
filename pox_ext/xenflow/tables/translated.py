"""Flows of one switch as another one shall have them: the report's `CopyFlows`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from xenflow.openflow.flow import PORT_MAX, Flow, output


def translated(flows: Iterable[Flow], ports: Mapping[int, int]) -> list[Flow]:
    """Flows with their ports replaced; those through a port without a counterpart are left out."""
    found = (_translated(flow, ports) for flow in flows)
    return [flow for flow in found if flow is not None]


def _translated(flow: Flow, ports: Mapping[int, int]) -> Flow | None:
    used = {value for name, value, _ in flow.match if name == "in_port"}
    used |= {a[1] for a in flow.actions if a[0] == "output" and a[1] < PORT_MAX}
    if not used <= ports.keys():
        return None
    what = tuple(
        (name, ports[value] if name == "in_port" else value, mask)
        for name, value, mask in flow.match
    )
    actions = tuple(
        output(ports[a[1]]) if a[0] == "output" and a[1] < PORT_MAX else a for a in flow.actions
    )
    return replace(flow, match=what, actions=actions)
