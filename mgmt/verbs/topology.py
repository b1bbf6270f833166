"""`xenflow topology`: the network drawn: switches, cables, and the tree of each virtual link.

The drawing is the network file's; where routers are now is asked of the controllers, and left as
the file has it where none answers.
"""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from mgmt.client import parted
from mgmt.session import ManagementSession, placements
from mgmt.text import count
from mgmt.text import to_json as json_text
from mgmt.verbs import Exit, add_json, complain
from xenflow.model.network import DatapathKind, Link, Network
from xenflow.model.placement import Placement, first_place
from xenflow.model.values import mac_text

NAME = "topology"
SUMMARY = "the network drawn: hosts, switches, cables, virtual links, routers"


def add_arguments(parser: ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    add_json(form)  # type: ignore[arg-type]
    form.add_argument(
        "--dot",
        action="store_true",
        help="print Graphviz: `xenflow topology --dot | dot -Tsvg >FILE` (package graphviz)",
    )
    form.add_argument("--hosts", action="store_true", help="print the hosts' names, one a line")
    parser.add_argument(
        "--offline", action="store_true", help="ask no controller: routers at home, as in the file"
    )


def run(args: Namespace, session: ManagementSession) -> int:
    network = session.network
    if args.hosts:
        print("\n".join(network.hosts))
        return Exit.OK
    places, exit = _places(args, session)
    if args.json:
        print(json_text(as_json(network, places)))
    elif args.dot:
        if shutil.which("dot") is None:
            complain(
                "this is Graphviz's language; what draws it, dot, is not installed here: "
                "package graphviz, or take the output to a machine that has it"
            )
        print(as_dot(network, places))
    else:
        print(as_text(network, places))
    return exit


def _places(args: Namespace, session: ManagementSession) -> tuple[dict[str, Placement], Exit]:
    routers = session.network.routers
    found = {name: first_place(router) for name, router in routers.items()}
    if args.offline or not routers:
        return found, Exit.OK
    answers = session.ask_all("status")
    _, silent = parted(answers)
    for error in silent.values():
        complain(f"{error}: routers are shown where the others, or the network file, have them")
    return found | placements(answers), Exit.FAILED if silent else Exit.OK


# --- text ----------------------------------------------------------------------------------------


def as_text(network: Network, places: dict[str, Placement]) -> str:
    """The whole drawing."""
    plain = len(network.datapaths) - len(network.hosts)
    head = ", ".join(
        (
            count(len(network.hosts), "host"),
            count(plain, "switch", "switches"),
            count(len(network.cables), "cable"),
            count(len(network.links), "virtual link"),
            count(len(network.routers), "router"),
        )
    )
    blocks = [f"{network.name}: {head}"]
    blocks += ["\n".join(_datapath(network, places, name)) for name in network.datapaths]
    blocks += ["\n".join(_link(network, places, link)) for link in network.links.values()]
    return "\n\n".join(blocks)


def _datapath(network: Network, places: dict[str, Placement], name: str) -> Iterator[str]:
    datapath = network.datapaths[name]
    kind = "host" if datapath.kind is DatapathKind.HOST else "switch"
    yield f"{name}  ({kind} {datapath.dpid:016x}, controller {datapath.controller})"
    branches = [
        f"{cable.near(name).port} ─── {cable.far(name)}   cable {cable.name}"
        for cable in network.cables_of[name]
    ]
    for link in network.links.values():
        for access in link.access:
            if access.end.datapath == name:
                stations = " ".join(map(mac_text, access.macs)) or "any station"
                branches.append(f"{access.end.port} ─── {stations}   access to {link.name}")
    for router, place in places.items():
        if router not in network.routers:
            continue
        if place.vm == name:
            branches.append(f"router {router}{_mode(place)}: {_interfaces(network, router)}")
        elif name in place.forwarders:
            branches.append(f"forwards for router {router}, which is on {place.vm}")
    for i, branch in enumerate(branches):
        yield ("└─ " if i == len(branches) - 1 else "├─ ") + branch


def _mode(place: Placement) -> str:
    return "" if place.mode.value == "xenflow" else f" ({place.mode.value})"


def _interfaces(network: Network, router: str) -> str:
    return ", ".join(f"{i.name} on {i.link}" for i in network.routers[router].interfaces)


def _link(network: Network, places: dict[str, Placement], link: Link) -> Iterator[str]:
    yield f"link {link.name}  (id {link.id}, VLAN {link.vlan})"
    root = root_of(link)
    if root is None:
        yield "└─ lies nowhere: it has no member"
        return
    yield from _branch(network, places, link, root, "", "")


def _branch(
    network: Network,
    places: dict[str, Placement],
    link: Link,
    here: str,
    lead: str,
    follow: str,
) -> Iterator[str]:
    members = [f"access {a.end.port}" for a in link.access if a.end.datapath == here]
    members += [
        f"{router.name}.{interface.name}"
        for router, interface in network.members(link.name)
        if router.name in places and places[router.name].vm == here
    ]
    yield f"{lead}{here}" + (f"  [{', '.join(members)}]" if members else "")
    children = branches_of(link, here)
    for i, (cable, there) in enumerate(children):
        last = i == len(children) - 1
        yield from _branch(
            network,
            places,
            link,
            there,
            follow + ("└─ " if last else "├─ ") + f"{cable} ─ ",
            follow + ("   " if last else "│  "),
        )


def root_of(link: Link) -> str | None:
    """The datapath that a link's tree grows from, None where it has no member."""
    return next((name for name, cable in link.tree.up.items() if cable is None), None)


def branches_of(link: Link, here: str) -> list[tuple[str, str]]:
    """The cables of a link's tree that lead away from its root, and where to."""
    up = link.tree.up.items()
    return [
        (cable.name, there) for there, cable in up if cable and cable.far(there).datapath == here
    ]


# --- JSON and Graphviz ---------------------------------------------------------------------------


def as_json(network: Network, places: dict[str, Placement]) -> dict[str, Any]:
    """The drawing's content."""
    return {
        "network": network.name,
        "datapaths": [
            {
                "name": d.name,
                "kind": d.kind.value,
                "dpid": f"{d.dpid:016x}",
                "controller": d.controller,
            }
            for d in network.datapaths.values()
        ],
        "cables": [{"name": c.name, "ends": [str(c.a), str(c.b)]} for c in network.cables.values()],
        "links": [
            {
                "name": link.name,
                "id": link.id,
                "vlan": link.vlan,
                "root": root_of(link),
                "access": [
                    {"at": str(a.end), "macs": [mac_text(m) for m in a.macs]} for a in link.access
                ],
                "tree": [
                    cable for here in network.datapaths for cable, _ in branches_of(link, here)
                ],
            }
            for link in network.links.values()
        ],
        "routers": [
            {
                "name": name,
                "id": router.id,
                "home": router.home,
                "vm": places[name].vm,
                "forwarders": list(places[name].forwarders),
                "mode": places[name].mode.value,
                "interfaces": [
                    {"name": i.name, "link": i.link, "mac": mac_text(i.mac), "vif": i.vif}
                    for i in router.interfaces
                ],
            }
            for name, router in network.routers.items()
        ],
    }


def as_dot(network: Network, places: dict[str, Placement]) -> str:
    """Graphviz: switches as boxes, routers as ellipses, cables solid, virtual links dashed."""
    lines = [f"graph {_quoted(network.name)} {{", "  node [shape=box];"]
    for d in network.datapaths.values():
        style = ', style="bold"' if d.kind is DatapathKind.HOST else ""
        lines.append(f"  {_quoted(d.name)} [label={_quoted(d.name)}{style}];")
    for c in network.cables.values():
        ends = f"{_quoted(c.a.datapath)} -- {_quoted(c.b.datapath)}"
        ports = f"taillabel={_quoted(c.a.port)}, headlabel={_quoted(c.b.port)}"
        lines.append(f"  {ends} [label={_quoted(c.name)}, {ports}];")
    for name, router in network.routers.items():
        node = _quoted(f"router {name}")
        lines.append(f"  {node} [label={_quoted(name)}, shape=ellipse];")
        links = ", ".join(i.link for i in router.interfaces)
        vm = _quoted(places[name].vm)
        lines.append(f"  {node} -- {vm} [label={_quoted(links)}, style=dashed];")
    for link in network.links.values():
        for access in link.access:
            node = _quoted(f"access {access.end}")
            label = _quoted(f"{link.name}\n{access.end.port}")
            lines.append(f"  {node} [label={label}, shape=plaintext];")
            lines.append(f"  {node} -- {_quoted(access.end.datapath)} [style=dashed];")
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
