"""Plane separation in Domain 0's kernel: what is copied there, and which frames it takes."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from bench.experiments.domain0_kernel import (
    TABLE,
    Copier,
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


class CopiedHost:
    """A host that notes when it is given routes."""

    def __init__(self) -> None:
        self.copies = 0

    def copy(self, routes: Any, neighbours: Any) -> None:
        self.copies += 1


def test_nothing_is_copied_to_a_host_that_has_been_left() -> None:
    """Not even what had begun before: its table would be full again after it was cleared."""
    asked, go_on = threading.Event(), threading.Event()

    def guest() -> Any:
        asked.set()
        assert go_on.wait(60.0)
        return [], []

    copier, source, to = Copier(guest), CopiedHost(), CopiedHost()
    copier.hold_at(cast(Any, source), cast(Any, to))
    following = threading.Thread(target=copier.follow)
    following.start()
    assert asked.wait(60.0)
    leaving = threading.Thread(target=copier.hold_at, args=(to,))
    leaving.start()
    go_on.set()
    leaving.join()
    left = source.copies
    following.join()
    copier.follow()
    assert (left, source.copies, to.copies) == (1, 1, 2)
