"""One bed at a time, brought up once for each module of tests, and figures gathered for the end.

Run by `scripts/test-xen` only: nothing here is skipped, and a test that did not run is a failure.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from lab.description import ROOT
from tests.xen.bed import bed as whole
from tests.xen.bed.bed import Bed
from tests.xen.bed.dom0 import ENVIRONMENT

FIGURES = ROOT / "out" / "xen" / "figures.json"
_begun = time.monotonic()
_figures: dict[str, str] = {}
_passed: set[str] = set()
_past_capture: Callable[[], AbstractContextManager[None]] = nullcontext


def pytest_configure(config: pytest.Config) -> None:
    """Progress goes past pytest's capture."""
    global _past_capture
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        _past_capture = capture.global_and_fixture_disabled


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The long ones only when they are asked for: not to be counted, rather than skipped."""
    long = collection_path.name.endswith("_full.py")
    return True if long and not config.getoption("--full") else None


@pytest.fixture(scope="module")
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """A bed with the network that the module names in TOPOLOGY, its routers up; OPTIONS, where it
    has them, are the lab's."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        keep = "XENFLOW_KEEP_BED" in os.environ
        try:
            whole.down(_say)
            options = getattr(request.module, "OPTIONS", {})
            yield whole.up(request.module.TOPOLOGY, _say, keep=keep, **options)
        finally:
            if not keep or request.session.testsfailed == 0:
                whole.down(_say)


@pytest.fixture(scope="session")
def figure() -> Callable[[str, object], None]:
    """Note a figure for the report at the end."""

    def note(name: str, value: object) -> None:
        _figures[name] = str(value)

    return note


def _say(text: str) -> None:
    at = time.monotonic() - _begun
    with _past_capture():
        print(f"[{at:6.1f} s] {text}", file=sys.stderr, flush=True)


def pytest_runtest_logstart(nodeid: str) -> None:
    _say(nodeid.partition("::")[2] or nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        _passed.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps(_figures, indent=1) + "\n")
    if session.exitstatus == 0 and len(_passed) != session.testscollected:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    out = terminalreporter
    out.section("figures")
    for name, value in _figures.items():
        out.line(f"{name}: {value}")
    out.line(f"all of it took {time.monotonic() - _begun:.0f} s; figures are in {FIGURES}")
