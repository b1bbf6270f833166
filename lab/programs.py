"""Starts the project's own programs in a lab: controllers, routerd, the emulated hypervisor."""

from __future__ import annotations

import sys

from lab import process, switch
from lab.description import PREFIX, ROOT, Lab
from lab.state import NETWORK_FILE, LabOptions
from xenflow.model import control_link


def python_path() -> dict[str, str]:
    """The environment in which the project's own programs find each other."""
    return {"PYTHONPATH": f"{ROOT}:{ROOT / 'pox_ext'}", "PYTHONUNBUFFERED": "1"}


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
