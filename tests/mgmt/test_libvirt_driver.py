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
from mgmt.hypervisor.libvirt_driver import Libvirt, _LibvirtMove

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
    assert driver.copies("host-a", ["vr1", "other"]) == ["vr1"]
    assert driver.copies("host-b", ["vr1"]) == []
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


def test_a_host_that_falls_silent_is_not_waited_for_as_long_as_tcp_does(
    uris: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test driver's own connections are to this process, which libvirt does not ask."""
    asked: list[tuple[int, int]] = []

    class Remote:
        def __init__(self, uri: str) -> None:
            self._real = real(uri)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def setKeepAlive(self, every_s: int, times: int) -> None:  # noqa: N802  # libvirt's name
            asked.append((every_s, times))

    real = libvirt.open
    monkeypatch.setattr(libvirt, "open", Remote)
    driver = Libvirt(uris)
    assert driver.domain("vr1") == Domain("vr1", "host-a", "running")
    assert len(asked) == 2 and all(every_s * times < 30 for every_s, times in asked)
    driver.close()


def test_a_silent_host(uris: dict[str, str], tmp_path: Path) -> None:
    gone = Libvirt({**uris, "host-c": f"test://{tmp_path}/none"})
    assert gone.domain("vr1") == Domain("vr1", "host-a", "running")
    with pytest.raises(HypervisorError, match="host-c: libvirt: "):
        gone.check("vr1", "host-c")
    gone._connection("host-a").lookupByName("vr1").destroy()
    with pytest.raises(HypervisorError, match="vr1 .*; host-c did not answer .* .host-c: libvirt"):
        gone.domain("vr1")
    gone.close()


def test_a_copy_that_stands_still_is_no_router_while_its_host_is_silent(tmp_path: Path) -> None:
    """It may be what a move has sent so far: resumed, the router would run twice."""
    uris = {"host-a": node(tmp_path / "a", "vr1"), "host-b": node(tmp_path / "b", "vr1")}
    both = Libvirt(uris)
    both._connection("host-b").lookupByName("vr1").suspend()
    gone = Libvirt({**uris, "host-a": f"test://{tmp_path}/none"})
    gone._connections["host-b"] = both._connection("host-b")
    for ask in (gone.domain, gone.abort):
        with pytest.raises(
            HypervisorError, match="vr1 is paused on host-b; host-a did not"
        ) as said:
            ask("vr1")
        assert said.value.code == "unreachable"
    assert both.domain("vr1") == Domain("vr1", "host-a", "running")
    for driver in (gone, both):
        driver.close()


def test_a_move_from_here_needs_no_answer_of_other_hosts(
    uris: dict[str, str], tmp_path: Path
) -> None:
    """The router ran at its source when it began; a third host has nothing to do with it."""
    driver = Libvirt({**uris, "host-c": f"test://{tmp_path}/none"})
    driver.migrate("vr1", "host-b")
    ended(driver)
    driver._connection("host-a").lookupByName("vr1").suspend()
    assert driver.abort("vr1", own=True).words == ["vr1 runs on, on host-a"]
    driver.close()


def test_a_router_that_has_come_is_let_run_though_its_source_is_silent(tmp_path: Path) -> None:
    """libvirt has told the driver that the destination has it, whole."""
    uris = {"host-a": f"test://{tmp_path}/none", "host-b": node(tmp_path / "b", "vr1")}
    driver = Libvirt(uris)
    driver._connection("host-b").lookupByName("vr1").suspend()
    driver._moves["vr1"] = _LibvirtMove("vr1", "host-a", "host-b", JobState.MOVED_PAUSED)
    with pytest.raises(HypervisorError, match="vr1 is paused on host-b; host-a did not answer"):
        driver.unpause("vr1")
    driver._moves["vr1"].whole_at = "host-b"
    driver.unpause("vr1")
    assert driver.job("vr1").state is JobState.RUNNING
    driver.close()
