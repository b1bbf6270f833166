"""How one lab becomes another: a list of steps, to be read from top to bottom.

Bringing a lab up is the way there from nothing.  While it runs the order is such that what stays is
not touched: what is new is made beside it; then whoever reads the network file learns of it; what
goes is taken away last, when nobody uses it any more.  Pure: `changing.py` carries the steps out,
`xenflow lab reload --dry-run` prints them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from lab.description import Lab, Node, link_local
from lab.routing import Speaker, speakers
from xenflow.model import control_link, difference
from xenflow.model.addresses import Address
from xenflow.model.network import Controller, Datapath, End, Interface, Router

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Member = tuple[str, str, Address]
"""Who is on a link: (node, interface, address)."""


class Do(Enum):
    """What a step does, in words; steps of the same kind in a row are carried out together."""

    NODE = "make node {0}"
    CABLE = "lay cable {0}"
    MACHINE = "cable machine {0} to {1}:{2}"
    WIRE = "wire router {0}: {1}"
    IPV6 = "{0}: {1} speaks IPv6"
    ADDRESS = "{0}: {1} gets address {2}"
    GATEWAY = "{0}: the default route leads by {2}"
    START_ROUTING = "{0}: start the routing daemon"
    RETIRE = "{0}: the routing daemon calls its ways the last to be taken"
    CONFIGURE_ROUTING = "{0}: the routing daemon reads its configuration anew"
    DRAIN = "wait until no way leads by {0}"
    FILE = "replace the network file"
    CONTROLLER = "start controller {0}"
    SWITCH = "start the switch of {0}"
    PORT = "{0}: the switch gets port {1}"
    PLUG = "plug router {0} in: {1}"
    START_HYPERVISOR = "start the emulated hypervisor"
    TELL_HYPERVISOR = "the emulated hypervisor reads the network file anew"
    ROUTERD = "{0}: start routerd"
    FLOWS = "{0}: the switch gets its fixed flows"
    TELL = "controller {0} reads the network file anew"
    IN_SYNC = "wait until every switch holds what it shall"
    LINK = "wait until link {0} passes packets"
    UNPLUG = "unplug router {0}: {1}"
    NO_ADDRESS = "{0}: {1} loses address {2}"
    NO_IPV6 = "{0}: {1} speaks no IPv6 any more"
    NO_PORT = "{0}: the switch loses port {1}"
    NO_MACHINE = "machine {0} is no longer cabled to {1}:{2}"
    NO_CABLE = "take cable {0} away"
    NO_CONTROLLER = "end controller {0}"
    NO_HYPERVISOR = "end the emulated hypervisor"
    NO_NODE = "take node {0} away"


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `what` says of what, as the words of `do` need it."""

    do: Do
    what: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.do.value.format(*self.what)


@dataclass(frozen=True, slots=True)
class _Things:
    """What a lab consists of, by kind: what identifies it -> what it is like.

    machines   access port and MAC address of each
    wires      of (router, interface), the control link among them
    addresses  (node, interface, address)
    ports      the tag of each, and whose interface is there
    gateways   of machines that run no routing daemon, of each family
    links      who is on each, by which addresses
    ipv6       the interfaces, (node, interface), that have a link-local address
    """

    nodes: Mapping[str, Node] = field(default_factory=dict)
    cables: Mapping[str, tuple[End, End]] = field(default_factory=dict)
    machines: Mapping[str, tuple[End, int]] = field(default_factory=dict)
    wires: Mapping[tuple[str, str], Interface] = field(default_factory=dict)
    addresses: Mapping[tuple[str, str, str], None] = field(default_factory=dict)
    ports: Mapping[End, tuple[int, str]] = field(default_factory=dict)
    switches: Mapping[str, Datapath] = field(default_factory=dict)
    controllers: Mapping[str, Controller] = field(default_factory=dict)
    speakers: Mapping[str, Speaker] = field(default_factory=dict)
    gateways: Mapping[tuple[str, str], str] = field(default_factory=dict)
    routers: Mapping[str, Router] = field(default_factory=dict)
    links: Mapping[str, list[Member]] = field(default_factory=dict)
    ipv6: Mapping[tuple[str, str], None] = field(default_factory=dict)


def _things(lab: Lab | None) -> _Things:
    if lab is None:
        return _Things()
    nodes = {node.name: node for node in lab.nodes()}
    cables = lab.network.cables.values()
    owners = {end: f"cables.{cable.name}" for cable in cables for end in (cable.a, cable.b)}
    owners |= {m.access: f"lab.machines.{m.name}" for m in lab.machines.values()}
    return _Things(
        nodes,
        {cable.name: (cable.a, cable.b) for cable in cables},
        {m.name: (m.access, m.mac) for m in lab.machines.values()},
        {(r.name, wire.name): wire for r in lab.routers.values() for wire in _wires(r)},
        dict.fromkeys(lab.assignments),
        {end: (tag, owners.get(end, "")) for end, tag in lab.ports.items()},
        {datapath.name: datapath for datapath in lab.datapaths},
        lab.controllers,
        {s.node: s for s in speakers(lab) if s.node in nodes},
        {
            (m.name, f"IPv{gateway.version}"): str(gateway)
            for m in lab.machines.values()
            for gateway in m.gateways
        },
        lab.routers,
        {link: lab.everybody(link) for link in lab.network.links},
        dict.fromkeys(lab.speaking_ipv6),
    )


def _wires(router: Router) -> list[Interface]:
    return [*router.interfaces, Interface(control_link.INTERFACE, "", 0, router.control_vif)]


def _came(old: Mapping[Key, Value], new: Mapping[Key, Value]) -> list[Key]:
    return [key for key in new if key not in old]


def _changed(old: Mapping[Key, Value], new: Mapping[Key, Value]) -> list[Key]:
    return [key for key in new if key in old and new[key] != old[key]]


# --- the steps -----------------------------------------------------------------------------------


def steps(before: Lab | None, after: Lab, *, controllers: bool) -> list[Step]:
    """How `before` (None: nothing) becomes `after`; `controllers`: whether the lab has them, or
    fixed flows."""
    return list(_steps(before, after, controllers))


def _steps(before: Lab | None, after: Lab, controllers: bool) -> Iterator[Step]:
    old, new = _things(before), _things(after)
    others = before is None or before.network.digest != after.network.digest
    # What is the same by its name alone is taken away, and made anew.
    machines = _changed(old.machines, new.machines)
    wires = _changed(old.wires, new.wires)
    remade = {*wires, *((machine, "eth0") for machine in machines)}
    remade_ports = {things.machines[name][0] for name in machines for things in (old, new)}
    addresses = _came(old.addresses, new.addresses)

    yield from _each(Do.NODE, _came(old.nodes, new.nodes))
    yield from _each(Do.CABLE, _came(old.cables, new.cables))
    yield from _machines(Do.MACHINE, new, _came(old.machines, new.machines))
    yield from _each(Do.WIRE, _came(old.wires, new.wires))
    ipv6 = _came(old.ipv6, new.ipv6)
    yield from _each(Do.IPV6, (place for place in ipv6 if place not in remade))
    yield from _each(Do.ADDRESS, (a for a in addresses if a[:2] not in remade))

    gateways = [*_came(old.gateways, new.gateways), *_changed(old.gateways, new.gateways)]
    yield from _gateways(new, (of for of in gateways if of[0] not in machines))

    # A daemon of OSPF describes its links anew only after 5 s (MinLSInterval): the earlier it has
    # begun, the earlier that time is over.
    yield from _each(Do.START_ROUTING, _came(old.speakers, new.speakers))
    yield from _each(Do.CONFIGURE_ROUTING, _changed(old.speakers, new.speakers))
    going = _came(new.routers, old.routers)
    yield from _each(Do.RETIRE, (name for name in going if name in old.speakers))
    yield from _each(Do.DRAIN, _leaving(before, old, new))

    yield Step(Do.FILE)
    if controllers:
        yield from _each(Do.CONTROLLER, _came(old.controllers, new.controllers))
    yield from _each(Do.SWITCH, _came(old.switches, new.switches))
    ports = [*_came(old.ports, new.ports), *_changed(old.ports, new.ports)]
    running = [end for end in ports if end.datapath in old.switches]
    yield from _ports(Do.PORT, (end for end in running if end not in remade_ports))
    yield from _each(Do.PLUG, _came(old.wires, new.wires))
    if new.routers:
        yield Step(Do.TELL_HYPERVISOR if old.routers else Do.START_HYPERVISOR)
    yield from _each(Do.ROUTERD, _came(old.routers, new.routers))
    if before is not None and controllers and others:
        yield from _each(Do.TELL, (name for name in new.controllers if name in old.controllers))
        yield Step(Do.IN_SYNC)

    yield from _ports(Do.NO_PORT, (old.machines[m][0] for m in machines))
    yield from _machines(Do.NO_MACHINE, old, machines)
    yield from _machines(Do.MACHINE, new, machines)
    yield from _ports(Do.PORT, (new.machines[m][0] for m in machines))
    yield from _each(Do.UNPLUG, wires)
    yield from _each(Do.WIRE, wires)
    yield from _each(Do.IPV6, (place for place in new.ipv6 if place in remade))
    yield from _each(Do.ADDRESS, (a for a in new.addresses if a[:2] in remade))
    yield from _gateways(new, (of for of in new.gateways if of[0] in machines))
    yield from _each(Do.PLUG, wires)
    if not controllers and others:
        yield from _each(Do.FLOWS, new.switches)

    touched = {link for link, who in new.links.items() if old.links.get(link) != who}
    touched |= {link for link, who in new.links.items() if remade & {one[:2] for one in who}}
    if not after.elsewhere:
        yield from _each(Do.LINK, (n for n, w in new.links.items() if n in touched and len(w) > 1))

    gone = _came(new.wires, old.wires)
    yield from _each(Do.UNPLUG, gone)
    yield from _each(
        Do.NO_ADDRESS,
        (
            address
            for address in _came(new.addresses, old.addresses)
            if address[0] in new.nodes and address[:2] not in {*gone, *remade}
        ),
    )
    stay = {place for place in new.wires if place not in remade}
    stay |= {(machine, "eth0") for machine in new.machines if machine not in machines}
    yield from _each(Do.NO_IPV6, (place for place in _came(new.ipv6, old.ipv6) if place in stay))
    ports = [end for end in _came(new.ports, old.ports) if end.datapath in new.switches]
    yield from _ports(Do.NO_PORT, (end for end in ports if end not in remade_ports))
    yield from _machines(Do.NO_MACHINE, old, _came(new.machines, old.machines))
    yield from _each(Do.NO_CABLE, _came(new.cables, old.cables))
    if controllers:
        yield from _each(Do.NO_CONTROLLER, _came(new.controllers, old.controllers))
    if old.routers and not new.routers:
        yield Step(Do.NO_HYPERVISOR)
    yield from _each(Do.NO_NODE, _came(new.nodes, old.nodes))


def _each(do: Do, what: Iterable[str] | Iterable[tuple[str, ...]]) -> Iterator[Step]:
    return (Step(do, (one,) if isinstance(one, str) else one) for one in what)


def _gateways(things: _Things, which: Iterable[tuple[str, str]]) -> Iterator[Step]:
    return (Step(Do.GATEWAY, (*of, things.gateways[of])) for of in which)


def _machines(do: Do, things: _Things, names: Iterable[str]) -> Iterator[Step]:
    for name in names:
        end, _ = things.machines[name]
        yield Step(do, (name, end.datapath, end.port))


def _ports(do: Do, ends: Iterable[End]) -> Iterator[Step]:
    return (Step(do, (end.datapath, end.port)) for end in ends)


def _leaving(before: Lab | None, old: _Things, new: _Things) -> list[str]:
    """The addresses by which routes lead over a wire that goes; OSPFv3's are link-local."""
    if before is None:
        return []
    wires = {key: wire for key, wire in old.wires.items() if key[1] != control_link.INTERFACE}
    found = [(str(before.addresses[key[0]][key[1]].ip), key) for key in wires]
    if before.ipv6:
        found += [(link_local(wire.mac), key) for key, wire in wires.items()]
    stay = {address for address, wire in found if wire in new.wires}
    return [address for address in dict(found) if address not in stay]


# --- what cannot be done -------------------------------------------------------------------------


def refusals(before: Lab, after: Lab, placed: Mapping[str, str]) -> list[str]:
    """What cannot change while the lab is up, one line each, with what to do; [] where all can.

    placed  the host that each router runs on
    """
    old, new = _things(before), _things(after)
    return [
        *difference.refusals(before.network, after.network),
        *_of_lab(before, after),
        *_of_nodes(old, new),
        *_of_management(before, after),
        *_of_cables_and_ports(old, new),
        *_of_wires(old, new),
        *_of_hosts(before, after, placed),
    ]


_STEPS = "remove it in one step and add it in the next"


def _of_lab(before: Lab, after: Lab) -> Iterator[str]:
    for what, value, wanted in (
        ("hypervisor", before.hypervisor, after.hypervisor),
        ("management.subnet", before.subnet, after.subnet),
        ("management.operator", before.operator, after.operator),
    ):
        if value != wanted:
            yield f"lab.{what}: it cannot change: take the lab down, and bring it up anew"
    for name in dict.fromkeys((*before.elsewhere, *after.elsewhere)):
        yield f"datapaths.{name}: it is not the lab's own, and cannot be told: take the lab down"


def _of_nodes(old: _Things, new: _Things) -> Iterator[str]:
    for name in _changed(old.nodes, new.nodes):
        was, shall = old.nodes[name].kind, new.nodes[name].kind
        if was != shall:
            yield f"{name}: a {was} cannot become a {shall}: {_STEPS}"
    silent = [{name for name, _ in things.gateways} for things in (old, new)]
    for name in old.machines.keys() & new.machines.keys():
        if (name in silent[0]) != (name in silent[1]):
            yield (
                f"lab.machines.{name}: gateway: it cannot come or go, and a routing daemon with "
                f"it: {_STEPS}"
            )


def _of_management(before: Lab, after: Lab) -> Iterator[str]:
    owners = {address: name for name, address in before.management.items()}
    for name, address in after.management.items():
        was = before.management.get(name, address)
        if was != address:
            yield (
                f"lab.management.{name}: {was} cannot become {address}: "
                f'say {name} = "{was}" there, or {_STEPS}'
            )
        elif owners.get(address, name) != name:
            yield (
                f"lab.management.{name}: {address} is {owners[address]}'s: take another, or "
                f"remove {owners[address]} in one step and add {name} in the next"
            )


def _of_cables_and_ports(old: _Things, new: _Things) -> Iterator[str]:
    for name in _changed(old.cables, new.cables):
        yield f"cables.{name}: its ends cannot change: {_STEPS}"
    for end in _changed(old.ports, new.ports):
        was, owner = old.ports[end][1], new.ports[end][1]
        if was and owner and was != owner:
            yield (
                f"{owner}: {end} is the port of {was}: take another, or remove {was} in one step "
                f"and add {owner} in the next"
            )


def _of_wires(old: _Things, new: _Things) -> Iterator[str]:
    vifs = {wire.vif: key for key, wire in old.wires.items()}
    links = {(router, wire.link): name for (router, name), wire in old.wires.items()}
    for (router, name), wire in new.wires.items():
        was = old.wires.get((router, name))
        if name == control_link.INTERFACE and was not in (None, wire):
            yield f"routers.{router}: control_vif cannot become {wire.vif}: {_STEPS}"
        elif vifs.get(wire.vif, (router, name)) != (router, name):
            owner = " ".join(vifs[wire.vif])
            yield (
                f"routers.{router}: {name}: vif {wire.vif} is that of {owner}: take another, or "
                f"remove {owner} in one step and add {name} in the next"
            )
        elif links.get((router, wire.link), name) != name:
            other = links[router, wire.link]
            yield (
                f"routers.{router}: {name}: {other} is on link {wire.link} still: remove {other} "
                f"in one step and add {name} in the next"
            )


def _of_hosts(before: Lab, after: Lab, placed: Mapping[str, str]) -> Iterator[str]:
    for router, host in placed.items():
        if router in after.routers and host in before.hosts and host not in after.hosts:
            yield (
                f"datapaths.{host}: {router} runs there: migrate it first "
                f"(`xenflow migrate {router} HOST`)"
            )
