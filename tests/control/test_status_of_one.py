"""`status` of one router says what a plan needs to know, and no more."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from typing import Any, cast

from bench.large_network import make_network
from tests.written_switch import WrittenSwitch, bound
from xenflow.control.leases import Leases
from xenflow.control.management_service import ManagementService
from xenflow.control.rule_table import RuleTable
from xenflow.model import management as mg
from xenflow.model.placement import Placement
from xenflow.switch.clock import Clock


def test_a_lease_is_of_a_name() -> None:
    """One that is stopped, or is no more, has a VM perhaps, which is ended under it."""
    table = RuleTable(make_network(4, 3, 20, 20), "edge", None, WrittenSwitch().clock, bound)
    nothing = cast(Any, None)
    service = ManagementService(table, Leases(), "test", nothing, nothing)

    def ask(verb: str, **arguments: Any) -> Any:
        answers: list[bytes] = []
        service.take(mg.request(verb, "1", router="nobody", **arguments), answers.append)
        return json.loads(answers[0])

    assert ask("lock", owner="me")["versions"] == {}
    assert ask("lock", owner="you")["error"]["code"] == "locked"
    assert ask("journal")["under_way"]
    assert ask("unlock", owner="me")["ok"]
    assert not ask("journal")["under_way"]


def test_who_refuses_a_connection_lives() -> None:
    """Only silence says nothing; nobody waits for it."""
    network = make_network(4, 3, 20, 20)
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        urls = {"h0": f"tcp://127.0.0.1:{port}", "h1": "tcp://a.name:1", "h2": "tcp://127.0.0.1:1"}
        edge = network.controllers["edge"]
        named = {n: replace(edge, name=n, manage=url) for n, url in urls.items()}
        network = replace(network, controllers={**network.controllers, **named})
        later: list[Any] = []
        clock = Clock(lambda _, call, *words: later.append((call, words)), time.monotonic)
        table = RuleTable(network, "edge", None, clock, bound)
        nothing = cast(Any, None)
        service = ManagementService(table, Leases(), "test", nothing, nothing)

        def heard(name: str) -> Any:
            answers: list[bytes] = []
            service.take(
                mg.request("hears", "1", manage=network.controllers[name].manage), answers.append
            )
            while not answers:
                call, words = later.pop()
                call(*words)
            return json.loads(answers[0])

        assert heard("h0")["hears"] == "accepts connections"
        assert heard("h1")["hears"] == ""
        assert heard("h2")["hears"] == "refuses connections"


def test_one_router_and_who_is_away() -> None:
    network = make_network(4, 3, 20, 20)
    table = RuleTable(network, "edge", None, WrittenSwitch().clock, bound)
    nothing = cast(Any, None)
    service = ManagementService(table, Leases(), "test", nothing, nothing)
    away = Placement("r7", ("h0",), "h0", "h0", version=1)
    table.place(away, ["s0", "s1"], False, lambda error: None)

    def status(**arguments: Any) -> Any:
        answers: list[bytes] = []
        service.take(mg.request("status", "1", **arguments), answers.append)
        return json.loads(answers[0])

    def placements(answer: Any) -> set[tuple[str, str]]:
        return {(row["router"], row["datapath"]) for row in answer["placements"]}

    switches = {"s0", "s1", "s2"}
    one = status(router="r3")
    assert [row["name"] for row in one["routers"]] == ["r3"]
    assert placements(one) == {("r3", s) for s in switches} | {("r7", "s0"), ("r7", "s1")}
    assert {row["name"] for row in one["datapaths"]} == switches
    whole = status()
    assert [row["name"] for row in whole["routers"]] == list(network.routers)
    assert placements(whole) == {(r, s) for r in network.routers for s in switches}
    assert status(router="nobody")["routers"] == []
