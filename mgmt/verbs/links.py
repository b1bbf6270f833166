"""`xenflow links`: the virtual links, and the ports each lies on now."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from mgmt.client import parted
from mgmt.session import ManagementSession
from mgmt.text import table
from mgmt.verbs import Exit, add_json, complain_of, emit

NAME = "links"
SUMMARY = "the virtual links: VLAN id, members, the ports each lies on now"


def add_arguments(parser: ArgumentParser) -> None:
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    answered, silent = parted(session.ask_all("links"))
    trees: dict[str, dict[str, list[str]]] = {name: {} for name in session.network.links}
    for answer in answered.values():
        for link in answer.get("links", ()):
            trees.setdefault(str(link.get("name")), {}).update(link.get("tree") or {})
    values: list[dict[str, Any]] = [
        {
            "name": name,
            "id": link.id,
            "vlan": link.vlan,
            "members": [
                *(f"{r.name}.{i.name}" for r, i in session.network.members(name)),
                *(str(access.end) for access in link.access),
            ],
            "tree": trees[name],
        }
        for name, link in session.network.links.items()
    ]
    rows = [(v["name"], v["id"], v["vlan"], v["members"], _ports(v["tree"])) for v in values]
    emit(args, {"links": values}, table(("LINK", "ID", "VLAN", "MEMBERS", "PORTS"), rows))
    exit = complain_of(silent)
    return exit if answered else Exit.UNREACHABLE


def _ports(tree: dict[str, list[str]]) -> str:
    return "  ".join(f"{datapath}:{','.join(map(str, p))}" for datapath, p in tree.items() if p)
