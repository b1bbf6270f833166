"""`xenflow routers`: where each router is and what is known of its routes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from contextlib import suppress
from typing import Any

from mgmt.client import parted
from mgmt.session import ManagementSession, placements
from mgmt.text import duration, table
from mgmt.verbs import Exit, add_json, complain_of, emit
from mgmt.verbs.status import best_view
from xenflow.model.network import NetworkError
from xenflow.model.placement import from_json, to_json

NAME = "routers"
SUMMARY = "the routers: where they are, their interfaces, what is known of their routes"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--host", help="only those whose VM is on this host")
    parser.add_argument(
        "--needs",
        metavar="HOST",
        help="only those that need this host: by what any switch was told their VM is there, it "
        "forwards for them, or their links lead there",
    )
    parser.add_argument("--names", action="store_true", help="print their names only, one a line")
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    for host in filter(None, (args.host, args.needs)):
        session.host(host)
    answers = session.ask_all("status")
    answered, silent = parted(answers)
    if not answered:
        complain_of(silent)
        return Exit.UNREACHABLE
    places = placements(answers)
    values: list[dict[str, Any]] = []
    for name, router in session.network.routers.items():
        place = places.get(name)
        if args.host and (place is None or place.vm != args.host):
            continue
        if args.needs and args.needs not in hosts_of(name, answered):
            continue
        values.append(
            {
                "name": name,
                "id": router.id,
                "home": router.home,
                "interfaces": {i.name: i.link for i in router.interfaces},
                "placement": to_json(place) if place else None,
                "table": best_view(name, answered) or None,
            }
        )
    if args.names:
        if values:
            print("\n".join(str(value["name"]) for value in values))
    else:
        emit(args, {"routers": values}, table(_HEADINGS, map(_row, values)))
    return complain_of(silent)


def hosts_of(router: str, answered: dict[str, dict[str, Any]]) -> set[str]:
    """Every host that a router needs: all that any switch was told, not the newest word alone."""
    told: set[str] = set()
    for answer in answered.values():
        for value in answer.get("placements", ()):
            with suppress(NetworkError):
                placement = from_json(value)
                if placement.router == router:
                    told.update(placement.hosts)
    return told


_HEADINGS = ("ROUTER", "ID", "VM", "FORWARDS", "HOME", "ROUTES", "FED", "AGE", "INTERFACES")


def _row(value: dict[str, Any]) -> tuple[object, ...]:
    place, found = value["placement"] or {}, value["table"] or {}
    return (
        value["name"],
        value["id"],
        place.get("vm"),
        place.get("forwarders"),
        value["home"],
        found.get("routes"),
        found.get("feed"),
        duration(found.get("age_s")),
        [f"{name} on {link}" for name, link in value["interfaces"].items()],
    )
