"""The order of a migration, proven: at every moment every packet gets where it belongs.

A migration is a list of effects.  While one of them gives several switches a new placement, any of
them may have it already and any other not yet; between two effects, and in the middle of the VM's
move, nothing is agreed upon.  `moments` goes through all of these states, and in each of them every
kind of packet is sent through the whole network (`whole_network.py`) from everyone to everyone.

What must hold, at each moment:

- what machines send one another through the routers arrives, once, with its TTL decremented once
  by each router, and nowhere else;
- what is meant for a router's VM reaches it, once, where it is, or is held for it, once;
- a multicast or an ARP request reaches every other member of its link: machines once, VMs at least
  once, and once where the hosts agree on where the VM is;
- what a VM sends does the same, wherever it runs;
- nothing goes round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations, permutations
from random import Random
from typing import Any, assert_never

import pytest

from tests import built_packets as built
from tests.whole_network import EndMachine, FrameJourney, PlannedNetwork, WholeNetwork, load
from xenflow.model.network import Interface, Router
from xenflow.model.placement import Mode, at_home
from xenflow.openflow import packet as pk
from xenflow.plan import effects as fx
from xenflow.plan import migration as mig
from xenflow.plan.migration import Order

MAX_SUBSETS = 32
"""As many mixtures of old and new placements are tried for one change of many switches..."""
FEW_SUBSETS = 5
"""...or as few, where a change is the beginning of many ways on."""
TTL = 64
HELLO = 0xE0000005
HELLO_MAC = 0x01005E000005
ECHO = pk.icmp(8, 0, 1, b"echo")
UDP_PAYLOAD = b"a datagram"


# --------------------------------------------------------------------------------------------
# The moments of a migration


def moments(
    start: WholeNetwork, router: str, effects: Iterable[fx.Effect], subsets: int = MAX_SUBSETS
) -> Iterator[tuple[str, WholeNetwork]]:
    """Every state the network can be in while effects are carried out for a router, with a name
    for it.  The last one is when all is done."""
    now = start.copy()
    yield "before", now
    for number, effect in enumerate(effects, 1):
        name = f"{number} {effect}"
        for label, then in _during(now, router, effect, subsets):
            yield f"{name}: {label}", then
        now = after(now, router, effect)
        yield f"{name}: done", now


def _during(
    now: WholeNetwork, router: str, effect: fx.Effect, subsets: int
) -> Iterator[tuple[str, WholeNetwork]]:
    if isinstance(effect, fx.Apply):
        for some in _subsets(effect.datapaths, subsets):
            then = now.copy()
            then.place(effect.placement, *some)
            yield f"only {', '.join(some)}", then
    elif isinstance(effect, fx.MoveVM):
        yield "suspended, its interfaces still there", moved(now, router, effect.source, runs=False)
        yield "suspended, its interfaces nowhere", moved(now, router, None, runs=False)


def after(now: WholeNetwork, router: str, effect: fx.Effect) -> WholeNetwork:
    """The network when an effect has been carried out."""
    then = now.copy()
    match effect:
        case fx.Apply(datapaths, placement):
            then.place(placement, *datapaths)
        case fx.MoveVM(_, destination):
            return moved(now, router, destination, runs=False)
        case fx.Unpause(host):
            return moved(now, router, host, runs=True)
        case fx.AwaitReady(host):
            then.known[router].add(host)
        case fx.Mirror() | fx.Unmirror() | fx.CopyFlows():
            pass  # what a host knows counts from AwaitReady on
        case fx.EndMove():
            pass  # the VM has been put back before an undo begins
        case fx.AwaitVifs() | fx.Release() | fx.Drain():
            pass  # a wait, or packets that were held
        case _:
            assert_never(effect)
    return then


def moved(now: WholeNetwork, router: str, host: str | None, *, runs: bool) -> WholeNetwork:
    """The network with a router's VM elsewhere."""
    then = now.copy()
    then.vifs[router] = host
    (then.running.add if runs else then.running.discard)(router)
    return then


def _subsets(names: tuple[str, ...], limit: int) -> Iterator[tuple[str, ...]]:
    """Some, but not all and not none; by chance where there are too many."""
    every = [some for n in range(1, len(names)) for some in combinations(names, n)]
    yield from Random(1).sample(every, min(len(every), limit))


# --------------------------------------------------------------------------------------------
# What must hold


_PASSED: set[Any] = set()


class Checks:
    """Everything that is asked of the network at one moment."""

    def __init__(self, now: WholeNetwork, label: str) -> None:
        self.now = now
        self.plan = now.plan
        self.network = now.network
        self.label = label

    def all(self) -> None:
        """All of it, unless a network in this very state has been asked before."""
        key = type(self).__name__, self.network.name, self.now.key
        if key in _PASSED:
            return
        self.machines_reach_machines()
        self.machines_reach_routers()
        self.everyone_hears_multicast()
        self.routers_reach_neighbours()
        _PASSED.add(key)

    def fail(self, what: str, journey: FrameJourney) -> None:
        pytest.fail(f"{self.label}: {what}: {journey}", pytrace=False)

    # --- through the routers ------------------------------------------------------------------

    def machines_reach_machines(self) -> None:
        """Data arrives exactly once, routed once by every router between."""
        for one in self.plan.machines.values():
            for other in self.plan.machines.values():
                if one.link == other.link:
                    continue
                for target in (other.stub, int(other.address.ip)):
                    for ttl in (TTL, self.routers_between(one, other) + 1):
                        self.one_datagram(one, other, target, ttl)

    def one_datagram(self, one: EndMachine, other: EndMachine, target: int, ttl: int) -> None:
        journey = self.now.from_machine(one.name, self.datagram(one, target, ttl))
        what = f"{one.name} to {other.name} with TTL {ttl}"
        if journey.looped or journey.ends != [other.name]:
            self.fail(f"{what} must arrive once", journey)
        frame = journey.arrivals[0].frame
        seen = pk.parse(frame)
        if seen.nw_ttl != ttl - self.routers_between(one, other):
            self.fail(f"{what}: TTL {seen.nw_ttl} on arrival", journey)
        if seen.vlan_tci or seen.dl_dst != other.mac or frame[-len(UDP_PAYLOAD) :] != UDP_PAYLOAD:
            self.fail(f"{what}: changed on the way: {frame.hex()}", journey)

    def datagram(self, one: EndMachine, target: int, ttl: int) -> bytes:
        source = int(one.address.ip)
        segment = pk.udp(source, target, 1000, 2000, UDP_PAYLOAD)
        packet = pk.ipv4(source, target, 17, segment, ttl=ttl)
        return pk.ethernet(self.gateway(one), one.mac, pk.ETH_IPV4, packet)

    def gateway(self, one: EndMachine) -> int:
        """The MAC of the first router on a machine's link."""
        return self.network.members(one.link)[0][1].mac

    def routers_between(self, one: EndMachine, other: EndMachine) -> int:
        """How many routers are on the way."""
        reached, hops = {one.link}, 0
        while other.link not in reached:
            hops += 1
            routers = self.network.routers.values()
            links_of = [{i.link for i in router.interfaces} for router in routers]
            reached = reached.union(*(links for links in links_of if links & reached))
        return hops

    # --- to the routers -----------------------------------------------------------------------

    def machines_reach_routers(self) -> None:
        """What the VM itself must see gets to it, or is held for it, once."""
        for one in self.plan.machines.values():
            router, interface = self.network.members(one.link)[0]
            addresses = self.plan.addresses[router.name].values()
            for target in (int(a.ip) for a in addresses):
                packet = pk.ipv4(int(one.address.ip), target, 1, ECHO, ttl=TTL)
                self.one_for_the_vm(one, router, packet, interface.mac, "an echo request")
            expiring = pk.ipv4(int(one.address.ip), 0x0A020001, 17, b"x" * 8, ttl=1)
            self.one_for_the_vm(one, router, expiring, interface.mac, "what expires")

    def one_for_the_vm(
        self, one: EndMachine, router: Router, packet: bytes, mac: int, what: str
    ) -> None:
        frame = pk.ethernet(mac, one.mac, pk.ETH_IPV4, packet)
        journey = self.now.from_machine(one.name, frame)
        got = [end for end in journey.ends if end in (f"vm:{router.name}", f"held:{router.name}")]
        if journey.looped or len(journey.ends) != 1 or len(got) != 1:
            self.fail(f"{what} from {one.name} must reach {router.name} once", journey)
        if journey.arrivals[0].frame != frame:
            self.fail(f"{what} from {one.name} must reach {router.name} unchanged", journey)

    # --- to all -------------------------------------------------------------------------------

    def everyone_hears_multicast(self) -> None:
        """From machines, and from the VMs that run."""
        for one in self.plan.machines.values():
            for frame in self.multicasts(int(one.address.ip), one.mac, one.link):
                self.heard(one.name, one.link, self.now.from_machine(one.name, frame), frame)
        for router in self.network.routers.values():
            if router.name not in self.now.running:
                continue
            for interface in router.interfaces:
                own = self.plan.addresses[router.name][interface.name]
                for frame in self.multicasts(int(own.ip), interface.mac, interface.link):
                    journey = self.now.from_vm(router.name, interface.name, frame)
                    self.heard(f"vm:{router.name}", interface.link, journey, frame)

    def multicasts(self, address: int, mac: int, link: str) -> Iterator[bytes]:
        hello = pk.ipv4(address, HELLO, pk.OSPF, built.ospf_hello(address, 1), ttl=1)
        yield pk.ethernet(HELLO_MAC, mac, pk.ETH_IPV4, hello)
        for other, _ in self.plan.neighbours(link):
            if other != address:
                request = pk.arp(1, mac, address, 0, other)
                yield pk.ethernet(pk.BROADCAST, mac, pk.ETH_ARP, request)

    def heard(self, sender: str, link: str, journey: FrameJourney, frame: bytes) -> None:
        """Everybody on the link but the sender heard it."""
        if journey.looped:
            self.fail(f"a multicast from {sender} goes round", journey)
        wanted = pk.parse(frame).arp_tpa
        for machine in self.plan.machines.values():
            count = len(journey.copies(machine.name))
            answers = sum(pk.parse(f).arp_op == 2 for f in journey.copies(machine.name))
            if machine.name == sender and count != answers:
                self.fail(f"{sender} hears itself", journey)
            if machine.name != sender and count != (machine.link == link):
                self.fail(f"{machine.name} hears {sender} {count} times", journey)
        for router in self.network.routers.values():
            if f"vm:{router.name}" == sender:
                continue
            interface = router.on(link)
            vm, held = journey.copies(f"vm:{router.name}"), journey.copies(f"held:{router.name}")
            count = len(vm) + len(held)
            if interface is None:
                if count:
                    self.fail(f"{router.name} is not on {link}", journey)
                continue
            address = int(self.plan.addresses[router.name][interface.name].ip)
            answers = sum(pk.parse(a.frame).arp_op == 2 for a in journey.arrivals)
            if wanted == address and answers:  # answered in its place
                if answers + count > 1 and self.agreed():
                    self.fail(f"{sender}'s question for {router.name} is answered twice", journey)
                continue
            if wanted == address and held and self.could_answer(router, interface):
                self.fail(f"{sender}'s question for {router.name} is held, not answered", journey)
            if count == 0:
                self.fail(f"{router.name} does not hear {sender}", journey)
            if count > 1 and self.agreed():
                self.fail(f"{router.name} hears {sender} {count} times", journey)

    def could_answer(self, router: Router, interface: Interface) -> bool:
        """Whether a host holds packets for a router and knows its addresses."""
        return any(
            site.holds(router, interface)
            and site.forwards(router.name)
            and router.name in site.views
            for site in map(self.now.site, self.network.hosts)
        )

    def agreed(self) -> bool:
        """Whether all hosts know where the VMs are, so that nothing is held for one."""
        return all(
            self.now.placed[host][router].vm == self.now.vifs[router]
            for host in self.network.hosts
            for router in self.network.routers
        )

    # --- from the routers ---------------------------------------------------------------------

    def routers_reach_neighbours(self) -> None:
        """What a VM that runs sends to one neighbour reaches that one."""
        for router in self.network.routers.values():
            if router.name not in self.now.running:
                continue
            for interface in router.interfaces:
                own = self.plan.addresses[router.name][interface.name]
                for address, mac in self.plan.neighbours(interface.link):
                    if mac == interface.mac:
                        continue
                    packet = pk.ipv4(int(own.ip), address, 1, ECHO, ttl=TTL)
                    frame = pk.ethernet(mac, interface.mac, pk.ETH_IPV4, packet)
                    journey = self.now.from_vm(router.name, interface.name, frame)
                    self.reached(router.name, mac, journey, frame)

    def reached(self, sender: str, mac: int, journey: FrameJourney, frame: bytes) -> None:
        owner = next((m.name for m in self.plan.machines.values() if m.mac == mac), "")
        for router in self.network.routers.values():
            if any(i.mac == mac for i in router.interfaces):
                owner = router.name
        ends = [end.split(":")[-1] for end in journey.ends]
        if journey.looped or ends != [owner] or journey.arrivals[0].frame != frame:
            self.fail(f"what {sender} sends to {owner} must arrive once", journey)


class NativeChecks(Checks):
    """What holds while a router is bridged: nothing goes round, nothing arrives twice."""

    def one_datagram(self, one: EndMachine, other: EndMachine, target: int, ttl: int) -> None:
        journey = self.now.from_machine(one.name, self.datagram(one, target, ttl))
        self.not_twice(journey)

    def one_for_the_vm(
        self, one: EndMachine, router: Router, packet: bytes, mac: int, what: str
    ) -> None:
        self.not_twice(
            self.now.from_machine(one.name, pk.ethernet(mac, one.mac, pk.ETH_IPV4, packet))
        )

    def heard(self, sender: str, link: str, journey: FrameJourney, frame: bytes) -> None:
        self.not_twice(journey)

    def reached(self, sender: str, mac: int, journey: FrameJourney, frame: bytes) -> None:
        self.not_twice(journey)

    def not_twice(self, journey: FrameJourney) -> None:
        """No end has more than one copy, and nothing is on its way for ever."""
        if journey.looped or len(set(journey.ends)) < len(journey.ends):
            self.fail("nothing may arrive twice", journey)


# --------------------------------------------------------------------------------------------
# The proof


NETWORKS: dict[str, PlannedNetwork] = {name: load(name) for name in ("paper", "path")}
ROUTERS = [(name, router) for name in NETWORKS for router in NETWORKS[name].network.routers]
MOVES = [
    pytest.param(name, router, one, other, marks=[pytest.mark.slow] if router == "vr2" else [])
    for name, router in ROUTERS
    for one, other in permutations(NETWORKS[name].network.hosts, 2)
]
"""Every move of every router in both networks."""
each_move = pytest.mark.parametrize(("name", "router", "source", "to"), MOVES)
each_order = pytest.mark.parametrize("order", [Order.OVERLAPPED, Order.REPORT])


def at(name: str, router: str, host: str) -> WholeNetwork:
    """A network at rest, with one of its routers on a host."""
    now = WholeNetwork(NETWORKS[name])
    now.place(at_home(router, host), *now.network.datapaths)
    now.vifs[router] = host
    now.known[router] = {host}
    return now


def effects_of(
    now: WholeNetwork, router: str, to: str, order: Order, prompt: int | None = None
) -> list[fx.Effect]:
    """What moves a router from where it is; where a switch is late, of the prompt effects only the
    first `prompt`."""
    start = now.placed[to][router]
    every = [e for stage in mig.stages(now.network, start, to, order) for e in stage.effects]
    if prompt is None:
        return [e for e in every if pace(e) is not fx.Pace.LATE]
    left_out = [e for e in every if pace(e) is fx.Pace.PROMPT][prompt:]
    return [e for e in every if not any(e is left for left in left_out)]


def pace(effect: fx.Effect) -> fx.Pace:
    return getattr(effect, "pace", fx.Pace.USUAL)


@pytest.mark.parametrize(("name", "router"), ROUTERS)
def test_at_rest(name: str, router: str) -> None:
    for host in NETWORKS[name].network.hosts:
        Checks(at(name, router, host), f"{name}, {router} on {host}").all()


@each_order
@each_move
def test_nothing_is_lost_at_any_moment(
    name: str, router: str, source: str, to: str, order: Order
) -> None:
    start = at(name, router, source)
    for label, now in moments(start, router, effects_of(start, router, to, order)):
        Checks(now, label).all()


@each_order
@each_move
def test_nothing_is_lost_where_the_vm_waits_for_no_switch(
    name: str, router: str, source: str, to: str, order: Order
) -> None:
    """From any of the prompt effects on a switch may be late."""
    start = at(name, router, source)
    every = effects_of(start, router, to, order)
    *_, (_, end) = moments(start, router, every)
    for prompt in range(sum(pace(e) is fx.Pace.PROMPT for e in every)):
        for label, now in moments(start, router, effects_of(start, router, to, order, prompt)):
            Checks(now, f"{prompt} done in time: {label}").all()
        assert now.key == end.key


@each_order
@each_move
def test_only_prompt_effects_are_waited_for_while_the_vm_is_suspended(
    name: str, router: str, source: str, to: str, order: Order
) -> None:
    now = at(name, router, source)
    made = mig.stages(now.network, now.placed[to][router], to, order)
    effects = [effect for stage in made for effect in stage.effects]
    begin = next(n for n, e in enumerate(effects) if isinstance(e, fx.MoveVM))
    end = next(n for n, e in enumerate(effects) if isinstance(e, fx.Unpause))
    vifs, *within = effects[begin + 1 : end]
    after_it = effects[end + 1 :]
    assert isinstance(vifs, fx.AwaitVifs), "without them nothing could be said by the VM"
    assert within and {pace(e) for e in within} == {fx.Pace.PROMPT}
    again = [replace(e, pace=fx.Pace.LATE) for e in within if isinstance(e, fx.Apply | fx.Release)]
    assert after_it[: len(again)] == again, "what was left out is done first"


@each_order
@each_move
def test_nothing_is_lost_while_all_is_put_back(
    name: str, router: str, source: str, to: str, order: Order
) -> None:
    start = at(name, router, source)
    effects = effects_of(start, router, to, order)
    commit = next(n for n, e in enumerate(effects) if isinstance(e, fx.Unpause))
    now = start
    for number in range(commit):
        now = after(now, router, effects[number])
        back = moved(now, router, source, runs=True)
        undo = mig.undo_of(effects[: number + 1], start.placed[to][router])
        for label, then in moments(back, router, undo):
            Checks(then, f"undoing after {effects[number]}: {label}").all()
        for name_, placements in then.placed.items():
            same = placements[router] == start.placed[name_][router]
            assert same, (name_, effects[number])


@pytest.mark.parametrize("prompt", [None, 0])
@each_order
@each_move
def test_recovery_loses_nothing_either(
    name: str, router: str, source: str, to: str, order: Order, prompt: int | None
) -> None:
    """From wherever a migration was left, switches follow the VM."""
    start = at(name, router, source)
    effects = effects_of(start, router, to, order, prompt)
    left, newest = start, start.placed[to][router]
    for effect in effects:
        left = after(left, router, effect)
        if isinstance(effect, fx.Apply):
            newest = effect.placement
        here = to if router in left.running and left.vifs[router] == to else source
        found = moved(left, router, here, runs=True)
        found.known[router].add(here)
        hosts = {h for placements in left.placed.values() for h in placements[router].hosts}
        if len({placements[router] for placements in left.placed.values()}) > 1:
            newest = replace(newest, reaches=tuple(sorted(hosts)))
        others = [h for h in newest.hosts if h != here]
        given = {name: placements[router] for name, placements in left.placed.items()}
        stages = mig.recovery_stages(left.network, newest, here, others, given=given)
        recovery = [e for stage in stages for e in stage.effects]
        for label, then in moments(found, router, recovery, FEW_SUBSETS):
            Checks(then, f"recovering after {effect}: {label}").all()
        told = mig.concerned(then.network, then.network.routers[router], (*hosts, here), {})
        assert {then.placed[name][router] for name in told} == {at_home(router, here)}


@each_move
def test_native_mode_never_multiplies_a_frame(name: str, router: str, source: str, to: str) -> None:
    """It may lose what is sent meanwhile; at rest, bridged, everything arrives again."""
    start = at(name, router, source)
    effects = effects_of(start, router, to, Order.NATIVE)
    for label, now in moments(start, router, effects):
        NativeChecks(now, label).all()
    for host in (source, to):
        at_rest = moved(start, router, host, runs=True)
        at_rest.place(replace(at_home(router, host), mode=Mode.NATIVE), *at_rest.network.datapaths)
        Checks(at_rest, f"native on {host}").all()


@each_move
def test_what_was_held_follows_the_vm(name: str, router: str, source: str, to: str) -> None:
    """A held frame, sent into the detour, reaches the VM, also before the source knows."""
    now = at(name, router, source)
    released = 0
    for effect in effects_of(now, router, to, Order.OVERLAPPED):
        if isinstance(effect, fx.Release):
            for interface in now.network.routers[router].interfaces:
                released += 1
                for target in (interface.mac, HELLO_MAC):
                    journey = now.release(router, interface.name, effect.host, effect.to, target)
                    assert journey.ends == [f"vm:{router}"], f"{effect}: {journey}"
        now = after(now, router, effect)
    assert released
