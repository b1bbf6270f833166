"""scripts/setup where it cannot do what it is for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_a_first_run_without_network_says_that_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = subprocess.run(
        ["unshare", "--net", tmp_path / "scripts" / "setup"],
        env={**os.environ, "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "needs the network" in done.stderr and "failed: " in done.stderr
