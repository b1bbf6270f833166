"""Only the flows of those whom a change concerns are compiled, and all are as if compiled anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from tests.control.test_change import CAMPUS, HOST, Host, by_chance
from xenflow.model.network import Pipeline
from xenflow.model.placement import Mode, Placement
from xenflow.routes import messages as m
from xenflow.routes.feed import snapshot_messages
from xenflow.routes.messages import Op, Section
from xenflow.tables.pipeline import flows_of, local_flows, of_link, owners

Event = Callable[[Host, Random], None]


def a_port_goes_or_comes(host: Host, dice: Random) -> None:
    name = dice.choice(sorted(host.ports))
    up, deleted = dice.random() < 0.5, dice.random() < 0.3
    number = host.ports[name] + (100 if dice.random() < 0.2 else 0)
    host.switch.port_changed(name, number, up, deleted)


def a_router_is_placed(host: Host, dice: Random) -> None:
    router = dice.choice(list(host.table.network.routers))
    known = host.switch.placements[router]
    hosts = dice.sample(sorted(host.table.network.hosts), 2)
    forwarders = tuple(sorted(dice.sample(hosts, dice.choice((1, 2)))))
    mode = dice.choice((Mode.XENFLOW, Mode.XENFLOW, Mode.NATIVE))
    vm, to = dice.choice(hosts), dice.choice(forwarders)
    placement = Placement(router, forwarders, vm, to, tuple(sorted(hosts)), mode, known.version + 1)
    host.table.place(placement, [HOST], False, lambda error: None)


def a_router_comes_home(host: Host, dice: Random) -> None:
    host.settle_here(dice.choice(list(host.table.network.routers)))


def a_router_says_something_else(host: Host, dice: Random) -> None:
    router = dice.choice(list(host.table.network.routers))
    state = CAMPUS.states[router].copy()
    slow = dice.random() < 0.5
    state.apply([Section(m.Kind.POLICY, Op.SET, [m.Policy(slow, "a filter" if slow else "")])])
    for frames in snapshot_messages(state, router):
        assert host.table.told(router, b"peer", frames, local=True).error is None


def the_network_changes(host: Host, dice: Random) -> None:
    here = host.table.network.datapaths[HOST]
    new = by_chance(dice)
    host.table.change(replace(new, datapaths={**new.datapaths, HOST: here}))


def vifs_are_suspended(host: Host, dice: Random) -> None:
    vifs = [i.vif for r in host.table.network.routers.values() for i in r.interfaces]
    host.switch.vifs_are_still(frozenset(v for v in vifs if dice.random() < 0.3))


EVENTS: tuple[Event, ...] = (
    a_port_goes_or_comes,
    a_port_goes_or_comes,
    a_router_is_placed,
    a_router_is_placed,
    a_router_comes_home,
    a_router_says_something_else,
    the_network_changes,
    vifs_are_suspended,
)


@pytest.mark.parametrize("pipeline", list(Pipeline))
@pytest.mark.parametrize("seed", range(8))
def test_part_by_part_is_as_the_whole(seed: int, pipeline: Pipeline) -> None:
    dice = Random(seed)
    host = Host(CAMPUS.network, pipeline)
    for _ in range(40):
        event = dice.choice(EVENTS)
        event(host, dice)
        if dice.random() < 0.6:  # else the next comes before this one is dealt with
            host.wire.run()
    host.wire.run()
    site = host.switch.site()
    whole = local_flows(site)
    assert host.switch.wanted.local.wanted == whole, event
    held = {flow for flow in host.switch.installed.flows.values() if flow.key in whole}
    assert held == set(whole.values())


def test_a_change_concerns_few() -> None:
    host = Host(CAMPUS.network, Pipeline.PROACTIVE)
    compiled: list[int] = []
    compile_ = host.switch.wanted.local.compile

    def counted(site: object) -> object:
        fresh = compile_(site)  # type: ignore[arg-type]
        compiled.append(len(fresh))
        return fresh

    host.switch.wanted.local.compile = counted  # type: ignore[assignment, method-assign]
    vif = CAMPUS.network.routers["r1"].interfaces[0].vif
    host.switch.port_changed(vif, host.ports[vif], False, False)
    host.wire.run()
    link = len(flows_of(host.switch.site(), of_link("left")))
    assert compiled == [link]
    assert link < len(host.switch.wanted.local.wanted) / 4


def test_every_flow_has_one_owner() -> None:
    for seed in range(20):
        host = Host(by_chance(Random(seed)), list(Pipeline)[seed % 2])
        site = host.switch.site()
        keys = [key for owner in owners(site.network) for key in flows_of(site, owner)]
        assert len(keys) == len(set(keys))
