"""The routing daemons of the machines and routers: their configurations, and what they report.

OSPF on every link between the machines and the routers, and OSPFv3 for IPv6 where the file says an
IPv6 address of anybody.  Times are short (hello 1 s, dead 4 s)
and the interface's carrier is not asked (`check link no`), so that a pause or a move that lasts
longer than the dead interval shows, and a carrier that blinks does not.

With BGP (an option, BIRD only) everyone is an autonomous system of its own and has a session with
each other speaker on its links, one for each family; a machine announces the /24 and the /64 around
its stub addresses.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from ipaddress import IPv4Interface, ip_address, ip_interface
from itertools import permutations
from pathlib import Path
from typing import Any

from lab import process
from lab.description import PREFIX, Lab, OwnConfiguration
from lab.namespace import LabError, inside, ip
from xenflow.model.addresses import Address, Subnet

DAEMONS = ("bird", "frr")
_FRR_DIR = Path("/usr/lib/frr")


@dataclass(frozen=True, slots=True)
class Timers:
    """OSPF's times, and how long BGP waits for the other side, in seconds."""

    hello_s: int = 1
    dead_s: int = 4
    bgp_hold_s: int = 30


@dataclass(frozen=True, slots=True)
class Speaker:
    """One node that speaks OSPF: its interfaces with their addresses, its stub addresses; and its
    neighbours in BGP.  With `ipv6` it speaks OSPFv3 on the same interfaces."""

    node: str
    router_id: str
    interfaces: tuple[tuple[str, IPv4Interface, bool], ...]
    """(name, address, whether exactly one other speaks there)."""
    lent: tuple[Address, ...] = ()
    """Stub addresses."""
    own: OwnConfiguration | None = None
    """What a person has written for it."""
    leaving: bool = False
    """It announces its ways as the last to be taken (RFC 6987): it will be gone."""
    autonomous_system: int = 0
    peers: tuple[tuple[str, str, int], ...] = ()
    """BGP: (node, address, autonomous system)."""
    ipv6: bool = False

    def stubs(self, version: int = 4) -> list[Address]:
        """What it has on lo and announces as its own, of IPv4 or of IPv6: stub addresses, and what
        it is called by on unnumbered links, of which no subnet is announced."""
        unnumbered = (a for _, a, _ in self.interfaces if a.network.prefixlen == 32)
        every = dict.fromkeys((*self.lent, *unnumbered))
        return [address for address in every if address.version == version]

    @property
    def announced(self) -> list[Subnet]:
        """The prefixes that it announces by BGP."""
        lengths = {4: 24, 6: 64}
        return [ip_interface(f"{a.ip}/{lengths[a.version]}").network for a in self.lent]

    @property
    def directory(self) -> Path:
        """Where its configuration and sockets are."""
        return process.STATE_DIR / self.node


@dataclass(frozen=True, slots=True)
class NeighbourChange:
    """A daemon's report that a neighbour's state changed."""

    node: str
    at: datetime
    text: str


def speakers(lab: Lab, *, bgp: bool = False) -> list[Speaker]:
    """Every node that speaks OSPF, and, if that is wanted, BGP; and those that were made with a
    configuration of their own."""
    pair = {link: len(lab.speaking(link)) == 2 for link in lab.network.links}
    found = [
        Speaker(m.name, str(m.address.ip), (("eth0", m.address, pair[m.link]),), m.stubs)
        for m in lab.machines.values()
        if not m.gateways
    ]
    for router in lab.network.routers.values():
        if router.name in lab.made and not lab.made[router.name].daemon:
            continue
        interfaces = tuple(
            (i.name, lab.addresses[router.name][i.name], pair[i.link]) for i in router.interfaces
        )
        router_id = f"10.255.{router.id >> 8}.{router.id & 255}"
        found.append(Speaker(router.name, router_id, interfaces))
    found = [replace(s, own=lab.own.get(s.node), ipv6=lab.ipv6) for s in found]
    return _with_peers(lab, found) if bgp else found


def _with_peers(lab: Lab, everyone: list[Speaker]) -> list[Speaker]:
    numbers = {speaker.node: _FIRST_AS + n for n, speaker in enumerate(everyone)}
    peers: dict[str, list[tuple[str, str, int]]] = {node: [] for node in numbers}
    for link in lab.network.links:
        nodes = [node for node, _, _ in lab.speaking(link)]
        for version in (4, 6):
            there = [who for who in lab.first_addresses(link, version) if who[0] in nodes]
            for (one, _, _), (other, _, address) in permutations(there, 2):
                peers[one].append((other, address, numbers[other]))
    return [
        replace(s, autonomous_system=numbers[s.node], peers=tuple(peers[s.node])) for s in everyone
    ]


def start(lab: Lab, nodes: Collection[str], daemon: str, timers: Timers, *, bgp: bool) -> None:
    """Start the routing daemons of some nodes.

    Raises LabError where a daemon is asked for what is not provided for it.
    """
    if bgp and daemon != "bird":
        raise LabError("BGP is provided for BIRD only")
    everyone = [s for s in speakers(lab, bgp=bgp) if s.node in nodes]
    for speaker in everyone:
        speaker.directory.mkdir(parents=True, exist_ok=True)
        if speaker.peers:
            ours = (f"route replace local {subnet} dev lo" for subnet in speaker.announced)
            ip(ours, PREFIX + speaker.node)
    if daemon == "bird":
        for speaker in everyone:
            _start_bird(speaker, timers)
    else:
        _start_frr(everyone, timers)


def configure(before: Speaker, after: Speaker, daemon: str, timers: Timers) -> None:
    """Have a daemon that runs read its configuration anew; neighbours on interfaces that stay as
    they are notice nothing.

    Raises LabError with what the daemon said.
    """
    if daemon == "bird":
        _configure_bird(after, timers)
    else:
        _configure_frr(before, after, timers)


def configured(speaker: Speaker, daemon: str) -> dict[str, Any]:
    """How a daemon that runs is configured, by whomever, as `configure_as` takes it.

    Raises LabError where it does not answer.
    """
    if daemon == "bird":
        here = speaker.directory
        told = _ask(speaker.node, [*_birdc(speaker), "show", "protocols"], "ready")
        down = re.findall(r"^(\S+) +\S+ +\S+ +down ", told, re.M)
        return {"text": (here / "bird.conf").read_text(), "down": sorted(down)}
    sockets = ["--vty_socket", str(speaker.directory / "frr")]
    told = _ask(speaker.node, ["vtysh", *sockets, "-c", "show running-config"], "!")
    return {"text": told[told.index("!") :]}


def configure_as(speaker: Speaker, daemon: str, wanted: dict[str, Any]) -> None:
    """Have a daemon be configured as it was: BIRD reads it, FRR, which adds only, starts again.

    Raises LabError with what the daemon said.
    """
    if daemon == "bird":
        (speaker.directory / "bird.conf").write_text(wanted["text"])
        _ask(speaker.node, [*_birdc(speaker), "configure"], "Reconfigur")
        down = set(configured(speaker, daemon)["down"])
        for do, names in (("enable", down - set(wanted["down"])), ("disable", wanted["down"])):
            for name in names:
                _ask(speaker.node, [*_birdc(speaker), do, f'"{name}"'], name)
        return
    ours = [p for p in process.recorded() if p.node == speaker.node and p.name in _FRR_ALL]
    process.end(ours)
    process.forget(ours)
    shutil.rmtree(speaker.directory / "frr")
    own = OwnConfiguration("", wanted["text"], whole=True)
    _start_frr([replace(speaker, own=own)], Timers())


def _birdc(speaker: Speaker) -> list[str]:
    return ["birdc", "-s", str(speaker.directory / "bird.ctl")]


def _ask(node: str, argv: Sequence[str], expected: str) -> str:
    with inside(PREFIX + node):
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, check=False, timeout=_ANSWER_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LabError(f"routing daemon of {node}: {error}") from None
    if done.returncode or expected not in done.stdout:
        raise LabError(f"routing daemon of {node}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


_ANSWER_S = 10.0


def destinations(lab: Lab) -> set[str]:
    """The subnets and stub addresses of a lab, as `ip route` writes them."""
    known = [a.network for link in lab.network.links for _, _, a in lab.everybody(link)]
    known += [stub.network for machine in lab.machines.values() for stub in machine.stubs]
    single = (network.prefixlen == network.max_prefixlen for network in known)
    return {
        str(network.network_address) if alone else str(network)
        for network, alone in zip(known, single, strict=True)
    }


def leads_by(node: str, gateways: Collection[str], targets: Collection[str]) -> bool:
    """Whether a node's kernel has a route to one of some destinations by one of some gateways."""
    routes: list[dict[str, Any]] = []
    for family in ("-4", "-6"):
        with inside(PREFIX + node):
            asked = ["ip", "-j", family, "route"]
            done = subprocess.run(asked, capture_output=True, text=True, check=True)
        routes += json.loads(done.stdout or "[]")
    return any(
        leg.get("gateway") in gateways
        for route in routes
        if route["dst"] in targets
        for leg in route.get("nexthops", [route])
    )


# --- BIRD ----------------------------------------------------------------------------------------


def bird_configuration(speaker: Speaker, timers: Timers, log: str = "") -> str:
    """A node's `bird.conf`; `log` is where it reports to (default: the lab's folder of logs), as
    BIRD writes it.

    With one other speaker a link is point-to-point: no designated router has to be waited for.
    What a person has written stands in its place, or follows it.
    """
    log = log or f'"{process.LOG_DIR}/{speaker.node}-bird.log"'
    head = f"log {log} all;\ntimeformat log iso long us;\n"
    if speaker.own and speaker.own.whole:
        return head + speaker.own.text
    end = f"\n{speaker.own.text}" if speaker.own else ""
    return f"{head}{_bird_protocols(speaker, timers)}{end}"


def _bird_protocols(speaker: Speaker, timers: Timers) -> str:
    interfaces = "".join(
        f"""
        interface "{name}" {{
            type {"ptp" if pair else "broadcast"};
            hello {timers.hello_s}; dead {timers.dead_s}; wait {max(2, timers.hello_s)};
            retransmit {min(5, max(2, timers.hello_s))};
            check link no;
        }};"""
        for name, _, pair in speaker.interfaces
    )

    def ospf(version: int, name: str, family: str, stubs: list[Address]) -> str:
        stub = "".join(f"\n        stubnet {stub.network};" for stub in stubs)
        return f"""\
protocol kernel {{
    scan time 10;
    {family} {{ import none; export all; }};
}}
protocol ospf v{version} {name} {{
    debug {{ states, events }};
    stub router {"yes" if speaker.leaving else "no"};
    tick {_TICK_S};
    {family} {{ import all; export none; }};
    area 0 {{{stub}{interfaces}
    }};
}}
"""

    v3 = ospf(3, "ospf6", "ipv6", speaker.stubs(6)) if speaker.ipv6 else ""
    return f"""\
router id {speaker.router_id};
protocol device {{ scan time 10; }}
{ospf(2, "ospf1", "ipv4", speaker.stubs())}{v3}{_bgp_configuration(speaker, timers)}"""


def _bgp_configuration(speaker: Speaker, timers: Timers) -> str:
    if not speaker.peers:
        return ""
    text = ""
    for version in sorted({ip_address(address).version for _, address, _ in speaker.peers}):
        ours = (subnet for subnet in speaker.announced if subnet.version == version)
        routes = "".join(f"\n    route {subnet} blackhole;" for subnet in ours)
        text += f"protocol static {{\n    ipv{version};{routes}\n}}\n"
    for node, address, autonomous_system in speaker.peers:
        version = ip_address(address).version
        text += f"""\
protocol bgp bgp{version if version == 6 else ""}_{re.sub(r"[^A-Za-z0-9]", "_", node)} {{
    debug {{ states, events }};
    local as {speaker.autonomous_system};
    neighbor {address} as {autonomous_system};
    hold time {timers.bgp_hold_s}; check link no;
    connect retry time 5; connect delay time 1; error wait time 1, 10;
    ipv{version} {{
        import all; export where source ~ [ RTS_STATIC, RTS_BGP ]; next hop self;
    }};
}}
"""
    return text


_TICK_S = 1
_FIRST_AS = 64512
"""The first of the private ones (RFC 6996)."""


def _configure_bird(speaker: Speaker, timers: Timers) -> None:
    here = speaker.directory
    (here / "bird.conf").write_text(bird_configuration(speaker, timers))
    _ask(speaker.node, [*_birdc(speaker), "configure"], "Reconfigur")


def _start_bird(speaker: Speaker, timers: Timers) -> None:
    here = speaker.directory
    (here / "bird.conf").write_text(bird_configuration(speaker, timers))
    _run_bird(speaker.node, here)


def _run_bird(node: str, here: Path) -> None:
    process.start(
        node,
        "bird-output",
        ["bird", "-f", "-c", str(here / "bird.conf"), "-s", str(here / "bird.ctl")],
        PREFIX + node,
    )


# --- FRR -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FrrOspf:
    """One of FRR's two daemons for OSPF, and the words of its configuration.

    version    4 or 6
    process    what it is called where the whole of it is configured
    interface  what its words for an interface begin with
    leaving    has it call its ways the last to be taken
    more       what else its configuration says of the whole
    """

    daemon: str
    version: int
    process: str
    interface: str
    leaving: str
    more: str = ""

    def speaks(self, speaker: Speaker) -> bool:
        """Whether a node has it."""
        return self.version == 4 or speaker.ipv6


OSPFD = FrrOspf(
    "ospfd",
    4,
    "ospf",
    "ip ospf",
    "max-metric router-lsa administrative",
    " timers throttle lsa all 0\n",
)
OSPF6D = FrrOspf("ospf6d", 6, "ospf6", "ipv6 ospf6", "stub-router administrative")


def frr_configuration(of: FrrOspf, speaker: Speaker, timers: Timers) -> str:
    """A node's `ospfd.conf` or `ospf6d.conf`; zebra needs to be told nothing."""
    interfaces = "!\n".join(_frr_interfaces(of, speaker, timers).values())
    return f"""\
hostname {speaker.node}
log timestamp precision 6
log stdout informational
!
{interfaces}!
router {of.process}
 {of.process} router-id {speaker.router_id}
 log-adjacency-changes detail
 timers throttle spf 20 50 200
{of.more}!
"""


def _frr_interfaces(of: FrrOspf, speaker: Speaker, timers: Timers) -> dict[str, str]:
    """What is configured for each interface."""
    words = of.interface
    found = {
        name: f"""\
interface {name}
 {words} area 0
 {words} network {"point-to-point" if pair else "broadcast"}
 {words} hello-interval {timers.hello_s}
 {words} dead-interval {timers.dead_s}
 {words} retransmit-interval 2
"""
        for name, _, pair in speaker.interfaces
        if of.speaks(speaker)
    }
    lo = {"lo": f"interface lo\n {words} area 0\n"} if speaker.stubs(of.version) else {}
    return {**found, **lo}


def frr_changes(of: FrrOspf, before: Speaker, after: Speaker, timers: Timers) -> list[str]:
    """The commands that make a daemon's configuration another."""
    old, new = (_frr_interfaces(of, one, timers) for one in (before, after))
    changes = "".join(text for name, text in new.items() if old.get(name) != text)
    gone = (name for name in old if name not in new)
    changes += "".join(f"interface {name}\n no {of.interface} area 0\n" for name in gone)
    if before.leaving != after.leaving:
        changes += f"router {of.process}\n {of.leaving}\n"
    return ["configure terminal", *(line.strip() for line in changes.splitlines())]


def _configure_frr(before: Speaker, after: Speaker, timers: Timers) -> None:
    if before.own != after.own:
        _give_own_frr(after)
    if after.own and after.own.whole:
        return
    here = after.directory / "frr"
    if after.ipv6 and not (here / "ospf6d.vty").exists():
        _write_frr(after, OSPF6D, timers)
        _start_frr_daemon(after, OSPF6D.daemon)
        process.await_path(here / "ospf6d.vty")
        before = replace(after, leaving=before.leaving) if not before.ipv6 else before
    for of in (OSPFD, OSPF6D):
        if not of.speaks(before) and not of.speaks(after):
            continue
        words = ["vtysh", "--vty_socket", str(here), "-d", of.daemon]
        for line in frr_changes(of, before, after, timers):
            words += ["-c", line]
        _ask(after.node, words, "")


def _write_frr(speaker: Speaker, of: FrrOspf, timers: Timers) -> None:
    path = speaker.directory / "frr" / f"{of.daemon}.conf"
    whole = speaker.own is not None and speaker.own.whole
    path.write_text(
        f"hostname {speaker.node}\n" if whole else frr_configuration(of, speaker, timers)
    )
    shutil.chown(path, "frr", "frr")


def _start_frr(everyone: list[Speaker], timers: Timers) -> None:
    if not (_FRR_DIR / "ospfd").exists():
        raise LabError("FRR is not installed (package frr)")
    for speaker in everyone:
        here = speaker.directory / "frr"
        here.mkdir()
        (here / "zebra.conf").write_text("log timestamp precision 6\nlog stdout informational\n")
        for path in (here, *here.iterdir()):
            shutil.chown(path, "frr", "frr")
        for of in (OSPFD, OSPF6D):
            if of.speaks(speaker):
                _write_frr(speaker, of, timers)
        _start_frr_daemon(speaker, "zebra")
    for speaker in everyone:
        # an ospfd that does not find zebra tries again only after 10 s
        process.await_path(speaker.directory / "frr" / "zserv.api")
        for of in (OSPFD, OSPF6D):
            if of.speaks(speaker):
                _start_frr_daemon(speaker, of.daemon)
    for speaker in everyone:
        _give_own_frr(speaker)


_FRR_MORE = {
    "router ospf6": "ospf6d",
    "router bgp": "bgpd",
    "router isis": "isisd",
    "ip route ": "staticd",
    "ipv6 route ": "staticd",
    "router rip\n": "ripd",
    "router ripng": "ripngd",
}
"""What a person may have written, and the daemon that it needs beside zebra and ospfd."""


_FRR_ALL = ("zebra", "ospfd", *dict.fromkeys(_FRR_MORE.values()))


def _give_own_frr(speaker: Speaker) -> None:
    """Have FRR's daemons read what a person has written, beside what they have."""
    if speaker.own is None:
        return
    here = speaker.directory / "frr"
    (speaker.directory / "frr.conf").write_text(speaker.own.text)
    text = f"{speaker.own.text}\n"
    wanted = list(dict.fromkeys(name for words, name in _FRR_MORE.items() if words in text))
    for name in ("zebra", "ospfd", *wanted):
        if not (here / f"{name}.vty").exists():
            (here / f"{name}.conf").touch()
            shutil.chown(here / f"{name}.conf", "frr", "frr")
            if name in wanted:
                _start_frr_daemon(speaker, name)
            process.await_path(here / f"{name}.vty")
    own = str(speaker.directory / "frr.conf")
    _ask(speaker.node, ["vtysh", "--vty_socket", str(here), "-f", own], "")


def _start_frr_daemon(speaker: Speaker, name: str) -> None:
    here = speaker.directory / "frr"
    process.start(
        speaker.node,
        name,
        (
            f"{_FRR_DIR}/{name} -f {here}/{name}.conf -i {here}/{name}.pid -z {here}/zserv.api "
            f"--vty_socket {here} -A 127.0.0.1"
        ).split(),
        PREFIX + speaker.node,
    )


# --- reports -------------------------------------------------------------------------------------

_BIRD_CHANGE = re.compile(
    r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) <TRACE> "
    r"((?:\w+: Neighbor .* changed state .*)|(?:bgp6?_\w+: BGP session (?:established|closed)))$"
)
_FRR_CHANGE = re.compile(
    r"^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d(?:\.\d+)?) OSPF6?: (?:\[[^]]*\] )?(.*AdjChg.*)$"
)


def parse_changes(node: str, text: str) -> list[NeighbourChange]:
    """The neighbour state changes in one daemon's log, BIRD's or FRR's."""
    found = []
    for line in text.splitlines():
        match = _BIRD_CHANGE.match(line) or _FRR_CHANGE.match(line)
        if match:
            at = datetime.fromisoformat(match.group(1).replace("/", "-"))
            found.append(NeighbourChange(node, at, match.group(2)))
    return found


def neighbour_changes(lab: Lab, since: datetime | None = None) -> list[NeighbourChange]:
    """Every neighbour state change that a daemon has reported, in order of time; `since` is in
    local time, as the logs are."""
    found = []
    for speaker in speakers(lab):
        for name in ("bird", "ospfd", "ospf6d"):
            log = process.LOG_DIR / f"{speaker.node}-{name}.log"
            if log.exists():
                found += parse_changes(speaker.node, log.read_text(errors="replace"))
    return sorted((c for c in found if since is None or c.at >= since), key=lambda c: c.at)
