"""The flows of a switch that are its own, all tables of it together.

A packet on a host passes the tables of `layout.TABLES`, which say what each asks; the module of a
table's name makes its flows.  ROUTES to SIZES are the same on every host, because routers, links
and next hops have network-wide ids; only the others, of size O(links), are local.  A switch that
knows OpenFlow 1.0 alone has one table, which does what INGRESS and LINKS do.

Every function in these modules is pure: a `Switch` asks for its flows after each change and writes
the difference; `vm.packets` asks what a frame means that these flows sent up.  docs/pipeline.md
tells the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from xenflow.model.network import Kind
from xenflow.openflow.flow import Flow, Flows
from xenflow.tables.admission import admission_flows
from xenflow.tables.classes import class_flows
from xenflow.tables.ingress import ingress_flows
from xenflow.tables.links import link_flows
from xenflow.tables.plain_host import plain_host_flows
from xenflow.tables.plain_switch import plain_switch_flows
from xenflow.tables.site import Site
from xenflow.tables.vm import vm_flows


def local_flows(site: Site) -> Flows:
    """All flows of a switch that are local to it: every table but ROUTES, NEXT_HOPS, LEGS and
    SIZES, or the one table of a switch that knows OpenFlow 1.0 alone."""
    parts: tuple[Callable[[Site], Iterator[Flow]], ...]
    if site.datapath.kind is Kind.PLAIN:
        parts = (plain_switch_flows,)
    elif not site.datapath.nicira:
        parts = (plain_host_flows,)
    else:
        parts = (ingress_flows, admission_flows, class_flows, link_flows, vm_flows)
    return {flow.key: flow for part in parts for flow in part(site)}
