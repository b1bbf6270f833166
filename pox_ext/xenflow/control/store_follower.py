"""A controller follows the store: it does what laid rows say, and writes how far its switches are.

Rows go to the disk first, then to the Rule Table, as a network file that was read anew does; once
all of it is in force on a switch, the switch's row of `Switch_State` says so.  Without the store
everything goes on, and the last rows are followed.  What cannot be taken now, as while a router is
being migrated, is tried again.

Called by `component`.  No POX and no socket here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from xenflow.control import observed
from xenflow.control.leases import Leases
from xenflow.control.observed import ObservedRows
from xenflow.control.rule_table import RuleTable
from xenflow.model.difference import NetworkDifference
from xenflow.model.network import Network, NetworkError
from xenflow.model.placement import newest_each
from xenflow.model.release import RELEASE
from xenflow.model.succession import changed_with, others_by_name
from xenflow.plan.search import STORE
from xenflow.store import placement_rows
from xenflow.store.columns import Cell
from xenflow.store.laid_file import LaidFile, LaidRows, to_json
from xenflow.store.lease import LEASE_COLUMNS, LEASE_TABLE
from xenflow.store.line_file import StateError
from xenflow.store.network_rows import LAID, NamedRows, by_name, laid_entries
from xenflow.store.network_store import (
    NetworkStore,
    Rows,
    ViewOverdue,
    WatchedTable,
    WatchEvent,
    told,
    touches,
)
from xenflow.store.schema import TABLES
from xenflow.store.transaction import StoreRow, equal

log = logging.getLogger("xenflow.store")

AGAIN_S = 1.0
"""How often what could not be taken, or written, is tried again."""
WATCH_S = 10.0
"""How long the store may take to say what it has."""
AWAY, KEEPING, TAKING, OLDER = "store", "store-file", "store-rows", "store-older"
WRITING = "store-rights"
"""Causes of problems: the store is away, its rows cannot be kept, or not be taken, or are older
than those that were followed, or what was seen here must not be written."""
FENCED = "store-fenced"
"""The same: this host is not in the network.  It was removed, as lost perhaps, and what was its may
be somebody else's by now; so its switch forwards nothing of any link or router."""


class StoreFollower:
    """See the module.

    host     whose controller this is
    file     where rows are kept; `laid` is what it had at the start
    become   lets the table, and what is around it, be another network; raises NetworkError
    """

    def __init__(
        self,
        store: NetworkStore,
        host: str,
        file: LaidFile,
        laid: LaidRows | None,
        table: RuleTable,
        become: Callable[[Network], NetworkDifference],
        leases: Leases,
    ) -> None:
        self._store = store
        self._host = host
        self._file = file
        self._table = table
        self._become = become
        self._laid = laid or LaidRows()
        self._kept = self._laid
        """What is on the disk."""
        self._taken = self._laid.change
        """The change that the Rule Table is at."""
        self._read: NamedRows = {}
        """Its rows."""
        self._rows: Rows = {}
        self._in_force: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        """Switches that are asked whether a change is in force."""
        self._half_done = False
        """Whether a change has failed half way: tried again it would seem to be done."""
        self._leases = leases
        self._observed = ObservedRows(store, host, self._seen, self._no_right)
        self._again = 0.0
        self._now = 0.0
        self._beat: tuple[Cell, Cell] | None = None
        self._beat_at = 0.0
        """The planner's last beat, and when it came."""

    def start(self) -> None:
        """Begin to follow."""
        tables = [WatchedTable(table, tuple(TABLES[table].columns)) for table in LAID]
        lease = WatchedTable(LEASE_TABLE, LEASE_COLUMNS, equal(name="planner"))
        whole = WatchedTable("Global", ("change",))
        if self._laid.change:
            self._is_fenced(self._laid)
        own = observed.watched(self._host)
        self._store.watch((*tables, *own, lease, whole), WATCH_S, self._told)

    @property
    def planner(self) -> str:
        """tcp://ADDRESS:PORT of the planner that holds the lease; "" where none is known."""
        rows = self._rows.get(LEASE_TABLE, {}).values()
        return next((str(row["owner"]).partition(" ")[0] for row in rows), "")

    def status(self) -> dict[str, Any]:
        """For people: docs/messages.md, verb `status`."""
        state = self._store.state()
        return {
            "connected": state.connected,
            "leader": state.leader,
            "cluster": state.cluster,
            "words": state.words,
            "planner": self.planner,
            "planner_silent_s": round(self._now - self._beat_at, 1) if self.planner else None,
            "change": self._laid.change,
            "taken": self._taken,
            "in_force": {name: self._in_force.get(name, 0) for name in self._table.switches},
        }

    def known(self) -> dict[str, Any]:
        """The last change that it was told, and of which cluster: docs/messages.md, `reload`."""
        return {"cluster": self._laid.cluster, "change": self._laid.change}

    def network(self, rows: bool) -> dict[str, Any]:
        """What is on the disk, with the laid rows or without: docs/messages.md, verb `network`."""
        kept = self._kept
        return to_json(kept if rows else LaidRows(kept.cluster, kept.change))

    # --- what the store says ------------------------------------------------------------------

    def _told(self, event: WatchEvent) -> None:
        if isinstance(event, ViewOverdue):
            return  # `tick` says that it is away
        self._rows = told(self._rows, event)
        if not touches(event, ("Global", *LAID)):
            return
        numbers = [row["change"] for row in self._rows.get("Global", {}).values()]
        number = next((each for each in numbers if isinstance(each, int)), 0)
        cluster = self._store.state().cluster
        if not number or self._is_older(number, cluster):
            return
        self._search()
        new = (number, cluster) != (self._laid.change, self._laid.cluster)
        if new or self._kept is not self._laid:  # else what is followed stays as it is on the disk
            laid = by_name({table: self._rows.get(table, {}) for table in LAID})
            self._laid = LaidRows(cluster, number, laid)
            self._follow()

    def _search(self) -> None:
        """Where this host has lost where routers are, the store's word counts as another's."""
        if not self._table.searching():
            return
        tables = [self._rows.get(name, {}) for name in ("Laid_Element", "Placement")]
        cells = [row["placement"] for rows in tables for row in rows.values()]
        told = newest_each(placement_rows.read(cells, self._table.network))
        self._table.told_where(STORE, told.values(), knows=True)

    def _is_older(self, number: int, cluster: str) -> bool:
        """Whether the store is behind what was followed, as one is that was put back from a copy:
        its numbers mean other changes then.  Where it has come as far again since, or further, a
        row gives it away that is of an earlier change than it was."""
        words = ""
        if cluster == self._laid.cluster:
            if number < self._laid.change:
                words = f"the store is at change {number}, and {self._laid.change} was followed"
            elif what := next(self._earlier(), ""):
                words = f"the store has {what}, and a later change of it was followed"
        if words:
            words = (
                f"{words}: it is an older copy, and not followed; move {self._file.path} away and "
                "restart, and it is"
            )
        self._problem(OLDER, words)
        return bool(words)

    def _earlier(self) -> Iterator[str]:
        """What the store has as of an earlier change than was followed."""
        for table in LAID:
            followed = self._laid.rows.get(table, {})
            for row in self._rows.get(table, {}).values():
                known = followed.get((row["name"],))
                if known is not None and _number(known["change"]) > _number(row["change"]):
                    yield f"{table} {row['name']} as of change {row['change']}"

    def _follow(self) -> None:
        """Where the rows make a network keep them, then let the network be it."""
        laid = self._laid
        not_taken = f"change {laid.change} of the store is not taken"
        # What the file says beside the rows counts no more; nor does what was there while this host
        # was not in the network: then tombstones went without it.
        alone = not self._taken or not self._own_states(laid.cluster)
        try:
            fenced = self._is_fenced(laid)
            if fenced:
                network = self._table.network.only(self._host)
            else:
                before, read = self._table.network, self._read
                network = laid_entries(laid.rows, before, alone=alone, read=read)
        except NetworkError as error:  # nor are they kept: nobody could start from them
            self._problem(TAKING, f"{not_taken}: {error}")
            return
        if self._kept is not laid:
            try:
                self._file.keep(laid)
            except StateError as error:
                self._problem(KEEPING, f"{error}: change {laid.change} waits")
                return
            self._kept = laid
            self._problem(KEEPING, self._file.doubt)
        if self._half_done:
            return
        try:
            anew = others_by_name(self._table.network, network.active)
            self._leases.keep_only(network.active.routers.keys() - anew)
            if anew:
                # Those that had their names, which went while this was away, go first.
                self._become(changed_with(network, routers=dict.fromkeys(anew)))
            found = self._become(network)
        except NetworkError as error:
            self._problem(TAKING, f"{not_taken}: {error}")
            return
        except Exception as error:
            self._half_done = True
            log.exception("change %d of the store is half taken", laid.change)
            words = (
                f"change {laid.change} of the store is half taken: {type(error).__name__}: {error}"
            )
            self._problem(TAKING, f"{words}: restart this controller")
            return
        if found:
            log.info("change %d of the store: %s", laid.change, found.words())
        self._taken, self._read = laid.change, {} if fenced else laid.rows
        self._problem(TAKING, "")
        self._ask_switches()

    def _is_fenced(self, laid: LaidRows) -> bool:
        """Whether the network has this host no more, or not yet; which is said."""
        row = laid.rows.get("Laid_Host", {}).get((self._host,))
        fenced = not self._own_states(laid.cluster) if row is None else bool(row["gone"])
        words = (
            f"this host is not in the network (change {laid.change}): its switches forward nothing "
            f"of it until it is taken in again (`xenflow host add {self._host}`)"
        )
        self._problem(FENCED, words if fenced else "")
        return fenced

    def _own_states(self, cluster: str) -> dict[Cell, StoreRow]:
        """What the store has of switches here, as of changes of that cluster."""
        rows = self._rows.get("Switch_State", {}).values()
        return {row["switch"]: row for row in rows if row["cluster"] == cluster}

    def _no_right(self, words: str) -> None:
        must = f"the common name of this controller's certificate must be {self._host}"
        self._problem(
            WRITING, f"the store takes nothing from here: {must} ({words})" if words else ""
        )

    def _problem(self, cause: str, words: str) -> None:
        if words:
            self._table.problems.begin(cause, words)
        else:
            self._table.problems.end(cause)

    # --- how far the switches are ---------------------------------------------------------------

    def _ask_switches(self) -> None:
        for name, switch in self._table.switches.items():
            number = self._taken
            behind = self._in_force.get(name, 0) < number
            if behind and switch.live and self._asked.get(name) != number:
                self._asked[name] = number
                switch.promises.in_force(partial(self._proven, name, number))

    def _proven(self, name: str, number: int, error: str | None) -> None:
        if self._asked.get(name) == number:
            del self._asked[name]
        if error is None:
            self._in_force[name] = max(number, self._in_force.get(name, 0))
            self._write()

    def tick(self, now: float) -> None:
        """What time asks for; `now`: a monotonic clock, in seconds."""
        if now < self._again:
            return
        self._again = now + AGAIN_S
        state = self._store.state()
        self._now = now
        leases = self._rows.get(LEASE_TABLE, {}).values()
        beat = next(((row["term"], row["beat"]) for row in leases), None)
        if not state.connected or beat != self._beat:  # by this one's own clock
            self._beat, self._beat_at = beat, now
        words = f"the store is away, its last rows are followed: {state.words}"
        self._problem(AWAY, "" if state.connected else words)
        if self._taken < self._laid.change or self._kept is not self._laid:
            self._follow()
        self._ask_switches()
        self._write()

    def _write(self) -> None:
        """Have the store say what was seen here."""
        if self._laid.cluster:
            self._observed.write(self._rows)

    def _seen(self) -> Iterator[tuple[str, StoreRow]]:
        laid = self._laid.rows.get("Laid_Switch", {}).values()
        switches = self._table.switches.keys() & {row["name"] for row in laid if not row["gone"]}
        for name in switches & self._in_force.keys():
            left_out = self._table.switches[name].left_out
            yield (
                "Switch_State",
                {
                    "switch": name,
                    "cluster": self._laid.cluster,
                    "in_force": self._in_force[name],
                    "left_out": frozenset(f"router {router}" for router in left_out),
                    "release": RELEASE,
                },
            )
        for row in self._rows.get("Switch_State", {}).values():
            if row["switch"] in switches and row["switch"] not in self._in_force:
                yield "Switch_State", row  # of before this start
        known = [p for s in self._table.switches.values() for p in s.placements.values()]
        there = [row["placement"] for row in self._rows.get("Placement", {}).values()]
        yield from observed.placements(self._table.network, known, there)
        yield from observed.migrations(self._leases)


def _number(cell: Cell) -> int:
    return cell if isinstance(cell, int) else 0
