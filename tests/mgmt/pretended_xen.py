"""Pretended hosts with Xen: the programs in `pretended/`, and a xenstored for each host.

The real thing is tested in tests/xen; this is for what the real thing does not do when asked.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mgmt.hypervisor.xl import Xl
from xenflow.pure import xenstore
from xenflow.pure.hypervisor_spec import XlSpec

PROGRAMS = Path(__file__).with_name("pretended")
ROOT = Path(__file__).parents[2]
WRITE = 11


class Xenstored:
    """Reads, writes and watches, as xenstored does; no directories, no permissions."""

    def __init__(self, path: Path) -> None:
        self.values: dict[str, str] = {}
        self._watches: list[tuple[socket.socket, str, str]] = []
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = xenstore.Reader()
        while data := connection.recv(4096):
            for message in reader.feed(data):
                with self._lock:
                    self._answer(connection, message)
        with self._lock:
            self._watches = [w for w in self._watches if w[0] is not connection]

    def _answer(self, connection: socket.socket, message: xenstore.Message) -> None:
        path = message.parts[0]
        match message.type:
            case xenstore.READ if path not in self.values:
                connection.sendall(xenstore.request(xenstore.ERROR, message.request, "ENOENT"))
            case xenstore.READ:
                value = self.values[path].encode()
                head = xenstore._HEADER.pack(xenstore.READ, message.request, 0, len(value))
                connection.sendall(head + value)
            case xenstore.WATCH:
                self._watches.append((connection, path, message.parts[1]))
                connection.sendall(xenstore.request(xenstore.WATCH, message.request, "OK"))
                self._event(connection, path, message.parts[1])
            case _:
                assert message.type == WRITE
                self.values[path] = message.parts[1] if len(message.parts) > 1 else ""
                connection.sendall(xenstore.request(WRITE, message.request, "OK"))
                for watcher, watched, token in self._watches:
                    if path == watched or path.startswith(watched + "/"):
                        self._event(watcher, path, token)

    def _event(self, connection: socket.socket, path: str, token: str) -> None:
        connection.sendall(xenstore.request(xenstore.WATCH_EVENT, 0, path, token))

    def close(self) -> None:
        self._socket.close()


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
        return Xl({host: XlSpec(host, "root") for host in self.hosts}, ("vr1",))

    def set(self, host: str, **facts: Any) -> None:
        """How a host is, and misbehaves (pretended/xl)."""
        (self.folder / host / "facts.json").write_text(json.dumps(facts))

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

    def close(self) -> None:
        deadline = time.monotonic() + 10
        while self.processes("xl") and time.monotonic() < deadline:
            time.sleep(0.05)
        for store in self.stores.values():
            store.close()
