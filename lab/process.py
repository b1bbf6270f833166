"""The lab's processes: started to outlive the command, recorded so that they can be ended.

A process is known by its id *and* its start time, because ids are used again: nothing is ever
signalled that this record does not hold.  The record is appended to at once after each start, so
that `lab down` finds them after a crash.  A starter that was killed in between has left one that is
not recorded: it is known by a mark in its environment, which is this lab's alone.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab.namespace import LabError, inside

STATE_DIR = Path("/run/xenflow/lab")
LOG_DIR = STATE_DIR / "log"
_RECORD = STATE_DIR / "processes.jsonl"
_MARK_FILE = STATE_DIR / "mark"
_MARK = "XENFLOW_LAB_MARK"
_ERROR = re.compile(r"\|(?:ERR|EMER)\||^(?:ERROR|CRITICAL):| <(?:FATAL|BUG|ERR)> ")
"""As Open vSwitch, controllers and BIRD log errors."""
_REALTIME_PRIORITY = 1
NICE = -10
"""Switches go before everything; what must answer in time to move a router, before what else runs
on the machine."""


@dataclass(frozen=True, slots=True)
class Process:
    """One started process; `started` is its start time in the kernel's ticks since boot."""

    node: str
    name: str
    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return start_time(self.pid) == self.started

    def resident_kib(self) -> int:
        """What it has of the machine's memory now; 0 where it has ended."""
        with suppress(OSError, StopIteration):
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])
        return 0

    @property
    def log(self) -> Path:
        """What it printed."""
        return LOG_DIR / f"{self.node}-{self.name}.log"


def start_time(pid: int) -> int | None:
    """A process's start time, or None where it is gone or only waits to be collected."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def start(
    node: str,
    name: str,
    argv: Sequence[str],
    namespace: str | None,
    *,
    environment: dict[str, str] | None = None,
    files: Sequence[int] = (),
    realtime: bool = False,
) -> Process:
    """Start a process in a namespace, in a session of its own, its output in the log folder.

    It has the descriptors of `files`, by the same numbers, and no others of the caller's.
    `realtime` asks for SCHED_RR, quietly without it where that is not allowed.
    """
    program = shutil.which(argv[0])
    if program is None:
        raise LabError(f"{argv[0]}: not installed")
    LOG_DIR.mkdir(parents=True, exist_ok=True)
    log = str(LOG_DIR / f"{node}-{name}.log")
    # What the caller has open, a lock for instance, ends with the caller.
    actions: list[Any] = [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inherited() if fd not in files]
    actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in files]  # which makes them inheritable
    actions += [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    settings: dict[str, Any] = {
        "file_actions": actions,
        "setsid": True,
        "setsigdef": (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM),
    }
    everything = {**os.environ, **(environment or {}), _MARK: _mark()}
    if realtime:
        settings["scheduler"] = (os.SCHED_RR, os.sched_param(_REALTIME_PRIORITY))
    with inside(namespace):
        try:
            pid = os.posix_spawn(program, list(argv), everything, **settings)
        except PermissionError:
            settings.pop("scheduler", None)
            pid = os.posix_spawn(program, list(argv), everything, **settings)
    go_first(pid)
    process = Process(node, name, pid, start_time(pid) or 0)
    with _RECORD.open("a") as record:
        record.write(_line(process))
    return process


def _mark() -> str:
    """What every process of this lab has in its environment; it is on the disk before the first."""
    if not _MARK_FILE.exists():
        _MARK_FILE.parent.mkdir(parents=True, exist_ok=True)
        _MARK_FILE.write_text(secrets.token_hex(16))
    return _MARK_FILE.read_text()


def unrecorded() -> list[Process]:
    """Processes of this lab, and what these have started, that the record does not hold."""
    if not _MARK_FILE.exists():
        return []
    marked, known = f"{_MARK}={_mark()}".encode(), {(p.pid, p.started) for p in recorded()}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end meanwhile
            if marked in (folder / "environ").read_bytes().split(b"\0"):
                name = (folder / "comm").read_text().strip()
                found.append(
                    Process("?", name, int(folder.name), start_time(int(folder.name)) or 0)
                )
    return [p for p in found if (p.pid, p.started) not in known and p.pid != os.getpid()]


def _inherited() -> list[int]:
    """The descriptors beyond the standard ones that a program started here would have too."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one of the listing itself is closed again
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def complaint(text: str) -> str:
    """The last thing a program's log complains of, "" where there is none: what a Python traceback
    ends with, or a line that is logged as an error."""
    found, traceback = "", False
    for line in text.splitlines():
        if line.startswith("Traceback "):
            traceback = True
        elif traceback and line and not line[0].isspace():
            found, traceback = line, False
        elif _ERROR.search(line):
            found = line
    return found


def await_path(path: Path, limit_s: float = 60.0) -> None:
    """Wait for a file that a process makes once it serves.

    Raises LabError where it does not.
    """
    end = time.monotonic() + limit_s
    while not path.exists():
        if time.monotonic() > end:
            raise LabError(f"{path} did not appear within {limit_s:g} s; logs: {LOG_DIR}")
        time.sleep(0.002)


def go_first(pid: int) -> None:
    """Put a process before what else runs on the machine, where that is allowed.

    Where the kernel shares time among sessions first (autogroup), nice alone counts only within
    the process's own.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
    with suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(f"{NICE}\n")


def recorded() -> list[Process]:
    """Every process started and not yet forgotten, dead ones too."""
    found = []
    with suppress(FileNotFoundError):
        for line in _RECORD.read_text().splitlines():
            with suppress(ValueError, TypeError):
                found.append(Process(**json.loads(line)))
    return found


def end(processes: Iterable[Process], wait_s: float = 2.0) -> None:
    """End processes: asked first, stopped ones continued so that they hear it, killed at last."""
    left = [p for p in processes if p.alive]
    for number, limit_s in ((signal.SIGTERM, wait_s), (signal.SIGKILL, 30.0)):
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
                os.kill(process.pid, signal.SIGCONT)
        limit = time.monotonic() + limit_s
        while left and time.monotonic() < limit:
            for process in left:
                with suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)
            left = [p for p in left if p.alive]
            time.sleep(0.005)
        if not left:
            return
    raise LabError("not ended: " + ", ".join(f"{p.node} {p.name} (pid {p.pid})" for p in left))


def forget(processes: Iterable[Process]) -> None:
    """Take processes from the record."""
    gone = set(processes)
    left = [p for p in recorded() if p not in gone]
    new = _RECORD.with_suffix(".new")
    new.write_text("".join(_line(p) for p in left))
    new.rename(_RECORD)


def _line(process: Process) -> str:
    return json.dumps(asdict(process)) + "\n"
