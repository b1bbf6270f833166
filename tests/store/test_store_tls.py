"""A real server that is reached by TLS: what a controller may write, and who is let in."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.certified import Authority, needs_openssl
from tests.free_ports import free_ports
from tests.store.store_rig import Loop, Viewer, change, joined, laid, needs_server
from xenflow.store.certificates import Certificates
from xenflow.store.network_store import WatchedTable
from xenflow.store.ovsdb_store import OvsdbStore
from xenflow.store.schema import PLANNER, Role, StoreWriter
from xenflow.store.server import StoreServer, StoreServerError
from xenflow.store.transaction import (
    Committed,
    Delete,
    Insert,
    Operation,
    RefusalReason,
    StoreMistakeError,
    Update,
    WriteRefused,
    equal,
)

pytestmark = [needs_server, needs_openssl]

STATES = WatchedTable("Switch_State", ("host", "switch", "in_force"))


class Site:
    """A cluster of one that listens by TLS, and its clients."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.loop = Loop()
        member, port = free_ports(2)
        self.remote = f"ssl:127.0.0.1:{port}"
        self.server = StoreServer(
            folder / "store",
            f"ssl:127.0.0.1:{member}",
            (f"pssl:{port}:127.0.0.1",),
            self.authority.signs("member"),
        )
        self.server.create(1000)
        self.server.start()
        self.stores: list[OvsdbStore] = []

    def store(self, writer: StoreWriter, tls: Certificates | None) -> OvsdbStore:
        remote = self.server.remote if tls is None else self.remote
        self.stores.append(OvsdbStore((remote,), self.loop.post, writer, tls=tls))
        return self.stores[-1]

    def says(self, store: OvsdbStore, words: str) -> None:
        """Wait until that is said of the connection."""
        self.loop.run(lambda: words in store.state().words, 10)
        assert not store.state().connected


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("tls"))
    try:
        yield site
    finally:
        for store in site.stores:
            store.close()
        with suppress(StoreServerError):
            site.server.stop()


def state(host: str, **cells: Any) -> Insert:
    return Insert("Switch_State", {"host": host, "switch": f"switch-{host}", **cells})


def test_a_controller_writes_its_own_rows_and_no_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the server's own judgement: that of the client is taken away."""
    planner = site.store(PLANNER, None)
    assert site.loop.ask(planner, laid("left", 1, "a")) == Committed((1,))
    controllers = {
        name: site.store(StoreWriter(Role.CONTROLLER, name), site.authority.signs(name))
        for name in ("host-a", "host-b")
    }
    for name, store in controllers.items():
        assert site.loop.ask(store, state(name)) == Committed((1,))
    view = Viewer(controllers["host-b"], STATES, WatchedTable("Laid_Link", ("name",)))
    site.loop.run(lambda: view.has_all("Switch_State", 2))
    assert view.of("Laid_Link", "name") == ["left"], "everybody may read"

    of_a, further = equal(host="host-a"), {"in_force": 7}
    forged = site.authority.signs("planner")
    refused: list[tuple[OvsdbStore, Operation]] = [
        (controllers["host-b"], Insert("Switch_State", {"host": "host-a", "switch": "new"})),
        (controllers["host-b"], Update("Switch_State", of_a, further)),
        (controllers["host-b"], Delete("Switch_State", of_a)),
        (controllers["host-a"], Update("Switch_State", of_a, {"host": "host-b"})),
        (controllers["host-a"], laid("right", 2, "a")),
        (controllers["host-a"], Delete("Laid_Link", ())),
        (site.store(PLANNER, forged), change(1)),
    ]
    monkeypatch.setattr("xenflow.store.ovsdb_store.check", lambda *_: None)
    for store, operation in refused:
        outcome = site.loop.ask(store, operation)
        assert isinstance(outcome, WriteRefused), operation
        assert outcome.reason is RefusalReason.RIGHTS
        assert "RBAC rules" in outcome.words
    own = Update("Switch_State", equal(host="host-a", switch="switch-host-a"), further)
    assert site.loop.ask(controllers["host-a"], own) == Committed((1,))
    site.loop.run(lambda: view.of("Switch_State", "in_force") == [0, 7])


def test_nobody_else_may_say_where_a_member_listens(site: Site) -> None:
    tls = site.authority.signs("host-z")
    keys = ("-p", tls.key, "-c", tls.certificate, "-C", tls.ca)
    insert = {"op": "insert", "table": "Connection", "row": {"target": "ptcp:0:127.0.0.1"}}
    asked = json.dumps(["XenFlow_Listening", insert])
    command = ("ovsdb-client", "--timeout=10", *keys, "transact", site.remote, asked)
    done = subprocess.run(command, capture_output=True, text=True)
    assert "permission error" in done.stdout + done.stderr


def test_one_whom_another_has_signed_is_refused_by_both_sides(site: Site, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger").signs("host-a")
    site.says(site.store(PLANNER, stranger), f"a certificate that {stranger.ca} does not vouch for")
    stranger.ca.write_bytes(site.authority.certificate.read_bytes())
    store = site.store(PLANNER, stranger)
    site.says(store, f"does not take {stranger.certificate}: ")
    assert "unknown ca" in store.state().words


def test_a_server_must_be_where_its_certificate_says(site: Site, tmp_path: Path) -> None:
    """Else any host could be taken for the store."""
    elsewhere = StoreServer(
        tmp_path / "store",
        f"ssl:127.0.0.1:{free_ports(1)[0]}",
        (f"pssl:{(port := free_ports(1)[0])}:127.0.0.1",),
        site.authority.signs("elsewhere", "192.0.2.1"),
    )
    elsewhere.create(1000)
    elsewhere.start()
    tls = site.authority.signs("host-y")
    store = OvsdbStore((f"ssl:127.0.0.1:{port}",), site.loop.post, PLANNER, tls=tls)
    try:
        site.says(store, "not valid for '127.0.0.1'")
    finally:
        store.close()
        elsewhere.stop()


def test_a_server_without_tls_is_said(site: Site) -> None:
    tls = site.authority.signs("host-x")
    plain = OvsdbStore((f"tcp{site.remote[3:]}",), site.loop.post, PLANNER)
    site.loop.run(lambda: "closed the connection" in plain.state().words, 10)
    plain.close()
    (port,) = free_ports(1)
    command = ("ovs-appctl", "-t", str(site.server.folder / "server.ctl"))
    place = f"ptcp:{port}:127.0.0.1"
    subprocess.run((*command, "ovsdb-server/add-remote", place), check=True)
    store = OvsdbStore((f"ssl:127.0.0.1:{port}",), site.loop.post, PLANNER, tls=tls)
    try:
        site.says(store, "does not speak TLS as needed")
    finally:
        store.close()
        subprocess.run((*command, "ovsdb-server/remove-remote", place), check=True)


def test_members_join_by_tls_and_much_is_read(site: Site, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    tls = site.authority.signs("second")
    second = StoreServer(tmp_path / "second", f"ssl:127.0.0.1:{port}", tls=tls)
    second.join(site.server.member)
    with pytest.raises(StoreServerError, match="TLS needs certificates: name their folder"):
        StoreServer(second.folder, "").start()
    second.start()
    try:
        site.loop.run(lambda: joined(second))
        planner = site.store(PLANNER, None)
        wide = change(5, by="x" * 3_000_000)
        assert site.loop.ask(planner, wide) == Committed((1,))
        reader = site.store(StoreWriter(Role.CONTROLLER, "r"), site.authority.signs("r"))
        view = Viewer(reader, WatchedTable("Change", ("by",)))
        site.loop.run(lambda: view.events)
        assert view.of("Change", "by") == ["x" * 3_000_000]
    finally:
        second.leave()
        second.stop()


def test_renewed_certificates_need_no_restart(tmp_path: Path) -> None:
    """Here of another authority, on both sides."""
    site = Site(tmp_path)
    store = site.store(StoreWriter(Role.CONTROLLER, "a"), tls := site.authority.signs("a"))
    try:
        site.loop.run(lambda: store.state().connected)
        later = Authority(tmp_path, "later")
        for old, new in ((site.server.tls, later.signs("member")), (tls, later.signs("a"))):
            assert old is not None
            for name in ("key.pem", "certificate.pem", "ca.pem"):
                shutil.copy(new.folder / name, old.folder / name)
        fresh = site.store(StoreWriter(Role.CONTROLLER, "a"), tls)
        site.loop.run(lambda: fresh.state().connected, 10)
        assert store.state().connected, "who was connected stays so"
    finally:
        for each in site.stores:
            each.close()
        site.server.stop()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda tls: tls.key.unlink(), "No such file or directory: key.pem, certificate.pem and"),
        (lambda tls: tls.ca.write_text("none"), "ca.pem: no certificate in PEM form is in it"),
        (lambda tls: tls.certificate.write_text("none"), "certificate.pem: expected a certificate"),
    ],
)
def test_certificates_that_are_none_are_a_mistake(
    site: Site, tmp_path: Path, spoil: Any, words: str
) -> None:
    tls = Authority(tmp_path).signs("host-a")
    spoil(tls)
    with pytest.raises(StoreMistakeError, match=words):
        OvsdbStore((site.remote,), print, PLANNER, tls=tls)
    server = StoreServer(tmp_path, "ssl:127.0.0.1:1", ("pssl:1:127.0.0.1",), tls)
    server.create()
    with pytest.raises(StoreServerError, match=words):
        server.start()


def test_a_member_without_tls_does_not_listen_by_tls(tmp_path: Path) -> None:
    server = StoreServer(tmp_path, "tcp:127.0.0.1:1", ("pssl:1:127.0.0.1",), Certificates(tmp_path))
    server.create()
    with pytest.raises(StoreServerError, match=r"without TLS \(tcp:127.0.0.1:1\), and that stays"):
        server.start()
