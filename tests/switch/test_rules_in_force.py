"""An operator's rules: which are in force, and which the switch was found with and nobody knows."""

from __future__ import annotations

import pytest

from tests.written_switch import PlayedHost
from xenflow.openflow.flow import Flow, match
from xenflow.switch.rules import Rule
from xenflow.tables import cookies, layout

BY_NAME: Rule = {"id": "named", "priority": 1, "match": {"in_port": "new"}, "actions": []}
BY_NUMBER: Rule = {**BY_NAME, "id": "numbered", "match": {"in_port": "9"}, "actions": ["normal"]}


@pytest.fixture
def host() -> PlayedHost:
    return PlayedHost()


def have(host: PlayedHost, *rules: Rule) -> None:
    host.table.rule(host.switch, list(rules))
    host.wire.run()


def add(host: PlayedHost, rule: Rule) -> None:
    _, rows = host.switch.rules.with_rule(rule, host.switch.site(), False)
    have(host, *rows)


def in_force(host: PlayedHost) -> list[int]:
    """The cookies of the rules' flows in the switch."""
    owners = {flow.cookie: cookies.owner_of(flow.cookie)[0] for flow in host.wire.tables}
    return [cookie for cookie, kind in owners.items() if kind == cookies.RULE]


def problems(host: PlayedHost) -> list[str]:
    return host.switch.problems.of()


def port_comes(host: PlayedHost, number: int) -> None:
    host.switch.port_changed("new", number, True, False)
    host.wire.run()


def port_goes(host: PlayedHost) -> None:
    host.switch.port_changed("new", 0, False, True)
    host.wire.run()


@pytest.fixture
def both(host: PlayedHost) -> PlayedHost:
    """Two rules that differ in how they name a port alone, the second given while it was gone."""
    port_comes(host, 9)
    add(host, BY_NAME)
    port_goes(host)
    add(host, BY_NUMBER)
    return host


def test_of_rules_that_become_equal_the_first_is_in_force_and_the_other_is_said(
    both: PlayedHost,
) -> None:
    assert in_force(both) == [cookies.of_rule("numbered")] and problems(both) == []
    port_comes(both, 9)
    assert in_force(both) == [cookies.of_rule("named")]
    (words,) = problems(both)
    assert "(numbered as named)" in words and "not in force" in words
    both.wire.attach(both.switch, {**PlayedHost.PORTS, "new": 9})
    assert problems(both) == [words]


@pytest.mark.parametrize("ends", ["it goes", "another number", "one is removed"])
def test_rules_that_are_equal_no_more_are_both_in_force(both: PlayedHost, ends: str) -> None:
    port_comes(both, 9)
    if ends == "it goes":
        port_goes(both)
    elif ends == "another number":
        port_comes(both, 10)
    else:
        have(both, BY_NUMBER)
    assert cookies.of_rule("numbered") in in_force(both)
    assert problems(both) == []


def test_what_somebody_wrote_into_the_state_file_keeps_nobody_from_being_written(
    host: PlayedHost,
) -> None:
    """Such a file is read where each rule has an id, and no value of a wrong type."""
    odd: Rule = {"id": "odd", "match": {"dl_vlan": {}}}
    all_that_is_needed: Rule = {"id": "short"}
    host.switch.rules.restore([odd, all_that_is_needed])
    host.switch.refresh()
    host.wire.run()
    assert host.switch.live and problems(host) == []
    assert in_force(host) == [cookies.of_rule("short")]
    assert host.switch.rules.sweeping() == ["short"]


# --------------------------------------------------------------------------------------------
# Lost


LOST: Rule = {"id": "lost", "match": {"in_port": "1"}, "priority": 3, "actions": []}
FLOW = Flow(layout.INGRESS, layout.Ingress.RULE + 3, match(in_port=1), (), cookies.of_rule("lost"))


def connects(host: PlayedHost) -> None:
    host.wire.attach(host.switch, PlayedHost.PORTS)


def may_not_be_written_to(host: PlayedHost, patched: pytest.MonkeyPatch) -> None:
    """It is not known yet where the routers are."""
    patched.setattr(host.table, "must_wait", lambda holds_flows: True)

    def run() -> None:
        for _ in range(200):
            host.wire._later.popleft()()

    patched.setattr(host.wire, "run", run)


def test_lost_rules_are_said_until_the_rules_are_changed(
    host: PlayedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they were deleted before the switch went away, or not."""
    host.wire.tables.add(FLOW)
    with monkeypatch.context() as patched:
        may_not_be_written_to(host, patched)
        connects(host)
        (words,) = problems(host)
        assert "does not know (1)" in words and in_force(host)
        connects(host)
        assert problems(host) == [words] and in_force(host)
    connects(host)
    assert problems(host) == [words] and not in_force(host)
    connects(host)
    assert problems(host) == [words], "nobody has answered yet"
    have(host, LOST)
    assert problems(host) == [] and in_force(host) == [cookies.of_rule("lost")]
    connects(host)
    assert problems(host) == []


def test_a_rule_that_was_removed_is_not_lost(host: PlayedHost) -> None:
    have(host, LOST)
    host.switch.disconnect()
    host.switch.rules.restore([])
    assert FLOW in host.wire.tables
    connects(host)
    assert problems(host) == [] and not in_force(host)
