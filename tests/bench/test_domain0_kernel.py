"""Plane separation in Domain 0's kernel: what is copied there, and which frames it takes."""

from __future__ import annotations

import pytest

from bench.experiments.domain0_kernel import (
    TABLE,
    LinkEnd,
    copied_neighbours,
    copied_routes,
    rules,
)
from lab.namespace import LabError

OUTER = {"eth0": "to-gen", "eth1": "to-recv"}
ENDS = [LinkEnd("eth0", "to-gen", "vr1.0", "02:00:00:01:01:01", "10.0.1.1")]


def test_routes_keep_their_next_hop_and_leave_by_the_hosts_interface() -> None:
    routes = [
        {"dst": "10.0.1.0/24", "dev": "eth0", "scope": "link", "prefsrc": "10.0.1.1"},
        {"dst": "10.1.0.1", "gateway": "10.0.1.2", "dev": "eth0", "metric": 32},
        {"dst": "default", "gateway": "10.0.2.2", "dev": "eth1"},
    ]
    assert copied_routes(routes, OUTER) == [
        f"route replace 10.0.1.0/24 dev to-gen table {TABLE} scope link",
        f"route replace 10.1.0.1 via 10.0.1.2 dev to-gen table {TABLE} onlink",
        f"route replace default via 10.0.2.2 dev to-recv table {TABLE} onlink",
    ]


def test_routes_that_stop_packets_stop_them_in_domain_0_too() -> None:
    assert copied_routes([{"type": "blackhole", "dst": "10.9.0.0/16"}], OUTER) == [
        f"route replace blackhole 10.9.0.0/16 table {TABLE}"
    ]


def test_the_routers_own_link_to_its_host_is_no_route_of_its_network() -> None:
    assert copied_routes([{"dst": "169.254.0.0/16", "dev": "ctl0"}], OUTER) == []


def test_several_next_hops_are_refused_not_thinned_out() -> None:
    with pytest.raises(LabError, match="several next hops"):
        copied_routes([{"dst": "10.1.0.0/16", "nexthops": [{}, {}]}], OUTER)


def test_only_resolved_neighbours_are_copied() -> None:
    mac = "02:00:00:00:01:02"
    neighbours = [
        {"dst": "10.0.1.2", "dev": "eth0", "lladdr": mac, "state": ["STALE"]},
        {"dst": "10.0.1.3", "dev": "eth0", "state": ["INCOMPLETE"]},
        {"dst": "10.0.1.4", "dev": "eth0", "lladdr": mac, "state": ["FAILED"]},
        {"dst": "10.0.1.5", "dev": "ctl0", "lladdr": mac, "state": ["REACHABLE"]},
    ]
    assert copied_neighbours(neighbours, OUTER) == [
        f"neighbour replace 10.0.1.2 lladdr {mac} dev to-gen nud permanent"
    ]


def test_without_the_vm_its_packets_are_dropped_and_data_is_still_forwarded() -> None:
    here, away = rules(ENDS, True), rules(ENDS, False)
    assert here.count('fwd to "vr1.0"') == 4 and 'fwd to "to-gen"' in here
    assert "fwd to" not in away
    for text in (here, away):
        assert "meta pkttype set host accept" in text
        assert "ether daddr != 02:00:00:01:01:01 drop" in text
