"""Lays virtual links over cables: a tree for each, and its VLAN ids.  Pure.

`lay` asks the network alone, so that everybody who has the same file has the same trees; `lay_on`
also where the links have lain, for a network that lives in a store, where trees are kept.  A link
of which nothing is promised lies over all datapaths that its cables reach; one with `mbps`,
`disjoint_from` or `span` over those that it needs: of its access ports, its members' homes and
where they are now, and what `span` names.  `unlaid` says what could not be had.  Called by
`store.network_file` once everything that a link refers to exists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from xenflow.model.network import DETOUR_VLAN_OFFSET, Cable, Link, Network, Tree
from xenflow.plan.labels import Labels, apart, fit, ranges
from xenflow.plan.paths import CableMap, May, Up

Placed = Mapping[str, Collection[str]]
"""Of routers the hosts where they are now, where that is known."""
Buried = Mapping[str, tuple[tuple[int, int], Collection[str]]]
"""Links that are no more: their VLAN ids, and the switches that may have flows of them still."""


def lay(network: Network, before: Network | None = None) -> Network:
    """The same network, each link with the tree it lies on.

    Links that may lie over the same have the same tree, one object; those that a network laid
    `before` over the same cables has are taken.
    """
    laying = Laying(network)
    if before is not None and list(before.cables.items()) == list(network.cables.items()):
        former = Laying(before)
        laying.whole |= {
            former.where(link): link.tree for link in before.links.values() if former.shares(link)
        }
    links = {name: laying.lay(link) for name, link in network.links.items()}
    return _labelled(replace(network, links=links), {})


def lay_on(
    network: Network, before: Network, placed: Placed | None = None, buried: Buried | None = None
) -> Network:
    """The same network, each link that was there `before` with the same wishes on the tree it lay
    on: without the branches whose cables have gone, and with new ones to what it shall reach and
    did not.  Where its root has gone, it grows from the largest branch that is left.  Others are
    laid beside them.  VLAN ids that nobody has named are kept too; who comes back before it is
    forgotten has those that it had."""
    buried = buried or {}
    known = {name: labels for name, (labels, _) in buried.items()}
    known |= {name: link.labels for name, link in before.links.items()}
    links = {n: _with_labels(known.get(n, (0, 0)), link) for n, link in network.links.items()}
    network = replace(network, links=links)
    laying = Laying(network, placed)
    laid: dict[str, Link] = {}
    kept: dict[tuple[object, ...], Tree] = {}
    for name, link in network.links.items():
        old = before.links.get(name)
        if old is None or _left(network, old) != (link.root, link.cables):
            continue
        if not laying.shares(link):
            tree = laying.rest(old.tree)
        else:
            where = id(old.tree), *laying.where(link)[1:]
            if where not in kept:
                kept[where] = laying.grown(link, old.tree)
            tree = kept[where]
        if tree.up:
            laid[name] = replace(link, tree=tree)
            laying.take(laid[name])
    for name, link in laid.items():  # what is promised on all trees is known now
        if not laying.shares(link):
            laying.give_back(link)
            laid[name] = replace(link, tree=laying.grown(link, link.tree))
            laying.take(laid[name])
    former = Laying(before)
    if list(before.cables.items()) == list(network.cables.items()):
        laying.whole |= {former.where(k): k.tree for k in before.links.values() if former.shares(k)}
    links = {
        name: laid[name] if name in laid else laying.lay(link)
        for name, link in network.links.items()
    }
    return _labelled(replace(network, links=links), buried)


def _left(network: Network, link: Link) -> tuple[str, tuple[str, ...]]:
    """What a link wished, as far as it is there still."""
    root = link.root if link.root in network.datapaths else ""
    return root, tuple(cable for cable in link.cables if cable in network.cables)


def _rooted(network: Network, tree: Tree) -> Mapping[str, Cable | None]:
    """The tree's ways to its root, or to another one where that has gone."""
    root = next((name for name, cable in tree.up.items() if cable is None), "")
    if root in network.datapaths:
        return tree.up
    near = [n for n, c in tree.up.items() if c is not None and c.far(n).datapath == root]
    left = sorted(name for name in near if name in network.datapaths)
    if not left:
        return tree.up
    behind = Counter(tree.path(name, root)[-2] for name in tree.up if name != root)
    return {**tree.up, max(left, key=lambda name: behind[name]): None}


def _with_labels(old: tuple[int, int], link: Link) -> Link:
    if all(link.labels):
        return link
    vlan = link.vlan or old[0]
    return replace(
        link, vlan=vlan, detour_vlan=link.detour_vlan or (old[1] if vlan == old[0] else 0)
    )


def _labelled(network: Network, buried: Buried) -> Network:
    """The same network, each link with VLAN ids; 0 where none are left for it."""
    wanting = [name for name, link in network.links.items() if not all(link.labels)]
    if not wanting:
        return network
    labels = Labels(network)
    for theirs, switches in buried.values():
        labels.take(theirs, switches)
    links = dict(network.links)
    for name in sorted(wanting, key=lambda name: not links[name].vlan):  # what is named comes first
        link = links[name]
        vlan, detour = labels.choose(link) or link.labels
        links[name] = replace(link, vlan=vlan, detour_vlan=detour)
        labels.take((vlan, detour), link.tree.up)
    return replace(network, links=links)


_Where = tuple[str, tuple[str, ...], int, tuple[int, int]]
"""A tree's root ("": there is none), the only cables that it may use (none: all), octets of a
packet that they shall carry, and VLAN ids that they shall be free to use."""


def whole(link: Link) -> bool:
    """Whether a link lies over all that its cables reach."""
    return link.span is None and not link.mbps and not link.disjoint_from


class Laying:
    """Where links of a network lie, and what is left beside them.

    network  its links need not be laid
    placed   where routers are now
    whole    trees over all that their cables reach
    """

    def __init__(self, network: Network, placed: Placed | None = None) -> None:
        self.network = network
        self.whole: dict[_Where, Tree] = {}
        self._placed = placed or {}
        self._map = CableMap(network)
        self._free = {name: cable.mbps for name, cable in network.cables.items()}
        self._cables_of: dict[str, frozenset[str]] = {}
        self._labels_matter = any(cable.labels for cable in network.cables.values())
        self._rivals: dict[str, set[str]] = {}
        for link in network.links.values():
            for other in link.disjoint_from:
                self._rivals.setdefault(link.name, set()).add(other)
                self._rivals.setdefault(other, set()).add(link.name)

    def lay(self, link: Link) -> Link:
        """A link with a tree of its own, which is counted from now on."""
        root = self._root(link)
        alone = Tree({root: None} if root else {})
        if not root or not self.shares(link):  # where there is nobody, it lies nowhere
            tree = self.grown(link, alone)
        else:
            where = self.where(link)
            if where not in self.whole:
                self.whole[where] = self.grown(link, alone)
            tree = self.whole[where]
        link = replace(link, tree=tree)
        self.take(link)
        return link

    def take(self, link: Link) -> None:
        """Count what is promised to a link that is laid."""
        if not link.mbps and link.name not in self._rivals:
            return
        cables = cables_of(link)
        if link.name in self._rivals:
            self._cables_of[link.name] = cables
        if link.mbps:
            for name in cables:
                self._free[name] -= link.mbps

    def give_back(self, link: Link) -> None:
        """Count it no more."""
        self._cables_of.pop(link.name, None)
        if link.mbps:
            for name in cables_of(link):
                self._free[name] += link.mbps

    def shares(self, link: Link) -> bool:
        """Whether its tree may be that of others too."""
        return whole(link) and link.name not in self._rivals

    def is_choosy(self, link: Link) -> bool:
        """Whether not every cable, or not every tree, is as good."""
        return self._labels_matter or bool(link.mtu) or not whole(link)

    def where(self, link: Link) -> _Where:
        """What a tree that is shared depends on."""
        labels = link.labels if self._labels_matter else (0, 0)
        return self._root(link), link.cables, link.mtu, labels

    def _root(self, link: Link) -> str:
        if link.root:
            return link.root
        if link.access:
            return link.access[0].end.datapath
        members = self.network.members(link.name)
        if members:
            return members[0][0].home
        return link.span[0] if link.span else ""

    def rest(self, tree: Tree) -> Tree:
        """What is left of a tree where cables have gone, or its root; it may be nothing."""
        up: Up = {}
        ways = list(_rooted(self.network, tree).items())
        same = True
        while ways:  # a datapath may stand before the one that its cable leads to
            left: list[tuple[str, Cable | None]] = []
            for name, cable in ways:
                if name not in self.network.datapaths:
                    continue
                if cable is None:
                    up[name] = None
                    continue
                here = self.network.cables.get(cable.name)
                if here is None or not here.joins_as(cable) or here.far(name).datapath not in up:
                    left.append((name, cable))
                    continue
                same = same and here == cable
                up[name] = here
            if len(left) == len(ways):
                break
            ways = left
        return tree if same and len(up) == len(tree.up) else Tree(up)

    def grown(self, link: Link, tree: Tree) -> Tree:
        """The tree, without what has gone, and with branches to what the link shall reach."""
        tree = self.rest(tree)
        wanted = None if whole(link) else self.wanted(link)
        if not tree.up or (wanted is not None and all(map(tree.reaches, wanted))):
            return tree
        up = dict(tree.up)
        self._map.extend(up, self._may(link), wanted)
        return tree if len(up) == len(tree.up) else Tree(up)

    def wanted(self, link: Link) -> list[str]:
        """The datapaths that a link needs."""
        found = [access.end.datapath for access in link.access]
        for router, _ in self.network.members(link.name):
            found += [router.home, *self._placed.get(router.name, ())]
        found += link.span or ()
        return [name for name in dict.fromkeys(found) if name in self.network.datapaths]

    def _may(self, link: Link, without: str = "") -> May | None:
        """Which cables a link may use; `without` one kind of reason, by its key in a file."""
        tests: list[May] = []
        if link.cables and without != "cables":
            pinned = frozenset(link.cables)
            tests.append(lambda cable: cable.name in pinned)
        if link.mtu and without != "mtu":
            tests.append(lambda cable: not 0 < cable.mtu < link.mtu)
        if self._labels_matter and any(link.labels) and without != "vlan":
            tests.append(lambda cable: fit(link.labels, cable))
        if link.mbps and without != "mbps":
            free, mbps = self._free, link.mbps
            tests.append(lambda cable: free[cable.name] >= mbps)
        if link.name in self._rivals and without != "disjoint_from":
            rivals = (self._cables_of.get(name, ()) for name in self._rivals[link.name])
            theirs = frozenset(name for names in rivals for name in names)
            tests.append(lambda cable: cable.name not in theirs)
        if len(tests) < 2:
            return tests[0] if tests else None
        return lambda cable: all(test(cable) for test in tests)

    def free(self, cable: Cable) -> int:
        """Mbit/s that can be promised on a cable still."""
        return self._free[cable.name]

    # --- what could not be had ------------------------------------------------------------------

    def why_not(self, link: Link, there: str) -> Unlaid | None:
        """Why a link does not reach a datapath that it needs; None where no cable leads there, or
        it would now: whoever was in the way does not fit, and is not counted any more."""
        for key in ("mbps", "disjoint_from", "mtu", "vlan"):
            up = dict(link.tree.up)
            if self._map.extend(up, self._may(link, without=key), [there]):
                continue
            may = self._may(link)
            assert may is not None
            new = (up[name] for name in up.keys() - link.tree.up.keys())
            barring = sorted((c for c in new if c and not may(c)), key=lambda c: c.name)
            if not barring:
                return None
            return Unlaid(link.name, key, *self._words(link, key, there, barring))
        return None

    def _words(self, link: Link, key: str, there: str, barring: list[Cable]) -> tuple[str, str]:
        names = ", ".join(cable.name for cable in barring)
        if key == "mbps":
            cable = min(barring, key=self.free)
            return f"{link.mbps}, and no such way to {there}", self.room(cable)
        if key == "mtu":
            cable = min(barring, key=lambda cable: cable.mtu)
            words = f"at most {cable.mtu}, which cable {cable.name} carries"
            return f"{link.mtu}, and no such way to {there}", words
        if key == "vlan":
            cable = barring[0]
            words = f"one of {ranges(cable.labels)}, which cable {cable.name} may use"
            return f"{link.vlan or link.detour_vlan}, and no such way to {there}", words
        rivals = ", ".join(sorted(self._rivals[link.name]))
        words = f"another way to {there} than by {names}, where {rivals} lies"
        return "no such way", words

    def room(self, cable: Cable) -> str:
        """What is free on a cable, and who has the rest."""
        if not cable.mbps:
            return f"cables whose mbps is known, which that of {cable.name} is not"
        links = self.network.links.values()
        theirs = (k for k in links if k.mbps and cable.name in cables_of(k))
        who = ", ".join(f"{k.name} has {k.mbps}" for k in theirs)
        free = max(0, self.free(cable))
        words = f"at most {free}: cable {cable.name} has {free} of {cable.mbps} Mbit/s free"
        return f"{words} ({who})" if who else words


def grown(network: Network, router: str, host: str) -> Network:
    """What is to be wished for a router's links to lead to a host as well; the same network where
    they do already, or wish for all that their cables reach.  Not laid."""
    short = (network.links[interface.link] for interface in network.routers[router].interfaces)
    links = {
        link.name: replace(link, span=(*(link.span or ()), host))
        for link in short
        if not whole(link) and not link.tree.reaches(host) and host not in (link.span or ())
    }
    return replace(network, links={**network.links, **links}) if links else network


def cables_of(link: Link) -> frozenset[str]:
    """The names of the cables that a link lies on."""
    return frozenset(cable.name for cable in link.tree.up.values() if cable is not None)


@dataclass(frozen=True, slots=True)
class Unlaid:
    """What a link could not be given: the key of its table in the file that asks for it, what it
    says, and what could be had."""

    link: str
    key: str
    found: str
    expected: str


def unlaid(network: Network, placed: Placed | None = None) -> Iterator[Unlaid]:
    """What of the wishes of links does not hold in a network that is laid."""
    yield from _of_labels(network)
    laying = Laying(network, placed)
    wishing = [k for k in network.links.values() if laying.is_choosy(k)]
    for link in network.links.values() if wishing else ():
        laying.take(link)
    for link in wishing:
        beside = [name for name in laying.wanted(link) if name not in link.tree.up]
        if found := next(filter(None, (laying.why_not(link, name) for name in beside)), None):
            yield found
            continue
        for name in beside:
            if name in (link.span or ()):
                words = "a datapath that the cables it may use lead to"
                yield Unlaid(link.name, "span", f'"{name}"', words)
        cables = [network.cables[name] for name in sorted(cables_of(link))]
        if link.mbps and cables:
            full = min(cables, key=laying.free)
            if laying.free(full) < 0 or not full.mbps:
                laying.give_back(link)
                yield Unlaid(link.name, "mbps", str(link.mbps), laying.room(full))
                continue
        low = min((c for c in cables if c.mtu), key=lambda c: c.mtu, default=None)
        if low is not None and low.mtu < link.mtu:
            words = f"at most {low.mtu}, which cable {low.name} carries, where it lies"
            yield Unlaid(link.name, "mtu", str(link.mtu), words)
        for name in link.disjoint_from:
            if both := sorted(cables_of(link) & cables_of(network.links[name])):
                words = f"a link that does not lie on {', '.join(both)} as well"
                yield Unlaid(link.name, "disjoint_from", f'"{name}"', words)


def _of_labels(network: Network) -> Iterator[Unlaid]:
    limited = any(cable.labels for cable in network.cables.values())
    for link in network.links.values():
        vlan, detour = link.labels
        given = str(vlan) if vlan else "no VLAN id"
        unusual = detour not in (0, vlan + DETOUR_VLAN_OFFSET) or vlan >= DETOUR_VLAN_OFFSET
        if unusual and apart(network, link):
            words = (
                f"one from 1 to {DETOUR_VLAN_OFFSET - 1}, and {DETOUR_VLAN_OFFSET} more for "
                'detours, beside switches whose other is "normal"; or say the `labels` of cables'
            )
            found = f"{given}, and {detour or 'none'} for detours"
            yield Unlaid(link.name, "vlan", found, words)
            continue
        if not (vlan and detour):
            where = "at its switches" if network.labels_by_switch else "any more"
            words = f"links that leave one: none is free for it {where}"
            yield Unlaid(link.name, "vlan", given, words)
            continue
        for cable in link.tree.up.values() if limited else ():
            if cable is not None and cable.labels and not fit(link.labels, cable):
                words = f"two of {ranges(cable.labels)}, which cable {cable.name} may use"
                yield Unlaid(link.name, "vlan", f"{link.vlan} and {link.detour_vlan}", words)
                break
    for label, names in network.links_by_label.items():
        for n, name in enumerate(names if label else ()):
            link = network.links[name]
            theirs = (network.links[other] for other in names[:n])
            if met := next((k for k in theirs if network.meet(k, link)), None):
                key = "vlan" if label == link.vlan else "detour_vlan"
                where = " at a switch of its own" if network.labels_by_switch else ""
                words = f"a VLAN id that is not {met.name}'s{where}"
                yield Unlaid(link.name, key, str(label), words)
