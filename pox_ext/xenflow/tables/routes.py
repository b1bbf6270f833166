"""Table ROUTES: routes as flows, of which there may be a million: packed in bulk, and read back."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from xenflow.openflow import flow as fl
from xenflow.openflow.build import flow_mod
from xenflow.openflow.flow import Flow, Match
from xenflow.openflow.monitor import (
    ABBREVIATED,
    UPDATE,
    UPDATES_AT,
    FlowUpdates,
    UpdateEvent,
    updates,
)
from xenflow.openflow.nxm import pack_action, pack_match, pad8
from xenflow.openflow.route_columns import RouteColumns
from xenflow.openflow.wire import FlowModCommand
from xenflow.tables import cookies
from xenflow.tables.layout import NEXT_HOPS, ROUTES, Reg, Routes

ODD = -1
"""In place of a next hop's id: a route's flow that says something else than a next hop."""

_BASE = int(Routes.PREFIX)
_ONWARD = fl.resubmit(NEXT_HOPS)


def route_flow(router: int, net: int, plen: int, nexthop: int, cookie: int) -> Flow:
    """The flow of the route to net/plen (host bits of `net` are of no account)."""
    actions = (fl.load(Reg.NEXT_HOP, nexthop), _ONWARD)
    return Flow(ROUTES, Routes.PREFIX + plen, _match(router, net, plen), actions, cookie)


def _match(router: int, net: int, plen: int) -> Match:
    mask = fl.prefix_mask(plen)
    return fl.match(**{Reg.ROUTER: router}, dl_type=fl.IPV4, nw_dst=(net & mask, mask))


def route_of(flow: Flow) -> tuple[int, int, int] | None:
    """(router id, net << 8 | prefix length, next hop id) of a flow that stands where a route does,
    whoever wrote it; the next hop is ODD where it does not read as we write one."""
    plen = flow.priority - Routes.PREFIX
    if flow.table != ROUTES or not 0 <= plen <= 32:
        return None
    values = {name: value for name, value, _ in flow.match}
    router, net = values.get(Reg.ROUTER, 0), values.get("nw_dst", 0)
    if not router or flow.match != _match(router, net, plen):
        return None
    own = flow.cookie == cookies.of(ROUTES, router, cookies.route_chunk(net))
    match flow.actions:
        case (("load", Reg.NEXT_HOP, 0, 32, hop), last) if own and last == _ONWARD:
            return router, net << 8 | plen, hop
    return router, net << 8 | plen, ODD


class RouteUpdate(NamedTuple):
    """What somebody else did to a route.  `event` as in FlowUpdate; `nexthop` is ODD where its
    actions are no route's."""

    event: int
    router: int
    net: int
    plen: int
    nexthop: int
    cookie: int


_UPDATED = {
    14: struct.Struct("!IHII"),
    22: struct.Struct("!IHIIII"),
    26: struct.Struct("!IHIIIII"),
}
"""The matches of routes as Open vSwitch puts them: Ethernet type, prefix, router."""

_ROUTER = fl.FIELD[Reg.ROUTER].nxm | 4
"""The header of the router's register in a match (nicira-ext.h)."""


class _RouteForm(NamedTuple):
    """Routes of one prefix length: constants between the fields that differ from route to route."""

    mask: int
    pack_add: Callable[..., bytes]
    pack_delete: Callable[..., bytes]
    add_head: bytes
    add_command: bytes
    delete_head: bytes
    delete_command: bytes
    before_router: bytes
    after_router: bytes


class RoutePacker:
    """IPv4 routes as NXT_FLOW_MODs, byte for byte what flow_mod() makes of route_flow()."""

    def __init__(self) -> None:
        self._tail = pack_action(_ONWARD)
        self._head = pack_action(fl.load(Reg.NEXT_HOP, 0))[:20]
        self._forms = [self._form(plen) for plen in range(33)]
        self._columns = tuple(self._columns_for(plen) for plen in (0, 24, 32))

    def _form(self, plen: int) -> _RouteForm:
        """Cut a message made by flow_mod() where net, router, next hop and cookie stand."""
        flow = route_flow(0, 0, plen, 0, 0)
        add, delete = flow_mod(flow), flow_mod(flow, FlowModCommand.DELETE_STRICT)
        match_len = len(pack_match(flow.match))
        net_at = 48 + 6 + 4  # dl_type's entry, nw_dst's header
        router_at = 48 + match_len - 4
        after = 48 + pad8(match_len)
        nexthop_at = after + 16
        if not plen:
            net_at = router_at  # no nw_dst: an empty field
        net = "I" if plen else "0s"
        before = add[net_at + 4 : router_at] if plen else b""
        shared = f"!16sQ{net_at - 24}s{net}{len(before)}sI"
        pad = after - router_at - 4
        add_form = struct.Struct(f"{shared}{pad + 16}sQ{len(add) - nexthop_at - 8}s")
        delete_form = struct.Struct(f"{shared}{pad}x")
        return _RouteForm(
            fl.prefix_mask(plen),
            add_form.pack,
            delete_form.pack,
            add[:16],
            add[24:net_at],
            delete[:16],
            delete[24:net_at],
            before,
            add[router_at + 4 : nexthop_at],
        )

    def _columns_for(self, plen: int) -> RouteColumns:
        """For all prefix lengths whose messages have the same fields as this one's."""
        # Places are found by what stands there when all octets of a field are 0xff.
        message = self.add(0, 0, plen, 0, 0)

        def place(**ones: int) -> int:
            fields = {"router": 0, "net": 0, "plen": plen, "nexthop": 0, "cookie": 0, **ones}
            other = self.add(**fields)
            return next(i for i, (a, b) in enumerate(zip(message, other, strict=True)) if a != b)

        net_at = place(net=0xFFFFFFFF) if plen else None
        return RouteColumns(
            message,
            Routes.PREFIX,
            cookie_at=16,
            priority_at=30,
            net_at=net_at,
            mask_at=net_at + 4 if net_at is not None and plen < 32 else None,
            router_at=place(router=0xFFFFFFFF),
            nexthop_at=place(nexthop=0xFFFFFFFF),
        )

    def add(self, router: int, net: int, plen: int, nexthop: int, cookie: int) -> bytes:
        """One route added or overwritten; struct.error or IndexError for values out of range."""
        form = self._forms[plen]
        return form.pack_add(
            form.add_head,
            cookie,
            form.add_command,
            net & form.mask if plen else b"",
            form.before_router,
            router,
            form.after_router,
            nexthop,
            self._tail,
        )

    def delete(self, router: int, net: int, plen: int, cookie: int = 0) -> bytes:
        """One route deleted, strictly: whatever its next hop is."""
        form = self._forms[plen]
        return form.pack_delete(
            form.delete_head,
            cookie,
            form.delete_command,
            net & form.mask if plen else b"",
            form.before_router,
            router,
        )

    def read_updates(self, data: bytes) -> tuple[list[RouteUpdate], FlowUpdates]:
        """What a flow monitor's message (`monitor.is_updates`) says about routes, and the rest.

        There may be a million of them.  What is in the table and no route is in the rest.
        Raises WireError.
        """
        routes: list[RouteUpdate] = []
        rest = [data[:UPDATES_AT]]
        at, end = UPDATES_AT, len(data)
        while at + UPDATE.size <= end:
            fields = UPDATE.unpack_from(data, at)
            length, event, _, priority, _, _, match_len, table, cookie = fields
            if length < 8 or at + length > end:
                break
            route = None
            if event != ABBREVIATED and table == ROUTES:
                route = self._updated(data, at, match_len, priority - _BASE)
            if route is None:
                rest.append(data[at : at + length])
            else:
                hop = 0
                if event != UpdateEvent.DELETED:
                    actions = data[at + 24 + pad8(match_len) : at + length]
                    hop = self._leads_to(actions)
                routes.append(RouteUpdate(event, *route, hop, cookie))
            at += length
        rest.append(data[at:])
        return routes, updates(b"".join(rest), int.from_bytes(data[4:8], "big"))

    def _updated(
        self, data: bytes, at: int, match_len: int, plen: int
    ) -> tuple[int, int, int] | None:
        """(router, prefix, its length) of an update whose match reads as a route's."""
        if not 0 <= plen <= 32 or at + 24 + match_len > len(data):
            return None
        form = _UPDATED.get(match_len)
        if form is None:
            return None
        found = form.unpack_from(data, at + 24)
        if match_len == 26:
            *heads, net, mask, reg, router = found
            right = heads == [0x602, fl.IPV4, 0x1108] and mask == 0xFFFFFFFF << 32 - plen & (
                0xFFFFFFFF
            )
        elif match_len == 22:
            *heads, net, reg, router = found
            right = heads == [0x602, fl.IPV4, 0x1004] and plen == 32
        else:
            *heads, reg, router = found
            net = 0
            right = heads == [0x602, fl.IPV4] and plen == 0
        return (router, net, plen) if right and reg == _ROUTER else None

    def _leads_to(self, actions: bytes) -> int:
        """The next hop that a route's actions lead to; ODD where they are no route's."""
        if actions[:20] != self._head or actions[24:] != self._tail:
            return ODD
        return int.from_bytes(actions[20:24], "big")

    def pack_adds(
        self,
        router: int,
        routes: Sequence[tuple[int, int, int]],
        cookies: Sequence[int],
        chunk_bytes: int = 32768,
    ) -> list[bytes]:
        """Many routes (net, plen, nexthop), each with its cookie, in this order, as chunks of
        about `chunk_bytes`, whole messages each; struct.error for values out of range.
        """
        if not routes:
            return []
        nets, lengths, nexthops = zip(*routes, strict=True)
        plens = bytes(lengths)
        chunks = []
        chunk = bytearray()
        start = 0
        for form, length in _runs(plens.translate(_FORM)):
            columns = self._columns[form]
            end = start + length
            messages = columns.pack(
                router, nets[start:end], plens[start:end], nexthops[start:end], cookies[start:end]
            )
            start = end
            at = 0
            while at < len(messages):
                room = max(1, (chunk_bytes - len(chunk)) // columns.size) * columns.size
                chunk += messages[at : at + room]
                at += room
                if len(chunk) + columns.size > chunk_bytes:
                    chunks.append(bytes(chunk))
                    chunk.clear()
        if chunk:
            chunks.append(bytes(chunk))
        return chunks


def _runs(values: bytes) -> Iterable[tuple[int, int]]:
    """(value, how many) of each run of equal octets."""
    if values.count(values[:1]) == len(values):
        return [(values[0], len(values))]
    return ((value, sum(1 for _ in run)) for value, run in groupby(values))


_FORM = bytes(0 if not plen else 1 if plen < 32 else 2 for plen in range(33)).ljust(256, b"\xff")
"""Prefix length -> index of RoutePacker._columns: no prefix, a prefix with netmask, one address."""
