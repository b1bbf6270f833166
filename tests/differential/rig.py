"""Two identical routers on one machine, and the wires to send the same frames into both.

    reference   k0..k3 ==veth== e0..e3, a kernel that routes
                (xd-outside)    (xd-kernel)
    XenFlow     x0..x3 ==veth== p0..p3, Open vSwitch, v0..v3 ==veth== e0..e3, the VM's kernel
                (xd-outside)    (xd-host)                             (xd-vm)

The reference is a namespace whose kernel routes.  The other is a XenFlow host with its own Open
vSwitch and `./pox.py xenflow`, and a VM (a namespace) with `routerd`.  Interfaces have the same
names and MAC addresses, and are configured by the same commands.  Everything behind the ports is
played here, in the namespace `xd-outside`: stations answer ARP, and whatever leaves is collected.
"""

from __future__ import annotations

import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from lab import process, switch
from lab.description import ROOT
from lab.namespace import LabError, checksums_in_software, inside, ip, sysctl
from lab.programs import python_path
from mgmt.client import AskError, Client
from xenflow.model.values import mac_number, mac_text
from xenflow.openflow import packet as pk

PORTS = 4
OUTSIDE, KERNEL, HOST, VM = "xd-outside", "xd-kernel", "xd-host", "xd-vm"
NAMESPACES = (OUTSIDE, KERNEL, HOST, VM)
REFERENCE, XENFLOW = "k", "x"
ROUTER = "r"
CONTROL, CONTROL_VIF = "ctl0", "r.ctl"
PORT_MTU = 1600
"""Of everything but the routers' own interfaces: a frame is never refused by a wire."""
LIMIT_S = 120.0
PROBE_MS = 60
"""Between two ARP requests of a router; it gives up after three."""

BURST, BURST_PAUSE_S = 16, 0.004
"""So many frames are sent at once: a busy machine loses those of a longer burst."""

_SOL_PACKET, _PACKET_AUXDATA, _PACKET_IGNORE_OUTGOING = 263, 8, 23
_SO_RCVBUFFORCE = 33
_TP_STATUS_VLAN_VALID = 1 << 4
_AUXDATA = struct.Struct("=IIIHHHH")


def router_mac(port: int) -> int:
    """The MAC address of the routers' interface e<port>."""
    return 0x02000D000000 | port


@dataclass(slots=True)
class BatchOutcome:
    """What one batch brought out of each router: (port, frame), in order of arrival."""

    frames: dict[str, list[tuple[int, bytes]]] = field(
        default_factory=lambda: {REFERENCE: [], XENFLOW: []}
    )
    from_vm: int = 0
    """Frames that the XenFlow host's VM sent meanwhile, ARP requests too."""
    asked: int = 0
    """ARP requests among them."""

    @property
    def by_switch(self) -> int:
        """Frames that the switch routed without its VM."""
        return len(self.frames[XENFLOW]) - (self.from_vm - self.asked)


Resolve = Callable[[int, int], int | None]
"""(port, address) -> the MAC address of the station that answers for it, None for nobody."""


class Rig:
    """See the module; made by `rig()`."""

    def __init__(self, pipeline: str) -> None:
        self.pipeline = pipeline
        self.client: Client
        self.resolve: Resolve = lambda port, address: None
        self._ends: dict[int, tuple[str, int, socket.socket]] = {}
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._poll = select.epoll()
        self._marks = 0
        self._buffers: dict[str, str] = {}

    # --- building -----------------------------------------------------------------------------

    def build(self) -> None:
        """Everything up to a switch that its controller has told what to do."""
        ip(f"netns add {name}" for name in NAMESPACES)
        self._buffers = sysctl({"net/core/rmem_default": 16 << 20})
        for name in NAMESPACES:
            sysctl({"net/ipv6/conf/default/disable_ipv6": 1, "net/ipv4/ip_forward": 0}, name)
            ip(["link set lo up"], name)
        sysctl({"net/ipv4/conf/default/arp_ignore": 8, "net/ipv4/conf/default/rp_filter": 1}, HOST)
        self._wire()
        for name in (KERNEL, VM):
            sysctl(ROUTER_SETTINGS, name)
            settings = {
                f"net/ipv4/neigh/e{port}/{k}": v
                for port in range(PORTS)
                for k, v in _NEIGHBOUR_SETTINGS.items()
            }
            sysctl(settings, name)
        self._start_switch()
        self._start_controller()
        process.start(
            ROUTER,
            "routerd",
            [
                sys.executable,
                "-m",
                "routerd",
                "--control",
                CONTROL,
                "--router",
                ROUTER,
            ],
            VM,
            environment=python_path(),
        )
        self._open_sockets()
        self.await_true("the router's first snapshot", lambda: self.row()["phase"] == "current")

    def _wire(self) -> None:
        links = []
        for n in range(PORTS):
            mac = mac_text(router_mac(n))
            for one, end, mtu, other, far in (
                (f"e{n} address {mac}", KERNEL, 1500, f"k{n}", OUTSIDE),
                (f"e{n} address {mac}", VM, 1500, f"v{n}", HOST),
                (f"p{n}", HOST, PORT_MTU, f"x{n}", OUTSIDE),
            ):
                links.append(
                    f"link add name {one} mtu {mtu} netns {end} "
                    f"type veth peer name {other} mtu {PORT_MTU} netns {far}"
                )
        links.append(
            f"link add name {CONTROL} netns {VM} type veth peer name {CONTROL_VIF} netns {HOST}"
        )
        ip(links)
        names = {
            OUTSIDE: [f"{side}{n}" for side in (REFERENCE, XENFLOW) for n in range(PORTS)],
            KERNEL: [f"e{n}" for n in range(PORTS)],
            VM: [*(f"e{n}" for n in range(PORTS)), CONTROL],
            HOST: [*(f"{side}{n}" for side in "pv" for n in range(PORTS)), CONTROL_VIF],
        }
        for namespace, ends in names.items():
            checksums_in_software(ends, namespace)
        for namespace, name, address in ((VM, CONTROL, "fe80::2"), (HOST, CONTROL_VIF, "fe80::1")):
            sysctl(
                {
                    f"net/ipv6/conf/{name}/{key}": value
                    for key, value in (
                        ("disable_ipv6", 0),
                        ("addr_gen_mode", 1),
                        ("accept_dad", 0),
                        ("accept_ra", 0),
                    )
                },
                namespace,
            )
            ip([f"link set {name} up", f"address add {address}/64 dev {name} nodad"], namespace)
        for namespace, ends in names.items():
            ip((f"link set {end} up" for end in ends), namespace)

    def _start_switch(self) -> None:
        process.STATE_DIR.mkdir(parents=True, exist_ok=True)
        template = process.STATE_DIR / "empty.db"
        switch.make_template(template)
        switch.start_database(HOST, HOST, template)
        process.await_path(switch.rundir(HOST) / "db.sock")
        words = [
            "set",
            "Open_vSwitch",
            ".",
            "other_config:max-idle=200",
            "other_config:max-revalidator=100",
            "other_config:n-revalidator-threads=1",
            "other_config:n-handler-threads=1",
            "--",
            "add-br",
            switch.BRIDGE,
            "--",
            "set",
            "Bridge",
            switch.BRIDGE,
            "datapath_type=netdev",
            "fail_mode=secure",
            "protocols=OpenFlow10",
            "other_config:datapath-id=00000000000000a1",
            "other_config:disable-in-band=true",
        ]
        for n in range(PORTS):
            words += ["--", "add-port", switch.BRIDGE, f"p{n}"]
            words += ["--", "add-port", switch.BRIDGE, f"v{n}"]
        words += [
            "--",
            "--id=@c",
            "create",
            "Controller",
            'target="tcp:127.0.0.1:6633"',
            "connection_mode=out-of-band",
            "max_backoff=1000",
            "--",
            "set",
            "Bridge",
            switch.BRIDGE,
            "controller=@c",
        ]
        switch.finish([switch.vsctl(HOST, words, wait=False)])
        switch.start_daemon(HOST, HOST)

    def _start_controller(self) -> None:
        here = process.STATE_DIR / HOST
        network = here / "network.toml"
        network.write_text(network_file(self.pipeline))
        manage = f"ipc://{here}/manage"
        process.start(
            HOST,
            "controller",
            [
                sys.executable,
                str(ROOT / "pox.py"),
                "openflow.of_01",
                "--address=127.0.0.1",
                "--port=6633",
                "xenflow",
                f"--network={network}",
                f"--manage={manage}",
            ],
            HOST,
            environment={**python_path(), **switch.environment(HOST)},
        )
        process.await_path(here / "manage")
        self.client = Client(manage, "host", LIMIT_S)

    def _open_sockets(self) -> None:
        with inside(OUTSIDE):
            for side in (REFERENCE, XENFLOW):
                for port in range(PORTS):
                    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                    sock.bind((f"{side}{port}", 3))
                    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
                    sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
                    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
                    sock.setblocking(False)
                    self._ends[sock.fileno()] = side, port, sock
                    self._sockets[side, port] = sock
                    self._poll.register(sock, select.EPOLLIN)

    def close(self) -> None:
        """End what was started, remove what was made."""
        with suppress(AttributeError):
            self.client.close()
        for _, _, sock in self._ends.values():
            sock.close()
        self._poll.close()
        nodes = (HOST, ROUTER)
        process.end([p for p in process.recorded() if p.node in nodes])
        ip((f"netns del {name}" for name in NAMESPACES), force=True)
        sysctl(dict(self._buffers))

    # --- configuring --------------------------------------------------------------------------

    def configure(
        self, commands: Iterable[str], settings: dict[str, str | int], filters: str
    ) -> None:
        """Do the same to both routers; returns once XenFlow has taken all of it in."""
        self._marks += 1
        mark = f"100.127.{self._marks >> 8}.{self._marks & 255}"
        lines = [*commands, f"route add blackhole {mark}/32"]
        for name in (KERNEL, VM):
            sysctl(settings, name)
            ip(lines, name)
            with inside(name):
                subprocess.run(
                    ["nft", "-f", "-"], input="flush ruleset\n" + filters, text=True, check=True
                )
        # Told in the order in which it happened: where the mark is known, all of it is.
        self.await_true(f"the route to {mark}", lambda: self._knows(mark))

    def undo(self, commands: Iterable[str], settings: dict[str, str | int]) -> None:
        """Do something to both routers, going on after what fails."""
        lines = list(commands)
        for name in (KERNEL, VM):
            ip(lines, name, force=True)
            sysctl(settings, name)

    def _knows(self, mark: str) -> bool:
        found = self.client.request("routes", router=ROUTER, match=f"{mark}/32")
        return bool(found["routes"])

    def row(self) -> dict[str, Any]:
        """What the Rule Table says of the router: nothing, while it does not answer."""
        try:
            rows: list[dict[str, Any]] = self.client.request("routers")["routers"]
        except AskError:
            return {"phase": "", "slow": ""}
        return rows[0]

    def _gateways(self) -> dict[tuple[str, int], int]:
        """(interface, gateway) -> its MAC address, 0 while it is not known."""
        hops = self.client.request("nexthops", router=ROUTER)["nexthops"]
        unknown = mac_text(0)
        return {
            (hop["interface"], int(IPv4Address(hop["gateway"]))): mac_number(hop["mac"] or unknown)
            for hop in hops
            if hop["gateway"]
        }

    def unresolved(self) -> set[int]:
        """The gateways whose MAC address the Rule Table does not know."""
        return {gateway for (_, gateway), mac in self._gateways().items() if not mac}

    def known_mac(self, port: int, gateway: int) -> int:
        """The MAC address that the Rule Table has for a gateway."""
        return self._gateways().get((f"e{port}", gateway), 0)

    def in_force(self) -> None:
        """Wait until everything told so far decides about packets."""
        self.await_true(
            "the switch",
            lambda: bool(self.client.request("ready", router=ROUTER, datapath="host")["ready"]),
        )

    def await_true(self, what: str, holds: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        """Play the stations until something holds; LabError where it never does."""
        end = time.monotonic() + limit_s
        while not holds():
            if time.monotonic() > end:
                raise LabError(f"{what}: not within {limit_s:g} s; logs: {process.LOG_DIR}")
            self.receive(0.01, None)

    # --- frames -------------------------------------------------------------------------------

    def send(self, port: int, frame: bytes) -> None:
        """The same frame into both routers."""
        for side in (REFERENCE, XENFLOW):
            self._put(side, port, frame)

    def _put(self, side: str, port: int, frame: bytes) -> None:
        while True:
            try:
                self._sockets[side, port].send(frame)
                return
            except BlockingIOError:
                time.sleep(0.001)

    def receive(self, wait_s: float, outcome: BatchOutcome | None) -> bool:
        """Take in what has come, answering ARP; whether anything but ARP requests had."""
        heard = False
        for number, _ in self._poll.poll(wait_s):
            side, port, sock = self._ends[number]
            for _ in range(64):
                frame = _receive(sock)
                if frame is None:
                    break
                if self._answered(side, port, frame):
                    if outcome is not None and side == XENFLOW:
                        outcome.asked += 1
                    continue
                heard = True
                if outcome is not None:
                    outcome.frames[side].append((port, frame))
        return heard

    def _answered(self, side: str, port: int, frame: bytes) -> bool:
        """Whether it was a router that asks for a station, or announces itself."""
        seen = pk.parse(frame)
        if seen.dl_type != pk.ETH_ARP or seen.arp_op != 1 or seen.dl_src != router_mac(port):
            return False
        mac = self.resolve(port, seen.arp_tpa)
        if mac is not None:
            reply = pk.arp(2, mac, seen.arp_tpa, seen.arp_sha, seen.arp_spa)
            self._put(side, port, pk.ethernet(seen.dl_src, mac, pk.ETH_ARP, reply))
        return True

    def run(
        self, frames: Iterable[tuple[int, bytes]], least_s: float, quiet_s: float
    ) -> BatchOutcome:
        """Send frames into both routers; what came out until both had been quiet for a while."""
        outcome = BatchOutcome()
        while self.receive(0, None):
            pass
        before = self._vm_frames()
        for number, (port, frame) in enumerate(frames):
            self.send(port, frame)
            self.receive(0 if number % BURST else BURST_PAUSE_S, outcome)
        now = last = time.monotonic()
        least = now + least_s
        while now < least or now - last < quiet_s:
            if self.receive(0.02, outcome):
                last = time.monotonic()
            now = time.monotonic()
        outcome.from_vm = self._vm_frames() - before
        return outcome

    def _vm_frames(self) -> int:
        with inside(HOST):
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        counts = {name.strip(): rest.split() for name, _, rest in (x.partition(":") for x in lines)}
        return sum(int(counts[f"v{n}"][1]) for n in range(PORTS))


def _receive(sock: socket.socket) -> bytes | None:
    """One frame with the VLAN tag that the kernel took off."""
    try:
        frame, extra, _, _ = sock.recvmsg(65536, 256)
    except BlockingIOError:
        return None
    for level, kind, raw in extra:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status, _, _, _, _, tci, tpid = _AUXDATA.unpack_from(raw)
            if status & _TP_STATUS_VLAN_VALID:
                frame = frame[:12] + struct.pack("!HH", tpid or pk.ETH_VLAN, tci) + frame[12:]
    return frame


ROUTER_SETTINGS: dict[str, str | int] = {
    "net/ipv4/ip_forward": 1,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv4/conf/all/accept_source_route": 0,
    "net/ipv4/icmp_ratelimit": 0,
    "net/ipv4/icmp_ratemask": 0,
    "net/ipv4/icmp_msgs_per_sec": 1_000_000,
    "net/ipv4/icmp_msgs_burst": 1_000_000,
    "net/ipv4/ipfrag_time": 1,
    **{
        f"net/ipv4/conf/{name}/{key}": 0
        for name in ("all", "default", *(f"e{n}" for n in range(PORTS)))
        for key in ("rp_filter", "send_redirects", "accept_redirects", "secure_redirects")
    },
}
_NEIGHBOUR_SETTINGS = {
    "retrans_time_ms": PROBE_MS,
    "locktime": 0,
    "base_reachable_time_ms": 600_000,
    "gc_stale_time": 3600,
    "unres_qlen_bytes": 4 << 20,
}


def network_file(pipeline: str) -> str:
    """The network: one host, one router, an access port for each of its links."""
    links, interfaces = [], []
    for n in range(PORTS):
        links.append(
            f"[links.l{n}]\nid = {n + 1}\nvlan = {101 + n}\n"
            f'access = [{{ at = "host:p{n}", macs = [] }}]\n'
        )
        interfaces.append(
            f'{{ name = "e{n}", link = "l{n}", mac = "{mac_text(router_mac(n))}", vif = "v{n}" }}'
        )
    return f"""[network]
name = "differential"
[controllers.host]
openflow = "127.0.0.1:6633"
manage = "tcp://127.0.0.1:6640"
[datapaths.host]
kind = "host"
pipeline = "{pipeline}"
dpid = "00000000000000a1"
controller = "host"
proof = "revalidator"
other = "drop"
{"".join(links)}
[routers.{ROUTER}]
id = 1
home = "host"
control_vif = "{CONTROL_VIF}"
interfaces = [{", ".join(interfaces)}]
"""


@contextmanager
def rig(pipeline: str = "proactive") -> Iterator[Rig]:
    """Both routers, up; all gone afterwards."""
    made = Rig(pipeline)
    try:
        made.build()
        yield made
    finally:
        made.close()
