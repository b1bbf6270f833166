"""The `xl` driver on pretended hosts: every way a migration ends, each with the VM on one host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pretended_xen import PretendedXen

from mgmt.hypervisor import Domain, HypervisorError, Job, JobState, dom0_agent, xl
from mgmt.hypervisor.xl import Xl
from xenflow.model.hypervisor_spec import XlSpec

MOVED, RUNNING, FAILED = JobState.MOVED_PAUSED, JobState.RUNNING, JobState.FAILED
HOME = {"host-a": ["vr1 -b----"], "host-b": []}
AWAY = {"host-a": [], "host-b": ["vr1 -b----"]}


@pytest.fixture
def xen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedXen]:
    made = PretendedXen(tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def driver(xen: PretendedXen) -> Iterator[Xl]:
    made = xen.driver()
    yield made
    made.close()


def until(driver: Xl, *states: JobState, limit_s: float = 180.0, router: str = "vr1") -> Job:
    deadline = time.monotonic() + limit_s
    while (job := driver.job(router)).state not in (*states, FAILED):
        assert time.monotonic() < deadline, job
        time.sleep(0.01)
    return job


def give_up(driver: Xl) -> None:
    """As `xenflow recover` does, also where there is nothing left to give up."""
    try:
        driver.abort("vr1")
    except HypervisorError as error:
        assert error.code == "no-migration", error


def move(driver: Xl) -> Job:
    driver.migrate("vr1", "host-b")
    return until(driver, MOVED)


def test_there_and_back(xen: PretendedXen, driver: Xl) -> None:
    assert driver.domain("vr1") == Domain("vr1", "host-a", "running")
    driver.check("vr1", "host-b")
    assert driver.migrate("vr1", "host-b").state is JobState.PRECOPY
    job = until(driver, MOVED)
    assert job.state is MOVED, job
    assert xen.names() == {"host-a": ["vr1 ---ss-"], "host-b": ["vr1--incoming --p---"]}
    assert driver.domain("vr1") == Domain("vr1", "host-a", "suspended")
    driver.unpause("vr1")
    job = until(driver, RUNNING)
    assert [state for state, _ in job.events] == ["precopy", "suspended", "moved_paused", "running"]
    assert job.suspended_s == pytest.approx(job.events[3][1] - job.events[1][1])
    assert job.suspended_s > 0.1
    with pytest.raises(HypervisorError, match="runs on host-b already") as raised:
        driver.abort("vr1")
    assert raised.value.code == "too-late"
    driver.close()
    assert xen.names() == AWAY
    other = xen.driver()
    other.migrate("vr1", "host-a")
    until(other, MOVED)
    other.unpause("vr1")
    assert until(other, RUNNING).state is RUNNING
    other.close()
    assert xen.names() == HOME


@pytest.mark.parametrize("state", [JobState.PRECOPY, JobState.SUSPENDED, MOVED])
def test_given_up(xen: PretendedXen, driver: Xl, state: JobState) -> None:
    xen.set("host-a", precopy_s=1.0 if state is JobState.PRECOPY else 0.1, stop_and_copy_s=0.5)
    driver.migrate("vr1", "host-b")
    until(driver, state)
    driver.abort("vr1")
    assert xen.names() == HOME
    assert driver.job("vr1").state is FAILED
    assert driver.domain("vr1") == Domain("vr1", "host-a", "running")
    with pytest.raises(HypervisorError, match="not being migrated"):
        xen.driver().abort("vr1")


@pytest.mark.parametrize("state", [JobState.PRECOPY, JobState.SUSPENDED, MOVED])
def test_the_management_entity_is_killed(xen: PretendedXen, state: JobState) -> None:
    """Its connections end; nobody gives anything up, and yet the router runs on."""
    xen.set("host-a", precopy_s=1.0 if state is JobState.PRECOPY else 0.1, stop_and_copy_s=0.5)
    killed = xen.driver()
    killed.migrate("vr1", "host-b")
    until(killed, state)
    for dom0 in killed._dom0s.values():
        dom0._process.stdin.close()  # type: ignore[union-attr]
    await_some(lambda: xen.names()["host-a"] == HOME["host-a"])
    recovering = xen.driver()
    give_up(recovering)  # a receiver that has lost its connection leaves its copy
    assert xen.names() == HOME
    recovering.close()
    killed.close()


@pytest.mark.parametrize("state", [JobState.PRECOPY, JobState.SUSPENDED, MOVED])
def test_agents_are_killed(xen: PretendedXen, state: JobState) -> None:
    """The router runs on by itself, and what is left is found and ended by another."""
    xen.set("host-a", precopy_s=3.0 if state is JobState.PRECOPY else 0.1, stop_and_copy_s=1.0)
    killed = xen.driver()
    killed.migrate("vr1", "host-b")
    until(killed, state)
    for dom0 in killed._dom0s.values():
        os.kill(dom0._process.pid, signal.SIGKILL)
    await_some(lambda: xen.names()["host-a"] == HOME["host-a"])
    recovering = xen.driver()
    give_up(recovering)
    assert recovering.domain("vr1") == Domain("vr1", "host-a", "running")
    recovering.close()
    await_some(lambda: xen.names() == HOME)
    killed.close()


@pytest.mark.parametrize(
    ("state", "facts"),
    [
        (JobState.PRECOPY, {"precopy_s": 2.0}),
        (JobState.SUSPENDED, {"stop_and_copy_s": 2.0}),
        (MOVED, {}),
    ],
)
def test_receiver_killed(
    xen: PretendedXen, driver: Xl, state: JobState, facts: dict[str, float]
) -> None:
    """Before the suspension, after it, and when it has the whole domain."""
    xen.set("host-a", **facts)
    driver.migrate("vr1", "host-b")
    until(driver, state)
    if state is JobState.PRECOPY:
        await_some(lambda: "memory is copied" in driver.job("vr1").detail)
    for pid in xen.processes("migrate-receive"):
        os.kill(pid, signal.SIGKILL)
    job = until(driver, RUNNING)
    assert job.state is FAILED
    assert "the connection to the destination ended" in job.detail
    driver.abort("vr1")
    assert xen.names() == HOME


def test_receiver_dies_with_the_domain_running(xen: PretendedXen, driver: Xl) -> None:
    """The report that it runs gets lost: the source cannot know, a look can."""
    xen.set("host-b", receiver_dies="before report")
    move(driver)
    driver.unpause("vr1")
    assert until(driver, RUNNING).state is RUNNING
    driver.close()
    recovering = xen.driver()
    recovering.abort("vr1")
    assert xen.names() == AWAY
    recovering.close()


def test_receiver_leaves_it_paused(xen: PretendedXen, driver: Xl) -> None:
    xen.set("host-b", leaves_paused=True)
    move(driver)
    driver.unpause("vr1")
    assert until(driver, RUNNING).state is RUNNING
    assert xen.names() == AWAY


def test_it_is_left_paused_where_the_claim_is_lost(xen: PretendedXen, driver: Xl) -> None:
    """Somebody else may have paused it meanwhile, who has taken over."""

    class Lost:
        owner = "me"

        def check(self) -> None:
            raise PermissionError

    away = {"host-a": [], "host-b": ["vr1 --p---"]}
    xen.write("host-a", {})
    xen.write("host-b", {"9": xen.domain("vr1", "--p---")})
    driver.claim = Lost()
    moved = driver._moves["vr1"] = handed_over()
    moved.succeeded_at = time.monotonic()
    with pytest.raises(PermissionError):
        driver.job("vr1")
    assert xen.names() == away


def test_transport(xen: PretendedXen) -> None:
    """Another command than ssh from host to host: it gets the host and the command."""
    spec = XlSpec("host-b", "root", transport="env WAY=mine ssh")
    driver = Xl({"host-a": XlSpec("host-a"), "host-b": spec})
    xen.ssh_says("host-a", "nothing", seen_from="host-b")
    driver.check("vr1", "host-b")
    move(driver)
    driver.unpause("vr1")
    assert until(driver, RUNNING).state is RUNNING
    with pytest.raises(HypervisorError, match="host-b cannot log in to host-a .host-a.: nothing"):
        driver.check("vr1", "host-a")
    driver.close()


def test_on_this_machine(xen: PretendedXen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is where the command runs; nobody can send it anything back."""
    monkeypatch.setenv("PRETENDED_HOST", "host-a")
    monkeypatch.setenv("XENSTORED_PATH", str(xen.folder / "host-a" / "xenstored"))
    driver = Xl({"host-a": XlSpec(), "host-b": XlSpec("host-b")})
    driver.check("vr1", "host-b")
    move(driver)
    driver.unpause("vr1")
    assert until(driver, RUNNING).state is RUNNING
    with pytest.raises(HypervisorError, match="host-b cannot reach host-a: .* name it xl:ssh"):
        driver.check("vr1", "host-a")
    driver.close()
    assert xen.names() == AWAY


def test_destination_cannot_start_it(xen: PretendedXen, driver: Xl) -> None:
    move(driver)
    xen.set("host-b", start_fails=True)
    driver.unpause("vr1")
    job = until(driver, RUNNING)
    assert (job.state, xen.names()) == (FAILED, HOME)


@pytest.mark.parametrize(
    ("when", "ends"), [("suspended", HOME), ("handed over", HOME)], ids=["copied", "renamed"]
)
def test_sender_killed(
    xen: PretendedXen, driver: Xl, when: str, ends: dict[str, list[str]]
) -> None:
    """xl itself by force, so that nobody lets the domain run on: `recover` does."""
    xen.set("host-a", sender_dies=when)
    job = move(driver)
    if job.state is MOVED:
        driver.unpause("vr1")
        job = until(driver, RUNNING)
    assert job.state is FAILED
    driver.close()
    recovering = xen.driver()
    give_up(recovering)
    assert xen.names() == ends
    recovering.close()


def test_nothing_gets_through(
    xen: PretendedXen, driver: Xl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network between the hosts is cut: nobody hears of it."""
    monkeypatch.setattr(xl, "STALL_S", 10.0)
    xen.set("host-a", stuck=True)
    job = move(driver)
    assert job.state is FAILED
    assert "nothing got to host-b for 10 s" in job.detail
    driver.abort("vr1")
    assert xen.names() == HOME


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"version": [4, 14]}, "host-b runs Xen 4.14.5, older than host-a's 4.17.5"),
        ({"free": 39}, "host-b has too little memory: 39 MiB free, 40 MiB needed"),
    ],
)
def test_refused_before_anything_changes(
    xen: PretendedXen, driver: Xl, facts: dict[str, object], says: str
) -> None:
    xen.set("host-b", **facts)
    with pytest.raises(HypervisorError, match=says):
        driver.check("vr1", "host-b")
    assert xen.names() == HOME


@pytest.mark.parametrize(
    ("ssh_says", "says"),
    [
        ("Host key verification failed.", "host key is unknown or has changed"),
        ("root@host-b: Permission denied (publickey).", "the login was refused"),
        ("ssh: connect to host host-b port 22: Connection refused", "nothing listens"),
        ("ssh: connect to host host-b port 22: Connection timed out", "it does not answer"),
        ("bash: line 1: python3: command not found", "python3 is missing"),
    ],
)
def test_no_ssh(xen: PretendedXen, driver: Xl, ssh_says: str, says: str) -> None:
    xen.ssh_says("host-b", ssh_says, seen_from="host-a")
    with pytest.raises(HypervisorError, match=f"host-a cannot log in to .*host-b.*{says}"):
        driver.check("vr1", "host-b")
    job = move(driver)
    assert job.state is FAILED
    assert says in job.detail
    assert xen.names() == HOME
    xen.ssh_says("host-b", ssh_says)
    blind = xen.driver()
    assert blind.domain("vr1") == Domain("vr1", "host-a", "running")
    with pytest.raises(HypervisorError, match=f"Domain 0 of host-b: .*{says}"):
        blind.check("vr1", "host-b")
    blind.close()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("libxl: error: libxl_utils.c:439: No space left on device", "a disk .* is full"),
        ("xc: error: populate_physmap failed: Cannot allocate memory", "too little free memory"),
    ],
)
def test_the_receiver_says_why(xen: PretendedXen, driver: Xl, error: str, says: str) -> None:
    xen.set("host-b", receive=error)
    job = move(driver)
    assert job.state is FAILED
    assert job.detail.startswith(("a disk", "the destination"))
    driver.abort("vr1")
    assert xen.names() == HOME


def test_leftovers(xen: PretendedXen, driver: Xl, monkeypatch: pytest.MonkeyPatch) -> None:
    """What earlier migrations have left is cleared away."""
    monkeypatch.setattr(xl, "LEFT_S", 0.5)
    xen.write("host-b", {"7": xen.domain("vr1--incoming", "--p---")})
    with pytest.raises(HypervisorError, match="vr1--incoming .* run `xenflow recover vr1` first"):
        driver.check("vr1", "host-b")
    driver.abort("vr1")
    assert xen.names() == HOME
    xen.write("host-a", {"1": xen.domain("vr1--migratedaway", "---ss-")})
    assert driver.domain("vr1") == Domain("vr1", "host-a", "suspended")
    assert driver.copies("host-a", ["vr1", "vr2"]) == ["vr1--migratedaway"]
    assert driver.copies("host-a", ["vr2"]) == []
    driver.abort("vr1")
    assert xen.names() == HOME
    xen.write("host-a", {"1": xen.domain("vr1--migratedaway", "---ss-")})
    xen.write("host-b", {"3": xen.domain("vr1", "--p---")})
    driver.abort("vr1")
    assert xen.names() == AWAY


def test_what_xl_leaves_to_look_after_other_domains_lives_on(xen: PretendedXen, driver: Xl) -> None:
    """They are called like receivers, and restart a router that has crashed."""
    xen.write("host-a", {"1": xen.domain("vr1"), "2": xen.domain("vr2")})
    driver.migrate("vr2", "host-b")
    until(driver, MOVED, router="vr2")
    driver.unpause("vr2")
    assert until(driver, RUNNING, router="vr2").state is RUNNING
    driver.close()
    (monitor,) = xen.monitors()
    other = xen.driver()
    move(other)
    other.abort("vr1")
    other.close()
    assert xen.names() == {"host-a": ["vr1 -b----"], "host-b": ["vr2 -b----"]}
    await_some(lambda: len(xen.monitors()) < 2)  # vr1's has ended with its copy
    assert xen.monitors() == {monitor}


@pytest.mark.parametrize("killed", ["while memory is copied", "when all is there"])
def test_the_transport_ends_where_nobody_keeps_its_gate(tmp_path: Path, killed: str) -> None:
    """Or xl would wait for ever, with the domain suspended."""
    fifo = str(tmp_path / "gate")
    os.mkfifo(fifo)
    gate = os.open(fifo, os.O_RDWR)
    receiver = "echo banner; read -r all; printf 'domain received, ready to unpause'; sleep 600"
    with subprocess.Popen(
        ["sh", "-c", dom0_agent.rune(receiver, fifo)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as transport:
        assert transport.stdin and transport.stdout and transport.stderr
        try:
            assert transport.stdout.readline() == "banner\n"
            if killed == "when all is there":
                print("all", file=transport.stdin, flush=True)
                while "received" not in transport.stderr.readline():
                    continue
            os.close(gate)
            transport.stderr.close()
            if killed == "while memory is copied":
                print("all", file=transport.stdin, flush=True)
            transport.wait(timeout=10)
            assert transport.stdout.read() == ""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(transport.pid, signal.SIGKILL)


def test_a_receiver_is_ended_only_where_it_is_certain_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "of this test alone"))
    program = tmp_path / "xl"
    program.write_text("read line\n")
    one, other = (
        subprocess.Popen(["sh", str(program), "migrate-receive"], stdin=subprocess.PIPE)
        for _ in range(2)
    )
    assert dom0_agent.end_receivers(0.1, lambda: True) == []
    assert (one.poll(), other.poll()) == (None, None)
    other.communicate(b"")
    assert dom0_agent.end_receivers(0.1, lambda: False) == []
    assert one.poll() is None
    assert dom0_agent.end_receivers(0.1, lambda: True) == [one.pid]
    assert one.wait(10) == -signal.SIGTERM


def test_what_has_begun_to_arrive_meanwhile_is_left_alone(
    xen: PretendedXen, driver: Xl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vr1's receiver has gone; vr2's had no domain yet when it was looked for."""
    monkeypatch.setattr(xl, "RECEIVER_S", 0.1)
    xen.write("host-b", {"7": xen.domain("vr1--incoming", "--p---")})
    store = str(xen.folder / "host-b" / "xenstored")
    receiver = subprocess.Popen(
        ["xl", "migrate-receive"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PRETENDED_HOST": "host-b", "XENSTORED_PATH": store},
    )
    stdin, stdout = receiver.stdin, receiver.stdout
    assert stdin is not None and stdout is not None
    assert stdout.readline().startswith(b"xl migration receiver ready")
    dom0 = driver._dom0("host-b")
    real = dom0.ask

    def ask(do: str, *words: Any, **asked: Any) -> dict[str, Any]:
        if do == "sweep_receivers":
            stdin.write(json.dumps(xen.domain("vr2")).encode() + b"\n")
            stdin.flush()
            await_some(lambda: "vr2--incoming --p---" in xen.names()["host-b"])
        return real(do, *words, **asked)

    monkeypatch.setattr(dom0, "ask", ask)
    assert driver.abort("vr1").did == ("destroyed vr1--incoming on host-b",)
    assert xen.names() == {"host-a": HOME["host-a"], "host-b": ["vr2--incoming --p---"]}
    assert receiver.poll() is None
    receiver.communicate(b"")
    assert xen.names() == HOME


def test_who_has_it_is_asked_again_of_hosts_that_were_silent(xen: PretendedXen, driver: Xl) -> None:
    xen.write("host-a", {})
    xen.write("host-b", {"9": xen.domain("vr1")})
    driver._silent = {host: HypervisorError("away") for host in HOME}
    found = handed_over()
    driver._look_who_has_it(found)
    assert found.state is not FAILED and found.succeeded_at is not None


def test_it_gets_to_the_destination_while_it_is_being_looked_for(
    xen: PretendedXen, driver: Xl, monkeypatch: pytest.MonkeyPatch
) -> None:
    xen.write("host-a", {"1": xen.domain("vr1--migratedaway", "---ss-")})
    xen.write("host-b", {"9": xen.domain("vr1--incoming", "--p---")})
    looks = [driver._look(anew=True)]
    xen.write("host-b", {"9": xen.domain("vr1")})
    real = driver._look
    monkeypatch.setattr(driver, "_look", lambda anew: looks.pop() if looks else real(anew))
    found = handed_over()
    driver._look_who_has_it(found)
    assert found.state is not FAILED and found.succeeded_at is not None
    assert xen.names() == AWAY


def handed_over() -> xl._XlMove:
    """A migration of which only a look at the hosts can tell what came of it."""
    login = "root@host-b"
    made = xl._XlMove("vr1", "host-a", "host-b", MOVED, login=login, memory_mib=128)
    made.went = made.ended = True
    return made


def test_another_router_in_trouble(xen: PretendedXen, driver: Xl) -> None:
    """It keeps nobody from moving this one."""
    xen.write("host-a", {"1": xen.domain("vr1"), "2": xen.domain("vr2")})
    xen.write("host-b", {"7": xen.domain("vr2"), "8": xen.domain("vr3--incoming", "--p---")})
    for router, says in (("vr2", "exists on host-a"), ("vr3", "only vr3--incoming on host-b")):
        with pytest.raises(HypervisorError, match=says):
            driver.domain(router)
    assert driver.domain("vr1") == Domain("vr1", "host-a", "running")
    assert driver.domain("vr4") is None
    move(driver)
    driver.unpause("vr1")
    assert until(driver, RUNNING).state is RUNNING


def test_a_silent_host_may_have_it(xen: PretendedXen, driver: Xl) -> None:
    xen.write("host-a", {"1": xen.domain("vr1--migratedaway", "---ss-")})
    xen.ssh_says("host-b", "ssh: connect to host host-b port 22: No route to host")
    with pytest.raises(HypervisorError, match="host-b did not answer and may have it"):
        driver.domain("vr1")
    with pytest.raises(HypervisorError, match="only vr1--migratedaway on host-a; host-b did not"):
        driver.abort("vr1")
    assert xen.names()["host-a"] == ["vr1--migratedaway ---ss-"]


def test_what_may_be_left_at_a_silent_host_is_told_from_what_was_done(
    xen: PretendedXen, driver: Xl
) -> None:
    xen.write("host-a", {"1": xen.domain("vr1", "---ss-")})
    xen.ssh_says("host-b", "ssh: connect to host host-b port 22: No route to host")
    ended = driver.abort("vr1")
    assert ended.did == ("domain 1 on host-a was suspended and runs on",)
    assert ended.left == ("host-b did not answer: a copy may be left there",)
    assert ended.words == [*ended.did, *ended.left]
    assert xen.names()["host-a"] == HOME["host-a"]


def test_two_of_them(xen: PretendedXen, driver: Xl) -> None:
    xen.write("host-b", {"3": xen.domain("vr1", "--p---")})
    for ask in (lambda: driver.domain("vr1"), lambda: driver.abort("vr1")):
        with pytest.raises(HypervisorError, match=r"host-a \(domain 1\) and host-b \(domain 3\)"):
            ask()


def await_some(look: Callable[[], bool], limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.02)
