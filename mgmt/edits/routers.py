"""Edits of routers: what becomes of the network.  What becomes of VMs is `mgmt.verbs.router`'s."""

from __future__ import annotations

import tomllib
from argparse import Namespace
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mgmt.edits import new, next_free, replaced, without
from mgmt.hypervisor.vm import DAEMONS, RouterVm, addresses
from mgmt.session import UsageError
from xenflow.model.network import Interface, Network, Router
from xenflow.model.values import UnfitError, mac_number, mac_text
from xenflow.store.filling import MAX_ID, fill, interface_name
from xenflow.store.network_text import to_text

FORM = "NAME:LINK,ADDRESS/PREFIX[,ADDRESS/PREFIX...][,MAC]"


@dataclass(frozen=True, slots=True)
class InterfaceWords:
    """An interface as the command line says it, of several addresses with commas between them; what
    is empty was not said."""

    name: str
    link: str
    address: str = ""
    mac: str = ""


def interface(text: str) -> InterfaceWords:
    """Raises UsageError where a text is not of FORM."""
    place, *rest = text.split(",")
    name, colon, link = place.partition(":")
    address = ",".join(word for word in rest if "/" in word)
    mac, *more = [word for word in rest if "/" not in word] or [""]
    try:
        if not (name and colon and link) or more:
            raise UnfitError
        mac = mac_text(mac_number(mac)) if mac else ""
    except UnfitError:
        raise UsageError(f"--interface {text}: expected {FORM}") from None
    return InterfaceWords(name, link, checked(name, address) if address else "", mac)


def checked(interface: str, address: str) -> str:
    """An address with its prefix's length, an IPv4 one, and others after commas.  Raises
    UsageError."""
    try:
        if not all("/" in each for each in address.split(",")):
            raise ValueError("no /PREFIX")
        return ",".join(map(str, addresses(address)))
    except ValueError as error:
        raise UsageError(f"{interface}: address {address}: {error}") from None


def daemon(config: str) -> tuple[str, str]:
    """Whose configuration a file is, by its name, and its text; "" where there is no file.

    Raises UsageError.
    """
    if not config:
        return "", ""
    path = Path(config)
    known = next((name for name in DAEMONS if name in path.name), "")
    if not known:
        names = " or ".join(f"{name}.conf" for name in DAEMONS)
        raise UsageError(f"--config {config}: expected a name with whose it is, as {names}")
    try:
        return known, path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {config}: {error}") from None


def created(network: Network, args: Namespace, taken: Collection[int]) -> Network:
    """A router more.  What nobody has chosen follows from names, as in a network file; its number
    is the next.

    taken  the numbers of routers that are gone, and not forgotten yet
    """
    name = new("router", args.router, network.routers)
    there = {router.id for router in network.routers.values()}
    words = [*map(interface, args.interface)]
    if twice := [w.name for n, w in enumerate(words) if w.name in (v.name for v in words[:n])]:
        raise UsageError(f"--interface: {twice[0]} is named twice")
    if args.id is not None and not 1 <= args.id <= MAX_ID:
        raise UsageError(f"--id {args.id}: expected a number from 1 to {MAX_ID}")
    table: dict[str, Any] = {
        "id": args.id or next_free({*there, *taken}, MAX_ID),
        "home": args.on,
        "interfaces": [
            {"name": w.name, "link": w.link, **({"mac": w.mac} if w.mac else {})} for w in words
        ],
    }
    tables = tomllib.loads(to_text(network))
    tables.setdefault("routers", {})[name] = table
    filled = fill(tables, network)["routers"][name]
    made = _router(name, filled, args)
    return replaced(network, routers={**network.routers, name: made})


def _router(name: str, filled: dict[str, Any], args: Namespace) -> Router:
    interfaces = tuple(
        Interface(i["name"], i["link"], mac_number(i["mac"]), i["vif"])
        for i in filled["interfaces"]
    )
    return Router(
        name,
        filled["id"],
        filled["home"],
        filled["control_vif"],
        interfaces,
        args.image or "",
        args.memory or 0,
    )


def is_as_asked(router: Router, args: Namespace) -> bool:
    """Whether a router that there is is the one that `create` asks for."""
    words = [*map(interface, args.interface)]
    own = [(i.name, i.link) for i in router.interfaces]
    macs = {i.name: mac_text(i.mac) for i in router.interfaces}
    return (
        own == [(w.name, w.link) for w in words]
        and all(not w.mac or macs[w.name] == w.mac for w in words)
        and router.home == args.on
        and args.id in (None, router.id)
        and router.image == (args.image or "")
        and router.memory == (args.memory or 0)
    )


def vm_of(network: Network, router: Router, args: Namespace) -> RouterVm:
    """What its VM is made of.  Raises UsageError where an interface has no address."""
    said = {w.name: w.address for w in map(interface, args.interface)}
    if missing := [name for name, address in said.items() if not address]:
        raise UsageError(f"{router.name}: no address for {', '.join(missing)}: {FORM}")
    links = {i.link: network.links[i.link] for i in router.interfaces}
    numbers = {name: (link.id, link.vlan) for name, link in links.items()}
    return RouterVm(router, numbers, said, *daemon(args.config))


def changed(network: Network, name: str, **other: Any) -> Network:
    """A router is another."""
    router = replace(network.routers[name], **other)
    return replaced(network, routers={**network.routers, name: router})


def destroyed(network: Network, name: str) -> Network:
    """A router less."""
    return replaced(network, routers=without(network.routers, name))


def with_macs(router: Router, texts: Iterable[str]) -> Router:
    """A router with other MAC addresses, INTERFACE=MAC each.  Raises UsageError."""
    try:
        numbers = {name: mac_number(mac) for name, mac in given(router, "--mac", texts)}
    except UnfitError as error:
        raise UsageError(f"--mac: {error}") from None
    return replace(
        router,
        interfaces=tuple(replace(i, mac=numbers.get(i.name, i.mac)) for i in router.interfaces),
    )


def given(router: Router, option: str, texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    """INTERFACE=VALUE each.  Raises UsageError where a router has no such interface."""
    names = [i.name for i in router.interfaces]
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in names:
            known = ", ".join(names)
            raise UsageError(f"{option} {text}: expected INTERFACE=..., of {router.name}'s {known}")
        yield name, value


def renamed(network: Network, name: str, other: str, taken: Collection[int]) -> Network:
    """A router that is stopped has another name, and with it another number: what switches knew
    by the old one may not be forgotten yet."""
    new("router", other, network.routers)
    router = network.routers[name]
    there = {each.id for each in network.routers.values()}

    def vif(text: str) -> str:
        ending = text.removeprefix(name)
        made = f"{other}{ending}"
        return interface_name(made, made, ending) if text.startswith(f"{name}.") else text

    made = replace(
        router,
        name=other,
        id=next_free({*there, *taken}, MAX_ID),
        control_vif=vif(router.control_vif),
        interfaces=tuple(replace(i, vif=vif(i.vif)) for i in router.interfaces),
    )
    return replaced(network, routers={**without(network.routers, name), other: made})


def lines(vm: RouterVm) -> Iterable[str]:
    """A router, for people."""
    router = vm.router
    yield f"router {router.name}: number {router.id}, at {router.home}, {router.control_vif}"
    for each in router.interfaces:
        address = vm.addresses[each.name]
        yield f"  {each.name} on {each.link}: {address}, {mac_text(each.mac)}, {each.vif}"
