"""What a hypervisor keeps of a router's VM, so that it can make it again; and who makes VMs.

The network says which interfaces a router has, and on which links; what is inside, addresses and
the routing daemon's configuration, no switch needs to know: it is kept where the VM is made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, ip_interface
from typing import Any, Protocol

from mgmt.hypervisor import HypervisorError
from xenflow.model.addresses import Address, OnLink, Subnet
from xenflow.model.network import Interface, Router

DAEMONS = ("bird", "frr")
"""Whose configuration a VM may be given.  Without one its routes are those of its addresses."""


@dataclass(frozen=True, slots=True)
class RouterVm:
    """One router's.

    links      link -> (id, VLAN id), of its interfaces' links
    addresses  interface -> ADDRESS/PREFIX, an IPv4 one, and others after commas
    daemon     one of DAEMONS, "": none, or the hypervisor's own word for what it has always run
    config     the daemon's, as text
    """

    router: Router
    links: Mapping[str, tuple[int, int]]
    addresses: Mapping[str, str]
    daemon: str = ""
    config: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class OnLinks:
    """Who has which address on virtual links; and the subnets that are no link's, by what they are
    called."""

    members: tuple[OnLink, ...] = ()
    reserved: Mapping[str, Subnet] = field(default_factory=dict)


def addresses(text: str) -> tuple[IPv4Interface, *tuple[Address, ...]]:
    """The addresses of an interface.  Raises ValueError."""
    first, *more = text.split(",")
    return IPv4Interface(first), *map(ip_interface, more)


def addresses_of(vm: RouterVm) -> list[OnLink]:
    """Its own.  Raises HypervisorError where one is none."""
    links = {interface.name: interface.link for interface in vm.router.interfaces}
    try:
        return [
            OnLink(vm.router.name, name, links[name], address)
            for name, text in vm.addresses.items()
            if name in links
            for address in addresses(text)
        ]
    except ValueError as error:
        raise HypervisorError(f"what is kept of {vm.router.name} cannot be read: {error}") from None


def to_json(vm: RouterVm) -> dict[str, Any]:
    """As hypervisors keep it."""
    router = vm.router
    return {
        "name": router.name,
        "id": router.id,
        "home": router.home,
        "control_vif": router.control_vif,
        "interfaces": [[i.name, i.link, i.mac, i.vif] for i in router.interfaces],
        "image": router.image,
        "memory": router.memory,
        "links": {name: list(numbers) for name, numbers in vm.links.items()},
        "addresses": dict(vm.addresses),
        "daemon": vm.daemon,
        "config": vm.config,
    }


def from_json(value: Any) -> RouterVm:
    """The inverse.  Raises HypervisorError where something is missing or of another type."""
    try:
        interfaces = tuple(
            Interface(str(name), str(link), int(mac), str(vif))
            for name, link, mac, vif in value["interfaces"]
        )
        router = Router(
            str(value["name"]),
            int(value["id"]),
            str(value["home"]),
            str(value["control_vif"]),
            interfaces,
            str(value["image"]),
            int(value["memory"]),
        )
        links = {str(name): (int(id), int(vlan)) for name, (id, vlan) in value["links"].items()}
        addresses = {str(name): str(text) for name, text in value["addresses"].items()}
        return RouterVm(router, links, addresses, str(value["daemon"]), str(value["config"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise HypervisorError(f"a VM's description cannot be read: {error!r}") from None


class VmMaker(Protocol):
    """What of a driver makes and ends VMs.  Every method raises HypervisorError; each may be said
    again where it is not known what came of it.

    changes_live  a VM that runs gets other addresses at once
    """

    changes_live: bool

    def may_make(self, vm: RouterVm, host: str) -> None:
        """Raise where a host can make no such VM, as far as can be told without changing
        anything."""

    def keep(self, vm: RouterVm) -> None:
        """Keep what a VM is made of, in place of what was kept.  One that runs gets its addresses
        at once where `changes_live`, and the rest when it is started next."""

    def kept(self, router: str) -> RouterVm | None:
        """What is kept of a router's VM; None: nothing."""

    def on_links(self, routers: Collection[str]) -> OnLinks:
        """Who has which address on virtual links, as far as is known: the VMs of these routers, and
        who is no router."""

    def create(self, router: str, host: str) -> None:
        """Make a router's VM of what is kept, and let it run on a host."""

    def stop(self, router: str) -> None:
        """End a router's VM, wherever it is; what is kept stays."""

    def forget(self, router: str) -> None:
        """Keep nothing of a router's VM, which is ended, any more."""


class NoVms:
    """Of a driver that makes none: a `VmMaker` that says so, and keeps nothing."""

    changes_live = False

    def __init__(self, name: str) -> None:
        self._name = name

    def may_make(self, vm: RouterVm, host: str) -> None:
        raise self._refused(vm.router.name)

    def keep(self, vm: RouterVm) -> None:
        raise self._refused(vm.router.name)

    def kept(self, router: str) -> RouterVm | None:
        return None

    def on_links(self, routers: Collection[str]) -> OnLinks:
        return OnLinks()

    def create(self, router: str, host: str) -> None:
        raise self._refused(router)

    def stop(self, router: str) -> None:
        raise self._refused(router)

    def forget(self, router: str) -> None:
        """Nothing is kept."""

    def _refused(self, router: str) -> HypervisorError:
        words = f"hypervisor {self._name} makes and ends no VMs from here: do it by its own tools"
        return HypervisorError(f"{router}: {words}", "refused")
