"""The hotplug script on real interfaces, with a pretended xenstore and Open vSwitch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenflow.model import control_link

pytestmark = pytest.mark.lab

SCRIPT = Path(__file__).resolve().parents[2] / "xen" / "dom0" / "vif-xenflow"
BACKEND = "backend/vif/7/0"
VIF = "vif7.0"
PROGRAMS = {
    "xenstore-read": 'for key; do cat "$STORE/$key" || exit 1; done',
    "xenstore-write": 'while [ $# -gt 0 ]; do echo "$2" >"$STORE/$1"; shift 2; done',
    "ovs-vsctl": 'echo "$*" >>"$STORE/ovs-vsctl"; [ ! -e "$STORE/no-bridge" ] || exit 1',
}


class Xen:
    """One vif in a network namespace of its own, and what xenstore says of it."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        (self.store / BACKEND).mkdir(parents=True)
        self.programs = folder / "bin"
        self.programs.mkdir()
        for name, body in PROGRAMS.items():
            (self.programs / name).write_text(f"#!/bin/sh\n{body}\n")
            (self.programs / name).chmod(0o755)
        self.namespace = f"vif-{os.getpid()}"
        self.ip("netns", "add", self.namespace)
        self.inside("ip", "link", "add", VIF, "type", "veth", "peer", "name", "guest")

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    def inside(self, *words: str) -> str:
        command = ["ip", "netns", "exec", self.namespace, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def vif(self, **values: str) -> None:
        for key, value in values.items():
            (self.store / BACKEND / key).write_text(value + "\n")

    def hotplug(self, action: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "STORE": str(self.store),
            "vif": VIF,
            "XENBUS_PATH": BACKEND,
        }
        command = ["ip", "netns", "exec", self.namespace, str(SCRIPT), action]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def said(self, name: str) -> str:
        path = self.store / name
        return path.read_text().strip() if path.exists() else ""

    def close(self) -> None:
        self.ip("netns", "del", self.namespace)


@pytest.fixture
def xen(tmp_path: Path) -> Iterator[Xen]:
    made = Xen(tmp_path)
    yield made
    made.close()


def test_a_vif_becomes_the_port_that_the_network_names(xen: Xen) -> None:
    xen.vif(bridge="xenflow0.101", mac="02:00:00:01:01:01", vifname="vr1.0")
    done = xen.hotplug("online")
    assert done.returncode == 0, done.stderr
    shown = xen.inside("ip", "link", "show", "vr1.0")
    assert ",UP" in shown and "fe:ff:ff:ff:ff:ff" in shown
    words = xen.said("ovs-vsctl")
    assert "--if-exists del-port vr1.0" in words
    assert "add-port xenflow0 vr1.0 tag=101" in words
    assert 'external_ids:attached-mac="02:00:00:01:01:01"' in words
    assert f"external_ids:xen-backend={BACKEND}" in words
    assert xen.said(f"{BACKEND}/hotplug-status") == "connected"
    assert xen.hotplug("offline").returncode == 0
    assert xen.said("ovs-vsctl").endswith("--if-exists del-port xenflow0 vr1.0")


def test_the_control_link_is_the_same_on_every_host_and_in_no_bridge(xen: Xen) -> None:
    xen.vif(bridge="xenflow-control", mac="02:58:46:01:00:01", vifname="vr1.ctl")
    done = xen.hotplug("online")
    assert done.returncode == 0, done.stderr
    shown = xen.inside("ip", "address", "show", "vr1.ctl")
    assert control_link.RULE_TABLE_MAC in shown
    addresses = [line.split()[1] for line in shown.splitlines() if "inet6" in line]
    assert addresses == [f"{control_link.RULE_TABLE_ADDRESS}/64"]
    assert "tentative" not in shown
    assert xen.inside("sysctl", "-n", "net.ipv4.conf.vr1/ctl.arp_ignore").strip() == "8"
    assert xen.said("ovs-vsctl") == ""
    assert xen.said(f"{BACKEND}/hotplug-status") == "connected"
    assert xen.hotplug("offline").returncode == 0
    assert xen.said("ovs-vsctl") == ""


def test_what_goes_wrong_is_told_to_xen(xen: Xen) -> None:
    xen.vif(bridge="xenflow0.101", mac="02:00:00:01:01:01", vifname="vr1.0")
    (xen.store / "no-bridge").touch()
    assert xen.hotplug("online").returncode == 1
    assert xen.said(f"{BACKEND}/hotplug-status") == "error"
    assert "vr1.0" in xen.said(f"{BACKEND}/hotplug-error")


def test_a_vif_without_a_name_is_refused(xen: Xen) -> None:
    xen.vif(bridge="xenflow0", mac="02:00:00:01:01:01")
    assert xen.hotplug("online").returncode == 1
    assert "vifname=" in xen.said(f"{BACKEND}/hotplug-error")


def test_usage() -> None:
    done = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "xenflow-control" in done.stdout
    assert subprocess.run([SCRIPT, "sideways"], capture_output=True).returncode == 2
