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

What it needs, by its nature: every link of the router reaches both hosts as one LAN.  The edge
switches are learning switches for it.  Left out: routes with several next hops, and next hops that
the VM has not resolved.  Here is what both backends share, and the lab's part; the rest of genuine
Xen's is in `domain0_on_xen`.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from lab import bring_up, switch
from lab.description import PREFIX, Lab
from lab.hypervisor import RUNNING, SUSPENDED, RouterNamespaces
from lab.moves import ends
from lab.namespace import LabError, inside
from lab.probe import OutageWatch
from lab.state import LabOptions, read_domains
from lab.waiting import await_ends
from xenflow.model.network import DatapathKind, Router
from xenflow.model.values import mac_text

TABLE = 100
_NFT = "plane-separation"
_QUIET_S = 0.1
_QUIET_LIMIT_S = 20.0
_CONVERGE_S = 120.0


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


Run = Callable[[str, str], str]
"""Runs a shell script on a host, with an input, and returns what it prints.  Raises LabError."""
Shown = list[dict[str, Any]]
"""What `ip -4 -j` shows."""
Moved = tuple[float, float, float]
"""Seconds: in all, the router's address silent, the VM suspended."""


class Domain0:
    """One host whose kernel forwards for a router; `run` is the way to it, the lab's by default."""

    def __init__(self, lab: Lab, router: Router, host: str, run: Run | None = None) -> None:
        self.lab, self.router, self.host = lab, router, host
        self.namespace = lab.switch_namespace(host)
        self._run = run or partial(_run_in_lab, lab, host)
        self.ends = list(self._link_ends())
        self._outer = {end.interface: end.outer for end in self.ends}

    def _link_ends(self) -> Iterator[LinkEnd]:
        network = self.lab.network
        for interface in self.router.interfaces:
            link = network.links[interface.link]
            here = [a.end.port for a in link.access if a.end.datapath == self.host]
            sides = {a.end.datapath for a in link.access}
            here += [
                c.near(self.host).port
                for c in network.cables_of[self.host]
                if sides & {c.a.datapath, c.b.datapath} - {self.host}
            ]
            if len(here) != 1:
                raise LabError(
                    f"link {link.name} does not reach {self.host} as one LAN: plane "
                    "separation in Domain 0's kernel needs that"
                )
            address = self.lab.addresses[self.router.name][interface.name].ip
            yield LinkEnd(
                interface.name, here[0], interface.vif, mac_text(interface.mac), str(address)
            )

    def take_ports(self) -> None:
        """From the switch to the kernel; and what a kernel that forwards needs."""
        self.release([end.outer for end in self.ends])
        values = {"ip_forward": 1, "conf/all/rp_filter": 0, "conf/all/send_redirects": 0}
        for end in self.ends:
            for name, value in (
                ("rp_filter", 0),
                ("send_redirects", 0),
                ("arp_ignore", 8),
                ("forwarding", 1),
            ):
                values[f"conf/{end.outer}/{name}"] = value
        lines = [f"echo {value} >/proc/sys/net/ipv4/{name}" for name, value in values.items()]
        self._run(
            "\n".join([*lines, "ip -batch -"]),
            _batch(
                line
                for end in self.ends
                # frames to the VM's MAC address are for another host, as a network card sees it
                for line in (
                    f"link set {end.outer} promisc on up",
                    f"rule add iif {end.outer} lookup {TABLE}",
                )
            ),
        )

    def release(self, ports: Iterable[str]) -> None:
        """The switch has these no more."""
        words = [word for port in ports for word in ("--", "--if-exists", "del-port", port)]
        self._run(f"ovs-vsctl --timeout={switch.TIMEOUT_S} {' '.join(words)}", "")

    def copy(self, routes: Shown, neighbours: Shown) -> None:
        """The VM's routes and neighbours, as they are now."""
        self._run(
            "ip -batch -",
            _batch(
                [*copied_routes(routes, self._outer), *copied_neighbours(neighbours, self._outer)]
            ),
        )

    def forward(self, *, vm_here: bool) -> None:
        """Frames of the router are taken from now on, those for the VM too where it is here."""
        if vm_here:
            self.release([end.vif for end in self.ends])
        self._run("nft -f -", rules(self.ends, vm_here))

    def forwarded(self) -> int:
        """How many packets the kernel has been given."""
        shown = self._run(f"nft -j list counter netdev {_NFT} data", "")
        (found,) = (c["counter"] for c in json.loads(shown)["nftables"] if "counter" in c)
        return int(found["packets"])

    def await_quiet(self, quiet_s: float) -> None:
        """Until nothing arrives any more.

        Raises LabError where that does not come about.
        """
        end = time.monotonic() + _QUIET_LIMIT_S
        before = -1
        while (now := self.forwarded()) != before:
            if time.monotonic() > end:
                raise LabError(f"{self.host} still forwards after {_QUIET_LIMIT_S:g} s")
            before = now
            time.sleep(quiet_s)

    def clear(self) -> None:
        """Nothing is taken any more, nothing of the copy left."""
        self._run(
            f"nft delete table netdev {_NFT}\nip -force -batch - || true",
            _batch(
                [
                    f"route flush table {TABLE}",
                    *(f"neighbour flush dev {end.outer} nud permanent" for end in self.ends),
                ]
            ),
        )


def _batch(commands: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in commands)


def _run_in_lab(lab: Lab, host: str, script: str, text: str) -> str:
    environment = {**os.environ, **switch.environment(lab.switch_node(host))}
    with inside(lab.switch_namespace(host)):
        done = subprocess.run(
            ["sh", "-ec", script],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    if done.returncode:
        raise LabError(f"{script} on {host}: {done.stderr.strip()}")
    return done.stdout


class Copier:
    """Copies the VM's routes and neighbours, which `guest` tells, to the hosts that hold the
    router."""

    def __init__(self, guest: Callable[[], tuple[Shown, Shown]]) -> None:
        self._hosts: tuple[Domain0, ...] = ()
        self.error: Exception | None = None
        self._guest = guest
        self._lock = threading.Lock()

    def copy_to(self, hosts: Iterable[Domain0]) -> None:
        """Copy now."""
        with self._lock:
            self._copy_to(hosts)

    def hold_at(self, *hosts: Domain0) -> None:
        """From now on these hold the router: when it returns nothing is copied to others any more,
        nor will be."""
        with self._lock:
            self._hosts = hosts

    def follow(self) -> None:
        """Copy to those that hold the router."""
        with self._lock:
            self._copy_to(self._hosts)

    def _copy_to(self, hosts: Iterable[Domain0]) -> None:
        routes, neighbours = self._guest()
        for host in hosts:
            host.copy(routes, neighbours)

    def close(self) -> None:
        """End it."""


class Follower(Copier):
    """The lab's: whatever changes is copied at once.  Its watcher runs in the VM and is suspended
    with it."""

    def __init__(self, router: str) -> None:
        self._vm = PREFIX + router
        super().__init__(
            lambda: (self._shown("route", "show", "table", "main"), self._shown("neighbour"))
        )
        with inside(self._vm):
            self._watcher = subprocess.Popen(
                ["ip", "-4", "monitor", "route", "neigh"], stdout=subprocess.PIPE, text=True
            )
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _shown(self, *words: str) -> Shown:
        with inside(self._vm):
            text = subprocess.run(
                ["ip", "-4", "-j", *words], capture_output=True, text=True, check=True
            ).stdout
        found: Shown = json.loads(text or "[]")
        return found

    def _follow(self) -> None:
        assert self._watcher.stdout is not None
        for _ in self._watcher.stdout:
            try:
                self.follow()
            except (LabError, OSError, subprocess.CalledProcessError) as error:
                self.error = error
                return

    def close(self) -> None:
        """End it."""
        self._watcher.kill()
        self._watcher.wait()
        self._thread.join()


class KernelMover(ABC):
    """Moves a router whose data plane is in the hosts' kernels.

    A machine asks every `watch_s` seconds whether the router answers; the source is quiet when for
    `quiet_s` nothing came.
    """

    watch_s = 0.02
    quiet_s = 0.1

    def __init__(self, lab: Lab, hosts: Mapping[str, Domain0], copier: Copier) -> None:
        self.lab, self._hosts, self._copier = lab, hosts, copier
        self._watcher = ends(lab)[0]
        watched = lab.machines[self._watcher].address.network
        self.router = next(iter(hosts.values())).router
        self._address = str(
            next(a.ip for a in lab.addresses[self.router.name].values() if a.ip in watched)
        )

    @property
    @abstractmethod
    def host(self) -> str:
        """Where the router is."""

    @abstractmethod
    def carry(self, source: Domain0, to: Domain0) -> float:
        """Move the VM; `to` is told that it is there before it runs.  Returns how long it was
        suspended, in seconds."""

    def begin(self) -> None:
        """From OpenFlow to plane separation; returns when packets pass."""
        here = self._hosts[self.host]
        self._copier.copy_to([here])  # as long as the VM can be asked
        self._copier.hold_at(here)
        for host in self._hosts.values():
            host.take_ports()
        for datapath in self.lab.network.datapaths.values():
            if datapath.kind is DatapathKind.PLAIN:
                learn(self.lab, datapath.name)
        here.forward(vm_here=True)
        await_ends(self.lab, _CONVERGE_S)

    @abstractmethod
    def refresh(self) -> None:
        """Before a session: what wears out is replaced."""

    def move(self) -> Moved:
        """To the other host."""
        source = self.host
        to = next(host for host in self._hosts if host != source)
        with OutageWatch(self._watcher, self._address, self.watch_s) as watch:
            time.sleep(0.1)
            begun = time.monotonic()
            suspended_s = self._move(self._hosts[source], self._hosts[to])
            total_s = time.monotonic() - begun
            time.sleep(0.1)
        if self._copier.error:
            raise LabError(f"routes were not copied: {self._copier.error}")
        return total_s, watch.outage_s, suspended_s

    def _move(self, source: Domain0, to: Domain0) -> float:
        # The destination forwards before anything is sent there; changes go to both.
        self._copier.copy_to([to])
        self._copier.hold_at(source, to)
        to.forward(vm_here=False)
        suspended_s = self.carry(source, to)
        source.await_quiet(self.quiet_s)
        self._copier.hold_at(to)
        source.clear()
        return suspended_s

    def close(self) -> None:
        """End what follows the VM's routes."""
        self._copier.close()


class LabKernelMover(KernelMover):
    """In the lab: what its hypervisor does, step by step."""

    def __init__(self, lab: Lab, options: LabOptions) -> None:
        ((name, router),) = lab.routers.items()
        hosts = {host: Domain0(lab, router, host) for host in lab.hosts}
        super().__init__(lab, hosts, Follower(name))
        self._options = options
        self._routers = RouterNamespaces(lab, LabOptions())  # no fixed flows

    @property
    def host(self) -> str:
        return read_domains()[self.router.name]["host"]

    def refresh(self) -> None:
        """Nothing of the lab's wears out."""

    def carry(self, source: Domain0, to: Domain0) -> float:
        routers, router = self._routers, self.router
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
        return suspended_s


def learn(lab: Lab, datapath: str) -> None:
    """Make a switch at the edge an ordinary learning one.

    Only where it is in a single link: its cables would join links otherwise.
    """
    network = lab.network
    access = [
        a.end.port
        for link in network.links.values()
        for a in link.access
        if a.end.datapath == datapath
    ]
    if len(access) != 1:
        raise LabError(f"{datapath} is in {len(access)} links: not a LAN of one link")
    node = lab.switch_node(datapath)
    switch.finish(
        [
            switch.vsctl(
                node, ["clear", "Port", access[0], "tag", "--", "del-controller", switch.BRIDGE]
            )
        ]
    )
    switch.ofctl(node, "replace-flows", switch.BRIDGE, "-", text="actions=NORMAL\n")


@contextmanager
def separated(topology: str) -> Iterator[KernelMover]:
    """A lab in which Domain 0's kernels forward; it is taken down in any case."""
    options = LabOptions(controllers=False, limit_s=_CONVERGE_S)
    lab = bring_up.up(topology, options, say=lambda _: None)
    try:
        mover = LabKernelMover(lab, options)
        try:
            mover.begin()
            yield mover
        finally:
            mover.close()
    finally:
        bring_up.down(say=lambda _: None)
