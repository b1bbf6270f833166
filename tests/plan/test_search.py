"""A controller that has lost where the routers are asks before it changes a switch."""

from __future__ import annotations

from tests.conftest import ROOT
from xenflow.model.placement import at_home, to_json
from xenflow.plan.search import PATIENCE_S, Search, newest
from xenflow.store.network_file import load


def search() -> Search:
    """One router, of which host-b and host-c were told, and one of which host-c alone was."""
    both, one = {"host-b", "host-c"}, {"host-c"}
    return Search("state.json is missing", set(both), 100.0, lambda: [both, one])


def test_a_switch_that_holds_flows_waits_until_somebody_who_knows_has_answered() -> None:
    asked = search()
    assert asked.must_wait(holds_flows=True, now=1e6)
    asked.answered("host-b", knows=False)
    assert asked.must_wait(holds_flows=True, now=1e6)
    asked.answered("host-c", knows=True)
    assert not asked.must_wait(holds_flows=True, now=100.0)


def test_those_that_know_suffice_after_a_moment_if_each_router_concerns_one() -> None:
    asked = search()
    asked.awaits.add("edge")
    asked.answered("host-b", knows=True)
    assert asked.must_wait(holds_flows=True, now=1e6)
    asked.answered("host-c", knows=True)
    assert asked.must_wait(holds_flows=True, now=100.0 + PATIENCE_S / 2)
    assert not asked.must_wait(holds_flows=True, now=100.0 + PATIENCE_S)
    assert asked.words() == "state.json is missing: asks edge where the routers are"


def test_a_new_network_whose_controllers_all_ask_goes_on() -> None:
    asked = search()
    for name in ("host-b", "host-c"):
        asked.answered(name, knows=False)
    assert asked.settled(100.0)
    assert not asked.words()


def test_an_empty_switch_waits_for_a_moment_only_and_it_is_said_what_is_missing() -> None:
    asked = search()
    assert asked.must_wait(holds_flows=False, now=100.0)
    assert not asked.must_wait(holds_flows=False, now=100.0 + PATIENCE_S)
    assert asked.words() == ("state.json is missing: asks host-b, host-c where the routers are")


def test_a_lone_controller_asks_nobody() -> None:
    assert Search("state.json is missing", set(), 0.0, lambda: [{"host-b"}]).settled(0.0)


def test_the_newest_placement_that_fits_counts() -> None:
    network = load(ROOT / "conf" / "paper.toml")
    home = at_home("vr1", "host-a")
    moved = home.step(forwarders=("host-b",), vm="host-b", leads_to="host-b")
    rows = [
        to_json(moved),
        to_json(home),
        {"router": "vr1"},
        5,
        to_json(at_home("vr9", "host-a")),
        to_json(at_home("vr1", "host-z").step().step()),
    ]
    assert newest(network, rows) == {"vr1": moved}
    for rows in (None, 5, {"router": "vr1"}, "vr1"):
        assert newest(network, rows) == {}
