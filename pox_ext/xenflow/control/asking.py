"""Asking the other controllers where the routers are, after a start that found no placements.

One question (`status`) is under way with each of them, and is asked again until it is answered.
Called by `component`; what comes back goes to `RuleTable.heard_from`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import zmq

from xenflow.control.zmq_pump import Pump
from xenflow.model import management as mg

log = logging.getLogger("xenflow.asking")

AGAIN_S = 1.0
"""How often a controller that has not answered is asked."""

Heard = Callable[[str, Mapping[str, Any]], None]
"""(controller, its answer to `status`)"""


class Asking:
    """See the module.  `others`: the controllers' management addresses, by name."""

    def __init__(self, context: zmq.Context[Any], others: Mapping[str, str], heard: Heard) -> None:
        self._heard = heard
        self._asked_at = dict.fromkeys(others, float("-inf"))
        self._ids = count(1)
        self._pumps = {name: self._open(context, name, url) for name, url in others.items()}

    def _open(self, context: zmq.Context[Any], name: str, url: str) -> Pump:
        sock = context.socket(zmq.DEALER)
        sock.linger = 0
        sock.ipv6 = True
        sock.sndhwm = 1  # whoever is not there is not asked many times at once later
        sock.immediate = 1
        sock.connect(url)
        pump = Pump(sock, lambda frames: self._answered(name, frames))
        pump.start()
        return pump

    def tick(self, now: float) -> None:
        """Ask those that have not answered, again."""
        for name, pump in self._pumps.items():
            if now - self._asked_at[name] >= AGAIN_S:
                question = mg.request("status", f"asking-{next(self._ids)}")
                if pump.send([b"", question]):  # False: not connected yet
                    self._asked_at[name] = now

    def _answered(self, name: str, frames: list[bytes]) -> None:
        try:
            answer = mg.parse_answer(frames[-1])
        except mg.ManagementError as error:
            log.warning("%s: %s", name, error)
            return
        if not answer.ok:
            log.warning("%s does not say where the routers are: %s", name, answer.message)
        elif name in self._pumps:
            self._heard(name, answer.result)  # where this fails it is asked again
            self._pumps.pop(name).close()

    def close(self) -> None:
        """Ask nobody any more."""
        for pump in self._pumps.values():
            pump.close()
        self._pumps.clear()
