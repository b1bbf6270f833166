"""What the tests of the store have in common: a loop of their own, servers, and small rows."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from tests.free_ports import free_ports
from tests.store.memory_store import MemoryDatabase, MemoryStore
from xenflow.store.network_store import (
    NetworkStore,
    RowChanges,
    WatchedTable,
    WatchEvent,
    WholeView,
)
from xenflow.store.ovsdb_store import OvsdbStore
from xenflow.store.schema import DATABASE, PLANNER, TABLES, Role, StoreWriter
from xenflow.store.server import StoreServer, StoreServerError
from xenflow.store.transaction import (
    Delete,
    Insert,
    StoreRow,
    Transaction,
    WriteOutcome,
    equal,
)

LONG_S = 120.0
"""No test waits for so long unless it fails."""

needs_server = pytest.mark.skipif(
    not all(map(shutil.which, ("ovsdb-server", "ovsdb-tool", "ovs-appctl"))),
    reason="needs ovsdb-server",
)


class Loop:
    """A program's own loop: what is posted is called by `run`, in the test's thread."""

    def __init__(self) -> None:
        self._posted: SimpleQueue[tuple[Callable[[Any], Any], Any]] = SimpleQueue()

    def post(self, call: Callable[[Any], Any], value: Any) -> None:
        self._posted.put((call, value))

    def run(self, until: Callable[[], object], within_s: float = LONG_S) -> None:
        """Call what is posted until something holds."""
        end = time.monotonic() + within_s
        while not until():
            left = end - time.monotonic()
            assert left > 0, "it did not come about"
            with suppress(Empty):
                call, value = self._posted.get(timeout=min(left, 0.05))
                call(value)

    def ask(
        self, store: NetworkStore, *transaction: Any, deadline_s: float = LONG_S
    ) -> WriteOutcome:
        """The outcome of a transaction."""
        outcomes: list[WriteOutcome] = []
        store.transact(tuple(transaction), deadline_s, outcomes.append)
        self.run(lambda: outcomes)
        return outcomes[0]


class Viewer:
    """Keeps what it is told of a watch: every event, and the rows as they stand."""

    def __init__(self, store: NetworkStore, *tables: WatchedTable, deadline_s: float = LONG_S):
        self.events: list[WatchEvent] = []
        self.rows: dict[str, dict[str, StoreRow]] = {}
        self.end = store.watch(tables, deadline_s, self._tell)

    def _tell(self, event: WatchEvent) -> None:
        self.events.append(event)
        match event:
            case WholeView(rows):
                self.rows = {table: dict(of_it) for table, of_it in rows.items()}
            case RowChanges(changes):
                for change in changes:
                    rows = self.rows[change.table]
                    assert rows.get(change.uuid) == change.before
                    if change.after is None:
                        del rows[change.uuid]
                    else:
                        rows[change.uuid] = change.after

    def has_more(self, than: int) -> bool:
        """Whether it was told more events."""
        return len(self.events) > than

    def has_all(self, table: str, rows: int) -> bool:
        """Whether so many rows of a table are there."""
        return len(self.rows.get(table, ())) == rows

    def of(self, table: str, column: str) -> list[Any]:
        """The cells of a column, in order."""
        return sorted(row[column] for row in self.rows.get(table, {}).values())


class MemorySite:
    """Stores in memory that have one database."""

    def __init__(self) -> None:
        self.loop = Loop()
        self._database = MemoryDatabase()

    def store(self, writer: StoreWriter = PLANNER) -> NetworkStore:
        return MemoryStore(self._database, self.loop.post, writer)


class OvsdbSite:
    """Clients of the servers of one cluster."""

    def __init__(self, *servers: StoreServer) -> None:
        self.loop = Loop()
        self.servers = servers
        self._stores: list[OvsdbStore] = []

    def store(
        self, writer: StoreWriter = PLANNER, ways: tuple[str, ...] = (), **options: Any
    ) -> OvsdbStore:
        """A client of all servers, or by these `ways`."""
        remotes = ways or tuple(server.remote for server in self.servers)
        store = OvsdbStore(remotes, self.loop.post, writer, **options)
        self._stores.append(store)
        return store

    def close(self) -> None:
        """End all clients."""
        for store in self._stores:
            store.close()


class Way:
    """A way to a server that can be cut: what goes either way waits then, and nobody is told, as
    where a cable is drawn."""

    def __init__(self, server: StoreServer, path: Path) -> None:
        self.remote = f"unix:{path}"
        self._to = server.remote.removeprefix("unix:")
        self._open = threading.Event()
        self._open.set()
        self._over = False
        self._listens = socket.socket(socket.AF_UNIX)
        self._listens.bind(str(path))
        self._listens.listen()
        self._taker = threading.Thread(target=self._take, daemon=True)
        self._taker.start()

    def cut(self) -> None:
        """From now on nothing passes."""
        self._open.clear()

    def heal(self) -> None:
        """What waits passes, and what comes."""
        self._open.set()

    def _take(self) -> None:
        while True:
            near, _ = self._listens.accept()
            self._open.wait()
            if self._over:
                return
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(self._to)
            except OSError:
                near.close()
                continue
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while octets := one.recv(1 << 16):
                self._open.wait()
                other.sendall(octets)
        for each in (one, other):  # the other thread ends, too
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """No more of it."""
        self._over = True
        self.heal()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.remote.removeprefix("unix:"))
            self._taker.join()
        self._listens.close()


@contextmanager
def served(folder: Path, members: int = 1, election_ms: int = 1000) -> Iterator[OvsdbSite]:
    """A cluster of so many servers, and clients of it; all are ended afterwards."""
    ports = free_ports(members)
    servers = [StoreServer(folder / str(i), f"tcp:127.0.0.1:{p}") for i, p in enumerate(ports)]
    site = OvsdbSite(*servers)
    try:
        first, *others = servers
        first.create(election_ms)
        first.start()
        for server in others:
            server.join(first.member)
            server.start()
            site.loop.run(partial(joined, server))
        yield site
    finally:
        site.close()
        for server in servers:
            if pid := server.pid():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                with suppress(StoreServerError):
                    server.stop()


def joined(server: StoreServer) -> bool:
    """Whether a member takes part in its cluster: it says so as soon as it does."""
    command = ("ovsdb-client", "--timeout=20", "wait", server.remote, DATABASE, "connected")
    return subprocess.run(command, capture_output=True).returncode == 0


def kill(server: StoreServer) -> None:
    """As if its machine had gone: `kill -9`."""
    pid = server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + LONG_S
    while server.pid() is not None:
        assert time.monotonic() < end
        time.sleep(0.01)


CONTROLLER = StoreWriter(Role.CONTROLLER, "a")
"""Of host a."""


def wipe(writer: StoreWriter) -> Transaction:
    """Deletes everything of a writer's."""
    return tuple(
        Delete(name, equal(**{table.own: writer.host}) if table.own else ())
        for name, table in TABLES.items()
        if table.kind.writer is writer.role
    )


# --- small rows ----------------------------------------------------------------------------------

SWITCH = {"kind": "host", "pipeline": "proactive", "proof": "bound", "other": "drop"}
CHANGES = WatchedTable("Change", ("number", "by", "state"))


def change(number: int, **cells: Any) -> Insert:
    """A row that refers to nothing."""
    return Insert("Change", {"number": number, "state": "wanted", **cells})


def laid(name: str, id: int, *at: str, **cells: Any) -> Insert:
    """A row that concerns some switches."""
    return Insert("Laid_Link", {"name": name, "id": id, "at": frozenset(at), **cells})


def host(name: str) -> Insert:
    """A row that others refer to."""
    return Insert("Host", {"name": name})


def switch(name: str, host: str) -> Insert:
    """A row that refers to one."""
    return Insert("Switch", {"name": name, "dpid": name, "host": host, **SWITCH})


def numbered(number: int) -> Any:
    """The condition that it is this change."""
    return equal(number=number)
