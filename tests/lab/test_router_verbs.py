"""A router comes and goes by verb, VM and all, while another one forwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import made
from lab.description import Lab
from lab.namespace import NETNS_DIR
from lab.state import read_domains
from tests.lab.live import (
    LIMIT_S,
    LiveTraffic,
    assert_machine_quiet_enough,
    difference,
    find_again,
    flows,
    in_sync,
    kill,
    lose,
    reaches,
    restart_controller,
    router_row,
    settle,
    status,
    xenflow,
)
from tests.lab.needed import needs
from tests.lab.test_store_lab import PROGRAMS, rows
from xenflow.store.schema import TABLES, TableKind

pytestmark = needs(PROGRAMS)
BIRD = """
protocol device {}
protocol kernel { ipv4 { export all; }; }
protocol static { ipv4; route 10.99.0.0/16 via 10.0.1.2; }
"""
INTERFACES = ("--interface", "eth0:left,10.0.1.9/24", "--interface", "eth1:right,10.0.2.9/24")


@pytest.fixture
def paper(lab_up: Callable[..., Lab]) -> Lab:
    lab = lab_up("paper", store=True, pause_s=0.1, precopy_s=0.1)
    settle(lambda: in_sync(lab), "every switch in sync")
    return lab


def done(*words: str) -> dict[str, Any]:
    """What a verb of routers has done."""
    ended = xenflow("router", *words, "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def refused(*words: str) -> str:
    ended = xenflow("router", *words)
    assert ended.returncode in (1, 2), ended.stdout + ended.stderr
    return ended.stderr


def routes(router: str) -> set[str]:
    found = json.loads(xenflow("routes", router, "--json").stdout)["routes"]
    return {route["prefix"] for route in found}


def namespaces() -> set[str]:
    return {path.name for path in NETNS_DIR.glob("xf-*")}


def is_placed(router: str, host: str, change: dict[str, Any]) -> bool:
    """Whether the newest that anybody knows is that it is there since a change."""
    found = status()["placements"].get(router, {})
    return (found.get("vm"), found.get("version")) == (host, change["change"] << 20)


def test_a_router_comes_moves_stops_starts_and_goes(paper: Lab, tmp_path: Path) -> None:
    config = tmp_path / "bird.conf"
    config.write_text(BIRD)
    create = ("create", "vr9", "--on", "host-b", *INTERFACES, "--config", str(config))
    before, there = flows(paper), namespaces()
    assert_machine_quiet_enough()
    with LiveTraffic() as traffic:
        made_it = done(*create)
        number = made_it["change"]
        assert made_it["changed"] == {"routers": {"added": ["vr9"]}}
        assert made_it["did"][-1] == "its routerd is heard on host-b"
        reaches("gen", "10.0.1.9")
        settle(lambda: "10.99.0.0/16" in routes("vr9"), "its daemon's route is known")
        assert done(*create)["change"] == 0  # it goes on, and there is nothing to do
        assert "vr9 runs" in refused("rename", "vr9", "vr10")

        moved = xenflow("migrate", "vr9", "host-a")
        assert moved.returncode == 0, moved.stderr
        reaches("recv", "10.0.2.9")
        assert done("set", "vr9", "--address", "eth0=10.0.1.8/24")["change"] == 0
        reaches("gen", "10.0.1.8")

        stopped = done("stop", "vr9")
        assert stopped["did"][-1] == "its VM on host-a is ended"
        assert (difference(before, flows(paper)), namespaces()) == ([], there)
        settle(lambda: "vr9" not in status()["placements"], "no host knows where it is")
        started = done("start", "vr9", "--on", "host-b")
        reaches("gen", "10.0.1.8")  # as it was set
        settle(lambda: is_placed("vr9", "host-b", started), "every host knows that it is at host-b")

        by_mistake = ("start", "vr9", "--on", "host-a", "--lost", "host-b")
        assert "host-b is not lost: controller host-b answers" in refused(*by_mistake)
        kill("host-b", "controller")  # the machine lives, and the VM in it
        words = refused(*by_mistake)
        for where in ("here", "host-a", "edge"):
            assert f"from {where}, its machine refuses connections" in words
        restart_controller(paper, "host-b")
        lose("host-b")
        lost = done("start", "vr9", "--on", "host-a", "--lost", "host-b")
        reaches("gen", "10.0.1.8")
        find_again("host-b")
        restart_controller(paper, "host-b")
        settle(lambda: is_placed("vr9", "host-a", lost), "every host knows that it is at host-a")
        settle(
            lambda: router_row("host-b", "vr9")["feed"] == "none", "host-b forgets the one before"
        )
        assert xenflow("status", "--wait", str(LIMIT_S)).returncode == 0

        assert done("destroy", "vr9")["did"][-1] == "nothing of it is kept"
    traffic.assert_nothing_lost()
    assert (difference(before, flows(paper)), namespaces()) == ([], there)
    assert (made.read(), [*read_domains()]) == ({}, ["vr1"])
    laid = [name for name, table in TABLES.items() if table.kind is TableKind.LAID]
    settle(
        lambda: not any(row["gone"] for table in laid for row in rows(paper, table)),
        "what has gone is forgotten",
    )
    assert [row["name"] for row in rows(paper, "Laid_Element")] == ["vr1"]
    assert [row["name"] for row in rows(paper, "Element")] == ["vr1"]
    assert number < lost["change"]
