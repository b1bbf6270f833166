"""A namespace that stands for a virtual router: its kernel's routes, its links, its routerd."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from bench.controller import GATEWAYS, ROOT, ROUTER
from bench.open_vswitch import end
from lab.namespace import inside
from xenflow.routes.family import V4, Family, length_of, prefix_text

RTM_NEWROUTE, RTM_DELNEXTHOP = 24, 105
_REQUEST_ACK = 0x1 | 0x4
_REPLACE = 0x1 | 0x4 | 0x100 | 0x400
"""NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_CREATE."""
_NEXTHOP = struct.Struct("=IHHII BBBBI HHI")
MEMBERS, GROUP = (1, 2), 10
"""Ids of next hop objects: two gateways on different links, and the group of both."""
_HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_DESTINATION, _INTERFACE, _GATEWAY = 1, 4, 5
"""RTA_DST, RTA_OIF, RTA_GATEWAY."""


class VirtualRouter:
    """The namespace `name`, with a control link to here called `control`, and two data links
    whose ends here are called `vifs`, with addresses of both families; ends with the `with`.
    `family`: that of its routes."""

    def __init__(self, name: str, control: str, vifs: Sequence[str], family: Family = V4) -> None:
        self.name = name
        self.control = control
        self.vifs = vifs
        self.family = family

    def __enter__(self) -> VirtualRouter:
        run = subprocess.run
        run(["ip", "netns", "add", self.name], check=True)
        batch = [
            f"link add {self.control} type veth peer name ctl0 netns {self.name}",
            f"addr add fe80::1/64 dev {self.control} nodad",
            f"link set {self.control} up",
        ]
        inner = [
            "link set lo up",
            "link set ctl0 addrgenmode none",
            "addr add fe80::2/64 dev ctl0 nodad",
            "link set ctl0 up",
        ]
        for n, vif in enumerate(self.vifs):
            batch += [
                f"link add {vif} type veth peer name eth{n} address 02:00:00:01:0{n + 1}:01"
                f" netns {self.name}",
                f"link set {vif} up",
            ]
            inner += [f"link set eth{n} up", f"addr add 10.0.{n + 1}.1/24 dev eth{n}"]
            inner += [f"addr add 2001:db8:{n + 1}::1/64 dev eth{n} nodad"]
            inner += [
                f"neigh replace {address} lladdr 02:00:00:aa:00:{g:02x} dev eth{n} nud permanent"
                for g in range(GATEWAYS)
                for address in (f"10.0.{n + 1}.{2 + g}", f"2001:db8:{n + 1}::{2 + g:x}")
            ]
        run(["ip", "-batch", "-"], input="\n".join(batch), text=True, check=True)
        settings = ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"]
        settings += ["net.ipv6.conf.all.forwarding=1"]
        run(["ip", "netns", "exec", self.name, "sysctl", "-qw", *settings], check=True)
        run(["ip", "-n", self.name, "-batch", "-"], input="\n".join(inner), text=True, check=True)
        with inside(self.name):
            self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._indexes = [socket.if_nametoindex(f"eth{n}") for n in range(len(self.vifs))]
        return self

    def __exit__(self, *_: object) -> None:
        self._kernel.close()
        # The links first: with the namespace alone they would go a moment later.
        lines = [f"link del {name}" for name in (self.control, *self.vifs)]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
        subprocess.run(["ip", "netns", "del", self.name], check=True)

    def learn(self, routes: Sequence[tuple[int, int]]) -> float:
        """Have the kernel hold these routes; seconds that `ip -batch` took."""
        self._routes = list(routes)
        self._hops = list(range(len(routes)))
        lines = [
            f"route add {prefix_text(*prefix)} via {gateway(n, self.family)}"
            for n, prefix in enumerate(routes)
        ]
        started = time.perf_counter()
        self._batch(lines)
        return time.perf_counter() - started

    def learn_by_group(self, routes: Sequence[tuple[int, int]]) -> None:
        """Have the kernel hold these routes by way of one group of two next hop objects on
        different links, as FRR does."""
        command = ["ip", "netns", "exec", self.name, "sysctl", "-qw"]
        subprocess.run([*command, "net.ipv4.nexthop_compat_mode=0"], check=True)
        self.regain()
        self._batch([f"route add {prefix_text(*prefix)} nhid {GROUP}" for prefix in routes])

    def regain(self) -> None:
        """Both next hop objects are there, and in the group."""
        lines = [f"nexthop replace id {m} via {gateway(m)} dev eth{m % 2}" for m in MEMBERS]
        self._batch([*lines, f"nexthop replace id {GROUP} group {'/'.join(map(str, MEMBERS))}"])

    def lose(self) -> float:
        """`ip nexthop del` of the first one, by one system call; `time.perf_counter` before it."""
        message = _NEXTHOP.pack(
            _NEXTHOP.size, RTM_DELNEXTHOP, _REQUEST_ACK, 1, 0, 0, 0, 0, 0, 0, 8, 1, MEMBERS[0]
        )
        started = time.perf_counter()
        self._ask(message)
        return started

    def _batch(self, lines: Sequence[str]) -> None:
        subprocess.run(
            ["ip", "-n", self.name, "-batch", "-"], input="\n".join(lines), text=True, check=True
        )

    def _ask(self, message: bytes) -> None:
        self._kernel.send(message)
        error = struct.unpack_from("=i", self._kernel.recv(4096), 16)[0]
        if error:
            raise OSError(-error, os.strerror(-error))

    def change(self, index: int) -> float:
        """`ip route replace` of one route, which gets another gateway, by one system call;
        `time.perf_counter` before it."""
        number = self._hops[index] = self._hops[index] + 1
        net, span = self._routes[index]
        family = socket.AF_INET if self.family is V4 else socket.AF_INET6
        body = _RTMSG.pack(family, length_of(span), 0, 0, 254, 3, 0, 1, 0)
        for kind, value in (
            (_DESTINATION, net.to_bytes(self.family.bits // 8, "big")),
            (_GATEWAY, gateway(number, self.family).packed),
            (_INTERFACE, struct.pack("=I", self._indexes[number % 2])),
        ):
            body += struct.pack("=HH", 4 + len(value), kind) + value
        head = _HEADER.pack(_HEADER.size + len(body), RTM_NEWROUTE, _REPLACE, number, 0)
        message = head + body
        started = time.perf_counter()
        self._ask(message)
        return started

    def run(self, words: Sequence[str], log: Path) -> Running:
        """A Python module (`words[0]`) in there, ended with the `with`."""
        return Running(["ip", "netns", "exec", self.name, sys.executable, *words], log)

    def routerd(self, directory: Path, profile: str = "") -> Running:
        """The router's routerd."""
        words = ["-m", "cProfile", "-o", profile] if profile else []
        words += ["-m", "routerd", "--control=ctl0", f"--router={ROUTER}"]
        return self.run(words, directory / "routerd.log")


def gateway(number: int, family: Family = V4) -> IPv4Address | IPv6Address:
    """One of the gateways on both links; even numbers are on the first."""
    link, place = number % 2, number * 7 % GATEWAYS
    if family is V4:
        return IPv4Address(0x0A000102 + 256 * link + place)
    return IPv6Address((0x20010DB8 << 96) + (link + 1 << 80) + 2 + place)


class Running:
    """A process for the length of a `with`."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        with log.open("ab") as file:
            self.process = subprocess.Popen(words, stdout=file, stderr=file, cwd=ROOT)

    @classmethod
    def python(cls, words: Sequence[str], log: Path) -> Running:
        """A Python module of this project, here."""
        return cls([sys.executable, *words], log)

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *_: object) -> None:
        end(self.process)
