"""What is believed of a switch's small tables (all but ROUTES), and who writes them.

Called by whatever changes them: `writer`, `switch`, and `audit` beside all jobs.
"""

from __future__ import annotations

from collections.abc import Iterable

from xenflow.openflow.flow import Flow, Flows
from xenflow.openflow.wire import FlowModCommand
from xenflow.switch.channel import Channel
from xenflow.switch.jobs import ROOM, Job
from xenflow.switch.kind import SwitchKind
from xenflow.tables import cookies, layout
from xenflow.tables.order import view_dependent

Batches = Iterable[Iterable[tuple[bool, Flow]]]
"""Flows to be added (True) or deleted, as `tables.order.plan` gives them."""


PIECE = 256
"""Of many flows so many are compiled, or written, before others have their turn."""


class Installed:
    """See the module."""

    def __init__(self, channel: Channel, kind: SwitchKind) -> None:
        self.flows: Flows = {}
        self.edits = 0
        """How often what is believed has changed."""
        self._channel = channel
        self._kind = kind

    def clear(self) -> None:
        """Nothing is known."""
        self.flows = {}
        self.edits += 1

    def found(self, flows: Iterable[Flow]) -> None:
        """These were read; what is not ours is left out."""
        for flow in flows:
            if cookies.ours(flow.cookie) and cookies.kind_of(flow.cookie) != layout.REACTIVE_KIND:
                self.flows[flow.key] = flow

    def write(self, add: bool, flow: Flow) -> None:
        """Add a flow, or delete it."""
        command = FlowModCommand.ADD if add else FlowModCommand.DELETE_STRICT
        self.edits += 1
        self._channel.write(self._kind.pack(flow, command), 1)
        if cookies.kind_of(flow.cookie) == layout.REACTIVE_KIND:
            return
        if add:
            self.flows[flow.key] = flow
        else:
            self.flows.pop(flow.key, None)

    def add_missing(self, flows: Iterable[Flow]) -> None:
        """Add those that are not there, or are otherwise."""
        for flow in flows:
            if self.flows.get(flow.key) != flow:
                self.write(True, flow)

    def add(self, flows: Iterable[Flow]) -> Job:
        """The same, no faster than the switch takes them."""
        for number, flow in enumerate(flows, 1):
            self.add_missing((flow,))
            if number % PIECE == 0:
                yield ROOM

    def write_at_once(self, batches: Batches) -> None:
        """Write changes, whatever jobs wait."""
        for batch in batches:
            for add, flow in batch:
                self.write(add, flow)
            self._channel.fence()

    def write_with_room(self, batches: Batches) -> Job:
        """The same, no faster than the switch takes them.  Among those that follow from what a
        router says there are pauses: they may be very many, and jobs alone write them."""
        for batch in batches:
            for number, (add, flow) in enumerate(batch, 1):
                self.write(add, flow)
                if number % PIECE == 0 and view_dependent(flow):
                    yield ROOM
            self._channel.fence()
            yield ROOM

    def with_next_hops(self) -> set[int]:
        """The ids of the routers that have next hops here, and routes therefore, probably."""
        return {
            cookies.router_of(flow.cookie)
            for flow in self.flows.values()
            if flow.table == layout.NEXT_HOPS
        }

    def follows_from(self, router: int) -> bool:
        """Whether a flow is there that follows from what a router's VM once said."""
        return any(
            cookies.router_of(flow.cookie) == router and view_dependent(flow)
            for flow in self.flows.values()
        )
