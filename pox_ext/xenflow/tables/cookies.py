"""The cookies of our flows: whose flow it is, of which table, of which part of the routes.

Flows without the mark MAGIC are somebody else's and are never touched.
"""

from __future__ import annotations

from collections.abc import Sequence

from xenflow.tables.layout import ADMISSION, INGRESS, REACTIVE_KIND, ROUTES

REACTIVE_MASK = 0xFFFF << 48 | 0xFF << 24

QUIET_CHUNK = 0xFFFFFF
"""Of REACTIVE_KIND, too: flows that end by themselves (`quiet`)."""

MAGIC = 0x5846 << 48
MAGIC_MASK = 0xFFFF << 48

CHUNKS = 1021
"""A router's routes are spread over so many cookies, for requests of bounded size.  A prime, so
that prefixes of any length are spread evenly."""


def of(table: int, router: int = 0, chunk: int = 0) -> int:
    """The cookie of a flow: magic, router (16 bits), table (8), chunk (24)."""
    return MAGIC | router << 32 | table << 24 | chunk


def exact(router: int, hop: int) -> int:
    """The cookie of an exact flow of the reactive pipeline, by the next hop it follows from."""
    return of(REACTIVE_KIND, router, (hop & 0xFFFFFF) or 1)


def router_of(value: int) -> int:
    """The router id in a cookie (0: no router's own)."""
    return value >> 32 & 0xFFFF


def kind_of(value: int) -> int:
    """The table in a cookie, or REACTIVE_KIND."""
    return value >> 24 & 0xFF


def ours(value: int) -> bool:
    """Whether a cookie says that a controller of ours wrote the flow."""
    return value & MAGIC_MASK == MAGIC


_REFUSED = 0x010000

REFUSED_TAG, REFUSED_SOURCE = 1, 2
"""What is not taken from a vif: 802.1Q tags, which belong to the links; and a MAC address of
somebody else."""

REFUSED_MASK = MAGIC_MASK | 0xFF << 24 | 0xFF0000


def refusing(router: int = 0, why: int = 0) -> int:
    """The cookie of a flow that refuses what a VM sends; under REFUSED_MASK, of all of them."""
    return of(INGRESS, router, _REFUSED | why)


def refused(value: int) -> tuple[int, int] | None:
    """(router id, why) of what a flow with this cookie refuses; None where it refuses nothing."""
    if value & REFUSED_MASK != refusing():
        return None
    return router_of(value), value & 0xFFFF


def taken_in(value: int) -> int:
    """The id of the router whose arrivals a flow with this cookie counts; 0 where it counts none's:
    what is only passed on to where the links lead is no arrival."""
    counts = kind_of(value) in (ADMISSION, REACTIVE_KIND) and value & 0xFFFFFF != QUIET_CHUNK
    return router_of(value) if counts else 0


ROUTER_MASK = MAGIC_MASK | 0xFFFF << 32
"""Selects every flow of one router: of(0, router) under this mask."""


def route_chunk(net: int) -> int:
    """The chunk (0..CHUNKS-1) of the route to a prefix."""
    return net % CHUNKS


def of_routes(router: int, routes: Sequence[tuple[int, int, int]]) -> list[int]:
    """The cookie of each route (net, prefix length, next hop) in table ROUTES; `route_chunk`
    written out, for there may be a million."""
    base, chunks = of(ROUTES, router), CHUNKS
    return [base + net % chunks for net, _, _ in routes]
