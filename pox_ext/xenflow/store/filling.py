"""What a network file leaves out, filled in: of a short file's tables those of a long one.

Called by `network_file` between TOML and reading, so that nothing after it knows two forms.  What
nobody needs to choose is found from names, not from places in the file: a router that comes or goes
leaves the numbers of the others as they are, unless two names meet at one number.  What a file says
is never changed, and nothing is judged here: a value that makes no sense is left for the reader.

In a network that lives in a store, numbers are kept once they are given (`kept`), and what has gone
keeps its own until it is forgotten (`Gone`).  VLAN ids are not filled in: `plan.labels` has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from itertools import islice
from types import UnionType
from typing import Any
from zlib import crc32

from xenflow.model.network import EMPTY, Interface, Network
from xenflow.model.values import UnfitError, mac_number, text_of
from xenflow.plan.laying import Buried

Table = dict[str, Any]
UNNUMBERED = "unnumbered"
"""In the place of a link's subnet: its two ends have no IPv4 address of their own there."""
PLAIN_SWITCHES = "edge"
"""The controller of the plain switches, where the file names no controllers."""
MAX_INTERFACE_NAME = 15
"""Linux: IFNAMSIZ is 16 with the closing NUL."""
MAX_ID = 65535
_MANAGEMENT = "10.254.1.0/24"
_SUBNETS = IPv4Network("10.16.0.0/12")
"""Where links of which the file says no address have theirs, a /24 each."""
_LOOPBACKS = IPv4Network("10.253.0.0/16")
"""Where machines on unnumbered links have theirs; routers in 10.255.0.0/16, by their ids."""


@dataclass(frozen=True, slots=True)
class Gone:
    """What is no more, by name, and is given to nobody else yet: switches may have flows of it.

    routers, links  their ids
    labels          the VLAN ids of the links
    """

    routers: Mapping[str, int] = field(default_factory=dict)
    links: Mapping[str, int] = field(default_factory=dict)
    labels: Buried = field(default_factory=dict)


def fill(tables: Table, kept: Network | None, gone: Gone | None = None) -> Table:
    """The same tables with everything in them that can be found; `kept`: numbers are as there."""
    found = deepcopy(tables)
    filling = _Filling(found, kept or EMPTY, gone or Gone())
    filling.datapaths()
    filling.cables()
    filling.routers()
    if isinstance(found.get("lab"), dict):
        filling.machines()
        filling.addresses()
        if "controllers" not in found:
            filling.lab_controllers()
    filling.links()
    filling.controllers()
    return found


def _entries(tables: Any, section: str) -> dict[str, Table]:
    """The entries of a section that are tables."""
    section_table = tables.get(section) if isinstance(tables, dict) else None
    entries = section_table if isinstance(section_table, dict) else {}
    return {name: entry for name, entry in entries.items() if isinstance(entry, dict)}


def _tables_in(entry: Table, key: str) -> list[Table]:
    """The tables in an array."""
    array = entry.get(key)
    return [one for one in array if isinstance(one, dict)] if isinstance(array, list) else []


def _number_of(name: str) -> int:
    return crc32(name.encode("utf-8", "surrogatepass"))


def interface_name(wanted: str, name: str, suffix: str = "") -> str:
    """A name of an interface, of which Linux has 15 characters at most; by a hash where longer."""
    if len(wanted) <= MAX_INTERFACE_NAME:
        return wanted
    return f"x{_number_of(name):08x}{suffix}"[:MAX_INTERFACE_NAME]


def _give(
    entries: Mapping[str, Table],
    key: str,
    first: int,
    last: int,
    *,
    kept: Mapping[str, int] | None = None,
    taken: Collection[int] = (),
    shown: Callable[[int], Any] = int,
) -> None:
    """Give a number of their own, `first` to `last`, to entries that lack one: that which was kept,
    else one by the name, the next free one where it is taken."""
    used = {entry[key] for entry in entries.values() if isinstance(entry.get(key), str | int)}
    used |= {shown(number) for number in taken}
    lack = [name for name, entry in entries.items() if key not in entry]
    for name in lack:
        value = shown((kept or {}).get(name, 0))
        if kept and name in kept and value not in used:
            entries[name][key] = value
            used.add(value)
    count = last - first + 1
    for name in lack:
        if key in entries[name]:
            continue
        begin = _number_of(name)
        numbers = (first + (begin + n) % count for n in range(min(count, len(used) + 1)))
        value = next((value for n in numbers if (value := shown(n)) not in used), None)
        if value is not None:
            entries[name][key] = value
            used.add(value)


def _give_ids(entries: Mapping[str, Table], known: Mapping[str, int]) -> None:
    taken = [number for name, number in known.items() if name not in entries]
    _give(entries, "id", 1, MAX_ID, kept=known, taken=taken)


def _mac(number: int) -> str:
    """A MAC address: of 32 bits one that everybody may choose (locally administered)."""
    return (number if number >> 32 else 0x0A58 << 32 | number).to_bytes(6, "big").hex(":")


Subnet = IPv4Network | IPv6Network
_LAST_IPV6 = 0xFFFF
"""Of an IPv6 subnet machines have the highest up to this one: people read and write them."""


def listed(value: Any) -> list[Any]:
    """What may be said once, or several times in an array."""
    return value if isinstance(value, list) else [value]


def _interfaces(value: Any) -> list[IPv4Interface | IPv6Interface]:
    """Those of the addresses that are some."""
    found = []
    for each in listed(value):
        with suppress(ValueError):
            if isinstance(each, str) and "/" in each:
                found.append(ip_interface(each))
    return found


def _subnets(value: Any) -> list[Subnet]:
    found: list[Subnet] = []
    for each in listed(value):
        with suppress(ValueError):
            if isinstance(each, str):
                found.append(ip_network(each))
    return found


def _subnet(value: Any) -> IPv4Network | None:
    with suppress(ValueError):
        return IPv4Network(value) if isinstance(value, str) else None
    return None


@dataclass(frozen=True, slots=True)
class _Member:
    """Somebody with an address on a link: the table that holds it, and by which key."""

    table: Table
    key: str
    router: bool
    own: str
    """The IPv4 address that it has on unnumbered links."""

    @property
    def given(self) -> Any:
        """What the file says of its addresses."""
        return self.table.get(self.key, [])


class _Filling:
    """One file's tables, filled in where they stand."""

    def __init__(self, tables: Table, kept: Network, gone: Gone) -> None:
        self._tables = tables
        self._kept = kept
        self._gone = gone

    # --- the network

    def datapaths(self) -> None:
        self._text_is("datapaths", "kind")
        kept = {d.name: d.dpid for d in self._kept.datapaths.values()}
        entries = _entries(self._tables, "datapaths")
        _give(entries, "dpid", 1, 2**32 - 1, kept=kept, shown=lambda number: f"{number:016x}")

    def _text_is(self, section: str, key: str, kinds: type | UnionType = str) -> None:
        """`NAME = "text"` stands for `NAME = { KEY = "text" }`."""
        table = self._tables.get(section)
        if isinstance(table, dict):
            table |= {
                name: {key: value} for name, value in table.items() if isinstance(value, kinds)
            }

    def cables(self) -> None:
        """A cable's ends without a port have one of the cable's name."""
        cables = self._tables.get("cables")
        if not isinstance(cables, dict):
            return
        for name, ends in cables.items():
            holder, key = (ends, "ends") if isinstance(ends, dict) else (cables, name)
            if isinstance(ends := holder.get(key), list):
                port = interface_name(name, name)
                holder[key] = [
                    f"{end}:{port}" if isinstance(end, str) and ":" not in end else end
                    for end in ends
                ]

    def routers(self) -> None:
        routers = _entries(self._tables, "routers")
        known_ids = {r.name: r.id for r in self._kept.routers.values()}
        _give_ids(routers, {**self._gone.routers, **known_ids})
        every: dict[str, Table] = {}
        macs: dict[str, int] = {}
        for name, router in routers.items():
            known = self._kept.routers.get(name)
            vif = known.control_vif if known else interface_name(f"{name}.ctl", name, ".ctl")
            router.setdefault("control_vif", vif)
            if isinstance(router.get("interfaces"), list):
                router["interfaces"] = [
                    {"link": one} if isinstance(one, str) else one for one in router["interfaces"]
                ]
            there = {i.name: i for i in known.interfaces} if known else {}
            _name_interfaces(name, _tables_in(router, "interfaces"), there)
            for interface in _tables_in(router, "interfaces"):
                own = str(interface["name"])
                every[f"{name} {own}"] = interface
                if own in there:
                    macs[f"{name} {own}"] = there[own].mac
        _give(every, "mac", 0, 2**32 - 1, kept=macs, shown=_mac)

    def links(self) -> None:
        self._text_is("links", "subnet", str | list)
        known = {link.name: link.id for link in self._kept.links.values()}
        _give_ids(_entries(self._tables, "links"), {**self._gone.links, **known})

    def controllers(self) -> None:
        """Of whom nothing is said: the controller of the same name, else the only one."""
        names = list(_entries(self._tables, "controllers"))
        for name, datapath in _entries(self._tables, "datapaths").items():
            if name in names:
                datapath.setdefault("controller", name)
            elif len(names) == 1:
                datapath.setdefault("controller", names[0])

    # --- the lab's part

    @property
    def _lab(self) -> Table:
        lab: Table = self._tables["lab"]
        return lab

    def machines(self) -> None:
        """A machine that names its link is an access port of it."""
        self._text_is("links", "subnet", str | list)
        links = _entries(self._tables, "links")
        machines = _entries(self._lab, "machines")
        places = {
            access["at"]: access
            for link in links.values()
            for access in _tables_in(link, "access")
            if isinstance(access.get("at"), str)
        }
        for name, machine in machines.items():
            end = machine.get("access")
            if isinstance(end, str) and ":" not in end:
                end = machine["access"] = f"{end}:{interface_name(name, name)}"
            if not isinstance(end, str):
                continue
            link = machine.get("link")
            exists = end.partition(":")[0] in _entries(self._tables, "datapaths")
            if end not in places and exists and isinstance(link, str) and link in links:
                access = links[link].setdefault("access", [])
                if isinstance(access, list):
                    places[end] = {"at": end}
                    access.append(places[end])
            macs = places.get(end, {}).get("macs")
            if "mac" not in machine and isinstance(macs, list) and len(macs) == 1:
                machine["mac"] = macs[0]
        _give({f"machine {n}": m for n, m in machines.items()}, "mac", 0, 2**32 - 1, shown=_mac)
        for machine in machines.values():
            if isinstance(end := machine.get("access"), str) and end in places:
                with suppress(UnfitError):  # a wrong one is the machine's mistake, not the link's
                    mac_number(text_of(machine["mac"]))
                    places[end].setdefault("macs", [machine["mac"]])

    def addresses(self) -> None:
        """Every speaker on a link of whom no address is said has one of each of its subnets:
        routers count from the lowest, machines from the highest."""
        links, members = _entries(self._tables, "links"), self._members()
        chosen = {link: self._chosen(links[link], members.get(link, ())) for link in links}
        taken = [subnet for subnets in chosen.values() for subnet in subnets]
        taken += self._others()
        blocks = list(_SUBNETS.subnets(new_prefix=24))
        for link, who in members.items():
            if link not in links:
                continue
            said = listed(links[link].get("subnet", []))
            unnumbered = UNNUMBERED in said
            if not unnumbered and _has_no_ipv4(said) and _has_no_ipv4(chosen[link]):
                begin = _number_of(link)
                around = (blocks[(begin + n) % len(blocks)] for n in range(len(blocks)))
                free = (block for block in around if not any(map(block.overlaps, taken)))
                chosen[link] = [next(free, blocks[0]), *chosen[link]]
                taken.append(chosen[link][0])
            lack = [one for one in who if one.key not in one.table]
            found = {id(one): [one.own] if unnumbered else [] for one in lack}
            for subnet in chosen[link]:
                addresses = _spread(subnet, who)
                for one, address in zip(lack, addresses, strict=True):
                    found[id(one)] += [address] if address else []
            for one in lack:
                if (own := found[id(one)]) and ":" not in own[0]:
                    one.table[one.key] = own if len(own) > 1 else own[0]

    def _members(self) -> dict[str, list[_Member]]:
        found: dict[str, list[_Member]] = {}
        given = self._lab.setdefault("routers", {})
        for name, router in _entries(self._tables, "routers").items():
            if not isinstance(given, dict):
                continue
            about = given.setdefault(name, {})
            table = about.setdefault("addresses", {}) if isinstance(about, dict) else None
            if not isinstance(table, dict):
                continue
            number = router.get("id", 0)
            number = number if isinstance(number, int) else 0
            own = f"10.255.{number >> 8 & 255}.{number & 255}/32"
            for interface in _tables_in(router, "interfaces"):
                if isinstance(link := interface.get("link"), str):
                    key = str(interface["name"])
                    found.setdefault(link, []).append(_Member(table, key, True, own))
        places = {
            access.get("at"): link
            for link, entry in _entries(self._tables, "links").items()
            for access in _tables_in(entry, "access")
            if isinstance(access.get("at"), str)
        }
        for name, machine in _entries(self._lab, "machines").items():
            if isinstance(end := machine.get("access"), str) and end in places:
                own = str(_LOOPBACKS[1 + _number_of(name) % (_LOOPBACKS.num_addresses - 2)])
                stubs = [stub for stub in _interfaces(machine.get("stub")) if stub.version == 4]
                own = str(stubs[0].ip) if stubs else own
                member = _Member(machine, "address", False, f"{own}/32")
                found.setdefault(places[end], []).append(member)
        return found

    @staticmethod
    def _chosen(link: Table, members: Iterable[_Member]) -> list[Subnet]:
        """The subnets that the file says a link has, by itself or by somebody's address on it: of
        each family those that it says itself, else the first that somebody has."""
        said = _subnets(link.get("subnet", []))
        if UNNUMBERED in listed(link.get("subnet")):
            families = [6]
        elif "subnet" in link and not said:
            families = []  # it is wrong
        else:
            families = [4, 6]
        found = []
        given = [address.network for one in members for address in _interfaces(one.given)]
        for family in families:
            own = [subnet for subnet in said if subnet.version == family]
            theirs = (n for n in given if n.version == family and n.prefixlen < n.max_prefixlen)
            found += own or [*islice(theirs, 1)]
        return found

    def _others(self) -> Iterable[Subnet]:
        """Subnets that are no link's."""
        management = self._lab.get("management")
        given = management.get("subnet") if isinstance(management, dict) else None
        yield _subnet(given) or IPv4Network(_MANAGEMENT)
        for machine in _entries(self._lab, "machines").values():
            yield from (stub.network for stub in _interfaces(machine.get("stub")))

    def lab_controllers(self) -> None:
        """Where the file names no controllers: one on each host, one for all plain switches; and
        what the lab knows better than a person of switches whose controllers it chooses."""
        datapaths = _entries(self._tables, "datapaths")
        machines = _entries(self._lab, "machines")
        hosts = [name for name, datapath in datapaths.items() if datapath.get("kind") == "host"]
        edge = PLAIN_SWITCHES if PLAIN_SWITCHES not in {*datapaths, *machines} else "plain"
        for name, datapath in datapaths.items():
            datapath.setdefault("controller", name if name in hosts else edge)
        asked = [datapath["controller"] for datapath in datapaths.values()]
        names = [name for name in (*hosts, edge) if name in asked]
        nodes = [name + "-sw" if name in machines else name for name in datapaths]
        nodes += [name for name in names if name not in datapaths]
        address = self._management([*nodes, *machines])
        if address is None or not datapaths:
            return
        self._tables["controllers"] = {}
        for name in names:
            node = name + "-sw" if name in machines and name in datapaths else name
            alone = name in hosts and asked.count(name) == 1
            self._tables["controllers"][name] = {
                "openflow": f"{'127.0.0.1' if alone else address[node]}:6633",
                "manage": f"tcp://{address[node]}:6640",
            }
        own = [h for h in hosts if "hypervisor" not in datapaths[h]]
        if own:
            hypervisor = self._lab.setdefault("hypervisor", f"{address['lab']}:6650")
            if isinstance(hypervisor, str) and re.fullmatch(r"[\d.]+:\d{1,5}", hypervisor, re.A):
                for host in own:
                    datapaths[host]["hypervisor"] = f"lab:tcp://{hypervisor}"
        for name, datapath in datapaths.items():
            datapath.setdefault("other", "drop")
            if "proof" not in datapath and "proof_bound_s" not in datapath:
                proven = {"proof": "revalidator"}
                bound = {"proof": "bound", "proof_bound_s": 0.35}
                datapath.update(proven if name in hosts else bound)

    def _management(self, nodes: list[str]) -> dict[str, str] | None:
        """Every node's address in the management network; None where that is told wrongly."""
        table = self._lab.setdefault("management", {})
        if not isinstance(table, dict):
            return None
        subnet = _subnet(table.setdefault("subnet", _MANAGEMENT))
        if subnet is None or subnet.num_addresses < len(nodes) + 4:
            return None
        table.setdefault("operator", str(subnet[1]))
        table.setdefault("lab", str(subnet[2]))
        if not all(isinstance(value, str) for value in table.values()):
            return None
        wanted = {name: {"at": table[name]} if name in table else {} for name in nodes}
        reserved = [int(IPv4Address(a)) for a in (subnet[1], subnet[2])]
        first, last = int(subnet[1]), int(subnet[-2])
        taken = [*reserved, *_numbers(table[name] for name in ("operator", "lab"))]
        _give(wanted, "at", first, last, taken=taken, shown=lambda n: str(IPv4Address(n)))
        table.update({name: one["at"] for name, one in wanted.items()})
        return {name: table[name] for name in (*nodes, "lab")}


def _numbers(addresses: Iterable[str]) -> Iterable[int]:
    for address in addresses:
        with suppress(ValueError):
            yield int(IPv4Address(address))


def _name_interfaces(router: str, interfaces: list[Table], there: Mapping[str, Interface]) -> None:
    """Names eth0, eth1 ... in their order, and ports that are called after router and interface."""
    used = {str(interface["name"]) for interface in interfaces if "name" in interface}
    names = (f"eth{n}" for n in range(2 * len(interfaces)))
    free = (name for name in names if name not in used)
    for interface in interfaces:
        name = str(interface.setdefault("name", next(free, "")))
        ending = re.sub(r"^eth(?=\d+$)", "", name)
        vif = interface_name(f"{router}.{ending}", f"{router} {name}")
        interface.setdefault("vif", there[name].vif if name in there else vif)


def _has_no_ipv4(subnets: Iterable[Any]) -> bool:
    return all(":" in str(subnet) for subnet in subnets)


def _spread(subnet: Subnet, members: Iterable[_Member]) -> list[str]:
    """Addresses of a subnet for the members that lack one, "" where none is left; what others say
    without a length has the subnet's."""
    members = list(members)
    used = set()
    for one in members:
        if one.key in one.table:
            one.table[one.key] = _with_length(one.table[one.key], subnet)
            used |= {address.ip for address in _interfaces(one.given)}
    edge = 0 if subnet.prefixlen >= subnet.max_prefixlen - 1 else 1
    lowest, highest = edge, subnet.num_addresses - 1 - edge
    if subnet.version == 6:
        highest = min(highest, _LAST_IPV6)
    found = []
    for one in members:
        if one.key in one.table:
            continue
        address = ""
        while lowest <= highest and not address:
            place = lowest if one.router else highest
            lowest, highest = (lowest + 1, highest) if one.router else (lowest, highest - 1)
            if subnet[place] not in used:
                address = f"{subnet[place]}/{subnet.prefixlen}"
        found.append(address)
    return found


def _with_length(given: Any, subnet: Subnet) -> Any:
    def one(address: Any) -> Any:
        plain = isinstance(address, str) and "/" not in address
        of_family = plain and (":" in address) == (subnet.version == 6)
        return f"{address}/{subnet.prefixlen}" if of_family else address

    return [one(each) for each in given] if isinstance(given, list) else one(given)
