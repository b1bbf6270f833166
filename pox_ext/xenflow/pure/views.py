"""From what a router's VM told to what its switches need: `RouterState` -> views.

The VM knows interfaces by the kernel's index, the network's description by name and MAC; here the
two meet.  Called by the Rule Table for what has changed, and by nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable

from xenflow.pure.messages import InterfaceFlag, Leg, NextHop, NextHopType
from xenflow.pure.network import Interface, Router
from xenflow.pure.pipeline import NextHopView, RouterView
from xenflow.pure.router_state import Changes, RouterState

_WORKING = InterfaceFlag.UP | InterfaceFlag.RUNNING | InterfaceFlag.FORWARDING4
_LOOPBACK_NET = (0x7F000000, 8)
_DROPPING = {NextHopType.BLACKHOLE}


def interface_of(router: Router, state: RouterState, ifindex: int) -> Interface | None:
    """The network's interface behind a kernel index, by its MAC address."""
    found = state.interfaces.get(ifindex)
    if found is None:
        return None
    return next((i for i in router.interfaces if i.mac == found.mac), None)


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
        (local.address, local.length, "" if local.broadcast else names.get(local.ifindex, ""))
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
        shares = tuple(leg.leg for leg in legs for _ in range(max(1, leg.weight)))
        return NextHopView(hop.id, "group", legs=shares)
    interface = interface_of(router, state, hop.ifindex)
    if interface is None or not _usable(state, hop.ifindex):
        return NextHopView(hop.id, "vm")
    mtu = _narrow_mtu(state, hop.ifindex)
    if hop.type is NextHopType.VIA and hop.family == 4:
        return NextHopView(hop.id, "via", interface, hop.mac, mtu=mtu)
    if hop.type is NextHopType.CONNECTED:
        near = tuple(sorted(
            (n.address, n.mac)
            for n in state.neighbours.values()
            if n.ifindex == hop.ifindex and n.family == 4 and n.resolved and n.mac
        ))  # fmt: skip
        return NextHopView(hop.id, "via", interface, 0, near, mtu=mtu)
    # Unreachable and prohibit are answered by the VM's kernel; IPv6 gateways are its business too.
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


def affected_hops(state: RouterState, changes: Changes) -> Iterable[int]:
    """The ids of next hops whose flows may have changed (some may be gone)."""
    if changes.interfaces:
        return {*state.nexthops, *changes.nexthops}
    ids = set(changes.nexthops)
    stale = {key[0] for key in changes.neighbours}
    if stale:
        ids.update(
            hop.id
            for hop in state.nexthops.values()
            if hop.type is NextHopType.CONNECTED and hop.ifindex in stale
        )
    return ids
