"""What the controller answers to first packets, while nothing has changed that it follows from.

Of a switch whose kind asks nothing there are no answers.  Called by `rule_table` and `trace`, and
by `switch` and `writer` when something changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from xenflow.routes.router_state import RouterState
from xenflow.switch.channel import Channel
from xenflow.switch.kind import SwitchKind
from xenflow.switch.reactive import Reactive
from xenflow.switch.routes import RouteWriter
from xenflow.switch.wanted import Known, WantedFlows
from xenflow.tables.sent_up import Question
from xenflow.tables.site import Site


@dataclass(eq=False, repr=False)
class Decisions:
    """See the module."""

    _kind: SwitchKind
    _channel: Channel
    _known: Known
    _wanted: WantedFlows
    _routes: RouteWriter

    def __post_init__(self) -> None:
        self._answers: Reactive | None = None
        self.exact = self._kind.exact_flows(self._channel)
        """The flows that follow from the answers."""

    def decide(self, asked: Question) -> bytes | None:
        """The messages that answer a packet-in; None where it is for no router here, or the switch
        is not to ask: it holds flows of another time."""
        if not self._kind.asks:
            return None
        if self._answers is None:
            self._answers = self._kind.answers(*self._first_packets())
        return self._answers.answer(asked)

    def _first_packets(self) -> tuple[Site, dict[str, RouterState]]:
        """The switch as first packets of flows meet it, and what is known of the routers that it
        forwards for: nothing is decided for a router whose routes are not known yet."""
        found = {name: self._known.state(name) for name in self._routes.synced}
        states = {name: state for name, state in found.items() if state is not None}
        site = self._wanted.site()
        placements = {
            name: placement
            for name, placement in site.placements.items()
            if name in states or name not in site.network.routers or not self._wanted.forwards(name)
        }
        return replace(site, placements=placements), states

    def answer(self, asked: Question) -> bool:
        """Answer a packet-in; False where it is for no router here."""
        messages = self.decide(asked)
        if messages is not None:
            self._channel.send(messages)
            self.exact.made(messages)
        return messages is not None

    def outdated(self) -> None:
        """Something has changed: what is asked from now on is decided anew."""
        self._answers = None
