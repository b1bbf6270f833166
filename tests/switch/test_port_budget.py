"""How many packet-ins one VM may cause."""

from __future__ import annotations

from xenflow.switch.port_budget import BURST, RATE_PER_S, PortBudgets
from xenflow.vm.hold import MAX_FRAMES

PORTS = {"to-gen": 1, "vr1.0": 3, "vr2.0": 5}
VIFS = ["vr1.0", "vr1.1", "vr2.0"]


def budgets() -> PortBudgets:
    made = PortBudgets()
    made.set_ports(PORTS, VIFS)
    return made


def taken(made: PortBudgets, port: int, count: int, now: float) -> int:
    return sum(made.spend(port, now) for _ in range(count))


def test_a_vif_s_flood_is_cut_to_its_budget_and_nobody_else_s() -> None:
    made = budgets()
    assert taken(made, 3, 50_000, 1000.0) == BURST >= MAX_FRAMES
    assert taken(made, 5, 100, 1000.0) == 100
    assert taken(made, 1, 50_000, 1000.0) == 50_000, "many machines are behind a cable"
    assert made.dropped() == {"vr1.0": 48_000}


def test_a_flood_that_goes_on_has_its_rate() -> None:
    made = budgets()
    taken(made, 3, 50_000, 0.0)
    through = sum(taken(made, 3, 50, tick / 1000) for tick in range(1, 3001))
    assert abs(through - 3 * RATE_PER_S) <= 1
    assert taken(made, 3, 10_000, 1e9) == BURST, "no more is saved than that"
    assert taken(made, 3, 1, 0.0) == 0, "a clock that goes back gives nothing"


def test_a_port_that_comes_back_has_what_it_had() -> None:
    made = budgets()
    taken(made, 3, 50_000, 1000.0)
    made.set_ports({"to-gen": 1}, VIFS)
    assert taken(made, 3, 5, 1000.0) == 5, "no vif has this number now"
    made.set_ports({"to-gen": 1, "vr1.0": 9}, VIFS)
    assert taken(made, 9, 5, 1000.0) == 0
    assert made.dropped() == {"vr1.0": 48_005}
