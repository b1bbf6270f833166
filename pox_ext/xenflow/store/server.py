"""One member of the store's cluster: how its database is made, started and stopped.

The least store is a cluster of one, never a standalone server: a standalone server answers before
it has written to its disk, and cannot grow.  A cluster of one is joined by two more, which are
started in the same way.  A member's address among the members is fixed when its database is made;
one on a loopback address can never be joined from another machine.

Controllers on other machines come by TLS, with the rights that `roles.py` says.  Who comes by the
member's own socket (root on the same machine), or without TLS, may do everything.

The server runs on when the program that started it ends.  Called by `python -m xenflow.store`, the
lab and tests; controllers start none yet.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xenflow.store import private_file, roles
from xenflow.store.certificates import CertificateError, Certificates
from xenflow.store.schema import DATABASE, VERSION

ELECTION_MS = 4000
"""Without a word from the leader for so long a member asks to be elected.  With 1 s a loaded
machine elected a leader 16 times in 27 idle minutes."""
START_S = 60.0
"""How long a tool of the server, or its end, may take."""

_BROKEN = "error reading record"
"""What a server says of a log with gaps.  Open vSwitch 3.1 leaves them where its disk is full: it
goes on with what comes after what it could not write."""
_LOCK = "hhqqi"
"""Linux's `struct flock`: type, whence, start, length, who holds it."""


class StoreServerError(RuntimeError):
    """A server's database could not be made, or the server not be started or stopped."""


@dataclass(frozen=True, slots=True)
class StoreServer:
    """One member.

    folder   for its database, log and sockets; all of them are the server's own
    member   `tcp:ADDRESS:PORT` or `ssl:ADDRESS:PORT`, where the other members reach it; asked for
             when its database is made, and by nothing else
    listens  more places for clients than `remote`: `ptcp:PORT:ADDRESS`, whose clients may do
             everything, and `pssl:PORT:ADDRESS`, for controllers
    tls      with what it speaks TLS, with clients and with members; asked for when it is started
    """

    folder: Path
    member: str
    listens: tuple[str, ...] = ()
    tls: Certificates | None = None

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
        with self._in_folder():
            self.folder.mkdir(parents=True, exist_ok=True)
        timer = f"--election-timer={election_ms}"
        first = self._standalone(DATABASE, roles.store_schema(), roles.rules())
        _tool("ovsdb-tool", timer, "create-cluster", self.database, first, self.member)
        first.unlink()

    def restore(self, backup: Path, election_ms: int = ELECTION_MS) -> None:
        """Make the database of a new cluster, of which this is the only member, of a backup.  It
        has the tables and rules of this release: an older backup may have none, and a server
        without rules lets every controller write everything.

        Raises StoreServerError, also where the folder has a database, or the file is no backup.
        """
        if not backup.is_file():
            raise StoreServerError(f"{backup}: there is no such file")
        name = _tool("ovsdb-tool", "db-name", backup)
        if name != DATABASE:
            raise StoreServerError(f"{backup}: it is a backup of {name}, not of a store")
        version = _tool("ovsdb-tool", "db-version", backup)
        if tuple(map(int, version.split("."))) > VERSION:
            raise StoreServerError(f"{backup}: it is of a newer release (tables {version})")
        with self._in_folder():
            self.folder.mkdir(parents=True, exist_ok=True)
            copy = self.folder / f"{DATABASE}.db"
            private_file.write(copy, backup.read_bytes())
        _tool("ovsdb-tool", "convert", copy, self._schema(DATABASE, roles.store_schema()))
        _write(roles.rules(), "ovsdb-tool", "transact", copy)
        timer = f"--election-timer={election_ms}"
        _tool("ovsdb-tool", timer, "create-cluster", self.database, copy, self.member)
        copy.unlink()

    def backup(self, file: Path) -> None:
        """Write everything that the store has into a file, while it runs.

        Raises StoreServerError, also where the file is there already.
        """
        if self.pid() is None:
            raise StoreServerError(f"store's folder {self.folder}: no server runs there")
        wait = f"--timeout={START_S:g}"
        text = _tool("ovsdb-client", wait, "backup", self.remote, DATABASE)
        draft = file.with_name(f".{file.name}.new")  # half of one would be restored as a whole
        try:
            if file.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            private_file.write(draft, f"{text}\n".encode())
            draft.rename(file)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            raise StoreServerError(f"{file}: {error.strerror or error}") from None

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
        by_tls = tuple(filter(_by_tls, self.listens))
        self._check_tls(by_tls)
        if by_tls:
            self._standalone(roles.LISTENING, roles.listening_schema(), roles.places(by_tls))
        try:
            _tool(*self.command, "--detach", "--no-chdir", "--verbose=console:off")
        except StoreServerError as error:
            _, broken, record = str(error).partition(_BROKEN)
            if not broken:
                raise
            raise StoreServerError(
                f"{self.database}: {broken}{record}: a part is missing, as where its disk was "
                "full: the member has to be made anew (docs/store.md, When something is lost)"
            ) from None

    def _check_tls(self, places: tuple[str, ...]) -> None:
        """Raises StoreServerError where what it is started with is not enough for TLS, or where
        members would reach each other without it."""
        try:
            own = _tool("ovsdb-tool", "db-local-address", self.database)
        except StoreServerError:
            own = ""  # the server says what is wrong
        if (places or own.startswith("ssl:")) and self.tls is None:
            raise StoreServerError(f"{own}: TLS needs certificates: name their folder (--tls)")
        if self.tls is None:
            return
        if own and not own.startswith("ssl:"):  # it may be older than the rules
            raise StoreServerError(
                f"{self.folder}: its members reach each other without TLS ({own}), and that stays: "
                "make another store"
            )
        try:
            self.tls.check()
        except CertificateError as error:
            raise StoreServerError(str(error)) from None

    def upgrade(self) -> bool:
        """Let the store have the tables and the rules of this release, where it has an older one's;
        clients connect anew then.  Returns whether that was so.

        Raises StoreServerError where the server does not run, or its cluster does not answer.
        """
        if self.pid() is None:
            raise StoreServerError(f"store's folder {self.folder}: no server runs there")
        wait = f"--timeout={START_S:g}"
        if not self.takes_part(START_S):
            raise StoreServerError(
                f"store's folder {self.folder}: after {START_S:g} s this member has not joined its "
                "cluster, or too few members answer"
            )
        schema = self._schema(DATABASE, roles.store_schema())
        there = _tool("ovsdb-client", wait, "get-schema-version", self.remote, DATABASE)
        if tuple(map(int, there.split("."))) > VERSION:
            return False
        other = _tool("ovsdb-client", wait, "needs-conversion", self.remote, schema) == "yes"
        if other:
            _tool("ovsdb-client", wait, "convert", self.remote, schema)
        _write(roles.rules(), "ovsdb-client", wait, "transact", self.remote)
        return other

    def takes_part(self, within_s: float) -> bool:
        """Whether this member is in touch with a majority of its cluster, or comes to be."""
        wait = f"--timeout={within_s:g}"
        try:
            _tool("ovsdb-client", wait, "wait", self.remote, DATABASE, "connected")
        except StoreServerError:
            return False
        return True

    def _schema(self, name: str, schema: dict[str, Any]) -> Path:
        path = self.folder / f"{name}.ovsschema"
        with self._in_folder():
            path.write_text(json.dumps(schema, indent=1) + "\n")
        return path

    def _standalone(self, name: str, schema: dict[str, Any], rows: list[Any]) -> Path:
        """Make a standalone database anew, with some rows."""
        path = self.folder / f"{name}.db"
        with self._in_folder():
            path.unlink(missing_ok=True)
        _tool("ovsdb-tool", "create", path, self._schema(name, schema))
        _write(rows, "ovsdb-tool", "transact", path)
        return path

    @property
    def command(self) -> tuple[str, ...]:
        """What runs the server in the foreground."""
        return (
            "ovsdb-server",
            f"--pidfile={self._pidfile}",
            f"--log-file={self.folder / 'server.log'}",
            f"--unixctl={self._control}",
            f"--remote=p{self.remote}",
            *(f"--remote={place}" for place in self.listens if not _by_tls(place)),
            *self._with_tls(),
            str(self.database),
        )

    def _with_tls(self) -> Iterator[str]:
        if self.tls is not None:
            yield f"--private-key={self.tls.key}"
            yield f"--certificate={self.tls.certificate}"
            yield f"--ca-cert={self.tls.ca}"
        if any(map(_by_tls, self.listens)):
            yield f"--remote={roles.PLACES}"
            yield str(self.folder / f"{roles.LISTENING}.db")

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


def _by_tls(place: str) -> bool:
    return place.startswith("pssl:")


def _write(operations: list[Any], *command: str | Path) -> None:
    """Have a tool do a transaction.

    Raises StoreServerError also where it is refused.
    """
    said = json.loads(_tool(*command, json.dumps(operations)))
    if refused := [one for one in said if one and "error" in one]:
        raise StoreServerError(f"{command[0]}: {refused[0]}")


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
