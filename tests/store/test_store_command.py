"""`python -m xenflow.store`: what it makes, and what it says where it cannot."""

from __future__ import annotations

import socket
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
    assert main(["create", str(a), "--member", first]) == 0
    assert main(["start", str(a), "--listen", clients]) == 0
    assert clients in capsys.readouterr().out
    _, address, port = clients.split(":")
    socket.create_connection((address, int(port)), timeout=10).close()
    assert main(["join", str(b), "--member", second, first]) == 0
    assert main(["start", str(b), "--listen", clients]) == 1, "somebody listens there"
    assert f"{clients}: cannot listen there: Address already in use" in capsys.readouterr().err
    assert main(["start", str(b)]) == 0
    assert main(["show", str(a)]) == 0
    assert "Role: leader" in capsys.readouterr().out
    assert main(["start", str(a)]) == 1
    assert "already running" in capsys.readouterr().err
    assert main(["stop", str(a)]) == 0
    assert main(["show", str(a)]) == 1
    assert capsys.readouterr().err.endswith(f"{a}: no server runs there\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["start"], "no database is there: make it, or name another folder"),
        (["show"], "no server runs there"),
        (["stop"], "no server runs there"),
        (["leave"], "no server runs there"),
        (["upgrade"], "no server runs there"),
        (
            ["create", "--member", "tcp:192.0.2.1:6644"],
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
        main(["create", str(tmp_path), "--member", member])
    assert (
        f"found '{member}', expected ssl:ADDRESS:PORT or tcp:ADDRESS:PORT"
        in capsys.readouterr().err
    )
