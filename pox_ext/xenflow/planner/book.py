"""What the planner knows of the store, and what it writes for a change.  Pure.

A change is one transaction: the desired rows, the laid rows, and the row of the change itself.  It
carries a wait for the number of the change before, so that of two at once one is refused, and the
lease's fence.  Only what is safe in whatever order the switches take it is taken: what
`model.difference.refusals` lets pass.  Called by `service`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from xenflow.model.difference import NetworkDifference, compare, kinds_in_words, refusals
from xenflow.model.network import EMPTY, PARTS, Network, NetworkError, Router
from xenflow.model.placement import Placement, newest_each
from xenflow.model.succession import in_terms_of
from xenflow.plan.laying import grown
from xenflow.planner import events
from xenflow.store import network_file, placement_rows
from xenflow.store.columns import Cell
from xenflow.store.filling import Gone
from xenflow.store.laid_file import LaidRows
from xenflow.store.lease import LEASE_COLUMNS, LEASE_TABLE
from xenflow.store.network_rows import (
    DESIRED,
    LAID,
    Key,
    NamedRows,
    StoredRows,
    by_name,
    concerned,
    desired,
    key_of,
    laid,
    laid_entries,
    operations,
)
from xenflow.store.network_store import (
    RowChanges,
    Rows,
    WatchedTable,
    WholeView,
    told,
    touches,
)
from xenflow.store.network_text import to_text
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
    WatchedTable("Placement", ("host", "placement")),
    WatchedTable("Migration", ("host", "element", "owner", "term", "under_way", "words")),
    WatchedTable(events.TABLE, events.COLUMNS),
    WatchedTable("Change", ("number", "by", "when", "before", "after", "confirm_s", "state")),
)
KEPT_CHANGES = 100
"""How many changes are kept for people to look at."""
NAMED_CHANGES = 3
"""How many of them are told to who has looked before they were made."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change that can be made.

    number       its number; 0 where there is nothing to change
    concerns     by switch the last change that it is to have in force: this one, if it concerns it
    uuid         its row's, by which it is known again where the outcome is not known
    transaction  what is to be written
    """

    number: int
    uuid: str
    network: Network
    difference: NetworkDifference
    concerns: Mapping[str, int]
    transaction: Transaction


class Book:
    """The rows, as the watch has told them."""

    def __init__(self) -> None:
        self._rows: Rows = {}
        self._network: Network | None = None
        self._read: tuple[Network, NamedRows] = EMPTY, {}
        """The last one, and the rows that it was read from."""
        self._concerned: Mapping[str, Mapping[str, frozenset[str]]] = {}
        """Of that network, once it was asked for."""
        self.whole = False
        """Whether everything has been told."""
        self.may_forget = False
        """Whether something was told since by which there may be something to forget."""
        self.may_copy = False
        """The same of placements that are to be copied."""

    def hear(self, event: WholeView | RowChanges) -> None:
        """The watch has told something."""
        self._rows = told(self._rows, event)
        self.whole = True
        if touches(event, (*DESIRED, *LAID)):
            self._network = None
            self._concerned = {}
        if touches(event, (*LAID, "Switch_State")):
            self.may_forget = True
        if touches(event, ("Laid_Element", "Placement", "Migration")):
            self.may_copy = True

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

    @property
    def events(self) -> Mapping[str, StoreRow]:
        """The events that are kept."""
        return self._rows.get(events.TABLE, {})

    def has(self, change_uuid: str) -> bool:
        """Whether a change has been written."""
        return change_uuid in self._rows.get("Change", {})

    @property
    def network(self) -> Network:
        """The network that the switches shall be; an empty one while the store is empty."""
        if self._network is None:
            before, read = self._read
            rows = by_name(self._of(LAID))
            found = laid_entries(rows, before, alone=True, read=read)
            name = next((str(row["name"]) for row in self._rows.get("Global", {}).values()), "")
            self._network = found if found.name == name else replace(found, name=name)
            self._read = self._network, rows
        return self._network

    def propose(
        self,
        text: str,
        file: str,
        by: str,
        when: int,
        fence: Wait,
        confirm_s: int = 0,
        put_back: bool = False,
        cluster: str = "",
    ) -> Proposal:
        """The change by which the network becomes what a network file says.

        text       the file's; `file` is its name in messages
        by         who asks
        when       it is now, in seconds since 1970
        confirm_s  it is put back unless it is confirmed within so many seconds; 0: it stays
        put_back   the last change was not confirmed; else, where it waits for that, a change after
                   it is as good
        cluster    the store's id; "": not known

        Raises NetworkError with each reason on a line.
        """
        before, first = self.network, self.change == 0
        if first and confirm_s:
            raise NetworkError(
                f"{file}: the first network cannot be put back, before it there is nothing: apply "
                "it without --confirm"
            )
        placed = {name: placement.hosts for name, placement in self.placements.items()}
        buried = [*self._buried(cluster)]
        after, _ = network_file.parse(
            text,
            file,
            None if first else before,
            in_store=True,
            placed=placed,
            gone=self._gone(buried),
        )
        after = after if first else in_terms_of(before, _started(before, after, self.change + 1))
        found = compare(before, after)
        if not first:
            mistakes = [
                *refusals(before, after, found),
                *self._not_forgotten(after, found, buried),
                *self._in_use(after, found),
                *self._not_reported(cluster, found),
            ]
            if mistakes:
                raise NetworkError("\n".join(mistakes))
        if not first and not found:
            return Proposal(0, "", after, found, self.concerns, ())
        number = self.change + 1
        wanted = laid(after)
        written = operations(self._of(LAID), wanted, bury=number)
        replaced, made = ({}, {}) if first else self._told_apart(written, wanted)
        ledger = Insert(
            "Change",
            {
                "number": number,
                "by": by,
                "when": when,
                "before": _text(replaced),
                "after": _text(made),
                "confirm_s": confirm_s,
                "state": "laid",
            },
        )
        ends = self.settled(fence, "put back" if put_back else "in force")
        transaction = (
            fence,
            wait_for_none("Global", ()) if first else wait_for("Global", (), change=self.change),
            ledger,
            *ends[1:],
            *(Delete("Change", row_id(uuid)) for uuid in self._old_changes(number, cluster)),
            *operations(self._of(DESIRED), desired(after, number)),
            *written,
        )
        told = {name for one in written for name in self._told_of(one) if name in after.datapaths}
        return Proposal(
            number, ledger.uuid, after, found, dict.fromkeys(sorted(told), number), transaction
        )

    def _told_of(self, written: Operation) -> frozenset[Any]:
        """The switches that a laid row which is written has something new for."""
        if isinstance(written, Insert):
            return _at(written.row)
        assert isinstance(written, Update)
        old = self._rows[written.table][str(written.where[0].value)]
        return _at({**old, **written.row}) if "change" in written.row else frozenset()

    def laid(self, cluster: str) -> LaidRows:
        """All that is laid; `cluster`: the store's id."""
        return LaidRows(cluster, self.change, by_name(self._of(LAID)))

    @property
    def concerns(self) -> Mapping[str, int]:
        """Of each switch that there is the number of the last change that concerned it."""
        found: dict[str, int] = dict.fromkeys(self._there, 0)
        for table in LAID:
            for row in self._rows.get(table, {}).values():
                for name in _at(row) & found.keys():
                    found[name] = max(found[name], _whole(row["change"]))
        return found

    def grown(self, router: str, host: str) -> str:
        """The text of a network file with a router's links leading to a host as well.

        Raises NetworkError where there is no such router, or host.
        """
        network = self.network
        if router not in network.routers:
            raise NetworkError(f"there is no router {router}")
        if host not in network.hosts:
            raise NetworkError(f"there is no host {host}")
        return to_text(grown(network, router, host))

    @property
    def unconfirmed(self) -> tuple[int, int] | None:
        """The number of the change that waits to be confirmed, and within how many seconds."""
        for row in self._rows.get("Change", {}).values():
            confirm_s = _whole(row["confirm_s"])
            if confirm_s and row["state"] == "laid":
                return _whole(row["number"]), confirm_s
        return None

    def settled(self, fence: Wait, state: str) -> Transaction:
        """What is to be written of the change that waits to be confirmed: "in force", or "put
        back"; () where none does."""
        if self.unconfirmed is None:
            return ()
        number, _ = self.unconfirmed
        still = equal(number=number, state="laid")
        return fence, Update("Change", still, {"state": state})

    def _not_forgotten(
        self, after: Network, found: NetworkDifference, buried: list[_Buried]
    ) -> Iterator[str]:
        """Ids, and labels, of what has gone, while a switch may have flows of it."""
        for kind, table in (("links", "Laid_Link"), ("routers", "Laid_Element")):
            for name in getattr(found, kind).added:
                new = getattr(after, kind)[name]
                for row in (row for where, _, row in buried if where == table):
                    if row["name"] != name and row["id"] == new.id:
                        yield f"{kind}.{name}: id {new.id} was {row['name']}'s, {_WAIT}"
        for name in (*found.links.added, *found.links.changed):
            link = after.links[name]
            for row in (row for where, _, row in buried if where == "Laid_Link"):
                apart = after.labels_by_switch and _reached(row).isdisjoint(link.tree.up)
                both = {*link.labels} & {*json.loads(str(row["labels"]))}
                if both and row["name"] != name and not apart:
                    yield f"links.{name}: vlan {min(both)} was {row['name']}'s, {_WAIT}"

    def _buried(self, cluster: str) -> Iterator[_Buried]:
        """Links and routers that have gone, while a switch may have flows of them."""
        for table in _NUMBERS:
            for row in self._tombs(table).values():
                yield table, str(row["name"]), row
        reached, named = self._reached(cluster), self._numbered()
        for change in self._rows.get("Change", {}).values():
            yield from _renumbered(change, named, reached)

    def _numbered(self) -> NamedRows:
        """Links and routers that there are, and that have gone, by table and name."""
        return {
            table: {(row["name"],): row for row in self._rows.get(table, {}).values()}
            for table in _NUMBERS
        }

    @staticmethod
    def _gone(buried: list[_Buried]) -> Gone:
        """What may be given to nobody yet."""
        labels = {}
        for table, name, row in buried:
            if table == "Laid_Link":
                with suppress(ValueError):  # a row by hand: who adds a link is told of it
                    labels[name] = json.loads(str(row["labels"])), _reached(row)
        routers = {name: _whole(row["id"]) for table, name, row in buried if table != "Laid_Link"}
        links = {name: _whole(row["id"]) for table, name, row in buried if table == "Laid_Link"}
        return Gone(routers, links, labels)

    def _not_reported(self, cluster: str, found: NetworkDifference) -> Iterator[str]:
        """Switches of which a store that was restored does not know what they have by now: nothing
        is made or removed that may be theirs."""
        concerned = (found.links, found.routers)
        if not cluster or not any(part.added or part.removed for part in concerned):
            return
        rows = self._rows.get("Switch_State", {}).values()
        other = {str(row["switch"]) for row in rows if row["cluster"] != cluster}
        if late := sorted(other & self.network.datapaths.keys()):
            yield (
                f"the store was restored, and not heard since is {', '.join(late)}: no link or "
                "router is made or removed before (docs/store.md); a host that is dead: `xenflow "
                "host remove HOST --lost`"
            )

    def _tombs(self, table: str) -> dict[str, StoreRow]:
        return {uuid: row for uuid, row in self._rows.get(table, {}).items() if row["gone"]}

    def forget(self, fence: Wait, cluster: str) -> Transaction:
        """What is to be written for tombstones to go, where every switch that they concern, and
        that there still is, has done what they say; for rows to concern no switch any more that
        knows as much; and for what was seen of switches that are no more; () where there is
        nothing of the kind."""
        reached = self._reached(cluster)
        found: list[Operation] = []
        if not self._concerned:
            self._concerned = concerned(self.network)
        known: dict[str, set[Cell]] = {}
        """Names by table, without what is forgotten now: what was seen of it goes with it."""
        for table in LAID:
            rows = self._rows.get(table, {})
            gone = {}
            for uuid, row in rows.items():
                still = (*row_id(uuid), *equal(gone=row["gone"], change=row["change"]))
                if row["gone"]:
                    if not _late(_at(row), row["change"], reached):
                        gone[uuid] = row
                        found.append(Delete(table, still))
                elif more := _at(row) - self._concerned[table][str(row["name"])]:
                    told = more - _late(more, row["change"], reached)
                    if told:
                        found.append(Update(table, still, {"at": _at(row) - told}))
            known[table] = {row["name"] for uuid, row in rows.items() if uuid not in gone}
        for uuid, row in self._rows.get("Switch_State", {}).items():
            if row["switch"] not in known["Laid_Switch"]:
                found.append(Delete("Switch_State", row_id(uuid)))
        for table in ("Placement", "Migration"):
            for uuid, row in self._rows.get(table, {}).items():
                if row["host"] not in known["Laid_Host"]:
                    found.append(Delete(table, row_id(uuid)))
        return (fence, *found) if found else ()

    def remembering(self, cluster: str) -> list[dict[str, Any]]:
        """The switches that may have flows of what has gone: docs/messages.md, verb `planner`."""
        reached = self._reached(cluster)
        names: dict[str, set[str]] = {}
        since: dict[str, int] = {}
        for _, name, row in self._buried(cluster):
            number = _whole(row["change"])
            for switch in _late(_at(row), number, reached):
                names.setdefault(switch, set()).add(name)
                since[switch] = min(number, since.get(switch, number))
        return [
            {"switch": switch, "since": since[switch], "names": sorted(names[switch])}
            for switch in sorted(names)
        ]

    def _reached(self, cluster: str) -> Mapping[Cell, int]:
        """Of each switch that there still is how far it is."""
        found: dict[Cell, int] = dict.fromkeys(self._there, 0)
        for row in self._rows.get("Switch_State", {}).values():
            if row["cluster"] == cluster and row["switch"] in found:
                found[row["switch"]] = _whole(row["in_force"])
        return found

    def in_force(self, cluster: str) -> Mapping[str, int]:
        """Of each switch that was ever heard, since it is there, the last change that it has in
        force."""
        rows = self._rows.get("Switch_State", {}).values()
        heard = {row["switch"] for row in rows}
        return {str(n): change for n, change in self._reached(cluster).items() if n in heard}

    @property
    def _there(self) -> list[str]:
        rows = self._rows.get("Laid_Switch", {}).values()
        return [str(row["name"]) for row in rows if not row["gone"]]

    # --- where routers are ------------------------------------------------------------------------

    def _cells(self, table: str) -> Iterator[Cell]:
        return (row["placement"] for row in self._rows.get(table, {}).values())

    @property
    def placements(self) -> Mapping[str, Placement]:
        """Where routers are that have ever left their homes, as far as any host has told."""
        cells = (*self._cells("Laid_Element"), *self._cells("Placement"))
        return newest_each(placement_rows.read(cells, self.network))

    @property
    def migrations(self) -> Mapping[str, tuple[StoreRow, ...]]:
        """Of routers that are being moved, or whose move was left unfinished, the rows of the hosts
        that know it."""
        found: dict[str, tuple[StoreRow, ...]] = {}
        for row in self._rows.get("Migration", {}).values():
            name = str(row["element"])
            found[name] = (*found.get(name, ()), row)
        return found

    def copied(self, fence: Wait) -> Transaction:
        """What is to be written for laid rows to say where routers are; () where they do.  While a
        router is being moved it is where it was: every step of it would go to every host."""
        placements, moving = self.placements, self.migrations
        found: list[Operation] = []
        for uuid, row in self._rows.get("Laid_Element", {}).items():
            name = str(row["name"])
            if row["gone"] or name not in placements or name in moving:
                continue
            cell = placement_rows.to_cell(placements[name], self.network.routers[name])
            if row["placement"] != cell:
                still = (*row_id(uuid), *equal(gone=False, id=row["id"]))
                found.append(Update("Laid_Element", still, {"placement": cell}))
        return (fence, *found) if found else ()

    def _in_use(self, after: Network, found: NetworkDifference) -> Iterator[str]:
        """Hosts that shall go while a router is there that stays."""
        for name, placement in self.placements.items():
            for host in placement.hosts:
                if name in after.routers and host in found.datapaths.removed:
                    there = f"{name} is there: `xenflow empty-host {host}` first"
                    yield f"datapaths.{host}: {there}"

    def _old_changes(self, number: int, cluster: str) -> list[str]:
        """Changes of which nobody needs to know any more; longer than for people those are kept
        that alone say what a switch may hold still."""
        reached, named = self._reached(cluster), self._numbered()
        return [
            uuid
            for uuid, row in self._rows.get("Change", {}).items()
            if _whole(row["number"]) <= number - KEPT_CHANGES
            and not any(_renumbered(row, named, reached))
        ]

    def _told_apart(self, written: list[Operation], wanted: NamedRows) -> tuple[_Entries, _Entries]:
        """Of the laid rows that are written what they were, and what they become."""
        before: _Entries = {}
        after: _Entries = {}
        for one in written:
            if isinstance(one, Insert):
                old, key = None, key_of(one.table, one.row)
            else:
                assert isinstance(one, Update)
                old = self._rows[one.table][str(one.where[0].value)]
                key = key_of(one.table, old)
            was, shall = _entry(one.table, old), _entry(one.table, wanted[one.table].get(key))
            if was != shall:  # else only who is concerned has changed
                before.setdefault(one.table, {})[str(key[0])] = was
                after.setdefault(one.table, {})[str(key[0])] = shall
        return before, after

    # --- what has been changed --------------------------------------------------------------------

    def history(self) -> list[dict[str, Any]]:
        """The changes that are kept, the last one first: docs/messages.md, verb `history`."""
        rows = self._rows.get("Change", {}).values()
        return [
            {
                "number": row["number"],
                "by": row["by"],
                "when": row["when"],
                "confirm_s": row["confirm_s"],
                "state": row["state"],
                "changed": _words(_entries(row["before"]), _entries(row["after"])),
            }
            for row in sorted(rows, key=lambda row: -_whole(row["number"]))[:KEPT_CHANGES]
        ]

    def words_since(self, number: int) -> str:
        """What others have changed after the change of that number, and who they are."""
        later = [one for one in self.history() if one["number"] > number]
        told = [
            ", ".join(
                (
                    f"change {one['number']} by {one['by'] or 'somebody'}",
                    *kinds_in_words(one["changed"]),
                )
            )
            for one in later[:NAMED_CHANGES]
        ]
        more = [f"and {len(later) - len(told)} before"] if len(later) > len(told) else []
        if not told and self.change > number:
            return f"change {self.change}, you looked at {number}"
        return "; ".join((*told, *more)) or "at the same time"

    def undone(self, number: int) -> str:
        """The text of a network file with one change undone; branches that links have grown since
        stay.

        Raises NetworkError where there is none of that number, or what it made has been changed
        since.
        """
        rows = self._rows.get("Change", {}).values()
        row = next((row for row in rows if row["number"] == number), None)
        if row is None:
            kept = sorted(_whole(row["number"]) for row in rows)[-KEPT_CHANGES:]
            words = f"those from {kept[0]} to {kept[-1]} are kept" if kept else "there is none yet"
            raise NetworkError(f"no change {number}: {words}")
        before, after = _entries(row["before"]), _entries(row["after"])
        if not after:
            raise NetworkError(f"change {number} was the first: before it there was nothing")
        now = by_name(self._of(LAID))
        rows_before: dict[str, dict[Key, StoreRow]] = {table: {} for table in after}
        for table, entries in after.items():
            for name, made in entries.items():
                here = _entry(table, now[table].get((name,)))
                try:
                    entry = _taken_back(before[table][name], made, here)
                except ValueError:
                    kind = PARTS[LAID.index(table)]
                    raise NetworkError(
                        f"change {number} cannot be undone: {kind}.{name} has been changed since: "
                        "undo that first, or apply a file that says what is wanted"
                    ) from None
                rows_before[table][name,] = _row(name, entry)
        return to_text(laid_entries(rows_before, self.network))


def _started(before: Network, after: Network, number: int) -> Network:
    """Each router says by which change it runs: this one, or the one that it did before."""

    def since(router: Router) -> int:
        old = before.routers.get(router.name)
        stays = old is not None and old.id == router.id and (old.running or not router.running)
        return old.started if old is not None and stays else number if router.running else 0

    routers = {n: replace(r, started=since(r)) for n, r in after.routers.items()}
    return replace(after, routers=routers)


_NUMBERS = {"Laid_Link": ("id", "labels"), "Laid_Element": ("id",)}
"""By table what is given again only once it is forgotten."""
_Buried = tuple[str, str, StoreRow]
"""Of what has gone the table, what it is called, and its row: `change`, with which it went; `at`,
who may have flows of it; id 0: it is its owner's still."""
_Entries = dict[str, dict[str, dict[str, Any] | None]]
"""Table, name, and what a laid row says beside `at`, `change` and `gone`; None: there is none."""


def _entry(table: str, row: StoreRow | None) -> dict[str, Any] | None:
    if row is None or row.get("gone"):
        return None
    stamps = ("at", "change", "gone", "placement")
    return {column: row[column] for column in TABLES[table].columns if column not in stamps}


def _row(name: str, entry: dict[str, Any] | None) -> StoreRow:
    return {"name": name, "gone": True} if entry is None else {**entry, "gone": False}


def _taken_back(
    was: dict[str, Any] | None, made: dict[str, Any] | None, now: dict[str, Any] | None
) -> dict[str, Any] | None:
    """What a laid row says now, with what a change has made of it taken back.

    Raises ValueError where that has been changed since.
    """
    if made is None or now is None:
        if made is not now:
            raise ValueError
        return was
    if was is None:
        if not all(now[c] == made[c] or _has_grown(c, made[c], now[c]) for c in made):
            raise ValueError
        return None
    back = {c: _cell_taken_back(c, was[c], made[c], now[c]) for c in made if was[c] != made[c]}
    return {**now, **back}


def _has_grown(column: str, made: Any, now: Any) -> bool:
    """Whether a cell of a laid link says no more than that it has got branches, or wishes for
    them."""
    if column not in ("tree", "wanted"):
        return False
    old, new = json.loads(made), json.loads(now)
    if column == "tree":
        return bool({**new, **old} == new)
    spans = [set(each.pop("span", ())) for each in (old, new)]
    return bool(old == new and spans[0] <= spans[1])


def _cell_taken_back(column: str, was: Any, made: Any, now: Any) -> Any:
    """The same of one cell.  What a link has grown since stays: branches, and what it wishes to
    reach."""
    if now == made:
        return was
    if column not in ("tree", "wanted"):
        raise ValueError
    old, new, here = map(json.loads, (was, made, now))
    if column == "tree":
        if not _has_grown(column, made, now):
            raise ValueError
        return json.dumps(old | {switch: here[switch] for switch in here.keys() - new.keys()})
    for key in (key for key in {*old, *new} if old.get(key) != new.get(key)):
        shall, added = old.get(key), []
        if here.get(key) != new.get(key):
            span = new.get(key) if key == "span" else None
            if span is None or not {*span} <= {*here.get(key, ())}:
                raise ValueError
            added = [name for name in here[key] if name not in span]
        here[key] = shall if shall is None or not added else [*shall, *added]
    return json.dumps({key: value for key, value in here.items() if value is not None})


def _text(entries: _Entries) -> str:
    return json.dumps(entries, separators=(",", ":"))


def _entries(cell: Cell) -> _Entries:
    found: _Entries = json.loads(str(cell))
    return found


def _words(before: _Entries, after: _Entries) -> dict[str, dict[str, list[str]]]:
    """As `NetworkDifference.json`."""
    found: dict[str, dict[str, list[str]]] = {}
    for part, table in zip(PARTS, LAID, strict=True):
        for name, entry in after.get(table, {}).items():
            old = before[table][name]
            way = "added" if old is None else "removed" if entry is None else "changed"
            found.setdefault(part, {}).setdefault(way, []).append(name)
    return found


def _at(row: StoreRow) -> frozenset[Any]:
    at = row["at"]
    assert isinstance(at, frozenset)
    return at


def _renumbered(
    change: StoreRow, named: NamedRows, reached: Mapping[Cell, int]
) -> Iterator[_Buried]:
    """Of links and routers that have other numbers now what they had before a change, while a
    switch has not come to it.  Where one has come back under its name the tombstone is no more."""
    before = _entries(change["before"])
    for table, keys in _NUMBERS.items():
        for name, old in before.get(table, {}).items():
            now = named[table].get((name,))
            if old is None or now is None:
                continue
            late = _late(_at(now), change["number"], reached)
            if late and any(old[key] != now[key] for key in keys):
                id = 0 if old["id"] == now["id"] else old["id"]
                as_of = f"{name} before change {change['number']}"
                seen = {"id": id, "change": change["number"], "at": late}
                yield table, as_of, {**old, **seen}


def _late(at: frozenset[Any], change: Cell, reached: Mapping[Cell, int]) -> frozenset[Any]:
    """Which of these switches, of those that there are, have not come to a change."""
    return frozenset(name for name in at & reached.keys() if reached[name] < _whole(change))


def _reached(link: StoreRow) -> frozenset[str]:
    """The switches on a laid link's tree."""
    return frozenset(json.loads(str(link["tree"])))


_WAIT = "and not all switches have forgotten it yet: apply it again when they have"


def _whole(cell: Cell) -> int:
    assert isinstance(cell, int)
    return cell
