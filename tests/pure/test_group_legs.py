"""Which legs of a group are used: those whose interface works, and whose port has carrier."""

from __future__ import annotations

from tests.pure.whole_network import load
from tests.pure.written_switch import Switch
from xenflow.pure import messages as m
from xenflow.pure.messages import NextHopType
from xenflow.pure.network import Router
from xenflow.pure.placement import at_home
from xenflow.pure.router_state import NO_POLICY, RouterState
from xenflow.pure.views import next_hop_view

UP, RUNNING, FORWARDING = 1, 2, 4
WORKING = UP | RUNNING | FORWARDING
GROUP = m.NextHop(30, NextHopType.GROUP, 4, 0, 0, 0)


def two_ways(router: Router, *, second: int = WORKING, mac: int = 0) -> RouterState:
    """A router with one group of two next hops, over its first two interfaces."""
    first, other = router.interfaces[:2]
    interfaces = {
        1: m.Interface(1, WORKING, 1500, first.mac, first.name),
        2: m.Interface(2, second, 1500, other.mac, other.name),
    }
    hops = {
        10: m.NextHop(10, NextHopType.VIA, 4, 1, 0x0A000102, 0x02AA),
        20: m.NextHop(20, NextHopType.VIA, 4, 2, 0x0A000202, mac or 0x02BB),
        30: GROUP,
    }
    legs = {30: {0: m.Leg(30, 10, 1, 0), 1: m.Leg(30, 20, 2, 1)}}
    return RouterState.of(interfaces, {}, hops, legs, {}, {0: 30}, {}, NO_POLICY)


def test_legs_by_working_interfaces_only() -> None:
    router = load("paper").network.routers["vr1"]
    assert next_hop_view(router, two_ways(router), GROUP).legs == (10, 20, 20)
    assert next_hop_view(router, two_ways(router, second=UP), GROUP).legs == (10,)


def test_where_no_leg_works_all_stay() -> None:
    router = load("paper").network.routers["vr1"]
    state = two_ways(router, second=0)
    down = state.interfaces[1]
    state.interfaces[1] = m.Interface(1, 0, 1500, down.mac, down.name)
    assert next_hop_view(router, state, GROUP).legs == (10, 20, 20)


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
    switch = Switch(network, datapath, Known(), lambda *_: None, homes)
    ports = sorted({end.port for tree in network.trees.values()
                    for end in tree.spanning({router.home, machine.end.datapath})[router.home]})
    switch.ports = {name: (number, True) for number, name in enumerate(ports, 1)}
    assert switch._legs_out(router, state, (10, 20, 20)) == (10, 20, 20)
    out = network.trees[link.name].toward(router.home, machine.end.datapath).port
    switch.ports[out] = (switch.ports[out][0], False)
    assert switch._legs_out(router, state, (10, 20, 20)) == (10,)
