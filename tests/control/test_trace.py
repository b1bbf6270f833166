"""`trace` follows a packet through a whole network of real Rule Tables and switches' flows.

Only the sockets between are left out: each look goes to the controller of the switch, as the
command's request does, and the switches are those that `tests.written_switch` stands in for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from mgmt import journey
from mgmt.client import Refused
from mgmt.journey import Journey
from tests.whole_network import plan
from tests.written_switch import ROOT, WrittenSwitch, bound
from xenflow.control.rule_table import RuleTable
from xenflow.control.trace import trace
from xenflow.model import management as mg
from xenflow.model.management import ManagementError
from xenflow.model.placement import Mode, Placement
from xenflow.model.values import mac_number, mac_text
from xenflow.openflow import flow as fl
from xenflow.routes import messages as m
from xenflow.routes.family import V6
from xenflow.routes.messages import NextHopType, Op, Section, SectionKind
from xenflow.routes.sender import snapshot_messages
from xenflow.store.network_file import load_with_lab
from xenflow.tables import layout

GEN, RECV = "10.1.0.1", "10.2.0.1"
GEN6, RECV6, OWN6 = "2001:db8:1::2", "2001:db8:2::2", "2001:db8:1::1"
STATION = "02:00:00:00:03:02"


class Whole:
    """A network of conf/, each controller with its switches, all routes known at the homes."""

    def __init__(self, folder: Path, name: str, edit: Callable[[str], str] = lambda t: t) -> None:
        text = (ROOT / "conf" / f"{name}.toml").read_text()
        file = folder / f"{name}.toml"
        file.write_text(edit(text))
        network, lab = load_with_lab(file)
        self.network = network
        self.wires: dict[str, WrittenSwitch] = {}
        self.tables: dict[str, RuleTable] = {}
        self.states = plan(network, lab).states
        for controller in network.controllers:
            first = WrittenSwitch()
            table = RuleTable(network, controller, None, first.clock, bound)
            self.tables[controller] = table
            for datapath, switch in table.switches.items():
                wire = self.wires[datapath] = WrittenSwitch()
                wire.later = first.later  # type: ignore[method-assign]
                wire.run = first.run  # type: ignore[method-assign]
                wire._later = first._later
                wire.attach(switch, self.ports(datapath))
        for router in network.routers.values():
            self.learns(router.home, router.name)

    def ports(self, datapath: str) -> dict[str, int]:
        names = [cable.near(datapath).port for cable in self.network.cables_of[datapath]]
        for link in self.network.links.values():
            names += [a.end.port for a in link.access if a.end.datapath == datapath]
        for router in self.network.routers.values():
            names += [i.vif for i in router.interfaces] if router.home == datapath else []
        return {name: number for number, name in enumerate(names, 1)}

    def table(self, datapath: str) -> RuleTable:
        return self.tables[self.network.datapaths[datapath].controller]

    def learns(self, host: str, router: str) -> None:
        """A host's controller is told a router's routes."""
        for frames in snapshot_messages(self.states[router], router):
            assert self.table(host).heard(router, b"peer", frames, local=True).error is None
        self.wires[host].run()

    def place(self, placement: Placement) -> None:
        for table in self.tables.values():
            table.place(placement, table.switches, False, lambda error: None)
        for wire in self.wires.values():
            wire.run()

    def ask(self, datapath: str, /, **arguments: Any) -> dict[str, Any]:
        """The verb, through the boundary that requests pass."""
        request = mg.parse_request(mg.request("trace", "1", **arguments))
        try:
            return trace(self.table(datapath), request.arguments)
        except ManagementError as error:
            raise Refused(error.code, error.message, datapath) from None

    def look(self, datapath: str, port: str, frame: bytes) -> dict[str, Any]:
        return self.ask(datapath, datapath=datapath, in_port=port, frame=frame)

    def at_port(self, datapath: str, port: str, **packet: Any) -> Journey:
        first = self.ask(datapath, datapath=datapath, in_port=port, packet=packet)
        return journey.follow(self.network, first, self.look)

    def at_router(self, host: str, router: str, **packet: Any) -> Journey:
        first = self.ask(host, router=router, packet=packet)
        return journey.follow(self.network, first, self.look)


@pytest.fixture
def path(tmp_path: Path) -> Whole:
    return Whole(tmp_path, "path")


def way(found: Journey) -> str:
    return " ".join(hop.datapath for hop in found.hops)


def words(found: Journey, number: int) -> list[str]:
    return [step["explanation"] for step in found.hops[number].answer["steps"]]


def test_through_every_switch_to_the_station(path: Whole) -> None:
    found = path.at_port("gen", "access", nw_src=GEN, nw_dst=RECV, nw_ttl=9)
    assert way(found) == "gen s1 host-a s1 host-c s2 recv"
    (stop,) = found.stops
    assert (stop.kind, stop.datapath) == ("left", "recv")
    assert found.outcome == (f"recv: out by access to {STATION}, TTL 7, where link right ends")
    assert found.hops[2].came == "comes in by to-s1 (cable a-s1, from s1)"
    assert words(found, 0) == ["switched on link left to router vr1: out by to-s1"]
    assert [step["owner"] for step in found.hops[0].answer["steps"]] == ["link left"]
    assert words(found, 2)[:3] == [
        "it comes in on link left",
        "for router vr1, which this switch forwards for",
        "data, to be routed",
    ]
    assert words(found, 2)[3].startswith("the longest prefix is 10.2.0.1/32: next hop ")
    assert words(found, 2)[4:] == [
        "resolved: TTL one less, to 02:00:00:02:02:01 on link middle",
        "on link middle, out by to-s1",
    ]


def test_from_the_router_on(path: Whole) -> None:
    found = path.at_router("host-a", "vr1", nw_src=GEN, nw_dst=RECV)
    assert way(found) == "host-a s1 host-c s2 recv"
    assert found.complete and found.stops[0].kind == "left"


def test_to_the_vm(path: Whole) -> None:
    found = path.at_port("gen", "access", nw_dst="10.0.1.1")
    assert [(s.kind, s.datapath) for s in found.stops] == [("vm", "host-a")]
    assert "to vr1's VM, its interface eth0 (vif vr1.0)" in found.outcome
    found = path.at_port("gen", "access", nw_dst=RECV, nw_ttl=2)
    assert [(s.kind, s.datapath) for s in found.stops] == [("vm", "host-c")]
    assert "its TTL runs out: to the VM, which answers" in words(found, 4)
    found = path.at_port("gen", "access", nw_dst="10.77.0.1")
    assert "no route: to the VM, which answers" in words(found, 2)


def test_a_hello_reaches_every_router_of_the_link_and_a_vm_can_send(path: Whole) -> None:
    found = path.at_port("host-a", "vr1.1", nw_dst="224.0.0.5", nw_proto=89, nw_ttl=1)
    assert [(s.kind, s.datapath) for s in found.stops] == [("vm", "host-c")]
    assert "the controller gets a copy" in words(found, 0)[0]
    found = path.at_port("host-a", "vr1.1", nw_dst="10.0.2.2")  # to vr2, from vr1's VM
    assert [(s.kind, s.datapath) for s in found.stops] == [("vm", "host-c")]


def speak_ipv6(path: Whole) -> None:
    """From link left, 2001:db8:1::/64, to link right, 2001:db8:2::/64, by vr1 and vr2."""

    def address(text: str) -> int:
        return int(IPv6Address(text))

    left, right = (address(f"2001:db8:{n}::") for n in (1, 2))
    mac = {(r.name, i.name): i.mac for r in path.network.routers.values() for i in r.interfaces}
    connected, via = NextHopType.CONNECTED, NextHopType.VIA
    for router, hops, routes, near, own in (
        (
            "vr1",
            [(101, connected, 2, 0, 0), (102, via, 3, address("fe80::2"), mac["vr2", "eth0"])],
            [(left, 101), (right, 102)],
            m.Neighbour(2, 6, True, address(GEN6), 0x020000000102),
            m.Local(6, 128, 2, address(OWN6)),
        ),
        (
            "vr2",
            [(101, connected, 3, 0, 0), (102, via, 2, address("fe80::1"), mac["vr1", "eth1"])],
            [(right, 101), (left, 102)],
            m.Neighbour(3, 6, True, address(RECV6), mac_number(STATION)),
            m.Local(6, 128, 3, address("2001:db8:2::1")),
        ),
    ):
        state = path.states[router]
        told = {
            SectionKind.INTERFACE: [replace(i, flags=15) for i in state.interfaces.values()],
            SectionKind.LOCAL: [own],
            SectionKind.NEXTHOP: [m.NextHop(n, kind, 6, *rest) for n, kind, *rest in hops],
            SectionKind.NEIGHBOUR: [near],
            SectionKind.ROUTE6: [(net, V6.span(64), hop) for net, hop in routes],
            SectionKind.POLICY: [m.Policy(False, "", (), slow6=False)],
        }
        state.apply(Section(kind, Op.SET, records) for kind, records in told.items())
        path.learns(path.network.routers[router].home, router)


def test_an_ipv6_packet_is_followed_as_one_of_ipv4(path: Whole) -> None:
    speak_ipv6(path)
    found = path.at_port("gen", "access", nw_src=GEN6, nw_dst=RECV6, nw_ttl=9, nw_proto=58)
    assert way(found) == "gen s1 host-a s1 host-c s2 recv"
    assert found.outcome == f"recv: out by access to {STATION}, TTL 7, where link right ends"
    assert words(found, 2)[2:5] == [
        "data, to be routed",
        "the longest prefix is 2001:db8:2::/64: next hop 102",
        "resolved: TTL one less, to 02:00:00:02:02:01 on link middle",
    ]
    from_router = path.at_router("host-a", "vr1", nw_src=GEN6, nw_dst=RECV6, fragment=True)
    assert way(from_router) == "host-a s1 host-c s2 recv"
    back = path.at_port("recv", "access", nw_dst=GEN6)
    assert back.stops[0].datapath == "gen"


@pytest.mark.parametrize(
    "packet",
    [
        {"nw_dst": OWN6},
        {"nw_dst": "fe80::1"},
        {"nw_dst": RECV6, "nw_ttl": 1},
        {"nw_dst": "2001:db8:7::7"},
        {"nw_dst": "ff02::1", "nw_src": "fe80::5", "nw_proto": 58, "tp_src": 130},
        {"nw_dst": OWN6, "nw_src": GEN6, "nw_proto": 58, "tp_src": 135},
    ],
    ids=lambda packet: " ".join(map(str, packet.values())),
)
def test_ipv6_to_the_vm(path: Whole, packet: dict[str, Any]) -> None:
    speak_ipv6(path)
    found = path.at_port("gen", "access", **packet)
    assert {(s.kind, s.datapath) for s in found.stops} == {("vm", "host-a")}


def test_a_solicitation_is_answered_while_the_vm_is_suspended(path: Whole) -> None:
    speak_ipv6(path)
    switch = path.table("host-a").switches["host-a"]
    switch.port_changed("vr1.0", switch.ports["vr1.0"][0], False, False)
    path.wires["host-a"].run()
    asked = {"nw_src": GEN6, "nw_dst": OWN6, "nw_proto": 58, "tp_src": 135}
    found = path.at_port("gen", "access", dl_src="02:00:00:00:01:02", **asked)
    assert words(found, 2)[1] == (
        "a neighbour solicitation for a router whose VM is suspended or on its way: answered here"
    )
    assert "the answer says the MAC address of who sends it" in words(found, 2)
    assert [(s.kind, s.datapath) for s in found.stops] == [("left", "gen")]


def test_addresses_and_type_are_of_one_family(path: Whole) -> None:
    with pytest.raises(ManagementError, match="nw_src and nw_dst are of different families"):
        path.at_port("gen", "access", nw_src=GEN, nw_dst=RECV6)
    with pytest.raises(Refused, match="dl_type: 0x0806 is not of IPv6, as the addresses are"):
        path.at_port("gen", "access", nw_dst=RECV6, dl_type=0x0806)


def test_a_router_on_its_way_by_a_detour(path: Whole) -> None:
    path.learns("host-b", "vr1")
    path.place(Placement("vr1", ("host-a", "host-b"), "host-b", "host-a", version=5))
    found = path.at_port("gen", "access", nw_dst="10.0.1.1")
    assert "by a detour" in " ".join(words(found, 2))
    assert way(found) == "gen s1 host-a s1 host-c s2 host-b"
    assert "on the way" not in found.outcome and found.stops[0].datapath == "host-b"


def test_what_is_held(path: Whole) -> None:
    switch = path.table("host-a").switches["host-a"]
    switch.port_changed("vr1.0", switch.ports["vr1.0"][0], False, False)
    path.wires["host-a"].run()
    found = path.at_port("gen", "access", nw_dst="10.0.1.1")
    assert [(s.kind, s.words) for s in found.stops] == [
        ("held", "held by the controller until vr1's VM takes frames again")
    ]


def test_native_mode_by_bridges_and_the_vms_own_routes(path: Whole) -> None:
    path.place(Placement("vr1", ("host-a",), "host-a", "host-a", mode=Mode.NATIVE, version=5))
    found = path.at_port("gen", "access", nw_src=GEN, nw_dst=RECV, nw_ttl=9)
    assert way(found) == "gen s1 host-a host-a s1 host-c s2 recv"
    assert (
        "which forwards itself (native mode): by its route 10.2.0.1/32 on by eth1"
        in (found.hops[2].answer["outcome"])
    )
    assert found.hops[3].came == "comes from vr1's VM by vr1.1"
    assert "TTL 7, where link right ends" in found.outcome
    assert words(found, 0) == ["link left is bridged, as a router on it is in native mode"]
    assert way(path.at_router("host-a", "vr1", nw_src=GEN, nw_dst=RECV)).startswith("host-a host-a")


def test_the_reactive_pipeline_is_explained(tmp_path: Path) -> None:
    def reactive(text: str) -> str:
        return text.replace('kind = "host"\n', 'kind = "host"\npipeline = "reactive"\n')

    whole = Whole(tmp_path, "path", reactive)
    found = whole.at_port("gen", "access", nw_src=GEN, nw_dst=RECV, nw_ttl=9)
    assert way(found) == "gen s1 host-a s1 host-c s2 recv"
    assert "TTL 7, where link right ends" in found.outcome
    said = words(found, 2)
    assert "data: the controller is asked (reactive pipeline)" in said
    assert said[-1].startswith(
        "by the router's longest prefix it decides: dec_ttl,mod_dl_src:02:00:00:01:02:01,"
    )
    assert "and an exact flow written, which takes the next ones of its kind" in said[-1]
    found = whole.at_port("gen", "access", nw_dst="10.77.0.1")
    assert "for this packet alone, without a flow" in words(found, 2)[-2]
    assert [(s.kind, s.datapath) for s in found.stops] == [("vm", "host-a")]


def test_a_switch_without_extensions_is_reactive_too(tmp_path: Path) -> None:
    def plain(text: str) -> str:
        return text.replace(
            'kind = "host"\n', 'kind = "host"\nnicira = false\npipeline = "reactive"\n'
        )

    whole = Whole(tmp_path, "path", plain)
    found = whole.at_port("gen", "access", nw_src=GEN, nw_dst=RECV, nw_ttl=9)
    assert way(found) == "gen s1 host-a s1 host-c s2 recv"
    assert "TTL 9, where link right ends" in found.outcome


def test_the_operators_rule_is_named(path: Whole) -> None:
    switch = path.table("host-c").switches["host-c"]
    _, rows = switch.rules.with_rule({"id": "block"}, switch.site(), False)
    switch.rules.restore(rows)
    switch.refresh()
    path.wires["host-c"].run()
    found = path.at_port("gen", "access", nw_dst=RECV)
    assert way(found) == "gen s1 host-a s1 host-c"
    step = found.hops[-1].answer["steps"][0]
    assert (step["rule"], step["owner"]) == ("block", "rule block")
    assert found.outcome == "host-c: the operator's rule block: dropped"


def test_a_flow_of_somebody_else_is_named(path: Whole) -> None:
    switch = path.table("host-c").switches["host-c"]
    foreign = fl.Flow(layout.INGRESS, 40000, fl.match(in_port=1), (fl.output(2),), 7)
    switch.audit.foreign.flows[foreign.key] = foreign
    found = path.at_port("gen", "access", nw_dst=RECV)
    assert words(found, 4) == ["a flow of somebody else: output:2"]
    odd = replace(foreign, actions=(("raw", b"x"),))
    switch.audit.foreign.flows[odd.key] = odd
    found = path.at_port("gen", "access", nw_dst=RECV)
    assert "what that does cannot be foretold" in found.outcome and not found.complete


def test_what_is_cut_or_not_known_is_said(path: Whole) -> None:
    s1 = path.table("s1").switches["s1"]
    s1.port_changed("to-c", s1.ports["to-c"][0], False, False)
    found = path.at_port("gen", "access", nw_dst=RECV)
    assert [(s.kind, s.datapath) for s in found.stops] == [("lost", "s1")]
    assert "out by to-c, which has no carrier" in found.outcome
    s1.disconnect()
    found = path.at_port("gen", "access", nw_dst=RECV)
    assert not found.complete
    assert found.outcome == (
        "s1: not known what becomes of it: s1: s1: what the switch holds is not known: "
        "it is not connected"
    )
    with pytest.raises(Refused, match="host-a:to-s1 carries virtual links by VLAN: give its link"):
        path.at_port("host-a", "to-s1", nw_dst=RECV)
    assert path.at_port("host-a", "to-s1", nw_dst=RECV, link="left").hops
    known = r"theirs are 101 \(left\), 102 \(middle\), 103 \(right\); or give the MAC .* \(dmac\)"
    with pytest.raises(Refused, match=f"VLAN 300 is no virtual link's: {known}"):
        path.at_port("host-a", "to-s1", nw_dst=RECV, dl_vlan=300)
    assert path.at_port("host-a", "to-s1", nw_dst=RECV, dl_vlan=300, dl_dst=STATION).hops
    with pytest.raises(Refused, match="dl_dst: 00:00:00:00:00:00 is no station's address"):
        path.at_port("gen", "access", nw_dst=RECV, dl_dst="00:00:00:00:00:00")


def test_a_name_that_is_not_known_is_refused_with_those_that_are(path: Whole) -> None:
    with pytest.raises(Refused, match="no virtual link nowhere: there are left, middle, right"):
        path.at_port("host-a", "to-s1", nw_dst=RECV, link="nowhere")
    with pytest.raises(Refused, match="datapath host-b is not this controller's: it has host-a"):
        path.ask("host-a", datapath="host-b", in_port="to-s1", packet={"nw_dst": RECV})
    with pytest.raises(Refused, match="host-a has no port to-s9: it has to-s1, vr1.0, vr1.1"):
        path.at_port("host-a", "to-s9", nw_dst=RECV)
    with pytest.raises(Refused, match="unknown router vr9: known: vr1, vr2"):
        path.at_router("host-a", "vr9", nw_dst=RECV)
    with pytest.raises(Refused, match="forwards for vr1: its VM is on host-a"):
        path.at_router("host-b", "vr1", nw_dst=RECV)
    with pytest.raises(Refused, match="host-b does not forward for vr1: its VM is on host-a"):
        path.ask("host-b", router="vr1", datapath="host-b", packet={"nw_dst": RECV})


def test_the_host_that_is_meant_is_asked_where_one_controller_has_several(tmp_path: Path) -> None:
    def shared(text: str) -> str:
        return text.replace('controller = "host-b"', 'controller = "host-a"')

    path = Whole(tmp_path, "path", shared)
    path.place(Placement("vr1", ("host-a", "host-b"), "host-a", "host-a", version=5))
    for host in ("host-a", "host-b"):
        answer = path.ask(host, router="vr1", datapath=host, packet={"nw_dst": RECV})
        assert answer["datapath"] == host


def test_where_several_routers_are_on_a_link_the_one_with_the_address_is_meant(
    path: Whole,
) -> None:
    found = path.at_port("host-c", "to-s1", nw_dst="10.0.2.2", link="middle")
    assert [(s.kind, s.datapath) for s in found.stops] == [("vm", "host-c")]
    macs = [mac_text(i.mac) for _, i in path.network.members("middle")]
    with pytest.raises(Refused, match=f"give its MAC address: {macs[0]} .vr1., {macs[1]}"):
        path.at_port("host-c", "to-s1", nw_dst=RECV, link="middle")


def test_a_loop_ends(path: Whole) -> None:
    looping = replace(path.network)

    def look(datapath: str, port: str, frame: bytes) -> dict[str, Any]:
        back = {"to-gen": "to-s1", "to-s1": "to-gen"}
        out = {"kind": "port", "port": port, "up": True, "frame": frame.hex(), "words": "out"}
        return {"datapath": datapath, "in_port": back.get(port), "steps": [], "outputs": [out]}

    first = look("gen", "to-s1", bytes(14))
    found = journey.follow(looping, first, look)
    assert found.stops[-1].kind == "loop" and not found.complete


@pytest.mark.parametrize(
    "out",
    [
        {"kind": "port", "port": "to-s1", "up": True, "words": "out", "frame": "no frame"},
        {"kind": "port", "port": "to-s1", "up": True, "words": "out"},
        {"kind": "vm", "router": "vr1", "words": "to its VM", "onward": {"port": "vr1.0"}},
        {"kind": "vm", "router": "vr1", "words": "to its VM", "onward": "nowhere"},
    ],
)
def test_an_answer_that_cannot_be_read_is_where_the_journey_ends(
    path: Whole, out: dict[str, Any]
) -> None:
    """That of another release, say; what the others answered is shown."""
    dropped = {"kind": "bridge", "words": "bridged"}
    first = {"datapath": "gen", "in_port": "access", "steps": [], "outputs": [out, dropped]}
    found = journey.follow(path.network, first, path.look)
    assert [stop.kind for stop in found.stops] == ["unknown", "bridge"]
    assert found.outcome.startswith(
        "gen: not known what becomes of it: its controller's answer cannot be read"
    )
    assert not found.complete, "exit status 1: a part of it only"
