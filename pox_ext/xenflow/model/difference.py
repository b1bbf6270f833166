"""The difference of two networks: what came, changed and went, and whose flows that concerns.

A network is a frozen value, and a changed one is another value.  `compare` says what differs;
`refusals` says what cannot change while routers forward.  Called where a changed network file is
read anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from xenflow.model.network import PARTS, Cable, Datapath, Link, Network, Tree
from xenflow.model.succession import others, reordered

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
        return in_words(self.json())

    def parts(self) -> Iterator[tuple[str, Changed]]:
        """Each kind of thing by its name in the network file."""
        for kind in PARTS:
            yield kind, getattr(self, kind)


def in_words(changed: Mapping[str, Mapping[str, Iterable[str]]]) -> str:
    """For people, on one line, what `NetworkDifference.json` says."""
    return "; ".join(kinds_in_words(changed))


def kinds_in_words(changed: Mapping[str, Mapping[str, Iterable[str]]]) -> Iterator[str]:
    """The same, a kind of things each."""
    for kind, ways in changed.items():
        names = (f"{SIGNS[way]}{name}" for way, found in ways.items() for name in found)
        yield f"{kind} {' '.join(names)}"


def compare(before: Network, after: Network) -> NetworkDifference:
    """What differs.  Of what is the same object in both nothing is looked at."""
    found = {part: _changed(getattr(before, part), getattr(after, part)) for part in PARTS}
    dirty_links = {*found["links"].names, *_whose_members_differ(before, after, found["routers"])}
    dirty_routers = set(found["routers"].names)
    for network in (before, after):
        dirty_routers |= {r.name for name in dirty_links for r, _ in network.members(name)}
    return NetworkDifference(
        **found, dirty_links=frozenset(dirty_links), dirty_routers=frozenset(dirty_routers)
    )


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changed:
    if before is after:
        return Changed()
    suspects = others(before, after)
    added = tuple(name for name in suspects if name not in before)
    gone = len(before) + len(added) - len(after)
    return Changed(
        added,
        tuple(name for name in before if name not in after) if gone else (),
        tuple(name for name in suspects if name in before and before[name] != after[name]),
    )


def _whose_members_differ(before: Network, after: Network, routers: Changed) -> Iterator[str]:
    """The links, of those in both, that other routers are on, or the same in another order."""
    if reordered(before.routers, after.routers):
        links = {*before.members_of, *after.members_of}
    else:
        both = (before.routers, after.routers)
        either = [known[name] for known in both for name in routers.names & known.keys()]
        links = {interface.link for router in either for interface in router.interfaces}
    for name in links & before.links.keys() & after.links.keys():
        if before.members(name) != after.members(name):
            yield name


def refusals(before: Network, after: Network, found: NetworkDifference | None = None) -> list[str]:
    """What cannot change while the routers forward, one line each, with what to do; [] where all
    of it can.  `found`: their difference, where it is known already.

    A link's tree may grow and lose branches, but not lie otherwise over a switch: what is under way
    there would be lost.  Ids, and VLAN ids, are not given to somebody else at once: flows that are
    theirs may be in switches still.  A tree may lie otherwise where its way led to a switch that
    goes with its controller: that host is lost, and nothing is under way there.
    """
    if found is None:
        found = compare(before, after)
    return [
        *_of_controllers(before, after, found.controllers),
        *_of_datapaths(before, after, found.datapaths),
        *_of_links(before, after, found.links),
        *_of_ids("routers", before, after, found.routers),
        *_of_ids("links", before, after, found.links),
        *_of_labels(before, after, found.links),
    ]


def expected_loss(before: Network, after: Network, found: NetworkDifference) -> list[str]:
    """Whose packets a change may cost, one line each; [] where it costs none.  Who is not named
    here forwards on as before."""
    lines = [f"switch {name} goes, with what it forwards" for name in found.datapaths.removed]
    lines += [f"link {name} goes, with what is on it" for name in found.links.removed]
    for name in found.links.changed:
        ends = {access.end for access in after.links[name].access}
        gone = [str(a.end) for a in before.links[name].access if a.end not in ends]
        lines += [f"link {name} loses access port {end}" for end in gone]
    run = {name for name, router in before.routers.items() if router.running}  # others lose nothing
    removed = filter(run.__contains__, found.routers.removed)
    lines += [f"router {name} goes, with what it forwards" for name in removed]
    for name in filter(run.__contains__, found.routers.changed):
        if not after.routers[name].running:
            lines.append(f"router {name} stops, with what it forwards")
            continue
        new = {interface.name: interface for interface in after.routers[name].interfaces}
        for old in before.routers[name].interfaces:
            now = new.get(old.name)
            if now is None or now.link != old.link:
                lines.append(f"router {name} leaves link {old.link} ({old.name})")
            elif now.mac != old.mac:
                words = "neighbours send to the one before until they ask again"
                lines.append(f"router {name}: {old.name} has another MAC address: {words}")
            elif now.vif != old.vif:
                lines.append(f"router {name}: {old.name} has another vif: it is connected anew")
    return lines


def _of_controllers(before: Network, after: Network, found: Changed) -> Iterator[str]:
    for name in found.changed:
        yield f"controllers.{name}: its addresses cannot change while it runs: restart it"
    if before.name != after.name:
        yield f'network.name: it is "{before.name}" here, and "{after.name}" in the file'


_NOT_OF_A_SWITCH = ("hypervisor", "other", "maintenance")
"""What of a datapath may become another while it forwards."""


def _of_datapaths(before: Network, after: Network, found: Changed) -> Iterator[str]:
    for name in found.changed:
        old, new = before.datapaths[name], after.datapaths[name]
        for key in (each.name for each in fields(Datapath)):
            if key not in _NOT_OF_A_SWITCH and getattr(old, key) != getattr(new, key):
                yield (
                    f"datapaths.{name}: {key} cannot change while it forwards: "
                    "remove it in one step and add it in the next"
                )


def _of_links(before: Network, after: Network, found: Changed) -> Iterator[str]:
    for name in found.changed:
        old, new = before.links[name], after.links[name]
        for key in ("vlan", "detour_vlan"):
            was, shall = getattr(old, key), getattr(new, key)
            if was != shall:
                yield (
                    f"links.{name}: {key} {was} cannot become {shall} while packets are under "
                    "way: remove the link in one step and add it in the next"
                )
                break
        for datapath in _lies_otherwise(old, new):
            was, shall = old.tree.up[datapath], new.tree.up[datapath]
            if was is not None and _lost(before, after, was.far(datapath).datapath):
                continue
            yield (
                f"links.{new.name}: at {datapath} its tree would lie {_way(shall)} and not "
                f"{_way(was)}: name its `root` ({_root(old)}) and its `cables`, for it to stay "
                "where it is"
            )


def _lies_otherwise(old: Link, new: Link) -> Iterator[str]:
    """The switches where a link's tree has another way towards its root."""
    if old.tree is not new.tree:
        for datapath in filter(new.tree.up.__contains__, old.tree.up):  # the same words each time
            was, shall = old.tree.up[datapath], new.tree.up[datapath]
            if was is not shall and not (was is not None and was.joins_as(shall)):
                yield datapath


def _lost(before: Network, after: Network, datapath: str) -> bool:
    """Whether a switch, and its controller, are there no more."""
    gone = datapath not in after.datapaths
    return gone and before.datapaths[datapath].controller not in after.controllers


def rejoined(before: Network, after: Network) -> list[str]:
    """The links whose trees join two switches, that they led to before, by another cable.  While
    somebody goes by the tree of before, packets may go round."""
    both = before.links.keys() & after.links.keys()
    return sorted(n for n in both if any(_joins(before.links[n].tree, after.links[n].tree)))


def _joins(old: Tree, new: Tree) -> Iterator[Cable]:
    if old is not new:
        cables = {cable.name for cable in old.up.values() if cable}
        for cable in filter(None, new.up.values()):
            ends = cable.a.datapath, cable.b.datapath
            if cable.name not in cables and all(map(old.reaches, ends)):
                yield cable


def _way(cable: Cable | None) -> str:
    return f"by cable {cable.name} ({cable.a}, {cable.b})" if cable is not None else "at its root"


def _root(link: Link) -> str:
    return next((name for name, cable in link.tree.up.items() if cable is None), "none")


def _of_ids(kind: str, before: Network, after: Network, found: Changed) -> Iterator[str]:
    old, new = getattr(before, kind), getattr(after, kind)
    owners = {"routers": before.router_names, "links": before.link_names}[kind]
    for name in (*found.changed, *found.added):
        number = new[name].id
        owner = owners.get(number, name)
        if owner != name:
            yield _taken(kind, name, f"id {number}", owner)
        elif name in old and old[name].id != number:
            yield (
                f"{kind}.{name}: id {old[name].id} cannot become {number}: remove it in "
                "one step and add it in the next"
            )


def _of_labels(before: Network, after: Network, found: Changed) -> Iterator[str]:
    for name in (*found.changed, *found.added):
        link = after.links[name]
        said = {name}
        for key, label in zip(("vlan", "detour_vlan"), link.labels, strict=True):
            for owner in before.links_by_label.get(label, ()):
                if owner not in said and before.meet(before.links[owner], link):
                    said.add(owner)
                    yield _taken("links", name, f"{key} {label}", owner)


def _taken(kind: str, name: str, what: str, owner: str) -> str:
    return (
        f"{kind}.{name}: {what} is {owner}'s: take another, or remove {owner} in one step and add "
        f"{name} in the next"
    )
