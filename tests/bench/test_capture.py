"""Capture files: what iperf sent and what arrived, compared packet by packet."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bench.experiments import capture
from lab import judge


def packet(number: int, options: int = 0) -> bytes:
    payload = struct.pack("!III", 1, 2, number) + bytes(6)
    udp = struct.pack("!HHHH", 40000, 5201, 8 + len(payload), 0) + payload
    ip = bytes([0x45 + options]) + bytes(19 + 4 * options)
    return bytes(12) + b"\x08\x00" + ip + udp


def opening() -> bytes:
    udp = struct.pack("!HHHH", 40000, 5201, 12, 0) + b"6789"
    return bytes(12) + b"\x08\x00\x45" + bytes(19) + udp + bytes(18)


def file(*found: tuple[int, bytes], order: str = "<", magic: int = 0xA1B23C4D) -> bytes:
    out = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 96, 1)
    for at, frame in found:
        out += struct.pack(order + "IIII", at, 5, len(frame), len(frame)) + frame
    return out


def test_lost_doubled_and_late_packets_are_told_apart() -> None:
    sent = file(*((n, packet(n)) for n in range(1, 6)))
    received = file((1, packet(1)), (3, packet(3)), (4, packet(2)), (5, packet(2)), (6, packet(5)))
    records = capture.compare(sent, received, 0)
    (counts,) = judge.by_move(records, [])
    assert (counts.sent, counts.lost, counts.duplicated, counts.reordered) == (5, 1, 1, 1)


def test_a_loss_belongs_to_the_migration_it_was_sent_in() -> None:
    sent = file(*((n, packet(n)) for n in range(1, 6)))
    received = file((1, packet(1)), (3, packet(3)), (5, packet(5)))
    offset = -1_000_000_000
    records = capture.compare(sent, received, offset)
    counts = judge.by_move(records, [offset + 3_500_000_000])
    assert [c.lost for c in counts] == [1, 1]


def test_the_packet_that_opens_a_stream_is_not_counted() -> None:
    assert list(capture.packets(file((1, opening()), (2, packet(1))))) == [(2_000_000_005, 1)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_either_byte_order_and_either_unit_of_time(order: str) -> None:
    nanoseconds = list(capture.packets(file((2, packet(7)), order=order)))
    microseconds = list(capture.packets(file((2, packet(7)), order=order, magic=0xA1B2C3D4)))
    assert nanoseconds == [(2_000_000_005, 7)]
    assert microseconds == [(2_000_005_000, 7)]


def test_ip_options_are_skipped() -> None:
    assert list(capture.packets(file((1, packet(9, options=2))))) == [(1_000_000_005, 9)]


def test_a_packet_cut_off_at_the_end_is_left_out() -> None:
    whole = file((1, packet(1)), (2, packet(2)))
    for length in range(len(file((1, packet(1)))), len(whole)):
        assert [n for _, n in capture.packets(whole[:length])] == [1]


def test_what_is_no_capture_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "sent.pcap"
    bad.write_bytes(b"no capture at all, but long enough to be one")
    with pytest.raises(capture.CaptureError, match=r"sent\.pcap"):
        capture.read(bad, bad, 0)
