"""What a machine does with a connection, and whether it lives by that.

One that refuses a connection lives as much as one that accepts it; only silence says nothing.
Asked from here by `mgmt.lost`, and from other hosts by `control.hearing`, where nobody may wait.
"""

from __future__ import annotations

import errno

LIMIT_S = 2.0
"""So long a connection may take."""
SILENT = ""


def address_of(manage: str) -> tuple[str, int]:
    """The address and the port of `tcp://ADDRESS:PORT`; of IPv6 it is in brackets."""
    host, _, port = manage.removeprefix("tcp://").rpartition(":")
    return host.strip("[]"), int(port)


def in_words(number: int | None) -> str:
    """What came of a connection, by the number of its error (0: none)."""
    said = {0: "accepts connections", errno.ECONNREFUSED: "refuses connections"}
    return said.get(number, SILENT) if number is not None else SILENT
