"""Lays virtual links over cables, for a network that comes from a file.

Called by `network_file` once everything a link refers to exists.
"""

from __future__ import annotations

from collections import deque
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
    queue = deque([root])
    while queue:
        here = queue.popleft()
        for cable in network.cables_of[here]:
            there = cable.far(here).datapath
            if there in up or (cables and cable.name not in cables):
                continue
            up[there] = cable
            queue.append(there)
    return Tree(up)
