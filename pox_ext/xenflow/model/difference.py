"""The difference of two networks: what came, changed and went, and whose flows that concerns.

A network is a frozen value, and a changed one is another value.  `compare` says what differs;
`refusals` says what cannot change while routers forward.  Called where a changed network file is
read anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from xenflow.model.network import Cable, Link, Network

Value = TypeVar("Value")
SIGNS = {"added": "+", "removed": "-", "changed": "~"}
"""For people: what stands before a name, by what happened to it (an attribute of `Changed`)."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The names of one kind of thing that came, went, or are not what they were; each in the order
    of its network."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return frozenset((*self.added, *self.removed, *self.changed))


@dataclass(frozen=True, slots=True)
class NetworkDifference:
    """What is not the same in two networks, and which owners of flows that concerns.

    dirty_links, dirty_routers  whose flows may be others, or no more: a link's where it lies
        otherwise, or who is on it has changed; a router's where itself or a link of its has
    """

    controllers: Changed
    datapaths: Changed
    cables: Changed
    links: Changed
    routers: Changed
    dirty_links: frozenset[str]
    dirty_routers: frozenset[str]

    def __bool__(self) -> bool:
        return any(part for _, part in self.parts())

    def json(self) -> dict[str, dict[str, list[str]]]:
        """For programs: kind -> added, removed, changed -> names; what is the same is left out."""
        return {
            kind: {way: list(names) for way in SIGNS if (names := getattr(part, way))}
            for kind, part in self.parts()
            if part
        }

    def words(self) -> str:
        """For people, on one line."""
        return "; ".join(
            f"{kind} "
            + " ".join(f"{sign}{n}" for way, sign in SIGNS.items() for n in getattr(part, way))
            for kind, part in self.parts()
            if part
        )

    def parts(self) -> Iterator[tuple[str, Changed]]:
        """Each kind of thing by its name in the network file."""
        for kind in ("controllers", "datapaths", "cables", "links", "routers"):
            yield kind, getattr(self, kind)


def compare(before: Network, after: Network) -> NetworkDifference:
    """What differs."""
    links = _changed(before.links, after.links)
    routers = _changed(before.routers, after.routers)
    dirty_links = set(links.names)
    dirty_links |= {
        name
        for name in before.links.keys() & after.links.keys()
        if before.members(name) != after.members(name)
    }
    dirty_routers = set(routers.names)
    for network in (before, after):
        dirty_routers |= {r.name for name in dirty_links for r, _ in network.members(name)}
    return NetworkDifference(
        _changed(before.controllers, after.controllers),
        _changed(before.datapaths, after.datapaths),
        _changed(before.cables, after.cables),
        links,
        routers,
        frozenset(dirty_links),
        frozenset(dirty_routers),
    )


def _changed(before: Mapping[str, Value], after: Mapping[str, Value]) -> Changed:
    return Changed(
        tuple(name for name in after if name not in before),
        tuple(name for name in before if name not in after),
        tuple(name for name, new in after.items() if _differs(before.get(name, new), new)),
    )


def _differs(old: Any, new: Any) -> bool:
    return old is not new and old != new


def refusals(before: Network, after: Network) -> list[str]:
    """What cannot change while the routers forward, one line each, with what to do; [] where all
    of it can.

    A link's tree may grow and lose branches, but not lie otherwise over a switch: what is under way
    there would be lost.  Ids, and VLAN ids, are not given to somebody else at once: flows that are
    theirs may be in switches still.
    """
    return [
        *_of_controllers(before, after),
        *_of_datapaths(before, after),
        *_of_links(before, after),
        *_of_ids(before, after),
    ]


def _of_controllers(before: Network, after: Network) -> Iterator[str]:
    for name in _changed(before.controllers, after.controllers).changed:
        yield f"controllers.{name}: its addresses cannot change while it runs: restart it"
    if before.name != after.name:
        yield f'network.name: it is "{before.name}" here, and "{after.name}" in the file'


_OF_A_SWITCH = (
    "kind",
    "dpid",
    "controller",
    "pipeline",
    "nicira",
    "proof",
    "proof_bound_s",
    "ovs_rundir",
)


def _of_datapaths(before: Network, after: Network) -> Iterator[str]:
    for name in _changed(before.datapaths, after.datapaths).changed:
        old, new = before.datapaths[name], after.datapaths[name]
        for key in _OF_A_SWITCH:
            if getattr(old, key) != getattr(new, key):
                yield (
                    f"datapaths.{name}: {key} cannot change while it forwards: "
                    "remove it in one step and add it in the next"
                )


def _of_links(before: Network, after: Network) -> Iterator[str]:
    for name in after.links:
        if name not in before.links:
            continue
        old, new = before.links[name], after.links[name]
        if old is new:
            continue
        if old.vlan != new.vlan:  # the detour's follows from it
            yield (
                f"links.{name}: vlan {old.vlan} cannot become {new.vlan} while packets are under "
                "way: remove the link in one step and add it in the next"
            )
        yield from _of_tree(old, new)


def _of_tree(old: Link, new: Link) -> Iterator[str]:
    for datapath in old.tree.up.keys() & new.tree.up.keys():
        was, shall = old.tree.up[datapath], new.tree.up[datapath]
        if was != shall:
            yield (
                f"links.{new.name}: at {datapath} its tree would lie {_way(shall)} and not "
                f"{_way(was)}: name its `root` ({_root(old)}) and its `cables`, for it to stay "
                "where it is"
            )


def _way(cable: Cable | None) -> str:
    return f"by cable {cable.name} ({cable.a}, {cable.b})" if cable is not None else "at its root"


def _root(link: Link) -> str:
    return next((name for name, cable in link.tree.up.items() if cable is None), "none")


def _of_ids(before: Network, after: Network) -> Iterator[str]:
    for kind, keys in (("routers", ("id",)), ("links", ("id", "vlan"))):
        old, new = getattr(before, kind), getattr(after, kind)
        for key in keys:
            owners = {getattr(entry, key): name for name, entry in old.items()}
            for name, entry in new.items():
                number = getattr(entry, key)
                owner = owners.get(number, name)
                if owner != name:
                    yield (
                        f"{kind}.{name}: {key} {number} is {owner}'s: take another, or remove "
                        f"{owner} in one step and add {name} in the next"
                    )
                elif key == "id" and name in old and old[name].id != number:
                    yield (
                        f"{kind}.{name}: id {old[name].id} cannot become {number}: remove it in "
                        "one step and add it in the next"
                    )
