"""Packets between the switches and the VMs, where a switch cannot pass them on by itself.

Three kinds come up from a switch (`tables.sent_up`): one for a VM that takes nothing now, which is
held here and delivered where the VM runs next; the copy of one that was just put into a vif, which
may be lost there if the VM is suspended now; and what a VM itself has said.  `hold` keeps
them; here it is decided for whom, and when they go on.

A vif takes frames, or not, as the switch (carrier) and the hypervisor (`vifs_are_suspended`) say.
What was held for it goes to it once the switch knows as well: earlier it would come up again.  In
between, and for a moment after it, frames still come up that were sent before the switch knew.

Called by `rule_table`, `moves`, `domains`, and by `component` when a port changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

from xenflow.model.difference import Changed
from xenflow.model.network import Interface, Link, Network, NetworkError, Router
from xenflow.model.placement import Mode
from xenflow.openflow import build
from xenflow.openflow import flow as f
from xenflow.switch.channel import PACKET_OUT_XID
from xenflow.switch.problems import Lines
from xenflow.switch.proof import Done
from xenflow.switch.switch import Switch
from xenflow.tables.sent_up import ForVm, FromVm
from xenflow.tables.sessions import Sessions
from xenflow.vm.hold import MAX_AGE_S, Held, Hellos

log = logging.getLogger("xenflow.vm_packets")

LATE_S = 1.0
"""How long after a switch was told that a vif takes frames some that it had sent up before may
still come: cached flows live on for a moment."""
ANNOUNCED_S = 120.0
"""So long an announced suspension may last before it is believed that nobody will end it."""
BURST = 64
"""So many held frames are written at once."""


class VmPackets:
    """See the module.

    migrating  whether a migration of a router is under way or unfinished, by its name
    spoke      called with the name of a vif when a frame that came out of it was seen
    now        a monotonic clock
    """

    def __init__(
        self,
        network: Network,
        switches: Mapping[str, Switch],
        migrating: Callable[[str], bool],
        spoke: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self._network = network
        self.held = {name: Held() for name in network.routers}
        self.sessions = {name: Sessions() for name in network.routers}
        self._switches = switches
        self._migrating = migrating
        self._spoke = spoke
        self._now = now
        self._hellos = Hellos()
        self._lines = Lines(now)
        self._opening: set[tuple[str, str]] = set()
        """(datapath, vif) that take frames, as is known here, but not yet to the switch."""
        self._suspended: frozenset[str] = frozenset()
        self._announced: dict[str, float] = {}
        """Vifs whose VM is suspended by somebody who says so, and since when."""
        self._opened: dict[tuple[str, str], float] = {}
        """When the switch was told."""
        self._warned: dict[str, float] = {}
        """When it was said last that there is no room for a router's packets."""

    def network_is(self, network: Network, routers: Changed) -> None:
        """The network has become another one: nothing is held any more for who is gone."""
        before, self._network = self._network, network
        for name in (*routers.removed, *routers.changed):
            stays = network.routers.get(name)
            vifs = {interface.vif for interface in stays.interfaces} if stays else set()
            for interface in before.routers[name].interfaces:
                # One of its name may come, and runs then: nobody ends what was said of this one.
                if interface.vif in self._announced and interface.vif not in vifs:
                    self._announced[interface.vif] = float("-inf")
        for name in routers.removed:
            self.held.pop(name, None)
            self.sessions.pop(name, None)
        for name in (*routers.removed, *routers.changed):  # a link may be theirs no more
            self._hellos.forget(name)
        for name in routers.changed:
            interfaces = network.routers[name].interfaces
            self.held[name].links_are({network.links[i.link].id for i in interfaces})
        for name in routers.added:
            self.held[name], self.sessions[name] = Held(), Sessions()

    # --- what comes up ----------------------------------------------------------------------------

    def sent_up(self, switch: Switch, what: ForVm | FromVm) -> None:
        """A switch sent a frame up."""
        if isinstance(what, ForVm):
            self._for_vm(switch, what)
            return
        self._spoke(what.interface.vif)
        link = self._network.links[what.interface.link]
        now = self._now()
        self._hellos.heard(what.router.name, link.id, what.frame, now)
        quiet = self.sessions[what.router.name].heard(what.frame, now, what.interface.name)
        if quiet is not None:
            switch.hush(what, quiet.match, quiet.seconds)

    def _for_vm(self, switch: Switch, what: ForVm) -> None:
        link, frame = what.link, what.frame
        now = self._now()
        for router, interface in what.members:
            placement = switch.placements.get(router.name)
            if placement is None or int.from_bytes(frame[6:12], "big") == interface.mac:
                continue  # its own hello, repeated: it would not hear itself
            held = self.held[router.name]
            takes = switch.ports.takes(interface.vif)
            end = (switch.name, interface.vif)
            if placement.vm != switch.name:
                if not what.copied and switch.name in placement.hosts:
                    # Sent up while the VM belonged here; what was held has gone to it already.
                    held.keep(link.id, frame, now)
                    self._deliver_late(switch, router, placement.vm)
            elif what.copied and interface.vif in self._announced:
                pass  # it was given to a VM that ran on until the switch held
            elif takes and what.copied:
                held.copied(link.id, frame, now)
            elif not takes or end in self._opening:
                self._keep(router, link, what, now)
            elif len(what.members) == 1 or now - self._opened.get(end, 0.0) < LATE_S:
                # Sent up before the switch knew.  One for several (`plain_sent_up`) may be held for
                # another router alone: then this one gets it twice.
                held.keep(link.id, frame, now)
                self._deliver_late(switch, router, switch.name, link)

    def _keep(self, router: Router, link: Link, what: ForVm, now: float) -> None:
        if self.held[router.name].keep(link.id, what.frame, now, what.copied) or what.copied:
            return
        if now - self._warned.get(router.name, float("-inf")) > MAX_AGE_S:
            self._warned[router.name] = now
            log.warning("%s: no room to hold more packets for it", router.name)

    # --- what goes on -----------------------------------------------------------------------------

    def deliver(self, switch: Switch, router: Router, to: str, only: Link | None = None) -> int:
        """Send what is held for a router on, of one link or of all: to its vifs where `to` is this
        host, else across to that one.

        Returns how many frames.  Raises NetworkError, everything being held still, where `to`
        cannot be reached.
        """
        if switch.channel.connection is None:
            raise NetworkError(f"{switch.name}: the switch is not connected")
        held = self.held[router.name]
        frames = held.of(only.id if only else None, self._now())
        onward = {
            link: self._onward(switch, router, self._link(link), to)
            for link in {kept.link for kept in frames}
        }
        messages = [
            build.packet_out(kept.frame, onward[kept.link], xid=PACKET_OUT_XID) for kept in frames
        ]
        _write(switch, messages)
        held.sent(frames)
        return len(frames)

    def give(self, switch: Switch, router: Router, link: Link, frames: list[bytes]) -> bool:
        """Put what another host's controller has held straight into a router's vif, whatever the
        switch's tables say yet.  False where the vif takes nothing.  Raises FlowError, nothing
        being put, where a frame is too long for a message."""
        interface = router.on(link.name)
        if (
            switch.channel.connection is None
            or interface is None
            or not switch.ports.takes(interface.vif)
        ):
            return False
        out = (f.output(switch.ports[interface.vif][0]),)
        _write(switch, [build.packet_out(frame, out, xid=PACKET_OUT_XID) for frame in frames])
        return True

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
        if to == switch.name:
            return switch.kind.to_vm(switch.site(), router, link)
        port = switch.site().toward(link, to)
        if port is None:
            raise NetworkError(f"{switch.name}: no way to {to} on virtual link {link.name}")
        # A detour carries unicast frames; the VM's kernel takes a multicast packet in one as well.
        return (f.set_dl_dst(interface.mac), f.set_vlan(link.detour_vlan), f.output(port))

    # --- where a VM is, and whether its vifs take frames ------------------------------------------

    def moved(self, switch: Switch, router: str, to: str) -> None:
        """A VM is not at a switch any more: what is held there follows it to host `to`."""
        self._opening -= {(switch.name, i.vif) for i in self._network.routers[router].interfaces}
        self._deliver_late(switch, self._network.routers[router], to)

    def unheard(self, router: str) -> None:
        """What a router says is not heard here from now on."""
        self._hellos.forget(router)

    def vifs_are_suspended(self, vifs: frozenset[str]) -> None:
        """The hypervisor's host says which vifs take nothing now, though they may have carrier."""
        self._suspended = vifs
        self._stand()

    def announced(self, switch: Switch, router: Router, suspended: bool, then: Done) -> None:
        """Who suspends VMs says that he will suspend a router's, once `then` is called: its vifs
        get nothing from then on, and what they were given it will have read.  Or (not `suspended`)
        that it runs with all of its vifs."""
        vifs = {interface.vif: self._now() for interface in router.interfaces}
        took = any(switch.ports.takes(vif) for vif in vifs)
        for vif in vifs:
            self._announced.pop(vif, None)
        if suspended:
            self._announced |= vifs
            self.held[router.name].announced()
        self._stand()
        if suspended and took:
            switch.promises.in_force(then)
        else:  # nothing is given to them anyway, or need not be waited for
            then(None)

    def forget_announced(self, now: float) -> None:
        """Who announced a suspension and never ended it has gone: carrier says it then."""
        late = [vif for vif, at in self._announced.items() if now - at > ANNOUNCED_S]
        for vif in late:
            del self._announced[vif]
        if late:
            self._stand()

    def _stand(self) -> None:
        vifs = self._suspended | self._announced.keys()
        for switch in self._switches.values():
            take_now, suspended = switch.vifs_are_suspended(frozenset(vifs))
            for port in suspended:
                self.port_suspended(switch, port)
            for port in take_now:
                self.port_appeared(switch, port)

    def port_suspended(self, switch: Switch, port: str) -> None:
        """A port takes nothing any more: where it is a vif, its VM has been suspended."""
        self._opening.discard((switch.name, port))
        if (found := self._network.vif(port)) is not None:
            self.held[found[0].name].suspended(self._now())

    def port_appeared(self, switch: Switch, port: str) -> None:
        """A port has come, or takes frames now: where it is a vif of a router whose VM belongs
        here, what was held for it goes to it once the switch knows."""
        for router, interface in self._here(switch):
            if interface.vif != port:
                continue
            if all(switch.ports.takes(i.vif) for i in router.interfaces):
                self._hellos.forget(router.name)
            self._opening.add((switch.name, port))
            switch.once_told(partial(self._open, switch, router, interface))

    def _open(
        self, switch: Switch, router: Router, interface: Interface, error: str | None
    ) -> None:
        """A vif takes frames and the switch gives it those that come."""
        end = (switch.name, interface.vif)
        if error is not None or not switch.ports.takes(interface.vif):
            return  # `caught_up` comes back to it, or its next appearance
        self._opening.discard(end)
        self._opened[end] = self._now()
        link = self._network.links[interface.link]
        if self.held[router.name].frames:
            count = self._deliver_late(switch, router, switch.name, link)
            if self._lines.take(router.name):
                log.info("%s: delivered %d held packets on %s", router.name, count, link.name)

    def read_anew(self, switch: Switch) -> None:
        """A switch is being read back: until it has caught up it may hold for vifs that take
        frames."""
        self._opening |= {(switch.name, i.vif) for _, i in self._here(switch)}

    def caught_up(self, switch: Switch) -> None:
        """A switch that was read back gives the VMs their packets again: whichever vif has come
        meanwhile gets what was held for it."""
        for router, interface in self._here(switch):
            self._open(switch, router, interface, None)

    def _here(self, switch: Switch) -> list[tuple[Router, Interface]]:
        """The interfaces of the routers whose VM belongs to a switch."""
        return [
            (router, interface)
            for router in self._network.routers.values()
            if switch.vm_of(router.name) == switch.name
            for interface in router.interfaces
        ]

    # --- hellos -----------------------------------------------------------------------------------

    def repeat_hellos(self, now: float) -> None:
        """Send those that are due of the routers that cannot do it themselves now."""
        self.forget_announced(now)
        for switch in self._switches.values():
            for router in self._network.routers if switch.live else ():
                if self._migrating(router) and self._speaks_for(switch, router):
                    for link_id, frame in self._hellos.due(router, now):
                        self._say(switch, link_id, frame)

    def _speaks_for(self, switch: Switch, router: str) -> bool:
        """Whether a router's hellos must come from here: its VM belongs here and takes nothing, or
        it is at its new host already, where it may not be connected yet, and the links lead here
        still.  In native mode the VM alone speaks."""
        placement = switch.placements.get(router)
        if placement is None or placement.mode is Mode.NATIVE:
            return False
        if placement.vm == switch.name:
            return not any(
                switch.ports.takes(i.vif) for i in self._network.routers[router].interfaces
            )
        return placement.leads_to == switch.name

    def _link(self, number: int) -> Link:
        return self._network.links[self._network.link_names[number]]

    def _say(self, switch: Switch, link_id: int, frame: bytes) -> None:
        actions = switch.kind.to_link(switch.site(), self._link(link_id))
        switch.channel.send(build.packet_out(frame, actions, xid=PACKET_OUT_XID))


def _write(switch: Switch, messages: list[bytes]) -> None:
    """Send held frames' messages, some at once."""
    for start in range(0, len(messages), BURST):
        switch.channel.send(b"".join(messages[start : start + BURST]))
