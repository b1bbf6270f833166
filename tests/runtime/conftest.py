"""Fixtures that run `pox.py` under each core that is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parents[1] / "runtime"):  # `import pox` must not find pox.py
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from launched import LaunchedController, core_options  # noqa: E402


@pytest.fixture(params=["stand-in", "POX"])
def core(request: pytest.FixtureRequest) -> str:
    """Each core in turn."""
    core_options(request.param)
    return str(request.param)


@pytest.fixture
def start() -> Iterator[Callable[..., LaunchedController]]:
    """Starts controllers, `start(core, *options of the recorder)`, and ends them."""
    running: list[LaunchedController] = []

    def start(core: str, *words: str, **options: Any) -> LaunchedController:
        running.append(LaunchedController(core, list(words), **options))
        running[-1].wait_for("Up")
        return running[-1]

    yield start
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
        each.process.wait()
