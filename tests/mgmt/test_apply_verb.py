"""`xenflow apply`: what it asks controllers before, and what it says of those that are behind."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mgmt.client import Refused, Unreachable
from mgmt.session import ManagementSession, learn
from mgmt.verbs import apply
from xenflow.control import planner_relay
from xenflow.planner import service
from xenflow.store import network_file
from xenflow.store.laid_file import LaidRows, to_json
from xenflow.store.network_rows import laid

PAPER = Path(__file__).parents[2] / "conf" / "paper.toml"


class Session:
    """Controllers that answer what they are told to."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        datapaths = {f"at-{name}": Namespace(controller=name) for name in answers}
        self.network = Namespace(controllers=answers, datapaths=datapaths)

    def ask_all(self, verb: str, names: Any = None, /, **arguments: Any) -> dict[str, Any]:
        return {name: self.answers[name] for name in names or self.answers}


def knows(change: int, cluster: str = "one") -> dict[str, Any]:
    return {"digest": "", "changed": {}, "change": change, "cluster": cluster}


def test_who_asks_waits_longer_than_whom_it_asks() -> None:
    """So that who knows most says what is wrong, and that within 10 s."""
    assert service.WRITE_S < service.ANSWER_S < planner_relay.ANSWER_S < 10.0 < apply.PLANNED_S


def test_what_all_know_is_what_was_looked_at() -> None:
    session: Any = Session(a=knows(3), b=knows(3))
    assert apply.look(session, "") == ([], {"cluster": "one", "since": 3})


@pytest.mark.parametrize(
    ("behind", "words"),
    [
        (knows(2), "b: it knows change 2 of the store (cluster one), and others 3"),
        (knows(3, "another"), "b: it knows change 3 of the store (cluster another), and others"),
        ({"digest": "", "changed": {}}, "b: it follows no store"),
        (Refused("refused", "links.x: no", "b"), "b: links.x: no"),
    ],
)
def test_who_is_behind_or_cannot_is_named(behind: Any, words: str) -> None:
    session: Any = Session(a=knows(3), b=behind)
    wrong, _ = apply.look(session, "")
    assert len(wrong) == 1 and wrong[0].startswith(words)


def test_what_several_refuse_is_said_once() -> None:
    one, two = "links.left: vlan 101 cannot become 401", "datapaths.a: vr1 is there"
    session: Any = Session(
        a=Refused("refused", one, "a"), b=knows(3), c=Refused("refused", f"{one}\n{two}", "c")
    )
    assert apply.look(session, "")[0] == [f"a, c: {one}", f"c: {two}"]


def test_why_a_change_has_not_come_is_said() -> None:
    full = "/var/lib/xenflow/laid.json: No space left on device: change 8 waits"
    store = {"taken": 7, "in_force": {}}
    session: Any = Session(a={"store": store, "problems": [full]})
    assert apply.await_in_force(session, {"at-a": 8}, 0.0) == [f"a: {full}"]


def test_only_who_is_concerned_is_waited_for() -> None:
    """By switch: `idle` is at change 7 for ever, as none after it concerned it."""
    store = {"taken": 8, "in_force": {"at-late": 7}}
    idle = {"store": {"taken": 7, "in_force": {"at-idle": 7}}, "problems": []}
    session: Any = Session(late={"store": store, "problems": []}, idle=idle)
    late = ["at-late: change 8 is not in force there"]
    assert apply.await_in_force(session, {"at-late": 8, "at-idle": 7}, 0.0) == late
    assert apply.await_in_force(session, {"at-idle": 7}, 0.0) == []
    assert apply.await_in_force(session, {}, 0.0) == []


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


def test_who_says_what_cannot_be_read_hides_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAPER.read_text().replace('name = "paper"', 'name = "paper"\nstore = ["unix:/x"]')
    network = network_file.parse(text, "paper.toml")[0]
    grown = network_file.parse(text + "\n[links.more]\nid = 77\nvlan = 177\n", "paper.toml")[0]
    rows = {
        table: {key: {**row, "change": 2, "gone": False} for key, row in found.items()}
        for table, found in laid(grown).items()
    }
    told: dict[str, Any] = {
        "edge": {"cluster": "one", "change": 3, "rows": 5},
        "host-a": to_json(LaidRows("one", 2, rows)),
        "host-b": {"cluster": "one", "change": 1, "rows": {}},
        "gone": Unreachable("gone", "tcp://gone:1", "silent"),
        "other": {"change": "no number"},
    }
    asked: list[tuple[list[str], bool]] = []

    def ask_all(urls: Any, _: str, /, timeout_s: float, rows: bool = True) -> Any:
        asked.append(([*urls], rows))
        return told if not rows else {name: told[name] for name in urls}

    monkeypatch.setattr("mgmt.session.ask_all", ask_all)
    controllers = dict.fromkeys(told, network.controllers["edge"])
    found, change = learn(replace(network, controllers=controllers), 1.0)
    assert (found.links, change) == (grown.links, 2)
    # All are asked for the number, for the rows only who knows the latest change, one by one.
    assert asked == [([*told], False), (["edge"], True), (["host-a"], True)]


def test_what_most_follow_counts_whatever_the_number_of_another_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One controller was not told that the store was made anew, where numbers began again."""
    text = PAPER.read_text().replace('name = "paper"', 'name = "paper"\nstore = ["unix:/x"]')
    network = network_file.parse(text, "paper.toml")[0]
    grown = network_file.parse(text + "\n[links.more]\nid = 77\nvlan = 177\n", "paper.toml")[0]

    def said(cluster: str, change: int, of: Any) -> dict[str, Any]:
        rows = {
            table: {key: {**row, "change": change, "gone": False} for key, row in found.items()}
            for table, found in laid(of).items()
        }
        return to_json(LaidRows(cluster, change, rows))

    told = {
        "edge": said("old", 40, network),
        "host-a": said("new", 1, network),
        "host-b": said("new", 2, grown),
    }
    monkeypatch.setattr("mgmt.session.ask_all", lambda urls, *_, **__: {n: told[n] for n in urls})
    found, change = learn(network, 1.0)
    assert (found.links, change) == (grown.links, 2)
