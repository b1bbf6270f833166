"""What others do to a switch is put right, or named, while it runs: with a real Open vSwitch."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.lab import ovs_private as ovs
from tests.lab.audited import Audited
from xenflow.openflow import build, wire
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Flow, match
from xenflow.tables import cookies, layout

pytestmark = pytest.mark.skipif(not ovs.available(), reason="needs root and Open vSwitch")

LARGE = 20_000
"""Routes.  How long it takes to put things right is in docs/openflow.md; a test is not timed."""


@pytest.fixture(scope="module")
def running() -> Iterator[ovs.PrivateSwitch]:
    with ovs.switch() as switch:
        yield switch


@pytest.fixture
def host(running: ovs.PrivateSwitch) -> Iterator[Audited]:
    running.ofctl("del-flows")
    made = Audited(running)
    made.told(3)
    made.looked()
    yield made
    made.sock.close()


CHANGES = {
    "all are deleted": [("del-flows",)],
    "a table is deleted": [("del-flows", "table=2")],
    "the routes are deleted": [("del-flows", "table=3")],
    "all drop": [("mod-flows", "actions=drop")],
    "one is overwritten": [
        ("add-flow", "table=8,priority=1000,actions=flood"),
        ("add-flow", "priority=0,actions=drop"),
    ],
    "a route is overwritten": [
        ("add-flow", "table=3,priority=1024,ip,reg1=1,nw_dst=20.0.1.0/24,actions=drop")
    ],
    "a flow with our cookie is added": [
        ("add-flow", "table=2,cookie=0x5846000002000000,priority=40000,actions=drop"),
        (
            "add-flow",
            "table=3,cookie=0x5846000103000000,priority=1032,ip,reg1=1,nw_dst=9.9.9.9,actions=drop",
        ),
    ],
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_what_others_change_is_put_right(host: Audited, changes: list[tuple[str, ...]]) -> None:
    before = host.flows()
    for change in changes:
        host.running.ofctl(*change)
    assert host.flows() != before
    host.until(lambda: host.switch.audit.mended > 0)
    host.confirmed()
    beside = {one for one in host.flows() if "table=8, priority=1000 " in one}
    assert host.flows() == before | beside
    mended = host.switch.audit.mended
    host.looked()
    assert host.switch.audit.mended == mended, "it is mended once"
    assert len(host.switch.problems.of()) == len(beside)


def test_foreign_flows_that_cover_ours_are_named_and_left(host: Audited) -> None:
    hub = "table=0,priority=32768,actions=flood"
    host.running.ofctl("add-flow", hub)
    host.running.ofctl("add-flow", "table=3,priority=1025,ip,nw_dst=20.0.0.0/25,actions=drop")
    host.running.ofctl("add-flow", "table=0,priority=5,arp,actions=flood")
    audit = host.switch.audit
    host.until(lambda: len(audit.foreign.covering) == 3)
    (words,) = host.switch.problems.of()
    assert "flows of somebody else cover ours" in words and "priority=32768" in words
    row = audit.row(time.monotonic())
    assert row["foreign"] == 3 and row["mended"] == 0
    again = Audited(host.running)  # they are known to one that comes later, too
    again.looked()
    assert again.switch.audit.row(time.monotonic())["foreign"] == 3
    again.sock.close()
    host.running.ofctl("del-flows", "cookie=0/-1")
    host.until(lambda: not host.switch.problems.of())
    assert audit.row(time.monotonic())["foreign"] == 0


def test_what_is_added_to_the_routes_during_a_bulk_write_is_counted(host: Audited) -> None:
    audit = host.switch.audit
    audit.bulk()
    host.confirmed()
    host.running.ofctl("add-flow", "table=3,priority=1025,ip,nw_dst=20.0.0.0/25,actions=drop")
    host.looked()
    assert audit.row(time.monotonic())["foreign"] == 1
    host.running.ofctl("add-flow", "table=3,priority=1025,ip,nw_dst=20.0.1.0/25,actions=drop")
    host.until(lambda: len(audit.foreign.covering) == 1)  # told again
    assert audit.row(time.monotonic())["mended"] == 0


def test_another_component_on_the_same_connection_is_noticed(host: Audited) -> None:
    """As POX's forwarding.hub, whose flow-mods carry POX's transaction ids."""
    hub = Flow(0, 0x8000, (), (f.normal(),))
    host.send(build.flow_mod_of10(hub, xid=17))
    host.until(lambda: bool(host.switch.audit.foreign.covering))
    host.send(
        build.flow_mod_of10(hub, wire.FlowModCommand.DELETE, xid=18)
    )  # and of ours in the first table
    before = host.switch.audit.mended
    host.until(lambda: host.switch.audit.mended > before)
    assert host.switch.audit.mended - before == sum(
        flow.table == layout.INGRESS for flow in host.switch.installed.flows.values()
    )


def test_a_form_that_reads_back_otherwise_is_accepted_once(host: Audited) -> None:
    odd = Flow(layout.LINKS, 7, match(reg1=9), (f.output(1),), cookies.of(layout.LINKS))
    read = Flow(odd.table, odd.priority, odd.match, (), odd.cookie)
    audit, installed = host.switch.audit, host.switch.installed
    write = installed.write
    # A switch that keeps no actions of this one flow: the flow is written as it is read.
    installed.write = lambda add, flow: (  # type: ignore[method-assign]
        write(add, read if flow == odd else flow),
        installed.flows.update({flow.key: flow}),
    )
    installed.write(True, odd)
    host.switch.channel.fence()
    audit._doubt = True
    host.until(lambda: bool(host.switch.problems.of()))
    assert "back as" in host.switch.problems.of()[0]
    mended = audit.mended
    audit._doubt = True
    host.looked()
    assert audit.mended == mended


def test_a_large_table_comes_back_within_twice_its_first_fill(host: Audited) -> None:
    host.running.ofctl("del-flows")
    other = Audited(host.running)
    begun = time.monotonic()
    other.told(LARGE)
    fill_s = time.monotonic() - begun
    other.looked()
    count = other.count()
    host.sock.close()
    other.running.ofctl("del-flows")
    other.until(lambda: other.count() == count, 300.0 + 10 * fill_s)
    other.sock.close()


def test_a_plain_switch_is_read(running: ovs.PrivateSwitch) -> None:
    running.ofctl("del-flows")
    host = Audited(running, "gen")
    host.looked()
    before = host.flows()
    assert before
    for change in (("del-flows",), ("mod-flows", "actions=drop"), ("del-flows", "in_port=1")):
        running.ofctl(*change)
        host.until(lambda: host.flows() == before)
    running.ofctl("add-flow", "priority=40000,actions=flood")
    host.until(lambda: bool(host.switch.audit.foreign.covering))
    host.sock.close()
