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
from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from xenflow.model.difference import compare
from xenflow.model.network import INDICES, PARTS, Cable, End, Link, Network, Router
from xenflow.model.succession import others_by_name

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
    routers and their links; who is on one of these links, or comes there, and has changed; and what
    cannot change without them."""
    there = [before.routers[name] for name in moved if name in before.routers]
    links = {interface.link for router in there for interface in router.interfaces}
    changed = set(_changed(before, after))
    held = {("links", name) for name in links} & changed
    for part, name in changed:
        if part == "routers":
            either = [network.routers.get(name) for network in (before, after)]
            if name in moved or any(not links.isdisjoint(_links(router)) for router in either):
                held.add((part, name))
    while more := set(_cannot_change(before, after, changed, held)):
        held |= more
    names = {part: frozenset(n for of, n in held if of == part) for part in PARTS}
    return HeldBack(names, frozenset(moved))


_Name = tuple[str, str]
"""A part of the network, and the name of an entry."""


def _changed(before: Network, after: Network) -> Iterator[_Name]:
    for part, each in compare(before, after).parts():
        yield from ((part, name) for name in each.names)
    yield from (("routers", name) for name in others_by_name(before, after))


def _links(router: Router | None) -> list[str]:
    return [] if router is None else [interface.link for interface in router.interfaces]


def _cannot_change(
    before: Network, after: Network, changed: Set[_Name], held: Set[_Name]
) -> Iterator[_Name]:
    """What beside this has to stay as it was: what an entry that is held refers to, what would
    refer to one that is not there yet, or lies otherwise, and who would get what it has."""
    taken: set[Any] = set()
    for part, name in held:
        if (entry := getattr(before, part).get(name)) is not None:
            taken |= set(_claims(part, entry))
            for other in set(_refers(part, entry)) & changed - held:
                if not _fits(entry, getattr(after, other[0]).get(other[1])):
                    yield other
    for part, name in changed - held:
        if (entry := getattr(after, part).get(name)) is not None:
            refers = set(_refers(part, entry)) & held
            fits = (_fits(entry, getattr(before, of).get(n)) for of, n in refers)
            if not taken.isdisjoint(_claims(part, entry)) or not all(fits):
                yield part, name


def _refers(part: str, entry: Any) -> Iterator[_Name]:
    """The entries that an entry names."""
    if part == "datapaths":
        yield "controllers", entry.controller
    elif part == "cables":
        yield from (("datapaths", end.datapath) for end in (entry.a, entry.b))
    elif part == "links":
        yield from (("datapaths", name) for name in entry.tree.up)
        yield from (("datapaths", access.end.datapath) for access in entry.access)
        yield from (("cables", c.name) for c in entry.tree.up.values() if c is not None)
    elif part == "routers":
        yield "datapaths", entry.home
        yield from (("links", link) for link in _links(entry))


def _fits(entry: Any, other: Any) -> bool:
    """Whether an entry can refer to another, as that is; None: it is not there."""
    if isinstance(other, Cable):
        cable = next((c for c in entry.tree.up.values() if c and c.name == other.name), None)
        return cable is not None and cable.joins_as(other)
    if isinstance(other, Link):
        return other.tree.reaches(entry.home)
    return other is not None


def _claims(part: str, entry: Any) -> Iterator[Any]:
    """What of an entry nobody else may have."""
    for index, (of, keys) in INDICES.items():
        if of == part:
            yield from ((index, key) for key, _ in keys(entry))
    yield from (("port", end) for end in _ends(part, entry))


def _ends(part: str, entry: Any) -> Iterator[End]:
    if part == "cables":
        yield from (entry.a, entry.b)
    elif part == "links":
        yield from (access.end for access in entry.access)


def clashes(network: Network) -> Iterator[str]:
    """What two entries of a network have that only one may have, one line each."""
    for index, (part, keys) in INDICES.items():
        given = Counter(key for entry in getattr(network, part).values() for key, _ in keys(entry))
        for key in (key for key, times in given.items() if times > 1):
            yield f"two {part} have {key} ({index})"
    parts = {part: getattr(network, part).values() for part in ("cables", "links")}
    ends = Counter(end for part, of in parts.items() for entry in of for end in _ends(part, entry))
    for end in (end for end, times in ends.items() if times > 1):
        yield f"port {end} is used twice"
    for label, names in network.links_by_label.items():
        links = [network.links[name] for name in dict.fromkeys(names)]
        for n, one in enumerate(links):
            for other in (other for other in links[:n] if network.meet(one, other)):
                yield f"links {other.name} and {one.name} have VLAN id {label}"
