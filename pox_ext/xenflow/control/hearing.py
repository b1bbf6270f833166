"""Whether the machine of another controller lives, as far as this host can tell.

Before a host counts as lost, those that stay are asked: who is cut off from it may be the one who
asks.  What counts as a sign of life says `model.sign_of_life`.  The verb `hears`; called by
`management_service`.
"""

from __future__ import annotations

import errno
import select
import socket
from typing import Any

from xenflow.control.requests import Reply, Result
from xenflow.model.sign_of_life import LIMIT_S, SILENT, address_of, in_words
from xenflow.switch.clock import Clock

LOOK_S = 0.05


class Hearing:
    """See the module."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def hears(self, arguments: dict[str, Any], reply: Reply) -> Result:
        """docs/messages.md, verb `hears`; nobody waits here.  Who asks says where that controller
        is: a host knows only those whom it meets on its links."""
        host, port = address_of(arguments["manage"])
        numeric = socket.AI_NUMERICHOST
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric)
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
            reply.ok(hears=in_words(number))

        look(number)
        return None
