"""Migrations carried out in the lab as `xenflow migrate` does it, watched from outside.

Used by the demo, the soak and tests.  What is added to the management entity's own account: the
moment it began on the clock the probe uses, and how long the router itself did not answer.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

from lab.description import Lab
from lab.namespace import LabError
from lab.probe import OutageWatch
from lab.state import NETWORK_FILE, placed
from mgmt import migrate, planning
from mgmt.client import TIMEOUT_S
from mgmt.hypervisor import Drivers
from mgmt.planning import Plan
from mgmt.result import ProgressEvent
from mgmt.session import ManagementSession
from mgmt.verbs import mode as mode_verb
from xenflow.store import network_file


@dataclass(frozen=True, slots=True)
class MoveStage:
    """One stage of a migration; seconds since the migration began."""

    name: str
    title: str
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class Move:
    """One migration that succeeded.

    began_ns     CLOCK_MONOTONIC
    total_s      until `migrate` returned: the source is clean
    suspended_s  how long the VM ran nowhere, by the hypervisor's account
    paused_s     from when to when the VM ran nowhere, in seconds since the migration began
    emulated     whether the hypervisor is, and so its pause
    outage_s     the longest time the router's own address did not answer, measured
    signalled    somebody wanted it to end (Ctrl-C), too late for that: no other should follow
    """

    router: str
    source: str
    to: str
    mode: str
    began_ns: int
    total_s: float
    suspended_s: float
    paused_s: tuple[float, float]
    emulated: bool
    outage_s: float
    steps: tuple[MoveStage, ...]
    signalled: bool = False


class Mover:
    """Moves one router of the lab that is up; the node `watcher` asks whether it answers, every
    `watch_s` seconds."""

    def __init__(
        self, lab: Lab, session: ManagementSession, router: str, watcher: str, watch_s: float = 0.02
    ) -> None:
        self.lab = lab
        self.session = session
        self.router = router
        self._watcher, self._watch_s = watcher, watch_s
        watched = lab.machines[watcher].address.network
        addresses = [address.ip for address in lab.addresses[router].values()]
        near = [address for address in addresses if address in watched]
        self._address = str((near or addresses)[0])

    @property
    def host(self) -> str:
        """Where the router is."""
        return placed()[self.router]

    def other_host(self) -> str:
        """The host that it moves to and fro with: not where it is, nor another router's home."""
        network = self.lab.network
        taken = {r.home for r in network.routers.values() if r.name != self.router}
        free = [h for h in network.hosts if h != self.host and h not in taken]
        if not free:
            raise LabError(f"{self.router} has no other host to move to")
        return free[0]

    def forward_by(self, mode: str) -> None:
        """As `xenflow mode`: "xenflow", the switches forward, or "native", the VM itself.

        Raises NetworkError where it is refused.
        """
        with redirect_stdout(sys.stderr):
            mode_verb.run(
                Namespace(router=self.router, mode=mode, dry_run=False, json=False), self.session
            )

    def plan(self, to: str, mode: str) -> Plan:
        """As `xenflow plan`.  Raises NetworkError where it is refused."""
        with Drivers(self.session.network) as drivers:
            return self._plan(to, mode, drivers)

    def move(
        self, to: str, mode: str, report: Callable[[ProgressEvent], None] = lambda event: None
    ) -> Move:
        """Carry a migration out.

        Raises LabError where it failed, KeyboardInterrupt where it was interrupted (and undone).
        """
        with Drivers(self.session.network) as drivers:
            made = self._plan(to, mode, drivers)
            with OutageWatch(self._watcher, self._address, self._watch_s) as watch:
                time.sleep(0.1)
                began_ns = time.monotonic_ns()
                result = migrate.run(made, self.session.ask, drivers, report)
                time.sleep(0.1)
        if result.interrupted:
            raise KeyboardInterrupt
        if not result.ok:
            raise LabError(f"the migration failed: {result.text()}")
        at = {reached["state"]: reached["at_s"] for reached in result.states}
        titles = {stage.name: stage.title for stage in made.stages}
        steps = tuple(
            MoveStage(s["name"], titles[s["name"]], s["from_s"], s["to_s"]) for s in result.steps
        )
        return Move(
            self.router,
            made.source,
            to,
            mode,
            began_ns,
            result.total_s,
            result.suspended_s or 0.0,
            (at["suspended"], at["running"]),
            result.emulated,
            watch.outage_s,
            steps,
            result.signalled,
        )

    def _plan(self, to: str, mode: str, drivers: Drivers) -> Plan:
        session = self.session
        return planning.plan(session.network, self.router, to, mode, session.ask, drivers)


@contextmanager
def mover(lab: Lab, router: str | None = None, watcher: str | None = None) -> Iterator[Mover]:
    """A mover for the lab that is up; the first router, watched from the first machine, unless
    others are named.

    Raises LabError where there is none of that name.
    """
    router = _named("router", router or next(iter(lab.network.routers)), lab.routers)
    watcher = _named("machine", watcher or ends(lab)[0], lab.machines)
    network = network_file.load(NETWORK_FILE)
    session = ManagementSession(network, TIMEOUT_S)
    try:
        yield Mover(lab, session, router, watcher)
    finally:
        session.close()


def ends(lab: Lab, named: tuple[str, str] | None = None) -> tuple[str, str]:
    """The machines that traffic runs between: the first and the last unless others are named.

    Raises LabError where there is none of that name.
    """
    first, *_, last = named or lab.machines
    return _named("machine", first, lab.machines), _named("machine", last, lab.machines)


def _named(kind: str, name: str, known: Collection[str]) -> str:
    if name not in known:
        raise LabError(f"{name}: no such {kind} of the lab; there are {', '.join(known) or 'none'}")
    return name
