"""What must hold between the entries of a network that was read from rows.

A planner writes rows of a network that was checked as a file.  But every client of a server may
write, and a row may be lost: what names something that is not there would stop a switch's flows
half way, and a tree with a loop a controller.  Called by `network_rows.laid_entries`.
"""

from __future__ import annotations

from collections.abc import Iterator

from xenflow.model.network import Link, Network, Tree


def misfits(network: Network) -> Iterator[str]:
    """What does not fit, one line each."""
    for datapath in network.datapaths.values():
        if datapath.controller not in network.controllers:
            yield f"datapaths.{datapath.name}: there is no controller {datapath.controller}"
    for cable in network.cables.values():
        for end in (cable.a, cable.b):
            if end.datapath not in network.datapaths:
                yield f"cables.{cable.name}: there is no datapath {end.datapath}"
    trees: dict[int, str] = {}
    for link in network.links.values():
        if id(link.tree) not in trees:
            trees[id(link.tree)] = _of_tree(network, link.tree)
        if fault := trees[id(link.tree)]:
            yield f"links.{link.name}: {fault}"
        yield from _of_link(link)
    for router in network.routers.values():
        if router.home not in network.hosts:
            yield f"routers.{router.name}: there is no host {router.home}"
        for interface in router.interfaces:
            link_there = network.links.get(interface.link)
            if link_there is None:
                yield f"routers.{router.name}: there is no link {interface.link}"
            elif not link_there.tree.reaches(router.home):
                yield (f"routers.{router.name}: link {interface.link} does not reach {router.home}")


def _of_link(link: Link) -> Iterator[str]:
    for label in (link.vlan, link.detour_vlan):
        if type(label) is not int or not 0 < label < 4095:
            yield f"links.{link.name}: {label!r} is no VLAN id"
    for access in link.access:
        if not link.tree.reaches(access.end.datapath):
            yield f"links.{link.name}: its tree does not reach {access.end}"


def _of_tree(network: Network, tree: Tree) -> str:
    """Why it is no tree of cables that there are; "" where it is one."""
    ends = {}
    for name, cable in tree.up.items():
        if name not in network.datapaths:
            return f"there is no datapath {name}"
        if cable is None:
            continue
        if not cable.joins_as(network.cables.get(cable.name)):
            return f"there is no cable {cable.name}"
        ends[name] = cable.far(name).datapath
        if name not in (cable.a.datapath, cable.b.datapath) or ends[name] not in tree.up:
            return f"cable {cable.name} does not lead from {name} into its tree"
    if tree.up and len(tree.up) - len(ends) != 1:  # that of a link without anybody is empty
        return "its tree has not one root"
    rooted = tree.up.keys() - ends.keys()
    while near := {name for name in ends.keys() - rooted if ends[name] in rooted}:
        rooted |= near
    return "" if len(rooted) == len(tree.up) else "its tree has a loop"
