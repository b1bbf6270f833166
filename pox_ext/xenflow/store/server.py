"""One member of the store's cluster: how its database is made, started and stopped.

The least store is a cluster of one, never a standalone server: a standalone server answers before
it has written to its disk, and cannot grow.  A cluster of one is joined by two more, which are
started in the same way.  A member's address among the members is fixed when its database is made;
one on a loopback address can never be joined from another machine.

The server runs on when the program that started it ends.  Called by `python -m xenflow.store`, the
lab and tests; controllers start none yet.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xenflow.store.schema import DATABASE, to_schema

ELECTION_MS = 4000
"""Without a word from the leader for so long a member asks to be elected.  With 1 s a loaded
machine elected a leader 16 times in 27 idle minutes."""
START_S = 60.0
"""How long a tool of the server, or its end, may take."""

_LOCK = "hhqqi"
"""Linux's `struct flock`: type, whence, start, length, who holds it."""


class StoreServerError(RuntimeError):
    """A server's database could not be made, or the server not be started or stopped."""


@dataclass(frozen=True, slots=True)
class StoreServer:
    """One member.

    folder   for its database, log and sockets; all of them are the server's own
    member   `tcp:ADDRESS:PORT`, where the other members reach it; asked for when its database is
             made, and by nothing else
    listens  more places for clients than `remote` (`ptcp:PORT:ADDRESS`)
    """

    folder: Path
    member: str
    listens: tuple[str, ...] = ()

    @property
    def remote(self) -> str:
        """Where clients on the same machine reach it."""
        return f"unix:{self.folder / 'db.sock'}"

    @property
    def database(self) -> Path:
        """The file that it keeps everything in."""
        return self.folder / "store.db"

    def create(self, election_ms: int = ELECTION_MS) -> None:
        """Make the database of a new cluster, of which this is the only member.

        Raises StoreServerError, also where the folder has a database.
        """
        schema = self.folder / f"{DATABASE}.ovsschema"
        with self._in_folder():
            self.folder.mkdir(parents=True, exist_ok=True)
            schema.write_text(json.dumps(to_schema(), indent=1) + "\n")
        timer = f"--election-timer={election_ms}"
        _tool("ovsdb-tool", timer, "create-cluster", self.database, schema, self.member)

    def join(self, *members: str) -> None:
        """Make the database of a member of the cluster that the `members` belong to; it joins when
        it is started and can reach one of them.

        Raises StoreServerError, also where the folder has a database.
        """
        with self._in_folder():
            self.folder.mkdir(parents=True, exist_ok=True)
        _tool("ovsdb-tool", "join-cluster", self.database, DATABASE, self.member, *members)

    def start(self) -> None:
        """Start the server; it listens when this returns.

        Raises StoreServerError, also where it runs already, or there is no database.
        """
        if not self.database.exists():
            raise StoreServerError(
                f"store's folder {self.folder}: no database is there: make it, or name another "
                "folder"
            )
        _tool(*self.command, "--detach", "--no-chdir", "--verbose=console:off")

    @property
    def command(self) -> tuple[str, ...]:
        """What runs the server in the foreground."""
        return (
            "ovsdb-server",
            f"--pidfile={self._pidfile}",
            f"--log-file={self.folder / 'server.log'}",
            f"--unixctl={self._control}",
            f"--remote=p{self.remote}",
            *(f"--remote={place}" for place in self.listens),
            str(self.database),
        )

    def stop(self) -> None:
        """End the server, and wait until it has; nothing that it has acknowledged is lost.

        Raises StoreServerError where it does not run, or does not end.
        """
        self._tell("exit")
        end = time.monotonic() + START_S
        while self.pid() is not None:
            if time.monotonic() > end:
                raise StoreServerError(f"{self.folder}: the server has not ended")
            time.sleep(0.01)

    def leave(self) -> None:
        """Have the member leave its cluster for good; its database is of no use afterwards.

        Raises StoreServerError where it does not run.
        """
        self._tell("cluster/leave", DATABASE)

    def shown(self) -> str:
        """Who is in the cluster, and who leads it, in the server's own words.

        Raises StoreServerError where it does not run.
        """
        return self._tell("cluster/status", DATABASE)

    def _tell(self, *words: str) -> str:
        if self.pid() is None:
            raise StoreServerError(f"store's folder {self.folder}: no server runs there")
        return _tool("ovs-appctl", "-t", self._control, *words)

    def pid(self) -> int | None:
        """The server's process; None where it does not run.  The server keeps a lock on the file
        with its number, so that one left behind by a crash says nothing.

        Raises StoreServerError where that file cannot be read.
        """
        asked = struct.pack(_LOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        with self._in_folder():
            try:
                with self._pidfile.open("rb") as file:
                    said = fcntl.fcntl(file, fcntl.F_GETLK, asked)
            except FileNotFoundError:
                return None
        kind, _, _, _, pid = struct.unpack(_LOCK, said)
        return None if kind == fcntl.F_UNLCK else int(pid)

    @contextmanager
    def _in_folder(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreServerError(
                f"store's folder {self.folder}: {error.strerror or error}: mend that, or name "
                "another folder"
            ) from None

    @property
    def _pidfile(self) -> Path:
        return self.folder / "server.pid"

    @property
    def _control(self) -> Path:
        return self.folder / "server.ctl"


def _tool(*command: str | Path) -> str:
    """Run a tool of Open vSwitch to its end; returns what it prints.

    Raises StoreServerError with what it says.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=START_S
        )
    except FileNotFoundError:
        raise StoreServerError(
            f"{command[0]}: not installed (package openvswitch-switch)"
        ) from None
    except OSError as error:
        raise StoreServerError(
            f"{command[0]}: cannot be run: {error.strerror or error}: mend that and try again"
        ) from None
    except subprocess.TimeoutExpired:
        raise StoreServerError(f"{command[0]}: not done after {START_S:g} s") from None
    if done.returncode != 0:
        raise StoreServerError(f"{command[0]}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()
