"""Many hosts of a network that lives in a store, emulated by one process of light clients.

    python -m bench.light_hosts REMOTE FILE

FILE holds {host: [its switches]} as JSON.  Each host watches what a controller's follower does,
over a connection of its own, keeps a row that has changed on the disk, asks each of its switches
for a barrier, and writes how far it is, as a controller does.  The switches answer from a thread
here.

On stdout, a line of JSON each: {"ready": S} once every host has its rows; {"in_force": CHANGE,
"host": NAME, "at": TIME} for each host that has a change in force, TIME by the monotonic clock; and
at the word `traffic` on stdin {"traffic": {host: messages received and sent}} since the last such
word, keep-alives left out.  Run by `change_to_in_force`.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from xenflow.model.release import RELEASE
from xenflow.store import own_rows
from xenflow.store.columns import Cell
from xenflow.store.network_rows import LAID
from xenflow.store.network_store import RowChanges, Rows, WatchedTable, WatchEvent, WholeView, told
from xenflow.store.ovsdb_session import Dial, Effect, HangUp, OvsdbSession, SendOctets, Tell
from xenflow.store.transaction import Committed, Insert, Operation, Update, WriteOutcome, equal

BARRIER = bytes.fromhex("0112000800000001")
"""OFPT_BARRIER_REQUEST of OpenFlow 1.0; the answer has another type, and as many octets."""
PATIENCE_S = 300.0
"""Two hundred conditional watches keep the server's one thread busy for long."""
STATES = ("host", "switch", "cluster", "in_force")


class LightHost:
    """One host."""

    def __init__(
        self,
        name: str,
        switches: frozenset[str],
        remote: str,
        selector: selectors.BaseSelector,
        disk: int,
        barriers: socket.socket,
    ) -> None:
        self.name = name
        self.ready = False
        self.messages = 0
        self._switches = switches
        self._selector = selector
        self._disk = disk
        self._barriers = barriers
        self._rows: Rows = {}
        self._session = OvsdbSession((remote,), "", PATIENCE_S)
        due = time.monotonic() + PATIENCE_S
        own = WatchedTable("Switch_State", STATES, equal(host=name))
        self._do(
            self._session.watch("rows", (*own_rows.watched(name, switches), own), due, self._told)
        )
        self.tick()

    def tick(self) -> None:
        """What time asks for."""
        if time.monotonic() >= self._session.wake_at():
            self._do(self._session.tick(time.monotonic()))

    def readable(self) -> None:
        """The server has said something."""
        octets = self._socket.recv(1 << 20)
        if b'"echo"' not in octets:
            self.messages += 1
        now = time.monotonic()
        self._do(self._session.received(octets, now) if octets else self._session.lost(now, "gone"))

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Dial(remote):
                    self._socket = socket.socket(socket.AF_UNIX)
                    self._socket.connect(remote.removeprefix("unix:"))
                    self._selector.register(self._socket, selectors.EVENT_READ, self)
                    self._do(self._session.dialled(time.monotonic()))
                case SendOctets(octets):
                    if b'"echo"' not in octets:
                        self.messages += 1
                    self._socket.sendall(octets)
                case HangUp():
                    raise SystemExit(f"{self.name}: {self._session.state.words}")
                case Tell(call, value):
                    call(value)

    def _told(self, event: WatchEvent) -> None:
        if not isinstance(event, WholeView | RowChanges):
            raise SystemExit(f"{self.name}: {event.words}")
        self._rows = told(self._rows, event)
        if isinstance(event, WholeView):
            self.ready = True
            return
        changed = [c.after for c in event.changes if c.table in LAID and c.after is not None]
        if not changed:
            return
        for row in changed:
            os.pwrite(self._disk, json.dumps(dict(row)).encode(), 0)
        os.fsync(self._disk)
        for _ in self._switches:
            barrier(self._barriers)
        number = max(int(str(row["change"])) for row in changed)
        say(in_force=number, host=self.name, at=time.monotonic())
        states = tuple(self._states(number))
        until = time.monotonic() + PATIENCE_S
        self._do(self._session.transact(states, until, self._written))

    def _states(self, number: int) -> list[Operation]:
        there = {row["switch"] for row in self._rows.get("Switch_State", {}).values()}
        row: dict[str, Cell] = {"host": self.name, "in_force": number, "release": RELEASE}
        row["cluster"] = self._session.state.cluster
        return [
            Update("Switch_State", equal(switch=switch), row)
            if switch in there
            else Insert("Switch_State", {**row, "switch": switch})
            for switch in self._switches
        ]

    def _written(self, outcome: WriteOutcome) -> None:
        if not isinstance(outcome, Committed):
            raise SystemExit(f"{self.name}: {outcome.words}")


def barrier(wire: socket.socket) -> None:
    """Ask a switch for a barrier, and wait for its answer."""
    wire.sendall(BARRIER)
    got = 0
    while got < len(BARRIER):
        got += len(wire.recv(len(BARRIER) - got))


def answer_barriers(peer: socket.socket) -> None:
    """The switches' end of the wire."""
    while octets := peer.recv(len(BARRIER)):
        peer.sendall(octets)


def switches_wire() -> socket.socket:
    """A wire to switches that answer every barrier from another thread."""
    here, there = socket.socketpair()
    threading.Thread(target=answer_barriers, args=(there,), daemon=True).start()
    return here


def say(**words: Any) -> None:
    """One line on stdout."""
    print(json.dumps(words), flush=True)


def main() -> None:
    """Runs until stdin ends."""
    remote, file = sys.argv[1:]
    switches = json.loads(Path(file).read_text())
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
    begun = time.monotonic()
    barriers = switches_wire()
    with tempfile.TemporaryFile() as disk:
        hosts = [
            LightHost(name, frozenset(own), remote, selector, disk.fileno(), barriers)
            for name, own in switches.items()
        ]
        waits = True
        while True:
            for key, _ in selector.select(0.2):
                if isinstance(key.data, LightHost):
                    key.data.readable()
                elif not os.read(key.fd, 64):
                    return
                else:
                    say(traffic={host.name: host.messages for host in hosts if host.messages})
                    for host in hosts:
                        host.messages = 0
            for host in hosts:
                host.tick()
            if waits and all(host.ready for host in hosts):
                waits = False
                say(ready=time.monotonic() - begun)


if __name__ == "__main__":
    main()
