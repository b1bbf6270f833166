"""What was acknowledged is there after a restart; what cannot be kept is not done; what cannot be
read harms nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bench.large_network import make_network
from tests.written_switch import WrittenSwitch, bound
from xenflow.control.leases import Leases
from xenflow.control.management_service import ManagementService
from xenflow.control.rule_table import RuleTable
from xenflow.model import management as mg
from xenflow.model.network import Network
from xenflow.model.placement import Placement, at_home, to_json
from xenflow.model.succession import changed_with
from xenflow.openflow import statistics, wire
from xenflow.openflow.flow import Flow
from xenflow.openflow.statistics import FlowStats
from xenflow.store.line_file import MORE_BYTES, StateError
from xenflow.store.network_file import load
from xenflow.store.state_file import DAMAGED, NAME, StateFile, StoredState
from xenflow.switch.clock import Clock

ROOT = Path(__file__).resolve().parents[2]
RULE = {"id": "one", "priority": 0, "match": {}, "actions": ["drop"]}
LINE = 144
"""Octets of a placement that is added, of one switch."""
TABLE_AT = 28
"""Where the table is in a Nicira statistics request (nicira-ext.h)."""
PORTS = {"to-gen": 1, "to-recv": 2, "vr1.0": 3, "vr1.1": 4}
MOVED = at_home("vr1", "host-a").step(vm="host-b", leads_to="host-b", forwarders=("host-b",))


@pytest.fixture(scope="module")
def network() -> Network:
    return load(ROOT / "conf" / "paper.toml")


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no room left on the disk."""

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


def test_what_was_saved_is_loaded(tmp_path: Path, network: Network) -> None:
    placed = {"host-a": {"vr1": MOVED}, "host-b": {"vr1": at_home("vr1", "host-a")}}
    StateFile(tmp_path / "deep").save(network, placed, {"host-a": [RULE], "host-b": []}, trees="t")
    assert StateFile(tmp_path / "deep").load(network) == StoredState(
        {"host-a": {"vr1": MOVED}, "host-b": {}}, {"host-a": [RULE]}, trees="t"
    )


def test_what_was_added_is_loaded(tmp_path: Path, network: Network) -> None:
    file = StateFile(tmp_path)
    assert not file.add_rules("host-a", [RULE]), "what another has written is not added to"
    file.save(network, {"host-a": {}, "host-b": {}}, {"host-a": [RULE]})
    assert file.add_placement(MOVED, ["host-a", "host-b"])
    assert file.add_placement(MOVED.step(), ["host-a"])
    assert file.add_rules("host-a", [{**RULE, "id": "two"}]) and file.add_rules("host-b", [])
    assert StateFile(tmp_path).load(network) == StoredState(
        {"host-a": {"vr1": MOVED.step()}, "host-b": {"vr1": MOVED}},
        {"host-a": [{**RULE, "id": "two"}], "host-b": []},
    )


def test_the_file_is_replaced_when_much_was_added(tmp_path: Path, network: Network) -> None:
    file = StateFile(tmp_path)
    file.save(network, {"host-a": {}}, {})
    added = 0
    while file.add_placement(MOVED, ["host-a"]):
        added += 1
    assert added > 100 and (tmp_path / NAME).stat().st_size < 2 * MORE_BYTES
    (tmp_path / NAME).write_text("")
    file.save(network, {"host-a": {}}, {})
    (tmp_path / NAME).write_text("{}")
    assert not file.add_placement(MOVED, ["host-a"]), "nor when somebody else has written it"
    (tmp_path / NAME).unlink()
    assert not file.add_placement(MOVED, ["host-a"])


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_last_line_that_is_not_whole_was_not_acknowledged(
    tmp_path: Path, network: Network, cut: int
) -> None:
    """The machine went down while it was written."""
    file = StateFile(tmp_path)
    file.save(network, {"host-a": {}}, {})
    assert file.add_placement(MOVED, ["host-a"]) and file.add_placement(MOVED.step(), ["host-a"])
    text = (tmp_path / NAME).read_bytes()
    for torn in (text[:-cut], text[:-cut] + bytes(cut)):
        (tmp_path / NAME).write_bytes(torn)
        assert StateFile(tmp_path).load(network) == StoredState({"host-a": {"vr1": MOVED}})


def test_a_line_that_is_wrong_is_said_and_the_others_are_taken(
    tmp_path: Path, network: Network
) -> None:
    file = StateFile(tmp_path)
    file.save(network, {"host-a": {}}, {})
    for line in (b"[" * 100_000, b'{"at": 5}', b'{"at": ["host-a"], "placement": 5}', b"5"):
        text = (tmp_path / NAME).read_bytes()
        (tmp_path / NAME).write_bytes(text + line + b"\n")
        kept = StateFile(tmp_path).load(network)
        assert kept.trouble.startswith(f"{tmp_path / NAME} is damaged ("), line
        (tmp_path / NAME).write_bytes(text)
        assert StateFile(tmp_path).load(network).trouble == ""


def test_a_home_that_is_another_in_the_file_moves_nobody(tmp_path: Path, network: Network) -> None:
    StateFile(tmp_path).save(network, {"gen": {"vr1": at_home("vr1", "host-a")}}, {})
    routers = {"vr1": replace(network.routers["vr1"], home="host-b")}
    kept = StateFile(tmp_path).load(replace(network, routers=routers))
    assert kept.placements == {"gen": {"vr1": at_home("vr1", "host-a")}}


def test_routers_that_come_and_go_are_added(tmp_path: Path, network: Network) -> None:
    """One that comes again is at its new home, whatever was said of the one before; and stays there
    where the network file is another at the next start."""
    file = StateFile(tmp_path)
    file.save(network, {"host-a": {}, "host-b": {}}, {})
    assert file.add_placement(MOVED, ["host-a", "host-b"])
    assert file.add_homes({"vr1": None})
    assert StateFile(tmp_path).load(network) == StoredState({"host-a": {}, "host-b": {}}, {})
    assert file.add_homes({"vr1": "host-b", "nobody": "host-a"})
    there = {"vr1": at_home("vr1", "host-b")}
    assert network.routers["vr1"].home == "host-a"
    assert StateFile(tmp_path).load(network) == StoredState({"host-a": there, "host-b": there}, {})
    assert file.add_placement(MOVED, ["host-a"])
    found = StateFile(tmp_path).load(network)
    assert (found.placements["host-a"], found.trouble) == ({"vr1": MOVED}, "")


@pytest.mark.parametrize("seed", range(10))
def test_a_network_that_changes_is_kept_as_it_is(tmp_path: Path, seed: int) -> None:
    """Who starts then knows the same as who ran."""

    def started(network: Network) -> RuleTable:
        return RuleTable(network, "c0", tmp_path, WrittenSwitch().clock, bound)

    dice, whole = Random(seed), make_network(2, 1, 10, 20)
    table = started(whole)
    for _ in range(8):
        name = dice.choice(sorted(whole.routers))
        router = table.network.routers.get(name)
        if router is not None and dice.random() < 0.4:
            known = table.switches["h0"].placements[name]
            table.place(known.step(vm=dice.choice(("h0", "h1"))), ["h0"], False, lambda error: None)
            continue
        other = replace(whole.routers[name], home=dice.choice(("h0", "h1")))
        fewer = router and replace(router, interfaces=router.interfaces[1:])
        chosen = other if router is None else dice.choice((None, None, other, fewer))
        table.change(changed_with(table.network, routers={name: chosen}))
        again = started(table.network).switches["h0"]
        assert again.placements == table.switches["h0"].placements


@pytest.mark.parametrize("homes", ["1", '"ab"', "null", "[3]"])
def test_homes_that_cannot_be_read_are_said(tmp_path: Path, network: Network, homes: str) -> None:
    StateFile(tmp_path).save(network, {"host-a": {}}, {})
    path = tmp_path / NAME
    path.write_text(f'{path.read_text()}{{"homes":{homes}}}\n')
    assert "no change" in StateFile(tmp_path).load(network).trouble


@pytest.mark.parametrize("routers", [10, 1000])
def test_a_placement_costs_the_same_in_any_network(tmp_path: Path, routers: int) -> None:
    made = make_network(10, 10, routers, 10)
    table = RuleTable(made, "edge", tmp_path, Clock(lambda *_: None), bound)
    seen = []
    for version in (1, 2, 3):
        table.place(
            Placement("r0", ("h1",), "h1", "h1", version=version), ["s0"], False, lambda _: None
        )
        seen.append((tmp_path / NAME).stat())
    assert len({stat.st_ino for stat in seen}) == 1, "the file was replaced"
    first, *more = (stat.st_size for stat in seen)
    assert [size - first for size in more] == [LINE, 2 * LINE]


def test_what_does_not_fit_the_network_any_more_is_left_out(
    tmp_path: Path, network: Network
) -> None:
    file = StateFile(tmp_path)
    file.save(network, {"host-a": {"vr1": MOVED}}, {})
    for gone in (at_home("vr9", "host-a"), at_home("vr1", "host-z")):
        assert file.add_placement(gone, ["host-a"])
    assert StateFile(tmp_path).load(network) == StoredState({"host-a": {}})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"placements": []}',
        '{"placements": {"a": 1}}',
        '{"placements": {"a": [{"router": 1}]}, "rules": {}}',
        "\udcff",
        '{"placements": {}, "rules": {"host-a": 5}}',
        '{"placements": {}, "rules": {"host-a": [{"id": 5}]}}',
        '{"placements": {}, "rules": {"host-a": [{"id": "x", "actions": [5], "match": []}]}}',
    ],
)
def test_a_damaged_file_is_said_passed_over_and_kept(
    tmp_path: Path, network: Network, text: str
) -> None:
    content = text.encode(errors="surrogateescape")
    (tmp_path / NAME).write_bytes(content)
    kept = StateFile(tmp_path).load(network)
    assert kept == StoredState(trouble=kept.trouble)
    assert kept.trouble.startswith(f"{tmp_path / NAME} is damaged (")
    assert (tmp_path / DAMAGED).read_bytes() == content
    RuleTable(network, "host-a", tmp_path, Clock(lambda *_: None), bound)  # starts


def test_what_is_readable_in_a_damaged_file_is_taken(tmp_path: Path, network: Network) -> None:
    file = StateFile(tmp_path)
    file.save(network, {"host-a": {}}, {})
    assert file.add_placement(MOVED, ["host-a"])
    assert file.add_rules("host-a", [RULE, {"id": "x", "actions": [5], "match": []}])
    with (tmp_path / NAME).open("a") as added:
        added.write('{"at": ["host-a"], "placement": 7}\n{"at": ["b"], "rules": 5}\n')
    kept = StateFile(tmp_path).load(network)
    assert kept.placements == {"host-a": {"vr1": MOVED}} and kept.rules["host-a"] == [RULE]
    assert "of host-a: expected an object of id" in kept.trouble


def test_what_releases_wrote_that_kept_one_object_is_damaged(
    tmp_path: Path, network: Network
) -> None:
    """The routers' places are asked for then, as where the file is lost."""
    value = {"placements": {"host-a": [to_json(MOVED)]}, "rules": {}, "complete": True}
    (tmp_path / NAME).write_text(json.dumps(value, indent=1))
    kept = StateFile(tmp_path).load(network)
    assert kept == StoredState(trouble=kept.trouble) and "is damaged" in kept.trouble


def test_a_missing_file_and_no_folder_are_trouble(tmp_path: Path, network: Network) -> None:
    assert StateFile(tmp_path).load(network).trouble == f"{tmp_path / NAME} is missing"
    StateFile(None).save(network, {}, {})
    assert StateFile(None).load(network).trouble == "no state folder was named (--state=DIR)"


def test_a_file_written_before_all_was_known_is_not_trusted(
    tmp_path: Path, network: Network
) -> None:
    StateFile(tmp_path).save(network, {}, {"host-a": [RULE]}, complete=False)
    kept = StateFile(tmp_path).load(network)
    assert kept.rules == {"host-a": [RULE]}
    assert "before it was known where the routers are" in kept.trouble


def test_a_save_that_fails_names_the_folder_and_leaves_the_old_file(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StateFile(tmp_path)
    file.save(network, {}, {"host-a": [RULE]})
    with monkeypatch.context() as patch:
        full(patch)
        match = f"state folder {tmp_path}: No space left on device: nothing was changed"
        with pytest.raises(StateError, match=match):
            StateFile(tmp_path).save(network, {}, {})
        assert [path.name for path in tmp_path.iterdir()] == [NAME], "no draft takes the room"
        with pytest.raises(StateError, match=match):
            file.add_rules("host-a", [])
    assert StateFile(tmp_path).load(network) == StoredState(rules={"host-a": [RULE]})
    assert not file.add_rules("host-a", []), "what is in the file is not known for certain"


def test_what_is_in_the_file_and_perhaps_not_on_the_disk_is_kept_and_said(
    host: Host, tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        for placement in (MOVED, MOVED.step()):
            assert host.ask("place", placement=to_json(placement), in_force=False).ok
            assert host.switch.placements["vr1"] == placement
            assert StateFile(tmp_path).load(network).placements["host-a"]["vr1"] == placement
            assert host.ask("status").result["problems"] == [
                f"state folder {tmp_path}: Input/output error: what was kept last is lost if the "
                "machine goes down now"
            ]
    assert host.ask("place", placement=to_json(MOVED.step().step()), in_force=False).ok
    assert host.ask("status").result["problems"] == []


# --- on the disk first, in memory second, in the switch third -----------------------------------


class Wire(WrittenSwitch):
    """A switch that can be read back."""

    def _statistics(self, message: bytes) -> tuple[statistics.StatsEntry, ...]:
        if len(message) <= TABLE_AT:  # how many there are
            return ()
        flows = [f for f in self.flows() if message[TABLE_AT] in (f.table, wire.ALL_TABLES)]
        return tuple(FlowStats(flow, 0, 0, 0.0, None) for flow in flows)

    def flows(self) -> list[Flow]:
        return sorted(self.tables, key=lambda flow: flow.key)

    def run(self) -> None:
        """For a while: a switch that waits to be written to is looked at again and again."""
        for _ in range(2000):
            if not self._later:
                break
            self._later.popleft()()


class Host:
    """host-a's Rule Table, its switch, and its management."""

    def __init__(self, network: Network, folder: Path | None, wire: Wire | None = None) -> None:
        self.wire = wire or Wire()
        self.table = RuleTable(network, "host-a", folder, self.wire.clock, bound, asks=True)
        self.service = ManagementService(self.table, Leases(), "test", None, None)  # type: ignore[arg-type]
        self.switch = self.table.switches["host-a"]

    def connect(self) -> None:
        self.wire.switch = self.switch
        self.switch.connect(self.wire, [(name, n, True) for name, n in PORTS.items()])
        self.wire.run()

    def ask(self, verb: str, **arguments: Any) -> mg.Answer:
        answers: list[bytes] = []
        self.service.take(mg.request(verb, "1", **arguments), answers.append)
        self.wire.run()  # it is answered when the switch has confirmed
        return mg.parse_answer(answers[0])


@pytest.fixture
def host(network: Network, tmp_path: Path) -> Host:
    StateFile(tmp_path).save(network, {}, {})
    made = Host(network, tmp_path)
    made.connect()
    return made


@pytest.mark.parametrize("verb", ["place", "rule-add", "rule-replace", "rule-remove"])
def test_what_cannot_be_kept_is_refused_and_changes_nothing(
    host: Host, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.ask("rule-add", datapath="host-a", rule=RULE).ok
    before = host.wire.flows(), host.ask("rules").result, dict(host.switch.placements)
    full(monkeypatch)
    arguments: dict[str, Any] = {
        "place": {"placement": to_json(MOVED), "in_force": False},
        "rule-add": {"datapath": "host-a", "rule": {**RULE, "id": "two", "priority": 2}},
        "rule-replace": {"datapath": "host-a", "rule": {**RULE, "priority": 3}},
        "rule-remove": {"datapath": "host-a", "rule_id": "one"},
    }[verb]
    answer = host.ask(verb, **arguments)
    assert not answer.ok
    assert answer.code == "refused"
    assert f"state folder {tmp_path}: No space left on device" in answer.message
    assert (host.wire.flows(), host.ask("rules").result, host.switch.placements) == before


# --- where the file is missing or damaged --------------------------------------------------------


@pytest.mark.parametrize("text", [None, '{"placements": {}, "rules": {"host-a": 5}}'])
def test_nothing_is_deleted_before_the_others_were_asked(
    host: Host, network: Network, tmp_path: Path, text: str | None
) -> None:
    host.ask("place", placement=to_json(MOVED), in_force=False)
    right = host.wire.flows()
    if text is None:
        (tmp_path / NAME).unlink()
    else:
        (tmp_path / NAME).write_text(text)
    again = Host(network, tmp_path, host.wire)
    again.connect()
    assert again.wire.flows() == right
    status = again.ask("status").result
    assert status["searching"].endswith("asks edge, host-b where the routers are")
    assert not status["datapaths"][0]["in_sync"]
    refused = again.ask("place", placement=to_json(MOVED.step()), in_force=False)
    assert refused.message == status["searching"]

    for other in ("edge", "host-b"):
        again.table.heard_from(other, {"placements": [to_json(MOVED)], "searching": ""})
    again.wire.run()
    status = again.ask("status").result
    assert status["searching"] == ""
    assert status["datapaths"][0]["in_sync"]
    assert again.wire.flows() == right
    assert StateFile(tmp_path).load(network).placements["host-a"]["vr1"] == MOVED


@pytest.mark.parametrize("lost", [False, True])
def test_rules_that_are_lost_are_said_before_they_are_deleted(
    host: Host, network: Network, tmp_path: Path, lost: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert host.ask("rule-add", datapath="host-a", rule=RULE).ok
    if lost:
        (tmp_path / NAME).unlink()
    again = Host(network, tmp_path, host.wire)

    def problems() -> list[str]:
        return list(again.ask("status").result["datapaths"][0]["problems"])

    deleted_after: list[bool] = []
    host.wire.watch = lambda: deleted_after.append("does not know (1)" in caplog.text)
    again.connect()
    assert len(problems()) == lost
    for other in ("edge", "host-b"):
        again.table.heard_from(other, {"placements": [], "searching": ""})
    again.wire.run()
    assert deleted_after == [True] * lost
    assert len(problems()) == lost
    assert again.ask("rule-add", datapath="host-a", rule={**RULE, "id": "2", "priority": 2}).ok
    assert problems() == []
    again.ask("rule-remove", datapath="host-a", rule_id="2")
    again.connect()
    assert problems() == [], "only what was there at the start"


def test_where_nobody_answers_an_operator_says_that_all_are_at_home(
    tmp_path: Path, network: Network
) -> None:
    said = re.search(r"`({\"datapaths\".*?})`", (ROOT / "docs" / "faults.md").read_text())
    assert said is not None
    (tmp_path / NAME).write_text(f"{said[1]}\n")
    assert StateFile(tmp_path).load(network) == StoredState()
