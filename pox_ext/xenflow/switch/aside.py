"""The routers that are set aside: everything of theirs passes through their VMs.

    sound          its flows are written
    refused        the switch does not take all its flows: it is tried again after a pause, twice as
                   long each time, once one flow more fits into table ROUTES
    uncompilable   what it says makes no flows: it is tried again when it has changed

A router leaves both when all its flows have been written (`restored`).  While that is tried, what
the switch refuses is noted here for whoever writes (`check`).

Called by `switch` and `writer`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from xenflow.openflow.build import flow_mod
from xenflow.openflow.flow import Flow, match
from xenflow.openflow.wire import FlowModCommand
from xenflow.switch.channel import Channel, SwitchRequest
from xenflow.tables import cookies, layout

TRY_AGAIN_S, TRY_AGAIN_MAX_S = 1.0, 30.0
"""How long a router that was set aside waits for its next try; twice as long each time."""
PROBE_XID = 0xFFFF0002
"""Of the flow that asks whether there is room in table ROUTES."""
COMPILE, TABLE = "compile", "table"
"""Causes of `Problems` entries: what a router says about next hops and routes makes no flows; the
switch refuses a router's flows."""
THROUGH_VM = "everything passes through its VM"


class FlowsRefusedError(RuntimeError):
    """The switch does not take a router's flows; the words say why."""


@dataclass(slots=True)
class _Aside:
    words: str
    refused: bool
    pause_s: float
    waits: bool = False


class Aside:
    """See the module.  `retry` is called with a router whose pause is over; False where it cannot
    be tried now."""

    def __init__(self, channel: Channel, retry: Callable[[str], bool]) -> None:
        self._channel = channel
        self._problems = channel.problems
        self._retry = retry
        self._routers: dict[str, _Aside] = {}
        self._refusals: dict[str, str] = {}
        self._no_room = False

    def __iter__(self) -> Iterator[str]:
        return iter(self._routers)

    def __len__(self) -> int:
        return len(self._routers)

    def __contains__(self, router: str) -> bool:
        return router in self._routers

    def words(self, router: str) -> str:
        """Why a router is set aside; "" where it is not."""
        aside = self._routers.get(router)
        return aside.words if aside is not None else ""

    def refused(self, router: str) -> bool:
        """Whether the switch refuses flows of a router, all of whose packets pass through its VM
        therefore."""
        aside = self._routers.get(router)
        return aside is not None and aside.refused

    def put(self, router: str, words: str, refused: bool) -> bool:
        """From the next write of the small tables on a router's packets pass through its VM.  True
        where that is new."""
        before = self._routers.get(router)
        pause_s = min(TRY_AGAIN_MAX_S, 2 * before.pause_s) if before else TRY_AGAIN_S
        words = f"{THROUGH_VM}: {words}"
        self._routers[router] = _Aside(words, refused, pause_s)
        self._problems.end(COMPILE if refused else TABLE, router)
        if refused:
            self.try_later(router)
        return self._problems.begin(TABLE if refused else COMPILE, words, router)

    def restored(self, router: str) -> bool:
        """A router is no longer set aside.  True where that is new."""
        if self._routers.pop(router, None) is None:
            return False
        self._problems.end(TABLE, router)
        self._problems.end(COMPILE, router)
        return True

    def forget(self, router: str) -> None:
        """A router is gone."""
        self._routers.pop(router, None)

    def clear(self) -> None:
        """The switch went away."""
        self._routers.clear()
        self._refusals.clear()

    # --- trying again -------------------------------------------------------------------------

    def try_later(self, router: str) -> None:
        """Try with a router after its pause."""
        aside = self._routers[router]
        if not aside.waits:
            aside.waits = True
            generation = self._channel.generation
            self._channel.clock.later(aside.pause_s, self._try_again, router, generation)

    def _try_again(self, router: str, generation: int) -> None:
        aside = self._routers.get(router)
        if generation != self._channel.generation or aside is None:
            return
        aside.waits = False
        if not self._retry(router):
            self.try_later(router)

    def has_room(self) -> Generator[SwitchRequest, Any, bool]:
        """Whether table ROUTES takes one flow more, which no packet matches."""
        nothing = match(**{layout.Reg.ROUTER: 0xFFFFFFFF})
        probe = Flow(layout.ROUTES, layout.Routes.PROBE, nothing, (), cookies.MAGIC)
        self._no_room = False
        self._channel.write(flow_mod(probe, FlowModCommand.ADD, PROBE_XID))
        yield self._channel.barrier()
        self._channel.write(flow_mod(probe, FlowModCommand.DELETE_STRICT))
        return not self._no_room

    def probe_refused(self) -> None:
        """The switch has refused the flow of `has_room`."""
        self._no_room = True

    # --- what is refused while a router's flows are written -----------------------------------

    def refuse(self, router: str, words: str) -> None:
        """The switch has refused a flow of a router whose flows are being written."""
        self._refusals[router] = words

    def check(self, router: str) -> None:
        """Raises FlowsRefusedError where that is so."""
        if router in self._refusals:
            raise FlowsRefusedError(self._refusals.pop(router))

    def begin(self, router: str) -> None:
        """All flows of a router are about to be written: what was refused before is no matter."""
        self._refusals.pop(router, None)

    def begin_all(self) -> None:
        """The same of all routers."""
        self._refusals.clear()
