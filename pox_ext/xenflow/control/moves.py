"""The verbs of a migration: placements, and what goes from host to host.

What a verb refuses it refuses before anything has changed; what has changed, but is not confirmed
by a switch, is answered as `not-in-force`.  Called by `management_service`.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from xenflow.control.mirror import RouteMirrors
from xenflow.control.requests import Named, Reply, Result
from xenflow.control.rule_table import RuleTable
from xenflow.model.management import ManagementError
from xenflow.model.network import Router
from xenflow.openflow import build, parse, wire
from xenflow.openflow.flow import Flow, FlowError, text
from xenflow.switch.channel import Answer, NotAnsweredError
from xenflow.tables import cookies, layout

QUIET_LIMIT_S, QUIET_LOOKS = 30.0, 8
"""A host that has not fallen quiet after so long, looked at so often, is said not to be: on a busy
machine a look takes seconds, and a few of them say nothing."""
LOOK_S = 0.02
"""How often is looked whether there is room for another import."""
WAITING_S = 0.5
"""How often whoever imports is told that its answer is still to come (`mirror.ANSWER_S`)."""


class Moves:
    """See the module."""

    def __init__(self, table: RuleTable, named: Named, mirrors: RouteMirrors) -> None:
        self._table = table
        self._named = named
        self._mirrors = mirrors
        self._now = table.clock.now

    def place(self, arguments: dict[str, Any], reply: Reply) -> Result:
        placement = arguments["placement"]
        self._named.router(placement.router)
        names = arguments["datapaths"] or tuple(self._table.switches)
        for name in names:
            self._named.switch(name)
        started = self._now()

        def answer(error: str | None) -> None:
            reply.done(error, in_force_s=round(self._now() - started, 6))

        self._table.place(placement, names, arguments["in_force"], answer)
        return None

    def take_in(self, arguments: dict[str, Any], reply: Reply) -> Result:
        """Answered when there is room for the next: whoever mirrors has one under way."""
        name = self._named.router(arguments["router"]).name
        feed = self._table.feeds[name]
        replies: list[list[bytes]] = []
        given, pause_s = bool(arguments["frames"]), 0.0
        if given:
            outcome = self._table.heard(name, "mirror", arguments["frames"], local=False)
            if outcome.error is not None:
                raise ManagementError("bad-argument", f"frames: {outcome.error}")
            replies = [frames for _, frames in outcome.replies]
            pause_s = outcome.pause_s
        since = said = self._now()

        def look() -> None:
            nonlocal said
            now = self._now()
            if not given or now - since >= max(pause_s, self._table.patience_s(name)):
                packed = [[b64encode(frame).decode() for frame in frames] for frames in replies]
                at = {"epoch": feed.state.epoch, "seq": feed.state.seq}
                reply.ok(phase=feed.phase.value, **at, replies=packed)
                return
            if now - said >= WAITING_S:
                said = now
                reply.part()
            self._table.clock.later(LOOK_S, look)

        look()
        return None

    def mirror(self, arguments: dict[str, Any], _: Reply) -> Result:
        router = self._named.router(arguments["router"])
        if not arguments["on"]:
            self._mirrors.stop(router.name, arguments["to"])
            return {}
        self._mirrors.start(router.name, arguments["to"], self._table.state)
        return {"known": self._table.state(router.name) is not None}

    def ready(self, arguments: dict[str, Any], reply: Reply) -> Result:
        router = self._named.router(arguments["router"])
        switch = self._named.switch(arguments["datapath"], connected=False)
        state = self._table.state(router.name)
        if state is None or not switch.live or not switch.forwards(router.name):
            none = {"seq": None, "epoch": None, "routes": 0}
            return {"ready": False, "in_force": False, "problems": [], **none}
        # What comes after the question is not proven with it.
        asked_of = {"seq": state.seq, "epoch": state.epoch, "routes": len(state.routes)}
        switch.promises.in_force(
            lambda error: reply.ok(
                problems=switch.problems.of(router.name),
                ready=error is None
                and router.name in switch.routes.synced
                and not switch.aside.refused(router.name),
                in_force=error is None,
                **asked_of,
            )
        )
        return None

    def attached(self, arguments: dict[str, Any], reply: Reply) -> Result:
        router, switch = self._named.both(arguments)
        until = self._now() + arguments["wait_s"]

        def look() -> None:
            if all(interface.vif in switch.ports for interface in router.interfaces):
                reply.ok(attached=True)
            elif self._now() >= until:
                reply.ok(attached=False)
            else:
                self._table.clock.later(0.01, look)

        look()
        return None

    def release(self, arguments: dict[str, Any], reply: Reply) -> Result:
        router, switch = self._named.both(arguments)
        count = self._table.packets.deliver(switch, router, arguments["to"] or switch.name)
        dropped = self._table.packets.held[router.name].dropped
        switch.promises.confirmed(lambda error: reply.done(error, delivered=count, dropped=dropped))
        return None

    def read_held(self, arguments: dict[str, Any], _: Reply) -> Result:
        router, link = self._named.on_link(arguments)
        held = self._table.packets.held[router.name]
        held.passed_on(link.id, arguments["passed"])
        kept = held.of(link.id, self._now())
        return {
            "frames": [b64encode(one.frame).decode() for one in kept],
            "upto": kept[-1].number if kept else arguments["passed"],
        }

    def write_held(self, arguments: dict[str, Any], _: Reply) -> Result:
        router, link = self._named.on_link(arguments)
        switch = self._named.switch(arguments["datapath"])
        try:
            return {"taken": self._table.packets.give(switch, router, link, arguments["frames"])}
        except FlowError as error:
            raise ManagementError("bad-argument", f"frames: {error}") from None

    def read_flows(self, arguments: dict[str, Any], reply: Reply) -> Result:
        router, switch = self._named.both(arguments)

        def answer(stats: Answer) -> None:
            if isinstance(stats, NotAnsweredError):
                reply.refuse("refused", str(stats))
                return
            own = [s.flow for s in stats if _moves_along(s.flow, router)]
            reply.ok(flows=[b64encode(build.flow_mod(flow)).decode() for flow in own])

        switch.reader.stats(answer, cookie=cookies.of(0, router.id), mask=cookies.ROUTER_MASK)
        return None

    def write_flows(self, arguments: dict[str, Any], reply: Reply) -> Result:
        router, switch = self._named.both(arguments)
        try:
            flows = [parse.flow_mod(data) for data in arguments["flows"]]
        except wire.WireError as error:
            raise ManagementError("bad-argument", f"flows: {error}") from None
        for flow in flows:
            if not _moves_along(flow, router):
                words = (
                    f"flows: {text(flow)}: not one that moves along with {router.name}: give those "
                    "that `read-flows` answers for it"
                )
                raise ManagementError("bad-argument", words)
        count = switch.adopt(flows, arguments["ports"])
        switch.promises.confirmed(lambda error: reply.done(error, written=count))
        return None

    def quiet(self, arguments: dict[str, Any], reply: Reply) -> Result:
        router, switch = self._named.both(arguments)
        started = self._now()
        seen: list[int] = []

        def look() -> None:
            switch.promises.counted(read)

        def read(error: str | None) -> None:
            if error:
                reply.refuse("refused", error)
            else:
                switch.reader.arrivals(router, counted)

        def counted(packets: int | NotAnsweredError) -> None:
            if isinstance(packets, NotAnsweredError):
                reply.refuse("refused", str(packets))
                return
            waited_s = round(self._now() - started, 3)
            seen.append(packets)
            quiet = len(seen) >= 3 and seen[-1] == seen[-2] == seen[-3]
            if quiet or (waited_s > QUIET_LIMIT_S and len(seen) >= QUIET_LOOKS):
                last, looks = seen[-1] - seen[-2], len(seen)
                reply.ok(quiet=quiet, packets=packets, last=last, looks=looks, waited_s=waited_s)
            else:
                look()

        look()
        return None

    def suspending(self, arguments: dict[str, Any], reply: Reply) -> Result:
        switch = self._named.switch(arguments["datapath"])
        router = self._named.router(arguments["router"])
        self._table.packets.announced(switch, router, arguments["suspended"], reply.done)
        return None


def _moves_along(flow: Flow, router: Router) -> bool:
    """Whether a flow is one that a migration in the report's order copies to the destination."""
    if cookies.router_of(flow.cookie) != router.id:
        return False
    exact = cookies.kind_of(flow.cookie) == layout.REACTIVE_KIND
    return exact or layout.ROUTES <= flow.table <= layout.SIZES
