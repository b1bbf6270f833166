"""IPv4 and IPv6 at once, through a row of routers one of which moves."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from lab import operate
from lab.description import Lab
from lab.moves import ends, mover
from lab.probe import baseline, of_both_families
from tests.lab.live import in_sync, settle
from tests.lab.needed import needs

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "bird", "nft", "tc", "ip", "traceroute")
pytestmark = needs(PROGRAMS)


def test_every_router_is_a_hop_of_ipv6(lab_up: Callable[..., Lab]) -> None:
    target = lab_up("class", pause_s=0.1, precopy_s=0.1).first_addresses("right", 6)[0][2]
    settle(
        lambda: not operate.run("m1", ["ping", "-6", "-c", "1", "-W", "1", target]).returncode,
        "m2 answers over IPv6",
    )
    told = operate.run("m1", ["traceroute", "-6", "-n", "-q", "1", "-w", "1", target]).stdout
    hops = re.findall(r"^ *\d+  (\S+)", told, re.M)
    assert hops[::4] == ["2001:db8:1::1", target] and len(hops) == 5, told


def test_a_router_moves_and_neither_family_loses(
    lab_up: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_up("class", pause_s=0.1, precopy_s=0.1)
    settle(lambda: in_sync(lab), "every switch in sync")
    one, other = ends(lab)
    with mover(lab, "r2", one) as router, ExitStack() as stack:
        pairs = [
            stack.enter_context(pair)
            for pair in of_both_families(one, other, rate_pps=500, directory=tmp_path)
        ]
        assert [pair.version for pair in pairs] == [4, 6]
        baseline(pairs, 1.0)
        for pair in pairs:
            pair.start()
        router.move("h1", "overlapped")
        results = {pair.version: pair.stop() for pair in pairs}
    assert all(result.sent > 100 for of_family in results.values() for result in of_family)
    assert {
        version: [(result.lost, result.duplicated) for result in of_family]
        for version, of_family in results.items()
    } == {4: [(0, 0)] * 2, 6: [(0, 0)] * 2}
