"""The agent in a Domain 0 and its xenstored, which is slow or goes away."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mgmt.hypervisor import dom0_agent
from mgmt.hypervisor.dom0_agent import Agent, AgentError, XenstoreWatcher
from tests.xenstored import READ, XenstoreClient, Xenstored


class Slow(Xenstored):
    """It does not answer so many reads."""

    unanswered = 0

    def _answer(self, client: XenstoreClient, type_: int, *rest: Any) -> None:
        if type_ == READ and self.unanswered:
            self.unanswered -= 1
        else:
            super()._answer(client, type_, *rest)


@pytest.fixture
def xenstored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "xenstored"))
    made = Slow(tmp_path / "xenstored")
    yield made
    made.close()


def test_a_slow_answer_ends_no_watch(xenstored: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what had changed then is missed, nor what changes later."""
    monkeypatch.setattr(dom0_agent, "ANSWER_S", 0.2)
    store = XenstoreWatcher()
    seen: list[str] = []
    arrived = threading.Condition()

    def changed(path: str) -> None:
        value = store.read(path)
        with arrived:
            seen.append(value)
            arrived.notify_all()

    def has_seen(value: str) -> bool:
        with arrived:
            return arrived.wait_for(lambda: value in seen, timeout=20.0)

    store.watch("/a", changed)
    assert has_seen("")
    xenstored.unanswered = 2
    xenstored.put("/a", "4")
    assert has_seen("4")
    xenstored.put("/a", "5")
    assert has_seen("5")


def test_the_end_of_the_connection_ends_the_waiting(xenstored: Slow) -> None:
    before = set(threading.enumerate())
    store = XenstoreWatcher()
    ours = set(threading.enumerate()) - before
    store.watch("/a", lambda path: None)
    xenstored.unanswered = 1
    threading.Timer(0.1, xenstored.drop).start()
    begun = time.monotonic()
    with pytest.raises(AgentError, match="xenstored does not answer"):
        store.read("/a")
    assert time.monotonic() - begun < dom0_agent.ANSWER_S / 2
    deadline = begun + dom0_agent.ANSWER_S
    while any(thread.is_alive() for thread in ours if thread.daemon):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_request_that_is_cut_off_ends_the_move_as_the_end_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The management entity was killed in the middle of a line: its VM must not stay suspended."""
    ended: list[bool] = []
    agent = Agent()
    agent._move = SimpleNamespace(left_alone=lambda: ended.append(True))  # type: ignore[assignment]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"id": 7, "do": "ru')))
    agent.serve()
    assert ended == [True]
