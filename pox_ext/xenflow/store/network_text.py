"""Writes a network as the text of a network file: what `network_file` reads.

Read again it is the same network.  Comments and the lab's part are not in a `Network`.  Called by
the planner and by `xenflow export`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from xenflow.model.network import (
    DETOUR_VLAN_OFFSET,
    Access,
    Cable,
    Controller,
    Datapath,
    DatapathKind,
    End,
    Interface,
    Link,
    Network,
    Router,
)
from xenflow.model.values import mac_text

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_text(network: Network) -> str:
    """The file's text."""
    head: dict[str, Any] = {"name": network.name}
    if network.store:
        head["store"] = list(network.store)
    if network.tls:
        head["tls"] = network.tls
    return "\n".join(
        [
            *_table(("network",), head),
            *_tables("controllers", map(_controller, network.controllers.values())),
            *_tables("datapaths", map(_datapath, network.datapaths.values())),
            *_table(("cables",), {name: _cable(c) for name, c in network.cables.items()}),
            *_tables("links", map(_link, network.links.values())),
            *_tables("routers", map(_router, network.routers.values())),
        ]
    )


def _controller(controller: Controller) -> tuple[str, dict[str, Any]]:
    return controller.name, {"openflow": controller.openflow_text, "manage": controller.manage}


def _datapath(datapath: Datapath) -> tuple[str, dict[str, Any]]:
    about: dict[str, Any] = {
        "kind": datapath.kind.value,
        "dpid": f"{datapath.dpid:016x}",
        "controller": datapath.controller,
    }
    usual = Datapath("", DatapathKind.HOST, 0, "")
    for key in (
        "nicira",
        "hypervisor",
        "proof",
        "proof_bound_s",
        "ovs_rundir",
        "other",
        "maintenance",
    ):
        if getattr(datapath, key) != getattr(usual, key):
            about[key] = getattr(datapath, key)
    if datapath.pipeline is not usual.pipeline:
        about["pipeline"] = datapath.pipeline.value
    return datapath.name, about


def _cable(cable: Cable) -> list[End] | dict[str, Any]:
    about: dict[str, Any] = {"mbps": cable.mbps, "cost": cable.cost, "mtu": cable.mtu}
    about["labels"] = [f"{a}-{b}" if a != b else a for a, b in cable.labels]
    given = {key: value for key, value in about.items() if value}
    ends = [cable.a, cable.b]
    return {"ends": ends, **given} if given else ends


def _link(link: Link) -> tuple[str, dict[str, Any]]:
    numbers: dict[str, Any] = {"id": link.id, "vlan": link.vlan}
    about = {key: number for key, number in numbers.items() if number}  # 0: it is to be chosen
    if link.detour_vlan not in (0, link.vlan + DETOUR_VLAN_OFFSET):
        about["detour_vlan"] = link.detour_vlan
    if link.access:
        about["access"] = [*map(_access, link.access)]
    if link.root:
        about["root"] = link.root
    if link.cables:
        about["cables"] = list(link.cables)
    if link.mbps:
        about["mbps"] = link.mbps
    if link.mtu:
        about["mtu"] = link.mtu
    if link.disjoint_from:
        about["disjoint_from"] = list(link.disjoint_from)
    if link.span is not None:
        about["span"] = list(link.span)
    return link.name, about


def _access(access: Access) -> dict[str, Any]:
    about: dict[str, Any] = {"at": access.end}
    return about | ({"macs": [*map(mac_text, access.macs)]} if access.macs else {})


def _router(router: Router) -> tuple[str, dict[str, Any]]:
    about = {
        **({"id": router.id} if router.id else {}),
        "home": router.home,
        "control_vif": router.control_vif,
        "interfaces": [*map(_interface, router.interfaces)],
    }
    usual = {"image": "", "memory": 0, "running": True}
    given = {key: getattr(router, key) for key in usual}
    return router.name, about | {k: v for k, v in given.items() if v != usual[k]}


def _interface(interface: Interface) -> dict[str, Any]:
    return {
        "name": interface.name,
        "link": interface.link,
        "mac": mac_text(interface.mac),
        "vif": interface.vif,
    }


# --- TOML ----------------------------------------------------------------------------------------


def _tables(part: str, entries: Iterable[tuple[str, dict[str, Any]]]) -> Iterable[str]:
    for name, about in entries:
        yield from _table((part, name), about)


def _table(path: tuple[str, ...], about: dict[str, Any]) -> list[str]:
    lines = [f"{_key(key)} = {_value(value)}" for key, value in about.items()]
    return [f"[{'.'.join(map(_key, path))}]", *lines, ""]


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key)


def _value(value: Any) -> str:
    match value:
        case dict():
            return f"{{ {', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())} }}"
        case list() if value and isinstance(value[0], dict):
            return "\n".join(("[", *(f"    {_value(one)}," for one in value), "]"))
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case End():
            return json.dumps(str(value))
        case _:
            return json.dumps(value)
