"""What has to pass before a change is said to be in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from xenflow.switch.proof import NUDGE_S, Bound, Promise, Revalidator, overlaps_go_wrong


class Asked:
    """A switch that confirms when it is told to, and its process."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.waiting: list[Callable[[], None]] = []
        self.commands: list[Callable[[str | None, str], None]] = []
        self.timers: list[tuple[float, Callable[..., Any]]] = []

    def nudge(self) -> None:
        self.said.append("nudge")

    def confirm(self, promise: Promise, then: Callable[[], None]) -> None:
        self.said.append("confirm")
        self.waiting.append(then)

    def later(self, seconds: float, call: Callable[..., Any], *arguments: Any) -> None:
        self.timers.append((seconds, lambda: call(*arguments)))

    def run_command(self, command: str, then: Callable[[str | None, str], None]) -> None:
        self.said.append(command)
        self.commands.append(then)


def test_a_bound_begins_when_the_switch_has_confirmed() -> None:
    switch, proven = Asked(), []
    Bound(0.25).begin(switch, Promise(lambda _: None), lambda: proven.append(True), False)
    assert switch.said == ["nudge", "confirm"] and not switch.timers
    switch.waiting.pop()()
    ((wait_s, end),) = switch.timers
    assert wait_s == 0.25 and not proven
    end()
    assert proven == [True]


def test_two_rounds_each_provoked_are_a_proof() -> None:
    switch, proven = Asked(), []
    proof = Revalidator(switch.run_command)
    proof.begin(switch, Promise(lambda _: None), lambda: proven.append(True), False)
    for _ in range(2):
        assert switch.said == ["nudge", "confirm"], "what began before the change proves nothing"
        switch.waiting.pop()()
        assert switch.said.pop() == "revalidator/wait" and not proven
        switch.said.clear()
        switch.commands.pop()(None, "")
    assert proven == [True]


def test_a_round_is_provoked_until_it_has_ended() -> None:
    switch = Asked()
    Revalidator(switch.run_command).begin(switch, Promise(lambda _: None), lambda: None, False)
    switch.waiting.pop()()
    for _ in range(3):
        switch.said.clear()
        ((wait_s, again),) = switch.timers
        switch.timers.clear()
        again()
        assert wait_s == NUDGE_S and switch.said == ["nudge"]
    switch.commands.pop()(None, "")
    switch.said.clear()
    ((_, again),) = switch.timers
    again()
    assert switch.said == []


def test_who_cannot_ask_says_why() -> None:
    switch, said, proven = Asked(), [], []
    promise = Promise(said.append)
    Revalidator(switch.run_command).begin(switch, promise, lambda: proven.append(True), False)
    switch.waiting.pop()()
    switch.commands.pop()("ovs-vswitchd closed the connection", "")
    assert said == ["ovs-vswitchd closed the connection"] and not proven


def test_nobody_is_asked_for_a_promise_that_was_broken() -> None:
    switch, said = Asked(), []
    promise = Promise(said.append)
    Revalidator(switch.run_command).begin(switch, promise, lambda: None, False)
    switch.waiting.pop()()
    promise.settle("the switch went away")
    switch.commands.pop()(None, "")
    ((_, again),) = switch.timers
    switch.said.clear()
    again()
    assert said == ["the switch went away"] and switch.said == [] and not switch.waiting


NEW, OLD = "ovs-vswitchd (Open vSwitch) 3.1.3", "ovs-vswitchd (Open vSwitch) 3.1.0"
USERSPACE, KERNEL = "netdev@ovs-netdev: hit:0 missed:0\n  br0:", "system@ovs-system: hit:0\n  br0:"


@pytest.mark.parametrize(
    ("version", "datapaths", "purged"),
    [(OLD, USERSPACE, True), (OLD, KERNEL, False), (NEW, USERSPACE, False)],
)
def test_flows_that_may_have_gone_wrong_are_thrown_away(
    version: str, datapaths: str, purged: bool
) -> None:
    switch, proven = Asked(), []
    answers = {"version": version, "dpif/show": datapaths}
    proof = Revalidator(switch.run_command)
    proof.begin(switch, Promise(lambda _: None), lambda: proven.append(True), True)
    ran = []
    while switch.waiting or switch.commands:
        if switch.waiting:
            switch.waiting.pop()()
        else:
            ran.append(next(c for c in reversed(switch.said) if c not in ("nudge", "confirm")))
            switch.commands.pop()(None, answers.get(ran[-1], ""))
    between = ["version", "dpif/show", *(["revalidator/purge"] if purged else [])]
    assert ran == ["revalidator/wait", *between, "revalidator/wait"]
    assert proven == [True]


@pytest.mark.parametrize(
    ("version", "wrong"),
    [
        ("2.15.0", True),
        ("2.17.7", True),
        ("2.17.9", False),
        ("3.0.3", True),
        ("3.1.2", True),
        ("3.1.3", False),
        ("3.2.0", False),
        ("3.5.0", False),
        ("no version", False),
    ],
)
def test_which_releases_change_the_wrong_flow(version: str, wrong: bool) -> None:
    assert overlaps_go_wrong(version, USERSPACE) is wrong
