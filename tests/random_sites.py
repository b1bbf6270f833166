"""Random networks, and switches in them in any state, for what every flow must hold.

The states need not make sense to an operator: routers are forwarded for, live and are sent to on
any hosts, ports are missing or without carrier, and VMs say anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

from xenflow.model.network import (
    Access,
    Cable,
    Datapath,
    DatapathKind,
    End,
    Interface,
    Link,
    Network,
    Pipeline,
    Router,
)
from xenflow.model.placement import Mode, Placement
from xenflow.plan.laying import lay
from xenflow.routes.family import V4, V6
from xenflow.tables.next_hops import NextHopView
from xenflow.tables.site import FamilyView, RouterView, Site

ADDRESSES = (0x0A000101, 0x0A000201, 0x0A0001FF, 0xC0A80001, 0x0A020181)
ADDRESSES6 = (
    *(0x20010DB8 << 96 | 1 << 64 | n for n in (0, 1, 0x81)),
    *(0xFE80 << 112 | n for n in (1, 2)),
)
RULES: tuple[dict[str, Any], ...] = (
    {
        "match": {
            "in_port": "1",
            "dl_src": "02:00:00:00:00:01",
            "dl_dst": "02:00:00:00:00:02",
            "dl_vlan": 7,
            "dl_type": "0x800",
            "nw_src": "192.0.2.0/24",
            "nw_dst": "10.0.0.0/8",
            "nw_proto": 6,
            "nw_tos": 8,
            "tp_src": 1,
            "tp_dst": 80,
        },
        "actions": ["vlan:5", "dl-src:02:00:00:00:00:09", "dl-dst:02:00:00:00:00:0a", "queue:2:3"],
    },
    {
        "match": {"dl_type": "0x806", "nw_proto": 1, "nw_src": "192.0.2.1", "nw_dst": "192.0.2.2"},
        "actions": ["strip-vlan", "output:1"],
        "priority": 8999,
    },
    {"match": {}, "actions": ["normal"]},
)


def network(dice: Random) -> Network:
    """Hosts and plain switches, nearly all joined, with links and routers."""
    hosts = [f"h{n}" for n in range(dice.randint(1, 4))]
    names = hosts + [f"p{n}" for n in range(dice.randint(0, 3))]
    dice.shuffle(names)
    cables: dict[str, Cable] = {}
    pairs = [(name, dice.choice(names[:n])) for n, name in enumerate(names) if n]
    pairs += [tuple(dice.sample(names, 2)) for _ in range(dice.randint(0, 3)) if len(names) > 1]
    for n, (one, other) in enumerate(pairs):
        cables[f"c{n}"] = Cable(f"c{n}", End(one, f"{one}-c{n}"), End(other, f"{other}-c{n}"))
    macs = iter(range(0x0A0000000001, 0x0A0000001000))
    links = {}
    for n, vlan in enumerate(dice.sample(range(1, 2048), dice.randint(1, 5)), 1):
        access = tuple(
            Access(End(at, f"{at}-a{n}-{k}"), tuple(next(macs) for _ in range(dice.randint(0, 2))))
            for k, at in enumerate(dice.choices(names, k=dice.randint(0, 3)))
        )
        links[f"l{n}"] = Link(f"l{n}", n, vlan, vlan + 2048, access)
    routers = {}
    for n in range(1, dice.randint(2, 5)):
        interfaces = tuple(
            Interface(f"eth{k}", link, next(macs), f"r{n}.{k}")
            for k, link in enumerate(dice.sample([*links], dice.randint(1, min(3, len(links)))))
        )
        routers[f"r{n}"] = Router(f"r{n}", n, dice.choice(hosts), f"r{n}.9", interfaces)
    datapaths = {name: _datapath(dice, name, n) for n, name in enumerate(names, 1)}
    if len(hosts) == 2:  # a switch that no link reaches
        datapaths["p9"] = Datapath("p9", DatapathKind.PLAIN, 99, "c", other="normal")
    return lay(Network("random", {}, datapaths, cables, links, routers))


def _datapath(dice: Random, name: str, dpid: int) -> Datapath:
    other = dice.choice(("normal", "drop"))
    if name.startswith("p"):
        return Datapath(name, DatapathKind.PLAIN, dpid, "c", other=other)
    pipeline, nicira = dice.choice(
        (
            (Pipeline.PROACTIVE, True),
            (Pipeline.PROACTIVE, True),
            (Pipeline.REACTIVE, True),
            (Pipeline.REACTIVE, False),
        )
    )
    return Datapath(name, DatapathKind.HOST, dpid, "c", pipeline, nicira, other=other)


def site(dice: Random, net: Network, datapath: str) -> Site:
    """One of its switches, in any state."""
    names = [cable.near(datapath).port for cable in net.cables_of[datapath]]
    for link in net.links.values():
        names += [a.end.port for a in link.access if a.end.datapath == datapath]
    if datapath in net.hosts:
        names += [i.vif for router in net.routers.values() for i in router.interfaces]
    ports = {name: n for n, name in enumerate(names, 1) if dice.random() < 0.9}
    routers = net.routers.values()
    return Site(
        net,
        net.datapaths[datapath],
        ports,
        {r.name: _placement(dice, net, r) for r in routers if dice.random() < 0.95},
        {r.name: _view(dice, r) for r in routers if dice.random() < 0.8},
        frozenset(name for name in ports if dice.random() < 0.15),
    )


def _placement(dice: Random, net: Network, router: Router) -> Placement:
    hosts = [*net.hosts]
    to = dice.choice(hosts)
    found = Placement(
        router.name,
        (to, *dice.sample(hosts, dice.randint(0, len(hosts)))),
        dice.choice((to, dice.choice(hosts))),
        to,
        tuple(dice.sample(hosts, dice.randint(0, len(hosts)))),
        Mode.NATIVE if dice.random() < 0.2 else Mode.XENFLOW,
    )
    return replace(found, forwarders=found.forwarders[1:]) if dice.random() < 0.4 else found


def _view(dice: Random, router: Router) -> RouterView:
    names = [i.name for i in router.interfaces]
    addresses = dice.sample(ADDRESSES, dice.randint(0, len(ADDRESSES)))
    local = [(address, V4.host, dice.choice(("", "lo", *names))) for address in addresses]
    addresses = dice.sample(ADDRESSES6, dice.randint(0, len(ADDRESSES6)))
    local += [(address, V6.host, dice.choice(("lo", *names))) for address in addresses]
    if dice.random() < 0.2:
        local.append((0x0A030000, 16, "lo"))
    if dice.random() < 0.02:
        local += [(0x0B000000 + n, 32, dice.choice(("lo", *names))) for n in range(2100)]
    down = tuple(name for name in names if dice.random() < 0.2)
    off = tuple(name for name in down if dice.random() < 0.5)
    families = (FamilyView(down, "why" if dice.random() < 0.1 else "") for _ in range(2))
    return RouterView(tuple(sorted(local)), *families, off)


def next_hops(dice: Random, router: Router) -> Iterator[NextHopView]:
    """Some next hops of every kind."""
    for n in range(1, dice.randint(2, 12)):
        action = dice.choice(("vm", "drop", "via", "via", "via", "group"))
        if action == "via":
            family, known = dice.choice(((V4, ADDRESSES), (V6, ADDRESSES6)))
            near = dice.sample(known, dice.randint(0, 3))
            yield NextHopView(
                n,
                action,
                dice.choice((None, *router.interfaces)),
                dice.choice((0, 0x0A00000000AA)),
                tuple((address, 0x0A00000000BB) for address in near),
                mtu=dice.choice((0, 0, 1280, 65535)),
                family=family,
            )
        elif action == "group":
            weights = [dice.choice((1, 1, 2, 7, 999)) for _ in range(dice.randint(0, 5))]
            yield NextHopView(n, action, legs=tuple(enumerate(weights, 1)))
        else:
            yield NextHopView(n, action)
