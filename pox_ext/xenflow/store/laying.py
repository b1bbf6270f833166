"""Lays virtual links over cables, for a network that comes from a file.

Called by `network_file` once everything a link refers to exists.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from xenflow.model.network import Cable, Link, Network, Tree


def lay(network: Network) -> Network:
    """The same network, each link with the tree it lies on: breadth first from its root, over all
    datapaths that the cables it may use reach."""
    links = {name: replace(link, tree=_grow(network, link)) for name, link in network.links.items()}
    return replace(network, links=links)


def _grow(network: Network, link: Link) -> Tree:
    members = network.members(link.name)
    root = link.root or (
        link.access[0].end.datapath if link.access else members[0][0].home if members else ""
    )
    if not root:
        return Tree()
    up: dict[str, Cable | None] = {root: None}
    queue = deque([root])
    while queue:
        here = queue.popleft()
        for cable in network.cables_of[here]:
            there = cable.far(here).datapath
            if there in up or (link.cables and cable.name not in link.cables):
                continue
            up[there] = cable
            queue.append(there)
    return Tree(up)
