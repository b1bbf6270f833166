"""OpenFlow messages as octets, each beside what builds it and what it is parsed into.

One list for both directions.  The octets are written out field by field (OpenFlow 1.0.0, section 5;
Open vSwitch, include/openflow/nicira-ext.h), so that they hold whatever the code under test does.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.octets import octets
from xenflow.openflow import build, monitor, parse, statistics, wire
from xenflow.openflow import flow as fl
from xenflow.openflow.flow import Flow, match
from xenflow.openflow.monitor import FlowUpdate, FlowUpdates, UpdateEvent
from xenflow.openflow.statistics import Aggregate, FlowStats, StatsReply, TableStats


class MessageCase(NamedTuple):
    """A message.

    built   what builds it has made, None where a controller sends no such message
    parsed  the value that it is parsed into, None where a controller gets no such message
    """

    name: str
    octets: bytes
    built: bytes | None = None
    parsed: object = None


ROUTER = match(reg1=1)
FLOW = Flow(
    1,
    300,
    match(in_port=3, dl_type=fl.IPV4, nw_dst=(0x0A000000, 0xFF000000)),
    (fl.load("reg0", 7), fl.resubmit(2)),
    0x5846000100000007,
    10,
    20,
    fl.SEND_FLOW_REM,
)
FLOW_MATCH = "00000002 0003 00000602 0800 00001108 0a000000 ff000000"  # 24 octets: no padding
FLOW_ACTIONS = (
    "ffff 0018 00002320 0007 001f 00010004 0000000000000007",
    "ffff 0010 00002320 000e fff8 02 000000",
)
PLAIN = Flow(
    0,
    310,
    match(in_port=3, vlan_tci=(0x1005, 0x1FFF), dl_dst=0x020000000001),
    (fl.strip_vlan(), fl.output(2)),
    0x5846000000000000,
)
PLAIN_MATCH = "003ffff4 0003 000000000000 020000000001 0005 00 1* 0000 00 00 2* 8* 4*"
PLAIN_ACTIONS = "0003 0008 00000000 0000 0008 0002 0000"
EMPTY_MATCH = "003fffff 0000 6* 6* 0000 00 1* 0000 00 00 2* 8* 4*"
PORT = parse.Port(3, 9, "vif3.0", 0, 1, 2, 3, 4, 5)
PORT_OCTETS = (
    "0003 000000000009 766966332e30 10*",
    "00000000 00000001 00000002 00000003 00000004 00000005",
)
FLOW_STATS = FlowStats(FLOW, 10, 1000, 3.5, 1)

BOTH_WAYS = [
    MessageCase("hello", octets("01 00 0008 00000007"), build.hello(7), parse.Hello(7, 1)),
    MessageCase(
        "echo request",
        octets("01 02 000a 00000002 6869"),
        build.echo_request(b"hi", 2),
        parse.EchoRequest(2, b"hi"),
    ),
    MessageCase(
        "echo reply",
        octets("01 03 000a 00000002 6869"),
        build.echo_reply(b"hi", 2),
        parse.EchoReply(2, b"hi"),
    ),
    MessageCase(
        "packet in",
        octets("01 0a 0017 00000005 ffffffff 003c 0003 01 1* 6672616d65"),
        build.packet_in(b"frame", 3, total_len=60, xid=5),
        parse.PacketIn(5, 0xFFFFFFFF, 60, 3, 1, b"frame"),
    ),
    MessageCase(
        "packet in with registers",
        octets(
            "01 04 0047 00000005 00002320 00000011",
            "ffffffff 0005 01 08 5846000100000000 0016 6*",
            "00000002 0003 00010204 00000007 00010e04 00000001 2*",
            "2* 6672616d65",
        ),
        build.nx_packet_in(
            b"frame",
            match(in_port=3, reg1=7, reg7=1),
            table=8,
            cookie=0x5846000100000000,
            xid=5,
        ),
        parse.PacketIn(5, 0xFFFFFFFF, 5, 3, 1, b"frame", {"reg1": 7, "reg7": 1}),
    ),
]
"""A controller builds packet-ins for its other components."""
FLOW_MODS = [
    MessageCase(
        "flow added",
        octets(
            "01 04 0070 00000008 00002320 0000000d",
            "5846000100000007 01 00 000a 0014 012c ffffffff ffff 0001 0018 6*",
            FLOW_MATCH,
            *FLOW_ACTIONS,
        ),
        build.flow_mod(FLOW, xid=8),
        FLOW,
    ),
    MessageCase(
        "flow deleted",
        octets(
            "01 04 0048 00000000 00002320 0000000d",
            "5846000100000007 01 04 000a 0014 012c ffffffff ffff 0001 0018 6*",
            FLOW_MATCH,
        ),
        build.flow_mod(FLOW, wire.FlowModCommand.DELETE_STRICT),
        Flow(*FLOW.key, (), FLOW.cookie, 10, 20),
    ),
]
"""What `parse.flow_mod` reads again: so flows travel between controllers."""
TO_SWITCH = [
    MessageCase("features", octets("01 05 0008 00000001"), build.features_request(1)),
    MessageCase("configured", octets("01 09 000c 00000000 0000 0080"), build.set_config(128)),
    MessageCase("barrier", octets("01 12 0008 00000007"), build.barrier_request(7)),
    MessageCase(
        "packet out",
        octets("01 0d 001d 00000006 ffffffff 0005 0008 0000 0008 0001 0000 6672616d65"),
        build.packet_out(b"frame", (fl.output(1),), 5, xid=6),
    ),
    MessageCase(
        "table ids",
        octets("01 04 0018 00000000 00002320 0000000f 01 7*"),
        build.enable_table_id(),
    ),
    MessageCase(
        "flow format",
        octets("01 04 0014 00000000 00002320 0000000c 00000002"),
        build.set_flow_format_nxm(),
    ),
    MessageCase(
        "packet-in format",
        octets("01 04 0014 00000000 00002320 00000010 00000001"),
        build.set_packet_in_format_nxm(),
    ),
    MessageCase(
        "deleted by cookie",
        octets(
            "01 04 0048 00000000 00002320 0000000d",
            "8* ff 03 0000 0000 0000 ffffffff ffff 0000 0014 6*",
            "00013d10 0000000000000005 ffffffffffffffff 4*",
        ),
        build.delete_by_cookie(wire.ALL_TABLES, 5),
    ),
    MessageCase(
        "deleted by match and cookie",
        octets(
            "01 04 0050 00000000 00002320 0000000d",
            "8* 03 03 0000 0000 0000 ffffffff ffff 0000 001c 6*",
            "00010204 00000001 00013d10 5846000000000000 ffff000000000000 4*",
        ),
        build.delete_matching(3, ROUTER, 0x5846 << 48, 0xFFFF << 48),
    ),
    MessageCase(
        "flow of OpenFlow 1.0",
        octets(
            "01 0e 0058 00000000",
            PLAIN_MATCH,
            "5846000000000000 0000 0000 0000 0136 ffffffff ffff 0000",
            PLAIN_ACTIONS,
        ),
        build.flow_mod_of10(PLAIN),
    ),
    MessageCase(
        "flows asked for",
        octets(
            "01 10 0040 00000009 ffff 0000 00002320 00000000 4*",
            "ffff 001c 01 3* 00010204 00000001 00013d10 0000000000000005 0000000000000007 4*",
        ),
        statistics.flow_request(1, 5, 7, ROUTER, xid=9),
    ),
    MessageCase(
        "their number asked for",
        octets("01 10 0020 00000000 ffff 0000 00002320 00000001 4* ffff 0000 ff 3*"),
        statistics.aggregate_request(),
    ),
    MessageCase(
        "flows asked for in OpenFlow 1.0",
        octets("01 10 0038 00000000 0001 0000", PLAIN_MATCH, "ff 00 ffff"),
        statistics.flow_request_of10(PLAIN.match),
    ),
    MessageCase(
        "their number asked for in OpenFlow 1.0",
        octets("01 10 0038 00000000 0002 0000", EMPTY_MATCH, "ff 00 ffff"),
        statistics.aggregate_request_of10(),
    ),
    MessageCase(
        "tables asked for", octets("01 10 000c 00000000 0003 0000"), statistics.table_request()
    ),
    MessageCase(
        "monitor",
        octets(
            "01 10 0028 00000002 ffff 0000 00002320 00000002 4*",
            "00000004 0016 ffff 0000 03 5*",
        ),
        monitor.request(4, 3, monitor.ADD | monitor.DELETE, xid=2),
    ),
    MessageCase(
        "monitor ended",
        octets("01 04 0014 00000000 00002320 00000015 00000004"),
        monitor.cancel(4),
    ),
]
FROM_SWITCH = [
    MessageCase("hello of another", octets("04 00 0008 00000005"), parsed=parse.Hello(5, 4)),
    MessageCase("barrier done", octets("01 13 0008 00000005"), parsed=parse.BarrierReply(5)),
    MessageCase(
        "configuration told",
        octets("01 08 000c 00000005 0000 0080"),
        parsed=wire.Other(5, wire.MessageType.GET_CONFIG_REPLY, b"\0\0\0\x80"),
    ),
    MessageCase(
        "features told",
        octets(
            "01 06 0050 00000005 0000000000000abc 00000000 fe 3* 00000001 00000002", *PORT_OCTETS
        ),
        parsed=parse.FeaturesReply(5, 0xABC, 0, 254, 1, 2, (PORT,)),
    ),
    MessageCase(
        "port changed",
        octets("01 0c 0040 00000005 02 7*", *PORT_OCTETS),
        parsed=parse.PortStatus(5, 2, PORT),
    ),
    MessageCase(
        "packet in of the beginning of a frame that has no port any more",
        octets(
            "01 04 0042 00000005 00002320 00000011",
            "ffffffff 0400 00 00 8* 000e 6* 00010604 00000009 00000002 0000 2*",
            "2* 6672616d6521 6672",
        ),
        parsed=parse.PacketIn(5, 0xFFFFFFFF, 1024, 0, 0, b"frame!fr", {"reg3": 9}),
    ),
    MessageCase(
        "error",
        octets("01 01 0010 00000005 0003 0000 72656675"),
        parsed=parse.ErrorMessage(5, 3, 0, "flow_mod failed: tables full", b"refu"),
    ),
    MessageCase(
        "error of Nicira's",
        octets("01 01 0018 00000005 b0c2 0000 00002320 0001 0104 72656675"),
        parsed=parse.ErrorMessage(5, 1, 260, "bad request: match prerequisite not met", b"refu"),
    ),
    MessageCase(
        "error of another vendor's",
        octets("01 01 0014 00000005 b0c2 0000 00000001 0002 0003"),
        parsed=parse.ErrorMessage(5, 2, 3, "vendor 0x1 error 2, 3", b""),
    ),
    MessageCase(
        "error that nobody knows",
        octets("01 01 000c 00000005 004d 0042"),
        parsed=parse.ErrorMessage(5, 77, 66, "error type 77: code 66", b""),
    ),
    MessageCase(
        "flow gone",
        octets(
            "01 04 0050 00000005 00002320 0000000e",
            "5846000100000007 012c 02 02 00000002 1dcd6500 000a 0018 8* 0000000000000005",
            FLOW_MATCH,
        ),
        parsed=parse.FlowRemoved(
            5, Flow(*FLOW.key, (), FLOW.cookie, FLOW.idle_timeout), 2, 2.5, 0, 5
        ),
    ),
    MessageCase(
        "flow gone in OpenFlow 1.0",
        octets(
            "01 0b 0058 00000005",
            PLAIN_MATCH,
            "5846000000000000 0136 01 1* 00000002 00000000 001e 2* 0000000000000004",
            "0000000000000005",
        ),
        parsed=parse.FlowRemoved(5, Flow(*PLAIN.key, (), PLAIN.cookie, 30), 1, 2.0, 4, 5),
    ),
    MessageCase(
        "something of a vendor's",
        octets("01 04 0010 00000005 00000001 00000002"),
        parsed=wire.Other(5, 4, b"\0\0\0\1\0\0\0\2"),
    ),
    MessageCase(
        "flows",
        octets(
            "01 11 0088 00000009 ffff 0001 00002320 00000000 4*",
            "0070 01 1* 00000003 1dcd6500 012c 000a 0014 0018 0002 0000",
            "5846000100000007 000000000000000a 00000000000003e8",
            FLOW_MATCH,
            *FLOW_ACTIONS,
        ),
        parsed=StatsReply(9, True, (FLOW_STATS,)),
    ),
    MessageCase(
        "flows in OpenFlow 1.0",
        octets(
            "01 11 0074 00000009 0001 0000",
            "0068 00 1*",
            PLAIN_MATCH,
            "00000001 00000000 0136 0000 0000 6* 5846000000000000",
            "0000000000000007 0000000000000008",
            PLAIN_ACTIONS,
        ),
        parsed=StatsReply(9, False, (FlowStats(PLAIN, 7, 8, 1.0, None),)),
    ),
    MessageCase(
        "number of flows",
        octets(
            "01 11 0030 00000009 ffff 0000 00002320 00000001 4*",
            "0000000000000001 0000000000000002 00000003 4*",
        ),
        parsed=StatsReply(9, False, (Aggregate(1, 2, 3),)),
    ),
    MessageCase(
        "number of flows in OpenFlow 1.0",
        octets(
            "01 11 0024 00000009 0002 0000",
            "0000000000000001 0000000000000002 00000003 4*",
        ),
        parsed=StatsReply(9, False, (Aggregate(1, 2, 3),)),
    ),
    MessageCase(
        "tables",
        octets("01 11 004c 00000009 0003 0000", "07 3* 32* 4* 4* 00000005 8* 8*"),
        parsed=StatsReply(9, False, (TableStats(7, 5),)),
    ),
    MessageCase(
        "statistics that nobody asked for",
        octets("01 11 0010 00000009 0005 0000 deadbeef"),
        parsed=wire.Other(9, wire.MessageType.STATS_REPLY, b"\0\5\0\0\xde\xad\xbe\xef"),
    ),
    MessageCase(
        "what others did",
        octets(
            "01 11 0080 00000000 ffff 0000 00002320 00000002 4*",
            "0058 0000 0000 012c 000a 0014 0018 01 1* 5846000100000007",
            FLOW_MATCH,
            *FLOW_ACTIONS,
            "0008 0003 00000011",
            "0008 0007 00000000",
        ),
        parsed=FlowUpdates(0, (FlowUpdate(UpdateEvent.ADDED, FLOW),), (17, None)),
    ),
]
CASES = [*BOTH_WAYS, *FLOW_MODS, *TO_SWITCH, *FROM_SWITCH]

MATCHES = [
    (match(in_port=3), octets("00000002 0003")),
    (match(dl_dst=0x020000000001), octets("00000206 020000000001")),
    (match(dl_dst=(1 << 40, 1 << 40)), octets("0000030c 010000000000 010000000000")),
    (match(vlan_tci=0), octets("00000802 0000")),
    (match(vlan_tci=(0x1005, 0x1FFF)), octets("00000904 1005 1fff")),
    (
        match(dl_type=fl.IPV4, nw_proto=fl.TCP, tp_dst=179),
        octets("00000602 0800 00000c01 06 00001402 00b3"),
    ),
    (
        match(dl_type=fl.IPV4, nw_proto=fl.ICMP, tp_src=8),
        octets("00000602 0800 00000c01 01 00001a01 08"),
    ),
    (
        match(dl_type=fl.IPV4, nw_tos=4, nw_ttl=1, nw_frag=(1, 1)),
        octets("00000602 0800 00000a01 04 00013a01 01 00013502 01 01"),
    ),
    (
        match(dl_type=fl.ARP, arp_op=1, arp_tpa=0x0A000001, arp_sha=1),
        octets("00000602 0806 00001e02 0001 00002204 0a000001 00012206 000000000001"),
    ),
    (
        match(dl_type=fl.IPV6, ipv6_dst=(0xFE80 << 112, 0xFFC0 << 112)),
        octets("00000602 86dd 00012920 fe80 14* ffc0 14*"),
    ),
    (
        match(dl_type=fl.IPV6, nw_proto=58, tp_src=135, tp_dst=0, nd_target=1, nd_sll=2),
        octets(
            "00000602 86dd 00000c01 3a 00012a01 87 00012c01 00",
            "00012e10 15* 01 00013006 5* 02",
        ),
    ),
    (match(reg1=1, reg6=(1, 1)), octets("00010204 00000001 00010d08 00000001 00000001")),
]
ACTIONS = [
    (fl.output(2), octets("0000 0008 0002 0000")),
    (fl.output(fl.IN_PORT), octets("0000 0008 fff8 0000")),
    (fl.controller(128), octets("0000 0008 fffd 0080")),
    (fl.normal(), octets("0000 0008 fffa 0000")),
    (fl.set_vlan(5), octets("0001 0008 0005 2*")),
    (fl.strip_vlan(), octets("0003 0008 4*")),
    (fl.set_dl_src(0x020000000001), octets("0004 0010 020000000001 6*")),
    (fl.set_dl_dst(0x020000000001), octets("0005 0010 020000000001 6*")),
    (fl.enqueue(2, 3), octets("000b 0010 0002 6* 00000003")),
    (fl.set_queue(3), octets("ffff 0010 00002320 0004 2* 00000003")),
    (fl.resubmit(7), octets("ffff 0010 00002320 000e fff8 07 3*")),
    (fl.load("reg3", 5), octets("ffff 0018 00002320 0007 001f 00010604 0000000000000005")),
    (fl.load("nd_reserved", 5), octets("ffff 0018 00002320 0007 001f 10000204 7* 05")),
    (fl.load("nd_options_type", 2), octets("ffff 0018 00002320 0007 0007 10000401 7* 02")),
    (fl.move("dl_src", "nd_tll"), octets("ffff 0018 00002320 0006 0030 4* 00000406 00013206")),
    (fl.load_bits("reg4", 3, 1, 1), octets("ffff 0018 00002320 0007 00c0 00010804 7* 01")),
    (fl.move("reg3", "reg2"), octets("ffff 0018 00002320 0006 0020 0000 0000 00010604 00010404")),
    (
        fl.move_bits("nw_ttl", 0, "reg2", 8, 8),
        octets("ffff 0018 00002320 0006 0008 0000 0008 00013a01 00010404"),
    ),
    (fl.output_reg("reg1"), octets("ffff 0018 00002320 000f 001f 00010204 ffff 6*")),
    (fl.dec_ttl(), octets("ffff 0010 00002320 0012 6*")),
    (
        fl.multipath("symmetric_l3", 4, "reg5", 1),
        octets("ffff 0020 00002320 000a 0006 0001 2* 0002 0003 00000000 2* 001f 00010a04"),
    ),
    (
        fl.check_pkt_larger(1514, "reg6", 0),
        octets("ffff 0018 00002320 0031 05ea 0000 00010c04 6*"),
    ),
]
"""Matches and actions of every form that flows here have, each beside its octets (`nxm`)."""
