"""`xenflow apply`: what it asks controllers before, and what it says of those that are behind."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mgmt.client import Refused, Unreachable
from mgmt.health import Digests, other_file
from mgmt.session import ManagementSession, learn
from mgmt.verbs import apply
from xenflow.control import planner_relay
from xenflow.model.network import EMPTY, Network
from xenflow.planner import service
from xenflow.store import network_file
from xenflow.store.laid_file import LaidRows, to_json
from xenflow.store.network_rows import laid, laid_entries
from xenflow.store.own_rows import OwnRows

PAPER = Path(__file__).parents[2] / "conf" / "paper.toml"


class Session:
    """Controllers that answer what they are told to, each with a switch; and a planner."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        datapaths = {f"at-{name}": Namespace(controller=name) for name in answers}
        self.network = Namespace(controllers=answers, datapaths=datapaths)
        self.at = {"cluster": "one", "change": 4, "concerns": {"at-a": 3, "at-b": 3}}

    def ask_all(self, verb: str, names: Any = None, /, **arguments: Any) -> dict[str, Any]:
        return {name: self.answers[name] for name in names or self.answers}

    def ask(self, controller: str, verb: str, /, timeout_s: float) -> dict[str, Any]:
        assert verb == "planner"
        return self.at


def test_who_asks_waits_longer_than_whom_it_asks() -> None:
    """So that who knows most says what is wrong, and that within 10 s."""
    assert service.WRITE_S < service.ANSWER_S < planner_relay.ANSWER_S < 10.0 < apply.PLANNED_S


def status(name: str, taken: int, cluster: str = "one", **about: Any) -> dict[str, Any]:
    reached = {f"at-{name}": taken}
    store = {"cluster": cluster, "taken": taken, "in_force": reached, "older": False}
    return {"store": store, "problems": [], "migrations": [], **about}


def looked(
    session: Any, after: Network | None = None, unmoved: Set[str] = frozenset()
) -> tuple[list[str], dict[str, Any]]:
    before = network_file.load(PAPER)
    session.network = replace(before, controllers=session.network.controllers)
    return apply.look(session, before if after is None else after, unmoved)


def test_what_the_planner_has_is_what_was_looked_at() -> None:
    """Whom its last change did not concern is not behind."""
    session = Session(a=status("a", 3), b=status("b", 3))
    assert looked(session) == ([], {"cluster": "one", "since": 4})


OLD = {"cluster": "one", "taken": 3, "in_force": {}, "older": True}


@pytest.mark.parametrize(
    ("late", "words"),
    [
        (status("b", 2), "b: it is at change 2, and 3 concerns it: wait, or look why"),
        (status("b", 3, "another"), "b: it follows cluster another, and the planner's store is on"),
        (status("b", 5), "b: it is at change 5, and the planner's store is at 4: was it put back"),
        (status("b", 3, store=None), "b: it follows no store"),
        (status("b", 3, store=OLD, problems=["an older copy"]), "b: an older copy"),
        (Refused("refused", "no", "b"), "b: no"),
    ],
)
def test_who_is_behind_or_cannot_is_named(late: Any, words: str) -> None:
    before = network_file.load(PAPER)
    routers = {"vr1": replace(before.routers["vr1"], memory=99)}
    wrong, _ = looked(Session(a=status("a", 3), b=late), replace(before, routers=routers))
    assert len(wrong) == 1 and wrong[0].startswith(words)


def test_a_router_that_is_moved_is_no_reason_not_to_change_the_network() -> None:
    """But where more is done than that, as by `xenflow router`."""
    before = network_file.load(PAPER)
    after = replace(before, routers={"vr1": replace(before.routers["vr1"], memory=99)})
    moving = Session(a=status("a", 3, migrations=[{"router": "vr1"}]))
    assert looked(moving, after) == ([], {"cluster": "one", "since": 4})
    moving = Session(a=status("a", 3, migrations=[{"router": "vr1"}]))
    (words,), _ = looked(moving, after, {"vr1"})
    assert words.startswith(
        "routers.vr1: it, or a link of its, has changed, and it is being migrated"
    )


def test_whom_a_change_waits_for_at_one_it_has_come_to() -> None:
    """Its number is the one that is reached there: nobody is behind."""
    held = status("b", 2)
    held["store"] |= {"reached": 3}
    assert looked(Session(a=status("a", 3), b=held))[0] == []
    held["store"] |= {"reached": 5}
    (words,), _ = looked(Session(a=status("a", 3), b=held))
    assert words.startswith("b: it is at change 5, and the planner's store is at 4")


def test_what_cannot_change_is_said() -> None:
    before = network_file.load(PAPER)
    links = before.links | {"left": replace(before.links["left"], vlan=401)}
    wrong, since = looked(Session(a=status("a", 3)), replace(before, links=links))
    assert [line.partition(" while")[0] for line in wrong] == [
        "links.left: vlan 101 cannot become 401"
    ]
    assert since == {}


def made(concerns: dict[str, int], changed: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the planner answers."""
    return {"concerns": concerns, "changed": changed or {}}


def test_why_a_change_has_not_come_is_said() -> None:
    full = "/var/lib/xenflow/laid.json: No space left on device: change 8 waits"
    store = {"taken": 7, "in_force": {}}
    session: Any = Session(a={"store": store, "problems": [full]})
    assert apply.await_in_force(session, made({"at-a": 8}), 0.0) == [f"a: {full}"]


def test_only_who_is_concerned_is_waited_for() -> None:
    """By switch: `idle` is at change 7 for ever, as none after it concerned it."""
    store = {"taken": 8, "in_force": {"at-late": 7}}
    idle = {"store": {"taken": 7, "in_force": {"at-idle": 7}}, "problems": []}
    session: Any = Session(late={"store": store, "problems": []}, idle=idle)
    late = ["at-late: change 8 is not in force there"]
    assert apply.await_in_force(session, made({"at-late": 8, "at-idle": 7}), 0.0) == late
    assert apply.await_in_force(session, made({"at-idle": 7}), 0.0) == []
    assert apply.await_in_force(session, made({}), 0.0) == []


def test_what_waits_for_a_move_is_said_and_what_does_not_is_not_waited_for() -> None:
    held = {"names": {"links": ["left"], "routers": ["vr1"]}, "by": ["vr1"]}
    store = {"taken": 6, "in_force": {"at-a": 6}, "reached": 8, "but_held": {"at-a": 8}}
    session: Any = Session(a={"store": {**store, "held": held}, "problems": []})

    def late(number: int, **changed: Any) -> list[str]:
        return apply.await_in_force(session, made({"at-a": number}, changed), 0.0)

    words = "at-a: change 7 is in force there when that has ended: %s: held by the move of vr1"
    assert late(7, links={"removed": ["left"]}, routers={"changed": ["vr1"]}) == [
        words % "links.left, routers.vr1"
    ]
    assert late(7, links={"added": ["more"], "changed": ["left"]}) == [words % "links.left"]
    assert late(7) == [words % "links.left, routers.vr1"], "the file says nothing new"
    assert late(8, links={"added": ["more"]}) == []
    store["but_held"] = {"at-a": 7}
    session = Session(a={"store": {**store, "held": held}, "problems": []})
    assert late(8, links={"added": ["more"]}) == ["at-a: change 8 is not in force there"]
    session = Session(a={"store": {**store, "held": {}}, "problems": []})
    assert late(8, links={"added": ["more"]}) == ["at-a: change 8 is not in force there"]


@pytest.mark.parametrize(
    ("interrupted", "words"),
    [
        ("submit", "whether the change is made is not known"),
        ("await_in_force", "change 8 is made; whether it is in force everywhere is not known"),
    ],
)
def test_who_interrupts_it_is_told_what_is_done(
    interrupted: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(apply, "look", lambda *_: ([], {"cluster": "one", "since": 7}))
    monkeypatch.setattr(
        apply, "submit", lambda *_, **__: {"change": 8, "changed": {}, "concerns": {}}
    )
    monkeypatch.setattr(apply, interrupted, interrupt)
    session = ManagementSession(network_file.load(PAPER), 1.0)
    with pytest.raises(KeyboardInterrupt):
        apply.run(Namespace(file=str(PAPER), confirm=None, dry_run=False, json=False), session)
    assert words in capsys.readouterr().err


def marked(network: Network, change: int) -> dict[str, Any]:
    """Its laid rows, of one change."""
    return {
        table: {key: {**row, "change": change, "gone": False} for key, row in found.items()}
        for table, found in laid(network).items()
    }


STORED = PAPER.read_text().replace('name = "paper"', 'name = "paper"\nstore = ["unix:/x"]')
SMALL = network_file.parse(STORED, "paper.toml")[0]
GROWN = network_file.parse(
    STORED + '\n[links.more]\nid = 77\nvlan = 177\nroot = "host-a"\n', "paper.toml"
)[0]


class Answers:
    """What controllers answer to `network`, and their planner, where there is one, to `laid`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], laid: Any) -> None:
        self.asked: list[tuple[str, list[str], bool]] = []
        self._told, self._laid = told, laid
        monkeypatch.setattr("mgmt.session.ask_all", self._ask_all)

    def _ask_all(self, urls: Any, verb: str, /, timeout_s: float, rows: bool = True) -> Any:
        self.asked.append((verb, [*urls], rows))
        return {name: self._laid if verb == "laid" else self._told[name] for name in urls}


def test_what_the_network_is_the_planner_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """By way of one controller that follows what most do."""
    known = {"cluster": "one", "change": 2, "planner": "tcp://p:1"}
    told = {"host-a": known | {"cluster": "other"}, "host-b": known, "edge": known}
    answers = Answers(monkeypatch, told, to_json(LaidRows("one", 3, marked(GROWN, 3))))
    found, change = learn(SMALL, 1.0)
    assert (found, change) == (GROWN, 3)
    assert answers.asked == [
        ("network", ["host-a", "host-b", "edge"], False),
        ("laid", ["host-b"], True),
    ]


def part(network: Network, host: str, change: int) -> dict[str, Any]:
    """What a controller has of a network, as of a change."""
    rows = OwnRows(marked(network, change)).of(host)
    return to_json(LaidRows("one", change, rows, host)) | {"planner": ""}


def test_where_no_planner_says_it_the_parts_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each row the newest counts; one that says what cannot be read hides nobody."""
    apart = STORED + (
        '\n[links.far]\nid = 77\nvlan = 177\naccess = [{ at = "host-b:desk" }]\nspan = []\n'
        '\n[links.near]\nid = 78\nvlan = 178\naccess = [{ at = "gen:desk" }]\nspan = []\n'
    )
    network = network_file.parse(apart, "paper.toml")[0]
    told: dict[str, Any] = {
        "host-a": part(SMALL, "host-a", 1),
        "host-b": part(network, "host-b", 2),
        "edge": part(network, "edge", 3),
    }
    assert not any(row["name"] == "near" for row in told["host-b"]["rows"]["Laid_Link"])
    others: dict[str, Any] = {
        "odd": {"cluster": "one", "change": 3, "rows": 5},
        "gone": Unreachable("gone", "tcp://gone:1", "silent"),
        "other": {"change": "no number"},
    }
    Answers(monkeypatch, told | others, None)
    controllers = SMALL.controllers | dict.fromkeys(others, SMALL.controllers["edge"])
    assert learn(replace(SMALL, controllers=controllers), 1.0) == (network, 3)
    # One that is away takes with it what it alone has.
    told["host-b"] = Unreachable("host-b", "tcp://b:1", "silent")
    Answers(monkeypatch, told, None)
    found, _ = learn(SMALL, 1.0)
    assert found.links.keys() == {"left", "right", "near"} and found.routers == network.routers


def test_what_most_follow_counts_whatever_the_number_of_another_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One controller was not told that the store was made anew, where numbers began again."""
    told = {
        "host-a": part(SMALL, "host-a", 40) | {"cluster": "old"},
        "host-b": part(SMALL, "host-b", 1),
        "edge": part(GROWN, "edge", 2),
    }
    Answers(monkeypatch, told, None)
    found, change = learn(SMALL, 1.0)
    assert (found.links, change) == (GROWN.links, 2)


@pytest.mark.parametrize("name", ["host-a", "host-b", "edge"])
def test_a_controllers_part_is_no_other_network(name: str) -> None:
    found = replace(laid_entries(OwnRows(marked(GROWN, 1)).of(name), EMPTY), name="paper")
    digests = Digests(GROWN)
    assert other_file(digests, name, {"digest": found.active.digest}) == ""
    assert other_file(digests, name, {"digest": GROWN.digest}) == ""
    assert "it knows another network" in other_file(digests, name, {"digest": SMALL.digest})
