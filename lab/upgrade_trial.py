"""A lab of an older release becomes this one under traffic: `scripts/upgrade-trial`.

The older release, out of git, brings the lab up, and moves a router, so that it has something to
keep.  Then its programs are replaced by those of this release, in the order of
`scripts/upgrade-dom0`: the store's tables and the planner, where there is a store; the controllers,
each once all is well after the one before; the routers' daemons.  At last the router moves back.
Counted are the packets that were lost or doubled on the way, and the flows of routes that are not
the very ones that the older release wrote.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lab import bring_up, operate, process, switch
from lab.description import ROOT, Lab
from lab.measuring import INTERRUPTED, begin, say
from lab.moves import ends, mover
from lab.namespace import LabError
from lab.probe import ProbePair, ProbeResult, TooBusyError
from lab.programs import python_path, start_controller, start_planner, start_routerd, store_server
from lab.state import current
from mgmt.text import run_program
from xenflow.model.network import DatapathKind, NetworkError, Pipeline
from xenflow.tables import layout

RATE_PPS = 2000.0
LIMIT_S = 90.0
"""How long all may take until it is well after one program was replaced."""
_DURATION = re.compile(r"duration=([0-9.]+)s")
_COUNTERS = re.compile(r"(?:duration|n_packets|n_bytes|idle_age|hard_age)=[^,]*, ")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/upgrade-trial",
        description=__doc__,
        epilog="exit status: 0 nothing lost or doubled, and no flow of a route written; 1 "
        "something was, or a step failed; 2 wrong command line; 3 invalid, the traffic alone "
        "already loses; 130 interrupted",
    )
    parser.add_argument("commit", metavar="COMMIT", help="of the older release, as git names it")
    parser.add_argument(
        "topology", metavar="NAME", nargs="?", default="paper", help="paper or path"
    )
    parser.add_argument("--store", action="store_true", help="the network lives in a store")
    parser.add_argument("--rate", type=float, default=RATE_PPS, metavar="PPS", help="each way")
    asked = parser.parse_args(argv)
    begin()
    try:
        with tempfile.TemporaryDirectory(prefix="xf-older-") as folder:
            unpack(asked.commit, Path(folder))
            return _trial(Path(folder), asked.topology, asked.store, asked.rate)
    except TooBusyError as error:
        say(f"invalid: {error}")
        return 3
    except NetworkError as error:
        say(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def unpack(commit: str, folder: Path) -> None:
    """Put the files of a commit into a folder.

    Raises LabError where git does not know it.
    """
    asked = ["git", "-C", str(ROOT), "archive", commit]
    done = subprocess.run(asked, capture_output=True)
    if done.returncode:
        raise LabError(f"{commit}: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(folder, filter="data")


def _trial(older: Path, topology: str, store: bool, rate_pps: float) -> int:
    environment = {**os.environ, "PYTHONPATH": f"{older}:{older / 'pox_ext'}"}

    def does(module: str, *words: str) -> None:
        command = [sys.executable, "-P", "-m", module, *words]
        say(f"the older release: {' '.join(words)}")
        if subprocess.run(command, env=environment, cwd=older, stdout=sys.stderr).returncode:
            raise LabError(f"the older release: {' '.join(words)}: failed")

    try:
        does("lab", "up", topology, *["--store"] * store)
        lab, _ = current()
        _await_well(lab)
        with mover(lab) as router:
            does("mgmt", "migrate", router.router, router.other_host())
        _await_well(lab)
        with ProbePair(*ends(lab), rate_pps=rate_pps) as pair:
            pair.baseline(3.0)
            before = {name: _routes(lab, name) for name in _proactive(lab)}
            pair.start()
            began = time.monotonic()
            for what, replace in _steps(lab, store):
                say(what)
                replace()
                _await_well(lab)
            rewritten = _rewritten(lab, before, time.monotonic() - began)
            with mover(lab) as router:
                say(f"{router.router} moves")
                router.move(router.other_host(), "overlapped")
            time.sleep(1.0)
            return _judged(pair.stop(), rewritten, sum(map(len, before.values())))
    finally:
        bring_up.down(say=say)


def _steps(lab: Lab, store: bool) -> Iterable[tuple[str, Callable[[], object]]]:
    """What is replaced, one after the other."""
    if store:
        yield "the store's tables", store_server(lab).upgrade
        yield "the planner", lambda: _replace("lab", "planner", lambda: start_planner(lab))
    for name in lab.network.controllers:
        node = lab.controller_node(name)
        yield (
            f"controller {name}",
            lambda name=name, node=node: _replace(  # type: ignore[misc]
                node, "controller", lambda: start_controller(lab, name)
            ),
        )
    for router in lab.network.routers:
        yield (
            f"routerd of {router}",
            lambda router=router: _replace(  # type: ignore[misc]
                router, "routerd", lambda: start_routerd(router)
            ),
        )


def _replace(node: str, name: str, start: Callable[[], object]) -> None:
    old = [p for p in process.recorded() if (p.node, p.name) == (node, name)]
    process.end(old)
    process.forget(old)
    start()


def _await_well(lab: Lab) -> None:
    """Until `xenflow status` calls the network healthy."""
    command = [sys.executable, "-P", "-m", "mgmt", "status"]
    end = time.monotonic() + LIMIT_S
    while True:
        time.sleep(0.5)
        done = operate.run(
            "lab", command, env=python_path() | {"XENFLOW_NETWORK": "/run/xenflow/network.toml"}
        )
        if not done.returncode:
            return
        if time.monotonic() > end:
            raise LabError(f"not well after {LIMIT_S:g} s:\n{done.stdout}{done.stderr}")


# --- flows of routes ----------------------------------------------------------------------------


def _proactive(lab: Lab) -> list[str]:
    """The switches that hold routes."""
    return [
        name
        for name, one in lab.network.datapaths.items()
        if one.kind is DatapathKind.HOST and one.pipeline is Pipeline.PROACTIVE
    ]


def _routes(lab: Lab, name: str) -> list[str]:
    table = f"table={layout.ROUTES}"
    said = switch.ofctl(lab.switch_node(name), "dump-flows", switch.BRIDGE, table)
    return [line for line in said.splitlines() if "actions=" in line]


def _rewritten(lab: Lab, before: dict[str, list[str]], for_s: float) -> list[str]:
    """The flows of routes that have come, gone or been written again in that time."""
    found = []
    for name, lines in before.items():
        found += [f"{name}: {line}" for line in differing(lines, _routes(lab, name), for_s)]
    return found


def differing(before: Iterable[str], after: Iterable[str], for_s: float) -> list[str]:
    """Of the flows that `ovs-ofctl dump-flows` has shown, those that are gone, new, or younger than
    `for_s` seconds; one that is written again begins its age anew."""
    old, new = (
        {_COUNTERS.sub("", line.strip()): line for line in lines} for lines in (before, after)
    )
    found = [f"- {flow}" for flow in old if flow not in new]
    for flow, line in new.items():
        age = _DURATION.search(line)
        if flow not in old:
            found.append(f"+ {flow}")
        elif age and float(age[1]) < for_s:
            found.append(f"written again: {flow}")
    return found


def _judged(results: tuple[ProbeResult, ProbeResult], rewritten: list[str], flows: int) -> int:
    for line in rewritten:
        say(line)
    lost = sum(result.lost for result in results)
    doubled = sum(result.duplicated for result in results)
    sent = sum(result.sent for result in results)
    gap = max(result.longest_gap_s for result in results)
    print(
        f"upgraded: {lost} lost, {doubled} doubled of {sent} packets, longest gap "
        f"{gap * 1000:.1f} ms; {len(rewritten)} of {flows} flows of routes written"
    )
    return int(bool(lost or doubled or rewritten or not sent or not flows))


if __name__ == "__main__":
    sys.exit(run_program("upgrade-trial", main))
