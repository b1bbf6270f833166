"""What a router may say to the Domain 0 it runs in: as itself, to the Rule Table, nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.namespace import inside
from xen.dom0 import host
from xenflow.model import control_link
from xenflow.store.network_file import load

pytestmark = pytest.mark.lab

NETWORK = load(Path(__file__).resolve().parents[2] / "xen" / "dom0" / "network.toml.example")
ROUTER = NETWORK.routers["vr1"]
VIF, PORT = ROUTER.control_vif, control_link.RULE_TABLE_PORT
OTHER_PORT = PORT - 1
CONNECT = """
import socket, sys
address, port, source, wait_s = sys.argv[1:5]
zone = socket.if_nametoindex("ctl0")
with socket.socket(socket.AF_INET6) as sock:
    sock.settimeout(float(wait_s))
    if source:
        sock.bind((source, 0, 0, zone))
    try:
        sock.connect((address, int(port), 0, zone))
    except (TimeoutError, OSError):
        sys.exit(1)
"""


class Link:
    """A control link between two namespaces, and something that listens at its host's end."""

    def __init__(self) -> None:
        self.host, self.guest = f"guard-h-{os.getpid()}", f"guard-g-{os.getpid()}"
        self.listeners: list[socket.socket] = []
        for name in (self.host, self.guest):
            self.run("ip", "netns", "add", name)
        self.run(
            "ip",
            "link",
            "add",
            VIF,
            "address",
            control_link.RULE_TABLE_MAC,
            "netns",
            self.host,
            "type",
            "veth",
            "peer",
            "name",
            "ctl0",
            "address",
            control_link.mac(ROUTER),
            "netns",
            self.guest,
        )
        for name, device, address in (
            (self.host, VIF, control_link.RULE_TABLE_ADDRESS),
            (self.guest, "ctl0", control_link.address(ROUTER)),
        ):
            self.run("ip", "-n", name, "address", "add", f"{address}/64", "dev", device, "nodad")
            self.run("ip", "-n", name, "link", "set", device, "up")
        with inside(self.host):
            self.listeners += [
                socket.create_server(("::", port), family=socket.AF_INET6)
                for port in (PORT, OTHER_PORT)
            ]

    def run(self, *words: str, text: str | None = None) -> None:
        subprocess.run(words, check=True, input=text, text=True)

    def guard(self) -> None:
        rules = host.guard(NETWORK)
        self.run("ip", "netns", "exec", self.host, "nft", "-f", "-", text=rules)

    def connects(self, port: int, source: str = "", wait_s: float = 120.0) -> bool:
        address = control_link.RULE_TABLE_ADDRESS
        words = ["ip", "netns", "exec", self.guest, sys.executable, "-c", CONNECT, address]
        return subprocess.run([*words, str(port), source, str(wait_s)]).returncode == 0

    def close(self) -> None:
        for sock in self.listeners:
            sock.close()
        for name in (self.host, self.guest):
            self.run("ip", "netns", "del", name)


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    yield made
    made.close()


def test_only_the_rule_table_is_reached(link: Link) -> None:
    assert link.connects(OTHER_PORT), "without the guard it is"
    link.guard()
    assert link.connects(PORT)
    assert not link.connects(OTHER_PORT, wait_s=1.5)
    link.guard()  # once more, as when the service is restarted
    assert link.connects(PORT)


def test_only_from_its_own_address(link: Link) -> None:
    link.guard()
    link.run("ip", "-n", link.guest, "address", "add", "fe80::1:7/64", "dev", "ctl0", "nodad")
    assert not link.connects(PORT, "fe80::1:7", wait_s=1.5)
    assert link.connects(PORT, control_link.address(ROUTER))


def test_only_from_its_own_mac(link: Link) -> None:
    link.guard()
    link.run("ip", "-n", link.guest, "link", "set", "ctl0", "address", "02:58:46:01:00:07")
    assert not link.connects(PORT, wait_s=1.5)
