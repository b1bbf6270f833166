"""What the controller answers to first packets, while nothing has changed that it follows from.

Of a switch whose kind asks nothing there are no answers.  Called by `rule_table` and `trace`, and
by `switch` and `writer` when something changes.
"""

from __future__ import annotations

from dataclasses import replace

from xenflow.routes.router_state import Changes, RouterState
from xenflow.switch.channel import Channel
from xenflow.switch.kind import SwitchKind
from xenflow.switch.reactive import Reactive
from xenflow.switch.routes import RouteWriter
from xenflow.switch.wanted import Known, WantedFlows
from xenflow.tables.sent_up import Question
from xenflow.tables.site import Site


class Decisions:
    """See the module."""

    def __init__(
        self,
        kind: SwitchKind,
        channel: Channel,
        known: Known,
        wanted: WantedFlows,
        routes: RouteWriter,
    ) -> None:
        self._kind = kind
        self._channel = channel
        self._known = known
        self._wanted = wanted
        self._routes = routes
        self._answers: Reactive | None = None
        self._exact = kind.exact_flows(channel)

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
            self._exact.made(messages)
        return messages is not None

    def outdated(self) -> None:
        """Something has changed: what is asked from now on is decided anew."""
        self._answers = None

    def forget(self, router: int | None = None) -> None:
        """The flows that follow from the answers for a router, by its id, or for all, may be wrong:
        they are asked for again."""
        self._exact.forget(router)

    def follow(self, router: int, state: RouterState, changes: Changes) -> None:
        """The same with those that may follow from what a router has changed."""
        self._exact.follow(router, state, changes)
