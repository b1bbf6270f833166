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
    "routers --host host-a") echo vr1; echo vr2 ;;
    "routers --needs host-a")
        if grep -q "^migrate" "$0.log"; then cat "$0.left" 2>/dev/null; [ ! -e "$0.deaf" ]
        else echo vr1; echo vr2; echo vr3; fi ;;
    "recover vr3 ") [ ! -e "$0.stuck" ] || { echo "no answer" >&2; exit 1; } ;;
    "topology --hosts ") echo host-a; echo host-b; echo host-c ;;
    "plan vr1 host-b") echo "no way" >&2; exit 1 ;;
    "plan vr9 host-b") exit 3 ;;
    "migrate vr2 host-c") exit 1 ;;
esac
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

    def note(self, name: str, *lines: str) -> None:
        """A file beside the command that changes what it says."""
        Path(f"{self._xenflow}.{name}").write_text("".join(f"{line}\n" for line in lines))

    @property
    def log(self) -> list[str]:
        log = Path(f"{self._xenflow}.log")
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def script(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.mark.parametrize("name", ["migrate-router", "empty-host"])
def test_help_and_usage(script: Run, name: str) -> None:
    assert script(name, "--help").stdout.startswith(f"usage: {name}")
    for wrong in ((), ("--fly",), ("a", "b", "c"), ("--mode",), ("--pause",)):
        done = script(name, *wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert "usage" in done.stderr


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
    assert script("empty-host", *told, "--to", "host-b", "host-a").returncode == 0
    moves = [line for line in script.log if line.startswith(("plan vr2", "migrate vr2"))]
    assert (
        moves
        == [
            "plan vr2 host-b --mode overlapped --pause 0.2",
            "migrate vr2 host-b --mode overlapped --pause 0.2 --force --step",
        ]
        * 2
    )


def test_migrate_router_dry_or_impossible(script: Run) -> None:
    assert script("migrate-router", "vr2", "host-b", "-n").returncode == 0
    assert script("migrate-router", "vr9", "host-b").returncode == 3
    assert script.log == ["plan vr2 host-b --mode overlapped", "plan vr9 host-b --mode overlapped"]


def test_empty_host(script: Run) -> None:
    done = script("empty-host", "host-a")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no way" in done.stderr
    begun = script.log.index("routers --host host-a --names")
    assert script.log[:begun] == [
        "topology --hosts",
        "routers --needs host-a --names",
        "recover vr1",
        "recover vr2",
        "recover vr3",
    ]
    assert script.log[-1] == "routers --needs host-a --names"
    assert [line for line in script.log if line.startswith("migrate")] == [
        "migrate vr1 host-c --mode overlapped",
        "migrate vr2 host-b --mode overlapped",
    ]


def test_empty_host_dry(script: Run) -> None:
    for words in (("--dry-run", "host-a"), ("host-a", "--dry-run")):
        assert script("empty-host", *words).returncode == 0
    assert not [line for line in script.log if line.startswith("migrate")]
    assert {line for line in script.log if line.startswith("recover")} == {
        "recover vr1 --dry-run",
        "recover vr2 --dry-run",
        "recover vr3 --dry-run",
    }


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ({"left": ("vr3",), "stuck": ()}, "empty-host: left on host-a: vr3\n"),
        ({"left": ("vr3",), "deaf": ()}, "empty-host: what is left on host-a is not known\n"),
    ],
)
def test_a_host_is_empty_when_nobody_needs_it(
    script: Run, notes: dict[str, tuple[str, ...]], said: str
) -> None:
    """vr3's VM is elsewhere, the host forwards for it still; or not every controller answers."""
    for name, lines in notes.items():
        script.note(name, *lines)
    done = script("empty-host", "host-a")
    assert (done.returncode, done.stderr.endswith(said)) == (1, True)


def test_empty_host_that_stays_occupied(script: Run) -> None:
    script.note("left", "vr1")
    done = script("empty-host", "--to", "host-b", "host-a")
    assert done.returncode == 1
    assert done.stderr.endswith("empty-host: left on host-a: vr1\n")
    script.note("left", "vr2")
    done = script("empty-host", "--to", "host-c", "host-a")
    assert done.stderr.endswith("empty-host: left on host-a: vr2\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--mode", "nonsense", "host-a"), "--mode nonsense"),
        (("--pause", "long", "host-a"), "--pause long: expected a time in seconds"),
        (("--to", "nosuch", "host-a"), "nosuch is no host of the network; hosts: host-a host-b"),
        (("--to", "host-a", "host-a"), "--to host-a"),
        (("nosuch",), "nosuch is no host"),
        (("",), " is no host"),
        (("--to", "host.a", "host-b"), "host.a is no host"),
    ],
)
def test_empty_host_refuses_at_once(script: Run, words: tuple[str, ...], said: str) -> None:
    done = script("empty-host", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert all(line == "topology --hosts" for line in script.log)


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
    assert "unknown router vr9" in done.stderr or "vr9 is no host of the network" in done.stderr
