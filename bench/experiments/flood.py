"""Sends UDP packets, up to as fast as one processor can; `python -m bench.experiments.flood`.

Started by designs.py in the generator's namespace.  Many packets with one system call, so that
what is measured is the router rather than the sender.
"""

from __future__ import annotations

import argparse
import ctypes
import socket
import sys
import time

from lab.probe import Iovec, Mmsghdr, payload_size

_BATCH = 64
_PORT = 9
"""Discard (RFC 863)."""


def main() -> int:
    """Send at one rate after another; prints each as it begins."""
    parser = argparse.ArgumentParser(prog="python -m bench.experiments.flood", description=__doc__)
    parser.add_argument("--to", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--step", type=float, required=True, help="how long each rate, seconds")
    parser.add_argument("--rates", required=True, help="packets/s, with commas; 0: all it can")
    args = parser.parse_args()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((args.to, _PORT))
    payload = ctypes.create_string_buffer(payload_size(args.size))
    vector = Iovec(ctypes.addressof(payload), len(payload))
    messages = (Mmsghdr * _BATCH)()
    for message in messages:
        message.iov, message.iov_length = ctypes.pointer(vector), 1
    libc = ctypes.CDLL(None, use_errno=True)
    for rate_pps in map(int, args.rates.split(",")):
        print(rate_pps, flush=True)
        begun = time.monotonic()
        sent = 0
        while (passed := time.monotonic() - begun) < args.step:
            due = min(_BATCH, int(passed * rate_pps) - sent) if rate_pps else _BATCH
            if due <= 0:
                time.sleep(0.0002)
                continue
            sent += max(0, libc.sendmmsg(sock.fileno(), messages, due, 0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
