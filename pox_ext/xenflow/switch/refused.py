"""What the switches do not take from a VM: looked at now and then, and said.

A link's frames carry its own VLAN tag between the switches, and a MAC address leads to one place,
so that a frame with a tag of its own, or with a source that is neither its interface's nor a
virtual router's (VRRP), cannot be let through.  Flows of their own drop such frames
(`cookies.refusing`) and count them; while the counts grow, the router has a problem.  What a
flow has counted when it is first read may be old, and is no problem.

Called by `rule_table`, with the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from xenflow.model.network import DatapathKind, Network
from xenflow.openflow.flow import Key as FlowKey
from xenflow.switch.channel import Answer, NotAnsweredError
from xenflow.switch.switch import Switch
from xenflow.tables import cookies, layout

READ_S = 5.0
QUIET_S = 60.0
"""The problem is over when nothing has been refused for so long."""
CAUSES = {cookies.REFUSED_TAG: "tagged frames", cookies.REFUSED_SOURCE: "foreign frames"}
WORDS = {
    cookies.REFUSED_TAG: "its VM sends frames with 802.1Q tags, which are dropped: a virtual link "
    "carries untagged frames",
    cookies.REFUSED_SOURCE: "its VM sends frames from a MAC address that is neither its "
    "interface's nor VRRP's, which are dropped",
}

_Key = tuple[str, int, int]
"""Datapath, router id, why."""


class RefusedFrames:
    """See the module."""

    def __init__(self, network: Network, switches: Mapping[str, Switch]) -> None:
        self._switches = switches
        self.network_is(network)
        self._due = 0.0
        self._counts: dict[str, dict[FlowKey, int]] = {}
        """What each flow had counted when its datapath was asked last."""
        self._grew: dict[_Key, float] = {}
        self._asked: set[str] = set()
        """The datapaths that have not answered yet."""

    def network_is(self, network: Network) -> None:
        """The network, or what has become of it."""
        self._names = network.router_names

    def tick(self, now: float) -> None:
        """Ask the switches, now and then."""
        if now < self._due:
            return
        self._due = now + READ_S
        for switch in self._switches.values():
            host = switch.datapath.kind is DatapathKind.HOST
            if host and switch.live and switch.name not in self._asked:
                self._asked.add(switch.name)
                switch.reader.stats(
                    partial(self._read, switch, now),
                    layout.INGRESS,
                    cookies.REFUSED,
                    cookies.REFUSED_MASK,
                )

    def _read(self, switch: Switch, now: float, stats: Answer) -> None:
        self._asked.discard(switch.name)
        if isinstance(stats, NotAnsweredError):
            return  # which is said already
        before = self._counts.get(switch.name, {})
        counts: dict[FlowKey, int] = {}
        for each in stats:
            found = cookies.refused(each.flow.cookie)
            if found is None or found[0] not in self._names:
                continue
            flow, count = each.flow.key, each.packets
            counts[flow] = count
            known = before.get(flow, count)  # what is there at the first look is no news
            if count > (known if known <= count else 0):  # counted anew after a restart
                key = switch.name, *found
                self._grew[key] = now
                switch.problems.begin(CAUSES[key[2]], WORDS[key[2]], self._names[key[1]])
        self._counts[switch.name] = counts
        for key in [k for k, at in self._grew.items() if k[0] == switch.name]:
            if now - self._grew[key] >= QUIET_S or key[1] not in self._names:
                del self._grew[key]
                switch.problems.end(CAUSES[key[2]], self._names.get(key[1], ""))
