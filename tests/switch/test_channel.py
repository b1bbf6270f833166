"""A job that fails is one job's failure: the switch is read again, and the channel goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from tests.written_switch import PlayedHost
from xenflow.openflow import build, wire
from xenflow.switch.channel import FIRST_XID, PACKET_OUT_XID, Channel, SwitchRequest
from xenflow.switch.clock import Clock
from xenflow.switch.jobs import ROOM, Job, Jobs
from xenflow.switch.problems import Problems
from xenflow.switch.promises import Promises
from xenflow.switch.proof import Bound
from xenflow.switch.silence import SILENT_S

NAME = "host-a"


class Reader:
    """A switch's channel and jobs; what it reads is one question."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: deque[tuple[float, Callable[..., Any], tuple[Any, ...]]] = deque()
        self.watches: deque[tuple[float, Callable[..., Any], tuple[Any, ...]]] = deque()
        """Calls that look whether the switch answers at all."""
        self.sent: list[bytes] = []
        self.resyncs = 0
        self.live = False
        clock = Clock(self.call, lambda: self.now)
        self.problems = problems = Problems(NAME)
        self.channel = channel = Channel(NAME, problems, clock, self._give_up)
        self.jobs = Jobs(channel, self._read, self._router_failed, self._give_up)
        self.promises = Promises(channel, self.jobs, Bound(0.5), b"", *3 * (lambda: True,))
        channel.open(self, b"")

    def call(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> None:
        calls = self.watches if function == self.channel.silence._watch else self.calls
        calls.append((seconds, function, arguments))

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        """The switch goes away."""
        self.channel.close()
        self.jobs.close()
        self.promises.close(f"{NAME}: the switch went away")

    def _give_up(self, reason: str) -> None:
        self.promises.break_all(reason)

    def _router_failed(self, router: str, error: Exception) -> Job:
        raise AssertionError(f"no job is {router}'s") from error
        yield ROOM

    def _read(self, pause_s: float) -> Job:
        self.resyncs += 1
        if pause_s:
            yield pause_s
        yield self.channel.barrier()
        self.live = True

    def answer_barriers(self) -> None:
        for data in self.sent:
            for message in wire.split(data)[0]:
                if message[1] == wire.MessageType.BARRIER_REQUEST:
                    self.channel.on_barrier(int.from_bytes(message[4:8], "big"))
        self.sent.clear()


def failing(reader: Reader) -> Job:
    yield reader.channel.barrier()
    raise ValueError("what the switch answered makes no sense")


def test_a_failed_job_leads_to_one_resync_after_a_pause() -> None:
    reader = Reader()
    done: list[str | None] = []
    reader.jobs.submit(failing(reader))
    reader.promises.confirmed(done.append)
    reader.answer_barriers()
    assert reader.resyncs == 1
    ((pause_s, function, arguments),) = reader.calls
    assert pause_s == 1.0
    assert not done
    function(*arguments)
    reader.answer_barriers()
    assert reader.live
    reader.answer_barriers()
    assert done == [None]
    assert reader.resyncs == 1


def test_what_was_promised_is_answered_when_the_switch_goes_away() -> None:
    reader = Reader()
    done: list[str | None] = []
    reader.promises.in_force(done.append)
    reader.promises.confirmed(done.append)
    reader.close()
    assert done == ["host-a: the switch went away"] * 2
    reader.promises.confirmed(done.append)
    assert done[-1] == "host-a: the switch is not connected"


def test_what_was_promised_is_answered_where_a_job_finds_out_that_the_switch_went_away() -> None:
    """A core may tell so while something is sent."""
    host = PlayedHost()
    switch, sent = host.switch, host.wire.send
    done: list[str | None] = []
    ended: list[bool] = []

    def job() -> Job:
        try:
            host.wire.send = lambda data: switch.disconnect()  # type: ignore[method-assign]
            switch.channel.send(build.barrier_request(0))
            yield 0.1
            raise AssertionError("it goes on without a switch")
        finally:
            ended.append(True)

    switch.jobs.submit(busy())
    switch.jobs.submit(job())
    switch.promises.confirmed(done.append)
    switch.promises.in_force(done.append)
    host.wire.run()
    assert done == ["host-a: the switch went away"] * 2
    assert ended == [True]
    assert not switch.jobs.busy
    host.wire.send = sent  # type: ignore[method-assign]
    host.wire.attach(switch, host.PORTS)
    switch.promises.in_force(done.append)
    host.wire.run()
    assert done[2:] == [None]


def busy() -> Job:
    yield 0.5


def test_a_job_waits_for_room() -> None:
    reader = Reader()
    steps: list[int] = []

    def bulk() -> Job:
        for number in range(20):
            reader.channel.write(bytes(32 * 1024))
            steps.append(number)
            yield ROOM

    reader.jobs.submit(bulk())
    before = len(steps)
    assert 0 < before < 20, "no more than some pieces are on their way"
    barriers = 0
    while len(steps) < 20 and barriers < 100:
        barriers += 1
        for data in list(reader.sent):
            if len(data) == 8:
                reader.channel.on_barrier(int.from_bytes(data[4:8], "big"))
        reader.sent = reader.sent[-1:]
    assert len(steps) == 20


def test_what_fails_again_and_again_does_so_ever_more_rarely_and_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader = Reader()
    pauses: list[float] = []
    for _ in range(9):
        reader.jobs.submit(failing(reader))  # there is always more to do
    for _ in range(8):
        while not reader.calls:
            reader.answer_barriers()
        pause_s, function, arguments = reader.calls.popleft()
        pauses.append(pause_s)
        (words,) = reader.problems.of()
        assert "what the switch answered makes no sense" in words
        function(*arguments)
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert max(pauses) == pauses[-1] == 60.0
    assert len([r for r in caplog.records if r.exc_info]) == 1


def test_a_failure_is_over_when_there_is_nothing_left_to_do() -> None:
    reader = Reader()
    reader.jobs.submit(failing(reader))
    reader.answer_barriers()
    assert reader.problems.of()
    _, function, arguments = reader.calls.popleft()
    function(*arguments)
    reader.answer_barriers()
    assert reader.jobs.busy == 0
    assert reader.problems.of() == []


def test_a_switch_that_never_answers_is_waited_for_by_nobody() -> None:
    reader = Reader()
    done: list[str | None] = []
    reader.promises.confirmed(done.append)
    wait_s, watch, arguments = reader.watches.popleft()
    assert wait_s == SILENT_S <= 25.0
    watch(*arguments)
    assert not done, "the time is not over"
    _, watch, arguments = reader.watches.popleft()
    reader.now += SILENT_S
    watch(*arguments)
    (reason,) = done
    assert reason is not None and reason.startswith("host-a: the switch has not answered for")
    assert reader.problems.of()
    reader.promises.in_force(done.append)
    assert done[1] == reason, "nor by anybody else"
    reader.answer_barriers()
    assert reader.problems.of() == []
    reader.promises.confirmed(done.append)
    reader.answer_barriers()
    assert done[2:] == [None]


def test_a_switch_that_answers_something_is_not_silent() -> None:
    reader = Reader()
    done: list[str | None] = []
    for _ in range(3):
        reader.promises.confirmed(done.append)
    (first,) = (data for data in reader.sent if len(data) == 8)
    _, watch, arguments = reader.watches.popleft()
    since = reader.channel.silence._owes_since
    reader.channel.on_barrier(int.from_bytes(first[4:8], "big"))
    assert since is not None and reader.channel.silence._owes_since is not None
    assert reader.channel.silence._owes_since >= since
    watch(*arguments)
    assert not reader.channel.silence.why
    (again,) = reader.watches
    assert 0 < again[0] <= SILENT_S
    while reader.jobs.busy:
        reader.answer_barriers()
    assert reader.channel.silence._owes_since is None
    assert done == [None] * 3


def test_questions_go_on_after_the_last_transaction_id() -> None:
    """A VM that changes its routes all the time makes them come round in days."""
    reader = Reader()
    reader.live = True
    asked: list[int] = []
    done: list[str | None] = []
    reader.channel._xid = PACKET_OUT_XID - 5
    for number in range(10):
        reader.channel.write(build.features_request(0))
        reader.promises.confirmed(done.append)
        asked += [
            int.from_bytes(message[4:8], "big")
            for data in reader.sent
            for message in wire.split(data)[0]
            if message[1] == wire.MessageType.BARRIER_REQUEST
        ]
        reader.answer_barriers()
        assert done == [None] * (number + 1)
    assert all(FIRST_XID <= xid < PACKET_OUT_XID for xid in asked)
    assert len(set(asked)) == len(asked)
    assert reader.channel.in_flight_bytes == 0


def test_an_answer_after_the_last_transaction_id_is_for_those_before() -> None:
    """What is on its way is counted by barriers of before and after it; a question of before it
    that is open still keeps its id."""
    reader = Reader()
    channel = reader.channel
    answers: list[Any] = []
    channel.ask(SwitchRequest(FIRST_XID, b""), answers.append)
    channel._xid = PACKET_OUT_XID - 1
    for size in (8, 16):
        channel.write(bytes(size))
        channel.fence()
    first, then = (xid for xid, _ in channel._in_flight)
    assert (first, then) == (PACKET_OUT_XID - 1, FIRST_XID + 1)
    channel.on_barrier(first)
    assert channel.in_flight_bytes == 16, "the later one is not answered"
    channel.on_barrier(then)
    assert channel.in_flight_bytes == 0
    channel._xid = PACKET_OUT_XID - 1
    channel.write(bytes(4))
    channel.fence()
    channel.on_barrier(channel.xid())
    assert channel.in_flight_bytes == 0, "a later barrier answers for all before"
    assert not answers
