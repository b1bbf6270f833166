"""A controller follows the store: it does what laid rows say, and writes how far its switches are.

It watches what concerns its own switches (`own_rows`), and follows the highest number of a change
in it: of what concerns others alone it does not hear.  Rows go to the disk first, then to the Rule
Table, as a network file that was read anew does; once all of it is in force on a switch, the
switch's row of `Switch_State` says so.  Without the store everything goes on, and the last rows are
followed.  What cannot be taken now is tried again.

What a router that is being moved needs stays as it was until the move has ended (`model.holding`),
here and on the disk; the rest is taken.  A switch's row says only what is wholly in force: so
nothing is forgotten, or given to somebody else, of which a switch may have flows that are held.

Called by `component`.  No POX and no socket here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from xenflow.control import observed
from xenflow.control.leases import Leases
from xenflow.control.observed import ObservedRows
from xenflow.control.rule_table import RuleTable
from xenflow.model.difference import NetworkDifference
from xenflow.model.holding import NOTHING, HeldBack, clashes, held_back
from xenflow.model.network import Network, NetworkError
from xenflow.model.placement import Placement, newest_each
from xenflow.model.release import RELEASE
from xenflow.model.succession import changed_with, others_by_name
from xenflow.plan.search import STORE
from xenflow.store import held_rows, own_rows, placement_rows
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
from xenflow.store.own_rows import OwnRows
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


@dataclass(frozen=True, slots=True)
class _Step:
    """What laid rows have a controller keep and take.

    rows     what is to be kept
    own      those of them that make its network
    network  that, with the routers that are stopped
    held     what of the laid rows is not in it yet
    digest   of the network with that; "" where nothing is held
    wrong    why nothing is to be taken
    """

    rows: LaidRows
    own: NamedRows
    network: Network
    held: HeldBack = NOTHING
    digest: str = ""
    wrong: str = ""


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
        self._laid = replace(laid or LaidRows(), host=host)
        self._kept = self._laid
        """What is on the disk."""
        self._taken = self._reached = self._laid
        """What the Rule Table is at; and what it is at but for what is held."""
        self._is = self._laid
        """The rows that it is at, those of before among them where they are held."""
        self._read: NamedRows = {}
        """Those of them that make its network."""
        self._whole: Network | None = None
        """That network, with the routers that are stopped."""
        self._held = NOTHING
        self._moves: dict[str, bool] = {}
        """The moves for which that is held."""
        self._digest = ""
        """Of the network that is laid, where something of it is held."""
        self._rows: Rows = {}
        self._watched: frozenset[str] = frozenset()
        """The switches that the watch is for."""
        self._end_watch: Callable[[], None] = lambda: None
        self._heard = self._older = False
        """Whether the store has said what it has; and whether that is an older copy."""
        self._in_force: dict[str, int] = {}
        self._but_held: dict[str, int] = {}
        """The same, but for what is held."""
        self._asked: dict[str, tuple[int, int]] = {}
        """Switches that are asked whether what is taken, and reached, is in force."""
        self._fenced = False
        """Whether the network has this host no more, or not yet."""
        self._half_done = False
        """Whether a change has failed half way: tried again it would seem to be done."""
        self._leases = leases
        self._observed = ObservedRows(store, host, self._seen, lambda: self._rows, self._no_right)
        self._again = 0.0
        self._now = 0.0
        self._beat: tuple[Cell, Cell] | None = None
        self._beat_at = 0.0
        """The planner's last beat, and when it came."""

    def start(self) -> None:
        """Begin to follow."""
        if self._laid.change:
            self._fenced = self._is_fenced(self._laid)
        if self._file.ahead is not None:  # which `tick` follows
            self._laid = self._file.ahead = replace(self._file.ahead, host=self._host)
        self._watch(self._own_switches(self._laid.rows) or frozenset(self._table.switches))

    def _watch(self, switches: frozenset[str]) -> None:
        self._end_watch()
        self._watched = switches
        tables = (
            *own_rows.watched(self._host, switches),
            *observed.watched(self._host),
            WatchedTable(LEASE_TABLE, LEASE_COLUMNS, equal(name="planner")),
            WatchedTable("Global", ("name",)),
        )
        self._end_watch = self._store.watch(tables, WATCH_S, self._told)

    def _own_switches(self, rows: NamedRows) -> frozenset[str]:
        there = rows.get("Laid_Switch", {}).values()
        return frozenset(
            str(row["name"]) for row in there if row["host"] == self._host and not row["gone"]
        )

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
            "older": self._older,
            "fenced": self._fenced,
            "planner": self.planner,
            "planner_silent_s": round(self._now - self._beat_at, 1) if self.planner else None,
            "change": self._laid.change,
            "taken": self._taken.change,
            "in_force": {name: self._in_force.get(name, 0) for name in self._table.switches},
            "reached": self._reached.change,
            "but_held": {name: self._but_held.get(name, 0) for name in self._table.switches},
            "held": self._held.json(),
        }

    @property
    def digest(self) -> str:
        """Of the network that the store has for this host, where that waits for a move; ""."""
        return self._digest

    def network(self, rows: bool) -> dict[str, Any]:
        """What is on the disk, or is to be once nothing is held, with the laid rows or without:
        docs/messages.md, verb `network`."""
        kept = self._laid if self._held else self._kept
        return {**to_json(kept if rows else replace(kept, rows={})), "planner": self.planner}

    # --- what the store says ------------------------------------------------------------------

    def _told(self, event: WatchEvent) -> None:
        if isinstance(event, ViewOverdue):
            return  # `tick` says that it is away
        self._heard = True
        self._rows = told(self._rows, event)
        if not touches(event, ("Global", "Switch_State", *LAID)):
            return
        view = by_name({table: self._rows.get(table, {}) for table in LAID})
        if more := self._own_switches(view) - self._watched:  # what concerns these is not told yet
            self._watch(self._watched | more)
            return
        cluster = self._store.state().cluster
        empty = not self._rows.get("Global")
        if empty or self._is_older(view, cluster):
            return
        self._see(cluster)
        self._search()
        self._laid = self._joined(view, cluster)
        if not self._is_done():
            self._follow()

    def _is_done(self) -> bool:
        """Whether nothing is to be taken, or what is held is held for the same moves still."""
        same = not self._held or self._leases.moves() == self._moves
        return self._reached is self._laid and same

    def _joined(self, view: NamedRows, cluster: str) -> LaidRows:
        """What the store has; and of what it was known to have, and has no more, what this host's
        network is still made of: only a row that says so takes something away.  What was there
        while this host was not in the network goes: tombstones went without it."""
        old = self._laid
        states = self._own_states(cluster)
        rows = {
            table: {key: _known(old.rows.get(table, {}).get(key), row) for key, row in of.items()}
            for table, of in view.items()
        }
        if self._taken.change and states:
            left = {
                table: {k: r for k, r in known.items() if k not in rows[table] and not r["gone"]}
                for table, known in old.rows.items()
            }
            if any(left.values()):
                own = self._own({table: {**left.get(table, {}), **rows[table]} for table in LAID})
                for table, missing in left.items():
                    rows[table] |= {k: row for k, row in missing.items() if k in own[table]}
        numbers = [_number(row["change"]) for of in rows.values() for row in of.values()]
        numbers += [_number(row["in_force"]) for row in states.values()]
        if cluster == old.cluster:
            numbers.append(old.change)
        made = LaidRows(cluster, max(numbers, default=0), rows, self._host)
        return old if _says_the_same(old, made) else made

    def _own(self, rows: NamedRows) -> NamedRows:
        """Those that make this host's network; all, where one cannot be read."""
        try:
            return OwnRows(rows).of(self._host)
        except NetworkError:  # which is said once it is followed
            return rows

    def _search(self) -> None:
        """Where this host has lost where routers are, the store's word counts as another's."""
        if not self._table.searching():
            return
        self._table.told_where(STORE, self._places().values(), knows=True)

    def _places(self) -> dict[str, Placement]:
        """Where routers are, by the store."""
        tables = [self._rows.get(name, {}) for name in ("Laid_Element", "Placement")]
        cells = [row["placement"] for rows in tables for row in rows.values()]
        return newest_each(placement_rows.read(cells, self._table.network))

    def _is_older(self, view: NamedRows, cluster: str) -> bool:
        """Whether the store is behind what was followed, as one is that was put back from a copy:
        its numbers mean other changes then.  A row gives it away that is of an earlier change than
        it was, or what it says is in force here."""
        followed = cluster == self._laid.cluster
        words = next(self._earlier(view, cluster), "") if followed else ""
        if words:
            words = (
                f"{words}: it is an older copy, and not followed; move {self._file.path} away and "
                "restart, and it is"
            )
        self._problem(OLDER, words)
        self._older = bool(words)
        return self._older

    def _earlier(self, view: NamedRows, cluster: str) -> Iterator[str]:
        """What the store has as of an earlier change than it had."""
        for table, rows in view.items():
            followed = self._laid.rows.get(table, {})
            for key, row in rows.items():
                known = followed.get(key)
                if known is not None and _number(known["change"]) > _number(row["change"]):
                    yield (
                        f"the store has {table} {row['name']} as of change {row['change']}, and a "
                        "later change of it was followed"
                    )
        states = self._own_states(cluster)
        for name, seen in self._file.seen.items():
            laid = view["Laid_Switch"].get((name,))
            state = states.get(name)
            if state is None and (laid is None or _number(laid["change"]) > seen):
                continue  # it was not in the network for some time
            reached = 0 if state is None else _number(state["in_force"])
            if reached < seen:
                yield (
                    f"the store has change {reached} as the last one in force at {name}, and had "
                    f"change {seen}"
                )

    def _see(self, cluster: str) -> None:
        """Keep what the store has as in force here: an older copy has less."""
        states = self._own_states(cluster)
        seen = {str(name): _number(row["in_force"]) for name, row in states.items()}
        if seen != self._file.seen:
            try:
                self._file.see(seen)
            except StateError as error:
                log.warning("%s", error)

    def _follow(self) -> None:
        """Where the rows make a network keep them, then let the network be it.  What is held is not
        taken, and is kept as that."""
        laid, moves = self._laid, self._leases.moves()
        not_taken = f"change {laid.change} of the store is not taken"
        try:
            if fenced := self._is_fenced(laid):
                step = _Step(laid, {}, self._table.network.only(self._host))
            else:
                step = self._step(laid, moves)
        except NetworkError as error:  # nor are they kept: nobody could start from them
            self._problem(TAKING, f"{not_taken}: {error}")
            return
        network, held, ahead = step.network, step.held, laid if step.held else None
        if self._file.ahead is not ahead or not _says_the_same(self._kept, step.rows):
            try:
                self._file.keep(step.rows, ahead)
            except StateError as error:
                self._problem(KEEPING, f"{error}: change {laid.change} waits")
                return
            self._problem(KEEPING, self._file.doubt)
        self._kept = step.rows
        if held and held != self._held:
            log.info("change %d of the store: %s", laid.change, held.words())
        self._held, self._digest = held, step.digest
        if step.wrong:
            self._problem(TAKING, f"{not_taken}: {step.wrong}")
            return
        if self._half_done:
            return
        try:
            anew = others_by_name(self._table.network, network.active)
            self._leases.keep_only(network.active.routers.keys() - anew)
            if self._fenced and not fenced:
                self._leave(network)
            if anew:
                # Those that had their names, which went while this was away, go first.
                self._become(changed_with(network, routers=dict.fromkeys(anew)))
            found = self._become(network)
            if found.routers.added:  # which may be elsewhere than at home
                places = self._places()
                come = (places[name] for name in found.routers.added if name in places)
                self._table.believe(STORE, come)
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
        self._reached, self._moves = laid, moves
        self._is, self._read, self._whole = step.rows, step.own, network
        if not held:
            self._taken = laid
        self._fenced = fenced
        self._problem(TAKING, "")
        self._ask_switches()

    def _leave(self, network: Network) -> None:
        """What this host had under names that are others' in the network that takes it in again
        goes first, as another machine has another datapath id."""
        own = self._table.network
        same = {
            name: one for name, one in own.datapaths.items() if network.datapaths.get(name) == one
        }
        if same != own.datapaths:
            self._become(replace(own, datapaths=same))

    def _step(self, laid: LaidRows, moves: Mapping[str, bool]) -> _Step:
        """What is to be kept and taken of laid rows while these moves last; nothing new, where the
        rest does not fit with what is held.  Raises NetworkError where they make no network."""
        own, network = self._network_of(laid.rows)
        stay = network.active.routers.keys() - others_by_name(self._table.network, network.active)
        # What was left of others is dropped (`Leases.keep_only`).
        moved = {name for name, under_way in moves.items() if under_way or name in stay}
        held = held_back(self._before(), network, moved) if moved else NOTHING
        if not held:
            return _Step(laid, own, network)
        digest, rows = network.active.digest, held_rows.mixed(self._is.rows, laid.rows, held.names)
        wrong = "" if self._is.rows else "it is of the network file, which no row is"
        try:
            own, network = self._network_of(rows)
            wrong = wrong or "; ".join(clashes(network))
            if held_back(self._before(), network, moved):
                wrong = wrong or "no switch here would be concerned by it any more"
        except NetworkError as error:
            wrong = wrong or str(error)
        if wrong:
            wrong = f"{held.words()}, and the rest does not fit with that: {wrong}"
            return _Step(self._is, self._read, self._before(), held, digest, wrong)
        less = LaidRows(laid.cluster, self._taken.change, rows, laid.host)
        return _Step(less, own, network, held, digest)

    def _network_of(self, rows: NamedRows) -> tuple[NamedRows, Network]:
        """Of rows those of this host, and its network.  Raises NetworkError."""
        own = OwnRows(rows).of(self._host, before=self._read)
        # What the file says beside the rows counts no more.
        before, read = self._table.network, self._read
        return own, laid_entries(own, before, alone=True, read=read)

    def _before(self) -> Network:
        """What the Rule Table is, with the routers that are stopped."""
        if self._whole is None:
            self._whole = self._table.network
            with suppress(NetworkError):  # where it started without this host in them
                if self._is.rows:
                    _, self._whole = self._network_of(self._is.rows)
        return self._whole

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
            numbers = self._taken.change, self._reached.change
            known = self._in_force.get(name, 0), self._but_held.get(name, 0)
            behind = known[0] < numbers[0] or known[1] < numbers[1]
            if behind and (switch.live or switch.left_out) and self._asked.get(name) != numbers:
                self._asked[name] = numbers
                proven = partial(self._proven, name, numbers)
                switch.promises.in_force(proven, but_left_out=True)

    def _proven(self, name: str, numbers: tuple[int, int], error: str | None) -> None:
        if self._asked.get(name) == numbers:
            del self._asked[name]
        if error is None:
            for known, number in zip((self._in_force, self._but_held), numbers, strict=True):
                known[name] = max(number, known.get(name, 0))
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
        if not self._is_done():
            self._follow()
        self._ask_switches()
        self._write()

    def _write(self) -> None:
        """Have the store say what was seen here."""
        if self._laid.cluster and self._heard:
            self._observed.write()

    def _seen(self) -> Iterator[tuple[str, StoreRow]]:
        laid = self._laid.rows.get("Laid_Switch", {}).values()
        switches = self._table.switches.keys() & {row["name"] for row in laid if not row["gone"]}
        known = switches & self._in_force.keys() if not self._older else set()
        for name in known:
            yield (
                "Switch_State",
                {
                    "switch": name,
                    "cluster": self._laid.cluster,
                    "in_force": self._in_force[name],
                    "left_out": self._table.switches[name].left_out,
                    "release": RELEASE,
                },
            )
        for row in self._rows.get("Switch_State", {}).values():
            if row["switch"] in switches - known:
                yield "Switch_State", row  # of before this start, or of others' numbers
        placed = [p for s in self._table.switches.values() for p in s.placements.values()]
        there = [row["placement"] for row in self._rows.get("Placement", {}).values()]
        yield from observed.placements(self._table.network, placed, there)
        yield from observed.migrations(self._leases)


def _known(old: StoreRow | None, row: StoreRow) -> StoreRow:
    """A row; the one that was known where nothing that is to be followed is another."""
    if old is None or any(old.get(c) != cell for c, cell in row.items() if c != "placement"):
        return row
    return old


def _says_the_same(old: LaidRows, new: LaidRows) -> bool:
    """Whether no row is another object."""
    return (new.cluster, new.change) == (old.cluster, old.change) and all(
        of.keys() == (known := old.rows.get(table, {})).keys()
        and all(row is known[key] for key, row in of.items())
        for table, of in new.rows.items()
    )


def _number(cell: Cell) -> int:
    return cell if isinstance(cell, int) else 0
