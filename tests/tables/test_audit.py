"""What the audit makes of what a switch holds."""

from __future__ import annotations

from xenflow.openflow import flow as f
from xenflow.openflow.flow import Flow, match
from xenflow.tables import cookies, layout
from xenflow.tables.compare import against, covering, covers, difference


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
