"""The cookies of our flows: whose flow it is, and of which table.

    magic (16 bits) | router (16) | table (8) | chunk (24)

The router is the one that a flow is about, or 0.  The chunk is, of a route, which part of the
router's routes it is in; of an exact flow (REACTIVE_KIND), the next hop that it follows from; of
every other flow its *owner*, as which it is compiled anew (`pipeline.Owner`):

    what it refuses (2 bits) | kind (2) | id (20)

Of kind LINK the id is the link's, of kind RULE it follows from the name of an operator's rule.  A
chunk of 0 says that the flow belongs to the router, or without one to the switch itself.

Flows without the mark MAGIC are somebody else's and are never touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from xenflow.tables.layout import ADMISSION, INGRESS, REACTIVE_KIND, ROUTES

QUIET_CHUNK = 0xFFFFFF
"""Of REACTIVE_KIND, too: flows that end by themselves (`quiet`)."""

MAGIC = 0x5846 << 48
MAGIC_MASK = 0xFFFF << 48

ROUTER_MASK = MAGIC_MASK | 0xFFFF << 32
"""Selects every flow of one router: of(0, router) under this mask."""

TABLE_MASK = MAGIC_MASK | 0xFF << 24
"""Selects every flow of one table, or of REACTIVE_KIND; with ROUTER_MASK, those of one router."""

CHUNKS = 1021
"""A router's routes are spread over so many cookies, for requests of bounded size.  A prime, so
that prefixes of any length are spread evenly."""

LINK, RULE = 1, 2
"""Kinds of owners that stand in the chunk; 0: a router, or the switch itself."""

_ID = 0xFFFFF


def of(table: int, router: int = 0, chunk: int = 0) -> int:
    """The cookie of a flow: magic, router (16 bits), table (8), chunk (24)."""
    return MAGIC | router << 32 | table << 24 | chunk


def of_link(table: int, link: int, router: int = 0) -> int:
    """The cookie of a flow of a virtual link, by its id; `router`: whom on it the flow is about."""
    return of(table, router, LINK << 20 | link)


def of_rule(name: str) -> int:
    """The cookie of an operator's rule."""
    return of(INGRESS, 0, RULE << 20 | rule_id(name))


def rule_id(name: str) -> int:
    """The id of a rule in cookies (20 bits): the same after a restart, whatever other rules there
    are.  Two names may have one."""
    return crc32(name.encode()) & _ID


def exact(router: int, hop: int) -> int:
    """The cookie of an exact flow of the reactive pipeline, by the next hop it follows from; of
    some numbers another one has the same, none has that of `quiet`."""
    return of(REACTIVE_KIND, router, (hop & 0xFFFFFF) % QUIET_CHUNK or 1)


def router_of(value: int) -> int:
    """The router id in a cookie (0: no router's own)."""
    return value >> 32 & 0xFFFF


def kind_of(value: int) -> int:
    """The table in a cookie, or REACTIVE_KIND."""
    return value >> 24 & 0xFF


def owner_of(value: int) -> tuple[int, int]:
    """Whom a flow with this cookie belongs to: (LINK or RULE, its id), or (0, the router's id; 0
    is the switch itself)."""
    kind = 0 if kind_of(value) == REACTIVE_KIND else value >> 20 & 3
    return (kind, value & _ID) if kind else (0, router_of(value))


def ours(value: int) -> bool:
    """Whether a cookie says that a controller of ours wrote the flow."""
    return value & MAGIC_MASK == MAGIC


REFUSED_TAG, REFUSED_SOURCE = 2, 3
"""What is not taken from a vif: 802.1Q tags, which belong to the links; and a MAC address of
somebody else."""

REFUSED, REFUSED_MASK = of(INGRESS, 0, 2 << 22), TABLE_MASK | 2 << 22
"""Selects every flow that refuses what a VM sends."""


def refusing(link: int, router: int, why: int) -> int:
    """The cookie of a flow of a link that refuses what a router's VM sends there."""
    return of_link(INGRESS, link, router) | why << 22


def refused(value: int) -> tuple[int, int] | None:
    """(router id, why) of what a flow with this cookie refuses; None where it refuses nothing."""
    if value & REFUSED_MASK != REFUSED:
        return None
    return router_of(value), value >> 22 & 3


def taken_in(value: int) -> int:
    """The id of the router whose arrivals a flow with this cookie counts; 0 where it counts none's:
    what is only passed on to where the links lead is no arrival."""
    counts = kind_of(value) in (ADMISSION, REACTIVE_KIND) and value & 0xFFFFFF != QUIET_CHUNK
    return router_of(value) if counts else 0


def route_chunk(net: int) -> int:
    """The chunk (0..CHUNKS-1) of the route to a prefix."""
    return net % CHUNKS


def of_routes(router: int, routes: Sequence[tuple[int, int, int]]) -> list[int]:
    """The cookie of each route (net, span, next hop) in table ROUTES; `route_chunk`
    written out, for there may be a million."""
    base, chunks = of(ROUTES, router), CHUNKS
    return [base + net % chunks for net, _, _ in routes]
