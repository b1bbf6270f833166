"""Table ROUTES: routes packed as the general functions pack them, and read back."""

from __future__ import annotations

import struct
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from xenflow.openflow import build, monitor, parse, wire
from xenflow.openflow import flow as fl
from xenflow.openflow.flow import Flow, match
from xenflow.openflow.monitor import FlowUpdate, FlowUpdates, UpdateEvent
from xenflow.openflow.nxm import pack_actions, pack_match
from xenflow.routes.family import V6, family_of, netmask
from xenflow.tables import cookies, layout
from xenflow.tables.families import DESTINATIONS
from xenflow.tables.routes import ODD, RoutePacker, route_flow, route_of

PACKER = RoutePacker()
LEFT = Flow(0, 300, match(in_port=1), (fl.output(1),), cookies.of(0))


SPANS = st.integers(0, 32) | st.integers(127, 255)
NETS = st.integers(0, (1 << 128) - 1)


def address(net: int, span: int) -> int:
    """What of a random number is an address of the span's family."""
    return net & (1 << family_of(span).bits) - 1


@given(
    span=SPANS,
    net=NETS,
    router=st.integers(0, 0xFFFFFFFF),
    nexthop=st.integers(0, 0xFFFFFFFF),
    cookie=st.integers(0, 0xFFFFFFFFFFFFFFFE),
)
def test_routes_are_packed_as_flow_mod_packs_them(
    span: int, net: int, router: int, nexthop: int, cookie: int
) -> None:
    net = address(net, span)
    flow = route_flow(router, net, span, nexthop, cookie)
    assert PACKER.add(router, net, span, nexthop, cookie) == build.flow_mod(flow)
    deleted = build.flow_mod(flow, wire.FlowModCommand.DELETE_STRICT)
    assert PACKER.delete(router, net, span, cookie) == deleted


def test_routes_in_bulk() -> None:
    random = Random(1)
    routes = [(random.getrandbits(32), random.randrange(33), i) for i in range(2000)]
    routes += [(random.getrandbits(32), random.choice((24, 24, 24, 32)), i) for i in range(2000)]
    routes += [(random.getrandbits(32), 22, 0xFFFFFFFF - i) for i in range(2000)]
    routes += [(random.getrandbits(128), random.randrange(127, 256), i) for i in range(2000)]
    routes += [(random.getrandbits(128), V6.span(48), i) for i in range(2000)]
    cookies = [n >> 24 & 0xFF | p << 8 | random.getrandbits(32) << 32 for n, p, _ in routes]
    chunks = PACKER.pack_adds(7, routes, cookies)
    assert all(len(chunk) <= 34000 for chunk in chunks) and len(chunks[0]) > 30000
    one_by_one = [PACKER.add(7, *r, own) for r, own in zip(routes, cookies, strict=True)]
    assert b"".join(chunks) == b"".join(one_by_one)
    for chunk in chunks:
        messages, rest = wire.split(chunk)
        assert messages and not rest
    assert PACKER.pack_adds(7, [], []) == []


routes = st.tuples(
    st.integers(1, 0xFFFF),
    NETS,
    SPANS,
    st.integers(0, 0xFFFFFFFF),
)


def route(router: int, net: int, span: int, hop: int) -> Flow:
    net &= netmask(span)
    own_cookie = cookies.of(layout.ROUTES, router, cookies.route_chunk(net))
    return route_flow(router, net, span, hop, own_cookie)


@given(routes)
def test_a_route_is_known_by_its_match(each: tuple[int, int, int, int]) -> None:
    router, net, span, hop = each
    flow = route(*each)
    key = (net & netmask(span)) << 8 | span
    assert route_of(flow) == (router, key, hop)
    assert route_of(Flow(flow.table, flow.priority, flow.match, ())) == (router, key, ODD)
    assert route_of(Flow(flow.table, 999, flow.match, ())) is None
    assert route_of(replace(flow, cookie=1)) == (router, key, ODD)
    too_wide = (fl.load("dl_src", 1 << 40), *flow.actions[1:])
    assert route_of(replace(flow, actions=too_wide)) == (router, key, ODD)
    for name, value in (("reg1", (router, 1)), ("reg1", 0), ("in_port", 3), ("dl_type", 0x806)):
        fields = {n: v if m is None else (v, m) for n, v, m in flow.match if n not in DESTINATIONS}
        found = route_of(replace(flow, match=match(**{**fields, name: value})))
        assert found is None


def update(event: UpdateEvent, flow: Flow) -> bytes:
    """As Open vSwitch 3.1 packs it: the Ethernet type, the prefix, the register."""
    packed = pack_match(flow.match)
    body = packed + bytes(-len(packed) % 8)
    if event is not UpdateEvent.DELETED:
        body += pack_actions(flow.actions)
    head = struct.pack(
        "!HHHHHHHBxQ",
        24 + len(body),
        event,
        0,
        flow.priority,
        0,
        0,
        len(packed),
        flow.table,
        flow.cookie,
    )
    return head + body


def message(*updates: bytes) -> bytes:
    body = struct.pack("!HHII4x", 0xFFFF, 0, wire.NX_VENDOR, 2) + b"".join(updates)
    return struct.pack("!BBHI", 1, 17, 8 + len(body), 0) + body


@given(st.lists(st.tuples(st.sampled_from(UpdateEvent), routes), max_size=5))
def test_what_a_flow_monitor_tells_is_understood(
    told: list[tuple[UpdateEvent, tuple[int, int, int, int]]],
) -> None:
    small = update(UpdateEvent.ADDED, LEFT)
    abbreviated = struct.pack("!HHI", 8, 3, 17)
    raw = message(small, *(update(event, route(*each)) for event, each in told), abbreviated)
    assert monitor.is_updates(raw)
    found, rest = PACKER.read_updates(raw)
    assert rest == FlowUpdates(0, (FlowUpdate(UpdateEvent.ADDED, LEFT),), (17,))
    assert parse.message(raw) == FlowUpdates(
        0,
        (
            FlowUpdate(UpdateEvent.ADDED, LEFT),
            *(
                FlowUpdate(
                    e,
                    Flow(
                        g.table,
                        g.priority,
                        g.match,
                        () if e is UpdateEvent.DELETED else g.actions,
                        g.cookie,
                    ),
                )
                for e, g in ((event, route(*each)) for event, each in told)
            ),
        ),
        (17,),
    )
    assert [(u.event, u.router, u.net, u.span) for u in found] == [
        (event, router, net & netmask(span), span) for event, (router, net, span, _) in told
    ]
    assert [u.nexthop for u in found if u.event != UpdateEvent.DELETED] == [
        each[3] for event, each in told if event is not UpdateEvent.DELETED
    ]
