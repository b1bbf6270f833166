"""One lab at a time, brought up once and handed from test to test.

`lab_up("paper")` gives a lab of that name and those options: the one that is up where it is the
same, has its routers at home and all its processes alive, those that a test has killed started
again, and no test has failed since it came up; else a new one.  Tests that break theirs call
`lab_down()`.  `scripts/test` runs all of it in namespaces of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab import bring_up, process
from lab.description import Lab
from lab.namespace import LabError
from lab.state import LabOptions, current, placed

LIMIT_S = 180.0
"""How long routing may take to converge on a machine that is slow and busy."""


class OneLab:
    """The lab that is up, if any."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._wanted: tuple[str, LabOptions] | None = None
        self._lab: Lab | None = None
        self._programs: list[tuple[str, str]] = []
        self._failed = 0

    def up(self, name: str, **changes: Any) -> Lab:
        """A lab of this name with these fields of `lab.state.LabOptions`."""
        wanted = (name, LabOptions(limit_s=LIMIT_S, **changes))
        if self._lab is None or wanted != self._wanted or not self._is_as_new():
            self.down()
            self._lab = bring_up.up(name, wanted[1], say=lambda _: None)
            self._wanted = wanted
            self._programs, self._failed = _programs(), self._session.testsfailed
        return self._lab

    def _is_as_new(self) -> bool:
        if self._session.testsfailed != self._failed:
            return False
        try:
            lab, state = current()
        except LabError:
            return False
        homes = {name: router.home for name, router in lab.network.routers.items()}
        alive = _programs() == self._programs and all(one.alive for one in process.recorded())
        return alive and not state.cut and placed() == homes

    def down(self) -> None:
        """End it."""
        if self._lab is not None:
            bring_up.down(say=lambda _: None)
        self._lab = None


def _programs() -> list[tuple[str, str]]:
    """What shall run in the lab that is up, and where."""
    return sorted((one.node, one.name) for one in process.recorded())


@pytest.fixture(scope="module")
def one_lab(request: pytest.FixtureRequest) -> Iterator[OneLab]:
    one = OneLab(request.session)
    yield one
    one.down()


@pytest.fixture
def lab_up(one_lab: OneLab) -> Callable[..., Lab]:
    return one_lab.up


@pytest.fixture
def lab_down(one_lab: OneLab) -> Callable[[], None]:
    return one_lab.down
