"""One table's decision about a packet, in words.

Asked by `trace` for each step of `simulate`.  The words follow from the flow's actions, which are
what happens; its match says why, where that is not plain from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xenflow.model.network import DatapathKind, Network
from xenflow.model.values import mac_text
from xenflow.openflow import flow as fl
from xenflow.openflow.flow import Flow
from xenflow.routes.family import prefix_text
from xenflow.tables import cookies, layout
from xenflow.tables.families import DESTINATIONS, SOURCES
from xenflow.tables.simulate import Lookup


@dataclass(frozen=True, slots=True)
class Names:
    """What numbers mean on one switch.  `slow`: why a router's VM forwards for it, by its name."""

    network: Network
    datapath: str
    ports: Mapping[int, str]
    slow: Mapping[str, str]

    def link(self, number: int | None) -> str:
        """A virtual link's name by its id."""
        return self.network.link_names.get(number or 0, f"with id {number}")

    def router(self, number: int | None) -> str:
        """A router's name by its id."""
        return self.network.router_names.get(number or 0, f"with id {number}")

    def port(self, number: int) -> str:
        """A port's name by its number."""
        if number == fl.IN_PORT:
            return "the port it came from"
        return self.ports.get(number, str(number))


def explain(step: Lookup, names: Names) -> str:
    """What the flow that a packet met does with it, and why."""
    flow = step.flow
    if flow is None:
        return "no flow matches: dropped"
    if names.network.datapaths[names.datapath].kind is DatapathKind.PLAIN:
        return _ingress(flow, names)
    return _TABLES.get(step.table, _plainly)(flow, names)


def does(step: Lookup, names: Names) -> str:
    """What becomes of a frame by the step's flow alone, whatever it was for."""
    flow = step.flow
    if flow is None or not flow.actions:
        return "dropped"
    if fl.normal() in flow.actions:
        return "left to the switch's own bridge"
    return fl.actions_text(flow.actions)


def _loads(flow: Flow, name: str) -> int | None:
    return next((a[4] for a in flow.actions if a[0] == "load" and a[1] == name), None)


def _matches(flow: Flow, name: str) -> int | None:
    return next((value for field, value, _ in flow.match if field == name), None)


def _leads(flow: Flow, table: int) -> bool:
    return fl.resubmit(table) in flow.actions


def _sent(flow: Flow, names: Names) -> str:
    ports = [names.port(a[1]) for a in flow.actions if a[0] == "output"]
    return ", ".join(ports)


def _plainly(flow: Flow, names: Names) -> str:
    if ports := _sent(flow, names):
        return f"out by {ports}"
    return "goes on" if flow.actions else "dropped"


def _ingress(flow: Flow, names: Names) -> str:
    link = _loads(flow, layout.Reg.LINK_IN)
    kind, number = cookies.owner_of(flow.cookie)
    its = f"link {names.link(number)}" if kind == cookies.LINK else "its virtual link"
    nothing = "it belongs to no virtual link that comes in by this port"
    if fl.normal() in flow.actions:
        if flow.match:
            return f"{its} is bridged, as a router on it is in native mode"
        return f"{nothing}: left to the switch's own bridge"
    if not flow.actions:
        if not flow.match:
            return f"{nothing}: dropped"
        if _matches(flow, "dl_dst") is not None:
            return f"{its} leads to that address by no other port: dropped"
        return "a frame that is not to come in here: dropped"
    if _loads(flow, layout.Reg.DETOURED):
        router = names.router(_loads(flow, layout.Reg.ROUTER))
        return f"by a detour from another of {router}'s hosts, on link {names.link(link)}"
    if _leads(flow, layout.LINKS):
        copied = any(a[0] == "controller" for a in flow.actions)
        return f"from a VM, on link {names.link(link)}" + (
            "; the controller gets a copy" if copied else ""
        )
    if link is not None:
        guarded = _matches(flow, "nw_ttl") is not None
        return f"it comes in on link {names.link(link)}" + (
            ", and its TTL runs out" if guarded else ""
        )
    router_id = cookies.router_of(flow.cookie)
    of = f" to router {names.router(router_id)}" if router_id else ""
    if any(a[0] == "controller" for a in flow.actions):
        return f"on the way{of}: to the controller"
    return f"switched on {its}{of}: out by {_sent(flow, names)}"


def _answered(flow: Flow) -> str:
    for what, field in (("ARP", "arp_op"), ("a neighbour solicitation", "icmpv6_type")):
        if _loads(flow, field):
            return f"{what} for a router whose VM is suspended or on its way: answered here"
    return ""


def _nd(flow: Flow, names: Names) -> str:
    return "the answer says the MAC address of who sends it"


def _admission(flow: Flow, names: Names) -> str:
    if answered := _answered(flow):
        return answered
    if router := _loads(flow, layout.Reg.ROUTER):
        return f"for router {names.router(router)}, which this switch forwards for"
    if not flow.actions:
        return "for a router, from a side that has no business here: dropped"
    return "in transit: switched on its virtual link, not routed here"


def _classes(flow: Flow, names: Names) -> str:
    router = names.router(_matches(flow, layout.Reg.ROUTER))
    if _leads(flow, layout.ROUTES):
        return "data, to be routed"
    if any(a[0] == "controller" for a in flow.actions):
        return "data: the controller is asked (reactive pipeline)"
    if not flow.actions:
        return "an address that no router may forward from or to: dropped, as the kernel drops it"
    if not flow.match:
        slow = [f"{name}: {why}" for name, why in names.slow.items() if why]
        more = f" (the VM forwards for {'; '.join(slow)})" if slow else ""
        return f"nothing says that the switch may route it: to the VM{more}"
    if _matches(flow, "nw_ttl") is not None:
        return "its TTL runs out: to the VM, which answers"
    if any(_matches(flow, field) is not None for field in SOURCES):
        return "its source is the router's own, or none that a switch may judge: to the VM"
    if any(_matches(flow, field) is not None for field in DESTINATIONS):
        return "for an address of the router's own, multicast, broadcast or link-local: to the VM"
    if _matches(flow, layout.Reg.LINK_IN) is not None:
        return f"by an interface that {router}'s VM has down or does not forward on: to the VM"
    return "only the VM can decide: to the VM"


def _routes(flow: Flow, names: Names) -> str:
    hop = _loads(flow, layout.Reg.NEXT_HOP)
    if hop is None:
        return "no route: to the VM, which answers"
    net = next(filter(None, (_matches(flow, field) for field in DESTINATIONS)), 0)
    prefix = prefix_text(net, flow.priority - layout.Routes.PREFIX)
    return f"the longest prefix is {prefix}: next hop {hop}"


def _next_hop(flow: Flow, names: Names) -> str:
    if not flow.actions:
        return "a blackhole: dropped"
    legs = next((a[2] for a in flow.actions if a[0] == "multipath"), None)
    if legs is not None:
        return f"equal cost: one of {legs} by a hash of the addresses"
    if _leads(flow, layout.SIZES):
        return "measured, as its interface is narrower than others"
    link = _loads(flow, layout.Reg.LINK_OUT)
    if link is not None:
        mac = next((a[1] for a in flow.actions if a[0] == "set_dl_dst"), 0)
        return f"resolved: TTL one less, to {mac_text(mac)} on link {names.link(link)}"
    if _matches(flow, layout.Reg.LARGER) is not None:
        return "too large for the interface: to the VM, which fragments or refuses it"
    return "not resolved, or unreachable: to the VM, which asks for its MAC address, or answers"


def _legs(flow: Flow, names: Names) -> str:
    return f"the hash chose leg {_matches(flow, layout.Reg.LEG)}: next hop {_loads(flow, 'reg0')}"


def _links(flow: Flow, names: Names) -> str:
    link = names.link(_matches(flow, layout.Reg.LINK_OUT))
    if _leads(flow, layout.ADMISSION):
        router = names.router(cookies.router_of(flow.cookie))
        return f"on link {link} to router {router}, which is this switch's own affair"
    if answered := _answered(flow):
        return answered
    ports = _sent(flow, names)
    if not ports and not _leads(flow, layout.VM):
        return f"link {link} leads nowhere from here to that address: dropped"
    vms = " and to the VMs on it" if _leads(flow, layout.VM) else ""
    known = _matches(flow, "dl_dst") is not None and flow.priority != layout.Links.GROUP
    if known:
        return f"on link {link}, out by {ports}"
    return f"flooded on link {link}: {ports or 'no port'}{vms}"


def _vm(flow: Flow, names: Names) -> str:
    router = names.router(_matches(flow, layout.Reg.ROUTER))
    if fl.load("in_port", 0) in flow.actions:
        return f"{router}'s VM is on another host: by a detour, out by {_sent(flow, names)}"
    if ports := _sent(flow, names):
        return f"to {router}'s VM, its vif {ports}"
    if any(a[0] == "controller" for a in flow.actions):
        return f"{router}'s VM takes nothing now: held by the controller"
    if not flow.actions and _matches(flow, layout.Reg.ROUTER) is not None:
        return f"nothing takes it for {router}'s VM here: dropped"
    return _plainly(flow, names)


_TABLES = {
    layout.INGRESS: _ingress,
    layout.ADMISSION: _admission,
    layout.CLASSES: _classes,
    layout.ROUTES: _routes,
    layout.NEXT_HOPS: _next_hop,
    layout.LEGS: _legs,
    layout.SIZES: _next_hop,
    layout.LINKS: _links,
    layout.VM: _vm,
    layout.ND: _nd,
}
