"""What a lab leaves behind for whoever wants to know why a run in it failed: the logs of all that
ran in it, what its switches hold, and what the controllers say of themselves.

Called by `measuring` before the lab is taken down.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

from lab import process, switch
from lab.namespace import LabError
from lab.state import current
from mgmt.client import TIMEOUT_S, AskError
from mgmt.session import ManagementSession

MADE = ("log", "flows", "status.json")
"""Its names, for `own_folder`."""


def save(folder: Path) -> None:
    """Write what can be had into a folder; what cannot is left out."""
    with suppress(OSError, LabError):
        lab, _ = current()
        shutil.copytree(process.LOG_DIR, folder / "log", dirs_exist_ok=True)
        (folder / "flows").mkdir(exist_ok=True)
        for name in lab.network.datapaths:
            with suppress(LabError):
                text = switch.ofctl(lab.switch_node(name), "dump-flows", switch.BRIDGE)
                (folder / "flows" / f"{name}.txt").write_text(text)
        session = ManagementSession(lab.network, TIMEOUT_S)
        try:
            answers = session.ask_all("status")
        finally:
            session.close()
        said = {n: str(a) if isinstance(a, AskError) else a for n, a in answers.items()}
        (folder / "status.json").write_text(json.dumps(said, indent=1) + "\n")
