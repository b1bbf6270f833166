"""Whether a network is well: each fault alone is a cause, and a network at work is none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mgmt import health
from mgmt.client import Unreachable
from xenflow.model.placement import Mode, Placement, at_home, to_json
from xenflow.store.network_file import load

NETWORK = load(Path(__file__).parents[2] / "conf" / "path.toml")
Answers = dict[str, Any]


def ports_of(datapath: str) -> dict[str, Any]:
    names = [cable.near(datapath).port for cable in NETWORK.cables_of[datapath]]
    names += [
        a.end.port for k in NETWORK.links.values() for a in k.access if a.end.datapath == datapath
    ]
    for router in NETWORK.routers.values():
        names += [i.vif for i in router.interfaces] if router.home == datapath else []
    return {name: {"number": n, "up": True} for n, name in enumerate(names, 1)}


@pytest.fixture
def answers() -> Answers:
    """What the controllers of conf/path.toml answer when all is well."""
    found: Answers = {}
    for controller in NETWORK.controllers:
        mine = NETWORK.datapaths_of(controller)
        homes = {r.name for r in NETWORK.routers.values() if r.home in {d.name for d in mine}}
        found[controller] = {
            "datapaths": [
                {
                    "name": d.name,
                    "connected": True,
                    "in_sync": True,
                    "pending": 0,
                    "ports": ports_of(d.name),
                }
                for d in mine
            ],
            "routers": [
                {
                    "name": name,
                    "feed": "local" if name in homes else "none",
                    "down": [],
                    "phase": "current" if name in homes else "new",
                    "stale": name not in homes,
                    "age_s": 0.4,
                }
                for name in NETWORK.routers
            ],
            "placements": [
                {"datapath": d.name, **to_json(at_home(r.name, r.home))}
                for d in mine
                for r in NETWORK.routers.values()
            ],
            "migrations": [],
        }
    return found


def words(answers: Answers) -> list[str]:
    return [str(cause) for cause in health.causes(NETWORK, answers)]


def datapath(answers: Answers, name: str) -> Any:
    rows = [row for a in answers.values() for row in a["datapaths"] if row["name"] == name]
    return rows[0]


def router(answers: Answers, controller: str, name: str) -> Any:
    return next(row for row in answers[controller]["routers"] if row["name"] == name)


def tell(answers: Answers, placement: Placement, *datapaths: str) -> None:
    for answer in answers.values():
        for row in answer["placements"]:
            if row["router"] == placement.router and row["datapath"] in datapaths:
                row.update(to_json(placement))


MOVED = Placement("vr1", ("host-b",), "host-b", "host-b", version=7)
BETWEEN = Placement("vr1", ("host-a", "host-b"), "host-a", "host-a", version=3)
EVERYWHERE = tuple(NETWORK.datapaths)


def other_file(a: Answers) -> None:
    for answer in a.values():
        answer["digest"] = NETWORK.digest
    a["edge"]["digest"] = "0123456789abcdef"


def disconnected(a: Answers) -> None:
    datapath(a, "host-c").update(connected=False, in_sync=False, ports={})


def unknown_datapath(a: Answers) -> None:
    a["host-b"]["datapaths"] = []


def not_in_sync(a: Answers) -> None:
    datapath(a, "s1").update(in_sync=False, pending=3)


def problem_of_a_switch(a: Answers) -> None:
    datapath(a, "host-a")["problems"] = ["table 3 is full"]


def rule_for_everything(a: Answers) -> None:
    datapath(a, "host-a")["sweeping"] = ["x"]


def cut_cable(a: Answers) -> None:
    datapath(a, "s1")["ports"]["to-c"]["up"] = False
    datapath(a, "host-c")["ports"]["to-s1"]["up"] = False


def missing_cable(a: Answers) -> None:
    del datapath(a, "s1")["ports"]["to-c"]


def cut_access(a: Answers) -> None:
    datapath(a, "recv")["ports"]["access"]["up"] = False


def stale(a: Answers) -> None:
    router(a, "host-a", "vr1").update(stale=True, age_s=75)


def no_daemon(a: Answers) -> None:
    router(a, "host-a", "vr1").update(feed="none", phase="new", stale=True, age_s=None)


def behind(a: Answers) -> None:
    router(a, "host-a", "vr1").update(phase="behind")


def interface_down(a: Answers) -> None:
    router(a, "host-a", "vr1").update(down=["eth1"])


def problem_of_a_router(a: Answers) -> None:
    for controller in ("host-a", "host-b"):
        router(a, controller, "vr1")["problems"] = ["route 10.0.0.0/8 cannot be a flow"]


def problem_of_a_controller(a: Answers) -> None:
    a["edge"]["problems"] = ["its state folder is full"]


def no_vm(a: Answers) -> None:
    del datapath(a, "host-a")["ports"]["vr1.0"]


def suspended(a: Answers) -> None:
    datapath(a, "host-a")["ports"]["vr1.1"]["up"] = False


def led_astray(a: Answers) -> None:
    """s1 and gen believe that it is at home; frames for it have another way from s1 only."""
    tell(a, MOVED, *(name for name in EVERYWHERE if name not in ("s1", "gen")))
    vm_at_host_b(a)


def disagree(a: Answers) -> None:
    tell(a, MOVED, *EVERYWHERE)
    tell(a, BETWEEN, "s1", "gen")
    vm_at_host_b(a)


def vm_at_host_b(a: Answers) -> None:
    datapath(a, "host-b")["ports"] |= {n: {"up": True} for n in ("vr1.0", "vr1.1")}
    router(a, "host-b", "vr1").update(router(a, "host-a", "vr1"))


def between(a: Answers) -> None:
    tell(a, BETWEEN, *EVERYWHERE)


def left_unfinished(a: Answers) -> None:
    tell(a, BETWEEN, *EVERYWHERE)
    a["host-a"]["migrations"] = [{"router": "vr1", "owner": "n-7", "under_way": False}]


def unknown_router(a: Answers) -> None:
    for answer in a.values():
        answer["placements"] = [r for r in answer["placements"] if r["router"] != "vr1"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (disconnected, "host-c: the switch is not connected to host-c"),
        (
            unknown_datapath,
            "host-b: controller host-b does not know it: has it another network file?",
        ),
        (
            other_file,
            "controller edge: it has another network file than this command (0123456789abcdef, "
            f"here {NETWORK.digest}): give both the same, then `xenflow reload`; "
            "where it is the same, they are of two releases",
        ),
        (not_in_sync, "s1: catching up, 3 changes to be written"),
        (problem_of_a_switch, "host-a: table 3 is full"),
        (rule_for_everything, "host-a: the operator's rule x takes everything"),
        (cut_cable, "cable s1-c: s1:to-c has no carrier, host-c:to-s1 has no carrier"),
        (missing_cable, "cable s1-c: s1:to-c does not exist"),
        (cut_access, "link right: access port recv:access has no carrier"),
        (stale, "vr1: stale: nothing heard of it for 1m15s"),
        (
            no_daemon,
            "vr1: controller host-a was never told its routes: does routerd run in its VM?",
        ),
        (behind, "vr1: its routes are not all known yet"),
        (interface_down, "vr1: in its VM, nothing is forwarded by eth1"),
        (problem_of_a_router, "vr1: route 10.0.0.0/8 cannot be a flow"),
        (problem_of_a_controller, "controller edge: its state folder is full"),
        (no_vm, "vr1: its VM is not there, or suspended: host-a:vr1.0 does not exist"),
        (suspended, "vr1: its VM is not there, or suspended: host-a:vr1.1 has no carrier"),
        (
            disagree,
            "vr1: the switches disagree about where it is: s1, gen have another placement "
            "than the newest (`xenflow recover vr1`)",
        ),
        (
            led_astray,
            "vr1: the switches disagree about where it is: s1 has another placement "
            "than the newest (`xenflow recover vr1`)",
        ),
        (
            between,
            "vr1: it is between host-a and host-b, and nobody moves it (`xenflow recover vr1`)",
        ),
        (left_unfinished, "vr1: a migration by n-7 was left unfinished (`xenflow recover vr1`)"),
        (unknown_router, "vr1: no controller that answered knows it"),
    ],
)
def test_each_fault_alone_is_a_cause(
    answers: Answers, fault: Callable[[Answers], None], says: str
) -> None:
    assert words(answers) == []
    fault(answers)
    assert words(answers) == [says]


def test_a_controller_that_does_not_answer_is_the_cause_and_its_switches_are_not() -> None:
    silent = {n: Unreachable(n, "tcp://x:1", "no answer") for n in NETWORK.controllers}
    assert words(silent) == [f"controller {name}: gives no answer" for name in silent]


def test_a_network_at_work_is_well(answers: Answers) -> None:
    # A router in native mode, one that has moved (some switches have seen more versions than
    # others), one that its VM forwards for because of a packet filter.
    tell(answers, at_home("vr2", "host-c").step(mode=Mode.NATIVE), *EVERYWHERE)
    router(answers, "host-c", "vr2")["slow"] = "packet filter"
    for name in ("host-a", "s2"):
        tell(answers, Placement("vr1", ("host-a",), "host-a", "host-a", version=9), name)
    assert words(answers) == []


def test_a_native_router_needs_no_routerd(answers: Answers) -> None:
    """Its VM forwards by its own routes.  Its VM is needed as that of any other."""
    no_daemon(answers)
    tell(answers, at_home("vr1", "host-a").step(mode=Mode.NATIVE), *EVERYWHERE)
    assert words(answers) == []
    stale(answers)
    assert words(answers) == []
    no_vm(answers)
    assert words(answers) == ["vr1: its VM is not there, or suspended: host-a:vr1.0 does not exist"]


def test_a_router_on_its_way_is_judged_when_it_has_arrived(answers: Answers) -> None:
    tell(answers, BETWEEN, "host-a", "host-b")
    for name in ("vr1.0", "vr1.1"):
        del datapath(answers, "host-a")["ports"][name]
    assert len(words(answers)) == 2
    answers["host-b"]["migrations"] = [{"router": "vr1", "owner": "n-7", "under_way": True}]
    assert words(answers) == []
    moving = health.moving(answers)
    assert health.verdict(NETWORK, [], moving) == (
        "network path: healthy; vr1 is being migrated (by n-7)"
    )


def test_the_verdict_is_one_line(answers: Answers) -> None:
    before = copy.deepcopy(answers)
    cut_access(answers)
    stale(answers)
    found = health.causes(NETWORK, answers)
    assert health.verdict(NETWORK, found, {}) == (
        "network path: NOT HEALTHY: link right: access port recv:access has no carrier (and 1 more)"
    )
    assert health.verdict(NETWORK, health.causes(NETWORK, before), {}) == "network path: healthy"


def test_in_a_store_nobody_is_told_to_give_both_the_same_file(answers: Answers) -> None:
    network = replace(NETWORK, store=("unix:/x",))
    answers["edge"]["digest"] = "0123456789abcdef"
    words = health.other_file(health.Digests(network), "edge", answers["edge"])
    assert words.startswith("it knows another network than this command (0123456789abcdef, ")
    assert "reload" not in words


def test_a_planner_that_nobody_hears_is_no_planner(answers: Answers) -> None:
    def silent(**seconds: float | None) -> list[str]:
        for name, silent_s in seconds.items():
            store = {"planner": "tcp://p:1", "planner_silent_s": silent_s}
            answers[name.replace("_", "-")]["store"] = store
        return [str(cause) for cause in health.causes(NETWORK, answers)]

    assert silent(host_a=None, edge=2.0) == []
    assert silent(host_a=60.0) == []  # it was this one that had lost the store
    assert silent(edge=75.0) == [
        "planner: tcp://p:1 has said nothing for 1m00s: no change can be made "
        "(python -m xenflow.planner)"
    ]
