"""Fixed flows, for a lab without controllers: every virtual link flooded along its tree.

Enough to bring routing up and to test the lab itself; a moved router is found wherever it is,
because frames go to every host its link reaches.  With controllers none of this is installed.
"""

from __future__ import annotations

from collections.abc import Iterable

from lab import switch
from lab.description import Lab
from xenflow.model.network import DatapathKind


def fixed_flows(lab: Lab, datapath: str, routers: Iterable[str]) -> list[str]:
    """The flows of one switch, as `ovs-ofctl` reads them; `routers` are plugged in there."""
    network = lab.network
    here = set(routers)
    flows = []
    for link in network.links.values():
        tree = link.tree
        ends = {a.end.datapath for a in link.access if tree.reaches(a.end.datapath)}
        if network.members(link.name):
            ends |= {h for h in network.hosts if tree.reaches(h)}
        trunks = [e.port for e in tree.spanning(ends).get(datapath, [])]
        plain = [a.end.port for a in link.access if a.end.datapath == datapath]
        if network.datapaths[datapath].kind is DatapathKind.HOST:
            plain += [i.vif for r, i in network.members(link.name) if r.name in here]
        for port in plain:
            actions = [f"output:{p}" for p in plain if p != port]
            if trunks:
                actions += [f"mod_vlan_vid:{link.vlan}", *(f"output:{p}" for p in trunks)]
            flows.append(f"in_port={port},vlan_tci=0,actions={','.join(actions) or 'drop'}")
        for port in trunks:
            actions = [f"output:{p}" for p in trunks if p != port]
            if plain:
                actions += ["strip_vlan", *(f"output:{p}" for p in plain)]
            match = f"in_port={port},dl_vlan={link.vlan}"
            flows.append(f"{match},actions={','.join(actions) or 'drop'}")
    return flows


def install(lab: Lab, datapath: str, routers: Iterable[str]) -> None:
    """Make a switch's flows these and no others."""
    text = "\n".join(fixed_flows(lab, datapath, routers)) + "\n"
    node = lab.switch_node(datapath)
    switch.ofctl(node, "replace-flows", switch.BRIDGE, "-", text=text)
