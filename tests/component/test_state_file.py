"""What was acknowledged is there after a restart; what cannot be read harms nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenflow.network_file import load
from xenflow.pure.network import Network
from xenflow.pure.placement import at_home
from xenflow.rules import Rules
from xenflow.state_file import NAME, StateFile

ROOT = Path(__file__).resolve().parents[2]
RULE = {"id": "one", "priority": 0, "match": {}, "actions": ["drop"]}


@pytest.fixture(scope="module")
def network() -> Network:
    return load(ROOT / "conf" / "paper.toml")


def test_what_was_saved_is_loaded(tmp_path: Path, network: Network) -> None:
    moved = at_home("vr1", "host-a").step(vm="host-b", to="host-b", forwarders=("host-b",))
    StateFile(tmp_path / "deep").save({"host-a": {"vr1": moved}}, {"host-a": [RULE]})
    assert StateFile(tmp_path / "deep").load(network) == (
        {"host-a": {"vr1": moved}}, {"host-a": [RULE]},
    )  # fmt: skip


def test_what_does_not_fit_the_network_any_more_is_left_out(
    tmp_path: Path, network: Network
) -> None:
    gone = {"vr9": at_home("vr9", "host-a"), "vr1": at_home("vr1", "host-z")}
    StateFile(tmp_path).save({"host-a": gone}, {})
    assert StateFile(tmp_path).load(network) == ({}, {})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"placements": []}', '{"placements": {"a": 1}, "rules": {}}',
             '{"placements": {"a": [{"router": 1}]}, "rules": {}}', "\udcff"],
)  # fmt: skip
def test_a_damaged_file_is_said_and_passed_over(
    tmp_path: Path, network: Network, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(text.encode(errors="surrogateescape"))
    assert StateFile(tmp_path).load(network) == ({}, {})
    assert "starting from the network's description" in caplog.text


def test_without_a_directory_nothing_is_kept(network: Network) -> None:
    StateFile(None).save({}, {})
    assert StateFile(None).load(network) == ({}, {})


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, network: Network) -> None:
    StateFile(tmp_path).save({}, {"host-a": [RULE]})
    (tmp_path / NAME).with_suffix(".new").mkdir()
    with pytest.raises(OSError, match="directory"):
        StateFile(tmp_path).save({}, {})
    assert StateFile(tmp_path).load(network) == ({}, {"host-a": [RULE]})


def test_rules_come_back() -> None:
    rules = Rules()
    rules.restore([RULE])
    assert rules.rows() == [RULE]
