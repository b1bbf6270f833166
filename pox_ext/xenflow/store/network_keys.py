"""What a network file may say: its tables, their keys, and how the value of each is read.

A reader takes what was found and returns what it means, or raises ValueError (`model.values`).
Called by `network_file`; checks between values are in `network_checks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
from typing import Any

import netaddr

from xenflow.model import hypervisor_spec
from xenflow.model.network import End
from xenflow.model.values import (
    BOOLEAN,
    UnfitError,
    Value,
    choice,
    mac_number,
    seconds,
    text_of,
    whole,
)
from xenflow.plan.labels import LAST_LABEL
from xenflow.store.filling import MAX_ID, MAX_INTERFACE_NAME, UNNUMBERED

MIN_MEMORY, MAX_MEMORY = 64, 1 << 20
"""MiB of a router's VM."""
MAX_ROUTER_NAME = 16
"""The header of routerd's messages has 16 octets for it (docs/messages.md)."""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_INTERFACE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")


@dataclass(frozen=True, slots=True)
class FileKey:
    """A key of a table."""

    value: Value | FileArray
    needed: bool = False


@dataclass(frozen=True, slots=True)
class FileArray:
    """An array of scalars or of tables."""

    element: Value | dict[str, FileKey]
    expected: str
    length: int | None = None


def _filled_text(value: Any) -> str:
    if not text_of(value) or not value.isprintable():
        raise UnfitError
    return str(value)


def _name(value: Any) -> str:
    if not NAME.fullmatch(text_of(value)):
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


def openflow(value: Any) -> tuple[str, int]:
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
    elif not NAME.fullmatch(host):
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
        openflow(rest)
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


NAMED = Value("a name of letters, digits, '.', '_' and '-'", _name)
_MAC = Value('a unicast MAC address such as "02:00:00:01:01:01"', _mac)
_END = Value(
    f'"datapath:port", the port an interface name of at most {MAX_INTERFACE_NAME} characters', _end
)
_INTERFACE = Value(f"an interface name of at most {MAX_INTERFACE_NAME} characters", _interface_name)

_SERVER = Value(
    '"ssl:ADDRESS:PORT", "tcp:ADDRESS:PORT" or "unix:PATH" of a server of the store', _server
)

NETWORK = {
    "name": FileKey(Value("the network's name", _filled_text), needed=True),
    "store": FileKey(FileArray(_SERVER, "an array of the store's servers")),
    "tls": FileKey(Value('a folder, "/..."', _folder)),
}

_CONTROLLER = {
    "openflow": FileKey(Value('"ADDRESS:PORT" for switches to connect to', openflow), True),
    "manage": FileKey(Value('"tcp://ADDRESS:PORT" for the management entity', _tcp_url), True),
}

_DATAPATH = {
    "kind": FileKey(choice("host", "plain"), needed=True),
    "dpid": FileKey(Value("a datapath id of 16 hex digits, not all zero", _dpid), needed=True),
    "controller": FileKey(NAMED, needed=True),
    "pipeline": FileKey(choice("proactive", "reactive")),
    "nicira": FileKey(BOOLEAN),
    "hypervisor": FileKey(Value(hypervisor_spec.FORMS, _hypervisor)),
    "proof": FileKey(choice("revalidator", "bound")),
    "proof_bound_s": FileKey(seconds(60)),
    "ovs_rundir": FileKey(Value("a directory", text_of)),
    "other": FileKey(choice("normal", "drop")),
    "maintenance": FileKey(BOOLEAN),
}

_ENDS = FileArray(_END, 'two ends, ["datapath:port", "datapath:port"]', length=2)
_LABELS = Value('VLAN ids, one or a range: 100, "100-199"', label_range)
_MBPS = whole(1, 100_000_000)
_MTU = whole(68, 65535)
CABLE = {
    "ends": FileKey(_ENDS, needed=True),
    "mbps": FileKey(_MBPS),
    "cost": FileKey(whole(1, 1_000_000)),
    "mtu": FileKey(_MTU),
    "labels": FileKey(FileArray(_LABELS, 'an array of VLAN ids and ranges: [100, "200-299"]')),
}
"""Of one of which more is said than its ends."""

_ACCESS = {
    "at": FileKey(_END, needed=True),
    "macs": FileKey(FileArray(_MAC, "an array of MAC addresses")),
}

_SUBNETS = (
    f'a subnet such as "10.0.1.0/24", or "{UNNUMBERED}", or several: ["10.0.1.0/24", '
    '"2001:db8:1::/64"]'
)

_LINK = {
    "id": FileKey(whole(1, MAX_ID), needed=True),
    "vlan": FileKey(whole(1, LAST_LABEL)),
    "detour_vlan": FileKey(whole(1, LAST_LABEL)),
    "access": FileKey(FileArray(_ACCESS, 'an array of {at = "datapath:port", macs = [...]}')),
    "root": FileKey(NAMED),
    "cables": FileKey(FileArray(NAMED, "an array of cable names")),
    "subnet": FileKey(Value(_SUBNETS, _subnet)),
    "mbps": FileKey(_MBPS),
    "mtu": FileKey(_MTU),
    "disjoint_from": FileKey(FileArray(NAMED, "an array of link names")),
    "span": FileKey(FileArray(NAMED, "an array of datapath names")),
}

_INTERFACE_FIELDS = {
    "name": FileKey(_INTERFACE, needed=True),
    "link": FileKey(NAMED, needed=True),
    "mac": FileKey(_MAC, needed=True),
    "vif": FileKey(_INTERFACE, needed=True),
}

_ROUTER = {
    "id": FileKey(whole(1, MAX_ID), needed=True),
    "home": FileKey(NAMED, needed=True),
    "control_vif": FileKey(_INTERFACE, needed=True),
    "interfaces": FileKey(
        FileArray(_INTERFACE_FIELDS, "an array of link names or {link, name, mac, vif}"),
        needed=True,
    ),
    "image": FileKey(Value("what its VM starts from", _filled_text)),
    "memory": FileKey(whole(MIN_MEMORY, MAX_MEMORY)),
    "running": FileKey(BOOLEAN),
}

SECTIONS: dict[str, tuple[dict[str, FileKey] | FileArray, bool]] = {
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


def meant(name: str, names: Iterable[str]) -> str:
    """ ", did you mean ...?" where a name resembles one that exists."""
    close = get_close_matches(name, list(names), n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""
