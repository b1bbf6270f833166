"""A whole network in one process: where does this packet leave?

Every switch holds the flows that `pipeline` plans for it, each by its own placements, so that a
moment in the middle of a migration is just a network whose switches do not agree.  A frame that
leaves a cabled port enters the far end; one that leaves an access port has arrived at a machine.
Routers' VMs are a small kernel of their own: they answer ARP, keep what is meant for them and
forward the rest, as a VM does for packets that the switches leave to it.

Nothing here knows what a migration is; `test_migration_order` does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from tests.obeyed import is_one_table, obeyed
from xenflow.model.network import End, Interface, Network, Pipeline, Router
from xenflow.model.placement import Placement, at_home
from xenflow.model.values import mac_number
from xenflow.openflow import flow as fl
from xenflow.openflow import packet as pk
from xenflow.openflow import wire
from xenflow.openflow.flow import prefix_mask
from xenflow.openflow.nxm import parse_actions
from xenflow.openflow.parse import PacketIn
from xenflow.routes import messages as m
from xenflow.routes.messages import NextHopType, Op, Section, SectionKind
from xenflow.routes.router_state import RouterState
from xenflow.store.filling import listed
from xenflow.store.network_file import load_with_lab
from xenflow.switch.kind import kind_of
from xenflow.tables import cookies, layout, simulate
from xenflow.tables.next_hops import next_hop_flows
from xenflow.tables.pipeline import local_flows
from xenflow.tables.routes import route_flow
from xenflow.tables.sent_up import ForVm, Question
from xenflow.tables.site import Site
from xenflow.tables.views import next_hop_view, router_view

CONF = Path(__file__).resolve().parents[1] / "conf"
MAX_HOPS = 200
"""A frame that is still on its way after so many switches goes round and round."""


# --------------------------------------------------------------------------------------------
# Addresses and routes


@dataclass(frozen=True, slots=True)
class EndMachine:
    """An end machine; `stub` is a host address that only routers lead to."""

    name: str
    end: End
    link: str
    mac: int
    address: IPv4Interface
    stub: int


@dataclass(frozen=True)
class PlannedNetwork:
    """A network with its addresses, and the routes that follow from them."""

    network: Network
    machines: dict[str, EndMachine]
    addresses: dict[str, dict[str, IPv4Interface]]
    states: dict[str, RouterState]
    tables: dict[Any, simulate.Tables] = field(default_factory=dict)
    """What a switch holds, by everything that it depends on."""

    def neighbours(self, link: str) -> Iterator[tuple[int, int]]:
        """(address, MAC) of everybody on a link."""
        for machine in self.machines.values():
            if machine.link == link:
                yield int(machine.address.ip), machine.mac
        for router, interface in self.network.members(link):
            yield int(self.addresses[router.name][interface.name].ip), interface.mac


def load(name: str) -> PlannedNetwork:
    """One of the networks in `conf/`, with the addresses of its lab."""
    network, lab = load_with_lab(CONF / f"{name}.toml")
    return plan(network, lab)


def ipv4_of(said: str | list[str]) -> IPv4Interface:
    """The IPv4 address of what a file says of an interface."""
    return next(IPv4Interface(text) for text in listed(said) if ":" not in text)


def plan(network: Network, lab: Mapping[str, Any]) -> PlannedNetwork:
    """The addresses in a `[lab]` table, and shortest-path routes over them."""
    link_of = {a.end: link.name for link in network.links.values() for a in link.access}
    machines = {}
    for name, what in lab["machines"].items():
        end = End(*what["access"].split(":"))
        machines[name] = EndMachine(
            name,
            end,
            link_of[end],
            mac_number(what["mac"]),
            ipv4_of(what["address"]),
            int(ipv4_of(what["stub"]).ip),
        )
    addresses = {
        router: {i: ipv4_of(said) for i, said in what["addresses"].items()}
        for router, what in lab["routers"].items()
    }
    made = PlannedNetwork(network, machines, addresses, {})
    made.states.update((r.name, _state(made, r)) for r in network.routers.values())
    return made


def _state(made: PlannedNetwork, router: Router) -> RouterState:
    """What the router's routerd would tell."""
    state = RouterState()
    index = {i.name: n for n, i in enumerate(router.interfaces, 2)}
    hop_ids: dict[tuple[int, int], int] = {}
    sections: dict[SectionKind, list[Any]] = {kind: [] for kind in SectionKind}

    def hop(interface: Interface, gateway: int, mac: int) -> int:
        key = index[interface.name], gateway
        if key not in hop_ids:
            hop_ids[key] = len(hop_ids) + 1
            kind = NextHopType.VIA if gateway else NextHopType.CONNECTED
            sections[SectionKind.NEXTHOP].append(
                m.NextHop(hop_ids[key], kind, 4, key[0], gateway, mac)
            )
        return hop_ids[key]

    for interface in router.interfaces:
        here = index[interface.name]
        own = made.addresses[router.name][interface.name]
        net = own.network
        sections[SectionKind.INTERFACE].append(
            m.VmInterface(here, 7, 1500, interface.mac, interface.name)
        )
        for address in (int(own.ip), int(net.broadcast_address)):
            broadcast = address == int(net.broadcast_address)
            sections[SectionKind.LOCAL].append(m.Local(4, 32, here, address, broadcast))
        for address, mac in made.neighbours(interface.link):
            if mac != interface.mac:
                sections[SectionKind.NEIGHBOUR].append(m.Neighbour(here, 4, True, address, mac))
        connected = int(net.network_address), net.prefixlen, hop(interface, 0, 0)
        sections[SectionKind.ROUTE4].append(connected)
    for prefix, plen, interface, gateway, mac in _far(made, router):
        sections[SectionKind.ROUTE4].append((prefix, plen, hop(interface, gateway, mac)))
    order = (
        SectionKind.INTERFACE,
        SectionKind.LOCAL,
        SectionKind.NEXTHOP,
        SectionKind.NEIGHBOUR,
        SectionKind.ROUTE4,
    )
    state.apply(Section(kind, Op.SET, sections[kind]) for kind in order)
    return state


def _far(made: PlannedNetwork, router: Router) -> Iterator[tuple[int, int, Interface, int, int]]:
    """(prefix, length, interface, gateway, its MAC) of what is not connected, breadth first."""
    known = {i.link for i in router.interfaces}
    queue = deque((i.link, i, 0, 0) for i in router.interfaces)
    while queue:
        link, out, gateway, gateway_mac = queue.popleft()
        for machine in made.machines.values():
            if machine.link == link:
                own = int(machine.address.ip), machine.mac
                yield machine.stub, 32, out, *((gateway, gateway_mac) if gateway else own)
        for other, there in made.network.members(link):
            first = (
                (gateway, gateway_mac)
                if gateway
                else (int(made.addresses[other.name][there.name].ip), there.mac)
            )
            for beyond in other.interfaces:
                if other.name != router.name and beyond.link not in known:
                    known.add(beyond.link)
                    net = made.addresses[other.name][beyond.name].network
                    yield int(net.network_address), net.prefixlen, out, *first
                    queue.append((beyond.link, out, *first))


# --------------------------------------------------------------------------------------------
# What becomes of a frame


@dataclass(frozen=True, slots=True)
class Arrival:
    """One copy of a frame at its end: `at` a machine, a router's VM ("vm:vr1"), or in the hands
    of a controller that holds it for one ("held:vr1")."""

    at: str
    frame: bytes


@dataclass(slots=True)
class FrameJourney:
    """Everything that became of a frame."""

    arrivals: list[Arrival] = field(default_factory=list)
    by_kernel: list[str] = field(default_factory=list)
    """The routers whose VM forwarded it, in order."""
    path: list[str] = field(default_factory=list)
    looped: bool = False
    taken_in: set[tuple[str, str]] = field(default_factory=set)
    """(datapath, router) where it was counted as an arrival for that router."""

    @property
    def ends(self) -> list[str]:
        """Where the copies ended, sorted."""
        return sorted(a.at for a in self.arrivals)

    def copies(self, at: str) -> list[bytes]:
        """The copies that ended at one place."""
        return [a.frame for a in self.arrivals if a.at == at]

    def __str__(self) -> str:
        return "; ".join(self.path) + f" => {', '.join(self.ends) or 'lost'}"


class WholeNetwork:
    """All switches of a network, each with its own idea of where the routers are.

    placed    datapath -> router -> placement
    vifs      router -> host where its VM's interfaces are, None while they are nowhere
    running   the routers whose VM runs (it forwards and answers); what reaches one that does not
              run waits for it
    known     router -> the hosts whose controllers know its routes
    """

    def __init__(self, made: PlannedNetwork) -> None:
        self.plan = made
        self.network = made.network
        routers = made.network.routers.values()
        home = {r.name: at_home(r.name, r.home) for r in routers}
        self.placed = {name: dict(home) for name in made.network.datapaths}
        self.vifs: dict[str, str | None] = {r.name: r.home for r in routers}
        self.running = {r.name for r in routers}
        self.known = {r.name: {r.home} for r in routers}
        self._names = {name: self._all_ports(name) for name in made.network.datapaths}

    def copy(self) -> WholeNetwork:
        """The same network; changing the one does not change the other."""
        twin = object.__new__(WholeNetwork)
        twin.plan, twin.network = self.plan, self.network
        twin.placed = {name: dict(placements) for name, placements in self.placed.items()}
        twin.vifs, twin.running = dict(self.vifs), set(self.running)
        twin.known = {name: set(hosts) for name, hosts in self.known.items()}
        twin._names = self._names
        return twin

    @property
    def key(self) -> Any:
        """The same for networks in the same state."""
        placed = tuple((name, tuple(p.values())) for name, p in self.placed.items())
        known = tuple((name, tuple(sorted(hosts))) for name, hosts in self.known.items())
        return placed, tuple(self.vifs.items()), tuple(sorted(self.running)), known

    def place(self, placement: Placement, *datapaths: str) -> None:
        """Some switches are told where a router is (the version is of no account here)."""
        for name in datapaths:
            self.placed[name][placement.router] = replace(placement, version=0)

    # --- switches -----------------------------------------------------------------------------

    def _all_ports(self, datapath: str) -> list[str]:
        network = self.network
        names = [c.near(datapath).port for c in network.cables_of[datapath]]
        for link in network.links.values():
            names += [a.end.port for a in link.access if a.end.datapath == datapath]
        if datapath in network.hosts:
            names += [i.vif for r in network.routers.values() for i in r.interfaces]
        return names

    def ports(self, datapath: str) -> dict[str, int]:
        """The ports a switch has now, by name."""
        away = {
            i.vif
            for router in self.network.routers.values()
            if self.vifs[router.name] != datapath
            for i in router.interfaces
        }
        numbered = enumerate(self._names[datapath], 1)
        return {name: number for number, name in numbered if name not in away}

    def site(self, datapath: str) -> Site:
        """A switch as its planner sees it."""
        states = self.plan.states
        views = {
            router.name: router_view(router, states[router.name])
            for router in self.network.routers.values()
            if datapath in self.known[router.name]
        }
        return Site(
            self.network,
            self.network.datapaths[datapath],
            self.ports(datapath),
            self.placed[datapath],
            views,
        )

    def tables(self, datapath: str) -> simulate.Tables:
        """What a switch holds once everything is written."""
        ports = self.ports(datapath)
        known = tuple(name for name, hosts in self.known.items() if datapath in hosts)
        placed = tuple(self.placed[datapath].values())
        key = datapath, tuple(ports), placed, known
        tables = self.plan.tables
        if key not in tables:
            one_table = is_one_table(self.network.datapaths[datapath])
            flows = [obeyed(flow, one_table) for flow in self._flows(datapath)]
            tables[key] = simulate.Tables(flows)
        return tables[key]

    def _flows(self, datapath: str) -> Iterator[fl.Flow]:
        site = self.site(datapath)
        here = site.datapath
        yield from local_flows(site).values()
        if here.pipeline is Pipeline.REACTIVE:
            return
        for router in self.network.routers.values():
            if site.forwards(router.name) and router.name in site.views:
                yield from router_flows(self.network, router, self.plan.states[router.name])

    # --- frames -------------------------------------------------------------------------------

    def from_machine(self, name: str, frame: bytes) -> FrameJourney:
        """A machine sends a frame."""
        return self._follow(self.plan.machines[name].end, frame)

    def from_vm(self, router: str, interface: str, frame: bytes) -> FrameJourney:
        """A router's VM sends a frame."""
        host = self.vifs[router]
        assert host is not None, f"{router} has no interfaces now"
        found = next(i for i in self.network.routers[router].interfaces if i.name == interface)
        return self._follow(End(host, found.vif), frame)

    def release(self, router: str, interface: str, host: str, to: str, target: int) -> FrameJourney:
        """A frame that host's controller held for a VM is sent across to another host, as
        `vm.packets` does it; it was for MAC address `target`."""
        found = next(i for i in self.network.routers[router].interfaces if i.name == interface)
        link = self.network.links[found.link]
        port = self.site(host).toward(link, to)
        assert port is not None
        onward = (fl.set_dl_dst(found.mac), fl.set_vlan(link.detour_vlan), fl.output(port))
        frame = pk.ethernet(target, 1, pk.ETH_IPV4, pk.ipv4(1, 2, 17, b"held"))
        verdict = simulate.run_actions(self.tables(host), frame, fl.CONTROLLER, onward)
        names = {number: name for name, number in self.ports(host).items()}
        journey = FrameJourney()
        for number, sent in verdict.outputs:
            for end, copy in self._leave(End(host, names[int(number)]), sent, journey):
                self._follow(end, copy, journey)
        return journey

    def _follow(self, end: End, frame: bytes, journey: FrameJourney | None = None) -> FrameJourney:
        journey = journey or FrameJourney()
        queue = deque([(end, frame)])
        while queue:
            end, frame = queue.popleft()
            if len(journey.path) > MAX_HOPS:
                journey.looped = True
                return journey
            queue.extend(self._enter(end, frame, journey))
        return journey

    def _enter(self, end: End, frame: bytes, journey: FrameJourney) -> Iterator[tuple[End, bytes]]:
        """A frame enters a switch; what then enters others."""
        numbers = self.ports(end.datapath)
        names = {number: name for name, number in numbers.items()}
        verdict = simulate.run(self.tables(end.datapath), frame, numbers[end.port])
        assert not verdict.error, f"{end}: {verdict.error}"
        left = []
        routers = self.network.router_names
        for step in verdict.trace:
            counted = cookies.taken_in(step.flow.cookie) if step.flow else 0
            if counted:
                journey.taken_in.add((end.datapath, routers[counted]))
        outputs = deque(verdict.outputs)
        packet_ins = deque(verdict.packet_ins)
        while outputs:
            port, sent = outputs.popleft()
            if port == "controller":
                answer = self._sent_up(end.datapath, packet_ins.popleft(), journey)
                outputs += answer.outputs
                packet_ins += answer.packet_ins
            elif port == "normal":
                for name, copy in self._bridge(end, sent):
                    left.append((End(end.datapath, name), copy))
            elif port in names:
                left.append((End(end.datapath, names[int(port)]), sent))
        journey.path.append(f"{end} -> {', '.join(e.port for e, _ in left) or '-'}")
        for out, sent in left:
            yield from self._leave(out, sent, journey)

    def _leave(self, end: End, frame: bytes, journey: FrameJourney) -> Iterator[tuple[End, bytes]]:
        for cable in self.network.cables_of[end.datapath]:
            if end in (cable.a, cable.b):
                yield cable.far(end.datapath), frame
                return
        assert not pk.parse(frame).vlan_tci, f"{end} gets a tagged frame"
        for machine in self.plan.machines.values():
            if machine.end == end:
                for_it = frame[0] & 1 or frame[:6] == machine.mac.to_bytes(6, "big")
                journey.arrivals += [Arrival(machine.name, frame)] if for_it else []
                return
        for router in self.network.routers.values():
            for interface in router.interfaces:
                if interface.vif == end.port:
                    yield from self._kernel(router, interface, frame, journey)

    def _sent_up(self, datapath: str, packet: PacketIn, journey: FrameJourney) -> simulate.Fate:
        """As the controller does with what a switch sends up; what a VM sends it only hears."""
        kind = kind_of(self.network.datapaths[datapath])
        what = kind.sent_up(self.network, datapath, {}, packet)
        if isinstance(what, Question):
            return self._answered(datapath, what, journey)
        if isinstance(what, ForVm) and not what.copied:
            for router, _ in what.members:
                if self.placed[datapath][router.name].vm == datapath:
                    journey.arrivals.append(Arrival(f"held:{router.name}", what.frame))
        return simulate.Fate()

    def _answered(self, datapath: str, asked: Question, journey: FrameJourney) -> simulate.Fate:
        """What the reactive pipeline's answer makes of a packet; a flow that is made counts."""
        site = self.site(datapath)
        states = {name: self.plan.states[name] for name in site.views if site.forwards(name)}
        answer = kind_of(site.datapath).answers(site, states).answer(asked)
        if answer is None:
            return simulate.Fate()
        messages, _ = wire.split(answer)
        if len(messages) > 1:
            journey.taken_in.add((datapath, asked.router.name))
        out = messages[-1]
        at, length = 16, int.from_bytes(out[14:16], "big")
        came = int.from_bytes(out[12:14], "big")
        actions = parse_actions(out, at, length)
        packet = out[at + length :]
        return simulate.run_actions(self.tables(datapath), packet, came, actions)

    def _bridge(self, end: End, frame: bytes) -> Iterator[tuple[str, bytes]]:
        """NORMAL without anything learned: to every port of the VLAN but its own; an access port
        has its link's, a cable has all (ovs-vswitchd.conf.db(5), VLAN modes)."""
        tags = self._tags(end.datapath)
        here = tags.get(end.port)
        tag = pk.parse(frame).vlan_tci & 0xFFF if here is None else here
        bare = frame[:12] + frame[16:] if pk.parse(frame).vlan_tci else frame
        for name in self.ports(end.datapath):
            if name == end.port or tags.get(name, tag) != tag:
                continue
            yield name, (bare if name in tags or not tag else pk.vlan(bare, tag))

    def _tags(self, datapath: str) -> dict[str, int]:
        tags = {}
        for link in self.network.links.values():
            tags.update((a.end.port, link.vlan) for a in link.access if a.end.datapath == datapath)
            tags.update((i.vif, link.vlan) for _, i in self.network.members(link.name))
        return tags

    # --- a router's VM ------------------------------------------------------------------------

    def _kernel(
        self, router: Router, interface: Interface, frame: bytes, journey: FrameJourney
    ) -> Iterator[tuple[End, bytes]]:
        packet = pk.parse(frame)
        if packet.dl_dst != interface.mac and not frame[0] & 1:
            return
        arrived = Arrival(f"vm:{router.name}", frame)
        own = {int(a.ip): a for a in self.plan.addresses[router.name].values()}
        forwards = (
            packet.dl_type == pk.ETH_IPV4
            and packet.nw_ttl > 1
            and not frame[0] & 1
            and packet.nw_dst not in own
        )
        if router.name not in self.running or not forwards:
            journey.arrivals.append(arrived)
            return
        state = self.plan.states[router.name]
        hop = _lookup(state, packet.nw_dst)
        if hop is None:
            journey.arrivals.append(arrived)
            return
        out = router.interfaces[hop.ifindex - 2]
        mac = hop.mac or dict(self.plan.neighbours(out.link))[packet.nw_dst]
        fields = pk.fields(frame, 0)
        fields.update(nw_ttl=packet.nw_ttl - 1, dl_src=out.mac, dl_dst=mac)
        journey.by_kernel.append(router.name)
        host = self.vifs[router.name]
        assert host is not None
        yield End(host, out.vif), simulate.rewrite(frame, packet, fields)


def router_flows(network: Network, router: Router, state: RouterState) -> Iterator[fl.Flow]:
    """The flows of a router's routes and next hops."""
    for hop in state.nexthops.values():
        yield from next_hop_flows(network, router, next_hop_view(router, state, hop))
    for key, hop_id in state.routes.items():
        net, span = key >> 8, key & 255
        own = cookies.of(layout.ROUTES, router.id, cookies.route_chunk(net))
        yield route_flow(router.id, net, span, hop_id, own)


def _lookup(state: RouterState, address: int) -> m.NextHop | None:
    """Longest-prefix match."""
    for plen in range(32, -1, -1):
        net = address & prefix_mask(plen)
        found = state.routes.get(net << 8 | plen)
        if found is not None:
            return state.nexthops[found]
    return None
