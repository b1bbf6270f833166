"""What the verbs that change one thing make of a network: pure functions, a module a kind.

An edit takes the network, the words of the command line, and where the routers are now, and returns
another network.  `mgmt.verbs.edit` makes a verb of each kind, and has the network become what an
edit returns.  What an edit does not look at (a port that is taken, a MAC address) the reader of
network files does.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mgmt.session import UsageError, known
from xenflow.model.network import Access, Cable, End, Network
from xenflow.model.values import mac_number

Option = tuple[str, Mapping[str, Any]]
"""As `ArgumentParser.add_argument` takes it."""
Places = Mapping[str, frozenset[str]]
"""Router -> the hosts that it needs now."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One way to change a kind of thing: `xenflow KIND NAME THING`.

    makes   (network, words of the command line, where routers are): the network there shall be;
            raises UsageError
    places  whether it must be known where the routers are
    then    of what takes two steps: (the network as it was, words, where routers are) -> what there
            shall be once the first is in force; where that is what `makes` makes, one is enough
    """

    name: str
    says: str
    makes: Callable[[Network, Namespace, Places], Network]
    options: tuple[Option, ...] = ()
    places: bool = False
    then: Callable[[Network, Namespace, Places], Network] | None = None


def new(kind: str, name: str, there: Collection[str]) -> str:
    """A name that nothing of the kind has.  Raises UsageError."""
    if name in there:
        raise UsageError(f"there is a {kind} {name} already")
    return name


def next_free(taken: Collection[int], highest: int) -> int:
    """One more than the highest there is; where there is none, the lowest that is free."""
    number = max(taken, default=0) + 1
    if number > highest:
        number = next((n for n in range(1, highest) if n not in taken), highest)
    return number


def without(entries: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The entries but those of some names."""
    return {name: entry for name, entry in entries.items() if name not in names}


def refuse_used(what: str, uses: Iterable[str]) -> None:
    """Raises UsageError where something is in use, with everything that uses it."""
    if found := list(dict.fromkeys(uses)):
        raise UsageError(f"{what} is in use: {'; '.join(found)}")


def end_of(network: Network, text: str, other: str) -> End:
    """SWITCH[:PORT]; a port that is not named is called after the switch at the `other` end."""
    name, _, port = text.partition(":")
    return End(known("switch", name, network.datapaths).name, port or f"to-{other}")


def switch_of(text: str) -> str:
    """The switch of [PORT=]SWITCH[:PORT]."""
    return text.rpartition("=")[2].partition(":")[0]


def cabled(network: Network, name: str, cables: Iterable[str]) -> Network:
    """The same with cables from one switch to others, [PORT=]SWITCH[:PORT] each."""
    made = dict(network.cables)
    for text in cables:
        port, _, far = text.rpartition("=")
        b = end_of(network, far, name)
        cable = new("cable", f"{name}-{b.datapath}", made)
        made[cable] = Cable(cable, End(name, port or f"to-{b.datapath}"), b)
    return replaced(network, cables=made)


def access_of(text: str) -> Access:
    """DATAPATH:PORT[,MAC]...  Whether that is right the reader of files says."""
    end, *macs = text.split(",")
    datapath, _, port = end.partition(":")
    try:
        return Access(End(datapath, port), tuple(map(mac_number, macs)))
    except ValueError:
        raise UsageError(f"--access {text}: expected DATAPATH:PORT[,MAC]...") from None


def terminals(network: Network, places: Places, link: str) -> dict[str, str]:
    """The switches that a link must reach, each with who is there."""
    found = {a.end.datapath: f"access port {a.end}" for a in network.links[link].access}
    for router, _ in network.members(link):
        for host in places.get(router.name, {router.home}):
            found.setdefault(host, f"router {router.name} at {host}")
    return found


def crossing(network: Network, places: Places, cables: Collection[str]) -> Iterable[str]:
    """The links that need some cables, in words: their trees lead over them to who is there."""
    for link in network.links.values():
        if named := [cable for cable in link.cables if cable in cables]:
            yield f"link {link.name} names cable {', '.join(named)} (`xenflow link set`)"
            continue
        ends = {name for name in terminals(network, places, link.name) if link.tree.reaches(name)}
        for name in ends:
            path = link.tree.path(name, min(ends))
            steps = zip(path, path[1:], strict=False)
            used = {link.tree.cable_between(*step).name for step in steps} & set(cables)
            if used:
                yield f"link {link.name} lies on cable {', '.join(sorted(used))}"


def replaced(network: Network, **parts: Mapping[str, Any]) -> Network:
    """The same with other entries of some parts."""
    given: dict[str, Any] = {part: dict(entries) for part, entries in parts.items()}
    return replace(network, **given)
