"""How the routes that a switch holds are read back: which questions, in which order.

A request for many flows stops the userspace datapath, whose main thread also forwards.  So a large
table is read in parts, and the switch finds a part in one of two ways.  By an *exact* cookie it
looks into an index: 25 us for a chunk that is empty.  By a cookie *under a mask* it looks at every
flow of the table: some 0.12 us each (Open vSwitch 3.1).  Which is cheaper depends on how many flows
there are, and of how many routers; `reading` chooses, so that the whole takes a time in proportion
to what is there, not to the routers that the network could have.

Nothing here sends anything: `reading` asks what is yielded and gives back how many flows were the
answer.  Everything of ours in the table is asked for, of routers that are not in the network too.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass

from xenflow.tables import cookies, layout

READ_WHOLE = 4000
"""So many flows are asked for in one request."""
BURST_FLOWS = 1000
"""Chunks are asked for together while they have no more than about so many flows."""
BURST_CHUNKS = 64
"""And no more at once: from 100 unsent answers on Open vSwitch stops reading the connection."""
ROUTER_BITS = 16

_BURST_S = 0.005
_LOOK_S = 0.12e-6


@dataclass(frozen=True, slots=True)
class Whole:
    """Ask for the flows of table ROUTES with this cookie under this mask, in one request."""

    cookie: int
    mask: int


@dataclass(frozen=True, slots=True)
class Chunks:
    """Ask for flows by these exact cookies, one request each, sent together."""

    cookies: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """Ask how many flows have this cookie under this mask."""

    cookie: int
    mask: int


Question = Whole | Chunks | Count
Reading = Generator[Question, int, int]


def reading(total: int, likely: Iterable[int]) -> Reading:
    """The questions that read a table of `total` flows (foreign ones included).

    `likely` are the ids of routers that probably have routes there; it only saves time.  Each
    question is answered by a number of flows; returns how many were read.
    """
    if total <= READ_WHOLE:
        return (yield Whole(cookies.MAGIC, cookies.MAGIC_MASK))
    found = {0: (yield Chunks((cookies.of(layout.CLASSES),)))}
    if _by_chunks(total, ids := sorted(set(likely) - {0})):
        for router in ids:
            found[router] = yield from chunk_questions(router)
            if sum(found.values()) >= total:
                return sum(found.values())
    if sum(found.values()) < total:
        here = yield Count(*_under(0, 0))
        yield from _search(0, 0, here - sum(found.values()), found)
    return sum(found.values())


def _by_chunks(total: int, likely: list[int]) -> bool:
    """Whether it is cheaper to ask the likely routers for their chunks than to search."""
    bursts = len(likely) * (cookies.CHUNKS / BURST_CHUNKS) + total / BURST_FLOWS
    searches = 2 * min(len(likely) or 1, total / READ_WHOLE)
    return bursts * _BURST_S < searches * total * _LOOK_S + total / BURST_FLOWS * _BURST_S


def _search(prefix: int, bits: int, missing: int, found: dict[int, int]) -> Reading:
    """Read the flows of the routers whose ids begin with these bits, of which `missing` have not
    been read, by halves."""
    if missing <= 0:
        return 0
    known = [i for i in found if i >> (ROUTER_BITS - bits) == prefix and found[i]]
    if bits == ROUTER_BITS:
        found[prefix] = found.get(prefix, 0)
        if missing <= READ_WHOLE:
            found[prefix] += yield Whole(*_under(prefix, bits))
        else:
            found[prefix] += yield from chunk_questions(prefix)
        return found[prefix]
    if missing <= READ_WHOLE and not known:
        read = yield Whole(*_under(prefix, bits))
        found[prefix << (ROUTER_BITS - bits)] = read
        return read
    left = 2 * prefix
    in_left = (yield Count(*_under(left, bits + 1))) - sum(
        found[i] for i in known if i >> (ROUTER_BITS - bits - 1) == left
    )
    yield from _search(left, bits + 1, in_left, found)
    yield from _search(left + 1, bits + 1, missing - in_left, found)
    return 0


def chunk_questions(router: int) -> Reading:
    """Read a router's routes by their chunks, of which more are asked for at once the fewer they
    hold."""
    read = at = 0
    burst = 1
    while at < cookies.CHUNKS:
        part = range(at, min(at + burst, cookies.CHUNKS))
        read += yield Chunks(tuple(cookies.of(layout.ROUTES, router, n) for n in part))
        at = part.stop
        burst = min(BURST_CHUNKS, max(1, BURST_FLOWS * at // max(read, 1)), 4 * burst)
    return read


def _under(prefix: int, bits: int) -> tuple[int, int]:
    """Cookie and mask of everything of the routers whose ids begin with these bits."""
    ids = prefix << (ROUTER_BITS - bits)
    mask = (1 << ROUTER_BITS) - (1 << (ROUTER_BITS - bits))
    return cookies.of(0, ids), cookies.MAGIC_MASK | mask << 32
