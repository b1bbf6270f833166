"""The packet-ins of one switch: those beyond a VM's budget are dropped, and that is said.

Called by `component` for each packet-in, before anything of it is read; by `switch` when ports
change, and by `rule_table` with the time.
"""

from __future__ import annotations

from collections.abc import Mapping

from xenflow.model.network import Network
from xenflow.switch.port_budget import RATE_PER_S, PortBudgets
from xenflow.switch.problems import Problems

FLOOD = "flood"
"""Cause of a `Problems` entry."""
QUIET_S = 10.0
"""The problem is over when nothing was dropped for so long."""
WORDS = (
    f"its VM sends more than {RATE_PER_S:.0f} frames a second that the controller has to look at: "
    "those beyond are not looked at"
)


class PacketIns:
    """See the module."""

    def __init__(self, network: Network, problems: Problems) -> None:
        self._problems = problems
        self._router_of: dict[str, str] = {}
        self._ports: Mapping[str, tuple[int, bool]] = {}
        self._budgets = PortBudgets()
        self.admits = self._budgets.spend
        """`admits(port number, now)`: whether a packet-in may be looked at."""
        self._seen: dict[str, int] = {}
        self._grew: dict[str, float] = {}
        self.network_is(network)

    def network_is(self, network: Network) -> None:
        """The network, or what has become of it."""
        self._router_of = {i.vif: r.name for r in network.routers.values() for i in r.interfaces}
        self.ports_are(self._ports)

    def ports_are(self, ports: Mapping[str, tuple[int, bool]]) -> None:
        """The switch's ports: number and carrier, by name."""
        self._ports = ports
        numbers = {name: number for name, (number, _) in ports.items()}
        self._budgets.set_ports(numbers, self._router_of)

    @property
    def dropped(self) -> dict[str, int]:
        """How many were dropped, by vif."""
        return self._budgets.dropped()

    def tick(self, now: float) -> None:
        """Say for which routers some are dropped, while it is so."""
        for vif, count in self.dropped.items():
            if count != self._seen.get(vif, 0):
                self._seen[vif] = count
                if vif in self._router_of:
                    self._grew[self._router_of[vif]] = now
        for router, at in list(self._grew.items()):
            if now - at < QUIET_S:
                self._problems.begin(FLOOD, WORDS, router)
            else:
                del self._grew[router]
                self._problems.end(FLOOD, router)
