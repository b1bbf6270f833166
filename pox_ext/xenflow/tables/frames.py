"""The kinds of frames that flows tell apart, as they match them."""

from __future__ import annotations

from xenflow.openflow import flow as f
from xenflow.openflow.packet import ISIS_GROUPS
from xenflow.tables.sessions import BFD_PORTS, BGP_PORT

MULTICAST = (0x010000000000, 0x010000000000)

VIRTUAL_ROUTERS = ((0x00005E000100, 0xFFFFFFFFFF00), (0x00005E000200, 0xFFFFFFFFFF00))
"""VRRP's MAC addresses (RFC 9568, section 7.3).  Which VM of a link has one now only the VMs know:
what is for one goes to all of them, and through them."""

TAGGED = f.VLAN_PRESENT
VLAN_MASK = 0x1FFF

Tag = int | tuple[int, int]
"""What a flow matches of vlan_tci: all of it, or a value under a mask."""

UNTAGGED: tuple[Tag, ...] = (0, (TAGGED, VLAN_MASK))
"""How a frame without a VLAN looks: no tag, or one with VLAN id 0, which gives a priority only
(IEEE 802.1Q, 9.6; net/core/dev.c, __netif_receive_skb_core takes it off)."""

Kind = dict[str, int]
HELLOS: tuple[Kind, ...] = (
    {"dl_type": f.IPV4, "nw_proto": 89, "nw_dst": 0xE0000005},
    *({"dl_dst": group} for group in ISIS_GROUPS),
)
"""What hellos come in: OSPF's to AllSPFRouters (RFC 2328, appendix A.1), and all of IS-IS, whose
kinds of message a switch cannot tell apart."""
HELLOS6: tuple[Kind, ...] = ({"dl_type": f.IPV6, "nw_proto": 89, "ipv6_dst": 0xFF02 << 112 | 5},)
"""The same of OSPFv3 (RFC 5340, appendix A.1), which OpenFlow 1.0 alone does not see."""


def _sessions(dl_type: int) -> tuple[Kind, ...]:
    return (
        *({"dl_type": dl_type, "nw_proto": 17, "tp_dst": port} for port in BFD_PORTS),
        {"dl_type": dl_type, "nw_proto": 6, "tp_dst": BGP_PORT},
        {"dl_type": dl_type, "nw_proto": 6, "tp_src": BGP_PORT},
    )


SESSIONS = (*_sessions(f.IPV4), *_sessions(f.IPV6))
"""What shows how long a router's neighbours wait for it (`sessions`)."""


def tagged(vlan: int) -> tuple[int, int]:
    """How a frame with a VLAN id looks, whatever its priority."""
    return TAGGED | vlan, VLAN_MASK


def to_a_group(frame: bytes) -> bool:
    """Whether a frame is for whoever of a link wants it: multicast, or for a virtual router."""
    target = int.from_bytes(frame[:6], "big")
    return any(target & mask == value for value, mask in (MULTICAST, *VIRTUAL_ROUTERS))
