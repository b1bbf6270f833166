"""What a host gets at its start beside its image: the network file, its routers.

One tar archive a host, its second disk; its init unpacks it.  So another network needs no other
image.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from lab.description import CABLE_MTU, Lab
from lab.state import NETWORK_FILE
from tests.xen.bed.machine import QemuMachine


def write(lab: Lab, machine: QemuMachine, path: Path, more: dict[str, Path]) -> None:
    """A host's archive; `more` are files of this machine by their names there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        archive.add(NETWORK_FILE, "etc/xenflow/network.toml")
        _add(archive, "etc/xenflow-bed", environment(lab, machine))
        for name, file in more.items():
            archive.add(file, name.lstrip("/"))


def environment(lab: Lab, machine: QemuMachine) -> str:
    """What `bed-init` reads, as shell variables."""
    address = f"{lab.management[machine.name]}/{lab.subnet.prefixlen}"
    values = {
        "NAME": machine.name,
        "ADDRESS": address,
        "PORTS": " ".join(machine.ports),
        "MTU": CABLE_MTU,
    }
    return "".join(f"{name}='{value}'\n" for name, value in values.items())


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(text.encode())
    entry.mode = 0o644
    archive.addfile(entry, io.BytesIO(text.encode()))
