"""Lays virtual links over cables.

`lay` asks the network alone, so that everybody who has the same file has the same trees; `lay_on`
also where the links have lain, for a network that lives in a store, where trees are kept.  Called
by `network_file` once everything a link refers to exists.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import replace

from xenflow.model.network import Cable, Link, Network, Tree


def lay(network: Network, before: Network | None = None) -> Network:
    """The same network, each link with the tree it lies on: breadth first from its root, over all
    datapaths that the cables it may use reach.

    Links with the same root and cables have the same tree, one object; those that a network laid
    `before` over the same cables has are taken.
    """
    trees: dict[_Where, Tree] = {}
    if before is not None and list(before.cables.items()) == list(network.cables.items()):
        trees = {_where(before, link): link.tree for link in before.links.values()}
    links: dict[str, Link] = {}
    for name, link in network.links.items():
        where = _where(network, link)
        if where not in trees:
            trees[where] = _grow(network, *where)
        links[name] = replace(link, tree=trees[where])
    return replace(network, links=links)


def lay_on(network: Network, before: Network) -> Network:
    """The same network, each link that was there `before` with the same wishes on the tree it lay
    on: without the branches whose cables have gone, and with new ones to what it did not reach.
    Where its root has gone, it grows from the largest branch that is left.  Other links are laid by
    `lay`."""
    links = dict(lay(network, before).links)
    kept: dict[tuple[int, tuple[str, ...]], Tree] = {}
    for name, link in network.links.items():
        old = before.links.get(name)
        if old is None or _left(network, old) != (link.root, link.cables):
            continue
        where = id(old.tree), link.cables
        if where not in kept:
            kept[where] = _grow_on(network, old.tree, link.cables)
        if kept[where].up:
            links[name] = replace(link, tree=kept[where])
    return replace(network, links=links)


def _left(network: Network, link: Link) -> _Where:
    """What a link wished, as far as it is there still."""
    root = link.root if link.root in network.datapaths else ""
    return root, tuple(cable for cable in link.cables if cable in network.cables)


def _rooted(network: Network, tree: Tree) -> Mapping[str, Cable | None]:
    """The tree's ways to its root, or to another one where that has gone."""
    root = next((name for name, cable in tree.up.items() if cable is None), "")
    near = [n for n, c in tree.up.items() if c is not None and c.far(n).datapath == root]
    left = sorted(name for name in near if name in network.datapaths)
    if not left or root in network.datapaths:
        return tree.up
    behind = Counter(tree.path(name, root)[-2] for name in tree.up if name != root)
    return {**tree.up, max(left, key=lambda name: behind[name]): None}


def _grow_on(network: Network, tree: Tree, cables: tuple[str, ...]) -> Tree:
    """What is left of a tree, and more; none where nothing is."""
    up: dict[str, Cable | None] = {}
    ways = list(_rooted(network, tree).items())
    while ways:  # a datapath may stand before the one that its cable leads to
        left: list[tuple[str, Cable | None]] = []
        for name, cable in ways:
            if name not in network.datapaths:
                continue
            if cable is None or (
                network.cables.get(cable.name) == cable and cable.far(name).datapath in up
            ):
                up[name] = cable
            else:
                left.append((name, cable))
        if len(left) == len(ways):
            break
        ways = left
    _extend(network, up, cables)
    return tree if up == tree.up else Tree(up)


_Where = tuple[str, tuple[str, ...]]
"""A tree's root ("": there is none), and the only cables that it may use (none: all)."""


def _where(network: Network, link: Link) -> _Where:
    if link.root:
        return link.root, link.cables
    if link.access:
        return link.access[0].end.datapath, link.cables
    members = network.members(link.name)
    return members[0][0].home if members else "", link.cables


def _grow(network: Network, root: str, cables: tuple[str, ...]) -> Tree:
    if not root:
        return Tree()
    up: dict[str, Cable | None] = {root: None}
    _extend(network, up, cables)
    return Tree(up)


def _extend(network: Network, up: dict[str, Cable | None], cables: tuple[str, ...]) -> None:
    """Breadth first to everything that the cables reach."""
    queue = deque(up)
    while queue:
        here = queue.popleft()
        for cable in network.cables_of[here]:
            there = cable.far(here).datapath
            if there in up or (cables and cable.name not in cables):
                continue
            up[there] = cable
            queue.append(there)
