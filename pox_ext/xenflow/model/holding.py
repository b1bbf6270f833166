"""What a network may not become yet, because a router of it is being moved.

A move goes by the network as it was when it began: the router's links, where they lie, who is on
them.  What has changed of these is held: it stays as it was, with whatever it needs, until the move
has ended.  The rest of a change does not wait for it.

`held_back` says which entries that are; a network with those of before in their places is *mixed*,
and `clashes` says where it cannot be, because an entry that is held has what another gets.  Pure;
called by `control.store_follower`, whose rows `store.held_rows` mixes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from xenflow.model.network import INDICES, PARTS, Network, Router
from xenflow.model.succession import is_another, others

Names = Mapping[str, frozenset[str]]
"""Names of entries, by part of the network."""


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Entries of a network that stay as they were before: there, or not there yet.

    names  of those that change once the moves have ended, and of what they need until then
    by     the routers that are moved
    """

    names: Names = field(default_factory=dict)
    by: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return any(self.names.values())

    def words(self) -> str:
        """For people, on one line."""
        return f"{named(self.names)}: held by the move of {', '.join(sorted(self.by))}"

    def json(self) -> dict[str, Any]:
        """For programs: {"names": {part: [names]}, "by": [routers]}; {} where nothing is held."""
        names = {part: sorted(found) for part, found in self.names.items() if found}
        return {"names": names, "by": sorted(self.by)} if names else {}


NOTHING = HeldBack()
"""What waits where no router is moved."""


def named(names: Mapping[str, Collection[str]]) -> str:
    """Entries as a file names them, on one line."""
    return ", ".join(f"{part}.{name}" for part in PARTS for name in sorted(names.get(part, ())))


def held_back(before: Network, after: Network, moved: Collection[str]) -> HeldBack:
    """What of the change from one network to the other waits for the moves of these routers: the
    routers and their links, and who is on one of these links, or comes there, and has changed."""
    there = [before.routers[name] for name in moved if name in before.routers]
    links = {interface.link for router in there for interface in router.interfaces}
    found: dict[str, set[str]] = {part: set() for part in PARTS}
    found["links"] = {n for n in links if before.links[n] != after.links.get(n)}
    suspects = {*others(before.routers, after.routers), *before.routers.keys() - after.routers}
    for name in suspects:
        old, new = before.routers.get(name), after.routers.get(name)
        if new is not None and old == new and not is_another(old, new):
            continue
        if name in moved or not links.isdisjoint({*_links(old), *_links(new)}):
            found["routers"].add(name)
    _add_needs(before, after, found)
    return HeldBack({part: frozenset(names) for part, names in found.items()}, frozenset(moved))


def _links(router: Router | None) -> list[str]:
    return [] if router is None else [interface.link for interface in router.interfaces]


def _add_needs(before: Network, after: Network, found: dict[str, set[str]]) -> None:
    """Of what goes that which an entry that is held refers to."""
    datapaths: set[str] = set()
    for router in (before.routers[n] for n in found["routers"] if n in before.routers):
        datapaths.add(router.home)
        found["links"] |= {link for link in _links(router) if link not in after.links}
    for link in (before.links[name] for name in found["links"]):
        datapaths |= link.tree.up.keys() | {access.end.datapath for access in link.access}
        ways = {cable.name for cable in link.tree.up.values() if cable is not None}
        found["cables"] |= ways - after.cables.keys()
    for cable in (before.cables[name] for name in found["cables"]):
        datapaths |= {cable.a.datapath, cable.b.datapath}
    found["datapaths"] |= datapaths - after.datapaths.keys()
    hosts = {before.datapaths[name].controller for name in datapaths & before.datapaths.keys()}
    found["controllers"] |= hosts - after.controllers.keys()


def clashes(network: Network) -> Iterator[str]:
    """What two entries of a network have that only one may have, one line each."""
    for index, (part, keys) in INDICES.items():
        given = Counter(key for entry in getattr(network, part).values() for key, _ in keys(entry))
        for key in (key for key, times in given.items() if times > 1):
            yield f"two {part} have {key} ({index})"
    ends = [end for cable in network.cables.values() for end in (cable.a, cable.b)]
    ends += [access.end for link in network.links.values() for access in link.access]
    for end in (end for end, times in Counter(ends).items() if times > 1):
        yield f"port {end} is used twice"
    for label, names in network.links_by_label.items():
        links = [network.links[name] for name in dict.fromkeys(names)]
        for n, one in enumerate(links):
            for other in (other for other in links[:n] if network.meet(one, other)):
                yield f"links {other.name} and {one.name} have VLAN id {label}"
