"""The main job on genuine Xen: the router moves between two hosts that share its neighbours.

One journey of ten moves under traffic, of which each test looks at one side; and requests that
cannot be met.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import judge, operate
from lab.description import ROOT
from lab.judge import Counts
from lab.probe import ProbePair
from tests.lab.live import datapaths, difference, flows, settle, xenflow
from tests.xen.bed.bed import Bed
from tests.xen.bed_live import (
    BRIDGE,
    RATES_PPS,
    NeighbourProber,
    PingCount,
    Pings,
    adjacency_changes,
    bring_home,
    carried_rate,
    data_vifs,
    in_sync,
    migrate,
    other,
    ports,
    switch_flows,
    token,
    vif_packets,
    where,
)

TOPOLOGY = "xen"
MOVES = 10
ENDS = ("gen", "recv")
BY_BGP = ("10.1.0.77", "10.2.0.77")
"""Addresses of the machines that the router knows by BGP."""
ROUTER = "10.0.1.1"
KERNEL = "/etc/xen/vmlinuz-router"
"""In each Domain 0."""
OUT = ROOT / "out" / "xen"

Figure = Callable[[str, object], None]


# --- what is there -------------------------------------------------------------------------------


def test_both_hosts_are_genuine_xen(bed: Bed) -> None:
    for host, one in bed.hosts.items():
        info = dict(
            map(str.strip, line.split(":", 1))
            for line in one.ask("xl info").splitlines()
            if ":" in line
        )
        assert (info["xen_major"], info["xen_minor"]) == ("4", "17"), host
        assert one.ask("cat /sys/hypervisor/type").strip() == "xen"
    assert where(bed) == ["host-a"]


def test_switches_are_the_kernels(bed: Bed) -> None:
    for one in bed.hosts.values():
        assert "openvswitch" in one.ask("cut -d ' ' -f 1 /proc/modules").split()
        assert one.ask(f"ovs-vsctl get Bridge {BRIDGE} datapath_type").strip() in ('""', "system")
        assert "system@ovs-system" in one.ask("ovs-appctl dpctl/show")


def test_adjacencies_are_up(bed: Bed) -> None:
    """Each of OSPF's and BGP's, at both ends: what is counted later can be seen."""
    wanted = ["Neighbor .* to Full", "BGP session established"]
    changes = adjacency_changes(bed)
    for node, sessions in (("gen", 1), ("recv", 1), ("vr1", 2)):
        own = [c for c in changes if c.startswith(f"{node}:")]
        assert sum(c.endswith("to Full") for c in own) >= sessions, (wanted[0], own)
        assert sum(c.endswith("established") for c in own) >= sessions, (wanted[1], own)


def test_routes_are_flows_of_the_switch(bed: Bed) -> None:
    """Connected, by OSPF and by BGP."""
    stubs = ("10.1.0.1", "10.2.0.1", "10.1.0.0/24", "10.2.0.0/24")

    def missing() -> list[str]:
        text = "\n".join(switch_flows(bed.hosts["host-a"]))
        wanted = [f"nw_dst={prefix}" for prefix in ("10.0.1.0/24", "10.0.2.0/24", *stubs)]
        return [words for words in wanted if f"{words} " not in text and f"{words}," not in text]

    # Packets pass as soon as one of the protocols has its routes.
    settle(lambda: not missing(), "the routes of both are flows", 60)


def test_data_packets_do_not_pass_the_vm(bed: Bed, figure: Figure) -> None:
    """The kernel's datapath has a flow for them, and the vifs' counters hardly move."""
    dom0, vifs = bed.hosts["host-a"], data_vifs(bed)
    with ProbePair(*ENDS, rate_pps=100) as pair:
        pair.start(60)
        time.sleep(2.0)
        before = vif_packets(dom0, vifs)
        time.sleep(6.0)
        cached = dom0.ask("ovs-appctl dpctl/dump-flows system@ovs-system")
        through = vif_packets(dom0, vifs) - before
        there, back = pair.stop()
    sent = there.sent + back.sent
    figure("data packets sent, packets that passed the VM's vifs meanwhile", f"{sent}, {through}")
    assert there.lost == back.lost == 0
    assert through < 40, f"{through} packets passed the vifs while {sent} were forwarded"
    assert re.search(r"actions:.*set\(ipv4\([^)]*ttl=63", cached), cached


# --- the journey ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Journey:
    """Ten moves there and back, and everything that was watched meanwhile."""

    rate_pps: int
    moves: list[dict[str, Any]]
    counts: list[tuple[Counts, Counts]]
    """(there, back): before the first move, then of each."""
    pings: PingCount
    tokens: list[str]
    neighbour_states: set[str]
    adjacency: list[str]
    """What the daemons had reported before, and after."""
    adjacency_after: list[str]
    flows: tuple[dict[str, list[str]], dict[str, list[str]]]
    places: list[list[str]]
    times_s: list[float]


@pytest.fixture(scope="module")
def journey(bed: Bed, figure: Figure) -> Journey:
    bring_home(bed, moves=MOVES)
    in_sync(bed)
    rate = carried_rate(ENDS, BY_BGP)
    records = OUT / "journey"
    before, flows_before = adjacency_changes(bed), flows(bed.lab, *ENDS)
    moves, begins, times, places, tokens = [], [], [], [], [token(bed)]
    with (
        ProbePair(*ENDS, rate_pps=rate, addresses=BY_BGP, directory=records) as pair,
        Pings("gen", ROUTER) as pings,
        NeighbourProber("recv", "10.0.2.1") as prober,
    ):
        pair.start(4 * 3600)
        time.sleep(3.0)
        host = "host-a"
        for _ in range(MOVES):
            host = other(bed, host)
            begins.append(time.monotonic_ns())
            moves.append(migrate(host))
            times.append((time.monotonic_ns() - begins[-1]) / 1e9)
            places.append(where(bed))
            tokens.append(token(bed))
        time.sleep(3.0)
        pair.stop(2.0)
    there, back = judge.read(Path(records), begins)
    found = Journey(
        rate,
        moves,
        list(zip(there, back, strict=True)),
        pings.count,
        tokens,
        prober.states,
        before,
        adjacency_changes(bed),
        (flows_before, flows(bed.lab, *ENDS)),
        places,
        times,
    )
    _note(found, figure)
    # As before the first move, so after the last: a machine that has become busy meanwhile has
    # measured nothing.
    with ProbePair(*ENDS, rate_pps=rate, addresses=BY_BGP) as pair:
        pair.baseline(8.0)
    return found


def _note(found: Journey, figure: Figure) -> None:
    total = sum((t + b for t, b in found.counts), Counts())
    pauses = [move["suspended_s"] or 0.0 for move in found.moves]
    figure(
        f"{len(found.moves)} moves by xl migrate under {found.rate_pps} packets/s each way",
        f"{total.lost} lost, {total.duplicated} duplicated, {total.reordered} reordered of "
        f"{total.sent}; longest gap {total.longest_gap_s:.2f} s",
    )
    figure("a move took", f"{min(found.times_s):.1f} to {max(found.times_s):.1f} s")
    figure("the VM was suspended for", f"{min(pauses):.2f} to {max(pauses):.2f} s")
    figure(
        "pings to the router itself",
        f"{found.pings.sent} sent, {found.pings.lost} lost, {found.pings.duplicated} duplicated, "
        f"longest time without a reply {found.pings.longest_s:.1f} s",
    )
    held, repeated, dropped = (
        sum(move[what] for move in found.moves) for what in ("held", "repeated", "dropped")
    )
    figure(
        "packets for the VM held over the pauses",
        f"{held} held, {repeated} of them perhaps for the second time, {dropped} dropped",
    )


def test_nothing_routed_is_lost_or_doubled(journey: Journey) -> None:
    assert len(journey.moves) == MOVES
    for number, (there, back) in enumerate(journey.counts):
        assert there.sent > 0 and back.sent > 0
        for way, count in (("there", there), ("back", back)):
            counted = count.lost, count.duplicated
            assert counted == (0, 0), f"move {number}, {way}: lost, duplicated: {counted}"


def test_router_was_on_one_host_after_each_move(journey: Journey) -> None:
    assert journey.places == [["host-b"], ["host-a"]] * (MOVES // 2)


def test_it_is_the_same_guest(journey: Journey) -> None:
    assert len(set(journey.tokens)) == 1
    assert len(journey.tokens[0]) >= 16


def test_no_adjacency_was_lost(journey: Journey) -> None:
    """OSPF with its default times, BGP: no change of a neighbour's state, at either end."""
    assert journey.adjacency_after == journey.adjacency


def test_packets_for_the_router_itself_are_not_lost(journey: Journey) -> None:
    assert journey.pings.sent > 0
    assert journey.pings.lost == 0, journey.pings
    assert sum(move["held"] for move in journey.moves) > 0
    assert sum(move["dropped"] for move in journey.moves) == 0


def test_end_hosts_neighbour_entry_in_probe_is_kept(journey: Journey) -> None:
    assert "PROBE" in journey.neighbour_states
    assert not journey.neighbour_states & {"FAILED", "INCOMPLETE", "none"}


def test_edge_switches_end_as_they_began(journey: Journey) -> None:
    assert difference(*journey.flows) == []


# --- Open vSwitch is restarted --------------------------------------------------------------------

KILL = (
    "kill -9 $(cat /run/openvswitch/ovs-vswitchd.pid); nice -n -10 ovs-vswitchd "
    "unix:/run/openvswitch/db.sock --pidfile --detach --no-chdir --log-file -vconsole:off"
)
RESTARTS = {
    "killed and started": KILL,
    "restarted by the script": "/opt/xenflow/scripts/restart-openvswitch",
}


def test_open_vswitch_is_restarted(bed: Bed, figure: Figure) -> None:
    """The script loses nothing, and the controller finds the flows; a plain restart loses."""
    bring_home(bed, moves=0)
    in_sync(bed)
    host, lost, written = bed.hosts["host-a"], {}, {}
    rate, held = RATES_PPS[0], len(switch_flows(host))
    for how, command in RESTARTS.items():
        pid, before = host.ask("cat /run/openvswitch/ovs-vswitchd.pid"), _written()
        with ProbePair(*ENDS, rate_pps=rate, addresses=BY_BGP) as pair:
            pair.start(3600)
            time.sleep(2.0)
            host.ask(command)
            settle(lambda: datapaths()["host-a"]["connected"], "host-a is connected", 120)
            in_sync(bed)
            time.sleep(2.0)
            there, back = pair.stop(2.0)
        assert host.ask("cat /run/openvswitch/ovs-vswitchd.pid") != pid
        lost[how], written[how] = (there.lost, back.lost), _written() - before
        gap = max(there.longest_gap_s, back.longest_gap_s)
        figure(
            f"Open vSwitch {how} under {rate} packets/s each way",
            f"{sum(lost[how])} lost, {there.duplicated + back.duplicated} duplicated of "
            f"{there.sent + back.sent}; longest gap {gap:.2f} s; flows written anew: "
            f"{written[how]} of {held}",
        )
    plain, script = RESTARTS
    assert lost[script] == (0, 0)
    assert written[script] < held // 2, "the controller found the flows"
    # so this is able to fail
    assert min(lost[plain]) > 0
    assert written[plain] > held // 2


def _written() -> int:
    """Flow changes of host-a's switch, but for those in answer to what an Open vSwitch that ends
    tells of its tables."""
    row = datapaths()["host-a"]
    return int(row["flow_mods"]) - int(row["audit"]["mended"])


# --- what cannot be done -------------------------------------------------------------------------


def test_too_little_memory_at_the_destination(bed: Bed, figure: Figure) -> None:
    bring_home(bed, moves=0)
    host = bed.hosts["host-b"]
    free = int(host.ask("xl info free_memory"))
    config = f'name="hog"\ntype="pv"\nkernel="{KERNEL}"\nmemory={free - 100}\n'
    host.run("cat >/etc/xen/hog.cfg", text=config)
    host.ask("xl create -p /etc/xen/hog.cfg")
    try:
        done = xenflow("migrate", "vr1", "host-b", limit_s=300)
    finally:
        host.ask("xl destroy hog")
    figure("too little memory", done.stderr.strip().splitlines()[-1])
    assert done.returncode == 1
    assert "memory" in done.stderr
    assert_as_before(bed)


def test_no_such_bridge_at_the_destination(bed: Bed, figure: Figure) -> None:
    bring_home(bed, moves=0)
    host = bed.hosts["host-b"]
    host.ask(f"ovs-vsctl del-br {BRIDGE}")
    try:
        done = xenflow("migrate", "vr1", "host-b", limit_s=300)
    finally:
        host.ask(
            "cd /opt/xenflow && PYTHONPATH=/opt/xenflow:/opt/xenflow/pox_ext "
            "python3 -m xen.dom0.host --network=/etc/xenflow/network.toml"
        )
    figure("no such bridge", done.stderr.strip().splitlines()[-1])
    assert done.returncode == 1
    in_sync(bed)
    assert_as_before(bed)


def assert_as_before(bed: Bed) -> None:
    """The router runs at home and forwards; nothing of it is elsewhere."""
    assert where(bed) == ["host-a"]
    assert not ports(bed.hosts["host-b"]) & set(data_vifs(bed))
    settle(lambda: _reaches("10.2.0.1"), "gen reaches recv through the router", 60)
    assert len(token(bed)) >= 16


def _reaches(address: str) -> bool:
    return operate.run("gen", ["ping", "-c1", "-W2", address]).returncode == 0
