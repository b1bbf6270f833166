"""The dynamic management interface: which verb of docs/messages.md is answered by what.

`model.management` has checked a request before it gets here; a verb returns its result, or answers
later when the switches must speak first.  What shows is in `shown` and `trace`, what a migration
asks with in `moves`; rules, leases and the network file are here.  Called by the `Pump` of the
management socket; calls the `RuleTable`, and other controllers through `mirror`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from xenflow.control.hearing import Hearing
from xenflow.control.leases import Leases, LockedError
from xenflow.control.mirror import RouteMirrors
from xenflow.control.moves import Moves
from xenflow.control.planner_relay import PlannerRelay
from xenflow.control.requests import Named, Reply, Result, Send
from xenflow.control.rule_table import RuleTable
from xenflow.control.shown import Shown
from xenflow.control.store_follower import StoreFollower
from xenflow.control.trace import trace
from xenflow.model import management as mg
from xenflow.model.difference import NetworkDifference
from xenflow.model.management import ManagementError
from xenflow.model.network import Network, NetworkError
from xenflow.model.placement import StaleVersionError
from xenflow.store.line_file import StateError
from xenflow.switch.rules import Rule
from xenflow.switch.switch import Switch

log = logging.getLogger("xenflow.management")

_NO_STORE = (
    "this controller follows no store: where its network file names one by now, start the "
    "controller again; else use `xenflow reload`"
)


class ManagementService:
    """See the module."""

    def __init__(
        self,
        table: RuleTable,
        leases: Leases,
        core_name: str,
        mirrors: RouteMirrors,
        reload: Callable[[bool], tuple[Network, NetworkDifference]],
        follower: StoreFollower | None = None,
        relay: PlannerRelay | None = None,
    ) -> None:
        self.table = table
        self._reload = reload
        self._follower = follower
        self._relay = relay
        self._leases = leases
        self._named = Named(table)
        self._shown = shown = Shown(table, self._named, leases, core_name, follower)
        moves = Moves(table, self._named, mirrors)
        self._verbs: dict[str, Callable[[dict[str, Any], Reply], Result]] = {
            "status": shown.status,
            "routers": shown.routers,
            "routes": shown.routes,
            "nexthops": shown.nexthops,
            "links": shown.links,
            "flows": shown.flows,
            "trace": lambda arguments, _: trace(table, arguments),
            "rules": self._rules,
            "rule-add": partial(self._add_rule, replace=False),
            "rule-replace": partial(self._add_rule, replace=True),
            "rule-remove": self._remove_rule,
            "reload": self._read_again,
            "network": self._network,
            "apply": partial(self._planner, "apply"),
            "grow": partial(self._planner, "grow"),
            "confirm": partial(self._planner, "confirm"),
            "history": partial(self._planner, "history"),
            "events": partial(self._planner, "events"),
            "planner": partial(self._planner, "planner"),
            "laid": partial(self._planner, "laid"),
            "event": partial(self._planner, "event"),
            "undone": partial(self._planner, "undone"),
            "hears": Hearing(table.clock).hears,
            "place": moves.place,
            "import": moves.take_in,
            "mirror": moves.mirror,
            "ready": moves.ready,
            "attached": moves.attached,
            "release": moves.release,
            "read-held": moves.read_held,
            "write-held": moves.write_held,
            "read-flows": moves.read_flows,
            "write-flows": moves.write_flows,
            "quiet": moves.quiet,
            "suspending": moves.suspending,
            "lock": self._lock,
            "journal": self._journal,
            "unlock": self._unlock,
        }
        assert self._verbs.keys() == mg.VERBS.keys()

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
            result = self._verbs[request.verb](request.arguments, reply)
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
        self._leases.check(router, arguments["owner"])

    def _read_again(self, arguments: dict[str, Any], _: Reply) -> Result:
        network, found = self._reload(arguments["dry_run"])
        return {"digest": network.digest, "changed": found.json()}

    def _network(self, arguments: dict[str, Any], _: Reply) -> Result:
        if self._follower is None:
            raise NetworkError(_NO_STORE)
        return self._follower.network(arguments["rows"])

    def _planner(self, verb: str, arguments: dict[str, Any], reply: Reply) -> Result:
        if self._relay is None:
            raise NetworkError(_NO_STORE)
        self._relay.pass_on(verb, arguments, reply)
        return None

    # --- rules ------------------------------------------------------------------------------------

    def _rules(self, arguments: dict[str, Any], _: Reply) -> Result:
        name, switches = arguments["datapath"], list(self.table.switches.values())
        switches = [self._named.switch(name, connected=False)] if name else switches
        return {"rules": [{"datapath": s.name, **row} for s in switches for row in s.rules.rows()]}

    def _add_rule(self, arguments: dict[str, Any], reply: Reply, replace: bool) -> Result:
        switch = self._named.switch(arguments["datapath"])
        changed = switch.rules.with_rule(arguments["rule"], switch.site(), replace)
        return self._write_rules(switch, *changed, reply)

    def _remove_rule(self, arguments: dict[str, Any], reply: Reply) -> Result:
        switch = self._named.switch(arguments["datapath"])
        return self._write_rules(switch, *switch.rules.without(arguments["rule_id"]), reply)

    def _write_rules(self, switch: Switch, row: Rule, rows: list[Rule], reply: Reply) -> Result:
        self.table.rule(switch, rows)
        switch.promises.in_force(lambda error: reply.done(error, rule=row))
        return None

    # --- one migration at a time ------------------------------------------------------------------

    # Of any name: while a router is stopped, or is no more, its VM may be there.

    def _lock(self, arguments: dict[str, Any], _: Reply) -> Result:
        name, lease_s = arguments["router"], arguments["lease_s"] or 30.0
        owner, entry, term = (arguments[key] for key in ("owner", "entry", "term"))
        taken = self._leases.take(name, owner, lease_s, entry, term)
        placed = {s.name: s.placements.get(name) for s in self.table.switches.values()}
        versions = {switch: p.version for switch, p in placed.items() if p}
        return {**taken, "versions": versions, "digest": self._shown.digest}

    def _journal(self, arguments: dict[str, Any], _: Reply) -> Result:
        name, owner = arguments["router"], arguments["owner"]
        return self._leases.note(name, owner, arguments["lease_s"], arguments["entry"])

    def _unlock(self, arguments: dict[str, Any], _: Reply) -> Result:
        name, owner = arguments["router"], arguments["owner"]
        self._leases.give_back(name, owner, arguments["unfinished"], arguments["untouched"])
        return {}
