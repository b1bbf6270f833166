"""Which of the VM's interfaces are the network's, and what is said of what the switches leave."""

from __future__ import annotations

from collections.abc import Iterable

from tests.whole_network import load
from xenflow.routes import messages as m
from xenflow.routes.family import V4, V6
from xenflow.routes.messages import InterfaceFlag, InterfaceKind, NextHopType, VmReason
from xenflow.routes.router_state import NO_POLICY, RouterState
from xenflow.tables.views import (
    interface_of,
    next_hop_view,
    problems,
    router_view,
    through_vm,
)

ROUTER = load("paper").network.routers["vr1"]
FIRST, SECOND = ROUTER.interfaces[:2]
UP, WORKING, IPV6 = 1, 7, 8


def told(
    ifindex: int, mac: int, name: str, flags: int = WORKING, kind: int = InterfaceKind.CARD
) -> m.VmInterface:
    return m.VmInterface(ifindex, flags, 1500, mac, name, kind)


def state_of(
    interfaces: Iterable[m.VmInterface],
    hops: Iterable[m.NextHop] = (),
    routes: dict[int, int] | None = None,
    policy: m.Policy = NO_POLICY,
) -> RouterState:
    return RouterState.of(
        {i.ifindex: i for i in interfaces},
        {},
        {hop.id: hop for hop in hops},
        {},
        {},
        routes or {},
        policy,
    )


def cards(flags: int = WORKING) -> list[m.VmInterface]:
    return [
        told(n, interface.mac, interface.name, flags)
        for n, interface in enumerate(ROUTER.interfaces, 2)
    ]


def test_a_vlan_device_is_not_the_card_whose_mac_address_it_has() -> None:
    vlan = told(9, FIRST.mac, "eth0.5", kind=InterfaceKind.VLAN)
    hop = m.NextHop(10, NextHopType.VIA, 4, 9, 0x0A000102, 0x02AA)
    state = state_of([*cards(), vlan], [hop])
    assert interface_of(ROUTER, state, 2) == FIRST
    assert interface_of(ROUTER, state, 9) is None
    assert next_hop_view(ROUTER, state, hop).action == "vm"
    # Down or off it says nothing of the card, and the other way round.
    off = told(9, FIRST.mac, "eth0.5", 0, InterfaceKind.VLAN)
    view = router_view(ROUTER, state_of([*cards(), off]))
    assert (view.v4.down, view.off) == ((), ())
    card_off = told(2, FIRST.mac, FIRST.name, 0)
    view = router_view(ROUTER, state_of([card_off, *cards()[1:], vlan]))
    assert (view.v4.down, view.off) == ((FIRST.name,), (FIRST.name,))


def test_of_two_with_one_mac_address_the_name_decides_then_the_age() -> None:
    """A routerd of the version before says of nothing that it is no card."""
    vlan = told(1, FIRST.mac, "eth0.5")
    state = state_of([*cards(), vlan])
    assert interface_of(ROUTER, state, 2) == FIRST
    assert interface_of(ROUTER, state, 1) is None
    state = state_of([told(5, FIRST.mac, "lan"), told(4, FIRST.mac, "wan")])
    assert interface_of(ROUTER, state, 4) == FIRST
    assert interface_of(ROUTER, state, 5) is None


def test_an_interface_with_another_mac_address_is_named() -> None:
    assert problems(ROUTER, state_of(cards())) == []
    state = state_of([told(2, 0x02FFFFFFFFFF, FIRST.name), *cards()[1:]])
    (said,) = problems(ROUTER, state)
    assert said.startswith(f"{FIRST.name} has the MAC address 02:ff:ff:ff:ff:ff in the VM")
    (said,) = problems(ROUTER, state_of(cards()[1:]))
    assert said.startswith(f"{FIRST.name}: no network card in the VM has its address")


def test_devices_whose_frames_no_switch_passes_are_named() -> None:
    vlan = told(9, FIRST.mac, "eth0.5", kind=InterfaceKind.VLAN)
    vrrp = told(10, 0x00005E000105, "vrrp4", kind=InterfaceKind.MACVLAN)
    other = told(12, 0x02000000AB05, "macvlan0", kind=InterfaceKind.MACVLAN)
    tunnel = told(11, 0x02, "gre1", kind=InterfaceKind.OTHER)
    said = problems(ROUTER, state_of([*cards(), vlan, vrrp, tunnel, other]))
    assert [words.split(" ")[0] for words in said] == ["eth0.5", "macvlan0"], "VRRP's pass"
    assert "802.1Q" in said[0] and "02:00:00:00:ab:05" in said[1]
    off = told(9, FIRST.mac, "eth0.5", 0, InterfaceKind.VLAN)
    assert problems(ROUTER, state_of([*cards(), off])) == []


def test_routes_that_go_through_the_vm_are_counted_by_reason() -> None:
    hops = [
        m.NextHop(1, NextHopType.VIA, 4, 2, 0x0A000102, 0x02AA),
        m.NextHop(2, NextHopType.VM, 4, 0, VmReason.GATEWAY6, 0),
        m.NextHop(3, NextHopType.VM, 4, 0, VmReason.SPREAD, 0),
        m.NextHop(4, NextHopType.VM, 4, 0, 200, 0),
        m.NextHop(5, NextHopType.CONNECTED, 4, 9, 0, 0),
        m.NextHop(6, NextHopType.BLACKHOLE, 4, 0, 0, 0),
    ]
    routes = {n << 16 | 24: hop for n, hop in enumerate((1, 2, 2, 3, 4, 5, 6), 1)}
    vlan = told(9, FIRST.mac, "eth0.5", kind=InterfaceKind.VLAN)
    state = state_of([*cards(), vlan], hops, routes)
    assert through_vm(ROUTER, state) == [
        "2 routes by an IPv6 next hop",
        "1 route by eth0.5, which stands for no interface of the network",
        "1 route of several legs (fib_multipath_hash_policy is not 0)",
        "1 route that only the kernel can follow",
    ]
    assert not router_view(ROUTER, state).v4.slow


def test_ipv6_is_named_where_the_router_forwards_it_and_leaves_ipv4_alone() -> None:
    hop = m.NextHop(1, NextHopType.CONNECTED, 6, 2, 0, 0)
    routes6 = {0x20010DB8 << 104 | V6.span(64): 1}
    assert through_vm(ROUTER, state_of(cards(), [hop], routes6)) == []
    state = state_of(cards(WORKING | IPV6), [hop], routes6)
    assert through_vm(ROUTER, state) == ["IPv6 (its routerd says nothing of IPv6)"]
    view = router_view(ROUTER, state)
    assert view.v6.slow and not view.v4.slow
    policy = m.Policy(True, "ip rule 5", slow6=False)
    view = router_view(ROUTER, state_of(cards(WORKING | IPV6), [hop], routes6, policy))
    assert (view.v4.slow, view.v6.slow) == ("ip rule 5", "")


def test_an_interface_may_forward_one_family_alone() -> None:
    four, six = WORKING, (WORKING | IPV6) & ~InterfaceFlag.FORWARDING4
    state = state_of([told(2, FIRST.mac, FIRST.name, six), *cards(four)[1:]])
    view = router_view(ROUTER, state)
    others = tuple(i.name for i in ROUTER.interfaces[1:])
    assert (view.v4.down, view.v6.down) == ((FIRST.name,), others)


def test_own_addresses_of_both_families_are_known_by_their_spans() -> None:
    state = state_of(cards())
    for local in (
        *(m.Local(4, 32, 2, 0x0A000101), m.Local(4, 8, 1, 0x7F000000)),
        *(m.Local(6, 128, 2, 0xFE80 << 112 | 1), m.Local(6, 128, 1, 1)),
    ):
        state.locals[local.family, local.length, local.address] = local
    assert router_view(ROUTER, state).locals == (
        (0x0A000101, V4.host, FIRST.name),
        (0xFE80 << 112 | 1, V6.host, FIRST.name),
    )


def test_a_connected_next_hop_has_the_neighbours_of_its_family() -> None:
    state = state_of(cards())
    for near in (m.Neighbour(2, 4, True, 7, 0x02AA), m.Neighbour(2, 6, True, 8, 0x02BB)):
        state.neighbours[near.ifindex, near.family, near.address] = near
    for family, station in ((V4, (7, 0x02AA)), (V6, (8, 0x02BB))):
        hop = m.NextHop(1, NextHopType.CONNECTED, family.number, 2, 0, 0)
        view = next_hop_view(ROUTER, state, hop)
        assert (view.family, view.neighbours) == (family, (station,))


def test_remarks_are_faults_or_further_reasons() -> None:
    remarks = (m.Remark(True, "neighbours overflow"), m.Remark(False, "tbf on eth1"))
    state = state_of(cards(), policy=m.Policy(True, "ip rule 5", remarks))
    assert router_view(ROUTER, state).v4.slow == "ip rule 5"
    assert through_vm(ROUTER, state) == ["tbf on eth1"]
    assert problems(ROUTER, state) == ["neighbours overflow"]
