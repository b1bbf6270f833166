"""`migration_1m_link_turn`: one overlapped migration in `paper` of a router with a million routes.

The lab's router learns them in its kernel (`proto` of their own, beside those of its routing
daemon) while 5,000 packets/s pass each way, and then moves; the baseline is the same with ten.
Counted are the packets lost while nothing happens, while the routes are added, in each stage of the
move, while `xenflow flows` shows the host's flows, and while its switch connects anew and is read
back.  Measured is how long the stage takes that turns the links, and how many flow-mods all
switches get in it.

OSPF has its default times: the routing daemon looks through the whole table of its kernel every
ten seconds, which takes longer with a million routes than the neighbours of the lab's usual OSPF
wait.  How often a neighbour changed its state meanwhile is counted (`adjacency_changes`).

The hypervisor of the lab is emulated.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.internet_routes import internet_routes
from bench.open_vswitch import BenchError
from bench.results import Found, Row
from lab import bring_up, judge, operate, routing, switch
from lab.description import Lab
from lab.moves import Mover, ends, mover
from lab.probe import ProbePair, TooBusyError
from lab.state import LabOptions
from mgmt.client import AskError
from mgmt.result import ProgressEvent
from xenflow.model.network import NetworkError
from xenflow.routes.family import prefix_text

FEW = 10
RATES_PPS = (5000.0, 2500.0, 1250.0)
PROTO = 99
SETTLED_S = 240.0
NOBODY = "tcp:127.0.0.1:1"


@dataclass(slots=True)
class _Trial:
    """One size of a table.  `marks` are (phase, CLOCK_MONOTONIC in ns at its begin)."""

    marks: list[tuple[str, int]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    turn_s: float = 0.0
    turn_flow_mods: int = 0
    lost: dict[str, dict[str, Any]] = field(default_factory=dict)
    adjacency_changes: int = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What happens in the `with` is counted under this name."""
        began = time.monotonic_ns()
        self.marks.append((name, began))
        yield
        self.seconds[name] = round((time.monotonic_ns() - began) / 1e9, 3)
        time.sleep(0.5)
        self.marks.append(("between", time.monotonic_ns()))

    def count(self, records: Path) -> None:
        """Sort what was sent and lost into the phases."""
        there, back = judge.read(records, [at for _, at in self.marks])
        names = ["between", *(name for name, _ in self.marks)]
        for name, one, other in zip(names, there, back, strict=True):
            known = self.lost.setdefault(name, {"sent": 0, "lost": 0, "longest_gap_s": 0.0})
            both = asdict(judge.rounded(one + other))
            known["sent"] += both["sent"]
            known["lost"] += both["lost"]
            known["longest_gap_s"] = max(known["longest_gap_s"], both["longest_gap_s"])

    def total_lost(self) -> int:
        """Over all phases."""
        return sum(int(each["lost"]) for each in self.lost.values())


def migration_link_turn(directory: Path, routes: int) -> Found:
    """See the module."""
    few, many = (_at_a_rate(directory / str(size), size) for size in (FEW, routes))
    row = Row(
        "migration_1m_link_turn",
        round(many[1].turn_s, 6),
        "s",
        f"s, {FEW} routes",
        round(few[1].turn_s, 6),
        round(many[1].turn_s / few[1].turn_s, 3),
    )
    rows = [row, Row("migration_1m_lost", many[1].total_lost(), "packets")]
    sweep = {
        str(size): {
            "rate_pps": rate,
            "turn_s": round(trial.turn_s, 6),
            "turn_flow_mods": trial.turn_flow_mods,
            "seconds": trial.seconds,
            "adjacency_changes": trial.adjacency_changes,
            "phases": trial.lost,
        }
        for size, (rate, trial) in ((FEW, few), (routes, many))
    }
    return Found(rows, {"migration_1m_link_turn": sweep})


def _at_a_rate(directory: Path, routes: int) -> tuple[float, _Trial]:
    directory.mkdir(parents=True, exist_ok=True)
    busy = ""
    for rate_pps in RATES_PPS:
        lab = bring_up.up("paper", LabOptions(hello_s=10, dead_s=40))
        try:
            return rate_pps, _trial(lab, directory, routes, rate_pps)
        except TooBusyError as error:
            busy = f"{rate_pps:g} packets/s: {error}"
        except (NetworkError, AskError) as error:
            raise BenchError(f"{routes} routes: {error}") from None
        finally:
            bring_up.down()
    raise BenchError(f"the machine is too busy, without any migration: {busy}")


def _trial(lab: Lab, directory: Path, routes: int, rate_pps: float) -> _Trial:
    found = _Trial()
    nodes = ends(lab)
    before = len(routing.neighbour_changes(lab))
    with mover(lab) as router, ProbePair(*nodes, rate_pps=rate_pps, directory=directory) as pair:
        pair.baseline(3.0)
        pair.start(900.0)
        with found.phase("nothing"):
            time.sleep(2.0)
        with found.phase("adding"):
            known = _routes(router, router.host)
            _learn(lab, router, routes)
            _settled(router, router.host, known + routes)
        turns: dict[str, tuple[float, int]] = {}

        def report(event: ProgressEvent) -> None:
            if event.state == "started":
                found.marks.append((f"migration: {event.step}", time.monotonic_ns()))
            if event.step == "links" and event.state in ("started", "done"):
                turns[event.state] = event.time_s, _flow_mods(router)

        source, to = router.host, router.other_host()
        with found.phase("migration"):
            move = router.move(to, "overlapped", report)
        found.seconds |= {
            f"migration: {step.name}": round(step.to_s - step.from_s, 3) for step in move.steps
        }
        found.turn_s = next(s.to_s - s.from_s for s in move.steps if s.name == "links")
        found.turn_flow_mods = turns["done"][1] - turns["started"][1]
        _settled(router, to, known + routes)
        with found.phase("showing"):
            router.session.ask_datapath(to, "flows", datapath=to, router=None, table=None)
        with found.phase("reading back"):
            _reconnect(to)
            _settled(router, to, known + routes)
        if source == to:
            raise BenchError("the router did not move")
        pair.stop(2.0)
    found.adjacency_changes = len(routing.neighbour_changes(lab)) - before
    found.count(directory)
    return found


def _learn(lab: Lab, router: Mover, routes: int) -> None:
    """The router's kernel learns routes by way of its neighbours."""
    interfaces = lab.network.routers[router.router].interfaces
    near = {i.link for i in interfaces}
    gateways = [m.address.ip for m in lab.machines.values() if m.link in near]
    lines = [
        f"route add {prefix_text(*prefix)} via {gateways[n % len(gateways)]} proto {PROTO}"
        for n, prefix in enumerate(internet_routes(routes))
    ]
    done = operate.run(router.router, ["ip", "-batch", "-"], input="\n".join(lines))
    if done.returncode:
        raise BenchError(f"the router's kernel did not take the routes: {done.stderr[-300:]}")


def _row(router: Mover, host: str) -> tuple[dict[str, Any], dict[str, Any]]:
    answer = router.session.ask_datapath(host, "status")
    datapath = next(d for d in answer["datapaths"] if d["name"] == host)
    return datapath, next(r for r in answer["routers"] if r["name"] == router.router)


def _routes(router: Mover, host: str) -> int:
    return int(_row(router, host)[1]["routes"])


def _settled(router: Mover, host: str, routes: int) -> None:
    """Wait until a host's controller knows so many routes and its switch is up to date."""
    until = time.monotonic() + SETTLED_S
    while time.monotonic() < until:
        datapath, known = _row(router, host)
        if int(known["routes"]) == routes and datapath["in_sync"]:
            return
        time.sleep(0.1)
    raise BenchError(f"{host} did not come to hold {routes} routes in {SETTLED_S:g} s")


def _flow_mods(router: Mover) -> int:
    total = 0
    for answer in router.session.ask_all("status").values():
        if isinstance(answer, AskError):
            raise answer
        total += sum(int(row["flow_mods"]) for row in answer["datapaths"])
    return total


def _reconnect(host: str) -> None:
    """Have a switch connect to its controller anew, which then reads it back.  It is given to
    nobody in between: Open vSwitch drops all flows of a bridge that has no controller left."""
    running = switch.vsctl(host, ["get-controller", switch.BRIDGE])
    target = (running.communicate()[0] or "").strip()
    switch.finish([switch.vsctl(host, ["set-controller", switch.BRIDGE, NOBODY])])
    time.sleep(0.2)
    switch.finish([switch.vsctl(host, ["set-controller", switch.BRIDGE, target])])
    time.sleep(1.5)
