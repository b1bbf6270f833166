"""The dynamic management interface: what each verb of docs/messages.md does.

`model.management` has checked a request before it gets here; a verb returns its result, or answers
later when the switches must speak first.  What a verb refuses it refuses before anything has
changed; what has changed, but is not confirmed by a switch, is answered as `not-in-force`.  Called
by the `Pump` of the management socket; calls the `RuleTable`, and other controllers through
`mirror`.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

from xenflow.control.leases import Leases, LockedError
from xenflow.control.mirror import RouteMirrors
from xenflow.control.rule_table import RuleTable
from xenflow.control.trace import trace
from xenflow.model import management as mg
from xenflow.model.difference import NetworkDifference
from xenflow.model.management import ManagementError, Request
from xenflow.model.network import Link, Network, NetworkError, Router
from xenflow.model.placement import StaleVersionError, to_json
from xenflow.openflow import build, wire
from xenflow.openflow import flow as fl
from xenflow.openflow.flow import Flow
from xenflow.openflow.statistics import FlowStats
from xenflow.routes.feed import snapshot_messages
from xenflow.routes.messages import NextHopType
from xenflow.routes.router_state import RouterState
from xenflow.store.state_file import StateError
from xenflow.switch.channel import Answer, NotAnsweredError
from xenflow.switch.switch import Switch
from xenflow.tables import cookies, layout
from xenflow.tables.pipeline import Owner
from xenflow.tables.views import Cards, problems, through_vm
from xenflow.vm import hold

log = logging.getLogger("xenflow.management")

Send = Callable[[bytes], None]
Result = Mapping[str, Any] | None
Verb = Callable[["ManagementService", dict[str, Any], "Reply"], Result]

QUIET_LIMIT_S, QUIET_LOOKS = 30.0, 8
"""A host that has not fallen quiet after so long, looked at so often, is said not to be: on a busy
machine a look takes seconds, and a few of them say nothing."""
LOOK_S = 0.02
"""How often is looked whether there is room for another import."""
WAITING_S = 0.5
"""How often whoever imports is told that its answer is still to come (`mirror.ANSWER_S`)."""
LONGEST_LINE = 1000
"""Of the log: a rule may have any number of actions."""


class Reply:
    """The answer to one request, given once, now or later; of one that changes something the log
    gets a line: what, who asked from where, what came of it."""

    def __init__(self, request: Request, send: Send, peer: str = "") -> None:
        self._id = request.id
        self._send = send
        self._what = change_in_words(request)
        self._who = " from ".join(filter(None, (request.by or "somebody", peer)))

    def _note(self, outcome: str) -> None:
        if self._what:
            line = f"{self._what}: {outcome}"
            line = line if line.isprintable() else ascii(line)
            log.info("%s (by %s)", line[:LONGEST_LINE], self._who)

    def ok(self, **result: Any) -> None:
        """It was done."""
        self._note("done")
        self._send(mg.reply(self._id, result))

    def part(self, frames: list[bytes]) -> None:
        """One part of an answer; more follows."""
        self._send(mg.part(self._id, frames))

    def refuse(self, code: str, message: str) -> None:
        """It was not done, or not all of it."""
        self._note(f"refused: {message}" if code != "not-in-force" else message)
        self._send(mg.error_reply(self._id, ManagementError(code, message)))

    def done(self, error: str | None, **result: Any) -> None:
        """It was taken, and is in force, or confirmed; with an error it is not, for that reason."""
        if error:
            self.refuse("not-in-force", f"taken, but not in force: {error}")
        else:
            self.ok(**result)


class ManagementService:
    """See the module."""

    def __init__(
        self,
        table: RuleTable,
        leases: Leases,
        core_name: str,
        mirrors: RouteMirrors,
        reload: Callable[[bool], tuple[Network, NetworkDifference]],
    ) -> None:
        self.table = table
        self._reload = reload
        self.core_name = core_name
        self.mirrors = mirrors
        self.leases = leases
        self.now = table.clock.now
        self.started = self.now()

    @property
    def network(self) -> Network:
        """What the network is now."""
        return self.table.network

    def take(self, frame: bytes, send: Send, peer: str = "") -> None:
        """Deal with one request frame, which came from an address."""
        try:
            request = mg.parse_request(frame)
        except ManagementError as error:
            send(mg.error_reply(error.id, error))
            return
        reply = Reply(request, send, peer)
        try:
            if request.verb in mg.OWNED:
                self._check_owner(request.arguments)
            result = VERBS[request.verb](self, request.arguments, reply)
        except ManagementError as error:
            reply.refuse(error.code, error.message)
        except LockedError as error:
            reply.refuse("locked", str(error))
        except StaleVersionError as error:
            reply.refuse("stale-version", str(error))
        except (NetworkError, StateError) as error:
            reply.refuse("refused", str(error))
        except Exception as error:
            log.exception("%s failed", request.verb)
            reply.refuse("internal", f"{request.verb}: {type(error).__name__}: see the log")
        else:
            if result is not None:
                reply.ok(**result)

    def _check_owner(self, arguments: dict[str, Any]) -> None:
        placement = arguments.get("placement")
        router = arguments["router"] if placement is None else placement.router
        self.leases.check(router, arguments["owner"])

    # --- what arguments name ------------------------------------------------------------------

    def _router(self, name: str) -> Router:
        try:
            return self.network.routers[name]
        except KeyError:
            known = ", ".join(sorted(self.network.routers)) or "none"
            message = f"unknown router {name}: known: {known}"
            raise ManagementError("unknown-router", message) from None

    def _state(self, router: Router) -> RouterState:
        state = self.table.state(router.name)
        if state is None:
            raise ManagementError(
                "not-ready", f"{router.name}: its routes are not known to this controller (yet)"
            )
        return state

    def _switch(self, name: str, connected: bool = True) -> Switch:
        switch = self.table.switches.get(name)
        if switch is None:
            known = ", ".join(sorted(self.table.switches)) or "none"
            raise ManagementError(
                "unknown-datapath", f"datapath {name} is not this controller's: it has {known}"
            )
        if connected and switch.channel.connection is None:
            raise ManagementError("not-connected", f"{name}: the switch is not connected")
        return switch

    # --- what there is --------------------------------------------------------------------------

    def status(self, arguments: dict[str, Any], _: Reply) -> Result:
        only = arguments["router"]
        return {
            "controller": self.table.controller,
            "digest": self.network.digest,
            "core": self.core_name,
            "pid": os.getpid(),
            "uptime_s": round(self.now() - self.started, 3),
            "searching": self.table.searching(),
            "datapaths": [self._datapath_row(s) for s in self.table.switches.values()],
            "routers": self._router_rows(only),
            "placements": [
                {"datapath": s.name, **to_json(p)}
                for s in self.table.switches.values()
                for p in s.placements.values()
                if only in (None, p.router) or p.has_left(self.network.routers[p.router].home)
            ],
            "migrations": self.leases.rows(),
            "problems": self.table.problems.of(),
        }

    def reload(self, arguments: dict[str, Any], _: Reply) -> Result:
        network, found = self._reload(arguments["dry_run"])
        return {"digest": network.digest, "changed": found.json()}

    def _datapath_row(self, switch: Switch) -> dict[str, Any]:
        return {
            "name": switch.name,
            "dpid": f"{switch.datapath.dpid:016x}",
            "kind": switch.datapath.kind.value,
            "connected": switch.channel.connection is not None,
            "pipeline": switch.datapath.pipeline.value,
            "ports": {n: {"number": k, "up": up} for n, (k, up) in sorted(switch.ports.items())},
            "flows": len(switch.installed.flows)
            + sum(len(s.routes4) for r in switch.routes.synced if (s := self.table.state(r))),
            "pending": switch.jobs.busy,
            "in_sync": switch.live and not switch.jobs.busy and not switch.audit.pending,
            "changing": switch.changing,
            "flow_mods": switch.channel.flow_mods,
            "errors": switch.errors,
            "audit": switch.audit.row(self.now()),
            "problems": switch.problems.of(),
            "sweeping": switch.rules.sweeping(),
            "packet_ins_dropped": switch.packet_ins.dropped,
        }

    def _router_rows(self, only: str | None = None) -> list[dict[str, Any]]:
        now = self.now()
        rows = []
        for name, feed in self.table.feeds.items():
            if only not in (None, name):
                continue
            state, router = feed.state, self.network.routers[name]
            view = self.table.view(name)
            wrong, through = _shown(router, state) if view else ([], [])
            held = self.table.packets.held[name]
            rows.append(
                {
                    "name": name,
                    "epoch": state.epoch,
                    "seq": state.seq,
                    "age_s": None if feed.heard is None else round(now - feed.heard, 3),
                    "stale": feed.stale(now),
                    "phase": feed.phase.value,
                    "routes": len(state.routes4) + len(state.routes6),
                    "nexthops": len(state.nexthops),
                    "neighbours": len(state.neighbours),
                    "slow": view.slow if view else "",
                    "down": list(view.down) if view else [],
                    "problems": self.table.problems_of(name) + wrong,
                    "through_vm": through,
                    "sessions": self.table.packets.sessions[name].rows(now),
                    "feed": "none" if feed.heard is None else self._feed_of(name),
                    "held": {
                        "now": len(held.frames),
                        "held": held.held,
                        "dropped": held.dropped,
                        "delivered": held.delivered,
                        "repeated": held.repeated,
                        "room_frames": hold.MAX_FRAMES,
                        "room_bytes": hold.MAX_BYTES,
                    },
                }
            )
        return rows

    def _feed_of(self, name: str) -> str:
        return "local" if self.table.last_peer.get(name) == "local" else "mirror"

    def routers(self, _: dict[str, Any], __: Reply) -> Result:
        return {"routers": self._router_rows()}

    def routes(self, arguments: dict[str, Any], _: Reply) -> Result:
        state = self._state(self._router(arguments["router"]))
        keys = _route_keys(state, arguments["match"])
        start = arguments["offset"]
        rows = [_route_row(state, *key) for key in keys[start : start + arguments["limit"]]]
        return {"routes": rows, "total": len(keys)}

    def nexthops(self, arguments: dict[str, Any], _: Reply) -> Result:
        router = self._router(arguments["router"])
        state = self._state(router)
        rows = []
        cards = Cards(router, state)
        for hop in state.nexthops.values():
            interface = cards.interfaces.get(hop.ifindex)
            rows.append(
                {
                    "id": hop.id,
                    "type": NextHopType(hop.type).name.lower(),
                    "interface": interface.name if interface else None,
                    "gateway": _address(hop.family, hop.gateway)
                    if hop.gateway and hop.type is not NextHopType.VM
                    else None,
                    "mac": fl.mac_text(hop.mac) if hop.mac else None,
                    "resolved": bool(hop.mac) or hop.type is not NextHopType.VIA,
                    "legs": [leg.leg for leg in state.legs.get(hop.id, {}).values()],
                    "routes": state.uses[hop.id],
                    "neighbours": [
                        {"address": _address(n.family, n.address), "mac": fl.mac_text(n.mac)}
                        for n in state.neighbours.values()
                        if hop.type is NextHopType.CONNECTED
                        and n.ifindex == hop.ifindex
                        and n.resolved
                    ],
                }
            )
        return {"nexthops": rows}

    def links(self, _: dict[str, Any], __: Reply) -> Result:
        rows = []
        for link in self.network.links.values():
            tree = {}
            for switch in self.table.switches.values():
                names = {number: name for name, (number, _) in switch.ports.items()}
                numbers = switch.site().tree_ports(link) + switch.site().access_ports(link)
                tree[switch.name] = [names[n] for n in numbers]
            members = [f"{r.name}:{i.name}" for r, i in self.network.members(link.name)]
            members += [str(a.end) for a in link.access]
            rows.append(
                {
                    "name": link.name,
                    "id": link.id,
                    "vlan": link.vlan,
                    "tree": tree,
                    "members": members,
                }
            )
        return {"links": rows}

    def flows(self, arguments: dict[str, Any], reply: Reply) -> Result:
        switch = self._switch(arguments["datapath"])
        cookie, mask = cookies.MAGIC, cookies.MAGIC_MASK
        if arguments["router"] is not None:
            cookie = cookies.of(0, self._router(arguments["router"]).id)
            mask = cookies.ROUTER_MASK
        table = wire.ALL_TABLES if arguments["table"] is None else arguments["table"]

        def answer(stats: Answer, total: int) -> None:
            if isinstance(stats, NotAnsweredError):
                reply.refuse("refused", str(stats))
                return
            wanted = [s for s in stats if s.flow.cookie & mask == cookie]
            wanted.sort(key=lambda s: (s.flow.table, -s.flow.priority, s.flow.match))
            rows = [
                _flow_row(s, switch.owner_of(s.flow.cookie)) for s in wanted[: arguments["limit"]]
            ]
            reply.ok(flows=rows, total=total - (len(stats) - len(wanted)))

        switch.reader.show(table, cookie, mask, arguments["limit"], answer)
        return None

    def trace(self, arguments: dict[str, Any], _: Reply) -> Result:
        return trace(self.table, arguments)

    # --- rules ------------------------------------------------------------------------------------

    def rules(self, arguments: dict[str, Any], _: Reply) -> Result:
        name = arguments["datapath"]
        switches = [self._switch(name, connected=False)] if name else self.table.switches.values()
        return {"rules": [{"datapath": s.name, **row} for s in switches for row in s.rules.rows()]}

    def rule_add(self, arguments: dict[str, Any], reply: Reply) -> Result:
        return self._rule(arguments, reply, replace=False)

    def rule_replace(self, arguments: dict[str, Any], reply: Reply) -> Result:
        return self._rule(arguments, reply, replace=True)

    def _rule(self, arguments: dict[str, Any], reply: Reply, replace: bool) -> Result:
        switch = self._switch(arguments["datapath"])
        row, rows = switch.rules.with_rule(arguments["rule"], switch.site(), replace)
        self.table.rule(switch, rows)
        switch.promises.in_force(lambda error: reply.done(error, rule=row))
        return None

    def rule_remove(self, arguments: dict[str, Any], reply: Reply) -> Result:
        switch = self._switch(arguments["datapath"])
        row, rows = switch.rules.without(arguments["rule_id"])
        self.table.rule(switch, rows)
        switch.promises.in_force(lambda error: reply.done(error, rule=row))
        return None

    # --- migration --------------------------------------------------------------------------------

    def place(self, arguments: dict[str, Any], reply: Reply) -> Result:
        placement = arguments["placement"]
        self._router(placement.router)
        names = arguments["datapaths"] or tuple(self.table.switches)
        for name in names:
            self._switch(name)
        started = self.now()

        def answer(error: str | None) -> None:
            reply.done(error, in_force_s=round(self.now() - started, 6))

        self.table.place(placement, names, arguments["in_force"], answer)
        return None

    def export(self, arguments: dict[str, Any], reply: Reply) -> Result:
        router = self._router(arguments["router"])
        state = self._state(router).copy()
        parts = snapshot_messages(state, router.name)

        def go_on() -> None:  # everybody else has a turn between two parts
            frames = next(parts, None)
            if frames is not None:
                reply.part(frames)
                self.table.clock.later(0.0, go_on)
            else:
                reply.ok(more=False, epoch=state.epoch, seq=state.seq, routes=len(state.routes4))

        go_on()
        return None

    def import_(self, arguments: dict[str, Any], reply: Reply) -> Result:
        """Answered when there is room for the next: whoever mirrors has one under way."""
        name = self._router(arguments["router"]).name
        feed = self.table.feeds[name]
        replies: list[list[bytes]] = []
        told, pause_s = bool(arguments["frames"]), 0.0
        if told:
            outcome = self.table.told(name, "mirror", arguments["frames"], local=False)
            if outcome.error is not None:
                raise ManagementError("bad-argument", f"frames: {outcome.error}")
            replies = [frames for _, frames in outcome.replies]
            pause_s = outcome.pause_s
        since = said = self.now()

        def look() -> None:
            nonlocal said
            now = self.now()
            if not told or now - since >= max(pause_s, self.table.patience_s(name)):
                packed = [[b64encode(frame).decode() for frame in frames] for frames in replies]
                reply.ok(
                    phase=feed.phase.value,
                    epoch=feed.state.epoch,
                    seq=feed.state.seq,
                    replies=packed,
                )
                return
            if now - said >= WAITING_S:
                said = now
                reply.part([])
            self.table.clock.later(LOOK_S, look)

        look()
        return None

    def mirror(self, arguments: dict[str, Any], _: Reply) -> Result:
        router = self._router(arguments["router"])
        if not arguments["on"]:
            self.mirrors.stop(router.name, arguments["to"])
            return {}
        self.mirrors.start(router.name, arguments["to"], self.table.state)
        return {"known": self.table.state(router.name) is not None}

    def ready(self, arguments: dict[str, Any], reply: Reply) -> Result:
        router = self._router(arguments["router"])
        switch = self._switch(arguments["datapath"], connected=False)
        state = self.table.state(router.name)
        if state is None or not switch.live or not switch.forwards(router.name):
            return {"ready": False, "seq": None, "routes": 0, "in_force": False, "problems": []}
        switch.promises.in_force(
            lambda error: reply.ok(
                problems=switch.problems.of(router.name),
                ready=error is None
                and router.name in switch.routes.synced
                and not switch.aside.refused(router.name),
                in_force=error is None,
                seq=state.seq,
                epoch=state.epoch,
                routes=len(state.routes4),
            )
        )
        return None

    def attached(self, arguments: dict[str, Any], reply: Reply) -> Result:
        router = self._router(arguments["router"])
        switch = self._switch(arguments["datapath"])
        until = self.now() + arguments["wait_s"]

        def look() -> None:
            if self.table.attached(switch, router):
                reply.ok(attached=True)
            elif self.now() >= until:
                reply.ok(attached=False)
            else:
                self.table.clock.later(0.01, look)

        look()
        return None

    def release(self, arguments: dict[str, Any], reply: Reply) -> Result:
        router = self._router(arguments["router"])
        switch = self._switch(arguments["datapath"])
        count = self.table.packets.deliver(switch, router, arguments["to"] or switch.name)
        dropped = self.table.packets.held[router.name].dropped
        switch.promises.confirmed(lambda error: reply.done(error, delivered=count, dropped=dropped))
        return None

    def read_held(self, arguments: dict[str, Any], _: Reply) -> Result:
        router, link = self._on_link(arguments)
        held = self.table.packets.held[router.name]
        held.passed_on(link.id, arguments["passed"])
        kept = held.of(link.id, self.now())
        return {
            "frames": [b64encode(one.frame).decode() for one in kept],
            "upto": kept[-1].number if kept else arguments["passed"],
        }

    def write_held(self, arguments: dict[str, Any], _: Reply) -> Result:
        router, link = self._on_link(arguments)
        switch = self._switch(arguments["datapath"])
        return {"taken": self.table.packets.give(switch, router, link, arguments["frames"])}

    def _on_link(self, arguments: dict[str, Any]) -> tuple[Router, Link]:
        router, name = self._router(arguments["router"]), arguments["link"]
        if router.on(name) is None:
            raise ManagementError("bad-argument", f"link: {router.name} is not on {name!r}")
        return router, self.network.links[name]

    def read_flows(self, arguments: dict[str, Any], reply: Reply) -> Result:
        router = self._router(arguments["router"])
        switch = self._switch(arguments["datapath"])

        def answer(stats: Answer) -> None:
            if isinstance(stats, NotAnsweredError):
                reply.refuse("refused", str(stats))
                return
            own = [s.flow for s in stats if _moves_along(s.flow, router)]
            reply.ok(flows=[b64encode(build.flow_mod(flow)).decode() for flow in own])

        switch.reader.stats(answer, cookie=cookies.of(0, router.id), mask=cookies.ROUTER_MASK)
        return None

    def write_flows(self, arguments: dict[str, Any], reply: Reply) -> Result:
        switch = self._switch(arguments["datapath"])
        ports = {int(key): int(value) for key, value in arguments["ports"].items()}
        try:
            count = switch.adopt(arguments["flows"], ports)
        except wire.WireError as error:
            raise ManagementError("bad-argument", f"flows: {error}") from None
        switch.promises.confirmed(lambda error: reply.done(error, written=count))
        return None

    def quiet(self, arguments: dict[str, Any], reply: Reply) -> Result:
        router = self._router(arguments["router"])
        switch = self._switch(arguments["datapath"])
        started = self.now()
        seen: list[int] = []

        def counted(packets: int) -> None:
            waited_s = round(self.now() - started, 3)
            seen.append(packets)
            quiet = len(seen) >= 3 and seen[-1] == seen[-2] == seen[-3]
            if quiet or (waited_s > QUIET_LIMIT_S and len(seen) >= QUIET_LOOKS):
                reply.ok(
                    quiet=quiet,
                    packets=packets,
                    last=seen[-1] - seen[-2],
                    looks=len(seen),
                    waited_s=waited_s,
                )
            else:
                look()

        def look() -> None:
            self._arrived(switch, router, counted, lambda error: reply.refuse("refused", error))

        look()
        return None

    def _arrived(
        self,
        switch: Switch,
        router: Router,
        then: Callable[[int], None],
        failed: Callable[[str], None],
    ) -> None:
        """How many packets have arrived for a router on a switch, counted up to now."""

        def read(error: str | None) -> None:
            if error:
                failed(error)
            else:
                switch.reader.arrivals(router, give)

        def give(packets: int | NotAnsweredError) -> None:
            if isinstance(packets, NotAnsweredError):
                failed(str(packets))
            else:
                then(packets)

        switch.promises.counted(read)

    def suspending(self, arguments: dict[str, Any], reply: Reply) -> Result:
        switch = self._switch(arguments["datapath"])
        router = self._router(arguments["router"])
        self.table.packets.announced(switch, router, arguments["suspended"], reply.done)
        return None

    # --- one migration at a time ------------------------------------------------------------------

    def lock(self, arguments: dict[str, Any], _: Reply) -> Result:
        router = self._router(arguments["router"])
        lease_s = arguments["lease_s"] or 30.0
        taken = self.leases.take(router.name, arguments["owner"], lease_s, arguments["entry"])
        placed = {s.name: s.placements.get(router.name) for s in self.table.switches.values()}
        return {**taken, "versions": {name: p.version for name, p in placed.items() if p}}

    def journal(self, arguments: dict[str, Any], _: Reply) -> Result:
        router = self._router(arguments["router"])
        return self.leases.note(
            router.name, arguments["owner"], arguments["lease_s"], arguments["entry"]
        )

    def unlock(self, arguments: dict[str, Any], _: Reply) -> Result:
        router = self._router(arguments["router"])
        self.leases.give_back(
            router.name, arguments["owner"], arguments["unfinished"], arguments["untouched"]
        )
        return {}


VERBS: dict[str, Verb] = {
    verb: getattr(ManagementService, {"import": "import_"}.get(verb, verb.replace("-", "_")))
    for verb in mg.VERBS
}


def _shown(router: Router, state: RouterState) -> tuple[list[str], list[str]]:
    """What is wrong with a router, and what of it passes through its VM, as it says itself.  One
    whose words cannot be shown is no reason to show none."""
    try:
        return problems(router, state), through_vm(router, state)
    except Exception as error:
        log.exception("%s: what it says cannot be shown", router.name)
        return [f"what it says cannot be shown ({type(error).__name__}: {error})"], []


def change_in_words(request: Request) -> str:
    """What a request changes, for the log; "" where nothing, or where it only goes on with what
    another has begun."""
    given = request.arguments
    match request.verb:
        case "rule-add" | "rule-replace":
            rule = given["rule"]
            named = ",".join(f"{k}={v}" for k, v in rule.get("match", {}).items()) or "everything"
            does = ",".join(map(str, rule.get("actions", ()))) or "drop"
            return (
                f"{request.verb} on {given['datapath']}: {rule['id']}, priority "
                f"{rule.get('priority', 0)}: {named}: {does}"
            )
        case "reload" if not given["dry_run"]:
            return "reload of the network file"
        case "rule-remove":
            return f"rule-remove on {given['datapath']}: {given['rule_id']}"
        case "place":
            place = given["placement"]
            where = ", ".join(given["datapaths"]) or "all switches here"
            return (
                f"place {place.router} (version {place.version}) on {where}: mode "
                f"{place.mode.value}, VM {place.vm}, forwarders {', '.join(place.forwarders)}, "
                f"links to {place.leads_to}"
            )
        case "mirror":
            on = "begins" if given["on"] else "ends"
            return f"mirror of {given['router']} to {given['to']} {on}"
        case "write-flows":
            count = len(given["flows"])
            return f"write-flows on {given['datapath']}: {count} of {given['router']}"
        case "write-held" if given["frames"]:
            count = len(given["frames"])
            return f"write-held on {given['datapath']}: {count} for {given['router']}"
        case "release":
            to = given["to"] or given["datapath"]
            return f"release on {given['datapath']}: packets held for {given['router']} go to {to}"
        case "lock" | "unlock":
            return f"{request.verb} {given['router']} for {given['owner']}"
        case "journal" if given["entry"] and "words" in given["entry"]:
            return f"migration of {given['router']}: {str(given['entry']['words'])[:200]!r}"
    return ""


def _moves_along(flow: Flow, router: Router) -> bool:
    """Whether a flow is one that a migration in the report's order copies to the destination."""
    if cookies.router_of(flow.cookie) != router.id:
        return False
    exact = cookies.kind_of(flow.cookie) == layout.REACTIVE_KIND
    return exact or layout.ROUTES <= flow.table <= layout.SIZES


def _address(family: int, value: int) -> str:
    return str(ipaddress.IPv4Address(value) if family == 4 else ipaddress.IPv6Address(value))


def _route_keys(state: RouterState, what: str | None) -> list[tuple[int, int]]:
    """(family, key in the state's table) of the routes that are asked for, in order."""
    if what is None:
        keys = [(4, key) for key in sorted(state.routes4)]
        return keys + [(6, key) for key in sorted(state.routes6)]
    net = ipaddress.ip_network(what)
    table = state.routes4 if net.version == 4 else state.routes6
    bits = net.max_prefixlen
    base = int(net.network_address)
    if "/" in what:
        wanted = [base << 8 | net.prefixlen]
    else:  # every route that covers the address, the longest first
        wanted = [(base >> bits - n << bits - n) << 8 | n for n in range(bits, -1, -1)]
    return [(net.version, key) for key in wanted if key in table]


def _route_row(state: RouterState, family: int, key: int) -> dict[str, Any]:
    table = state.routes4 if family == 4 else state.routes6
    return {"prefix": f"{_address(family, key >> 8)}/{key & 255}", "nexthop": table[key]}


def _flow_row(stats: FlowStats, owner: Owner) -> dict[str, Any]:
    flow = stats.flow
    return {
        "table": flow.table,
        "name": layout.TABLE_NAMES[flow.table] if flow.table < len(layout.TABLE_NAMES) else "",
        "priority": flow.priority,
        "match": fl.match_text(flow.match),
        "actions": fl.actions_text(flow.actions),
        "cookie": f"{flow.cookie:#018x}",
        "owner": str(owner),
        "packets": stats.packets,
        "bytes": stats.octets,
        "age_s": round(stats.duration_s, 3),
        "text": fl.text(flow),
    }
