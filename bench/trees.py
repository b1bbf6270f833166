"""What it costs to lay the links of a large network, and one link more beside them.

`plan.laying` and `plan.labels` in this process: each link joins two routers that may be anywhere,
is promised bandwidth, and gets a tree over what it needs, and VLAN ids that are free there.
"""

from __future__ import annotations

import time
from dataclasses import replace
from random import Random

from bench.results import Found, Row
from xenflow.model.network import (
    Cable,
    Datapath,
    DatapathKind,
    End,
    Interface,
    Link,
    Network,
    Router,
)
from xenflow.plan.labels import Labels
from xenflow.plan.laying import Laying, lay, unlaid

HOSTS, SWITCHES, ROUTERS, LINKS = 200, 100, 1000, 10_000
FEW = 10
TIMES = 100
BOUND = "with ten links on the same cables; shall be at most 1.5"


def make_network(hosts: int, switches: int, routers: int, links: int) -> Network:
    """Switches joined by twice as many cables, hosts at two switches each; not laid."""
    dice = Random(1)
    inner = [f"s{n}" for n in range(switches)]
    joined = [(f"s{n}", f"s{dice.randrange(n)}") for n in range(1, switches)]
    joined += [(a, b) for a, b in (dice.sample(inner, 2) for _ in range(switches))]
    joined += [(f"h{n}", f"s{k % switches}") for n in range(hosts) for k in (n, n * 7 + 3)]
    kinds = {f"h{n}": DatapathKind.HOST for n in range(hosts)} | dict.fromkeys(
        inner, DatapathKind.PLAIN
    )
    interfaces: list[list[Interface]] = [[] for _ in range(routers)]
    for n in range(links):
        for k in dict.fromkeys((n % routers, dice.randrange(routers))):
            eth = f"eth{len(interfaces[k])}"
            interfaces[k].append(Interface(eth, f"l{n}", 0, f"r{k}.{eth}"))
    return Network(
        "large",
        {},
        {
            name: Datapath(name, kind, n, "c", other="drop")
            for n, (name, kind) in enumerate(kinds.items(), 1)
        },
        {
            f"c{n}": Cable(f"c{n}", End(one, f"p{n}"), End(other, f"p{n}"), mbps=10_000)
            for n, (one, other) in enumerate(joined)
        },
        {f"l{n}": Link(f"l{n}", n + 1, 0, 0, mbps=10) for n in range(links)},
        {
            f"r{k}": Router(f"r{k}", k + 1, f"h{k * hosts // routers}", "", tuple(on))
            for k, on in enumerate(interfaces)
        },
    )


class Laid:
    """A network that is laid, and its first link, which comes and goes."""

    def __init__(self, network: Network) -> None:
        self.network = lay(network)
        assert not list(unlaid(self.network))
        self._laying = Laying(self.network)
        for link in self.network.links.values():
            self._laying.take(link)
        self._labels = Labels(self.network)
        self._link = next(iter(self.network.links.values()))

    def relaid(self) -> Link:
        """The link goes, and is laid anew."""
        self._laying.give_back(self._link)
        self._labels.give_back(self._link)
        new = self._laying.lay(replace(self._link, vlan=0, detour_vlan=0))
        labels = self._labels.choose(new)
        assert labels is not None
        self._link = replace(new, vlan=labels[0], detour_vlan=labels[1])
        self._labels.take(labels, new.tree.up)
        return self._link


def lay_large_network(
    runs: int,
    hosts: int = HOSTS,
    switches: int = SWITCHES,
    routers: int = ROUTERS,
    links: int = LINKS,
) -> Found:
    """All links laid from nothing, in seconds of the processor; and one beside the others, in ms,
    in turns with the same beside ten."""
    network = make_network(hosts, switches, routers, links)
    begun = time.thread_time()
    many = Laid(network)
    whole_s = time.thread_time() - begun
    few = Laid(replace(network, links=dict(list(network.links.items())[:FEW])))
    times: dict[str, list[float]] = {"many": [], "few": []}
    for _ in range(runs):
        for name, laid in (("many", many), ("few", few)):
            begun = time.thread_time()
            for _ in range(TIMES):
                laid.relaid()
            times[name].append((time.thread_time() - begun) / TIMES * 1e3)
    return Found(
        [
            Row("lay_large_network", round(whole_s, 3), "s"),
            Row.against("lay_link_in_large_network", times["many"], "ms", BOUND, times["few"]),
        ],
        {},
    )
