"""What a host sends up to its controller, and how the controller knows what it is.

A frame comes up as it was on its link, without a tag, and beside it (NXT_PACKET_IN) what the
pipeline knows of it: the router's id, the id of the link that it arrived on, and why it was sent up
(`layout.Up`).  A host that knows OpenFlow 1.0 alone has no registers: `plain_sent_up`.
"""

from __future__ import annotations

from typing import NamedTuple

from xenflow.model.network import Interface, Link, Network, Router
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Actions
from xenflow.openflow.parse import PacketIn
from xenflow.tables.layout import Reg, Up

# --------------------------------------------------------------------------------------------
# By which actions.  Where they stand the registers say already which link it is, and which router.


def _up(why: Up, octets: int = 0xFFFF) -> Actions:
    return (f.load(Reg.SENT_UP, why.value), f.controller(octets))


TO_BE_HELD = _up(Up.HELD)
"""Up goes a frame for a VM that takes nothing now."""
COPIED_UP = _up(Up.COPIED)
"""Up goes the copy of a frame that a VM gets."""
ASKED = _up(Up.ASKED)
"""Up goes a packet that the controller is to say the way of, in the reactive pipeline."""


def heard(router: Router, octets: int = 0xFFFF) -> Actions:
    """Up goes a frame that a router's VM sends, or so many octets of it.  The link is known."""
    return (f.load(Reg.ROUTER, router.id), *_up(Up.FROM_VM, octets))


# --------------------------------------------------------------------------------------------
# What it is


class ForVm(NamedTuple):
    """A frame for the VMs of some routers on a link, which have an interface there; `copied` where
    their vifs have got it as well."""

    link: Link
    members: tuple[tuple[Router, Interface], ...]
    frame: bytes
    copied: bool


class FromVm(NamedTuple):
    """A frame, or its beginning, that came out of a VM's vif."""

    router: Router
    interface: Interface
    frame: bytes


class Question(NamedTuple):
    """A packet that is to be routed by a router, and came into the host by a port."""

    router: Router
    link: Link
    in_port: int
    frame: bytes


SentUp = ForVm | FromVm | Question


def sent_up(network: Network, packet: PacketIn) -> SentUp | None:
    """What a frame is that was sent up; None where the tables send nothing like it."""
    told = packet.registers
    found = network.member(told.get(Reg.ROUTER, 0), told.get(Reg.LINK_IN, 0))
    if found is None:
        return None
    router, interface, link = found
    why = told.get(Reg.SENT_UP)
    if why == Up.ASKED:
        return Question(router, link, packet.in_port, packet.data)
    if why == Up.FROM_VM:
        return FromVm(router, interface, packet.data)
    if why in (Up.HELD, Up.COPIED):
        return ForVm(link, ((router, interface),), packet.data, why == Up.COPIED)
    return None
