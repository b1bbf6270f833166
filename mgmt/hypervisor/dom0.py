"""A connection to a Domain 0: the agent there is started, asked and listened to.

Over ssh, or directly on this machine.  `mgmt.hypervisor.dom0_agent` is sent as text, so nothing
needs to be installed there but Python.  ssh connections are shared and kept for a while
(ControlMaster), because making one costs seconds on a slow machine.  Used by the `xl` driver.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mgmt.hypervisor import HypervisorError, dom0_agent
from mgmt.hypervisor.xl_output import ssh_problem
from xenflow.model.hypervisor_spec import XlSpec
from xenflow.vm import xenstore_wire as xenstore

START_S = 60.0
"""How long the login and the start of the agent may take."""
ANSWER_S = 60.0
CLOSE_S = 10.0
KEEP_S = 60
"""How long an ssh connection is kept for the next command."""

LOADER = """\
import json, sys, types
for name, text in json.loads(sys.stdin.buffer.readline()):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
module.main()
"""

SSH_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=20",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "ControlMaster=auto",
    f"ControlPersist={KEEP_S}",
)

OnEvent = Callable[[dict[str, Any]], None]


class Dom0:
    """One Domain 0.

    `host` is its name in the network, `on_event` gets the agent's events, each with `local_at`: its
    time by this machine's monotonic clock, as near as the connection lets it be known.  Every
    method raises HypervisorError.
    """

    def __init__(self, host: str, spec: XlSpec, on_event: OnEvent) -> None:
        self.host = host
        self.spec = spec
        self._on_event = on_event
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed = threading.Condition()
        self._next = 0
        self._lost = self._answered = False
        self._offset: float | None = None
        self._said: deque[str] = deque(maxlen=20)
        self._writing = threading.Lock()
        try:
            self._process = subprocess.Popen(
                _command(spec),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise HypervisorError(f"{host}: {error}") from None
        self._readers = [
            threading.Thread(target=reader, daemon=True)
            for reader in (self._read_answers, self._read_errors)
        ]
        for reader in self._readers:
            reader.start()
        self._send(_sources())

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._lost or self._process.poll() is not None

    def ask(self, do: str, timeout_s: float = ANSWER_S, /, **arguments: Any) -> dict[str, Any]:
        """The agent's answer to a request."""
        with self._changed:
            self._next += 1
            id = self._next
        self._send({"id": id, "do": do, **arguments})
        limit_s = timeout_s + (START_S if id == 1 else 0.0)
        with self._changed:
            if not self._changed.wait_for(lambda: id in self._answers or self._lost, limit_s):
                raise HypervisorError(
                    f"{self.host}: no answer to {do} within {limit_s:g} s", "unreachable"
                )
            answer = self._answers.pop(id, None)
        if answer is None:
            raise self._unreachable()
        if not answer["ok"]:
            raise HypervisorError(f"{self.host}: {answer['error']}")
        return answer

    def run(self, *argv: str, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """A program's {status, out, err} there."""
        return self.ask("run", timeout_s + 5.0, argv=list(argv), timeout_s=timeout_s)

    def output(self, *argv: str, timeout_s: float = ANSWER_S) -> str:
        """What a program prints there, which must succeed."""
        done = self.run(*argv, timeout_s=timeout_s)
        if done["status"]:
            why = done["err"].strip() or done["out"].strip() or f"exit status {done['status']}"
            raise HypervisorError(f"{self.host}: {shlex.join(argv)}: {why}")
        return str(done["out"])

    def close(self) -> None:
        """End the connection; a migration that still waits there is given up."""
        self._close_input()
        try:
            self._process.wait(CLOSE_S if self._answered else 0.0)
        except subprocess.TimeoutExpired:
            if not self._answered:  # nothing was begun there
                self._process.kill()
            return  # else it still waits for xl to end in order
        for reader in self._readers:
            reader.join(2.0)

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None
        try:
            with self._writing:
                self._process.stdin.write(json.dumps(value).encode() + b"\n")
                self._process.stdin.flush()
        except (OSError, ValueError):
            raise self._unreachable() from None

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with self._writing, suppress(OSError):  # it is gone already, with what it was to be told
            self._process.stdin.close()

    def _unreachable(self) -> HypervisorError:
        self._readers[1].join(2.0)
        said = "\n".join(self._said)
        why = ssh_problem(said, self.spec.login) or said.strip() or "the connection has ended"
        where = f"{self.spec.login}: " if self.spec.host else ""
        return HypervisorError(f"Domain 0 of {self.host}: {where}{why}", "unreachable")

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._read(line, time.monotonic())
        # First of all: whoever waits for an answer then knows why there is none.
        self._on_event({"event": "lost", "host": self.host, "local_at": time.monotonic()})
        with self._changed:
            self._lost = True
            self._changed.notify_all()
        self._close_input()
        self._process.wait()

    def _read(self, line: bytes, now: float) -> None:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):  # a shell's greeting, for example
            self._said.append(line.decode(errors="replace").rstrip())
        elif "event" in value:
            self._on_event({**value, "host": self.host, "local_at": self._here(value, now)})
        else:
            with self._changed:
                self._answered = True
                self._answers[value["id"]] = value
                self._changed.notify_all()

    def _here(self, value: dict[str, Any], now: float) -> float:
        """The clocks differ by no more than the quickest message took."""
        difference = now - value["at"]
        if self._offset is None or difference < self._offset:
            self._offset = difference
        return float(value["at"] + self._offset)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._said.append(line.decode(errors="replace").rstrip())


def ssh(shared: str) -> list[str]:
    """The words of an ssh command; the sockets of shared connections begin with `shared`."""
    options = [*SSH_OPTIONS, f"ControlPath={shared}%C"]
    return ["ssh", *(word for option in options for word in ("-o", option))]


def _command(spec: XlSpec) -> list[str]:
    python = ["python3", "-I", "-S", "-c", LOADER]
    if not spec.host:
        return python
    _, *options = ssh(f"{_shared_folder()}/")
    program = shlex.split(os.environ.get("XENFLOW_SSH", "ssh"))
    return [*program, *options, "-T", "-p", str(spec.port), spec.login, shlex.join(python)]


def _shared_folder() -> str:
    """Where ssh's shared connections are: short, because a socket's path has at most 107 bytes."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    folder = base / f"xenflow-ssh-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise HypervisorError(f"{folder} belongs to someone else: remove it")
    return str(folder)


def _sources() -> Sequence[tuple[str, str]]:
    """The agent's modules, as the loader wants them."""
    return [
        ("xenflow", ""),
        ("xenflow.vm", ""),
        ("xenflow.vm.xenstore_wire", _text(xenstore)),
        ("dom0_agent", _text(dom0_agent)),
    ]


def _text(module: Any) -> str:
    return Path(module.__file__).read_text()
