"""A job that fails is one job's failure: the switch is read again, and the channel goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from xenflow.openflow import wire as of
from xenflow.store.network_file import load
from xenflow.switch.channel import ROOM, SILENT_S, Channel, Job
from xenflow.switch.proof import Bound


class Reader(Channel):
    """Its resync asks one question."""

    def __init__(self) -> None:
        network = load(Path(ROOT) / "conf" / "paper.toml")
        self.calls: deque[tuple[float, Callable[..., Any], tuple[Any, ...]]] = deque()
        self.watches: deque[tuple[float, Callable[..., Any], tuple[Any, ...]]] = deque()
        """Calls that look whether the switch answers at all."""
        self.sent: list[bytes] = []
        self.resyncs = 0
        super().__init__(network.datapaths["host-a"], self.call, Bound(0.5))
        self._open(self)

    def call(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> None:
        calls = self.watches if function == self._watch else self.calls
        calls.append((seconds, function, arguments))

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def _resync(self, pause_s: float = 0.0) -> Job:
        self.resyncs += 1
        if pause_s:
            yield pause_s
        yield self._barrier()
        self.live = True

    def answer_barriers(self) -> None:
        for data in self.sent:
            for message in of.split(data)[0]:
                if message[1] == of.Type.BARRIER_REQUEST:
                    self.on_barrier(int.from_bytes(message[4:8], "big"))
        self.sent.clear()


def failing(channel: Reader) -> Job:
    yield channel._barrier()
    raise ValueError("what the switch answered makes no sense")


def test_a_failed_job_leads_to_one_resync_after_a_pause() -> None:
    channel = Reader()
    done: list[str | None] = []
    channel.submit(failing(channel))
    channel.confirmed(done.append)
    channel.answer_barriers()
    assert channel.resyncs == 1
    ((pause_s, function, arguments),) = channel.calls
    assert pause_s == 1.0
    assert not done
    function(*arguments)
    channel.answer_barriers()
    assert channel.live
    channel.answer_barriers()
    assert done == [None]
    assert channel.resyncs == 1


def test_what_was_promised_is_answered_when_the_switch_goes_away() -> None:
    channel = Reader()
    done: list[str | None] = []
    channel.in_force(done.append)
    channel.confirmed(done.append)
    channel._close()
    assert done == ["host-a: the switch went away"] * 2
    channel.confirmed(done.append)
    assert done[-1] == "host-a: the switch is not connected"


def test_a_job_waits_for_room() -> None:
    channel = Reader()
    steps: list[int] = []

    def bulk() -> Job:
        for number in range(20):
            channel._write(bytes(32 * 1024))
            steps.append(number)
            yield ROOM

    channel.submit(bulk())
    before = len(steps)
    assert 0 < before < 20, "no more than some pieces are on their way"
    barriers = 0
    while len(steps) < 20 and barriers < 100:
        barriers += 1
        for data in list(channel.sent):
            if len(data) == 8:
                channel.on_barrier(int.from_bytes(data[4:8], "big"))
        channel.sent = channel.sent[-1:]
    assert len(steps) == 20


def test_what_fails_again_and_again_does_so_ever_more_rarely_and_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Reader()
    pauses: list[float] = []
    for _ in range(9):
        channel.submit(failing(channel))  # there is always more to do
    for _ in range(8):
        while not channel.calls:
            channel.answer_barriers()
        pause_s, function, arguments = channel.calls.popleft()
        pauses.append(pause_s)
        (words,) = channel.problems.of()
        assert "what the switch answered makes no sense" in words
        function(*arguments)
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert max(pauses) == pauses[-1] == 60.0
    assert len([r for r in caplog.records if r.exc_info]) == 1


def test_a_failure_is_over_when_there_is_nothing_left_to_do() -> None:
    channel = Reader()
    channel.submit(failing(channel))
    channel.answer_barriers()
    assert channel.problems.of()
    _, function, arguments = channel.calls.popleft()
    function(*arguments)
    channel.answer_barriers()
    assert channel.busy == 0
    assert channel.problems.of() == []


def test_a_switch_that_never_answers_is_waited_for_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel = Reader()
    done: list[str | None] = []
    channel.confirmed(done.append)
    wait_s, watch, arguments = channel.watches.popleft()
    assert wait_s == SILENT_S <= 25.0
    watch(*arguments)
    assert not done, "the time is not over"
    _, watch, arguments = channel.watches.popleft()
    monkeypatch.setattr("xenflow.switch.channel.SILENT_S", 0.0)
    watch(*arguments)
    (reason,) = done
    assert reason is not None and reason.startswith("host-a: the switch has not answered for")
    assert channel.problems.of()
    channel.in_force(done.append)
    assert done[1] == reason, "nor by anybody else"
    monkeypatch.undo()
    channel.answer_barriers()
    assert channel.problems.of() == []
    channel.confirmed(done.append)
    channel.answer_barriers()
    assert done[2:] == [None]


def test_a_switch_that_answers_something_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Reader()
    done: list[str | None] = []
    for _ in range(3):
        channel.confirmed(done.append)
    (first,) = (data for data in channel.sent if len(data) == 8)
    _, watch, arguments = channel.watches.popleft()
    since = channel._owes_since
    channel.on_barrier(int.from_bytes(first[4:8], "big"))
    assert since is not None and channel._owes_since is not None
    assert channel._owes_since >= since
    watch(*arguments)
    assert not channel._silent
    (again,) = channel.watches
    assert 0 < again[0] <= SILENT_S
    while channel.busy:
        channel.answer_barriers()
    assert channel._owes_since is None
    assert done == [None] * 3
