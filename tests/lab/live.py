"""A lab with controllers as the tests of the whole see it: the command, flows, traffic, processes.

Everything here looks from outside: what `xenflow` prints and returns, what `ovs-ofctl` says the
switches hold, what machines send one another.  Nothing knows how the controllers work.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab import operate, process, switch
from lab.description import MANAGEMENT, PREFIX, ROOT, Lab
from lab.namespace import LabError, ip
from lab.probe import ProbePair, ProbeResult
from lab.programs import python_path, start_controller
from lab.state import current, placed
from tests.lab.hypervisor_client import HypervisorClient

COMMAND = [sys.executable, "-m", "mgmt"]
RATE_PPS = 500
LIMIT_S = 120.0
"""How long something may take on a machine that is slow and busy.  Nothing takes so long unless it
fails."""


def settle(done: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait until something is so; fails with `what` was waited for."""
    end = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what}"
        time.sleep(0.05)


# --- the command ---------------------------------------------------------------------------------


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, **python_path(), **more}


def xenflow(
    *words: str, limit_s: float = 3 * LIMIT_S, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command and wait for it."""
    return subprocess.run(
        [*COMMAND, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=limit_s,
        env=_environment(**env),
    )


HALTED = """
import os, signal, sys
from mgmt import cli
from mgmt.executor import Executor
from mgmt.verbs.migrate import Progress
stage, number, left = sys.argv.pop(1), int(sys.argv.pop(1)), []
say, carry_out = Progress.__call__, Executor.carry_out
def said(progress, event):
    if (event.step, event.state) == (stage, "started"):
        left[:] = range(number)
    say(progress, event)
def carried_out(*effect):
    if left and left.pop() == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    carry_out(*effect)
Progress.__call__, Executor.carry_out = said, carried_out
sys.exit(cli.main())
"""
"""`xenflow` that stops itself in a stage before it carries its effect of a number out, which is
noted as begun."""


class RunningCommand:
    """A `xenflow` under way, whose progress is read as on a terminal.

    `halt`: a stage, and the number of its effect (from 1 on) before which it stops itself
    (`await_halt`).
    """

    def __init__(self, *words: str, halt: tuple[str, int] | None = None, **env: str) -> None:
        self._terminal, theirs = pty.openpty()
        command = [sys.executable, "-c", HALTED, *map(str, halt)] if halt else COMMAND
        self.process = subprocess.Popen(
            [*command, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            cwd=ROOT,
            env=_environment(**env),
        )
        os.close(theirs)
        self.text = ""

    def await_text(self, wanted: str, limit_s: float = LIMIT_S) -> None:
        """Until it has printed that."""
        end = time.monotonic() + limit_s
        while wanted not in self.text:
            assert time.monotonic() < end and self._read(), f"no {wanted!r} in:\n{self.text}"

    def _read(self) -> bool:
        try:
            part = os.read(self._terminal, 4096)
        except OSError:
            return False
        self.text += part.decode().replace("\r\n", "\n")
        return bool(part)

    def await_halt(self) -> None:
        """Until it has stopped itself, with nothing of the effect done."""
        status = Path(f"/proc/{self.process.pid}/stat")
        settle(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", "it stops itself")

    def answer(self, line: str) -> None:
        """Type a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def send(self, *numbers: signal.Signals) -> None:
        """Send it signals."""
        for number in numbers:
            self.process.send_signal(number)

    def end(self, limit_s: float = LIMIT_S) -> int:
        """Its exit status; all it printed is in `text` then."""
        while self._read():
            pass
        return self.process.wait(limit_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        os.close(self._terminal)


# --- what the controllers say --------------------------------------------------------------------


def status() -> dict[str, Any]:
    """`xenflow status`, also where a controller does not answer."""
    found: dict[str, Any] = json.loads(xenflow("status", "--json").stdout)
    return found


def answered(*controllers: str) -> dict[str, Any]:
    """`xenflow status` once some controllers (all unless they are named) have answered: one that
    is busy, or has just been started, may be late."""
    found: dict[str, Any] = {}

    def have_answered() -> bool:
        found.update(status())
        answers = found["controllers"]
        return all("pid" in answers[name] for name in controllers or answers)

    settle(have_answered, f"an answer of {', '.join(controllers) or 'every controller'}")
    return found


def datapath_rows(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every datapath's row in a status, by name."""
    answers = status["controllers"].values()
    return {row["name"]: row for answer in answers for row in answer.get("datapaths", ())}


def datapaths() -> dict[str, dict[str, Any]]:
    """Every datapath's row, by name, as all controllers have answered."""
    return datapath_rows(answered())


def flow_mods() -> dict[str, int]:
    """How many flow changes each controller has written to each of its switches since it began."""
    return {name: row["flow_mods"] for name, row in datapaths().items()}


def router_row(controller: str, router: str) -> dict[str, Any]:
    """What a controller knows of a router."""
    rows: list[dict[str, Any]] = answered(controller)["controllers"][controller]["routers"]
    return next(row for row in rows if row["name"] == router)


def in_sync(lab: Lab) -> bool:
    """Whether every switch holds what it shall."""
    rows = datapath_rows(status())
    return rows.keys() == lab.network.datapaths.keys() and all(
        row["connected"] and row["in_sync"] for row in rows.values()
    )


# --- what the switches hold ----------------------------------------------------------------------


def flows(lab: Lab, *names: str) -> dict[str, list[str]]:
    """Every flow of every switch as `ovs-ofctl` prints it, counters and ages apart."""
    return {
        name: sorted(
            line.strip()
            for line in switch.ofctl(
                lab.switch_node(name), "--no-stats", "dump-flows", switch.BRIDGE
            ).splitlines()
            if "actions=" in line and "idle_timeout" not in line
        )
        for name in names or lab.network.datapaths
    }


def difference(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    """What is not the same, a line each, to be read in a failed test."""
    found = []
    for name in before:
        found += [f"{name}: - {line}" for line in before[name] if line not in after[name]]
        found += [f"{name}: + {line}" for line in after[name] if line not in before[name]]
    return found


# --- processes -----------------------------------------------------------------------------------


def running(node: str, name: str) -> process.Process:
    """One process of the lab that is alive."""
    return next(p for p in process.recorded() if (p.node, p.name) == (node, name) and p.alive)


def kill(node: str, name: str, number: signal.Signals = signal.SIGKILL) -> None:
    """End one process of the lab, without warning by default, wait until it is gone, and take it
    from the lab's record: who starts it again is recorded in its place."""
    one = running(node, name)
    os.kill(one.pid, number)
    with suppress(ChildProcessError):
        os.waitpid(one.pid, 0)
    settle(lambda: not one.alive, f"{name} of {node} is gone")
    process.forget([one])


def lose(host: str) -> None:
    """Let a host be dead, as far as anybody can tell by the management network."""
    kill(host, "controller")
    ip([f"link set {MANAGEMENT} down"], PREFIX + host)


def find_again(host: str) -> None:
    """Its machine is there again; its controller has to be started."""
    ip([f"link set {MANAGEMENT} up"], PREFIX + host)


def restart_controller(lab: Lab, name: str) -> None:
    """Start a controller again and wait until its switches are as they shall be."""
    start_controller(lab, name)
    settle(lambda: in_sync(lab), f"controller {name} is back, its switches in sync")


BLOCK = 4096
"""Octets in which tmpfs gives room."""


class SmallStateFolder:
    """A controller's state folder on a file system of its own while the block runs, which can be
    filled."""

    def __init__(self, controller: str) -> None:
        self._folder = process.STATE_DIR / controller / "state"
        self._file = self._folder / "state.json"
        self._ballast = self._folder / "ballast"

    def fill(self) -> None:
        """From now on nothing more can be written there."""
        with suppress(OSError), self._ballast.open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(BLOCK))
        with self._file.open("ab") as file:  # what is left of its last block
            file.write(b"\n" * (-file.tell() % BLOCK))

    def free(self) -> None:
        """There is room again."""
        self._ballast.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self._with_another("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs")
        return self

    def __exit__(self, *_: object) -> None:
        self.free()
        self._with_another("umount", "--lazy")

    def _with_another(self, *change: str) -> None:
        """Change the folder's file system; the file is the same after."""
        kept = self._file.read_bytes() if self._file.exists() else None
        subprocess.run([*change, str(self._folder)], check=True)
        if kept is not None:
            self._file.write_bytes(kept)


@contextmanager
def hypervisor(lab: Lab) -> Iterator[HypervisorClient]:
    """The emulated hypervisor; its settings are as in the lab's options before and after."""
    address, port = lab.hypervisor
    _, state = current()
    usual = {
        "pause_s": state.options.pause_s,
        "precopy_s": state.options.precopy_s,
        "resume_after_s": 120.0,
        "fail_at": None,
    }
    with HypervisorClient(f"{address}:{port}", timeout_s=LIMIT_S) as client:
        client.set(**usual)
        yield client
        client.set(**usual)


def bring_home(lab: Lab, router: str = "vr1") -> None:
    """Migrate a router home if it is elsewhere."""
    home = lab.network.routers[router].home
    if placed()[router] != home:
        done = xenflow("migrate", router, home)
        assert done.returncode == 0, done.stderr


# --- traffic -------------------------------------------------------------------------------------


class LiveTraffic:
    """Packets both ways between two machines while the block runs.

    `there` and `back` are known afterwards.
    """

    def __init__(self, rate_pps: float = RATE_PPS, ends: tuple[str, str] = ("gen", "recv")) -> None:
        self._pair = ProbePair(*ends, rate_pps=rate_pps)
        self.there: ProbeResult
        self.back: ProbeResult

    def __enter__(self) -> Self:
        self._pair.start()
        time.sleep(0.2)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.there, self.back = self._pair.stop()
        finally:
            self._pair.close()

    def assert_nothing_lost(self) -> None:
        """Not lost, not doubled."""
        for result in (self.there, self.back):
            assert result.sent > 0
            counted = result.lost, result.duplicated
            busy = f"load average {os.getloadavg()[0]:.1f}"
            assert counted == (0, 0), f"lost, doubled: {counted} of {result}; {busy}"


def assert_machine_quiet_enough(
    rate_pps: float = RATE_PPS, seconds: float = 2.0, ends: tuple[str, str] = ("gen", "recv")
) -> None:
    """The same traffic while nothing happens, tried again for a minute: where that loses, what
    would be measured now is invalid, and has not passed."""
    end = time.monotonic() + 60.0
    while True:
        with ProbePair(*ends, rate_pps=rate_pps) as pair:
            try:
                pair.baseline(seconds)
                return
            except LabError:
                if time.monotonic() > end:
                    raise
        time.sleep(3.0)


def reaches(node: str, address: str) -> None:
    """Until a node gets an answer from an address."""
    settle(
        lambda: operate.run(node, ["ping", "-c1", "-W1", address]).returncode == 0,
        f"{node} reaches {address}",
    )
