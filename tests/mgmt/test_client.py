"""The management client against a controller on loopback."""

from __future__ import annotations

import time
from threading import Barrier

import pytest
import zmq
from fake_controller import FakeController

from mgmt import client
from mgmt.client import BadAnswer, Client, NotSent, Refused, Unreachable, ask_all
from tests.free_ports import free_ports
from xenflow.model.management import ManagementError, Request

DEAD = "tcp://127.0.0.1:9"


def refuse(request: Request) -> dict:
    raise ManagementError("unknown-router", f"no router {request.arguments['router']}")


def test_request() -> None:
    with FakeController({"ready": {"ready": True}}) as controller, Client(controller.url) as asked:
        for _ in range(3):
            assert asked.request("ready", router="vr1", datapath="h") == {"ready": True}
        assert controller.asked[0].arguments == {"router": "vr1", "datapath": "h"}


def test_refused() -> None:
    with FakeController({"ready": refuse}) as controller, Client(controller.url, "c1") as asked:
        with pytest.raises(Refused, match="c1: no router vr9") as raised:
            asked.request("ready", router="vr9", datapath="h")
        assert (raised.value.code, raised.value.message) == ("unknown-router", "no router vr9")


def test_what_does_not_fit_is_not_sent() -> None:
    with FakeController({}) as controller, Client(controller.url) as asked:
        with pytest.raises(NotSent, match="status: no argument") as raised:
            asked.request("status", force=True)
        assert raised.value.code == "unknown-argument"
        assert not controller.asked


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECT_S", 0.2)
    started = time.monotonic()
    with Client(DEAD, "c1") as asked, pytest.raises(Unreachable, match="c1 .*does it run") as e:
        asked.request("status", timeout_s=60)
    assert time.monotonic() - started < 30
    assert not e.value.sent


def test_no_answer_in_time_and_a_late_one_is_passed_over() -> None:
    verbs = {"status": {"n": 1}, "links": {"n": 2}}
    with FakeController(verbs) as controller, Client(controller.url) as asked:
        asked.request("links")  # or connecting might take the time
        controller.answers.clear()
        with pytest.raises(Unreachable, match=r"no answer within 0.1 s; .*may have been done"):
            asked.request("status", timeout_s=0.1)
        controller.answers.set()
        assert asked.request("links") == {"n": 2}


def test_a_controller_that_dies_is_noticed_before_the_time_is_up() -> None:
    with FakeController({}) as controller, Client(controller.url) as asked:
        controller.dies_at = "status"
        started = time.monotonic()
        with pytest.raises(
            Unreachable, match="connection was lost .*; .*may have been done"
        ) as raised:
            asked.request("status", timeout_s=60)
        assert raised.value.sent
        assert time.monotonic() - started < 30


def test_an_answer_that_cannot_be_read() -> None:
    with FakeController({}) as controller, Client(controller.url, "c1") as asked:
        controller.answers_garbage = True
        with pytest.raises(BadAnswer, match="c1: the answer cannot be read: this side speaks"):
            asked.request("status")


def test_not_an_address() -> None:
    with pytest.raises(Unreachable, match="not an address"):
        Client("tcp://nowhere")


def test_all_at_once() -> None:
    """Neither answers before the other has been asked."""
    both = Barrier(2, timeout=60.0)

    def answer(_: Request) -> dict[str, int]:
        both.wait()
        return {"n": 1}

    def refuse_all(_: Request) -> dict:
        both.wait()
        raise ManagementError("refused", "not today")

    with FakeController({"status": answer}) as one, FakeController({"status": refuse_all}) as two:
        answers = ask_all({"a": one.url, "b": two.url, "c": DEAD}, "status", timeout_s=60.0)
    assert list(answers) == ["a", "b", "c"]
    assert answers["a"] == {"n": 1}
    assert isinstance(answers["b"], Refused)
    assert isinstance(answers["c"], Unreachable)
    assert ask_all({}, "status") == {}


def test_a_req_socket_works_too() -> None:
    with (
        FakeController({"status": {"n": 1}}) as controller,
        zmq.Context.instance().socket(zmq.REQ) as asked,
    ):
        asked.connect(controller.url)
        asked.send(b'{"v":1,"id":"1","verb":"status"}')
        assert asked.poll(60_000)
        assert b'"ok":true' in asked.recv()


def test_a_controller_that_does_not_know_what_is_asked_is_of_another_release() -> None:
    old = Refused("unknown-argument", 'status: no argument "router"; arguments: none', "host-b")
    assert str(old).endswith(
        "arguments: none: it is of another release than this command: install the same"
    )
    assert str(Refused("unknown-router", "no router vr9", "c1")) == "c1: no router vr9"


def test_who_was_silent_is_waited_for_shorter_until_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command asks many times: a dead controller costs the whole time-out once."""
    monkeypatch.setattr(client, "CONNECT_S", 0.2)
    monkeypatch.setattr(client, "AGAIN_S", 0.1)
    monkeypatch.setattr(client, "_silent", {})
    url = f"tcp://127.0.0.1:{free_ports(1)[0]}"

    def waited(**words: float) -> str:
        with Client(url, "edge") as asking, pytest.raises(Unreachable) as caught:
            asking.request("status", **words)
        return str(caught.value).partition("within ")[2].partition(";")[0]

    assert waited(timeout_s=0.15) == "0.15 s", "less than a controller may take: it says nothing"
    assert [waited() for _ in range(3)] == ["0.2 s", "0.1 s", "0.1 s"]
    monkeypatch.setattr(client, "STILL_S", 0.0)
    assert waited() == "0.2 s"
