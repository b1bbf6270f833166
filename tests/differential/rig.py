"""Two identical routers on one machine, and the wires to send the same frames into both.

    reference   k0..k3 ==veth== e0..e3, a kernel that routes
                (xd-outside)    (xd-kernel)
    XenFlow     x0..x3 ==veth== p0..p3, Open vSwitch, v0..v3 ==veth== e0..e3, the VM's kernel
                (xd-outside)    (xd-host)                             (xd-vm)

The reference is a namespace whose kernel routes.  The other is a XenFlow host with its own Open
vSwitch and `./pox.py xenflow`, and a VM (a namespace) with `routerd`.  Interfaces have the same
names and MAC addresses, and are configured by the same commands.  Everything behind the ports is
played here, in the namespace `xd-outside`: stations answer those who ask for them, and whatever
leaves is collected.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from lab import process, switch
from lab.description import ROOT
from lab.namespace import LabError, batch, checksums_in_software, inside, ip, sysctl
from lab.programs import python_path
from mgmt.client import AskError, Client
from tests.differential.configurations import PORTS, Both
from xenflow.model.values import mac_number, mac_text
from xenflow.openflow import packet as pk

OUTSIDE, KERNEL, HOST, VM = "xd-outside", "xd-kernel", "xd-host", "xd-vm"
NAMESPACES = (OUTSIDE, KERNEL, HOST, VM)
REFERENCE, XENFLOW = "k", "x"
FROM_VM = "v"
"""Not an end of the wires outside: the vifs of XenFlow's VM, where what it sends is counted."""
ROUTER = "r"
CONTROL, CONTROL_VIF = "ctl0", "r.ctl"
PORT_MTU = 1600
"""Of everything but the routers' own interfaces: a frame is never refused by a wire."""
LIMIT_S = 120.0
PROBE_MS = 60
"""Between two requests for a neighbour; a router gives up after three."""

BURST, BURST_PAUSE_S = 16, 0.004
"""So many frames are sent at once: a busy machine loses those of a longer burst."""

_SOL_PACKET, _PACKET_AUXDATA, _PACKET_IGNORE_OUTGOING = 263, 8, 23
_SO_RCVBUFFORCE = 33
_TP_STATUS_VLAN_VALID = 1 << 4
_AUXDATA = struct.Struct("=IIIHHHH")


def ip6(commands: Iterable[str], namespace: str, *, force: bool = False) -> None:
    """Run `ip -6` commands; groups of next hops, which are of no family, after single ones and
    before routes."""
    lines = list(commands)
    groups = [line for line in lines if line.startswith("nexthop add") and " group " in line]
    first = [line for line in lines if line.startswith(("address", "nexthop"))]
    batch("ip -6", [line for line in first if line not in groups], namespace, force=force)
    ip(groups, namespace, force=force)
    batch("ip -6", [line for line in lines if line not in first], namespace, force=force)


def router_mac(port: int) -> int:
    """The MAC address of the routers' interface e<port>."""
    return 0x02000D000000 | port


def solicited_node(address: int) -> tuple[int, int]:
    """The group in which an IPv6 address is asked for (RFC 4291, section 2.7.1), and its MAC."""
    low = address & 0xFFFFFF
    return 0xFF02 << 112 | 0x1FF << 24 | low, 0x3333FF000000 | low


def neighbour_message(
    kind: int, src: int, dst: int, target: int, mac: int, flags: int = 0, hops: int = 255
) -> bytes:
    """A solicitation (135) or an advertisement (136) that says a MAC address (RFC 4861, 4.3)."""
    option = struct.pack("!BB6s", 1 if kind == 135 else 2, 1, mac.to_bytes(6, "big"))
    body = struct.pack("!I", flags) + target.to_bytes(16, "big") + option
    return pk.ipv6(src, dst, 58, pk.icmpv6(src, dst, kind, 0, body), hops=hops)


SOLICITED, OVERRIDE = 1 << 30, 1 << 29


def family_of(frame: bytes) -> int:
    """4 or 6, 0 of a frame that is of neither."""
    return {pk.ETH_IPV4: 4, pk.ETH_ARP: 4, pk.ETH_IPV6: 6}.get(pk.parse(frame).dl_type, 0)


@dataclass(slots=True)
class BatchOutcome:
    """What one batch brought out of each router: (port, frame), in order of arrival."""

    frames: dict[str, list[tuple[int, bytes]]] = field(
        default_factory=lambda: {REFERENCE: [], XENFLOW: [], FROM_VM: []}
    )

    @property
    def by_switch(self) -> Counter[int]:
        """Frames that the switch routed without its VM, by family."""
        left, by_vm = (
            Counter(family_of(frame) for _, frame in self.frames[side])
            for side in (XENFLOW, FROM_VM)
        )
        return left - by_vm


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
            without = int(name in (OUTSIDE, HOST))
            sysctl({"net/ipv6/conf/default/disable_ipv6": without, "net/ipv4/ip_forward": 0}, name)
            ip(["link set lo up"], name)
        sysctl({"net/ipv4/conf/default/arp_ignore": 8, "net/ipv4/conf/default/rp_filter": 1}, HOST)
        for name in (KERNEL, VM):
            sysctl(DEFAULTS, name)
        self._wire()
        for name in (KERNEL, VM):
            sysctl({**ROUTER_SETTINGS, **neighbour_settings("ipv4")}, name)
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
        for side in (REFERENCE, XENFLOW, FROM_VM):
            for port in range(PORTS):
                with inside(HOST if side == FROM_VM else OUTSIDE):
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

    def configure(self, config: Both) -> None:
        """Do the same to both routers; returns once XenFlow has taken all of it in."""
        self._marks += 1
        four, six = (
            f"100.127.{self._marks >> 8}.{self._marks & 255}/32",
            f"100::{self._marks:x}/128",
        )
        late = [*config.v6.late, *config.v4.late]
        for name in (KERNEL, VM):
            sysctl(config.v4.settings, name)
            ip(config.v4.commands, name)
            # An interface that was too narrow for IPv6 begins with the defaults.
            sysctl({**neighbour_settings("ipv6"), **config.v6.settings}, name)
            ip6([*config.v6.commands, f"route add blackhole {six}"], name)
            ip(late, name)
            sysctl({**config.v4.late_settings, **config.v6.late_settings}, name)
            ip([f"route add blackhole {four}"], name)
            filters = "flush ruleset\n" + config.v4.filters + config.v6.filters
            with inside(name):
                subprocess.run(["nft", "-f", "-"], input=filters, text=True, check=True)
        # Told in the order in which it happened: where the marks are known, all of it is.
        for mark in (six, four):
            self.await_true(f"the route to {mark}", lambda mark=mark: self._knows(mark))

    def undo(self, four: Iterable[str], six: Iterable[str], settings: dict[str, str | int]) -> None:
        """Do something to both routers, of each family, going on after what fails."""
        lines4, lines6 = list(four), list(six)
        for name in (KERNEL, VM):
            sysctl(settings, name)
            ip6(lines6, name, force=True)
            ip(lines4, name, force=True)

    def _knows(self, mark: str) -> bool:
        found = self.client.request("routes", router=ROUTER, match=mark)
        return bool(found["routes"])

    def row(self) -> dict[str, Any]:
        """What the Rule Table says of the router: nothing, while it does not answer."""
        try:
            rows: list[dict[str, Any]] = self.client.request("routers")["routers"]
        except AskError:
            return {"phase": "", "slow": "", "slow6": ""}
        return rows[0]

    def _gateways(self) -> dict[tuple[str, int], int]:
        """(interface, gateway) -> its MAC address, 0 while it is not known."""
        hops = self.client.request("nexthops", router=ROUTER)["nexthops"]
        unknown = mac_text(0)
        return {
            (hop["interface"], int(ip_address(hop["gateway"]))): mac_number(hop["mac"] or unknown)
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
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                    raise
                time.sleep(0.001)  # a router has not taken yet what it was sent before

    def receive(self, wait_s: float, outcome: BatchOutcome | None) -> bool:
        """Take in what has come, answering who asks for a station; whether there was anything that
        is compared."""
        heard = False
        for number, _ in self._poll.poll(wait_s):
            side, port, sock = self._ends[number]
            for _ in range(64):
                frame = _receive(sock)
                if frame is None:
                    break
                if self._of_its_own(side, port, frame):
                    continue
                heard |= side != FROM_VM
                if outcome is not None:
                    outcome.frames[side].append((port, frame))
        return heard

    def _of_its_own(self, side: str, port: int, frame: bytes) -> bool:
        """Whether a frame is a router's own affair: it asks for a station, which is answered, or
        announces itself, or tells of a better way."""
        seen = pk.parse(frame)
        if seen.dl_src != router_mac(port):
            return False
        if seen.dl_type == pk.ETH_ARP and seen.arp_op == 1:
            mac = self.resolve(port, seen.arp_tpa)
            if mac is not None and side != FROM_VM:
                reply = pk.arp(2, mac, seen.arp_tpa, seen.arp_sha, seen.arp_spa)
                self._put(side, port, pk.ethernet(seen.dl_src, mac, pk.ETH_ARP, reply))
            return True
        if seen.nw_proto != 58 or seen.dl_type != pk.ETH_IPV6 or not seen.l4:
            return False
        if seen.tp_src in _REPORTS:
            return seen.ipv6_dst >> 112 == 0xFF02 and seen.nw_ttl == 1
        if seen.nw_ttl != 255 or seen.tp_src not in (133, 135, 137):
            return False
        if seen.tp_src == 135 and side != FROM_VM:
            target = int.from_bytes(frame[seen.l4 + 8 : seen.l4 + 24], "big")
            mac = self.resolve(port, target)
            if mac is not None:
                reply = neighbour_message(
                    136, target, seen.ipv6_src, target, mac, SOLICITED | OVERRIDE
                )
                self._put(side, port, pk.ethernet(seen.dl_src, mac, pk.ETH_IPV6, reply))
        return True

    def run(
        self, frames: Iterable[tuple[int, bytes]], least_s: float, quiet_s: float
    ) -> BatchOutcome:
        """Send frames into both routers; what came out until both had been quiet for a while."""
        outcome = BatchOutcome()
        while self.receive(0, None):
            pass
        for number, (port, frame) in enumerate(frames):
            self.send(port, frame)
            self.receive(0 if number % BURST else BURST_PAUSE_S, outcome)
        now = last = time.monotonic()
        least = now + least_s
        while now < least or now - last < quiet_s:
            if self.receive(0.02, outcome):
                last = time.monotonic()
            now = time.monotonic()
        return outcome


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
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv6/icmp/ratelimit": 0,
    "net/ipv6/ip6frag_time": 1,
    "net/ipv6/auto_flowlabels": 0,
    **{
        f"net/ipv4/conf/{name}/{key}": 0
        for name in ("all", "default", *(f"e{n}" for n in range(PORTS)))
        for key in ("rp_filter", "send_redirects", "accept_redirects", "secure_redirects")
    },
}
_REPORTS = (131, 132, 143)
"""Of multicast listeners (RFC 2710, RFC 3810): each router draws the moment for itself."""
DEFAULTS: dict[str, str | int] = {
    f"net/ipv6/conf/default/{key}": value
    for key, value in (
        ("addr_gen_mode", 1),
        ("accept_dad", 0),
        ("accept_ra", 0),
        ("accept_redirects", 0),
        ("router_solicitations", 0),
    )
}
"""Of interfaces to come: also of those that get IPv6 back, when they are wide enough again."""
_NEIGHBOUR_SETTINGS = {
    "retrans_time_ms": PROBE_MS,
    "base_reachable_time_ms": 600_000,
    "gc_stale_time": 3600,
    "unres_qlen_bytes": 4 << 20,
}


def neighbour_settings(family: str) -> dict[str, str | int]:
    """Those of a router's interfaces for "ipv4" or "ipv6"."""
    settings: dict[str, int] = {
        **_NEIGHBOUR_SETTINGS,
        **({"locktime": 0} if family == "ipv4" else {}),
    }
    return {
        f"net/{family}/neigh/e{port}/{key}": value
        for port in range(PORTS)
        for key, value in settings.items()
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
