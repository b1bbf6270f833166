"""The POX component: everything that touches POX or a socket, and no decision.

Events of the switches go to their `Switch`, packets to the `RuleTable`, requests to the
`ManagementService`.  Runs unchanged under genuine POX and under the stand-in; docs/pox.md says
what it may rely on.  Called by `launch` in the package.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openflow_tap
import zmq
from pox.core import core
from pox.lib.recoco import Timer

from xenflow.control import unixctl
from xenflow.control.asking import Asking
from xenflow.control.guarded import Guarded
from xenflow.control.leases import Leases
from xenflow.control.management_service import ManagementService
from xenflow.control.mirror import RouteMirrors
from xenflow.control.planner_relay import PlannerRelay
from xenflow.control.router_sockets import Reader, RouterSockets
from xenflow.control.rule_table import RuleTable
from xenflow.control.store_follower import StoreFollower
from xenflow.control.zmq_pump import Pump
from xenflow.model.difference import NetworkDifference
from xenflow.model.management import MAX_IMPORT
from xenflow.model.network import DatapathKind, Network, NetworkError, Pipeline
from xenflow.openflow import build, monitor, parse, wire
from xenflow.openflow.statistics import StatsReply
from xenflow.store.certificates import Certificates
from xenflow.store.laid_file import LaidFile, LaidRows
from xenflow.store.ovsdb_store import OvsdbStore
from xenflow.store.schema import Role, StoreWriter
from xenflow.switch.clock import Clock
from xenflow.switch.switch import Switch
from xenflow.vm.domains import Domains, on_xen

log = logging.getLogger("xenflow")

TICK_S = 0.1
MENDS_S = 10.0
"""How often the planner is told what was put right on switches."""
RIVAL_S = 2.0
"""How long a switch may take to answer, before one that says it is the same takes its place."""
LOCAL_PORT = 0xFFFE
PORTS_XID = 0xFFFF0001
PORT_DELETED = 1
"""A reason in OFPT_PORT_STATUS (OpenFlow 1.0, section 5.4.3)."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Which store a controller follows: its servers (as for `OvsdbStore`), where it keeps what they
    said, with what is there, and with what it speaks TLS."""

    remotes: tuple[str, ...]
    file: LaidFile
    laid: LaidRows | None
    tls: Certificates | None = None


class Component:
    """See the module."""

    _core_name = "xenflow"

    def __init__(
        self,
        network: Network,
        read: Callable[[Network], Network],
        controller: str,
        manage: str,
        state_dir: Path | None,
        routers_address: str,
        core_name: str,
        xenstore: str,
        store: StoreOptions | None = None,
    ) -> None:
        network = network.active
        # Under POX the loop may run already, in a thread of its own: nothing is started before
        # everything is there.
        self._read = read
        self.context: zmq.Context[Any] = zmq.Context()
        clock = Clock(_later)
        self._now = clock.now
        leases = Leases(clock.now, state_dir)
        self.mirrors = RouteMirrors(self.context, clock.now)
        self.table = RuleTable(
            network,
            controller,
            state_dir,
            clock,
            unixctl.proof_of,
            leases.unfinished,
            self.mirrors.pass_on,
            self._vif_spoke,
            asks=True,
        )
        self._store: OvsdbStore | None = None
        self._follower: StoreFollower | None = None
        self._relay: PlannerRelay | None = None
        if store is not None:
            self._follower = self._follow(store, controller, leases)
            self._relay = PlannerRelay(self.context, self._follower, clock.now)
        self.management = ManagementService(
            self.table,
            leases,
            core_name,
            self.mirrors,
            self._reload,
            self._follower,
            self._relay,
        )
        self._manage = self._listen(manage)
        reader = Reader(self._heard, self.table.patience_s, self._unread, clock.now)
        self.routers = RouterSockets(network, routers_address, reader)
        vifs, changed = network.vif_routers, self.table.packets.vifs_are_suspended
        self._domains = Domains(xenstore, vifs, changed, clock.now)
        asked = self.table.others if self.table.searching() else {}
        self._asking = Asking(self.context, asked, self.table.heard_from)
        self._connections: dict[Any, Switch] = {}
        self._mended: dict[str, int] = {}
        self._mends_at = 0.0
        self._guarded = Guarded(clock.now)
        for switch in self.table.switches.values():
            self._announce(switch)
        self._manage.start()
        self.routers.start()
        if any(on_xen(switch.datapath) for switch in self.table.switches.values()):
            self._domains.start()
        if self._follower is not None:
            self._follower.start()
        core.listen_to_dependencies(self, ["openflow"])
        self._timer = Timer(TICK_S, self._tick, recurring=True)
        core.addListenerByName("GoingDownEvent", self._going_down)
        core.addListenerByName("DownEvent", self._down)
        core.addListenerByName("RereadConfiguration", self._reread)

    @staticmethod
    def _announce(switch: Switch) -> None:
        datapath = switch.datapath
        if datapath.kind is DatapathKind.HOST and not datapath.nicira:
            log.warning(
                "%s: a plain OpenFlow 1.0 switch cannot touch TTLs: packets it routes keep theirs, "
                "and traceroute does not show this router",
                datapath.name,
            )
        if datapath.kind is DatapathKind.HOST and datapath.pipeline is Pipeline.REACTIVE:
            log.info("%s: reactive: the first packet of each flow comes here", datapath.name)

    def _listen(self, address: str) -> Pump:
        sock = self.context.socket(zmq.ROUTER)
        sock.linger = 0
        sock.ipv6 = True
        sock.maxmsgsize = MAX_IMPORT
        sock.bind(address)
        log.info("management on %s", address)

        def receive(frames: list[bytes]) -> None:
            peer, body = frames[0], frames[-1]
            empty = [b""] if len(frames) > 2 else []

            def send(answer: bytes) -> None:
                pump.send([peer, *empty, answer])

            self.management.take(body, send, pump.peer)

        pump = Pump(sock, receive, names_peers=True)
        return pump

    # --- switches ---------------------------------------------------------------------------------

    def _all_dependencies_met(self) -> None:
        core.openflow.clear_flows_on_connect = False
        core.openflow.addListenerByName("ConnectionUp", self._connection_up)
        core.openflow.addListenerByName("ConnectionDown", self._connection_down)

    def _connection_up(self, event: Any) -> None:
        datapath = self.table.network.by_dpid.get(event.dpid)
        switch = self.table.switches.get(datapath.name) if datapath else None
        if switch is None:
            log.info("datapath %016x is none of this controller's: left alone", event.dpid)
            return
        if switch.channel.connection is not None:
            self._rival(switch, event)
        else:
            self._take(switch, event)

    def _rival(self, switch: Switch, event: Any) -> None:
        """A second connection with the same datapath id: either the switch has come back before its
        old connection was found dead, or two switches have the same id.  Who answers stays."""
        old, new = switch.channel.connection, event.connection
        log.warning("%s: a second connection as %016x", switch.name, event.dpid)

        def decide(alive: bool) -> None:
            if new.disconnected or switch.channel.connection is new:
                return
            if alive and switch.channel.connection is old:
                log.error(
                    "%s: two switches say that they are %016x: the second one is sent away",
                    switch.name,
                    event.dpid,
                )
                new.disconnect()
                return
            self._connections.pop(old, None)
            self._take(switch, event)
            old.disconnect()

        switch.channel.alive(decide, RIVAL_S)

    def _take(self, switch: Switch, event: Any) -> None:
        connection = event.connection
        self._connections[connection] = switch
        # Of a switch that tells registers what it sent before it was told so is passed over.
        nicira = switch.kind.nicira
        for kind, receive in (
            (openflow_tap.OFPT_VENDOR if nicira else openflow_tap.OFPT_PACKET_IN, self._packet_in),
            (openflow_tap.OFPT_STATS_REPLY, self._message),
            (openflow_tap.OFPT_BARRIER_REPLY, self._message),
            (openflow_tap.OFPT_ERROR, self._message),
            (openflow_tap.OFPT_PORT_STATUS, self._message),
            (openflow_tap.OFPT_FEATURES_REPLY, self._message),
        ):
            openflow_tap.tap(connection, kind, receive)
        log.info("%s is connected", switch.name)
        ports = [_port(p.name, p.port_no, p.config, p.state) for p in event.ofp.ports]
        switch.connect(connection, [p for p in ports if p[1] != LOCAL_PORT])
        # What happened to a port since the handshake's own question was told to nobody here.
        connection.send(build.features_request(PORTS_XID))

    def _connection_down(self, event: Any) -> None:
        switch = self._connections.pop(event.connection, None)
        if switch is not None:
            log.warning("%s has disconnected; it goes on forwarding", switch.name)
            switch.disconnect()

    def _packet_in(self, connection: Any, raw: bytes) -> bool:
        switch = self._connections.get(connection)
        told = raw[1] == openflow_tap.OFPT_VENDOR
        if switch is None or (told and not parse.is_nx_packet_in(raw)):
            return False
        try:
            now = self._now()
            if not switch.packet_ins.admits(parse.packet_in_port(raw), now):
                return True
            packet = parse.packet_in(raw)
            if not packet.in_port and not switch.packet_ins.admits_routed(packet.registers, now):
                return True
        except wire.WireError as error:
            log.warning("%s: packet-in: %s", switch.name, error)
            return True
        if self.table.packet_in(switch, packet):
            return True
        if told:  # the core and the other components know the other format alone
            _, buffer_id, total_len, in_port, reason, frame, _ = packet
            usual = build.packet_in(frame, in_port, reason, total_len, buffer_id)
            openflow_tap.instead(connection, usual)
        return told

    def _message(self, connection: Any, raw: bytes) -> bool:
        switch = self._connections.get(connection)
        if switch is None:
            return False
        if monitor.is_updates(raw):
            switch.audit.take(raw)
            return True
        try:
            message = parse.message(raw)
        except wire.WireError as error:
            log.warning("%s: %s", switch.name, error)
            xid = int.from_bytes(raw[4:8], "big")
            asked = raw[1] == openflow_tap.OFPT_STATS_REPLY
            return asked and switch.channel.on_unreadable(xid, str(error))
        if isinstance(message, parse.BarrierReply):
            if message.xid < openflow_tap.FIRST_XID:
                return False
            switch.channel.on_barrier(message.xid)
        elif isinstance(message, StatsReply):
            return switch.channel.on_stats(message)
        elif isinstance(message, parse.ErrorMessage):
            switch.on_error(message.xid, message.name, message.data)
        elif isinstance(message, parse.PortStatus):
            port, deleted = message.port, message.reason == PORT_DELETED
            self._port_changed(switch, port.name, port.number, port.up, deleted)
            return False
        elif isinstance(message, parse.FeaturesReply):
            if message.xid != PORTS_XID:
                return False
            self._ports_read(switch, message.ports)
        return True

    def _ports_read(self, switch: Switch, ports: Sequence[parse.Port]) -> None:
        for port in ports:
            if switch.ports.get(port.name) != (port.number, port.up):
                self._port_changed(switch, port.name, port.number, port.up, False)
        for name in switch.ports.keys() - {port.name for port in ports}:
            self._port_changed(switch, name, 0, False, True)

    def _port_changed(
        self, switch: Switch, name: str, number: int, up: bool, deleted: bool
    ) -> None:
        if number == LOCAL_PORT:
            return
        took = switch.ports.takes(name)
        switch.port_changed(name, number, up, deleted)
        takes = switch.ports.takes(name)
        if takes and not took:
            self.table.packets.port_appeared(switch, name)
        elif took and not takes:
            self.table.packets.port_suspended(switch, name)

    # --- routers ----------------------------------------------------------------------------------

    def _heard(self, router: str, peer: bytes, frames: list[bytes]) -> float:
        vifs = [i.vif for i in self.table.network.routers[router].interfaces]
        self._domains.heard(vifs, self.routers.empty_at(router, peer))
        outcome = self.table.heard(router, peer, frames, local=True)
        self._answer(router, outcome.replies)
        return outcome.pause_s

    def _vif_spoke(self, vif: str) -> None:
        self._domains.sent(vif)

    def _unread(self, router: str, peer: bytes) -> None:
        self.table.feeds[router].keep(peer, self._now())

    def _answer(self, router: str, replies: list[tuple[Any, list[bytes]]]) -> None:
        for source, frames in replies:
            if isinstance(source, bytes):
                self.routers.send(router, source, frames)

    def _tick(self) -> None:
        now = self._now()
        self._guarded.call("the table's tick", self._tick_table, now)
        self._guarded.call("mirroring", self.mirrors.tick, now)
        self._guarded.call("asking where routers are", self._ask, now)
        if self._follower is not None:
            self._guarded.call("following the store", self._follower.tick, now)
        if self._relay is not None:
            self._guarded.call("asking the planner", self._relay.tick)
            if now >= self._mends_at:
                self._mends_at = now + MENDS_S
                self._guarded.call("telling of mends", self._tell_mends, self._relay)
        self._guarded.call("watching the domains", self._domains.tick, now)

    def _tell_mends(self, relay: PlannerRelay) -> None:
        for name, switch in self.table.switches.items():
            count = switch.audit.mended
            if (more := count - self._mended.get(name, 0)) > 0:
                words = f"{name}: {more} flows that were not as they shall be"
                relay.note(self.table.controller, "mend", words, "put right")
            self._mended[name] = count

    def _tick_table(self, now: float) -> None:
        for router, replies in self.table.tick(now):
            self._answer(router, replies)

    def _ask(self, now: float) -> None:
        if self.table.searching():
            self._asking.tick(now)
        else:
            self._asking.close()

    # --- the network file ------------------------------------------------------------------------

    def _reload(self, only_look: bool) -> tuple[Network, NetworkDifference]:
        """Read the network file anew, and let the network be what it says; or only say what that
        would change.  Raises NetworkError, nothing being changed."""
        if self._follower is not None:
            raise NetworkError("this controller follows a store: use `xenflow apply`")
        network = self._read(self.table.network)
        if only_look:
            return network, self.table.change(network.active, only_look=True)
        found = self._become(network)
        if found:
            log.info("the network file has changed: %s", found.words())
        return network, found

    def _become(self, network: Network) -> NetworkDifference:
        """Let the network be another one.  Raises NetworkError, nothing being changed."""
        network = network.active
        found = self.table.change(network)
        if not found:
            return found
        self.routers.network_is(network)
        self._domains.known_are(network.vif_routers)
        # A switch that is new may be connected already, as nobody's; one that is gone is.
        for connection, switch in list(self._connections.items()):
            if self.table.switches.get(switch.name) is not switch:
                del self._connections[connection]
                connection.disconnect()
        for name in found.datapaths.added:
            connection = core.openflow.getConnection(network.datapaths[name].dpid)
            if name in self.table.switches and connection is not None:
                connection.disconnect()
        return found

    # --- the store --------------------------------------------------------------------------------

    def _follow(self, options: StoreOptions, controller: str, leases: Leases) -> StoreFollower:
        laid = options.laid
        writer = StoreWriter(Role.CONTROLLER, controller)
        cluster = laid.cluster if laid is not None else ""
        self._store = OvsdbStore(options.remotes, core.call_later, writer, cluster, tls=options.tls)
        file, become = options.file, self._become
        return StoreFollower(self._store, controller, file, laid, self.table, become, leases)

    def _reread(self, _: object) -> None:
        """SIGHUP."""
        try:
            _, found = self._reload(only_look=False)
        except NetworkError as error:
            log.error("SIGHUP: the network file is not taken:\n%s", error)
        else:
            if not found:
                log.info("SIGHUP: the network file says nothing new")

    def _going_down(self, _: Any) -> None:
        self._timer.cancel()
        self.routers.close()
        self._domains.close()
        self.mirrors.close()
        self._asking.close()
        if self._relay is not None:
            self._relay.close()
        if self._store is not None:
            self._store.close()
        self._manage.close()

    def _down(self, _: Any) -> None:
        # Not before: POX may still wait for the sockets' descriptors, in a thread of its own, which
        # does not survive that they are closed under it.
        self.context.destroy(linger=0)


def _port(name: Any, number: int, config: int, state: int) -> tuple[str, int, bool]:
    text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return text.rstrip("\0"), number, not (config | state) & 1


def _later(seconds: float, function: Any, *arguments: Any) -> None:
    core.call_delayed(seconds, function, *arguments)
