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
from xenflow.openflow.nxm import pack_action, pad8, parse_match
from xenflow.openflow.route_columns import RouteColumns
from xenflow.openflow.wire import FlowModCommand, WireError
from xenflow.routes.family import V4, V6, family_of, netmask
from xenflow.tables import cookies
from xenflow.tables.families import MATCHED, to_prefix
from xenflow.tables.layout import NEXT_HOPS, ROUTES, Reg, Routes

ODD = -1
"""In place of a next hop's id: a route's flow that says something else than a next hop."""

_BASE = int(Routes.PREFIX)
_ONWARD = fl.resubmit(NEXT_HOPS)


def route_flow(router: int, net: int, span: int, nexthop: int, cookie: int) -> Flow:
    """The flow of the route to a prefix (host bits of `net` are of no account)."""
    what = fl.match(**{Reg.ROUTER: router}, **to_prefix(net & netmask(span), span))
    actions = (fl.load(Reg.NEXT_HOP, nexthop), _ONWARD)
    return Flow(ROUTES, Routes.PREFIX + span, what, actions, cookie)


_AT = {V4: 1, V6: 2}
"""Where the destination stands in the match of a route."""


def _matched(what: Match, span: int) -> tuple[int, int] | None:
    """(router id, net) of the match of a route to a prefix of a span; None where it is none."""
    try:
        family = family_of(span)
    except ValueError:
        return None
    of, full, at = MATCHED[family], netmask(family.host), _AT[family]
    match what:
        case (("dl_type", dl_type, None), (Reg.ROUTER, router, None)) if span == family.shortest:
            return (router, 0) if dl_type == of.dl_type else None
        case (("dl_type", of.dl_type, None), _, _) if span != family.shortest:
            field, net, mask = what[at]
            register, router, exactly = what[3 - at]
            if (field, register, exactly) == (of.dst, Reg.ROUTER, None):
                return (router, net) if netmask(span) == (full if mask is None else mask) else None
    return None


def _matched_in(data: bytes, at: int, length: int, span: int) -> tuple[int, int] | None:
    """The same of a packed match, which may be damaged."""
    try:
        return _matched(parse_match(data, at, length), span)
    except WireError:
        return None


def route_of(flow: Flow) -> tuple[int, int, int] | None:
    """(router id, net << 8 | span, next hop id) of a flow that stands where a route does, whoever
    wrote it; the next hop is ODD where it does not read as we write one."""
    span = flow.priority - Routes.PREFIX
    router, net = _matched(flow.match, span) or (0, 0)
    if flow.table != ROUTES or not router:
        return None
    own = flow.cookie == cookies.of(ROUTES, router, cookies.route_chunk(net))
    match flow.actions:
        case (("load", Reg.NEXT_HOP, 0, 32, hop), last) if own and last == _ONWARD:
            return router, net << 8 | span, hop
    return router, net << 8 | span, ODD


class RouteUpdate(NamedTuple):
    """What somebody else did to a route.  `event` as in FlowUpdate; `nexthop` is ODD where its
    actions are no route's."""

    event: int
    router: int
    net: int
    span: int
    nexthop: int
    cookie: int


class _Places(NamedTuple):
    """Where a message about one route has what differs from route to route: offsets; `net` is None
    where all prefixes are one, `mask` where there is none."""

    net: int | None
    mask: int | None
    router: int
    nexthop: int | None


def _places(span: int, command: FlowModCommand) -> _Places:
    """Places are found by what stands there when all octets of a field are 0xff."""
    message, family = flow_mod(route_flow(0, 0, span, 0, 0), command), family_of(span)

    def place(router: int = 0, net: int = 0, nexthop: int = 0) -> int:
        other = flow_mod(route_flow(router, net, span, nexthop, 0), command)
        return next(i for i, (a, b) in enumerate(zip(message, other, strict=True)) if a != b)

    net = place(net=netmask(family.host)) if span != family.shortest else None
    mask = net + family.bits // 8 if net is not None and span != family.host else None
    deletes = command is FlowModCommand.DELETE_STRICT
    hop = None if deletes else place(nexthop=0xFFFFFFFF)
    return _Places(net, mask, place(router=0xFFFFFFFF), hop)


class RoutePacker:
    """Routes as NXT_FLOW_MODs, byte for byte what flow_mod() makes of route_flow()."""

    def __init__(self) -> None:
        self._tail = pack_action(_ONWARD)
        self._head = pack_action(fl.load(Reg.NEXT_HOP, 0))[:20]
        self._columns = tuple(_columns(spans.start) for spans in _FORMS)
        self._deletions: dict[int, Callable[..., bytes]] = {}

    def add(self, router: int, net: int, span: int, nexthop: int, cookie: int) -> bytes:
        """One route added or overwritten; struct.error or OverflowError for values out of range."""
        return b"".join(self.pack_adds(router, [(net, span, nexthop)], [cookie]))

    def delete(self, router: int, net: int, span: int, cookie: int = 0) -> bytes:
        """One route deleted, strictly: whatever its next hop is."""
        pack = self._deletions.get(span)
        if pack is None:
            pack = self._deletions[span] = _deletion(span)
        return pack(router, net, cookie)

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
            if event != ABBREVIATED and table == ROUTES and priority >= _BASE:
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
        """Many routes (net, span, nexthop), each with its cookie, in this order, as chunks of about
        `chunk_bytes`, whole messages each; struct.error or OverflowError for values out of range.
        """
        if not routes:
            return []
        nets, numbers, nexthops = zip(*routes, strict=True)
        spans = bytes(numbers)
        chunks = []
        chunk = bytearray()
        start = 0
        for form, length in _runs(spans.translate(_FORM)):
            columns = self._columns[form]
            end = start + length
            messages = columns.pack(
                router, nets[start:end], spans[start:end], nexthops[start:end], cookies[start:end]
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


def _columns(span: int) -> RouteColumns:
    """For all spans whose messages have the same fields as this one's."""
    family, at = family_of(span), _places(span, FlowModCommand.ADD)
    assert at.nexthop is not None
    return RouteColumns(
        flow_mod(route_flow(0, 0, span, 0, 0)),
        octets=family.bits // 8,
        shortest=family.shortest,
        base_priority=Routes.PREFIX,
        cookie_at=16,
        priority_at=30,
        net_at=at.net,
        mask_at=at.mask,
        router_at=at.router,
        nexthop_at=at.nexthop,
    )


def _deletion(span: int) -> Callable[[int, int, int], bytes]:
    """What makes the message that deletes the route of a router to a net, of this span, with a
    cookie."""
    message = flow_mod(route_flow(0, 0, span, 0, 0), FlowModCommand.DELETE_STRICT)
    at, octets, mask = (
        _places(span, FlowModCommand.DELETE_STRICT),
        family_of(span).bits // 8,
        netmask(span),
    )
    cookie_at, router_at, net_at = 16, at.router, at.net

    def pack(router: int, net: int, cookie: int) -> bytes:
        one = bytearray(message)
        struct.pack_into("!Q", one, cookie_at, cookie)
        struct.pack_into("!I", one, router_at, router)
        if net_at is not None:
            one[net_at : net_at + octets] = (net & mask).to_bytes(octets, "big")
        return bytes(one)

    return pack


def _runs(values: bytes) -> Iterable[tuple[int, int]]:
    """(value, how many) of each run of equal octets."""
    if values.count(values[:1]) == len(values):
        return [(values[0], len(values))]
    return ((value, sum(1 for _ in run)) for value, run in groupby(values))


_FORMS = tuple(
    spans
    for family in (V4, V6)
    for spans in (
        range(family.shortest, family.shortest + 1),
        range(family.shortest + 1, family.host),
        range(family.host, family.host + 1),
    )
)
"""Spans whose messages have the same fields: no prefix, a prefix with a netmask, one address."""
_FORM = bytes(
    next((n for n, spans in enumerate(_FORMS) if span in spans), 0xFF) for span in range(256)
)
"""Span -> index in _FORMS, and in RoutePacker._columns."""
