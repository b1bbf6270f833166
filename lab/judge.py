"""How loss is judged, the same way by the demo, the soak and the tests.

A measurement is *invalid* where the same traffic without a move already loses (`TooBusyError` of
`ProbePair.baseline`): nothing can be said then, and it has not passed.  A migration has *failed*
where a packet was lost or arrived twice while it ran.  Reordering is reported and is no failure.

Every packet belongs to the move that began last before it was sent, so what is lost after a move
(an old path that lives too long) counts against that move.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

Record = tuple[int, int, int]
"""Sequence number, time sent, time received or 0; ns of CLOCK_MONOTONIC."""
RECORD = struct.Struct("<IQQ")
"""The same in a file."""


def records(sent: Sequence[int], arrivals: Iterable[tuple[int, int]]) -> Iterator[Record]:
    """From the times sent, by sequence number, and (sequence, time) of each arrival in order: the
    arrivals, then the packets lost."""
    arrived = set()
    for sequence, at in arrivals:
        if sequence < len(sent):
            arrived.add(sequence)
            yield sequence, sent[sequence], at
    for sequence, at in enumerate(sent):
        if sequence not in arrived:
            yield sequence, at, 0


def write_records(path: Path, sent: Sequence[int], arrivals: Iterable[tuple[int, int]]) -> None:
    """Write them to a file."""
    with path.open("wb") as file:
        file.writelines(RECORD.pack(*record) for record in records(sent, arrivals))


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file."""
    yield from RECORD.iter_unpack(path.read_bytes())


class Verdict(IntEnum):
    """What came of a measurement; the exit status of what measured."""

    PASSED = 0
    FAILED = 1
    INVALID = 3


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of some packets of one direction.

    longest_gap_s  the longest time between two arrivals, the later of which is of these packets
    """

    sent: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    longest_gap_s: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.sent + other.sent,
            self.lost + other.lost,
            self.duplicated + other.duplicated,
            self.reordered + other.reordered,
            max(self.longest_gap_s, other.longest_gap_s),
        )


def verdict(counts: Iterable[Counts]) -> Verdict:
    """Whether nothing was lost and nothing doubled."""
    bad = any(c.lost or c.duplicated or not c.sent for c in counts)
    return Verdict.FAILED if bad else Verdict.PASSED


def by_move(records: Iterable[Record], begins_ns: Sequence[int]) -> list[Counts]:
    """The packets of each move, in order; the first of the list are those sent before any.

    `records`: as the function of that name gives them.
    """
    size = len(begins_ns) + 1
    sent, lost, doubled, reordered = ([0] * size for _ in range(4))
    gaps = [0] * size
    seen: set[int] = set()
    highest, before = -1, 0
    for sequence, at, received in records:
        place = bisect_right(begins_ns, at)
        if not received:
            sent[place] += 1
            lost[place] += 1
            continue
        if before:
            gaps[place] = max(gaps[place], received - before)
        before = received
        if sequence in seen:
            doubled[place] += 1
            continue
        seen.add(sequence)
        sent[place] += 1
        if sequence < highest:
            reordered[place] += 1
        else:
            highest = sequence
    return [
        Counts(sent[place], lost[place], doubled[place], reordered[place], gaps[place] / 1e9)
        for place in range(size)
    ]


def read(directory: Path, begins_ns: Sequence[int]) -> tuple[list[Counts], list[Counts]]:
    """`by_move` of what a `ProbePair` left in its directory: (there, back)."""
    there, back = (
        by_move(read_records(directory / name), begins_ns) for name in ("there.bin", "back.bin")
    )
    return there, back


def total(counts: Sequence[Counts]) -> Counts:
    """The sum over all moves and what came before them."""
    return sum(counts, Counts())


@dataclass(frozen=True, slots=True)
class Bin:
    """What happened within a short time, for pictures; times in seconds."""

    at_s: float
    lost: int
    longest_gap_s: float


def bins(records: Iterable[Record], origin_ns: int, width_s: float = 0.02) -> list[Bin]:
    """Losses by the time sent, and the gap that every moment of a bin lies in, by arrival."""
    lost: dict[int, int] = {}
    gaps: dict[int, int] = {}
    width = round(width_s * 1e9)
    arrivals = array("q")
    for _, at, received in records:
        if received:
            arrivals.append(received)
        else:
            place = (at - origin_ns) // width
            lost[place] = lost.get(place, 0) + 1
    for before, now in zip(arrivals, arrivals[1:], strict=False):
        for place in range((before - origin_ns) // width, (now - origin_ns) // width + 1):
            gaps[place] = max(gaps.get(place, 0), now - before)
    places = range(min([*lost, *gaps], default=0), max([*lost, *gaps], default=-1) + 1)
    return [Bin(p * width_s, lost.get(p, 0), gaps.get(p, 0) / 1e9) for p in places]


def rounded(counts: Counts) -> Counts:
    """With times as they are shown."""
    return replace(counts, longest_gap_s=round(counts.longest_gap_s, 6))
