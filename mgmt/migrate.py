"""Carrying a migration out: `run` does what was planned (`mgmt.planning`), or undoes it.

What is done in which order is `xenflow.plan.migration`; here each of its effects is one method.
The commit point is the moment the VM is let run at the destination: whatever fails before is
undone in reverse, after it there is only forward.  What is done is noted in the journal that the
controllers of both hosts keep, for `xenflow status`.  Every effect is done in the name of the
lease's owner; where somebody else has taken over, nothing more is done, not even undone.

Where the hypervisor does not answer it is not known where the VM is: it is asked again until it is
known, and the switches stay as they are meanwhile.

Called by the verbs `migrate` and `recover`.  Everything goes over the network: the controllers'
management sockets, and the hypervisor's driver.
"""

from __future__ import annotations

import os
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TypeVar

from mgmt import hypervisor, interrupts
from mgmt.client import AskError, Refused, Unreachable
from mgmt.hypervisor import HypervisorError, Job, JobState
from mgmt.interrupts import Interrupted, Interrupts
from mgmt.lease import Lease, LostError
from mgmt.planning import Plan, Step, concerned
from mgmt.result import Event, Result, in_words
from xenflow.model.network import NetworkError
from xenflow.model.placement import to_json
from xenflow.plan import effects as fx
from xenflow.plan import migration as mig
from xenflow.plan.effects import Effect

PLACE_TIMEOUT_S = 90.0
MOVE_TIMEOUT_S = 600.0
RELEASE_S = 10.0
"""How long a switch may take to confirm that what was held is sent."""
PASS_ON_S = 0.1
"""How often what is held is passed on by the controllers while a switch is late."""
RUN_TIMEOUT_S = 120.0
"""How long a VM may take to run once it is let."""
POLL_S = 0.01
RETRY_S = (0.5, 1.0, 2.0, 4.0)
"""Once the VM has moved there is no way back: what fails is tried again after these pauses."""
UNDO_S = 10.0
"""How long a switch or a controller that comes back is waited for while all is put back."""
UNDO_POLL_S = 0.25
KNOWN_S = 600.0
"""How long a hypervisor that does not answer is asked where the VM is."""
FLOWS_AT_ONCE = 2000
Answer = TypeVar("Answer")


class MigrationError(RuntimeError):
    """A step failed; the message says which and why."""


def run(
    made: Plan,
    report: Callable[[Event], None],
    confirm: Callable[[Step, bool], bool] | None = None,
) -> Result:
    """Carry a plan out.  Never raises for what fails on the way: the Result says it.

    `confirm` is asked before each stage, and whether the commit point is behind it: then what it
    answers changes nothing.  SIGINT (Ctrl-C), SIGTERM and SIGHUP before the commit point put
    everything back; after it they change nothing, since the migration must be completed; it is
    reported.  Nor does a `report` that fails.
    """
    return _Run(made, report, confirm).run()


class _FinalError(MigrationError):
    """Trying again would not help."""


class _NotKnownError(_FinalError):
    """The hypervisor does not say where the VM is."""


class _LateError(Exception):
    """A switch did not answer in the time that a suspended VM has for it."""


class _Run:
    """One migration under way."""

    def __init__(
        self,
        made: Plan,
        report: Callable[[Event], None],
        confirm: Callable[[Step, bool], bool] | None,
    ) -> None:
        self.plan = made
        self.network = made.network
        self.router = made.router.name
        self._report = report
        self.confirm = confirm
        self.result = Result(made, committed=made.recovery)
        self.started = time.monotonic()
        self.done: list[Effect] = []
        self.job: Job | None = None
        self.driver = made.driver
        self._mover: hypervisor.Hypervisor | None = None
        """Was asked to move the VM: it may, whatever it answered."""
        self._prompt_until = 0.0
        """Until when, as `now`, the suspended VM waits for switches."""
        self._late = False
        """A switch was late: the VM waits for none any more."""
        self._held_before: dict[str, dict[str, int]] = {}
        self._interrupts = Interrupts(lambda: self.result.committed, self._no_way_back)
        self.ask = self._interrupts.watched(made.ask)
        self._lease = Lease(
            self.ask,
            concerned(made.network, made.router),
            self.router,
            {"words": f"a recovery of {self.router}"}
            if made.recovery
            else {"migration": made.json(), "start": to_json(made.start)},
            journal_at=map(self._controller, (made.source, made.to)),
        )
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
        with self._interrupts.noticed():
            try:
                self._lease.__enter__()
            except AskError as error:
                # Who has it is said by any controller alike.
                locked = isinstance(error, Refused) and error.code == "locked"
                result.error = getattr(error, "message", "") if locked else str(error)
                result.refused = True
                return result
            if self.driver is not None:
                self.driver.claim = self._lease
            try:
                self._stages()
                self._count_held()
                result.ok = True
            except Interrupted:
                result.error = "interrupted"
            except LostError as error:
                result.error, result.lost = str(error), True
            except _NotKnownError as error:
                result.error, result.unknown = "the VM was let run", str(error)
            except (AskError, HypervisorError, NetworkError, MigrationError) as error:
                result.error = str(error)
            finally:
                if not result.ok and not result.committed and not result.lost:
                    self._undo()
                    if result.committed:
                        self._complete()
                problems = self._lease.give_back(unfinished=not (result.ok or result.undone))
                if not result.lost:
                    result.problems += problems
                result.interrupted = result.error == "interrupted" or (
                    self.plan.recovery and self._interrupts.seen > 0
                )
                result.total_s = self.now()
        return result

    def _complete(self) -> None:
        """The VM was found at the destination, though its move had failed or was given up: there
        is only forward."""
        said = f"its VM runs on {self.plan.to}: the migration is completed"
        self.report(Event(self.now(), "migration", "note", said))
        try:
            self._stages(only_after_commit=True)
        except LostError as error:
            self.result.lost = True
            self.result.problems.append(("the lease", str(error)))
        except (AskError, HypervisorError, NetworkError, MigrationError) as error:
            self.result.problems.append(("the rest of it", str(error)))
        else:
            self.result.ok, self.result.error = True, ""

    def _stages(self, only_after_commit: bool = False) -> None:
        steps = list(zip(self.plan.steps, self.plan.stages, strict=True))
        if only_after_commit:
            steps = steps[[stage.commits for _, stage in steps].index(True) + 1 :]
        for step, stage in steps:
            self._interrupts.check()
            if self.confirm is not None and not self._confirmed(step):
                if not self.result.committed:
                    raise Interrupted
                self._no_way_back()
            began = self.now()
            self.report(Event(began, step.name, "started"))
            try:
                for effect in stage.effects:
                    self._interrupts.check()
                    self._do(effect)
            except BaseException as error:
                self._step_over(step, began, "failed", str(error) or "interrupted")
                raise
            self._step_over(step, began, "done")

    def _confirmed(self, step: Step) -> bool:
        assert self.confirm is not None
        try:
            with self._interrupts.asking():
                return self.confirm(step, self.result.committed)
        except (KeyboardInterrupt, OSError):
            return False

    def _no_way_back(self) -> None:
        """Somebody wanted it to end, too late; a recovery cannot end anyway."""
        if self.plan.recovery:
            return
        said = f"the VM belongs to {self.plan.to}: there is no way back, it is completed"
        self.report(Event(self.now(), "migration", "note", said))

    def _step_over(self, step: Step, began: float, state: str, detail: str = "") -> None:
        now = self.now()
        self.result.steps.append(
            {"name": step.name, "state": state, "from_s": round(began, 6), "to_s": round(now, 6)}
        )
        self.report(Event(now, step.name, state, detail))

    def _do(self, effect: Effect) -> None:
        name = type(effect).__name__
        if effect.pace is (fx.Pace.PROMPT if self._late else fx.Pace.LATE):
            return
        # Noted first: what was begun may have happened, so it is undone, too.
        self.done.append(effect)
        note = {"effect": name, "words": effect.words(), "at_s": round(self.now(), 3)}
        self._lease.note(note, needed=not self.result.committed)
        began = self.now()
        try:
            self._carry_out(effect, self._fault == f"{len(self.done)}")
        finally:
            self.result.effects.append(
                {
                    "effect": name,
                    "words": effect.words(),
                    "from_s": round(began, 6),
                    "to_s": round(self.now(), 6),
                }
            )

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
            except _LateError as error:
                self._late = True
                said = f"{error}: the VM does not wait for it"
                self.report(Event(self.now(), name, "note", said))
                return
            except (AskError, HypervisorError, MigrationError) as error:
                final = isinstance(error, _FinalError | LostError)
                if not self.result.committed or pause_s is None or final:
                    raise
                self.report(Event(self.now(), name, "failed", f"{error}; once more"))
                time.sleep(pause_s)

    # --- effects ------------------------------------------------------------------------------

    @contextmanager
    def _time_for(self, effect: Effect, usual_s: float) -> Iterator[float]:
        """How long an effect may take.  Raises _LateError where a prompt one took longer."""
        if effect.pace is not fx.Pace.PROMPT:
            yield usual_s
            return
        left_s = self._prompt_until - self.now()
        if left_s <= 0:
            raise _LateError(f"the switches took {fx.PATIENCE_S:g} s")
        try:
            yield min(usual_s, left_s)
        except Unreachable as error:
            if self.now() < self._prompt_until:
                raise
            raise _LateError(str(error)) from None

    def _do_Apply(self, effect: fx.Apply) -> None:
        by_controller: dict[str, list[str]] = {}
        for name in effect.datapaths:
            by_controller.setdefault(self.network.datapaths[name].controller, []).append(name)
        if not by_controller:
            return

        def tell(item: tuple[str, list[str]]) -> None:
            with self._time_for(effect, PLACE_TIMEOUT_S) as timeout_s:
                self._lease.ask(
                    item[0],
                    "place",
                    timeout_s=timeout_s,
                    placement=to_json(effect.placement),
                    datapaths=item[1],
                    in_force=effect.proven,
                )

        late = effect.pace is fx.Pace.LATE and effect.datapaths == (self.plan.to,)
        with (
            self._passing_on() if late else nullcontext(),
            ThreadPoolExecutor(len(by_controller)) as pool,
        ):
            asked = [pool.submit(tell, item) for item in by_controller.items()]
            while wait(asked, timeout=interrupts.CHECK_S).not_done:
                pass  # a signal may have come right before this thread began to wait
            for one in asked:
                one.result()

    @contextmanager
    def _passing_on(self) -> Iterator[None]:
        """Meanwhile what the source holds for the VM goes to it by way of the controllers: its
        switch does not know it yet."""
        over = threading.Event()

        def pass_on() -> None:
            passed = {interface.link: 0 for interface in self.plan.router.interfaces}
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
        source, to = self.plan.source, self.plan.to
        held = self._lease.ask(
            self._controller(source), "read-held", router=self.router, link=link, passed=passed
        )
        if last or not held["frames"]:
            return passed
        given = self._lease.ask(
            self._controller(to),
            "write-held",
            router=self.router,
            datapath=to,
            link=link,
            frames=[b64decode(text) for text in held["frames"]],
        )
        return int(held["upto"]) if given["taken"] else passed

    def _do_Mirror(self, effect: fx.Mirror) -> None:
        source, destination = self._controller(effect.source), self._controller(effect.destination)
        if source == destination:
            return
        for one, other in ((source, destination), (destination, source)):
            to = self.network.controllers[other].manage
            self._lease.ask(one, "mirror", router=self.router, to=to, on=True)

    def _do_Unmirror(self, effect: fx.Unmirror) -> None:
        source, destination = self._controller(effect.source), self._controller(effect.destination)
        if source == destination:
            return
        for one, other in ((source, destination), (destination, source)):
            to = self.network.controllers[other].manage
            self._lease.ask(one, "mirror", router=self.router, to=to, on=False)

    def _do_CopyFlows(self, effect: fx.CopyFlows) -> None:
        source, destination = self._controller(effect.source), self._controller(effect.destination)
        read = self.ask(
            source,
            "read-flows",
            timeout_s=PLACE_TIMEOUT_S,
            router=self.router,
            datapath=effect.source,
        )
        ports = self._port_map(effect.source, effect.destination)
        flows = [b64decode(text) for text in read["flows"]]
        for start in range(0, len(flows), FLOWS_AT_ONCE):
            self._lease.ask(
                destination,
                "write-flows",
                timeout_s=PLACE_TIMEOUT_S,
                router=self.router,
                datapath=effect.destination,
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
                for row in self.ask(self._controller(host), "status")["datapaths"]
                if row["name"] == host
                for name, port in row["ports"].items()
            }
            for host in (source, destination)
        }
        found: dict[str, int] = {}
        for interface in self.plan.router.interfaces:
            tree = self.network.links[interface.link].tree
            peers = {a.end.datapath for a in self.network.links[interface.link].access}
            peers |= {r.home for r, _ in self.network.members(interface.link)}
            for peer in sorted(peers - {source, destination}):
                there = numbers[source].get(tree.toward(source, peer).port)
                here = numbers[destination].get(tree.toward(destination, peer).port)
                if there and here:
                    found.setdefault(str(there), here)
        return found

    def _do_AwaitReady(self, effect: fx.AwaitReady) -> None:
        deadline = time.monotonic() + PLACE_TIMEOUT_S
        while True:
            answer = self.ask(
                self._controller(effect.host),
                "ready",
                timeout_s=PLACE_TIMEOUT_S,
                router=self.router,
            )
            if answer["ready"]:
                return
            if answer.get("problems"):
                raise MigrationError(f"{effect.host}: {answer['problems'][0]}")
            self._interrupts.check()
            if time.monotonic() > deadline:
                raise MigrationError(f"{effect.host}: the router's routes did not get there")
            time.sleep(0.05)

    def _do_MoveVM(self, effect: fx.MoveVM) -> None:
        driver = self.driver or hypervisor.of(self.network, effect.source)
        self.result.emulated = driver.emulated
        driver.claim = self._lease
        self._held_before = self._held((effect.source, effect.destination))
        self._mover = driver
        job = self.job = driver.migrate(self.router, effect.destination)
        deadline = time.monotonic() + MOVE_TIMEOUT_S
        while job.state in (JobState.PRECOPY, JobState.SUSPENDED):
            self._interrupts.check()
            if time.monotonic() > deadline:
                raise MigrationError(f"the VM has not moved within {MOVE_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
            before, job = job, driver.job(job.id)
            self.job = job
            if job.detail and job.detail != before.detail:
                self.report(Event(self.now(), "hypervisor", "note", job.detail))
        if job.state is JobState.FAILED:
            raise MigrationError(f"the hypervisor could not move the VM: {job.detail}")

    def _do_AwaitVifs(self, effect: fx.AwaitVifs) -> None:
        answer = self.ask(
            self._controller(effect.host),
            "attached",
            timeout_s=30.0,
            router=self.router,
            datapath=effect.host,
            wait_s=10.0,
        )
        if not answer["attached"]:
            raise MigrationError(f"{effect.host}: the VM's interfaces did not appear on its switch")
        self._prompt_until = self.now() + fx.PATIENCE_S

    def _do_Release(self, effect: fx.Release) -> None:
        with self._time_for(effect, RELEASE_S) as timeout_s:
            answer = self._lease.ask(
                self._controller(effect.host),
                "release",
                timeout_s=timeout_s,
                router=self.router,
                datapath=effect.host,
                to=effect.to,
            )
        self.result.held += answer["delivered"]

    def _do_Unpause(self, effect: fx.Unpause) -> None:
        assert self._mover is not None and self.job is not None
        driver, result = self._mover, self.result
        result.committed = True  # it may be done from now on, whatever is answered
        try:
            self._until_known(partial(driver.unpause, self.router))
            job = self._once_it_runs(self.job.id)
        except LostError:
            result.committed = False  # nothing was asked: see the driver's `claim`
            raise
        except HypervisorError:
            # Refused; or it was done, and the answer to that got lost.
            found = self._until_known(partial(driver.domain, self.router))
            if found is None or found.state != "running":
                raise
            if found.host != effect.host:
                result.committed = False
                raise MigrationError(f"the VM runs on {found.host}, not on {effect.host}") from None
            return
        result.suspended_s = job.suspended_s
        result.states = [
            {"state": state, "at_s": round(at - self.started, 6)} for state, at in job.events
        ]
        if job.state is JobState.FAILED:
            result.committed = False  # it runs at the source, so all can be put back
            raise MigrationError(f"the VM could not be started on {effect.host}: {job.detail}")
        if job.state is not JobState.RUNNING:
            raise MigrationError(f"{effect.host}: the VM does not run on: {job.state.value}")
        result.left = list(job.left)

    def _once_it_runs(self, id: str) -> Job:
        """The hypervisor's job, when its VM runs or will not."""
        assert self._mover is not None
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while True:
            job = self._until_known(partial(self._mover.job, id))
            if job.state is not JobState.MOVED_PAUSED or time.monotonic() > deadline:
                return job
            time.sleep(POLL_S)

    def _until_known(self, ask: Callable[[], Answer]) -> Answer:
        """What the hypervisor answers; one that does not answer is asked again until it does, or
        the operator has enough of it.

        Raises _NotKnownError then.
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
                    self.report(
                        Event(
                            self.now(),
                            "hypervisor",
                            "note",
                            (
                                f"{error}; where the VM is, is not known: asked again until it is "
                                f"(Ctrl-C leaves that to `xenflow recover {self.router}`)"
                            ),
                        )
                    )
                if self._interrupts.seen > signals or time.monotonic() > deadline:
                    raise _NotKnownError(str(error)) from None
                time.sleep(UNDO_POLL_S)

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

    def _do_Drain(self, effect: fx.Drain) -> None:
        answer = self.ask(
            self._controller(effect.host),
            "quiet",
            timeout_s=PLACE_TIMEOUT_S,
            router=self.router,
            datapath=effect.host,
        )
        if not answer["quiet"]:
            looked = ""
            if "looks" in answer:  # not where it is of the release before
                looked = (
                    f" ({answer['last']} more at the last of {answer['looks']} looks in "
                    f"{answer['waited_s']:.0f} s)"
                )
            raise _FinalError(
                f"{effect.host}: packets for {self.router} still arrive there{looked}; "
                "its flows are left in place"
            )

    # --- putting back -------------------------------------------------------------------------

    def _undo(self) -> None:
        result = self.result
        if not self.done:
            result.undone = True
            return
        self.report(Event(self.now(), "undo", "started"))
        try:
            with self._interrupts.putting_back():
                self._put_back()
        except LostError as error:
            result.lost = True
            result.problems.append(("the lease", str(error)))
        result.undone = not (result.problems or result.unknown or result.committed)
        state = "undone" if result.undone else "failed"
        why = in_words(result.problems) or result.unknown
        if result.committed:
            why = f"the VM runs on {self.plan.to}"
        self.report(Event(self.now(), "undo", state, why))

    def _put_back(self) -> None:
        """Everything, as far as it can be; problems are noted.  Raises LostError."""
        self._lease.check()
        deadline = time.monotonic() + UNDO_S
        for effect in mig.undo_of(self.done, self.plan.start):
            self._try(effect, deadline)
            if self.result.unknown or self.result.committed:
                return  # the switches stay with the VM

    def _do_EndMove(self, effect: fx.EndMove) -> None:
        """Sees to it that it is known on which host the VM runs then, or raises _NotKnownError."""
        if self._mover is None:
            return
        try:
            host = self._end_move(self._mover)
        except (HypervisorError, MigrationError) as error:
            raise _NotKnownError(str(error)) from None
        self.result.committed = host == effect.destination

    def _end_move(self, driver: hypervisor.Hypervisor) -> str:
        """End the VM's move, and find out on which host it runs then.

        Raises MigrationError or HypervisorError where that is not known.
        """
        try:
            did = self._until_known(partial(driver.abort, self.router, own=True))
        except HypervisorError as error:
            if error.code not in ("no-migration", "too-late"):
                raise
            begun, did = error.code == "too-late" or self.job is not None, []
        else:
            begun = True
        self.result.left = [word for word in did if word.endswith(hypervisor.MAY_BE_LEFT)]
        deadline = time.monotonic() + 30.0
        while True:
            found = self._until_known(partial(driver.domain, self.router))
            if found is not None and (found.state == "running" or not begun):
                return found.host
            if time.monotonic() > deadline:
                where = f"is {found.state} on {found.host}" if found else "is nowhere"
                raise MigrationError(f"the VM does not run again: it {where}")
            time.sleep(POLL_S)

    def _try(self, effect: Effect, deadline: float) -> None:
        """Do it; a switch or a controller that is just coming back is waited for.

        Raises LostError.
        """
        signals = self._interrupts.seen
        while True:
            try:
                getattr(self, f"_do_{type(effect).__name__}")(effect)
                return
            except LostError:
                raise
            except _NotKnownError as error:
                self.result.unknown = str(error)
                return
            except Interrupted:
                self.result.problems.append((effect.words(), "interrupted"))
                return
            except (AskError, HypervisorError, NetworkError, MigrationError) as error:
                if time.monotonic() > deadline or self._interrupts.seen > signals:
                    self.result.problems.append((effect.words(), str(error)))
                    return
                time.sleep(UNDO_POLL_S)

    # --- controllers, signals -----------------------------------------------------------------

    def _controller(self, host: str) -> str:
        return self.network.datapaths[host].controller
