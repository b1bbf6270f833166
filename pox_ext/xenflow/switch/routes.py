"""Table ROUTES of a switch: what it was found with, what it shall have, how it is written.

A router's routes are those that the switch was found with until what the router says is known;
from then on the router is *synced*, and they are what it says.  While its first snapshot comes,
they are streamed: written as they come where the switch holds none yet.

Called by `writer`, whose jobs write them, and by `switch` and `audit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from xenflow.model.network import Network, Router
from xenflow.openflow.build import delete_by_cookie
from xenflow.openflow.flow import Flow
from xenflow.routes.router_state import Changes
from xenflow.switch.aside import Aside
from xenflow.switch.channel import Channel
from xenflow.switch.installed import Installed
from xenflow.switch.jobs import ROOM, Job
from xenflow.switch.kind import SwitchKind
from xenflow.switch.reading import PACE_S
from xenflow.switch.wanted import Known
from xenflow.tables import cookies, layout
from xenflow.tables.route_reading import READ_WHOLE
from xenflow.tables.routes import ODD, RoutePacker, route_of

BULK = 4 * 1024
FEW = 8
"""Fewer routes are packed one by one."""
Route = tuple[int, int, int]
"""Net, span, next hop."""


@dataclass(eq=False, repr=False)
class RouteWriter:
    """See the module.  `bulk` is called when many are about to be added."""

    network: Network
    _known: Known
    _channel: Channel
    _kind: SwitchKind
    _installed: Installed
    _aside: Aside
    _bulk: Callable[[], None]

    def __post_init__(self) -> None:
        self.synced: set[str] = set()
        """The routers that are."""
        self.found: dict[str, dict[int, int]] = {}
        """The routes the switch was found with, by router: net << 8 | span to next hop."""
        self.unsure: set[int] = set()
        """Ids of routers that have left, or whose first snapshot has broken off: which of their
        routes the switch holds is not known until it has been read, or they were deleted."""
        self.packer = RoutePacker()
        self._streamed: dict[str, int] = {}

    def name_of(self, router: int) -> str | None:
        """The router with an id."""
        return self.network.router_names.get(router)

    def clear(self) -> None:
        """The switch went away, or what it holds is about to be read."""
        self.found = {}
        self.synced.clear()
        self.unsure.clear()
        self._streamed.clear()

    def take(self, flows: Iterable[Flow]) -> None:
        """These were read."""
        for flow in flows:
            route = route_of(flow)
            name = self.name_of(route[0]) if route is not None else None
            if route is None or name is None:
                self._installed.flows[flow.key] = flow
            else:
                self.found.setdefault(name, {})[route[1]] = route[2]

    def left(self, router: Router) -> bool:
        """A router is not forwarded for here any more.  Whether the switch has routes of it."""
        name = router.name
        here = name in self.synced or bool(self.found.get(name)) or self.streaming(name)
        self.synced.discard(name)
        self._streamed.pop(name, None)
        if here:
            self.unsure.add(router.id)
        return here

    # --- a first snapshot ---------------------------------------------------------------------

    def streams(self, router: str, changes: Changes, total: int) -> bool:
        """Whether what a part of a router's first snapshot says, which has `total` routes by now,
        can be written as it comes."""
        if self.found.get(router) or not self._kind.routes or not changes.routes:
            return False
        streamed = self._streamed.get(router, 0) + len(changes.routes)
        if streamed != total:  # some came before this switch did
            return False
        self._streamed[router] = streamed
        return True

    def streaming(self, router: str) -> bool:
        """Whether routes of a router have been written so."""
        return router in self._streamed

    def streamed(self, router: str) -> int | None:
        """How many were; from now on none are."""
        return self._streamed.pop(router, None)

    def broke_off(self, router: Router) -> None:
        """The snapshot whose routes were written so is not the one that has come to its end."""
        if self._streamed.pop(router.name, None) is not None:
            self.unsure.add(router.id)

    # --- what the audit asks ------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many routes there should be."""
        if not self._kind.routes:
            return 0
        known = sum(
            len(state.routes)
            for name in self.synced.difference(self._aside)
            if (state := self._known.state(name)) is not None
        )
        return known + sum(map(len, self.found.values()))

    def expected(self, router: int, key: int) -> int | None:
        """The next hop that a router's route (net << 8 | span) leads to, once everything
        is written; None where there is no such route."""
        name = self.name_of(router)
        hop = self._expected(name).get(key, ODD) if name is not None else ODD
        return None if hop == ODD else hop

    def _expected(self, name: str) -> Mapping[int, int]:
        """The routes that the switch shall have of a router."""
        if not self._kind.routes or name in self._aside:
            return {}
        if name not in self.synced:
            return self.found.get(name, {})
        state = self._known.state(name)
        return state.routes if state is not None else {}

    def differing(
        self, router: int, seen: Mapping[int, int | None]
    ) -> tuple[str, list[Route], list[Route]]:
        """Somebody else has changed a router's routes to these next hops (None: deleted them).
        Returns the router's name, what has to be added, and what to be deleted."""
        name = self.name_of(router) or ""
        adds: list[Route] = []
        gone: list[Route] = []
        if not name or name in self._aside:
            return name, adds, gone
        expected = self._expected(name)
        for key, hop in seen.items():
            wanted = expected.get(key)
            if wanted == ODD:
                continue
            if wanted is None and hop is not None and name in self.synced:
                gone.append((key >> 8, key & 255, 0))
            elif wanted is not None and wanted != hop:
                adds.append((key >> 8, key & 255, wanted))
        if name not in self.synced:
            self._streamed.pop(name, None)  # those that are there already are written again
        return name, adds, gone

    # --- writing ------------------------------------------------------------------------------

    def write(
        self,
        described: Router,
        adds: Sequence[Route],
        gone: Sequence[Route],
        ordered: bool = True,
    ) -> Job:
        """Add or overwrite the longest prefixes first, then delete the shortest first.

        So every packet is decided at every moment either as before or as after: its longest
        new match is there before any shorter one changes, and its longest old match stays until
        all that could take over from it is in place.  Raises FlowsRefusedError where the switch has
        said that it does not take them.
        """
        router, channel = described.id, self._channel
        if adds:
            routes = sorted(adds, key=_span, reverse=True) if ordered else adds
            if len(routes) < FEW:
                for route, own in zip(routes, cookies.of_routes(router, routes), strict=True):
                    channel.write(self.packer.add(router, *route, own), 1)
            else:
                self._bulk()
                for start in range(0, len(routes), BULK):
                    part = routes[start : start + BULK]
                    flow_mods = len(part)
                    for piece in self._pieces(router, part):
                        channel.write(piece, flow_mods)
                        flow_mods = 0
                        yield ROOM
                        self._aside.check(described.name)
        if gone:
            channel.fence()
            for i, (net, span, _) in enumerate(sorted(gone, key=_span)):
                channel.write(self.packer.delete(router, net, span), 1)
                if i % 256 == 255:
                    yield ROOM

    def _pieces(self, router: int, part: Sequence[Route]) -> list[bytes]:
        owns = cookies.of_routes(router, part)
        return self.packer.pack_adds(router, part, owns, self._channel.piece_bytes)

    def delete_all(self, router: Router, count: int) -> Job:
        """Delete all of a router, chunk by chunk where they are many; `count`: how many."""
        own = cookies.of(layout.ROUTES, router.id)
        if count <= READ_WHOLE:
            mask = cookies.TABLE_MASK | cookies.ROUTER_MASK
            self._channel.write(delete_by_cookie(layout.ROUTES, own, mask), 1)
            yield ROOM
            return
        for chunk in range(cookies.CHUNKS):
            self._channel.write(delete_by_cookie(layout.ROUTES, own | chunk), 1)
            yield ROOM
            yield PACE_S


def _span(route: Route) -> int:
    return route[1]
