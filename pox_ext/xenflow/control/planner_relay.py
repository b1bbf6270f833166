"""Passes a change that people ask for on to the planner, and its answer back.

People reach any controller; who plans, the store's lease says.  Called by `management_service`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import zmq

from xenflow.control.requests import Reply
from xenflow.control.store_follower import StoreFollower
from xenflow.control.zmq_pump import Pump
from xenflow.model import management as mg
from xenflow.model.management import ManagementError

ANSWER_S = 9.5
"""The planner has answered by then, or it is said that it has not: who asked knows within 10 s."""


@dataclass(slots=True)
class _Passed:
    reply: Reply
    until: float


class PlannerRelay:
    """See the module.

    follower  knows where the planner is
    now       a monotonic clock, in seconds
    """

    def __init__(
        self, context: zmq.Context[Any], follower: StoreFollower, now: Callable[[], float]
    ) -> None:
        self._context = context
        self._follower = follower
        self._now = now
        self._url = ""
        self._pump: Pump | None = None
        self._passed: dict[str, _Passed] = {}
        self._numbers = count(1)

    def pass_on(self, verb: str, arguments: dict[str, Any], reply: Reply) -> None:
        """Pass a request on.  Raises ManagementError where no planner is
        known, or it takes nothing."""
        url = self._follower.planner
        if not url:
            words = (
                "no planner holds the store's lease: is one running (python -m xenflow.planner)?"
            )
            raise ManagementError("refused", words)
        number = f"relay-{next(self._numbers)}"
        request = mg.request(verb, number, by=reply.who[: mg.MAX_ID], **arguments)
        if not self._to(url).send([b"", request]):
            raise ManagementError("refused", f"the planner at {url} takes nothing more")
        self._passed[number] = _Passed(reply, self._now() + ANSWER_S)

    def note(self, by: str, what: str, words: str, outcome: str) -> None:
        """Have the planner note what has happened here, where one is known; nobody waits for it."""
        if url := self._follower.planner:
            about = {"what": what, "words": words, "outcome": outcome}
            self._to(url).send([b"", mg.request("event", "event", by=by, **about)])

    def _to(self, url: str) -> Pump:
        if self._pump is None or url != self._url:
            self.close()
            sock = self._context.socket(zmq.DEALER)
            sock.linger = 0
            sock.ipv6 = True
            try:
                sock.connect(url)
            except zmq.ZMQError as error:  # the lease was written by hand
                sock.close()
                words = f"the store says that its planner is at {url}, which cannot be: {error}"
                raise ManagementError("refused", words) from None
            self._url, self._pump = url, Pump(sock, self._answered)
            self._pump.start()
        return self._pump

    def _answered(self, frames: list[bytes]) -> None:
        answer = mg.parse_answer(frames[-1])
        passed = self._passed.pop(answer.id, None)
        if passed is None:
            return
        if answer.ok:
            passed.reply.ok(**answer.result)
        else:
            passed.reply.refuse(answer.code, answer.message)

    def tick(self) -> None:
        """Tell those whose answer has not come."""
        now = self._now()
        for number, passed in list(self._passed.items()):
            if now > passed.until:
                del self._passed[number]
                words = (
                    f"the planner at {self._url} does not answer, and whether it is done is not "
                    "known: see that it runs, and apply the file again, which changes nothing "
                    "where it was done"
                )
                passed.reply.refuse("unknown", words)
                if not self._passed:  # what waits to be sent must not be done some day
                    self.close()

    def close(self) -> None:
        """Ask nobody any more."""
        if self._pump is not None:
            self._pump.close()
            self._pump = None
