"""Puts this directory on the path, for `fake_controller`; and what time would decide is not decided
by a machine that is busy with something else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mgmt import executor, migrate

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspended VM waits for switches until they have answered."""
    for module in (executor, migrate):
        monkeypatch.setattr(module, "PATIENCE_S", 60.0)
