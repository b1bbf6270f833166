"""What decides is given the time: in the controller nobody but who is named here reads a clock."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT

ALLOWED = {"control/zmq_pump.py"}
"""How long a turn lasts, and how often the log says that it failed: no more depends on it."""


@pytest.mark.parametrize("folder", ["control", "vm"])
def test_nobody_reads_a_clock(folder: str) -> None:
    package = ROOT / "pox_ext" / "xenflow"
    reads = {
        str(file.relative_to(package))
        for file in (package / folder).rglob("*.py")
        if "time.monotonic(" in file.read_text()
    }
    assert reads == {name for name in ALLOWED if name.startswith(folder)}
