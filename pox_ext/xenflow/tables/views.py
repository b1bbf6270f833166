"""From what a router's VM told to what its switches need: `RouterState` -> views.

The VM knows interfaces by the kernel's index, the network's description by name and MAC; here the
two meet.  `router_view` and what follows it is called by the Rule Table for what has changed;
`through_vm` and `problems` say in words, for `status`, what the switches leave to the VM, and what
neither of them does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from functools import cached_property

from xenflow.model.network import Interface, Router
from xenflow.model.values import mac_text
from xenflow.routes.family import FAMILIES, V4, V6
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
from xenflow.tables.site import FamilyView, RouterView

_WORKING = InterfaceFlag.UP | InterfaceFlag.RUNNING
_FORWARDS = {V4: InterfaceFlag.FORWARDING4, V6: InterfaceFlag.FORWARDING6}


class Cards:
    """What all next hops of a router are looked up in, made once for many of them: of a state that
    stays as it is meanwhile.

    interfaces  the network's interface behind a kernel index: the network card with its MAC
                address; of several the one with its name, else the oldest.  A device that stands
                on a card (802.1Q, a macvlan, ...) is none, though it has the card's MAC address as
                a rule
    widest      the largest MTU of an interface, 0 where there is none
    """

    def __init__(self, router: Router, state: RouterState) -> None:
        own = {i.mac: i for i in reversed(router.interfaces)}
        best: dict[int, tuple[bool, int]] = {}
        for told in state.interfaces.values():
            if told.mac in own and told.kind == InterfaceKind.CARD:
                rank = (told.name != own[told.mac].name, told.ifindex)
                best[told.mac] = min(rank, best.get(told.mac, rank))
        self.interfaces = {ifindex: own[mac] for mac, (_, ifindex) in best.items()}
        self.widest = max((told.mtu for told in state.interfaces.values()), default=0)
        self._state = state

    @cached_property
    def stations(self) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """(address, MAC) of the resolved neighbours, by interface and family."""
        found: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for near in self._state.neighbours.values():
            if near.resolved and near.mac:
                link = near.ifindex, near.family
                found.setdefault(link, []).append((near.address, near.mac))
        return found


def interface_of(router: Router, state: RouterState, ifindex: int) -> Interface | None:
    """The network's interface behind a kernel index (`Cards`)."""
    return Cards(router, state).interfaces.get(ifindex)


def router_view(router: Router, state: RouterState) -> RouterView:
    """What decides which packets the switches may route for this router."""
    names: dict[int, str] = {}
    down = {family: {i.name for i in router.interfaces} for family in _FORWARDS}
    off: set[str] = set()
    cards = Cards(router, state)
    for ifindex, told in state.interfaces.items():
        interface = cards.interfaces.get(ifindex)
        if interface is not None:
            names[ifindex] = interface.name
            for family, forwards in _FORWARDS.items():
                if told.flags & (_WORKING | forwards) == _WORKING | forwards:
                    down[family].discard(interface.name)
            if not told.flags & InterfaceFlag.UP:
                off.add(interface.name)
    told_locals = (
        (local, FAMILIES[local.family].span(local.length)) for local in state.locals.values()
    )
    mine = sorted(
        (local.address, span, "" if local.broadcast else names.get(local.ifindex, "lo"))
        for local, span in told_locals
        if not _is_loopback(local.address, span)
    )
    v4, v6 = (
        FamilyView(tuple(sorted(down[family])), state.policy.slow_of(family)) for family in (V4, V6)
    )
    return RouterView(tuple(mine), v4, v6, tuple(sorted(off)))


def _is_loopback(net: int, span: int) -> bool:
    """Whether a prefix is of 127/8, or ::1: dropped for every router (`classes`)."""
    return (V4.span(8) <= span <= V4.host and net >> 24 == 127) or (net, span) == (1, V6.host)


def next_hop_view(
    router: Router, state: RouterState, hop: NextHop, cards: Cards | None = None
) -> NextHopView:
    """One next hop as its flows need it; `cards` where they are made already."""
    if hop.type is NextHopType.BLACKHOLE:
        return NextHopView(hop.id, "drop")
    if hop.type is NextHopType.GROUP:
        legs = sorted(state.legs.get(hop.id, {}).values(), key=lambda leg: leg.index)
        # The kernel takes a leg out of every route's group when its interface goes down, which is
        # told route by route; here it is known at once.  Where no leg works all of them stay.
        legs = [leg for leg in legs if _leg_works(state, leg)] or legs
        weighted = tuple((leg.leg, max(1, leg.weight)) for leg in legs)
        return NextHopView(hop.id, "group", legs=weighted)
    cards = cards or Cards(router, state)
    interface = cards.interfaces.get(hop.ifindex)
    if interface is None or not _usable(state, hop.ifindex):
        return NextHopView(hop.id, "vm")
    # Where packets that came in by another interface may be larger.
    mtu = state.interfaces[hop.ifindex].mtu
    mtu = mtu if mtu < cards.widest else 0
    if hop.type is NextHopType.VIA:
        return NextHopView(hop.id, "via", interface, hop.mac, mtu=mtu)
    if hop.type is NextHopType.CONNECTED:
        near = tuple(sorted(cards.stations.get((hop.ifindex, hop.family), ())))
        family = FAMILIES[hop.family]
        return NextHopView(hop.id, "via", interface, 0, near, mtu=mtu, family=family)
    # Unreachable and prohibit are answered by the VM's kernel.
    return NextHopView(hop.id, "vm")


def _leg_works(state: RouterState, leg: Leg) -> bool:
    hop = state.nexthops.get(leg.leg)
    return hop is None or hop.ifindex not in state.interfaces or _usable(state, hop.ifindex)


def _usable(state: RouterState, ifindex: int) -> bool:
    flags = state.interfaces[ifindex].flags
    wanted = InterfaceFlag.UP | InterfaceFlag.RUNNING
    return flags & wanted == wanted


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
    VmReason.CHOICE: "of one prefix and metric, chosen from by the arrival interface, too",
    VmReason.SPREAD: "of several legs (fib_multipath_hash_policy is not 0)",
}


def through_vm(router: Router, state: RouterState) -> list[str]:
    """What the switches leave to the VM beside what `FamilyView.slow` says: further reasons for
    all packets, routes that only the kernel can follow, IPv6."""
    said = [remark.words for remark in state.policy.remarks if not remark.fault]
    cards = Cards(router, state)
    routes: Counter[str] = Counter()
    used = Counter({id_: n for id_, n in state.uses.items() if n > 0})
    for group, legs in state.legs.items():
        for leg in {leg.leg for leg in legs.values()}:
            used[leg] += state.uses[group]
    for hop in state.nexthops.values():
        if not used[hop.id]:
            continue
        if hop.type is NextHopType.VM:
            routes[_WHY.get(hop.gateway, "that only the kernel can follow")] += used[hop.id]
        elif hop.type in _BY_INTERFACE and hop.ifindex not in cards.interfaces:
            told = state.interfaces.get(hop.ifindex)
            name = told.name if told else f"interface {hop.ifindex}"
            routes[f"by {name}, which stands for no interface of the network"] += used[hop.id]
    said += [f"{_counted(n)} {words}" for words, n in sorted(routes.items())]
    forwards6 = any(i.flags & InterfaceFlag.FORWARDING6 for i in state.interfaces.values())
    if forwards6 and (slow6 := state.policy.slow_of(V6)):
        said.append(f"IPv6 ({slow6})")
    return said


def problems(router: Router, state: RouterState) -> list[str]:
    """What is lost, and why: interfaces that the VM has with another MAC address or not at all,
    devices whose frames no switch passes, what routerd said is amiss in the kernel."""
    said = [remark.words for remark in state.policy.remarks if remark.fault]
    there = {interface.name for interface in Cards(router, state).interfaces.values()}
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
