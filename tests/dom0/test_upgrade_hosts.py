"""Hosts become another release one after the other, and no further than all is well."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from xen.dom0 import upgrade
from xenflow.model.hypervisor_spec import XlSpec
from xenflow.model.network import NetworkError
from xenflow.store.network_file import parse

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "xen" / "dom0" / "network.toml.example").read_text()
HOSTS = [(name, XlSpec(name)) for name in ("a", "b", "c")]


def test_members_of_the_store_come_first() -> None:
    network = parse(TEXT, "f")[0]
    assert [name for name, _ in upgrade.order(network)] == ["host-a", "host-b"]
    store = 'store = ["ssl:192.168.10.2:6643"]\ntls = "/etc/xenflow/tls"'
    network = parse(TEXT.replace("[network]", f"[network]\n{store}"), "f")[0]
    assert [name for name, _ in upgrade.order(network)] == ["host-b", "host-a"]


def test_who_cannot_be_logged_in_to_is_named() -> None:
    text = TEXT.replace('hypervisor = "xl:ssh://root@192.168.10.2"\n', "")
    with pytest.raises(NetworkError, match=r"controller host-b is on no host .*install-dom0"):
        upgrade.order(parse(text, "f")[0])


class Site:
    """Hosts, of which some do not install, or are not well afterwards."""

    def __init__(self, fails: str = "", ill: str = "") -> None:
        self.fails, self.ill, self.done = fails, ill, list[str]()

    def install(self, spec: XlSpec) -> bool:
        self.done.append(spec.host)
        return spec.host != self.fails

    def well(self) -> str:
        self.done.append("?")
        return "NOT HEALTHY" if self.ill in self.done else ""


def test_each_once_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "WELL_S", 0.0)
    site = Site()
    upgrade.upgrade(HOSTS, site.install, site.well)
    assert site.done == ["?", "a", "?", "b", "?", "c", "?"]
    site = Site(ill="?")
    with pytest.raises(NetworkError, match="nothing is upgraded, all must be well before:\nNOT"):
        upgrade.upgrade(HOSTS, site.install, site.well)
    assert site.done == ["?"]
    site = Site(fails="b")
    with pytest.raises(NetworkError, match="install-dom0 has failed there; not upgraded: b, c$"):
        upgrade.upgrade(HOSTS, site.install, site.well)
    assert site.done[-1] == "b"
    site = Site(ill="b")
    with pytest.raises(NetworkError, match="left as they were: c\nNOT HEALTHY"):
        upgrade.upgrade(HOSTS, site.install, site.well, lambda _: None)
    assert "c" not in site.done


def test_what_a_host_is_given_can_be_installed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive is whole, and the shell on the host runs its install-dom0, and leaves nothing."""
    ssh, login = tmp_path / "ssh", tmp_path / "login"
    ssh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$1 $2 $3" >{login}\nexec sh -c "$4"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("XENFLOW_SSH", str(ssh))
    archive, install = upgrade.commands(XlSpec("192.0.2.1", "root", 2222))
    (tmp_path / "all.tar.gz").write_bytes(subprocess.run(archive, capture_output=True).stdout)
    with tarfile.open(tmp_path / "all.tar.gz") as files:
        names = set(files.getnames())
    assert {"./pox.py", "./scripts/install-dom0", "./pox_ext/xenflow/__init__.py"} <= names
    assert not any("/.git/" in name or "/__pycache__" in name for name in names)

    small = tmp_path / "small"
    (small / "scripts").mkdir(parents=True)
    (small / "scripts" / "install-dom0").write_text('#!/bin/sh\necho "$0" >&2; exit 7\n')
    (small / "scripts" / "install-dom0").chmod(0o755)
    with subprocess.Popen(["tar", "-czf", "-", "-C", small, "."], stdout=subprocess.PIPE) as writes:
        done = subprocess.run(install, stdin=writes.stdout, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    there = Path(done.stderr.strip())
    assert there.name == "install-dom0" and not there.exists()
    assert login.read_text() == "-p 2222 root@192.0.2.1\n"


def test_a_dry_run_says_everything(tmp_path: Path) -> None:
    file = tmp_path / "network.toml"
    file.write_text(TEXT)
    command = [ROOT / "scripts" / "upgrade-dom0", "--network", file, "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("host-a: tar -czf - ") and "root@192.168.10.2" in done.stdout
