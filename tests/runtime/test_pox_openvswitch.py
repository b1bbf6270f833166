"""Both cores against a real Open vSwitch in a network namespace of its own (needs root)."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from launched import LIMIT_S

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not SCHEMA.exists() or shutil.which("ovs-vswitchd") is None,
    reason="needs root and Open vSwitch",
)


class Switch:
    """An Open vSwitch with its own database, run directory and namespace; bridge br0, port p1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespace = f"xf-runtime-{os.getpid()}"
        self.enter = ["ip", "netns", "exec", self.namespace]
        self.daemons: list[subprocess.Popen[bytes]] = []
        database = f"unix:{folder}/db.sock"
        self.vsctl = [*self.enter, "ovs-vsctl", f"--db={database}"]
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        subprocess.run(["ip", "-n", self.namespace, "link", "set", "lo", "up"], check=True)
        subprocess.run(["ovsdb-tool", "create", f"{folder}/conf.db", str(SCHEMA)], check=True)
        self._daemon(
            "ovsdb-server",
            f"{folder}/conf.db",
            f"--remote=punix:{folder}/db.sock",
            f"--unixctl={folder}/db.ctl",
        )
        self._wait_for("db.sock")
        subprocess.run([*self.vsctl, "--no-wait", "init"], check=True)
        self._daemon("ovs-vswitchd", database, f"--unixctl={folder}/vs.ctl")
        bridge = ["set", "bridge", "br0", "datapath_type=netdev", "fail_mode=secure"]
        port = ["add-port", "br0", "p1", "--", "set", "interface", "p1", "type=internal"]
        subprocess.run([*self.vsctl, "add-br", "br0", "--", *bridge, "--", *port], check=True)

    def _daemon(self, *words: str) -> None:
        env = {**os.environ, "OVS_RUNDIR": str(self.folder)}
        self.daemons.append(
            subprocess.Popen(
                [*self.enter, *words, "--no-chdir"],
                env=env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def _wait_for(self, name: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self) -> None:
        for each in reversed(self.daemons):
            each.terminate()
            each.wait(LIMIT_S)
        subprocess.run(["ip", "netns", "del", self.namespace], check=True)


@pytest.fixture(scope="module")
def switch(tmp_path_factory):
    it = Switch(tmp_path_factory.mktemp("ovs"))
    yield it
    it.stop()


def test_everything_raw_from_a_real_switch(core, start, switch):
    flows = 10_000
    controller = start(core, f"--flows={flows}", before=switch.enter, component="asker")
    target = f"tcp:127.0.0.1:{controller.port}"
    subprocess.run([*switch.vsctl, "set-controller", "br0", target], check=True)
    up = controller.wait_for("ConnectionUp")
    installed = controller.wait_for("raw", type=19, xid=3)
    assert controller.wait_for("raw", type=17, xid=4)["body"] == 1056  # description
    assert controller.wait_for("raw", type=17, xid=5)["body"] == 2 * 104  # ports
    got = controller.wait_for("raw", type=17, xid=6)
    assert got["body"] == flows * 88 and got["parts"] > 1  # OFPST_FLOW
    got = controller.wait_for("raw", type=17, xid=7)
    assert got["body"] == flows * 56 and got["parts"] > 1  # NXST_FLOW
    # the switch has taken them in one go: how long that took says how fast the machine is
    assert got["at"] - installed["at"] < 2 + 3 * (installed["at"] - up["at"])
    assert controller.wait_for("raw", type=1)["xid"] == 10
    assert controller.wait_for("raw", type=3)["xid"] == 11
    controller.wait_for("raw", type=19, xid=13)
    # a packet-in may come before the barrier's answer, or after it
    before = [e for e in controller.events if e["event"] == "raw" and e["type"] == 10]
    got = before[0] if before else controller.wait_for("raw", type=10)
    assert got["body"] == 1400 + 18 - 12
    assert controller.wait_for("raw", type=4)["head"] == "000023200000000e"  # NXT_FLOW_REMOVED
    subprocess.run(
        [*switch.vsctl, "add-port", "br0", "p2", "--", "set", "interface", "p2", "type=internal"],
        check=True,
    )
    assert controller.wait_for("raw", type=12)["head"][:2] == "00"
    subprocess.run([*switch.vsctl, "del-port", "p2"], check=True)
    controller.wait_for("raw", type=12)
    assert controller.stop() == 0
