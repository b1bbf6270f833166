"""Has those who read the lab's network file at their start read it anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from lab.description import Lab
from lab.namespace import LabError
from mgmt.client import AskError, Refused
from mgmt.hypervisor import HypervisorError
from mgmt.hypervisor.lab import LabDriver
from mgmt.session import ManagementSession
from mgmt.verbs import apply
from xenflow.model.network import Network

IN_FORCE_S = 60.0
"""What switches may take to have a change in force, beside all else that runs on the machine."""


def tell_controllers(
    network: Network, session: ManagementSession, *, dry_run: bool = False
) -> None:
    """Has the controllers of a session read the network file, which is `network`; with `dry_run`
    they only say whether they could.

    Raises LabError with each reason where one does not.
    """
    if reasons := list(_told(network, session, dry_run)):
        raise LabError("\n".join(reasons))


def _told(network: Network, session: ManagementSession, dry_run: bool) -> Iterator[str]:
    for name, answer in session.ask_all("reload", dry_run=dry_run).items():
        if isinstance(answer, Refused):
            yield from (f"controller {name}: {line}" for line in answer.message.splitlines())
        elif isinstance(answer, AskError):
            yield f"controller {answer}"
        elif answer["digest"] != network.digest:
            yield f"controller {name} has another network file"


def apply_to_store(
    network: Network, text: str, session: ManagementSession, *, dry_run: bool = False
) -> None:
    """The same of a lab whose network lives in a store: the planner makes it what `text` says, and
    it is waited for until all have it in force; with `dry_run` it is only asked whether they could.

    Raises LabError with each reason where that is not so.
    """
    try:
        reasons, since = apply.look(session, network, session.network.routers.keys())
        if not reasons:
            answer = apply.submit(session, text, "network.toml", since, dry_run=dry_run)
            if answer["change"]:
                new = apply.session_of(session, network, session.network.controllers.keys())
                reasons = apply.await_in_force(new, answer, IN_FORCE_S)
    except AskError as error:
        reasons = [str(error)]
    if reasons:
        raise LabError("\n".join(reasons))


def tell_hypervisor(lab: Lab, *, dry_run: bool = False) -> None:
    """The same of the emulated hypervisor.

    Raises LabError where it does not, as while a router is being moved.
    """
    address, port = lab.hypervisor
    try:
        with closing(LabDriver(f"tcp://{address}:{port}")) as driver:
            driver.ask("reload", dry_run=dry_run)
    except HypervisorError as error:
        raise LabError(str(error)) from None
