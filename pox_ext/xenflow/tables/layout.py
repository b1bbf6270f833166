"""The pipeline as a declaration: what each table asks, matches, reads, writes and leads to.

The module of a table makes its flows, and every flow obeys what is declared here: the tests look at
each flow that they make (`tests/obeyed.py`).  `explain` and docs/pipeline.md take their words from
here.  Adding a table, a register or a priority begins here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from xenflow.model.management import MAX_PRIORITY
from xenflow.routes.family import V6

INGRESS, ADMISSION, CLASSES, ROUTES, NEXT_HOPS, LEGS, SIZES, LINKS, VM, ND = range(10)

NETWORK_WIDE = (ROUTES, NEXT_HOPS, LEGS, SIZES)
"""The tables that are the same on every host that forwards for a router."""

REACTIVE_KIND = 0x80
"""What the cookies of exact flows have in place of the table: they are no part of what is
planned."""


class Reg:
    """The registers, each by what it holds."""

    NEXT_HOP = "reg0"
    ROUTER = "reg1"
    LINK_OUT = "reg2"
    LINK_IN = "reg3"
    DETOURED = "reg4"
    LEG = "reg5"
    LARGER = "reg6"
    SENT_UP = "reg7"


class Up(IntEnum):
    """Why a frame goes to the controller (`sent_up`)."""

    HELD = 1  # its VM takes nothing now
    COPIED = 2  # its VM has got it, and may be suspended before it has read it
    ASKED = 3  # data, in the reactive pipeline
    FROM_VM = 4


HOLDS = {
    Reg.NEXT_HOP: "next hop id",
    Reg.ROUTER: "router id",
    Reg.LINK_OUT: "link it leaves on",
    Reg.LINK_IN: "link it arrived on",
    Reg.DETOURED: "1: came by a detour (never sent on by one)",
    Reg.LEG: "leg of a group",
    Reg.LARGER: "bit 0: larger than the interface's MTU",
    Reg.SENT_UP: "why it goes to the controller: "
    + ", ".join(f"{why.value} {why.name.lower().replace('_', ' ')}" for why in Up),
}

# --------------------------------------------------------------------------------------------
# Priorities, each by what its flows are for.  Flows of two names with one number never meet, or do
# the same.

CLAIM, REPLY = 301, 300
"""What is answered in a router's place, ARP or a neighbour solicitation, and what is not."""


class Ingress(IntEnum):
    """Of table INGRESS."""

    EXPIRING = 20001  # the TTL runs out: not by an exact flow
    EXACT = 20000
    RULE = 1000  # an operator's rule: so much and more
    DETOUR = 320
    HELLO = 310
    BESIDE_THE_BRIDGE = 310
    QUIET = 308  # of a session that has been read
    SESSION = 305
    ARRIVAL = 300
    TAGGED = 295
    FOREIGN_SOURCE = 290
    STRAY = 200  # on a link's VLAN where the link is not
    OTHER = 0


HIGHEST_RULE = Ingress.RULE + MAX_PRIORITY


class Admission(IntEnum):
    """Of table ADMISSION."""

    CLAIM = CLAIM
    REPLY = REPLY
    OWN = 200
    TRANSIT = 1


class Classes(IntEnum):
    """Of table CLASSES, in the kernel's order: a broadcast may come from 0.0.0.0, nothing from a
    multicast address."""

    MULTICAST_SOURCE = 300
    VM_DESTINATION = 295
    MARTIAN_SOURCE = 290
    OWN_SOURCE = 286
    OWN_DESTINATION = 285
    MARTIAN_DESTINATION = 280
    VM_SOURCE = 275
    DOWN = 275  # by an interface that forwards nothing
    EXPIRING = 270
    PROTOCOL_0 = 270
    DISCOVERY = 270
    DATA = 100
    REST = 0


class Routes(IntEnum):
    """Of table ROUTES."""

    PREFIX = 1000  # of 0.0.0.0/0; others have as much more as their span says
    PROBE = 1  # matches nothing; written and deleted to see what a full table does
    MISS = 0


HIGHEST_PREFIX = Routes.PREFIX + V6.host


class NextHops(IntEnum):
    """Of table NEXT_HOPS."""

    STATION = 200
    HOP = 100
    MISS = 0


class Legs(IntEnum):
    """Of table LEGS."""

    SHARE = 100


class Sizes(IntEnum):
    """Of table SIZES, which does for a narrow interface what NEXT_HOPS does for others."""

    TOO_LARGE = 300
    STATION = NextHops.STATION
    HOP = NextHops.HOP


class Links(IntEnum):
    """Of table LINKS."""

    CLAIM = CLAIM
    REPLY = REPLY
    STATION = 200
    GROUP = 100
    FLOOD = 50


class ToVm(IntEnum):
    """Of table VM."""

    GROUP = 200
    COPIED = 110
    VM = 100


class Nd(IntEnum):
    """Of table ND."""

    REPLY = 100


class OneTable(IntEnum):
    """Of the one table of a switch that knows OpenFlow 1.0 alone."""

    EXACT = Ingress.EXACT
    RULE = Ingress.RULE
    OWN = 340  # the VM's, whatever the routes say
    DETOUR = Ingress.DETOUR
    DATA = 320
    HELLO = 315
    FRAME = 310
    FLOOD = 300
    ARRIVAL = Ingress.ARRIVAL
    FOREIGN_SOURCE = Ingress.FOREIGN_SOURCE
    STRAY = Ingress.STRAY
    OTHER = Ingress.OTHER


# --------------------------------------------------------------------------------------------
# The tables

FRAME = ("in_port", "vlan_tci", "dl_src", "dl_dst", "dl_type")
ADDRESSES = ("nw_src", "nw_dst", "arp_spa", "arp_tpa")
TWELVE = (*FRAME, *ADDRESSES, "nw_proto", "arp_op", "nw_tos", "tp_src", "tp_dst")
"""OpenFlow 1.0's twelve fields, those of ARP by their own names."""
ROUTING = ("nw_ttl", "dl_src", "dl_dst", "in_port")
"""Of a packet that is routed.  Its in_port is cleared: it may leave by the port it came from."""
ASKED_ARP = ("arp_op", "arp_spa", "arp_tpa")
ASKED_ND = ("nw_proto", "nw_ttl", "tp_src", "tp_dst", "ipv6_src", "nd_target", "nd_sll")
ANSWER_ARP = ("dl_src", "dl_dst", "arp_op", "arp_sha", "arp_spa", "arp_tha", "arp_tpa", "in_port")
ANSWER_ND = ("ipv6_src", "ipv6_dst", "icmpv6_type", "nd_reserved", "nd_options_type")
PORT, CONTROLLER, BRIDGE = "a port", "the controller", "the bridge"


@dataclass(frozen=True, slots=True)
class Table:
    """What every flow of one table obeys.

    asks        the question that the table answers; `does`: what its flows then do
    matches     the fields of a frame that flows may match
    reads       the registers that they may match or copy
    writes      the registers that they may write
    rewrites    the fields that they may change; "vlan_tci" by a tag that is set or taken off
    leads_to    the tables that they may hand a frame to
    leaves_by   where they may send it: PORT, CONTROLLER, BRIDGE (the switch's own, NORMAL)
    priorities  those that they may have; `up_to`: the highest of a name that has several
    kinds       what their cookies may have in the place of the table (`cookies.kind_of`)
    """

    number: int
    name: str
    asks: str
    does: str
    priorities: type[IntEnum]
    matches: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    leads_to: tuple[int, ...] = ()
    leaves_by: tuple[str, ...] = ()
    kinds: tuple[int, ...] = ()
    up_to: tuple[tuple[int, int], ...] = ()


TABLES = (
    Table(
        INGRESS,
        "ingress",
        "which virtual link did it arrive on?",
        "the tag is taken off; what a router's own vif sends (by its MAC address or VRRP's) goes "
        "to links, the rest to admission",
        Ingress,
        matches=(*TWELVE, "ipv6_src", "ipv6_dst", "nw_ttl"),
        writes=(Reg.LINK_IN, Reg.LINK_OUT, Reg.ROUTER, Reg.DETOURED, Reg.SENT_UP),
        rewrites=("vlan_tci", "nw_ttl", "dl_src", "dl_dst"),  # but tags: exact flows and rules
        leads_to=(ADMISSION, LINKS, VM),
        leaves_by=(PORT, CONTROLLER, BRIDGE),
        kinds=(INGRESS, REACTIVE_KIND),
        up_to=((Ingress.RULE, HIGHEST_RULE),),
    ),
    Table(
        ADMISSION,
        "admission",
        "whose frame is it?",
        "a router's that this host forwards for (where its links lead elsewhere already: only by "
        "the port that leads there) goes to classes; else it is in transit: links",
        Admission,
        matches=("in_port", "dl_dst", "dl_type", *ASKED_ARP, *ASKED_ND),
        reads=(Reg.LINK_IN,),
        writes=(Reg.ROUTER, Reg.LINK_OUT),
        rewrites=(*ANSWER_ARP, *ANSWER_ND),
        leads_to=(CLASSES, LINKS, ND),
        kinds=(ADMISSION,),
    ),
    Table(
        CLASSES,
        "classes",
        "data, or something only the VM can decide?",
        "TTL 0 and 1, own and IPv6's link-local addresses, multicast, protocol 0, neighbour "
        "discovery go to vm; what no router may forward is dropped; data goes to routes, in the "
        "reactive pipeline to the controller",
        Classes,
        matches=(
            *("dl_type", "nw_src", "nw_dst", "ipv6_src", "ipv6_dst"),
            *("nw_proto", "nw_ttl", "tp_src"),
        ),
        reads=(Reg.ROUTER, Reg.LINK_IN),
        writes=(Reg.SENT_UP,),
        leads_to=(ROUTES, VM),
        leaves_by=(CONTROLLER,),
        kinds=(CLASSES,),
    ),
    Table(
        ROUTES,
        "routes",
        "which prefix is the longest, and nothing else?",
        "the next hop is known: next-hops",
        Routes,
        matches=("dl_type", "nw_dst", "ipv6_dst"),
        reads=(Reg.ROUTER,),
        writes=(Reg.NEXT_HOP,),
        leads_to=(NEXT_HOPS, VM),
        kinds=(ROUTES, CLASSES, 0),  # CLASSES: a miss; 0: the probe
        up_to=((Routes.PREFIX, HIGHEST_PREFIX),),
    ),
    Table(
        NEXT_HOPS,
        "next-hops",
        "resolved?",
        "TTL and MAC addresses are rewritten: links; unresolved: vm; an interface narrower than "
        "others: sizes; a group of equal cost: legs",
        NextHops,
        matches=("dl_type", "nw_dst", "ipv6_dst"),
        reads=(Reg.ROUTER, Reg.NEXT_HOP),
        writes=(Reg.LINK_OUT, Reg.LEG, Reg.LARGER),
        rewrites=ROUTING,
        leads_to=(LEGS, SIZES, LINKS, VM),
        kinds=(NEXT_HOPS, CLASSES),
    ),
    Table(
        LEGS,
        "legs",
        "which leg of an equal-cost group?",
        "the hash (its basis is the router's id) is in that leg's share: back to next-hops",
        Legs,
        reads=(Reg.ROUTER, Reg.NEXT_HOP, Reg.LEG),
        writes=(Reg.NEXT_HOP,),
        leads_to=(NEXT_HOPS,),
        kinds=(LEGS,),
    ),
    Table(
        SIZES,
        "sizes",
        "too large for a narrow interface?",
        "vm, which fragments or refuses; else what next-hops does",
        Sizes,
        matches=("dl_type", "nw_dst", "ipv6_dst"),
        reads=(Reg.ROUTER, Reg.NEXT_HOP, Reg.LARGER),
        writes=(Reg.LINK_OUT,),
        rewrites=ROUTING,
        leads_to=(LINKS, VM),
        kinds=(SIZES,),
    ),
    Table(
        LINKS,
        "links",
        "where does its virtual link leave this host?",
        "out by a port, on a cable with the VLAN id; to a router of this same host: back to "
        "admission; a broadcast: the ports of the tree, and the VMs on it",
        Links,
        matches=("dl_dst", "dl_type", *ASKED_ARP, *ASKED_ND),
        reads=(Reg.LINK_OUT,),
        writes=(Reg.ROUTER, Reg.LINK_IN, Reg.LINK_OUT),
        rewrites=("vlan_tci", *ANSWER_ARP, *ANSWER_ND),
        leads_to=(ADMISSION, LINKS, VM, ND),
        leaves_by=(PORT,),
        kinds=(LINKS,),
    ),
    Table(
        VM,
        "vm",
        "how is the VM reached?",
        "by its vif (what is for itself, not what it forwards, also as a copy to the controller "
        "where it may be suspended soon); by a detour to the host where it is; by the controller, "
        "which holds it while the VM is suspended",
        ToVm,
        matches=("dl_dst", "dl_type", "nw_dst", "ipv6_dst"),
        reads=(Reg.ROUTER, Reg.LINK_IN, Reg.DETOURED),
        writes=(Reg.SENT_UP,),
        rewrites=("vlan_tci", "in_port"),
        leaves_by=(PORT, CONTROLLER),
        kinds=(VM,),
    ),
    Table(
        ND,
        "nd",
        "what is missing in an answer to a neighbour solicitation?",
        "the MAC address that was asked for, for which only an advertisement has a field: links",
        Nd,
        matches=("dl_type", "nw_proto", "tp_src", "tp_dst"),
        rewrites=("nd_tll",),
        leads_to=(LINKS,),
        kinds=(ND,),
    ),
)

ONE_TABLE = Table(
    INGRESS,
    "ingress",
    "by its port, its link and its address, where does it go?",
    "out by a port, or to the controller, which answers with exact flows",
    OneTable,
    matches=TWELVE,
    rewrites=("vlan_tci", "dl_src", "dl_dst"),
    leaves_by=(PORT, CONTROLLER, BRIDGE),
    kinds=(INGRESS, ADMISSION, REACTIVE_KIND),
    up_to=((OneTable.RULE, HIGHEST_RULE),),
)
"""That of a plain switch, and of a host that knows OpenFlow 1.0 alone."""

TABLE_NAMES = tuple(table.name for table in TABLES)
