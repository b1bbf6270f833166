"""A question that a switch refuses is no answer: nobody takes it for one, and `status` says it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from tests.written_switch import PlayedHost
from xenflow.control.leases import Leases
from xenflow.control.management_service import ManagementService
from xenflow.model import management as mg
from xenflow.openflow import build, wire
from xenflow.switch.channel import UNANSWERED, UNANSWERED_S
from xenflow.switch.jobs import ROOM
from xenflow.tables.layout import TABLE_NAMES

ASKED, BARRIER = int(wire.MessageType.STATS_REQUEST), int(wire.MessageType.BARRIER_REQUEST)
SAID = "the switch refuses to answer what it is asked (BAD_REQUEST: BAD_TYPE)"


@pytest.fixture
def host() -> PlayedHost:
    return PlayedHost()


def ask(host: PlayedHost, verb: str, /, **arguments: Any) -> dict[str, Any]:
    """What the controller answers."""
    service = ManagementService(host.table, Leases(), "test", None, None)  # type: ignore[arg-type]
    answers: list[bytes] = []
    service.take(mg.request(verb, "1", **arguments), answers.append)
    for _ in range(100):
        host.wire.run()
        if answers:
            break
        host.wire.pass_time()
    return dict(json.loads(answers[0]))


def test_a_table_that_cannot_be_read_is_not_empty(
    host: PlayedHost, caplog: pytest.LogCaptureFixture
) -> None:
    audit = host.switch.audit
    audit._doubt = True
    host.wire.refuses = {ASKED}
    before = host.switch.channel.flow_mods, len(host.wire.tables)
    for now in range(100, 200):
        audit.tick(float(now))
        host.wire.run()
    assert (host.switch.channel.flow_mods, len(host.wire.tables)) == before
    assert audit.looked_at is None, "it was not looked at"
    assert host.switch.problems.of() == [SAID]
    assert 10 <= host.switch.errors <= 20, "it is asked again, at a bounded pace"
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) < 5
    host.wire.refuses = set()
    audit.tick(300.0)
    host.wire.run()
    assert audit.looked_at == 300.0
    host.now += UNANSWERED_S
    while host.wire.waiting:
        host.wire.pass_time()
    assert host.switch.problems.of() == []


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("flows", {"datapath": "host-a", "limit": 10}),
        ("read-flows", {"router": "vr1", "datapath": "host-a"}),
        ("quiet", {"router": "vr1", "datapath": "host-a"}),
    ],
)
def test_who_asks_is_told_that_nothing_is_known(
    host: PlayedHost, verb: str, arguments: dict[str, Any]
) -> None:
    """No flows, none to be moved along, no packet for seconds: that would be said otherwise."""
    assert ask(host, verb, **arguments)["ok"]
    host.wire.refuses = {ASKED}
    answer = ask(host, verb, **arguments)
    assert not answer["ok"] and "BAD_REQUEST" in answer["error"]["message"]


def test_whose_flows_they_are_is_said(host: PlayedHost) -> None:
    rule = {"id": "block", "priority": 1, "match": {}, "actions": []}
    host.switch.rules.restore([rule])
    host.switch.refresh()
    rows = ask(host, "flows", datapath="host-a", limit=1000)["flows"]
    whose = {name: {row["owner"] for row in rows if row["name"] == name} for name in TABLE_NAMES}
    assert whose["ingress"] == {"the switch", "link left", "link right", "rule block"}
    assert whose["links"] == {"link left", "link right"}
    rows = ask(host, "flows", datapath="host-a", router="vr1", limit=1000)["flows"]
    assert {"ingress", "admission", "links", "vm"} <= {row["name"] for row in rows}


def test_counts_of_refused_frames_that_are_not_known_end_no_problem(host: PlayedHost) -> None:
    host.wire.refuses = {ASKED}
    host.table._refused.tick(1.0)
    host.wire.run()
    assert host.table._refused._counts == {}
    assert SAID in host.switch.problems.of()


def test_a_refused_barrier_confirms_nothing(host: PlayedHost) -> None:
    said: list[str | None] = []
    host.wire.refuses = {BARRIER}
    host.switch.once_told(said.append)
    host.wire.run()
    host.switch.promises.confirmed(said.append)
    host.switch.promises.in_force(said.append)
    host.wire.run()
    assert len(said) == 3 and all(words and "BAD_REQUEST" in words for words in said)
    assert not host.switch.live, "what it holds is not known"
    (pause_s, _) = host.wire.waiting[-1]
    assert pause_s == 1.0
    pauses = [host.wire.pass_time() for _ in range(12)]
    assert max(pauses) >= 8.0, "ever more rarely"
    assert host.switch.jobs.busy <= 8, "what is to be done does not grow with the tries"
    assert any("what it holds is not known" in words for words in host.switch.problems.of())
    host.wire.refuses = set()
    for _ in range(20):
        if not host.switch.jobs.busy:
            break
        host.wire.pass_time()
    host.switch.promises.in_force(said.append)
    host.wire.run()
    while len(said) < 4:
        host.wire.pass_time()
    assert host.switch.live and said[3] is None


def test_a_refused_barrier_is_no_router_s_affair(host: PlayedHost) -> None:
    """Also where it was a router's job that sent it."""

    def job() -> Any:
        yield host.switch.channel.barrier()

    host.wire.refuses = {BARRIER}
    host.switch.jobs.submit_of("vr1", job())
    host.wire.run()
    assert not host.switch.aside
    assert host.table.problems_of("vr1") == []


def test_what_waits_for_room_goes_on_after_a_refused_barrier(host: PlayedHost) -> None:
    sent = 0

    def bulk() -> Any:
        nonlocal sent
        for _ in range(40):
            host.switch.channel.write(build.barrier_request(7) * 4096)
            sent += 1
            yield ROOM

    host.wire.refuses = {BARRIER}
    host.wire.send = lambda data: None  # type: ignore[method-assign]
    host.switch.jobs.submit(bulk())
    assert sent < 40
    for _ in range(100):
        if not host.switch.channel._in_flight:
            break
        host.switch.on_error(host.switch.channel._in_flight[0][0], "BAD_REQUEST: BAD_TYPE")
    assert sent == 40
    assert UNANSWERED not in host.switch.problems.of()


def test_a_switch_that_cannot_be_read_back_is_asked_again(host: PlayedHost) -> None:
    """Nothing is written to it meanwhile: what it was found with is not known to be nothing."""
    host.wire.refuses = {ASKED}
    host.switch.read_again()
    host.wire.run()
    before = host.switch.channel.flow_mods
    pauses = [host.wire.pass_time() for _ in range(9)]
    assert host.switch.channel.flow_mods == before and not host.switch.live
    assert sorted(pauses)[:2] == [1.0, 2.0] and max(pauses) >= 16.0
    host.wire.refuses = set()
    for _ in range(20):
        if host.switch.live:
            break
        host.wire.pass_time()
    assert host.switch.live and host.switch.channel.flow_mods == before
