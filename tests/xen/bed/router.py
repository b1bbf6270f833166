"""The routers of a bed: real domains, made from the image and started with `xl create`.

Their BIRD is configured as the lab configures its machines' (`lab/routing.py`), and reports on the
guest's console, which Domain 0 keeps in a file.
"""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

from lab import process, routing
from lab.description import Lab
from lab.namespace import LabError, inside
from lab.operate import find_node
from lab.routing import NeighbourChange
from lab.state import LabOptions
from mgmt.hypervisor import xl_vms
from tests.xen.bed.build import bed_errors
from tests.xen.bed.cache import directory
from tests.xen.bed.dom0 import BedDom0
from xen.image import router_config
from xen.image.build import INITRD, KERNEL, Builder

FOLDER = "/etc/xen"
"""Where a Domain 0 has what its routers start from."""
IMAGES = xl_vms.FOLDER
"""Where `xenflow router create` looks for the image."""
START_LIMIT_S = 180.0
MOVE_MIB = 3
"""What each move costs a guest for good (docs/xen.md)."""
SPARE_MIB = 10
"""With less than this available a guest is slow, and a move of it."""
_UP = re.compile(r"^ROUTER (\S+) UP \S+ TOKEN (\w+)", re.M)

Say = Callable[[str], None]


def image(say: Say) -> Path:
    """The folder with the routers' image, built if it is not there.

    Raises BuildError.
    """
    cache = directory().parent
    with bed_errors():
        Builder(cache, cache / "router", say).build()
    return cache / "router"


def files(lab: Lab, options: LabOptions, made: Path) -> dict[str, Path]:
    """What the bed's routers start from: files here, by their names in every Domain 0."""
    found: dict[str, Path] = {f"{FOLDER}/{KERNEL}": made / KERNEL}
    if options.store:  # routers are made there by verb, from the image alone
        found |= {f"{IMAGES}/{name}": made / name for name in (KERNEL, INITRD)}
    for speaker in routing.speakers(lab, bgp=options.bgp):
        router = lab.network.routers.get(speaker.node)
        if router is None or router.home not in lab.elsewhere:
            continue
        timers = routing.Timers(options.hello_s, options.dead_s)
        addresses = {name: str(a) for name, a in lab.addresses[router.name].items()}
        bird = routing.bird_configuration(speaker, timers, log="stderr")
        guest = router_config.guest(lab.network, router.name, addresses, bird, http=True)
        here = process.STATE_DIR / router.name
        here.mkdir(parents=True, exist_ok=True)
        ramdisk, config = here / "initrd", here / "cfg"
        ramdisk.write_bytes((made / INITRD).read_bytes() + router_config.archive(guest))
        there = f"{FOLDER}/{router.name}"
        config.write_text(
            router_config.domain(lab.network, guest, f"{FOLDER}/{KERNEL}", f"{there}.initrd")
        )
        found |= {f"{there}.cfg": config, f"{there}.initrd": ramdisk}
    return found


def start(lab: Lab, hosts: dict[str, BedDom0]) -> None:
    """Start every router at home; returns when each has said that it is up.

    Raises LabError where one has not.
    """
    _start({r.name: hosts[r.home] for r in lab.network.routers.values() if r.home in hosts}, hosts)


def host_of(hosts: dict[str, BedDom0], router: str) -> str:
    """The host whose list of domains has a router.

    Raises LabError where none has.
    """
    found = [name for name, one in hosts.items() if router in one.domains()]
    if not found:
        raise LabError(f"{router} is on no host")
    return found[0]


def renew(hosts: dict[str, BedDom0], router: str) -> None:
    """Put a new guest in a router's place; returns when it has said that it is up.

    Raises LabError where it has not.
    """
    host = hosts[host_of(hosts, router)]
    host.ask(f"xl destroy {router}")
    _start({router: host}, hosts)


def _start(wanted: dict[str, BedDom0], hosts: dict[str, BedDom0]) -> None:
    before = {name: token(hosts, name) for name in wanted}
    for name, host in wanted.items():
        host.ask(f"xl create {FOLDER}/{name}.cfg", limit_s=START_LIMIT_S)
    end = time.monotonic() + START_LIMIT_S
    for name in wanted:
        while token(hosts, name) == before[name]:
            if time.monotonic() > end:
                last = "\n  ".join(console(hosts, name).splitlines()[-15:])
                raise LabError(f"{name}: not up within {START_LIMIT_S:.0f} s:\n  {last}")
            time.sleep(1.0)


def ask(lab: Lab, router: str, page: str, node: str | None = None) -> str:
    """A page of the router's own account of itself, asked for by one of the machines (the first
    unless another is named): by TCP, with the router as an end.

    Raises OSError where it does not answer.
    """
    address = next(iter(lab.addresses[router].values())).ip
    with inside(find_node(node or next(iter(lab.machines))).namespace):
        reply = urllib.request.urlopen(f"http://{address}:7070/{page}", timeout=60)
        return str(reply.read().decode())


def is_worn(lab: Lab, router: str, moves: int) -> bool:
    """Whether a guest has not the memory left for so many moves."""
    return available_mib(lab, router) < moves * MOVE_MIB + SPARE_MIB


def available_mib(lab: Lab, router: str) -> int:
    """How much memory the guest could still use, by its own account."""
    state = ask(lab, router, "cgi-bin/state")
    available = next(line for line in state.splitlines() if line.startswith("MemAvailable:"))
    return int(available.split()[1]) // 1024


def console(hosts: dict[str, BedDom0], router: str) -> str:
    """All that a router has written on its console, host by host."""
    path = f"/var/log/xen/console/guest-{router}.log"
    return "".join(
        one.ask(f"cat {path} {path[:-4]}--incoming.log 2>/dev/null || true")
        for one in hosts.values()
    )


def token(hosts: dict[str, BedDom0], router: str) -> str | None:
    """What the guest made up when it started, as it said it then."""
    found = _UP.findall(console(hosts, router))
    return found[-1][1] if found else None


def neighbour_changes(hosts: dict[str, BedDom0], routers: Iterable[str]) -> list[NeighbourChange]:
    """Every change of a neighbour's state that the routers' daemons have reported."""
    return [
        change
        for router in routers
        for change in routing.parse_changes(router, console(hosts, router))
    ]
