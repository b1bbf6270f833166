"""Asks ovs-vswitchd in the controller's own loop, over the socket that ovs-appctl(8) uses.

Called by `proof.Revalidator`; never blocks.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

from pox.lib.recoco import Select, Task

from xenflow.model.network import Datapath
from xenflow.switch.proof import Bound, Proof, Revalidator

ROUND_LIMIT_S = 30.0
DEFAULT_RUNDIR = "/var/run/openvswitch"
"""Where Debian's packages run."""


class UnixctlError(RuntimeError):
    """ovs-vswitchd could not be asked."""


def unixctl_path(rundir: str) -> Path:
    """The control socket of the ovs-vswitchd that runs under `rundir`.

    Raises UnixctlError where there is none.
    """
    pidfile = Path(rundir) / "ovs-vswitchd.pid"
    try:
        pid = int(pidfile.read_text())
    except (OSError, ValueError) as error:
        raise UnixctlError(f"{pidfile}: {error}: is ovs_rundir right?") from None
    return Path(rundir) / f"ovs-vswitchd.{pid}.ctl"


def proof_of(datapath: Datapath) -> Proof:
    """How it is proven that a change is in force on a switch of this machine, or another."""
    if datapath.proof == "revalidator":
        default = os.environ.get("OVS_RUNDIR", DEFAULT_RUNDIR)
        return Revalidator(partial(ask, datapath.ovs_rundir or default))
    return Bound(datapath.proof_bound_s)


Then = Callable[[str | None, str], None]
"""Called with what went wrong, or None, and what the command has said."""


def ask(rundir: str, method: str, then: Then) -> None:
    """Run one ovs-appctl command on a switch (JSON-RPC 1.0 over the unixctl socket,
    ovs-appctl(8))."""
    Task(target=_ask, args=(rundir, method, then)).start()


def _ask(rundir: str, method: str, then: Then) -> Generator[Any, Any, None]:
    error: str | None = None
    text = ""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(str(unixctl_path(rundir)))
        sock.send(json.dumps({"id": 0, "method": method, "params": []}).encode())
        answer = b""
        while True:
            ready = yield Select([sock], [], [], ROUND_LIMIT_S)
            if not ready or not ready[0]:
                raise UnixctlError(f"{method}: no answer within {ROUND_LIMIT_S:.0f} s")
            part = sock.recv(4096)
            if not part:
                raise UnixctlError(f"{method}: ovs-vswitchd closed the connection")
            answer += part
            try:
                reply = json.loads(answer)
            except ValueError:
                continue
            if reply.get("error"):
                raise UnixctlError(f"{method}: {reply['error']}")
            text = str(reply.get("result") or "")
            break
    except (OSError, UnixctlError) as problem:
        error = str(problem)
    finally:
        sock.close()
    then(error, text)
