"""The floor of `route_change_latency`: the same way through as many processes, and nothing done.

Two processes stand where routerd and the controller stand: `router`, in a namespace of its own,
hears of a route by netlink and sends a message of a delta's size over ZeroMQ; `table` sends an
OpenFlow echo request of a flow's size to the same switch and reports the reply by a datagram.

    python -m bench.bare_echo router ADDRESS
    python -m bench.bare_echo table ADDRESS PORT SOCKET
"""

from __future__ import annotations

import socket
import sys

import zmq

from xenflow.openflow import build, parse, wire

RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE = 0x40, 0x400
HEADER_BYTES, ROUTE_BYTES, FLOW_BYTES = 40, 17, 112


def router(address: str) -> None:
    """netlink -> ZeroMQ."""
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    kernel.bind((0, RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE))
    sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    sock.ipv6 = True
    sock.connect(address)
    frames = [bytes(HEADER_BYTES), bytes(ROUTE_BYTES)]
    while kernel.recv(65536):
        sock.send_multipart(frames)


def table(address: str, port: int, report: str) -> None:
    """ZeroMQ -> OpenFlow -> the one who measures."""
    sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    sock.ipv6 = True
    sock.bind(address)
    out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    out.connect(report)
    with socket.create_server(("127.0.0.1", port)) as listener:
        switch, _ = listener.accept()
    switch.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    switch.sendall(build.hello() + build.features_request())
    poller = zmq.Poller()
    poller.register(sock, zmq.POLLIN)
    poller.register(switch, zmq.POLLIN)
    request = build.echo_request(bytes(FLOW_BYTES), 1)
    rest = b""
    while True:
        for ready, _ in poller.poll():
            if ready is sock:
                sock.recv_multipart()
                switch.sendall(request)
                continue
            messages, rest = wire.split(rest + switch.recv(65536))
            for data in messages:
                message = parse.message(data)
                if isinstance(message, parse.EchoReply):
                    out.send(b"echo")
                elif isinstance(message, parse.EchoRequest):
                    switch.sendall(build.echo_reply(message.data, message.xid))


if __name__ == "__main__":
    if sys.argv[1] == "router":
        router(sys.argv[2])
    else:
        table(sys.argv[2], int(sys.argv[3]), sys.argv[4])
