"""Figure 1.5: four designs of a router on one host, measured for forwarding rate and latency.

    host     (a) the host's own kernel routes; no virtual machine
    vm       (b) the VM's kernel routes, behind two Linux bridges of the host
    domain0  (c) plane separation: the host's kernel forwards by a copy of the VM's routes
    xenflow  (d) the host's OpenFlow switch forwards by the flows made of the VM's routes
    direct       no router: generator and receiver on one cable, the limit of sender and receiver

Generator and receiver are cabled to the host, nothing is in between.  The forwarding rate is the
most that arrives at the receiver's interface in a second at any of several offered rates, the last
as fast as can be sent (at that a design whose packets are dropped late, with work spent on them,
forwards less than it can); the receiver drops them there, unread.  The latency is that of single
packets at a low rate, one way, the probe's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.experiments.domain0_kernel import Domain0, Follower
from bench.experiments.points import DESIGNS, LIMIT, RunBatch
from bench.experiments.store import MeasuredRun, measured
from bench.results import percentile
from lab import bring_up, switch, wire
from lab.description import PREFIX, ROOT, Lab
from lab.judge import read_records
from lab.namespace import LabError, checksums_in_software, inside, ip, sysctl
from lab.probe import ProbePair
from lab.programs import python_path
from lab.state import LabOptions
from lab.waiting import await_ends

NETWORK = Path(__file__).with_name("one-host.toml")
OFFERED_PPS = (10_000, 20_000, 40_000, 80_000, 120_000, 160_000, 240_000, 0)
"""0: as fast as can be sent."""
_WARM_S, _STEP_S = 0.1, 0.5
_LATENCY_PPS, _LATENCY_S = 400, 3.0
_CONVERGE_S = 120.0
_DROP = """
add table netdev measured
delete table netdev measured
table netdev measured {{
    chain in {{
        type filter hook ingress device "{interface}" priority 0;
        udp dport 9 drop
    }}
}}
"""


class Designs:
    """Makes the runs; everything is taken down at the end of the `with`."""

    def __init__(self) -> None:
        self._up = ExitStack()
        self._what = ""
        self._lab: Lab | None = None

    def __enter__(self) -> Designs:
        return self

    def __exit__(self, *_: object) -> None:
        self._up.close()

    def make(self, session: RunBatch, said: Callable[[str], None]) -> Iterator[MeasuredRun]:
        """A row as soon as a run is made.

        Raises NetworkError where the lab does not come up.
        """
        what = session.key.what
        if what != self._what:
            self._up.close()
            self._what = ""
            self._lab = self._up.enter_context(_designed(what))
            self._what = what
        assert self._lab is not None
        direct = what == LIMIT
        for key in session.keys:
            rate = _forwarding_rate(self._lab, key.size, direct)
            latency = _latency_us(self._lab, key.size, direct)
            yield measured(key, forwarded_pps=round(rate), **latency)


@contextmanager
def _designed(what: str) -> Iterator[Lab]:
    """A lab whose host forwards so."""
    options = LabOptions(controllers=what == DESIGNS[3], limit_s=_CONVERGE_S)
    lab = bring_up.up(NETWORK, options, say=lambda _: None)
    try:
        with ExitStack() as more:
            if what == DESIGNS[0]:
                _by_host(lab)
            elif what == DESIGNS[1]:
                _by_vm(lab)
            elif what == DESIGNS[2]:
                _by_domain0(lab, more)
            elif what == LIMIT:
                _direct()
            await_ends(lab, _CONVERGE_S)
            yield lab
    finally:
        bring_up.down(say=lambda _: None)


def _by_domain0(lab: Lab, more: ExitStack) -> None:
    (router,) = lab.routers.values()
    host = Domain0(lab, router, lab.hosts[0])
    copier = Follower(router.name)
    more.callback(copier.close)
    host.take_ports()
    copier.copy_to([host])
    copier.hold_at(host)
    host.forward(vm_here=True)


def _by_vm(lab: Lab) -> None:
    """As Xen's scripts do by default: a bridge for each link, cable and vif its ports."""
    (router,) = lab.routers.values()
    host = Domain0(lab, router, lab.hosts[0])
    host.release([port for end in host.ends for port in (end.outer, end.vif)])
    commands = []
    for number, end in enumerate(host.ends):
        bridge = f"xenbr{number}"
        commands += [
            f"link add name {bridge} type bridge forward_delay 0",
            f"link set {end.outer} master {bridge}",
            f"link set {end.vif} master {bridge}",
            f"link set {bridge} up",
        ]
    ip(commands, host.namespace)


def _by_host(lab: Lab) -> None:
    """The host has the router's addresses; the VM is unplugged.  Its routes and the two
    machines' are fixed ones."""
    (router,) = lab.routers.values()
    host = Domain0(lab, router, lab.hosts[0])
    host.release([port for end in host.ends for port in (end.outer, end.vif)])
    wire.cut(lab, router, host.host)
    switch.finish([wire.unplug(lab, router, host.host)])
    one, other = lab.machines.values()
    commands = []
    for end in host.ends:
        address = lab.addresses[router.name][end.interface]
        commands += [
            f"link set {end.outer} down",
            f"link set {end.outer} address {end.mac}",
            f"link set {end.outer} up",
            f"address add {address} broadcast + dev {end.outer}",
        ]
    ip(commands, host.namespace)
    sysctl(
        {
            "net/ipv4/ip_forward": 1,
            "net/ipv4/conf/all/rp_filter": 0,
            **{
                f"net/ipv4/conf/{end.outer}/{name}": 0
                for end in host.ends
                for name in ("rp_filter", "arp_ignore")
            },
        },
        host.namespace,
    )
    ip([f"route add {m.stub} via {m.address.ip}" for m in (one, other) if m.stub], host.namespace)
    for machine, far in ((one, other), (other, one)):
        gateway = next(
            a.ip for a in lab.addresses[router.name].values() if a.ip in machine.address.network
        )
        ways = [far.address.network, *([far.stub] if far.stub else [])]
        ip([f"route replace {way} via {gateway}" for way in ways], PREFIX + machine.name)


_DIRECT = {"gen": "10.9.0.1", "recv": "10.9.0.2"}


def _direct() -> None:
    ip([f"link add name direct netns {PREFIX}gen type veth peer name direct netns {PREFIX}recv"])
    for node, address in _DIRECT.items():
        ip([f"address add {address}/24 dev direct", "link set direct up"], PREFIX + node)
        checksums_in_software(["direct"], PREFIX + node)


def _forwarding_rate(lab: Lab, size: int, direct: bool) -> float:
    """The most packets that arrive in a second at any offered rate."""
    *_, last = lab.machines.values()
    interface = "direct" if direct else "eth0"
    address = _DIRECT["recv"] if direct else str(last.address.ip)
    receiver = PREFIX + last.name
    with inside(receiver):
        rules = _DROP.format(interface=interface)
        done = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"nft in {receiver}: {done.stderr.strip()}")
    with inside(PREFIX + next(iter(lab.machines))):
        sender = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "bench.experiments.flood",
                "--to",
                address,
                "--size",
                str(size),
                "--step",
                str(_STEP_S),
                "--rates",
                ",".join(map(str, OFFERED_PPS)),
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **python_path()},
        )
    assert sender.stdout is not None
    found = []
    with sender:
        try:
            for _ in sender.stdout:  # a line as each rate begins
                time.sleep(_WARM_S)
                begun, before = time.monotonic(), _received(receiver, interface)
                time.sleep(_STEP_S - 2 * _WARM_S)
                arrived = _received(receiver, interface) - before
                found.append(arrived / (time.monotonic() - begun))
        except BaseException:
            sender.kill()
            raise
    if sender.returncode or len(found) != len(OFFERED_PPS) or not max(found):
        raise LabError(f"the sender ended with status {sender.returncode}, or nothing arrived")
    return max(found)


def _received(namespace: str, interface: str) -> int:
    """How many packets an interface has received (/proc/net/dev)."""
    with inside(namespace):
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    (counts,) = (
        line.split(":")[1].split() for line in lines if line.strip().startswith(interface + ":")
    )
    return int(counts[1])


def _latency_us(lab: Lab, size: int, direct: bool) -> dict[str, float]:
    """One way, of the direction there, microseconds."""
    first, *_, last = lab.machines
    addresses = (_DIRECT["gen"], _DIRECT["recv"]) if direct else None
    with (
        tempfile.TemporaryDirectory(prefix="xf-design-") as folder,
        ProbePair(
            first, last, rate_pps=_LATENCY_PPS, size=size, directory=folder, addresses=addresses
        ) as pair,
    ):
        pair.run(_LATENCY_S)
        times = [
            (received - sent) / 1000
            for _, sent, received in read_records(Path(folder) / "there.bin")
            if received
        ]
    if not times:
        raise LabError("no packet of the latency's measurement arrived")
    return {
        "latency_p50_us": round(percentile(times, 0.5), 1),
        "latency_p99_us": round(percentile(times, 0.99), 1),
    }
