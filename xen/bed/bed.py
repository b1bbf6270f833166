"""The whole bed, up and down: the lab first, then the hosts that it leaves out, then the router.

What runs is on the lab's record of processes, what was made is in the lab's namespaces: so
`lab.bring_up.down` is the way down for all of it, also after a crash.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import bring_up, process
from lab.bring_up import Options
from lab.description import Lab, find_file, load_lab
from lab.namespace import LabError
from xen.bed import dom0, machine, payload
from xen.bed.build import build
from xen.bed.dom0 import Dom0

OSPF = {"hello_s": 10, "dead_s": 40}
"""The protocol's default times (RFC 2328, appendix C.3)."""
BOOT_LIMIT_S = 300.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bed:
    """A bed that is up."""

    lab: Lab
    hosts: dict[str, Dom0]


def up(file_or_name: str | Path, say: Say, *, keep: bool = False, **options: Any) -> Bed:
    """Bring lab and hosts up; returns when every Domain 0 answers over ssh.

    `options` are fields of `lab.bring_up.Options`.  Raises NetworkError where the file is wrong,
    LabError where something does not come up; everything is taken down then unless `keep`.
    """
    begun = time.monotonic()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - begun:5.1f} s  {text}")

    if not load_lab(find_file(file_or_name)).elsewhere:
        raise LabError(f"{file_or_name}: no host in it has hypervisor = \"xl:...\"")
    built = build(tell)
    lab = bring_up.up(file_or_name, Options(**{**OSPF, **options}), say=tell)
    try:
        hosts = machine.machines(lab)
        running = []
        for host in hosts:
            archive = process.STATE_DIR / host.name / "payload.tar"
            payload.write(lab, host, archive, {})
            running.append(host.start(built, archive))
        machine.await_ready(hosts, running, BOOT_LIMIT_S)
        tell("every Domain 0 is up")
        found = dom0.connect(lab, built)
        tell("every Domain 0 answers")
    except BaseException:
        if not keep:
            bring_up.down(say=lambda _: None)
        raise
    return Bed(lab, found)


def current() -> Bed:
    """The bed that is up.

    Raises LabError where none is.
    """
    lab, _ = bring_up.current()
    if not lab.elsewhere:
        raise LabError("a lab is up, but no bed: `python -m xen.bed up` brings one up")
    return Bed(lab, dom0.dom0s(lab))


def down(say: Say) -> None:
    """End it."""
    bring_up.down(say=say)
