"""What one router needs beside the image: its domain's configuration, and its own archive.

The archive is appended to the image's (the kernel unpacks both) and holds, in /router,

    name         the router's name
    interfaces   NAME MAC ADDRESS/LENGTH..., a line for each; the control link comes first
    neighbours   gc_thresh1, 2 and 3: how many neighbours its kernel keeps
    bird.conf    for BIRD
    routerd      options for routerd
    http         where it is there, the router tells of itself at port 7070

A kernel's command line would be too short for BIRD's configuration, and xenstore needs a
program in the guest that reads it.  At a move the archive is not needed: it is in the guest's
memory.  Pure but for `write`; called by `scripts/router-image --config`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from xen.image.build import INITRD, KERNEL
from xen.image.cpio import Archive
from xenflow.model import control_link
from xenflow.model.network import Network, Router
from xenflow.model.values import mac_text
from xenflow.routes.router_state import Capacity

TEMPLATE = Path(__file__).resolve().parents[1] / "dom0" / "router.cfg.in"
BRIDGE = "xenflow0"
NO_BRIDGE = "xenflow-control"
"""In place of a bridge, of a control vif: `vif-xenflow` puts it into none."""
SCRIPT = "vif-xenflow"
MEMORY_MIB = 128
ROUTERD = "--carrier-grace=15"
"""A vif's carrier is gone while the domain moves: routerd then goes on for so long."""


class ConfigError(Exception):
    """What the operator asked for does not fit the network."""


@dataclass(frozen=True, slots=True)
class Guest:
    """One router as a domain."""

    router: Router
    addresses: Mapping[str, IPv4Interface]
    """Interface -> address."""
    bird: str
    memory_mib: int
    http: bool
    """Whether it shows its routes, neighbours and memory to whoever asks at port 7070."""


def guest(
    network: Network,
    name: str,
    addresses: Mapping[str, str],
    bird: str | None = None,
    memory_mib: int = MEMORY_MIB,
    *,
    http: bool = False,
) -> Guest:
    """A router of the network, its interfaces' addresses as text; without a configuration for
    BIRD it speaks OSPF on all of them.

    Raises ConfigError.
    """
    if name not in network.routers:
        known = ", ".join(network.routers) or "none"
        raise ConfigError(f"the network has no router {name} (it has: {known})")
    router = network.routers[name]
    names = [interface.name for interface in router.interfaces]
    if wrong := sorted(set(addresses) - set(names)):
        raise ConfigError(f"{name} has no interface {wrong[0]} (it has: {', '.join(names)})")
    if missing := [i for i in names if i not in addresses]:
        raise ConfigError(
            f"{name}: no address for {', '.join(missing)}: --address {missing[0]}=ADDRESS/LENGTH"
        )
    found = {}
    for interface in names:
        if "/" not in addresses[interface]:
            raise ConfigError(f"{name}: {interface}: {addresses[interface]} has no /LENGTH")
        try:
            found[interface] = IPv4Interface(addresses[interface])
        except ValueError as error:
            raise ConfigError(f"{name}: {interface}: {error}") from None
    first = next(iter(found.values()))
    return Guest(router, found, bird or ospf(str(first.ip)), memory_mib, http)


def ospf(router_id: str) -> str:
    """BIRD's configuration where none is given: OSPF with its default timers on every interface
    but the control link.  Carrier is not asked for: a vif has none for a moment in each move."""
    return f"""\
log stderr all;
router id {router_id};
protocol device {{ scan time 10; }}
protocol kernel {{
    ipv4 {{ import none; export all; }};
}}
protocol ospf v2 ospf1 {{
    ipv4 {{ import all; export none; }};
    area 0 {{
        interface "-{control_link.INTERFACE}", "*" {{ check link no; }};
    }};
}}
"""


def interfaces(of: Guest) -> str:
    """The archive's `interfaces`."""
    router = of.router
    control = f"{control_link.INTERFACE} {control_link.mac(router)}"
    lines = [f"{control} {control_link.address(router)}/64"]
    lines += [f"{i.name} {mac_text(i.mac)} {of.addresses[i.name]}" for i in router.interfaces]
    return "".join(line + "\n" for line in lines)


NEIGHBOURS_PER_MIB = 64
"""At most so many neighbours for each MiB of memory: they take up to a thirtieth of it."""


def neighbours(of: Guest) -> str:
    """The archive's `neighbours`: what its kernel takes grows with the memory that the router was
    given for what it is for, up to what a Rule Table takes from one router."""
    most = max(1024, min(Capacity().neighbours, of.memory_mib * NEIGHBOURS_PER_MIB))
    return f"{most // 4} {most // 2} {most}\n"


def archive(of: Guest) -> bytes:
    """The router's own archive."""
    options = f"--control {control_link.INTERFACE} --router {of.router.name} {ROUTERD}\n"
    made = Archive()
    made.folder("router")
    for name, text in (
        ("name", of.router.name + "\n"),
        ("interfaces", interfaces(of)),
        ("neighbours", neighbours(of)),
        ("bird.conf", of.bird),
        ("routerd", options),
    ):
        made.file(f"router/{name}", text.encode())
    if of.http:
        made.file("router/http", b"")
    return made.octets()


def domain(network: Network, of: Guest, kernel: str, ramdisk: str) -> str:
    """The domain's configuration for xl."""
    router = of.router
    vifs = [
        (mac_text(i.mac), f"{BRIDGE}.{network.links[i.link].vlan}", i.vif)
        for i in router.interfaces
    ]
    vifs.append((control_link.mac(router), NO_BRIDGE, router.control_vif))
    lines = (
        f'    "mac={mac},bridge={bridge},script={SCRIPT},vifname={vif}",'
        for mac, bridge, vif in vifs
    )
    values = {"name": router.name, "kernel": kernel, "ramdisk": ramdisk}
    values |= {"memory": str(of.memory_mib), "vifs": "\n".join(lines)}
    text = TEMPLATE.read_text()
    body = text[text.index("\nname =") + 1 :]
    head = f"# The virtual router {router.name}: made by scripts/router-image, do not edit.\n"
    return head + re.sub(r"@(\w+)@", lambda found: values[found.group(1)], body)


def write(network: Network, of: Guest, image: Path, out: Path) -> tuple[Path, Path]:
    """Write NAME.cfg and NAME.initrd into `out`; `image` is the folder with the image.

    Raises ConfigError where there is no image, OSError.
    """
    if not (image / INITRD).exists() or not (image / KERNEL).exists():
        raise ConfigError(f"{image}: no image there: scripts/router-image builds it")
    out.mkdir(parents=True, exist_ok=True)
    ramdisk = out / f"{of.router.name}.initrd"
    _write_secret(ramdisk, (image / INITRD).read_bytes() + archive(of))
    config = out / f"{of.router.name}.cfg"
    config.write_text(domain(network, of, str(image / KERNEL), str(ramdisk)))
    return config, ramdisk


def _write_secret(path: Path, octets: bytes) -> None:
    """For root alone: BIRD's configuration may hold passwords.  Whole, or as it was."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(octets)
    new.rename(path)
