"""One switch as its flows are made for it: its ports, who is where, what the VMs said."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from xenflow.model.network import Datapath, Interface, Link, Network, Router
from xenflow.model.placement import Mode, Placement
from xenflow.routes.family import V4, Family


@dataclass(frozen=True, slots=True)
class FamilyView:
    """What decides of one family.

    down   interfaces that forward nothing of what arrives (down, no carrier, forwarding off)
    slow   why everything must pass through the VM, or ""
    """

    down: tuple[str, ...] = ()
    slow: str = ""


@dataclass(frozen=True, slots=True)
class RouterView:
    """What the VM's kernel said that decides which packets the switch may route for it.

    locals   (net, span, name) of what the kernel delivers locally; the name is that of the
             interface whose own address it is ("lo" where it is none of the network's), "" of
             broadcast and anycast addresses
    v4, v6   what decides of each family
    off      interfaces that the VM has switched off itself
    """

    locals: tuple[tuple[int, int, str], ...] = ()
    v4: FamilyView = FamilyView()
    v6: FamilyView = FamilyView()
    off: tuple[str, ...] = ()

    def of(self, family: Family) -> FamilyView:
        """What decides of a family."""
        return self.v4 if family is V4 else self.v6

    def through_vm(self, words: str) -> RouterView:
        """The same where everything passes through the VM, for this reason where there was none."""
        v4, v6 = (replace(view, slow=view.slow or words) for view in (self.v4, self.v6))
        return replace(self, v4=v4, v6=v6)


class Spans:
    """On which datapaths links lie, for many switches of one network to be asked about: nearly all
    believe the same of where the routers are, so that it is found once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, frozenset[str]], Collection[str]] = {}

    def of(self, link: Link, terminals: set[str]) -> Collection[str]:
        """The datapaths that a link lies on where it joins these (those besides that its tree does
        not reach: what is made of them is told when it is made)."""
        key = link.name, frozenset(terminals)
        if key not in self._found:
            reached = {name for name in terminals if link.tree.reaches(name)}
            self._found[key] = link.tree.spanning(reached).keys() | terminals
        return self._found[key]


@dataclass(frozen=True, slots=True)
class Site:
    """One switch as the planner sees it: its ports by name, and who is where.

    `suspended` are ports to which nothing is given: those without carrier, and vifs of which the
    hypervisor says that their VM is suspended, or has not connected yet.
    """

    network: Network
    datapath: Datapath
    ports: Mapping[str, int]
    placements: Mapping[str, Placement]
    views: Mapping[str, RouterView]
    suspended: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The datapath's name."""
        return self.datapath.name

    def tree_ports(self, link: Link) -> list[int]:
        """Port numbers of the cables that carry a link here, in the order of their names."""
        ends = link.tree.spanning(self.terminals(link)).get(self.name, [])
        return [self.ports[end.port] for end in ends if end.port in self.ports]

    def terminals(self, link: Link) -> set[str]:
        """The datapaths that a link joins, as far as is known here."""
        terminals = {a.end.datapath for a in link.access}
        for router, _ in self.network.members(link.name):
            placement = self.placements.get(router.name)
            if placement is not None:
                terminals.update(placement.hosts)
        return terminals

    def may_have(self, link: Link, spans: Spans) -> bool:
        """Whether there may be flows of a link here: where it lies on this switch, or a vif of its
        is; where it is bridged; and where what comes with its VLAN ids would else be."""
        if self.datapath.other == "normal" or self.vif_ports(link) or self.native(link):
            return True
        return self.name in spans.of(link, self.terminals(link))

    def access_ports(self, link: Link) -> list[int]:
        """Port numbers of the link's access ports here."""
        return [
            self.ports[a.end.port]
            for a in link.access
            if a.end.datapath == self.name and a.end.port in self.ports
        ]

    def vif_ports(self, link: Link) -> list[int]:
        """Port numbers of the vifs of routers on a link, whether frames are taken there or not."""
        members = self.network.members(link.name)
        return [self.ports[i.vif] for _, i in members if i.vif in self.ports]

    def vif(self, interface: Interface) -> int | None:
        """The port number of a router's interface whose VM takes frames here, else None."""
        return None if interface.vif in self.suspended else self.ports.get(interface.vif)

    def holds(self, router: Router, interface: Interface) -> bool:
        """Whether the VM belongs here but takes nothing from its vif, being suspended: packets
        for it are held.  For an interface that the VM has switched off they are not."""
        placement, view = self.placements.get(router.name), self.views.get(router.name)
        away = placement is not None and placement.vm == self.name and not self.vif(interface)
        return away and not (view is not None and interface.name in view.off)

    def copies(self, router: Router) -> bool:
        """Whether the controller gets a copy of what is for the VM itself here, which is about to
        be suspended: what has just been put into its vif then would be lost."""
        placement = self.placements.get(router.name)
        return (
            placement is not None
            and placement.vm == self.name == placement.leads_to
            and len(placement.forwarders) > 1
        )

    def stands_in(self, router: Router) -> bool:
        """Whether frames for a router come here though its VM is elsewhere: in the middle of a
        move, when it may not have been connected there yet."""
        placement = self.placements.get(router.name)
        return placement is not None and placement.leads_to == self.name != placement.vm

    def toward(self, link: Link, datapath: str) -> int | None:
        """The port number that leads to another datapath along the link's tree."""
        return self.ports.get(link.tree.toward(self.name, datapath).port)

    def forwards(self, router: str) -> bool:
        """Whether this switch forwards for a router."""
        placement = self.placements.get(router)
        return placement is not None and placement.forwards(self.name)

    def takes_in(self, router: str, link: Link) -> bool:
        """Whether frames for a router that begin here, from its neighbours on this host, are its
        own affair.  Once the VM is elsewhere and the link is turned they go there, as from all
        other switches, though this one still forwards what is on its way to it: it would never
        fall quiet.  The host where the VM is takes them in before it is turned: the switches around
        it, which are turned first, would send them back."""
        return self.forwards(router) and self.name in (
            self.placements[router].leads(link.name),
            self.placements[router].vm,
        )

    def inlet(self, router: str, link: Link) -> dict[str, int | tuple[int, int]] | None:
        """By which ports frames for a router that come here on a link are its own affair, as what
        a flow must match besides: {} by all, one `in_port`, None by none.

        Where they are not taken in, the links lead elsewhere: this switch forwards what was sent
        to it before, and that comes from there.  The rest is in transit, from a neighbour beyond
        this switch, or on it: taken in it would never end, and this switch never fall quiet.
        """
        if self.takes_in(router, link):
            return {}
        if not self.forwards(router):
            return None
        port = self.toward(link, self.placements[router].leads(link.name))
        return None if port is None else {"in_port": port}

    def admits(self, router: str, link: Link, port: int) -> bool:
        """Whether what comes by a port for a router is its own affair here."""
        inlet = self.inlet(router, link)
        return inlet is not None and inlet.get("in_port", port) == port

    def native(self, link: Link) -> bool:
        """Whether a link is bridged, as it is when a router on it runs in native mode."""
        return any(
            self.placements[r.name].mode is Mode.NATIVE
            for r, _ in self.network.members(link.name)
            if r.name in self.placements
        )
