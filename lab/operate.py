"""What can be done with a lab that is up: look at it, run programs in it, cut its cables."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn

from lab import process, routing, switch
from lab.bring_up import State, current, lock, placed
from lab.description import Lab, Node
from lab.namespace import LabError, enter, inside, ip


def nodes() -> list[Node]:
    """The nodes of the lab that is up, routers with the host they run on now."""
    lab, _ = current()
    return lab.nodes(placed())


def find_node(name: str) -> Node:
    """One node by name.

    Raises LabError where there is none.
    """
    known = nodes()
    for node in known:
        if node.name == name:
            return node
    raise LabError(f"{name}: no such node; nodes: {', '.join(n.name for n in known)}")


def _environment(node: Node) -> dict[str, str]:
    return switch.environment(node.name) if node.kind in ("host", "switch") else {}


def execute(name: str, argv: Sequence[str]) -> NoReturn:
    """Become a program in a node: input, output, signals and exit status are the program's.

    Raises LabError where there is no such node or program.
    """
    node = find_node(name)
    environment = {**os.environ, **_environment(node)}
    enter(node.namespace)
    try:
        os.execvpe(argv[0], list(argv), environment)
    except OSError as error:
        raise LabError(f"{argv[0]}: {error.strerror}") from None


def run(name: str, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program in a node and wait for it, as `subprocess.run` with captured text."""
    node = find_node(name)
    settings: dict[str, Any] = {"capture_output": True, "text": True, "check": False, **options}
    settings["env"] = {**os.environ, **_environment(node), **settings.get("env", {})}
    with inside(node.namespace):
        return subprocess.run(list(argv), **settings)


def popen(name: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Begin a program in a node, as `subprocess.Popen`."""
    node = find_node(name)
    environment = {**os.environ, **_environment(node), **options.pop("env", {})}
    with inside(node.namespace):
        return subprocess.Popen(list(argv), env=environment, **options)


# --- cables --------------------------------------------------------------------------------------


def cut(link: str) -> None:
    """Take a cable's carrier away at both ends; of a virtual link, that of its access ports.

    Raises LabError where there is neither of that name.
    """
    _turn(link, "down")


def heal(link: str) -> None:
    """Undo `cut`."""
    _turn(link, "up")


def _turn(name: str, way: str) -> None:
    with lock():
        lab, state = current()
        for namespace, port in _ends(lab, name):
            ip([f"link set {port} {way}"], namespace)
        gone = [n for n in state.cut if n != name] + ([name] if way == "down" else [])
        replace(state, cut=tuple(gone)).write()


def _ends(lab: Lab, name: str) -> list[tuple[str, str]]:
    cable = lab.network.cables.get(name)
    if cable:
        ends = [cable.a, cable.b]
    elif name in lab.network.links:
        ends = [access.end for access in lab.network.links[name].access]
    else:
        known = ", ".join([*lab.network.cables, *lab.network.links])
        raise LabError(f"{name}: no such cable or link; there are {known}")
    return [(lab.switch_namespace(e.datapath), e.port) for e in ends]


# --- status --------------------------------------------------------------------------------------


def status(since: datetime | None = None) -> dict[str, Any]:
    """The lab as one JSON value: what runs, what does not, what routing daemons reported.

    `neighbour_changes` counts each node's neighbour state changes since a time (default: since
    `up` had finished).
    """
    lab, state = current()
    since = since or _came_up(state)
    changes = routing.neighbour_changes(lab, since)
    processes = process.recorded()
    return {
        "network": state.network,
        "source": state.source,
        "up_since": datetime.fromtimestamp(state.since).isoformat(timespec="seconds"),
        "controllers": state.options.controllers,
        "daemon": state.options.daemon,
        "hypervisor": "emulated",
        "cut": list(state.cut),
        "routers": placed(),
        "switches": {d.name: switch.connected(lab.switch_node(d.name)) for d in lab.datapaths},
        "dead": [f"{p.node} {p.name}" for p in processes if not p.alive],
        "processes": len(processes),
        "neighbour_changes": {
            s.node: sum(c.node == s.node for c in changes) for s in routing.speakers(lab)
        },
        "logs": str(process.LOG_DIR),
    }


def _came_up(state: State) -> datetime:
    return datetime.fromtimestamp(state.since)
