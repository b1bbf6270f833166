"""The tables of the store, declared once: columns, references, indexes, and who writes them.

A table is added here and nowhere else: the schema that `ovsdb-server` is given (`to_schema`), the
check of what is written (`transaction.py`), the reading of what is watched and the test double all
follow from `TABLES`.

*Desired* rows say what people want, *laid* rows what hosts shall do, *observed* rows what hosts
have seen; a *ledger* row is the planner's own account of its work.  A laid row outlives the desired
one it was made from, so it names things and refers to no row: `at` names the switches concerned,
`change` is the number of the planner's change that wrote it, and a row with `gone` is a tombstone,
which tells its switches to forget what it names.  Columns that hold JSON say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from xenflow.store.columns import Column, flag, row_of, rows_of, text, texts, whole

DATABASE = "XenFlow"
VERSION = (1, 4, 0)
"""Of the schema.  A client refuses a server with another first number; a table or column more makes
the second one grow, so that a store is not given back the tables of an older release."""


class Role(Enum):
    """Who writes to the store."""

    PLANNER = "planner"
    CONTROLLER = "controller"


@dataclass(frozen=True, slots=True)
class StoreWriter:
    """A process that writes to the store; `host`: of a controller, the host that it speaks for."""

    role: Role
    host: str = ""


PLANNER = StoreWriter(Role.PLANNER)


class TableKind(Enum):
    """What a table's rows are, and so who writes them."""

    DESIRED = "desired"
    LAID = "laid"
    OBSERVED = "observed"
    LEDGER = "ledger"

    @property
    def writer(self) -> Role:
        """The only one that may insert, update or delete such rows."""
        return Role.CONTROLLER if self is TableKind.OBSERVED else Role.PLANNER


@dataclass(frozen=True, slots=True)
class StoreTable:
    """One table.

    indexes  sets of columns that no two rows have alike
    own      of an observed table: the column that names the host whose controller writes the row
    only     there is one row at most
    """

    kind: TableKind
    says: str
    columns: Mapping[str, Column]
    indexes: tuple[tuple[str, ...], ...] = ()
    own: str = ""
    only: bool = False

    def to_schema(self) -> dict[str, Any]:
        """Its `<table-schema>` (RFC 7047, 3.2)."""
        columns = {name: column.to_schema() for name, column in self.columns.items()}
        schema: dict[str, Any] = {"columns": columns, "isRoot": True}
        if self.indexes:
            schema["indexes"] = [list(index) for index in self.indexes]
        if self.only:
            schema["maxRows"] = 1
        return schema


_LAID = {
    "at": texts("the names of the switches concerned"),
    "change": whole("the number of the planner's change that wrote the row"),
    "gone": flag("a tombstone: its switches shall forget what it names"),
}

TABLES: Mapping[str, StoreTable] = MappingProxyType(
    {
        "Global": StoreTable(
            TableKind.DESIRED,
            "What concerns the whole network.",
            {
                "name": text("the network's name"),
                "change": whole("the number of the last change"),
            },
            only=True,
        ),
        "Host": StoreTable(
            TableKind.DESIRED,
            "A machine on which a controller runs.",
            {
                "name": text("its name"),
                "openflow": text("ADDRESS:PORT, where its controller awaits switches"),
                "manage": text("tcp://ADDRESS:PORT, where the management entity reaches it"),
            },
            indexes=(("name",),),
        ),
        "Switch": StoreTable(
            TableKind.DESIRED,
            "A datapath.",
            {
                "name": text("its name"),
                "dpid": text("its datapath id, 16 hex digits"),
                "host": row_of("Host", "whose controller looks after it"),
                "kind": text("what it can do", "host", "plain"),
                "pipeline": text("how it learns routes", "proactive", "reactive"),
                "nicira": flag("it speaks the Nicira extensions"),
                "hypervisor": text("what moves the VMs of its host"),
                "proof": text("how a change is known to be in force", "revalidator", "bound"),
                "proof_bound_ms": whole("milliseconds until a change is in force, for `bound`"),
                "ovs_rundir": text("the run directory of its Open vSwitch"),
                "other": text("what happens to traffic of no link", "normal", "drop"),
                "maintenance": flag("no router comes to this host"),
            },
            indexes=(("name",), ("dpid",)),
        ),
        "Cable": StoreTable(
            TableKind.DESIRED,
            "Joins two ports of two datapaths.",
            {
                "name": text("its name"),
                "a_switch": row_of("Switch", "one end"),
                "a_port": text("the port there"),
                "b_switch": row_of("Switch", "the other end"),
                "b_port": text("the port there"),
                "mbps": whole("Mbit/s it carries, 0: not known"),
                "cost": whole("of sending over it, 0: by its mbps"),
                "mtu": whole("octets of a packet it carries, 0: not known"),
                "labels": texts("the VLAN ids it may use, FIRST-LAST each; none: all"),
            },
            indexes=(("name",), ("a_switch", "a_port"), ("b_switch", "b_port")),
        ),
        "Virtual_Link": StoreTable(
            TableKind.DESIRED,
            "A broadcast domain that interfaces and stations are on.",
            {
                "name": text("its name"),
                "id": whole("its number in the network", lowest=1),
                "vlan": whole("its VLAN id"),
                "detour_vlan": whole("the one of what is on its way to a VM"),
                "mbps": whole("Mbit/s promised to it, 0: none"),
                "mtu": whole("octets of a packet that its cables shall carry, 0: any"),
                "whole": flag("it lies over all that its cables reach, whatever `span` says"),
                "span": rows_of("Switch", "where it shall lead beside its members"),
                "root": row_of("Switch", "where its tree grows from", optional=True),
                "pinned": rows_of("Cable", "the only cables it may use; none: all"),
                "disjoint_from": rows_of("Virtual_Link", "links it may share no cable with"),
            },
            indexes=(("name",), ("id",)),
        ),
        "Access_Port": StoreTable(
            TableKind.DESIRED,
            "An untagged port of a virtual link.",
            {
                "link": row_of("Virtual_Link", "the link"),
                "switch": row_of("Switch", "where it is"),
                "port": text("the port there"),
                "macs": texts("the stations known behind it, aa:bb:cc:dd:ee:ff each"),
            },
            indexes=(("switch", "port"),),
        ),
        "Element": StoreTable(
            TableKind.DESIRED,
            "What the network is made of beside links: a virtual router.",
            {
                "name": text("its name"),
                "id": whole("its number in the network", lowest=1),
                "kind": text("what it is", "router"),
                "home": row_of("Switch", "the host's switch where it is wanted", optional=True),
                "control_vif": text("the host's end of its link to the Rule Table"),
                "image": text("what its VM starts from"),
                "memory_mb": whole("MiB of memory of its VM"),
                "running": flag("its VM shall run"),
            },
            indexes=(("name",), ("id",)),
        ),
        "Interface": StoreTable(
            TableKind.DESIRED,
            "An element's interface on a virtual link.",
            {
                "element": row_of("Element", "whose it is"),
                "name": text("its name inside the element"),
                "link": row_of("Virtual_Link", "the link it is on"),
                "mac": text("its MAC address, aa:bb:cc:dd:ee:ff"),
                "vif": text("the host's end: a port of its datapath"),
            },
            indexes=(("element", "name"), ("vif",)),
        ),
        "Laid_Host": StoreTable(
            TableKind.LAID,
            "A machine on which a controller runs, as all shall know it.",
            {
                "name": text("its name"),
                "openflow": text("ADDRESS:PORT, where its controller awaits switches"),
                "manage": text("tcp://ADDRESS:PORT, where the management entity reaches it"),
                **_LAID,
            },
            indexes=(("name",),),
        ),
        "Laid_Switch": StoreTable(
            TableKind.LAID,
            "A datapath, as all shall know it.",
            {
                "name": text("its name"),
                "host": text("the host whose controller looks after it"),
                "about": text("JSON: what the desired row says of it"),
                **_LAID,
            },
            indexes=(("name",),),
        ),
        "Laid_Cable": StoreTable(
            TableKind.LAID,
            "A cable, as all shall know it.",
            {
                "name": text("its name"),
                "ends": text("JSON: its two ends, [switch, port] each"),
                "about": text("JSON: what else the desired row says of it; empty: nothing"),
                **_LAID,
            },
            indexes=(("name",),),
        ),
        "Laid_Link": StoreTable(
            TableKind.LAID,
            "A virtual link as its switches shall carry it.",
            {
                "name": text("the link's name"),
                "id": whole("its number in the network", lowest=1),
                "tree": text("JSON: the cable of each switch towards the root, null at the root"),
                "labels": text("JSON: the VLAN ids on its cables: data, detour"),
                "wanted": text("JSON: what people have named of where it lies"),
                "access": text("JSON: its access ports, with the stations behind them"),
                **_LAID,
            },
            indexes=(("name",), ("id",)),
        ),
        "Laid_Element": StoreTable(
            TableKind.LAID,
            "An element as its switches shall carry it.",
            {
                "name": text("the element's name"),
                "id": whole("its number in the network", lowest=1),
                "kind": text("what it is", "router"),
                "home": text("the switch of the host where it is wanted"),
                "control_vif": text("the host's end of its link to the Rule Table"),
                "interfaces": text("JSON: its interfaces"),
                "placement": text("JSON: the newest placement that a host has told; empty: none"),
                "vm": text("JSON: its VM: image, MiB of memory, whether it runs, and since when"),
                **_LAID,
            },
            indexes=(("name",), ("id",)),
        ),
        "Switch_State": StoreTable(
            TableKind.OBSERVED,
            "How far one switch has come.",
            {
                "host": text("the host whose controller writes this"),
                "switch": text("the switch"),
                "cluster": text("the store's cluster id that the number counts in"),
                "in_force": whole("the number of the last change that is in force"),
                "left_out": texts(
                    'owners of which it is not in force: "router NAME", "link NAME", "rule NAME"'
                ),
                "release": text("the controller's release"),
            },
            indexes=(("switch",),),
            own="host",
        ),
        "Placement": StoreTable(
            TableKind.OBSERVED,
            "Where one host last knew an element to be; the highest version counts.",
            {
                "host": text("the host that writes this"),
                "element": text("the element"),
                "version": whole("of the placement"),
                "placement": text("JSON: the placement"),
            },
            indexes=(("host", "element"),),
            own="host",
        ),
        "Migration": StoreTable(
            TableKind.OBSERVED,
            "That an element is being moved, as one of the hosts concerned knows it.",
            {
                "host": text("the host that writes this"),
                "element": text("the element"),
                "owner": text("who moves it"),
                "term": whole("grows with every owner"),
                "under_way": flag("the owner was heard of lately; else it was left unfinished"),
                "words": text("what is done, for people"),
            },
            indexes=(("host", "element"),),
            own="host",
        ),
        "Change": StoreTable(
            TableKind.LEDGER,
            "One change that people asked for.",
            {
                "number": whole("counts upwards", lowest=1),
                "by": text("who asked for it"),
                "when": whole("when it was written, in seconds since 1970"),
                "before": text("JSON: {table: {name: laid row}} that it replaced; null: none"),
                "after": text("JSON: the same, as it wrote them; null: a tombstone"),
                "confirm_s": whole("seconds until it is put back unless confirmed, 0: never"),
                "state": text("how far it is", "wanted", "laid", "in force", "put back"),
            },
            indexes=(("number",),),
        ),
        "Event": StoreTable(
            TableKind.LEDGER,
            "What has happened, for people.",
            {
                "number": whole("counts upwards", lowest=1),
                "when": whole("seconds since 1970"),
                "by": text("who did it"),
                "from": text("from which address, empty: not known"),
                "what": text("what kind of thing: change, migration, planner, ..."),
                "words": text("what it was"),
                "outcome": text("what came of it"),
            },
            indexes=(("number",),),
        ),
        "Lease": StoreTable(
            TableKind.LEDGER,
            "The right to do one thing, held by one process: see `lease.py`.",
            {
                "name": text("what it is the right to"),
                "owner": text("who holds it, empty: nobody"),
                "term": whole("grows with every owner"),
                "beat": whole("grows while the owner lives"),
            },
            indexes=(("name",),),
        ),
    }
)


def to_schema() -> dict[str, Any]:
    """The `<database-schema>` that a server is given (RFC 7047, 3.2)."""
    return {
        "name": DATABASE,
        "version": ".".join(map(str, VERSION)),
        "tables": {name: table.to_schema() for name, table in TABLES.items()},
    }
