"""Which legs of a group are used: those whose interface works, and whose port has carrier."""

from __future__ import annotations

import pytest

from tests.whole_network import load
from tests.written_switch import Switch, bound
from xenflow.model.network import Router
from xenflow.model.placement import at_home
from xenflow.openflow import packet as pk
from xenflow.openflow.flow import Flow
from xenflow.routes import messages as m
from xenflow.routes.messages import NextHopType
from xenflow.routes.router_state import NO_POLICY, RouterState
from xenflow.switch.clock import Clock
from xenflow.tables import simulate
from xenflow.tables.layout import LEGS
from xenflow.tables.next_hops import NextHopView, next_hop_flows
from xenflow.tables.shares import Shares
from xenflow.tables.views import Cards, next_hop_view

UP, RUNNING, FORWARDING = 1, 2, 4
WORKING = UP | RUNNING | FORWARDING
GROUP = m.NextHop(30, NextHopType.GROUP, 4, 0, 0, 0)


def two_ways(router: Router, *, second: int = WORKING, mac: int = 0) -> RouterState:
    """A router with one group of two next hops, over its first two interfaces."""
    first, other = router.interfaces[:2]
    interfaces = {
        1: m.VmInterface(1, WORKING, 1500, first.mac, first.name),
        2: m.VmInterface(2, second, 1500, other.mac, other.name),
    }
    hops = {
        10: m.NextHop(10, NextHopType.VIA, 4, 1, 0x0A000102, 0x02AA),
        20: m.NextHop(20, NextHopType.VIA, 4, 2, 0x0A000202, mac or 0x02BB),
        30: GROUP,
    }
    legs = {30: {0: m.Leg(30, 10, 1, 0), 1: m.Leg(30, 20, 2, 1)}}
    return RouterState.of(interfaces, {}, hops, legs, {}, {0: 30}, NO_POLICY)


def test_legs_by_working_interfaces_only() -> None:
    router = load("paper").network.routers["vr1"]
    assert next_hop_view(router, two_ways(router), GROUP).legs == ((10, 1), (20, 2))
    assert next_hop_view(router, two_ways(router, second=UP), GROUP).legs == ((10, 1),)


def test_where_no_leg_works_all_stay() -> None:
    router = load("paper").network.routers["vr1"]
    state = two_ways(router, second=0)
    down = state.interfaces[1]
    state.interfaces[1] = m.VmInterface(1, 0, 1500, down.mac, down.name)
    assert next_hop_view(router, state, GROUP).legs == ((10, 1), (20, 2))


def test_a_dead_port_takes_its_legs_out_of_every_group() -> None:
    plan = load("paper")
    network = plan.network
    router = network.routers["vr1"]
    link = network.links[router.interfaces[1].link]
    machine = next(each for each in plan.machines.values() if each.link == link.name)
    state = two_ways(router, mac=machine.mac)

    class Known:
        def state(self, name: str) -> RouterState | None:
            return state if name == "vr1" else None

        def view(self, name: str) -> None:
            return None

        def read_anew(self, switch: Switch) -> None:
            pass

        def must_wait(self, holds_flows: bool) -> bool:
            return False

        def caught_up(self, switch: Switch) -> None:
            raise AssertionError("it was never connected")

    datapath = network.datapaths[router.home]
    homes = {each.name: at_home(each.name, each.home) for each in network.routers.values()}
    switch = Switch(network, datapath, Known(), Clock(lambda *_: None), homes, bound(datapath))
    ports = sorted(
        {
            end.port
            for tree in (link.tree for link in network.links.values())
            for end in tree.spanning({router.home, machine.end.datapath})[router.home]
        }
    )
    switch.ports.are((name, number, True) for number, name in enumerate(ports, 1))
    both, cards = ((10, 1), (20, 2)), Cards(router, state)
    assert switch.wanted.legs_out(state, both, cards) == both
    out = link.tree.toward(router.home, machine.end.datapath).port
    switch.ports[out] = (switch.ports[out][0], False)
    assert switch.wanted.legs_out(state, both, cards) == ((10, 1),)


WEIGHTS = [
    (1,),
    (7,),
    (1, 1),
    (1, 2),
    (1, 63),
    (31, 33),
    (255, 255, 255, 259),
    (256, 255),
    (32769, 32768),
    (65535, 1),
    (65535,) * 256,
    (1,) * 255 + (65535,),
    tuple(range(1, 257)),
    (3000, 2000, 1000),
    (1,) * 256,
]


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda w: f"{len(w)} legs, sum {sum(w)}")
def test_any_weights_are_few_flows_and_every_number_has_one_leg(weights: tuple[int, ...]) -> None:
    """Weights of 32769 and 32768 are valid in Linux from 6.12 on."""
    legs = tuple((100 + n, weight) for n, weight in enumerate(weights))
    shares = Shares.of(legs)
    owners = [leg for start, size, leg in sorted(shares.blocks) for _ in range(size)]
    assert len(owners) == shares.count
    assert all(start % size == 0 for start, size, _ in shares.blocks)
    assert [shares.leg(n) for n in range(shares.count)] == owners
    for leg, weight in legs:
        exact = weight / sum(weights)
        assert owners.count(leg) >= 1
        # No leg has less than one number, so with many legs the large ones have less.
        assert abs(owners.count(leg) / shares.count - exact) < (len(legs) + 1) / 1024 + 1e-9
    plan = load("paper")
    router = plan.network.routers["vr1"]
    flows = list(next_hop_flows(plan.network, router, NextHopView(30, "group", legs=legs)))
    assert len(flows) <= 1 + 7 * len(weights)
    assert len({flow.key for flow in flows}) == len(flows)


def test_the_weights_in_proportion() -> None:
    owners = Shares.of(((1, 256), (2, 255)))
    assert len(owners.blocks) <= 12
    assert sum(size for _, size, leg in owners.blocks if leg == 1) == 513
    assert len(Shares.of(((1, 32769), (2, 32768))).blocks) <= 12
    assert Shares.of(((1, 65535), (2, 65535))).blocks == ((0, 1, 1), (1, 1, 2))


def test_packets_find_a_leg_by_blocks() -> None:
    """Through the simulated tables: each packet gets one leg's register, in proportion."""
    plan = load("paper")
    router = plan.network.routers["vr1"]
    legs = ((10, 3000), (20, 1001))
    group = list(next_hop_flows(plan.network, router, NextHopView(30, "group", legs=legs)))
    seen = {10: 0, 20: 0}
    (spread,) = (flow for flow in group if flow.table != LEGS)
    for number in range(400):
        chosen = Flow(
            0,
            1,
            (),
            (("load", "reg1", 0, 32, router.id), ("load", "reg0", 0, 32, 30), *spread.actions),
        )
        ends = [Flow(spread.table, 1, (("reg0", leg, None),), (("output", leg),)) for leg in seen]
        tables = simulate.Tables([chosen, *(flow for flow in group if flow is not spread), *ends])
        packet = pk.ipv4(0x0A000001 + number, 0x0A000102, 17, b"to somewhere")
        frame = pk.ethernet(0x020000000001, 0x020000000002, pk.ETH_IPV4, packet)
        ((port, _),) = simulate.run(tables, frame, 1).outputs
        seen[int(port)] += 1
    assert 0.65 < seen[10] / 400 < 0.85
