"""What a router says about its next hops becomes so many flows as it has said records, about."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.whole_network import load
from xenflow.routes import messages as m
from xenflow.routes.messages import NextHopType, Op, Section, SectionKind
from xenflow.routes.router_state import RouterState
from xenflow.tables.next_hops import next_hop_flows
from xenflow.tables.views import next_hop_view

NETWORK = load("paper").network
ROUTER = NETWORK.routers["vr1"]
FIRST, SECOND = 2, 3
CARDS = [
    m.VmInterface(FIRST, 7, 1500, ROUTER.interfaces[0].mac, ROUTER.interfaces[0].name),
    m.VmInterface(SECOND, 7, 1400, ROUTER.interfaces[1].mac, ROUTER.interfaces[1].name),
]
A_HOP, A_STATION, A_LEG = 3, 1, 7
"""Flows of one, at most (`router_state.Capacity`)."""


VIA, CONNECTED, GROUP = NextHopType.VIA, NextHopType.CONNECTED, NextHopType.GROUP
WEIGHTS = st.one_of(st.integers(1, 31), st.integers(1, 65535))


@st.composite
def said(draw: st.DrawFn) -> list[Section]:
    """Messages as a VM might say them that wants them to become many flows."""
    links = st.sampled_from((FIRST, SECOND))
    gateways = [m.NextHop(n, VIA, 4, draw(links), n, n) for n in range(1, 7)]
    connected = [
        m.NextHop(n, CONNECTED, draw(st.sampled_from((4, 4, 6))), draw(links), 0, 0)
        for n in range(7, draw(st.integers(7, 27)))
    ]
    groups = [m.NextHop(n, GROUP, 4, 0, 0, 0) for n in range(30, draw(st.integers(30, 36)))]
    legs = [
        m.Leg(group.id, n + 1, draw(WEIGHTS), n)
        for group in groups
        for n in range(draw(st.integers(0, 6)))
    ]
    stations = range(draw(st.sampled_from((0, 10, 100))))
    neighbours = [m.Neighbour(FIRST, 4, True, n, 0x0200000000 + n) for n in stations]
    return [
        Section(SectionKind.INTERFACE, Op.SET, CARDS),
        Section(SectionKind.NEXTHOP, Op.SET, [*gateways, *groups]),
        Section(SectionKind.LEG, Op.SET, legs),
        Section(SectionKind.NEIGHBOUR, Op.SET, neighbours),
        *(Section(SectionKind.NEXTHOP, Op.SET, [hop]) for hop in connected),
    ]


@settings(max_examples=60, deadline=None)
@given(said())
def test_flows_are_bounded_by_what_was_said(messages: list[Section]) -> None:
    state = RouterState()
    for section in messages:
        with suppress(m.MessageError):
            state.apply([section])
    flows = sum(
        1
        for hop in state.nexthops.values()
        for _ in next_hop_flows(NETWORK, ROUTER, next_hop_view(ROUTER, state, hop))
    )
    legs = sum(map(len, state.legs.values()))
    most = A_HOP * len(state.nexthops) + A_STATION * len(state.neighbours) + A_LEG * legs
    assert flows <= most
