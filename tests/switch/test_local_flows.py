"""Only the flows of those whom a change concerns are compiled, and all are as if compiled anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from tests import random_sites
from tests.control.test_change import CAMPUS, HOST, Host, by_chance
from tests.written_switch import RuleTable, WrittenSwitch, bound
from xenflow.model.network import (
    Access,
    Controller,
    End,
    Interface,
    Link,
    Network,
    Pipeline,
    Router,
)
from xenflow.model.placement import Mode, Placement, at_home
from xenflow.model.succession import changed_with
from xenflow.openflow.flow import Flows, text
from xenflow.routes import messages as m
from xenflow.routes.messages import Op, Section
from xenflow.routes.sender import snapshot_messages
from xenflow.switch import local_flows as local_flows_module
from xenflow.switch.jobs import ROOM, Job
from xenflow.switch.local_flows import LocalFlows
from xenflow.switch.rules import Rules
from xenflow.switch.switch import Switch
from xenflow.tables import cookies, layout
from xenflow.tables.next_hops import next_hop_flows
from xenflow.tables.pipeline import (
    flows_of,
    local_flows,
    of_link,
    of_router,
    of_rule,
    owner_of,
    owners,
    owners_of,
)
from xenflow.tables.site import Spans

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
    state.apply(
        [Section(m.SectionKind.POLICY, Op.SET, [m.Policy(slow, "a filter" if slow else "")])]
    )
    for frames in snapshot_messages(state, router):
        assert host.table.heard(router, b"peer", frames, local=True).error is None


def the_network_changes(host: Host, dice: Random) -> None:
    here = host.table.network.datapaths[HOST]
    new = by_chance(dice)
    host.table.change(replace(new, datapaths={**new.datapaths, HOST: here}))


def vifs_are_suspended(host: Host, dice: Random) -> None:
    vifs = [i.vif for r in host.table.network.routers.values() for i in r.interfaces]
    host.switch.vifs_are_suspended(frozenset(v for v in vifs if dice.random() < 0.3))


def compile_all(switch: Switch) -> None:
    local, site = switch.wanted.local, switch.site()
    assert set(local.compile_in_pieces(site)) <= {ROOM}
    local.compile(site)


def all_of(local: LocalFlows) -> Flows:
    return local.wanted | local.of_routers


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
    assert all_of(host.switch.wanted.local) == whole, event
    held = {flow for flow in host.switch.installed.flows.values() if flow.key in whole}
    assert held == set(whole.values())


@pytest.mark.parametrize("seed", range(24))
def test_what_changes_while_it_is_compiled_is_compiled_anew(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of links and of all; those of routers are then of the moment before."""
    monkeypatch.setattr(local_flows_module, "PIECE", 1)
    dice = Random(seed)
    host = Host(CAMPUS.network, Pipeline.PROACTIVE)
    wanted = host.switch.wanted

    def somebody() -> Job:
        yield 0.5

    for _ in range(6):
        host.switch.jobs.submit(somebody())
        wanted.read_anew()
        job = wanted.compile_in_pieces()
        for _ in range(3):
            for _ in range(dice.randint(1, 400)):
                next(job, None)
            dice.choice(EVENTS)(host, dice)
        for _ in job:
            pass
        site = host.switch.site()
        wanted.local.compile(site)
        whole = local_flows(site).items()
        routers = {
            key for key, flow in whole if owner_of(site.network, flow.cookie).kind == "router"
        }
        assert wanted.local.wanted == {key: flow for key, flow in whole if key not in routers}
        host.wire.run()
        assert all_of(wanted.local) == local_flows(host.switch.site())


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


def test_every_flow_has_one_owner_and_says_so() -> None:
    kinds = Counter[str]()
    for seed in range(100):
        dice = Random(seed)
        network = random_sites.network(dice)
        for name in network.datapaths:
            site = random_sites.site(dice, network, name)
            keys = set()
            for owner in owners(network):
                for key, flow in flows_of(site, owner).items():
                    assert key not in keys
                    assert owner_of(network, flow.cookie) == owner, text(flow)
                    keys.add(key)
                    kinds[owner.kind] += 1
    assert {*kinds} == {"all", "link", "router"} and min(kinds.values()) > 300


def test_who_is_placed_elsewhere_changes_the_flows_of_its_links_alone() -> None:
    """What floods on a link, too, belongs to the link."""
    floods = 0
    for seed in range(100):
        dice = Random(seed)
        network = random_sites.network(dice)
        site = random_sites.site(dice, network, dice.choice(sorted(network.datapaths)))
        router = dice.choice(sorted(network.routers))
        others = dict(random_sites.site(dice, network, site.name).placements)
        placements = {**site.placements, router: others.get(router, at_home(router, "h0"))}
        now = {*local_flows(replace(site, placements=placements)).values()}
        changed = now ^ {*local_flows(site).values()}
        whose = {owner_of(network, flow.cookie) for flow in changed}
        assert whose <= {*owners_of(network, router)}
        floods += sum(flow.priority == layout.Links.FLOOD for flow in changed)
    assert floods


def test_what_is_no_link_s_says_its_owner() -> None:
    """Rules, next hops, and what the controller answers with."""
    dice = Random(1)
    network = random_sites.network(dice)
    rules = Rules()
    rules.restore([{"id": str(n), "priority": 0, **r} for n, r in enumerate(random_sites.RULES)])
    flows = rules.flows(random_sites.site(dice, network, "h0"))[0].values()
    assert {owner_of(network, flow.cookie, rules) for flow in flows} == {*map(of_rule, "012")}
    for router in network.routers.values():
        views = random_sites.next_hops(dice, router)
        flows = [flow for view in views for flow in next_hop_flows(network, router, view)]
        made = [flow.cookie for flow in flows]
        made += [cookies.exact(router.id, hop) for hop in (0, 1 << 20, 0xFFF00000, 0xFFFFFFFF)]
        assert flows and {owner_of(network, c) for c in made} == {of_router(router.name)}


def test_whose_flows_may_be_on_a_switch_is_known_before_they_are_made() -> None:
    none = Counter[str]()
    for seed in range(300):
        dice = Random(seed)
        network = random_sites.network(dice)
        for name in network.datapaths:
            site, spans = random_sites.site(dice, network, name), Spans()
            for link in network.links.values():
                may = site.may_have(link, spans)
                none["link"] += not may
                assert may or not flows_of(site, of_link(link.name))
            for router in network.routers:
                none["router"] += not site.forwards(router)
                assert site.forwards(router) or not flows_of(site, of_router(router))
    assert min(none["link"], none["router"]) > 100


@pytest.mark.parametrize("seed", range(40))
def test_all_switches_of_a_network_that_changes_are_as_made_at_once(seed: int) -> None:
    """Also those that a changed link does not lie on, and those that it comes to."""
    dice = Random(seed)
    controllers = {"c": Controller("c", ("127.0.0.1", 6633), "tcp://127.0.0.1:6640")}
    network = replace(random_sites.network(dice), controllers=controllers)
    table = RuleTable(network, "c", None, WrittenSwitch().clock, bound)
    for name, switch in table.switches.items():
        site = random_sites.site(dice, network, name)
        switch.ports.are([(port, number, True) for port, number in site.ports.items()])
        switch.placements.update(site.placements)
        compile_all(switch)
    for step in range(6):
        network = changed_by_chance(table.network, dice, step)
        table.change(network)
        if dice.random() < 0.7:  # else the next comes before this one is dealt with
            for switch in table.switches.values():
                compile_all(switch)
    for switch in table.switches.values():
        compile_all(switch)
        assert all_of(switch.wanted.local) == local_flows(switch.site())


def changed_by_chance(network: Network, dice: Random, step: int) -> Network:
    """A link gets or loses an access port, a router an interface; one comes, or goes."""
    links: dict[str, Link | None] = {}
    routers: dict[str, Router | None] = {}
    name = dice.choice(sorted(network.links))
    link, at = network.links[name], dice.choice(sorted(network.datapaths))
    if link.tree.reaches(at):
        more = Access(End(at, f"{at}-new{step}"), (0x0C0000000000 + step,))
        links[name] = replace(link, access=link.access[1:] if link.access else (more,))
    reached = [n for n, k in network.links.items() if k.tree.up.keys() >= network.hosts.keys()]
    mac = 0x0D0000000000 + step
    on = [Interface("new", dice.choice(reached), mac, f"new.{step}")] if reached else []
    for router in network.routers.values():
        if dice.random() < 0.3:
            fewer = router.interfaces[1:]
            used = {i.link for i in fewer}
            more_of = tuple(i for i in on if i.link not in used)
            routers[router.name] = dice.choice((None, replace(router, interfaces=fewer + more_of)))
            on = []
    if dice.random() < 0.5:
        home = dice.choice(sorted(network.hosts))
        new = f"new{step}"
        routers[new] = Router(new, 100 + step, home, f"{new}.ctl", tuple(on))
    return changed_with(network, links=links, routers=routers)
