"""The store on OVSDB's servers: a thread that does what the session with them says.

The thread owns the socket, so that a server that hangs, or a first view of megabytes, never holds
the program's own loop up; whatever it has to say goes to that loop by `post`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from itertools import count
from typing import Any

from xenflow.store.certificates import CertificateError, Certificates
from xenflow.store.network_store import (
    Post,
    StoreState,
    WatchedTable,
    WatchEvent,
    check_watch,
)
from xenflow.store.ovsdb_session import (
    PATIENCE_S,
    Dial,
    Effect,
    HangUp,
    OvsdbSession,
    SendOctets,
    Tell,
)
from xenflow.store.schema import StoreWriter
from xenflow.store.transaction import StoreMistakeError, Transaction, WriteOutcome, check

log = logging.getLogger("xenflow.store")

PIECE = 1 << 18
"""Octets that are read from the socket at once."""


class OvsdbStore:
    """A `NetworkStore` on the servers at `remotes` (`unix:PATH`, `tcp:ADDRESS:PORT`,
    `ssl:ADDRESS:PORT`).

    post        hands a value over to the program's loop
    writer      who writes: what is another's is refused as a mistake
    cluster     the only cluster to use; empty: the first that is met
    patience_s  how long a server may be silent before another is tried
    tls         with what it speaks TLS to servers that are named `ssl:`

    Raises StoreMistakeError where no server, or something else, is named, or where certificates
    are missing.
    """

    def __init__(
        self,
        remotes: tuple[str, ...],
        post: Post,
        writer: StoreWriter,
        cluster: str = "",
        patience_s: float = PATIENCE_S,
        tls: Certificates | None = None,
    ) -> None:
        if not remotes:
            raise StoreMistakeError("no server is named")
        for remote in remotes:
            _address(remote)
            if remote.startswith("ssl:"):
                _check(remote, tls)
        self._tls = tls
        self._post = post
        self._writer = writer
        self._session = OvsdbSession(remotes, cluster, patience_s)
        self._state = self._session.state
        self._asked: deque[Callable[[], list[Effect]]] = deque()
        self._effects: deque[Effect] = deque()
        self._died = ""
        """What the thread died of; empty: it has not."""
        self._burying = threading.Lock()
        self._numbers = count(1)
        self._ending = False
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._socket: socket.socket | None = None
        self._connected = False
        self._dialled = ""
        """The server at the socket's other end."""
        self._unsent = bytearray()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def transact(
        self, transaction: Transaction, deadline_s: float, done: Callable[[WriteOutcome], Any]
    ) -> None:
        """As `NetworkStore.transact`."""
        check(transaction, self._writer)
        until = time.monotonic() + deadline_s
        self._ask(lambda: self._session.transact(transaction, until, done))

    def watch(
        self,
        tables: tuple[WatchedTable, ...],
        deadline_s: float,
        listener: Callable[[WatchEvent], Any],
    ) -> Callable[[], None]:
        """As `NetworkStore.watch`."""
        check_watch(tables)
        due = time.monotonic() + deadline_s
        name = f"watch {next(self._numbers)}"
        ended = threading.Event()

        def tell(event: WatchEvent) -> None:
            if not ended.is_set():
                listener(event)

        def end() -> None:
            ended.set()
            self._ask(lambda: self._session.unwatch(name))

        self._ask(lambda: self._session.watch(name, tables, due, tell))
        return end

    def state(self) -> StoreState:
        """As `NetworkStore.state`."""
        return self._state

    def close(self) -> None:
        """Leave the server and end the thread; what has no outcome yet is told none."""
        self._ending = True
        self._wake()
        self._thread.join()
        self._waker.close()

    # --- the program's side ------------------------------------------------------------------

    def _ask(self, call: Callable[[], list[Effect]]) -> None:
        self._asked.append(call)
        if self._died:
            self._tell_waiters()
        else:
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is awake already, or has ended
            self._waker.send(b"!", socket.MSG_DONTWAIT)

    # --- the thread's side -------------------------------------------------------------------

    def _run(self) -> None:
        words = "it has been closed"
        try:
            self._serve()
        except Exception as error:
            log.exception("the store's thread has ended")
            self._died = words = f"its thread has ended: {error!r}"
        self._state = replace(self._state, connected=False, leader="", words=words)
        self._hang_up()
        self._selector.close()
        self._woken.close()
        if self._died:
            self._tell_waiters()

    def _tell_waiters(self) -> None:
        """The thread has died: have everybody told so who waits, or has just asked."""
        with self._burying:
            effects = [*self._effects, *self._session.end(self._died)]
            self._effects.clear()
            while self._asked:
                self._asked.popleft()()
                effects += self._session.end(self._died)
        for effect in effects:
            if isinstance(effect, Tell):
                with contextlib.suppress(Exception):  # it may be what the thread died of
                    self._post(effect.call, effect.value)

    def _serve(self) -> None:
        while not self._ending:
            wait_s = max(0.0, self._session.wake_at() - time.monotonic())
            ready = self._selector.select(wait_s)
            now = time.monotonic()  # until then nobody was silent who is heard now
            for key, events in ready:
                if key.fileobj is self._woken:
                    self._woken.recv(PIECE)
                elif key.fileobj is self._socket:
                    self._serve_socket(events)
            while self._asked:
                self._do(self._asked.popleft()())
            self._do(self._session.tick(now))

    def _do(self, effects: list[Effect]) -> None:
        state = self._session.state
        if state.connected != self._state.connected:
            log.info("%s", state.words or f"{state.leader} leads cluster {state.cluster}")
        self._state = state
        self._effects += effects
        while self._effects:
            match self._effects.popleft():
                case Dial(remote):
                    self._dial(remote)
                case SendOctets(octets):
                    self._unsent += octets
                case HangUp():
                    self._hang_up()
                case Tell(call, value):
                    self._post(call, value)
        self._flush()

    def _dial(self, remote: str) -> None:
        family, address = _address(remote)
        try:
            self._socket = socket.socket(family)
            self._socket.setblocking(False)
            if family != socket.AF_UNIX:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            error = self._socket.connect_ex(address)
        except OSError as refused:  # no descriptor, no such family, a path that is too long
            self._lost(refused.strerror or str(refused))
            return
        if error not in (0, errno.EINPROGRESS):
            self._lost(os.strerror(error))
            return
        self._dialled = remote
        self._selector.register(self._socket, selectors.EVENT_WRITE)

    def _serve_socket(self, events: int) -> None:
        assert self._socket is not None
        if not self._connected:
            self._go_on_dialling()
            return
        if events & selectors.EVENT_WRITE:
            self._flush()
        if events & selectors.EVENT_READ and self._socket is not None:
            try:
                octets = self._socket.recv(PIECE)
            except _NOT_NOW:
                return
            except OSError as error:
                self._failed(error)
                return
            if octets:
                self._do(self._session.received(octets, time.monotonic()))
            else:
                self._lost("has closed the connection")

    def _go_on_dialling(self) -> None:
        """The socket is connected, or could not be; or TLS is being agreed on."""
        assert self._socket is not None
        if error := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._lost(os.strerror(error))
            return
        wanted = selectors.EVENT_READ
        if self._dialled.startswith("ssl:"):
            try:
                self._shake_hands(self._socket)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLWantWriteError:
                wanted = selectors.EVENT_WRITE
            except CertificateError as missing:
                self._lost(f"is not asked: {missing}")
                return
            except OSError as refused:
                self._failed(refused)
                return
            else:
                self._connected = True
        else:
            self._connected = True
        self._selector.modify(self._socket, wanted)
        if self._connected:
            self._do(self._session.dialled(time.monotonic()))

    def _shake_hands(self, plain: socket.socket) -> None:
        """A step of agreeing on TLS.  Raises OSError, also where there are more."""
        if not isinstance(plain, ssl.SSLSocket):
            assert self._tls is not None
            context = self._tls.client()
            self._selector.unregister(plain)
            _, (address, _) = _address(self._dialled)
            self._socket = context.wrap_socket(
                plain, do_handshake_on_connect=False, server_hostname=address
            )
            self._selector.register(self._socket, selectors.EVENT_READ)
        assert isinstance(self._socket, ssl.SSLSocket)
        self._socket.do_handshake()

    def _failed(self, error: OSError) -> None:
        if self._tls is None or not isinstance(self._socket, ssl.SSLSocket):
            self._lost(error.strerror or str(error))
            return
        if not isinstance(error, ssl.SSLError):
            try:
                self._socket.recv(PIECE)  # it may have said why
            except ssl.SSLError as said:
                error = said
            except OSError:
                pass
        self._lost(self._tls.words(error))

    def _flush(self) -> None:
        """Send as much as the socket takes; the rest when it takes more."""
        if self._socket is None or not self._connected:
            return
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except _NOT_NOW:
            pass
        except OSError as error:
            self._failed(error)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        self._selector.modify(self._socket, wanted)

    def _lost(self, words: str) -> None:
        self._hang_up()
        self._do(self._session.lost(time.monotonic(), words))

    def _hang_up(self) -> None:
        if self._socket is None:
            return
        with contextlib.suppress(KeyError):  # it was refused before it was looked at
            self._selector.unregister(self._socket)
        self._socket.close()
        self._socket = None
        self._connected = False
        self._unsent.clear()


_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def _check(remote: str, tls: Certificates | None) -> None:
    if tls is None:
        raise StoreMistakeError(f"{remote}: TLS needs certificates, and none are named")
    try:
        tls.check()
    except CertificateError as error:
        raise StoreMistakeError(f"{remote}: {error}") from None


def _address(remote: str) -> tuple[socket.AddressFamily, Any]:
    """How a server is dialled.

    Raises StoreMistakeError where it is none of those that the class names.
    """
    kind, _, rest = remote.partition(":")
    if kind == "unix" and rest:
        return socket.AF_UNIX, rest
    host, _, port = rest.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    with contextlib.suppress(ValueError):
        version = ip_address(bare).version
        if kind in ("tcp", "ssl") and (version == 6) == (bare != host) and 0 < int(port) < 1 << 16:
            return (socket.AF_INET6 if version == 6 else socket.AF_INET), (bare, int(port))
    raise StoreMistakeError(f"{remote}: expected unix:PATH, tcp:ADDRESS:PORT or ssl:ADDRESS:PORT")
