"""`xenflow lab reload`: a lab that is up follows its file, and what stays in it notices nothing.

What it grows by and what changes is in `grown.py`; afterwards all of it is taken away again, and
nothing may be left: namespaces, interfaces, addresses, routes, filters, processes, files, ports.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

import pytest

from lab import operate, process, switch
from lab.description import Lab
from lab.namespace import NETNS_DIR, inside, processes_in
from lab.state import NETWORK_FILE
from tests.lab.grown import CAMPUS, GROWN, changed
from tests.lab.live import (
    LIMIT_S,
    LiveTraffic,
    assert_machine_quiet_enough,
    hypervisor,
    in_sync,
    reaches,
    settle,
    xenflow,
)
from tests.lab.needed import needs

PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "bird", "birdc", "nft", "tc", "ip")
pytestmark = needs(PROGRAMS)
ENDS = ("m1", "m3")
UNTOUCHED = ("m1", "m3", "r1", "r2", "r4", "r5")


@pytest.fixture
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for all, so that a lab that is as it was before is the next one's."""
    path = tmp_path_factory.getbasetemp() / "campus.toml"
    path.write_text(CAMPUS)
    return path


def of(space: str | None, *argv: str) -> str:
    with inside(space):
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def everything(lab: Lab) -> list[str]:
    """What there is of a lab, a line each; without what has another number each time it is made."""
    found: list[str] = []

    def note(place: str, lines: Iterable[object]) -> None:
        found.extend(sorted(f"{place}: {line}" for line in lines))

    for space in sorted(path.name for path in NETNS_DIR.glob("xf-*")):
        links = json.loads(of(space, "ip", "-j", "addr"))
        note(space, (f"{link['ifname']} {link['operstate']}" for link in links))
        for link in links:
            addresses = (f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"])
            note(f"{space} {link['ifname']}", addresses)
        routes = re.sub(r" nhid \d+", "", of(space, "ip", "-o", "route"))
        note(f"{space} route", routes.splitlines())
        note(f"{space} filter", of(space, "nft", "list", "tables").splitlines())
        programs = (Path(f"/proc/{pid}/comm") for pid in processes_in(space))
        note(f"{space} program", (path.read_text().strip() for path in programs))
    for name in lab.network.datapaths:
        node = lab.switch_node(name)
        ports = operate.run(node, ["ovs-vsctl", "--columns=name,tag", "list", "Port"]).stdout
        note(f"{name} port", (port.strip() for port in ports.split("\n\n")))
        flows = switch.ofctl(node, "--names", "--no-stats", "dump-flows", switch.BRIDGE)
        note(f"{name} flows", [len(flows.splitlines())])
    note("recorded", (f"{p.node} {p.name} {p.alive}" for p in process.recorded()))
    note("file", (path.name for path in process.STATE_DIR.iterdir()))
    note("node", operate.nodes())
    return found


def assert_comes_back(lab: Lab, before: list[str]) -> None:
    """Until everything is there that was, and no more; OSPF takes its time."""
    end = time.monotonic() + LIMIT_S
    while (now := everything(lab)) != before and time.monotonic() < end:
        time.sleep(0.2)
    gone, come = Counter(before) - Counter(now), Counter(now) - Counter(before)
    assert not gone and not come


def forget_old_address() -> None:
    """r3's kernel would know the address that m2 had for half a minute more."""
    operate.run("r3", ["ip", "neigh", "del", "10.0.4.22", "dev", "eth1"])


def reload() -> None:
    done = xenflow("lab", "reload")
    assert done.returncode == 0, done.stderr


def test_nothing_is_lost_while_the_lab_grows_and_shrinks(
    lab_up: Callable[..., Lab], file: Path
) -> None:
    lab = lab_up(str(file))
    settle(lambda: in_sync(lab), "every switch in sync")
    reaches("m1", "10.3.0.1")
    reaches("m1", "10.2.0.1")
    assert_machine_quiet_enough(ends=ENDS)
    before, since = everything(lab), datetime.now()
    file.write_text(GROWN)
    with LiveTraffic(ends=ENDS) as traffic:
        reload()
        assert xenflow("status", "--wait", str(LIMIT_S)).returncode == 0
        reaches("m1", "10.4.0.1")  # m4, behind r6 on link six-seven
        reaches("m1", "10.0.4.22")  # m2's new address, at another host
        assert xenflow("migrate", "r7", "host-a").returncode == 0
        assert xenflow("migrate", "r7", "host-e").returncode == 0
        file.write_text(CAMPUS)
        reload()
        assert xenflow("status", "--wait", str(LIMIT_S)).returncode == 0
        reaches("m1", "10.0.4.2")
    traffic.assert_nothing_lost()
    forget_old_address()
    changes = operate.status(since)["neighbour_changes"]
    assert {node: changes[node] for node in UNTOUCHED} == dict.fromkeys(UNTOUCHED, 0)
    assert_comes_back(lab, before)


@pytest.mark.parametrize("daemon", [pytest.param("bird", marks=pytest.mark.slow), "frr"])
def test_without_controllers_it_follows_as_well(
    lab_up: Callable[..., Lab], file: Path, daemon: str
) -> None:
    if daemon == "frr" and not (Path("/usr/lib/frr/ospfd").exists() and shutil.which("vtysh")):
        pytest.skip("needs frr")
    lab = lab_up(str(file), controllers=False, daemon=daemon)
    reaches("m1", "10.2.0.1")
    before, since = everything(lab), datetime.now()
    with hypervisor(lab) as xen:
        xen.move("r3", "host-d")  # its new interface comes there
    file.write_text(GROWN)
    reload()
    reaches("m1", "10.4.0.1")
    reaches("m1", "10.0.4.22")
    with hypervisor(lab) as xen:
        assert {"r6", "r7"} <= {domain["router"] for domain in xen.domains()}
        xen.move("r7", "host-a")
    file.write_text(CAMPUS)
    reload()
    reaches("m1", "10.2.0.1")
    with hypervisor(lab) as xen:
        assert [domain["router"] for domain in xen.domains()] == list(lab.routers)
        assert [host["host"] for host in xen.hosts()] == lab.hosts
        xen.move("r3", "host-c")
    changes = operate.status(since)["neighbour_changes"]
    assert {node: changes[node] for node in UNTOUCHED} == dict.fromkeys(UNTOUCHED, 0)
    assert_comes_back(lab, before)


def test_what_is_refused_changes_nothing(lab_up: Callable[..., Lab], file: Path) -> None:
    lab = lab_up(str(file), controllers=False)
    reaches("m1", "10.2.0.1")
    before = everything(lab)
    file.write_text(changed(GROWN, ("vlan = 101", "vlan = 111")))
    done = xenflow("lab", "reload")
    assert done.returncode == 1
    assert f"refused, nothing was changed: {file}" in done.stderr
    assert "  links.left: vlan 101 cannot become 111" in done.stderr
    asked = xenflow("lab", "reload", "--json")
    assert asked.returncode == 1 and json.loads(asked.stdout)["done"] is False
    file.write_text(GROWN)
    asked = xenflow("lab", "reload", "--dry-run")
    assert asked.returncode == 0 and "start the switch of host-e" in asked.stdout.splitlines()
    assert everything(lab) == before
    with hypervisor(lab) as xen:
        xen.pause("r2")
        done = xenflow("lab", "reload")
        xen.unpause("r2")
    assert (done.returncode, done.stderr) == (
        1,
        "xenflow: the lab's hypervisor refused reload: r2 is paused\n",
    )
    reaches("m1", "10.3.0.1")
    assert_comes_back(lab, before)


def test_what_fails_half_way_is_swept_by_down(
    lab_up: Callable[..., Lab], lab_down: Callable[[], None], file: Path
) -> None:
    lab_up(str(file), controllers=False)
    file.write_text(GROWN)
    made = operate.run("host-b", ["ip", "link", "add", "r6.0", "type", "bridge"])  # r6's vif
    assert made.returncode == 0, made.stderr
    done = xenflow("lab", "reload")
    assert done.returncode == 1
    assert "xf-host-b" in done.stderr and "File exists" in done.stderr
    assert "half changed: `xenflow lab down` sweeps it" in done.stderr
    assert operate.status()["phase"] == "changing"
    assert "not whole" in xenflow("lab", "reload").stderr
    started = process.recorded()
    assert any(one.node == "host-e" for one in started)
    assert xenflow("lab", "down").returncode == 0
    lab_down()
    assert not list(NETNS_DIR.glob("xf-*")) and not NETWORK_FILE.exists()
    assert not [one for one in started if one.alive]
