"""What is refused has changed nothing; what was taken, and is not in force, is said to be so."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from typing import Any, cast

import pytest

from tests.conftest import ROOT
from tests.written_switch import PlayedHost
from xenflow.control.leases import Leases
from xenflow.control.management_service import ManagementService
from xenflow.model import management as mg
from xenflow.model.placement import at_home
from xenflow.openflow import build, wire
from xenflow.openflow.flow import Flow, text
from xenflow.tables import cookies, layout
from xenflow.tables.routes import route_flow

RULE = {"id": "r1", "match": {"in_port": "to-gen"}, "actions": []}
BOTH = ("host-a", "host-b")
HERE = at_home("vr1", "host-a").step()


class Asked(PlayedHost):
    """Its management, too."""

    def __init__(self) -> None:
        super().__init__()
        nothing = cast(Any, None)
        self.service = ManagementService(self.table, Leases(), "test", nothing, nothing)

    def ask(self, verb: str, **arguments: Any) -> mg.Answer:
        answers: list[bytes] = []
        self.service.take(mg.request(verb, "1", **arguments), answers.append)
        self.wire.run()
        (answer,) = answers
        return mg.parse_answer(answer)

    def place(self, placement: Any, **arguments: Any) -> mg.Answer:
        return self.ask("place", placement=placement, **arguments)

    def write(self, flows: list[Flow]) -> mg.Answer:
        packed = [build.flow_mod(flow) for flow in flows]
        return self.ask("write-flows", router="vr1", datapath="host-a", flows=packed, ports={})

    @property
    def known(self) -> Any:
        return self.switch.placements["vr1"]


@pytest.fixture
def host() -> Asked:
    return Asked()


def route(router: int) -> Flow:
    """A flow of a router, by its id."""
    net = 0x0A140000
    cookie = cookies.of(layout.ROUTES, router, cookies.route_chunk(net))
    return route_flow(router, net, 24, 5, cookie)


def test_a_rule_that_is_not_confirmed_is_kept_and_said_to_be(host: Asked) -> None:
    host.wire.refuses = {wire.MessageType.BARRIER_REQUEST}
    answer = host.ask("rule-add", datapath="host-a", rule=RULE)
    assert answer.code == "not-in-force"
    assert answer.message.startswith("taken, but not in force: host-a")
    (row,) = host.ask("rules").result["rules"]
    assert list(row) == ["datapath", "id", "priority", "match", "actions"] and row["id"] == "r1"


def test_a_rule_that_matches_as_another_one_does_is_refused(host: Asked) -> None:
    """A switch holds one flow of a match and priority: one of the two would not be in force."""
    assert host.ask("rule-add", datapath="host-a", rule=RULE).ok
    by_number = {"id": "r2", "match": {"in_port": "1"}, "actions": ["normal"]}
    answer = host.ask("rule-add", datapath="host-a", rule=by_number)
    assert answer.code == "refused"
    assert "host-a has a rule r1 with the same match and priority" in answer.message
    assert host.ask("rule-add", datapath="host-a", rule={**by_number, "priority": 1}).ok
    assert host.ask("rule-replace", datapath="host-a", rule=by_number).code == "refused"
    assert host.ask("rule-replace", datapath="host-a", rule={**RULE, "actions": ["normal"]}).ok
    assert [row["id"] for row in host.ask("rules").result["rules"]] == ["r1", "r2"]


def test_no_switch_is_told_while_one_is_not_connected(host: Asked) -> None:
    """Nor where the switches are not named."""
    host.switch.disconnect()
    assert host.place(HERE).code == "not-connected"
    assert host.known.version == 0


def test_a_switch_that_is_named_twice_is_told_once(host: Asked) -> None:
    assert host.place(HERE, datapaths=["host-a", "host-a"]).ok


def test_a_placement_is_not_older_nor_another_of_the_same_version(host: Asked) -> None:
    assert host.place(HERE.step()).ok
    for stale in (HERE, HERE.step(vm="host-b")):
        assert host.place(stale).code == "stale-version"
        assert host.known == HERE.step()
    assert host.place(HERE.step()).ok, "what was asked again is the same"


@pytest.mark.parametrize("proven", [True, False])
def test_what_the_switch_refuses_is_not_in_force(host: Asked, proven: bool) -> None:
    ingress = [flow for flow in host.wire.tables if flow.table == layout.INGRESS]
    host.wire.limits = {layout.INGRESS: len(ingress)}
    wanted = replace(HERE, forwarders=BOTH, reaches=BOTH)
    answer = host.place(wanted, in_force=proven)
    assert host.wire.refused
    assert (answer.code, host.known) == ("not-in-force", wanted)
    assert answer.message.endswith("host-a: the switch refused a flow")


def test_a_placement_on_no_host_is_told_which_there_are(host: Asked) -> None:
    answer = host.place(HERE.step(vm="host-z"))
    assert (answer.code, host.known.version) == ("refused", 0)
    assert answer.message == "vr1: host-z is not a host of the network: it has host-a, host-b"


def test_a_flow_that_is_given_twice_is_written(host: Asked) -> None:
    assert host.write([route(1), route(1)]).ok
    assert host.switch.live and host.switch.problems.of() == []
    assert route(1) in host.wire.tables


def test_flows_of_another_router_are_not_written(host: Asked) -> None:
    """Nor those of tables that do not move along."""
    own = route(1)
    before = set(host.wire.tables)
    for other in (route(2), replace(own, table=layout.VM), replace(own, cookie=0)):
        answer = host.write([own, other])
        assert answer.code == "bad-argument"
        assert answer.message.startswith(f"flows: {text(other)}: not one that moves along with vr1")
        assert set(host.wire.tables) == before
    assert host.write([own]).result == {"written": 1}
    assert set(host.wire.tables) == {own, *before}


def test_the_document_names_the_codes_that_are_sent() -> None:
    text = (ROOT / "docs" / "messages.md").read_text()
    _, table = text.split("| code | meaning |")
    named = {
        code
        for row in re.findall(r"^\| ([a-z][a-z, -]+) \|", table, re.M)
        for code in row.split(", ")
    }
    assert named == {code for path in (ROOT / "pox_ext").rglob("*.py") for code in _sent(path)}


def _sent(path: Any) -> set[str]:
    """The codes of refusals in a module."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {
        call.args[0].value
        for call in calls
        if ast.unparse(call.func).split(".")[-1] in ("ManagementError", "refuse")
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    }
