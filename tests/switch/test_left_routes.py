"""What a switch holds of a router's routes is not taken for known where it is not: the router has
left and come back, or its first snapshot has broken off."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest

from tests.control.test_change import CAMPUS, HOST, Host
from xenflow.model.network import Network
from xenflow.model.placement import Placement
from xenflow.plan.laying import lay
from xenflow.routes import messages as m
from xenflow.routes.messages import NextHopType, Op, RouteMessageType, Section, SectionKind
from xenflow.routes.router_state import RouterState
from xenflow.routes.sender import snapshot_messages
from xenflow.switch import writer as writers
from xenflow.switch.jobs import Job
from xenflow.tables import cookies, layout

ROUTER, ELSEWHERE = "r5", "host-c"
DESCRIBED = CAMPUS.network.routers[ROUTER]
KEY, HOP = next(iter(CAMPUS.states[ROUTER].routes.items()))


def state(seq: int = 1) -> RouterState:
    made = copy.deepcopy(CAMPUS.states[ROUTER])
    made.epoch, made.seq = 9, seq
    return made


def say(host: Host, frames: list[bytes]) -> None:
    assert host.table.heard(ROUTER, b"peer", frames, local=True).error is None


def say_all(host: Host, told: RouterState) -> None:
    for frames in snapshot_messages(told, ROUTER):
        say(host, frames)


def delta(*sections: Section, seq: int = 2) -> list[bytes]:
    return m.pack(m.Header(RouteMessageType.DELTA, 9, seq, ROUTER), list(sections))


def place(host: Host, at: str) -> None:
    version = host.switch.placements[ROUTER].version + 1
    host.table.place(Placement(ROUTER, (at,), at, at, version=version), [HOST], False, print)


def held(host: Host, router: int = DESCRIBED.id) -> dict[int, int]:
    """The router's routes in the switch: net << 8 | prefix length to next hop."""
    found = {}
    for flow in host.wire.tables:
        if flow.table == layout.ROUTES and cookies.router_of(flow.cookie) == router:
            net = next((value for field, value, _ in flow.match if field == "nw_dst"), 0)
            found[net << 8 | flow.priority - layout.Routes.PREFIX] = flow.actions[0][4]
    return found


def occupied(host: Host) -> None:
    """The switch is being written for somebody else."""

    def somebody() -> Job:
        yield 0.5

    host.switch.jobs.submit(somebody())


def settle(host: Host) -> None:
    """Until everything is written, also what waits for a moment."""
    host.wire.run()
    for _ in range(len(host.wire.waiting)):
        host.wire.pass_time()
    host.wire.run()


class Unheard(Host):
    """The router is here, and has not said anything yet."""

    def settle_here(self, router: str) -> None:
        if router != ROUTER:
            super().settle_here(router)


@pytest.fixture
def host() -> Host:
    made = Unheard(CAMPUS.network)
    place(made, HOST)
    made.wire.run()
    return made


@pytest.mark.parametrize("begun", [True, False])
def test_a_router_that_comes_back_before_it_was_forgotten(host: Host, begun: bool) -> None:
    told = state()
    say_all(host, told)
    host.wire.run()
    occupied(host)
    place(host, ELSEWHERE)
    if begun:
        host.wire.run()
    say(host, delta(Section(SectionKind.ROUTE4, Op.DELETE, [(KEY >> 8, KEY & 255, HOP)])))
    place(host, HOST)
    settle(host)
    assert held(host) == {key: hop for key, hop in told.routes.items() if key != KEY}


def test_a_router_that_leaves_while_its_first_snapshot_streams_in(host: Host) -> None:
    *parts, _ = snapshot_messages(state(), ROUTER, part_records=25)
    for frames in parts:
        say(host, frames)
    settle(host)
    assert held(host)
    place(host, ELSEWHERE)
    settle(host)
    assert held(host) == {}


@pytest.mark.parametrize("another", [False, True])
def test_a_snapshot_after_one_that_broke_off_before_its_end(host: Host, another: bool) -> None:
    """It has as many routes; those that were written already need not be its."""
    *parts, _ = snapshot_messages(state(), ROUTER)
    for frames in parts:
        say(host, frames)
    settle(host)
    told = state(2)
    hop = next(id_ for id_ in told.nexthops if id_ != HOP) if another else HOP
    told.apply([Section(SectionKind.ROUTE4, Op.SET, [(KEY >> 8, KEY & 255, hop)])])
    say_all(host, told)
    settle(host)
    assert held(host) == told.routes


def without(network: Network) -> Network:
    routers = {name: r for name, r in network.routers.items() if name != ROUTER}
    return lay(replace(network, routers=routers))


@pytest.mark.parametrize("number", [DESCRIBED.id, 77])
def test_a_router_that_is_taken_out_and_put_back(host: Host, number: int) -> None:
    say_all(host, state())
    host.wire.run()
    occupied(host)
    host.table.change(without(CAMPUS.network))
    again = {**CAMPUS.network.routers, ROUTER: replace(DESCRIBED, id=number)}
    host.table.change(lay(replace(CAMPUS.network, routers=again)))
    place(host, HOST)
    told = state()
    told.apply([Section(SectionKind.ROUTE4, Op.DELETE, [(KEY >> 8, KEY & 255, HOP)])])
    say_all(host, told)
    settle(host)
    assert held(host, number) == told.routes
    assert number == DESCRIBED.id or held(host) == {}


def interrupted(host: Host, turns: int) -> Iterator[None]:
    for _ in range(turns):
        if not host.wire._later:
            return
        host.wire._later.popleft()()
        yield


@pytest.mark.parametrize("turns", range(0, 12, 2))
def test_a_link_that_goes_while_next_hops_are_made(host: Host, turns: int) -> None:
    """The router is not set aside for what it never said."""
    say_all(host, state())
    host.wire.run()
    turn_s = count(1000, 0.021)  # each look at the clock ends a turn: it is made in several
    object.__setattr__(host.wire.clock, "now", lambda: next(turn_s))
    link = CAMPUS.network.links["right"]
    index = next(n for n, i in enumerate(DESCRIBED.interfaces) if i.link == link.name) + 2
    vias = [
        m.NextHop(50000 + n, NextHopType.VIA, 4, index, 0x0A640000 + n, 0x020000010000 + n)
        for n in range(1000)
    ]
    say(host, delta(Section(SectionKind.NEXTHOP, Op.SET, vias)))
    for _ in interrupted(host, turns):
        pass
    links = {name: each for name, each in CAMPUS.network.links.items() if name != link.name}
    links["east"] = replace(link, name="east", id=70, vlan=170, detour_vlan=1170)
    moved = replace(
        DESCRIBED,
        interfaces=tuple(
            replace(i, link="east") if i.link == link.name else i for i in DESCRIBED.interfaces
        ),
    )
    routers = {**CAMPUS.network.routers, ROUTER: moved}
    host.table.change(lay(replace(CAMPUS.network, links=links, routers=routers)))
    settle(host)
    assert list(host.switch.aside) == []


@pytest.mark.parametrize("read", [True, False])
def test_of_a_router_that_is_gone_while_a_switch_is_read_back_nothing_stays(
    host: Host, monkeypatch: pytest.MonkeyPatch, read: bool
) -> None:
    """Whether its routes have been read already, or not."""
    say_all(host, state())
    settle(host)
    waits = []

    def must_wait(holds_flows: bool) -> bool:
        waits.append(holds_flows)
        return len(waits) < 3

    monkeypatch.setattr(host.table, "must_wait", must_wait)
    host.switch.read_again()
    while read and not waits:
        host.wire._later.popleft()()
    routers = {name: each for name, each in CAMPUS.network.routers.items() if name != ROUTER}
    host.table.change(lay(replace(CAMPUS.network, routers=routers)))
    settle(host)
    assert not any(cookies.router_of(flow.cookie) == DESCRIBED.id for flow in host.wire.tables)
    assert host.switch.routes.found == {} and host.switch.routes.unsure == set()


def test_a_router_that_has_left_is_not_set_aside(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the switch has refused of it is heard later."""
    monkeypatch.setattr(writers, "MANY_ROUTES", 3)
    place(host, ELSEWHERE)
    host.wire.run()
    say_all(host, state())
    host.wire.limits = {layout.ROUTES: sum(f.table == layout.ROUTES for f in host.wire.tables) + 4}
    place(host, HOST)
    while host.wire._later:
        if host.wire.refused and host.switch.writer._trying:
            place(host, ELSEWHERE)
            break
        host.wire._later.popleft()()
    settle(host)
    assert host.wire.refused and list(host.switch.aside) == []
    assert host.table.problems_of(ROUTER) == []
