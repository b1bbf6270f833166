"""`xenflow recover`: finish or undo migrations whose management entity was lost.

What is believed is what is observed (where the VM really runs, which flows are really there); the
journal only says that there is something to look at.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from mgmt import planning
from mgmt.client import AskError, Unreachable
from mgmt.hypervisor import Drivers, HypervisorError
from mgmt.planning import SilentError
from mgmt.session import Ask, ManagementSession
from mgmt.text import to_json
from mgmt.verbs import Exit, add_dry_run, add_json, complain, emit
from mgmt.verbs.migrate import carry_out
from xenflow.model.network import NetworkError

NAME = "recover"
SUMMARY = "finish or undo migrations that were interrupted"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("router", metavar="ROUTER", nargs="?", help="default: every router")
    add_dry_run(parser)
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    routers = session.network.routers.values()
    asked = [session.router(args.router)] if args.router else [r for r in routers if r.running]
    names = [router.name for router in asked]
    results, cleared, worst = finish(args, session, names)
    if args.json:
        print(to_json({"recovered": results, "hypervisor": cleared}))
    elif not results and not cleared and worst is Exit.OK:
        emit(args, None, "nothing to recover")
    return worst


def finish(
    args: Namespace, session: ManagementSession, names: Sequence[str]
) -> tuple[list[dict[str, Any]], list[str], Exit]:
    """Recover these routers, each whatever becomes of the others; shared with `empty-host`.

    `args` has `dry_run` and `json`.  Returns the results (with `dry_run` the plans), what the
    hypervisor had left, in words, and the worst that came of it.
    """
    results: list[dict[str, Any]] = []
    cleared: list[str] = []
    ask = _waiting_once(session.ask)

    def say(words: str) -> None:
        cleared.append(words)
        complain(words)

    worst = Exit.OK
    for name in names:
        try:
            if args.dry_run:
                plan = planning.plan_recovery(session.network, name, ask)
                if plan is not None:
                    results.append(plan.json())
                    if not args.json:
                        print(plan.text())
                continue
            with planning.recovering(session.network, name, ask, say) as begun:
                if begun is None:
                    continue
                made, lease = begun
                with Drivers(session.network) as drivers:
                    result = carry_out(made, session, drivers, lease=lease)
        except (AskError, HypervisorError, NetworkError) as error:
            complain(error)
            silent = isinstance(error, (SilentError, Unreachable))
            worst = max(worst, Exit.UNREACHABLE if silent else Exit.FAILED)
            continue
        results.append(result.json())
        if result.interrupted:
            worst = Exit.INTERRUPTED
            break
        if not result.ok:
            worst = max(worst, Exit.FAILED)
    return results, cleared, worst


def _waiting_once(ask: Ask) -> Ask:
    """The same, but a controller that did not say its `status` is not waited for again."""
    silent: dict[str, Unreachable] = {}

    def asked(
        controller: str, verb: str, /, timeout_s: float | None = None, **arguments: Any
    ) -> dict[str, Any]:
        if verb == "status" and controller in silent:
            raise silent[controller]
        try:
            return ask(controller, verb, timeout_s, **arguments)
        except Unreachable as error:
            if verb == "status":
                silent[controller] = error
            raise

    return asked
