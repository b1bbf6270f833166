"""Puts the repository and the POX component's directory on the path, as `pox.py` does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
for directory in (ROOT, ROOT / "pox_ext"):
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests that are marked slow, too")
    parser.addoption("--xen", action="store_true", help="tests/xen: see scripts/test-xen")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The acceptance tests on genuine Xen need a bed, which only scripts/test-xen prepares."""
    bed = collection_path == ROOT / "tests" / "xen"
    return True if bed and not config.getoption("--xen") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: with --full only"))
