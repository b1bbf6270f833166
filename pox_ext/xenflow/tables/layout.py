"""The tables of a switch: their numbers, names and priorities."""

from __future__ import annotations

INGRESS, ADMISSION, CLASSES, ROUTES, NEXT_HOPS, LEGS, SIZES, LINKS, VM = range(9)

TABLE_NAMES = (
    "ingress",
    "admission",
    "classes",
    "routes",
    "next-hops",
    "legs",
    "sizes",
    "links",
    "vm",
)

NETWORK_WIDE = (ROUTES, NEXT_HOPS, LEGS, SIZES)
"""The tables that are the same on every host that forwards for a router."""

ROUTE_PRIORITY = 1000
"""Priority of a /0 route; a /n has ROUTE_PRIORITY + n."""

REACTIVE_PRIORITY = 20000
"""Exact flows of the reactive pipeline, in INGRESS; its TTL guards stand above them."""
