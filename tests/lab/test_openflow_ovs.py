"""Flows packed by us, held by a real Open vSwitch, come back the same; frames fare as simulated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

import tests.flow_samples as samples
import tests.lab.ovs_private as ovs
from lab.description import find_file
from tests.tables import test_ipv6
from tests.tables.test_sent_up import HELLOS, NICIRA, PORTS, REACTIVE, Host, ip
from tests.whole_network import load
from xenflow.openflow import build, parse, statistics, wire
from xenflow.openflow import flow as fl
from xenflow.openflow import packet as pk
from xenflow.openflow.exact_flows import ExactFlowPacker, exact_match
from xenflow.openflow.flow import Flow, match
from xenflow.openflow.nxm import pack_actions
from xenflow.openflow.statistics import Aggregate, TableStats
from xenflow.store import network_file
from xenflow.switch.kind import SwitchKind
from xenflow.switch.proof import Promise, Revalidator
from xenflow.tables import layout, simulate, tracked
from xenflow.tables.next_hops import NextHopView, next_hop_flows
from xenflow.tables.routes import RoutePacker, route_flow

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not ovs.available(), reason="needs root and Open vSwitch"),
]

FRAME = samples.frames()[0]


@pytest.fixture(scope="module")
def switch() -> Iterator[ovs.PrivateSwitch]:
    with ovs.switch() as running:
        yield running


@pytest.fixture
def connection(switch: ovs.PrivateSwitch) -> Iterator[ovs.PrivateConnection]:
    opened = switch.connect()
    opened.send(build.delete_by_cookie(wire.ALL_TABLES, 0, 0))
    opened.barrier()
    yield opened
    opened.sock.close()


def held(
    connection: ovs.PrivateConnection,
    table: int = wire.ALL_TABLES,
    cookie: int = 0,
    cookie_mask: int = 0,
) -> set[Flow]:
    parts = connection.stats(statistics.flow_request(table, cookie, cookie_mask, xid=9))
    return {entry.flow for entry in statistics.flows(parts)}


EVERY_ACTION = (
    fl.check_pkt_larger(1500, "reg4", 3),
    fl.multipath("symmetric_l3", 4, "reg0"),
    fl.multipath("nw_src", 2, "reg7", 0xFFFF),
    fl.output_reg("reg1"),
    fl.controller(),
    fl.controller(128),
    fl.output(fl.IN_PORT),
    fl.output(fl.LOCAL),
    fl.output(3),
    fl.normal(),
    fl.enqueue(3, 4),
    fl.set_queue(7),
    fl.move("dl_src", "dl_dst"),
    fl.move_bits("reg0", 0, "in_port", 0, 16),
    fl.move_bits("nw_ttl", 0, "reg2", 8, 8),
    fl.dec_ttl(),
    fl.set_vlan(7),
    fl.strip_vlan(),
    fl.set_dl_src(0x00163E000001),
    fl.set_dl_dst(0xFFFFFFFFFFFF),
    fl.load("in_port", 0),
    fl.load("nw_dst", 0x0A000001),
    fl.load("dl_dst", 5),
    fl.load("vlan_tci", 0x1005),
    fl.load_bits("reg4", 5, 1, 1),
    fl.load("tcp_dst", 80),
    fl.resubmit(254),
)
SOLICITED = {"dl_type": fl.IPV6, "nw_proto": 58, "tp_src": 135, "tp_dst": 0}
BY_HAND = [
    Flow(0, 0x8000, (), ()),
    Flow(1, 1, match(in_port=fl.LOCAL, vlan_tci=0), (), 0xFFFFFFFFFFFFFFFF, 5, 6),
    Flow(2, 2, match(dl_type=0x0800, nw_proto=6, nw_frag=(0, 2), tp_dst=179), EVERY_ACTION, 3),
    Flow(2, 3, match(vlan_tci=(0x1005, 0x1FFF), dl_type=0x0800, nw_proto=1, tp_src=8), ()),
    Flow(2, 4, match(vlan_tci=0xB005), ()),
    Flow(2, 5, match(vlan_tci=(0xB000, 0xF000)), ()),
    Flow(2, 6, match(vlan_tci=(0x1000, 0x1000), dl_src=(1, 3 << 46 | 1)), ()),
    Flow(2, 7, match(dl_type=0x0806, arp_op=2, arp_tpa=(0x0A000000, 0xFFFFFF00)), ()),
    Flow(2, 8, match(dl_type=0x86DD, ipv6_dst=(0xFE80 << 112, 0xFFC0 << 112), nw_proto=58), ()),
    Flow(2, 9, match(dl_type=0x86DD, nw_proto=58, tp_src=135, tp_dst=0, ipv6_src=1), ()),
    Flow(2, 10, match(dl_type=0x86DD, nw_proto=17, tp_src=(0x1000, 0xF000)), ()),
    Flow(2, 11, match(dl_type=0x0800, nw_dst=(0x0A000001, 0xFF0000FF), nw_frag=3), ()),
    Flow(2, 12, match(dl_type=0x0800, nw_frag=(1, 1), nw_tos=0xB8, nw_ttl=1, nw_proto=89), ()),
    Flow(2, 13, match(dl_type=0x88CC, reg0=1, reg5=(0x10, 0xF0), reg7=0xFFFFFFFF), ()),
    Flow(2, 14, match(dl_type=0x0806, arp_sha=1, arp_tha=(2, 6), arp_spa=3), ()),
    Flow(
        2,
        15,
        match(**SOLICITED, nd_target=(1 << 96, -1 << 96 & (1 << 128) - 1), nd_sll=(2, 6)),
        (
            *fl.load_address6("ipv6_src", 0xFE80 << 112 | 1),
            fl.move("ipv6_src", "ipv6_dst"),
            fl.load("nd_options_type", 2),
            fl.load("nd_reserved", 0xE0000000),
            fl.load("icmpv6_type", 136),
        ),
    ),
    Flow(2, 16, match(**SOLICITED | {"tp_src": 136}, nd_tll=5), (fl.move("dl_src", "nd_tll"),)),
]


def comparable(dump: str) -> set[str]:
    """The lines of `dump-flows` without counters, in the form of flow.text()."""
    lines = set()
    for line in dump.splitlines():
        if not line.startswith(" "):
            continue
        head, _, actions = line.strip().partition(" actions=")
        head = re.sub(r"(duration|n_packets|n_bytes|idle_age|hard_age)=\S+ ?", "", head)
        head = head.removeprefix("cookie=0x0, ").replace(" ", "").rstrip(",")
        if "priority=" not in head:
            head = re.sub(r"(table=\d+(,(idle|hard)_timeout=\d+)*)", r"\1,priority=32768", head)
        lines.add(f"{head},actions={actions}")
    return lines


@pytest.mark.parametrize("seed", [None, *range(5)])
def test_flows_come_back(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection, seed: int | None
) -> None:
    flows = BY_HAND if seed is None else samples.some_flows(Random(seed), 150)
    connection.add(flows)
    assert held(connection) == set(flows)
    dump = switch.ofctl("dump-flows")
    assert comparable(dump) == {fl.text(flow) for flow in flows}


def test_text_is_what_ovs_ofctl_takes(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection
) -> None:
    for flow in BY_HAND:
        switch.ofctl("add-flow", fl.text(flow))
    assert held(connection) == set(BY_HAND)


def test_a_dump_of_many_parts(connection: ovs.PrivateConnection) -> None:
    packer = RoutePacker()
    routes = [(i << 12, 20 + i % 13, i % 50) for i in range(3000)]
    for chunk in packer.pack_adds(7, routes, [net >> 20 for net, _, _ in routes]):
        connection.send(chunk)
    assert connection.barrier() == []
    parts = connection.stats(statistics.flow_request(layout.ROUTES, xid=3))
    assert len(parts) > 1 and [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    want = {route_flow(7, *route, route[0] >> 20) for route in routes}
    assert {entry.flow for entry in statistics.flows(parts)} == want


def test_by_cookie(connection: ovs.PrivateConnection) -> None:
    exact = 0xFFFFFFFFFFFFFFFF
    flows = [Flow(t, p, (), (), cookie=p) for t in (0, 1) for p in range(8)]
    connection.add(flows)
    assert held(connection, cookie=3, cookie_mask=exact) == {f for f in flows if f.cookie == 3}
    assert held(connection, table=1, cookie=1, cookie_mask=1) == {
        f for f in flows if f.table == 1 and f.cookie & 1
    }
    counted = connection.stats(statistics.aggregate_request(cookie=3, cookie_mask=exact))[0].entries
    assert counted == (Aggregate(0, 0, 2),)
    connection.send(build.delete_by_cookie(1, 3))
    connection.send(build.delete_by_cookie(wire.ALL_TABLES, 4, 4))
    assert connection.barrier() == []
    left = {f for f in flows if not f.cookie & 4 and f.key[:2] != (1, 3)}
    assert held(connection) == left
    narrow = Flow(0, 9, match(reg1=5, in_port=1), (), cookie=1)
    connection.add([narrow])
    connection.send(build.delete_matching(0, match(reg1=5), 1, exact))
    assert connection.barrier() == []
    assert held(connection) == left


def test_strict_commands(connection: ovs.PrivateConnection) -> None:
    old = Flow(3, 5, match(in_port=1), (fl.output(2),), 1)
    new = Flow(3, 5, match(in_port=1), (fl.output(3),), 1)
    connection.add([old, Flow(3, 6, (), ())])
    connection.send(build.flow_mod(new, wire.FlowModCommand.MODIFY_STRICT))
    assert connection.barrier() == [] and new in held(connection)
    connection.send(build.flow_mod(new, wire.FlowModCommand.DELETE_STRICT))
    assert connection.barrier() == [] and held(connection) == {Flow(3, 6, (), ())}


def test_an_addition_overwrites_the_cookie_alone(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection
) -> None:
    """In one step, as when a release writes other cookies; the flow counts anew: from 0,
    or from what the datapath had counted since it was asked last."""
    old = Flow(0, 5, match(in_port=1), (fl.resubmit(7),), 1)
    new = replace(old, cookie=2)
    connection.add([old, Flow(7, 5, (), (fl.output(2),))])
    assert switch.inject(FRAME, 1) == {2: [FRAME]}
    for number in range(100):
        connection.send(build.flow_mod(old if number % 2 else new))
        assert switch.inject(FRAME, 1, fresh=False) == {2: [FRAME]}
    connection.add([new])
    assert held(connection, table=0) == {new}
    assert held(connection, cookie=old.cookie, cookie_mask=0xFFFFFFFFFFFFFFFF) == set()
    parts = connection.stats(statistics.flow_request(0, xid=9))
    (counted,) = [entry.packets for entry in statistics.flows(parts)]
    assert counted < 100, "what was counted before must not be counted once more"


def test_the_plain_form(connection: ovs.PrivateConnection) -> None:
    flows = [
        Flow(0, 5, match(in_port=1, vlan_tci=0, dl_type=0x0806, arp_tpa=5), (fl.output(2),), 9),
        Flow(0, 6, match(vlan_tci=(0x1005, 0x1FFF), dl_src=7), (fl.set_vlan(6), fl.output(3))),
        Flow(0, 7, match(vlan_tci=0x3005, dl_dst=7), (fl.strip_vlan(), fl.controller(99))),
        Flow(0, 8, match(vlan_tci=(0x3000, 0xF000)), (fl.enqueue(1, 2),)),
        Flow(
            0, 9, match(dl_type=0x800, nw_src=(5 << 24, 255 << 24), nw_proto=17, tp_dst=9), (), 0, 9
        ),
    ]
    # With enable_table_id() the command's high byte is the table here too: 0.
    connection.send(b"".join(map(build.flow_mod_of10, flows)))
    assert connection.barrier() == []
    assert held(connection) == set(flows)
    parts = connection.stats(statistics.flow_request_of10(xid=4))
    assert {entry.flow for entry in statistics.flows(parts)} == set(flows)
    counted = connection.stats(statistics.aggregate_request_of10(match(vlan_tci=0)))[0].entries
    assert counted == (Aggregate(0, 0, 1),)
    parts = connection.stats(statistics.table_request())
    tables = [entry for part in parts for entry in part.entries]
    assert [entry for entry in tables if entry.flows] == [TableStats(0, len(flows))]


def test_foreign_flows_do_not_spoil_a_dump(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection
) -> None:
    switch.ofctl("add-flow", "table=9,tun_id=5,metadata=7,actions=learn(table=10),write_metadata:3")
    switch.ofctl("add-flow", "table=9,ct_state=+trk,ip,actions=ct(commit),mod_nw_tos:4,flood")
    foreign = held(connection)
    assert len(foreign) == 2
    connection.send(
        b"".join(build.flow_mod(flow, wire.FlowModCommand.DELETE_STRICT) for flow in foreign)
    )
    assert connection.barrier() == [] and held(connection) == set()
    connection.add(foreign)
    assert held(connection) == foreign


def test_errors_have_names(connection: ovs.PrivateConnection) -> None:
    bad = build.flow_mod(Flow(1, 1, (), ()))
    connection.send(bad[:25] + b"\x09" + bad[26:])
    connection.send(build.packet_out(FRAME, (fl.output(77),), in_port=0xFF77))
    connection.send(build.flow_mod(Flow(1, 1, (), (fl.load("nw_dst", 1),))))
    connection.send(build.packet_out(FRAME, (fl.raw(b"\x00\x63\x00\x08\0\0\0\0"),)))
    errors = [m for m in connection.barrier() if isinstance(m, parse.ErrorMessage)]
    assert [error.name for error in errors] == [
        "flow_mod failed: unknown command",
        "bad request: no such port",
        "bad request: action does not fit the match",
        "bad action: unknown action",
    ]


def test_what_the_switch_reports(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection
) -> None:
    connection.send(build.features_request(5))
    features = connection.receive()
    assert isinstance(features, parse.FeaturesReply)
    assert {port.name for port in features.ports} == {"b0", *(f"p{i}" for i in range(1, 7))}
    connection.send(build.set_config(0xFFFF))
    told = Flow(0, 9, match(in_port=1), (fl.controller(), fl.output(2)), 5, flags=fl.SEND_FLOW_REM)
    connection.add([told])
    assert switch.inject(FRAME, 1) == {2: [FRAME]}
    packet_in = connection.receive()
    assert isinstance(packet_in, parse.PacketIn)
    assert (packet_in.in_port, packet_in.data) == (1, FRAME)
    connection.send(build.flow_mod(told, wire.FlowModCommand.DELETE_STRICT))
    removed = connection.receive()
    assert isinstance(removed, parse.FlowRemoved)
    assert (removed.flow, removed.reason) == (Flow(0, 9, match(in_port=1), (), 5), 2)
    switch.appctl("netdev-dummy/set-admin-state", "p6", "down")
    status = connection.receive()
    assert isinstance(status, parse.PortStatus)
    assert (status.port.name, status.port.up, status.reason) == ("p6", False, 2)
    switch.appctl("netdev-dummy/set-admin-state", "p6", "up")


def test_what_the_switch_sends_up_has_its_registers(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection
) -> None:
    """Also once an action has cleared in_port; to another connection it speaks as ever."""
    other = switch.connect()
    for each in (connection, other):
        each.send(build.set_config(0xFFFF))
        each.barrier()
    connection.send(build.set_packet_in_format_nxm())
    up = (fl.load("reg7", 1), fl.controller())
    flows = [
        Flow(0, 9, match(in_port=1), (fl.load("reg1", 7), fl.load("reg3", 9), *up, fl.resubmit(8))),
        Flow(8, 9, match(reg1=7), (fl.load("in_port", 0), fl.load("reg7", 4), fl.controller())),
    ]
    connection.add(flows)
    assert switch.inject(FRAME, 1) == {}
    want = simulate.run(simulate.Tables(flows), FRAME, 1).packet_ins
    assert [packet.in_port for packet in want] == [1, 0]
    assert [packet.registers["reg7"] for packet in want] == [1, 4]
    assert [connection.receive() for _ in want] == want
    told = [other.receive() for _ in want]
    assert told == [packet._replace(registers={}) for packet in want]
    other.sock.close()


@pytest.mark.parametrize("kind", [NICIRA, REACTIVE])
@pytest.mark.parametrize("still", [True, False])
def test_what_our_tables_send_up_comes_so(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection, kind: dict[str, Any], still: bool
) -> None:
    host = Host(load("path"), kind, still=still)
    connection.send(build.set_packet_in_format_nxm() + build.set_config(0xFFFF))
    connection.add(host.tables)
    left = host.end("vr1", "left")[1]
    mine = host.end("vr1", "middle")[1].mac
    came = 0
    for port, frame in (
        ("to-s1", pk.vlan(ip(left.mac, 0x0A000101), 101)),
        ("to-s1", pk.vlan(ip(left.mac, 0x0A020001), 101)),
        ("vr1.1", ip(HELLOS, 0xE0000005, mine, pk.OSPF, 1)),
        ("vr1.1", ip(0x020000020201, 0x0A020001, mine)),
    ):
        want = simulate.run(host.tables, frame, PORTS[port]).packet_ins
        switch.inject(frame, PORTS[port])
        assert [connection.receive() for _ in want] == want, frame.hex()
        came += len(want)
    assert connection.barrier() == []
    assert came >= (6 if still else 1)


def test_a_packet_answered_once(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection
) -> None:
    """The reactive answer catches the next frame of the same twelve fields, and only those."""
    actions = pack_actions((fl.dec_ttl(), fl.output(4)))
    for frame in samples.frames():
        connection.send(build.delete_by_cookie(wire.ALL_TABLES, 0, 0))
        connection.send(ExactFlowPacker(0, 5, 10).pack(frame, 1, actions, 3))
        assert connection.barrier() == [], frame.hex()
        (flow,) = held(connection)
        assert flow.match == exact_match(frame, 1)
        sent = simulate.run(simulate.Tables([flow]), frame, 1).outputs
        assert switch.inject(frame, 1).get(4, []) == [data for _, data in sent]
        assert switch.inject(frame, 2) == {}


def test_ipv6_routes_are_cached_by_their_prefixes(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection
) -> None:
    """Where Open vSwitch was told what to track, as the lab and a host's service tell it."""
    connection.add(test_ipv6.host_flows(network_file.load(find_file("paper"))))
    assert connection.barrier() == []
    switch.vsctl(*tracked.vsctl_words("b0")[1:])
    many = [7919 * number for number in range(1, 101)]
    to_many = [test_ipv6.ip(test_ipv6.FAR + n) for n in many]
    from_many = [test_ipv6.ip(test_ipv6.FAR, src=test_ipv6.GEN + n) for n in many]
    for frames in (to_many, from_many):
        switch.appctl("revalidator/purge")
        for frame in frames:
            switch.inject(pk.vlan(frame, 101), test_ipv6.PORTS["to-gen"], fresh=False)
        cached = switch.appctl("dpctl/dump-flows").count("eth_type(0x86dd)")
        assert 1 <= cached <= 3
    switch.vsctl("clear", "Bridge", "b0", "flow_tables")


@pytest.mark.parametrize("weights", [(32769, 32768), (3000, 1001), (65535,) * 256])
def test_groups_of_any_weights(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection, weights: tuple[int, ...]
) -> None:
    """What the pipeline makes of a weighted group is taken, and gives each leg its share."""
    network = load("paper").network
    router = network.routers["vr1"]
    legs = tuple((100 + n, weight) for n, weight in enumerate(weights))
    flows = list(next_hop_flows(network, router, NextHopView(30, "group", legs=legs)))
    wide = NextHopView(1, "via", router.interfaces[0], 0x02AA, mtu=65530)
    flows += next_hop_flows(network, router, wide)
    enter = (fl.load("reg1", router.id), fl.load("reg0", 30), fl.resubmit(layout.NEXT_HOPS))
    ends = [
        Flow(layout.NEXT_HOPS, 1, match(reg0=leg), (fl.output(2 + n % 2),))
        for n, (leg, _) in enumerate(legs)
    ]
    connection.add([*flows, Flow(0, 1, (), enter), *ends])
    assert set(flows) <= held(connection)
    counts = {2: 0, 3: 0}
    for n in range(300):
        packet = pk.ipv4(0x0A000001 + 77 * n, 0x0A000102, 17, b"to somewhere")
        sent = switch.inject(pk.ethernet(0x02AA, 0x02BB, pk.ETH_IPV4, packet), 1)
        ((port, _),) = sent.items()
        counts[port] += 1
    exact = sum(weights[::2]) / sum(weights)
    assert abs(counts[2] / 300 - exact) < 0.13


def fate(verdict: simulate.Fate) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for port, frame in verdict.outputs:
        if isinstance(port, int) and 1 <= port <= ovs.N_PORTS:
            found.setdefault(port, []).append(frame)
    return found


def traced_ports(switch: ovs.PrivateSwitch, frame: bytes, in_port: int) -> list[int]:
    text = switch.appctl("ofproto/trace", "b0", f"in_port={in_port}", frame.hex())
    actions = text.split("Datapath actions: ")[1].splitlines()[0]
    while (shorter := re.sub(r"\([^()]*\)", "", actions)) != actions:
        actions = shorter
    shown = re.findall(r"\s(\d+)/(\d+): \(dummy\)", switch.appctl("dpif/show"))
    ports = {datapath_port: int(port) for port, datapath_port in shown}
    return [ports[a] for a in actions.split(",") if a in ports]


@pytest.mark.parametrize("seed", range(12))
def test_frames_fare_as_simulated(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection, seed: int
) -> None:
    flows = samples.some_flows(Random(seed), 60)
    connection.add(flows)
    tables = simulate.Tables(flows)
    for frame in samples.frames():
        for in_port in (1, 2):
            verdict = simulate.run(tables, frame, in_port)
            assert switch.inject(frame, in_port) == fate(verdict), (in_port, frame.hex())
            assert traced_ports(switch, frame, in_port) == [
                port for port in verdict.ports if isinstance(port, int) and port <= ovs.N_PORTS
            ]


SETTINGS: dict[str, list[Flow]] = {
    "resubmit goes on": [
        Flow(0, 1, (), (fl.resubmit(1), fl.output_reg("reg0"), fl.output(3))),
        Flow(1, 1, (), (fl.load("reg0", 2), fl.set_dl_src(9))),
    ],
    "depth": [Flow(0, 1, (), (fl.output(2), fl.resubmit(0)))],
    "depth 64": [
        *(Flow(i, 1, (), (fl.resubmit(i + 1),)) for i in range(64)),
        Flow(64, 1, (), (fl.output(2),)),
    ],
    "depth 65": [
        Flow(0, 1, (), (fl.output(3), fl.resubmit(1))),
        *(Flow(i, 1, (), (fl.resubmit(i + 1),)) for i in range(1, 65)),
        Flow(65, 1, (), (fl.output(2),)),
    ],
    "breadth": [
        Flow(0, 1, (), (fl.output(3), *[fl.resubmit(1)] * 65)),
        Flow(1, 1, (), (fl.resubmit(2),) * 65),
        Flow(2, 1, (), (fl.load("reg0", 1),)),
    ],
    "misses": [Flow(0, 1, (), (fl.resubmit(1), fl.resubmit(2), fl.output(2)))],
    "ingress": [
        Flow(
            0,
            1,
            (),
            (fl.output(1), fl.output(fl.IN_PORT), fl.load("in_port", 0), fl.output(1)),
        )
    ],
    "ttl": [
        Flow(0, 1, (), (fl.resubmit(1), fl.output(3))),
        Flow(1, 1, match(dl_type=0x800), (fl.dec_ttl(), fl.set_dl_src(5), fl.output(2))),
        Flow(1, 2, match(dl_type=0x86DD), (fl.dec_ttl(), fl.output(2))),
        Flow(1, 0, (), (fl.dec_ttl(), fl.output(2))),
    ],
    "ttl twice": [
        Flow(
            0, 1, match(dl_type=0x800), (fl.dec_ttl(), fl.resubmit(1), fl.dec_ttl(), fl.output(2))
        ),
        Flow(1, 1, match(dl_type=0x800, nw_ttl=63), (fl.output(3),)),
    ],
    "a router's answer to ARP": [
        Flow(
            0,
            1,
            match(dl_type=0x806, arp_op=1, arp_tpa=samples.IP[1]),
            (
                fl.move("dl_src", "dl_dst"),
                fl.set_dl_src(0x0A),
                fl.load("arp_op", 2),
                fl.move("arp_sha", "arp_tha"),
                fl.load("arp_sha", 0x0A),
                fl.move("arp_spa", "arp_tpa"),
                fl.load("arp_spa", samples.IP[1]),
                fl.output(fl.IN_PORT),
            ),
        )
    ],
    "a router's answer to a neighbour solicitation": [
        Flow(
            0,
            1,
            match(**SOLICITED, nd_target=samples.IP6[1]),
            (
                fl.move("ipv6_src", "ipv6_dst"),
                *fl.load_address6("ipv6_src", samples.IP6[1]),
                fl.set_dl_src(0x0A),
                fl.load("nd_options_type", 2),
                fl.load("nd_reserved", 0xE0000000),
                fl.load("icmpv6_type", 136),
                fl.output(2),
                fl.resubmit(9),
            ),
        ),
        Flow(0, 2, match(**SOLICITED, nd_sll=0), (fl.output(4),)),
        Flow(
            9,
            1,
            match(**SOLICITED | {"tp_src": 136}),
            (fl.move("dl_src", "nd_tll"), fl.output(3)),
        ),
    ],
    "fields not there": [
        Flow(
            0,
            1,
            match(dl_type=0x800, nw_proto=17),
            (fl.load("nw_dst", 1), fl.load("nw_ttl", 9), fl.load("udp_dst", 5), fl.output(2)),
        )
    ],
    "vlan": [
        Flow(0, 1, match(in_port=1), (fl.set_vlan(9), fl.output(2), fl.strip_vlan(), fl.output(3))),
        Flow(0, 2, match(in_port=2), (fl.load("vlan_tci", 0x7005), fl.output(3), fl.output(1))),
        Flow(0, 3, match(in_port=3), (fl.load("vlan_tci", 0), fl.output(2))),
    ],
    "too large": [
        Flow(0, 1, (), (fl.resubmit(1), fl.resubmit(2), fl.output(5))),
        Flow(1, 1, (), (fl.load("reg1", 7), fl.check_pkt_larger(100, "reg0", 0), fl.resubmit(2))),
        Flow(2, 2, match(reg0=(1, 1)), (fl.set_dl_src(1), fl.output(3))),
        Flow(2, 1, (), (fl.set_dl_src(2), fl.output(4))),
    ],
    "too large, tagged first": [
        Flow(0, 1, (), (fl.set_vlan(5), fl.check_pkt_larger(72, "reg0", 0), fl.resubmit(2))),
        Flow(2, 2, match(reg0=(1, 1)), (fl.output(3),)),
        Flow(2, 1, (), (fl.output(4),)),
    ],
    "reserved ports from a register": [
        Flow(0, 1, (), (fl.load("reg0", fl.IN_PORT), fl.output_reg("reg0"))),
        Flow(
            0, 2, match(in_port=2), (fl.load("reg0", 0x10003), fl.output_reg("reg0"), fl.output(1))
        ),
    ],
    "fragments and ports": [
        Flow(0, 3, match(dl_type=0x800, nw_proto=17, tp_dst=53), (fl.output(2),)),
        Flow(0, 2, match(dl_type=0x800, nw_proto=17, tp_dst=0), (fl.output(3),)),
        Flow(0, 1, (), (fl.output(4),)),
    ],
    "queues": [Flow(0, 1, (), (fl.set_queue(3), fl.output(2), fl.enqueue(3, 1), fl.enqueue(1, 1)))],
    "protocol 0": [
        Flow(
            0,
            1,
            match(dl_type=0x800),
            (fl.dec_ttl(), fl.load("nw_dst", 3), fl.set_dl_dst(1), fl.output(2), fl.resubmit(1)),
        ),
        Flow(1, 1, match(dl_type=0x800, nw_ttl=63), (fl.output(3),)),
    ],
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_fare_as_simulated(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection, setting: str
) -> None:
    connection.add(SETTINGS[setting])
    tables = simulate.Tables(SETTINGS[setting])
    for frame in samples.frames():
        for in_port in (1, 2, 3):
            verdict = simulate.run(tables, frame, in_port)
            assert switch.inject(frame, in_port) == fate(verdict), (in_port, frame.hex())


def test_multipath_takes_one_of_its_links(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection
) -> None:
    flow = Flow(0, 1, (), (fl.multipath("symmetric_l3", 3, "reg0"), fl.resubmit(1)))
    ends = [Flow(1, 1, match(reg0=i), (fl.output(2 + i),)) for i in range(3)]
    connection.add([flow, *ends])
    tables = simulate.Tables([flow, *ends])
    for dst in range(20):
        packet = pk.ipv4(1, dst, 17, pk.udp(1, dst, 5, 6))
        frame = pk.ethernet(1, 2, 0x800, packet)
        (port,) = switch.inject(frame, 1)
        assert port in (2, 3, 4)
        assert simulate.run(tables, frame, 1).ports[0] in (2, 3, 4)


def test_a_second_group_spreads_what_the_first_sent_one_way(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection
) -> None:
    """Two routers in a row, each with a basis of its own: every pair of legs is used."""
    first = Flow(0, 1, (), (fl.multipath("symmetric_l3", 2, "reg0", 1), fl.resubmit(1)))
    second = Flow(1, 1, (), (fl.multipath("symmetric_l3", 2, "reg1", 2), fl.resubmit(2)))
    ends = [
        Flow(2, 1, match(reg0=i, reg1=j), (fl.output(2 + i), *([fl.output(4)] if j else [])))
        for i in range(2)
        for j in range(2)
    ]
    connection.add([first, second, *ends])
    fates = set()
    for dst in range(48):
        frame = pk.ethernet(1, 2, 0x800, pk.ipv4(1, dst, 17, pk.udp(1, dst, 5, 6)))
        fates.add(tuple(sorted(switch.inject(frame, 1))))
    assert fates == {(2,), (2, 4), (3,), (3, 4)}


class Proven:
    """A proof asks the running switch, and is done when `prove` returns."""

    def __init__(self, switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection) -> None:
        self._switch, self._connection = switch, connection

    def nudge(self) -> None:
        self._connection.send(SwitchKind.nudge)

    def confirm(self, promise: Promise, then: Callable[[], None]) -> None:
        self._connection.barrier()
        then()

    def later(self, seconds: float, call: Callable[..., Any], *arguments: Any) -> None:
        """What is asked here is answered at once."""

    def prove(self) -> None:
        def ask(command: str, then: Callable[[str | None, str], None]) -> None:
            then(None, self._switch.appctl(command))

        proven: list[bool] = []
        Revalidator(ask).begin(self, Promise(lambda _: None), lambda: proven.append(True), True)
        assert proven


def test_what_is_proven_is_so_of_flows_that_overlap(
    switch: ovs.PrivateSwitch, connection: ovs.PrivateConnection
) -> None:
    """Two cached flows that overlap, whose rule then leads elsewhere: before 3.1.3 the userspace
    datapath changes one of them twice and the other never."""

    def rule(net: int, plen: int, port: int) -> Flow:
        prefix = match(dl_type=fl.IPV4, nw_dst=(net, fl.prefix_mask(plen)))
        return Flow(0, plen, prefix, (fl.output(port),))

    def goes(target: int) -> list[int]:
        packet = pk.ipv4(0x0A090001, target, 17, pk.udp(0x0A090001, target, 1, 2))
        frame = pk.ethernet(0x02, 0x04, pk.ETH_IPV4, packet)
        return sorted(switch.inject(frame, 1, fresh=False))

    # Each packet's own flow is remembered, as it is of one in a hundred by default.
    switch.vsctl("set", "Open_vSwitch", ".", "other_config:emc-insert-inv-prob=1")
    proven = Proven(switch, connection)
    near, far = 0x0A010202, 0x0A010002
    narrow = rule(0x0A010200, 24, 2)
    connection.add([narrow, rule(0x0A020000, 16, 6)])
    proven.prove()
    # Of the overlapping two the wider one is found first: flows of its kind are older.
    assert (goes(0x0A020001), goes(near)) == ([6], [2])
    connection.add([rule(0x0A010000, 16, 3)])
    connection.send(build.flow_mod(narrow, wire.FlowModCommand.DELETE_STRICT))
    connection.barrier()
    for _ in range(2):
        switch.appctl("revalidator/wait")
    assert (goes(near), goes(far)) == ([3], [3])
    connection.add([rule(0x0A010000, 16, 4)])
    proven.prove()
    assert (goes(near), goes(far)) == ([4], [4])
