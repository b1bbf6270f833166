"""The packet-ins of one switch: those beyond a VM's budget are dropped, and that is said.

Called by `component` for each packet-in, before anything but its port is read, or its registers
where it has none; by `switch` when ports change, and by `rule_table` with the time.
"""

from __future__ import annotations

from collections.abc import Mapping

from xenflow.model.network import Network
from xenflow.switch.port_budget import RATE_PER_S, PortBudgets
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
ROUTED_WORDS = {
    why: f"{frames}: more than {RATE_PER_S:.0f} a second come to the controller, routed on this "
    "host before, and those beyond are not looked at"
    for why, frames in {
        Up.HELD: "frames for its VM, which takes nothing now",
        Up.COPIED: "copies of frames for its VM, which may be suspended before it has read them",
        Up.ASKED: "packets whose way the controller is to say",
        Up.FROM_VM: "frames of its VM",
    }.items()
}
"""Who sent them does not show any more."""


class PacketIns:
    """See the module."""

    def __init__(self, network: Network, problems: Problems) -> None:
        self._problems = problems
        self._router_of: Mapping[str, str] = {}
        self._routed: dict[str, tuple[str, str]] = {}
        """The router, and the words, of each budget of packet-ins without a port."""
        self._ports: Mapping[str, tuple[int, bool]] = {}
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
        self._router_of = network.vif_routers
        self.ports_are(self._ports)

    def ports_are(self, ports: Mapping[str, tuple[int, bool]]) -> None:
        """The switch's ports: number and carrier, by name."""
        self._ports = ports
        numbers = {name: number for name, (number, _) in ports.items()}
        self._budgets.set_ports(numbers, self._router_of)

    def admits_routed(self, registers: Mapping[str, int], now: float) -> bool:
        """Whether a packet-in without a port may be looked at: it was routed here before, maybe for
        a VM of this host.  What it comes up for has a budget: a router, and why (`layout.Up`)."""
        router = self._network.router_names.get(registers.get(Reg.ROUTER, 0))
        why = registers.get(Reg.SENT_UP, 0)
        if router is None or why not in ROUTED_WORDS:
            return True
        name = f"{router}: {Up(why).name.lower()}"
        self._routed[name] = router, ROUTED_WORDS[Up(why)]
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
                router, words = self._routed.get(name, (self._router_of.get(name, ""), WORDS))
                if router in self._network.routers:
                    self._grew[router] = now, words
        for router, (at, words) in list(self._grew.items()):
            if now - at < QUIET_S:
                self._problems.begin(FLOOD, words, router)
            else:
                del self._grew[router]
                self._problems.end(FLOOD, router)
