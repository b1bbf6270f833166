"""What decides is given the time: in the controller nobody but who is named here reads a clock, and
nobody anywhere decides by the time of day, which jumps."""

from __future__ import annotations

import re

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


TIME_OF_DAY = re.compile(r"time\.time\b|time_ns\b|datetime\.now|utcnow|\.today\(\)|CLOCK_REALTIME")
TOLD = {
    "pox_ext/xenflow/planner/__main__.py": 1,
    "runtime/pox/openflow/of_01.py": 2,
}
"""How often, of whom: when a change or an event was, for people; and `idle_time` of a connection,
which POX has, and nothing here asks for."""


def test_nobody_decides_by_the_time_of_day() -> None:
    folders = ("pox_ext", "mgmt", "routerd", "runtime", "xen/dom0")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    found = {str(f.relative_to(ROOT)): len(TIME_OF_DAY.findall(f.read_text())) for f in files}
    assert {name: times for name, times in found.items() if times} == TOLD
    readers = {f.name for f in files if re.search(r"\.idle_time\b", f.read_text())}
    assert readers == {"of_01.py"}
