"""`xenflow migrate`: move a router to another host, watched step by step.

Progress goes to standard error, a line for each step with its time; the last line says what came of
it.  An interrupt (Ctrl-C) before the VM has moved puts everything back.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TextIO

from mgmt import growing, migrate
from mgmt.client import AskError
from mgmt.hypervisor import Drivers, HypervisorError
from mgmt.lease import RouterLease
from mgmt.planning import Plan
from mgmt.result import ProgressEvent, Result
from mgmt.session import ManagementSession
from mgmt.text import to_json
from mgmt.verbs import Exit, add_dry_run, add_json, answered, asked_for, complain, emit
from mgmt.verbs.plan import add_order
from xenflow.model.network import NetworkError
from xenflow.plan.migration import Stage

NAME = "migrate"
SUMMARY = "move a router to another host"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("router", metavar="ROUTER")
    parser.add_argument("host", metavar="HOST", help="where it shall go")
    add_moving(parser)
    add_dry_run(parser)
    add_json(parser)


def add_moving(parser: ArgumentParser) -> None:
    """How a router is moved, shared with `empty-host`."""
    add_order(parser)
    parser.add_argument(
        "--force", action="store_true", help="also where a session with a neighbour would fall"
    )
    parser.add_argument("--step", action="store_true", help="ask before every stage")


def run(args: Namespace, session: ManagementSession) -> int:
    session.router(args.router)
    session.destination(args.host)
    asked = {"router": args.router, "to": args.host, "mode": args.mode}
    with ExitStack() as stack:
        with _refusal_noted(args, session), asked_for(args, **asked):
            drivers = stack.enter_context(Drivers(session.network))
            made = growing.plan(session, args.router, args.host, args.mode, drivers, args.pause)
            if not (args.dry_run or args.force):
                made.refuse_falling()
            if not args.dry_run:
                near = growing.reaching(session, made, drivers)
                session, made = stack.enter_context(near)
        if args.dry_run:
            emit(args, made.json(), made.text())
            return Exit.OK
        result = carry_out(made, session, drivers, args.step)
    if args.json:
        print(to_json(result.json()))
    return Exit.OK if result.ok else Exit.INTERRUPTED if result.interrupted else Exit.FAILED


@contextmanager
def _refusal_noted(args: Namespace, session: ManagementSession) -> Iterator[None]:
    try:
        yield
    except (AskError, HypervisorError, NetworkError) as error:
        if not args.dry_run:
            words = f"{args.router} to {args.host}: {str(error).splitlines()[0]}"
            session.note("migration", words, "refused")
        raise


def carry_out(
    made: Plan,
    session: ManagementSession,
    drivers: Drivers,
    step: bool = False,
    lease: RouterLease | None = None,
) -> Result:
    """Carry a plan out, watched, and say what came of it; `step`: ask before every stage; `lease`:
    one that is held already."""
    if made.new_mode:
        complain(f"{made.router.name}: {made.new_mode}")
    for note in made.notes:
        complain(f"note: {note}")
    progress = Progress(sys.stderr, {stage.name: stage.title for stage in made.stages})
    confirm = ask_before if step else None
    result = migrate.run(made, session.ask, drivers, progress, confirm, lease)
    progress.close()
    complain(result.text())
    return result


class Progress:
    """Reports each step's beginning and end; the time of a line is that of the beginning.  On a
    terminal a step is one line that is finished when the step is; elsewhere (a log) a line is
    written at its end only."""

    def __init__(self, out: TextIO, titles: dict[str, str]) -> None:
        self._out = out
        self._titles = titles
        self._terminal = out.isatty()
        self._began: dict[str, float] = {}
        self._open = ""

    def __call__(self, event: ProgressEvent) -> None:
        title = self._titles.get(event.step, event.step)
        if event.state == "note":
            self.close()
            self._write(f"{event.time_s:9.3f}    {title}: {event.detail}\n")
            return
        if event.state == "started":
            self._began[event.step] = event.time_s
            if self._terminal:
                self.close()
                self._write(f"{event.time_s:9.3f}  {title} ... ")
                self._open = event.step
            return
        began = self._began.get(event.step, event.time_s)
        took = event.time_s - began
        ending = f"{event.state} ({took:.3f} s)"
        if event.detail:
            ending += f": {event.detail}"
        if self._open == event.step:
            self._write(f"{ending}\n")
            self._open = ""
        else:
            self.close()
            self._write(f"{began:9.3f}  {title} ... {ending}\n")

    def close(self) -> None:
        """End a line that is still open."""
        if self._open:
            self._write("\n")
            self._open = ""

    def _write(self, text: str) -> None:
        with suppress(OSError):  # nobody reads it: no reason to leave a router half way
            self._out.write(text)
            self._out.flush()


def ask_before(stage: Stage, committed: bool) -> bool:
    """Whether the operator lets a stage begin; no answer (end of input) is a no.

    Once the VM has moved there is nothing to be decided any more: it is only waited for.
    """
    print(f"\nnext: {stage.title}", file=sys.stderr)
    for effect in stage.effects:
        print(f"      {effect.words()}", file=sys.stderr)
    if committed:
        question = "the VM has moved, there is no way back: press Enter to go on "
        return answered(question, ("", "y", "yes"))
    return answered("go on? [yes/no] ", ("y", "yes"))
