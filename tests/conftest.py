"""Puts the repository, the POX component's directory and the core's stand-in on the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
for directory in (ROOT, ROOT / "pox_ext", ROOT / "runtime"):  # `import pox` must not find pox.py
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


# No test is timed: another program on the machine must not be able to fail it.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


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
