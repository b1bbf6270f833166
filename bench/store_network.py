"""A large network as rows of a store: hosts on a ring of plain switches, each link where it is
needed and nowhere else.  Used by `change_to_in_force`."""

from __future__ import annotations

from dataclasses import replace

from bench.large_network import make_network
from xenflow.model.network import DETOUR_VLAN_OFFSET, Cable, End, Network, Tree

VLANS = 2000


def ring(hosts: int, switches: int, routers: int, links: int) -> Network:
    """As `large_network.make_network`, on a ring: host n is at switch n, counted round, whose
    controller is that of host n.  A link lies on the least that joins those who are on it; VLAN ids
    are used again, as no two links need to share a cable."""
    made = make_network(hosts, switches, routers, links)
    cables: dict[str, Cable] = {}
    ports = [(f"s{n}", f"s{(n + 1) % switches}") for n in range(switches if switches > 2 else 1)]
    ports += [(f"h{n}", f"s{n % switches}") for n in range(hosts)]
    for one, other in ports:
        name = f"{one}-{other}"
        cables[name] = Cable(name, End(one, f"to-{other}"), End(other, f"to-{one}"))
    datapaths = {
        name: replace(d, controller=f"c{name[1:]}") if d.controller == "edge" else d
        for name, d in made.datapaths.items()
    }
    controllers = {name: c for name, c in made.controllers.items() if name != "edge"}
    trees: dict[frozenset[str], Tree] = {}
    placed = {}
    for name, link in made.links.items():
        there = frozenset(
            [router.home for router, _ in made.members(name)]
            + [access.end.datapath for access in link.access]
        )
        if there not in trees:
            trees[there] = _least(there, switches, cables)
        vlan = (link.id - 1) % VLANS + 1
        placed[name] = replace(
            link,
            vlan=vlan,
            detour_vlan=vlan + DETOUR_VLAN_OFFSET,
            root=next(n for n, cable in trees[there].up.items() if cable is None),
            tree=trees[there],
        )
    return Network("ring", controllers, datapaths, cables, placed, made.routers)


def _least(hosts: frozenset[str], switches: int, cables: dict[str, Cable]) -> Tree:
    """Of one host itself; of neighbours on the ring, by way of their switches."""
    if len(hosts) == 1:
        return Tree(dict.fromkeys(hosts))
    up: dict[str, Cable | None] = {}
    at = sorted({int(host[1:]) % switches for host in hosts})
    if at[-1] - at[0] > 1:  # round the end
        at.reverse()
    for place, number in enumerate(at):
        before = f"s{at[place - 1]}"
        either = (f"s{number}-{before}", f"{before}-s{number}")
        up[f"s{number}"] = None if not place else next(cables[n] for n in either if n in cables)
    for host in hosts:
        up[host] = cables[f"{host}-s{int(host[1:]) % switches}"]
    return Tree(up)
