"""A host that a router has left falls quiet, whatever goes on being sent: a move can finish.

Between turning the links and cleaning up, the source still holds everything and only waits until
nothing is counted as arriving for the router there.  So in that state everything that neighbours
can send is sent, for every pair of hosts in the networks of `conf/` and in some made by chance,
whose hosts and end machines lie anywhere, also in the middle of one another's ways.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from random import Random

import pytest

from tests.plan.test_migration_order import ECHO, TTL, Checks, after, effects_of
from tests.whole_network import FrameJourney, PlannedNetwork, WholeNetwork, load, plan
from xenflow.model.network import (
    Access,
    Cable,
    Datapath,
    DatapathKind,
    End,
    Interface,
    Link,
    Network,
    NetworkError,
    Pipeline,
    Router,
)
from xenflow.model.placement import at_home
from xenflow.model.values import mac_text
from xenflow.openflow import packet as pk
from xenflow.plan import effects as fx
from xenflow.plan.laying import lay
from xenflow.plan.migration import Order
from xenflow.routes import messages as m
from xenflow.routes.messages import Op, Section

HOSTS = {
    "proactive": {"pipeline": Pipeline.PROACTIVE},
    "reactive": {"pipeline": Pipeline.REACTIVE},
    "plain": {"pipeline": Pipeline.REACTIVE, "nicira": False},
}


def with_hosts(made: PlannedNetwork, kinds: Sequence[str]) -> PlannedNetwork:
    """The same network; its hosts are of these kinds in turn."""
    datapaths = dict(made.network.datapaths)
    for number, name in enumerate(made.network.hosts):
        kind = HOSTS[kinds[number % len(kinds)]]
        datapaths[name] = replace(datapaths[name], **kind)  # type: ignore[arg-type]
    return replace(made, network=replace(made.network, datapaths=datapaths), tables={})


def by_chance(seed: int, *, more: int = 1, own_trees: bool = False) -> PlannedNetwork:
    """Four hosts and two plain switches cabled as a tree with some cables more; a chain of three
    routers, each with an end machine on a link of its own, anywhere.  Where links have trees of
    their own, each lies on cables chosen by chance."""
    dice = Random(seed)
    names = ["h1", "h2", "h3", "h4", "s1", "s2"]
    dice.shuffle(names)
    datapaths = {
        name: Datapath(
            name,
            DatapathKind.HOST if name[0] == "h" else DatapathKind.PLAIN,
            number,
            "one",
            other="drop",
        )
        for number, name in enumerate(names, 1)
    }
    joined = [(name, dice.choice(names[:n])) for n, name in enumerate(names) if n]
    joined += [tuple(dice.sample(names, 2)) for _ in range(more)]  # type: ignore[misc]
    cables = {
        f"c{n}": Cable(f"c{n}", End(one, f"c{n}"), End(other, f"c{n}"))
        for n, (one, other) in enumerate(joined)
    }
    hosts = [name for name in names if name[0] == "h"]
    links, routers, machines, addresses = {}, {}, {}, {}
    for n in range(1, 4):
        end = End(dice.choice(names), f"m{n}")
        mac = 0x020000000000 + n
        links[f"own{n}"] = Link(f"own{n}", n, 100 + n, 2148 + n, (Access(end, (mac,)),))
        machines[f"m{n}"] = {
            "access": str(end),
            "mac": mac_text(mac),
            "address": f"10.0.{n}.2/24",
            "stub": f"10.{n}.0.1/32",
        }
    for n in (1, 2):
        links[f"between{n}"] = Link(
            f"between{n}", 10 + n, 110 + n, 2158 + n, root=dice.choice(names)
        )
    for n in range(1, 4):
        on = [f"own{n}", *(f"between{k}" for k in (n - 1, n) if k in (1, 2))]
        interfaces = tuple(
            Interface(f"eth{k}", link, 0x020000010000 + 256 * n + k, f"r{n}.{k}")
            for k, link in enumerate(on)
        )
        routers[f"r{n}"] = Router(f"r{n}", n, dice.choice(hosts), f"r{n}.ctl", interfaces)
        nets = {link: f"10.0.{links[link].id}" for link in on}
        addresses[f"r{n}"] = {
            "addresses": {
                f"eth{k}": f"{nets[link]}.{1 if link[0] == 'o' else n + 10}/24"
                for k, link in enumerate(on)
            }
        }
    if own_trees:
        links = {
            name: replace(link, root=dice.choice(names), cables=_a_tree(dice, cables.values()))
            for name, link in links.items()
        }
    title = f"chance {seed}, {more} more{', own trees' if own_trees else ''}"
    network = lay(Network(title, {}, datapaths, cables, links, routers))
    return plan(network, {"machines": machines, "routers": addresses})


def _a_tree(dice: Random, cables: Collection[Cable]) -> tuple[str, ...]:
    """The names of cables that join everything without a ring."""
    joined: dict[str, frozenset[str]] = {}
    chosen = []
    for cable in dice.sample(list(cables), len(cables)):
        one, other = (
            joined.get(end.datapath, frozenset({end.datapath})) for end in (cable.a, cable.b)
        )
        if one != other:
            chosen.append(cable.name)
            joined.update(dict.fromkeys(one | other, one | other))
    return tuple(chosen)


def slow(made: PlannedNetwork, router: str) -> PlannedNetwork:
    """The same network, one of whose routers has all its packets pass through its VM."""
    states = dict(made.states)
    state = states[router].copy()
    state.apply([Section(m.SectionKind.POLICY, Op.SET, [m.Policy(True, "a packet filter")])])
    states[router] = state
    return replace(made, states=states, tables={})


class Sent(Checks):
    """Everything that a router's neighbours can send it, or by way of it."""

    def __init__(self, now: WholeNetwork, label: str, router: Router) -> None:
        super().__init__(now, label)
        self.router = router

    def journeys(self) -> Iterator[tuple[str, FrameJourney]]:
        """All of it: what, and what became of it."""
        for one in self.plan.machines.values():
            for other in self.plan.machines.values():
                if one.link != other.link:
                    frame = self.datagram(one, other.stub, TTL)
                    yield f"{one.name} to {other.name}", self.now.from_machine(one.name, frame)
        for link, interface in ((i.link, i) for i in self.router.interfaces):
            own = int(self.plan.addresses[self.router.name][interface.name].ip)
            for name, address, mac in self.neighbours(link):
                request = pk.arp(1, mac, address, 0, own)
                frames = [
                    pk.ethernet(interface.mac, mac, pk.ETH_ARP, request),
                    pk.ethernet(
                        interface.mac, mac, pk.ETH_IPV4, pk.ipv4(address, own, 1, ECHO, ttl=TTL)
                    ),
                ]
                for machine in self.plan.machines.values():
                    data = pk.ipv4(address, machine.stub, 1, ECHO, ttl=TTL)
                    frames.append(pk.ethernet(interface.mac, mac, pk.ETH_IPV4, data))
                for frame in frames:
                    yield f"{name} by {link}: {frame.hex()}", self.send(name, link, frame)

    def neighbours(self, link: str) -> Iterator[tuple[str, int, int]]:
        """Name, address and MAC of everybody else on a link."""
        for machine in self.plan.machines.values():
            if machine.link == link:
                yield machine.name, int(machine.address.ip), machine.mac
        for other, there in self.network.members(link):
            if other.name != self.router.name:
                yield other.name, int(self.plan.addresses[other.name][there.name].ip), there.mac

    def send(self, name: str, link: str, frame: bytes) -> FrameJourney:
        """A neighbour sends a frame."""
        if name in self.plan.machines:
            return self.now.from_machine(name, frame)
        interface = self.network.routers[name].on(link)
        assert interface is not None
        return self.now.from_vm(name, interface.name, frame)


def drained(made: PlannedNetwork, router: str, source: str, to: str, order: Order) -> int:
    """How many frames were sent while the source waits to be quiet; none is counted there, none
    goes round or is lost.  0 where the network refuses the move."""
    now = WholeNetwork(made)
    now.place(at_home(router, source), *now.network.datapaths)
    now.vifs[router], now.known[router] = source, {source}
    try:
        effects = effects_of(now, router, to, order)
    except NetworkError:
        return 0
    count = 0
    nicira = all(host.nicira for host in made.network.hosts.values())
    for effect in effects:
        if isinstance(effect, fx.Drain):
            label = f"{made.network.name}: {router} from {source} to {to}, {order.value}"
            sent = Sent(now, label, made.network.routers[router])
            for what, journey in sent.journeys():
                count += 1
                if (effect.host, router) in journey.taken_in:
                    sent.fail(f"{what} arrives at {effect.host} still", journey)
                # Two routers behind one plain switch cannot be each other's next hop.
                if journey.looped or (nicira and len(journey.ends) != 1):
                    sent.fail(f"{what} must arrive once", journey)
        now = after(now, router, effect)
    return count


NETWORKS = {
    **{name: load(name) for name in ("paper", "path")},
    **{f"chance-{seed}": by_chance(seed) for seed in range(6)},
}
each_network = pytest.mark.parametrize("name", NETWORKS)
KINDS = {
    "proactive": ("proactive",),
    "reactive": ("reactive",),
    "plain": ("plain",),
    "mixed": ("reactive", "proactive", "plain"),
}


def each_move(made: PlannedNetwork) -> Iterator[tuple[str, str, str]]:
    for router in made.network.routers:
        for source, to in permutations(made.network.hosts, 2):
            yield router, source, to


@pytest.mark.parametrize("kinds", KINDS)
@each_network
def test_the_source_falls_quiet(name: str, kinds: str) -> None:
    made = with_hosts(NETWORKS[name], KINDS[kinds])
    assert sum(drained(made, *move, Order.OVERLAPPED) for move in each_move(made))


@each_network
def test_the_source_falls_quiet_in_the_report_s_order(name: str) -> None:
    made = NETWORKS[name]
    assert sum(drained(made, *move, Order.REPORT) for move in each_move(made))


@each_network
def test_the_source_of_a_router_that_its_vm_forwards_for_falls_quiet(name: str) -> None:
    made = NETWORKS[name]
    for router in made.network.routers:
        through = slow(made, router)
        assert sum(
            drained(through, *move, Order.OVERLAPPED)
            for move in each_move(made)
            if move[0] == router
        )
