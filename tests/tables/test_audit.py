"""What the audit makes of what a switch holds."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from xenflow.openflow import flow as f
from xenflow.openflow import monitor, parse, wire
from xenflow.openflow.flow import Flow, match, prefix_mask
from xenflow.openflow.monitor import FlowUpdate, FlowUpdates, UpdateEvent
from xenflow.openflow.nxm import pack_actions, pack_match
from xenflow.tables import cookies, layout
from xenflow.tables.compare import ODD, against, covering, covers, difference, route_of
from xenflow.tables.routes import RoutePacker

PACKER = RoutePacker(layout.ROUTES, layout.NEXT_HOPS, layout.Routes.PREFIX)


def own(priority: int, *actions: f.Action, table: int = 0, **what: object) -> Flow:
    return Flow(table, priority, match(**what), actions, cookies.of(table))  # type: ignore[arg-type]


LEFT = own(300, f.output(1), in_port=1)
REST = own(0)
BELIEVED = {flow.key: flow for flow in (LEFT, REST, own(5, table=2))}


def test_what_is_gone_or_reads_otherwise_is_written_and_what_is_too_much_deleted() -> None:
    changed = Flow(0, 0, (), (f.normal(),))
    stray = own(40, in_port=7)
    foreign = Flow(0, 50, match(in_port=7), ())
    seen = {LEFT.key: None, REST.key: changed, stray.key: stray, foreign.key: foreign}
    found = difference(seen, BELIEVED, {})
    assert found.batches == [[(True, LEFT), (True, REST)], [(False, stray)]]
    assert found.mended == 3


def test_nothing_is_done_where_nothing_differs() -> None:
    assert difference(against(0, [LEFT, REST], BELIEVED), BELIEVED, {}).batches == []
    assert difference(against(0, [LEFT], BELIEVED), BELIEVED, {}).batches == [[(True, REST)]]


def test_a_form_that_was_accepted_is_left_but_no_other() -> None:
    form = own(300, in_port=1)
    accepted = {LEFT.key: (LEFT, form)}
    assert difference({LEFT.key: form}, BELIEVED, accepted).mended == 0
    assert difference({LEFT.key: None}, BELIEVED, accepted).mended == 1
    other = own(300, f.output(2), in_port=1)
    assert difference({LEFT.key: other}, BELIEVED, accepted).mended == 1


def test_what_was_accepted_of_another_flow_is_not_of_this_one() -> None:
    """The old form would be what the switch still holds of the flow before."""
    form = own(300, in_port=1)
    now_wanted = own(300, f.output(2), in_port=1)
    found = difference({LEFT.key: form}, {LEFT.key: now_wanted}, {LEFT.key: (LEFT, form)})
    assert found.batches == [[(True, now_wanted)]]
    # One that was accepted and is wanted no more is deleted.
    assert difference({LEFT.key: form}, {}, {LEFT.key: (LEFT, form)}).batches == [[(False, form)]]


def test_exact_flows_of_the_reactive_pipeline_come_and_go() -> None:
    exact = Flow(0, 20000, match(in_port=1), (), cookies.exact(1, 2))
    assert difference({exact.key: exact}, BELIEVED, {}).mended == 0


def test_a_flow_covers_those_below_it_that_share_a_packet() -> None:
    hub = Flow(0, 0x8000, (), (f.normal(),))
    assert covers(hub, LEFT) and covers(hub, REST)
    assert covers(Flow(0, 300, match(in_port=1, dl_type=f.IPV4), ()), LEFT)
    assert not covers(Flow(0, 299, match(in_port=1), ()), LEFT)
    assert not covers(Flow(0, 400, match(in_port=2), ()), LEFT)
    assert not covers(Flow(1, 400, (), ()), LEFT)
    ten, eleven = (match(dl_type=f.IPV4, nw_dst=(n << 24, 0xFF << 24)) for n in (10, 11))
    half = match(dl_type=f.IPV4, nw_dst=(10 << 24 | 1 << 23, 0xFF80 << 16))
    assert covers(Flow(0, 9, half, ()), Flow(0, 8, ten, ()))
    assert not covers(Flow(0, 9, eleven, ()), Flow(0, 8, half, ()))
    route = Flow(layout.ROUTES, 2000, (), ())
    assert covering([hub, route], BELIEVED, routes=True) == [hub, route]
    assert covering([route], BELIEVED, routes=False) == []


routes = st.tuples(
    st.integers(1, 0xFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 32),
    st.integers(0, 0xFFFFFFFF),
)


def route_flow(router: int, net: int, plen: int, hop: int) -> Flow:
    net &= prefix_mask(plen)
    own_cookie = cookies.of(layout.ROUTES, router, cookies.route_chunk(net))
    return PACKER.route_flow(router, net, plen, hop, own_cookie)


@given(routes)
def test_a_route_is_known_by_its_match(route: tuple[int, int, int, int]) -> None:
    router, net, plen, hop = route
    flow = route_flow(*route)
    key = (net & prefix_mask(plen)) << 8 | plen
    assert route_of(flow) == (router, key, hop)
    assert route_of(Flow(flow.table, flow.priority, flow.match, ())) == (router, key, ODD)
    assert route_of(Flow(flow.table, 999, flow.match, ())) is None


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
    raw = message(small, *(update(event, route_flow(*route)) for event, route in told), abbreviated)
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
                for e, g in ((event, route_flow(*route)) for event, route in told)
            ),
        ),
        (17,),
    )
    assert [(u.event, u.router, u.net, u.plen) for u in found] == [
        (event, router, net & prefix_mask(plen), plen) for event, (router, net, plen, _) in told
    ]
    assert [u.nexthop for u in found if u.event != UpdateEvent.DELETED] == [
        route[3] for event, route in told if event is not UpdateEvent.DELETED
    ]
