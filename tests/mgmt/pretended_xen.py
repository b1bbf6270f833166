"""Pretended hosts with Xen: the programs in `pretended/`, and a xenstored for each host.

The real thing is tested in tests/xen; this is for what the real thing does not do when asked.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mgmt.hypervisor.xl import Xl
from tests.xenstored import Xenstored
from xenflow.model.hypervisor_spec import XlSpec

PROGRAMS = Path(__file__).with_name("pretended")
ROOT = Path(__file__).parents[2]


class PretendedXen:
    """Two hosts, host-a and host-b; vr1 runs on host-a."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.hosts = ("host-a", "host-b")
        self.stores = {}
        for host in self.hosts:
            (folder / host).mkdir()
            self.set(host)
            self.write(host, {})
            self.stores[host] = Xenstored(folder / host / "xenstored")
        self.write("host-a", {"1": self.domain("vr1")})
        patch.setenv("PRETENDED", str(folder))
        (folder / "bin").mkdir()
        (folder / "bin/python3").symlink_to(sys.executable)  # what is first in PATH may be slow
        patch.setenv("PATH", f"{PROGRAMS}:{folder}/bin:{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", f"{ROOT}/pox_ext")
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        patch.delenv("XENFLOW_SSH", raising=False)

    @staticmethod
    def domain(name: str, flags: str = "-b----") -> dict[str, Any]:
        nics = [{"bridge": "lo"}, {"bridge": "lo", "script": "/bin/true"}, {"script": "/bin/true"}]
        return {"name": name, "flags": flags, "memory": 32, "nics": nics}

    def driver(self) -> Xl:
        return Xl({host: XlSpec(host, "root") for host in self.hosts})

    def set(self, host: str, **facts: Any) -> None:
        """How a host is, and misbehaves (pretended/xl), from now on."""
        file = self.folder / host / "facts.json"
        new = file.with_suffix(".new")
        new.write_text(json.dumps(facts))
        new.rename(file)

    def ssh_says(self, host: str, says: str, seen_from: str = "") -> None:
        """Logging in to a host fails, with these words; or only from one host."""
        (self.folder / host / f"ssh_says{seen_from}").write_text(says + "\n")

    def write(self, host: str, domains: dict[str, Any]) -> None:
        (self.folder / host / "domains.json").write_text(json.dumps(domains))

    def names(self) -> dict[str, list[str]]:
        """Host -> "NAME FLAGS" of its domains."""
        return {
            host: [
                f"{d['name']} {d['flags']}"
                for d in json.loads((self.folder / host / "domains.json").read_text()).values()
            ]
            for host in self.hosts
        }

    def processes(self, word: str) -> list[int]:
        """The pretended programs of this test that run, by a word of their command line."""
        found = []
        mark = f"PRETENDED={self.folder}\0".encode()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                    words = (entry / "cmdline").read_bytes().split(b"\0")[:4]
                    if any(word.encode() == os.path.basename(w) for w in words):
                        found.append(int(entry.name))
            except OSError:
                continue
        return [pid for pid in found if pid != os.getpid()]

    def monitors(self) -> set[int]:
        """Those of them that look after a domain that has arrived."""
        return {
            pid
            for pid in self.processes("migrate-receive")
            if os.readlink(f"/proc/{pid}/fd/0") == os.devnull
        }

    def close(self) -> None:
        for host in self.hosts:
            self.write(host, {})  # the monitors end
        deadline = time.monotonic() + 60
        while self.processes("xl") and time.monotonic() < deadline:
            time.sleep(0.05)
        for store in self.stores.values():
            store.close()
