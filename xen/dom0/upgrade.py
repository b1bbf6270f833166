"""Brings every host of a network to the release that this folder has: `scripts/upgrade-dom0`.

One host after the other: `install-dom0` is run there by ssh, from a copy of this folder, and before
the next one all must be well again, by `xenflow status`.  Members of a store come first, because
the first of them gives it this release's tables, which controllers of this release need and those
of the release before do without.  Switches forward meanwhile, and no route is written again.

`order` and `commands` are pure.  Nothing is undone where it stops: hosts of two releases, one after
the other, run beside each other.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from xen.dom0.host import NETWORK_FILE
from xenflow.model import hypervisor_spec
from xenflow.model.hypervisor_spec import XlSpec
from xenflow.model.network import DatapathKind, Network, NetworkError
from xenflow.store.network_file import load

ROOT = Path(__file__).resolve().parents[2]
WELL_S = 180.0
"""How long a host may take until all is well again: its routers have to be heard."""
_LEFT_OUT = (".git", ".venv", ".cache", ".mypy_cache", ".ruff_cache", "out", "__pycache__")
_THERE = (
    'd=$(mktemp -d /var/tmp/xenflow-XXXXXX) && tar -xzf - -C "$d" && "$d/scripts/install-dom0"; '
    's=$?; rm -rf "$d"; exit $s'
)


def order(network: Network) -> list[tuple[str, XlSpec]]:
    """The controllers whose hosts are to be upgraded, in order, and how each is logged in to.

    Raises NetworkError where one cannot be.
    """
    found = {}
    for controller in network.controllers:
        specs = [
            hypervisor_spec.parse(one.hypervisor) if one.hypervisor else None
            for one in network.datapaths_of(controller)
            if one.kind is DatapathKind.HOST
        ]
        for spec in specs or [None]:
            if not isinstance(spec, XlSpec):
                raise NetworkError(
                    f"controller {controller} is on no host that is reached as `xl:`: run "
                    "scripts/install-dom0 on each machine, members of the store first"
                )
            found[controller] = spec
    members = {server.partition(":")[2].rpartition(":")[0] for server in network.store}
    return sorted(found.items(), key=lambda host: host[1].host not in members)


def commands(spec: XlSpec) -> tuple[list[str], list[str]]:
    """What writes this folder as an archive, and what installs it from there on a host; the first
    is empty where that host is this machine."""
    if not spec.host:
        return [], [str(ROOT / "scripts" / "install-dom0")]
    without = [f"--exclude={name}" for name in _LEFT_OUT]
    login = [*shlex.split(os.environ.get("XENFLOW_SSH", "ssh")), "-p", str(spec.port), spec.login]
    return ["tar", "-czf", "-", *without, "-C", str(ROOT), "."], [*login, _THERE]


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/upgrade-dom0",
        description=__doc__.partition("\n\n`order`")[0],
        epilog="exit status: 0 done, 1 failed or stopped, 2 wrong usage, 130 interrupted",
    )
    parser.add_argument(
        "--network",
        metavar="FILE",
        default=os.environ.get("XENFLOW_NETWORK", NETWORK_FILE),
        help=f"the network file (default $XENFLOW_NETWORK, else {NETWORK_FILE})",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")
    options = parser.parse_args(arguments)
    try:
        hosts = order(load(options.network))
        if options.dry_run:
            for name, spec in hosts:
                archive, install = commands(spec)
                print(f"{name}: {' | '.join(map(shlex.join, filter(None, (archive, install))))}")
        else:
            upgrade(hosts, _installed, lambda: _well(options.network))
    except NetworkError as error:
        print(f"upgrade-dom0: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def upgrade(
    hosts: list[tuple[str, XlSpec]],
    install: Callable[[XlSpec], bool],
    well: Callable[[], str],
    rest: Callable[[float], object] = time.sleep,
) -> None:
    """Upgrade hosts in order; `install` says whether it could, `well` what is wrong, or "".

    Raises NetworkError where it stops, naming the hosts that are left.
    """
    if wrong := well():
        raise NetworkError(f"nothing is upgraded, all must be well before:\n{wrong}")
    for number, (name, spec) in enumerate(hosts):
        left = ", ".join(name for name, _ in hosts[number:])
        _say(f"{name}: {number + 1} of {len(hosts)}")
        if not install(spec):
            raise NetworkError(f"{name}: install-dom0 has failed there; not upgraded: {left}")
        end = time.monotonic() + WELL_S
        while wrong := well():
            if time.monotonic() > end:
                left = ", ".join(name for name, _ in hosts[number + 1 :]) or "none"
                raise NetworkError(
                    f"{name} is upgraded, and all is not well {WELL_S:g} s later; left as they "
                    f"were: {left}\n{wrong}"
                )
            rest(1.0)
    _say("done")


def _installed(spec: XlSpec) -> bool:
    archive, install = commands(spec)
    if not archive:
        return subprocess.run(install).returncode == 0
    with subprocess.Popen(archive, stdout=subprocess.PIPE) as writes:
        done = subprocess.run(install, stdin=writes.stdout)
    return done.returncode == 0 and writes.returncode == 0


def _well(network: str) -> str:
    command = [sys.executable, "-m", "mgmt", "--network", network, "status"]
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()


def _say(text: str) -> None:
    print(f"upgrade-dom0: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
