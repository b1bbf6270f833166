"""The lab on this machine: nodes, cables, the control link's filter, moves, faults, sweeping.

Without controllers (fixed flows), so that only the lab is tested; it needs root, Open vSwitch,
BIRD and nftables.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lab import bring_up, operate, process, routing
from lab.description import FABRIC, ROOT, Lab
from lab.hypervisor import LONG_S
from lab.judge import read_records
from lab.namespace import NETNS_DIR, IcmpEcho, LabError, inside, ip
from lab.probe import OutageWatch, ProbePair
from lab.programs import start_hypervisor
from lab.state import NETWORK_FILE, LabOptions
from mgmt.hypervisor import HypervisorError
from tests.lab.hypervisor_client import HypervisorClient
from tests.lab.live import LIMIT_S, assert_machine_quiet_enough, settle
from tests.lab.needed import needs
from xenflow.model import control_link

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "bird", "nft", "tc", "ip")
pytestmark = needs(PROGRAMS)
PYTHON = [sys.executable, "-m", "lab"]


def command(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PYTHON, *words], capture_output=True, text=True, cwd=ROOT, check=False, **options
    )


def namespaces() -> set[str]:
    return {p.name for p in NETNS_DIR.glob("xf-*")} if NETNS_DIR.exists() else set()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The paper's network; the module's tests leave it as they found it."""
    yield bring_up.up("paper", controllers=False, precopy_s=0.05, pause_s=0.0, limit_s=LIMIT_S)
    bring_up.down()


@pytest.fixture
def xen(lab: Lab) -> Iterator[HypervisorClient]:
    """The hypervisor, with vr1 at home before and after."""
    address, port = lab.hypervisor
    with HypervisorClient(f"{address}:{port}", timeout_s=LIMIT_S) as client:
        client.set(pause_s=0.0, precopy_s=0.05, resume_after_s=120, fail_at=None)
        # what a test before did to the router may have lasted longer than its neighbours' patience
        assert reaches("gen", "10.2.0.1")
        yield client
        client.set(pause_s=0.0, precopy_s=0.05, resume_after_s=120, fail_at=None)
        if client.host_of("vr1") != "host-a":
            client.move("vr1", "host-a")


def ports(host: str) -> set[str]:
    return set(operate.run(host, ["ovs-vsctl", "list-ports", "br0"]).stdout.split())


def answers(node: str | None, address: str, wait_s: float = 0.5) -> bool:
    """Whether an address answers a node's request within a time (None: the machine's own)."""
    with closing(IcmpEcho(node and f"xf-{node}")) as echo:
        sequence, end = echo.send(address), time.monotonic() + wait_s
        while sequence >= 0 and (left := end - time.monotonic()) > 0:
            select.select([echo], [], [], left)
            if (address, sequence) in echo.receive():
                return True
    return False


def reaches(node: str | None, address: str) -> bool:
    """Whether it ever answers."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        if answers(node, address):
            return True
    return False


def program(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


# --- nodes and programs ---------------------------------------------------------------------------


def test_nodes_as_json(lab: Lab) -> None:
    found = {n["name"]: n for n in json.loads(command("nodes", "--json").stdout)}
    assert set(found["gen"]) == {"name", "kind", "namespace", "addresses", "host"}
    assert found["gen"]["addresses"][0] == "10.0.1.2"
    assert found["vr1"]["host"] == "host-a"
    assert found["gen"]["host"] is None
    assert {n["kind"] for n in found.values()} == {
        "host",
        "switch",
        "machine",
        "router",
        "controller",
        "lab",
    }


def test_exec_passes_status_input_and_output(lab: Lab) -> None:
    done = command("exec", "gen", "--", "sh", "-c", "cat; exit 7", input="hello")
    assert (done.returncode, done.stdout) == (7, "hello")
    assert command("exec", "nosuch", "--", "true").returncode == 2
    assert "no such node" in command("exec", "nosuch", "--", "true").stderr
    missing = command("exec", "gen", "--", "nosuchprogram")
    assert missing.returncode == 1
    assert "nosuchprogram" in missing.stderr


def test_exec_passes_signals(lab: Lab) -> None:
    running = subprocess.Popen([*PYTHON, "exec", "gen", "--", "sleep", "600"], cwd=ROOT)
    settle(lambda: program(running.pid) == "sleep", "it runs")
    running.send_signal(signal.SIGTERM)
    assert running.wait(LIMIT_S) == -signal.SIGTERM


def test_switch_tools_find_their_switch(lab: Lab) -> None:
    for node in ("host-a", "gen-sw"):
        assert "br0" in operate.run(node, ["ovs-vsctl", "list-br"]).stdout
        assert operate.run(node, ["ovs-appctl", "revalidator/wait"]).returncode == 0


def test_second_up_is_refused(lab: Lab) -> None:
    refused = command("up", "paper", "--static")
    assert refused.returncode == 1
    assert "up already" in refused.stderr
    assert reaches("gen", "10.2.0.1")


def test_management_network_is_apart(lab: Lab) -> None:
    assert reaches(None, "10.254.1.11")
    assert reaches("gen", "10.254.1.12")
    # what arrives on a data port is not answered by the host's own stack
    ip(["route add 10.254.1.0/24 dev eth0"], "xf-vr1")
    try:
        assert not answers("vr1", "10.254.1.11")
    finally:
        ip(["route del 10.254.1.0/24 dev eth0"], "xf-vr1")


def test_a_node_that_comes_does_not_hide_the_hypervisor(lab: Lab, xen: HypervisorClient) -> None:
    """A bridge without a MAC address of its own takes the lowest of its ports'."""
    show = ["ip", "-j", "link", "show", "mgmt0"]
    before = json.loads(operate.run("lab", show).stdout)[0]["address"]
    low = "link add low address 00:00:00:00:00:01 type veth peer name low-peer"
    ip([low, "link set low master mgmt0", "link set low up"], "xf-lab")
    try:
        assert json.loads(operate.run("lab", show).stdout)[0]["address"] == before
        assert xen.hosts()
    finally:
        ip(["link del low"], "xf-lab")


def test_status_counts_what_daemons_report(lab: Lab) -> None:
    found = operate.status()
    assert found["hypervisor"] == "emulated"
    assert found["dead"] == []
    assert set(found["neighbour_changes"]) == {"gen", "recv", "vr1"}
    earlier = operate.status(datetime(2020, 1, 1))
    assert earlier["neighbour_changes"]["vr1"] >= 2


# --- cables ---------------------------------------------------------------------------------------


def test_cut_and_heal(lab: Lab) -> None:
    assert reaches("gen", "10.2.0.1")
    since = datetime.now()
    operate.cut("recv-a")
    try:
        assert not answers("gen", "10.2.0.1")
        look = ["ovs-vsctl", "get", "interface", "to-recv", "link_state"]
        settle(lambda: operate.run("host-a", look).stdout == "down\n", "the switch has noticed")
        assert operate.status()["cut"] == ["recv-a"]
        settle(
            lambda: operate.status(since)["neighbour_changes"]["vr1"] > 0,
            "OSPF notices a cable that is cut",
        )
    finally:
        operate.heal("recv-a")
    assert reaches("gen", "10.2.0.1")
    assert operate.status()["cut"] == []


def test_cut_of_a_virtual_link_takes_its_access_ports(lab: Lab) -> None:
    operate.cut("left")
    try:
        carrier = operate.run("gen", ["ip", "-br", "link", "show", "eth0"]).stdout
        assert "LOWER_UP" not in carrier
    finally:
        operate.heal("left")
    with pytest.raises(LabError, match="no such cable or link"):
        operate.cut("nosuch")
    assert reaches("gen", "10.2.0.1")


# --- the control link's filter --------------------------------------------------------------------


class Host:
    """A listener in front of vr1's control link, as the Rule Table is."""

    def __init__(self, lab: Lab, host: str, port: int) -> None:
        with inside(lab.switch_namespace(host)):
            self.socket = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(("::", port))
        self.socket.listen()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def connects(port: int, source: str = "", wait_s: float = LIMIT_S) -> bool:
    with inside("xf-vr1"):
        index = socket.if_nametoindex("ctl0")
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.settimeout(wait_s)
            try:
                if source:
                    sock.bind((source, 0, 0, index))
                sock.connect(("fe80::1", port, 0, index))
            except OSError:
                return False
            return True


def test_control_link_reaches_the_rule_table_and_nothing_else(lab: Lab) -> None:
    with Host(lab, "host-a", control_link.RULE_TABLE_PORT), Host(lab, "host-a", 6640):
        assert connects(control_link.RULE_TABLE_PORT)
        assert not connects(6640, wait_s=0.7)
    with inside("xf-vr1"):
        ping = subprocess.run(
            ["ping", "-c1", "-W1", "fe80::1%ctl0"], capture_output=True, check=False
        )
    assert ping.returncode != 0


def test_control_link_refuses_other_addresses(lab: Lab) -> None:
    own = control_link.address(lab.network.routers["vr1"])
    with Host(lab, "host-a", control_link.RULE_TABLE_PORT):
        ip(["address add fe80::1:7/64 dev ctl0 nodad"], "xf-vr1")
        try:
            assert not connects(control_link.RULE_TABLE_PORT, "fe80::1:7", wait_s=0.7)
            assert connects(control_link.RULE_TABLE_PORT, own)
        finally:
            ip(["address del fe80::1:7/64 dev ctl0"], "xf-vr1")
        ip(["link set ctl0 address 02:58:46:01:00:99"], "xf-vr1")
        try:
            assert not connects(control_link.RULE_TABLE_PORT, wait_s=0.7)
        finally:
            mac = control_link.mac(lab.network.routers["vr1"])
            ip([f"link set ctl0 address {mac}"], "xf-vr1")
        assert connects(control_link.RULE_TABLE_PORT)


def test_control_link_carries_no_ipv4(lab: Lab) -> None:
    commands = [
        "route add 10.254.1.11/32 dev ctl0",
        f"neigh add 10.254.1.11 lladdr {control_link.RULE_TABLE_MAC} dev ctl0",
    ]
    ip(commands, "xf-vr1")
    try:
        assert not answers("vr1", "10.254.1.11")
    finally:
        ip(["neigh del 10.254.1.11 dev ctl0", "route del 10.254.1.11/32"], "xf-vr1", force=True)


# --- moves ----------------------------------------------------------------------------------------


def test_move_there_and_back(lab: Lab, xen: HypervisorClient) -> None:
    since = datetime.now()
    before = operate.run("vr1", ["ip", "-o", "route"]).stdout
    with inside("xf-vr1"):
        monitor = subprocess.Popen(
            ["ip", "monitor", "link", "address", "route"], stdout=subprocess.PIPE, text=True
        )
    for to, other in (("host-b", "host-a"), ("host-a", "host-b")):
        job = xen.move("vr1", to)
        assert [e["state"] for e in job["events"]] == [
            "precopy",
            "suspended",
            "moved_paused",
            "running",
        ]
        assert {"vr1.0", "vr1.1"} <= ports(to)
        assert not {"vr1.0", "vr1.1"} & ports(other)
        assert "vr1.ctl" in operate.run(to, ["ip", "-o", "link"]).stdout
        assert "vr1.ctl" not in operate.run(other, ["ip", "-o", "link"]).stdout
        assert {n.name: n.host for n in operate.nodes()}["vr1"] == to
        assert reaches("gen", "10.2.0.1")
        with Host(lab, to, control_link.RULE_TABLE_PORT):
            assert connects(control_link.RULE_TABLE_PORT)
    monitor.kill()
    out, _ = monitor.communicate()
    assert out == "", "the router's kernel noticed that it was moved"
    assert operate.run("vr1", ["ip", "-o", "route"]).stdout == before
    assert sum(operate.status(since)["neighbour_changes"].values()) == 0


def test_pause_is_counted_from_suspension(xen: HypervisorClient) -> None:
    """The ports move meanwhile, not afterwards: they take as long as a move without a pause.  Of
    some moves one must be as it should, since another program may hold one up."""
    ports_s = min(paused_s(xen.move("vr1", to, pause_s=0.0)) for to in ("host-b", "host-a"))
    pause_s = max(0.6, 2 * ports_s)
    seen = []
    for to in ("host-b", "host-a") * 3:
        with OutageWatch("gen", "10.0.1.1") as watch:
            settle(lambda watch=watch: bool(watch.replies), "vr1 answers")
            job = xen.move("vr1", to, pause_s=pause_s)
            moved = time.monotonic()
            settle(lambda watch=watch, moved=moved: watch.replies[-1] > moved, "and again")
        assert paused_s(job) >= pause_s
        suspended_s = job["events"][-1]["monotonic_s"] - job["events"][1]["monotonic_s"]
        seen.append((paused_s(job) - pause_s, watch.outage_s - suspended_s))
        late_s, other_s = seen[-1]
        # of a long one the last part is not part of the outage (lab.hypervisor)
        longest_s = LONG_S if suspended_s > LONG_S else 0.0
        if late_s < ports_s / 2 and -longest_s - 0.15 - ports_s / 2 < other_s < 0.15 + ports_s / 2:
            return
    raise AssertionError(seen)


def paused_s(job: dict[str, Any]) -> float:
    """How long a router that moved was suspended before it could have been let run."""
    times = {event["state"]: event["monotonic_s"] for event in job["events"]}
    return float(times["moved_paused"] - times["suspended"])


def test_nothing_passes_while_suspended(lab: Lab, xen: HypervisorClient) -> None:
    def counters() -> list[str]:
        found = operate.run("vr1", ["ip", "-j", "-s", "link"]).stdout
        return [
            (link["ifname"], link["stats64"]["rx"]["packets"])
            for link in json.loads(found)
            if link["ifname"].startswith("eth")
        ]

    def frames_to_the_host() -> str:
        return operate.run(
            "host-a", ["ovs-vsctl", "get", "interface", "vr1.0", "statistics:rx_packets"]
        ).stdout

    xen.pause("vr1")
    try:
        assert xen.domains() == [{"router": "vr1", "host": "host-a", "state": "paused"}]
        before = counters()
        with inside("xf-vr1"), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("eth0", 0))
            sock.send(b"\xff" * 6 + bytes.fromhex("020000010101") + b"\x88\xb5" + bytes(50))
        assert not answers("gen", "10.0.1.1")
        assert counters() == before
        own = [p.pid for p in process.recorded() if p.node == "vr1" and p.alive]
        # one that waited for a processor stops when it gets one
        settle(lambda: {state_of(pid) for pid in own} == {"T"}, "all are stopped")
        assert frames_to_the_host()
        with pytest.raises(HypervisorError, match="not running"):
            xen.migrate("vr1", "host-b")
    finally:
        xen.unpause("vr1")
    assert reaches("gen", "10.0.1.1")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_second_migration_is_refused(xen: HypervisorClient) -> None:
    xen.set(precopy_s=30)
    job = xen.migrate("vr1", "host-b")
    with pytest.raises(HypervisorError, match="already") as raised:
        xen.migrate("vr1", "host-b")
    assert raised.value.code == "busy"
    with pytest.raises(HypervisorError, match="not arrived"):
        xen.unpause("vr1")
    xen.abort("vr1")
    assert xen.job(job["id"])["state"] == "failed"


@pytest.mark.parametrize("state", ["precopy", "suspended", "moved_paused"])
def test_abort_brings_it_back(xen: HypervisorClient, state: str) -> None:
    xen.set(precopy_s=30 if state == "precopy" else 0.0)
    job = xen.migrate("vr1", "host-b", pause_s=30 if state == "suspended" else 0.0)
    job = xen.await_state(job["id"], state)
    assert job["state"] == state
    ended = xen.abort("vr1")
    assert (ended["state"], ended["detail"]) == ("failed", "aborted")
    at_home(xen)


@pytest.mark.parametrize("state", ["precopy", "suspended", "moved_paused"])
def test_failure_brings_it_back(xen: HypervisorClient, state: str) -> None:
    xen.set(fail_at=state)
    job = xen.await_state(xen.migrate("vr1", "host-b")["id"])
    assert job["state"] == "failed"
    assert state in job["detail"]
    at_home(xen)
    assert xen.move("vr1", "host-b")["state"] == "running", "a fault is injected once"


def test_failure_to_start_leaves_it_paused(xen: HypervisorClient) -> None:
    xen.set(fail_at="running")
    job = xen.await_state(xen.migrate("vr1", "host-b")["id"], "moved_paused")
    with pytest.raises(HypervisorError, match="did not start"):
        xen.unpause("vr1")
    assert xen.job(job["id"])["state"] == "moved_paused"
    assert xen.unpause("vr1")["state"] == "running"


def test_a_suspended_router_forgets_no_neighbour(xen: HypervisorClient) -> None:
    """Its clock stands still, though its namespace's does not: one that would be probed is kept."""
    assert reaches("gen", "10.2.0.1")
    ages = {
        "base_reachable_time_ms": 100,
        "interval_probe_time_ms": 100,
        "delay_first_probe_time": 1,
        "retrans_time_ms": 100,
    }

    def entries() -> str:
        return operate.run("vr1", ["ip", "neigh", "show", "dev", "eth0"]).stdout

    before = operate.run("vr1", ["sysctl", "-n", *(f"net.ipv4.neigh.eth0.{a}" for a in ages)])
    for age, value in ages.items():
        operate.run("vr1", ["sysctl", "-qw", f"net.ipv4.neigh.eth0.{age}={value}"])
    operate.run("vr1", ["ip", "neigh", "flush", "dev", "eth0"])
    settle(lambda: "02:00:00:00:01:02 managed" in entries(), "the kernel probes for it")
    xen.pause("vr1")
    time.sleep(3.0)
    assert "02:00:00:00:01:02" in entries()
    for age, was in zip(ages, before.stdout.split(), strict=True):
        operate.run("vr1", ["sysctl", "-qw", f"net.ipv4.neigh.eth0.{age}={was}"])
    xen.unpause("vr1")
    assert "REACHABLE" in entries(), "it ages again"


def test_resumes_when_nobody_says_so(xen: HypervisorClient) -> None:
    xen.set(resume_after_s=0.3)
    job = xen.await_state(xen.migrate("vr1", "host-b")["id"], "running")
    assert job["state"] == "running"
    assert xen.host_of("vr1") == "host-b"
    assert reaches("gen", "10.2.0.1")
    with pytest.raises(HypervisorError) as raised:
        xen.abort("vr1")
    assert raised.value.code == "no-migration"


def test_bad_requests_are_answered(xen: HypervisorClient) -> None:
    for verb, arguments, code in (
        ("nosuch", {}, "unknown-verb"),
        ("migrate", {"router": "nosuch", "to": "host-b"}, "unknown-router"),
        ("migrate", {"router": "vr1", "to": "nosuch"}, "unknown-host"),
        ("migrate", {"router": "vr1", "to": "host-a"}, "already-there"),
        ("set", {"pause_s": "long"}, "bad-request"),
        ("set", {"fail_at": "nowhere"}, "bad-request"),
        ("job", {"id": "99999"}, "unknown-job"),
    ):
        with pytest.raises(HypervisorError) as raised:
            xen.ask(verb, **arguments)
        assert raised.value.code == code
    assert xen.ask("hosts")["emulated"] is True


def at_home(xen: HypervisorClient) -> None:
    assert xen.domains() == [{"router": "vr1", "host": "host-a", "state": "running"}]
    assert {"vr1.0", "vr1.1"} <= ports("host-a")
    assert not {"vr1.0", "vr1.1"} & ports("host-b")
    assert reaches("gen", "10.2.0.1")


@pytest.mark.parametrize("state", ["suspended", "moved_paused"])
def test_hypervisor_killed_in_the_middle(lab: Lab, xen: HypervisorClient, state: str) -> None:
    """Whatever it was doing, the router is somewhere after a restart, and can be let run."""
    xen.set(precopy_s=0.0)
    xen.await_state(
        xen.migrate("vr1", "host-b", pause_s=600 if state == "suspended" else 0)["id"], state
    )
    daemon = next(p for p in process.recorded() if p.name == "hypervisor" and p.alive)
    os.kill(daemon.pid, signal.SIGKILL)
    start_hypervisor(LabOptions(pause_s=0, precopy_s=0.05))
    xen.close()
    domain = xen.domains()[0]
    if state == "suspended":
        assert domain == {"router": "vr1", "host": "host-a", "state": "running"}
    else:
        assert domain == {"router": "vr1", "host": "host-b", "state": "paused"}
        xen.unpause("vr1")
    assert reaches("gen", "10.2.0.1")


def test_router_stays_when_the_hypervisor_is_killed(lab: Lab, xen: HypervisorClient) -> None:
    xen.move("vr1", "host-b")
    daemon = next(p for p in process.recorded() if p.name == "hypervisor" and p.alive)
    os.kill(daemon.pid, signal.SIGKILL)
    assert reaches("gen", "10.2.0.1")
    assert {n.name: n.host for n in operate.nodes()}["vr1"] == "host-b"
    start_hypervisor(LabOptions(pause_s=0, precopy_s=0.05))
    xen.close()
    assert xen.host_of("vr1") == "host-b"


# --- the probe ------------------------------------------------------------------------------------


def test_probe_counts_what_is_lost(lab: Lab, tmp_path: Path) -> None:
    assert_machine_quiet_enough()
    moments = []
    with ProbePair("gen", "recv", rate_pps=500, directory=tmp_path) as pair:
        pair.start()
        time.sleep(0.5)
        for change in (operate.cut, operate.heal):
            moments.append(time.monotonic_ns())
            change("gen-a")
            if change is operate.heal:
                assert reaches("gen", "10.0.2.2"), "the switches have noticed"
            moments.append(time.monotonic_ns())
            time.sleep(1.0)
        there, back = pair.stop()
    cuts, cut, heals, healed = moments
    moment = 500_000_000
    """What was on its way when the cable was cut."""
    for name, result in (("there", there), ("back", back)):
        records = list(read_records(tmp_path / f"{name}.bin"))
        assert len(records) == result.sent
        lost = [sent for _, sent, arrived in records if not arrived]
        assert set(lost) >= {sent for _, sent, _ in records if cut < sent < heals}
        assert cuts - moment < min(lost) and max(lost) < healed
        assert result.lost == result.longest_loss == len(lost)
        assert (max(lost) - min(lost)) / 1e9 < result.longest_gap_s < (healed - cuts) / 1e9 + 1
        assert result.duplicated == result.reordered == 0
    with ProbePair("gen", "recv", rate_pps=200, size=1500) as pair:
        assert not any(r.lost or r.duplicated or r.reordered for r in pair.run(1))


# --- up and down of its own -----------------------------------------------------------------------


def test_frr_beside_bird() -> None:
    if not Path("/usr/lib/frr/ospfd").exists():
        pytest.skip("needs frr")
    bring_up.down()
    lab = bring_up.up("paper", controllers=False, daemon="frr", limit_s=LIMIT_S)
    try:
        assert "proto ospf" in operate.run("vr1", ["ip", "route"]).stdout
        changes = routing.neighbour_changes(lab)
        assert any("Full" in c.text for c in changes)
    finally:
        bring_up.down()


def test_path_comes_up_and_moves() -> None:
    bring_up.down()
    lab = bring_up.up("path", controllers=False, limit_s=LIMIT_S)
    try:
        address, port = lab.hypervisor
        with HypervisorClient(f"{address}:{port}", timeout_s=LIMIT_S) as xen:
            xen.move("vr1", "host-b")
        assert reaches("gen", "10.2.0.1")
    finally:
        bring_up.down()


def test_failure_says_what_was_not_reached_and_sweeps() -> None:
    with pytest.raises(LabError, match="did not reach"):
        bring_up.up("paper", controllers=False, limit_s=1.0)
    assert not namespaces()
    assert list(process.LOG_DIR.glob("*-bird.log"))


def test_down_sweeps_after_a_crash_and_only_its_own() -> None:
    before = Path("/proc/sys/net/core/rmem_default").read_text()
    running = subprocess.Popen([*PYTHON, "up", "paper", "--static"], cwd=ROOT)
    end = time.monotonic() + LIMIT_S
    while not (process.STATE_DIR / "vr1" / "bird.ctl").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    running.kill()
    running.wait()
    with inside("xf-gen"):
        bystander = subprocess.Popen(["sleep", "600"])
    left = process.recorded()
    assert any(p.alive for p in left)
    assert "left behind" in command("up", "paper", "--static").stderr
    assert command("down").returncode == 0
    assert bystander.poll() is None, "a process the lab has not started was ended"
    bystander.kill()
    bystander.wait()
    assert not any(p.alive for p in left)
    assert not namespaces()
    assert FABRIC not in namespaces()
    assert not NETWORK_FILE.exists()
    assert Path("/proc/sys/net/core/rmem_default").read_text() == before
    assert command("down").returncode == 0
    assert "no lab is up" in command("nodes").stderr
