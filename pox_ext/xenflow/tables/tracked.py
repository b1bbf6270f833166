"""What Open vSwitch must be told once of a bridge, so that it caches routes by their prefixes.

A packet's decision is cached with as many bits of its addresses as were looked at.  Where Open
vSwitch does not track a field's prefixes in a table (column `prefixes` of its Flow_Table, see
ovs-vswitchd.conf.db(5)) it looks at all of them, and every address is a cached flow of its own:
so it is with IPv6 by default.  Called by who makes a bridge: the lab, and a host's service.
"""

from __future__ import annotations

from xenflow.tables.layout import TABLES

PREFIXES = ("ip_dst", "ip_src", "ipv6_dst")
"""Open vSwitch takes three of a table; 3.1 tracks the first two where it is told nothing."""
_ADDRESSES = {"nw_src", "nw_dst", "ipv6_src", "ipv6_dst"}


def vsctl_words(bridge: str) -> list[str]:
    """The `ovs-vsctl` commands, each with its `--`, for a bridge that exists or is being made; said
    again they change nothing."""
    tables = [n for n, table in enumerate(TABLES) if _ADDRESSES & {*table.matches}]
    words = ["--", "--id=@tracked", "create", "Flow_Table", f"prefixes={','.join(PREFIXES)}"]
    words += ["--", "set", "Bridge", bridge]
    return words + [f"flow_tables:{number}=@tracked" for number in tables]
