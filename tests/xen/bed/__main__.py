"""The command `python -m tests.xen.bed`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

from lab.namespace import LabError
from tests.xen.bed import bed
from tests.xen.bed.dom0 import ENVIRONMENT, SSH
from xenflow.model.network import NetworkError

TOPOLOGY = "xen"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _up(args: argparse.Namespace) -> int:
    bed.up(args.topology, _say, keep=args.keep)
    for name, value in ENVIRONMENT.items():
        print(f"export {name}='{value}'")
    return 0


def _down(args: argparse.Namespace) -> int:
    bed.down(_say)
    return 0


def _build(args: argparse.Namespace) -> int:
    bed.prepare(_say)
    return 0


def _sh(args: argparse.Namespace) -> int:
    hosts = bed.current().hosts
    if args.host not in hosts:
        raise LabError(f"{args.host}: no such host; hosts: {', '.join(hosts)}")
    one = hosts[args.host]
    return subprocess.run([*SSH, one.address, *args.command]).returncode


def _status(args: argparse.Namespace) -> int:
    for name, one in bed.current().hosts.items():
        print(f"{name} ({one.address})\n{one.ask('xl list')}{one.ask('ovs-vsctl show')}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.xen.bed",
        description="Two genuine Xen hosts under QEMU, joined to a lab.",
        epilog="run it inside scripts/isolated, or nothing keeps it apart from another lab",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("up", help="bring a network up whose hosts are Xen's")
    one.add_argument("topology", nargs="?", default=TOPOLOGY, help="default: %(default)s")
    one.add_argument("--keep", action="store_true", help="leave it when it does not come up")
    one.set_defaults(act=_up)
    verbs.add_parser("down", help="end it").set_defaults(act=_down)
    verbs.add_parser("build", help="make what is booted, and no more").set_defaults(act=_build)
    verbs.add_parser("status", help="domains and switches").set_defaults(act=_status)
    one = verbs.add_parser("sh", help="a command, or a shell, in a Domain 0")
    one.add_argument("host")
    one.add_argument("command", nargs=argparse.REMAINDER)
    one.set_defaults(act=_sh)
    args = parser.parse_args(argv)
    try:
        status: int = args.act(args)
    except NetworkError as error:
        print(f"tests.xen.bed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
