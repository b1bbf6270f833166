"""Carrying a migration out: `run` does what was planned (`mgmt.planning`), or undoes it.

What is done in which order is `xenflow.plan.migration`; how each of its effects is carried out is
`mgmt.executor`.  The commit point is the moment the VM is let run at the destination: whatever
fails before is undone in reverse, after it there is only forward.  What is done is noted in the
journal that the controllers of both hosts keep, for `xenflow status`.  Where somebody else has
taken over the lease, nothing more is done, not even undone.

Called by the verbs `migrate` and `recover`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from mgmt.client import AskError, Refused, Unreachable
from mgmt.executor import Executor, FinalError, MigrationError, NotKnownError
from mgmt.hypervisor import Drivers, HypervisorError
from mgmt.interrupts import Interrupted, Interrupts
from mgmt.lease import LostError, RouterLease
from mgmt.planning import Plan
from mgmt.result import Commit, ProgressEvent, Reporter, Result, in_words
from mgmt.session import Ask
from xenflow.model.network import NetworkError
from xenflow.model.placement import to_json
from xenflow.plan.effects import PATIENCE_S, Apply, Effect, Pace
from xenflow.plan.migration import Stage, undo_of

RETRY_S = (0.5, 1.0, 2.0, 4.0)
"""Once the VM has moved there is no way back: what fails is tried again after these pauses."""
UNDO_S = 10.0
"""How long a switch or a controller that comes back is waited for while all is put back."""
UNDO_POLL_S = 0.25


def run(
    made: Plan,
    ask: Ask,
    drivers: Drivers,
    report: Callable[[ProgressEvent], None],
    confirm: Callable[[Stage, bool], bool] | None = None,
    lease: RouterLease | None = None,
) -> Result:
    """Carry a plan out.  Never raises for what fails on the way: the Result says it.

    `confirm` is asked before each stage, and whether the commit point is behind it: then what it
    answers changes nothing.  SIGINT (Ctrl-C), SIGTERM and SIGHUP before the commit point put
    everything back; after it they change nothing, since the migration must be completed; it is
    reported.  Nor does a `report` that fails.  `lease`: one that is held already, which is given
    back here.
    """
    return _Run(made, ask, drivers, report, confirm, lease).run()


class _Run:
    """One migration under way."""

    def __init__(
        self,
        made: Plan,
        ask: Ask,
        drivers: Drivers,
        report: Callable[[ProgressEvent], None],
        confirm: Callable[[Stage, bool], bool] | None,
        lease: RouterLease | None,
    ) -> None:
        self.plan = made
        self.result = Result(made, commit=Commit.DONE if made.recovery else Commit.PENDING)
        self._report = Reporter(report)
        self._confirm = confirm
        self._interrupts = Interrupts(lambda: self.result.committed, self._no_way_back)
        ask = self._interrupts.watched(ask)
        self._held = lease is not None
        self._lease = lease or RouterLease(
            ask,
            made.controllers,
            made.router.name,
            {"migration": made.json(), "start": to_json(made.start)},
            journal_at=[made.network.datapaths[h].controller for h in (made.source, made.to)],
            given=made.given,
            digests=made.digests,
        )
        self._executor = Executor(
            made, ask, self._lease, drivers, self._interrupts, self._report, self.result
        )
        self._done: list[Effect] = []
        self._late = False
        """The VM waits for no switch any more: one was late, or it runs already."""
        self._fault = os.environ.get("XENFLOW_FAULT", "")

    def run(self) -> Result:
        result = self.result
        with self._interrupts.noticed(), ExitStack() as held:
            try:
                if not self._held:
                    held.enter_context(self._lease)
            except AskError as error:
                result.error, result.refused = str(error), True
                if isinstance(error, Refused) and error.code == "locked":
                    result.error = error.message  # who has it is said by any controller alike
                return result
            interrupted = False
            try:
                self._stages(self.plan.stages)
                self._executor.count_held()
                result.ok = True
            except Interrupted:
                result.error, interrupted = "interrupted", True
            except LostError as error:
                result.error, result.lost = str(error), True
            except NotKnownError as error:
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
                result.signalled = self._interrupts.seen > 0
                noticed = self.plan.recovery and result.signalled
                result.interrupted = noticed or (interrupted and not result.ok)
                result.total_s = self._report.now()
        return result

    def _stages(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            self._interrupts.check()
            if not self._confirmed(stage):
                if not self.result.committed:
                    raise Interrupted
                self._no_way_back()
            began = self._report(stage.name, "started")
            try:
                for effect in stage.effects:
                    self._interrupts.check()
                    self._do(effect)
            except BaseException as error:
                self._stage_over(stage, began, "failed", str(error) or "interrupted")
                raise
            self._stage_over(stage, began, "done")

    def _stage_over(self, stage: Stage, began: float, state: str, detail: str = "") -> None:
        now = self._report(stage.name, state, detail)
        self.result.steps.append(
            {"name": stage.name, "state": state, "from_s": round(began, 6), "to_s": round(now, 6)}
        )

    def _confirmed(self, stage: Stage) -> bool:
        if self._confirm is None:
            return True
        try:
            with self._interrupts.asking():
                return self._confirm(stage, self.result.committed)
        except (KeyboardInterrupt, OSError):
            return False

    def _no_way_back(self) -> None:
        """Somebody wanted it to end, too late; a recovery cannot end anyway."""
        if not self.plan.recovery:
            said = f"the VM belongs to {self.plan.to}: there is no way back, it is completed"
            self._report("migration", "note", said)

    def _do(self, effect: Effect) -> None:
        """One effect, if it is its time, noted in the journal."""
        if effect.pace is (Pace.PROMPT if self._late else Pace.LATE):
            return
        # Noted first: what was begun may have happened, so it is undone, too.
        self._done.append(effect)
        about = {"effect": type(effect).__name__, "words": effect.words()}
        began = self._report.now()
        note = {**about, "at_s": round(began, 3)}
        self._lease.note(note, needed=not self.result.committed)
        began = self._report.now()
        try:
            self._until_done(effect)
        finally:
            if isinstance(effect, Apply):
                told = (n for n in effect.datapaths if n not in self._executor.not_given)
                self._done[-1] = replace(effect, datapaths=tuple(told))
            to_s = round(self._report.now(), 6)
            self.result.effects.append({**about, "from_s": round(began, 6), "to_s": to_s})

    def _until_done(self, effect: Effect) -> None:
        """Where there is no way back, what fails is tried again."""
        name = type(effect).__name__
        fault = self._fault == f"{len(self._done)}"
        for pause_s in (*RETRY_S, None):
            try:
                if fault:
                    fault = False
                    raise MigrationError(f"fault injected at effect {len(self._done)} ({name})")
                self._in_time(effect)
                return
            except (AskError, HypervisorError, MigrationError) as error:
                final = isinstance(error, FinalError | LostError)
                if not self.result.committed or pause_s is None or final:
                    raise
                self._report(name, "failed", f"{error}; once more")
                time.sleep(pause_s)

    def _in_time(self, effect: Effect) -> None:
        """While the VM is suspended it waits for a switch so long and no longer."""
        if effect.pace is not Pace.PROMPT:
            self._executor.carry_out(effect)
            return
        until = self._executor.vm_waits_until
        left_s = until - time.monotonic()
        late = f"the switches took {PATIENCE_S:g} s"
        if left_s > 0:
            try:
                self._executor.carry_out(effect, left_s)
                return
            except Unreachable as error:
                if time.monotonic() < until:
                    raise
                late = str(error)
        self._late = True
        self._report(type(effect).__name__, "note", f"{late}: the VM does not wait for it")

    # --- putting back -------------------------------------------------------------------------

    def _undo(self) -> None:
        result = self.result
        if not self._done:
            result.undone = True
            return
        self._report("undo", "started")
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
        self._report("undo", state, why)

    def _put_back(self) -> None:
        """Everything, as far as it can be; problems are noted.  Raises LostError."""
        self._lease.check()
        deadline = time.monotonic() + UNDO_S
        for effect in undo_of(self._done, self.plan.start):
            self._try(effect, deadline)
            if self.result.unknown or self.result.committed:
                return  # the switches stay with the VM

    def _try(self, effect: Effect, deadline: float) -> None:
        """Do it; a switch or a controller that is just coming back is waited for.

        Raises LostError.
        """
        signals = self._interrupts.seen
        while True:
            try:
                self._executor.carry_out(effect)
                return
            except LostError:
                raise
            except NotKnownError as error:
                self.result.unknown = str(error)
                return
            except Interrupted:
                why = "interrupted"
            except (AskError, HypervisorError, NetworkError, MigrationError) as error:
                why = str(error)
                if time.monotonic() < deadline and self._interrupts.seen == signals:
                    time.sleep(UNDO_POLL_S)
                    continue
            self._interrupts.given_up()
            self.result.problems.append((effect.words(), why))
            return

    def _complete(self) -> None:
        """The VM was found at the destination, though its move had failed or was given up: there
        is only forward."""
        said = f"its VM runs on {self.plan.to}: the migration is completed"
        self._report("migration", "note", said)
        self._late = True  # what was to be done before the VM ran may be left out so far
        commit = [stage.commits for stage in self.plan.stages].index(True)
        try:
            self._stages(self.plan.stages[commit + 1 :])
            self._executor.count_held()
        except LostError as error:
            self.result.lost = True
            self.result.problems.append(("the lease", str(error)))
        except (AskError, HypervisorError, NetworkError, MigrationError) as error:
            self.result.problems.append(("the rest of it", str(error)))
        else:
            self.result.ok, self.result.error = True, ""
