"""The exact flows that the controller's answers leave in a switch: deleted where they may have
become wrong; the next packet of each asks again.

Which of these a switch has `kind` says.  Called by `decisions` and `writer`.
"""

from __future__ import annotations

from xenflow.openflow import build, wire
from xenflow.openflow.flow import Flow, match
from xenflow.routes.router_state import Changes, RouterState
from xenflow.switch.channel import Channel
from xenflow.tables import cookies, layout
from xenflow.tables.families import to_prefix
from xenflow.tables.views import affected_hops

MANY = 64
"""When more routes and next hops change at once, all exact flows of the router are deleted."""
MAX_KEPT = 10_000
"""From so many on that had to be remembered all are deleted."""


class ExactFlows:
    """Of a switch that asks nothing: there are none."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def made(self, messages: bytes) -> None:
        """The switch was sent these messages as an answer."""

    def forget(self, router: int | None = None) -> None:
        """Delete those of a router, by its id, or of all."""

    def follow(self, router: int, state: RouterState, changes: Changes) -> None:
        """Delete those that may be wrong after changes of a router."""


class CookieExactFlows(ExactFlows):
    """Their cookies say which router and next hop they follow from."""

    def forget(self, router: int | None = None) -> None:
        kind, mask = cookies.of(layout.REACTIVE_KIND), cookies.TABLE_MASK
        if router is not None:
            kind, mask = _of_router(router)
        self._channel.write(build.delete_by_cookie(layout.INGRESS, kind, mask), 1)

    def follow(self, router: int, state: RouterState, changes: Changes) -> None:
        routes = [*changes.routes, *changes.gone]
        hops = affected_hops(state, changes)
        # Their cookies have the group that was chosen from, not the leg.
        if any(map(state.leg_uses.__getitem__, hops)):
            legs = ((group, leg.leg) for group, kept in state.legs.items() for leg in kept.values())
            hops |= {group for group, leg in legs if leg in hops}
        if len(routes) + len(hops) > MANY:
            self.forget(router)
            return
        for hop in hops:
            own = cookies.exact(router, hop)
            self._channel.write(build.delete_by_cookie(layout.INGRESS, own, 0xFFFFFFFFFFFFFFFF), 1)
        for net, span, _ in routes:
            prefix = match(**to_prefix(net, span))
            own, mask = _of_router(router)
            self._channel.write(build.delete_matching(layout.INGRESS, prefix, own, mask), 1)


def _of_router(router: int) -> tuple[int, int]:
    """Cookie and mask of all exact flows of a router."""
    return cookies.of(layout.REACTIVE_KIND, router), cookies.TABLE_MASK | cookies.ROUTER_MASK


class KeptExactFlows(ExactFlows):
    """Of a switch that finds no flow by its cookie: their matches are remembered."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self._matches: set[bytes] = set()

    def made(self, messages: bytes) -> None:
        if messages[1] == wire.MessageType.FLOW_MOD:
            self._matches.add(messages[build.MATCH10])
            if len(self._matches) > MAX_KEPT:
                self.forget()

    def forget(self, router: int | None = None) -> None:
        """See `ExactFlows`: those of all routers."""
        nothing = Flow(0, layout.Ingress.EXACT, (), ())
        form = build.flow_mod_of10(nothing, wire.FlowModCommand.DELETE_STRICT)
        for what in self._matches:
            self._channel.write(form[: build.MATCH10.start] + what + form[build.MATCH10.stop :], 1)
        self._matches.clear()

    def follow(self, router: int, state: RouterState, changes: Changes) -> None:
        self.forget()
