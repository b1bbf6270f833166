"""What routing daemons are told, at their start and while they run."""

from __future__ import annotations

from dataclasses import replace

from lab.description import parse_lab
from lab.routing import (
    Timers,
    bird_configuration,
    destinations,
    ospfd_changes,
    ospfd_configuration,
    speakers,
)
from tests.lab.grown import CAMPUS, GROWN

BEFORE, AFTER = parse_lab(CAMPUS, "campus.toml"), parse_lab(GROWN, "grown.toml")
R3, R3_GROWN = (next(s for s in speakers(lab) if s.node == "r3") for lab in (BEFORE, AFTER))


def test_a_running_ospfd_is_told_what_differs() -> None:
    """Of interfaces that are as they were nothing, so that their neighbours notice nothing."""
    assert ospfd_changes(R3, R3_GROWN, Timers()) == [
        "configure terminal",
        "interface eth3",
        "ip ospf area 0",
        "ip ospf network point-to-point",
        "ip ospf hello-interval 1",
        "ip ospf dead-interval 4",
        "ip ospf retransmit-interval 2",
    ]
    assert ospfd_changes(R3_GROWN, R3, Timers()) == [
        "configure terminal",
        "interface eth3",
        "no ip ospf area 0",
    ]


def test_who_leaves_calls_its_ways_the_last() -> None:
    last = replace(R3, leaving=True)
    assert ospfd_changes(R3, last, Timers()) == [
        "configure terminal",
        "router ospf",
        "max-metric router-lsa administrative",
    ]
    assert "stub router yes;" in bird_configuration(last, Timers())
    assert "stub router no;" in bird_configuration(R3, Timers())


def test_what_is_told_later_is_what_would_be_told_at_the_start() -> None:
    words = ospfd_changes(R3, R3_GROWN, Timers())[1:]
    text = ospfd_configuration(R3_GROWN, Timers()).replace("\n ", "\n")
    assert "\n".join(words) in text


def test_destinations_are_subnets_and_stubs_as_ip_route_writes_them() -> None:
    found = destinations(BEFORE)
    assert {"10.0.1.0/24", "10.0.6.0/24", "10.1.0.1", "10.3.0.1"} <= found
    assert not {"10.0.8.0/24", "10.4.0.1"} & found
    assert {"10.0.8.0/24", "10.4.0.1"} <= destinations(AFTER)
