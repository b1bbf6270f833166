"""Controllers beside a planner's book, whatever is applied one after another: each with its own
rows compiles the flows that it would with the whole network, also where switches are late."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests import random_sites
from tests.planner.test_any_sequence import FENCE, Living, Wished
from tests.store.memory_store import MemoryStore
from tests.store.store_rig import Loop
from xenflow.control.leases import Leases
from xenflow.control.store_follower import AGAIN_S, StoreFollower
from xenflow.model.difference import NetworkDifference, compare
from xenflow.model.network import EMPTY, Network, NetworkError
from xenflow.model.placement import Placement, at_home
from xenflow.store.laid_file import LaidFile
from xenflow.store.network_rows import laid, laid_entries
from xenflow.store.own_rows import OwnRows
from xenflow.store.schema import Role, StoreWriter
from xenflow.switch.problems import Problems
from xenflow.tables.pipeline import local_flows
from xenflow.tables.site import Site

STEPS = 12


class Proving:
    """A switch that proves at once, while it is there."""

    def __init__(self) -> None:
        self.live = True
        self.placements: dict[str, Placement] = {}
        self.promises = self
        self.left_out: frozenset[str] = frozenset()

    def in_force(self, then: Any, but_left_out: bool) -> None:
        then(None)


class Host:
    """A controller's follower over a table that takes all."""

    def __init__(self, living: Living, loop: Loop, name: str, folder: Path) -> None:
        self.name = name
        self.network = replace(EMPTY, name="random")
        self.switches: dict[str, Proving] = {}
        self.problems = Problems(name)
        self.heard = 0
        self.alive = True
        self._now = 0.0

        def post(call: Any, value: Any) -> None:
            loop.post(lambda _: self.alive and call(value), None)

        store = MemoryStore(living.database, post, StoreWriter(Role.CONTROLLER, name))
        table: Any = self
        folder.mkdir(exist_ok=True)
        file, self.leases = LaidFile(folder, "random"), Leases(lambda: self._now, folder)
        kept = file.load()
        described = living.book.network
        self.network = (
            described if kept is None else file.network(kept, self.network, name)
        ).active
        self._switches()
        self.follower = StoreFollower(store, name, file, kept, table, self._become, self.leases)
        self.follower.start()

    def _become(self, network: Network) -> NetworkDifference:
        self.heard += 1
        found = compare(self.network, network.active)
        assert found.dirty_routers.isdisjoint(self.leases.moves()), "who is moved does not notice"
        self.network = network.active
        self._switches()
        return found

    def _switches(self) -> None:
        there = {d.name for d in self.network.datapaths_of(self.name)}
        self.switches = {name: self.switches.get(name, Proving()) for name in there}

    def searching(self) -> str:
        return ""

    def told_where(self, source: str, placements: Iterable[Placement], knows: bool) -> None:
        """Nobody asks."""

    def believe(self, source: str, placements: Iterable[Placement]) -> None:
        """Where they are changes nothing here."""

    def tick(self) -> None:
        self._now += AGAIN_S
        self.follower.tick(self._now)


def drain(loop: Loop) -> None:
    for _ in range(6):
        done: list[int] = []
        loop.post(lambda _, done=done: done.append(1), None)
        loop.run(lambda done=done: bool(done))


def placed(dice: Random, network: Network) -> dict[str, Placement]:
    """Routers at home, or on any hosts to which their links lead."""
    found = {}
    for router in network.routers.values():
        trees = [network.links[i.link].tree for i in router.interfaces]
        hosts = [name for name in network.hosts if all(t.reaches(name) for t in trees)]
        found[router.name] = at_home(router.name, router.home)
        if dice.random() < 0.5:
            vm, leads = dice.choice(hosts), dice.choice(hosts)
            there = tuple(dict.fromkeys((leads, vm, dice.choice(hosts))))
            found[router.name] = found[router.name].step(forwarders=there, vm=vm, leads_to=leads)
    return found


def same_flows(dice: Random, whole: Network, host: Host) -> None:
    """At each of its switches."""
    known = placed(dice, whole)
    # A frame for several routers is given to them in the order in which the rows came.
    routers = {n: host.network.routers[n] for n in whole.routers if n in host.network.routers}
    network = replace(host.network, routers=routers)
    views = {r.name: random_sites._view(dice, r) for r in whole.routers.values()}
    for name in host.switches:
        site = random_sites.site(dice, whole, name)
        far = {
            i.vif
            for router in whole.routers.values()
            if not all(whole.links[i.link].tree.reaches(name) for i in router.interfaces)
            for i in router.interfaces
        }
        ports = {port: number for port, number in site.ports.items() if port not in far}
        site = replace(site, placements=known, views=views, ports=ports)
        own = Site(
            network,
            network.datapaths[name],
            site.ports,
            {router: known[router] for router in routers},
            {router: views[router] for router in routers},
            site.suspended,
        )
        assert local_flows(own) == local_flows(site), (host.name, name)


def begun(dice: Random) -> tuple[Living, Wished]:
    """A network file that changes, as it was first; and who has it."""
    while True:
        living, wished = Living(), Wished(dice)
        with suppress(NetworkError):  # it wishes for what cannot be
            living.write(living.propose(wished.text()).transaction)
            return living, wished


def rows_of(network: Network, host: str) -> Network:
    """What a host knows of a network."""
    rows = {
        table: {key: {**row, "gone": False} for key, row in found.items()}
        for table, found in laid(network).items()
    }
    return replace(laid_entries(OwnRows(rows).of(host), EMPTY), name=network.name)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_applied_each_has_its_flows(seed: int, tmp_path: Path) -> None:
    dice, loop = Random(seed), Loop()
    living, wished = begun(dice)
    hosts: dict[str, Host] = {}
    for _ in range(STEPS):
        network = living.book.network.active
        for name in network.controllers.keys() - hosts.keys():
            hosts[name] = Host(living, loop, name, tmp_path / name)
        for name in hosts.keys() - network.controllers.keys():
            hosts.pop(name).alive = False
        drain(loop)
        for host in hosts.values():
            host.tick()
        drain(loop)
        living.hear()
        whole = living.book.network.active
        for host in hosts.values():
            assert host.problems.of() == []
            same_flows(dice, whole, host)
            assert rows_of(living.book.network, host.name).active == host.network
            reached, shall = host.follower.status()["in_force"], living.book.concerns
            assert all(reached[n] >= shall[n] for n, s in host.switches.items() if s.live)
            for switch in host.switches.values():
                switch.live = dice.random() < 0.8
        living.write(living.book.forget(FENCE, "memory"))
        drain(loop)
        if (proposal := wished.proposed(living)) is None:
            continue
        before = {name: host.heard for name, host in hosts.items()}
        living.write(proposal.transaction)
        drain(loop)
        if dice.random() < 0.3 and hosts:  # as after `kill -9`
            name = dice.choice(sorted(hosts))
            hosts[name].alive = False
            hosts[name] = Host(living, loop, name, tmp_path / name)
            before.pop(name)
        for name in before.keys() & hosts.keys():
            own = {d.name for d in whole.datapaths_of(name)}
            if own.isdisjoint(proposal.concerns):
                assert hosts[name].heard == before[name], "nothing of it concerns this one"


def nobody_elses(whole: Network, host: Host) -> None:
    """What a host holds of routers and links has numbers that nobody else was given."""
    for mine in host.network.routers.values():
        assert whole.router_names.get(mine.id, mine.name) == mine.name
    for link in host.network.links.values():
        assert whole.link_names.get(link.id, link.name) == link.name
        for name in (n for label in link.labels for n in whole.links_by_label.get(label, ())):
            assert name == link.name or not whole.meet(whole.links[name], link)


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_what_is_applied_while_routers_are_moved(first: int, tmp_path: Path) -> None:
    """Each move is known to some of the hosts, as it is where a link reaches far.  They never take
    what it would notice, not after a restart either; and all of it once it has ended."""
    assert sum(applied_while_moved(n, tmp_path / str(n)) for n in range(first, first + 10)) > 10


def applied_while_moved(seed: int, folder: Path) -> int:
    """How often something was held."""
    dice, loop = Random(seed), Loop()
    folder.mkdir()
    living, wished = begun(dice)
    hosts = {n: Host(living, loop, n, folder / n) for n in living.book.network.controllers}

    def end_moves(share: float) -> None:
        for host in hosts.values():
            for row in host.leases.rows():
                if dice.random() < share:
                    host.leases.give_back(row["router"], row["owner"])

    def settled() -> None:
        drain(loop)
        for host in hosts.values():
            host.tick()
        drain(loop)
        living.hear()

    held = 0
    for step in range(STEPS):
        for name in living.book.network.controllers.keys() - hosts.keys():
            hosts[name] = Host(living, loop, name, folder / name)
        end_moves(0.3)
        for host in hosts.values():
            for router in host.network.routers.keys() - host.leases.moves():
                if dice.random() < 0.2:
                    host.leases.take(router, f"ada:{step}", 1000.0, {"words": "a migration"})
        if (proposal := wished.proposed(living)) is not None:
            living.write(proposal.transaction)
        settled()
        for host in hosts.values():
            status = host.follower.status()
            held += bool(status["held"])
            words = host.problems.of()
            assert status["held"] or words or status["taken"] == status["change"]
            assert all(", and the rest does not fit with that: " in each for each in words)
        living.write(living.book.forget(FENCE, "memory"))
        settled()
        for host in hosts.values():
            nobody_elses(living.book.network, host)
        if dice.random() < 0.3:
            name = dice.choice(sorted(hosts))
            hosts[name].alive = False
            hosts[name] = Host(living, loop, name, folder / name)
            drain(loop)
    end_moves(1.0)
    settled()
    for host in hosts.values():
        assert host.problems.of() == []
        same_flows(dice, living.book.network.active, host)
        assert rows_of(living.book.network, host.name).active == host.network
    return held
