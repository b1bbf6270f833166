"""The reactive pipeline: the first packet of a flow comes here, as in the report (section 4.1).

The switch has classified it already (`pipeline`, tables INGRESS to CLASSES): it is data for a
router of this host, by one of its links (`sent_up.Question`).  The answer is one exact flow of the
twelve OpenFlow 1.0 fields (of IPv6 those that stand for them), with an idle timeout, and the packet
itself, in one write.  What the
tables cannot decide goes to the VM, and no flow is made.

A decision depends on the link, the destination and the port the packet came from, never on more;
so decisions are kept until something changes.  Mostly it is the same for all destinations of one
next hop, so a destination that is new costs little more than its longest prefix.  The flows that
may follow from what has changed since are deleted by `exact_flows`.

A next hop that is another router of this same host is left to the tables: the packet is sent
through them, one by one, without a flow.
"""

from __future__ import annotations

from xenflow.model.network import Interface, Link, Router
from xenflow.openflow import build
from xenflow.openflow import flow as f
from xenflow.openflow.exact_flows import ExactFlowPacker, PlainExactFlowPacker
from xenflow.openflow.flow import Actions
from xenflow.openflow.nxm import pack_actions
from xenflow.routes.family import V4, V6, Family, family_of, netmask
from xenflow.routes.router_state import RouterState
from xenflow.tables import cookies, layout, plain_host
from xenflow.tables.layout import Reg
from xenflow.tables.plain_switch import plain_send
from xenflow.tables.sent_up import Question
from xenflow.tables.shares import Shares
from xenflow.tables.site import Site
from xenflow.tables.stations import port_of
from xenflow.tables.views import next_hop_view

IDLE_TIMEOUT_S = 10
MAX_DECISIONS = 200_000

Decision = tuple[bytes, int]
"""Packed actions and the flow's cookie; a cookie of 0 means: no flow, only the packet."""


class Reactive:
    """Answers the packet-ins of one switch.  `states` gives the routers' states by name."""

    packer: type[PlainExactFlowPacker] = ExactFlowPacker
    """What packs the answers."""
    ttl: Actions = (f.dec_ttl(),)
    """What is done with the TTL of a packet that is routed."""

    def __init__(self, site: Site, states: dict[str, RouterState]) -> None:
        self.site = site
        self.states = states
        self._packer = self.packer(layout.INGRESS, layout.Ingress.EXACT, IDLE_TIMEOUT_S)
        self._lengths: dict[tuple[str, Family], list[tuple[int, int]]] = {}
        self._decisions: dict[tuple[int, int, int, bytes], Decision] = {}
        self._of_hop: dict[tuple[str, int, int, int | None], Decision] = {}
        self._untagged: set[int] = set()
        for link in site.network.links.values():
            self._untagged.update(site.access_ports(link))
            self._untagged.update(
                site.ports[interface.vif]
                for _, interface in site.network.members(link.name)
                if interface.vif in site.ports
            )

    def answer(self, asked: Question) -> bytes | None:
        """The messages that answer a packet-in; None where it is for no router here."""
        router, link, in_port, frame = asked
        six = frame[12:14] == b"\x86\xdd"
        target = frame[38:54] if six else frame[30:34]
        key = in_port, router.id, link.id, target
        decision = self._decisions.get(key)
        if decision is None:
            family = V6 if six else V4
            if not self.site.forwards(router.name) or len(target) * 8 < family.bits:
                return None
            to = int.from_bytes(target, "big")
            decision = self._decide(router, link, in_port, family, to)
            if len(self._decisions) >= MAX_DECISIONS:
                self._decisions.clear()
            self._decisions[key] = decision
        actions, cookie = decision
        if not cookie:
            return build.packet_out(frame, actions, in_port)
        if in_port not in self._untagged:  # the flow matches what comes by a cable
            frame = b"".join((frame[:12], b"\x81\0", link.vlan.to_bytes(2, "big"), frame[12:]))
        return self._packer.pack(frame, in_port, actions, cookie)

    def _decide(
        self, router: Router, link: Link, in_port: int, family: Family, target: int
    ) -> Decision:
        hop = self._lookup(router.name, family, target)
        key = router.name, link.id, in_port, hop
        decision = self._of_hop.get(key)
        if decision is None:
            decision, any_target = self._decide_hop(router, link, in_port, target, hop)
            if any_target:
                self._of_hop[key] = decision
        return decision

    def _decide_hop(
        self, router: Router, link: Link, in_port: int, target: int, hop: int | None
    ) -> tuple[Decision, bool]:
        """The decision, and whether it is the same for all destinations of this next hop."""
        if not self.site.admits(router.name, link, in_port):
            return self._onward(router, link), True
        state = self.states[router.name]
        record = state.nexthops.get(hop) if hop is not None else None
        if record is None:
            return self._to_vm(router, link), True
        view = next_hop_view(router, state, record)
        any_target = view.action != "group" and not view.neighbours
        for _ in range(8):  # groups of groups do not exist; a bound all the same
            if view.action != "group" or not view.legs:
                break
            shares = Shares.of(view.legs)
            leg = state.nexthops.get(shares.leg(_spread(router.id, target) % shares.count))
            if leg is None:
                return self._to_vm(router, link), any_target
            view = next_hop_view(router, state, leg)
        cookie = cookies.exact(router.id, hop or 0)
        if view.action == "drop":
            return (b"", cookie), any_target
        mac = dict(view.neighbours).get(target, view.mac)
        if view.action != "via" or view.interface is None or not mac:
            return self._to_vm(router, link), any_target
        if view.mtu:  # who is too large for it only the VM can tell
            return self._to_vm(router, link), any_target
        return self._route(view.interface, mac, in_port, cookie), any_target

    def _route(self, interface: Interface, mac: int, in_port: int, cookie: int) -> Decision:
        link = self.site.network.links[interface.link]
        rewrite = (*self.ttl, f.set_dl_src(interface.mac), f.set_dl_dst(mac))
        port = port_of(self.site, link, mac)
        if port is None:
            return self._through_tables(rewrite, link)
        tag = f.strip_vlan() if port in self._untagged else f.set_vlan(link.vlan)
        out = f.output(f.IN_PORT if port == in_port else port)
        return pack_actions((*rewrite, tag, out)), cookie

    def _through_tables(self, rewrite: Actions, link: Link) -> Decision:
        """To a next hop that is a router of this host."""
        onward = (
            f.load("in_port", 0),
            f.load(Reg.LINK_OUT, link.id),
            f.resubmit(layout.LINKS),
        )
        return pack_actions((*rewrite, *onward)), 0

    def _onward(self, router: Router, link: Link) -> Decision:
        """It was asked before the links were turned: it goes where they lead now, and no flow is
        made, which would go on after it."""
        onward = f.load(Reg.LINK_OUT, link.id), f.resubmit(layout.LINKS)
        return pack_actions(onward), 0

    def _to_vm(self, router: Router, link: Link) -> Decision:
        to_vm = (
            f.load(Reg.ROUTER, router.id),
            f.load(Reg.LINK_IN, link.id),
            f.resubmit(layout.VM),
        )
        return pack_actions(to_vm), 0

    def _lookup(self, name: str, family: Family, target: int) -> int | None:
        """The next hop of the longest prefix that covers the target."""
        routes = self.states[name].routes
        lengths = self._lengths.get((name, family))
        if lengths is None:
            present = sorted({key & 0xFF for key in routes}, reverse=True)
            lengths = [(span, netmask(span)) for span in present if family_of(span) is family]
            self._lengths[name, family] = lengths
        for span, mask in lengths:
            hop = routes.get((target & mask) << 8 | span)
            if hop is not None:
                return hop
        return None


class PlainReactive(Reactive):
    """Answers those of a switch that knows OpenFlow 1.0 alone."""

    packer = PlainExactFlowPacker
    ttl = ()

    def _through_tables(self, rewrite: Actions, link: Link) -> Decision:
        return b"", 0  # two routers behind one plain switch cannot be each other's next hop

    def _onward(self, router: Router, link: Link) -> Decision:
        interface = router.on(link.name)
        port = port_of(self.site, link, interface.mac) if interface else None
        return pack_actions(plain_send(self.site, link, port)), 0

    def _to_vm(self, router: Router, link: Link) -> Decision:
        return pack_actions(plain_host.to_vm(self.site, router, link)), 0


def _spread(router: int, target: int) -> int:
    """A number for a group's leg, each router with an order of its own: of two in a row the second
    would else use one leg only (the finalizer of MurmurHash3, so that no bit follows another)."""
    x = (target ^ target >> 32 ^ target >> 64 ^ target >> 96 ^ router * 0x9E3779B1) & 0xFFFFFFFF
    x = (x ^ x >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    x = (x ^ x >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ x >> 16
