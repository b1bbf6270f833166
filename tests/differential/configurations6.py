"""The IPv6 half of a random configuration: addresses, routes of every kind, at most one oddity."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Interface, IPv6Network
from random import Random

from tests.differential import configurations as of_v4
from tests.differential.configurations import (
    DEAD,
    ODD,
    PORTS,
    Both,
    KernelConfiguration,
    alone,
    new_mac,
    nothing,
)

LEAST_MTU = 1280
"""A kernel has no IPv6 on an interface that is narrower (RFC 8200, section 5)."""
LINK_LOCAL = IPv6Network("fe80::/64")
CONTROL = LINK_LOCAL[1]
"""The far end of a VM's control link: a blackhole for it would cut the VM off."""
TABLE = 200
_FIRST_OBJECT = 1001
"""Next hop objects of both families are numbered together."""


def text(address: int) -> str:
    """An address as tools write it."""
    return str(IPv6Address(address))


def network(address: int, length: int) -> IPv6Network:
    """The network of an address."""
    return IPv6Network((address, length), strict=False)


def beside(v4: KernelConfiguration, seed: str) -> Both:
    """The IPv4 configuration of a seed with the IPv6 one: they have the same interfaces, routes of
    IPv4 may lead by way of an IPv6 gateway (RFC 8950), and some packet filters concern both."""
    v6 = _make(v4, seed)
    if "inet" in v4.filters + v6.filters:
        v4.slow = v6.slow = True
    return Both(v4, v6)


def _make(beside: KernelConfiguration, seed: str) -> KernelConfiguration:
    made = KernelConfiguration(Random(f"{seed} IPv6"), mtus=beside.mtus, down=beside.down)
    made.oddity = made.random.choice(list(_ODDITIES)) if made.random.random() < ODD else "none"
    _interfaces(made)
    _routes(made)
    if made.random.random() < 0.5:
        _for_the_other_family(made, beside)
    _ODDITIES[made.oddity](made)
    return made


def ports(made: KernelConfiguration) -> list[int]:
    """The ports whose interfaces have IPv6."""
    return [port for port in range(PORTS) if made.mtus[port] >= LEAST_MTU]


# --------------------------------------------------------------------------------------------
# Interfaces and routes


def _interfaces(made: KernelConfiguration) -> None:
    random = made.random
    for port in ports(made):
        suffix = random.choice((1, 2, random.getrandbits(64)))
        made.own.append((port, IPv6Interface((int(LINK_LOCAL.network_address) | suffix, 64))))
        for kind in random.choice(("", "g", "g", "g", "gg", "gu", "gu", "u", "gp", "p", "guph")):
            address = _ADDRESSES[kind](made, port)
            if (port, address) not in made.own:
                made.own.append((port, address))
    made.commands += [f"address add {address} dev e{port} nodad" for port, address in made.own]


def _global(made: KernelConfiguration, port: int) -> IPv6Interface:
    length = made.random.choice((44, 56, 64, 64, 64, 64, 80, 96, 112, 120, 124, 126))
    base = 0x20010DB8 << 96 | port << 92 | made.random.getrandbits(12) << 80
    net = network(base | made.random.getrandbits(79), length)
    last = net.num_addresses - 1
    return IPv6Interface((int(net[made.random.choice((1, last, last // 2))]), length))


def _unique_local(made: KernelConfiguration, port: int) -> IPv6Interface:
    net = network(0xFD00 << 112 | port << 104 | made.random.getrandbits(40) << 64, 64)
    return IPv6Interface((int(net[made.random.choice((1, 0xFFFE))]), 64))


def _point_to_point(made: KernelConfiguration, port: int) -> IPv6Interface:
    net = network(0x20010DB9 << 96 | port << 92 | made.random.getrandbits(60) << 4, 127)
    return IPv6Interface((int(net[made.random.choice((0, 1))]), 127))


def _host(made: KernelConfiguration, port: int) -> IPv6Interface:
    return IPv6Interface((0x20010DBA << 96 | port << 92 | made.random.getrandbits(64), 128))


_ADDRESSES = {"g": _global, "u": _unique_local, "p": _point_to_point, "h": _host}


def _routes(made: KernelConfiguration) -> None:
    """Nested prefixes around a few destinations, each with a next hop of its own kind."""
    random = made.random
    made.hot = [random.choice(_HOT)(made) for _ in range(10)]
    kinds = [*_KINDS, *["via", "via link-local"] * 3, "nexthop", "onlink", "device"]
    prefixes = {
        network(destination, length)
        for destination in made.hot
        for length in random.sample(range(1, 129), random.randrange(1, 5))
    }
    routed = sorted(
        prefix
        for prefix in prefixes - {a.network for _, a in made.own}
        if prefix.prefixlen < LINK_LOCAL.prefixlen or CONTROL not in prefix
    )
    made.routed = [*routed]
    if random.random() < 0.6:
        kind = random.choice(("via", "via link-local", "group", "device"))
        _KINDS[kind](made, IPv6Network("::/0"))
    for prefix in routed:
        _KINDS[random.choice(kinds)](made, prefix)


def _inside(made: KernelConfiguration) -> int:
    """Inside one of the router's own networks, more specific than which a route may be."""
    return made.host(made.random.choice(made.own)[1].network)


_HOT: tuple[Callable[[KernelConfiguration], int], ...] = (
    lambda made: 2 << 124 | made.random.getrandbits(125),
    lambda made: 0x20010DB8 << 96 | made.random.getrandbits(96),
    lambda made: 0x20010DB8 << 96 | made.random.getrandbits(96),
    lambda made: 0xFD << 120 | made.random.getrandbits(120),
    lambda made: 0x64FF9B << 96 | made.random.getrandbits(32),
    lambda made: 0x2002 << 112 | made.random.getrandbits(112),
    lambda made: made.random.randrange(1 << 127, 0xFE80 << 112),
    lambda made: made.random.choice((0, 0xFFFF << 32)) | made.random.randrange(1 << 24, 1 << 32),
    _inside,
)


def _port(made: KernelConfiguration) -> int:
    return made.random.choice(ports(made))


def gateway(made: KernelConfiguration, port: int, alive: bool = True) -> int:
    """A station on one of a port's networks, by a global address where one can be had to which
    there is no other route: a kernel takes no other for a gateway."""
    nets = [a.network for a in made.on(port) if a.network != LINK_LOCAL]
    for _ in range(50):
        if not nets:
            break
        net = made.random.choice(nets)
        found = made.host(net)
        elsewhere = any(
            IPv6Address(found) in prefix
            for prefix in (*made.routed, *(a.network for _, a in made.own), *made.local)
            if prefix.prefixlen > net.prefixlen
        )
        if not elsewhere and not made.is_own(found) and (found & 15 != DEAD) == alive:
            return found
    return link_local(made, port, alive)


def link_local(made: KernelConfiguration, port: int, alive: bool = True) -> int:
    """A station's link-local address."""
    while True:
        low = made.random.choice((made.random.randrange(3, 64), made.random.getrandbits(64)))
        found = int(LINK_LOCAL.network_address) | low
        if not made.is_own(found) and (found & 15 != DEAD) == alive:
            return found


def _add(made: KernelConfiguration, route: str) -> None:
    made.commands.append(f"route add {route}")


def _via(made: KernelConfiguration, prefix: IPv6Network) -> None:
    port = _port(made)
    _add(made, f"{prefix} via {text(gateway(made, port))} dev e{port}")


def _via_link_local(made: KernelConfiguration, prefix: IPv6Network) -> None:
    port = _port(made)
    _add(made, f"{prefix} via {text(link_local(made, port))} dev e{port}")


def _dead(made: KernelConfiguration, prefix: IPv6Network) -> None:
    port = _port(made)
    _add(made, f"{prefix} via {text(gateway(made, port, alive=False))} dev e{port}")


def _onlink(made: KernelConfiguration, prefix: IPv6Network) -> None:
    """By a gateway that is on no network of the router's; a kernel takes none to which a route
    leads elsewhere."""
    port, far = _port(made), 0x3FFE << 112 | made.random.getrandbits(64) & ~15 | 1
    if any(IPv6Address(far) in routed for routed in made.routed):
        far = link_local(made, port)
    _add(made, f"{prefix} via {text(far)} dev e{port} onlink")


def _device(made: KernelConfiguration, prefix: IPv6Network) -> None:
    _add(made, f"{prefix} dev e{_port(made)}")


def _special(kind: str) -> Callable[[KernelConfiguration, IPv6Network], None]:
    def add(made: KernelConfiguration, prefix: IPv6Network) -> None:
        _add(made, f"{kind} {prefix}")

    return add


def _metrics(made: KernelConfiguration, prefix: IPv6Network) -> None:
    """Two routes; the one of lower metric counts."""
    for metric in made.random.sample((10, 20, 30), 2):
        port = _port(made)
        _add(made, f"{prefix} via {text(gateway(made, port))} dev e{port} metric {metric}")


def _preferences(made: KernelConfiguration, prefix: IPv6Network) -> None:
    """Two routes of one metric that are no legs; the one of higher preference counts (RFC 4191),
    among equals the first."""
    if len(ports(made)) < 2:
        return
    for verb, port in zip(("add", "append"), made.random.sample(ports(made), 2), strict=True):
        pref = made.random.choice(("low", "medium", "high"))
        made.commands.append(f"route {verb} {prefix} dev e{port} pref {pref}")


def _legs(made: KernelConfiguration) -> list[tuple[int, int]]:
    wide = [port for port in range(PORTS) if made.mtus[port] == 1500]
    chosen = made.random.sample(wide, made.random.choice((2, 2, 3)))
    legs = [(p, made.random.choice((gateway, link_local))(made, p)) for p in chosen]
    made.groups.append(set(legs))
    return legs


def _multipath(made: KernelConfiguration, prefix: IPv6Network) -> None:
    hops = " ".join(
        f"nexthop via {text(address)} dev e{port} weight {made.random.choice((1, 1, 2, 5))}"
        for port, address in _legs(made)
    )
    _add(made, f"{prefix} {hops}")


def _appended(made: KernelConfiguration, prefix: IPv6Network) -> None:
    """A leg after the other."""
    for port, address in _legs(made):
        made.commands.append(f"route append {prefix} via {text(address)} dev e{port}")


def _object(made: KernelConfiguration, what: str) -> int:
    number = _FIRST_OBJECT + sum(line.startswith("nexthop add") for line in made.commands)
    made.commands.append(f"nexthop add id {number} {what}")
    return number


def _nexthop(made: KernelConfiguration, prefix: IPv6Network) -> None:
    port = _port(made)
    made_of = made.random.choice((f"via {text(gateway(made, port))} dev e{port}", f"dev e{port}"))
    _add(made, f"{prefix} nhid {_object(made, made_of)}")


def _group(made: KernelConfiguration, prefix: IPv6Network) -> None:
    members = [_object(made, f"via {text(a)} dev e{port}") for port, a in _legs(made)]
    _add(made, f"{prefix} nhid {_object(made, 'group ' + '/'.join(map(str, members)))}")


def _blackhole_object(made: KernelConfiguration, prefix: IPv6Network) -> None:
    _add(made, f"{prefix} nhid {_object(made, 'blackhole')}")


_KINDS: dict[str, Callable[[KernelConfiguration, IPv6Network], None]] = {
    "via": _via,
    "via link-local": _via_link_local,
    "dead": _dead,
    "onlink": _onlink,
    "device": _device,
    "blackhole": _special("blackhole"),
    "unreachable": _special("unreachable"),
    "prohibit": _special("prohibit"),
    "throw": _special("throw"),
    "metrics": _metrics,
    "preferences": _preferences,
    "multipath": _multipath,
    "appended": _appended,
    "nexthop": _nexthop,
    "group": _group,
    "blackhole object": _blackhole_object,
}


def _for_the_other_family(made: KernelConfiguration, beside: KernelConfiguration) -> None:
    """IPv4 routes by way of IPv6 gateways, in place of what leads there otherwise."""
    for destination in made.random.sample(beside.hot, 3):
        port = _port(made)
        address = made.random.choice((gateway, link_local))(made, port)
        prefix = of_v4.network(destination, made.random.choice((24, 32)))
        made.late.append(f"route replace {prefix} via inet6 {text(address)} dev e{port}")


# --------------------------------------------------------------------------------------------
# Oddities: what a router may have beside routes


def _set(made: KernelConfiguration, where: str, name: str, value: int, before: int) -> None:
    name = f"net/ipv6/conf/{where}/{name}"
    made.settings[name], made.restore[name] = value, before


def _no_forwarding(made: KernelConfiguration) -> None:
    _set(made, "all", "forwarding", 0, 1)
    made.slow = None


def _no_forwarding_on_one(made: KernelConfiguration) -> None:
    _set(made, f"e{_port(made)}", "forwarding", 0, 1)
    made.slow = None


def _forwarding_on_one(made: KernelConfiguration) -> None:
    """Which counts for nothing: "all" decides."""
    _set(made, "all", "forwarding", 0, 1)
    _set(made, f"e{_port(made)}", "forwarding", 1, 1)
    made.slow = None


def _forced_forwarding(made: KernelConfiguration) -> None:
    """What arrives on one is forwarded though "all" says no (from Linux 6.17)."""
    _set(made, "all", "forwarding", 0, 1)
    _set(made, f"e{_port(made)}", "force_forwarding", 1, 0)
    made.slow = None


def _disabled(made: KernelConfiguration) -> None:
    """But IPv4 routes that would lead there by an IPv6 gateway, which would never be resolved."""
    port = _port(made)
    made.late = [line for line in made.late if not line.endswith(f"dev e{port}")]
    name = f"net/ipv6/conf/e{port}/disable_ipv6"
    made.late_settings[name], made.restore[name] = 1, 0


def _rule(made: KernelConfiguration) -> None:
    random = made.random
    port = _port(made)
    selector = random.choice(
        (
            f"from {network(random.choice(made.hot), 4)}",
            f"to {network(random.choice(made.hot), 20)}",
            f"iif e{port}",
            "ipproto udp",
            "fwmark 7",
            "tos 0x10",
        )
    )
    action = random.choice((f"lookup {TABLE}", "unreachable", "prohibit", "blackhole"))
    made.commands += [
        f"route add default via {text(gateway(made, port))} dev e{port} table {TABLE}",
        f"rule add pref 100 {selector} {action}",
    ]
    made.undo += ["rule del pref 100", f"route flush table {TABLE}"]
    made.slow = True


def _filter(made: KernelConfiguration) -> None:
    made.filters = made.random.choice(
        (
            "add table ip6 g\nadd chain ip6 g c { type filter hook forward priority 0; }\n"
            "add rule ip6 g c ip6 hoplimit lt 40 drop\n",
            "add table ip6 g\n"
            "add chain ip6 g c { type filter hook forward priority 0; policy drop; }\n"
            "add rule ip6 g c meta l4proto udp accept\n",
            "add table inet g\nadd chain inet g c { type filter hook prerouting priority -300; }\n"
            "add rule inet g c icmpv6 type echo-request drop\n",
            "add table ip6 g\nadd chain ip6 g c { type filter hook postrouting priority 0; }\n"
            "add rule ip6 g c tcp dport 1-30000 drop\n",
        )
    )
    made.slow = True


def _down(made: KernelConfiguration) -> None:
    port = _port(made)
    made.down.add(port)
    made.late.append(f"link set e{port} down")


def _wide_local(made: KernelConfiguration) -> None:
    prefix = network(made.random.choice(made.hot), made.random.choice((32, 64, 100, 126)))
    made.local.append(prefix)
    made.commands.append(f"route add local {prefix} dev lo")
    made.undo.append(f"route del local {prefix} dev lo")


def _route_mtu(made: KernelConfiguration) -> None:
    port, lock = _port(made), made.random.choice(("lock ", ""))
    prefix = network(made.random.choice(made.hot), 128)
    _add(made, f"{prefix} via {text(gateway(made, port))} dev e{port} metric 1 mtu {lock}1300")


def _interface_mtu(made: KernelConfiguration) -> None:
    """IPv6's own MTU of an interface, as router advertisements set it (RFC 4861, 4.6.4)."""
    wide = [port for port in range(PORTS) if made.mtus[port] == 1500]
    name = f"net/ipv6/conf/e{made.random.choice(wide)}/mtu"
    made.late_settings[name], made.restore[name] = 1300, 1500


def _from_route(made: KernelConfiguration) -> None:
    """A route that counts for some sources only."""
    port = _port(made)
    prefix = network(made.random.choice(made.hot), made.random.choice((16, 64)))
    source = made.random.choice((network(0x20010DB8 << 96, 32), network(0xFD << 120, 8)))
    address = text(gateway(made, port))
    _add(made, f"{prefix} from {source} via {address} dev e{port} metric 5")
    made.slow = True


def _proxy(made: KernelConfiguration) -> None:
    """Answers for others, in all of which it is a router still."""
    port = _port(made)
    _set(made, "all", "proxy_ndp", 1, 0)
    _set(made, f"e{port}", "proxy_ndp", 1, 0)
    for address in made.random.sample(made.hot, 4):
        made.proxied.append(address)
        made.commands.append(f"neighbour add proxy {text(address)} dev e{port}")
        made.undo.append(f"neighbour del proxy {text(address)} dev e{port}")


def _permanent(made: KernelConfiguration) -> None:
    """A neighbour by hand: nobody asks for it, though nobody would answer."""
    port = _port(made)
    address = gateway(made, port, alive=False)
    made.commands.append(
        f"neighbour replace {text(address)} lladdr 0a:0d:ea:d0:00:02 dev e{port} nud permanent"
    )
    prefix = network(made.random.choice(made.hot), 128)
    _add(made, f"{prefix} via {text(address)} dev e{port} metric 1")


_ODDITIES: dict[str, Callable[[KernelConfiguration], None]] = {
    "none": nothing,
    "forwarding off": _no_forwarding,
    "forwarding off on one": _no_forwarding_on_one,
    "forwarding on one only": _forwarding_on_one,
    "forwarding forced on one": _forced_forwarding,
    "disabled on one": _disabled,
    "ip rule": _rule,
    "packet filter": _filter,
    "interface down": _down,
    "new MAC": new_mac,
    "local prefix": _wide_local,
    "route MTU": _route_mtu,
    "interface's MTU": _interface_mtu,
    "route by source": _from_route,
    "proxy ND": _proxy,
    "permanent neighbour": _permanent,
    "no routes": alone,
}
