"""Genuine Xen beyond one local network: plain switches between the hosts, no shared neighbour; then
the same moves in native mode, which must lose.

The hosts of vr1 have no cable in common with each other nor with what the other one is cabled to;
a third host, the lab's, is on the way, and routes the same packets for its own router as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from lab import judge
from lab.description import ROOT
from lab.judge import Counts
from lab.probe import ProbePair
from tests.lab.live import xenflow
from tests.xen.bed.bed import Bed
from tests.xen.bed_live import (
    RATES_PPS,
    adjacency_changes,
    bring_home,
    carried_rate,
    in_sync,
    migrate,
    token,
    where,
)

TOPOLOGY = "xen-path"
ENDS = ("gen", "recv")
OUT = ROOT / "out" / "xen" / "path"

Figure = Callable[[str, object], None]


def test_hosts_share_no_neighbour(bed: Bed) -> None:
    cables = bed.lab.network.cables_of
    neighbours = [{c.far(host).datapath for c in cables[host]} for host in bed.hosts]
    assert neighbours == [{"s1"}, {"s2"}]


def test_there_and_back_under_traffic(bed: Bed, figure: Figure) -> None:
    in_sync(bed)
    rate = carried_rate(ENDS)
    guest, adjacency = token(bed), adjacency_changes(bed)
    begins = []
    with ProbePair(*ENDS, rate_pps=rate, directory=OUT) as pair:
        pair.start(3600)
        time.sleep(3.0)
        for host in ("host-b", "host-a"):
            begins.append(time.monotonic_ns())
            migrate(host)
            assert where(bed) == [host]
            assert token(bed) == guest
        time.sleep(3.0)
        pair.stop(2.0)
    there, back = judge.read(Path(OUT), begins)
    total = sum([*there, *back], Counts())
    figure(
        f"plain switches between the hosts: 2 moves under {rate} packets/s each way",
        f"{total.lost} lost, {total.duplicated} duplicated of {total.sent}",
    )
    assert total.sent > 0
    assert (total.lost, total.duplicated) == (0, 0)
    assert adjacency_changes(bed) == adjacency


def test_native_migration_loses(bed: Bed, figure: Figure) -> None:
    """Where the VM forwards; so the tests that nothing is lost are able to fail."""
    bring_home(bed)
    done = xenflow("mode", "vr1", "native", limit_s=120)
    assert done.returncode == 0, done.stderr
    try:
        with ProbePair(*ENDS, rate_pps=RATES_PPS[0]) as pair:
            pair.start(3600)
            time.sleep(3.0)
            moves = [migrate(host, "--mode", "native") for host in ("host-b", "host-a")]
            time.sleep(5.0)
            there, back = pair.stop(2.0)
    finally:
        back_again = xenflow("mode", "vr1", "xenflow", limit_s=120)
    assert back_again.returncode == 0, back_again.stderr
    lost, sent = there.lost + back.lost, there.sent + back.sent
    pauses = ", ".join(f"{m['suspended_s'] or 0.0:.2f}" for m in moves)
    row = max(there.longest_loss, back.longest_loss)
    figure(
        f"the same 2 moves in native mode under {RATES_PPS[0]} packets/s each way",
        f"{lost} of {sent} lost, in a row {row} ({row / RATES_PPS[0]:.1f} s); "
        f"suspended for {pauses} s",
    )
    assert there.lost > 0 and back.lost > 0
