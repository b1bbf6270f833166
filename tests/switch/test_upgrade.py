"""A switch that holds what a release wrote whose cookies did not say the owner.

Such a flow differs in its cookie alone: an ADD overwrites it in one step, and what a packet meets
is the same before and after each message.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests import written_switch
from tests.control.test_change import CAMPUS
from tests.control.test_change import Host as CampusHost
from tests.switch_tables import SwitchTables
from tests.whole_network import load
from tests.written_switch import PlayedHost, WrittenSwitch
from xenflow.model.network import Pipeline
from xenflow.openflow.flow import Flow
from xenflow.routes.sender import snapshot_messages
from xenflow.tables import cookies, layout

RULE = {"id": "a rule", "priority": 7, "match": {"in_port": "1", "dl_vlan": 9}, "actions": ["drop"]}


def old(flow: Flow) -> Flow:
    """As that release wrote it: in the chunk of a flow of the small tables stood only whether it
    refuses something, and why."""
    refused = cookies.refused(flow.cookie)
    chunk = 0x010000 | refused[1] - 1 if refused else 0
    kind, router = cookies.kind_of(flow.cookie), cookies.router_of(flow.cookie)
    keeps = kind in (layout.ROUTES, layout.REACTIVE_KIND)
    return flow if keeps else replace(flow, cookie=cookies.of(kind, router, chunk))


class Upgraded:
    """A switch with the flows of that release.  What is sent to it is looked at, until `done`."""

    def __init__(self, wire: WrittenSwitch) -> None:
        self.wire = wire
        self.new = set(wire.tables)
        wire.tables = SwitchTables(map(old, self.new))
        self.differing = {flow.key for flow in self.new - set(wire.tables)}
        self._does = {flow.key: flow.actions for flow in self.new}
        self._otherwise: list[str] = []
        """The messages after which something was not as before."""
        self._begun = len(wire.messages)
        wire.watch = self._look

    def _look(self) -> None:
        if {flow.key: flow.actions for flow in self.wire.tables} != self._does:
            self._otherwise.append(self.wire.messages[-1])

    def done(self) -> None:
        """Everything is as this release writes it, and every flow was written at most once."""
        assert set(self.wire.tables) == self.new
        assert not self._otherwise
        added = [m for m in self.wire.messages[self._begun :] if m.startswith("ADD")]
        assert len(added) == len(self.differing)
        owners = {cookies.owner_of(flow.cookie)[0] for flow in self.wire.tables}
        assert owners == {0, cookies.LINK, cookies.RULE}
        assert any(cookies.refused(flow.cookie) for flow in self.new)


@pytest.mark.parametrize("pipeline", list(Pipeline))
def test_a_controller_that_knows_its_routers(pipeline: Pipeline) -> None:
    host = CampusHost(CAMPUS.network, pipeline)
    host.table.switches["host-b"].rules.restore([RULE])
    host.switch.refresh()
    host.wire.run()
    upgraded = Upgraded(host.wire)
    host.wire.attach(host.switch, host.ports)
    upgraded.done()


def test_a_controller_that_has_not_heard_its_routers_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows from what the router said before is left as it is, until it says it again."""
    plan = load("paper")
    before = PlayedHost()
    before.switch.rules.restore([RULE])
    frames = [*snapshot_messages(plan.states["vr1"], "vr1")]
    for each in frames:
        assert before.table.heard("vr1", b"peer", each, local=True).error is None
    before.wire.run()
    upgraded = Upgraded(before.wire)
    monkeypatch.setattr(written_switch, "WrittenSwitch", lambda now: before.wire)
    monkeypatch.setattr(before.wire, "attach", lambda *_: None)
    after = PlayedHost()
    monkeypatch.undo()
    after.switch.rules.restore([RULE])
    before.wire.attach(after.switch, PlayedHost.PORTS)
    assert any(flow.table == layout.ROUTES for flow in before.wire.tables)
    for each in frames:
        assert after.table.heard("vr1", b"peer", each, local=True).error is None
    before.wire.run()
    upgraded.done()
