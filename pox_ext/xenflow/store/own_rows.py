"""Of laid rows those that make one host's network: what its switches carry, and what that names.

They go by what rows say, and not by `at`, which leads too far for a while: to a switch that is to
hear that a link does not reach it any more.  A network of them has the same flows at the host's
switches as the whole.  A switch beside a bridge of other people's drops what comes with a VLAN id
of a link that is elsewhere, so the network of its host is the whole.

`network_rows.concerned` says where rows have to be for this, and `watched` what a host watches.
Called by controllers, and by `mgmt.health`, which compares what they know.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from xenflow.model.network import NetworkError
from xenflow.store.network_rows import LAID, Key, NamedRows
from xenflow.store.network_store import WatchedTable
from xenflow.store.schema import TABLES
from xenflow.store.transaction import Comparison, Condition, StoreRow, equal

TREES = 1 << 14
"""So many trees are kept as they were read."""


def watched(host: str, switches: Iterable[str]) -> tuple[WatchedTable, ...]:
    """What is to be watched of laid rows for a host with these switches: those that concern one of
    them, and its own."""
    at = [Condition("at", Comparison.INCLUDES, frozenset({name})) for name in sorted(switches)]
    own = {"Laid_Host": equal(name=host), "Laid_Switch": equal(host=host)}
    found = ((table, (*at, *own.get(table, ()))) for table in LAID)
    return tuple(
        WatchedTable(table, tuple(c for c in TABLES[table].columns if c != "at"), any_of)
        for table, any_of in found
        if any_of
    )


class OwnRows:
    """See the module.  Raises NetworkError where one of the rows cannot be read."""

    def __init__(self, rows: NamedRows) -> None:
        there = {t: [r for r in rows.get(t, {}).values() if not r["gone"]] for t in LAID}
        self._there = {t: {str(row["name"]): row for row in found} for t, found in there.items()}
        self._bridged: set[str] = set()
        """Hosts with a switch beside a bridge of other people's."""
        # By host its switches; by switch its links, cables, and the elements whose home it is; by
        # link its elements; and the elements on no link.
        self._switches: dict[str, list[str]] = defaultdict(list)
        self._links: dict[str, list[str]] = defaultdict(list)
        self._cables: dict[str, list[str]] = defaultdict(list)
        self._homed: dict[str, list[str]] = defaultdict(list)
        self._members: dict[str, list[str]] = defaultdict(list)
        self._alone: list[str] = []
        try:
            for table, read in _READ.items():
                for name, row in self._there[table].items():
                    read(self, name, row)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            words = f"{table} {name!r}: {type(error).__name__}: {error}"
            raise NetworkError(f"the store's rows cannot be read: {words}") from None

    def _read_switch(self, name: str, row: StoreRow) -> None:
        host = str(row["host"])
        self._switches[host].append(name)
        if json.loads(str(row["about"]))["other"] != "drop":
            self._bridged.add(host)

    def _read_cable(self, name: str, row: StoreRow) -> None:
        for switch in _ends(row):
            self._cables[switch].append(name)

    def _read_link(self, name: str, row: StoreRow) -> None:
        for switch in _tree(str(row["tree"])):
            self._links[switch].append(name)

    def _read_element(self, name: str, row: StoreRow) -> None:
        links = dict.fromkeys(_interfaces(row))
        self._homed[str(row["home"])].append(name)
        for link in links:
            self._members[link].append(name)
        if not links:
            self._alone.append(name)

    def of(self, *hosts: str, before: NamedRows | None = None) -> NamedRows:
        """The rows of a host, or several; of none: all that there are.  An element has only the
        interfaces on links that are among them.

        before  those of a time before: what is equal is the same object
        """
        if not hosts or not self._bridged.isdisjoint(hosts):
            return {
                table: {(name,): r for name, r in f.items()} for table, f in self._there.items()
            }
        own = [switch for host in hosts for switch in self._switches.get(host, ())]
        links = {name for switch in own for name in self._links.get(switch, ())}
        elements = {name for switch in own for name in self._homed.get(switch, ())}
        elements |= {name for link in links for name in self._members.get(link, ())}
        elements |= {*self._alone}
        trees = [_tree(str(self._there["Laid_Link"][name]["tree"])) for name in links]
        cables = {name for switch in own for name in self._cables.get(switch, ())}
        near = {end for name in cables for end in _ends(self._there["Laid_Cable"][name])}
        cables |= {cable for tree in trees for cable in tree.values() if cable is not None}
        switches = near.union(own, *trees)
        switches |= {str(self._there["Laid_Element"][name]["home"]) for name in elements}
        rows_of = self._there["Laid_Switch"]
        near_hosts = {str(rows_of[name]["host"]) for name in switches if name in rows_of}
        names = dict(
            zip(LAID, (near_hosts.union(hosts), switches, cables, links, elements), strict=True)
        )
        found: dict[str, dict[Key, StoreRow]] = {
            table: {
                (name,): row for name, row in self._there[table].items() if name in names[table]
            }
            for table in LAID
        }
        known = (before or {}).get("Laid_Element", {})
        for key, row in found["Laid_Element"].items():
            if any(link not in links for link in _interfaces(row)):
                less = {**row, "interfaces": _only(row, links)}
                old = known.get(key)
                found["Laid_Element"][key] = old if old is not None and old == less else less
        return found


_READ = {
    "Laid_Switch": OwnRows._read_switch,
    "Laid_Cable": OwnRows._read_cable,
    "Laid_Link": OwnRows._read_link,
    "Laid_Element": OwnRows._read_element,
}


@lru_cache(TREES)
def _tree(text: str) -> Mapping[str, str | None]:
    found: Mapping[str, str | None] = json.loads(text)
    return found


def _ends(cable: StoreRow) -> list[str]:
    return [switch for switch, _port in json.loads(str(cable["ends"]))]


def _interfaces(element: StoreRow) -> list[str]:
    """The links of its interfaces."""
    return [link for _, link, _, _ in json.loads(str(element["interfaces"]))]


def _only(element: StoreRow, links: set[str]) -> str:
    interfaces: list[Any] = json.loads(str(element["interfaces"]))
    return json.dumps([i for i in interfaces if i[1] in links], separators=(",", ":"))
