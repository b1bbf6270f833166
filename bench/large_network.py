"""What one change costs in a large network, beside the same change in a small one, at a host that
carries as many routers in both; reading the whole file anew there; and planning a move.

The controller's own classes, in this process; the switch's answers come at once.  So it is the cost
of deciding, of packing and of keeping on the disk that is compared, and nothing else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.results import Found, Row
from xenflow.control.rule_table import RuleTable
from xenflow.model.network import (
    DETOUR_VLAN_OFFSET,
    Access,
    Cable,
    Controller,
    Datapath,
    DatapathKind,
    End,
    Interface,
    Link,
    Network,
    Router,
)
from xenflow.model.placement import Placement
from xenflow.model.succession import changed_with
from xenflow.openflow import wire
from xenflow.openflow.statistics import StatsReply
from xenflow.plan import migration as mig
from xenflow.plan.laying import lay
from xenflow.store import network_file
from xenflow.switch.clock import Clock
from xenflow.switch.proof import Bound
from xenflow.switch.switch import Switch

HOST = "h0"
ROUTERS_A_HOST = 5
SMALL = (2, 1, 10, 20)
LARGE = (200, 100, 1000, 2047)
"""Hosts, plain switches, routers, virtual links."""
BESIDE = "in a network of ten"
BOUND = f"{BESIDE}; shall be at most 1.5"


def make_network(hosts: int, switches: int, routers: int, links: int) -> Network:
    """Plain switches around the first, hosts around the switches; link n joins router n and the
    next one, and every tenth ends in an access port at its first router's host."""
    datapaths = {
        f"h{n}": Datapath(f"h{n}", DatapathKind.HOST, 1000 + n, f"c{n}", other="drop")
        for n in range(hosts)
    }
    datapaths |= {
        f"s{n}": Datapath(f"s{n}", DatapathKind.PLAIN, 1 + n, "edge", other="drop")
        for n in range(switches)
    }
    joined = [(f"s{n}", "s0") for n in range(1, switches)]
    joined += [(f"h{n}", f"s{n % switches}") for n in range(hosts)]
    cables = {
        f"{one}-{other}": Cable(f"{one}-{other}", End(one, f"to-{other}"), End(other, f"to-{one}"))
        for one, other in joined
    }
    homes = [f"h{n * hosts // routers}" for n in range(routers)]
    interfaces: list[list[Interface]] = [[] for _ in range(routers)]
    made: dict[str, Link] = {}
    for n in range(links):
        first = n if n < 2 * routers else n + routers // 2  # the last ones far from the first host
        access = (Access(End(homes[first % routers], f"desk{n}"), (0x020000000000 + n,)),)
        made[f"l{n}"] = Link(
            f"l{n}",
            n + 1,
            n + 1,
            n + 1 + DETOUR_VLAN_OFFSET,
            access if n % 10 == 0 else (),
            root="s0",
        )
        for k in dict.fromkeys((first % routers, (first + 1) % routers)):
            number = len(interfaces[k])
            mac = 0x020100000000 + k * 256 + number
            interfaces[k].append(Interface(f"eth{number}", f"l{n}", mac, f"r{k}.{number}"))
    return lay(
        Network(
            "large",
            {
                name: Controller(name, ("127.0.0.1", 6633), f"tcp://127.0.0.1:{10_000 + n}")
                for n, name in enumerate(dict.fromkeys(d.controller for d in datapaths.values()))
            },
            datapaths,
            cables,
            made,
            {
                f"r{k}": Router(f"r{k}", k + 1, homes[k], f"r{k}.ctl", tuple(interfaces[k]))
                for k in range(routers)
            },
        )
    )


def text_of(network: Network) -> str:
    """A network file that says so."""
    lines = ["[network]", f'name = "{network.name}"']
    for controller in network.controllers.values():
        address = ":".join(map(str, controller.openflow))
        lines += [f"[controllers.{controller.name}]", f'openflow = "{address}"']
        lines += [f'manage = "{controller.manage}"']
    for d in network.datapaths.values():
        lines += [f"[datapaths.{d.name}]", f'kind = "{d.kind.value}"', f'dpid = "{d.dpid:016x}"']
        lines += [f'controller = "{d.controller}"', f'other = "{d.other}"']
    lines += ["[cables]", *(f'{c.name} = ["{c.a}", "{c.b}"]' for c in network.cables.values())]
    for link in network.links.values():
        lines += [f"[links.{link.name}]", f"id = {link.id}", f"vlan = {link.vlan}"]
        lines += [f'root = "{link.root}"']
        ends = (f'{{at = "{a.end}", macs = [{", ".join(map(_mac, a.macs))}]}}' for a in link.access)
        lines += [f"access = [{', '.join(ends)}]"]
    for router in network.routers.values():
        lines += [f"[routers.{router.name}]", f"id = {router.id}", f'home = "{router.home}"']
        lines += [f'control_vif = "{router.control_vif}"', "interfaces = ["]
        lines += [
            f'{{name = "{i.name}", link = "{i.link}", mac = {_mac(i.mac)}, vif = "{i.vif}"}},'
            for i in router.interfaces
        ]
        lines += ["]"]
    return "\n".join(lines) + "\n"


def _mac(number: int) -> str:
    return '"' + number.to_bytes(6, "big").hex(":") + '"'


class _Answering:
    """A connection to a switch that answers all questions at once, and holds nothing."""

    def __init__(self) -> None:
        self.todo: deque[Callable[[], None]] = deque()
        self.switch: Switch

    def later(self, _: float, call: Callable[..., Any], *arguments: Any) -> None:
        """In place of the core's `callDelayed`: without the delay."""
        if getattr(call, "__name__", "") not in ("_watch", "_look"):
            self.todo.append(lambda: call(*arguments))

    def send(self, data: bytes) -> None:
        """What the controller writes."""
        for message in wire.split(data)[0]:
            kind, xid = message[1], int.from_bytes(message[4:8], "big")
            if kind == wire.MessageType.BARRIER_REQUEST:
                self.todo.append(partial(self.switch.channel.on_barrier, xid))
            elif kind == wire.MessageType.STATS_REQUEST:
                self.todo.append(partial(self.switch.channel.on_stats, StatsReply(xid, False, [])))

    def run(self) -> None:
        """Until nothing is left to be done."""
        while self.todo:
            self.todo.popleft()()


class Host:
    """The Rule Table of one host of a network, all its routers' vifs and cables there."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.wire = _Answering()
        self._folder = TemporaryDirectory(prefix="xenflow-bench-")
        state = Path(self._folder.name)
        self.table = RuleTable(network, "c0", state, Clock(self.wire.later), lambda d: Bound(0.0))
        self.switch = self.wire.switch = self.table.switches[HOST]
        here = [r for r in network.routers.values() if r.home == HOST]
        names = [c.near(HOST).port for c in network.cables_of[HOST]]
        names += [i.vif for r in here for i in r.interfaces]
        names += [
            a.end.port for k in network.links.values() for a in k.access if a.end.datapath == HOST
        ]
        self.switch.connect(self.wire, [(name, n, True) for n, name in enumerate(names, 1)])
        self.wire.run()
        self.router = here[0]
        self.vif = self.router.interfaces[0].vif
        self._up = True
        self.reading_s = 0.0

    def port(self) -> None:
        """A vif loses or gets its carrier."""
        self._up = not self._up
        self.switch.port_changed(self.vif, self.switch.ports[self.vif][0], self._up, False)
        self.wire.run()

    def place(self) -> None:
        """A router is told to be between two hosts, or at home again."""
        known = self.switch.placements[self.router.name]
        reaches = () if known.reaches else ("h1",)
        self.table.place(known.step(reaches=reaches), [HOST], False, lambda error: None)
        self.wire.run()

    def link(self) -> None:
        """A link gets or loses a station."""
        self.table.change(self._other_link())
        self.wire.run()

    def _other_link(self) -> Network:
        network = self.table.network
        name = self.router.interfaces[0].link
        access = network.links[name].access
        changed = () if access else (Access(End(HOST, "desk0"), (0x020000FF0000,)),)
        return changed_with(network, links={name: replace(network.links[name], access=changed)})

    def newcomer(self) -> None:
        """A router comes, or goes."""
        network = self.table.network
        on = Interface("eth0", self.router.interfaces[0].link, 0x020000FE0000, "new.0")
        comes = Router("new", 2000, HOST, "new.ctl", (on,))
        routers = {"new": None if "new" in network.routers else comes}
        self.table.change(changed_with(network, routers=routers))
        self.wire.run()

    def file(self) -> None:
        """The same of the link, from a file."""
        file = Path(self._folder.name) / "network.toml"
        file.write_text(text_of(self._other_link()))
        begun = time.thread_time()
        self.table.change(network_file.load(file, self.table.network))
        self.wire.run()
        self.reading_s = time.thread_time() - begun


def _time_of(act: Callable[[], None], times: int) -> float:
    begun = time.thread_time()
    for _ in range(times):
        act()
    return (time.thread_time() - begun) / times * 1e3


def change_in_large_network(runs: int) -> Found:
    """A port, a router's place, a link, a router: each in the large network and in the small one,
    in turns, in ms of the controller; and one link by a file that is read as a whole."""
    small, large = Host(make_network(*SMALL)), Host(make_network(*LARGE))
    rows = []
    for what, act, bound in (
        ("port", Host.port, BOUND),
        ("place", Host.place, BOUND),
        ("link", Host.link, BOUND),
        ("router", Host.newcomer, BOUND),
        ("file", Host.file, f"{BESIDE}; in proportion to the file"),
    ):
        times: dict[Host, list[float]] = {small: [], large: []}
        for run in range(runs + 1):
            for host, series in times.items():
                if what == "file":
                    act(host)
                    found = host.reading_s * 1e3
                else:
                    found = _time_of(partial(act, host), 10)
                if run:  # in the first what is computed once is made
                    series.append(found)
        name = f"{what}_change_in_large_network"
        rows.append(Row.against(name, times[large], "ms", bound, times[small]))
    return Found(rows, {})


def plan_move_in_large_network(runs: int) -> Found:
    """The stages of a move, and who is told, in ms."""
    small, large = make_network(*SMALL), make_network(*LARGE)

    def plan(network: Network) -> Callable[[], None]:
        start = Placement("r0", (HOST,), HOST, HOST)

        def act() -> None:
            assert mig.stages(network, start, "h1", mig.Order.OVERLAPPED)

        return act

    acts = {name: plan(network) for name, network in (("small", small), ("large", large))}
    times = {name: [_time_of(act, 20) for _ in range(runs)] for name, act in acts.items()}
    row = Row.against("plan_move_in_large_network", times["large"], "ms", BESIDE, times["small"])
    return Found([row], {})
