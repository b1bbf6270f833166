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
from xenflow.openflow.nxm import pack_action, pack_match, pad8, parse_match
from xenflow.openflow.route_columns import RouteColumns
from xenflow.openflow.wire import FlowModCommand, WireError
from xenflow.tables import cookies
from xenflow.tables.layout import NEXT_HOPS, ROUTES, Reg, Routes

ODD = -1
"""In place of a next hop's id: a route's flow that says something else than a next hop."""

_BASE = int(Routes.PREFIX)
_ONWARD = fl.resubmit(NEXT_HOPS)


def route_flow(router: int, net: int, plen: int, nexthop: int, cookie: int) -> Flow:
    """The flow of the route to net/plen (host bits of `net` are of no account)."""
    mask = fl.prefix_mask(plen)
    what = fl.match(**{Reg.ROUTER: router}, dl_type=fl.IPV4, nw_dst=(net & mask, mask))
    actions = (fl.load(Reg.NEXT_HOP, nexthop), _ONWARD)
    return Flow(ROUTES, Routes.PREFIX + plen, what, actions, cookie)


def _matched(what: Match, plen: int) -> tuple[int, int] | None:
    """(router id, net) of the match of a route to net/plen; None where it is no such match."""
    match what:
        case (("dl_type", fl.IPV4, None), (Reg.ROUTER, router, None)) if plen == 0:
            return router, 0
        case (("dl_type", fl.IPV4, None), ("nw_dst", net, mask), (Reg.ROUTER, router, None)) if (
            0 < plen <= 32 and (0xFFFFFFFF if mask is None else mask) == fl.prefix_mask(plen)
        ):
            return router, net
    return None


def _matched_in(data: bytes, at: int, length: int, plen: int) -> tuple[int, int] | None:
    """The same of a packed match, which may be damaged."""
    try:
        return _matched(parse_match(data, at, length), plen)
    except WireError:
        return None


def route_of(flow: Flow) -> tuple[int, int, int] | None:
    """(router id, net << 8 | prefix length, next hop id) of a flow that stands where a route does,
    whoever wrote it; the next hop is ODD where it does not read as we write one."""
    plen = flow.priority - Routes.PREFIX
    router, net = _matched(flow.match, plen) or (0, 0)
    if flow.table != ROUTES or not router:
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


class _Deletion(NamedTuple):
    """How a route of one prefix length is deleted: constants between the fields that differ from
    route to route."""

    mask: int
    pack: Callable[..., bytes]
    head: bytes
    command: bytes
    before_router: bytes


class RoutePacker:
    """IPv4 routes as NXT_FLOW_MODs, byte for byte what flow_mod() makes of route_flow()."""

    def __init__(self) -> None:
        self._tail = pack_action(_ONWARD)
        self._head = pack_action(fl.load(Reg.NEXT_HOP, 0))[:20]
        self._deletions = [_deletion(plen) for plen in range(33)]
        self._columns = tuple(self._columns_for(plen) for plen in (0, 24, 32))

    def _columns_for(self, plen: int) -> RouteColumns:
        """For all prefix lengths whose messages have the same fields as this one's."""
        # Places are found by what stands there when all octets of a field are 0xff.
        message = flow_mod(route_flow(0, 0, plen, 0, 0))

        def place(router: int = 0, net: int = 0, nexthop: int = 0) -> int:
            other = flow_mod(route_flow(router, net, plen, nexthop, 0))
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
        return b"".join(self.pack_adds(router, [(net, plen, nexthop)], [cookie]))

    def delete(self, router: int, net: int, plen: int, cookie: int = 0) -> bytes:
        """One route deleted, strictly: whatever its next hop is."""
        mask, pack, head, command, before_router = self._deletions[plen]
        return pack(head, cookie, command, net & mask if plen else b"", before_router, router)

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
                route = _matched_in(data, at + 24, match_len, priority - _BASE)
            if route is None:
                rest.append(data[at : at + length])
            else:
                actions = data[at + 24 + pad8(match_len) : at + length]
                hop = 0 if event == UpdateEvent.DELETED else self._leads_to(actions)
                routes.append(RouteUpdate(event, *route, priority - _BASE, hop, cookie))
            at += length
        rest.append(data[at:])
        return routes, updates(b"".join(rest), int.from_bytes(data[4:8], "big"))

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


def _deletion(plen: int) -> _Deletion:
    """Cut a message made by flow_mod() where cookie, net and router stand."""
    flow = route_flow(0, 0, plen, 0, 0)
    message = flow_mod(flow, FlowModCommand.DELETE_STRICT)
    router_at = 48 + len(pack_match(flow.match)) - 4
    # Between: dl_type's entry, nw_dst's header.  Without a prefix there is no nw_dst.
    net_at, net = (48 + 6 + 4, "I") if plen else (router_at, "0s")
    before = message[net_at + 4 : router_at]
    rest = len(message) - router_at - 4
    form = struct.Struct(f"!16sQ{net_at - 24}s{net}{len(before)}sI{rest}x")
    return _Deletion(fl.prefix_mask(plen), form.pack, message[:16], message[24:net_at], before)


def _runs(values: bytes) -> Iterable[tuple[int, int]]:
    """(value, how many) of each run of equal octets."""
    if values.count(values[:1]) == len(values):
        return [(values[0], len(values))]
    return ((value, sum(1 for _ in run)) for value, run in groupby(values))


_FORM = bytes(0 if not plen else 1 if plen < 32 else 2 for plen in range(33)).ljust(256, b"\xff")
"""Prefix length -> index of RoutePacker._columns: no prefix, a prefix with netmask, one address."""
