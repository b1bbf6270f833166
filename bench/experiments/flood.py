"""Sends UDP packets as fast as one processor can; `python -m bench.experiments.flood`.

Started by designs.py in the generator's namespace.  Many packets with one system call, so that
what is measured is the router rather than the sender.
"""

from __future__ import annotations

import argparse
import ctypes
import socket
import sys
import time

from lab.probe import Iovec, Message, payload_size

_BATCH = 64
_PORT = 9
"""Discard (RFC 863)."""


def main() -> int:
    """Send for a time, print how many were sent."""
    parser = argparse.ArgumentParser(prog="python -m bench.experiments.flood", description=__doc__)
    parser.add_argument("--to", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((args.to, _PORT))
    payload = ctypes.create_string_buffer(payload_size(args.size))
    vector = Iovec(ctypes.addressof(payload), len(payload))
    messages = (Message * _BATCH)()
    for message in messages:
        message.iov, message.iov_length = ctypes.pointer(vector), 1
    libc = ctypes.CDLL(None, use_errno=True)
    sent = 0
    end = time.monotonic() + args.seconds
    while time.monotonic() < end:
        sent += max(0, libc.sendmmsg(sock.fileno(), messages, _BATCH, 0))
    print(sent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
