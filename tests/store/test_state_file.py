"""What was acknowledged is there after a restart; what cannot be kept is not done; what cannot be
read harms nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.written_switch import WrittenSwitch, bound
from xenflow.control.leases import Leases
from xenflow.control.management_service import ManagementService
from xenflow.control.rule_table import RuleTable
from xenflow.model import management as mg
from xenflow.model.network import Network
from xenflow.model.placement import at_home, to_json
from xenflow.openflow import statistics, wire
from xenflow.openflow.flow import Flow
from xenflow.openflow.statistics import FlowStats
from xenflow.store.network_file import load
from xenflow.store.state_file import DAMAGED, NAME, Kept, StateError, StateFile
from xenflow.switch.clock import Clock

ROOT = Path(__file__).resolve().parents[2]
RULE = {"id": "one", "priority": 0, "match": {}, "actions": ["drop"]}
TABLE_AT = 28
"""Where the table is in a Nicira statistics request (nicira-ext.h)."""
PORTS = {"to-gen": 1, "to-recv": 2, "vr1.0": 3, "vr1.1": 4}
MOVED = at_home("vr1", "host-a").step(vm="host-b", leads_to="host-b", forwarders=("host-b",))


@pytest.fixture(scope="module")
def network() -> Network:
    return load(ROOT / "conf" / "paper.toml")


def full(folder: Path) -> Path:
    """The state file cannot be written for want of room, until what is returned is removed."""
    draft = (folder / NAME).with_suffix(".new")
    draft.mkdir()
    return draft


def test_what_was_saved_is_loaded(tmp_path: Path, network: Network) -> None:
    StateFile(tmp_path / "deep").save({"host-a": {"vr1": MOVED}}, {"host-a": [RULE]})
    assert StateFile(tmp_path / "deep").load(network) == Kept(
        {"host-a": {"vr1": MOVED}}, {"host-a": [RULE]}
    )


def test_what_does_not_fit_the_network_any_more_is_left_out(
    tmp_path: Path, network: Network
) -> None:
    gone = {"vr9": at_home("vr9", "host-a"), "vr1": at_home("vr1", "host-z")}
    StateFile(tmp_path).save({"host-a": gone}, {})
    assert StateFile(tmp_path).load(network) == Kept()


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
    assert kept == Kept(trouble=kept.trouble)
    assert kept.trouble.startswith(f"{tmp_path / NAME} is damaged (")
    assert (tmp_path / DAMAGED).read_bytes() == content
    RuleTable(network, "host-a", tmp_path, Clock(lambda *_: None), bound)  # starts


def test_what_is_readable_in_a_damaged_file_is_taken(tmp_path: Path, network: Network) -> None:
    value = {"placements": {"host-a": [to_json(MOVED), 7]}, "rules": {"host-a": [RULE], "b": 5}}
    (tmp_path / NAME).write_text(json.dumps(value))
    kept = StateFile(tmp_path).load(network)
    assert (kept.placements, kept.rules) == ({"host-a": {"vr1": MOVED}}, {"host-a": [RULE]})
    assert "placements of host-a: placement: expected an object" in kept.trouble


def test_a_missing_file_and_no_folder_are_trouble(tmp_path: Path, network: Network) -> None:
    assert StateFile(tmp_path).load(network).trouble == f"{tmp_path / NAME} is missing"
    StateFile(None).save({}, {})
    assert StateFile(None).load(network).trouble == "no state folder was named (--state=DIR)"


def test_a_file_written_before_all_was_known_is_not_trusted(
    tmp_path: Path, network: Network
) -> None:
    StateFile(tmp_path).save({}, {"host-a": [RULE]}, complete=False)
    kept = StateFile(tmp_path).load(network)
    assert kept.rules == {"host-a": [RULE]}
    assert "before it was known where the routers are" in kept.trouble


def test_a_save_that_fails_names_the_folder_and_leaves_the_old_file(
    tmp_path: Path, network: Network
) -> None:
    StateFile(tmp_path).save({}, {"host-a": [RULE]})
    full(tmp_path)
    with pytest.raises(StateError, match=f"state folder {tmp_path}: Is a directory"):
        StateFile(tmp_path).save({}, {})
    assert StateFile(tmp_path).load(network) == Kept(rules={"host-a": [RULE]})


def test_a_full_disk_is_said_and_leaves_no_draft(tmp_path: Path) -> None:
    draft = (tmp_path / NAME).with_suffix(".new")
    draft.symlink_to("/dev/full")
    with pytest.raises(StateError, match="No space left on device: nothing was changed"):
        StateFile(tmp_path).save({}, {})
    assert not draft.is_symlink()
    StateFile(tmp_path).save({}, {})


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
    StateFile(tmp_path).save({}, {})
    made = Host(network, tmp_path)
    made.connect()
    return made


@pytest.mark.parametrize("verb", ["place", "rule-add", "rule-replace", "rule-remove"])
def test_what_cannot_be_kept_is_refused_and_changes_nothing(
    host: Host, tmp_path: Path, verb: str
) -> None:
    assert host.ask("rule-add", datapath="host-a", rule=RULE).ok
    before = host.wire.flows(), host.ask("rules").result, dict(host.switch.placements)
    full(tmp_path)
    arguments: dict[str, Any] = {
        "place": {"placement": to_json(MOVED), "in_force": False},
        "rule-add": {"datapath": "host-a", "rule": {**RULE, "id": "two", "priority": 2}},
        "rule-replace": {"datapath": "host-a", "rule": {**RULE, "priority": 3}},
        "rule-remove": {"datapath": "host-a", "rule_id": "one"},
    }[verb]
    answer = host.ask(verb, **arguments)
    assert not answer.ok
    assert answer.code == "refused"
    assert f"state folder {tmp_path}: Is a directory" in answer.message
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
