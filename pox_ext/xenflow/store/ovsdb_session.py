"""The conversation with the servers of a store: which of them leads, what was asked, what is due.

A state machine without a socket, a thread or a clock: it is told what happened and when, and
returns what to do (`Effect`s), in order.  `ovsdb_store.py` does it.

It dials the servers in turn and stays with the one that leads the cluster (`_Server.Database`,
ovsdb-server(7), 5): followers pass writes on, at a third of the speed, and a member that is cut off
serves what is old.  Where one server alone is named, it may follow: who is beside a member uses it
whoever leads.  A standalone server is refused: it answers before it has written.  So is
another cluster than the first that was met, and a schema with another first number.

A transaction that was sent when the connection or its time ends has an unknown outcome.  One that
was not sent is kept for the next leader until its time ends, and was certainly not written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from math import inf
from typing import Any

from xenflow.store import ovsdb_json
from xenflow.store.json_stream import JsonStream
from xenflow.store.network_store import (
    RowChanges,
    StoreState,
    ViewOverdue,
    WatchedTable,
    WatchEvent,
    WholeView,
)
from xenflow.store.schema import DATABASE, VERSION
from xenflow.store.transaction import (
    RefusalReason,
    Transaction,
    WriteOutcome,
    WriteRefused,
    WriteUnknown,
)

PATIENCE_S = 15.0
"""How long a server may say nothing at all.  Two hundred hosts that come at once keep its one
thread busy for some 9 s."""
PROBES = 3
"""How often in that time it is asked for a word (`echo`, RFC 7047, 4.1.11)."""
FIRST_REST_S = 0.05
LONGEST_REST_S = 1.0
"""Between two rounds over all servers, doubling from the first to the longest."""

MISREAD = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading a server's words may raise."""

NO_TRANSACTION = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to a server; `dialled` or `lost` says what came of it."""

    remote: str


@dataclass(frozen=True, slots=True)
class SendOctets:
    """Send these to the server."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the connection, or give up dialling."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Hand a value over to who asked for it."""

    call: Callable[[Any], Any]
    value: WriteOutcome | WatchEvent


Effect = Dial | SendOctets | HangUp | Tell


class SessionPhase(Enum):
    """How far the session is with a server."""

    RESTING = "resting"
    DIALLING = "dialling"
    ASKING = "asking what the server is"
    SERVED = "served by the leader"


@dataclass(slots=True, eq=False)
class _Asked:
    """A transaction that has no outcome yet; `id` is its request's, 0: it was not sent."""

    transaction: Transaction
    until: float
    done: Callable[[WriteOutcome], Any]
    id: int = 0


@dataclass(slots=True, eq=False)
class _Watch:
    """A watch: what its listener has been told (`rows`, as of transaction `seen`), what is owed.

    asked    the id of its request to the server that is connected; 0: it is not watched there
    refused  its listener has been told that it is refused, and nothing since
    """

    name: str
    tables: tuple[WatchedTable, ...]
    listener: Callable[[WatchEvent], Any]
    due: float
    rows: ovsdb_json.Rows = field(default_factory=dict)
    seen: str = NO_TRANSACTION
    asked: int = 0
    refused: bool = False


class OvsdbSession:
    """One program's conversation with its store.  All times are seconds of one monotonic clock."""

    def __init__(self, remotes: tuple[str, ...], cluster: str, patience_s: float = PATIENCE_S):
        self._remotes = remotes
        self._patience_s = patience_s
        self._quiet_s = patience_s / PROBES
        self._cluster = cluster
        self._ids = count(1)
        self._turn = 0
        self._phase = SessionPhase.RESTING
        self._rest_until = -inf
        self._rest_s = FIRST_REST_S
        self._heard = self._spoken = -inf
        self._words = "no server has been dialled yet"
        self._stream = JsonStream()
        self._server_id = 0
        self._unanswered: dict[int, _Asked] = {}
        self._waiting: dict[_Asked, None] = {}
        self._watches: dict[str, _Watch] = {}
        self._effects: list[Effect] = []

    # --- what is asked of it -----------------------------------------------------------------

    @property
    def state(self) -> StoreState:
        """As `NetworkStore.state` gives it."""
        served = self._phase is SessionPhase.SERVED
        leader = self._remotes[self._turn] if served else ""
        return StoreState(served, leader, self._cluster, "" if served else self._words)

    def transact(
        self, transaction: Transaction, until: float, done: Callable[[WriteOutcome], Any]
    ) -> list[Effect]:
        """Ask for a checked transaction; `done` is told the outcome at `until` at the latest."""
        asked = _Asked(transaction, until, done)
        self._waiting[asked] = None
        if self._phase is SessionPhase.SERVED:
            self._send_waiting()
        return self._take()

    def watch(
        self,
        name: str,
        tables: tuple[WatchedTable, ...],
        due: float,
        listener: Callable[[WatchEvent], Any],
    ) -> list[Effect]:
        """Begin a watch under a name of its own, whose first view is overdue after `due`."""
        self._watches[name] = watch = _Watch(name, tables, listener, due)
        if self._phase is SessionPhase.SERVED:
            self._send_watch(watch)
        return self._take()

    def unwatch(self, name: str) -> list[Effect]:
        """End a watch."""
        watch = self._watches.pop(name, None)
        if watch is not None and watch.asked:
            self._request("monitor_cancel", [name])
        return self._take()

    # --- what happens ------------------------------------------------------------------------

    def dialled(self, now: float) -> list[Effect]:
        """The server that was dialled is connected."""
        self._phase = SessionPhase.ASKING
        self._heard = self._spoken = now
        self._stream = JsonStream()
        columns = ["name", "model", "connected", "leader", "cid", "schema"]
        wanted = {"Database": [{"columns": columns}]}
        self._server_id = self._request("monitor", ["_Server", "_Server", wanted])
        return self._take()

    def lost(self, now: float, words: str) -> list[Effect]:
        """The connection has ended, or the server could not be dialled."""
        if self._phase is not SessionPhase.RESTING:
            self._leave(now, words)
        return self._take()

    def received(self, octets: bytes, now: float) -> list[Effect]:
        """The server has sent octets."""
        self._heard = self._spoken = now
        try:
            for message in self._stream.feed(octets):
                if self._phase is SessionPhase.RESTING:
                    break  # it was left because of what it said before
                self._take_in(message, now)
        except MISREAD as error:
            self._owe_the_whole()  # a change may be half taken in
            self._hang_up(now, f"says what is not understood: {error}")
        return self._take()

    def tick(self, now: float) -> list[Effect]:
        """Do what is due; to be called at `wake_at` at the latest."""
        for asked in [a for a in self._asked() if now >= a.until]:
            sent, unsent = "sent, and not answered in time", f"not sent in time: {self._words}"
            self._end(asked, _without_answer(asked, sent, unsent))
        for watch in self._watches.values():
            if now >= watch.due:
                watch.due = inf
                self._effects.append(Tell(watch.listener, ViewOverdue(self._words)))
        if self._phase is SessionPhase.RESTING:
            if now >= self._rest_until:
                self._phase = SessionPhase.DIALLING
                self._heard = self._spoken = now
                self._effects.append(Dial(self._remotes[self._turn]))
        elif now >= self._heard + self._patience_s:
            self._hang_up(now, f"has said nothing for {self._patience_s:g} s")
        elif self._phase is SessionPhase.SERVED and now >= self._spoken + self._quiet_s:
            self._spoken = now
            self._request("echo", [])
        return self._take()

    def end(self, words: str) -> list[Effect]:
        """Nothing is done any more: whoever waits is told so, at once.  To be called again after
        more was asked."""
        self._phase = SessionPhase.RESTING
        for asked in list(self._asked()):
            sent, unsent = f"sent, and then: {words}", f"not sent: {words}"
            self._end(asked, _without_answer(asked, sent, unsent))
        for watch in self._watches.values():
            if watch.due < inf:
                watch.due = inf
                self._effects.append(Tell(watch.listener, ViewOverdue(words)))
        return self._take()

    def wake_at(self) -> float:
        """When `tick` has something to do, unless something happens before."""
        times = [asked.until for asked in self._asked()]
        times += [watch.due for watch in self._watches.values()]
        if self._phase is SessionPhase.RESTING:
            times.append(self._rest_until)
        else:
            times.append(self._heard + self._patience_s)
            if self._phase is SessionPhase.SERVED:
                times.append(self._spoken + self._quiet_s)
        return min(times)

    # --- messages ----------------------------------------------------------------------------

    def _take_in(self, message: dict[str, Any], now: float) -> None:
        match message.get("method"):
            case "echo":
                self._send({"id": message["id"], "result": message["params"], "error": None})
            case "update":  # of `_Server`
                self._look_at(message["params"][1], now)
            case "update3":
                name, seen, updates = message["params"]
                watch = self._watches.get(name)
                if watch is not None and watch.asked:
                    watch.seen = seen
                    self._tell_changes(watch, updates)
            case None:
                self._take_answer(message, now)
            case other:
                raise ValueError(f"{other!r} is no message of a server")

    def _take_answer(self, message: dict[str, Any], now: float) -> None:
        id, result, error = message["id"], message.get("result"), message.get("error")
        if asked := self._unanswered.get(id):
            self._rest_s = FIRST_REST_S
            self._end(asked, ovsdb_json.outcome_from_json(asked.transaction, result, error))
        elif id == self._server_id:
            if error is not None:
                raise ValueError(str(error))
            self._look_at(result, now)
        else:
            for watch in self._watches.values():
                if watch.asked == id:
                    self._take_view(watch, result, error)

    def _take_view(self, watch: _Watch, result: Any, error: Any) -> None:
        if error is not None:
            self._refused(watch, f"refuses the watch: {ovsdb_json.tag_and_words(error)[1]}")
            return
        found, watch.seen, updates = result
        self._rest_s = FIRST_REST_S
        if found:
            self._tell_changes(watch, updates)
            return
        watch.rows = {}
        try:
            ovsdb_json.apply_updates(watch.rows, watch.tables, updates)
        except MISREAD as error:  # a row that does not fit harms this watch only
            self._request("monitor_cancel", [watch.name])
            self._refused(watch, f"says of the watch what is not understood: {error}")
            return
        watch.due = inf
        watch.refused = False
        view = {one.table: ovsdb_json.frozen(watch.rows.get(one.table, {})) for one in watch.tables}
        self._effects.append(Tell(watch.listener, WholeView(ovsdb_json.frozen(view))))

    def _refused(self, watch: _Watch, words: str) -> None:
        """Another server may know it, or this one after its schema has changed; both are a new
        connection, over which it is asked for again."""
        watch.asked = 0
        watch.seen = NO_TRANSACTION
        watch.due = inf
        if not watch.refused:
            watch.refused = True
            words = f"{self._remotes[self._turn]} {words}"
            self._effects.append(Tell(watch.listener, ViewOverdue(words)))

    def _tell_changes(self, watch: _Watch, updates: Any) -> None:
        if changes := ovsdb_json.apply_updates(watch.rows, watch.tables, updates):
            self._effects.append(Tell(watch.listener, RowChanges(changes)))

    def _look_at(self, updates: Any, now: float) -> None:
        """What `_Server` says of the databases: stay with the leader, leave anybody else."""
        for update in updates.get("Database", {}).values():
            row = update.get("new") or update["old"]
            if row["name"] != DATABASE:
                continue
            if "new" not in update:
                fault = "has the database no more"
            elif "schema" in update.get("old", ()):
                # Open vSwitch 3.1 ends all monitors then, and does not say so.
                fault = "has changed its schema"
                self._owe_the_whole()
            else:
                fault = self._fault(row)
            if fault:
                self._hang_up(now, fault)
            elif self._phase is SessionPhase.ASKING:
                self._serve(row)
            return
        if self._phase is SessionPhase.ASKING:
            self._hang_up(now, f"has no database {DATABASE}")

    def _fault(self, row: dict[str, Any]) -> str:
        """Why a server cannot be used; empty where it can."""
        if row["model"] != "clustered":
            return f"is no member of a cluster ({row['model']})"
        if not row["connected"]:
            return "is not connected to its cluster (no majority; or its disk was full: restart it)"
        cluster = row["cid"][1]
        if self._cluster and cluster != self._cluster:
            return f"belongs to cluster {cluster}, not {self._cluster}"
        if schema := row.get("schema"):
            version = json.loads(schema)["version"]
            if int(version.partition(".")[0]) != VERSION[0]:
                return f"has version {version} of the schema, and {VERSION[0]}.x is needed"
        alone = len(self._remotes) == 1
        return "" if row["leader"] or alone else "does not lead its cluster"

    def _serve(self, row: dict[str, Any]) -> None:
        self._phase = SessionPhase.SERVED
        self._words = f"{self._remotes[self._turn]} has not answered yet"
        self._cluster = row["cid"][1]
        for watch in self._watches.values():
            self._send_watch(watch)
        self._send_waiting()

    # --- doing -------------------------------------------------------------------------------

    def _send_watch(self, watch: _Watch) -> None:
        wanted = ovsdb_json.watch_to_json(watch.tables)
        params = [DATABASE, watch.name, wanted, watch.seen]
        watch.asked = self._request("monitor_cond_since", params)

    def _send_waiting(self) -> None:
        for asked in list(self._waiting):
            params = ovsdb_json.transaction_to_json(asked.transaction)
            asked.id = self._request("transact", params)
            self._unanswered[asked.id] = asked
            del self._waiting[asked]

    def _asked(self) -> Iterator[_Asked]:
        yield from self._waiting
        yield from self._unanswered.values()

    def _end(self, asked: _Asked, outcome: WriteOutcome) -> None:
        self._waiting.pop(asked, None)
        self._unanswered.pop(asked.id, None)
        self._effects.append(Tell(asked.done, outcome))

    def _hang_up(self, now: float, words: str) -> None:
        self._effects.append(HangUp())
        self._leave(now, words)

    def _leave(self, now: float, words: str) -> None:
        """The server is no longer talked to; the next one's turn, after a rest where all had it."""
        self._words = f"{self._remotes[self._turn]} {words}"
        self._phase = SessionPhase.RESTING
        self._turn = (self._turn + 1) % len(self._remotes)
        self._rest_until = now
        if self._turn == 0:
            self._rest_until = now + self._rest_s
            self._rest_s = min(2 * self._rest_s, LONGEST_REST_S)
        self._server_id = 0
        for watch in self._watches.values():
            watch.asked = 0
        for asked in list(self._unanswered.values()):
            self._end(asked, WriteUnknown(f"sent, and then: {self._words}"))

    def _owe_the_whole(self) -> None:
        for watch in self._watches.values():
            watch.seen = NO_TRANSACTION

    def _request(self, method: str, params: list[Any]) -> int:
        id = next(self._ids)
        self._send({"id": id, "method": method, "params": params})
        return id

    def _send(self, message: dict[str, Any]) -> None:
        octets = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
        self._effects.append(SendOctets(octets))

    def _take(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects


def _without_answer(asked: _Asked, sent: str, unsent: str) -> WriteOutcome:
    if asked.id:
        return WriteUnknown(sent)
    return WriteRefused(RefusalReason.UNREACHABLE, None, unsent)
