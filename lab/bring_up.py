"""Brings a network up as namespaces on one machine, and takes it down again.

`up` reads like a recipe: namespaces, wires, switches, routers, controllers, routing, and then
waits until packets pass from one end to the other.  What it makes is written down before it is
made (`state.py`), what it starts right after (`process.py`), so that `down` can sweep after a crash
at any point.  Nothing is ended or removed that is not on these lists or called `xf-...`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from lab import flows, neighbours, process, routing, switch, wire
from lab.description import (
    CABLE_MTU,
    FABRIC,
    MANAGEMENT,
    PREFIX,
    ROOT,
    Lab,
    find_file,
    load_lab,
)
from lab.namespace import (
    NETNS_DIR,
    LabError,
    at_least,
    checksums_in_software,
    exists,
    ip,
    sysctl,
)
from lab.programs import start_controller, start_hypervisor, start_routerd
from lab.state import (
    HEADER,
    NETWORK_FILE,
    Options,
    State,
    lock,
    read_state,
    write_domains,
    write_network_file,
)
from lab.waiting import await_ends, await_links

HOSTS_OWN_FILE = Path("/etc/xenflow/network.toml")
"""What a host's Domain 0 has (docs/xen.md), where the command looks after NETWORK_FILE."""
OPERATOR = PREFIX + "op"
"""The operator's interface in the root namespace."""
_GLOBAL_SETTINGS: dict[str, int] = {
    # a switch's sockets take this as their buffer when ports are added
    "net/core/rmem_default": 16 << 20,
}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- up ------------------------------------------------------------------------------------------


def up(
    file_or_name: str | Path,
    options: Options | None = None,
    *,
    say: Callable[[str], None] = _say,
    **changes: Any,
) -> Lab:
    """Bring a network up; returns once packets pass between the first and the last machine.

    Where hosts are elsewhere it returns before: `await_ends` waits, once they are there.
    `changes` are fields of `Options`.  Raises NetworkError where the file is wrong, LabError where
    a lab is up already or this one did not come up; everything is swept then unless `keep`.
    """
    if os.geteuid() != 0:
        raise LabError("the lab needs root: it makes network namespaces")
    options = replace(options or Options(), **changes)
    _refuse_host()
    path = find_file(file_or_name)
    lab = load_lab(path)
    if options.daemon not in routing.DAEMONS:
        raise LabError(f"daemon {options.daemon}: expected one of {', '.join(routing.DAEMONS)}")
    if options.controllers and not (ROOT / "pox.py").exists():
        raise LabError(f"{ROOT / 'pox.py'} does not exist; --static brings the lab up without it")
    with lock():
        _refuse_second()
        begun = time.monotonic()
        try:
            _Builder(lab, path, options, say).build()
        except BaseException as error:
            if options.keep:
                _note_kept()
            else:
                _sweep()
            hint = f"logs: {process.LOG_DIR}"
            if options.keep:
                hint += "; kept as it is: `xenflow lab down` sweeps it"
            if isinstance(error, LabError):
                raise LabError(f"{error}\n{hint}") from None
            raise
        say(f"up in {time.monotonic() - begun:.1f} s: {lab.network.name}")
    return load_lab(NETWORK_FILE)


def _note_kept() -> None:
    state = read_state()
    if state is not None:
        replace(state, phase="kept").write()


def _refuse_host() -> None:
    """On a host of a network `xenflow` means that network, and shall go on to do so."""
    if HOSTS_OWN_FILE.exists() and "XENFLOW_ISOLATED" not in os.environ:
        raise LabError(
            f"this machine is a host of a network ({HOSTS_OWN_FILE}), and beside a lab `xenflow` "
            "would mean the lab's: bring it up in a shell of its own, `scripts/isolated sh`"
        )


def _refuse_second() -> None:
    state = read_state()
    if state is None:
        left = sorted(p.name for p in NETNS_DIR.glob(PREFIX + "*")) if NETNS_DIR.exists() else []
        if left:
            raise LabError(
                f"namespaces of an earlier lab are left ({', '.join(left)}): "
                "`xenflow lab down` sweeps them"
            )
        return
    if state.phase == "up":
        raise LabError(
            f"a lab is up already ({state.network}, from {state.source}): "
            "`xenflow lab down` ends it"
        )
    raise LabError(f"a lab was left behind half up ({state.network}): `xenflow lab down` sweeps it")


class _Builder:
    """One run of `up`."""

    def __init__(
        self, lab: Lab, source: Path, options: Options, say: Callable[[str], None]
    ) -> None:
        self.lab = lab
        self.source = source
        self.options = options
        self.begun = time.monotonic()
        self._say = say

    def say(self, text: str) -> None:
        self._say(f"{time.monotonic() - self.begun:5.1f} s  {text}")

    def build(self) -> None:
        shutil.rmtree(process.STATE_DIR, ignore_errors=True)
        process.LOG_DIR.mkdir(parents=True)
        nodes = self.lab.nodes()
        state = State(
            "starting",
            str(self.source.resolve()),
            self.lab.network.name,
            (*dict.fromkeys(n.namespace for n in nodes), FABRIC),
            time.time(),
            self.options,
        )
        state.write()
        room = neighbours.settings(neighbours.needed(self.lab))
        state = replace(state, settings_before=at_least({**_GLOBAL_SETTINGS, **room}))
        state.write()
        for name, before in state.settings_before.items():
            if name in room:
                parameter = name.replace("/", ".")
                self.say(f"{parameter} {before} -> {room[name]}, until `lab down`")
        neighbours.check(self.lab)
        write_network_file(self.lab, self.source)
        routers = self.lab.routers.items()
        write_domains({n: {"host": r.home, "state": "running"} for n, r in routers})
        self.make_namespaces(state.namespaces)
        self.say(f"{len(nodes)} nodes")
        # An OSPF daemon describes its links anew only after 5 s (MinLSInterval): the earlier it
        # has begun, the earlier that time is over.
        self.start_routing()
        self.make_switches()
        self.plug_routers()
        if self.lab.routers:
            start_hypervisor(self.options)
        self.start_routerds()
        self.say("switches, routers and controllers started")
        if self.lab.elsewhere:
            self.say(f"not waited for: {', '.join(self.lab.elsewhere)}, not the lab's own")
        else:
            limit = self.begun + self.options.limit_s
            await_links(self.lab, limit - time.monotonic())
            self.say("every link passes packets")
            await_ends(self.lab, limit - time.monotonic())
        replace(state, phase="up", since=time.time()).write()

    def make_namespaces(self, namespaces: tuple[str, ...]) -> None:
        lab, network = self.lab, self.lab.network
        ip(f"netns add {name}" for name in namespaces)
        for name in namespaces:
            sysctl(
                {
                    "net/ipv6/conf/default/disable_ipv6": 1,
                    "net/ipv6/conf/all/forwarding": 0,
                    "net/ipv4/ip_forward": 0,
                    "net/ipv4/conf/all/rp_filter": 0,
                    "net/ipv4/conf/default/rp_filter": 0,
                    "net/ipv4/conf/all/accept_redirects": 0,
                    "net/ipv4/conf/default/accept_redirects": 0,
                },
                name,
            )
        for datapath in network.datapaths:
            # A userspace switch reads its ports beside the kernel's own stack: what comes from
            # the network must not reach the host's addresses, nor be answered by ARP.
            sysctl(
                {"net/ipv4/conf/default/rp_filter": 1, "net/ipv4/conf/default/arp_ignore": 8},
                lab.switch_namespace(datapath),
            )
        links: list[str] = []
        inner: dict[str, list[str]] = {name: ["link set lo up"] for name in namespaces}
        offload: dict[str, list[str]] = {name: [] for name in namespaces}

        def veth(one: tuple[str, str], other: tuple[str, str], mtu: int, more: str = "") -> None:
            links.append(
                f"link add name {one[1]} {more} mtu {mtu} netns {one[0]} "
                f"type veth peer name {other[1]} mtu {mtu} netns {other[0]}"
            )
            for namespace, name in (one, other):
                inner[namespace].append(f"link set {name} up")
                offload[namespace].append(name)

        for cable in network.cables.values():
            a, b = cable.a, cable.b
            veth(
                (lab.switch_namespace(a.datapath), a.port),
                (lab.switch_namespace(b.datapath), b.port),
                CABLE_MTU,
            )
        for machine in lab.machines.values():
            end = machine.access
            own = PREFIX + machine.name
            veth(
                (own, "eth0"),
                (lab.switch_namespace(end.datapath), end.port),
                1500,
                f"address {wire.mac_text(machine.mac)}",
            )
            inner[own].append(f"address add {lab.assigned(machine.link, machine.address)} dev eth0")
        for router in lab.routers.values():
            links += wire.build(lab, router)
        links += self.management(inner, veth)
        ip(links)
        for name in namespaces:
            ip(inner[name], name)
            checksums_in_software(offload[name], name)
            sysctl(
                {
                    f"net/ipv4/conf/{MANAGEMENT}/rp_filter": 0,
                    f"net/ipv4/conf/{MANAGEMENT}/arp_ignore": 1,
                },
                name,
            )
        for router in lab.routers.values():
            wire.raise_router(lab, router)
        address = IPv4Interface((lab.operator, lab.subnet.prefixlen))
        ip([f"link set {OPERATOR} up", f"address add {address} broadcast + dev {OPERATOR}"])
        checksums_in_software([OPERATOR], None)

    def management(self, inner: dict[str, list[str]], veth: Callable[..., None]) -> list[str]:
        """A bridge in the lab's own namespace, an interface in every node but the routers."""
        lab = self.lab
        here = PREFIX + "lab"
        for number, (name, address) in enumerate(lab.management.items()):
            if name != "lab":
                veth((PREFIX + name, MANAGEMENT), (here, f"m{number}"), 1500)
                inner[here].append(f"link set m{number} master {MANAGEMENT}")
            if name in lab.elsewhere:
                continue  # the address is the host's own
            own = IPv4Interface((address, lab.subnet.prefixlen))
            inner[PREFIX + name].append(f"address add {own} broadcast + dev {MANAGEMENT}")
        inner[here][:0] = [
            f"link add name {MANAGEMENT} type bridge forward_delay 0",
            f"link set {MANAGEMENT} up",
        ]
        inner[here] += ["link set m-op master " + MANAGEMENT, "link set m-op up"]
        return [f"link add name {OPERATOR} type veth peer name m-op netns {here}"]

    def make_switches(self) -> None:
        lab, options = self.lab, self.options
        template = process.STATE_DIR / "empty.db"
        switch.make_template(template)
        datapaths = lab.datapaths
        for datapath in datapaths:
            node = lab.switch_node(datapath.name)
            switch.start_database(node, PREFIX + node, template)
        if options.controllers:
            for name in lab.controllers:
                start_controller(lab, name)
        for datapath in datapaths:
            process.await_path(switch.rundir(lab.switch_node(datapath.name)) / "db.sock")
        switch.finish(
            [
                switch.vsctl(
                    lab.switch_node(d.name),
                    switch.configuration(
                        lab,
                        d,
                        controllers=options.controllers,
                        max_idle_ms=options.max_idle_ms,
                        max_revalidator_ms=options.max_revalidator_ms,
                    ),
                    wait=False,
                )
                for d in datapaths
            ]
        )
        for datapath in datapaths:
            node = lab.switch_node(datapath.name)
            switch.start_daemon(node, PREFIX + node)

    def plug_routers(self) -> None:
        lab = self.lab
        routers = lab.routers.values()
        switch.finish([wire.plug(lab, router, router.home) for router in routers])
        for router in routers:
            wire.join(lab, router, router.home)
        if not self.options.controllers:
            for datapath in lab.datapaths:
                here = [r.name for r in routers if r.home == datapath.name]
                flows.install(lab, datapath.name, here)

    def start_routerds(self) -> None:
        if (ROOT / "routerd" / "__main__.py").exists():
            for router in self.lab.routers:
                start_routerd(router)
        elif self.options.controllers:
            raise LabError("routerd cannot be imported; --static brings the lab up without it")

    def start_routing(self) -> None:
        timers = routing.Timers(self.options.hello_s, self.options.dead_s)
        routing.start(self.lab, self.options.daemon, timers, bgp=self.options.bgp)


# --- down ----------------------------------------------------------------------------------------


def down(*, say: Callable[[str], None] = _say) -> None:
    """End the lab's processes and remove what it made; also after a crash, also twice.

    The logs stay until the next `up`.  Raises LabError where something does not go away.
    """
    with lock():
        if _sweep():
            say("down")
        else:
            say("no lab was up")


def _sweep() -> bool:
    """Returns whether there was anything."""
    state = None
    with suppress(LabError):
        state = read_state()
    processes = process.recorded()
    left = {p.name for p in NETNS_DIR.glob(PREFIX + "*")} if NETNS_DIR.exists() else set()
    process.end(processes)
    ip([f"link del {OPERATOR}"] if left else [], force=True)
    ip((f"netns del {name}" for name in sorted(left)), force=True)
    if state is not None:
        sysctl(dict(state.settings_before))
    for path in process.STATE_DIR.glob("*"):
        if path == process.LOG_DIR:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    process.forget()
    with suppress(FileNotFoundError):
        if NETWORK_FILE.read_text().startswith(HEADER):
            NETWORK_FILE.unlink()
    still = [name for name in left if exists(name)]
    if still:
        raise LabError(f"not removed: namespaces {', '.join(sorted(still))}")
    return bool(left or processes or state)
