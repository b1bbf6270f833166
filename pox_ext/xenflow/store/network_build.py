"""The values that a network file describes: of what could be read a `Network`.

Called by `network_file`; nothing is judged here.
"""

from __future__ import annotations

from typing import Any

from xenflow.model.network import (
    Access,
    Cable,
    Controller,
    Datapath,
    DatapathKind,
    Interface,
    Link,
    Network,
    Pipeline,
    Router,
)
from xenflow.store.network_keys import Found


def build(found: Found) -> Network:
    """The network, once nothing is wrong."""
    return Network(
        name=found["network"]["name"],
        controllers={n: Controller(n, **c) for n, c in found["controllers"].items()},
        datapaths={n: _build_datapath(n, d) for n, d in found["datapaths"].items()},
        cables={n: _build_cable(n, cable) for n, cable in found["cables"].items()},
        links={n: _build_link(n, link) for n, link in found["links"].items()},
        routers={n: _build_router(n, r) for n, r in found["routers"].items()},
        store=tuple(found["network"].get("store", ())),
        tls=found["network"].get("tls", ""),
    )


def sketch(found: Found) -> Network:
    """A network of what could be read, of which something is wrong."""
    usual = {"kind": "host", "dpid": 0, "controller": "", "openflow": ("", 0), "manage": ""}
    usual |= {"id": 0, "vlan": 0, "home": "", "control_vif": "", "mac": 0, "vif": ""}

    def whole(entry: dict[str, Any], *keys: str) -> dict[str, Any]:
        return {key: usual[key] for key in keys} | entry

    known: Found = {
        "network": whole(found["network"]) | {"name": ""},
        "controllers": {
            name: whole(one, "openflow", "manage") for name, one in found["controllers"].items()
        },
        "datapaths": {
            name: whole(one, "kind", "dpid", "controller")
            for name, one in found["datapaths"].items()
        },
        "cables": {
            name: cable
            for name, cable in found["cables"].items()
            if cable["ends"] and None not in cable["ends"]
        },
        "links": {
            name: whole(one, "id", "vlan")
            | {
                "access": [
                    {"at": access["at"], "macs": [m for m in access.get("macs", ()) if m]}
                    for access in one.get("access", ())
                    if "at" in access
                ]
            }
            for name, one in found["links"].items()
        },
        "routers": {
            name: whole(one, "id", "home", "control_vif")
            | {
                "interfaces": [
                    whole(interface, "mac", "vif")
                    for interface in one.get("interfaces", ())
                    if "name" in interface and "link" in interface
                ]
            }
            for name, one in found["routers"].items()
        },
    }
    return build(known)


def _build_datapath(name: str, values: dict[str, Any]) -> Datapath:
    values = {**values, "kind": DatapathKind(values["kind"])}
    if "pipeline" in values:
        values["pipeline"] = Pipeline(values["pipeline"])
    return Datapath(name, **values)


def _build_cable(name: str, values: dict[str, Any]) -> Cable:
    terms = {key: value for key, value in values.items() if key not in ("where", "ends")}
    if "labels" in terms:
        terms["labels"] = tuple(terms["labels"])
    return Cable(name, *values["ends"], **terms)


def _build_link(name: str, values: dict[str, Any]) -> Link:
    access = tuple(Access(a["at"], tuple(a.get("macs", ()))) for a in values.get("access", ()))
    lists = ("cables", "disjoint_from", "span")
    given: dict[str, Any] = {"vlan": 0, "detour_vlan": 0}  # 0: it is to be chosen
    about = {key: value for key, value in values.items() if key != "subnet"}
    given |= {key: tuple(value) if key in lists else value for key, value in about.items()}
    return Link(name, **given | {"access": access})


def _build_router(name: str, values: dict[str, Any]) -> Router:
    interfaces = tuple(Interface(**interface) for interface in values["interfaces"])
    return Router(name, **{**values, "interfaces": interfaces})
