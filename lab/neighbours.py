"""How much room the kernel's table of neighbours must have for a lab, and that it has it.

All network namespaces share one table for each family, with at most gc_thresh3 entries; beyond,
adjacencies fall and packets are lost.  Its sizes can be set in the initial namespace only, where a
lab is as a rule; inside `scripts/isolated`, which sets them itself, and in containers they can only
be read.  Called by `bring_up.py`; `needed` and `settings` are pure.
"""

from __future__ import annotations

from lab.description import Lab
from lab.namespace import LabError
from routerd import rtnetlink as rt
from routerd.netlink_socket import Requests

_OF_ITSELF = 2
"""Entries of an interface beside those of its neighbours: the multicast groups of OSPF and IGMP."""
_FLOOR = {"gc_thresh1": 8192, "gc_thresh2": 16384, "gc_thresh3": 32768}
"""Room also for what is tried in a lab: a router with thousands of neighbours."""
_SHARE = {"gc_thresh1": 1, "gc_thresh2": 2, "gc_thresh3": 4}
"""Below gc_thresh1 nothing is forgotten; gc_thresh2 and 3 stand over it as by default."""


def needed(lab: Lab) -> int:
    """How many entries of a family the nodes of a lab have when everyone on a link knows everyone
    there, over IPv6 by the link-local address too, and every node those that it is managed by."""
    sizes = [len(lab.members(link)) for link in lab.network.links]
    nodes, addresses = len(lab.management), 2 if lab.ipv6 else 1
    return sum(addresses * n * (n - 1) + n * _OF_ITSELF for n in sizes) + nodes * 2


def settings(entries: int) -> dict[str, int]:
    """The kernel parameters for so many entries (names below /proc/sys)."""
    return {
        f"net/{family}/neigh/default/{name}": max(_FLOOR[name], share * entries)
        for family in ("ipv4", "ipv6")
        for name, share in _SHARE.items()
    }


def most() -> int:
    """How many IPv4 neighbours the kernel takes, asked from any namespace.

    Raises OSError.
    """
    requests = Requests()
    try:
        bodies = requests.bodies(rt.get_all(rt.RTM_GETNEIGHTBL, rt.AF_INET))
    finally:
        requests.close()
    return max((table.most for table in map(rt.neighbour_table, bodies) if table), default=0)


def check(lab: Lab) -> None:
    """Raises LabError where a lab needs more than the kernel takes."""
    entries, room = needed(lab), most()
    if entries > room:
        wanted = settings(entries)["net/ipv4/neigh/default/gc_thresh3"]
        raise LabError(
            f"{lab.network.name}: its nodes have up to {entries} neighbours, and this kernel's "
            f"table, one for all namespaces, takes {room}; that cannot be changed from here. In "
            "the machine's own network namespace: "
            f"`sysctl -w net.ipv4.neigh.default.gc_thresh3={wanted}`"
        )
