"""Trees over cables, by cost: from what a tree has to what it shall reach.  Pure.

Dijkstra's algorithm, from everything on the tree at once.  To reach a few datapaths the nearest is
taken first, with its path, and so on: at most twice the cost of the best tree there is (Takahashi
and Matsuyama, 1980).  Where ways cost the same that is taken which comes first in the file, so that
everybody finds the same.  Called by `laying`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush

from xenflow.model.network import Cable, Network

Up = dict[str, Cable | None]
"""Each datapath's cable towards the root, as of a `Tree`."""
May = Callable[[Cable], bool]
"""Whether a cable may be used."""

COST_1 = 1_000_000
"""Of a cable of which nothing is said, or that carries 1,000 Mbit/s."""


def cost(cable: Cable) -> int:
    """Of sending over a cable, in millionths of what people call 1; never 0."""
    if cable.cost:
        return cable.cost * COST_1
    return max(1, 1_000 * COST_1 // cable.mbps) if cable.mbps else COST_1


@dataclass(frozen=True)
class CableMap:
    """A network's cables, as a search walks over them."""

    network: Network

    @cached_property
    def _from(self) -> dict[str, tuple[tuple[Cable, str, int], ...]]:
        """Of each datapath its cables: the datapath at the other end, and the cost."""
        return {
            name: tuple((c, c.far(name).datapath, cost(c)) for c in cables)
            for name, cables in self.network.cables_of.items()
        }

    def extend(
        self, up: Up, may: May | None = None, wanted: Collection[str] | None = None
    ) -> set[str]:
        """Let a tree reach what is wanted; None: all that cables lead to.

        may  None: every cable may be used

        Returns what cannot be reached; the tree has grown to all else.
        """
        if wanted is None:
            ways = self._ways(up, may)
            up.update((name, ways[name][0]) for name in ways)
            return set()
        left = {name for name in wanted if name not in up}
        while left:
            ways = self._ways(up, may, left)
            here = next(reversed(ways), "")
            if here not in left:
                return left
            path: Up = {}
            while here not in up:
                cable, near = ways[here]
                path[here] = cable
                here = near
            up.update(reversed(path.items()))
            left -= path.keys()
        return left

    def _ways(
        self, up: Up, may: May | None, left: Collection[str] = ()
    ) -> dict[str, tuple[Cable, str]]:
        """How datapaths are reached from a tree: by which cable, and from which datapath; the
        nearest first, until one of those that are `left`."""
        found: dict[str, tuple[Cable, str]] = {}
        best: dict[str, int] = dict.fromkeys(up, 0)
        came: dict[str, tuple[Cable, str]] = {}
        todo = [(0, n, name) for n, name in enumerate(up)]  # in order, so it is a heap
        turn, ways_from = len(todo), self._from
        while todo:
            so_far, _, here = heappop(todo)
            if here in came:
                if here in found:  # a dearer way, found before the one that was taken
                    continue
                found[here] = came[here]
                if here in left:
                    break
            for cable, there, more in ways_from[here]:
                total = so_far + more
                if there in best and best[there] <= total:
                    continue
                if may is not None and not may(cable):
                    continue
                best[there] = total
                came[there] = cable, here
                heappush(todo, (total, turn, there))
                turn += 1
        return found
