"""The network's description as values: what is cabled to what, and which router lives where.

Made by `xenflow.store.network_file` from one commented TOML file, shared by the Rule Table, the
management entity and the lab.  Nothing here changes while the system runs: what does change (where
a router is) is a `Placement`, in `placement.py`.

A *datapath* is a switch: of kind HOST (the Open vSwitch of a Xen Domain 0, which may carry
routers and speaks the Nicira extensions) or PLAIN (any OpenFlow 1.0 switch, which only switches).
A *cable* joins two ports of two datapaths.  A *virtual link* is one broadcast domain of the
virtual network: a VLAN id on the cables of one loop-free tree.  Its members are router interfaces
and *access* ports, where end machines or foreign networks are attached untagged.

Identifiers of routers and links are network-wide, so that a router's routes and next hops become
the same flows on every host.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import cache, cached_property
from hashlib import sha256
from typing import Any

DETOUR_VLAN_OFFSET = 2048
"""A link with VLAN id v (1 to 2047) has v + 2048 for its detour, see `placement.py`."""


class NetworkError(ValueError):
    """The operator's description or request does not fit the network; nothing was changed."""


class DatapathKind(Enum):
    """What a datapath can do."""

    HOST = "host"
    PLAIN = "plain"


class Pipeline(Enum):
    """How a host's switch learns what to do with a router's packets."""

    PROACTIVE = "proactive"
    """Routes become flows before packets come."""
    REACTIVE = "reactive"
    """The first packet of a flow goes to the controller, as in the report."""


@dataclass(frozen=True, slots=True)
class Controller:
    """One `./pox.py xenflow` process: where its switches and the management entity reach it."""

    name: str
    openflow: tuple[str, int]
    manage: str

    @property
    def openflow_text(self) -> str:
        """Where its switches connect, as a file says it: ADDRESS:PORT, [ADDRESS]:PORT of IPv6."""
        address, port = self.openflow
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True, slots=True)
class Datapath:
    """One switch.

    `proof` says how a change is known to be in force after the barrier: "revalidator" (the
    controller runs `ovs-appctl revalidator/wait` on the switch, whose run directory is
    `ovs_rundir`) or "bound" (it waits `proof_bound_s` seconds, measured for that switch).
    `other` is what happens to traffic of no virtual link: "normal" or "drop".
    `maintenance`: no router comes to this host.
    """

    name: str
    kind: DatapathKind
    dpid: int
    controller: str
    pipeline: Pipeline = Pipeline.PROACTIVE
    nicira: bool = True
    hypervisor: str = ""
    proof: str = "bound"
    proof_bound_s: float = 0.5
    ovs_rundir: str = ""
    other: str = "normal"
    maintenance: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """One port of one datapath, by its Open vSwitch interface name."""

    datapath: str
    port: str

    def __str__(self) -> str:
        return f"{self.datapath}:{self.port}"


@dataclass(frozen=True, slots=True)
class Cable:
    """A wire between two datapaths.

    mbps    Mbit/s it carries; 0: not known, and nothing may be promised over it
    cost    of sending over it, for whoever chooses a tree; 0: by its mbps
    mtu     octets of a packet it carries; 0: any
    labels  the VLAN ids that links may have on it, (first, last) each; (): all
    """

    name: str
    a: End
    b: End
    mbps: int = 0
    cost: int = 0
    mtu: int = 0
    labels: tuple[tuple[int, int], ...] = ()

    def far(self, datapath: str) -> End:
        """The end that is not on `datapath`."""
        return self.b if self.a.datapath == datapath else self.a

    def near(self, datapath: str) -> End:
        """The end that is on `datapath`."""
        return self.a if self.a.datapath == datapath else self.b

    def joins_as(self, other: Cable | None) -> bool:
        """Whether a tree over the other lies as over this one, whatever is said of them."""
        return other is not None and (self.name, self.a, self.b) == (other.name, other.a, other.b)


@dataclass(frozen=True)
class Tree:
    """The loop-free tree of cables that a virtual link lies on.  It never depends on where a router
    is, so adding a host to a link and removing one only grows and prunes branches: broadcast can
    never loop, whatever the order in which switches are changed.

    up  each datapath's cable towards the root (None: it is the root)
    """

    up: Mapping[str, Cable | None] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Whether they lie the same, whatever else is said of their cables."""
        if not isinstance(other, Tree):
            return NotImplemented
        if self.up is other.up:
            return True
        return self.up.keys() == other.up.keys() and all(
            cable is there or (cable is not None and cable.joins_as(there))
            for cable, there in zip(self.up.values(), map(other.up.get, self.up), strict=True)
        )

    def __hash__(self) -> int:
        return hash(frozenset(self.up))

    @cached_property
    def _depth(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in self.up:
            way = [name]
            while way[-1] not in found and (cable := self.up[way[-1]]) is not None:
                way.append(cable.far(way[-1]).datapath)
            depth = found.setdefault(way.pop(), 0)
            for here in reversed(way):
                depth += 1
                found[here] = depth
        return found

    @cached_property
    def digest(self) -> str:
        """64 hex digits, the same for trees that lie the same."""
        ways = sorted((name, cable and cable.name) for name, cable in self.up.items())
        return sha256(repr(ways).encode()).hexdigest()

    def reaches(self, datapath: str) -> bool:
        """Whether the tree's cables lead to a datapath at all."""
        return datapath in self.up

    def path(self, start: str, end: str) -> list[str]:
        """The datapaths from `start` to `end`, both included.

        Raises NetworkError where the cables do not join them.
        """
        for name in (start, end):
            if name not in self.up:
                raise NetworkError(f"no cable of the link's tree leads to {name}")
        left, right = [start], [end]
        while left[-1] != right[-1]:
            side = left if self._depth[left[-1]] >= self._depth[right[-1]] else right
            cable = self.up[side[-1]]
            if cable is None:
                raise NetworkError(f"no path from {start} to {end}")
            side.append(cable.far(side[-1]).datapath)
        return left + right[-2::-1]

    def toward(self, start: str, end: str) -> End:
        """The port of `start` that leads to `end` (which must differ)."""
        return self.cable_between(start, self.path(start, end)[1]).near(start)

    def cable_between(self, one: str, other: str) -> Cable:
        """The tree's cable between two datapaths that are neighbours in it."""
        for name, peer in ((one, other), (other, one)):
            cable = self.up[name]
            if cable is not None and cable.far(name).datapath == peer:
                return cable
        raise NetworkError(f"{one} and {other} are not neighbours in the link's tree")

    def spanning(self, terminals: set[str]) -> dict[str, list[End]]:
        """The ports of the smallest subtree that joins the terminals, by datapath."""
        ports: dict[str, list[End]] = {name: [] for name in terminals}
        if not terminals:
            return ports
        hub, *rest = sorted(terminals)
        seen: set[str] = set()
        for name in rest:
            steps = self.path(name, hub)
            for one, other in zip(steps, steps[1:], strict=False):
                cable = self.cable_between(one, other)
                if cable.name in seen:
                    continue
                seen.add(cable.name)
                ports.setdefault(one, []).append(cable.near(one))
                ports.setdefault(other, []).append(cable.near(other))
        return {name: sorted(ends, key=str) for name, ends in ports.items()}


@dataclass(frozen=True, slots=True)
class Access:
    """An untagged port of a virtual link; `macs` are the stations known behind it."""

    end: End
    macs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """A virtual link.

    vlan         the VLAN id that carries it on the cables of its tree
    detour_vlan  the one for what is meant for a VM on its way between two hosts
    root         the datapath that its tree grows from, where the file names one
    cables       the only cables that the tree may use, where the file names them
    tree         where it lies (`plan.laying` has filled it in)
    mbps         Mbit/s promised to it on each of its cables; 0: none
    mtu          octets of a packet that each of its cables shall carry; 0: any
    disjoint_from  links with which it shares no cable
    span         datapaths that its tree leads to beside those of its access ports and its members'
                 homes; None: to all that its cables reach
    """

    name: str
    id: int
    vlan: int
    detour_vlan: int
    access: tuple[Access, ...] = ()
    root: str = ""
    cables: tuple[str, ...] = ()
    tree: Tree = field(default=Tree(), repr=False, hash=False)
    mbps: int = 0
    mtu: int = 0
    disjoint_from: tuple[str, ...] = ()
    span: tuple[str, ...] | None = None

    @property
    def labels(self) -> tuple[int, int]:
        """The VLAN ids that it has on its cables."""
        return self.vlan, self.detour_vlan


@dataclass(frozen=True, slots=True)
class Interface:
    """A router's interface on a virtual link; `vif` is its port's name on the host's switch."""

    name: str
    link: str
    mac: int
    vif: str


VERSION_BITS = 20
"""So many changes of its place a router may go through between two starts."""


@dataclass(frozen=True, slots=True)
class Router:
    """A virtual router.

    control_vif  the host's end of its link to the Rule Table
    image        what its VM starts from; "": what its hypervisor takes for a router
    memory       MiB of its VM; 0: what its hypervisor gives a router
    running      its VM shall run
    started      the number of the store's change by which it was to run; 0: it was there from the
                 beginning.  Nobody writes it into a file.
    """

    name: str
    id: int
    home: str
    control_vif: str
    interfaces: tuple[Interface, ...] = ()
    image: str = ""
    memory: int = 0
    running: bool = True
    started: int = field(default=0, compare=False)

    @property
    def first_version(self) -> int:
        """Of its placements.  Higher than all that anybody may have kept of one that had its name
        and was stopped or destroyed."""
        return self.started << VERSION_BITS

    def on(self, link: str) -> Interface | None:
        """Its interface on a link, if it has one."""
        return next((i for i in self.interfaces if i.link == link), None)


@dataclass(frozen=True)
class Network:
    """The whole description.  Every name in it refers to something that exists
    (`xenflow.store.network_file` has checked that).

    store  the servers of the store that it lives in, where it lives in one
    tls    the folder with the certificates for those, on each machine; empty: none
    """

    name: str
    controllers: dict[str, Controller]
    datapaths: dict[str, Datapath]
    cables: dict[str, Cable]
    links: dict[str, Link]
    routers: dict[str, Router]
    store: tuple[str, ...] = field(default=(), compare=False)
    tls: str = field(default="", compare=False)

    @cached_property
    def digest(self) -> str:
        """16 hex digits, the same for networks that are the same, however files are written.

        Controllers of two releases compare theirs: it follows from values and the names of fields.
        """
        return sha256(json.dumps(self, default=_for_json, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def trees_digest(self) -> str:
        """16 hex digits, the same where the trees of all links lie the same."""
        trees = [(name, link.tree.digest) for name, link in sorted(self.links.items())]
        return sha256(repr(trees).encode()).hexdigest()[:16]

    @cached_property
    def by_dpid(self) -> dict[int, Datapath]:
        """Datapaths by datapath id."""
        return self._indexed("by_dpid")

    @cached_property
    def link_names(self) -> dict[int, str]:
        """The link of each link id."""
        return self._indexed("link_names")

    @cached_property
    def links_by_label(self) -> dict[int, tuple[str, ...]]:
        """The links that have each VLAN id, as either of theirs: several where no switch is on the
        trees of two of them."""
        return by_label(self.links.values())

    @cached_property
    def labels_by_switch(self) -> bool:
        """Whether a VLAN id may be that of several links, of which no two are at one switch.
        Beside a bridge of other people's it may not: what comes with it where its link is not is
        dropped."""
        return all(datapath.other == "drop" for datapath in self.datapaths.values())

    def meet(self, one: Link, other: Link) -> bool:
        """Whether two links may not have the same VLAN id."""
        return not self.labels_by_switch or not one.tree.up.keys().isdisjoint(other.tree.up)

    def labelled(self, label: int, datapath: str) -> Link | None:
        """The link that has a VLAN id at a datapath; None where none has."""
        links = map(self.links.__getitem__, self.links_by_label.get(label, ()))
        return next((link for link in links if link.tree.reaches(datapath)), None)

    @cached_property
    def router_names(self) -> dict[int, str]:
        """The router of each router id."""
        return self._indexed("router_names")

    @cached_property
    def vif_routers(self) -> dict[str, str]:
        """The router of each vif."""
        return self._indexed("vif_routers")

    @cached_property
    def access_links(self) -> dict[End, str]:
        """The link of each access port."""
        return self._indexed("access_links")

    def _indexed(self, index: str) -> dict[Any, Any]:
        part, keys = INDICES[index]
        return {key: what for entry in getattr(self, part).values() for key, what in keys(entry)}

    def vif(self, name: str) -> tuple[Router, Interface] | None:
        """Whose vif that is, and of which interface; None where it is none."""
        router = self.routers.get(self.vif_routers.get(name, ""))
        if router is None:
            return None
        return router, next(i for i in router.interfaces if i.vif == name)

    def member(self, router: int, link: int) -> tuple[Router, Interface, Link] | None:
        """A router's interface on a link, by the ids of both; None where there is none."""
        described = self.routers.get(self.router_names.get(router, ""))
        name = self.link_names.get(link, "")
        interface = described.on(name) if described is not None else None
        if described is None or interface is None:
            return None
        return described, interface, self.links[name]

    @cached_property
    def active(self) -> Network:
        """The same without the routers that are stopped: what switches shall do."""
        running = {name: router for name, router in self.routers.items() if router.running}
        return self if len(running) == len(self.routers) else replace(self, routers=running)

    @cached_property
    def hosts(self) -> dict[str, Datapath]:
        """The datapaths that may carry routers."""
        return {n: d for n, d in self.datapaths.items() if d.kind is DatapathKind.HOST}

    @cached_property
    def cables_of(self) -> dict[str, tuple[Cable, ...]]:
        """Each datapath's cables, in the order of the file."""
        found: dict[str, list[Cable]] = {name: [] for name in self.datapaths}
        for cable in self.cables.values():
            found[cable.a.datapath].append(cable)
            found[cable.b.datapath].append(cable)
        return {name: tuple(cables) for name, cables in found.items()}

    def members(self, link: str) -> tuple[tuple[Router, Interface], ...]:
        """The routers on a link, with their interfaces there."""
        return self.members_of.get(link, ())

    @cached_property
    def members_of(self) -> dict[str, tuple[tuple[Router, Interface], ...]]:
        """The same of each link that has any, in the order of the routers."""
        return by_link(self.routers.values())

    def only(self, controller: str) -> Network:
        """A controller and its datapaths, with nothing that they carry."""
        datapaths = {datapath.name: datapath for datapath in self.datapaths_of(controller)}
        controllers = {controller: self.controllers[controller]}
        return replace(EMPTY, name=self.name, controllers=controllers, datapaths=datapaths)

    def datapaths_of(self, controller: str) -> list[Datapath]:
        """The datapaths a controller looks after."""
        return [d for d in self.datapaths.values() if d.controller == controller]


EMPTY = Network("", {}, {}, {}, {}, {})
"""The network with nothing in it."""


def _for_json(value: Any) -> Any:
    """Of an object the fields that count and are not as by default, so that a field which a release
    adds changes nothing for who does not use it."""
    if isinstance(value, Tree):
        return value.digest
    if isinstance(value, Enum):
        return value.value
    given = ((name, getattr(value, name), default) for name, default in _fields(value.__class__))
    return {name: found for name, found, default in given if found != default}


@cache
def _fields(kind: Any) -> list[tuple[str, Any]]:
    return [(each.name, each.default) for each in fields(kind) if each.compare]


def by_link(routers: Iterable[Router]) -> dict[str, tuple[tuple[Router, Interface], ...]]:
    """Routers and their interfaces by the links that these are on."""
    found: dict[str, list[tuple[Router, Interface]]] = {}
    for router in routers:
        for interface in router.interfaces:
            found.setdefault(interface.link, []).append((router, interface))
    return {link: tuple(members) for link, members in found.items()}


def by_label(links: Iterable[Link]) -> dict[int, tuple[str, ...]]:
    """Names of links, in order, by the VLAN ids that they have."""
    found: dict[int, tuple[str, ...]] = {}
    for link in links:
        for label in link.labels:
            found[label] = (*found.get(label, ()), link.name)
    return found


PARTS = ("controllers", "datapaths", "cables", "links", "routers")
"""What a network has entries of, as the network file names it."""
Keys = Callable[[Any], Iterable[tuple[Any, Any]]]
"""Of an entry: by what it is found, and what is found then."""
INDICES: Mapping[str, tuple[str, Keys]] = {
    "by_dpid": ("datapaths", lambda datapath: [(datapath.dpid, datapath)]),
    "link_names": ("links", lambda link: [(link.id, link.name)]),
    "access_links": ("links", lambda link: [(a.end, link.name) for a in link.access]),
    "router_names": ("routers", lambda router: [(router.id, router.name)]),
    "vif_routers": ("routers", lambda router: [(i.vif, router.name) for i in router.interfaces]),
}
"""`Network`'s attributes that find an entry by something else than its name: of which part.  No two
entries have the same."""
