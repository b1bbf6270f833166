"""From what a router's VM told to what its switches need: `RouterState` -> views.

The VM knows interfaces by the kernel's index, the network's description by name and MAC; here the
two meet.  `router_view` and what follows it is called by the Rule Table for what has changed;
`through_vm` and `problems` say in words, for `status`, what the switches leave to the VM, and what
neither of them does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

from xenflow.model.network import Interface, Router
from xenflow.openflow.flow import mac_text
from xenflow.routes.messages import (
    InterfaceFlag,
    InterfaceKind,
    Leg,
    NextHop,
    NextHopType,
    VmReason,
)
from xenflow.routes.router_state import Changes, RouterState
from xenflow.tables.frames import VIRTUAL_ROUTERS
from xenflow.tables.next_hops import NextHopView
from xenflow.tables.site import RouterView

_WORKING = InterfaceFlag.UP | InterfaceFlag.RUNNING | InterfaceFlag.FORWARDING4
_LOOPBACK_NET = (0x7F000000, 8)
_DROPPING = {NextHopType.BLACKHOLE}


def interface_of(router: Router, state: RouterState, ifindex: int) -> Interface | None:
    """The network's interface behind a kernel index: the network card with its MAC address; of
    several the one with its name, else the oldest.  A device that stands on a card (802.1Q, a
    macvlan, ...) is none, though it has the card's MAC address as a rule."""
    found = state.interfaces.get(ifindex)
    if found is None or found.kind != InterfaceKind.CARD:
        return None
    mine = next((i for i in router.interfaces if i.mac == found.mac), None)
    if mine is None:
        return None
    alike = [
        (told.name != mine.name, told.ifindex)
        for told in state.interfaces.values()
        if told.mac == found.mac and told.kind == InterfaceKind.CARD
    ]
    return mine if min(alike) == (found.name != mine.name, ifindex) else None


def router_view(router: Router, state: RouterState) -> RouterView:
    """What decides which packets the switches may route for this router."""
    names: dict[int, str] = {}
    down: set[str] = {i.name for i in router.interfaces}
    off: set[str] = set()
    for ifindex, told in state.interfaces.items():
        interface = interface_of(router, state, ifindex)
        if interface is not None:
            names[ifindex] = interface.name
            if told.flags & _WORKING == _WORKING:
                down.discard(interface.name)
            if not told.flags & InterfaceFlag.UP:
                off.add(interface.name)
    mine = sorted(
        (local.address, local.length, "" if local.broadcast else names.get(local.ifindex, "lo"))
        for local in state.locals.values()
        if local.family == 4 and not _is_loopback(local.address, local.length)
    )
    policy = state.policy
    slow = policy.reason if policy.slow else ""
    return RouterView(tuple(mine), tuple(sorted(down)), slow, tuple(sorted(off)))


def _is_loopback(address: int, length: int) -> bool:
    net, plen = _LOOPBACK_NET
    return length >= plen and address >> 32 - plen == net >> 32 - plen


def next_hop_view(router: Router, state: RouterState, hop: NextHop) -> NextHopView:
    """One next hop as its flows need it."""
    if hop.type in _DROPPING:
        return NextHopView(hop.id, "drop")
    if hop.type is NextHopType.GROUP:
        legs = sorted(state.legs.get(hop.id, {}).values(), key=lambda leg: leg.index)
        # The kernel takes a leg out of every route's group when its interface goes down, which is
        # told route by route; here it is known at once.  Where no leg works all of them stay.
        legs = [leg for leg in legs if _leg_works(state, leg)] or legs
        weighted = tuple((leg.leg, max(1, leg.weight)) for leg in legs)
        return NextHopView(hop.id, "group", legs=weighted)
    interface = interface_of(router, state, hop.ifindex)
    if interface is None or not _usable(state, hop.ifindex):
        return NextHopView(hop.id, "vm")
    mtu = _narrow_mtu(state, hop.ifindex)
    if hop.type is NextHopType.VIA and hop.family == 4:
        return NextHopView(hop.id, "via", interface, hop.mac, mtu=mtu)
    if hop.type is NextHopType.CONNECTED and hop.family == 4:
        near = tuple(
            sorted(
                (n.address, n.mac)
                for n in state.neighbours.values()
                if n.ifindex == hop.ifindex and n.family == 4 and n.resolved and n.mac
            )
        )
        return NextHopView(hop.id, "via", interface, 0, near, mtu=mtu)
    # Unreachable and prohibit are answered by the VM's kernel; IPv6 is its business too.
    return NextHopView(hop.id, "vm")


def _leg_works(state: RouterState, leg: Leg) -> bool:
    hop = state.nexthops.get(leg.leg)
    return hop is None or hop.ifindex not in state.interfaces or _usable(state, hop.ifindex)


def _usable(state: RouterState, ifindex: int) -> bool:
    flags = state.interfaces[ifindex].flags
    wanted = InterfaceFlag.UP | InterfaceFlag.RUNNING
    return flags & wanted == wanted


def _narrow_mtu(state: RouterState, ifindex: int) -> int:
    """The interface's MTU, where packets that came in by another one may be larger; else 0."""
    mtu = state.interfaces[ifindex].mtu
    widest = max(i.mtu for i in state.interfaces.values())
    return mtu if mtu < widest else 0


def affected_hops(state: RouterState, changes: Changes) -> set[int]:
    """The ids of next hops whose flows may have changed (some may be gone)."""
    if changes.interfaces:
        return {*state.nexthops, *changes.nexthops}
    ids = set(changes.nexthops)
    stale = {key[:2] for key in changes.neighbours}
    return ids | {state.connected[link] for link in stale if link in state.connected}


# --------------------------------------------------------------------------------------------
# In words

_WHY: dict[int, str] = {
    VmReason.GATEWAY6: "by an IPv6 next hop",
    VmReason.ENCAPSULATION: "with encapsulation",
    VmReason.DEVICE: "by a device that is not Ethernet or does without ARP",
    VmReason.MTU: "with an MTU of their own",
    VmReason.TYPE: "of a type that leads to no neighbour",
    VmReason.SIZE: "of more legs than a group may have",
    VmReason.SPREAD: "of several legs (fib_multipath_hash_policy is not 0)",
}


def through_vm(router: Router, state: RouterState) -> list[str]:
    """What the switches leave to the VM beside what `RouterView.slow` says: further reasons for
    all packets, routes that only the kernel can follow, IPv6."""
    said = [remark.words for remark in state.policy.remarks if not remark.fault]
    routes: Counter[str] = Counter()
    used = Counter({id_: n for id_, n in state.uses.items() if n > 0})
    for group, legs in state.legs.items():
        for leg in {leg.leg for leg in legs.values()}:
            used[leg] += state.uses[group]
    for hop in state.nexthops.values():
        if hop.family != 4 or not used[hop.id]:
            continue
        if hop.type is NextHopType.VM:
            routes[_WHY.get(hop.gateway, "that only the kernel can follow")] += used[hop.id]
        elif hop.type in _BY_INTERFACE and interface_of(router, state, hop.ifindex) is None:
            told = state.interfaces.get(hop.ifindex)
            name = told.name if told else f"interface {hop.ifindex}"
            routes[f"by {name}, which stands for no interface of the network"] += used[hop.id]
    said += [f"{_counted(n)} {words}" for words, n in sorted(routes.items())]
    forwards6 = any(i.flags & InterfaceFlag.FORWARDING6 for i in state.interfaces.values())
    if forwards6 and state.routes6:
        said.append(f"IPv6 ({_counted(len(state.routes6))})")
    return said


def problems(router: Router, state: RouterState) -> list[str]:
    """What is lost, and why: interfaces that the VM has with another MAC address or not at all,
    devices whose frames no switch passes, what routerd said is amiss in the kernel."""
    said = [remark.words for remark in state.policy.remarks if remark.fault]
    there = {i.name for n in state.interfaces if (i := interface_of(router, state, n)) is not None}
    named = {told.name: told for told in state.interfaces.values()}
    for interface in router.interfaces:
        if interface.name in there:
            continue
        told = named.get(interface.name)
        wanted = mac_text(interface.mac)
        if told is not None and told.mac != interface.mac:
            said.append(
                f"{interface.name} has the MAC address {mac_text(told.mac)} in the VM and {wanted} "
                "in the network: its packets are dropped"
            )
        else:
            said.append(f"{interface.name}: no network card in the VM has its address {wanted}")
    own = {interface.mac for interface in router.interfaces}
    for told in sorted(state.interfaces.values(), key=lambda told: told.ifindex):
        if not told.flags & InterfaceFlag.UP:
            continue
        if told.kind == InterfaceKind.VLAN:
            said.append(f"{told.name} is an 802.1Q device: no switch passes its tagged frames")
        elif told.kind == InterfaceKind.MACVLAN and not _passes(told.mac, own):
            said.append(
                f"{told.name} has a MAC address of its own, {mac_text(told.mac)}: no switch passes "
                "its frames (VRRP's virtual MAC addresses pass)"
            )
    return said


def _passes(mac: int, own: Container[int]) -> bool:
    """Whether switches let frames with this source pass from the VM (table INGRESS)."""
    return mac in own or any(mac & mask == value for value, mask in VIRTUAL_ROUTERS)


_BY_INTERFACE = {NextHopType.VIA, NextHopType.CONNECTED}


def _counted(number: int) -> str:
    return "1 route" if number == 1 else f"{number} routes"
