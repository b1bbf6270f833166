"""Moves as a person reads them: `scenarios/*.txt`, whose commands `tests/scenarios.py` explains."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import pytest

from tests.scenario_file import check
from tests.scenarios import Scenario

FILES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=attrgetter("stem"))
def test_the_scenario_is_as_it_is_written(path: Path) -> None:
    check(path, Scenario())
