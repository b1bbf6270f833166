"""The limit of `packet_in_rate_vs_raw`: a socket, in_port read, an answer made beforehand.

It reads each packet-in's in_port and answers with a flow and a packet-out of the sizes that are
asked for, both with that port in them: each answer in a write of its own (`each`), or all answers
to what one read brought in one (`joined`).  It looks at nothing else and keeps nothing.

    python -m bench.raw_responder each|joined PORT FLOW_BYTES PACKET_BYTES
"""

from __future__ import annotations

import socket
import struct
import sys

from xenflow.openflow import build, wire

_PACKET_IN = 10
_PORTS = 64


def answer(in_port: int, flow_bytes: int, packet_bytes: int) -> bytes:
    """A flow for a port and a packet to it, of these sizes."""
    flow = struct.pack("!BBHI", 1, wire.MessageType.FLOW_MOD, flow_bytes, 0)
    flow += struct.pack("!IH", 0x003FFFFE, in_port)
    packet = struct.pack(
        "!BBHIIHH", 1, wire.MessageType.PACKET_OUT, packet_bytes, 0, 0xFFFFFFFF, in_port, 8
    )
    packet += struct.pack("!HHHH", 0, 8, in_port, 0)
    return flow.ljust(flow_bytes, b"\0") + packet.ljust(packet_bytes, b"\0")


def main(joined: bool, port: int, flow_bytes: int, packet_bytes: int) -> None:
    """Serve one switch until it hangs up."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        switch, _ = listener.accept()
    switch.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    switch.sendall(build.hello() + build.features_request())
    answers = [answer(number, flow_bytes, packet_bytes) for number in range(_PORTS)]
    rest = b""
    while data := switch.recv(65536):
        rest += data
        at, end = 0, len(rest)
        out = []
        while end - at >= 16:
            size = rest[at + 2] << 8 | rest[at + 3]
            if end - at < size:
                break
            if rest[at + 1] == _PACKET_IN:
                found = answers[rest[at + 14] << 8 | rest[at + 15]]
                if joined:
                    out.append(found)
                else:
                    switch.sendall(found)
            at += size
        rest = rest[at:]
        if out:
            switch.sendall(b"".join(out))


if __name__ == "__main__":
    main(sys.argv[1] == "joined", *map(int, sys.argv[2:5]))
