"""A bed with its router as the acceptance tests see it: traffic, pings, what hosts and daemons say.

Everything looks from outside: what `xenflow` and `xl` print, what counters count, what arrives.
"""

from __future__ import annotations

import json
import re
import select
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from lab import operate, routing
from lab.namespace import IcmpEcho, LabError
from lab.operate import find_node
from lab.probe import ProbePair
from tests.lab.live import settle, xenflow
from tests.xen.bed import bed as whole
from tests.xen.bed import router as guests
from tests.xen.bed.bed import Bed
from tests.xen.bed.dom0 import BedDom0

MOVE_LIMIT_S = 600.0
"""How long a move may take before something hangs: about twenty times what it takes."""
RATES_PPS = (25, 10)
"""Tried in turn: the first that the emulation carries without a loss.  At 100 a move takes twice as
long as at 25, since the packets and `xl` share one emulated processor."""
BRIDGE = "xenflow0"


def other(bed: Bed, host: str) -> str:
    """The bed's other host."""
    return next(h for h in bed.hosts if h != host)


def where(bed: Bed, router: str = "vr1") -> list[str]:
    """The hosts whose `xl list` has a domain of that name, or one that is coming in."""
    names = (router, f"{router}--incoming", f"{router}--migratedaway")
    with ThreadPoolExecutor(len(bed.hosts)) as pool:
        listed = pool.map(BedDom0.domains, bed.hosts.values())
        return [h for h, found in zip(bed.hosts, listed, strict=True) for n in found if n in names]


def migrate(to: str, *options: str, router: str = "vr1") -> dict[str, Any]:
    """`xenflow migrate`, which must succeed; its account."""
    done = xenflow("migrate", router, to, "--json", *options, limit_s=MOVE_LIMIT_S)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def bring_home(bed: Bed, router: str = "vr1", moves: int = 2) -> None:
    """Migrate a router home if it is elsewhere; a new guest where it is too worn for the moves to
    come."""
    home = bed.lab.network.routers[router].home
    if where(bed, router) != [home]:
        migrate(home, router=router)
    if guests.is_worn(bed.lab, router, moves):
        whole.renew(bed, router)


def in_sync(bed: Bed) -> None:
    """Until every switch holds what it shall."""
    settle(lambda: not whole.not_in_sync(bed.lab), "every switch in sync", 120)


def token(bed: Bed, router: str = "vr1") -> str:
    """What the guest made up at its start, asked of itself."""
    return guests.ask(bed.lab, router, "token").strip()


# --- what daemons report -------------------------------------------------------------------------


def adjacency_changes(bed: Bed) -> list[str]:
    """Every change that a routing daemon has reported, at either end of an adjacency."""
    ours = routing.neighbour_changes(bed.lab)
    theirs = guests.neighbour_changes(bed.hosts, guests_of(bed))
    return [f"{change.node}: {change.at.time()} {change.text}" for change in [*ours, *theirs]]


def guests_of(bed: Bed) -> list[str]:
    """The routers that are domains."""
    return [r.name for r in bed.lab.network.routers.values() if r.home in bed.hosts]


# --- what a Domain 0 counts ----------------------------------------------------------------------


def vif_packets(dom0: BedDom0, vifs: list[str]) -> int:
    """How many packets have passed the vifs, in both directions."""
    files = " ".join(
        f"/sys/class/net/{vif}/statistics/{way}_packets" for vif in vifs for way in ("rx", "tx")
    )
    return sum(map(int, dom0.ask(f"cat {files}").split()))


def data_vifs(bed: Bed, router: str = "vr1") -> list[str]:
    """The names of a router's vifs."""
    return [i.vif for i in bed.lab.network.routers[router].interfaces]


def switch_flows(dom0: BedDom0) -> list[str]:
    """The switch's flows, counters and ages apart."""
    text = dom0.ask(f"ovs-ofctl --no-stats dump-flows {BRIDGE}")
    return [line.strip() for line in text.splitlines() if "actions=" in line]


def ports(dom0: BedDom0) -> set[str]:
    """The names of the switch's ports."""
    return set(dom0.ask(f"ovs-vsctl list-ports {BRIDGE}").split())


# --- traffic -------------------------------------------------------------------------------------


def carried_rate(ends: tuple[str, str], addresses: tuple[str, str] | None = None) -> int:
    """The highest of RATES_PPS that passes without a loss while nothing happens.

    Raises LabError where none does: the machine is too busy, and nothing can be said.
    """
    for rate in RATES_PPS:
        for _ in range(2):
            with ProbePair(*ends, rate_pps=rate, addresses=addresses) as pair, suppress(LabError):
                pair.baseline(8.0)
                return rate
    raise LabError(f"invalid: the machine is too busy for {RATES_PPS[-1]} packets/s")


@dataclass(frozen=True, slots=True)
class PingCount:
    """What became of echo requests; `longest_s` is the longest time without a reply."""

    sent: int
    lost: int
    duplicated: int
    longest_s: float


class Pings:
    """Echo requests from a node to an address, all through a block."""

    def __init__(self, node: str, address: str, interval_s: float = 0.25) -> None:
        self._echo = IcmpEcho(find_node(node).namespace)
        self._address, self._interval_s = address, interval_s
        self._sent: list[int] = []
        self._replies: list[tuple[int, float]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        next_at = time.monotonic()
        while not self._ending.is_set():
            if time.monotonic() >= next_at:
                self._sent.append(self._echo.send(self._address))
                next_at += self._interval_s
            self._take(max(0.0, next_at - time.monotonic()))

    def _take(self, wait_s: float) -> None:
        select.select([self._echo], [], [], wait_s)
        self._replies += [(sequence, time.monotonic()) for _, sequence in self._echo.receive()]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        end = time.monotonic() + 5.0
        while time.monotonic() < end and self.count.lost:
            self._take(0.1)
        self._echo.close()

    @property
    def count(self) -> PingCount:
        """So far."""
        answered = [sequence for sequence, _ in self._replies]
        times = [at for _, at in self._replies]
        gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
        return PingCount(
            len(self._sent),
            len(set(self._sent) - set(answered)),
            len(answered) - len(set(answered)),
            max(gaps, default=0.0),
        )


class NeighbourProber:
    """Puts an end host's entry for the router into PROBE whenever it has left it: only an answer
    leads out of there.  Notes every state that its kernel tells of, however short."""

    def __init__(self, node: str, address: str) -> None:
        self._node, self._address = node, address
        self.states: set[str] = set()
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=run, daemon=True) for run in (self._probe, self._follow)
        ]

    def _probe(self) -> None:
        while not self._ending.wait(0.4):
            shown = operate.run(self._node, ["ip", "neigh", "show", self._address]).stdout
            state = self._note(shown)
            if state in ("REACHABLE", "STALE", "DELAY"):
                mac = shown.split("lladdr ")[1].split()[0]
                operate.run(
                    self._node,
                    [
                        "ip",
                        "neigh",
                        "replace",
                        self._address,
                        "lladdr",
                        mac,
                        "dev",
                        "eth0",
                        "nud",
                        "probe",
                    ],
                )

    def _follow(self) -> None:
        assert self._monitor.stdout is not None
        for line in self._monitor.stdout:
            if line.startswith(f"{self._address} "):
                self._note(line)

    def _note(self, shown: str) -> str:
        found = re.search(r"\b([A-Z]+)\s*$", shown.strip())
        state = found.group(1) if found else "none"
        self.states.add(state)
        return state

    def __enter__(self) -> Self:
        self._monitor = operate.popen(
            self._node,
            ["ip", "monitor", "neigh", "dev", "eth0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._monitor.kill()
        self._monitor.wait()
        for thread in self._threads:
            thread.join()
