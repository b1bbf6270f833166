"""The units of a host: what starts after what when the machine does, and what belongs together."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from xenflow.planner.__main__ import main as planner
from xenflow.store.__main__ import main as store
from xenflow.store.server import StoreServer

FOLDER = Path(__file__).resolve().parents[2] / "xen" / "dom0"
UNITS = sorted(path.name for path in FOLDER.glob("*.service"))
STORE, PLANNER, CONTROLLER = "xenflow-store", "xenflow-planner", "xenflow"


def read(unit: str) -> dict[str, list[str]]:
    """The values of each key of a unit, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in (FOLDER / f"{unit}.service").read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[key].append(value)
    return found


def words(unit: str, key: str) -> set[str]:
    return {word.removesuffix(".service") for value in read(unit)[key] for word in value.split()}


def is_after(later: str, earlier: str) -> bool:
    return earlier in words(later, "After") or later in words(earlier, "Before")


def test_network_then_store_then_planner_then_controller_then_routers() -> None:
    assert is_after(STORE, "network-online.target")
    assert is_after(PLANNER, STORE)
    assert is_after(CONTROLLER, STORE) and is_after(CONTROLLER, PLANNER)
    assert "xendomains" in words(CONTROLLER, "Before")


@pytest.mark.parametrize("unit", [STORE, PLANNER, CONTROLLER])
def test_each_starts_with_the_machine_and_goes_on_without_the_others(unit: str) -> None:
    said = read(unit)
    assert said["WantedBy"] == ["multi-user.target"]
    assert said["Restart"] == ["always"] and said["StartLimitIntervalSec"] == ["0"]
    for key in ("Requires", "BindsTo", "PartOf", "Requisite"):
        assert not said[key], "a store that is away, or restarted, ends nothing"


def test_store_and_planner_do_nothing_on_a_host_that_is_no_member() -> None:
    folder = words(STORE, "ExecStart") & {"/var/lib/xenflow/store"}
    member = StoreServer(Path(folder.pop()), "")
    for unit in (STORE, PLANNER):
        assert read(unit)["ConditionPathExists"] == [str(member.database)]
    assert read(STORE)["PIDFile"] == [str(member.folder / "server.pid")]
    assert f"--store={member.remote}" in words(PLANNER, "ExecStart")


@pytest.mark.parametrize("unit", [STORE, PLANNER])
def test_the_commands_are_there(unit: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is called with `--help` after its first words."""
    for command in read(unit)["ExecStart"] + read(unit)["ExecStop"]:
        python, m, module, *rest = command.split()
        assert (python, m) == ("/usr/bin/python3", "-m")
        main = {"xenflow.store": store, "xenflow.planner": planner}[module]
        with pytest.raises(SystemExit, match="^0$"):
            main([*rest[:1], "--help"])
        assert "usage" in capsys.readouterr().out


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    for unit in UNITS:
        text = (FOLDER / unit).read_text().replace("/opt/xenflow/pox.py", "/bin/true")
        (tmp_path / unit).write_text(text)
    command = ["systemd-analyze", "verify", *(str(tmp_path / unit) for unit in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_ports_and_filter_follow_what_is_laid() -> None:
    path = (FOLDER / "xenflow-ports.path").read_text()
    assert "PathChanged=/var/lib/xenflow/laid.json\n" in path
    started, controller = read("xenflow-ports"), read(CONTROLLER)
    assert started["Type"] == ["oneshot"], "who starts it waits until they are made"
    assert started["ExecStart"] == controller["ExecStartPre"]
    assert started["Environment"] == controller["Environment"]
    assert started["StartLimitIntervalSec"] == ["0"]
