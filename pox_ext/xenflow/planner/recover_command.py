"""`xenflow recover` of one router, as a process beside the planner.  Called by `__main__`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from xenflow.model.network import Network
from xenflow.store.network_text import to_text

STORED = ("unix:of the planner",)
"""That the network lives in a store.  The command asks no server of it: so none is named, which by
tcp: would be refused between machines."""
LAST_LINES = 5
"""So much of what it says last is told where it fails."""


class RecoverCommand:
    """A `recovery.Recovering`; the command learns from controllers how the network lies, since they
    are what it has to agree with."""

    def __init__(self, router: str, network: Network) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="xenflow-recover-")
        file = Path(self._folder.name) / "network.toml"
        file.write_text(to_text(replace(network, store=STORED)))
        self._said = Path(self._folder.name) / "said"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mgmt", "--network", str(file), "recover", router],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> str | None:
        """See `recovery.Recovering`."""
        status = self._process.poll()
        if status is None:
            return None
        words = self._said.read_text(errors="replace").strip().splitlines()[-LAST_LINES:]
        self._folder.cleanup()
        return "" if status == 0 else "; ".join(words) or f"it ended with {status}"

    def stop(self) -> None:
        """It puts back what it can, and leaves the rest to whoever looks next."""
        self._process.terminate()
        self._folder.cleanup()
