"""What a host sends up to its controller, and how the controller knows what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xenflow.model.network import DETOUR_VLAN_OFFSET, Interface, Link, Network, Router
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Action


def to_be_held(link: Link) -> tuple[Action, ...]:
    """Up goes a frame for a VM that takes nothing now."""
    return (f.set_vlan(link.detour_vlan), f.controller())


def copied_up(link: Link) -> tuple[Action, ...]:
    """Up goes the copy of a frame that a VM gets, in the proactive pipeline."""
    return (f.set_vlan(link.vlan), f.controller())


def asked(link: Link) -> tuple[Action, ...]:
    """Up goes a packet that the controller is to say the way of, in the reactive pipeline."""
    return (f.set_vlan(link.vlan), f.controller())


@dataclass(frozen=True, slots=True)
class ForVm:
    """A frame, untagged, for the VMs of a link that it is addressed to; `copied` where their vifs
    have got it as well."""

    link: Link
    frame: bytes
    copied: bool


@dataclass(frozen=True, slots=True)
class FromVm:
    """A frame, or its beginning, that came out of a VM's vif."""

    router: Router
    interface: Interface
    frame: bytes


def is_question(frame: bytes) -> bool:
    """Whether a frame that a host with the reactive pipeline sent up was `asked`."""
    return 0 < _vlan(frame) < DETOUR_VLAN_OFFSET


def sent_up(
    network: Network, ports: Mapping[str, tuple[int, bool]], in_port: int, frame: bytes
) -> ForVm | FromVm | None:
    """What a frame that came into a host by `in_port` and was sent up is, where it is no question;
    None where the tables send nothing like it.  `ports`: number and carrier, by name."""
    vlan = _vlan(frame)
    if vlan:
        for link in network.links.values():
            if vlan in (link.vlan, link.detour_vlan):
                return ForVm(link, frame[:12] + frame[16:], vlan == link.vlan)
        return None
    for router in network.routers.values():
        for interface in router.interfaces:
            if interface.vif in ports and ports[interface.vif][0] == in_port:
                return FromVm(router, interface, frame)
    return None


def _vlan(frame: bytes) -> int:
    """A frame's VLAN id; 0 where it has no tag."""
    tagged = frame[12:14] == b"\x81\x00"
    return int.from_bytes(frame[14:16], "big") & 0xFFF if tagged else 0
