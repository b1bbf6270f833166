"""`xenflow routers`: where each router is and what is known of its routes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from mgmt.client import Answers, parted
from mgmt.session import ManagementSession, placements, told_of_each
from mgmt.text import duration, table
from mgmt.verbs import Exit, add_json, complain_of, emit
from mgmt.verbs.status import best_view
from xenflow.model.network import Network
from xenflow.model.placement import to_json
from xenflow.plan.migration import needed

NAME = "routers"
SUMMARY = "the routers: where they are, their interfaces, what is known of their routes"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--host", help="only those whose VM is on this host")
    parser.add_argument(
        "--needs",
        metavar="HOST",
        help="only those that need this host: their VM is there, it forwards for them, or their "
        "links lead there, by what any switch was told that it matters to",
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
    places, needs = placements(answers), needed_by_each(session.network, answers)
    values: list[dict[str, Any]] = []
    for name, router in session.network.routers.items():
        place = places.get(name)
        if args.host and (place is None or place.vm != args.host):
            continue
        if args.needs and args.needs not in needs.get(name, ()):
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


def needed_by_each(network: Network, answers: Answers) -> dict[str, set[str]]:
    """The hosts that each router needs, by the answers to `status`."""
    newest, routers = placements(answers), network.routers
    return {
        name: needed(network, routers[name], newest[name], given)
        for name, given in told_of_each(answers).items()
        if name in routers
    }


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
