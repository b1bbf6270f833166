"""`xenflow nexthops`: a router's next hops, resolved or not."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from mgmt.session import ManagementSession
from mgmt.text import table
from mgmt.verbs import Exit, add_json, emit

NAME = "nexthops"
SUMMARY = "a router's next hops: gateway, MAC address, how many routes use each"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("router", metavar="ROUTER")
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    answer = session.ask_router(args.router, "nexthops")
    hops = answer.get("nexthops", [])
    rows = [
        (
            hop.get("id"),
            f"{hop.get('type')}{' (IPv6)' if hop.get('family') == 6 else ''}",
            hop.get("interface"),
            hop.get("gateway"),
            hop.get("mac") if hop.get("resolved") else hop.get("gateway") and "unresolved",
            hop.get("routes"),
        )
        for hop in hops
    ]
    headings = ("ID", "TYPE", "INTERFACE", "GATEWAY", "MAC", "ROUTES")
    emit(args, {"router": args.router, "nexthops": hops}, table(headings, rows))
    return Exit.OK


def describe(hop: dict[str, Any]) -> str:
    """A next hop in a few words: "10.0.2.2 on eth1"."""
    kind, interface, gateway = (str(hop.get(k) or "") for k in ("type", "interface", "gateway"))
    where = f" on {interface}" if interface else ""
    if gateway:
        return f"{gateway}{where}" + ("" if hop.get("resolved") else " (unresolved)")
    return f"{kind}{where}"
