"""The network as rows of the store: what people want, what switches shall do, and back again.

Rows here stand under their names, as people know them, and name one another; in the store they
stand under UUIDs.  `desired` and `laid` say which rows a network is; `operations` what is to be
written for the rows there are to become those; `laid_entries` what laid rows say.  Called by the
planner, which writes, and by controllers, which read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Set
from typing import Any

from xenflow.model.network import (
    PARTS,
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
    Tree,
)
from xenflow.model.succession import changed_with, is_another
from xenflow.model.values import mac_number, mac_text
from xenflow.store.columns import Atom, Cell
from xenflow.store.laid_checks import misfits
from xenflow.store.schema import TABLES, TableKind
from xenflow.store.transaction import Delete, Insert, Operation, StoreRow, Update, new_uuid, row_id

Key = tuple[Cell, ...]
"""What a row is known by: the cells of its table's first index; () where there is one row only."""
NamedRows = Mapping[str, Mapping[Key, StoreRow]]
"""Table, key, row; a reference is the name of the row that it refers to."""
StoredRows = Mapping[str, Mapping[str, StoreRow]]
"""Table, UUID, row, as the store has them."""

VM = ("image", "memory", "running", "started")
"""What of a router is its VM's."""
DESIRED = tuple(name for name, table in TABLES.items() if table.kind is TableKind.DESIRED)
LAID = ("Laid_Host", "Laid_Switch", "Laid_Cable", "Laid_Link", "Laid_Element")
"""In the order of `network.PARTS`: which part's entries a table's rows are."""


def key_of(table: str, row: StoreRow) -> Key:
    """What a row is known by."""
    indexes = TABLES[table].indexes
    return tuple(row[column] for column in indexes[0]) if indexes else ()


# --- what people want ----------------------------------------------------------------------------


def desired(network: Network, change: int) -> NamedRows:
    """The rows that say what people want, as of the change of that number."""
    rows: dict[str, list[StoreRow]] = {
        "Global": [{"name": network.name, "change": change}],
        "Host": [_host(c) for c in network.controllers.values()],
        "Switch": [_desired_switch(d) for d in network.datapaths.values()],
        "Cable": [_desired_cable(c) for c in network.cables.values()],
        "Virtual_Link": [_desired_link(link) for link in network.links.values()],
        "Access_Port": [_access_port(n, a) for n, k in network.links.items() for a in k.access],
        "Element": [_desired_router(r) for r in network.routers.values()],
        "Interface": [_interface(r, i) for r in network.routers.values() for i in r.interfaces],
    }
    return {table: {key_of(table, row): row for row in found} for table, found in rows.items()}


def _host(controller: Controller) -> StoreRow:
    return {
        "name": controller.name,
        "openflow": controller.openflow_text,
        "manage": controller.manage,
    }


def _desired_switch(datapath: Datapath) -> StoreRow:
    return {
        "name": datapath.name,
        "dpid": f"{datapath.dpid:016x}",
        "host": datapath.controller,
        "kind": datapath.kind.value,
        "pipeline": datapath.pipeline.value,
        "nicira": datapath.nicira,
        "hypervisor": datapath.hypervisor,
        "proof": datapath.proof,
        "proof_bound_ms": round(datapath.proof_bound_s * 1000),
        "ovs_rundir": datapath.ovs_rundir,
        "other": datapath.other,
        "maintenance": datapath.maintenance,
    }


def _desired_cable(cable: Cable) -> StoreRow:
    return {
        "name": cable.name,
        "a_switch": cable.a.datapath,
        "a_port": cable.a.port,
        "b_switch": cable.b.datapath,
        "b_port": cable.b.port,
        "mbps": cable.mbps,
        "cost": cable.cost,
        "mtu": cable.mtu,
        "labels": frozenset(f"{first}-{last}" for first, last in cable.labels),
    }


def _desired_link(link: Link) -> StoreRow:
    return {
        "name": link.name,
        "id": link.id,
        "vlan": link.vlan,
        "detour_vlan": link.detour_vlan,
        "mbps": link.mbps,
        "mtu": link.mtu,
        "root": link.root or None,
        "pinned": frozenset(link.cables),
        "disjoint_from": frozenset(link.disjoint_from),
        "whole": link.span is None,
        "span": frozenset(link.span or ()),
    }


def _access_port(link: str, access: Access) -> StoreRow:
    macs = frozenset(map(mac_text, access.macs))
    return {"link": link, "switch": access.end.datapath, "port": access.end.port, "macs": macs}


def _desired_router(router: Router) -> StoreRow:
    return {
        "name": router.name,
        "id": router.id,
        "kind": "router",
        "home": router.home,
        "control_vif": router.control_vif,
        "image": router.image,
        "memory_mb": router.memory,
        "running": router.running,
    }


def _interface(router: Router, interface: Interface) -> StoreRow:
    return {
        "element": router.name,
        "name": interface.name,
        "link": interface.link,
        "mac": mac_text(interface.mac),
        "vif": interface.vif,
    }


# --- what switches shall do ----------------------------------------------------------------------


def concerned(network: Network) -> dict[str, dict[str, frozenset[str]]]:
    """The switches that a laid row concerns, by table and name: those whose flows follow from it,
    or that another row tells of it (`own_rows`)."""
    ways = {name: frozenset(link.tree.up) for name, link in network.links.items()}
    known: dict[str, set[str]] = {name: {name} for name in network.datapaths}
    """Of a switch: those that share a tree with it, and so must know it."""
    for reached in set(ways.values()):
        for name in reached:
            known[name] |= reached
    routers = {}
    for r in network.routers.values():
        there = {r.home}.union(*(ways[i.link] for i in r.interfaces))
        if not r.interfaces:  # it may move wherever there is a host
            there.update(network.hosts)
            known[r.home] |= there
        routers[r.name] = frozenset(there)
    cables = {c.name: known[c.a.datapath] | known[c.b.datapath] for c in network.cables.values()}
    for cable in network.cables.values():
        known[cable.a.datapath].add(cable.b.datapath)
        known[cable.b.datapath].add(cable.a.datapath)
    at_host: dict[str, set[str]] = {name: set() for name in network.controllers}
    for datapath in network.datapaths.values():
        at_host[datapath.controller] |= known[datapath.name]
    everywhere = frozenset(d.name for d in network.datapaths.values() if d.other != "drop")
    concerns: tuple[Mapping[str, Set[str]], ...] = (at_host, known, cables, ways, routers)
    return {
        table: {name: everywhere.union(at) for name, at in of.items()}
        for table, of in zip(LAID, concerns, strict=True)
    }


def laid(network: Network) -> NamedRows:
    """The rows that say what switches shall do; without `change` and `gone`."""
    at = concerned(network)
    rows: dict[str, list[StoreRow]] = {
        "Laid_Host": [
            {**_host(c), "at": at["Laid_Host"][c.name]} for c in network.controllers.values()
        ],
        "Laid_Switch": [
            {
                "name": d.name,
                "host": d.controller,
                "about": _json(
                    {
                        "kind": d.kind.value,
                        "dpid": f"{d.dpid:016x}",
                        "pipeline": d.pipeline.value,
                        "nicira": d.nicira,
                        "hypervisor": d.hypervisor,
                        "proof": d.proof,
                        "proof_bound_s": d.proof_bound_s,
                        "ovs_rundir": d.ovs_rundir,
                        "other": d.other,
                        **({"maintenance": True} if d.maintenance else {}),
                    }
                ),
                "at": at["Laid_Switch"][d.name],
            }
            for d in network.datapaths.values()
        ],
        "Laid_Cable": [
            {
                "name": c.name,
                "ends": _json([[end.datapath, end.port] for end in (c.a, c.b)]),
                "about": _json(about) if (about := _given(c, _OF_CABLES)) else "",
                "at": at["Laid_Cable"][c.name],
            }
            for c in network.cables.values()
        ],
        "Laid_Link": [
            {
                "name": k.name,
                "id": k.id,
                "tree": _json({name: cable and cable.name for name, cable in k.tree.up.items()}),
                "labels": _json([k.vlan, k.detour_vlan]),
                "wanted": _json({"root": k.root, "cables": k.cables, **_given(k, _OF_LINKS)}),
                "access": _json(
                    [[a.end.datapath, a.end.port, [*map(mac_text, a.macs)]] for a in k.access]
                ),
                "at": at["Laid_Link"][k.name],
            }
            for k in network.links.values()
        ],
        "Laid_Element": [
            {
                "name": r.name,
                "id": r.id,
                "kind": "router",
                "home": r.home,
                "control_vif": r.control_vif,
                "interfaces": _json(
                    [[i.name, i.link, mac_text(i.mac), i.vif] for i in r.interfaces]
                ),
                "vm": _json({name: getattr(r, name) for name in VM}),
                "at": at["Laid_Element"][r.name],
            }
            for r in network.routers.values()
        ],
    }
    return {table: {key_of(table, row): row for row in found} for table, found in rows.items()}


_OF_CABLES = ("mbps", "cost", "mtu", "labels")
_OF_LINKS = ("mbps", "mtu", "disjoint_from", "span")
"""What is in a laid row where it is said of the entry."""


def _given(entry: Cable | Link, keys: tuple[str, ...]) -> dict[str, Any]:
    found = {key: getattr(entry, key) for key in keys}
    return {k: v for k, v in found.items() if v not in (0, None) and (v != () or k == "span")}


def laid_entries(
    rows: NamedRows, before: Network, *, alone: bool = False, read: NamedRows | None = None
) -> Network:
    """The network that was `before`, with what laid rows say: an entry for a row, none for a
    tombstone; of what no row speaks it stays as it was, or goes where the rows count `alone`.

    read  the rows of which `before` is; what is the same object in both is not read again

    Raises NetworkError where a row cannot be read, or what is made of them does not fit.
    """
    given: dict[str, dict[str, Any]] = {}
    trees: dict[str, Tree] = {}

    def tree_of(text: str) -> Tree:
        """One object for those that lie the same."""
        if text not in trees:
            cables = {**before.cables, **given["cables"]}
            up = json.loads(text).items()
            trees[text] = Tree({switch: None if c is None else cables[c] for switch, c in up})
        return trees[text]

    try:
        for part, table in zip(PARTS, LAID, strict=True):
            old = getattr(before, part)
            here = {row["name"] for row in rows.get(table, {}).values()} if alone else old.keys()
            found: dict[str, Any] = dict.fromkeys(old.keys() - here)
            known = (read or {}).get(table, {})
            for key, row in rows.get(table, {}).items():
                name = str(row["name"])
                if known.get(key) is row and (name in old) is not row["gone"]:
                    continue
                if row["gone"]:
                    found |= {name: None} if name in old else {}
                    continue
                entry = _READ[table](name, row, tree_of)
                if old.get(name) != entry or is_another(old[name], entry):
                    found[name] = entry
            given[part] = found
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        words = f"{table} {row.get('name')!r}: {type(error).__name__}: {error}"
        raise NetworkError(f"the store's rows cannot be read: {words}") from None
    made = changed_with(before, **given)
    if wrong := list(misfits(made)):
        raise NetworkError("the store's rows do not fit: " + "\n".join(wrong))
    return made


def _read_host(name: str, row: StoreRow, _: Any) -> Controller:
    address, _colon, port = str(row["openflow"]).rpartition(":")
    return Controller(name, (address.strip("[]"), int(port)), str(row["manage"]))


def _read_switch(name: str, row: StoreRow, _: Any) -> Datapath:
    about = json.loads(str(row["about"]))
    about["kind"] = DatapathKind(about["kind"])
    about["pipeline"] = Pipeline(about["pipeline"])
    return Datapath(name, controller=str(row["host"]), **about | {"dpid": int(about["dpid"], 16)})


def _read_cable(name: str, row: StoreRow, _: Any) -> Cable:
    a, b = json.loads(str(row["ends"]))
    about = json.loads(str(row.get("about") or "{}"))
    labels = tuple((_whole(first), _whole(last)) for first, last in about.get("labels", ()))
    terms = {key: _whole(about.get(key, 0)) for key in ("mbps", "cost", "mtu")}
    return Cable(name, _end(*a), _end(*b), labels=labels, **terms)


def _read_link(name: str, row: StoreRow, tree_of: Callable[[str], Tree]) -> Link:
    vlan, detour_vlan = json.loads(str(row["labels"]))
    wanted = json.loads(str(row["wanted"]))
    access = tuple(
        Access(_end(switch, port), tuple(map(mac_number, macs)))
        for switch, port, macs in json.loads(str(row["access"]))
    )
    return Link(
        name,
        _number(row["id"]),
        vlan,
        detour_vlan,
        access,
        wanted["root"],
        tuple(wanted["cables"]),
        tree_of(str(row["tree"])),
        _whole(wanted.get("mbps", 0)),
        _whole(wanted.get("mtu", 0)),
        tuple(map(_text, wanted.get("disjoint_from", ()))),
        tuple(map(_text, wanted["span"])) if "span" in wanted else None,
    )


def _read_router(name: str, row: StoreRow, _: Any) -> Router:
    interfaces = tuple(
        Interface(_text(own), _text(link), mac_number(mac), _text(vif))
        for own, link, mac, vif in json.loads(str(row["interfaces"]))
    )
    about = json.loads(str(row.get("vm") or "{}"))  # none of the release before
    return Router(
        name,
        _number(row["id"]),
        str(row["home"]),
        str(row["control_vif"]),
        interfaces,
        **{key: about[key] for key in VM if key in about},
    )


_READ = dict(
    zip(LAID, (_read_host, _read_switch, _read_cable, _read_link, _read_router), strict=True)
)


# --- from the rows there are to others -----------------------------------------------------------


def by_name(stored: StoredRows) -> NamedRows:
    """The store's rows, under their names and naming one another."""
    return {
        table: {
            key: {**stored[table][uuid], **named} if named else stored[table][uuid]
            for key, (uuid, named) in rows.items()
        }
        for table, rows in _keyed(stored).items()
    }


def operations(stored: StoredRows, wanted: NamedRows, bury: int = 0) -> list[Operation]:
    """What is to be written for the rows of the tables that are `wanted` to become those.

    bury  0, or the number of the change: rows that shall not be there are not deleted, but
          become tombstones of it, and what is written says that it is of it.  Whom a row concerned
          it concerns still: they are to hear that it does no more.  Where only whom it concerns
          is another, the row says nothing new, and is of the change that it was
    """
    there = {t: {key: uuid for key, (uuid, _) in r.items()} for t, r in _keyed(stored).items()}
    uuids = {
        table: {key: there.get(table, {}).get(key) or new_uuid() for key in rows}
        for table, rows in wanted.items()
    }
    stamp: StoreRow = {"change": bury, "gone": False} if bury else {}
    found: list[Operation] = []
    for table, rows in wanted.items():
        known = there.get(table, {})
        for key, row in rows.items():
            cells = dict(row) | _references(table, row, lambda t, name: uuids[t][(name,)])
            if key not in known:
                found.append(Insert(table, {**cells, **stamp}, uuids[table][key]))
                continue
            old = stored[table][known[key]]
            if bury:
                cells["at"] = _both(old["at"], cells["at"])
            other = {name: cell for name, cell in cells.items() if old[name] != cell}
            if other.keys() - {"at"} or old.get("gone"):
                found.append(Update(table, row_id(known[key]), {**other, **stamp}))
            elif other:
                found.append(Update(table, row_id(known[key]), other))
        for uuid in (uuid for key, uuid in known.items() if key not in rows):
            if not bury:
                found.append(Delete(table, row_id(uuid)))
            elif not stored[table][uuid]["gone"]:
                found.append(Update(table, row_id(uuid), {"change": bury, "gone": True}))
    return found


_REFERENCES = {
    name: tuple(c for c, column in table.columns.items() if column.atom is Atom.ROW)
    for name, table in TABLES.items()
}
"""Of each table the columns that refer to rows; a laid one has none."""


def _keyed(stored: StoredRows) -> dict[str, dict[Key, tuple[str, dict[str, Cell]]]]:
    """Of each row its UUID, and the names that it refers to."""
    refer = any(_REFERENCES[table] for table in stored)
    named_rows = stored.values() if refer else ()
    names = {u: row["name"] for rows in named_rows for u, row in rows.items() if "name" in row}
    found: dict[str, dict[Key, tuple[str, dict[str, Cell]]]] = {}
    for table, rows in stored.items():
        if not _REFERENCES[table]:
            found[table] = {key_of(table, row): (uuid, {}) for uuid, row in rows.items()}
            continue
        found[table] = {}
        for uuid, row in rows.items():
            named = _references(table, row, lambda _, reference: names[reference])
            found[table][key_of(table, {**row, **named})] = uuid, named
    return found


def _references(table: str, row: StoreRow, other: Callable[[str, Any], Any]) -> dict[str, Cell]:
    """The cells of a row that refer to others: `other(table, reference)` in their places."""
    made: dict[str, Cell] = {}
    for name in _REFERENCES[table]:
        column, cell = TABLES[table].columns[name], row.get(name)
        if cell is None:
            continue
        if column.many:
            assert isinstance(cell, frozenset)
            made[name] = frozenset(other(column.refers, each) for each in cell)
        else:
            made[name] = other(column.refers, cell)
    return made


def _both(one: Cell, other: Cell) -> frozenset[Any]:
    assert isinstance(one, frozenset) and isinstance(other, frozenset)
    return one if other <= one else one | other


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _end(switch: Any, port: Any) -> End:
    return End(_text(switch), _text(port))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _number(cell: Cell) -> int:
    assert isinstance(cell, int)
    return cell
