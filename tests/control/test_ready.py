"""Whether a host is ready is asked of that host, also where its controller has others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from tests.conftest import ROOT
from tests.switch.test_refresh import Told
from tests.whole_network import load
from tests.written_switch import RuleTable, WrittenSwitch, bound
from xenflow.control.leases import Leases
from xenflow.control.management_service import ManagementService
from xenflow.model import management as mg
from xenflow.model.placement import Placement
from xenflow.routes.sender import snapshot_messages
from xenflow.store import network_file
from xenflow.tables import layout

BOTH = ("host-a", "host-b")
PORTS = {"to-gen": 1, "to-recv": 2, "vr1.0": 3, "vr1.1": 4}


def test_of_two_hosts_at_one_controller_one_is_not_ready(tmp_path: Path) -> None:
    text = (ROOT / "conf" / "paper.toml").read_text()
    file = tmp_path / "network.toml"
    file.write_text(text.replace('b1"\ncontroller = "host-b"', 'b1"\ncontroller = "host-a"'))
    wires = {name: WrittenSwitch() for name in BOTH}
    first, second = wires.values()
    second._later = first._later
    table = RuleTable(network_file.load(file), "host-a", None, first.clock, bound)
    second.limits = {layout.ROUTES: 1}
    for name, wire in wires.items():
        wire.attach(table.switches[name], PORTS)
    for frames in snapshot_messages(load("paper").states["vr1"], "vr1"):
        assert table.heard("vr1", b"peer", frames, local=True).error is None
    both = Placement("vr1", BOTH, "host-a", "host-a", reaches=BOTH, version=1)
    table.place(both, BOTH, True, lambda error: None)
    first.run()
    nothing = cast(Any, None)
    service = ManagementService(table, Leases(), "test", nothing, nothing)

    def ready(host: str) -> Any:
        answers: list[bytes] = []
        service.take(mg.request("ready", "1", router="vr1", datapath=host), answers.append)
        first.run()
        return json.loads(answers[0])

    assert ready("host-a")["ready"] and not ready("host-a")["problems"]
    assert not ready("host-b")["ready"] and ready("host-b")["problems"]
    table.place(both.step(forwarders=("host-b",)), BOTH, True, lambda error: None)
    assert not ready("host-a")["ready"]


def test_what_comes_after_the_question_is_not_said_to_be_in_force() -> None:
    told, nothing = Told(), cast(Any, None)
    service = ManagementService(told.host.table, Leases(), "test", nothing, nothing)
    answers: list[bytes] = []
    told.late()
    question = mg.request("ready", "1", router="vr1", datapath="host-a")
    service.take(question, answers.append)
    told.address(0)
    while not answers:
        told.answer()
        told.host.wire.run()
    assert json.loads(answers[0])["in_force"] and json.loads(answers[0])["seq"] == 1
    told.catch_up()
    service.take(question, answers.append)
    told.catch_up()
    assert told.has(0) and json.loads(answers[1])["seq"] == 2
