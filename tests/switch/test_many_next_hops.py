"""A router with very many next hops, or addresses: others have their turn while they are compiled
and written."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import pytest

from tests.switch.test_update_order import (
    FIRST,
    GROUP,
    PAPER,
    SECOND,
    THREE_LEGS,
    Host,
    as_before,
    at_home_in_paper,
    busy,
    by,
    messages_of,
    router_with,
    update,
)
from xenflow.openflow.flow import Flow
from xenflow.routes import messages as m
from xenflow.routes.messages import NextHopType, Op, Section, SectionKind
from xenflow.routes.router_state import RouterState
from xenflow.switch import wanted
from xenflow.switch import writer as writers
from xenflow.switch.installed import PIECE
from xenflow.switch.jobs import ROOM, Job
from xenflow.tables import layout, pipeline, views
from xenflow.tables.order import FlowChanges
from xenflow.tables.pipeline import local_flows, owners, owners_of

MANY = 4 * PIECE
VR1 = PAPER.network.routers["vr1"]


def many() -> RouterState:
    """Many gateways, groups and stations, and as many cards as a router may have."""
    state = router_with([by(4)], [], 4)
    card = VR1.interfaces[0]
    state.apply(
        [
            Section(
                SectionKind.INTERFACE,
                Op.SET,
                [m.VmInterface(n, 7, 1400, card.mac, "") for n in range(4, 256)],
            ),
            Section(
                SectionKind.NEXTHOP,
                Op.SET,
                [
                    m.NextHop(5, NextHopType.CONNECTED, 4, FIRST, 0, 0),
                    *(m.NextHop(10 + n, NextHopType.VIA, 4, SECOND, n, 1 + n) for n in range(MANY)),
                    *(m.NextHop(10_000 + n, NextHopType.GROUP, 4, 0, 0, 0) for n in range(PIECE)),
                ],
            ),
            Section(
                SectionKind.LEG,
                Op.SET,
                [m.Leg(10_000 + n, 10 + k, 1, k) for n in range(PIECE) for k in (0, 1)],
            ),
            Section(
                SectionKind.NEIGHBOUR,
                Op.SET,
                [m.Neighbour(FIRST, 4, True, n, 1 + n) for n in range(MANY)],
            ),
        ]
    )
    return state


class Steps:
    """Counts the flows that a job compiles and writes from one pause to the next."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compiled = self.written = self.cards = 0
        compile_, write = wanted.next_hop_flows, host.writer.installed.write
        look_up = views.Cards

        def compiled(*said: Any) -> Iterator[Any]:
            for flow in compile_(*said):
                self.compiled += 1
                yield flow

        def written(*said: Any) -> None:
            self.written += 1
            write(*said)

        def cards(*said: Any) -> views.Cards:
            self.cards += 1
            return look_up(*said)

        monkeypatch.setattr(wanted, "next_hop_flows", compiled)
        monkeypatch.setattr(host.writer.installed, "write", written)
        for module in (writers, views):
            monkeypatch.setattr(module, "Cards", cards)

    def count_local_flows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Those of each table's module, too."""

        def counted(compile_: Callable[..., Iterator[Flow]]) -> Callable[..., Iterator[Flow]]:
            def compiled(*said: Any) -> Iterator[Flow]:
                for flow in compile_(*said):
                    self.compiled += 1
                    yield flow

            return compiled

        for name in ("classes_of", "ingress_of", "admission_of", "links_of", "vm_of"):
            monkeypatch.setattr(pipeline, name, counted(getattr(pipeline, name)))

    def longest(self, job: Job) -> int:
        """Carry a job out; the most flows in one step."""
        most = 0
        for awaited in job:
            most = max(most, self.compiled, self.written)
            self.compiled = self.written = 0
            if awaited != ROOM:
                break  # it waits for an answer: all is written
        return max(most, self.compiled, self.written)


@pytest.mark.parametrize(
    ("goes", "change"),
    [
        ("come", lambda host: update(host, many())),
        ("go", lambda host: update(host, router_with([by(4)], [], 4))),
    ],
)
def test_many_next_hops_come_and_go_piece_by_piece(
    goes: str, change: Callable[[Host], Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = at_home_in_paper(many() if goes == "go" else router_with([by(4)], [], 4))
    host.writer.jobs.submit(busy())
    change(host)()
    steps = Steps(host, monkeypatch)
    assert steps.longest(host.writer.writer.update("vr1")) <= PIECE
    assert steps.cards <= 2, "looked up once, and once more for a state that stays as it is"


def test_a_card_that_flaps_and_a_station_are_compiled_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = at_home_in_paper(many())
    for section in (
        Section(
            SectionKind.INTERFACE, Op.SET, [m.VmInterface(255, 3, 1400, VR1.interfaces[0].mac, "")]
        ),
        Section(SectionKind.NEIGHBOUR, Op.SET, [m.Neighbour(FIRST, 4, True, 0, 0x02AA)]),
    ):
        host.writer.jobs.submit(busy())
        state = host.known.states["vr1"]
        host.writer.changed("vr1", state.apply([section]), True, len(state.routes))
        with monkeypatch.context() as patch:
            steps = Steps(host, patch)
            assert steps.longest(host.writer.writer.update("vr1")) <= PIECE
        host.written.run()


def test_a_router_that_comes_or_goes_is_written_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = at_home_in_paper(many())
    steps = Steps(host, monkeypatch)
    assert steps.longest(host.writer.writer.sync("vr1")) <= PIECE
    host.writer.placements.pop("vr1")
    host.writer.writer._remake_groups = lambda: iter(())  # type: ignore[assignment, method-assign]
    assert steps.longest(host.writer.writer.forget(VR1)) <= PIECE


def test_what_is_said_while_others_have_their_turn_comes_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is being compiled is the state as of its beginning: routes still lead to what a later
    change takes away."""
    host = at_home_in_paper(copy.deepcopy(THREE_LEGS))
    monkeypatch.setattr(writers, "PIECE", 1)
    compile_, calls = wanted.next_hop_flows, [0]

    def compiled(*said: Any) -> Iterator[Any]:
        calls[0] += 1
        if calls[0] == 2:
            update(host, router_with([by(4)], [], 4))()
        yield from compile_(*said)

    monkeypatch.setattr(wanted, "next_hop_flows", compiled)
    legs = [m.Leg(9, 4, 1, 0), m.Leg(9, 6, 1, 1)]
    first = router_with([by(4, 0x02AA), by(6, 0x02AB), GROUP], legs, 9)
    before, moments = messages_of(host, update(host, first))
    as_before(host, before, moments)
    fresh = at_home_in_paper(router_with([by(4)], [], 4))
    assert set(host.written.tables) == set(fresh.written.tables)


def result_of(job: Generator[Any, Any, Any]) -> tuple[int, Any]:
    """How often a job lets others have their turn, and what it returns."""
    turns = 0
    while True:
        try:
            assert next(job) == ROOM
        except StopIteration as end:
            return turns, end.value
        turns += 1


@pytest.mark.parametrize("aside", [False, True])
def test_what_is_to_be_written_is_found_piece_by_piece(
    aside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as at once: some flows are missing, others are left over."""
    host = at_home_in_paper(many())
    writer, held = host.writer.writer, host.writer.installed.flows
    if aside:
        writer._put_aside("vr1", "why", False)
    else:
        del writer._hops["vr1"][10]
    host.writer.wanted.read_anew()
    for key in list(held)[::7]:
        del held[key]
    monkeypatch.setattr(writers, "LOOKED_AT", 10 * len(held))
    turns, whole = result_of(writer.plan())
    assert turns <= 1 and len(whole) == 2
    host.writer.wanted.read_anew()
    monkeypatch.setattr(writers, "LOOKED_AT", 10)
    turns, pieces = result_of(writer.plan())
    wanted = sum(map(len, writer._hops["vr1"].values()))
    assert turns >= (wanted + len(held)) // 10 - 1
    assert pieces == whole
    host.writer.wanted.read_anew()
    wanted_flows, fresh = host.writer.wanted.flows()
    first = {flow.key: flow for flows in writer._hops["vr1"].values() for flow in flows}
    first |= host.writer.wanted.local.of_routers
    at_once = FlowChanges()
    at_once.add_missing(held, fresh | first)
    at_once.delete_left(held.values(), wanted_flows | first, writer._keeps)
    assert pieces == at_once.batches()


def test_a_vif_that_changes_while_it_is_found_out_what_to_write_is_no_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Table VM is written beside all jobs: what was found before does not undo it."""
    host = at_home_in_paper(many())
    monkeypatch.setattr(writers, "LOOKED_AT", 10)
    host.writer.refresh()
    found = host.writer.writer.plan()
    next(found)
    host.writer.vifs_are_suspended(frozenset({"vr1.0"}))
    _, batches = result_of(found)
    host.writer.installed.write_at_once(batches)
    held = [flow for flow in host.written.tables if flow.table == layout.VM]
    host.written.run()
    assert held == [flow for flow in host.written.tables if flow.table == layout.VM]


def own_addresses(first: int) -> list[m.Local]:
    return [m.Local(4, 32, 1, first + n) for n in range(MANY)]


def classes(flows: Iterable[Flow]) -> set[Flow]:
    return {flow for flow in flows if flow.table == layout.CLASSES}


def test_many_addresses_are_compiled_and_written_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A router's own prefixes, which make flows of table CLASSES."""
    host = at_home_in_paper(router_with([by(4)], [], 4))
    state = host.known.states["vr1"]
    own = own_addresses(0x0B000000)
    steps = Steps(host, monkeypatch)
    steps.count_local_flows(monkeypatch)
    for op in (Op.SET, Op.DELETE):
        state.apply([Section(SectionKind.LOCAL, op, own)])
        host.writer.wanted.router_changed("vr1")
        assert steps.longest(host.writer.writer.small()) <= PIECE
        host.written.run()
        assert (len(classes(host.written.tables)) > 2 * MANY) == (op is Op.SET)
        assert classes(host.written.tables) == classes(local_flows(host.writer.site()).values())
        steps.compiled = 0


def test_what_is_answered_for_a_suspended_router_is_written_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its ARP: four flows for each address and link, in two tables."""
    host = at_home_in_paper(router_with([by(4)], [], 4))
    state = host.known.states["vr1"]
    state.apply([Section(SectionKind.LOCAL, Op.SET, own_addresses(0x0B000000)[:900])])
    host.writer.refresh(whose=owners(PAPER.network))
    host.written.run()
    steps = Steps(host, monkeypatch)
    steps.count_local_flows(monkeypatch)
    for vifs in (frozenset(interface.vif for interface in VR1.interfaces), frozenset[str]()):
        host.writer.ports.suspended_are(vifs)
        host.writer.wanted.changed(owners_of(PAPER.network, "vr1"))
        assert steps.longest(host.writer.writer.small()) <= 2 * PIECE
        host.written.run()
        wanted = {*local_flows(host.writer.site()).values()}
        assert (len(wanted) > 10_000) == bool(vifs)
        keys = {flow.key for flow in wanted}
        assert wanted == {flow for flow in host.written.tables if flow.key in keys}
        steps.compiled = 0


def test_addresses_that_change_while_they_are_compiled_are_written_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither is anything of them compiled at once then."""
    host = at_home_in_paper(router_with([by(4)], [], 4))
    state = host.known.states["vr1"]

    def now(address: int) -> None:
        changes = state.apply([Section(SectionKind.LOCAL, Op.SET, own_addresses(address))])
        host.writer.changed("vr1", changes, True, len(state.routes))

    compile_ = host.writer.wanted.local.compile_in_pieces
    pauses = []

    def compiled(site: Any) -> Generator[Any, Any, Any]:
        job = compile_(site)
        while True:
            try:
                pauses.append(next(job))
            except StopIteration as end:
                return end.value
            if len(pauses) == 2:
                now(0x0C000000)
            yield ROOM

    monkeypatch.setattr(host.writer.wanted.local, "compile_in_pieces", compiled)
    now(0x0B000000)
    host.written.run()
    assert len(pauses) >= (2 + 4) * MANY // PIECE
    assert len(classes(host.written.tables)) > 4 * MANY
    assert classes(host.written.tables) == classes(local_flows(host.writer.site()).values())
