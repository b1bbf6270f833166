"""What the planner knows of the store, and what it writes for a change.  Pure.

A change is one transaction: the desired rows, the laid rows, and the row of the change itself.  It
carries a wait for the number of the change before, so that of two at once one is refused, and the
lease's fence.  Only what is safe in whatever order the switches take it is taken: what
`model.difference.refusals` lets pass.  Called by `service`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xenflow.model.difference import NetworkDifference, compare, refusals
from xenflow.model.network import Network, NetworkError
from xenflow.model.succession import in_terms_of
from xenflow.store import network_file
from xenflow.store.columns import Cell
from xenflow.store.lease import LEASE_COLUMNS, LEASE_TABLE
from xenflow.store.network_rows import (
    DESIRED,
    LAID,
    StoredRows,
    by_name,
    desired,
    laid,
    laid_entries,
    operations,
)
from xenflow.store.network_store import RowChanges, WatchedTable, WholeView
from xenflow.store.schema import TABLES
from xenflow.store.transaction import (
    Delete,
    Insert,
    Operation,
    StoreRow,
    Transaction,
    Update,
    Wait,
    equal,
    row_id,
    wait_for,
    wait_for_none,
)

WATCHED = (
    *(WatchedTable(table, tuple(TABLES[table].columns)) for table in (*DESIRED, *LAID)),
    WatchedTable(LEASE_TABLE, LEASE_COLUMNS),
    WatchedTable("Switch_State", ("switch", "cluster", "in_force")),
    WatchedTable("Change", ("number",)),
)
KEPT_CHANGES = 100
"""How many changes are kept for people to look at."""
NOTHING = Network("", {}, {}, {}, {}, {})


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change that can be made.

    number       its number; 0 where there is nothing to change
    uuid         its row's, by which it is known again where the outcome is not known
    transaction  what is to be written
    """

    number: int
    uuid: str
    network: Network
    difference: NetworkDifference
    transaction: Transaction


class Book:
    """The rows, as the watch has told them."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, StoreRow]] = {}
        self._network: Network | None = None
        self.whole = False
        """Whether everything has been told."""

    def hear(self, event: WholeView | RowChanges) -> None:
        """The watch has told something."""
        if isinstance(event, WholeView):
            self._rows = {table: dict(rows) for table, rows in event.rows.items()}
            self._network = None
            self.whole = True
            return
        for change in event.changes:
            rows = self._rows.setdefault(change.table, {})
            if change.after is None:
                rows.pop(change.uuid, None)
            else:
                rows[change.uuid] = change.after
            if change.table in (*DESIRED, *LAID):
                self._network = None

    def _of(self, tables: tuple[str, ...]) -> StoredRows:
        return {table: self._rows.get(table, {}) for table in tables}

    @property
    def lease(self) -> StoreRow | None:
        """The row of the planner's own lease."""
        rows = self._rows.get(LEASE_TABLE, {}).values()
        return next((row for row in rows if row["name"] == "planner"), None)

    @property
    def change(self) -> int:
        """The number of the last change; 0 while the store is empty."""
        return next((_whole(row["change"]) for row in self._rows.get("Global", {}).values()), 0)

    def has(self, change_uuid: str) -> bool:
        """Whether a change has been written."""
        return change_uuid in self._rows.get("Change", {})

    @property
    def network(self) -> Network:
        """The network that the switches shall be; an empty one while the store is empty."""
        if self._network is None:
            found = laid_entries(by_name(self._of(LAID)), NOTHING)
            name = next((str(row["name"]) for row in self._rows.get("Global", {}).values()), "")
            parts = (found.controllers, found.datapaths, found.cables, found.links, found.routers)
            self._network = Network(name, *parts)
        return self._network

    def propose(self, text: str, file: str, by: str, fence: Wait) -> Proposal:
        """The change by which the network becomes what a network file says.

        text   the file's; `file` is its name in messages
        by     who asks

        Raises NetworkError with each reason on a line.
        """
        before, first = self.network, self.change == 0
        after = network_file.parse(text, file, None if first else before)[0]
        after = after if first else in_terms_of(before, after)
        found = compare(before, after)
        if not first:
            mistakes = [*refusals(before, after, found), *self._not_forgotten(after, found)]
            if mistakes:
                raise NetworkError("\n".join(mistakes))
        if not first and not found:
            return Proposal(0, "", after, found, ())
        number = self.change + 1
        wanted = operations(self._of(DESIRED), desired(after, number))
        ledger = Insert(
            "Change",
            {
                "number": number,
                "by": by,
                "before": "" if first else self._said(wanted, after=False),
                "after": "" if first else self._said(wanted, after=True),
                "state": "laid",
            },
        )
        transaction = (
            fence,
            wait_for_none("Global", ()) if first else wait_for("Global", (), change=self.change),
            ledger,
            *(Delete("Change", row_id(uuid)) for uuid in self._old_changes(number)),
            *wanted,
            *operations(self._of(LAID), laid(after), bury=number),
        )
        return Proposal(number, ledger.uuid, after, found, transaction)

    def _not_forgotten(self, after: Network, found: NetworkDifference) -> Iterator[str]:
        """Ids, and labels, of what has gone, while a switch may have flows of it."""
        buried = [(row, table) for table in LAID for row in self._tombs(table).values()]
        for kind, table in (("links", "Laid_Link"), ("routers", "Laid_Element")):
            for name in getattr(found, kind).added:
                new = getattr(after, kind)[name]
                for row in (row for row, where in buried if where == table):
                    labels = json.loads(str(row["labels"])) if kind == "links" else []
                    if row["name"] != name and row["id"] == new.id:
                        yield f"{kind}.{name}: id {new.id} was {row['name']}'s, {_WAIT}"
                    elif row["name"] != name and kind == "links" and new.vlan in labels:
                        yield f"{kind}.{name}: vlan {new.vlan} was {row['name']}'s, {_WAIT}"

    def _tombs(self, table: str) -> dict[str, StoreRow]:
        return {uuid: row for uuid, row in self._rows.get(table, {}).items() if row["gone"]}

    def forget(self, fence: Wait, cluster: str) -> Transaction:
        """What is to be written for tombstones to go, where every switch that there still is has
        done what they say, and what was seen of switches that are no more; () where there is
        nothing of the kind.  Not only those in `at`: every controller has the whole network, and
        one that was away and finds no tombstone would keep for ever what has gone."""
        reached = {
            row["switch"]: _whole(row["in_force"])
            for row in self._rows.get("Switch_State", {}).values()
            if row["cluster"] == cluster
        }
        there = {r["name"] for r in self._rows.get("Laid_Switch", {}).values() if not r["gone"]}
        by_all = min((reached.get(switch, 0) for switch in there), default=0)
        found: list[Operation] = []
        for table in LAID:
            for uuid, row in self._tombs(table).items():
                change = _whole(row["change"])
                if change <= by_all:
                    still = (*row_id(uuid), *equal(gone=True, change=change))
                    found.append(Delete(table, still))
        known = {row["name"] for row in self._rows.get("Laid_Switch", {}).values()}
        for uuid, row in self._rows.get("Switch_State", {}).items():
            if row["switch"] not in known:
                found.append(Delete("Switch_State", row_id(uuid)))
        return (fence, *found) if found else ()

    def _old_changes(self, number: int) -> list[str]:
        rows = self._rows.get("Change", {}).items()
        return [uuid for uuid, row in rows if _whole(row["number"]) <= number - KEPT_CHANGES]

    def _said(self, wanted: list[Operation], after: bool) -> str:
        """The desired rows that a change writes, or those it replaces, by table."""
        found: dict[str, list[dict[str, Any]]] = {}
        for one in wanted:
            row: Mapping[str, Cell] | None = None
            if after and isinstance(one, Insert | Update):
                row = one.row
            elif not after and isinstance(one, Update | Delete):
                row = self._rows[one.table][str(one.where[0].value)]
            if row is not None and one.table != "Global":
                found.setdefault(one.table, []).append({k: _plain(v) for k, v in row.items()})
        return json.dumps(found, separators=(",", ":"))


_WAIT = "and not all switches have forgotten it yet: apply it again when they have"


def _whole(cell: Cell) -> int:
    assert isinstance(cell, int)
    return cell


def _plain(cell: Cell) -> Any:
    return sorted(cell, key=str) if isinstance(cell, frozenset) else cell
