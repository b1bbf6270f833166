"""One router whose words make no flows, or whose flows the switch refuses, harms that router alone.

The real writer writes into a `WrittenSwitch`.  Two routers of one host: of one something cannot be
compiled, or there is no room; the other's changes arrive as ever, and `problems` names the first.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.switch.test_update_order import Known
from tests.whole_network import WholeNetwork, load
from tests.written_switch import Switch, WrittenSwitch, bound
from xenflow.routes import messages as m
from xenflow.routes.messages import NextHopType, Op, Section, SectionKind
from xenflow.routes.router_state import RouterState
from xenflow.tables import cookies, layout
from xenflow.tables.next_hops import NextHopView, next_hop_flows

PATH = load("path")
TOO_LONG = 1 << 60
"""No MAC address: it stands for whatever no flow can say."""


class Host:
    """A host that forwards for two routers of the network."""

    def __init__(self, limits: dict[int, int] | None = None) -> None:
        net = WholeNetwork(PATH)
        network = PATH.network
        self.odd, self.sound = list(network.routers)[:2]
        host = network.routers[self.odd].home
        states = {name: state_of(name) for name in (self.odd, self.sound)}
        self.known = Known(network, states)
        placements = dict(net.placed[host])
        for name in states:
            placements[name] = replace(placements[name], forwarders=(host,), vm=host, leads_to=host)
        self.written = WrittenSwitch()
        self.written.limits = limits or {}
        here = network.datapaths[host]
        clock = self.written.clock
        self.writer = Switch(network, here, self.known, clock, placements, bound(here))
        self.ids = {name: network.routers[name].id for name in states}
        self.written.attach(self.writer, net.ports(host))

    def change(self, name: str, *sections: Section) -> None:
        """A router says something."""
        state = self.known.states[name]
        changes = state.apply(sections)
        self.writer.changed(name, changes, True, len(state.routes))
        if changes.locals or changes.interfaces or changes.policy:
            self.writer.refresh()
        self.written.run()

    def routes(self, name: str) -> set[int]:
        """The prefixes that the switch has routes to."""
        return {
            value
            for flow in self.written.tables
            if flow.table == layout.ROUTES
            if cookies.router_of(flow.cookie) == self.ids[name]
            for field, value, _ in flow.match
            if field == "nw_dst"
        }

    def routed(self, name: str) -> bool:
        """Whether the switch routes for a router, or leaves everything to its VM."""
        return any(
            flow.table == layout.CLASSES and flow.priority == 100
            for flow in self.written.tables
            if cookies.router_of(flow.cookie) == self.ids[name]
        )


def state_of(name: str) -> RouterState:
    """A router with its interfaces and one next hop."""
    router = PATH.network.routers[name]
    state = RouterState()
    state.apply(
        [
            Section(
                SectionKind.INTERFACE,
                Op.SET,
                [
                    m.VmInterface(n, 7, 1500, interface.mac, interface.name)
                    for n, interface in enumerate(router.interfaces, 1)
                ],
            ),
            Section(SectionKind.NEXTHOP, Op.SET, [hop(1, 0x02AA)]),
            route(0x0A630000),
        ]
    )
    return state


def hop(number: int, mac: int) -> m.NextHop:
    return m.NextHop(number, NextHopType.VIA, 4, 1, 0x0A000100 + number, mac)


def hops(*found: m.NextHop) -> Section:
    return Section(SectionKind.NEXTHOP, Op.SET, found)


def route(*nets: int) -> Section:
    return Section(SectionKind.ROUTE4, Op.SET, [(net, 24, 1) for net in nets])


def no_route(*nets: int) -> Section:
    return Section(SectionKind.ROUTE4, Op.DELETE, [(net, 24, 1) for net in nets])


@pytest.mark.parametrize("mtu", [65521, 65530, 65535])
def test_a_narrow_interface_of_any_mtu(mtu: int) -> None:
    """The switch measures up to 65,535 octets; what is larger is for the VM's kernel to judge."""
    router = PATH.network.routers["vr1"]
    view = NextHopView(1, "via", router.interfaces[0], 0x02AA, mtu=mtu)
    measured = [
        action[1]
        for flow in next_hop_flows(PATH.network, router, view)
        for action in flow.actions
        if action[0] == "check_pkt_larger"
    ]
    assert measured == [65535]


def proven(host: Host, but_left_out: bool = False) -> list[str | None]:
    """Whether all that was submitted is in force: None, or why not."""
    found: list[str | None] = []
    host.writer.promises.in_force(found.append, but_left_out)
    host.written.run()
    while host.written.waiting and not found:
        host.written.pass_time()
    return found


@pytest.mark.parametrize(
    "said",
    [hops(hop(2, TOO_LONG)), Section(SectionKind.LOCAL, Op.SET, [m.Local(4, 32, 1, 1 << 40)])],
    ids=["a next hop", "an address"],
)
def test_who_is_left_out_is_said_and_holds_up_nobody(said: Section) -> None:
    host = Host()
    host.change(host.odd, said)
    host.change(host.sound, route(0x0A640000))
    assert proven(host) == [None]
    assert host.writer.left_out == {f"router {host.odd}"}


LINKS = {f"link {name}" for name in PATH.network.links}


def test_links_and_rules_that_are_refused_are_said_and_hold_up_nobody() -> None:
    """What is asked for meanwhile is written all the same, before it is said to be in force."""
    host = Host({layout.LINKS: 0})
    refused = [f"{host.writer.name}: the switch refused a flow"]
    assert proven(host) == refused
    left_out = host.writer.left_out
    assert left_out and left_out <= LINKS
    assert proven(host, but_left_out=True) == [None]
    assert host.writer.left_out == left_out

    def rules() -> list[str]:
        owners = (host.writer.owner_of(flow.cookie) for flow in host.written.tables)
        return [owner.name for owner in owners if owner.kind == "rule"]

    drops = {"id": "drops", "match": {"in_port": "1"}, "priority": 3, "actions": []}
    host.writer.rules.restore([drops])
    host.writer.refresh()
    assert rules() == []
    assert proven(host, but_left_out=True) == [None]
    assert rules() == ["drops"] and host.writer.left_out == left_out
    assert not host.writer.live and proven(host) == refused

    host.written.limits.clear()
    while host.written.waiting:
        host.written.pass_time()
    assert host.writer.left_out == frozenset() and proven(host) == [None]


def test_what_is_refused_of_the_switch_itself_holds_up_everybody() -> None:
    host = Host({layout.INGRESS: 0})
    for _ in range(3):
        assert proven(host, but_left_out=True) == [f"{host.writer.name}: the switch refused a flow"]
        host.written.pass_time()


def test_a_next_hop_that_makes_no_flow() -> None:
    host = Host()
    assert host.writer.left_out == frozenset()
    assert host.routed(host.odd)
    assert host.routed(host.sound)
    host.change(host.odd, hops(hop(2, TOO_LONG)))
    assert host.writer.live
    assert not host.writer.jobs.busy
    assert not host.routed(host.odd)
    (words,) = host.writer.problems.of(host.odd)
    assert "passes through its VM" in words
    assert host.writer.problems.of() == host.writer.problems.of(host.sound) == []
    host.change(host.sound, route(0x0A640000))
    assert host.routed(host.sound)
    assert 0x0A640000 in host.routes(host.sound)


def test_it_is_tried_again_when_the_router_has_changed_and_ever_more_rarely() -> None:
    host = Host()
    host.change(host.odd, hops(hop(2, TOO_LONG)))
    assert not host.written.waiting, "without a change the same would come of it"
    waited = []
    for net in range(0x0A650000, 0x0A650700, 0x100):
        host.change(host.odd, route(net))
        host.change(host.odd, no_route(0x0A630000))
        assert len(host.written.waiting) == 1
        waited.append(host.written.pass_time())
    assert waited == [1, 2, 4, 8, 16, 30, 30]
    host.change(host.odd, hops(hop(2, 0x02BB)))
    host.written.pass_time()
    assert host.routed(host.odd)
    assert host.writer.problems.of(host.odd) == []
    assert host.routes(host.odd) == set(range(0x0A650000, 0x0A650700, 0x100))
    host.change(host.odd, route(0x0A670000))
    assert 0x0A670000 in host.routes(host.odd)


def test_a_router_that_makes_no_flows_when_the_switch_connects() -> None:
    host = Host()
    host.known.states[host.odd].apply([hops(hop(2, TOO_LONG))])
    host.writer.disconnect()
    assert host.writer.problems.of(host.odd) == []
    host.written.attach(host.writer, {n: k for n, (k, _) in host.writer.ports.items()})
    assert host.writer.live
    assert not host.writer.jobs.busy
    assert host.writer.problems.of(host.odd)
    assert host.routed(host.sound)
    assert not host.routed(host.odd)


def test_an_address_that_makes_no_flow() -> None:
    host = Host()
    host.change(host.odd, Section(SectionKind.LOCAL, Op.SET, [m.Local(4, 32, 1, 1 << 40)]))
    assert not host.routed(host.odd)
    assert "passes through its VM" in host.writer.problems.of(host.odd)[0]
    host.change(host.sound, Section(SectionKind.LOCAL, Op.SET, [m.Local(4, 32, 1, 0x0A000001)]))
    assert host.routed(host.sound)
    own = [
        flow
        for flow in host.written.tables
        if flow.table == layout.CLASSES and flow.priority == 285
    ]
    assert len(own) == 1
    host.change(host.odd, Section(SectionKind.LOCAL, Op.DELETE, [m.Local(4, 32, 1, 1 << 40)]))
    assert host.routed(host.odd)
    assert host.writer.problems.of(host.odd) == []


def test_an_address_that_makes_no_flow_of_table_vm_stops_no_reading() -> None:
    """That table is written outside of jobs, and before the others where the switch connects."""
    host = Host()
    placement = host.writer.placements[host.odd]
    others = tuple(n for n in PATH.network.hosts if n != host.writer.name)[:1]
    forwarders = (*placement.forwarders, *others)
    host.writer.placements[host.odd] = replace(placement, forwarders=forwarders)
    assert host.writer.site().copies(PATH.network.routers[host.odd])
    ports = {name: number for name, (number, _) in host.writer.ports.items()}
    host.known.states[host.odd].apply(
        [Section(SectionKind.LOCAL, Op.SET, [m.Local(4, 32, 1, 1 << 40)])]
    )
    vif = PATH.network.routers[host.odd].interfaces[0].vif
    host.writer.port_changed(vif, 99, True, False)  # before a job has seen the address
    host.written.run()
    assert "passes through its VM" in host.writer.problems.of(host.odd)[0]
    host.written.attach(host.writer, ports)
    assert host.writer.live and host.writer.problems.of() == []
    assert host.routed(host.sound) and not host.routed(host.odd)
    assert "passes through its VM" in host.writer.problems.of(host.odd)[0]


FREE = 50


def full_host() -> Host:
    """A switch whose table of routes takes 50 of the 500 that one router has besides."""
    host = Host({layout.ROUTES: FREE + 3})
    host.change(host.odd, route(*range(0x0B000000, 0x0B000000 + 0x100 * 500, 0x100)))
    return host


def test_a_full_table_sets_the_router_aside() -> None:
    host = full_host()
    assert host.writer.live
    assert not host.writer.jobs.busy
    assert not host.routed(host.odd), "a packet must not follow a shorter prefix by mistake"
    assert host.routed(host.sound)
    (words,) = host.writer.problems.of(host.odd)
    assert "FULL" in words


def test_a_full_table_is_asked_once_a_second_with_one_flow(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = full_host()
    caplog.clear()
    for _ in range(20):
        refused, mods = host.written.refused, host.writer.channel.flow_mods
        assert host.written.pass_time() == 1.0
        assert host.written.refused - refused == 1
        assert host.writer.channel.flow_mods == mods
        assert len(host.written.waiting) == 1
    assert not caplog.records
    assert host.writer.problems.of(host.odd)


def test_the_router_is_back_when_there_is_room() -> None:
    host = full_host()
    host.change(host.odd, no_route(0x0B000000))
    host.change(host.odd, route(0x0C000000))
    host.written.limits.clear()
    host.written.pass_time()
    assert host.routed(host.odd)
    assert host.writer.problems.of(host.odd) == []
    assert host.routes(host.odd) == {key >> 8 for key in host.known.states[host.odd].routes}
    assert len(host.routes(host.odd)) == 501


def test_room_for_too_few_is_tried_ever_more_rarely_and_with_little() -> None:
    host = full_host()
    waited = []
    for _ in range(4):
        host.written.limits[layout.ROUTES] += 1
        refused = host.written.refused
        waited.append(host.written.pass_time())
        assert host.written.refused - refused < 150
    assert waited == [1, 2, 4, 8]


def test_no_room_when_the_switch_connects() -> None:
    host = full_host()
    host.writer.disconnect()
    host.written.attach(host.writer, {n: k for n, (k, _) in host.writer.ports.items()})
    assert host.writer.live
    assert not host.routed(host.odd)
    assert host.routed(host.sound)
    assert host.writer.problems.of(host.odd)


def test_no_room_for_what_belongs_to_no_router(caplog: pytest.LogCaptureFixture) -> None:
    """The switch is read again ever more rarely, and it is said once."""
    host = Host({layout.ADMISSION: 0})
    assert not host.writer.live
    waited = [host.written.pass_time() for _ in range(6)]
    assert waited == [1, 2, 4, 8, 10, 10]
    assert len([r for r in caplog.records if "FULL" in r.message]) == 1
    (words,) = host.writer.problems.of()
    assert "FULL" in words and any(f"(link {name}: " in words for name in PATH.network.links)
    host.written.limits.clear()
    host.written.pass_time()
    assert host.writer.live
    assert host.writer.problems.of() == []
    assert host.routed(host.sound)
