"""A network written as a file and read again is the same network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.large_network import make_network
from xenflow.model.network import Network
from xenflow.store import network_file
from xenflow.store.network_text import to_text

FILES = sorted((Path(__file__).parents[2] / "conf").glob("*.toml"))


def again(network: Network) -> Network:
    return network_file.parse(to_text(network), "again.toml")[0]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_what_is_written_is_read_again(file: Path) -> None:
    network = network_file.load(file)
    assert again(network) == network and again(network).digest == network.digest


def test_a_large_network_is_read_again() -> None:
    network = make_network(8, 4, 40, 80)
    assert again(network) == network


def test_every_key_is_written() -> None:
    text = """
[network]
name = "caf\\u00e9"
store = ["tcp:[::1]:6643", "unix:/run/db.sock", "ssl:10.0.0.1:6643"]
tls = "/etc/xenflow/tls"
[controllers."a.b"]
openflow = "[::1]:6633"
manage = "tcp://localhost:6640"
[datapaths.h]
kind = "host"
dpid = "00000000000000ab"
controller = "a.b"
pipeline = "reactive"
nicira = false
hypervisor = "xl:ssh://root@h:22"
proof = "revalidator"
proof_bound_s = 0.0123
ovs_rundir = "/var/run/ovs"
other = "drop"
[datapaths."s.1"]
kind = "plain"
dpid = "00000000000000ac"
controller = "a.b"
other = "drop"
[cables]
"c.1" = ["h:eth0", "s.1:p@1"]
"c.2" = { ends = ["h:eth1", "s.1:p@2"], mbps = 100, cost = 7, mtu = 9000, labels = [9, "10-20"] }
c3 = { ends = ["h:eth2", "s.1:p@3"], mtu = 1500 }
[links.l]
id = 7
vlan = 9
detour_vlan = 12
root = "h"
cables = ["c.1"]
access = [{ at = "h:a", macs = ["02:00:00:00:00:01", "02:00:00:00:00:02"] }, { at = "s.1:b" }]
[links.promised]
id = 8
vlan = 13
mbps = 60
mtu = 1500
disjoint_from = ["l"]
span = ["s.1", "h"]
[routers.r]
id = 3
home = "h"
control_vif = "r.ctl"
interfaces = [{ name = "eth0", link = "l", mac = "02:00:00:00:01:01", vif = "r.0" }]
"""
    network = network_file.parse(text, "a.toml")[0]
    found = again(network)
    assert found == network and found.store == network.store
    written = to_text(network)
    assert to_text(found) == written and "detour_vlan = 12" in written
    assert again(replace(network, routers={}, links={}, cables={})).links == {}
