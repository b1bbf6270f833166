"""What the service does to a host before the controller starts, from the network file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xen.dom0 import host
from xenflow.model.network import Network, NetworkError
from xenflow.store.laid_file import LaidFile, LaidRows
from xenflow.store.network_file import load, parse
from xenflow.store.network_rows import NamedRows, laid

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "xen" / "dom0" / "network.toml.example"


@pytest.fixture(scope="module")
def pair() -> Network:
    return load(EXAMPLE)


def test_the_example_is_a_network_in_which_the_router_can_move(pair: Network) -> None:
    from xenflow.model.placement import at_home
    from xenflow.plan.migration import Order, stages

    assert stages(pair, at_home("vr1", "host-a"), "host-b", Order.OVERLAPPED)


def test_bridge(pair: Network) -> None:
    words = " ".join(host.bridge(pair, pair.datapaths["host-a"]))
    assert "add-br xenflow0" in words
    assert "fail_mode=secure" in words
    assert "other_config:datapath-id=00000000000000a1" in words
    assert "set-controller xenflow0 tcp:127.0.0.1:6633" in words
    assert "set Controller xenflow0 type=service" in words, "or it is emptied when it connects"
    assert "create Flow_Table prefixes=ip_dst,ip_src,ipv6_dst -- set Bridge xenflow0" in words
    assert "add-port xenflow0 enp3s0" in words
    assert "add-port xenflow0 enp2s0 -- set Port enp2s0 tag=101" in words
    assert "vr1" not in words, "a router's ports are the hotplug script's"


def test_ports_and_filter_are_those_of_the_store_where_the_network_lives_in_one(
    tmp_path: Path,
) -> None:
    text = EXAMPLE.read_text()
    grown = (
        text
        + """
[routers.vr2]
id = 2
home = "host-a"
control_vif = "vr2.ctl"
interfaces = [{ name = "eth0", link = "left", mac = "02:00:00:02:01:01", vif = "vr2.0" }]
"""
    )
    found = parse(grown.replace("enp3s0", "enp4s0"), "grown")[0]
    LaidFile(tmp_path, "pair").keep(LaidRows("cluster", 2, marked(laid(found))))
    file = tmp_path / "network.toml"
    for store, cable, router in (("", "enp3s0", False), ('store = ["unix:/x"]', "enp4s0", True)):
        file.write_text(text.replace('name = "pair"', f'name = "pair"\n{store}', 1))
        network = host.as_laid(load(file), str(tmp_path))
        words = host.bridge(network, network.datapaths["host-a"])
        assert (cable in words, '"vr2.ctl"' in host.guard(network)) == (True, router)
    assert host.as_laid(load(file), str(tmp_path / "none")) == load(file), "nothing is kept yet"


def marked(rows: NamedRows) -> NamedRows:
    """Laid rows as the planner has written them."""
    return {
        table: {key: {**row, "change": 2, "gone": False} for key, row in found.items()}
        for table, found in rows.items()
    }


def test_a_controller_without_one_host_is_refused() -> None:
    paper = load(ROOT / "conf" / "paper.toml")
    assert host.datapath(paper, "host-b").name == "host-b"
    with pytest.raises(NetworkError, match="expected one host, found none"):
        host.datapath(paper, "edge")


def test_guard_is_one_that_nft_takes(pair: Network) -> None:
    for network in (pair, Network("empty", {}, {}, {}, {}, {})):
        if shutil.which("nft") is None or os.geteuid() != 0:
            pytest.skip("nft, or root, is not here")
        done = subprocess.run(
            ["unshare", "--net", "nft", "-c", "-f", "-"],
            input=host.guard(network),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("named", "status", "said"),
    [("", 1, "which of host-a, host-b is this?"), ("host-b", 0, "tag=102")],
)
def test_the_unit_takes_the_name_from_etc_default(named: str, status: int, said: str) -> None:
    """As systemd, and the test bed's first process, read the unit."""
    unit = (ROOT / "xen/dom0/xenflow.service").read_text()
    assert "XENFLOW_CONTROLLER=\nEnvironmentFile=-/etc/default/xenflow\n" in unit
    lines = dict(line.split("=", 1) for line in unit.splitlines() if line.startswith("Exec"))
    assert lines["ExecStart"].endswith(" --controller=${XENFLOW_CONTROLLER}")
    words = lines["ExecStartPre"].replace("${XENFLOW_CONTROLLER}", named).split()[3:]
    done = run(*words, "--network", str(EXAMPLE), "--dry-run")
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr


def test_by_hand_it_is_named_as_for_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = tmp_path / "xenflow"
    monkeypatch.delenv("XENFLOW_CONTROLLER", raising=False)
    assert host.named_here(str(defaults)) == ""
    defaults.write_text('# which\nXENFLOW_CONTROLLER="host-b"\nOTHER=x\n')
    assert host.named_here(str(defaults)) == "host-b"
    monkeypatch.setenv("XENFLOW_CONTROLLER", "host-a")
    assert host.named_here(str(defaults)) == "host-a"
    done = run("--network", str(EXAMPLE), "--dry-run")
    assert done.returncode == 0 and "tag=101" in done.stdout, done.stderr


def test_nftables_puts_the_guard_back_whatever_it_did() -> None:
    lines = (ROOT / "xen/dom0/nftables-xenflow.conf").read_text().splitlines()
    loads = f"-/usr/sbin/nft -f {host.GUARD_FILE}"
    for moment in ("ExecStartPost", "ExecReload", "ExecStopPost"):
        assert f"{moment}={loads}" in lines


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'pox_ext'}"}
    return subprocess.run(
        [sys.executable, "-m", "xen.dom0.host", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )


def test_dry_run_and_mistakes(tmp_path: Path) -> None:
    done = run("--network", str(EXAMPLE), "--controller", "host-b", "--dry-run")
    assert done.returncode == 0, done.stderr
    order = ["nft -f -", f"dd of={host.GUARD_FILE}", "\novs-vsctl ", "\nip -batch -"]
    places = [done.stdout.find(word) for word in order]
    assert places == sorted(places) and places[0] == 0, "the filter does not wait for interfaces"
    done = run("--network", str(tmp_path / "none.toml"))
    assert done.returncode == 1
    assert "none.toml" in done.stderr
    done = run("--network", str(EXAMPLE), "--controller", "host-z")
    assert done.returncode == 1
    assert "unknown controller host-z" in done.stderr
    assert run("--nonsense").returncode == 2
