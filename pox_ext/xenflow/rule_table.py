"""The Rule Table: what every virtual router knows, where every router is, and the switches.

Three things change it, each through one method, which reads as what happens:

    told      a router (or another controller's mirror) sent a route message
    place     the management entity says where a router is
    packet_in a switch asks

Each ends in `Switch`es being told what has changed; they write the difference.  Nothing here
knows a socket; replies are returned or passed to callbacks.  Called by `component.Component` and
`management_service`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from xenflow.channel import PACKET_OUT_XID, Done
from xenflow.hold import Held, Hellos
from xenflow.pure import flow as f
from xenflow.pure import openflow as of
from xenflow.pure import pipeline, plain_host
from xenflow.pure.feed import Feed, Outcome
from xenflow.pure.network import (
    DETOUR_VLAN_OFFSET,
    Interface,
    Link,
    Network,
    NetworkError,
    Router,
)
from xenflow.pure.pipeline import RouterView
from xenflow.pure.placement import Mode, Placement, at_home
from xenflow.pure.router_state import Changes, RouterState
from xenflow.pure.views import router_view
from xenflow.state_file import StateFile
from xenflow.switch import Switch

log = logging.getLogger("xenflow.rule_table")

LATE_S = 1.0
"""How long after a switch was told that a vif takes frames some that it had sent up before may
still come: cached flows live on for a moment."""


class RuleTable:
    """See the module."""

    def __init__(
        self, network: Network, controller: str, state_dir: Path | None, later: Callable[..., Any]
    ) -> None:
        self.network = network
        self.controller = controller
        self.later = later
        self.feeds: dict[str, Feed] = {name: Feed(name) for name in network.routers}
        self.last_peer: dict[str, str] = {}
        self.held: dict[str, Held] = {name: Held() for name in network.routers}
        self.hellos = Hellos()
        self._opening: set[tuple[str, str]] = set()
        """(datapath, vif) that take frames, as is known here, but not yet to the switch."""
        self._opened: dict[tuple[str, str], float] = {}
        """When the switch was told."""
        self.migrating: Callable[[str], bool] = lambda router: False
        self.spoken: Callable[[str], None] = lambda router: None
        self.sent: Callable[[str], None] = lambda vif: None
        """Called when a router that is here has said something itself."""
        self.on_local_message: Callable[[str, list[bytes]], None] = lambda router, frames: None
        self._views: dict[str, RouterView] = {}
        self._kept = StateFile(state_dir)
        placements, rules = self._kept.load(network)
        homes = {r.name: at_home(r.name, r.home) for r in network.routers.values()}
        self.switches: dict[str, Switch] = {}
        for datapath in network.datapaths_of(controller):
            known = {**homes, **placements.get(datapath.name, {})}
            switch = Switch(network, datapath, self, later, known)
            switch.rules.restore(rules.get(datapath.name, []))
            self.switches[datapath.name] = switch

    # --- what switches ask ----------------------------------------------------------------------

    def state(self, router: str) -> RouterState | None:
        """What is known of a router, or None before its first snapshot is complete."""
        feed = self.feeds.get(router)
        return feed.state if feed is not None and feed.complete else None

    def view(self, router: str) -> RouterView | None:
        """What decides which of its packets the switches may route; None as for `state`."""
        state = self.state(router)
        if state is None:
            return None
        if router not in self._views:
            self._views[router] = router_view(self.network.routers[router], state)
        return self._views[router]

    # --- routes -----------------------------------------------------------------------------------

    def told(self, router: str, source: Hashable, frames: list[bytes], local: bool) -> Outcome:
        """A route message came, from the router's own link (`local`) or from a mirror."""
        feed = self.feeds[router]
        outcome = feed.receive(frames, time.monotonic(), source)
        if outcome.error is not None:
            log.warning("%s: message refused: %s", router, outcome.error)
            return outcome
        self.last_peer[router] = "local" if local else str(source)
        if outcome.changes is not None:
            self._apply(router, outcome.changes, outcome.ended)
        if local:
            self.on_local_message(router, frames)
        return outcome

    def _apply(self, router: str, changes: Changes, ended: bool) -> None:
        feed = self.feeds[router]
        if ended or changes.locals or changes.interfaces or changes.policy:
            self._views.pop(router, None)
        if ended:
            log.info("%s: %s", router, feed.state)
        for switch in self.switches.values():
            written = switch.changed(router, changes, feed.complete, len(feed.state.routes4))
            if ended and not written and switch.concerned_by(router):
                switch.refresh()

    def backlog(self, router: str) -> int:
        """How many changes of a router the slowest of its switches has not taken yet."""
        return max(
            (s.busy for s in self.switches.values() if s.live and s.forwards(router)), default=0
        )

    # --- placements -----------------------------------------------------------------------------

    def placements(self, datapath: str) -> dict[str, Placement]:
        """Where each router is, as one switch has been told."""
        return self.switches[datapath].placements

    def place(
        self, placement: Placement, datapaths: Iterable[str], proven: bool, then: Done
    ) -> None:
        """Give switches a placement; `then(None)` once it is in force on all of them (confirmed,
        where `proven` is false), else with the reason.

        Raises NetworkError, having changed nothing, where the placement does not fit.
        """
        names = list(datapaths) or list(self.switches)
        self._check(placement, names)
        left = [n for n in names if self._vm(n, placement.router) == n != placement.vm]
        for name in names:
            self.switches[name].placements[placement.router] = placement
        self.save()
        for name in left:  # what is held there follows the VM, before what its flows send after it
            self._deliver_late(self.switches[name], self.network.routers[placement.router],
                               placement.vm)
        if placement.mode is Mode.NATIVE or not {placement.vm, placement.to} & self.switches.keys():
            self.hellos.forget(placement.router)
        waiting = set(names)
        problems: list[str] = []

        def done(name: str) -> Done:
            def settle(error: str | None) -> None:
                waiting.discard(name)
                if error:
                    problems.append(error)
                if not waiting:
                    then("; ".join(problems) or None)
            return settle

        for name in names:
            switch = self.switches[name]
            switch.placed(placement.router)
            (switch.in_force if proven else switch.confirmed)(done(name))

    def _vm(self, datapath: str, router: str) -> str:
        """Where a router's VM is, as a switch was told last; "" where it was told nothing."""
        placement = self.switches[datapath].placements.get(router)
        return placement.vm if placement is not None else ""

    def _check(self, placement: Placement, names: list[str]) -> None:
        if placement.router not in self.network.routers:
            raise NetworkError(f"unknown router {placement.router}")
        for host in placement.hosts:
            if host not in self.network.hosts:
                raise NetworkError(f"{placement.router}: {host} is not a host of the network")
        for name in names:
            switch = self.switches.get(name)
            if switch is None:
                raise NetworkError(f"datapath {name} does not belong to this controller")
            known = switch.placements.get(placement.router)
            if known is not None and known.version > placement.version:
                raise NetworkError(
                    f"{name}: the placement of {placement.router} is at version {known.version}, "
                    f"not older than {placement.version}: ask for its status and plan again"
                )

    def save(self) -> None:
        """Keep placements and rules over a restart of the controller."""
        self._kept.save(
            {name: switch.placements for name, switch in self.switches.items()},
            {name: switch.rules.rows() for name, switch in self.switches.items()},
        )

    # --- packets ----------------------------------------------------------------------------------

    def packet_in(self, switch: Switch, in_port: int, frame: bytes) -> bool:
        """A frame that a switch sent up: held for a VM, a copy of what a VM got or sent, or a
        question.  False where it is none of these."""
        tagged = frame[12:14] == b"\x81\x00"
        vlan = int.from_bytes(frame[14:16], "big") & 0xFFF if tagged else 0
        if not vlan:
            return self._from_vm(switch, in_port, frame)
        if vlan < DETOUR_VLAN_OFFSET and switch.reactive:
            return switch.answer(in_port, frame)
        for link in self.network.links.values():
            if vlan in (link.detour_vlan, link.vlan):
                self._hold(switch, link, frame[:12] + frame[16:], vlan == link.vlan)
                return True
        return False

    def _from_vm(self, switch: Switch, in_port: int, frame: bytes) -> bool:
        name = next((n for n, (number, _) in switch.ports.items() if number == in_port), None)
        for router in self.network.routers.values():
            for interface in router.interfaces:
                if interface.vif == name:
                    link = self.network.links[interface.link].id
                    self.spoken(router.name)
                    self.sent(interface.vif)
                    self.hellos.heard(router.name, link, frame, time.monotonic())
                    return True
        return False

    def _hold(self, switch: Switch, link: Link, frame: bytes, copied: bool) -> None:
        """Keep a frame for the VMs that it is for; `copied`: their vifs have got it, too."""
        target = int.from_bytes(frame[:6], "big")
        group = bool(frame[0] & 1)
        now = time.monotonic()
        for router, interface in self.network.members(link.name):
            placement = switch.placements.get(router.name)
            if placement is None or not (group or target == interface.mac):
                continue
            held = self.held[router.name]
            takes = switch.takes(interface.vif)
            end = (switch.name, interface.vif)
            if placement.vm != switch.name:
                if not copied and switch.name in placement.hosts:
                    # Sent up while the VM belonged here; what was held has gone to it already.
                    held.keep(link.id, frame, now)
                    self._deliver_late(switch, router, placement.vm)
            elif takes and copied:
                held.copied(link.id, frame, now)
            elif not takes or end in self._opening:
                if not held.keep(link.id, frame, now) and held.dropped == 1:
                    log.warning("%s: no room to hold more packets for it", router.name)
            elif not group or now - self._opened.get(end, 0.0) < LATE_S:
                # Sent up before the switch knew.  A group's may be held for another router alone:
                # then this one gets it twice.
                held.keep(link.id, frame, now)
                self._deliver_late(switch, router, switch.name, link)
            if not group:
                return

    def deliver(
        self, switch: Switch, router: Router, to: str, only: Link | None = None
    ) -> int:
        """Send what is held for a router on, of one link or of all: to its vifs where `to` is this
        host, else across to that one.

        Returns how many frames.  Raises NetworkError, everything being held still, where `to`
        cannot be reached.
        """
        if switch.connection is None:
            raise NetworkError(f"{switch.name}: the switch is not connected")
        held = self.held[router.name]
        by_id = {link.id: link for link in self.network.links.values()}
        frames = held.of(only.id if only else None, time.monotonic())
        onward = {
            link: self._onward(switch, router, by_id[link], to) for link in {k.link for k in frames}
        }
        messages = [
            of.packet_out(kept.frame, onward[kept.link], xid=PACKET_OUT_XID) for kept in frames
        ]
        for start in range(0, len(messages), 64):
            switch.connection.send(b"".join(messages[start : start + 64]))
        held.sent(frames)
        return len(frames)

    def _deliver_late(
        self, switch: Switch, router: Router, to: str, only: Link | None = None
    ) -> int:
        """The same where nobody is there to be told that it failed."""
        try:
            return self.deliver(switch, router, to, only)
        except NetworkError as error:
            log.warning("%s: what is held for it stays held: %s", router.name, error)
            return 0

    def _onward(self, switch: Switch, router: Router, link: Link, to: str) -> f.Actions:
        interface = router.on(link.name)
        assert interface is not None
        if to == switch.name and not switch.datapath.nicira:
            return plain_host.to_vm(switch.site(), router, link)
        if to == switch.name:
            return (
                f.load("reg1", router.id), f.load("reg3", link.id), f.resubmit(pipeline.VM),
            )  # fmt: skip
        port = switch.site().toward(link, to)
        if port is None:
            raise NetworkError(f"{switch.name}: no way to {to} on virtual link {link.name}")
        # A detour carries unicast frames; the VM's kernel takes a multicast packet in one as well.
        return (f.set_dl_dst(interface.mac), f.set_vlan(link.detour_vlan), f.output(port))

    def port_stopped(self, switch: Switch, port: str) -> None:
        """A port takes nothing any more: where it is a vif, its VM has been suspended."""
        self._opening.discard((switch.name, port))
        for router in self.network.routers.values():
            if any(i.vif == port for i in router.interfaces):
                self.held[router.name].stopped(time.monotonic())

    def port_appeared(self, switch: Switch, port: str) -> None:
        """A port has come, or takes frames now: where it is a vif of a router whose VM belongs
        here, what was held for it goes to it once the switch knows."""
        for router, interface in self._here(switch):
            if interface.vif != port:
                continue
            if all(switch.takes(i.vif) for i in router.interfaces):
                self.hellos.forget(router.name)
            self._opening.add((switch.name, port))
            switch.sent(partial(self._open, switch, router, interface))

    def _open(
        self, switch: Switch, router: Router, interface: Interface, error: str | None
    ) -> None:
        """A vif takes frames and the switch gives it those that come."""
        end = (switch.name, interface.vif)
        if error is not None or not switch.takes(interface.vif):
            return  # `caught_up` comes back to it, or its next appearance
        self._opening.discard(end)
        self._opened[end] = time.monotonic()
        link = self.network.links[interface.link]
        if self.held[router.name].frames:
            count = self._deliver_late(switch, router, switch.name, link)
            log.info("%s: delivered %d held packets on %s", router.name, count, link.name)

    def caught_up(self, switch: Switch) -> None:
        """A switch that was away, or was read anew, has all its flows again: whichever vif has come
        meanwhile gets what was held for it."""
        for router, interface in self._here(switch):
            self._open(switch, router, interface, None)

    def _here(self, switch: Switch) -> list[tuple[Router, Interface]]:
        """The interfaces of the routers whose VM belongs to a switch."""
        return [
            (router, interface) for router in self.network.routers.values()
            if self._vm(switch.name, router.name) == switch.name
            for interface in router.interfaces
        ]  # fmt: skip

    def vifs_are_still(self, vifs: frozenset[str]) -> None:
        """The hypervisor says which vifs take nothing now, though they may have carrier."""
        for switch in self.switches.values():
            take_now, stopped = switch.vifs_are_still(vifs)
            for port in stopped:
                self.port_stopped(switch, port)
            for port in take_now:
                self.port_appeared(switch, port)

    def attached(self, switch: Switch, router: Router) -> bool:
        """Whether all vifs of a router exist on a switch."""
        return all(i.vif in switch.ports for i in router.interfaces)

    def tick(self, now: float) -> list[tuple[str, Hashable, list[bytes]]]:
        """What time asks for: heartbeats and acknowledgements to routers, repeated hellos.

        Returns (router, source, frames) to be sent.
        """
        replies = []
        for name, feed in self.feeds.items():
            replies += [(name, source, frames) for source, frames in feed.tick(now).replies]
        for switch in self.switches.values():
            if switch.live:
                self._repeat_hellos(switch, now)
        return replies

    def _repeat_hellos(self, switch: Switch, now: float) -> None:
        for router in self.network.routers.values():
            placement = switch.placements.get(router.name)
            if placement is None or not self.migrating(router.name):
                continue
            if placement.mode is Mode.NATIVE:  # the VM alone speaks
                continue
            if placement.vm == switch.name:
                if any(switch.takes(i.vif) for i in router.interfaces):
                    continue
            elif placement.to != switch.name:  # else the VM may not be connected yet where it is
                continue
            for link_id, frame in self.hellos.due(router.name, now):
                actions: f.Actions = (
                    f.load("reg3", link_id), f.load("reg2", link_id), f.resubmit(pipeline.LINKS),
                )  # fmt: skip
                if not switch.datapath.nicira:
                    link = next(k for k in self.network.links.values() if k.id == link_id)
                    actions = plain_host.flood(switch.site(), link)
                switch.connection.send(of.packet_out(frame, actions, xid=PACKET_OUT_XID))
