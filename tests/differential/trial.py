"""One configuration tried: both routers are told the same and get the same frames."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import Any

from tests.differential import cases, cases6, configurations, configurations6
from tests.differential.cases import FrameCase
from tests.differential.compare import Report, compare
from tests.differential.configurations import DEAD, PORTS, Both, Interface, KernelConfiguration
from tests.differential.rig import (
    OVERRIDE,
    BatchOutcome,
    Rig,
    neighbour_message,
    solicited_node,
)
from xenflow.openflow import packet as pk

LEAST_S = 0.45
"""A router gives a next hop up after three times `rig.PROBE_MS`, and says so to the sender."""
LEAST_WITH_FRAGMENTS_S = 1.5
"""Fragments for the router itself are given up after a second (ipfrag_time)."""
QUIET_S = 0.2
RETRIES = 3
ERROR_S = 1.1
"""A kernel tells a source of one unroutable packet a second, after the first five
(net.ipv4.route.error_cost, error_burst; no setting of a namespace), each by its own clock."""
MOST_TURNS = 8
INTRODUCED, INTRODUCED6 = 16, 8
"""Addresses of each network whose stations the router knows beforehand."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration's seed, and what came of it.

    unsteady   cases that were treated differently, but not when they were sent again
    by_switch  frames that the switch routed without its VM, by family
    """

    seed: str
    oddity: str
    slow: str
    report: Report
    unsteady: int
    by_switch: Counter[int]

    def __str__(self) -> str:
        report = self.report
        unsteady = f", {self.unsteady} only once" if self.unsteady else ""
        return (
            f"{self.seed:12} {self.oddity:44} "
            f"answered {_pair(report.answered)} of {_pair(report.cases)}, "
            f"{_pair(self.by_switch)} by the switch, {len(report.differences)} differ{unsteady}"
            f"{f'; {self.slow}' if self.slow else ''}"
        )


def _pair(counts: Counter[int]) -> str:
    return f"{counts[4]} + {counts[6]}"


def run(rig: Rig, seed: str, count: int, first_id: int) -> Trial:
    """Try the configuration of a seed with `count` frames of each family.  Both routers are bare
    before and after.  Raises LabError where XenFlow does not take the configuration in.

    A difference counts where it is there whenever the case is sent: a machine that is busy with
    something else loses a frame now and then.
    """
    config = configurations6.beside(configurations.make(seed), seed)
    random, random6 = Random(f"{seed} frames"), Random(f"{seed} IPv6 frames")
    rig.resolve = config.station
    try:
        rig.configure(config)
        _settle(rig, config)
        first_id *= 2
        made = [cases.make(first_id + 2 * n, config.v4, random) for n in range(count)]
        made += [cases6.make(first_id + 2 * n + 1, config.v6, random6) for n in range(count)]
        outcome = _send(rig, made)
        report = compare(made, outcome, config)
        found = len(report.differences)
        for more in range(1, 1 + RETRIES):
            if not report.differences:
                break
            again = [d.case for d in report.differences if d.case is not None]
            if len(again) < len(report.differences):
                again = made
            report.differences = [
                difference
                for turn in _turns(again)
                for difference in compare(turn, _send(rig, turn, 2**more), config).differences
            ]
        row = rig.row()
        slow = "; ".join(filter(None, (row["slow"], row["slow6"])))
    finally:
        _undo(rig, config)
    unsteady = found - len(report.differences)
    oddity = f"{config.v4.oddity} + {config.v6.oddity}"
    return Trial(seed, oddity, slow, report, unsteady, outcome.by_switch)


def _turns(again: list[FrameCase]) -> Iterator[list[FrameCase]]:
    """What is sent again, so that no source meets a kernel's limit of errors: one case of each
    source at a time, for IPv4.  Where that would take long, the routers do differ: all at once."""
    by_source: dict[int, list[FrameCase]] = defaultdict(list)
    for case in again:
        by_source[pk.parse(case.frame).nw_src or -case.id].append(case)
    if max(map(len, by_source.values())) > MOST_TURNS:
        yield again
        return
    for turn in zip_longest(*by_source.values()):
        time.sleep(ERROR_S)
        yield [case for case in turn if case is not None]


def _send(rig: Rig, made: list[FrameCase], patience: int = 1) -> BatchOutcome:
    """`patience`: so many times as long as usual what comes out late is waited for."""
    made = sorted(made, key=lambda case: (not case.early, case.id))
    least_s = LEAST_WITH_FRAGMENTS_S if made[0].early else LEAST_S
    frames = ((case.port, case.frame) for case in made)
    return rig.run(frames, patience * least_s, patience * QUIET_S)


def _settle(rig: Rig, config: Both) -> None:
    """Until the switch decides by all of it: next hops resolved as far as somebody answers."""
    rig.await_true("the policy", lambda: _as_wanted(rig.row(), config))
    for half, introduce in ((config.v4, _introduce), (config.v6, _introduce6)):
        for port, address in half.own:
            introduce(rig, half, port, address)
    rig.await_true("next hops", lambda: all(g & 15 == DEAD for g in rig.unresolved()))
    for half in (config.v4, config.v6):
        if half.new_mac is not None:
            port, gateway = half.new_mac
            half.changed.add(gateway)
            mac = half.station(port, gateway)
            assert mac is not None
            rig.send(port, _announcement(gateway, mac))
            rig.await_true(
                "the new MAC address", lambda p=port, g=gateway, m=mac: rig.known_mac(p, g) == m
            )
    rig.in_force()


def _as_wanted(row: dict[str, Any], config: Both) -> bool:
    """Whether the switch leaves a family to the VM where it must."""
    wanted = {"slow": config.v4.slow, "slow6": config.v6.slow}
    return all(slow is None or bool(row[name]) == slow for name, slow in wanted.items())


def _announcement(gateway: int, mac: int) -> bytes:
    """A station says its MAC address to all."""
    if gateway >> 32 == 0:
        return pk.ethernet(pk.BROADCAST, mac, pk.ETH_ARP, pk.arp(1, mac, gateway, 0, gateway))
    said = neighbour_message(136, gateway, cases6.ALL_NODES, gateway, mac, OVERRIDE)
    return pk.ethernet(0x333300000001, mac, pk.ETH_IPV6, said)


def _introduce(rig: Rig, config: KernelConfiguration, port: int, own: Interface) -> None:
    """A few stations ask for the router, and are known to it from then on."""
    first = int(own.network.network_address) + 1
    for address in range(first, min(first + INTRODUCED, int(own.network.broadcast_address))):
        mac = config.station(port, address)
        if mac is not None and address != int(own.ip):
            request = pk.arp(1, mac, address, 0, int(own.ip))
            rig.send(port, pk.ethernet(pk.BROADCAST, mac, pk.ETH_ARP, request))


def _introduce6(rig: Rig, config: KernelConfiguration, port: int, own: Interface) -> None:
    first = int(own.network.network_address) + 1
    group, to = solicited_node(int(own.ip))
    for address in range(first, min(first + INTRODUCED6, int(own.network.broadcast_address) + 1)):
        mac = config.station(port, address)
        if mac is not None and not config.is_own(address):
            request = neighbour_message(135, address, group, int(own.ip), mac)
            rig.send(port, pk.ethernet(to, mac, pk.ETH_IPV6, request))


def _undo(rig: Rig, config: Both) -> None:
    ports = range(PORTS)
    rig.undo(
        [
            *config.v4.undo,
            *(f"link set e{port} up" for port in ports),
            "route flush table main",
            "nexthop flush",
            *(f"address flush dev e{port}" for port in ports),
            *(f"neighbour flush dev e{port} nud all" for port in ports),
        ],
        # Of table main only what was told: the kernel's own routes lead to the control link, too.
        [*config.v6.undo, "route flush table main proto boot"],
        {"net/ipv4/ip_forward": 1, **config.v4.restore, **config.v6.restore},
    )
