"""Plane separation in Domain 0's kernel, between genuine Xen hosts: `xl migrate` carries the VM.

The hosts' cables and vifs are taken from XenFlow's switches, and the edge switches become learning
ones, as in the lab (`domain0_kernel`).  The VM tells its routes and neighbours by a page of its own
account (`cgi-bin/forwarding`); they are copied when the experiment begins and at each move, not
followed in between: in the report's network they do not change.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.experiments.domain0_kernel import Copier, Domain0, KernelMover, Moved, Shown
from bench.experiments.on_xen import SESSION_MOVES, TOPOLOGY, WATCH_S, standing
from lab.namespace import LabError
from lab.state import NETWORK_FILE
from mgmt import hypervisor
from mgmt.hypervisor import HypervisorError, Job, JobState
from tests.xen.bed import bed as beds
from tests.xen.bed import router as guests
from tests.xen.bed.bed import Bed
from xenflow.store import network_file

_LIMIT_S = 600.0
_POLL_S = 0.05


class XenKernelMover(KernelMover):
    """Moves the bed's first router."""

    watch_s = WATCH_S
    quiet_s = 0.5

    def __init__(self, bed: Bed) -> None:
        router = next(iter(bed.lab.network.routers.values()))

        def run(host: str) -> Callable[[str, str], str]:
            return lambda script, text: bed.hosts[host].run(f"set -e\n{script}", text=text).stdout

        def guest() -> tuple[Shown, Shown]:
            told = json.loads(guests.ask(bed.lab, router.name, "cgi-bin/forwarding"))
            return told["routes"], told["neighbours"]

        hosts = {h: Domain0(bed.lab, router, h, run(h)) for h in bed.hosts}
        super().__init__(bed.lab, hosts, Copier(guest))
        self._bed = bed
        self._network = network_file.load(NETWORK_FILE)

    @property
    def host(self) -> str:
        return guests.host_of(self._bed.hosts, self.router.name)

    def refresh(self) -> None:
        if guests.is_worn(self.lab, self.router.name, SESSION_MOVES):
            here = self._hosts[self.host]
            guests.renew(self._bed.hosts, self.router.name)
            here.forward(vm_here=True)
            beds.settled(self.lab)

    def move(self) -> Moved:
        self._driver = hypervisor.of(self._network, self.host)
        try:
            self._driver.domain(self.router.name)  # its agents are there then, as after a plan
            return super().move()
        except HypervisorError as error:
            raise LabError(f"the VM did not move: {error}") from None
        finally:
            self._driver.close()

    def carry(self, source: Domain0, to: Domain0) -> float:
        name, driver = self.router.name, self._driver
        job = driver.migrate(name, to.host)
        job = _until(driver, job, (JobState.MOVED_PAUSED, JobState.RUNNING))
        to.forward(vm_here=True)
        driver.unpause(name)
        return _until(driver, job, (JobState.RUNNING,)).suspended_s or 0.0


def _until(driver: hypervisor.Hypervisor, job: Job, states: tuple[JobState, ...]) -> Job:
    end = time.monotonic() + _LIMIT_S
    while job.state not in states:
        if job.state is JobState.FAILED or time.monotonic() > end:
            raise LabError(f"the VM did not move: {job.state.value}: {job.detail}")
        time.sleep(_POLL_S)
        job = driver.job(job.id)
    return job


@contextmanager
def separated(say: Callable[[str], None]) -> Iterator[XenKernelMover]:
    """Both hosts up, their kernels forwarding; taken down at the end."""
    with standing(TOPOLOGY, say) as bed:
        mover = XenKernelMover(bed)
        mover.begin()
        yield mover
