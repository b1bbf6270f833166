"""The libvirt driver on libvirt's own test driver: everything but copying, which it cannot do.

How it moves a real domain between two real daemons: docs/hypervisors.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from mgmt.hypervisor import Domain, HypervisorError, Job, JobState
from mgmt.hypervisor.libvirt_driver import Libvirt, _host_of

DOMAIN = """<domain type='test'><name>{name}</name><uuid>{uuid}</uuid>
<memory unit='MiB'>{memory}</memory><os><type>hvm</type></os></domain>"""
NODE = "<node>{domains}<cpu><mhz>2000</mhz><active>2</active></cpu><memory>{memory}</memory></node>"


def node(path: Path, *names: str, memory_mib: int = 2048) -> str:
    """A machine for the test driver, with its domains; the URI."""
    domains = "".join(
        DOMAIN.format(name=name, uuid=f"00000000-0000-0000-0000-{n:012}", memory=128)
        for n, name in enumerate(names, 1)
    )
    path.write_text(NODE.format(domains=domains, memory=memory_mib * 1024))
    return f"test://{path}"


@pytest.fixture
def uris(tmp_path: Path) -> dict[str, str]:
    return {"host-a": node(tmp_path / "a", "vr1"), "host-b": node(tmp_path / "b", "other")}


@pytest.fixture
def driver(uris: dict[str, str]) -> Iterator[Libvirt]:
    made = Libvirt(uris)
    yield made
    made.close()


def ended(driver: Libvirt) -> Job:
    deadline = time.monotonic() + 20
    while (job := driver.job("vr1")).state is not JobState.FAILED:
        assert time.monotonic() < deadline, job
        time.sleep(0.01)
    return job


def test_where_it_is(driver: Libvirt) -> None:
    assert driver.domain("vr1") == Domain("vr1", "host-a", "running")
    domain = driver._connection("host-a").lookupByName("vr1")
    domain.suspend()
    assert driver.domain("vr1") == Domain("vr1", "host-a", "paused")
    driver.unpause("vr1")
    assert driver.domain("vr1") == Domain("vr1", "host-a", "running")
    domain.suspend()
    driver.abort("vr1")  # as `xenflow recover` does: it runs again
    assert driver.domain("vr1") == Domain("vr1", "host-a", "running")
    with pytest.raises(HypervisorError, match="not being migrated") as raised:
        driver.abort("vr1")
    assert raised.value.code == "no-migration"
    domain.destroy()
    assert driver.domain("vr1") is None
    with pytest.raises(HypervisorError, match="no host has a domain vr1 that is not shut off"):
        driver.unpause("vr1")


def test_the_default_machine() -> None:
    """Every connection to it is to the same."""
    driver = Libvirt({"host-a": "test:///default"})
    assert driver.domain("test") == Domain("test", "host-a", "running")
    driver.close()


def test_a_migration_that_fails(driver: Libvirt) -> None:
    """The test driver cannot migrate: what libvirt says comes through, the domain runs on."""
    driver.check("vr1", "host-b")
    assert driver.migrate("vr1", "host-b").router == "vr1"
    job = ended(driver)
    assert "not supported by the connection driver" in job.detail
    assert [state for state, _ in job.events] == ["precopy", "failed"]
    driver.abort("vr1")
    assert driver.domain("vr1") == Domain("vr1", "host-a", "running")


def test_refused(driver: Libvirt, tmp_path: Path) -> None:
    with pytest.raises(HypervisorError, match="vr1 is on host-a already") as raised:
        driver.migrate("vr1", "host-a")
    assert raised.value.code == "already-there"
    with pytest.raises(HypervisorError, match="host-c has no hypervisor of the kind libvirt"):
        driver.check("vr1", "host-c")
    driver._connection("host-a").lookupByName("vr1").suspend()
    with pytest.raises(HypervisorError, match="vr1 on host-a is paused, not running"):
        driver.migrate("vr1", "host-b")


def test_a_domain_of_that_name(tmp_path: Path) -> None:
    uris = {"host-a": node(tmp_path / "a", "vr1"), "host-b": node(tmp_path / "b", "vr1")}
    driver = Libvirt(uris)
    driver._connection("host-b").lookupByName("vr1").destroy()
    with pytest.raises(HypervisorError, match="host-b has a domain vr1 of its own"):
        driver.check("vr1", "host-b")
    driver._connection("host-b").lookupByName("vr1").create()
    with pytest.raises(HypervisorError, match="vr1 exists on host-a and host-b: destroy the one"):
        driver.domain("vr1")
    # paused at one of them, as a migration may leave it: the one that runs is the router
    driver._connection("host-b").lookupByName("vr1").suspend()
    assert driver.domain("vr1") == Domain("vr1", "host-a", "running")
    driver.abort("vr1")
    assert [d.name() for d in driver._connection("host-b").listAllDomains(1)] == []
    driver.close()


def test_a_silent_host(uris: dict[str, str], tmp_path: Path) -> None:
    gone = Libvirt({**uris, "host-c": f"test://{tmp_path}/none"})
    assert gone.domain("vr1") == Domain("vr1", "host-a", "running")
    with pytest.raises(HypervisorError, match="host-c: libvirt: "):
        gone.check("vr1", "host-c")
    gone._connection("host-a").lookupByName("vr1").destroy()
    with pytest.raises(HypervisorError, match="vr1 is on no host that answers .host-c: libvirt"):
        gone.domain("vr1")
    gone.close()


class _Paused:
    """A domain as `_host_of` looks at it."""

    def __init__(self, reason: int) -> None:
        self._reason = reason

    def state(self) -> tuple[int, int]:
        return libvirt.VIR_DOMAIN_PAUSED, self._reason


def test_both_paused() -> None:
    """Between the end of the copying and the source's confirmation: the destination has it."""
    source: Any = _Paused(libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
    arrived: Any = _Paused(libvirt.VIR_DOMAIN_PAUSED_USER)
    assert _host_of("vr1", {"a": ("paused", source), "b": ("paused", arrived)}) == "b"
    with pytest.raises(HypervisorError, match="vr1 exists on a and b"):
        _host_of("vr1", {"a": ("paused", arrived), "b": ("paused", arrived)})
