"""Route messages as octets, each beside its value.

One list for both directions.  The octets are written out field by field (docs/messages.md), so that
they hold whatever the code under test does.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.octets import octets
from xenflow.routes.family import V6
from xenflow.routes.messages import (
    Header,
    InterfaceFlag,
    InterfaceKind,
    Leg,
    Local,
    Neighbour,
    NextHop,
    NextHopType,
    Op,
    Policy,
    Remark,
    RouteMessage,
    RouteMessageType,
    Section,
    SectionKind,
    VmInterface,
    VmReason,
)


class RouteCase(NamedTuple):
    """A message: its frames, and the value that they are packed from and parsed into."""

    name: str
    frames: list[bytes]
    message: RouteMessage


def delta(name: str, kind: SectionKind, op: Op, section: bytes, *records: object) -> RouteCase:
    """A delta with one section."""
    header = octets("58465254 01 04 0000 000000000000000a 000000000000000b 767231 13*")
    return RouteCase(
        name,
        [header, section],
        RouteMessage(
            Header(RouteMessageType.DELTA, 10, 11, "vr1"), [Section(kind, op, list(records))]
        ),
    )


UP4 = InterfaceFlag.UP | InterfaceFlag.RUNNING | InterfaceFlag.FORWARDING4
CARD = VmInterface(2, UP4, 1500, 0x02000000000A, "eth1")
CARD_OCTETS = "00000002 07 00 05dc 02000000000a 2* 65746831 12*"
ADDRESS4, ADDRESS4_OCTETS = 0x0A000001, "0a000001 12*"
ADDRESS6, ADDRESS6_OCTETS = 0xFE80 << 112 | 9, "fe80 13* 09"

MESSAGES = [
    RouteCase(
        "hello",
        [octets("58465254 01 01 0000 0123456789abcdef fedcba9876543210 767231 13*")],
        RouteMessage(
            Header(RouteMessageType.HELLO, 0x0123456789ABCDEF, 0xFEDCBA9876543210, "vr1"), []
        ),
    ),
    RouteCase(
        "a part of a snapshot",
        [
            octets("58465254 01 02 0102 000000000000000a 000000000000000b 767231 13*"),
            octets("01 01 0000 00000001", CARD_OCTETS),
            octets("06 01 0000 00000001 0a000000 08 00000007"),
        ],
        RouteMessage(
            Header(RouteMessageType.SNAPSHOT, 10, 11, "vr1", 0x0102),
            [
                Section(SectionKind.INTERFACE, Op.SET, [CARD]),
                Section(SectionKind.ROUTE4, Op.SET, [(0x0A000000, 8, 7)]),
            ],
        ),
    ),
    RouteCase(
        "the end of a snapshot",
        [octets("58465254 01 03 0103 000000000000000a 000000000000000b 767231 13*")],
        RouteMessage(Header(RouteMessageType.SNAPSHOT_END, 10, 11, "vr1", 0x0103), []),
    ),
    RouteCase(
        "a delta that adds and deletes",
        [
            octets("58465254 01 04 0000 000000000000000a 000000000000000b 767231 13*"),
            octets("06 01 0000 00000001 0a000000 08 00000007"),
            octets("06 02 0000 00000001 0b000000 08 00000007"),
        ],
        RouteMessage(
            Header(RouteMessageType.DELTA, 10, 11, "vr1"),
            [
                Section(SectionKind.ROUTE4, Op.SET, [(0x0A000000, 8, 7)]),
                Section(SectionKind.ROUTE4, Op.DELETE, [(0x0B000000, 8, 7)]),
            ],
        ),
    ),
    RouteCase(
        "heartbeat",
        [octets("58465254 01 05 0000 000000000000000a 000000000000000b 767231 13*")],
        RouteMessage(Header(RouteMessageType.HEARTBEAT, 10, 11, "vr1"), []),
    ),
    RouteCase(
        "welcome",
        [octets("58465254 01 10 0000 000000000000000a 000000000000000b 767231 13*")],
        RouteMessage(Header(RouteMessageType.WELCOME, 10, 11, "vr1"), []),
    ),
    RouteCase(
        "resync, of a router whose name fills its field",
        [octets("58465254 01 11 0000 8* 8* 30313233343536373839616263646566")],
        RouteMessage(Header(RouteMessageType.RESYNC, 0, 0, "0123456789abcdef"), []),
    ),
    RouteCase(
        "acknowledged",
        [octets("58465254 01 12 0000 000000000000000a 000000000000000b 767231 13*")],
        RouteMessage(Header(RouteMessageType.ACK, 10, 11, "vr1"), []),
    ),
    RouteCase(
        "alive",
        [octets("58465254 01 13 0000 000000000000000a 000000000000000b 767231 13*")],
        RouteMessage(Header(RouteMessageType.ALIVE, 10, 11, "vr1"), []),
    ),
    RouteCase(
        "refused",
        [
            octets("58465254 01 14 0000 000000000000000a 000000000000000b 767231 13*"),
            octets("08 01 0000 00000001 00 00 2* 776879 61*"),
        ],
        RouteMessage(
            Header(RouteMessageType.REFUSED, 10, 11, "vr1"),
            [Section(SectionKind.POLICY, Op.SET, [Policy(False, "why")])],
        ),
    ),
]
"""One of each type."""
DELTAS = [
    delta(
        "interfaces",
        SectionKind.INTERFACE,
        Op.SET,
        octets(
            "01 01 0000 00000004",
            CARD_OCTETS,
            "00000003 08 01 ffff 02000000000b 2* 657468312e37 10*",
            "00000004 01 02 0000 00005e000101 2* 30313233343536373839616263646566",
            "ffffffff 00 c8 0001 6* 2* 78 15*",
        ),
        CARD,
        VmInterface(
            3, InterfaceFlag.FORWARDING6, 0xFFFF, 0x02000000000B, "eth1.7", InterfaceKind.VLAN
        ),
        VmInterface(
            4, InterfaceFlag.UP, 0, 0x00005E000101, "0123456789abcdef", InterfaceKind.MACVLAN
        ),
        VmInterface(0xFFFFFFFF, 0, 1, 0, "x", 200),
    ),
    delta(
        "interface deleted",
        SectionKind.INTERFACE,
        Op.DELETE,
        octets("01 02 0000 00000001", CARD_OCTETS),
        CARD,
    ),
    delta(
        "local prefixes",
        SectionKind.LOCAL,
        Op.SET,
        octets(
            "02 01 0000 00000003",
            f"04 20 00 1* 00000002 {ADDRESS4_OCTETS}",
            "04 20 01 1* 00000002 0a0000ff 12*",
            f"06 80 00 1* 00000003 {ADDRESS6_OCTETS}",
        ),
        Local(4, 32, 2, ADDRESS4),
        Local(4, 32, 2, 0x0A0000FF, broadcast=True),
        Local(6, 128, 3, ADDRESS6),
    ),
    delta(
        "local prefixes deleted",
        SectionKind.LOCAL,
        Op.DELETE,
        octets(
            "02 02 0000 00000002",
            "04 08 00 1* 00000001 7f000000 12*",
            "06 40 00 1* 00000003 20010db8 12*",
        ),
        Local(4, 8, 1, 0x7F000000),
        Local(6, 64, 3, 0x20010DB8 << 96),
    ),
    delta(
        "next hops",
        SectionKind.NEXTHOP,
        Op.SET,
        octets(
            "03 01 0000 00000009",
            f"00000001 01 04 2* 00000002 {ADDRESS4_OCTETS} 020000000001 2*",
            f"00000002 01 06 2* 00000002 {ADDRESS6_OCTETS} 6* 2*",
            "00000003 02 04 2* 00000002 16* 6* 2*",
            "00000004 02 06 2* 00000002 16* 6* 2*",
            "00000005 03 04 2* 4* 16* 6* 2*",
            "00000006 04 06 2* 4* 16* 6* 2*",
            "00000007 05 04 2* 4* 16* 6* 2*",
            "00000008 06 04 2* 4* 00000004 12* 6* 2*",
            "fffffff0 07 06 2* 4* 16* 6* 2*",
        ),
        NextHop(1, NextHopType.VIA, 4, 2, ADDRESS4, 0x020000000001),
        NextHop(2, NextHopType.VIA, 6, 2, ADDRESS6, 0),
        NextHop(3, NextHopType.CONNECTED, 4, 2, 0, 0),
        NextHop(4, NextHopType.CONNECTED, 6, 2, 0, 0),
        NextHop(5, NextHopType.BLACKHOLE, 4, 0, 0, 0),
        NextHop(6, NextHopType.UNREACHABLE, 6, 0, 0, 0),
        NextHop(7, NextHopType.PROHIBIT, 4, 0, 0, 0),
        NextHop(8, NextHopType.VM, 4, 0, VmReason.MTU, 0),
        NextHop(0xFFFFFFF0, NextHopType.GROUP, 6, 0, 0, 0),
    ),
    delta(
        "next hops deleted",
        SectionKind.NEXTHOP,
        Op.DELETE,
        octets(
            "03 02 0000 00000002",
            f"00000001 01 04 2* 00000002 {ADDRESS4_OCTETS} 020000000001 2*",
            f"00000002 01 06 2* 00000002 {ADDRESS6_OCTETS} 6* 2*",
        ),
        NextHop(1, NextHopType.VIA, 4, 2, ADDRESS4, 0x020000000001),
        NextHop(2, NextHopType.VIA, 6, 2, ADDRESS6, 0),
    ),
    delta(
        "legs",
        SectionKind.LEG,
        Op.SET,
        octets(
            "04 01 0000 00000002",
            "fffffff0 00000001 0003 0000",
            "fffffff0 00000002 ffff 0100",
        ),
        Leg(0xFFFFFFF0, 1, 3, 0),
        Leg(0xFFFFFFF0, 2, 0xFFFF, 0x0100),
    ),
    delta(
        "leg deleted",
        SectionKind.LEG,
        Op.DELETE,
        octets("04 02 0000 00000001 fffffff0 00000001 0003 0000"),
        Leg(0xFFFFFFF0, 1, 3, 0),
    ),
    delta(
        "neighbours",
        SectionKind.NEIGHBOUR,
        Op.SET,
        octets(
            "05 01 0000 00000002",
            f"00000002 04 01 2* {ADDRESS4_OCTETS} 020000000001 2*",
            f"00000002 06 00 2* {ADDRESS6_OCTETS} 6* 2*",
        ),
        Neighbour(2, 4, True, ADDRESS4, 0x020000000001),
        Neighbour(2, 6, False, ADDRESS6, 0),
    ),
    delta(
        "neighbours deleted",
        SectionKind.NEIGHBOUR,
        Op.DELETE,
        octets(
            "05 02 0000 00000002",
            f"00000002 04 01 2* {ADDRESS4_OCTETS} 020000000001 2*",
            f"00000002 06 00 2* {ADDRESS6_OCTETS} 6* 2*",
        ),
        Neighbour(2, 4, True, ADDRESS4, 0x020000000001),
        Neighbour(2, 6, False, ADDRESS6, 0),
    ),
    delta(
        "IPv4 routes",
        SectionKind.ROUTE4,
        Op.SET,
        octets(
            "06 01 0000 00000003",
            "00000000 00 00000001",
            "0a010000 10 fffffff0",
            "0a000001 20 00000002",
        ),
        (0, 0, 1),
        (0x0A010000, 16, 0xFFFFFFF0),
        (ADDRESS4, 32, 2),
    ),
    delta(
        "IPv4 route deleted",
        SectionKind.ROUTE4,
        Op.DELETE,
        octets("06 02 0000 00000001 0a010000 10 00000001"),
        (0x0A010000, 16, 1),
    ),
    delta(
        "IPv6 routes",
        SectionKind.ROUTE6,
        Op.SET,
        octets(
            "07 01 0000 00000003",
            "16* 00 00000001",
            "20010db8 12* 20 fffffff0",
            f"{ADDRESS6_OCTETS} 80 00000002",
        ),
        (0, V6.span(0), 1),
        (0x20010DB8 << 96, V6.span(32), 0xFFFFFFF0),
        (ADDRESS6, V6.span(128), 2),
    ),
    delta(
        "IPv6 route deleted",
        SectionKind.ROUTE6,
        Op.DELETE,
        octets("07 02 0000 00000001 20010db8 12* 20 00000001"),
        (0x20010DB8 << 96, V6.span(32), 1),
    ),
    # Before remarks were there, a receiver took a section's last record, and skipped the three
    # octets after the first: so what is slow stands last, and remarks are not.
    delta(
        "policy with remarks",
        SectionKind.POLICY,
        Op.SET,
        octets(
            "08 01 0000 00000003",
            "00 01 2* 6f766572666c6f77 56*",
            "00 00 2* c3a4 62*",
            "01 00 2* 69702072756c652035 55*",
        ),
        Policy(True, "ip rule 5", (Remark(True, "overflow"), Remark(False, "ä"))),
    ),
    # Before families were there, it skipped the third octet too: IPv6 was one more remark to it.
    delta(
        "policy of both families",
        SectionKind.POLICY,
        Op.SET,
        octets(
            "08 01 0000 00000003",
            "00 00 2* c3a4 62*",
            "01 00 06 00 69702072756c652036 55*",
            "00 00 2* 64*",
        ),
        Policy(False, "", (Remark(False, "ä"),), True, "ip rule 6"),
    ),
    delta(
        "policy of both families, neither of them slow",
        SectionKind.POLICY,
        Op.SET,
        octets("08 01 0000 00000002", "00 00 06 00 64*", "00 00 2* 64*"),
        Policy(False, "", (), False),
    ),
    delta(
        "policy deleted",
        SectionKind.POLICY,
        Op.DELETE,
        octets("08 02 0000 00000001 00 00 2* 64*"),
        Policy(False, ""),
    ),
    delta("no record", SectionKind.ROUTE4, Op.SET, octets("06 01 0000 00000000")),
]
"""One of each kind of section, set and deleted, with both families and each type of next hop."""
CASES = [*MESSAGES, *DELTAS]
