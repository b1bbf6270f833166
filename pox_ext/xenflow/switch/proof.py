"""When a change is in force: what must pass on a switch after its barrier reply.

A barrier reply says that the tables have changed; Open vSwitch may go on forwarding by flows it
cached before.  They are checked by its revalidator threads, and `ovs-appctl revalidator/wait`
returns at the end of one of their rounds.  A round may have begun before the change, so the proof
is: two rounds, each provoked by a harmless change (a *nudge*), since without one the next round
may be `max-revalidator` away.  Where the switch cannot be asked, a bound measured for it.

Called by `switch.Switch`; everything here runs in the controller's own loop and never blocks it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from pox.lib.recoco import Select, Task

ROUND_LIMIT_S = 30.0
DEFAULT_RUNDIR = "/var/run/openvswitch"


class ProofError(RuntimeError):
    """The switch could not be asked whether a change is in force."""


def unixctl_path(rundir: str) -> Path:
    """The control socket of the ovs-vswitchd that runs under `rundir`.

    Raises ProofError where there is none.
    """
    pidfile = Path(rundir) / "ovs-vswitchd.pid"
    try:
        pid = int(pidfile.read_text())
    except (OSError, ValueError) as error:
        raise ProofError(f"{pidfile}: {error}: is ovs_rundir right?") from None
    return Path(rundir) / f"ovs-vswitchd.{pid}.ctl"


def default_rundir() -> str:
    """$OVS_RUNDIR, else where Debian's packages run."""
    return os.environ.get("OVS_RUNDIR", DEFAULT_RUNDIR)


def ask(rundir: str, method: str, then: Callable[[str | None], None]) -> None:
    """Run one ovs-appctl command on a switch; `then(None)` when it has returned, else with what
    went wrong (JSON-RPC 1.0 over the unixctl socket, ovs-appctl(8))."""
    Task(target=_ask, args=(rundir, method, then)).start()


def _ask(rundir: str, method: str, then: Callable[[str | None], None]) -> Generator[Any, Any, None]:
    error: str | None = None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(str(unixctl_path(rundir)))
        sock.send(json.dumps({"id": 0, "method": method, "params": []}).encode())
        answer = b""
        while True:
            ready = yield Select([sock], [], [], ROUND_LIMIT_S)
            if not ready or not ready[0]:
                raise ProofError(f"{method}: no answer within {ROUND_LIMIT_S:.0f} s")
            part = sock.recv(4096)
            if not part:
                raise ProofError(f"{method}: ovs-vswitchd closed the connection")
            answer += part
            try:
                reply = json.loads(answer)
            except ValueError:
                continue
            if reply.get("error"):
                raise ProofError(f"{method}: {reply['error']}")
            break
    except (OSError, ProofError) as problem:
        error = str(problem)
    finally:
        sock.close()
    then(error)
