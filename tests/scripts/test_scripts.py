"""The scripts for common jobs, with a recorded `xenflow` in place of the real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"

XENFLOW = """\
#!/bin/sh
echo "$@" >> "$0.log"
case "$1 $2 $3" in
    empty-host*) exit 4 ;;
    "plan vr9 host-b") exit 3 ;;
esac
"""

BEFORE_SETUP = """\
import sys
sys.path[:0] = [".", "pox_ext"]
sys.argv.append("--help")
from lab.before_setup import main
main()
"""


class Run:
    def __init__(self, directory: Path) -> None:
        self._xenflow = directory / "xenflow"
        self._xenflow.write_text(XENFLOW)
        self._xenflow.chmod(0o755)

    def __call__(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(SCRIPTS / argv[0]), *argv[1:]],
            env={"PATH": "/usr/bin:/bin", "XENFLOW": str(self._xenflow)},
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def log(self) -> list[str]:
        log = Path(f"{self._xenflow}.log")
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def script(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_help_and_usage(script: Run) -> None:
    assert script("migrate-router", "--help").stdout.startswith("usage: migrate-router")
    for wrong in ((), ("--fly",), ("a", "b", "c"), ("--mode",), ("--pause",)):
        done = script("migrate-router", *wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert "usage" in done.stderr


@pytest.mark.parametrize("name", ["demo", "soak", "random_moves", "upgrade_trial"])
def test_help_needs_no_package(name: str) -> None:
    """Before `scripts/setup` there are none."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", BEFORE_SETUP, name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: scripts/{name.replace('_', '-')}")


def test_migrate_router(script: Run) -> None:
    assert script("migrate-router", "vr2", "--mode", "report", "host-b").returncode == 0
    assert script.log == [
        "plan vr2 host-b --mode report",
        "migrate vr2 host-b --mode report",
        "routers --host host-b",
    ]


def test_what_a_migration_takes_is_passed_on(script: Run) -> None:
    told = ("--force", "--pause", "0.2", "--step")
    assert script("migrate-router", "vr2", *told, "host-b").returncode == 0
    assert script.log[:2] == [
        "plan vr2 host-b --mode overlapped --pause 0.2",
        "migrate vr2 host-b --mode overlapped --pause 0.2 --force --step",
    ]


def test_migrate_router_dry_or_impossible(script: Run) -> None:
    assert script("migrate-router", "vr2", "host-b", "-n").returncode == 0
    assert script("migrate-router", "vr9", "host-b").returncode == 3
    assert script.log == ["plan vr2 host-b --mode overlapped", "plan vr9 host-b --mode overlapped"]


def test_empty_host_is_the_verb(script: Run) -> None:
    assert script("empty-host", "--to", "host-b", "host-a", "-n").returncode == 4
    assert script.log == ["empty-host --to host-b host-a -n"]


@pytest.mark.parametrize(
    "words",
    [
        ("xenflow", "plan", "vr9", "host-b"),
        ("migrate-router", "--dry-run", "vr9", "host-b"),
        ("empty-host", "--dry-run", "vr9"),
    ],
)
def test_from_the_sources_with_nothing_installed(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Neither XENFLOW nor an installed `xenflow`; what is asked for is not in the network file."""
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    network = str(ROOT / "conf" / "paper.toml")
    done = subprocess.run(
        [str(SCRIPTS / words[0]), *words[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "XENFLOW_NETWORK": network},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown router vr9" in done.stderr or "unknown datapath vr9" in done.stderr
