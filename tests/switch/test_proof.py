"""What has to pass before a change is said to be in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xenflow.switch.proof import NUDGE_S, Bound, Promise, Revalidator


class Asked:
    """A switch that confirms when it is told to, and its process."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.waiting: list[Callable[[], None]] = []
        self.commands: list[Callable[[str | None], None]] = []
        self.timers: list[tuple[float, Callable[..., Any]]] = []

    def nudge(self) -> None:
        self.said.append("nudge")

    def confirm(self, promise: Promise, then: Callable[[], None]) -> None:
        self.said.append("confirm")
        self.waiting.append(then)

    def later(self, seconds: float, call: Callable[..., Any], *arguments: Any) -> None:
        self.timers.append((seconds, lambda: call(*arguments)))

    def run_command(self, command: str, then: Callable[[str | None], None]) -> None:
        self.said.append(command)
        self.commands.append(then)


def test_a_bound_begins_when_the_switch_has_confirmed() -> None:
    switch, proven = Asked(), []
    Bound(0.25).begin(switch, Promise(lambda _: None), lambda: proven.append(True))
    assert switch.said == ["nudge", "confirm"] and not switch.timers
    switch.waiting.pop()()
    ((wait_s, end),) = switch.timers
    assert wait_s == 0.25 and not proven
    end()
    assert proven == [True]


def test_two_rounds_each_provoked_are_a_proof() -> None:
    switch, proven = Asked(), []
    proof = Revalidator(switch.run_command)
    proof.begin(switch, Promise(lambda _: None), lambda: proven.append(True))
    for _ in range(2):
        assert switch.said == ["nudge", "confirm"], "what began before the change proves nothing"
        switch.waiting.pop()()
        assert switch.said.pop() == "revalidator/wait" and not proven
        switch.said.clear()
        switch.commands.pop()(None)
    assert proven == [True]


def test_a_round_is_provoked_until_it_has_ended() -> None:
    switch = Asked()
    Revalidator(switch.run_command).begin(switch, Promise(lambda _: None), lambda: None)
    switch.waiting.pop()()
    for _ in range(3):
        switch.said.clear()
        ((wait_s, again),) = switch.timers
        switch.timers.clear()
        again()
        assert wait_s == NUDGE_S and switch.said == ["nudge"]
    switch.commands.pop()(None)
    switch.said.clear()
    ((_, again),) = switch.timers
    again()
    assert switch.said == []


def test_who_cannot_ask_says_why() -> None:
    switch, said, proven = Asked(), [], []
    promise = Promise(said.append)
    Revalidator(switch.run_command).begin(switch, promise, lambda: proven.append(True))
    switch.waiting.pop()()
    switch.commands.pop()("ovs-vswitchd closed the connection")
    assert said == ["ovs-vswitchd closed the connection"] and not proven


def test_nobody_is_asked_for_a_promise_that_was_broken() -> None:
    switch, said = Asked(), []
    promise = Promise(said.append)
    Revalidator(switch.run_command).begin(switch, promise, lambda: None)
    switch.waiting.pop()()
    promise.settle("the switch went away")
    switch.commands.pop()(None)
    ((_, again),) = switch.timers
    switch.said.clear()
    again()
    assert said == ["the switch went away"] and switch.said == [] and not switch.waiting
