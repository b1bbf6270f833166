"""What routing daemons are told, at their start and while they run."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from lab.description import parse_lab
from lab.routing import (
    OSPF6D,
    OSPFD,
    Speaker,
    Timers,
    bird_configuration,
    destinations,
    frr_changes,
    frr_configuration,
    parse_changes,
    speakers,
)
from tests.lab import grown
from tests.lab.grown import changed, ipv4_alone

CAMPUS, GROWN = ipv4_alone(grown.CAMPUS), ipv4_alone(grown.GROWN)
BEFORE, AFTER = parse_lab(CAMPUS, "campus.toml"), parse_lab(GROWN, "grown.toml")
R3, R3_GROWN = (next(s for s in speakers(lab) if s.node == "r3") for lab in (BEFORE, AFTER))


def test_a_running_ospfd_is_told_what_differs() -> None:
    """Of interfaces that are as they were nothing, so that their neighbours notice nothing."""
    assert frr_changes(OSPFD, R3, R3_GROWN, Timers()) == [
        "configure terminal",
        "interface eth3",
        "ip ospf area 0",
        "ip ospf network point-to-point",
        "ip ospf hello-interval 1",
        "ip ospf dead-interval 4",
        "ip ospf retransmit-interval 2",
    ]
    assert frr_changes(OSPFD, R3_GROWN, R3, Timers()) == [
        "configure terminal",
        "interface eth3",
        "no ip ospf area 0",
    ]


def test_who_leaves_calls_its_ways_the_last() -> None:
    last = replace(R3, leaving=True)
    assert frr_changes(OSPFD, R3, last, Timers()) == [
        "configure terminal",
        "router ospf",
        "max-metric router-lsa administrative",
    ]
    assert "stub router yes;" in bird_configuration(last, Timers())
    assert "stub router no;" in bird_configuration(R3, Timers())


def test_what_is_told_later_is_what_would_be_told_at_the_start() -> None:
    words = frr_changes(OSPFD, R3, R3_GROWN, Timers())[1:]
    text = frr_configuration(OSPFD, R3_GROWN, Timers()).replace("\n ", "\n")
    assert "\n".join(words) in text


def test_destinations_are_subnets_and_stubs_as_ip_route_writes_them() -> None:
    found = destinations(BEFORE)
    assert {"10.0.1.0/24", "10.0.6.0/24", "10.1.0.1", "10.3.0.1"} <= found
    assert not {"10.0.8.0/24", "10.4.0.1"} & found
    assert {"10.0.8.0/24", "10.4.0.1"} <= destinations(AFTER)


# --- both families -------------------------------------------------------------------------------

DUAL = parse_lab(
    changed(
        CAMPUS,
        ('address = "10.0.1.2/24"', 'address = ["10.0.1.2/24", "2001:db8:1::2/64"]'),
        ('stub = "10.1.0.1/32"', 'stub = ["10.1.0.1/32", "2001:db8:f1::1/128"]'),
        ('eth0 = "10.0.1.11/24"', 'eth0 = ["10.0.1.11/24", "2001:db8:1::11/64"]'),
    ),
    "dual.toml",
)


def dual(node: str, *, bgp: bool = False) -> Speaker:
    return next(s for s in speakers(DUAL, bgp=bgp) if s.node == node)


def test_ospf_of_both_families_on_the_same_interfaces() -> None:
    text = bird_configuration(dual("m1"), Timers(), "x")
    v2, v3 = text.split("protocol ospf v3")
    assert "stubnet 10.1.0.1/32;" in v2 and "ipv6" not in v2.split("protocol kernel")[1]
    assert "stubnet 2001:db8:f1::1/128;" in v3 and "10.1.0.1" not in v3
    for part in (v2, v3):
        assert part.count('interface "eth0"') == 1
        assert "type ptp;" in part and "hello 1; dead 4;" in part
    assert "ospf v3" not in bird_configuration(R3, Timers(), "x")


def test_ospf6d_is_told_what_ospfd_is() -> None:
    m1 = dual("m1")
    v4, v6 = (frr_configuration(of, m1, Timers()) for of in (OSPFD, OSPF6D))
    assert "interface lo\n ip ospf area 0\n" in v4 and "interface lo\n ipv6 ospf6 area 0\n" in v6
    shared = v4.replace("ip ospf", "ipv6 ospf6").replace(
        "router ospf\n ospf", "router ospf6\n ospf6"
    )
    assert shared.replace(" timers throttle lsa all 0\n", "") == v6
    assert not OSPF6D.speaks(R3) and OSPF6D.speaks(m1)
    assert frr_changes(OSPF6D, m1, replace(m1, ipv6=False), Timers())[1:3] == [
        "interface eth0",
        "no ipv6 ospf6 area 0",
    ]


def test_bgp_has_a_session_for_each_family() -> None:
    text = bird_configuration(dual("m1", bgp=True), Timers(), "x")
    assert "protocol bgp bgp_r1 {" in text and "neighbor 10.0.1.11 as" in text
    assert "protocol bgp bgp6_r1 {" in text and "neighbor 2001:db8:1::11 as" in text
    assert "route 10.1.0.0/24 blackhole;" in text
    assert "route 2001:db8:f1::/64 blackhole;" in text
    # r2 has no neighbour with an IPv6 address of its own
    assert "bgp6_" not in bird_configuration(dual("r2", bgp=True), Timers(), "x")


@pytest.mark.skipif(shutil.which("bird") is None, reason="BIRD is not installed")
@pytest.mark.parametrize("bgp", [False, True])
def test_bird_takes_it(bgp: bool, tmp_path: Path) -> None:
    for speaker in speakers(DUAL, bgp=bgp):
        file = tmp_path / f"{speaker.node}.conf"
        file.write_text(bird_configuration(speaker, Timers(), f'"{tmp_path}/log"'))
        said = subprocess.run(["bird", "-p", "-c", str(file)], capture_output=True, text=True)
        assert (said.returncode, said.stderr) == (0, "")


def test_destinations_of_both_families() -> None:
    assert destinations(DUAL) - destinations(BEFORE) == {"2001:db8:1::/64", "2001:db8:f1::1"}


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-30 15:00:00.1 <TRACE> ospf6: Neighbor 10.255.0.1 on eth0 changed state from Full "
        "to Down",
        "2026-11-30 15:00:00.1 <TRACE> bgp6_r1: BGP session established",
        "2026/11/30 15:00:00.1 OSPF6: [ABC] AdjChg: Nbr 10.255.0.1 on eth0: Full -> Down (Inact)",
    ],
)
def test_what_the_daemons_of_ipv6_report_counts(line: str) -> None:
    assert [change.node for change in parse_changes("r1", line)] == ["r1"]
