"""The verbs of a network that changes, beside controllers that only answer: who is asked what, in
which order, and what is said."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mgmt import cli
from mgmt.client import AskError, Refused, Unreachable
from mgmt.session import ManagementSession
from mgmt.verbs import Exit
from mgmt.verbs.apply import end
from xenflow.store import network_file

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "conf" / "paper.toml"
TEXT = PAPER.read_text()
MORE = TEXT + '\n[links.more]\nid = 77\nvlan = 177\nroot = "host-a"\n'
CONTROLLERS = ("host-a", "host-b", "edge")
ADDED = {"links": {"added": ["more"]}}


class Answering:
    """Controllers: what each answers to a verb, and what they were asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.change = 2
        self.last = 1
        self.in_force = dict.fromkeys(("host-a", "host-b", "gen", "recv"), 2)
        self.refusing: dict[tuple[str, str], AskError] = {}
        self.heard: dict[str, int] | None = None
        """Of switches that the planner has heard how far they are; None: it does not say that."""
        self.gone: dict[str, Any] | None = None
        """What host-b answers to `status` once the network is without it."""
        self.placed: Iterator[list[str]] = iter(())
        """Where the planner believes vr1 to be, each time it is asked; at last at host-a."""
        self.hears: dict[str, str] = {}
        """What controllers hear of a host that is said to be lost; "here": who asks."""

    def ask(self, controller: str, verb: str, /, **arguments: Any) -> dict[str, Any]:
        self.asked.append((controller, verb, arguments))
        if error := self.refusing.get((controller, verb)):
            raise error
        if verb == "status":
            if self.gone and controller == "host-b" and "apply" in self.verbs():
                return self.gone
            own = {"edge": ("gen", "recv")}.get(controller, (controller,))
            store = {"taken": self.change, "in_force": {name: self.in_force[name] for name in own}}
            store |= {"cluster": "c", "older": False}
            return {"store": store, "problems": [], "migrations": []}
        if verb == "apply":
            dry = arguments["dry_run"]
            answer = {"concerns": dict.fromkeys(self.in_force, 2), "digest": "d"}
            return {"change": 0 if dry else self.change, "changed": ADDED, **answer}
        if verb == "history":
            said = {"when": 0, "confirm_s": 60, "state": "put back"}
            one = {"number": 2, "by": "ada", "changed": ADDED, **said}
            first = {"number": 1, "by": "planner", "changed": {}, **said, "confirm_s": 0}
            return {"changes": [one, first]}
        if verb == "confirm":
            return {"change": arguments["change"] or 2}
        if verb == "planner":
            waits = {"change": 2, "left_s": 30.0}
            at = {
                "cluster": "c",
                "change": self.change,
                "concerns": dict.fromkeys(self.in_force, self.last),
            }
            if self.heard is not None:
                at["in_force"] = self.heard
            at["placed"] = {"vr1": next(self.placed, ["host-a"])}
            names = ["l1", "l2", "l3", "l4", "vr9"]
            return {
                **at,
                "waiting": [{"by": "eve", "file": "b.toml"}],
                "unconfirmed": waits,
                "remembering": [
                    {"switch": "gen", "since": 7, "names": names},
                    {"switch": "host-a", "since": 9, "names": ["l5"]},
                ],
            }
        if verb == "hears":
            return {"hears": self.hears.get(controller, "")}
        if verb == "undone":
            return {"text": TEXT, "last": 7}
        return {}

    def ask_all(self, names: Any, verb: str, /, **arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in names:
            try:
                found[name] = self.ask(name, verb, **arguments)
            except AskError as error:
                found[name] = error
        return found

    def verbs(self) -> list[str]:
        """The verbs asked, each once for those who were asked it one after another."""
        verbs = [verb for _, verb, _ in self.asked]
        return [verb for i, verb in enumerate(verbs) if verbs[i - 1 : i] != [verb]]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    made = Answering()

    def ask(_: Any, controller: str, verb: str, /, timeout_s: Any = None, **words: Any) -> Any:
        return made.ask(controller, verb, **words)

    def ask_all(session: Any, verb: str, names: Any = None, /, **words: Any) -> Any:
        return made.ask_all(names or session.network.controllers, verb, **words)

    monkeypatch.setattr(ManagementSession, "ask", ask)
    monkeypatch.setattr(ManagementSession, "ask_all", ask_all)
    monkeypatch.setattr("mgmt.verbs.apply.IN_FORCE_S", 0.0)
    monkeypatch.setattr("mgmt.lost.knock", lambda url: made.hears.get("here", ""))
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str, text: str = MORE, store: bool = False) -> tuple[int, str, str]:
        network = PAPER
        if store:
            network = tmp_path / "store.toml"
            network.write_text(TEXT.replace("[network]", '[network]\nstore = ["unix:/x"]'))
        file = tmp_path / "new.toml"
        file.write_text(text)
        words = tuple(str(file) if word == "FILE" else word for word in words)
        status = cli.main(["--network", str(network), *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


Run = Callable[..., tuple[int, str, str]]


def test_first_everybody_is_asked_then_one_then_it_is_waited_for(
    answering: Answering, run: Run
) -> None:
    assert run("apply", "FILE") == (0, "links: + more\nchange 2\n", "")
    assert answering.verbs() == ["status", "planner", "apply", "status"]
    assert [who for who, verb, _ in answering.asked if verb == "status"] == [*CONTROLLERS] * 2
    [(who, words)] = [(who, words) for who, verb, words in answering.asked if verb == "apply"]
    assert who == "host-a"
    looked_at = {"cluster": "c", "since": 2}
    assert words == {"text": MORE, "file": "new.toml", "dry_run": False, **looked_at}


def test_a_dry_run_waits_for_nothing(answering: Answering, run: Run) -> None:
    assert run("apply", "FILE", "-n") == (0, "links: + more\n", "")
    assert answering.verbs() == ["status", "planner", "apply"]


def test_where_one_cannot_follow_nothing_is_done(answering: Answering, run: Run) -> None:
    answering.refusing["host-b", "status"] = Unreachable("host-b", "tcp://b:1", "silent")
    wrong = MORE.replace("vlan = 101", "vlan = 111").replace("vlan = 102", "vlan = 112")
    status, out, err = run("apply", "FILE", text=wrong)
    assert (status, out) == (1, "")
    left, right, silent = err.splitlines()
    assert left.startswith("xenflow: links.left: vlan 101 cannot become 111")
    assert right.startswith("xenflow: links.right: vlan 102 cannot become 112")
    assert silent == "xenflow: host-b (tcp://b:1): silent"
    assert answering.verbs() == ["status"]


def test_who_does_not_have_it_in_force_is_named(answering: Answering, run: Run) -> None:
    answering.in_force["recv"] = 1
    status, out, err = run("apply", "FILE", "--json")
    assert status == Exit.LATE == 5
    value = json.loads(out)
    assert (value["ok"], value["change"], value["changed"]) == (False, 2, ADDED)
    assert value["errors"] == ["recv: change 2 is not in force there"]
    assert err == "xenflow: recv: change 2 is not in force there\n"


def test_the_planner_is_asked_by_way_of_who_answers(answering: Answering, run: Run) -> None:
    answering.refusing["host-a", "apply"] = Unreachable("host-a", "tcp://a:1", "silent")
    assert run("apply", "FILE")[0] == 0
    asked = [who for who, verb, _ in answering.asked if verb == "apply"]
    assert asked == ["host-a", "host-b"]
    sent = Unreachable("host-a", "tcp://a:1", "lost", sent=True)
    answering.refusing["host-a", "apply"] = sent  # it may be under way: nobody else is asked
    status, _, err = run("apply", "FILE")
    assert status == 3 and "what was asked may have been done" in err


def test_mistakes_are_found_before_anybody_is_asked(answering: Answering, run: Run) -> None:
    for verb in ("apply", "check", "diff"):
        status, out, err = run(verb, "FILE", text=TEXT.replace("vlan = 101", "vlan = 0"))
        assert (status, out) == (2, "")
        assert "new.toml:" in err and "links.left.vlan: found 0, expected" in err
        assert run(verb, "/no/such/file")[0] == 2
    assert answering.asked == []


def test_a_file_is_checked_without_a_network(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = run("check", "FILE", "--network", "/no/such/file")
    words = "paper: 3 controllers, 4 datapaths, 4 cables, 3 links, 1 router, 2 machines\n"
    assert (status, out) == (0, words)
    wrong = TEXT.replace("vlan = 101", "vlan = 0").replace('stub = ["10.1', 'stub = ["10.999')
    status, _, err = run("check", "FILE", text=wrong)
    assert status == 2 and "links.left.vlan" in err and "lab.machines.gen.stub: found" in err


def test_a_difference_is_a_status(answering: Answering, run: Run) -> None:
    assert run("diff", "FILE") == (1, "links: + more\n", "")
    assert run("diff", "FILE", text=TEXT) == (0, "the file says nothing new\n", "")
    status, out, _ = run("diff", "FILE", text=TEXT.replace("vlan = 101", "vlan = 111"))
    assert status == 1 and "refused: links.left: vlan 101 cannot become 111" in out
    assert answering.asked == []


def test_what_is_exported_is_the_network(run: Run) -> None:
    status, out, _ = run("export")
    assert status == 0
    assert network_file.parse(out, "a.toml")[0] == network_file.load(PAPER)


def test_history_is_a_table(answering: Answering, run: Run) -> None:
    status, out, _ = run("history")
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["CHANGE", "WHEN", "BY", "CHANGED"]
    assert [(row[0], row[3:]) for row in rows[1:]] == [
        ("2", ["ada", "links:", "+", "more;", "not", "confirmed"]),
        ("1", ["planner", "the", "first"]),
    ]


def test_undo_applies_what_the_planner_says(answering: Answering, run: Run) -> None:
    assert run("undo", "2")[0] == 0
    assert answering.verbs() == ["undone", "status", "planner", "apply", "status"]
    [words] = [words for _, verb, words in answering.asked if verb == "apply"]
    assert (words["text"], words["file"], words["since"]) == (TEXT, "change 2 undone", 7)


def test_a_change_that_waits_to_be_confirmed_says_so(answering: Answering, run: Run) -> None:
    status, out, err = run("apply", "FILE", "--confirm", "60")
    assert (status, out) == (0, "links: + more\nchange 2\n")
    words = "it is put back in 60 s unless you say `xenflow confirm 2`"
    assert err == f"xenflow: change 2: {words}\n"
    [asked] = [words for _, verb, words in answering.asked if verb == "apply"]
    assert asked["confirm_s"] == 60
    assert run("confirm") == (0, "change 2 stays\n", "")
    assert run("confirm", "7") == (0, "change 7 stays\n", "")
    with pytest.raises(SystemExit):
        run("apply", "FILE", "--confirm", "0")


def looks(*answers: Any) -> Callable[..., Any]:
    """`look`, which says one after the other."""
    said = iter(answers)
    return lambda *_: next(said)


def created(answering: Answering) -> Any:
    """The links of what was asked for, and as of which change."""
    [asked] = [words for _, verb, words in answering.asked if verb == "apply"]
    return network_file.parse(asked["text"], "a.toml")[0].links, asked["since"]


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network lives in a store, and is as of change 9."""
    monkeypatch.setattr(cli, "learn", lambda network, _: (network, 9))


def test_a_link_is_created_without_a_file(answering: Answering, run: Run, stored: None) -> None:
    access = "gen:m7,02:00:00:00:07:02,02:00:00:00:07:03"
    words = ("link", "create", "more", "--root", "host-b", "--access", access, "--cable", "gen-b")
    status, _, err = run(*words, "--access", "host-b:x", store=True)
    assert status == 0, err
    links, since = created(answering)
    more = links["more"]
    assert since == 9
    assert (more.root, more.cables) == ("host-b", ("gen-b",)) and more.id > 0 < more.vlan
    assert [str(port.end) for port in more.access] == ["gen:m7", "host-b:x"]
    assert more.access[0].macs == (0x020000000702, 0x020000000703)
    before = network_file.load(PAPER).links
    assert {name: links[name] for name in before} == before


def test_what_a_file_leaves_out_stays_but_for_prune(
    answering: Answering, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = network_file.parse(MORE.replace("[network]", '[network]\nstore = ["unix:/x"]'), "a")[0]
    monkeypatch.setattr(cli, "learn", lambda network, _: (grown, 9))
    more_ports = TEXT.replace('at = "gen:', 'at = "gen:new-', 1)
    status, out, err = run("apply", "FILE", text=more_ports, store=True)
    assert status == 0 and "not in new.toml, and left as it is: links.more (--prune" in err
    links, since = created(answering)
    assert (links["more"], since) == (grown.links["more"], 9)
    assert [str(a.end) for a in links["left"].access] == ["gen:new-access"]
    answering.asked.clear()
    status, out, err = run("apply", "FILE", "--prune", "-n", text=TEXT, store=True)
    assert (status, err) == (0, "")
    assert created(answering)[0].keys() == grown.links.keys() - {"more"}
    assert out.splitlines()[1:] == [
        "touches links more",
        "loss is to be expected: link more goes, with what is on it",
    ]


def test_what_a_file_leaves_out_may_not_fit_what_it_says(
    answering: Answering, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = network_file.parse(MORE.replace("[network]", '[network]\nstore = ["unix:/x"]'), "a")[0]
    monkeypatch.setattr(cli, "learn", lambda network, _: (grown, 9))
    other = MORE.replace("links.more", "links.other")
    status, _, err = run("apply", "FILE", text=other, store=True)
    assert status == 2 and "new.toml, with what it leaves out:" in err and "use --prune" in err
    assert answering.asked == []


@pytest.mark.parametrize("options", [(), ("--prune",)])
def test_what_others_add_meanwhile_is_not_removed(
    answering: Answering, run: Run, stored: None, options: tuple[str, ...]
) -> None:
    """Also where the file left nothing out when it was looked: the planner is told as of which."""
    assert run("apply", "FILE", *options, store=True)[0] == 0
    assert created(answering)[1] == 9


def test_loss_is_said_before_it_is(answering: Answering, run: Run, stored: None) -> None:
    status, out, err = run("link", "set", "left", "--access", "gen:new", store=True)
    assert (status, err) == (0, "")
    assert "touches routers vr1; links left: no loss is expected" in out
    status, out, err = run(
        "apply", "FILE", text=TEXT.replace("02:00:00:01:01:01", "02:00:00:01:01:09"), store=True
    )
    assert status == 0 and "loss is to be expected: router vr1: eth0 has another MAC" in err


def test_a_link_is_destroyed_where_nobody_is_on_it(
    answering: Answering, run: Run, stored: None
) -> None:
    status, _, err = run("link", "destroy", "left", store=True)
    assert status == 2 and "link left: vr1 has an interface on it" in err
    status, _, err = run("link", "destroy", "lift", store=True)
    assert status == 2 and "did you mean left?" in err
    assert answering.asked == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("left",), "there is a link left already"),
        (("more", "--id", "1"), "links.more.id: found 1, used by"),
        (("more", "--vlan", "5000"), "links.more.vlan: found 5000, expected"),
        (("more", "--root", "nowhere"), "links.more.root"),
        (("more", "--cable", "none"), "links.more.cables"),
        (("more", "--access", "gen"), "links.more.access"),
        (("more", "--access", "gen:x,zz"), "--access gen:x,zz: expected DATAPATH:PORT"),
        (("no name",), "no name"),
    ],
)
def test_a_link_that_cannot_be_is_refused(
    answering: Answering, run: Run, stored: None, words: tuple[str, ...], said: str
) -> None:
    status, out, err = run("link", "create", *words, store=True)
    assert (status, out) == (2, "") and said in err
    assert answering.asked == []


def test_without_a_store_links_are_the_files(answering: Answering, run: Run) -> None:
    status, _, err = run("link", "create", "more")
    assert status == 1 and "the network lives in its file" in err


def test_a_host_that_answers_is_not_lost(
    answering: Answering, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one that anybody else hears.  It has a ring's links turned, which is for the dead."""
    text = TEXT.replace("[network]", '[network]\nstore = ["unix:/x"]')
    rooted = text.replace("[links.left]", '[links.left]\nroot = "host-b"')
    network = network_file.parse(rooted, "a")[0]
    monkeypatch.setattr(cli, "learn", lambda network_, _: (network, 9))
    status, _, err = run("host", "remove", "host-b", "--lost", store=True)
    assert status == 2 and "host-b is not lost: controller host-b answers: end its machine" in err
    dead = Unreachable("host-b", "tcp://b:1", "silent")
    answering.refusing["host-b", "status"] = dead
    status, _, err = run("host", "remove", "host-b", store=True)
    assert status == 2 and "where host host-b is dead, say --lost" in err
    for who, said in (("here", "refuses"), ("host-a", "accepts"), ("edge", "refuses")):
        answering.hears = {who: f"{said} connections"}
        status, _, err = run("host", "remove", "host-b", "--lost", store=True)
        assert status == 2 and f"host-b is not lost: from {who}, its machine {said} conn" in err
    assert "apply" not in answering.verbs()
    answering.hears = {}
    answering.refusing["edge", "hears"] = Refused("unknown-verb", "hears")
    status, _, err = run("host", "remove", "host-b", "--lost", store=True)
    assert status == 0, err
    [asked] = [words for _, verb, words in answering.asked if verb == "apply"]
    assert "host-b" not in network_file.parse(asked["text"], "a")[0].controllers
    assert all(who != "host-b" for who, verb, _ in answering.asked if verb in ("reload", "apply"))


NO_B = "host-b (tcp://b:1): silent"


@pytest.fixture
def ringed(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> Answering:
    """Nobody needs host-b, by which no link leads on."""
    network = network_file.parse(TEXT.replace("[network]", '[network]\nstore = ["unix:/x"]'), "a")[
        0
    ]
    monkeypatch.setattr(cli, "learn", lambda network_, _: (network, 9))
    answering.in_force = dict.fromkeys(("host-a", "gen", "recv"), 2)
    return answering


def test_a_host_goes_while_its_controller_runs_and_it_is_waited_for(
    ringed: Answering, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ringed.in_force["host-b"] = 2
    ringed.placed = iter([["host-b"], ["host-b"]])
    ringed.gone = {"store": {"fenced": True}, "datapaths": []}
    assert run("host", "remove", "host-b", store=True)[0] == 0
    # Before it is asked to, the planner has heard that the router is not there any more.
    asked = [verb for _, verb, _ in ringed.asked]
    assert asked[asked.index("apply") - 2 :][:3] == ["planner", "planner", "apply"]
    assert ringed.asked[-1][:2] == ("host-b", "status")
    row = {"name": "host-b", "connected": True, "in_sync": False}
    for answer, said in (
        ({"store": {"fenced": False}, "datapaths": []}, "host-b: it has not heard yet that it is"),
        ({"store": {"fenced": True}, "datapaths": [row]}, "host-b: what it held of the network is"),
    ):
        ringed.asked.clear()
        ringed.gone = answer
        status, _, err = run("host", "remove", "host-b", store=True)
        assert status == 5 and said in err


def test_a_host_that_was_stopped_goes_where_it_had_all_in_force(
    ringed: Answering, run: Run
) -> None:
    for verb in ("status", "network"):
        ringed.refusing["host-b", verb] = Unreachable("host-b", "tcp://b:1", "silent")
    ringed.in_force["host-b"] = 1
    ringed.heard = {"host-b": 0, "host-a": 1}
    status, _, err = run("host", "remove", "host-b", store=True)
    assert status == 2 and f"{NO_B}: where host host-b is dead, say --lost" in err
    ringed.heard = {"host-b": 1, "host-a": 1}
    status, _, err = run("host", "remove", "host-b", store=True)
    assert status == 0 and f"{NO_B}: it had all in force, and nothing is there" in err


def test_who_was_never_heard_holds_up_nobody(ringed: Answering, run: Run) -> None:
    for verb in ("status", "network"):
        ringed.refusing["host-b", verb] = Unreachable("host-b", "tcp://b:1", "silent")
    words = ("link", "create", "more", "--access", "gen:more")
    status, _, err = run(*words, store=True)
    assert (status, err) == (1, f"xenflow: {NO_B}\n")  # by a planner of the release before
    ringed.heard = {"host-b": 1}
    assert run(*words, store=True)[0] == 1
    ringed.heard = {"host-a": 1}
    ringed.asked.clear()
    status, _, err = run(*words, store=True)
    assert status == 0 and f"{NO_B}: it was never heard, and is not waited for" in err
    ringed.asked.clear()
    status, _, err = run("host", "remove", "host-b", store=True)
    assert status == 0, err


def test_of_two_steps_the_second_undoes_nothing_of_others(
    answering: Answering, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TEXT.replace("[network]", '[network]\nstore = ["unix:/x"]')
    network = network_file.parse(text, "a")[0]
    monkeypatch.setattr(cli, "learn", lambda network_, _: (network, 9))
    ask, changes = answering.ask, iter((10, 11))

    def numbered(controller: str, verb: str, /, **words: Any) -> dict[str, Any]:
        if (controller, verb) == ("host-b", "status") and "apply" not in answering.verbs():
            answering.asked.append((controller, verb, words))
            raise Unreachable("host-b", "tcp://b:1", "silent")
        answer = ask(controller, verb, **words)
        return {**answer, "change": next(changes)} if verb == "apply" else answer

    answering.ask = numbered  # type: ignore[method-assign]
    answering.change = 12
    answering.in_force = dict.fromkeys(answering.in_force, 12)
    words = ("host", "replace", "host-b", "--dpid", "c1")
    assert run(*words, store=True)[0] == 0
    asked = [words["since"] for _, verb, words in answering.asked if verb == "apply"]
    assert asked == [9, 10]
    answering.asked.clear()
    changes = iter((12,))
    monkeypatch.setattr("mgmt.verbs.edit.apply.look", looks(([], {"since": 9}), (["no"], {})))
    status, _, err = run(*words, store=True)
    assert status == 1 and "only the first is made, change 12: `xenflow undo 12`" in err


def test_events_are_shown_and_followed(
    answering: Answering, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"number": 7, "when": 0, "by": "ada", "from": "tcp", "what": "change 2"}
    events = [{**one, "words": "a.toml: links +more", "outcome": "made"}]
    asked: list[int] = []

    def ask(self: Any, controller: str, verb: str, /, timeout_s: Any = None, since: int = 0) -> Any:
        asked.append(since)
        if len(asked) == 2:
            raise Refused("refused", "no planner", controller)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return {"events": events if since < 7 else []}

    monkeypatch.setattr(ManagementSession, "ask", ask)
    monkeypatch.setattr("mgmt.verbs.events.LOOK_S", 0.0)
    status, out, err = run("events", "--follow")
    assert (status, asked) == (130, [0, 7, 7, 7])
    assert out.count("\n") == 1
    assert out.endswith("  change 2: a.toml: links +more: made (by ada from tcp)\n")
    assert "no planner" in err
    asked[:] = [0] * 4
    assert json.loads(run("events", "--json")[1]) == events[0]


def test_what_is_refused_before_the_planner_is_asked_is_noted(
    answering: Answering, run: Run, stored: None
) -> None:
    answering.refusing["edge", "status"] = Refused("refused", "no", "edge")
    answering.refusing["host-a", "event"] = Unreachable("host-a", "tcp://a:1", "silent")
    assert run("link", "create", "more", store=True)[0] == 1
    [words] = [words for _, verb, words in answering.asked if verb == "event"]
    assert words == {
        "what": "change",
        "words": "link create more: edge: no",
        "outcome": "refused",
    }


def test_status_says_what_waits_and_which_file_differs(
    answering: Answering, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    grown = network_file.parse(MORE.replace("[network]", '[network]\nstore = ["unix:/x"]'), "a")[0]
    monkeypatch.setattr(cli, "learn", lambda network, _: (grown, 2))

    def store(own: list[str], taken: int) -> dict[str, Any]:
        about = {"connected": True, "change": 2, "taken": taken, "planner": "tcp://p:1"}
        return {"store": {**about, "in_force": dict.fromkeys(own, taken)}}

    answering.last = 2
    rows = {"datapaths": [{"name": "host-a", "connected": True}]}
    said = {
        "host-a": store(["host-a"], 2) | rows,
        "host-b": store(["host-b"], 1),
        "edge": store([], 2),
    }
    monkeypatch.setattr(ManagementSession, "ask_all", lambda *_, **__: said)
    out = run("status", store=True)[1]
    block = out.split("\n\n")[2].splitlines()
    assert [line.strip() for line in block] == [
        "store",
        "change 2, not in force yet where it concerns",
        "host-b is at change 1, and change 2 concerns it: controller host-b is at change 1",
        "planner tcp://p:1",
        "b.toml (by eve) waits for its turn",
        "change 2 is put back in 30s unless you say `xenflow confirm 2`",
        "gen may have flows of what went since change 7 (l1, l2, l3 and 2 others), whose ids and "
        "VLAN ids nobody gets: connect it; where it is dead: `xenflow switch remove gen --lost`",
        "host-a may have flows of what went since change 9 (l5), whose ids and VLAN ids nobody "
        "gets: it is connected, and has to prove that they are gone",
        f"{tmp_path}/store.toml says otherwise: links -more (`xenflow apply {tmp_path}/store.toml "
        "--prune` makes it so; `xenflow export` prints what there is)",
    ]
    answering.refusing["host-a", "planner"] = Unreachable("host-a", "tcp://a:1", "silent")
    monkeypatch.setattr(cli, "learn", lambda network, _: (network, 2))
    out = run("status", store=True)[1]
    assert "what the planner is at is not known" in out and "says otherwise" not in out


def test_a_verb_that_changes_nothing_speaks_of_no_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = {"change": 0, "changed": {}}
    of_verb = Namespace(json=False, dry_run=False)
    assert end(of_verb, {}, answer, Exit.OK, []) is Exit.OK
    assert capsys.readouterr() == ("nothing is to be done\n", "")
    end(Namespace(**vars(of_verb), file="class.toml"), {}, answer, Exit.OK, [])
    assert capsys.readouterr() == ("the file says nothing new\n", "")


def test_mistakes_of_a_verb_name_no_lines(answering: Answering, run: Run, stored: None) -> None:
    status, _, err = run("link", "create", "a b", "--vlan", "101", store=True)
    assert status == 2 and "xenflow: link create a b: links.a b: found" in err
    assert "line" not in err and answering.asked == []


def test_a_refusal_of_who_says_more_has_what_every_refusal_has(
    answering: Answering, run: Run
) -> None:
    answering.refusing["host-b", "status"] = Unreachable("host-b", "tcp://b:1", "silent")
    status, out, err = run("apply", "FILE", "--json")
    told = json.loads(out)
    assert (status, told["ok"], told["status"]) == (1, False, 1)
    assert told["error"] == "\n".join(told["errors"]) and f"xenflow: {told['error']}\n" == err
