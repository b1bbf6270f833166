"""Several routers on one host: as each other's next hop, with overlapping addresses, one moving.

Each router is its own world: what one of them knows decides nothing for another.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab import operate
from lab.description import Lab
from lab.state import placed
from tests.lab.live import (
    LiveTraffic,
    difference,
    flow_mods,
    flows,
    in_sync,
    reaches,
    settle,
    xenflow,
)
from tests.lab.needed import needs

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "bird", "nft", "tc", "ip")
pytestmark = needs(PROGRAMS)
NETWORK = Path(__file__).parent / "shared_host.toml"


@pytest.fixture
def shared(lab_up: Callable[..., Lab]) -> Lab:
    lab = lab_up(str(NETWORK), pause_s=0.1, precopy_s=0.1)
    settle(lambda: in_sync(lab), "every switch in sync")
    return lab


def ttl_on_arrival(node: str, address: str) -> int:
    """The TTL of an echo's answer: that of the sender less the routers on the way."""
    done = operate.run(node, ["ping", "-c1", "-W30", "-t64", address])
    assert done.returncode == 0, done.stdout
    return int(done.stdout.split("ttl=")[1].split()[0])


def test_each_others_next_hop(shared: Lab) -> None:
    """Both route in one switch; each takes one off the TTL, and both are seen on the way."""
    reaches("gen", "10.2.0.1")
    assert ttl_on_arrival("gen", "10.2.0.1") == 62
    on_the_way = []
    for ttl in (1, 2):
        done = operate.run("gen", ["ping", "-c1", "-W30", f"-t{ttl}", "10.2.0.1"])
        line = next((x for x in done.stdout.splitlines() if "exceeded" in x), done.stdout)
        on_the_way.append(line.split()[1])
    assert on_the_way == ["10.0.1.1", "10.0.2.2"]
    with LiveTraffic() as traffic:
        pass
    traffic.assert_nothing_lost()


def test_overlapping_addresses(shared: Lab) -> None:
    """vr3 and its machines get addresses that gen, recv, vr1 and vr2 have: nobody is mistaken."""

    def both(verb: str) -> None:
        for node, interface, address in (
            ("gen3", "eth0", "10.0.1.2/24"),
            ("vr3", "eth0", "10.0.1.1/24"),
            ("recv3", "eth0", "10.0.3.2/24"),
            ("vr3", "eth1", "10.0.3.1/24"),
        ):
            done = operate.run(node, ["ip", "address", verb, address, "dev", interface])
            assert done.returncode == 0, done.stderr
        for node, prefix, via in (
            ("gen3", "10.0.3.0/24", "10.0.1.1"),
            ("recv3", "10.0.1.0/24", "10.0.3.1"),
        ):
            if verb == "add":
                operate.run(node, ["ip", "route", "replace", prefix, "via", via])

    before = flows(shared)
    both("add")
    try:
        reaches("gen3", "10.0.3.2")
        assert ttl_on_arrival("gen3", "10.0.3.2") == 63, "one router lies between"
        assert ttl_on_arrival("gen", "10.0.3.2") == 62, "two routers lie between"
        with LiveTraffic() as traffic:
            operate.run("gen3", ["ping", "-c20", "-i0.05", "10.0.3.2"])
        traffic.assert_nothing_lost()
    finally:
        both("del")
    for address, interface in (("10.0.1.2", "eth0"), ("10.0.3.2", "eth1")):
        operate.run("vr3", ["ip", "neigh", "del", address, "dev", interface])
    settle(lambda: difference(before, flows(shared)) == [], "flows as before")


@pytest.mark.parametrize("router", ["vr1", "vr2"])
def test_one_moves_while_its_neighbour_stays(shared: Lab, router: str) -> None:
    before = flows(shared)
    with LiveTraffic() as traffic:
        for to in ("host-b", "host-a"):
            done = xenflow("migrate", router, to)
            assert done.returncode == 0, done.stderr
    traffic.assert_nothing_lost()
    assert difference(before, flows(shared)) == []


def test_both_move_one_after_the_other(shared: Lab) -> None:
    before = flows(shared)
    with LiveTraffic() as traffic:
        for router, to in (
            ("vr1", "host-b"),
            ("vr2", "host-b"),
            ("vr2", "host-a"),
            ("vr1", "host-a"),
        ):
            done = xenflow("migrate", router, to)
            assert done.returncode == 0, done.stderr
            assert ttl_on_arrival("gen", "10.2.0.1") == 62
    traffic.assert_nothing_lost()
    assert difference(before, flows(shared)) == []
    assert placed()["vr3"] == "host-a"


def test_change_of_one_router_writes_nothing_of_another(shared: Lab) -> None:
    before = flow_mods()["host-a"]
    operate.run("vr3", ["ip", "route", "add", "10.79.0.0/24", "via", "10.0.5.2"])

    def there() -> bool:
        return any("nw_dst=10.79.0.0/24" in line for line in flows(shared, "host-a")["host-a"])

    settle(there, "vr3's route is a flow")
    operate.run("vr3", ["ip", "route", "del", "10.79.0.0/24"])
    settle(lambda: not there(), "it is none any more")
    assert flow_mods()["host-a"] - before <= 4
