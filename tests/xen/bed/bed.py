"""The whole bed, up and down: the lab first, then the hosts that it leaves out, then the router.

What runs is on the lab's record of processes, what was made is in the lab's namespaces: so
`lab.bring_up.down` is the way down for all of it, also after a crash.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import bring_up, process, state
from lab.description import Lab, find_file, load_lab
from lab.namespace import LabError
from lab.state import LabOptions
from lab.waiting import await_ends, await_links
from mgmt.client import TIMEOUT_S, AskError
from mgmt.session import ManagementSession
from tests.xen.bed import dom0, machine, payload, router
from tests.xen.bed.build import Built, build
from tests.xen.bed.dom0 import BedDom0

OSPF = {"hello_s": 10, "dead_s": 40}
"""The protocol's default times (RFC 2328, appendix C.3)."""
MIN_LS_INTERVAL_S = 5.0
"""A router's account of its links comes no sooner after the one before (RFC 2328, appendix B)."""
BOOT_LIMIT_S = 300.0
CONVERGED_LIMIT_S = 300.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bed:
    """A bed that is up."""

    lab: Lab
    hosts: dict[str, BedDom0]


def prepare(say: Say) -> tuple[Built, Path]:
    """All that is booted, built as far as it is not there: the hosts' files, the folder with the
    routers' image.  Needs the network, which `up` need not have then.

    Raises BuildError.
    """
    return build(say), router.image(say)


def up(file_or_name: str | Path, say: Say, *, keep: bool = False, **options: Any) -> Bed:
    """Bring lab, hosts and routers up; returns once packets pass from end to end.

    `options` are fields of `lab.state.LabOptions`.  Raises NetworkError where the file is wrong,
    LabError where something does not come up; everything is taken down then unless `keep`.
    """
    begun = time.monotonic()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - begun:5.1f} s  {text}")

    if not load_lab(find_file(file_or_name)).elsewhere:
        raise LabError(f'{file_or_name}: no host in it has hypervisor = "xl:..."')
    built, image = prepare(tell)
    wanted = LabOptions(**{**OSPF, "bgp": True, **options})
    lab = bring_up.up(file_or_name, wanted, say=tell)
    try:
        hosts = machine.machines(lab)
        files = router.files(lab, wanted, image)
        running = []
        for host in hosts:
            archive = process.STATE_DIR / host.name / "payload.tar"
            payload.write(lab, host, archive, files)
            running.append(host.start(built, archive))
        machine.await_ready(hosts, running, BOOT_LIMIT_S)
        tell("every Domain 0 is up")
        found = dom0.connect(lab, built)
        tell("every Domain 0 answers")
        await_controllers(lab, BOOT_LIMIT_S)
        tell("every switch is in sync")
        router.start(lab, found)
        tell("every router is up")
        await_links(lab, CONVERGED_LIMIT_S)
        await_ends(lab, CONVERGED_LIMIT_S)
        tell("packets pass from end to end")
    except BaseException:
        if not keep:
            bring_up.down(say=lambda _: None)
        raise
    return Bed(lab, found)


def await_controllers(lab: Lab, limit_s: float) -> None:
    """Until every switch is connected to its controller and holds what it shall.

    Raises LabError where one does not within the limit.
    """
    end = time.monotonic() + limit_s
    while missing := not_in_sync(lab):
        if time.monotonic() > end:
            raise LabError(f"not in sync within {limit_s:.0f} s: {', '.join(sorted(missing))}")
        time.sleep(0.5)


def not_in_sync(lab: Lab) -> set[str]:
    """The datapaths that are not connected to their controllers, or lack flows."""
    session = ManagementSession(lab.network, TIMEOUT_S)
    missing = set(lab.network.datapaths)
    try:
        for controller in lab.network.controllers:
            with suppress(AskError):
                rows = session.ask(controller, "status")["datapaths"]
                missing -= {r["name"] for r in rows if r["connected"] and r["in_sync"]}
    finally:
        session.close()
    return missing


def renew(bed: Bed, name: str) -> None:
    """Put a new guest in a router's place; returns once packets pass from end to end.

    Raises LabError where it does not come up.
    """
    router.renew(bed.hosts, name)
    settled(bed.lab)


def settled(lab: Lab) -> None:
    """Until packets pass from end to end, and for good: what a router's neighbours knew of an
    earlier guest is believed until OSPF has told them all of the new one.

    Raises LabError where they do not.
    """
    await_ends(lab, CONVERGED_LIMIT_S)
    time.sleep(2 * MIN_LS_INTERVAL_S)
    await_ends(lab, CONVERGED_LIMIT_S)


def current() -> Bed:
    """The bed that is up.

    Raises LabError where none is.
    """
    lab, _ = state.current()
    if not lab.elsewhere:
        raise LabError("a lab is up, but no bed: `python -m tests.xen.bed up` brings one up")
    return Bed(lab, dom0.dom0s(lab))


def down(say: Say) -> None:
    """End it."""
    bring_up.down(say=say)
