"""Starts the project's own programs in a lab: controllers, routerd, the emulated hypervisor, and
the store with its planner."""

from __future__ import annotations

import sys

from lab import process, switch
from lab.description import PREFIX, ROOT, Lab
from lab.namespace import LabError
from lab.state import NETWORK_FILE, STORE_PORT, LabOptions, store_nodes
from xenflow.model import control_link
from xenflow.store.server import StoreServer, StoreServerError


def python_path() -> dict[str, str]:
    """The environment in which the project's own programs find each other."""
    return {"PYTHONPATH": f"{ROOT}:{ROOT / 'pox_ext'}", "PYTHONUNBUFFERED": "1"}


MEMBER_PORT, PLANNER_PORT = 6644, 6651
"""Where other members would reach the store, and where the planner listens."""


def store_server(lab: Lab, node: str = "lab") -> StoreServer:
    """The server of the lab's store in a node."""
    address = lab.management[node]
    folder = process.STATE_DIR / node / "store"
    listens = (f"ptcp:{STORE_PORT}:{address}",)
    return StoreServer(folder, f"tcp:{address}:{MEMBER_PORT}", listens)


def start_store(lab: Lab, members: int = 1) -> None:
    """Make the store, and start its servers."""
    first = store_server(lab)
    for node in store_nodes(lab, members):
        server = store_server(lab, node)
        try:
            if server == first:
                server.create()
            else:
                server.join(first.member)
        except StoreServerError as error:
            raise LabError(f"store: {error}") from None
        process.start(node, "store", server.command, PREFIX + node)


def start_planner(lab: Lab, members: int = 1) -> process.Process:
    """Start the planner, which gives an empty store the lab's network file."""
    return process.start(
        "lab",
        "planner",
        [
            sys.executable,
            "-m",
            "xenflow.planner",
            *(f"--store={store_server(lab, node).remote}" for node in store_nodes(lab, members)),
            f"--listen=tcp://{lab.management['lab']}:{PLANNER_PORT}",
            f"--network={NETWORK_FILE}",
        ],
        PREFIX + "lab",
        environment=python_path(),
    )


def start_controller(lab: Lab, name: str) -> process.Process:
    """Start one `./pox.py xenflow`."""
    controller = lab.network.controllers[name]
    node = lab.controller_node(name)
    state = process.STATE_DIR / node / "state"
    state.mkdir(parents=True, exist_ok=True)
    address, port = controller.openflow
    return process.start(
        node,
        "controller",
        [
            sys.executable,
            str(ROOT / "pox.py"),
            "openflow.of_01",
            f"--address={address}",
            f"--port={port}",
            "xenflow",
            f"--network={NETWORK_FILE}",
            f"--controller={name}",
            f"--state={state}",
        ],
        PREFIX + node,
        environment={**python_path(), **switch.environment(node)},
    )


def start_routerd(router: str) -> process.Process:
    """Start the daemon that tells the Rule Table a router's routes."""
    return process.start(
        router,
        "routerd",
        [sys.executable, "-m", "routerd", "--control", control_link.INTERFACE, "--router", router],
        PREFIX + router,
        environment=python_path(),
    )


def start_hypervisor(options: LabOptions) -> process.Process:
    """Start the emulated hypervisor."""
    return process.start(
        "lab",
        "hypervisor",
        [
            sys.executable,
            "-m",
            "lab.hypervisor",
            f"--pause={options.pause_s}",
            f"--precopy={options.precopy_s}",
        ],
        PREFIX + "lab",
        environment=python_path(),
    )
