"""The lab's part of a network file, checked, and the nodes that follow from it.

`[lab]` says what the network's description leaves open because on real hosts it exists already:
the management network, the machines at the access ports, the addresses of the routers.  All
mistakes are reported together, each as `FILE:LINE: KEY: found ..., expected ...`.  Pure but for
reading the file: nothing here touches the system.

A *node* is one network namespace.  Every datapath is one, named like the datapath; where a machine
has the datapath's name (an end machine with a switch of its own) the switch's node is called
`NAME-sw`, so that `lab exec NAME` is the machine.

A host whose `hypervisor` is not the lab's is *elsewhere*: its node holds the ends of its cables and
of its management link, for whoever brings that host (the Xen test bed), and nothing runs there.
So are the routers that are at home there: they have no node.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zlib import crc32

from mgmt.hypervisor.vm import RouterVm
from xenflow.model.addresses import Address, OnLink, unfit
from xenflow.model.network import (
    Controller,
    Datapath,
    DatapathKind,
    End,
    Network,
    NetworkError,
    Router,
)
from xenflow.model.values import UnfitError, Value, mac_number, text_of
from xenflow.store.document import Document
from xenflow.store.filling import listed
from xenflow.store.network_file import parse, read_text
from xenflow.store.toml_lines import Path as KeyPath
from xenflow.store.toml_lines import show_value

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "xf-"
"""What every namespace of the lab begins with; nothing else on a machine should."""
FABRIC = PREFIX + "fabric"
"""The namespace that holds the routers' wires (see `wire.py`); no node, nothing runs there."""
MANAGEMENT = "mgmt0"
"""A node's interface in the management network."""
CABLE_MTU = 1600
_ADDRESSES = (IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)
COPY_HEADER = "# Written by `xenflow lab up` from "
"""What the lab's own copy of a network file begins with."""
COPIES = Path("lab", "files")
"""Where, beside that, copies of the files that it names are."""
_MACHINE_KEYS = ("access", "link", "mac", "address", "stub", "gateway", "config", "snippet")
ReadOwn = Callable[[str], str]
"""Reads a file that a network file names.  Raises NetworkError with the reason where it cannot."""
MAX_NODE_NAME = 48
"""A node's sockets are in a folder of its name, and a socket's path has 107 characters at most."""
RESERVED_PORTS = ("lo", "br0", MANAGEMENT, "ovs-netdev", "ovs-system")
"""Interfaces that every node has of its own."""


LABS_OWN = "lab"
"""What a `RouterVm` says whose daemon is configured as those of the lab's file are."""


@dataclass(frozen=True, slots=True)
class Machine:
    """An end machine: a network stack at an access port, with a routing daemon; or, where it has
    gateways, with default routes by these, one of each family at most.

    address  the one that it is reached at; `more` are others that it has there
    stubs    what it has on lo, one of each family at most
    """

    name: str
    access: End
    link: str
    mac: int
    address: IPv4Interface
    more: tuple[Address, ...] = ()
    stubs: tuple[Address, ...] = ()
    gateways: tuple[IPv4Address | IPv6Address, ...] = ()

    @property
    def stub(self) -> IPv4Interface | None:
        """Its IPv4 stub address."""
        return next((stub for stub in self.stubs if isinstance(stub, IPv4Interface)), None)


@dataclass(frozen=True, slots=True)
class OwnConfiguration:
    """What a person has written for a node's routing daemon.

    file   its name as the network file gives it
    text   what is in it
    whole  it stands in the place of the lab's own, else beside it
    """

    file: str
    text: str
    whole: bool


@dataclass(frozen=True, slots=True)
class Node:
    """One namespace.  `addresses`: of each family, IPv4 before IPv6, the first is the one reached
    through the routers; the management address is not among them.  `host`: of a router, where it
    runs now."""

    name: str
    kind: str
    namespace: str
    addresses: tuple[str, ...] = ()
    host: str | None = None


@dataclass(frozen=True)
class Lab:
    """A network and all that the lab needs to know of it."""

    file: Path
    network: Network
    hypervisor: tuple[str, int]
    """Address and port of the emulated one; empty where every host is elsewhere."""
    subnet: IPv4Network
    operator: IPv4Address
    management: dict[str, IPv4Address]
    """Each node's address in the management network (routers have none)."""
    machines: dict[str, Machine]
    addresses: dict[str, dict[str, IPv4Interface]]
    """Router -> interface -> address."""
    more: dict[str, dict[str, tuple[Address, ...]]] = field(default_factory=dict)
    """The others of each interface, where it has some."""
    own: dict[str, OwnConfiguration] = field(default_factory=dict)
    """Node -> what a person has written for its routing daemon."""
    made: Mapping[str, RouterVm] = field(default_factory=dict)
    """The routers that were made, or changed, by verb (`made.py`)."""

    def switch_node(self, datapath: str) -> str:
        """The node that a datapath's switch runs in."""
        return datapath + "-sw" if datapath in self.machines else datapath

    def controller_node(self, controller: str) -> str:
        """The node that a controller runs in: the datapath of its name, else one of its own."""
        known = controller in self.network.datapaths
        return self.switch_node(controller) if known else controller

    def switch_namespace(self, datapath: str) -> str:
        """The namespace of a datapath's switch."""
        return PREFIX + self.switch_node(datapath)

    def number(self, node: str) -> int:
        """A node's number in the names of interfaces: the host part of its management address."""
        return int(self.management[node]) - int(self.subnet.network_address)

    @cached_property
    def hosts(self) -> list[str]:
        """The hosts, in the order of the file."""
        return list(self.network.hosts)

    @cached_property
    def elsewhere(self) -> list[str]:
        """The hosts that are not the lab's own."""
        return _elsewhere(self.network)

    @cached_property
    def datapaths(self) -> list[Datapath]:
        """The datapaths whose switches the lab runs."""
        return [d for d in self.network.datapaths.values() if d.name not in self.elsewhere]

    @cached_property
    def controllers(self) -> dict[str, Controller]:
        """The controllers that the lab runs."""
        controllers = self.network.controllers.items()
        return {n: c for n, c in controllers if self.controller_node(n) not in self.elsewhere}

    @cached_property
    def routers(self) -> dict[str, Router]:
        """The routers that are the lab's own."""
        routers = self.network.routers.items()
        return {n: r for n, r in routers if r.home not in self.elsewhere}

    @cached_property
    def ports(self) -> dict[End, int]:
        """The ports of the switches that the lab runs, but for routers' vifs: of an access port
        the VLAN id that its frames belong to untagged, of a cable's 0."""
        own = {d.name for d in self.datapaths}
        found = {end: 0 for cable in self.network.cables.values() for end in (cable.a, cable.b)}
        for link in self.network.links.values():
            found |= {access.end: link.vlan for access in link.access}
        return {end: tag for end, tag in found.items() if end.datapath in own}

    def speaking(self, link: str) -> list[tuple[str, str, IPv4Interface]]:
        """The members of a link that speak a routing protocol."""
        silent = [m.name for m in self.machines.values() if m.gateways]
        silent += [name for name, vm in self.made.items() if vm.daemon != LABS_OWN]
        return [member for member in self.members(link) if member[0] not in silent]

    def members(self, link: str) -> list[tuple[str, str, IPv4Interface]]:
        """Who is on a link: (node, interface, the address that it is reached at)."""
        found = [(m.name, "eth0", m.address) for m in self.machines.values() if m.link == link]
        for router, interface in self.network.members(link):
            address = self.addresses[router.name][interface.name]
            found.append((router.name, interface.name, address))
        return found

    def everybody(self, link: str) -> list[tuple[str, str, Address]]:
        """Every address on a link: (node, interface, address), an interface's IPv4 ones first."""
        found: list[tuple[str, str, Address]] = []
        for node, interface, address in self.members(link):
            machine = self.machines.get(node)
            more = machine.more if machine else self.more.get(node, {}).get(interface, ())
            found += [(node, interface, one) for one in (address, *more)]
        return found

    def first_addresses(self, link: str, version: int) -> list[tuple[str, str, str]]:
        """Who has an address of IPv4, or of IPv6, on a link: (node, interface, the first)."""
        found: dict[tuple[str, str], str] = {}
        for node, interface, address in self.everybody(link):
            if address.version == version:
                found.setdefault((node, interface), str(address.ip))
        return [(*place, address) for place, address in found.items()]

    @cached_property
    def ipv6(self) -> bool:
        """Whether the file says an IPv6 address of anybody: then every interface of machines and
        routers has a link-local one, and routers forward and route IPv6."""
        every = [a for link in self.network.links for _, _, a in self.everybody(link)]
        every += [stub for machine in self.machines.values() for stub in machine.stubs]
        return any(address.version == 6 for address in every)

    @cached_property
    def speaking_ipv6(self) -> list[tuple[str, str]]:
        """The interfaces, (node, interface), that have a link-local address."""
        found = [(name, "eth0") for name in self.machines]
        found += [(r.name, i.name) for r in self.routers.values() for i in r.interfaces]
        return found if self.ipv6 else []

    def assigned(self, link: str, address: Address) -> str:
        """A member's address on a link as `ip address add` takes it; on an unnumbered link (a /32
        at each end) with the other end, to which there is a route by that."""
        if address.version == 6 or address.network.prefixlen < 32:
            return str(address)
        (peer,) = (far.ip for _, _, far in self.members(link) if far != address)
        return f"{address.ip} peer {peer}/32"

    @cached_property
    def assignments(self) -> list[tuple[str, str, str]]:
        """Every address of machines and routers: (node, interface, address as `assigned` has it).
        On lo are stub addresses, and what a node is called by on unnumbered links."""
        own = {*self.machines, *self.routers}
        found = [(m.name, "lo", str(stub)) for m in self.machines.values() for stub in m.stubs]
        for link in self.network.links:
            for node, interface, address in self.everybody(link):
                if node in own:
                    found.append((node, interface, self.assigned(link, address)))
                    if address.version == 4 and address.network.prefixlen == 32:
                        found.append((node, "lo", str(address)))
        return list(dict.fromkeys(found))

    def nodes(self, placed: dict[str, str] | None = None) -> list[Node]:
        """Every node; `placed` says where the routers run that do (default: all at home)."""
        found = [Node("lab", "lab", PREFIX + "lab")]
        for machine in self.machines.values():
            every = [machine.address, *machine.more, *machine.stubs]
            namespace = PREFIX + machine.name
            found.append(Node(machine.name, "machine", namespace, _by_family(every)))
        for datapath in self.network.datapaths.values():
            name = self.switch_node(datapath.name)
            kind = "host" if datapath.kind is DatapathKind.HOST else "switch"
            kind = "elsewhere" if name in self.elsewhere else kind
            found.append(Node(name, kind, PREFIX + name))
        for router in self.routers.values():
            own, more = self.addresses[router.name], self.more.get(router.name, {})
            every = [a for i in router.interfaces for a in (own[i.name], *more.get(i.name, ()))]
            host = router.home if placed is None else placed.get(router.name)
            namespace = PREFIX + router.name
            found.append(Node(router.name, "router", namespace, _by_family(every), host))
        for name in self.network.controllers:
            if name not in self.network.datapaths:
                found.append(Node(name, "controller", PREFIX + name))
        return found


def _by_family(addresses: Iterable[Address]) -> tuple[str, ...]:
    return tuple(str(each.ip) for each in sorted(addresses, key=lambda each: each.version))


def link_local(mac: int) -> str:
    """The address that a kernel gives an interface by its MAC address (RFC 4291, appendix A)."""
    high, low = mac >> 24 ^ 0x020000, mac & 0xFFFFFF
    return str(IPv6Address(0xFE80 << 112 | high << 40 | 0xFFFE << 24 | low))


def find_file(file_or_name: str | Path) -> Path:
    """A network file by its path, or by the name of one in `conf/`.

    Raises NetworkError where there is none.
    """
    path = Path(file_or_name)
    if path.exists() and not path.is_dir():
        return path
    named = ROOT / "conf" / f"{file_or_name}.toml"
    if re.fullmatch(r"[A-Za-z0-9_.-]+", str(file_or_name)) and named.exists():
        return named
    known = ", ".join(sorted(p.stem for p in (ROOT / "conf").glob("*.toml")))
    raise NetworkError(f"{file_or_name}: no such network file; networks known by name: {known}")


def _elsewhere(network: Network) -> list[str]:
    return [h.name for h in network.hosts.values() if h.hypervisor.startswith(("xl:", "libvirt:"))]


def load_lab(path: str | Path) -> Lab:
    """The lab that a network file describes.

    Raises NetworkError with one line for each mistake.
    """
    return parse_lab(read_text(path), str(path))


def copy_name(name: str) -> str:
    """What a copy of a file that a network file names is called."""
    return quote(name, safe="")


def read_own(path: Path) -> str:
    """The text of a file that a network file names.  Raises NetworkError where there is none."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise NetworkError(error.strerror or str(error)) from None
    except (UnicodeDecodeError, ValueError):
        raise NetworkError("no UTF-8 text is in it") from None


def _own_reader(file: Path) -> ReadOwn:
    """Reads what lies beside a network file; beside a copy of the lab's there are copies."""
    with suppress(OSError), file.open("rb") as opened:
        if opened.read(len(COPY_HEADER)) == COPY_HEADER.encode():
            return lambda name: read_own(file.parent / COPIES / copy_name(name))
    return lambda name: read_own(file.parent / name)


def parse_lab(
    text: str, file: str, before: Lab | None = None, *, read: ReadOwn | None = None
) -> Lab:
    """The same from a text; `file` is its name in messages.  Of a lab whose network lives in a
    store, links stay where they lay `before`.  `read`: how a file that it names is read, by default
    from the folder of `file`."""
    old = before.network if before is not None else None
    network, reader = _read(text, file, old, needed=True, read=read)
    assert reader is not None
    return reader.lab(Path(file), network)


def check(text: str, file: str) -> tuple[Network, Lab | None]:
    """A network, and its lab where the file has a `[lab]`.

    Raises NetworkError with one line for each mistake, of both.
    """
    network, reader = _read(text, file, None, needed=False)
    return network, reader.lab(Path(file), network) if reader else None


def _read(
    text: str,
    file: str,
    before: Network | None,
    *,
    needed: bool,
    read: ReadOwn | None = None,
) -> tuple[Network, _Reader | None]:
    reader: _Reader | None = None

    def look(document: Document, network: Network, table: Any) -> None:
        nonlocal reader
        if needed or table:
            reader = _Reader(document, network, table, read or _own_reader(Path(file)))
            reader.look()

    network, _ = parse(text, file, before, in_store=before is not None, read_lab=look)
    return network, reader


# --- reading -------------------------------------------------------------------------------------


def _interface(value: Any) -> Address:
    if "/" not in text_of(value):
        raise UnfitError
    return ip_interface(value)


def _addresses(value: Any) -> tuple[Address, ...]:
    """Of an interface, IPv4 before IPv6."""
    found = sorted(map(_interface, listed(value)), key=lambda each: each.version)
    if not found or found[0].version != 4:
        raise UnfitError
    return tuple(found)


def _stubs(value: Any) -> tuple[Address, ...]:
    found = tuple(map(_interface, listed(value)))
    if len({each.version for each in found}) < max(1, len(found)):
        raise UnfitError
    return found


def _file_name(value: Any) -> str:
    if not text_of(value) or not value.isprintable():
        raise UnfitError
    return str(value)


_ADDRESS = Value("an IPv4 address", lambda value: IPv4Address(text_of(value)))
_INTERFACE = Value(
    'an IPv4 address and prefix length such as "10.0.1.2/24", or several with it: '
    '["10.0.1.2/24", "2001:db8:1::2/64"]',
    _addresses,
)
_STUBS = Value(
    'an address and prefix length such as "10.1.0.1/32", or one of each family: '
    '["10.1.0.1/32", "2001:db8::1/128"]',
    _stubs,
)
_FILE = Value("the name of a file, as seen from this one's folder", _file_name)
_SUBNET = Value("an IPv4 subnet", lambda value: IPv4Network(text_of(value)))
_MAC = Value("a MAC address", lambda value: mac_number(text_of(value)))


class _Reader:
    """Reads one `[lab]` table and notes its mistakes.

    Of the network something may be wrong, too: what refers to a part of it with mistakes is not
    judged.
    """

    def __init__(self, document: Document, network: Network, table: Any, read_own: ReadOwn) -> None:
        self._document = document
        self._network = network
        self._table: dict[str, Any] = table if isinstance(table, dict) else {}
        self._read_own = read_own
        self._own: dict[str, OwnConfiguration] = {}

    def look(self) -> None:
        """Note all mistakes."""
        if not self._table:
            self._wrong((), "no table [lab]", "one: this network cannot be brought up as a lab")
        self._only((), self._table, "hypervisor", "management", "machines", "routers")
        self._at = self._hypervisor()
        self._found_machines = self._machines()
        self._addresses = self._router_addresses()
        self._check_names()
        self._subnet, self._operator, self._nodes = self._management(self._at[0])
        self._check_subnets(self._found_machines, self._addresses)
        self._check_ports()
        if not self._document.wrong_in("controllers", "datapaths"):
            self._check_controllers()

    def lab(self, path: Path, network: Network) -> Lab:
        """The lab, where there was no mistake."""
        return Lab(
            path,
            network,
            self._at,
            self._subnet,
            self._operator,
            self._nodes,
            self._found_machines,
            {name: {i: own[0] for i, own in of.items()} for name, of in self._addresses.items()},
            {name: {i: own[1:] for i, own in of.items()} for name, of in self._addresses.items()},
            self._own,
        )

    # mistakes

    def _wrong(self, key: KeyPath, found: str, expected: str) -> None:
        self._document.mistake(("lab", *key), found, expected)

    def _unfit(self, key: KeyPath, found: Any, expected: str) -> None:
        """A value that does not fit; of `_wrong` what is found is said in words."""
        value = str(found) if isinstance(found, _ADDRESSES) else found
        self._wrong(key, show_value(value), expected)

    def _value(self, key: KeyPath, value: Any, wanted: Value) -> Any:
        return self._document.read(("lab", *key), value, wanted)

    def _only(self, key: KeyPath, table: dict[str, Any], *known: str) -> None:
        for name in table:
            if name not in known:
                self._wrong((*key, name), "an unknown key", "one of " + ", ".join(known))

    def _tables(self, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
        tables = self._table.get(key, {})
        if not isinstance(tables, dict):
            self._unfit((key,), tables, "a table of tables")
            return
        for name, value in tables.items():
            if isinstance(value, dict):
                yield name, value
            else:
                self._unfit((key, name), value, "a table")

    # values

    def _hypervisor(self) -> tuple[str, int]:
        if "hypervisor" not in self._table and (
            set(self._network.hosts) == set(_elsewhere(self._network))
            or self._document.wrong_in("datapaths")
        ):
            return "", 0
        value = self._table.get("hypervisor")
        if isinstance(value, str) and (found := re.fullmatch(r"([\d.]+):(\d{1,5})", value, re.A)):
            host, port = found.groups()
            with suppress(AddressValueError):
                if 0 < int(port) <= 65535:
                    return str(IPv4Address(host)), int(port)
        shown = "nothing" if value is None else show_value(value)
        self._wrong(("hypervisor",), shown, '"ADDRESS:PORT"')
        return "", 0

    def _machines(self) -> dict[str, Machine]:
        places = {
            access.end: (link, access)
            for link in self._network.links.values()
            for access in link.access
        }
        found: dict[str, Machine] = {}
        taken: dict[End, str] = {}
        for name, values in self._tables("machines"):
            key = ("machines", name)
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                self._unfit(key, name, "a name of letters, digits, '.', '_' and '-'")
            self._only(key, values, *_MACHINE_KEYS)
            self._own_configuration(key, name, values)
            stubs = ()
            if "stub" in values:
                stubs = self._value((*key, "stub"), values["stub"], _STUBS) or ()
            mac = self._value((*key, "mac"), values.get("mac"), _MAC)
            end = End(*str(values.get("access")).partition(":")[::2])
            if not self._on_a_link(key, values, end, places):
                if "address" in values:
                    self._value((*key, "address"), values["address"], _INTERFACE)
                continue
            if end in taken:
                self._wrong(
                    (*key, "access"), f'"{end}", where {taken[end]} is already', "a port of its own"
                )
            taken[end] = name
            link, access = places[end]
            if values.get("link", link.name) != link.name:
                self._unfit((*key, "link"), values["link"], f"{link.name}, whose port {end} is")
            address = self._address((*key, "address"), values, "address", link.name)
            if None is not mac not in access.macs and not self._document.wrong_in("links"):
                self._unfit(
                    (*key, "mac"),
                    values["mac"],
                    f"one of the macs that link {link.name} has at {end}",
                )
            gateways = self._gateways(key, values, link.name, address)
            if address and mac is not None:
                first, *more = address
                found[name] = Machine(
                    name, end, link.name, mac, first, tuple(more), stubs, gateways
                )
        if not self._machine_names:
            self._wrong(("machines",), "no machine", "at least one")
        return found

    def _on_a_link(
        self, key: KeyPath, values: dict[str, Any], end: End, places: Mapping[End, Any]
    ) -> bool:
        """Whether a machine is at an access port of a link, as far as can be said."""
        links, expected = self._network.links, ""
        right = "link" not in values or str(values["link"]) in links
        if not right:
            known = f"the name of a link, one of {', '.join(links)}"
            self._unfit((*key, "link"), values["link"], known)
        if end.datapath not in self._network.datapaths:
            expected = "the name of a datapath, and a port after a colon"
        elif end not in places and right and not self._document.wrong_in("links"):
            expected = 'an access port of a link, as "datapath:port"'
        if expected:
            self._unfit((*key, "access"), values.get("access"), expected)
        return right and end in places

    @property
    def _machine_names(self) -> list[str]:
        """All, those with mistakes, too."""
        table = self._table.get("machines")
        return list(table) if isinstance(table, dict) else []

    def _router_addresses(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        said = set()
        for name, values in self._tables("routers"):
            said.add(name)
            router = self._network.routers.get(name)
            if router is None:
                self._wrong(
                    ("routers", name),
                    "a router that is not in [routers]",
                    "one of " + ", ".join(self._network.routers),
                )
                continue
            self._only(("routers", name), values, "addresses", "config", "snippet")
            self._own_configuration(("routers", name), name, values)
            table = values.get("addresses")
            if not isinstance(table, dict):
                expected = '{ interface = "address/length", ... }'
                self._unfit(("routers", name, "addresses"), table, expected)
                continue
            found[name] = self._interface_addresses(router, table)
        for name in self._network.routers:
            if name not in said:
                self._wrong(("routers", name), "nothing", "its addresses")
        return found

    def _interface_addresses(self, router: Router, table: dict[str, Any]) -> dict[str, Any]:
        found = {}
        names = {i.name: i.link for i in router.interfaces}
        if not self._document.wrong_in("routers"):
            self._only(("routers", router.name, "addresses"), table, *names)
        for name, link in names.items():
            key = ("routers", router.name, "addresses", name)
            address = self._address(key, table, name, link)
            if address:
                found[name] = address
        return found

    def _gateways(
        self,
        key: KeyPath,
        values: dict[str, Any],
        link: str,
        own: tuple[Address, ...] | None,
    ) -> tuple[IPv4Address | IPv6Address, ...]:
        """A machine's gateways, by the router's name or by their addresses: of each family in which
        both are in one subnet."""
        if "gateway" not in values or own is None:
            return ()
        given, near = values["gateway"], self._near(link, own)
        found: dict[int, IPv4Address | IPv6Address] = {}
        for one in listed(given):
            theirs = [ip for router, ip in near if one in (router, str(ip))]
            with suppress(ValueError):  # an IPv6 address has several ways to be written
                theirs = theirs or [ip for _, ip in near if ip == ip_address(one)]
            of_one: dict[int, IPv4Address | IPv6Address]
            of_one = {ip.version: ip for ip in reversed(theirs)}
            if not of_one or of_one.keys() & found.keys():
                break
            found |= of_one
        else:
            if found:
                for silent in ("config", "snippet"):
                    if silent in values:
                        expected = "no such key of a machine with a gateway: it runs no daemon"
                        self._unfit((*key, silent), values[silent], expected)
                return tuple(found[version] for version in sorted(found))
        if not self._document.wrong_in("links", "routers"):
            subnets = " or ".join(dict.fromkeys(str(address.network) for address in own))
            expected = f"a router on link {link}, or its address in {subnets}"
            self._unfit((*key, "gateway"), given, expected)
        return ()

    def _near(
        self, link: str, own: tuple[Address, ...]
    ) -> list[tuple[str, IPv4Address | IPv6Address]]:
        """The routers on a link, and their addresses in the subnets of these."""
        table = self._table.get("routers")
        found = []
        for router, interface in self._network.members(link):
            about = table.get(router.name) if isinstance(table, dict) else None
            theirs = about.get("addresses") if isinstance(about, dict) else None
            of_one = theirs.get(interface.name) if isinstance(theirs, dict) else None
            with suppress(ValueError):
                found += [
                    (router.name, other.ip)
                    for other in _addresses(of_one)
                    if any(other.ip in address.network for address in own)
                ]
        return found

    def _own_configuration(self, key: KeyPath, node: str, values: dict[str, Any]) -> None:
        """What a person has written for a routing daemon: it must be there, and readable."""
        if {"config", "snippet"} <= values.keys():
            expected = "one of config, in place of the lab's own, and snippet, beside it"
            self._wrong((*key, "snippet"), "both", expected)
        for name in ("config", "snippet"):
            file = self._value((*key, name), values[name], _FILE) if name in values else None
            if file is None:
                continue
            try:
                text = self._read_own(file)
                self._own[node] = OwnConfiguration(file, text, name == "config")
            except NetworkError as error:
                self._unfit((*key, name), file, f"a file beside this one that can be read: {error}")

    def _address(self, key: KeyPath, table: dict[str, Any], name: str, link: str) -> Any:
        """An address on a link; what has none, where it could have, found no room there."""
        if name in table:
            return self._value(key, table[name], _INTERFACE)
        if not self._document.wrong_in("links", "routers"):
            self._wrong(key, "nothing", f"an address: the subnet of link {link} has none left")
        return None

    # what must fit together

    def _check_names(self) -> None:
        datapaths, routers = self._network.datapaths, self._network.routers
        machines = self._machine_names
        everyone = {*datapaths, *routers, *machines, *self._network.controllers}
        for name in machines:
            if name in routers:
                self._wrong(("machines", name), "the name of a router", "a name of its own")
            if name in self._network.controllers and name not in datapaths:
                self._wrong(("machines", name), "the name of a controller", "a name of its own")
            if name + "-sw" in everyone:
                self._wrong(
                    ("machines", name),
                    f'"{name}" beside "{name}-sw"',
                    "the latter free for its switch",
                )
        for name in routers:
            if name in datapaths or name in self._network.controllers:
                self._wrong(
                    ("routers", name),
                    "the name of a datapath or controller too",
                    "a name of its own",
                )
        for name in everyone:
            if len(name) > MAX_NODE_NAME:
                self._unfit((), name, f"names of nodes of at most {MAX_NODE_NAME} characters")
        for name in {"lab", "op", "fabric"} & everyone:
            self._wrong(
                ("machines", name), f'a node called "{name}"', "another name: the lab uses this one"
            )

    def _management(
        self, hypervisor: str
    ) -> tuple[IPv4Network, IPv4Address, dict[str, IPv4Address]]:
        none: dict[str, IPv4Address] = {}
        nowhere = IPv4Network("0.0.0.0/32"), IPv4Address(0), none
        table = self._table.get("management")
        if not isinstance(table, dict) or "subnet" not in table:
            self._wrong(("management",), "no subnet", "{ subnet, operator, lab, NODE... }")
            return nowhere
        subnet = self._value(("management", "subnet"), table["subnet"], _SUBNET)
        if subnet is None:
            return nowhere
        wanted = ["operator", "lab", *self._node_names]
        self._only(("management",), table, "subnet", *wanted)
        found: dict[str, IPv4Address] = {}
        for name in wanted:
            if name not in table:
                continue
            key = ("management", name)
            address = self._value(key, table[name], _ADDRESS)
            if address is None:
                continue
            if address not in subnet:
                self._unfit(key, address, f"an address in {subnet}")
            if address in found.values():
                self._unfit(key, address, "an address of its own")
            found[name] = address
        last = subnet.num_addresses - (1 if subnet.prefixlen >= 31 else 2)
        for name in wanted:
            if name not in found:  # by its name, so that it stays when others come and go
                begin = crc32(name.encode())
                free = (subnet[1 + (begin + n) % last] for n in range(last))
                found[name] = next((a for a in free if a not in found.values()), IPv4Address(0))
        if IPv4Address(0) in found.values():
            self._unfit(("management", "subnet"), subnet, "room for every node")
        if hypervisor and str(found["lab"]) != hypervisor:
            self._unfit(
                ("hypervisor",),
                self._table.get("hypervisor"),
                f"the lab's own address, {found['lab']}",
            )
        return subnet, found.pop("operator"), found

    @property
    def _node_names(self) -> list[str]:
        names = list(self._machine_names)
        names += map(self._switch_node, self._network.datapaths)
        names += [c for c in self._network.controllers if c not in self._network.datapaths]
        return names

    def _switch_node(self, datapath: str) -> str:
        return datapath + "-sw" if datapath in self._machine_names else datapath

    def _check_subnets(
        self, machines: dict[str, Machine], addresses: dict[str, dict[str, Any]]
    ) -> None:
        keys: dict[OnLink, KeyPath] = {}
        for machine in machines.values():
            key: KeyPath = ("machines", machine.name, "address")
            for address in (machine.address, *machine.more):
                keys[OnLink(machine.name, "eth0", machine.link, address)] = key
        for router in self._network.routers.values():
            for interface in router.interfaces:
                for address in addresses.get(router.name, {}).get(interface.name, ()):
                    who = OnLink(router.name, interface.name, interface.link, address)
                    keys[who] = ("routers", router.name, "addresses", interface.name)
        for wrong in unfit([*keys], {"the management network": self._subnet}):
            self._unfit(keys[wrong.who], wrong.found, wrong.expected)

    def _check_ports(self) -> None:
        for name, cable in self._network.cables.items():
            for i, end in enumerate((cable.a, cable.b)):
                if end.port in RESERVED_PORTS:
                    expected = "a port of a name that the lab does not use"
                    self._document.mistake(("cables", name, i), f'"{end}"', expected)

    def _check_controllers(self) -> None:
        for name, controller in self._network.controllers.items():
            node = self._switch_node(name) if name in self._network.datapaths else name
            if node not in self._nodes:
                continue
            here = str(self._nodes[node])
            manage = controller.manage.removeprefix("tcp://").rpartition(":")[0]
            if manage not in (here, "127.0.0.1", "localhost"):
                self._wrong(
                    ("management", node),
                    f"{here}, but [controllers.{name}] manage has {manage}",
                    "the same address",
                )
            remote = [
                d.name
                for d in self._network.datapaths_of(name)
                if self._switch_node(d.name) != node
            ]
            address = controller.openflow[0]
            if address.startswith("127.") and not remote:
                continue
            if address not in (here, "0.0.0.0"):
                self._wrong(
                    ("management", node),
                    f"{here}, but [controllers.{name}] openflow has {address}",
                    "an address where its switches can reach it",
                )


def controller_target(lab: Lab, datapath: Datapath) -> str:
    """Where a switch connects to, as Open vSwitch writes it."""
    host, port = lab.network.controllers[datapath.controller].openflow
    if host == "0.0.0.0":
        host = str(lab.management[lab.controller_node(datapath.controller)])
    return f"tcp:{host}:{port}"
