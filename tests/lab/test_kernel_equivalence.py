"""The same frames into a kernel that routes and into XenFlow: the same comes out.

`tests/differential` has the two routers, the random configurations, the random frames and the
comparison; `docs/equivalence.md` says what a switch cannot tell apart.  A failure names its seed
and configuration: `python -m tests.differential SEED CONFIGURATION` tries that one again.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.differential.compare import Report
from tests.differential.rig import Rig, rig
from tests.differential.trial import run

SEED = os.environ.get("XENFLOW_SEED", "a router is a router")
CONFIGURATIONS, CASES = 44, 240
REACTIVE = 8
"""As many configurations again, for the reactive pipeline."""

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.skipif(shutil.which("ovs-vswitchd") is None, reason="needs Open vSwitch"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nftables"),
]


@pytest.fixture(scope="module", params=["proactive", "reactive"])
def routers(request: pytest.FixtureRequest) -> Iterator[tuple[str, Rig]]:
    """Both routers, for one pipeline after the other."""
    with rig(request.param) as made:
        yield request.param, made


def test_the_kernel_and_xenflow_agree(
    routers: tuple[str, Rig], capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline, made = routers
    count = CONFIGURATIONS if pipeline == "proactive" else REACTIVE
    total, by_switch = Report(), Counter[int]()
    for number in range(count):
        trial = run(made, f"{SEED}-{number}", CASES, number * CASES)
        total.add(trial.report)
        by_switch += trial.by_switch
        found = "\n".join(map(str, trial.report.differences[:5]))
        assert not found, f"seed {SEED!r}, configuration {number}, {pipeline}: {trial}\n{found}"
    with capsys.disabled():
        alone = " and ".join(f"{by_switch[family]} of IPv{family}" for family in (4, 6))
        print(f"\n{pipeline}: {total}; routed by the switch alone: {alone}")
    for family in (4, 6):
        assert total.cases[family] == count * CASES
        # Vacuous otherwise: everything lost, or everything left to the VM.
        assert total.answered[family] > count * CASES // 3
        assert by_switch[family] > count * CASES // 20
