"""What a switch does with a packet, table by table, in words: the `trace` verb.

Nothing is sent.  The packet runs through the flows as they are installed, by `tables.simulate`,
which does what Open vSwitch does; of the routes only those that cover its destination are looked
at, however many there are.  What a switch leaves to others is followed as far as it is known here:
the controller's answer in the reactive pipeline, a bridged link (native mode), a VM that forwards
by its own routes.  What leaves by a port is followed by whoever asks, who asks the next switch
(`mgmt.journey`).  Called by `management_service`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from xenflow.control.requests import Named
from xenflow.control.rule_table import RuleTable
from xenflow.model.management import ManagementError
from xenflow.model.network import End, Interface, Link, Router
from xenflow.model.placement import Mode
from xenflow.model.values import mac_number, mac_text
from xenflow.openflow import flow as fl
from xenflow.openflow import packet as pk
from xenflow.openflow import wire
from xenflow.openflow.flow import FlowError
from xenflow.openflow.nxm import parse_actions
from xenflow.openflow.parse import PacketIn
from xenflow.routes.family import V4, V6, Family, family_of, netmask, prefix_text
from xenflow.switch.reactive import IDLE_TIMEOUT_S
from xenflow.switch.switch import Switch
from xenflow.tables import cookies, explain, layout, simulate
from xenflow.tables.families import MATCHED, destination, family_in
from xenflow.tables.routes import route_flow
from xenflow.tables.sent_up import FromVm, Question
from xenflow.tables.stations import bridge_ports
from xenflow.tables.views import interface_of, next_hop_view

SOURCE_MAC = 0x020000000001
"""Of a packet whose sender is not known."""
BROADCAST = 0xFFFFFFFFFFFF
_ANYBODY = {V4: ("192.0.2.1", "192.0.2.2"), V6: ("2001:db8::1", "2001:db8::2")}
"""Source and destination where none is given: of no network (RFC 5737, RFC 3849)."""


def trace(table: RuleTable, arguments: dict[str, Any]) -> dict[str, Any]:
    """Steps, and what comes out, for the packet or frame of a `trace` request.

    Raises ManagementError where the request does not fit the network, or what the switch holds is
    not known.
    """
    if arguments["router"] is not None:
        switch, router = _where(table, arguments["router"], arguments["datapath"])
    else:
        switch, router = Named(table).switch(arguments["datapath"], connected=False), None
    if not switch.live:
        raise ManagementError(
            "not-connected",
            f"{switch.name}: what the switch holds is not known: it "
            + ("is being read" if switch.channel.connection is not None else "is not connected"),
        )
    if router is not None:
        in_port, frame = _at_router(table, switch, router, arguments["packet"])
    else:
        in_port = _port(switch, arguments["in_port"])
        if arguments["frame"] is not None:
            frame = arguments["frame"]
        else:
            frame = _at_port(table, switch, in_port, arguments["packet"])
    return _Trace(table, switch, frame).run(in_port, frame)


def _where(table: RuleTable, name: str, at: str | None) -> tuple[Switch, Router]:
    """A router, and the switch that forwards for it; `at`: the one that is meant."""
    named = Named(table)
    router = named.router(name)
    switches = [named.switch(at, connected=False)] if at else list(table.switches.values())
    for switch in switches:
        if switch.forwards(name):
            return switch, router
    for switch in switches:  # in native mode the VM forwards
        if switch.vm_of(name) == switch.name:
            return switch, router
    told = (switch.placements.get(name) for switch in table.switches.values())
    newest = max(filter(None, told), key=lambda placement: placement.version, default=None)
    known = f": its VM is on {newest.vm}" if newest else ""
    nobody = f"{at} does not forward" if at else "no switch of this controller forwards"
    raise ManagementError("refused", f"{nobody} for {name}{known}")


def _port(switch: Switch, name: str | int) -> int:
    if isinstance(name, int):
        return name
    if name not in switch.ports:
        known = ", ".join(sorted(switch.ports))
        raise ManagementError("bad-argument", f"{switch.name} has no port {name}: it has {known}")
    return switch.ports[name][0]


# --------------------------------------------------------------------------------------------
# The frame


def _at_router(
    table: RuleTable, switch: Switch, router: Router, packet: dict[str, Any]
) -> tuple[int, bytes]:
    """The packet as a router gets it from the link that it arrives on, and the port there."""
    link = table.network.links[_arrival_link(table, router, packet)]
    interface = router.on(link.name)
    assert interface is not None
    cables, access = switch.site().tree_ports(link), switch.site().access_ports(link)
    in_port = next(iter(cables + access), 0)
    vlan = link.vlan if in_port in cables else 0
    return in_port, _frame(packet, SOURCE_MAC, interface.mac, packet.get("dl_vlan", vlan))


def _arrival_link(table: RuleTable, router: Router, packet: dict[str, Any]) -> str:
    given = packet.get("link")
    if given is not None:
        if router.on(given) is None:
            links = ", ".join(i.link for i in router.interfaces)
            raise ManagementError("bad-argument", f"{router.name} is on {links}, not on {given}")
        return str(given)
    source = packet.get("nw_src")
    state = table.state(router.name)
    if source and state:
        hop = state.longest(_family(packet), int(ipaddress.ip_address(source)))
        record = state.nexthops.get(hop[1]) if hop else None
        interface = interface_of(router, state, record.ifindex) if record else None
        if interface is not None:
            return interface.link
    return router.interfaces[0].link


def _at_port(table: RuleTable, switch: Switch, in_port: int, packet: dict[str, Any]) -> bytes:
    """The packet as it comes in by a port, to whom a station there would send it."""
    name = switch.ports.names.get(in_port, "")
    link, sender, tagged = _link_at(table, switch, name, packet)
    family, target = _family(packet), packet.get("nw_dst")
    if "dl_dst" in packet or packet.get("dl_type", fl.IPV4) == fl.ARP:
        to = BROADCAST
    elif link is None:
        links = ", ".join(table.network.links)
        if vlan := packet.get("dl_vlan"):
            vlans = ", ".join(f"{k.vlan} ({k.name})" for k in table.network.links.values())
            said = f"VLAN {vlan} is no virtual link's: theirs are {vlans}; or give the MAC address "
            said += "that it is for (dmac)"
            raise ManagementError("bad-argument", said)
        raise ManagementError(
            "bad-argument",
            f"{switch.name}:{name or in_port} carries virtual links by VLAN: give "
            f"its link ({links}), its VLAN id, or the MAC address that it is for",
        )
    else:
        to = _addressee(table, link, family, int(ipaddress.ip_address(target or 0)), sender)
    vlan = packet.get("dl_vlan", link.vlan if link is not None and tagged else 0)
    return _frame(packet, sender or SOURCE_MAC, to, vlan)


def _link_at(
    table: RuleTable, switch: Switch, port: str, packet: dict[str, Any]
) -> tuple[Link | None, int, bool]:
    """The virtual link that a frame comes from by a port, the MAC address of who is there (0: not
    known), and whether it has the link's VLAN tag."""
    network = table.network
    given = packet.get("link")
    if given is not None and given not in network.links:
        known = ", ".join(network.links)
        raise ManagementError("bad-argument", f"no virtual link {given}: there are {known}")
    for link in network.links.values():
        for access in link.access:
            if access.end == End(switch.name, port):
                return link, next(iter(access.macs), 0), False
        for _, interface in network.members(link.name):
            if interface.vif == port:
                return link, interface.mac, False
    if given is not None:
        return network.links[given], 0, True
    vlan = packet.get("dl_vlan", 0)
    strays = map(network.links.__getitem__, network.links_by_label.get(vlan, ()))
    return network.labelled(vlan, switch.name) or next(strays, None), 0, True


def _addressee(table: RuleTable, link: Link, family: Family, target: int, sender: int) -> int:
    """The MAC address that a station of a link sends a packet to: that of the station that has
    the address, as some router knows it, else of the only router there."""
    if family is V6 and target >> 120 == 0xFF:
        return 0x333300000000 | target & 0xFFFFFFFF  # RFC 2464, section 7
    if family is V4 and target >> 28 == 0xE:
        return 0x01005E000000 | target & 0x7FFFFF  # RFC 1112, section 6.4
    if family is V4 and target == 0xFFFFFFFF:
        return BROADCAST
    members = [(r, i) for r, i in table.network.members(link.name) if i.mac != sender]
    for router, interface in table.network.members(link.name):
        view, state = table.view(router.name), table.state(router.name)
        if view is None or state is None:
            continue
        if (target, family.host, interface.name) in view.locals and interface.mac != sender:
            return interface.mac
        for near in state.neighbours.values():
            if (near.family, near.address) == (family.number, target) and near.mac:
                there = interface_of(router, state, near.ifindex)
                if there is not None and there.link == link.name:
                    return near.mac
    if len(members) == 1:
        return members[0][1].mac
    known = ", ".join(f"{mac_text(i.mac)} ({r.name})" for r, i in members)
    raise ManagementError(
        "bad-argument",
        f"link {link.name}: whom is it for? give its MAC address: {known or 'nobody known'}",
    )


def _frame(packet: dict[str, Any], from_mac: int, to_mac: int, vlan: int) -> bytes:
    def mac(key: str, default: int) -> int:
        if key not in packet:
            return default
        value = mac_number(packet[key])
        if not value or (key == "dl_src" and value >> 40 & 1):
            raise ManagementError("bad-argument", f"{key}: {packet[key]} is no station's address")
        return value

    family = _family(packet)
    src, dst = (
        int(ipaddress.ip_address(packet.get(key, default)))
        for key, default in zip(("nw_src", "nw_dst"), _ANYBODY[family], strict=True)
    )
    source_mac, target_mac = mac("dl_src", from_mac), mac("dl_dst", to_mac)
    dl_type = packet.get("dl_type", MATCHED[family].dl_type)
    others = (fl.IPV6,) if family is V4 else (fl.IPV4, fl.ARP)
    if dl_type in others:
        said = f"dl_type: {dl_type:#06x} is not of {family.name}, as the addresses are"
        raise ManagementError("bad-argument", said)
    try:
        if dl_type == fl.ARP:
            whole = pk.arp(1, source_mac, src, 0, dst)
        elif family is V4:
            whole = _ipv4(packet, src, dst)
        else:
            whole = _ipv6(packet, src, dst, source_mac)
    except pk.PacketError as error:  # the type and the code of ICMP are shorter than ports
        raise ManagementError("bad-argument", f"packet: {error}") from None
    frame = pk.ethernet(target_mac, source_mac, dl_type, whole)
    return pk.vlan(frame, vlan) if vlan else frame


def _family(packet: dict[str, Any]) -> Family:
    """That of the packet's addresses; without any, what its EtherType says."""
    known = packet.get("nw_dst") or packet.get("nw_src")
    if known is None:
        return V6 if packet.get("dl_type") == fl.IPV6 else V4
    return V6 if ":" in known else V4


def _ipv4(packet: dict[str, Any], src: int, dst: int) -> bytes:
    proto = packet.get("nw_proto", fl.UDP)
    sport, dport = packet.get("tp_src", 0), packet.get("tp_dst", 0)
    body = b""
    if proto == fl.UDP:
        body = pk.udp(src, dst, sport, dport)
    elif proto == fl.TCP:
        body = pk.tcp(src, dst, sport, dport)
    elif proto == fl.ICMP:
        body = pk.icmp(sport or 8, dport)
    flags = pk.MORE_FRAGMENTS if packet.get("fragment") else 0
    ttl, tos = packet.get("nw_ttl", 64), packet.get("nw_tos", 0)
    return pk.ipv4(src, dst, proto, body, ttl=ttl, tos=tos, flags=flags)


def _ipv6(packet: dict[str, Any], src: int, dst: int, source_mac: int) -> bytes:
    """`source_mac`: what a neighbour solicitation (RFC 4861, section 4.3) says of who asks for
    `dst`."""
    proto = packet.get("nw_proto", fl.UDP)
    sport, dport = packet.get("tp_src", 0), packet.get("tp_dst", 0)
    body, hops = b"", 64
    if proto == fl.UDP:
        body = pk.udp(src, dst, sport, dport)
    elif proto == fl.TCP:
        body = pk.tcp(src, dst, sport, dport)
    elif proto == fl.ICMPV6:
        said = bytes(4)
        if sport == fl.SOLICITATION:
            told = b"\1\1" + source_mac.to_bytes(6, "big")
            hops, said = 255, bytes(4) + dst.to_bytes(16, "big") + told
        body = pk.icmpv6(src, dst, sport or 128, dport, said)
    if packet.get("fragment"):  # the first one (RFC 8200, section 4.5)
        proto, body = 44, bytes((proto, 0, 0, 1, 0, 0, 0, 1)) + body
    hops, tclass = packet.get("nw_ttl", hops), packet.get("nw_tos", 0)
    return pk.ipv6(src, dst, proto, body, hops=hops, tclass=tclass)


# --------------------------------------------------------------------------------------------
# What becomes of it


class _Trace:
    """One packet through one switch."""

    def __init__(self, table: RuleTable, switch: Switch, frame: bytes) -> None:
        family = family_in(pk.parse(frame)) or V4
        self.table = table
        self.network = table.network
        self.switch = switch
        self.site = switch.site()
        self.ports = switch.ports.names
        views = {n: view for n, view in self.site.views.items() if switch.forwards(n)}
        slow = {name: view.of(family).slow for name, view in views.items()}
        self.words = explain.Names(self.network, switch.name, self.ports, slow)
        self.foreign = switch.audit.foreign.flows
        """Flows of somebody else, as far as they are known."""
        self.steps: list[dict[str, Any]] = []

    def run(self, in_port: int, frame: bytes) -> dict[str, Any]:
        tables = self._tables(frame)
        try:
            verdict = simulate.run(tables, frame, in_port)
            outputs = list(self._outputs(tables, in_port, verdict))
        except FlowError as error:  # ours have no such actions
            raise ManagementError(
                "refused",
                f"{self.switch.name}: it meets a flow of somebody else, and what that "
                f"does cannot be foretold: {error}",
            ) from None
        dropped = verdict.error or "dropped"
        return {
            "datapath": self.switch.name,
            "in_port": self.ports.get(in_port, str(in_port)),
            "steps": self.steps,
            "outputs": outputs,
            "outcome": "; ".join(out["words"] for out in outputs) or dropped,
        }

    def _tables(self, frame: bytes) -> simulate.Tables:
        """The flows that are installed, and of the routes those that cover the destination."""
        tables = simulate.Tables(self.switch.installed.flows.values())
        for flow in self.foreign.values():
            with suppress(FlowError):  # it looks at what no frame here has a name for
                tables.add(flow)
        if self.switch.kind.asks:
            return tables
        packet = pk.parse(frame)
        family, target = family_in(packet), destination(packet)
        if family is None:
            return tables
        for name in self.switch.routes.synced:
            state = self.table.state(name)
            router = self.network.routers[name]
            if state is None:
                continue
            for span in range(family.shortest, family.host + 1):
                net = target & netmask(span)
                hop = state.routes.get(net << 8 | span)
                if hop is not None:
                    tables.add(route_flow(router.id, net, span, hop, 0))
        return tables

    def _outputs(
        self, tables: simulate.Tables, in_port: int, verdict: simulate.Fate
    ) -> Iterator[dict[str, Any]]:
        self.steps += map(self._step, verdict.trace)
        packet_ins = iter(verdict.packet_ins)
        for where, frame in verdict.outputs:
            if where == "controller":
                yield from self._sent_up(tables, next(packet_ins))
            elif where == "normal":
                yield from self._bridged(in_port, frame)
            elif isinstance(where, int):
                yield self._leaves(where, frame)

    def _step(self, step: simulate.Lookup) -> dict[str, Any]:
        number = step.table
        known = number < len(layout.TABLE_NAMES)
        found = {
            "table": number,
            "name": layout.TABLE_NAMES[number] if known else "",
            "flow": fl.text(step.flow) if step.flow else None,
            "explanation": explain.explain(step, self.words),
        }
        if step.flow is not None and step.flow.key in self.foreign:
            found["explanation"] = f"a flow of somebody else: {explain.does(step, self.words)}"
        elif step.flow is not None and cookies.ours(step.flow.cookie):
            owner = self.switch.owner_of(step.flow.cookie)
            found["owner"] = str(owner)
            if owner.kind == "rule":
                found["rule"] = owner.name
                does = explain.does(step, self.words)
                found["explanation"] = f"the operator's {owner}: {does}"
        return found

    # --- by a port

    def _leaves(self, number: int, frame: bytes) -> dict[str, Any]:
        name = self.ports.get(number)
        if (found := self.network.vif(name or "")) is not None:
            return self._to_vm(*found, frame)
        up = name is not None and self.switch.ports[name][1]
        carrier = "" if up else ", which has no carrier" if name else ", which does not exist"
        return {
            "kind": "port",
            "port": name or str(number),
            "up": up,
            "frame": frame.hex(),
            "words": f"out by {name or number}{carrier} {_about(frame)}",
        }

    def _bridged(self, in_port: int, frame: bytes) -> Iterator[dict[str, Any]]:
        """What NORMAL does on a bridged link, once the bridge has learned where everybody is."""
        link = self._link_of(in_port, frame)
        if link is None or not self.site.native(link):
            yield {
                "kind": "bridge",
                "words": f"left to the switch's own bridge, which is not followed {_about(frame)}",
            }
            return
        bare = frame[:12] + frame[16:] if pk.parse(frame).vlan_tci else frame
        cables = self.site.tree_ports(link)
        for port in bridge_ports(self.site, link, pk.parse(frame).dl_dst):
            if port != in_port:
                yield self._leaves(port, pk.vlan(bare, link.vlan) if port in cables else bare)

    def _link_of(self, in_port: int, frame: bytes) -> Link | None:
        vlan = pk.parse(frame).vlan_tci & 0xFFF
        for link in self.network.links.values():
            if vlan and vlan == link.vlan and in_port in self.site.tree_ports(link):
                return link
            own = [self.site.ports.get(i.vif) for _, i in self.network.members(link.name)]
            if not vlan and in_port in (*self.site.access_ports(link), *own):
                return link
        return None

    # --- to the controller

    def _sent_up(self, tables: simulate.Tables, packet: PacketIn) -> Iterator[dict[str, Any]]:
        switch = self.switch
        what = switch.kind.sent_up(self.network, switch.name, switch.ports, packet)
        if what is None:
            yield {"kind": "copy", "words": "to the controller, which does nothing with it"}
        elif isinstance(what, Question):
            yield from self._asked(tables, what)
        elif isinstance(what, FromVm):
            words = (
                f"a copy to the controller, as {what.router.name}'s VM runs: a hello, to be "
                "repeated while it is suspended, or the first sign of it"
            )
            yield {"kind": "copy", "words": words}
        elif what.copied:
            words = "a copy to the controller, as the VM is about to be suspended"
            yield {"kind": "copy", "words": words}
        else:
            for router, _ in what.members:
                if self.switch.vm_of(router.name) == self.switch.name:
                    words = f"held by the controller until {router.name}'s VM takes frames again"
                    yield {"kind": "held", "router": router.name, "words": words}

    def _asked(self, tables: simulate.Tables, asked: Question) -> Iterator[dict[str, Any]]:
        """The reactive pipeline: what the controller answers to the first packet of a flow."""
        answer = self.switch.decisions.decide(asked)
        if answer is None:
            self._controller_says("it knows no router here that this is for: dropped")
            return
        messages = wire.split(answer)[0]
        for message in messages:
            if message[1] != wire.MessageType.PACKET_OUT:
                continue
            length = int.from_bytes(message[14:16], "big")
            actions, sent = parse_actions(message, 16, length), message[16 + length :]
            said = f"by the router's longest prefix it decides: {fl.actions_text(actions)}; "
            self._controller_says(
                said
                + (
                    "the packet is sent so, and an exact flow written, which takes the next ones "
                    f"of its kind until none came for {IDLE_TIMEOUT_S} s"
                    if len(messages) > 1
                    else "for this packet alone, without a flow"
                )
            )
            verdict = simulate.run_actions(tables, sent, asked.in_port, actions)
            yield from self._outputs(tables, asked.in_port, verdict)

    def _controller_says(self, words: str) -> None:
        step = {"table": None, "name": "controller", "flow": None, "explanation": words}
        self.steps.append(step)

    # --- to a VM

    def _to_vm(self, router: Router, interface: Interface, frame: bytes) -> dict[str, Any]:
        name = interface.vif
        words = f"to {router.name}'s VM, its interface {interface.name} (vif {name})"
        found: dict[str, Any] = {"kind": "vm", "router": router.name, "interface": interface.name}
        if not self.switch.ports.takes(name):
            return {**found, "words": f"{words}, which takes nothing now"}
        placement = self.switch.placements.get(router.name)
        view = self.table.view(router.name)
        family = family_in(pk.parse(frame))
        slow = view.of(family).slow if view is not None and family is not None else ""
        if slow:
            words += f", which forwards for itself ({slow})"
        elif placement is not None and placement.mode is Mode.NATIVE:
            said, onward = self._by_kernel(router, interface, frame)
            words += f", which forwards itself (native mode): {said}"
            if onward is not None:
                found["onward"] = onward
        return {**found, "words": f"{words} {_about(frame)}"}

    def _by_kernel(
        self, router: Router, interface: Interface, frame: bytes
    ) -> tuple[str, dict[str, Any] | None]:
        """What the VM's kernel does with a frame by its routes, and the frame that it sends on, at
        its vif; None where that ends there or is not known."""
        packet, state = pk.parse(frame), self.table.state(router.name)
        view = self.table.view(router.name)
        if state is None or view is None:
            return "its routes are not known here", None
        family, target = family_in(packet), destination(packet)
        if packet.dl_dst != interface.mac or family is None:
            return "for itself", None
        if any(target & netmask(s) == net for net, s, _ in view.locals if family_of(s) is family):
            return "for itself", None
        if packet.nw_ttl <= 1:
            return "its TTL runs out, which it answers", None
        route = state.longest(family, target)
        if route is None:
            return "no route, which it answers", None
        span, to = route
        said = f"by its route {prefix_text(target & netmask(span), span)}"
        hop = next_hop_view(router, state, state.nexthops[to])
        if hop.action == "group" and hop.legs:
            said += f", one of {len(hop.legs)} by equal cost, here the first"
            hop = next_hop_view(router, state, state.nexthops[hop.legs[0][0]])
        mac = dict(hop.neighbours).get(target, hop.mac)
        out = hop.interface
        if hop.action == "drop":
            return f"{said}, a blackhole: dropped", None
        if hop.action != "via" or out is None:
            return f"{said}, which is unreachable: it answers", None
        if not mac:
            return f"{said}, whose next hop it has to ask for", None
        fields = pk.fields(frame, 0)
        fields.update(nw_ttl=packet.nw_ttl - 1, dl_src=out.mac, dl_dst=mac)
        sent = simulate.rewrite(frame, packet, fields)
        return f"{said} on by {out.name}", {"port": out.vif, "frame": sent.hex()}


def _about(frame: bytes) -> str:
    sent = pk.parse(frame)
    tag = f", VLAN {sent.vlan_tci & 0xFFF}" if sent.vlan_tci else ""
    ttl = f", TTL {sent.nw_ttl}" if family_in(sent) is not None else ""
    return f"to {mac_text(sent.dl_dst)}{tag}{ttl}"
