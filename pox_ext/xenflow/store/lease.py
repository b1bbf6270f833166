"""The right to do one thing, held by one process at a time, with no clock that two must agree on.

A row of the table `Lease` names owner and term; its beat grows while the owner lives.  A contender
takes the lease over (term + 1) where owner, term and beat have stood still for the time to live, by
its own monotonic clock since it first saw them.  Every change is a compare-and-set on all three, so
of several contenders one wins, and one whose watch is late finds the owner alive.  Who was not
written rests a little, unless the watch says meanwhile that something has changed.

What the owner writes carries `fence`, a wait for owner and term: after a takeover it is refused.
(OVSDB's own `lock`, RFC 7047, 4.1.8, is held by one client at *each* server.)

Pure: it is told rows, outcomes and the time, and says what to write.  The owner's name must be a
new one at each start, or a process would take the lease of its former life for its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from xenflow.store.columns import Cell
from xenflow.store.transaction import (
    Committed,
    Insert,
    StoreRow,
    Transaction,
    Update,
    Wait,
    WriteOutcome,
    WriteRefused,
    equal,
    wait_for,
)

LEASE_TABLE = "Lease"
LEASE_COLUMNS = ("name", "owner", "term", "beat")
"""What is to be watched of the table."""
BEATS_PER_LIFE = 3
"""How often the owner beats in a time to live."""
RESTS_PER_LIFE = 10
"""How often in a time to live it is tried again where every try is refused at once."""


class LeaseNotHeldError(RuntimeError):
    """A fence was asked for by who does not hold the lease."""


@dataclass(frozen=True, slots=True)
class _Standing:
    """What a lease's row says."""

    owner: str = ""
    term: int = 0
    beat: int = 0
    exists: bool = False

    @property
    def age(self) -> tuple[int, int]:
        """Grows with every change, as long as the row is not deleted."""
        return self.term, self.beat

    @property
    def cells(self) -> dict[str, Cell]:
        return {"owner": self.owner, "term": self.term, "beat": self.beat}


class LeaseContender:
    """One process's part in one lease.  Times are seconds of its own monotonic clock."""

    def __init__(self, name: str, owner: str, ttl_s: float) -> None:
        self.name = name
        self.owner = owner
        self._ttl_s = ttl_s
        self._standing: _Standing | None = None
        self._watched = _Standing()
        """What the watch said last."""
        self._since = self._rest_until = 0.0
        self._sent: tuple[_Standing, float] | None = None
        self._beaten = 0.0
        self._ahead = False
        """Whether what is known was written here, and the watch has not said it yet."""

    def row_is(self, row: StoreRow | None, now: float) -> None:
        """The lease's row, whenever the watch says it; None: there is none."""
        standing = _Standing()
        if row is not None:
            owner, term, beat = str(row["owner"]), row["term"], row["beat"]
            assert isinstance(term, int)
            assert isinstance(beat, int)
            standing = _Standing(owner, term, beat, exists=True)
        self._watched = standing
        known = self._standing
        if self._ahead and known is not None and standing.age < known.age:
            return
        self._ahead = False
        self._stands(standing, now)

    def holds(self, now: float) -> bool:
        """Whether it is the owner, as far as can be known here: its last beat that was written was
        sent less than a time to live ago.  What must not be done twice needs `fence` besides."""
        return self._mine() is not None and now < self._beaten + self._ttl_s

    def turn(self, now: float) -> Transaction:
        """What to write now; nothing while it is another's turn, an outcome is awaited, or the last
        was not `Committed` just now."""
        standing = self._standing
        if standing is None or self._sent is not None or now < self._rest_until:
            return ()
        if standing.owner == self.owner:
            if now < self._beaten + self._ttl_s / BEATS_PER_LIFE:
                return ()
            return self._propose(standing, standing.term, now)
        if standing.owner and now < self._since + self._ttl_s:
            return ()
        return self._propose(standing, standing.term + 1, now)

    def answered(self, outcome: WriteOutcome, now: float) -> None:
        """What came of what `turn` said."""
        assert self._sent is not None
        (proposed, sent), self._sent = self._sent, None
        if isinstance(outcome, Committed):
            self._beaten = sent
            self._ahead = self._watched.age < proposed.age
            self._stands(proposed if self._ahead else self._watched, now)
            return
        if isinstance(outcome, WriteRefused):  # what was known is not so
            self._ahead = False
            self._stands(self._watched, now)
        # The watch says how it stands; until then it has not stood still.
        self._since = now
        self._rest_until = now + self._ttl_s / RESTS_PER_LIFE

    def fence(self) -> Wait:
        """What a transaction begins with that only the owner may write.

        Raises LeaseNotHeldError where another, or nobody, is the owner as far as is known.
        """
        mine = self._mine()
        if mine is None:
            raise LeaseNotHeldError(f"{self.owner} does not hold the lease {self.name}")
        return wait_for(LEASE_TABLE, equal(name=self.name), owner=mine.owner, term=mine.term)

    def give_back(self) -> Transaction:
        """What to write so that another can take the lease at once.

        Raises LeaseNotHeldError as `fence` does.
        """
        free = Update(LEASE_TABLE, equal(name=self.name), {"owner": ""})
        return (self.fence(), free)

    def _mine(self) -> _Standing | None:
        standing = self._standing
        return standing if standing is not None and standing.owner == self.owner else None

    def _stands(self, standing: _Standing, now: float) -> None:
        if standing != self._standing:
            self._standing, self._since = standing, now
            self._rest_until = now

    def _propose(self, standing: _Standing, term: int, now: float) -> Transaction:
        proposed = _Standing(self.owner, term, standing.beat + 1, exists=True)
        self._sent = (proposed, now)
        if not standing.exists:
            return (Insert(LEASE_TABLE, {"name": self.name, **proposed.cells}),)
        where = equal(name=self.name)
        unchanged = wait_for(LEASE_TABLE, where, **standing.cells)
        return (unchanged, Update(LEASE_TABLE, where, proposed.cells))
