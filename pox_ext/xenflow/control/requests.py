"""A request of the management interface: what its arguments name, and its one answer.

Called by `management_service`, and by the verbs in `shown` and `moves`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from xenflow.control.rule_table import RuleTable
from xenflow.model import management as mg
from xenflow.model.management import ManagementError, Request
from xenflow.model.network import Link, Router
from xenflow.routes.router_state import RouterState
from xenflow.switch.switch import Switch

log = logging.getLogger("xenflow.management")

Send = Callable[[bytes], None]
Result = Mapping[str, Any] | None
"""What a verb answers at once; None: it answers later."""

LONGEST_LINE = 1000
"""Of the log: a rule may have any number of actions."""


class Reply:
    """The answer to one request, given once, now or later; of one that changes something the log
    gets a line: what, who asked from where, what came of it."""

    def __init__(self, request: Request, send: Send, peer: str = "") -> None:
        self._id = request.id
        self._send = send
        self._what = change_in_words(request)
        self.who = " from ".join(filter(None, (request.by or "somebody", peer)))

    def _note(self, outcome: str) -> None:
        if self._what:
            line = f"{self._what}: {outcome}"
            line = line if line.isprintable() else ascii(line)
            log.info("%s (by %s)", line[:LONGEST_LINE], self.who)

    def ok(self, **result: Any) -> None:
        """It was done."""
        self._note("done")
        self._send(mg.reply(self._id, result))

    def part(self) -> None:
        """The answer is still to come."""
        self._send(mg.part(self._id))

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


class Named:
    """What arguments name, or the ManagementError that says why there is no such thing."""

    def __init__(self, table: RuleTable) -> None:
        self._table = table

    def router(self, name: str) -> Router:
        """A router of the network."""
        found = self._table.network.routers.get(name)
        if found is None:
            known = ", ".join(sorted(self._table.network.routers)) or "none"
            raise ManagementError("unknown-router", f"unknown router {name}: known: {known}")
        return found

    def state(self, router: Router) -> RouterState:
        """What a router has told of itself."""
        state = self._table.state(router.name)
        if state is None:
            words = f"{router.name}: its routes are not known to this controller (yet)"
            raise ManagementError("not-ready", words)
        return state

    def switch(self, name: str, connected: bool = True) -> Switch:
        """A switch of this controller's."""
        switch = self._table.switches.get(name)
        if switch is None:
            known = ", ".join(sorted(self._table.switches)) or "none"
            words = f"datapath {name} is not this controller's: it has {known}"
            raise ManagementError("unknown-datapath", words)
        if connected and switch.channel.connection is None:
            raise ManagementError("not-connected", f"{name}: the switch is not connected")
        return switch

    def both(self, arguments: dict[str, Any]) -> tuple[Router, Switch]:
        """The router, and the connected switch of the datapath."""
        return self.router(arguments["router"]), self.switch(arguments["datapath"])

    def on_link(self, arguments: dict[str, Any]) -> tuple[Router, Link]:
        """The router, and the link that it is on."""
        router, name = self.router(arguments["router"]), arguments["link"]
        if router.on(name) is None:
            raise ManagementError("bad-argument", f"link: {router.name} is not on {name!r}")
        return router, self._table.network.links[name]


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
            return f"write-flows on {given['datapath']}: {len(given['flows'])} of {given['router']}"
        case "write-held" if given["frames"]:
            return (
                f"write-held on {given['datapath']}: {len(given['frames'])} for {given['router']}"
            )
        case "release":
            to = given["to"] or given["datapath"]
            return f"release on {given['datapath']}: packets held for {given['router']} go to {to}"
        case "lock" | "unlock":
            return f"{request.verb} {given['router']} for {given['owner']}"
        case "journal" if given["entry"] and "words" in given["entry"]:
            return f"migration of {given['router']}: {str(given['entry']['words'])[:200]!r}"
    return ""
