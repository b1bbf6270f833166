"""The commands of `plan/scenarios/*.txt`: a network, moves in it, and where packets go meanwhile.

    network path                      one of `conf/`
    cables h1-s1 s1-h2                or one of its own: h... are hosts, s... plain switches;
    link red at s1 over h1-s1         then its links, each with a station of its name,
    router r1 at h1 on red            and its routers

    plan r1 to h2 [in the order ...]  the stages of a move, and where their effects are
    recover r1 on h2                  of what brings the switches to the VM, which runs there
    effects [links]                   the effects of a stage, or of all
    do 7, do all                      carries out effects, up to a number
    undo                              puts back what has been carried out
    send red r1                       a packet from a station to a station or a router: its way

`scenario_file` reads the files; effects are carried out as in `plan/test_migration_order.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.plan.test_migration_order import TTL, Checks, after, moved
from tests.whole_network import FrameJourney, PlannedNetwork, WholeNetwork, load, plan
from xenflow.model.network import (
    Access,
    Cable,
    Datapath,
    DatapathKind,
    End,
    Interface,
    Link,
    Network,
    NetworkError,
    Router,
)
from xenflow.model.placement import Placement, at_home
from xenflow.model.values import mac_text
from xenflow.plan import effects as fx
from xenflow.plan import migration as mig
from xenflow.plan.laying import lay
from xenflow.plan.migration import Order, Stage


class Described:
    """A network that a scenario describes.  The n-th link has 10.0.n.0/24; its station is .2."""

    def __init__(self) -> None:
        self.cables: dict[str, Cable] = {}
        self.links: dict[str, Link] = {}
        self.routers: dict[str, Router] = {}

    def cable(self, names: Sequence[str]) -> str:
        for name in names:
            one, other = name.split("-")
            self.cables[name] = Cable(name, End(one, f"to-{other}"), End(other, f"to-{one}"))
        return ""

    def link(self, name: str, at: str, cables: Sequence[str]) -> str:
        n = len(self.links) + 1
        station = Access(End(at, name), (0x020000000000 + n,))
        self.links[name] = Link(name, n, 100 + n, 2148 + n, (station,), cables=tuple(cables))
        return ""

    def router(self, name: str, home: str, links: Sequence[str]) -> None:
        n = len(self.routers) + 1
        interfaces = tuple(
            Interface(f"eth{k}", link, 0x020000010000 + 256 * n + k, f"{name}.{k}")
            for k, link in enumerate(links)
        )
        self.routers[name] = Router(name, n, home, f"{name}.ctl", interfaces)

    def planned(self) -> PlannedNetwork:
        ends = [end for cable in self.cables.values() for end in (cable.a, cable.b)]
        names = sorted({end.datapath for end in ends})
        kinds = {"h": DatapathKind.HOST, "s": DatapathKind.PLAIN}
        datapaths = {name: Datapath(name, kinds[name[0]], n, "c") for n, name in enumerate(names)}
        network = Network("described", {}, datapaths, self.cables, self.links, self.routers)
        machines = {
            link.name: {
                "access": str(link.access[0].end),
                "mac": mac_text(link.access[0].macs[0]),
                "address": f"10.0.{link.id}.2/24",
                "stub": f"10.{link.id}.0.1/32",
            }
            for link in self.links.values()
        }
        addresses = {
            router.name: {
                "addresses": {
                    i.name: f"10.0.{self.links[i.link].id}.{10 + router.id}/24"
                    for i in router.interfaces
                }
            }
            for router in self.routers.values()
        }
        return plan(lay(network), {"machines": machines, "routers": addresses})


class Scenario:
    """The interpreter of one file."""

    def __init__(self) -> None:
        self.described = Described()
        self.world: WholeNetwork
        self.given: dict[str, dict[str, Placement]] = {}
        """What each switch was told last: datapath -> router -> placement."""
        self.router = ""
        self.before: Placement
        """Where the router was when the plan was made."""
        self.stages: Sequence[Stage] = ()
        self.done = 0

    def __call__(self, command: str, *words: str) -> str:
        """What a command says; a refusal is said too."""
        try:
            return self._carried_out(command, *words)
        except NetworkError as error:
            return f"refused: {error}"

    def _carried_out(self, *words: str) -> str:
        match words:
            case "network", name:
                return self._network(load(name))
            case "cables", *names:
                return self.described.cable(names)
            case "link", name, "at", datapath, "over", *cables:
                return self.described.link(name, datapath, cables)
            case "router", name, "at", host, "on", *links:
                self.described.router(name, host, links)
                return self._network(self.described.planned())
            case "plan", name, "to", host, *order:
                placed = self._placed()
                how = Order(order[-1]) if order else Order.OVERLAPPED
                made = mig.stages(self.world.network, placed[name], host, how, placed)
                return self._begin(name, made)
            case "recover", name, "on", host:
                return self._recover(name, host)
            case "effects", *names:
                return self._effects(names)
            case "do", upto:
                return self._do(upto)
            case "undo", *_:
                return self._undo()
            case "send", one, other:
                return self._send(one, other)
        raise ValueError(f"no command: {' '.join(words)}")

    def _network(self, made: PlannedNetwork) -> str:
        self.world = WholeNetwork(made)
        routers = made.network.routers.values()
        home = {router.name: at_home(router.name, router.home) for router in routers}
        self.given = {name: dict(home) for name in made.network.datapaths}
        lines = [f"router {router.name} on {router.home}" for router in routers]
        for link in made.network.links:
            stations = [f"station {m.name}" for m in made.machines.values() if m.link == link]
            on_it = [router.name for router, _ in made.network.members(link)]
            lines.append(f"link {link}: {', '.join((*stations, *on_it))}")
        return "\n".join(lines)

    # --- plans

    def _placed(self) -> dict[str, Placement]:
        """The newest placement of each router."""
        told = list(self.given.values())
        return {
            name: max((placements[name] for placements in told), key=lambda p: p.version)
            for name in self.world.network.routers
        }

    def _recover(self, name: str, here: str) -> str:
        self.world = moved(self.world, name, here, runs=True)
        given = {at: placements[name] for at, placements in self.given.items()}
        placed = self._placed()
        newest = replace(placed[name], reaches=tuple(sorted(mig.left_over(given))))
        others = [host for host in newest.hosts if host != here]
        network = self.world.network
        return self._begin(name, mig.recovery_stages(network, newest, here, others, placed, given))

    def _begin(self, name: str, stages: Sequence[Stage]) -> str:
        self.router, self.before = name, self._placed()[name]
        self.stages, self.done = stages, 0
        return "\n".join(
            f"{stage.name}: {stage.title} ({', '.join(stage.at)})"
            f"{'; from then on only forward' if stage.commits else ''}"
            for stage in stages
        )

    def _effects(self, names: Sequence[str]) -> str:
        numbered = enumerate(((s.name, effect) for s in self.stages for effect in s.effects), 1)
        return "\n".join(
            f"{number:2} {_words(effect)}"
            for number, (stage, effect) in numbered
            if stage in names or not names
        )

    def _do(self, upto: str) -> str:
        effects = [effect for stage in self.stages for effect in stage.effects]
        last = len(effects) if upto == "all" else int(upto)
        assert self.done < last <= len(effects), f"{self.done} of {len(effects)} are done"
        self._carry_out(effects[self.done : last])
        self.done = last
        where, runs = self.world.vifs[self.router], self.router in self.world.running
        return f"{self.router}'s VM {'runs' if runs else 'is suspended'} on {where}"

    def _carry_out(self, effects: Sequence[fx.Effect]) -> None:
        for effect in effects:
            self.world = after(self.world, self.router, effect)
            if isinstance(effect, fx.Apply):
                for datapath in effect.datapaths:
                    self.given[datapath][self.router] = effect.placement

    def _undo(self) -> str:
        effects = [effect for stage in self.stages for effect in stage.effects]
        undo = mig.undo_of(effects[: self.done], self.before)
        self.world = moved(self.world, self.router, self.before.vm, runs=True)
        self._carry_out(undo)
        self.stages = ()
        return "\n".join(map(_words, undo))

    # --- packets

    def _send(self, one: str, other: str) -> str:
        machine, checks = self.world.plan.machines[one], Checks(self.world, one)
        if other in self.world.plan.machines:
            target = self.world.plan.machines[other].stub
        else:
            target = int(next(iter(self.world.plan.addresses[other].values())).ip)
        return _way(self.world.from_machine(one, checks.datagram(machine, target, TTL)))


def _words(effect: fx.Effect) -> str:
    version = f" (version {effect.placement.version})" if isinstance(effect, fx.Apply) else ""
    return f"{effect.words()}{version}"


def _way(journey: FrameJourney) -> str:
    passed = ", ".join(step.split(":")[0] for step in journey.path)
    taken_in = " and ".join(f"{router} on {host}" for host, router in sorted(journey.taken_in))
    ends = [end.replace("vm:", "the VM of ").replace("held:", "held for ") for end in journey.ends]
    return f"{passed}; taken in by {taken_in or 'nobody'}; ends: {', '.join(ends) or 'nowhere'}"
