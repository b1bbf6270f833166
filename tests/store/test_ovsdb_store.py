"""The thread behind the store, beside a server that the test plays: what it tells when it dies, and
that it hears before it judges."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.store.store_rig import CHANGES, LONG_S, Loop, change
from xenflow.store.json_stream import JsonStream
from xenflow.store.network_store import ViewOverdue
from xenflow.store.ovsdb_session import PATIENCE_S, OvsdbSession
from xenflow.store.ovsdb_store import OvsdbStore
from xenflow.store.schema import PLANNER
from xenflow.store.transaction import (
    Committed,
    RefusalReason,
    WriteOutcome,
    WriteRefused,
    WriteUnknown,
)

LEADER = {
    "name": "XenFlow",
    "model": "clustered",
    "connected": True,
    "leader": True,
    "cid": ["uuid", "11111111-1111-4111-8111-111111111111"],
}
DIED = "its thread has ended: RuntimeError('a mistake')"


class Server:
    """A leader that says what the test has it say."""

    def __init__(self, folder: Path) -> None:
        self.remote = f"unix:{folder / 'sock'}"
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / "sock"))
        self._listening.listen()
        self._listening.settimeout(LONG_S)
        self._client = socket.socket()
        self._stream = JsonStream()
        self._heard: list[dict[str, Any]] = []

    def leads(self) -> None:
        """Take a client, and say to it that this is the leader."""
        self._client.close()
        self._client, _ = self._listening.accept()
        self._client.settimeout(LONG_S)
        self.answers(self.hears("monitor"), {"Database": {"u": {"new": LEADER}}})

    def hears(self, method: str) -> Any:
        """The id of the next request, which is such a one."""
        while not self._heard:
            octets = self._client.recv(65536)
            assert octets, "the client has gone"
            self._heard += self._stream.feed(octets)
        request = self._heard.pop(0)
        assert request["method"] == method
        return request["id"]

    def answers(self, id: Any, result: Any) -> None:
        self._client.sendall(json.dumps({"id": id, "result": result, "error": None}).encode())

    def close(self) -> None:
        self._client.close()
        self._listening.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


def dies(*_: object) -> Any:
    raise RuntimeError("a mistake")


def test_who_waits_when_the_thread_dies_is_told(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop()
    store = OvsdbStore((server.remote,), loop.post, PLANNER)
    server.leads()
    loop.run(lambda: store.state().connected)
    told: list[object] = []
    store.transact((change(1),), LONG_S, told.append)
    store.watch((CHANGES,), LONG_S, told.append)
    request = server.hears("transact")
    server.hears("monitor_cond_since")
    monkeypatch.setattr(OvsdbSession, "received", dies)
    server.answers(request, [{}, {}])
    loop.run(lambda: len(told) == 2)
    assert told == [WriteUnknown(f"sent, and then: {DIED}"), ViewOverdue(DIED)]
    assert (store.state().connected, store.state().words) == (False, DIED)
    store.close()


def test_who_asks_after_the_thread_has_died_is_told(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OvsdbSession, "dialled", dies)
    loop = Loop()
    store = OvsdbStore((server.remote,), loop.post, PLANNER)
    loop.run(lambda: store.state().words == DIED)
    told: list[object] = []
    store.transact((change(1),), LONG_S, told.append)
    end = store.watch((CHANGES,), LONG_S, told.append)
    loop.run(lambda: len(told) == 2)
    refused = WriteRefused(RefusalReason.UNREACHABLE, None, f"not sent: {DIED}")
    assert told == [refused, ViewOverdue(DIED)]
    end()
    store.close()


def test_an_outcome_behind_one_that_cannot_be_handed_over_is_told(tmp_path: Path) -> None:
    """Both are out of time at the same moment."""
    loop, posted = Loop(), 0

    def post(call: Callable[[Any], Any], value: Any) -> None:
        nonlocal posted
        posted += 1
        if posted == 1:
            dies()
        loop.post(call, value)

    store = OvsdbStore((f"unix:{tmp_path}/nobody",), post, PLANNER)
    told: list[WriteOutcome] = []
    for number in (1, 2):
        store.transact((change(number),), 0.0, told.append)
    loop.run(lambda: told)
    assert isinstance(told[0], WriteRefused)
    assert told[0].words.startswith("not sent")
    assert store.state().words == DIED
    store.close()


def test_who_has_closed_it_finds_it_closed(server: Server) -> None:
    store = OvsdbStore((server.remote,), Loop().post, PLANNER)
    server.leads()
    Loop().run(lambda: store.state().connected)
    store.close()
    assert (store.state().connected, store.state().words) == (False, "it has been closed")


def test_what_came_while_the_thread_had_to_wait_is_heard(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine stood still for longer than a server may be silent: it was not the server."""
    loop, stood_still_s = Loop(), 0.0
    told: list[WriteOutcome] = []

    def post(call: Callable[[Any], Any], value: Any) -> None:
        nonlocal stood_still_s
        if not stood_still_s:
            server.answers(second, [{}, {}])
            stood_still_s = 2 * PATIENCE_S
        loop.post(call, value)

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + stood_still_s)
    monkeypatch.setattr("xenflow.store.ovsdb_store.time", clock)
    store = OvsdbStore((server.remote,), post, PLANNER)
    server.leads()
    for number in (1, 2):
        store.transact((change(number),), LONG_S, told.append)
    first, second = server.hears("transact"), server.hears("transact")
    server.answers(first, [{}, {}])
    loop.run(lambda: len(told) == 2)
    assert told == [Committed((1,)), Committed((1,))]
    store.close()
