"""Reads the network's description: one commented TOML file becomes one `Network` value.

Called by the controller at its start, by the `xenflow` command and by the lab.  What the file
leaves out is filled in first (`filling.py`).  It is checked as a whole, so that nothing after it
has to ask whether a name exists; all mistakes are reported together, each as `FILE:LINE: KEY: found
..., expected ...`, sorted by line.  The table `[lab]` belongs to the lab and is handed on, filled
in but not judged.  Nothing here opens a socket, and nothing is ever written.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
from pathlib import Path as FilePath
from typing import Any

import netaddr

from xenflow.model import hypervisor_spec
from xenflow.model.network import (
    Access,
    Cable,
    Controller,
    Datapath,
    DatapathKind,
    End,
    Interface,
    Link,
    Network,
    NetworkError,
    Pipeline,
    Router,
)
from xenflow.model.succession import in_terms_of
from xenflow.model.values import (
    BOOLEAN,
    UnfitError,
    Value,
    choice,
    mac_number,
    mac_text,
    seconds,
    text_of,
    whole,
)
from xenflow.plan.labels import LAST_LABEL
from xenflow.plan.laying import Placed, lay, lay_on, unlaid
from xenflow.store.document import Document
from xenflow.store.filling import MAX_ID, MAX_INTERFACE_NAME, UNNUMBERED, Gone, fill
from xenflow.store.toml_lines import Path, show_value

MIN_MEMORY, MAX_MEMORY = 64, 1 << 20
"""MiB of a router's VM."""
MAX_ROUTER_NAME = 16
"""The header of routerd's messages has 16 octets for it (docs/messages.md)."""


def load(path: str | FilePath, before: Network | None = None) -> Network:
    """The network that a file describes, of what the one `before` has wherever that is the same.

    Raises NetworkError with one line for each mistake.
    """
    network = parse(read_text(path), str(path), before)[0]
    return network if before is None else in_terms_of(before, network)


def load_with_lab(path: str | FilePath) -> tuple[Network, dict[str, Any]]:
    """The network and, unchecked, the file's `[lab]` table, filled in (empty where there is none).

    Raises NetworkError with one line for each mistake.
    """
    return parse(read_text(path), str(path))


def read_text(path: str | FilePath) -> str:
    """A network file's text, without the byte-order mark that some editors begin it with.

    Raises NetworkError where there is no file, or no text in it.
    """
    try:
        return FilePath(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or str(error)
        raise NetworkError(f"{path}: expected a network file: {reason}") from None
    except UnicodeDecodeError as error:
        raise NetworkError(
            f"{path}:1: file: found byte {error.object[error.start]:#04x} at offset "
            f"{error.start}, expected UTF-8 text"
        ) from None


LabReader = Callable[[Document, Network, Any], None]
"""Notes the mistakes of a file's `[lab]` table, given the network; where that has mistakes, too, it
has an entry for everything that has a name, but what these refer to need not exist."""


def parse(
    text: str,
    file: str,
    before: Network | None = None,
    *,
    in_store: bool = False,
    placed: Placed | None = None,
    gone: Gone | None = None,
    read_lab: LabReader | None = None,
    unseen: bool = False,
) -> tuple[Network, dict[str, Any]]:
    """As `load_with_lab`, from a text; `file` is its name in messages.

    before    links lie on trees of this network where they are the same
    in_store  they stay where they lie, and keep ids and VLAN ids that the text does not name
    placed    where routers are now
    gone      what is given to nobody
    read_lab  reads the file's lab as well, so that its mistakes are told with the others
    unseen    nobody has seen the text: mistakes name no lines of it
    """
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a list in 1,000 lists
        raise NetworkError(_syntax_error(text, file, error)) from None
    document = Document(file, text, unseen=unseen)
    kept = before if in_store else None
    gone = gone or Gone()
    tables = fill(tables, kept, gone)
    found = _read_tables(document, tables)
    _check_references(document, found)
    _check_uniqueness(document, found)
    _check_datapaths(document, found)
    if not in_store:  # where its store is such a text does not decide
        _check_store(document, tables, found)
    lab = tables.get("lab", {})
    if document.wrong:
        network = _sketch(found)
    else:
        built = _build(found)
        network = lay(built, before) if kept is None else lay_on(built, kept, placed, gone.labels)
        _check_trees(document, network, placed)
    if read_lab is not None:
        read_lab(document, network, lab)
    document.raise_mistakes()
    return network, lab


def _syntax_error(text: str, file: str, error: Exception) -> str:
    lines = text.splitlines() or [""]
    where = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
    line, column = len(lines), len(lines[-1]) + 1
    if where and where.group(1):
        line, column = int(where.group(1)), int(where.group(2))
    reason = str(error)[: where.start()] if where else str(error)
    near = lines[line - 1].strip() if line <= len(lines) else ""
    found = show_value(near) if near else "the end of the line"
    return (
        f"{file}:{line}: column {column}: found {found}, expected TOML ({reason[:1].lower()}"
        f"{reason[1:]})"
    )


def _meant(name: str, names: Iterable[str]) -> str:
    """ ", did you mean ...?" where a name resembles one that exists."""
    close = get_close_matches(name, list(names), n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""


# --- values: a reader takes what was found and returns what it means, or raises ValueError -------


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_INTERFACE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")


@dataclass(frozen=True, slots=True)
class _Field:
    """A key of a table."""

    value: Value | _ListOf
    needed: bool = False


@dataclass(frozen=True, slots=True)
class _ListOf:
    """An array of scalars or of tables."""

    element: Value | dict[str, _Field]
    expected: str
    length: int | None = None


def _filled_text(value: Any) -> str:
    if not text_of(value) or not value.isprintable():
        raise UnfitError
    return str(value)


def _name(value: Any) -> str:
    if not _NAME.fullmatch(text_of(value)):
        raise UnfitError
    return str(value)


def _interface_name(value: Any) -> str:
    if not _INTERFACE_NAME.fullmatch(text_of(value)) or len(value) > MAX_INTERFACE_NAME:
        raise UnfitError
    return str(value)


def _end(value: Any) -> End:
    datapath, colon, port = text_of(value).partition(":")
    if not colon:
        raise UnfitError
    return End(_name(datapath), _interface_name(port))


def label_range(value: Any) -> tuple[int, int]:
    """The first and the last of some VLAN ids, of `100` or `"200-299"`.  Raises UnfitError."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", text_of(value))
    if not match:
        raise UnfitError
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= LAST_LABEL:
        raise UnfitError
    return first, last


def _dpid(value: Any) -> int:
    if not re.fullmatch(r"[0-9a-fA-F]{16}", text_of(value)) or not int(value, 16):
        raise UnfitError
    return int(value, 16)


def _mac(value: Any) -> int:
    mac = mac_number(text_of(value))
    if not mac or mac >> 40 & 1:
        raise UnfitError
    return mac


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= 65535:
        raise UnfitError
    return host, int(port)


def _openflow(value: Any) -> tuple[str, int]:
    host, port = _host_and_port(text_of(value))
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = netaddr.IPAddress(bare, flags=netaddr.INET_PTON)
    except (netaddr.AddrFormatError, ValueError):
        raise UnfitError from None
    if (address.version == 6) != (bare != host):
        raise UnfitError
    return bare, port


def _tcp_url(value: Any) -> str:
    if not text_of(value).startswith("tcp://"):
        raise UnfitError
    host, _ = _host_and_port(value.removeprefix("tcp://"))
    if host.startswith("[") and host.endswith("]"):
        address, percent, zone = host[1:-1].partition("%")
        if ip_address(address).version != 6 or (percent and not zone):
            raise UnfitError
    elif not _NAME.fullmatch(host):
        raise UnfitError
    return str(value)


def _subnet(value: Any) -> list[str]:
    """For the lab alone, which finds it used already (`filling.py`)."""
    several = value if isinstance(value, list) else [value]
    subnets = [ip_network(each) for each in several if text_of(each) != UNNUMBERED]
    v4 = [subnet for subnet in subnets if subnet.version == 4]
    single = any(subnet.prefixlen == subnet.max_prefixlen for subnet in subnets)
    if not several or single or len(subnets) < len(several) - (not v4):
        raise UnfitError
    return several


def _server(value: Any) -> str:
    kind, _, rest = text_of(value).partition(":")
    if kind in ("tcp", "ssl"):
        _openflow(rest)
    elif kind != "unix" or not rest:
        raise UnfitError
    return str(value)


def _folder(value: Any) -> str:
    if not text_of(value).startswith("/"):
        raise UnfitError
    return str(value)


def _hypervisor(value: Any) -> str:
    text = text_of(value)
    try:
        spec = hypervisor_spec.parse(text)
    except hypervisor_spec.SpecError:
        raise UnfitError from None
    if isinstance(spec, hypervisor_spec.LabSpec):
        _tcp_url(spec.url)
    return text


_NAMED = Value("a name of letters, digits, '.', '_' and '-'", _name)
_MAC = Value('a unicast MAC address such as "02:00:00:01:01:01"', _mac)
_END = Value(
    f'"datapath:port", the port an interface name of at most {MAX_INTERFACE_NAME} characters', _end
)
_INTERFACE = Value(f"an interface name of at most {MAX_INTERFACE_NAME} characters", _interface_name)

_SERVER = Value(
    '"ssl:ADDRESS:PORT", "tcp:ADDRESS:PORT" or "unix:PATH" of a server of the store', _server
)

_NETWORK = {
    "name": _Field(Value("the network's name", _filled_text), needed=True),
    "store": _Field(_ListOf(_SERVER, "an array of the store's servers")),
    "tls": _Field(Value('a folder, "/..."', _folder)),
}

_CONTROLLER = {
    "openflow": _Field(Value('"ADDRESS:PORT" for switches to connect to', _openflow), True),
    "manage": _Field(Value('"tcp://ADDRESS:PORT" for the management entity', _tcp_url), True),
}

_DATAPATH = {
    "kind": _Field(choice("host", "plain"), needed=True),
    "dpid": _Field(Value("a datapath id of 16 hex digits, not all zero", _dpid), needed=True),
    "controller": _Field(_NAMED, needed=True),
    "pipeline": _Field(choice("proactive", "reactive")),
    "nicira": _Field(BOOLEAN),
    "hypervisor": _Field(Value(hypervisor_spec.FORMS, _hypervisor)),
    "proof": _Field(choice("revalidator", "bound")),
    "proof_bound_s": _Field(seconds(60)),
    "ovs_rundir": _Field(Value("a directory", text_of)),
    "other": _Field(choice("normal", "drop")),
    "maintenance": _Field(BOOLEAN),
}

_ENDS = _ListOf(_END, 'two ends, ["datapath:port", "datapath:port"]', length=2)
_LABELS = Value('VLAN ids, one or a range: 100, "100-199"', label_range)
_MBPS = whole(1, 100_000_000)
_MTU = whole(68, 65535)
_CABLE = {
    "ends": _Field(_ENDS, needed=True),
    "mbps": _Field(_MBPS),
    "cost": _Field(whole(1, 1_000_000)),
    "mtu": _Field(_MTU),
    "labels": _Field(_ListOf(_LABELS, 'an array of VLAN ids and ranges: [100, "200-299"]')),
}
"""Of one of which more is said than its ends."""

_ACCESS = {
    "at": _Field(_END, needed=True),
    "macs": _Field(_ListOf(_MAC, "an array of MAC addresses")),
}

_SUBNETS = (
    f'a subnet such as "10.0.1.0/24", or "{UNNUMBERED}", or several: ["10.0.1.0/24", '
    '"2001:db8:1::/64"]'
)

_LINK = {
    "id": _Field(whole(1, MAX_ID), needed=True),
    "vlan": _Field(whole(1, LAST_LABEL)),
    "detour_vlan": _Field(whole(1, LAST_LABEL)),
    "access": _Field(_ListOf(_ACCESS, 'an array of {at = "datapath:port", macs = [...]}')),
    "root": _Field(_NAMED),
    "cables": _Field(_ListOf(_NAMED, "an array of cable names")),
    "subnet": _Field(Value(_SUBNETS, _subnet)),
    "mbps": _Field(_MBPS),
    "mtu": _Field(_MTU),
    "disjoint_from": _Field(_ListOf(_NAMED, "an array of link names")),
    "span": _Field(_ListOf(_NAMED, "an array of datapath names")),
}

_INTERFACE_FIELDS = {
    "name": _Field(_INTERFACE, needed=True),
    "link": _Field(_NAMED, needed=True),
    "mac": _Field(_MAC, needed=True),
    "vif": _Field(_INTERFACE, needed=True),
}

_ROUTER = {
    "id": _Field(whole(1, MAX_ID), needed=True),
    "home": _Field(_NAMED, needed=True),
    "control_vif": _Field(_INTERFACE, needed=True),
    "interfaces": _Field(
        _ListOf(_INTERFACE_FIELDS, "an array of link names or {link, name, mac, vif}"),
        needed=True,
    ),
    "image": _Field(Value("what its VM starts from", _filled_text)),
    "memory": _Field(whole(MIN_MEMORY, MAX_MEMORY)),
    "running": _Field(BOOLEAN),
}

_SECTIONS: dict[str, tuple[dict[str, _Field] | _ListOf, bool]] = {
    "controllers": (_CONTROLLER, True),
    "datapaths": (_DATAPATH, True),
    "cables": (_ENDS, False),
    "links": (_LINK, False),
    "routers": (_ROUTER, False),
}
"""Each table of named entries: what an entry looks like, whether the table may not be missing."""

Found = dict[str, dict[str, Any]]
"""What could be read: section -> name -> {key: value} (a cable: `ends`, its two, or None, and
`where` they stand).  A value that is wrong is absent, so that one mistake is reported once."""


# --- reading -------------------------------------------------------------------------------------


def _read_tables(document: Document, tables: dict[str, Any]) -> Found:
    known = ["network", *_SECTIONS, "lab"]
    _refuse_unknown(document, (), tables, known)
    found: Found = {section: {} for section in _SECTIONS}
    found["network"] = _read_table(document, ("network",), tables.get("network"), _NETWORK)
    if not isinstance(tables.get("lab", {}), dict):
        document.mistake(("lab",), show_value(tables["lab"]), "a table")
    for section, (entry, needed) in _SECTIONS.items():
        table = tables.get(section, {})
        if not isinstance(table, dict):
            document.mistake((section,), show_value(table), "a table")
            continue
        if needed and not table:
            document.mistake((section,), "nothing", f"at least one [{section}.NAME]")
        for name, value in table.items():
            path = (section, name)
            _check_entry_name(document, path)
            if isinstance(entry, _ListOf) and isinstance(value, dict):
                cable = _read_table(document, path, value, _CABLE)
                found[section][name] = {"where": (*path, "ends"), "ends": None, **cable}
            elif isinstance(entry, _ListOf):
                ends = _read_list(document, path, value, entry)
                found[section][name] = {"where": path, "ends": ends}
            else:
                found[section][name] = _read_table(document, path, value, entry)
    return found


def _check_entry_name(document: Document, path: tuple[str, str]) -> None:
    section, name = path
    if not _NAME.fullmatch(name):
        document.mistake(path, f'"{name}"', _NAMED.expected)
    elif section == "routers" and len(name) > MAX_ROUTER_NAME:
        document.mistake(path, f'"{name}"', f"a name of at most {MAX_ROUTER_NAME} characters")


def _refuse_unknown(
    document: Document, path: Path, table: dict[str, Any], known: Iterable[str]
) -> None:
    for key in table:
        if key not in known:
            expected = f"one of {', '.join(known)}{_meant(key, known)}"
            document.mistake((*path, key), "an unknown key", expected)


def _read_table(
    document: Document, path: Path, table: Any, fields: dict[str, _Field]
) -> dict[str, Any]:
    if table is None:
        document.mistake(path, "nothing", "a table")
        return {}
    if not isinstance(table, dict):
        document.mistake(path, show_value(table), "a table")
        return {}
    _refuse_unknown(document, path, table, fields)
    found: dict[str, Any] = {}
    for key, wanted in fields.items():
        where = (*path, key)
        if key not in table:
            if wanted.needed:
                document.mistake(where, "nothing", wanted.value.expected)
            continue
        if isinstance(wanted.value, _ListOf):
            value = _read_list(document, where, table[key], wanted.value)
        else:
            value = document.read(where, table[key], wanted.value)
        if value is not None:
            found[key] = value
    return found


def _read_list(document: Document, path: Path, value: Any, wanted: _ListOf) -> list[Any] | None:
    """The elements (None for one that is wrong: its place in the list is kept)."""
    if not isinstance(value, list):
        document.mistake(path, show_value(value), wanted.expected)
        return None
    if wanted.length is not None and len(value) != wanted.length:
        document.mistake(path, f"{len(value)} elements", wanted.expected)
        return None
    if isinstance(wanted.element, dict):
        return [_read_table(document, (*path, i), v, wanted.element) for i, v in enumerate(value)]
    return [document.read((*path, i), v, wanted.element) for i, v in enumerate(value)]


# --- what must hold between values ---------------------------------------------------------------


def is_open(server: str) -> bool:
    """Whether a server of a store is reached without TLS and from other machines, so that whoever
    reaches it may change everything."""
    kind, _, rest = server.partition(":")
    try:
        return kind == "tcp" and not ip_address(_openflow(rest)[0]).is_loopback
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
            expected = f"the name of a {what}{_meant(name, found[section])}"
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


def _check_trees(document: Document, network: Network, placed: Placed | None) -> None:
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


# --- the values ----------------------------------------------------------------------------------


def _build(found: Found) -> Network:
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


def _sketch(found: Found) -> Network:
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
    return _build(known)


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
