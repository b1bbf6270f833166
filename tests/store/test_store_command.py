"""`python -m xenflow.store`: what it makes, and what it says where it cannot."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.store.store_rig import needs_server
from xenflow.store.__main__ import main
from xenflow.store.server import StoreServer, StoreServerError


def free() -> str:
    """A place where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"tcp:127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    both = tmp_path / "a", tmp_path / "b"
    yield both
    for folder in both:
        with suppress(StoreServerError):
            StoreServer(folder, "").stop()


@needs_server
def test_two_members_by_hand(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = folders
    first, second, clients = free(), free(), free()
    assert main(["init", str(a), "--member", first]) == 0
    assert main(["start", str(a), "--listen", clients]) == 0
    assert clients in capsys.readouterr().out
    _, address, port = clients.split(":")
    socket.create_connection((address, int(port)), timeout=10).close()
    assert main(["join", str(b), "--member", second, first]) == 0
    assert main(["start", str(b), "--listen", clients]) == 1, "somebody listens there"
    assert f"{clients}: cannot listen there: Address already in use" in capsys.readouterr().err
    assert main(["start", str(b)]) == 0
    assert main(["status", str(a)]) == 0
    assert "Role: leader" in capsys.readouterr().out
    assert main(["start", str(a)]) == 1
    assert "already running" in capsys.readouterr().err
    assert main(["stop", str(a)]) == 0
    assert main(["status", str(a)]) == 1
    assert capsys.readouterr().err.endswith(f"{a}: no server runs there\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["start"], "no database is there: make it, or name another folder"),
        (["status"], "no server runs there"),
        (["stop"], "no server runs there"),
        (["leave"], "no server runs there"),
        (["upgrade"], "no server runs there"),
        (
            ["init", "--member", "tcp:192.0.2.1:6644"],
            "tcp:192.0.2.1:6644: cannot listen there: Cannot assign requested address",
        ),
    ],
)
def test_what_cannot_be_done_is_said(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([words[0], str(tmp_path / "folder"), *words[1:]]) == 1
    error = capsys.readouterr().err
    assert error.startswith("xenflow: store: ")
    assert error.endswith(f"{said}\n")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    "member", ["127.0.0.1:1", "tcp:host-a:1", "tcp:127.0.0.1:0", "tcp:127.0.0.1", "tcp:::1:1"]
)
def test_a_place_must_be_an_address_and_a_port(
    member: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        main(["init", str(tmp_path), "--member", member])
    assert (
        f"found '{member}', expected ssl:ADDRESS:PORT or tcp:ADDRESS:PORT"
        in capsys.readouterr().err
    )


@needs_server
def test_a_backup_is_restored_as_a_new_store(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = folders
    file = tmp_path / "backup"

    def cluster(folder: Path) -> str:
        assert main(["status", str(folder)]) == 0
        (line,) = (o for o in capsys.readouterr().out.splitlines() if o.startswith("Cluster ID"))
        return line

    def rows(folder: Path) -> str:
        command = ["ovsdb-client", "--no-headings", "dump", StoreServer(folder, "").remote]
        return subprocess.check_output([*command, "XenFlow", "Lease", "name", "term"], text=True)

    assert main(["backup", str(a), str(file)]) == 1
    assert main(["init", str(a), "--member", free()]) == main(["start", str(a)]) == 0
    inserted = {"op": "insert", "table": "Lease", "row": {"name": "planner", "term": 7}}
    command = ["ovsdb-client", "transact", StoreServer(a, "").remote]
    subprocess.run([*command, json.dumps(["XenFlow", inserted])], check=True)
    assert main(["backup", str(a), str(file)]) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert main(["backup", str(a), str(file)]) == 1
    assert "File exists" in capsys.readouterr().err
    assert main(["restore", str(b), str(file), "--member", free()]) == 0
    assert main(["restore", str(b), str(file), "--member", free()]) == 1
    assert main(["start", str(b)]) == 0
    assert "planner 7" in rows(b) and rows(b) == rows(a)
    assert cluster(a) != cluster(b)
    assert main(["restore", str(tmp_path / "c"), str(tmp_path / "x"), "--member", free()]) == 1
    assert "there is no such file" in capsys.readouterr().err
