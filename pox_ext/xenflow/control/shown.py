"""The verbs that show what there is: routers, routes, next hops, links, flows.

They change nothing.  Called by `management_service`.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from typing import Any

from xenflow.control.leases import Leases
from xenflow.control.requests import Named, Reply, Result
from xenflow.control.rule_table import RuleTable
from xenflow.control.store_follower import StoreFollower
from xenflow.model.network import Router
from xenflow.model.placement import to_json
from xenflow.model.values import mac_text
from xenflow.openflow import flow as fl
from xenflow.openflow import wire
from xenflow.openflow.statistics import FlowStats
from xenflow.routes.family import FAMILIES, V6, prefix_text
from xenflow.routes.messages import NextHopType
from xenflow.routes.router_state import RouterState
from xenflow.switch.channel import Answer, NotAnsweredError
from xenflow.switch.switch import Switch
from xenflow.tables import cookies, layout
from xenflow.tables.pipeline import Owner
from xenflow.tables.views import Cards, problems, through_vm
from xenflow.vm import hold

log = logging.getLogger("xenflow.management")


class Shown:
    """See the module."""

    def __init__(
        self,
        table: RuleTable,
        named: Named,
        leases: Leases,
        core_name: str,
        follower: StoreFollower | None,
    ) -> None:
        self._table = table
        self._named = named
        self._leases = leases
        self._core_name = core_name
        self._follower = follower
        self._now = table.clock.now
        self._started = self._now()

    @property
    def digest(self) -> str:
        """Of the network, with what waits for a move to end."""
        return (self._follower and self._follower.digest) or self._table.network.digest

    def status(self, arguments: dict[str, Any], _: Reply) -> Result:
        only, routers = arguments["router"], self._table.network.routers
        return {
            "controller": self._table.controller,
            "digest": self.digest,
            "core": self._core_name,
            "pid": os.getpid(),
            "uptime_s": round(self._now() - self._started, 3),
            "searching": self._table.searching(),
            "datapaths": [self._datapath_row(s) for s in self._table.switches.values()],
            "routers": self._router_rows(only),
            "placements": [
                {"datapath": s.name, **to_json(p)}
                for s in self._table.switches.values()
                for p in s.placements.values()
                if only in (None, p.router) or p.has_left(routers[p.router])
            ],
            "migrations": self._leases.rows(),
            "problems": self._table.problems.of(),
            "store": self._follower.status() if self._follower is not None else None,
        }

    def _datapath_row(self, switch: Switch) -> dict[str, Any]:
        return {
            "name": switch.name,
            "dpid": f"{switch.datapath.dpid:016x}",
            "kind": switch.datapath.kind.value,
            "connected": switch.channel.connection is not None,
            "pipeline": switch.datapath.pipeline.value,
            "ports": {n: {"number": k, "up": up} for n, (k, up) in sorted(switch.ports.items())},
            "flows": len(switch.installed.flows)
            + sum(len(s.routes) for r in switch.routes.synced if (s := self._table.state(r))),
            "pending": switch.jobs.busy,
            "in_sync": switch.live and not switch.jobs.busy and not switch.audit.pending,
            "changing": switch.changing,
            "flow_mods": switch.channel.flow_mods,
            "errors": switch.errors,
            "audit": switch.audit.row(self._now()),
            "problems": switch.problems.of(),
            "sweeping": switch.rules.sweeping(),
            "packet_ins_dropped": switch.packet_ins.dropped,
        }

    def _router_rows(self, only: str | None = None) -> list[dict[str, Any]]:
        now = self._now()
        rows = []
        for name, feed in self._table.feeds.items():
            if only not in (None, name):
                continue
            state, router = feed.state, self._table.network.routers[name]
            view = self._table.view(name)
            wrong, through = _shown(router, state) if view else ([], [])
            held = self._table.packets.held[name]
            source = self._table.last_source.get(name, "mirror")
            rows.append(
                {
                    "name": name,
                    "epoch": state.epoch,
                    "seq": state.seq,
                    "age_s": None if feed.heard is None else round(now - feed.heard, 3),
                    "stale": feed.stale(now),
                    "phase": feed.phase.value,
                    "routes": len(state.routes),
                    "nexthops": len(state.nexthops),
                    "neighbours": len(state.neighbours),
                    "slow": view.v4.slow if view else "",
                    "down": list(view.v4.down) if view else [],
                    "slow6": view.v6.slow if view else "",
                    "down6": list(view.v6.down) if view else [],
                    "problems": self._table.problems_of(name) + wrong,
                    "through_vm": through,
                    "sessions": self._table.packets.sessions[name].rows(now),
                    "feed": "none" if feed.heard is None else source,
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

    def routers(self, _: dict[str, Any], __: Reply) -> Result:
        return {"routers": self._router_rows()}

    def routes(self, arguments: dict[str, Any], _: Reply) -> Result:
        state = self._named.state(self._named.router(arguments["router"]))
        keys = _route_keys(state, arguments["match"])
        start = arguments["offset"]
        rows = [_route_row(state, key) for key in keys[start : start + arguments["limit"]]]
        return {"routes": rows, "total": len(keys)}

    def nexthops(self, arguments: dict[str, Any], _: Reply) -> Result:
        router = self._named.router(arguments["router"])
        state = self._named.state(router)
        rows = []
        cards = Cards(router, state)
        for hop in state.nexthops.values():
            interface = cards.interfaces.get(hop.ifindex)
            rows.append(
                {
                    "id": hop.id,
                    "type": NextHopType(hop.type).name.lower(),
                    "family": hop.family,
                    "interface": interface.name if interface else None,
                    "gateway": FAMILIES[hop.family].text(hop.gateway)
                    if hop.gateway and hop.type is not NextHopType.VM
                    else None,
                    "mac": mac_text(hop.mac) if hop.mac else None,
                    "resolved": bool(hop.mac) or hop.type is not NextHopType.VIA,
                    "legs": [leg.leg for leg in state.legs.get(hop.id, {}).values()],
                    "routes": state.uses[hop.id],
                    "neighbours": [
                        {"address": FAMILIES[n.family].text(n.address), "mac": mac_text(n.mac)}
                        for n in state.neighbours.values()
                        if hop.type is NextHopType.CONNECTED
                        and (n.ifindex, n.family) == (hop.ifindex, hop.family)
                        and n.resolved
                    ],
                }
            )
        return {"nexthops": rows}

    def links(self, _: dict[str, Any], __: Reply) -> Result:
        rows = []
        for link in self._table.network.links.values():
            tree = {}
            for switch in self._table.switches.values():
                numbers = switch.site().tree_ports(link) + switch.site().access_ports(link)
                names = switch.ports.names
                tree[switch.name] = [names[n] for n in numbers]
            members = [f"{r.name}:{i.name}" for r, i in self._table.network.members(link.name)]
            members += [str(a.end) for a in link.access]
            row = {"name": link.name, "id": link.id, "vlan": link.vlan}
            rows.append({**row, "tree": tree, "members": members})
        return {"links": rows}

    def flows(self, arguments: dict[str, Any], reply: Reply) -> Result:
        switch = self._named.switch(arguments["datapath"])
        cookie, mask = cookies.MAGIC, cookies.MAGIC_MASK
        if arguments["router"] is not None:
            cookie = cookies.of(0, self._named.router(arguments["router"]).id)
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


def _shown(router: Router, state: RouterState) -> tuple[list[str], list[str]]:
    """What is wrong with a router, and what of it passes through its VM, as it says itself.  One
    whose words cannot be shown is no reason to show none."""
    try:
        return problems(router, state), through_vm(router, state)
    except Exception as error:
        log.exception("%s: what it says cannot be shown", router.name)
        return [f"what it says cannot be shown ({type(error).__name__}: {error})"], []


def _route_keys(state: RouterState, what: str | None) -> list[int]:
    """The keys of the routes that are asked for, in order."""
    if what is None:
        return sorted(state.routes, key=lambda key: (key & 0xFF >= V6.shortest, key))
    net = ipaddress.ip_network(what)
    family = FAMILIES[net.version]
    base, bits = int(net.network_address), family.bits
    if "/" in what:
        wanted = [base << 8 | family.span(net.prefixlen)]
    else:  # every route that covers the address, the longest first
        wanted = [(base >> bits - n << bits - n) << 8 | family.span(n) for n in range(bits, -1, -1)]
    return [key for key in wanted if key in state.routes]


def _route_row(state: RouterState, key: int) -> dict[str, Any]:
    return {"prefix": prefix_text(key >> 8, key & 0xFF), "nexthop": state.routes[key]}


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
