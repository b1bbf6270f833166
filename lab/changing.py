"""Carries steps out: how each thing of a lab is made, and how it is taken away.

One method for each kind of step (`steps.Do`), which does all steps of that kind that stand in a row
together: one `ip` makes every cable.  What is made is as the lab shall be (`after`), what is taken
away as it has been (`before`).  What is made can be found without any record: namespaces are called
`xf-...`, and processes are recorded as they start.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface
from itertools import groupby

from lab import flows, process, routing, switch, wire
from lab.description import CABLE_MTU, FABRIC, MANAGEMENT, PREFIX, ROOT, Lab
from lab.namespace import (
    LabError,
    by_namespace,
    checksums_in_software,
    exists,
    ip,
    raise_interfaces,
    sysctl,
    veth,
)
from lab.programs import (
    start_controller,
    start_hypervisor,
    start_planner,
    start_routerd,
    start_store,
)
from lab.state import LabOptions, write_domains, write_network_file
from lab.steps import Do, Step
from lab.telling import apply_to_store, tell_controllers, tell_hypervisor
from lab.waiting import await_in_sync, await_links
from mgmt.session import ManagementSession
from xenflow.model import control_link
from xenflow.model.network import Router
from xenflow.model.values import mac_text

Whats = Sequence[tuple[str, ...]]
"""What the steps of one kind are about, each as `Step.what` has it."""
Place = tuple[str, str]
"""An interface: (namespace, name)."""
OPERATOR = PREFIX + "op"
"""The operator's interface in the root namespace."""
_LAB = PREFIX + "lab"
_OPERATOR_PORT = "m-op"
_TELL_S = 30.0
"""How long a controller may take to read a network file, of some thousand links for instance."""
_DRAIN_S = 8.0
"""Five seconds may pass until a router describes its links anew (MinLSInterval), two until all
others have computed their routes."""
_NAMESPACE: dict[str, str | int] = {
    "net/ipv6/conf/default/disable_ipv6": 1,
    "net/ipv6/conf/all/forwarding": 0,
    "net/ipv4/ip_forward": 0,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv4/conf/all/accept_redirects": 0,
    "net/ipv4/conf/default/accept_redirects": 0,
}
_SWITCH: dict[str, str | int] = {
    # A userspace switch reads its ports beside the kernel's own stack: what comes from the network
    # must not reach the host's addresses, nor be answered by ARP.
    "net/ipv4/conf/default/rp_filter": 1,
    "net/ipv4/conf/default/arp_ignore": 8,
}
_IPV6: dict[str, str | int] = {
    "accept_dad": 0,
    "accept_ra": 0,
    "accept_redirects": 0,
    "router_solicitations": 0,
    "addr_gen_mode": 0,
    "disable_ipv6": 0,
}
"""Of each interface of machines and routers where the lab speaks IPv6; the last one turns it on."""
_IPV6_ROUTER: dict[str, str | int] = {
    "net/ipv6/conf/all/forwarding": 1,
    f"net/ipv6/conf/{control_link.INTERFACE}/forwarding": 0,
}
_MANAGEMENT: dict[str, str | int] = {
    f"net/ipv4/conf/{MANAGEMENT}/rp_filter": 0,
    f"net/ipv4/conf/{MANAGEMENT}/arp_ignore": 1,
}


@dataclass(slots=True)
class Change:
    """One lab becoming another.

    before   None: nothing is there
    text     what its network file shall be
    places   router -> the host it runs on, where that is not its home
    """

    before: Lab | None
    after: Lab
    text: str
    options: LabOptions
    places: dict[str, str] = field(default_factory=dict)

    def carry_out(self, steps: Sequence[Step], done: Callable[[list[Step], str], None]) -> None:
        """All steps in order; `done` is told of those of one kind that have been carried out, and
        what is not as they say ("": nothing).

        Raises LabError where one fails, and leaves what was done by then.
        """
        for do, group in groupby(steps, key=lambda step: step.do):
            one_kind = list(group)
            left = _CARRY_OUT[do](self, [step.what for step in one_kind])
            done(one_kind, left or "")

    @property
    def was(self) -> Lab:
        """The lab as it has been, for what is taken away."""
        assert self.before is not None
        return self.before

    # --- nodes

    def _make_nodes(self, whats: Whats) -> None:
        lab, names = self.after, [name for (name,) in whats]
        spaces = [PREFIX + name for name in names] + ([FABRIC] if "lab" in names else [])
        ip(f"netns add {space}" for space in spaces)
        switches = {lab.switch_namespace(datapath) for datapath in lab.network.datapaths}
        for space in spaces:
            sysctl({**_NAMESPACE, **(_SWITCH if space in switches else {})}, space)
            raise_interfaces(["lo"], space)
        if "lab" in names:
            self._make_management()
        managed = [name for name in names if name in lab.management]
        ports = {name: f"m{lab.number(name)}" for name in managed if name != "lab"}
        _pairs(
            ((PREFIX + name, MANAGEMENT), (_LAB, port), 1500, "") for name, port in ports.items()
        )
        ip((f"link set {port} master {MANAGEMENT}" for port in ports.values()), _LAB)
        for name in managed:
            sysctl(_MANAGEMENT, PREFIX + name)
            if name not in lab.elsewhere:  # else the address is the host's own
                own = IPv4Interface((lab.management[name], lab.subnet.prefixlen))
                ip([f"address add {own} broadcast + dev {MANAGEMENT}"], PREFIX + name)

    def _make_management(self) -> None:
        """The bridge of the management network, and the operator's interface.

        The bridge is given its MAC address: one that is not takes the lowest of its ports', so
        another when a node comes, and who knows the old one does not reach the hypervisor.
        """
        own = IPv4Interface((self.after.operator, self.after.subnet.prefixlen))
        mac = mac_text(0x02_00 << 32 | int(self.after.management["lab"]))
        ip([f"link add name {MANAGEMENT} address {mac} type bridge forward_delay 0"], _LAB)
        ip([f"link add name {OPERATOR} type veth peer name {_OPERATOR_PORT} netns {_LAB}"])
        ip([f"link set {_OPERATOR_PORT} master {MANAGEMENT}"], _LAB)
        raise_interfaces([MANAGEMENT, _OPERATOR_PORT], _LAB)
        ip([f"link set {OPERATOR} up", f"address add {own} broadcast + dev {OPERATOR}"])
        checksums_in_software([OPERATOR], None)

    def _remove_nodes(self, whats: Whats) -> None:
        names = [name for (name,) in whats]
        _end(lambda one: one.node in names)
        ports = [f"m{self.was.number(name)}" for name in names if name in self.was.management]
        ip((f"link del {port}" for port in ports), _LAB, force=True)
        ip(f"netns del {PREFIX + name}" for name in names)
        for name in names:
            shutil.rmtree(process.STATE_DIR / name, ignore_errors=True)
        if still := [name for name in names if exists(PREFIX + name)]:
            raise LabError(f"not taken away: namespaces of {', '.join(still)}")

    # --- cables, machines, addresses

    def _make_cables(self, whats: Whats) -> None:
        lab = self.after
        cables = [lab.network.cables[name] for (name,) in whats]
        ends = ([(lab.switch_namespace(e.datapath), e.port) for e in (c.a, c.b)] for c in cables)
        _pairs((one, other, CABLE_MTU, "") for one, other in ends)

    def _remove_cables(self, whats: Whats) -> None:
        for (name,) in whats:
            end = self.was.network.cables[name].a
            ip([f"link del {end.port}"], self.was.switch_namespace(end.datapath))

    def _cable_machines(self, whats: Whats) -> None:
        lab = self.after
        _pairs(
            (
                (PREFIX + name, "eth0"),
                (lab.switch_namespace(datapath), port),
                1500,
                mac_text(lab.machines[name].mac),
            )
            for name, datapath, port in whats
        )

    def _uncable_machines(self, whats: Whats) -> None:
        for _, datapath, port in whats:
            ip([f"link del {port}"], self.was.switch_namespace(datapath))

    def _add_addresses(self, whats: Whats) -> None:
        for node, own in _by_first(whats):
            ip(
                (
                    f"address add {address}{_broadcast(dev, address)} dev {dev}"
                    for dev, address in own
                ),
                PREFIX + node,
            )

    def _set_gateways(self, whats: Whats) -> None:
        for node, _, gateway in whats:
            ip([f"route replace default via {gateway}"], PREFIX + node)

    def _speak_ipv6(self, whats: Whats) -> None:
        """Link-local addresses come by the MAC address, and at once: there is no second of either
        to look for."""
        for node, own in _by_first(whats):
            settings = _IPV6_ROUTER if node in self.after.routers else {}
            for (name,) in own:
                conf = f"net/ipv6/conf/{name}"
                settings = settings | {f"{conf}/{key}": value for key, value in _IPV6.items()}
            sysctl(settings, PREFIX + node)

    def _end_ipv6(self, whats: Whats) -> None:
        for node, own in _by_first(whats):
            off: dict[str, str | int] = {f"net/ipv6/conf/{n}/disable_ipv6": 1 for (n,) in own}
            sysctl({**off, "net/ipv6/conf/all/forwarding": 0}, PREFIX + node)

    def _remove_addresses(self, whats: Whats) -> None:
        for node, own in _by_first(whats):
            # others of the same subnet would go with the first of them
            sysctl({"net/ipv4/conf/all/promote_secondaries": 1}, PREFIX + node)
            ip((f"address del {address} dev {dev}" for dev, address in own), PREFIX + node)

    # --- routing daemons

    @property
    def _timers(self) -> routing.Timers:
        return routing.Timers(self.options.hello_s, self.options.dead_s)

    def _start_routing(self, whats: Whats) -> None:
        nodes = {node for (node,) in whats}
        options = self.options
        routing.start(self.after, nodes, options.daemon, self._timers, bgp=options.bgp)

    def _configure_routing(self, whats: Whats) -> None:
        old, new = ({s.node: s for s in routing.speakers(lab)} for lab in (self.was, self.after))
        for (node,) in whats:
            routing.configure(old[node], new[node], self.options.daemon, self._timers)

    def _retire(self, whats: Whats) -> None:
        old = {speaker.node: speaker for speaker in routing.speakers(self.was)}
        for (node,) in whats:
            last = replace(old[node], leaving=True)
            routing.configure(old[node], last, self.options.daemon, self._timers)

    def _drain(self, whats: Whats) -> str:
        """Wait until ways that stay lead elsewhere; there may be no elsewhere.  Returns whose do
        not."""
        gateways = {address for (address,) in whats}
        stay = {*self.after.machines, *self.after.routers}
        nodes = [node.name for node in self.was.nodes() if node.name in stay]
        targets = routing.destinations(self.after)
        limit = time.monotonic() + _DRAIN_S

        def leads(node: str) -> bool:
            return routing.leads_by(node, gateways, targets)

        while any(map(leads, nodes)):
            if time.monotonic() > limit and (late := ", ".join(filter(leads, nodes))):
                return (
                    f"not so after {_DRAIN_S:g} s: ways of {late} lead by "
                    f"{', '.join(sorted(gateways))} still; what takes them is lost until they do "
                    "not"
                )
            time.sleep(0.2)
        return ""

    # --- switches

    def _start_switches(self, whats: Whats) -> None:
        lab, options = self.after, self.options
        template = process.STATE_DIR / "empty.db"
        switch.make_template(template)
        datapaths = [lab.network.datapaths[name] for (name,) in whats]
        nodes = [lab.switch_node(datapath.name) for datapath in datapaths]
        for node in nodes:
            switch.start_database(node, PREFIX + node, template)
        for node in nodes:
            process.await_path(switch.rundir(node) / "db.sock")
        switch.finish(
            [
                switch.vsctl(
                    node,
                    switch.configuration(
                        lab,
                        datapath,
                        controllers=options.controllers,
                        max_idle_ms=options.max_idle_ms,
                        max_revalidator_ms=options.max_revalidator_ms,
                    ),
                    wait=False,
                )
                for node, datapath in zip(nodes, datapaths, strict=True)
            ]
        )
        for node in nodes:
            switch.start_daemon(node, PREFIX + node)

    def _add_ports(self, whats: Whats) -> None:
        lab = self.after
        tags = {(end.datapath, end.port): tag for end, tag in lab.ports.items()}
        self._change_ports(lab, whats, lambda d, port: switch.add_port(port, tags[d, port]))

    def _remove_ports(self, whats: Whats) -> None:
        self._change_ports(self.was, whats, lambda _, port: switch.delete_port(port))

    def _change_ports(self, lab: Lab, whats: Whats, words: Callable[[str, str], list[str]]) -> None:
        switch.finish(
            [
                switch.vsctl(
                    lab.switch_node(datapath),
                    [word for (port,) in ports for word in words(datapath, port)],
                )
                for datapath, ports in _by_first(whats)
            ]
        )

    def _lay_flows(self, whats: Whats) -> None:
        for (datapath,) in whats:
            here = [r for r in self.after.routers if self._host(self.after, r) == datapath]
            flows.install(self.after, datapath, here)

    # --- routers

    def _host(self, lab: Lab, router: str) -> str:
        return self.places.get(router, lab.routers[router].home)

    def _wired(self, lab: Lab, whats: Whats) -> list[tuple[Router, str, list[str]]]:
        """Each router, the host it runs on, and its interfaces that are meant."""
        return [
            (lab.routers[name], self._host(lab, name), [n for (n,) in own])
            for name, own in _by_first(whats)
        ]

    def _make_wires(self, whats: Whats) -> None:
        lab = self.after
        routers = self._wired(lab, whats)
        ip(line for router, _, names in routers for line in wire.build(lab, router, names))
        for router, _, names in routers:
            wire.raise_wires(lab, router, names)

    def _plug(self, whats: Whats) -> None:
        lab = self.after
        routers = self._wired(lab, whats)
        switch.finish([wire.plug(lab, router, host, names) for router, host, names in routers])
        for router, host, names in routers:
            wire.join(lab, router, host, names)

    def _unplug(self, whats: Whats) -> None:
        lab = self.was
        routers = self._wired(lab, whats)
        switch.finish([wire.unplug(lab, router, host, names) for router, host, names in routers])
        for router, _, names in routers:
            wire.remove(lab, router, names)

    def _start_routerds(self, whats: Whats) -> None:
        if (ROOT / "routerd" / "__main__.py").exists():
            for (router,) in whats:
                start_routerd(router)
        elif self.options.controllers:
            raise LabError("routerd cannot be imported; --static brings the lab up without it")

    def _start_hypervisor(self, _: Whats) -> None:
        routers = self.after.routers.items()
        write_domains({name: {"host": r.home, "state": "running"} for name, r in routers})
        start_hypervisor(self.options)

    def _end_hypervisor(self, _: Whats) -> None:
        _end(lambda one: one.name == "hypervisor")
        write_domains({})

    # --- controllers

    def _start_controllers(self, whats: Whats) -> None:
        if self.options.store and self.before is None:
            start_store(self.after, self.options.members)
            start_planner(self.after, self.options.members)
        for (name,) in whats:
            start_controller(self.after, name)

    def tell_controllers(self, *, dry_run: bool = False) -> None:
        """`telling.tell_controllers`, of those that stay."""
        stay = [n for n in self.was.network.controllers if n in self.after.network.controllers]
        controllers = {name: self.was.network.controllers[name] for name in stay}
        session = ManagementSession(replace(self.was.network, controllers=controllers), _TELL_S)
        try:
            if self.options.store:
                apply_to_store(self.after.network, self.text, session, dry_run=dry_run)
            else:
                tell_controllers(self.after.network, session, dry_run=dry_run)
        finally:
            session.close()

    def _end_controllers(self, whats: Whats) -> None:
        nodes = {self.was.controller_node(name) for (name,) in whats}
        _end(lambda one: one.name == "controller" and one.node in nodes)
        for node in nodes:
            shutil.rmtree(process.STATE_DIR / node / "state", ignore_errors=True)


def _by_first(whats: Whats) -> list[tuple[str, list[tuple[str, ...]]]]:
    """What stands after the first word of each, by that."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for first, *rest in whats:
        found.setdefault(first, []).append(tuple(rest))
    return list(found.items())


def _broadcast(interface: str, address: str) -> str:
    if ":" in address:
        return " nodad"
    return "" if interface == "lo" or " peer " in address else " broadcast +"


def _pairs(pairs: Iterable[tuple[Place, Place, int, str]]) -> None:
    """Make pairs of interfaces, as `veth` takes them, and switch them on."""
    pairs = list(pairs)
    ip(veth(*pair) for pair in pairs)
    places = (place for one, other, _, _ in pairs for place in (one, other))
    for namespace, names in by_namespace(places).items():
        raise_interfaces(names, namespace)
        checksums_in_software(names, namespace)


def _end(which: Callable[[process.Process], bool]) -> None:
    """End processes of the lab, and take them from the record."""
    chosen = [one for one in process.recorded() if which(one)]
    process.end(chosen)
    process.forget(chosen)


_CARRY_OUT: dict[Do, Callable[[Change, Whats], str | None]] = {
    Do.NODE: Change._make_nodes,
    Do.CABLE: Change._make_cables,
    Do.MACHINE: Change._cable_machines,
    Do.WIRE: Change._make_wires,
    Do.IPV6: Change._speak_ipv6,
    Do.ADDRESS: Change._add_addresses,
    Do.GATEWAY: Change._set_gateways,
    Do.START_ROUTING: Change._start_routing,
    Do.CONFIGURE_ROUTING: Change._configure_routing,
    Do.RETIRE: Change._retire,
    Do.DRAIN: Change._drain,
    Do.FILE: lambda change, _: write_network_file(change.text, change.after),
    Do.CONTROLLER: Change._start_controllers,
    Do.SWITCH: Change._start_switches,
    Do.PORT: Change._add_ports,
    Do.PLUG: Change._plug,
    Do.START_HYPERVISOR: Change._start_hypervisor,
    Do.TELL_HYPERVISOR: lambda change, _: tell_hypervisor(change.after),
    Do.ROUTERD: Change._start_routerds,
    Do.FLOWS: Change._lay_flows,
    Do.TELL: lambda change, _: change.tell_controllers(),
    Do.IN_SYNC: lambda change, _: await_in_sync(change.after, change.options.limit_s),
    Do.LINK: lambda change, links: await_links(
        change.after, change.options.limit_s, [link for (link,) in links]
    ),
    Do.UNPLUG: Change._unplug,
    Do.NO_ADDRESS: Change._remove_addresses,
    Do.NO_IPV6: Change._end_ipv6,
    Do.NO_PORT: Change._remove_ports,
    Do.NO_MACHINE: Change._uncable_machines,
    Do.NO_CABLE: Change._remove_cables,
    Do.NO_CONTROLLER: Change._end_controllers,
    Do.NO_HYPERVISOR: Change._end_hypervisor,
    Do.NO_NODE: Change._remove_nodes,
}
