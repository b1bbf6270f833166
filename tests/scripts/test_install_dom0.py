"""scripts/install-dom0, in a mount namespace where the folders it writes to are copies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xenflow.store.__main__ import parser as store_parser

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "install-dom0"
WRITTEN = (
    "/opt/xenflow/pox.py",
    "/opt/xenflow/xen/dom0/host.py",
    "/etc/xen/scripts/vif-xenflow",
    "/opt/xenflow/CHANGELOG.md",
    "/etc/systemd/system/xenflow.service",
    "/etc/systemd/system/xenflow-store.service",
    "/etc/systemd/system/xenflow-planner.service",
    "/etc/systemd/system/nftables.service.d/xenflow.conf",
    "/etc/systemd/system/multi-user.target.wants/xenflow.service",
    "/etc/systemd/system/multi-user.target.wants/xenflow-store.service",
    "/etc/systemd/system/multi-user.target.wants/xenflow-planner.service",
    "/usr/local/bin/xenflow",
)
COPIES = """
set -e
mkdir "$1/etc"
cp -a /etc/. "$1/etc"
mount --bind "$1/etc" /etc
for folder in /opt /usr/local/bin /var/lib; do mount -t tmpfs tmpfs $folder; done
"""


def run(*words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True, env=environment)


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def installed(folder: Path, commands: str) -> str:
    """What commands print where everything that is written is a copy."""
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", COPIES + commands]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*words, "sh", str(folder), str(SCRIPT)],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_usage() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "--dry-run" in done.stdout
    done = run("--nonsense")
    assert done.returncode == 2
    assert "--nonsense" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--create-store"],
        ["--join-store", "192.0.2.2"],
        ["--at", "192.0.2.1"],
        ["--create-store", "192.0.2.2", "--at", "192.0.2.1"],
        ["--create-store", "192.0.2.2", "--tls"],
    ],
)
def test_half_a_store_is_no_store(words: list[str]) -> None:
    done = run(*words, "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "missing" in done.stderr or "belong together" in done.stderr


def test_a_member_of_a_store_is_made_as_the_commands_do(tmp_path: Path) -> None:
    """What a dry run prints is what `python -m xenflow.store` takes."""
    for words in (
        ["--create-store", "192.0.2.1"],
        ["--join-store", "192.0.2.2", "--at", "192.0.2.1"],
    ):
        done = run(*words, "--no-packages", "--dry-run")
        lines = [line for line in done.stdout.splitlines() if "xenflow.store" in line]
        assert len(lines) == 1 and "write /etc/default/xenflow-store" in done.stdout
        made = done.stdout.index(lines[0])  # a host with a database is left as it is
        assert done.stdout.index("write /etc/default/xenflow-store") < made
        _, command = lines[0].split(" -m xenflow.store ")
        asked = store_parser().parse_args(command.split())
        assert asked.folder == Path("/var/lib/xenflow/store")
        assert asked.member == f"ssl:{words[1]}:6644"
        assert getattr(asked, "others", []) == [f"ssl:{each}:6644" for each in words[3:]]


def test_a_store_of_several_machines_needs_certificates(tmp_path: Path) -> None:
    """Nothing is done before that is known."""
    (tmp_path / "key.pem").touch()
    done = run("--create-store", "192.0.2.1", "--no-packages", "--tls", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{tmp_path}/certificate.pem is not there" in done.stderr
    assert run("--tls", "certificates").returncode == 2


def test_a_dry_run_says_everything_and_does_nothing() -> None:
    there = {path for path in WRITTEN if Path(path).exists()}
    done = run("--dry-run", "--no-packages")
    assert done.returncode == 0, done.stderr
    for word in ("/opt/xenflow", "vif-xenflow", "xenflow.service", "/usr/local/bin/xenflow"):
        assert word in done.stdout
    assert {path for path in WRITTEN if Path(path).exists()} == there


def test_a_dry_run_does_not_say_that_it_has_removed_anything() -> None:
    done = run("--remove", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "rm -rf /opt/xenflow" in done.stdout
    assert "nothing is removed yet" in done.stderr
    assert "install-dom0: removed" not in done.stderr


def test_it_is_not_removed_from_below_routers_that_run(tmp_path: Path) -> None:
    """What xenstore has of two routers, and of a domain with another hotplug script."""
    lines = "\n".join(
        f'/local/domain/0/backend/vif/{vif} = "{value}"'
        for vif, value in (
            ("3", ""),
            ("3/0", ""),
            ("3/0/script", "/etc/xen/scripts/vif-xenflow"),
            ("3/1/script", "/etc/xen/scripts/vif-xenflow"),
            ("3/1/bridge", "xenflow0.101"),
            ("4/0/script", "/etc/xen/scripts/vif-bridge"),
            ("12/0/script", "/etc/xen/scripts/vif-xenflow"),
        )
    )
    program(tmp_path, "xenstore-ls", f"cat <<'END'\n{lines}\nEND")
    program(tmp_path, "xl", 'echo "vr$2"')
    done = run("--remove", "--dry-run", path=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "vr3,vr12." in done.stderr and "empty-host" in done.stderr and "--force" in done.stderr
    assert run("--remove", "--dry-run", "--force", path=str(tmp_path)).returncode == 0


@pytest.mark.lab
def test_installed_twice_and_removed(tmp_path: Path) -> None:
    files = " ".join(WRITTEN)
    state = f'for file in {files}; do [ ! -e $file ] || echo "$file"; done; echo --'
    found = "find /opt /etc/xen /usr/local/bin -type f ! -name '*.pyc'"
    digest = f"{found} | sort | xargs cat | sha256sum"
    said = installed(
        tmp_path,
        f"""
        {state}
        "$2" --no-packages --no-start; {state}; {digest}
        "$2" --no-packages --no-start; {digest}
        /opt/xenflow/scripts/install-dom0 --no-packages --no-start; {digest}
        /usr/local/bin/xenflow --help >/dev/null; /opt/xenflow/pox.py --stand-in --version
        "$2" --remove; {state}; "$2" --remove
    """,
    )
    before, after, rest = said.split("--\n", 2)
    assert before == ""
    assert after.split() == list(WRITTEN)
    *digests, core = rest.removesuffix("--\n").splitlines()
    assert len(set(digests)) == 1
    assert core == "core: stand-in"


@pytest.mark.lab
def test_a_host_becomes_a_member_of_a_store_once(tmp_path: Path) -> None:
    member = "ovsdb-tool db-local-address /var/lib/xenflow/store/store.db"
    said = installed(
        tmp_path,
        f"""
        "$2" --no-packages --no-start --create-store 127.0.0.1; {member}
        "$2" --no-packages --no-start --create-store 127.0.0.9 2>&1 | grep 'as it is'; {member}
        "$2" --no-packages --no-start
        cat /etc/default/xenflow-store
        . /etc/default/xenflow-store; cd /opt/xenflow; export PYTHONPATH=/opt/xenflow/pox_ext
        python3 -m xenflow.store start /var/lib/xenflow/store $XENFLOW_STORE
        python3 -m xenflow.store stop /var/lib/xenflow/store
        "$2" --remove 2>&1 || echo "status $?"
        ls /opt/xenflow/pox.py; "$2" --remove --force; ls /opt /var/lib/xenflow/store
    """,
    )
    assert said.count("tcp:127.0.0.1:6644") == 2 and said.count("as it is") == 1, said
    assert 'XENFLOW_STORE="--listen tcp:127.0.0.1:6643 "' in said
    assert 'XENFLOW_PLANNER="--listen tcp://127.0.0.1:6651"' in said
    assert "and listens at unix:/var/lib/xenflow/store/db.sock tcp:127.0.0.1:6643" in said
    assert said.count("status 1") == 1 and said.count("/opt/xenflow/pox.py") == 1, said
    assert "/opt:\n\n" in said and "store.db" in said, "its rows are the operator's"


@pytest.mark.lab
def test_a_folder_with_other_things_in_it_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    """A clone in /opt/xenflow, and what an operator has put beside the installed programs."""
    said = installed(
        tmp_path,
        """
        mkdir -p /opt/xenflow/.git /opt/xenflow.old/kept; echo mine >/opt/xenflow/.git/HEAD
        "$2" --no-packages --no-start 2>&1 || echo "status $?"
        "$2" --remove 2>&1 || echo "status $?"
        rm -r /opt/xenflow; "$2" --no-packages --no-start 2>/dev/null
        touch /opt/xenflow/notes; "$2" --no-packages --no-start 2>&1 || echo "status $?"
        rm /opt/xenflow/notes; "$2" --no-packages --no-start 2>/dev/null; ls /opt/xenflow.old
    """,
    )
    assert said.count("status 1") == 3, said
    assert said.count("(.git)") == 2 and said.count("(notes)") == 1, said
    assert said.endswith("kept\n")
