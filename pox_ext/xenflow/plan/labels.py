"""VLAN ids for links: which a link may have on the cables of its tree, and which are free.  Pure.

A cable says which it may use (`labels`).  Where it says nothing all may be used between switches
that drop what belongs to no link; beside a bridge of other people's only a pair that is 2,048
apart, as files always had them.  Called by `laying`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import or_
from zlib import crc32

from xenflow.model.network import DETOUR_VLAN_OFFSET, Cable, Link, Network, Tree

LAST_LABEL = 4094
Bits = int
"""A set of VLAN ids: bit n is set where n is in it."""
_ALL: Bits = (1 << LAST_LABEL + 1) - 2
_LOW: Bits = (1 << DETOUR_VLAN_OFFSET) - 2


def allowed(cable: Cable) -> Bits:
    """The VLAN ids that a cable may use."""
    if not cable.labels:
        return _ALL
    found: Bits = 0
    for first, last in cable.labels:
        found |= (1 << last + 1) - (1 << first)
    return found


def ranges(labels: Iterable[tuple[int, int]]) -> str:
    """Ranges for people: 100-199, 300."""
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in labels)


def apart(network: Network, link: Link) -> bool:
    """Whether the VLAN ids of a link must be 2,048 apart: others are not known to be ours."""
    cables = [cable for cable in link.tree.up.values() if cable is not None]
    ends = (e.datapath for c in cables if not c.labels for e in (c.a, c.b))
    where = ends if cables else link.tree.up
    return any(network.datapaths[name].other == "normal" for name in where)


class Labels:
    """The VLAN ids that are taken: at each switch, or in the whole network where they must be
    (`Network.labels_by_switch`)."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._allowed = {c.name: allowed(c) for c in network.cables.values() if c.labels}
        self._taken: dict[str, Bits] = {}
        self._anywhere: Bits = 0
        by_tree: dict[int, tuple[Tree, Bits]] = {}  # many links may lie on one
        for link in network.links.values():
            _, bits = by_tree.get(id(link.tree), (link.tree, 0))
            by_tree[id(link.tree)] = link.tree, bits | _bits(link.labels)
        for tree, bits in by_tree.values():
            self._take(bits, tree.up)

    def take(self, labels: Iterable[int], switches: Iterable[str]) -> None:
        """They are somebody's at these switches."""
        self._take(_bits(labels), switches)

    def give_back(self, link: Link) -> None:
        """Those of a link are nobody's any more."""
        for place in self._places(link.tree.up):
            self._taken[place] &= ~_bits(link.labels)
        self._anywhere = reduce(or_, self._taken.values(), 0)

    def _take(self, bits: Bits, switches: Iterable[str]) -> None:
        self._anywhere |= bits
        for place in self._places(switches):
            self._taken[place] = self._taken.get(place, 0) | bits

    def _places(self, switches: Iterable[str]) -> Iterable[str]:
        return switches if self._network.labels_by_switch else ("",)

    def choose(self, link: Link) -> tuple[int, int] | None:
        """The labels of a link where it lies: those that it has been given, and for others some
        that are free and that its cables may use, 2,048 apart where such are left; None where there
        are none.

        Those that nobody has anywhere come first, so that the link can grow.  Where to begin
        follows from the name: so those of others stay as they are where a link comes or goes, and
        those that are given twice seldom meet.
        """
        free = _ALL
        for cable in link.tree.up.values():
            if cable is not None and cable.name in self._allowed:
                free &= self._allowed[cable.name]
        for place in self._places(link.tree.up):
            free &= ~self._taken.get(place, 0)
        vlan, detour = link.labels
        if not vlan and not detour:
            vlan = self._one(free & free >> DETOUR_VLAN_OFFSET & _LOW, link.name)
        if vlan and not detour and free >> vlan + DETOUR_VLAN_OFFSET & 1:
            detour = vlan + DETOUR_VLAN_OFFSET
        if not apart(self._network, link):
            vlan = vlan or self._one(free & ~(1 << detour), link.name)
            detour = detour or self._one(free & ~(1 << vlan), link.name)
        return (vlan, detour) if vlan and detour else None

    def _one(self, bits: Bits, name: str) -> int:
        """0 where there is none."""
        start = 1 + crc32(name.encode("utf-8", "surrogatepass")) % (DETOUR_VLAN_OFFSET - 1)
        for some in (bits & ~self._anywhere, bits):
            if found := _lowest(some >> start << start) or _lowest(some):
                return found
        return 0


def _bits(labels: Iterable[int]) -> Bits:
    found: Bits = 0
    for label in labels:
        found |= 1 << label
    return found & _ALL


def _lowest(bits: Bits) -> int:
    """0 where there is none."""
    return (bits & -bits).bit_length() - 1 if bits else 0


def fit(labels: Sequence[int], cable: Cable) -> bool:
    """Whether a cable may use VLAN ids; 0: one that is not chosen yet."""
    bits = allowed(cable)
    return all(not label or bits >> label & 1 for label in labels)
