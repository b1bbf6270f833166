"""A router's wires: how its interfaces reach the switch of the host it runs on, wherever that is.

Moving a veth end from one namespace to another takes it down and away: its carrier, addresses and
routes go with it.  A virtual machine's interface knows nothing of a move.  So each wire is in three
pieces, and the router's end is never touched:

    router                fabric namespace                        host
    eth0  =====veth=====  w1.1    <-tc redirect->  h1.1.b    =====veth=====  vr1.0, a switch's port
    ctl0  =====veth=====  w1.ctl  <-tc redirect->  h1.ctl.b  =====veth=====  vr1.ctl, in no switch

In the fabric's names are the ids of router and link and the host's number, all hexadecimal, so that
they stay the same while others come and go.

`plug` makes the right-hand veth on one host, as Xen makes a domain's vifs; `unplug` removes it;
`join` and `cut` turn the redirection on and off.  While it is off nothing passes in either
direction.  The router's ends keep their carrier; the vifs have it only while they are joined, as
Xen's have while a front end is connected: so a host can tell whether a VM takes what it is sent.
The fabric has no addresses and answers nothing.

The control wire ends in the host itself, in front of the Rule Table, and is the one way from a
router into Domain 0.  The filter on it is by vif, so that a router cannot be another: only its own
MAC and link-local address, only the Rule Table's port, and the neighbour discovery that needs.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from zlib import crc32

from lab import switch
from lab.description import FABRIC, PREFIX, Lab
from lab.namespace import (
    LabError,
    checksums_in_software,
    inside,
    ip,
    raise_interfaces,
    sysctl,
    tc,
    veth,
)
from xenflow.model import control_link
from xenflow.model.network import Interface, Router
from xenflow.model.values import mac_text
from xenflow.openflow import packet as pk

CONTROL = control_link.INTERFACE
_VIF_MAC = "fe:ff:ff:ff:ff:ff"
"""What Xen gives the host's end of every vif."""
_FIRST_PORT, _PORTS = 1000, 60000
"""The port numbers of vifs: above those that a switch counts out to its other ports."""


def _wires(
    lab: Lab, router: Router, names: Collection[str] | None
) -> Iterator[tuple[str, str, str]]:
    """The wires of some of a router's interfaces (None: of all), the control link's last: each as
    (interface, what the fabric's names have in common, vif)."""
    for interface in router.interfaces:
        if names is None or interface.name in names:
            link = lab.network.links[interface.link]
            yield interface.name, f"{router.id:x}.{link.id:x}", interface.vif
    if names is None or CONTROL in names:
        yield CONTROL, f"{router.id:x}.ctl", router.control_vif


def _pieces(
    lab: Lab, router: Router, host: str, names: Collection[str] | None = None
) -> Iterator[tuple[str, str, str]]:
    """Each wire's (router's piece, host's piece, host's end)."""
    number = lab.number(lab.switch_node(host))
    for _, wire, vif in _wires(lab, router, names):
        yield f"w{wire}", f"h{wire}.{number:x}", vif


def build(lab: Lab, router: Router, names: Collection[str] | None = None) -> list[str]:
    """The `ip` commands that make a router's own pieces (for the root namespace); `raise_wires`
    follows."""
    macs = {i.name: mac_text(i.mac) for i in router.interfaces}
    macs[CONTROL] = control_link.mac(router)
    return [
        veth((PREFIX + router.name, interface), (FABRIC, f"w{wire}"), 1500, macs[interface])
        for interface, wire, _ in _wires(lab, router, names)
    ]


def raise_wires(lab: Lab, router: Router, names: Collection[str] | None = None) -> None:
    """What a router's kernel must and must not do; then its pieces are switched on."""
    own = PREFIX + router.name
    wires = list(_wires(lab, router, names))
    interfaces = [interface for interface, _, _ in wires]
    settings: dict[str, str | int] = {
        f"net/ipv4/conf/{name}/{key}": 0
        for name in interfaces
        if name != CONTROL
        for key in ("rp_filter", "send_redirects", "accept_redirects")
    }
    if CONTROL in interfaces:
        settings |= _ROUTER
    sysctl(settings, own)
    raise_interfaces(interfaces, own)
    if CONTROL in interfaces:
        ip([f"address add {control_link.address(router)}/64 dev {CONTROL} nodad"], own)
    checksums_in_software(interfaces, own)
    pieces = [f"w{wire}" for _, wire, _ in wires]
    raise_interfaces(pieces, FABRIC)
    checksums_in_software(pieces, FABRIC)


def _control_settings(interface: str) -> dict[str, str | int]:
    """Of an end of a control wire: it speaks IPv6, as nothing else does, and nothing else."""
    return {
        f"net/ipv6/conf/{interface}/disable_ipv6": 0,
        f"net/ipv6/conf/{interface}/addr_gen_mode": 1,
        f"net/ipv6/conf/{interface}/accept_dad": 0,
        f"net/ipv6/conf/{interface}/accept_ra": 0,
        f"net/ipv6/conf/{interface}/router_solicitations": 0,
        f"net/ipv4/conf/{interface}/arp_ignore": 8,
        f"net/ipv4/conf/{interface}/forwarding": 0,
    }


_ROUTER: dict[str, str | int] = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 0,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv4/conf/all/send_redirects": 0,
    "net/ipv4/conf/default/send_redirects": 0,
    "net/ipv4/conf/all/accept_redirects": 0,
    "net/ipv4/conf/default/accept_redirects": 0,
    "net/ipv4/conf/all/secure_redirects": 0,
    "net/ipv4/conf/all/accept_source_route": 0,
    **_control_settings(CONTROL),
}


def remove(lab: Lab, router: Router, names: Collection[str]) -> None:
    """The opposite of `build`; both ends of each go."""
    ip((f"link del w{wire}" for _, wire, _ in _wires(lab, router, names)), FABRIC, force=True)


def plug(
    lab: Lab, router: Router, host: str, names: Collection[str] | None = None
) -> subprocess.Popen[str]:
    """Make a router's vifs and control vif on a host, not joined to the router yet.

    The switch is still adding the ports when this returns: `switch.finish` waits for that.
    """
    namespace = lab.switch_namespace(host)
    pieces = list(_pieces(lab, router, host, names))
    vifs = [vif for _, _, vif in pieces]
    ip(
        veth((namespace, vif), (FABRIC, near), 1500, _mac_of(router, vif))
        for _, near, vif in pieces
    )
    if router.control_vif in vifs:
        ipv6 = f"net/ipv6/conf/{router.control_vif}"
        no = {f"{ipv6}/accept_redirects": 0, f"{ipv6}/forwarding": 0}
        sysctl({**_control_settings(router.control_vif), **no}, namespace)
        _nft(guard_rules(router), namespace)
    raise_interfaces(vifs, namespace)
    if router.control_vif in vifs:
        own = f"{control_link.RULE_TABLE_ADDRESS}/64"
        ip([f"address add {own} dev {router.control_vif} nodad"], namespace)
        raise_interfaces([pieces[-1][1]], FABRIC)
    checksums_in_software(vifs, namespace)
    checksums_in_software((near for _, near, _ in pieces), FABRIC)
    words: list[str] = []
    for interface in router.interfaces:
        if interface.vif in vifs:
            words += _add_port(lab, router, interface, host)
    return switch.vsctl(lab.switch_node(host), words)


def _add_port(lab: Lab, router: Router, interface: Interface, host: str) -> list[str]:
    """As `vif-openvswitch` does it.  A vif's port number is another on every host, as a rule, but
    the same whenever it comes back, so that a switch's flows can be compared with those before."""
    vif, number = interface.vif, crc32(f"{host} {interface.vif}".encode()) % _PORTS
    words = (
        f"-- set Interface {vif} ofport_request={_FIRST_PORT + number} "
        f"external_ids:xenflow-router={router.name}"
    )
    return [*switch.add_port(vif, lab.network.links[interface.link].vlan), *words.split()]


def unplug(
    lab: Lab, router: Router, host: str, names: Collection[str] | None = None
) -> subprocess.Popen[str]:
    """Remove a router's vifs and control vif from a host; nothing is amiss where there are none.

    The switch is still removing the ports when this returns: `switch.finish` waits for that.
    """
    pieces = list(_pieces(lab, router, host, names))
    words: list[str] = []
    for _, _, vif in pieces:
        if vif != router.control_vif:
            words += switch.delete_port(vif)
    removing = switch.vsctl(lab.switch_node(host), words)
    ip((f"link del {near}" for _, near, _ in pieces), FABRIC, force=True)
    if router.control_vif in [vif for _, _, vif in pieces]:
        table = f"netdev xenflow-{router.name}"
        _nft(f"add table {table}\ndelete table {table}\n", lab.switch_namespace(host))
    return removing


def join(lab: Lab, router: Router, host: str, names: Collection[str] | None = None) -> None:
    """Let frames pass between a router and the vifs it has on a host."""
    tc(
        (
            line
            for wire, near, _ in _pieces(lab, router, host, names)
            for one, other in ((wire, near), (near, wire))
            for line in (f"qdisc add dev {one} ingress", redirect(one, other))
        ),
        FABRIC,
    )
    _carrier(lab, router, host, "up", names)


def _carrier(
    lab: Lab, router: Router, host: str, way: str, names: Collection[str] | None = None
) -> None:
    pieces = _pieces(lab, router, host, names)
    data = (near for _, near, vif in pieces if vif != router.control_vif)
    ip((f"link set {near} {way}" for near in data), FABRIC, force=True)


def redirect(one: str, other: str) -> str:
    """The `tc filter` command by which what comes in at one interface goes out at another."""
    return (
        f"filter add dev {one} parent ffff: protocol all prio 1 u32 match u32 0 0 "
        f"action mirred egress redirect dev {other}"
    )


def cut(lab: Lab, router: Router, host: str) -> None:
    """Let nothing pass any more, in either direction: first what the router sends."""
    _carrier(lab, router, host, "down")
    pieces = list(_pieces(lab, router, host))
    names = [wire for wire, _, _ in pieces] + [near for _, near, _ in pieces]
    tc((f"qdisc del dev {name} ingress" for name in names), FABRIC, force=True)


def heard(router: Router) -> dict[str, int]:
    """How many packets each interface of a router has received."""
    with inside(PREFIX + router.name):
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    rows = {line.partition(":")[0].strip(): line.partition(":")[2].split() for line in lines}
    return {interface.name: int(rows[interface.name][1]) for interface in router.interfaces}


def plugged(lab: Lab, router: Router) -> list[str]:
    """The hosts that have vifs of a router now."""
    with inside(FABRIC):
        here = {name for _, name in socket.if_nameindex()}
    return [h for h in lab.hosts if any(near in here for _, near, _ in _pieces(lab, router, h))]


def announce(lab: Lab, router: Router) -> None:
    """One gratuitous ARP for each address, as Xen's network front end sends on resume (the
    kernel's NETDEV_NOTIFY_PEERS: a broadcast request for the sender's own address)."""
    with inside(PREFIX + router.name):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    for interface in router.interfaces:
        mac, address = interface.mac, int(lab.addresses[router.name][interface.name].ip)
        asked = pk.arp(1, mac, address, 0, address)
        frame = pk.ethernet(pk.BROADCAST, mac, pk.ETH_ARP, asked)
        sock.sendto(frame, (interface.name, 0))
    # closing a packet socket waits until no processor can be using it: 10 to 20 ms
    threading.Thread(target=sock.close).start()


# --- the control link's filter -------------------------------------------------------------------


def guard_rules(router: Router) -> str:
    """The nftables rules for one control vif: what a router may say to its host."""
    vif, own = router.control_vif, control_link.address(router)
    return f"""
add table netdev xenflow-{router.name}
delete table netdev xenflow-{router.name}
table netdev xenflow-{router.name} {{
    chain from-router {{
        type filter hook ingress device "{vif}" priority 0; policy drop;
        ether saddr != {control_link.mac(router)} drop
        ip6 saddr != {own} drop
        ip6 daddr {control_link.RULE_TABLE_ADDRESS} tcp dport {control_link.RULE_TABLE_PORT} accept
        ip6 daddr {{ {control_link.RULE_TABLE_ADDRESS}, ff02::1:ff00:1 }} ip6 hoplimit 255 \
icmpv6 type nd-neighbor-solicit icmpv6 code 0 accept
        ip6 daddr {control_link.RULE_TABLE_ADDRESS} ip6 hoplimit 255 \
icmpv6 type nd-neighbor-advert icmpv6 code 0 accept
    }}
}}
"""


def _nft(rules: str, namespace: str) -> None:
    with inside(namespace):
        try:
            done = subprocess.run(
                ["nft", "-f", "-"], input=rules, capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise LabError("nft is not installed (package nftables)") from None
    if done.returncode:
        raise LabError(f"nft in {namespace}: {done.stderr.strip()}")


def _mac_of(router: Router, vif: str) -> str:
    return control_link.RULE_TABLE_MAC if vif == router.control_vif else _VIF_MAC
