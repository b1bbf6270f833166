"""From one network value to the next: what has not changed is the same object in both.

So telling them apart costs little (`difference` looks at objects first), and what one has computed
of itself (`network.INDICES`) is the next one's, but for the entries that are others.  The next one
is always equal to one that was made at once.  Nothing is checked here: that is for whoever has the
new entries, as it is for a network that is made at once.

`in_terms_of` is called by `store.network_file`, where a file is read anew; `others` and `reordered`
by `difference`.  `changed_with` serves tests and benchmarks so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import compress
from operator import eq, is_, is_not
from typing import Any

from xenflow.model.network import (
    INDICES,
    PARTS,
    Keys,
    Link,
    Network,
    Router,
    by_label,
    by_link,
)

Entries = dict[str, Any]
_OF_WHOLE_PARTS = {"hosts": ("datapaths",), "cables_of": ("datapaths", "cables")}
"""What is computed anew where one of these parts is another."""


def changed_with(network: Network, **entries: Mapping[str, Any]) -> Network:
    """The network with these entries more, by part and name, or in place of those of their names;
    None takes one away.  A link that comes, or lies otherwise, brings its tree."""
    given: dict[str, Mapping[str, Any]] = {**{part: {} for part in PARTS}, **entries}
    made = {part: _with(getattr(network, part), entries) for part, entries in given.items()}
    return _succeed(network, _made(network, made), given)


def _made(of: Network, parts: dict[str, Any]) -> Network:
    return Network(of.name, **parts, store=of.store, tls=of.tls)


def _with(old: Entries, entries: Mapping[str, Any]) -> Entries:
    if not entries:
        return old
    made = {**old, **entries}
    for name, entry in entries.items():
        if entry is None:
            del made[name]
    return made


def is_another(old: Any, new: Any) -> bool:
    """Whether an entry is not the one that was there before, but has its name: a router that was
    destroyed, or stopped, meanwhile."""
    return isinstance(old, Router) and (old.id, old.started) != (new.id, new.started)


def others_by_name(before: Network, after: Network) -> frozenset[str]:
    """The routers in both that are such."""
    both = before.routers.keys() & after.routers.keys()
    return frozenset(n for n in both if is_another(before.routers[n], after.routers[n]))


def in_terms_of(before: Network, after: Network) -> Network:
    """A network equal to `after`, and in its order, of what `before` has wherever that is equal."""
    made = {part: _in_terms_of(getattr(before, part), getattr(after, part)) for part in PARTS}
    other = {part: _others(getattr(before, part), entries) for part, entries in made.items()}
    return _succeed(before, _made(after, made), other)


def _in_terms_of(old: Entries, new: Entries) -> Entries:
    made = {name: old[name] if old.get(name) == entry else entry for name, entry in new.items()}
    same = len(made) == len(old) and all(map(is_, made.values(), old.values()))
    return old if same else made


def _others(old: Entries, new: Entries) -> list[str]:
    """The names of those that are others, or gone."""
    if old is new:
        return []
    return [*others(old, new), *(name for name in old if name not in new)]


def others(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The names, in the order of `new`, of the objects that `old` does not have under them."""
    return list(compress(new, map(is_not, map(old.get, new), new.values())))


def reordered(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether those that are in both stand in another order."""
    if old is new or all(map(eq, old, new)):  # what one of them has more comes last
        return False
    return list(filter(new.__contains__, old)) != list(filter(old.__contains__, new))


def _succeed(before: Network, after: Network, other: Mapping[str, Iterable[str]]) -> Network:
    """`after`, with what `before` computes of itself, as it is now; `other`: the names, by part, of
    all entries that are others."""
    known, taken = vars(before), vars(after)
    for index, (part, keys) in INDICES.items():
        old, new = getattr(before, part), getattr(after, part)
        taken[index] = _reindexed(getattr(before, index), old, new, other[part], keys)
    if not reordered(before.routers, after.routers):
        taken["members_of"] = _members_of(before, after, other["routers"])
    taken["links_by_label"] = _links_by_label(before, after, other["links"])
    for attribute, parts in _OF_WHOLE_PARTS.items():
        if attribute in known and all(getattr(before, p) is getattr(after, p) for p in parts):
            taken[attribute] = known[attribute]
    if "trees_digest" in known and not any(
        _lies_otherwise(before.links.get(name), after.links.get(name)) for name in other["links"]
    ):
        taken["trees_digest"] = known["trees_digest"]
    return after


def _reindexed(
    index: dict[Any, Any], old: Entries, new: Entries, names: Iterable[str], keys: Keys
) -> dict[Any, Any]:
    left = [key for name in names if name in old for key, _ in keys(old[name])]
    come = [found for name in names if name in new for found in keys(new[name])]
    if left == [key for key, _ in come] and all(index[key] == what for key, what in come):
        return index
    made = dict(index)
    for key in left:
        made.pop(key, None)
    made.update(come)
    return made


def _members_of(before: Network, after: Network, names: Iterable[str]) -> dict[str, Any]:
    either = [n.routers[name] for n in (before, after) for name in names if name in n.routers]
    links = {interface.link for router in either for interface in router.interfaces}
    if not links:
        return before.members_of
    there = {router.name for link in links for router, _ in before.members(link)} | set(names)
    found = by_link(map(after.routers.__getitem__, filter(there.__contains__, after.routers)))
    made = {**before.members_of, **{link: found[link] for link in links if link in found}}
    for link in links - found.keys():
        made.pop(link, None)
    return made


def _links_by_label(
    before: Network, after: Network, names: Iterable[str]
) -> dict[int, tuple[str, ...]]:
    either = [n.links[name] for n in (before, after) for name in names if name in n.links]
    labels = {label for link in either for label in link.labels}
    if not labels:
        return before.links_by_label
    old = before.links_by_label
    there = {link.name: None for link in either}
    there |= dict.fromkeys(name for label in labels for name in old.get(label, ()))
    found = by_label(after.links[name] for name in there if name in after.links)
    made = {**old, **{label: found[label] for label in labels if label in found}}
    for label in labels - found.keys():
        made.pop(label, None)
    return made


def _lies_otherwise(old: Link | None, new: Link | None) -> bool:
    return old is None or new is None or old.tree != new.tree
