"""What a host gets at its start beside its image: XenFlow, the network file, the routers.

One tar archive a host, its second disk; its init unpacks it.  So a change to XenFlow or to the
network needs no new image.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from lab.bring_up import CABLE_MTU, NETWORK_FILE
from lab.description import ROOT, Lab
from xen.bed.machine import Machine

BRIDGE = "xenflow0"
INSTALLED = ("pox.py", "pox_ext", "runtime")
"""What of the project runs in a Domain 0."""


def write(lab: Lab, machine: Machine, path: Path, more: dict[str, Path]) -> None:
    """A host's archive; `more` are files of this machine by their names there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name in INSTALLED:
            archive.add(ROOT / name, f"opt/xenflow/{name}", filter=_code)
        archive.add(NETWORK_FILE, "etc/xenflow/network.toml")
        archive.add(ROOT / "xen/dom0/vif-xenflow", "etc/xen/scripts/vif-xenflow")
        _add(archive, "etc/xenflow-bed", environment(lab, machine))
        for name, file in more.items():
            archive.add(file, name.lstrip("/"))


def environment(lab: Lab, machine: Machine) -> str:
    """What `bed-init` reads, as shell variables."""
    datapath = lab.network.datapaths[machine.name]
    address = f"{lab.management[machine.name]}/{lab.subnet.prefixlen}"
    values = {
        "NAME": machine.name, "ADDRESS": address, "PORTS": " ".join(machine.ports),
        "MTU": CABLE_MTU, "BRIDGE": BRIDGE, "DPID": f"{datapath.dpid:016x}", "MODULES": "",
    }  # fmt: skip
    return "".join(f"{name}='{value}'\n" for name, value in values.items())


def _code(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(entry.name).name in ("__pycache__", ".mypy_cache") else entry


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(text.encode())
    entry.mode = 0o644
    archive.addfile(entry, io.BytesIO(text.encode()))
