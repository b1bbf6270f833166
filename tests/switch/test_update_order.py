"""The order of an update: after every single message, every packet is decided as before or after.

The real writer (`switch.switch.Switch`) writes into a `WrittenSwitch`, which shows every state in
between.  In each of them packets of every kind are sent through the tables.  What was deliverable
before an update, and is after it, must be deliverable at every moment; where a router's next hops
stay as they are, it must even be decided exactly as before or exactly as after.

Left to the VM counts as delivered, unless the VM's kernel would drop it: it knows already what the
switch is being told.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.plan.test_migration_order import MOVES, after, at, effects_of
from tests.switch_tables import SwitchTables
from tests.whole_network import WholeNetwork, load
from tests.written_switch import Switch, WrittenSwitch, bound
from xenflow.model.network import Link, Network, Router
from xenflow.model.placement import Placement
from xenflow.openflow import packet as pk
from xenflow.openflow.flow import prefix_mask
from xenflow.plan import effects as fx
from xenflow.plan.migration import Order
from xenflow.routes import messages as m
from xenflow.routes.messages import NextHopType, Op, Section, SectionKind
from xenflow.routes.router_state import RouterState
from xenflow.switch.channel import IN_FLIGHT_BYTES
from xenflow.tables import simulate
from xenflow.tables.order import plan
from xenflow.tables.pipeline import local_flows
from xenflow.tables.site import RouterView
from xenflow.tables.views import router_view

Outcome = tuple[tuple[int | str, bytes], ...]
"""What a switch sends for one frame: (port, frame), in order."""

many_examples = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@dataclass(slots=True)
class Known:
    """What the Rule Table knows of the routers (`switch.Routers`)."""

    network: Network
    states: dict[str, RouterState]

    def state(self, router: str) -> RouterState | None:
        """As the Rule Table answers it."""
        return self.states.get(router)

    def view(self, router: str) -> RouterView | None:
        """As the Rule Table answers it."""
        state = self.states.get(router)
        return router_view(self.network.routers[router], state) if state else None

    def read_anew(self, switch: Switch) -> None:
        pass

    def must_wait(self, holds_flows: bool) -> bool:
        return False

    def caught_up(self, switch: Switch) -> None:
        """Nothing is held here."""


class Host:
    """One host's switch with its writer, and the frames that are sent through it."""

    def __init__(
        self,
        network: Network,
        datapath: str,
        ports: dict[str, int],
        placements: dict[str, Placement],
        states: dict[str, RouterState],
        frames: list[Frame],
    ) -> None:
        self.known = Known(network, states)
        self.frames = frames
        self.written = WrittenSwitch()
        here = network.datapaths[datapath]
        clock = self.written.clock
        self.writer = Switch(network, here, self.known, clock, placements, bound(here))
        self.written.attach(self.writer, ports)

    def outcomes(self) -> list[Outcome]:
        """What becomes of each frame now."""
        return _sent(self.written.tables, self.frames)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that arrives at a port."""

    port: int
    data: bytes
    words: str


def _sent(tables: SwitchTables, frames: list[Frame]) -> list[Outcome]:
    return [tuple(simulate.run(tables, frame.data, frame.port).outputs) for frame in frames]


def messages_of(host: Host, change: Any) -> tuple[list[Outcome], list[list[Outcome]]]:
    """What became of every frame before a change, and after each message that it took."""
    before = host.outcomes()
    moments: list[list[Outcome]] = []
    host.written.watch = lambda: moments.append(host.outcomes())
    change()
    host.written.run()
    host.written.watch = lambda: None
    return before, moments


# --------------------------------------------------------------------------------------------
# What a router says changes


PAPER = load("paper")
PREFIXES = [
    (0, 0),
    (0x0A000000, 8),
    (0x0A020000, 16),
    (0x0A020100, 24),
    (0x0A020180, 25),
    (0x0A020181, 32),
    (0xC0A80000, 16),
    (0x0A000200, 24),
    (0x0A000201, 32),
]
DESTINATIONS = [
    0x01010101,
    0x0A090909,
    0x0A020909,
    0x0A020105,
    0x0A020182,
    0x0A020181,
    0xC0A80101,
    0x0A000202,
    0x0A000201,
    0x0A000207,
]
GEN, RECV = 0x020000000102, 0x020000000202
MACS = (0, GEN, RECV, 0x0200000000AA)
HOPS = range(1, 12)
FIRST, SECOND = 2, 3


@st.composite
def states(draw: st.DrawFn) -> RouterState:
    """A router with two interfaces, any next hops and any routes over a few prefixes."""
    ends = [i.mac for i in PAPER.network.routers["vr1"].interfaces]
    flags = st.sampled_from((7, 7, 7, 7, 6, 5, 3))
    sections = [
        Section(
            SectionKind.INTERFACE,
            Op.SET,
            [
                m.VmInterface(FIRST, draw(flags), 1500, ends[0], "eth0"),
                m.VmInterface(
                    SECOND, draw(flags), draw(st.sampled_from((1500, 1280))), ends[1], "eth1"
                ),
            ],
        ),
        Section(
            SectionKind.LOCAL,
            Op.SET,
            [
                m.Local(4, plen, FIRST, net)
                for net, plen in draw(
                    st.sets(
                        st.sampled_from(
                            [(0x0A000101, 32), (0x0A000201, 32), (0x0A020181, 32), (0x0A020100, 24)]
                        )
                    )
                )
            ],
        ),
        Section(
            SectionKind.POLICY,
            Op.SET,
            [
                draw(
                    st.sampled_from(
                        (
                            m.Policy(False, ""),
                            m.Policy(False, ""),
                            m.Policy(False, ""),
                            m.Policy(True, "why"),
                        )
                    )
                )
            ],
        ),
        Section(SectionKind.NEXTHOP, Op.SET, _hops(draw)),
    ]
    legs = draw(st.lists(st.sampled_from((3, 4, 5, 6)), min_size=1, max_size=3))
    sections.append(
        Section(SectionKind.LEG, Op.SET, [m.Leg(9, leg, 1, n) for n, leg in enumerate(legs)])
    )
    stations = [(0x0A000202, RECV), (0x0A000207, 0x0200000000AA)]
    known = [(address, mac) for address, mac in stations if draw(st.booleans())]
    neighbours = [m.Neighbour(SECOND, 4, True, address, mac) for address, mac in known]
    sections.append(Section(SectionKind.NEIGHBOUR, Op.SET, neighbours))
    sections.append(
        Section(
            SectionKind.ROUTE4,
            Op.SET,
            [
                (net, plen, hop)
                for net, plen in PREFIXES
                if (hop := draw(st.sampled_from((0, *HOPS[:10]))))
            ],
        )
    )
    state = RouterState()
    state.apply(sections)
    return state


def _hops(draw: st.DrawFn) -> list[m.NextHop]:
    """Ids mean the same kind of next hop always; what may change is the MAC address."""
    mac = st.sampled_from(MACS)
    gateways = [
        (3, FIRST, 0x0A000102),
        (4, SECOND, 0x0A000202),
        (5, FIRST, 0x0A000103),
        (6, SECOND, 0x0A000203),
    ]
    kinds = NextHopType
    return [
        m.NextHop(1, kinds.CONNECTED, 4, FIRST, 0, 0),
        m.NextHop(2, kinds.CONNECTED, 4, SECOND, 0, 0),
        *(m.NextHop(n, kinds.VIA, 4, out, gateway, draw(mac)) for n, out, gateway in gateways),
        m.NextHop(7, kinds.BLACKHOLE, 4, 0, 0, 0),
        m.NextHop(8, kinds.UNREACHABLE, 4, 0, 0, 0),
        m.NextHop(9, kinds.GROUP, 4, 0, 0, 0),
        m.NextHop(10, kinds.VM, 4, 0, 0, 0),
    ]


def data_frames(router: Router, ports: dict[str, int]) -> list[Frame]:
    """Packets to every destination, small and large, expiring, and from an odd source."""
    found = []
    for interface, port, sender in zip(
        router.interfaces, ("to-gen", "to-recv"), (GEN, RECV), strict=True
    ):
        vlan = PAPER.network.links[interface.link].vlan
        for target in DESTINATIONS:
            kinds = [
                (0x0A00010A, 64, 10),
                (0x0A00010A, 64, 1400),
                (0x0A00010A, 1, 10),
                (0x0A020181, 64, 10),
            ]
            for source, ttl, size in kinds if sender == GEN else kinds[:1]:
                packet = pk.ipv4(source, target, 17, bytes(size), ttl=ttl)
                frame = pk.ethernet(interface.mac, sender, pk.ETH_IPV4, packet)
                words = f"from {source:08x} to {target:08x}, ttl {ttl}, {size} bytes, at {port}"
                found.append(Frame(ports[port], pk.vlan(frame, vlan), words))
    return found


def at_home_in_paper(state: RouterState) -> Host:
    """vr1's host in `paper`, which holds all of a state."""
    net = WholeNetwork(PAPER)
    ports = net.ports("host-a")
    frames = data_frames(PAPER.network.routers["vr1"], ports)
    placements = dict(net.placed["host-a"])
    return Host(PAPER.network, "host-a", ports, placements, {"vr1": state}, frames)


def update(host: Host, new: RouterState) -> Any:
    """The router says that this is its state now; a call that makes the writer hear of it."""
    state = host.known.states["vr1"]

    def change() -> None:
        changes = state.apply(state.sections_to(new))
        host.writer.changed("vr1", changes, True, len(state.routes))

    return change


def busy() -> Iterator[float]:
    """A job before all that is said now."""
    yield 0.5


def said_while_busy(host: Host, news: Sequence[RouterState]) -> Any:
    """The same of one state after another, while the writer has something else to do."""

    def change() -> None:
        host.writer.jobs.submit(busy())
        for new in news:
            update(host, new)()

    return change


one_after_the_other = st.lists(states(), min_size=1, max_size=3)


@many_examples
@given(states(), one_after_the_other)
def test_what_is_deliverable_before_and_after_is_deliverable_all_the_time(
    old: RouterState, news: list[RouterState]
) -> None:
    new = copy.deepcopy(news[-1])
    host = at_home_in_paper(copy.deepcopy(old))
    before, moments = messages_of(host, said_while_busy(host, news))
    result = host.outcomes()
    for number, now in enumerate(moments, 1):
        for frame, was, then, will in zip(host.frames, before, now, result, strict=True):
            if was and will and delivers(old, frame) and delivers(new, frame):
                sent = host.written.messages[-len(moments) :][:number]
                assert then, f"lost: {frame.words}, after {sent}"


def router_with(hops: list[m.NextHop], legs: list[m.Leg], hop: int) -> RouterState:
    """A router with some next hops, all of whose packets go by one of these."""
    state = RouterState()
    cards = PAPER.network.routers["vr1"].interfaces
    interfaces = [m.VmInterface(n, 7, 1500, i.mac, i.name) for n, i in enumerate(cards, FIRST)]
    state.apply(
        [
            Section(SectionKind.INTERFACE, Op.SET, interfaces),
            Section(SectionKind.NEXTHOP, Op.SET, hops),
            Section(SectionKind.LEG, Op.SET, legs),
            Section(SectionKind.ROUTE4, Op.SET, [(0, 0, hop)]),
        ]
    )
    return state


def by(number: int, mac: int = RECV) -> m.NextHop:
    return m.NextHop(number, NextHopType.VIA, 4, SECOND, 0x0A000200 + number, mac)


GROUP = m.NextHop(9, NextHopType.GROUP, 4, 0, 0, 0)
THREE_LEGS = router_with(
    [by(3), by(4), by(6), GROUP], [m.Leg(9, hop, 1, n) for n, hop in enumerate((3, 4, 6))], 9
)
TWO_LEGS = router_with([by(4), by(6), GROUP], [m.Leg(9, 4, 1, 0), m.Leg(9, 6, 1, 1)], 9)


@pytest.mark.parametrize(
    ("old", "news"),
    [
        (THREE_LEGS, [TWO_LEGS, router_with([by(4)], [], 4)]),
        (
            router_with([by(4)], [], 4),
            [router_with([by(4, 0x02AA)], [], 4), router_with([by(6)], [], 6)],
        ),
    ],
    ids=["a group loses a leg, then goes", "a next hop changes, then another takes over"],
)
def test_a_switch_routes_on_while_changes_wait(old: RouterState, news: list[RouterState]) -> None:
    """No packet goes by the VM, which may be suspended: to do away with what still leads packets
    because it is no more in a later change would send them there, or nowhere."""
    host = at_home_in_paper(copy.deepcopy(old))
    before, moments = messages_of(host, said_while_busy(host, news))
    as_before(host, before, moments)


def as_before(host: Host, before: list[Outcome], moments: list[list[Outcome]]) -> None:
    """Every frame leaves by the ports by which it left before, at each moment."""
    assert any(before) and moments
    for number, now in enumerate(moments, 1):
        for frame, was, then in zip(host.frames, before, now, strict=True):
            assert _ports(then) == _ports(was), f"{frame.words}, after message {number}"


def test_a_change_that_waits_for_room_takes_in_the_next_one() -> None:
    host = at_home_in_paper(copy.deepcopy(THREE_LEGS))
    channel = host.writer.channel

    def change() -> None:
        channel.in_flight_bytes += IN_FLIGHT_BYTES
        update(host, TWO_LEGS)()
        update(host, router_with([by(4)], [], 4))()
        channel.in_flight_bytes -= IN_FLIGHT_BYTES
        channel.confirm(lambda _: None)

    before, moments = messages_of(host, change)
    as_before(host, before, moments)


def test_groups_are_not_led_to_legs_that_are_not_there_yet() -> None:
    """A port's carrier is lost while a change waits that gives a group another leg."""
    old, new = copy.deepcopy(TWO_LEGS), copy.deepcopy(THREE_LEGS)
    host = at_home_in_paper(old)
    port = host.writer.ports["to-gen"][0]

    def change() -> None:
        host.writer.jobs.submit(busy())
        host.writer.port_changed("to-gen", port, False, False)
        update(host, new)()

    before, moments = messages_of(host, change)
    as_before(host, before, moments)
    fresh = at_home_in_paper(copy.deepcopy(new))
    fresh.writer.port_changed("to-gen", port, False, False)
    fresh.written.run()
    assert set(host.written.tables) == set(fresh.written.tables)


def test_a_changed_network_takes_no_next_hop_from_under_its_routes() -> None:
    """A change that waits behind it has another next hop in place of all there were."""
    host = at_home_in_paper(copy.deepcopy(THREE_LEGS))

    def change() -> None:
        host.writer.jobs.submit(busy())
        host.writer.jobs.submit_of("vr1", host.writer.writer.remake_hops("vr1"))
        update(host, router_with([by(5)], [], 5))()

    before, moments = messages_of(host, change)
    as_before(host, before, moments)


def delivers(state: RouterState, frame: Frame) -> bool:
    """Whether the router's own kernel would do anything but drop it."""
    packet = pk.parse(frame.data)
    arrival = next(i for i in state.interfaces.values() if i.mac == packet.dl_dst)
    if arrival.flags & 3 != 3:
        return False
    for plen in range(32, -1, -1):
        hop = state.routes.get((packet.nw_dst & prefix_mask(plen)) << 8 | plen)
        if hop is not None:
            return state.nexthops[hop].type is not NextHopType.BLACKHOLE
    return True


@many_examples
@given(states(), one_after_the_other)
def test_routes_alone_change_from_before_to_after_at_once(
    old: RouterState, news: list[RouterState]
) -> None:
    """The same next hops before and after, so each packet has one decision or the other."""
    both = copy.deepcopy(old)
    goals = [
        RouterState.of(
            both.interfaces,
            both.locals,
            both.nexthops,
            both.legs,
            both.neighbours,
            copy.deepcopy(new).routes,
            both.policy,
        )
        for new in news
    ]
    host = at_home_in_paper(copy.deepcopy(old))
    before, moments = messages_of(host, said_while_busy(host, goals))
    _one_or_the_other("routes", host.frames, before, moments)


@many_examples
@given(states(), one_after_the_other)
def test_the_switch_ends_with_what_a_new_one_would_get(
    old: RouterState, news: list[RouterState]
) -> None:
    host = at_home_in_paper(copy.deepcopy(old))
    said_while_busy(host, news)()
    host.written.run()
    fresh = at_home_in_paper(copy.deepcopy(news[-1]))
    assert set(host.written.tables) == set(fresh.written.tables)


# --------------------------------------------------------------------------------------------
# A router comes, goes, or is turned: placements


def every_frame(net: WholeNetwork, datapath: str) -> list[Frame]:
    """Frames of every link at every port of a switch, to everybody on the link, and detours."""
    made = net.plan
    ports = net.ports(datapath)
    found = []
    for link in net.network.links.values():
        macs = [(mac, hex(mac)) for _, mac in made.neighbours(link.name)]
        macs += [(pk.BROADCAST, "all"), (0x01005E000005, "OSPF")]
        for end, port in ports.items():
            for mac, who in macs:
                for vlan in _tags(net, link, datapath, end):
                    packet = pk.ipv4(0x0A000177, 0x0A020001, 17, b"to somewhere")
                    frame = pk.ethernet(mac, _sender(net, end), pk.ETH_IPV4, packet)
                    data = pk.vlan(frame, vlan) if vlan else frame
                    found.append(Frame(port, data, f"{link.name} ({vlan}) to {who} at {end}"))
    return found


def _tags(net: WholeNetwork, link: Link, datapath: str, end: str) -> list[int]:
    if any(c.near(datapath).port == end for c in net.network.cables_of[datapath]):
        return [link.vlan, link.detour_vlan]
    return [0]


def _sender(net: WholeNetwork, end: str) -> int:
    for router in net.network.routers.values():
        for interface in router.interfaces:
            if interface.vif == end:
                return interface.mac
    return 0x02000000AAAA


def host_of(net: WholeNetwork, datapath: str) -> Host:
    """A host of the network, its switch holding what it should."""
    states = {
        name: copy.deepcopy(state)
        for name, state in net.plan.states.items()
        if datapath in net.known[name]
    }
    return Host(
        net.network,
        datapath,
        net.ports(datapath),
        dict(net.placed[datapath]),
        states,
        every_frame(net, datapath),
    )


@pytest.mark.parametrize("order", [Order.OVERLAPPED, Order.REPORT])
@pytest.mark.parametrize(("name", "router", "source", "to"), MOVES)
def test_a_switch_takes_a_placement_from_before_to_after_at_once(
    name: str, router: str, source: str, to: str, order: Order
) -> None:
    """Preparing, turning and cleaning: no frame meets half a change."""
    now = at(name, router, source)
    now.known[router].update((source, to))
    for effect in effects_of(now, router, to, order):
        if isinstance(effect, fx.Apply):
            for datapath in effect.datapaths:
                host = datapath in now.network.hosts
                (_take if host else _take_plain)(now, datapath, effect.placement)
        now = after(now, router, effect)


def _take(now: WholeNetwork, datapath: str, placement: Placement) -> None:
    host = host_of(now, datapath)

    def change() -> None:
        host.writer.placements[placement.router] = placement
        host.writer.placed(placement.router)

    before, moments = messages_of(host, change)
    _one_or_the_other(f"{datapath} for {placement}", host.frames, before, moments)
    target = now.copy()
    target.place(placement, datapath)
    fresh = host_of(target, datapath)
    assert set(host.written.tables) == set(fresh.written.tables)


def _take_plain(now: WholeNetwork, datapath: str, placement: Placement) -> None:
    """The same for a plain switch, whose flows are written in the order of `plan`."""
    frames = every_frame(now, datapath)
    tables = SwitchTables(local_flows(now.site(datapath)).values())
    target = now.copy()
    target.place(placement, datapath)
    wanted = local_flows(target.site(datapath))
    before, moments = _sent(tables, frames), []
    for batch in plan({flow.key: flow for flow in tables}, wanted):
        for add, flow in batch:
            if add:
                tables.add(flow)
            else:
                tables.delete_strict(*flow.key)
            moments.append(_sent(tables, frames))
    _one_or_the_other(f"{datapath} for {placement}", frames, before, moments)
    assert set(tables) == set(wanted.values())


def _one_or_the_other(
    what: str, frames: list[Frame], before: list[Outcome], moments: list[list[Outcome]]
) -> None:
    """Every frame is decided as before or as in the end, at each moment.

    The copy that the controller gets of what a VM gets (`Site.copies`) decides nothing.
    """
    for number, seen in enumerate(moments, 1):
        for frame, was, then, will in zip(frames, before, seen, moments[-1], strict=True):
            assert _decided(then) in (_decided(was), _decided(will)), (
                f"{what}, message {number} of {len(moments)}: {frame.words}: "
                f"{_ports(was)} -> {_ports(then)} -> {_ports(will)}"
            )


def _decided(outcome: Outcome) -> Outcome:
    """What leaves through ports; the controller only where nothing else gets the frame."""
    return tuple(sent for sent in outcome if sent[0] != "controller") or outcome


def _ports(outcome: Outcome) -> list[int | str]:
    return [port for port, _ in outcome]
