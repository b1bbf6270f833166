"""On genuine Xen, a network that lives in a store of three servers: a router is made by verb, moves
ten times under traffic, one of the servers being killed in between, and is destroyed by verb.

Run with `scripts/test-xen --full`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import operate
from lab.probe import ProbePair
from lab.programs import store_server
from lab.store_faults import leader
from tests.lab.live import kill, settle, xenflow
from tests.xen.bed.bed import Bed
from tests.xen.bed.dom0 import BedDom0
from tests.xen.bed_live import MOVE_LIMIT_S, in_sync, migrate, other, ports, where

TOPOLOGY = "xen"
OPTIONS = {"store": True, "members": 3}
MOVES = 10
RATE_PPS = 10
Figure = Callable[[str, object], None]

ENDS = ("10.99.1.2", "10.99.2.2")
"""Addresses that gen and recv reach by way of the new router alone."""
BIRD = """
log stderr all;
router id 10.0.1.9;
protocol device {}
protocol kernel { ipv4 { export all; }; }
protocol static { ipv4; route 10.99.1.2/32 via 10.0.1.2; route 10.99.2.2/32 via 10.0.2.2; }
"""
SYSTEMCTL = """\
#!/bin/sh
# The bed has no systemd: what `start` does of a unit that is over when it has done its work.
eval "$(sed -n 's/^Environment=/export /p' "/etc/systemd/system/$2" | tr '\\n' ';')"
cd "$(sed -n 's/^WorkingDirectory=//p' "/etc/systemd/system/$2")" || exit
eval "$(sed -n 's/^ExecStart=//p' "/etc/systemd/system/$2")"
"""


def done(*words: str) -> dict[str, Any]:
    """What a verb of routers has done."""
    ended = xenflow("router", *words, "--json", limit_s=MOVE_LIMIT_S)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def left_of(host: BedDom0) -> set[str]:
    """What a host has of the router."""
    files = host.ask("ls /var/lib/xenflow/router").split()
    return {name for name in (*files, *ports(host), *host.domains()) if name.startswith("vr9")}


def by_way_of_the_router() -> None:
    ways = (("gen", ENDS, "10.0.1.9"), ("recv", ENDS[::-1], "10.0.2.9"))
    for node, (own, far), router in ways:
        for words in (f"address add {own}/32 dev lo", f"route add {far} via {router} src {own}"):
            added = operate.run(node, ["ip", *words.split()])
            assert added.returncode == 0, added.stderr


def test_a_router_is_made_moved_and_destroyed(bed: Bed, tmp_path: Path, figure: Figure) -> None:
    config = tmp_path / "bird.conf"
    config.write_text(BIRD)
    for host in bed.hosts.values():
        host.run(
            "cat >/usr/local/sbin/systemctl; chmod +x /usr/local/sbin/systemctl", text=SYSTEMCTL
        )
    interfaces = ("--interface", "eth0:left,10.0.1.9/24", "--interface", "eth1:right,10.0.2.9/24")
    made = done(
        "create", "vr9", "--on", "host-a", *interfaces, "--config", str(config), "--memory", "96"
    )
    assert made["did"][-1] == "its routerd is heard on host-a"
    assert where(bed, "vr9") == ["host-a"]
    by_way_of_the_router()
    settle(lambda: len(routes()) == 4, "its routes are known", 120)
    in_sync(bed)
    host, killed = "host-a", ""
    with ProbePair("gen", "recv", rate_pps=RATE_PPS, addresses=ENDS) as pair:
        pair.baseline(5.0)
        pair.start(4 * 3600)
        for number in range(MOVES):
            if number == MOVES // 2:
                killed = leader(bed.lab, 3)
                assert killed and store_server(bed.lab, killed).pid() is not None
                kill(killed, "store")
            host = other(bed, host)
            migrate(host, router="vr9")
            assert where(bed, "vr9") == [host]
        there, back = pair.stop(2.0)
    lost, doubled = there.lost + back.lost, there.duplicated + back.duplicated
    figure(
        f"{MOVES} moves of a router made by verb, the leader of three store servers killed",
        f"{lost} lost, {doubled} duplicated of {there.sent + back.sent}",
    )
    assert (lost, doubled) == (0, 0)
    settle(lambda: bool(leader(bed.lab, 3)), "another server leads", 120)
    assert done("destroy", "vr9")["did"][-1] == "nothing of it is kept"
    assert {name: left_of(host) for name, host in bed.hosts.items()} == {
        "host-a": set(),
        "host-b": set(),
    }


def routes() -> list[dict[str, Any]]:
    found = xenflow("routes", "vr9", "--json")
    return list(json.loads(found.stdout)["routes"]) if found.returncode == 0 else []
