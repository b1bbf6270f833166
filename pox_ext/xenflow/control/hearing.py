"""Whether the machine of another controller lives, as far as this host can tell.

Before a host counts as lost, those that stay are asked: who is cut off from it may be the one who
asks.  A machine that refuses a connection lives as much as one that accepts it; only silence says
nothing.  The verb `hears`; called by `management_service`.
"""

from __future__ import annotations

import errno
import select
import socket
from typing import Any

from xenflow.control.requests import Reply, Result
from xenflow.switch.clock import Clock

LIMIT_S = 2.0
"""So long a connection may take."""
LOOK_S = 0.05
ACCEPTS, REFUSES, SILENT = "accepts connections", "refuses connections", ""


class Hearing:
    """See the module."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def hears(self, arguments: dict[str, Any], reply: Reply) -> Result:
        """docs/messages.md, verb `hears`; nobody waits here.  Who asks says where that controller
        is: a host knows only those whom it meets on its links."""
        host, _, port = arguments["manage"].removeprefix("tcp://").rpartition(":")
        numeric = socket.AI_NUMERICHOST
        try:
            found = socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=numeric
            )
        except OSError:  # a name: to ask who has it would take time
            return {"hears": SILENT}
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        number = sock.connect_ex(address)
        until = self._clock.now() + LIMIT_S

        def look(number: int) -> None:
            if number == errno.EINPROGRESS and select.select((), (sock,), (), 0)[1]:
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number == errno.EINPROGRESS and self._clock.now() < until:
                self._clock.later(LOOK_S, look, number)
                return
            sock.close()
            said = {0: ACCEPTS, errno.ECONNREFUSED: REFUSES}
            reply.ok(hears=said.get(number, SILENT))

        look(number)
        return None
