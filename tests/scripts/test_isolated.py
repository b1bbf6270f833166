"""`scripts/isolated`: what a command mounts, starts and sees of the network ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
]
ISOLATED = str(ROOT / "scripts/isolated")
OUTSIDE = {k: v for k, v in os.environ.items() if k != "XENFLOW_ISOLATED"}
"""The tests themselves run isolated, and what is already isolated is not once more."""


def isolated(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ISOLATED, *words], env=OUTSIDE, capture_output=True, text=True, timeout=300, check=False
    )


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def processes(word: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_an_empty_network_or_the_machines() -> None:
    look = ("sh", "-c", "readlink /proc/self/ns/net; ip -o link | wc -l; exit 7")
    own, machines = isolated(*look), isolated("--host-network", *look)
    here = os.readlink("/proc/self/ns/net")
    assert (own.returncode, machines.returncode) == (7, 7)
    assert machines.stdout.split()[0] == here
    assert own.stdout.split()[0] != here
    assert own.stdout.split()[1] == "1", "its loopback alone"


@pytest.mark.parametrize("options", [[], ["--host-network"]])
def test_mounts_end_with_it(options: list[str], tmp_path: Path) -> None:
    within = 'mount -t tmpfs tmpfs "$0"; touch "$0/here"; ls "$0"'
    said = isolated(*options, "sh", "-c", within, str(tmp_path))
    assert said.stdout == "here\n", said.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [[], ["--host-network"]])
def test_killed_it_leaves_nothing(options: list[str]) -> None:
    word = f"xenflow-{uuid.uuid4().hex}"
    script = f"trap : TERM; sleep 600 & : {word}; while :; do wait; done"
    running = subprocess.Popen(
        [ISOLATED, *options, "sh", "-c", script],
        env=OUTSIDE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    # isolated, what makes the namespaces, their first process, and the command
    until(lambda: len(processes(word)) >= 4, "the command runs")
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=120)  # returns when the last that holds the pipe is gone
    until(lambda: not processes(word), "all of it is gone")


@pytest.mark.parametrize("options", [[], ["--host-network"]])
def test_a_root_that_is_no_mount_is_no_hindrance(options: list[str], tmp_path: Path) -> None:
    """Bare chroots: there "/" cannot be made private."""
    script = """
        set -e
        root=$1; shift
        mkdir -p "$root/usr" "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" \\
            "$root/mnt" "$root/etc" "$root/here"
        for name in bin sbin lib lib64; do ln -s "usr/$name" "$root/$name"; done
        mount --bind /usr "$root/usr"
        mount --bind /proc "$root/proc"
        mount --bind /dev "$root/dev"
        mount --bind "$0" "$root/here"
        unset XENFLOW_ISOLATED
        exec chroot "$root" /here/scripts/isolated "$@"
    """
    within = "mount -t tmpfs tmpfs /mnt; touch /mnt/mounted; ls /mnt; readlink /proc/self/ns/mnt"
    said = isolated("sh", "-c", script, str(ROOT), str(tmp_path), *options, "sh", "-c", within)
    assert (said.returncode, said.stderr) == (0, "")
    mounted, namespace = said.stdout.split()
    assert mounted == "mounted"
    assert namespace != os.readlink("/proc/self/ns/mnt")
    assert list((tmp_path / "mnt").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == [], "its copy of the root is left"


def test_the_last_of_several_puts_the_buffer_back(tmp_path: Path) -> None:
    """A file stands for the kernel's value, in a mount namespace where /run is empty."""
    (tmp_path / "value").write_text("212992\n")
    script = """
        mount -t tmpfs tmpfs /run && mount --bind "$1" /proc/sys/net/core/rmem_default || exit 77
        look() { cat /proc/sys/net/core/rmem_default; }
        mkfifo /run/go
        "$2" sh -c 'echo ready; read x' </run/go >/run/said &
        exec 5>/run/go
        until grep -q ready /run/said; do sleep 0.05; done
        look; "$2" true; look
        echo end >&5; wait; look
    """
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path / "value"), ISOLATED]
    done = subprocess.run(
        command, env=OUTSIDE, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode == 77:
        pytest.skip("no mount over /proc/sys here")
    assert done.stdout.split() == ["16777216", "16777216", "212992"], done.stderr


@pytest.mark.parametrize("words", [[], ["--host-network"]])
def test_without_a_command_it_says_how(words: list[str]) -> None:
    said = isolated(*words)
    assert (said.returncode, said.stdout) == (2, "")
    assert "usage: scripts/isolated" in said.stderr
