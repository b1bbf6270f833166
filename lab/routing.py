"""The routing daemons of the machines and routers: their configurations, and what they report.

OSPF on every link between the machines and the routers.  Times are short (hello 1 s, dead 4 s)
and the interface's carrier is not asked (`check link no`), so that a pause or a move that lasts
longer than the dead interval shows, and a carrier that blinks does not.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Interface
from pathlib import Path

from lab import process
from lab.description import PREFIX, Lab
from lab.namespace import LabError, ip

DAEMONS = ("bird", "frr")
_FRR_DIR = Path("/usr/lib/frr")


@dataclass(frozen=True, slots=True)
class Timers:
    """OSPF's times, in seconds."""

    hello_s: int = 1
    dead_s: int = 4


@dataclass(frozen=True, slots=True)
class Speaker:
    """One node that speaks OSPF: its interfaces with their addresses, its stub prefixes."""

    node: str
    router_id: str
    interfaces: tuple[tuple[str, IPv4Interface, bool], ...]
    """(name, address, whether exactly one other speaks there)."""
    stub: IPv4Interface | None = None

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


def speakers(lab: Lab) -> list[Speaker]:
    """Every node that speaks OSPF."""
    pair = {link: len(lab.members(link)) == 2 for link in lab.network.links}
    found = [
        Speaker(m.name, str(m.address.ip), (("eth0", m.address, pair[m.link]),), m.stub)
        for m in lab.machines.values()
    ]
    for router in lab.network.routers.values():
        interfaces = tuple(
            (i.name, lab.addresses[router.name][i.name], pair[i.link]) for i in router.interfaces
        )
        router_id = f"10.255.{router.id >> 8}.{router.id & 255}"
        found.append(Speaker(router.name, router_id, interfaces))
    return found


def start(lab: Lab, daemon: str, timers: Timers) -> None:
    """Start the routing daemon of every node that has one."""
    everyone = speakers(lab)
    for speaker in everyone:
        speaker.directory.mkdir(parents=True, exist_ok=True)
        if speaker.stub:
            ip([f"address replace {speaker.stub} dev lo"], PREFIX + speaker.node)
    if daemon == "bird":
        for speaker in everyone:
            _start_bird(speaker, timers)
    else:
        _start_frr(everyone, timers)


# --- BIRD ----------------------------------------------------------------------------------------


def bird_configuration(speaker: Speaker, timers: Timers) -> str:
    """A node's `bird.conf`.

    With one other speaker a link is point-to-point: no designated router has to be waited for.
    """
    interfaces = "".join(
        f"""
        interface "{name}" {{
            type {"ptp" if pair else "broadcast"};
            hello {timers.hello_s}; dead {timers.dead_s}; wait {max(2, timers.hello_s)};
            retransmit {max(2, timers.hello_s)};
            check link no;
        }};"""
        for name, _, pair in speaker.interfaces
    )
    stub = f"\n        stubnet {speaker.stub.network};" if speaker.stub else ""
    return f"""\
log "{process.LOG_DIR}/{speaker.node}-bird.log" all;
timeformat log iso long us;
router id {speaker.router_id};
protocol device {{ scan time 10; }}
protocol kernel {{
    scan time 10;
    ipv4 {{ import none; export all; }};
}}
protocol ospf v2 ospf1 {{
    debug {{ states, events }};
    tick {_TICK_S};
    ipv4 {{ import all; export none; }};
    area 0 {{{stub}{interfaces}
    }};
}}
"""


_TICK_S = 1


def _start_bird(speaker: Speaker, timers: Timers) -> None:
    here = speaker.directory
    (here / "bird.conf").write_text(bird_configuration(speaker, timers))
    process.start(
        speaker.node,
        "bird-output",
        ["bird", "-f", "-c", str(here / "bird.conf"), "-s", str(here / "bird.ctl")],
        PREFIX + speaker.node,
    )


# --- FRR -----------------------------------------------------------------------------------------


def ospfd_configuration(speaker: Speaker, timers: Timers) -> str:
    """A node's `ospfd.conf`; zebra needs to be told nothing."""
    interfaces = "".join(
        f"""interface {name}
 ip ospf area 0
 ip ospf network {"point-to-point" if pair else "broadcast"}
 ip ospf hello-interval {timers.hello_s}
 ip ospf dead-interval {timers.dead_s}
 ip ospf retransmit-interval 2
!
"""
        for name, _, pair in speaker.interfaces
    )
    stub = "interface lo\n ip ospf area 0\n!\n" if speaker.stub else ""
    return f"""\
hostname {speaker.node}
log timestamp precision 6
log stdout informational
!
{interfaces}{stub}router ospf
 ospf router-id {speaker.router_id}
 log-adjacency-changes detail
 timers throttle spf 20 50 200
 timers throttle lsa all 0
!
"""


def _start_frr(everyone: list[Speaker], timers: Timers) -> None:
    if not (_FRR_DIR / "ospfd").exists():
        raise LabError("FRR is not installed (package frr)")
    for speaker in everyone:
        here = speaker.directory / "frr"
        here.mkdir()
        (here / "zebra.conf").write_text("log timestamp precision 6\nlog stdout informational\n")
        (here / "ospfd.conf").write_text(ospfd_configuration(speaker, timers))
        for path in (here, *here.iterdir()):
            shutil.chown(path, "frr", "frr")
        _start_frr_daemon(speaker, "zebra")
    for speaker in everyone:
        # an ospfd that does not find zebra tries again only after 10 s
        process.await_path(speaker.directory / "frr" / "zserv.api")
        _start_frr_daemon(speaker, "ospfd")


def _start_frr_daemon(speaker: Speaker, name: str) -> None:
    here = speaker.directory / "frr"
    process.start(
        speaker.node,
        name,
        [
            str(_FRR_DIR / name),
            "-f",
            str(here / f"{name}.conf"),
            "-i",
            str(here / f"{name}.pid"),
            "-z",
            str(here / "zserv.api"),
            "--vty_socket",
            str(here),
            "-A",
            "127.0.0.1",
        ],
        PREFIX + speaker.node,
    )


# --- reports -------------------------------------------------------------------------------------

_BIRD_CHANGE = re.compile(
    r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) <TRACE> \w+: (Neighbor .* changed state .*)$"
)
_FRR_CHANGE = re.compile(
    r"^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d(?:\.\d+)?) OSPF: (?:\[[^]]*\] )?(.*AdjChg.*)$"
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
        for name in ("bird", "ospfd"):
            log = process.LOG_DIR / f"{speaker.node}-{name}.log"
            if log.exists():
                found += parse_changes(speaker.node, log.read_text(errors="replace"))
    return sorted((c for c in found if since is None or c.at >= since), key=lambda c: c.at)
