"""What is passed on to a planner that does not answer is not left to be done some day."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from xenflow.control.planner_relay import ANSWER_S, PlannerRelay
from xenflow.control.requests import Reply
from xenflow.model import management as mg

PLANNER = "tcp://127.0.0.1:1"


class FakePump:
    """The socket of a planner that takes everything and answers nothing."""

    def __init__(self, sock: Any, answered: Callable[[list[bytes]], None]) -> None:
        sock.close(linger=0)
        self.answered = answered
        self.sent: list[dict[str, Any]] = []
        self.closed = False
        PUMPS.append(self)

    def start(self) -> None:
        pass

    def send(self, frames: list[bytes]) -> bool:
        self.sent.append(json.loads(frames[-1]))
        return True

    def close(self) -> None:
        self.closed = True


PUMPS: list[FakePump] = []


class Rig:
    """A relay, its clock, and the answers that people were given."""

    def __init__(self) -> None:
        self.now = 0.0
        self.planner = PLANNER
        self.answers: list[dict[str, Any]] = []
        follower: Any = self
        self.relay = PlannerRelay(zmq.Context.instance(), follower, lambda: self.now)

    def ask(self, by: str = "ada") -> None:
        arguments = {"text": "x", "file": "a.toml", "dry_run": False, "cluster": "", "since": None}
        request = mg.parse_request(mg.request("apply", "1", by=by, text="x"))
        reply = Reply(request, lambda answer: self.answers.append(json.loads(answer)), "10.0.0.1")
        self.relay.pass_on("apply", arguments, reply)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    PUMPS.clear()
    monkeypatch.setattr("xenflow.control.planner_relay.Pump", FakePump)
    return Rig()


def test_an_answer_comes_back(rig: Rig) -> None:
    rig.ask()
    (pump,) = PUMPS
    assert pump.sent[0]["by"] == "ada from 10.0.0.1"
    pump.answered([b"", mg.reply(pump.sent[0]["id"], {"change": 7})])
    assert rig.answers[0]["change"] == 7
    rig.now += ANSWER_S + 1
    rig.relay.tick()
    assert len(rig.answers) == 1


def test_what_was_not_answered_is_not_sent_later(rig: Rig) -> None:
    rig.ask()
    rig.now += ANSWER_S / 2
    rig.ask()
    rig.now += ANSWER_S / 2 + 1
    rig.relay.tick()
    assert [answer["error"]["code"] for answer in rig.answers] == ["unknown"]
    assert not PUMPS[0].closed  # the second one may be answered yet
    rig.now += ANSWER_S
    rig.relay.tick()
    assert len(rig.answers) == 2 and PUMPS[0].closed
    rig.ask()
    assert len(PUMPS) == 2


def test_the_longest_name_of_who_asks_is_passed_on(rig: Rig) -> None:
    rig.ask(by="a" * mg.MAX_ID)
    assert PUMPS[0].sent[0]["by"] == "a" * mg.MAX_ID


def test_a_planner_that_is_nowhere_is_said_to_be(rig: Rig) -> None:
    rig.planner = "by hand"
    with pytest.raises(mg.ManagementError, match="its planner is at by hand, which cannot be"):
        rig.ask()
    rig.planner = PLANNER
    rig.ask()
    assert len(PUMPS) == 1
