"""Plane separation in Domain 0's kernel: the report's second baseline (section 2.4; Pisa et al.,
"Migrating Xen virtual routers with no packet loss"), and design (c) of its figure 1.5.

The VM runs the routing protocol.  Domain 0's kernel has a copy of its routes and neighbours and
forwards data packets; what is meant for the VM itself goes on to its vif.  In the lab, for a host:

    cable --  outer interface  --nft ingress-->  data: the host's kernel, in a table of its own
                                                 the rest: the vif
    vif   --nft ingress-->  the outer interface

What was chosen so that it is the thing itself and no caricature: frames that Domain 0 forwards have
the host's own MAC as their source, as with any kernel that forwards, so that only the VM teaches
the switches where it is, and a gratuitous ARP turns the links at once; the destination's copy is
there before the VM moves, and the source's is removed only when nothing arrives there any more.

What it needs, by its nature: every link of the router reaches both hosts as one LAN.  In the lab
the edge switches are learning switches for it.  Left out: routes with several next hops, and next
hops that the VM has not resolved.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lab import bring_up, switch, wire
from lab.bring_up import Options, read_domains
from lab.description import PREFIX, Lab
from lab.hypervisor import RUNNING, SUSPENDED, Routers
from lab.moves import ends
from lab.namespace import LabError, inside, ip, sysctl
from lab.probe import OutageWatch
from xenflow.pure.network import Kind, Router

TABLE = 100
_NFT = "plane-separation"
_QUIET_S = 0.1
_QUIET_LIMIT_S = 20.0
_CONVERGE_S = 30.0


# --- what is decided -----------------------------------------------------------------------------


def copied_routes(routes: Iterable[Mapping[str, Any]], outer: Mapping[str, str]) -> list[str]:
    """The `ip route` commands that give Domain 0's table the VM's routes.

    `routes` as `ip -j route` in the VM shows them; `outer`: the VM's interface -> the host's.
    Raises LabError for a route that cannot be copied.
    """
    commands = []
    for route in routes:
        prefix = route["dst"]
        if "nexthops" in route:
            raise LabError(f"route {prefix}: several next hops; plane separation copies one")
        if route.get("type", "unicast") != "unicast":
            commands.append(f"route replace {route['type']} {prefix} table {TABLE}")
        elif route["dev"] in outer:
            way = f" via {route['gateway']}" if "gateway" in route else ""
            link = " onlink" if way else " scope link"
            commands.append(
                f"route replace {prefix}{way} dev {outer[route['dev']]} table {TABLE}{link}"
            )
    return commands


def copied_neighbours(
    neighbours: Iterable[Mapping[str, Any]], outer: Mapping[str, str]
) -> list[str]:
    """The `ip neighbour` commands for those that the VM has resolved (`ip -j neigh`)."""
    return [
        f"neighbour replace {n['dst']} lladdr {n['lladdr']} dev {outer[n['dev']]} nud permanent"
        for n in neighbours
        if "lladdr" in n and n["dev"] in outer and not {"FAILED", "INCOMPLETE"} & {*n["state"]}
    ]


def rules(link_ends: Iterable[LinkEnd], vm_here: bool) -> str:
    """The nftables rules of a host: which frames its kernel forwards, which are the VM's.

    Without the VM the latter are dropped, as by a bridge behind which nobody is.
    """
    chains = []
    for end in link_ends:
        to_vm = f'fwd to "{end.vif}"' if vm_here else "drop"
        chains.append(f"""
    chain in-{end.outer} {{
        type filter hook ingress device "{end.outer}" priority 0; policy drop;
        ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 {to_vm}
        ether daddr != {end.mac} drop
        ether type != ip {to_vm}
        ip daddr {{ {end.address}, 224.0.0.0/4, 255.255.255.255 }} {to_vm}
        ip ttl < 2 {to_vm}
        counter name data meta pkttype set host accept
    }}""")
        if vm_here:
            chains.append(f"""
    chain out-{end.vif} {{
        type filter hook ingress device "{end.vif}" priority 0; policy drop;
        fwd to "{end.outer}"
    }}""")
    return f"""
add table netdev {_NFT}
delete table netdev {_NFT}
table netdev {_NFT} {{
    counter data {{ }}
{"".join(chains)}
}}
"""


@dataclass(frozen=True, slots=True)
class LinkEnd:
    """Where a link of the router meets a host; `address` is the router's on it."""

    interface: str
    outer: str
    vif: str
    mac: str
    address: str


# --- what is done --------------------------------------------------------------------------------


class Domain0:
    """One host whose kernel forwards for a router."""

    def __init__(self, lab: Lab, router: Router, host: str) -> None:
        self.lab, self.router, self.host = lab, router, host
        self.namespace = lab.switch_namespace(host)
        self.ends = list(self._link_ends())
        self._outer = {end.interface: end.outer for end in self.ends}

    def _link_ends(self) -> Iterator[LinkEnd]:
        network = self.lab.network
        for interface in self.router.interfaces:
            link = network.links[interface.link]
            here = [a.end.port for a in link.access if a.end.datapath == self.host]
            sides = {a.end.datapath for a in link.access}
            here += [
                c.near(self.host).port for c in network.cables_of[self.host]
                if sides & {c.a.datapath, c.b.datapath} - {self.host}
            ]
            if len(here) != 1:
                raise LabError(f"link {link.name} does not reach {self.host} as one LAN: plane "
                               "separation in Domain 0's kernel needs that")
            address = self.lab.addresses[self.router.name][interface.name].ip
            yield LinkEnd(interface.name, here[0], interface.vif,
                          wire.mac_text(interface.mac), str(address))

    def take_ports(self) -> None:
        """From the switch to the kernel; and what a kernel that forwards needs."""
        self.release([end.outer for end in self.ends])
        sysctl(
            {
                "net/ipv4/ip_forward": 1,
                "net/ipv4/conf/all/rp_filter": 0,
                "net/ipv4/conf/all/send_redirects": 0,
                **{
                    f"net/ipv4/conf/{end.outer}/{name}": value
                    for end in self.ends
                    for name, value in (
                        ("rp_filter", 0), ("send_redirects", 0), ("arp_ignore", 8),
                        ("forwarding", 1),
                    )
                },
            },
            self.namespace,
        )  # fmt: skip
        ip([f"rule add iif {end.outer} lookup {TABLE}" for end in self.ends], self.namespace)

    def release(self, ports: Iterable[str]) -> None:
        """The switch has these no more."""
        words = [word for port in ports for word in ("--", "--if-exists", "del-port", port)]
        switch.finish([switch.vsctl(self.lab.switch_node(self.host), words)])

    def copy(self) -> None:
        """The VM's routes and neighbours as they are now."""
        vm = PREFIX + self.router.name
        commands = copied_routes(_shown(vm, "route", "show", "table", "main"), self._outer)
        commands += copied_neighbours(_shown(vm, "neighbour"), self._outer)
        ip(commands, self.namespace)

    def forward(self, *, vm_here: bool) -> None:
        """Frames of the router are taken from now on, those for the VM too where it is here."""
        if vm_here:
            self.release([end.vif for end in self.ends])
        with inside(self.namespace):
            done = subprocess.run(
                ["nft", "-f", "-"], input=rules(self.ends, vm_here), capture_output=True, text=True
            )
        if done.returncode:
            raise LabError(f"nft on {self.host}: {done.stderr.strip()}")

    def forwarded(self) -> int:
        """How many packets the kernel has been given."""
        with inside(self.namespace):
            shown = subprocess.run(
                ["nft", "-j", "list", "counter", "netdev", _NFT, "data"],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
        (found,) = (c["counter"] for c in json.loads(shown)["nftables"] if "counter" in c)
        return int(found["packets"])

    def await_quiet(self) -> None:
        """Until nothing arrives any more.

        Raises LabError where that does not come about.
        """
        end = time.monotonic() + _QUIET_LIMIT_S
        before = -1
        while (now := self.forwarded()) != before:
            if time.monotonic() > end:
                raise LabError(f"{self.host} still forwards after {_QUIET_LIMIT_S:g} s")
            before = now
            time.sleep(_QUIET_S)

    def clear(self) -> None:
        """Nothing is taken any more, nothing of the copy left."""
        with inside(self.namespace):
            subprocess.run(["nft", "delete", "table", "netdev", _NFT], check=True)
        ip([f"route flush table {TABLE}", *(f"neighbour flush dev {end.outer} nud permanent"
                                           for end in self.ends)], self.namespace, force=True)


def _shown(namespace: str, *words: str) -> list[dict[str, Any]]:
    with inside(namespace):
        text = subprocess.run(
            ["ip", "-4", "-j", *words], capture_output=True, text=True, check=True
        ).stdout
    found: list[dict[str, Any]] = json.loads(text or "[]")
    return found


class Copier:
    """Follows the VM's routes and neighbours: whatever changes is copied to the hosts that hold
    the router.  Its watcher runs in the VM and is suspended with it."""

    def __init__(self, router: str) -> None:
        self.hosts: tuple[Domain0, ...] = ()
        self.error: Exception | None = None
        with inside(PREFIX + router):
            self._watcher = subprocess.Popen(
                ["ip", "-4", "monitor", "route", "neigh"], stdout=subprocess.PIPE, text=True
            )
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        assert self._watcher.stdout is not None
        for _ in self._watcher.stdout:
            try:
                self.copy_to(self.hosts)
            except (LabError, OSError, subprocess.CalledProcessError) as error:
                self.error = error
                return

    def copy_to(self, hosts: Iterable[Domain0]) -> None:
        """Copy now."""
        with self._lock:
            for host in hosts:
                host.copy()

    def close(self) -> None:
        """End it."""
        self._watcher.kill()
        self._watcher.wait()
        self._thread.join()


class KernelMover:
    """Moves a router whose data plane is in the hosts' kernels."""

    def __init__(self, lab: Lab, options: Options) -> None:
        ((name, self._router),) = lab.routers.items()
        self.lab, self._options = lab, options
        self._watcher = ends(lab)[0]
        watched = lab.machines[self._watcher].address.network
        self._address = str(next(
            a.ip for a in lab.addresses[name].values() if a.ip in watched
        ))
        self._routers = Routers(lab, fixed_flows=False)
        self._hosts = {host: Domain0(lab, self._router, host) for host in lab.hosts}
        self._copier = Copier(name)

    @property
    def host(self) -> str:
        """Where the router is."""
        return read_domains()[self._router.name]["host"]

    def begin(self) -> None:
        """From the lab's fixed flows to plane separation; returns when packets pass."""
        for host in self._hosts.values():
            host.take_ports()
        for datapath in self.lab.network.datapaths.values():
            if datapath.kind is Kind.PLAIN:
                learn(self.lab, datapath.name)
        here = self._hosts[self.host]
        self._copier.copy_to([here])
        self._copier.hosts = (here,)
        here.forward(vm_here=True)
        bring_up.await_ends(self.lab, _CONVERGE_S)

    def move(self) -> tuple[float, float, float]:
        """To the other host: how long in all, the router's address silent, the VM suspended."""
        source = self.host
        to = next(host for host in self._hosts if host != source)
        with OutageWatch(self._watcher, self._address) as watch:
            time.sleep(0.1)
            begun = time.monotonic()
            suspended_s = self._move(self._hosts[source], self._hosts[to])
            total_s = time.monotonic() - begun
            time.sleep(0.1)
        if self._copier.error:
            raise LabError(f"routes were not copied: {self._copier.error}")
        return total_s, watch.outage_s, suspended_s

    def _move(self, source: Domain0, to: Domain0) -> float:
        routers, router = self._routers, self._router
        # The destination forwards before anything is sent there; changes go to both.
        self._copier.copy_to([to])
        self._copier.hosts = (source, to)
        to.forward(vm_here=False)
        time.sleep(self._options.precopy_s)
        routers.note(router, source.host, SUSPENDED)
        begun = time.monotonic()
        routers.suspend(router, source.host)
        routers.move_ports(router, source.host, to.host)
        to.forward(vm_here=True)
        time.sleep(max(0.0, begun + self._options.pause_s - time.monotonic()))
        routers.resume(router, to.host, announce=True)
        suspended_s = time.monotonic() - begun
        routers.note(router, to.host, RUNNING)
        source.await_quiet()
        self._copier.hosts = (to,)
        source.clear()
        return suspended_s

    def close(self) -> None:
        """End what follows the VM's routes."""
        self._copier.close()


def learn(lab: Lab, datapath: str) -> None:
    """Make a switch at the edge an ordinary learning one.

    Only where it is in a single link: its cables would join links otherwise.
    """
    network = lab.network
    access = [a.end.port for link in network.links.values() for a in link.access
              if a.end.datapath == datapath]
    if len(access) != 1:
        raise LabError(f"{datapath} is in {len(access)} links: not a LAN of one link")
    node = lab.switch_node(datapath)
    switch.finish([switch.vsctl(node, ["clear", "Port", access[0], "tag"])])
    switch.ofctl(node, "replace-flows", switch.BRIDGE, "-", text="actions=NORMAL\n")


@contextmanager
def separated(topology: str) -> Iterator[KernelMover]:
    """A lab in which Domain 0's kernels forward; it is taken down in any case."""
    options = Options(controllers=False)
    lab = bring_up.up(topology, options, say=lambda _: None)
    try:
        mover = KernelMover(lab, options)
        try:
            mover.begin()
            yield mover
        finally:
            mover.close()
    finally:
        bring_up.down(say=lambda _: None)
