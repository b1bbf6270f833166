"""Whether flows obey what their tables declare (`tables/layout.py`).

`WrittenSwitch` and `WholeNetwork` ask it of each flow that they get, so that every test with one of
these does; `tables/test_layout.py` asks it of flows of random networks.
"""

from __future__ import annotations

from typing import Any

from xenflow.model.network import Datapath, DatapathKind
from xenflow.openflow import flow as f
from xenflow.openflow.flow import Flow
from xenflow.tables import cookies
from xenflow.tables.layout import BRIDGE, CONTROLLER, HOLDS, ONE_TABLE, PORT, TABLES, Table

_REWRITES = {
    "set_vlan": "vlan_tci",
    "strip_vlan": "vlan_tci",
    "set_dl_src": "dl_src",
    "set_dl_dst": "dl_dst",
    "dec_ttl": "nw_ttl",
}
_LEAVES = {"output": PORT, "enqueue": PORT, "controller": CONTROLLER, "normal": BRIDGE}


def is_one_table(datapath: Datapath) -> bool:
    """Whether a switch knows OpenFlow 1.0 alone."""
    return datapath.kind is DatapathKind.PLAIN or not datapath.nicira


def obeyed(flow: Flow, one_table: bool = False) -> Flow:
    """The flow, which obeys the declaration of its table.  `one_table`: it is a plain switch's."""
    if flow.table < len(TABLES):  # a nudge of the channel has a table of its own
        against = faults(flow, ONE_TABLE if one_table else TABLES[flow.table])
        assert not against, f"{f.text(flow)}: {', '.join(against)}"
    return flow


def does(flow: Flow) -> dict[str, set[Any]]:
    """What a flow does, part by part, as a `Table` declares it."""
    fields = {name for name, _, _ in flow.match}
    changed: set[str] = set()
    leads_to: set[int] = set()
    leaves_by: set[str] = set()
    for action in flow.actions:
        match action:
            case ("load" | "check_pkt_larger" | "multipath", *arguments):
                changed.add(next(a for a in reversed(arguments) if isinstance(a, str)))
            case ("move", source, _, target, _, _):
                fields |= {source} & {*HOLDS}
                changed.add(target)
            case ("resubmit", table):
                leads_to.add(table)
            case (name, *_) if name in _LEAVES:
                leaves_by.add(_LEAVES[name])
            case (name, *_):
                changed.add(_REWRITES[name])
    return {
        "matches": fields - {*HOLDS},
        "reads": fields & {*HOLDS},
        "writes": changed & {*HOLDS},
        "rewrites": changed - {*HOLDS},
        "leads_to": leads_to,
        "leaves_by": leaves_by,
        "kinds": {cookies.kind_of(flow.cookie) if cookies.ours(flow.cookie) else None},
    }


def faults(flow: Flow, table: Table) -> list[str]:
    """What a table's declaration does not allow of a flow."""
    up_to = dict(table.up_to)
    in_a_band = any(low <= flow.priority <= up_to.get(low, low) for low in table.priorities)
    return [
        *([] if in_a_band else [f"priority: {flow.priority}"]),
        *(
            f"{part}: {value}"
            for part, values in does(flow).items()
            for value in values - {*getattr(table, part)}
        ),
    ]
