"""What the store keeps when servers are killed, hang, are not there, or are not the right ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from pox.lib.recoco import Scheduler

from tests.free_ports import free_ports
from tests.store.store_rig import (
    CHANGES,
    LONG_S,
    OvsdbSite,
    Viewer,
    change,
    host,
    joined,
    kill,
    laid,
    needs_server,
    numbered,
    served,
)
from xenflow.store.__main__ import main
from xenflow.store.network_store import RowChanges, ViewOverdue, WatchedTable, WholeView
from xenflow.store.ovsdb_store import OvsdbStore
from xenflow.store.schema import DATABASE, PLANNER, TABLES, to_schema
from xenflow.store.server import StoreServer, StoreServerError
from xenflow.store.transaction import (
    Committed,
    Insert,
    RefusalReason,
    StoreMistakeError,
    Update,
    WriteOutcome,
    WriteRefused,
    WriteUnknown,
)

pytestmark = needs_server

SENT_S = 3.0
"""Within this the store's thread has sent what it was given, on a busy machine, too."""


def is_written(site: OvsdbSite, store: OvsdbStore, row: Insert) -> bool:
    """Ask until the outcome is known: a row under the same UUID is inserted once."""
    while isinstance(outcome := site.loop.ask(store, row), WriteUnknown):
        pass
    twice = isinstance(outcome, WriteRefused) and outcome.reason is RefusalReason.UUID
    return twice or outcome == Committed((1,))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[OvsdbSite]:
    with served(tmp_path) as site:
        yield site


def fill(site: OvsdbSite, store: OvsdbStore) -> None:
    """Rows of no interest: a server remembers as many cells of former transactions as it has, and
    so next to nothing where it has next to no rows."""
    rows = [laid(f"l{number}", number, "a") for number in range(1, 51)]
    assert isinstance(site.loop.ask(store, *rows), Committed)


def test_nothing_acknowledged_is_lost(site: OvsdbSite) -> None:
    (server,) = site.servers
    writer = site.store()
    view = Viewer(site.store(), CHANGES)
    site.loop.run(partial(bool, view.events))
    outcomes: dict[int, WriteOutcome] = {}

    def answered(number: int) -> bool:
        return len(outcomes) >= number

    last, at_once = 801, 200
    for first in range(1, last, at_once):
        for number in range(first, first + at_once):
            writer.transact((change(number),), LONG_S, partial(outcomes.__setitem__, number))
        site.loop.run(partial(answered, first + 20))  # in the middle of it
        kill(server)
        server.start()
        site.loop.run(partial(answered, first + at_once - 1))
    assert is_written(site, writer, change(last))
    site.loop.run(lambda: last in view.of("Change", "number"))
    kept = set(view.of("Change", "number")) - {last}
    assert len(kept) + 1 == len(view.rows["Change"])
    written = {n for n, outcome in outcomes.items() if isinstance(outcome, Committed)}
    unknown = {n for n, outcome in outcomes.items() if isinstance(outcome, WriteUnknown)}
    assert written <= kept <= written | unknown
    assert len(written) + len(unknown) == len(outcomes), "nothing was refused"
    fresh = Viewer(writer, CHANGES)
    site.loop.run(partial(bool, fresh.events))
    assert fresh.rows == view.rows


def test_a_server_that_hangs_is_not_waited_for(site: OvsdbSite) -> None:
    (server,) = site.servers
    store = site.store()
    site.loop.ask(store, change(1))
    pid = server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    outcome = site.loop.ask(store, change(2), deadline_s=SENT_S)
    late = Viewer(store, CHANGES, deadline_s=0.2)
    assert isinstance(outcome, WriteUnknown)
    site.loop.run(lambda: late.events)
    assert SENT_S <= time.monotonic() - began < LONG_S
    assert isinstance(late.events[0], ViewOverdue)
    os.kill(pid, signal.SIGCONT)
    site.loop.run(lambda: len(late.events) > 1)
    site.loop.run(lambda: late.of("Change", "number") == [1, 2])  # it was written after all
    refused = site.loop.ask(store, change(2))
    assert isinstance(refused, WriteRefused)
    assert refused.reason is RefusalReason.CONSTRAINT, "a number of its own makes it known"


def test_a_silent_server_is_left_and_found_again(site: OvsdbSite) -> None:
    (server,) = site.servers
    store = site.store(patience_s=1.0)
    site.loop.run(lambda: store.state().connected)
    pid = server.pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    outcomes: list[WriteOutcome] = []
    store.transact((change(1),), LONG_S, outcomes.append)
    site.loop.run(lambda: store.state().words == f"{server.remote} has said nothing for 1 s")
    outcome = site.loop.ask(store, change(2), deadline_s=0.1)
    assert isinstance(outcome, WriteRefused)
    assert outcome.reason is RefusalReason.UNREACHABLE
    os.kill(pid, signal.SIGCONT)
    site.loop.run(lambda: store.state().connected and outcomes)
    assert isinstance(outcomes[0], WriteUnknown | Committed)


def test_what_could_not_be_sent_was_not_written(site: OvsdbSite) -> None:
    (server,) = site.servers
    server.stop()
    store = site.store()
    words = f"{server.remote} No such file or directory"
    site.loop.run(lambda: store.state().words == words)
    outcome = site.loop.ask(store, change(1), deadline_s=0.1)
    assert outcome == WriteRefused(RefusalReason.UNREACHABLE, None, f"not sent in time: {words}")
    late = Viewer(store, CHANGES, deadline_s=0.1)
    site.loop.run(lambda: late.events)
    assert late.events == [ViewOverdue(words)]
    kept: list[WriteOutcome] = []
    store.transact((change(2),), LONG_S, kept.append)
    server.start()
    site.loop.run(lambda: kept and len(late.events) > 1)
    assert kept == [Committed((1,))]
    assert late.of("Change", "number") == [2]


def test_a_remote_that_cannot_be_dialled_ends_nothing(tmp_path: Path) -> None:
    """A socket's path has at most 107 octets (unix(7))."""
    site = OvsdbSite(StoreServer(tmp_path, f"tcp:127.0.0.1:{free_ports(1)[0]}"))
    store = OvsdbStore((f"unix:{tmp_path}/{'deep' * 30}",), site.loop.post, PLANNER)
    site.loop.run(lambda: store.state().words.endswith("AF_UNIX path too long"))
    outcome = site.loop.ask(store, change(1), deadline_s=0.1)
    assert isinstance(outcome, WriteRefused)
    assert outcome.words.endswith("AF_UNIX path too long")
    store.close()
    site.close()


def test_the_leader_of_three_is_killed(tmp_path: Path) -> None:
    with served(tmp_path, members=3) as site:
        store, view = site.store(), Viewer(site.store(), CHANGES)
        fill(site, store)
        for number in (1, 3):
            assert is_written(site, store, change(number))
            site.loop.run(lambda: store.state().leader)
            leader = store.state().leader
            gone = next(server for server in site.servers if server.remote == leader)
            kill(gone)
            began = time.monotonic()
            assert is_written(site, store, change(number + 1))
            assert time.monotonic() - began < LONG_S
            assert store.state().leader != leader
            site.loop.run(partial(view.has_all, "Change", number + 1))
            gone.start()
            site.loop.run(partial(joined, gone))
        assert view.of("Change", "number") == [1, 2, 3, 4]
        assert [type(event) for event in view.events].count(WholeView) == 1


def with_a_gap(log: bytes) -> bytes:
    """A member's log without the last entry but one."""
    records: list[tuple[bytes, dict[str, object]]] = []
    while log:
        head, _, rest = log.partition(b"\n")
        size = int(head.split()[2])
        records.append((head + b"\n" + rest[:size], json.loads(rest[:size])))
        log = rest[size:]
    *_, last, _ = (octets for octets, record in records if "index" in record)
    return b"".join(octets for octets, _ in records if octets is not last)


def test_a_member_whose_log_has_a_gap_is_made_anew(tmp_path: Path) -> None:
    with served(tmp_path, 3) as site:
        store = site.store()
        for number in range(1, 6):
            assert site.loop.ask(store, change(number)) == Committed((1,))
        leads, lost = site.servers[0], site.servers[2]
        kill(lost)
        lost.database.write_bytes(with_a_gap(lost.database.read_bytes()))
        with pytest.raises(StoreServerError, match="a part is missing, as where its disk was full"):
            lost.start()
        shutil.rmtree(lost.folder)
        (gone,) = (line.split()[0] for line in leads.shown().splitlines() if lost.member in line)
        leads._tell("cluster/kick", DATABASE, gone)
        lost.join(leads.member)
        lost.start()
        assert joined(lost)
        assert site.loop.ask(store, change(6)) == Committed((1,))
        dump = ["ovsdb-client", "--format=json", "dump", lost.remote, DATABASE, "Change", "number"]
        rows = json.loads(subprocess.check_output(dump))["data"]
        assert sorted(number for (number,) in rows) == [1, 2, 3, 4, 5, 6]


def test_a_backup_of_what_one_member_has_is_called_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone it may know less than the others, and is worth having where they are lost."""
    with served(tmp_path, 3) as site:
        assert site.loop.ask(site.store(), change(1)) == Committed((1,))
        left, *lost = site.servers
        backup = ["backup", str(left.folder)]
        assert main([*backup, str(tmp_path / "whole")]) == 0
        assert capsys.readouterr().out.endswith("all of the store, as it is now\n")
        for server in lost:
            kill(server)
        site.loop.run(lambda: not left.takes_part(1.0))
        assert main([*backup, str(tmp_path / "rest")]) == 0
        assert "what this member has; it reaches no majority" in capsys.readouterr().out


def test_a_cluster_of_one_is_joined_by_another(tmp_path: Path) -> None:
    # the one that leads shall lead on, also where it gets no processor for a while
    with served(tmp_path, election_ms=60_000) as site:
        store = site.store()
        assert isinstance(site.loop.ask(store, change(1)), Committed)
        first = site.servers[0]
        second = StoreServer(tmp_path / "second", f"tcp:127.0.0.1:{free_ports(1)[0]}")
        second.join(first.member)
        second.start()
        site.loop.run(lambda: joined(second))
        client = OvsdbSite(second, first)
        other = client.store()
        assert isinstance(client.loop.ask(other, change(2)), Committed)
        assert other.state().leader == first.remote, "a follower is not written to"
        assert other.state().cluster == store.state().cluster
        client.close()
        second.leave()
        second.stop()


def test_a_server_that_is_another_or_none_is_refused(site: OvsdbSite, tmp_path: Path) -> None:
    store = site.store()
    site.loop.run(lambda: store.state().connected)
    cluster = store.state().cluster
    with served(tmp_path / "other") as other:
        stranger = other.store(cluster=cluster)
        other.loop.run(lambda: "belongs to cluster" in stranger.state().words)
        assert not stranger.state().connected
    schema = site.servers[0].folder / "XenFlow.ovsschema"
    alone, socket = tmp_path / "alone.db", tmp_path / "alone.sock"
    subprocess.run(["ovsdb-tool", "create", alone, schema], check=True)
    process = subprocess.Popen(
        ["ovsdb-server", f"--remote=punix:{socket}", f"--unixctl={tmp_path}/alone.ctl", alone],
        stderr=subprocess.DEVNULL,
    )
    try:
        lone = OvsdbStore((f"unix:{socket}",), site.loop.post, PLANNER)
        site.loop.run(lambda: "is no member of a cluster (standalone)" in lone.state().words)
        outcome = site.loop.ask(lone, change(1), deadline_s=0.1)
        assert isinstance(outcome, WriteRefused)
        lone.close()
    finally:
        process.kill()
        process.wait()


def test_another_major_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenflow.store.schema.VERSION", (2, 0, 0))
    words = "version 2.0.0 of the schema, and 1.x is needed"
    with served(tmp_path) as site:
        store = site.store()
        site.loop.run(lambda: store.state().words.endswith(words))


def test_a_watch_is_refused_until_the_server_has_the_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server is given its new schema while it runs, after its clients have theirs."""
    schema = tmp_path / "schema"
    schema.write_text(json.dumps(to_schema()))
    before = {name: cell for name, cell in TABLES["Change"].columns.items() if name != "by"}
    older = {**TABLES, "Change": replace(TABLES["Change"], columns=before)}
    monkeypatch.setattr("xenflow.store.schema.TABLES", older)
    with served(tmp_path) as site:
        store = site.store()
        view, hosts = Viewer(store, CHANGES), Viewer(store, WatchedTable("Host", ("name",)))
        site.loop.run(lambda: view.events and hosts.events)
        (told,) = view.events
        assert isinstance(told, ViewOverdue)
        (server,) = site.servers
        assert told.words.startswith(f"{server.remote} refuses the watch: syntax error: ")
        assert site.loop.ask(store, change(1)) == Committed((1,))
        subprocess.run(["ovsdb-client", "convert", server.remote, schema], check=True)
        site.loop.run(lambda: len(view.events) > 1)
        assert view.of("Change", "by") == [""]
        assert len(view.events) == 2
        assert site.loop.ask(store, host("a")) == Committed((1,))
        site.loop.run(lambda: hosts.of("Host", "name") == ["a"])


def test_clients_reach_a_server_by_tcp(site: OvsdbSite) -> None:
    (server,) = site.servers
    server.stop()
    (port,) = free_ports(1)
    replace(server, listens=(f"ptcp:{port}:127.0.0.1",)).start()
    store = OvsdbStore((f"tcp:127.0.0.1:{port}",), site.loop.post, PLANNER)
    assert site.loop.ask(store, change(1, by="x" * 1_000_000)) == Committed((1,))
    view = Viewer(store, CHANGES)
    site.loop.run(lambda: view.events)
    assert view.of("Change", "by") == ["x" * 1_000_000]
    store.close()


@pytest.mark.parametrize(
    "remote",
    [
        "",
        "unix:",
        "ssl:127.0.0.1:1",
        "udp:127.0.0.1:1",
        "tcp:127.0.0.1",
        "tcp:127.0.0.1:0",
        "tcp:a:1",
        "tcp:::1:1",
    ],
)
def test_a_remote_that_is_none_is_a_mistake(remote: str) -> None:
    for remotes in ((), (remote,)):
        with pytest.raises(StoreMistakeError):
            OvsdbStore(remotes, print, PLANNER)


def test_what_a_server_cannot_do_is_said(tmp_path: Path) -> None:
    server = StoreServer(tmp_path, "tcp:127.0.0.1:1")
    with pytest.raises(StoreServerError, match="no database is there"):
        server.start()
    server.create()
    with pytest.raises(StoreServerError, match="ovsdb-tool: .*File exists"):
        server.create()
    with pytest.raises(StoreServerError, match="no server runs there"):
        server.stop()
    assert server.pid() is None


def test_a_server_is_not_started_twice(site: OvsdbSite) -> None:
    (server,) = site.servers
    pid = server.pid()
    with pytest.raises(StoreServerError, match="already running"):
        server.start()
    assert server.pid() == pid
    assert site.loop.ask(site.store(), change(1)) == Committed((1,))


def test_what_changed_while_the_server_was_away_is_a_change(site: OvsdbSite) -> None:
    (server,) = site.servers
    store, view = site.store(), Viewer(site.store(), CHANGES)
    fill(site, store)
    for number in (1, 2):
        assert site.loop.ask(store, change(number)) == Committed((1,))
    site.loop.run(partial(view.has_all, "Change", 2))
    told = len(view.events)
    kill(server)
    server.start()
    after = Update("Change", numbered(1), {"by": "after"})
    while not isinstance(site.loop.ask(store, after), Committed):
        pass  # it is the same however often it is written
    site.loop.run(lambda: view.of("Change", "by") == ["", "after"])
    assert [type(event) for event in view.events[told:]] == [RowChanges]


def test_what_it_says_comes_in_the_programs_own_loop(site: OvsdbSite) -> None:
    """A controller is a component under POX, whose loop is recoco."""
    scheduler = Scheduler()
    remotes = tuple(server.remote for server in site.servers)
    store = OvsdbStore(remotes, scheduler.callLater, PLANNER)
    called: list[tuple[int, object]] = []

    def call(value: object) -> None:
        called.append((threading.get_ident(), value))

    store.transact((change(1),), LONG_S, call)
    store.watch((CHANGES,), LONG_S, call)
    end = time.monotonic() + LONG_S
    while len(called) < 2:
        assert time.monotonic() < end
        scheduler.turn(0.05)
    assert {thread for thread, _ in called} == {threading.get_ident()}
    store.close()
