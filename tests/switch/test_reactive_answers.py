"""The reactive pipeline does what the proactive one does, one packet at a time.

The proactive tables say where a packet leaves and how; the reactive ones hand the same packet to
the controller, whose answer is put to work on it.  Both for Open vSwitch and for a switch that
knows OpenFlow 1.0 alone, where the TTL must stay as it was.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.obeyed import obeyed
from tests.tables.test_group_legs import two_ways
from tests.whole_network import PlannedNetwork, load, router_flows
from tests.written_switch import PlayedHost
from xenflow.model.network import Pipeline
from xenflow.model.placement import at_home
from xenflow.openflow import build, parse, wire
from xenflow.openflow import flow as fl
from xenflow.openflow import packet as pk
from xenflow.openflow.exact_flows import exact_match
from xenflow.openflow.flow import prefix_mask
from xenflow.openflow.nxm import parse_actions
from xenflow.routes import messages as m
from xenflow.routes.family import V6, netmask
from xenflow.routes.messages import NextHopType, Op, Section, SectionKind
from xenflow.routes.router_state import Changes, RouterState
from xenflow.routes.sender import snapshot_messages
from xenflow.switch.exact_flows import CookieExactFlows
from xenflow.switch.kind import kind_of
from xenflow.switch.reactive import PlainReactive, Reactive
from xenflow.tables import cookies, layout, simulate
from xenflow.tables.pipeline import local_flows
from xenflow.tables.sent_up import Question
from xenflow.tables.site import Site
from xenflow.tables.views import router_view

PORTS = {"to-gen": 1, "to-recv": 2, "vr1.0": 3, "vr1.1": 4}
ROUTES = [
    (0, 0, 1),
    (0x0A020000, 16, 2),
    (0x0A020100, 24, 1),
    (0x0A020180, 25, 3),
    (0x0A030000, 16, 4),
]
ROUTES6 = [*ROUTES, (0x0A000200, 24, 5)]


@pytest.fixture(scope="module")
def paper() -> PlannedNetwork:
    plan = load("paper")
    state = plan.states["vr1"]
    hops = [
        m.NextHop(101 + n, kind, 4, index, gateway, mac)
        for n, (kind, index, gateway, mac) in enumerate(
            [
                (NextHopType.VIA, 2, 0x0A000102, 0x020000000102),
                (NextHopType.VIA, 3, 0x0A000202, 0x020000000202),
                (NextHopType.BLACKHOLE, 0, 0, 0),
                (NextHopType.VIA, 3, 0x0A000203, 0),  # unresolved
            ]
        )
    ]
    hops += [
        m.NextHop(111, NextHopType.VIA, 6, 2, 0xFE80 << 112 | 1, 0x020000000102),
        m.NextHop(112, NextHopType.VIA, 6, 3, 0xFE80 << 112 | 2, 0x020000000202),
        m.NextHop(113, NextHopType.BLACKHOLE, 6, 0, 0, 0),
        m.NextHop(114, NextHopType.VIA, 6, 3, 0xFE80 << 112 | 3, 0),  # unresolved
        m.NextHop(115, NextHopType.CONNECTED, 6, 3, 0, 0),
    ]
    routes = [(net, plen, 100 + hop) for net, plen, hop in ROUTES]
    routes6 = [(of_ipv6(net), V6.span(96 + plen), 110 + hop) for net, plen, hop in ROUTES6]
    near = m.Neighbour(3, 6, True, of_ipv6(0x0A000202), 0x020000000202)
    own = [m.Local(6, 128, n, of_ipv6(net)) for n, net in ((2, 0x0A000101), (3, 0x0A000201))]
    told = {
        SectionKind.INTERFACE: [replace(i, flags=15) for i in state.interfaces.values()],
        SectionKind.LOCAL: own,
        SectionKind.NEXTHOP: hops,
        SectionKind.NEIGHBOUR: [near],
        SectionKind.ROUTE4: routes,
        SectionKind.ROUTE6: routes6,
        SectionKind.POLICY: [m.Policy(False, "", (), slow6=False)],
    }
    state.apply(Section(kind, Op.SET, records) for kind, records in told.items())
    return plan


def of_ipv6(address: int) -> int:
    """The IPv6 address that stands here for one of IPv4."""
    return 0x20010DB8 << 96 | address


def site_of(plan: PlannedNetwork, **changes: object) -> Site:
    network = plan.network
    datapath = replace(network.datapaths["host-a"], **changes)  # type: ignore[arg-type]
    view = router_view(network.routers["vr1"], plan.states["vr1"])
    return Site(network, datapath, PORTS, {"vr1": at_home("vr1", "host-a")}, {"vr1": view})


def states(plan: PlannedNetwork) -> dict[str, RouterState]:
    return {"vr1": plan.states["vr1"]}


def sent(verdict: simulate.Fate) -> list[tuple[int | str, bytes]]:
    return verdict.outputs


def asks(site: Site, tables: simulate.Tables, port: int, frame: bytes) -> Question | None:
    """What the controller is asked about a frame that comes by a port; None: nothing."""
    kind = kind_of(site.datapath)
    packet_ins = simulate.run(tables, frame, port).packet_ins
    sent_up = [kind.sent_up(site.network, site.name, {}, packet) for packet in packet_ins]
    (what,) = sent_up or (None,)
    assert what is None or isinstance(what, Question)
    return what


def put_to_work(answer: bytes, tables: simulate.Tables) -> list[tuple[int | str, bytes]]:
    """Do what the switch does with a controller's answer; returns what leaves of the packet."""
    messages, rest = wire.split(answer)
    assert not rest
    out = messages[-1]
    for message in messages[:-1]:
        if message[1] == wire.MessageType.VENDOR:
            tables.add(obeyed(parse.flow_mod(message)))
    head = 16
    actions_len = int.from_bytes(out[14:16], "big")
    in_port = int.from_bytes(out[12:14], "big")
    actions = parse_actions(out, head, actions_len)
    return sent(simulate.run_actions(tables, out[head + actions_len :], in_port, actions))


targets = st.one_of(
    st.integers(0x0A000000, 0x0A03FFFF),
    st.sampled_from([0x0A020001, 0x0A020101, 0x0A020190, 0x0A030001, 0x0A000202, 0x08080808]),
)
frames = st.builds(
    lambda target, ttl, proto, sport, left: (
        left,
        target,
        ttl,
        pk.udp(1, 2, sport, 53, b"data") if proto == 17 else pk.icmp(8, 0, sport, b"data"),
        proto,
    ),
    targets,
    st.sampled_from([0, 1, 2, 64, 255]),
    st.sampled_from([17, 1]),
    st.integers(0, 65535),
    st.booleans(),
)


def frame_of(case: tuple[bool, int, int, bytes, int], six: bool = False) -> tuple[int, bytes]:
    left, target, ttl, body, proto = case
    source, station, mac, vlan, port = (
        (0x0A000102, 0x020000000102, 0x020000010101, 101, 1)
        if left
        else (0x0A000202, 0x020000000202, 0x020000010201, 102, 2)
    )
    packet = pk.ipv4(source, target, proto, body, ttl=ttl)
    if six:
        ends, proto = (of_ipv6(source), of_ipv6(target)), 58 if proto == 1 else proto
        packet = pk.ipv6(*ends, proto, body, hops=ttl, tclass=ttl & 0x1F)
        return port, pk.vlan(pk.ethernet(mac, station, pk.ETH_IPV6, packet), vlan)
    return port, pk.vlan(pk.ethernet(mac, station, pk.ETH_IPV4, packet), vlan)


@settings(max_examples=600, deadline=None)
@given(case=frames, six=st.booleans())
def test_the_answer_is_what_the_tables_would_have_done(
    paper: PlannedNetwork, case: tuple[bool, int, int, bytes, int], six: bool
) -> None:
    port, frame = frame_of(case, six)
    router = paper.network.routers["vr1"]
    proactive = site_of(paper)
    tables = simulate.Tables(local_flows(proactive).values())
    for flow in router_flows(paper.network, router, paper.states["vr1"]):
        tables.add(flow)
    wanted = sent(simulate.run(tables, frame, port))

    site = site_of(paper, pipeline=Pipeline.REACTIVE)
    asked = simulate.Tables(local_flows(site).values())
    first = sent(simulate.run(asked, frame, port))
    question = asks(site, asked, port, frame)
    if question is None:
        assert first == wanted
        return
    answer = Reactive(site, states(paper)).answer(question)
    assert answer is not None
    assert put_to_work(answer, asked) == wanted
    # The second packet of the flow does the same, and where a flow was made it does not ask.
    second = sent(simulate.run(asked, frame, port))
    if len(wire.split(answer)[0]) > 1:
        assert second == wanted
    else:
        assert second == first


@settings(max_examples=300, deadline=None)
@given(case=frames)
def test_a_plain_host_routes_but_leaves_the_ttl(
    paper: PlannedNetwork, case: tuple[bool, int, int, bytes, int]
) -> None:
    port, frame = frame_of((case[0], case[1], 64, case[3], case[4]))
    site = site_of(paper, pipeline=Pipeline.REACTIVE, nicira=False)
    flows = local_flows(site)
    for flow in flows.values():
        build.flow_mod_of10(flow)  # OpenFlow 1.0 can say it
    tables = simulate.Tables(flows.values())
    first = sent(simulate.run(tables, frame, port))

    router = paper.network.routers["vr1"]
    full = simulate.Tables(local_flows(site_of(paper)).values())
    for flow in router_flows(paper.network, router, paper.states["vr1"]):
        full.add(flow)
    wanted = sent(simulate.run(full, frame, port))
    question = asks(site, tables, port, frame)
    if question is not None:
        answer = PlainReactive(site, states(paper)).answer(question)
        assert answer is not None
        first = put_to_work(answer, tables)
    for (where, left), (there, right) in zip(first, wanted, strict=True):
        seen, expected = pk.parse(left), pk.parse(right)
        assert where == there
        assert (seen.dl_src, seen.dl_dst, seen.vlan_tci) == (
            expected.dl_src,
            expected.dl_dst,
            expected.vlan_tci,
        )
        assert seen.nw_ttl == 64


def test_ipv6_is_asked_about_and_by_a_plain_host_left_to_the_vm(paper: PlannedNetwork) -> None:
    port, frame = frame_of((True, 0x0A000202, 64, pk.udp(1, 2, 3, 53, b"data"), 17), six=True)
    for nicira, maker in ((True, Reactive), (False, PlainReactive)):
        site = site_of(paper, pipeline=Pipeline.REACTIVE, nicira=nicira)
        tables = simulate.Tables(local_flows(site).values())
        question = asks(site, tables, port, frame)
        if not nicira:
            assert question is None
            (left,) = sent(simulate.run(tables, frame, port))
            assert left[0] == PORTS["vr1.0"]
            continue
        assert question is not None
        answer = maker(site, states(paper)).answer(question)
        assert answer is not None
        exact = parse.flow_mod(wire.split(answer)[0][0])
        assert exact.match == exact_match(frame, port)
        assert cookies.router_of(exact.cookie) == 1
        ((out, _),) = put_to_work(answer, tables)
        assert out == PORTS["to-recv"]


def test_two_routers_in_a_row_do_not_pick_the_same_legs(paper: PlannedNetwork) -> None:
    """What the first one sends by one leg, the second spreads over both of its own."""

    def legs(router_id: int) -> list[int | str]:
        router = replace(paper.network.routers["vr1"], id=router_id)
        network = replace(paper.network, routers={"vr1": router})
        state = two_ways(router, mac=0x020000000202)
        state.nexthops[10] = replace(state.nexthops[10], mac=0x020000000102)
        here = replace(network.datapaths["host-a"], pipeline=Pipeline.REACTIVE)
        home = {"vr1": at_home("vr1", "host-a")}
        answers = Reactive(Site(network, here, PORTS, home, {}), {"vr1": state})
        found = []
        for target in range(0x0A020000, 0x0A020040):
            packet = pk.ipv4(0x0A000102, target, 17, pk.udp(1, 2, 3, 4))
            frame = pk.ethernet(router.interfaces[0].mac, 0x020000000102, pk.ETH_IPV4, packet)
            answer = answers.answer(Question(router, network.links["left"], 3, frame))
            assert answer is not None
            ((port, _),) = put_to_work(answer, simulate.Tables())
            found.append(port)
        return found

    assert set(zip(legs(1), legs(2), strict=True)) == {(1, 1), (1, 2), (2, 1), (2, 2)}


def test_what_is_asked_for_a_router_that_has_left_is_not_answered(paper: PlannedNetwork) -> None:
    network = paper.network
    site = site_of(paper, pipeline=Pipeline.REACTIVE)
    frame = pk.ethernet(0x020000010101, 1, pk.ETH_IPV4, pk.ipv4(1, 2, 17, b""))
    question = Question(network.routers["vr1"], network.links["left"], 1, frame)
    assert Reactive(site, states(paper)).answer(question) is not None
    gone = replace(site, placements={"vr1": at_home("vr1", "host-b")})
    assert Reactive(gone, states(paper)).answer(question) is None


def test_a_switch_that_is_not_to_ask_is_not_answered(paper: PlannedNetwork) -> None:
    """It holds the flows of a reactive host still, that it was until its controller's restart."""
    host = PlayedHost()
    network = host.table.network
    for frames in snapshot_messages(paper.states["vr1"], "vr1"):
        host.table.heard("vr1", b"peer", frames, True)
    host.wire.run()
    frame = pk.ethernet(0x020000010101, 1, pk.ETH_IPV4, pk.ipv4(1, 2, 17, b""))
    question = Question(network.routers["vr1"], network.links["left"], 1, frame)
    assert host.switch.decisions.decide(question) is None
    assert not host.switch.decisions.answer(question)


class Written:
    """A channel that keeps what is written."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def write(self, message: bytes, _: int) -> None:
        self.messages.append(message)


def test_a_route_change_of_either_family_deletes_by_its_prefix(paper: PlannedNetwork) -> None:
    written = Written()
    exact = CookieExactFlows(written)  # type: ignore[arg-type]
    routes = [(0x0A020000, 16, 102), (of_ipv6(0x0A020000), V6.span(112), 112)]
    exact.follow(1, paper.states["vr1"], Changes(routes=routes))
    found = [parse.flow_mod(message).match for message in written.messages]
    assert found == [
        fl.match(dl_type=fl.IPV4, nw_dst=(0x0A020000, prefix_mask(16))),
        fl.match(dl_type=fl.IPV6, ipv6_dst=(of_ipv6(0x0A020000), netmask(V6.span(112)))),
    ]


def test_a_leg_s_new_mac_address_deletes_what_was_chosen_from_its_group() -> None:
    """Their cookies have the group; that of another group stays."""
    state = RouterState()
    via = [m.NextHop(n, m.NextHopType.VIA, 4, 2, n, 0x02AA) for n in (1, 2, 3)]
    groups = [m.NextHop(n, m.NextHopType.GROUP, 4, 0, 0, 0) for n in (10, 11)]
    legs = [m.Leg(10, 1, 1, 0), m.Leg(10, 2, 1, 1), m.Leg(11, 2, 1, 0), m.Leg(11, 3, 1, 1)]
    state.apply(
        [
            m.Section(m.SectionKind.NEXTHOP, m.Op.SET, [*via, *groups]),
            m.Section(m.SectionKind.LEG, m.Op.SET, legs),
        ]
    )
    written = Written()
    CookieExactFlows(written).follow(1, state, Changes(nexthops={1}))  # type: ignore[arg-type]
    wanted = {
        build.delete_by_cookie(layout.INGRESS, cookies.exact(1, hop), 0xFFFFFFFFFFFFFFFF)
        for hop in (1, 10)
    }
    assert {*written.messages} == wanted and len(written.messages) == 2


def test_a_route_change_deletes_only_what_may_follow_from_it() -> None:
    """By prefix and cookie, in one message, whatever the number of flows."""
    net = int(IPv4Address("10.2.0.0"))
    prefix = fl.match(dl_type=fl.IPV4, nw_dst=(net, prefix_mask(16)))
    own = cookies.of(layout.REACTIVE_KIND, 1)
    mask = cookies.TABLE_MASK | cookies.ROUTER_MASK
    message = build.delete_matching(layout.INGRESS, prefix, own, mask)
    for router, hop in ((1, 5), (2, 5)):
        made = cookies.exact(router, hop)
        assert (made & mask == own) is (router == 1)
    assert len(message) < 150
