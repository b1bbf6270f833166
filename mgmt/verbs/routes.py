"""`xenflow routes`: a router's routing table as its Rule Table has it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from mgmt.session import ManagementSession, UsageError
from mgmt.text import count, table
from mgmt.verbs import Exit, add_json, emit
from mgmt.verbs.nexthops import describe
from xenflow.model.placement import Placement

NAME = "routes"
SUMMARY = "a router's routes, or those that match an address or prefix"

_PAGE = 10_000


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("router", metavar="ROUTER")
    parser.add_argument(
        "match",
        nargs="?",
        metavar="PREFIX|ADDRESS",
        help="an address: the routes that contain it, the longest first; a prefix: that route",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="print at most N routes")
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit: expected a whole number from 1, found {args.limit}")
    at = session.whereabouts(args.router).placement  # asked once: a router may have many pages
    routes, total = _all_routes(args, session, at)
    hops = session.ask_near(at, "nexthops").get("nexthops", [])
    by_id = {hop.get("id"): hop for hop in hops}
    for route in routes:
        hop = by_id.get(route.get("nexthop"))
        route["via"] = describe(hop) if hop else f"next hop {route.get('nexthop')}"
    text = table(("PREFIX", "BY WAY OF"), [(r.get("prefix"), r["via"]) for r in routes])
    if not routes:
        text = "no route matches" if args.match else "no routes"
    elif len(routes) < total:
        text += f"\n({len(routes)} of {count(total, 'route')})"
    emit(args, {"router": args.router, "routes": routes, "total": total}, text)
    return Exit.OK


def _all_routes(
    args: Namespace, session: ManagementSession, at: Placement
) -> tuple[list[dict[str, Any]], int]:
    """Page by page: a router may have a million routes, and an answer is one message."""
    routes: list[dict[str, Any]] = []
    total = 0
    while True:
        wanted = _PAGE if args.limit is None else min(_PAGE, args.limit - len(routes))
        if wanted <= 0:
            return routes, max(total, len(routes))
        answer = session.ask_near(at, "routes", match=args.match, offset=len(routes), limit=wanted)
        page, total = answer.get("routes", []), int(answer.get("total", 0))
        routes += page
        if not page or len(routes) >= total:
            return routes, max(total, len(routes))
