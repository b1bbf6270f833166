"""The same as `sent_up` for a host that knows OpenFlow 1.0 alone: what a frame is that it sends up,
the frame itself says.

It has no registers, so its frames carry a VLAN id of their link's: the detour's for one that is to
be held, the link's own for a question.  What a VM sends has none, and is known by its port.
"""

from __future__ import annotations

from collections.abc import Mapping

from xenflow.model.network import Link, Network
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Action
from xenflow.openflow.parse import PacketIn
from xenflow.tables.frames import to_a_group
from xenflow.tables.sent_up import ForVm, FromVm, Question, SentUp


def to_be_held(link: Link) -> tuple[Action, ...]:
    """Up goes a frame for a VM that takes nothing now."""
    return (f.set_vlan(link.detour_vlan), f.controller())


def asked(link: Link) -> tuple[Action, ...]:
    """Up goes a packet that the controller is to say the way of."""
    return (f.set_vlan(link.vlan), f.controller())


def sent_up(
    network: Network, datapath: str, ports: Mapping[str, tuple[int, bool]], packet: PacketIn
) -> SentUp | None:
    """What a frame is that a datapath sent up; None where its flows send nothing like it.  `ports`:
    number and carrier, by name.  A group's frame is for every router of its link that may want it.
    """
    vlan = _vlan(packet.data)
    if not vlan:
        return _from_vm(network, ports, packet)
    link = network.labelled(vlan, datapath)
    if link is None:
        return None
    frame = packet.data[:12] + packet.data[16:]
    target, group = int.from_bytes(frame[:6], "big"), to_a_group(frame)
    members = tuple(m for m in network.members(link.name) if group or m[1].mac == target)
    if vlan == link.detour_vlan:
        return ForVm(link, members, frame, False)
    if group or not members:
        return None
    return Question(members[0][0], link, packet.in_port, frame)


def _from_vm(
    network: Network, ports: Mapping[str, tuple[int, bool]], packet: PacketIn
) -> FromVm | None:
    for name, (number, _) in ports.items():
        if number == packet.in_port and (vif := network.vif(name)) is not None:
            return FromVm(*vif, packet.data)
    return None


def _vlan(frame: bytes) -> int:
    """A frame's VLAN id; 0 where it has no tag."""
    tagged = frame[12:14] == b"\x81\x00"
    return int.from_bytes(frame[14:16], "big") & 0xFFF if tagged else 0
