"""What a member of the cluster cannot do is said in its own words; no server is needed here."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from xenflow.store.schema import DATABASE
from xenflow.store.server import StoreServer, StoreServerError


def refusal(folder: Path, words: str) -> str:
    """What is said of a folder that cannot be used."""
    said = f"store's folder {folder}: {words}: mend that, or name another folder"
    return f"^{re.escape(said)}$"


def member(folder: Path) -> StoreServer:
    return StoreServer(folder, "tcp:127.0.0.1:1")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    server = member(tmp_path / "file" / "folder")
    words = refusal(server.folder, "Not a directory")
    with pytest.raises(StoreServerError, match=words):
        server.create()
    with pytest.raises(StoreServerError, match=words):
        server.join("tcp:127.0.0.1:2")
    with pytest.raises(StoreServerError, match=words):
        server.pid()


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    (tmp_path / f"{DATABASE}.ovsschema").symlink_to("/dev/full")
    with pytest.raises(StoreServerError, match=refusal(tmp_path, "No space left on device")):
        member(tmp_path).create()


def test_a_tool_that_cannot_be_run_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    member(tmp_path).database.touch()
    with pytest.raises(StoreServerError, match=r"^ovsdb-server: not installed \(package"):
        member(tmp_path).start()
    (tmp_path / "ovsdb-server").write_text("")
    with pytest.raises(StoreServerError, match=r"^ovsdb-server: cannot be run: Permission denied"):
        member(tmp_path).start()


def test_what_a_tool_says_need_not_be_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    member(tmp_path).database.touch()
    tool = tmp_path / "ovsdb-server"
    tool.write_text("#!/bin/sh\nprintf 'no \\377' >&2\nexit 1\n")
    tool.chmod(0o755)
    with pytest.raises(StoreServerError, match="^ovsdb-server: no \ufffd$"):
        member(tmp_path).start()
