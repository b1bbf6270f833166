"""What a switch does with a packet, table by table, in words: the `trace` verb.

Nothing is sent.  The packet runs through the flows as they are installed, by `pure.simulate`,
which does what Open vSwitch does; of the routes only those that cover its destination are looked
at, however many there are.  Called by `management_service`.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from xenflow.pure import flow as fl
from xenflow.pure import packet as pk
from xenflow.pure import pipeline, simulate
from xenflow.pure.management import ManagementError
from xenflow.pure.network import Router
from xenflow.pure.openflow import RoutePacker
from xenflow.rule_table import RuleTable
from xenflow.switch import Switch

EXPLAIN = {
    pipeline.INGRESS: "which virtual link did it arrive on?",
    pipeline.ADMISSION: "whose frame is it: a router's of this host, or in transit?",
    pipeline.CLASSES: "data, or something only the VM can decide?",
    pipeline.ROUTES: "the longest prefix that covers the destination",
    pipeline.NEXT_HOPS: "is the next hop resolved? then TTL and MAC addresses are rewritten",
    pipeline.LEGS: "which leg of the equal-cost group",
    pipeline.SIZES: "too large for a narrow interface?",
    pipeline.LINKS: "where the virtual link leaves this host",
    pipeline.VM: "to the VM: its vif, the host where it is, or held while it is suspended",
}


def trace(table: RuleTable, arguments: dict[str, Any]) -> dict[str, Any]:
    """Steps and outcome for the packet of a `trace` request.

    Raises ManagementError where the request does not fit the network.
    """
    packet = arguments["packet"]
    if arguments["router"] is not None:
        switch, router = _where(table, arguments["router"])
        link = _arrival_link(table, router, packet)
        interface = router.on(link)
        assert interface is not None
        numbers = switch.site().tree_ports(table.network.links[link])
        numbers += switch.site().access_ports(table.network.links[link])
        in_port = numbers[0] if numbers else 0
        tagged = in_port in switch.site().tree_ports(table.network.links[link])
        vlan = table.network.links[link].vlan if tagged else 0
        frame = _frame(packet, interface.mac, vlan)
    else:
        found = table.switches.get(arguments["datapath"])
        if found is None:
            raise ManagementError("unknown-datapath", f"no datapath {arguments['datapath']} here")
        switch = found
        in_port = _port(switch, arguments["in_port"])
        frame = _frame(packet, 0, packet.get("dl_vlan", 0))
    verdict = simulate.run(_tables(table, switch, frame), frame, in_port)
    names = {number: name for name, (number, _) in switch.ports.items()}
    return {
        "datapath": switch.name,
        "in_port": names.get(in_port, str(in_port)),
        "steps": [_step(step) for step in verdict.trace],
        "outcome": _outcome(verdict, names),
    }


def _where(table: RuleTable, name: str) -> tuple[Switch, Router]:
    router = table.network.routers.get(name)
    if router is None:
        raise ManagementError("unknown-router", f"unknown router {name}")
    for switch in table.switches.values():
        if switch.forwards(name):
            return switch, router
    raise ManagementError("refused", f"no switch of this controller forwards for {name}")


def _arrival_link(table: RuleTable, router: Router, packet: dict[str, Any]) -> str:
    given = packet.get("link")
    if given is not None:
        if router.on(given) is None:
            links = ", ".join(i.link for i in router.interfaces)
            raise ManagementError("bad-argument", f"{router.name} is on {links}, not on {given}")
        return str(given)
    source = packet.get("nw_src")
    state = table.state(router.name)
    if source and state and ":" not in source:
        address = int(ipaddress.IPv4Address(source))
        for key, hop in sorted(state.routes4.items(), key=lambda item: -(item[0] & 255)):
            length = key & 255
            if length and address >> 32 - length == key >> 8 + 32 - length:
                record = state.nexthops[hop]
                known = record.ifindex in state.interfaces
                mac = state.interfaces[record.ifindex].mac if known else 0
                for interface in router.interfaces:
                    if interface.mac == mac:
                        return interface.link
    return router.interfaces[0].link


def _frame(packet: dict[str, Any], to_mac: int, vlan: int) -> bytes:
    def mac(key: str, default: int) -> int:
        return int(packet[key].replace(":", ""), 16) if key in packet else default

    def address(key: str, default: str) -> int:
        return int(ipaddress.IPv4Address(packet.get(key, default)))

    src, dst = address("nw_src", "192.0.2.1"), address("nw_dst", "192.0.2.2")
    proto = packet.get("nw_proto", fl.UDP)
    sport, dport = packet.get("tp_src", 0), packet.get("tp_dst", 0)
    body = b""
    if proto == fl.UDP:
        body = pk.udp(src, dst, sport, dport)
    elif proto == fl.TCP:
        body = pk.tcp(src, dst, sport, dport)
    elif proto == fl.ICMP:
        body = pk.icmp(sport or 8, dport)
    whole = pk.ipv4(src, dst, proto, body, ttl=packet.get("nw_ttl", 64))
    source_mac, target_mac = mac("dl_src", 0x020000000001), mac("dl_dst", to_mac)
    frame = pk.ethernet(target_mac, source_mac, packet.get("dl_type", fl.IPV4), whole)
    return pk.vlan(frame, vlan) if vlan else frame


def _port(switch: Switch, name: str | int) -> int:
    if isinstance(name, int):
        return name
    if name not in switch.ports:
        known = ", ".join(sorted(switch.ports))
        raise ManagementError("bad-argument", f"{switch.name} has no port {name}: it has {known}")
    return switch.ports[name][0]


def _tables(table: RuleTable, switch: Switch, frame: bytes) -> simulate.Tables:
    tables = simulate.Tables(switch.installed.values())
    packer = RoutePacker(pipeline.ROUTES, pipeline.NEXT_HOPS, pipeline.ROUTE_PRIORITY)
    target = pk.parse(frame).nw_dst
    for name in switch.synced:
        state = table.state(name)
        router = table.network.routers[name]
        if state is None:
            continue
        for plen in range(33):
            net = target & pipeline.prefix_mask(plen)
            hop = state.routes4.get(net << 8 | plen)
            if hop is not None:
                tables.add(packer.route_flow(router.id, net, plen, hop, 0))
    return tables


def _step(step: simulate.Step) -> dict[str, Any]:
    number = step.table
    known = number < len(pipeline.TABLE_NAMES)
    return {
        "table": number,
        "name": pipeline.TABLE_NAMES[number] if known else "",
        "flow": fl.text(step.flow) if step.flow else None,
        "explanation": EXPLAIN.get(number, "") if step.flow else "no flow matches: dropped",
    }


def _outcome(verdict: simulate.Verdict, names: dict[int, str]) -> str:
    if not verdict.outputs:
        return "dropped"
    parts = []
    for where, frame in verdict.outputs:
        sent = pk.parse(frame)
        to = names.get(where, str(where)) if isinstance(where, int) else where
        tag = f", VLAN {sent.vlan_tci & 0xFFF}" if sent.vlan_tci else ""
        ttl = f", TTL {sent.nw_ttl}" if sent.dl_type == fl.IPV4 else ""
        parts.append(f"out by {to} to {fl.mac_text(sent.dl_dst)}{tag}{ttl}")
    return "; ".join(parts)
