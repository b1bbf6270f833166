"""Carrying a migration out: `run` does what was planned (`mgmt.planning`), or undoes it.

What is done in which order is `xenflow.pure.migration`; here each of its effects is one method.
The commit point is the moment the VM is let run at the destination: whatever fails before is
undone in reverse, after it there is only forward.  What is done is noted in the journal that the
controllers of both hosts keep, so that `xenflow recover` has something to look at.

Called by the verbs `migrate` and `recover`.  Everything goes over the network: the controllers'
management sockets, and the hypervisor's driver.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mgmt import hypervisor
from mgmt.client import AskError
from mgmt.hypervisor import HypervisorError, Job, JobState
from mgmt.lease import Lease, Problem
from mgmt.planning import Plan, Step, give_up, words
from xenflow.pure import migration as mig
from xenflow.pure.migration import Effect
from xenflow.pure.network import NetworkError
from xenflow.pure.placement import to_json

PLACE_TIMEOUT_S = 90.0
MOVE_TIMEOUT_S = 600.0
RUN_TIMEOUT_S = 120.0
"""How long a VM may take to run once it is let."""
POLL_S = 0.01
RETRY_S = (0.5, 1.0, 2.0, 4.0)
"""Once the VM has moved there is no way back: what fails is tried again after these pauses."""
FLOWS_AT_ONCE = 2000
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a kill, a terminal that has gone."""


class MigrationError(RuntimeError):
    """A step failed; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Event:
    """Progress: `time_s` since the beginning; state is started, done, failed or undone, or note
    for the hypervisor's words on how far it is."""

    time_s: float
    step: str
    state: str
    detail: str = ""


def in_words(problems: Iterable[Problem]) -> str:
    """What could not be done, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for what, reason in problems:
        by_reason.setdefault(reason, []).append(what)
    return "; ".join(f"{'; '.join(whats)}: {reason}" for reason, whats in by_reason.items())


@dataclass(slots=True)
class Result:
    """What came of it."""

    plan: Plan
    ok: bool = False
    committed: bool = False
    interrupted: bool = False
    undone: bool = False
    refused: bool = False
    """Nothing was begun: somebody else holds the lease, or it could not be taken."""
    error: str = ""
    total_s: float = 0.0
    steps: list[dict[str, Any]] = field(default_factory=list)
    effects: list[dict[str, Any]] = field(default_factory=list)
    suspended_s: float | None = None
    states: list[dict[str, Any]] = field(default_factory=list)
    """The hypervisor's, each {state, at_s}: seconds since the migration began."""
    held: int = 0
    repeated: int = 0
    dropped: int = 0
    emulated: bool = False
    problems: list[Problem] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """Copies of the VM that are, or may be, on other hosts still."""

    def text(self) -> str:
        """One line for people."""
        name = self.plan.router.name
        left = f"; {', '.join(self.left)}: run `xenflow recover {name}`" if self.left else ""
        if self.refused:
            return f"{name}: {self.error}; nothing was changed"
        if self.ok:
            pause = f", VM suspended for {self.suspended_s:.3f} s" if self.suspended_s else ""
            pause += " (emulated)" if self.emulated and pause else ""
            return f"{name} is on {self.plan.to}: {self.total_s:.3f} s{pause}{left}"
        if self.undone:
            source = self.plan.source
            return f"{name} stays on {source}: {self.error}; everything was put back{left}"
        where = f"its VM belongs to {self.plan.to}" if self.committed else "its VM did not move"
        more = f" ({in_words(self.problems)})" if self.problems else ""
        return (
            f"{name}: {self.error}; {where}, but switches could not all be told{more}: "
            f"run `xenflow recover {name}`"
        )

    def json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "router": self.plan.router.name,
            "from": self.plan.source,
            "to": self.plan.to,
            "mode": self.plan.order.value,
            "ok": self.ok,
            "committed": self.committed,
            "interrupted": self.interrupted,
            "undone": self.undone,
            "error": self.error,
            "problems": [f"{what}: {reason}" for what, reason in self.problems],
            "left": self.left,
            "total_s": round(self.total_s, 6),
            "suspended_s": self.suspended_s,
            "suspension_emulated": self.emulated,
            "hypervisor_states": self.states,
            "held": self.held,
            "repeated": self.repeated,
            "dropped": self.dropped,
            "steps": self.steps,
            "effects": self.effects,
        }


def run(
    made: Plan,
    report: Callable[[Event], None],
    confirm: Callable[[Step], bool] | None = None,
) -> Result:
    """Carry a plan out.  Never raises for what fails on the way: the Result says it.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP before the commit point put everything back; after it they
    change nothing, since the migration must be completed.  Nor does a `report` that fails.
    """
    return _Run(made, report, confirm).run()


class _FinalError(MigrationError):
    """Trying again would not help."""


class _Interrupted(Exception):
    """The operator wants it to end."""


class _Run:
    """One migration under way."""

    def __init__(
        self, made: Plan, report: Callable[[Event], None], confirm: Callable[[Step], bool] | None
    ) -> None:
        self.plan = made
        self.network = made.network
        self.router = made.router.name
        self.ask = made.ask
        self._report = report
        self.confirm = confirm
        self.result = Result(made, committed=made.recovery)
        self.started = time.monotonic()
        self.done: list[Effect] = []
        self.job: Job | None = None
        self.driver = made.driver
        self._held_before: dict[str, dict[str, int]] = {}
        self._signal = 0
        self._at_prompt = False
        self._lease = Lease(
            made.ask, map(self._controller, (made.source, made.to)), self.router,
            {"migration": made.json(), "start": to_json(made.start)},
        )  # fmt: skip
        self._fault = os.environ.get("XENFLOW_FAULT", "")

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.started

    def report(self, event: Event) -> None:
        """Say how far it is; who listened may have gone, which is no reason to stop half way."""
        with suppress(OSError, ValueError):
            self._report(event)

    def run(self) -> Result:
        result = self.result
        with self._signals():
            try:
                self._lease.__enter__()
            except AskError as error:
                result.error, result.refused = str(error), True
                return result
            try:
                self._stages()
                self._count_held()
                result.ok = True
            except _Interrupted:
                result.error = "interrupted"
            except (AskError, HypervisorError, NetworkError, MigrationError) as error:
                result.error = str(error)
            finally:
                if not result.ok and not result.committed:
                    self._undo()
                result.problems += self._lease.give_back()
                result.interrupted = result.error == "interrupted" or (
                    self.plan.recovery and bool(self._signal)
                )
                result.total_s = self.now()
        return result

    def _stages(self) -> None:
        for step, stage in zip(self.plan.steps, self.plan.stages, strict=True):
            self._check_interrupt()
            if self.confirm is not None and not self._confirmed(step):
                raise _Interrupted
            began = self.now()
            self.report(Event(began, step.name, "started"))
            try:
                for effect in stage.effects:
                    self._check_interrupt()
                    self._do(effect)
            except BaseException as error:
                self._step_over(step, began, "failed", str(error) or "interrupted")
                raise
            self._step_over(step, began, "done")

    def _confirmed(self, step: Step) -> bool:
        assert self.confirm is not None
        self._at_prompt = True
        try:
            return self.confirm(step) or self.result.committed
        except (KeyboardInterrupt, OSError):
            return self.result.committed
        finally:
            self._at_prompt = False

    def _step_over(self, step: Step, began: float, state: str, detail: str = "") -> None:
        now = self.now()
        self.result.steps.append(
            {"name": step.name, "state": state, "from_s": round(began, 6), "to_s": round(now, 6)}
        )
        self.report(Event(now, step.name, state, detail))

    def _do(self, effect: Effect) -> None:
        name = type(effect).__name__
        # Noted first: what was begun may have happened, so it is undone, too.
        self.done.append(effect)
        note = {"effect": name, "words": words(effect), "at_s": round(self.now(), 3)}
        self._lease.note(note, needed=not self.result.committed)
        began = self.now()
        try:
            self._carry_out(effect, self._fault == f"{len(self.done)}")
        finally:
            self.result.effects.append(
                {"effect": name, "words": words(effect), "from_s": round(began, 6),
                 "to_s": round(self.now(), 6)}
            )  # fmt: skip

    def _carry_out(self, effect: Effect, fault: bool) -> None:
        """One effect; with `fault` it fails the first time."""
        name = type(effect).__name__
        for pause_s in (*RETRY_S, None):
            try:
                if fault:
                    fault = False
                    raise MigrationError(f"fault injected at effect {len(self.done)} ({name})")
                getattr(self, f"_do_{name}")(effect)
                return
            except (AskError, HypervisorError, MigrationError) as error:
                if not self.result.committed or pause_s is None or isinstance(error, _FinalError):
                    raise
                self.report(Event(self.now(), name, "failed", f"{error}; once more"))
                time.sleep(pause_s)

    # --- effects ------------------------------------------------------------------------------

    def _do_Apply(self, effect: mig.Apply) -> None:
        by_controller: dict[str, list[str]] = {}
        for name in effect.datapaths:
            by_controller.setdefault(self.network.datapaths[name].controller, []).append(name)
        if not by_controller:
            return

        def tell(item: tuple[str, list[str]]) -> None:
            self.ask(
                item[0], "place", timeout_s=PLACE_TIMEOUT_S, placement=to_json(effect.placement),
                datapaths=item[1], in_force=effect.proven,
            )  # fmt: skip

        with ThreadPoolExecutor(len(by_controller)) as pool:
            list(pool.map(tell, by_controller.items()))

    def _do_Mirror(self, effect: mig.Mirror) -> None:
        source, destination = self._controller(effect.source), self._controller(effect.destination)
        if source == destination:
            return
        for one, other in ((source, destination), (destination, source)):
            to = self.network.controllers[other].manage
            self.ask(one, "mirror", router=self.router, to=to, on=True)

    def _do_Unmirror(self, effect: mig.Unmirror) -> None:
        source, destination = self._controller(effect.source), self._controller(effect.destination)
        if source == destination:
            return
        for one, other in ((source, destination), (destination, source)):
            to = self.network.controllers[other].manage
            self.ask(one, "mirror", router=self.router, to=to, on=False)

    def _do_CopyFlows(self, effect: mig.CopyFlows) -> None:
        source, destination = self._controller(effect.source), self._controller(effect.destination)
        read = self.ask(
            source, "read-flows", timeout_s=PLACE_TIMEOUT_S,
            router=self.router, datapath=effect.source,
        )  # fmt: skip
        ports = self._port_map(effect.source, effect.destination)
        flows = [b64decode(text) for text in read["flows"]]
        for start in range(0, len(flows), FLOWS_AT_ONCE):
            self.ask(
                destination, "write-flows", timeout_s=PLACE_TIMEOUT_S, router=self.router,
                datapath=effect.destination, flows=flows[start : start + FLOWS_AT_ONCE],
                ports=ports,
            )  # fmt: skip

    def _port_map(self, source: str, destination: str) -> dict[str, int]:
        """Ports of the source, by number, to the ports of the destination that lead the same way.

        The report's correspondence of in- and out-ports: two ports correspond when they lead to
        the same neighbour on the same virtual link.
        """
        numbers = {
            host: {
                name: port["number"]
                for row in self.ask(self._controller(host), "status")["datapaths"]
                if row["name"] == host
                for name, port in row["ports"].items()
            }
            for host in (source, destination)
        }
        found: dict[str, int] = {}
        for interface in self.plan.router.interfaces:
            tree = self.network.trees[interface.link]
            peers = {a.end.datapath for a in self.network.links[interface.link].access}
            peers |= {r.home for r, _ in self.network.members(interface.link)}
            for peer in sorted(peers - {source, destination}):
                there = numbers[source].get(tree.toward(source, peer).port)
                here = numbers[destination].get(tree.toward(destination, peer).port)
                if there and here:
                    found.setdefault(str(there), here)
        return found

    def _do_AwaitReady(self, effect: mig.AwaitReady) -> None:
        deadline = time.monotonic() + PLACE_TIMEOUT_S
        while True:
            answer = self.ask(
                self._controller(effect.host), "ready", timeout_s=PLACE_TIMEOUT_S,
                router=self.router,
            )  # fmt: skip
            if answer["ready"]:
                return
            self._check_interrupt()
            if time.monotonic() > deadline:
                raise MigrationError(f"{effect.host}: the router's routes did not get there")
            time.sleep(0.05)

    def _do_MoveVM(self, effect: mig.MoveVM) -> None:
        driver = self.driver = self.driver or hypervisor.of(self.network, effect.source)
        self.result.emulated = driver.emulated
        self._held_before = self._held((effect.source, effect.destination))
        job = self.job = driver.migrate(self.router, effect.destination)
        deadline = time.monotonic() + MOVE_TIMEOUT_S
        while job.state in (JobState.PRECOPY, JobState.SUSPENDED):
            self._check_interrupt()
            if time.monotonic() > deadline:
                raise MigrationError(f"the VM has not moved within {MOVE_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
            before, job = job, driver.job(job.id)
            self.job = job
            if job.detail and job.detail != before.detail:
                self.report(Event(self.now(), "hypervisor", "note", job.detail))
        if job.state is JobState.FAILED:
            raise MigrationError(f"the hypervisor could not move the VM: {job.detail}")

    def _do_AwaitVifs(self, effect: mig.AwaitVifs) -> None:
        answer = self.ask(
            self._controller(effect.host), "attached", timeout_s=30.0,
            router=self.router, datapath=effect.host, wait_s=10.0,
        )  # fmt: skip
        if not answer["attached"]:
            raise MigrationError(f"{effect.host}: the VM's interfaces did not appear on its switch")

    def _do_Release(self, effect: mig.Release) -> None:
        answer = self.ask(
            self._controller(effect.host), "release",
            router=self.router, datapath=effect.host, to=effect.to,
        )  # fmt: skip
        self.result.held += answer["delivered"]

    def _do_Unpause(self, effect: mig.Unpause) -> None:
        assert self.driver is not None and self.job is not None
        self.result.committed = True
        self.driver.unpause(self.router)
        deadline = time.monotonic() + RUN_TIMEOUT_S
        job = self.driver.job(self.job.id)
        while job.state is JobState.MOVED_PAUSED and time.monotonic() < deadline:
            time.sleep(POLL_S)
            job = self.driver.job(self.job.id)
        self.result.suspended_s = job.suspended_s
        self.result.states = [
            {"state": state, "at_s": round(at - self.started, 6)} for state, at in job.events
        ]
        if job.state is JobState.FAILED:
            self.result.committed = False  # it runs at the source, so all can be put back
            raise MigrationError(f"the VM could not be started on {effect.host}: {job.detail}")
        if job.state is not JobState.RUNNING:
            raise MigrationError(f"{effect.host}: the VM does not run on: {job.state.value}")
        self.result.left = list(job.left)

    def _held(self, hosts: Iterable[str]) -> dict[str, dict[str, int]]:
        """Each host's counters of packets for the router; without those that do not answer."""
        found = {}
        for host in hosts:
            with suppress(AskError):
                rows = self.ask(self._controller(host), "routers")["routers"]
                for row in rows:
                    if row["name"] == self.router:
                        found[host] = row["held"]
        return found

    def _count_held(self) -> None:
        """What was held while the VM was suspended: at the source, and most of that once more where
        it was sent, at the destination."""
        result, before = self.result, self._held_before
        for host, now in self._held(before).items():
            result.held = max(result.held, now["held"] - before[host]["held"])
            result.repeated += now["repeated"] - before[host]["repeated"]
            result.dropped = max(result.dropped, now["dropped"] - before[host]["dropped"])

    def _do_Drain(self, effect: mig.Drain) -> None:
        answer = self.ask(
            self._controller(effect.host), "quiet", timeout_s=PLACE_TIMEOUT_S,
            router=self.router, datapath=effect.host,
        )  # fmt: skip
        if not answer["quiet"]:
            raise _FinalError(
                f"{effect.host}: packets for {self.router} still arrive there; "
                "its flows are left in place"
            )

    # --- putting back -------------------------------------------------------------------------

    def _undo(self) -> None:
        result = self.result
        if not self.done:
            result.undone = True
            return
        self.report(Event(self.now(), "undo", "started"))
        if self.driver is not None and self.job is not None:
            self._try("hypervisor", self._abort_move)
            if result.committed:  # the switches stay with the VM
                self.report(Event(self.now(), "undo", "failed", f"the VM runs on {self.plan.to}"))
                return
        for effect in mig.undo_of(self.done, self.plan.start):
            undo = partial(getattr(self, f"_do_{type(effect).__name__}"), effect)
            self._try(words(effect), undo)
        result.undone = not result.problems
        state = "undone" if result.undone else "failed"
        self.report(Event(self.now(), "undo", state, in_words(result.problems)))

    def _abort_move(self) -> None:
        assert self.driver is not None and self.job is not None
        self.result.left = [word for word in give_up(self.driver, self.router)
                            if word.endswith(hypervisor.MAY_BE_LEFT)]  # fmt: skip
        deadline = time.monotonic() + 30.0
        while time.monotonic() < deadline:
            found = self.driver.domain(self.router)
            if found is not None and found.state == "running":
                self.result.committed = found.host == self.plan.to
                return
            time.sleep(POLL_S)
        raise MigrationError("the VM does not run again")

    def _try(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except (AskError, HypervisorError, NetworkError, MigrationError) as error:
            self.result.problems.append((what, str(error)))

    # --- controllers, signals -----------------------------------------------------------------

    def _controller(self, host: str) -> str:
        return self.network.datapaths[host].controller

    def _check_interrupt(self) -> None:
        if self._signal and not self.result.committed:
            raise _Interrupted

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def note(number: int, frame: object) -> None:
            self._signal = number
            if self._at_prompt:
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, note) for n in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
