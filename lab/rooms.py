"""Labs that have a name: several at once on one machine, each in a room of its own.

A room is what `scripts/isolated` makes: it has a network of its own, and folders /run/xenflow and
/run/netns, so that everything in it is as if it were alone, under the same names.  A process that
sleeps holds it open; with that one it ends, and all that runs in it.  `lab up --name NAME` makes
one, `lab down --name NAME` ends it; every other command is carried out in it.

Called by the `xenflow lab` verbs, and by `xenflow --lab NAME`.  Nothing is written but a file for
each room in RUN_DIR.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from lab import process
from lab.description import ROOT
from lab.namespace import LabError
from lab.state import RUN_DIR
from mgmt.session import UsageError

ROOMS = RUN_DIR / "labs"
_HERE = "XENFLOW_ISOLATED"
"""In a room it is `lab:NAME`."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_MADE_S = 20.0


class RoomNameError(LabError, UsageError):
    """There is no lab of a name on the command line, or cannot be."""


@dataclass(frozen=True, slots=True)
class LabRoom:
    """One room.

    holder    the `scripts/isolated` that holds it, seen from outside
    inside    a process in it, seen from outside
    started   their start times, as `process.start_time` has them
    """

    name: str
    holder: int
    inside: int
    started: tuple[int, int]

    @property
    def open(self) -> bool:
        """Whether it is still there."""
        return self._runs(self.holder, 0) and self._runs(self.inside, 1)

    def _runs(self, pid: int, which: int) -> bool:
        return process.start_time(pid) == self.started[which]

    def state(self) -> dict[str, Any] | None:
        """What is written down about the lab in it (`state.State`); None where there is none."""
        path = Path(f"/proc/{self.inside}/root", *process.STATE_DIR.parts[1:], "state.json")
        with suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads(path.read_text())
            return found
        return None

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs a program in it, in the folder of the caller."""
        words = ["nsenter", f"--target={self.inside}", "--mount", "--net", "--pid", "--root", "--"]
        words += ["env", f"{_HERE}=lab:{self.name}", "sh", "-c", 'cd "$1"; shift; exec "$@"']
        return [*words, "sh", os.getcwd(), *argv]

    def close(self) -> None:
        """End it, and all that runs in it."""
        self._end()
        _file(self.name).unlink(missing_ok=True)

    def _end(self) -> None:
        if self._runs(self.holder, 0):
            os.kill(self.holder, signal.SIGTERM)
        end = time.monotonic() + _MADE_S
        while self._runs(self.holder, 0) or self._runs(self.inside, 1):
            with suppress(ChildProcessError):
                os.waitpid(self.holder, os.WNOHANG)
            if time.monotonic() > end:
                raise LabError(f"lab {self.name}: process {self.holder} does not end")
            time.sleep(0.01)


def here() -> str:
    """The name of the lab whose room this is; "" outside of all rooms."""
    kind, _, name = os.environ.get(_HERE, "").partition(":")
    return name if kind == "lab" else ""


def rooms() -> list[LabRoom]:
    """Those that are open, by their names."""
    found = []
    for path in sorted(ROOMS.glob("*.json")):
        with suppress(OSError, ValueError, TypeError, KeyError):
            value = json.loads(path.read_text())
            room = LabRoom(**{**value, "started": tuple(value["started"])})
            if room.open:
                found.append(room)
            else:
                path.unlink(missing_ok=True)
    return found


def find(name: str) -> LabRoom:
    """The room of a lab.  Raises RoomNameError where there is none."""
    known = rooms()
    for room in known:
        if room.name == name:
            return room
    names = ", ".join(room.name for room in known) or "none"
    raise RoomNameError(
        f"{name}: no lab of that name is up; named labs: {names}; `xenflow lab up FILE --name "
        f"{name}` brings one up"
    )


def _file(name: str) -> Path:
    return ROOMS / f"{name}.json"


def make(name: str) -> LabRoom:
    """A new room.  Raises RoomNameError for an odd name, LabError where it cannot be made."""
    if not _NAME.fullmatch(name):
        raise RoomNameError(f"{name!r}: expected a name of letters, digits, '.', '_' and '-'")
    environment = {key: value for key, value in os.environ.items() if key != _HERE}
    holder = subprocess.Popen(
        [str(ROOT / "scripts" / "isolated"), "sleep", "infinity"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + _MADE_S
    while (inside := _sleeper(holder.pid)) is None:
        if holder.poll() is not None or time.monotonic() > end:
            holder.kill()
            raise LabError("no namespaces of its own can be made here (scripts/isolated true)")
        time.sleep(0.01)
    started = (process.start_time(holder.pid) or 0, process.start_time(inside) or 0)
    room = LabRoom(name, holder.pid, inside, started)
    if os.readlink(f"/proc/{inside}/ns/net") == os.readlink("/proc/self/ns/net"):
        room._end()
        raise LabError("this machine allows no namespaces of its own: one lab at a time, no name")
    ROOMS.mkdir(parents=True, exist_ok=True)
    try:
        with _file(name).open("x") as file:
            json.dump(asdict(room), file)
    except FileExistsError:
        room._end()
        raise LabError(f"lab {name} is being brought up by another command") from None
    return room


def _sleeper(pid: int) -> int | None:
    """Of a process and those that it has started: the one that sleeps for ever."""
    with suppress(OSError):
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0infinity\0"):
            return pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if (found := _sleeper(int(child))) is not None:
                return found
    return None


# --- commands ------------------------------------------------------------------------------------


def carry_out(name: str, verb: str) -> int | None:
    """Carry this very command out in the room of a lab, and return its exit status; None where it
    is in there already, or names none.  Only `up` makes a room."""
    if not name or name == here():
        return None
    if here():
        raise RoomNameError(f"this is the room of lab {here()}: {name} is said outside of it")
    known = {room.name: room for room in rooms()}
    if verb == "down" and name not in known:
        print(f"no lab {name} was up", file=sys.stderr)
        return 0
    if verb not in ("up", "down"):
        become(find(name), sys.orig_argv)
    room = known.get(name) or make(name)
    signal.signal(signal.SIGINT, lambda *_: None)  # the command in there hears it, and sweeps
    status = subprocess.run(room.command(sys.orig_argv), check=False).returncode
    if room.state() is None:
        room.close()
    return status


def become(room: LabRoom, argv: Sequence[str]) -> NoReturn:
    """Become a program in a room."""
    command = room.command(argv)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise LabError(f"{command[0]}: {error.strerror}") from None
