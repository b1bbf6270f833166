"""routerd against a real kernel: whatever is done to it, the Rule Table ends with what it would do.

Own network namespaces, root; the Rule Table is `RuleTableStub`.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from lab.namespace import inside
from routerd import rtnetlink
from routerd.daemon import Kernel
from routerd.netlink_socket import NetlinkListener
from tests.lab.rule_table_stub import RuleTableStub
from xenflow.routes.family import FAMILIES, V4, V6, netmask, prefix_text
from xenflow.routes.messages import (
    InterfaceFlag,
    InterfaceKind,
    NextHopType,
    RouteMessageType,
    VmReason,
)
from xenflow.routes.router_state import RouterState

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]

_libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace: str) -> None:
    """Move the calling thread into a network namespace."""
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, 0x40000000):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(fd)


class Lab:
    """A router's namespace with two data links to a peer's, and a control link to a host's."""

    def __init__(self) -> None:
        tag = f"rd{os.getpid() % 100000}"
        self.router, self.peer = f"{tag}r", f"{tag}p"
        self.hosts = [f"{tag}h", f"{tag}i"]
        self.processes: list[subprocess.Popen[Any]] = []
        self.stubs: list[RuleTableStub] = []
        for name in (self.router, self.peer, *self.hosts):
            self.sh(f"ip netns add {name}; ip -n {name} link set lo up")
        # IPv6 addresses are in use at once
        self.sh(f"ip netns exec {self.router} sysctl -qw net.ipv6.conf.default.accept_dad=0")
        for n in (0, 1):
            self.sh(
                f"ip link add name eth{n} netns {self.router} type veth"
                f" peer name p{n} netns {self.peer}"
            )
            self.ip(f"addr add 10.0.{n}.1/24 dev eth{n}")
            self.ip(f"link set eth{n} up")
            self.sh(f"ip -n {self.peer} addr add 10.0.{n}.2/24 dev p{n}")
            self.sh(f"ip -n {self.peer} addr add 10.0.{n}.3/24 dev p{n}")
            self.sh(f"ip -n {self.peer} link set p{n} up")
        self.sh(f"ip netns exec {self.router} sysctl -qw net.ipv4.ip_forward=1")

    def six(self) -> None:
        """IPv6 on the data links as well; the router forwards it."""
        self.sh(f"ip netns exec {self.router} sysctl -qw net.ipv6.conf.all.forwarding=1")
        for n in (0, 1):
            self.ip(f"addr add 2001:db8:0:{n}::1/64 dev eth{n} nodad")
            for name, link in ((self.router, f"eth{n}"), (self.peer, f"p{n}")):
                keep = f"net.ipv6.conf.{link}.keep_addr_on_down=1"
                self.sh(f"ip netns exec {name} sysctl -qw {keep}")
            for address in (f"2001:db8:0:{n}::2", f"2001:db8:0:{n}::3", "fe80::2"):
                self.sh(f"ip -n {self.peer} addr add {address}/64 dev p{n} nodad")

    def plug(self, host: int, mac: str = "02:00:00:00:00:01") -> None:
        """A control link to a host, at the same address everywhere."""
        name = self.hosts[host]
        self.sh(
            f"ip link add name ctl0 netns {self.router} type veth peer name vif netns {name};"
            f"ip -n {name} link set vif address {mac};"
            f"ip -n {name} addr add fe80::1/64 dev vif nodad;"
            f"ip -n {name} link set vif up;"
            f"ip netns exec {self.router} sysctl -qw net.ipv6.conf.ctl0.accept_dad=0;"
            f"ip -n {self.router} link set ctl0 up"
        )

    def stub(self, host: int = 0) -> RuleTableStub:
        made = RuleTableStub("tcp://[fe80::1%vif]:6641")
        self.stubs.append(made)
        return made.start(lambda: enter(self.hosts[host]))

    def routerd(self, *options: str) -> subprocess.Popen[Any]:
        process = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.router, sys.executable, "-m", "routerd"),
                *("--control", "ctl0", "--router", "vr1", *options),
            ],
            cwd=ROOT,
        )
        self.processes.append(process)
        return process

    def sh(self, command: str, check: bool = True) -> None:
        subprocess.run(
            command, shell=True, check=check, stderr=None if check else subprocess.DEVNULL
        )

    def ip(self, command: str, check: bool = True) -> None:
        self.sh(f"ip -n {self.router} {command}", check)

    def json(self, command: str) -> list[dict[str, Any]]:
        text = subprocess.run(
            f"ip -j -d -n {self.router} {command}", shell=True, check=True, stdout=subprocess.PIPE
        ).stdout
        return [entry for entry in json.loads(text or b"[]") if entry]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for stub in self.stubs:
            stub.stop()
        for name in (self.router, self.peer, *self.hosts):
            self.sh(f"ip netns del {name}", check=False)


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    try:
        yield made
    finally:
        made.close()


# ------------------------------------------------------------------------- the kernel's own view


def expected_routes(lab: Lab) -> dict[str, object]:
    """prefix -> what routerd should say of it, from `ip -j` alone."""
    index = {link["ifname"]: link["ifindex"] for link in lab.json("link show")}
    objects = {o["id"]: o for o in lab.json("nexthop show")}
    found: dict[str, list[tuple[int, object]]] = {}
    for family, default, host in ((4, "0.0.0.0/0", 32), (6, "::/0", 128)):
        for route in lab.json(f"-{family} route show table main"):
            if route.get("dev") == "ctl0" or route["dst"] in ("fe80::/64", "ff00::/8"):
                continue
            prefix = default if route["dst"] == "default" else route["dst"]
            prefix = prefix if "/" in prefix else f"{prefix}/{host}"
            target = target_of(route, objects, index)
            if target is not None:
                found.setdefault(prefix, []).append((route.get("metric", 0), target))
    return {prefix: winner(prefix, routes) for prefix, routes in found.items()}


def winner(prefix: str, routes: list[tuple[int, object]]) -> object:
    """Of IPv6 routes with one metric that are not legs of one none wins for all packets."""
    best = min(metric for metric, _ in routes)
    equal = [target for metric, target in routes if metric == best]
    return "vm" if ":" in prefix and len(set(equal)) > 1 else equal[0]


def target_of(route: dict[str, Any], objects: dict[int, Any], index: dict[str, int]) -> object:
    kind = route.get("type", "unicast")
    if kind in ("blackhole", "unreachable", "prohibit"):
        return kind
    if kind != "unicast":
        return "vm"
    if "nhid" in route:
        own = objects[route["nhid"]]
        if "blackhole" in own:
            return "blackhole"
        members = [(g["id"], g.get("weight", 1)) for g in own.get("group", [])]
        hops = [(objects[i], w) for i, w in members or [(route["nhid"], 1)]]
        if any("blackhole" in hop for hop, _ in hops):
            return "blackhole"
    else:
        hops = [(hop, hop.get("weight", 1)) for hop in route.get("nexthops", [route])]
    legs: dict[object, int] = {}
    for hop, weight in hops:
        if "dead" in hop.get("flags", []) or hop.get("dev") == "ctl0":
            continue
        if "encap" in hop or hop["dev"] == "lo":
            return "vm"
        leg = (index[hop["dev"]], hop.get("via", {}).get("host", hop.get("gateway", "")))
        legs[leg] = legs.get(leg, 0) + weight
    if not legs:
        return None
    if "mtu" in str(route.get("metrics", "")):
        return "vm"
    return frozenset(legs.items()) if len(legs) > 1 else next(iter(legs))


def told_routes(state: RouterState) -> dict[str, object]:
    def target(id_: int) -> object:
        hop = state.nexthops[id_]
        if hop.type is NextHopType.GROUP:
            legs = state.legs[id_].values()
            if len(legs) == 1:  # what is left of a next hop object's group
                return target(next(iter(legs)).leg)
            return frozenset((target(leg.leg), leg.weight) for leg in legs)
        if hop.type in (NextHopType.VIA, NextHopType.CONNECTED):
            gateway = FAMILIES[hop.family].text(hop.gateway) if hop.gateway else ""
            return (hop.ifindex, gateway)
        return hop.type.name.lower()

    return {prefix_text(key >> 8, key & 255): target(id_) for key, id_ in state.routes.items()}


def expected_macs(lab: Lab) -> dict[tuple[int, str], str]:
    index = {link["ifname"]: link["ifindex"] for link in lab.json("link show")}
    good = {"REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT"}
    return {
        (index[n["dev"]], n["dst"]): n["lladdr"]
        for n in lab.json("neigh show")
        if "lladdr" in n and good & set(n["state"]) and n["dev"] != "ctl0"
    }


def differences(lab: Lab, state: RouterState) -> list[str]:
    """What the Rule Table believes and the kernel does not, in words."""
    found = []
    told, real = told_routes(state), expected_routes(lab)
    for prefix in sorted(told.keys() | real.keys()):
        if told.get(prefix) != real.get(prefix):
            found.append(f"{prefix}: told {told.get(prefix)}, is {real.get(prefix)}")
    macs = expected_macs(lab)
    for hop in state.nexthops.values():
        if hop.type is NextHopType.VIA:
            mac = macs.get((hop.ifindex, FAMILIES[hop.family].text(hop.gateway)), "")
            if mac != (hop.mac.to_bytes(6, "big").hex(":") if hop.mac else ""):
                found.append(f"{hop}: is {mac or 'unresolved'}")
    used = set(state.routes.values())
    used |= {leg.leg for legs in state.legs.values() for leg in legs.values()}
    if used != set(state.nexthops):
        found.append(f"next hops {used ^ set(state.nexthops)} without use")
    links = {
        (link["ifname"], "UP" in link["flags"], "LOWER_UP" in link["flags"], link["mtu"])
        for link in lab.json("link show")
        if link["ifname"] not in ("lo", "ctl0")
    }
    told_links = {
        (i.name, bool(i.flags & 1), bool(i.flags & 2), i.mtu) for i in state.interfaces.values()
    }
    if links != told_links:
        found.append(f"interfaces: told {told_links}, are {links}")
    locals_ = {
        (r["dst"] if "/" in r["dst"] else f"{r['dst']}/{host}")
        for family, host in ((4, 32), (6, 128))
        for r in lab.json(f"-{family} route show table local")
        if r.get("dev") != "ctl0" and not r["dst"].startswith("127.")
        if r["dst"] != "::1" and r.get("type") != "multicast"
    }
    told_locals = {f"{FAMILIES[key[0]].text(key[2])}/{key[1]}" for key in state.locals}
    if locals_ != told_locals:
        found.append(f"locals: told {told_locals}, are {locals_}")
    return found


def settled(lab: Lab, stub: RuleTableStub, timeout_s: float = 120.0) -> None:
    """Until both agree."""
    until = time.monotonic() + timeout_s
    while True:
        with stub.lock:
            found = differences(lab, stub.feed.state) if stub.feed.complete else ["not complete"]
        if not found:
            assert not stub.errors
            return
        assert time.monotonic() < until, "\n".join(found)
        time.sleep(0.05)


def after(stub: RuleTableStub, action: Callable[[], None], timeout_s: float = 120.0) -> float:
    """Seconds from the end of an action until the Rule Table has applied something."""
    before = len(stub.applied)
    action()
    began = time.monotonic()
    while len(stub.applied) == before:
        assert time.monotonic() < began + timeout_s
        time.sleep(0.0005)
    return stub.applied[before][0] - began


# ------------------------------------------------------------------------- tests


def test_the_first_snapshot_then_single_changes(lab: Lab) -> None:
    lab.plug(0)
    stub = lab.stub()
    lab.routerd()
    stub.wait(lambda s: len(s.routes) == 2)
    settled(lab, stub)
    medians = []
    for attempt in range(3):  # another program may hold one up
        waits, commands = [], []
        for n in range(20):
            time.sleep(0.02)
            route = f"10.{9 + attempt}.{n}.0/24 via 10.0.0.2"
            begun = time.monotonic()
            waits.append(after(stub, lambda route=route: lab.ip(f"route add {route}")))
            commands.append(time.monotonic() - begun - max(0.0, waits[-1]))
        settled(lab, stub)
        medians.append((sorted(waits)[10], sorted(commands)[10]))
        waited_s, command_s = medians[-1]
        if waited_s < max(0.02, 2 * command_s):  # a program's start says how fast the machine is
            return
    raise AssertionError(medians)


SILENT = {
    "interface-down": (
        "link set eth1 down",
        "link set eth1 up; {ip} route add 10.7.0.0/16 via 10.0.1.2",
    ),
    "address-deleted": ("addr del 10.0.1.1/24 dev eth1", "addr add 10.0.1.1/24 dev eth1"),
    "carrier": ("!peer link set p1 down", "!peer link set p1 up"),
    "nexthop-deleted": ("nexthop del id 5", "nexthop add id 5 via 10.0.1.2 dev eth1"),
    "nexthop-replaced": ("nexthop replace id 5 via 10.0.1.3 dev eth1", "nexthop del id 5"),
    "group-member": ("nexthop del id 4", "nexthop add id 4 via 10.0.0.3 dev eth0"),
    "leg-dies": ("link set eth1 down", "link set eth1 up"),
    "mtu": ("link set eth1 mtu 1400", "link set eth1 mtu 1500"),
    "blackhole-object": ("nexthop del id 12", "nexthop flush"),
    "interface-gone": ("link del eth1", "link show"),
}


@pytest.mark.parametrize("case", SILENT)
def test_what_netlink_is_silent_about(lab: Lab, case: str) -> None:
    lab.plug(0)
    for command in (
        "nexthop add id 4 via 10.0.0.3 dev eth0",
        "nexthop add id 5 via 10.0.1.2 dev eth1",
        "nexthop add id 6 group 4/5,3",
        "nexthop add id 12 blackhole",
        "route add 10.24.0.0/16 nhid 12",
        "route add 10.20.0.0/16 nhid 5",
        "route add 10.21.0.0/16 nhid 6",
        "route add 10.22.0.0/16 via 10.0.1.2",
        "route add 10.23.0.0/16 nexthop via 10.0.0.2 weight 2 nexthop via 10.0.1.3",
    ):
        lab.ip(command)
    stub = lab.stub()
    lab.routerd("--carrier-grace", "0")
    settled(lab, stub)
    for command in SILENT[case]:
        if command.startswith("!peer "):
            lab.sh(f"ip -n {lab.peer} {command[6:]}")
        else:
            lab.ip(command.format(ip=f"ip -n {lab.router}"), check=False)
        settled(lab, stub)


def random_command6(rnd: random.Random) -> str:
    """What can be a leg has another metric than what cannot: no dump shows a route that stands
    between two legs of another one."""
    n = rnd.randint(0, 1)
    eth = f"eth{n}"
    gateway = rnd.choice((f"2001:db8:0:{n}::{rnd.choice((2, 3, 77))}", f"fe80::9 dev {eth}"))
    other = f"2001:db8:0:{rnd.randint(0, 1)}::{rnd.choice((2, 3))}"
    prefix = f"2001:db8:{rnd.randint(30, 33)}::/{rnd.choice((47, 48, 64))}"
    prefix = str(IPv6Network(prefix, strict=False))
    metric = rnd.choice(("", "", "metric 20", "metric 30"))
    verb = rnd.choice(("add", "replace", "append", "append", "del"))
    hop = rnd.choice(
        (
            f"via {gateway}",
            f"via {gateway}",
            f"via {other}",
            f"dev {eth} metric 40",
            f"via 2001:db8:77::1 dev {eth} onlink",
            f"nexthop via {gateway} weight {rnd.randint(1, 4)} nexthop via {other}",
            f"nhid {rnd.randint(11, 14)} metric 40",
            f"via {gateway} mtu 1300",
            f"via {gateway} pref {rnd.choice(('low', 'high'))}",
        )
    )
    kind = rnd.choice(("blackhole", "unreachable", "prohibit", "throw"))
    return rnd.choice(
        [f"-6 route {verb} {prefix} {hop} {'' if 'metric' in hop else metric}"] * 10
        + [f"-6 route {verb} {kind} {prefix} metric {rnd.choice((40, 50))}"] * 2
        + [f"-6 route del {prefix}"] * 2
        + [
            f"-6 route flush root 2001:db8:32::/46 {metric}",
            f"nexthop replace id {rnd.randint(11, 13)} via 2001:db8:0:0::2 dev eth0",
            f"nexthop replace id {rnd.randint(11, 13)} via fe80::9 dev eth1",
            "-6 nexthop replace id 13 blackhole",
            "nexthop replace id 14 group 11,2/12",
            f"nexthop del id {rnd.randint(11, 14)}",
            f"route replace 10.34.0.0/16 nhid {rnd.randint(11, 14)}",
            f"route replace 10.35.0.0/16 nexthop via inet6 fe80::9 dev {eth} nexthop via 10.0.1.2",
            f"addr add 2001:db8:0:{n}::{rnd.randint(9, 11)}/64 dev {eth} nodad",
            f"addr del 2001:db8:0:{n}::{rnd.randint(9, 11)}/64 dev {eth}",
            f"addr add 2001:db8:88::{rnd.randint(1, 2)}/128 dev lo",
            f"addr del 2001:db8:88::{rnd.randint(1, 2)}/128 dev lo",
            f"link set {eth} mtu {rnd.choice((1350, 1400, 1500))}",
            f"link set {eth} up",
            f"neigh replace {gateway.split()[0]} lladdr 02:aa:00:00:00:07 nud stale dev {eth}",
            f"neigh flush dev {eth}",
        ]
    )


def wrongly_looked_up(lab: Lab, state: RouterState, rnd: random.Random) -> list[str]:
    """What the kernel does with IPv6 packets that came in by eth0 or eth1, where the Rule Table
    believes something else, in words."""
    index = {link["ifname"]: link["ifindex"] for link in lab.json("link show")}
    routes, found = told_routes(state), []
    for key in [key for key in state.routes if key & 0xFF >= V6.shortest]:
        address = (key >> 8) | rnd.getrandbits(V6.host - (key & 0xFF))
        span, _ = state.longest(V6, address) or (0, 0)
        net = address & netmask(span)
        told = routes[prefix_text(net, span)]
        iif, to = f"eth{rnd.randint(0, 1)}", str(V6.text(address))
        answer = subprocess.run(
            f"ip -j -d -n {lab.router} -6 route get {to} from 2001:db8:99::1 iif {iif}",
            shell=True,
            capture_output=True,
            text=True,
        )
        got: object = answer.stderr
        if not answer.returncode:
            (entry,) = json.loads(answer.stdout)
            got = (index[entry["dev"]], entry.get("gateway", ""))
        legs = {leg for leg, _ in told} if isinstance(told, frozenset) else {told}
        refused = isinstance(told, str) and bool(answer.returncode)  # blackhole and the like
        if "vm" not in legs and got not in legs and not refused:
            found.append(f"{to} by {iif}: told {told}, is {got}")
    return found


def random_command(rnd: random.Random) -> str:
    gateway = f"10.0.{rnd.randint(0, 1)}.{rnd.choice((2, 3, 3, 77))}"
    other = f"10.0.{rnd.randint(0, 1)}.{rnd.choice((2, 3))}"
    eth = f"eth{rnd.randint(0, 1)}"
    prefix = f"10.{rnd.randint(30, 33)}.0.0/{rnd.choice((15, 16, 24))}"
    prefix = str(IPv4Network(prefix, strict=False))
    metric = rnd.choice(("", "", "metric 20", "metric 30"))
    verb = rnd.choice(("add", "replace", "append", "prepend", "del"))
    hop = rnd.choice(
        (
            f"via {gateway}",
            f"via {gateway}",
            f"dev {eth}",
            f"via 10.77.0.1 dev {eth} onlink",
            f"nexthop via {gateway} weight {rnd.randint(1, 4)} nexthop via {other}",
            f"nhid {rnd.randint(1, 4)}",
            f"via inet6 fe80::99 dev {eth}",
            f"via {gateway} mtu lock 1000",
        )
    )
    kind = rnd.choice(("blackhole", "unreachable", "prohibit", "throw"))
    return rnd.choice(
        [f"route {verb} {prefix} {hop} {metric}"] * 10
        + [f"route {verb} {kind} {prefix} {metric}"] * 2
        + [f"route del {prefix}"] * 2
        + [
            f"route flush root 10.32.0.0/14 {metric}",
            f"nexthop replace id {rnd.randint(1, 3)} via 10.0.0.2 dev eth0",
            f"nexthop replace id {rnd.randint(1, 3)} via 10.0.1.3 dev eth1",
            "nexthop replace id 3 blackhole",
            "nexthop replace id 4 group 1,2/2",
            f"nexthop del id {rnd.randint(1, 4)}",
            f"addr add 10.0.{rnd.randint(0, 1)}.{rnd.randint(9, 11)}/24 dev {eth}",
            f"addr del 10.0.{rnd.randint(0, 1)}.{rnd.randint(9, 11)}/24 dev {eth}",
            f"addr add 10.88.0.{rnd.randint(1, 2)}/32 dev lo",
            f"addr del 10.88.0.{rnd.randint(1, 2)}/32 dev lo",
            f"link set {eth} down",
            f"link set {eth} up",
            f"link set {eth} up",
            f"link set {eth} mtu {rnd.choice((1400, 1500))}",
            f"neigh replace {gateway} lladdr 02:aa:00:00:00:0{rnd.randint(1, 9)} dev {eth}",
            f"neigh replace {gateway} lladdr 02:aa:00:00:00:07 nud stale dev {eth}",
            f"neigh del {gateway} dev {eth}",
            f"neigh flush dev {eth}",
            f"-6 route {verb} 2001:db8:{rnd.randint(1, 3)}::/48 via fe80::9 dev {eth}",
        ]
    )


@pytest.mark.parametrize("seed", range(6))
def test_random_commands(lab: Lab, seed: int) -> None:
    """IPv4's, IPv6's, those of both."""
    rnd = random.Random(seed)
    lab.plug(0)
    lab.six()
    stub = lab.stub()
    lab.routerd()
    stub.wait(lambda s: len(s.routes) == 4)
    makers = [(random_command,), (random_command6,), (random_command, random_command6)][seed % 3]
    for _ in range(25):
        commands = [rnd.choice(makers)(rnd) for _ in range(rnd.randint(1, 12))]
        batch = "\n".join(commands)
        for six, run in groupby(commands, lambda command: command.startswith("-6 ")):
            subprocess.run(  # in a batch no line may say its family
                ["ip", "-n", lab.router, *["-6"] * six, "-force", "-batch", "-"],
                input="\n".join(command.removeprefix("-6 ") for command in run),
                text=True,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        try:
            settled(lab, stub)
        except AssertionError as error:
            raise AssertionError(f"after\n{batch}\n{error}") from None
        with stub.lock:
            wrong = wrongly_looked_up(lab, stub.feed.state, rnd)
        assert not wrong, f"after\n{batch}\n{wrong}"


ONE_BY_ONE = (
    "-6 route add 2001:db8:a::/48 via 2001:db8:0:0::2",
    "-6 route append 2001:db8:a::/48 via fe80::9 dev eth1",
    "-6 route append 2001:db8:a::/48 via 2001:db8:0:1::3",
    "-6 route del 2001:db8:a::/48 via fe80::9 dev eth1",
    "-6 route del 2001:db8:a::/48 via 2001:db8:0:0::2",
    "-6 route del 2001:db8:a::/48",
    "-6 route add 2001:db8:a::/48 nexthop via fe80::9 dev eth0"
    " weight 3 nexthop via fe80::9 dev eth1",
    "-6 route append 2001:db8:a::/48 nexthop via fe80::8 dev eth0 nexthop via fe80::8 dev eth1",
    "-6 route del 2001:db8:a::/48 nexthop via fe80::8 dev eth1 nexthop via fe80::9 dev eth0",
    "-6 route replace 2001:db8:a::/48 dev eth1",
    "-6 route replace blackhole 2001:db8:a::/48",
    "-6 route replace 2001:db8:a::/48 nexthop via fe80::9 dev eth0 nexthop via fe80::9 dev eth1",
    "-6 route del 2001:db8:a::/48",
    "-6 route add default via fe80::9 dev eth0 metric 7",
    "-6 route del default",
    "-6 route add 2001:db8:b::/48 nhid 14",
    "-6 route del 2001:db8:b::/48",
    "route add 10.40.0.0/16 via inet6 fe80::9 dev eth0",
    "route replace 10.40.0.0/16 nhid 14",
    "route del 10.40.0.0/16",
)
"""What routing daemons do with routes: each is followed by itself."""


@pytest.mark.parametrize("seed", range(3))
def test_routes_of_both_families_are_followed_one_by_one(lab: Lab, seed: int) -> None:
    """After each command the view is what a dump would have brought.  Seed 0: without a dump."""
    rnd = random.Random(seed)
    lab.plug(0)
    lab.six()
    for command in (
        "id 11 via fe80::9 dev eth0",
        "id 12 via fe80::9 dev eth1",
        "id 14 group 11/12",
    ):
        lab.ip(f"nexthop add {command}")
    with inside(lab.router):
        kernel = Kernel("ctl0")
        try:
            kernel.dump()
            told = kernel.telling.state()
            for n in range(200 if seed else len(ONE_BY_ONE)):
                if seed:
                    command = rnd.choice((random_command, random_command6))(rnd)
                else:
                    command = ONE_BY_ONE[n]
                lab.ip(command, check=not seed)
                kernel.read()
                if kernel.needs_dump() or kernel.look_first:
                    assert seed, command
                    kernel.dump()
                    told.become(kernel.telling.state())
                else:
                    told.apply(kernel.telling.sections(told))
                fresh = Kernel("ctl0")
                fresh.dump()
                now = fresh.telling.state()
                fresh.close()
                assert (told.routes, told.nexthops) == (now.routes, now.nexthops), command
                assert told.same(now), command
        finally:
            kernel.close()


def test_reasons_for_the_slow_path(lab: Lab) -> None:
    lab.plug(0)
    lab.ip("route add default via 10.0.0.2")
    stub = lab.stub()
    lab.routerd()
    stub.wait(lambda s: len(s.routes) == 3 and not s.policy.slow)
    run = f"ip netns exec {lab.router} "
    ip = f"ip -n {lab.router} "
    sysctl = f"{run} sysctl -qw net.ipv4.conf."
    cases = [
        (f"{ip} rule add from 10.9.0.0/16 lookup 7", f"{ip} rule del from 10.9.0.0/16", "ip rule"),
        (f"{ip} rule del lookup main", f"{ip} rule add lookup main prio 32766", "missing"),
        (
            f"{ip} route add 10.3.0.0/16 tos 4 via 10.0.0.2",
            f"{ip} route del 10.3.0.0/16 tos 4",
            "TOS",
        ),
        (
            f"{ip} route add 10.3.0.0/16 via 10.0.0.2 table 253",
            f"{ip} route flush table 253",
            "default",
        ),
        (f"{sysctl}eth0.forwarding=0", f"{sysctl}eth0.forwarding=1", "forwarding is off on eth0"),
        (f"{sysctl}all.forwarding=0", f"{sysctl}all.forwarding=1", "forwarding is off"),
        (f"{sysctl}eth1.rp_filter=1", f"{sysctl}eth1.rp_filter=0", "rp_filter is strict on eth1"),
        (
            f"{ip} xfrm policy add dir fwd src 10.9.0.0/16 dst 10.8.0.0/16 action block",
            f"{ip} xfrm policy flush",
            "IPsec",
        ),
    ]
    if shutil.which("nft"):
        chain = "{ type filter hook forward priority 0; policy accept; }"
        lab.sh(f"{run} nft add table ip t; {run} nft add chain ip t c '{chain}'")
        cases.append(
            (
                f"{run} nft add rule ip t c ip saddr 10.1.1.1 drop",
                f"{run} nft flush ruleset",
                "nftables ip t c",
            )
        )
    if shutil.which("tc"):
        cases.append(
            (
                f"{run} tc qdisc add dev eth0 clsact",
                f"{run} tc qdisc del dev eth0 clsact",
                "traffic control",
            )
        )
        cases.append(
            (
                f"{run} tc qdisc add dev eth1 root tbf rate 1mbit burst 10k latency 50ms",
                f"{run} tc qdisc del dev eth1 root",
                "queueing discipline tbf on eth1",
            )
        )
    for do, undo, words in cases:
        lab.sh(do)
        stub.wait(lambda s, words=words: s.policy.slow and words in s.policy.reason)
        lab.sh(undo)
        stub.wait(lambda s: not s.policy.slow)


def test_reasons_for_the_slow_path_of_ipv6(lab: Lab) -> None:
    """What concerns one family leaves the other one to the switches."""
    lab.plug(0)
    lab.six()
    stub = lab.stub()
    lab.routerd()
    stub.wait(lambda s: not s.policy.slow_of(V4) and not s.policy.slow_of(V6))
    run = f"ip netns exec {lab.router} "
    ip = f"ip -6 -n {lab.router} "
    sysctl = f"{run} sysctl -qw net.ipv6.conf."
    cases = [
        (f"{ip} rule add from 2001:db8:9::/48 lookup 7", f"{ip} rule del lookup 7", "ip -6 rule"),
        (
            f"{ip} route add 2001:db8:3::/48 from 2001:db8:4::/48 via fe80::2 dev eth0",
            f"{ip} route flush root 2001:db8:3::/48",
            "depends on the source",
        ),
        (f"{sysctl}all.forwarding=0", f"{sysctl}all.forwarding=1", "IPv6 forwarding is off"),
        (f"{sysctl}eth1.forwarding=0", f"{sysctl}eth1.forwarding=1", "eth1 may follow redirects"),
    ]
    if shutil.which("nft"):
        chain = "{ type filter hook forward priority 0; policy drop; }"
        for family in ("ip6", "ip", "inet"):
            add = f"{run} nft add table {family} t; {run} nft add chain {family} t c '{chain}'"
            cases.append((add, f"{run} nft flush ruleset", f"nftables {family} t c"))
    for do, undo, words in cases:
        lab.sh(do)
        six, four = "nftables ip " not in words, "nftables i" in words and "ip6" not in words
        stub.wait(
            lambda s, words=words, four=four, six=six: (
                (words in s.policy.slow_of(V4), words in s.policy.slow_of(V6)) == (four, six)
            )
        )
        lab.sh(undo)
        stub.wait(lambda s: not s.policy.slow_of(V4) and not s.policy.slow_of(V6))


def test_what_ipv6_does_without_a_word(lab: Lab) -> None:
    """A route's time is over long before the kernel deletes it; the MTU of IPv6 on a link, and
    whether it is off there, are told to nobody.  A duplicate address is not used."""
    lab.plug(0)
    lab.six()
    sysctl = f"ip netns exec {lab.router} sysctl -qw net.ipv6."
    lab.sh(f"{sysctl}route.gc_interval=3600")
    lab.ip("-6 route add 2001:db8:5::/48 via fe80::2 dev eth0")
    stub = lab.stub()
    lab.routerd()
    stub.wait(lambda s: len(s.routes) == 5)
    lab.ip("-6 route add 2001:db8:6::/48 via fe80::2 dev eth0 expires 2")
    stub.wait(lambda s: len(s.routes) == 6)
    stub.wait(lambda s: len(s.routes) == 5)
    assert [r for r in lab.json("-6 route show") if r["dst"] == "2001:db8:6::/48"]
    lab.ip("-6 route del 2001:db8:6::/48")

    def reasons(state: RouterState) -> set[int]:
        return {h.gateway for h in state.nexthops.values() if h.type is NextHopType.VM}

    lab.sh(f"{sysctl}conf.eth0.mtu=1400")
    stub.wait(lambda s: reasons(s) == {VmReason.MTU})
    lab.sh(f"{sysctl}conf.eth0.mtu=1500")
    stub.wait(lambda s: not reasons(s))
    forwards6 = lambda s: {i.name for i in s.interfaces.values() if i.flags & 8}  # noqa: E731
    assert stub.wait(lambda s: forwards6(s) == {"eth0", "eth1"})
    lab.sh(f"{sysctl}conf.eth0.accept_dad=1")
    lab.ip("addr add 2001:db8:0:0::3/64 dev eth0")
    words = "2001:db8::3 on eth0 is another station's"
    stub.wait(lambda s: words in [r.words for r in s.policy.remarks if r.fault])
    settled(lab, stub)
    lab.sh(f"{sysctl}conf.eth1.disable_ipv6=1")
    stub.wait(lambda s: forwards6(s) == {"eth0"})
    settled(lab, stub)


def test_devices_and_ipv6_are_told_as_what_they_are(lab: Lab) -> None:
    lab.plug(0)
    kinds = {"eth0": InterfaceKind.CARD, "eth1": InterfaceKind.CARD}
    for name, kind, command in (
        ("eth0.5", InterfaceKind.VLAN, "link eth0 name eth0.5 type vlan id 5"),
        ("vrrp4", InterfaceKind.MACVLAN, "link eth1 name vrrp4 type macvlan mode bridge"),
        ("xf-br", InterfaceKind.OTHER, "name xf-br type bridge"),
        ("xf-dummy", InterfaceKind.OTHER, "name xf-dummy type dummy"),
    ):
        lab.ip(f"link add {command}", check=False)  # not every kernel has them all
        if any(link["ifname"] == name for link in lab.json("link show")):
            kinds[name] = kind
    assert len(kinds) > 2
    stub = lab.stub()
    lab.routerd()
    stub.wait(lambda s: {i.name: i.kind for i in s.interfaces.values()} == kinds)
    forwards6 = lambda s: {i.name for i in s.interfaces.values() if i.flags & 8}  # noqa: E731
    stub.wait(lambda s: not forwards6(s))
    lab.sh(f"ip netns exec {lab.router} sysctl -qw net.ipv6.conf.all.forwarding=1")
    stub.wait(lambda s: forwards6(s) == set(kinds))


SCHED_CLS, XDP = 3, 6
TCX_INGRESS, XDP_LINK = 46, 37
TCX_NEXT, XDP_PASS = -1, 2


@pytest.mark.skipif(platform.machine() != "x86_64", reason="bpf(2) by its number there")
@pytest.mark.parametrize(
    ("kind", "returns", "attach", "flags", "words"),
    [
        (SCHED_CLS, TCX_NEXT, TCX_INGRESS, 0, "tcx ingress program on eth0"),
        (XDP, XDP_PASS, XDP_LINK, 2, "eth0 has an XDP program"),
    ],
    ids=["tcx", "xdp"],
)
def test_programs_on_links_of_their_own_are_found(
    lab: Lab, kind: int, returns: int, attach: int, flags: int, words: str
) -> None:
    """Of neither the kernel notifies."""

    def bpf(command: int, layout: str, *fields: int) -> int:
        attributes = ctypes.create_string_buffer(struct.pack(layout, *fields), 128)
        found = int(_libc.syscall(321, command, attributes, 128))
        if found < 0:
            pytest.skip(f"bpf {command}: {os.strerror(ctypes.get_errno())}")
        return found

    lab.plug(0)
    with inside(lab.router):
        kernel = Kernel("ctl0")
        try:
            kernel.dump()
            kernel.refresh_beyond(0.0)
            assert not kernel.needs_dump() and words not in said(kernel)
            eth0 = next(i for i, link in kernel.tables.links.items() if link.name == "eth0")
            code = struct.pack("=BBhiBBhi", 0xB7, 0, 0, returns, 0x95, 0, 0, 0)
            code_, license_ = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
            program = bpf(
                5,
                "=IIQQIIQII16sII",
                kind,
                2,
                ctypes.addressof(code_),
                ctypes.addressof(license_),
                0,
                0,
                0,
                0,
                0,
                b"xf",
                0,
                attach,
            )
            link = bpf(28, "=IIII", program, eth0, attach, flags)
            kernel.refresh_beyond(5.0)
            if kernel.needs_dump():
                kernel.dump()
            assert words in said(kernel)
            os.close(link)
            os.close(program)
            kernel.refresh_beyond(10.0)
            if kernel.needs_dump():
                kernel.dump()
            assert words not in said(kernel)
        finally:
            kernel.close()


def said(kernel: Kernel) -> list[str]:
    """All reasons for the slow path."""
    policy = kernel.telling.policy()
    return [policy.reason, *(remark.words for remark in policy.remarks)]


BY_GATEWAYS = pytest.mark.parametrize(
    ("route", "address"),
    [
        ("10.5.0.0/16 via 10.0.{n}.2", "10.0.{n}.2"),
        ("2001:db8:5::/48 via 2001:db8:0:{n}::2", "2001:db8:0:{n}::2"),
        ("2001:db8:5::/48 via fe80::2 dev eth{n}", "fe80::2"),
        ("10.5.0.0/16 via inet6 fe80::2 dev eth{n}", "fe80::2"),
    ],
    ids=["IPv4", "IPv6", "link-local", "RFC 8950"],
)


@BY_GATEWAYS
def test_neighbours_are_kept_and_released(lab: Lab, route: str, address: str) -> None:
    route, address = route.format(n=0), str(ip_address(address.format(n=0)))
    lab.plug(0)
    lab.six()
    lab.ip(f"route add {route}")
    stub = lab.stub()
    routerd = lab.routerd()
    gateway = int(ip_address(address))
    resolved = lambda s: any(h.gateway == gateway and h.mac for h in s.nexthops.values())  # noqa: E731
    stub.wait(resolved)
    (entry,) = [n for n in lab.json("neigh show dev eth0") if n["dst"] == address]
    assert "managed" in entry
    # its MAC changes, and it says so
    lab.sh(f"ip -n {lab.peer} link set p0 address 02:00:00:00:aa:01")
    lab.sh(f"ip netns exec {lab.peer} ping -c1 -w1 10.0.0.1 >/dev/null", check=False)
    lab.ip("neigh flush dev eth0", check=False)
    stub.wait(
        lambda s: any(h.gateway == gateway and h.mac == 0x02000000AA01 for h in s.nexthops.values())
    )
    lab.ip(f"route del {route}")
    deadline = time.monotonic() + 120
    while any("managed" in n for n in lab.json("neigh show")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    lab.ip(f"route add {route}")
    stub.wait(resolved)
    time.sleep(0.3)
    routerd.send_signal(signal.SIGTERM)
    assert routerd.wait(120) == 0
    assert not any("managed" in n for n in lab.json("neigh show"))


@BY_GATEWAYS
def test_interfaces_and_neighbours_outlast_a_carrier_that_comes_back(
    lab: Lab, route: str, address: str
) -> None:
    lab.plug(0)
    lab.six()
    lab.ip(f"route add {route.format(n=1)}")
    stub = lab.stub()
    lab.routerd("--carrier-grace", "6")
    gateway = int(ip_address(address.format(n=1)))

    def macs(state: RouterState) -> list[int]:
        return [hop.mac for hop in state.nexthops.values() if hop.gateway == gateway]

    stub.wait(lambda s: macs(s) not in ([0], []))
    settled(lab, stub)
    before = len(stub.applied)

    def carrier(state: RouterState) -> bool:
        return all(i.flags & InterfaceFlag.RUNNING for i in state.interfaces.values())

    lab.sh(f"ip -n {lab.peer} link set p1 down")
    until = time.monotonic() + 120
    while "NO-CARRIER" not in lab.json("link show dev eth1")[0]["flags"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    lab.sh(f"ip -n {lab.peer} link set p1 up")
    lab.sh(f"ip -n {lab.peer} addr replace fe80::2/64 dev p1 nodad")  # it went with the link
    time.sleep(1)
    settled(lab, stub)
    with stub.lock:
        told = [changes for _, changes in stub.applied[before:]]
    assert not any(changes.nexthops for changes in told), "it was unresolved meanwhile"
    assert not any(changes.interfaces for changes in told), "it was told as without carrier"
    down = time.monotonic()
    lab.sh(f"ip -n {lab.peer} link set p1 down")
    lost = stub.wait(lambda s: not carrier(s))
    assert lost - down > 3, "the grace was cut short"
    stub.wait(lambda s: macs(s) == [0])


def test_a_flapping_interface(lab: Lab) -> None:
    lab.plug(0)
    stub = lab.stub()
    lab.routerd()
    stub.wait(lambda s: len(s.routes) == 2)
    for n in range(60):
        lab.ip(f"link set eth1 {'down' if n % 2 else 'up'}")
    lab.ip("link set eth1 up")
    lab.ip("route add 10.5.0.0/16 via 10.0.1.2")
    settled(lab, stub)


def test_a_small_buffer_overruns_and_is_made_up_for(lab: Lab) -> None:
    lab.plug(0)
    stub = lab.stub()
    routerd = lab.routerd("--receive-buffer", "2304")
    stub.wait(lambda s: len(s.routes) == 2)
    children = [int(p) for p in _children(routerd.pid)] or [routerd.pid]
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
    batch = "\n".join(
        f"route add 10.{50 + n // 250}.{n % 250}.0/24 via 10.0.0.2" for n in range(2000)
    )
    subprocess.run(["ip", "-n", lab.router, "-batch", "-"], input=batch, text=True, check=True)
    for pid in children:
        os.kill(pid, signal.SIGCONT)
    stub.wait(lambda s: len(s.routes) == 2002)
    settled(lab, stub)


def test_after_an_overrun_nothing_is_lost_unsaid(lab: Lab) -> None:
    """Until its queue has been empty once the kernel drops what comes, and says so no more."""
    lab.plug(0)
    with inside(lab.router):
        listener = NetlinkListener(rtnetlink.NETLINK_ROUTE, rtnetlink.GROUPS, 1 << 15)
    try:
        batch = "\n".join(f"route add 10.50.{n}.0/24 via 10.0.0.2" for n in range(250))
        subprocess.run(["ip", "-n", lab.router, "-batch", "-"], input=batch, text=True, check=True)
        assert listener.drain(1)[1], "the buffer was large enough for everything"
        lab.ip("route add 10.51.0.0/16 via 10.0.0.2")
        found, lost = listener.drain(1000)
    finally:
        listener.close()
    told = [rtnetlink.route(m.body) for m in found if m.type == rtnetlink.RTM_NEWROUTE]
    assert lost or IPv4Address("10.51.0.0") in [IPv4Address(r.prefix) for r in told if r]


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_stopped_for_five_seconds_it_goes_on(lab: Lab) -> None:
    lab.plug(0)
    stub = lab.stub()
    routerd = lab.routerd()
    stub.wait(lambda s: len(s.routes) == 2)
    os.kill(routerd.pid, signal.SIGSTOP)
    time.sleep(4)
    lab.ip("route add 10.5.0.0/16 via 10.0.1.2")
    assert stub.feed.stale(time.monotonic())
    os.kill(routerd.pid, signal.SIGCONT)
    stub.wait(lambda s: len(s.routes) == 3)
    assert not stub.feed.stale(time.monotonic())


def test_it_starts_before_its_interface_and_its_rule_table(lab: Lab) -> None:
    lab.routerd()
    time.sleep(1)
    lab.plug(0)
    time.sleep(1)
    stub = lab.stub()
    stub.wait(lambda s: len(s.routes) == 2)
    settled(lab, stub)


def test_the_control_link_is_switched_off_and_on(lab: Lab) -> None:
    """Its address is not the kernel's own, as in the lab and in the router's image."""
    lab.plug(0)
    lab.sh(f"ip netns exec {lab.router} sysctl -qw net.ipv6.conf.ctl0.addr_gen_mode=1")
    lab.ip("-6 addr flush dev ctl0")
    lab.ip("addr add fe80::1:7/64 dev ctl0 nodad")
    stub = lab.stub()
    lab.routerd()
    stub.wait(lambda s: len(s.routes) == 2)
    lab.ip("link set ctl0 down")
    lab.ip("route add 10.5.0.0/16 via 10.0.1.2")
    lab.ip("link set ctl0 up")
    stub.wait(lambda s: len(s.routes) == 3)
    # While it is on nobody's decision is undone.
    lab.ip("addr del fe80::1:7/64 dev ctl0")
    lab.ip("route add 10.6.0.0/16 via 10.0.1.2")
    time.sleep(0.3)
    assert "fe80" not in str(lab.json("-6 addr show dev ctl0"))


def test_a_move_to_another_host(lab: Lab) -> None:
    lab.plug(0)
    first = lab.stub(0)
    lab.routerd()
    first.wait(lambda s: len(s.routes) == 2)
    waits = []
    source = 0
    time.sleep(0.5)
    first.stop()
    commands = []
    for _ in range(5):
        there = 1 - source
        begun = time.monotonic()
        lab.sh(f"ip -n {lab.hosts[source]} link set vif netns {lab.hosts[there]}")
        lab.sh(f"ip -n {lab.hosts[there]} addr add fe80::1/64 dev vif nodad")
        commands.append((time.monotonic() - begun) / 2)
        stub = lab.stub(there)
        lab.sh(f"ip -n {lab.hosts[there]} link set vif up")
        plugged = time.monotonic()
        stub.wait(lambda s: len(s.routes) == 2)
        hello = next(at for at, type_ in stub.heard if type_ is RouteMessageType.HELLO)
        waits.append(hello - plugged)
        time.sleep(0.5)
        stub.stop()
        source = there
    print("seconds from the link's return to HELLO:", [f"{w:.3f}" for w in waits])
    # a program's start says how fast the machine is
    assert sorted(waits)[2] < max(0.5, 20 * sorted(commands)[2])


@pytest.mark.skipif(not shutil.which("bird"), reason="needs BIRD")
def test_bird_feeds_ten_thousand_routes(lab: Lab, tmp_path: Path) -> None:
    lab.plug(0)
    stub = lab.stub()
    lab.routerd()
    stub.wait(lambda s: len(s.routes) == 2)
    routes = "\n".join(
        f"  route 10.{100 + n // 250}.{n % 250}.0/24 via 10.0.{n % 2}.{2 + n % 2};"
        for n in range(10_000)
    )
    config = tmp_path / "bird.conf"
    config.write_text(
        "router id 1.1.1.1;\nprotocol device {}\n"
        "protocol kernel { ipv4 { export all; }; }\n"
        f"protocol static {{ ipv4;\n{routes}\n}}\n"
    )
    bird = subprocess.Popen(
        ["ip", "netns", "exec", lab.router, "bird", "-f", "-c", config, "-s", tmp_path / "ctl"]
    )
    lab.processes.append(bird)
    stub.wait(lambda s: len(s.routes) == 10_002)
    settled(lab, stub)
    bird.terminate()
    stub.wait(lambda s: len(s.routes) == 2)
    settled(lab, stub)
