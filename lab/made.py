"""Routers that were made, changed or taken away by verb while a lab is up, beside its file.

A file for each in the lab's own folder, which `lab down` takes away: what its VM is made of, or
that there is none of that name any more.  `lab reload` takes them all away too: from then on the
lab is what its file says.  Written by the emulated hypervisor, read by all who have to do with a
lab.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lab import process
from lab.description import LABS_OWN, Lab, OwnConfiguration
from mgmt.hypervisor import vm as vm_json
from mgmt.hypervisor.vm import DAEMONS, RouterVm
from xenflow.model.network import Link

FOLDER = process.STATE_DIR / "lab" / "routers"
Made = Mapping[str, RouterVm | None]
"""Router -> what its VM is made of; None: it was taken away."""


def read() -> dict[str, RouterVm | None]:
    """All of them."""
    found: dict[str, RouterVm | None] = {}
    for path in sorted(FOLDER.glob("*.json")):
        value = json.loads(path.read_text())
        found[path.stem] = None if value is None else vm_json.from_json(value)
    return found


def write(name: str, vm: RouterVm | None) -> None:
    """Keep one."""
    value: Any = None if vm is None else vm_json.to_json(vm)
    FOLDER.mkdir(parents=True, exist_ok=True)
    new = FOLDER / f"{name}.new"
    new.write_text(json.dumps(value) + "\n")
    new.rename(FOLDER / f"{name}.json")


def erase(name: str) -> None:
    """There is no word about it any more."""
    (FOLDER / f"{name}.json").unlink(missing_ok=True)


def erase_all() -> None:
    """The same of all."""
    shutil.rmtree(FOLDER, ignore_errors=True)


def with_made(lab: Lab, made: Made) -> Lab:
    """A lab as its file says, and these."""
    network = lab.network
    routers, links = dict(network.routers), dict(network.links)
    addresses, more = dict(lab.addresses), dict(lab.more)
    for name, vm in made.items():
        if vm is None:
            routers.pop(name, None)
            addresses.pop(name, None)
            continue
        routers[name] = vm.router
        every = {i: vm_json.addresses(text) for i, text in vm.addresses.items()}
        addresses[name] = {i: own[0] for i, own in every.items()}
        more[name] = {i: own[1:] for i, own in every.items()}
        for link, (id, vlan) in vm.links.items():
            links.setdefault(link, Link(link, id, vlan, 0))  # by verb, too: its wires need no more
    there = {name: vm for name, vm in made.items() if vm is not None}
    own = {n: configuration for n, configuration in lab.own.items() if n not in made}
    for name, vm in there.items():
        if vm.daemon in DAEMONS:
            own[name] = OwnConfiguration(f"{vm.daemon}.conf", vm.config, whole=True)
        elif vm.daemon == LABS_OWN and name in lab.own:
            own[name] = lab.own[name]
    return replace(
        lab,
        network=replace(network, routers=routers, links=links),
        addresses=addresses,
        more=more,
        own=own,
        made=there,
    )


def of_file(lab: Lab, name: str) -> RouterVm:
    """A router of the lab's file, as if it had been made by verb."""
    router = lab.network.routers[name]
    links = {link: lab.network.links[link] for link in (i.link for i in router.interfaces)}
    return RouterVm(
        router,
        {link.name: (link.id, link.vlan) for link in links.values()},
        {
            interface: ",".join(map(str, (address, *lab.more.get(name, {}).get(interface, ()))))
            for interface, address in lab.addresses[name].items()
        },
        LABS_OWN,
    )
