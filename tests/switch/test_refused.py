"""What a VM sends that its switch lets through, and what it refuses, which is said."""

from __future__ import annotations

import pytest

from tests import built_packets as built
from tests.written_switch import PlayedHost
from xenflow.openflow import packet as pk
from xenflow.openflow.flow import Flow, match
from xenflow.openflow.statistics import FlowStats
from xenflow.switch import refused
from xenflow.tables import cookies, simulate

PORTS = PlayedHost.PORTS
OWN, GEN = 0x020000010101, 0x020000000102
VIRTUAL, STRANGER = 0x00005E000105, 0x020000999999


class CountingHost(PlayedHost):
    """Whose switch's counters are what `counted` says."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: dict[int, int] = {}

    def says(self, frame: bytes, port: str = "vr1.0") -> list[tuple[int | str, bytes]]:
        """What leaves of a frame; the flow that had it is counted."""
        verdict = simulate.run(self.wire.tables, frame, PORTS[port])
        flow = verdict.trace[0].flow
        assert flow is not None
        self.counted[flow.cookie] = self.counted.get(flow.cookie, 0) + 1
        return verdict.outputs

    def tick(self, now: float, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The router's problems after the switch was asked."""
        stats = [
            FlowStats(flow, self.counted.get(flow.cookie, 0), 0, 0, 0)
            for flow in self.wire.tables
            if flow.cookie & cookies.REFUSED_MASK == cookies.REFUSED
            and {n: v for n, v, _ in flow.match}["in_port"] == 3
        ]
        monkeypatch.setattr(self.switch.reader, "stats", lambda then, *_: then(stats))
        self.table._refused.tick(now)
        return self.table.problems_of("vr1")


def frame(source: int, vlan: int | None = None, target: int = GEN) -> bytes:
    bare = pk.ethernet(target, source, pk.ETH_IPV4, pk.ipv4(1, 2, 17, b"x" * 20))
    return bare if vlan is None else pk.vlan(bare, vlan)


@pytest.mark.parametrize("source", [OWN, VIRTUAL])
@pytest.mark.parametrize("vlan", [None, 0])
def test_its_own_and_a_virtual_router_s_frames_pass(source: int, vlan: int | None) -> None:
    """Also with a tag that gives a priority only, as from a machine."""
    ((port, sent),) = CountingHost().says(frame(source, vlan))
    assert (port, pk.parse(sent).dl_src) == (PORTS["to-gen"], source)
    assert pk.parse(sent).vlan_tci & 0xFFF == 101


def test_what_is_for_a_virtual_router_reaches_the_vm() -> None:
    sent = CountingHost().says(pk.vlan(frame(GEN, target=VIRTUAL), 101), "to-gen")
    assert sent == [(PORTS["vr1.0"], frame(GEN, target=VIRTUAL))]


def test_a_repeated_hello_has_no_tag() -> None:
    hello = pk.ipv4(0x0A000101, 0xE0000005, pk.OSPF, built.ospf_hello(1, 1), ttl=1)
    tagged = pk.vlan(pk.ethernet(0x01005E000005, OWN, pk.ETH_IPV4, hello), 0)
    assert ("controller", tagged[:12] + tagged[16:]) in CountingHost().says(tagged)


def test_tags_and_strangers_are_refused_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    host = CountingHost()
    assert host.tick(1.0, monkeypatch) == []
    assert host.says(frame(OWN, 7)) == []
    (words,) = host.tick(10.0, monkeypatch)
    assert "802.1Q" in words
    assert host.says(frame(STRANGER)) == []
    assert len(host.tick(20.0, monkeypatch)) == 2
    assert len(host.tick(20.0 + refused.QUIET_S - 5, monkeypatch)) == 1
    assert host.tick(20.0 + refused.QUIET_S, monkeypatch) == []


def test_what_was_refused_before_the_first_look_is_no_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The controller has just started; the frames may have been dropped a day ago."""
    host = CountingHost()
    for _ in range(5):
        host.says(frame(OWN, 7))
    assert host.tick(10.0, monkeypatch) == []
    assert host.tick(20.0, monkeypatch) == []
    host.says(frame(OWN, 7))
    assert len(host.tick(30.0, monkeypatch)) == 1
    host.counted.clear()  # counted anew, after a restart of the switch
    assert host.tick(30.0 + refused.QUIET_S, monkeypatch) == []
    host.says(frame(OWN, 7))
    assert len(host.tick(40.0 + refused.QUIET_S, monkeypatch)) == 1


def test_a_flow_that_goes_is_no_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when one of the router's vifs goes, and with it what that flow had counted."""
    host = CountingHost()
    stats = [
        FlowStats(
            Flow(0, 1, match(in_port=port), (), cookies.refusing(1, 1, cookies.REFUSED_TAG)),
            5,
            0,
            0,
            0,
        )
        for port in (3, 4)
    ]
    for now, there in ((10.0, stats), (20.0, stats[:1])):
        monkeypatch.setattr(host.switch.reader, "stats", lambda then, *_, said=there: then(said))
        host.table._refused.tick(now)
    assert host.table.problems_of("vr1") == []


def test_a_cookie_that_names_nobody_is_nobody_s_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's flow may have any."""
    host = CountingHost()
    for cookie in (cookies.refusing(1, 999, cookies.REFUSED_TAG), cookies.of(0, 1)):
        stats = [FlowStats(Flow(0, 1, match(in_port=3), (), cookie), 5, 0, 0, 0)]
        monkeypatch.setattr(host.switch.reader, "stats", lambda then, *_, said=stats: then(said))
        host.table._refused._due = 0.0
        host.table._refused.tick(100.0)
    assert host.table.problems_of("vr1") == []
