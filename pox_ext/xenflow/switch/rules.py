"""Rules an operator puts into a switch by hand, above what follows from the routers.

The report's dynamic management interface inserts, updates and removes rules at run time; one of
its uses is a flow that a node must only switch: passed to the next node as it is.  A rule names
ports by name and is translated to the switch's numbers whenever those change.
Called by `management_service` and `switch`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from xenflow.model.management import ManagementError
from xenflow.model.values import mac_number
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Action, Flow, FlowError, Flows, Key
from xenflow.tables import cookies, frames, layout
from xenflow.tables.operator_rule import sweep
from xenflow.tables.site import Site

Rule = dict[str, Any]


class Rules:
    """The rules of one switch, by id."""

    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}
        self.lost: set[int] = set()
        """Ids (`cookies.rule_id`) of rules that the switch was found with and that are not known
        here, until the rules are changed."""
        self._known: set[int] = set()
        """Ids of all that ever were known here, or lost before the last change."""

    def rows(self) -> list[Rule]:
        """As they were given."""
        return list(self._rules.values())

    def restore(self, rules: list[Rule]) -> None:
        """Have these rules, which were kept before, and no others."""
        self._rules = {rule["id"]: _kept(rule) for rule in rules}
        self._known |= self.lost | set(map(cookies.rule_id, self._rules))
        self.lost = set()

    def found(self, flows: Iterable[Flow]) -> None:
        """A switch was found with these flows of ours."""
        owners = (cookies.owner_of(flow.cookie) for flow in flows if flow.table == layout.INGRESS)
        self.lost |= {number for kind, number in owners if kind == cookies.RULE} - self._known

    def with_rule(self, rule: Rule, site: Site, replace: bool) -> tuple[Rule, list[Rule]]:
        """The rule as it is kept, and all rules with it added, or in place of the one with its id.
        Nothing is changed.

        Raises ManagementError where it cannot be a flow, is (not) there already, or matches as
        another one does with the same priority: a switch holds one flow of both.
        """
        name = rule["id"]
        if replace and name not in self._rules:
            raise ManagementError("unknown-rule", f"{site.name} has no rule {name} to replace")
        if not replace and name in self._rules:
            raise ManagementError("refused", f"{site.name} has a rule {name} already: replace it")
        kept = _kept(rule)
        try:
            key = _flow(kept, site).key
        except _NO_FLOW as error:
            raise ManagementError("bad-argument", f"rule {name}: {error}") from None
        if other := self._matching(key, site) - {name}:
            raise ManagementError(
                "refused",
                f"{site.name} has a rule {other.pop()} with the same match and priority: a switch "
                "holds one of them only: replace that one, or take another priority",
            )
        return kept, list({**self._rules, name: kept}.values())

    def _matching(self, key: Key, site: Site) -> set[str]:
        """The ids of the rules whose flow has this key."""
        found = set()
        for name, rule in self._rules.items():
            with suppress(*_NO_FLOW):  # a port that is gone
                if _key(rule, site) == key:
                    found.add(name)
        return found

    def sweeping(self) -> list[str]:
        """The ids of the rules that decide for everything (`operator_rule.sweep`)."""
        return [name for name, rule in self._rules.items() if sweep(rule["match"])]

    def without(self, name: str) -> tuple[Rule, list[Rule]]:
        """A rule, and all the others.  Nothing is changed.  ManagementError where there is none."""
        if name not in self._rules:
            known = ", ".join(self._rules) or "none"
            raise ManagementError("unknown-rule", f"no rule {name}: there is {known}")
        return self._rules[name], [rule for rule in self._rules.values() if rule["id"] != name]

    def flows(self, site: Site) -> tuple[Flows, dict[str, str]]:
        """The flows of all rules whose ports exist now; and the ids of the rules that match as an
        earlier one does with the same priority, now that their ports exist, each with that one's
        id.  Of those the earlier one has the flow: it could not be added after the other, either.
        """
        flows: Flows = {}
        first: dict[Key, str] = {}
        later: dict[str, str] = {}
        for name, rule in self._rules.items():
            with suppress(*_NO_FLOW):  # a port that is gone; the rule waits for it
                flow = _flow(rule, site)
                if first.setdefault(flow.key, name) == name:
                    flows[flow.key] = flow
                else:
                    later[name] = first[flow.key]
        return flows, later

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)


_NO_FLOW = (ValueError, TypeError)
"""What is raised of a rule that makes no flow: what was kept may be a file that somebody wrote."""


def _kept(rule: Rule) -> Rule:
    return {
        "id": rule["id"],
        "priority": rule.get("priority", 0),
        "match": rule.get("match", {}),
        "actions": rule.get("actions", []),
    }


def _key(rule: Rule, site: Site) -> Key:
    """The key of a rule's flow.  FlowError where there can be none, or no such port is there."""
    priority = layout.Ingress.RULE + int(rule["priority"])
    fields = {key: _field(key, value, site) for key, value in rule["match"].items()}
    what = f.match(**{_RENAMED.get(key, key): value for key, value in fields.items()})
    return layout.INGRESS, priority, what


def _flow(rule: Rule, site: Site) -> Flow:
    key = _key(rule, site)
    actions = tuple(_action(text, site) for text in rule["actions"] if text != "drop")
    return Flow(*key, actions, cookies.of_rule(rule["id"]))


_RENAMED = {"dl_vlan": "vlan_tci"}
_NUMBERS = {"dl_type", "nw_proto", "nw_tos", "tp_src", "tp_dst"}


def _field(key: str, value: Any, site: Site) -> int | tuple[int, int]:
    if key == "in_port":
        return _port(str(value), site)
    if key in ("dl_src", "dl_dst"):
        return mac_number(str(value))
    if key in ("nw_src", "nw_dst"):
        net = ipaddress.IPv4Network(str(value))
        return int(net.network_address), int(net.netmask)
    if key == "dl_vlan":
        return frames.tagged(int(value))
    if key in _NUMBERS:
        return int(str(value), 0)
    raise FlowError(f"{key}: no field of a rule: use in_port, dl_*, nw_* or tp_*")


def _action(text: Any, site: Site) -> Action:
    name, _, value = str(text).partition(":")
    if name == "normal":
        return f.normal()
    if name == "strip-vlan":
        return f.strip_vlan()
    if name == "output":
        return f.output(_port(value, site))
    if name == "vlan":
        return f.set_vlan(int(value))
    if name in ("dl-src", "dl-dst"):
        mac = mac_number(value)
        return f.set_dl_src(mac) if name == "dl-src" else f.set_dl_dst(mac)
    if name == "queue":
        port, _, queue = value.partition(":")
        return f.enqueue(_port(port, site), int(queue))
    raise FlowError(
        f"action {text}: expected drop, normal, output:PORT, queue:PORT:QUEUE, vlan:ID, "
        "strip-vlan, dl-src:MAC or dl-dst:MAC"
    )


def _port(name: str, site: Site) -> int:
    if name.isdigit():
        return int(name)
    try:
        return site.ports[name]
    except KeyError:
        known = ", ".join(sorted(site.ports))
        raise FlowError(f"port {name}: {site.name} has {known}") from None
