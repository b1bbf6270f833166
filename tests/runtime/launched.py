"""Runs `pox.py` with a component of the tests' own, under each core that is there.

Genuine POX is tested where a checkout is found as `pox.py` finds it ($POX_DIR, vendor/pox, ../pox).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.free_ports import free_ports

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT_S = 120.0
"""How long anything may take on a slow and busy machine; nothing does unless it fails."""


def pox_checkout() -> Path | None:
    """The POX checkout that `pox.py` would use; `scripts/test --stand-in` wants none."""
    if os.environ.get("XENFLOW_STAND_IN"):
        return None
    named = os.environ.get("POX_DIR")
    for folder in ([Path(named)] if named else []) + [ROOT / "vendor/pox", ROOT.parent / "pox"]:
        if (folder / "pox" / "boot.py").is_file():
            return folder
    return None


def free_port() -> int:
    """A TCP port on which nobody listens now."""
    return free_ports(1)[0]


def core_options(core: str) -> list[str]:
    """`pox.py`'s options for a core; skips the test where the core is not there."""
    if core == "stand-in":
        return ["--stand-in"]
    checkout = pox_checkout()
    if checkout is None:
        pytest.skip("no POX checkout (scripts/get-pox fetches one)")
    return [f"--pox={checkout}"]


def environment(*folders: Path) -> dict[str, str]:
    """The environment for `pox.py`, with folders of components."""
    search = [str(each) for each in (*folders, HERE / "components")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(search)}


class LaunchedController:
    """A running `pox.py` with a component of the tests', the recorder unless named; `folders`:
    where more are."""

    def __init__(
        self,
        core: str,
        words: list[str],
        before: list[str] | None = None,
        component: str = "recorder",
        folders: Sequence[Path] = (),
    ) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [
                *(before or []),
                sys.executable,
                str(ROOT / "pox.py"),
                *core_options(core),
                "openflow.of_01",
                f"--port={self.port}",
                component,
                *words,
            ],
            cwd=ROOT,
            env=environment(*folders),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.events: list[dict[str, Any]] = []
        self.log: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        assert self.process.stdout and self.process.stderr
        for stream, put in (
            (self.process.stdout, self._lines.put),
            (self.process.stderr, self.log.append),
        ):
            threading.Thread(target=self._read, args=(stream, put), daemon=True).start()
        self.first_line = self._lines.get(timeout=LIMIT_S).rstrip("\n")

    @staticmethod
    def _read(stream: Any, put: Callable[[str], Any]) -> None:
        for line in stream:
            put(line)

    def wait_for(self, event: str, timeout_s: float = LIMIT_S, **fields: Any) -> dict[str, Any]:
        """The next event of this name and with these fields; it stays in `events`."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                log = "".join(self.log)
                raise AssertionError(
                    f"no {event} {fields} among {self.events[-20:]}\n{log}"
                ) from None
            if not line.startswith("{"):
                continue
            got = json.loads(line)
            self.events.append(got)
            if got["event"] == event and all(got.get(k) == v for k, v in fields.items()):
                return got

    def wait_for_log(self, text: str, timeout_s: float = LIMIT_S) -> str:
        """The first log line with this text."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for line in list(self.log):
                if text in line:
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no {text!r} in the log:\n{''.join(self.log)}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(LIMIT_S)
