"""What one router says is that router's affair, whatever it makes the Rule Table raise."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import pytest

from tests.whole_network import WholeNetwork, load
from tests.written_switch import RuleTable, WrittenSwitch, bound
from xenflow.control import management_service, rule_table
from xenflow.control.leases import Leases
from xenflow.control.management_service import ManagementService
from xenflow.model import management as mg
from xenflow.model.network import Router
from xenflow.routes.feed import snapshot_messages
from xenflow.routes.router_state import RouterState
from xenflow.tables import cookies, layout
from xenflow.tables.site import RouterView
from xenflow.tables.views import router_view

PATH = load("path")
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
            assert self.table.told(name, b"peer", frames, local=True).error is None
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
    assert seen is not None and seen.slow == words
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
    assert seen is not None and not seen.slow


def test_whose_words_cannot_be_shown_hides_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    odd, sound = "vr1", "vr2"
    shown = management_service.problems

    def problems(router: Router, state: RouterState) -> list[str]:
        if router.name == odd:
            raise ValueError("an odd value")
        return shown(router, state)

    monkeypatch.setattr(management_service, "problems", problems)
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
