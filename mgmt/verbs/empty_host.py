"""`xenflow empty-host`: move every router away from a host before maintenance, one by one.

What was left half way there is recovered first.  A router goes to the host of --to, else to the
first for which there is a plan; one that cannot be moved is named, and the others are moved all
the same.  An interrupt (Ctrl-C), or a *no* at --step, ends it with the router that it is at.

The host is empty when no VM is there, its switch forwards for no router and no link leads to it, by
what every controller says at the end, and when its hypervisor has nothing of a router's VM.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from mgmt import growing
from mgmt.client import AskError, parted
from mgmt.hypervisor import Drivers, HypervisorError
from mgmt.session import ManagementSession, UsageError, placements
from mgmt.text import to_json
from mgmt.verbs import Exit, add_dry_run, add_json, asked_for, complain, recover
from mgmt.verbs.migrate import add_moving, carry_out
from mgmt.verbs.routers import needed_by_each
from xenflow.model.network import NetworkError

COPY_GOES_S = 20.0
"""How long the copy that a move leaves at its source may take to go."""
NAME = "empty-host"
SUMMARY = "move every router away from a host, before maintenance"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("host", metavar="HOST", help="the host to be emptied")
    parser.add_argument(
        "--to",
        metavar="HOST",
        help="where they shall go (default: the first for which there is a plan)",
    )
    add_moving(parser)
    add_dry_run(parser)
    add_json(parser)


@dataclass(slots=True)
class _Account:
    """What was done.  `moved`: results, with --dry-run plans; `stuck`: routers that did not go."""

    moved: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    interrupted: bool = False

    def refuse(self, router: str, to: str, error: Exception) -> None:
        """Note, and say, why a router does not go somewhere."""
        complain(error)
        self.refused.append({"router": router, "to": to, "error": str(error)})


def run(args: Namespace, session: ManagementSession) -> int:
    session.host(args.host)
    if args.to is not None:
        session.destination(args.to)
    if args.to == args.host:
        raise UsageError(f"--to {args.to}: that is the host to be emptied; name another")
    with asked_for(args, host=args.host):
        needing = _needing(session, args.host)
    recovered, cleared, worst = recover.finish(args, session, needing)
    done = _Account(interrupted=worst is Exit.INTERRUPTED)
    here = _unless_silent(_with_vm_at, session, args.host)
    if args.dry_run and here is not None:  # a VM is where its recovery would find it
        there = dict.fromkeys(here, args.host) | {p["router"]: p["to"] for p in recovered}
        here = [name for name in session.network.routers if there.get(name) == args.host]
    for router in here or ():
        if not done.interrupted and not _moves(args, session, router, done):
            done.stuck.append(router)
    left = None if here is None else done.stuck
    copies: list[str] | None = []
    if not args.dry_run:  # what was done is one thing, what is there another
        left = _unless_silent(_needing, session, args.host)
        copies = _unless_silent(_copies, session, args.host) if left == [] else []
    if left is None or copies is None:
        complain(f"what is left on {args.host} is not known")
    elif left:
        complain(f"left on {args.host}: {', '.join(left)}")
    elif copies:
        found = ", ".join(copies)
        complain(f"left on {args.host}, by its hypervisor: {found}: run `xenflow recover`")
    else:
        complain(f"{args.host} {'could be emptied' if args.dry_run else 'is empty'}")
    if args.json:
        value = {
            "host": args.host,
            "empty": left == copies == [],
            "left": left,
            "copies": copies,
            "recovered": recovered,
            "hypervisor": cleared,
            "moved": done.moved,
            "refused": done.refused,
        }
        print(to_json(value))
    if done.interrupted:
        return Exit.INTERRUPTED
    return Exit.OK if left == copies == [] else Exit.FAILED


def _moves(args: Namespace, session: ManagementSession, router: str, done: _Account) -> bool:
    """Move a router to the first host for which there is a plan; whether it went, or would go."""
    for host in [args.to] if args.to else session.network.hosts:
        if host == args.host or session.network.datapaths[host].maintenance:
            continue
        with ExitStack() as stack:
            try:
                drivers = stack.enter_context(Drivers(session.network))
                made = growing.plan(session, router, host, args.mode, drivers, args.pause)
            except (AskError, HypervisorError, NetworkError) as error:
                done.refuse(router, host, error)
                continue
            if args.dry_run:
                done.moved.append(made.json())
                if not args.json:
                    print(made.text())
            try:
                if not args.force:
                    made.refuse_falling()
            except NetworkError as error:
                done.refuse(router, host, error)
                return False
            if args.dry_run:
                return True
            try:
                near, made = stack.enter_context(growing.reaching(session, made, drivers))
            except (AskError, HypervisorError, NetworkError) as error:
                done.refuse(router, host, error)
                continue
            result = carry_out(made, near, drivers, args.step)
        done.moved.append(result.json())
        done.interrupted = result.interrupted
        return result.ok
    return False


def _status(session: ManagementSession) -> dict[str, dict[str, Any]]:
    """What every controller says: a router that only a silent one knows would be missed.

    Raises AskError unless all of them answer.
    """
    answered, silent = parted(session.ask_all("status"))
    errors = list(silent.values())
    for error in errors[1:]:
        complain(error)
    if errors:
        raise errors[0]
    return answered


def _needing(session: ManagementSession, host: str) -> list[str]:
    """The routers that need a host.  Raises AskError."""
    found = needed_by_each(session.network, {**_status(session)})
    return [name for name, hosts in found.items() if host in hosts]


def _with_vm_at(session: ManagementSession, host: str) -> list[str]:
    """The routers whose VM is on a host.  Raises AskError."""
    places = placements({**_status(session)})
    return [n for n in session.network.routers if n in places and places[n].vm == host]


def _copies(session: ManagementSession, host: str) -> list[str]:
    """What a host's hypervisor has of routers' VMs.  What a move leaves there goes a moment later.
    Raises HypervisorError, and NetworkError where its driver cannot be used."""
    if not session.network.datapaths[host].hypervisor:
        return []
    deadline = time.monotonic() + COPY_GOES_S
    with Drivers(session.network) as drivers:
        driver = drivers.of(host)
        while found := driver.copies(host, session.network.routers):
            if time.monotonic() > deadline:
                break
            time.sleep(0.5)
        return found


def _unless_silent(
    look: Callable[[ManagementSession, str], list[str]], session: ManagementSession, host: str
) -> list[str] | None:
    """What is seen, or None, which is said, where a controller or hypervisor does not answer."""
    try:
        return look(session, host)
    except (AskError, HypervisorError, NetworkError) as error:
        complain(error)
        return None
