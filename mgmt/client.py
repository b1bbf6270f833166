"""Asks controllers over their management sockets.

Used by the `xenflow` command and by the orchestration of a migration; one `Client` is one
connection and belongs to one thread.  It notices at once when the other side goes away, so a
dead controller costs `CONNECT_S` and not the whole time a long request may take.  It never
repeats a request by itself: whether that is harmless only the caller knows.
"""

from __future__ import annotations

import getpass
import itertools
import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Any, Self

import zmq
from zmq.utils.monitor import recv_monitor_message

from mgmt.at_once import at_once
from xenflow.model import management
from xenflow.model.management import Answer, ManagementError

log = logging.getLogger("mgmt.client")

TIMEOUT_S = 5.0
"""How long one answer, or one part of it, may take."""

CONNECT_S = 2.0
"""How long a controller may take to accept the connection."""
AGAIN_S = 0.5
"""The same where it was silent less than STILL_S ago: a command asks many times."""
STILL_S = 30.0
_silent: dict[str, float] = {}
"""By address: when a controller was silent last, by `time.monotonic`."""


def asker() -> str:
    """Who asks, for people: user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user here
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[: management.MAX_ID]


HEARTBEAT_MS = 2000
HEARTBEAT_TIMEOUT_MS = 6000
"""ZeroMQ's own heartbeats, answered by the peer's I/O thread even while its controller works."""


class AskError(Exception):
    """A controller gave no result."""

    code = "failed"


class Refused(AskError):
    """The controller answered that it does not do it; nothing was changed (`code` not-in-force: it
    was, and the switch does not confirm it)."""

    def __init__(self, code: str, message: str, controller: str = "") -> None:
        if code in ("unknown-verb", "unknown-argument"):  # this command would not ask for it
            message += ": it is of another release than this command: install the same"
        super().__init__(f"{controller}: {message}" if controller else message)
        self.code = code
        self.message = message


class NotSent(Refused):
    """The arguments do not fit the verb, or are too large: this side did not ask at all."""


class Unreachable(AskError):
    """No answer.  `sent`: the request had left, so it may have been carried out."""

    code = "unreachable"

    def __init__(self, controller: str, url: str, reason: str, sent: bool = False) -> None:
        name = f"{controller} ({url})" if controller and controller != url else url
        done = "; what was asked may have been done" if sent else ""
        super().__init__(f"{name}: {reason}{done}")
        self.sent = sent


class BadAnswer(AskError):
    """The other side does not keep to the protocol: another release, or no controller at all."""

    def __init__(self, controller: str, error: ManagementError) -> None:
        super().__init__(f"{controller}: the answer cannot be read: {error.message}")
        self.code = error.code


class Client:
    """One controller's management socket.

    url         tcp://ADDRESS:PORT
    controller  its name, for messages
    timeout_s   for requests that say nothing else
    """

    def __init__(self, url: str, controller: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self.url = url
        self.controller = controller or url
        self.timeout_s = timeout_s
        self._ids = (f"{os.getpid()}-{id(self):x}-{n}" for n in itertools.count(1))
        self._by = asker()
        self._connected = False
        self._losses = 0
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IPV6, 1),
            (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 1000),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS),
            (zmq.MAXMSGSIZE, management.MAX_ANSWER),
        ):
            self._socket.setsockopt(option, value)
        self._events: zmq.Socket[bytes] = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._events, zmq.POLLIN)
        try:
            self._socket.connect(url)
        except zmq.ZMQError as error:
            self.close()
            reason = f"not an address to connect to: {error}"
            raise Unreachable(self.controller, url, reason) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.disable_monitor()
        self._events.close(0)
        self._socket.close(0)

    def request(
        self, verb: str, /, timeout_s: float | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """The result of a verb.

        Raises Refused (NotSent where the arguments do not fit the verb), Unreachable, BadAnswer.
        """
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        started = time.monotonic()
        id = self._send(verb, timeout_s, arguments)
        answer = self._receive(id, timeout_s)
        log.info("%s: %s: %.0f ms", self.controller, verb, (time.monotonic() - started) * 1000)
        return answer.result

    def _send(self, verb: str, timeout_s: float, arguments: Mapping[str, Any]) -> str:
        id = next(self._ids)
        try:
            frame = management.request(verb, id, by=self._by, **arguments)
        except ManagementError as error:
            raise NotSent(error.code, error.message) from None
        self._await_connection(min(CONNECT_S, timeout_s))
        try:
            self._socket.send_multipart([b"", frame], flags=zmq.NOBLOCK)
        except zmq.Again:
            reason = "the connection takes nothing more"
            raise Unreachable(self.controller, self.url, reason) from None
        return id

    def _await_connection(self, within_s: float) -> None:
        self._note_events()
        now = time.monotonic()
        still = now - _silent.get(self.url, float("-inf")) < STILL_S
        if still:
            within_s = min(within_s, AGAIN_S)
        deadline = now + within_s
        while not self._connected:
            left = deadline - time.monotonic()
            if left <= 0 or not self._events.poll(round(left * 1000)):
                if still or within_s >= CONNECT_S:
                    _silent[self.url] = time.monotonic()
                reason = f"no controller answers there within {within_s:g} s; does it run?"
                raise Unreachable(self.controller, self.url, reason)
            self._note_events()
        _silent.pop(self.url, None)

    def _note_events(self) -> None:
        while self._events.poll(0):
            event = recv_monitor_message(self._events)["event"]
            self._connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._losses += not self._connected

    def _receive(self, id: str, timeout_s: float) -> Answer:
        """The next answer to a request; late answers to earlier ones are passed over."""
        deadline = time.monotonic() + timeout_s
        losses = self._losses
        while True:
            left_ms = max(0, round((deadline - time.monotonic()) * 1000))
            ready = dict(self._poller.poll(left_ms))
            if self._socket in ready:
                answer = self._read()
                if answer.id in (id, ""):
                    if not answer.ok:
                        raise Refused(answer.code, answer.message, self.controller)
                    if answer.id:
                        return answer
                continue
            self._note_events()
            if self._losses > losses:
                reason = "the connection was lost before the answer"
            elif not ready:
                reason = f"no answer within {timeout_s:g} s"
            else:
                continue
            raise Unreachable(self.controller, self.url, reason, sent=True)

    def _read(self) -> Answer:
        try:
            return management.parse_answer(self._socket.recv_multipart()[-1])
        except ManagementError as error:
            raise BadAnswer(self.controller, error) from None


Answers = Mapping[str, dict[str, Any] | AskError]
"""What each controller answered, or why it did not."""


def parted(answers: Answers) -> tuple[dict[str, dict[str, Any]], dict[str, AskError]]:
    """Those who answered, and those who did not."""
    silent = {name: a for name, a in answers.items() if isinstance(a, AskError)}
    return {name: a for name, a in answers.items() if not isinstance(a, AskError)}, silent


def ask_all(
    urls: Mapping[str, str], verb: str, /, timeout_s: float = TIMEOUT_S, **arguments: Any
) -> dict[str, dict[str, Any] | AskError]:
    """The same request to many controllers at once: name -> result, or why there is none."""

    def ask(name: str) -> dict[str, Any] | AskError:
        try:
            with Client(urls[name], name) as client:
                return client.request(verb, timeout_s=timeout_s, **arguments)
        except AskError as error:
            return error

    return at_once(ask, urls)
