"""What `xenflow lab up` refuses, and what is said where it fails; no lab is brought up."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from lab import bring_up, process
from lab.namespace import LabError

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")


@AS_ROOT
def test_none_on_a_host_whose_own_network_it_would_hide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "network.toml"
    own.touch()
    monkeypatch.setattr(bring_up, "HOSTS_OWN_FILE", own)
    monkeypatch.setattr(bring_up, "find_file", lambda name: pytest.fail("it was not refused"))
    monkeypatch.delenv("XENFLOW_ISOLATED", raising=False)
    with pytest.raises(LabError, match="scripts/isolated"):
        bring_up.up("paper")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(process, "LOG_DIR", tmp_path)
    monkeypatch.setattr(process, "_RECORD", tmp_path / "processes.jsonl")
    return tmp_path


def test_what_is_started_does_not_hold_what_the_caller_has_open(folders: Path) -> None:
    """A lock that a shell holds over `lab up` is free when the shell has ended."""
    lock = folders / "lock"
    with lock.open("w") as held:
        os.set_inheritable(held.fileno(), True)
        fcntl.flock(held, fcntl.LOCK_EX)
        started = process.start("node", "sleep", ["sleep", "60"], None)
    try:
        program = Path(f"/proc/{started.pid}/comm")
        end = time.monotonic() + 10
        while program.read_text() != "sleep\n" and time.monotonic() < end:
            time.sleep(0.001)
        with lock.open() as again:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        process.end([started])


def test_what_is_started_has_the_files_it_was_given(folders: Path) -> None:
    """A machine of the Xen bed has its network cards as descriptors."""
    told = folders / "told"
    with told.open("w") as file:
        say = ["sh", "-c", f"echo through it >/proc/self/fd/{file.fileno()}"]
        started = process.start("node", "sh", say, None, files=(file.fileno(),))
    try:
        end = time.monotonic() + 10
        while not told.read_text() and time.monotonic() < end:
            time.sleep(0.01)
        assert told.read_text() == "through it\n"
    finally:
        process.end([started])


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("INFO:core:up\nINFO:core:Going down...\n", ""),
        (
            "INFO:core:up\nERROR:core:Exception calling f\nTraceback (most recent call last):\n"
            '  File "x.py", line 1, in f\n    boom()\nxenflow.Odd: no such thing\nINFO:core:on\n',
            "xenflow.Odd: no such thing",
        ),
        (
            "2026-11-28T17:42:12Z|00072|ofproto|ERR|failed to open datapath br0\n"
            "2026-11-28T17:42:42Z|00080|memory|INFO|46636 kB peak\n",
            "2026-11-28T17:42:12Z|00072|ofproto|ERR|failed to open datapath br0",
        ),
        (
            "2026-11-28 17:42 <INFO> Started\n2026-11-28 17:42 <ERR> Socket error\n",
            "2026-11-28 17:42 <ERR> Socket error",
        ),
    ],
)
def test_what_a_log_complains_of(log: str, said: str) -> None:
    assert process.complaint(log) == said
