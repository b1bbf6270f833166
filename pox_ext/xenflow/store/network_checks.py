"""What must hold between the values of a network file.

Each mistake is noted in the document, with the place of the key.  Called by `network_file`, before
there is a network (`check`) and once links lie (`check_trees`).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from xenflow.model.network import End, Network
from xenflow.model.values import mac_text
from xenflow.plan.laying import Placed, unlaid
from xenflow.store.document import Document
from xenflow.store.network_keys import Found, meant, openflow
from xenflow.store.toml_lines import Path, show_value


def check(document: Document, tables: dict[str, Any], found: Found, *, in_store: bool) -> None:
    """Note what does not fit together; `in_store`: where its store is the text does not decide."""
    _check_references(document, found)
    _check_uniqueness(document, found)
    _check_datapaths(document, found)
    if not in_store:
        _check_store(document, tables, found)


def is_open(server: str) -> bool:
    """Whether a server of a store is reached without TLS and from other machines, so that whoever
    reaches it may change everything."""
    kind, _, rest = server.partition(":")
    try:
        return kind == "tcp" and not ip_address(openflow(rest)[0]).is_loopback
    except ValueError:
        return False  # none that anybody reaches


def _check_store(document: Document, tables: dict[str, Any], found: Found) -> None:
    """The lab's namespaces are one machine; what moves VMs there says that it is one, too."""
    servers = found["network"].get("store", [])
    vms = [about.get("hypervisor", "") for about in found["datapaths"].values()]
    in_lab = "lab" in tables or any(each.startswith("lab:") for each in vms)
    for number, server in enumerate(servers):
        if server is None:
            continue
        where = ("network", "store", number)
        if is_open(server) and not in_lab:
            expected = f'"ssl{server[3:]}", and certificates (tls): it is no loopback address'
            document.mistake(where, f'"{server}"', expected)
        elif server.startswith("ssl:") and "tls" not in tables["network"]:
            expected = 'tls = "FOLDER" beside it, with key.pem, certificate.pem and ca.pem'
            document.mistake(where, f'"{server}"', expected)


def _ports(found: Found) -> Iterable[tuple[Path, End]]:
    """Every port that a cable or an access takes, with the place where it is named."""
    for cable in found["cables"].values():
        for i, end in enumerate(cable["ends"] or ()):
            if end is not None:
                yield (*cable["where"], i), end
    for name, link in found["links"].items():
        for i, access in enumerate(link.get("access", ())):
            if "at" in access:
                yield ("links", name, "access", i, "at"), access["at"]


def _interfaces(found: Found) -> Iterable[tuple[Path, str, dict[str, Any]]]:
    """Every router interface: its place, its router, its values."""
    for name, router in found["routers"].items():
        for i, interface in enumerate(router.get("interfaces", ())):
            yield ("routers", name, "interfaces", i), name, interface


def _check_references(document: Document, found: Found) -> None:
    def check(path: Path, section: str, name: str | None, what: str) -> None:
        if name is not None and name not in found[section]:
            expected = f"the name of a {what}{meant(name, found[section])}"
            document.mistake(path, f'"{name}"', expected)

    for name, datapath in found["datapaths"].items():
        where = ("datapaths", name, "controller")
        check(where, "controllers", datapath.get("controller"), "controller")
    for path, end in _ports(found):
        check(path, "datapaths", end.datapath, "datapath before the colon")
    for name, link in found["links"].items():
        check(("links", name, "root"), "datapaths", link.get("root"), "datapath")
        for i, cable in enumerate(link.get("cables", ())):
            check(("links", name, "cables", i), "cables", cable, "cable")
        for i, other in enumerate(link.get("disjoint_from", ())):
            check(("links", name, "disjoint_from", i), "links", other, "link")
            if other == name:
                path = "links", name, "disjoint_from", i
                document.mistake(path, f'"{name}" itself', "the name of another link")
        for i, reached in enumerate(link.get("span", ())):
            check(("links", name, "span", i), "datapaths", reached, "datapath")
    for name, router in found["routers"].items():
        home = router.get("home")
        check(("routers", name, "home"), "datapaths", home, "datapath")
        kind = found["datapaths"].get(home, {}).get("kind", "host")
        if kind != "host":
            expected = 'a datapath of kind "host", which can carry routers'
            document.mistake(("routers", name, "home"), f'"{home}" of kind "{kind}"', expected)
    for path, _, interface in _interfaces(found):
        check((*path, "link"), "links", interface.get("link"), "link")


class _Taken:
    """Values that may be used once, each with the place of its first use."""

    def __init__(self, document: Document, expected: str) -> None:
        self._document = document
        self._expected = expected
        self._first: dict[Any, Path] = {}

    def take(self, path: Path, value: Any, shown: str) -> None:
        first = self._first.setdefault(value, path)
        if first != path:
            self._document.mistake(path, f"{shown}, {self._document.use(first)}", self._expected)


def _check_uniqueness(document: Document, found: Found) -> None:
    for section, key, expected in (
        ("controllers", "manage", "an address of its own"),
        ("links", "id", "an id of its own"),
        ("routers", "id", "an id of its own"),
        ("datapaths", "dpid", "a datapath id of its own"),
    ):
        taken = _Taken(document, expected)
        for name, entry in found[section].items():
            if key in entry:
                value = entry[key]
                shown = f'"{value:016x}"' if key == "dpid" else show_value(value)
                taken.take((section, name, key), value, shown)
    _check_vlans(document, found)
    _check_ports(document, found)
    _check_macs(document, found)
    _check_interfaces(document, found)


def _check_vlans(document: Document, found: Found) -> None:
    """Between switches that drop what is of no link, several may have one, which `unlaid` sees."""
    if all(datapath.get("other") == "drop" for datapath in found["datapaths"].values()):
        return
    taken = _Taken(document, "a VLAN id of its own")
    for name, link in found["links"].items():
        for key in ("vlan", "detour_vlan"):
            if key in link:
                taken.take(("links", name, key), link[key], show_value(link[key]))


def _check_ports(document: Document, found: Found) -> None:
    taken = _Taken(document, "a port that nothing else uses")
    on_hosts: dict[str, Path] = {}
    for path, end in _ports(found):
        taken.take(path, end, f'"{end}"')
        if found["datapaths"].get(end.datapath, {}).get("kind") == "host":
            on_hosts.setdefault(end.port, path)
    for name, cable in found["cables"].items():
        ends = cable["ends"]
        if ends and None not in ends and ends[0].datapath == ends[1].datapath:
            both = f'both ends on "{ends[0].datapath}"'
            document.mistake(("cables", name), both, "two datapaths")
    # A router may run on any host, so its vifs must not collide with any port of any host.
    vifs = _Taken(document, "a name that no other vif has")
    for path, vif in _vifs(found):
        vifs.take(path, vif, f'"{vif}"')
        if vif in on_hosts:
            used = f'"{vif}", {document.use(on_hosts[vif])}'
            document.mistake(path, used, "a name that no port of any host has")


def _vifs(found: Found) -> Iterable[tuple[Path, str]]:
    for name, router in found["routers"].items():
        if "control_vif" in router:
            yield ("routers", name, "control_vif"), router["control_vif"]
    for path, _, interface in _interfaces(found):
        if "vif" in interface:
            yield (*path, "vif"), interface["vif"]


def _check_macs(document: Document, found: Found) -> None:
    taken = _Taken(document, "a MAC address of its own")

    def take(path: Path, mac: int | None) -> None:
        if mac is not None:
            taken.take(path, mac, f'"{mac_text(mac)}"')

    for name, link in found["links"].items():
        for i, access in enumerate(link.get("access", ())):
            for j, mac in enumerate(access.get("macs", ())):
                take(("links", name, "access", i, "macs", j), mac)
    for path, _, interface in _interfaces(found):
        take((*path, "mac"), interface.get("mac"))


def _check_interfaces(document: Document, found: Found) -> None:
    names = _Taken(document, "a name of its own")
    links = _Taken(document, "one interface of a router on a link")
    for path, router, interface in _interfaces(found):
        for key, taken in (("name", names), ("link", links)):
            if key in interface:
                taken.take((*path, key), (router, interface[key]), f'"{interface[key]}"')


def _check_datapaths(document: Document, found: Found) -> None:
    for name, datapath in found["datapaths"].items():
        path = ("datapaths", name)
        if datapath.get("kind") == "plain":
            for key in ("hypervisor", "pipeline", "maintenance"):
                if key in datapath:
                    shown = show_value(datapath[key])
                    document.mistake((*path, key), shown, 'no such key where kind is "plain"')
        elif datapath.get("nicira") is False and datapath.get("pipeline") != "reactive":
            expected = 'true, or pipeline = "reactive": routes as flows need the extensions'
            document.mistake((*path, "nicira"), "false", expected)
        if datapath.get("proof") != "revalidator" and datapath.get("ovs_rundir"):
            shown = show_value(datapath["ovs_rundir"])
            document.mistake((*path, "ovs_rundir"), shown, 'it only with proof = "revalidator"')


def check_trees(document: Document, network: Network, placed: Placed | None) -> None:
    said = set()
    for one in unlaid(network, placed):
        document.mistake(("links", one.link, one.key), one.found, one.expected)
        said.add(one.link)
    for link in network.links.values():
        tree = link.tree
        if link.name in said:
            continue
        only = " over the cables it may use" if link.cables or link.mtu else ""
        for i, access in enumerate(link.access):
            here = access.end.datapath
            if not tree.reaches(here):
                document.mistake(
                    ("links", link.name, "access", i, "at"),
                    f'"{access.end}"',
                    f"a datapath that the link's tree reaches{only}",
                )
        for router, interface in network.members(link.name):
            if not tree.reaches(router.home):
                document.mistake(
                    ("routers", router.name, "interfaces", router.interfaces.index(interface)),
                    f'link "{link.name}", whose tree does not reach "{router.home}"{only}',
                    "a link that reaches the router's home",
                )
