"""What changes a controller is a line in its log: what, who asked from where, what came of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.written_switch import ROOT, WrittenSwitch, bound
from xenflow.control import moves
from xenflow.control.leases import Leases
from xenflow.control.management_service import ManagementService
from xenflow.control.mirror import RouteMirrors
from xenflow.control.rule_table import RuleTable
from xenflow.model import management as mg
from xenflow.model.difference import NetworkDifference
from xenflow.model.network import Network
from xenflow.model.placement import at_home
from xenflow.store.network_file import load


class Controller:
    """host-a's, asked as its socket asks it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "network.toml"
        self.file.write_text((ROOT / "conf" / "paper.toml").read_text())
        self.switch = WrittenSwitch()
        self.context: zmq.Context[Any] = zmq.Context()
        table = RuleTable(load(self.file), "host-a", None, self.switch.clock, bound)

        def reload(only_look: bool) -> tuple[Network, NetworkDifference]:
            network = load(self.file)
            return network, table.change(network, only_look)

        self.management = ManagementService(
            table, Leases(), "test", RouteMirrors(self.context, self.switch.clock.now), reload
        )
        self.switch.attach(table.switches["host-a"], {"to-gen": 1, "to-recv": 2})
        self.answers: list[dict[str, Any]] = []

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        frame = mg.request(verb, "1", by="ada@op", **arguments)
        self.management.take(frame, lambda f: self.answers.append(json.loads(f)), "10.254.1.1")
        self.switch.run()
        return self.answers[-1]


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    made = Controller(tmp_path)
    yield made
    made.context.destroy(linger=0)


WHO = "(by ada@op from 10.254.1.1)"


def test_every_change_is_a_line(controller: Controller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "xenflow.management")
    rule = {"id": "x", "priority": 7, "match": {"in_port": "to-gen"}, "actions": ["output:to-recv"]}
    assert controller.ask("rule-add", datapath="host-a", rule=rule)["ok"]
    assert not controller.ask("rule-add", datapath="host-a", rule=rule)["ok"]
    assert controller.ask("rule-remove", datapath="host-a", rule_id="x")["ok"]
    assert controller.ask("place", placement=at_home("vr1", "host-b").step(), in_force=False)["ok"]
    assert controller.ask("lock", router="vr1", owner="op-7")["versions"] == {"host-a": 1}
    about = {"router": "vr1", "owner": "op-7"}
    assert controller.ask("journal", entry={"words": "turn\nthe links"}, **about)["ok"]
    assert caplog.messages == [
        f"rule-add on host-a: x, priority 7: in_port=to-gen: output:to-recv: done {WHO}",
        "rule-add on host-a: x, priority 7: in_port=to-gen: output:to-recv: refused: "
        f"host-a has a rule x already: replace it {WHO}",
        f"rule-remove on host-a: x: done {WHO}",
        "place vr1 (version 1) on all switches here: mode xenflow, VM host-b, "
        f"forwarders host-b, links to host-b: done {WHO}",
        f"lock vr1 for op-7: done {WHO}",
        f"migration of vr1: 'turn\\nthe links': done {WHO}",
    ]


def test_what_only_looks_or_goes_on_is_none(
    controller: Controller, caplog: pytest.LogCaptureFixture
) -> None:
    assert controller.ask("lock", router="vr1", owner="op-7")["ok"]
    caplog.clear()
    caplog.set_level(logging.INFO, "xenflow.management")
    status = controller.ask("status")
    assert status["ok"] and status["digest"] == controller.management.table.network.digest
    assert controller.ask("rules")["ok"]
    assert controller.ask("journal", router="vr1", owner="op-7")["ok"]
    assert caplog.messages == []


def test_no_request_can_make_a_line_of_its_own(
    controller: Controller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "xenflow.management")
    rule = {"id": "x", "match": {"in_port": "a\nERROR:b"}, "actions": ["fly\n"] * 1000}
    assert not controller.ask("rule-add", datapath="host-a", rule=rule)["ok"]
    (line,) = caplog.messages
    assert "\n" not in line and len(line) < 1100 and WHO in line


def test_a_file_cannot_be_applied_where_no_store_is_followed(controller: Controller) -> None:
    answer = controller.ask("apply", text=controller.file.read_text())
    assert "follows no store" in answer["error"]["message"]


def test_a_changed_network_file_is_read(
    controller: Controller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "xenflow.management")
    text = controller.file.read_text()
    before = controller.ask("status")["digest"]
    controller.file.write_text(text.replace("02:00:00:00:01:02", "02:00:00:00:01:03"))
    seen = controller.ask("reload", dry_run=True)
    assert seen["ok"] and seen["changed"] == {"links": {"changed": ["left"]}}
    assert seen["digest"] != before == controller.ask("status")["digest"]
    assert caplog.messages == []
    assert controller.ask("reload")["changed"] == seen["changed"]
    assert controller.ask("status")["digest"] == seen["digest"]
    assert controller.ask("reload")["changed"] == {}
    controller.file.write_text(text.replace("vlan = 101", "vlan = 201"))
    answer = controller.ask("reload")
    assert answer["error"]["code"] == "refused"
    assert "links.left: vlan 101 cannot become 201" in answer["error"]["message"]
    controller.file.write_text("vlan = 7")
    assert "vlan: found an unknown key" in controller.ask("reload")["error"]["message"]
    assert controller.ask("status")["digest"] == seen["digest"]
    assert caplog.messages[0] == f"reload of the network file: done {WHO}"


def test_a_slow_machine_is_no_traffic(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has not fallen quiet in its time is looked at often enough to say so."""
    monkeypatch.setattr(moves, "QUIET_LIMIT_S", 0.0)
    answer = controller.ask("quiet", router="vr1", datapath="host-a")
    assert (answer["quiet"], answer["last"], answer["looks"]) == (True, 0, 3)
