"""Packets of a capture file as tcpdump writes it: when each was seen, and iperf's number in it.

The format is libpcap's (draft-ietf-opsawg-pcap): a header of 24 octets, then one of 16 before each
packet.  iperf3 begins the payload of a UDP packet with seconds, microseconds and a counter from 1,
32 bits each in network byte order (its iperf_udp.c); the packet by which it opens a stream is
shorter.  Only untagged IPv4 is captured by those who use this.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.judge import Record

_MAGIC = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}
"""The file's magic number -> nanoseconds of a unit of its time stamps' second field."""
_HEADER = 24
_ETHERNET, _UDP = 14, 8
_COUNTER = struct.Struct("!8xI")
SNAP = _ETHERNET + 60 + _UDP + _COUNTER.size
"""As much of each packet must have been captured."""


class CaptureError(ValueError):
    """The file is not such a capture."""


def packets(data: bytes) -> Iterator[tuple[int, int]]:
    """(time in ns since 1970, iperf's counter) of each UDP packet that has one, in order.

    A packet at the end that is not whole is left out.  Raises CaptureError.
    """
    for order in "<>":
        if len(data) >= _HEADER and (magic := struct.unpack_from(order + "I", data)[0]) in _MAGIC:
            break
    else:
        raise CaptureError("not a capture file of libpcap")
    head = struct.Struct(order + "IIII")
    at = _HEADER
    while at + head.size <= len(data):
        seconds, fraction, length, _ = head.unpack_from(data, at)
        at += head.size
        if at + length > len(data):
            return
        payload = at + _ETHERNET + 4 * (data[at + _ETHERNET] & 15) + _UDP
        (udp,) = struct.unpack_from("!H", data, payload - 4)
        if udp >= _UDP + _COUNTER.size and payload + _COUNTER.size <= at + length:
            (number,) = _COUNTER.unpack_from(data, payload)
            yield seconds * 1_000_000_000 + fraction * _MAGIC[magic], number
        at += length


def compare(sent: bytes, received: bytes, offset_ns: int) -> list[Record]:
    """A record for each arrival in order, then one for each packet that was lost, as the probe
    leaves them; `offset_ns` is added to the captures' times."""
    times = {number: at + offset_ns for at, number in packets(sent)}
    records: list[Record] = []
    arrived = set()
    for at, number in packets(received):
        if number in times:
            records.append((number, times[number], at + offset_ns))
            arrived.add(number)
    records += [(number, at, 0) for number, at in times.items() if number not in arrived]
    return records


def read(sent: Path, received: Path, offset_ns: int) -> Sequence[Record]:
    """`compare` of two files.

    Raises CaptureError, with the file's name.
    """
    try:
        return compare(sent.read_bytes(), received.read_bytes(), offset_ns)
    except CaptureError as error:
        raise CaptureError(f"{sent} or {received}: {error}") from None
