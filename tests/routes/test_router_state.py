"""The state of a router: applied whole or not at all, any state reachable from any other."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenflow.routes import messages as m
from xenflow.routes.family import V6
from xenflow.routes.messages import Leg, NextHop, NextHopType, Op, Section, SectionKind
from xenflow.routes.router_state import Capacity, RouterState, together

VIA = NextHopType.VIA


def via(id_, gateway=1, mac=0):
    return NextHop(id_, VIA, 4, 2, gateway, mac)


def group(id_):
    return NextHop(id_, NextHopType.GROUP, 4, 0, 0, 0)


def put(kind, *records):
    return Section(kind, Op.SET, list(records))


def drop(kind, *records):
    return Section(kind, Op.DELETE, list(records))


@st.composite
def states(draw):
    """Any state whose references hold."""
    flat = draw(st.lists(st.integers(1, 12), unique=True, max_size=6))
    groups = draw(st.lists(st.integers(20, 25), unique=True, max_size=3)) if flat else []
    state = RouterState()
    sections = [
        put(
            SectionKind.NEXTHOP,
            *[via(i, draw(st.integers(1, 3)), draw(st.integers(0, 2))) for i in flat],
        ),
        put(SectionKind.NEXTHOP, *map(group, groups)),
    ]
    for g in groups:
        legs = draw(st.lists(st.sampled_from(flat), max_size=3))
        sections.append(put(SectionKind.LEG, *[Leg(g, leg, 1, n) for n, leg in enumerate(legs)]))
    targets = flat + groups
    if targets:
        keys = draw(st.lists(st.integers(0, 30), unique=True, max_size=12))
        routes = [(k << 8, 24, draw(st.sampled_from(targets))) for k in keys]
        sections.append(put(SectionKind.ROUTE4, *routes))
        sections.append(
            put(SectionKind.ROUTE6, *[(k << 64, V6.span(64), nh) for k, _, nh in routes[:4]])
        )
    for ifindex in draw(st.lists(st.integers(2, 5), unique=True, max_size=3)):
        flags = draw(st.integers(0, 7))
        sections.append(
            put(SectionKind.INTERFACE, m.VmInterface(ifindex, flags, 1500, 5, f"e{ifindex}"))
        )
        sections.append(put(SectionKind.LOCAL, m.Local(4, 32, ifindex, draw(st.integers(0, 3)))))
        sections.append(put(SectionKind.NEIGHBOUR, m.Neighbour(ifindex, 4, True, 9, flags)))
    sections.append(put(SectionKind.POLICY, m.Policy(draw(st.booleans()), "why")))
    state.apply(sections)
    return state


def held(state):
    """Everything in it, to be compared."""
    return (
        state.interfaces,
        state.locals,
        state.nexthops,
        state.legs,
        state.neighbours,
        state.routes,
        state.policy,
        +state.uses,
        +state.leg_uses,
    )


@given(states(), states())
def test_sections_lead_from_any_state_to_any_other(old, new):
    expected = old.diff(new)
    turned = [
        s.records for s in old.sections_to(new) if s.kind is SectionKind.NEXTHOP and s.op is Op.SET
    ]
    changes = old.apply(old.sections_to(new))
    assert held(old) == held(new)
    assert old.same(new)
    assert not old.sections_to(new)
    assert sorted(changes.routes) == sorted(expected.routes)
    assert sorted(changes.gone) == sorted(expected.gone)
    assert changes.nexthops == expected.nexthops, turned
    assert changes.neighbours == expected.neighbours
    assert changes.interfaces == expected.interfaces
    assert changes.locals == expected.locals
    assert changes.policy == expected.policy


@given(states(), st.integers(1, 7))
def test_a_snapshot_rebuilds_the_state(state, size):
    again = RouterState()
    for sections in state.snapshot(size):
        assert sum(len(s.records) for s in sections) <= size
        again.apply(sections)
    assert held(again) == held(state)


BAD = [
    put(SectionKind.ROUTE4, (0, 0, 99)),
    put(SectionKind.ROUTE4, (0, 0, 99), (0, 0, 1)),
    put(SectionKind.ROUTE6, (0, V6.span(0), 99)),
    put(SectionKind.LEG, Leg(99, 1, 1, 0)),
    put(SectionKind.NEXTHOP, group(77)),
]


@settings(max_examples=200)
@given(states(), states(), st.sampled_from(BAD[:-1]))
def test_a_refused_update_leaves_no_trace(old, new, bad):
    before = copy.deepcopy(held(old))
    with pytest.raises(m.MessageError):
        old.apply([*old.sections_to(new), bad])
    assert held(old) == before


@given(states(), states())
def test_become_keeps_the_object_and_says_what_changed(old, new):
    expected, before = held(new), copy.deepcopy(held(old))
    changes = old.become(new)
    assert held(old) == expected
    assert bool(changes) == (before != expected)


def loaded():
    state = RouterState()
    state.apply(
        [put(SectionKind.NEXTHOP, via(1), via(2), group(3)), put(SectionKind.LEG, Leg(3, 2, 1, 0))]
    )
    state.apply([put(SectionKind.ROUTE4, (10 << 24, 8, 1), (11 << 24, 8, 3))])
    return state


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (put(SectionKind.ROUTE4, (0, 0, 9)), "no next hop 9"),
        (drop(SectionKind.NEXTHOP, via(1)), "next hop 1 is in use"),
        (drop(SectionKind.NEXTHOP, via(2)), "next hop 2 is in use"),
        (put(SectionKind.LEG, Leg(1, 2, 1, 0)), "next hop 1 is no group"),
        (put(SectionKind.LEG, Leg(3, 9, 1, 0)), "no next hop 9"),
        (put(SectionKind.NEXTHOP, via(3)), "cannot turn"),
        (put(SectionKind.NEXTHOP, group(1)), "cannot turn"),
    ],
)
def test_references_hold(section, words):
    state = loaded()
    before = copy.deepcopy(held(state))
    with pytest.raises(m.MessageError, match=words):
        state.apply([section])
    assert held(state) == before


def test_routes_in_bulk_come_out_as_they_came_in():
    state = loaded()
    records = [(n << 8, 24, 1) for n in range(2000)]
    assert state.apply([put(SectionKind.ROUTE4, *records)]).routes == records
    assert state.uses[1] == 2001


def test_only_what_differs_is_a_change():
    state = loaded()
    changes = state.apply([put(SectionKind.ROUTE4, (10 << 24, 8, 1), (12 << 24, 8, 1))])
    assert list(changes.routes) == [(12 << 24, 8, 1)]
    assert not state.apply([put(SectionKind.NEXTHOP, via(1))])
    changes = state.apply(
        [drop(SectionKind.ROUTE4, (10 << 24, 8, 0)), put(SectionKind.ROUTE4, (10 << 24, 8, 2))]
    )
    assert (list(changes.routes), list(changes.gone)) == ([(10 << 24, 8, 2)], [])
    changes = state.apply([drop(SectionKind.ROUTE4, (10 << 24, 8, 0), (99 << 24, 8, 0))])
    assert (list(changes.routes), list(changes.gone)) == ([], [(10 << 24, 8, 2)])


def test_capacity_is_kept():
    state = RouterState(Capacity(routes=3, nexthops=2, legs=1))
    state.apply(
        [put(SectionKind.NEXTHOP, via(1)), put(SectionKind.ROUTE4, (0, 8, 1), (1 << 24, 8, 1))]
    )
    with pytest.raises(m.MessageError, match="more than 3"):
        state.apply([put(SectionKind.ROUTE4, (2 << 24, 8, 1), (3 << 24, 8, 1))])
    state.apply([put(SectionKind.ROUTE4, (2 << 24, 8, 1), (1 << 24, 8, 1))])
    with pytest.raises(m.MessageError, match="more than 2"):
        state.apply([put(SectionKind.NEXTHOP, via(2), via(3))])
    assert set(state.nexthops) == {1}


ONE_OF_EACH = {
    "interfaces": [m.VmInterface(n, 7, 1500, n, "") for n in (2, 3)],
    "locals": [m.Local(4, 32, 2, n) for n in (2, 3)],
    "nexthops": [via(n) for n in (2, 3)],
    "legs": [Leg(9, 1, 1, n) for n in (2, 3)],
    "neighbours": [m.Neighbour(2, 4, True, n, n) for n in (2, 3)],
    "routes": [(n << 24, 8, 1) for n in (2, 3)],
}
KINDS = {"routes": SectionKind.ROUTE4}


@pytest.mark.parametrize("what", ONE_OF_EACH)
def test_at_its_limit_one_thing_may_take_another_s_place(what):
    """In the order in which routerd says it: what is new first."""
    old, new = ONE_OF_EACH[what]
    kind = KINDS.get(what) or SectionKind[what.removesuffix("s").upper()]
    state = RouterState()
    state.apply([put(SectionKind.NEXTHOP, via(1), group(9)), put(kind, old)])
    state.capacity = Capacity(**{what: 3 if what == "nexthops" else 1})
    before = copy.deepcopy(held(state))
    with pytest.raises(m.MessageError, match="all sections: more than"):
        state.apply([put(kind, new)])
    assert held(state) == before
    state.apply([put(kind, new), drop(kind, old)])
    assert held(state) != before and not state.excess()


def connected(id_, ifindex=2, family=4):
    return NextHop(id_, NextHopType.CONNECTED, family, ifindex, 0, 0)


def test_a_link_has_one_connected_next_hop_of_a_family():
    """Each would lead to all neighbours there: a product of two tables."""
    state = loaded()
    state.apply(
        [put(SectionKind.NEXTHOP, connected(5), connected(6, family=6), connected(7, ifindex=3))]
    )
    before, links = copy.deepcopy(held(state)), dict(state.connected)
    with pytest.raises(m.MessageError, match="next hops 5 and 8 are both all of interface 2"):
        state.apply([put(SectionKind.NEXTHOP, via(9)), put(SectionKind.NEXTHOP, connected(8))])
    with pytest.raises(m.MessageError, match="both"):
        state.apply([put(SectionKind.NEXTHOP, connected(7))])
    assert (held(state), state.connected) == (before, links)
    assert links == {(2, 4): 5, (2, 6): 6, (3, 4): 7}


def test_one_message_may_give_a_link_another_connected_next_hop():
    state = loaded()
    state.apply([put(SectionKind.NEXTHOP, connected(5), connected(7, ifindex=3))])
    state.apply([put(SectionKind.NEXTHOP, connected(8)), drop(SectionKind.NEXTHOP, connected(5))])
    assert state.connected == {(2, 4): 8, (3, 4): 7}
    state.apply([put(SectionKind.NEXTHOP, connected(8, ifindex=3), connected(7))])
    assert state.connected == {(2, 4): 7, (3, 4): 8}
    state.apply([put(SectionKind.NEXTHOP, via(7))])
    assert state.connected == state.copy().connected == {(3, 4): 8}


def test_all_groups_together_have_so_many_legs():
    state = RouterState(Capacity(all_legs=4))
    state.apply([put(SectionKind.NEXTHOP, *map(via, (1, 2, 3)), *map(group, (10, 11)))])
    both = [Leg(g, n, 1, n) for g in (10, 11) for n in (1, 2)]
    state.apply([put(SectionKind.LEG, *both)])
    before = copy.deepcopy(held(state))
    with pytest.raises(m.MessageError, match="more than 4 legs of all groups"):
        state.apply([put(SectionKind.LEG, Leg(11, 3, 1, 3))])
    assert held(state) == before
    state.apply([put(SectionKind.LEG, Leg(11, 3, 1, 3)), drop(SectionKind.LEG, Leg(10, 1, 1, 1))])
    assert not state.excess()
    state.capacity = Capacity(all_legs=3)
    assert state.excess() == "more than 3 legs of all groups"


@given(states(), st.lists(states(), min_size=1, max_size=3))
def test_changes_that_followed_one_another_are_as_one(old, news):
    was = old.copy()
    one = together([old.apply(old.sections_to(new)) for new in news])
    whole = was.diff(old)
    for name in ("interfaces", "locals", "nexthops", "neighbours"):
        assert getattr(one, name) >= getattr(whole, name)
    assert one.policy or not whole.policy
    added = {net << 8 | span: hop for net, span, hop in one.routes}
    gone = {net << 8 | span for net, span, _ in one.gone}
    assert {**was.routes, **added}.keys() - gone == old.routes.keys()
    assert {k: hop for k, hop in {**was.routes, **added}.items() if k not in gone} == old.routes
    assert not added.keys() & gone
