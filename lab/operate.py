"""What can be done with a lab that is up: look at it, run programs in it, cut its cables."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn

from lab import process, routing, switch
from lab.description import Lab, Node
from lab.namespace import LabError, enter, inside, ip
from lab.state import current, lock, placed
from mgmt.session import UsageError
from xenflow.model.network import End


class UnknownNameError(LabError, UsageError):
    """The lab has nothing of a name on the command line."""


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
    raise UnknownNameError(f"{name}: no such node; nodes: {', '.join(n.name for n in known)}")


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

    Raises LabError where there is neither of that name, or the link has no access port.
    """
    _turn(link, "down")


def heal(link: str) -> None:
    """Undo `cut`."""
    _turn(link, "up")


def _turn(name: str, way: str) -> None:
    with lock():
        lab, state = current()
        for end in ends_of(lab, name, placed()):
            ip([f"link set {end.port} {way}"], lab.switch_namespace(end.datapath))
        gone = [n for n in state.cut if n != name] + ([name] if way == "down" else [])
        replace(state, cut=tuple(gone)).write()


def ends_of(lab: Lab, name: str, places: Mapping[str, str]) -> list[End]:
    """The ports that `cut` takes the carrier from; `places`: the host of each router.

    Raises LabError where there are none.  The cables of a link are not cut in its place: they
    carry other links too.
    """
    network = lab.network
    if name in network.cables:
        return [network.cables[name].a, network.cables[name].b]
    if name not in network.links:
        known = ", ".join([*network.cables, *network.links])
        raise UnknownNameError(f"{name}: no such cable or link; there are {known}")
    if access := network.links[name].access:
        return [one.end for one in access]
    hosts = {places.get(router.name, router.home) for router, _ in network.members(name)}
    ends = {end for ends in network.links[name].tree.spanning(hosts).values() for end in ends}
    cables = [cable.name for cable in network.cables.values() if cable.a in ends]
    lies = (
        f"it lies on {', '.join(cables)} now: cut one of these"
        if cables
        else ("it lies on no cable now, its routers are on one host")
    )
    raise LabError(f"link {name} has no access ports whose carrier could be taken away; {lies}")


# --- status --------------------------------------------------------------------------------------


def status(since: datetime | None = None) -> dict[str, Any]:
    """The lab as one JSON value: what runs, what does not, what routing daemons reported.

    `neighbour_changes` counts each node's neighbour state changes since a time (default: since
    `up` had finished).
    """
    lab, state = current()
    came_up = datetime.fromtimestamp(state.since)
    since = since or came_up
    changes = routing.neighbour_changes(lab, since)
    processes = process.recorded()
    alive = {(p.node, p.name) for p in processes if p.alive}
    dead = [one for p in processes if (one := (p.node, p.name)) not in alive]
    return {
        "network": state.network,
        "phase": state.phase,
        "source": state.source,
        "up_since": came_up.isoformat(timespec="seconds"),
        "controllers": state.options.controllers,
        "store": state.options.store,
        "daemon": state.options.daemon,
        "hypervisor": "emulated",
        "cut": list(state.cut),
        "routers": placed(),
        "switches": {d.name: switch_state(lab.switch_node(d.name), dead) for d in lab.datapaths},
        "dead": [f"{node} {name}" for node, name in dead],
        "processes": len(processes),
        "neighbour_changes": {
            s.node: sum(c.node == s.node for c in changes) for s in routing.speakers(lab)
        },
        "logs": str(process.LOG_DIR),
    }


def switch_state(node: str, dead: Sequence[tuple[str, str]]) -> str:
    """Of a switch, in words.  What its database says is asked of the living only: it keeps what a
    dead one has said last."""
    gone = [name for where, name in dead if where == node and name in switch.DAEMONS]
    if gone:
        return f"dead ({', '.join(gone)})"
    return _CONNECTED[switch.connected(node)]


_CONNECTED = {True: "connected", False: "not connected", None: "no controller"}
