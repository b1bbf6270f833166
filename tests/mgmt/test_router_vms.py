"""What makes VMs: on Xen the commands of each Domain 0, in their order; elsewhere a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mgmt.hypervisor import Domain, HypervisorError, vm, xl_vms
from mgmt.hypervisor.dom0_agent import Agent
from mgmt.hypervisor.vm import NoVms, RouterVm
from mgmt.hypervisor.xl_vms import FOLDER, XlVms
from mgmt.lease import LostError
from xenflow.model.network import Interface, Router

ROUTER = Router(
    "vr9", 9, "host-b", "vr9.ctl", (Interface("eth0", "left", 0x020000000901, "vr9.0"),)
)
VM = RouterVm(ROUTER, {"left": (1, 101)}, {"eth0": "10.0.1.9/24"}, "bird", "protocol device {}")
MADE = (
    "/opt/xenflow/scripts/router-image --config vr9 --network /etc/xenflow/network.toml "
    f"--image {FOLDER} --out {FOLDER} --bird {FOLDER}/vr9.bird.conf --memory 128 "
    "--address eth0=10.0.1.9/24"
)


class Xen:
    """Two Domain 0s, as the commands that they are given; vr9 is `at` one of them."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.files: dict[tuple[str, str], str] = {}
        self.at = ""
        self.missing = ""
        self.obeys = True
        self.claimed = True
        self.vms = XlVms(("host-a", "host-b"), self.dom0, self.domain, self.check)

    def check(self) -> None:
        if not self.claimed:
            raise LostError("somebody else has it")

    def domain(self, router: str) -> Domain | None:
        return Domain(router, self.at, "running") if self.at else None

    def dom0(self, host: str) -> Any:
        return _Dom0(self, host)

    def commands(self, host: str) -> list[str]:
        return [words for where, words in self.said if where == host]


class _Dom0:
    def __init__(self, xen: Xen, host: str) -> None:
        self.xen, self.host = xen, host

    def ask(self, do: str, **words: Any) -> dict[str, Any]:
        if do == "write":
            self.xen.files[self.host, words["path"]] = words["text"]
            return {}
        assert do == "look"
        return {"there": [path for path in words["paths"] if path != self.xen.missing]}

    def run(self, *words: str, **_: Any) -> dict[str, Any]:
        if words[0] == "cat":
            found = self.xen.files.get((self.host, words[1]))
            return {"status": int(found is None), "out": found or "", "err": ""}
        self.xen.said.append((self.host, " ".join(words)))
        if words[:2] == ("xl", "shutdown") and self.xen.obeys:
            self.xen.at = ""
        return {"status": 0, "out": "", "err": ""}

    def output(self, *words: str, **_: Any) -> str:
        if words[:2] == ("xl", "create"):
            self.xen.at = self.host
        return str(self.run(*words)["out"])


def test_a_description_is_read_as_it_was_written() -> None:
    assert vm.from_json(json.loads(json.dumps(vm.to_json(VM)))) == VM
    with pytest.raises(HypervisorError, match="cannot be read"):
        vm.from_json({**vm.to_json(VM), "interfaces": [["eth0"]]})
    with pytest.raises(HypervisorError, match="cannot be read"):
        vm.from_json(None)


def test_ports_and_filter_are_right_on_every_host_before_the_vm_is_created() -> None:
    xen = Xen()
    xen.vms.keep(VM)
    assert xen.vms.kept("vr9") == VM
    xen.vms.create("vr9", "host-b")
    ports = "systemctl start xenflow-ports.service"
    assert xen.commands("host-a") == [ports, MADE]
    assert xen.commands("host-b") == [ports, MADE, f"xl create {FOLDER}/vr9.cfg"]
    assert xen.said[-1][1].startswith("xl create"), "the last of all"
    assert xen.files["host-a", f"{FOLDER}/vr9.bird.conf"] == VM.config


def test_what_is_not_kept_is_not_created() -> None:
    xen = Xen()
    with pytest.raises(HypervisorError, match="nothing is kept"):
        xen.vms.create("vr9", "host-b")
    assert xen.said == []


def test_a_vm_is_asked_to_end_and_destroyed_where_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    xen = Xen()
    xen.vms.stop("vr9")
    assert xen.said == [], "it is not there"
    xen.at = "host-a"
    xen.vms.stop("vr9")
    assert xen.said == [("host-a", "xl shutdown vr9")]
    monkeypatch.setattr(xl_vms, "SHUTDOWN_S", 0.0)
    xen.at, xen.obeys = "host-b", False
    xen.vms.stop("vr9")
    assert xen.said[1:] == [("host-b", "xl shutdown vr9"), ("host-b", "xl destroy vr9")]


def test_what_runs_is_not_forgotten() -> None:
    xen = Xen()
    xen.at = "host-a"
    with pytest.raises(HypervisorError, match="vr9 is on host-a: stop it first"):
        xen.vms.forget("vr9")
    xen.at = ""
    xen.vms.forget("vr9")
    assert all(words.startswith(f"rm -f {FOLDER}/vr9.cfg") for _, words in xen.said)
    assert {host for host, _ in xen.said} == {"host-a", "host-b"}


def test_what_a_host_lacks_is_said_before_anything() -> None:
    xen = Xen()
    xen.vms.may_make(VM, "host-b")
    with pytest.raises(HypervisorError, match="no FRR"):
        xen.vms.may_make(RouterVm(ROUTER, {}, {}, "frr", "router ospf"), "host-b")
    both = RouterVm(ROUTER, {}, {"eth0": "10.0.1.9/24,2001:db8:1::9/64"})
    with pytest.raises(HypervisorError, match="eth0: an interface has one address, an IPv4 one"):
        xen.vms.may_make(both, "host-b")
    xen.missing = f"{FOLDER}/initrd-router"
    with pytest.raises(HypervisorError, match="host-a has no .*initrd-router"):
        xen.vms.may_make(VM, "host-b")


def test_another_hypervisor_says_that_it_makes_none() -> None:
    none = NoVms("libvirt")
    with pytest.raises(HypervisorError, match="vr9: hypervisor libvirt makes and ends no VMs"):
        none.may_make(VM, "host-b")
    with pytest.raises(HypervisorError, match="by its own tools"):
        none.stop("vr9")
    assert none.kept("vr9") is None
    none.forget("vr9")


def test_the_agent_writes_a_file_for_root_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "vr9.bird.conf"
    Agent().do_write(str(path), "one")
    Agent().do_write(str(path), "other")
    assert path.read_text() == "other"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["vr9.bird.conf"]


def test_who_has_lost_the_lease_makes_and_ends_no_vm() -> None:
    xen = Xen()
    xen.vms.keep(VM)
    xen.claimed = False
    with pytest.raises(LostError):
        xen.vms.create("vr9", "host-b")
    xen.at = "host-b"
    with pytest.raises(LostError):
        xen.vms.stop("vr9")
    assert not any("xl " in words for _, words in xen.said)
