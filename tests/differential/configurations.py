"""Random configurations of a router: addresses, routes of every kind, and at most one oddity.

A configuration is what both routers are told (commands for `ip -batch`, kernel settings, packet
filters) and what the generator of packets must know of it: where stations are, which destinations
are interesting, which next hops are equal.  The same seed gives the same configuration.  Here is
the IPv4 half; `configurations6` has the other one, and `Both` is the two.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_address,
)
from random import Random

PORTS = 4
"""Interfaces of a router, e0 and so on."""
ODD = 0.7
"""So many configurations have an oddity beside their routes."""
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network
DEAD = 13
"""An address whose last four bits are this has nobody to answer for it."""


def text(address: int) -> str:
    """An address as tools write it."""
    return str(IPv4Address(address))


def network(address: int, length: int) -> IPv4Network:
    """The network of an address."""
    return IPv4Network((address, length), strict=False)


def station(port: int, address: int, changed: bool = False) -> int | None:
    """The MAC address of the station that answers for an address of either family on a port;
    `changed`: its new one."""
    if address & 15 == DEAD:
        return None
    if address >> 32:
        low = zlib.crc32(address.to_bytes(16, "big"))
        return 0x0E0000000000 | changed << 36 | port << 32 | low
    return 0x0A0000000000 | changed << 36 | port << 32 | address


@dataclass(slots=True)
class KernelConfiguration:
    """One configuration, of one family.

    commands  for `ip -batch`, in this order; `undo` before the next configuration
    settings  kernel parameters, below /proc/sys; `restore` sets them back
    late      commands and settings for when both families are configured
    filters   for `nft -f`
    slow      whether the switch must leave everything to the VM; None: it may
    changed   stations that have a new MAC address
    groups    sets of equal next hops: (port, gateway)
    new_mac   (port, address) of a station that gets a new MAC address once all is in force
    proxied   addresses that the router answers for though it is a router to them
    routed    prefixes that there will be routes to
    """

    random: Random
    oddity: str = ""
    commands: list[str] = field(default_factory=list)
    undo: list[str] = field(default_factory=list)
    settings: dict[str, str | int] = field(default_factory=dict)
    restore: dict[str, str | int] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    late_settings: dict[str, str | int] = field(default_factory=dict)
    filters: str = ""
    slow: bool | None = False
    own: list[tuple[int, Interface]] = field(default_factory=list)
    local: list[Network] = field(default_factory=list)
    mtus: list[int] = field(default_factory=lambda: [1500] * PORTS)
    down: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)
    hot: list[int] = field(default_factory=list)
    groups: list[set[tuple[int, int]]] = field(default_factory=list)
    new_mac: tuple[int, int] | None = None
    proxied: list[int] = field(default_factory=list)
    routed: list[Network] = field(default_factory=list)

    def station(self, port: int, address: int) -> int | None:
        """The MAC address of the station that answers for an address on a port."""
        return station(port, address, address in self.changed)

    def is_own(self, address: int) -> bool:
        """Whether an address is the router's."""
        mine = any(address == int(own.ip) for _, own in self.own)
        return mine or any(
            int(prefix.network_address) <= address <= int(prefix.broadcast_address)
            for prefix in self.local
        )

    def on(self, port: int) -> list[Interface]:
        """The addresses of one interface."""
        return [address for where, address in self.own if where == port]

    def host(self, net: Network) -> int:
        """Some address of a network, often one near its beginning."""
        count = net.num_addresses
        if self.random.random() < 0.5:
            count = min(count, 32)
        return int(net.network_address) + self.random.randrange(count)

    def gateway(self, port: int, alive: bool = True) -> int:
        """A station on a port's first network."""
        net = self.on(port)[0].network
        while True:
            found = int(net.network_address) + self.random.randrange(1, net.num_addresses - 1)
            mine = any(found == int(a.ip) for _, a in self.own)
            if not mine and (found & 15 != DEAD) == alive:
                return found


@dataclass(frozen=True, slots=True)
class Both:
    """What both families of a router are."""

    v4: KernelConfiguration
    v6: KernelConfiguration

    def of(self, address: int) -> KernelConfiguration:
        """The half that an address belongs to (those of IPv6 below 2**32 are nobody's here)."""
        return self.v6 if address >> 32 else self.v4

    def station(self, port: int, address: int) -> int | None:
        """The MAC address of the station that answers for an address on a port."""
        return self.of(address).station(port, address)

    def is_own(self, address: int) -> bool:
        """Whether an address is the router's."""
        return self.of(address).is_own(address)


def make(seed: str) -> KernelConfiguration:
    """The IPv4 configuration of a seed."""
    made = KernelConfiguration(Random(seed))
    made.oddity = made.random.choice(list(_ODDITIES)) if made.random.random() < ODD else "none"
    _interfaces(made)
    _routes(made)
    _ODDITIES[made.oddity](made)
    return made


# --------------------------------------------------------------------------------------------
# Interfaces and routes


def _interfaces(made: KernelConfiguration) -> None:
    random = made.random
    narrow = random.choice((None, None, 0, 1, 2, 3))
    if narrow is not None:
        made.mtus[narrow] = random.choice((576, 700, 1280, 1400))
    for port in range(PORTS):
        length = random.choice((16, 22, 24, 24, 25, 27))
        base = IPv4Network(((10 << 24) | port << 20 | random.randrange(16) << 16, length))
        place = random.choice((1, base.num_addresses - 2, base.num_addresses // 2))
        made.own.append((port, IPv4Interface((int(base.network_address) + place, length))))
        if random.random() < 0.4:
            length = random.choice((24, 29, 30, 31, 32))
            second = network(0xC0A80000 | port << 12 | random.randrange(4096), length)
            place = 0 if length > 30 else 1
            made.own.append((port, IPv4Interface((int(second.network_address) + place, length))))
        made.commands.append(f"link set e{port} mtu {made.mtus[port]} up")
    for port, address in made.own:
        broadcast = "" if address.network.prefixlen > 30 else "broadcast +"
        made.commands.append(f"address add {address} {broadcast} dev e{port}")


def _routes(made: KernelConfiguration) -> None:
    """Nested prefixes around a few destinations, each with a next hop of its own kind."""
    random = made.random
    seen: set[IPv4Network] = {a.network for _, a in made.own}
    made.hot = [random.choice(_HOT)(random) for _ in range(10)]
    kinds = [*_KINDS, *["via"] * 4, "nexthop", "onlink", "device"]
    if random.random() < 0.6:
        _one_route(made, IPv4Network("0.0.0.0/0"), random.choice(("via", "via", "group", "device")))
    for destination in made.hot:
        for length in sorted(random.sample(range(1, 33), random.randrange(1, 5))):
            prefix = network(destination, length)
            if prefix not in seen:
                seen.add(prefix)
                _one_route(made, prefix, random.choice(kinds))


_HOT: tuple[Callable[[Random], int], ...] = (
    lambda random: random.randrange(1 << 24, 127 << 24),
    lambda random: random.randrange(128 << 24, 224 << 24),
    lambda random: random.randrange(128 << 24, 224 << 24),
    lambda random: random.randrange(240 << 24, 0xFFFFFFFF),
    lambda random: 10 << 24 | random.randrange(1 << 24),
    lambda random: 100 << 24 | 64 << 16 | random.randrange(1 << 21),
)


def _one_route(made: KernelConfiguration, prefix: IPv4Network, kind: str) -> None:
    _KINDS[kind](made, prefix)


def _port(made: KernelConfiguration) -> int:
    return made.random.randrange(PORTS)


def _via(made: KernelConfiguration, prefix: IPv4Network) -> None:
    port = _port(made)
    made.commands.append(f"route add {prefix} via {text(made.gateway(port))} dev e{port}")


def _dead(made: KernelConfiguration, prefix: IPv4Network) -> None:
    port = _port(made)
    made.commands.append(
        f"route add {prefix} via {text(made.gateway(port, alive=False))} dev e{port}"
    )


def _onlink(made: KernelConfiguration, prefix: IPv4Network) -> None:
    gateway = 0xC6120000 | made.random.randrange(1 << 16) & ~15 | 1
    made.commands.append(f"route add {prefix} via {text(gateway)} dev e{_port(made)} onlink")


def _device(made: KernelConfiguration, prefix: IPv4Network) -> None:
    made.commands.append(f"route add {prefix} dev e{_port(made)}")


def _special(kind: str) -> Callable[[KernelConfiguration, IPv4Network], None]:
    def add(made: KernelConfiguration, prefix: IPv4Network) -> None:
        made.commands.append(f"route add {kind} {prefix}")

    return add


def _metrics(made: KernelConfiguration, prefix: IPv4Network) -> None:
    """Two routes; the one of lower metric counts."""
    for metric in made.random.sample((10, 20, 30), 2):
        port = _port(made)
        gateway = text(made.gateway(port))
        made.commands.append(f"route add {prefix} via {gateway} dev e{port} metric {metric}")


def _legs(made: KernelConfiguration) -> list[tuple[int, int]]:
    wide = [port for port in range(PORTS) if made.mtus[port] == 1500]
    ports = made.random.sample(wide, made.random.choice((2, 2, 3)))
    legs = [(port, made.gateway(port)) for port in ports]
    made.groups.append(set(legs))
    return legs


def _multipath(made: KernelConfiguration, prefix: IPv4Network) -> None:
    hops = " ".join(
        f"nexthop via {text(gateway)} dev e{port} weight {made.random.choice((1, 1, 2, 5))}"
        for port, gateway in _legs(made)
    )
    made.commands.append(f"route add {prefix} {hops}")


def _object(made: KernelConfiguration, port: int, gateway: int) -> int:
    number = 1 + sum(line.startswith("nexthop add") for line in made.commands)
    made.commands.append(f"nexthop add id {number} via {text(gateway)} dev e{port}")
    return number


def _nexthop(made: KernelConfiguration, prefix: IPv4Network) -> None:
    port = _port(made)
    made.commands.append(f"route add {prefix} nhid {_object(made, port, made.gateway(port))}")


def _group(made: KernelConfiguration, prefix: IPv4Network) -> None:
    members = [_object(made, port, gateway) for port, gateway in _legs(made)]
    number = members[-1] + 1
    made.commands.append(f"nexthop add id {number} group {'/'.join(map(str, members))}")
    made.commands.append(f"route add {prefix} nhid {number}")


def _blackhole_object(made: KernelConfiguration, prefix: IPv4Network) -> None:
    number = 1 + sum(line.startswith("nexthop add") for line in made.commands)
    made.commands += [f"nexthop add id {number} blackhole", f"route add {prefix} nhid {number}"]


_KINDS: dict[str, Callable[[KernelConfiguration, IPv4Network], None]] = {
    "via": _via,
    "dead": _dead,
    "onlink": _onlink,
    "device": _device,
    "blackhole": _special("blackhole"),
    "unreachable": _special("unreachable"),
    "prohibit": _special("prohibit"),
    "throw": _special("throw"),
    "metrics": _metrics,
    "multipath": _multipath,
    "nexthop": _nexthop,
    "group": _group,
    "blackhole object": _blackhole_object,
}


# --------------------------------------------------------------------------------------------
# Oddities: what a router may have beside routes


def nothing(made: KernelConfiguration) -> None:
    """No oddity."""


def _no_forwarding(made: KernelConfiguration) -> None:
    made.settings["net/ipv4/ip_forward"] = 0
    made.slow = True


def _no_forwarding_on_one(made: KernelConfiguration) -> None:
    name = f"net/ipv4/conf/e{_port(made)}/forwarding"
    made.settings[name], made.restore[name] = 0, 1
    made.slow = True


def _strict(made: KernelConfiguration) -> None:
    where = made.random.choice(("all", "e0", "e1", "e2", "e3"))
    name = f"net/ipv4/conf/{where}/rp_filter"
    made.settings[name], made.restore[name] = 1, 0
    made.slow = True


def _loose(made: KernelConfiguration) -> None:
    name = f"net/ipv4/conf/e{_port(made)}/rp_filter"
    made.settings[name], made.restore[name] = 2, 0
    made.slow = True  # not every source has a route: the rig's own mark is none


def _rule(made: KernelConfiguration) -> None:
    random = made.random
    port = _port(made)
    selector = random.choice(
        (
            f"from {network(random.choice(made.hot), 4)}",
            f"to {network(random.choice(made.hot), 12)}",
            f"iif e{port}",
            "ipproto udp",
            "fwmark 7",
            "tos 0x10",
        )
    )
    action = random.choice(("lookup 100", "unreachable", "prohibit", "blackhole"))
    made.commands += [
        f"route add default via {text(made.gateway(port))} dev e{port} table 100",
        f"rule add pref 100 {selector} {action}",
    ]
    made.undo += ["rule del pref 100", "route flush table 100"]
    made.slow = True


def _filter(made: KernelConfiguration) -> None:
    made.filters = made.random.choice(
        (
            "add table ip f\nadd chain ip f c { type filter hook forward priority 0; }\n"
            "add rule ip f c ip ttl lt 40 drop\n",
            "add table ip f\n"
            "add chain ip f c { type filter hook forward priority 0; policy drop; }\n"
            "add rule ip f c ip protocol udp accept\n",
            "add table inet f\nadd chain inet f c { type filter hook prerouting priority -300; }\n"
            "add rule inet f c ip protocol icmp drop\n",
            "add table ip f\nadd chain ip f c { type filter hook postrouting priority 0; }\n"
            "add rule ip f c tcp dport 1-30000 drop\n",
        )
    )
    made.slow = True


def _down(made: KernelConfiguration) -> None:
    port = _port(made)
    made.down.add(port)
    made.late.append(f"link set e{port} down")
    made.undo.append(f"link set e{port} up")


def new_mac(made: KernelConfiguration) -> None:
    """A gateway gets another network card, and says so."""
    routes = [line.split() for line in made.commands if line.startswith("route add")]
    vias = [w for w in routes if w[3:4] == ["via"] and w[5] == "dev" and "metric" not in w]
    gateways = [(int(words[6][1:]), int(ip_address(words[4]))) for words in vias]
    alive = [(port, gateway) for port, gateway in gateways if gateway & 15 != DEAD]
    made.new_mac = made.random.choice(alive) if alive else None


def _wide_local(made: KernelConfiguration) -> None:
    prefix = network(made.random.choice(made.hot), made.random.choice((16, 24, 30)))
    made.local.append(prefix)
    made.commands.append(f"route add local {prefix} dev lo")
    made.undo.append(f"route del local {prefix} dev lo")


def _route_mtu(made: KernelConfiguration) -> None:
    port = _port(made)
    prefix = network(made.random.choice(made.hot), 32)
    made.commands.append(
        f"route replace {prefix} via {text(made.gateway(port))} dev e{port} mtu lock 600"
    )


def _tos(made: KernelConfiguration) -> None:
    port = _port(made)
    prefix = network(made.random.choice(made.hot), made.random.choice((8, 16)))
    made.commands.append(f"route add {prefix} tos 0x10 via {text(made.gateway(port))} dev e{port}")
    made.slow = True


def _default_table(made: KernelConfiguration) -> None:
    port = _port(made)
    made.commands.append(
        f"route add default via {text(made.gateway(port))} dev e{port} table default"
    )
    made.undo.append("route flush table default")
    made.slow = True


def _proxy_arp(made: KernelConfiguration) -> None:
    name = f"net/ipv4/conf/e{_port(made)}/proxy_arp"
    made.settings[name], made.restore[name] = 1, 0


def _directed_broadcasts(made: KernelConfiguration) -> None:
    for where in ("all", f"e{_port(made)}"):
        name = f"net/ipv4/conf/{where}/bc_forwarding"
        made.settings[name], made.restore[name] = 1, 0


def _permanent(made: KernelConfiguration) -> None:
    """A neighbour by hand: nobody asks for it, though nobody would answer."""
    port = _port(made)
    gateway = made.gateway(port, alive=False)
    made.commands.append(
        f"neighbour replace {text(gateway)} lladdr 0a:0d:ea:d0:00:01 dev e{port} nud permanent"
    )
    prefix = network(made.random.choice(made.hot), 32)
    made.commands.append(f"route replace {prefix} via {text(gateway)} dev e{port}")


def alone(made: KernelConfiguration) -> None:
    """Hardly any route: nearly everything is unreachable."""
    made.commands = [line for line in made.commands if not line.startswith(("route", "nexthop"))]
    made.groups.clear()


_ODDITIES: dict[str, Callable[[KernelConfiguration], None]] = {
    "none": nothing,
    "forwarding off": _no_forwarding,
    "forwarding off on one": _no_forwarding_on_one,
    "rp_filter strict": _strict,
    "rp_filter loose": _loose,
    "ip rule": _rule,
    "packet filter": _filter,
    "interface down": _down,
    "new MAC": new_mac,
    "local prefix": _wide_local,
    "route MTU": _route_mtu,
    "TOS route": _tos,
    "default table": _default_table,
    "proxy ARP": _proxy_arp,
    "directed broadcasts": _directed_broadcasts,
    "permanent neighbour": _permanent,
    "no routes": alone,
}
