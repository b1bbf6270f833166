"""`xenflow mode`: who forwards a router's packets: the switches, or the VM itself.

Every switch that the router's links can lie on is told in turn; each proves the change in force
before the next begins.  If one fails, those told already keep the new mode and running the verb
again goes on from there.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mgmt.client import AskError
from mgmt.lease import RouterLease
from mgmt.session import ManagementSession, given
from mgmt.verbs import Exit, add_dry_run, add_json, complain, emit
from xenflow.model.network import NetworkError
from xenflow.model.placement import Mode, to_json
from xenflow.plan.migration import reachable

NAME = "mode"
SUMMARY = "let the switches (xenflow) or the VM itself (native) forward for a router"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("router", metavar="ROUTER")
    parser.add_argument("mode", choices=[mode.value for mode in Mode])
    add_dry_run(parser)
    add_json(parser)


def run(args: Namespace, session: ManagementSession) -> int:
    router, mode = session.router(args.router), Mode(args.mode)
    found = session.whereabouts(router.name)
    now = found.placement
    if found.silent:
        raise next(iter(found.silent.values()))
    if len(now.hosts) > 1:
        raise NetworkError(
            f"{router.name} is between {' and '.join(now.hosts)}: finish its migration first "
            "(`xenflow status`, `xenflow recover`)"
        )
    # The newest placement may not have reached everyone: the same mode is told again.
    wanted = now.step(mode=mode)
    controllers = list(
        dict.fromkeys(
            session.network.datapaths[name].controller
            for name in reachable(session.network, router)
        )
    )
    value = {"placement": to_json(wanted), "controllers": controllers}
    if args.dry_run:
        told = ", ".join(controllers)
        emit(args, value, f"would tell {told}: {router.name} on {now.vm}, mode {mode.value}")
        return Exit.OK
    entry = {"words": f"a change of {router.name}'s mode to {mode.value}"}
    had = given(found.answers, router.name)
    with RouterLease(session.ask, controllers, router.name, entry, given=had) as lease:
        for number, controller in enumerate(controllers):
            try:
                lease.ask(
                    controller, "place", timeout_s=max(30.0, session.timeout_s), placement=wanted
                )
            except AskError:
                done = ", ".join(controllers[:number]) or "none"
                complain(f"told before the failure: {done}; run the same again to go on")
                raise
        for what, reason in lease.give_back():
            complain(f"{what}: {reason}; the lease on {router.name} ends by itself")
    emit(args, value, f"{router.name}: {mode.value}")
    return Exit.OK
