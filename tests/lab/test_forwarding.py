"""A router's packets, forwarded by real switches: who sees them, and how they look afterwards."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import bring_up, operate
from lab.description import ROOT, Lab
from mgmt.session import ManagementSession
from tests.lab.live import LIMIT_S, settle
from xenflow.store.network_file import load
from xenflow.tables.layout import ADMISSION, LINKS

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]
PIPELINES = {
    "proactive": "",
    "reactive": 'pipeline = "reactive"\n',
    "openflow10": 'pipeline = "reactive"\nnicira = false\n',
}


def network_file(directory: Path, pipeline: str, name: str = "paper") -> str:
    """One of the networks with another pipeline on its hosts."""
    text = (ROOT / "conf" / f"{name}.toml").read_text()
    path = directory / f"{name}-{pipeline}.toml"
    path.write_text(text.replace('kind = "host"\n', 'kind = "host"\n' + PIPELINES[pipeline]))
    return str(path)


def xenflow(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mgmt", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


def ask(verb: str, **arguments: Any) -> dict[str, Any]:
    session = ManagementSession(load("/run/xenflow/network.toml"), LIMIT_S)
    try:
        return session.ask_datapath(arguments.pop("on", "host-a"), verb, **arguments)
    finally:
        session.close()


def ping(node: str, target: str, count: int = 20, wait_s: int = 30) -> tuple[int, set[int]]:
    """How many of so many requests were answered, and with which TTLs; the first answer comes
    within a time.  Ten more are sent: `ping` waits no longer for the last than for others."""
    words = ["ping", "-n", "-i", "0.02", "-W", str(wait_s), "-c", str(count + 10), target]
    text = operate.run(node, words).stdout
    answers = [(int(n), int(ttl)) for n, ttl in re.findall(r"icmp_seq=(\d+) ttl=(\d+)", text)]
    ttls = [ttl for number, ttl in answers if number <= count]
    return len(ttls), set(ttls)


def hops(target: str) -> list[str]:
    text = operate.run("gen", ["traceroute", "-n", "-q", "1", "-w", "30", target]).stdout
    return [line.split()[1] for line in text.splitlines()[1:]]


def vif_packets(host: str, vif: str) -> int:
    """Packets that the switch has given to the VM."""
    text = operate.run(host, ["ip", "-j", "-s", "link", "show", "dev", vif]).stdout
    return int(json.loads(text)[0]["stats64"]["tx"]["packets"])


def test_a_rule_by_hand_goes_before_the_routes(lab_up: Callable[..., Lab]) -> None:
    lab_up("paper")
    assert ping("gen", "10.0.2.2", 2)[0] == 2
    rule = {
        "id": "no-ping",
        "match": {"dl_type": 0x0800, "nw_proto": 1, "dl_vlan": 101, "nw_dst": "10.0.2.2/32"},
        "actions": ["drop"],
    }
    ask("rule-add", datapath="host-a", rule=rule)
    try:
        assert ask("ready", router="vr1", datapath="host-a")["in_force"]
        assert ping("gen", "10.0.2.2", 2, wait_s=1)[0] == 0
        assert [row["id"] for row in ask("rules", datapath="host-a")["rules"]] == ["no-ping"]
    finally:
        ask("rule-remove", datapath="host-a", rule_id="no-ping")
    assert ping("gen", "10.0.2.2", 2)[0] == 2


def test_what_the_vms_kernel_would_decide_otherwise_goes_through_it(
    lab_up: Callable[..., Lab],
) -> None:
    lab_up("paper")
    words = ["ip", "rule", "add", "from", "10.9.9.9", "lookup", "100"]
    operate.run("vr1", words)
    try:
        settle(lambda: "rule" in ask("routers")["routers"][0]["slow"], "the VM forwards")
        assert ask("ready", router="vr1", datapath="host-a")["in_force"]
        before = vif_packets("host-a", "vr1.0")
        assert ping("gen", "10.0.2.2", 20) == (20, {63})
        assert vif_packets("host-a", "vr1.0") - before >= 20
    finally:
        operate.run("vr1", [word if word != "add" else "del" for word in words])


@pytest.fixture(scope="module", params=list(PIPELINES))
def paper(request: pytest.FixtureRequest, one_lab: Any, tmp_path_factory: Any) -> tuple[str, Lab]:
    directory = tmp_path_factory.getbasetemp()
    changed = PIPELINES[request.param]  # "": it is the lab of the tests above
    name = network_file(directory, request.param) if changed else "paper"
    return request.param, one_lab.up(name)


def test_data_is_routed_and_does_not_pass_the_vm(paper: tuple[str, Lab]) -> None:
    pipeline, _ = paper
    ping("gen", "10.0.2.2", 3)
    before = vif_packets("host-a", "vr1.0") + vif_packets("host-a", "vr1.1")
    answers, ttls = ping("gen", "10.0.2.2", 100)
    passed = vif_packets("host-a", "vr1.0") + vif_packets("host-a", "vr1.1") - before
    assert answers == 100
    assert ttls == ({64} if pipeline == "openflow10" else {63})
    assert passed < 60, "hellos and ARP only"


def test_traceroute_shows_the_router(paper: tuple[str, Lab]) -> None:
    pipeline, _ = paper
    through = [] if pipeline == "openflow10" else ["10.0.1.1"]
    assert hops("10.0.2.2") == [*through, "10.0.2.2"]


def test_trace_says_what_the_packets_do(paper: tuple[str, Lab]) -> None:
    pipeline, _ = paper
    healthy = xenflow("status", "--wait", str(LIMIT_S))
    assert healthy.returncode == 0 and healthy.stdout.startswith("network paper: healthy\n")
    packet = "src=10.1.0.1,dst=10.2.0.1,ttl=64"
    found = json.loads(xenflow("trace", "gen:access", packet, "--json").stdout)
    assert [hop["datapath"] for hop in found["hops"]] == ["gen", "host-a", "recv"]
    assert [end["kind"] for end in found["ends"]] == ["left"]
    ttl = 64 if pipeline == "openflow10" else 63
    assert f"to 02:00:00:00:02:02, TTL {ttl}, where link right ends" in found["outcome"]


def test_the_vm_answers_for_itself_and_for_what_is_unreachable(paper: tuple[str, Lab]) -> None:
    answers, ttls = ping("gen", "10.0.2.1", 5)
    assert (answers, ttls) == (5, {64})
    route = ["192.0.2.0/24", "via", "10.0.1.1"]
    operate.run("gen", ["ip", "route", "add", *route])
    try:
        text = operate.run("gen", ["ping", "-n", "-c", "1", "-W", "30", "192.0.2.1"]).stdout
        assert "From 10.0.1.1" in text
        assert "Net Unreachable" in text
    finally:
        operate.run("gen", ["ip", "route", "del", *route])


def test_each_migration_order_keeps_the_router_reachable(paper: tuple[str, Lab]) -> None:
    for order, to in (("overlapped", "host-b"), ("report", "host-a")):
        moved = xenflow("migrate", "vr1", to, "--mode", order, "--json")
        assert moved.returncode == 0, moved.stderr
        result = json.loads(moved.stdout)
        assert result["ok"]
        assert result["suspension_emulated"]
        assert ping("gen", "10.0.2.2", 5)[0] == 5
        assert ping("recv", "10.0.1.1", 5)[0] == 5


class TestPath:
    """host-c is on the way: it switches vr1's packets and routes vr2's."""

    @pytest.fixture(autouse=True)
    def path(self, lab_up: Callable[..., Lab]) -> Iterator[None]:
        lab_up("path")
        yield
        bring_up.down(say=lambda _: None)

    def counters(self) -> dict[str, int]:
        """Packets on host-c: transit on the link gen-vr1, and arrivals at vr2."""
        flows = ask("flows", on="host-c", datapath="host-c", limit=1000)["flows"]
        return {
            "switched": sum(
                f["packets"]
                for f in flows
                if f["table"] == LINKS
                and "reg2=0x1," in f["match"]
                and "02:00:00:01:01:01" in f["match"]
            ),
            "routed": sum(
                f["packets"]
                for f in flows
                if f["table"] == ADMISSION and "dl_dst=02:00:00:02" in f["match"]
            ),
        }

    def test_a_flow_first_seen_after_the_move_is_switched_on_the_way(self) -> None:
        assert hops("10.0.3.2") == ["10.0.1.1", "10.0.2.2", "10.0.3.2"]
        moved = xenflow("migrate", "vr1", "host-b")
        assert moved.returncode == 0, moved.stderr
        before = self.counters()
        assert ping("gen", "10.2.0.1", 40) == (40, {62})
        for way, what in (
            ("switched", "gen's packets, on their way to vr1, are counted"),
            ("routed", "vr1's packets, for vr2, are counted"),
        ):  # counters are pushed every half second
            settle(lambda way=way: self.counters()[way] - before[way] >= 40, what)
        assert hops("10.0.3.2") == ["10.0.1.1", "10.0.2.2", "10.0.3.2"]
