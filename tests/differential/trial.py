"""One configuration tried: both routers are told the same and get the same frames."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface
from itertools import zip_longest
from random import Random

from tests.differential import cases, configurations
from tests.differential.cases import FrameCase
from tests.differential.compare import Report, compare
from tests.differential.configurations import DEAD, KernelConfiguration
from tests.differential.rig import PORTS, BatchOutcome, Rig
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
INTRODUCED = 16
"""Addresses of each network whose stations the router knows beforehand."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration's seed, and what came of it.

    unsteady   cases that were treated differently, but not when they were sent again
    by_switch  frames that the switch routed without its VM
    """

    seed: str
    oddity: str
    slow: str
    report: Report
    unsteady: int
    by_switch: int

    def __str__(self) -> str:
        report = self.report
        unsteady = f", {self.unsteady} only once" if self.unsteady else ""
        return (
            f"{self.seed:12} {self.oddity:22} {report.cases} cases, {report.answered} answered,"
            f" {self.by_switch} by the switch, {len(report.differences)} differ{unsteady}"
            f"{f'; {self.slow}' if self.slow else ''}"
        )


def run(rig: Rig, seed: str, count: int, first_id: int) -> Trial:
    """Try the configuration of a seed with `count` frames.  Both routers are bare before and
    after.  Raises LabError where XenFlow does not take the configuration in.

    A difference counts where it is there whenever the case is sent: a machine that is busy with
    something else loses a frame now and then.
    """
    config = configurations.make(seed)
    random = Random(f"{seed} frames")
    rig.resolve = config.station
    try:
        rig.configure(config.commands, config.settings, config.filters)
        _settle(rig, config)
        made = [cases.make(first_id + n, config, random) for n in range(count)]
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
        slow = str(rig.row()["slow"])
    finally:
        _undo(rig, config)
    unsteady = found - len(report.differences)
    return Trial(seed, config.oddity, slow, report, unsteady, outcome.by_switch)


def _turns(again: list[FrameCase]) -> Iterator[list[FrameCase]]:
    """What is sent again, so that no source meets a kernel's limit of errors: one case of each
    source at a time.  Where that would take long, the routers do differ: all at once."""
    by_source: dict[int, list[FrameCase]] = defaultdict(list)
    for case in again:
        by_source[pk.parse(case.frame).nw_src].append(case)
    if max(map(len, by_source.values())) > MOST_TURNS:
        yield again
        return
    for turn in zip_longest(*by_source.values()):
        time.sleep(ERROR_S)
        yield [case for case in turn if case is not None]


def _send(rig: Rig, made: list[FrameCase], patience: int = 1) -> BatchOutcome:
    """`patience`: so many times as long as usual what comes out late is waited for."""
    made = sorted(made, key=lambda case: not case.early)
    least_s = LEAST_WITH_FRAGMENTS_S if made[0].early else LEAST_S
    frames = ((case.port, case.frame) for case in made)
    return rig.run(frames, patience * least_s, patience * QUIET_S)


def _settle(rig: Rig, config: KernelConfiguration) -> None:
    """Until the switch decides by all of it: next hops resolved as far as somebody answers."""
    rig.await_true("the policy", lambda: bool(rig.row()["slow"]) == config.slow)
    for port, address in config.own:
        _introduce(rig, config, port, address)
    rig.await_true("next hops", lambda: all(g & 15 == DEAD for g in rig.unresolved()))
    if config.new_mac is not None:
        port, gateway = config.new_mac
        config.changed.add(gateway)
        mac = config.station(port, gateway)
        assert mac is not None
        announcement = pk.arp(1, mac, gateway, 0, gateway)
        rig.send(port, pk.ethernet(pk.BROADCAST, mac, pk.ETH_ARP, announcement))
        rig.await_true("the new MAC address", lambda: rig.known_mac(port, gateway) == mac)
    rig.in_force()


def _introduce(rig: Rig, config: KernelConfiguration, port: int, own: IPv4Interface) -> None:
    """A few stations ask for the router, and are known to it from then on."""
    first = int(own.network.network_address) + 1
    for address in range(first, min(first + INTRODUCED, int(own.network.broadcast_address))):
        mac = config.station(port, address)
        if mac is not None and address != int(own.ip):
            request = pk.arp(1, mac, address, 0, int(own.ip))
            rig.send(port, pk.ethernet(pk.BROADCAST, mac, pk.ETH_ARP, request))


def _undo(rig: Rig, config: KernelConfiguration) -> None:
    rig.undo(
        [
            *config.undo,
            *(f"link set e{port} up" for port in range(PORTS)),
            "route flush table main",
            "nexthop flush",
            *(f"address flush dev e{port}" for port in range(PORTS)),
            *(f"neighbour flush dev e{port} nud all" for port in range(PORTS)),
        ],
        {"net/ipv4/ip_forward": 1, **config.restore},
    )
