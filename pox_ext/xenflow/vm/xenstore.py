"""A client of xenstored in the controller's loop: reads, lists and watches, never waits.

Xenstored answers one request after the other; what it says goes to the callback that was given
with the request.  When the connection ends, all that was asked is forgotten and `connected` is
called again after the next one stands: whoever uses this begins anew there.

Called by `domains`.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

from pox.lib.recoco import Select, Sleep, Task

from xenflow.vm import xenstore_wire as wire
from xenflow.vm.xenstore_wire import XenstoreMessage

log = logging.getLogger("xenflow.xenstore")

SOCKET = "/run/xenstored/socket"
AGAIN_S = 1.0
"""How long until a connection is tried again."""
LOOK_S = 0.2
"""How long a request that xenstored did not take at once waits."""
MAX_WAITING = 1 << 20
_READ = 4096

Then = Callable[[str | None], None]
"""Gets a value, or None where there is no such node."""


def socket_path() -> str:
    """Where xenstored listens: as Xen's own library finds it (xs_daemon_socket)."""
    folder = os.environ.get("XENSTORED_RUNDIR")
    return os.environ.get("XENSTORED_PATH") or (f"{folder}/socket" if folder else SOCKET)


class Xenstore:
    """See the module."""

    def __init__(self, path: str, connected: Callable[[], None], lost: Callable[[], None]) -> None:
        self._path = path
        self._connected = connected
        self._lost = lost
        self._sock: socket.socket | None = None
        self._out = b""
        self._requests = 0
        self._waiting: dict[int, Callable[[XenstoreMessage], None]] = {}
        self._watches: dict[str, Callable[[str], None]] = {}
        self._closed = False

    def start(self) -> None:
        """Begin to connect."""
        Task(target=self._run).start()

    def close(self) -> None:
        """Ask and hear no more; the socket is closed by the task, which may be waiting for it."""
        self._closed = True

    def read(self, path: str, then: Then) -> None:
        """A node's value."""
        self._ask(wire.READ, (path,), lambda m: then(None if m.type == wire.ERROR else m.payload))

    def list(self, path: str, then: Callable[[list[str]], None]) -> None:
        """The names of a node's children; none where there is no such node."""

        def listed(answer: XenstoreMessage) -> None:
            then([] if answer.type == wire.ERROR else [name for name in answer.parts if name])

        self._ask(wire.DIRECTORY, (path,), listed)

    def watch(self, path: str, changed: Callable[[str], None]) -> None:
        """Call `changed(path)` at once, and whenever this node or one below it has changed."""
        self._watches[path] = changed
        self._ask(wire.WATCH, (path, path), lambda m: self._watched(path, m))

    def unwatch(self, path: str) -> None:
        """Hear no more of a node."""
        if self._watches.pop(path, None) is not None:
            self._ask(wire.UNWATCH, (path, path), lambda _: None)

    def _watched(self, path: str, answer: XenstoreMessage) -> None:
        if answer.type == wire.ERROR:
            log.error("%s cannot be watched: %s", path, answer.payload)

    def _ask(
        self, type_: int, texts: tuple[str, ...], then: Callable[[XenstoreMessage], None]
    ) -> None:
        if self._sock is None:
            return
        self._requests = self._requests + 1 & 0xFFFFFFFF
        self._waiting[self._requests] = then
        self._out += wire.request(type_, self._requests, *texts)
        with suppress(OSError):  # the task will see it
            self._flush(self._sock)

    # --- the connection ---------------------------------------------------------------------------

    def _run(self) -> Generator[Any, Any, None]:
        said = False
        while not self._closed:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                sock.connect(self._path)
                log.info("xenstore: connected to %s", self._path)
                said = False
                self._sock = sock
                self._connected()
                yield from self._serve(sock)
            except (OSError, wire.XenstoreError) as error:
                if not self._closed and not said:
                    log.warning("xenstore: %s: %s", self._path, error)
                    said = True
            finally:
                sock.close()
            if self._sock is not None:
                self._sock, self._out = None, b""
                self._waiting.clear()
                self._watches.clear()
                self._lost()
            if not self._closed:
                yield Sleep(AGAIN_S)

    def _serve(self, sock: socket.socket) -> Generator[Any, Any, None]:
        reader = wire.XenstoreReader()
        while not self._closed:
            self._flush(sock)
            ready, _, _ = yield Select([sock], [], [], LOOK_S)
            if not ready:
                continue
            try:
                more = sock.recv(_READ)
            except BlockingIOError:
                continue
            if not more:
                raise ConnectionError("xenstored has closed the connection")
            for message in reader.feed(more):
                self._take(message)

    def _flush(self, sock: socket.socket) -> None:
        if len(self._out) > MAX_WAITING:
            raise ConnectionError("xenstored does not answer")
        while self._out:
            try:
                self._out = self._out[sock.send(self._out) :]
            except BlockingIOError:
                return

    def _take(self, message: XenstoreMessage) -> None:
        try:
            if message.type == wire.WATCH_EVENT:
                path, token = message.parts[:2]
                if token in self._watches:
                    self._watches[token](path)
                return
            then = self._waiting.pop(message.request, None)
            if then is not None:
                then(message)
        except Exception:
            log.exception("a message of xenstored could not be dealt with")
