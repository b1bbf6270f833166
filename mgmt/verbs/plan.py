"""`xenflow plan`: what a migration would do, step by step; nothing is changed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mgmt import growing
from mgmt.hypervisor import Drivers
from mgmt.planning import PAUSE_S
from mgmt.session import ManagementSession
from mgmt.verbs import Exit, add_json, asked_for, emit, seconds
from xenflow.plan.migration import Order

NAME = "plan"
SUMMARY = "the steps of a migration, or why it cannot be done; changes nothing"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("router", metavar="ROUTER")
    parser.add_argument("host", metavar="HOST", help="where it shall go")
    add_order(parser)
    add_json(parser)


def add_order(parser: ArgumentParser) -> None:
    """In which order a router is moved, and for how long its VM is suspended; shared with
    `migrate`."""
    parser.add_argument(
        "--mode",
        choices=[order.value for order in Order],
        default=Order.OVERLAPPED.value,
        help="overlapped (default): both hosts forward while the VM moves; report: strictly "
        "control plane, data plane, links; native: the VM forwards, behind bridges (a baseline)",
    )
    parser.add_argument(
        "--pause",
        metavar="SECONDS",
        type=seconds,
        default=PAUSE_S,
        help="how long the VM is expected to be suspended (default: %(default)g): which of its "
        "sessions with neighbours fall in it (BFD, BGP)",
    )


def run(args: Namespace, session: ManagementSession) -> int:
    session.router(args.router)
    session.destination(args.host)
    with (
        asked_for(args, router=args.router, to=args.host, mode=args.mode),
        Drivers(session.network) as drivers,
    ):
        made = growing.plan(session, args.router, args.host, args.mode, drivers, args.pause)
    emit(args, made.json(), made.text())
    return Exit.OK
