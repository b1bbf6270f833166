"""The probe's counting, without a network."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import judge, probe
from lab.namespace import LabError

MS = 1_000_000


def test_everything_arrived() -> None:
    result = probe.judge([0, MS, 2 * MS], [(0, 10), (1, MS + 10), (2, 2 * MS + 10)])
    assert (result.sent, result.lost, result.longest_loss) == (3, 0, 0)
    assert (result.duplicated, result.reordered) == (0, 0)
    assert result.longest_gap_s == pytest.approx(0.001)
    assert result.rate_pps == pytest.approx(1000)


def test_lost_duplicated_reordered() -> None:
    arrivals = [(0, 1), (2, 2), (1, 3), (1, 4), (6, 9 * MS)]
    result = probe.judge([0] * 8, arrivals)
    assert (result.sent, result.lost, result.duplicated, result.reordered) == (8, 4, 1, 1)
    assert result.longest_loss == 3


def test_nothing_arrived() -> None:
    result = probe.judge([0, 1, 2], [])
    assert (result.lost, result.longest_loss, result.longest_gap_s) == (3, 3, 0)


@given(st.permutations(range(20)), st.sets(st.integers(0, 19)))
def test_counts_add_up(order: list[int], lost: set[int]) -> None:
    arrivals = [(n, i + 1) for i, n in enumerate(n for n in order if n not in lost)]
    result = probe.judge([0] * 20, arrivals)
    assert result.lost == len(lost)
    assert result.sent == 20
    assert result.duplicated == 0
    assert result.reordered <= 20 - len(lost)


def test_records(tmp_path: Path) -> None:
    path = tmp_path / "there.bin"
    judge.write_records(path, [5, 6, 7], [(2, 9), (0, 10)])
    assert list(judge.read_records(path)) == [(2, 7, 9), (0, 5, 10), (1, 6, 0)]


def test_sizes() -> None:
    assert probe.payload_size(64) == 18
    assert probe.payload_size(1500) == probe.payload_size(1518) == 1472
    assert probe.payload_size(64) >= probe.HEADER.size
    # over IPv6 a frame of 64 has no room for what is counted
    assert probe.payload_size(64, 6) == probe.HEADER.size
    assert probe.payload_size(82, 6) == probe.HEADER.size < probe.payload_size(83, 6)
    assert probe.payload_size(1500, 6) == 1452
    with pytest.raises(LabError, match="expected 64 to 1518"):
        probe.payload_size(9000)


def test_a_sender_that_is_ended_at_once_has_sent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits until it is ready may end it before it gets a processor again."""
    monkeypatch.setattr(probe, "_stop_on_signal", lambda: [15])
    said = io.StringIO()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        times, _ = probe.send(
            *there.getsockname(),
            rate_pps=100.0,
            size=64,
            count=50,
            run=1,
            ready=said,
            source="127.0.0.1",
        )
        assert len(there.recv(2048)) == probe.payload_size(64)
    assert (len(times), said.getvalue()) == (1, "ready\n")
