"""What a member of the cluster cannot do is said in its own words, where no server is
needed; and a server whose store becomes this release's."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.free_ports import free_ports
from tests.store.store_rig import Viewer, host, needs_server, served
from xenflow.store import roles
from xenflow.store.network_store import WatchedTable
from xenflow.store.schema import DATABASE
from xenflow.store.server import StoreServer, StoreServerError
from xenflow.store.transaction import Committed


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


def test_a_backup_that_has_no_room_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server takes the first half of one for a whole database."""
    monkeypatch.setattr(StoreServer, "pid", lambda _: 1)
    monkeypatch.setattr("xenflow.store.server._tool", lambda *_: "a database")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreServerError, match="kept: No space left on device"):
            member(tmp_path).backup(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []
    member(tmp_path).backup(tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    with pytest.raises(StoreServerError, match="kept: File exists"):
        member(tmp_path).backup(tmp_path / "kept")


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


@needs_server
def test_a_member_that_has_not_joined_upgrades_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, nobody = free_ports(2)
    server = StoreServer(tmp_path, f"tcp:127.0.0.1:{own}")
    server.join(f"tcp:127.0.0.1:{nobody}")
    server.start()
    try:
        with monkeypatch.context() as patch:
            patch.setattr("xenflow.store.server.START_S", 1.0)
            with pytest.raises(StoreServerError, match="after 1 s this member has not joined"):
                server.upgrade()
    finally:
        server.stop()


@needs_server
def test_a_store_gets_the_tables_of_this_release_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not those of an older one; what is in it stays."""
    older = {**roles.store_schema(), "version": "1.0.9"}
    older["tables"] = {k: v for k, v in older["tables"].items() if not k.startswith("RBAC")}
    del older["tables"]["Migration"]
    with monkeypatch.context() as patch:
        patch.setattr(roles, "store_schema", lambda: older)
        patch.setattr(roles, "rules", lambda: [DATABASE])
        with served(tmp_path) as site:
            (server,) = site.servers
            store = site.store()
            assert site.loop.ask(store, host("a")) == Committed((1,))
            patch.undo()
            assert server.upgrade()
            view = Viewer(
                store, WatchedTable("Host", ("name",)), WatchedTable("Migration", ("term",))
            )
            site.loop.run(lambda: view.of("Host", "name") == ["a"])
            assert not server.upgrade(), "it has them"
            command = ["ovsdb-client", "-f", "csv", "dump", server.remote, DATABASE]
            rules = subprocess.run(
                [*command, "RBAC_Permission", "table"], capture_output=True, text=True
            )
            assert "Switch_State" in rules.stdout.splitlines()
            patch.setattr("xenflow.store.server.VERSION", (1, 0, 9))
            patch.setattr(roles, "store_schema", lambda: older)
            assert not server.upgrade(), "what is newer stays"
            assert site.loop.ask(store, host("b")) == Committed((1,))


@needs_server
def test_a_backup_without_rules_gets_them(tmp_path: Path) -> None:
    """Else whoever comes by TLS could write everything."""
    older = {**roles.store_schema(), "version": "1.0.0"}
    older["tables"] = {k: v for k, v in older["tables"].items() if not k.startswith("RBAC")}
    schema, backup = tmp_path / "schema", tmp_path / "backup"
    schema.write_text(json.dumps(older))
    subprocess.run(["ovsdb-tool", "create", backup, schema], check=True)
    before = backup.read_bytes()
    (own,) = free_ports(1)
    server = StoreServer(tmp_path / "new", f"tcp:127.0.0.1:{own}")
    server.restore(backup)
    server.start()
    try:
        command = ["ovsdb-client", "-f", "csv", "dump", server.remote, DATABASE]
        done = subprocess.run([*command, "RBAC_Role", "name"], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == roles.CONTROLLER
    finally:
        server.stop()
    assert backup.read_bytes() == before
    schema.write_text(json.dumps({**older, "version": "1.999.0"}))
    backup.unlink()
    subprocess.run(["ovsdb-tool", "create", backup, schema], check=True)
    with pytest.raises(StoreServerError, match=r"of a newer release \(tables 1.999.0\)"):
        StoreServer(tmp_path / "newer", server.member).restore(backup)
