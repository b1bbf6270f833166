"""What one router says is that router's affair, whatever it makes the Rule Table raise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.conftest import ROOT
from tests.whole_network import WholeNetwork, load
from tests.written_switch import RuleTable, WrittenSwitch, bound
from xenflow.control import rule_table, shown
from xenflow.control.leases import Leases
from xenflow.control.management_service import ManagementService
from xenflow.model import management as mg
from xenflow.model.network import Router
from xenflow.model.placement import Placement, at_home, to_json
from xenflow.plan.search import PATIENCE_S
from xenflow.routes.router_state import RouterState
from xenflow.routes.sender import snapshot_messages
from xenflow.store import network_file
from xenflow.store.state_file import NAME
from xenflow.switch.clock import Clock
from xenflow.tables import cookies, layout
from xenflow.tables.site import RouterView
from xenflow.tables.views import router_view

PATH = load("path")
PAPER = (ROOT / "conf" / "paper.toml").read_text()
MID = (
    PAPER.replace(
        'gen-b = ["gen:to-b", "host-b:to-gen"]',
        'gen-m = ["gen:to-b", "mid:to-gen"]\nmid-b = ["mid:to-b", "host-b:to-gen"]',
    )
    .replace(
        "[datapaths.recv]",
        '[datapaths.mid]\nkind = "plain"\ndpid = "0000000000000003"\ncontroller = "edge"\n'
        "[datapaths.recv]",
    )
    .replace('gen = "10.254.1.21"', 'gen = "10.254.1.21", mid = "10.254.1.23"')
)
"""The same network with a switch laid between gen and host-b."""
MOVED = Placement("vr1", ("host-b",), "host-b", "host-b", version=7)
HOST = "host-a"


class Host:
    """host-a of conf/path.toml with both routers' VMs."""

    def __init__(self) -> None:
        self.wire = WrittenSwitch()
        self.table = RuleTable(PATH.network, HOST, None, self.wire.clock, bound)
        self.switch = self.table.switches[HOST]
        for name, known in self.switch.placements.items():
            here = replace(known, forwarders=(HOST,), vm=HOST, leads_to=HOST)
            self.switch.placements[name] = here
        names = list(WholeNetwork(PATH).ports(HOST))
        names += [i.vif for router in PATH.network.routers.values() for i in router.interfaces]
        self.wire.attach(self.switch, {n: at for at, n in enumerate(dict.fromkeys(names), 1)})

    def tell(self, name: str) -> None:
        """A router says all it knows."""
        for frames in snapshot_messages(PATH.states[name], name):
            assert self.table.heard(name, b"peer", frames, local=True).error is None
        self.wire.run()

    def flows(self, name: str, table: int) -> int:
        """How many flows of a router a table has."""
        number = PATH.network.routers[name].id
        return sum(
            flow.table == table and cookies.router_of(flow.cookie) == number
            for flow in self.wire.tables
        )


def test_what_makes_no_view_is_that_router_s_affair(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    odd, sound = "vr1", "vr2"

    def view(router: Router, state: RouterState) -> RouterView:
        if router.name == odd:
            raise ValueError("an odd value")
        return router_view(router, state)

    monkeypatch.setattr(rule_table, "router_view", view)
    host = Host()
    host.tell(odd)
    host.tell(sound)
    assert host.flows(sound, layout.ROUTES) > 0 and host.flows(sound, layout.CLASSES) > 0
    words = "everything passes through its VM: ValueError: an odd value"
    assert host.table.problems_of(odd) == [words]
    assert host.table.problems_of(sound) == []
    seen = host.table.view(odd)
    assert seen is not None and seen.v4.slow == seen.v6.slow == words
    # What asks for all views outside of a job: a vif's port that goes and comes.
    vif = PATH.network.routers[sound].interfaces[0].vif
    number, _ = host.switch.ports[vif]
    for up in (False, True):
        host.switch.port_changed(vif, number, up, False)
        host.wire.run()
    host.tell(odd)
    assert host.switch.live and host.switch.problems.of() == []
    assert len([r for r in caplog.records if r.exc_info]) == 1, "it is said once"
    monkeypatch.undo()
    host.tell(odd)
    assert host.table.problems_of(odd) == []
    seen = host.table.view(odd)
    assert seen is not None and not seen.v4.slow


def test_whose_words_cannot_be_shown_hides_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    odd, sound = "vr1", "vr2"
    told = shown.problems

    def problems(router: Router, state: RouterState) -> list[str]:
        if router.name == odd:
            raise ValueError("an odd value")
        return told(router, state)

    monkeypatch.setattr(shown, "problems", problems)
    host = Host()
    for name in (odd, sound):
        host.tell(name)
    nothing = cast(Any, None)
    service = ManagementService(host.table, Leases(), "test", nothing, nothing)
    answers: list[bytes] = []
    service.take(mg.request("status", "1"), answers.append)
    rows = {row["name"]: row for row in json.loads(answers[0])["routers"]}
    assert rows[odd]["problems"] == ["what it says cannot be shown (ValueError: an odd value)"]
    assert rows[sound]["problems"] == [] and rows[sound]["routes"] > 0


# --- the controller starts again -----------------------------------------------------------------


def edge(folder: Path, text: str) -> RuleTable:
    """The controller of gen and recv, with a network file."""
    file = folder / "network.toml"
    file.write_text(text)
    network = network_file.load(file)
    state = folder / "state"
    return RuleTable(
        network, "edge", state, WrittenSwitch().clock, bound, asks=(state / NAME).exists()
    )


def where(table: RuleTable) -> dict[str, tuple[str, int]]:
    placed = {name: switch.placements["vr1"] for name, switch in table.switches.items()}
    return {name: (placement.vm, placement.version) for name, placement in placed.items()}


def test_a_switch_that_comes_with_other_trees_knows_where_routers_are(tmp_path: Path) -> None:
    edge(tmp_path, PAPER).place(MOVED, ["gen", "recv"], False, lambda error: None)
    same = edge(tmp_path, PAPER)
    assert same.searching() == "" and where(same) == {"gen": ("host-b", 7), "recv": ("host-b", 7)}
    table = edge(tmp_path, MID)
    assert where(table) == dict.fromkeys(("gen", "mid", "recv"), ("host-b", 7))


def test_other_trees_have_the_others_asked(tmp_path: Path) -> None:
    """Who was not told, for it lay on no link that the router is on, may be on its way now."""
    edge(tmp_path, PAPER).place(replace(MOVED, version=6), ["recv"], False, lambda error: None)
    table = edge(tmp_path, MID)
    assert table.searching().endswith(
        "than at the last start: asks host-a, host-b where the routers are"
    )
    assert table.must_wait(holds_flows=True)
    table.rule(table.switches["gen"], [])
    again = edge(tmp_path, MID)
    assert again.searching() == table.searching(), "what is not known yet is asked again"
    for other in again.others:
        again.heard_from(other, {"placements": [to_json(MOVED)]})
    assert not again.must_wait(holds_flows=True)
    assert set(where(again).values()) == {("host-b", 7)}
    assert edge(tmp_path, MID).searching() == ""


def test_other_trees_are_not_waited_for_long(tmp_path: Path) -> None:
    """What was kept is whole: a controller that does not answer stops nobody."""
    edge(tmp_path, PAPER).place(MOVED, ["recv"], False, lambda error: None)
    table = edge(tmp_path, MID)
    table.clock = Clock(lambda *_: None, lambda: 1000.0 + PATIENCE_S)
    assert not table.must_wait(holds_flows=True)


def test_who_was_not_told_of_a_router_does_not_say_where_it_is(tmp_path: Path) -> None:
    """r1 has moved to host-b: host-c was not concerned, and thinks that it is at home."""
    campus = load("campus").network
    now = 1000.0
    wire = WrittenSwitch(lambda: now)

    def start() -> RuleTable:
        return RuleTable(campus, "host-a", tmp_path, wire.clock, bound, asks=True)

    home = [to_json(at_home(r.name, r.home)) for r in campus.routers.values()]
    table = start()
    table.heard_from("host-c", {"placements": home})
    now += PATIENCE_S
    assert table.must_wait(holds_flows=True)
    # Here it was told elsewhere; who has not answered yet is asked all the same.
    for other in table.others.keys() - {"host-c", "host-b"}:
        table.heard_from(other, {"placements": home})
    assert not table.must_wait(holds_flows=True)
    words = f"{tmp_path / NAME} is missing: asks host-b where the routers are"
    assert table.searching() == words
    assert start().searching().endswith("asks edge, host-b, host-c, host-d where the routers are")
    moved = Placement("r1", ("host-b",), "host-b", "host-b", version=4)
    table.heard_from("host-b", {"placements": [to_json(moved)]})
    assert table.switches["host-a"].placements["r1"] == moved
    assert table.searching() == start().searching() == ""


def test_a_switch_that_a_changed_file_brings_knows_where_routers_are(tmp_path: Path) -> None:
    table = edge(tmp_path, PAPER)
    table.place(MOVED, ["gen"], False, lambda error: None)
    leaf = MID.replace(
        'gen-m = ["gen:to-b", "mid:to-gen"]\nmid-b = ["mid:to-b", "host-b:to-gen"]',
        'gen-b = ["gen:to-b", "host-b:to-gen"]\ngen-m = ["gen:to-m", "mid:to-gen"]',
    )
    (tmp_path / "network.toml").write_text(leaf)
    table.change(network_file.load(tmp_path / "network.toml"))
    assert where(table)["mid"] == ("host-b", 7)
