"""TCP ports of 127.0.0.1 for servers of the tests' own, which say where they listen before they do.

A port that the kernel has just given away as free may be given to somebody's client before the
server listens there.  So these lie below the ports that it gives to clients.
"""

from __future__ import annotations

import errno
import random
import socket

FIRST, LAST = 10_000, 32_000
"""Clients' begin at 32,768 (net.ipv4.ip_local_port_range)."""


def free_ports(number: int) -> list[int]:
    """So many on which nobody listens now."""
    sockets: list[socket.socket] = []
    while len(sockets) < number:
        try:
            sockets.append(socket.create_server(("127.0.0.1", random.randint(FIRST, LAST))))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
