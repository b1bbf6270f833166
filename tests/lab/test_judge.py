"""How loss is judged, on records made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import judge
from lab.judge import Counts, Verdict, write_records

MS = 1_000_000


def test_a_packet_belongs_to_the_move_before_it_was_sent(tmp_path: Path) -> None:
    sent = [n * MS for n in range(1, 11)]
    arrivals = [(n, at + MS // 2) for n, at in enumerate(sent) if n not in (4, 9)]
    for name in ("there.bin", "back.bin"):
        write_records(tmp_path / name, sent, arrivals)
    there, back = judge.read(tmp_path, [4 * MS, 8 * MS])
    assert there == back
    assert [c.sent for c in there] == [3, 4, 3]
    assert [c.lost for c in there] == [0, 1, 1]
    assert judge.total(there).lost == 2
    assert there[1].longest_gap_s == pytest.approx(0.002)


def test_a_copy_and_a_late_packet() -> None:
    counts = judge.by_move([(0, 1, 10), (2, 3, 11), (1, 2, 12), (2, 3, 13)], [])
    assert counts == [Counts(3, 0, 1, 1, 1e-9)]


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        (Counts(sent=5), Verdict.PASSED),
        (Counts(sent=5, reordered=1, longest_gap_s=1.0), Verdict.PASSED),
        (Counts(sent=5, lost=1), Verdict.FAILED),
        (Counts(sent=5, duplicated=1), Verdict.FAILED),
        (Counts(), Verdict.FAILED),
    ],
)
def test_the_verdict(counts: Counts, verdict: Verdict) -> None:
    assert judge.verdict([Counts(sent=1), counts]) is verdict


def test_bins() -> None:
    records = [(0, 0, 10 * MS), (1, 20 * MS, 30 * MS), (3, 60 * MS, 90 * MS), (2, 40 * MS, 0)]
    found = judge.bins(records, 0, width_s=0.02)
    assert [(round(b.at_s, 3), b.lost, b.longest_gap_s) for b in found] == [
        (0.0, 0, 0.02),
        (0.02, 0, 0.06),
        (0.04, 1, 0.06),
        (0.06, 0, 0.06),
        (0.08, 0, 0.06),
    ]
