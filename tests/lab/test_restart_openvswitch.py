"""`scripts/restart-openvswitch`: every flow is back, the same, before Open vSwitch goes by it.

What is lost meanwhile depends on the kernel's datapath: `tests/xen` measures it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import tests.flow_samples as samples
from tests.lab import ovs_private as ovs
from tests.lab.audited import Audited
from tests.lab.live import settle
from xen.dom0 import host
from xenflow.openflow import build, wire
from xenflow.openflow import flow as fl
from xenflow.openflow.flow import Flow
from xenflow.store.network_file import load

ROOT = Path(__file__).resolve().parents[2]
NETWORK = load(ROOT / "xen" / "dom0" / "network.toml.example")
RESTART = """\
pid=$(cat ovs-vswitchd.pid)
ovs-appctl -t "$PWD/ovs-vswitchd.$pid.ctl" exit
while grep -qs '^State:.[^Z]' "/proc/$pid/status"; do sleep 0.02; done
exec unshare --net ovs-vswitchd --enable-dummy "unix:$PWD/db.sock" --pidfile --detach --no-chdir \\
    --log-file="$PWD/again.log" -vconsole:off
"""
"""As the packages' scripts do it; the one that has ended is not waited for by its parent."""
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not ovs.available(), reason="needs root and Open vSwitch"),
]


@pytest.fixture
def switch() -> Iterator[ovs.PrivateSwitch]:
    """Its bridge has protocols, failure mode and controller of a host's, which does not answer."""
    with ovs.switch() as running:
        words = " ".join(host.bridge(NETWORK, next(iter(NETWORK.datapaths.values()))))
        said = ("set Bridge", "set-controller", "set Controller", "--id=")
        commands = [
            command
            for command in words.replace(host.BRIDGE, "b0").split(" -- ")
            if command.startswith(said)
        ]
        run(running, "ovs-vsctl", "--", *" -- ".join(commands).split())
        before = running.pid()
        yield running
        if running.pid() != before:
            os.kill(running.pid(), signal.SIGTERM)


def run(switch: ovs.PrivateSwitch, *words: str) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ, OVS_RUNDIR=str(switch.directory))
    return subprocess.run(
        words,
        env=env,
        cwd=switch.directory,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )


def restart(switch: ovs.PrivateSwitch) -> None:
    before = switch.pid()
    run(switch, str(ROOT / "scripts/restart-openvswitch"), "sh", "-ec", RESTART)
    switch.forget()
    assert switch.pid() != before


def meanings(switch: ovs.PrivateSwitch) -> set[str]:
    """Every flow as Open vSwitch itself has it: what reads back alike may still differ."""
    dump = switch.appctl("bridge/dump-flows", "b0")
    return {
        re.sub(r"(duration|n_packets|n_bytes)=\S+ ?", "", line).strip()
        for line in dump.splitlines()
        if "table_id=254" not in line
    }


def test_flows_are_back_and_stay_with_the_controller(switch: ovs.PrivateSwitch) -> None:
    told = Audited(switch)
    told.told(3)
    told.looked()
    told.sock.close()
    before = meanings(switch)
    assert len(before) > 50
    restart(switch)
    # It takes a controller only when it waits no longer: that must not empty it.
    settle(lambda: "tcp:" in controllers(switch), "it asks for its controller")
    assert meanings(switch) == before


def odd_ipv6(flow: Flow) -> bool:
    return any(
        name.startswith("ipv6_") and mask is not None and fl.prefix_len(mask, 128) is None
        for name, _, mask in flow.match
    )


def controllers(switch: ovs.PrivateSwitch) -> str:
    log = (switch.directory / "again.log").read_text()
    return "".join(line for line in log.splitlines() if "controller" in line)


@pytest.mark.parametrize("seed", range(3))
def test_any_flow_is_back(switch: ovs.PrivateSwitch, seed: int) -> None:
    connection = switch.connect()
    # ovs-ofctl does not read masks of IPv6 addresses that are no prefixes, as it writes them
    flows = [f for f in samples.some_flows(Random(seed), 150) if not odd_ipv6(f)]
    connection.send(build.delete_by_cookie(wire.ALL_TABLES, 0, 0))
    connection.add(flows)
    connection.sock.close()
    before = meanings(switch)
    restart(switch)
    assert meanings(switch) == before
