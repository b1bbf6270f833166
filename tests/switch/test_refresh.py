"""Small changes of a router that wait for a switch cost together what one of them costs."""

from __future__ import annotations

import pytest

from tests.written_switch import PlayedHost
from xenflow.openflow import build, wire
from xenflow.routes import messages as m
from xenflow.routes.messages import (
    Header,
    InterfaceFlag,
    NextHop,
    NextHopType,
    Op,
    RouteMessageType,
    Section,
    SectionKind,
    VmInterface,
)
from xenflow.switch.channel import SwitchRequest
from xenflow.switch.jobs import ROOM, TURN_S, Job
from xenflow.switch.switch import HOP_COST
from xenflow.tables.layout import ROUTES

UP = InterfaceFlag.UP | InterfaceFlag.RUNNING | InterfaceFlag.FORWARDING4
ADDRESS = 10 << 24


class Told:
    """A host whose router vr1 has said all it knows; its switch may be late."""

    def __init__(self) -> None:
        self.host = PlayedHost()
        self.switch = self.host.switch
        self._seq = 1
        self._held: list[bytes] = []
        described = self.host.table.network.routers["vr1"]
        self.interfaces = [
            VmInterface(i + 2, UP, 1500, each.mac, each.name)
            for i, each in enumerate(described.interfaces)
        ]
        self._say(
            RouteMessageType.SNAPSHOT, [Section(SectionKind.INTERFACE, Op.SET, self.interfaces)]
        )
        self._say(RouteMessageType.SNAPSHOT_END, [], part=1)
        self.host.wire.run()
        assert not self.switch.jobs.busy

    def _say(self, kind: RouteMessageType, sections: list[Section], part: int = 0) -> None:
        frames = list(m.pack(Header(kind, 7, self._seq, "vr1", part), sections))
        assert self.host.table.heard("vr1", b"peer", frames, True).error is None

    def change(self, *sections: Section) -> None:
        self._seq += 1
        self._say(RouteMessageType.DELTA, list(sections))

    def policy(self, forwards: bool) -> None:
        self.change(Section(SectionKind.POLICY, Op.SET, [m.Policy(forwards, "why")]))

    def address(self, number: int) -> None:
        self.change(Section(SectionKind.LOCAL, Op.SET, [m.Local(4, 32, 2, ADDRESS + number)]))

    def late(self) -> None:
        """From now on the switch answers no barrier, and a job waits for one."""
        take = self.host.wire._take

        def hold(message: bytes) -> None:
            if message[1] == wire.MessageType.BARRIER_REQUEST:
                self._held.append(message)
            else:
                take(message)

        self.host.wire._take = hold  # type: ignore[method-assign]
        self.switch.promises.confirmed(lambda _: None)

    def answer(self) -> None:
        """The switch answers one barrier."""
        self.switch.channel.on_barrier(int.from_bytes(self._held.pop(0)[4:8], "big"))

    def catch_up(self) -> None:
        """The switch answers whatever it is asked."""
        while self._held or self.host.wire._later:
            if self._held:
                self.answer()
            self.host.wire.run()

    def has(self, number: int) -> bool:
        """Whether the switch has a flow for an address."""
        return any(
            value == ADDRESS + number
            for flow in self.host.wire.tables
            for field, value, _ in flow.match
            if field == "nw_dst"
        )


def test_changes_that_wait_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    told.late()
    plans: list[None] = []
    plan = told.switch.writer.plan
    monkeypatch.setattr(told.switch.writer, "plan", lambda: plans.append(None) or plan())
    for number in range(500):
        told.policy(number % 2 == 0)
        told.address(number)
    told.catch_up()
    assert not told.switch.jobs.busy
    assert 1 <= len(plans) <= 2
    assert told.has(0)
    assert told.has(499)
    told.address(500)
    told.catch_up()
    assert told.has(500), "a change after that is written, too"


def test_what_was_confirmed_holds_all_that_was_said_before() -> None:
    told = Told()
    told.late()
    seen: list[tuple[int, bool]] = []
    for number in range(5):
        told.address(number)
        told.switch.promises.confirmed(lambda _, n=number: seen.append((n, told.has(n))))  # type: ignore[misc]
    told.catch_up()
    assert seen == [(number, True) for number in range(5)]


def test_a_change_while_a_refresh_is_being_written_is_written_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told()
    parts = [0]
    told.late()
    told.address(1)
    write = told.switch.writer.small

    def slowly() -> Job:
        parts[0] += 1
        yield from write()
        if parts[0] == 1:
            yield told.switch.channel.barrier()

    monkeypatch.setattr(told.switch.writer, "small", slowly)
    told.answer()
    assert parts == [1]
    confirmed: list[bool] = []
    told.address(2)
    told.switch.promises.confirmed(lambda _: confirmed.append(told.has(2)))
    told.address(3)
    assert parts == [1], "it waits behind the one that is being written"
    told.catch_up()
    assert confirmed == [True]
    assert parts == [2]
    assert told.has(3)


def test_a_refresh_that_waited_for_a_switch_that_went_away_bars_no_other() -> None:
    told = Told()
    told.late()
    told.address(1)
    told.switch.disconnect()
    told._held.clear()
    told.host.wire.attach(told.switch, PlayedHost.PORTS)
    told.catch_up()
    assert told.switch.live
    told.address(2)
    told.catch_up()
    assert told.has(1)
    assert told.has(2)


def test_a_change_counts_as_what_it_costs() -> None:
    told = Told()
    hops = [NextHop(n, NextHopType.VIA, 4, 2, n, 0) for n in range(1, 101)]
    told.change(Section(SectionKind.NEXTHOP, Op.SET, hops))
    told.host.wire.run()
    told.late()
    for mtu in (1400, 1500):
        one = told.interfaces[0]
        again = VmInterface(one.ifindex, UP, mtu, one.mac, one.name)
        told.change(Section(SectionKind.INTERFACE, Op.SET, [again]))
    assert told.host.table.backlog("vr1") >= 2 * HOP_COST * len(hops)
    told.catch_up()
    assert told.host.table.backlog("vr1") == 0


def test_what_is_put_right_does_not_outlive_a_later_change() -> None:
    """Somebody else has changed a route; before it is written back the router changes it, too."""
    told = Told()
    hops = [NextHop(n, NextHopType.VIA, 4, 2, n, n) for n in (1, 2, 3)]
    first, then, last = [(ADDRESS, 24, 1)], [(ADDRESS, 24, 2)], [(ADDRESS, 24, 3)]
    told.change(
        Section(SectionKind.NEXTHOP, Op.SET, hops), Section(SectionKind.ROUTE4, Op.SET, first)
    )
    told.late()
    told.change(Section(SectionKind.ROUTE4, Op.SET, then))
    told.switch.put_right("vr1", then, [])
    told.change(
        Section(SectionKind.ROUTE4, Op.SET, last), Section(SectionKind.NEXTHOP, Op.DELETE, hops[:2])
    )
    told.catch_up()
    (route,) = (flow for flow in told.host.wire.tables if flow.table == ROUTES and flow.match)
    assert route.actions[0][4] == 3


def test_who_changes_alone_is_named() -> None:
    told = Told()
    assert told.switch.changing == []
    hops = [NextHop(n, NextHopType.VIA, 4, 2, n, 0) for n in (1, 2)]
    told.change(Section(SectionKind.NEXTHOP, Op.SET, hops))
    told.host.wire.run()
    told.late()
    told.answer()
    routes = [((10 << 24) + (n << 8), 24, 1) for n in range(10_000)]
    told.change(Section(SectionKind.ROUTE4, Op.SET, routes))
    assert told.switch.jobs.busy
    assert told.switch.changing == ["vr1"]
    told.switch.promises.confirmed(lambda _: None)
    assert told.switch.changing == [], "something else is under way"
    told.catch_up()
    assert not told.switch.jobs.busy
    assert told.switch.changing == []
    told.change(Section(SectionKind.ROUTE4, Op.SET, [(net, plen, 2) for net, plen, _ in routes]))
    assert told.switch.changing == ["vr1"]
    told.switch.disconnect()
    assert told.switch.changing == []


def test_a_refresh_that_waits_for_one_router_alone_is_its_change() -> None:
    """Another router's move is not refused for it."""
    told = Told()
    told.change(Section(SectionKind.NEXTHOP, Op.SET, [NextHop(1, NextHopType.VIA, 4, 2, 1, 1)]))
    told.host.wire.run()
    told.late()
    told.answer()
    routes = [((10 << 24) + (n << 8), 24, 1) for n in range(10_000)]
    told.change(Section(SectionKind.ROUTE4, Op.SET, routes))
    told.address(1)
    told.address(2)
    assert told.switch.jobs.busy == 3
    assert told.switch.changing == ["vr1"]
    told.switch.port_changed("vr1.0", PlayedHost.PORTS["vr1.0"], False, False)
    assert told.switch.changing == ["vr1"]
    told.switch.port_changed("to-gen", PlayedHost.PORTS["to-gen"], False, False)
    assert told.switch.changing == [], "a cable is everybody's"
    told.catch_up()
    assert not told.switch.jobs.busy and told.has(1) and told.has(2)
    told.change(Section(SectionKind.ROUTE4, Op.DELETE, routes))
    told.address(3)
    assert told.switch.changing == ["vr1"]


def test_jobs_that_wait_for_nothing_give_others_a_turn() -> None:
    host = PlayedHost()
    done = [0]

    def job() -> Job:
        for _ in range(2):
            host.now += TURN_S / 5
            yield ROOM
        done[0] += 1

    def longest_turn() -> float:
        longest, before = 0.0, host.now
        while host.wire._later:
            host.wire._later.popleft()()
            longest, before = max(longest, host.now - before), host.now
        return longest

    confirmed: list[int] = []
    switch, answer = host.switch, SwitchRequest(1, build.barrier_request(1))

    def first() -> Job:
        yield answer

    switch.jobs.submit(first())  # whatever is submitted waits
    for _ in range(50):
        switch.jobs.submit(job())
    switch.promises.confirmed(lambda _: confirmed.append(done[0]))
    assert longest_turn() <= 2 * TURN_S
    assert confirmed == [50], "the order is kept"
    assert not host.switch.jobs.busy
