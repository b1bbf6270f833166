"""The second baseline, live: Domain 0's kernel forwards, and a move there and back loses nothing.

Both ways of counting are used at once, so that each is a check of the other.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from bench.experiments import traffic
from bench.experiments.domain0_kernel import TABLE, separated
from lab.moves import ends
from lab.namespace import inside

pytestmark = pytest.mark.lab


def told(namespace: str, *command: str) -> str:
    with inside(namespace):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def test_a_router_in_domain_0s_kernel_moves_there_and_back_without_loss(tmp_path: Path) -> None:
    with separated("paper") as router:
        lab = router.lab
        home = router.host
        nodes = ends(lab)
        with (
            traffic.make("probe", nodes, 200, 64, tmp_path / "probe") as probe,
            traffic.make("iperf", nodes, 200, 1500, tmp_path / "iperf") as iperf,
        ):
            probe.start()
            iperf.start()
            before = time.monotonic_ns()
            for _ in range(2):
                source = router.host
                total_s, silent_s, suspended_s = router.move()
                assert router.host != source
                assert 0 < suspended_s < total_s and silent_s > 0.2
                left = lab.switch_namespace(source)
                assert "plane-separation" not in told(left, "nft", "list", "tables")
                assert not told(left, "ip", "route", "show", "table", str(TABLE))
                time.sleep(0.3)
            iperf.stop()
            probe.stop()
        assert router.host == home
        for one, both_ways in ((probe, True), (iperf, False)):
            for there, back in one.counts([before])[1:]:
                assert there.sent > 100
                assert bool(back.sent) is both_ways
                assert not there.lost + back.lost + there.duplicated + back.duplicated
