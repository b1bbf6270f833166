"""Passing a router's route messages on to another host's controller.

While two hosts forward for a router, both must know every change, whichever of them its routerd
talks to.  A mirror sends the state as it is as a snapshot, then every message that comes from the
router itself, to the other controller's management socket (verb `import`).  One request is under
way at a time, so nothing overtakes; when an answer is missing or says that something is, a fresh
snapshot follows after a moment, one for all that was said meanwhile: the difference is found over
there.  The other controller answers when it has room for more; what waits here for that is bounded
too, by a fresh snapshot.  What came by a mirror is never passed on.

Called by `moves` and, for every message, by `rule_table`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import zmq

from xenflow.control.zmq_pump import Pump
from xenflow.model import management as mg
from xenflow.routes.feed import Phase
from xenflow.routes.router_state import RouterState
from xenflow.routes.sender import snapshot_messages

log = logging.getLogger("xenflow.mirror")

ANSWER_S = 3.0
"""An answer, or word that it is still to come, that has not come by then is given up and a
snapshot sent."""
REFUSED_S, BEHIND_S = 1.0, 0.1
"""So long after a refusal, and after word that the other controller does not know it all, the next
snapshot begins."""
MAX_QUEUED_BYTES = 16 << 20
MAX_QUEUED = 10_000
"""Octets and messages that wait; beyond, a snapshot takes their place."""


class RouteMirror:
    """One router's messages to one controller."""

    def __init__(
        self,
        context: zmq.Context[Any],
        router: str,
        to: str,
        state: Callable[[str], RouterState | None],
        now: Callable[[], float],
    ) -> None:
        self.router = router
        self.to = to
        self._state = state
        self._now = now
        self._snapshot: Iterator[list[bytes]] = iter(())
        self._queue: deque[list[bytes]] = deque()
        self._queued_bytes = 0
        self._overflowed = False
        self._ids = count(1)
        self._waiting: tuple[str, float] | None = None
        self._again_at: float | None = None
        """When the next snapshot begins, of which all that happens until then is a part."""
        sock = context.socket(zmq.DEALER)
        sock.linger = 0
        sock.ipv6 = True
        sock.connect(to)
        self._pump = Pump(sock, self._answered)
        self._pump.start()
        self.send_snapshot()

    def send_snapshot(self) -> None:
        """The whole state as of now, in place of whatever was still to be sent.  Its messages are
        made one by one: all of a full table's at once would hold everybody up."""
        state = self._state(self.router)
        self._clear()
        self._again_at = None
        self._snapshot = iter(())
        if state is not None:
            self._snapshot = snapshot_messages(state.copy(), self.router)
        self._next()

    def send(self, frames: list[bytes]) -> None:
        """One message of the router."""
        if self._again_at is not None:
            return
        if not self._overflowed:
            self._queue.append(frames)
            self._queued_bytes += sum(map(len, frames))
            if len(self._queue) > MAX_QUEUED or self._queued_bytes > MAX_QUEUED_BYTES:
                # Not before the snapshot that is under way has ended: else none ever would.
                self._clear()
                self._overflowed = True
        self._next()

    def _clear(self) -> None:
        self._queue.clear()
        self._queued_bytes = 0
        self._overflowed = False

    def close(self) -> None:
        """Stop."""
        self._clear()
        self._snapshot = iter(())
        self._pump.close()

    def tick(self, now: float) -> None:
        """Give up an answer that does not come; begin again where it is time."""
        if self._again_at is not None and now >= self._again_at:
            self.send_snapshot()
        if self._waiting is not None and now > self._waiting[1]:
            log.warning("%s: no answer from %s: sending it all again", self.router, self.to)
            self._waiting = None
            self.send_snapshot()

    def _next(self) -> None:
        if self._waiting is not None or self._pump.closed:
            return
        frames = next(self._snapshot, None)
        if frames is None and self._queue:
            frames = self._queue.popleft()
            self._queued_bytes -= sum(map(len, frames))
        if frames is None:
            if self._overflowed:
                self.send_snapshot()
            return
        ident = f"mirror-{next(self._ids)}"
        self._waiting = ident, self._now() + ANSWER_S
        self._pump.send([b"", mg.request("import", ident, router=self.router, frames=frames)])

    def _answered(self, frames: list[bytes]) -> None:
        try:
            answer = mg.parse_answer(frames[-1])
        except mg.ManagementError as error:
            log.warning("%s: %s", self.to, error)
            return
        if self._waiting is None or answer.id != self._waiting[0]:
            return
        if answer.ok and answer.result.get("more"):
            self._waiting = answer.id, self._now() + ANSWER_S
            return
        self._waiting = None
        if not answer.ok:
            log.warning("%s: %s refuses: %s", self.router, self.to, answer.message)
            self._begin_again(REFUSED_S)
        else:
            self._next()
            if self._waiting is None and answer.result.get("phase") != Phase.CURRENT.value:
                self._begin_again(BEHIND_S)

    def _begin_again(self, after_s: float) -> None:
        self._clear()
        self._snapshot = iter(())
        self._again_at = self._now() + after_s


class RouteMirrors:
    """All mirrors of this controller.  `now`: a monotonic clock."""

    def __init__(self, context: zmq.Context[Any], now: Callable[[], float]) -> None:
        self._context = context
        self._now = now
        self._mirrors: dict[tuple[str, str], RouteMirror] = {}

    def start(self, router: str, to: str, state: Callable[[str], RouterState | None]) -> None:
        """Begin, or send everything again where it runs already; `state` gives what is known."""
        key = router, to
        if key in self._mirrors:
            self._mirrors[key].send_snapshot()
        else:
            self._mirrors[key] = RouteMirror(self._context, router, to, state, self._now)

    def stop(self, router: str, to: str) -> None:
        """End it; nothing happens where there is none."""
        mirror = self._mirrors.pop((router, to), None)
        if mirror is not None:
            mirror.close()

    def pass_on(self, router: str, frames: list[bytes]) -> None:
        """A message came from the router itself."""
        for mirror in self._mirrors.values():
            if mirror.router == router:
                mirror.send(frames)

    def tick(self, now: float) -> None:
        """Look after what is not answered, or refused."""
        for mirror in list(self._mirrors.values()):
            mirror.tick(now)

    def close(self) -> None:
        """End all."""
        for mirror in self._mirrors.values():
            mirror.close()
        self._mirrors.clear()
