"""Links that lead only where they must grow to a host before a router moves there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.planner.test_planner_service import TEXT, Rig
from xenflow.model import management as mg
from xenflow.planner.service import PlannerService

LIMITED = TEXT.replace("vlan = 101", "vlan = 101\nspan = []").replace(
    "vlan = 102", "vlan = 102\nmbps = 60"
)
for name in ("gen-a", "gen-b", "recv-a", "recv-b"):
    plain, host = name.split("-")
    ends = f'["{plain}:to-{host}", "host-{host}:to-{plain}"]'
    LIMITED = LIMITED.replace(f"{name} = {ends}", f"{name} = {{ ends = {ends}, mbps = 100 }}")


def grow(rig: Rig, planner: PlannerService, router: str, host: str) -> dict[str, Any]:
    before = len(rig.answers)
    frame = mg.request("grow", "1", by="ada", router=router, to=host)
    planner.take(frame, lambda answer: rig.answers.append(json.loads(answer)))
    while len(rig.answers) == before:
        rig.settle(planner, for_s=0.1)
    return rig.answers[-1]


@pytest.fixture
def planned() -> tuple[Rig, PlannerService]:
    rig = Rig()
    planner, _ = rig.planner()
    rig.settle(planner, for_s=2)
    assert rig.ask(planner, LIMITED)["ok"]
    return rig, planner


def reached(rig: Rig) -> dict[str, set[str]]:
    return {name: set(link.tree.up) for name, link in rig.laid().links.items()}


def test_the_links_of_a_router_grow_to_a_host(planned: tuple[Rig, PlannerService]) -> None:
    rig, planner = planned
    assert reached(rig) == {"left": {"gen", "host-a"}, "right": {"recv", "host-a"}}
    answer = grow(rig, planner, "vr1", "host-b")
    assert answer["change"] == 2 and answer["changed"] == {"links": {"changed": ["left", "right"]}}
    assert reached(rig) == {
        "left": {"gen", "host-a", "host-b"},
        "right": {"recv", "host-a", "host-b"},
    }
    labels = {name: link.labels for name, link in rig.laid().links.items()}
    assert labels == {"left": (101, 2149), "right": (102, 2150)}
    assert grow(rig, planner, "vr1", "host-b")["change"] == 0
    rig.settle(planner)
    events = rig.look(planner, "events")["events"]
    assert any("links of vr1 to host-b" in event["words"] for event in events)
    # What is applied again, without knowing of it, takes no branch away: a router may be there.
    rig.ask(planner, LIMITED)
    assert reached(rig)["left"] == {"gen", "host-a", "host-b"}


def test_where_there_is_no_room_it_is_refused(planned: tuple[Rig, PlannerService]) -> None:
    rig, planner = planned
    ends = ", ".join(f'{{ at = "{name}:t" }}' for name in ("recv", "host-b", "gen"))
    taken = f"[links.taken]\nmbps = 50\naccess = [{ends}]\n"
    assert rig.ask(planner, f"{LIMITED}\n{taken}")["ok"]
    before = reached(rig)
    error = grow(rig, planner, "vr1", "host-b")["error"]
    assert error["code"] == "refused"
    assert "links.right.mbps: found 60, and no such way to host-b" in error["message"]
    assert "cable recv-b has 50 of 100 Mbit/s free (taken has 50)" in error["message"]
    assert reached(rig) == before


@pytest.mark.parametrize(
    ("router", "host", "words"),
    [("vr9", "host-b", "no router vr9"), ("vr1", "gen", "no host gen")],
)
def test_what_is_not_there_is_refused(
    planned: tuple[Rig, PlannerService], router: str, host: str, words: str
) -> None:
    rig, planner = planned
    assert words in grow(rig, planner, router, host)["error"]["message"]


def test_a_change_is_undone_beside_what_has_grown_since(
    planned: tuple[Rig, PlannerService],
) -> None:
    """Branches that a move needs stay, and what the links wish to reach."""
    rig, planner = planned
    other = LIMITED.replace("span = []", "span = []\nmtu = 1400")
    more = '\n[links.more]\nspan = []\naccess = [{ at = "host-a:m" }]\n'
    assert rig.ask(planner, other + more)["change"] == 2
    assert grow(rig, planner, "vr1", "host-b")["change"] == 3
    grown, spans = reached(rig), {n: k.span for n, k in rig.laid().links.items()}
    assert (grown["left"], spans["left"]) == ({"gen", "host-a", "host-b"}, ("host-b",))
    undone = rig.look(planner, "undone", change=2)
    assert rig.ask(planner, undone["text"])["change"] == 4
    links = rig.laid().links
    assert links["left"].mtu == 0
    assert reached(rig) == {name: grown[name] for name in ("left", "right")}
    assert {n: k.span for n, k in links.items()} == {n: spans[n] for n in ("left", "right")}
    undone = rig.look(planner, "undone", change=3)  # the branches stay, for a router may be there
    assert rig.ask(planner, undone["text"])["change"] == 5
    assert rig.laid().links["left"].span == ()
    assert reached(rig) == {name: grown[name] for name in ("left", "right")}


def test_what_was_changed_beside_the_growth_is_not_undone(
    planned: tuple[Rig, PlannerService],
) -> None:
    rig, planner = planned
    assert rig.ask(planner, LIMITED.replace("span = []", "span = []\nmtu = 1400"))["change"] == 2
    assert grow(rig, planner, "vr1", "host-b")["change"] == 3
    grown = 'span = ["host-b"]\nmtu = 1300'
    assert rig.ask(planner, LIMITED.replace("span = []", grown))["change"] == 4
    refused = rig.look(planner, "undone", change=2)["error"]["message"]
    assert "links.left has been changed since" in refused
