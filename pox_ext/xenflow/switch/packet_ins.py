"""The packet-ins of one switch: those beyond a VM's budget are dropped, and that is said.

Called by `component` for each packet-in, before anything but its port is read, or its registers
where it has none; by `switch` when ports change, and by `rule_table` with the time.
"""

from __future__ import annotations

from collections.abc import Mapping

from xenflow.model.network import Network
from xenflow.switch.port_budget import RATE_PER_S, PortBudgets
from xenflow.switch.ports import Ports
from xenflow.switch.problems import Problems
from xenflow.tables.layout import Reg, Up

FLOOD = "flood"
"""Cause of a `Problems` entry."""
QUIET_S = 10.0
"""The problem is over when nothing was dropped for so long."""
WORDS = (
    f"its VM sends more than {RATE_PER_S:.0f} frames a second that the controller has to look at: "
    "those beyond are not looked at"
)
ROUTED_WORDS = (
    f"more than {RATE_PER_S:.0f} frames a second that others on this host have routed to it have "
    "to be looked at by the controller: those beyond are not looked at"
)
COPIED_WORDS = (
    f"its VM, which may be suspended soon, gets more than {RATE_PER_S:.0f} frames a second that "
    "are copied to the controller: the copies beyond are not kept, and such a frame is lost where "
    "the VM has not read it before"
)
REASONS = {why.value: why.name.lower() for why in Up}


class PacketIns:
    """See the module."""

    def __init__(self, network: Network, ports: Ports, problems: Problems) -> None:
        self._ports = ports
        self._problems = problems
        self._routed_to: dict[str, tuple[str, str]] = {}
        """Of each budget of packet-ins without a port: the router, and the words."""
        self._budgets = PortBudgets()
        self.admits = self._budgets.spend
        """`admits(port number, now)`: whether a packet-in may be looked at."""
        self._seen: dict[str, int] = {}
        self._grew: dict[str, tuple[float, str]] = {}
        """By router: when some were dropped last, and the words."""
        self.network_is(network)

    def network_is(self, network: Network) -> None:
        """The network, or what has become of it."""
        self._network = network
        self.ports_changed()

    def ports_changed(self) -> None:
        """The switch has other ports, or with other numbers."""
        self._budgets.set_ports(self._ports.numbers, self._network.vif_routers)

    def admits_routed(self, registers: Mapping[str, int], now: float) -> bool:
        """Whether a packet-in without a port may be looked at: it was routed here before, maybe for
        a VM of this host.  What it comes up for has a budget: a router, and why (`layout.Up`)."""
        router = self._network.router_names.get(registers.get(Reg.ROUTER, 0))
        sent_up = registers.get(Reg.SENT_UP, 0)
        if router is None or sent_up not in REASONS:
            return True
        name = f"{router}: {REASONS[sent_up]}"
        self._routed_to[name] = router, COPIED_WORDS if sent_up == Up.COPIED else ROUTED_WORDS
        return self._budgets.spend_of(name, now)

    @property
    def dropped(self) -> dict[str, int]:
        """How many were dropped, by vif, or by "ROUTER: why" of those without a port."""
        return self._budgets.dropped()

    def tick(self, now: float) -> None:
        """Say for which routers some are dropped, while it is so."""
        for name, count in self.dropped.items():
            if count != self._seen.get(name, 0):
                self._seen[name] = count
                sender = self._network.vif_routers.get(name)
                router, words = (sender, WORDS) if sender else self._routed_to.get(name, ("", ""))
                if router in self._network.routers:
                    self._grew[router] = now, words
        for router, (at, words) in list(self._grew.items()):
            if now - at < QUIET_S:
                self._problems.begin(FLOOD, words, router)
            else:
                del self._grew[router]
                self._problems.end(FLOOD, router)
