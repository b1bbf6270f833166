"""What carries the effects of a migration out (`xenflow.plan.effects`), one method an effect.

`Executor.carry_out` finds the method by the effect's type.  Every effect is done in the name of the
lease's owner, at the controllers' management sockets or by the hypervisor's driver.  When and in
which order, and what a failure means, is not decided here: see `mgmt.migrate`, which calls it.

Where the hypervisor does not answer it is not known where the VM is: it is asked again until it is
known, and the switches stay as they are meanwhile.
"""

from __future__ import annotations

import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from math import inf
from typing import Any, TypeVar, assert_never

from mgmt import hypervisor
from mgmt.at_once import at_once
from mgmt.client import AskError, Refused
from mgmt.hypervisor import Drivers, Hypervisor, HypervisorError, Job, JobState
from mgmt.interrupts import Interrupts
from mgmt.lease import LostError, RouterLease
from mgmt.planning import Plan
from mgmt.result import Commit, Reporter, Result
from mgmt.session import Ask
from xenflow.model.placement import to_json
from xenflow.plan.effects import (
    PATIENCE_S,
    Apply,
    AwaitReady,
    AwaitVifs,
    CopyFlows,
    Drain,
    Effect,
    EndMove,
    Mirror,
    MoveVM,
    Pace,
    Release,
    Unmirror,
    Unpause,
)

PLACE_TIMEOUT_S = 90.0
MOVE_TIMEOUT_S = 600.0
RELEASE_S = 10.0
"""How long a switch may take to confirm that what was held is sent."""
PASS_ON_S = 0.1
"""How often what is held is passed on by the controllers while a switch is late."""
RUN_TIMEOUT_S = 120.0
"""How long a VM may take to run once it is let."""
ENDED_S = 30.0
"""How long a VM may take to run again once its move was ended."""
POLL_S = 0.01
KNOWN_S = 600.0
"""How long a hypervisor that does not answer is asked where the VM is."""
KNOWN_POLL_S = 0.25
NOT_GIVEN = ("stale-version", "not-connected", "unknown-router", "unknown-datapath")
"""Codes of a refused placement that is certainly not in a switch; after others it may be."""
FLOWS_AT_ONCE = 2000
Answer = TypeVar("Answer")


class MigrationError(RuntimeError):
    """An effect failed; the message says which and why."""


class FinalError(MigrationError):
    """Trying again would not help."""


class NotKnownError(FinalError):
    """The hypervisor does not say where the VM is."""


class Executor:
    """One migration's.  `ask` and `lease` are those of its owner; what becomes known is written
    down in `result`."""

    def __init__(
        self,
        plan: Plan,
        ask: Ask,
        lease: RouterLease,
        drivers: Drivers,
        interrupts: Interrupts,
        report: Reporter,
        result: Result,
    ) -> None:
        self._plan = plan
        self._network = plan.network
        self._router = plan.router.name
        self._ask = ask
        self._lease = lease
        self._drivers = drivers
        self._interrupts = interrupts
        self._report = report
        self._result = result
        self._driver: Hypervisor | None = None
        """Was asked to move the VM: it may, whatever it answered."""
        self._job: Job | None = None
        self._held_before: dict[str, dict[str, int]] = {}
        self.vm_waits_until = 0.0
        """Until when (`time.monotonic`) the suspended VM waits for switches."""
        self.not_given: set[str] = set()
        """The datapaths that certainly have not got the last placement that was to be applied."""

    def carry_out(self, effect: Effect, within_s: float = inf) -> None:
        """Carry one effect out; `within_s`: so long, in seconds, a switch may take for it at most.

        Raises AskError, HypervisorError, NetworkError, MigrationError and Interrupted.
        """
        match effect:
            case Apply():
                self._apply(effect, min(PLACE_TIMEOUT_S, within_s))
            case Mirror(source, destination):
                self._mirror(source, destination, on=True)
            case Unmirror(source, destination):
                self._mirror(source, destination, on=False)
            case CopyFlows(source, destination):
                self._copy_flows(source, destination)
            case AwaitReady(host):
                self._await_ready(host)
            case MoveVM(source, destination):
                self._move_vm(source, destination)
            case EndMove(_, destination):
                self._end_move(destination)
            case AwaitVifs(host):
                self._await_vifs(host)
            case Release(host, to):
                self._release(host, to, min(RELEASE_S, within_s))
            case Unpause(host):
                self._unpause(host)
            case Drain(host):
                self._drain(host)
            case _:
                assert_never(effect)

    def count_held(self) -> None:
        """What was held while the VM was suspended: at the source, and most of that once more where
        it was sent, at the destination."""
        result, before = self._result, self._held_before
        for host, now in self._held(before).items():
            result.held = max(result.held, now["held"] - before[host]["held"])
            result.repeated += now["repeated"] - before[host]["repeated"]
            result.dropped = max(result.dropped, now["dropped"] - before[host]["dropped"])

    def _controller(self, host: str) -> str:
        return self._network.datapaths[host].controller

    def _ask_of(
        self, host: str, verb: str, timeout_s: float = PLACE_TIMEOUT_S, **arguments: Any
    ) -> dict[str, Any]:
        """What a host's controller says of the router on the host's switch."""
        asked = {"router": self._router, "datapath": host, **arguments}
        return self._ask(self._controller(host), verb, timeout_s=timeout_s, **asked)

    # --- switches -----------------------------------------------------------------------------

    def _apply(self, effect: Apply, timeout_s: float) -> None:
        by_controller: dict[str, list[str]] = {}
        for name in effect.datapaths:
            by_controller.setdefault(self._controller(name), []).append(name)
        self.not_given = set()

        def tell(controller: str) -> None:
            names = by_controller[controller]
            try:
                self._lease.ask(
                    controller,
                    "place",
                    timeout_s=timeout_s,
                    placement=to_json(effect.placement),
                    datapaths=names,
                    in_force=effect.proven,
                )
            except Refused as error:
                if error.code in NOT_GIVEN:
                    self.not_given.update(names)
                raise

        late = effect.pace is Pace.LATE and effect.datapaths == (self._plan.to,)
        with self._passing_on() if late else nullcontext():
            at_once(tell, by_controller, most=len(by_controller))

    @contextmanager
    def _passing_on(self) -> Iterator[None]:
        """Meanwhile what the source holds for the VM goes to it by way of the controllers: its
        switch does not know it yet."""
        over = threading.Event()

        def pass_on() -> None:
            passed = {interface.link: 0 for interface in self._plan.router.interfaces}
            ended = False
            while not ended:
                ended = over.wait(PASS_ON_S)
                for link in passed:
                    try:
                        passed[link] = self._pass_on(link, passed[link], last=ended)
                    except AskError as error:
                        if isinstance(error, LostError):
                            return

        thread = threading.Thread(target=pass_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _pass_on(self, link: str, passed: int, *, last: bool) -> int:
        """Returns up to which number they have been passed on; the last time this is only said."""
        source, to = self._plan.source, self._plan.to
        held = self._lease.ask(
            self._controller(source), "read-held", router=self._router, link=link, passed=passed
        )
        if last or not held["frames"]:
            return passed
        given = self._lease.ask(
            self._controller(to),
            "write-held",
            router=self._router,
            datapath=to,
            link=link,
            frames=[b64decode(text) for text in held["frames"]],
        )
        return int(held["upto"]) if given["taken"] else passed

    def _release(self, host: str, to: str, timeout_s: float) -> None:
        answer = self._lease.ask(
            self._controller(host),
            "release",
            timeout_s=timeout_s,
            router=self._router,
            datapath=host,
            to=to,
        )
        self._result.held += answer["delivered"]

    def _mirror(self, source: str, destination: str, *, on: bool) -> None:
        source, destination = self._controller(source), self._controller(destination)
        if source == destination:
            return
        for one, other in ((source, destination), (destination, source)):
            to = self._network.controllers[other].manage
            self._lease.ask(one, "mirror", router=self._router, to=to, on=on)

    def _copy_flows(self, source: str, destination: str) -> None:
        flows = [b64decode(text) for text in self._ask_of(source, "read-flows")["flows"]]
        ports = self._port_map(source, destination)
        for start in range(0, len(flows), FLOWS_AT_ONCE):
            self._lease.ask(
                self._controller(destination),
                "write-flows",
                timeout_s=PLACE_TIMEOUT_S,
                router=self._router,
                datapath=destination,
                flows=flows[start : start + FLOWS_AT_ONCE],
                ports=ports,
            )

    def _port_map(self, source: str, destination: str) -> dict[str, int]:
        """Ports of the source, by number, to the ports of the destination that lead the same way.

        The report's correspondence of in- and out-ports: two ports correspond when they lead to
        the same neighbour on the same virtual link.
        """
        numbers = {
            host: {
                name: port["number"]
                for row in self._ask(self._controller(host), "status", router=self._router)[
                    "datapaths"
                ]
                if row["name"] == host
                for name, port in row["ports"].items()
            }
            for host in (source, destination)
        }
        found: dict[str, int] = {}
        for interface in self._plan.router.interfaces:
            tree = self._network.links[interface.link].tree
            peers = {a.end.datapath for a in self._network.links[interface.link].access}
            peers |= {r.home for r, _ in self._network.members(interface.link)}
            for peer in sorted(peers - {source, destination}):
                there = numbers[source].get(tree.toward(source, peer).port)
                here = numbers[destination].get(tree.toward(destination, peer).port)
                if there and here:
                    found.setdefault(str(there), here)
        return found

    # --- what is awaited ----------------------------------------------------------------------

    def _await_ready(self, host: str) -> None:
        deadline = time.monotonic() + PLACE_TIMEOUT_S
        while True:
            answer = self._ask_of(host, "ready")
            if answer["ready"]:
                return
            if answer.get("problems"):
                raise MigrationError(f"{host}: {answer['problems'][0]}")
            self._interrupts.check()
            if time.monotonic() > deadline:
                raise MigrationError(f"{host}: the router's routes did not get there")
            time.sleep(0.05)

    def _await_vifs(self, host: str) -> None:
        answer = self._ask_of(host, "attached", timeout_s=30.0, wait_s=10.0)
        if not answer["attached"]:
            raise MigrationError(f"{host}: the VM's interfaces did not appear on its switch")
        self.vm_waits_until = time.monotonic() + PATIENCE_S

    def _drain(self, host: str) -> None:
        answer = self._ask_of(host, "quiet")
        if not answer["quiet"]:
            raise FinalError(
                f"{host}: packets for {self._router} still arrive there "
                f"({answer['last']} more at the last of {answer['looks']} looks in "
                f"{answer['waited_s']:.0f} s); its flows are left in place"
            )

    def _held(self, hosts: Iterable[str]) -> dict[str, dict[str, int]]:
        """Each host's counters of packets for the router; without those that do not answer."""
        found = {}
        for host in hosts:
            with suppress(AskError):
                rows = self._ask(self._controller(host), "routers")["routers"]
                for row in rows:
                    if row["name"] == self._router:
                        found[host] = row["held"]
        return found

    # --- the VM -------------------------------------------------------------------------------

    def _move_vm(self, source: str, destination: str) -> None:
        driver = self._drivers.of(source)
        self._result.emulated = driver.emulated
        driver.claim = self._lease
        self._held_before = self._held((source, destination))
        self._driver = driver
        job = self._job = driver.migrate(self._router, destination)
        deadline = time.monotonic() + MOVE_TIMEOUT_S
        while job.state in (JobState.PRECOPY, JobState.SUSPENDED):
            self._interrupts.check()
            if time.monotonic() > deadline:
                raise MigrationError(f"the VM has not moved within {MOVE_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
            before, job = job, driver.job(job.id)
            self._job = job
            if job.detail and job.detail != before.detail:
                self._report("hypervisor", "note", job.detail)
        if job.state is JobState.FAILED:
            raise MigrationError(f"the hypervisor could not move the VM: {job.detail}")

    def _unpause(self, host: str) -> None:
        assert self._driver is not None and self._job is not None
        driver, result = self._driver, self._result
        result.commit = Commit.IN_DOUBT  # it may be done from now on, whatever is answered
        try:
            self._until_known(partial(driver.unpause, self._router))
            job = self._once_it_runs(driver, self._job.id)
        except LostError:
            result.commit = Commit.FAILED  # nothing was asked: see the driver's `claim`
            raise
        except HypervisorError:
            # Refused; or it was done, and the answer to that got lost.
            found = self._until_known(partial(driver.domain, self._router))
            if found is None or found.state != "running":
                raise
            if found.host != host:
                result.commit = Commit.FAILED
                raise MigrationError(f"the VM runs on {found.host}, not on {host}") from None
            result.commit = Commit.DONE
            return
        result.suspended_s = job.suspended_s
        result.states = [
            {"state": state, "at_s": round(at - self._report.began, 6)} for state, at in job.events
        ]
        if job.state is JobState.FAILED:
            result.commit = Commit.FAILED  # it runs at the source
            raise MigrationError(f"the VM could not be started on {host}: {job.detail}")
        if job.state is not JobState.RUNNING:
            raise MigrationError(f"{host}: the VM does not run on: {job.state.value}")
        result.commit = Commit.DONE
        result.left = list(job.left)

    def _once_it_runs(self, driver: Hypervisor, id: str) -> Job:
        """The hypervisor's job, when its VM runs or will not."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while True:
            job = self._until_known(partial(driver.job, id))
            if job.state is not JobState.MOVED_PAUSED or time.monotonic() > deadline:
                return job
            time.sleep(POLL_S)

    def _end_move(self, destination: str) -> None:
        """Sees to it that it is known on which host the VM runs then, or raises NotKnownError."""
        if self._driver is None:
            return
        try:
            host = self._where_it_runs_again(self._driver)
        except (HypervisorError, MigrationError) as error:
            raise NotKnownError(str(error)) from None
        self._result.commit = Commit.DONE if host == destination else Commit.FAILED

    def _where_it_runs_again(self, driver: Hypervisor) -> str:
        """The host where the VM runs once its move was ended.

        Raises MigrationError or HypervisorError where that is not known.
        """
        try:
            ended = self._until_known(partial(driver.abort, self._router, own=True))
        except HypervisorError as error:
            if error.code not in ("no-migration", "too-late"):
                raise
            begun = error.code == "too-late" or self._job is not None
        else:
            begun = True
            self._result.left = list(ended.left)
        deadline = time.monotonic() + ENDED_S
        while True:
            found = self._until_known(partial(driver.domain, self._router))
            if found is not None and (found.state == "running" or not begun):
                return found.host
            if time.monotonic() > deadline:
                where = f"is {found.state} on {found.host}" if found else "is nowhere"
                raise MigrationError(f"the VM does not run again: it {where}")
            time.sleep(POLL_S)

    def _until_known(self, ask: Callable[[], Answer]) -> Answer:
        """What the hypervisor answers; one that does not answer is asked again until it does, or
        the operator has enough of it.

        Raises NotKnownError then.
        """
        signals = self._interrupts.seen
        deadline = time.monotonic() + KNOWN_S
        said = False
        while True:
            try:
                return ask()
            except HypervisorError as error:
                if error.code not in hypervisor.UNKNOWN:
                    raise
                if not said:
                    said = True
                    self._report(
                        "hypervisor",
                        "note",
                        f"{error}; where the VM is, is not known: asked again until it is "
                        f"(Ctrl-C leaves that to `xenflow recover {self._router}`)",
                    )
                if self._interrupts.seen > signals or time.monotonic() > deadline:
                    raise NotKnownError(str(error)) from None
                time.sleep(KNOWN_POLL_S)
